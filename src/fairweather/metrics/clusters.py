"""Images that belong together, such as all images of one patient.

Images of one patient resemble each other, so that 1,000 images of 100 patients say less than 1,000
images of 1,000 patients. Where clusters are known, they take the place of images: whole clusters
are resampled, and tests compare clusters.
"""

from __future__ import annotations

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

Weigh = Literal["clusters", "images"]  # what counts alike where images belong together
WEIGH: tuple[Weigh, ...] = get_args(Weigh)
# With fewer clusters, 95 % intervals are marked: see benchmarks/clusters.py for what they cover.
FEW_CLUSTERS = 20
# Random choices behind a p-value, and fewer if there are many images.
CHOICES, FEWEST_CHOICES, MOST_UNITS = 9_999, 999, 2 * 10**7
MEMBERS_AT_ONCE = 10**5  # members of random groups that are looked at together
NEGLIGIBLE = 1e-9  # what rounding may change of a distance
NUMBERS_AT_ONCE = 2**20  # counts by cluster and by point of a curve that are in memory at once


@dataclass(frozen=True)
class Clusters:
    """Which cluster each image belongs to.

    Attributes:
        of: int64 `[n]`, the number of each image's cluster, from 0 to `count` - 1; each number
            occurs.

    >>> clusters = Clusters.of_names(["ann", "bob", "ann"])
    >>> clusters.of.tolist(), clusters.count
    ([0, 1, 0], 2)
    """

    of: IntArray

    def __post_init__(self) -> None:
        if self.of.ndim != 1 or not len(self.of) or not np.issubdtype(self.of.dtype, np.integer):
            raise InputError(
                "clusters must be whole numbers [n] and not empty, found "
                f"{self.of.dtype} {list(self.of.shape)}"
            )
        if self.of.min() < 0 or not np.bincount(self.of).all():
            raise InputError(
                "clusters must be numbered from 0 without a gap, found "
                f"{np.unique(self.of)[:5].tolist()}"
            )

    @staticmethod
    def of_names(names: ArrayLike) -> Clusters:
        """Number the clusters in the order in which their names first occur.

        Args:
            names: `[n]`, texts or numbers; equal names are one cluster.
        """
        _, first, which = np.unique(np.asarray(names), return_index=True, return_inverse=True)
        number = np.empty(len(first), dtype=np.int64)
        number[np.argsort(first)] = np.arange(len(first))
        return Clusters(number[which.ravel()])

    @cached_property
    def sizes(self) -> IntArray:
        """The number of images of each cluster, `[count]`."""
        return np.bincount(self.of)

    @property
    def count(self) -> int:
        """The number of clusters."""
        return len(self.sizes)

    def select(self, places: LabelArray) -> Clusters:
        """Keep some images; clusters without one are dropped, and the others numbered again.

        >>> Clusters(np.array([0, 1, 2, 1])).select(np.array([1, 2, 3])).of.tolist()
        [0, 1, 0]
        """
        return Clusters.of_names(self.of[places])

    def sums(self, columns: FloatArray) -> FloatArray:
        """Sum columns `[n, k]` over the images of each cluster, `[count, k]`."""
        totals = (np.bincount(self.of, column, self.count) for column in columns.T)
        return np.stack(list(totals), axis=1)

    def widening(self) -> float:
        """How much farther replicates must spread for a 95 % interval that holds; infinite for one.

        The variance of resampled clusters is too small by (count - 1) / count, and it has only
        count - 1 degrees of freedom, so that Student's t takes the place of the normal
        distribution. For a share this equals the effective number of images of Korn and Graubard.

        Source: Cameron, Gelbach and Miller 2008, Bootstrap-Based Improvements for Inference with
        Clustered Errors, section 2, for both; Korn and Graubard 1998, Confidence Intervals for
        Proportions with Small Expected Number of Positive Counts, for shares.

        >>> round(Clusters(np.arange(20)).widening(), 3)
        1.096
        """
        if self.count < 2:
            return np.inf
        return student_quantile(self.count) / Z95 * float(np.sqrt(self.count / (self.count - 1)))

    def evenness(self, chosen: BoolArray) -> float:
        """Say how evenly some images are spread over the clusters, in (0, 1].

        It is 1 if they are spread as by chance or more evenly, and about 1 / k if each cluster that
        has any has k of them, among many clusters.

        Args:
            chosen: bool `[n]`.

        >>> clusters = Clusters(np.arange(300) // 3)
        >>> [round(clusters.evenness(np.isin(clusters.of, range(k))), 2) for k in (2, 100)]
        [0.34, 1.0]
        """
        images, n = np.bincount(self.of, chosen, self.count), len(self.of)
        count = images.sum()
        if count < 2:
            return 1.0
        # Of the sum of squares; two images are of one cluster with this probability.
        together = float((self.sizes * (self.sizes - 1)).sum()) / (n * (n - 1))
        expected = count + count * (count - 1) * together
        return min(1.0, float(expected / np.square(images).sum()))

    @property
    def effective(self) -> float:
        """How many clusters of equal size say as much as these: (sum n)^2 / sum n^2.

        Source: Kish 1965, Survey Sampling, section 11.7.

        >>> Clusters(np.array([0, 0, 0, 0, 1, 2, 3, 4])).effective
        3.2
        """
        return float(len(self.of) ** 2 / np.square(self.sizes).sum())

    @property
    def alike(self) -> FloatArray:
        """Weights of the images with which each cluster counts alike, `[n]`, with a mean of 1.

        >>> Clusters(np.array([0, 1, 1])).alike.tolist()
        [1.5, 0.75, 0.75]
        """
        return len(self.of) / (self.count * self.sizes[self.of])

    def influences(self, columns: FloatArray) -> FloatArray:
        """Columns of clusters with the mean of the images, and the jackknife's variance of it.

        A cluster with many of the images pulls the mean with it, so that it seems to differ little
        from it. So each cluster's number is the mean plus what it moves the mean of the others,
        times the number of others. Every method for independent images can then be used with
        clusters in their place.

        Args:
            columns: float `[n, k]`.

        Returns:
            float64 `[count, k]`.

        Source: Efron and Stein 1981, The Jackknife Estimate of Variance; Tukey's pseudo-values,
        moved so that their mean is that of the images.

        >>> clusters, column = Clusters(np.array([0, 1, 1])), np.array([[1.0], [0.0], [1.0]])
        >>> clusters.influences(column).ravel().round(3).tolist()
        [0.917, 0.417]
        """
        means = columns.mean(axis=0)
        excess = self.sums(np.asarray(columns - means, dtype=np.float64))
        others = np.maximum(len(self.of) - self.sizes, 1)[:, None]
        moves = (self.count - 1) * excess / others
        return np.asarray(means + moves - moves.mean(axis=0))


