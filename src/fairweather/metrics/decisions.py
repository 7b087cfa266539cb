"""What calls are worth: the net benefit at a threshold, PPV and NPV at another prevalence.

A net benefit says whether calls are worth more than to call every image, or none. Whoever calls a
finding from 10 % on accepts nine false calls for a right one: at a threshold t, a false call costs
t / (1 − t) right ones. So the unit is right calls per image.

Source: Vickers and Elkin 2006, Decision Curve Analysis: A Novel Method for Evaluating Prediction
Models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special
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
from fairweather.metrics.grouping import Grouping, interval_from_moments, share_moments
from fairweather.types.measurement import Score

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


class PredictiveValues(NamedTuple):
    """The positive and the negative predictive value, each with its 95 % interval."""

    ppv: Score
    npv: Score


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
        calls = _estimate_shares((truth & called, ~truth & called), sizes, grouping)
        kept = _estimate_shares((~truth & ~called, truth & ~called), sizes[::-1], grouping)
        gain = _subtract_shares(kept, prices[::-1])
        ends.append((*_subtract_shares(calls, prices), share - (1 - share) * cost, *gain))
    return DecisionCurve(levels, *np.array(ends).reshape(-1, 7).T)


def predictive_values(
    called: ArrayLike,
    present: ArrayLike,
    prevalence: float,
    weights: Weights = None,
    *,
    grouping: Grouping | None = None,
) -> PredictiveValues:
    """PPV and NPV at a stated prevalence, from sensitivity and specificity, with 95 % intervals.

    `PPV = sensitivity π / (sensitivity π + (1 − specificity) (1 − π))`, and the NPV likewise. It
    assumes label shift: at the other prevalence, sensitivity and specificity stay as they are.

    On the logit scale, each is the difference of the logarithms of two shares, whose intervals are
    combined as in `decision_curve`. Where one of the shares is 0, both ends count at once, which is
    too wide rather than too narrow.

    Args:
        called, present: bool `[n]`: whether the finding is called, and whether it is there.
        prevalence: π, in [0, 1]; it is taken as known.
        weights: float `[n]`, of the images without the finding among each other, and likewise of
            those with it; all equal by default.
        grouping: which images belong together.

    Returns:
        Both values, NaN where no image could be called so. Without images on either side, or with a
        single group, there is no interval.

    Source: Mercaldo, Lau and Zhou 2007, Confidence Intervals for Predictive Values with an Emphasis
    to Case-Control Studies, for the logit scale; Zou and Donner 2008, as in `decision_curve`.

    >>> called, present = np.arange(200) < 100, np.arange(200) % 10 < 5
    >>> ppv, npv = predictive_values(called, present, prevalence=0.01)
    >>> [round(value, 4) for value in (ppv.value, npv.value)]
    [0.01, 0.99]
    """
    n, share = check_columns(called=called, present=present), _check_prevalence(prevalence)
    calls, truth = np.asarray(called, dtype=bool), np.asarray(present, dtype=bool)
    (rows,) = as_rows(weights, n)
    even = weights is None or float(np.ptp(rows)) == 0
    hits = truth & calls, ~truth & calls
    shares = _estimate_shares(hits, (truth, ~truth), grouping, None if even else rows)
    complement = _SharePair(1 - shares.value, 1 - shares.high, 1 - shares.low, shares.correlation)
    with np.errstate(divide="ignore"):
        odds = float(np.log(share) - np.log1p(-share))
    return PredictiveValues(
        Score(*_divide_shares(shares, odds), n), Score(*_divide_shares(complement.swap(), -odds), n)
    )


class _SharePair(NamedTuple):
    """Two shares `[2]`, the ends of their intervals, and how they are correlated."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    correlation: float

    def swap(self) -> _SharePair:
        """The second share first."""
        return _SharePair(self.value[::-1], self.low[::-1], self.high[::-1], self.correlation)

    def combine(self, below: FloatArray, above: FloatArray) -> tuple[float, float]:
        """How far a difference may lie below and above, from how far each of both shares may.

        Args:
            below, above: `[2]`, how far each share may be below and above itself.
        """

        def reach(first: float, second: float) -> float:
            if np.isinf([first, second]).any():
                return np.inf
            square = first**2 + second**2 - 2 * self.correlation * first * second
            return float(np.sqrt(max(square, 0.0)))

        return reach(below[0], above[1]), reach(above[0], below[1])


def _estimate_shares(
    hits: tuple[BoolArray, BoolArray],
    wholes: tuple[BoolArray, BoolArray],
    grouping: Grouping | None,
    weights: FloatArray | None = None,
) -> _SharePair:
    """Estimate two shares of images, which may be the same images or belong to the same groups."""
    columns = np.stack([*hits, *wholes], axis=1).astype(np.float64)
    if weights is not None:
        columns *= weights[:, None]
    worth = ratio(np.square(columns[:, 2:].sum(axis=0)), np.square(columns[:, 2:]).sum(axis=0))
    if grouping is not None:
        columns = grouping.sums(columns)
    counts, images = columns[:, :2], columns[:, 2:]
    whole = images.sum(axis=0)
    share = ratio(counts.sum(axis=0), whole)
    if grouping is None and weights is None:
        low, high = clopper_pearson(share, worth)
    else:
        with np.errstate(invalid="ignore", divide="ignore"):  # a unit may have all images of a kind
            moments = share_moments(counts, images, share, whole)
        low, high = interval_from_moments(share, worth, np.sum(moments, axis=1))
        low, high = (np.where(len(columns) > 1, end, np.nan) for end in (low, high))
    excess = counts - share * images
    lengths = float(np.sqrt(np.square(excess).sum(axis=0).prod()))
    correlation = float(excess.prod(axis=1).sum()) / lengths if lengths > 0 else 0.0
    return _SharePair(share, low, high, correlation)


def _subtract_shares(shares: _SharePair, prices: tuple[float, float]) -> tuple[float, float, float]:
    """One share minus the other, each times its price: the value and its 95 % interval."""
    price, (value, low, high, _) = np.array(prices), shares
    below, above = shares.combine(price * (value - low), price * (high - value))
    gap = float(value @ (price * (1, -1)))
    return gap, gap - below, gap + above


def _divide_shares(shares: _SharePair, odds: float) -> tuple[float, float, float]:
    """The share that odds become which are multiplied by one share and divided by the other.

    Args:
        shares: the two.
        odds: the logarithm of the odds.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = (np.log(end) for end in shares[:3])
        logit = odds + value[0] - value[1]
        if np.isinf(value).any():  # one is 0, and both ends count at once
            ends = odds + low[0] - high[1], odds + high[0] - low[1]
        else:
            below, above = shares.combine(value - low, high - value)
            ends = logit - below, logit + above
    middle, *outer = (float(scipy.special.expit(end)) for end in (logit, *ends))
    if np.isnan(middle) or np.isnan(outer).any():
        return middle, np.nan, np.nan
    return middle, min(outer[0], middle), max(outer[1], middle)


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
