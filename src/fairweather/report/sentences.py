"""The sentences of the report's findings, from numbers; none is stronger than their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fairweather.metrics.recipes import MOST_SEEDS, Crossed, needed
from fairweather.report.performance import (
    PairedChange,
    Performance,
    WorstLevel,
    accuracy_direction,
    direction,
    sign,
    widened,
)
from fairweather.types import Score

PERCENT = "\N{NO-BREAK SPACE}%"
NOTHING = 0.0005  # what reads as 0.0 %
# Nothing is said to be left only where the interval ends below this.
NEXT_TO_NOTHING = 0.01
# Shifts that cannot be told from the lowest are named up to so many, and counted beyond.
MOST_NAMED = 2
# Up to so many shifts the mean of each is told, beyond that their common one.
FEW_SHIFTS = 2
# Of fewer answers, the share of wrong ones says nothing that a sentence should repeat.
FEW_ANSWERS = 30
RISK = 0.05  # that the threshold keeps on clean images

# ---- words and numbers


def listed(words: Sequence[str], joint: str = "and") -> str:
    """Write a list inside a sentence.

    >>> listed(["a", "b", "c"]), listed(["a", "b"], "or")
    ('a, b and c', 'a or b')
    """
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def share(score: Score) -> str:
    """Write a share of the images with its interval.

    >>> share(Score(0.8234, 0.801, 0.845, 200)).replace(PERCENT, " %")
    '82.3 % [80.1, 84.5]'
    """
    value, low, high = (f"{100 * number:.1f}" for number in score[:3])
    return f"{value}{PERCENT} [{low}, {high}]"


def points(score: Score) -> str:
    """Write a difference of two shares in percentage points, with its sign.

    >>> points(Score(-0.004, -0.011, 0.003, 200))
    '−0.4 points [−1.1, 0.3]'
    """
    value, low, high = (_number(100 * number, 1) for number in score[:3])
    return f"{value} points [{'too few errors' if score.too_few else f'{low}, {high}'}]"


def needed_in_words(difference: Crossed, tests: int = 1) -> str:
    """Say what it would take to tell a difference of two shares from 0; see `metrics.recipes`.

    >>> needed_in_words(Crossed(0.01, 2e-5, 1000, [])).replace("\N{NO-BREAK SPACE}", " ")
    'about 1,600 images'
    >>> from fairweather.metrics.recipes import SeedVariance
    >>> few = [SeedVariance(3, 5e-5, 0.0)] * 2
    >>> needed_in_words(Crossed(0.01, 2e-6, 1000, few))
    'about 29 seeds of each on these images; no number of images with these seeds would do'
    """
    found = needed(difference, tests)
    if not difference.value:
        return ""
    images = "" if found.images is None else f"about {_about(found.images)} images"
    if not difference.recipes:
        return images
    seeds = "" if found.seeds is None else f"about {_about(found.seeds)} seeds of each"
    if seeds and images:
        return f"{seeds} on these images, or {images} with these seeds"
    if seeds:
        return f"{seeds} on these images; no number of images with these seeds would do"
    if images:
        return f"{images} with these seeds; {MOST_SEEDS:,} seeds on these images would not do"
    return "both more seeds and more images"


def _about(number: int) -> str:
    """Write a number with two digits, rounded up, since it is known no better."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return f"{math.ceil(number / unit) * unit:,}"


def error(score: Score) -> str:
    """Write a calibration error with its interval.

    >>> error(Score(0.2345, 0.2, 0.25, 200))
    '0.23 [0.20, 0.25]'
    """
    value, low, high = (_number(number, 2) for number in score[:3])
    return f"{value} [{'too few errors' if score.too_few else f'{low}, {high}'}]"


def by_luck(searched: int) -> str:
    """Say of a difference that so many sets of images were looked at to find it.

    >>> by_luck(20)
    ', no more than the worst of 20 may show by chance'
    """
    return f", no more than the worst of {searched} may show by chance"


