"""The sentences on confidence: does it follow the accuracy, and what would it hand over."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fairweather.report.phrases import PERCENT, by_luck, error, opposite, points, share
from fairweather.report.states import Change, State, direction, loss, sign, widened
from fairweather.types import Score

# Of fewer answers, the share of wrong ones says nothing that a sentence should repeat.
FEW = 30
RISK = 0.05  # that the threshold keeps on clean images


def confidence(clean: State, there: State | None, change: Change, searched: int) -> Iterator[str]:
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
        falls = loss(clean, there, change, searched) < 0
        told = _changed(clean.gap, there.gap, way, sign(wide), falls)
        hidden = not sign(wide) and sign(there.gap)
    else:
        told = _unchanged(clean.gap, there.gap, errors)
        hidden = direction(clean.gap, there.gap, change.gap)
    luck = by_luck(searched) if hidden else ""
    yield f"{told}{luck}; {_errors(clean.rms, there.rms, errors)}."


def hand_over(clean: State, there: State | None) -> Iterator[str]:
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


def _handed(clean: State) -> str:
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
    return math.isnan(risk.value) or coverage.value * coverage.n < FEW


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
    if sign(gap):
        return f"On average it is {_sure(gap)}"
    return f"No error of its confidence found on average with {gap.n:,} images ({_sure(gap)})"


def _unchanged(before: Score, after: Score, errors: int) -> str:
    """Say that the gap is not told from that on clean images; nor, maybe, is the binned error."""
    clean = f"{_sure(before)} on clean images"
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
