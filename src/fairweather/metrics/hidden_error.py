"""How far the truth may lie where few images hide it from resampling.

If 3 of 3 images of a class are right, they are right in every resample too. So resamples say that
nothing is uncertain about the class, although half of its images may be wrong. Here each such share
gets Clopper and Pearson's exact interval. The part of it that resamples do not show is added to the
metric's interval, as variances are added.

Source: Zou and Donner 2008, Construction of Confidence Limits about Effect Measures, for adding the
squared distances from shares to the ends of their intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairweather.metrics.calibration import BinSums
from fairweather.metrics.classification import SENSITIVITY, CallShare
from fairweather.metrics.columns import ROUNDING, Z95, Ends, FloatArray, clopper_pearson, ratio
from fairweather.metrics.grouping import Grouping, independent_images
from fairweather.metrics.sample import Sample

# With fewer images on the rarer side of a share, resamples show too little of its uncertainty.
VERY_FEW = 10
# With fewer wrong images, or right ones, a calibration error that is small by chance has replicates
# that spread too little.
FEW_ERRORS = 30
# A class without images may still exist, if other classes have fewer images than this.
RARE = 5


class HiddenError(NamedTuple):
    """How far the truth may lie below and above, beyond what resamples show: squared distances.

    They add up as variances do.
    """

    below: float = 0.0
    above: float = 0.0

    def widen(self, value: float, low: float, high: float) -> Ends:
        """Move the ends of an interval away from the value.

        >>> HiddenError(9, 0).widen(10, 6, 11)
        (5.0, 11)
        """
        if self.below:
            low = value - float(np.hypot(max(value - low, 0), np.sqrt(self.below)))
        if self.above:
            high = value + float(np.hypot(max(high - value, 0), np.sqrt(self.above)))
        return low, high


NOTHING_HIDDEN = HiddenError()


class Observation(NamedTuple):
    """What a metric sees of its images."""

    sample: Sample
    """Counts each image once."""

    value: float
    """Of the metric."""

    worth: float = 1.0
    """How many images one image is worth."""

    grouping: Grouping | None = None
    """Of the sample's images, if they belong together."""

    @property
    def units(self) -> float:
        """The independent units of an image: 1, or those of whole groups."""
        if self.grouping is None:
            return 1.0
        return self.grouping.count / len(self.sample.predictions)


HiddenErrorFunction = Callable[[Observation], HiddenError]


def hidden_in_classes(rate: CallShare, average: str, seen: Observation) -> HiddenError:
    """What a mean over classes hides, of a share of each class.

    A share without a denominator, such as the PPV of a class that is never called, may be anything.
    So may that of a class without images, as long as other classes are as rare.

    Args:
        rate: such as `PPV`.
        average: "macro" or "weighted".
    """
    counts, value = seen.sample.counts, seen.value
    images, called = counts.images[:, 0], counts.called[:, 0]
    share = rate.value(counts)[:, 0]
    alone = seen.worth * _units_per_image(rate, seen)
    whole = rate.whole(counts)[:, 0] * alone
    occurs = images > 0 if rate is SENSITIVITY else images + called > 0
    known = occurs & ~np.isnan(share)
    centre = np.where(known, share, 0.5)
    x = centre / (2 - centre) if rate.bent else centre
    low, high = clopper_pearson(x, np.where(known, whole, 1))
    shown = Z95**2 * x * (1 - x) / np.where(known, whole, 1)
    if rate.bent:
        low, high = 2 * low / (1 + low), 2 * high / (1 + high)
        shown *= (2 / (1 + x) ** 2) ** 2
    few = known & (np.minimum(x, 1 - x) * whole < VERY_FEW)
    squares = [
        np.where(few, np.maximum((end - centre) ** 2 - shown, 0), 0)
        + np.where(occurs & ~known, (limit - value) ** 2, 0)
        for end, limit in ((low, 0), (high, 1))
    ]
    weight = images / counts.total if average == "weighted" else occurs / occurs.sum()
    below, above = (float((weight**2 * side).sum()) for side in squares)
    class_sizes = images * seen.worth * _units_per_image(SENSITIVITY, seen)
    absent = min(int((~occurs).sum()), int((occurs & (class_sizes < RARE)).sum()))
    if average == "weighted" or not absent:
        return HiddenError(below, above)
    classes = int(occurs.sum()) + absent
    if rate.among == "others":  # near 1 for a class that is neither there nor called
        return HiddenError(below, above + (absent * (1 - value) / classes) ** 2)
    return HiddenError(
        below + absent * (value / classes) ** 2, above + absent * ((1 - value) / classes) ** 2
    )


