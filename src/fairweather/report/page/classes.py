"""The charts of what becomes of each class."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt

from fairweather.report.page.drawing import Chart, spec_of, tooltip
from fairweather.report.page.theme import INK, PAPER

# The page's script puts the numbers of the chosen cell under this name.
ROWS = alt.NamedData(name="rows")
# Right and wrong, apart by lightness too.
RIGHT, WRONG = "var(--right)", "var(--wrong)"
# Where cividis begins: a pair of classes that is not among the rows has no image.
NOTHING = "#002051"
MOST_COUNTED = 12  # classes of a matrix whose cells have room for a count


def per_class(classes: Sequence[str], shown: int) -> Chart:
    """Draw the accuracy of as many of these classes as are shown, one bar each."""
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False, labelExpr=_names(classes))
    y = alt.Y("at:O", sort=None, title=None, axis=axis)
    scale = alt.Scale(domain=[0, 1])
    told = tooltip(("name", "Class"), ("accuracy_text", "Accuracy"), ("images", "Images"))
    base = alt.Chart(ROWS).encode(y=y, tooltip=told)
    bars = base.mark_bar(height={"band": 0.7}, color=RIGHT, opacity=0.75).encode(
        x=alt.X(
            "accuracy:Q", title="Accuracy", axis=alt.Axis(format=".0%", tickCount=5), scale=scale
        )
    )
    ends = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        x=alt.X("low:Q", title="Accuracy", scale=scale), x2="high:Q"
    )
    chart = alt.layer(bars, ends).properties(width="container", height=18 * shown)
    return Chart("classes", "Accuracy of each class with its 95 % Wilson interval.", spec_of(chart))


def confusion(classes: Sequence[str]) -> Chart:
    """Draw the confusion matrix of classes of these names."""
    scale = alt.Scale(domain=list(range(len(classes))), padding=0)
    angle = 0 if max(map(len, classes)) <= 2 else -60
    axis = alt.Axis(labelLimit=90, ticks=False, domain=False, labelExpr=_names(classes))
    turned = axis.copy()
    turned.labelAngle = angle
    base = alt.Chart(ROWS).encode(
        x=alt.X("predicted_at:O", title="Predicted", axis=turned, scale=scale),
        y=alt.Y("label_at:O", title="Label", axis=axis, scale=scale),
        tooltip=tooltip(
            ("label", "Label"),
            ("predicted", "Predicted"),
            ("images", "Images"),
            ("share_text", "Of the label's images"),
        ),
    )
    legend = alt.Legend(
        title="Share of the label's images", format=".0%", orient="top", gradientLength=160
    )
    cells = base.mark_rect(stroke=PAPER, strokeWidth=1).encode(
        color=alt.Color("share:Q", scale=alt.Scale(scheme="cividis", domain=[0, 1]), legend=legend),
    )
    dark = alt.condition("datum.share > 0.5", alt.value("#000000"), alt.value("#ffffff"))
    counts = base.mark_text(fontSize=10).encode(text="images:N", color=dark)
    layers = [cells, counts] if len(classes) <= MOST_COUNTED else [cells]
    chart = alt.layer(*layers, view=alt.ViewBackground(fill=NOTHING)).properties(
        width="container", height=22 * len(classes)
    )
    return Chart(
        "confusion",
        "Confusion matrix: of the images of each label (rows), the share predicted as each class "
        "(columns).",
        spec_of(chart),
    )


def _names(classes: Sequence[str]) -> str:
    """Look a label up by the number of its class: two classes of one name stay two."""
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    names = json.dumps(list(classes)).replace(".", r"\u002e")
    return f"{names}[datum.value]"
