"""Running sums over the images in order of confidence: all that most metrics need of a resample.

Metrics that look at (confidence, correct) alone are sums between cuts of the images in order of
confidence. The order is that of the images and not of the resample, so it is found once; a resample
then takes one pass over its counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, IntArray, as_rows, check_columns, ratio

Column = npt.NDArray[np.bool_ | np.float64]
# Counts that are added up at once: of few images several resamples, within the cache.
TOGETHER = 2**14
# No sums over a given number of images, or none at given places.
NO_PLACES: IntArray = np.empty(0, dtype=np.int64)


class ConfidenceOrder(NamedTuple):
    """Images in order of confidence, the least confident first.

    Attributes:
        images: int64 `[n]`, the place of each in the columns.
        confidence: float64 `[n]`, rising.
        wrong: bool `[n]`.
        start, stop: int64 `[n]`, where the images of the same confidence begin and end.
        groups: int64 `[groups + 1]`, where groups of neighbouring confidences begin and end. No
            confidence is parted by them.
    """

    images: IntArray
    confidence: FloatArray
    wrong: npt.NDArray[np.bool_]
    start: IntArray
    stop: IntArray
    groups: IntArray


class LevelSums(NamedTuple):
    """Images below each level of confidence, and at last all of them; a row a resample.

    A level is a confidence, or a group of neighbouring ones; they rise.

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
        """Share of these that is wrong, `[B, levels]`; NaN where there are none."""
        return ratio(self.wrong[:, -1:] - self.wrong[:, :-1], self.answered)


