"""Calibration as prediction models of clinics report it: slope, intercepts, O:E, ICI, curve.

All are of the probability p of an event, and of whether it happened: that the most probable class
is right, that an image is of a class, or that a finding is there. The probability is kept within
[1e-7, 1 - 1e-7], and its log-odds are ln(p / (1 - p)).

The intervals use no resamples. Each number has a column, what each image adds to it to first order.
That of a maximum-likelihood estimate is its influence function, and the mean square of the column
is the sandwich variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.metrics.calibration import check_confidence
from fairweather.metrics.columns import (
    Z95,
    BoolArray,
    FloatArray,
    IntArray,
    Result,
    Weights,
    as_result,
    as_rows,
)
from fairweather.metrics.grouping import Grouping

# Probabilities closer to 0 or 1 count as this close, as in calzone (Fan et al. 2024).
LEAST = 1e-7
# The share of the images below each knot of a curve: Harrell 2015, Regression Modeling Strategies,
# table 2.3. Knots closer than this count once, and fewer than three make a straight line.
KNOTS = (0.05, 0.35, 0.65, 0.95)
CLOSE = 0.01
# A fit begins with images merged into this many steps of the log-odds, and ends with all images.
STEPS_OF_ODDS = 1000
# A last step of Newton's method that is larger than this share of the coefficients leads away, as
# where images are separated perfectly. Each step doubles the exact digits.
SMALL, POLISHED, MOST_POLISHES = 0.01, 1e-6, 4
MOST_LEVERAGE = 0.999
MOST_CLIMBS = 60
CLIMBED = 1e-10  # in nats for each image
# Added to the curvature, so that a curve exists too where images are separated perfectly.
RIDGE = 1e-9
CERTAIN = 20.0  # standard errors from which on the sign of a gap is certain
# A point of a curve stands between these shares of the images, as in Austin and Steyerberg 2019.
DRAWN = (0.01, 0.99)

Design = Callable[[FloatArray], FloatArray]
"""From log-odds `[n]` to the columns of a regression, `[n, k]`."""


class Levels(NamedTuple):
    """Images with equal log-odds, or in the same of many narrow steps, together."""

    place: NDArray[np.integer]
    """The level of each image, `[n]`."""

    odds: FloatArray
    """The mean log-odds of each level, `[levels]`."""

    events: FloatArray
    """How often the event happened there."""

    counts: FloatArray
    """The number of images there."""


class LogisticFit(NamedTuple):
    """A logistic regression of what happened on the log-odds."""

    design: Design
    coefficients: FloatArray
    """`[k]`."""

    share: FloatArray
    """The fitted share of events of each level, `[levels]`."""

    directions: FloatArray
    """What an event at each level adds to the coefficients, `[levels, k]`: to first order, and as
    if without the image itself, so that few events do not seem to fit well."""

    inverse: FloatArray
    """The inverse of the observed information, `[k, k]`: the variance if the model is right."""


class Number(NamedTuple):
    """A number of the outcomes."""

    value: float
    column: NDArray[np.floating]
    """What each image adds to it to first order, `[n]`; float32, because there are many."""

    bias: float = 0.0
    """How much too high it is on average."""


class CalibrationTest(NamedTuple):
    """Spiegelhalter's z, and its two-sided p."""

    z: float
    p: float