def opposite(score: Score) -> Score:
    """Turn the sign of a number, or exchange a share for that of the other images.

    >>> opposite(Score(0.25, 0.125, 0.5, 200))
    Score(value=-0.25, low=-0.5, high=-0.125, n=200)
    """
    return Score(-score.value, -score.high, -score.low, score.n)


def _number(value: float, digits: int) -> str:
    # Adding 0 makes of "-0.0" the "0.0" that it is.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


# ---- accuracy


def unshifted(clean: Performance, chance: float | None) -> str:
    """Say what a model does where no shift was tested.

    Args:
        clean: on clean images.
        chance: the share of the most frequent class, None where it is not known.
    """
    right = f"It is right in {share(clean.accuracy)} of the clean images"
    return f"{right}{_against_chance(clean.accuracy, chance)}; no shift was tested."


def alike(base: str, lowest: WorstLevel | None) -> str:
    """Say of a variant that it answers as its base model, and where that is right least often.

    Args:
        base: the title of the base model.
        lowest: the lowest accuracy of both; None without shifts.
    """
    also = f", also {_under(lowest)}" if lowest else ""
    return f"It answers as “{base}” does{also}; only its confidence differs."


def accuracy(
    clean: Performance,
    lows: Sequence[WorstLevel],
    searched: int,
    change: PairedChange,
    chance: float | None,
) -> str:
    """Say what is left of the accuracy where it is lowest.

    Args:
        clean: on clean images.
        lows: the lowest accuracy under each shift (or each attack), at least one.
        searched: how many sets of images these are the lowest of.
        change: from clean to the lowest of all.
        chance: the share of the most frequent class, None where it is not known.
    """
    lowest = min(lows, key=lambda low: low.performance.accuracy.value)
    before, after = clean.accuracy, lowest.performance.accuracy
    already = _already(before, chance)
    where = f"{_under(lowest)}{_as_low(lows, lowest)}"
    at_worst = " at worst," if searched > 1 else ""
    way = accuracy_direction(clean, lowest.performance, change, searched)
    if way > 0:
        return (
            f"No accuracy is lost: {share(before)} on clean images,"
            f"{' at least' if searched > 1 else ''} {share(after)} {where}{already}."
        )
    if way < 0:
        left = _left(after, None if already else chance)
        return (
            f"Accuracy falls from {share(before)} on clean images to {share(after)}{at_worst} "
            f"{where}{left}{already}."
        )
    found = "the intervals overlap"
    if change.accuracy is not None:
        found = f"difference {points(change.accuracy)}"
    luck = by_luck(searched) if direction(before, after, change.accuracy) else ""
    return (
        f"No loss of accuracy found: {share(before)} on clean images, {share(after)}{at_worst} "
        f"{where} ({found}{luck}){already}."
    )


def overview(lows: Sequence[WorstLevel], mean: Score | None) -> Iterator[str]:
    """Say what a model keeps under the other shifts: each one's mean, or the best and all's mean.

    Args:
        lows: the lowest accuracy under each shift.
        mean: over the levels of each shift and then over shifts.
    """
    averaged = [(low, low.mean) for low in lows if low.mean is not None]
    if len(lows) <= FEW_SHIFTS:
        if averaged and any(low.levels > 1 for low in lows):
            told = [f"{share(score)} under {low.sweep.in_sentence}" for low, score in averaged]
            yield f"On average over the levels it is right in {listed(told)}."
        return
    over = f"over all {len(lows)} shifts, on average, it is right in {share(mean)}" if mean else ""
    both = "; ".join(part for part in (_keeps_most(lows), over) if part)
    if both:
        yield f"{both[0].upper()}{both[1:]}."


def attacked(attacks: Sequence[WorstLevel]) -> Iterator[str]:
    """Say what the strongest attack leaves; nothing where there is none."""
    if attacks:
        lowest = min(attacks, key=lambda low: low.performance.accuracy.value)
        which = f"The strongest of {len(attacks)} attacks" if len(attacks) > 1 else "An attack"
        left = lowest.performance.accuracy
        what = "nothing:" if _is_nothing(left) else "it right in"
        yield f"{which} ({lowest.sweep.at(lowest.level)}) leaves {what} {share(left)}."


