"""The sentences of the report, made from numbers; none says more than the intervals allow.

No sentence has more than three numbers, so intervals are left to charts and tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.seeds import find_outlying_seed
from fairweather.report.performance import (
    ClassShare,
    ModelOutcome,
    Performance,
    WorstLevel,
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

# ---- words and numbers


def join_words(words: Sequence[str]) -> str:
    """Write a list inside a sentence.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


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
    model: str, seeds: Sequence[int | str], right: FloatArray, grouping: Grouping | None
) -> str:
    """Warn of a seed that is far from the others, which intervals over seeds assume not to be.

    Args:
        model: how it is called.
        seeds: the seeds.
        right: how often each image is right, `[n, S]`.
        grouping: which images belong together.

    >>> right = (np.arange(400)[:, None] < np.array([380, 381, 378, 383, 260])).astype(float)
    >>> said = warn_of_far_seed("A", [0, 1, 2, 3, 4], right, None)
    >>> said.partition(". ")[0].replace("\N{NO-BREAK SPACE}", " ")
    'A: seed 4 is right on 65.0 % of the images, the other seeds on 94.5 to 95.8 %'
    """
    place = find_outlying_seed(right, grouping)
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


def _format_number(value: float, digits: int) -> str:
    # Adding 0 makes of "-0.0" the "0.0" that it is.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


# ---- the answer


def write_answer(leaders: Sequence[ModelOutcome], models: int, ranked: RankedBy) -> str:
    """Say in one sentence who is best, how far accuracy falls, and if confidence falls with it.

    Args:
        leaders: the models that none is found better than, best first.
        models: how many there are in all.
        ranked: by the accuracy on what the models are compared; None where they are not compared.
    """
    if len(leaders) > 1:
        return f"{_describe_tie(leaders, models, ranked)}: {_describe_leaders(leaders)}."
    (first,) = leaders
    before, end = format_percent(first.clean.accuracy), _describe_leader_gap(first)
    if first.there is None:
        best = " is best:" if models > 1 else " is"
        right = f"right in {before} of the clean images"
        return f"“{first.title}”{best} {right}{end}; no shift was tested."
    after = format_percent(first.there.accuracy)
    joint, said = ", but", f"falls from {before} on clean images to {after} at its worst"
    if first.way >= 0:
        joint = ": it"
        said = f"is right in {before} of the clean images and in {after} at its worst"
    if models > 1 and ranked:
        where = "over the shifts" if ranked == "shifts" else "on clean images"
        said = f"is best {where}{joint} {said}"
    return f"“{first.title}” {said}{end}."


def _describe_leader_gap(first: ModelOutcome) -> str:
    """Add whether confidence falls with it there; on clean images where there is nothing else."""
    gap = first.worst_performance.gap
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
        return f"{join_words([f'“{model.title}”' for model in leaders])} share the first place"
    return "Several models share the first place"


def _describe_leaders(leaders: Sequence[ModelOutcome]) -> str:
    """Say the same of several models at once."""
    shares = [100 * model.worst_performance.accuracy.value for model in leaders]
    least, most = f"{min(shares):.1f}", f"{max(shares):.1f}{PERCENT}"
    if any(model.there is None for model in leaders):
        return f"they are right in {least} to {most} of the clean images; no shift was tested"
    falls = [model.way < 0 for model in leaders]
    begin = "all fall to" if all(falls) else "some fall, and all have" if any(falls) else "all have"
    span = f"between {least} and {most} accuracy at the worst level"
    return f"{begin} {span}{_describe_sides(leaders)}"


def _describe_sides(leaders: Sequence[ModelOutcome]) -> str:
    gaps = [gap for model in leaders if (gap := model.worst_performance.gap)]
    if len(gaps) < len(leaders):
        return ""
    sides = {model.side for model in leaders}
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
    evidence = {model.worst_performance.evidence for model in leaders}
    return evidence.pop() if len(evidence) == 1 else "these data"


# ---- accuracy


