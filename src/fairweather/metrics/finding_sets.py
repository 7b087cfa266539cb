"""The metrics of sets of findings, which variants with risk control have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairweather.metrics.columns import FloatArray, ratio
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import Accepts, Metric
from fairweather.metrics.sample import Sample
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import AnyPredictions, Predictions


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