def _under(low: WorstLevel) -> str:
    return f"{'under attack by' if low.sweep.is_attack else 'under'} {low.sweep.at(low.level)}"


def _as_low(lows: Sequence[WorstLevel], lowest: WorstLevel) -> str:
    """Name the other shifts under which accuracy may be as low, by their intervals."""
    top = lowest.performance.accuracy.high
    others = [low for low in lows if low is not lowest and low.performance.accuracy.low <= top]
    return _others("as low", others)


def _keeps_most(lows: Sequence[WorstLevel]) -> str:
    """Name the shift that costs least, where it is told from the one that costs most."""
    best = max(lows, key=lambda low: low.performance.accuracy.value)
    bottom = best.performance.accuracy.low
    if (
        bottom
        <= min(lows, key=lambda low: low.performance.accuracy.value).performance.accuracy.high
    ):
        return ""
    others = [low for low in lows if low is not best and low.performance.accuracy.high >= bottom]
    kept = share(best.performance.accuracy)
    return (
        f"it keeps most under {best.sweep.in_sentence}: {kept} at the worst level of that shift"
        f"{_others('as much', others)}"
    )


def _others(how: str, others: Sequence[WorstLevel]) -> str:
    if not others:
        return ""
    named = listed([low.sweep.in_sentence for low in others])
    which = named if len(others) <= MOST_NAMED else f"{len(others)} other shifts"
    return f" (within the intervals, {how} under {which})"


def _is_nothing(accuracy: Score) -> bool:
    return accuracy.value < NOTHING and accuracy.high < NEXT_TO_NOTHING


def _left(accuracy: Score, chance: float | None) -> str:
    """Add what a low accuracy means."""
    return ": nothing is left" if _is_nothing(accuracy) else _against_chance(accuracy, chance)


def _against_chance(accuracy: Score, chance: float | None) -> str:
    """Add that an accuracy is no better than an answer that is always the same, where that is."""
    return "" if chance is None or accuracy.low > chance else f", {_no_better(accuracy, chance)}"


def _already(clean: Score, chance: float | None) -> str:
    """Add the same of an accuracy on clean images that has been told before another one."""
    if chance is None or clean.low > chance:
        return ""
    return f"; already on clean images it is {_no_better(clean, chance)}"


def _no_better(accuracy: Score, chance: float) -> str:
    shown = "no better than" if accuracy.value <= chance else "not shown to be better than"
    return f"{shown} always giving the most common answer ({100 * chance:.1f}{PERCENT})"


# ---- confidence: does it follow the accuracy, and what would it hand over


def confidence(
    clean: Performance, there: Performance | None, change: PairedChange, searched: int
) -> Iterator[str]:
    """Say whether the confidence is right on average, on clean images and at the lowest accuracy.

    What is said of the lowest of several sets of images holds by intervals that are widened for
    their number; those that are written are not.

    Args:
        clean: on clean images.
        there: where accuracy is lowest; None without shifts.
        change: from clean to there.
        searched: of how many sets of images it is the lowest.
    """
    if clean.gap is None or clean.rms is None:
        return
    if there is None or there.gap is None or there.rms is None:
        yield f"{_on_clean(clean.gap)}; RMS calibration error {error(clean.rms)}."
        return
    wide = widened(there.gap, searched)
    way = direction(clean.gap, wide, change.gap and widened(change.gap, searched))
    errors = direction(clean.rms, widened(there.rms, searched), None)
    if way:
        falls = accuracy_direction(clean, there, change, searched) < 0
        told = _changed(clean.gap, there.gap, way, sign(wide), falls)
        hidden = not sign(wide) and sign(there.gap)
    else:
        told = _unchanged(clean.gap, there.gap, errors)
        hidden = direction(clean.gap, there.gap, change.gap)
    luck = by_luck(searched) if hidden else ""
    yield f"{told}{luck}; {_errors(clean.rms, there.rms, errors)}."


