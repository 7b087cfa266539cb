"""Metrics of grades: how far off an answer is, and how good the probability of each grade or more.

Grades are classes in an order, as 0, 1, 2 and so on. The threshold k divides them into those below
k and those from k on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError
from fairweather.metrics.calibration import bins_above_lowest, check_distributions
from fairweather.metrics.columns import (
    FloatArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    ratio,
    weighted_mean,
)
from fairweather.types.measurement import Predictions

FAR = 2  # grades off from which on an answer is far off


def mean_absolute_error(predicted: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Mean number of grades between answer and label, from 0 on.

    Args:
        predicted, labels: int `[n]`, the places of the grades in their order.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> mean_absolute_error([0, 1, 3, 2], [0, 1, 1, 1])
    0.75
    """
    return weighted_mean(grades_off(predicted, labels), weights)


def off_by_two(predicted: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Share of the images whose answer is two or more grades off, in [0, 1].

    The arguments are those of `mean_absolute_error`.

    >>> off_by_two([0, 1, 3, 2], [0, 1, 1, 1])
    0.25
    """
    return weighted_mean(grades_off(predicted, labels) >= FAR, weights)


def grades_off(predicted: ArrayLike, labels: ArrayLike) -> FloatArray:
    """How many grades each answer is off, float64 `[n]`.

    Raises `InputError` for labels or answers that are no grades.

    >>> grades_off([3, 0], [1, 0])
    array([2., 0.])
    """
    check_columns(predicted=predicted, labels=labels)
    calls, truth = np.asarray(predicted), np.asarray(labels)
    for name, column in (("predicted", calls), ("labels", truth)):
        if not np.issubdtype(column.dtype, np.integer):
            raise InputError(f"{name} must be whole numbers, found {column.dtype}")
        check_labels(column, int(column.max()) + 1, name)
    return np.abs(calls - truth).astype(np.float64)


def ranked_probability_score(
    probabilities: ArrayLike, labels: ArrayLike, weights: Weights = None
) -> Result:
    """Mean over thresholds of the squared error of the probability of a grade or more, in [0, 1].

    `1 / (C - 1) Σ_k (P(grade ≥ k) - [label ≥ k])²`, over the C - 1 thresholds k. It is the proper
    score of grades. A certain answer has 0 if it is right, and 1 if it is at the other end of the
    scale. With two grades it is half the Brier score.

    Args:
        probabilities: float `[n, C]`, each in [0, 1]; each row adds up to 1 within 0.01; C is at
            least 2.
        labels: int `[n]`, each in `[0, C)`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Epstein 1969, A Scoring System for Probability Forecasts of Ranked Categories; Murphy
    1971, A Note on the Ranked Probability Score, for this form.

    >>> ranked_probability_score([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]], [1, 2])
    0.5625
    """
    columns, truth = check_distributions(probabilities, labels, check_columns(labels=labels))
    _check_grades(columns)
    return weighted_mean(rank_scores(columns, truth), weights)


def rank_scores(probabilities: FloatArray, labels: LabelArray) -> FloatArray:
    """The ranked probability score of each image, float64 `[n]`.

    >>> rank_scores(np.array([[1.0, 0.0, 0.0]]), np.array([2]))
    array([1.])
    """
    return np.square(_cumulative_errors(probabilities, labels)).mean(axis=1)


def cumulative_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, weights: Weights = None, *, bins: int = 10
) -> Result:
    """Mean over thresholds of the calibration error of the probability of a grade or more.

    `1 / (C - 1) Σ_k Σ_m (n_km / n) |share_km - p_km|`, in [0, 1]. Bin m of threshold k holds n_km
    images; p_km is their mean probability of a grade from k on, and share_km of them have one.

    Args:
        probabilities, labels: as for `ranked_probability_score`.
        weights: how often each image counts, whole numbers `[n]` or `[B, n]`; 2-D weights return
            `[B]`.
        bins: how many bins of equal width, at least 1; lower edges excluded, upper included.

    >>> round(cumulative_calibration_error([[0.2, 0.8], [0.2, 0.8]], [0, 1]), 3)
    0.3
    """
    columns, truth = check_distributions(probabilities, labels, check_columns(labels=labels))
    _check_grades(columns)
    if bins < 1:
        raise InputError(f"bins must be at least 1, found {bins}")
    rows = as_rows(weights, len(truth))
    sums = rows @ cumulative_excess(columns, truth, bins)
    thresholds = columns.shape[1] - 1
    return as_result(mean_threshold_error(sums, rows.sum(axis=1), thresholds), weights)


def cumulative_excess(probabilities: FloatArray, labels: LabelArray, bins: int) -> FloatArray:
    """The columns that `mean_threshold_error` sums: the probability of a grade or more, minus 1 if
    the label has it; in the bin of the probability, and 0 in the others.

    Returns float64 `[n, (C - 1) * bins]`, by threshold and bin.

    >>> cumulative_excess(np.array([[0.25, 0.75]]), np.array([1]), 2)
    array([[ 0.  , -0.25]])
    """
    places = 1 + bins_above_lowest(cumulative_probabilities(probabilities), bins)
    is_in = places[:, :, None] == np.arange(bins)
    errors = _cumulative_errors(probabilities, labels)[:, :, None]
    return np.where(is_in, errors, 0).reshape(len(labels), -1)


def mean_threshold_error(
    sums: NDArray[np.floating], totals: FloatArray, thresholds: int
) -> FloatArray:
    """`cumulative_calibration_error` from sums of `cumulative_excess` `[B, columns]`, `[B]`."""
    return np.asarray(ratio(np.abs(sums).sum(axis=1), totals * thresholds))


def cumulative_probabilities(probabilities: FloatArray) -> FloatArray:
    """The probability of the grade k or more, for each threshold k: `[n, C - 1]`.

    >>> cumulative_probabilities(np.array([[0.5, 0.25, 0.25]]))
    array([[0.5 , 0.25]])
    """
    return np.minimum(probabilities[:, :0:-1].cumsum(axis=1)[:, ::-1], 1)


def merge_classes(predictions: Predictions, first: int) -> Predictions:
    """Turn predictions of grades into those of two classes: below `first`, and from it on.

    The second class is called where its probability is at least 0.5.

    Args:
        predictions: with logits.
        first: the lowest grade of the second class, at least 1.

    >>> from fairweather.inference.prediction import make_predictions
    >>> logits = np.log([[0.25, 0.5, 0.25]]).astype(np.float32)
    >>> grades = make_predictions(logits, np.array([2]), np.arange(1), ("0", "1", "2"))
    >>> merged = merge_classes(grades, 1)
    >>> merged.labels, merged.classes, scipy.special.softmax(merged.logits, axis=1).round(4)
    (array([1]), ('<1', '>=1'), array([[0.25, 0.75]], dtype=float32))
    """
    assert predictions.logits is not None, "there are no logits; ask `Metric.applies`"
    logits = predictions.logits.astype(np.float64)
    below, above = (scipy.special.logsumexp(part, axis=1) for part in np.split(logits, [first], 1))
    odds = (above - below).astype(np.float32)
    name = predictions.classes[first]
    return replace(
        predictions,
        labels=(predictions.labels >= first).astype(np.int64),
        predicted=(odds >= 0).astype(np.int64),
        logits=np.stack([np.zeros_like(odds), odds], axis=1),
        classes=(f"<{name}", f">={name}"),
        ordered=False,
        costs=None,
    )


def _cumulative_errors(probabilities: FloatArray, labels: LabelArray) -> FloatArray:
    thresholds = np.arange(1, probabilities.shape[1])
    return cumulative_probabilities(probabilities) - (labels[:, None] >= thresholds)


def _check_grades(probabilities: FloatArray) -> None:
    if probabilities.shape[1] < 2:
        raise InputError("there must be at least two grades, found one column")
