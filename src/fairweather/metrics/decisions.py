"""Net benefit: is a decision at a threshold worth more than to call every image, or none?

At a threshold t, a false call is worth t / (1 − t) right ones: whoever calls a finding from 10 % on
accepts nine false calls for a right one. So the unit of a net benefit is right calls per image.

Source: Vickers and Elkin 2006, Decision Curve Analysis: A Novel Method for Evaluating Prediction
Models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import (
    BoolArray,
    FloatArray,
    Result,
    Weights,
    as_result,
    as_rows,
    check_columns,
    check_shares,
    clopper_pearson,
    ratio,
)
from fairweather.metrics.grouping import (
    Grouping,
    interval_from_moments,
    share_moments,
)

THRESHOLDS = tuple(percent / 100 for percent in range(1, 100))


class DecisionCurve(NamedTuple):
    """The net benefit at each threshold, with pointwise 95 % intervals; float64 `[T]` each.

    The net benefit of calling no image is 0.
    """

    threshold: FloatArray
    net_benefit: FloatArray
    low: FloatArray
    high: FloatArray
    """`net_benefit`, `low`, `high`: of calling the images whose probability is at least the
    threshold."""

    treat_all: FloatArray
    """Of calling every image."""

    gain: FloatArray
    gain_low: FloatArray
    gain_high: FloatArray
    """`gain`, `gain_low`, `gain_high`: how much more than that of calling every image."""


def net_benefit(
    probability: ArrayLike,
    present: ArrayLike,
    threshold: float,
    weights: Weights = None,
    *,
    prevalence: float | None = None,
) -> Result:
    """Net benefit of calling the images from a threshold on, in right calls per image.

    `TP / n − FP / n · t / (1 − t)`; at a stated prevalence π,
    `sensitivity π − (1 − specificity) (1 − π) t / (1 − t)`

    Args:
        probability: float `[n]`, in [0, 1].
        present: bool `[n]`, whether the finding is there.
        threshold: t, above 0 and below 1.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.
        prevalence: π; by default that of the images. With it, the value is NaN unless there are
            images with the finding and without it.

    >>> net_benefit([0.9, 0.6, 0.4, 0.1], [True, False, True, False], 0.5)
    0.0
    >>> round(net_benefit([0.9, 0.6, 0.4, 0.1], [True, False, True, False], 0.2), 4)
    0.4375
    """
    scores, truth = _check(probability, present)
    (odds,), rows = _odds(threshold), as_rows(weights, len(truth))
    called = scores >= threshold
    right, wrong = rows @ (truth & called), rows @ (~truth & called)
    if prevalence is None:
        values = (right - odds * wrong) / rows.sum(axis=1)
    else:
        share = _check_prevalence(prevalence)
        sensitivity, fall_out = ratio(right, rows @ truth), ratio(wrong, rows @ ~truth)
        values = share * sensitivity - (1 - share) * odds * fall_out
    return as_result(values, weights)


def decision_curve(
    probability: ArrayLike,
    present: ArrayLike,
    thresholds: ArrayLike = THRESHOLDS,
    *,
    prevalence: float | None = None,
    grouping: Grouping | None = None,
) -> DecisionCurve:
    """The net benefit over thresholds, beside calling every image, with 95 % intervals.

    A net benefit is a share of right calls minus a multiple of a share of false calls. Each share
    has Clopper and Pearson's interval, or `share_interval` with groups, and both are combined with
    the correlation of the shares. Intervals are pointwise, and NaN with a single group.

    Args:
        probability: float `[n]`, in [0, 1].
        present: bool `[n]`, whether the finding is there.
        thresholds: float `[T]`, above 0 and below 1.
        prevalence: as in `net_benefit`. It is taken as known, and its classes keep their images.
        grouping: which images belong together, such as those of a patient.

    Source: Zou and Donner 2008, Construction of Confidence Limits about Effect Measures, for the
    combination of two intervals; Newcombe 1998, Improved Confidence Intervals for the Difference
    Between Binomial Proportions Based on Paired Data, for correlated shares.

    >>> curve = decision_curve([0.9, 0.6, 0.4, 0.1], [True, False, True, False], [0.2, 0.5])
    >>> curve.net_benefit.tolist(), curve.treat_all.tolist(), curve.gain.tolist()
    ([0.4375, 0.0], [0.375, 0.0], [0.0625, 0.0])
    """
    scores, truth = _check(probability, present)
    odds = _odds(thresholds)
    levels = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    everyone = np.ones_like(truth)
    if prevalence is None:
        share, worth = float(truth.mean()), (1.0, 1.0)
        sizes = everyone, everyone
    else:
        share = _check_prevalence(prevalence)
        worth, sizes = (share, 1 - share), (truth, ~truth)
    ends = []
    for threshold, cost in zip(levels, odds, strict=True):
        called = scores >= threshold
        prices = worth[0], worth[1] * cost
        calls = _subtract_shares((truth & called, ~truth & called), sizes, prices, grouping)
        kept = ~truth & ~called, truth & ~called
        refusals = _subtract_shares(kept, sizes[::-1], prices[::-1], grouping)
        ends.append((*calls, share - (1 - share) * cost, *refusals))
    return DecisionCurve(levels, *np.array(ends).reshape(-1, 7).T)


def _subtract_shares(
    hits: tuple[BoolArray, BoolArray],
    wholes: tuple[BoolArray, BoolArray],
    prices: tuple[float, float],
    grouping: Grouping | None,
) -> tuple[float, float, float]:
    """One share minus another, each times its price: the value and its 95 % interval."""
    columns = np.stack([*hits, *wholes], axis=1).astype(np.float64)
    if grouping is not None:
        columns = grouping.sums(columns)
    counts, images = columns[:, :2], columns[:, 2:]
    whole = images.sum(axis=0)
    share = ratio(counts.sum(axis=0), whole)
    if grouping is None:
        low, high = clopper_pearson(share, np.where(whole > 0, whole, np.nan))
    else:
        with np.errstate(invalid="ignore", divide="ignore"):  # a unit may have all images of a kind
            moments = share_moments(counts, images, share, whole)
        low, high = interval_from_moments(share, whole, np.sum(moments, axis=1))
        low, high = (np.where(grouping.count > 1, end, np.nan) for end in (low, high))
    excess = counts - share * images
    lengths = float(np.sqrt(np.square(excess).sum(axis=0).prod()))
    correlation = float(excess.prod(axis=1).sum()) / lengths if lengths > 0 else 0.0
    value = share @ np.array([prices[0], -prices[1]])
    reach = [
        np.array(prices) * (first, second)
        for first, second in (
            (share[0] - low[0], high[1] - share[1]),
            (high[0] - share[0], share[1] - low[1]),
        )
    ]
    below, above = (
        np.sqrt(max(side @ side - 2 * correlation * side.prod(), 0.0)) for side in reach
    )
    return float(value), float(value - below), float(value + above)


def _check(probability: ArrayLike, present: ArrayLike) -> tuple[FloatArray, BoolArray]:
    check_columns(probability=probability, present=present)
    scores = np.asarray(probability, dtype=np.float64)
    check_shares(scores, "probability")
    return scores, np.asarray(present, dtype=bool)


def _odds(thresholds: ArrayLike) -> FloatArray:
    levels = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
    inside = (levels > 0) & (levels < 1)
    if levels.ndim != 1 or not inside.all():
        raise InputError(
            f"a threshold must be a probability above 0 and below 1, found {levels[~inside][0]:g}"
        )
    return np.asarray(levels / (1 - levels))


def _check_prevalence(prevalence: float) -> float:
    if not 0 <= prevalence <= 1:  # NaN fails it too
        raise InputError(f"a prevalence must be between 0 and 1, found {prevalence:g}")
    return prevalence
