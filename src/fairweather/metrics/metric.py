"""What a row of a table of metrics says: everything about a metric that other code must know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from fairweather.metrics.areas import disjoint_pairs
from fairweather.metrics.calibration import reliability_bins
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, Result
from fairweather.metrics.hidden import NOTHING, Hidden, Hides, Observed
from fairweather.metrics.sample import Prepared, Sample
from fairweather.metrics.selective import Fitted
from fairweather.types import Kind, Predictions

Interval = Literal[
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
    "classes",
    "searched",
]
Evaluate = Callable[[Sample], Result]
Ends = tuple[float, float]
# A mean of areas has no interval with fewer images of the rarest class: that of the macro PR-AUC
# began above the truth in 11 and 12 % of 150 samples with 200 images of 40 and of 7 classes.
FEWEST_OF_CLASS = 5
# The area of one class, or of two, has none with fewer images of the class, or of the others. That
# of an AUC of 0.99 begins above it in 6.9 % of the samples with 20 images of the class, in 6.3 with
# 30 and in 3.5 with 50 (benchmarks/areas.py). Means over more classes are of more images.
FEWEST_OF_AREAS = 30


@dataclass(frozen=True)
class Accepts:
    """What a metric can be computed from.

    Attributes:
        kind: which predictions: of which labels, outputs and units.
        ordered: does it need classes in an order, such as grades.
        classes: the smallest number of classes for which it is meaningful.
        logits: does it need logits, which are not stored for more than 100 classes.
        sets: does it need prediction sets, which only conformal variants have.
        fitted: does it need thresholds from validation images; see `fit_on`.
        fractions: may images count in fractions, as under other class priors.
    """

    kind: Kind = Predictions.kind
    ordered: bool = False
    classes: int = 1
    logits: bool = False
    sets: bool = False
    fitted: bool = False
    fractions: bool = False

    def absence(self, predictions: Predictions, fitted: Fitted | None = None) -> str | None:
        """Return why a metric cannot be computed from these predictions; None if it can."""
        if predictions.kind != self.kind:
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
        if self.logits and predictions.logits is None:
            return "it needs logits, which this run does not store"
        if self.fitted and fitted is None:
            return "it needs clean validation images to fit a threshold on"
        return None


@dataclass(frozen=True)
class MetricRow:
    """What is known of a metric without computing it.

    Attributes:
        name: the name in scores.csv; it contains all settings that the value depends on.
        label: the name in the headers of tables.
        formula: what it is, for readers. The sums and means are over the test images, or over the
            bins m, which hold n_m of the n images with mean confidence conf_m and accuracy acc_m.
        higher_is_better: None if the best value is inside the bounds, or if no value is better.
        bounds: the smallest and largest possible value.
        unit: "" for a plain number; "%" for a share that is shown as a percentage, and whose bounds
            are still 0 and 1.
        interval: the kind of its 95 % interval; see `to_score`.
        accepts: what it can be computed from.
        described: what it is called where its label does not say enough, down to bins and norm.
    """

    name: str
    label: str
    formula: str
    _: KW_ONLY
    higher_is_better: bool | None
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    interval: Interval = "percentile"
    accepts: Accepts = Accepts()
    described: str = ""

    @property
    def title(self) -> str:
        """The label with the unit, or `described`."""
        return self.described or (f"{self.label} ({self.unit})" if self.unit else self.label)


@dataclass(frozen=True)
class Metric(MetricRow):
    """A metric of one cell: one row of `METRICS`.

    Attributes:
        evaluate: computes `[B]` values from a `Sample` of B resamples.
        alias_of: the name of the row that this row repeats.
        shown: 0 where all metrics are listed; 1 also where runs are compared; 2 also in the tables
            and charts of each shift, and to trackers.
        carried_by: which images determine how precise the value is: the wrong ones, the rarer of
            right and wrong ones, or those in the non-empty bin with the fewest images.
        fewest: with fewer such images there is no interval; see `Estimate`.
        varies: what else the interval covers beside other images: deviations `[B]` that are added
            to the values of resamples; None for nothing.
        column: of an area, what each image adds to it, `[n]` (`metrics.areas`); None for a metric
            that is computed on resamples.
        hides: how far the truth may lie beside what resamples show; None for nothing.
        bias: of an area, how much too high it is on average; None for nothing.
        search: the interval of a cell over images, from predictions, clusters and weights, if the
            value is found by a search, which resamples would repeat; None for the other metrics.
    """

    evaluate: Evaluate
    _: KW_ONLY
    alias_of: str | None = None
    shown: Literal[0, 1, 2] = 0
    carried_by: Literal["wrong", "rarer", "emptiest bin"] = "wrong"
    fewest: int = 0
    varies: Callable[[Prepared, int], FloatArray] | None = None
    column: Callable[[Prepared], FloatArray] | None = None
    hides: Hides | None = None
    bias: Callable[[Prepared], float] | None = None
    search: Callable[[Predictions, Clusters | None, FloatArray | None], Ends] | None = None

    def hidden(self, seen: Observed) -> Hidden:
        """How far the truth may lie beside what resamples show; see `metrics.hidden`."""
        return NOTHING if self.hides is None or np.isnan(seen.value) else self.hides(seen)

    def images(self, predictions: Predictions) -> int:
        """Count the images that are given as n in scores.csv."""
        return len(predictions)

    def errors(self, predictions: Predictions, clusters: Clusters | None = None) -> float:
        """Count the images that determine how precise the value is; see `carried_by`.

        If they are in fewer clusters than the other images, they count for less. Too few images, or
        clusters, of the rarest class lower the count of an area (`rarest_class`).
        """
        if self.carried_by == "emptiest bin":
            images = reliability_bins(predictions.confidence, predictions.correct).images
            return float(images[images > 0].min())
        counted = ~predictions.correct
        if self.carried_by == "rarer" and 2 * counted.sum() > len(counted):
            counted = predictions.correct
        evenness = 1.0 if clusters is None else clusters.evenness(counted)
        errors = float(counted.sum()) * evenness
        if self.column is not None:
            rarest = rarest_class(predictions, clusters)
            errors = min(errors, rarest.pairs * self.fewest / rarest.fewest)
        return errors

    def pairs(self, predictions: Predictions, clusters: Clusters | None = None) -> float:
        """Count the disjoint pairs that a mean of the areas of all classes is worth.

        Half of the images of each class make pairs of their own, half are the others in pairs of
        other classes. The worst is that all wrong pairs would be those of the rarest class.
        """
        return len(np.unique(predictions.labels)) * rarest_class(predictions, clusters).pairs / 2

    def ends(
        self,
        predictions: Predictions,
        clusters: Clusters | None = None,
        weights: FloatArray | None = None,
    ) -> Ends:
        """The interval of a cell that `search` finds; NaN for a metric without one."""
        if self.search is None:
            return np.nan, np.nan
        return self.search(predictions, clusters, weights)

    def applies(self, predictions: Predictions, fitted: Fitted | None = None) -> bool:
        """Tell whether the metric can be computed from these predictions."""
        return self.accepts.absence(predictions, fitted) is None


class Rarest(NamedTuple):
    """The class present with the fewest pairs.

    Attributes:
        label: the place of the class.
        pairs: how many `disjoint_pairs` it makes with the others.
        fewest: how many a mean of the areas of the classes present needs.
    """

    label: int
    pairs: int
    fewest: int


def rarest_class(predictions: Predictions, clusters: Clusters | None = None) -> Rarest:
    """Find the rarest class present, and how many of it a mean of areas needs."""
    labels, of = predictions.labels, None if clusters is None else clusters.of
    present = np.unique(labels).tolist()
    pairs, label = min((disjoint_pairs(labels == label, of), label) for label in present)
    return Rarest(label, pairs, FEWEST_OF_AREAS if len(present) == 2 else FEWEST_OF_CLASS)


_Row = TypeVar("_Row", bound=MetricRow)


def by_name(*rows: _Row) -> dict[str, _Row]:
    """A table of rows, each under its name."""
    return {row.name: row for row in rows}
