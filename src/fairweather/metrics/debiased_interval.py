"""The interval of a debiased calibration error, by tests of how large the true error may be.

Resamples repeat the noise of the bins, and spread too little where a calibration error is small by
chance. So the interval holds every true error that a test does not reject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from fairweather.metrics.calibration import Binning, BinSums, sum_bins
from fairweather.metrics.columns import TAIL, Ends, FloatArray
from fairweather.metrics.grouping import Grouping, independent_images
from fairweather.metrics.hidden_error import FEW_ERRORS

# With fewer images, a bin says nothing of its own noise.
FEWEST_IN_A_BIN = 2
# How precisely an end is found, as a squared error.
PRECISION = 1e-9


def debiased_interval(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    bins: int = 10,
    binning: Binning = "equal-mass",
    grouping: Grouping | None = None,
) -> Ends:
    """The 95 % interval of the true error that `debiased_calibration_error` estimates.

    The mean square of the gaps less their noise, s, has no bias. For a true value t, its
    distribution is approximated by a gamma distribution with the mean and the variance of s, both
    moved by the noise so that it begins at 0. An end is the t at which s, or one that is farther
    away, has a chance of 2.5 %.

    The variance depends on where the gaps are, of which s says little. They are taken as estimated.
    What t needs beyond that is given to the bins with the most noise, where it is hidden best. A
    larger gap also changes the accuracy of its bin, and so its noise; the side with more noise is
    taken. So the interval is rather too wide than too narrow, if each bin has some twenty images.

    Args:
        confidence, correct, bins, binning: as in `debiased_calibration_error`.
        grouping: which images belong together. The noise is then that of as many independent images
            as the groups are worth.

    Returns:
        Both ends, in [0, 1]. With fewer than 30 errors the lower end is 0, because few errors that
        fall in one bin make its gap large by chance. The upper end is 1 if a bin has fewer than two
        images.

    Source: Ferro and Fricker 2012, A bias-corrected decomposition of the Brier score, for s;
    Satterthwaite 1946, An Approximate Distribution of Estimates of Variance Components, for the
    gamma distribution with two given moments.

    >>> sure = np.linspace(0.8, 1, 1000)
    >>> right = np.arange(1000) * 0.618 % 1 < sure - 0.02
    >>> [round(end, 3) for end in debiased_interval(sure, right)]
    [0.0, 0.049]
    """
    sums = sum_bins(confidence, correct, None, bins, binning)
    right, worth = np.asarray(correct, dtype=bool), 1.0
    if grouping is not None:
        worth = independent_images(right, grouping) / len(right)
    errors = worth * min(np.count_nonzero(right), np.count_nonzero(~right))
    known = _KnownBins.from_sums(sums, worth)
    if known.images.min() < FEWEST_IN_A_BIN:
        return 0.0, 1.0
    low = known.smallest() if errors >= FEW_ERRORS else 0.0
    return float(np.sqrt(low)), float(np.sqrt(known.largest()))


@dataclass(frozen=True)
class _KnownBins:
    """What is known of each bin, float64 `[bins]`."""

    images: FloatArray
    share: FloatArray
    confidence: FloatArray
    squares: FloatArray
    """The squared gap less its noise."""

    noise: FloatArray
    """The variance of the accuracy, of a share that is smoothed: without errors there is some."""

    worth: float
    """How many independent images an image is worth."""

    @staticmethod
    def from_sums(sums: BinSums, worth: float) -> _KnownBins:
        images, sure, right = (column[0] for column in sums)
        accuracy, confidence = right / np.maximum(images, 1), sure / np.maximum(images, 1)
        own = accuracy * (1 - accuracy) / np.maximum(images - 1, 1)
        # Two images are added: one is as often right as its confidence says, one in half of cases.
        smoothed = (right + confidence + 0.5) / (images + 2)
        noise = np.maximum(smoothed * (1 - smoothed) / np.maximum(images, 1), own) / worth
        return _KnownBins(
            images, sums.share[0], confidence, (accuracy - confidence) ** 2 - own, noise, worth
        )

    @property
    def most(self) -> FloatArray:
        """The largest squared gap that the confidence of each bin allows."""
        return np.maximum(self.confidence, 1 - self.confidence) ** 2

    def largest(self) -> float:
        """The largest squared error that is not rejected."""
        seen, most = max(float(self.share @ self.squares), 0.0), float(self.share @ self.most)

        def excess(true: float) -> float:
            shape, scale, offset = self._moments(true)
            return float(scipy.special.gammainc(shape, (seen + offset) / scale)) - TAIL

        if excess(most) > 0:
            return most
        return _find_root(excess, seen, most)

    def smallest(self) -> float:
        """The smallest squared error that is not rejected."""
        # Noise of groups that the value has not taken off.
        seen = float(self.share @ self.squares) - (1 - self.worth) * float(self.share @ self.noise)

        def excess(true: float) -> float:
            shape, scale, offset = self._moments(true)
            return float(scipy.special.gammaincc(shape, max(seen + offset, 0) / scale)) - TAIL

        if seen <= 0 or excess(0.0) > 0:
            return 0.0
        return _find_root(excess, 0.0, seen)

    def _moments(self, true: float) -> tuple[float, float, float]:
        """Shape and scale of the gamma distribution of s, and what is added to s."""
        gaps = self._gaps(true)
        ends = np.sqrt(gaps)
        rates = np.clip([self.confidence - ends, self.confidence + ends], 0, 1)
        noise = np.maximum(self.noise, (rates * (1 - rates)).max(axis=0) / self.images / self.worth)
        offset = float(self.share @ noise)
        of_accuracy = float(self.share**2 @ (2 * noise**2 + 4 * gaps * noise))
        # Other images have other confidences, where the gaps differ.
        of_confidence = max(float(self.share @ gaps**2 - (self.share @ gaps) ** 2), 0.0)
        variance = of_accuracy + of_confidence / self.images.sum() / self.worth
        mean = true + offset
        return mean**2 / variance, variance / mean, offset

    def _gaps(self, true: float) -> FloatArray:
        """Squared gaps with this mean: as they seem, and more where it is hidden best."""
        seen = np.clip(self.squares, 0, self.most)
        total = float(self.share @ seen)
        gaps = seen * min(1.0, true / total) if total else seen
        order = np.argsort(-self.share * self.noise, kind="stable")
        room = (self.share * (self.most - gaps))[order]
        before = np.append(0, np.cumsum(room)[:-1])
        more = np.clip(max(true - float(self.share @ gaps), 0.0) - before, 0, room)
        gaps[order] += more / self.share[order]
        return np.minimum(gaps, self.most)


def _find_root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq  # takes a while to import

    return float(brentq(function, low, high, xtol=PRECISION))
