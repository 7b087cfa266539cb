"""Compare two models on the same images: tests and intervals of the difference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.areas import FEWEST_FREEDOM, ColumnSpread, column_spread
from fairweather.metrics.bounded_means import betting_interval
from fairweather.metrics.columns import TAIL, Z95, Ends, FloatArray, check_columns, clopper_pearson
from fairweather.metrics.grouping import Grouping, zou_donner_interval
from fairweather.metrics.hidden_error import NOTHING_HIDDEN, HiddenError
from fairweather.metrics.intervals import (
    FEW_IMAGES,
    NOT_STRETCHED,
    TAILS,
    Estimate,
    adjusted_wald_interval,
    bonett_price_interval,
    image_interval,
    percentiles,
    signed_root,
    signed_square,
    skewed_interval,
    unbiased_skewed_interval,
)
from fairweather.metrics.seeds import SeedVariance, seed_variance, widen_for_seeds
from fairweather.types.measurement import Score

# Kinds of intervals whose p-values hold, as those of other columns do (benchmarks/differences.py).
TESTED = ("area", "bias-corrected")
LEAST_P = 1e-9  # a smaller p-value is not told apart from this one
# The kinds of intervals of values that may lie outside [0, 1].
UNCLIPPED = ("percentile", "skewed", "difference", "centred", "influence")

NO_VARIANCE = 1e-12  # of a count; a score statistic is never divided by less
UNSEEN = 3.0  # images that may differ where none does (the rule of three)


class McNemar(NamedTuple):
    """McNemar's exact test of equal accuracy."""

    b: int
    """Images that only the first model gets right."""

    c: int
    """Images that only the second gets right."""

    p: float
    """The probability that equally accurate models differ at least that much, in (0, 1]."""


