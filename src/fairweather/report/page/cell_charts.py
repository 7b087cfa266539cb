"""The charts of the page that show one model under one shift at one level, whichever is chosen.

Their data have a name, under which the page's script puts the numbers of the chosen cell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt

from fairweather.report.figures import either
from fairweather.report.page.cells import BARS, MOST_CLASSES, WORST_CLASSES
from fairweather.report.page.drawing import FAINT, INK, PAPER, ROWS, RULE, Chart, spec_of, tooltip

# Right and wrong, apart by lightness too.
RIGHT, WRONG = "var(--right)", "var(--wrong)"
# Where cividis begins: a pair of classes that is not among the rows has no image.
NOTHING = "#002051"
MOST_COUNTED = 12  # classes of a matrix whose cells have room for a count
SIDE = 230
FEW = 10  # images of a bin that says little
EXTENT = 40  # of vertical axes that stand above each other


def cell_charts(classes: Sequence[str], conditions: int) -> list[Chart]:
    """Build the charts of a cell; the confusion matrix only where it is small enough to be read.

    Args:
        classes: their names.
        conditions: rows of the chart of what is deferred: clean images, and one for each shift.
    """
    bars = min(len(classes), MOST_CLASSES if len(classes) <= MOST_CLASSES else WORST_CLASSES)
    charts = [
        _reliability(),
        _counts(),
        _confidence(),
        _risk_coverage(),
        _hand_over(conditions),
        _per_class(classes, bars),
    ]
    return [*charts, _confusion(classes)] if len(classes) <= MOST_CLASSES else charts


def _reliability() -> Chart:
    unit = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
    shares = alt.Axis(
        format=".0%", values=[0, 0.25, 0.5, 0.75, 1], minExtent=EXTENT, maxExtent=EXTENT
    )
    x = alt.X("confidence:Q", title=None, axis=axis, scale=unit)
    y = alt.Y("accuracy:Q", title="Accuracy", axis=shares, scale=unit)
    diagonal = (
        alt.Chart(alt.Data(values=[{"at": 0}, {"at": 1}]))
        .mark_line(color=RULE, strokeDash=[4, 3], strokeWidth=1.5)
        .encode(x=alt.X("at:Q", title=None, scale=unit), y=alt.Y("at:Q", title="Accuracy"))
    )
    base = alt.Chart(ROWS).encode(
        x=x,
        tooltip=tooltip(
            ("confidence_text", "Mean confidence"),
            ("accuracy_text", "Accuracy"),
            ("images", "Images"),
        ),
    )
    faint = either(alt.OpacityValue, f"datum.images < {FEW}", 0.2, 1)
    gap = base.mark_rule(strokeWidth=9).encode(
        y=y,
        y2=alt.Y2("confidence:Q"),
        color=either(alt.ColorValue, "datum.accuracy < datum.confidence", WRONG, RIGHT),
        opacity=either(alt.OpacityValue, f"datum.images < {FEW}", 0.12, 0.45),
    )
    bars = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        y=alt.Y("low:Q", title="Accuracy", scale=unit), y2=alt.Y2("high:Q"), opacity=faint
    )
    points = base.mark_point(filled=True, size=60, color=INK, stroke=PAPER).encode(
        y=y,
        opacity=faint,
    )
    chart = alt.layer(diagonal, gap, bars, points).properties(width="container", height=SIDE)
    return Chart(
        "reliability",
        "Reliability diagram: accuracy against confidence in 10 equal-width bins with 95 % "
        "intervals. On the diagonal, confidence equals accuracy.",
        spec_of(chart),
    )


def _counts() -> Chart:
    bars = (
        alt.Chart(ROWS)
        .mark_bar(color=FAINT)
        .encode(
            x=alt.X(
                "lower:Q",
                title="Confidence",
                axis=_confidence_axis(),
                scale=alt.Scale(domain=[0, 1]),
            ),
            x2=alt.X2("upper:Q"),
            y=alt.Y(
                "images:Q",
                title="Images",
                axis=alt.Axis(tickCount=3, tickMinStep=1, minExtent=EXTENT, maxExtent=EXTENT),
            ),
            y2=alt.Y2Datum(0),
            tooltip=tooltip(("bin", "Confidence"), ("images", "Images")),
        )
        .properties(width="container", height=70)
    )
    return Chart("counts", "Images in each bin of the reliability diagram.", spec_of(bars))


def _confidence() -> Chart:
    bars = (
        alt.Chart(ROWS)
        .mark_bar()
        .encode(
            x=alt.X(
                "lower:Q",
                title="Confidence",
                axis=_confidence_axis(),
                scale=alt.Scale(domain=[0, 1]),
            ),
            x2=alt.X2("upper:Q"),
            y=alt.Y(
                "from:Q",
                title="Images: right above, wrong below",
                axis=alt.Axis(
                    format=",d", tickMinStep=1, labelExpr="replace(datum.label, '−', '')"
                ),
            ),
            y2=alt.Y2("to:Q"),
            color=alt.Color(
                "answer:N",
                scale=alt.Scale(domain=["right", "wrong"], range=[RIGHT, WRONG]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=tooltip(("bin", "Confidence"), ("answer", "Answers"), ("images", "Images")),
        )
        .properties(width="container", height=SIDE + 70)
    )
    return Chart(
        "confidence",
        f"Histogram of the confidence in {BARS} bins, of right answers upwards and of wrong ones "
        "downwards.",
        spec_of(bars),
    )


def _risk_coverage() -> Chart:
    x = alt.X(
        "coverage:Q",
        title="Share answered, the most confident first",
        axis=alt.Axis(format=".0%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    wrong = "Share of the answers that is wrong"
    y = alt.Y(
        "risk:Q",
        title=wrong,
        axis=alt.Axis(format=".0%", tickCount=5, tickMinStep=0.01),
    )
    which = ["chosen images", "clean images"]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    color = alt.Color(
        "which:N",
        scale=alt.Scale(domain=which, range=[INK, FAINT]),
        legend=legend,
    )
    said = tooltip(("which", "Images"), ("coverage_text", "Coverage"), ("risk_text", "Risk"))
    band = (
        alt.Chart(ROWS)
        .mark_area(interpolate="step-before", opacity=0.16)
        .transform_filter("!datum.kept")
        .encode(x=x, y=alt.Y("low:Q", title=wrong), y2=alt.Y2("high:Q"), color=color)
    )
    line = (
        alt.Chart(ROWS)
        .mark_line(interpolate="step-before", strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=color,
            strokeDash=alt.StrokeDash(
                "which:N",
                scale=alt.Scale(domain=which, range=[[1, 0], [4, 3]]),
                legend=legend,
            ),
            tooltip=said,
        )
    )
    kept = (
        alt.Chart(ROWS)
        .mark_point(shape="diamond", filled=True, color=WRONG, stroke=PAPER, opacity=1)
        .encode(x=x, y=y, tooltip=said, size=either(alt.SizeValue, "datum.kept", 90, 0))
    )
    chart = alt.layer(band, line, kept).properties(width="container", height=SIDE + 45)
    return Chart(
        "risk-coverage",
        "Risk-coverage curve: the share of wrong answers among the most confident images, against "
        "the share that is answered, with its 95 % interval, on the chosen and on clean "
        "images.",
        spec_of(chart),
    )


def _hand_over(conditions: int) -> Chart:
    y = alt.Y(
        "place:N", sort=None, title=None, axis=alt.Axis(labelLimit=150, ticks=False, domain=False)
    )
    # A little beyond, so that marks at the ends are whole.
    scale = alt.Scale(domain=[-0.03, 1.05], nice=False)
    x = alt.X(
        "needed:Q",
        title="Share deferred to a person",
        axis=_confidence_axis(),
        scale=scale,
    )
    base = alt.Chart(ROWS).encode(
        y=y,
        tooltip=tooltip(
            ("place", "Images"),
            ("needed_text", "To keep the risk"),
            ("over_text", "Deferred at the threshold"),
            ("risk_text", "Wrong among the answers"),
        ),
    )
    bars = base.mark_bar(height=14, color=FAINT, opacity=0.55).encode(
        x=x,
    )
    ends = base.mark_rule(strokeWidth=2, color=INK).encode(
        x=alt.X("low:Q", title="Share deferred to a person", scale=scale), x2=alt.X2("high:Q")
    )
    kept = (
        base.transform_filter("isValid(datum.over)")
        .mark_point(shape="diamond", size=90, filled=True, color=WRONG, stroke=PAPER, opacity=1)
        .encode(x=alt.X("over:Q", title="Share deferred to a person", scale=scale))
    )
    chart = alt.layer(bars, ends, kept).properties(width="container", height=26 * conditions)
    return Chart(
        "hand-over",
        "For clean images and the worst level of each shift: the share of the images that must be "
        "deferred to a person to keep the chosen risk, with its 95 % interval, and the share that "
        "a threshold fitted on clean validation images defers. The table below has the numbers.",
        spec_of(chart),
    )


def _per_class(classes: Sequence[str], shown: int) -> Chart:
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
        x=alt.X("low:Q", title="Accuracy", scale=scale), x2=alt.X2("high:Q")
    )
    chart = alt.layer(bars, ends).properties(width="container", height=18 * shown)
    return Chart("classes", "Accuracy of each class with its 95 % interval.", spec_of(chart))


def _confusion(classes: Sequence[str]) -> Chart:
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
    dark = either(alt.ColorValue, "datum.share > 0.5", "#000000", "#ffffff")
    counts = base.mark_text(fontSize=10).encode(text=alt.Text("images:N"), color=dark)
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


def _confidence_axis() -> alt.Axis:
    return alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
