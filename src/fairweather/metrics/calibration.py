"""Does the model know when it is wrong: binned calibration errors and the reliability diagram."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.ordered import (
    NO_PLACES,
    ConfidenceOrder,
    IntArray,
    mass_cuts,
    order_by_confidence,
    sums_below,
    width_places,
)
from fairweather.metrics.shares import wilson_interval
from fairweather.metrics.weights import (
    FloatArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    weighted_mean,
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
    sums = bin_sums(confidence, correct, weights, bins, binning)
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
    sums = bin_sums(confidence, correct, weights, bins, binning)
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
    sums = bin_sums(confidence, correct, weights, bins, binning)
    return as_result(sums.rms_error, weights)


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
    sums = bin_sums(confidence, correct, None, bins, binning)
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
    # NaN fails the comparison too.
    if not ((sure >= 0) & (sure <= 1)).all():
        bad = sure[~((sure >= 0) & (sure <= 1))][0]
        raise InputError(f"confidence must be in [0, 1], found {bad}")
    right = np.asarray(correct, dtype=np.float64)
    if not ((right == 0) | (right == 1)).all():
        raise InputError(
            f"correct must be true or false, found {right[right * (1 - right) != 0][0]}"
        )
    return sure, right


def in_order(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[ConfidenceOrder, FloatArray]:
    """Check the columns, and give the order of the images and the weights `[B, n]`.

    >>> in_order([0.5, 0.2], [True, True], None)[0].images.tolist()
    [1, 0]
    """
    sure, right = check_confidence(confidence, correct)
    return order_by_confidence(sure, right), as_rows(weights, len(sure))


def bin_edges(
    order: ConfidenceOrder, totals: FloatArray, bins: int, binning: str
) -> tuple[IntArray, FloatArray | None]:
    """Give the edges of the bins as `sums_below` takes them: places in the order, or else cuts.

    Raises `InputError` for fewer than one bin and for an unknown binning.

    >>> order = order_by_confidence(np.array([0.2, 0.8]), np.ones(2))
    >>> bin_edges(order, np.array([2.0]), 2, "equal-width")[0].tolist()
    [0, 1, 2]
    """
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    if binning not in BINNINGS:
        raise unknown_name("binning", binning, BINNINGS)
    return BINNINGS[binning](order, totals, bins)


def bin_sums(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    bins: int,
    binning: str,
) -> BinSums:
    """Check the arguments as `expected_calibration_error` does, and add the images up by bin.

    >>> bin_sums([0.2, 0.8], [True, True], [1, 3], 2, "equal-width").images
    array([[1., 3.]])
    """
    order, rows = in_order(confidence, correct, weights)
    totals = rows.sum(axis=1)
    columns = (order.wrong, order.confidence)
    below = sums_below(order, rows, totals, columns, *bin_edges(order, totals, bins, binning))
    return BinSums.between(below)


BINNINGS: Mapping[
    str, Callable[[ConfidenceOrder, FloatArray, int], tuple[IntArray, FloatArray | None]]
] = MappingProxyType(
    {
        "equal-width": lambda order, _, bins: (width_places(order, bins), None),
        "equal-mass": lambda _, totals, bins: (NO_PLACES, mass_cuts(totals, bins)),
    }
)
