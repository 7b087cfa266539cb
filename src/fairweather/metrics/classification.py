"""Accuracy, scoring rules, ROC and precision-recall areas, class counts, kappas, and grades.

In the formulas, there are n images and C classes, y is the label of an image, and p_c is its
probability of class c. The threshold k divides grades into those below k and those from k on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError
from fairweather.metrics.calibration import bins_above_lowest, check_distributions
from fairweather.metrics.columns import (
    BoolArray,
    FloatArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    check_labels,
    nanmean,
    ratio,
    sum_by_number,
    weighted_mean,
)
from fairweather.types.measurement import Predictions


def accuracy(correct: ArrayLike, weights: Weights = None) -> Result:
    """Share of images whose predicted class is the label, in [0, 1].

    Args:
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> accuracy([True, True, False, True])
    0.75
    """
    return weighted_mean(correct, weights, name="correct")


def top5_accuracy(top5_correct: ArrayLike, weights: Weights = None) -> Result:
    """Share of images whose label is among the five largest logits, in [0, 1].

    Args:
        top5_correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> top5_accuracy([True, False])
    0.5
    """
    return weighted_mean(top5_correct, weights, name="top5_correct")


def balanced_accuracy(correct: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Mean of the accuracy of each class that has images, in [0, 1].

    `1 / C Σ_c (correct images of c / images of c)`

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
    counts = sum_by_number(2 * index + right, rows.T, 2 * len(classes))
    wrong, hits = counts[0::2], counts[1::2]  # [classes, B]
    return as_result(mean_recall(hits, wrong + hits), weights)


def mean_recall(right: FloatArray, images: FloatArray) -> FloatArray:
    """`balanced_accuracy` from the counts of right images and all images per class, `[k, B]`.

    >>> mean_recall(np.array([[3.0], [0.0], [0.0]]), np.array([[3.0], [1.0], [0.0]]))
    array([0.5])
    """
    return nanmean(ratio(right, images).T)


def negative_log_likelihood(
    nll: ArrayLike, weights: Weights = None, *, clip: float | None = None
) -> Result:
    """Mean of minus the log of the label's probability, in nats, in [0, inf).

    `1 / n Σ -ln p_y`, or `1 / n Σ min(-ln p_y, clip)`

    Args:
        nll: float `[n]`, per image; see `per_image`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.
        clip: the most nats that an image may count. With it, a mean of few images says something of
            others, because none of them may be worse.

    >>> round(negative_log_likelihood([0.1, 0.3]), 3)
    0.2
    >>> negative_log_likelihood([0.0, 50.0], clip=10)
    5.0
    """
    if np.size(nll) and np.min(np.asarray(nll)) < 0:
        raise InputError(f"nll must not be negative, found {np.min(np.asarray(nll))}")
    if clip is None:
        return weighted_mean(nll, weights, name="nll")
    if not clip > 0:
        raise InputError(f"clip must be above 0, found {clip}")
    return weighted_mean(np.minimum(nll, clip), weights, name="nll")


def brier_score(brier: ArrayLike, weights: Weights = None) -> Result:
    """Mean squared distance of the probabilities to the one-hot label, in [0, 2].

    `1 / n Σ Σ_c (p_c - [c = y])²`

    This is the form of Brier (1950), a sum over all classes; for two classes it is twice the common
    form.

    Args:
        brier: float `[n]`, per image; see `per_image`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> brier_score([0.0, 2.0])
    1.0
    """
    return weighted_mean(brier, weights, name="brier")


def macro_auc(probabilities: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Mean over classes of the one-vs-rest area under the ROC curve, in [0, 1]; ties count half.

    `1 / C Σ_c P(p_c of an image of c > p_c of an image of another class)`

    Only classes with both positive and negative images count; without them the value is NaN.

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
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[FloatArray, LabelArray]:
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


def class_areas(scores: FloatArray, labels: LabelArray, rows: NDArray[Any]) -> FloatArray:
    """The area under the ROC curve of each label present, `[B, k]`; NaN without one of its sides.

    Args:
        scores: float64 `[n, classes]`.
        labels: int `[n]`.
        rows: how often each image counts, `[B, n]`.

    >>> class_areas(np.array([[0.9], [0.2]]), np.array([0, 1]) * 0, np.ones((1, 2)))
    array([[nan]])
    """
    return areas_by_class(_rank_area, scores, labels, rows)


def areas_by_class(
    area: Callable[[FloatArray, BoolArray, FloatArray], FloatArray],
    scores: FloatArray,
    labels: LabelArray,
    rows: NDArray[Any],
) -> FloatArray:
    """Compute an area of each label present, against all others; arguments as in `class_areas`."""
    # [n, B]: sparse products read this layout in order
    columns = np.ascontiguousarray(rows.T, dtype=np.float64)
    areas = [area(scores[:, label], labels == label, columns) for label in np.unique(labels)]
    return np.stack(areas, axis=1)


def placements(scores: FloatArray, positive: BoolArray) -> FloatArray:
    """For each image, the share of the other side that it is ranked correctly against, `[n]`.

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
    of_positive, of_others = others_below[level] / others, above[level] / positives[-1]
    shares[order] = np.where(positive[order], of_positive, of_others)
    return shares


