"""A cell's columns and its resamples, with the sums that several metrics share, computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError, check_type
from fairweather.metrics.areas import auc_column, mean_column, precision_bias, precision_column
from fairweather.metrics.calibration import (
    BinSums,
    ClassBins,
    check_confidence,
    class_bins,
    excess_columns,
)
from fairweather.metrics.classification import (
    FAR,
    ClassCounts,
    brier_score,
    class_areas,
    class_counts,
    class_precisions,
    cumulative_excess,
    grades_off,
    kappa_columns,
    merge_classes,
    negative_log_likelihood,
    rank_scores,
)
from fairweather.metrics.columns import (
    BoolArray,
    ConfidenceOrder,
    FloatArray,
    IntArray,
    LabelArray,
    LevelSums,
    check_counts,
    equal_mass_cuts,
    equal_width_places,
    fixed_size_cuts,
    merge_levels,
    order_by_confidence,
    order_by_label,
    softmax,
    sum_by_label,
    sums_below,
)
from fairweather.metrics.conformal import stratum_columns
from fairweather.metrics.costs import cost_columns
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.recalibration import CalibrationNumber, Outcomes, weigh
from fairweather.metrics.selective import FittedThresholds, is_answered, risk_area
from fairweather.types.measurement import AnyPredictions, Predictions

# Bins and images per bin of the calibration errors that are computed for every cell.
BINS = 10
PER_BIN = 100
NLL_CLIP = 10  # nats, of the clipped negative log-likelihood: a probability of 0.000045
POSITIONS_AT_ONCE = 1 << 14  # 128 kB, which stay in a core's own cache


def bootstrap_weights(n: int, resamples: int = 1000, seed: int = 0) -> NDArray[np.uint8]:
    """Draw how often each image counts in each resample: multinomial counts, `[resamples, n]`.

    The counts depend only on the arguments, so all cells of a run share them and their images are
    resampled jointly. They are stored in 8 bits: 50 MB for 50,000 images and 1,000 resamples,
    instead of 400 MB in float64. `evaluate_metrics` converts them block by block. 8 bits are
    enough: a count is nearly Poisson with mean 1, so it exceeds 255 with a probability below
    1e-500.

    Args:
        n: number of images, at least 1.
        resamples: number of rows, at least 1.
        seed: seed of a local generator; the global random state is neither used nor changed.

    >>> bootstrap_weights(5, resamples=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    check_type(resamples, Integral, "resamples must be a whole number")
    if n < 1 or resamples < 1:
        raise InputError(f"cannot resample {n} images {resamples} times: both must be at least 1")
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, n), dtype=np.uint8)
    # Counting random positions is ten times as fast as Generator.multinomial, which draws n
    # binomial numbers per row. Of few images, many rows are counted at once.
    rows = max(1, POSITIONS_AT_ONCE // n)
    for start in range(0, resamples, rows):
        part = weights[start : start + rows]
        positions = generator.integers(n, size=part.shape)
        positions += n * np.arange(len(part))[:, None]
        part[:] = np.bincount(positions.ravel(), minlength=part.size).reshape(part.shape)
    return weights


def draw_counts(
    n: int, resamples: int, seed: int = 0, grouping: Grouping | None = None
) -> NDArray[np.uint8]:
    """Draw how often each image counts in each resample, `[resamples, n]`: images, or groups.

    Args:
        n, resamples, seed: as in `bootstrap_weights`.
        grouping: if given, whole groups are drawn, and each image counts as often as its group.
            A resample then has as many groups as there are, and not always as many images.

    >>> counts = draw_counts(3, 2, grouping=Grouping(np.array([0, 1, 0])))
    >>> (counts[:, 0] == counts[:, 2]).all(), (counts[:, 0] + counts[:, 1]).tolist()
    (np.True_, [2, 2])
    """
    if grouping is None:
        return bootstrap_weights(n, resamples, seed)
    if len(grouping.numbers) != n:
        raise InputError(f"there are {n} images and groups for {len(grouping.numbers)}")
    return bootstrap_weights(grouping.count, resamples, seed)[:, grouping.numbers]


@dataclass(frozen=True)
class Resamples:
    """How often each image counts in each resample, with the images sorted by stratum.

    In that order the images of a stratum, such as a class, are adjacent, so that sums by class are
    sums of slices. All cells of a run have the same images and share one such object.
    """

    strata: LabelArray
    """Int `[n]`, in the order of the cells; of a classifier the labels."""

    order: IntArray
    """int64 `[n]`, the position of each image in the cells' columns."""

    counts: NDArray[Any]
    """`[B, n]`, sorted by stratum."""

    bounds: IntArray
    """int64 `[strata present + 1]`, where the images of each stratum begin and end."""

    grouping: Grouping | None = None
    """Of the images, in the order of `strata`, if whole groups were resampled."""

    @staticmethod
    def from_weights(
        strata: LabelArray, weights: ArrayLike, grouping: Grouping | None = None
    ) -> Resamples:
        """Sort weights `[B, n]` by stratum; raise `InputError` if they are not valid counts.

        >>> Resamples.from_weights(np.array([1, 0, 1]), [[5, 6, 7]]).counts
        array([[6, 5, 7]])
        """
        rows, n = np.asarray(weights), len(strata)
        if rows.ndim != 2 or rows.shape[1] != n or not rows.size:
            raise InputError(f"weights must be [B, {n}], found {list(rows.shape)}")
        check_counts(rows)
        order, bounds = order_by_label(strata)
        counts = np.empty_like(rows)
        for row, target in zip(rows, counts, strict=True):
            np.take(row, order, out=target, mode="clip")
        return Resamples(strata, order, counts, bounds, grouping)

    @staticmethod
    def draw(
        strata: LabelArray, resamples: int, seed: int = 0, grouping: Grouping | None = None
    ) -> Resamples:
        """Draw resamples as `draw_counts` does.

        >>> Resamples.draw(np.array([1, 0, 1]), 2).counts.sum(axis=1).tolist()
        [3, 3]
        """
        weights = draw_counts(len(strata), resamples, seed, grouping)
        return Resamples.from_weights(strata, weights, grouping)

    @staticmethod
    def from_part(
        strata: LabelArray,
        places: IntArray,
        counts: NDArray[np.uint8],
        grouping: Grouping | None = None,
    ) -> Resamples:
        """Keep the images at some places, of the given strata, of resamples of all images.

        >>> Resamples.from_part(np.zeros(2), np.array([0, 2]), draw_counts(5, 9)).counts.shape
        (9, 2)
        """
        weights = counts[:, places]
        weights[~weights.any(axis=1)] = 1  # as hardly happens with five images: none was drawn
        return Resamples.from_weights(strata, weights, grouping and grouping.select(places))

    def prepare(
        self, predictions: AnyPredictions, fitted: FittedThresholds | None = None
    ) -> PreparedCell:
        """Sort one cell's columns in the same order.

        Raises `InputError` if the labels are not those of the resamples.
        """
        if not np.array_equal(predictions.strata, self.strata):
            raise InputError(
                "the labels of the predictions differ from those of the resamples: both must be "
                "of the same images in the same order"
            )
        grouping = None if self.grouping is None else self.grouping.numbers[self.order]
        # A metric reads only what predictions of the kind that it accepts have.
        ordered = cast("Predictions", predictions.take(self.order))
        return PreparedCell(ordered, self.bounds, fitted, grouping)


class ColumnMatrix(NamedTuple):
    """Columns from whose sums by label metrics are computed, in one matrix."""

    matrix: NDArray[np.floating]
    """float64 `[n, all]`, or float32 where that is precise enough."""

    places: dict[str, slice]
    """The slice of the matrix that each column `[n]` or `[n, k]` occupies."""

    def column(self, name: str) -> NDArray[np.floating]:
        """A column with one number per image, `[n]`."""
        return self.matrix[:, self.places[name].start]

    @staticmethod
    def from_columns(columns: Mapping[str, NDArray[Any]]) -> ColumnMatrix:
        """Join the columns into one matrix, in float64."""
        blocks = [column.reshape(len(column), -1) for column in columns.values()]
        ends = np.cumsum([0, *(block.shape[1] for block in blocks)]).tolist()
        matrix = np.concatenate(blocks, axis=1, dtype=np.float64)
        return ColumnMatrix(matrix, dict(zip(columns, map(slice, ends, ends[1:]), strict=True)))


@dataclass(frozen=True)
class PreparedCell:
    """One cell's columns sorted by label, and what every resample of them needs."""

    predictions: Predictions
    """The columns."""

    bounds: IntArray
    """Where the images of each label present begin and end."""

    fitted: FittedThresholds | None
    """Thresholds from validation images, or None."""

    groups: IntArray | None = None
    """The number of each image's group, sorted by label; None if none are known."""

    def __post_init__(self) -> None:
        p = self.predictions
        if not isinstance(p, Predictions):
            return
        if p.confidence is not None:
            check_confidence(p.confidence, p.correct)
        if p.nll is not None and p.brier is not None:
            negative_log_likelihood(p.nll)
            brier_score(p.brier)

    @cached_property
    def present(self) -> IntArray:
        """The labels that have images, `[classes present]`."""
        return self.predictions.labels[self.bounds[:-1]]

    @property
    def per_bin(self) -> int:
        """Images in each bin of `OrderedSums.hundreds`, which no metric of findings needs."""
        p = self.predictions
        return PER_BIN if p.kind == Predictions.kind else len(p)

    @cached_property
    def order(self) -> ConfidenceOrder | None:
        """The images in order of confidence; None for predictions without a confidence."""
        confidence = getattr(self.predictions, "confidence", None)
        return (
            confidence
            if confidence is None
            else order_by_confidence(confidence, self.predictions.correct)
        )

    @cached_property
    def probabilities(self) -> FloatArray:
        """float64 `[n, classes]`; only if there are logits."""
        assert self.predictions.logits is not None, "there are no logits; ask `Metric.applies`"
        return softmax(self.predictions.logits)

    @cached_property
    def ranks(self) -> FloatArray:
        """float64 `[n, classes]`, what ranks images for each class: the probability.

        Of a finding it is the logit, in which scores differ that are all 1 as probabilities.
        """
        p = self.predictions
        if p.kind == Predictions.kind:
            return self.probabilities
        assert p.logits is not None
        logits = p.logits.astype(np.float64)
        return logits - logits[:, ::-1]

    @cached_property
    def of_probability(self) -> PreparedCell:
        """Of a finding, the same as a classifier that always says that it is there.

        Its confidence is the probability of the finding, and its accuracy the prevalence.
        """
        p, probability = self.predictions, self.probabilities[:, 1]
        always = p.with_columns(predicted=np.ones_like(p.labels), confidence=probability)
        # Sums below single levels are of ranks, which metrics of a probability do not need.
        same = replace(self, predictions=always)
        vars(same).update(order=same.order and merge_levels(same.order, 2 * BINS, BINS))
        return same

    def from_class(self, first: int) -> PreparedCell:
        """Of grades, the same as two classes: below `first`, and from it on."""
        if first not in self._merged:
            merged = merge_classes(self.predictions, first)
            ends = np.searchsorted(merged.labels, [0, 1, 2])  # the images are sorted by label
            self._merged[first] = PreparedCell(merged, np.unique(ends), self.fitted, self.groups)
        return self._merged[first]

    @cached_property
    def _merged(self) -> dict[int, PreparedCell]:
        return {}

    @cached_property
    def auc_columns(self) -> FloatArray:
        """`auc_column` of each class present, `[n, k]`; 0 if there is only one."""
        return self._columns_of_areas(auc_column)

    @cached_property
    def precision_columns(self) -> FloatArray:
        """`precision_column` of each class present, `[n, k]`; 0 if there is only one."""
        return self._columns_of_areas(precision_column)

    @cached_property
    def precision_biases(self) -> FloatArray:
        """`precision_bias` of each class present, `[1, k]`."""
        labels = self.predictions.labels
        biases = [precision_bias(self.ranks[:, k], labels == k) for k in self.present]
        return np.array([biases])

    def _columns_of_areas(self, column_of: Callable[..., FloatArray]) -> FloatArray:
        columns = np.zeros((len(self.predictions), len(self.present)))
        labels = self.predictions.labels
        if len(self.present) > 1:
            for k, label in enumerate(self.present):
                scores = self.ranks[:, label]
                columns[:, k] = column_of(scores, labels == label, self.groups)
        return columns

    @cached_property
    def outcomes(self) -> Outcomes:
        """Whether the most probable class is right; of a finding, whether it is there."""
        p = self.predictions
        if p.kind == Predictions.kind:
            return Outcomes(p.known_confidence.astype(np.float64), p.correct, self.groups)
        return Outcomes(self.probabilities[:, 1], p.labels == 1, self.groups)

    @cached_property
    def class_outcomes(self) -> list[Outcomes]:
        """Whether an image is of the class, for each class present."""
        labels = self.predictions.labels
        return [
            Outcomes(self.probabilities[:, label], labels == label, self.groups)
            for label in self.present
        ]

    def class_influences(self, kind: CalibrationNumber) -> tuple[NDArray[np.floating], FloatArray]:
        """The column of a number of each class present, `[n, k]`, and its bias, `[1, k]`."""
        numbers = [kind.number(outcomes) for outcomes in self.class_outcomes]
        columns = np.stack([number.column for number in numbers], axis=1)
        return columns, np.array([[number.bias for number in numbers]])

    @cached_property
    def class_bins(self) -> ClassBins:
        """The class-wise entries for 10 bins of equal width."""
        return class_bins(self.probabilities, self.predictions.labels, BINS)

    @cached_property
    def means(self) -> ColumnMatrix:
        """Columns with one number per image, whose means are metrics."""
        p = self.predictions
        names = ("correct", "top5_correct", "nll", "brier", "confidence")
        columns: dict[str, NDArray[Any]] = {"images": np.ones(len(p))}
        columns |= {
            name: column for name in names if (column := getattr(p, name, None)) is not None
        }
        if isinstance(p, Predictions) and p.kind == Predictions.kind and p.nll is not None:
            columns["clipped_nll"] = np.minimum(p.nll, NLL_CLIP)
        if getattr(p, "ordered", False):
            columns["grades_off"] = off = grades_off(p.predicted, p.labels)
            columns["far_off"] = off >= FAR
            if p.logits is not None:
                columns["rank_score"] = rank_scores(self.probabilities, p.labels)
        if p.covered is not None and p.set_size is not None:
            columns["covered"] = p.covered
            columns["set_size"] = p.set_size
        if isinstance(p, Predictions) and p.costs is not None:
            known = None if p.logits is None else self.probabilities
            columns |= cost_columns(p.predicted, known, p.labels, p.costs)
        if self.fitted is not None and p.confidence is not None:
            answered = is_answered(p.confidence, self.fitted.threshold)
            columns["answered"] = answered
            columns["answered_wrong"] = answered & ~p.correct
            columns["above_atc"] = is_answered(p.confidence, self.fitted.atc_threshold)
        return ColumnMatrix.from_columns(columns)

    @cached_property
    def by_class(self) -> ColumnMatrix:
        """Columns with one number per image and class, or bin; only if there are logits."""
        labels = self.predictions.labels
        lowest, own = excess_columns(self.probabilities, labels, BINS)
        columns = {"lowest_excess": lowest, "own_excess": own}
        if self.predictions.ordered:
            columns["cumulative_excess"] = cumulative_excess(self.probabilities, labels, BINS)
        return ColumnMatrix.from_columns(columns)

    @cached_property
    def strata(self) -> FloatArray:
        """`stratum_columns` of each image; only if there are prediction sets."""
        size, covered = self.predictions.set_size, self.predictions.covered
        assert size is not None, "there are no prediction sets; ask `Metric.applies`"
        assert covered is not None
        return stratum_columns(size, covered)

    @cached_property
    def distances(self) -> FloatArray:
        """`kappa_columns` of each image."""
        return kappa_columns(self.predictions.predicted, self.predictions.labels)

    @cached_property
    def narrow(self) -> PreparedCell:
        """The same with `by_class` and `class_bins` in float32: twice as fast, almost as precise.

        `means` stay in float64, because float32 would change their seventh digit.
        """
        if self.predictions.kind != Predictions.kind or self.predictions.logits is None:
            return self  # metrics of findings have no sums by class
        columns, bins = self.by_class, self.class_bins
        same = copy(self)  # with everything that is already cached
        vars(same).update(
            by_class=columns._replace(matrix=columns.matrix.astype(np.float32)),
            class_bins=bins._replace(probability=bins.probability.astype(np.float32)),
        )
        return same


def mean_contribution(column: str, prepared: PreparedCell) -> FloatArray:
    """`mean_column` of a column of `PreparedCell.means`."""
    return mean_column(prepared.means.column(column), prepared.groups)


class OrderedSums(NamedTuple):
    """Sums over the images of each resample in order of confidence."""

    levels: LevelSums
    """Counts below each level of confidence."""

    equal_width: BinSums
    equal_mass: BinSums
    """`equal_width`, `equal_mass`: sums of 10 bins."""

    hundreds: BinSums
    """Sums of bins of 100 images; the last bin has up to 199."""


def is_called(predictions: Predictions, label: int, threshold: float | None) -> BoolArray:
    """Tell which images are called a class, bool `[n]`.

    Args:
        predictions: with logits, if there is a threshold.
        label: the class.
        threshold: the smallest probability of the class; None to call the most probable class.
    """
    if threshold is None or predictions.logits is None:
        return predictions.predicted == label
    return is_answered(softmax(predictions.logits)[:, label], threshold)


@dataclass(frozen=True)
class Sample:
    """Some resamples of one cell's images; sums that metrics share are computed at first use.

    A metric may also call a function of columns with `predictions` and `weights`, which are in the
    same order. The result is the same, but it is slower.
    """

    prepared: PreparedCell
    """The columns of the cell."""

    order: ConfidenceOrder | None
    """The images in order of confidence; None without a confidence."""

    weights: NDArray[Any]
    """How often each image counts, `[B, n]`, in the order of `predictions`."""

    @property
    def predictions(self) -> Predictions:
        """The cell's columns, in the order of `weights`."""
        return self.prepared.predictions

    @cached_property
    def of_probability(self) -> Sample:
        """Of a finding, the same of `PreparedCell.of_probability`."""
        prepared = self.prepared.of_probability
        return Sample(prepared, prepared.order, self.weights)

    def from_class(self, first: int) -> Sample:
        """Of grades, the same of `PreparedCell.from_class`."""
        if first not in self._merged:
            prepared = self.prepared.from_class(first)
            self._merged[first] = Sample(prepared, None, self.weights)
        return self._merged[first]

    @cached_property
    def _merged(self) -> dict[int, Sample]:
        return {}

    @cached_property
    def _means(self) -> FloatArray:
        return sum_by_label(self.weights, self.prepared.means.matrix, self.prepared.bounds)

    @cached_property
    def _by_class(self) -> FloatArray:
        return sum_by_label(self.weights, self.prepared.by_class.matrix, self.prepared.bounds)

    def by_label(self, column: str) -> FloatArray:
        """Sums of a column of `PreparedCell.means` over the images of each label, `[k, B]`."""
        return self._means[:, :, self.prepared.means.places[column].start]

    def by_label_and_class(self, column: str) -> FloatArray:
        """Sums of `PreparedCell.by_class` over the images of each label, `[k, B, columns]`."""
        return self._by_class[:, :, self.prepared.by_class.places[column]]

    def total(self, column: str) -> FloatArray:
        """Sum of a column of `PreparedCell.means` over all images, `[B]`."""
        return np.asarray(self.by_label(column).sum(axis=0))

    def mean(self, column: str) -> FloatArray:
        """Mean of a column of `PreparedCell.means` over all images, `[B]`."""
        return self.total(column) / self.total("images")

    @cached_property
    def counts(self) -> ClassCounts:
        """Images of each class, those that are called so, and those that are both."""
        p = self.predictions
        if len(p.classes) != 2:
            return class_counts(p.predicted, p.labels, len(p.classes), self.weights)
        images, hits = (self._by_class_of_two(name) for name in ("images", "correct"))
        return ClassCounts(hits, images, hits + (images - hits)[::-1], images.sum(axis=0))

    def _by_class_of_two(self, column: str) -> FloatArray:
        sums = np.zeros((2, len(self.weights)))
        sums[self.prepared.present] = self.by_label(column)
        return sums

    def counts_at(self, label: int, threshold: float) -> ClassCounts:
        """`counts` of one class, called where its probability is at least the threshold."""
        if (label, threshold) not in self._points:
            calls = is_called(self.predictions, label, threshold)
            truth = (self.predictions.labels == label).astype(np.int64)
            counts = class_counts(calls.astype(np.int64), truth, 2, self.weights)
            self._points[label, threshold] = counts.only(1)
        return self._points[label, threshold]

    @cached_property
    def _points(self) -> dict[tuple[int, float], ClassCounts]:
        return {}

    @cached_property
    def strata(self) -> FloatArray:
        """Sums of `PreparedCell.strata`, `[B, 2 * strata]`."""
        return np.asarray(self.weights.astype(np.float64) @ self.prepared.strata)

    @cached_property
    def precisions(self) -> FloatArray:
        """The average precision of each class present, `[B, k]`."""
        p = self.prepared
        return class_precisions(p.ranks, p.predictions.labels, self.weights)

    @cached_property
    def areas(self) -> FloatArray:
        """The area under the ROC curve of each class present, `[B, k]`."""
        p = self.prepared
        return class_areas(p.ranks, p.predictions.labels, self.weights)

    def calibration(self, kind: CalibrationNumber) -> FloatArray:
        """A number of `PreparedCell.outcomes`, `[B]`."""
        return weigh(self.prepared.outcomes, self.weights, kind.number)

    def class_calibration(self, kind: CalibrationNumber) -> FloatArray:
        """A number of each class present, `[B, k]`."""
        of_classes = self.prepared.class_outcomes
        values = [weigh(outcomes, self.weights, kind.number) for outcomes in of_classes]
        return np.stack(values, axis=1)

    @cached_property
    def levels(self) -> LevelSums:
        """Counts below each level of confidence; without bins, where no metric has any."""
        if self.predictions.kind == Predictions.kind:
            return self.ordered.levels
        assert self.order is not None, "a metric of confidence accepts predictions with one"
        order, totals = self.order, self.total("images")
        return LevelSums(*sums_below(order, self.weights, totals, [order.wrong], order.levels))

    @cached_property
    def risk_area(self) -> FloatArray:
        """The area under the risk-coverage curve, `[B]`."""
        return risk_area(self.levels)

    @cached_property
    def ordered(self) -> OrderedSums:
        """Sums over the images in order of confidence, all in one pass over the weights."""
        assert self.order is not None, "a metric of confidence accepts predictions with one"
        order, totals = self.order, self.total("images")
        places = np.append(order.levels, equal_width_places(order, BINS))
        cuts = [equal_mass_cuts(totals, BINS), fixed_size_cuts(totals, self.prepared.per_bin)]
        columns = order.wrong, order.confidence
        below = sums_below(order, self.weights, totals, columns, places, np.concatenate(cuts, 1))
        ends = np.cumsum([len(order.levels), BINS + 1, cuts[0].shape[1]])
        levels, *bins = np.split(below, ends, axis=2)
        return OrderedSums(LevelSums(*levels[:2]), *map(BinSums.from_sums_below, bins))
