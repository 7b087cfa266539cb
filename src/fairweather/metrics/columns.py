"""Per-image columns: made from logits, checked, weighted, and summed by label or by confidence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError
from fairweather.types.measurement import BoolArray as BoolArray
from fairweather.types.measurement import FloatArray as FloatArray
from fairweather.types.measurement import IntArray as IntArray

LabelArray = NDArray[np.integer]
# How often each image counts, `[n]` or `[B, n]`; None counts each once.
Weights = ArrayLike | None
Result = float | FloatArray
Ends = tuple[float, float]  # of an interval
# 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
Z95 = 1.959963984540054
TAIL = 0.025  # the part outside them on each side
RESAMPLES = 1000  # as runs have unless they say otherwise
# A share closer to 0 or 1 than this differs from it only by rounding.
ROUNDING = 1e-12
LOGITS_AT_ONCE = 2**16  # float64 numbers that stay in the cache of a core: 0.5 MB
# A smaller skewness counts as 0, because rounding would hide its correction.
SYMMETRIC = 1e-4


def check_columns(**columns: ArrayLike) -> int:
    """Return the number of images, or raise `InputError` unless every column is `[n]` with n > 0.

    >>> check_columns(confidence=[0.5, 0.9], correct=[True, False])
    2
    """
    shapes = {name: np.shape(column) for name, column in columns.items()}
    name, shape = next(iter(shapes.items()))
    if len(shape) != 1 or len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(
            f"per-image columns must be one-dimensional and equally long, found {listed}"
        )
    if not shape[0]:
        raise InputError(f"a metric needs at least one image, but {name} is empty")
    return shape[0]


def check_labels(labels: NDArray[Any], classes: int, name: str = "labels") -> None:
    """Raise `InputError` if a label is not the number of a class.

    >>> check_labels(np.array([0, 1]), classes=2)
    """
    if not 0 <= labels.min() <= labels.max() < classes:
        span = f"{labels.min()} to {labels.max()}"
        raise InputError(f"{name} go from {span}, but there are {classes} classes")


def check_shares(values: FloatArray, name: str) -> None:
    """Raise `InputError` if a value is not in [0, 1].

    >>> check_shares(np.array([0.0, 1.0]), "confidence")
    """
    inside = (values >= 0) & (values <= 1)  # NaN fails the comparison too
    if not inside.all():
        raise InputError(f"{name} must be in [0, 1], found {values[~inside][0]}")


def as_rows(weights: Weights, n: int) -> FloatArray:
    """Return the weights as float64 `[B, n]`: one row of ones for None, one row for `[n]`.

    Raises `InputError` unless the weights are finite, not negative, and not all 0 in any row.

    >>> as_rows(None, 3)
    array([[1., 1., 1.]])
    """
    if weights is None:
        return np.ones((1, n))
    rows = np.asarray(weights, dtype=np.float64)
    if rows.ndim not in (1, 2) or rows.shape[-1] != n or rows.size == 0:
        raise InputError(f"weights must be [{n}] or [B, {n}], found {list(rows.shape)}")
    rows = np.atleast_2d(rows)
    check_counts(rows)
    return rows


def check_counts(rows: NDArray[Any]) -> None:
    """Raise `InputError` unless `[B, n]` are finite, not negative, and not all 0 in any row.

    >>> check_counts(np.array([[0, 3]]))
    """
    # NaN fails every comparison, so the negation catches it too.
    if not rows.min() >= 0 or not rows.max() < np.inf:
        raise InputError(
            "weights must be finite and not negative: they say how often an image counts"
        )
    if not rows.any(axis=1).all():
        raise InputError("every row of weights must count at least one image")


def as_result(values: FloatArray, *weights: Weights) -> Result:
    """Return `[B]` values unchanged for 2-D weights; otherwise return the only value as a float."""
    has_rows = any(np.ndim(counts) == 2 for counts in weights)  # type: ignore[arg-type]
    return values if has_rows else float(values[0])


def weighted_mean(column: ArrayLike, weights: Weights = None, *, name: str = "column") -> Result:
    """Mean of a per-image column, image i counted `weights[i]` times.

    Args:
        column: `[n]`, bool or a number without NaN.
        weights: `[n]` or `[B, n]`; all ones by default.
        name: the name of the column in error messages.

    >>> weighted_mean([1.0, 4.0], [2, 1])
    2.0
    """
    n = check_columns(**{name: column})
    values = as_numbers(column, name)
    rows = as_rows(weights, n)
    return as_result(rows @ values / rows.sum(axis=1), weights)


def sum_by_number(numbers: LabelArray, columns: FloatArray, count: int) -> FloatArray:
    """Sum the rows of `columns` `[n, B]` by their numbers `[n]`: float64 `[count, B]`.

    >>> sum_by_number(np.array([0, 2, 0]), np.array([[1.0], [2.0], [3.0]]), 3).ravel()
    array([4., 0., 2.])
    """
    n = len(numbers)
    if n and not 0 <= numbers.min() <= numbers.max() < count:
        span = f"{numbers.min()} to {numbers.max()}"
        raise ValueError(f"the numbers of rows must be 0 to {count - 1}, found {span}")
    # A sparse product needs one pass over the columns, for any count. Each image is a
    # column of the matrix with one entry, so that nothing has to be sorted; SciPy checks no number.
    member = scipy.sparse.csc_array((np.ones(n), numbers, np.arange(n + 1)), shape=(count, n))
    return np.asarray(member @ columns)


def order_by_label(labels: LabelArray) -> tuple[IntArray, IntArray]:
    """Sort the images by label, so that a sum over a class is a sum over a slice.

    Returns:
        The position of each image in the columns, int64 `[n]`; and where the images of each label
        present begin and end in this order, int64 `[labels + 1]`.

    >>> order, bounds = order_by_label(np.array([4, 1, 4]))
    >>> order.tolist(), bounds.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return order, np.append(starts, len(labels))


