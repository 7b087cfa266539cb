"""Pure functions of per-image columns, the table of metrics, and bootstrap intervals.

Every metric takes `weights`, which say how often each image counts: weights `[n]` return a float,
weights `[B, n]` return `[B]`. The result equals the metric on columns in which each image is
repeated that often.
"""

from __future__ import annotations

from fairweather.metrics.across_shifts import (
    effective_robustness,
    flip_rate,
    mce_alexnet,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from fairweather.metrics.calibration import (
    BrierDecomposition,
    ReliabilityBins,
    adaptive_rms_calibration_error,
    brier_decomposition,
    confidence_gap,
    debiased_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
    rms_calibration_error,
)
from fairweather.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier_score,
    macro_auc,
    negative_log_likelihood,
    top5_accuracy,
)
from fairweather.metrics.classwise import classwise_calibration_error
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import PerImage, per_image, softmax, wilson_interval
from fairweather.metrics.detection import detection_auroc, detection_score, false_positive_rate_at
from fairweather.metrics.estimating import difference_of_confidences, seed_agreement
from fairweather.metrics.intervals import (
    Estimate,
    estimate_means,
    evaluate_metrics,
    evaluate_resamples,
    mean_estimate,
    recipe_estimate,
    score,
    to_score,
    worst_estimate,
)
from fairweather.metrics.label_shift import (
    effective_images,
    peaked_priors,
    prior_weights,
    under_priors,
    worst_prior,
)
from fairweather.metrics.one_vs_rest import (
    ClassCounts,
    class_counts,
    macro_pr_auc,
    quadratic_kappa,
)
from fairweather.metrics.paired import (
    McNemar,
    SeedSummary,
    holm,
    mcnemar_exact,
    paired_change,
    paired_difference,
    seed_summary,
)
from fairweather.metrics.sample import Resamples, Sample, bootstrap_weights
from fairweather.metrics.selective import (
    Fitted,
    RiskCoverage,
    area_under_risk_coverage,
    atc_accuracy,
    atc_threshold,
    average_confidence,
    confidence_auroc,
    coverage_above,
    coverage_at_risk,
    fit_on,
    risk_above,
    risk_coverage_curve,
    threshold_at_risk,
)
from fairweather.metrics.table import METRICS, Metric, absent_metrics
from fairweather.metrics.two_sample import (
    differ_p,
    features_differ_p,
    one_of_each,
    outputs_differ_p,
)

__all__ = [
    "METRICS",
    "BrierDecomposition",
    "ClassCounts",
    "Clusters",
    "Estimate",
    "Fitted",
    "McNemar",
    "Metric",
    "PerImage",
    "ReliabilityBins",
    "Resamples",
    "RiskCoverage",
    "Sample",
    "SeedSummary",
    "absent_metrics",
    "accuracy",
    "adaptive_rms_calibration_error",
    "area_under_risk_coverage",
    "atc_accuracy",
    "atc_threshold",
    "average_confidence",
    "balanced_accuracy",
    "bootstrap_weights",
    "brier_decomposition",
    "brier_score",
    "class_counts",
    "classwise_calibration_error",
    "confidence_auroc",
    "confidence_gap",
    "coverage_above",
    "coverage_at_risk",
    "debiased_calibration_error",
    "detection_auroc",
    "detection_score",
    "differ_p",
    "difference_of_confidences",
    "effective_images",
    "effective_robustness",
    "estimate_means",
    "evaluate_metrics",
    "evaluate_resamples",
    "expected_calibration_error",
    "false_positive_rate_at",
    "features_differ_p",
    "fit_on",
    "flip_rate",
    "holm",
    "macro_auc",
    "macro_pr_auc",
    "maximum_calibration_error",
    "mce_alexnet",
    "mcnemar_exact",
    "mean_corruption_error",
    "mean_estimate",
    "negative_log_likelihood",
    "one_of_each",
    "outputs_differ_p",
    "paired_change",
    "paired_difference",
    "peaked_priors",
    "per_image",
    "prior_weights",
    "quadratic_kappa",
    "recipe_estimate",
    "relative_mean_corruption_error",
    "reliability_bins",
    "risk_above",
    "risk_coverage_curve",
    "rms_calibration_error",
    "score",
    "seed_agreement",
    "seed_summary",
    "softmax",
    "threshold_at_risk",
    "to_score",
    "top5_accuracy",
    "under_priors",
    "wilson_interval",
    "worst_estimate",
    "worst_prior",
]
