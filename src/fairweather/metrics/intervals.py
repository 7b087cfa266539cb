"""95 % intervals: all metrics on the same resamples of the images, and means over cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.shares import wilson_interval
from fairweather.metrics.table import METRICS, Interval
from fairweather.metrics.weights import FloatArray
from fairweather.types import Predictions, Score

# Weights held in float64 at once: 32 MB, and a few times that in what a metric makes of them.
BLOCK = 2**22
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Estimate:
    """A number, what it would have been on each resample of the images, and how to read the two.

    Attributes:
        value: on the images as they are.
        replicates: float64 `[B]`, on each resample.
        n: the number of images.
        interval: which interval `to_score` makes of it.
    """

    value: float
    replicates: FloatArray
    n: int
    interval: Interval = "percentile"


def bootstrap_weights(n: int, resamples: int = 1000, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw how often each image counts in each resample: multinomial counts, `[resamples, n]`.

    The draws depend on the arguments alone, so all cells of a run share them and their images are
    resampled jointly. They are kept in 8 bits (50 MB for 50,000 images and 1,000 resamples, against
    400 MB in float64) and become float64 block by block in `evaluate_metrics`. 8 bits are enough:
    a count is nearly Poisson with mean 1, so beyond 255 with a probability below 1e-500.

    Args:
        n: images, at least 1.
        resamples: rows, at least 1.
        seed: of a generator of its own; no global random state is read or moved.

    >>> bootstrap_weights(5, resamples=3).sum(axis=1).tolist()
    [5, 5, 5]
    """
    if n < 1 or resamples < 1:
        raise InputError(f"cannot resample {n} images {resamples} times: both must be at least 1")
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, n), dtype=np.uint8)
    # Counting drawn places is ten times as fast as Generator.multinomial's n binomials a row.
    for row in weights:
        row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
    return weights


def evaluate_metrics(predictions: Predictions, weights: npt.ArrayLike) -> dict[str, Estimate]:
    """Compute every metric that applies, on the images as they are and on each resample.

    Args:
        predictions: the columns of one cell. Resampling is joint across cells only where their rows
            are the same images in the same order.
        weights: how often each image counts, `[B, n]`, from `bootstrap_weights`.

    Returns:
        One estimate a row of `METRICS`, by name and in its order, without rows that do not apply.
    """
    rows = np.asarray(weights)
    n = len(predictions)
    if rows.ndim != 2 or rows.shape[1] != n or not len(rows):
        raise InputError(f"weights must be [B, {n}], found {list(rows.shape)}")
    metrics = [metric for metric in METRICS if metric.applies(predictions)]
    computed = [metric for metric in metrics if metric.alias_of is None]
    replicates: dict[str, list[npt.ArrayLike]] = {metric.name: [] for metric in computed}
    step = max(1, BLOCK // n)
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        for metric in computed:
            replicates[metric.name].append(metric.evaluate(predictions, block))
    estimates = {
        metric.name: Estimate(
            value=float(metric.evaluate(predictions, None)),
            replicates=np.concatenate(replicates[metric.name]),
            n=n,
            interval=metric.interval,
        )
        for metric in computed
    }
    return {metric.name: estimates[metric.alias_of or metric.name] for metric in metrics}


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Plain mean over cells (levels, shifts, seeds) that were resampled jointly.

    Raises `InputError` unless all have the same number of images and of resamples, and one kind of
    interval: without that their resamples are not of the same images.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> mean_estimate([low, high]).value
    0.625
    """
    if not estimates:
        raise InputError("a mean needs at least one estimate")
    kinds = {(each.n, each.replicates.shape, each.interval) for each in estimates}
    if len(kinds) > 1:
        raise InputError(
            "a mean needs the same images, resamples and interval in every estimate, found "
            + ", ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in sorted(kinds))
        )
    return Estimate(
        value=float(np.mean([each.value for each in estimates])),
        replicates=np.mean([each.replicates for each in estimates], axis=0),
        n=estimates[0].n,
        interval=estimates[0].interval,
    )


def to_score(estimate: Estimate, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Score:
    """Read the 95 % interval off the replicates.

    "percentile" is the span of the middle 95 % of the replicates.

    "share" is the same, but where all images agree, as in an accuracy of exactly 1, no resample
    differs, and the other end is that of the Wilson interval.

    "bias-corrected" is for binned calibration errors, whose value v is biased upwards by the noise
    of the bins, and whose replicates r are biased upwards once more by about as much. It is the
    basic (reverse percentile) interval on squares, [2v² - q97.5(r²), 2v² - q2.5(r²)], because there
    the bias adds up: the expected square of a bin's gap is its true square plus its variance. The
    root is taken at the end. `benchmarks/coverage.py` compares it with the percentile interval. Its
    weak point is the maximum over bins some of which hold few images, which no bootstrap covers
    well.

    Either is clipped to the bounds and then, where needed, widened (never narrowed) to hold the
    value.
    Replicates that are NaN (a resample with no class to rank) are left out.

    Args:
        estimate: value and replicates.
        bounds: smallest and largest possible value.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 5.2 and 5.3;
    Kumar et al. 2019, Verified Uncertainty Calibration, section 4, for the bias of the plug-in.

    >>> to_score(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    Score(value=0.5, low=0.405, high=0.595, n=100)
    """
    value, replicates = estimate.value, estimate.replicates
    replicates = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(replicates):
        return Score(value, np.nan, np.nan, estimate.n)
    if estimate.interval == "share" and value in (0, 1) and np.all(replicates == value):
        low, high = wilson_interval(value, estimate.n)
    elif estimate.interval != "bias-corrected":
        low, high = np.quantile(replicates, TAILS)
    else:
        far, near = np.quantile(np.square(replicates), TAILS[::-1])
        low, high = np.sqrt(np.maximum([2 * value**2 - far, 2 * value**2 - near], 0))
    low, high = np.clip([low, high], *bounds)
    return Score(value, float(min(low, value)), float(max(high, value)), estimate.n)


def score(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> dict[str, Score]:
    """Compute every metric that applies, with its 95 % bootstrap interval over images.

    Args:
        predictions: the columns of one cell.
        resamples: how many resamples of the images, at least 1.
        seed: of the resampling.

    Returns:
        One score a row of `METRICS`, by name and in its order, without rows that do not apply.
    """
    if not len(predictions):
        raise InputError("there is nothing to score: the predictions are empty")
    estimates = evaluate_metrics(predictions, bootstrap_weights(len(predictions), resamples, seed))
    bounds = {metric.name: metric.bounds for metric in METRICS}
    return {name: to_score(estimate, bounds[name]) for name, estimate in estimates.items()}