def describe_same_answers(base: str, low: WorstLevel | None, differs: str) -> str:
    """Say that a variant gives the answers of its base model, and where their accuracy is lowest.

    Args:
        base: the title of the base model.
        low: the lowest accuracy of both; None without shifts.
        differs: what is not the same.
    """
    also = f", also {_name_place(low)}" if low else ""
    return f"It gives the same answers as “{base}”{also}; {differs}."


def describe_accuracy(model: ModelOutcome) -> str:
    """Say how far the accuracy falls where it is lowest, or what it is without shifts."""
    before, low = format_percent(model.clean.accuracy), model.worst.focus
    if low is None:
        compared = _compare_with_chance(model.clean, model.chance)
        return f"It is right in {before} of the clean images{compared}; no shift was tested."
    after, where = format_percent(low.performance.accuracy), _name_place(low)
    several = model.worst.searched > 1
    at_worst = " at worst," if several else ""
    if model.way > 0:
        least = " at least" if several else ""
        return f"No accuracy is lost: {before} on clean images,{least} {after} {where}."
    if model.way < 0:
        chance = None if model.starts_at_chance else model.chance
        left = _note_nothing(low.performance) or _compare_with_chance(low.performance, chance)
        return f"Accuracy falls from {before} on clean images to {after}{at_worst} {where}{left}."
    unsure = f"{model.clean.evidence} cannot confirm a difference"
    return f"Accuracy is {before} on clean images and {after}{at_worst} {where}; {unsure}."


def detail_accuracy(model: ModelOutcome, mean: Score | None) -> Iterator[str]:
    """Say what a reader of `describe_accuracy` may want to know besides.

    Args:
        model: what becomes of it.
        mean: its accuracy over the levels of each shift and then over shifts.
    """
    shifts, attacks = model.worst
    if low := model.worst.focus:
        yield from _detail_lowest(model, low)
    if shifts:
        yield from _detail_shifts(shifts, mean)
        if strongest := find_lowest(attacks):
            several = len(attacks) > 1
            which = f"The strongest of {len(attacks)} attacks" if several else "An attack"
            at, nothing = strongest.sweep.at(strongest.level), _note_nothing(strongest.performance)
            left = format_percent(strongest.performance.accuracy)
            yield f"{which} ({at}) leaves an accuracy of {left}{nothing}."


def _detail_lowest(model: ModelOutcome, low: WorstLevel) -> Iterator[str]:
    change, chance, after = model.change.accuracy, model.chance, low.performance.accuracy
    if not model.way:
        if change is None:
            yield "The intervals of the two accuracies overlap."
        else:
            yield f"The difference is {format_points(change)}."
        if find_direction(model.clean.accuracy, after, change):
            yield _warn_of_chance(model, "difference in accuracy")
    others = [
        other
        for other in model.worst.main
        if other is not low and other.performance.accuracy.low <= after.high
    ]
    if others:
        yield f"Its lowest accuracy {_name_others(others)} may be as low: the intervals overlap."
    if chance is None:
        return
    share = f"{100 * chance:.1f}{PERCENT}"
    if model.starts_at_chance:
        compared = _describe_no_better(model.clean, chance, f" ({share})")
        yield f"Already on clean images it is {compared}."
    elif after.low <= chance:
        auc = low.performance.auc
        area = f", and the model's AUC is {_format_number(auc.value, 2)} there" if auc else ""
        yield f"The most common answer is right in {share} of the images{area}."


def _detail_shifts(lows: Sequence[WorstLevel], mean: Score | None) -> Iterator[str]:
    """Say what a model keeps under the shifts: each one's mean, or the best and all's mean."""
    if len(lows) <= FEW_SHIFTS:
        means = [
            f"{format_percent(low.mean)} under {low.sweep.in_sentence}" for low in lows if low.mean
        ]
        if means and any(low.levels > 1 for low in lows):
            yield f"Its mean accuracy over the levels is {join_words(means)}."
        return
    best = max(lows, key=lambda low: low.performance.accuracy.value)
    worst = min(lows, key=lambda low: low.performance.accuracy.value)
    bottom = best.performance.accuracy.low
    # Named where it is found to differ from the shift that costs most.
    if bottom > worst.performance.accuracy.high:
        kept, shift = format_percent(best.performance.accuracy), best.sweep.in_sentence
        yield f"It keeps most accuracy under {shift}: {kept} at the worst level of that shift."
        if others := [o for o in lows if o is not best and o.performance.accuracy.high >= bottom]:
            yield f"It may keep as much {_name_others(others)}: the intervals overlap."
    if mean is not None:
        yield f"Its mean accuracy over all {len(lows)} shifts is {format_percent(mean)}."


