"""Running sums over the images in order of confidence: all that most metrics need of a resample.

Metrics that look at (confidence, correct) alone are sums between cuts of the images in order of
confidence. The order is that of the cell and not of the resample, so it is found once; a resample
then takes one pass over its counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics.calibration import BinSums, array_split_cuts
from fairweather.metrics.weights import FloatArray

BINS = 10
PER_BIN = 100
IntArray = npt.NDArray[np.int64]


class ConfidenceOrder(NamedTuple):
    """One cell's images, the least confident first.

    Attributes:
        images: int64 `[n]`, the place of each in the cell.
        confidence: float64 `[n]`, rising.
        right: uint8 `[n]`.
        start, stop: int64 `[n]`, where the images of the same confidence begin and end.
        groups: int64 `[groups + 1]`, where groups of neighbouring confidences begin and end. No
            confidence is parted by them, and no bin of equal width.
        edges: int64 `[BINS + 1]`, the edges of the equal-width bins, as places in `groups`.
    """

    images: IntArray
    confidence: FloatArray
    right: npt.NDArray[np.uint8]
    start: IntArray
    stop: IntArray
    groups: IntArray
    edges: IntArray


class OrderedSums(NamedTuple):
    """Sums over the images of each resample, a row a resample.

    Attributes:
        images, right: float64 `[B, groups + 1]`, those less confident than each group, and all.
        equal_width, equal_mass: of 10 bins.
        hundreds: of bins of 100 images, the last with up to 199.
    """

    images: FloatArray
    right: FloatArray
    equal_width: BinSums
    equal_mass: BinSums
    hundreds: BinSums


def order_by_confidence(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> ConfidenceOrder:
    """Find the order of a cell's images, every confidence a group of its own.

    >>> order = order_by_confidence(np.array([0.9, 0.3, 0.9]), np.array([True, False, True]))
    >>> order.images.tolist(), order.groups.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    n = len(confidence)
    images = np.argsort(confidence)  # unstable and fast: no order of equals shows
    sure = confidence[images]
    levels = np.append(np.flatnonzero(np.append(True, sure[1:] != sure[:-1])), n)
    sizes = np.diff(levels)
    # Upper edges are included, and 0 is in the first bin.
    width = np.searchsorted(sure, np.arange(BINS + 1) / BINS, side="right")
    width[0] = 0
    return ConfidenceOrder(
        images=images,
        confidence=sure,
        right=correct[images].astype(np.uint8),
        start=np.repeat(levels[:-1], sizes),
        stop=np.repeat(levels[1:], sizes),
        groups=levels,
        edges=np.searchsorted(levels, width),
    )


def merge_groups(order: ConfidenceOrder, most: int) -> ConfidenceOrder:
    """Merge neighbouring confidences into at most so many groups.

    >>> order = order_by_confidence(np.arange(90) / 100, np.ones(90, dtype=bool))
    >>> len(merge_groups(order, 30).groups) - 1
    28
    """
    levels = order.groups
    if len(levels) - 1 <= most:
        return order
    width = levels[order.edges]
    # Groups of the surest images are smaller: a small coverage at a risk is decided among few.
    targets = levels[-1] * (1 - np.linspace(1, 0, most - BINS + 1) ** 1.5)
    groups = np.unique(np.concatenate([levels[np.searchsorted(levels, targets)], width]))
    return order._replace(groups=groups, edges=np.searchsorted(groups, width))


def sum_in_order(
    order: ConfidenceOrder, weights: npt.NDArray[Any], totals: FloatArray
) -> OrderedSums:
    """Add up the images of each resample between all cuts that metrics ask for.

    Args:
        order: of the cell's images.
        weights: how often each image counts, `[B, n]`.
        totals: float64 `[B]`, their sums.

    Whole counts are added in 64-bit integers, confidences too (rounded to less than 1e-12 for up to
    a million images), so that no order of adding shows in the last bits.
    """
    running = _Running(order, weights.dtype, totals.max())
    few, many = array_split_cuts(totals, BINS), hundred_cuts(totals)
    at_groups, at_few, at_many = (
        np.empty((3, len(weights), places))
        for places in (len(order.groups), few.shape[1], many.shape[1])
    )
    last = few.shape[1]
    for row, counts in enumerate(weights):
        running.add_up(counts)
        at_groups[:, row] = running.at_places(order.groups)
        at_cuts = running.at_cuts(np.concatenate([few[row], many[row]]))
        at_few[:, row], at_many[:, row] = at_cuts[:, :last], at_cuts[:, last:]
    return OrderedSums(
        images=at_groups[0],
        right=at_groups[2],
        equal_width=BinSums(*np.diff(at_groups[:, :, order.edges])),
        equal_mass=BinSums(*np.diff(at_few)),
        hundreds=BinSums(*np.diff(at_many)),
    )


def hundred_cuts(total: FloatArray) -> FloatArray:
    """Where so many images are cut into hundreds, the rest with the last: `[B, most bins + 1]`.

    >>> hundred_cuts(np.array([250.0, 99.0]))
    array([[  0., 100., 250.],
           [  0.,  99.,  99.]])
    """
    bins = np.maximum(total // PER_BIN, 1)[:, None]
    k = np.arange(bins.max() + 1)
    return np.where(k < bins, k * PER_BIN, total[:, None])


class _Running:
    """Running sums of one resample after another, in the same memory: images, confidence, right."""

    def __init__(self, order: ConfidenceOrder, dtype: np.dtype[Any], most: float) -> None:
        n = len(order.images)
        self.order = order
        whole = np.issubdtype(dtype, np.integer)
        # As many binary places as leave room for the sum of `most` confidences of up to 1.
        self.unit = 2.0 ** (62 - int(most).bit_length()) if whole else 1.0
        exact: np.dtype[Any] = np.dtype(np.int64 if whole else np.float64)
        # Half the memory is half the time, where caches are small.
        narrow = np.dtype(np.int32) if whole and most < 2**31 else exact
        sure = np.rint(order.confidence * self.unit) if whole else order.confidence
        self.sure, self.right = sure.astype(exact), order.right.astype(dtype)
        self.counts, self.product = np.empty(n, dtype), np.empty(n, exact)
        self.images, self.hits = np.zeros((2, n + 1), narrow)
        self.confidence = np.zeros(n + 1, exact)

    def add_up(self, counts: npt.NDArray[Any]) -> None:
        """Take up the next resample."""
        # A copy is read in order, and lies in the cache when it is read in another. No mode of
        # taking is faster than "wrap"; no place lies outside.
        np.take(counts.copy(), self.order.images, out=self.counts, mode="wrap")
        np.cumsum(self.counts, out=self.images[1:])
        np.cumsum(np.multiply(self.counts, self.sure, out=self.product), out=self.confidence[1:])
        np.cumsum(self.counts * self.right, out=self.hits[1:])

    def at_places(self, places: IntArray) -> FloatArray:
        """Sums over the images before these places, `[3, places]`."""
        return np.array(
            [self.images[places], self.confidence[places] / self.unit, self.hits[places]]
        )

    def at_cuts(self, cuts: FloatArray) -> FloatArray:
        """Sums over so many images, `[3, cuts]`; those of equal confidence count in equal parts."""
        ends = self.images[1:]
        place = np.minimum(np.searchsorted(ends, cuts.astype(ends.dtype)), len(ends) - 1)
        before = self.at_places(self.order.start[place])
        steps = self.at_places(self.order.stop[place]) - before
        part = np.divide(cuts - before[0], steps[0], out=np.zeros_like(cuts), where=steps[0] > 0)
        return before + part * steps
