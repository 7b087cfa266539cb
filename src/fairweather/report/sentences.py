"""The sentences of the report, made from numbers; none says more than the intervals allow.

No sentence has more than three numbers, so intervals are left to charts and tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.seeds import find_outlying_seed
from fairweather.report.performance import (
    ClassShare,
    ModelOutcome,
    PairedChange,
    Performance,
    WorstLevel,
    find_accuracy_direction,
    find_direction,
    find_lowest,
    find_sign,
    widen_interval,
)
from fairweather.types.measurement import Score

PERCENT = "\N{NO-BREAK SPACE}%"
NEARLY_ZERO = 0.0005  # what reads as 0.0 %
# Nothing is said to be left only where the interval ends below this.
NEARLY_NOTHING = 0.01
# Shifts that may be as low as the lowest are named up to so many, and counted beyond.
MOST_NAMED = 2
# Up to so many shifts the mean of each is told, beyond that their common one.
FEW_SHIFTS = 2
# Of fewer answers, the share of wrong ones says nothing that a sentence should repeat.
FEW_ANSWERS = 30
RISK = 0.05  # that the threshold keeps on clean images
CHANCE_AUC = 0.5  # the AUC of a model that knows nothing
MOST_COMMON_ANSWER = "always giving the most common answer"
# On what models are compared; None where they cannot be.
RankedBy = Literal["shifts", "clean"] | None
_BEST_PHRASES: Mapping[str, str] = {
    "shifts": "is best over the shifts",
    "clean": "is best on clean images",
}

# ---- words and numbers


def join_words(words: Sequence[str], joint: str = "and") -> str:
    """Write a list inside a sentence.

    >>> join_words(["a", "b", "c"]), join_words(["a", "b"], "or")
    ('a, b and c', 'a or b')
    """
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def format_percent(score: Score) -> str:
    """Write a share of the images.

    >>> format_percent(Score(0.8234, 0.801, 0.845, 200)).replace(PERCENT, " %")
    '82.3 %'
    """
    return f"{100 * score.value:.1f}{PERCENT}"


def format_points(score: Score) -> str:
    """Write a difference of two shares in percentage points, with its sign and interval.

    >>> format_points(Score(-0.004, -0.011, 0.003, 200))
    '−0.4 points [−1.1, 0.3]'
    """
    value, low, high = (_format_number(100 * number, 1) for number in score[:3])
    return f"{value} points [{'too few errors' if score.too_few else f'{low}, {high}'}]"


def describe_gap(gap: Score) -> str:
    """Say how far mean confidence is from accuracy.

    >>> describe_gap(Score(-0.052, -0.06, -0.043, 200))
    'underconfident by 5.2 points'
    """
    return f"{'under' if gap.value < 0 else 'over'}confident by {_format_gap_size(gap)}"


def _format_gap_size(gap: Score) -> str:
    return f"{_format_number(100 * abs(gap.value), 1)} points"


def warn_of_far_seed(
    model: str, seeds: Sequence[int | str], right: FloatArray, clusters: Clusters | None
) -> str:
    """Warn of a seed that is far from the others, which intervals over seeds assume not to be.

    Args:
        model: how it is called.
        seeds: the seeds.
        right: how often each image is right, `[n, S]`.
        clusters: which images belong together.

    >>> right = (np.arange(400)[:, None] < np.array([380, 381, 378, 383, 260])).astype(float)
    >>> said = warn_of_far_seed("A", [0, 1, 2, 3, 4], right, None)
    >>> said.partition(". ")[0].replace("\N{NO-BREAK SPACE}", " ")
    'A: seed 4 is right on 65.0 % of the images, the other seeds on 94.5 to 95.8 %'
    """
    place = find_outlying_seed(right, clusters)
    if place is None:
        return ""
    shares = 100 * right.mean(axis=0)
    others = np.delete(shares, place)
    return (
        f"{model}: seed {seeds[place]} is right on {shares[place]:.1f} % of the images, the other "
        f"seeds on {others.min():.1f} to {others.max():.1f} %. Of recipes whose seeds are normal, "
        "at most 1 % have a seed so far out. Intervals and tests over seeds assume normal seeds, "
        "so they are not reliable here: look at this training."
    )


def format_error(score: Score) -> str:
    """Write a calibration error.

    >>> format_error(Score(0.2345, 0.2, 0.25, 200))
    '0.23'
    """
    return _format_number(score.value, 2)


def warn_of_chance(searched: int, what: str) -> str:
    """Say that a difference may be there only because so many sets of images were searched.

    >>> warn_of_chance(20, "accuracy")
    'With 20 sets of images tested, so large a difference in accuracy can be chance.'
    """
    return f"With {searched} sets of images tested, so large a difference in {what} can be chance."


def negate_score(score: Score) -> Score:
    """Turn the sign of a number, or exchange a share for that of the other images.

    >>> negate_score(Score(0.25, 0.125, 0.5, 200))
    Score(value=-0.25, low=-0.5, high=-0.125, n=200)
    """
    return Score(-score.value, -score.high, -score.low, score.n)


def _format_number(value: float, digits: int) -> str:
    # Adding 0 makes of "-0.0" the "0.0" that it is.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


# ---- the answer


def write_answer(leaders: Sequence[ModelOutcome], models: int, ranked: RankedBy = "shifts") -> str:
    """Say in one sentence who is best, how far accuracy falls, and if confidence falls with it.

    Args:
        leaders: the models that none is found better than, best first.
        models: how many there are in all.
        ranked: by the accuracy on what the models are compared; None where they are not compared.

    >>> clean, there = (Performance(Score(v, v - 0.01, v + 0.01, 200)) for v in (0.9, 0.5))
    >>> write_answer([ModelOutcome("Old", clean, there, -1, 0)], 2).replace(PERCENT, " %")
    '“Old” is best over the shifts, but falls from 90.0 % on clean images to 50.0 % at its worst.'
    """
    first = leaders[0]
    shifted = first.there is not None
    if len(leaders) > 1:
        return f"{_describe_tie(leaders, models, ranked)}: {_describe_leaders(leaders)}."
    if not shifted:
        best = " is best:" if models > 1 else " is"
        right = f"right in {format_percent(first.clean.accuracy)} of the clean images"
        return f"“{first.title}”{best} {right}{_describe_confidence(first)}; no shift was tested."
    best = _BEST_PHRASES[ranked] if models > 1 and ranked else ""
    return f"“{first.title}” {_describe_leader(first, best)}{_describe_confidence(first)}."


def _describe_leader(first: ModelOutcome, best: str) -> str:
    assert first.there is not None
    before, after = format_percent(first.clean.accuracy), format_percent(first.there.accuracy)
    if first.way < 0:
        falls = f"falls from {before} on clean images to {after} at its worst"
        return f"{best}, but {falls}" if best else falls
    keeps = f"is right in {before} of the clean images and in {after} at its worst"
    return f"{best}: it {keeps}" if best else keeps


def _describe_confidence(first: ModelOutcome) -> str:
    """Add whether confidence falls with it there; on clean images where there is nothing else."""
    gap = (first.there or first.clean).gap
    if gap is None:
        return ""
    if first.there is None:
        return f" and {describe_gap(gap)}" if first.side else ""
    unsure = "" if first.side else f", which {first.there.evidence} cannot confirm"
    return f", where it is {describe_gap(gap)}{unsure}"


def _describe_tie(leaders: Sequence[ModelOutcome], models: int, ranked: RankedBy) -> str:
    if ranked is None:
        return "The models were not compared, for want of predictions on the same images"
    if len(leaders) == models:
        evidence = _name_evidence(leaders)
        return f"{evidence[:1].upper()}{evidence[1:]} cannot tell the models apart"
    if len(leaders) <= MOST_NAMED:
        return f"{join_words([f'“{each.title}”' for each in leaders])} share the first place"
    return "Several models share the first place"


def _describe_leaders(leaders: Sequence[ModelOutcome]) -> str:
    """Say the same of several models at once."""
    found = [(each.there or each.clean).accuracy for each in leaders]
    least, most = (pick(found, key=lambda each: each.value) for pick in (min, max))
    span = f"{100 * least.value:.1f} to {format_percent(most)}"
    if any(each.there is None for each in leaders):
        return f"they are right in {span} of the clean images; no shift was tested"
    span = f"between {100 * least.value:.1f} and {format_percent(most)} accuracy at the worst level"
    if all(each.way < 0 for each in leaders):
        return f"all fall to {span}{_describe_sides(leaders)}"
    if any(each.way < 0 for each in leaders):
        return f"some fall, and all have {span}{_describe_sides(leaders)}"
    return f"all have {span}{_describe_sides(leaders)}"


def _describe_sides(leaders: Sequence[ModelOutcome]) -> str:
    gaps = [each.there.gap for each in leaders if each.there is not None and each.there.gap]
    if len(gaps) < len(leaders):
        return ""
    sides = {each.side for each in leaders}
    if {1, -1} <= sides:
        return ", and some are over-, some underconfident there"
    every = "all" if len(sides) == 1 else "some"
    for side, word in ((1, "overconfident"), (-1, "underconfident")):
        if side in sides:
            return f", and {every} are {word} there"
    largest = max(gaps, key=lambda gap: abs(gap.value))
    return f", where one is {describe_gap(largest)}, which {_name_evidence(leaders)} cannot confirm"


def _name_evidence(leaders: Sequence[ModelOutcome]) -> str:
    """What the intervals of several models rest on."""
    found = {(each.there or each.clean).evidence for each in leaders}
    return found.pop() if len(found) == 1 else "these data"


# ---- accuracy


def describe_unshifted(clean: Performance, chance: float | None) -> str:
    """Say what a model does where no shift was tested.

    Args:
        clean: on clean images.
        chance: the share of the most frequent class, None where it is not known.
    """
    right = f"It is right in {format_percent(clean.accuracy)} of the clean images"
    return f"{right}{_compare_with_chance(clean, chance)}; no shift was tested."


def describe_same_answers(
    base: str, low: WorstLevel | None, differs: str = "only its confidence differs"
) -> str:
    """Say that a variant gives the answers of its base model, and where their accuracy is lowest.

    Args:
        base: the title of the base model.
        low: the lowest accuracy of both; None without shifts.
        differs: what is not the same.
    """
    also = f", also {_name_place(low)}" if low else ""
    return f"It gives the same answers as “{base}”{also}; {differs}."


def describe_accuracy(
    clean: Performance,
    lows: Sequence[WorstLevel],
    searched: int,
    change: PairedChange,
    chance: float | None,
) -> str:
    """Say how far the accuracy falls where it is lowest.

    Args:
        clean: on clean images.
        lows: the lowest accuracy under each shift (or each attack), at least one.
        searched: how many sets of images these are the lowest of.
        change: from clean to the lowest of all.
        chance: the share of the most frequent class, None where it is not known.
    """
    low = _require_lowest(lows)
    before, after = format_percent(clean.accuracy), format_percent(low.performance.accuracy)
    where = _name_place(low)
    at_worst = " at worst," if searched > 1 else ""
    way = find_accuracy_direction(clean, low.performance, change, searched)
    if way > 0:
        least = " at least" if searched > 1 else ""
        return f"No accuracy is lost: {before} on clean images,{least} {after} {where}."
    if way < 0:
        already = chance is not None and clean.accuracy.low <= chance
        left = _describe_rest(low.performance, None if already else chance)
        return f"Accuracy falls from {before} on clean images to {after}{at_worst} {where}{left}."
    unsure = f"{clean.evidence} cannot confirm a difference"
    return f"Accuracy is {before} on clean images and {after}{at_worst} {where}; {unsure}."


def detail_accuracy(
    clean: Performance,
    lows: Sequence[WorstLevel],
    searched: int,
    change: PairedChange,
    chance: float | None,
) -> Iterator[str]:
    """Say what a reader of `accuracy`, which has the same arguments, may want to know besides."""
    low = _require_lowest(lows)
    after = low.performance.accuracy
    if find_accuracy_direction(clean, low.performance, change, searched) == 0:
        if change.accuracy is None:
            yield "The intervals of the two accuracies overlap."
        else:
            yield f"The difference is {format_points(change.accuracy)}."
        if find_direction(clean.accuracy, after, change.accuracy):
            yield warn_of_chance(searched, "accuracy")
    others = [o for o in lows if o is not low and o.performance.accuracy.low <= after.high]
    if others:
        yield f"Its lowest accuracy {_name_others(others)} may be as low: the intervals overlap."
    if chance is not None and clean.accuracy.low <= chance:
        share = f" ({100 * chance:.1f}{PERCENT})"
        yield f"Already on clean images it is {_describe_no_better(clean, chance, share)}."
        return
    if chance is not None and after.low <= chance:
        auc = low.performance.auc
        area = (
            "" if auc is None else f", and the model's AUC is {_format_number(auc.value, 2)} there"
        )
        yield f"The most common answer is right in {100 * chance:.1f}{PERCENT} of the images{area}."


def describe_other_shifts(lows: Sequence[WorstLevel], mean: Score | None) -> Iterator[str]:
    """Say what a model keeps under the other shifts: each one's mean, or the best and all's mean.

    Args:
        lows: the lowest accuracy under each shift.
        mean: over the levels of each shift and then over shifts.
    """
    averaged = [(low, low.mean) for low in lows if low.mean is not None]
    if len(lows) <= FEW_SHIFTS:
        if averaged and any(low.levels > 1 for low in lows):
            told = [
                f"{format_percent(score)} under {low.sweep.in_sentence}" for low, score in averaged
            ]
            yield f"Its mean accuracy over the levels is {join_words(told)}."
        return
    yield from _describe_best_shift(lows)
    if mean is not None:
        yield f"Its mean accuracy over all {len(lows)} shifts is {format_percent(mean)}."


def describe_attacks(attacks: Sequence[WorstLevel]) -> Iterator[str]:
    """Say what the strongest attack leaves; nothing where there is none."""
    low = find_lowest(attacks)
    if low is not None:
        which = f"The strongest of {len(attacks)} attacks" if len(attacks) > 1 else "An attack"
        left = low.performance.accuracy
        nothing = ": nothing is left" if _is_nothing(left) else ""
        at = low.sweep.at(low.level)
        yield f"{which} ({at}) leaves an accuracy of {format_percent(left)}{nothing}."


def _require_lowest(lows: Sequence[WorstLevel]) -> WorstLevel:
    found = find_lowest(lows)
    assert found is not None
    return found


def _name_place(low: WorstLevel) -> str:
    return f"{'under attack by' if low.sweep.is_attack else 'under'} {low.sweep.at(low.level)}"


def _describe_best_shift(lows: Sequence[WorstLevel]) -> Iterator[str]:
    """Name the shift that costs least, where it is found to differ from the one that costs most."""
    best = max(lows, key=lambda low: low.performance.accuracy.value)
    bottom = best.performance.accuracy.low
    if bottom <= _require_lowest(lows).performance.accuracy.high:
        return
    kept = format_percent(best.performance.accuracy)
    shift = best.sweep.in_sentence
    yield f"It keeps most accuracy under {shift}: {kept} at the worst level of that shift."
    others = [low for low in lows if low is not best and low.performance.accuracy.high >= bottom]
    if others:
        yield f"It may keep as much {_name_others(others)}: the intervals overlap."


def _name_others(others: Sequence[WorstLevel]) -> str:
    if len(others) > MOST_NAMED:
        return f"under {len(others)} other shifts"
    return f"under {join_words([low.sweep.in_sentence for low in others])}"


def _is_nothing(accuracy: Score) -> bool:
    return accuracy.value < NEARLY_ZERO and accuracy.high < NEARLY_NOTHING


def _describe_rest(there: Performance, chance: float | None) -> str:
    """Add what a low accuracy means."""
    return (
        ": nothing is left" if _is_nothing(there.accuracy) else _compare_with_chance(there, chance)
    )


def _compare_with_chance(found: Performance, chance: float | None) -> str:
    """Add that an accuracy is no better than an answer that is always the same, where that is."""
    if chance is None or found.accuracy.low > chance:
        return ""
    return f", {_describe_no_better(found, chance)}"


def _describe_no_better(found: Performance, chance: float, share: str = "") -> str:
    """Compare with the most common answer; an AUC may say that the classes are told apart."""
    if found.accuracy.value > chance:
        return f"above {MOST_COMMON_ANSWER}{share} by less than {found.evidence} can confirm"
    tells = found.auc is not None and found.auc.low > CHANCE_AUC
    apart = ", though it tells the classes apart" if tells else ""
    return f"no better than {MOST_COMMON_ANSWER}{share}{apart}"


# ---- confidence: does it follow the accuracy, and what would be deferred to a person


def describe_confidence(
    clean: Performance, there: Performance | None, change: PairedChange, searched: int
) -> Iterator[str]:
    """Say whether the confidence is right on average, on clean images and at the lowest accuracy.

    What is said of the lowest of several sets of images holds by intervals that are widened for
    their number.

    Args:
        clean: on clean images.
        there: where accuracy is lowest; None without shifts.
        change: from clean to there.
        searched: of how many sets of images it is the lowest.
    """
    if clean.gap is None or clean.rms is None:
        return
    if there is None or there.gap is None or there.rms is None:
        yield f"{_describe_clean_gap(clean.gap, clean.evidence)}."
        return
    wide = widen_interval(there.gap, searched)
    way = find_direction(clean.gap, wide, change.gap and widen_interval(change.gap, searched))
    if not way:
        yield f"{_describe_unchanged_gap(clean.gap, there.gap, clean.evidence)}."
    elif not (side := find_sign(wide)):
        yield (
            f"It is {describe_gap(there.gap)} there, which {clean.evidence} cannot confirm; on "
            f"clean images it is {describe_gap(clean.gap)}."
        )
    else:
        falls = find_accuracy_direction(clean, there, change, searched) < 0
        sure = there.accuracy.value + there.gap.value
        lag = sure < clean.accuracy.value + clean.gap.value
        divergence = _describe_divergence(side, falls=falls, lag=lag)
        yield f"{_describe_changed_gap(clean.gap, there.gap, way, side, divergence)}."


def describe_class_share(off: ClassShare, *, shifted: bool) -> str:
    """Say of a class that its mean probability is not its share of the images.

    >>> describe_class_share(ClassShare("malignant", 0.485, 0.208), shifted=False).replace(
    ...     PERCENT, " %"
    ... )
    '“malignant” has a mean probability of 48.5 %, and 20.8 % of the clean images are of it.'
    """
    images = "images there" if shifted else "clean images"
    mean, share = (f"{100 * each:.1f}{PERCENT}" for each in (off.probability, off.share))
    return f"“{off.name}” has a mean probability of {mean}, and {share} of the {images} are of it."


def detail_confidence(
    clean: Performance, there: Performance | None, change: PairedChange, searched: int
) -> Iterator[str]:
    """Say what a reader of `confidence`, which has the same arguments, may want to know besides."""
    if clean.gap is None or clean.rms is None:
        return
    if there is None or there.gap is None or there.rms is None:
        yield f"Its RMS calibration error is {format_error(clean.rms)}."
        return
    wide = widen_interval(there.gap, searched)
    way = find_direction(clean.gap, wide, change.gap and widen_interval(change.gap, searched))
    hidden = not find_sign(wide) and find_sign(there.gap)
    if not way:
        hidden = find_direction(clean.gap, there.gap, change.gap)
    if hidden:
        yield f"With {searched} sets of images tested, so large a gap can be chance."
    errors = find_direction(clean.rms, widen_interval(there.rms, searched), None)
    numbers = f"from {format_error(clean.rms)} on clean images to {format_error(there.rms)} there"
    if errors:
        yield f"Its RMS calibration error {'rises' if errors > 0 else 'falls'} {numbers}."
    else:
        yield (
            f"Its RMS calibration error is {format_error(clean.rms)} on clean images and "
            f"{format_error(there.rms)} there; {clean.evidence} cannot confirm a difference."
        )


def describe_deferral(
    clean: Performance, there: Performance | None, *, on_clean: bool = True
) -> Iterator[str]:
    """Say what a model defers to a person if it answers only where it is confident enough.

    The threshold is the one that keeps 5 % wrong answers on validation images: on clean ones, or,
    without `on_clean`, under shifts that are not tested.
    """
    if clean.coverage is None:
        return
    images = "validation images" if on_clean else "validation images under untested shifts"
    rule = f"With the threshold that keeps errors to 5{PERCENT} on {images}, it defers"
    if there is None or there.coverage is None or there.risk is None:
        yield f"{rule} {_describe_deferred(clean, 'of the clean images')}."
    else:
        yield f"{rule} {_describe_deferred(there, 'of the images there to a person')}."


def detail_deferral(clean: Performance, there: Performance | None) -> Iterator[str]:
    """Say what the same threshold defers of the clean images, where `deferral` does not."""
    if clean.coverage is None or there is None or there.coverage is None or there.risk is None:
        return
    yield f"On clean images, that threshold defers {_describe_deferred(clean, 'to a person')}."


def _describe_deferred(found: Performance, which: str) -> str:
    """Say what is deferred, and how wrong the answers are that the model still gives."""
    assert found.coverage is not None
    if found.coverage.value == 0:
        return "every image"
    deferred = f"{format_percent(_complement(found.coverage))} {which}"
    if found.risk is None:
        return deferred
    if _has_few_answers(found.coverage, found.risk):
        return f"{deferred}, which leaves too few answers to judge"
    still = " still" if found.risk.low > RISK else ""
    return f"{deferred}, and {format_percent(found.risk)} of its answers are{still} wrong"


def _has_few_answers(coverage: Score, risk: Score) -> bool:
    """Say whether the answers it would give itself are too few to judge, or of no seed at times."""
    # Of several seeds, the mean risk is no number where one seed answers nothing.
    return math.isnan(risk.value) or coverage.value * coverage.n < FEW_ANSWERS


def _describe_clean_gap(gap: Score, evidence: str) -> str:
    unsure = "" if find_sign(gap) or gap.too_few else f", which {evidence} cannot confirm"
    return f"On average it is {describe_gap(gap)}{unsure}"


def _describe_unchanged_gap(before: Score, after: Score, evidence: str) -> str:
    """Say what the gap is there and on clean images, where the two are not found to differ."""
    both = f"{describe_gap(after)} there and {_describe_second_gap(before, after)} on clean images"
    if before.too_few or after.too_few:
        return f"On average it is {both}"
    return f"It is {both}; {evidence} cannot confirm a change"


def _describe_divergence(side: int, *, falls: bool, lag: bool) -> str:
    """Say how confidence goes where the gap grows.

    Args:
        side: 1 where it becomes overconfident, −1 where underconfident.
        falls: whether accuracy falls.
        lag: whether mean confidence is lower there than on clean images.
    """
    if not falls:
        return "changes otherwise than its accuracy"
    if side < 0:
        return "falls further than its accuracy"
    return "falls less than its accuracy" if lag else "does not fall with it"


def _describe_changed_gap(before: Score, after: Score, way: int, side: int, apart: str) -> str:
    """Say how confidence and accuracy go together where the gap differs from that on clean images.

    Args:
        before, after: the gap on clean images, and where accuracy is lowest.
        way: 1 for a larger gap, −1 for a smaller one.
        side: 1 where it is overconfident there, −1 where underconfident.
        apart: what confidence does, from `_apart`.
    """
    if way != side:
        return (
            f"It is {describe_gap(after)} there, which is less than on clean images "
            f"({_format_gap_size(before)})"
        )
    if find_sign(before) == -side and find_direction(negate_score(before), after, None) != side:
        return (
            f"It turns from {describe_gap(before)} on clean images to {describe_gap(after)} there"
        )
    there, clean = describe_gap(after), _describe_second_gap(before, after)
    return f"Its confidence {apart}: it is {there} there, and {clean} on clean images"


def _describe_second_gap(gap: Score, told: Score) -> str:
    """Write a second gap after a first one, with no word twice."""
    same = (gap.value < 0) == (told.value < 0)
    return f"by {_format_gap_size(gap)}" if same else describe_gap(gap)


def _complement(score: Score) -> Score:
    """The share of the other images."""
    return Score(1 - score.value, 1 - score.high, 1 - score.low, score.n)
