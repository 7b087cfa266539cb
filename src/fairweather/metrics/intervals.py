"""95 % intervals: all metrics on the same resamples of the images, and means over cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError, check_type
from fairweather.metrics.areas import area_bounds, area_interval, influence_interval, unit_column
from fairweather.metrics.bounded_means import BoundedLosses, betting_interval
from fairweather.metrics.columns import (
    RESAMPLES,
    ROUNDING,
    SYMMETRIC,
    Z95,
    Ends,
    FloatArray,
    bent_interval,
    blocks,
    clopper_pearson,
    merge_levels,
)
from fairweather.metrics.findings import find_point_metric
from fairweather.metrics.grouping import Grouping, student_quantile
from fairweather.metrics.hidden_error import NOTHING_HIDDEN, HiddenError, Observation
from fairweather.metrics.metric import IntervalKind, Metric, find_class_metric
from fairweather.metrics.sample import BINS, Resamples, Sample, draw_counts
from fairweather.metrics.seeds import (
    SeedVariance,
    seed_variance,
    stretch_near_bounds,
    widen_for_seeds,
)
from fairweather.metrics.selective import FittedThresholds
from fairweather.metrics.table import METRICS
from fairweather.types.measurement import AnyPredictions, Predictions, Score, Scores

# How many counts (resamples times images) are summed at once. It limits the memory.
COUNTS_AT_ONCE = 4_800_000
# The replicates of some metrics use at most this many levels of confidence. They are
# exact for cells with no more distinct confidences; `benchmarks/scoring.py` measures the error.
MOST_LEVELS = 2000
# With more images than this, the replicates' sums by class are computed in float32.
MOST_IMAGES_OF_FLOAT64 = 10_000
TAILS = (0.025, 0.975)
# With at least this many right and wrong images, the percentile interval of a share has its nominal
# coverage (benchmarks/coverage.py).
FEW_IMAGES = 30
# The kinds of intervals over seeds that are not skewed next to a bound.
NOT_STRETCHED = ("difference", "basic", "bias-corrected", "centred")


@dataclass(frozen=True)
class Estimate:
    """A value of a metric, its value on each resample of the images, and its kind of interval."""

    value: float
    """On the original images."""

    replicates: FloatArray
    """float64 `[B]`, on each resample; empty for a value that has a column, such as an area."""

    n: int
    """The number of images."""

    interval: IntervalKind = "percentile"
    """Which interval `to_score` computes."""

    of_seeds: tuple[Estimate, ...] = ()
    """For a mean over the seeds of a recipe, the estimate of each seed; for a network that adapts,
    that of each stream (`stream_estimate`)."""

    errors: float = np.inf
    """The number of images that determine the value, for one cell as in `Metric.carried_by`; for a
    mean over cells, their harmonic mean."""

    fewest: int = 0
    """With fewer `errors` than this there is no interval, because no interval would be reliable."""

    groups: int | None = None
    """The number of groups of the images, if whole groups were resampled; with fewer than two there
    is no interval."""

    tests: float = 1
    """How many intervals, of which this is one, hold together with 95 %."""

    column: NDArray[np.float32] | None = None
    """What each image (sorted by label) or each group adds to the value, float32 `[n]` or
    `[groups]`; see `metrics.areas`. Areas and numbers of calibration always have one, and other
    values only where differences are tested."""

    unseen: float = 0.0
    """The variance that a difference may have beyond the column; see `Metric.unseen`."""

    pairs: float = np.inf
    """Of an area, how many disjoint pairs of images it is a mean over; for a mean over cells, the
    fewest."""

    least_pairs: float = 0.0
    """Of an AUC, or of the AUROC of confidence, how many independent pairs it is worth at least;
    for a mean over cells, the fewest. 0 if that is not known."""

    bias: float = 0.0
    """Of an area, how much too high it is on average."""

    hidden: HiddenError = NOTHING_HIDDEN
    """How far the truth may lie beyond what the replicates show."""

    ends: Ends = (np.nan, np.nan)
    """The interval over images where replicates do not show it; see `Metric.search`."""

    losses: BoundedLosses | None = None
    """Of a mean of bounded numbers, what each image or group adds, where that was asked for."""

    @property
    def draws(self) -> NDArray[np.floating]:
        """Numbers whose variance is that of the value: its replicates, or its column."""
        return self.replicates if self.column is None else self.column

    @property
    def has_no_replicates(self) -> bool:
        """Tell whether it has no replicates, and its own interval comes from the column."""
        return self.interval in ("area", "influence")

    @property
    def units(self) -> int:
        """The number of independent units: of groups, or of images."""
        return self.n if self.groups is None else self.groups

    def spread(self, factor: float) -> Estimate:
        """The same with replicates that lie `factor` times as far from their mean."""
        mean = np.nanmean(self.replicates) if not np.isnan(self.replicates).all() else np.nan
        return replace(
            self,
            replicates=mean + factor * (self.replicates - mean),
            hidden=HiddenError(*(factor**2 * square for square in self.hidden)),
        )

    def together(self, tests: float) -> Estimate:
        """The same with an interval that is one of `tests`, which hold together with 95 %."""
        if len(self.of_seeds) > 1 or self.has_no_replicates:  # they have quantiles of their own
            return replace(self, tests=tests)
        if self.groups is None:
            factor = float(scipy.special.ndtri(1 - TAILS[0] / tests)) / Z95
        elif self.groups < 2:
            return self
        else:
            factor = student_quantile(self.groups, tests) / student_quantile(self.groups)
        low, high = (self.value + factor * (end - self.value) for end in self.ends)
        return replace(self.spread(factor), ends=(low, high))

    @cached_property
    def scores(self) -> dict[Ends, Score]:
        """What `to_score` has computed, by bounds: tables of slices ask for it again and again."""
        return {}

    @property
    def recipes(self) -> list[SeedVariance]:
        """How much the value depends on the seeds; empty for a single training."""
        if len(self.of_seeds) < 2:
            return []
        values, draws = zip(*((seed.value, seed.draws) for seed in self.of_seeds), strict=True)
        return [seed_variance(values, draws)]

    @property
    def counted(self) -> float:
        """How many units a share of some images is a share of: `errors`, at most all groups."""
        return self.errors if self.groups is None else min(self.errors, self.groups)

    @property
    def too_few(self) -> bool:
        """Tell whether there are too few errors for an interval that covers the true value."""
        return self.errors < self.fewest or self.groups == 1


class ImageInterval(NamedTuple):
    """An interval over images for a value."""

    low: float
    centre: float
    """The value minus its known bias."""

    high: float
    """`low`, `high`: the ends."""


def evaluate_metrics(
    predictions: Predictions, weights: ArrayLike, fitted: FittedThresholds | None = None
) -> dict[str, Estimate]:
    """Compute every metric that applies, on the original images and on each resample.

    Args:
        predictions: the columns of one cell. Cells are resampled jointly only if their rows are the
            same images in the same order.
        weights: how often each image counts, `[B, n]`, from `draw_counts`.
        fitted: thresholds from clean validation images of the same model and seed; None leaves out
            the metrics that need them.

    Returns:
        One estimate per row of `METRICS`, by name and in its order, without rows that do not apply.
        Values are exact. Areas under curves have a column, and no replicates. Replicates are exact
        up to rounding, with two exceptions. With more than 10,000 images, those of the class-wise
        calibration error are approximate in the seventh digit. With more than 2,000 distinct
        confidences, those of `area_under_risk_coverage`, `coverage_at_risk` and `confidence_auroc`
        use 2,000 levels of confidence. They are then shifted by the difference that these make to
        the value.
    """
    return evaluate_resamples(
        predictions, Resamples.from_weights(predictions.strata, weights), fitted
    )


def evaluate_resamples(
    cell: AnyPredictions,
    resamples: Resamples,
    fitted: FittedThresholds | None = None,
    names: Collection[str] | None = None,
    *,
    losses: bool = False,
    contributions: bool = False,
) -> dict[str, Estimate]:
    """Do the same as `evaluate_metrics` with resamples that many cells share.

    Args:
        cell, fitted: the predictions, of whatever task, and as in `evaluate_metrics`.
        resamples: resamples of the same images.
        names: names of the metrics to compute, those of classes too (`find_class_metric`); None
            means all rows of `METRICS`. Unknown names are ignored.
        losses: whether to keep what each image adds to a mean of bounded numbers, which
            `to_bounded_score` needs.
        contributions: whether estimates get the columns with which differences are tested.
    """
    # Each metric reads only what predictions of the kind that it accepts have.
    predictions, n = cast("Predictions", cell), len(cell)
    metrics = [
        metric
        for metric in METRICS.values()
        if metric.applies(predictions, fitted) and (names is None or metric.name in names)
    ]
    chosen = {} if fitted is None else fitted.points
    named = (
        find_class_metric(name, predictions.classes, chosen) or find_point_metric(name, chosen)
        for name in names or ()
    )
    of_classes = [metric for metric in named if metric and metric.applies(predictions)]
    wanted = {metric.alias_of or metric.name for metric in metrics}
    computed = [*(metric for metric in METRICS.values() if metric.name in wanted), *of_classes]
    prepared = resamples.prepare(predictions, fitted)
    ones = np.ones((1, n), dtype=resamples.counts.dtype)
    coarse = prepared.order and merge_levels(prepared.order, MOST_LEVELS, BINS)
    once = Sample(prepared, prepared.order, ones)
    values = evaluate_sample(computed, once)
    grouping = None if prepared.groups is None else Grouping(prepared.groups)
    quick = prepared if n <= MOST_IMAGES_OF_FLOAT64 else prepared.narrow
    drawn = [metric for metric in computed if metric.column is None]
    is_exact = quick is prepared and coarse is prepared.order
    moved = values if is_exact else evaluate_sample(drawn, Sample(quick, coarse, ones))
    # The blocks depend only on n, so that sums are the same to the last bit on every run.
    parts = [
        evaluate_sample(drawn, Sample(quick, coarse, resamples.counts[rows]))
        for rows in blocks(len(resamples.counts), n, COUNTS_AT_ONCE)
    ]
    replicates = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for metric in drawn:
        if metric.extra_deviations is not None:
            replicates[metric.name] += metric.extra_deviations(prepared, len(resamples.counts))
    estimates = {}
    for metric in computed:
        value = values[metric.name]
        estimate = Estimate(
            value=float(value[0]),
            replicates=np.empty(0),
            n=metric.images(predictions),
            interval=metric.interval,
            errors=metric.errors(predictions, resamples.grouping),
            fewest=metric.fewest,
            least_pairs=metric.independent_pairs(prepared),
            losses=metric.bounded_losses(prepared) if losses else None,
        )
        if metric.column is not None:
            estimate = replace(
                estimate,
                column=unit_column(metric.column(prepared), prepared.groups),
                pairs=metric.pairs(predictions, resamples.grouping),
                bias=metric.bias(prepared),
            )
        else:
            estimate = replace(
                estimate,
                replicates=replicates[metric.name] + (value - moved[metric.name]),
                hidden=metric.hidden(Observation(once, estimate.value, grouping=grouping)),
                ends=metric.search(predictions, resamples.grouping, None),
            )
            if contributions and metric.contribution is not None:
                estimate = replace(
                    estimate,
                    column=unit_column(metric.contribution(prepared), prepared.groups),
                    unseen=metric.unseen(prepared),
                )
        estimates[metric.name] = widen_for_groups(estimate, resamples.grouping)
    return {m.name: estimates[m.alias_of or m.name] for m in [*metrics, *of_classes]}


def widen_for_groups(estimate: Estimate, grouping: Grouping | None) -> Estimate:
    """An estimate whose interval covers other groups, from replicates on resampled groups.

    Without groups it stays as it is.

    The replicates keep their mean, so that the bias of the metric stays, and are spread farther by
    `Grouping.widening`.

    >>> drawn = Estimate(0.5, np.array([0.4, 0.6]), n=100)
    >>> widen_for_groups(drawn, Grouping(np.arange(20))).replicates.round(4).tolist()
    [0.3904, 0.6096]
    """
    if grouping is None:
        return estimate
    estimate = replace(estimate, groups=grouping.count)
    if grouping.count < 2 or estimate.has_no_replicates:
        return estimate
    wider = estimate.spread(grouping.widening())
    if estimate.interval == "bias-corrected":  # whose squares are used
        wider = replace(wider, replicates=np.maximum(wider.replicates, 0))
    return wider


def estimate_means(
    columns: FloatArray,
    intervals: Sequence[IntervalKind],
    resamples: int,
    seed: int = 0,
    grouping: Grouping | None = None,
) -> list[Estimate]:
    """Estimate the mean of each column on the same resamples of the images as all cells.

    It is for per-image numbers that are not a metric of one cell. An example is the share of
    several cells in which an image is right.

    Args:
        columns: float64 `[n, columns]`, with the images in the order of the predictions.
        intervals: the kind of interval of each column; see `to_score`.
        resamples, seed, grouping: as in `draw_counts`.

    >>> [estimate.value for estimate in estimate_means(np.eye(4)[:, :2], ["share"] * 2, 3)]
    [0.25, 0.25]
    """
    n = len(columns)
    weights = draw_counts(n, resamples, seed, grouping)
    parts = (weights[rows].astype(np.float64) for rows in blocks(resamples, n, COUNTS_AT_ONCE))
    sums = np.concatenate([part @ columns for part in parts])
    images = n if grouping is None else weights.sum(axis=1, dtype=np.float64)
    columns_of_estimates = zip(columns.mean(axis=0), sums.T / images, intervals, strict=True)
    return [
        widen_for_groups(Estimate(float(value), replicates, n, interval), grouping)
        for value, replicates, interval in columns_of_estimates
    ]


def evaluate_sample(metrics: Sequence[Metric], sample: Sample) -> dict[str, FloatArray]:
    """Compute metrics on some resamples of a cell: float64 `[B]` each, by name."""
    return {metric.name: np.asarray(metric.evaluate(sample)) for metric in metrics}


def mean_estimate(
    estimates: Sequence[Estimate], weights: Sequence[float] | None = None
) -> Estimate:
    """Mean over cells (levels, shifts, seeds) or findings that were resampled jointly.

    The weights are fixed numbers, by default all the same.

    Raises `InputError` unless all have the same number of images and of resamples and the same kind
    of interval. Otherwise they cannot come from the same resamples.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> mean_estimate([low, high]).value
    0.625
    """
    _check_joint(estimates, "a mean")

    def mean(numbers: Sequence[object]) -> NDArray[Any]:
        rows, shares = np.asarray(numbers), np.asarray(weights, dtype=np.float64)
        if weights is None:
            return np.asarray(rows.mean(axis=0))
        return np.asarray(np.tensordot(shares, rows, axes=1) / shares.sum())

    columns = [estimate.column for estimate in estimates if estimate.column is not None]
    # Variances of cells add up, and are proportional to 1 / errors.
    inverse = float(mean([1 / e.errors if e.errors else np.inf for e in estimates]))
    low, high = mean([estimate.ends for estimate in estimates]).tolist()
    return replace(
        estimates[0],
        value=float(mean([estimate.value for estimate in estimates])),
        replicates=mean([estimate.replicates for estimate in estimates]),
        column=mean(columns).astype(np.float32, copy=False) if columns else None,
        pairs=min(estimate.pairs for estimate in estimates),
        # By Hölder's inequality: a mean of values that each are worth as many pairs is worth them.
        least_pairs=min(estimate.least_pairs for estimate in estimates),
        bias=float(mean([estimate.bias for estimate in estimates])),
        errors=1 / inverse if inverse else np.inf,
        ends=(low, high),
        losses=mean_losses([estimate.losses for estimate in estimates], weights),
        of_seeds=_mean_streams(estimates, weights),
        # What one cell hides, all of them hide: their images are the same.
        hidden=HiddenError(*mean([e.hidden for e in estimates]).tolist()),
    )


def _mean_streams(
    estimates: Sequence[Estimate], weights: Sequence[float] | None
) -> tuple[Estimate, ...]:
    """The mean of each stream over cells; nothing unless all cells have as many streams."""
    if len({len(estimate.of_seeds) for estimate in estimates}) > 1:
        return ()
    streams = zip(*(estimate.of_seeds for estimate in estimates), strict=True)
    return tuple(mean_estimate(cells, weights) for cells in streams)


def mean_losses(
    parts: Sequence[BoundedLosses | None], weights: Sequence[float] | None = None
) -> BoundedLosses | None:
    """The mean of losses of the same images; None where those of one are not known.

    >>> first, second = (BoundedLosses(np.array([x]), 0, 1) for x in (0.5, 1.0))
    >>> mean_losses([first, second]).values.tolist(), mean_losses([first, None])
    ([0.75], None)
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    values, low, high = (
        np.average([part[place] for part in known], axis=0, weights=weights) for place in range(3)
    )
    return BoundedLosses(values, float(low), float(high), known[0].sizes)


