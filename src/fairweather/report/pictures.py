"""Figures of the pictures themselves: what each shift does to them, and how MixUp blends two."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import altair as alt
import pandas as pd
from PIL import Image

from fairweather.report.charts import FAINT, INK, PNG_SCALE, Figure, render_figure
from fairweather.report.contents import Contents
from fairweather.report.samples import Samples
from fairweather.types.record import CLEAN

# Pixels on the page: a picture of the MixUp figure; a picture of the contact sheet at most, and all
# the pictures of one of its rows together.
LARGE, SMALL, ROW = 168, 84, 760
# A picture whose longer side is up to this is enlarged by a whole factor, pixel by pixel.
PIXEL_ART = 64
GAP = 6
# Beyond, the sheet would be longer than a page, and shows the farthest level of each shift.
MOST_ROWS = 40
LABEL_WIDTH, HEADING, LINE = 64, 34, 18
# The width of a letter, about.
LETTER_WIDTH = 7
# Where a picture or a text is, in pixels of the page.
PIXEL_X, PIXEL_Y = alt.X("x:Q", scale=None, axis=None), alt.Y("y:Q", scale=None, axis=None)


class SheetRow(NamedTuple):
    """A row of the contact sheet; the first row of a group carries the group's heading."""

    heading: str
    label: str
    pictures: tuple[Image.Image, ...]


