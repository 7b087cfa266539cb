"""Estimate the accuracy on images without labels, and its range from past errors.

Each method gives a number for each image, whose mean is its estimate of the accuracy. On labelled
images under known shifts, its errors are known. These errors show how wrong it may be under a new
shift. This is an extrapolation: the range covers the truth with no known probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.calibration import confidence_gap
from fairweather.metrics.columns import (
    Z95,
    BoolArray,
    Ends,
    FloatArray,
    IntArray,
    Result,
    Weights,
    clopper_pearson,
    weighted_mean,
)
from fairweather.metrics.intervals import TAILS
from fairweather.metrics.selective import average_confidence
from fairweather.metrics.two_sample import EnergyDistance
from fairweather.metrics.unseen import RandomEffects

# Errors under fewer shifts say too little about a new shift.
FEWEST_SHIFTS = 3
# Past errors count if their shift moved the model's answers at most this many times as far as the
# new images do. docs/estimate.md compares other factors.
DISTANCE_FACTOR = 2.0
# A wider range says nothing.
WIDEST_RANGE = 0.5
# Instead of the number of a shift: the cell has unshifted images.
NO_SHIFT = -1


def difference_of_confidences(
    confidence: ArrayLike,
    known_confidence: ArrayLike,
    known_correct: ArrayLike,
    weights: Weights = None,
) -> Result:
    """Estimate the accuracy without labels: that on known images, minus the drop in confidence.

    It may leave [0, 1].

    Args:
        confidence: float `[n]` in [0, 1], on images without labels.
        known_confidence: float `[m]` in [0, 1], on labelled validation images of the same model.
        known_correct: bool `[m]`, on these.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Guillory et al. 2021, Predicting with Confidence on Unseen Distributions, section 3.

    >>> round(float(difference_of_confidences([0.5, 0.7], [0.9, 0.9], [True, False])), 3)
    0.2
    """
    gap = float(confidence_gap(known_confidence, known_correct))
    return average_confidence(confidence, weights) - gap


def seed_agreement(predicted: ArrayLike, others: ArrayLike, weights: Weights = None) -> Result:
    """Estimate the accuracy without labels: how often models with other seeds agree.

    Args:
        predicted: int `[n]`, the predicted classes of a model.
        others: int `[k, n]`, the predicted classes of models with the same recipe and other seeds.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Jiang et al. 2022, Assessing Generalization via Disagreement.

    >>> seed_agreement([0, 1, 1, 0], [[0, 1, 0, 0], [0, 1, 1, 1]])
    0.75
    """
    return weighted_mean(agreement_shares(predicted, others), weights)


def agreement_shares(predicted: ArrayLike, others: ArrayLike) -> FloatArray:
    """The share of the other models that agree on each image, `[n]`.

    >>> agreement_shares([0, 1], [[0, 0], [0, 1]]).tolist()
    [1.0, 0.5]
    """
    ours, theirs = np.asarray(predicted), np.asarray(others)
    if ours.ndim != 1 or theirs.ndim != 2 or theirs.shape[1:] != ours.shape or not len(theirs):
        raise InputError(
            "agreement needs predicted classes [n] and those of at least one other model [k, n], "
            f"found {list(ours.shape)} and {list(theirs.shape)}"
        )
    return np.asarray((theirs == ours).mean(axis=0))


class RangeCheck(NamedTuple):
    """How often ranges contained the truth under shifts that were not used to make them."""

    held: int
    """Cells whose accuracy was in the range."""

    told: int
    """Cells for which there was a range."""

    refused: int
    """Cells without a range."""


class AccuracyRange(NamedTuple):
    """The range of the accuracy, from an estimate and past errors."""

    method: int
    """The position of the method."""

    value: float
    """Its estimate, in [0, 1] and in the range."""

    low: float
    high: float | None
    """`low`, `high`: from the largest and the smallest past error; in [0, 1]. `high` is None where
    the range is one-sided."""

    shifts: int
    cells: int
    """`shifts`, `cells`: how many shifts, and levels of these, the errors come from; clean images
    are none."""

    @property
    def is_too_wide(self) -> bool:
        """Say whether it is too wide to be useful."""
        return (self.value if self.high is None else self.high) - self.low > WIDEST_RANGE

    def holds(self, accuracy: float) -> bool:
        """Say whether an accuracy is in the range."""
        return self.low <= accuracy and (self.high is None or accuracy <= self.high)


@dataclass(frozen=True)
class SiteErrors:
    """How wrong each method was at each site of the test images, fitted without that site."""

    errors: FloatArray
    """float64 `[sites, methods]`, estimate minus accuracy; at least five sites."""

    variances: FloatArray
    """float64 `[sites, methods]`, of these errors, by chance."""

    def take(self, chosen: BoolArray) -> SiteErrors:
        """Keep some sites."""
        return SiteErrors(self.errors[chosen], self.variances[chosen])


@dataclass(frozen=True)
class PastErrors:
    """How wrong each method was on images with labels, in cells: levels of shifts."""

    shift: IntArray
    """int64 `[cells]`, the number of each cell's shift; `NO_SHIFT` for clean images, whose errors
    count, but not as those of a shift."""

    errors: FloatArray
    """float64 `[cells, methods]`, estimate minus accuracy."""

    spreads: FloatArray
    """float64 `[cells, methods]`, the standard deviation, over images, of what each adds to that
    error."""

    distance: FloatArray
    distance_error: FloatArray
    """`distance`, `distance_error`: float64 `[cells]`, how far the model's answers are from those
    for validation images, and the standard error of that."""

    between: FloatArray
    between_error: FloatArray
    """`between`, `between_error`: float64 `[cells, cells]`, how far they are from those in each
    other cell."""

    sites: SiteErrors | None = None
    """The errors at sites; None for a run without five of them."""

    @cached_property
    def shifts(self) -> IntArray:
        """The numbers of the shifts, each once; clean images are none."""
        return np.unique(self.shift[self.shift != NO_SHIFT])

    def take(self, chosen: BoolArray) -> PastErrors:
        """Keep some cells."""
        pairs = np.ix_(chosen, chosen)
        return PastErrors(
            self.shift[chosen],
            self.errors[chosen],
            self.spreads[chosen],
            self.distance[chosen],
            self.distance_error[chosen],
            self.between[pairs],
            self.between_error[pairs],
            self.sites,
        )

    def mean_absolute(self) -> FloatArray:
        """The mean absolute error of each method, `[methods]`.

        Each shift and each site counts once, and so do the clean images.
        """
        errors = np.abs(self.errors)
        rows = [errors[self.shift == shift].mean(axis=0) for shift in np.unique(self.shift)]
        rows += [] if self.sites is None else list(np.abs(self.sites.errors))
        return np.asarray(np.mean(rows, axis=0))

    def best(self) -> int:
        """The method with the smallest mean absolute error; of equal ones the first."""
        return int(self.mean_absolute().argmin())

    def left_out(self) -> PastErrors:
        """The errors of the method chosen for each shift by its errors under the other shifts.

        So the choice does not use the shift on which it is judged.
        """
        errors, spreads = np.empty((len(self.shift), 1)), np.empty((len(self.shift), 1))
        for shift in np.unique(self.shift):
            out = self.shift == shift
            method = self.take(~out).best()
            errors[out, 0], spreads[out, 0] = self.errors[out, method], self.spreads[out, method]
        return replace(self, errors=errors, spreads=spreads, sites=None)

    def site_interval(self, variance: float) -> Ends:
        """The 95 % prediction interval of the error at an unseen site; (0, 0) without sites.

        The method is chosen for each site by its errors under shifts and at the other sites.

        Args:
            variance: of the error there, by chance.
        """
        if self.sites is None:
            return 0.0, 0.0
        places = np.arange(len(self.sites.errors))
        chosen = [replace(self, sites=self.sites.take(places != site)).best() for site in places]
        model = RandomEffects.fit(
            self.sites.errors[places, chosen], self.sites.variances[places, chosen]
        )
        low, high = model.quantiles(TAILS, variance)
        return low, high

    def as_far_as(self, distance: float) -> BoolArray:
        """The cells whose errors count for images at this distance, bool `[cells]`.

        They are at most `DISTANCE_FACTOR` times as far away. If these have fewer than
        `FEWEST_SHIFTS` shifts, the nearest cells with that many count.
        """
        near = self.distance <= DISTANCE_FACTOR * distance
        for reach in np.sort(self.distance):
            if len(self.take(near).shifts) >= FEWEST_SHIFTS:
                break
            near = self.distance <= max(reach, DISTANCE_FACTOR * distance)
        return np.asarray(near)

    def range(
        self, estimates: ArrayLike, images: int, distance: float, accuracy: FloatArray | None = None
    ) -> AccuracyRange:
        """The range of the accuracy: the estimate minus each past error of its method.

        The method is the one with the smallest past errors. Each error is enlarged by 1.96 standard
        errors for this number of images. The range spans all errors that count (`as_far_as`), and
        the exact 95 % interval of a share of this size among so many images. With sites, it also
        spans the prediction interval of the error at an unseen site.

        Images that differ from the validation images may do so in an unknown way. Then only the
        lower end has a meaning, and it reaches down to the model's lowest accuracy in a cell that
        counts.

        Args:
            estimates: float `[methods]`, what each method says of the images.
            images: their number.
            distance: how far the model's answers for them are from those for validation images.
            accuracy: float64 `[cells]`, of the model, if the images are unlike the validation
                images; otherwise None.

        Raises `InputError` if there are fewer than 3 shifts.
        """
        if len(self.shifts) < FEWEST_SHIFTS:
            raise InputError(
                f"a range needs errors under {FEWEST_SHIFTS} shifts, found {len(self.shifts)}"
            )
        method = self.best()
        counted = self.as_far_as(distance)
        near = self.left_out().take(counted)
        chance = Z95 * near.spreads / np.sqrt(images)
        estimate = float(np.asarray(estimates, dtype=np.float64)[method])
        least, most = self.site_interval(float(near.spreads.max()) ** 2 / images)
        largest = max(float((near.errors + chance).max()), most, 0.0)
        smallest = min(float((near.errors - chance).min()), least, 0.0)
        ends = np.clip([estimate, estimate - largest, estimate - smallest], 0, 1)
        value, low, high = ends.tolist()
        # Past errors without chance in them, such as 0, would make the range too certain.
        exact_low, exact_high = map(float, clopper_pearson(value, images))
        low, high = min(low, exact_low), max(high, exact_high)
        cells = int(np.count_nonzero(near.shift != NO_SHIFT))
        if accuracy is not None:
            low, high = min(low, float(accuracy[counted].min())), None
        return AccuracyRange(method, value, low, high, len(near.shifts), cells)

    def is_unknown(self, known: Sequence[EnergyDistance]) -> bool:
        """Say whether images are unlike all known ones, so that past errors mean nothing.

        They are if the nearest known images are significantly farther away than half of the cells
        are from the validation images.

        Args:
            known: how far they are from validation images and from the images of each cell.
        """
        nearest = min(known, key=lambda distance: distance.value)
        return bool(nearest.value - Z95 * nearest.error > np.median(self.distance))

    def judge(
        self,
        estimates: ArrayLike,
        images: int,
        distance: EnergyDistance,
        known: Sequence[EnergyDistance],
        accuracy: FloatArray | None = None,
    ) -> AccuracyRange | None:
        """The range of the accuracy; None if the images are unlike all known ones.

        Args:
            estimates: float `[methods]`, what each method says of the images.
            images: their number.
            distance: how far the model's answers for them are from those for validation images. It
                counts as large as it could be by chance.
            known: how far they are from those in each cell.
            accuracy: as for `range`.

        Raises `InputError` if there are fewer than 3 shifts.
        """
        if self.is_unknown([distance, *known]):
            return None
        return self.range(estimates, images, distance.value + Z95 * distance.error, accuracy)

    def held(
        self,
        estimates: FloatArray,
        accuracy: FloatArray,
        images: IntArray,
        *,
        one_sided: bool = False,
    ) -> RangeCheck:
        """How often the range of a cell, made from the other shifts alone, contained its accuracy.

        Cells of clean images do not count, because they have no shift.

        Args:
            estimates: float64 `[cells, methods]`.
            accuracy: float64 `[cells]`.
            images: int64 `[cells]`, the number of images of each cell.
            one_sided: make the ranges as for images that differ from the validation images.
        """
        places = np.flatnonzero(self.shift != NO_SHIFT)
        held = []
        for place in places:
            is_other = self.shift != self.shift[place]
            others = self.take(is_other)
            if len(others.shifts) < FEWEST_SHIFTS:
                continue
            distance = EnergyDistance(self.distance[place], self.distance_error[place])
            between = self.between[place, is_other], self.between_error[place, is_other]
            known = list(map(EnergyDistance, *between))
            of_others = accuracy[is_other] if one_sided else None
            count = int(images[place])
            bounds = others.judge(estimates[place], count, distance, known, of_others)
            if bounds is not None and not bounds.is_too_wide:
                held.append(bounds.holds(float(accuracy[place])))
        return RangeCheck(sum(held), len(held), len(places) - len(held))
