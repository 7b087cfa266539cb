"""Power: how often a test set of a given size reaches the verdict that a study is made for.

The verdicts are those of `check` and `compare`. A verdict is reached where the 95 % interval lies
inside a `Goal`. What is planned is the interval that is judged later: Clopper and Pearson's of a
share, McNemar's exact test and Bonett and Price's interval of paired shares, Student's t over
groups and seeds, and DeLong's variance on the logit scale for areas.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

from fairweather.metrics.areas import (
    area_interval,
    auc_column,
    disjoint_pairs,
    least_pairs,
    unit_column,
)
from fairweather.metrics.classification import placements
from fairweather.metrics.columns import (
    RESAMPLES,
    ROUNDING,
    TAIL,
    Z95,
    BoolArray,
    Ends,
    FloatArray,
    IntArray,
    bent_interval,
    clopper_pearson,
)
from fairweather.metrics.grouping import share_moments
from fairweather.metrics.intervals import FEW_IMAGES
from fairweather.metrics.seeds import LEAST_FREEDOM, UNBOUNDED, CrossedMean, SeedVariance

MOST_IMAGES = 10**7  # no plan asks for more
# Studies that are drawn where no formula says how often they reach the goal; of AUCs, with at most
# so many images each.
DRAWS, AREA_DRAWS, MOST_DRAWN, SEED = 4000, 2000, 20_000, 0
NOISE_STEPS = 16  # of the noise of resamples
NODES = 256  # draws of the variances that a study will estimate
# The roots of x⁴ = x + 1: multiples of their powers spread evenly over three dimensions.
GOLDEN = 1.2207440846057596
FARTHEST = 8.0  # standard deviations, beyond which counts are left out
MOST_THINNED, LEAST_SHARE = 30, 1e-12  # images of a group that count; of groups with so many
STEPS = 4001  # of integrals over a normal distribution


class Goal(NamedTuple):
    """Where the 95 % interval must lie for the verdict: above `low` and below `high`."""

    low: float = -np.inf
    high: float = np.inf
    """`low`, `high`: the limits; infinite where there is none."""

    tests: int = 1
    """How many tests share the 5 %, by Bonferroni's correction; only for a difference from 0."""


class RecipeSpread(NamedTuple):
    """What varies between the trainings of a recipe: two variances."""

    trainings: float
    """Between the true values of trainings with different seeds."""

    residual: float = 0.0
    """Of an image and a seed together, beyond the image and the seed alone."""

    mean: float = 0.0
    bounds: Ends = UNBOUNDED
    """`mean`, `bounds`: the true value and its bounds, near which the interval is stretched."""


class Spread(NamedTuple):
    """What a value, or a difference of two, varies with."""

    images: float
    """The variance of one image's number, without what differs from seed to seed."""

    recipes: tuple[RecipeSpread, ...] = ()
    """Of each side with several seeds; empty for trained networks."""

    design_effect: float = 1.0
    """By how much images that belong together raise the variance (`design_effect`)."""


def design_effect(images_per_group: float, icc: float) -> float:
    """By how much the variance of a mean rises where images belong together, such as a patient's.

    Args:
        images_per_group: images in each group; for unequal groups, Σ m² / Σ m.
        icc: the correlation between two images of a group.

    Source: Kish 1965, Survey Sampling, section 5.4.

    >>> design_effect(4, 0.5)
    2.5
    """
    return 1 + (images_per_group - 1) * icc


def share_power(images: IntArray, truth: float, goal: Goal) -> FloatArray:
    """Power of a limit for a share: Clopper and Pearson's interval lies inside the goal.

    Exact, from binomial sums. It does not rise smoothly with the number of images.

    Args:
        images: int `[k]`, numbers of images that the share is of.
        truth: the true share.
        goal: with one limit.

    Returns:
        float64 `[k]`.

    >>> share_power(np.array([100, 113]), 0.9, Goal(low=0.8)).round(3).tolist()
    [0.703, 0.843]
    """
    import scipy.stats  # takes half a second to import

    if np.isinf(goal.low):
        return share_power(images, 1 - truth, Goal(low=1 - goal.high))
    # The fewest hits that are rarer than the tail if the true share is the limit, minus 1.
    most = scipy.stats.binom.isf(TAIL, images, goal.low)
    return np.asarray(np.where(images > 0, scipy.stats.binom.sf(most, images, truth), 0.0))


