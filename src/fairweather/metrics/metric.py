"""What a row of a table of metrics says, and the metrics of one class against all others.

Metrics of a class, such as `sensitivity/malignant`, are not rows of `METRICS`, because a run has as
many of each as it has classes. A class is called where it is the most probable one. With an
operating point such as `sensitivity/malignant@0.3`, it is called where its probability is at least
0.3. With a target such as `ppv/malignant@sensitivity=0.95`, that threshold is chosen on validation
images. Of classes in an order, `sensitivity/>=2` is of the class 2 and all after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fairweather.metrics.areas import disjoint_pairs, least_pairs
from fairweather.metrics.bounded_means import BoundedLosses
from fairweather.metrics.calibration import reliability_bins
from fairweather.metrics.classification import (
    F1,
    MCC,
    NPV,
    PPV,
    SENSITIVITY,
    SPECIFICITY,
    CallShare,
    ClassCounts,
    merge_classes,
)
from fairweather.metrics.columns import (
    BoolArray,
    Ends,
    FloatArray,
    IntArray,
    LabelArray,
    Result,
    ratio,
)
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.hidden_error import (
    NOTHING_HIDDEN,
    HiddenError,
    HiddenErrorFunction,
    Observation,
)
from fairweather.metrics.operating_points import NOTHING_CALLED
from fairweather.metrics.recalibration import CALIBRATION_NUMBERS, CalibrationNumber
from fairweather.metrics.sample import PreparedCell, Sample, is_called
from fairweather.metrics.selective import FittedThresholds
from fairweather.types.kinds import FINDING, TaskKind
from fairweather.types.measurement import Predictions, has_review
from fairweather.types.operating_points import (
    POINT_SIGN,
    OperatingPoints,
    TargetRate,
    list_points,
    parse_point,
)
from fairweather.types.positive import FROM

IntervalKind = Literal[
    "percentile",
    "skewed",
    "share",
    "difference",
    "bounded",
    "basic",
    "bias-corrected",
    "centred",
    "conditional",
    "overlap",
    "area",
    "influence",
    "classes",
    "searched",
]
Evaluate = Callable[[Sample], Result]
Search = Callable[[Predictions, Grouping | None, FloatArray | None], Ends]
# What each image adds to a mean, `[n]`, and the smallest and largest such number.
LossColumn = tuple[NDArray[np.floating], float, float]
# A mean of areas has no interval with fewer images of the rarest class. With 200 images of 40 and
# of 7 classes, that of the macro PR-AUC began above the truth in 11 and 12 % of 150 samples.
FEWEST_OF_CLASS = 5
# The area of one class, or of two, has none with fewer images of the class, or of the others. The
# interval of an AUC of 0.99 begins above it in 6.9 % of samples with 20 images of the class, in 6.3
# % with 30 and in 3.5 % with 50 (benchmarks/areas.py). Means over more classes are of more images.
FEWEST_OF_AREAS = 30


# With more classes, logits would need more space than everything else in a run folder, and a
# number for each class more rows than anybody reads.
MOST_CLASSES = 100


@dataclass(frozen=True)
class Accepts:
    """What a metric can be computed from."""

    kind: TaskKind = Predictions.kind
    """Which predictions: of which labels, outputs and units."""

    also: tuple[TaskKind, ...] = ()
    """Other predictions that have what it needs, such as a confidence."""

    ordered: bool = False
    """Whether it needs classes in an order, such as grades."""

    classes: int = 1
    """The smallest number of classes for which it is meaningful."""

    column: Literal["", "confidence", "top5_correct", "nll", "brier", "logits"] = ""
    """The column of predictions that it needs and that some lack. With only the predicted class,
    all of these are missing; with its confidence, the others are. Logits are not stored for more
    than `MOST_CLASSES`."""

    few_classes: bool = False
    """Whether it is one number for each of at most `MOST_CLASSES` classes."""

    sets: bool = False
    """Whether it needs prediction sets, which only conformal variants have."""

    fitted: bool = False
    """Whether it needs thresholds from validation images; see `fit_on`."""

    costs: bool = False
    """Whether it needs what each error costs."""

    review: bool = False
    """Whether it needs the price of a review, too."""

    fractions: bool = False
    """Whether images may count in fractions, as under other class priors."""

    @property
    def kinds(self) -> tuple[TaskKind, ...]:
        """All kinds of predictions that it can be computed from."""
        return (self.kind, *self.also)

    def explain_absence(
        self, predictions: Predictions, fitted: FittedThresholds | None = None
    ) -> str | None:
        """Return why a metric cannot be computed from these predictions; None if it can."""
        if predictions.kind not in self.kinds:
            return f"it needs predictions of {self.kind}, found {predictions.kind}"
        classes = len(predictions.classes)
        if classes < self.classes:
            return f"it needs at least {self.classes} classes, and there are {classes}"
        if self.ordered and not predictions.ordered:
            return (
                "it needs classes in an order, such as grades; ordered_classes says that they are"
            )
        if self.sets and predictions.covered is None:
            return "it needs prediction sets, which a conformal variant has"
        if self.few_classes and classes > MOST_CLASSES:
            return f"it is computed for at most {MOST_CLASSES} classes, and there are {classes:,}"
        if self.column and getattr(predictions, self.column) is None:
            return _explain_missing(self.column, predictions)
        if self.costs and predictions.costs is None:
            return "it needs what errors cost, such as --cost 'missed NAME: 20'"
        if self.review and not has_review(predictions.costs):
            return "it needs the price of a review, such as --cost 'review: 3'"
        if self.fitted and fitted is None:
            return "it needs clean validation images to fit a threshold on"
        return None


def _explain_missing(column: str, predictions: Predictions) -> str:
    """Say why predictions lack a column."""
    if predictions.confidence is None:
        kind = "a confidence" if column == "confidence" else "the probability of each class"
        return f"it needs {kind}, and only the predicted class is known"
    if predictions.nll is None:
        return (
            "it needs the probability of each class, and only that of the predicted class is known"
        )
    return f"it needs {column}, which this run does not store"


@dataclass(frozen=True)
class MetricRow:
    """What is known of a metric without computing it."""

    name: str
    """The name in scores.csv; it contains all settings that the value depends on."""

    label: str
    """The name in the headers of tables."""

    formula: str
    """What it is, for readers. The sums and means are over the test images, or over the bins m,
    which hold n_m of the n images with mean confidence conf_m and accuracy acc_m."""

    _: KW_ONLY
    higher_is_better: bool | None
    """None if the best value is inside the bounds, or if no value is better."""

    bounds: Ends = (0.0, 1.0)
    """The smallest and largest possible value."""

    unit: str = ""
    """"" for a plain number; "%" for a share that is shown as a percentage, and whose bounds are
    still 0 and 1."""

    interval: IntervalKind = "percentile"
    """The kind of its 95 % interval; see `to_score`."""

    accepts: Accepts = Accepts()
    """What it can be computed from."""

    least_pairs: Callable[[LabelArray | BoolArray, IntArray | None], float] = lambda *_: 0.0
    """Of a mean over pairs of images, such as an AUC, how many independent pairs it is worth at
    least, from labels (or from what is right) and groups; 0 for another number."""

    instead: str = ""
    """A related row for rules, where few images or errors show too little of this one."""

    long_label: str = ""
    """What it is called where its label does not say enough, down to bins and norm."""

    @property
    def title(self) -> str:
        """The label with the unit, or `long_label`."""
        return self.long_label or (f"{self.label} ({self.unit})" if self.unit else self.label)


@dataclass(frozen=True)
class Metric(MetricRow):
    """A metric of one cell: one row of `METRICS`."""

    evaluate: Evaluate
    """Computes `[B]` values from a `Sample` of B resamples."""

    _: KW_ONLY
    alias_of: str | None = None
    """The name of the row that this row repeats."""

    shown: Literal[0, 1, 2] = 0
    """0 where all metrics are listed; 1 also where runs are compared; 2 also in the tables and
    charts of each shift, and to trackers."""

    carried_by: Literal["wrong", "rarer", "rarer label", "rarer outcome", "emptiest bin"] = "wrong"
    """Which images determine how precise the value is: the wrong ones, the rarer of right and wrong
    ones, those with the finding or without it, the rarer of either by the kind of predictions, or
    those in the emptiest bin that has any."""

    fewest: int = 0
    """With fewer such images there is no interval; see `Estimate`."""

    extra_deviations: Callable[[PreparedCell, int], FloatArray] | None = None
    """Deviations `[B]` that are added to the values of resamples, for what the interval covers
    besides other images; None for nothing."""

    column: Callable[[PreparedCell], NDArray[np.floating]] | None = None
    """Of an area, what each image adds to it, `[n]` (`metrics.areas`); None for a metric that is
    computed on resamples."""

    contribution: Callable[[PreparedCell], FloatArray] | None = None
    """What each image adds to the value, `[n]`, where differences are tested with it and single
    values are not; see `EstimatedDifference`."""

    unseen: Callable[[PreparedCell], float] = lambda _: 0.0
    """With a contribution, the variance that a difference may have beyond it, for each model."""

    hidden_error: HiddenErrorFunction = lambda _: NOTHING_HIDDEN
    """How far the truth may lie beyond what resamples show."""

    bias: Callable[[PreparedCell], float] = lambda _: 0.0
    """Of an area, how much too high it is on average."""

    losses: Callable[[PreparedCell], LossColumn] | None = None
    """Of a mean of bounded numbers, what each image adds, for `bounded_means`; None for others."""

    search: Search = lambda *_: (np.nan, np.nan)
    """The interval of a cell over images, from predictions, groups and weights, if the value is
    found by a search, which resamples would repeat; NaN for the other metrics."""

    def hidden(self, observation: Observation) -> HiddenError:
        """How far the truth may lie beyond what resamples show; see `metrics.hidden_error`."""
        return NOTHING_HIDDEN if np.isnan(observation.value) else self.hidden_error(observation)

    def independent_pairs(self, prepared: PreparedCell) -> float:
        """The `least_pairs` of a cell: of classes, or of right and wrong images."""
        p = prepared.predictions
        of_ranks = self.carried_by == "rarer"
        return self.least_pairs(p.correct if of_ranks else p.labels, prepared.groups)

    def bounded_losses(self, prepared: PreparedCell) -> BoundedLosses | None:
        """What each image, or group, adds to a mean of bounded numbers; None for others."""
        if self.losses is None:
            return None
        grouping = None if prepared.groups is None else Grouping(prepared.groups)
        return BoundedLosses.from_images(*self.losses(prepared), grouping)

    def images(self, predictions: Predictions) -> int:
        """Count the images that are given as n in scores.csv."""
        return len(predictions)

    def errors(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the images that determine how precise the value is; see `carried_by`.

        If they are in fewer groups than the other images, they count for less. Too few images, or
        groups, of the rarest class lower the count of an area (`find_rarest_class`).
        """
        if self.carried_by == "emptiest bin":
            images = reliability_bins(predictions.known_confidence, predictions.correct).images
            return float(images[images > 0].min())
        is_finding = predictions.kind == FINDING and self.carried_by == "rarer outcome"
        by_label = self.carried_by == "rarer label" or is_finding
        counted = predictions.labels == 1 if by_label else ~predictions.correct
        if self.carried_by.startswith("rarer") and 2 * counted.sum() > len(counted):
            counted = ~counted
        evenness = 1.0 if grouping is None else grouping.evenness(counted)
        errors = float(counted.sum()) * evenness
        if self.interval == "area":
            rarest = find_rarest_class(predictions, grouping)
            errors = min(errors, rarest.pairs * self.fewest / rarest.fewest)
        return errors

    def pairs(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the disjoint pairs that a mean of the areas of all classes is worth.

        Half of the images of each class make pairs of their own, and half are the others in pairs
        of other classes. In the worst case, all wrong pairs are those of the rarest class.
        """
        rarest = find_rarest_class(predictions, grouping)
        return len(np.unique(predictions.labels)) * rarest.pairs / 2

    def applies(self, predictions: Predictions, fitted: FittedThresholds | None = None) -> bool:
        """Tell whether the metric can be computed from these predictions."""
        return self.accepts.explain_absence(predictions, fitted) is None


class RarestClass(NamedTuple):
    """The class present with the fewest pairs."""

    label: int
    """The place of the class."""

    pairs: int
    """How many `disjoint_pairs` it makes with the others."""

    fewest: int
    """How many a mean of the areas of the classes present needs."""


def find_rarest_class(predictions: Predictions, grouping: Grouping | None = None) -> RarestClass:
    """Find the rarest class present, and how many of it a mean of areas needs."""
    labels, group = predictions.labels, None if grouping is None else grouping.numbers
    present, images = (part.tolist() for part in np.unique(labels, return_counts=True))
    pairs, _, label = min(  # two classes make the same pairs
        (disjoint_pairs(labels == label, group), count, label)
        for label, count in zip(present, images, strict=True)
    )
    return RarestClass(label, pairs, FEWEST_OF_AREAS if len(present) == 2 else FEWEST_OF_CLASS)


_Row = TypeVar("_Row", bound=MetricRow)


def index_by_name(*rows: _Row) -> dict[str, _Row]:
    """A table of rows, each under its name."""
    return {row.name: row for row in rows}


# --- Metrics of one class against all others ---

NEEDS_LOGITS, OF_CALLS = Accepts(column="logits"), Accepts(few_classes=True)


@dataclass(frozen=True)
class ClassMetricRow(MetricRow):
    """A metric that every class has: one row of `CLASS_METRICS`."""

    values: CallShare | Callable[[Sample], FloatArray] | None
    """The share of images that it is, which depends on the probability from which on the class is
    called; None for that probability itself. Otherwise, a function from a `Sample` to `[B, classes
    present]`."""

    _: KW_ONLY
    image_count: Callable[[ClassCounts], FloatArray] = SENSITIVITY.whole
    """For a value that is not a share, how many images determine its precision; those of the class
    by default."""

    higher_is_better: bool | None = True
    interval: IntervalKind = "conditional"
    accepts: Accepts = NEEDS_LOGITS
    fewest: int = 1
    """With fewer such images there is no interval."""

    column: Callable[[PreparedCell], NDArray[np.floating]] | None = None
    bias: Callable[[PreparedCell], FloatArray] = lambda cell: np.zeros((1, len(cell.present)))
    """`column`, `bias`: of an area, what each image adds to it, and how much too high it is, of
    each class present; see `Metric`."""

    def whole(self, counts: ClassCounts) -> FloatArray:
        """Count the images that its value is a share of."""
        return (
            self.values.whole(counts)
            if isinstance(self.values, CallShare)
            else self.image_count(counts)
        )

    def has(self, point: float | TargetRate | None) -> bool:
        """Tell whether there is such a metric at an operating point; None for the most probable.

        Only targets have thresholds that are chosen.
        """
        if self.values is None:
            return isinstance(point, TargetRate)
        return point is None or isinstance(self.values, CallShare)


# A correlation has no interval with fewer right calls of either side, or wrong ones. Where one of
# 20 images is found, a side would miss in up to 37 % (benchmarks/findings.py).
FEWEST_CALLS = 5
# With fewer images on either side, slopes are too far from normal. A higher limit would not help
# where fewer are expected: it keeps samples with too many events (benchmarks/calibration.py).
FEWEST_OUTCOMES = 20


def _calibration_row(kind: CalibrationNumber) -> ClassMetricRow:
    return ClassMetricRow(
        kind.name,
        kind.label,
        f"{kind.formula}, of the probability p of the class",
        lambda s: s.class_calibration(kind),
        image_count=lambda c: np.minimum(c.images, c.total - c.images),
        bounds=kind.bounds,
        higher_is_better=kind.higher_is_better,
        interval="influence",
        fewest=FEWEST_OUTCOMES,
        column=lambda prepared: prepared.class_influences(kind)[0],
        bias=lambda prepared: prepared.class_influences(kind)[1],
    )


CLASS_METRICS: dict[str, ClassMetricRow] = index_by_name(
    ClassMetricRow(
        "sensitivity",
        "Sensitivity",
        "share of the images of the class that are called so (recall)",
        SENSITIVITY,
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "specificity",
        "Specificity",
        "share of the images of other classes that are not called so",
        SPECIFICITY,
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "ppv",
        "PPV",
        "share of the images called so that are of the class (positive predictive value, "
        "precision); it depends on how frequent the class is among the images",
        PPV,
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "npv",
        "NPV",
        "share of the images not called so that are of other classes (negative predictive value); "
        "it depends on how frequent the class is among the images",
        NPV,
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "f1",
        "F1",
        "2 × right calls / (images of the class + images called so), the harmonic mean of "
        "sensitivity and PPV",
        F1,
        interval="overlap",
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "mcc",
        "MCC",
        "Matthews correlation of being of the class and being called so",
        MCC,
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST_CALLS,
        accepts=OF_CALLS,
    ),
    ClassMetricRow(
        "auc",
        "AUC",
        "probability that an image of the class has a higher probability of it than one of another "
        "class; ties count half",
        lambda s: s.areas,
        image_count=lambda c: np.minimum(c.images, c.total - c.images),
        interval="area",
        fewest=FEWEST_OF_AREAS,
        column=lambda prepared: prepared.auc_columns,
        least_pairs=least_pairs,
    ),
    ClassMetricRow(
        "pr_auc",
        "PR-AUC",
        "average precision: the mean over the images of the class of the precision among all "
        "images with at least their probability",
        lambda s: s.precisions,
        image_count=lambda c: np.minimum(c.images, c.total - c.images),
        interval="area",
        fewest=FEWEST_OF_AREAS,
        instead="auc",
        column=lambda prepared: prepared.precision_columns,
        bias=lambda prepared: prepared.precision_biases,
    ),
    ClassMetricRow(
        "conformal_coverage",
        "Coverage of prediction sets",
        "share of the images of the class whose prediction set contains it; only of conformal "
        "variants",
        lambda s: ratio(s.by_label("covered").T, s.by_label("images").T),
        accepts=Accepts(column="logits", sets=True),
    ),
    *map(_calibration_row, CALIBRATION_NUMBERS),
)
THRESHOLD = ClassMetricRow(
    "threshold",
    "Threshold",
    "probability from which on the class is called, so that with 95 % confidence the target is "
    "kept on images like the clean validation images",
    None,
    higher_is_better=None,
    bounds=(0.0, NOTHING_CALLED),
    interval="percentile",
)
POINT_METRICS = {
    row.name: row
    for row in (*CLASS_METRICS.values(), THRESHOLD)
    if row.has(TargetRate("sensitivity", 0.5))
}


@dataclass(frozen=True, kw_only=True)
class ClassMetric(Metric):
    """A metric of one class."""

    kind: ClassMetricRow
    """Which metric."""

    class_label: int
    """The class, as its place in the list of classes."""

    threshold: float | None
    """The probability from which on the class is called; None if it is called where it is the most
    probable class, and NaN where it has not been chosen."""

    def applies(self, predictions: Predictions, fitted: FittedThresholds | None = None) -> bool:
        """Tell whether it can be computed, for which its threshold must be known."""
        if self.threshold is not None and (
            math.isnan(self.threshold) or predictions.logits is None
        ):
            return False
        return super().applies(predictions, fitted)

    def images(self, predictions: Predictions) -> int:
        """Count the images of the class."""
        return int((predictions.labels == self.class_label).sum())

    def errors(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the images that the value is a share of.

        If those of the class are in fewer groups than the others, they count for less.
        """
        truth = predictions.labels == self.class_label
        calls = is_called(predictions, self.class_label, self.threshold)
        masks = truth & calls, truth, calls, np.ones_like(truth)
        counts = ClassCounts(*(np.array([mask.sum()]) for mask in masks))
        evenness = 1.0 if grouping is None else grouping.evenness(truth)
        return float(self.kind.whole(counts)[0]) * evenness

    def pairs(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the `disjoint_pairs` of the class and the others."""
        group = None if grouping is None else grouping.numbers
        return disjoint_pairs(predictions.labels == self.class_label, group)

    def is_present(self, labels: LabelArray) -> BoolArray:
        """Tell which images are of the class, from the labels of all."""
        return labels == self.class_label

    def calls(self, predictions: Predictions) -> BoolArray:
        """Tell which images are called so."""
        return is_called(predictions, self.class_label, self.threshold)

    def right_calls(self, predictions: Predictions) -> BoolArray:
        """Tell for which images it is right that the class is called, or not called."""
        truth = predictions.labels == self.class_label
        return is_called(predictions, self.class_label, self.threshold) == truth


@dataclass(frozen=True, kw_only=True)
class GradeMetric(ClassMetric):
    """A metric of a grade or more, which is the second of two classes."""

    first: int
    """The lowest grade of the second class."""

    def images(self, predictions: Predictions) -> int:
        """Count the images of these grades."""
        return super().images(merge_classes(predictions, self.first))

    def errors(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the images that the value is a share of, as for one class."""
        return super().errors(merge_classes(predictions, self.first), grouping)

    def pairs(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the `disjoint_pairs` of these grades and those below."""
        return super().pairs(merge_classes(predictions, self.first), grouping)

    def is_present(self, labels: LabelArray) -> BoolArray:
        """Tell which images have one of these grades."""
        return labels >= self.first

    def calls(self, predictions: Predictions) -> BoolArray:
        """Tell which images are called so."""
        return super().calls(merge_classes(predictions, self.first))

    def right_calls(self, predictions: Predictions) -> BoolArray:
        """Tell for which images it is right that these grades are called, or not called."""
        return super().right_calls(merge_classes(predictions, self.first))


def find_class_metric_row(name: str) -> ClassMetricRow | None:
    """Find what kind of metric of a class has this name in scores.csv; None if none has.

    >>> find_class_metric_row("ppv/malignant@0.3").label, find_class_metric_row("ppv")
    ('PPV', None)
    """
    kind, _, named = name.partition("/")
    return {**CLASS_METRICS, THRESHOLD.name: THRESHOLD}.get(kind) if named else None


class NamedPoint(NamedTuple):
    """What stands behind the slash of the name of a metric of a class."""

    label: int
    """The class, as its place in the list of classes."""

    point: float | TargetRate | None
    """Its operating point; None to call the most probable class."""

    text: str
    """The operating point as it is written; "" without one."""

    onwards: bool = False
    """Whether it is of this class and all after it, such as `>=2`."""


def find_point(named: str, classes: Sequence[str]) -> NamedPoint | None:
    """Find a class and its operating point, such as `malignant@0.3`; None if there is none.

    >>> find_point("malignant@sensitivity=0.9", ["benign", "malignant"]).point
    TargetRate(rate='sensitivity', value=0.9)
    >>> find_point(">=2@0.3", ["0", "1", "2"])
    NamedPoint(label=2, point=0.3, text='0.3', onwards=True)
    """
    known = [*classes, *list_onwards(classes)]
    name, point, text = named, None, ""
    if named not in known:  # the name of a class may contain the sign too
        name, _, text = named.rpartition(POINT_SIGN)
        point = parse_point(text)
        if point is None or name not in known:
            return None
    if name in classes:
        return NamedPoint(list(classes).index(name), point, text)
    return NamedPoint(known.index(name) - len(classes) + 1, point, text, onwards=True)


def list_onwards(classes: Sequence[str]) -> list[str]:
    """The names of a grade or more, for each grade but the lowest.

    >>> list_onwards(["none", "mild", "severe"])
    ['>=mild', '>=severe']
    """
    return [f"{FROM}{name}" for name in classes[1:]]


def find_class_metric(
    name: str, classes: Sequence[str], chosen: Mapping[str, float] = MappingProxyType({})
) -> ClassMetric | None:
    """Find a metric of one of these classes by its name in scores.csv; None if there is none.

    Args:
        name: the name.
        classes: of the predictions.
        chosen: thresholds that were chosen for targets, by what stands behind the slash.

    >>> metric = find_class_metric("ppv/malignant@0.3", ["benign", "malignant"])
    >>> metric.label, metric.class_label, metric.threshold
    ('PPV of malignant at 0.3', 1, 0.3)
    >>> find_class_metric("ppv/mole", ["benign", "malignant"]) is None
    True
    """
    kind, named = find_class_metric_row(name), name.partition("/")[2]
    place = find_point(named, classes)
    if kind is None or place is None or not kind.has(place.point):
        return None
    class_name, at = classes[place.label], f" at {place.text}" if place.text else ""
    threshold = chosen.get(named, math.nan) if isinstance(place.point, TargetRate) else place.point
    if not place.onwards:
        label = f"{kind.label} of {class_name}{at}"
        return metric_of_class(ClassMetric, kind, name, label, place.label, threshold)
    if kind.accepts.sets:
        return None
    label = f"{kind.label} of {class_name} or more{at}"
    whole = metric_of_class(ClassMetric, kind, name, label, 1, threshold)
    return _of_grades(whole, place.label)


def _of_grades(whole: ClassMetric, first: int) -> GradeMetric:
    """Compute a metric of the second of two classes on grades, of which they are made."""
    column = whole.column
    changed = {
        "evaluate": lambda s: whole.evaluate(s.from_class(first)),
        "column": column and (lambda prepared: column(prepared.from_class(first))),
        "bias": lambda prepared: whole.bias(prepared.from_class(first)),
        "least_pairs": lambda labels, groups: whole.least_pairs(
            (labels >= first).astype(np.int64), groups
        ),
        "accepts": replace(whole.accepts, column="logits", ordered=True),
    }
    own = {declared.name: getattr(whole, declared.name) for declared in fields(whole)}
    return GradeMetric(**own | changed, first=first)


def find_targets(
    names: Iterable[str], classes: Sequence[str]
) -> dict[str, tuple[int | range, TargetRate]]:
    """Find the targets among names of metrics of classes, by what stands behind the slash.

    >>> names = ["ppv/a@sensitivity=0.9", "ppv/>=b@sensitivity=0.9"]
    >>> [label for label, _ in find_targets(names, ["a", "b", "c"]).values()]
    [0, range(1, 3)]
    """
    places = {name.partition("/")[2]: name for name in names if find_class_metric_row(name)}
    known = {named: find_point(named, classes) for named in places}
    return {
        named: (range(place.label, len(classes)) if place.onwards else place.label, place.point)
        for named, place in known.items()
        if place and isinstance(place.point, TargetRate)
    }


_C = TypeVar("_C", bound=ClassMetric)
_F = TypeVar("_F", bound=np.floating)


def metric_of_class(
    make: type[_C], kind: ClassMetricRow, name: str, label: str, place: int, threshold: float | None
) -> _C:
    """Make the metric of one class from its row.

    Args:
        make: the type of the metric.
        kind: the row.
        name, label: as in scores.csv and in tables.
        place: of the class.
        threshold: the probability from which on the class is called; None to call the most probable
            class.
    """
    column, bias = kind.column, kind.bias
    return make(
        name,
        label,
        kind.formula,
        lambda s: _evaluate_class(kind, place, threshold, s),
        higher_is_better=kind.higher_is_better,
        bounds=kind.bounds,
        interval=kind.interval,
        accepts=kind.accepts,
        fewest=kind.fewest,
        least_pairs=lambda labels, groups: kind.least_pairs(labels == place, groups),
        instead=kind.instead,
        column=column and (lambda prepared: _take_present(column(prepared), prepared, place, 0.0)),
        bias=lambda prepared: float(_take_present(bias(prepared), prepared, place, 0.0)[0]),
        kind=kind,
        class_label=place,
        threshold=threshold,
    )


def class_metric_names(
    classes: Sequence[str], points: OperatingPoints = MappingProxyType({}), *, ordered: bool = False
) -> list[str]:
    """The names in scores.csv of every metric of every class, and of each operating point.

    Ordered classes also have those of a grade or more.

    >>> class_metric_names(["a"], {"a": 0.25})[-2:]
    ['f1/a@0.25', 'mcc/a@0.25']
    >>> class_metric_names(["a", "b", "c"], ordered=True)[-1]
    'ici_4_knots/>=c'
    """
    names = [f"{kind}/{name}" for name in classes for kind in CLASS_METRICS]
    names += [
        f"{kind}/{name}"
        for name in (list_onwards(classes) if ordered and len(classes) > 2 else ())
        for kind, row in CLASS_METRICS.items()
        if not row.accepts.sets
    ]
    names += [
        f"{kind}/{name}{POINT_SIGN}{point}"
        for name in points
        for point in list_points(points, name)
        for kind in list_point_metrics(point)
    ]
    return names


def list_point_metrics(point: str) -> list[str]:
    """The metrics at an operating point.

    >>> list_point_metrics("0.3"), list_point_metrics("sensitivity=0.9")[-1]
    (['sensitivity', 'specificity', 'ppv', 'npv', 'f1', 'mcc'], 'threshold')
    """
    return [kind for kind, row in POINT_METRICS.items() if row.has(parse_point(point))]


def _evaluate_class(
    kind: ClassMetricRow, label: int, threshold: float | None, s: Sample
) -> FloatArray:
    if kind.values is None:
        return np.full(len(s.weights), threshold)
    if not isinstance(kind.values, CallShare):
        return _take_present(kind.values(s), s.prepared, label, np.nan)
    counts = s.counts.only(label) if threshold is None else s.counts_at(label, threshold)
    return np.asarray(kind.values.value(counts)[0])


def _take_present(
    columns: NDArray[_F], prepared: PreparedCell, label: int, absent: float
) -> NDArray[_F]:
    """One class of `[rows, k]` of the labels present; filled if the label is absent."""
    at = np.flatnonzero(prepared.present == label)
    if len(at):
        return np.asarray(columns[:, at[0]])
    return np.full(len(columns), absent, dtype=columns.dtype)
