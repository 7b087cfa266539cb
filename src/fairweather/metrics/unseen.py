"""How good would a model be at a site that nobody has measured? A prediction interval.

The sites of a test set, such as hospitals, are a sample of all sites. Their true values differ, and
each is measured with an error. A random-effects model separates the two: on the logit scale, the
true values are normal, and so are the errors. The value at a new site is as uncertain as one more
draw of a true value, with mean and variance estimated from few sites.

The usual interval puts the most likely variance into Student's t. It is too short where that
variance is often estimated as 0 by chance (benchmarks/sites.py). Here the interval is an average
over all variances, each weighted by how well it explains the sites.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.areas import column_spread
from fairweather.metrics.columns import Z95, Ends, FloatArray
from fairweather.metrics.grouping import student_quantile
from fairweather.metrics.intervals import TAILS, Estimate
from fairweather.metrics.metric import MetricRow
from fairweather.types.measurement import Score

# From fewer sites, Student's t says of a new one hardly more than that it lies between the bounds.
FEWEST_SITES = 5
# With fewer errors a site on average, or hits where those are rarer, the logits of many sites are
# biased, and the lower end would miss in up to 8 % (benchmarks/sites.py).
FEWEST_ERRORS = 3
# The kinds of intervals whose values are about as good or bad at a small site as at a large one.
# Calibration errors are larger at small sites, because their bins are noisier.
PREDICTABLE = ("share", "conditional", "overlap", "area", "classes", "skewed")
CONTINUITY = 0.5  # images that are added to both sides, so that 0 and 1 have a logit
# Where errors are large, variances between logits are expected below this or not far above: half
# of the accuracies around 90 % then lie between 87 and 93 %.
MOST_EXPECTED = 0.25
# Variances between sites reach up to this many times what the values themselves show.
LARGEST_VARIANCE = 1e4
STEPS = 160  # of the variance, on a logarithmic scale
HALVINGS = 50  # of the range that contains a quantile


class SiteShare(NamedTuple):
    """A value at one site, as if it were a share of independent images."""

    share: float
    """In [0, 1]."""

    images: float
    """Of how many independent images a share would be as precise."""


@dataclass(frozen=True)
class RandomEffects:
    """True values that are normal, each observed with a normal error of known variance.

    For each possible variance between the true values, their mean has its weighted average and
    variance, and a likelihood with the mean integrated out: the restricted likelihood. A variance
    has the prior density 1 / (itself + the variance of an error, at most 0.25). Where errors are
    small, the value of a new site then has Student's t-distribution with one degree of freedom less
    than sites.

    Source: Harville 1974, Bayesian Inference for Variance Components Using Only Error Contrasts,
    for the restricted likelihood; Tiao and Tan 1965, Bayesian Analysis of Random-Effect Models,
    section 4, for the prior; Nagashima, Noma and Furukawa 2019, Prediction Intervals for
    Random-Effects Meta-Analysis, for what averaging over the variance corrects.
    """

    between: FloatArray
    """float64 `[V]`, variances between the true values."""

    likelihood: FloatArray
    """`[V]`, the logarithm of the restricted likelihood."""

    weights: FloatArray
    """`[V]`, likelihood times prior, with a sum of 1."""

    means: FloatArray
    """`[V]`, the weighted mean for each variance."""

    errors: FloatArray
    """`[V]`, its variance."""

    @staticmethod
    def fit(values: ArrayLike, variances: ArrayLike) -> RandomEffects:
        """Fit the model.

        Args:
            values: float `[k]`, at least two.
            variances: float `[k]`, of their errors, above 0.
        """
        y, v = np.asarray(values, dtype=np.float64), np.asarray(variances, dtype=np.float64)
        typical = min(float(1 / np.mean(1 / v)), MOST_EXPECTED)
        most = np.log1p(LARGEST_VARIANCE * max(float(y.var()) / typical, 1.0))
        between = typical * np.expm1(np.linspace(0, most, STEPS))
        precisions = 1 / (v + between[:, None])
        totals = precisions.sum(axis=1)
        means = precisions @ y / totals
        distances = (precisions * np.square(y - means[:, None])).sum(axis=1)
        likelihood = (np.log(precisions).sum(axis=1) - np.log(totals) - distances) / 2
        # The steps are equal where the prior is flat. The two ends count half (trapezoids).
        weights = np.exp(likelihood - likelihood.max())
        weights[[0, -1]] /= 2
        return RandomEffects(between, likelihood, weights / weights.sum(), means, 1 / totals)

    def quantiles(self, shares: Sequence[float], variance: float = 0.0) -> list[float]:
        """Quantiles of the true value at a new site, or of one with an error of this variance.

        >>> model = RandomEffects.fit([-2.0, -1.0, 0.0, 1.0, 2.0], [1e-9] * 5)
        >>> [round(end, 2) for end in model.quantiles([0.025, 0.975])]
        [-4.81, 4.81]
        """
        deviations = np.sqrt(self.between + self.errors + variance)
        wanted, widest = np.asarray(shares), 40 * deviations
        low = np.full(len(wanted), (self.means - widest).min())
        high = np.full(len(wanted), (self.means + widest).max())
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = scipy.special.ndtr((middle[:, None] - self.means) / deviations) @ self.weights
            low = np.where(below < wanted, middle, low)
            high = np.where(below < wanted, high, middle)
        return [float(end) for end in (low + high) / 2]


def predict_unseen(sites: Sequence[SiteShare]) -> tuple[float, float, float]:
    """The lower end, the middle and the upper end of the 95 % prediction interval of a new site.

    The variance of a site's error is that of the share of all sites together. With its own share, a
    site that is good by chance would seem more precise, or less, than one that is bad by chance.

    Args:
        sites: at least five.

    Raises `InputError` for fewer.

    >>> shares = [SiteShare(share, 200) for share in (0.80, 0.84, 0.86, 0.90, 0.93)]
    >>> [round(number, 2) for number in predict_unseen(shares)]
    [0.64, 0.87, 0.96]
    """
    if len(sites) < FEWEST_SITES:
        raise InputError(
            f"a prediction interval for an unseen site needs at least {FEWEST_SITES} sites, found "
            f"{len(sites)}"
        )
    share, images = np.array(sites, dtype=np.float64).T
    hits, misses = images * share + CONTINUITY, images * (1 - share) + CONTINUITY
    common = (images @ share + CONTINUITY) / (images.sum() + 2 * CONTINUITY)
    variances = 1 / (images * common * (1 - common))
    model = RandomEffects.fit(np.log(hits / misses), variances)
    low, middle, high = model.quantiles([TAILS[0], 0.5, TAILS[1]])
    ends = scipy.special.expit([low, middle, high])
    return float(ends[0]), float(ends[1]), float(ends[2])


def describe_need(column: str, count: int) -> str:
    """Say why so many sites have no prediction interval, and what would be enough.

    >>> describe_need("site", 4)
    'a prediction interval for an unseen site needs at least 5 values of site, found 4'
    """
    need = f"a prediction interval for an unseen {column} needs at least"
    if count < FEWEST_SITES:
        return f"{need} {FEWEST_SITES} values of {column}, found {count}"
    return (
        f"{need} {FEWEST_ERRORS} errors for each {column} on average, or as many right answers "
        "where those are rarer: test more images"
    )


def count_rarer(sites: Sequence[SiteShare]) -> float:
    """The errors of all sites, or their hits, whichever are rarer.

    >>> round(count_rarer([SiteShare(0.9, 20), SiteShare(1.0, 30)]), 6)
    2.0
    """
    share, images = np.array(sites, dtype=np.float64).T
    return float(min(images @ share, images @ (1 - share)))


def is_predictable(row: MetricRow) -> bool:
    """Tell whether a metric has a prediction interval: a better direction, and two bounds.

    >>> from fairweather.metrics import METRICS
    >>> [is_predictable(METRICS[name]) for name in ("accuracy", "negative_log_likelihood")]
    [True, False]
    """
    return (
        row.higher_is_better is not None
        and all(map(math.isfinite, row.bounds))
        and row.interval in PREDICTABLE
    )


def unseen_score(estimates: Sequence[Estimate], bounds: Ends) -> Score | None:
    """The middle of what a metric may be at an unseen site, and its prediction interval.

    It is for these trained networks: the mean over seeds has no variation of other seeds. A site
    where the metric is not defined, such as one without an image of a class, does not count.

    Args:
        estimates: of each site.
        bounds: of the metric.

    Returns:
        A score whose n is the number of sites; None for fewer than five, or with fewer than three
        errors a site on average, or hits where those are rarer. A value such as an area has as many
        as a share of the same precision.

    >>> drawn = np.array([-0.02, 0.02])
    >>> sites = [Estimate(share, share + drawn, n=400) for share in (0.7, 0.8, 0.8, 0.9, 0.9)]
    >>> print(*(round(number, 2) for number in unseen_score(sites, (0.0, 1.0))))
    0.83 0.46 0.97 5
    """
    defined = [estimate for estimate in estimates if not math.isnan(estimate.value)]
    sites = [as_share(estimate, bounds) for estimate in defined]
    if len(sites) < FEWEST_SITES or count_rarer(sites) < FEWEST_ERRORS * len(sites):
        return None
    low, middle, high = predict_unseen(sites)
    least, range_ = bounds[0], bounds[1] - bounds[0]
    return Score(least + range_ * middle, least + range_ * low, least + range_ * high, len(defined))


def as_share(estimate: Estimate, bounds: Ends) -> SiteShare:
    """Where a value lies between the bounds, and how precise that is."""
    range_ = bounds[1] - bounds[0]
    share = min(max((estimate.value - bounds[0]) / range_, 0.0), 1.0)
    variance = _variance(estimate) / range_**2
    if variance > 0 and 0 < share < 1:
        return SiteShare(share, share * (1 - share) / variance)
    if estimate.column is not None:
        return SiteShare(share, estimate.pairs)
    few = estimate.interval in ("conditional", "overlap")
    return SiteShare(share, max(estimate.counted if few else estimate.units, 1.0))


def _variance(estimate: Estimate) -> float:
    """The variance of a value over other images or groups, without Student's quantile."""
    if estimate.column is not None:
        return column_spread(estimate.column).variance
    drawn = estimate.replicates[~np.isnan(estimate.replicates)]
    if not len(drawn):
        return 0.0
    wider = 1.0
    if estimate.groups is not None and estimate.groups > 1:
        wider = student_quantile(estimate.groups) / Z95
    return float(drawn.var()) / wider**2