def accuracy_power(images: IntArray, truth: float, goal: Goal) -> FloatArray:
    """Power of a limit for an accuracy, whose interval in scores.csv comes from resamples.

    Their noise makes the interval narrower or wider. `check` widens what is narrower than Clopper
    and Pearson's, so half of the studies have a lower end than that.

    >>> accuracy_power(np.array([113]), 0.9, Goal(low=0.8)).round(2).tolist()
    [0.82]
    """
    import scipy.stats  # takes half a second to import

    if np.isinf(goal.low):
        return accuracy_power(images, 1 - truth, Goal(low=1 - goal.high))
    least = scipy.stats.binom.isf(TAIL, images, goal.low) + 1
    power = np.zeros(len(images))
    noise = scipy.special.ndtri((np.arange(NOISE_STEPS) + 0.5) / NOISE_STEPS)
    for factor in np.minimum(1 + np.sqrt(2 / RESAMPLES) * noise, 1):
        hits = least.copy()
        while (short := _ends_below(hits, images, factor, goal.low)).any():
            hits += short
        power += scipy.stats.binom.sf(hits - 1, images, truth)
    return power / NOISE_STEPS


def _ends_below(hits: FloatArray, images: IntArray, factor: float, limit: float) -> BoolArray:
    """Tell which intervals begin below a limit, if the images are worth `factor` times as many."""
    share = hits / images
    low, _ = clopper_pearson(np.minimum(share, 1), factor * images)
    return np.asarray((low < limit - ROUNDING) & (share <= 1))


def random_share_power(
    images: IntArray, part: float, power_of_count: Callable[[IntArray], FloatArray]
) -> FloatArray:
    """Power where the number of images that a share is of is itself random.

    Args:
        images: int `[k]`, all images.
        part: the probability that an image counts, such as the prevalence of a class.
        power_of_count: the power for a known number that counts.

    >>> of_count = lambda count: share_power(count, 0.9, Goal(low=0.8))
    >>> random_share_power(np.array([2229]), 0.05, of_count).round(3).tolist()
    [0.8]
    """
    import scipy.stats  # takes half a second to import

    if part == 1:
        return power_of_count(images)
    spread = FARTHEST * np.sqrt(images * part * (1 - part)) + 1
    first = np.maximum(np.floor(images * part - spread), 0).astype(np.int64)
    last = np.minimum(np.ceil(images * part + spread), images).astype(np.int64)
    start = int(first.min())
    powers = power_of_count(np.arange(start, int(last.max()) + 1))
    ranges = (np.arange(low, high + 1) for low, high in zip(first, last, strict=True))
    return np.array(
        [
            scipy.stats.binom.pmf(counts, n, part) @ powers[counts - start]
            for n, counts in zip(images, ranges, strict=True)
        ]
    )


class GroupSizes(NamedTuple):
    """How many images that count groups have, such as patients."""

    images: IntArray
    """int64 `[k]`, the sizes that occur; 0 for groups without an image that counts."""

    shares: FloatArray
    """float64 `[k]`, of the groups; they sum to 1."""

    @property
    def mean(self) -> float:
        """Images in a group, on average."""
        return float(self.shares @ self.images)

    @property
    def effective(self) -> float:
        """The size of equal groups that would raise the variance as much: Σ m² / Σ m."""
        return float(self.shares @ np.square(self.images)) / self.mean

    @property
    def occupied(self) -> float:
        """The share of the groups that have an image that counts."""
        return float(self.shares[self.images > 0].sum())

    def at_occupied(self, share: float) -> GroupSizes:
        """The same groups, if this share of them has an image that counts.

        >>> GroupSizes(np.array([0, 2]), np.array([0.5, 0.5])).at_occupied(0.1).shares.tolist()
        [0.9, 0.1]
        """
        some = self.images > 0
        shares = share * self.shares[some] / self.occupied
        return GroupSizes(np.append(0, self.images[some]), np.append(1 - share, shares))


def even_sizes(mean: float) -> GroupSizes:
    """Sizes as equal as whole numbers allow.

    >>> even_sizes(2.25).shares.tolist()
    [0.75, 0.25]
    """
    whole = int(mean)
    return GroupSizes(np.array([whole, whole + 1]), np.array([whole + 1 - mean, mean - whole]))


