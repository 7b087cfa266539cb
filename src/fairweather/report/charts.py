"""How charts look, in files and on the page, and how a chart becomes SVG and PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import altair as alt
import pandas as pd
import vl_convert
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.report import charts as figures
from fairweather.report.contents import Contents, Sweep
from fairweather.report.tables import ScoreEntry, is_percent
from fairweather.report.vega import SCALE, draw_png, explain_missing_addresses
from fairweather.types.measurement import Score, format_number

# ---------------------------------------------------------------- how every figure looks, and how a

# Okabe and Ito 2008, Color Universal Design; without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One fewer than colours, so that no pair of colour and shape comes twice among 42 models.
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
SOLID, DASHED = [1, 0], [5, 3]  # pixels drawn and not drawn
ROW_WIDTH = 800  # pixels, of a row of small panels
PRINTED_INK, PRINTED_FAINT, PRINTED_RULE, PRINTED_GRID = "#1f2328", "#57606a", "#8c959f", "#e7eaee"
# What a file has for the names of the page's style sheet.
PRINTED_COLORS = {
    f"var(--{name})": ink
    for name, ink in (
        *(
            ("ink", PRINTED_INK),
            ("faint", PRINTED_FAINT),
            ("rule", PRINTED_RULE),
            ("grid", PRINTED_GRID),
            ("paper", "#ffffff"),
        ),
        *((f"m{at}", color) for at, color in enumerate(COLORS)),
    )
}
# Liberation Sans is bundled with vl-convert, so that a PNG looks the same on every machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
PNG_SCALE = SCALE

Channel = TypeVar("Channel", alt.ColorValue, alt.OpacityValue, alt.SizeValue)
# A chart in the JSON of Vega-Lite, whose form is Vega's own.
Spec = dict[str, Any]

_FIGURE_TEXT = {
    "labelFontSize": 11,
    "titleFontSize": 12,
    "labelColor": PRINTED_INK,
    "titleColor": PRINTED_INK,
}
FIGURE_CONFIG: Spec = {
    "background": "white",
    "padding": 16,
    "font": FONT,
    "aria": False,  # the page gives each figure one alternative text
    "view": {"stroke": None},
    "axis": {
        **_FIGURE_TEXT,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelFlush": False,
        "gridColor": PRINTED_GRID,
        "domainColor": PRINTED_RULE,
        "tickColor": PRINTED_RULE,
    },
    "legend": {
        **_FIGURE_TEXT,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "labelLimit": 360,
        "symbolSize": 80,
        "symbolOpacity": 1,
        "rowPadding": 4,
        "columnPadding": 36,  # a browser's fallback font may be wider than the one measured
    },
    "header": {**_FIGURE_TEXT, "title": None, "labelFontSize": 13, "labelFontWeight": "bold"},
    "title": {
        "anchor": "start",
        "color": PRINTED_INK,
        "fontSize": 17,
        "subtitleFontSize": 12,
        "subtitleColor": PRINTED_FAINT,
        "subtitlePadding": 5,
        "subtitleLineHeight": 16,
        "offset": 18,
    },
}


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
    name: str, chart: alt.TopLevelMixin | Spec, title: alt.Title, alt_text: str
) -> Figure:
    """Dress a chart and convert it."""
    if lack := explain_missing_addresses():
        raise InputError(lack)
    drawn = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    spec = drawn | {"config": FIGURE_CONFIG, "title": title.to_dict()}
    spec["params"] = [{"name": "focus", "value": ""}]  # of charts of the page: all stand out
    return Figure(name, alt_text, _renumber_ids(vl_convert.vegalite_to_svg(spec)))


def print_chart(spec: Spec, field: str, legend: alt.Legend, **panel: object) -> Spec:
    """Turn a chart of the page into a panel of a figure, with its own data, colours and legend.

    Args:
        spec: of the chart.
        field: what the legend is of.
        legend: of this field.
        panel: width, height and title.
    """
    kept = ("data", "layer", "mark", "encoding")
    found: Spec = {key: _print_colors(spec[key]) for key in kept if key in spec}
    for layer in found.get("layer", [found]):
        if "name" in layer.get("data", {}):
            layer["data"] = {"values": spec["datasets"][layer["data"]["name"]]}
        for channel in layer["encoding"].values():
            if isinstance(channel, dict) and channel.get("field") == field and "legend" in channel:
                channel["legend"] = legend.to_dict()
    return found | panel


def _print_colors(part: Any) -> Any:  # noqa: ANN401 - any part of a specification
    """Copy a part of a specification, with colours for the names of the style sheet."""
    match part:
        case dict():
            return {key: _print_colors(each) for key, each in part.items()}
        case list():
            return [_print_colors(each) for each in part]
        case str():
            return PRINTED_COLORS.get(part, part)
    return part


def _renumber_ids(svg: str) -> str:
    """Number clip paths and gradients from 0: Vega counts them through the life of the process."""
    numbers: dict[str, str] = {}
    return re.sub(
        r'(id="|url\(#)(clip|gradient_)(\d+)',
        lambda found: (
            found[1] + found[2] + numbers.setdefault(found[2] + found[3], str(len(numbers)))
        ),
        svg,
    )


def choose_value(channel: type[Channel], test: str, yes: float | str, no: float | str) -> Channel:
    """Encode a value where the test holds, and another one elsewhere.

    As all channels here, it is an object: of a text, or of `alt.condition`, Altair makes one too,
    but looks its class up in a table of its whole schema, which it builds anew each time.
    """
    return channel(no, condition={"test": test, "value": yes})


def color_figure(
    titles: Sequence[str], legend: alt.Legend | None = None, positions: Sequence[int] | None = None
) -> alt.Color:
    """Colour by the field `title`: a model has the same colour in every figure.

    With `positions`, titles that share a position share a colour; without, each has its own.
    """
    return alt.Color("title:N", scale=_make_scale(titles, COLORS, positions), legend=legend)


def shape_figure(
    titles: Sequence[str], legend: alt.Legend | None = None, positions: Sequence[int] | None = None
) -> alt.Shape:
    """Shape by the field `title`, for those who cannot distinguish the colours."""
    return alt.Shape("title:N", scale=_make_scale(titles, SHAPES, positions), legend=legend)


def dash_models(titles: Sequence[str], positions: Sequence[int]) -> alt.StrokeDash:
    """Dash the lines of those titles that share a position with one before them."""
    dashes = [SOLID if each not in positions[:at] else DASHED for at, each in enumerate(positions)]
    scale = alt.Scale(domain=list(titles), range=dashes)
    return alt.StrokeDash("title:N", scale=scale, legend=None)


def make_level_axis(sweep: Sweep, levels: Iterable[float]) -> Spec:
    """Say what Vega-Lite's axis of a shift shows: its levels, those of attacks as n/255."""
    axis: Spec = {"values": sorted({*levels})}
    if sweep.is_attack:
        texts = {format_number(float(level)): sweep.number(level) for level in sweep.cells}
        axis["labelExpr"] = f"{json.dumps(texts)}[datum.value] || datum.label"
    return axis


