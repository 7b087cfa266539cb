"""Running sums over the images in order of confidence, from which most metrics are computed.

Metrics of (confidence, correct) are sums between cuts of the images in order of confidence. The
order depends on the images and not on the resample, so it is computed once; each resample then
needs one pass over its counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, IntArray, as_rows, check_columns, ratio

Column = npt.NDArray[np.bool_ | np.float64]
# How many counts are added up at once, to stay within the CPU's cache: with few images, these are
# several resamples.
TOGETHER = 2**14
# For callers of `sums_below` that want sums only at cuts.
NO_PLACES: IntArray = np.empty(0, dtype=np.int64)


class ConfidenceOrder(NamedTuple):
    """Images in order of confidence, the least confident first.

    Attributes:
        images: int64 `[n]`, the position of each image in the columns.
        confidence: float64 `[n]`, ascending.
        wrong: bool `[n]`.
        start, stop: int64 `[n]`, where the images with the same confidence begin and end.
        groups: int64 `[groups + 1]`, where groups of neighbouring confidences begin and end. Images
            with equal confidence are always in one group.
    """

    images: IntArray
    confidence: FloatArray
    wrong: npt.NDArray[np.bool_]
    start: IntArray
    stop: IntArray
    groups: IntArray


class LevelSums(NamedTuple):
    """Counts of images below each level of confidence, and of all images; one row per resample.

    A level is a confidence, or a group of neighbouring ones; levels are ascending.

    Attributes:
        images, wrong: float64 `[B, levels + 1]`.
    """

    images: FloatArray
    wrong: FloatArray

    @property
    def answered(self) -> FloatArray:
        """Images at least as confident as each level, `[B, levels]`."""
        return self.images[:, -1:] - self.images[:, :-1]

    @property
    def risk(self) -> FloatArray:
        """Share of the answered images that is wrong, `[B, levels]`; NaN if none is answered."""
        return ratio(self.wrong[:, -1:] - self.wrong[:, :-1], self.answered)


def order_by_confidence(
    confidence: FloatArray, correct: npt.NDArray[np.bool_ | np.float64]
) -> ConfidenceOrder:
    """Sort the images by confidence; each distinct confidence is one group.

    >>> order = order_by_confidence(np.array([0.9, 0.3, 0.9]), np.array([True, False, True]))
    >>> order.images.tolist(), order.groups.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    n = len(confidence)
    images = np.argsort(confidence)  # unstable and fast: the order of ties changes no result
    sure = confidence[images]
    levels = np.append(np.flatnonzero(np.append(True, sure[1:] != sure[:-1])), n)
    sizes = np.diff(levels)
    return ConfidenceOrder(
        images=images,
        confidence=sure,
        wrong=~correct[images].astype(bool),
        start=np.repeat(levels[:-1], sizes),
        stop=np.repeat(levels[1:], sizes),
        groups=levels,
    )


def width_places(order: ConfidenceOrder, bins: int) -> IntArray:
    """Where bins of equal width begin and end among the images, int64 `[bins + 1]`.

    >>> order = order_by_confidence(np.array([0.0, 0.5, 0.6]), np.ones(3, dtype=bool))
    >>> width_places(order, 2).tolist()
    [0, 2, 3]
    """
    # Compare with the float64 edges k/bins, because products such as 0.3 * 10 round across an edge.
    # Upper edges are included: a confidence of exactly 1 (saturated logits) is in the last bin.
    edges = np.arange(1, bins + 1) / bins
    return np.append(0, np.searchsorted(order.confidence, edges, side="right"))


def mass_cuts(total: FloatArray, bins: int) -> FloatArray:
    """Where `numpy.array_split` cuts `total` images, larger bins first: `[B, bins + 1]`.

    >>> mass_cuts(np.array([7.0]), 3)
    array([[0., 3., 5., 7.]])
    """
    k = np.arange(bins + 1.0)
    size, larger = np.divmod(total[:, None], bins)
    return k * size + np.minimum(k, larger)


