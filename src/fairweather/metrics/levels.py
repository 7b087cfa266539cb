"""How many images of each confidence are wrong and right: all that an order of images says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.metrics.weights import FloatArray, as_rows, check_columns, sum_groups


class LevelSums(NamedTuple):
    """How often the images of each distinct confidence count; the largest confidence first.

    Attributes:
        confidence: float64 `[levels]`, falling.
        wrong, right: float64 `[levels, B]`.
    """

    confidence: FloatArray
    wrong: FloatArray
    right: FloatArray

    @property
    def images(self) -> FloatArray:
        """Images of each level, `[levels, B]`."""
        return self.wrong + self.right

    @property
    def answered(self) -> FloatArray:
        """Images that are answered when this level is the least sure that is, `[levels, B]`."""
        return np.cumsum(self.images, axis=0)

    @property
    def risk(self) -> FloatArray:
        """Share of the answers that is wrong, `[levels, B]`; NaN where nothing is answered."""
        answered = self.answered
        none = np.full_like(answered, np.nan)
        return np.divide(np.cumsum(self.wrong, axis=0), answered, out=none, where=answered > 0)


def level_sums(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> LevelSums:
    """Count the wrong and the right images of each distinct confidence.

    Args:
        confidence: float `[n]`, larger for a surer answer; no NaN.
        correct: bool `[n]`.
        weights: how often each image counts, `[n]` or `[B, n]`; all ones by default.

    >>> level_sums([0.5, 0.9, 0.5], [True, True, False]).right.ravel().tolist()
    [1.0, 1.0]
    """
    n = check_columns(confidence=confidence, correct=correct)
    rows = as_rows(weights, n)
    sure = as_confidence(confidence)
    rising, place = np.unique(sure, return_inverse=True)
    level = len(rising) - 1 - place
    right = np.asarray(correct, dtype=bool)
    sums = sum_groups(2 * level + right, rows.T, 2 * len(rising))
    return LevelSums(rising[::-1], sums[0::2], sums[1::2])


def rank_area(levels: LevelSums) -> FloatArray:
    """Share of the pairs of a right and a wrong image that have the right one above, `[B]`.

    Ties count half; NaN without a pair. Source: Hand and Till 2001, section 2.

    >>> rank_area(level_sums([0.5, 0.9, 0.5], [True, True, False]))
    array([0.75])
    """
    below = levels.wrong.sum(axis=0) - np.cumsum(levels.wrong, axis=0)
    wins = np.einsum("kb,kb->b", levels.right, below + levels.wrong / 2)
    pairs = levels.wrong.sum(axis=0) * levels.right.sum(axis=0)
    return np.divide(wins, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def as_confidence(confidence: npt.ArrayLike, name: str = "confidence") -> FloatArray:
    """Return the confidences as float64, or raise `InputError` where one is not a number.

    >>> as_confidence([1, 0])
    array([1., 0.])
    """
    sure = np.asarray(confidence, dtype=np.float64)
    if np.isnan(sure).any():
        raise InputError(f"{name} has {int(np.isnan(sure).sum())} values that are not a number")
    return sure
