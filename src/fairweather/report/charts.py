"""How charts look, in files and on the page, and how a chart becomes SVG and PNG."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import altair as alt
import vl_convert

from fairweather.errors import InputError
from fairweather.report.contents import Contents, Sweep
from fairweather.report.vega import SCALE, draw_png, explain_missing_addresses
from fairweather.types.measurement import Score, format_number

# Okabe and Ito 2008, Color Universal Design; without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One fewer than colours, so that no pair of colour and shape comes twice among 42 models.
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
SOLID, DASHED = [1, 0], [5, 3]  # pixels drawn and not drawn
ROW_WIDTH = 800  # pixels, of a row of small panels
INK, FAINT, RULE, GRID, PAPER = "#1f2328", "#57606a", "#8c959f", "#e7eaee", "#ffffff"
# Liberation Sans is bundled with vl-convert, so that a PNG looks the same on every machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
PNG_SCALE = SCALE

# A chart in the JSON of Vega-Lite, whose form is Vega's own.
Spec = dict[str, Any]

_TEXT = {"labelFontSize": 11, "titleFontSize": 12, "labelColor": INK}
_AXIS = {
    **_TEXT,
    "titleFontWeight": "normal",
    "gridColor": GRID,
    "domainColor": RULE,
    "tickColor": RULE,
}
_LEGEND = {**_TEXT, "titleFontWeight": "normal", "symbolOpacity": 1}
FIGURE_CONFIG: Spec = {
    "font": FONT,
    "view": {"stroke": None},
    "aria": False,  # the page gives each figure one alternative text
    "background": "white",
    "padding": 16,
    "axis": {**_AXIS, "titleColor": INK, "titlePadding": 8, "labelFlush": False},
    "legend": {
        **_LEGEND,
        "titleColor": INK,
        "labelFontSize": 12,
        "labelLimit": 360,
        "symbolSize": 80,
        "rowPadding": 4,
        "columnPadding": 36,  # a browser's fallback font may be wider than the one measured
    },
    "header": {**_TEXT, "title": None, "labelFontSize": 13, "labelFontWeight": "bold"},
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": 17,
        "subtitleFontSize": 12,
        "subtitleColor": FAINT,
        "subtitlePadding": 5,
        "subtitleLineHeight": 16,
        "offset": 18,
    },
}
# Around a figure whose outermost parts are texts, which a browser may draw wider than measured.
SLACK = {"left": 60, "right": 90, "top": 16, "bottom": 16}
# The shapes as letters, filled for models and hollow for their variants.
GLYPHS, HOLLOW = "●■▲◆▼✚", "○□△◇▽✛"


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    Attributes:
        name: of its files, without the suffix.
        alt: what somebody who does not see it must know.
    """

    name: str
    alt: str
    svg: str

    @cached_property
    def png(self) -> bytes:
        """Made from the SVG, so that the two cannot differ."""
        return draw_png(self.svg)


def render_figure(
    name: str,
    chart: alt.TopLevelMixin | Spec,
    title: str,
    subtitle: Sequence[str],
    alt_text: str,
    letters: int = 200,
) -> Figure:
    """Dress a chart and convert it; a line of the subtitle has so many letters at most."""
    if lack := explain_missing_addresses():
        raise InputError(lack)
    lines = [
        line for text in subtitle for line in textwrap.wrap(text, letters, break_on_hyphens=False)
    ]
    drawn = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    spec = drawn | {"config": FIGURE_CONFIG, "title": {"text": title, "subtitle": lines}}
    return Figure(name, alt_text, _renumber_ids(vl_convert.vegalite_to_svg(spec)))


def _renumber_ids(svg: str) -> str:
    """Number clip paths and gradients from 0: Vega counts them through the life of the process."""
    numbers: dict[str, str] = {}
    return re.sub(
        r'(id="|url\(#)(clip|gradient_)(\d+)',
        lambda match: (
            match[1] + match[2] + numbers.setdefault(match[2] + match[3], str(len(numbers)))
        ),
        svg,
    )


