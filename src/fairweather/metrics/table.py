"""The table of metrics: what is computed for every cell, and how it is to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fairweather.metrics import calibration, classification, ranking
from fairweather.metrics.columns import softmax
from fairweather.metrics.weights import Result
from fairweather.types import Predictions

Interval = Literal["percentile", "share", "bias-corrected"]
Evaluate = Callable[[Predictions, npt.ArrayLike | None], Result]


@dataclass(frozen=True)
class Metric:
    """One row of the table of metrics.

    Attributes:
        name: as scores.csv writes it; it says everything that the number depends on.
        label: as a table's header writes it.
        evaluate: `(predictions, weights)` to a float, or `[B]` for weights `[B, n]`.
        higher_is_better: None where the best value lies inside the bounds.
        bounds: the smallest and largest possible value.
        unit: "" for a share or a plain number.
        interval: how its 95 % interval is made; see `to_score`.
        needs_logits: is it computed from logits, which are not stored beyond 100 classes.
        min_classes: the fewest classes for which it says anything.
        alias_of: the name of the row that this row repeats.
    """

    name: str
    label: str
    evaluate: Evaluate
    higher_is_better: bool | None
    bounds: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    interval: Interval = "percentile"
    needs_logits: bool = False
    min_classes: int = 1
    alias_of: str | None = None

    def applies(self, predictions: Predictions) -> bool:
        """Tell whether these predictions have what the metric needs."""
        enough = len(predictions.classes) >= self.min_classes
        return enough and not (self.needs_logits and predictions.logits is None)


def _macro_auc(predictions: Predictions, weights: npt.ArrayLike | None) -> Result:
    if predictions.logits is None:
        raise ValueError("macro_auc needs logits; ask `applies` first")
    return ranking.macro_auc(softmax(predictions.logits), predictions.labels, weights)


def _calibration_rows(error: Callable[..., Result], name: str, label: str) -> tuple[Metric, ...]:
    """One row for each binning, and one for the bare name, the alias of the default."""

    def evaluate(
        p: Predictions, weights: npt.ArrayLike | None, binning: calibration.Binning
    ) -> Result:
        return error(p.confidence, p.correct, weights, bins=10, binning=binning)

    rows = [
        Metric(
            name=f"{name}/10-{binning}",
            label=f"{label} (10 {binning} bins)",
            evaluate=partial(evaluate, binning=binning),
            higher_is_better=False,
            interval="bias-corrected",
        )
        for binning in get_args(calibration.Binning)
    ]
    default = rows[0]
    alias = Metric(
        name,
        label,
        default.evaluate,
        higher_is_better=False,
        interval=default.interval,
        alias_of=default.name,
    )
    return (*rows, alias)


METRICS: tuple[Metric, ...] = (
    Metric(
        "accuracy",
        "Accuracy",
        lambda p, weights: classification.accuracy(p.correct, weights),
        higher_is_better=True,
        interval="share",
    ),
    Metric(
        "top5_accuracy",
        "Top-5 accuracy",
        lambda p, weights: classification.top5_accuracy(p.top5_correct, weights),
        higher_is_better=True,
        interval="share",
        min_classes=6,
    ),
    Metric(
        "balanced_accuracy",
        "Balanced accuracy",
        lambda p, weights: classification.balanced_accuracy(p.correct, p.labels, weights),
        higher_is_better=True,
        interval="share",
    ),
    Metric(
        "macro_auc",
        "Macro AUC",
        _macro_auc,
        higher_is_better=True,
        needs_logits=True,
        min_classes=2,
    ),
    Metric(
        "negative_log_likelihood",
        "Negative log-likelihood",
        lambda p, weights: classification.negative_log_likelihood(p.nll, weights),
        higher_is_better=False,
        bounds=(0.0, np.inf),
        unit="nats",
    ),
    Metric(
        "brier_score",
        "Brier score",
        lambda p, weights: classification.brier_score(p.brier, weights),
        higher_is_better=False,
        bounds=(0.0, 2.0),
    ),
    Metric(
        "confidence_gap",
        "Confidence − accuracy",
        lambda p, weights: calibration.confidence_gap(p.confidence, p.correct, weights),
        higher_is_better=None,
        bounds=(-1.0, 1.0),
    ),
    *_calibration_rows(
        calibration.expected_calibration_error,
        "expected_calibration_error",
        "Expected calibration error",
    ),
    *_calibration_rows(
        calibration.maximum_calibration_error,
        "maximum_calibration_error",
        "Maximum calibration error",
    ),
    *_calibration_rows(
        calibration.rms_calibration_error, "rms_calibration_error", "RMS calibration error"
    ),
)
