"""What the sentences of the report's answer are made of: a model on clean and on other images."""

from __future__ import annotations

from typing import NamedTuple

from fairweather.report.contents import Sweep
from fairweather.types import Score


class State(NamedTuple):
    """What the scores say of a model on one set of images; None where they say nothing."""

    accuracy: Score
    gap: Score | None = None
    rms: Score | None = None
    coverage: Score | None = None
    risk: Score | None = None


class Low(NamedTuple):
    """The level of a shift, or of an attack, at which a model's accuracy is lowest.

    Attributes:
        sweep, level: which.
        state: there.
        mean: accuracy over all levels.
        levels: how many there are.
    """

    sweep: Sweep
    level: str
    state: State
    mean: Score | None
    levels: int


class Change(NamedTuple):
    """From clean images to the lowest accuracy, on the same images; without fields, not known.

    Attributes:
        accuracy, gap: second minus first, of accuracy and of mean confidence − accuracy.
        p: of the test of equal accuracy, corrected for the number of sets that were looked at.
    """

    accuracy: Score | None = None
    gap: Score | None = None
    p: float = 1.0


def direction(first: Score, second: Score, difference: Score | None) -> int:
    """Say whether the second number is larger (1), smaller (−1), or not told apart (0).

    By the interval of the paired difference where there is one, else by whether theirs overlap.

    >>> near, far = Score(0.9, 0.88, 0.92, 100), Score(0.8, 0.78, 0.82, 100)
    >>> direction(near, far, None), direction(near, far, Score(-0.1, -0.21, 0.01, 100))
    (-1, 0)
    """
    if difference is None:
        return int(second.low > first.high) - int(second.high < first.low)
    return sign(difference)


def sign(score: Score) -> int:
    """Say whether a number is above 0 (1), below (−1), or not told from it (0), by its interval.

    >>> sign(Score(0.1, 0.05, 0.2, 100)), sign(Score(0.1, -0.05, 0.2, 100))
    (1, 0)
    """
    return int(score.low > 0) - int(score.high < 0)