def hand_over(clean: Performance, there: Performance | None) -> Iterator[str]:
    """Say what is left to a person if the model answers only where it is sure enough.

    The threshold is the one that keeps 5 % wrong answers on clean validation images.
    """
    if clean.coverage is None:
        return
    rule = (
        f"Answering only where its confidence kept errors to 5{PERCENT} on validation images, it "
        f"would hand over to a person {_handed(clean)}"
    )
    if there is None or there.coverage is None or there.risk is None:
        yield f"{rule}."
    elif there.coverage.value == 0:
        yield f"{rule} and every image there."
    else:
        own = _own(there.coverage, there.risk)
        yield f"{rule} and {share(_rest(there.coverage))} there, {own}."


def _handed(clean: Performance) -> str:
    """What goes to a person on clean images, and how wrong the rest is, which the risk promised."""
    if clean.coverage is None or clean.coverage.value == 0:
        return "every clean image"
    handed = f"{share(_rest(clean.coverage))} of the clean images"
    if clean.risk is None or _few(clean.coverage, clean.risk):
        return handed
    return f"{handed} ({share(clean.risk)} of the rest wrong)"


def _few(coverage: Score, risk: Score) -> bool:
    """Say whether the answers it would give itself are too few to judge, or of no seed at times."""
    # Of several seeds, the mean risk is no number where one seed answers nothing.
    return math.isnan(risk.value) or coverage.value * coverage.n < FEW_ANSWERS


def _own(coverage: Score, risk: Score) -> str:
    """What becomes of the answers that the model would give itself."""
    if _few(coverage, risk):
        return "which leaves too few of its own answers to judge"
    still = " still" if risk.low > RISK else ""
    return f"where {share(risk)} of its own answers would{still} be wrong"


def _sure(gap: Score) -> str:
    """How far confidence is off on average, in words."""
    if gap.value < 0:
        return f"{points(opposite(gap))} not sure enough"
    return f"{points(gap)} too sure"


def _on_clean(gap: Score) -> str:
    if sign(gap) or gap.too_few:
        return f"On average it is {_sure(gap)}"
    return f"No error of its confidence found on average with {gap.n:,} images ({_sure(gap)})"


def _unchanged(before: Score, after: Score, errors: int) -> str:
    """Say that the gap is not told from that on clean images; nor, maybe, is the binned error."""
    clean = f"{_sure(before)} on clean images"
    if before.too_few or after.too_few:
        return f"On average it is {_sure(after)} there and {clean}"
    if errors:
        return f"On average it is {_sure(after)} there, no change found from {clean}"
    return (
        f"No change of calibration found with {after.n:,} images: on average it is {_sure(after)} "
        f"there and {clean}"
    )


def _changed(before: Score, after: Score, way: int, side: int, falls: bool) -> str:
    """Say how confidence and accuracy go together where the gap is told from that on clean images.

    Args:
        before, after: the gap on clean images, and where accuracy is lowest.
        way: 1 for a larger gap, −1 for a smaller one.
        side: 1 where it is too sure there, −1 where it is not sure enough, 0 if not told.
        falls: whether accuracy is lower there.
    """
    clean = f"{_sure(before)} on clean images"
    if side == 0:
        return (
            f"No error of its confidence found there on average with {after.n:,} images: "
            f"{_sure(after)}, against {clean}"
        )
    if way != side:
        return (
            f"On average it is {_sure(after)} there, closer than on clean images ({_sure(before)})"
        )
    if sign(before) == -side and direction(opposite(before), after, None) != side:
        return f"On average it turns from {clean} to {_sure(after)} there"
    lag = "does not follow" if side > 0 else "falls behind"
    apart = lag if falls else "changes"
    return f"Its confidence {apart}: on average it is {_sure(after)} there, against {clean}"


def _errors(before: Score, after: Score, errors: int) -> str:
    numbers = f"from {error(before)} to {error(after)}"
    if errors:
        return f"RMS calibration error {'rises' if errors > 0 else 'falls'} {numbers}"
    return f"RMS calibration error {error(before)} and {error(after)}, not told apart"


def _rest(score: Score) -> Score:
    """The share of the other images."""
    return Score(1 - score.value, 1 - score.high, 1 - score.low, score.n)
