"""What a Brier score is made of: miscalibration, what confidence tells apart, and base rate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics.calibration import Binning, BinSums, bin_edges, in_order
from fairweather.metrics.ordered import sums_below
from fairweather.metrics.weights import Result, as_result


class BrierDecomposition(NamedTuple):
    """The parts of the Brier score of being right; each a float, or float64 `[B]`.

    Attributes:
        reliability: mean squared gap between a bin's accuracy and confidence, in [0, 1]; the square
            of `rms_calibration_error`. Lower is better.
        resolution: mean squared distance of a bin's accuracy from the overall one, in [0, 0.25].
            Higher is better: confidence tells right from wrong.
        uncertainty: variance of being right, accuracy times one minus accuracy, in [0, 0.25].
        within_bin_variance: mean variance of confidence within the bins, in [0, 0.25].
        within_bin_covariance: twice the mean covariance of confidence and being right within the
            bins, in [-0.5, 0.5].
    """

    reliability: Result
    resolution: Result
    uncertainty: Result
    within_bin_variance: Result
    within_bin_covariance: Result

    @property
    def remainder(self) -> Result:
        """What the bins hide; 0 if the images of each bin share one confidence."""
        return self.within_bin_variance - self.within_bin_covariance

    @property
    def score(self) -> Result:
        """The Brier score of being right, mean squared distance of confidence to 0 or 1."""
        return self.reliability - self.resolution + self.uncertainty + self.remainder


def brier_decomposition(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> BrierDecomposition:
    """Split the Brier score of (confidence, correct) into parts that add up to it exactly.

    That score is about the predicted class alone, in [0, 1]; `brier_score` is about all classes. As
    estimates of what many images would give, reliability is too high, resolution mostly so too, and
    uncertainty too low, each by the noise of the bins.

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            parts `[B]`.
        bins: how many bins, at least 1.
        binning: as in `expected_calibration_error`.

    Source: Murphy 1973, A New Vector Partition of the Probability Score; Stephenson et al. 2008,
    Two Extra Components in the Brier Score Decomposition, for the terms within bins; Ferro and
    Fricker 2012, A bias-corrected decomposition of the Brier score, for the biases.

    >>> parts = brier_decomposition([0.75, 0.75, 0.25, 0.25], [True, True, True, False])
    >>> parts.reliability, parts.resolution, parts.uncertainty, parts.remainder
    (0.0625, 0.0625, 0.1875, 0.0)
    >>> parts.score
    0.1875
    """
    order, rows = in_order(confidence, correct, weights)
    totals, sure = rows.sum(axis=1), order.confidence
    edges = bin_edges(order, totals, bins, binning)
    columns = (order.wrong, sure, np.square(sure), sure * ~order.wrong)
    below = sums_below(order, rows, totals, columns, *edges)
    sums = BinSums.between(below[:3])
    squares, products = np.diff(below[3:])
    certainty = sums.mean(sums.confidence)
    variance = np.maximum(sums.mean(squares) - np.square(certainty), 0)
    covariance = sums.mean(products) - sums.accuracy * certainty
    return BrierDecomposition(
        reliability=as_result(sums.reliability, weights),
        resolution=as_result(sums.resolution, weights),
        uncertainty=as_result(sums.uncertainty, weights),
        within_bin_variance=as_result(sums.over_bins(variance), weights),
        within_bin_covariance=as_result(sums.over_bins(2 * covariance), weights),
    )