class EffectiveSample(NamedTuple):
    """As many independent images as some images of clusters are worth, and the hits among them."""

    images: float
    hits: float


def independent_images(hits: ArrayLike, clusters: Clusters) -> float:
    """How many independent images have a share with the jackknife's variance; at most all images.

    If all images agree, it is the effective number of clusters.

    >>> independent_images([True, True, False, False], Clusters(np.array([0, 0, 1, 1])))
    1.0
    """
    column = np.asarray(hits, dtype=np.float64)
    own = float(column.var())
    if not own or clusters.count < 2:
        return clusters.effective
    variance = float(clusters.influences(column[:, None]).var(ddof=1)) / clusters.count
    return min(own / variance, len(column)) if variance > NEGLIGIBLE * own else float(len(column))


def effective_sample(hits: ArrayLike, clusters: Clusters) -> EffectiveSample:
    """How many independent images would tell as much of a share of images of clusters.

    It is the number of `independent_images`, made smaller since the variance has few degrees of
    freedom, unless all images agree.

    Args:
        hits: bool `[n]`, which images count.
        clusters: of these images.

    Source: Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data.

    >>> found = effective_sample([True, True, False, False], Clusters(np.array([0, 0, 1, 1])))
    >>> found.images < 1 / 2, found.hits == found.images / 2
    (True, True)
    """
    share = float(np.asarray(hits, dtype=np.float64).mean())
    images = independent_images(hits, clusters)
    if 0 < share < 1:
        freedom = max(clusters.effective - 1, NEGLIGIBLE)
        wider = float(scipy.special.stdtrit(freedom, 1 - TAIL)) / Z95
        images = max(images / wider**2, NEGLIGIBLE)
    return EffectiveSample(images, images * share)


