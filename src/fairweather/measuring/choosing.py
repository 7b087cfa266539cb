"""Which images are worth looking at: those that every model loses first, and confident mistakes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Of a kind, and of all models' mistakes under all shifts together: a page has to hold them.
MOST_PICTURES, MOST_MISTAKES = 6, 240


class Chosen(NamedTuple):
    """Images and where to look at them, the most telling first.

    Attributes:
        keys: int64 `[K]`, each once.
        levels: int64 `[K]`, which of the levels, counted from 0.
    """

    keys: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]


def lost_first(
    keys: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    lost: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    most: int = MOST_PICTURES,
) -> Chosen:
    """Choose the images that are lost at the level nearest to neutral, and stay lost beyond it.

    An image is lost from a level on if it is wrong there and at every level further from neutral on
    the same side. Where both sides lose it, the nearer level counts, and of two as near the one
    that comes first. Sooner lost come first, then the more confident, then the smaller key.

    Args:
        keys: int64 `[N]`, each once.
        offsets: float64 `[L]`, each level minus the neutral one; a level at 0 loses nothing.
        right: bool `[N]`, is the image right while nothing is changed; no other can be lost.
        lost: bool `[L, N]`, is it wrong at this level, for all who are asked.
        confidence: float64 `[L, N]`, how sure they are there.
        most: how many images at most.

    >>> right = np.array([True, True, True, False])
    >>> lost = np.array([[False, True, True, True], [True, False, True, True]])
    >>> lost_first(np.arange(4), np.array([1.0, 2.0]), right, lost, np.ones((2, 4)))
    Chosen(keys=array([2, 0]), levels=array([0, 1]))
    """
    stays = np.zeros_like(lost)
    for side in (-1, 1):
        places = np.flatnonzero(np.sign(offsets) == side)
        inwards = places[np.argsort(-np.abs(offsets[places]), kind="stable")]
        stays[inwards] = np.logical_and.accumulate(lost[inwards], axis=0)
    # Of 0.6 and 1.4, as floats, one would be nearer to 1.
    near = np.round(np.abs(offsets), 9)
    distances = np.where(stays & right, near[:, None], np.inf)
    found = np.flatnonzero(np.isfinite(distances).any(axis=0))
    levels = distances[:, found].argmin(axis=0)
    order = np.lexsort((keys[found], -confidence[levels, found], distances[levels, found]))[:most]
    return Chosen(keys[found[order]], levels[order])


def confident_mistakes(
    keys: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    most: int = MOST_PICTURES,
) -> Chosen:
    """Choose the wrong answers that a model is surest of, each image where it is surest.

    An image that is as surely wrong at two levels counts at the first; of images as surely wrong
    the smaller key comes first.

    Args:
        keys: int64 `[N]`, each once.
        wrong: bool `[L, N]`, is the answer wrong at this level.
        confidence: float64 `[L, N]`, in [0, 1].
        most: how many images at most.

    >>> wrong = np.array([[True, True, False], [True, False, False]])
    >>> confidence = np.array([[0.6, 0.7, 0.9], [0.8, 0.9, 0.9]])
    >>> confident_mistakes(np.array([7, 8, 9]), wrong, confidence)
    Chosen(keys=array([7, 8]), levels=array([1, 0]))
    """
    found = np.flatnonzero(wrong.any(axis=0))
    sure = np.where(wrong[:, found], confidence[:, found], -np.inf)
    levels = sure.argmax(axis=0)
    order = np.lexsort((keys[found], -sure.max(axis=0)))[:most]
    return Chosen(keys[found[order]], levels[order])


def mistakes_each(models: int, shifts: int) -> int:
    """Say how many mistakes of each model under each shift are kept, and of it on clean images.

    Six, or as many as keep those of all together at 240, but at least one.

    >>> mistakes_each(models=6, shifts=2), mistakes_each(5, 20), mistakes_each(40, 80)
    (6, 2, 1)
    """
    return max(1, min(MOST_PICTURES, MOST_MISTAKES // (models * (shifts + 1))))
