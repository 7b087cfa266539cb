"""Several seeds of a recipe: what other trainings of it would give, on other images.

All seeds see the same test images, so seeds and images are crossed. Of the mean over S seeds and n
images the variance is

    s²/S + V − r/(nS)

with s² the variance between the seeds' means, V that of the images of the seed-averaged value, and
r the residual mean square of seeds by images: what a seed makes of single images beside the two is
in s² and again in V, so it is taken off once. Source: Searle, Casella and McCulloch 1992, Variance
Components, section 4.7, the two-way crossed model without replication.

It covers other trainings on the same training images, from the same pre-trained weights.
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
# A study for more than this is another study.
MOST_SEEDS, MOST_IMAGES = 1_000, 10**9
# With so many degrees of freedom, Student's t is the normal distribution.
MANY = 1e9
# Variances below it are the rounding of equal numbers.
ROUNDING = 1e-24
# The chance to find a difference that is as large as the one that was found.
POWER = 0.8


class SeedVariance(NamedTuple):
    """How far the mean over the seeds of a recipe depends on which seeds they are.

    Attributes:
        seeds: how many, at least 2.
        between: s²/S, the variance between the seeds' values over their number.
        shared: r/(nS), the part of it that is noise of the images.
    """

    seeds: int
    between: float
    shared: float


class Error(NamedTuple):
    """A variance that is estimated, and how well: by its degrees of freedom."""

    variance: float
    freedom: float

    def reach(self, share: float) -> float:
        """How far Student's quantile of that share lies from 0."""
        return float(scipy.special.stdtrit(min(self.freedom, MANY), share)) * self.variance**0.5


class Crossed(NamedTuple):
    """A number, or the difference of two, over images and over the seeds of recipes.

    Attributes:
        value: the mean.
        images: V, the variance that the images bring, with the seeds as they are.
        n: the number of images.
        recipes: what the seeds of each recipe bring; empty where no side has several seeds.
    """

    value: float
    images: float
    n: int
    recipes: Sequence[SeedVariance]

    @property
    def variance(self) -> float:
        """Of the value; never below that of the seeds alone or of the images alone."""
        between, shared = self._between, sum(each.shared for each in self.recipes)
        return max(between + self.images - shared, between, self.images)

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom of the variance, infinite where it is 0.

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
        """What the interval reaches over: all that varies, and the seeds alone.

        Where three seeds bring most of the variance and are by luck near each other, Satterthwaite
        takes the images for the larger part, with many degrees of freedom, and 92 % of the
        intervals hold the truth. No narrower than that of the seeds alone, they hold it in 94 % or
        more (benchmarks/recipes.py).
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
        """The two-sided p-value of the value 0.

        Where nothing varies, it is 1 for the value 0, and else that of a sign test: all images
        agree.
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
    """What a test would need to tell a difference from 0.

    Attributes:
        seeds: of each recipe, with the images as they are; None where 1,000 would not do, or where
            no recipe has several.
        images: with the seeds as they are; None where 1e9 would not do.
    """

    seeds: int | None
    images: int | None


