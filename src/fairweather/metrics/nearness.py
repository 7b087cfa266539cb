"""How far apart are two sets of images in what a model says of them, and which set is nearest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray

# Images of a set that are compared, drawn at random from more.
MOST_IMAGES = 500


class Distance(NamedTuple):
    """The energy distance of two sets of images.

    Attributes:
        value: 0 on average if both have the same distribution, so that it can be negative.
        error: its standard error, if they have not.
    """

    value: float
    error: float


@dataclass(frozen=True)
class Cloud:
    """What a model says of some images.

    Attributes:
        rows: float64 `[n, k]`, such as probabilities.
        own: float64 `[n]`, the mean distance of each row from the other rows.
    """

    rows: FloatArray
    own: FloatArray

    @staticmethod
    def of(rows: npt.ArrayLike, seed: int = 0) -> Cloud:
        """Make it from rows `[n, k]`, n at least 2; of more than 500, 500 are drawn."""
        found = np.asarray(rows, dtype=np.float64)
        if found.ndim != 2 or len(found) < 2:
            raise InputError(
                f"a distance needs rows [n, k], n at least 2, found {list(found.shape)}"
            )
        order = np.random.default_rng(seed).permutation(len(found))
        found = found[np.sort(order[:MOST_IMAGES])]
        return Cloud(found, distances(found, found).sum(axis=1) / (len(found) - 1))


def energy_distance(first: Cloud, second: Cloud) -> Distance:
    """Twice the mean distance between two sets, minus the mean distance within each.

    Source: Székely and Rizzo 2013, Energy Statistics: A Class of Statistics Based on Distances, as
    a U-statistic; its standard error is that of its first-order terms.

    >>> there, here = np.zeros((3, 1)), np.ones((4, 1))
    >>> energy_distance(Cloud.of(there), Cloud.of(here))
    Distance(value=2.0, error=0.0)
    """
    between = distances(first.rows, second.rows)
    terms = [2 * (between.mean(axis=1) - first.own), 2 * (between.mean(axis=0) - second.own)]
    value = 2 * between.mean() - first.own.mean() - second.own.mean()
    return Distance(float(value), _error(*terms))


def is_nearest(batch: Cloud, found: Cloud, than: Sequence[Cloud], among: int) -> bool:
    """Say whether a set is nearer to a batch than others are, by more than chance explains.

    Args:
        batch: the batch.
        found: the nearest of some sets.
        than: sets that it must be nearer than.
        among: of how many sets it is the nearest; the test holds for all (Bonferroni).

    >>> near, far = (Cloud.of(np.random.default_rng(k).normal(k, 1, (100, 1))) for k in (0, 1))
    >>> batch = Cloud.of(np.random.default_rng(7).normal(0, 1, (100, 1)))
    >>> is_nearest(batch, near, [far], 2), is_nearest(batch, near, [near], 2)
    (True, False)
    """
    least = float(-scipy.special.ndtri(0.025 / among))
    ahead = [how_much_nearer(batch, found, other) for other in than]
    return all(each.value > least * each.error for each in ahead)


def how_much_nearer(batch: Cloud, first: Cloud, second: Cloud) -> Distance:
    """The energy distance of a batch from the second set minus that from the first.

    >>> there, here = Cloud.of(np.zeros((3, 1))), Cloud.of(np.ones((4, 1)))
    >>> how_much_nearer(there, there, here).value
    2.0
    """
    to_first, to_second = (distances(batch.rows, each.rows) for each in (first, second))
    value = 2 * (to_second.mean() - to_first.mean()) - second.own.mean() + first.own.mean()
    return Distance(
        float(value),
        _error(
            2 * (to_second.mean(axis=1) - to_first.mean(axis=1)),
            2 * (to_first.mean(axis=0) - first.own),
            2 * (to_second.mean(axis=0) - second.own),
        ),
    )


def _error(*terms: FloatArray) -> float:
    """The standard error of a sum of means of independent terms, `[n]` each."""
    return float(np.sqrt(sum(term.var() / max(len(term) - 1, 1) for term in terms)))


def distances(first: FloatArray, second: FloatArray) -> FloatArray:
    """The Euclidean distance of each row of the first from each of the second."""
    squares = [np.square(each).sum(axis=1) for each in (first, second)]
    found = squares[0][:, None] + squares[1] - 2 * first @ second.T
    return np.asarray(np.sqrt(np.maximum(found, 0.0)))