def _make_scale(
    titles: Sequence[str], values: Sequence[str], positions: Sequence[int] | None
) -> alt.Scale:
    cycled = [values[each % len(values)] for each in positions or range(len(titles))]
    return alt.Scale(domain=list(titles), range=cycled)


# ---------------------------------------------------------------- how the charts of the page look,

INK, FAINT, RULE, GRID, PAPER, CARD = (
    f"var(--{name})" for name in ("ink", "faint", "rule", "grid", "paper", "card")
)

_PAGE_TEXT = {"labelFontSize": 11, "titleFontSize": 12, "labelColor": INK, "titleColor": FAINT}
PAGE_CONFIG: Spec = {
    "background": None,
    "padding": 2,
    "font": FONT,
    # The page gives each chart one alternative text.
    "aria": False,
    "mark": {"aria": False},
    "view": {"stroke": None},
    "text": {"color": INK},
    "axis": {
        **_PAGE_TEXT,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": RULE,
        "tickColor": RULE,
    },
    "legend": {
        **_PAGE_TEXT,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "symbolOpacity": 1,
        "symbolStrokeColor": INK,
    },
}
# The shapes of figures.SHAPES as letters, filled for models and hollow for their variants.
GLYPHS, HOLLOW = "●■▲◆▼✚", "○□△◇▽✛"
# A model stands out, and the others are faint, while the pointer or a button asks for it.
FOCUS = alt.Parameter(name="focus", param=alt.VariableParameter("focus", value=""))
# The numbers of a chart: put in when it is built, or by the page's script for a chosen cell.
ROWS = alt.NamedData(name="rows")
IN_FOCUS = "focus === '' || datum.title === focus"


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
            each % len(COLORS),
            (HOLLOW if each in positions[:at] else GLYPHS)[each % len(GLYPHS)],
            each in positions[:at],
        )
        for at, each in enumerate(positions)
    ]


def describe_score(metric: str, score: Score) -> str:
    """Write a number with its interval, as a tooltip shows it."""
    return ScoreEntry(score, is_percent(metric)).in_words


def color_models(contents: Contents) -> alt.Color:
    """Colour by the field `title`; the page has one legend, as buttons, for all charts."""
    colors = [f"var(--m{look.color})" for look in choose_looks(contents.positions)]
    scale = alt.Scale(domain=list(contents.titles.values()), range=colors)
    return alt.Color("title:N", scale=scale, legend=None)


def paint_models(contents: Contents) -> dict[str, alt.Fill | alt.Stroke]:
    """Fill points by the field `title`, those of variants hollow, as in the page's legend."""
    names = list(contents.titles.values())
    each = choose_looks(contents.positions)
    strokes = [f"var(--m{look.color})" for look in each]
    fills = [PAPER if look.variant else f"var(--m{look.color})" for look in each]
    return {
        "fill": alt.Fill("title:N", scale=alt.Scale(domain=names, range=fills), legend=None),
        "stroke": alt.Stroke("title:N", scale=alt.Scale(domain=names, range=strokes), legend=None),
    }


def shape_models(contents: Contents) -> alt.Shape:
    """Shape by the field `title`, for those who cannot distinguish the colours."""
    return figures.shape_figure(list(contents.titles.values()), None, contents.positions)


def order_drawing(contents: Contents) -> list[str]:
    """The titles of the models in the order of drawing: a variant, often alike, under its model."""
    looked = zip(contents.titles.values(), choose_looks(contents.positions), strict=True)
    return [title for title, _ in sorted(looked, key=lambda pair: not pair[1].variant)]


def make_tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """Name the fields that a tooltip shows, as they stand."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]


def make_records(frame: pd.DataFrame) -> list[dict[str, JsonValue]]:
    """Turn a frame into plain rows; what is no number becomes None."""
    found: list[dict[str, JsonValue]] = json.loads(
        frame.to_json(orient="records", double_precision=10)
    )
    return found


def make_spec(chart: alt.TopLevelMixin) -> Spec:
    """Turn a chart into Vega-Lite; its look is the page's, not the chart's."""
    spec = chart.to_dict(validate=False)
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}}
