"""Intervals from what each image adds to a value: areas, numbers of calibration, differences.

The column of a value has a number for each image, and its mean square is the variance of the value.
For a mean of values, or a difference on the same images, it is the mean or the difference of the
columns. So cells, means and differences use one method, and no resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.metrics.classification import placements
from fairweather.metrics.columns import (
    TAIL,
    BoolArray,
    Ends,
    FloatArray,
    IntArray,
    LabelArray,
    clopper_pearson,
)

# With fewer degrees of freedom, a few images decide, so the interval also covers that of a share.
FEWEST_FREEDOM = 5


class ColumnSpread(NamedTuple):
    """The variance of a value, and its degrees of freedom."""

    variance: float
    freedom: float

    def reach(self, tests: float = 1) -> float:
        """Half the width of a 95 % interval, by Student's t, for `tests` simultaneous intervals."""
        if not self.variance:
            return 0.0
        quantile = scipy.special.stdtrit(self.freedom, 1 - TAIL / tests)
        return float(quantile * np.sqrt(self.variance))

    def plus(self, variance: float) -> ColumnSpread:
        """Add a known variance, by Satterthwaite's formula.

        >>> ColumnSpread(1.0, 9.0).plus(1.0), ColumnSpread(0.0, 0.0).plus(1.0).freedom
        (ColumnSpread(variance=2.0, freedom=36.0), inf)
        """
        if not variance:
            return self
        both = self.variance + variance
        freedom = self.freedom * (both / self.variance) ** 2 if self.variance else np.inf
        return ColumnSpread(both, freedom)


def auc_column(
    scores: FloatArray, positive: BoolArray, groups: IntArray | None = None
) -> FloatArray:
    """The contribution of each image to the area under the ROC curve, float64 `[n]`.

    The sum of squares is DeLong's variance, and that of a difference of two columns is the variance
    of his paired test. Summed within groups, it is Obuchowski's. If a group has images of both
    sides, the covariance's correction for few groups is the geometric mean of the two sides'
    corrections.

    Args:
        scores: float64 `[n]`, no NaN.
        positive: bool `[n]`, neither all true nor all false.
        groups: int `[n]`, the number of each image's group; None if images are independent.

    Source: DeLong, DeLong and Clarke-Pearson 1988, equations 3 to 7; Obuchowski 1997, Nonparametric
    Analysis of Clustered ROC Curve Data.

    >>> auc_column(np.array([0.1, 0.3, 0.2, 0.9]), np.array([False, False, True, True])).round(3)
    array([ 0.177, -0.177, -0.177,  0.177])
    """
    shares = placements(scores, positive)
    column = np.empty(len(scores))
    for side in (positive, ~positive):
        part = shares[side]
        # Sorted, so that the order of the images cannot change the last digit.
        factor = _small_sample_factor(groups, side)
        column[side] = (part - np.sort(part).mean()) / len(part) * factor
    return column


def mean_column(numbers: ArrayLike, groups: IntArray | None = None) -> FloatArray:
    """The contribution of each image to a mean over images, float64 `[n]`.

    The sum of squares is the variance of the mean, and that of a difference of two columns is the
    variance of the paired t-test.

    Args:
        numbers: `[n]`.
        groups: as in `auc_column`.

    >>> mean_column([0.0, 1.0, 2.0, 3.0]).round(3)
    array([-0.433, -0.144,  0.144,  0.433])
    """
    column = np.asarray(numbers, dtype=np.float64)
    # Sorted, so that the order of the images cannot change the last digit.
    excess = column - np.sort(column).mean()
    return excess / len(column) * _small_sample_factor(groups, np.ones(len(column), dtype=bool))


def recall_column(
    correct: BoolArray, labels: LabelArray, groups: IntArray | None = None
) -> FloatArray:
    """The contribution of each image to the balanced accuracy, float64 `[n]`.

    It is the mean over the classes of `mean_column` of the images of each.

    Args:
        correct: bool `[n]`.
        labels: int `[n]`.
        groups: as in `auc_column`.

    >>> recall_column(np.array([True, False, True, True]), np.array([0, 0, 1, 1])).round(3)
    array([ 0.177, -0.177,  0.   ,  0.   ])
    """
    column, present = np.empty(len(labels)), np.unique(labels)
    for label in present:
        members = labels == label
        of_class = None if groups is None else groups[members]
        column[members] = mean_column(correct[members], of_class) / len(present)
    return column


