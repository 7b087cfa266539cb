"""A model beside people who call the same images, such as radiologists.

A reader is a point beside the model's ROC curve: one sensitivity and one specificity. So the model
is compared at the reader's specificity, or at the reader's sensitivity, as its curve passes there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import TAIL, Z95, BoolArray, FloatArray, IntArray, blocks, ratio
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.intervals import (
    COUNTS_AT_ONCE,
    Estimate,
    bonett_price_interval,
    percentiles,
    to_score,
)
from fairweather.metrics.sample import draw_counts
from fairweather.types.measurement import UNKNOWN, Score

FEWEST_READERS = 3  # with fewer, their calls say too little about those of other readers
ROUNDING = 1e-9
FEWEST_DIFFERING = 6  # of fewer images, an exact test of two shares has no p-value below 5 %


class ReaderPoint(NamedTuple):
    """Sensitivity and specificity of a reader."""

    sensitivity: Score
    specificity: Score


class ReaderComparison(NamedTuple):
    """A model beside a reader, or beside the mean of all."""

    reader: ReaderPoint
    sensitivity: float
    """Of the model at the reader's specificity."""

    more_sensitive: Score
    """That minus the reader's sensitivity."""

    specificity: float
    """Of the model at the reader's sensitivity."""

    more_specific: Score
    """That minus the reader's specificity."""

    threshold: float
    """The smallest score that the model calls at the reader's specificity."""


class RandomReaders(NamedTuple):
    """The mean over readers, with an interval that covers other readers and other images."""

    mean: float
    low: float
    high: float
    """`low`, `high`: the 95 % interval."""

    freedom: float
    """Degrees of freedom of Student's t."""

    p: float
    """The p-value of a mean of 0, two-sided."""


class Average(NamedTuple):
    """A mean over readers."""

    fixed: Score
    """Its interval is about these readers on other images."""

    random: RandomReaders | None
    """Its interval is about other readers too; None with fewer than `FEWEST_READERS`."""


class ModelBesideReaders(NamedTuple):
    """A model beside each reader, beside the mean reader, and beside readers on average."""

    readers: tuple[ReaderComparison | None, ...]
    """None for a reader who has not read images of both kinds."""

    mean: ReaderComparison
    """The mean reader has the mean sensitivity and the mean specificity of all."""

    averages: tuple[Average, Average]
    """The means over readers of `more_sensitive` and of `more_specific`."""


class RocCurves(NamedTuple):
    """The ROC curve of each row of weights, as sums of weights above each level of the scores."""

    hits: FloatArray
    """float64 `[B, levels + 1]`, of positive images."""

    alarms: FloatArray
    """float64 `[B, levels + 1]`, of the others."""

    @classmethod
    def trace(cls, scores: FloatArray, positive: BoolArray, rows: NDArray[np.generic]) -> RocCurves:
        """Trace the curves of some weights `[B, n]`."""
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        counts = rows[:, order].astype(np.float64)
        sums = (np.cumsum(counts * side[order], axis=1)[:, ends] for side in (positive, ~positive))
        return cls(*(np.pad(above, ((0, 0), (1, 0))) for above in sums))

    def sensitivity(self, specificity: FloatArray) -> FloatArray:
        """The sensitivity of each curve where it has a specificity, `[B]`; NaN if it is unknown.

        Equal scores make a slanted piece of the curve, on which it is interpolated. Where the curve
        is vertical, its upper end counts: the middle would be too low on average, since the curve
        bends.

        >>> scores, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
        >>> curves = RocCurves.trace(scores, positive, np.ones((2, 4)))
        >>> curves.sensitivity(np.array([1.0, 0.5])).tolist()
        [0.5, 1.0]
        """
        rows, count = np.arange(len(self.hits)), self.alarms.shape[1]
        target = np.nan_to_num((1 - specificity) * self.alarms[:, -1])
        apart = 1 + self.alarms[:, -1].max()  # so that one search serves all rows
        flat = (self.alarms + apart * rows[:, None]).ravel()
        after = np.searchsorted(flat, target + ROUNDING * count + apart * rows, side="right")
        last = after - 1 - count * rows
        following = np.minimum(last + 1, count - 1)
        width = self.alarms[rows, following] - self.alarms[rows, last]
        part = np.where(width > 0, (target - self.alarms[rows, last]) / np.maximum(width, 1), 0)
        part = np.clip(part, 0, 1)
        hits = (1 - part) * self.hits[rows, last] + part * self.hits[rows, following]
        known = (self.alarms[:, -1] > 0) & ~np.isnan(specificity)
        return np.where(known, ratio(hits, self.hits[:, -1]), np.nan)

    def specificity(self, sensitivity: FloatArray) -> FloatArray:
        """The specificity of each curve where it has a sensitivity, `[B]`."""
        below = (sums[:, -1:] - sums[:, ::-1] for sums in (self.alarms, self.hits))
        return RocCurves(*below).sensitivity(sensitivity)


