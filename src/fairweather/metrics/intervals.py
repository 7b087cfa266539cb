"""95 % intervals: all metrics on the same resamples of the images, and means over cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, wilson_interval
from fairweather.metrics.ordered import merge_groups
from fairweather.metrics.recipes import SeedVariance, seed_variance, widen
from fairweather.metrics.sample import BINS, Resamples, Sample, bootstrap_weights
from fairweather.metrics.selective import Fitted
from fairweather.metrics.table import METRICS, Interval, Metric
from fairweather.types import Predictions, Score

# Counts that are summed at once. It bounds the memory of what is made of them.
BLOCK = 4_800_000
# Groups of neighbours in confidence that the replicates of some metrics are made from: exact for
# cells of up to so many confidences; `benchmarks/scoring.py` measures the error beyond.
MOST_GROUPS = 2000
# Beyond so many images, the replicates' sums by class are made in float32.
MOST_IMAGES_OF_FLOAT64 = 10_000
TAILS = (0.025, 0.975)
# A share nearer to 0 or 1 is of no image at all, however many there are.
ROUNDING = 1e-12
# With so many images on either side, the percentiles of a share hold the truth as often as they
# should (benchmarks/coverage.py).
FEW = 30


@dataclass(frozen=True)
class Estimate:
    """A number, what it would have been on each resample of the images, and how to read the two.

    Attributes:
        value: on the images as they are.
        replicates: float64 `[B]`, on each resample.
        n: the number of images.
        interval: which interval `to_score` makes of it.
        of_seeds: of a mean over the seeds of a recipe, the estimate of each.
    """

    value: float
    replicates: FloatArray
    n: int
    interval: Interval = "percentile"
    of_seeds: tuple[Estimate, ...] = ()

    @property
    def recipes(self) -> list[SeedVariance]:
        """How far it depends on the seeds; empty for a single training."""
        if len(self.of_seeds) < 2:
            return []
        values, replicates = zip(
            *((each.value, each.replicates) for each in self.of_seeds), strict=True
        )
        return [seed_variance(values, replicates)]


class ImageInterval(NamedTuple):
    """Where a number may lie on other images.

    Attributes:
        low, high: the ends.
        centre: the number without what is known of its bias.
    """

    low: float
    centre: float
    high: float


def evaluate_metrics(
    predictions: Predictions, weights: npt.ArrayLike, fitted: Fitted | None = None
) -> dict[str, Estimate]:
    """Compute every metric that applies, on the images as they are and on each resample.

    Args:
        predictions: the columns of one cell. Resampling is joint across cells only where their rows
            are the same images in the same order.
        weights: how often each image counts, `[B, n]`, from `bootstrap_weights`.
        fitted: on clean validation images of the same model and seed; None: rows that need it are
            left out.

    Returns:
        One estimate a row of `METRICS`, by name and in its order, without rows that do not apply.
        Values are exact. Replicates are too, to rounding, except beyond 10,000 images those of the
        macro AUC and (in the seventh digit) of the class-wise calibration error, and beyond 2,000
        distinct confidences those of `area_under_risk_coverage`, `coverage_at_risk` and
        `confidence_auroc`, which then tell 2,000 groups of confidences apart and are moved by the
        difference that this makes to the value.
    """
    return evaluate_resamples(predictions, Resamples.of(predictions.labels, weights), fitted)


def evaluate_resamples(
    predictions: Predictions,
    resamples: Resamples,
    fitted: Fitted | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Estimate]:
    """Do the same as `evaluate_metrics` with resamples that many cells share.

    Args:
        predictions, fitted: as there.
        resamples: of the same images.
        names: of the metrics to compute; None: all. Names that no metric has are left out.
    """
    n = len(predictions)
    metrics = [
        metric
        for metric in METRICS
        if metric.applies(predictions, fitted) and (names is None or metric.name in names)
    ]
    wanted = {metric.alias_of or metric.name for metric in metrics}
    computed = [metric for metric in METRICS if metric.name in wanted]
    prepared = resamples.prepare(predictions, fitted)
    ones = np.ones((1, n), dtype=resamples.counts.dtype)
    coarse = merge_groups(prepared.order, MOST_GROUPS, BINS)
    values = evaluate_sample(computed, Sample(prepared, prepared.order, ones))
    quick = prepared if n <= MOST_IMAGES_OF_FLOAT64 else prepared.narrow
    moved = evaluate_sample(computed, Sample(quick, coarse, ones))
    # Blocks are the same whatever else runs, so that sums come out the same to the last bit.
    step = max(1, BLOCK // n)
    blocks = [
        evaluate_sample(computed, Sample(quick, coarse, resamples.counts[at : at + step]))
        for at in range(0, len(resamples.counts), step)
    ]
    replicates = {name: np.concatenate([block[name] for block in blocks]) for name in values}
    estimates = {
        metric.name: Estimate(
            value=float(values[metric.name][0]),
            replicates=replicates[metric.name] + (values[metric.name] - moved[metric.name]),
            n=n,
            interval=metric.interval,
        )
        for metric in computed
    }
    return {metric.name: estimates[metric.alias_of or metric.name] for metric in metrics}


def estimate_means(
    columns: FloatArray, intervals: Sequence[Interval], resamples: int, seed: int = 0
) -> list[Estimate]:
    """Estimate the mean of each column on the same resamples of the images as all cells.

    For numbers of an image that are no metric of one cell, such as the share of several cells in
    which it is right.

    Args:
        columns: float64 `[n, columns]`, the images in the order of the predictions.
        intervals: of each column, how its interval is made; see `to_score`.
        resamples, seed: as of `bootstrap_weights`.

    >>> [estimate.value for estimate in estimate_means(np.eye(4)[:, :2], ["share"] * 2, 3)]
    [0.25, 0.25]
    """
    n = len(columns)
    weights = bootstrap_weights(n, resamples, seed)
    step = max(1, BLOCK // n)
    blocks = [
        weights[at : at + step].astype(np.float64) @ columns for at in range(0, resamples, step)
    ]
    return [
        Estimate(float(value), replicates, n, interval)
        for value, replicates, interval in zip(
            columns.mean(axis=0), np.concatenate(blocks).T / n, intervals, strict=True
        )
    ]


def evaluate_sample(metrics: Sequence[Metric], sample: Sample) -> dict[str, FloatArray]:
    """Compute metrics on some resamples of a cell: float64 `[B]` each, by name."""
    return {metric.name: np.asarray(metric.evaluate(sample)) for metric in metrics}


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Plain mean over cells (levels, shifts, seeds) that were resampled jointly.

    Raises `InputError` unless all have the same number of images and of resamples, and one kind of
    interval: without that their resamples are not of the same images.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> mean_estimate([low, high]).value
    0.625
    """
    _check_joint(estimates, "a mean")
    return Estimate(
        value=float(np.mean([each.value for each in estimates])),
        replicates=np.mean([each.replicates for each in estimates], axis=0),
        n=estimates[0].n,
        interval=estimates[0].interval,
    )


