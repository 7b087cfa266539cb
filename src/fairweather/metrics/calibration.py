"""Does the model know when it is wrong: calibration errors over bins, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import (
    FloatArray,
    IntArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    weighted_mean,
    wilson_interval,
)
from fairweather.metrics.ordered import (
    NO_PLACES,
    ConfidenceOrder,
    mass_cuts,
    order_by_confidence,
    size_cuts,
    sums_below,
    width_places,
)

Binning = Literal["equal-width", "equal-mass"]


class BinSums(NamedTuple):
    """Sums over the images of each bin, float64 `[B, bins]`: ones, confidence, ones if right.

    What is computed from bins is computed here, for the functions of columns below and for the
    bootstrap of all metrics alike.
    """

    images: FloatArray
    confidence: FloatArray
    correct: FloatArray

    @staticmethod
    def between(below: FloatArray) -> BinSums:
        """Subtract sums below the edges of the bins, `[3, B, bins + 1]`: ones, wrong, confidence.

        >>> BinSums.between(np.array([[[0.0, 2.0]], [[0.0, 1.0]], [[0.0, 1.5]]])).correct
        array([[1.]])
        """
        images, wrong, confidence = np.diff(below)
        return BinSums(images, confidence, images - wrong)

    @property
    def accuracy(self) -> FloatArray:
        """Share of each bin that is right, `[B, bins]`; 0 for an empty bin."""
        return self.mean(self.correct)

    @property
    def gap(self) -> FloatArray:
        """Accuracy minus mean confidence of each bin, `[B, bins]`; 0 for an empty bin."""
        return self.mean(self.correct - self.confidence)

    @property
    def share(self) -> FloatArray:
        """Share of the images that each bin holds, `[B, bins]`."""
        return self.images / self.images.sum(axis=1, keepdims=True)

    @property
    def overall(self) -> FloatArray:
        """Share of all images that is right, `[B]`."""
        return np.asarray(self.correct.sum(axis=1) / self.images.sum(axis=1))

    @property
    def expected_error(self) -> FloatArray:
        """`expected_calibration_error` of these bins, `[B]`."""
        return self.over_bins(np.abs(self.gap))

    @property
    def maximum_error(self) -> FloatArray:
        """`maximum_calibration_error` of these bins, `[B]`."""
        return np.abs(self.gap).max(axis=1)

    @property
    def rms_error(self) -> FloatArray:
        """`rms_calibration_error` of these bins, `[B]`."""
        return np.sqrt(self.reliability)

    @property
    def debiased_error(self) -> FloatArray:
        """`debiased_calibration_error` of these bins, `[B]`."""
        # a (1 - a) / (m - 1) of m images, with a the accuracy.
        enough = self.images >= 2
        noise = np.divide(
            self.correct * (self.images - self.correct),
            self.images**2 * (self.images - 1),
            out=np.zeros_like(self.correct),
            where=enough,
        )
        squares = self.over_bins(np.where(enough, np.square(self.gap) - noise, 0))
        return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)))

    @property
    def reliability(self) -> FloatArray:
        """Mean over images of the squared gap of their bin, `[B]`; see `brier_decomposition`."""
        return self.over_bins(np.square(self.gap))

    @property
    def resolution(self) -> FloatArray:
        """Mean over images of their bin's squared distance from the overall accuracy, `[B]`."""
        return self.over_bins(np.square(self.accuracy - self.overall[:, None]))

    @property
    def uncertainty(self) -> FloatArray:
        """Variance of being right, `[B]`."""
        return self.overall * (1 - self.overall)

    def mean(self, sums: FloatArray) -> FloatArray:
        """Mean over the images of each bin of what sums up to `[B, bins]`; 0 for an empty bin."""
        return np.divide(sums, self.images, out=np.zeros_like(sums), where=self.images > 0)

    def over_bins(self, values: FloatArray) -> FloatArray:
        """Mean over images of a number of their bin, `[B, bins]` to `[B]`."""
        return np.asarray((self.share * values).sum(axis=1))


class ReliabilityBins(NamedTuple):
    """A reliability diagram, one entry a bin, float64 `[bins]`; an empty bin's means are NaN.

    Attributes:
        lower, upper: the bin's edges for equal-width bins (lower excluded, upper included); the
            smallest and largest confidence it holds for equal-mass bins.
        images: how many the bin holds.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
        accuracy_low, accuracy_high: its 95 % Wilson interval.
    """

    lower: FloatArray
    upper: FloatArray
    images: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    accuracy_low: FloatArray
    accuracy_high: FloatArray


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


def confidence_gap(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Result:
    """Mean confidence minus accuracy, in [-1, 1]: positive for an overconfident model.

    Args:
        confidence: float `[n]` in [0, 1].
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> confidence_gap([0.75, 0.75], [True, False])
    0.25
    """
    sure, right = check_confidence(confidence, correct)
    gap = np.subtract(weighted_mean(sure, weights), weighted_mean(right, weights))
    return as_result(np.atleast_1d(gap), weights)


def expected_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Mean over images of the absolute gap between their bin's accuracy and confidence, in [0, 1].

    Args:
        confidence: float `[n]` in [0, 1], the probability of the predicted class.
        correct: bool `[n]`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        bins: how many bins, at least 1.
        binning: "equal-width": bin k is (k/bins, (k+1)/bins], and 0 is in the first. "equal-mass":
            the images in order of confidence are cut as by `numpy.array_split`; images of equal
            confidence share their accuracy, so that no order among them matters.

    The value is biased upwards by about the noise of the bins: the fewer images, the more.
    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, equation 3.

    >>> round(expected_calibration_error([0.95, 0.95, 0.55, 0.55], [True, True, True, False]), 3)
    0.05
    """
    sums = _bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.expected_error, weights)


def maximum_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Largest absolute gap between accuracy and mean confidence of a non-empty bin, in [0, 1].

    Arguments as in `expected_calibration_error`. A bin of one image counts as much as any other, so
    the value is very noisy. Source: Guo et al. 2017, equation 5.

    >>> round(maximum_calibration_error([0.95, 0.95, 0.55, 0.65], [True, True, True, False]), 3)
    0.65
    """
    sums = _bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.maximum_error, weights)