def _name_place(low: WorstLevel) -> str:
    return f"{'under attack by' if low.sweep.is_attack else 'under'} {low.sweep.at(low.level)}"


def _name_others(others: Sequence[WorstLevel]) -> str:
    if len(others) > MOST_NAMED:
        return f"under {len(others)} other shifts"
    return f"under {join_words([low.sweep.in_sentence for low in others])}"


def _note_nothing(there: Performance) -> str:
    accuracy = there.accuracy
    is_nothing = accuracy.value < NEARLY_ZERO and accuracy.high < NEARLY_NOTHING
    return ": nothing is left" if is_nothing else ""


def _compare_with_chance(there: Performance, chance: float | None) -> str:
    """Add that an accuracy is no better than an answer that is always the same, where that is."""
    if chance is None or there.accuracy.low > chance:
        return ""
    return f", {_describe_no_better(there, chance)}"


def _describe_no_better(there: Performance, chance: float, share: str = "") -> str:
    """Compare with the most common answer; an AUC may say that the classes are told apart."""
    if there.accuracy.value > chance:
        return f"above {MOST_COMMON_ANSWER}{share} by less than {there.evidence} can confirm"
    tells = there.auc is not None and there.auc.low > CHANCE_AUC
    apart = ", though it tells the classes apart" if tells else ""
    return f"no better than {MOST_COMMON_ANSWER}{share}{apart}"


def _warn_of_chance(model: ModelOutcome, what: str) -> str:
    return f"With {model.worst.searched} sets of images tested, so large a {what} can be chance."


# ---- confidence: does it follow the accuracy, and what would be deferred to a person


def describe_confidence(model: ModelOutcome) -> Iterator[str]:
    """Say whether the confidence is right on average, on clean images and at the lowest accuracy.

    What is said of the lowest of several sets of images holds by intervals that are widened for
    their number.
    """
    clean, there, evidence = model.clean.calibration, model.calibration, model.clean.evidence
    if clean is None:
        return
    gap = clean.gap
    if there is None:
        unsure = "" if find_sign(gap) or gap.too_few else f", which {evidence} cannot confirm"
        yield f"On average it is {describe_gap(gap)}{unsure}."
    elif not model.gap_way:
        both = f"{describe_gap(there.gap)} there and {_second_gap(gap, there.gap)} on clean images"
        if gap.too_few or there.gap.too_few:
            yield f"On average it is {both}."
        else:
            yield f"It is {both}; {evidence} cannot confirm a change."
    elif not model.side:
        yield (
            f"It is {describe_gap(there.gap)} there, which {evidence} cannot confirm; on "
            f"clean images it is {describe_gap(gap)}."
        )
    else:
        yield f"{_describe_change(model, gap, there.gap)}."


def _describe_change(model: ModelOutcome, before: Score, after: Score) -> str:
    """Say how confidence and accuracy go together where the gap differs from that on clean images.

    `before` and `after` are the gaps on clean images, and where accuracy is lowest.
    """
    said, side = describe_gap(after), model.side
    if model.gap_way != side:
        size = _format_gap_size(before)
        return f"It is {said} there, which is less than on clean images ({size})"
    opposite = Score(-before.value, -before.high, -before.low, before.n)
    if find_sign(before) == -side and find_direction(opposite, after, None) != side:
        return f"It turns from {describe_gap(before)} on clean images to {said} there"
    if model.way >= 0:
        apart = "changes otherwise than its accuracy"
    elif side < 0:
        apart = "falls further than its accuracy"
    else:
        sure, sure_there = (
            performance.accuracy.value + gap.value
            for performance, gap in ((model.clean, before), (model.worst_performance, after))
        )
        apart = "falls less than its accuracy" if sure_there < sure else "does not fall with it"
    clean = _second_gap(before, after)
    return f"Its confidence {apart}: it is {said} there, and {clean} on clean images"


