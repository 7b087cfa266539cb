"""The charts of the page that compare all models: curves, heat map and scatter."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from fairweather.report import figures
from fairweather.report.contents import Contents
from fairweather.report.page.drawing import (
    FOCUS,
    LOUD,
    SHORT,
    Chart,
    Spec,
    drawn_order,
    in_words,
    model_color,
    model_paint,
    model_shape,
    records,
    spec_of,
    tooltip,
)
from fairweather.report.page.theme import INK, PAPER, RULE
from fairweather.report.phrases import place
from fairweather.report.sweeps import Sweep
from fairweather.report.tables import TABULATED, is_percent
from fairweather.report.words import CLEAN, MEAN, NO_LEVEL
from fairweather.types import Score

# Shifts from which on the page draws a heat map: fewer are read off the small charts.
MANY_SHIFTS = 5
HEIGHT = 165
LONGEST = 200  # pixels of a model's title above a heat map
EXTENT = 36  # of vertical axes, so that charts above each other line up


def level_charts(contents: Contents) -> dict[str, dict[str, Chart]]:
    """Draw each of the two metrics against the level: by the shift's name, and the metric's."""
    found: dict[str, dict[str, Chart]] = {}
    in_order = operator.methodcaller("map", drawn_order(contents).index)
    for metric in TABULATED:
        frames = {sweep.name: contents.by_level(metric, sweep) for sweep in contents.sweeps}
        highs = [frame["high"].max() for frame in frames.values() if len(frame)]
        # In steps of 0.05, so that the axis that all charts share ends at a round number.
        top = math.ceil(max(highs, default=1) * 20) / 20
        template = _level_chart(contents, metric, top)
        for sweep in contents.sweeps:
            if len(frames[sweep.name]):
                frame = frames[sweep.name].sort_values("title", key=in_order, kind="stable")
                chart = _of_shift(template, metric, sweep, frame)
                found.setdefault(sweep.name, {})[metric] = chart
    return found


def heat_map(contents: Contents, metric: str) -> Chart | None:
    """Draw the mean over levels of every shift (row) and model (column), where there are many."""
    if len(contents.sweeps) < MANY_SHIFTS:
        return None
    places = [("Clean", CLEAN, NO_LEVEL)]
    places += [(sweep.title, sweep.name, MEAN) for sweep in contents.sweeps]
    rows: list[dict[str, Any]] = [
        {"shift": title, "model": name, "value": score.value, "text": in_words(metric, score)}
        for title, shift, level in places
        for model, name in contents.titles.items()
        if (score := contents.score(metric, model, shift, level)) is not None
    ]
    if not rows:
        return None
    share = is_percent(metric)
    values = [row["value"] for row in rows]
    # cividis: even steps of lightness, for every kind of colour vision (Nuñez et al. 2018).
    scale = alt.Scale(scheme="cividis", reverse=not share, domain=[min(values), max(values)])
    middle = (min(values) + max(values)) / 2
    base = alt.Chart(alt.Data(values=rows)).encode(
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
            sort=[title for title, _, _ in places],
            title=None,
            axis=alt.Axis(labelLimit=150, domain=False, ticks=False),
        ),
        tooltip=tooltip(("model", "Model"), ("shift", "Shift"), ("text", SHORT[metric])),
    )
    cells = base.mark_rect(stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    bright = f"datum.value > {middle}" if share else f"datum.value < {middle}"
    words = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".0%" if share else ".2f"),
        color=alt.condition(bright, alt.value("#000000"), alt.value("#ffffff")),
    )
    spec = spec_of(alt.layer(cells, words).properties(width="container", height=25 * len(places)))
    # The last of the slanted titles reaches beyond its column: 6 pixels a letter, at 50 degrees.
    beyond = 0.64 * min(6 * max(map(len, contents.titles.values())), LONGEST)
    spec |= {"padding": {"left": 2, "top": 2, "right": 8 + round(beyond), "bottom": 2}}
    words_of = f"{SHORT[metric]}, mean over the levels, of every shift (rows) and model (columns)"
    return Chart(f"heat-{metric}", f"Heat map. {words_of}. The tables hold the same numbers.", spec)


def scatter(contents: Contents) -> Chart | None:
    """Draw accuracy against calibration error, one point a model, shift and level."""
    order = drawn_order(contents)
    rows = sorted(_points(contents), key=lambda row: order.index(row["title"]))
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("accuracy:Q", title="Accuracy", axis=alt.Axis(format=".0%", tickCount=6)).scale(
            zero=False
        ),
        y=alt.Y("error:Q", title="RMS calibration error", axis=alt.Axis(tickCount=6)),
        tooltip=tooltip(
            ("title", "Model"),
            ("place", "Images"),
            ("accuracy_text", "Accuracy"),
            ("error_text", "RMS calibration error"),
        ),
    )
    points = base.mark_point(size=46, strokeWidth=1).encode(
        **model_paint(contents),
        shape=model_shape(contents),
        opacity=alt.condition(LOUD, alt.value(0.8), alt.value(0.08)),
    )
    clean = base.transform_filter("datum.place === 'clean'").mark_point(
        size=190, shape="circle", stroke=INK, strokeWidth=1.2, fillOpacity=0
    )
    chart = alt.layer(points, clean).properties(width="container", height=330)
    return Chart(
        "scatter",
        "Scatter of accuracy against RMS calibration error, one point a model, shift and level; "
        "clean images are circled. The tables hold the same numbers.",
        spec_of(chart.add_params(FOCUS)),
    )


def _level_chart(contents: Contents, metric: str, top: float) -> Spec:
    """Build the chart of any shift: its numbers, and what its axis says, are put in later."""
    shares = alt.Axis(
        format=".0%" if is_percent(metric) else ".1~f",
        tickCount=4,
        minExtent=EXTENT,
        maxExtent=EXTENT,
    )
    x = alt.X("level:Q", axis=alt.Axis(format="~g", labelOverlap="greedy", grid=False))
    bare = alt.Chart(alt.NamedData(name="rows")).encode(x=x.scale(zero=False, padding=10))
    base = bare.encode(color=model_color(contents))
    # A layer that has no title of its own would take the field's and add it to the axis.
    y = alt.Y("value:Q", title=None, axis=shares).scale(domain=(0, top), nice=False)
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2="high:Q",
        opacity=alt.condition(LOUD, alt.value(0.16), alt.value(0.02)),
    )
    quiet = alt.condition(LOUD, alt.value(1), alt.value(0.1))
    dash = figures.model_dash(list(contents.titles.values()), contents.places)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, opacity=quiet, strokeDash=dash)
    points = bare.mark_point(size=44, strokeWidth=1).encode(
        y=y,
        **model_paint(contents),
        shape=model_shape(contents),
        opacity=quiet,
        tooltip=tooltip(("title", "Model"), ("at", "Images"), ("text", SHORT[metric])),
    )
    rule = (
        alt.Chart(alt.NamedData(name="clean"))
        .mark_rule(color=RULE, strokeDash=[4, 3])
        .encode(x="level:Q")
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
    names = {float(level): place(sweep, level) for level in sweep.cells}
    rows = [
        row
        | {
            "text": in_words(metric, Score(row["value"], row["low"], row["high"], 0)),
            "at": names.get(row["level"], "clean"),
        }
        for row in records(frame)
    ]
    return Chart(
        f"{metric}-{sweep.file_name}",
        f"{SHORT[metric]} against {sweep.level_title}, one curve a model with its 95 % interval. "
        "The table below holds the same numbers.",
        spec | {"datasets": {"rows": rows, "clean": [{"level": sweep.neutral}]}},
    )


def _points(contents: Contents) -> Sequence[Mapping[str, Any]]:
    places = [("clean", CLEAN, NO_LEVEL)]
    places += [
        (place(sweep, level), sweep.name, level)
        for sweep in contents.sweeps
        for level in sweep.cells
    ]
    rows = []
    for model, title in contents.titles.items():
        for where, shift, level in places:
            scores = [contents.score(metric, model, shift, level) for metric in TABULATED]
            accuracy, error = scores
            if accuracy is not None and error is not None:
                rows.append(
                    {
                        "title": title,
                        "place": where,
                        "accuracy": accuracy.value,
                        "error": error.value,
                        "accuracy_text": in_words("accuracy", accuracy),
                        "error_text": in_words("rms_calibration_error", error),
                    }
                )
    return rows
