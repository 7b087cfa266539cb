"""Conformal prediction: sets of classes that contain the label as often as promised.

A class is in the set of an image if its score is at most a threshold, an exact quantile of the
scores of calibration images' labels. If these and new images are exchangeable, the label of a new
image is in its set with at least the promised probability, for any model. Under a shift, nothing is
promised.

Nothing is random: scores are not smoothed by a uniform number, and classes of equal probability are
in a set together or not at all. So a set may contain the label more often than promised, never less
often. No set is empty; see `prediction_sets`.

Source: Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Angelopoulos and
Bates 2023, Conformal Prediction: A Gentle Introduction, sections 1 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import (
    BoolArray,
    FloatArray,
    IntArray,
    LabelArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    ratio,
    weighted_mean,
)

Method = Literal["lac", "aps", "raps", "ordinal"]
METHODS: tuple[Method, ...] = get_args(Method)
ORDINAL: Method = "ordinal"
# RAPS adds PENALTY for each class beyond the FREE most probable ones. Its authors choose both by
# the size of sets on additional images, which would need a third of the validation images.
RANK_PENALTY, FREE_RANKS = 0.01, 5
# The largest sets of each size stratum but the last: 1, 2 to 3, 4 to 10, 11 to 100, and more, as
# in Angelopoulos et al. 2021.
STRATA = (1, 3, 10, 100)
FEWEST_IN_STRATUM = 30  # with fewer images, a stratum does not count


def class_scores(probabilities: ArrayLike, method: str = "lac") -> FloatArray:
    """Score of every class of every image; classes with smaller scores enter the set first.

    - `lac`: 1 − the probability of the class. Sets are the smallest on average.
    - `aps`: the sum of the probabilities of all classes that are more probable. Sets adapt to how
      hard an image is.
    - `raps`: the same, plus 0.01 for each class beyond the fifth in order of probability. It avoids
      very large sets of very improbable classes. With up to five classes it is `aps`.
    - `ordinal`, for grades: the sum of the probabilities of the grades that are in before. The most
      probable grade comes first. Then comes the more probable one of its two neighbours, and of
      those of the grades that are in. Sets are grades in a row.

    Args:
        probabilities: float `[n, classes]`.
        method: `lac`, `aps`, `raps` or `ordinal`.

    Returns:
        float64 `[n, classes]`. Classes of equal probability have equal scores.

    Source: Sadinle, Lei and Wasserman 2019, Least Ambiguous Set-Valued Classifiers with Bounded
    Error Levels, for LAC; Romano, Sesia and Candès 2020, Classification with Valid and Adaptive
    Coverage, for APS, with the sets of their equation 3: the most probable classes up to and
    including the one that reaches the threshold; Angelopoulos, Bates, Malik and Jordan 2021,
    Uncertainty Sets for Image Classifiers using Conformal Prediction, for RAPS; Lu, Angelopoulos
    and Pomerantz 2022, Improving Trustworthiness of AI Disease Severity Rating in Medical Imaging
    with Ordinal Conformal Prediction Sets, for the ordinal sets.

    >>> class_scores([[0.5, 0.2, 0.3]], "aps").tolist()
    [[0.0, 0.8, 0.5]]
    >>> class_scores([[0.5, 0.2, 0.3]], "ordinal").tolist()
    [[0.0, 0.5, 0.7]]
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(f"probabilities must be [n, classes], found {list(rows.shape)}")
    if method not in METHODS:
        raise unknown_name("method of prediction sets", method, METHODS)
    if method == "lac":
        return 1 - rows
    if method == ORDINAL:
        return _ordinal_scores(rows)
    order = np.argsort(-rows, axis=1, kind="stable")
    falling = np.take_along_axis(rows, order, axis=1)
    before = np.zeros_like(falling)
    np.cumsum(falling[:, :-1], axis=1, out=before[:, 1:])
    # Classes of equal probability share what the first of them has.
    places = np.arange(rows.shape[1])
    is_first = np.ones(rows.shape, dtype=bool)
    is_first[:, 1:] = falling[:, 1:] != falling[:, :-1]
    first = np.maximum.accumulate(np.where(is_first, places, 0), axis=1)
    scores = np.take_along_axis(before, first, axis=1)
    if method == "raps":
        scores += RANK_PENALTY * np.maximum(first + 1 - FREE_RANKS, 0)
    by_class = np.empty_like(scores)
    np.put_along_axis(by_class, order, scores, axis=1)
    return by_class


