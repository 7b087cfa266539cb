"""Figures of the pictures themselves: what each shift does to them, and how MixUp blends two."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import altair as alt
import pandas as pd
from PIL import Image

from fairweather.report.figures import FAINT, INK, PNG_SCALE, Figure, render
from fairweather.report.reading import CLEAN, Contents, Samples

# Pixels on the page: a picture of the MixUp figure; a picture of the contact sheet at most, and all
# the pictures of one of its rows together.
LARGE, SMALL, ROW = 168, 84, 760
# A picture up to this side is enlarged by a whole factor, pixel by pixel.
PIXEL_ART = 64
GAP = 6
LABEL_WIDTH, HEADING, LINE = 64, 34, 18


class Row(NamedTuple):
    """A row of the contact sheet; the first row of a group carries the group's heading."""

    heading: str
    label: str
    pictures: tuple[Image.Image, ...]


def shifts_figure(contents: Contents, samples: Samples) -> Figure | None:
    """Lay out the same pictures clean and at every level of every shift, one row a level."""
    rows = list(_rows(contents, samples))
    if not rows or not samples.labels:
        return None
    count = len(rows[0].pictures)
    side = rows[0].pictures[0].width
    shown = _shown_side(side, min(SMALL, ROW // count - GAP))
    tops: list[int] = []
    bottom = LINE
    for row in rows:
        bottom += HEADING if row.heading else GAP
        tops.append(bottom)
        bottom += shown
    places = [LABEL_WIDTH + index * (shown + GAP) for index in range(count)]
    names = _texts(
        pd.DataFrame({"x": [left + shown / 2 for left in places], "y": 8, "text": samples.labels}),
        align="center",
        limit=shown + GAP - 2,
    )
    headings = _texts(
        pd.DataFrame({"x": 0, "y": [top - 8 for top in tops], "text": [r.heading for r in rows]}),
        weight="bold",
        size=13,
    )
    middles = [top + shown / 2 for top in tops]
    levels = _texts(
        pd.DataFrame({"x": 0, "y": middles, "text": [row.label for row in rows]}),
        limit=LABEL_WIDTH - 6,
    )
    pictures = [
        (picture, left, top)
        for row, top in zip(rows, tops, strict=True)
        for picture, left in zip(row.pictures, places, strict=True)
    ]
    chart = alt.layer(_images(pictures, shown), names, headings, levels)
    return render(
        "shifts",
        chart.properties(width=places[-1] + shown, height=bottom),
        alt.Title(
            "The same pictures in changing weather",
            subtitle="Columns: test images, named by their class. Rows: the levels of each shift.",
        ),
        f"Contact sheet: {count} test images ({', '.join(samples.labels)}), clean and at each "
        f"level of {', '.join(sweep.title for sweep in contents.sweeps)}.",
    )


def mixup_figure(samples: Samples) -> Figure | None:
    """Draw two training images and their MixUp, with the labels that each counts as."""
    if samples.mixup is None:
        return None
    pictures, (first, second), weight = samples.mixup
    shown = _shown_side(pictures[0].width, LARGE)
    step = shown + 44
    parts = (f"{weight:.2f} × {first}", f"+ {1 - weight:.2f} × {second}")
    captions = pd.DataFrame(
        [
            (shown / 2, shown + 16, first),
            (shown / 2 + step, shown + 16, second),
            *((shown / 2 + 2 * step, shown + 16 + LINE * line, parts[line]) for line in (0, 1)),
        ],
        columns=["x", "y", "text"],
    )
    signs = pd.DataFrame(
        {"x": [step - 22, 2 * step - 22], "y": [shown / 2, shown / 2], "text": ["+", "→"]}
    )
    placed = [(picture, index * step, 0) for index, picture in enumerate(pictures)]
    chart = alt.layer(
        _images(placed, shown),
        _texts(captions, align="center", limit=step - 4),
        _texts(signs, align="center", size=24, color=FAINT),
    )
    return render(
        "mixup",
        chart.properties(width=2 * step + shown, height=shown + 26 + LINE),
        alt.Title(
            "MixUp: a training image that is a bit of both",
            subtitle=f"Pixels and labels are mixed alike, here with weight {weight:.2f}.",
        ),
        f"MixUp example: a picture of class {first}, one of class {second}, and their mixture: "
        f"{' '.join(parts)}.",
    )


def _rows(contents: Contents, samples: Samples) -> Iterator[Row]:
    if CLEAN in samples.strips:
        yield Row("", "Clean", samples.strips[CLEAN])
    for sweep in contents.sweeps:
        heading = f"{sweep.title}: {sweep.level_title}"
        for level, cell in sweep.cells.items():
            if cell in samples.strips:
                yield Row(heading, sweep.heading(level), samples.strips[cell])
                heading = ""


def _shown_side(side: int, wanted: int) -> int:
    """Side on the page, at most the wanted one, at which the pixels of pixel art stay whole.

    >>> _shown_side(28, 168), _shown_side(28, 84), _shown_side(224, 84)
    (168, 84, 84)
    """
    return wanted if side > PIXEL_ART else wanted * PNG_SCALE // side * side // PNG_SCALE


def _images(pictures: Sequence[tuple[Image.Image, float, float]], shown: int) -> alt.Chart:
    """Place pictures by their left upper corners."""
    frame = pd.DataFrame(
        [(_data_uri(picture, shown), left, top) for picture, left, top in pictures],
        columns=["url", "x", "y"],
    )
    mark = alt.Chart(frame).mark_image(width=shown, height=shown, align="left", baseline="top")
    return mark.encode(x=_x(), y=_y(), url="url:N")


def _texts(
    frame: pd.DataFrame,
    *,
    align: Literal["left", "center"] = "left",
    size: int = 12,
    weight: Literal["normal", "bold"] = "normal",
    color: str = INK,
    limit: float = 0,
) -> alt.Chart:
    """Write texts at their places, cut off at `limit` pixels unless that is 0."""
    mark = alt.Chart(frame).mark_text(
        align=align, baseline="middle", fontSize=size, fontWeight=weight, color=color, limit=limit
    )
    return mark.encode(x=_x(), y=_y(), text="text:N")


def _x() -> alt.X:
    return alt.X("x:Q", scale=None, axis=None)


def _y() -> alt.Y:
    return alt.Y("y:Q", scale=None, axis=None)


def _data_uri(picture: Image.Image, shown: int) -> str:
    """Resize a picture to the dots of the PNG and inline it; pixel art keeps its hard edges."""
    dots = shown * PNG_SCALE
    pixel_art = picture.width <= PIXEL_ART
    resampling = Image.Resampling.NEAREST if pixel_art else Image.Resampling.LANCZOS
    buffer = io.BytesIO()
    picture.resize((dots, dots), resampling).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
