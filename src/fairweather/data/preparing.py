"""From what is asked of the images' size to how each of them is decoded."""

from __future__ import annotations

from typing import get_args, get_type_hints

from fairweather.data.listing import Source
from fairweather.errors import InputError, unknown_name
from fairweather.pixels import Square
from fairweather.types import SMALLEST_SIDE, Preparation

_HINTS = get_type_hints(Preparation)


def make_square(size: int | None, preparation: Preparation | None) -> Square | None:
    """Check a size or a preparation and fill it in; None where images stay as they are.

    Raises:
        InputError: both are given, or a value is not allowed.

    >>> make_square(224, None)
    Square(size=224, resize=224, interpolation='bilinear', fit='crop')
    """
    if preparation is None:
        preparation = None if size is None else Preparation(size)
    elif size is not None:
        raise InputError(
            f"size and preparation both say how large images become: give one of them, found "
            f"size {size} and {preparation}"
        )
    if preparation is None:
        return None
    size, resize, interpolation, fit = preparation
    resize = size if resize is None else resize
    if size < SMALLEST_SIDE:
        raise InputError(f"size must be at least {SMALLEST_SIDE}, found {size}")
    if resize < size:
        raise InputError(
            f"resize must be at least the size, {size}, that is cropped from it, found {resize}"
        )
    for name, value in (("interpolation", interpolation), ("fit", fit)):
        if value not in get_args(_HINTS[name]):
            raise unknown_name(name, value, get_args(_HINTS[name]))
    return Square(size, resize, interpolation, fit)


def square_for(
    listed: Source, source: str, size: int | None, square: Square | None
) -> Square | None:
    """Leave the images of a published corrupted set as they are; refuse a `size` for them."""
    if listed.side is None:
        return square
    if size not in (None, listed.side):
        raise InputError(
            f"the images of {source} were corrupted at {listed.side} x {listed.side} and are never "
            f"resized, because that would change the corruption: leave size out, found {size}"
        )
    return None


def name_prepared(listed: Source, source: str, square: Square | None) -> str:
    """Name a data set; images resized from another resolution are another data set."""
    name = listed.name or source
    _, at, resolution = name.partition("@")
    if not listed.name or not at or square is None:
        return name
    if square.resize != square.size:
        return f"{name} resized to {square.resize} and cropped to {square.size}"
    return name if square.size == int(resolution) else f"{name} resized to {square.size}"
