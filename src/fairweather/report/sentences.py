"""The sentences on accuracy, from numbers; none is stronger than their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairweather.report.phrases import (
    PERCENT,
    by_luck,
    listed,
    name,
    place,
    points,
    share,
)
from fairweather.report.states import Change, Low, State, direction, loss
from fairweather.types import Score

NOTHING = 0.0005  # what reads as 0.0 %
# Nothing is said to be left only where the interval ends below this.
NEXT_TO_NOTHING = 0.01
# Shifts that cannot be told from the lowest are named up to so many, and counted beyond.
MOST_NAMED = 2
# Up to so many shifts the mean of each is told, beyond that their common one.
FEW_SHIFTS = 2


def unshifted(clean: State, chance: float | None) -> str:
    """Say what a model does where no shift was tested.

    Args:
        clean: on clean images.
        chance: the share of the most frequent class, None where it is not known.
    """
    right = f"It is right in {share(clean.accuracy)} of the clean images"
    return f"{right}{_beside(clean.accuracy, chance)}; no shift was tested."


def alike(base: str, lowest: Low | None) -> str:
    """Say of a variant that it answers as its base model, and where that is right least often.

    Args:
        base: the title of the base model.
        lowest: the lowest accuracy of both; None without shifts.
    """
    also = f", also {_under(lowest)}" if lowest else ""
    return f"It answers as “{base}” does{also}; only its confidence differs."


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
    already = _already(before, chance)
    where = f"{_under(lowest)}{_as_low(lows, lowest)}"
    at_worst = " at worst," if searched > 1 else ""
    way = loss(clean, lowest.state, change, searched)
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
    over = f"over all {len(lows)} shifts, on average, it is right in {share(mean)}" if mean else ""
    both = "; ".join(part for part in (_keeps_most(lows), over) if part)
    if both:
        yield f"{both[0].upper()}{both[1:]}."


def attacked(attacks: Sequence[Low]) -> Iterator[str]:
    """Say what the strongest attack leaves; nothing where there is none."""
    if attacks:
        lowest = min(attacks, key=lambda low: low.state.accuracy.value)
        which = f"The strongest of {len(attacks)} attacks" if len(attacks) > 1 else "An attack"
        left = lowest.state.accuracy
        what = "nothing:" if _is_nothing(left) else "it right in"
        yield f"{which} ({place(lowest.sweep, lowest.level)}) leaves {what} {share(left)}."


def _under(low: Low) -> str:
    return f"{'under attack by' if low.sweep.is_attack else 'under'} {place(low.sweep, low.level)}"


def _as_low(lows: Sequence[Low], lowest: Low) -> str:
    """Name the other shifts under which accuracy may be as low, by their intervals."""
    top = lowest.state.accuracy.high
    others = [low for low in lows if low is not lowest and low.state.accuracy.low <= top]
    return _others("as low", others)


def _keeps_most(lows: Sequence[Low]) -> str:
    """Name the shift that costs least, where it is told from the one that costs most."""
    best = max(lows, key=lambda low: low.state.accuracy.value)
    bottom = best.state.accuracy.low
    if bottom <= min(lows, key=lambda low: low.state.accuracy.value).state.accuracy.high:
        return ""
    others = [low for low in lows if low is not best and low.state.accuracy.high >= bottom]
    return (
        f"it keeps most under {name(best.sweep)}: {share(best.state.accuracy)} at the worst level "
        f"of that shift{_others('as much', others)}"
    )


def _others(how: str, others: Sequence[Low]) -> str:
    if not others:
        return ""
    named = listed([name(low.sweep) for low in others])
    which = named if len(others) <= MOST_NAMED else f"{len(others)} other shifts"
    return f" (within the intervals, {how} under {which})"


def _is_nothing(accuracy: Score) -> bool:
    return accuracy.value < NOTHING and accuracy.high < NEXT_TO_NOTHING


def _left(accuracy: Score, chance: float | None) -> str:
    """Add what a low accuracy means."""
    return ": nothing is left" if _is_nothing(accuracy) else _beside(accuracy, chance)


def _beside(accuracy: Score, chance: float | None) -> str:
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
