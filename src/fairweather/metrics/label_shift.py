"""Label shift: what the stored predictions would score if the classes were otherwise common.

The images of a class stay what they are, and only how common the classes are changes (Saerens,
Latinne and Decaestecker 2002; Lipton, Wang and Smola 2018): then a score under other priors is the
score on the same images, each weighted by how much more common its class has become. That holds of
no shift in which the images of a class change too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, unknown_name
from fairweather.metrics import calibration, classification, estimates, selective
from fairweather.metrics.intervals import Estimate, bootstrap_weights, to_score
from fairweather.metrics.priors import effective_images, prior_weights
from fairweather.metrics.table import Interval
from fairweather.metrics.weights import FloatArray, Result
from fairweather.types import Predictions, Score

# Weights held in float64 at once: 32 MB, and a few times that in what a metric makes of them.
BLOCK = 2**22


class PriorMetric(NamedTuple):
    """A metric that fractional weights make sense of; the fields are those of `Metric`."""

    evaluate: Callable[[Predictions, npt.ArrayLike | None], Result]
    higher_is_better: bool | None
    bounds: tuple[float, float] = (0.0, 1.0)
    interval: Interval = "percentile"
    min_classes: int = 1


def _binned(error: Callable[..., Result]) -> PriorMetric:
    def evaluate(p: Predictions, w: npt.ArrayLike | None, error: Callable[..., Result]) -> Result:
        return error(p.confidence, p.correct, w, bins=10, binning="equal-width")

    return PriorMetric(partial(evaluate, error=error), False, interval="bias-corrected")


# Bins of so many images (equal-mass, 100 a bin) need whole images, and balanced accuracy is the
# same under all priors: neither is here.
PRIOR_METRICS: Mapping[str, PriorMetric] = {
    "accuracy": PriorMetric(
        lambda p, w: classification.accuracy(p.correct, w), True, interval="share"
    ),
    "top5_accuracy": PriorMetric(
        lambda p, w: classification.top5_accuracy(p.top5_correct, w),
        True,
        interval="share",
        min_classes=6,
    ),
    "negative_log_likelihood": PriorMetric(
        lambda p, w: classification.negative_log_likelihood(p.nll, w), False, (0.0, np.inf)
    ),
    "brier_score": PriorMetric(
        lambda p, w: classification.brier_score(p.brier, w), False, (0.0, 2.0)
    ),
    "average_confidence": PriorMetric(
        lambda p, w: estimates.average_confidence(p.confidence, w), None
    ),
    "confidence_gap": PriorMetric(
        lambda p, w: calibration.confidence_gap(p.confidence, p.correct, w), None, (-1.0, 1.0)
    ),
    "expected_calibration_error/10-equal-width": _binned(calibration.expected_calibration_error),
    "maximum_calibration_error/10-equal-width": _binned(calibration.maximum_calibration_error),
    "rms_calibration_error/10-equal-width": _binned(calibration.rms_calibration_error),
    "area_under_risk_coverage": PriorMetric(
        lambda p, w: selective.area_under_risk_coverage(p.confidence, p.correct, w),
        False,
        interval="bounded",
    ),
    "coverage_at_risk/0.05": PriorMetric(
        lambda p, w: selective.coverage_at_risk(p.confidence, p.correct, w, risk=0.05), True
    ),
    "confidence_auroc": PriorMetric(
        lambda p, w: selective.confidence_auroc(p.confidence, p.correct, w), True
    ),
}


def under_priors(
    predictions: Predictions, priors: npt.ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Score]:
    """Compute the scores that these predictions have under other class priors, with intervals.

    The images are resampled and then weighted, so that the priors hold in every resample; one that
    counts no image of any class with a prior is left out. A prior far from the images' own rests on
    few images: the intervals say so, and so does `effective_images(prior_weights(labels, priors))`.

    Args:
        predictions: the columns of one cell, with the images' own class frequencies.
        priors: `[classes]`, one probability a class; see `prior_weights`.
        resamples: how many resamples of the images, at least 1.
        seed: of the resampling.

    Returns:
        One score a row of `PRIOR_METRICS` that applies, by name; n is the number of images,
        whatever they weigh. Balanced accuracy is not among them, since no prior changes it, nor are
        errors over bins of so many images.

    >>> labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    >>> ones = np.ones(4)
    >>> predictions = Predictions(labels, labels, predicted, ones, ones > 0, ones, ones, None,
    ...                           ("cat", "dog"))
    >>> under_priors(predictions, [0.5, 0.5])["accuracy"].value
    0.5
    """
    classes = len(predictions.classes)
    rows = {name: row for name, row in PRIOR_METRICS.items() if classes >= row.min_classes}
    return _scores(predictions, priors, rows, resamples, seed)


def worst_prior(
    predictions: Predictions,
    priors: Mapping[str, npt.ArrayLike],
    metric: str = "accuracy",
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[str, Score]:
    """Find the priors of a stated set under which the metric is worst: their name and the score.

    The interval is that of the score under these priors, as if they had been named beforehand.

    Args:
        predictions: the columns of one cell.
        priors: `[classes]` by name, at least one; see `peaked_priors` for a set.
        metric: a row of `PRIOR_METRICS` that has a better end.
        resamples, seed: see `under_priors`.

    >>> from fairweather.metrics.priors import peaked_priors
    >>> labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    >>> ones = np.ones(4)
    >>> predictions = Predictions(labels, labels, predicted, ones, ones > 0, ones, ones, None,
    ...                           ("cat", "dog"))
    >>> name, score = worst_prior(predictions, peaked_priors(labels, ("cat", "dog"), factor=3))
    >>> name, score.value
    ('dog x 3', 0.5)
    """
    if metric not in PRIOR_METRICS:
        raise unknown_name("metric", metric, PRIOR_METRICS)
    row = PRIOR_METRICS[metric]
    if row.higher_is_better is None:
        raise InputError(f"{metric} has no worse end, so no priors are the worst for it")
    if len(predictions.classes) < row.min_classes:
        raise InputError(
            f"{metric} needs at least {row.min_classes} classes, found {len(predictions.classes)}"
        )
    if not priors:
        raise InputError("the worst of a set of priors needs at least one, found none")
    sign = 1 if row.higher_is_better else -1
    values = {
        name: sign * float(row.evaluate(predictions, _weights(predictions, each)))
        for name, each in priors.items()
    }
    # A value that is not defined (no wrong answer to rank) is not the worst.
    worst = min(values, key=lambda name: np.nan_to_num(values[name], nan=np.inf))
    return worst, _scores(predictions, priors[worst], {metric: row}, resamples, seed)[metric]


def _scores(
    predictions: Predictions,
    priors: npt.ArrayLike,
    metrics: Mapping[str, PriorMetric],
    resamples: int,
    seed: int,
) -> dict[str, Score]:
    weights = _weights(predictions, priors)
    replicates: dict[str, list[npt.ArrayLike]] = {name: [] for name in metrics}
    for block in _blocks(predictions, priors, resamples, seed):
        for name, metric in metrics.items():
            replicates[name].append(metric.evaluate(predictions, block))
    # Wilson's interval, where all agree, is of as many images as the weights are worth.
    worth = max(1, int(effective_images(weights)))
    scores = {}
    for name, metric in metrics.items():
        value = float(metric.evaluate(predictions, weights))
        drawn = np.concatenate([np.empty(0), *replicates[name]])
        estimate = Estimate(value, drawn, worth, metric.interval)
        scores[name] = to_score(estimate, metric.bounds)._replace(n=len(predictions))
    return scores


def _weights(predictions: Predictions, priors: npt.ArrayLike) -> FloatArray:
    if np.shape(priors) != (len(predictions.classes),):
        raise InputError(
            f"priors must be one probability for each of {len(predictions.classes)} classes, "
            f"found {list(np.shape(priors))}"
        )
    return prior_weights(predictions.labels, priors)


def _blocks(
    predictions: Predictions, priors: npt.ArrayLike, resamples: int, seed: int
) -> Iterator[FloatArray]:
    """Weights of the resamples, float64 `[some, n]` at a time, without those that count nothing."""
    rows = bootstrap_weights(len(predictions), resamples, seed)
    step = max(1, BLOCK // len(predictions))
    for start in range(0, resamples, step):
        block = prior_weights(predictions.labels, priors, rows[start : start + step])
        counting = block.any(axis=1)
        if counting.any():
            yield block[counting]