def _units_per_image(rate: CallShare, seen: Observation) -> FloatArray | float:
    """The groups with images of each class, or called so, per image of it; `[classes]`.

    Without such images, those of all images.
    """
    p, grouping = seen.sample.predictions, seen.grouping
    if grouping is None or rate.among == "others":
        return seen.units
    among = p.predicted if rate.among == "call" else p.labels
    pairs = np.unique(among * grouping.count + grouping.numbers) // grouping.count
    units, images = (
        np.bincount(part, minlength=len(p.classes)).astype(np.float64) for part in (pairs, among)
    )
    return np.where(images > 0, ratio(units, images), seen.units)


def hidden_among_answered(seen: Observation) -> HiddenError:
    """What the risk hides if all answered images are right, or all wrong: they may be few."""
    value = seen.value
    if 0 < value < 1:  # then the spread of the replicates is that of so many images
        return NOTHING_HIDDEN
    answered = float(seen.sample.total("answered")[0]) * seen.worth * seen.units
    low, high = clopper_pearson(value, answered)
    return HiddenError(float(value - low) ** 2, float(high - value) ** 2)


def hidden_larger_sets(seen: Observation) -> HiddenError:
    """What the mean size of prediction sets hides if few of them are larger than the smallest."""
    sizes, grouping = seen.sample.predictions.set_size, seen.grouping
    assert sizes is not None, "there are no prediction sets; ask `Metric.applies`"
    larger = sizes[sizes > sizes.min()] - sizes.min()
    count = len(sizes) * seen.worth if grouping is None else grouping.count
    share = len(larger) / len(sizes)
    if share * count >= VERY_FEW:
        return NOTHING_HIDDEN
    more = clopper_pearson(share, count)[1] - share
    return HiddenError(0.0, float(more * (larger.mean() if len(larger) else 1)) ** 2)


def hidden_in_levels(
    column: NDArray[np.floating], levels: FloatArray, seen: Observation
) -> HiddenError:
    """What a mean of few different numbers hides, where hardly any image has the large ones.

    The mean is a sum over levels of how much the level is above the one below it, times the share
    of images that reach it. The shares are of events inside each other, so what they hide adds up.

    Args:
        column: `[n]`, one of the levels for each image of `seen`.
        levels: all numbers that an image may have, ascending; also those that none has.
    """
    weights = seen.sample.weights[0] / float(seen.sample.weights[0].sum())
    count = len(column) * seen.worth * seen.units
    steps, share = np.diff(levels), np.array([weights @ (column >= level) for level in levels[1:]])
    few = np.minimum(share, 1 - share) * count < VERY_FEW
    low, high = clopper_pearson(share, count)
    below, above = (float(steps[few] @ side[few]) for side in (share - low, high - share))
    heights = np.concatenate([[0.0], np.cumsum(steps * few)])[np.searchsorted(levels, column)]
    mean = float(weights @ heights)
    shown = Z95**2 * float(weights @ np.square(heights - mean)) / count
    return HiddenError(max(below**2 - shown, 0.0), max(above**2 - shown, 0.0))


