"""ROC and precision-recall curves with pointwise 95 % bands.

A band comes from random weights of the images, or of whole groups. Its lower end also counts one
more image with the worst possible outcome, and its upper end one with the best. So the band is
Clopper and Pearson's interval where only one share is uncertain, and it is not empty where no error
was made.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fairweather.metrics.columns import TAIL, BoolArray, FloatArray, IntArray, blocks
from fairweather.metrics.grouping import Grouping

POINTS = 100  # of a curve, at most
DRAWS = 500  # of random weights
# The most scores of each side between which weights are added up. They are closer together near the
# ends, so that each step of a share is pi / CUTS x sqrt(n) of its standard errors.
CUTS = 500
ROUNDING = 1e-9  # what rounding may add to a share
WEIGHTS_AT_ONCE = 2**22  # weights of images that are in memory at once
UNBOUNDED = 1e9  # widens a band to all possible values

EndDraws = tuple[FloatArray, FloatArray]
"""`[draws, P]` each: for the lower ends of a band, and for its upper ends."""


class Curve(NamedTuple):
    """A curve with its pointwise 95 % band, float64 `[P]` each."""

    threshold: FloatArray
    """The score from which on images are called; infinite where none is."""

    x: FloatArray
    y: FloatArray

    low: FloatArray
    """The lower end of the band of y at each x."""

    high: FloatArray
    """Its upper end."""


class OperatingCurves(NamedTuple):
    """What a model reaches with each threshold."""

    roc: Curve
    """1 − specificity, and sensitivity."""

    precision_recall: Curve
    """Sensitivity (recall), and PPV (precision)."""


def trace_curves(
    scores: FloatArray,
    positive: BoolArray,
    grouping: Grouping | None = None,
    points: int = POINTS,
    draws: int = DRAWS,
) -> OperatingCurves:
    """Trace the ROC curve and the precision-recall curve, with pointwise 95 % bands.

    Bands are vertical: of the sensitivity at a given specificity, and of the precision at a given
    recall. They cover that the threshold for it is not known exactly.

    Args:
        scores: float `[n]`, no NaN; the higher, the sooner an image is called.
        positive: bool `[n]`, neither all true nor all false.
        grouping: which images belong together; None if images are independent.
        points: the largest number of points of a curve.
        draws: the number of random weights of each image.

    Source: Gu, Ghosal and Roy 2008, Bayesian Bootstrap Estimation of ROC Curve.

    >>> scores, positive = np.array([0.2, 0.4, 0.3, 0.7]), np.array([False, True, False, True])
    >>> roc, precision_recall = trace_curves(scores, positive)
    >>> roc.x.tolist(), roc.y.tolist()
    ([0.0, 0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0, 1.0])
    >>> precision_recall.x.tolist(), precision_recall.y.tolist()
    ([0.5, 1.0], [1.0, 1.0])
    """
    levels, level = np.unique(-scores, return_inverse=True)
    right, false = (
        np.append(0, np.bincount(level[side], minlength=len(levels)).cumsum())
        for side in (positive, ~positive)
    )
    threshold = np.append(np.inf, -levels)
    x, y = false / false[-1], right / right[-1]
    # At even steps along the curve, which may be steep.
    kept = np.unique(np.searchsorted(x + y + ROUNDING, np.linspace(0, 2, points)))
    reached = np.flatnonzero(np.diff(right)) + 1  # where the recall grows
    recalled = reached[np.unique(np.linspace(0, len(reached) - 1, points).round().astype(int))]
    precision = right[recalled] / (right + false)[recalled]
    ends = _draw_called(scores, positive, grouping, draws)
    groups = () if grouping is None else (grouping.select(side) for side in _split(positive))
    widening = max((of_side.widening() for of_side in groups), default=1.0)
    sensitivities, precisions = (
        _find_ends(value, drawn, widening)
        for value, drawn in (
            (y[kept], _draw_sensitivity(*ends, x[kept])),
            (precision, _draw_precision(*ends, y[recalled])),
        )
    )
    return OperatingCurves(
        Curve(threshold[kept], x[kept], y[kept], *sensitivities),
        Curve(threshold[recalled], y[recalled], precision, *precisions),
    )


# ---------------------------------------------------------------- draws


class _Called(NamedTuple):
    """Drawn images that are called from each cut on, from none to all."""

    right: FloatArray
    """As shares of those with the finding, `[draws, cuts + 2]`."""

    false: FloatArray
    """As shares of those without it, `[draws, cuts + 2]`."""

    odds: FloatArray
    """Images with the finding for each one without it, `[draws, 1]`."""


def _split(positive: BoolArray) -> tuple[IntArray, IntArray]:
    return np.flatnonzero(positive), np.flatnonzero(~positive)


def _draw_called(
    scores: FloatArray, positive: BoolArray, grouping: Grouping | None, draws: int
) -> tuple[_Called, _Called]:
    """Draw for the lower end of a band, and for its upper end.

    For the lower end there is one more image with the finding, which is called last, and one more
    without it, which is called first. For the upper end, it is the other way round.
    """
    sides = _split(positive)
    cuts = np.unique(np.concatenate([_choose_cuts(scores[side]) for side in sides]))
    part = len(cuts) - np.searchsorted(cuts, scores, side="right")
    sums = _draw_sums(part + len(cuts) * ~positive, 2 * len(cuts), grouping, draws)
    right, false = (
        np.pad(side.cumsum(axis=1), ((0, 0), (1, 0))) for side in np.split(sums, 2, axis=1)
    )
    more_right, more_false = np.random.default_rng(1).standard_exponential((2, draws, 1))
    if grouping is not None:
        more_right, more_false = (
            more * grouping.select(side).sizes.mean()
            for more, side in zip((more_right, more_false), sides, strict=True)
        )
    low = _Called(
        _share(right, more_right, first=False),
        _share(false, more_false, first=True),
        right[:, -1:] / (false[:, -1:] + more_false),
    )
    high = _Called(
        _share(right, more_right, first=True),
        _share(false, more_false, first=False),
        (right[:, -1:] + more_right) / false[:, -1:],
    )
    return low, high


def _choose_cuts(scores: FloatArray) -> FloatArray:
    """Choose some of the scores of one side; all where there are few."""
    if len(scores) <= CUTS:
        return scores
    shares = np.sin(np.linspace(0, np.pi / 2, CUTS)) ** 2
    return np.asarray(np.sort(scores)[np.rint(shares * (len(scores) - 1)).astype(int)])


def _draw_sums(part: IntArray, count: int, grouping: Grouping | None, draws: int) -> FloatArray:
    """Draw weights of all images, or groups, and add them up in each part, `[draws, count]`."""
    generator = np.random.default_rng(0)
    if grouping is None:
        return generator.standard_gamma(np.bincount(part, minlength=count), (draws, count))
    order = np.argsort(part, kind="stable")
    parts, starts = np.unique(part[order], return_index=True)
    members, sums = grouping.numbers[order], np.zeros((draws, count))
    for rows in blocks(draws, len(part), WEIGHTS_AT_ONCE):
        weights = generator.standard_exponential((len(sums[rows]), grouping.count))
        sums[rows, parts] = np.add.reduceat(weights[:, members], starts, axis=1)
    return sums


def _share(called: FloatArray, more: FloatArray, first: bool) -> FloatArray:
    """Shares of called images with one more, which is called first or last."""
    whole = called[:, -1:] + more
    return np.append((called + first * more) / whole, np.ones_like(whole), axis=1)


# ---------------------------------------------------------------- ends of bands


def _draw_sensitivity(low: _Called, high: _Called, x: FloatArray) -> EndDraws:
    """The sensitivity at each share of false calls.

    Between two cuts it is the lower one for the lower ends, and a mean of both for the upper ends.
    """
    return np.stack(
        [
            np.append(0, right)[np.searchsorted(false, x + ROUNDING, side="right")]
            for right, false in zip(low.right, low.false, strict=True)
        ]
    ), np.stack(
        [np.interp(x, false, right) for right, false in zip(high.right, high.false, strict=True)]
    )


def _draw_precision(low: _Called, high: _Called, recall: FloatArray) -> EndDraws:
    """The precision at each recall, in the same way."""
    least = np.stack(
        [
            false[np.searchsorted(right, recall - ROUNDING)]
            for right, false in zip(low.right, low.false, strict=True)
        ]
    )
    most = np.stack(
        [
            # Not at 1, which is reached before all images are called.
            np.interp(recall - ROUNDING, right, false)
            for right, false in zip(high.right, high.false, strict=True)
        ]
    )
    lower, upper = (
        recall * side.odds / (recall * side.odds + false)
        for side, false in ((low, least), (high, most))
    )
    return lower, upper


def _find_ends(
    value: FloatArray, drawn: EndDraws, widening: float
) -> tuple[FloatArray, FloatArray]:
    """The ends of a band of shares from draws, widened for few groups."""
    factor = min(widening, UNBOUNDED)
    low, high = (
        value + factor * (np.quantile(draws, tail, axis=0) - value)
        for draws, tail in zip(drawn, (TAIL, 1 - TAIL), strict=True)
    )
    return np.clip(low, 0, 1), np.clip(high, 0, 1)
