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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import Z95, FloatArray

TAIL = 0.975
# If a test would need more than this, `needed` returns None.
MOST_SEEDS, MOST_IMAGES = 1_000, 10**9
# With so many degrees of freedom, Student's t is the normal distribution.
MANY = 1e9
# Smaller variances are rounding errors of equal numbers.
ROUNDING = 1e-24
# The power of a test that `needed` plans for: the chance to detect a difference of the size found.
POWER = 0.8


class SeedVariance(NamedTuple):
    """How much the mean over the seeds of a recipe depends on the choice of seeds.

    Attributes:
        seeds: the number of seeds, at least 2.
        between: s²/S, the variance between the seeds' values divided by their number.
        shared: r/(nS), the part of `between` that is noise of the images.
    """

    seeds: int
    between: float
    shared: float


class Error(NamedTuple):
    """An estimated variance and its degrees of freedom."""

    variance: float
    freedom: float

    def reach(self, share: float) -> float:
        """Student's quantile of `share`, times the standard deviation."""
        return float(scipy.special.stdtrit(min(self.freedom, MANY), share)) * self.variance**0.5


class Crossed(NamedTuple):
    """A value, or the difference of two, with its variances over images and over seeds.

    Attributes:
        value: the mean.
        images: V, the variance over images, with these seeds.
        n: the number of images.
        recipes: the variance over the seeds of each recipe; empty if no side has several seeds.
    """

    value: float
    images: float
    n: int
    recipes: Sequence[SeedVariance]

    @property
    def variance(self) -> float:
        """The variance of the value; never below that of the seeds or of the images alone."""
        between, shared = self._between, sum(each.shared for each in self.recipes)
        return max(between + self.images - shared, between, self.images)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance; infinite if the variance is 0.

        Source: Satterthwaite 1946, An Approximate Distribution of Estimates of Variance Components;
        for two recipes, Welch 1947.
        """
        of_images = max(self.n - 1, 1)
        pieces = self.images**2 / of_images + sum(
            each.between**2 / (each.seeds - 1) + each.shared**2 / ((each.seeds - 1) * of_images)
            for each in self.recipes
        )
        return self.variance**2 / pieces if pieces > 0 else np.inf

    @property
    def errors(self) -> list[Error]:
        """The errors that the interval must cover: that of seeds and images, and of seeds alone.

        If three seeds cause most of the variance but are close together by chance, Satterthwaite's
        formula attributes most of it to the images, with many degrees of freedom. Then only 92 % of
        the intervals cover the true value. If the interval is never narrower than that of the seeds
        alone, 94 % or more do (benchmarks/recipes.py).
        """
        pieces = sum(each.between**2 / (each.seeds - 1) for each in self.recipes)
        of_seeds = self._between**2 / pieces if pieces > 0 else np.inf
        both = Error(self.variance, self.freedom), Error(self._between, of_seeds)
        return [each for each in both if each.variance > 0]

    @property
    def reach(self) -> float:
        """Half the width of the 95 % interval."""
        return max((each.reach(TAIL) for each in self.errors), default=0.0)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, by Student's t."""
        return self.value - self.reach, self.value + self.reach

    @property
    def p(self) -> float:
        """The two-sided p-value of the hypothesis that the true value is 0.

        If nothing varies, it is 1 for a value of 0, and otherwise that of a sign test in which all
        images agree.
        """
        if not self.errors:
            return 1.0 if self.value == 0 else min(1.0, 2 * 0.5**self.n)
        tails = (
            scipy.special.stdtr(min(each.freedom, MANY), -abs(self.value) / each.variance**0.5)
            for each in self.errors
        )
        return min(1.0, max(2 * float(tail) for tail in tails))

    @property
    def _between(self) -> float:
        return sum(each.between for each in self.recipes)


class Needed(NamedTuple):
    """How many seeds or images a test would need to find that a difference is not 0.

    Attributes:
        seeds: number of seeds per recipe, with the same images; None if 1,000 are not enough, or if
            no recipe has several seeds.
        images: number of images, with the same seeds; None if 1e9 are not enough.
    """

    seeds: int | None
    images: int | None


