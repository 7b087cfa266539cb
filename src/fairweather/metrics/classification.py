"""Accuracy in three forms, two proper scoring rules, and the area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    FloatArray,
    Result,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    nanmean,
    ratio,
    sum_groups,
    weighted_mean,
)


def accuracy(correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Share of images whose predicted class is the label, in [0, 1].

    Args:
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> accuracy([True, True, False, True])
    0.75
    """
    return weighted_mean(correct, weights, name="correct")


def top5_accuracy(top5_correct: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Share of images whose label is among the five largest logits, in [0, 1].

    Args:
        top5_correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> top5_accuracy([True, False])
    0.5
    """
    return weighted_mean(top5_correct, weights, name="top5_correct")


def balanced_accuracy(
    correct: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Result:
    """Mean of the accuracy of each class that has images, in [0, 1].

    A resample without images of a class is averaged over its other classes.

    Args:
        correct: bool `[n]`.
        labels: int `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> balanced_accuracy([True, True, True, False], [0, 0, 0, 1])
    0.5
    """
    n = check_columns(correct=correct, labels=labels)
    rows = as_rows(weights, n)
    classes, index = np.unique(np.asarray(labels), return_inverse=True)
    right = np.asarray(correct, dtype=bool)
    counts = sum_groups(2 * index + right, rows.T, 2 * len(classes))
    wrong, hits = counts[0::2], counts[1::2]  # [classes, B]
    return as_result(mean_recall(hits, wrong + hits), weights)


def mean_recall(right: FloatArray, images: FloatArray) -> FloatArray:
    """`balanced_accuracy` from the counts of right images and all images per class, `[k, B]`.

    >>> mean_recall(np.array([[3.0], [0.0], [0.0]]), np.array([[3.0], [1.0], [0.0]]))
    array([0.5])
    """
    return nanmean(ratio(right, images).T)


def negative_log_likelihood(nll: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Mean of minus the log of the label's probability, in nats, in [0, inf).

    Args:
        nll: float `[n]`, per image; see `per_image`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> round(negative_log_likelihood([0.1, 0.3]), 3)
    0.2
    """
    if np.size(nll) and np.min(np.asarray(nll)) < 0:
        raise InputError(f"nll must not be negative, found {np.min(np.asarray(nll))}")
    return weighted_mean(nll, weights, name="nll")


def brier_score(brier: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Result:
    """Mean squared distance of the probabilities to the one-hot label, in [0, 2].

    This is the form of Brier (1950), a sum over all classes; for two classes it is twice the common
    form.

    Args:
        brier: float `[n]`, per image; see `per_image`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> brier_score([0.0, 2.0])
    1.0
    """
    return weighted_mean(brier, weights, name="brier")


def macro_auc(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> Result:
    """Mean over classes of the one-vs-rest area under the ROC curve, in [0, 1]; ties count half.

    Only classes with both positive and negative images count; the value is NaN if there are none.

    Args:
        probabilities: float `[n, classes]`, any score that ranks within a class; no NaN.
        labels: int `[n]`, each in `[0, classes)`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Hand and Till 2001, section 2, for the rank form of the area.

    >>> macro_auc([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1])
    1.0
    """
    scores, truth = check_probabilities(probabilities, labels)
    return as_result(mean_area(class_areas(scores, truth, as_rows(weights, len(truth)))), weights)


def mean_area(areas: FloatArray) -> FloatArray:
    """`macro_auc` from the areas `[B, k]` of the labels present.

    >>> mean_area(np.array([[0.5, 1.0, np.nan], [np.nan, np.nan, np.nan]]))
    array([0.75,  nan])
    """
    total, classes = np.zeros(len(areas)), np.zeros(len(areas))
    for area in areas.T:  # one class after the other, so that the last digit never depends on B
        total += np.where(np.isnan(area), 0, area)
        classes += ~np.isnan(area)
    return ratio(total, classes)


def check_probabilities(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[FloatArray, npt.NDArray[np.integer]]:
    """Return scores `[n, classes]` and labels `[n]` as arrays; raise `InputError` if they are bad.

    >>> check_probabilities([[1, 0]], [1])
    (array([[1., 0.]]), array([1]))
    """
    n = check_columns(labels=labels)
    scores, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or len(scores) != n:
        raise InputError(f"probabilities must be [{n}, classes], found {list(scores.shape)}")
    if np.isnan(scores).any():
        raise InputError("probabilities have values that are not a number")
    check_labels(truth, scores.shape[1])
    return scores, truth


def class_areas(
    scores: FloatArray, labels: npt.NDArray[np.integer], rows: npt.NDArray[Any]
) -> FloatArray:
    """The area under the ROC curve of each label present, `[B, k]`; NaN without one of its sides.

    Args:
        scores: float64 `[n, classes]`.
        labels: int `[n]`.
        rows: how often each image counts, `[B, n]`.

    >>> class_areas(np.array([[0.9], [0.2]]), np.array([0, 1]) * 0, np.ones((1, 2)))
    array([[nan]])
    """
    return of_each_class(_rank_area, scores, labels, rows)


def of_each_class(
    area: Callable[[FloatArray, npt.NDArray[np.bool_], FloatArray], FloatArray],
    scores: FloatArray,
    labels: npt.NDArray[np.integer],
    rows: npt.NDArray[Any],
) -> FloatArray:
    """Compute an area of each label present, against all others; arguments as in `class_areas`."""
    # [n, B]: sparse products read this layout in order
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    found = [area(scores[:, label], labels == label, columns) for label in np.unique(labels)]
    return np.stack(found, axis=1)


def placements(scores: FloatArray, positive: npt.NDArray[np.bool_]) -> FloatArray:
    """For each image, the share of the other group that it is ranked correctly against, `[n]`.

    Ties count half. The mean over the positive images is the area under the ROC curve, and so is
    the mean over the others.

    Args:
        scores: float64 `[n]`, no NaN.
        positive: bool `[n]`, neither all true nor all false.

    Source: DeLong, DeLong and Clarke-Pearson 1988, equations 4 and 5 (there "components").

    >>> placements(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True]))
    array([1.  , 0.75, 0.75, 1.  ])
    """
    order = np.argsort(scores)
    ordered = scores[order]
    is_new = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(is_new)
    level = np.cumsum(is_new) - 1
    edges = np.append(starts, len(scores))
    positives = np.concatenate([[0], np.cumsum(positive[order])])[edges]
    # How many positives, and how many others, are below the middle of each level.
    below = (positives[:-1] + positives[1:]) / 2
    others_below = (edges[:-1] + edges[1:]) / 2 - below
    above = positives[-1] - below
    others = len(scores) - positives[-1]
    shares = np.empty(len(scores))
    shares[order] = np.where(
        positive[order], others_below[level] / others, above[level] / positives[-1]
    )
    return shares


def _rank_area(
    scores: FloatArray, positive: npt.NDArray[np.bool_], columns: FloatArray
) -> FloatArray:
    """The share of the positive-negative pairs that is ranked correctly, `[B]`.

    The levels are the distinct scores of the positives. A negative below level k loses to level k
    and all higher ones. A negative that ties with level k loses half to level k, and fully to level
    k + 1. So each negative adds half its weight at its left insertion point and half at its right
    one. A running sum over the levels then says how much weight each level beats.
    """
    levels, level = np.unique(scores[positive], return_inverse=True)
    negatives, positives = columns[~positive], columns[positive]
    left = np.searchsorted(levels, scores[~positive], side="left")
    right = np.searchsorted(levels, scores[~positive], side="right")
    lost = [sum_groups(each, negatives, len(levels) + 1) for each in (left, right)]
    beaten = np.cumsum((lost[0] + lost[1])[:-1], axis=0) / 2
    wins = np.einsum("kb,kb->b", beaten, sum_groups(level, positives, len(levels)))
    return ratio(wins, positives.sum(axis=0) * negatives.sum(axis=0))