def sum_by_label(
    weights: NDArray[Any], matrix: NDArray[np.floating], bounds: IntArray
) -> FloatArray:
    """Sum the columns over the images of each label present: float64 `[labels, B, columns]`.

    Args:
        weights: how often each image counts, `[B, n]`, in the order of `order_by_label`.
        matrix: `[n, columns]` in the same order; its dtype is that of the arithmetic.
        bounds: from `order_by_label`.

    >>> sum_by_label(np.array([[1, 1, 2]]), np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 3]))
    array([[[1.]],
    <BLANKLINE>
           [[8.]]])
    """
    sums = np.empty((len(bounds) - 1, len(weights), matrix.shape[1]))
    for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
        sums[k] = weights[:, start:stop].astype(matrix.dtype) @ matrix[start:stop]
    return sums


def blocks(count: int, width: int, most: int) -> Iterator[slice]:
    """Divide rows into blocks with a limited number of values, which limits the memory.

    >>> list(blocks(count=3, width=10, most=25))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    step = max(1, most // width)
    return (slice(at, at + step) for at in range(0, count, step))


def ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Divide, with NaN where the whole is 0.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def nanmean(values: FloatArray) -> FloatArray:
    """Mean over the last axis without NaN; NaN if all values are NaN.

    >>> nanmean(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    array([ 1., nan])
    """
    valid = ~np.isnan(values)
    return ratio(np.where(valid, values, 0).sum(axis=-1), valid.sum(axis=-1).astype(np.float64))


class PerImage(NamedTuple):
    """The columns that are computed from each image's logits."""

    predicted: IntArray
    """int64 `[n]`, the class with the largest logit (the first one if there are ties)."""

    confidence: FloatArray
    """float64 `[n]`, the largest probability."""

    top5_correct: BoolArray
    """Bool `[n]`: are fewer than five logits greater than the label's."""

    nll: FloatArray
    """float64 `[n]`, minus the log of the label's probability, in nats."""

    brier: FloatArray
    """float64 `[n]`, squared distance of the probabilities to the one-hot label, in [0, 2]."""


def softmax(logits: ArrayLike) -> FloatArray:
    """Probabilities of each row of logits, float64 `[n, classes]`; finite for any finite logits.

    >>> softmax([[1000.0, 1000.0]])
    array([[0.5, 0.5]])
    """
    return np.exp(_log_softmax(logits))


def per_image(logits: ArrayLike, labels: ArrayLike) -> PerImage:
    """Reduce logits to the per-image columns, in float64.

    Args:
        logits: float `[n, classes]`, finite.
        labels: int `[n]`, each in `[0, classes)`.

    >>> columns = per_image([[2.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> columns.predicted.tolist(), columns.top5_correct.tolist(), columns.nll.round(3).tolist()
    ([0, 0], [True, True], [0.127, 0.693])
    """
    rows, truth = check_rows(logits), np.asarray(labels)
    n, classes = rows.shape
    if truth.shape != (n,) or not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype} {list(truth.shape)}")
    check_labels(truth, classes)
    parts = [_per_row(rows[some], truth[some]) for some in blocks(n, classes, LOGITS_AT_ONCE)]
    return PerImage(*map(np.concatenate, zip(*parts, strict=True)))


