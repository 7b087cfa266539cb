"""Images that belong together, such as all images of one patient.

Images of one patient resemble each other, so that 1,000 images of 100 patients say less than 1,000
images of 1,000 patients. Where clusters are known, they take the place of images: whole clusters
are resampled, and tests compare clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import Z95, FloatArray, IntArray
from fairweather.types import Groups

TAIL = 0.025
# With fewer clusters, 95 % intervals are marked: see benchmarks/clusters.py for what they cover.
FEW_CLUSTERS = 20


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
    def of_names(names: npt.ArrayLike) -> Clusters:
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

    def select(self, places: npt.NDArray[np.integer]) -> Clusters:
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
        return student(self.count) / Z95 * float(np.sqrt(self.count / (self.count - 1)))

    def evenness(self, chosen: npt.NDArray[np.bool_]) -> float:
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

    def influences(self, columns: FloatArray) -> FloatArray:
        """Columns of clusters whose mean, and its variance, are those of columns of images.

        A mean over images is a ratio of two sums over clusters: of the column, and of the number of
        images. Each cluster is given the mean plus what it adds to the linearised ratio, so that
        every method for independent images can be used with clusters in their place.

        Args:
            columns: float `[n, k]`.

        Returns:
            float64 `[count, k]`.

        Source: Cochran 1977, Sampling Techniques, section 9A, for the variance of the ratio.

        >>> clusters, column = Clusters(np.array([0, 1, 1])), np.array([[1.0], [0.0], [1.0]])
        >>> clusters.influences(column).ravel().round(3).tolist()
        [0.889, 0.444]
        """
        means = columns.mean(axis=0)
        excess = self.sums(np.asarray(columns - means, dtype=np.float64))
        return np.asarray(means + excess * self.count / len(self.of))


class Contrast(NamedTuple):
    """The mean of some images minus that of the others.

    Attributes:
        columns: float64 `[clusters or images, k]`, whose mean, and its variance, are those of the
            difference.
        fewest: the number of clusters, or of images, on the side that has fewer.
    """

    columns: FloatArray
    fewest: int


def contrast(
    columns: FloatArray, inside: npt.NDArray[np.bool_], clusters: Clusters | None
) -> Contrast:
    """Compare the mean of some images with that of the others; a cluster may have images of both.

    Args:
        columns: float `[n, k]`.
        inside: bool `[n]`, with images on both sides.
        clusters: of the images; None if each image is one of its own.

    >>> columns = np.array([[1.0], [1.0], [0.0], [1.0]])
    >>> found = contrast(columns, np.array([True, True, False, False]), None)
    >>> float(found.columns.mean()), found.fewest
    (0.5, 2)
    """
    means = columns[inside].mean(axis=0), columns[~inside].mean(axis=0)
    first = (columns - means[0]) / inside.sum()
    excess = np.where(inside[:, None], first, (means[1] - columns) / (~inside).sum())
    sums = excess if clusters is None else clusters.sums(excess)
    sides = (inside, ~inside)
    counts = [
        int(side.sum()) if clusters is None else len(np.unique(clusters.of[side])) for side in sides
    ]
    return Contrast(means[0] - means[1] + sums * len(sums), min(counts))


def clusters_of(groups: Groups | None) -> Clusters | None:
    """Number the clusters of images in the order in which they first occur; None if unknown."""
    if groups is None or groups.clusters is None:
        return None
    return Clusters.of_names(groups.clusters)


def student(count: int, tests: int = 1) -> float:
    """Student's quantile for a 95 % interval from so many clusters.

    Args:
        count: at least 2.
        tests: for how many intervals the 95 % hold together, by Bonferroni's correction.

    >>> round(student(20), 3), round(student(20, tests=5), 3)
    (2.093, 2.861)
    """
    return float(scipy.special.stdtrit(count - 1, 1 - TAIL / tests))


def influences(columns: FloatArray, clusters: Clusters | None) -> FloatArray:
    """The columns of images if there are no clusters; else those of `Clusters.influences`."""
    return columns if clusters is None else clusters.influences(columns)