def _rank_area(scores: FloatArray, positive: BoolArray, columns: FloatArray) -> FloatArray:
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
    lost = np.add(*(sum_by_number(place, negatives, len(levels) + 1) for place in (left, right)))
    beaten = np.cumsum(lost[:-1], axis=0) / 2
    wins = np.einsum("kb,kb->b", beaten, sum_by_number(level, positives, len(levels)))
    return ratio(wins, positives.sum(axis=0) * negatives.sum(axis=0))


# --- Counts of each class, kappa and average precision ---


class ClassCounts(NamedTuple):
    """The number of images of each class, and of calls of the class; one column per resample.

    Every number is NaN where it would divide by 0. Examples are the sensitivity of a class without
    images, and the positive predictive value (PPV) of a class that is never called.

    >>> counts = class_counts([0, 0, 1, 1], [0, 0, 0, 1], classes=3)
    >>> counts.sensitivity.ravel().round(2), counts.ppv.ravel()
    (array([0.67, 1.  ,  nan]), array([1. , 0.5, nan]))
    """

    hits: FloatArray
    """Images of the class that are called so, float64 `[classes, B]`."""

    images: FloatArray
    """Images of the class, `[classes, B]`."""

    called: FloatArray
    """Images that are called so, `[classes, B]`."""

    total: FloatArray
    """All images, `[B]`."""

    @property
    def sensitivity(self) -> FloatArray:
        """Recall, `hits / images`: the share of the class that is called so, `[classes, B]`."""
        return ratio(self.hits, self.images)

    @property
    def specificity(self) -> FloatArray:
        """The share of the other classes that is not called so, `[classes, B]`."""
        return ratio(self._neither, self.total - self.images)

    @property
    def ppv(self) -> FloatArray:
        """Precision, `hits / called`: the share of the calls that is right."""
        return ratio(self.hits, self.called)

    @property
    def npv(self) -> FloatArray:
        """The share of the images not called so that is of other classes."""
        return ratio(self._neither, self.total - self.called)

    @property
    def f1(self) -> FloatArray:
        """Harmonic mean of both, `2 hits / (images + called)`; NaN without images and calls."""
        return ratio(2 * self.hits, self.images + self.called)

    @property
    def kappa(self) -> FloatArray:
        """Cohen's kappa, `1 - wrong share / wrong share by chance`, `[B]`; NaN if that is 0."""
        chance = np.square(self.total) - (self.images * self.called).sum(axis=0)
        return chance_corrected_agreement((self.total - self.hits.sum(axis=0)) * self.total, chance)

    @property
    def matthews(self) -> FloatArray:
        """The correlation of label and call over all classes (Gorodkin 2004), `[B]`.

        NaN where all images have one label, or one call.
        """
        chance = (self.images * self.called).sum(axis=0)
        spreads = (
            np.square(self.total) - np.square(counts).sum(axis=0)
            for counts in (self.images, self.called)
        )
        labels, calls = spreads
        covariance = self.hits.sum(axis=0) * self.total - chance
        return ratio(covariance, np.sqrt(labels) * np.sqrt(calls))

    @property
    def mcc(self) -> FloatArray:
        """The correlation of being of the class and being called so, `[classes, B]`."""
        images, called, total = self.images, self.called, self.total
        spread = np.sqrt(images * (total - images)) * np.sqrt(called * (total - called))
        return ratio(self.hits * total - images * called, spread)

    @property
    def fewest_calls(self) -> FloatArray:
        """The images of the class called so, others not called so, or all wrong calls: the fewest.

        With few of any, resamples hardly vary.
        """
        wrong = self.images + self.called - 2 * self.hits
        return np.minimum(np.minimum(self.hits, self._neither), wrong)

    @property
    def _neither(self) -> FloatArray:
        return self.total - self.images - self.called + self.hits

    def only(self, label: int) -> ClassCounts:
        """The same of one class, `[1, B]`."""
        row = slice(label, label + 1)
        return ClassCounts(self.hits[row], self.images[row], self.called[row], self.total)

    def macro(self, values: FloatArray) -> FloatArray:
        """The mean over the classes that have images or are called, without NaN: `[B]`."""
        occurs = self.images + self.called > 0
        return nanmean(np.where(occurs, values, np.nan).T)

    def weighted(self, values: FloatArray) -> FloatArray:
        """Mean over the classes, each counted as often as it has images, without NaN: `[B]`."""
        defined = ~np.isnan(values)
        share = np.where(defined, self.images, 0)
        return ratio((share * np.where(defined, values, 0)).sum(axis=0), share.sum(axis=0))


