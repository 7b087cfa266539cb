"""Draw SVGs as PNGs and bundle Vega's JavaScript with vl-convert; large work in other processes.

This file imports nothing heavy from the package, so that such a process starts fast.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import vl_convert
from PIL import Image

from fairweather.errors import InputError

SCALE = 2  # PNG pixels per SVG pixel, along each side
# From this many characters of SVG on, other processes are used: they take half a second to start.
MANY_LETTERS = 400_000
# V8 was seen to reserve 64.3 GiB (vl-convert 1.9), and torch has some GiB before.
ADDRESSES_OF_V8 = 72 * 2**30

# What the page's own script calls.
EXPOSED = "window.vegaEmbed = vegaEmbed;"

P = ParamSpec("P")
T = TypeVar("T")


def png_of(svg: str) -> bytes:
    """Draw an SVG as a PNG with twice its width and height in pixels.

    >>> png_of('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')[1:4]
    b'PNG'
    """
    # Pillow compresses again, because vl-convert's own PNG is several times as large.
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=SCALE))) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def bundle() -> str:
    """Return the JavaScript of Vega-Embed, Vega-Lite and Vega from the installed vl-convert.

    >>> "window.vegaEmbed" in bundle()
    True
    """
    text: str = vl_convert.javascript_bundle(EXPOSED)
    return text


def begin(letters: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Callable[[], T]:
    """Start work in another process if the figures have at least `MANY_LETTERS` characters.

    Returns:
        A function that waits for the result. With fewer characters, it does the work itself.

    >>> begin(0, png_of, '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')()[1:4]
    b'PNG'
    """
    if letters < MANY_LETTERS:
        return functools.partial(work, *args, **kwargs)
    from fairweather.pool import result_of, submit

    future = submit(2, {}, work, *args, **kwargs)
    return functools.partial(result_of, future, "drew figures", "the same command draws them again")


def check_addresses() -> None:
    """Raise `InputError` where the limit of this process's addresses is too low to draw charts.

    Batch systems set such limits. V8, which draws the charts, reserves addresses without using
    memory, and ends the process if it does not get them.

    >>> check_addresses()
    """
    if sys.platform == "win32":
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < ADDRESSES_OF_V8:
        raise InputError(
            f"charts need {ADDRESSES_OF_V8 >> 30} GiB of addresses, which are no memory, and this "
            f"process may have {limit / 2**30:.3g} (ulimit -v): everything else is done; set "
            "ulimit -v unlimited, or let fairweather report draw them on another machine"
        )
