"""Intervals over several seeds of a recipe: they cover other trainings of it and other images.

All seeds see the same test images, so seeds and images are crossed. The mean over S seeds and n
images has the variance

    s²/S + V − r/(nS)

Here s² is the variance between the means of the seeds; V is the variance over images of the
seed-averaged value; and r is the residual mean square of seeds by images. The residual is contained
in s² and again in V, so it is subtracted once. Source: Searle, Casella and McCulloch 1992, Variance
Components, section 4.7, the two-way crossed model without replication.

The intervals cover other trainings on the same training images, from the same pre-trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import TAIL, Z95, Ends, FloatArray
from fairweather.metrics.grouping import Grouping

# With so few degrees of freedom, nothing is excluded.
LEAST_FREEDOM = 1e-3
# With so many degrees of freedom, Student's t is the normal distribution.
NORMAL_FREEDOM = 1e9
# Smaller variances are rounding errors of equal numbers.
NEGLIGIBLE_VARIANCE = 1e-24
UNBOUNDED = (-np.inf, np.inf)
# A seed is called far out where normal seeds of a recipe have one as far out this rarely.
FALSE_ALARM_RATE = 0.01


class SeedVariance(NamedTuple):
    """How much the mean over the seeds of a recipe depends on the choice of seeds."""

    seeds: int
    """The number of seeds, at least 2."""

    between: float
    """S²/S, the variance between the seeds' values divided by their number."""

    shared: float
    """R/(nS), the part of `between` that is noise of the images."""

    mean: float = 0.0
    """The mean over the seeds; negative in a difference, where it is subtracted."""

    bounds: Ends = UNBOUNDED
    """The smallest and largest value that a seed may have, with the same sign."""

    def subtracted(self) -> SeedVariance:
        """The same of a recipe that is subtracted."""
        lowest, highest = self.bounds
        return self._replace(mean=-self.mean, bounds=(-highest, -lowest))


class ErrorTerm(NamedTuple):
    """An estimated variance and its degrees of freedom."""

    variance: float
    freedom: float

    def reach(self, share: float) -> float:
        """Student's quantile of `share`, times the standard deviation."""
        quantile = float(scipy.special.stdtrit(min(self.freedom, NORMAL_FREEDOM), share))
        return quantile * self.variance**0.5

    def tail(self, reach: float) -> float:
        """Student's probability of an error below minus `reach`."""
        freedom = min(self.freedom, NORMAL_FREEDOM)
        return float(scipy.special.stdtr(freedom, -reach / self.variance**0.5))


