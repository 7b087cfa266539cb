"""The metrics of findings: of one finding, where it is known, and of all findings of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from fairweather.metrics.columns import FloatArray, ratio
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import (
    CLASS_METRICS,
    POINT_METRICS,
    Accepts,
    ClassMetric,
    Metric,
    list_point_metrics,
    metric_of_class,
)
from fairweather.metrics.sample import Sample, mean_contribution
from fairweather.types.kinds import FINDING, FINDINGS
from fairweather.types.measurement import UNKNOWN, AnyPredictions, Predictions
from fairweather.types.operating_points import POINT_SIGN, TargetRate, parse_point

PRESENT = 1  # the class of a finding that is there
# With fewer errors, or images with the finding, there is no interval (benchmarks/findings.py).
FEWEST, FEWEST_OF_LOSSES = 5, 20
FORMULAS: Mapping[str, str] = {
    "sensitivity": "share of the images with the finding that are called so (recall): their "
    "probability is at least 0.5, or the operating point",
    "specificity": "share of the images without the finding that are not called so",
    "ppv": "share of the images called so that have the finding (positive predictive value, "
    "precision); it depends on how frequent the finding is",
    "npv": "share of the images not called so that do not have the finding (negative predictive "
    "value); it depends on how frequent the finding is",
    "mcc": "Matthews correlation of having the finding and being called so",
    "f1": "2 × right calls / (images with the finding + images called so), the harmonic mean of "
    "sensitivity and PPV",
    "auc": "probability that an image with the finding has a higher probability of it than one "
    "without; ties count half",
    "pr_auc": "average precision: the mean over the images with the finding of the precision among "
    "all images with at least their probability",
}


@dataclass(frozen=True, kw_only=True)
class FindingMetric(ClassMetric):
    """A metric of the calls of a finding, or of the ranks of its probability."""

    def images(self, predictions: Predictions) -> int:
        """Count the images where the finding is known; for a sensitivity, those with it, and for a
        specificity, those without it."""
        present = int((predictions.labels == PRESENT).sum())
        counts = {"sensitivity": present, "specificity": len(predictions) - present}
        return counts.get(self.kind.name, len(predictions))


def _share_of_wrong_labels(s: Sample) -> FloatArray:
    p = s.predictions
    assert p.logits is not None
    known = p.labels != UNKNOWN
    wrong = known & ((p.logits >= 0) != (p.labels == PRESENT))
    sums = np.stack([wrong.sum(axis=1), known.sum(axis=1)], axis=1)
    return ratio(*(s.weights.astype(np.float64) @ sums).T)


def find_point_metric(
    name: str, chosen: Mapping[str, float] = MappingProxyType({})
) -> FindingMetric | None:
    """Find a metric of a finding at an operating point, such as `sensitivity@0.3`.

    Args:
        name: in scores.csv.
        chosen: thresholds that were chosen for targets, by what stands behind the sign.

    >>> find_point_metric("sensitivity@0.3").label, find_point_metric("auc@0.3")
    ('Sensitivity at 0.3', None)
    """
    kind, _, at = name.partition(POINT_SIGN)
    point, row = parse_point(at), POINT_METRICS.get(kind)
    if point is None or row is None or not row.has(point):
        return None
    threshold = chosen.get(at, math.nan) if isinstance(point, TargetRate) else point
    return _call_metric(kind, name, f"{row.label} at {at}", threshold)


def find_finding_targets(names: Iterable[str]) -> dict[str, tuple[int | range, TargetRate]]:
    """Find the targets among names of metrics of a finding, by what stands behind the sign.

    >>> find_finding_targets(["auc", "ppv@0.3", "ppv@specificity=0.9"])
    {'specificity=0.9': (1, TargetRate(rate='specificity', value=0.9))}
    """
    texts = dict.fromkeys(name.partition(POINT_SIGN)[2] for name in names)
    points = {text: parse_point(text) for text in texts}
    return {
        text: (PRESENT, point) for text, point in points.items() if isinstance(point, TargetRate)
    }


def point_metric_names(points: Iterable[str]) -> list[str]:
    """The names in scores.csv of the metrics of a finding at its operating points.

    >>> point_metric_names(["0.3"])[:2], point_metric_names(["sensitivity=0.9"])[-1]
    (['sensitivity@0.3', 'specificity@0.3'], 'threshold@sensitivity=0.9')
    """
    return [f"{kind}{POINT_SIGN}{point}" for point in points for kind in list_point_metrics(point)]


def finding_metrics(table: Mapping[str, Metric]) -> tuple[Metric, ...]:
    """The metrics of findings; those of a probability are some of confidence.

    Args:
        table: the metrics of a classifier, by name.
    """

    def of_probability(confidence: str, name: str, label: str, formula: str) -> Metric:
        row = table[confidence]
        losses = row.losses
        return replace(
            row,
            name=name,
            label=label,
            long_label="",
            instead="",
            formula=formula,
            evaluate=lambda s: row.evaluate(s.of_probability),
            hidden_error=lambda seen: row.hidden_error(
                seen._replace(sample=seen.sample.of_probability)
            ),
            losses=losses and (lambda prepared: losses(prepared.of_probability)),
            accepts=Accepts(FINDING),
        )

    calibration = [
        of_probability(
            f"{error}/10-{binning}",
            f"{name}/10-{binning}",
            f"{label} of the probability (10 {binning} bins)",
            formula,
        )
        for error, name, label, formula in (
            (
                "expected_calibration_error",
                "ece",
                "ECE",
                "Σ over bins of p (n_m / n) |share with the finding − mean p|",
            ),
            (
                "rms_calibration_error",
                "rms_ece",
                "RMS calibration error",
                "√ Σ over bins of p (n_m / n) (share with the finding − mean p)²",
            ),
        )
        for binning in ("equal-width", "equal-mass")
    ]
    return (
        _call_metric("auc", shown=2),
        _call_metric("pr_auc", shown=1),
        Metric(
            "brier",
            "Brier score of the finding",
            "mean of (p − [the finding is there])²",
            lambda s: s.mean("brier") / 2,
            higher_is_better=False,
            accepts=Accepts(FINDING),
            shown=2,
            interval="skewed",
            fewest=FEWEST,
            losses=lambda prepared: (prepared.means.column("brier") / 2, 0.0, 1.0),
            contribution=lambda prepared: mean_contribution("brier", prepared) / 2,
        ),
        Metric(
            "nll",
            "Negative log-likelihood of the finding",
            "mean of −ln p where the finding is there, and −ln (1 − p) elsewhere, in nats",
            lambda s: s.mean("nll"),
            higher_is_better=False,
            accepts=Accepts(FINDING),
            bounds=(0.0, np.inf),
            unit="nats",
            interval="skewed",
            fewest=FEWEST_OF_LOSSES,
            contribution=partial(mean_contribution, "nll"),
        ),
        replace(
            of_probability(
                "confidence_gap",
                "probability_gap",
                "Mean probability − prevalence",
                "mean p − share of the images with the finding; positive if p is too high",
            ),
            carried_by="rarer label",
            shown=1,
        ),
        Metric(
            "prevalence",
            "Prevalence",
            "share of the images with the finding",
            lambda s: s.of_probability.mean("correct"),
            higher_is_better=None,
            unit="%",
            accepts=Accepts(FINDING),
            interval="share",
        ),
        *calibration,
        *(_call_metric(kind) for kind in POINT_METRICS if kind in CLASS_METRICS),
        Metric(
            "decision_accuracy",
            "Right decisions",
            "share of the images where the finding is decided right, at a probability of 0.5",
            lambda s: s.mean("correct"),
            higher_is_better=True,
            unit="%",
            accepts=Accepts(FINDING),
            shown=2,
            interval="share",
        ),
        Metric(
            "exact_match",
            "Exact match",
            "share of the images whose known findings are all decided right, at a probability of "
            "0.5",
            lambda s: s.mean("correct"),
            higher_is_better=True,
            unit="%",
            accepts=Accepts(FINDINGS, classes=2),  # of one, it is the share of right decisions
            interval="share",
        ),
        Metric(
            "hamming_loss",
            "Hamming loss",
            "share of the known findings of all images that are decided wrong, at a probability of "
            "0.5",
            _share_of_wrong_labels,
            higher_is_better=False,
            accepts=Accepts(FINDINGS, classes=2),
            interval="skewed",
            fewest=FEWEST,
        ),
    )


def _call_metric(
    kind: str,
    name: str = "",
    label: str = "",
    threshold: float | None = None,
    shown: Literal[0, 1, 2] = 0,
) -> FindingMetric:
    """The metric of the class of a finding that is there, in the words of findings."""
    row = {**CLASS_METRICS, **POINT_METRICS}[kind]
    row = replace(row, formula=FORMULAS.get(kind, row.formula), accepts=Accepts(FINDING))
    made = metric_of_class(FindingMetric, row, name or kind, label or row.label, PRESENT, threshold)
    return replace(made, shown=shown)


def _share_of_missed(sample: Sample) -> FloatArray:
    covered = _covered(sample.predictions)
    having = np.isfinite(covered)
    sums = (
        sample.weights.astype(np.float64) @ np.stack([np.where(having, 1 - covered, 0), having]).T
    )
    return ratio(*sums.T)


def _covered(predictions: AnyPredictions) -> FloatArray:
    assert predictions.covered is not None, "there are no sets; ask `Metric.applies`"
    return predictions.covered


def _mean_set_size(sample: Sample) -> FloatArray:
    weights, sizes = sample.weights.astype(np.float64), sample.predictions.set_size
    assert sizes is not None, "there are no sets; ask `Metric.applies`"
    return np.asarray(weights @ sizes / weights.sum(axis=1))


@dataclass(frozen=True, kw_only=True)
class MissedFindings(Metric):
    """A metric of the images that are known to have a finding."""

    def images(self, predictions: Predictions) -> int:
        """Count the images with a finding."""
        return int(np.isfinite(_covered(predictions)).sum())

    def errors(self, predictions: Predictions, grouping: Grouping | None = None) -> float:
        """Count the images with a missed finding; for less if they are in few groups."""
        missed = np.asarray(_covered(predictions) < 1)  # not where it is NaN
        return float(missed.sum()) * (1.0 if grouping is None else grouping.evenness(missed))


FINDING_SET_METRICS = (
    MissedFindings(
        "missed_findings",
        "Missed findings",
        "mean over the images with a finding of the share of their findings that is not in the "
        "set; only of variants with risk control",
        _share_of_missed,
        higher_is_better=False,
        unit="%",
        accepts=Accepts(FINDINGS, sets=True),
        interval="skewed",
        fewest=5,
    ),
    Metric(
        "finding_set_size",
        "Findings in a set",
        "mean number of findings in the sets; only of variants with risk control",
        _mean_set_size,
        higher_is_better=False,
        accepts=Accepts(FINDINGS, sets=True),
        bounds=(0.0, np.inf),
        interval="skewed",
    ),
)
