"""Pure functions of per-image columns, the table of metrics, and bootstrap intervals.

Every metric takes `weights`, how often each image counts: `[n]` returns a float, `[B, n]` returns
`[B]`, equal to the metric on the columns with each image repeated that often.
"""

from __future__ import annotations

from fairweather.metrics.calibration import (
    ReliabilityBins,
    confidence_gap,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
    rms_calibration_error,
)
from fairweather.metrics.classification import (
    accuracy,
    balanced_accuracy,
    brier_score,
    negative_log_likelihood,
    top5_accuracy,
)
from fairweather.metrics.columns import PerImage, per_image, softmax
from fairweather.metrics.intervals import (
    Estimate,
    bootstrap_weights,
    evaluate_metrics,
    mean_estimate,
    score,
    to_score,
)
from fairweather.metrics.ranking import macro_auc
from fairweather.metrics.table import METRICS, Metric

__all__ = [
    "METRICS",
    "Estimate",
    "Metric",
    "PerImage",
    "ReliabilityBins",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_weights",
    "brier_score",
    "confidence_gap",
    "evaluate_metrics",
    "expected_calibration_error",
    "macro_auc",
    "maximum_calibration_error",
    "mean_estimate",
    "negative_log_likelihood",
    "per_image",
    "reliability_bins",
    "rms_calibration_error",
    "score",
    "softmax",
    "to_score",
    "top5_accuracy",
]
