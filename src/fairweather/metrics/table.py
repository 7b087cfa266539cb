"""The table of metrics: what is computed for every cell, its direction, bounds and interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from fairweather.metrics.areas import least_pairs, recall_column, unseen_variance
from fairweather.metrics.calibration import BinSums, mean_class_error
from fairweather.metrics.classification import (
    F1,
    NPV,
    PPV,
    SENSITIVITY,
    SPECIFICITY,
    CallShare,
    kappa_from_sums,
    mean_area,
    mean_recall,
    mean_threshold_error,
)
from fairweather.metrics.columns import FloatArray, nanmean, rank_area, ratio
from fairweather.metrics.conformal import coverage_deviations, lowest_stratum_coverage
from fairweather.metrics.cost_metrics import COST_METRICS
from fairweather.metrics.debiased_interval import debiased_interval
from fairweather.metrics.findings import FINDING_SET_METRICS, finding_metrics
from fairweather.metrics.hidden_error import (
    NOTHING_HIDDEN,
    HiddenErrorFunction,
    hidden_among_answered,
    hidden_errors,
    hidden_errors_of_classes,
    hidden_errors_of_grades,
    hidden_in_bins,
    hidden_in_classes,
    hidden_in_root,
    hidden_in_strata,
    hidden_larger_sets,
    hidden_squares,
)
from fairweather.metrics.metric import (
    FEWEST_OUTCOMES,
    Accepts,
    Evaluate,
    LossColumn,
    Metric,
    MetricRow,
    index_by_name,
)
from fairweather.metrics.recalibration import CALIBRATION_NUMBERS, CalibrationNumber, Number
from fairweather.metrics.sample import NLL_CLIP, PreparedCell, Sample, mean_contribution
from fairweather.metrics.selective import (
    RISK,
    FittedThresholds,
    coverage_interval,
    largest_coverage,
    least_risk_area,
    risk_area_losses,
)
from fairweather.types.kinds import FINDING, FINDINGS, TaskKind
from fairweather.types.measurement import Predictions

# With fewer errors than these, no interval covers the true value as often as it should
# (benchmarks/good_models.py). In order: for metrics to which one error adds at most 2, for those to
# which it may add much more, and for those of the rank of the errors among all images. The last
# number counts images, in each bin of a metric that depends on a single bin.
FEWEST, FEWEST_OF_LOSSES, FEWEST_OF_RANKS, FEWEST_IN_A_BIN = 5, 20, 30, 30
# What rules may use in the place of binned errors, which are too large with few images.
DEBIASED = "debiased_calibration_error/10-equal-mass"
OF_GRADES = Accepts(ordered=True, classes=3, fractions=True)
OF_CONFIDENCES = Accepts(column="confidence")
# A finding is deferred by the confidence in its decision, an image by that in its least sure one.
OF_CONFIDENCE = (FINDING, FINDINGS)


def metrics_of(kind: TaskKind) -> list[Metric]:
    """The rows of metrics of one kind of predictions, in table order.

    >>> metrics_of(Predictions.kind)[0].name
    'accuracy'
    """
    return [metric for metric in METRICS.values() if metric.accepts.kind == kind]


def shown_metrics(least: Literal[1, 2], kind: TaskKind | None = None) -> list[str]:
    """The names of the rows that are shown so prominently, the most prominent first.

    If a kind of predictions is given, only of metrics of these.

    >>> shown_metrics(1, Predictions.kind)[:3]
    ['accuracy', 'rms_calibration_error', 'mean_absolute_error']
    """
    ordered = sorted(METRICS.values(), key=lambda metric: -metric.shown)
    return [m.name for m in ordered if m.shown >= least and kind in (None, *m.accepts.kinds)]


def needs_thresholds(kind: TaskKind) -> bool:
    """Tell whether a metric of predictions of this kind needs thresholds from validation images.

    >>> needs_thresholds(Predictions.kind)
    True
    """
    return any(m.accepts.fitted and kind in m.accepts.kinds for m in METRICS.values())


def absent_metrics(
    predictions: Predictions, fitted: FittedThresholds | None = None
) -> list[tuple[str, str]]:
    """List the metrics that do not apply, each with its name and the reason, in table order.

    Those of prediction sets are left out: they are about variants, not about a model. So are those
    of costs where nobody says what errors cost. Of those of grades, the first one stands for all.
    """
    return [
        (metric.name, reason)
        for metric in metrics_of(predictions.kind)
        if is_expected(metric, ordered=predictions.ordered, costs=predictions.costs is not None)
        if (reason := metric.accepts.explain_absence(predictions, fitted)) is not None
    ]


def is_expected(
    row: MetricRow, *, ordered: bool = False, sets: bool = False, costs: bool = False
) -> bool:
    """Say whether a run has a metric, or says that it lacks it.

    Args:
        row: the metric.
        ordered: whether the classes are grades.
        sets: whether there are prediction sets.
        costs: whether it is known what errors cost.

    >>> [is_expected(METRICS[name]) for name in ("quadratic_kappa", "off_by_two")]
    [True, False]
    """
    accepts = row.accepts
    needs_order = accepts.ordered and row.name != "quadratic_kappa"
    needs = (accepts.sets, sets), (accepts.costs, costs), (needs_order, ordered)
    return all(has or not needed for needed, has in needs)


def _calibration_deviations(prepared: PreparedCell, resamples: int) -> FloatArray:
    """What another draw of calibration images would change; nothing where they do not apply."""
    draws = prepared.fitted.draws if prepared.fitted is not None else ()
    return coverage_deviations(draws, prepared.predictions.labels, resamples)


def _unseen_image(prepared: PreparedCell) -> float:
    same = np.zeros(len(prepared.predictions), dtype=np.int64)
    return unseen_variance(same, prepared.groups)


def _gap_losses(prepared: PreparedCell) -> LossColumn:
    confidence, correct = (prepared.means.column(name) for name in ("confidence", "correct"))
    return confidence - correct, -1.0, 1.0


def _grade_losses(prepared: PreparedCell) -> LossColumn:
    most = len(prepared.predictions.classes) - 1.0
    return prepared.means.column("grades_off"), 0.0, most


def _risk_area_losses(prepared: PreparedCell) -> LossColumn:
    assert prepared.order is not None, "a metric of confidence accepts predictions with one"
    losses, most = risk_area_losses(prepared.order)
    return losses, 0.0, most


def _classwise_calibration_error(s: Sample) -> FloatArray:
    sums = (s.by_label_and_class(column) for column in ("lowest_excess", "own_excess"))
    above, present = s.prepared.class_bins, s.prepared.present
    return mean_class_error(s.weights, above, s.total("images"), present, *sums)


def _cumulative_calibration_error(s: Sample) -> FloatArray:
    sums = s.by_label_and_class("cumulative_excess").sum(axis=0)
    return mean_threshold_error(sums, s.total("images"), len(s.predictions.classes) - 1)


def _calibration_rows(
    error: Callable[[BinSums], FloatArray],
    name: str,
    label: str,
    formula: str,
    norm: str,
    hidden_error: Callable[[Callable[[Sample], BinSums]], HiddenErrorFunction] = lambda _: (
        hidden_errors
    ),
    fewest_in_a_bin: int = 0,
    shown: Literal[0, 1, 2] = 0,
) -> tuple[Metric, ...]:
    """One row for each binning, and one for the name without a binning, an alias of equal-width.

    Bins of equal width may have few images: with fewer than `fewest_in_a_bin` there is no interval.
    `shown` is that of the alias.
    """

    def row(binning: str, bins: Callable[[Sample], BinSums]) -> Metric:
        return Metric(
            f"{name}/10-{binning}",
            f"{label} (10 {binning} bins)",
            formula,
            lambda s: error(bins(s)),
            higher_is_better=False,
            accepts=OF_CONFIDENCES,
            interval="bias-corrected",
            long_label=f"{label} (10 {binning} bins, {norm})",
            hidden_error=hidden_error(bins),
            instead=DEBIASED,
        )

    equal_width = replace(
        row("equal-width", lambda s: s.ordered.equal_width),
        accepts=replace(OF_CONFIDENCES, fractions=True),
        carried_by="emptiest bin" if fewest_in_a_bin else "wrong",
        fewest=fewest_in_a_bin,
    )
    alias = replace(equal_width, name=name, label=label, alias_of=equal_width.name, shown=shown)
    return equal_width, row("equal-mass", lambda s: s.ordered.equal_mass), alias


def _calibration_number(kind: CalibrationNumber) -> Metric:
    """A number of calibration, of the confidence or of a finding's probability."""

    def evaluate_outcomes(prepared: PreparedCell) -> Number:
        return kind.number(prepared.outcomes)

    return Metric(
        kind.name,
        kind.label,
        f"{kind.formula}; p is the confidence, or the probability of a finding",
        lambda s: s.calibration(kind),
        higher_is_better=kind.higher_is_better,
        bounds=kind.bounds,
        accepts=Accepts(also=(FINDING,), column="confidence"),
        interval="influence",
        carried_by="rarer outcome",
        fewest=FEWEST_OUTCOMES,
        column=lambda prepared: evaluate_outcomes(prepared).column,
        bias=lambda prepared: evaluate_outcomes(prepared).bias,
    )