class SeedSummary(NamedTuple):
    """Mean, standard deviation and count over trainings that differ only in their seed."""

    mean: float
    sd: float
    n: int


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Test whether two models are equally accurate, on images that both were predicted on.

    Images that both get right, or both get wrong, do not show which model is better. On the other
    images, each of two equally accurate models is right half of the time. The p-value is two-sided,
    from the binomial distribution: it is valid for few images too, and too large rather than too
    small.

    Args:
        correct_a, correct_b: bool `[n]`, the same images in the same order.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated
    proportions or percentages, in its exact form.

    >>> mcnemar_exact([True] * 6 + [False] * 2, [False] * 6 + [False, True])
    McNemar(b=6, c=1, p=0.125)
    """
    check_columns(correct_a=correct_a, correct_b=correct_b)
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    tail = scipy.special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(only_a, only_b, min(1.0, 2 * float(tail)))


def tango_interval(only_a: float, only_b: float, n: float) -> Ends:
    """Tango's 95 % score interval of the second model's share minus the first's.

    It contains the differences that a score test with p < 5 % does not reject.

    Args:
        only_a, only_b: the numbers of images that only the first model, or only the second, gets
            right.
        n: the number of all images.

    Source: Tango 1998, Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design.

    >>> [round(end, 3) for end in tango_interval(7, 1, 21)]
    [-0.517, -0.026]
    """
    from scipy.optimize import brentq  # takes a while to import

    value = (only_b - only_a) / n

    def excess(difference: float) -> float:
        """The squared score statistic minus that of the ends."""
        # The likeliest share that only the first gets right, given the difference.
        linear = (2 * n + only_a - only_b) * difference - only_a - only_b
        constant = -only_a * difference * (1 - difference)
        root = max(linear**2 - 8 * n * constant, 0.0) ** 0.5
        share = (root - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        error = only_b - only_a - n * difference
        return float(error**2 / max(variance, NO_VARIANCE) - Z95**2)

    low = -1.0 if excess(-1.0) <= 0 else float(brentq(excess, -1.0, value))
    high = 1.0 if excess(1.0) <= 0 else float(brentq(excess, value, 1.0))
    return low, high


def paired_shares_interval(only_a: float, only_b: float, n: float) -> Ends:
    """The 95 % interval of the second model's share minus the first's, as `tango_interval`.

    Each end is the outermost of Tango's and of Bonett and Price's interval. With 50 images or more,
    each end misses the truth in at most 2.5 %. Alone, Tango's interval misses it on one side in up
    to 5.2 %, and that of Bonett and Price on the other in up to 5.8 % (benchmarks/margins.py).

    >>> [round(end, 3) for end in paired_shares_interval(7, 1, 21)]
    [-0.517, -0.013]
    """
    pairs = (
        tango_interval(only_a, only_b, n),
        adjusted_wald_interval((only_b - only_a) / n, only_a + only_b, n),
    )
    lows, highs = zip(*pairs, strict=True)
    return min(lows), max(highs)


def sparse_difference_interval(
    first: FloatArray, second: FloatArray, grouping: Grouping | None = None
) -> Ends | None:
    """The 95 % interval of second minus first where they differ on few images; None on many.

    A variance says little then: a sample without the few images, or groups, on which one model
    fails looks as if the two were equal. So the interval is `paired_shares_interval`, with the
    counts divided by the design effect of the images that differ (Kish 1965). They are taken to
    belong together as closely as they are seen to, and three more completely: of groups in which
    none differ, nothing is known.

    Args:
        first, second: float `[n, S]`, how often each image is right, over one or several seeds.
        grouping: which images belong together.
    """
    gaps = second.mean(axis=1) - first.mean(axis=1)
    effect = 1.0 if grouping is None else _design_effect(np.abs(gaps), grouping)
    only_a, only_b = (float(np.maximum(side, 0).sum()) / effect for side in (-gaps, gaps))
    if only_a + only_b >= FEW_IMAGES:
        return None
    return paired_shares_interval(only_a, only_b, len(gaps) / effect)


def _design_effect(differing: FloatArray, grouping: Grouping) -> float:
    """By how much images of groups count for less, if they differ in `[n]` values in [0, 1]."""
    sizes, totals = (np.bincount(grouping.numbers, weights) for weights in (None, differing))
    n, count = len(differing), float(differing.sum())
    size = float(np.square(sizes).sum()) / n  # of the group of an image
    if size <= 1 or count >= n:
        return 1.0
    # How many others of its group differ with an image that does, beside those by chance.
    together = (float(np.square(totals).sum()) + UNSEEN * size) / (count + UNSEEN) - 1
    by_chance = (size - 1) * count / n
    correlation = (together - by_chance) / (size - 1 - by_chance)
    return 1 + (size - 1) * min(max(correlation, 0.0), 1.0)


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjust p-values for the number of tests, by Holm's method.

    If all tests with an adjusted p-value below 5 % are rejected, the probability of one or more
    false rejections is at most 5 %. This holds for any set of true hypotheses, and for dependent
    tests, such as tests on the same images.

    Args:
        p_values: float `[tests]` in [0, 1].

    Returns:
        `[tests]` in [0, 1], in the same order, none smaller than before.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # NaN fails the comparison too
        raise InputError("p-values must be [tests] and in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepwise = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepwise), 1)
    return adjusted


def paired_difference(first: Estimate, second: Estimate) -> Score:
    """Second minus first, with its 95 % interval.

    Both must have been computed with the same weights (`bootstrap_weights`) on the same images in
    the same order. Images that are hard for both models then cancel, and the interval is narrower
    than the two separate intervals suggest. It spans the middle 95 % of the differences of the
    replicates, and is widened if needed to contain the difference. It is NaN if one of the two
    values has too few errors for an interval.

    A value that is found by a search has no replicates that show its error (`Metric.search`). Its
    difference has the interval of two independent values (`zou_donner_interval`), which is too
    wide rather than too narrow on the same images.

    If an estimate is the mean over the seeds of a recipe, the interval covers other seeds too.
    Seeds of two recipes are treated as independent, even if their numbers are equal. A single seed
    is treated as one fixed trained network. For two values of the same trained networks, use
    `paired_change`.

    If the models differ on fewer than `FEW_IMAGES` images, the percentiles of a difference of
    accuracies are too narrow. If they never differ, they have no width. Then the interval is that
    of Bonett and Price, which adds one image for each side. For values that depend most on a few
    images, the skewness of the differences is corrected (`skewed_interval`). What resamples of the
    two values hide (`Estimate.hidden`) is added for both.

    The difference of two values with columns uses the difference of the columns, with Student's t
    (`column_spread`). This is the paired t-test for a mean, and DeLong's paired method for the area
    under a ROC curve. It is widened by the difference of the biases. If an area is 0 or 1, it is
    the interval of Zou and Donner, from those of both (`zou_donner_interval`).

    The noise of the bins inflates binned calibration errors, and resampling inflates them once
    more. Between two models this cancels only in part, and not at all if one is calibrated and the
    other far from it. So the replicates of each model are first corrected, in the same ways as in
    `to_score`. For example, a replicate r of a root mean square with the value v becomes
    sqrt(max(2v² − r², 0)). Then the differences are taken, and each end is the outermost of all
    ways. The difference itself is that of the uncorrected values, so it may be near an end. For
    calibration errors, an interval that includes 0 does not mean that two models are equally
    calibrated: with few images it contains many other values too.

    Raises:
        InputError: the estimates differ in their number of images or of resamples, or in their kind
            of interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13, for the
    percentile interval; `bonett_price_interval` and `skewed_interval` name their own sources, and
    `metrics.seeds` the source for seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_difference(low, high).value.__round__(3)
    0.2
    """
    return EstimatedDifference(first, second).score


def paired_change(first: Estimate, second: Estimate) -> Score:
    """Second minus first for the same trained networks, for example from clean to shifted images.

    As `paired_difference`, but with several seeds the change is computed for each seed, so that
    what a seed contributes to both values cancels.

    Raises:
        InputError: as in `paired_difference`, or different numbers of seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_change(low, high) == paired_difference(low, high)
    True
    """
    return EstimatedDifference(first, second, same_networks=True).score


@dataclass(frozen=True)
class EstimatedDifference:
    """The difference of two estimates on the same images, with its interval at any level.

    Its p-value is 1 less the level at which the interval ends at 0. So p is below 5 % if and only
    if the 95 % interval excludes 0, and both cover seeds and groups in the same way.

    A value with a `column` is tested with the difference of the columns and Student's t
    (`column_spread`), which is the paired t-test for a mean, and DeLong's test for an AUC. The
    degrees of freedom are fewer where few images decide: with n - 1, two models with the same mean
    loss differ "significantly" in up to 7 % (benchmarks/differences.py). `Estimate.unseen` is added
    to the variance.

    Where few images decide, or none, the images on which one model fails may be missing. Without
    `Estimate.unseen`, the interval then covers what they could change (`sparse_reach` of an area,
    `betting_interval` of bounded losses). Other losses, such as the negative log-likelihood, have
    no limit, so there is no interval if the models never differ.
    """

    first: Estimate
    second: Estimate
    same_networks: bool = False
    """Whether both are of the same trained networks, which are then paired by seed."""

    def __post_init__(self) -> None:
        sides = (self.first, self.second)
        kinds = [(side.n, side.draws.shape, side.interval) for side in sides]
        if kinds[0] != kinds[1]:
            raise InputError(
                "a paired difference needs the same images, resamples and interval, found "
                + " and ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in kinds)
            )
        seeds = [max(1, len(side.of_seeds)) for side in sides]
        if self.same_networks and seeds[0] != seeds[1]:
            raise InputError(
                "a change needs the same trained networks on both sides, found "
                f"{seeds[0]} and {seeds[1]} seeds"
            )

    @property
    def value(self) -> float:
        """Second minus first."""
        return self.second.value - self.first.value

    @property
    def score(self) -> Score:
        """The difference with its 95 % interval; its ends are NaN if there is none."""
        low, high = self.ends()
        return Score(self.value, low, high, self.first.n)

    @property
    def has_test(self) -> bool:
        """Tell whether a simulation shows that p-values of this kind of value hold."""
        has_contributions = self.first.column is not None and not self.first.has_no_replicates
        return has_contributions or self.first.interval in TESTED

    @cached_property
    def p(self) -> float:
        """The two-sided p-value, not below `LEAST_P`; NaN if there is no test, or no interval."""
        if not self.has_test:
            return math.nan

        def excess(log_tests: float) -> float:
            low, high = self.ends(math.exp(log_tests))
            return max(low, -high)

        # At a level of 0 % and at almost 100 %.
        least, most = math.log(2 * TAIL), math.log(2 * TAIL / LEAST_P)
        if self.first.column is not None and not (self.value or self._spread.variance):
            return 1.0  # nothing differs, even if too little is known for an interval
        if math.isnan(excess(0.0)):
            return math.nan
        if not excess(least) > 0:
            return 1.0
        if excess(most) > 0:
            return LEAST_P
        from scipy.optimize import brentq  # takes a while to import

        return float(2 * TAIL / math.exp(brentq(excess, least, most, xtol=1e-9)))

    def ends(self, tests: float = 1.0) -> Ends:
        """The interval that is one of `tests`, which hold together with 95 %, as two floats."""
        first, second, recipes, value = self.first, self.second, self._recipes, self.value
        if tests != 1 and not recipes:  # those of seeds are widened below
            first, second = first.together(tests), second.together(tests)
        differences = _comparable(second) - _comparable(first)
        differences = differences[:, ~np.isnan(differences[0])]
        if np.isnan(value) or not differences.size or first.too_few or second.too_few:
            return np.nan, np.nan
        centre, single, differ = value, differences[0], bool(np.ptp(differences) > 0)
        hidden = HiddenError(
            first.hidden.above + second.hidden.below, first.hidden.below + second.hidden.above
        )
        match first.interval:
            case "area" if {first.value, second.value} & {0.0, 1.0}:
                low, high = _joined_areas(first, second)
            case _ if first.column is not None:
                low, high = self._column_ends(1.0 if recipes else tests)
                hidden = NOTHING_HIDDEN  # the column and `unseen` have it
            case "skewed":
                low, high = skewed_interval(value, single)
            case "share" | "difference" | "conditional" | "overlap" if first.groups and differ:
                low, high = skewed_interval(value, single)
            case "classes":
                low, high = unbiased_skewed_interval(value, single)
            case "conditional" | "overlap":
                fewer = min(first.counted, second.counted)
                low, high = bonett_price_interval(value, single, fewer)
            case "percentile" | "difference":
                low, high = percentiles(single)
            case "bounded" if differ:
                low, high = percentiles(single)
            case "share" | "bounded":
                low, high = bonett_price_interval(value, single, first.units)
            case "searched":
                before, after = (Score(side.value, *side.ends, side.n) for side in (first, second))
                low, high = zou_donner_interval(after, before)
            case _:
                lows, highs = np.quantile(differences, TAILS, axis=1)
                low, high = float(lows.min()), float(highs.max())
                centre = float(differences.mean())
        low, high = hidden.widen(value, low, high)
        low, high = widen_for_seeds((low, high), centre, first.n, recipes, tests)
        if first.interval not in UNCLIPPED:
            low, high = max(low, -1.0), min(high, 1.0)  # both values are in [0, 1]
        return min(low, value), max(high, value)

    @cached_property
    def _recipes(self) -> list[SeedVariance]:
        first, second = self.first, self.second
        if not self.same_networks:
            return [recipe.subtracted() for recipe in _recipes(first)] + _recipes(second)
        pairs = list(zip(first.of_seeds, second.of_seeds, strict=True))
        if len(pairs) < 2:
            return []
        values = [after.value - before.value for before, after in pairs]
        replicates = [_comparable(after)[0] - _comparable(before)[0] for before, after in pairs]
        return [seed_variance(values, replicates)]

    @cached_property
    def _spread(self) -> ColumnSpread:
        spread = column_spread(self.second.draws - self.first.draws)
        return spread.plus(self.first.unseen + self.second.unseen)

    def _column_ends(self, tests: float) -> Ends:
        """Student's t; it reaches down from the value less its bias, and up from the value."""
        first, second, spread = self.first, self.second, self._spread
        bias, reach = second.bias - first.bias, spread.reach(tests)
        pairs = min(side.least_pairs or side.pairs for side in (first, second))
        if pairs < np.inf and spread.freedom < FEWEST_FREEDOM:  # an area
            reach = max(reach, sparse_reach(spread.freedom, pairs, tests))
        low, high = self.value - max(bias, 0.0) - reach, self.value - min(bias, 0.0) + reach
        if first.has_no_replicates or first.unseen or spread.freedom >= FEWEST_FREEDOM:
            return low, high
        if first.losses is None or second.losses is None:
            return (low, high) if spread.variance or self.value else (np.nan, np.nan)
        below, above = betting_interval(second.losses.minus(first.losses), TAIL / tests)
        return min(low, below), max(high, above)