class CalibrationCurve(NamedTuple):
    """How often an event happens at each probability, with pointwise 95 % bands; float64 `[k]`."""

    probability: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class Outcomes:
    """The probability of an event, and whether it happened, for each image."""

    probability: FloatArray
    """float64 `[n]`."""

    happened: BoolArray
    """bool `[n]`."""

    groups: IntArray | None = None
    """The number of each image's group; None if images are independent."""

    weights: FloatArray | None = None
    """How often each image counts, `[n]`; None counts each once."""

    @cached_property
    def counts(self) -> FloatArray:
        """How often each image counts, `[n]`."""
        return np.ones(len(self.happened)) if self.weights is None else self.weights

    @cached_property
    def odds(self) -> FloatArray:
        """The log-odds, `[n]`."""
        return log_odds(self.probability)

    @property
    def expected(self) -> FloatArray:
        """The probabilities, none closer to 0 or 1 than `LEAST`, `[n]`."""
        return np.clip(self.probability, LEAST, 1 - LEAST)

    @cached_property
    def _total(self) -> float:
        return float(self.counts.sum())

    @cached_property
    def _excess(self) -> FloatArray:
        """What happened minus the probability, `[n]`."""
        return self.happened - self.probability

    @cached_property
    def has_both(self) -> bool:
        """Whether the event happened for some images, and not for others."""
        happened = self.happened[self.counts > 0]
        return bool(happened.any() and not happened.all())

    @cached_property
    def is_separated(self) -> bool:
        """Whether a threshold of the probability separates both sides, so that no slope fits best.

        This is so as well where all probabilities are equal.
        """
        counted = self.counts > 0
        sides = (self.odds[counted & side] for side in (self.happened, ~self.happened))
        (low, high), (low_of_others, high_of_others) = ((x.min(), x.max()) for x in sides)
        return bool(low >= high_of_others or low_of_others >= high)

    @cached_property
    def recalibration(self) -> LogisticFit | None:
        """Intercept and slope of the log-odds (Cox 1958); None where no slope fits best."""
        if not self.has_both or self.is_separated:
            return None
        return self._fit(lambda odds: np.stack([np.ones(len(odds)), odds], axis=1), offset=0.0)

    @cached_property
    def slope(self) -> Number:
        """`calibration_slope`."""
        return self._coefficient(self.recalibration, 1)

    @cached_property
    def free_intercept(self) -> Number:
        """`recalibration_intercept`."""
        return self._coefficient(self.recalibration, 0)

    @cached_property
    def intercept(self) -> Number:
        """`calibration_intercept`."""
        constant = self._fit(lambda odds: np.ones((len(odds), 1)), 1.0) if self.has_both else None
        return self._coefficient(constant, 0)

    @cached_property
    def ratio(self) -> Number:
        """`observed_expected_ratio`."""
        expected = self.expected
        total = float(self.counts @ expected)
        value = float(self.counts @ self.happened) / total
        return Number(value, ((self.happened - value * expected) / total).astype(np.float32))

    @property
    def spiegelhalter(self) -> CalibrationTest:
        """`spiegelhalter_test`."""
        p = self.probability
        excess = self._excess * (1 - 2 * p)
        variance = float(self.counts @ ((1 - 2 * p) ** 2 * p * (1 - p)))
        if self.groups is not None:
            sums = self._by_group(self.counts * excess)
            # Of one group, z would be 1 or -1, whatever its images say.
            variance = float(np.square(sums).sum()) if len(sums) > 1 else 0.0
        if not variance:
            return CalibrationTest(np.nan, np.nan)
        z = float(self.counts @ excess) / np.sqrt(variance)
        return CalibrationTest(float(z), float(2 * scipy.special.ndtr(-abs(z))))

    @cached_property
    def ici(self) -> Number:
        """`integrated_calibration_index`.

        Where the sign of a gap is uncertain, its influence is nearly 0 to first order, although the
        size of the gap is as uncertain as the curve. The column is scaled by what this adds.
        """
        curve, levels = self._curve, self._levels
        gap = scipy.special.expit(curve.design(self.odds) @ curve.coefficients) - self.expected
        value = float(self.counts @ np.abs(gap)) / self._total
        columns = curve.design(levels.odds)
        slopes = columns * (curve.share * (1 - curve.share))[:, None]
        # Of a normal gap with this error: how often it is positive, and the mean of its size.
        gaps = curve.share - scipy.special.expit(levels.odds)
        errors = np.maximum(self._curve_errors(slopes), LEAST**2)
        units = np.clip(gaps / errors, -CERTAIN, CERTAIN)
        sign = 2 * scipy.special.ndtr(units) - 1
        size = gaps * sign + errors * np.sqrt(2 / np.pi) * np.exp(-(units**2) / 2)
        share_of_all = levels.counts / self._total
        bias = float(share_of_all @ (size - np.abs(gaps)))
        own = sign[levels.place] * gap
        column = (own - self.counts @ own / self._total) / self._total
        column += self._influence(curve, (share_of_all * sign) @ slopes)
        hidden = float(share_of_all @ (errors * (1 - sign**2)))
        spread = float(np.sqrt(np.square(self._by_group(column)).sum()))
        column *= np.hypot(spread, hidden) / spread if spread else 1.0
        return Number(value, column.astype(np.float32), bias)

    def trace_curve(self, points: int) -> CalibrationCurve:
        """The smooth curve at so many evenly spaced probabilities, and quantiles of the images."""
        quantiles = np.quantile(self.probability, np.linspace(*DRAWN, points))
        even = np.linspace(quantiles[0], quantiles[-1], points)
        return self.curve_at(np.unique(np.concatenate([even, quantiles])))

    def curve_at(self, probability: FloatArray) -> CalibrationCurve:
        """The smooth curve at some probabilities `[k]`, with its band on the logit scale."""
        columns = self._curve.design(log_odds(probability))
        centre, reach = columns @ self._curve.coefficients, Z95 * self._curve_errors(columns)
        ends = centre, centre - reach, centre + reach
        return CalibrationCurve(probability, *map(scipy.special.expit, ends))

    @cached_property
    def _curve(self) -> LogisticFit:
        places = np.quantile(self.odds, KNOTS)
        places = places[np.diff(places, prepend=-np.inf) > CLOSE]
        return self._fit(lambda odds: natural_spline(odds, places), offset=0.0)

    def _curve_errors(self, columns: FloatArray) -> FloatArray:
        """The standard errors of sums of the curve's coefficients with these weights, `[m, k]`.

        It is the larger of two. Where hardly any image is on one side, the sandwich is too small,
        and the inverse of the information grows without limit.
        """
        variances = self._curve_sandwich, self._curve.inverse
        squares = (np.einsum("nk,nk->n", columns @ part, columns) for part in variances)
        return np.asarray(np.sqrt(np.maximum(*squares)))

    @cached_property
    def _curve_sandwich(self) -> FloatArray:
        """The variance of the curve's coefficients from how far each image, or group, is off."""
        curve, levels = self._curve, self._levels
        if self.groups is not None:
            units = np.eye(len(curve.coefficients))
            summed = np.stack([self._by_group(self._influence(curve, unit)) for unit in units])
            return np.asarray(summed @ summed.T)
        others = levels.counts - levels.events
        squares = levels.events * (1 - curve.share) ** 2 + others * curve.share**2
        return np.asarray((curve.directions * squares[:, None]).T @ curve.directions)

    @cached_property
    def _levels(self) -> Levels:
        return merge_odds(self.odds, self.happened * self.counts, self.counts)

    def _by_group(self, column: FloatArray) -> FloatArray:
        """Sums within groups, `[groups]`; without groups, the same `[n]`."""
        if self.groups is None:
            return column
        return np.bincount(self.groups, column).astype(np.float64)

    def _influence(self, fit: LogisticFit, weights: FloatArray) -> FloatArray:
        """What each image adds to a weighted sum of the coefficients to first order, `[n]`."""
        place = self._levels.place
        return (fit.directions @ weights)[place] * (self.happened - fit.share[place])

    def _coefficient(self, fit: LogisticFit | None, place: int) -> Number:
        if fit is None:
            return Number(np.nan, np.zeros(len(self.happened), dtype=np.float32))
        unit = np.eye(len(fit.coefficients))[place]
        return Number(float(fit.coefficients[place]), self._influence(fit, unit).astype(np.float32))

    def _fit(self, design: Design, offset: float) -> LogisticFit:
        """Fit by maximum likelihood; with an offset, the log-odds have that slope."""
        levels = self._levels
        columns = design(levels.odds)
        best = climb(columns, levels.events, levels.counts, offset * levels.odds)
        happened = self.happened * self.counts
        best = polish(design(self.odds), happened, self.counts, offset * self.odds, best)
        share = scipy.special.expit(offset * levels.odds + columns @ best)
        curvature = levels.counts * share * (1 - share)
        inverse: FloatArray = np.asarray(
            np.linalg.inv(_hessian(columns, curvature, self._total)), dtype=np.float64
        )
        directions = columns @ inverse
        leverage = share * (1 - share) * np.einsum("nk,nk->n", directions, columns)
        directions /= (1 - np.minimum(leverage, MOST_LEVERAGE))[:, None]
        return LogisticFit(design, best, share, directions, inverse)


