"""The robustness papers' calibration error: bins of a hundred images each, in order of confidence.

It is kept apart from the errors of `calibration`, because the number of bins follows from the
number of images here: values at different n have different biases, and no mean should mix them with
those of a fixed number of bins.
"""

from __future__ import annotations

import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.calibration import BinSums, in_order
from fairweather.metrics.ordered import size_cuts, sums_below
from fairweather.metrics.weights import Result, as_result


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
    order, rows = in_order(confidence, correct, weights)
    if per_bin < 1:
        raise InputError(f"per_bin must be at least 1, found {per_bin}")
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, cuts=size_cuts(totals, per_bin))
    return as_result(BinSums.between(below).rms_error, weights)