def seed_variance(values: npt.ArrayLike, replicates: npt.ArrayLike) -> SeedVariance:
    """Find how far a mean over seeds depends on the seeds, for any metric.

    Args:
        values: float `[S]`, the metric of each seed on the images as they are; at least 2.
        replicates: float `[S, B]`, on resamples of the images that the seeds share. How the seeds
            deviate from their mean, resample by resample, stands for the residual mean square.

    >>> seed_variance([0.25, 0.75], [[0.0, 0.5], [0.5, 1.0]])
    SeedVariance(seeds=2, between=0.0625, shared=0.0)
    """
    numbers, rows = np.asarray(values, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or rows.shape[:-1] != numbers.shape:
        raise InputError(
            "a variance over seeds needs values [seeds] of at least two and replicates "
            f"[seeds, resamples], found {list(numbers.shape)} and {list(rows.shape)}"
        )
    seeds = len(numbers)
    rows = rows[:, ~np.isnan(rows).any(axis=0)]
    deviations = rows - rows.mean(axis=0)
    own = float(deviations.var(axis=1).sum()) / (seeds - 1) if rows.shape[1] else 0.0
    between = float(numbers.var(ddof=1))
    return SeedVariance(seeds, _rounded(between) / seeds, _rounded(own) / seeds)


def cross(columns: FloatArray) -> Crossed:
    """Estimate the mean over images and seeds, for a number of each image and seed.

    Args:
        columns: float `[n, S]`; of one seed, its interval is over images alone.

    >>> found = cross(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
    >>> found.value, round(found.variance, 4)
    (0.625, 0.0573)
    """
    recipes = [part] if (part := _seeds_of(columns)) else []
    return Crossed(float(columns.mean()), _of_images(columns.mean(axis=1)), len(columns), recipes)


def cross_difference(first: FloatArray, second: FloatArray) -> Crossed:
    """Estimate second minus first of two recipes whose trainings know nothing of each other.

    Images are paired and seeds are not: seed 0 of one recipe has nothing to do with seed 0 of the
    other. For two numbers of the same trained networks, give `cross` the difference.

    Args:
        first, second: float `[n, S]` each, on the same images; the numbers of seeds may differ. A
            side with one seed is taken as that one trained network.

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
    ends: tuple[float, float], centre: float, n: int, recipes: Sequence[SeedVariance]
) -> tuple[float, float]:
    """Widen a 95 % interval over images to one over images and seeds.

    Each end is as far from the centre as a variance of the images would put it, so an interval that
    is not symmetric stays so.

    Args:
        ends: of the interval over images, of the mean over the seeds.
        centre: the number without what is known of its bias.
        n: the number of images.
        recipes: of each recipe that has several seeds; none changes nothing.

    >>> [round(end, 2) for end in widen((0.4, 0.6), 0.5, 1000, [SeedVariance(3, 0.0026, 0.0)])]
    [0.28, 0.72]
    """
    if not recipes or np.isnan(ends).any():
        return ends
    variances = [((end - centre) / Z95) ** 2 for end in ends]
    both = Crossed(centre, sum(variances) / 2, n, recipes)
    below, above = (
        max(
            Error(both._replace(images=images).variance, both.freedom).reach(TAIL),
            *(each.reach(TAIL) for each in both.errors[1:]),
            0.0,
        )
        for images in variances
    )
    return centre - below, centre + above


def stretch(
    ends: tuple[float, float], centre: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """Stretch an interval over seeds towards the side on which the bounds leave room.

    Near a bound the seeds' numbers are skewed: of networks that are right on 89 %, with a standard
    deviation of 7 points, the bad ones lie farther from the mean than the good ones. Few seeds
    hardly ever show that, and 92 % of the symmetric intervals hold the truth. So the variance is
    taken to go with the number, as that of a share does: with x (1 − x) between two bounds, and
    with x above one. Each end is the farther one of that interval, which is Wilson's with another
    variance, and of the symmetric one; then 94 to 96 % hold it (benchmarks/recipes.py).

    Args:
        ends: of the interval.
        centre: within it.
        bounds: the smallest and largest possible number; unchanged where the lower is infinite or
            the centre lies on one.

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
    """Say how many seeds or images would tell a difference as large as this one from 0.

    In four of five such studies, if the variances are as they were found here; both are known from
    few seeds, so that the numbers are orders of magnitude.

    Args:
        difference: as it was found.
        tests: how many differences are tested beside it, itself among them, at 5 % in all.

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
    """The same with so many seeds of each recipe."""
    own = [(each, each.shared * each.seeds / seeds) for each in found.recipes]
    common = max(found.images - sum(each.shared for each in found.recipes), 0.0)
    recipes = [
        SeedVariance(seeds, _of_seeds_alone(each) * each.seeds / seeds + shared, shared)
        for each, shared in own
    ]
    return found._replace(images=common + sum(shared for _, shared in own), recipes=recipes)


def _with_images(found: Crossed, images: int) -> Crossed:
    """The same with so many images."""
    scale = found.n / images
    recipes = [
        SeedVariance(each.seeds, _of_seeds_alone(each) + scale * each.shared, scale * each.shared)
        for each in found.recipes
    ]
    return found._replace(images=scale * found.images, n=images, recipes=recipes)


def _of_seeds_alone(variance: SeedVariance) -> float:
    return max(variance.between - variance.shared, 0.0)


def _least(most: int, is_enough: Callable[[int], bool]) -> int | None:
    """The smallest number from 2 to `most` that is enough, where all beyond are; else None."""
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
    """The variance of the mean of one number an image."""
    return _rounded(float(column.var(ddof=1))) / len(column) if len(column) > 1 else 0.0


def _seeds_of(columns: FloatArray) -> SeedVariance | None:
    """What the seeds of a recipe bring, `[n, S]`; None for one seed."""
    n, seeds = columns.shape
    if seeds < 2:
        return None
    means = columns.mean(axis=0)
    residuals = columns - columns.mean(axis=1, keepdims=True) - means + columns.mean()
    square = np.square(residuals).sum() / (max(n - 1, 1) * (seeds - 1))
    between = float(means.var(ddof=1))
    return SeedVariance(seeds, _rounded(between) / seeds, _rounded(float(square)) / (n * seeds))


def _rounded(variance: float) -> float:
    """A variance; 0 where it is the rounding of numbers of about 1 that are the same."""
    return variance if variance > ROUNDING else 0.0
