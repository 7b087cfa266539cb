"""Label shift: the scores of the stored predictions if the class frequencies were different.

Label shift means that only the class frequencies change and the images of each class stay the same
(Saerens, Latinne and Decaestecker 2002; Lipton, Wang and Smola 2018). Then a score under other
priors is the score on the same images, each weighted by how much more common its class has become.
This does not hold for a shift that also changes the images of a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import (
    FloatArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    blocks,
    check_columns,
    check_labels,
    sum_by_number,
)
from fairweather.metrics.decisions import predictive_values
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.hidden_error import Observation
from fairweather.metrics.intervals import Estimate, evaluate_sample, to_score, widen_for_groups
from fairweather.metrics.metric import ClassMetric, Metric
from fairweather.metrics.sample import Resamples, Sample
from fairweather.metrics.table import METRICS
from fairweather.types.measurement import Predictions, Score

# How far from 1 the sum of given priors may be, since people round them.
PRIOR_TOLERANCE = 1e-3
# Weights in float64 at once: 32 MB, and a few times as much for the metrics' own arrays.
WEIGHTS_AT_ONCE = 2**22
PREDICTIVE = ("ppv", "npv")  # in the order of `PredictiveValues`


def prior_metrics() -> dict[str, Metric]:
    """The metrics that are meaningful under other class priors, without aliases.

    Images then count in fractions. Bins with a fixed number of images (equal-mass, 100 per bin)
    need whole images, and balanced accuracy is the same under all priors.
    """
    rows = METRICS.values()
    return {row.name: row for row in rows if row.accepts.fractions and not row.alias_of}


def prior_weights(labels: ArrayLike, priors: ArrayLike, weights: Weights = None) -> FloatArray:
    """Weight the images so that each class counts as often as its prior says.

    Args:
        labels: int `[n]`, each in `[0, classes)`.
        priors: `[classes]`, one probability per class. Their sum may differ from 1 by 0.001; they
            are divided by it. A class with a prior above 0 needs at least one image.
        weights: how often each image counts, `[n]` or `[B, n]`, as in a resample. If a row counts
            no image of a class, that class is left out of the row and the others keep their
            proportions. A row without any class that has a prior is all 0.

    Returns:
        float64 `[n]`, or `[B, n]` for 2-D weights. The sum of a row equals the sum of its given
        weights, unless a class is missing.

    >>> prior_weights([0, 0, 0, 1], [0.5, 0.5]).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    n = check_columns(labels=labels)
    truth, wanted = _check_labels(labels, np.size(priors)), _check_priors(priors)
    absent = np.setdiff1d(np.flatnonzero(wanted), truth)
    if len(absent):
        raise InputError(
            f"class {absent[0]} has a prior of {wanted[absent[0]]:g} but no image to weigh"
        )
    rows = as_rows(weights, n)
    images = sum_by_number(truth, rows.T, len(wanted))  # [classes, B]
    images_wanted = wanted[:, None] * rows.sum(axis=1)
    factor = np.divide(images_wanted, images, out=np.zeros_like(images), where=images > 0)
    weighted = rows * factor.T[:, truth]
    return weighted if np.ndim(weights) == 2 else weighted[0]  # type: ignore[arg-type]


def effective_images(weights: ArrayLike) -> Result:
    """Effective sample size: how many equally weighted images give a mean as precise, in (0, n].

    Args:
        weights: `[n]`, or `[B, n]` for `[B]`.

    Source: Kish 1965, Survey Sampling, section 11.7: the squared sum over the sum of squares.

    >>> effective_images([1, 1, 2])
    2.6666666666666665
    """
    rows = as_rows(weights, np.shape(weights)[-1] if np.ndim(weights) else 0)
    return as_result(np.square(rows.sum(axis=1)) / np.square(rows).sum(axis=1), weights)


