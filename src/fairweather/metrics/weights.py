"""How often each image counts: the one argument that turns every metric into its own bootstrap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from fairweather.errors import InputError

FloatArray = npt.NDArray[np.float64]
Result = float | FloatArray


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


def as_result(values: FloatArray, weights: npt.ArrayLike | None) -> Result:
    """Return `[B]` values as they are for 2-D weights, and the only one as a float otherwise."""
    return values if np.ndim(weights) == 2 else float(values[0])  # type: ignore[arg-type]


def weighted_mean(
    column: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, name: str = "column"
) -> Result:
    """Mean of a per-image column, image i counted `weights[i]` times.

    Args:
        column: `[n]`, bool or a number without NaN.
        weights: `[n]` or `[B, n]`; all ones by default.
        name: what an error calls the column.

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
    """Sum the images' rows of `columns` `[n, B]` by group number `[n]`: float64 `[groups, B]`.

    >>> sum_groups(np.array([0, 2, 0]), np.array([[1.0], [2.0], [3.0]]), 3).ravel()
    array([4., 0., 2.])
    """
    n = len(group)
    # A sparse product takes one pass over the columns, whatever the number of groups.
    member = scipy.sparse.csr_array((np.ones(n), (group, np.arange(n))), shape=(groups, n))
    return np.asarray(member @ columns)


def order_by_label(
    labels: npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Put the images of a class together, so that sums by class are sums of slices.

    Returns:
        The place of each image in the columns, int64 `[n]`, and where the images of each label that
        is there begin and end in this order, int64 `[labels + 1]`.

    >>> order, bounds = order_by_label(np.array([4, 1, 4]))
    >>> order.tolist(), bounds.tolist()
    ([1, 0, 2], [0, 1, 3])
    """
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return order, np.append(starts, len(labels))


def sum_by_label(
    weights: npt.NDArray[Any], matrix: npt.NDArray[np.floating], bounds: npt.NDArray[np.int64]
) -> FloatArray:
    """Sum the columns over the images of each label that is there: float64 `[labels, B, columns]`.

    Args:
        weights: how often each image counts, `[B, n]`.
        matrix: `[n, columns]`, whose dtype is that of the sums.
        bounds: from `order_by_label`, in whose order weights and matrix are.

    >>> sum_by_label(np.array([[1, 1, 2]]), np.array([[1.0], [2.0], [3.0]]), np.array([0, 1, 3]))
    array([[[1.]],
    <BLANKLINE>
           [[8.]]])
    """
    sums = np.empty((len(bounds) - 1, len(weights), matrix.shape[1]))
    for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
        sums[k] = weights[:, start:stop].astype(matrix.dtype) @ matrix[start:stop]
    return sums


def ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Divide, with NaN where the whole is 0.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def nanmean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is a number; NaN where nothing is.

    >>> nanmean(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    array([ 1., nan])
    """
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1).astype(np.float64))
