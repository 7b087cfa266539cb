"""Calibration of the probabilities of all classes, not only of the predicted class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    FloatArray,
    IntArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    check_shares,
    order_by_label,
    sum_by_label,
)

# float16 probabilities of 1,000 classes still add up to 1 within this tolerance; logits do not.
SUM_TOLERANCE = 0.01


class ClassBins(NamedTuple):
    """The probabilities above the lowest bin of classes that are not the label.

    Attributes:
        images: int64 `[entries]`, the image of each entry; entries are sorted by class and bin.
        probability: float64 `[entries]`, or float32 where that is precise enough.
        starts: int64 `[non-empty bins]`, where the entries of each bin begin.
        bins: int64 `[non-empty bins]`, the number of each bin: class * (bins - 1) + the bin's
            number, counted from the bin above the lowest.
    """

    images: IntArray
    probability: npt.NDArray[np.floating]
    starts: IntArray
    bins: IntArray


def classwise_calibration_error(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
) -> Result:
    """Mean over classes of the expected calibration error of that class's probability, in [0, 1].

    For each class, its probability is the confidence, and an image is right if this class is its
    label. All images count for each class, so with many classes nearly all are in the lowest bin
    and the value is small. It cannot be compared between data sets with different numbers of
    classes. Classes without images count too, as in the source.

    Args:
        probabilities: float `[n, classes]`, each in [0, 1]; each row adds up to 1 within 0.01.
        labels: int `[n]`, each in `[0, classes)`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        bins: how many bins of equal width, at least 1; lower edges excluded, upper included.

    Source: Kull et al. 2019, Beyond temperature scaling (classwise-ECE); Nixon et al. 2019,
    Measuring Calibration in Deep Learning, call it the static calibration error.

    >>> round(classwise_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1]), 3)
    0.25
    """
    n = check_columns(labels=labels)
    columns, truth = _check(probabilities, labels, n)
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    order, bounds = order_by_label(truth)
    rows, columns, truth = as_rows(weights, n)[:, order], columns[order], truth[order]
    excess = excess_columns(columns, truth, bins)
    lowest, own = (sum_by_label(rows, column, bounds) for column in excess)
    present, totals = truth[bounds[:-1]], rows.sum(axis=1)
    error = mean_class_error(rows, class_bins(columns, truth, bins), totals, present, lowest, own)
    return as_result(error, weights)


def excess_columns(
    probabilities: FloatArray, labels: npt.NDArray[np.integer], bins: int
) -> tuple[FloatArray, FloatArray]:
    """Return the columns that `mean_class_error` sums by label: probability minus 1 if right.

    A bin's share times its gap is the sum of these over its images, divided by all images. Most
    probabilities are in the lowest bin or belong to the label, and are columns here; `class_bins`
    has the few others.

    Returns:
        float64 `[n, classes]` for the probabilities in the lowest bin, and 0 for the others; and
        float64 `[n, bins - 1]` for the label's probability, by its bin above the lowest.

    >>> lowest, own = excess_columns(np.array([[0.75, 0.25]]), np.array([0]), bins=2)
    >>> lowest.tolist(), own.tolist()
    ([[0.0, 0.25]], [[-0.25]])
    """
    is_label = np.arange(probabilities.shape[1]) == labels[:, None]
    own = probabilities[is_label]
    is_in = _bins_above_lowest(own, bins)[:, None] == np.arange(bins - 1)
    lowest = np.where(probabilities <= 1 / bins, probabilities - is_label, 0)
    return lowest, is_in * (own - 1)[:, None]


def class_bins(probabilities: FloatArray, labels: npt.NDArray[np.integer], bins: int) -> ClassBins:
    """Find the few probabilities that `excess_columns` does not contain.

    >>> class_bins(np.array([[0.25, 0.75]]), np.array([0]), bins=2).probability
    array([0.75])
    """
    is_label = np.arange(probabilities.shape[1]) == labels[:, None]
    images, label = np.nonzero((probabilities > 1 / bins) & ~is_label)
    probability = probabilities[images, label]
    place = label * (bins - 1) + _bins_above_lowest(probability, bins)
    # A radix sort where 16 bits are enough.
    most = probabilities.shape[1] * bins
    order = np.argsort(place.astype(np.min_scalar_type(most)), kind="stable")
    found, starts = np.unique(place[order], return_index=True)
    return ClassBins(images[order], probability[order], starts, found)


def mean_class_error(
    weights: npt.NDArray[Any],
    above: ClassBins,
    totals: FloatArray,
    present: npt.NDArray[np.integer],
    lowest: FloatArray,
    own: FloatArray,
) -> FloatArray:
    """`classwise_calibration_error` from sums over the images, `[B]`.

    Args:
        weights: how often each image counts, `[B, n]`.
        above: from `class_bins`, with the images in the same order.
        totals: float64 `[B]`, the sums of the weights.
        present: int `[labels]`, the labels that have images, ascending.
        lowest, own: sums of `excess_columns` over the images of each of these labels, `[labels, B,
            columns]`.
    """
    classes = lowest.shape[2]
    by_class = np.zeros((len(weights), classes, own.shape[2]))
    by_class[:, present] = own.transpose(1, 0, 2)
    excess = by_class.reshape(len(by_class), -1)
    counts = np.empty(len(above.images), weights.dtype)
    product = np.empty_like(above.probability)
    for row, drawn in enumerate(weights):
        np.take(drawn.copy(), above.images, out=counts, mode="wrap")  # the fastest mode
        np.multiply(counts, above.probability, out=product, casting="same_kind")
        excess[row, above.bins] += np.add.reduceat(product, above.starts)
    in_lowest = np.abs(lowest.sum(axis=0)).sum(axis=1)
    return (in_lowest + np.abs(excess).sum(axis=1)) / totals / classes


def _bins_above_lowest(probability: FloatArray, bins: int) -> IntArray:
    """Number the equal-width bins; with 10 bins, 0 is (0.1, 0.2] and -1 the lowest."""
    edges = np.arange(1, bins + 1) / bins
    return np.searchsorted(edges, probability, side="left") - 1


def _check(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, n: int
) -> tuple[FloatArray, npt.NDArray[np.integer]]:
    columns, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if columns.ndim != 2 or len(columns) != n or not columns.size:
        raise InputError(f"probabilities must be [{n}, classes], found {list(columns.shape)}")
    check_shares(columns, "probabilities")
    off = np.abs(columns.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        worst = int(off.argmax())
        raise InputError(
            f"the probabilities of an image must add up to 1, found {columns[worst].sum():.6g}"
            f" for image {worst}"
        )
    if not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype}")
    check_labels(truth, columns.shape[1])
    return columns, truth
