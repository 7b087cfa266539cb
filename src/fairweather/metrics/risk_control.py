"""Sets of findings that miss at most a promised share of those that are there.

The set of an image has all findings with at least a threshold of probability. The share of missed
findings is a mean over images that are known to have one. With groups, such as patients, it is the
mean over groups of the mean over the images of each. So each image, or each group, is one draw, and
that the promise holds is exact for draws from the same distribution.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.selective import fewest_for_risk

TOLERANCE = 1e-9  # of sums of shares


def covered_shares(probability: FloatArray, labels: IntArray, threshold: float) -> FloatArray:
    """The share of the known findings of each image that is in its set; NaN without a finding.

    Args:
        probability: float64 `[n, L]`.
        labels: int `[n, L]`; 1 is a finding that is there, all else is not counted.
        threshold: findings with at least this probability are in the set.

    >>> covered_shares(np.array([[0.9, 0.2], [0.9, 0.9]]), np.array([[1, 1], [0, -1]]), 0.5)
    array([0.5, nan])
    """
    present = labels == 1
    count = present.sum(axis=1)
    caught = (present & (probability >= threshold)).sum(axis=1)
    return np.divide(caught, count, out=np.full(len(count), np.nan), where=count > 0)


def control_missed(
    probability: ArrayLike,
    labels: ArrayLike,
    *,
    missed: float = 0.1,
    confidence: float | None = None,
    grouping: Grouping | None = None,
) -> float:
    """The largest threshold whose sets keep the promise on images like these.

    Without `confidence`, the promise is about the mean over draws of these images: sets miss at
    most the share `missed`, as in conformal prediction. With it, the promise holds in at least that
    share of draws. Then the threshold is the largest up to which a test rejects every larger share
    of misses. The share never falls as the threshold rises, so the tests need no correction.

    Args:
        probability: float `[n, L]`, of images that the model was not trained on.
        labels: int `[n, L]`, 1 for a finding that is there; at least one image has one.
        missed: the largest share of missed findings, in (0, 1).
        confidence: in (0, 1), or None.
        grouping: which images belong together.

    Raises:
        InputError: too few images have a finding, even if none were missed.

    Source: Angelopoulos et al. 2022, Conformal Risk Control, theorem 1; Bates et al. 2021,
    Distribution-Free, Risk-Controlling Prediction Sets, for the promise with confidence.

    >>> probability, labels = np.linspace(0.1, 1, 10)[:, None], np.ones((10, 1), int)
    >>> round(control_missed(probability, labels, missed=0.2), 3)
    0.2
    """
    p, present = np.asarray(probability, dtype=np.float64), np.asarray(labels) == 1
    weights = weigh_units(present, grouping)
    units = round(weights.sum())
    if units < (least := fewest_for_missed(missed, confidence)):
        raise InputError(
            f"{units:,} {'images' if grouping is None else 'groups'} with a finding cannot show "
            f"that at most {missed:.4g} is missed: that takes at least {least:,}"
        )
    thresholds, places = np.unique(p[present], return_inverse=True)
    below = np.cumsum(np.bincount(places, weights=weights[present]))
    shares = np.concatenate([[0.0], below[:-1]]) / units
    if confidence is None:
        kept = (units * shares + 1) / (units + 1) <= missed + TOLERANCE
    else:
        kept = hoeffding_bentkus_p(shares, units, missed) <= 1 - confidence + TOLERANCE
    return float(thresholds[np.flatnonzero(kept)[-1]])


def weigh_units(present: np.ndarray, grouping: Grouping | None) -> FloatArray:
    """The share that each finding `[n, L]` has in its image or group; 0 where none is there."""
    count = present.sum(axis=1)
    weights = np.divide(present, count[:, None], out=np.zeros(present.shape), where=present)
    if grouping is not None:
        images = np.bincount(grouping.numbers, weights=count > 0)
        weights /= np.maximum(images[grouping.numbers], 1)[:, None]
    return weights


def count_units(labels: ArrayLike, grouping: Grouping | None = None) -> int:
    """Count the images, or groups, that are known to have a finding.

    >>> count_units([[1, 0], [0, -1], [1, 1]]), count_units([[1], [1]], Grouping(np.zeros(2, int)))
    (2, 1)
    """
    having = (np.asarray(labels) == 1).any(axis=1)
    return int(having.sum() if grouping is None else len(np.unique(grouping.numbers[having])))


def fewest_for_missed(missed: float, confidence: float | None = None) -> int:
    """The fewest images, or groups, with a finding that can show such a promise, if none is missed.

    >>> fewest_for_missed(0.1), fewest_for_missed(0.1, 0.95)
    (9, 29)
    """
    if confidence is None:
        return math.ceil(1 / missed - 1 - TOLERANCE)
    return fewest_for_risk(missed, confidence)


def hoeffding_bentkus_p(mean: ArrayLike, n: int, level: float) -> FloatArray:
    """The p-value of so small a mean of n numbers in [0, 1], if the true mean were above a level.

    Source: Angelopoulos et al. 2021, Learn then Test, proposition 2.

    >>> hoeffding_bentkus_p([0.0, 0.05, 0.2], 29, 0.1).round(3)
    array([0.047, 0.616, 1.   ])
    """
    share = np.minimum(np.asarray(mean, dtype=np.float64), level)
    others = 1 - share
    divergence = scipy.special.xlogy(share, share / level)
    divergence += scipy.special.xlogy(others, others / (1 - level))
    hits = np.ceil(n * np.asarray(mean) - TOLERANCE)
    bentkus = math.e * scipy.special.bdtr(hits, n, level)
    return np.asarray(np.minimum(np.minimum(np.exp(-n * divergence), bentkus), 1.0))
