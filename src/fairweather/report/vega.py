"""Draw SVGs as PNGs with vl-convert; large work in other processes.

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

SCALE = 2  # PNG pixels per SVG pixel, along each side
# From this many characters of SVG on, other processes are used: they take half a second to start.
MANY_LETTERS = 400_000
# V8 was seen to reserve 64.3 GiB (vl-convert 1.9), and torch has some GiB before.
ADDRESSES_OF_V8 = 72 * 2**30

P = ParamSpec("P")
T = TypeVar("T")


def draw_png(svg: str) -> bytes:
    """Draw an SVG as a PNG with twice its width and height in pixels.

    >>> draw_png('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')[1:4]
    b'PNG'
    """
    # Pillow compresses again, because vl-convert's own PNG is several times as large.
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=SCALE))) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def begin_work(
    letters: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Callable[[], T]:
    """Start work in another process if the figures have at least `MANY_LETTERS` characters.

    Returns:
        A function that waits for the result. With fewer characters, it does the work itself.

    >>> begin_work(0, draw_png, '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')()[
    ...     1:4
    ... ]
    b'PNG'
    """
    if letters < MANY_LETTERS:
        return functools.partial(work, *args, **kwargs)
    from fairweather.processes import submit, wait_for_result

    future = submit(2, {}, work, *args, **kwargs)
    return functools.partial(
        wait_for_result, future, "drew figures", "the same command draws them again"
    )


def explain_missing_addresses() -> str:
    """Say why figures cannot be drawn in this process; empty where they can.

    Batch systems limit how many addresses a process may have. V8, which draws the figures, reserves
    addresses without using memory, and ends the process if it does not get them.

    >>> explain_missing_addresses()
    ''
    """
    if sys.platform == "win32":
        return ""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit >= ADDRESSES_OF_V8:
        return ""
    return (
        f"figures cannot be drawn: they need {ADDRESSES_OF_V8 >> 30} GiB of address space, and "
        f"ulimit -v allows {limit / 2**30:.3g}"
    )
