"""Images that belong together, such as all images of one patient.

Images of one patient resemble each other, so that 1,000 images of 100 patients say less than 1,000
images of 1,000 patients. Where groups are known, they take the place of images: whole groups
are resampled, and tests compare groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import (
    TAIL,
    Z95,
    BoolArray,
    Ends,
    FloatArray,
    IntArray,
    LabelArray,
    bent_interval,
    clopper_pearson,
)
from fairweather.types.measurement import Groups, Score

Weigh = Literal["groups", "images"]  # what has equal weight
WEIGH: tuple[Weigh, ...] = get_args(Weigh)
# With fewer groups, 95 % intervals are marked: see benchmarks/groups.py for what they cover.
FEW_GROUPS = 20
# A p-value takes this many random subsets. With many units (images or groups) it takes fewer, so
# that subsets times units stay below `MOST_UNITS_DRAWN`, but never fewer than the second number.
MOST_SUBSETS, FEWEST_SUBSETS, MOST_UNITS_DRAWN = 9_999, 999, 2 * 10**7
MOST_TABLES = 10**6  # that an exact test counts
ENOUGH_AS_FAR = 50  # draws as far as the observed one, after which no more are needed
MEMBERS_AT_ONCE = 10**5  # members of random subsets that are in memory at once
NEGLIGIBLE = 1e-9  # a difference this small may come from rounding


@dataclass(frozen=True)
class Grouping:
    """Which group each image belongs to.

    >>> grouping = Grouping.from_names(["ann", "bob", "ann"])
    >>> grouping.numbers.tolist(), grouping.count
    ([0, 1, 0], 2)
    """

    numbers: IntArray
    """int64 `[n]`, the number of each image's group, from 0 to `count` - 1; each number occurs."""

    def __post_init__(self) -> None:
        if (
            self.numbers.ndim != 1
            or not len(self.numbers)
            or not np.issubdtype(self.numbers.dtype, np.integer)
        ):
            raise InputError(
                "groups must be whole numbers [n] and not empty, found "
                f"{self.numbers.dtype} {list(self.numbers.shape)}"
            )
        if self.numbers.min() < 0 or not np.bincount(self.numbers).all():
            raise InputError(
                "groups must be numbered from 0 without a gap, found "
                f"{np.unique(self.numbers)[:5].tolist()}"
            )

    @staticmethod
    def from_names(names: ArrayLike) -> Grouping:
        """Number the groups in the order in which their names first occur.

        Args:
            names: `[n]`, texts or numbers; equal names are one group.
        """
        _, first, sorted_number = np.unique(
            np.asarray(names), return_index=True, return_inverse=True
        )
        by_first = np.empty(len(first), dtype=np.int64)
        by_first[np.argsort(first)] = np.arange(len(first))
        return Grouping(by_first[sorted_number.ravel()])

    @cached_property
    def sizes(self) -> IntArray:
        """The number of images of each group, `[count]`."""
        return np.bincount(self.numbers)

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(self.sizes)

    def select(self, places: LabelArray) -> Grouping:
        """Keep some images; groups without one are dropped, and the others numbered again.

        >>> Grouping(np.array([0, 1, 2, 1])).select(np.array([1, 2, 3])).numbers.tolist()
        [0, 1, 0]
        """
        return Grouping.from_names(self.numbers[places])

    def sums(self, columns: FloatArray) -> FloatArray:
        """Sum columns `[n, k]` over the images of each group, `[count, k]`."""
        totals = (np.bincount(self.numbers, column, self.count) for column in columns.T)
        return np.stack(list(totals), axis=1)

    def widening(self) -> float:
        """The factor that widens replicates to a 95 % interval; infinite for one group.

        The variance of resampled groups is too small by (count - 1) / count. It has only count - 1
        degrees of freedom, so Student's t replaces the normal distribution. For a share, the result
        equals that of Korn and Graubard's effective number of images.

        Source: Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with
        Clustered Errors, section 2, for both; Korn and Graubard 1998, Confidence Intervals for
        Proportions with Small Expected Number of Positive Counts, for shares.

        >>> round(Grouping(np.arange(20)).widening(), 3)
        1.096
        """
        return widening(self.count)

    def evenness(self, chosen: BoolArray) -> float:
        """Say how evenly some images are spread over the groups, in (0, 1].

        It is 1 if they are spread as by chance or more evenly. Among many groups, it is about
        1 / k if each group with any of the images has k of them.

        Args:
            chosen: bool `[n]`.

        >>> grouping = Grouping(np.arange(300) // 3)
        >>> [round(grouping.evenness(np.isin(grouping.numbers, range(k))), 2) for k in (2, 100)]
        [0.34, 1.0]
        """
        images, n = np.bincount(self.numbers, chosen, self.count), len(self.numbers)
        count = images.sum()
        if count < 2:
            return 1.0
        # The probability that two random images are of one group.
        same_group = float((self.sizes * (self.sizes - 1)).sum()) / (n * (n - 1))
        expected_squares = count + count * (count - 1) * same_group
        return min(1.0, float(expected_squares / np.square(images).sum()))

    @property
    def effective(self) -> float:
        """The effective number of groups, as if all had one size: (sum n)^2 / sum n^2.

        Source: Kish 1965, Survey Sampling, section 11.7.

        >>> Grouping(np.array([0, 0, 0, 0, 1, 2, 3, 4])).effective
        3.2
        """
        return float(len(self.numbers) ** 2 / np.square(self.sizes).sum())

    @property
    def equal_weights(self) -> FloatArray:
        """Weights of the images that give each group the same total, `[n]`, with a mean of 1.

        >>> Grouping(np.array([0, 1, 1])).equal_weights.tolist()
        [1.5, 0.75, 0.75]
        """
        return len(self.numbers) / (self.count * self.sizes[self.numbers])

    def influences(self, columns: FloatArray) -> FloatArray:
        """Turn columns of images into one row for each group, its jackknife pseudo-values.

        Their mean is the mean of the images, and their variance the one that the jackknife finds. A
        large group pulls the mean of all images towards its own, and so seems to differ little. Its
        pseudo-value is the mean of all, plus the number of other groups times how far the group
        moves the mean of the others. Methods for independent images then work on groups.

        Args:
            columns: float `[n, k]`.

        Returns:
            float64 `[count, k]`.

        Source: Efron and Stein 1981, The Jackknife Estimate of Variance; Tukey's pseudo-values,
        moved so that their mean is that of the images.

        >>> grouping, column = Grouping(np.array([0, 1, 1])), np.array([[1.0], [0.0], [1.0]])
        >>> grouping.influences(column).ravel().round(3).tolist()
        [0.917, 0.417]
        """
        means = columns.mean(axis=0)
        excess = self.sums(np.asarray(columns - means, dtype=np.float64))
        others = np.maximum(len(self.numbers) - self.sizes, 1)[:, None]
        moves = (self.count - 1) * excess / others
        return np.asarray(means + moves - moves.mean(axis=0))