def size_cuts(total: FloatArray, per_bin: int) -> FloatArray:
    """Where `total` images are cut after every `per_bin`-th image, `[B, most bins + 1]`.

    The rest belongs to the last bin; a row with fewer bins ends with empty ones.

    >>> size_cuts(np.array([250.0, 99.0]), 100)
    array([[  0., 100., 250.],
           [  0.,  99.,  99.]])
    """
    bins = np.maximum(total // per_bin, 1)[:, None]
    k = np.arange(bins.max() + 1)
    return np.where(k < bins, k * per_bin, total[:, None])


def merge_groups(order: ConfidenceOrder, most: int, bins: int) -> ConfidenceOrder:
    """Merge neighbouring confidences into at most `most` groups, none across equal-width bins.

    >>> order = order_by_confidence(np.arange(90) / 100, np.ones(90, dtype=bool))
    >>> len(merge_groups(order, 30, 10).groups) - 1
    28
    """
    levels = order.groups
    if len(levels) - 1 <= most:
        return order
    # Groups at high confidence are smaller: a small coverage at a risk depends on few images.
    targets = levels[-1] * (1 - np.linspace(1, 0, most - bins + 1) ** 1.5)
    edges = levels[np.searchsorted(levels, targets)]
    return order._replace(groups=np.union1d(edges, width_places(order, bins)))


def sums_below(
    order: ConfidenceOrder,
    weights: npt.NDArray[Any],
    totals: FloatArray,
    columns: Sequence[Column],
    places: IntArray = NO_PLACES,
    cuts: FloatArray | None = None,
) -> FloatArray:
    """Count the images below given confidences in each resample, and sum columns over them.

    Args:
        order: the images in order of confidence.
        weights: how often each image counts, `[B, n]`.
        totals: float64 `[B]`, the sums of the weights.
        columns: `[n]` each, in order of confidence: bool, or float64 in [0, 1].
        places: int64 `[places]`, each a number of images of the order to sum over. A place must not
            separate images with equal confidence.
        cuts: float64 `[B, cuts]`, each a number of counted images to sum over. If a cut separates
            images with equal confidence, all of these count in equal parts, so that their order
            does not matter.

    Returns:
        float64 `[1 + columns, B, places + cuts]`.

    Whole counts are added in 64-bit integers, so that the order of adding does not change the last
    bits. Float columns are added in the same way; for up to a million images, their rounding error
    is below 1e-12.

    >>> order = order_by_confidence(np.array([0.5, 0.9, 0.5]), np.array([True, True, False]))
    >>> sums_below(order, np.array([[1, 1, 2]]), np.array([4.0]), [order.wrong], order.groups)[:, 0]
    array([[0., 3., 4.],
           [0., 2., 2.]])
    """
    if cuts is None:
        cuts = np.empty((len(weights), 0))
    sums = np.empty((1 + len(columns), len(weights), len(places) + cuts.shape[1]))
    step = max(1, TOGETHER // len(order.images))  # resamples at a time
    running = _Running(order, columns, weights.dtype, totals.max(), min(step, len(weights)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        running.add_up(weights[rows])
        running.put(places, cuts[rows], sums[:, rows])
    return sums


def level_and_bin_sums(
    order: ConfidenceOrder,
    weights: npt.NDArray[Any],
    totals: FloatArray,
    places: IntArray,
    cuts: FloatArray,
) -> tuple[LevelSums, FloatArray]:
    """Compute in one pass the sums at the groups of the order and those at places and cuts.

    Arguments as in `sums_below`.

    Returns:
        The sums of ones and `wrong` at the groups; and float64 `[3, B, places + cuts]`, the sums of
        ones, `wrong` and `confidence` at the places and cuts.

    >>> order = order_by_confidence(np.array([0.5, 0.75]), np.array([True, False]))
    >>> ones, cut = np.ones((1, 2)), np.array([[1.0]])
    >>> levels, below = level_and_bin_sums(order, ones, ones.sum(axis=1), NO_PLACES, cut)
    >>> levels.wrong.tolist(), below[:, 0, 0].tolist()
    ([[0.0, 0.0, 1.0]], [1.0, 0.0, 0.5])
    """
    columns, groups = (order.wrong, order.confidence), len(order.groups)
    below = sums_below(order, weights, totals, columns, np.append(order.groups, places), cuts)
    return LevelSums(*below[:2, :, :groups]), below[:, :, groups:]


class _Running:
    """Running sums of ones and of columns for a few resamples at once; the memory is reused."""

    def __init__(
        self,
        order: ConfidenceOrder,
        columns: Sequence[Column],
        dtype: np.dtype[Any],
        most: float,
        rows: int,
    ) -> None:
        n = len(order.images)
        self.order = order
        whole = np.issubdtype(dtype, np.integer)
        # As many binary digits as leave room for the sum of `most` numbers of at most 1.
        unit = 2.0 ** (62 - int(most).bit_length()) if whole else 1.0
        exact: np.dtype[Any] = np.dtype(np.int64 if whole else np.float64)
        # Half the memory takes half the time on CPUs with small caches.
        narrow = np.dtype(np.int32) if whole and most < 2**31 else exact
        self.counts = np.empty((rows, n), dtype)
        self.columns: list[npt.NDArray[Any]] = []
        self.sums: list[npt.NDArray[Any]] = [np.zeros((rows, n + 1), narrow)]
        self.units = [1.0]
        for column in columns:
            is_bool = column.dtype == np.bool_
            scaled = np.rint(column * unit) if whole and not is_bool else column
            self.columns.append(scaled.astype(dtype if is_bool else exact))
            self.sums.append(np.zeros((rows, n + 1), narrow if is_bool else exact))
            self.units.append(1.0 if is_bool else unit)
        self.products = [np.empty((rows, n), column.dtype) for column in self.columns]

    def add_up(self, weights: npt.NDArray[Any]) -> None:
        """Compute the running sums of the next resamples; `weights` has at most `rows` rows."""
        rows = len(weights)
        counts = self.counts[:rows]
        # Copying reads the weights in order, and `take` then reads the copy from the cache. "wrap"
        # is the fastest mode of `take`; no index is out of range.
        np.take(weights.copy(), self.order.images, axis=1, out=counts, mode="wrap")
        np.cumsum(counts, axis=1, out=self.sums[0][:rows, 1:])
        for column, product, sums in zip(self.columns, self.products, self.sums[1:], strict=True):
            np.multiply(counts, column, out=product[:rows])
            np.cumsum(product[:rows], axis=1, out=sums[:rows, 1:])

    def put(self, places: IntArray, cuts: FloatArray, target: FloatArray) -> None:
        """Write sums at places and then sums at cuts into `[sums, rows, places + cuts]`."""
        few, rows = len(places), len(cuts)
        for sums, unit, into in zip(self.sums, self.units, target[:, :, :few], strict=True):
            into[:] = np.take(sums[:rows], places, axis=1)
            if unit != 1:
                into /= unit
        if not cuts.size:
            return
        ends = self.sums[0][:rows, 1:]
        wanted = cuts.astype(ends.dtype)
        place = np.empty(cuts.shape, dtype=np.intp)
        for found, *row in zip(place, ends, wanted, strict=True):
            found[:] = np.searchsorted(*row)
        np.minimum(place, len(self.order.images) - 1, out=place)
        # The images whose confidence is cut are between these.
        around = self.order.start[place], self.order.stop[place]
        before, after = (
            np.array(
                [
                    np.take_along_axis(each[:rows], at, axis=1) / unit
                    for each, unit in zip(self.sums, self.units, strict=True)
                ]
            )
            for at in around
        )
        inside, size = cuts - before[0], after[0] - before[0]
        part = np.divide(inside, size, out=np.zeros_like(inside), where=size > 0)
        target[:, :, few:] = before + part * (after - before)


def level_sums(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> LevelSums:
    """Count the images and the wrong ones below each distinct confidence.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; all ones by default.

    >>> level_sums([0.5, 0.9, 0.5], [True, True, False]).wrong
    array([[0., 1., 1.]])
    """
    n = check_columns(confidence=confidence, correct=correct)
    rows = as_rows(weights, n)
    order = order_by_confidence(as_confidence(confidence), np.asarray(correct, dtype=bool))
    return LevelSums(*sums_below(order, rows, rows.sum(axis=1), [order.wrong], order.groups))


def rank_area(levels: LevelSums) -> FloatArray:
    """Share of (right, wrong) pairs of images in which the right one is more confident, `[B]`.

    Ties count half; NaN if there is no pair. Source: Hand and Till 2001, section 2.

    >>> rank_area(level_sums([0.5, 0.9, 0.5], [True, True, False]))
    array([0.75])
    """
    wrong, right = levels.wrong, levels.images - levels.wrong
    middle = (wrong[:, 1:] + wrong[:, :-1]) / 2  # wrong images below, and half of the ties
    wins = (np.diff(right) * middle).sum(axis=1)
    return ratio(wins, right[:, -1] * wrong[:, -1])


def as_confidence(confidence: npt.ArrayLike, name: str = "confidence") -> FloatArray:
    """Return the confidences as float64, or raise `InputError` where one is not a number.

    >>> as_confidence([1, 0])
    array([1., 0.])
    """
    sure = np.asarray(confidence, dtype=np.float64)
    if np.isnan(sure).any():
        raise InputError(f"{name} has {int(np.isnan(sure).sum())} values that are not a number")
    return sure
