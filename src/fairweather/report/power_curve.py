"""The chart of a plan: power by the number of images."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fairweather.report.charts import COLORS, DASHED, FAINT, render_figure


def draw_power(table: pd.DataFrame, claim: str, target: float, counts: str) -> str:
    """Draw power against images, with a line at the power that is wanted, as SVG."""
    title = "Images" if counts == "images" else f"Images (some of them {counts})"
    x = alt.X("images:Q", title=title, scale=alt.Scale(zero=False))
    y = alt.Y("power:Q", title="Power", scale=alt.Scale(domain=[0, 1])).axis(format="%")
    curve = alt.Chart(table[["images", "power"]]).encode(x=x, y=y)
    wanted = alt.Chart(pd.DataFrame({"power": [target]})).encode(y="power:Q")
    chart = alt.layer(
        wanted.mark_rule(color=FAINT, strokeDash=DASHED),
        curve.mark_line(color=COLORS[0]),
        curve.mark_point(color=COLORS[0], filled=True, size=60),
    ).properties(width=480, height=280)
    subtitle = [f"The dashed line is the power that is wanted: {100 * target:.4g} %."]
    figure = render_figure(
        "power", chart, f"How often a test shows '{claim}'", subtitle, "Power by size.", 90
    )
    return figure.svg
