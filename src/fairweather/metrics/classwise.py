"""Is every class's probability right, not only that of the predicted class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.calibration import BINNINGS
from fairweather.metrics.weights import FloatArray, Result, as_result, as_rows, check_columns

# float16 probabilities of a thousand classes still add up to 1 within this; logits do not.
SUM_TOLERANCE = 0.01


def classwise_calibration_error(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
) -> Result:
    """Mean over classes of the expected calibration error of that class's probability, in [0, 1].

    For each class, its probability is the confidence and "this is the label" is being right; all
    images count, so with many classes nearly all of them lie in the lowest bin and the value is
    small: it cannot be compared between data sets with different numbers of classes. Classes that
    no image has count too, as in the source.

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
    rows = as_rows(weights, n)
    total = np.zeros(len(rows))
    for label, column in enumerate(columns.T):
        sums = BINNINGS["equal-width"](column, (truth == label).astype(np.float64), rows, bins)
        total += sums.expected_error
    return as_result(total / columns.shape[1], weights)


def _check(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, n: int
) -> tuple[FloatArray, npt.NDArray[np.integer]]:
    columns, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if columns.ndim != 2 or len(columns) != n or not columns.size:
        raise InputError(f"probabilities must be [{n}, classes], found {list(columns.shape)}")
    inside = (columns >= 0) & (columns <= 1)  # NaN fails the comparison too
    if not inside.all():
        raise InputError(f"probabilities must be in [0, 1], found {columns[~inside][0]}")
    off = np.abs(columns.sum(axis=1) - 1)
    if off.max() > SUM_TOLERANCE:
        worst = int(off.argmax())
        raise InputError(
            f"the probabilities of an image must add up to 1, found {columns[worst].sum():.6g}"
            f" for image {worst}"
        )
    if not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype}")
    if not 0 <= truth.min() <= truth.max() < columns.shape[1]:
        span = f"{truth.min()} to {truth.max()}"
        raise InputError(f"labels go from {span}, but there are {columns.shape[1]} classes")
    return columns, truth
