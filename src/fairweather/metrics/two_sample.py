"""Whether two sets of images differ in what a model says of them: tests, and energy distances.

A small p-value says that the two sets differ in what the model sees: in appearance, in content, or
in how frequent the classes are. It does not say that the model is wrong more often. A large one
does not say that they are alike: few images show only large differences.

The images of each set must be independent. Where several come from one patient, give one image of
each (`one_of_each`); otherwise alarms are false more often than the p-value says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray
from fairweather.metrics.grouping import NEGLIGIBLE, Grouping

# Images of a set that are compared, drawn at random from more.
CLOUD_SIZE = 500


class EnergyDistance(NamedTuple):
    """The energy distance of two sets of images."""

    value: float
    """0 on average if both have the same distribution, so that it can be negative."""

    error: float
    """Its standard error, if they differ."""


@dataclass(frozen=True)
class Cloud:
    """What a model says of some images."""

    rows: FloatArray
    """float64 `[n, k]`, such as probabilities."""

    mean_distances: FloatArray
    """float64 `[n]`, the mean distance of each row from the other rows."""

    @staticmethod
    def from_rows(rows: ArrayLike, seed: int = 0) -> Cloud:
        """Make it from rows `[n, k]`, n at least 2; of more than 500, 500 are drawn."""
        points = np.asarray(rows, dtype=np.float64)
        if points.ndim != 2 or len(points) < 2:
            raise InputError(
                f"a distance needs rows [n, k], n at least 2, found {list(points.shape)}"
            )
        order = np.random.default_rng(seed).permutation(len(points))
        points = points[np.sort(order[:CLOUD_SIZE])]
        return Cloud(points, euclidean_distances(points, points).sum(axis=1) / (len(points) - 1))


def energy_distance(first: Cloud, second: Cloud) -> EnergyDistance:
    """Twice the mean distance between two sets, minus the mean distance within each.

    Source: Székely and Rizzo 2013, Energy Statistics: A Class of Statistics Based on Distances, as
    a U-statistic; its standard error is that of its first-order terms.

    >>> there, here = np.zeros((3, 1)), np.ones((4, 1))
    >>> energy_distance(Cloud.from_rows(there), Cloud.from_rows(here))
    EnergyDistance(value=2.0, error=0.0)
    """
    between = euclidean_distances(first.rows, second.rows)
    terms = [
        2 * (between.mean(axis=1) - first.mean_distances),
        2 * (between.mean(axis=0) - second.mean_distances),
    ]
    value = 2 * between.mean() - first.mean_distances.mean() - second.mean_distances.mean()
    return EnergyDistance(float(value), _standard_error(*terms))


def is_nearest(batch: Cloud, nearest: Cloud, others: Sequence[Cloud], among: int) -> bool:
    """Say whether a set is nearer to a batch than others are, by more than chance explains.

    Args:
        batch: the batch.
        nearest: the nearest of some sets.
        others: sets that it must be nearer than.
        among: of how many sets it is the nearest; the test holds for all (Bonferroni).

    >>> draw = lambda k: np.random.default_rng(k).normal(k, 1, (100, 1))
    >>> near, far = Cloud.from_rows(draw(0)), Cloud.from_rows(draw(1))
    >>> batch = Cloud.from_rows(np.random.default_rng(7).normal(0, 1, (100, 1)))
    >>> is_nearest(batch, near, [far], 2), is_nearest(batch, near, [near], 2)
    (True, False)
    """
    least = float(-scipy.special.ndtri(0.025 / among))
    ahead = (nearness_difference(batch, nearest, other) for other in others)
    return all(value > least * error for value, error in ahead)


def nearness_difference(batch: Cloud, first: Cloud, second: Cloud) -> EnergyDistance:
    """The energy distance of a batch from the second set minus that from the first.

    >>> there, here = Cloud.from_rows(np.zeros((3, 1))), Cloud.from_rows(np.ones((4, 1)))
    >>> nearness_difference(there, there, here).value
    2.0
    """
    to_first, to_second = (euclidean_distances(batch.rows, c.rows) for c in (first, second))
    value = (
        2 * (to_second.mean() - to_first.mean())
        - second.mean_distances.mean()
        + first.mean_distances.mean()
    )
    return EnergyDistance(
        float(value),
        _standard_error(
            2 * (to_second.mean(axis=1) - to_first.mean(axis=1)),
            2 * (to_first.mean(axis=0) - first.mean_distances),
            2 * (to_second.mean(axis=0) - second.mean_distances),
        ),
    )


def _standard_error(*terms: FloatArray) -> float:
    """The standard error of a sum of means of independent terms, `[n]` each."""
    return float(np.sqrt(sum(term.var() / max(len(term) - 1, 1) for term in terms)))


def euclidean_distances(first: FloatArray, second: FloatArray) -> FloatArray:
    """The Euclidean distance of each row of the first from each of the second."""
    lengths, others = np.square(first).sum(axis=1), np.square(second).sum(axis=1)
    squares = lengths[:, None] + others - 2 * first @ second.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


# --- Tests of two sets ---

# With fewer images in either set there is no p-value. They could show only differences that are
# plain to see, and the p-value of outputs is an approximation for many images.
FEWEST_IMAGES = 10
# Images of either set whose features are compared, drawn at random from more; and random splits of
# these into two sets.
MOST_IMAGES, SPLITS = 1000, 999


def outputs_differ_p(reference: ArrayLike, batch: ArrayLike) -> float:
    """Test whether a model's probabilities for two sets of images have the same distribution.

    The probability of each class, and the largest one, are compared by the test of Kolmogorov and
    Smirnov. The smallest p-value is corrected for their number (Bonferroni). It is a bound: the
    asymptotic distribution, ties and dependent columns make p-values below 0.1 too large rather
    than too small.

    Args:
        reference: float `[n, classes]`, probabilities for independent images.
        batch: float `[m, classes]`, those for others; n and m may differ.

    Returns:
        The p-value, in [0, 1]; NaN if either set has fewer than 10 images.

    Source: Lipton et al. 2018, Detecting and Correcting for Label Shift with Black Box Predictors;
    Rabanser et al. 2019, Failing Loudly, whose BBSDs does not compare the largest probability.

    >>> reference = np.random.default_rng(0).dirichlet([1, 1, 1], 500)
    >>> outputs_differ_p(reference[::2], reference[1::2]) > 0.05
    True
    >>> outputs_differ_p(reference, np.eye(3)[np.arange(30) % 3]) < 1e-6
    True
    """
    known, others = _check_pair(reference, batch)
    if min(len(known), len(others)) < FEWEST_IMAGES:
        return np.nan
    if known.shape[1] == 2:  # the second column is 1 minus the first
        columns = [(known[:, 0], others[:, 0])]
    else:
        columns = list(zip(known.T, others.T, strict=True))
    columns.append((known.max(axis=1), others.max(axis=1)))
    distance = max(kolmogorov_smirnov_distance(*pair) for pair in columns)
    size = len(known) * len(others) / (len(known) + len(others))
    return min(1.0, len(columns) * float(scipy.special.kolmogorov(np.sqrt(size) * distance)))


def kolmogorov_smirnov_distance(first: FloatArray, second: FloatArray) -> float:
    """The largest distance between the distribution functions of two columns, in [0, 1].

    >>> kolmogorov_smirnov_distance(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0]))
    0.5
    """
    both = np.concatenate([first, second])
    below, others = (np.searchsorted(np.sort(p), both, "right") / len(p) for p in (first, second))
    return float(np.abs(below - others).max())


def features_differ_p(reference: ArrayLike, batch: ArrayLike, seed: int = 0) -> float:
    """Test whether the features of two sets of images have the same distribution.

    The energy distance of the two sets is compared with that of 999 random splits of the same
    images. So the p-value holds for any number of images and features, and with ties. Each feature
    is divided by its standard deviation over both sets. Of more than 1,000 images in a set, 1,000
    are drawn.

    Args:
        reference: float `[n, k]`, features of independent images.
        batch: float `[m, k]`, those of others; n and m may differ.
        seed: seed of what is drawn.

    Returns:
        The p-value, from 0.001 to 1; NaN if either set has fewer than 10 images.

    Source: Székely and Rizzo 2004, Testing for Equal Distributions in High Dimension; Phipson and
    Smyth 2010, Permutation P-values Should Never Be Zero.

    >>> features = np.random.default_rng(0).normal(size=(200, 8))
    >>> features_differ_p(features[::2], features[1::2]) > 0.05
    True
    >>> features_differ_p(features, features[:30] + 1)
    0.001
    """
    known, others = _check_pair(reference, batch)
    if min(len(known), len(others)) < FEWEST_IMAGES:
        return np.nan
    generator = np.random.default_rng(seed)
    known, others = (
        rows[np.sort(generator.permutation(len(rows))[:MOST_IMAGES])] for rows in (known, others)
    )
    n, m = len(known), len(others)
    inside = np.arange(n + m) >= n
    splits = generator.permuted(np.tile(inside, (SPLITS, 1)), axis=1)
    apart = _scaled_distances(np.concatenate([known, others]))
    energy, random = split_energies(apart, inside[None]), split_energies(apart, splits)
    return float((1 + np.count_nonzero(random >= energy - NEGLIGIBLE)) / (1 + SPLITS))


def split_energies(distances: FloatArray, inside: BoolArray) -> FloatArray:
    """The energy distance of the two sets that each split makes of the same images.

    It is twice the mean distance between images of both sets, minus the mean distance within each.

    Args:
        distances: float64 `[N, N]`, between any two images.
        inside: bool `[splits, N]`, which images are in the second set; as many in each split.

    >>> places = np.array([0.0, 1.0, 4.0])
    >>> split_energies(np.abs(places[:, None] - places), np.array([[False, False, True]]))
    array([6.5])
    """
    member = inside.astype(np.float64)
    m = member.sum(axis=1)
    n = member.shape[1] - m
    within = ((member @ distances) * member).sum(axis=1)
    between = member @ distances.sum(axis=1) - within
    others = distances.sum() - 2 * between - within
    return np.asarray(2 * between / (n * m) - others / n**2 - within / m**2)


def differ_p(*p_values: float) -> float:
    """The p-value of several tests together: the smallest, corrected for their number (Bonferroni).

    Tests that could not be made have the p-value NaN and do not count; without any other it is NaN.

    >>> differ_p(0.01, 0.6), differ_p(0.01, np.nan), differ_p(np.nan)
    (0.02, 0.01, nan)
    """
    valid = [p for p in p_values if not np.isnan(p)]
    return min(1.0, len(valid) * min(valid)) if valid else np.nan


def one_of_each(grouping: Grouping, seed: int = 0) -> IntArray:
    """Draw one image of each group, so that what is compared is independent.

    Args:
        grouping: which images belong together.
        seed: seed of the draw.

    Returns:
        The places of the images, int64 `[count]`, ascending.

    >>> one_of_each(Grouping(np.array([0, 0, 1, 2]))).tolist()
    [0, 2, 3]
    """
    order = np.random.default_rng(seed).permutation(len(grouping.numbers))
    _, first = np.unique(grouping.numbers[order], return_index=True)
    return np.sort(order[first])


def _check_pair(reference: ArrayLike, batch: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both sets as float64 `[n, k]` and `[m, k]`."""
    known, others = np.asarray(reference, np.float64), np.asarray(batch, np.float64)
    if known.ndim != 2 or others.ndim != 2 or known.shape[1:] != others.shape[1:] or not known.size:
        raise InputError(
            "two sets of images are compared by the same columns, [n, k] and [m, k], found "
            f"{list(known.shape)} and {list(others.shape)}"
        )
    if not (np.isfinite(known).all() and np.isfinite(others).all()):
        raise InputError("two sets of images are compared by finite numbers; some are not")
    return known, others


def _scaled_distances(columns: FloatArray) -> FloatArray:
    """The Euclidean distances between any two rows, with each column divided by its deviation."""
    spread = columns.std(axis=0)
    scaled = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    apart = euclidean_distances(scaled, scaled)
    np.fill_diagonal(apart, 0.0)
    return apart
