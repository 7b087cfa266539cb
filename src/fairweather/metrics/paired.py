"""Two models on the same images: is one better, or did it have the luckier images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import Z95, FloatArray, check_columns
from fairweather.metrics.intervals import FEW, TAILS, Estimate
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
    """Second minus first, with the 95 % interval of what other images would have made of it.

    Both must have been computed with the same weights (`bootstrap_weights`) on the same images in
    the same order: what makes an image hard for both then cancels, and the interval is narrower
    than those of the two numbers suggest. It is the span of the middle 95 % of the differences of
    the replicates, widened where needed to hold the difference.

    Where the models differ on fewer than `FEW` images, the percentiles of an accuracy's difference
    are too narrow, and where they differ on none they have no width: there it is the interval of
    Bonett and Price, which counts one more image for either side.

    The noise of the bins inflates binned calibration errors, and resampling inflates them once
    more. Between two models this cancels only in part: not at all where one is calibrated and the
    other far from it. So the replicates of each are first corrected as `to_score` corrects those of
    a single number (for a value v and a replicate r of a root mean square, to
    sqrt(max(2v² − r², 0))), and the differences are taken of these. The difference itself is of the
    values as they are, so it may lie near an end. Of calibration errors do not conclude that two
    models are calibrated alike because the interval holds 0: with few images it holds much else.

    Raises:
        InputError: estimates with other numbers of images or resamples, or another interval.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13, for the
    percentile interval; Bonett and Price 2012, Adjusted Wald Confidence Interval for a Difference
    of Binomial Proportions Based on Paired Data, equation 2.

    >>> low, high = (Estimate(v, v + np.linspace(-0.1, 0.1, 41), n=50) for v in (0.5, 0.7))
    >>> paired_difference(low, high).value.__round__(3)
    0.2
    """
    kinds = [(each.n, each.replicates.shape, each.interval) for each in (first, second)]
    if kinds[0] != kinds[1]:
        raise InputError(
            "a paired difference needs the same images, resamples and interval, found "
            + " and ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in kinds)
        )
    value = second.value - first.value
    differences = _comparable(second) - _comparable(first)
    differences = differences[~np.isnan(differences)]
    if np.isnan(value) or not len(differences):
        return Score(value, np.nan, np.nan, first.n)
    low, high = (float(end) for end in np.quantile(differences, TAILS))
    # A difference of shares has the variance (d - value²) / n where a share d of the images differ.
    differing = first.n * (first.n * float(differences.var()) + value**2)
    few = first.interval == "share" and differing < FEW
    if few or (first.interval in ("share", "bounded") and np.ptp(differences) == 0):
        low, high = _bonett_price(value, differing, first.n)
    return Score(value, min(low, value), max(high, value), first.n)


def _bonett_price(value: float, differing: float, n: int) -> tuple[float, float]:
    centre = value * n / (n + 2)
    half = Z95 * float(np.sqrt(((differing + 2) / (n + 2) - centre**2) / (n + 2)))
    return max(centre - half, -1.0), min(centre + half, 1.0)


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


def seed_interval(first: SeedSummary, second: SeedSummary) -> tuple[float, float]:
    """Give the 95 % interval of second minus first for other seeds: Welch's, of two samples.

    It says what other trainings would have given on the same images, where `paired_difference` says
    what other images would have given to the same trainings. NaN where a side has one seed.

    Source: Welch 1947, The Generalization of Student's Problem when Several Different Population
    Variances are Involved.

    >>> few, same = seed_summary([0.50, 0.52]), seed_summary([0.55, 0.57])
    >>> [round(end, 3) for end in seed_interval(few, same)]
    [-0.011, 0.111]
    """
    if min(first.n, second.n) < 2:
        return np.nan, np.nan
    parts = [each.sd**2 / each.n for each in (first, second)]
    error = sum(parts) ** 0.5
    difference = second.mean - first.mean
    if error == 0:
        return difference, difference
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(
        share**2 / (each.n - 1) for share, each in zip(shares, (first, second), strict=True)
    )
    half = float(scipy.special.stdtrit(freedom, TAILS[1])) * error
    return difference - half, difference + half


def _comparable(estimate: Estimate) -> FloatArray:
    """The replicates, with the bias of the metric taken off: their quantiles are the interval."""
    value, replicates = np.asarray(estimate.value), estimate.replicates
    match estimate.interval:
        case "percentile" | "share" | "bounded":
            return replicates
        case "basic":
            return 2 * value - replicates
        case "bias-corrected":
            return np.sqrt(np.maximum(2 * np.square(value) - np.square(replicates), 0))
        case "centred":
            squares = replicates * np.abs(replicates)  # with their sign
            corrected = value * np.abs(value) - (squares - np.nanmean(squares))
            return np.asarray(np.sign(corrected) * np.sqrt(np.abs(corrected)))