def unseen_variance(labels: LabelArray, groups: IntArray | None = None) -> float:
    """The variance that one more image of each class would add to a mean over the classes.

    Two models that differ on hardly any image of a rare class seem not to vary there. So one image
    is added on either side, on which they differ by 1: half of the result for each model. With
    groups, one group is added.

    Args:
        labels: int `[n]`.
        groups: as in `auc_column`.

    Source: Bonett and Price 2012, Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data, which adds one image to either side.

    >>> round(2 * unseen_variance(np.array([0] * 8 + [1] * 98)), 6)
    0.00505
    """
    members = np.arange(len(labels)) if groups is None else groups
    counts = np.array([len(np.unique(members[labels == label])) for label in np.unique(labels)])
    return float(np.square(1 / (len(counts) * (counts + 2))).sum())


def precision_column(
    scores: FloatArray, positive: BoolArray, groups: IntArray | None = None
) -> FloatArray:
    """The first-order contribution of each image to the average precision, float64 `[n]`.

    A positive adds the precision at its score, and raises the precision at all lower scores; a
    negative lowers it there. The number of positives varies too.

    Args:
        scores, positive, groups: as in `auc_column`.

    >>> score, positive = np.array([0.9, 0.6, 0.2]), np.array([True, False, True])
    >>> precision_column(score, positive).round(3)
    array([ 0.17 , -0.136, -0.034])
    """
    levels, level = np.unique(scores[positive], return_inverse=True)
    hits = np.bincount(level, minlength=len(levels))
    above = np.searchsorted(levels, scores, side="right")
    called = np.bincount(above, minlength=len(levels) + 1)[1:][::-1].cumsum()[::-1]
    right = hits[::-1].cumsum()[::-1]
    precision = right / called
    # The slopes of the precision at each level, times its positives; summed over lower levels.
    of_positive, of_negative = (
        np.append(0, np.cumsum(hits * slope))
        for slope in ((called - right) / called**2, -right / called**2)
    )
    column = of_negative[above]
    area = (hits * precision).sum() / hits.sum()
    column[positive] = of_positive[above[positive]] + precision[level] - area
    return np.asarray(column / hits.sum() * _small_sample_factor(groups, np.ones_like(positive)))


def precision_bias(scores: FloatArray, positive: BoolArray) -> float:
    """The upward bias of the average precision, which arises because positives count themselves.

    Among the other images at or above the score of a positive, the mean share of positives is the
    true precision. Adding the positive itself gives the bias.

    >>> precision_bias(np.array([0.9, 0.6, 0.2]), np.array([True, False, True]))
    0.08333333333333333
    """
    levels, hits = np.unique(scores[positive], return_counts=True)
    sides = scores[positive], scores[~positive]
    right, false = (len(side) - np.searchsorted(np.sort(side), levels) for side in sides)
    called = right + false
    gained = false / np.maximum(called * (called - 1), 1)
    return float((hits * gained).sum() / hits.sum())


def _small_sample_factor(groups: IntArray | None, chosen: BoolArray) -> float:
    """The root of k / (k - 1) for the k images, or groups, among the chosen; 1 for a single one.

    A single image says nothing about its variance, and its own deviation is 0.
    """
    count = np.count_nonzero(chosen) if groups is None else len(np.unique(groups[chosen]))
    return float(np.sqrt(count / max(count - 1, 1)))


def unit_column(column: NDArray[np.floating], groups: IntArray | None) -> NDArray[np.float32]:
    """Sum a column `[n]` within groups and scale it, so that its mean square is the variance.

    Returns:
        float32 `[n]` or `[groups]`, because memory holds the columns of many classes and cells.

    >>> unit_column(np.array([0.25, 0.25, -0.5]), np.array([0, 0, 1])).round(3).tolist()
    [0.7070000171661377, -0.7070000171661377]
    """
    sums = column
    if groups is not None:
        order = np.argsort(column)  # makes sums independent of the order of the images
        sums = np.bincount(groups[order], column[order]).astype(np.float64)
    return (sums * np.sqrt(len(sums))).astype(np.float32)


