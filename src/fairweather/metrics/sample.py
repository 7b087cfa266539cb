"""A cell's columns and its resamples: what is worked out once, and the sums that metrics share."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.calibration import BinSums, check_confidence
from fairweather.metrics.classification import brier_score, negative_log_likelihood, placements
from fairweather.metrics.classwise import ClassBins, class_bins, excess_columns
from fairweather.metrics.columns import (
    FloatArray,
    IntArray,
    check_counts,
    order_by_label,
    softmax,
    sum_by_label,
)
from fairweather.metrics.ordered import (
    ConfidenceOrder,
    LevelSums,
    level_and_bin_sums,
    mass_cuts,
    order_by_confidence,
    size_cuts,
    width_places,
)
from fairweather.metrics.selective import Fitted, at_or_above
from fairweather.types import Predictions

# Of the calibration errors that are computed for every cell.
BINS = 10
PER_BIN = 100


def bootstrap_weights(n: int, resamples: int = 1000, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw how often each image counts in each resample: multinomial counts, `[resamples, n]`.

    The draws depend on the arguments alone, so all cells of a run share them and their images are
    resampled jointly. They are kept in 8 bits (50 MB for 50,000 images and 1,000 resamples, against
    400 MB in float64) and become wider numbers block by block in `evaluate_metrics`. 8 bits are
    enough: a count is nearly Poisson with mean 1, so beyond 255 with a probability below 1e-500.

    Args:
        n: images, at least 1.
        resamples: rows, at least 1.
        seed: of a generator of its own; no global random state is read or moved.

    >>> bootstrap_weights(5, resamples=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    if n < 1 or resamples < 1:
        raise InputError(f"cannot resample {n} images {resamples} times: both must be at least 1")
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, n), dtype=np.uint8)
    # Counting drawn places is ten times as fast as Generator.multinomial's n binomials a row.
    for row in weights:
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return weights


@dataclass(frozen=True)
class Resamples:
    """How often each image counts in each resample, the images in order of their labels.

    In that order the images of a class lie together, so that sums by class are sums of slices. All
    cells of a run have the same images and share this.

    Attributes:
        labels: int `[n]`, as the cells have them.
        order: int64 `[n]`, the place of each image in the cells' columns.
        counts: `[B, n]`, in this order.
        bounds: int64 `[classes present + 1]`, where the images of each label begin and end.
    """

    labels: npt.NDArray[np.integer]
    order: IntArray
    counts: npt.NDArray[Any]
    bounds: IntArray

    @staticmethod
    def of(labels: npt.NDArray[np.integer], weights: npt.ArrayLike) -> Resamples:
        """Put weights `[B, n]` into order; raises `InputError` where they count nothing sensible.

        >>> Resamples.of(np.array([1, 0, 1]), [[5, 6, 7]]).counts
        array([[6, 5, 7]])
        """
        rows, n = np.asarray(weights), len(labels)
        if rows.ndim != 2 or rows.shape[1] != n or not rows.size:
            raise InputError(f"weights must be [B, {n}], found {list(rows.shape)}")
        check_counts(rows)
        order, bounds = order_by_label(labels)
        counts = np.empty_like(rows)
        for row, target in zip(rows, counts, strict=True):
            np.take(row, order, out=target, mode="clip")
        return Resamples(labels, order, counts, bounds)

    @staticmethod
    def draw(labels: npt.NDArray[np.integer], resamples: int, seed: int = 0) -> Resamples:
        """Draw them as `bootstrap_weights` does.

        >>> Resamples.draw(np.array([1, 0, 1]), 2).counts.sum(axis=1).tolist()
        [3, 3]
        """
        return Resamples.of(labels, bootstrap_weights(len(labels), resamples, seed))

    def prepare(self, predictions: Predictions, fitted: Fitted | None = None) -> Prepared:
        """Put one cell's columns into the same order.

        Raises `InputError` where the labels are not those of the resamples.
        """
        if not np.array_equal(predictions.labels, self.labels):
            raise InputError("the predictions are of other images than the resamples")
        columns: dict[str, Any] = {
            name: column[self.order]
            for name, column in vars(predictions).items()
            if isinstance(column, np.ndarray)
        }
        return Prepared(replace(predictions, **columns), self.bounds, fitted)


class Columns(NamedTuple):
    """Columns whose sums by label are metrics, or nearly, side by side.

    Attributes:
        matrix: float64 `[n, all]`, or float32 where that will do.
        places: where each column `[n]` or `[n, k]` lies in it.
    """

    matrix: npt.NDArray[np.floating]
    places: dict[str, slice]

    @staticmethod
    def of(columns: Mapping[str, npt.NDArray[Any]]) -> Columns:
        """Put them side by side, in float64."""
        blocks = [column.reshape(len(column), -1) for column in columns.values()]
        ends = np.cumsum([0, *(block.shape[1] for block in blocks)]).tolist()
        matrix = np.concatenate(blocks, axis=1, dtype=np.float64)
        return Columns(matrix, dict(zip(columns, map(slice, ends, ends[1:]), strict=True)))


@dataclass(frozen=True)
class Prepared:
    """One cell's columns in order of the labels, and what every resample of them needs.

    Attributes:
        predictions: the columns.
        bounds: where the images of each label that is there begin and end.
        fitted: on validation images, if anything is.
    """

    predictions: Predictions
    bounds: IntArray
    fitted: Fitted | None

    def __post_init__(self) -> None:
        p = self.predictions
        check_confidence(p.confidence, p.correct)
        negative_log_likelihood(p.nll)
        brier_score(p.brier)

    @cached_property
    def present(self) -> IntArray:
        """The labels that are there, `[classes present]`."""
        return self.predictions.labels[self.bounds[:-1]]

    @cached_property
    def order(self) -> ConfidenceOrder:
        """The images' order of confidence."""
        return order_by_confidence(self.predictions.confidence, self.predictions.correct)

    @cached_property
    def probabilities(self) -> FloatArray:
        """float64 `[n, classes]`; only where there are logits."""
        if self.predictions.logits is None:
            raise ValueError("there are no logits; ask `Metric.applies` first")
        return softmax(self.predictions.logits)

    @cached_property
    def placements(self) -> FloatArray:
        """For each class that is there, how each image is ranked by its probability, `[n, k]`.

        NaN where an image has none on the other side, as when there is a single class.
        """
        columns = np.full((len(self.predictions), len(self.present)), np.nan)
        if len(self.present) > 1:
            for k, label in enumerate(self.present):
                positive = self.predictions.labels == label
                columns[:, k] = placements(self.probabilities[:, label], positive)
        return columns

    @cached_property
    def areas(self) -> FloatArray:
        """The area under the ROC curve of each class that is there, `[k]`; NaN for a single one."""
        is_label = self.predictions.labels[:, None] == self.present
        return np.asarray(np.mean(self.placements, axis=0, where=is_label))

    @cached_property
    def class_bins(self) -> ClassBins:
        """Of 10 bins of equal width."""
        return class_bins(self.probabilities, self.predictions.labels, BINS)

    @cached_property
    def means(self) -> Columns:
        """One number an image, whose mean is a metric."""
        p = self.predictions
        columns = {
            "images": np.ones(len(p)),
            "correct": p.correct,
            "top5_correct": p.top5_correct,
            "nll": p.nll,
            "brier": p.brier,
            "confidence": p.confidence,
        }
        if self.fitted is not None:
            answered = at_or_above(p.confidence, self.fitted.threshold)
            columns["answered"] = answered
            columns["answered_wrong"] = answered & ~p.correct
            columns["above_atc"] = at_or_above(p.confidence, self.fitted.atc_threshold)
        return Columns.of(columns)

    @cached_property
    def by_class(self) -> Columns:
        """A number an image and class, or bin; only where there are logits."""
        lowest, own = excess_columns(self.probabilities, self.predictions.labels, BINS)
        return Columns.of(
            {"placements": self.placements, "lowest_excess": lowest, "own_excess": own}
        )

    @cached_property
    def narrow(self) -> Prepared:
        """The same with `by_class` and `class_bins` in float32: half the time, and nearly as good.

        Means stay in float64, where float32 would move the last of seven digits.
        """
        if self.predictions.logits is None:
            return self
        columns, bins = self.by_class, self.class_bins
        same = copy(self)  # with all that has been worked out
        vars(same).update(
            by_class=columns._replace(matrix=columns.matrix.astype(np.float32)),
            class_bins=bins._replace(probability=bins.probability.astype(np.float32)),
        )
        return same


class OrderedSums(NamedTuple):
    """Sums over the images of each resample in order of confidence.

    Attributes:
        levels: below each group of confidences.
        equal_width, equal_mass: of 10 bins.
        hundreds: of bins of 100 images, the last with up to 199.
    """

    levels: LevelSums
    equal_width: BinSums
    equal_mass: BinSums
    hundreds: BinSums


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
        return sum_by_label(self.weights, self.prepared.means.matrix, self.prepared.bounds)

    @cached_property
    def _by_class(self) -> FloatArray:
        return sum_by_label(self.weights, self.prepared.by_class.matrix, self.prepared.bounds)

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
        """Sums over the images in order of confidence, all in one pass over the weights."""
        totals = self.total("images")
        width = width_places(self.order, BINS)
        cuts = [mass_cuts(totals, BINS), size_cuts(totals, PER_BIN)]
        levels, below = level_and_bin_sums(
            self.order, self.weights, totals, width, np.concatenate(cuts, axis=1)
        )
        bins = np.split(below, [len(width), len(width) + cuts[0].shape[1]], axis=2)
        return OrderedSums(levels, *map(BinSums.between, bins))