class CrossedMean(NamedTuple):
    """A value, or the difference of two, with its variances over images and over seeds."""

    value: float
    """The mean."""

    images: float
    """V, the variance over images, with these seeds."""

    n: float
    """The number of images, or the effective number of their groups."""

    recipes: Sequence[SeedVariance]
    """The variance over the seeds of each recipe; empty if no side has several seeds."""

    @property
    def variance(self) -> float:
        """The variance of the value; never below that of the seeds or of the images alone."""
        shared = sum(recipe.shared for recipe in self.recipes)
        return max(self._between + self.images - shared, self._between, self.images)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance; infinite if the variance is 0.

        Source: Satterthwaite 1946, An Approximate Distribution of Estimates of Variance Components;
        for two recipes, Welch 1947.
        """
        of_images = max(self.n - 1, LEAST_FREEDOM)
        pieces = self.images**2 / of_images + sum(
            between**2 / (seeds - 1) + shared**2 / ((seeds - 1) * of_images)
            for seeds, between, shared, *_ in self.recipes
        )
        return self.variance**2 / pieces if pieces > 0 else np.inf

    @property
    def errors(self) -> list[ErrorTerm]:
        """The errors that the interval must cover: that of seeds and images, and of seeds alone.

        If three seeds cause most of the variance but are close together by chance, Satterthwaite's
        formula attributes most of it to the images, with many degrees of freedom. Then only 92 % of
        the intervals cover the true value. If the interval is never narrower than that of the seeds
        alone, 94 % or more do (benchmarks/recipes.py).
        """
        of_seeds = ErrorTerm(self._between, self._freedom_of_seeds)
        both = ErrorTerm(self.variance, self.freedom), of_seeds
        return [error for error in both if error.variance > 0]

    @property
    def reach(self) -> float:
        """Half the width of the 95 % interval, before it is stretched."""
        return max((error.reach(1 - TAIL) for error in self.errors), default=0.0)

    @property
    def interval(self) -> Ends:
        """The 95 % interval, by Student's t, stretched away from bounds that are close."""
        below, above = self.stretched(self.reach)
        return self.value - below, self.value + above

    @property
    def p(self) -> float:
        """The two-sided p-value of the hypothesis that the true value is 0.

        It is below 5 % if and only if the 95 % interval excludes 0: both are of one distribution,
        unless nothing varies. Then `interval` has no width. The p-value is 1 for a value of 0, and
        otherwise that of a sign test in which all images agree.
        """
        if not self.errors:
            return 1.0 if self.value == 0 else min(1.0, 2 * 0.5**self.n)
        reach = self._reach_to_zero()
        return min(1.0, max(2 * error.tail(reach) for error in self.errors))

    def stretched(self, reach: float) -> Ends:
        """How far an interval reaches below and above, if it would reach so far without bounds.

        Each recipe's part of the variance is made larger, as by `stretch_near_bounds`.
        """
        if not reach:
            return 0.0, 0.0
        below = above = reach**2
        for _, between, _, mean, bounds in self.recipes:
            spread = reach * (between / self.variance) ** 0.5
            low, high = stretch_near_bounds((mean - spread, mean + spread), mean, bounds)
            below += max((mean - low) ** 2 - spread**2, 0.0)
            above += max((high - mean) ** 2 - spread**2, 0.0)
        return below**0.5, above**0.5

    def _reach_to_zero(self) -> float:
        """The reach with which an interval ends at 0."""
        from scipy.optimize import brentq  # takes a while to import

        distance, side = abs(self.value), 0 if self.value > 0 else 1
        if self.stretched(distance)[side] <= distance:
            return distance
        return float(brentq(lambda reach: self.stretched(reach)[side] - distance, 0, distance))

    @property
    def _between(self) -> float:
        return sum(recipe.between for recipe in self.recipes)

    @property
    def _freedom_of_seeds(self) -> float:
        """Welch's degrees of freedom of the differences between the trainings themselves.

        Noise of the images is in `between` of both recipes, and would add degrees of freedom where
        the trainings of only one recipe differ. It counts only where no trainings differ.
        """
        for noise in (1, 0):
            parts = [max(recipe.between - noise * recipe.shared, 0.0) for recipe in self.recipes]
            pairs = zip(parts, self.recipes, strict=True)
            pieces = sum(part**2 / (recipe.seeds - 1) for part, recipe in pairs)
            if pieces > 0:
                return sum(parts) ** 2 / pieces
        return np.inf


