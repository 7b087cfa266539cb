"""The charts of the page that show one model under one shift at one level, whichever is chosen.

Their data have a name, under which the page's script puts the numbers of the chosen cell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt

from fairweather.report.figures import either
from fairweather.report.page.cells import BARS, MOST_CLASSES, WORST_CLASSES
from fairweather.report.page.drawing import FAINT, INK, PAPER, ROWS, RULE, spec_of, tooltip
from fairweather.report.section import Chart

# Right and wrong, apart by lightness too.
RIGHT, WRONG = "var(--right)", "var(--wrong)"
# Where cividis begins: a pair of classes that is not among the rows has no image.
NOTHING = "#002051"
MOST_COUNTED = 12  # classes of a matrix whose cells have room for a count
SIDE = 230
FEW = 10  # images of a bin that says little
UNIT = alt.Scale(domain=[0, 1])
DASHES = [[1, 0], [4, 3]]  # of the chosen images, and of the clean ones
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
    x = alt.X("confidence:Q", title=None, axis=_shares(), scale=UNIT)
    axis = _shares()
    axis.minExtent = axis.maxExtent = EXTENT
    y = alt.Y("accuracy:Q", title="Accuracy", axis=axis, scale=UNIT)
    diagonal = (
        alt.Chart(alt.Data(values=[{"at": 0}, {"at": 1}]))
        .mark_line(color=RULE, strokeDash=[4, 3], strokeWidth=1.5)
        .encode(x=alt.X("at:Q", title=None, scale=UNIT), y=alt.Y("at:Q", title="Accuracy"))
    )
    told = tooltip(
        ("confidence_text", "Mean confidence"), ("accuracy_text", "Accuracy"), ("images", "Images")
    )
    base = alt.Chart(ROWS).encode(x=x, tooltip=told)
    few = f"datum.images < {FEW}"
    faint = either(alt.OpacityValue, few, 0.2, 1)
    gap = base.mark_rule(strokeWidth=9).encode(
        y=y,
        y2=alt.Y2("confidence:Q"),
        color=either(alt.ColorValue, "datum.accuracy < datum.confidence", WRONG, RIGHT),
        opacity=either(alt.OpacityValue, few, 0.12, 0.45),
    )
    bars = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        y=alt.Y("low:Q", title="Accuracy", scale=UNIT), y2=alt.Y2("high:Q"), opacity=faint
    )
    points = base.mark_point(filled=True, size=60, color=INK, stroke=PAPER)
    return _chart(
        "reliability",
        "Reliability diagram: accuracy against confidence in 10 equal-width bins with 95 % "
        "intervals. On the diagonal, confidence equals accuracy.",
        alt.layer(diagonal, gap, bars, points.encode(y=y, opacity=faint)),
        SIDE,
    )


def _counts() -> Chart:
    axis = alt.Axis(tickCount=3, tickMinStep=1, minExtent=EXTENT, maxExtent=EXTENT)
    bars = _bars().encode(
        y=alt.Y("images:Q", title="Images", axis=axis),
        y2=alt.Y2Datum(0),
        tooltip=tooltip(("bin", "Confidence"), ("images", "Images")),
    )
    words = "Images in each bin of the reliability diagram."
    return _chart("counts", words, bars.mark_bar(color=FAINT), 70)


def _confidence() -> Chart:
    axis = alt.Axis(format=",d", tickMinStep=1, labelExpr="replace(datum.label, '−', '')")
    answers = alt.Scale(domain=["right", "wrong"], range=[RIGHT, WRONG])
    bars = _bars().encode(
        y=alt.Y("from:Q", title="Images: right above, wrong below", axis=axis),
        y2=alt.Y2("to:Q"),
        color=alt.Color("answer:N", scale=answers, legend=alt.Legend(title=None, orient="top")),
        tooltip=tooltip(("bin", "Confidence"), ("answer", "Answers"), ("images", "Images")),
    )
    return _chart(
        "confidence",
        f"Histogram of the confidence in {BARS} bins, of right answers upwards and of wrong ones "
        "downwards.",
        bars,
        SIDE + 70,
    )


def _bars() -> alt.Chart:
    """A histogram of confidence."""
    x = alt.X("lower:Q", title="Confidence", axis=_shares(), scale=UNIT)
    return alt.Chart(ROWS).mark_bar().encode(x=x, x2=alt.X2("upper:Q"))


def _risk_coverage() -> Chart:
    shares = alt.Axis(format=".0%", tickCount=5)
    title = "Share answered, the most confident first"
    x = alt.X("coverage:Q", title=title, axis=shares, scale=UNIT)
    wrong = "Share of the answers that is wrong"
    y = alt.Y("risk:Q", title=wrong, axis=alt.Axis(format=".0%", tickCount=5, tickMinStep=0.01))
    which = ["chosen images", "clean images"]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3)
    inks, dashes = (alt.Scale(domain=which, range=each) for each in ([INK, FAINT], DASHES))
    color = alt.Color("which:N", scale=inks, legend=legend)
    dash = alt.StrokeDash("which:N", scale=dashes, legend=legend)
    said = tooltip(("which", "Images"), ("coverage_text", "Coverage"), ("risk_text", "Risk"))
    base = alt.Chart(ROWS).encode(x=x)
    band = (
        base.mark_area(interpolate="step-before", opacity=0.16)
        .transform_filter("!datum.kept")
        .encode(y=alt.Y("low:Q", title=wrong), y2=alt.Y2("high:Q"), color=color)
    )
    line = base.mark_line(interpolate="step-before", strokeWidth=2)
    line = line.encode(y=y, color=color, strokeDash=dash, tooltip=said)
    kept = base.mark_point(shape="diamond", filled=True, color=WRONG, stroke=PAPER, opacity=1)
    size = either(alt.SizeValue, "datum.kept", 90, 0)
    return _chart(
        "risk-coverage",
        "Risk-coverage curve: the share of wrong answers among the most confident images, against "
        "the share that is answered, with its 95 % interval, on the chosen and on clean "
        "images.",
        alt.layer(band, line, kept.encode(y=y, tooltip=said, size=size)),
        SIDE + 45,
    )


def _hand_over(conditions: int) -> Chart:
    axis = alt.Axis(labelLimit=150, ticks=False, domain=False)
    # A little beyond, so that marks at the ends are whole.
    scale = alt.Scale(domain=[-0.03, 1.05], nice=False)
    title = "Share deferred to a person"
    told = tooltip(
        ("place", "Images"),
        ("needed_text", "To keep the risk"),
        ("over_text", "Deferred at the threshold"),
        ("risk_text", "Wrong among the answers"),
    )
    y = alt.Y("place:N", sort=None, title=None, axis=axis)
    base = alt.Chart(ROWS).encode(y=y, tooltip=told)
    x = alt.X("needed:Q", title=title, axis=_shares(), scale=scale)
    bars = base.mark_bar(height=14, color=FAINT, opacity=0.55).encode(x=x)
    ends = base.mark_rule(strokeWidth=2, color=INK).encode(
        x=alt.X("low:Q", title=title, scale=scale), x2=alt.X2("high:Q")
    )
    kept = (
        base.transform_filter("isValid(datum.over)")
        .mark_point(shape="diamond", size=90, filled=True, color=WRONG, stroke=PAPER, opacity=1)
        .encode(x=alt.X("over:Q", title=title, scale=scale))
    )
    return _chart(
        "hand-over",
        "For clean images and the worst level of each shift: the share of the images that must be "
        "deferred to a person to keep the chosen risk, with its 95 % interval, and the share that "
        "a threshold fitted on clean validation images defers. The table below has the numbers.",
        alt.layer(bars, ends, kept),
        26 * conditions,
    )


def _per_class(classes: Sequence[str], shown: int) -> Chart:
    """Draw the accuracy of as many of these classes as are shown, one bar each."""
    axis = alt.Axis(labelLimit=130, ticks=False, domain=False, labelExpr=_names(classes))
    y = alt.Y("at:O", sort=None, title=None, axis=axis)
    told = tooltip(("name", "Class"), ("accuracy_text", "Accuracy"), ("images", "Images"))
    base = alt.Chart(ROWS).encode(y=y, tooltip=told)
    shares = alt.Axis(format=".0%", tickCount=5)
    bars = base.mark_bar(height={"band": 0.7}, color=RIGHT, opacity=0.75).encode(
        x=alt.X("accuracy:Q", title="Accuracy", axis=shares, scale=UNIT)
    )
    ends = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        x=alt.X("low:Q", title="Accuracy", scale=UNIT), x2=alt.X2("high:Q")
    )
    words = "Accuracy of each class with its 95 % interval."
    return _chart("classes", words, alt.layer(bars, ends), 18 * shown)


def _confusion(classes: Sequence[str]) -> Chart:
    """Draw the confusion matrix of classes of these names."""
    scale = alt.Scale(domain=list(range(len(classes))), padding=0)
    axis = alt.Axis(labelLimit=90, ticks=False, domain=False, labelExpr=_names(classes))
    turned = axis.copy()
    turned.labelAngle = 0 if max(map(len, classes)) <= 2 else -60
    told = tooltip(
        ("label", "Label"),
        ("predicted", "Predicted"),
        ("images", "Images"),
        ("share_text", "Of the label's images"),
    )
    base = alt.Chart(ROWS).encode(
        x=alt.X("predicted_at:O", title="Predicted", axis=turned, scale=scale),
        y=alt.Y("label_at:O", title="Label", axis=axis, scale=scale),
        tooltip=told,
    )
    title = "Share of the label's images"
    legend = alt.Legend(title=title, format=".0%", orient="top", gradientLength=160)
    colors = alt.Scale(scheme="cividis", domain=[0, 1])
    cells = base.mark_rect(stroke=PAPER, strokeWidth=1).encode(
        color=alt.Color("share:Q", scale=colors, legend=legend)
    )
    dark = either(alt.ColorValue, "datum.share > 0.5", "#000000", "#ffffff")
    counts = base.mark_text(fontSize=10).encode(text=alt.Text("images:N"), color=dark)
    layers = [cells, counts] if len(classes) <= MOST_COUNTED else [cells]
    return _chart(
        "confusion",
        "Confusion matrix: of the images of each label (rows), the share predicted as each class "
        "(columns).",
        alt.layer(*layers, view=alt.ViewBackground(fill=NOTHING)),
        22 * len(classes),
    )


def _names(classes: Sequence[str]) -> str:
    """Look a label up by the number of its class: two classes of one name stay two."""
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    names = json.dumps(list(classes)).replace(".", r"\u002e")
    return f"{names}[datum.value]"


def _shares() -> alt.Axis:
    return alt.Axis(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])


def _chart(
    name: str, words: str, chart: alt.Chart | alt.LayerChart | alt.FacetChart, height: int
) -> Chart:
    return Chart(name, words, spec_of(chart.properties(width="container", height=height)))
