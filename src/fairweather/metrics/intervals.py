"""95 % intervals: all metrics on the same resamples of the images, and means over cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import Z95, FloatArray, wilson_interval
from fairweather.metrics.ordered import merge_groups
from fairweather.metrics.recipes import SeedVariance, seed_variance, stretch, widen
from fairweather.metrics.sample import BINS, Resamples, Sample, bootstrap_weights
from fairweather.metrics.selective import Fitted
from fairweather.metrics.table import METRICS, Interval, Metric
from fairweather.types import Predictions, Score, Scores

# Counts that are summed at once. It bounds the memory of what is made of them.
BLOCK = 4_800_000
# Groups of neighbours in confidence that the replicates of some metrics are made from: exact for
# cells of up to so many confidences; `benchmarks/scoring.py` measures the error beyond.
MOST_GROUPS = 2000
# Beyond so many images, the replicates' sums by class are made in float32.
MOST_IMAGES_OF_FLOAT64 = 10_000
TAILS = (0.025, 0.975)
# Replicates less skewed than this are symmetric to more digits than there are of an interval.
SYMMETRIC = 1e-4
# A share nearer to 0 or 1 is of no image at all, however many there are.
ROUNDING = 1e-12
# With so many images on either side, the percentiles of a share hold the truth as often as they
# should (benchmarks/coverage.py).
FEW = 30
# With fewer on the rarer side, Wilson's interval ends too near to 0 or 1 (Clopper and Pearson do
# not): with one wrong image of many it misses a truth of a fifth of an image in 16 of 100.
VERY_FEW = 10


@dataclass(frozen=True)
class Estimate:
    """A number, what it would have been on each resample of the images, and how to read the two.

    Attributes:
        value: on the images as they are.
        replicates: float64 `[B]`, on each resample.
        n: the number of images.
        interval: which interval `to_score` makes of it.
        of_seeds: of a mean over the seeds of a recipe, the estimate of each.
        errors: how many images carry it, for one cell as `Metric.carried_by` says; of a mean over
            cells, their harmonic mean.
        fewest: with fewer errors than this it gets no interval, since none would hold.
    """

    value: float
    replicates: FloatArray
    n: int
    interval: Interval = "percentile"
    of_seeds: tuple[Estimate, ...] = ()
    errors: float = np.inf
    fewest: int = 0

    @property
    def recipes(self) -> list[SeedVariance]:
        """How far it depends on the seeds; empty for a single training."""
        if len(self.of_seeds) < 2:
            return []
        values, replicates = zip(
            *((each.value, each.replicates) for each in self.of_seeds), strict=True
        )
        return [seed_variance(values, replicates)]

    @property
    def too_few(self) -> bool:
        """Say whether too few errors carry the number for an interval that holds the truth."""
        return self.errors < self.fewest


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
            errors=metric.errors(predictions),
            fewest=metric.fewest,
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
    return replace(
        estimates[0],
        value=float(np.mean([each.value for each in estimates])),
        replicates=np.mean([each.replicates for each in estimates], axis=0),
        errors=_mean_errors([each.errors for each in estimates]),
        of_seeds=(),
    )


def _mean_errors(errors: Sequence[float]) -> float:
    """The harmonic mean: the variances of the cells' numbers add up, and go with its inverse."""
    inverse = float(np.mean([1 / each if each else np.inf for each in errors]))
    return 1 / inverse if inverse else np.inf


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
    value = float(worst.reduce([each.value for each in estimates]))
    return replace(
        estimates[0],
        value=value,
        replicates=worst.reduce([each.replicates for each in estimates]),
        errors=min((each.errors for each in estimates if each.value == value), default=np.inf),
        of_seeds=(),
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

    "skewed" is for numbers to which a few images add most, such as a mean loss or the area under a
    curve: see `skewed_interval`.

    "share" is the percentile one where images enough are on both sides. Where fewer than `FEW` are
    wrong, or right, the percentiles are too narrow, and where all agree they have no width: there
    it is the Wilson interval of as many images as would give a share the variance of the
    replicates, which for a single cell are its own and for a mean over cells those that its cells
    are worth together. With fewer than `VERY_FEW`, the end next to 0 or 1 is that of Clopper and
    Pearson where that lies nearer to 0 or 1.

    "difference" is for one share minus another of the same images: percentiles, or the interval of
    Bonett and Price where they differ on fewer than `FEW` images.

    "bounded" is for other means of shares: percentiles, but where all images agree, as at exactly
    1, the other end is that of the Wilson interval.

    "basic" is for a value v that is biased by the noise of its bins and whose replicates r are
    biased once more by about as much: from 2v - mean(r) downwards and from v upwards, the longer of
    the tails of r. Both ends take the longer one, since the spread grows with the number: one that
    is small by luck has replicates that spread too little. The upper end keeps the bias, since it
    is less in the value than in the replicates where accuracy lies far from confidence.

    "bias-corrected" is for binned calibration errors: the same on squares, because there the bias
    adds up: the expected square of a bin's gap is its true square plus its variance. The root is
    taken at the end. `benchmarks/coverage.py` compares it with the percentile interval.

    "centred" is for the debiased calibration error, whose value is free of that bias while its
    replicates have it once: squares (with their sign) lie within the longer tail of the replicates'
    on either side of v²; the root is taken at the end.

    Of a mean over the seeds of a recipe, `widen` adds what other seeds would bring, and where the
    number has no binning bias `stretch` its skewness next to a bound. Each is clipped
    to the bounds and then, where needed, widened (never narrowed) to hold the value.
    Replicates that are NaN (a resample with no class to rank) are left out. There is no interval
    (NaN) where too few errors carry the number.

    Args:
        estimate: value and replicates.
        bounds: smallest and largest possible value.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 5.2 and 5.3;
    Kumar et al. 2019, Verified Uncertainty Calibration, section 4, for the bias of the plug-in;
    Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts, for the number of images that a variance is worth, and for Clopper and
    Pearson's interval of such a number.

    >>> to_score(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    Score(value=0.5, low=0.405, high=0.595, n=100)
    """
    low, centre, high = image_interval(estimate)
    ends = widen((low, high), centre, estimate.n, estimate.recipes)
    if estimate.recipes and estimate.interval in ("share", "skewed", "percentile", "bounded"):
        ends = stretch(ends, centre, bounds)
    low, high = np.clip(ends, *bounds)
    value = estimate.value
    if np.isnan(low):
        return Score(value, np.nan, np.nan, estimate.n)
    return Score(value, float(min(low, value)), float(max(high, value)), estimate.n)


def image_interval(estimate: Estimate) -> ImageInterval:
    """The 95 % interval over images as `to_score` makes it, before it is clipped or widened.

    NaN where there is no value, or no replicate that is a number, or too few errors carry it.

    >>> image_interval(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    ImageInterval(low=0.405, centre=0.5, high=0.595)
    """
    value, n = estimate.value, estimate.n
    replicates = estimate.replicates[~np.isnan(estimate.replicates)]
    if np.isnan(value) or not len(replicates) or estimate.too_few:
        return ImageInterval(np.nan, np.nan, np.nan)
    centre = value
    match estimate.interval:
        case "skewed":
            low, high = skewed_interval(value, replicates)
        case "share":
            low, high = _share_ends(value, replicates, n)
        case "difference":
            low, high = difference_ends(value, replicates, n)
        case "bounded" if value in (0, 1) and np.all(replicates == value):
            low, high = map(float, wilson_interval(value, n))
        case "percentile" | "bounded":
            low, high = np.quantile(replicates, TAILS)
        case "basic":
            low, centre, high = _unbiased(value, replicates)
        case "bias-corrected":
            found = _unbiased(value**2, np.square(replicates))
            low, centre, high = np.sqrt(np.maximum(found, 0))
        case "centred":
            tail = _longer_tail(_signed_square(replicates))
            low, high = _signed_root(_signed_square(np.asarray(value)) + np.array([-tail, tail]))
    return ImageInterval(float(low), float(centre), float(high))


def skewed_interval(value: float, replicates: FloatArray) -> tuple[float, float]:
    """The 95 % interval of a number whose error is skewed: Student's t, with the skewness undone.

    Where a few images add most to a number, a sample that has by luck few of them has both a number
    that is too good and a spread that is too small, so that the middle 95 % of the replicates end
    too early on the far side. The error in units of its estimated spread is made symmetric by a
    cubic polynomial, as the skewness γ of the replicates asks for, and solved for the ends. The
    spread is itself uncertain: the deviate is Student's with 4 / (3γ²) degrees of freedom, those of
    a spread estimated from numbers with a gamma distribution, whose kurtosis is 3/2 of the squared
    skewness.

    Args:
        value: on the images as they are.
        replicates: float64 `[B]`, without NaN.

    Source: Hall 1992, On the Removal of Skewness by Transformation, the cubic one with its
    inverse, section 2; Satterthwaite 1946, An Approximate Distribution of Estimates of Variance
    Components, for the degrees of freedom. Spread and skewness are those of the replicates.

    >>> draws = np.random.default_rng(0).exponential(size=(4000, 30)).mean(axis=1)
    >>> [round(end, 2) for end in skewed_interval(1.0, draws)]
    [0.67, 1.89]
    """
    spread = float(replicates.std())
    # Where no replicate differs by more than rounding, there is no skewness either.
    if spread <= ROUNDING * abs(value):
        return value, value
    skewness = float(np.mean(((replicates - replicates.mean()) / spread) ** 3))
    if abs(skewness) < SYMMETRIC:
        return value - Z95 * spread, value + Z95 * spread
    deviate = float(scipy.special.stdtrit(4 / (3 * skewness**2), TAILS[1]))
    low, high = (
        value - spread * 3 / skewness * (np.cbrt(1 + skewness * (end - skewness / 6)) - 1)
        for end in (deviate, -deviate)
    )
    return float(low), float(high)


def difference_ends(value: float, replicates: FloatArray, n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same images.

    Percentiles of the replicates; where the two differ on fewer than `FEW` images, or no replicate
    differs, the interval of Bonett and Price, which counts one more image for either side.

    Args:
        value: of the difference.
        replicates: float64 `[B]`, of the difference, without NaN.
        n: the number of images.

    Source: Bonett and Price 2012, Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data, equation 2.

    >>> [round(end, 3) for end in difference_ends(0.0, np.zeros(5), n=100)]
    [-0.027, 0.027]
    """
    # A difference of shares has the variance (d - value²) / n where a share d of the images differ.
    differing = n * (n * float(replicates.var()) + value**2)
    if differing >= FEW and np.ptp(replicates) > 0:
        low, high = np.quantile(replicates, TAILS)
        return float(low), float(high)
    centre = value * n / (n + 2)
    half = Z95 * float(np.sqrt(((differing + 2) / (n + 2) - centre**2) / (n + 2)))
    return max(centre - half, -1.0), min(centre + half, 1.0)


def _share_ends(value: float, replicates: FloatArray, n: int) -> tuple[float, float]:
    worth = _images_worth(value, replicates, n)
    rarer = min(value, 1 - value)
    if worth * rarer >= FEW:
        low, high = np.quantile(replicates, TAILS)
        return float(low), float(high)
    low, high = map(float, wilson_interval(value, worth))
    if worth * rarer < VERY_FEW:
        end = _clopper_pearson_end(rarer, worth)
        low, high = (min(low, end), high) if value <= 0.5 else (low, max(high, 1 - end))
    return low, high


def _clopper_pearson_end(share: float, count: float) -> float:
    """The lower end of Clopper and Pearson's 95 % interval of a share of so many images."""
    of = share * count
    return float(scipy.special.betaincinv(of, count - of + 1, TAILS[0])) if of > ROUNDING else 0.0


def _unbiased(value: float, replicates: FloatArray) -> FloatArray:
    """Low, centre and high of a number that has the bias that resampling adds once more."""
    mean = float(replicates.mean())
    tail = _longer_tail(replicates)
    centre = 2 * value - mean
    return np.array([centre - tail, centre, max(centre, value) + tail])


def _longer_tail(replicates: FloatArray) -> float:
    low, high = np.abs(np.quantile(replicates, TAILS) - replicates.mean())
    return float(max(low, high))


def _images_worth(value: float, replicates: FloatArray, n: int) -> float:
    """How many independent images would give a share of this size the replicates' variance."""
    own = value * (1 - value)
    # Where all images agree, value and replicates differ from 0 or 1 by rounding alone.
    return own / float(replicates.var()) if own > ROUNDING and np.ptp(replicates) > 0 else float(n)


def score(
    predictions: Predictions, resamples: int = 1000, seed: int = 0, fitted: Fitted | None = None
) -> Scores:
    """Compute every metric that applies, with its 95 % bootstrap interval over images.

    What too few errors carry has a value and no interval: its ends are NaN; see `Score.too_few`.

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
    return Scores({name: to_score(estimate, bounds[name]) for name, estimate in estimates.items()})


def _signed_square(values: FloatArray) -> FloatArray:
    return np.sign(values) * np.square(values)


def _signed_root(squares: FloatArray) -> FloatArray:
    return np.sign(squares) * np.sqrt(np.abs(squares))