class CallShare(NamedTuple):
    """A share of images that measures the calls of a class, or a correlation of both."""

    value: Callable[[ClassCounts], FloatArray]
    """From the counts to `[classes, B]`."""

    whole: Callable[[ClassCounts], FloatArray]
    """How many images it is a share of; for F1, those of the class or called so. For a correlation,
    the fewest of right calls on each side and of wrong ones."""

    among: Literal["label", "call", "others"]
    """Whose images these are: of the label, of the call, or all others; for F1, the first."""

    bent: bool = False
    """Is it 2x / (1 + x) of a share x, as F1."""


SENSITIVITY = CallShare(lambda c: c.sensitivity, lambda c: c.images, "label")
SPECIFICITY = CallShare(lambda c: c.specificity, lambda c: c.total - c.images, "others")
PPV = CallShare(lambda c: c.ppv, lambda c: c.called, "call")
NPV = CallShare(lambda c: c.npv, lambda c: c.total - c.called, "others")
MCC = CallShare(lambda c: c.mcc, lambda c: c.fewest_calls, "label")
F1 = CallShare(lambda c: c.f1, lambda c: c.images + c.called - c.hits, "label", bent=True)


def class_counts(
    predicted: ArrayLike, labels: ArrayLike, classes: int, weights: Weights = None
) -> ClassCounts:
    """Count the images of each class, and those that are called so.

    Args:
        predicted, labels: int `[n]`, each in `[0, classes)`.
        classes: how many classes there are.
        weights: how often each image counts, `[n]` or `[B, n]`; B is 1 for `[n]`.

    >>> class_counts([0, 1], [0, 0], classes=2, weights=[1, 3]).sensitivity
    array([[0.25],
           [ nan]])
    """
    n = check_columns(predicted=predicted, labels=labels)
    calls, truth = np.asarray(predicted), np.asarray(labels)
    check_labels(calls, classes, "predicted")
    check_labels(truth, classes)
    columns = np.ascontiguousarray(as_rows(weights, n).T)
    right = calls == truth
    return ClassCounts(
        hits=sum_by_number(truth[right], columns[right], classes),
        images=sum_by_number(truth, columns, classes),
        called=sum_by_number(calls, columns, classes),
        total=columns.sum(axis=0),
    )