def seed_variance(values: npt.ArrayLike, replicates: npt.ArrayLike) -> SeedVariance:
    """Estimate how much a mean over seeds depends on the seeds, for any metric.

    Args:
        values: float `[S]`, the metric of each seed on the original images; at least 2 seeds.
        replicates: float `[S, B]`, on resamples of the images that the seeds share. The deviations
            of the seeds from their mean on each resample estimate the residual mean square.

    >>> seed_variance([0.25, 0.75], [[0.0, 0.5], [0.5, 1.0]])
    SeedVariance(seeds=2, between=0.0625, shared=0.0)
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
    own = float(deviations.var(axis=1).sum()) / (seeds - 1) if rows.shape[1] else 0.0
    between = float(numbers.var(ddof=1))
    return SeedVariance(seeds, _rounded(between) / seeds, _rounded(own) / seeds)


def cross(columns: FloatArray) -> Crossed:
    """Estimate the mean over images and seeds of a number per image and seed.

    Args:
        columns: float `[n, S]`; with one seed, the interval is over images only.

    >>> found = cross(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    >>> found.value, round(found.variance, 4)
    (0.625, 0.0573)
    """
    recipes = [part] if (part := _seeds_of(columns)) else []
    return Crossed(float(columns.mean()), _of_images(columns.mean(axis=1)), len(columns), recipes)


def cross_difference(first: FloatArray, second: FloatArray) -> Crossed:
    """Estimate second minus first for two recipes with independent trainings.

    Images are paired, and seeds are not: seed 0 of one recipe is unrelated to seed 0 of the other.
    For two values of the same trained networks, call `cross` with the difference.

    Args:
        first, second: float `[n, S]` each, on the same images; the numbers of seeds may differ. A
            side with one seed is treated as one fixed trained network.

    >>> cross_difference(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [1.0]])).value
    0.5
    """
    if len(first) != len(second):
        raise InputError(
            f"a difference needs the same images on both sides, found {len(first)} and "
            f"{len(second)}"
        )
    gaps = second.mean(axis=1) - first.mean(axis=1)
    recipes = [part for each in (first, second) if (part := _seeds_of(each))]
    return Crossed(float(gaps.mean()), _of_images(gaps), len(first), recipes)


def widen(
    ends: tuple[float, float],
    centre: float,
    n: int,
    recipes: Sequence[SeedVariance],
    tests: int = 1,
) -> tuple[float, float]:
    """Widen a 95 % interval over images to one over images and seeds.

    Each end gets its own variance over images, from its distance to the centre, so an asymmetric
    interval stays asymmetric.

    Args:
        ends: the interval over images of the mean over the seeds.
        centre: the value minus its known bias.
        n: the number of images.
        recipes: one entry per recipe with several seeds; without entries nothing changes.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

    >>> [round(end, 2) for end in widen((0.4, 0.6), 0.5, 1000, [SeedVariance(3, 0.0026, 0.0)])]
    [0.28, 0.72]
    """
    if not recipes or np.isnan(ends).any():
        return ends
    tail = 1 - (1 - TAIL) / tests
    variances = [((end - centre) / Z95) ** 2 for end in ends]
    both = Crossed(centre, sum(variances) / 2, n, recipes)
    below, above = (
        max(
            Error(both._replace(images=images).variance, both.freedom).reach(tail),
            *(each.reach(tail) for each in both.errors[1:]),
            0.0,
        )
        for images in variances
    )
    return centre - below, centre + above


def stretch(
    ends: tuple[float, float], centre: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Stretch an interval over seeds away from a bound that is close.

    Near a bound the seeds' values are skewed. For example, if networks are right on 89 % of images
    with a standard deviation of 7 points, bad ones are farther from the mean than good ones. A few
    seeds rarely show this skewness, and only 92 % of the symmetric intervals cover the true value.
    So the variance is assumed to depend on the value x as for a share: proportional to x (1 − x)
    between two bounds, and to x above a single bound. That gives Wilson's interval with another
    variance. Each end is the outer one of this and of the symmetric interval; then 94 to 96 % cover
    the true value (benchmarks/recipes.py).

    Args:
        ends: the ends of the interval.
        centre: a value inside the interval.
        bounds: the smallest and largest possible value. The interval is not changed if the lower
            bound is infinite or if the centre is at a bound.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.

    >>> [round(end, 3) for end in stretch((0.7, 1.1), 0.9, (0.0, 1.0))]
    [0.57, 1.1]
    """
    lowest, highest = bounds
    if np.isinf(lowest) or not lowest < centre < highest:
        return ends
    unit = highest - lowest if np.isfinite(highest) else 1.0
    share = (centre - lowest) / unit
    bend = 1.0 if np.isfinite(highest) else 0.0  # of the variance, x (1 - bend x)
    found = []
    for end, side in zip(ends, (-1, 1), strict=True):
        # (x − share)² = reach² x (1 − bend x) / (share (1 − bend share)), solved for x.
        slope = ((end - centre) / unit) ** 2 / (share * (1 - bend * share))
        root = np.sqrt(slope * (4 * share * (1 - bend * share) + slope))
        found.append(lowest + unit * (2 * share + slope + side * root) / (2 * (1 + bend * slope)))
    return min(ends[0], float(found[0])), max(ends[1], float(found[1]))


