"""Class priors: the weights under which the images of a data set are as common as they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.weights import (
    FloatArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    sum_groups,
)

# How far from 1 a sum of priors that a person has written down may be.
ROUNDING = 1e-3


def prior_weights(
    labels: npt.ArrayLike, priors: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> FloatArray:
    """Weigh the images so that each class counts as often as its prior says.

    Args:
        labels: int `[n]`, each in `[0, classes)`.
        priors: `[classes]`, one probability a class; their sum may be off 1 by 0.001, and they are
            divided by it. A class of a prior above 0 needs an image.
        weights: how often each image counts, `[n]` or `[B, n]`, as in a resample. A class of which
            a row counts no image is left out of that row, and the others keep their proportions; a
            row that counts none of the classes asked for is all 0.

    Returns:
        float64 `[n]`, or `[B, n]` for 2-D weights; the weights of a row add up to what it counts,
        unless it lacks a class.

    >>> prior_weights([0, 0, 0, 1], [0.5, 0.5]).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    n = check_columns(labels=labels)
    truth, wanted = _check_labels(labels, np.size(priors)), _check_priors(priors)
    absent = np.setdiff1d(np.flatnonzero(wanted), truth)
    if len(absent):
        raise InputError(
            f"class {absent[0]} has a prior of {wanted[absent[0]]:g} but no image to weigh"
        )
    rows = as_rows(weights, n)
    images = sum_groups(truth, rows.T, len(wanted))  # [classes, B]
    asked = wanted[:, None] * rows.sum(axis=1)
    factor = np.divide(asked, images, out=np.zeros_like(images), where=images > 0)
    weighted = rows * factor.T[:, truth]
    return weighted if np.ndim(weights) == 2 else weighted[0]  # type: ignore[arg-type]


def effective_images(weights: npt.ArrayLike) -> Result:
    """How many equally weighted images would say as much about a mean, in (0, n].

    Args:
        weights: `[n]`, or `[B, n]` for `[B]`.

    Source: Kish 1965, Survey Sampling, section 11.7: the squared sum over the sum of squares.

    >>> effective_images([1, 1, 2])
    2.6666666666666665
    """
    rows = as_rows(weights, np.shape(weights)[-1] if np.ndim(weights) else 0)
    return as_result(np.square(rows.sum(axis=1)) / np.square(rows).sum(axis=1), weights)


def peaked_priors(
    labels: npt.ArrayLike, classes: Sequence[str], factor: float = 10.0
) -> dict[str, FloatArray]:
    """Build the stated set of priors: each class in turn `factor` times as common as it is.

    Args:
        labels: int `[n]`, each in `[0, len(classes))`: what is common among them.
        classes: class names in label order.
        factor: what the odds of the class are multiplied by, above 0; below 1 makes it rare.

    Returns:
        float64 `[classes]`, adding up to 1, by "CLASS x FACTOR"; none for a class without images.

    >>> peaked_priors([0, 0, 0, 1], ("cat", "dog"), factor=3)["dog x 3"].tolist()
    [0.5, 0.5]
    """
    if not 0 < factor < np.inf:
        raise InputError(f"factor must be above 0 and finite, found {factor}")
    check_columns(labels=labels)
    images = np.bincount(_check_labels(labels, len(classes)), minlength=len(classes))
    peaks = images * (1 + (factor - 1) * np.eye(len(classes)))
    return {
        f"{name} x {factor:g}": peak / peak.sum()
        for name, peak, count in zip(classes, peaks, images, strict=True)
        if count
    }


def _check_labels(labels: npt.ArrayLike, classes: int) -> npt.NDArray[np.integer]:
    truth = np.asarray(labels)
    if not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be whole numbers, found {truth.dtype}")
    if not 0 <= truth.min() <= truth.max() < classes:
        raise InputError(
            f"labels go from {truth.min()} to {truth.max()}, but there are {classes} classes"
        )
    return truth


def _check_priors(priors: npt.ArrayLike) -> FloatArray:
    wanted = np.asarray(priors, dtype=np.float64)
    # NaN fails the comparisons too.
    if wanted.ndim != 1 or not (wanted >= 0).all() or not abs(wanted.sum() - 1) <= ROUNDING:
        raise InputError(
            "priors must be one probability a class, none negative, that add up to 1; "
            f"found {list(wanted.shape)} adding up to {wanted.sum():g}"
        )
    return wanted / wanted.sum()
