"""How every figure looks, and how a chart becomes SVG and PNG."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import altair as alt
import vl_convert

from fairweather.errors import InputError
from fairweather.report.sweeps import Sweep
from fairweather.types import shortest
from fairweather.vega import SCALE, lacks_addresses, png_of

# Okabe and Ito 2008, Color Universal Design; without its yellow, which is too faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One fewer than colours, so that no pair of colour and shape comes twice among 42 models.
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
WHOLE, DASHED = [1, 0], [5, 3]  # pixels drawn and not drawn
ROW_WIDTH = 800  # pixels, of a row of small panels
INK, FAINT, RULE, GRID = "#1f2328", "#57606a", "#8c959f", "#e7eaee"
# What a file has for the names of the page's style sheet.
INKS = {
    f"var(--{name})": ink
    for name, ink in (
        *(("ink", INK), ("faint", FAINT), ("rule", RULE), ("grid", GRID), ("paper", "#ffffff")),
        *((f"m{at}", color) for at, color in enumerate(COLORS)),
    )
}
# Liberation Sans is bundled with vl-convert, so that a PNG looks the same on every machine.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
PNG_SCALE = SCALE

Channel = TypeVar("Channel", alt.ColorValue, alt.OpacityValue, alt.SizeValue)
# A chart in the JSON of Vega-Lite, whose form is Vega's own.
Spec = dict[str, Any]

_TEXT = {"labelFontSize": 11, "titleFontSize": 12, "labelColor": INK, "titleColor": INK}
CONFIG: Spec = {
    "background": "white",
    "padding": 16,
    "font": FONT,
    "aria": False,  # the page gives each figure one alternative text
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelFlush": False,
        "gridColor": GRID,
        "domainColor": RULE,
        "tickColor": RULE,
    },
    "legend": {
        **_TEXT,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "labelLimit": 360,
        "symbolSize": 80,
        "symbolOpacity": 1,
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
        return png_of(self.svg)


def render(name: str, chart: alt.TopLevelMixin | Spec, title: alt.Title, alt_text: str) -> Figure:
    """Dress a chart and convert it."""
    if lack := lacks_addresses():
        raise InputError(lack)
    drawn = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    spec = drawn | {"config": CONFIG, "title": title.to_dict()}
    spec["params"] = [{"name": "focus", "value": ""}]  # of charts of the page: all stand out
    return Figure(name, alt_text, _numbered(vl_convert.vegalite_to_svg(spec)))


def printed(spec: Spec, field: str, legend: alt.Legend, **panel: object) -> Spec:
    """Turn a chart of the page into a panel of a figure, with its own data, colours and legend.

    Args:
        spec: of the chart.
        field: what the legend is of.
        legend: of this field.
        panel: width, height and title.
    """
    kept = ("data", "layer", "mark", "encoding")
    found: Spec = {key: _inked(spec[key]) for key in kept if key in spec}
    for layer in found.get("layer", [found]):
        if "name" in layer.get("data", {}):
            layer["data"] = {"values": spec["datasets"][layer["data"]["name"]]}
        for channel in layer["encoding"].values():
            if isinstance(channel, dict) and channel.get("field") == field and "legend" in channel:
                channel["legend"] = legend.to_dict()
    return found | panel


def _inked(part: Any) -> Any:  # noqa: ANN401 - any part of a specification
    """Copy a part of a specification, with colours for the names of the style sheet."""
    match part:
        case dict():
            return {key: _inked(each) for key, each in part.items()}
        case list():
            return [_inked(each) for each in part]
        case str():
            return INKS.get(part, part)
    return part


def _numbered(svg: str) -> str:
    """Number clip paths and gradients from 0: Vega counts them through the life of the process."""
    numbers: dict[str, str] = {}
    return re.sub(
        r'(id="|url\(#)(clip|gradient_)(\d+)',
        lambda found: (
            found[1] + found[2] + numbers.setdefault(found[2] + found[3], str(len(numbers)))
        ),
        svg,
    )


def either(channel: type[Channel], test: str, yes: float | str, no: float | str) -> Channel:
    """Encode a value where the test holds, and another one elsewhere.

    As all channels here, it is an object: of a text, or of `alt.condition`, Altair makes one too,
    but looks its class up in a table of its whole schema, which it builds anew each time.
    """
    return channel(no, condition={"test": test, "value": yes})


def model_color(
    titles: Sequence[str], legend: alt.Legend | None = None, positions: Sequence[int] | None = None
) -> alt.Color:
    """Colour by the field `title`: a model has the same colour in every figure.

    With `positions`, titles that share a position share a colour; without, each has its own.
    """
    return alt.Color("title:N", scale=_scale(titles, COLORS, positions), legend=legend)


def model_shape(
    titles: Sequence[str], legend: alt.Legend | None = None, positions: Sequence[int] | None = None
) -> alt.Shape:
    """Shape by the field `title`, for those who cannot distinguish the colours."""
    return alt.Shape("title:N", scale=_scale(titles, SHAPES, positions), legend=legend)


def model_dash(titles: Sequence[str], positions: Sequence[int]) -> alt.StrokeDash:
    """Dash the lines of those titles that share a position with one before them."""
    dashes = [WHOLE if each not in positions[:at] else DASHED for at, each in enumerate(positions)]
    scale = alt.Scale(domain=list(titles), range=dashes)
    return alt.StrokeDash("title:N", scale=scale, legend=None)


def level_axis(sweep: Sweep, levels: Iterable[float]) -> Spec:
    """Say what Vega-Lite's axis of a shift shows: its levels, those of attacks as n/255."""
    axis: Spec = {"values": sorted({*levels})}
    if sweep.is_attack:
        texts = {shortest(float(level)): sweep.number(level) for level in sweep.cells}
        axis["labelExpr"] = f"{json.dumps(texts)}[datum.value] || datum.label"
    return axis


def _scale(
    titles: Sequence[str], values: Sequence[str], positions: Sequence[int] | None
) -> alt.Scale:
    cycled = [values[each % len(values)] for each in positions or range(len(titles))]
    return alt.Scale(domain=list(titles), range=cycled)
