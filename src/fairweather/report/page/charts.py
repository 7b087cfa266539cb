"""The charts of the page that compare all models: curves, heat map, scatter, and trainings."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Sequence
from typing import TypedDict

import altair as alt
import pandas as pd

from fairweather.metrics.table import METRICS
from fairweather.record import CLEAN, MEAN, NO_LEVEL
from fairweather.report import figures
from fairweather.report.conformal import COVERAGE, SIZE, promising
from fairweather.report.contents import Contents
from fairweather.report.figures import Spec, either
from fairweather.report.overview import TITLES, Inks, Measure, alt_text, forest, readings
from fairweather.report.page.drawing import (
    FOCUS,
    INK,
    LOUD,
    PAPER,
    ROWS,
    RULE,
    Chart,
    drawn_order,
    in_words,
    looks,
    model_color,
    model_paint,
    model_shape,
    records,
    spec_of,
    tooltip,
)
from fairweather.report.sweeps import Sweep
from fairweather.report.tables import is_percent
from fairweather.report.training_files import read_histories
from fairweather.types import Score

# Shifts from which on the page draws a heat map: fewer are read off the small charts.
MANY_SHIFTS = 5
HEIGHT = 165
NARROW = 720  # pixels of the window below which charts stand below each other, as in the style
LONGEST = 200  # pixels of a model's title above a heat map
EXTENT = 36  # of vertical axes, so that charts above each other line up


def overview_charts(contents: Contents, order: Sequence[str]) -> dict[Measure, Chart]:
    """Draw accuracy, and confidence − accuracy, of each model in each state, in this order."""
    read = [each for model in order for each in readings(contents, model)]
    look = looks(contents.positions)
    inks = Inks(
        models=[f"var(--m{each.color})" for each in look],
        fills=[PAPER if each.variant else f"var(--m{each.color})" for each in look],
        ink=INK,
        rule=RULE,
    )
    found: dict[Measure, Chart] = {}
    for measure in TITLES:
        # Beside each other, the two charts share the titles of their rows.
        beside = f"windowSize()[0] >= {NARROW}"
        chart = forest(
            contents,
            read,
            measure,
            inks,
            None,
            emphasis=FOCUS,
            loud=LOUD,
            named="true" if measure == "accuracy" else f"!({beside})",
            numbered="true" if measure == "accuracy" else beside,
        )
        if chart is not None:
            spec = spec_of(chart.properties(width="container"))
            words = alt_text(contents, read, measure)
            found[measure] = Chart(f"overview-{measure}", words, spec)
    return found


def level_charts(contents: Contents, metrics: Sequence[str]) -> dict[str, dict[str, Chart]]:
    """Draw each of the metrics against the level: by the shift's name, and the metric's."""
    found: dict[str, dict[str, Chart]] = {}
    in_order = operator.methodcaller("map", drawn_order(contents).index)
    for metric in metrics:
        frames = {sweep.name: contents.by_level(metric, sweep) for sweep in contents.sweeps}
        highs = [frame["high"].max() for frame in frames.values() if len(frame)]
        if not highs:
            continue
        # In steps of 0.05, so that the axis that all charts share ends at a round number.
        top = math.ceil(max(highs) * 20) / 20
        template = _level_chart(contents, metric, top)
        for sweep in contents.sweeps:
            if len(frames[sweep.name]):
                frame = frames[sweep.name].sort_values("title", key=in_order, kind="stable")
                chart = _of_shift(template, metric, sweep, frame)
                found.setdefault(sweep.name, {})[metric] = chart
    return found


def set_charts(contents: Contents) -> dict[str, dict[str, Chart]]:
    """Draw coverage and size of prediction sets in the same way, with the promised coverages."""
    found = level_charts(contents, (COVERAGE, SIZE))
    promised = [
        {"value": value}
        for value in sorted({each.coverage for each in promising(contents).values()})
    ]
    y = {"field": "value", "type": "quantitative", "title": None}
    rule = {"type": "rule", "color": INK, "strokeDash": [6, 3], "strokeWidth": 1}
    for charts in found.values():
        spec = charts[COVERAGE].spec
        spec["layer"].append({"data": {"name": "promised"}, "mark": rule, "encoding": {"y": y}})
        spec["datasets"]["promised"] = promised
    return found


def heat_map(contents: Contents, metric: str) -> Chart | None:
    """Draw the mean over levels of every shift (row) and model (column), where there are many."""
    if len(contents.sweeps) < MANY_SHIFTS:
        return None
    shifts = [("Clean", CLEAN, NO_LEVEL)]
    shifts += [(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps]
    scored = [
        (title, name, score)
        for title, shift, level in shifts
        for model, name in contents.titles.items()
        if (score := contents.score(metric, model, shift, level)) is not None
    ]
    if not scored:
        return None
    rows = [
        {"shift": title, "model": name, "value": score.value, "text": in_words(metric, score)}
        for title, name, score in scored
    ]
    share = is_percent(metric)
    values = [score.value for _, _, score in scored]
    # cividis: even steps of lightness, for every kind of colour vision (Nuñez et al. 2018).
    scale = alt.Scale(scheme="cividis", reverse=not share, domain=[min(values), max(values)])
    middle = (min(values) + max(values)) / 2
    base = alt.Chart(ROWS).encode(
        x=alt.X(
            "model:N",
            sort=list(contents.titles.values()),
            title=None,
            axis=alt.Axis(
                orient="top", labelAngle=-50, labelLimit=LONGEST, domain=False, ticks=False
            ),
        ),
        y=alt.Y(
            "shift:N",
            sort=[title for title, _, _ in shifts],
            title=None,
            axis=alt.Axis(labelLimit=150, domain=False, ticks=False),
        ),
        tooltip=tooltip(("model", "Model"), ("shift", "Shift"), ("text", METRICS[metric].label)),
    )
    cells = base.mark_rect(stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    bright = f"datum.value > {middle}" if share else f"datum.value < {middle}"
    words = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".0%" if share else ".2f"),
        color=either(alt.ColorValue, bright, "#000000", "#ffffff"),
    )
    chart = alt.layer(cells, words).properties(width="container", height=25 * len(shifts))
    spec = spec_of(chart) | {"datasets": {"rows": rows}}
    # The last of the slanted titles reaches beyond its column: 6 pixels a letter, at 50 degrees.
    beyond = 0.64 * min(6 * max(map(len, contents.titles.values())), LONGEST)
    spec |= {"padding": {"left": 2, "top": 2, "right": 8 + round(beyond), "bottom": 2}}
    label = METRICS[metric].label
    words_of = f"{label}, mean over the levels, of every shift (rows) and model (columns)"
    return Chart(f"heat-{metric}", f"Heat map. {words_of}. The tables hold the same numbers.", spec)


def scatter(contents: Contents) -> Chart | None:
    """Draw accuracy against calibration error, one point for each model, shift and level."""
    order = drawn_order(contents)
    rows = sorted(_points(contents), key=lambda row: order.index(row["title"]))
    if not rows:
        return None
    base = alt.Chart(ROWS).encode(
        x=alt.X(
            "accuracy:Q",
            title="Accuracy",
            axis=alt.Axis(format=".0%", tickCount=6, tickMinStep=0.01),
        ).scale(zero=False),
        y=alt.Y("error:Q", title="RMS calibration error", axis=alt.Axis(tickCount=6)),
        tooltip=tooltip(
            ("title", "Model"),
            ("at", "Images"),
            ("accuracy_text", "Accuracy"),
            ("error_text", "RMS calibration error"),
        ),
    )
    points = base.mark_point(size=46, strokeWidth=1).encode(
        **model_paint(contents),
        shape=model_shape(contents),
        opacity=either(alt.OpacityValue, LOUD, 0.8, 0.08),
    )
    clean = base.transform_filter("datum.at === 'clean'").mark_point(
        size=190, shape="circle", stroke=INK, strokeWidth=1.2, fillOpacity=0
    )
    chart = alt.layer(points, clean).properties(width="container", height=330)
    return Chart(
        "scatter",
        "Scatter of accuracy against RMS calibration error, one point for each model, shift and "
        "level; clean images are circled. The tables hold the same numbers.",
        spec_of(chart.add_params(FOCUS)) | {"datasets": {"rows": rows}},
    )


def training_charts(contents: Contents) -> dict[str, Chart]:
    """Draw accuracy, loss and learning rate of each epoch, by what is drawn."""
    history = read_histories(contents)
    if history.empty:
        return {}
    return {
        "accuracy": _training_chart(contents, history, "accuracy", "Accuracy", ".0%"),
        "loss": _training_chart(contents, history, "loss", "Loss", ".3~g"),
        "rate": _training_chart(
            contents, history, "learning rate", "Learning rate of the head", ".1~e"
        ),
    }


def _level_chart(contents: Contents, metric: str, top: float) -> Spec:
    """Build the chart of any shift: its numbers, and what its axis says, are put in later."""
    shares = alt.Axis(
        format=".0%" if is_percent(metric) else ".2~f",
        tickCount=4,
        tickMinStep=0.01,  # as fine as the labels are, so that no two read the same
        minExtent=EXTENT,
        maxExtent=EXTENT,
    )
    x = alt.X("level:Q", axis=alt.Axis(format="~g", labelOverlap="greedy", grid=False))
    bare = alt.Chart(ROWS).encode(x=x.scale(zero=False, padding=10))
    base = bare.encode(color=model_color(contents))
    # A layer that has no title of its own would take the field's and add it to the axis.
    y = alt.Y("value:Q", title=None, axis=shares).scale(domain=(0, top), nice=False)
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2=alt.Y2("high:Q"),
        opacity=either(alt.OpacityValue, LOUD, 0.16, 0.02),
    )
    quiet = either(alt.OpacityValue, LOUD, 1, 0.1)
    dash = figures.model_dash(list(contents.titles.values()), contents.positions)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, opacity=quiet, strokeDash=dash)
    points = bare.mark_point(size=44, strokeWidth=1).encode(
        y=y,
        **model_paint(contents),
        shape=model_shape(contents),
        opacity=quiet,
        tooltip=tooltip(("title", "Model"), ("at", "Images"), ("text", METRICS[metric].label)),
    )
    rule = (
        alt.Chart(alt.NamedData(name="clean"))
        .mark_rule(color=RULE, strokeDash=[4, 3])
        .encode(x=alt.X("level:Q"))
    )
    chart = alt.layer(rule, band, line, points).properties(width="container", height=HEIGHT)
    return spec_of(chart.add_params(FOCUS))


def _of_shift(template: Spec, metric: str, sweep: Sweep, frame: pd.DataFrame) -> Chart:
    """Put the numbers of a shift into the chart of any shift."""
    spec = copy.deepcopy(template)
    for layer in spec["layer"]:
        x = layer["encoding"]["x"]
        x["title"] = sweep.level_title
        x["axis"] = x.get("axis", {}) | figures.level_axis(sweep, frame["level"])
    names = {float(level): sweep.at(level) for level in sweep.cells}
    numbers = zip(frame["value"], frame["low"], frame["high"], strict=True)
    rows = frame.assign(
        text=[in_words(metric, Score(value, low, high, 0)) for value, low, high in numbers],
        at=[names.get(level, "clean") for level in frame["level"]],
    )
    return Chart(
        f"{metric}-{sweep.file_name}",
        f"{METRICS[metric].label} against {sweep.level_title}, one curve for each model with its "
        "95 % interval. The table below holds the same numbers.",
        spec | {"datasets": {"rows": records(rows), "clean": [{"level": sweep.neutral}]}},
    )


class _Point(TypedDict):
    """A point of the scatter."""

    title: str
    at: str
    accuracy: float
    error: float
    accuracy_text: str
    error_text: str


def _points(contents: Contents) -> list[_Point]:
    shifted = [("clean", CLEAN, NO_LEVEL)]
    shifted += [
        (sweep.at(level), sweep.name, level) for sweep in contents.sweeps for level in sweep.cells
    ]
    points = []
    for model, title in contents.titles.items():
        for at, shift, level in shifted:
            accuracy, error = (
                contents.score(metric, model, shift, level)
                for metric in ("accuracy", "rms_calibration_error")
            )
            if accuracy is not None and error is not None:
                point = _Point(
                    title=title,
                    at=at,
                    accuracy=accuracy.value,
                    error=error.value,
                    accuracy_text=in_words("accuracy", accuracy),
                    error_text=in_words("rms_calibration_error", error),
                )
                points.append(point)
    return points


def _training_chart(
    contents: Contents, history: pd.DataFrame, what: str, title: str, form: str
) -> Chart:
    rows = history[history["what"] == what].drop(columns="what")
    rows = rows.assign(text=[_epoch_in_words(what, value) for value in rows["value"]])
    last = int(rows["epoch"].max())
    epochs = list(range(1, last + 1, max(1, last // 8)))
    log = what == "learning rate" and bool((rows["value"] > 0).all())
    axis = alt.Axis(format=form, tickCount=5)
    if what == "accuracy":
        axis.tickMinStep = 0.01
    scale = alt.Scale(type="log") if log else alt.Scale(zero=what == "learning rate")
    dash = figures.WHOLE if what == "learning rate" else figures.DASHED
    line = (
        alt.Chart(ROWS)
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(values=epochs, format="d")),
            y=alt.Y("value:Q", title=title, axis=axis, scale=scale),
            color=model_color(contents),
            strokeDash=alt.StrokeDash(
                "part:N",
                scale=alt.Scale(domain=["validation", "training"], range=[figures.WHOLE, dash]),
                legend=None,
            ),
            detail=alt.Detail("seed:N"),
            opacity=either(alt.OpacityValue, LOUD, 1, 0.12),
            tooltip=tooltip(
                ("title", "Model"),
                ("seed", "Seed"),
                ("epoch", "Epoch"),
                ("part", "Split"),
                ("text", title),
            ),
        )
        .properties(width="container", height=230)
        .add_params(FOCUS)
    )
    seeds = "one line for each model, seed and split"
    return Chart(
        f"training-{what.replace(' ', '-')}",
        f"{title} against the epoch, {seeds}. models/*/history.csv holds the same numbers.",
        spec_of(line) | {"datasets": {"rows": records(rows)}},
    )


def _epoch_in_words(what: str, value: float) -> str:
    return f"{100 * value:.1f} %" if what == "accuracy" else f"{value:.4g}"