def mean_of_findings(
    estimates: Sequence[Estimate], weights: Sequence[float] | None = None
) -> Estimate:
    """`mean_estimate` of a metric of different findings, of which some may be rare.

    Replicates of a share of few images hardly vary, as of a finding that is never called. What its
    own interval shows beyond them is added for each finding, as variances of independent numbers.

    >>> rare = Estimate(0.0, np.zeros(9), 500, "conditional", errors=10)
    >>> common = Estimate(0.5, np.linspace(0.49, 0.51, 9), 500, "conditional", errors=250)
    >>> [round(end, 2) for end in to_score(mean_of_findings([rare, common]))[:3]]
    [0.25, 0.24, 0.4]
    """
    shares = np.ones(len(estimates)) if weights is None else np.asarray(weights, np.float64)
    hidden = np.square(shares / shares.sum()) @ np.array([_beyond_replicates(e) for e in estimates])
    mean = mean_estimate([_without_losses(estimate) for estimate in estimates], weights)
    return replace(mean, hidden=HiddenError(*hidden.tolist()))


def _without_losses(estimate: Estimate) -> Estimate:
    """Each finding may be known for other images, so losses do not add up."""
    streams = tuple(_without_losses(stream) for stream in estimate.of_seeds)
    return replace(estimate, losses=None, of_seeds=streams)


