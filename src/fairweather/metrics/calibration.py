"""Does the model know when it is wrong: binned calibration errors and the reliability diagram."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, unknown_name
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
    """Sums over the images of each bin, float64 `[B, bins]`: ones, confidence, ones if right."""

    images: FloatArray
    confidence: FloatArray
    correct: FloatArray

    @property
    def gap(self) -> FloatArray:
        """Accuracy minus mean confidence of each bin, `[B, bins]`; 0 for an empty bin."""
        excess = self.correct - self.confidence
        return np.divide(excess, self.images, out=np.zeros_like(excess), where=self.images > 0)

    @property
    def share(self) -> FloatArray:
        """Share of the images that each bin holds, `[B, bins]`."""
        return self.images / self.images.sum(axis=1, keepdims=True)

    @property
    def expected_error(self) -> FloatArray:
        """`expected_calibration_error` of these bins, `[B]`."""
        return (self.share * np.abs(self.gap)).sum(axis=1)

    @property
    def maximum_error(self) -> FloatArray:
        """`maximum_calibration_error` of these bins, `[B]`."""
        return np.abs(self.gap).max(axis=1)

    @property
    def squared_error(self) -> FloatArray:
        """Mean over images of the squared gap of their bin, `[B]`."""
        return (self.share * np.square(self.gap)).sum(axis=1)


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
    sure, right = _check(confidence, correct)
    return weighted_mean(sure - right, weights, name="confidence")


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
    return as_result(np.sqrt(sums.squared_error), weights)


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


def _check(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    check_columns(confidence=confidence, correct=correct)
    sure = np.asarray(confidence, dtype=np.float64)
    # NaN fails the comparison too.
    if not ((sure >= 0) & (sure <= 1)).all():
        bad = sure[~((sure >= 0) & (sure <= 1))][0]
        raise InputError(f"confidence must be in [0, 1], found {bad}")
    return sure, np.asarray(correct, dtype=np.float64)


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
    sure, right = _check(confidence, correct)
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    if binning not in BINNINGS:
        raise unknown_name("binning", binning, BINNINGS)
    return BINNINGS[binning](sure, right, as_rows(weights, len(sure)), bins)


def _equal_width(sure: FloatArray, right: FloatArray, rows: FloatArray, bins: int) -> BinSums:
    # Against the float64 edges k/bins, because 0.3 * 10 and the like round across an edge. Upper
    # edges are included: a confidence of exactly 1, which saturated logits do give, is in the last.
    index = np.searchsorted(np.arange(1, bins + 1) / bins, sure, side="left")
    member = np.eye(bins)[index]  # [n, bins]
    columns = np.concatenate([member, member * sure[:, None], member * right[:, None]], axis=1)
    return BinSums(*np.split(rows @ columns, 3, axis=1))


def _equal_mass(sure: FloatArray, right: FloatArray, rows: FloatArray, bins: int) -> BinSums:
    order = np.argsort(sure, kind="stable")
    levels, starts = np.unique(sure[order], return_index=True)
    ordered = rows[:, order]
    mass = np.add.reduceat(ordered, starts, axis=1)  # [B, levels]: images of each confidence
    hits = np.add.reduceat(ordered * right[order], starts, axis=1)
    # Along the images in order of confidence, the running sums grow linearly within a level, since
    # its images share one confidence and, by definition, one accuracy: sums between any two cuts
    # are differences of interpolated running sums, as they are on the columns written out.
    position = _from_zero(np.cumsum(mass, axis=1))
    cuts = array_split_cuts(position[:, -1], bins)  # [B, bins + 1]
    running = [_from_zero(np.cumsum(sums, axis=1)) for sums in (mass * levels, hits)]
    sums = [np.array(list(map(np.interp, cuts, position, column))) for column in running]
    return BinSums(np.diff(cuts), *(np.diff(column) for column in sums))


def _from_zero(running: FloatArray) -> FloatArray:
    return np.pad(running, ((0, 0), (1, 0)))


def array_split_cuts(total: FloatArray, bins: int) -> FloatArray:
    """Where `numpy.array_split` cuts so many images, larger bins first: `[B, bins + 1]`.

    >>> array_split_cuts(np.array([7.0]), 3)
    array([[0., 3., 5., 7.]])
    """
    k = np.arange(bins + 1.0)
    size, larger = np.divmod(total[:, None], bins)
    return k * size + np.minimum(k, larger)


BINNINGS: dict[str, Callable[[FloatArray, FloatArray, FloatArray, int], BinSums]] = {
    "equal-width": _equal_width,
    "equal-mass": _equal_mass,
}