def draw_shifts(contents: Contents, samples: Samples) -> Figure | None:
    """Lay out the same pictures clean and at every level of every shift, one row for each level."""
    rows = list(_sheet_rows(contents, samples))
    if not rows or not samples.labels:
        return None
    count = len(rows[0].pictures)
    # As wide whatever the pictures' shape, because the names of the classes stand above them.
    column = min(SMALL, ROW // count - GAP)
    dots = _dots(rows[0].pictures[0].size, column)
    width, height = (length / PNG_SCALE for length in dots)
    wrapped = [_wrap(label, column // LETTER_WIDTH) for label in samples.labels]
    bottom: float = LINE * max(map(len, wrapped))
    lines = [
        (LABEL_WIDTH + index * (column + GAP) + column / 2, bottom - LINE * below - 10, text)
        for index, parts in enumerate(wrapped)
        for below, text in enumerate(reversed(parts))
    ]
    names = make_text_layer(lines, align="center", limit=column + GAP - 2)
    tops: list[float] = []
    for row in rows:
        bottom += HEADING if row.heading else GAP
        tops.append(bottom)
        bottom += height
    places = [LABEL_WIDTH + index * (column + GAP) + (column - width) / 2 for index in range(count)]
    titles = [(0.0, top - 8, row.heading) for row, top in zip(rows, tops, strict=True)]
    headings = make_text_layer(titles, weight="bold", size=13)
    labels = [(0.0, top + height / 2, row.label) for row, top in zip(rows, tops, strict=True)]
    levels = make_text_layer(labels, limit=LABEL_WIDTH - 6)
    pictures = [
        (picture, left, top)
        for row, top in zip(rows, tops, strict=True)
        for picture, left in zip(row.pictures, places, strict=True)
    ]
    chart = alt.layer(make_picture_layer(pictures, dots), names, headings, levels)
    return render_figure(
        "shifts",
        chart.properties(width=LABEL_WIDTH + count * (column + GAP), height=bottom),
        "The same pictures under each shift",
        ["Columns: test images with their class. Rows: levels of each shift."],
        f"Contact sheet: {count} test images ({'; '.join(samples.labels)}), clean and at "
        f"levels of: {'; '.join(sweep.title for sweep in contents.sweeps)}.",
    )


def draw_mixup(samples: Samples) -> Figure | None:
    """Draw two training images and their MixUp, with the labels that each counts as."""
    if samples.mixup is None:
        return None
    pictures, (first, second), weight = samples.mixup
    dots = _dots(pictures[0].size, LARGE)
    width, height = (length / PNG_SCALE for length in dots)
    step = LARGE + 44
    parts = (f"{weight:.2f} × {first}", f"+ {1 - weight:.2f} × {second}")
    captions = [
        (LARGE / 2, height + 16, first),
        (LARGE / 2 + step, height + 16, second),
        *((LARGE / 2 + 2 * step, height + 16 + LINE * line, parts[line]) for line in (0, 1)),
    ]
    signs = [(step - 22.0, height / 2, "+"), (2 * step - 22.0, height / 2, "→")]
    placed = [
        (picture, index * step + (LARGE - width) / 2, 0.0) for index, picture in enumerate(pictures)
    ]
    chart = alt.layer(
        make_picture_layer(placed, dots),
        make_text_layer(captions, align="center", limit=step - 4),
        make_text_layer(signs, align="center", size=24, color=FAINT),
    )
    return render_figure(
        "mixup",
        chart.properties(width=2 * step + LARGE, height=height + 26 + LINE),
        "MixUp: a training image that is mixed from two",
        [f"Pixels and labels are mixed with the same weight, here {weight:.2f}."],
        f"MixUp example: two training images and their mixture. Weight and class of the first: "
        f"{parts[0]}. Of the second: {parts[1].removeprefix('+ ')}.",
    )


def _sheet_rows(contents: Contents, samples: Samples) -> Iterator[SheetRow]:
    if CLEAN in samples.strips:
        yield SheetRow("", "Clean", samples.strips[CLEAN])
    every = sum(len(sweep.cells) for sweep in contents.sweeps) <= MOST_ROWS
    for sweep in contents.sweeps:
        heading = f"{sweep.title}: {sweep.level_title}"
        for level in sweep.cells if every else [sweep.farthest]:
            if (cell := sweep.cells[level]) in samples.strips:
                yield SheetRow(heading, sweep.heading(level), samples.strips[cell])
                heading = ""


def _dots(size: tuple[int, int], wanted: int) -> tuple[int, int]:
    """Width and height in dots of the PNG, the longer at most `wanted` pixels of the page.

    The pixels of pixel art stay whole.

    >>> _dots((28, 28), 168), _dots((50, 25), 84), _dots((224, 112), 84)
    ((336, 336), (150, 75), (168, 84))
    """
    longest, most = max(size), wanted * PNG_SCALE
    factor = most / longest if longest > PIXEL_ART else most // longest
    width, height = (max(1, round(length * factor)) for length in size)
    return width, height


def _wrap(name: str, letters: int) -> tuple[str, ...]:
    """Break a long name in two where it has a joint, into parts as even as may be.

    >>> _wrap("american_bulldog", 12), _wrap("Bengal", 12), _wrap("Staffordshire", 12)
    (('american_', 'bulldog'), ('Bengal',), ('Staffordshire',))
    """
    joints = [match.end() for match in re.finditer(r"[ _-](?=.)", name)]
    if len(name) <= letters or not joints:
        return (name,)
    joint = min(joints, key=lambda place: abs(2 * place - len(name)))
    return name[:joint].rstrip(), name[joint:]


def make_picture_layer(
    pictures: Sequence[tuple[Image.Image, float, float]],
    dots: tuple[int, int],
    pixel_art: int = PIXEL_ART,
) -> alt.Chart:
    """Place pictures of one size by their left upper corners.

    Those whose longer side is up to `pixel_art` keep their hard edges.
    """
    frame = pd.DataFrame(
        [(_make_uri(picture, dots, pixel_art), left, top) for picture, left, top in pictures],
        columns=["url", "x", "y"],
    )
    width, height = (length / PNG_SCALE for length in dots)
    mark = alt.Chart(frame).mark_image(width=width, height=height, align="left", baseline="top")
    return mark.encode(x=PIXEL_X, y=PIXEL_Y, url="url:N")


def make_text_layer(
    texts: Sequence[tuple[float, float, str]],
    *,
    align: Literal["left", "center"] = "left",
    size: int = 12,
    weight: Literal["normal", "bold"] = "normal",
    color: str = INK,
    limit: float = 0,
) -> alt.Chart:
    """Write texts at their places, cut off at `limit` pixels unless that is 0."""
    mark = alt.Chart(pd.DataFrame(texts, columns=["x", "y", "text"])).mark_text(
        align=align, baseline="middle", fontSize=size, fontWeight=weight, color=color, limit=limit
    )
    return mark.encode(x=PIXEL_X, y=PIXEL_Y, text=alt.Text("text:N"))


def _make_uri(picture: Image.Image, dots: tuple[int, int], pixel_art: int) -> str:
    """Resize a picture to the dots of the PNG and inline it."""
    hard = max(picture.size) <= pixel_art
    buffer = io.BytesIO()
    resampling = Image.Resampling.NEAREST if hard else Image.Resampling.LANCZOS
    picture.resize(dots, resampling).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