def peaked_priors(
    labels: ArrayLike, classes: Sequence[str], factor: float = 10.0
) -> dict[str, FloatArray]:
    """Build one set of priors per class, in which that class is `factor` times as common.

    Args:
        labels: int `[n]`, each in `[0, len(classes))`; their frequencies are the starting point.
        classes: class names in label order.
        factor: the odds of the class are multiplied by it; above 0, and below 1 for a rarer class.

    Returns:
        float64 `[classes]`, adding up to 1, by the name "CLASS x FACTOR"; none for a class without
        images.

    >>> peaked_priors([0, 0, 0, 1], ("cat", "dog"), factor=3)["dog x 3"].tolist()
    [0.5, 0.5]
    """
    if not 0 < factor < np.inf:
        raise InputError(f"factor must be above 0 and finite, found {factor}")
    check_columns(labels=labels)
    images = np.bincount(_check_labels(labels, len(classes)), minlength=len(classes))
    peaks = images * (1 + (factor - 1) * np.eye(len(classes)))
    return {
        f"{name} x {factor:g}": peak / peak.sum()
        for name, peak, count in zip(classes, peaks, images, strict=True)
        if count
    }


def _check_labels(labels: ArrayLike, classes: int) -> LabelArray:
    truth = np.asarray(labels)
    if not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be whole numbers, found {truth.dtype}")
    check_labels(truth, classes)
    return truth


def _check_priors(priors: ArrayLike) -> FloatArray:
    wanted = np.asarray(priors, dtype=np.float64)
    # NaN fails the comparisons too.
    if wanted.ndim != 1 or not (wanted >= 0).all() or not abs(wanted.sum() - 1) <= PRIOR_TOLERANCE:
        raise InputError(
            "priors must be one probability per class, none negative, and add up to 1; "
            f"found {list(wanted.shape)} adding up to {wanted.sum():g}"
        )
    return wanted / wanted.sum()


def under_priors(
    predictions: Predictions,
    priors: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    grouping: Grouping | None = None,
) -> dict[str, Score]:
    """Compute the scores of these predictions under other class priors, with intervals.

    The images are resampled and then weighted, so that the priors hold in every resample. A
    resample without any class that has a prior is left out. If the priors are far from the images'
    own class frequencies, the scores depend on few images. The intervals show it, and
    `effective_images(prior_weights(labels, priors))` counts them.

    Args:
        predictions: the columns of one cell, with the images' own class frequencies.
        priors: `[classes]`, one probability per class; see `prior_weights`.
        resamples: how many resamples of the images, at least 1.
        seed: seed of the resampling.
        grouping: which images belong together; they are resampled together.

    Returns:
        One score per row of `METRICS` that accepts fractions, by name; n is the number of images,
        unweighted. Balanced accuracy is not included, because priors do not change it. Errors over
        bins with a fixed number of images are not included either.

    >>> labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    >>> ones = np.ones(4)
    >>> predictions = Predictions(labels, labels, predicted, ones, ones > 0, ones, ones, None,
    ...                           ("cat", "dog"))
    >>> under_priors(predictions, [0.5, 0.5])["accuracy"].value
    0.5
    """
    _check_shape(predictions, priors)
    rows = [row for row in prior_metrics().values() if row.applies(predictions)]
    return _score_metrics(predictions, priors, rows, resamples, seed, grouping)


def predictive_values_under(
    predictions: Predictions,
    priors: ArrayLike,
    metrics: Iterable[ClassMetric],
    grouping: Grouping | None = None,
) -> dict[str, Score]:
    """PPV and NPV of classes under other priors, from sensitivity and specificity.

    Args:
        predictions: the columns of one cell.
        priors: `[classes]`, one probability per class. Among the images of other classes, each
            class counts as often as its prior says.
        metrics: those of the kinds in `PREDICTIVE` that apply.
        grouping: which images belong together.
    """
    _check_shape(predictions, priors)
    labels = predictions.labels
    weights = prior_weights(labels, priors) if len(predictions.classes) > 2 else None
    scores = {}
    checked = _check_priors(priors)
    for metric in metrics:
        calls, present = metric.calls(predictions), metric.is_present(labels)
        share = float(checked[metric.is_present(np.arange(len(checked)))].sum())
        own = weights
        if weights is not None and not share:  # the images of the class have no weight
            own = np.where(present, 1.0, weights)
        values = predictive_values(calls, present, share, own, grouping=grouping)
        score = values[PREDICTIVE.index(metric.kind.name)]
        scores[metric.name] = score._replace(n=metric.images(predictions))
    return scores


