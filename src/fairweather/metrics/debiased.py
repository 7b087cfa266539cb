"""A calibration error without the upward bias that the noise of the bins gives to the others."""

from __future__ import annotations

import numpy.typing as npt

from fairweather.metrics.calibration import Binning, bin_sums
from fairweather.metrics.weights import Result, as_result


def debiased_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """RMS calibration error less its sampling noise, in [-0.5, 1]: near 0 if calibrated.

    From the squared gap of each bin of `m` images with accuracy `a`, its sampling variance
    `a (1 - a) / (m - 1)` is taken off; the mean over images of what is left estimates the true
    squared error of the bins without bias, whatever n. A bin of fewer than two images says nothing
    of its variance and counts as 0. Without bias is the square: a root of something noisy lies on
    average below the truth (a gap of 0.05 everywhere gives 0.039 at n = 500, 0.048 at 2,000).

    The value is the root of that mean with the mean's sign. Below 0 means: the gaps are smaller
    than the noise of calibrated predictions would make them. It is not clipped at 0 (as the root in
    the source's code is), because clipping would bring the bias back where it matters most: of a
    calibrated model, half of the values are negative. Compare it with `rms_calibration_error` of
    the same bins, not with the expected calibration error, which averages absolute gaps.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`. A resample's duplicates are not independent images: the replicates of a bootstrap
            carry the noise that this value is free of.
        bins: how many bins, at least 1. Images in a bin are taken as draws with one probability;
            wide bins make the correction slightly too large.
        binning: as in `expected_calibration_error`; equal-mass has the smaller error of the two
            in Roelofs et al. 2022, Mitigating Bias in Calibration Error Estimation.

    Source: Kumar et al. 2019, Verified Uncertainty Calibration, section 4 (the debiased estimator);
    the variance is that of Bröcker 2012 and of Ferro and Fricker 2012 for the reliability term.

    >>> round(debiased_calibration_error([0.8] * 10, [True] * 5 + [False] * 5), 3)
    0.249
    """
    sums = bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.debiased_error, weights)
