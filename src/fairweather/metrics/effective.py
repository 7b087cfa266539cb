"""Accuracy under shift beyond what accuracy on clean images predicts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.weights import FloatArray, Result


def effective_robustness(
    clean: npt.ArrayLike,
    shifted: npt.ArrayLike,
    reference_clean: npt.ArrayLike,
    reference_shifted: npt.ArrayLike,
    *,
    images: int | None = None,
) -> Result:
    """Accuracy under shift minus what reference models of the same clean accuracy would have.

    The prediction is a straight line through the reference models on the logit scale of both
    accuracies, fitted by least squares. Positive: more robust than the reference models' trend.

    Args:
        clean, shifted: the model's accuracies, numbers in [0, 1], or `[B]` for B resamples of the
            images, which return `[B]`.
        reference_clean, reference_shifted: of the reference models, `[models]`, or `[models, B]`.
            Two different clean accuracies are needed; with fewer than three, the line is taken
            through two points and nothing says whether it is one.
        images: how many images are behind an accuracy; accuracies of 0 and 1, which have no logit,
            are then taken to be half an image inside.

    Returns:
        A difference of accuracies in [-1, 1]. NaN for a resample in which the reference models all
        have the same clean accuracy.

    Raises:
        InputError: an accuracy outside [0, 1], or of exactly 0 or 1 without `images`; reference
            models that are fewer than two, or all equally accurate on clean images.

    The line says what is usual among the reference models, not why: outside the range of their
    clean accuracies it is an extrapolation. Source: Taori et al. 2020, Measuring Robustness to
    Natural Distribution Shifts in Image Classification, effective robustness, on the logit axes
    that its figures have.

    >>> round(effective_robustness(0.8, 0.6, [0.7, 0.9], [0.3, 0.5]), 3)
    0.225
    """
    x, y = (
        _check_models(name, accuracy)
        for name, accuracy in (
            ("reference_clean", reference_clean),
            ("reference_shifted", reference_shifted),
        )
    )
    if x.shape != y.shape or len(x) < 2:
        raise InputError(
            "effective robustness needs at least two reference models, each with a clean and a "
            f"shifted accuracy, found {list(x.shape)} and {list(y.shape)}"
        )
    x, y = _logit(x, images), _logit(y, images)
    if not np.ptp(x, axis=0).any():
        raise InputError(
            "effective robustness needs reference models of different clean accuracy, found "
            f"{len(x)} with the same"
        )
    slope, intercept = _line(x, y)
    ours = _check_range("clean", clean)
    expected = scipy.special.expit(intercept + slope * _logit(ours, images))
    excess = np.asarray(_check_range("shifted", shifted) - expected)
    return float(excess) if excess.ndim == 0 else excess


def _check_models(name: str, accuracy: npt.ArrayLike) -> FloatArray:
    values = _check_range(name, accuracy)
    if values.ndim not in (1, 2):
        raise InputError(f"{name} must be [models] or [models, B], found {list(values.shape)}")
    return values


def _check_range(name: str, accuracy: npt.ArrayLike) -> FloatArray:
    values = np.asarray(accuracy, dtype=np.float64)
    inside = (values >= 0) & (values <= 1)  # NaN fails the comparison too
    if not inside.all():
        raise InputError(
            f"an accuracy is a share in [0, 1], found {values[~inside].flat[0]:g} in {name}"
        )
    return values


def _logit(accuracy: FloatArray, images: int | None) -> FloatArray:
    if images is None and ((accuracy == 0) | (accuracy == 1)).any():
        raise InputError(
            "an accuracy of exactly 0 or 1 has no logit: give `images`, how many are behind it"
        )
    edge = 0.0 if images is None else 0.5 / images
    return np.asarray(scipy.special.logit(np.clip(accuracy, edge, 1 - edge)))


def _line(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope and intercept of least squares over the first axis; NaN where all x are the same."""
    centred = x - x.mean(axis=0)
    spread = np.square(centred).sum(axis=0)
    # Of equal x, rounding can leave a spread above 0, but never a range.
    differ = np.ptp(x, axis=0) > 0
    slope = np.divide(
        (centred * y).sum(axis=0), spread, out=np.full_like(spread, np.nan), where=differ
    )
    return slope, y.mean(axis=0) - slope * x.mean(axis=0)
