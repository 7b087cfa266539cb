"""Selective prediction: thresholds of confidence, the coverage that keeps a risk, and ATC.

Selective prediction answers the images with the highest confidence and defers the others to a
person. Average thresholded confidence (ATC) uses a threshold on confidence to estimate accuracy.

The best threshold for some images is the one where chance made their risk small. So the coverage at
a measured risk is too large on average. Resamples of the images repeat that choice, so they are no
evidence that the coverage can be kept. Tests of thresholds in a fixed order are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    TAIL,
    BoolArray,
    ConfidenceOrder,
    Ends,
    FloatArray,
    IntArray,
    LevelSums,
    Result,
    Weights,
    as_numbers,
    as_result,
    as_rows,
    check_columns,
    check_shares,
    level_sums,
    rank_area,
    ratio,
    weighted_mean,
)
from fairweather.metrics.conformal import CalibrationDraw
from fairweather.metrics.grouping import Grouping, effective_sample
from fairweather.metrics.seeds import NORMAL_FREEDOM
from fairweather.types.measurement import Predictions, Score

# Thresholds are tried at steps of this share of the images.
SEARCH_STEPS = 100
# The two parts of the chance that an end misses the truth: tests of the risk, and the number of
# images above a threshold.
COVERAGE_TAIL = 0.005
RISK_TAIL = TAIL - COVERAGE_TAIL
# Fewer answers than this, divided by the risk, show a risk hardly ever.
FEWEST_AT_START = 5
# Counts of images this near to 0 are rounding.
TINY = 1e-9


class EstimatedShares(NamedTuple):
    """Shares of images, and how much they say."""

    value: FloatArray
    """float64 `[k]`."""

    worth: FloatArray
    """float64 `[k]`, how many independent images they are worth."""

    freedom: FloatArray
    """float64 `[k]`, degrees of freedom of that; infinite for independent images."""

    def chance_of_fewer(self, share: float) -> FloatArray:
        """How probable so few hits are, or fewer, if the true share were this one."""
        hits = self.value * self.worth
        missed = np.maximum(self.worth - hits, 0)
        binomial = scipy.special.betainc(np.maximum(missed, TINY), hits + 1, 1 - share)
        return self._of_student(np.where(missed > TINY, binomial, 1.0))

    def chance_of_more(self, share: float) -> FloatArray:
        """How probable so many hits are, or more, if the true share were this one."""
        hits = self.value * self.worth
        binomial = scipy.special.betainc(np.maximum(hits, TINY), self.worth - hits + 1, share)
        return self._of_student(np.where(hits > TINY, binomial, 1.0))

    def low(self, tail: float) -> FloatArray:
        """The lower ends of exact one-sided intervals, which miss the truth with this chance."""
        level = scipy.special.ndtr(scipy.special.stdtrit(self.freedom, tail))
        hits = self.value * self.worth
        low = scipy.special.betaincinv(np.maximum(hits, TINY), self.worth - hits + 1, level)
        return np.where(hits > TINY, low, 0.0)

    def _of_student(self, chance: FloatArray) -> FloatArray:
        """The chance with Student's t in the place of the normal distribution."""
        return np.asarray(scipy.special.stdtr(self.freedom, scipy.special.ndtri(chance)))


