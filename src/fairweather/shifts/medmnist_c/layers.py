"""Layers over the image: stains, bubbles, dark corners and letters.

Each layer is drawn on a canvas of 224 px, the size of medmnistc's lengths, and resized to the
image. What covers a quarter of a pixel has a quarter of the weight there.

The letters are those of the Hershey duplex font, which OpenCV had up to version 4. A. V. Hershey
made the fonts at the U.S. National Bureau of Standards (A. V. Hershey, "Calligraphy for computers",
1967; N. M. Wolcott and J. Hilsenrath, NBS Special Publication 424, 1976; numbers 2601 to 2626); the
encoding of the coordinates is that of James Hurt, Cognition, Inc. The fonts are free to use with
this acknowledgement. OpenCV 5 draws another font under the same name, which is only a third as
visible at these sizes.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import lru_cache
from itertools import repeat
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fairweather.errors import InputError
from fairweather.files.folders import read_facts
from fairweather.shifts.corruption import Floats, Generators, Pixels, corrupt_each, find_asset
from fairweather.shifts.medmnist_c.operations import canvas_size, fit_layer
from fairweather.shifts.ranges import Positive, Range, whole

# A letter: its left and right end, then points x y; a space ends a stroke. Each coordinate is the
# distance of its character from R, with y downwards.
_LETTERS: Mapping[str, str] = read_facts("fairweather.shifts.medmnist_c", "hershey")
_BASE_LINE = 9  # the line that letters stand on
_FRACTION_BITS = 16  # bits of a pixel's fraction


def write_word(
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
    >>> write_word(layer, "l", (2, 19), 0.5, (200,))
    >>> np.flatnonzero(layer.max(axis=0) > 50).tolist()
    [4, 5]
    """
    unit = round(scale * (1 << _FRACTION_BITS))
    x, y = at[0] << _FRACTION_BITS, (at[1] << _FRACTION_BITS) - _BASE_LINE * unit
    for letter in word:
        (left, right), strokes = _letter_strokes(letter)
        x -= left * unit
        lines = [(stroke * unit + (x, y)).astype(np.int32) for stroke in strokes]
        for line in lines:
            cv2.polylines(layer, [line], False, colour, 1, cv2.LINE_AA, _FRACTION_BITS)
        x += right * unit


@lru_cache(maxsize=len(_LETTERS))
def _letter_strokes(letter: str) -> tuple[tuple[int, int], list[npt.NDArray[np.int64]]]:
    """Return a letter's left and right end and its strokes, `[points, 2]` each."""
    strokes = [
        np.array([ord(character) - ord("R") for character in text], np.int64).reshape(-1, 2)
        for text in _LETTERS[letter][2:].split(" ")
    ]
    left, right = (ord(character) - ord("R") for character in _LETTERS[letter][:2])
    return (left, right), strokes


_MARGIN = 10  # around stains and letters, in canvas pixels
_FEWEST_BUBBLES, _SMALLEST_BUBBLE, _RIM = 7, 3, 2  # the last two in canvas pixels
_INSIDE, _ON_THE_RIM = 100, 130  # opacity of a bubble, from 0 to 255
_FEWEST_LETTERS, _LETTER_WIDTH = 3, 8  # the second: the width reserved per letter, in canvas pixels
_SMALLEST_FONT = 14  # in hundredths of OpenCV's scale
# Folders of the drawings in medmnistc/assets/inks.npz, by their side in pixels.
_DRAWINGS = {12: "1", 16: "2", 24: "3", 32: "4", 42: "5"}

_DRAWING_SIDE = Range("12, 16, 24, 32 or 42", lambda value: value in _DRAWINGS)
_FONT_SCALE = Range(">= 0.14", lambda value: round(value * 100) >= _SMALLEST_FONT)


def stain_deposit(
    images: Pixels,
    generators: Generators,
    *,
    marks: Annotated[float, whole(1)],
    size: Annotated[float, _DRAWING_SIDE],
) -> Pixels:
    """Put black marks on the image: drawings of ink from the package medmnistc.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the number of marks, then drawing, column, row.
        marks: the largest number of marks, a whole number >= 1; the smallest is 1.
        size: side of a drawing in pixels of a 224 px image: 12, 16, 24, 32 or 42.

    Raises:
        InputError: if medmnistc is not installed.
    """
    drawings, side = _read_drawings(int(size)), int(size)
    height, width = canvas_size(*images.shape[2:])

    def stain(image: Pixels, generator: np.random.Generator) -> Floats:
        number = _draw_whole(generator, 1, int(marks)) if marks > 1 else 1
        opacity = np.ones((height, width), np.float32)
        for _ in range(number):
            drawing = drawings[_draw_whole(generator, 0, len(drawings) - 1)]
            column = _draw_whole(generator, _MARGIN, width - side - _MARGIN)
            row = _draw_whole(generator, _MARGIN, height - side - _MARGIN)
            opacity[row : row + side, column : column + side] *= 1 - drawing
        return np.rint(image * fit_layer(opacity, *image.shape[1:]))

    return corrupt_each(images, generators, stain)


