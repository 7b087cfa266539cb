"""The metrics of findings: of one finding, where it is known, and of all findings of an image."""

from __future__ import annotations

import numpy as np

from fairweather.metrics.columns import FloatArray
from fairweather.metrics.metric import FEWEST_OF_AREAS, Accepts, Metric
from fairweather.metrics.sample import Sample
from fairweather.types.kinds import FINDING, FINDINGS


def _share_of_exact_images(sample: Sample) -> FloatArray:
    weights = sample.weights.astype(np.float64)
    return np.asarray(weights @ sample.predictions.correct / weights.sum(axis=1))


FINDING_METRICS = (
    Metric(
        "auc",
        "AUC",
        "probability that an image with the finding has a higher probability of it than one "
        "without; ties count half",
        lambda s: s.areas[:, -1],
        higher_is_better=True,
        accepts=Accepts(FINDING),
        shown=2,
        interval="area",
        fewest=FEWEST_OF_AREAS,
        column=lambda cell: cell.auc_columns[:, -1],
    ),
    Metric(
        "brier",
        "Brier score of the finding",
        "mean of (p − [the finding is there])²",
        lambda s: s.mean("brier") / 2,
        higher_is_better=False,
        accepts=Accepts(FINDING),
        shown=2,
        interval="skewed",
        fewest=5,
    ),
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
        "share of the images whose known findings are all decided right, at a probability of 0.5",
        _share_of_exact_images,
        higher_is_better=True,
        unit="%",
        accepts=Accepts(FINDINGS),
        interval="share",
    ),
)
