"""Curves: a metric against the level of each shift."""

from __future__ import annotations

import copy
import json
import math
import textwrap
from typing import NamedTuple

import altair as alt
import pandas as pd

from fairweather.metrics.table import METRICS
from fairweather.report.contents import Contents
from fairweather.report.figures import (
    FAINT,
    RULE,
    Figure,
    Spec,
    level_axis,
    model_color,
    model_dash,
    model_shape,
    render,
)
from fairweather.report.sweeps import Sweep
from fairweather.report.tables import describe_metric, interval_note

# Characters of a model's title beyond which the legend has a line for each model.
LONG_TITLE = 30
# Characters of a subtitle's line.
SUBTITLE = 110


class Layout(NamedTuple):
    """How panels are laid out so that a figure fits a page: panels in a row, and their pixels."""

    columns: int
    width: int
    height: int


LARGE, SMALL = Layout(2, 370, 270), Layout(4, 165, 130)
MOST_LARGE = 6  # panels


def level_figure(contents: Contents, metric: str) -> Figure | None:
    """Draw a metric against the level, one panel for each shift; None where none has it."""
    drawn = [(sweep, contents.by_level(metric, sweep)) for sweep in contents.sweeps]
    drawn = [(sweep, frame) for sweep, frame in drawn if len(frame)]
    if not drawn:
        return None
    everything = pd.concat([frame for _, frame in drawn])
    # In steps of 0.05, so that the axis that all panels share ends at a round number.
    top = math.ceil(everything["high"].max() * 20) / 20
    layout = LARGE if len(drawn) <= MOST_LARGE else SMALL
    template = _panel(contents, metric, top, layout)
    panels = [_of_shift(template, sweep, frame) for sweep, frame in drawn]
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
        + " and ".join(sweep.level_title for sweep, _ in drawn)
        + f". One curve for each of: {'; '.join(contents.titles.values())}."
        + " The tables hold the same numbers.",
    )


def _panel(contents: Contents, metric: str, top: float, layout: Layout) -> Spec:
    """Build the panel of any shift: its numbers, and what its axis says, are put in later."""
    titles, positions = list(contents.titles.values()), contents.positions
    label = METRICS[metric].label
    columns = 1 if max(map(len, titles)) > LONG_TITLE else 4
    legend = alt.Legend(title=None, orient="top", columns=columns)
    x = alt.X("level:Q", axis=alt.Axis(format="~g", labelOverlap="greedy", grid=False))
    shares = alt.Axis(
        format=".0%" if metric == "accuracy" else ".2~f", tickCount=6, tickMinStep=0.01
    )
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        x=x.scale(zero=False, padding=14), color=model_color(titles, legend, positions)
    )
    y = alt.Y("value:Q", title=label, axis=shares)
    y = y.scale(domain=(0, top), nice=False)
    # A layer that has no title of its own would take the field's and add it to the axis.
    band = base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=label), y2=alt.Y2("high:Q"))
    line = base.mark_line(strokeWidth=2).encode(
        y=y, strokeDash=model_dash(titles, positions, legend)
    )
    points = base.mark_point(filled=True, size=75, opacity=1, stroke="white", strokeWidth=1).encode(
        y=y, shape=model_shape(titles, legend, positions)
    )
    clean = alt.Chart(alt.NamedData(name="clean")).encode(x=alt.X("level:Q"))
    rule = clean.mark_rule(color=RULE, strokeDash=[4, 3])
    word = clean.mark_text(text="clean", color=FAINT, dy=-13).encode(y=alt.YValue(0))
    panel = alt.LayerChart(
        layer=[rule, word, band, line, points], width=layout.width, height=layout.height
    )
    return panel.to_dict(validate=False)


def _of_shift(template: Spec, sweep: Sweep, frame: pd.DataFrame) -> Spec:
    """Put the numbers of a shift into the panel of any shift: many times as fast as to build it."""
    values = {
        "rows": json.loads(frame.to_json(orient="records", double_precision=15)),
        "clean": [{"level": sweep.neutral}],
    }
    panel = copy.deepcopy(template)
    for layer in panel["layer"]:
        layer["data"] = {"values": values[layer["data"]["name"]]}
        x = layer["encoding"]["x"]
        x["title"] = sweep.level_title
        if "axis" in x:
            x["axis"] |= level_axis(sweep, frame["level"])
    return panel | {"title": {"text": sweep.title, "fontSize": 13, "offset": 20}}