def recipe_estimate(seeds: Sequence[Estimate]) -> Estimate:
    """Mean over the seeds of a recipe, whose interval covers other seeds as well.

    Raises `InputError` as `mean_estimate` does.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> [round(end, 2) for end in to_score(recipe_estimate([low, high]))[:3]]
    [0.62, -0.96, 2.21]
    """
    return replace(mean_estimate(seeds), of_seeds=tuple(seeds))


def worst_estimate(estimates: Sequence[Estimate], *, higher_is_better: bool) -> Estimate:
    """The worst of cells (levels, shifts) that were resampled jointly, as they are and in each one.

    What is not a number, such as the risk where nothing is answered, is not the worst. Of noisy
    numbers that are much alike, the worst is worse than any of them truly is.

    Raises `InputError` as `mean_estimate` does.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> worst_estimate([low, high], higher_is_better=True).value
    0.5
    """
    _check_joint(estimates, "a worst case")
    # Of a number and none, these two return the number.
    worst = np.fmin if higher_is_better else np.fmax
    return Estimate(
        value=float(worst.reduce([each.value for each in estimates])),
        replicates=worst.reduce([each.replicates for each in estimates]),
        n=estimates[0].n,
        interval=estimates[0].interval,
    )


def _check_joint(estimates: Sequence[Estimate], what: str) -> None:
    if not estimates:
        raise InputError(f"{what} needs at least one estimate")
    kinds = {(each.n, each.replicates.shape, each.interval) for each in estimates}
    if len(kinds) > 1:
        raise InputError(
            f"{what} needs the same images, resamples and interval in every estimate, found "
            + ", ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in sorted(kinds))
        )