def sparse_reach(differing: float, pairs: float, tests: float = 1) -> float:
    """How far two areas may differ beyond what is seen, if they differ on few pairs of images.

    An area changes by at most the share of pairs that the models rank differently. If that share is
    q, none of k independent pairs shows it with probability (1 - q)^k. By Chernoff's bound, this
    holds for the mean over all pairs that are worth k (`least_pairs`). So it is Clopper and
    Pearson's upper end less the share seen: about 3.7 / k where no pair differs.

    Args:
        differing: how many pairs differ: about the degrees of freedom of the difference.
        pairs: how many independent pairs all pairs are worth, a finite number.
        tests: the number of simultaneous 95 % intervals, of which this is one.

    >>> [round(sparse_reach(count, 40), 3) for count in (0, 1)]
    [0.088, 0.107]
    """
    if not pairs:
        return 1.0
    share = min(differing / pairs, 1.0)
    return float(clopper_pearson(share, pairs, tests)[1]) - share


def bounded_change(first: Estimate, second: Estimate) -> Score | None:
    """`paired_change` with an interval for any number of errors; None if there is none.

    It is the `betting_interval` of the differences of the losses on each image, or in each group.
    With several seeds, it covers other seeds as well.

    Args:
        first, second: of the same images and seeds, with `Estimate.losses`.

    >>> from fairweather.metrics.bounded_means import BoundedLosses
    >>> sides = [BoundedLosses((np.arange(500) < k) * 1.0, 0, 1) for k in (10, 30)]
    >>> values = (Estimate(float(s.values.mean()), np.zeros(2), 500, losses=s) for s in sides)
    >>> [round(number, 3) for number in bounded_change(*values)[:3]]
    [0.04, 0.019, 0.074]
    """
    if first.losses is None or second.losses is None:
        return None
    value = second.value - first.value
    ends = betting_interval(second.losses.minus(first.losses))
    pairs = list(zip(first.of_seeds, second.of_seeds, strict=True))
    recipes = []
    if len(pairs) > 1:
        values = [after.value - before.value for before, after in pairs]
        replicates = [after.replicates - before.replicates for before, after in pairs]
        recipes = [seed_variance(values, replicates)]
    low, high = widen_for_seeds(ends, value, first.n, recipes)
    return Score(value, min(low, value), max(high, value), first.n)