class EffectiveSample(NamedTuple):
    """How many independent images the images of groups are worth, and how many are hits."""

    images: float
    hits: float


def independent_images(hits: ArrayLike, grouping: Grouping) -> float:
    """How many independent images would give the share of hits as much variance as the groups do.

    The variance of the groups is the jackknife's. The number is at most that of the images. If
    all images are hits or none is, it is the effective number of groups.

    >>> independent_images([True, True, False, False], Grouping(np.array([0, 0, 1, 1])))
    1.0
    """
    column = np.asarray(hits, dtype=np.float64)
    of_one_image = float(column.var())
    if not of_one_image or grouping.count < 2:
        return grouping.effective
    of_share = float(grouping.influences(column[:, None]).var(ddof=1)) / grouping.count
    if of_share <= NEGLIGIBLE * of_one_image:
        return float(len(column))
    return min(of_one_image / of_share, len(column))


def effective_sample(hits: ArrayLike, grouping: Grouping) -> EffectiveSample:
    """How many independent images would give an interval of the share that is as wide.

    It is the number of `independent_images`, reduced because a variance from few groups is itself
    uncertain. If all images are hits or none is, nothing is reduced.

    Args:
        hits: bool `[n]`, which images count.
        grouping: of these images.

    Source: Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data.

    >>> found = effective_sample([True, True, False, False], Grouping(np.array([0, 0, 1, 1])))
    >>> found.images < 1 / 2, found.hits == found.images / 2
    (True, True)
    """
    share = float(np.asarray(hits, dtype=np.float64).mean())
    images = independent_images(hits, grouping)
    if 0 < share < 1:
        degrees_of_freedom = max(grouping.effective - 1, NEGLIGIBLE)
        wider = float(scipy.special.stdtrit(degrees_of_freedom, 1 - TAIL)) / Z95
        images = max(images / wider**2, NEGLIGIBLE)
    return EffectiveSample(images, images * share)