def to_score(estimate: Estimate, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Score:
    """Read the 95 % interval off the replicates; of a mean over seeds, it covers these too.

    Over images alone it is, by the kind of the estimate:

    "percentile" is the span of the middle 95 % of the replicates.

    "share" is the same where images enough are on both sides. Where fewer than `FEW` are wrong, or
    right, the percentiles are too narrow, and where all agree they have no width: there it is the
    Wilson interval of as many images as would give a share the variance of the replicates, which
    for a single cell are its own and for a mean over cells those that its cells are worth together.

    "bounded" is for other means of shares: percentiles, but where all images agree, as at exactly
    1, the other end is that of the Wilson interval.

    "basic" is the reverse percentile interval [2v - q97.5(r), 2v - q2.5(r)], for a value v that is
    biased by the noise of its bins and whose replicates r are biased once more by about as much.

    "bias-corrected" is for binned calibration errors: the basic interval on squares, [2v² -
    q97.5(r²), 2v² - q2.5(r²)], because there the bias adds up: the expected square of a bin's gap
    is its true square plus its variance. The root is taken at the end. `benchmarks/coverage.py`
    compares it with the percentile interval. Its weak point is the maximum over bins some of which
    hold few images, which no bootstrap covers well.

    "centred" is for the debiased calibration error, whose value is free of that bias while its
    replicates have it once: squares (with their sign) spread about v² as the replicates' spread
    about their mean, reversed; the root is taken at the end.

    Of a mean over the seeds of a recipe, `widen` adds what other seeds would bring. Each is clipped
    to the bounds and then, where needed, widened (never narrowed) to hold the value.
    Replicates that are NaN (a resample with no class to rank) are left out.

    Args:
        estimate: value and replicates.
        bounds: smallest and largest possible value.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 5.2 and 5.3;
    Kumar et al. 2019, Verified Uncertainty Calibration, section 4, for the bias of the plug-in;
    Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts, for the number of images that a variance is worth.

    >>> to_score(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    Score(value=0.5, low=0.405, high=0.595, n=100)
    """
    low, centre, high = image_interval(estimate)
    ends = widen((low, high), centre, estimate.n, estimate.recipes)
    low, high = np.clip(ends, *bounds)
    value = estimate.value
    return Score(value, float(min(low, value)), float(max(high, value)), estimate.n)


def image_interval(estimate: Estimate) -> ImageInterval:
    """The 95 % interval over images as `to_score` makes it, before it is clipped or widened.

    NaN where there is no value, or no replicate that is a number.

    >>> image_interval(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    ImageInterval(low=0.405, centre=0.5, high=0.595)
    """
    value, replicates = estimate.value, estimate.replicates
    replicates = replicates[~np.isnan(replicates)]
    if np.isnan(value) or not len(replicates):
        return ImageInterval(np.nan, np.nan, np.nan)
    worth = _images_worth(value, replicates, estimate.n)
    few = estimate.interval == "share" and worth * min(value, 1 - value) < FEW
    agreed = estimate.interval == "bounded" and value in (0, 1) and np.all(replicates == value)
    if few or agreed:
        ends = wilson_interval(value, worth)
        return ImageInterval(float(ends[0]), value, float(ends[1]))
    if estimate.interval in ("percentile", "share", "bounded"):
        low, high = np.quantile(replicates, TAILS)
        centre = value
    elif estimate.interval == "basic":
        low, high = 2 * value - np.quantile(replicates, TAILS[::-1])
        centre = 2 * value - replicates.mean()
    elif estimate.interval == "bias-corrected":
        squares = np.square(replicates)
        far, near = np.quantile(squares, TAILS[::-1])
        found = 2 * value**2 - np.array([far, squares.mean(), near])
        low, centre, high = np.sqrt(np.maximum(found, 0))
    else:
        squares = _signed_square(replicates)
        spread = np.quantile(squares, TAILS[::-1]) - squares.mean()
        low, high = _signed_root(_signed_square(np.asarray(value)) - spread)
        centre = value
    return ImageInterval(float(low), float(centre), float(high))


def _images_worth(value: float, replicates: FloatArray, n: int) -> float:
    """How many independent images would give a share of this size the replicates' variance."""
    own = value * (1 - value)
    # Where all images agree, value and replicates differ from 0 or 1 by rounding alone.
    return own / float(replicates.var()) if own > ROUNDING and np.ptp(replicates) > 0 else float(n)


def score(
    predictions: Predictions, resamples: int = 1000, seed: int = 0, fitted: Fitted | None = None
) -> dict[str, Score]:
    """Compute every metric that applies, with its 95 % bootstrap interval over images.

    Args:
        predictions: the columns of one cell.
        resamples: how many resamples of the images, at least 1.
        seed: of the resampling.
        fitted: from `fit_on` clean validation predictions of the same model; None: metrics that
            need it are left out.

    Returns:
        One score a row of `METRICS`, by name and in its order, without rows that do not apply.
    """
    if not len(predictions):
        raise InputError("there is nothing to score: the predictions are empty")
    weights = bootstrap_weights(len(predictions), resamples, seed)
    estimates = evaluate_metrics(predictions, weights, fitted)
    bounds = {metric.name: metric.bounds for metric in METRICS}
    return {name: to_score(estimate, bounds[name]) for name, estimate in estimates.items()}


def _signed_square(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.square(values)


def _signed_root(squares: FloatArray) -> FloatArray:
    return np.sign(squares) * np.sqrt(np.abs(squares))
