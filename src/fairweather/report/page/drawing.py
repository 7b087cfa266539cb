"""How the charts of the page look, and what they have in common.

Colours are names that the style sheet gives a value by theme.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt
import pandas as pd
from pydantic import JsonValue

from fairweather.report import figures
from fairweather.report.contents import Contents
from fairweather.report.figures import COLORS, FONT, Spec
from fairweather.report.tables import Entry, is_percent
from fairweather.types import Score

INK, FAINT, RULE, GRID, PAPER, CARD = (
    f"var(--{name})" for name in ("ink", "faint", "rule", "grid", "paper", "card")
)

_TEXT = {"labelFontSize": 11, "titleFontSize": 12, "labelColor": INK, "titleColor": FAINT}
CONFIG: Spec = {
    "background": None,
    "padding": 2,
    "font": FONT,
    # The page gives each chart one alternative text.
    "aria": False,
    "mark": {"aria": False},
    "view": {"stroke": None},
    "text": {"color": INK},
    "axis": {
        **_TEXT,
        "titleFontWeight": "normal",
        "gridColor": GRID,
        "domainColor": RULE,
        "tickColor": RULE,
    },
    "legend": {
        **_TEXT,
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
LOUD = "focus === '' || datum.title === focus"


class Look(NamedTuple):
    """How a model looks: the number of its colour, its letter, and whether it is a variant."""

    color: int
    glyph: str
    variant: bool


def looks(positions: Sequence[int]) -> list[Look]:
    """Give each model its look, by its position among the models; a variant has its model's.

    >>> [(look.color, look.glyph) for look in looks([0, 0, 1])]
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


def in_words(metric: str, score: Score) -> str:
    """Write a number with its interval, as a tooltip shows it."""
    return Entry(score, is_percent(metric)).in_words


def model_color(contents: Contents) -> alt.Color:
    """Colour by the field `title`; the page has one legend, as buttons, for all charts."""
    colors = [f"var(--m{look.color})" for look in looks(contents.positions)]
    scale = alt.Scale(domain=list(contents.titles.values()), range=colors)
    return alt.Color("title:N", scale=scale, legend=None)


def model_paint(contents: Contents) -> dict[str, alt.Fill | alt.Stroke]:
    """Fill points by the field `title`, those of variants hollow, as in the page's legend."""
    names = list(contents.titles.values())
    each = looks(contents.positions)
    strokes = [f"var(--m{look.color})" for look in each]
    fills = [PAPER if look.variant else f"var(--m{look.color})" for look in each]
    return {
        "fill": alt.Fill("title:N", scale=alt.Scale(domain=names, range=fills), legend=None),
        "stroke": alt.Stroke("title:N", scale=alt.Scale(domain=names, range=strokes), legend=None),
    }


def model_shape(contents: Contents) -> alt.Shape:
    """Shape by the field `title`, for those who cannot distinguish the colours."""
    return figures.model_shape(list(contents.titles.values()), None, contents.positions)


def drawn_order(contents: Contents) -> list[str]:
    """The titles of the models in the order of drawing: a variant, often alike, under its model."""
    looked = zip(contents.titles.values(), looks(contents.positions), strict=True)
    return [title for title, _ in sorted(looked, key=lambda pair: not pair[1].variant)]


def tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """Name the fields that a tooltip shows, as they stand."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]


def records(frame: pd.DataFrame) -> list[dict[str, JsonValue]]:
    """Turn a frame into plain rows; what is no number becomes None."""
    found: list[dict[str, JsonValue]] = json.loads(
        frame.to_json(orient="records", double_precision=10)
    )
    return found


def spec_of(chart: alt.TopLevelMixin) -> Spec:
    """Turn a chart into Vega-Lite; its look is the page's, not the chart's."""
    spec = chart.to_dict(validate=False)
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return spec | {"autosize": {"type": "fit-x", "contains": "padding"}}
