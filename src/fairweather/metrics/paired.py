"""Two models on the same images: is one better, or did it have the luckier images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, check_columns
from fairweather.metrics.intervals import TAILS, Estimate, difference_ends, skewed_interval
from fairweather.metrics.recipes import SeedVariance, seed_variance, widen
from fairweather.types import Score


class McNemar(NamedTuple):
    """McNemar's exact test of equal accuracy.

    Attributes:
        b: images that only the first model gets right.
        c: images that only the second gets right.
        p: how often equally accurate models differ at least that much, in (0, 1].
    """

    b: int
    c: int
    p: float


class SeedSummary(NamedTuple):
    """A number over trainings that differ in their seed alone: mean, standard deviation, count."""

    mean: float
    sd: float
    n: int


def mcnemar_exact(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> McNemar:
    """Test whether two models are equally accurate, on images that both have answered.

    Images that both get right, or both wrong, say nothing about which is better; among the others,
    equally accurate models are each right half of the time. The p-value is the two-sided one of the
    binomial distribution: exact, also for few images, and rather too large than too small.

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


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """Adjust p-values for their number, so that rejecting those below 5 % errs at all in 5 %.

    Whatever hypotheses are true and however the tests depend on each other (as they do when they
    share images), the chance of one or more false rejections is at most the level.

    Args:
        p_values: float `[tests]` in [0, 1].

    Returns:
        `[tests]`, in the same order, none smaller than before, in [0, 1].

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
    the same order: what makes an image hard for both then cancels, and the interval is narrower
    than those of the two numbers suggest. It is the span of the middle 95 % of the differences of
    the replicates, widened where needed to hold the difference. There is none (NaN) where too few
    errors carry one of the two numbers.

    Where an estimate is the mean over the seeds of a recipe, the interval covers other seeds too;
    those of two recipes have nothing to do with each other, whatever their numbers. What is the
    only seed of its side is taken as that one trained network. Two numbers of the same trained
    networks are for `paired_change`.

    Where the models differ on fewer than `FEW` images, the percentiles of an accuracy's difference
    are too narrow, and where they differ on none they have no width: there it is the interval of
    Bonett and Price, which counts one more image for either side. Where a few images add most to
    a number, the skewness of the differences is undone (`skewed_interval`).

    The noise of the bins inflates binned calibration errors, and resampling inflates them once
    more. Between two models this cancels only in part: not at all where one is calibrated and the
    other far from it. So the replicates of each are first corrected as `to_score` corrects those of
    a single number (for a value v and a replicate r of a root mean square, to
    sqrt(max(2v² − r², 0)) among others), and the differences are taken of these; each end is the
    outermost of these ways. The difference itself is of the
    values as they are, so it may lie near an end. Of calibration errors do not conclude that two
    models are calibrated alike because the interval holds 0: with few images it holds much else.

    Raises:
        InputError: estimates with other numbers of images or resamples, or another interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13, for the
    percentile interval; `difference_ends` and `skewed_interval` name theirs, and
    `metrics.recipes` that of seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_difference(low, high).value.__round__(3)
    0.2
    """
    return _difference(first, second, [*first.recipes, *second.recipes])


def paired_change(first: Estimate, second: Estimate) -> Score:
    """Second minus first of the same trained networks, as from clean to shifted images.

    As `paired_difference`, but of several seeds the change of each is taken, so that what a seed
    brings to both cancels.

    Raises:
        InputError: as there, or other numbers of seeds.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_change(low, high) == paired_difference(low, high)
    True
    """
    if len(first.of_seeds) != len(second.of_seeds):
        raise InputError(
            "a change is of the same trained networks, found "
            f"{max(1, len(first.of_seeds))} and {max(1, len(second.of_seeds))} seeds"
        )
    pairs = list(zip(first.of_seeds, second.of_seeds, strict=True))
    if len(pairs) < 2:
        return _difference(first, second, [])
    values = [after.value - before.value for before, after in pairs]
    replicates = [_comparable(after)[0] - _comparable(before)[0] for before, after in pairs]
    return _difference(first, second, [seed_variance(values, replicates)])


def _difference(first: Estimate, second: Estimate, recipes: Sequence[SeedVariance]) -> Score:
    kinds = [(each.n, each.replicates.shape, each.interval) for each in (first, second)]
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
    centre = value
    match first.interval:
        case "skewed":
            low, high = skewed_interval(value, differences[0])
        case "share":
            low, high = difference_ends(value, differences[0], first.n)
        case "bounded" if np.ptp(differences) == 0:
            low, high = difference_ends(value, differences[0], first.n)
        case "percentile" | "bounded" | "difference":
            low, high = map(float, np.quantile(differences[0], TAILS))
        case _:
            lows, highs = np.quantile(differences, TAILS, axis=1)
            low, high, centre = float(lows.min()), float(highs.max()), float(differences.mean())
    low, high = widen((low, high), centre, first.n, recipes)
    if first.interval in ("share", "bounded", "basic", "bias-corrected"):
        low, high = max(low, -1.0), min(high, 1.0)  # both numbers lie in [0, 1]
    return Score(value, min(low, value), max(high, value), first.n)


def seed_summary(values: npt.ArrayLike) -> SeedSummary:
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
    """The replicates without the bias of the metric, `[ways, B]`, in one way or in several.

    Their outermost quantiles are the interval of a single number.
    """
    value, replicates = estimate.value, estimate.replicates
    match estimate.interval:
        case "percentile" | "skewed" | "share" | "difference" | "bounded":
            return replicates[None]
        case "basic":
            return _ways(value, replicates)
        case "bias-corrected":
            return np.sqrt(np.maximum(_ways(value**2, np.square(replicates)), 0))
        case "centred":
            squares = replicates * np.abs(replicates)  # with their sign
            spread = squares - np.nanmean(squares)
            corrected = value * np.abs(value) + np.stack([spread, -spread])
            return np.asarray(np.sign(corrected) * np.sqrt(np.abs(corrected)))


def _ways(value: float, replicates: FloatArray) -> FloatArray:
    """Replicates about the value with its bias and without, mirrored and not, `[4, B]`."""
    spread = replicates - replicates.mean()
    unbiased = 2 * value - replicates.mean()
    centres = (unbiased, max(unbiased, value))
    return np.stack([centre + each for centre in centres for each in (spread, -spread)])