def _per_row(logits: FloatArray, truth: IntArray) -> PerImage:
    log_probabilities = scipy.special.log_softmax(logits, axis=1)
    probabilities = np.exp(log_probabilities)
    confidence = probabilities.max(axis=1)
    own = np.arange(len(truth)), truth
    probabilities[own] -= 1  # now the distance to the one-hot label
    return PerImage(
        predicted=logits.argmax(axis=1).astype(np.int64),
        confidence=confidence,
        top5_correct=np.count_nonzero(logits > logits[own][:, None], axis=1) < 5,
        # `0.0 -`, because `-` alone would give -0.0 for a right prediction with probability 1.
        nll=0.0 - log_probabilities[own],
        brier=np.square(probabilities, out=probabilities).sum(axis=1),
    )


class TrueLosses(NamedTuple):
    """The losses of images about which more is known than one label."""

    nll: FloatArray
    brier: FloatArray
    """`nll`, `brier`: float64 `[n]`, in nats and in [0, 2]."""


def right_losses(logits: ArrayLike, right: ArrayLike) -> TrueLosses:
    """Losses of images with several right classes, which count as one class together.

    So the negative log-likelihood is that of the sum of their probabilities. The Brier score is the
    squared distance to 1 of this sum, and of each other probability to 0.

    Args:
        logits: float `[n, classes]`, finite.
        right: bool `[n, classes]`, at least one in each row.

    >>> losses = right_losses(np.log([[0.5, 0.25, 0.25]]), np.array([[True, True, False]]))
    >>> losses.nll.round(3).tolist(), losses.brier.round(3).tolist()
    ([0.288], [0.125])
    """
    log_probabilities, is_right = _log_softmax(logits), np.asarray(right, dtype=np.bool_)
    if is_right.shape != log_probabilities.shape or not is_right.any(axis=1).all():
        raise InputError(
            f"right classes must be bool {list(log_probabilities.shape)} with one in each row, "
            f"found {list(is_right.shape)}"
        )
    together = scipy.special.logsumexp(np.where(is_right, log_probabilities, -np.inf), axis=1)
    together = np.minimum(together, 0.0)  # rounding may give a sum above 1
    others = np.where(is_right, 0.0, np.exp(log_probabilities))
    brier = np.square(1 - np.exp(together)) + np.square(others).sum(axis=1)
    return TrueLosses(0.0 - together, brier)


def soft_losses(logits: ArrayLike, shares: ArrayLike) -> TrueLosses:
    """Cross-entropy and squared distance of probabilities to soft labels, which sum to 1.

    Args:
        logits: float `[n, classes]`, finite.
        shares: float `[n, classes]`, the share of people who chose each class.

    >>> losses = soft_losses(np.log([[0.5, 0.5]]), [[0.9, 0.1]])
    >>> losses.nll.round(3).tolist(), losses.brier.round(3).tolist()
    ([0.693], [0.32])
    """
    log_probabilities, truth = _log_softmax(logits), np.asarray(shares, dtype=np.float64)
    if truth.shape != log_probabilities.shape:
        raise InputError(
            f"soft labels must be {list(log_probabilities.shape)}, found {list(truth.shape)}"
        )
    squares = np.square(np.exp(log_probabilities) - truth)
    return TrueLosses(0.0 - (truth * log_probabilities).sum(axis=1), squares.sum(axis=1))