def _ordinal_scores(rows: FloatArray) -> FloatArray:
    """The probability of the grades that are in a set before each grade, `[n, C]`.

    Grades between two most probable ones are in from the beginning, and of two equally probable
    grades at the sides both come in together. So a scale can be turned around.
    """
    n, classes = rows.shape
    places, images = np.arange(classes), np.arange(n)
    is_mode = rows == rows.max(axis=1, keepdims=True)
    low, high = is_mode.argmax(axis=1), classes - 1 - is_mode[:, ::-1].argmax(axis=1)
    scores = np.zeros_like(rows)
    walled = np.pad(rows, ((0, 0), (1, 1)), constant_values=-1.0)  # no grade is beyond the ends
    for _ in range(classes - 1):
        inside = (places >= low[:, None]) & (places <= high[:, None])
        mass = (rows * inside).sum(axis=1)
        left, right = walled[images, low], walled[images, high + 2]
        for goes, beside, step in (
            ((left >= right) & (left >= 0), low - 1, -1),
            ((right >= left) & (right >= 0), high + 1, 1),
        ):
            scores[images[goes], beside[goes]] = mass[goes]
            (low if step < 0 else high)[goes] += step
    return scores


def label_scores(probabilities: ArrayLike, labels: ArrayLike, method: str = "lac") -> FloatArray:
    """Score of the label of each image, float64 `[n]`; see `class_scores`.

    Args:
        probabilities: float `[n, classes]`.
        labels: int `[n]`, each in `[0, classes)`.
        method: as in `class_scores`.

    >>> label_scores([[0.5, 0.25, 0.25]], [2]).tolist()
    [0.75]
    """
    scores = class_scores(probabilities, method)
    places = np.asarray(labels)[:, None]
    return np.asarray(np.take_along_axis(scores, places, axis=1)[:, 0])


def fewest_images(coverage: float) -> int:
    """The fewest calibration images for a coverage: ⌈1 / (1 − coverage)⌉ − 1.

    >>> fewest_images(0.9), fewest_images(0.999)
    (9, 999)
    """
    share = _exact_share(coverage)
    return math.ceil(share / (1 - share))


def conformal_quantile(scores: ArrayLike, coverage: float, worth: int | None = None) -> float:
    """Threshold at which the sets of other images contain the label with this probability.

    It is the ⌈(n + 1) · coverage⌉-th of the sorted scores, or infinite if there are fewer than
    `fewest_images`: then every class is in every set. The coverage is used as the decimal number
    that was written, so that rounding never moves the rank.

    Args:
        scores: float `[n]`, of the labels of calibration images; no NaN.
        coverage: the promised probability, between 0 and 1.
        worth: how many independent images these are worth, if they belong together; n by default.
            The threshold is then at the share (worth + 1) / worth · coverage of the scores.

    Source: Vovk, Gammerman and Shafer 2005, proposition 2.4; Lei et al. 2018, Distribution-Free
    Predictive Inference for Regression, theorem 2, for exchangeable images without ties: the
    probability is also at most coverage + 1 / (n + 1).

    >>> conformal_quantile([0.1, 0.4, 0.2, 0.3], 0.6), conformal_quantile([0.1], 0.6)
    (0.3, inf)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise InputError("scores of calibration images must be numbers [n], without NaN")
    count = len(values) if worth is None else worth
    share = (count + 1) * _exact_share(coverage)  # of the count, and not rounded
    if share > count:
        return math.inf
    place = math.ceil(share * len(values) / count) - 1
    return float(np.partition(values, place)[place])


def classwise_quantiles(
    scores: ArrayLike, labels: ArrayLike, coverage: float, classes: int
) -> FloatArray:
    """`conformal_quantile` of the images of each class alone, float64 `[classes]`.

    The promise then holds for the images of each class, whatever the shares of the classes are.

    Args:
        scores: float `[n]`, of the labels of calibration images.
        labels: int `[n]`, each in `[0, classes)`.
        coverage: the promised probability.
        classes: how many there are.

    Source: Vovk 2012, Conditional Validity of Inductive Conformal Predictors, section 4 (label
    conditional, or Mondrian).

    >>> classwise_quantiles([0.1, 0.3, 0.2], [0, 0, 1], 0.5, 3).tolist()
    [0.3, 0.2, inf]
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    return np.array([conformal_quantile(values[truth == k], coverage) for k in range(classes)])


