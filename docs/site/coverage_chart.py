"""The chart of docs/trust.md, from benchmarks/every_metric.csv.

python docs/site/coverage_chart.py    # a second; writes docs/coverage.svg
"""

from __future__ import annotations

from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert

DOCS = Path(__file__).parents[1]
MEASURED = DOCS.parent / "benchmarks" / "every_metric.csv"
IMAGES = "test images"


def coverage_of(measured: pd.DataFrame) -> pd.DataFrame:
    """The share of intervals that contain the truth, in %, by metric and number of test images.

    Each population has as many draws; a draw without an interval counts in neither share.
    """
    given = 1 - measured["none"]
    outside = measured["below"] + measured["above"]
    totals = measured.assign(given=given, outside=outside).groupby(["metric", "n"], sort=False)
    sums = totals[["given", "outside"]].sum().query("given > 0").reset_index()
    return sums.assign(coverage=100 * (1 - sums["outside"] / sums["given"]))


def draw(coverage: pd.DataFrame) -> str:
    """An SVG with a row for each metric, that with the lowest coverage first."""
    order = coverage.groupby("metric")["coverage"].min().sort_values().index.tolist()
    shown = coverage.assign(**{IMAGES: coverage["n"].map("{:,}".format)})
    sizes = [f"{n:,}" for n in sorted(coverage["n"].unique())]
    points = (
        alt.Chart(shown)
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            alt.X("coverage", title="intervals that contain the truth (%)").scale(zero=False),
            alt.Y("metric", title=None, sort=order).axis(grid=True, labelLimit=300),
            alt.Color(IMAGES, sort=sizes).scale(
                domain=sizes, range=["#d55e00", "#0072b2", "#555555"]
            ),
            alt.Shape(IMAGES, sort=sizes).scale(
                domain=sizes, range=["triangle-up", "circle", "square"]
            ),
        )
    )
    due = (
        alt.Chart(pd.DataFrame({"coverage": [95]}))
        .mark_rule(strokeDash=[4, 3])
        .encode(x="coverage")
    )
    chart = (
        (due + points)
        .properties(width=420, height=alt.Step(14))
        .configure(background="white", padding={"left": 60, "right": 30, "top": 5, "bottom": 5})
    )
    return vl_convert.vegalite_to_svg(chart.to_dict())


if __name__ == "__main__":
    (DOCS / "coverage.svg").write_text(draw(coverage_of(pd.read_csv(MEASURED))), encoding="utf-8")
