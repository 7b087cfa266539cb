"""The table of metrics: what is computed for every cell, its direction, bounds and interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from fairweather.metrics.areas import disjoint_pairs
from fairweather.metrics.calibration import BinSums, reliability_bins
from fairweather.metrics.classification import mean_area, mean_recall
from fairweather.metrics.classwise import mean_class_error
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, Result, nanmean, ratio
from fairweather.metrics.conformal import coverage_deviations, lowest_of_strata
from fairweather.metrics.hidden import (
    NOTHING,
    Hidden,
    Hides,
    hidden_among_answered,
    hidden_errors,
    hidden_errors_of_classes,
    hidden_in_bins,
    hidden_in_classes,
    hidden_in_root,
    hidden_in_strata,
    hidden_larger_sets,
    hidden_squares,
)
from fairweather.metrics.one_vs_rest import kappa_of_sums
from fairweather.metrics.ordered import rank_area
from fairweather.metrics.sample import Prepared, Sample
from fairweather.metrics.searching import coverage_interval
from fairweather.metrics.selective import RISK, Fitted, largest_coverage, risk_area
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
# With fewer errors than these, no interval covers the true value as often as it should
# (benchmarks/good_models.py). In order: for metrics to which one error adds at most 2; for metrics
# to which one error may add much more; for metrics of the rank of the errors among all images. The
# last number counts images, in each bin of a metric that depends on a single bin.
FEWEST, FEWEST_OF_LOSSES, FEWEST_OF_RANKS, FEWEST_IN_A_BIN = 5, 20, 30, 30
# A mean of areas has no interval with fewer images of the rarest class: that of the macro PR-AUC
# began above the truth in 11 and 12 % of 150 samples with 200 images of 40 and of 7 classes.
FEWEST_OF_CLASS = 5
# The area of one class, or of two, has none with fewer images of the class, or of the others. That
# of an AUC of 0.99 begins above it in 6.9 % of the samples with 20 images of the class, in 6.3 with
# 30 and in 3.5 with 50 (benchmarks/areas.py). Means over more classes are of more images.
FEWEST_OF_AREAS = 30


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: the name in scores.csv; it contains all settings that the value depends on.
        label: the name in the headers of tables.
        evaluate: computes `[B]` values from a `Sample` of B resamples.
        higher_is_better: None if the best value is inside the bounds, or if no value is better.
        bounds: the smallest and largest possible value.
        unit: "" for a share or a plain number.
        interval: the kind of its 95 % interval; see `to_score`.
        needs_logits: is it computed from logits, which are not stored for more than 100 classes.
        needs_fitted: does it use thresholds from validation images; see `fit_on`.
        needs_order: is it only meaningful for classes that are in an order, such as grades.
        needs_sets: is it of prediction sets, which only conformal variants have.
        accepts: the kind of predictions that it is computed from.
        min_classes: the smallest number of classes for which it is meaningful.
        alias_of: the name of the row that this row repeats.
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

    name: str
    label: str
    evaluate: Evaluate
    higher_is_better: bool | None
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    interval: Interval = "percentile"
    needs_logits: bool = False
    needs_fitted: bool = False
    needs_order: bool = False
    needs_sets: bool = False
    accepts: Kind = Predictions.kind
    min_classes: int = 1
    alias_of: str | None = None
    carried_by: Literal["wrong", "rarer", "emptiest bin"] = "wrong"
    fewest: int = 0
    varies: Callable[[Prepared, int], FloatArray] | None = None
    column: Callable[[Prepared], FloatArray] | None = None
    hides: Hides | None = None
    bias: Callable[[Prepared], float] | None = None
    search: Callable[[Predictions, Clusters | None, FloatArray | None], Ends] | None = None

    def hidden(
        self, sample: Sample, value: float, worth: float, clusters: Clusters | None
    ) -> Hidden:
        """How far the truth may lie beside what resamples show; see `metrics.hidden`."""
        if self.hides is None or np.isnan(value):
            return NOTHING
        return self.hides(sample, value, worth, clusters)

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

    def absence(self, predictions: Predictions, fitted: Fitted | None = None) -> str | None:
        """Return why the metric cannot be computed from these predictions; None if it can."""
        if predictions.kind != self.accepts:
            return f"it is of {self.accepts}"
        classes = len(predictions.classes)
        if classes < self.min_classes:
            return f"it needs at least {self.min_classes} classes, and there are {classes}"
        if self.needs_order and not predictions.ordered:
            return (
                "it needs classes in an order, such as grades; ordered_classes says that they are"
            )
        if self.needs_sets and predictions.covered is None:
            return "it needs prediction sets, which a conformal variant has"
        if self.needs_logits and predictions.logits is None:
            return "it needs logits, which this run does not store"
        if self.needs_fitted and fitted is None:
            return "it needs clean validation images to fit a threshold on"
        return None

    def applies(self, predictions: Predictions, fitted: Fitted | None = None) -> bool:
        """Tell whether the metric can be computed from these predictions."""
        return self.absence(predictions, fitted) is None


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


def absent_metrics(predictions: Predictions, fitted: Fitted | None = None) -> list[tuple[str, str]]:
    """List the metrics that do not apply, each with its name and the reason, in table order.

    Those of prediction sets are left out: they are about variants, not about a model.
    """
    of_models = (metric for metric in METRICS if not metric.needs_sets)
    reasons = ((metric.name, metric.absence(predictions, fitted)) for metric in of_models)
    return [(name, reason) for name, reason in reasons if reason is not None]


def _of_other_calibrations(prepared: Prepared, resamples: int) -> FloatArray:
    """What another draw of calibration images would change; nothing where they do not apply."""
    draws = prepared.fitted.draws if prepared.fitted is not None else ()
    return coverage_deviations(draws, prepared.predictions.labels, resamples)


def _coverage_at_risk_ends(
    predictions: Predictions, clusters: Clusters | None, weights: FloatArray | None
) -> Ends:
    columns = predictions.confidence, predictions.correct
    return coverage_interval(*columns, risk=RISK, clusters=clusters, weights=weights)


def _classwise_calibration_error(s: Sample) -> FloatArray:
    sums = (s.by_label_and_class(column) for column in ("lowest_excess", "own_excess"))
    above, present = s.prepared.class_bins, s.prepared.present
    return mean_class_error(s.weights, above, s.total("images"), present, *sums)


def _calibration_rows(
    error: Callable[[BinSums], FloatArray],
    name: str,
    label: str,
    fewest_in_a_bin: int = 0,
    hides: Callable[[Callable[[Sample], BinSums]], Hides] = lambda _: hidden_errors,
) -> tuple[Metric, ...]:
    """One row for each binning, and one for the name without a binning, an alias of equal-width.

    Bins of equal width may have few images: with fewer than `fewest_in_a_bin` there is no interval.
    """
    bins: dict[str, Callable[[Sample], BinSums]] = {
        "equal-width": lambda s: s.ordered.equal_width,
        "equal-mass": lambda s: s.ordered.equal_mass,
    }
    row = partial(Metric, higher_is_better=False, interval="bias-corrected")
    rows = [
        row(
            f"{name}/10-{binning}",
            f"{label} (10 {binning} bins)",
            partial(lambda s, bins: error(bins(s)), bins=bins[binning]),
            hides=hides(bins[binning]),
        )
        for binning in bins
    ]
    rows.append(replace(rows[0], name=name, label=label, alias_of=rows[0].name))
    if not fewest_in_a_bin:
        return tuple(rows)
    return tuple(
        each
        if each.name.endswith("equal-mass")
        else replace(each, carried_by="emptiest bin", fewest=fewest_in_a_bin)
        for each in rows
    )


def _means_over_classes(name: str, label: str) -> tuple[Metric, ...]:
    """The plain mean over classes of a property of `ClassCounts`, and the mean by images."""

    def macro(s: Sample) -> FloatArray:
        return s.counts.macro(getattr(s.counts, name))

    def weighted(s: Sample) -> FloatArray:
        return s.counts.weighted(getattr(s.counts, name))

    row = partial(Metric, higher_is_better=True, interval="classes", min_classes=2)
    return tuple(
        row(
            f"{how}_{name}",
            f"{how.title()} {label}",
            mean,
            hides=partial(hidden_in_classes, name, how),
        )
        for how, mean in (("macro", macro), ("weighted", weighted))
    )


METRICS: tuple[Metric, ...] = (
    Metric(
        "accuracy",
        "Accuracy",
        lambda s: s.mean("correct"),
        higher_is_better=True,
        interval="share",
    ),
    Metric(
        "top5_accuracy",
        "Top-5 accuracy",
        lambda s: s.mean("top5_correct"),
        higher_is_better=True,
        interval="share",
        min_classes=6,
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        lambda s: mean_recall(s.by_label("correct"), s.by_label("images")),
        higher_is_better=True,
        interval="classes",
        hides=partial(hidden_in_classes, "sensitivity", "macro"),
    ),
    Metric(
        "macro_auc",
        "Macro AUC",
        lambda s: mean_area(s.areas),
        higher_is_better=True,
        needs_logits=True,
        min_classes=2,
        interval="area",
        fewest=FEWEST_OF_LOSSES,
        column=lambda prepared: prepared.auc_columns.mean(axis=1),
    ),
    Metric(
        "macro_pr_auc",
        "Macro PR-AUC",
        lambda s: nanmean(s.precisions),
        higher_is_better=True,
        needs_logits=True,
        min_classes=2,
        interval="area",
        fewest=FEWEST_OF_LOSSES,
        column=lambda prepared: prepared.precision_columns.mean(axis=1),
        bias=lambda prepared: float(prepared.precision_biases.mean()),
    ),
    *_means_over_classes("specificity", "specificity"),
    *_means_over_classes("ppv", "PPV"),
    *_means_over_classes("npv", "NPV"),
    *_means_over_classes("f1", "F1"),
    Metric(
        "cohen_kappa",
        "Cohen's kappa",
        lambda s: s.counts.kappa,
        higher_is_better=True,
        bounds=(-1.0, 1.0),
        min_classes=2,
        interval="skewed",
        fewest=FEWEST,
    ),
    Metric(
        "quadratic_kappa",
        "Quadratic kappa",
        lambda s: kappa_of_sums(s.weights @ s.prepared.distances),
        higher_is_better=True,
        bounds=(-1.0, 1.0),
        min_classes=3,
        needs_order=True,
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
    ),
    Metric(
        "negative_log_likelihood",
        "Negative log-likelihood",
        lambda s: s.mean("nll"),
        higher_is_better=False,
        bounds=(0.0, np.inf),
        unit="nats",
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
    ),
    Metric(
        "brier_score",
        "Brier score",
        lambda s: s.mean("brier"),
        higher_is_better=False,
        bounds=(0.0, 2.0),
        interval="skewed",
        fewest=FEWEST,
    ),
    Metric(
        "confidence_gap",
        "Confidence − accuracy",
        lambda s: s.mean("confidence") - s.mean("correct"),
        higher_is_better=None,
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST,
    ),
    *_calibration_rows(
        lambda sums: sums.expected_error,
        "expected_calibration_error",
        "Expected calibration error",
    ),
    *_calibration_rows(
        lambda sums: sums.maximum_error,
        "maximum_calibration_error",
        "Maximum calibration error",
        FEWEST_IN_A_BIN,
        hides=lambda bins: partial(hidden_in_bins, bins),
    ),
    *_calibration_rows(
        lambda sums: sums.rms_error,
        "rms_calibration_error",
        "RMS calibration error",
        hides=lambda bins: partial(hidden_in_root, bins),
    ),
    Metric(
        "rms_calibration_error/100-per-bin",
        "RMS calibration error (100 images per bin)",
        lambda s: s.ordered.hundreds.rms_error,
        higher_is_better=False,
        interval="bias-corrected",
        hides=partial(hidden_in_root, lambda s: s.ordered.hundreds),
    ),
    Metric(
        "classwise_calibration_error/10-equal-width",
        "Class-wise calibration error (10 equal-width bins)",
        _classwise_calibration_error,
        higher_is_better=False,
        interval="bias-corrected",
        needs_logits=True,
        hides=hidden_errors_of_classes,
    ),
    Metric(
        "debiased_calibration_error/10-equal-width",
        "Debiased calibration error (10 equal-width bins)",
        lambda s: s.ordered.equal_width.debiased_error,
        higher_is_better=False,
        bounds=(-0.5, 1.0),
        interval="centred",
        hides=hidden_errors,
    ),
    Metric(
        "brier_reliability/10-equal-width",
        "Brier reliability (10 equal-width bins)",
        lambda s: s.ordered.equal_width.reliability,
        higher_is_better=False,
        interval="basic",
        hides=hidden_squares,
    ),
    Metric(
        "brier_resolution/10-equal-width",
        "Brier resolution (10 equal-width bins)",
        lambda s: s.ordered.equal_width.resolution,
        higher_is_better=True,
        bounds=(0.0, 0.25),
        interval="basic",
        fewest=FEWEST,
    ),
    Metric(
        "brier_uncertainty",
        "Brier uncertainty",
        lambda s: s.ordered.equal_width.uncertainty,
        higher_is_better=None,
        bounds=(0.0, 0.25),
        interval="share",
    ),
    Metric(
        "area_under_risk_coverage",
        "Area under the risk-coverage curve",
        lambda s: risk_area(s.ordered.levels),
        higher_is_better=False,
        interval="skewed",
        carried_by="rarer",
        fewest=FEWEST_OF_RANKS,
    ),
    Metric(
        f"coverage_at_risk/{RISK}",
        "Coverage at a risk of 5 %",
        lambda s: largest_coverage(s.ordered.levels, risk=RISK),
        higher_is_better=True,
        interval="searched",
        search=_coverage_at_risk_ends,
    ),
    Metric(
        "confidence_auroc",
        "AUROC of confidence for being right",
        lambda s: rank_area(s.ordered.levels),
        higher_is_better=True,
        interval="skewed",
        carried_by="rarer",
        fewest=FEWEST_OF_RANKS,
    ),
    Metric(
        "average_confidence",
        "Average confidence",
        lambda s: s.mean("confidence"),
        higher_is_better=None,
        interval="skewed",
    ),
    Metric(
        f"risk_above_validation_threshold/{RISK}",
        "Risk above the threshold for 5 % on validation images",
        lambda s: ratio(s.total("answered_wrong"), s.total("answered")),
        higher_is_better=False,
        interval="share",
        needs_fitted=True,
        hides=hidden_among_answered,
    ),
    Metric(
        f"coverage_above_validation_threshold/{RISK}",
        "Coverage above the threshold for 5 % on validation images",
        lambda s: s.mean("answered"),
        higher_is_better=True,
        interval="share",
        needs_fitted=True,
    ),
    Metric(
        "atc_accuracy",
        "Accuracy estimated without labels (ATC)",
        lambda s: s.mean("above_atc"),
        higher_is_better=None,
        interval="share",
        needs_fitted=True,
    ),
    Metric(
        "atc_accuracy_error",
        "ATC estimate − accuracy",
        lambda s: s.mean("above_atc") - s.mean("correct"),
        higher_is_better=None,
        bounds=(-1.0, 1.0),
        needs_fitted=True,
        interval="difference",
    ),
    Metric(
        "conformal_coverage",
        "Coverage of prediction sets",
        lambda s: s.mean("covered"),
        higher_is_better=True,
        interval="share",
        needs_sets=True,
        varies=_of_other_calibrations,
    ),
    Metric(
        "conformal_set_size",
        "Classes in a prediction set",
        lambda s: s.mean("set_size"),
        higher_is_better=False,
        bounds=(1.0, np.inf),
        interval="skewed",
        needs_sets=True,
        hides=hidden_larger_sets,
    ),
    Metric(
        "size_stratified_coverage/30-per-stratum",
        "Lowest coverage of prediction sets of similar size (30 images per stratum)",
        lambda s: lowest_of_strata(s.strata),
        higher_is_better=True,
        interval="basic",
        needs_sets=True,
        hides=hidden_in_strata,
    ),
)