def coverage_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    risk: float = 0.05,
    grouping: Grouping | None = None,
    weights: Weights = None,
) -> Ends:
    """The 95 % interval of the largest coverage with a true risk of at most `risk`.

    The truth is about unlimited images: the coverage of the lowest threshold that keeps the risk
    among them, or 0 without such a threshold. Each end misses it in at most 2.5 % of draws of the
    images.

    Tests give the lower end, as in `guaranteed_threshold`: how rarely would so few answers be wrong
    if the risk were higher? Thresholds are tried from high to low, a hundredth of the images apart,
    beginning at all images, half of them, a quarter and so on. The order does not depend on which
    answers are wrong. The beginnings share 2 %, and each test that is passed leaves its part to the
    next. The lower end is too high only if the search passes a threshold whose risk is too high.
    The upper end needs no correction, because there is only one true threshold. In all but 2 % of
    draws, it does not show so many wrong answers. The other 0.5 % are for how many images are above
    a threshold. Few images show little. With fewer than 200 images at a risk of 5 %, the lower end
    is 1 or 0: either all answers pass together, or none.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        risk: the largest share of wrong answers, in [0, 1].
        grouping: which images belong together. Images then count for as many as the variance
            between groups says, and Student's t takes the place of the normal distribution.
        weights: how much each image counts, float `[n]`.

    Source: Wiens and Dmitrienko 2005, The Fallback Procedure for Evaluating a Single Family of
    Hypotheses; Angelopoulos et al. 2021, Learn then Test, section 2.3, for thresholds; Clopper and
    Pearson 1934 for the exact tests; Korn and Graubard 1998 for the worth of groups.

    >>> confidence, correct = np.linspace(1, 0.5, 2000), np.arange(2000) % 40 != 39
    >>> coverage_interval(confidence, correct)
    (1.0, 1.0)
    >>> low, high = coverage_interval(confidence, correct & (confidence > 0.7))
    >>> round(low, 2), round(high, 2)
    (0.57, 0.66)
    """
    n = check_columns(confidence=confidence, correct=correct)
    sure = as_numbers(confidence)
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], ~np.asarray(correct, dtype=bool)[order]
    units = None if grouping is None else grouping.numbers[order]
    counts = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    if weights is not None and units is None:
        units = np.arange(n)
    thresholds = np.append(np.flatnonzero(sure[1:] != sure[:-1]) + 1, n)
    steps = np.ceil(np.arange(1, SEARCH_STEPS + 1) * n / SEARCH_STEPS)
    ends = thresholds[np.unique(np.searchsorted(thresholds, steps))]
    risks = _running_shares(wrong, ends, units, counts)
    fewest = FEWEST_AT_START / max(risk, TINY)
    lowest = _lowest_passing(risks.chance_of_fewer(risk), ends, n, fewest)
    possible = np.flatnonzero(risks.chance_of_more(risk) > RISK_TAIL)
    # The true threshold may lie between two that were tried.
    following = ends[possible[-1] + 1 :] if len(possible) else ends
    below = thresholds[thresholds < following[0]] if len(following) else thresholds
    highest = below[-1] if len(below) else 0
    low, high = 0.0, 1.0
    if lowest:
        low = float(_estimate_share(np.arange(n) < lowest, units, counts).low(COVERAGE_TAIL)[0])
    if highest < n:
        high = 1 - float(
            _estimate_share(np.arange(n) >= highest, units, counts).low(COVERAGE_TAIL)[0]
        )
    return (1.0 if lowest == n else low), high


def _lowest_passing(chances: FloatArray, ends: IntArray, n: int, fewest: float) -> int:
    """How many images the lowest threshold answers that passes its test; 0 if none does."""
    starts = [n / 2**k for k in range(int(np.log2(max(n / fewest, 1))) + 1)]
    shares = np.bincount(np.searchsorted(ends, starts), minlength=len(ends)) / len(starts)
    level, lowest = 0.0, 0
    for chance, share, end in zip(chances, RISK_TAIL * shares, ends, strict=True):
        level += share
        if chance <= level:
            lowest = int(end)
        else:
            level = 0.0
    return lowest


def _running_shares(
    hits: BoolArray, ends: IntArray, units: IntArray | None, counts: FloatArray
) -> EstimatedShares:
    """The shares of hits among the first images, for some numbers of them."""
    if units is None:
        images = ends.astype(np.float64)
        return EstimatedShares(
            np.cumsum(hits)[ends - 1] / images, images, np.full(len(ends), NORMAL_FREEDOM)
        )
    shares = [_estimate_share(hits[:end], units[:end], counts[:end]) for end in ends]
    return EstimatedShares(*np.concatenate(shares, axis=1))