def share_interval(
    hits: ArrayLike,
    parts: ArrayLike,
    count: int,
    grouping: Grouping | None,
    weights: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """The 95 % interval of a share of the images of each part; NaN of a part without images.

    Without groups it is Clopper and Pearson's. With groups, two intervals are computed, and each
    end is the outer one of the two. The first is Clopper and Pearson's for the number of
    independent images that the groups are worth. The second allows for skewness, which arises if
    few groups have hits or few have misses. One group tells nothing. If all images of a part are
    hits, or none, each group counts as one image. Korn and Graubard count all images, which is too
    optimistic for few groups. Groups of equal size, each of hits or of misses alone, are as many
    independent images, such as groups of one image: the interval is Clopper and Pearson's of these.

    Args:
        hits: bool `[n]`, which images count.
        parts: int `[n]`, the part of each image, from 0 to `count` - 1; other numbers are left out.
        count: the number of parts.
        grouping: which images belong together.
        weights: of the images, used with groups only; by default all are equal.

    Returns:
        The lower and the upper ends, float64 `[count]`, in [0, 1].

    Source: Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data; Hall 1992, On the Removal of Skewness by
    Transformation; Efron and Stein 1981, The Jackknife Estimate of Variance, for groups of
    different sizes.

    >>> right, bins = [True, True, False, False], [0, 0, 0, 0]
    >>> [end.round(2).tolist() for end in share_interval(right, bins, 1, None)]
    [[0.07], [0.93]]
    >>> two = Grouping(np.array([0, 1, 0, 1]))
    >>> [end.round(2).tolist() for end in share_interval(right, bins, 1, two)]
    [[0.0], [1.0]]
    >>> four = Grouping(np.arange(4))
    >>> [end.round(2).tolist() for end in share_interval(right, bins, 1, four)]
    [[0.07], [0.93]]
    """
    part, hit = np.asarray(parts, dtype=np.int64), np.asarray(hits, dtype=np.float64)
    inside = (part >= 0) & (part < count)
    images = np.bincount(part[inside], minlength=count).astype(np.float64)
    if grouping is None:
        images_or_nan = np.where(images > 0, images, np.nan)
        shares = np.bincount(part[inside], hit[inside], count) / images_or_nan
        return clopper_pearson(shares, images_or_nan)
    pair_of_image = part[inside] * grouping.count + grouping.numbers[inside]
    pairs, pair = np.unique(pair_of_image, return_inverse=True)
    image_weights = np.ones(len(hit)) if weights is None else weights
    # Without any pair, `bincount` gives integers.
    pair_images = np.bincount(pair, image_weights[inside]).astype(np.float64)
    pair_hits = np.bincount(pair, (image_weights * hit)[inside]).astype(np.float64)
    pair_part = pairs // grouping.count
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.bincount(pair_part, pair_images, count)
        share = np.bincount(pair_part, pair_hits, count) / whole
        moments = share_moments(pair_hits, pair_images, share[pair_part], whole[pair_part])
    sums = np.stack([np.bincount(pair_part, m, count) for m in moments]).astype(np.float64)
    return interval_from_moments(share, images, sums)


# The columns of each group for an interval. 1 counts the groups. Two are the square and the cube of
# its excess, which is its hits minus their expected number. Then follow the square of the change of
# the share without it, whether it has hits and misses, and its images and their square.
MOMENTS = ("groups", "squares", "cubes", "moves", "mixed", "images", "squared_images")


def share_moments(
    hits: FloatArray, images: FloatArray, share: FloatArray, whole: FloatArray
) -> tuple[FloatArray, ...]:
    """The `MOMENTS` of groups with these hits and images, given the whole with its share."""
    excess = hits - share * images
    moves = np.where(whole > images, excess / (whole - images), 0.0)
    counts, mixed = np.asarray(images > 0, dtype=np.float64), np.minimum(hits, images - hits)
    return counts, excess**2, excess**3, moves**2, mixed, images, images**2


def interval_from_moments(
    share: FloatArray, images: FloatArray, sums: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The intervals of shares, from numbers of images and sums of `MOMENTS` `[7, shares]`."""
    groups, squares, cubes, moves, mixed, whole, squared = sums
    unanimous = (share == 0) | (share == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The jackknife's: a large group pulls the share towards its own, which hides its excess.
        variance = moves * (groups - 1) / groups
        independent = np.where(unanimous, groups, share * (1 - share) / variance)
        wider = scipy.special.stdtrit(groups - 1, 1 - TAIL) / Z95
        worth = np.where(groups < 2, NEGLIGIBLE, np.minimum(images, independent) / wider**2)
        low, high = clopper_pearson(share, np.where(images > 0, worth, np.nan))
        spread = np.where(unanimous | (groups < 2), 0.0, np.sqrt(variance) * wider)
        # The skewness of a sum over as many groups, drawn at random.
        skewness = np.where(spread > NEGLIGIBLE, cubes / squares**1.5, 0.0)
        bent = bent_interval(share, spread, skewness, Z95)
        equal = groups * squared <= whole**2 * (1 + NEGLIGIBLE)
        exact = clopper_pearson(share, np.where(groups > 0, groups, np.nan))
    alike = equal & (mixed <= NEGLIGIBLE * whole) & (groups > 1)
    outer = np.clip(np.fmin(low, bent[0]), 0, 1), np.clip(np.fmax(high, bent[1]), 0, 1)
    low, high = (np.where(alike, *ends) for ends in zip(exact, outer, strict=True))
    return low, high


def membership_p(
    columns: FloatArray, inside: BoolArray, grouping: Grouping | None, rng: np.random.Generator
) -> float:
    """Test whether a subset of images has the same mean as the other images: two-sided p-value.

    It is a permutation test: if the means do not differ, any other subset of as many images, or
    groups, could have been the subset. For images that are right or wrong, all subsets are counted
    (Fisher's exact test). Otherwise subsets are drawn at random, and the observed one counts as one
    of them. The test assumes no normal distribution, and is valid even for three images.

    Args:
        columns: float `[n, k]`; the mean over the columns is compared.
        inside: bool `[n]`, which images are the subset; not all and not none.
        grouping: of the images, each wholly inside or outside; None if images are independent.
        rng: draws the random subsets.

    Source: Fisher 1935, The Design of Experiments; Phipson and Smyth 2010, Permutation P-values
    Should Never Be Zero.

    >>> right, inside = np.array([[1.0]] * 9 + [[0.0]] * 9), np.arange(18) < 9
    >>> round(membership_p(right, inside, None, np.random.default_rng(0)), 5)
    4e-05
    """
    import scipy.stats  # takes half a second to import

    values = columns.mean(axis=1)
    if grouping is None and np.isin(values, (0, 1)).all():
        table = [[values[side].sum(), (1 - values[side]).sum()] for side in (inside, ~inside)]
        return float(scipy.stats.fisher_exact(table).pvalue)
    sums, sizes = values, np.ones(len(values))
    chosen = inside
    if grouping is not None:
        sums, sizes = grouping.sums(values[:, None])[:, 0], grouping.sizes.astype(np.float64)
        chosen = np.bincount(grouping.numbers, inside, grouping.count) > 0
    count, size = len(sums), int(chosen.sum())
    rounds = min(MOST_SUBSETS, max(FEWEST_SUBSETS, MOST_UNITS_DRAWN // count))

    def distance(places: IntArray) -> FloatArray:
        """How far the means of subsets `[rounds, size]` are from those of all others."""
        totals, images = sums[places].sum(axis=1), sizes[places].sum(axis=1)
        return np.abs(totals / images - (sums.sum() - totals) / (sizes.sum() - images))

    observed = distance(np.flatnonzero(chosen)[None])[0] * (1 - NEGLIGIBLE)
    as_far, at_once = 0, max(1, MEMBERS_AT_ONCE // size)
    for first in range(0, rounds, at_once):
        drawn = range(first, min(first + at_once, rounds))
        subsets = np.stack([rng.permutation(count)[:size] for _ in drawn])
        as_far += int((distance(subsets) >= observed).sum())
    return (as_far + 1) / (rounds + 1)


def equal_means_p(
    columns: FloatArray, parts: IntArray, grouping: Grouping | None, rng: np.random.Generator
) -> float:
    """Test whether several parts of the images have the same mean: p-value.

    It is a permutation test, as `membership_p` is for two parts: if the means do not differ, the
    images, or groups, could as well be divided in another way into parts of as many. For images
    that are right or wrong, divisions are ordered by their probability (the exact test of Fisher,
    Freeman and Halton), and all are counted if these are not too many. Otherwise divisions are
    drawn at random, until enough of them are as far. Then what counts is the sum over parts of
    images x squared difference to the mean of all. NaN if a group has images in several parts.

    Args:
        columns: float `[n, k]`; the mean over the columns is compared.
        parts: int `[n]`, the part of each image, from 0; each has images.
        grouping: of the images; None if images are independent.
        rng: draws the random divisions.

    Source: Freeman and Halton 1951, Note on an Exact Treatment of Contingency, Goodness of Fit and
    Other Problems of Significance; Phipson and Smyth 2010, Permutation P-values Should Never Be
    Zero; Besag and Clifford 1991, Sequential Monte Carlo p-values, for the end of the draws.

    >>> right, sites = np.array([[1.0]] * 9 + [[0.0]] * 9), np.arange(18) // 6
    >>> round(equal_means_p(right, sites, None, np.random.default_rng(0)), 4)
    0.0025
    """
    sums, sizes, part_of = columns.mean(axis=1), np.ones(len(columns)), parts
    if grouping is not None:
        part_of = np.zeros(grouping.count, dtype=np.int64)
        part_of[grouping.numbers] = parts
        if (part_of[grouping.numbers] != parts).any():
            return math.nan
        sums, sizes = grouping.sums(sums[:, None])[:, 0], grouping.sizes.astype(np.float64)
    count, units = int(parts.max()) + 1, len(sums)
    if count == 2:
        return membership_p(columns, parts == 0, grouping, rng)
    if grouping is None and np.isin(sums, (0, 1)).all():
        return _freeman_halton_p(np.bincount(parts), np.bincount(parts, sums).astype(np.int64), rng)
    excess = sums - sizes * sums.sum() / sizes.sum()

    def between(division: IntArray) -> float:
        """The sum of squares between the parts."""
        images = np.bincount(division, sizes, count)
        return float((np.bincount(division, excess, count) ** 2 / images).sum())

    observed = between(part_of) * (1 - NEGLIGIBLE)
    rounds = min(MOST_SUBSETS, max(FEWEST_SUBSETS, MOST_UNITS_DRAWN // units))
    as_far = 0
    for drawn in range(1, rounds + 1):
        as_far += between(rng.permutation(part_of)) >= observed
        if as_far == ENOUGH_AS_FAR:
            return as_far / drawn
    return (as_far + 1) / (rounds + 1)


def _freeman_halton_p(sizes: IntArray, hits: IntArray, rng: np.random.Generator) -> float:
    """The p-value of hits `[parts]` among images `[parts]`: of tables that are no more probable."""
    total = int(hits.sum())

    def chance(tables: IntArray) -> FloatArray:
        """The logarithm of the probability of tables `[k, parts]`, but for a constant."""
        return -np.asarray(
            (scipy.special.gammaln(tables + 1) + scipy.special.gammaln(sizes - tables + 1)).sum(1)
        )

    most = chance(hits[None])[0] + NEGLIGIBLE
    ways = [np.arange(min(size, total) + 1) for size in sizes[:-1].tolist()]
    if math.prod(map(len, ways)) > MOST_TABLES:
        rounds = MOST_SUBSETS
        drawn = rng.multivariate_hypergeometric(sizes, total, size=rounds, method="marginals")
        return float((np.count_nonzero(chance(drawn) <= most) + 1) / (rounds + 1))
    some = np.stack(np.meshgrid(*ways, indexing="ij"), axis=-1).reshape(-1, len(ways))
    last = total - some.sum(axis=1)
    tables = np.column_stack([some, last])[(last >= 0) & (last <= sizes[-1])]
    logs = chance(tables)
    shares = np.exp(logs - logs.max())
    return float(shares[logs <= most].sum() / shares.sum())


def zou_donner_interval(first: Score, second: Score) -> Ends:
    """The 95 % interval of a difference of two values on different images, from both intervals.

    Source: Zou and Donner 2008, Construction of Confidence Limits About Effect Measures: A General
    Approach; for two shares with Wilson's intervals it is Newcombe's method 10.

    >>> low, high = zou_donner_interval(Score(0.9, 0.8, 0.95, 50), Score(0.6, 0.5, 0.7, 50))
    >>> round(low, 3), round(high, 3)
    (0.159, 0.412)
    """
    gap = first.value - second.value
    below = np.hypot(first.value - first.low, second.high - second.value)
    above = np.hypot(first.high - first.value, second.value - second.low)
    return float(gap - below), float(gap + above)


def check_weigh(weigh: object) -> Weigh:
    """Check what has equal weight where images belong together: `groups` or `images`."""
    if weigh in WEIGH:
        return weigh
    raise unknown_name("value of weigh", str(weigh), WEIGH)


def number_groups(groups: Groups | None) -> Grouping | None:
    """Make `Grouping` of the groups of a data set; None if its groups are unknown."""
    if groups is None or groups.names is None:
        return None
    return Grouping.from_names(groups.names)


def widening(count: int) -> float:
    """The factor that widens replicates of a mean of so many units; see `Grouping.widening`."""
    if count < 2:
        return np.inf
    return student_quantile(count) / Z95 * float(np.sqrt(count / (count - 1)))


def student_quantile(count: int, tests: float = 1) -> float:
    """Student's quantile for a 95 % interval from `count` groups.

    Args:
        count: at least 2.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

    >>> round(student_quantile(20), 3), round(student_quantile(20, tests=5), 3)
    (2.093, 2.861)
    """
    return float(scipy.special.stdtrit(count - 1, 1 - TAIL / tests))
