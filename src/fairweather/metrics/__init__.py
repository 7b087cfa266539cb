"""Pure functions of per-image columns, the table of metrics, and bootstrap intervals.

Every metric takes `weights`, which say how often each image counts: weights `[n]` return a float,
weights `[B, n]` return `[B]`. The result equals the metric on columns in which each image is
repeated that often.
"""

from __future__ import annotations

import typing

from fairweather.metrics.accuracy_estimation import (
    difference_of_confidences as difference_of_confidences,
)
from fairweather.metrics.accuracy_estimation import seed_agreement as seed_agreement
from fairweather.metrics.agreement import agreement_kappa as agreement_kappa
from fairweather.metrics.agreement import krippendorff_alpha as krippendorff_alpha
from fairweather.metrics.agreement import score_agreement as score_agreement
from fairweather.metrics.agreement import score_alpha as score_alpha
from fairweather.metrics.calibration import BrierDecomposition as BrierDecomposition
from fairweather.metrics.calibration import ReliabilityBins as ReliabilityBins
from fairweather.metrics.calibration import (
    adaptive_rms_calibration_error as adaptive_rms_calibration_error,
)
from fairweather.metrics.calibration import brier_decomposition as brier_decomposition
from fairweather.metrics.calibration import (
    classwise_calibration_error as classwise_calibration_error,
)
from fairweather.metrics.calibration import confidence_gap as confidence_gap
from fairweather.metrics.calibration import debiased_calibration_error as debiased_calibration_error
from fairweather.metrics.calibration import expected_calibration_error as expected_calibration_error
from fairweather.metrics.calibration import maximum_calibration_error as maximum_calibration_error
from fairweather.metrics.calibration import reliability_bins as reliability_bins
from fairweather.metrics.calibration import rms_calibration_error as rms_calibration_error
from fairweather.metrics.classification import ClassCounts as ClassCounts
from fairweather.metrics.classification import accuracy as accuracy
from fairweather.metrics.classification import balanced_accuracy as balanced_accuracy
from fairweather.metrics.classification import brier_score as brier_score
from fairweather.metrics.classification import class_counts as class_counts
from fairweather.metrics.classification import (
    cumulative_calibration_error as cumulative_calibration_error,
)
from fairweather.metrics.classification import macro_auc as macro_auc
from fairweather.metrics.classification import macro_pr_auc as macro_pr_auc
from fairweather.metrics.classification import mean_absolute_error as mean_absolute_error
from fairweather.metrics.classification import negative_log_likelihood as negative_log_likelihood
from fairweather.metrics.classification import off_by_two as off_by_two
from fairweather.metrics.classification import quadratic_kappa as quadratic_kappa
from fairweather.metrics.classification import ranked_probability_score as ranked_probability_score
from fairweather.metrics.classification import top5_accuracy as top5_accuracy
from fairweather.metrics.columns import PerImage as PerImage
from fairweather.metrics.columns import per_image as per_image
from fairweather.metrics.columns import softmax as softmax
from fairweather.metrics.columns import wilson_interval as wilson_interval
from fairweather.metrics.conformal import class_scores as class_scores
from fairweather.metrics.conformal import classwise_quantiles as classwise_quantiles
from fairweather.metrics.conformal import conformal_coverage as conformal_coverage
from fairweather.metrics.conformal import conformal_quantile as conformal_quantile
from fairweather.metrics.conformal import conformal_set_size as conformal_set_size
from fairweather.metrics.conformal import prediction_sets as prediction_sets
from fairweather.metrics.conformal import set_columns as set_columns
from fairweather.metrics.conformal import size_stratified_coverage as size_stratified_coverage
from fairweather.metrics.costs import BayesDecisions as BayesDecisions
from fairweather.metrics.costs import bayes_decisions as bayes_decisions
from fairweather.metrics.costs import expected_cost as expected_cost
from fairweather.metrics.decisions import DecisionCurve as DecisionCurve
from fairweather.metrics.decisions import PredictiveValues as PredictiveValues
from fairweather.metrics.decisions import decision_curve as decision_curve
from fairweather.metrics.decisions import net_benefit as net_benefit
from fairweather.metrics.decisions import predictive_values as predictive_values
from fairweather.metrics.detection import OodScore as OodScore
from fairweather.metrics.detection import detection_auroc as detection_auroc
from fairweather.metrics.detection import detection_score as detection_score
from fairweather.metrics.detection import energy as energy
from fairweather.metrics.detection import false_positive_rate_at as false_positive_rate_at
from fairweather.metrics.detection import knn_distance as knn_distance
from fairweather.metrics.detection import max_logit as max_logit
from fairweather.metrics.detection import softmax_entropy as softmax_entropy
from fairweather.metrics.grouping import Grouping as Grouping
from fairweather.metrics.intervals import Estimate as Estimate
from fairweather.metrics.intervals import estimate_means as estimate_means
from fairweather.metrics.intervals import evaluate_metrics as evaluate_metrics
from fairweather.metrics.intervals import evaluate_resamples as evaluate_resamples
from fairweather.metrics.intervals import mean_estimate as mean_estimate
from fairweather.metrics.intervals import recipe_estimate as recipe_estimate
from fairweather.metrics.intervals import score as score
from fairweather.metrics.intervals import to_score as to_score
from fairweather.metrics.intervals import worst_estimate as worst_estimate
from fairweather.metrics.label_shift import effective_images as effective_images
from fairweather.metrics.label_shift import peaked_priors as peaked_priors
from fairweather.metrics.label_shift import prior_weights as prior_weights
from fairweather.metrics.label_shift import under_priors as under_priors
from fairweather.metrics.label_shift import worst_prior as worst_prior
from fairweather.metrics.metric import Accepts as Accepts
from fairweather.metrics.metric import Metric as Metric
from fairweather.metrics.paired import McNemar as McNemar
from fairweather.metrics.paired import SeedSummary as SeedSummary
from fairweather.metrics.paired import holm as holm
from fairweather.metrics.paired import mcnemar_exact as mcnemar_exact
from fairweather.metrics.paired import paired_change as paired_change
from fairweather.metrics.paired import paired_difference as paired_difference
from fairweather.metrics.paired import seed_summary as seed_summary
from fairweather.metrics.readers import Average as Average
from fairweather.metrics.readers import ModelBesideReaders as ModelBesideReaders
from fairweather.metrics.readers import RandomReaders as RandomReaders
from fairweather.metrics.readers import ReaderComparison as ReaderComparison
from fairweather.metrics.readers import ReaderPoint as ReaderPoint
from fairweather.metrics.readers import average_over_readers as average_over_readers
from fairweather.metrics.readers import compare_with_readers as compare_with_readers
from fairweather.metrics.readers import reader_points as reader_points
from fairweather.metrics.recalibration import CalibrationCurve as CalibrationCurve
from fairweather.metrics.recalibration import CalibrationTest as CalibrationTest
from fairweather.metrics.recalibration import calibration_curve as calibration_curve
from fairweather.metrics.recalibration import calibration_intercept as calibration_intercept
from fairweather.metrics.recalibration import calibration_slope as calibration_slope
from fairweather.metrics.recalibration import (
    integrated_calibration_index as integrated_calibration_index,
)
from fairweather.metrics.recalibration import observed_expected_ratio as observed_expected_ratio
from fairweather.metrics.recalibration import recalibration_intercept as recalibration_intercept
from fairweather.metrics.recalibration import spiegelhalter_test as spiegelhalter_test
from fairweather.metrics.robustness import effective_robustness as effective_robustness
from fairweather.metrics.robustness import flip_rate as flip_rate
from fairweather.metrics.robustness import mce_alexnet as mce_alexnet
from fairweather.metrics.robustness import mean_corruption_error as mean_corruption_error
from fairweather.metrics.robustness import relative_mce_alexnet as relative_mce_alexnet
from fairweather.metrics.robustness import (
    relative_mean_corruption_error as relative_mean_corruption_error,
)
from fairweather.metrics.sample import Resamples as Resamples
from fairweather.metrics.sample import Sample as Sample
from fairweather.metrics.sample import bootstrap_weights as bootstrap_weights
from fairweather.metrics.selective import FittedThresholds as FittedThresholds
from fairweather.metrics.selective import GuaranteedThreshold as GuaranteedThreshold
from fairweather.metrics.selective import RiskCoverage as RiskCoverage
from fairweather.metrics.selective import area_under_risk_coverage as area_under_risk_coverage
from fairweather.metrics.selective import atc_accuracy as atc_accuracy
from fairweather.metrics.selective import atc_threshold as atc_threshold
from fairweather.metrics.selective import average_confidence as average_confidence
from fairweather.metrics.selective import confidence_auroc as confidence_auroc
from fairweather.metrics.selective import coverage_above as coverage_above
from fairweather.metrics.selective import coverage_at_risk as coverage_at_risk
from fairweather.metrics.selective import coverage_interval as coverage_interval
from fairweather.metrics.selective import (
    excess_area_under_risk_coverage as excess_area_under_risk_coverage,
)
from fairweather.metrics.selective import fewest_for_risk as fewest_for_risk
from fairweather.metrics.selective import fit_on as fit_on
from fairweather.metrics.selective import guaranteed_threshold as guaranteed_threshold
from fairweather.metrics.selective import risk_above as risk_above
from fairweather.metrics.selective import risk_coverage_curve as risk_coverage_curve
from fairweather.metrics.selective import threshold_at_risk as threshold_at_risk
from fairweather.metrics.selective import thresholds_to_try as thresholds_to_try
from fairweather.metrics.table import METRICS as METRICS
from fairweather.metrics.table import absent_metrics as absent_metrics
from fairweather.metrics.two_sample import differ_p as differ_p
from fairweather.metrics.two_sample import features_differ_p as features_differ_p
from fairweather.metrics.two_sample import one_of_each as one_of_each
from fairweather.metrics.two_sample import outputs_differ_p as outputs_differ_p

# All that is imported above.
__all__ = sorted(
    (name for name, value in vars().items() if callable(value) or name.isupper()),
    key=lambda name: (not name.isupper(), name),
)

if not typing.TYPE_CHECKING:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> typing.NoReturn:
        from fairweather.errors import RENAMED  # it is no metric

        new = f"; it is now called {RENAMED[name]}" if name in RENAMED else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{new}")