def seed_variance(values: ArrayLike, replicates: ArrayLike) -> SeedVariance:
    """Estimate how much a mean over seeds depends on the seeds, for any metric.

    Args:
        values: float `[S]`, the metric of each seed on the original images; at least 2 seeds.
        replicates: float `[S, B]`, on resamples of the images that the seeds share. The deviations
            of the seeds from their mean on each resample estimate the residual mean square.

    >>> seed_variance([0.25, 0.75], [[0.0, 0.5], [0.5, 1.0]])[:4]
    (2, 0.0625, 0.0, 0.5)
    """
    numbers, rows = np.asarray(values, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or rows.shape[:-1] != numbers.shape:
        raise InputError(
            "a variance over seeds needs values [seeds] with at least two seeds and replicates "
            f"[seeds, resamples], found {list(numbers.shape)} and {list(rows.shape)}"
        )
    seeds = len(numbers)
    rows = rows[:, ~np.isnan(rows).any(axis=0)]
    deviations = rows - rows.mean(axis=0)
    shared = float(deviations.var(axis=1).sum()) / (seeds - 1) if rows.shape[1] else 0.0
    between = float(numbers.var(ddof=1))
    mean = float(numbers.mean())
    return SeedVariance(seeds, _significant(between) / seeds, _significant(shared) / seeds, mean)


def crossed_mean(columns: FloatArray, grouping: Grouping | None = None) -> CrossedMean:
    """Estimate the mean over images and seeds of a number per image and seed.

    Args:
        columns: float `[n, S]`; with one seed, the interval is over images only.
        grouping: which images belong together. The variance over images is then the jackknife's
            over groups, with one degree of freedom less than `Grouping.effective`.

    Source: MacKinnon, Nielsen and Webb 2023, Cluster-Robust Inference: A Guide to Empirical
    Practice, sections 2 and 4, for the jackknife; Kish 1965, Survey Sampling, section 11.7, for the
    effective number.

    >>> found = crossed_mean(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    >>> found.value, round(found.variance, 4)
    (0.625, 0.0573)
    """
    units, worth = _independent_units(columns, grouping)
    images = _image_variance(units.mean(axis=1))
    return CrossedMean(float(units.mean()), images, worth, _seed_variances(units))


def crossed_difference(
    first: FloatArray,
    second: FloatArray,
    grouping: Grouping | None = None,
    bounds: Ends = UNBOUNDED,
) -> CrossedMean:
    """Estimate second minus first for two recipes with independent trainings.

    Images are paired, and seeds are not: seed 0 of one recipe is unrelated to seed 0 of the other.
    For two values of the same trained networks, call `crossed_mean` with the difference.

    Args:
        first, second: float `[n, S]` each, on the same images; the numbers of seeds may differ. A
            side with one seed is treated as one fixed trained network.
        grouping: as in `crossed_mean`.
        bounds: the smallest and largest possible value, as in `stretch_near_bounds`.

    >>> crossed_difference(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [1.0]])).value
    0.5
    """
    if len(first) != len(second):
        raise InputError(
            f"a difference needs the same images on both sides, found {len(first)} and "
            f"{len(second)}"
        )
    before, worth = _independent_units(first, grouping)
    after, _ = _independent_units(second, grouping)
    gaps = after.mean(axis=1) - before.mean(axis=1)
    recipes = [part.subtracted() for part in _seed_variances(before, bounds)]
    recipes += _seed_variances(after, bounds)
    return CrossedMean(float(gaps.mean()), _image_variance(gaps), worth, recipes)


def stack_seeds(streams: Sequence[NDArray[Any]]) -> FloatArray:
    """Numbers of each image, `[n, S]`, from those of the streams `[streams, n]` of each seed.

    A model that does not adapt has one stream. Several seeds have the means over their streams. The
    streams of a single seed stand in the place of seeds, because they vary in the same way.

    >>> stack_seeds([np.eye(2)]).shape, stack_seeds([np.eye(2)] * 3).tolist()
    ((2, 2), [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    """
    if len(streams) == 1:
        return streams[0].T.astype(np.float64)
    return np.stack([seed.mean(axis=0, dtype=np.float64) for seed in streams], axis=1)


def find_outlying_seed(columns: FloatArray, grouping: Grouping | None = None) -> int | None:
    """Find a seed that lies far from all others of its recipe, which normal seeds rarely do.

    The distance to the mean of the other seeds is divided by their standard deviation, but at least
    by the noise of the images. With S normal seeds, this is Student's t with S - 2 degrees of
    freedom, times sqrt(1 + 1 / (S - 1)). A seed is far out where its p-value times S is below 1 %,
    so that at most 1 % of recipes with normal seeds have one.

    Args:
        columns: float `[n, S]`; with fewer than three seeds there is none.
        grouping: which images belong together.

    Returns:
        The place of the seed, or None.

    Source: Grubbs 1950, Sample Criteria for Testing Outlying Observations; this is his test.

    >>> columns = np.arange(400)[:, None] < np.array([380, 381, 378, 383, 260])
    >>> find_outlying_seed(columns.astype(float))
    4
    """
    means, seeds = columns.mean(axis=0), columns.shape[1]
    if seeds < 3:
        return None
    [recipe] = _seed_variances(_independent_units(columns, grouping)[0])
    place = int(np.abs(means - means.mean()).argmax())
    others = np.delete(means, place)
    spread = max(_significant(float(others.var(ddof=1))), recipe.shared * seeds)
    variance = spread * seeds / (seeds - 1)
    if not variance:
        return None
    deviate = abs(float(means[place] - others.mean())) / variance**0.5
    p = 2 * seeds * float(scipy.special.stdtr(seeds - 2, -deviate))
    return place if p < FALSE_ALARM_RATE else None


def widen_for_seeds(
    ends: Ends, centre: float, n: int, recipes: Sequence[SeedVariance], tests: float = 1
) -> Ends:
    """Widen a 95 % interval over images to one over images and seeds.

    Each end gets its own variance over images, from its distance to the centre, so an asymmetric
    interval stays asymmetric. If the recipes have bounds, `stretch_near_bounds` moves the ends of
    their parts.

    Args:
        ends: the interval over images of the mean over the seeds.
        centre: the value minus its known bias.
        n: the number of images.
        recipes: one entry per recipe with several seeds; without entries nothing changes.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

    >>> recipes = [SeedVariance(3, 0.0026, 0.0)]
    >>> [round(end, 2) for end in widen_for_seeds((0.4, 0.6), 0.5, 1000, recipes)]
    [0.28, 0.72]
    """
    if not recipes or np.isnan(ends).any():
        return ends
    tail = 1 - TAIL / tests
    variances = [((end - centre) / Z95) ** 2 for end in ends]
    both = CrossedMean(centre, sum(variances) / 2, n, recipes)
    of_seeds = max((error.reach(tail) for error in both.errors[1:]), default=0.0)

    def reach(images: float) -> Ends:
        side = both._replace(images=images)
        if not side.variance > 0:
            return 0.0, 0.0
        return side.stretched(max(ErrorTerm(side.variance, both.freedom).reach(tail), of_seeds))

    below, above = map(reach, variances)
    return centre - below[0], centre + above[1]


def stretch_near_bounds(ends: Ends, centre: float, bounds: Ends) -> Ends:
    """Stretch an interval over seeds away from a bound that is close.

    Near a bound the seeds' values are skewed. If networks are right on 89 % of images with a
    standard deviation of 7 points, bad ones are farther from the mean than good ones. A few seeds
    rarely show this skewness, and only 92 % of the symmetric intervals cover the true value. So the
    variance is assumed to depend on the value x as for a share: proportional to x (1 − x) between
    two bounds, and to x above a single bound. That gives Wilson's interval with another variance.
    Each end is the outer one of this and of the symmetric interval; then 94 to 96 % cover the true
    value (benchmarks/recipes.py).

    Args:
        ends: the ends of the interval.
        centre: a value inside the interval.
        bounds: the smallest and largest possible value. The interval is not changed if the lower
            bound is infinite or if the centre is at a bound.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    >>> [round(end, 3) for end in stretch_near_bounds((0.7, 1.1), 0.9, (0.0, 1.0))]
    [0.57, 1.1]
    """
    lowest, highest = bounds
    if np.isinf(lowest) or not lowest < centre < highest:
        return ends
    unit = highest - lowest if np.isfinite(highest) else 1.0
    share = (centre - lowest) / unit
    bend = 1.0 if np.isfinite(highest) else 0.0  # of the variance, x (1 - bend x)
    stretched = []
    for end, side in zip(ends, (-1, 1), strict=True):
        # (x − share)² = reach² x (1 − bend x) / (share (1 − bend share)), solved for x.
        slope = ((end - centre) / unit) ** 2 / (share * (1 - bend * share))
        root = np.sqrt(slope * (4 * share * (1 - bend * share) + slope))
        end = lowest + unit * (2 * share + slope + side * root) / (2 * (1 + bend * slope))
        stretched.append(float(end))
    return min(ends[0], stretched[0]), max(ends[1], stretched[1])


def _independent_units(columns: FloatArray, grouping: Grouping | None) -> tuple[FloatArray, float]:
    """The columns of independent units, images or groups, and how many they are worth."""
    if grouping is None:
        return columns, len(columns)
    return grouping.influences(columns), grouping.effective


def _image_variance(column: FloatArray) -> float:
    """The variance of the mean of a per-image column."""
    return _significant(float(column.var(ddof=1))) / len(column) if len(column) > 1 else 0.0


def _seed_variances(columns: FloatArray, bounds: Ends = UNBOUNDED) -> list[SeedVariance]:
    """The variance over the seeds of a recipe, from columns `[n, S]`; empty for one seed."""
    n, seeds = columns.shape
    if seeds < 2:
        return []
    means = columns.mean(axis=0)
    residuals = columns - columns.mean(axis=1, keepdims=True) - means + columns.mean()
    square = np.square(residuals).sum() / (max(n - 1, 1) * (seeds - 1))
    between = _significant(float(means.var(ddof=1))) / seeds
    shared = _significant(float(square)) / (n * seeds)
    return [SeedVariance(seeds, between, shared, float(means.mean()), bounds)]


def _significant(variance: float) -> float:
    """The variance, or 0 if it is only the rounding error of equal numbers of about 1."""
    return variance if variance > NEGLIGIBLE_VARIANCE else 0.0
