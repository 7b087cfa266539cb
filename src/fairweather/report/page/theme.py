"""How charts look on the page: colours are names that the style sheet gives a value by theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fairweather.report.figures import COLORS, FONT

INK, FAINT, RULE, GRID, PAPER, CARD = (
    f"var(--{name})" for name in ("ink", "faint", "rule", "grid", "paper", "card")
)

_TEXT = {"labelFontSize": 11, "titleFontSize": 12, "labelColor": INK, "titleColor": FAINT}
CONFIG: dict[str, Any] = {
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


class Look(NamedTuple):
    """How a model looks: the number of its colour, its letter, and whether it is a variant."""

    color: int
    glyph: str
    variant: bool


def looks(places: Sequence[int]) -> list[Look]:
    """Give each model its look, by its place among the models; a variant has that of its model.

    >>> [(look.color, look.glyph) for look in looks([0, 0, 1])]
    [(0, '●'), (0, '○'), (1, '■')]
    """
    return [
        Look(
            place % len(COLORS),
            (HOLLOW if place in places[:at] else GLYPHS)[place % len(GLYPHS)],
            place in places[:at],
        )
        for at, place in enumerate(places)
    ]
