"""How good the predictions are: accuracy in three forms, and the two proper scoring rules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.weights import (
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