def log_odds(probability: FloatArray) -> FloatArray:
    """ln(p / (1 - p)), with p kept within [1e-7, 1 - 1e-7].

    >>> log_odds(np.array([0.0, 0.5])).round(2)
    array([-16.12,   0.  ])
    """
    kept = np.clip(probability, LEAST, 1 - LEAST)
    return np.log(kept) - np.log1p(-kept)


def natural_spline(x: FloatArray, knots: FloatArray) -> FloatArray:
    """The columns of a restricted cubic spline: 1, x, and cubic pieces that are straight outside.

    Args:
        x: float64 `[n]`.
        knots: float64 `[k]`, ascending and different; with fewer than three there is only the line.

    Source: Harrell 2015, Regression Modeling Strategies, equation 2.26.

    >>> natural_spline(np.array([0.0, 4.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [[1.0, 0.0, 0.0], [1.0, 4.0, 3.0]]
    """
    columns = [np.ones(len(x)), x]
    if len(knots) > 2:
        first, before, last = knots[0], knots[-2], knots[-1]
        cubes = [np.maximum(x - knot, 0) ** 3 for knot in knots]
        for knot, cube in zip(knots[:-2], cubes[:-2], strict=True):
            bend = cube - cubes[-2] * (last - knot) / (last - before)
            bend += cubes[-1] * (before - knot) / (last - before)
            columns.append(bend / (last - first) ** 2)
    return np.stack(columns, axis=1)


