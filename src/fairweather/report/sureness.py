"""The sentences on confidence: does it follow the accuracy, and what would it hand over."""

from __future__ import annotations

from collections.abc import Iterator

from fairweather.report.phrases import PERCENT, error, opposite, points, share
from fairweather.report.states import Change, State, direction, sign
from fairweather.types import Score

# Of fewer answers, the share of wrong ones says nothing that a sentence should repeat.
FEW = 30
RISK = 0.05  # that the threshold keeps on clean images


def confidence(clean: State, there: State | None, change: Change) -> Iterator[str]:
    """Say whether the confidence is right on average, on clean images and at the lowest accuracy.

    Args:
        clean: on clean images.
        there: where accuracy is lowest; None without shifts.
        change: from clean to there.
    """
    if clean.gap is None or clean.rms is None:
        return
    if there is None or there.gap is None or there.rms is None:
        yield f"{_on_clean(clean.gap)}; RMS calibration error {error(clean.rms)}."
        return
    way = direction(clean.gap, there.gap, change.gap)
    errors = direction(clean.rms, there.rms, None)
    yield f"{_told(clean.gap, there.gap, way, errors)}; {_errors(clean.rms, there.rms, errors)}."


def hand_over(clean: State, there: State | None) -> Iterator[str]:
    """Say what is left to a person if the model answers only where it is sure enough.

    The threshold is the one that keeps 5 % wrong answers on clean validation images.
    """
    if clean.coverage is None:
        return
    if clean.coverage.value == 0:
        yield f"No confidence keeps its errors to 5{PERCENT} on clean validation images."
        return
    rule = (
        f"Answering only where its confidence kept errors to 5{PERCENT} on validation images, it "
        f"would hand over to a person {share(_rest(clean.coverage))} of the clean images"
    )
    if there is None or there.coverage is None or there.risk is None:
        yield f"{rule}."
    else:
        own = _own(there.coverage, there.risk)
        yield f"{rule} and {share(_rest(there.coverage))} there, {own}."


def _own(coverage: Score, risk: Score) -> str:
    """What becomes of the answers that the model would give itself."""
    if coverage.value * coverage.n < FEW:
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
    return f"On average its confidence fits, as far as {gap.n:,} images can tell ({_sure(gap)})"


def _told(before: Score, after: Score, way: int, errors: int) -> str:
    """Say how confidence and accuracy go together at the lowest accuracy, beside clean images."""
    side = sign(after)
    tell = f"as far as {after.n:,} images can tell"
    clean = f"{_sure(before)} on clean images"
    if side == 0 and way == 0 and errors == 0:
        return f"It stays as calibrated as it was, {tell}: on average {_sure(after)}, after {clean}"
    if side == 0:
        return f"On average its confidence fits there, {tell} ({_sure(after)}, after {clean})"
    if way == 0:
        return f"On average it is {_sure(after)} there, no change found from {clean}"
    if way == side:
        apart = "does not follow" if side > 0 else "falls behind"
        return f"Its confidence {apart}: on average it is {_sure(after)} there, against {clean}"
    return f"On average it is {_sure(after)} there, closer than on clean images ({_sure(before)})"


def _errors(before: Score, after: Score, errors: int) -> str:
    numbers = f"from {error(before)} to {error(after)}"
    if errors:
        return f"RMS calibration error {'rises' if errors > 0 else 'falls'} {numbers}"
    return f"RMS calibration error {error(before)} and {error(after)}, not told apart"


def _rest(score: Score) -> Score:
    """The share of the other images."""
    return Score(1 - score.value, 1 - score.high, 1 - score.low, score.n)