def share_interval(
    hits: ArrayLike,
    parts: ArrayLike,
    count: int,
    clusters: Clusters | None,
    weights: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """The 95 % interval of a share of the images of each part; NaN of a part without images.

    Without clusters it is Clopper and Pearson's. With clusters it reaches to the outer one of two
    ends: of their interval of as many images as these are worth, and of one that allows for the
    skewness that there is if few clusters have hits, or few have misses. Of one cluster nothing is
    known. If all images of a part agree, each cluster counts as one image (Korn and Graubard count
    all images, which is bold for a few clusters).

    Args:
        hits: bool `[n]`, which images count.
        parts: int `[n]`, the part of each image, from 0 to `count` - 1; other numbers are left out.
        count: the number of parts.
        clusters: which images belong together.
        weights: of the images, if they belong together; by default each counts alike.

    Returns:
        The lower and the upper ends, float64 `[count]`, in [0, 1].

    Source: Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data; Hall 1992, On the Removal of Skewness by
    Transformation; Efron and Stein 1981, The Jackknife Estimate of Variance, for clusters of
    different sizes.

    >>> right, bins = [True, True, False, False], [0, 0, 0, 0]
    >>> [end.round(2).tolist() for end in share_interval(right, bins, 1, None)]
    [[0.07], [0.93]]
    >>> two = Clusters(np.array([0, 0, 1, 1]))
    >>> [end.round(2).tolist() for end in share_interval(right, bins, 1, two)]
    [[0.0], [1.0]]
    """
    part, hit = np.asarray(parts, dtype=np.int64), np.asarray(hits, dtype=np.float64)
    inside = (part >= 0) & (part < count)
    images = np.bincount(part[inside], minlength=count).astype(np.float64)
    if clusters is None:
        hollow = np.where(images > 0, images, np.nan)
        return clopper_pearson(np.bincount(part[inside], hit[inside], count) / hollow, hollow)
    pair_of_image = part[inside] * clusters.count + clusters.of[inside]
    pairs, pair = np.unique(pair_of_image, return_inverse=True)
    heavy = np.ones(len(hit)) if weights is None else weights
    # Floats if there are none, too.
    own = np.bincount(pair, heavy[inside]).astype(np.float64)
    own_hits = np.bincount(pair, (heavy * hit)[inside]).astype(np.float64)
    pair_part = pairs // clusters.count
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = np.bincount(pair_part, own, count)
        share = np.bincount(pair_part, own_hits, count) / whole
        moments = _moments(own_hits, own, share[pair_part], whole[pair_part])
    sums = np.stack([np.bincount(pair_part, m, count) for m in moments]).astype(np.float64)
    return _interval_from_moments(share, images, sums)


def running_share_interval(
    hits: ArrayLike, clusters: Clusters, ends: IntArray
) -> tuple[FloatArray, FloatArray]:
    """The `share_interval` of the first images, for some numbers of them.

    Args:
        hits: bool `[n]`, which images count.
        clusters: which images belong together.
        ends: int `[k]`, increasing from at least 1 to at most n.

    Returns:
        The lower and the upper ends, float64 `[k]`.

    >>> three = Clusters(np.array([0, 1, 2]))
    >>> found = running_share_interval([True, False, True], three, np.array([1, 3]))
    >>> [end.round(2).tolist() for end in found]
    [[0.0, 0.0], [1.0, 1.0]]
    """
    hit = np.asarray(hits, dtype=np.float64)[: ends[-1]]
    segment = np.searchsorted(ends, np.arange(len(hit)), side="right")
    share = np.cumsum(hit)[ends - 1] / ends
    sums = np.zeros((len(MOMENTS), len(ends)))
    block = min(clusters.count, max(1, NUMBERS_AT_ONCE // len(ends)))
    for first in range(0, clusters.count, block):
        own_of = clusters.of[: len(hit)] - first
        here = (own_of >= 0) & (own_of < block)
        cell = segment[here] * block + own_of[here]
        own, own_hits = (
            np.bincount(cell, weights, len(ends) * block).reshape(-1, block).cumsum(axis=0)
            for weights in (None, hit[here])
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = ends[:, None].astype(np.float64)
            moments = _moments(own_hits, own.astype(np.float64), share[:, None], whole)
        sums += np.stack([moment.sum(axis=1) for moment in moments])
    return _interval_from_moments(share, ends.astype(np.float64), sums)


# What each cluster adds to: the number of clusters, and the second and third power of its excess of
# hits over the share; and how far the share moves without it, squared.
MOMENTS = ("clusters", "squares", "cubes", "moves")


def _moments(
    hits: FloatArray, images: FloatArray, share: FloatArray, whole: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The `MOMENTS` of clusters with so many hits and images, of a whole with this share."""
    excess = hits - share * images
    moves = np.where(whole > images, excess / (whole - images), 0.0)
    return np.asarray(images > 0, dtype=np.float64), excess**2, excess**3, moves**2


def _interval_from_moments(
    share: FloatArray, images: FloatArray, sums: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The intervals of shares of so many images, from the sums of `MOMENTS`, `[4, shares]`."""
    clusters, squares, cubes, moves = sums
    alike = (share == 0) | (share == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The jackknife's: where a cluster has many of the images, it has pulled the share with it.
        variance = moves * (clusters - 1) / clusters
        independent = np.where(alike, clusters, share * (1 - share) / variance)
        wider = scipy.special.stdtrit(clusters - 1, 1 - TAIL) / Z95
        worth = np.where(clusters < 2, NEGLIGIBLE, np.minimum(images, independent) / wider**2)
        low, high = clopper_pearson(share, np.where(images > 0, worth, np.nan))
        spread = np.where(alike | (clusters < 2), 0.0, np.sqrt(variance) * wider)
        # Of the sum of as many clusters, drawn at random.
        skewness = np.where(spread > NEGLIGIBLE, cubes / squares**1.5, 0.0)
        bent = bent_interval(share, spread, skewness, Z95)
    return np.clip(np.fmin(low, bent[0]), 0, 1), np.clip(np.fmax(high, bent[1]), 0, 1)


def membership_p(
    columns: FloatArray, inside: BoolArray, clusters: Clusters | None, rng: np.random.Generator
) -> float:
    """Test whether the mean of some images is that of the others: the two-sided p-value.

    If the two do not differ, any other choice of as many images, or clusters, could as well have
    been the group. Of images that are right or wrong all choices are counted (Fisher's exact test),
    otherwise random ones, with the one that was found among them. The test needs no normal
    distribution, and holds for a group of three images too.

    Args:
        columns: float `[n, k]`; the mean over the columns is compared.
        inside: bool `[n]`, with images on both sides.
        clusters: of the images, each on one side only; None if each image is one of its own.
        rng: of the random choices.

    Source: Fisher 1935, The Design of Experiments; Phipson and Smyth 2010, Permutation P-values
    Should Never Be Zero.

    >>> right, inside = np.array([[1.0]] * 9 + [[0.0]] * 9), np.arange(18) < 9
    >>> round(membership_p(right, inside, None, np.random.default_rng(0)), 5)
    4e-05
    """
    import scipy.stats  # takes half a second to import

    values = columns.mean(axis=1)
    if clusters is None and np.isin(values, (0, 1)).all():
        table = [[values[side].sum(), (1 - values[side]).sum()] for side in (inside, ~inside)]
        return float(scipy.stats.fisher_exact(table).pvalue)
    sums, sizes = values, np.ones(len(values))
    chosen = inside
    if clusters is not None:
        sums, sizes = clusters.sums(values[:, None])[:, 0], clusters.sizes.astype(np.float64)
        chosen = np.bincount(clusters.of, inside, clusters.count) > 0
    count, group = len(sums), int(chosen.sum())
    rounds = min(CHOICES, max(FEWEST_CHOICES, MOST_UNITS // count))

    def distance(places: IntArray) -> FloatArray:
        """How far the means of groups `[rounds, group]` are from those of the others."""
        own, images = sums[places].sum(axis=1), sizes[places].sum(axis=1)
        return np.abs(own / images - (sums.sum() - own) / (sizes.sum() - images))

    observed = distance(np.flatnonzero(chosen)[None])[0] * (1 - NEGLIGIBLE)
    as_far, together = 0, max(1, MEMBERS_AT_ONCE // group)
    for first in range(0, rounds, together):
        drawn = range(first, min(first + together, rounds))
        groups = np.stack([rng.permutation(count)[:group] for _ in drawn])
        as_far += int((distance(groups) >= observed).sum())
    return (as_far + 1) / (rounds + 1)


def zou_donner_interval(first: Score, second: Score) -> Ends:
    """The 95 % interval of one value minus another of other images, from those of both.

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
    """Check what is to count alike where images belong together: `clusters` or `images`."""
    if weigh in WEIGH:
        return weigh
    raise unknown_name("value of weigh", str(weigh), WEIGH)


def number_clusters(groups: Groups | None) -> Clusters | None:
    """Number the clusters of images in the order in which they first occur; None if unknown."""
    if groups is None or groups.clusters is None:
        return None
    return Clusters.of_names(groups.clusters)


def student_quantile(count: int, tests: int = 1) -> float:
    """Student's quantile for a 95 % interval from so many clusters.

    Args:
        count: at least 2.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

    >>> round(student_quantile(20), 3), round(student_quantile(20, tests=5), 3)
    (2.093, 2.861)
    """
    return float(scipy.special.stdtrit(count - 1, 1 - TAIL / tests))
