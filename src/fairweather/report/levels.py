"""Numbers against the level of each shift: tables, figures, and the charts of the page."""

from __future__ import annotations

import copy
import math
import operator
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair as alt
import pandas as pd

from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.report.contents import Contents
from fairweather.report.figures import (
    FAINT,
    Figure,
    Spec,
    either,
    level_axis,
    model_dash,
    printed,
    render,
)
from fairweather.report.page import drawing
from fairweather.report.page.drawing import LOUD, ROWS, in_words, records, spec_of, tooltip
from fairweather.report.section import Chart, Part, Shown, Tables
from fairweather.report.sweeps import Sweep
from fairweather.report.tables import (
    Column,
    Table,
    by_model,
    column_key,
    describe_metric,
    interval_note,
    is_percent,
    told_of,
)
from fairweather.types import Score

# Characters of a model's title beyond which the legend has a line for each model.
LONG_TITLE = 30
# Characters of a subtitle's line.
SUBTITLE = 110
EXTENT = 36  # of vertical axes, so that charts above each other line up
HEIGHT = 165


# ---------------------------------------------------------------- figures


class Layout(NamedTuple):
    """How panels are laid out so that a figure fits a page: panels in a row, and their pixels."""

    columns: int
    width: int
    height: int


LARGE, SMALL = Layout(2, 370, 270), Layout(4, 165, 130)
MOST_LARGE = 6  # panels


def level_figure(contents: Contents, metric: str) -> Figure | None:
    """Draw a metric against the level, one panel for each shift; None where none has it."""
    charts = level_charts(contents, [metric])
    drawn = [sweep for sweep in contents.sweeps if sweep.name in charts]
    if not drawn:
        return None
    layout = LARGE if len(drawn) <= MOST_LARGE else SMALL
    columns = 1 if max(map(len, contents.titles.values())) > LONG_TITLE else 4
    legend = alt.Legend(title=None, orient="top", columns=columns)
    panels = [
        _panel(charts[sweep.name][metric].spec, METRICS[metric].label, sweep.title, layout, legend)
        for sweep in drawn
    ]
    described = describe_metric(metric)
    return render(
        metric,
        {"concat": panels, "columns": layout.columns, "spacing": 32},
        alt.Title(
            f"{METRICS[metric].label} as the images change",
            subtitle=[
                *textwrap.wrap(
                    f"{described}. Bands: {contents.intervals} at each level, joined"
                    f"{interval_note(metric)}. {contents.sample()}.",
                    SUBTITLE,
                    break_on_hyphens=False,
                ),
                "Dashed line: the level that leaves images unchanged; clean results are drawn "
                "there.",
            ],
        ),
        f"{described} with 95 % intervals{interval_note(metric)}, against "
        + " and ".join(sweep.level_title for sweep in drawn)
        + f". One curve for each of: {'; '.join(contents.titles.values())}."
        + " The tables hold the same numbers.",
    )


def _panel(spec: Spec, label: str, title: str, layout: Layout, legend: alt.Legend) -> Spec:
    """Make a chart of the page a panel, with titles of its axis and of the clean images' line."""
    heading = {"text": title, "fontSize": 13, "offset": 20}
    size = {"width": layout.width, "height": layout.height}
    panel = printed(spec, "title", legend, **size, title=heading)
    rule, *layers = panel["layer"]
    for layer in layers:
        layer["encoding"]["y"]["title"] = label
    word = {"type": "text", "text": "clean", "color": FAINT, "dy": -13}
    named = rule | {"mark": word, "encoding": rule["encoding"] | {"y": {"value": 0}}}
    return panel | {"layer": [rule, named, *layers]}


# ---------------------------------------------------------------- charts of the page


def level_charts(contents: Contents, metrics: Sequence[str]) -> dict[str, dict[str, Chart]]:
    """Draw each of the metrics against the level: by the shift's name, and the metric's."""
    found: dict[str, dict[str, Chart]] = {}
    in_order = operator.methodcaller("map", drawing.drawn_order(contents).index)
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
                chart = _chart_of(template, metric, sweep, frame)
                found.setdefault(sweep.name, {})[metric] = chart
    return found


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
    base = bare.encode(color=drawing.model_color(contents))
    # A layer that has no title of its own would take the field's and add it to the axis.
    y = alt.Y("value:Q", title=None, axis=shares).scale(domain=(0, top), nice=False)
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2=alt.Y2("high:Q"),
        opacity=either(alt.OpacityValue, LOUD, 0.16, 0.02),
    )
    quiet = either(alt.OpacityValue, LOUD, 1, 0.1)
    dash = model_dash(list(contents.titles.values()), contents.positions)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, opacity=quiet, strokeDash=dash)
    points = bare.mark_point(size=44, strokeWidth=1).encode(
        y=y,
        **drawing.model_paint(contents),
        shape=drawing.model_shape(contents),
        opacity=quiet,
        tooltip=tooltip(("title", "Model"), ("at", "Images"), ("text", METRICS[metric].label)),
    )
    rule = (
        alt.Chart(alt.NamedData(name="clean"))
        .mark_rule(color=drawing.RULE, strokeDash=[4, 3])
        .encode(x=alt.X("level:Q"))
    )
    chart = alt.layer(rule, band, line, points).properties(width="container", height=HEIGHT)
    return spec_of(chart.add_params(drawing.FOCUS))


def _chart_of(template: Spec, metric: str, sweep: Sweep, frame: pd.DataFrame) -> Chart:
    """Put the numbers of a shift into the chart of any shift."""
    spec = copy.deepcopy(template)
    for layer in spec["layer"]:
        x = layer["encoding"]["x"]
        x["title"] = sweep.level_title
        x["axis"] = x.get("axis", {}) | level_axis(sweep, frame["level"])
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


def has_levels(contents: Contents) -> bool:
    """Say whether there is a chart of some shift."""
    return any(
        len(contents.by_level(metric, sweep))
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
    )


def _figures(contents: Contents) -> Iterator[Figure | None]:
    return (level_figure(contents, metric) for metric in shown_metrics(2))


def _shown(contents: Contents, _: Tables) -> Shown:
    levels = level_charts(contents, shown_metrics(2))
    charts = [chart for metrics in levels.values() for chart in metrics.values()]
    return Shown(charts=charts, template="levels.html.j2", facts={"levels": levels})


CHARTS = Part(_shown, figures=_figures, accepts=None)


# ---------------------------------------------------------------- tables


def _level_tables(contents: Contents) -> Iterator[Table | None]:
    for sweep in contents.sweeps:
        for metric in shown_metrics(2):
            note = "".join(f". {each}" for each in sweep.notes)
            subject = f"{sweep.title}: {describe_metric(metric)} by {sweep.level_title}{note}"
            columns = [
                Column(
                    sweep.heading(level), column_key(sweep.name, level), metric, sweep.name, level
                )
                for level in sweep.cells
            ]
            caption = told_of(contents, subject, interval_note(metric))
            yield by_model(f"{metric}_{sweep.file_name}", caption, columns, contents)


def _numbers(contents: Contents, tables: Tables) -> Shown:
    found = {table.name: table for table in tables}
    named = {
        f"{sweep.title}: {METRICS[metric].label}": found[name]
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
        if (name := f"{metric}_{sweep.file_name}") in found
    }
    return Shown("The numbers of the curves", template="numbers.html.j2", facts={"named": named})


NUMBERS = Part(_numbers, _level_tables, accepts=None)
