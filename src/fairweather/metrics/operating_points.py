"""Thresholds that keep a target sensitivity or specificity, chosen on validation images.

The sensitivity never rises with the threshold, and the specificity never falls. So thresholds are
tested in a fixed order, from the end where the target is safe, and the last one before the first
failure is taken: among those that keep the target, it has the best other rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.classification import merge_classes
from fairweather.metrics.columns import BoolArray, FloatArray, softmax
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.risk_control import TOLERANCE, hoeffding_bentkus_p, weigh_units
from fairweather.metrics.selective import fewest_for_risk
from fairweather.types.measurement import Predictions
from fairweather.types.operating_points import TargetRate

CONFIDENCE = 0.95  # with which a target is kept
MOST_DIGITS = 17  # of a threshold
NOTHING_CALLED = 1.01  # a threshold above every probability


def choose_threshold(
    probability: FloatArray,
    present: BoolArray,
    target: TargetRate,
    grouping: Grouping | None = None,
) -> float:
    """Choose the threshold that keeps a target in all but 5 % of draws of these images.

    Each threshold has a test: how rare would so few errors be if the true rate were below the
    target? Without groups, it is the exact binomial test of the images with the finding, or of
    those without it for a specificity. With groups, such as patients, the rate is the mean over
    groups of the share of each, and its test is that of Hoeffding and Bentkus; where no group has
    two of these images, it is the binomial test again.

    Args:
        probability: float `[n]`, of the class or finding.
        present: bool `[n]`, which images have it.
        target: what is to be kept.
        grouping: which images belong together.

    Returns:
        An image is called where its probability is at least this; `NOTHING_CALLED` where none may
        be.

    Raises:
        InputError: so few images could not show the target without any error.

    Source: Angelopoulos et al. 2021, Learn then Test, section 2.3 and proposition 2.

    >>> present = np.arange(200) >= 100
    >>> choose_threshold(np.linspace(0, 1, 200), present, TargetRate("sensitivity", 0.9))
    0.52
    """
    sought = present if target.rate == "sensitivity" else ~present
    allowed = round(1 - target.value, 12)
    units = count_sought(present, target, grouping)
    if units < fewest_for_target(target):
        raise InputError(explain_few(target, units, grouped=grouping is not None))
    weights = weigh_units(sought[:, None], grouping)[sought, 0]
    # Errors are on the low side of the threshold for a sensitivity, and on its high side else.
    scores = probability[sought] if target.rate == "sensitivity" else -probability[sought]
    levels, places = np.unique(scores, return_inverse=True)
    errors = np.cumsum(np.bincount(places, weights=weights))
    errors = np.concatenate([[0.0], errors[:-1]])
    if (weights == 1).all():
        p = scipy.special.bdtr(np.round(errors), units, allowed)
    else:
        p = hoeffding_bentkus_p(errors / units, units, allowed)
    last = float(levels[np.flatnonzero(p <= 1 - CONFIDENCE + TOLERANCE)[-1]])
    if target.rate == "sensitivity":
        below = probability[probability < last]
        return shorten_threshold(float(below.max(initial=0.0)), last)
    above = probability[probability > -last]
    return shorten_threshold(-last, float(above.min(initial=1.0)))


def choose_thresholds(
    predictions: Predictions,
    points: Mapping[str, tuple[int | range, TargetRate]],
    grouping: Grouping | None = None,
) -> dict[str, float]:
    """Choose the threshold of each target that clean validation images can show.

    Args:
        predictions: with logits.
        points: class, or grades from one on, and target, by what stands in the name of a metric.
        grouping: which images belong together.
    """
    if not points or predictions.logits is None:
        return {}
    chosen = {}
    for name, (label, target) in points.items():
        of_two, place = predictions, label
        if isinstance(label, range):
            of_two, place = merge_classes(predictions, label.start), 1
        assert of_two.logits is not None
        present = of_two.labels == place
        if count_sought(present, target, grouping) >= fewest_for_target(target):
            probability = softmax(of_two.logits)[:, place]
            chosen[name] = choose_threshold(probability, present, target, grouping)
    return chosen


def shorten_threshold(low: float, high: float) -> float:
    """The decimal with the fewest digits in `(low, high]`, which all make the same calls.

    >>> shorten_threshold(0.2871, 0.3114), shorten_threshold(1.0, 1.0)
    (0.3, 1.01)
    """
    if low >= high:
        return high if high < 1 else NOTHING_CALLED
    for digits in range(1, MOST_DIGITS):
        short = math.floor(high * 10**digits) / 10**digits
        if low < short <= high:
            return short
    return high


def count_sought(present: BoolArray, target: TargetRate, grouping: Grouping | None = None) -> int:
    """Count the images, or groups, that a target is about: with the finding, or without it.

    >>> present = np.array([True, False, False])
    >>> count_sought(present, TargetRate("sensitivity", 0.9)), count_sought(
    ...     present, TargetRate("specificity", 0.9), Grouping(np.array([0, 1, 1]))
    ... )
    (1, 1)
    """
    sought = present if target.rate == "sensitivity" else ~present
    return int(sought.sum() if grouping is None else len(np.unique(grouping.numbers[sought])))


def fewest_for_target(target: TargetRate) -> int:
    """The fewest images, or groups, that can show a target, which they do without any error.

    >>> [fewest_for_target(TargetRate("sensitivity", value)) for value in (0.9, 0.95)]
    [29, 59]
    """
    return fewest_for_risk(round(1 - target.value, 12), CONFIDENCE)


def explain_few(target: TargetRate, units: int, *, grouped: bool, name: str = "") -> str:
    """Say how many validation images a target of a class or finding needs.

    >>> print(explain_few(TargetRate("sensitivity", 0.95), 20, grouped=False, name="Mass"))
    95 % sensitivity of Mass with 95 % confidence needs at least 59 validation images that have it,
    found 20
    """
    have = "have it" if target.rate == "sensitivity" else "do not have it"
    images = "groups of validation images" if grouped else "validation images"
    return (
        f"{100 * target.value:g} % {target.rate}{f' of {name}' if name else ''} with "
        f"{100 * CONFIDENCE:g} % confidence needs at least {fewest_for_target(target):,} {images} "
        f"that {have}, found {units:,}"
    )
