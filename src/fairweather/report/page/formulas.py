"""Every number of scores.csv with the formula behind it, as the page prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fairweather.report.beside import LABELS
from fairweather.report.contents import Contents
from fairweather.report.tables import METRIC, describe_metric

# Each metric by its name without the binning; the sums and means are over the test images, or over
# the bins m, which hold n_m of the n images with mean confidence conf_m and accuracy acc_m.
FORMULAS: Mapping[str, str] = {
    "accuracy": "share of the images whose most probable class is the label",
    "top5_accuracy": "share of the images whose label is among the five most probable classes",
    "balanced_accuracy": "mean over the classes of the accuracy on their images",
    "macro_auc": "mean over the classes of the one-vs-rest area under the ROC curve",
    "negative_log_likelihood": "mean of −ln p(label), in nats",
    "brier_score": "mean of Σ over classes (p − [class is the label])², between 0 and 2",
    "confidence_gap": "mean confidence − accuracy; positive for an overconfident model",
    "expected_calibration_error": "Σ over bins (n_m / n) |acc_m − conf_m|",
    "maximum_calibration_error": (
        "largest |acc_m − conf_m| of a bin that holds images; its interval is indicative only"
    ),
    "rms_calibration_error": "√ Σ over bins (n_m / n) (acc_m − conf_m)²",
    "classwise_calibration_error": (
        "mean over the classes of Σ over bins of p(class) (n_m / n) |share of the class − mean p|"
    ),
    "debiased_calibration_error": (
        "√ of Σ over bins (n_m / n) [(acc_m − conf_m)² − acc_m (1 − acc_m) / (n_m − 1)], with the "
        "sign of that sum: below 0 where the gaps are smaller than noise would make them"
    ),
    "brier_reliability": "Σ over bins (n_m / n) (acc_m − conf_m)²",
    "brier_resolution": "Σ over bins (n_m / n) (acc_m − accuracy)²",
    "brier_uncertainty": "accuracy (1 − accuracy)",
    "area_under_risk_coverage": (
        "mean over the images of the share of wrong answers among those at least as confident"
    ),
    "coverage_at_risk": (
        "largest share of the images, the most confident first, with at most this risk of a wrong "
        "answer"
    ),
    "confidence_auroc": "chance that a right answer is more confident than a wrong one; ties half",
    "average_confidence": "mean confidence, an estimate of the accuracy that needs no labels",
    "risk_above_validation_threshold": (
        "share of wrong answers among the images at or above the confidence that keeps the risk on "
        "clean validation images"
    ),
    "coverage_above_validation_threshold": "share of the images at or above that confidence",
    "atc_accuracy": (
        "share of the images above the confidence below which as many validation images lie as are "
        "wrong; needs no labels (Garg et al. 2022)"
    ),
    "atc_accuracy_error": "that estimate − accuracy",
}
# The same of what no single cell of predictions has.
FORMULAS_BESIDE: Mapping[str, str] = {
    "flip_rate": (
        "share of the images whose most probable class changes from one level to the next, clean "
        "in its place; mean over neighbouring levels"
    ),
    "mean_corruption_error": (
        "mean over the corruptions of a family of the mean over severities of 1 − accuracy; not "
        "normalised"
    ),
    "mce_alexnet": (
        "mean over the 15 corruptions of ImageNet-C of Σ over severities of 1 − accuracy, divided "
        "by the same sum of AlexNet's published errors; corrupted in memory, not from files"
    ),
    "detection_auroc": (
        "chance that a clean test image is more confident than one of the other data set; ties half"
    ),
    "false_positive_rate_at_recall": (
        "share of the other data set's images at or above the largest confidence that this share "
        "of the clean test images reaches"
    ),
}


class Formula(NamedTuple):
    """A metric as the page defines it."""

    name: str
    label: str
    formula: str


def formulas(contents: Contents) -> Iterator[Formula]:
    """Give each metric that the run has numbers of, in the order of scores.csv."""
    for name in contents.scores["metric"].unique():
        base = name.partition("/")[0]
        if name in METRIC:
            yield Formula(name, describe_metric(name), FORMULAS[base])
        elif name in LABELS:
            yield Formula(name, LABELS[name], FORMULAS_BESIDE[base])