def scatter_column(
    column: NDArray[np.floating], places: IntArray, count: int
) -> NDArray[np.float32]:
    """Extend a column of some images or groups to all of them, with the same variance.

    Args:
        column: `[n]`, as from `unit_column`.
        places: int `[n]`, the places of its numbers.
        count: how many images or groups there are.

    >>> scatter_column(np.array([1.0, -1.0]), np.array([3, 0]), 8).tolist()
    [-2.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    """
    every = np.zeros(count, dtype=np.float32)
    every[places] = column * np.sqrt(count / len(column))
    return every


def disjoint_pairs(positive: BoolArray, groups: IntArray | None = None) -> int:
    """Count the disjoint pairs of a positive and another image: each image is used once.

    With groups, each group is used once.

    >>> positive = np.array([True, True, False, False, False])
    >>> disjoint_pairs(positive), disjoint_pairs(positive, np.array([0, 1, 1, 2, 2]))
    (2, 1)
    """
    if groups is None:
        return int(min(positive.sum(), (~positive).sum()))
    sides = (len(np.unique(groups[side])) for side in (positive, ~positive))
    return min(*sides, len(np.unique(groups)) // 2)


def least_pairs(labels: LabelArray | BoolArray, groups: IntArray | None = None) -> float:
    """How many independent pairs the mean of the AUCs of all classes is worth at least.

    The mean is over pairs of images, each with a weight. Let the pairs of one image, or group,
    weigh at most W, and those of the same two at most w. By Vizing's theorem, the pairs can be
    divided into sets in which no image is twice, with 1 / (W + w) pairs in a set on average. By
    Hölder's inequality, Chernoff's bound for so many independent pairs then holds for the mean,
    given how many images of each class there are. Two classes of n and m images are worth almost
    min(n, m).

    Args:
        labels: `[n]`, of one class, whether each image is of it.
        groups: int `[n]`, the number of each image's group; None if images are independent.

    Returns:
        0 if there is only one label.

    Source: Hoeffding 1963, Probability Inequalities for Sums of Bounded Random Variables, section
    5, for sets without a common image; Vizing 1965, The Chromatic Class of a Multigraph.

    >>> round(least_pairs(np.arange(1000) < 100), 1)
    99.9
    """
    _, label, images = np.unique(labels, return_inverse=True, return_counts=True)
    others, classes = len(labels) - images, len(images)
    if classes < 2:
        return 0.0
    of_pair = np.sort(1 / (images * others))[-2:].sum() / classes
    # The weight of an image is in pairs with the others of its class, and as one of the others.
    weights = (1 / images + (1 / others).sum() - 1 / others) / classes
    members = np.arange(len(labels)) if groups is None else groups
    heaviest = np.bincount(members, weights[label]).max()
    return float(1 / (heaviest + of_pair * np.bincount(members).max() ** 2))


def column_spread(column: NDArray[np.floating]) -> ColumnSpread:
    """The variance of a value, and its degrees of freedom, which are few if few images matter.

    The freedom is n / (kurtosis - 1), with the kurtosis of the n numbers. It is about n / 2 for
    normal numbers, and about k if k equal ones have all the variance. Satterthwaite's formula gives
    twice as many, which is too many for few images, whose kurtosis is underestimated
    (benchmarks/areas.py).

    Args:
        column: `[n]`, of images or of groups, as from `unit_column`.

    >>> column_spread(np.array([1.0, -1.0] + [0.0] * 98))
    ColumnSpread(variance=0.02, freedom=2.0408163265306123)
    """
    squares = np.sort(np.square(column, dtype=np.float64))
    variance = float(squares.mean())
    if not variance:
        return ColumnSpread(0.0, 0.0)
    excess = float(np.square(squares).mean()) / variance**2 - 1
    most = len(column) - 1.0
    return ColumnSpread(variance, min(len(column) / excess, most) if excess > 0 else most)


def area_interval(
    value: float,
    column: NDArray[np.floating],
    pairs: float,
    bias: float = 0.0,
    tests: float = 1,
    least: float = 0.0,
) -> Ends:
    """The 95 % interval of an area, in [0, 1]: Student's t on the logit scale.

    It reaches down from the value minus its bias, and up from the value itself, because few images
    may overestimate the bias.

    If few images determine the variance, or none, as at exactly 1, the interval also covers Clopper
    and Pearson's for the number of disjoint pairs. At 1 it misses in at most 2.5 %: with an area A,
    all k pairs are right with probability A^k.

    An AUC is worth a known number of independent pairs (`least_pairs`). No end lies beyond
    Chernoff's bound for them, which misses in at most 2.5 % at any value. It matters if one or two
    images determine the variance, because Student's t then reaches almost to 0.

    Args:
        value: the area.
        column: `[n]`, of images or of groups, whose mean square is the variance.
        pairs: how many `disjoint_pairs` the area is a mean over.
        bias: how much too high the value is on average.
        tests: the number of simultaneous 95 % intervals, of which this is one.
        least: of an AUC, its `least_pairs`; 0 if there is no bound.

    Source: Pepe 2003, The Statistical Evaluation of Medical Tests for Classification and
    Prediction, section 5.2, for the logit scale; Hoeffding 1963, theorem 1, for the bound.

    >>> [round(end, 3) for end in area_interval(0.9, np.array([0.02, -0.02] * 50), 30)]
    [0.853, 0.933]
    >>> [round(end, 3) for end in area_interval(1.0, np.zeros(100), 30)]
    [0.884, 1.0]
    >>> one_image_decides = np.array([0.04] + [0.0] * 99)
    >>> [round(end, 3) for end in area_interval(0.996, one_image_decides, 100, least=99)]
    [0.95, 1.0]
    """
    spread = column_spread(column)
    low, high = (
        _move_on_logit_scale(centre, sign * spread.reach(tests)) if 0 < centre < 1 else value
        for centre, sign in ((value - bias, -1), (value, 1))
    )
    if spread.freedom < FEWEST_FREEDOM:
        exact = clopper_pearson(value, pairs, tests)
        low, high = min(low, float(exact[0])), max(high, float(exact[1]))
    divergence = np.log(tests / TAIL) / least if least else np.inf
    return _pull_within(low, value, divergence), _pull_within(high, value, divergence)


def influence_interval(
    value: float, column: NDArray[np.floating], bias: float = 0.0, tests: float = 1
) -> Ends:
    """The 95 % interval of a value that may be any number: Student's t.

    It reaches down from the value minus its bias, and up from the value itself.

    Args:
        value, column, bias, tests: as in `area_interval`; the bias may also be negative.

    >>> [round(end, 3) for end in influence_interval(1.2, np.array([0.1, -0.1] * 50))]
    [1.002, 1.398]
    """
    reach = column_spread(column).reach(tests)
    return value - max(bias, 0.0) - reach, value - min(bias, 0.0) + reach


def area_bounds(value: float, least: float) -> Ends:
    """Chernoff's bounds of an AUC that is worth `least` independent pairs: see `area_interval`.

    Each end misses in at most 2.5 %, with any number of images.

    Args:
        value: the area.
        least: its `least_pairs`, above 0.

    >>> [round(end, 2) for end in area_bounds(0.97, 10)]
    [0.61, 1.0]
    """
    divergence = -np.log(TAIL) / least
    return _pull_within(0.0, value, divergence), _pull_within(1.0, value, divergence)


def _pull_within(end: float, value: float, most: float) -> float:
    """Pull an end towards the value, until a share of `value` diverges from it by `most` nats."""

    def excess(truth: float) -> float:
        right, wrong = scipy.special.rel_entr((value, 1 - value), (truth, 1 - truth))
        return float(right + wrong) - most

    if not excess(end) > 0:
        return end
    from scipy.optimize import bisect  # takes a while to import

    return float(bisect(excess, value, end))


def _move_on_logit_scale(area: float, reach: float) -> float:
    """Move an area on the logit scale, by the distance that `reach` is at the area."""
    return float(scipy.special.expit(scipy.special.logit(area) + reach / (area * (1 - area))))