def hidden_in_strata(seen: Observation) -> HiddenError:
    """What the lowest coverage of several strata hides: the truth is at most that of each."""
    images, covered = np.split(seen.sample.strata[0], 2)
    units = images * seen.worth * seen.units
    share = covered / images
    few = np.minimum(share, 1 - share) * units < VERY_FEW
    low, high = clopper_pearson(share, units)
    below = (seen.value - low)[few].max(initial=0)
    above = (high - seen.value)[few & (share == seen.value)].max(initial=0)
    return HiddenError(float(below**2), float(above**2))


def hidden_errors(seen: Observation) -> HiddenError:
    """What a calibration error hides if very few images are wrong, or right.

    It is at least the distance of accuracy from mean confidence. So it may be as large as that of
    the lowest accuracy that the images allow.
    """
    far, s = _error_rate_reach(seen), seen.sample
    gap = float(np.abs(s.mean("confidence") - s.mean("correct"))[0])
    return HiddenError(far**2, max(far, gap + far - seen.value) ** 2) if far else NOTHING_HIDDEN


def hidden_in_root(bins: Callable[[Sample], BinSums], seen: Observation) -> HiddenError:
    """As `hidden_errors`, for the root of a mean square: further errors lie in the same bins.

    A rate of errors adds more to it if it is that of few images.
    """
    hidden, sums = hidden_errors(seen), bins(seen.sample)
    wrong = sums.correct < sums.images - ROUNDING
    part = float(sums.share[wrong].sum()) or 1.0
    return HiddenError(hidden.below / part, hidden.above / part)


def hidden_errors_of_classes(seen: Observation) -> HiddenError:
    """As `hidden_errors`, for the mean over classes: a wrong answer is an error of two of them."""
    far = _error_rate_reach(seen) * 2 / len(seen.sample.predictions.classes)
    return HiddenError(far**2, far**2)


def hidden_errors_of_grades(seen: Observation) -> HiddenError:
    """As `hidden_errors`, for the mean over thresholds: an error counts as far off as a guess is.

    Two classes drawn at random, but not the same, are (C + 1) / 3 grades apart on average.
    """
    classes = len(seen.sample.predictions.classes)
    far = _error_rate_reach(seen) * (classes + 1) / 3 / (classes - 1)
    return HiddenError(far**2, far**2)


def hidden_squares(seen: Observation) -> HiddenError:
    """As `hidden_errors`, for the square of a calibration error."""
    value, root = seen.value, np.sqrt(seen.value)
    below, above = np.sqrt(hidden_errors(seen._replace(value=root)))
    return HiddenError((value - max(root - below, 0) ** 2) ** 2, ((root + above) ** 2 - value) ** 2)


def hidden_in_bins(bins: Callable[[Sample], BinSums], seen: Observation) -> HiddenError:
    """As `hidden_errors`, for the largest gap of a bin: the truth is at least that of every bin."""
    if not _error_rate_reach(seen):
        return NOTHING_HIDDEN
    sums = bins(seen.sample)
    full = sums.images[0] > 0
    images, confidence, correct = (column[0, full] for column in sums)
    right, sure = correct / images, confidence / images
    ends = np.stack(clopper_pearson(right, images * seen.worth * seen.units))
    far = np.abs(ends - right).max(axis=0)[np.abs(right - sure).argmax()]
    most = np.abs(ends - sure).max()
    return HiddenError(float(far**2), float(max(0, most - seen.value) ** 2))


def _error_rate_reach(seen: Observation) -> float:
    """How far the true error rate may lie; 0 if resamples show it well enough."""
    s = seen.sample
    wrong = 1 - float(s.mean("correct")[0])
    count = float(s.total("images")[0])
    if seen.grouping is not None:
        count = min(count, independent_images(s.predictions.correct, seen.grouping))
    count *= seen.worth
    if min(wrong, 1 - wrong) * count >= FEW_ERRORS:
        return 0.0
    low, high = clopper_pearson(wrong, count)
    return float(max(wrong - low, high - wrong))