def _beyond_replicates(estimate: Estimate) -> HiddenError:
    """How far the ends of an interval lie beyond what its replicates show: squared distances."""
    if estimate.interval not in ("conditional", "overlap"):
        return estimate.hidden
    low, value, high = image_interval(estimate)
    if np.isnan(low):
        return NOTHING_HIDDEN
    shown = Z95**2 * float(np.nanvar(estimate.replicates))
    return HiddenError(*(max((end - value) ** 2 - shown, 0.0) for end in (low, high)))


def recipe_estimate(seeds: Sequence[Estimate]) -> Estimate:
    """Mean over the seeds of a recipe; its interval covers other seeds as well.

    Raises `InputError` as `mean_estimate` does.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> [round(end, 2) for end in to_score(recipe_estimate([low, high]))[:3]]
    [0.62, -0.96, 2.21]
    """
    return replace(mean_estimate(seeds), of_seeds=tuple(seeds))


def stream_estimate(streams: Sequence[Estimate]) -> Estimate:
    """Mean over the streams of a network that adapts; its interval covers other streams as well.

    A stream is all images in an order of its own, which changes how the network adapts. Streams are
    crossed with images, as seeds are, so it is the estimate of a recipe (`metrics.seeds`). A single
    stream keeps its interval over images. A collapse that no stream shows is covered by nothing
    (benchmarks/streams.py).

    >>> alone = Estimate(0.5, np.array([0.4, 0.6]), n=10)
    >>> stream_estimate([alone]) is alone, len(stream_estimate([alone] * 5).of_seeds)
    (True, 5)
    """
    return streams[0] if len(streams) == 1 else recipe_estimate(streams)


