"""What share of the images has to go to a person, so that the answers keep a risk asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairweather.errors import InputError
from fairweather.metrics.selective import RiskCoverage
from fairweather.metrics.shares import wilson_interval
from fairweather.types import Score


def share_to_hand_over(curve: RiskCoverage, images: int, risks: Sequence[float]) -> list[Score]:
    """Smallest share of images to hand over, the least confident first, one score a risk.

    The value is 1 − `coverage_at_risk`: at most `risk` of the answers to the other images are
    wrong. Its interval holds every share at which that risk lies within the 95 % Wilson interval of
    the share of wrong answers: what these images cannot rule out as the share that is needed. It is
    1 where even the surest images are wrong more often.

    Args:
        curve: of `risk_coverage_curve`.
        images: how many it is of.
        risks: the largest shares of wrong answers, each in [0, 1].

    Source: Geifman and El-Yaniv 2017, Selective Classification for Deep Neural Networks, section 2;
    of the interval, Wilson 1927, inverted at every threshold.

    >>> from fairweather.metrics.selective import risk_coverage_curve
    >>> curve = risk_coverage_curve(np.linspace(1, 0, 200), np.arange(200) < 150)
    >>> [[round(number, 2) for number in score] for score in share_to_hand_over(curve, 200, [0.1])]
    [[0.17, 0.12, 0.21, 200]]
    """
    low, high = wilson_interval(curve.risk, curve.coverage * images)
    scores = []
    for asked in risks:
        if not 0 <= asked <= 1:  # NaN fails the comparison too
            raise InputError(f"risk must be a share of wrong answers in [0, 1], found {asked}")
        most, more, less = (
            float(np.where(bound <= asked, curve.coverage, 0.0).max())
            for bound in (curve.risk, low, high)
        )
        scores.append(Score(1 - most, 1 - more, 1 - less, images))
    return scores
