"""The curves of a finding with their 95 % bands, as the page draws them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.special

from fairweather.metrics import calibration_curve
from fairweather.metrics.columns import BoolArray, FloatArray
from fairweather.metrics.curves import Curve, trace_curves
from fairweather.metrics.decisions import decision_curve
from fairweather.metrics.grouping import Grouping
from fairweather.types.measurement import Predictions

POINTS = 21  # of each half of a calibration curve
THRESHOLDS = np.linspace(0.02, 0.98, 33)  # of a decision curve
LOWEST = -0.25  # the lowest net benefit that is drawn, in units of the prevalence
DIGITS = 4

Point = list[float | None]
"""x and y, and maybe both ends of the interval of y; None for an end that is not known."""


class FindingCurves(NamedTuple):
    """The curves of a finding on some images; points from left to right."""

    roc: list[Point]
    """1 − specificity, and sensitivity."""

    precision_recall: list[Point]
    """Sensitivity, and PPV."""

    net_benefit: list[Point]
    """Thresholds, and the net benefit of calling images from them on."""

    treat_all: list[Point]
    """The same of calling every image."""

    calibration: list[Point]
    """Probabilities, and the share of images with the finding there: a smooth curve."""

    prevalence: float
    """The share of all images with the finding, or the stated one that net benefits are at."""


def probability_of(finding: Predictions) -> FloatArray:
    """The probability of a finding, `[n]`."""
    assert finding.logits is not None, "findings are stored as logits"
    return np.asarray(scipy.special.expit(finding.logits[:, 1].astype(np.float64)))


def trace_finding(
    finding: Predictions, grouping: Grouping | None, stated: float | None = None
) -> FindingCurves | None:
    """Trace the curves of a finding; None where all images have it, or none has.

    Net benefits are at a stated prevalence, if there is one above 0.
    """
    positive, probability = finding.labels == 1, probability_of(finding)
    if positive.all() or not positive.any():
        return None
    roc, precision_recall = trace_curves(probability, positive, grouping)
    prevalence = stated or float(positive.mean())
    decisions = decision_curve(
        probability, positive, THRESHOLDS, prevalence=stated or None, grouping=grouping
    )
    floor = LOWEST * prevalence
    benefit = np.maximum([decisions.net_benefit, decisions.low, decisions.high], floor)
    # Where calling every image falls below what is drawn.
    odds = (prevalence - floor) / (1 - prevalence)
    end = odds / (1 + odds)
    shown = end > THRESHOLDS
    return FindingCurves(
        roc=_list_points(roc),
        precision_recall=_list_points(precision_recall),
        net_benefit=_round(np.stack([THRESHOLDS, *benefit], axis=1)),
        treat_all=_round(
            np.stack(
                [np.append(THRESHOLDS[shown], end), np.append(decisions.treat_all[shown], floor)],
                axis=1,
            )
        ),
        calibration=trace_calibration(positive, probability, grouping),
        prevalence=round(prevalence, DIGITS),
    )


def _list_points(curve: Curve) -> list[Point]:
    return _round(np.stack([curve.x, curve.y, curve.low, curve.high], axis=1))


def _round(points: FloatArray) -> list[Point]:
    rounded = np.round(points, DIGITS)
    return [[None if math.isnan(number) else number for number in row] for row in rounded.tolist()]


def trace_calibration(
    positive: BoolArray, probability: FloatArray, grouping: Grouping | None = None
) -> list[Point]:
    """The share of images with a finding at each probability, with its band.

    >>> [first, *_] = trace_calibration(np.array([True, False] * 9), np.repeat([0.2, 0.7], 9))
    >>> first
    [0.2, 0.5556, 0.2217, 0.8458]
    """
    curve = calibration_curve(probability, positive, points=POINTS, grouping=grouping)
    return _round(np.stack(curve, axis=1))