def merge_odds(odds: FloatArray, events: FloatArray, counts: FloatArray) -> Levels:
    """Merge images into steps of equal width, if there are more images than steps.

    >>> merge_odds(np.array([0.5, 1.0]), np.ones(2), np.ones(2)).place
    array([0, 1])
    """
    if len(odds) <= STEPS_OF_ODDS:
        return Levels(np.arange(len(odds)), odds, events, counts)
    low, high = odds.min(), odds.max()
    width = (high - low) / STEPS_OF_ODDS or 1.0
    step = np.minimum(((odds - low) / width).astype(np.int64), STEPS_OF_ODDS - 1)
    images, sums, happened = (
        np.bincount(step, part).astype(np.float64) for part in (counts, counts * odds, events)
    )
    some = images > 0
    place = (np.cumsum(some) - 1).astype(np.int32)
    return Levels(place[step], sums[some] / images[some], happened[some], images[some])


def climb(
    columns: FloatArray, events: FloatArray, counts: FloatArray, offset: FloatArray
) -> FloatArray:
    """Maximise the likelihood of a logistic regression: Newton's method with halved steps."""
    best = np.zeros(columns.shape[1])
    best[1:2] = 1.0  # the slope, if there is one

    def likelihood(coefficients: FloatArray) -> float:
        link = offset + columns @ coefficients
        return float(events @ link - counts @ np.logaddexp(0, link))

    reached = likelihood(best)
    for _ in range(MOST_CLIMBS):
        step = newton_step(columns, events, counts, offset + columns @ best)
        while (tried := likelihood(best + step)) < reached and np.abs(step).max() > LEAST:
            step = step / 2
        if not tried >= reached:
            break
        best, gained, reached = best + step, tried - reached, tried
        if gained <= CLIMBED * counts.sum():
            break
    return polish(columns, events, counts, offset, best)


def polish(
    columns: FloatArray,
    events: FloatArray,
    counts: FloatArray,
    offset: FloatArray,
    near: FloatArray,
) -> FloatArray:
    """Coefficients at the maximum, from near it; from elsewhere, the same."""
    for _ in range(MOST_POLISHES):
        step = newton_step(columns, events, counts, offset + columns @ near)
        size = np.abs(step).max() / (1 + np.abs(near).max())
        if not size <= SMALL:
            break
        near = near + step
        if size <= POLISHED:
            break
    return near


def newton_step(
    columns: FloatArray, events: FloatArray, counts: FloatArray, link: FloatArray
) -> FloatArray:
    """The next step of Newton's method from fitted log-odds `[n]`."""
    expected = scipy.special.expit(link)
    curvature = counts * expected * (1 - expected)
    hessian = _hessian(columns, curvature, float(counts.sum()))
    return np.asarray(np.linalg.solve(hessian, columns.T @ (events - counts * expected)))


