"""How good the predictions are: accuracy in three forms, two proper scoring rules, and ranking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    FloatArray,
    Result,
    as_result,
    as_rows,
    check_columns,
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
    """Mean over the classes present of the share of their images that are right, in [0, 1].

    A resample that misses a class is averaged over the classes it has.

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
    """`balanced_accuracy` from the images of each class and those that are right, `[k, B]` each.

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

    This is the sum over all classes of Brier (1950), twice the common two-class form.

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

    Only classes with both positive and negative images count; the value is NaN without any.

    Args:
        probabilities: float `[n, classes]`, any score that ranks within a class; no NaN.
        labels: int `[n]`, each in `[0, classes)`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Hand and Till 2001, section 2, for the rank form of the area.

    >>> macro_auc([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1])
    1.0
    """
    n = check_columns(labels=labels)
    scores, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or len(scores) != n:
        raise InputError(f"probabilities must be [{n}, classes], found {list(scores.shape)}")
    if np.isnan(scores).any():
        raise InputError("probabilities have values that are not a number")
    if not 0 <= truth.min() <= truth.max() < scores.shape[1]:
        span = f"{truth.min()} to {truth.max()}"
        raise InputError(f"labels go from {span}, but there are {scores.shape[1]} classes")
    rows = as_rows(weights, n)
    columns = np.ascontiguousarray(rows.T)  # [n, B]: the layout in which sparse products stream
    total, classes = np.zeros(len(rows)), np.zeros(len(rows))
    for label in np.unique(truth):
        wins, pairs = _wins_and_pairs(scores[:, label], truth == label, columns)
        total += np.divide(wins, pairs, out=np.zeros_like(wins), where=pairs > 0)
        classes += pairs > 0
    mean = np.divide(total, classes, out=np.full_like(total, np.nan), where=classes > 0)
    return as_result(mean, weights)


def placements(scores: FloatArray, positive: npt.NDArray[np.bool_]) -> FloatArray:
    """Share of the other group that each image is ranked rightly against, `[n]`; ties count half.

    The mean over the positive images, and that over the others, is the area under the ROC curve.

    Args:
        scores: float64 `[n]`, no NaN.
        positive: bool `[n]`, some and not all.

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
    # How many positives, and how many of the others, lie below the middle of each level.
    below = (positives[:-1] + positives[1:]) / 2
    others_below = (edges[:-1] + edges[1:]) / 2 - below
    above = positives[-1] - below
    others = len(scores) - positives[-1]
    shares = np.empty(len(scores))
    shares[order] = np.where(
        positive[order], others_below[level] / others, above[level] / positives[-1]
    )
    return shares


def linear_macro_auc(sums: FloatArray, images: FloatArray, areas: FloatArray) -> FloatArray:
    """`macro_auc` to first order in how often the images of either side count, `[B]`.

    The area of a class is the mean over pairs of a positive and a negative image; with counts, a
    ratio of sums over pairs. To first order it is the mean placement of the positives plus that of
    the negatives minus the area, each weighted by counts (DeLong et al. 1988). What is left out
    shrinks with the root of the product of both sides' sizes, against the root of the smaller for
    the interval. It is exact where all images count the same, and many times as fast.

    Args:
        sums: of `placements` among the scores of each class that is there, over the images of each
            of these classes, `[k, B, k]`.
        images: of each of these classes, `[k, B]`.
        areas: of each of these classes with all images counted once, `[k]`.

    >>> sums = np.array([[[2.0, 2.0]], [[1.0, 1.0]]])
    >>> linear_macro_auc(sums, np.array([[2.0], [1.0]]), np.array([1.0, 1.0]))
    array([1.])
    """
    if len(areas) < 2:
        return np.full(images.shape[1], np.nan)
    own = np.einsum("kbk->bk", sums)
    positives, all_images = images.T, images.sum(axis=0)
    negatives = all_images[:, None] - positives
    sides = ratio(own, positives), ratio(sums.sum(axis=0) - own, negatives)
    return nanmean(sides[0] + sides[1] - areas)


def _wins_and_pairs(
    scores: FloatArray, positive: npt.NDArray[np.bool_], columns: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Count the positive-negative pairs that are ranked rightly, and all pairs; each `[B]`.

    Only the order among the distinct scores of the positives matters. A negative below level k of
    them is beaten from level k on; one that ties with level k is beaten half by k and fully by
    k + 1. So each negative puts half its weight on either side (left and right) of its place, and a
    running sum over the levels says what each of them beats.
    """
    levels, level = np.unique(scores[positive], return_inverse=True)
    negatives, positives = columns[~positive], columns[positive]
    left = np.searchsorted(levels, scores[~positive], side="left")
    right = np.searchsorted(levels, scores[~positive], side="right")
    lost = sum_groups(left, negatives, len(levels) + 1) + sum_groups(
        right, negatives, len(levels) + 1
    )
    beaten = np.cumsum(lost[:-1], axis=0) / 2
    wins = np.einsum("kb,kb->b", beaten, sum_groups(level, positives, len(levels)))
    return wins, positives.sum(axis=0) * negatives.sum(axis=0)