def worst_estimate(estimates: Sequence[Estimate], *, higher_is_better: bool) -> Estimate:
    """The worst of cells (levels, shifts) that were resampled jointly.

    It is found on the original images, and again on each resample; an area has the column of the
    worst cell. NaN is never the worst; for example, the risk is NaN if no image is answered. If the
    cells are nearly equal and noisy, the worst observed value is biased: on average it is worse
    than the worst true value.

    Raises `InputError` as `mean_estimate` does.

    >>> low, high = (Estimate(value, np.array([value, value]), n=10) for value in (0.5, 0.75))
    >>> worst_estimate([low, high], higher_is_better=True).value
    0.5
    """
    _check_joint(estimates, "a worst case")
    # If one of two values is NaN, these return the other one.
    worst = np.fmin if higher_is_better else np.fmax
    value = float(worst.reduce([estimate.value for estimate in estimates]))
    low, high = worst.reduce([estimate.ends for estimate in estimates]).tolist()
    of_worst = [estimate for estimate in estimates if estimate.value == value]
    return replace(
        (of_worst or estimates)[0],
        value=value,
        replicates=worst.reduce([estimate.replicates for estimate in estimates]),
        errors=min((estimate.errors for estimate in of_worst), default=np.inf),
        ends=(low, high),
        least_pairs=min(estimate.least_pairs for estimate in estimates),
        losses=None,
        hidden=HiddenError(*np.max([e.hidden for e in estimates], axis=0).tolist()),
    )


