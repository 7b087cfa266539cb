"""Per-image columns: how they are made from logits, checked, weighted and summed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special

from fairweather.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Result = float | FloatArray
# 97.5 % quantile of the normal distribution, for two-sided 95 % intervals.
Z95 = 1.959963984540054
TAIL = 0.025  # what they leave out on each side
# A share closer to 0 or 1 than this differs from it only by rounding.
ROUNDING = 1e-12
# A skewness below this is taken to be 0: its correction would be lost by rounding.
SYMMETRIC = 1e-4


def check_columns(**columns: npt.ArrayLike) -> int:
    """Return the number of images, or raise `InputError` unless every column is `[n]` with n > 0.

    >>> check_columns(confidence=[0.5, 0.9], correct=[True, False])
    2
    """
    shapes = {name: np.shape(column) for name, column in columns.items()}
    first = next(iter(shapes.values()))
    if len(first) != 1 or any(shape != first for shape in shapes.values()):
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(
            f"per-image columns must be one-dimensional and equally long, found {found}"
        )
    if first[0] == 0:
        raise InputError(f"a metric needs at least one image, but {next(iter(shapes))} is empty")
    return first[0]


def check_labels(labels: npt.NDArray[Any], classes: int, name: str = "labels") -> None:
    """Raise `InputError` if a label is not the number of one of so many classes.

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


def as_rows(weights: npt.ArrayLike | None, n: int) -> FloatArray:
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


def check_counts(rows: npt.NDArray[Any]) -> None:
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


def as_result(values: FloatArray, *weights: npt.ArrayLike | None) -> Result:
    """Return `[B]` values unchanged for 2-D weights; otherwise return the only value as a float."""
    has_rows = any(np.ndim(each) == 2 for each in weights)  # type: ignore[arg-type]
    return values if has_rows else float(values[0])


def weighted_mean(
    column: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, name: str = "column"
) -> Result:
    """Mean of a per-image column, image i counted `weights[i]` times.

    Args:
        column: `[n]`, bool or a number without NaN.
        weights: `[n]` or `[B, n]`; all ones by default.
        name: the name of the column in error messages.

    >>> weighted_mean([1.0, 4.0], [2, 1])
    2.0
    """
    n = check_columns(**{name: column})
    values = np.asarray(column, dtype=np.float64)
    if np.isnan(values).any():
        raise InputError(f"{name} has {int(np.isnan(values).sum())} values that are not a number")
    rows = as_rows(weights, n)
    return as_result(rows @ values / rows.sum(axis=1), weights)


def sum_groups(group: npt.NDArray[np.integer], columns: FloatArray, groups: int) -> FloatArray:
    """Sum the rows of `columns` `[n, B]` by group number `[n]`: float64 `[groups, B]`.

    >>> sum_groups(np.array([0, 2, 0]), np.array([[1.0], [2.0], [3.0]]), 3).ravel()
    array([4., 0., 2.])
    """
    n = len(group)
    if n and not 0 <= group.min() <= group.max() < groups:
        found = f"{group.min()} to {group.max()}"
        raise ValueError(f"group numbers must be 0 to {groups - 1}, found {found}")
    # A sparse product needs one pass over the columns, for any number of groups. Each image is a
    # column of the matrix with one entry, so that nothing has to be sorted; SciPy checks no number.
    member = scipy.sparse.csc_array((np.ones(n), group, np.arange(n + 1)), shape=(groups, n))
    return np.asarray(member @ columns)


def order_by_label(
    labels: npt.NDArray[np.integer],
) -> tuple[IntArray, IntArray]:
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
    weights: npt.NDArray[Any], matrix: npt.NDArray[np.floating], bounds: IntArray
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
    """Divide rows into blocks of at most so many numbers, which limits the memory.

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
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1).astype(np.float64))


class PerImage(NamedTuple):
    """The columns that are computed from each image's logits.

    Attributes:
        predicted: int64 `[n]`, the class with the largest logit (the first one if there are ties).
        confidence: float64 `[n]`, the largest probability.
        top5_correct: bool `[n]`: are fewer than five logits greater than the label's.
        nll: float64 `[n]`, minus the log of the label's probability, in nats.
        brier: float64 `[n]`, squared distance of the probabilities to the one-hot label, in [0, 2].
    """

    predicted: IntArray
    confidence: FloatArray
    top5_correct: npt.NDArray[np.bool_]
    nll: FloatArray
    brier: FloatArray


def softmax(logits: npt.ArrayLike) -> FloatArray:
    """Probabilities of each row of logits, float64 `[n, classes]`; finite for any finite logits.

    >>> softmax([[1000.0, 1000.0]])
    array([[0.5, 0.5]])
    """
    return np.exp(_log_softmax(logits))


def per_image(logits: npt.ArrayLike, labels: npt.ArrayLike) -> PerImage:
    """Reduce logits to the per-image columns, in float64.

    Args:
        logits: float `[n, classes]`, finite.
        labels: int `[n]`, each in `[0, classes)`.

    >>> columns = per_image([[2.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> columns.predicted.tolist(), columns.top5_correct.tolist(), columns.nll.round(3).tolist()
    ([0, 0], [True, True], [0.127, 0.693])
    """
    log_probabilities = _log_softmax(logits)
    scores, truth = np.asarray(logits), np.asarray(labels)
    n, classes = scores.shape
    if truth.shape != (n,) or not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype} {list(truth.shape)}")
    check_labels(truth, classes)
    probabilities = np.exp(log_probabilities)
    one_hot = np.arange(classes) == truth[:, None]
    return PerImage(
        predicted=scores.argmax(axis=1).astype(np.int64),
        confidence=probabilities.max(axis=1),
        top5_correct=(scores > scores[one_hot][:, None]).sum(axis=1) < 5,
        # `0.0 -`, because `-` alone would give -0.0 for a right prediction with probability 1.
        nll=0.0 - log_probabilities[one_hot],
        brier=np.square(probabilities - one_hot).sum(axis=1),
    )


def _log_softmax(logits: npt.ArrayLike) -> FloatArray:
    return np.asarray(scipy.special.log_softmax(finite_logits(logits), axis=1))


def finite_logits(logits: npt.ArrayLike) -> FloatArray:
    """Return logits as float64 `[n, classes]`, or raise `InputError` unless they are finite.

    >>> finite_logits([[1, 0]])
    array([[1., 0.]])
    """
    rows = np.asarray(logits, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(f"logits must be [n, classes] and not empty, found {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise InputError(f"logits must be finite, found {bad} images with NaN or infinite logits")
    return rows


def wilson_interval(share: npt.ArrayLike, count: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
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
    share: npt.ArrayLike, count: npt.ArrayLike, tests: int = 1
) -> tuple[FloatArray, FloatArray]:
    """Return the exact 95 % interval of shares of `count` images each: no tail is above 2.5 %.

    Args:
        share: in [0, 1]; the interval of NaN is NaN.
        count: numbers of images, above 0, with a shape that broadcasts with `share`; they need not
            be whole.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

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
    value: npt.ArrayLike, spread: npt.ArrayLike, skewness: npt.ArrayLike, deviate: float
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
    v, s, g = (np.asarray(each, dtype=np.float64) for each in (value, spread, skewness))
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