def _debiased_rows() -> tuple[Metric, Metric]:
    """One row for each binning; that of equal mass, whose bins are never small, has tests."""
    equal_width = Metric(
        "debiased_calibration_error/10-equal-width",
        "Debiased calibration error (10 equal-width bins)",
        "√ of Σ over bins (n_m / n) [(acc_m − conf_m)² − acc_m (1 − acc_m) / (n_m − 1)], with "
        "the sign of that sum: below 0 where the gaps are smaller than noise would make them",
        lambda s: s.ordered.equal_width.debiased_error,
        higher_is_better=False,
        accepts=OF_CONFIDENCES,
        bounds=(-0.5, 1.0),
        interval="centred",
        hidden_error=hidden_errors,
    )
    return equal_width, replace(
        equal_width,
        name=DEBIASED,
        label="Debiased calibration error (10 equal-mass bins)",
        evaluate=lambda s: s.ordered.equal_mass.debiased_error,
        interval="searched",
        hidden_error=lambda _: NOTHING_HIDDEN,
        search=lambda p, grouping, _: debiased_interval(
            p.known_confidence, p.correct, grouping=grouping
        ),
    )


def _means_over_classes(name: str, label: str, formula: str, rate: CallShare) -> tuple[Metric, ...]:
    """The plain mean over classes of a share of each, and the mean by images."""

    def row(average: str, formula: str, mean: Evaluate) -> Metric:
        return Metric(
            f"{average}_{name}",
            f"{average.title()} {label}",
            formula,
            mean,
            higher_is_better=True,
            interval="classes",
            accepts=Accepts(classes=2),
            hidden_error=partial(hidden_in_classes, rate, average),
        )

    return (
        row("macro", formula, lambda s: s.counts.macro(rate.value(s.counts))),
        row(
            "weighted",
            "the same, each class counted as often as it has images",
            lambda s: s.counts.weighted(rate.value(s.counts)),
        ),
    )