def _check_joint(estimates: Sequence[Estimate], subject: str) -> None:
    if not estimates:
        raise InputError(f"{subject} needs at least one estimate")
    kinds = {(e.n, e.draws.shape, e.interval) for e in estimates}
    if len(kinds) > 1:
        raise InputError(
            f"{subject} needs the same images, resamples and interval in every estimate, found "
            + ", ".join(f"n={n} B={shape[0]} {kind}" for n, shape, kind in sorted(kinds))
        )


def to_score(estimate: Estimate, bounds: Ends = (-np.inf, np.inf)) -> Score:
    """Compute the 95 % interval of an estimate; for a mean over seeds it covers other seeds.

    The kind of the estimate decides how the interval over images is computed:

    "percentile" spans the middle 95 % of the replicates.

    "skewed" is for values that depend most on a few images, such as a mean loss or the area under a
    curve; see `skewed_interval`.

    "share" is the percentile interval if enough images are right and enough are wrong. With fewer
    than `FEW_IMAGES` on one side, percentiles are too narrow. If all images agree, they have no
    width.
    Then it is the interval of Clopper and Pearson. Its number of images is the one for which a
    share of this size has the variance of the replicates. For a single cell that is about its own
    number, for a mean over cells usually more.

    "conditional" is for a share of some of the images, such as those of one class. It is the
    interval of "share" for few images, with the number of these images (`Estimate.errors`).

    "overlap" is for an F1 score, 2x / (1 + x). Here x is the share of right calls among the images
    of a class or called so. Its interval is that of x, with its ends transformed.

    "area" is for the area under a curve of a class, or a mean of such areas. It is Student's t on
    the logit scale, with the variance of DeLong (AUC), of Obuchowski (AUC, groups) or to first
    order (average precision). It uses no resamples. Few images may determine the variance, or the
    value is 0 or 1. Then it also covers Clopper and Pearson's interval for the number of disjoint
    pairs. No end of an AUC lies beyond Chernoff's bound for `least_pairs`.

    "influence" is for numbers of calibration, such as its slope: Student's t, with the variance
    of a column of influences. It uses no resamples either.

    "classes" is for means over classes of shares or F1 scores, which may have few images. It is
    "skewed" less the bias that the replicates show, since a ratio of counts is biased.

    "difference" is for one share minus another on the same images. It takes percentiles, or the
    interval of Bonett and Price if the two differ on fewer than `FEW_IMAGES` images.

    "bounded" is for other means of shares: percentiles. If all images agree, as at a value of
    exactly 1, the other end is that of Clopper and Pearson.

    "basic" is for a value v that is biased by the noise of its bins. Its replicates r have about
    the same bias once more. The interval reaches from 2v - mean(r) downwards and from v upwards,
    each time by the longer tail of r. Both ends use the longer tail, because the spread grows with
    the value: if the value is small by chance, its replicates spread too little. The upper end
    keeps the bias, because the value has less bias than the replicates if accuracy is far from
    confidence.

    "bias-corrected" is for binned calibration errors. It does the same with squares and takes the
    root at the end, because the bias of squares is a sum. The expected square of a bin's gap is its
    true square plus its variance. `benchmarks/coverage.py` compares it with the percentile
    interval.

    If whole groups were resampled, a "share" uses the outer of these ends and those of
    `bent_interval`. The reason is that the spread of groups is too small if the share is good by
    chance. A "difference" is then `skewed_interval`, because few groups may have all images that
    differ.

    "searched" is for a value that is found by a search, which resamples would repeat: the interval
    of `Metric.search`. A mean over cells has the means of their ends, as if all missed together:
    its interval is too wide rather than too narrow. A worst value has the worst of their ends.

    "centred" is for the debiased calibration error: its value does not have this bias, and its
    replicates have it once. The interval of the signed square reaches from v² (with its sign) to
    both sides, by the longer tail of the replicates' signed squares. The root is taken at the end.

    Then both ends move away from the value by what the replicates cannot show (`Estimate.hidden`):
    errors that no image, or hardly any, has made.

    For a mean over the seeds of a recipe, `widen_for_seeds` adds the variation of other seeds. If
    the value has no binning bias, `stretch_near_bounds` adds the skewness next to a bound. Then the
    interval is clipped to the bounds and, if needed, widened (never narrowed) to contain the value.
    NaN replicates (resamples without a class to rank) are ignored. With too few errors there is no
    interval: its ends are NaN.

    Args:
        estimate: value and replicates.
        bounds: smallest and largest possible value.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 5.2 and 5.3;
    Kumar et al. 2019, Verified Uncertainty Calibration, section 4, for the bias of the plug-in;
    Korn and Graubard 1998, Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts, for the number of images that corresponds to a variance, and for Clopper and
    Pearson's interval with such a number.

    >>> to_score(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    Score(value=0.5, low=0.405, high=0.595, n=100)
    """
    if bounds not in estimate.scores:
        estimate.scores[bounds] = _compute_score(estimate, bounds)
    return estimate.scores[bounds]


