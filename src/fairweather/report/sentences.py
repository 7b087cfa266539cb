"""The sentences on accuracy, from numbers; none is stronger than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairweather.report.phrases import PERCENT, is_attack, listed, name, place, points, share
from fairweather.report.states import Change, Low, State, direction
from fairweather.types import Score

LEVEL = 0.05  # of the test of the lowest of several accuracies
NOTHING = 0.0005  # what reads as 0.0 %
# Shifts that cannot be told from the lowest are named up to so many, and counted beyond.
MOST_NAMED = 2
# Up to so many shifts the mean of each is told, beyond that their common one.
FEW_SHIFTS = 2


def unshifted(clean: State) -> str:
    """Say what a model does where no shift was tested."""
    return f"It is right in {share(clean.accuracy)} of the clean images; no shift was tested."


def guessing(clean: State, chance: float) -> str:
    """Say of a model that it is no better than an answer that is always the same.

    Args:
        clean: on clean images, with an accuracy whose interval reaches down to `chance`.
        chance: the share of the most frequent class.
    """
    return (
        f"It is right in {share(clean.accuracy)} of the clean images, "
        f"{_no_better(clean.accuracy, chance)}: there is little for a shift to take away."
    )


def accuracy(
    clean: State, lows: Sequence[Low], searched: int, change: Change, chance: float | None
) -> str:
    """Say what is left of the accuracy where it is lowest.

    Args:
        clean: on clean images.
        lows: the lowest accuracy under each shift (or each attack), at least one.
        searched: how many sets of images these are the lowest of.
        change: from clean to the lowest of all.
        chance: the share of the most frequent class, None where it is not known.
    """
    lowest = min(lows, key=lambda low: low.state.accuracy.value)
    before, after = clean.accuracy, lowest.state.accuracy
    where = f"{_under(lowest)}{_as_low(lows, lowest)}"
    at_worst = " at worst," if searched > 1 else ""
    way = direction(before, after, change.accuracy)
    if way > 0:
        return (
            f"No accuracy is lost: {share(before)} on clean images,"
            f"{' at least' if searched > 1 else ''} {share(after)} {where}."
        )
    by_luck = way < 0 and change.accuracy is not None and change.p >= LEVEL
    if way < 0 and not by_luck:
        return (
            f"Accuracy falls from {share(before)} on clean images to {share(after)}{at_worst} "
            f"{where}{_left(after, chance)}."
        )
    found = "the intervals overlap"
    if change.accuracy is not None:
        found = f"difference {points(change.accuracy)}"
    luck = f", no more than the worst of {searched} may show by chance" if by_luck else ""
    return (
        f"No loss of accuracy found: {share(before)} on clean images, {share(after)}{at_worst} "
        f"{where} ({found}{luck})."
    )


def overview(lows: Sequence[Low], mean: Score | None) -> Iterator[str]:
    """Say what a model keeps under the other shifts: each one's mean, or the best and all's mean.

    Args:
        lows: the lowest accuracy under each shift.
        mean: over the levels of each shift and then over shifts.
    """
    averaged = [(low, low.mean) for low in lows if low.mean is not None]
    if len(lows) <= FEW_SHIFTS:
        if averaged and any(low.levels > 1 for low in lows):
            told = [f"{share(score)} under {name(low.sweep)}" for low, score in averaged]
            yield f"On average over the levels it is right in {listed(told)}."
        return
    best = max(lows, key=lambda low: low.state.accuracy.value)
    over = f"; over all {len(lows)} shifts, on average, {share(mean)}" if mean else ""
    yield (
        f"It keeps most under {name(best.sweep)}: {share(best.state.accuracy)} at the worst level "
        f"of that shift{over}."
    )


def attacked(attacks: Sequence[Low]) -> Iterator[str]:
    """Say what the strongest attack leaves; nothing where there is none."""
    if attacks:
        lowest = min(attacks, key=lambda low: low.state.accuracy.value)
        which = f"The strongest of {len(attacks)} attacks" if len(attacks) > 1 else "An attack"
        left = lowest.state.accuracy
        what = "nothing:" if left.value < NOTHING else "it right in"
        yield f"{which} ({place(lowest.sweep, lowest.level)}) leaves {what} {share(left)}."


def _under(low: Low) -> str:
    return f"{'under attack by' if is_attack(low.sweep) else 'under'} {place(low.sweep, low.level)}"


def _as_low(lows: Sequence[Low], lowest: Low) -> str:
    """Name the other shifts under which accuracy may be as low, by their intervals."""
    top = lowest.state.accuracy.high
    others = [low for low in lows if low is not lowest and low.state.accuracy.low <= top]
    if not others:
        return ""
    named = listed([name(low.sweep) for low in others])
    which = named if len(others) <= MOST_NAMED else f"{len(others)} other shifts"
    return f" (within the intervals, as low under {which})"


def _left(accuracy: Score, chance: float | None) -> str:
    """Add what a low accuracy means."""
    if accuracy.value < NOTHING:
        return ": nothing is left"
    return "" if chance is None or accuracy.low > chance else f", {_no_better(accuracy, chance)}"


def _no_better(accuracy: Score, chance: float) -> str:
    shown = "no better than" if accuracy.value <= chance else "not shown to be better than"
    return f"{shown} always giving the most common answer ({100 * chance:.1f}{PERCENT})"