def threshold_at(scores: FloatArray, positive: BoolArray, specificity: float) -> float:
    """The smallest score from which on calls have at least a specificity; infinite for no call.

    >>> threshold_at(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 1.0)
    0.9
    """
    levels = np.unique(scores)
    negatives = np.sort(scores[~positive])
    alarms = len(negatives) - np.searchsorted(negatives, levels, side="left")
    kept = levels[alarms <= (1 - specificity) * len(negatives) + ROUNDING * len(scores)]
    return float(kept[0]) if len(kept) else np.inf


def reader_points(
    positive: BoolArray, calls: IntArray, grouping: Grouping | None = None
) -> list[ReaderPoint]:
    """The sensitivity and specificity of each reader, with 95 % intervals over images.

    The intervals are Clopper and Pearson's, or those of `share_interval` for groups.

    Args:
        positive: bool `[n]`, which images have the finding.
        calls: int `[n, R]`, 1 or 0; `UNKNOWN` where a reader did not call.
        grouping: which images belong together.

    >>> (point,) = reader_points(np.array([True, True, False]), np.array([[1], [0], [0]]))
    >>> point.sensitivity.value, point.specificity.value, point.specificity.n
    (0.5, 1.0, 1)
    """
    points = []
    for column in calls.T:
        part = np.where(column == UNKNOWN, -1, np.where(positive, 0, 1))
        right = (column == 1) == positive
        low, high = share_interval(right, part, 2, grouping)
        sides = [right[part == side] for side in (0, 1)]
        points.append(
            ReaderPoint(
                *(
                    Score(float(own.mean()) if len(own) else np.nan, float(a), float(b), len(own))
                    for own, a, b in zip(sides, low, high, strict=True)
                )
            )
        )
    return points


def compare_with_readers(
    scores: FloatArray,
    positive: BoolArray,
    calls: IntArray,
    resamples: int = 1000,
    grouping: Grouping | None = None,
    seed: int = 0,
) -> ModelBesideReaders | None:
    """Compare a model with readers at their specificity and at their sensitivity.

    A threshold of the model is found on the same images. Each resample of the images, or groups,
    finds it again, with the reader's calls for these images. So intervals cover its uncertainty,
    and images that are hard for both cancel.

    Args:
        scores: float `[n]`, of the model, higher for the positive images.
        positive: bool `[n]`, which images have the finding.
        calls: int `[n, R]`, 1 or 0; `UNKNOWN` where a reader did not call.
        resamples: how many resamples of the images.
        grouping: which images belong together.
        seed: of the resamples.

    Returns:
        None if no reader has read images of both kinds.

    >>> positive = np.arange(40) < 20
    >>> calls = np.where(np.arange(40) % 20 < 5, ~positive, positive).astype(int)[:, None]
    >>> compared = compare_with_readers(positive + 0.0, positive, calls, resamples=100)
    >>> compared.readers[0].sensitivity, compared.readers[0].more_sensitive.value
    (1.0, 0.25)
    """
    points = reader_points(positive, calls, grouping)
    able = [not np.isnan([p.sensitivity.value, p.specificity.value]).any() for p in points]
    if not any(able):
        return None
    weights = draw_counts(len(scores), resamples, seed, grouping)
    rows = np.concatenate([np.ones((1, len(scores)), weights.dtype), weights])
    able_calls = calls[:, able]
    parts = [
        _trace_readers(scores, positive, able_calls, rows[block])
        for block in blocks(len(rows), len(scores), COUNTS_AT_ONCE)
    ]
    beside = _Beside(*(np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))
    images = _Images(np.asarray(scores, dtype=np.float64), positive, grouping)
    compared: list[ReaderComparison | None] = [None] * len(points)
    for at, reader in enumerate(np.flatnonzero(able)):
        read = images.select(calls[:, reader] != UNKNOWN)
        compared[reader] = read.compare(points[reader], beside.reader[at], beside.model[at])
    anybody = images.select((able_calls != UNKNOWN).any(axis=1))
    mean = beside.reader.mean(axis=0)
    point = ReaderPoint(*(anybody.score_mean(side, mean[side]) for side in range(2)))
    differences = beside.model - beside.reader
    first, second = (
        anybody.average(side, differences[:, side].T, float(mean[1 - side, 0])) for side in range(2)
    )
    return ModelBesideReaders(
        tuple(compared), anybody.compare(point, mean, beside.at_mean), (first, second)
    )