def to_bounded_score(estimate: Estimate, bounds: Ends = (-np.inf, np.inf)) -> Score | None:
    """An interval that holds with any number of errors; None if there is none for this metric.

    A mean of bounded losses has that of `betting_interval`; an AUC, or a mean of AUCs, has
    `area_bounds`. Both are often wider than the interval of `to_score`.

    Args:
        estimate: from `evaluate_resamples` with `losses`, or a mean over cells or seeds of such.
        bounds: smallest and largest possible value.

    >>> column = BoundedLosses((np.arange(500) < 10) * 2.0, 0, 2)
    >>> few = Estimate(0.04, np.array([0.03, 0.05]), 500, errors=10, fewest=20, losses=column)
    >>> [round(number, 3) for number in to_bounded_score(few)]
    [0.04, 0.006, 0.091, 500]
    """
    value = estimate.value
    if np.isnan(value):
        return None
    if estimate.losses is not None:
        low, high = betting_interval(estimate.losses)
    elif estimate.least_pairs:
        low, high = area_bounds(value, estimate.least_pairs)
    else:
        return None
    return _complete_score(estimate, ImageInterval(low, value, high), bounds)


def fewest_of_rules(metric: Metric) -> int:
    """With fewer wrong images, or right ones, a rule is judged on `to_bounded_score`.

    For ranks of images it is 100: one end of other intervals misses the macro AUC of a model with a
    few large losses in up to 11 %, with 40 errors (benchmarks/gates.py). For means of losses it is
    30, where both intervals are about equally wide. It is 0 for metrics without such a score.

    >>> [fewest_of_rules(METRICS[name]) for name in ("macro_auc", "brier_score", "accuracy")]
    [100, 30, 0]
    """
    if metric.column is not None or metric.carried_by == "rarer":
        return 100
    return FEW_IMAGES if metric.losses is not None else 0


def _compute_score(estimate: Estimate, bounds: Ends) -> Score:
    return _complete_score(estimate, image_interval(estimate), bounds)


def _complete_score(estimate: Estimate, interval: ImageInterval, bounds: Ends) -> Score:
    """Widen an interval over images for other seeds, and keep it within the bounds."""
    low, centre, high = interval
    recipes = estimate.recipes
    ends = widen_for_seeds((low, high), centre, estimate.n, recipes, estimate.tests)
    if recipes and estimate.interval not in NOT_STRETCHED:
        ends = stretch_near_bounds(ends, centre, bounds)
    value = estimate.value
    if np.isnan(ends[0]):
        return Score(value, np.nan, np.nan, estimate.n)
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in ends)
    return Score(value, float(min(low, value)), float(max(high, value)), estimate.n)


