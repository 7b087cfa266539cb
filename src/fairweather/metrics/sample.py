"""What a metric is given: a cell's columns, how often each image counts, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.metrics.calibration import BinSums
from fairweather.metrics.ordered import (
    ConfidenceOrder,
    LevelSums,
    level_and_bin_sums,
    mass_cuts,
    size_cuts,
    width_places,
)
from fairweather.metrics.prepared import BINS, PER_BIN, Prepared
from fairweather.metrics.weights import FloatArray, sum_by_label
from fairweather.types import Predictions


class OrderedSums(NamedTuple):
    """Sums over the images of each resample in order of confidence.

    Attributes:
        levels: below each group of confidences.
        equal_width, equal_mass: of 10 bins.
        hundreds: of bins of 100 images, the last with up to 199.
    """

    levels: LevelSums
    equal_width: BinSums
    equal_mass: BinSums
    hundreds: BinSums


@dataclass(frozen=True)
class Sample:
    """Some resamples of one cell's images; what metrics share is added up when one asks for it.

    A metric may also hand `predictions` and `weights`, which are in the same order, to a function
    of columns: that is right, and slower.

    Attributes:
        prepared: the cell.
        order: its images in order of confidence.
        weights: how often each image counts, `[B, n]`, in the order of `predictions`.
    """

    prepared: Prepared
    order: ConfidenceOrder
    weights: npt.NDArray[Any]

    @property
    def predictions(self) -> Predictions:
        """The cell's columns, in the order of `weights`."""
        return self.prepared.predictions

    @cached_property
    def _means(self) -> FloatArray:
        return sum_by_label(self.weights, self.prepared.means.matrix, self.prepared.bounds)

    @cached_property
    def _by_class(self) -> FloatArray:
        return sum_by_label(self.weights, self.prepared.by_class.matrix, self.prepared.bounds)

    def by_label(self, column: str) -> FloatArray:
        """Sums of a column of `Prepared.means` over the images of each label there is, `[k, B]`."""
        return self._means[:, :, self.prepared.means.places[column].start]

    def by_label_and_class(self, column: str) -> FloatArray:
        """Sums of `Prepared.by_class` over the images of each label there is, `[k, B, columns]`."""
        return self._by_class[:, :, self.prepared.by_class.places[column]]

    def total(self, column: str) -> FloatArray:
        """Sum of a column of `Prepared.means` over all images, `[B]`."""
        return np.asarray(self.by_label(column).sum(axis=0))

    def mean(self, column: str) -> FloatArray:
        """Mean of a column of `Prepared.means` over all images, `[B]`."""
        return self.total(column) / self.total("images")

    @cached_property
    def ordered(self) -> OrderedSums:
        """Sums over the images in order of confidence, all in one pass over the weights."""
        totals = self.total("images")
        width = width_places(self.order, BINS)
        cuts = [mass_cuts(totals, BINS), size_cuts(totals, PER_BIN)]
        levels, below = level_and_bin_sums(
            self.order, self.weights, totals, width, np.concatenate(cuts, axis=1)
        )
        bins = np.split(below, [len(width), len(width) + cuts[0].shape[1]], axis=2)
        return OrderedSums(levels, *map(BinSums.between, bins))
