"""How a model performs on clean images and where it is worst, and which numbers are told apart."""

from __future__ import annotations

from typing import NamedTuple

import scipy.special  # scipy.stats takes half a second to import

from fairweather.metrics.columns import Z95
from fairweather.report.sweeps import Sweep
from fairweather.types import Score

LEVEL = 0.05  # of the tests


class Performance(NamedTuple):
    """What the scores say of a model on one set of images; None where they say nothing."""

    accuracy: Score
    gap: Score | None = None
    rms: Score | None = None
    coverage: Score | None = None
    risk: Score | None = None


class WorstLevel(NamedTuple):
    """The level of a shift, or of an attack, at which a model's accuracy is lowest.

    Attributes:
        sweep, level: which.
        performance: there.
        mean: accuracy over all levels.
        levels: how many there are.
    """

    sweep: Sweep
    level: str
    performance: Performance
    mean: Score | None
    levels: int


class PairedChange(NamedTuple):
    """From clean images to the lowest accuracy, on the same images; without fields, not known.

    Attributes:
        accuracy, gap: second minus first, of accuracy and of mean confidence − accuracy.
        p: of the test of equal accuracy, corrected for the number of sets that were looked at.
    """

    accuracy: Score | None = None
    gap: Score | None = None
    p: float = 1.0


def accuracy_direction(
    clean: Performance, there: Performance, change: PairedChange, searched: int
) -> int:
    """Say whether accuracy is higher (1), lower (−1), or not told apart (0) where it is lowest.

    Of one set of images the interval of the difference decides. The lowest of several is lower by
    luck alone: there the test, corrected for their number, must find a loss too.

    >>> clean = Performance(Score(0.9, 0.88, 0.92, 100))
    >>> there = Performance(Score(0.8, 0.78, 0.82, 100))
    >>> change = PairedChange(accuracy=Score(-0.1, -0.15, -0.05, 100), p=0.2)
    >>> [accuracy_direction(clean, there, change, searched) for searched in (1, 9)]
    [-1, 0]
    """
    way = direction(clean.accuracy, there.accuracy, change.accuracy)
    tested = searched > 1 and change.accuracy is not None
    return 0 if way < 0 and tested and change.p >= LEVEL else way


def widened(score: Score, searched: int) -> Score:
    """Widen an interval to that of one of several numbers, which all hold theirs in 95 %.

    By Bonferroni's correction: it becomes one of 100 − 5 / `searched` %, as the tails of a normal
    distribution have it on either side. That is near enough for means over many images, and needs
    no more resamples than the interval itself.

    >>> wide = widened(Score(0.1, 0.0, 0.2, 100), 20)
    >>> round(wide.low, 3), round(wide.high, 3)
    (-0.054, 0.254)
    """
    factor = float(scipy.special.ndtri(1 - LEVEL / 2 / searched)) / Z95
    value, low, high, n = score
    return Score(value, value - factor * (value - low), value + factor * (high - value), n)


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