class _Beside(NamedTuple):
    """Sensitivity and specificity, on the images and on each of B resamples."""

    reader: FloatArray
    """`[R, 2, 1 + B]`."""

    model: FloatArray
    """`[R, 2, 1 + B]`, where the curve has the reader's specificity, and the sensitivity."""

    at_mean: FloatArray
    """`[2, 1 + B]`, where the curve has those of the mean reader."""


def _trace_readers(
    scores: FloatArray, positive: BoolArray, calls: IntArray, rows: NDArray[np.generic]
) -> _Beside:
    """Trace readers and the curves that they stand beside, for some rows of weights."""
    curves: dict[bytes, RocCurves] = {}

    def meet(read: BoolArray, point: FloatArray) -> FloatArray:
        name = read.tobytes()
        if name not in curves:
            curves[name] = RocCurves.trace(scores[read], positive[read], rows[:, read])
        own = curves[name]
        return np.stack([own.sensitivity(point[1]), own.specificity(point[0])])

    readers, models = [], []
    weights = rows.astype(np.float64)
    for column in calls.T:
        read, right = column != UNKNOWN, (column == 1) == positive
        sides = [read & positive, read & ~positive]
        readers.append(
            np.stack([ratio(weights @ (right & side), weights @ side) for side in sides])
        )
        models.append(meet(read, readers[-1]))
    own = np.stack(readers)
    anybody = (calls != UNKNOWN).any(axis=1)
    return _Beside(own, np.stack(models), meet(anybody, own.mean(axis=0)))


class _Images(NamedTuple):
    """Images that a reader has called, with a model's scores."""

    scores: FloatArray
    positive: BoolArray
    grouping: Grouping | None

    def select(self, chosen: BoolArray) -> _Images:
        """Keep some images."""
        grouping = self.grouping and self.grouping.select(np.flatnonzero(chosen))
        return _Images(self.scores[chosen], self.positive[chosen], grouping)

    def compare(
        self, point: ReaderPoint, reader: FloatArray, model: FloatArray
    ) -> ReaderComparison:
        """The model beside a reader, `[2, 1 + B]` each."""
        first, second = (
            self.score_difference(side, model[side] - reader[side], float(reader[1 - side, 0]))
            for side in range(2)
        )
        threshold = threshold_at(self.scores, self.positive, float(reader[1, 0]))
        return ReaderComparison(
            point, float(model[0, 0]), first, float(model[1, 0]), second, threshold
        )

    def count(self, side: int) -> int:
        """How many images are positive, or negative."""
        return int((self.positive == (side == 0)).sum())

    def units(self, side: int) -> int:
        """How many images are positive, or negative, or how many groups have one."""
        if self.grouping is None:
            return self.count(side)
        return len(np.unique(self.grouping.numbers[self.positive == (side == 0)]))

    def widen(self, side: int, values: FloatArray, right: float) -> FloatArray:
        """Replicates with the spread that few images leave unseen; see `widening`.

        A threshold that leaves k images on its short side has the spread of the k-th smallest of
        many numbers, which is known with about 2k degrees of freedom.

        Args:
            side: 0 for sensitivity, at a threshold on negative images; 1 for specificity.
            values: the value and its replicates, `[1 + B, ...]`.
            right: the reader's share of right calls on the side of the threshold.
        """
        replicates = values[1:][~np.isnan(values[1:]).reshape(len(values) - 1, -1).any(axis=1)]
        units, images = min(self.units(0), self.units(1)), self.count(1 - side)
        if units < 2 or not len(replicates):
            return np.full_like(values[:1], np.nan)
        beyond = max(min(right, 1 - right) * images, 1.0)
        freedom = min(units - 1.0, 2 * beyond)
        factor = float(scipy.special.stdtrit(freedom, 1 - TAIL)) / Z95
        factor *= float(np.sqrt(units / (units - 1)))
        return np.asarray(replicates.mean(axis=0) + factor * (replicates - replicates.mean(axis=0)))

    def score_mean(self, side: int, values: FloatArray) -> Score:
        """The mean of readers' sensitivities, or specificities."""
        groups = None if self.grouping is None else self.grouping.count
        replicates = self.widen(side, values, 0.5)
        units, count = self.units(side), self.count(side)
        estimate = Estimate(
            float(values[0]), replicates, count, "conditional", errors=units, groups=groups
        )
        return to_score(estimate, (0.0, 1.0))

    def score_difference(self, side: int, values: FloatArray, right: float) -> Score:
        """A difference in sensitivity, or specificity."""
        value, units = float(values[0]), self.units(side)
        replicates = self.widen(side, values, right)
        if np.isnan(replicates).any():
            return Score(value, np.nan, np.nan, self.count(side))
        # So few images or groups that differ show no difference, not even in an exact test.
        differing = units * (units * float(replicates.var()) + value**2)
        if np.ptp(replicates) < ROUNDING:  # each image differs, or none
            low, high = bonett_price_interval(value, np.full(1, value), units)
        elif differing < FEWEST_DIFFERING:
            low, high = bonett_price_interval(value, replicates, units)
        else:
            low, high = percentiles(replicates)
        ends = max(min(low, value), -1.0), min(max(high, value), 1.0)
        return Score(value, *ends, self.count(side))

    def average(self, side: int, differences: FloatArray, right: float) -> Average:
        """The mean over readers of differences `[1 + B, R]`, for these readers and for others."""
        fixed = self.score_difference(side, differences.mean(axis=1), right)
        if differences.shape[1] < FEWEST_READERS or np.isnan(fixed.low):
            return Average(fixed, None)
        covariance = np.cov(self.widen(side, differences, right), rowvar=False)
        random = average_over_readers(differences[0], covariance)
        # Other readers are never surer than these, whose interval counts rare differences too.
        ends = np.fmin(random.low, fixed.low), np.fmax(random.high, fixed.high)
        return Average(fixed, random._replace(low=float(ends[0]), high=float(ends[1])))