def thinned_sizes(mean: float, part: float) -> GroupSizes:
    """How many images of even groups count, if each counts by chance, whatever its group.

    Args:
        mean: images in a group, on average.
        part: the probability that an image counts. If many of a group do, their number hardly
            varies, and groups are taken to be even.

    >>> thinned_sizes(2, 0.5).shares.round(2).tolist()
    [0.25, 0.5, 0.25]
    """
    import scipy.stats  # takes half a second to import

    if part == 1 or mean * part > MOST_THINNED:
        return even_sizes(mean * part)
    whole = even_sizes(mean)
    counts = np.arange(whole.images[-1] + 1)
    shares = scipy.stats.binom.pmf(counts[:, None], whole.images, part) @ whole.shares
    occurs = shares > LEAST_SHARE
    return GroupSizes(counts[occurs], shares[occurs] / shares[occurs].sum())


def grouped_share_power(
    groups: int,
    truth: float,
    goal: Goal,
    sizes: GroupSizes,
    icc: float,
    *,
    of_all_images: bool = False,
    draws: int = DRAWS,
) -> float:
    """Power of a limit for a share of images that belong together.

    The share differs between groups as a beta distribution, so the hits of a group are
    beta-binomial. Studies are drawn from it, and each is judged by the interval over groups.

    Args:
        groups: their number.
        truth, goal: as in `share_power`.
        sizes: of the groups.
        icc: the correlation between two images of a group, in (0, 1).
        of_all_images: whether it is an accuracy, which `check` widens to Clopper and Pearson's
            interval for as many independent images as its width is worth.
        draws: how many studies are drawn; the error is at most 0.5 / √draws.

    Source: Donner and Klar 2000, Design and Analysis of Cluster Randomization Trials, for the
    beta-binomial model.

    >>> round(grouped_share_power(50, 0.9, Goal(low=0.8), even_sizes(4), 0.5), 1)
    0.4
    """
    import scipy.stats  # takes half a second to import

    if np.isinf(goal.low):
        mirrored = Goal(low=1 - goal.high)
        return grouped_share_power(
            groups, 1 - truth, mirrored, sizes, icc, of_all_images=of_all_images, draws=draws
        )
    # Groups of one size with as many hits are alike, so only their numbers are drawn.
    size = np.repeat(sizes.images, sizes.images + 1)
    hits = np.concatenate([np.arange(most + 1) for most in sizes.images.tolist()])
    a, b = (part * (1 - icc) / icc for part in (truth, 1 - truth))
    of_size = scipy.stats.betabinom.pmf(hits, size, a, b)
    chances = of_size * np.repeat(sizes.shares, sizes.images + 1)
    rng = np.random.default_rng(SEED)
    numbers = rng.multinomial(groups, chances / chances.sum(), draws).astype(np.float64)
    whole = numbers @ size
    share = numbers @ hits / np.maximum(whole, 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # one group may be all
        moments = share_moments(hits, size.astype(np.float64), share[:, None], whole[:, None])
    sums = np.stack([(numbers * moment).sum(axis=1) for moment in moments])
    low = _lower_ends(share, whole, sums, of_all_images, rng)
    return float((low >= goal.low).mean())


def _lower_ends(
    share: FloatArray,
    images: FloatArray,
    sums: FloatArray,
    of_all_images: bool,
    rng: np.random.Generator,
) -> FloatArray:
    """The low ends of shares that `check` judges, from the moments of their groups.

    Spread and skewness come from resamples of the groups, which add noise of their own. It matters:
    few groups have all misses, and a larger skewness moves the low end far.
    """
    groups, squares, cubes, moves, *_ = sums
    deviates = rng.normal(size=(2, len(share)))
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.maximum(groups - 1, LEAST_FREEDOM)
        wider = scipy.special.stdtrit(freedom, 1 - TAIL) / Z95
        spread = np.sqrt(moves * (groups - 1) / groups) * wider
        spread *= 1 + deviates[0] / np.sqrt(2 * RESAMPLES)
        skewness = cubes / squares**1.5 + deviates[1] * np.sqrt(6 / RESAMPLES)
        varies = spread > ROUNDING
        worth = np.where(varies, share * (1 - share) / spread**2, groups)
        many = worth * np.minimum(share, 1 - share) >= FEW_IMAGES
        exact, upper = clopper_pearson(share, worth)
        bent = bent_interval(share, spread, np.where(varies, skewness, 0.0), Z95)
        low = np.where(varies, np.fmin(exact, bent[0]), exact)
        if of_all_images:
            # Percentiles with many images; then Clopper and Pearson's for what the width is worth.
            low = np.where(many, np.fmin(share - Z95 * spread, bent[0]), low)
            high = np.where(many, share + Z95 * spread, upper)
            width = np.fmax(high, bent[1]) - low
            count = np.minimum(share * (1 - share) * (2 * Z95 / width) ** 2, images)
            low = np.where(many, np.fmin(low, clopper_pearson(share, count)[0]), low)
    return np.asarray(np.where(groups > 1, low, 0.0))


def paired_power(images: int, difference: float, discordant: float, goal: Goal) -> float:
    """Power of a difference of two shares of the same images, of one network each.

    Exact, over all counts of images that only one of the two gets right. Any difference above 0 is
    judged by McNemar's exact test; a margin by the outermost of Tango's and of Bonett and Price's
    interval.

    Args:
        images: their number.
        difference: of the true shares, new minus old.
        discordant: the true share of images that exactly one of the two gets right.
        goal: of the difference.

    Source: Duffy 1984, Asymptotic and Exact Power for the McNemar Test and its Analogue with R
    Controls per Case, for the sum over the number of discordant pairs; Tango 1998, Equivalence Test
    and Confidence Interval for the Difference in Proportions for the Paired-Sample Design; Bonett
    and Price 2012, as in `metrics.intervals`.

    >>> round(paired_power(1000, 0.02, 0.06, Goal(low=0)), 3)
    0.702
    """
    import scipy.stats  # takes half a second to import

    spread = FARTHEST * np.sqrt(images * discordant * (1 - discordant)) + 1
    differing = np.arange(
        max(int(images * discordant - spread), 0),
        min(int(images * discordant + spread), images) + 1,
    )
    of_differing = scipy.stats.binom.pmf(differing, images, discordant)
    gain = (1 + difference / discordant) / 2 if discordant else 0.5
    if goal.low == 0 and np.isinf(goal.high):
        fewest = scipy.stats.binom.isf(TAIL / goal.tests, differing, 0.5)
        return float(of_differing @ scipy.stats.binom.sf(fewest, differing, gain))
    # Both ends of the interval rise with the images that only the new network gets right.
    first = _fewest_wins(images, differing, goal.low)
    last = differing - _fewest_wins(images, differing, -goal.high)
    won = scipy.stats.binom(differing, gain)
    inside = won.cdf(last) - won.cdf(first - 1)
    return float(of_differing @ np.maximum(inside, 0))


def _fewest_wins(images: int, differing: IntArray, limit: float) -> IntArray:
    """Of the images on which the networks differ, the fewest that the new one must win, so that the
    interval begins above a limit; one more than there are if all would not do."""
    low, high = np.full(len(differing), -1), differing + 1
    if np.isinf(limit):
        return low + 1
    while (high - low > 1).any():
        won = (low + high) // 2
        above = _begins_above(images, differing, won, limit)
        low, high = np.where(above, low, won), np.where(above, won, high)
    return high


def _begins_above(images: int, differing: IntArray, won: IntArray, limit: float) -> BoolArray:
    """Tell whether both intervals of a difference of paired shares begin above a limit.

    One is Bonett and Price's. The other is Tango's, which begins above what his score test rejects.
    """
    gain = 2 * won - differing
    centre = gain / (images + 2)
    variance = ((differing + 2) / (images + 2) - centre**2) / (images + 2)
    is_bonett_price = centre - Z95 * np.sqrt(np.maximum(variance, 0)) > limit
    lost = differing - won
    linear = (2 * images - gain) * limit - differing
    constant = -lost * limit * (1 - limit)
    share = (np.sqrt(np.maximum(linear**2 - 8 * images * constant, 0)) - linear) / (4 * images)
    error = gain - images * limit
    noise = images * (2 * share + limit * (1 - limit))
    return np.asarray(is_bonett_price & (error > Z95 * np.sqrt(np.maximum(noise, 0))))


def crossed_power(
    images: int, groups: float, seeds: int, difference: float, spread: Spread, goal: Goal
) -> float:
    """Power of a mean over images, or a difference of two, by Student's t over groups and seeds.

    The study estimates its variances, so the interval is now wide and now narrow. For many draws
    of the variances (chi-squared), `CrossedMean` says how far the interval reaches, and the normal
    distribution how often the difference is far enough.

    Args:
        images: their number.
        groups: the number of groups; of unequal groups, the effective number. Without groups, that
            of the images.
        seeds: of each recipe.
        difference: the true one.
        spread: the true variances.
        goal: of the difference.

    Source: Satterthwaite 1946, as in `metrics.seeds`.

    >>> spread = Spread(0.06, (RecipeSpread(0.005**2), RecipeSpread(0.005**2)))
    >>> [round(crossed_power(5000, 5000, s, 0.02, spread, Goal(low=0)), 2) for s in (3, 6)]
    [0.85, 0.99]
    """
    residual = sum(recipe.residual for recipe in spread.recipes) / seeds
    of_images = (spread.images + residual) / images * spread.design_effect
    between = [(recipe.trainings + recipe.residual / images) / seeds for recipe in spread.recipes]
    shared = [recipe.residual / images / seeds for recipe in spread.recipes]
    deviation = float(np.sqrt(of_images + sum(between) - sum(shared)))
    if not deviation:
        return float(goal.low < difference < goal.high)
    freedoms = [max(groups - 1, LEAST_FREEDOM), *[seeds - 1.0] * len(between)]
    power = 0.0
    for factors in _variance_factors(freedoms):
        own, *others = factors.tolist()
        recipes = [
            SeedVariance(seeds, factor * part, noise, recipe.mean, recipe.bounds)
            for factor, part, noise, recipe in zip(
                others, between, shared, spread.recipes, strict=True
            )
        ]
        if len(recipes) > 1:
            recipes[0] = recipes[0].subtracted()
        crossed = CrossedMean(difference, own * of_images, groups, recipes)
        reaches = (error.reach(1 - TAIL / goal.tests) for error in crossed.errors)
        below, above = crossed.stretched(max(reaches, default=0.0))
        ends = np.array([goal.high - above, goal.low + below]) - difference
        upper, lower = scipy.special.ndtr(ends / deviation)
        power += max(float(upper - lower), 0.0)
    return power / NODES


def _variance_factors(freedoms: Sequence[float]) -> FloatArray:
    """Estimates of variances divided by their true values, `[NODES, k]`, evenly over their joint
    distribution."""
    powers = GOLDEN ** -np.arange(1, len(freedoms) + 1)
    shares = (0.5 + np.arange(1, NODES + 1)[:, None] * powers) % 1
    freedom = np.asarray(freedoms)
    return np.asarray(2 * scipy.special.gammaincinv(freedom / 2, shares) / freedom)


class AreaMoments(NamedTuple):
    """How the placements of a side vary: the share of the other side that an image is ranked
    correctly against."""

    variance: float
    fourth: float
    """The fourth central moment."""


def binormal_moments(area: float) -> AreaMoments:
    """Moments of the placements if the scores of both sides are normal with equal variance.

    Source: Obuchowski 1994, Computing Sample Size for Receiver Operating Characteristic Studies,
    for planning with the binormal model.

    >>> round(binormal_moments(0.5).variance * 12, 4)
    1.0
    """
    apart = np.sqrt(2) * scipy.special.ndtri(area)
    shares = (np.arange(STEPS) + 0.5) / STEPS
    deviations = scipy.special.ndtr(scipy.special.ndtri(shares) + apart) - area
    return AreaMoments(*(float((deviations**power).mean()) for power in (2, 4)))


def area_power(
    images: int,
    prevalence: float,
    truth: float,
    goal: Goal,
    fewest: int = 2,
    draws: int = AREA_DRAWS,
) -> float:
    """Power of a limit for an AUC, if the scores of both sides are normal with equal variance.

    Studies are drawn, and each is judged by its `area_interval`; large ones by a formula.

    Args:
        images: independent images, of either side.
        prevalence: the probability that an image is a positive.
        truth: the true area.
        goal: with one limit.
        fewest: with fewer images of a side, there is no verdict.
        draws: how many studies are drawn; the error is at most 0.5 / √draws.

    >>> round(area_power(360, 1 / 6, 0.9, Goal(low=0.8)), 1)
    0.9
    """
    if np.isinf(goal.low):
        mirrored = Goal(low=1 - goal.high)
        return area_power(images, prevalence, 1 - truth, mirrored, fewest, draws)
    positives = np.random.default_rng(SEED).binomial(images, prevalence, draws)
    is_judged = np.minimum(positives, images - positives) >= fewest
    if images > MOST_DRAWN:
        of_one = normal_area_power(images * prevalence, images * (1 - prevalence), truth, goal)
        return float(is_judged.mean()) * of_one
    apart = np.sqrt(2) * scipy.special.ndtri(truth)
    rng, reached = np.random.default_rng(SEED), 0
    for count in positives[is_judged].tolist():
        positive = np.arange(images) < count
        scores = rng.normal(apart * positive)
        column = unit_column(auc_column(scores, positive), None)
        area = float(placements(scores, positive)[positive].mean())
        pairs, least = disjoint_pairs(positive), least_pairs(positive)
        reached += area_interval(area, column, pairs, least=least)[0] >= goal.low
    return reached / draws


def normal_area_power(positives: float, negatives: float, truth: float, goal: Goal) -> float:
    """Power of a lower limit for an AUC of many images, whose logit is almost normal.

    The interval becomes narrower as the area rises, so the smallest area is sought whose interval
    begins at the limit.

    >>> round(normal_area_power(500, 4500, 0.95, Goal(low=0.93)), 2)
    0.96
    """

    def spread(area: float) -> tuple[float, float]:
        """The standard deviation on the logit scale, and its degrees of freedom."""
        variance, fourth = binormal_moments(area)
        squares = variance * (1 / positives + 1 / negatives)
        fourths = fourth * (1 / positives**3 + 1 / negatives**3)
        freedom = 1 / max(fourths / squares**2 - 1 / (positives + negatives), LEAST_FREEDOM)
        return float(np.sqrt(squares)) / (area * (1 - area)), freedom

    def excess(area: float) -> float:
        deviation, freedom = spread(area)
        reach = deviation * scipy.special.stdtrit(freedom, 1 - TAIL)
        return float(scipy.special.logit(area) - reach - scipy.special.logit(goal.low))

    areas = scipy.special.expit(scipy.special.logit(goal.low) + np.arange(1, 200) / 25)
    needed = next((area for area in areas.tolist() if excess(area) > 0), None)
    if needed is None:
        return 0.0
    from scipy.optimize import brentq  # takes a while to import

    gap = scipy.special.logit(truth) - scipy.special.logit(brentq(excess, goal.low, needed))
    return float(scipy.special.ndtr(gap / spread(truth)[0]))


def smallest_size(
    power_of: Callable[[IntArray], FloatArray], target: float, *, is_smooth: bool = False
) -> int | None:
    """Find the smallest size from which on the power stays at the target; None if there is none.

    Args:
        power_of: from sizes `[k]` to powers; it rises with the size, but maybe in a sawtooth.
        target: the power that is wanted.
        is_smooth: without a sawtooth, for which sizes nearby need no check.

    >>> smallest_size(lambda n: share_power(n, 0.9, Goal(low=0.8)), 0.8)
    113
    """

    def reaches(size: int) -> bool:
        return bool(power_of(np.array([size]))[0] >= target)

    high = 2
    while not reaches(high):
        high *= 2
        if high > MOST_IMAGES:
            return None
    high = bisect_left(range(high), True, lo=high // 2 + 1, key=reaches)
    if is_smooth:
        return high
    # The teeth are about as long as a unit of the rarer side, and lower for larger sizes.
    near = np.arange(max(1, int(high - 4 * high**0.6)), int(high + 8 * high**0.6) + 8)
    short = near[power_of(near) < target]
    return int(short[-1]) + 1 if len(short) else int(near[0])


def smallest_effect(
    power_of: Callable[[float], float], target: float, nearest: float, farthest: float
) -> float | None:
    """Find the effect closest to `nearest` with the wanted power; None if even `farthest` lacks it.

    >>> of_truth = lambda truth: float(share_power(np.array([100]), truth, Goal(low=0.8))[0])
    >>> round(smallest_effect(of_truth, 0.8, 0.8, 1.0), 3)
    0.909
    """
    if not power_of(farthest) >= target:
        return None
    near, far = nearest, farthest
    for _ in range(30):
        middle = (near + far) / 2
        near, far = (near, middle) if power_of(middle) >= target else (middle, far)
    return far