def needed(difference: Crossed, tests: int = 1) -> Needed:
    """Estimate how many seeds or images are needed to find a difference of this size.

    With so many, 80 % of such studies would find it, if the variances are those found here. The
    variances are estimated from few seeds, so the results are only orders of magnitude.

    Args:
        difference: the difference that was found.
        tests: how many differences are tested together, including this one, at 5 % in total.

    >>> needed(Crossed(0.01, 2e-6, 1000, [SeedVariance(3, 5e-5, 0.0)] * 2))
    Needed(seeds=29, images=None)
    """
    tail = 1 - (1 - TAIL) / tests
    return Needed(
        _least(MOST_SEEDS, lambda seeds: _is_told(_with_seeds(difference, seeds), tail))
        if difference.recipes
        else None,
        _least(MOST_IMAGES, lambda images: _is_told(_with_images(difference, images), tail)),
    )


def _with_seeds(found: Crossed, seeds: int) -> Crossed:
    """The same difference with `seeds` seeds per recipe."""
    own = [(each, each.shared * each.seeds / seeds) for each in found.recipes]
    common = max(found.images - sum(each.shared for each in found.recipes), 0.0)
    recipes = [
        SeedVariance(seeds, _of_seeds_alone(each) * each.seeds / seeds + shared, shared)
        for each, shared in own
    ]
    return found._replace(images=common + sum(shared for _, shared in own), recipes=recipes)


def _with_images(found: Crossed, images: int) -> Crossed:
    """The same difference with `images` images."""
    scale = found.n / images
    recipes = [
        SeedVariance(each.seeds, _of_seeds_alone(each) + scale * each.shared, scale * each.shared)
        for each in found.recipes
    ]
    return found._replace(images=scale * found.images, n=images, recipes=recipes)


def _of_seeds_alone(variance: SeedVariance) -> float:
    return max(variance.between - variance.shared, 0.0)


def _least(most: int, is_enough: Callable[[int], bool]) -> int | None:
    """The smallest number from 2 to `most` that is enough, if all larger ones are; else None."""
    if not is_enough(most):
        return None
    few, enough = 1, most
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if is_enough(middle) else (middle, enough)
    return enough


def _is_told(found: Crossed, tail: float) -> bool:
    return abs(found.value) > 0 and all(
        abs(found.value) >= each.reach(tail) + each.reach(POWER) for each in found.errors
    )


def _of_images(column: FloatArray) -> float:
    """The variance of the mean of a per-image column."""
    return _rounded(float(column.var(ddof=1))) / len(column) if len(column) > 1 else 0.0


def _seeds_of(columns: FloatArray) -> SeedVariance | None:
    """The variance over the seeds of a recipe, from columns `[n, S]`; None for one seed."""
    n, seeds = columns.shape
    if seeds < 2:
        return None
    means = columns.mean(axis=0)
    residuals = columns - columns.mean(axis=1, keepdims=True) - means + columns.mean()
    square = np.square(residuals).sum() / (max(n - 1, 1) * (seeds - 1))
    between = float(means.var(ddof=1))
    return SeedVariance(seeds, _rounded(between) / seeds, _rounded(float(square)) / (n * seeds))


def _rounded(variance: float) -> float:
    """The variance, or 0 if it is only the rounding error of equal numbers of about 1."""
    return variance if variance > ROUNDING else 0.0