def average_over_readers(
    values: Sequence[float] | FloatArray, covariance: FloatArray
) -> RandomReaders:
    """The mean over readers who are a sample of all readers, on images that are a sample too.

    It is the analysis of Obuchowski and Rockette for one treatment. The difference between a model
    and each reader is such a value.

    Args:
        values: float `[R]`, one for each of at least three readers.
        covariance: float `[R, R]`, of these over images.

    Source: Obuchowski and Rockette 1995, Hypothesis Testing of Diagnostic Accuracy for Multiple
    Readers and Multiple Tests; Hillis 2014, A Marginal-mean ANOVA Approach for Analyzing
    Multireader Multicase Radiological Imaging Data, for the degrees of freedom. For differences
    from a model: Chakraborty 2017, Observer Performance Methods for Diagnostic Imaging, chapter 22.

    >>> readers = average_over_readers([0.1, 0.2, 0.3], np.full((3, 3), 0.001))
    >>> round(readers.low, 3), round(readers.high, 3), round(readers.freedom, 2)
    (0.003, 0.397, 3.38)
    """
    theta, count = np.asarray(values, dtype=np.float64), len(values)
    if count < FEWEST_READERS:
        raise InputError(
            f"{count} readers are too few to speak of other readers: at least {FEWEST_READERS}"
        )
    between = float(theta.var(ddof=1))
    off_diagonal = (covariance.sum() - np.trace(covariance)) / (count * (count - 1))
    shared = max(count * float(off_diagonal), 0.0)
    # Other readers cannot make the mean surer than these readers make it.
    total = max(between + shared, count * float(covariance.mean()))
    mean, error = float(theta.mean()), float(np.sqrt(total / count))
    if not error:
        return RandomReaders(mean, np.nan, np.nan, np.nan, np.nan)
    # If all readers have one value, only images vary.
    freedom = (count - 1) * (total / max(between, ROUNDING**2)) ** 2
    reach = float(scipy.special.stdtrit(freedom, 1 - TAIL)) * error
    p = float(2 * scipy.special.stdtr(freedom, -abs(mean) / error))
    return RandomReaders(mean, mean - reach, mean + reach, float(freedom), p)