def order_by_confidence(
    confidence: FloatArray, correct: npt.NDArray[np.bool_ | np.float64]
) -> ConfidenceOrder:
    """Find the order of the images, every confidence a group of its own.

    >>> order = order_by_confidence(np.array([0.9, 0.3, 0.9]), np.array([True, False, True]))
    >>> order.images.tolist(), order.groups.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    n = len(confidence)
    images = np.argsort(confidence)  # unstable and fast: no order of equals shows
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
    # Against the float64 edges k/bins, because 0.3 * 10 and the like round across an edge. Upper
    # edges are included: a confidence of exactly 1, which saturated logits do give, is in the last.
    edges = np.arange(1, bins + 1) / bins
    return np.append(0, np.searchsorted(order.confidence, edges, side="right"))


def mass_cuts(total: FloatArray, bins: int) -> FloatArray:
    """Where `numpy.array_split` cuts so many images, larger bins first: `[B, bins + 1]`.

    >>> mass_cuts(np.array([7.0]), 3)
    array([[0., 3., 5., 7.]])
    """
    k = np.arange(bins + 1.0)
    size, larger = np.divmod(total[:, None], bins)
    return k * size + np.minimum(k, larger)


def size_cuts(total: FloatArray, per_bin: int) -> FloatArray:
    """Where so many images are cut after every `per_bin`-th, `[B, most bins + 1]`.

    The rest stays with the last bin; a row of fewer bins ends in empty ones.

    >>> size_cuts(np.array([250.0, 99.0]), 100)
    array([[  0., 100., 250.],
           [  0.,  99.,  99.]])
    """
    bins = np.maximum(total // per_bin, 1)[:, None]
    k = np.arange(bins.max() + 1)
    return np.where(k < bins, k * per_bin, total[:, None])


def merge_groups(order: ConfidenceOrder, most: int, bins: int) -> ConfidenceOrder:
    """Merge neighbouring confidences into at most so many groups, but none across equal-width bins.

    >>> order = order_by_confidence(np.arange(90) / 100, np.ones(90, dtype=bool))
    >>> len(merge_groups(order, 30, 10).groups) - 1
    28
    """
    levels = order.groups
    if len(levels) - 1 <= most:
        return order
    # Groups of the surest images are smaller: a small coverage at a risk is decided among few.
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
    """Add up the less confident images of each resample: how many, and some of their columns.

    Args:
        order: of the images.
        weights: how often each image counts, `[B, n]`.
        totals: float64 `[B]`, their sums.
        columns: `[n]` each, in that order: bool, or float64 in [0, 1].
        places: int64 `[places]`, so many images of the order are below; no confidence is parted.
        cuts: float64 `[B, cuts]`, so many counted images are below. Those of equal confidence count
            in equal parts, so that no order among them shows.

    Returns:
        float64 `[1 + columns, B, places + cuts]`.

    Whole counts are added in 64-bit integers, float columns too (rounded to less than 1e-12 for up
    to a million images), so that no order of adding shows in the last bits.

    >>> order = order_by_confidence(np.array([0.5, 0.9, 0.5]), np.array([True, True, False]))
    >>> sums_below(order, np.array([[1, 1, 2]]), np.array([4.0]), [order.wrong], order.groups)[:, 0]
    array([[0., 3., 4.],
           [0., 2., 2.]])
    """
    many = 0 if cuts is None else cuts.shape[1]
    sums = np.empty((1 + len(columns), len(weights), len(places) + many))
    for rows, running in _run(order, weights, totals, columns):
        if cuts is None:
            running.put(places, sums[:, rows])
        else:
            running.put_with_cuts(places, cuts[rows], sums[:, rows])
    return sums


def level_and_bin_sums(
    order: ConfidenceOrder,
    weights: npt.NDArray[Any],
    totals: FloatArray,
    places: IntArray,
    cuts: FloatArray,
) -> tuple[LevelSums, FloatArray]:
    """Add up in one pass what `sums_below` does of being wrong at the groups of the order.

    Returns:
        These, and float64 `[3, B, places + cuts]` of ones, wrong and confidence at the others.

    >>> order = order_by_confidence(np.array([0.5, 0.75]), np.array([True, False]))
    >>> ones, cut = np.ones((1, 2)), np.array([[1.0]])
    >>> levels, below = level_and_bin_sums(order, ones, ones.sum(axis=1), NO_PLACES, cut)
    >>> levels.wrong.tolist(), below[:, 0, 0].tolist()
    ([[0.0, 0.0, 1.0]], [1.0, 0.0, 0.5])
    """
    levels = np.empty((2, len(weights), len(order.groups)))
    below = np.empty((3, len(weights), len(places) + cuts.shape[1]))
    for rows, running in _run(order, weights, totals, (order.wrong, order.confidence)):
        running.put(order.groups, levels[:, rows])
        running.put_with_cuts(places, cuts[rows], below[:, rows])
    return LevelSums(*levels), below


def _run(
    order: ConfidenceOrder,
    weights: npt.NDArray[Any],
    totals: FloatArray,
    columns: Sequence[Column],
) -> Iterator[tuple[slice, _Running]]:
    """Take up a few resamples after others: which, and their running sums until the next."""
    step = max(1, TOGETHER // len(order.images))
    running = _Running(order, columns, weights.dtype, totals.max(), min(step, len(weights)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        running.add_up(weights[rows])
        yield rows, running


class _Running:
    """Running sums of ones and of columns, for a few resamples at once, in the same memory."""

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
        # As many binary places as leave room for the sum of `most` numbers of up to 1.
        unit = 2.0 ** (62 - int(most).bit_length()) if whole else 1.0
        exact: np.dtype[Any] = np.dtype(np.int64 if whole else np.float64)
        # Half the memory is half the time, where caches are small.
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
        """Take up the next resamples, at most so many as there are rows."""
        rows = len(weights)
        counts = self.counts[:rows]
        # A copy is read in order, and lies in the cache when it is read in another. No mode of
        # taking is faster than "wrap"; no place lies outside.
        np.take(weights.copy(), self.order.images, axis=1, out=counts, mode="wrap")
        np.cumsum(counts, axis=1, out=self.sums[0][:rows, 1:])
        for column, product, sums in zip(self.columns, self.products, self.sums[1:], strict=True):
            np.multiply(counts, column, out=product[:rows])
            np.cumsum(product[:rows], axis=1, out=sums[:rows, 1:])

    def put(self, places: IntArray, target: FloatArray) -> None:
        """Put sums over the images before these places into `[sums, rows, places]`.

        There may be fewer of them than columns: it is the first that are put.
        """
        for sums, unit, into in zip(self.sums, self.units, target, strict=False):
            into[:] = np.take(sums[: len(into)], places, axis=1)
            if unit != 1:
                into /= unit

    def put_with_cuts(self, places: IntArray, cuts: FloatArray, target: FloatArray) -> None:
        """Put these too, and then sums over so many images, into `[sums, rows, places + cuts]`."""
        last, few, many = len(self.order.images) - 1, len(places), cuts.shape[1]
        for row, wanted in enumerate(cuts):
            ends = self.sums[0][row, 1:]
            place = np.minimum(np.searchsorted(ends, wanted.astype(ends.dtype)), last)
            # The images of the confidence that is cut lie between these.
            start, stop = self.order.start[place], self.order.stop[place]
            around = np.concatenate([places, start, stop])
            sums = zip(self.sums, self.units, strict=True)
            found = np.array([each[row][around] / unit for each, unit in sums])
            before, after = found[:, few:-many], found[:, -many:]
            inside, size = wanted - before[0], after[0] - before[0]
            part = np.divide(inside, size, out=np.zeros_like(inside), where=size > 0)
            target[:, row, :few] = found[:, :few]
            target[:, row, few:] = before + part * (after - before)


def level_sums(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> LevelSums:
    """Count the images and the wrong ones below each distinct confidence.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
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
    """Share of the pairs of a right and a wrong image that have the right one above, `[B]`.

    Ties count half; NaN without a pair. Source: Hand and Till 2001, section 2.

    >>> rank_area(level_sums([0.5, 0.9, 0.5], [True, True, False]))
    array([0.75])
    """
    wrong, right = levels.wrong, levels.images - levels.wrong
    middle = (wrong[:, 1:] + wrong[:, :-1]) / 2  # wrong images below, and half of those beside
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