def rms_calibration_error(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> Result:
    """Root of the mean over images of the squared gap of their bin, in [0, 1].

    Arguments as in `expected_calibration_error`; never smaller than that error.
    Source: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier Exposure, where the bins hold
    100 images each.

    >>> round(rms_calibration_error([0.95, 0.95, 0.55, 0.55], [True, True, True, False]), 3)
    0.05
    """
    sums = _bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.rms_error, weights)


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
    The number of bins follows from the number of images: values at different n have different
    biases, and no mean should mix them with those of a fixed number of bins.
    Source: Hendrycks et al. 2019, Deep Anomaly Detection with Outlier Exposure, and `calib_err` in
    its repository.

    >>> round(adaptive_rms_calibration_error([0.6, 0.7, 0.9, 1.0], [0, 0, 1, 1], per_bin=2), 3)
    0.461
    """
    order, rows = _in_order(confidence, correct, weights)
    if per_bin < 1:
        raise InputError(f"per_bin must be at least 1, found {per_bin}")
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, cuts=size_cuts(totals, per_bin))
    return as_result(BinSums.between(below).rms_error, weights)


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
    sums = _bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.debiased_error, weights)


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
    order, rows = _in_order(confidence, correct, weights)
    totals, sure = rows.sum(axis=1), order.confidence
    edges = _bin_edges(order, totals, bins, binning)
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


def reliability_bins(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "equal-width",
) -> ReliabilityBins:
    """Accuracy against confidence, bin by bin, with the 95 % Wilson interval of each accuracy.

    Arguments as in `expected_calibration_error`. Source of the interval: Wilson 1927.

    >>> diagram = reliability_bins([0.3, 0.9, 0.8], [False, True, True], bins=2)
    >>> diagram.images.tolist(), diagram.accuracy.tolist(), diagram.accuracy_high.round(2).tolist()
    ([1.0, 2.0], [0.0, 1.0], [0.79, 1.0])
    """
    sums = _bin_sums(confidence, correct, None, bins, binning)
    images, sure, right = (column[0] for column in sums)
    hollow = np.where(images > 0, images, np.nan)
    if binning == "equal-width":
        edges = np.arange(bins + 1) / bins
        lower, upper = edges[:-1], edges[1:]
    else:
        ordered = np.sort(np.asarray(confidence, dtype=np.float64))
        ends = np.cumsum(images).astype(int)
        starts = np.minimum(ends - images.astype(int), len(ordered) - 1)
        lower, upper = (np.where(images > 0, ordered[at], np.nan) for at in (starts, ends - 1))
    low, high = wilson_interval(right / hollow, hollow)
    return ReliabilityBins(lower, upper, images, sure / hollow, right / hollow, low, high)


def check_confidence(
    confidence: npt.ArrayLike, correct: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return both columns as float64, or raise `InputError` where one is not what it says.

    >>> check_confidence([1], [True])
    (array([1.]), array([1.]))
    """
    check_columns(confidence=confidence, correct=correct)
    sure = np.asarray(confidence, dtype=np.float64)
    right = np.asarray(correct, dtype=np.float64)
    is_share = (sure >= 0) & (sure <= 1)  # NaN fails the comparison too
    if not is_share.all():
        raise InputError(f"confidence must be in [0, 1], found {sure[~is_share][0]}")
    is_bool = (right == 0) | (right == 1)
    if not is_bool.all():
        raise InputError(f"correct must be true or false, found {right[~is_bool][0]}")
    return sure, right


def _bin_sums(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    bins: int,
    binning: str,
) -> BinSums:
    """Check the arguments as `expected_calibration_error` does, and add the images up by bin."""
    order, rows = _in_order(confidence, correct, weights)
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, *_bin_edges(order, totals, bins, binning))
    return BinSums.between(below)


def _in_order(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[ConfidenceOrder, FloatArray]:
    sure, right = check_confidence(confidence, correct)
    return order_by_confidence(sure, right), as_rows(weights, len(sure))


def _bin_edges(
    order: ConfidenceOrder, totals: FloatArray, bins: int, binning: str
) -> tuple[IntArray, FloatArray | None]:
    """Give the edges of the bins as `sums_below` takes them: places in the order, or else cuts.

    Raises `InputError` for fewer than one bin and for an unknown binning.
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    if binning not in _BINNINGS:
        raise unknown_name("binning", binning, _BINNINGS)
    return _BINNINGS[binning](order, totals, bins)


_BINNINGS: Mapping[
    str, Callable[[ConfidenceOrder, FloatArray, int], tuple[IntArray, FloatArray | None]]
] = MappingProxyType(
    {
        "equal-width": lambda order, _, bins: (width_places(order, bins), None),
        "equal-mass": lambda _, totals, bins: (NO_PLACES, mass_cuts(totals, bins)),
    }
)
