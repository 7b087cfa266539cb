"""The robustness papers' calibration error: bins of a hundred images each, in order of confidence.

It is kept apart from the errors of `calibration`, because the number of bins follows from the
number of images here: values at different n have different biases, and no mean should mix them with
those of a fixed number of bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.calibration import BinSums, confidence_gap
from fairweather.metrics.weights import FloatArray, Result, as_result, as_rows


def adaptive_rms_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    per_bin: int = 100,
) -> Result:
    """Root of the mean over images of the squared gap of their bin of 100 images, in [0, 1].

    The images in order of confidence are cut after every `per_bin`-th; what remains at the most
    confident end joins the last bin, which so holds `per_bin` to `2 * per_bin - 1` images. Fewer
    than `per_bin` images are one bin. Images of equal confidence share their accuracy, so that no
    order among them matters.

    The cuts are those of the code published with the source, whose loop then leaves out the last
    bin, the most confident one: its values are lower (all of the error, where n is below 200), and
    it fails below 100 images (natural-adv-examples pull request 16, open, mends the loop). Every
    bin counts here, so the number is not the one in those papers' tables.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        per_bin: images a bin, at least 1.

    The value is biased upwards: a calibrated model scores about `sqrt(mean of p(1 - p) / per_bin)`
    however many images there are, since a bin never holds more of them.
    Source: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier Exposure, and `calib_err` in
    its repository.

    >>> round(adaptive_rms_calibration_error([0.6, 0.7, 0.9, 1.0], [0, 0, 1, 1], per_bin=2), 3)
    0.461
    """
    # Checks both columns, in the words that all calibration errors share.
    confidence_gap(confidence, correct)
    if per_bin < 1:
        raise InputError(f"per_bin must be at least 1, found {per_bin}")
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    sums = _sums_of_bins(sure, right, as_rows(weights, len(sure)), per_bin)
    return as_result(np.sqrt(sums.squared_error), weights)


def _sums_of_bins(sure: FloatArray, right: FloatArray, rows: FloatArray, per_bin: int) -> BinSums:
    order = np.argsort(sure, kind="stable")
    levels, starts = np.unique(sure[order], return_index=True)
    ordered = rows[:, order]
    mass = np.add.reduceat(ordered, starts, axis=1)  # [B, levels]: images of each confidence
    hits = np.add.reduceat(ordered * right[order], starts, axis=1)
    # Running sums grow linearly within a level, whose images share one confidence and one accuracy.
    position, sureness, hit = (
        np.pad(np.cumsum(sums, axis=1), ((0, 0), (1, 0))) for sums in (mass, mass * levels, hits)
    )
    cuts = _cuts(position[:, -1], per_bin)
    sums = [np.array(list(map(np.interp, cuts, position, column))) for column in (sureness, hit)]
    return BinSums(np.diff(cuts), *(np.diff(column) for column in sums))


def _cuts(total: FloatArray, per_bin: int) -> FloatArray:
    """Where so many images are cut, `[B, most bins + 1]`; a row of fewer bins ends in empty ones.

    >>> _cuts(np.array([7.0, 1.0]), 2)
    array([[0., 2., 4., 7.],
           [0., 1., 1., 1.]])
    """
    bins = np.maximum(total // per_bin, 1)[:, None]
    k = np.arange(bins.max() + 1)
    return np.where(k < bins, k * per_bin, total[:, None])