METRICS: dict[str, Metric] = index_by_name(
    Metric(
        "accuracy",
        "Accuracy",
        "share of the images whose most probable class is the label",
        lambda s: s.mean("correct"),
        higher_is_better=True,
        unit="%",
        accepts=Accepts(fractions=True),
        shown=2,
        interval="share",
    ),
    Metric(
        "top5_accuracy",
        "Top-5 accuracy",
        "share of the images whose label is among the five most probable classes",
        lambda s: s.mean("top5_correct"),
        higher_is_better=True,
        unit="%",
        accepts=Accepts(column="top5_correct", classes=6, fractions=True),
        interval="share",
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        "mean over the classes of the accuracy on their images",
        lambda s: mean_recall(s.by_label("correct"), s.by_label("images")),
        higher_is_better=True,
        unit="%",
        interval="classes",
        hidden_error=partial(hidden_in_classes, SENSITIVITY, "macro"),
        contribution=lambda prepared: recall_column(
            prepared.predictions.correct, prepared.predictions.labels, prepared.groups
        ),
        unseen=lambda prepared: unseen_variance(prepared.predictions.labels, prepared.groups),
    ),
    Metric(
        "macro_auc",
        "Macro AUC",
        "mean over the classes of the one-vs-rest area under the ROC curve",
        lambda s: mean_area(s.areas),
        higher_is_better=True,
        accepts=Accepts(classes=2, column="logits"),
        interval="area",
        fewest=FEWEST_OF_LOSSES,
        column=lambda prepared: prepared.auc_columns.mean(axis=1),
        least_pairs=least_pairs,
    ),
    Metric(
        "macro_pr_auc",
        "Macro PR-AUC",
        "mean over classes of average precision: over the images of the class, the mean precision "
        "among images with at least their probability",
        lambda s: nanmean(s.precisions),
        higher_is_better=True,
        accepts=Accepts(classes=2, column="logits"),
        interval="area",
        fewest=FEWEST_OF_LOSSES,
        instead="macro_auc",
        column=lambda prepared: prepared.precision_columns.mean(axis=1),
        bias=lambda prepared: float(prepared.precision_biases.mean()),
    ),
    *_means_over_classes(
        "specificity",
        "specificity",
        "mean over the classes of the share of the images of other classes that are not called so",
        SPECIFICITY,
    ),
    *_means_over_classes(
        "ppv",
        "PPV",
        "mean over the classes that are called of the share of these calls that is right "
        "(positive predictive value, precision)",
        PPV,
    ),
    *_means_over_classes(
        "npv",
        "NPV",
        "mean over the classes of the share of other classes among the images not called so "
        "(negative predictive value)",
        NPV,
    ),
    *_means_over_classes(
        "f1",
        "F1",
        "mean over the classes of 2 × right calls / (images of the class + images called so)",
        F1,
    ),
    Metric(
        "cohen_kappa",
        "Cohen's kappa",
        "1 − share of wrong answers / the share if label and answer were independent, with the "
        "same classes as often",
        lambda s: s.counts.kappa,
        higher_is_better=True,
        accepts=Accepts(classes=2),
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST,
    ),
    Metric(
        "matthews_correlation",
        "Matthews correlation (MCC)",
        "correlation of label and answer: (right · n − Σ over classes of images · calls) / "
        "√ of (n² − Σ calls²) (n² − Σ images²)",
        lambda s: s.counts.matthews,
        higher_is_better=True,
        accepts=Accepts(classes=2),
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST,
    ),
    Metric(
        "quadratic_kappa",
        "Quadratic kappa",
        "1 − mean (answer − label)² / the same if label and answer were independent; classes in "
        "their order are 0, 1, 2 and so on",
        lambda s: kappa_from_sums(s.weights @ s.prepared.distances),
        higher_is_better=True,
        accepts=Accepts(ordered=True, classes=3),
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
    ),
    Metric(
        "mean_absolute_error",
        "Mean absolute error",
        "mean of |answer − label|, in grades; classes in their order are 0, 1, 2 and so on",
        lambda s: s.mean("grades_off"),
        higher_is_better=False,
        accepts=OF_GRADES,
        bounds=(0.0, np.inf),
        unit="grades",
        shown=1,
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
        losses=_grade_losses,
        contribution=partial(mean_contribution, "grades_off"),
        unseen=_unseen_image,
    ),
    Metric(
        "off_by_two",
        "Off by two or more",
        "share of the images whose answer is two or more grades off",
        lambda s: s.mean("far_off"),
        higher_is_better=False,
        accepts=OF_GRADES,
        unit="%",
        interval="share",
    ),
    Metric(
        "negative_log_likelihood",
        "Negative log-likelihood",
        "mean of −ln p(label), in nats",
        lambda s: s.mean("nll"),
        higher_is_better=False,
        accepts=Accepts(column="nll", fractions=True),
        shown=1,
        bounds=(0.0, np.inf),
        unit="nats",
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
        contribution=partial(mean_contribution, "nll"),
        instead=f"negative_log_likelihood/clipped-{NLL_CLIP}",
    ),
    Metric(
        f"negative_log_likelihood/clipped-{NLL_CLIP}",
        f"Negative log-likelihood, clipped at {NLL_CLIP}",
        f"mean of −ln p(label), in nats, of which an image counts at most {NLL_CLIP}",
        lambda s: s.mean("clipped_nll"),
        higher_is_better=False,
        accepts=Accepts(column="nll", fractions=True),
        bounds=(0.0, float(NLL_CLIP)),
        unit="nats",
        interval="skewed",
        fewest=FEWEST_OF_LOSSES,
        losses=lambda prepared: (prepared.means.column("clipped_nll"), 0.0, float(NLL_CLIP)),
    ),
    Metric(
        "brier_score",
        "Brier score",
        "mean of Σ over classes (p − [class is the label])², between 0 and 2",
        lambda s: s.mean("brier"),
        higher_is_better=False,
        accepts=Accepts(column="brier", fractions=True),
        bounds=(0.0, 2.0),
        interval="skewed",
        fewest=FEWEST,
        losses=lambda prepared: (prepared.means.column("brier"), 0.0, 2.0),
        contribution=partial(mean_contribution, "brier"),
    ),
    Metric(
        "ranked_probability_score",
        "Ranked probability score",
        "mean over images and thresholds k of (p(k or more) − [label is k or more])²",
        lambda s: s.mean("rank_score"),
        higher_is_better=False,
        accepts=replace(OF_GRADES, column="logits"),
        shown=1,
        interval="skewed",
        fewest=FEWEST,
        losses=lambda prepared: (prepared.means.column("rank_score"), 0.0, 1.0),
        contribution=partial(mean_contribution, "rank_score"),
    ),
    Metric(
        "confidence_gap",
        "Confidence − accuracy",
        "mean confidence − accuracy; positive for an overconfident model",
        lambda s: s.mean("confidence") - s.mean("correct"),
        higher_is_better=None,
        accepts=Accepts(column="confidence", fractions=True),
        bounds=(-1.0, 1.0),
        interval="skewed",
        fewest=FEWEST,
        losses=_gap_losses,
    ),
    *_calibration_rows(
        lambda sums: sums.expected_error,
        "expected_calibration_error",
        "Expected calibration error",
        "Σ over bins (n_m / n) |acc_m − conf_m|",
        "L1 norm",
    ),
    *_calibration_rows(
        lambda sums: sums.maximum_error,
        "maximum_calibration_error",
        "Maximum calibration error",
        "largest |acc_m − conf_m| of a bin that holds images; its interval is indicative only",
        "maximum norm",
        lambda bins: partial(hidden_in_bins, bins),
        FEWEST_IN_A_BIN,
    ),
    *_calibration_rows(
        lambda sums: sums.rms_error,
        "rms_calibration_error",
        "RMS calibration error",
        "√ Σ over bins (n_m / n) (acc_m − conf_m)²",
        "L2 norm",
        lambda bins: partial(hidden_in_root, bins),
        shown=2,
    ),
    Metric(
        "rms_calibration_error/100-per-bin",
        "RMS calibration error (100 images per bin)",
        "√ Σ over bins (n_m / n) (acc_m − conf_m)²",
        lambda s: s.ordered.hundreds.rms_error,
        higher_is_better=False,
        accepts=OF_CONFIDENCES,
        interval="bias-corrected",
        long_label="RMS calibration error (100 images per bin, L2 norm)",
        instead=DEBIASED,
        hidden_error=partial(hidden_in_root, lambda s: s.ordered.hundreds),
    ),
    Metric(
        "classwise_calibration_error/10-equal-width",
        "Class-wise calibration error (10 equal-width bins)",
        "mean over the classes of Σ over bins of p(class) (n_m / n) |share of the class − mean p|",
        _classwise_calibration_error,
        higher_is_better=False,
        accepts=Accepts(column="logits"),
        interval="bias-corrected",
        hidden_error=hidden_errors_of_classes,
    ),
    Metric(
        "cumulative_calibration_error/10-equal-width",
        "Cumulative calibration error (10 equal-width bins)",
        "mean over thresholds k of Σ over bins of p(k or more) (n_m / n) |share with k or more − "
        "mean p|",
        _cumulative_calibration_error,
        higher_is_better=False,
        accepts=Accepts(ordered=True, classes=3, column="logits"),
        interval="bias-corrected",
        hidden_error=hidden_errors_of_grades,
    ),
    *_debiased_rows(),
    Metric(
        "brier_reliability/10-equal-width",
        "Brier reliability (10 equal-width bins)",
        "Σ over bins (n_m / n) (acc_m − conf_m)²",
        lambda s: s.ordered.equal_width.reliability,
        higher_is_better=False,
        accepts=OF_CONFIDENCES,
        interval="basic",
        hidden_error=hidden_squares,
    ),
    Metric(
        "brier_resolution/10-equal-width",
        "Brier resolution (10 equal-width bins)",
        "Σ over bins (n_m / n) (acc_m − accuracy)²",
        lambda s: s.ordered.equal_width.resolution,
        higher_is_better=True,
        accepts=OF_CONFIDENCES,
        bounds=(0.0, 0.25),
        interval="basic",
        fewest=FEWEST,
    ),
    Metric(
        "brier_uncertainty",
        "Brier uncertainty",
        "accuracy (1 − accuracy)",
        lambda s: s.ordered.equal_width.uncertainty,
        higher_is_better=None,
        accepts=OF_CONFIDENCES,
        bounds=(0.0, 0.25),
        interval="share",
    ),
    Metric(
        "area_under_risk_coverage",
        "Area under the risk-coverage curve",
        "mean over the images of the share of wrong answers among those at least as confident",
        lambda s: s.risk_area,
        higher_is_better=False,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fractions=True),
        interval="skewed",
        carried_by="rarer",
        fewest=FEWEST_OF_RANKS,
        losses=_risk_area_losses,
    ),
    Metric(
        "excess_area_under_risk_coverage",
        "Excess area under the risk-coverage curve (E-AURC)",
        "that area − r − (1 − r) ln(1 − r), which is the area if the share r of wrong answers is "
        "less confident than all right ones",
        lambda s: s.risk_area - least_risk_area(1 - s.mean("correct")),
        higher_is_better=False,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fractions=True),
        interval="skewed",
        carried_by="rarer",
        fewest=FEWEST_OF_RANKS,
    ),
    Metric(
        f"coverage_at_risk/{RISK}",
        "Coverage at a risk of 5 %",
        "largest share of the images, the most confident first, of which at most this share is "
        "wrong",
        lambda s: largest_coverage(s.levels, risk=RISK),
        higher_is_better=True,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fractions=True),
        interval="searched",
        search=lambda p, grouping, weights: coverage_interval(
            p.known_confidence, p.correct, risk=RISK, grouping=grouping, weights=weights
        ),
    ),
    Metric(
        "confidence_auroc",
        "AUROC of confidence for being right",
        "probability that a right answer is more confident than a wrong one; ties count half",
        lambda s: rank_area(s.levels),
        higher_is_better=True,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fractions=True),
        interval="skewed",
        carried_by="rarer",
        fewest=FEWEST_OF_RANKS,
        least_pairs=least_pairs,
    ),
    *map(_calibration_number, CALIBRATION_NUMBERS),
    Metric(
        "average_confidence",
        "Average confidence",
        "mean confidence, an estimate of the accuracy that needs no labels",
        lambda s: s.mean("confidence"),
        higher_is_better=None,
        accepts=Accepts(column="confidence", fractions=True),
        interval="skewed",
    ),
    Metric(
        f"risk_above_validation_threshold/{RISK}",
        "Risk above the threshold for 5 % on validation images",
        "share of wrong answers among the images at or above the confidence that keeps the risk "
        "on clean validation images",
        lambda s: ratio(s.total("answered_wrong"), s.total("answered")),
        higher_is_better=False,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fitted=True),
        interval="share",
        hidden_error=hidden_among_answered,
    ),
    Metric(
        f"coverage_above_validation_threshold/{RISK}",
        "Coverage above the threshold for 5 % on validation images",
        "share of the images at or above that confidence",
        lambda s: s.mean("answered"),
        higher_is_better=True,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fitted=True),
        interval="share",
    ),
    Metric(
        "atc_accuracy",
        "Accuracy estimated without labels (ATC)",
        "share of images above the confidence threshold below which the share of validation "
        "images equals their error rate; needs no labels (Garg et al. 2022)",
        lambda s: s.mean("above_atc"),
        higher_is_better=None,
        unit="%",
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fitted=True),
        interval="share",
    ),
    Metric(
        "atc_accuracy_error",
        "ATC estimate − accuracy",
        "that estimate − accuracy",
        lambda s: s.mean("above_atc") - s.mean("correct"),
        higher_is_better=None,
        accepts=Accepts(also=OF_CONFIDENCE, column="confidence", fitted=True),
        bounds=(-1.0, 1.0),
        interval="difference",
    ),
    Metric(
        "conformal_coverage",
        "Coverage of prediction sets",
        "share of the images whose label is in their prediction set",
        lambda s: s.mean("covered"),
        higher_is_better=True,
        unit="%",
        accepts=Accepts(sets=True),
        interval="share",
        extra_deviations=_calibration_deviations,
    ),
    Metric(
        "conformal_set_size",
        "Classes in a prediction set",
        "mean number of classes in the prediction sets",
        lambda s: s.mean("set_size"),
        higher_is_better=False,
        accepts=Accepts(sets=True),
        bounds=(1.0, np.inf),
        interval="skewed",
        hidden_error=hidden_larger_sets,
    ),
    Metric(
        "size_stratified_coverage/30-per-stratum",
        "Lowest coverage of prediction sets of similar size (30 images per stratum)",
        "lowest share of covered labels over sets of 1, 2 to 3, 4 to 10, 11 to 100 and more "
        "classes, where at least 30 images have one",
        lambda s: lowest_stratum_coverage(s.strata),
        higher_is_better=True,
        accepts=Accepts(sets=True),
        interval="basic",
        hidden_error=hidden_in_strata,
    ),
)
METRICS |= index_by_name(*finding_metrics(METRICS), *FINDING_SET_METRICS, *COST_METRICS)