@lru_cache(maxsize=len(_DRAWINGS))
def _read_drawings(size: int) -> Floats:
    """Read drawings, float32 `[10, size, size]`, 1 for ink."""
    # Importing the package needs Wand and ImageMagick.
    path = find_asset("medmnistc", "the ink drawings of stain_deposit", "assets", "inks.npz")
    try:
        with np.load(path) as archive:
            return np.asarray(archive[_DRAWINGS[size]], np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"stain_deposit: cannot read the ink drawings {path}; install medmnistc again"
        ) from error


def bubble(
    images: Pixels,
    generators: Generators,
    *,
    max_radius: Annotated[float, whole(_SMALLEST_BUBBLE)],
    max_bubbles: Annotated[float, whole(_FEWEST_BUBBLES)],
) -> Pixels:
    """Draw pale round bubbles with a paler rim over the image; later bubbles hide earlier ones.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the number, then radius, column, row of a bubble.
        max_radius: the largest radius in pixels of a 224 px image, a whole number from 3 to 112;
            the smallest is 3.
        max_bubbles: the largest number of bubbles, a whole number >= 7; the smallest is 7.
    """
    height, width = canvas_size(*images.shape[2:])
    if 2 * max_radius > min(height, width):
        raise InputError(f"bubble: max_radius must be at most 112, found {max_radius}")

    def cover(image: Pixels, generator: np.random.Generator) -> Floats:
        layer = Image.new("L", (width, height))
        draw = ImageDraw.Draw(layer)
        for _ in range(_draw_whole(generator, _FEWEST_BUBBLES, int(max_bubbles))):
            radius = _draw_whole(generator, _SMALLEST_BUBBLE, int(max_radius))
            x = _draw_whole(generator, radius, width - radius)
            y = _draw_whole(generator, radius, height - radius)
            for reach, opacity in ((radius + _RIM, _ON_THE_RIM), (radius, _INSIDE)):
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=opacity)
        white = fit_layer(np.asarray(layer, np.float32), *image.shape[1:])
        return np.rint(image * (1 - white / 255) + white)

    return corrupt_each(images, generators, cover)


def black_corner(images: Pixels, *, radius: Positive) -> Pixels:
    """Make everything black except a circle in the middle, as with a dermatoscope.

    Args:
        images: uint8 `[B, 3, H, W]`.
        radius: share of half the smaller side, > 0.

    >>> images = np.full((1, 3, 8, 8), 200, np.uint8)
    >>> black_corner(images, radius=0.9)[0, 0, 0].tolist()
    [0, 0, 41, 100, 101, 44, 0, 0]
    """
    height, width = canvas_size(*images.shape[2:])
    reach = int(min(height // 2, width // 2) * radius)
    rows, columns = np.arange(height) - height // 2, np.arange(width) - width // 2
    inside = rows[:, None] ** 2 + columns[None] ** 2 <= reach**2
    opacity = fit_layer(inside.astype(np.float32), *images.shape[2:])
    return corrupt_each(images, repeat(opacity), lambda image, opacity: np.rint(image * opacity))


def characters(
    images: Pixels,
    generators: Generators,
    *,
    words: Annotated[float, whole(1)],
    letters: Annotated[float, whole(_FEWEST_LETTERS)],
    font_scale: Annotated[float, _FONT_SCALE],
) -> Pixels:
    """Write words of random small letters in random colours over the image.

    The font is the Hershey duplex of OpenCV 4, with every version of OpenCV (`hershey`).

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the number of words, then for each word its number
            of letters, font scale, letters, column, row, red, green, blue.
        words: the largest number of words, a whole number >= 1; the smallest is 1.
        letters: the largest number of letters per word, a whole number from 3 to 26; the smallest
            is 3.
        font_scale: the largest font scale of OpenCV, for 224 px images, >= 0.14; the smallest is
            0.14.
    """
    largest_font = round(font_scale * 100)
    height, width = canvas_size(*images.shape[2:])
    if width < _MARGIN + _LETTER_WIDTH * letters:
        raise InputError(f"characters: letters must be at most 26, found {letters}")
    interpolation = cv2.INTER_NEAREST if height > images.shape[2] else cv2.INTER_AREA

    def write(image: Pixels, generator: np.random.Generator) -> Floats:
        # Written on the image itself, because edges of letters are blended stroke by stroke.
        under = cv2.resize(cv2.merge(tuple(image)), (width, height), interpolation=interpolation)
        written = under.copy()
        for _ in range(_draw_whole(generator, 1, int(words))):
            number = _draw_whole(generator, _FEWEST_LETTERS, int(letters))
            scale = _draw_whole(generator, _SMALLEST_FONT, largest_font) / 100
            word = "".join(
                string.ascii_lowercase[_draw_whole(generator, 0, 25)] for _ in range(number)
            )
            x = _draw_whole(generator, _MARGIN, width - _LETTER_WIDTH * number)
            y = _draw_whole(generator, _MARGIN, height - _MARGIN)
            colour = tuple(_draw_whole(generator, 0, 255) for _ in range(3))
            write_word(written, word, (x, y), scale, colour)
        change = written.astype(np.float32) - under
        return np.rint(image + fit_layer(change, *image.shape[1:]).transpose(2, 0, 1))

    return corrupt_each(images, generators, write)


def _draw_whole(generator: np.random.Generator, low: int, high: int) -> int:
    """Return a random whole number from low to high, both included."""
    return int(generator.integers(low, high + 1))