def prediction_sets(
    probabilities: ArrayLike, thresholds: ArrayLike, method: str = "lac"
) -> BoolArray:
    """Tell which classes are in the set of each image, bool `[n, classes]`.

    A set is never empty. If no class has a score up to its threshold, which only happens with
    `lac`, the set is the most probable class. This can only make the coverage higher. Coverage is
    then at least the accuracy, since the most probable class is in every set.

    Ordinal sets have no gaps. Thresholds of single grades could make some, which are filled.

    Args:
        probabilities: float `[n, classes]`.
        thresholds: one number, or one for each class `[classes]`.
        method: as in `class_scores`.

    >>> prediction_sets([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]], 0.6).tolist()
    [[True, False, False], [True, False, False]]
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    sets = class_scores(rows, method) <= np.asarray(thresholds, dtype=np.float64)
    empty = ~sets.any(axis=1)
    sets[empty] = rows[empty] == rows[empty].max(axis=1, keepdims=True)
    if method == ORDINAL:
        from_below, from_above = (
            np.logical_or.accumulate(side, 1) for side in (sets, sets[:, ::-1])
        )
        return np.asarray(from_below & from_above[:, ::-1])
    return sets


class SetColumns(NamedTuple):
    """The columns of prediction sets that are stored."""

    set_size: IntArray
    """int64 `[n]`, the number of classes in the set of each image."""

    covered: BoolArray
    """Bool `[n]`, whether its label is among them."""


def set_columns(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, method: str = "lac"
) -> SetColumns:
    """Size of the set of each image, and whether the label is in it; see `prediction_sets`.

    >>> columns = set_columns([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]], [1, 1], 0.7)
    >>> columns.set_size.tolist(), columns.covered.tolist()
    ([2, 2], [True, True])
    """
    sets = prediction_sets(probabilities, thresholds, method)
    covered = np.take_along_axis(sets, np.asarray(labels)[:, None], axis=1)[:, 0]
    return SetColumns(sets.sum(axis=1, dtype=np.int64), covered)


class CalibrationDraw(NamedTuple):
    """The calibration images behind one threshold, which determine how the coverage varies."""

    images: int
    """How many there are; all are drawn independently."""

    covered: int
    """How many of them have their label in their set. Without ties it is the rank of the threshold.
    """

    label: int | None = None
    """The class that the threshold is for; None for all classes."""


def coverage_deviations(
    draws: Sequence[CalibrationDraw], labels: LabelArray, resamples: int
) -> FloatArray:
    """Draw the deviation of the coverage for other calibration images, float64 `[B]`.

    Given the calibration images, the coverage of exchangeable images has the distribution
    Beta(k, n + 1 − k), where k of n calibration images are covered. Added to the resamples of test
    images, the deviations make intervals cover another draw of calibration images too.

    Args:
        draws: of one threshold, or of one for each class.
        labels: int `[n]`, of the test images: thresholds of classes count by their shares.
        resamples: how many deviations.

    Source: Vovk 2012, Conditional Validity of Inductive Conformal Predictors, proposition 2a;
    Angelopoulos and Bates 2023, section 3.2.

    >>> drawn = coverage_deviations([CalibrationDraw(99, 90)], np.zeros(5, int), 4000)
    >>> abs(float(drawn.mean())) < 0.005, round(float(drawn.std()), 3)
    (True, 0.029)
    """
    generator = np.random.default_rng(0)
    deviations = np.zeros(resamples)
    for draw in draws:
        share = 1.0 if draw.label is None else float(np.mean(labels == draw.label))
        rest = draw.images + 1 - draw.covered
        coverage = generator.beta(max(draw.covered, 1e-9), rest, size=resamples)
        deviations += share * (coverage - draw.covered / (draw.images + 1))
    return deviations


def conformal_coverage(covered: ArrayLike, weights: Weights = None) -> Result:
    """Share of the images whose label is in their prediction set, in [0, 1].

    Args:
        covered: bool `[n]`, from `set_columns`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> conformal_coverage([True, True, False, True])
    0.75
    """
    return weighted_mean(covered, weights, name="covered")


def conformal_set_size(set_size: ArrayLike, weights: Weights = None) -> Result:
    """Mean number of classes in the prediction sets, at least 1; smaller is more useful.

    Args:
        set_size: int `[n]`, from `set_columns`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> conformal_set_size([1, 1, 4])
    2.0
    """
    return weighted_mean(set_size, weights, name="set_size")


def size_stratified_coverage(
    set_size: ArrayLike, covered: ArrayLike, weights: Weights = None
) -> Result:
    """Lowest coverage of the images with sets of about the same size, in [0, 1].

    Sets that adapt to how hard an image is keep the promise at every size. Strata are sets of 1, 2
    to 3, 4 to 10, 11 to 100 and more classes. One with fewer than 30 images does not count. NaN if
    none counts. The smallest of several noisy numbers is biased downwards.

    Args:
        set_size: int `[n]`, from `set_columns`.
        covered: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`. Which
            strata count depends on the images without weights.

    Source: Angelopoulos, Bates, Malik and Jordan 2021, section 4 (size-stratified coverage
    violation, here as the coverage itself).

    >>> size_stratified_coverage([1] * 30 + [2] * 30, [True] * 45 + [False] * 15)
    0.5
    """
    n = check_columns(set_size=set_size, covered=covered)
    rows = as_rows(weights, n)
    terms = stratum_columns(np.asarray(set_size), np.asarray(covered, dtype=bool))
    return as_result(lowest_stratum_coverage(rows @ terms), weights)


def stratum_columns(set_size: LabelArray, covered: BoolArray) -> FloatArray:
    """Columns whose sums give `size_stratified_coverage`: float64 `[n, 2 * strata]`.

    >>> stratum_columns(np.ones(30, int), np.arange(30) < 20).sum(axis=0)
    array([30., 20.])
    """
    members = stratum_members(set_size)
    return np.concatenate([members, members & covered[:, None]], axis=1, dtype=np.float64)


def lowest_stratum_coverage(sums: FloatArray) -> FloatArray:
    """`size_stratified_coverage` from sums of `stratum_columns`, `[B, 2 * strata]` to `[B]`.

    >>> lowest_stratum_coverage(np.array([[30.0, 10.0, 15.0, 10.0]]))
    array([0.5])
    """
    images, covered = np.split(sums, 2, axis=1)
    shares = ratio(covered, images)  # NaN where a resample has no image of a stratum
    return np.fmin.reduce(shares, axis=1, initial=np.nan)


def stratum_members(set_size: LabelArray) -> BoolArray:
    """Tell which images are in each size stratum that has enough images, bool `[n, strata]`.

    The strata are sets of 1, 2 to 3, 4 to 10, 11 to 100 and more classes.

    >>> stratum_members(np.array([1] * 30 + [2] * 29)).shape
    (59, 1)
    """
    stratum = np.searchsorted(np.array(STRATA), set_size)
    members = stratum[:, None] == np.arange(len(STRATA) + 1)
    return np.asarray(members[:, members.sum(axis=0) >= FEWEST_IN_STRATUM])


def _exact_share(coverage: float) -> Fraction:
    if not 0 < coverage < 1:  # NaN fails the comparison too
        raise InputError(f"coverage must be a share between 0 and 1, found {coverage}")
    return Fraction(repr(float(coverage)))
