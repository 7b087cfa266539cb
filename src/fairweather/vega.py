"""What vl-convert does for figures and page, in other processes where it is much.

This file imports nothing of the package, so that such a process is ready soon.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import vl_convert
from PIL import Image

SCALE = 2  # dots of the PNG for each pixel of the SVG
# Letters of all figures together from which on other processes help: they need half a second to
# start.
MANY_LETTERS = 400_000

P = ParamSpec("P")
T = TypeVar("T")


def png_of(svg: str) -> bytes:
    """Draw an SVG as a PNG, two dots for each of its pixels.

    >>> png_of('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')[1:4]
    b'PNG'
    """
    # vl-convert is quick about compressing, and leaves a PNG several times as large.
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=SCALE))) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def bundle() -> str:
    """Give the JavaScript of Vega-Embed, Vega-Lite and Vega that the installed package holds.

    >>> "window.vegaEmbed" in bundle()
    True
    """
    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return text


def begin(letters: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Begin work in another process, if figures of so many letters are to be drawn.

    Returns:
        What waits for the result. Of few letters, the work is done when it is asked for.

    >>> begin(0, png_of, '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')()[1:4]
    b'PNG'
    """
    if letters < MANY_LETTERS:
        return functools.partial(work, *args, **kwargs)
    from loky import get_reusable_executor

    waited: Callable[[], T] = (
        get_reusable_executor(max_workers=2).submit(work, *args, **kwargs).result
    )
    return waited