def _hessian(columns: FloatArray, curvature: FloatArray, total: float) -> FloatArray:
    return (columns * curvature[:, None]).T @ columns + RIDGE * total * np.eye(columns.shape[1])


def weigh(
    outcomes: Outcomes, rows: NDArray[Any], number: Callable[[Outcomes], Number]
) -> FloatArray:
    """A number of the same images with each row of weights `[B, n]`, `[B]`."""
    weighted = (
        outcomes if (row == 1).all() else replace(outcomes, weights=row.astype(np.float64))
        for row in rows
    )
    return np.array([number(same).value for same in weighted])


def _evaluate(
    probability: ArrayLike,
    happened: ArrayLike,
    weights: Weights,
    number: Callable[[Outcomes], Number],
) -> Result:
    shares, events = check_confidence(probability, happened)
    rows = as_rows(weights, len(shares))
    return as_result(weigh(Outcomes(shares, events == 1), rows, number), weights)


def calibration_slope(
    probability: ArrayLike, happened: ArrayLike, weights: Weights = None
) -> Result:
    """Slope of what happened on the log-odds, in a logistic regression: 1 if well calibrated.

    Below 1, probabilities are too extreme: high ones too high and low ones too low. Above 1, they
    are too moderate. It is NaN where no slope fits best: if the event happened always or never, or
    if a threshold of the probability separates both.

    Args:
        probability: float `[n]` in [0, 1], of the event.
        happened: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; 2-D weights return `[B]`.

    Source: Cox 1958, Two Further Applications of a Model for Binary Regression; Van Calster et al.
    2019, Calibration: the Achilles Heel of Predictive Analytics.

    >>> round(calibration_slope([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], [0, 0, 1, 1, 1, 0]), 3)
    0.315
    """
    return _evaluate(probability, happened, weights, lambda outcomes: outcomes.slope)


def recalibration_intercept(
    probability: ArrayLike, happened: ArrayLike, weights: Weights = None
) -> Result:
    """Intercept beside `calibration_slope`, in the same regression: 0 if well calibrated.

    It is the log-odds of the event where the model says 50 %. Arguments and source as there.

    >>> round(recalibration_intercept([0.1, 0.1, 0.1, 0.9, 0.9, 0.9], [0, 0, 1, 1, 0, 0]), 3)
    -0.693
    """
    return _evaluate(probability, happened, weights, lambda outcomes: outcomes.free_intercept)


def calibration_intercept(
    probability: ArrayLike, happened: ArrayLike, weights: Weights = None
) -> Result:
    """Calibration in the large: what must be added to all log-odds, so that their mean is right.

    It is the intercept of the regression with the slope fixed at 1, and 0 if well calibrated. Below
    0, probabilities are too high on average. Arguments and source as in `calibration_slope`.

    >>> round(calibration_intercept([0.75, 0.75], [True, False]), 3)
    -1.099
    """
    return _evaluate(probability, happened, weights, lambda outcomes: outcomes.intercept)


def observed_expected_ratio(
    probability: ArrayLike, happened: ArrayLike, weights: Weights = None
) -> Result:
    """How often it happened, divided by the mean probability: 1 if right on average.

    Below 1, probabilities are too high on average. Arguments as in `calibration_slope`.

    >>> round(observed_expected_ratio([0.75, 0.75], [True, False]), 3)
    0.667
    """
    return _evaluate(probability, happened, weights, lambda outcomes: outcomes.ratio)


