"""SVG to PNG, beside what else is to be done."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import vl_convert
from PIL import Image

SCALE = 2  # dots of the PNG for each pixel of the SVG
# Letters of all figures together from which on other processes help: they need half a second to
# start.
MANY_LETTERS = 400_000


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


def begin_pngs(svgs: Sequence[str]) -> Callable[[], list[bytes]]:
    """Begin to draw SVGs as PNGs in other processes; what is returned waits for them.

    A few small ones are drawn when they are asked for, by this process.

    >>> begin_pngs(['<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'])()[0][1:4]
    b'PNG'
    """
    if sum(map(len, svgs)) < MANY_LETTERS:
        return lambda: [png_of(svg) for svg in svgs]
    from loky import get_reusable_executor

    # This file imports nothing of the package, so that a process is ready soon.
    pool = get_reusable_executor(max_workers=2)
    drawn = [pool.submit(png_of, svg) for svg in svgs]
    return lambda: [each.result() for each in drawn]