def image_interval(estimate: Estimate) -> ImageInterval:
    """The 95 % interval over images of `to_score`, before it is clipped or widened.

    NaN if the value or all replicates are NaN, or if there are too few errors.

    >>> image_interval(Estimate(0.5, np.linspace(0.4, 0.6, 101), n=100))
    ImageInterval(low=0.405, centre=0.5, high=0.595)
    """
    value, n = estimate.value, estimate.units
    if estimate.has_no_replicates and not (np.isnan(value) or estimate.too_few):
        assert estimate.column is not None, "it has no replicates"
        tests = 1 if estimate.recipes else estimate.tests  # seeds are widened later
        low, high = (
            influence_interval(value, estimate.column, estimate.bias, tests)
            if estimate.interval == "influence"
            else area_interval(
                value, estimate.column, estimate.pairs, estimate.bias, tests, estimate.least_pairs
            )
        )
        return ImageInterval(low, value, high)
    replicates = estimate.replicates[~np.isnan(estimate.replicates)]
    if np.isnan(value) or not len(replicates) or estimate.too_few:
        return ImageInterval(np.nan, np.nan, np.nan)
    centre = value
    match estimate.interval:
        case "skewed":
            low, high = skewed_interval(value, replicates)
        case "share":
            low, high = _share_ends(value, replicates, n)
        case "difference" if estimate.groups is not None and np.ptp(replicates) > 0:
            low, high = skewed_interval(value, replicates)
        case "conditional":
            low, high = _part_ends(value, replicates, estimate.counted)
        case "overlap":
            common = value / (2 - value), replicates / (2 - replicates)
            low, high = (2 * x / (1 + x) for x in _part_ends(*common, estimate.counted))
        case "classes":
            low, high = unbiased_skewed_interval(value, replicates)
        case "difference":
            low, high = bonett_price_interval(value, replicates, n)
        case "bounded" if value in (0, 1) and np.all(replicates == value):
            low, high = exact_interval(value, n)
        case "percentile" | "bounded":
            low, high = percentiles(replicates)
        case "basic":
            low, centre, high = _bias_corrected_interval(value, replicates)
        case "bias-corrected":
            squares = _bias_corrected_interval(value**2, np.square(replicates))
            low, centre, high = np.sqrt(np.maximum(squares, 0))
        case "searched":
            low, high = estimate.ends
        case "centred":
            tail = _longer_tail(signed_square(replicates))
            low, high = signed_root(signed_square(np.asarray(value)) + np.array([-tail, tail]))
    if estimate.groups is not None and estimate.interval in ("share", "conditional", "overlap"):
        # As `skewed_interval`, with the quantile of the normal distribution: the spread is known.
        bent = bent_interval(value, *_spread_and_skewness(value, replicates), Z95)
        low, high = min(low, float(bent[0])), max(high, float(bent[1]))
    low, high = estimate.hidden.widen(value, low, high)
    return ImageInterval(float(low), float(centre), float(high))


def skewed_interval(value: float, replicates: FloatArray) -> Ends:
    """The 95 % interval of a value whose error is skewed: Student's t, corrected for skewness.

    Suppose that a value depends most on a few images. A sample that by chance has few of them gives
    a value that is too good, and also a spread that is too small. Then the middle 95 % of the
    replicates end too early on the far side. The correction works as follows. A cubic polynomial in
    the skewness γ of the replicates makes the error, in units of its estimated spread, symmetric.
    It is solved for the ends. The spread is uncertain too, so the quantile is Student's with 4 /
    (3γ²) degrees of freedom. That is the number for a spread estimated from numbers with a gamma
    distribution, whose kurtosis is 3/2 of the squared skewness.

    Args:
        value: on the original images.
        replicates: float64 `[B]`, without NaN.

    Source: Hall 1992, On the Removal of Skewness by Transformation, section 2, the cubic
    transformation and its inverse; Satterthwaite 1946, An Approximate Distribution of Estimates of
    Variance Components, for the degrees of freedom. Spread and skewness are those of the
    replicates; with fewer than 1,000 of them, what they may be skewed by chance is taken off.

    >>> draws = np.random.default_rng(0).exponential(size=(4000, 30)).mean(axis=1)
    >>> [round(end, 2) for end in skewed_interval(1.0, draws)]
    [0.67, 1.89]
    """
    spread, skewness = _spread_and_skewness(value, replicates)
    deviate = Z95
    if abs(skewness) >= SYMMETRIC:
        deviate = float(scipy.special.stdtrit(4 / (3 * skewness**2), TAILS[1]))
    low, high = bent_interval(value, spread, skewness, deviate)
    return float(low), float(high)


def unbiased_skewed_interval(value: float, replicates: FloatArray) -> Ends:
    """`skewed_interval`, moved by the bias that the replicates show.

    >>> [round(end, 2) for end in unbiased_skewed_interval(0.5, np.array([0.5, 0.6, 0.7]))]
    [0.24, 0.56]
    """
    bias = float(replicates.mean()) - value
    low, high = skewed_interval(value, replicates)
    return low - bias, high - bias


def _spread_and_skewness(value: float, replicates: FloatArray) -> Ends:
    # To the bit as `std` and `mean`, which spend most of their time on preparation.
    n = len(replicates)
    deviations = replicates - np.add.reduce(replicates) / n
    spread = float(np.sqrt(np.add.reduce(deviations * deviations) / n))
    # If the replicates differ only by rounding, they have no skewness.
    if spread <= ROUNDING * abs(value):
        return 0.0, 0.0
    skewness = float(np.add.reduce((deviations / spread) ** 3) / n)
    # That of n replicates is off by √(6 / n) by chance, and ends far out magnify it. So twice of
    # what is more than with the usual number is taken off.
    chance = 2 * (np.sqrt(6 / n) - np.sqrt(6 / RESAMPLES))
    return spread, float(np.sign(skewness) * max(abs(skewness) - max(chance, 0), 0))


def bonett_price_interval(value: float, replicates: FloatArray, n: float) -> Ends:
    """The 95 % interval of the difference of two shares on the same images.

    It uses the percentiles of the replicates. If the two shares differ on fewer than `FEW_IMAGES`
    images, or all replicates are equal, it is Bonett and Price's interval. That adds one image to
    each side.

    Args:
        value: the difference on the original images.
        replicates: float64 `[B]`, the difference on each resample, without NaN.
        n: the number of images.

    Source: Bonett and Price 2012, Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data, equation 2.

    >>> [round(end, 3) for end in bonett_price_interval(0.0, np.zeros(5), n=100)]
    [-0.027, 0.027]
    """
    # If the two differ on a share d of the images, the variance is (d - value²) / n.
    differing = n * (n * float(replicates.var()) + value**2)
    if differing >= FEW_IMAGES and np.ptp(replicates) > 0:
        return percentiles(replicates)
    return adjusted_wald_interval(value, differing, n)


