"""What a metric is given: a cell's columns, how often each image counts, and their sums."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fairweather.metrics.ordered import ConfidenceOrder, OrderedSums, sum_in_order
from fairweather.metrics.prepared import Prepared
from fairweather.metrics.weights import FloatArray
from fairweather.types import Predictions


@dataclass(frozen=True)
class Sample:
    """Some resamples of one cell's images; what metrics share is added up when one asks for it.

    A metric may also hand `predictions` and `weights`, which are in the same order, to a function
    of columns: that is right, and slower.

    Attributes:
        prepared: the cell.
        order: its images in order of confidence.
        weights: how often each image counts, `[B, n]`, in the order of `predictions`.
    """

    prepared: Prepared
    order: ConfidenceOrder
    weights: npt.NDArray[Any]

    @property
    def predictions(self) -> Predictions:
        """The cell's columns, in the order of `weights`."""
        return self.prepared.predictions

    @cached_property
    def _means(self) -> FloatArray:
        return self._sum_by_label(self.prepared.means.matrix)

    @cached_property
    def _by_class(self) -> FloatArray:
        return self._sum_by_label(self.prepared.by_class.matrix)

    def _sum_by_label(self, matrix: npt.NDArray[np.floating]) -> FloatArray:
        bounds = self.prepared.bounds
        sums = np.empty((len(bounds) - 1, len(self.weights), matrix.shape[1]))
        for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
            sums[k] = self.weights[:, start:stop].astype(matrix.dtype) @ matrix[start:stop]
        return sums

    def by_label(self, column: str) -> FloatArray:
        """Sums of a column of `Prepared.means` over the images of each label there is, `[k, B]`."""
        return self._means[:, :, self.prepared.means.places[column].start]

    def by_label_and_class(self, column: str) -> FloatArray:
        """Sums of `Prepared.by_class` over the images of each label there is, `[k, B, columns]`."""
        return self._by_class[:, :, self.prepared.by_class.places[column]]

    def total(self, column: str) -> FloatArray:
        """Sum of a column of `Prepared.means` over all images, `[B]`."""
        return np.asarray(self.by_label(column).sum(axis=0))

    def mean(self, column: str) -> FloatArray:
        """Mean of a column of `Prepared.means` over all images, `[B]`."""
        return self.total(column) / self.total("images")

    @cached_property
    def ordered(self) -> OrderedSums:
        """Sums over the images in order of confidence."""
        return sum_in_order(self.order, self.weights, self.total("images"))


def ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Divide, with NaN where the whole is 0.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def nanmean(values: FloatArray) -> FloatArray:
    """Mean over the last axis of what is a number; NaN where nothing is.

    >>> nanmean(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    array([ 1., nan])
    """
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1).astype(np.float64))


def balanced_accuracy(sample: Sample) -> FloatArray:
    """`classification.balanced_accuracy` from sums by label."""
    recall = ratio(sample.by_label("correct"), sample.by_label("images"))
    return nanmean(recall.T)


def macro_auc(sample: Sample) -> FloatArray:
    """`ranking.macro_auc`, linear in how often the images of either side count.

    The area of a class is the mean over pairs of a positive and a negative image; with counts, a
    ratio of sums over pairs. To first order it is the mean placement of the positives plus that of
    the negatives minus the area, each weighted by counts (DeLong et al. 1988). What is left out
    shrinks with the root of the product of both sides' sizes, against the root of the smaller for
    the interval. It is exact where all images count the same.
    """
    present = sample.prepared.present
    if len(present) < 2:
        return np.full(len(sample.weights), np.nan)
    sums = sample.by_label_and_class("placements")  # [labels, B, labels]
    own = np.einsum("kbk->bk", sums)
    positives = sample.by_label("images").T
    negatives = sample.total("images")[:, None] - positives
    sides = ratio(own, positives), ratio(sums.sum(axis=0) - own, negatives)
    return nanmean(sides[0] + sides[1] - sample.prepared.areas)


def classwise_calibration_error(sample: Sample) -> FloatArray:
    """`classwise.classwise_calibration_error` of 10 bins.

    A bin's share times its gap is the sum over its images of probability minus being right. The
    lowest bin of each class and the label's own probabilities are columns; what is left are the few
    images whose probability of another class is above the lowest bin.
    """
    classes, bins = len(sample.predictions.classes), sample.prepared.class_bins
    own = sample.by_label_and_class("own_excess")  # [labels, B, bins]
    by_class = np.zeros((len(sample.weights), classes, own.shape[2]))
    by_class[:, sample.prepared.present] = own.transpose(1, 0, 2)
    excess = by_class.reshape(len(by_class), -1)
    counts = np.empty(len(bins.images), sample.weights.dtype)
    product = np.empty_like(bins.probability)
    for row, weights in enumerate(sample.weights):
        np.take(weights.copy(), bins.images, out=counts, mode="wrap")  # the fastest mode
        np.multiply(counts, bins.probability, out=product, casting="same_kind")
        excess[row, bins.bins] += np.add.reduceat(product, bins.starts)
    lowest = np.abs(sample.by_label_and_class("lowest_excess").sum(axis=0)).sum(axis=1)
    return (lowest + np.abs(excess).sum(axis=1)) / sample.total("images") / classes


def brier_resolution(sample: Sample) -> FloatArray:
    """The `resolution` of `decomposition.brier_decomposition`, of 10 bins of equal width."""
    sums = sample.ordered.equal_width
    accuracy = np.divide(
        sums.correct, sums.images, out=np.zeros_like(sums.correct), where=sums.images > 0
    )
    distance = accuracy - sample.mean("correct")[:, None]
    return (sums.share * np.square(distance)).sum(axis=1)


def brier_uncertainty(sample: Sample) -> FloatArray:
    """The `uncertainty` of `decomposition.brier_decomposition`."""
    accuracy = sample.mean("correct")
    return accuracy * (1 - accuracy)


def area_under_risk_coverage(sample: Sample) -> FloatArray:
    """`selective.area_under_risk_coverage`, a group's images counted as equally confident."""
    _, risk = _answered(sample.ordered)
    images = np.diff(sample.ordered.images)
    return (images * np.nan_to_num(risk)).sum(axis=1) / sample.total("images")


def coverage_at_risk(sample: Sample, risk: float) -> FloatArray:
    """`selective.coverage_at_risk`, a group's images answered together."""
    answered, found = _answered(sample.ordered)
    share = answered / sample.total("images")[:, None]
    return np.where(found <= risk, share, 0.0).max(axis=1)  # NaN fails the comparison


def confidence_auroc(sample: Sample) -> FloatArray:
    """`selective.confidence_auroc`, a group's images counted as equally confident."""
    right, wrong = sample.ordered.right, sample.ordered.images - sample.ordered.right
    middle = (wrong[:, 1:] + wrong[:, :-1]) / 2  # wrong images below, and half of those beside
    wins = (np.diff(right) * middle).sum(axis=1)
    return ratio(wins, right[:, -1] * wrong[:, -1])


def _answered(sums: OrderedSums) -> tuple[FloatArray, FloatArray]:
    """Images at least as confident as each group, and the share of them that is wrong."""
    images = sums.images[:, -1:] - sums.images[:, :-1]
    right = sums.right[:, -1:] - sums.right[:, :-1]
    return images, ratio(images - right, images)