def spiegelhalter_test(
    probability: ArrayLike, happened: ArrayLike, grouping: Grouping | None = None
) -> CalibrationTest:
    """Spiegelhalter's test: could the probabilities be right, with this Brier score?

    `z = Σ (y - p) (1 - 2p) / √ Σ (1 - 2p)² p (1 - p)`, with y = 1 where it happened

    If they are right, z is normal with mean 0 and variance 1. Otherwise it grows with the root of
    the number of images, so it says nothing of how wrong they are. With groups, the variance is the
    sum of squares of the groups' sums, because images of a group are not independent.

    Args:
        probability, happened: as in `calibration_slope`.
        grouping: which images belong together.

    Returns:
        z and its two-sided p; NaN where every probability is 0, 0.5 or 1, or for a single group.

    Source: Spiegelhalter 1986, Probabilistic Prediction in Patient Management and Clinical Trials,
    section 4.

    >>> z, p = spiegelhalter_test([0.8, 0.8, 0.6], [False, True, False])
    >>> round(z, 3), round(p, 3)
    (1.359, 0.174)
    """
    shares, events = check_confidence(probability, happened)
    groups = None if grouping is None else grouping.numbers
    return Outcomes(shares, events == 1, groups).spiegelhalter


def integrated_calibration_index(
    probability: ArrayLike, happened: ArrayLike, weights: Weights = None
) -> Result:
    """ICI: the mean distance of the probability from a smooth curve of what happened, in [0, 1].

    The curve is a logistic regression on a restricted cubic spline of the log-odds, with four knots
    at Harrell's quantiles of the images. (The source uses loess.) It needs no bins. Like a binned
    error, it is biased upwards by noise.

    Args:
        probability, happened, weights: as in `calibration_slope`; the knots are those of the
            unweighted images.

    Source: Austin and Steyerberg 2019, The Integrated Calibration Index (ICI) and Related Metrics.

    >>> round(integrated_calibration_index([0.8] * 4, [True, True, False, False]), 3)
    0.3
    """
    return _evaluate(probability, happened, weights, lambda outcomes: outcomes.ici)


def calibration_curve(
    probability: ArrayLike,
    happened: ArrayLike,
    *,
    points: int = 21,
    grouping: Grouping | None = None,
) -> CalibrationCurve:
    """How often it happened at each probability: the smooth curve of ICI, with pointwise bands.

    It goes from the 1 % to the 99 % quantile of the probabilities. Half of its points are evenly
    spaced, and half are quantiles of the images.

    Args:
        probability, happened: as in `integrated_calibration_index`.
        points: of each half, at least 2.
        grouping: which images belong together.

    >>> curve = calibration_curve([0.2, 0.2, 0.8, 0.8] * 9, [0, 1, 1, 0] * 9, points=2)
    >>> curve.share.round(2).tolist(), curve.high.round(2).tolist()
    ([0.5, 0.5], [0.73, 0.73])
    """
    shares, events = check_confidence(probability, happened)
    groups = None if grouping is None else grouping.numbers
    return Outcomes(shares, events == 1, groups).trace_curve(points)


# ---- the rows of tables


@dataclass(frozen=True)
class CalibrationNumber:
    """A number of the outcomes, as tables name it."""

    name: str
    label: str
    formula: str
    number: Callable[[Outcomes], Number]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    higher_is_better: bool | None = None


CALIBRATION_NUMBERS = (
    CalibrationNumber(
        "calibration_slope",
        "Calibration slope",
        "b of the logistic regression a + b ln(p / (1 − p)); 1 if well calibrated, below 1 where "
        "probabilities are too extreme",
        lambda outcomes: outcomes.slope,
    ),
    CalibrationNumber(
        "recalibration_intercept",
        "Intercept beside the slope",
        "a of that regression",
        lambda outcomes: outcomes.free_intercept,
    ),
    CalibrationNumber(
        "calibration_intercept",
        "Calibration intercept",
        "a of the logistic regression a + ln(p / (1 − p)) (calibration in the large); 0 if right "
        "on average, below 0 where probabilities are too high",
        lambda outcomes: outcomes.intercept,
    ),
    CalibrationNumber(
        "observed_expected_ratio",
        "Observed / expected",
        "how often it happened / mean p; 1 if right on average, below 1 where probabilities are "
        "too high",
        lambda outcomes: outcomes.ratio,
        bounds=(0.0, np.inf),
    ),
    CalibrationNumber(
        "ici_4_knots",
        "ICI (4 knots)",
        "mean of |c(p) − p| with the smooth curve c, a logistic regression on a restricted cubic "
        "spline of ln(p / (1 − p)) with 4 knots",
        lambda outcomes: outcomes.ici,
        bounds=(0.0, 1.0),
        higher_is_better=False,
    ),
)
