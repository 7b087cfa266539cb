"""The contact sheet: the same pictures under every shift, without any model."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from fairweather.errors import InputError
from fairweather.report.charts import PNG_SCALE, PRINTED_FAINT, Figure, render_figure
from fairweather.report.pictures import PIXEL_X, PIXEL_Y, make_text_layer
from fairweather.shifts.table import CLEAN, SHIFTS
from fairweather.types.measurement import Images, Shift, format_number

MOST_IMAGES = 12
# Dots of the PNG: how long the longer side of a picture is at most by enlargement, and at most at
# all; what lies between two pictures, and between two shifts; the height of a line of level labels.
WANTED, LONGEST = 224, 256
GAP, ROW_GAP, HEAD = 8, 24, 40
# Pixels of the page.
LABEL_WIDTH, LINE = 190, 16


class PreviewRow(NamedTuple):
    """A row of the contact sheet: one shift at its levels.

    Attributes:
        title: of the shift.
        names: its name, and its parameters besides the level.
        heads: what stands above each picture, clean first.
        pictures: uint8 `[images, levels, H, W, 3]`.
    """

    title: str
    names: tuple[str, ...]
    heads: tuple[str, ...]
    pictures: npt.NDArray[np.uint8]


def preview(
    images: Images, shifts: Sequence[Shift], *, seed: int = 0, subtitle: str = ""
) -> Figure:
    """Draw pictures clean and at every level of each shift, one row per shift.

    Small pictures are enlarged by a whole factor, so that the PNG shows each of their pixels
    unchanged. Pictures with a side of more than 256 pixels are made smaller.

    Args:
        images: at most 12; each has its own line in every row.
        shifts: those with one name and different levels share a row, in the given order.
        seed: random seed of the stochastic shifts.
        subtitle: below the title.

    Returns:
        A figure; `.png` is the content of the file.

    Raises:
        InputError: there are no images or too many, no shifts, or a shift cannot be applied.

    >>> import torch
    >>> from fairweather.shifts.table import suite
    >>> pixels, column = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0])
    >>> sheet = preview(Images(pixels, column, column, ("black",)), suite("paper_pathmnist"))
    >>> sheet.png[:4]
    b'\\x89PNG'
    """
    if not 1 <= len(images) <= MOST_IMAGES:
        raise InputError(f"a contact sheet shows 1 to {MOST_IMAGES} images, found {len(images)}")
    if others := [shift for shift in shifts if not isinstance(shift, Shift)]:
        raise InputError(f"a contact sheet shows shifts, found {others[0]!r}")
    rows = [_make_row(images, members, seed) for members in _group_by_level(shifts)]
    if not rows:
        raise InputError("a contact sheet needs a shift besides clean")
    canvas, tops = _paste_pictures(rows)
    height, width = canvas.shape[:2]
    column = _drawn_size(rows[0].pictures)[1] + GAP
    chart = alt.layer(_make_canvas_layer(canvas), *_make_text_layers(rows, tops, column))
    return render_figure(
        "preview",
        chart.properties(width=LABEL_WIDTH + width / PNG_SCALE, height=height / PNG_SCALE),
        alt.Title("The same pictures under every shift", subtitle=subtitle),
        f"Contact sheet: {len(images)} images, clean and under: "
        f"{'; '.join(row.title for row in rows)}.",
    )


def _group_by_level(shifts: Sequence[Shift]) -> list[list[Shift]]:
    """Group the shifts that differ only in their level."""
    sweeps: dict[tuple[str, ...], list[Shift]] = {}
    for shift in {shift.id: shift for shift in shifts}.values():
        if shift.level is not None:
            sweeps.setdefault((shift.name, *_fixed_parameters(shift)), []).append(shift)
    return list(sweeps.values())


def _fixed_parameters(shift: Shift) -> Iterator[str]:
    level = SHIFTS[shift.name].level
    return (
        f"{key} {format_number(value)}" for key, value in shift.parameters.items() if key != level
    )


def _make_row(images: Images, shifts: list[Shift], seed: int) -> PreviewRow:
    kind = SHIFTS[shifts[0].name]
    shown = [shift(images.images, images.keys, seed) for shift in (CLEAN, *shifts)]
    pictures = [batch.permute(0, 2, 3, 1).numpy() for batch in shown]
    heads = ("clean", *(f"{kind.level} {shift.level_name}" for shift in shifts))
    names = (shifts[0].name, *_fixed_parameters(shifts[0]))
    return PreviewRow(kind.title, names, heads, np.stack(pictures, axis=1))


def _paste_pictures(rows: Sequence[PreviewRow]) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Lay out all pictures on white: uint8 `[H, W, 3]`, and where each row begins."""
    height, width = _drawn_size(rows[0].pictures)
    tops, bottom = [], 0
    for index, row in enumerate(rows):
        bottom += HEAD if _has_heads(rows, index) else 0
        tops.append(bottom)
        bottom += len(row.pictures) * (height + GAP) + ROW_GAP - GAP
    columns = max(len(row.heads) for row in rows)
    canvas = np.full((bottom - ROW_GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for row, top in zip(rows, tops, strict=True):
        for line, column in np.ndindex(row.pictures.shape[:2]):
            y, x = top + line * (height + GAP), column * (width + GAP)
            canvas[y : y + height, x : x + width] = _resize(row.pictures[line, column])
    return canvas, tops


def _drawn_size(pictures: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width of a picture on the sheet, in dots.

    >>> _drawn_size(np.zeros((1, 1, 28, 20, 3), np.uint8))
    (224, 160)
    >>> _drawn_size(np.zeros((1, 1, 512, 256, 3), np.uint8))
    (256, 128)
    """
    height, width = pictures.shape[2:4]
    longest = max(height, width)
    if longest > LONGEST:
        return max(1, height * LONGEST // longest), max(1, width * LONGEST // longest)
    factor = max(1, WANTED // longest)
    return height * factor, width * factor


def _resize(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = _drawn_size(picture[None, None])
    larger = height >= picture.shape[0]
    resampling = Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize((width, height), resampling))


def _has_heads(rows: Sequence[PreviewRow], index: int) -> bool:
    """Say whether a row needs level labels: where the row above has others."""
    return index == 0 or rows[index].heads != rows[index - 1].heads


def _make_canvas_layer(canvas: npt.NDArray[np.uint8]) -> alt.Chart:
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    height, width = (side / PNG_SCALE for side in canvas.shape[:2])
    mark = alt.Chart(pd.DataFrame({"x": [LABEL_WIDTH], "y": [0], "url": [url]})).mark_image(
        width=width, height=height, align="left", baseline="top"
    )
    return mark.encode(x=PIXEL_X, y=PIXEL_Y, url="url:N")


def _make_text_layers(
    rows: Sequence[PreviewRow], tops: Sequence[int], column: int
) -> Iterator[alt.Chart]:
    titles, names, heads = [], [], []
    for index, (row, top) in enumerate(zip(rows, tops, strict=True)):
        y = top / PNG_SCALE
        titles.append((0.0, y + LINE / 2, row.title))
        names += [(0.0, y + LINE * (line + 1.5), name) for line, name in enumerate(row.names)]
        if _has_heads(rows, index):
            centers = [
                LABEL_WIDTH + (place * column + (column - GAP) / 2) / PNG_SCALE
                for place in range(len(row.heads))
            ]
            heads += [
                (x, y - LINE / 2 - 2, head) for x, head in zip(centers, row.heads, strict=True)
            ]
    placed = (pd.DataFrame(each, columns=["x", "y", "text"]) for each in (titles, names, heads))
    of_titles, of_names, of_heads = placed
    limit = LABEL_WIDTH - 8
    yield make_text_layer(of_titles, size=13, weight="bold", limit=limit)
    yield make_text_layer(of_names, size=11, color=PRINTED_FAINT, limit=limit)
    yield make_text_layer(of_heads, align="center", limit=column / PNG_SCALE)