def worst_prior(
    predictions: Predictions,
    priors: Mapping[str, ArrayLike],
    metric: str = "accuracy",
    *,
    resamples: int = 1000,
    seed: int = 0,
    grouping: Grouping | None = None,
) -> tuple[str, Score]:
    """Find the priors of a given set under which the metric is worst: their name and the score.

    The interval is that of the score under these priors, as if they had been chosen in advance.

    Args:
        predictions: the columns of one cell.
        priors: `[classes]` by name, at least one; `peaked_priors` makes such a set.
        metric: a metric of scores under priors with a better direction.
        resamples, seed, grouping: see `under_priors`.

    >>> labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0])
    >>> ones = np.ones(4)
    >>> predictions = Predictions(labels, labels, predicted, ones, ones > 0, ones, ones, None,
    ...                           ("cat", "dog"))
    >>> name, score = worst_prior(predictions, peaked_priors(labels, ("cat", "dog"), factor=3))
    >>> name, score.value
    ('dog x 3', 0.5)
    """
    rows_by_name = prior_metrics()
    if metric not in rows_by_name:
        raise unknown_name("metric", metric, rows_by_name)
    row = rows_by_name[metric]
    if row.higher_is_better is None:
        raise InputError(f"{metric} has no better or worse direction, so no priors are the worst")
    if len(predictions.classes) < row.accepts.classes:
        least, classes = row.accepts.classes, len(predictions.classes)
        raise InputError(f"{metric} needs at least {least} classes, found {classes}")
    if not priors:
        raise InputError("priors must have at least one entry, found none")
    for one_set in priors.values():
        _check_shape(predictions, one_set)
    once = Resamples.from_weights(
        predictions.labels, np.ones((1, len(predictions)), dtype=np.uint8)
    )
    prepared = once.prepare(predictions)
    weights = [prior_weights(prepared.predictions.labels, prior) for prior in priors.values()]
    values = evaluate_sample([row], Sample(prepared, prepared.order, np.stack(weights)))[metric]
    # NaN (no wrong answer to rank) is never the worst.
    badness = np.nan_to_num(-values if row.higher_is_better else values, nan=-np.inf)
    worst = list(priors)[int(badness.argmax())]
    scores = _score_metrics(predictions, priors[worst], [row], resamples, seed, grouping)
    return worst, scores[metric]


def _check_shape(predictions: Predictions, priors: ArrayLike) -> None:
    if np.shape(priors) != (len(predictions.classes),):
        raise InputError(
            f"priors must be one probability for each of {len(predictions.classes)} classes, "
            f"found {list(np.shape(priors))}"
        )


def _score_metrics(
    predictions: Predictions,
    priors: ArrayLike,
    metrics: Sequence[Metric],
    resamples: int,
    seed: int,
    grouping: Grouping | None,
) -> dict[str, Score]:
    shared = Resamples.draw(predictions.labels, resamples, seed, grouping)
    prepared = shared.prepare(predictions)
    labels = prepared.predictions.labels
    weights = prior_weights(labels, priors)
    once = Sample(prepared, prepared.order, weights[None])
    values = evaluate_sample(metrics, once)
    drawn: dict[str, list[FloatArray]] = {metric.name: [np.empty(0)] for metric in metrics}
    for rows in blocks(resamples, len(predictions), WEIGHTS_AT_ONCE):
        block = prior_weights(labels, priors, shared.counts[rows])
        counting = block[block.any(axis=1)]
        if len(counting):
            values_of_block = evaluate_sample(metrics, Sample(prepared, prepared.order, counting))
            for name, replicates in values_of_block.items():
                drawn[name].append(replicates)
    # If all images agree, the exact interval uses the effective number of images.
    worth = max(1, int(effective_images(weights)))
    within = None if grouping is None else grouping.select(shared.order)
    scores = {}
    for metric in metrics:
        value, replicates = float(values[metric.name][0]), np.concatenate(drawn[metric.name])
        errors = metric.errors(predictions, grouping) * worth / len(predictions)
        estimate = Estimate(
            value,
            replicates,
            worth,
            metric.interval,
            errors=errors,
            fewest=metric.fewest,
            hidden=metric.hidden(Observation(once, value, worth / len(predictions), within)),
            ends=metric.search(prepared.predictions, within, weights),
        )
        estimate = widen_for_groups(estimate, grouping)
        scores[metric.name] = to_score(estimate, metric.bounds)._replace(n=len(predictions))
    return scores
