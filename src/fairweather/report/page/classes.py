"""The charts of what becomes of each class."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt

from fairweather.report.page.drawing import Chart, spec_of, tooltip
from fairweather.report.page.theme import CARD, INK, PAPER

# The page's script puts the numbers of the chosen cell under this name.
ROWS = alt.NamedData(name="rows")
# Right and wrong, apart by lightness too.
RIGHT, WRONG = "var(--right)", "var(--wrong)"


def per_class(classes: int) -> Chart:
    """Draw the accuracy of so many classes, one bar each."""
    y = alt.Y(
        "name:N", sort=None, title=None, axis=alt.Axis(labelLimit=130, ticks=False, domain=False)
    )
    scale = alt.Scale(domain=[0, 1])
    base = alt.Chart(ROWS).encode(y=y)
    bars = base.mark_bar(height={"band": 0.7}, color=RIGHT, opacity=0.75).encode(
        x=alt.X(
            "accuracy:Q", title="Accuracy", axis=alt.Axis(format=".0%", tickCount=5), scale=scale
        ),
        tooltip=tooltip(("name", "Class"), ("accuracy_text", "Accuracy"), ("images", "Images")),
    )
    ends = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        x=alt.X("low:Q", title="Accuracy", scale=scale), x2="high:Q"
    )
    chart = alt.layer(bars, ends).properties(width="container", height=18 * classes)
    return Chart("classes", "Accuracy of each class with its 95 % Wilson interval.", spec_of(chart))


def confusion(classes: Sequence[str]) -> Chart:
    """Draw the confusion matrix of classes of these names."""
    # Two classes of one name would otherwise be one row.
    scale = alt.Scale(domain=list(range(len(classes))), padding=0)
    names = json.dumps(list(classes)).replace(".", r"\u002e")  # see reliability.py
    angle = 0 if max(map(len, classes)) <= 2 else -60
    axis = alt.Axis(labelLimit=90, ticks=False, domain=False, labelExpr=f"{names}[datum.value]")
    turned = axis.copy()
    turned.labelAngle = angle
    cells = (
        alt.Chart(ROWS, view=alt.ViewBackground(fill=CARD))
        .mark_rect(stroke=PAPER, strokeWidth=1)
        .encode(
            x=alt.X("predicted_at:O", title="Predicted", axis=turned, scale=scale),
            y=alt.Y("label_at:O", title="Label", axis=axis, scale=scale),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(scheme="cividis", domain=[0, 1]),
                legend=alt.Legend(
                    title="Share of the label's images",
                    format=".0%",
                    orient="top",
                    gradientLength=160,
                ),
            ),
            tooltip=tooltip(
                ("label", "Label"),
                ("predicted", "Predicted"),
                ("images", "Images"),
                ("share_text", "Of the label's images"),
            ),
        )
        .properties(width="container", height=22 * len(classes))
    )
    return Chart(
        "confusion",
        "Confusion matrix: of the images of each label (rows), the share predicted as each class "
        "(columns).",
        spec_of(cells),
    )