def _log_softmax(logits: ArrayLike) -> FloatArray:
    return np.asarray(scipy.special.log_softmax(check_rows(logits), axis=1))


def check_rows(
    values: ArrayLike, name: str = "logits", axis: str = "classes", entries: str = "logits"
) -> FloatArray:
    """Return logits as float64 `[n, classes]`, or raise `InputError` unless they are finite.

    >>> check_rows([[1, 0]])
    array([[1., 0.]])
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(f"{name} must be [n, {axis}] and not empty, found {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = f"{int((~np.isfinite(rows).all(axis=1)).sum())} images with NaN or infinite {entries}"
        raise InputError(f"{name} must be finite, found {bad}")
    return rows


def wilson_interval(share: ArrayLike, count: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the 95 % Wilson interval of shares of `count` images each; NaN where count is 0.

    Args:
        share: in [0, 1].
        count: numbers of images, with a shape that broadcasts with `share`.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    >>> low, high = wilson_interval(1.0, 12)
    >>> round(float(low), 3), float(high)
    (0.758, 1.0)
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    shrink = 1 + Z95**2 / n
    centre = (p + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    # At shares of 0 and 1 the ends are exactly 0 and 1; the formula would miss them by rounding.
    return np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)


def clopper_pearson(
    share: ArrayLike, count: ArrayLike, tests: float = 1
) -> tuple[FloatArray, FloatArray]:
    """Return the exact 95 % interval of shares of `count` images each: no tail is above 2.5 %.

    Args:
        share: in [0, 1]; the interval of NaN is NaN.
        count: numbers of images, above 0, with a shape that broadcasts with `share`; they need not
            be whole.
        tests: the number of simultaneous 95 % intervals, by Bonferroni's correction.

    Source: Clopper and Pearson 1934, The Use of Confidence or Fiducial Limits; Korn and Graubard
    1998, Confidence Intervals for Proportions with Small Expected Number of Positive Counts, for
    counts that are not whole.

    >>> [float(end.round(3)) for end in clopper_pearson(1.0, 3)]
    [0.292, 1.0]
    """
    p, n = np.asarray(share, dtype=np.float64), np.asarray(count, dtype=np.float64)
    tail = TAIL / tests
    low, high = (
        np.where(part <= ROUNDING, 0, scipy.special.betaincinv(part * n, (1 - part) * n + 1, tail))
        for part in (p, 1 - p)
    )
    return low, 1 - high


def bent_interval(
    value: ArrayLike, spread: ArrayLike, skewness: ArrayLike, deviate: float
) -> tuple[FloatArray, FloatArray]:
    """Return value ± deviate x spread, bent for the skewness of the value's error.

    The error, in units of its spread, is made symmetric by a cubic polynomial that depends on the
    skewness; this is solved for the ends.

    Args:
        value, spread, skewness: floats with shapes that broadcast; spread is not negative.
        deviate: a quantile, in units of the spread.

    Source: Hall 1992, On the Removal of Skewness by Transformation, section 2, the cubic
    transformation and its inverse.

    >>> [float(end.round(2)) for end in bent_interval(1.0, 0.2, 0.4, 1.96)]
    [0.69, 1.64]
    """
    v, s, g = (np.asarray(number, dtype=np.float64) for number in (value, spread, skewness))
    skewed = np.where(np.abs(g) < SYMMETRIC, np.nan, g)
    low, high = (
        np.where(
            np.isnan(skewed),
            v - end * s,
            v - s * 3 / skewed * (np.cbrt(1 + skewed * (end - skewed / 6)) - 1),
        )
        for end in (deviate, -deviate)
    )
    return low, high


# --- Running sums in order of confidence ---

Column = NDArray[np.bool_ | np.float64]
# The number of counts to add at once, to stay within the CPU's cache; with few images, several
# resamples.
COUNTS_AT_ONCE = 2**14
# For callers of `sums_below` that want sums only at cuts.
NO_PLACES: IntArray = np.empty(0, dtype=np.int64)


class ConfidenceOrder(NamedTuple):
    """Images in order of confidence, the least confident first."""

    images: IntArray
    """int64 `[n]`, the position of each image in the columns."""

    confidence: FloatArray
    """float64 `[n]`, ascending."""

    wrong: BoolArray
    """Bool `[n]`."""

    start: IntArray
    stop: IntArray
    """`start`, `stop`: int64 `[n]`, where the images with the same confidence begin and end."""

    levels: IntArray
    """int64 `[levels + 1]`, where levels begin and end. A level is one confidence or several
    neighbouring ones; images with equal confidence are always on one level."""


class LevelSums(NamedTuple):
    """Counts of images below each level of confidence, and of all images; one row per resample.

    Levels are those of `ConfidenceOrder`, ascending.
    """

    images: FloatArray
    wrong: FloatArray
    """`images`, `wrong`: float64 `[B, levels + 1]`."""

    @property
    def answered(self) -> FloatArray:
        """Images at least as confident as each level, `[B, levels]`."""
        return self.images[:, -1:] - self.images[:, :-1]

    @property
    def risk(self) -> FloatArray:
        """Share of the answered images that is wrong, `[B, levels]`; NaN if none is answered."""
        return ratio(self.wrong[:, -1:] - self.wrong[:, :-1], self.answered)


def order_by_confidence(
    confidence: FloatArray, correct: NDArray[np.bool_ | np.float64]
) -> ConfidenceOrder:
    """Sort the images by confidence; each distinct confidence is one level.

    >>> order = order_by_confidence(np.array([0.9, 0.3, 0.9]), np.array([True, False, True]))
    >>> order.images.tolist(), order.levels.tolist()
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
        levels=levels,
    )


