"""How accurate is the model where nobody has labels: estimates from its confidence alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.ordered import as_confidence
from fairweather.metrics.selective import coverage_above
from fairweather.metrics.weights import Result, check_columns, weighted_mean


def average_confidence(confidence: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Mean confidence, in [0, 1]: the accuracy of a model that is calibrated on these images.

    Its error as an estimate of the accuracy is `confidence_gap`.

    Args:
        confidence: float `[n]` in [0, 1].
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, Leveraging Unlabeled Data to Predict Out-of-Distribution Performance,
    section 5, the baseline AC.

    >>> average_confidence([0.5, 0.75])
    0.625
    """
    check_columns(confidence=confidence)
    sure = as_confidence(confidence)
    outside = (sure < 0) | (sure > 1)
    if outside.any():
        raise InputError(f"confidence must be in [0, 1], found {sure[outside][0]}")
    return weighted_mean(sure, weights, name="confidence")


def atc_threshold(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Confidence below which lies as large a share of the validation images as is wrong.

    The threshold is one of these confidences: the (k + 1)-th smallest if k images are wrong, or
    infinite if all are. Equal confidences cannot be parted: then it is the one (or infinity) that
    parts the images most nearly so, and the smaller of two that are as near. So the estimate on
    these very images is their accuracy where the confidences differ, and off by at most half the
    share of the images that are tied there.

    Args:
        confidence: float `[n]`, of clean validation images; larger for a surer answer; no NaN.
        correct: bool `[n]`.

    Source: Garg et al. 2022, equation 1, with the maximum confidence as the score. The
    authors' code takes the image before, which makes its estimate larger by one image.

    >>> atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    0.7
    """
    check_columns(confidence=confidence, correct=correct)
    levels, images = np.unique(as_confidence(confidence), return_counts=True)
    below = np.concatenate([[0], np.cumsum(images)])
    wrong = np.count_nonzero(~np.asarray(correct, dtype=bool))
    nearest = np.abs(below - wrong).argmin()  # the first of equals
    return float(np.append(levels, np.inf)[nearest])


def atc_accuracy(
    confidence: npt.ArrayLike, threshold: float, weights: npt.ArrayLike | None = None
) -> Result:
    """Estimate the accuracy without labels: the share of images at or above the threshold.

    Args:
        confidence: float `[n]`, of images without labels; larger for a surer answer; no NaN.
        threshold: from `atc_threshold` on labelled validation images of the same model.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, equation 2.

    >>> threshold = atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    >>> atc_accuracy([0.5, 0.6, 0.7, 0.9], threshold)
    0.5
    """
    return coverage_above(confidence, threshold, weights)
