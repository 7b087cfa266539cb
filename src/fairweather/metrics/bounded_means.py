"""Bounds of a mean of bounded numbers that hold with any number of images and of errors.

Resamples of a few errors show too little of what other images may bring. Bets do not resample: if
the mean were m, a bet that numbers are below m could not win on average, whatever their
distribution. So a large win is evidence against m.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import TAIL, Ends, FloatArray
from fairweather.metrics.grouping import Grouping

# The shares of the capital that are bet; the capital is divided equally among them.
STAKES: FloatArray = (np.arange(12) + 0.5) / 12
# How precisely an end is found, as a share of the range; it is rounded away from the mean.
PRECISION = 1e-7


class BoundedLosses(NamedTuple):
    """What independent units add to a mean, and between which numbers that always lies."""

    values: FloatArray
    """float64 `[units]`, of each image, or the mean over the images of each group."""

    low: float
    high: float
    """`low`, `high`: the smallest and the largest number that an image may have."""

    sizes: FloatArray | None = None
    """float64 `[units]`, the images of each group; None if each unit is an image."""

    @staticmethod
    def from_images(
        column: NDArray[np.floating], low: float, high: float, grouping: Grouping | None = None
    ) -> BoundedLosses:
        """Take the number of each image, `[n]`; of groups, the mean over their images.

        >>> together = Grouping(np.array([0, 1, 1]))
        >>> BoundedLosses.from_images(np.array([1.0, 0.0, 1.0]), 0, 1, together).values.tolist()
        [1.0, 0.5]
        """
        values = np.asarray(column, dtype=np.float64)
        if grouping is None:
            return BoundedLosses(values, low, high)
        sizes = grouping.sizes.astype(np.float64)
        return BoundedLosses(grouping.sums(values[:, None])[:, 0] / sizes, low, high, sizes)

    def minus(self, other: BoundedLosses) -> BoundedLosses:
        """The difference from other losses of the same images.

        >>> BoundedLosses(np.array([0.5]), 0, 1).minus(BoundedLosses(np.array([1.0]), 0, 1))
        BoundedLosses(values=array([-0.5]), low=-1, high=1, sizes=None)
        """
        return BoundedLosses(
            self.values - other.values, self.low - other.high, self.high - other.low, self.sizes
        )


def betting_interval(losses: BoundedLosses, tail: float = TAIL) -> Ends:
    """The interval of the mean of bounded losses: each end misses in at most `tail` of samples.

    Suppose that the numbers x are between 0 and 1, and their mean is m. A bettor stakes the same
    share s of the capital on each of them, that it is below m, and ends with the product of
    `1 + s (m - x) / (1 - m)`. Its expectation is 1. So by Markov's inequality, it exceeds 1 / tail
    in at most `tail` of samples. The upper end is the smallest m at which the mean capital of
    several stakes exceeds it. The lower end is that of 1 - x. The order of the images plays no
    role.

    Each group is one bet, with its mean over images and with its size, relative to the largest
    group, as a part of the stake. This is the mean over all images, not over groups. It assumes
    that no other group is larger than the largest of these.

    Args:
        losses: of independent images, or of independent groups; not empty.
        tail: how often each end may miss.

    Source: Waudby-Smith and Ramdas 2024, Estimating Means of Bounded Random Variables by Betting,
    section 4, for the capital and how it becomes an interval; here with constant stakes.

    >>> few_errors = BoundedLosses((np.arange(500) < 10) * 1.0, 0, 1)
    >>> [round(end, 3) for end in betting_interval(few_errors)]
    [0.003, 0.046]
    >>> [round(end, 3) for end in betting_interval(BoundedLosses(np.zeros(500), 0, 1))]
    [0.0, 0.011]
    """
    span = losses.high - losses.low
    x = (losses.values - losses.low) / span
    if not len(x) or not ((x > -PRECISION) & (x < 1 + PRECISION)).all():
        raise InputError(
            f"losses must be in [{losses.low:g}, {losses.high:g}] and not empty, found "
            f"{losses.values.tolist()[:3]}"
        )
    x = np.clip(x, 0, 1)
    shares = np.ones_like(x) if losses.sizes is None else losses.sizes / losses.sizes.max()
    high = _highest_mean(x, shares, tail)
    low = 1 - _highest_mean(1 - x, shares, tail)
    return losses.low + span * low, losses.low + span * high


def _highest_mean(x: FloatArray, shares: FloatArray, tail: float) -> float:
    """The largest mean that numbers in [0, 1] allow."""

    def gain(mean: float) -> float:
        """The log of the capital, less that which is too large."""
        wins = shares * (mean - x) / (1 - mean)
        logs = np.array([np.log1p(stake * wins).sum() for stake in STAKES])
        most = logs.max()
        return float(most + np.log(np.exp(logs - most).mean()) + np.log(tail))

    low, high = float(x @ shares / shares.sum()), 1 - PRECISION
    if low >= high or gain(high) <= 0:
        return 1.0
    from scipy.optimize import brentq  # takes a while to import

    return min(float(brentq(gain, low, high, xtol=PRECISION)) + PRECISION, 1.0)