def equal_width_places(order: ConfidenceOrder, bins: int) -> IntArray:
    """Where bins of equal width begin and end among the images, int64 `[bins + 1]`.

    >>> order = order_by_confidence(np.array([0.0, 0.5, 0.6]), np.ones(3, dtype=bool))
    >>> equal_width_places(order, 2).tolist()
    [0, 2, 3]
    """
    # Compare with the float64 edges k/bins, because products such as 0.3 * 10 round across an edge.
    # Upper edges are included: a confidence of exactly 1 (saturated logits) is in the last bin.
    edges = np.arange(1, bins + 1) / bins
    return np.append(0, np.searchsorted(order.confidence, edges, side="right"))


def equal_mass_cuts(total: FloatArray, bins: int) -> FloatArray:
    """Where `numpy.array_split` cuts `total` images, larger bins first: `[B, bins + 1]`.

    >>> equal_mass_cuts(np.array([7.0]), 3)
    array([[0., 3., 5., 7.]])
    """
    k = np.arange(bins + 1.0)
    size, larger = np.divmod(total[:, None], bins)
    return k * size + np.minimum(k, larger)


def fixed_size_cuts(total: FloatArray, per_bin: int) -> FloatArray:
    """Where `total` images are cut after every `per_bin`-th image, `[B, most bins + 1]`.

    The rest belongs to the last bin; a row with fewer bins ends with empty ones.

    >>> fixed_size_cuts(np.array([250.0, 99.0]), 100)
    array([[  0., 100., 250.],
           [  0.,  99.,  99.]])
    """
    bins = np.maximum(total // per_bin, 1)[:, None]
    k = np.arange(bins.max() + 1)
    return np.where(k < bins, k * per_bin, total[:, None])


def merge_levels(order: ConfidenceOrder, most: int, bins: int) -> ConfidenceOrder:
    """Merge neighbouring confidences into at most `most` levels, none across equal-width bins.

    >>> order = order_by_confidence(np.arange(90) / 100, np.ones(90, dtype=bool))
    >>> len(merge_levels(order, 30, 10).levels) - 1
    28
    """
    levels = order.levels
    if len(levels) - 1 <= most:
        return order
    # Levels of high confidence have fewer images: a small coverage at a risk depends on few images.
    targets = levels[-1] * (1 - np.linspace(1, 0, most - bins + 1) ** 1.5)
    edges = levels[np.searchsorted(levels, targets)]
    return order._replace(levels=np.union1d(edges, equal_width_places(order, bins)))


def sums_below(
    order: ConfidenceOrder,
    weights: NDArray[Any],
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
    >>> sums_below(order, np.array([[1, 1, 2]]), np.array([4.0]), [order.wrong], order.levels)[:, 0]
    array([[0., 3., 4.],
           [0., 2., 2.]])
    """
    if cuts is None:
        cuts = np.empty((len(weights), 0))
    sums = np.empty((1 + len(columns), len(weights), len(places) + cuts.shape[1]))
    step = max(1, COUNTS_AT_ONCE // len(order.images))  # resamples at a time
    running = _RunningSums(order, columns, weights.dtype, totals.max(), min(step, len(weights)))
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        running.add_up(weights[rows])
        running.put(places, cuts[rows], sums[:, rows])
    return sums


class _RunningSums:
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
        # Binary digits that leave room for the sum of `most` numbers up to 1.
        unit = 2.0 ** (62 - int(most).bit_length()) if whole else 1.0
        exact: np.dtype[Any] = np.dtype(np.int64 if whole else np.float64)
        # Half the memory takes half the time on CPUs with small caches.
        narrow = np.dtype(np.int32) if whole and most < 2**31 else exact
        self.counts = np.empty((rows, n), dtype)
        self.columns: list[NDArray[Any]] = []
        self.sums: list[NDArray[Any]] = [np.zeros((rows, n + 1), narrow)]
        self.units = [1.0]
        for column in columns:
            is_bool = column.dtype == np.bool_
            scaled = np.rint(column * unit) if whole and not is_bool else column
            self.columns.append(scaled.astype(dtype if is_bool else exact))
            self.sums.append(np.zeros((rows, n + 1), narrow if is_bool else exact))
            self.units.append(1.0 if is_bool else unit)
        self.products = [np.empty((rows, n), column.dtype) for column in self.columns]

    def add_up(self, weights: NDArray[Any]) -> None:
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
        running = [(sums[:rows], unit) for sums, unit in zip(self.sums, self.units, strict=True)]
        for (sums, unit), into in zip(running, target[:, :, :few], strict=True):
            into[:] = np.take(sums, places, axis=1) / unit
        if not cuts.size:
            return
        counted = running[0][0][:, 1:]
        wanted = cuts.astype(counted.dtype)
        place = np.stack(list(map(np.searchsorted, counted, wanted)))
        np.minimum(place, len(self.order.images) - 1, out=place)
        # The images whose confidence is cut are between these.
        before, after = (
            np.array([np.take_along_axis(sums, at, axis=1) / unit for sums, unit in running])
            for at in (self.order.start[place], self.order.stop[place])
        )
        inside, size = cuts - before[0], after[0] - before[0]
        part = np.divide(inside, size, out=np.zeros_like(inside), where=size > 0)
        target[:, :, few:] = before + part * (after - before)


def level_sums(confidence: ArrayLike, correct: ArrayLike, weights: Weights = None) -> LevelSums:
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
    order = order_by_confidence(as_numbers(confidence), np.asarray(correct, dtype=bool))
    return LevelSums(*sums_below(order, rows, rows.sum(axis=1), [order.wrong], order.levels))


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


def as_numbers(column: ArrayLike, name: str = "confidence") -> FloatArray:
    """Return a column as float64, or raise `InputError` where a value is not a number.

    >>> as_numbers([1, 0])
    array([1., 0.])
    """
    values = np.asarray(column, dtype=np.float64)
    if np.isnan(values).any():
        raise InputError(f"{name} has {int(np.isnan(values).sum())} values that are not a number")
    return values