def quadratic_kappa(predicted: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Cohen's kappa of ordered classes with quadratic weights, in [-1, 1].

    `1 - mean of (predicted - y)² / its mean if predicted and y were independent`

    A prediction that is k classes away from the label counts k² times as much as one that is next
    to it. The value is NaN if all labels and predictions are the same class.

    Args:
        predicted, labels: int `[n]`, the places of the classes in their order.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Cohen 1968, Weighted Kappa.

    >>> round(quadratic_kappa([0, 1, 2, 2], [0, 1, 2, 1]), 3)
    0.8
    """
    n = check_columns(predicted=predicted, labels=labels)
    sums = as_rows(weights, n) @ kappa_columns(predicted, labels)
    return as_result(kappa_from_sums(sums), weights)


def kappa_columns(predicted: ArrayLike, labels: ArrayLike) -> FloatArray:
    """The columns of each image for `kappa_from_sums`, float64 `[n, 5]`.

    >>> kappa_columns([3], [1])
    array([[ 1.,  4., 10.,  3.,  1.]])
    """
    calls, truth = np.asarray(predicted, np.float64), np.asarray(labels, np.float64)
    squares = np.square(calls - truth), np.square(calls) + np.square(truth)
    return np.stack([np.ones(len(calls)), *squares, calls, truth], axis=1)


def kappa_from_sums(sums: FloatArray) -> FloatArray:
    """`quadratic_kappa` from the sums of `kappa_columns`, `[B, 5]` to `[B]`."""
    total, distances, squares, calls, truth = sums.T
    # By chance, label and prediction are independent. Then the mean of (a - b)² is that of a² + b²,
    # minus twice the product of the means.
    return chance_corrected_agreement(distances * total, squares * total - 2 * calls * truth)


def chance_corrected_agreement(observed: FloatArray, chance: FloatArray) -> FloatArray:
    """1 minus the disagreement relative to that by chance; NaN if chance has none.

    >>> chance_corrected_agreement(np.array([0.1, 0.0]), np.array([0.5, 0.0]))
    array([0.8, nan])
    """
    return 1 - ratio(observed, chance)


def macro_pr_auc(probabilities: ArrayLike, labels: ArrayLike, weights: Weights = None) -> Result:
    """Mean over classes of their one-vs-rest average precision, in [0, 1].

    `1 / C Σ_c 1 / n_c Σ_i precision_c(p_ci)`: over the n_c images i of class c, the precision of c
    among all images with at least the probability p_ci.

    Only classes with both positive and negative images count; without them the value is NaN.

    Args:
        probabilities: float `[n, classes]`, any score that ranks within a class; no NaN.
        labels: int `[n]`, each in `[0, classes)`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> round(macro_pr_auc([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 1, 0]), 3)
    0.667
    """
    scores, truth = check_probabilities(probabilities, labels)
    rows = as_rows(weights, len(truth))
    return as_result(nanmean(class_precisions(scores, truth, rows)), weights)


def class_precisions(scores: FloatArray, labels: LabelArray, rows: NDArray[Any]) -> FloatArray:
    """The average precision of each label present, `[B, k]`; NaN without one of its sides.

    It is the area under the precision-recall curve as a sum of steps. That is the mean, over the
    images of the class, of the precision among all images with at least their score. No line is
    drawn between two points of the curve, because that would be too optimistic.

    Args:
        scores: float64 `[n, classes]`.
        labels: int `[n]`.
        rows: how often each image counts, `[B, n]`.

    Source: Davis and Goadrich 2006, The Relationship Between Precision-Recall and ROC Curves,
    section 4, on lines between points.

    >>> scores = np.array([[0.9], [0.6], [0.2]])
    >>> class_precisions(scores, np.array([0, 0, 0]), np.ones((1, 3)))
    array([[nan]])
    """
    return areas_by_class(_average_precision, scores, labels, rows)


def _average_precision(scores: FloatArray, positive: BoolArray, columns: FloatArray) -> FloatArray:
    levels, level = np.unique(scores[positive], return_inverse=True)
    # A negative image is at or above this many levels.
    above = np.searchsorted(levels, scores[~positive], side="right")
    hits = sum_by_number(level, columns[positive], len(levels))
    false = sum_by_number(above, columns[~positive], len(levels) + 1)[1:]
    called, right = (counts[::-1].cumsum(axis=0)[::-1] for counts in (hits + false, hits))
    precision = np.divide(right, called, out=np.zeros_like(called), where=called > 0)
    area = ratio((hits * precision).sum(axis=0), hits.sum(axis=0))
    return np.where(columns[~positive].any(axis=0), area, np.nan)


# --- Grades: classes in an order, as 0, 1, 2 and so on ---

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