def _estimate_share(hits: BoolArray, units: IntArray | None, counts: FloatArray) -> EstimatedShares:
    """The share of hits of some images, which are independent or belong to units."""
    if units is None:
        return EstimatedShares(*np.array([[hits.mean()], [len(hits)], [NORMAL_FREEDOM]]))
    sizes, squares = np.bincount(units, counts), np.bincount(units, np.square(counts))
    hit, hit_squares = np.bincount(units, counts * hits), np.bincount(units, counts**2 * hits)
    whole = sizes.sum()
    if not whole:
        return EstimatedShares(*np.array([[0.0], [0.0], [TINY]]))
    share = hit.sum() / whole
    # Of as many units of one size are these worth (Kish 1965, Survey Sampling, section 11.7).
    even = whole**2 / np.square(sizes).sum()
    present = np.count_nonzero(sizes)
    worth = even
    if 0 < share < 1 and present > 1:
        spread = share * (1 - share)
        excess = hit - share * sizes
        # The jackknife's variance, as of `share_interval`.
        moves = np.square(excess / np.maximum(whole - sizes, TINY)).sum() * (present - 1) / present
        # A few large units that are alike by chance make it too small. So a second variance is
        # computed, in which all units have the same correlation within: the mean over images of
        # what each shows.
        within = (1 - share) ** 2 * hit_squares + share**2 * (squares - hit_squares)
        pairs = np.square(sizes) - squares
        several = pairs > TINY
        shown = (np.square(excess) - within)[several] / pairs[several] * sizes[several]
        alike = max(shown.sum() / max(sizes[several].sum(), TINY) / spread, 0.0)
        common = whole**2 / (squares.sum() + alike * pairs.sum())
        worth = min(spread / max(moves, TINY**2), common, len(hits))
    return EstimatedShares(*np.array([[share], [worth], [max(even - 1, TINY)]]))


# --- Thresholds of confidence ---

# The largest share of wrong answers that the threshold from validation images allows.
RISK = 0.05
# Thresholds are tried at steps of this share of the images.
STEPS = 100
TOLERANCE = 1e-9


class RiskCoverage(NamedTuple):
    """The risk at each coverage, one point per distinct confidence, the largest first."""

    threshold: FloatArray
    """float64 `[points]`, the smallest confidence that is answered; descending."""

    coverage: FloatArray
    """float64 `[points]`, the share of the images that is answered, in (0, 1]; ascending to 1."""

    risk: FloatArray
    """float64 `[points]`, the share of the answers that is wrong, in [0, 1]."""