def _recipes(estimate: Estimate) -> list[SeedVariance]:
    """The recipes of an estimate, with the bounds that `stretch_near_bounds` needs."""
    if estimate.interval not in (*UNCLIPPED, *NOT_STRETCHED):
        return [recipe._replace(bounds=(0.0, 1.0)) for recipe in estimate.recipes]
    return estimate.recipes


def _joined_areas(first: Estimate, second: Estimate) -> Ends:
    """Both single intervals joined, where an area of 0 or 1 has no variance."""
    alone = (image_interval(side) for side in (second, first))
    return zou_donner_interval(*(Score(s.centre, s.low, s.high, first.n) for s in alone))


def seed_summary(values: ArrayLike) -> SeedSummary:
    """Mean and sample standard deviation (n − 1) over seeds; NaN for the deviation of one seed.

    >>> seed_summary([0.25, 0.5, 0.75])
    SeedSummary(mean=0.5, sd=0.25, n=3)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise InputError(f"values must be [seeds] and not empty, found {list(numbers.shape)}")
    sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else np.nan
    return SeedSummary(float(numbers.mean()), sd, len(numbers))


def _comparable(estimate: Estimate) -> FloatArray:
    """The replicates corrected for the bias of the metric, in one or several ways, `[ways, B]`.

    Their outermost quantiles are the interval of a single value.
    """
    value, replicates = estimate.value, np.asarray(estimate.draws, dtype=np.float64)
    match estimate.interval:
        case "basic":
            return _bias_corrected_ways(value, replicates)
        case "bias-corrected":
            return np.sqrt(np.maximum(_bias_corrected_ways(value**2, np.square(replicates)), 0))
        case "centred":
            squares = signed_square(replicates)
            spread = squares - np.nanmean(squares)
            return signed_root(value * np.abs(value) + np.stack([spread, -spread]))
        case _:
            return replicates[None]


def _bias_corrected_ways(value: float, replicates: FloatArray) -> FloatArray:
    """Replicates around the value with and without its bias, each mirrored and not, `[4, B]`."""
    spread = replicates - replicates.mean()
    unbiased = 2 * value - replicates.mean()
    centres = (unbiased, max(unbiased, value))
    return np.stack([centre + side for centre in centres for side in (spread, -spread)])
