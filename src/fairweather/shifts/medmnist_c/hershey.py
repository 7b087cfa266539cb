"""Small letters of the Hershey duplex font, which OpenCV had up to version 4.

A. V. Hershey made the fonts at the U.S. National Bureau of Standards (A. V. Hershey, "Calligraphy
for computers", 1967; N. M. Wolcott and J. Hilsenrath, NBS Special Publication 424, 1976; numbers
2601 to 2626); the encoding of the coordinates is that of James Hurt, Cognition, Inc. The fonts are
free to use with this acknowledgement. OpenCV 5 draws another font under the same name, which is
only a third as visible at these sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fairweather.facts import read_facts

# A letter: its left and right end, then points x y; a space ends a stroke. Each coordinate is the
# distance of its character from R, with y downwards.
_LETTERS: Mapping[str, str] = read_facts("fairweather.shifts.medmnist_c", "hershey")
_BASE = 9  # the line that letters stand on
_SHIFT = 16  # bits of a pixel's fraction


def write(
    layer: npt.NDArray[np.uint8],
    word: str,
    at: tuple[int, int],
    scale: float,
    colour: tuple[int, ...],
) -> None:
    """Write a word into a layer, `[H, W]` or `[H, W, 3]`, as OpenCV 4's `putText` does.

    The lines are thin and antialiased, and each is drawn over the earlier ones.

    Args:
        layer: the layer; it is changed in place.
        word: letters from a to z.
        at: column and row of the lower left end, in pixels.
        scale: pixels per unit of the font; small letters are 14 units high.
        colour: one value per channel.

    >>> layer = np.zeros((20, 20), np.uint8)
    >>> write(layer, "l", (2, 19), 0.5, (200,))
    >>> np.flatnonzero(layer.max(axis=0) > 50).tolist()
    [4, 5]
    """
    unit = round(scale * (1 << _SHIFT))
    x, y = at[0] << _SHIFT, (at[1] << _SHIFT) - _BASE * unit
    for letter in word:
        (left, right), strokes = _letter(letter)
        x -= left * unit
        lines = [(stroke * unit + (x, y)).astype(np.int32) for stroke in strokes]
        for line in lines:
            cv2.polylines(layer, [line], False, colour, 1, cv2.LINE_AA, _SHIFT)
        x += right * unit


@lru_cache(maxsize=len(_LETTERS))
def _letter(letter: str) -> tuple[tuple[int, int], list[npt.NDArray[np.int64]]]:
    """Return a letter's left and right end and its strokes, `[points, 2]` each."""
    strokes = [
        np.array([ord(character) - ord("R") for character in text], np.int64).reshape(-1, 2)
        for text in _LETTERS[letter][2:].split(" ")
    ]
    left, right = (ord(character) - ord("R") for character in _LETTERS[letter][:2])
    return (left, right), strokes
