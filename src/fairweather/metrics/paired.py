"""Compare two models on the same images: tests and intervals of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.areas import column_spread
from fairweather.metrics.bounded_means import betting_interval
from fairweather.metrics.columns import Ends, FloatArray, check_columns
from fairweather.metrics.grouping import zou_donner_interval
from fairweather.metrics.hidden_error import HiddenError
from fairweather.metrics.intervals import (
    NOT_STRETCHED,
    TAILS,
    Estimate,
    bonett_price_interval,
    image_interval,
    percentiles,
    signed_root,
    signed_square,
    skewed_interval,
    unbiased_skewed_interval,
)
from fairweather.metrics.seeds import SeedVariance, seed_variance, widen_for_seeds
from fairweather.types.measurement import Score

# The kinds of intervals of values that may lie outside [0, 1].
UNCLIPPED = ("percentile", "skewed", "difference", "centred")


class McNemar(NamedTuple):
    """McNemar's exact test of equal accuracy."""

    b: int
    """Images that only the first model gets right."""

    c: int
    """Images that only the second gets right."""

    p: float
    """The probability that equally accurate models differ at least that much, in (0, 1]."""


class SeedSummary(NamedTuple):
    """Mean, standard deviation and count over trainings that differ only in their seed."""

    mean: float
    sd: float
    n: int


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Test whether two models are equally accurate, on images that both were predicted on.

    Images that both get right, or both get wrong, do not show which model is better. On the other
    images, each of two equally accurate models is right half of the time. The p-value is two-sided,
    from the binomial distribution: it is valid for few images too, and too large rather than too
    small.

    Args:
        correct_a, correct_b: bool `[n]`, the same images in the same order.

    Source: McNemar 1947, Note on the sampling error of the difference between correlated
    proportions or percentages, in its exact form.

    >>> mcnemar_exact([True] * 6 + [False] * 2, [False] * 6 + [False, True])
    McNemar(b=6, c=1, p=0.125)
    """
    check_columns(correct_a=correct_a, correct_b=correct_b)
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    tail = scipy.special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)
    return McNemar(only_a, only_b, min(1.0, 2 * float(tail)))


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjust p-values for the number of tests, by Holm's method.

    If all tests with an adjusted p-value below 5 % are rejected, the probability of one or more
    false rejections is at most 5 %. This holds for any set of true hypotheses, and for dependent
    tests, such as tests on the same images.

    Args:
        p_values: float `[tests]` in [0, 1].

    Returns:
        `[tests]` in [0, 1], in the same order, none smaller than before.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # NaN fails the comparison too
        raise InputError("p-values must be [tests] and in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepwise = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepwise), 1)
    return adjusted


def paired_difference(first: Estimate, second: Estimate) -> Score:
    """Second minus first, with its 95 % interval.

    Both must have been computed with the same weights (`bootstrap_weights`) on the same images in
    the same order. Images that are hard for both models then cancel, and the interval is narrower
    than the two separate intervals suggest. It spans the middle 95 % of the differences of the
    replicates, and is widened if needed to contain the difference. It is NaN if one of the two
    values has too few errors for an interval.

    A value that is found by a search has no replicates that show its error (`Metric.search`). Its
    difference has the interval of two independent values (`zou_donner_interval`), which is too
    wide rather than too narrow on the same images.

    If an estimate is the mean over the seeds of a recipe, the interval covers other seeds too.
    Seeds of two recipes are treated as independent, even if their numbers are equal. A single seed
    is treated as one fixed trained network. For two values of the same trained networks, use
    `paired_change`.

    If the models differ on fewer than `FEW_IMAGES` images, the percentiles of a difference of
    accuracies are too narrow. If they never differ, they have no width. Then the interval is that
    of Bonett and Price, which adds one image for each side. For values that depend most on a few
    images, the skewness of the differences is corrected (`skewed_interval`). What resamples of the
    two values hide (`Estimate.hidden`) is added for both.

    The difference of two areas under curves uses the difference of their columns, which is DeLong's
    paired method, with Student's t (`column_spread`). It is widened by the difference of their
    biases. If one of the two is 0 or 1, it is the interval of Zou and Donner, from those of both
    (`zou_donner_interval`).

    The noise of the bins inflates binned calibration errors, and resampling inflates them once
    more. Between two models this cancels only in part, and not at all if one is calibrated and the
    other far from it. So the replicates of each model are first corrected, in the same ways as in
    `to_score`. For example, a replicate r of a root mean square with the value v becomes
    sqrt(max(2v² − r², 0)). Then the differences are taken, and each end is the outermost of all
    ways. The difference itself is that of the uncorrected values, so it may be near an end. For
    calibration errors, an interval that includes 0 does not mean that two models are equally
    calibrated: with few images it contains many other values too.

    Raises:
        InputError: the estimates differ in their number of images or of resamples, or in their kind
            of interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13, for the
    percentile interval; `bonett_price_interval` and `skewed_interval` name their own sources, and
    `metrics.seeds` the source for seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_difference(low, high).value.__round__(3)
    0.2
    """
    recipes = [recipe.subtracted() for recipe in _recipes(first)] + _recipes(second)
    return _difference(first, second, recipes)


def paired_change(first: Estimate, second: Estimate) -> Score:
    """Second minus first for the same trained networks, for example from clean to shifted images.

    As `paired_difference`, but with several seeds the change is computed for each seed, so that
    what a seed contributes to both values cancels.

    Raises:
        InputError: as in `paired_difference`, or different numbers of seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_change(low, high) == paired_difference(low, high)
    True
    """
    if len(first.of_seeds) != len(second.of_seeds):
        raise InputError(
            "a change needs the same trained networks on both sides, found "
            f"{max(1, len(first.of_seeds))} and {max(1, len(second.of_seeds))} seeds"
        )
    pairs = list(zip(first.of_seeds, second.of_seeds, strict=True))
    if len(pairs) < 2:
        return _difference(first, second, [])
    values = [after.value - before.value for before, after in pairs]
    replicates = [_comparable(after)[0] - _comparable(before)[0] for before, after in pairs]
    return _difference(first, second, [seed_variance(values, replicates)])


def bounded_change(first: Estimate, second: Estimate) -> Score | None:
    """`paired_change` with an interval for any number of errors; None if there is none.

    It is the `betting_interval` of the differences of the losses on each image, or in each group.
    With several seeds, it covers other seeds as well.

    Args:
        first, second: of the same images and seeds, with `Estimate.losses`.

    >>> from fairweather.metrics.bounded_means import BoundedLosses
    >>> sides = [BoundedLosses((np.arange(500) < k) * 1.0, 0, 1) for k in (10, 30)]
    >>> values = (Estimate(float(s.values.mean()), np.zeros(2), 500, losses=s) for s in sides)
    >>> [round(number, 3) for number in bounded_change(*values)[:3]]
    [0.04, 0.019, 0.074]
    """
    if first.losses is None or second.losses is None:
        return None
    value = second.value - first.value
    ends = betting_interval(second.losses.minus(first.losses))
    pairs = list(zip(first.of_seeds, second.of_seeds, strict=True))
    recipes = []
    if len(pairs) > 1:
        values = [after.value - before.value for before, after in pairs]
        replicates = [after.replicates - before.replicates for before, after in pairs]
        recipes = [seed_variance(values, replicates)]
    low, high = widen_for_seeds(ends, value, first.n, recipes)
    return Score(value, min(low, value), max(high, value), first.n)


def _recipes(estimate: Estimate) -> list[SeedVariance]:
    """The recipes of an estimate, with the bounds that `stretch_near_bounds` needs."""
    if estimate.interval not in (*UNCLIPPED, *NOT_STRETCHED):
        return [recipe._replace(bounds=(0.0, 1.0)) for recipe in estimate.recipes]
    return estimate.recipes


def _difference(first: Estimate, second: Estimate, recipes: Sequence[SeedVariance]) -> Score:
    kinds = [(side.n, side.draws.shape, side.interval) for side in (first, second)]
    if kinds[0] != kinds[1]:
        raise InputError(
            "a paired difference needs the same images, resamples and interval, found "
            + " and ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in kinds)
        )
    value = second.value - first.value
    differences = _comparable(second) - _comparable(first)
    differences = differences[:, ~np.isnan(differences[0])]
    if np.isnan(value) or not differences.size or first.too_few or second.too_few:
        return Score(value, np.nan, np.nan, first.n)
    centre, single, differ = value, differences[0], bool(np.ptp(differences) > 0)
    match first.interval:
        case "area":
            low, high = _area_ends(first, second, single)
        case "skewed":
            low, high = skewed_interval(value, single)
        case "share" | "difference" | "conditional" | "overlap" if first.groups and differ:
            low, high = skewed_interval(value, single)
        case "classes":
            low, high = unbiased_skewed_interval(value, single)
        case "conditional" | "overlap":
            fewer = min(first.counted, second.counted)
            low, high = bonett_price_interval(value, single, fewer)
        case "percentile" | "difference":
            low, high = percentiles(single)
        case "bounded" if differ:
            low, high = percentiles(single)
        case "share" | "bounded":
            low, high = bonett_price_interval(value, single, first.units)
        case "searched":
            before, after = (Score(side.value, *side.ends, side.n) for side in (first, second))
            low, high = zou_donner_interval(after, before)
        case _:
            lows, highs = np.quantile(differences, TAILS, axis=1)
            low, high, centre = float(lows.min()), float(highs.max()), float(differences.mean())
    ours, theirs = first.hidden, second.hidden
    hidden = HiddenError(ours.above + theirs.below, ours.below + theirs.above)
    low, high = widen_for_seeds(hidden.widen(value, low, high), centre, first.n, recipes)
    if first.interval not in UNCLIPPED:
        low, high = max(low, -1.0), min(high, 1.0)  # both values are in [0, 1]
    return Score(value, min(low, value), max(high, value), first.n)


def _area_ends(first: Estimate, second: Estimate, column: FloatArray) -> Ends:
    """Paired DeLong; at a value of 0 or 1, which has no variance, both single intervals joined."""
    if {first.value, second.value} & {0.0, 1.0}:
        alone = (image_interval(side) for side in (second, first))
        return zou_donner_interval(*(Score(s.centre, s.low, s.high, first.n) for s in alone))
    gap, bias = second.value - first.value, second.bias - first.bias
    reach = column_spread(column).reach()
    return gap - max(bias, 0.0) - reach, gap - min(bias, 0.0) + reach


def seed_summary(values: ArrayLike) -> SeedSummary:
    """Mean and sample standard deviation (n − 1) over seeds; NaN for the deviation of one seed.

    >>> seed_summary([0.25, 0.5, 0.75])
    SeedSummary(mean=0.5, sd=0.25, n=3)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise InputError(f"values must be [seeds] and not empty, found {list(numbers.shape)}")
    sd = float(numbers.std(ddof=1)) if len(numbers) > 1 else np.nan
    return SeedSummary(float(numbers.mean()), sd, len(numbers))


def _comparable(estimate: Estimate) -> FloatArray:
    """The replicates corrected for the bias of the metric, in one or several ways, `[ways, B]`.

    Their outermost quantiles are the interval of a single value.
    """
    value, replicates = estimate.value, np.asarray(estimate.draws, dtype=np.float64)
    match estimate.interval:
        case "basic":
            return _bias_corrected_ways(value, replicates)
        case "bias-corrected":
            return np.sqrt(np.maximum(_bias_corrected_ways(value**2, np.square(replicates)), 0))
        case "centred":
            squares = signed_square(replicates)
            spread = squares - np.nanmean(squares)
            return signed_root(value * np.abs(value) + np.stack([spread, -spread]))
        case _:
            return replicates[None]


def _bias_corrected_ways(value: float, replicates: FloatArray) -> FloatArray:
    """Replicates around the value with and without its bias, each mirrored and not, `[4, B]`."""
    spread = replicates - replicates.mean()
    unbiased = 2 * value - replicates.mean()
    centres = (unbiased, max(unbiased, value))
    return np.stack([centre + side for centre in centres for side in (spread, -spread)])