def adjusted_wald_interval(value: float, differing: float, n: float) -> Ends:
    """Bonett and Price's interval of a difference of two shares that differ on so many of n images.

    >>> [round(end, 3) for end in adjusted_wald_interval(-6 / 21, 8, 21)]
    [-0.508, -0.013]
    """
    centre = value * n / (n + 2)
    half = Z95 * float(np.sqrt(((differing + 2) / (n + 2) - centre**2) / (n + 2)))
    return max(centre - half, -1.0), min(centre + half, 1.0)


def _share_ends(value: float, replicates: FloatArray, n: int) -> Ends:
    worth = _images_worth(value, replicates, n)
    if worth * min(value, 1 - value) >= FEW_IMAGES:
        return percentiles(replicates)
    return exact_interval(value, worth)


def _part_ends(value: float, replicates: FloatArray, part: float) -> Ends:
    """The interval of a share of `part` images: never percentiles, which miss more on one side."""
    return exact_interval(value, _images_worth(value, replicates, part))


def exact_interval(value: float, worth: float) -> Ends:
    """Clopper and Pearson's interval of a share of so many images, as two floats.

    Wilson's is too narrow where few images are on one side. For 3 right of 3 it begins at 0.44; but
    if 0.44 is the true share, 3 of 3 are right in 8 % of the cases.

    >>> [round(end, 2) for end in exact_interval(1.0, 3)]
    [0.29, 1.0]
    """
    low, high = clopper_pearson(value, worth)
    return float(low), float(high)


def _bias_corrected_interval(value: float, replicates: FloatArray) -> FloatArray:
    """Low, centre and high for a value with a bias, if resampling adds the same bias once more."""
    mean = float(replicates.mean())
    tail = _longer_tail(replicates)
    centre = 2 * value - mean
    return np.array([centre - tail, centre, max(centre, value) + tail])


def _longer_tail(replicates: FloatArray) -> float:
    mean = float(replicates.mean())
    return max(abs(end - mean) for end in percentiles(replicates))


def percentiles(replicates: FloatArray) -> Ends:
    """The ends of the middle 95 % of float64 numbers without NaN, as `np.quantile` to the bit.

    Each row of a table of scores needs them once or twice, and for a thousand numbers `np.quantile`
    spends most of its time on preparation.

    >>> percentiles(np.arange(101.0))
    (2.5, 97.5)
    """
    ordered = np.sort(replicates)
    last = len(ordered) - 1

    def quantile(share: float) -> float:
        at, part = divmod(last * share, 1)
        below, above = ordered[int(at)].item(), ordered[min(int(at) + 1, last)].item()
        gap = above - below
        return float(below + gap * part if part < 0.5 else above - gap * (1 - part))

    return quantile(TAILS[0]), quantile(TAILS[1])


def _images_worth(value: float, replicates: FloatArray, n: float) -> float:
    """The number of independent images whose share would have the variance of the replicates."""
    one = value * (1 - value)  # the variance of one image
    # If all images agree, value and replicates differ from 0 or 1 only by rounding.
    return one / float(replicates.var()) if one > ROUNDING and np.ptp(replicates) > 0 else float(n)


def score(
    predictions: Predictions,
    resamples: int = RESAMPLES,
    seed: int = 0,
    fitted: FittedThresholds | None = None,
    grouping: Grouping | None = None,
) -> Scores:
    """Compute every metric that applies, with its 95 % bootstrap interval over images.

    If there are too few errors for an interval, its ends are NaN; see `Score.too_few`.

    Args:
        predictions: the columns of one cell.
        resamples: how many resamples of the images, at least 1.
        seed: seed of the resampling.
        fitted: `fit_on(...)` of clean validation predictions of the same model; None leaves out the
            metrics that need it.
        grouping: which images belong together, such as those of one patient; they are resampled
            together, and the intervals cover other groups.

    Returns:
        One score per row of `METRICS`, by name and in its order, without rows that do not apply.
    """
    check_type(predictions, AnyPredictions, "score needs Predictions, such as those of predict")
    if not len(predictions):
        raise InputError("there is nothing to score: the predictions are empty")
    shared = Resamples.draw(predictions.strata, resamples, seed, grouping)
    estimates = evaluate_resamples(predictions, shared, fitted)
    return Scores({name: to_score(e, METRICS[name].bounds) for name, e in estimates.items()})


def signed_square(values: FloatArray) -> FloatArray:
    """Squares with the sign of the values."""
    return np.sign(values) * np.square(values)


def signed_root(squares: FloatArray) -> FloatArray:
    """What `signed_square` was made of."""
    return np.sign(squares) * np.sqrt(np.abs(squares))
