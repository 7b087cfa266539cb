"""How charts look on the page: colours are names that the style sheet gives a value by theme."""

from __future__ import annotations

from typing import Any

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


def model_colors(models: int) -> list[str]:
    """Name the colour of each model, the same in every chart.

    >>> model_colors(2)
    ['var(--m0)', 'var(--m1)']
    """
    return [f"var(--m{index % len(COLORS)})" for index in range(models)]