def describe_class_share(off: ClassShare, *, shifted: bool) -> str:
    """Say of a class that its mean probability is not its share of the images.

    >>> off = ClassShare("malignant", 0.485, 0.208)
    >>> describe_class_share(off, shifted=False).replace(PERCENT, " %")
    '“malignant” has a mean probability of 48.5 %, and 20.8 % of the clean images are of it.'
    """
    images = "images there" if shifted else "clean images"
    mean, share = (f"{100 * number:.1f}{PERCENT}" for number in (off.probability, off.share))
    return f"“{off.name}” has a mean probability of {mean}, and {share} of the {images} are of it."


def detail_confidence(model: ModelOutcome) -> Iterator[str]:
    """Say what a reader of `describe_confidence` may want to know besides."""
    clean, there = model.clean.calibration, model.calibration
    if clean is None:
        return
    before = _format_number(clean.rms.value, 2)
    if there is None:
        yield f"Its RMS calibration error is {before}."
        return
    narrow = find_direction(clean.gap, there.gap, model.change.gap)
    if find_sign(there.gap) and not model.side if model.gap_way else narrow:
        yield _warn_of_chance(model, "gap")
    after = _format_number(there.rms.value, 2)
    way = find_direction(clean.rms, widen_interval(there.rms, model.worst.searched), None)
    if way:
        rises = "rises" if way > 0 else "falls"
        yield f"Its RMS calibration error {rises} from {before} on clean images to {after} there."
    else:
        yield (
            f"Its RMS calibration error is {before} on clean images and {after} there; "
            f"{model.clean.evidence} cannot confirm a difference."
        )


def describe_deferral(model: ModelOutcome, *, on_clean: bool) -> Iterator[str]:
    """Say what a model defers to a person if it answers only where it is confident enough.

    The threshold is the one that keeps 5 % wrong answers on validation images: on clean ones, or,
    without `on_clean`, under shifts that are not tested.
    """
    if model.clean.coverage is None:
        return
    images = "validation images" if on_clean else "validation images under untested shifts"
    deferred = _describe_deferred(model.clean, "of the clean images")
    if model.deferring:
        deferred = _describe_deferred(model.deferring, "of the images there to a person")
    yield f"With the threshold that keeps errors to 5{PERCENT} on {images}, it defers {deferred}."


def detail_deferral(model: ModelOutcome) -> Iterator[str]:
    """Say what the same threshold defers of the clean images."""
    if model.clean.coverage is not None and model.deferring:
        deferred = _describe_deferred(model.clean, "to a person")
        yield f"On clean images, that threshold defers {deferred}."


def _describe_deferred(there: Performance, which: str) -> str:
    """Say what is deferred, and how wrong the answers are that the model still gives."""
    coverage, risk = there.coverage, there.risk
    assert coverage is not None
    if coverage.value == 0:
        return "every image"
    deferred = f"{100 * (1 - coverage.value):.1f}{PERCENT} {which}"
    if risk is None:
        return deferred
    # Of several seeds, the mean risk is no number where one seed answers nothing.
    if math.isnan(risk.value) or coverage.value * coverage.n < FEW_ANSWERS:
        return f"{deferred}, which leaves too few answers to judge"
    still = " still" if risk.low > RISK else ""
    return f"{deferred}, and {format_percent(risk)} of its answers are{still} wrong"


def _second_gap(gap: Score, first: Score) -> str:
    """Write a second gap after a first one, with no word twice."""
    same = (gap.value < 0) == (first.value < 0)
    return f"by {_format_gap_size(gap)}" if same else describe_gap(gap)
