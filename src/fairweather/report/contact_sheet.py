"""The contact sheet: the same pictures under every shift, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair as alt
import numpy as np
import numpy.typing as npt
from PIL import Image

from fairweather.errors import InputError, check_type
from fairweather.report.charts import FAINT, PNG_SCALE, Figure, render_figure
from fairweather.report.pictures import make_picture_layer, make_text_layer
from fairweather.shifts.published import find_shift_kind
from fairweather.shifts.table import CLEAN, ShiftKind
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
    check_type(images, Images, "images must be Images, such as load_data(SOURCE).test[:4]")
    if not 1 <= len(images) <= MOST_IMAGES:
        raise InputError(f"a contact sheet shows 1 to {MOST_IMAGES} images, found {len(images)}")
    if others := [shift for shift in shifts if not isinstance(shift, Shift)]:
        raise InputError(f"a contact sheet shows shifts, found {others[0]!r}")
    rows = [_make_row(images, members, seed) for members in _group_by_level(shifts)]
    if not rows:
        raise InputError("a contact sheet needs a shift besides clean")
    width, height = dots = _drawn_size(rows[0].pictures)
    step, label_limit = (width + GAP) / PNG_SCALE, LABEL_WIDTH - 8
    pictures: list[tuple[Image.Image, float, float]] = []
    titles, names, heads = [], [], []
    bottom, heads_above = 0, None
    for row in rows:
        if row.heads != heads_above:  # level labels stand once above rows that share them
            bottom += HEAD
            y = bottom / PNG_SCALE - LINE / 2 - 2
            center = LABEL_WIDTH + width / 2 / PNG_SCALE
            heads += [(center + step * place, y, head) for place, head in enumerate(row.heads)]
            heads_above = row.heads
        top = bottom / PNG_SCALE
        titles.append((0.0, top + LINE / 2, row.title))
        names += [(0.0, top + LINE * (line + 1.5), name) for line, name in enumerate(row.names)]
        for line, place in np.ndindex(row.pictures.shape[:2]):
            left, below = LABEL_WIDTH + step * place, line * (height + GAP) / PNG_SCALE
            pictures.append((Image.fromarray(row.pictures[line, place]), left, top + below))
        bottom += len(row.pictures) * (height + GAP) + ROW_GAP - GAP
    chart = alt.layer(
        make_picture_layer(pictures, dots, LONGEST),
        make_text_layer(titles, size=13, weight="bold", limit=label_limit),
        make_text_layer(names, size=11, color=FAINT, limit=label_limit),
        make_text_layer(heads, align="center", limit=step),
    )
    columns = max(len(row.heads) for row in rows)
    return render_figure(
        "preview",
        chart.properties(
            width=LABEL_WIDTH + columns * step - GAP / PNG_SCALE,
            height=(bottom - ROW_GAP) / PNG_SCALE,
        ),
        "The same pictures under every shift",
        [subtitle],
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
    level = _find_kind(shift).level
    return (
        f"{key} {format_number(value)}" for key, value in shift.parameters.items() if key != level
    )


def _find_kind(shift: Shift) -> ShiftKind:
    kind = find_shift_kind(shift.name)
    assert kind is not None, "only a shift of the table, or of published files, has images"
    return kind


def _make_row(images: Images, shifts: list[Shift], seed: int) -> PreviewRow:
    kind = _find_kind(shifts[0])
    shown = [shift.change(images, seed) for shift in (CLEAN, *shifts)]
    pictures = [batch.permute(0, 2, 3, 1).numpy() for batch in shown]
    heads = ("clean", *(f"{kind.level} {shift.level_name}" for shift in shifts))
    names = (shifts[0].name, *_fixed_parameters(shifts[0]))
    return PreviewRow(kind.title, names, heads, np.stack(pictures, axis=1))


def _drawn_size(pictures: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height of a picture on the sheet, in dots.

    >>> _drawn_size(np.zeros((1, 1, 28, 20, 3), np.uint8))
    (160, 224)
    >>> _drawn_size(np.zeros((1, 1, 512, 256, 3), np.uint8))
    (128, 256)
    """
    height, width = pictures.shape[2:4]
    longest = max(height, width)
    if longest > LONGEST:
        return max(1, width * LONGEST // longest), max(1, height * LONGEST // longest)
    factor = max(1, WANTED // longest)
    return width * factor, height * factor