def color_models(
    titles: Collection[str], positions: Sequence[int] = (), legend: alt.Legend | None = None
) -> alt.Color:
    """Colour by the field `title`: a model has the same colour in every chart.

    With `positions`, titles that share a position share a colour; without, each has its own.
    """
    return alt.Color("title:N", scale=_make_scale(titles, COLORS, positions), legend=legend)


def shape_models(
    titles: Collection[str], positions: Sequence[int] = (), legend: alt.Legend | None = None
) -> alt.Shape:
    """Shape by the field `title`, for those who cannot distinguish the colours."""
    return alt.Shape("title:N", scale=_make_scale(titles, SHAPES, positions), legend=legend)


def dash_models(
    titles: Collection[str], positions: Sequence[int], legend: alt.Legend | None = None
) -> alt.StrokeDash:
    """Dash the lines of those titles that share a position with one before them."""
    dashes = [
        DASHED if position in positions[:at] else SOLID for at, position in enumerate(positions)
    ]
    scale = alt.Scale(domain=list(titles), range=dashes)
    return alt.StrokeDash("title:N", scale=scale, legend=legend)


def make_level_axis(sweep: Sweep, levels: Iterable[float]) -> Spec:
    """Say what Vega-Lite's axis of a shift shows: its levels, those of attacks as n/255."""
    axis: Spec = {"values": sorted({*levels})}
    if sweep.is_attack:
        texts = {format_number(float(level)): sweep.number(level) for level in sweep.cells}
        axis["labelExpr"] = f"{json.dumps(texts)}[datum.value] || datum.label"
    return axis


def _make_scale(
    titles: Collection[str], values: Sequence[str], positions: Sequence[int]
) -> alt.Scale:
    cycled = [values[at % len(values)] for at in positions or range(len(titles))]
    return alt.Scale(domain=list(titles), range=cycled)


class Look(NamedTuple):
    """How a model looks: the number of its colour, its letter, and whether it is a variant."""

    color: int
    glyph: str
    variant: bool


def choose_looks(positions: Sequence[int]) -> list[Look]:
    """Give each model its look, by its position among the models; a variant has its model's.

    >>> [(look.color, look.glyph) for look in choose_looks([0, 0, 1])]
    [(0, '●'), (0, '○'), (1, '■')]
    """
    return [
        Look(
            position % len(COLORS),
            (HOLLOW if position in positions[:at] else GLYPHS)[position % len(GLYPHS)],
            position in positions[:at],
        )
        for at, position in enumerate(positions)
    ]


def paint_models(
    contents: Contents, legend: alt.Legend | None = None
) -> dict[str, alt.Fill | alt.Stroke]:
    """Fill points by the field `title`, those of variants hollow, as in the page's legend."""
    titles, positions = contents.titles.values(), contents.positions
    looks = choose_looks(positions)
    fills = [PAPER if look.variant else COLORS[look.color] for look in looks]
    fill = alt.Scale(domain=list(titles), range=fills)
    stroke = _make_scale(titles, COLORS, positions)
    return {
        "fill": alt.Fill("title:N", scale=fill, legend=legend),
        "stroke": alt.Stroke("title:N", scale=stroke, legend=legend),
    }


def order_drawing(contents: Contents) -> list[str]:
    """The titles of the models in the order of drawing: a variant, often alike, under its model."""
    looked = zip(contents.titles.values(), choose_looks(contents.positions), strict=True)
    return [title for title, _ in sorted(looked, key=lambda pair: not pair[1].variant)]


def look_up(values: Sequence[object]) -> str:
    """Label an axis by the number of each value, so that two of one name stay two."""
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    return json.dumps(list(values)).replace(".", r"\u002e") + "[datum.value]"


def round_score(score: Score) -> list[float | None]:
    """Value and interval as a chart draws them; None for what is no number."""
    return [None if math.isnan(number) else round(number, 10) for number in score[:3]]