def risk_coverage_curve(confidence: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Compute, for every confidence, the risk of answering all images at or above it.

    A threshold cannot separate images with equal confidence, so they are answered together.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.

    Source: El-Yaniv and Wiener 2010, On the Foundations of Noise-free Selective Classification,
    section 2.

    >>> curve = risk_coverage_curve([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    >>> curve.threshold.tolist(), curve.coverage.tolist(), curve.risk.round(2).tolist()
    ([0.9, 0.8, 0.5], [0.25, 0.75, 1.0], [0.0, 0.33, 0.5])
    """
    levels = level_sums(confidence, correct)
    coverage, risk = levels.answered[0] / levels.images[0, -1], levels.risk[0]
    return RiskCoverage(np.unique(as_numbers(confidence))[::-1], coverage[::-1], risk[::-1])


def area_under_risk_coverage(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights = None
) -> Result:
    """Mean over images of the risk among images at least as confident, in [0, 1]; lower is better.

    This is the area under the step function of `risk_coverage_curve`. Images with equal confidence
    are all included in each other's risk, so their order does not matter. An image that counts
    twice is two images. If a model is wrong equally often at every confidence, the area is its
    error rate. If it is more confident where it is right, the area is smaller.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Without ties it is the mean of the running error rates. (Geifman, Uziel and El-Yaniv 2019,
    Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, section 2.) Libraries that
    connect the points by straight lines get other values: they differ by less than 1/(n - 1)
    without ties, and by more with ties.

    >>> area_under_risk_coverage([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    0.20833333333333331
    """
    return as_result(risk_area(level_sums(confidence, correct, weights)), weights)


def excess_area_under_risk_coverage(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights = None
) -> Result:
    """E-AURC: how much larger the area is than that of a perfect order, in [0, 1].

    `AURC - (r + (1 - r) ln(1 - r))`, with the share r of wrong answers

    `area_under_risk_coverage` is small for an accurate model, whatever its confidence says. The
    smallest area at this accuracy is subtracted, as of unlimited images of which all wrong ones are
    less confident than the right ones. With n images, a perfect order has an excess of about r /
    2n. Arguments as in `area_under_risk_coverage`.

    Source: Geifman, Uziel and El-Yaniv 2019, Bias-Reduced Uncertainty Estimation for Deep Neural
    Classifiers, section 3.

    >>> round(excess_area_under_risk_coverage([0.6, 0.7, 0.8, 0.9], [True, True, False, False]), 3)
    0.638
    """
    levels = level_sums(confidence, correct, weights)
    return as_result(risk_area(levels) - least_risk_area(levels.risk[:, 0]), weights)


def coverage_at_risk(
    confidence: ArrayLike, correct: ArrayLike, weights: Weights = None, *, risk: float = 0.05
) -> Result:
    """Largest share of images that can be answered at a risk of at most `risk`, in [0, 1].

    It is 0 if even the most confident images are wrong more often. The threshold is chosen and
    evaluated on the same images, so the value is a best case and too large on average.
    `coverage_interval` says what unlimited images would give; for a threshold chosen in advance,
    see `threshold_at_risk` and `coverage_above`.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`. With
            whole numbers, the risk is compared exactly: 1 wrong of 20 is a risk of at most 0.05.
        risk: the largest share of wrong answers, in [0, 1].

    Source: Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2.

    >>> coverage_at_risk([0.9, 0.8, 0.7, 0.6], [True, True, False, False], risk=0.4)
    0.75
    """
    return as_result(largest_coverage(level_sums(confidence, correct, weights), risk), weights)


def confidence_auroc(confidence: ArrayLike, correct: ArrayLike, weights: Weights = None) -> Result:
    """Probability that a right answer is more confident than a wrong one, in [0, 1].

    Ties count half. It is 0.5 for an uninformative confidence, and NaN if all images are right or
    all are wrong. It does not measure accuracy: the few wrong answers of a better model can be
    harder to detect.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Hendrycks and Gimpel 2017, A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks, section 2.

    >>> confidence_auroc([0.9, 0.8, 0.8, 0.5], [True, True, False, False])
    0.875
    """
    return as_result(rank_area(level_sums(confidence, correct, weights)), weights)


def threshold_at_risk(confidence: ArrayLike, correct: ArrayLike, *, risk: float = 0.05) -> float:
    """Smallest confidence such that answering all images at or above it has at most this risk.

    It is meant for clean validation images; `risk_above` and `coverage_above` then measure the
    threshold on other images. On the images it was chosen on, the coverage is `coverage_at_risk`.
    If even the most confident images are wrong more often, it is infinite, and nothing is answered.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        risk: the largest share of wrong answers, in [0, 1]. On other images of the same kind, the
            risk is often slightly higher. Geifman and El-Yaniv 2017, algorithm 1, give a bound that
            holds with a chosen probability instead.

    >>> threshold_at_risk([0.9, 0.8, 0.7, 0.6], [True, True, False, False], risk=0.4)
    0.7
    >>> threshold_at_risk([0.9, 0.8], [False, True], risk=0.4)
    inf
    """
    levels = level_sums(confidence, correct)
    thresholds = np.unique(as_numbers(confidence))[_is_within_risk(levels, risk)[0]]
    return float(thresholds[0]) if len(thresholds) else np.inf


def risk_above(
    confidence: ArrayLike, correct: ArrayLike, threshold: float, weights: Weights = None
) -> Result:
    """Share of wrong answers among the images at or above the threshold, in [0, 1].

    NaN if no image is at or above it.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        threshold: the smallest confidence that is answered; may be infinite.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> risk_above([0.9, 0.8, 0.7], [True, False, False], 0.8)
    0.5
    """
    n = check_columns(confidence=confidence, correct=correct)
    answered = is_answered(confidence, threshold)
    rows = as_rows(weights, n)
    wrong = answered & ~np.asarray(correct, dtype=bool)
    return as_result(ratio(rows @ wrong, rows @ answered), weights)


def coverage_above(confidence: ArrayLike, threshold: float, weights: Weights = None) -> Result:
    """Share of the images at or above the threshold, in [0, 1].

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        threshold: the smallest confidence that is answered; may be infinite.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    >>> coverage_above([0.9, 0.8, 0.7, 0.6], 0.8)
    0.5
    """
    check_columns(confidence=confidence)
    return weighted_mean(is_answered(confidence, threshold), weights)


class GuaranteedThreshold(NamedTuple):
    """A threshold that keeps a risk with a stated certainty; see `guaranteed_threshold`."""

    threshold: float
    """The smallest confidence that is answered; infinite if nothing may be answered."""

    images: int
    """The number of images that it was tested on."""

    answered: int
    wrong: int
    """`answered`, `wrong`: how many of these it answers, and how many of these answers are wrong.
    """

    bound: float
    """The upper end of the exact one-sided interval of the risk with the same certainty, at most
    the risk that was asked for; NaN if nothing is answered."""


def guaranteed_threshold(
    confidence: ArrayLike,
    correct: ArrayLike,
    candidates: ArrayLike,
    *,
    risk: float = 0.05,
    certainty: float = 0.95,
    grouping: Grouping | None = None,
) -> GuaranteedThreshold:
    """The last of some thresholds, in a fixed order, up to which the risk is shown to be kept.

    Each candidate is tested: how rare would so few wrong answers be if its risk were above `risk`?
    The first candidate that fails ends the search. So the risk of the threshold is at most `risk`
    in all but `1 - certainty` of the draws of these images. This is true for any model, with or
    without ties. The tests need no correction for their number. To go wrong, the search must pass
    the first candidate with too high a risk, which is one test. For this the candidates and their
    order must not depend on these images: take them from others, with `thresholds_to_try`. Binary
    search over the confidences of the images themselves, as in algorithm 1 of Geifman and El-Yaniv,
    divides `1 - certainty` by the number of its tests.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN. The images must be independent
            draws of what will be answered. Of images of patients, take one of each; the risk is
            then that of an image of a new patient, each patient counting alike.
        correct: bool `[n]`.
        candidates: float `[k]`, each the smallest confidence that is answered.
        risk: the largest share of wrong answers, in (0, 1).
        certainty: the share of draws in which the promise holds, in (0, 1).
        grouping: which images belong together, if all of them are given and each image counts
            equally. They are then counted as the independent images that they are worth
            (`effective_sample`), which is not exact: see benchmarks/guarantee.py.

    Raises:
        InputError: so few images cannot show such a risk, even if every answer is right.

    Source: Angelopoulos et al. 2021, Learn then Test, section 2.3, for the fixed order; Clopper and
    Pearson 1934 for the exact test; Geifman and El-Yaniv 2017, Selective Classification for Deep
    Neural Networks, for the aim.

    >>> confidence, correct = np.linspace(1, 0.5, 200), np.arange(200) % 40 != 39
    >>> found = guaranteed_threshold(confidence, correct, [0.8, 0.6, 0.5], risk=0.1)
    >>> found.threshold, found.answered, found.wrong, round(found.bound, 3)
    (0.5, 200, 5, 0.052)
    """
    images = check_columns(confidence=confidence, correct=correct)
    check_promise(risk, certainty)
    n = images if grouping is None else int(grouping.effective)
    if n < (least := fewest_for_risk(risk, certainty)):
        raise InputError(
            f"{n:,} {'images' if grouping is None else 'groups'} cannot show a risk of at most "
            f"{risk:.4g} with a certainty of {certainty:.4g}: that takes at least {least:,}, and "
            "more if any answer is wrong"
        )
    tried = np.asarray(candidates, dtype=np.float64)
    if tried.ndim != 1 or np.isnan(tried).any():
        raise InputError("candidates for a threshold must be numbers [k]")
    answered, wrong = _count_answered(confidence, correct, tried)
    worth, hits = answered.astype(np.float64), wrong.astype(np.float64)
    if grouping is not None:  # and then not whole numbers
        worth, hits = _count_effective(confidence, correct, tried, grouping)
    passed = binomial_tail(hits, worth, risk) <= 1 - certainty
    count = len(tried) if passed.all() else int(passed.argmin())  # up to the first that fails
    if not count:
        return GuaranteedThreshold(np.inf, images, 0, 0, np.nan)
    last = count - 1
    # Where all answers are wrong, no test of a risk below 1 is passed.
    bound = scipy.special.betaincinv(hits[last] + 1, worth[last] - hits[last], certainty)
    counts = int(answered[last]), int(wrong[last])
    return GuaranteedThreshold(float(tried[last]), images, *counts, float(bound))


def thresholds_to_try(
    confidence: ArrayLike, correct: ArrayLike, *, risk: float = 0.05
) -> FloatArray:
    """Thresholds for `guaranteed_threshold`, in the order in which other images may pass them.

    The order begins where these images show most clearly that the risk is kept, and goes down from
    there. The most confident images alone are few, so that one wrong answer would end the search.
    Steps are a hundredth of the images, since each further test is one that may fail by chance.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        risk: the largest share of wrong answers, in (0, 1).

    Returns:
        Float64 `[k]`, descending.

    Source: Angelopoulos et al. 2021, Learn then Test, section 4, splits the images likewise.

    >>> thresholds_to_try([0.9, 0.8, 0.7, 0.6], [True, True, True, False], risk=0.3).tolist()
    [0.7, 0.6]
    """
    n = check_columns(confidence=confidence, correct=correct)
    check_promise(risk, 0.5)
    ordered = np.sort(as_numbers(confidence))[::-1]
    places = np.unique(np.ceil(np.arange(1, STEPS + 1) * n / STEPS).astype(np.int64)) - 1
    levels = np.unique(ordered[places])[::-1]
    answered, wrong = _count_answered(confidence, correct, levels)
    chance = scipy.special.bdtr(wrong, answered, risk)
    # The highest of those that show it equally well, whatever the last digits of their chances.
    return np.asarray(levels[(chance <= chance.min() * (1 + TOLERANCE)).argmax() :])


def fewest_for_risk(risk: float, certainty: float = 0.95) -> int:
    """The fewest images that can show a risk, which they do if every answer is right.

    Args:
        risk: the largest share of wrong answers, in (0, 1).
        certainty: the share of draws in which the promise holds, in (0, 1).

    >>> fewest_for_risk(0.05), fewest_for_risk(0.01)
    (59, 299)
    """
    check_promise(risk, certainty)
    exact = np.log1p(-certainty) / np.log1p(-risk)
    return int(np.ceil(exact - TOLERANCE))


def check_promise(risk: float, certainty: float) -> None:
    """Raise `InputError` for a risk or a certainty outside (0, 1)."""
    # NaN fails the comparisons too.
    if not 0 < risk < 1:
        raise InputError(f"a risk that is promised must be in (0, 1), found {risk}")
    if not 0 < certainty < 1:
        raise InputError(f"the certainty of a promise must be in (0, 1), found {certainty}")


def _count_answered(
    confidence: ArrayLike, correct: ArrayLike, thresholds: FloatArray
) -> tuple[IntArray, IntArray]:
    """How many images each threshold answers, and how many of these are wrong, `[k]` each."""
    sure, wrong = as_numbers(confidence), ~np.asarray(correct, dtype=bool)
    parts = sure, sure[wrong]
    every, errors = (len(part) - np.searchsorted(np.sort(part), thresholds) for part in parts)
    return every, errors


def _count_effective(
    confidence: ArrayLike, correct: ArrayLike, thresholds: FloatArray, grouping: Grouping
) -> tuple[FloatArray, FloatArray]:
    """As `_count_answered`, in numbers of independent images."""
    wrong, counts = ~np.asarray(correct, dtype=bool), []
    for threshold in thresholds:
        places = np.flatnonzero(is_answered(confidence, threshold))
        counts.append(
            effective_sample(wrong[places], grouping.select(places)) if len(places) else (0.0, 0.0)
        )
    images, hits = np.reshape(counts, (-1, 2)).T
    return images, hits


def binomial_tail(hits: FloatArray, images: FloatArray, share: float) -> FloatArray:
    """The binomial chance of at most so many hits among so many images, whole numbers or not."""
    some = images > hits
    others = np.where(some, images - hits, 1)
    return np.where(some, scipy.special.betainc(others, hits + 1, 1 - share), 1.0)


def is_answered(confidence: ArrayLike, threshold: float) -> BoolArray:
    """Tell which images are answered, bool `[n]`.

    >>> is_answered([0.9, 0.8, 0.7], 0.8).tolist()
    [True, True, False]
    """
    if np.isnan(threshold):
        raise InputError("a threshold must be a number, found nan")
    return as_numbers(confidence) >= threshold


def risk_area(levels: LevelSums) -> FloatArray:
    """`area_under_risk_coverage` from the sums of each level, `[B]`.

    >>> risk_area(level_sums([0.9, 0.8, 0.7, 0.6], [True, True, False, False])).round(3)
    array([0.208])
    """
    # The risk is NaN only if no image is at or above a level; then the level has no image either.
    risked = np.diff(levels.images) * np.nan_to_num(levels.risk)
    return np.asarray(risked.sum(axis=1) / levels.images[:, -1])


def least_risk_area(risk: FloatArray) -> FloatArray:
    """The area if this share of wrong answers is less confident than all right ones, `[B]`.

    >>> least_risk_area(np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.0, 0.153, 1.0]
    """
    return np.asarray(risk + scipy.special.xlog1py(1 - risk, -risk))


def risk_area_losses(order: ConfidenceOrder) -> tuple[FloatArray, float]:
    """What each image adds to the `area_under_risk_coverage`, which is the mean; and its maximum.

    A wrong image raises the risk at its own confidence and at all lower ones. So it adds the sum of
    1 / (images at least as confident) over the images that are at most as confident as it is.

    Returns:
        float64 `[n]`, 0 for right images; and the sum of 1, 1/2 up to 1/n.

    >>> from fairweather.metrics.columns import order_by_confidence
    >>> order = order_by_confidence(np.array([0.9, 0.8, 0.7]), np.array([True, False, False]))
    >>> [part.round(2).tolist() for part in risk_area_losses(order)]
    [[0.0, 0.83, 0.33], 1.83]
    """
    n = len(order.images)
    running = np.append(0, np.cumsum(1 / (n - order.start)))
    losses = np.empty(n)
    losses[order.images] = order.wrong * running[order.stop]
    return losses, np.sum(1 / np.arange(1, n + 1))


def largest_coverage(levels: LevelSums, risk: float) -> FloatArray:
    """`coverage_at_risk` from the sums of each level, `[B]`.

    >>> largest_coverage(level_sums([0.9, 0.8, 0.7, 0.6], [True, True, False, False]), 0.4)
    array([0.75])
    """
    # A level without images in a resample has the coverage of the next level: it changes nothing.
    share = levels.answered / levels.images[:, -1:]
    return np.asarray(np.where(_is_within_risk(levels, risk), share, 0.0).max(axis=1))


def _is_within_risk(levels: LevelSums, risk: float) -> BoolArray:
    """At which levels the risk is at most `risk`, `[B, levels]`; false if no image is answered."""
    # NaN fails the comparison too.
    if not 0 <= risk <= 1:
        raise InputError(f"risk must be a share of wrong answers in [0, 1], found {risk}")
    return levels.risk <= risk


def deferral_shares(
    confidence: ArrayLike,
    correct: ArrayLike,
    risks: Sequence[float],
    grouping: Grouping | None = None,
) -> list[Score]:
    """Smallest share of images to defer to a person, the least confident first, for each risk.

    The value is 1 − `coverage_at_risk`: at most the share `risk` of the answers to the other images
    is wrong. It is 1 if even the most confident images are wrong more often. The interval is that
    of `coverage_interval`: of what endless images would need.

    Args:
        confidence: float `[n]`, larger means more confident; no NaN.
        correct: bool `[n]`.
        risks: the largest shares of wrong answers, each in [0, 1].
        grouping: which images belong together.

    Source: Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2.

    >>> confidence, correct = np.linspace(1, 0, 200), np.arange(200) < 150
    >>> [score] = deferral_shares(confidence, correct, [0.1])
    >>> [round(number, 2) for number in score]
    [0.17, 0.06, 0.3, 200]
    """
    levels, n = level_sums(confidence, correct), check_columns(confidence=confidence)
    scores = []
    for risk in risks:
        value = float(largest_coverage(levels, risk)[0])
        low, high = coverage_interval(confidence, correct, risk=risk, grouping=grouping)
        scores.append(Score(1 - value, 1 - max(high, value), 1 - min(low, value), n))
    return scores


def average_confidence(confidence: ArrayLike, weights: Weights = None) -> Result:
    """Mean confidence, in [0, 1]: the accuracy of a model that is calibrated on these images.

    Its error as an estimate of the accuracy is `confidence_gap`.

    Args:
        confidence: float `[n]` in [0, 1].
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, Leveraging Unlabeled Data to Predict Out-of-Distribution Performance,
    section 5, the baseline AC.

    >>> average_confidence([0.5, 0.75])
    0.625
    """
    check_columns(confidence=confidence)
    sure = as_numbers(confidence)
    check_shares(sure, "confidence")
    return weighted_mean(sure, weights, name="confidence")


def atc_threshold(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Threshold of ATC: as many validation images have a lower confidence as are wrong.

    If k images are wrong, the threshold is the (k + 1)-th smallest confidence, or infinite if all
    are wrong. A threshold cannot separate equal confidences. With ties, it is the confidence (or
    infinity) below which the number of images is closest to k. Of two equally close ones it is the
    smaller. So the ATC estimate on these same images is their accuracy if all confidences differ.
    With ties, the error is at most half the share of the tied images.

    Args:
        confidence: float `[n]`, on clean validation images; larger means more confident; no NaN.
        correct: bool `[n]`.

    Source: Garg et al. 2022, equation 1, with the maximum confidence as the score. The authors'
    code uses the next smaller confidence, so its estimate is higher by one image.

    >>> atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    0.7
    """
    check_columns(confidence=confidence, correct=correct)
    levels, images = np.unique(as_numbers(confidence), return_counts=True)
    below = np.concatenate([[0], np.cumsum(images)])
    wrong = np.count_nonzero(~np.asarray(correct, dtype=bool))
    nearest = np.abs(below - wrong).argmin()  # the first of equals
    return float(np.append(levels, np.inf)[nearest])


def atc_accuracy(confidence: ArrayLike, threshold: float, weights: Weights = None) -> Result:
    """Estimate the accuracy without labels: the share of images at or above the threshold.

    Args:
        confidence: float `[n]`, on images without labels; larger means more confident; no NaN.
        threshold: from `atc_threshold` on labelled validation images of the same model.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Garg et al. 2022, equation 2.

    >>> threshold = atc_threshold([0.6, 0.9, 0.7, 0.8], [True, True, False, True])
    >>> atc_accuracy([0.5, 0.6, 0.7, 0.9], threshold)
    0.5
    """
    return coverage_above(confidence, threshold, weights)


class FittedThresholds(NamedTuple):
    """Thresholds of one model and seed; see `fit_on`."""

    threshold: float
    """The smallest confidence that is answered, with at most 5 % wrong answers on the validation
    images; infinite if no threshold achieves that."""

    atc_threshold: float
    """As many validation images have a lower confidence as are wrong; see `atc_threshold`."""

    draws: tuple[CalibrationDraw, ...] = ()
    """The calibration images behind prediction sets, if these are images that are exchangeable with
    them."""

    points: Mapping[str, float] = MappingProxyType({})
    """Thresholds that were chosen for targets; see `choose_thresholds`."""


def fit_on(predictions: Predictions) -> FittedThresholds:
    """Fit the thresholds on the clean validation predictions of a model and seed.

    Both are NaN if only the predicted classes are known. Raises `InputError` without predictions.

    >>> import numpy as np
    >>> from fairweather.metrics import per_image
    >>> logits, labels = np.float32([[0, 3], [2, 0], [0, 1]]), np.array([1, 0, 0])
    >>> columns = per_image(logits, labels)
    >>> names = ("cat", "dog")
    >>> fit_on(Predictions(np.arange(3), labels, *columns, logits, names)).threshold.__round__(3)
    0.881
    """
    if not len(predictions):
        raise InputError("thresholds need validation predictions, found none")
    confidence, correct = predictions.confidence, predictions.correct
    if confidence is None:
        return FittedThresholds(np.nan, np.nan)
    threshold = threshold_at_risk(confidence, correct, risk=RISK)
    return FittedThresholds(threshold, atc_threshold(confidence, correct))
