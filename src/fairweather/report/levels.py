"""Numbers under each shift: curves over levels, heat maps, the scatter, and smallest levels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
from pydantic import JsonValue

from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.report.charts import (
    FAINT,
    FOCUS,
    IN_FOCUS,
    INK,
    PAPER,
    ROWS,
    RULE,
    Chart,
    Figure,
    Spec,
    choose_value,
    color_models,
    dash_models,
    describe_score,
    make_chart,
    make_level_axis,
    make_tooltip,
    order_drawing,
    paint_models,
    print_chart,
    render_figure,
    round_score,
    shape_models,
)
from fairweather.report.contents import Contents, Sweep
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import (
    ScoreColumn,
    TableLayout,
    TextTable,
    caption_scores,
    describe_interval,
    describe_metric,
    is_percent,
    tabulate_models,
)
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, NO_LEVEL

# ---------------------------------------------------------------- curves over levels

# Characters of a model's title beyond which the legend has a line for each model.
LONG_TITLE = 30
EXTENT = 36  # of vertical axes, so that charts above each other line up
HEIGHT = 165


# ---------------------------------------------------------------- figures


class PanelGrid(NamedTuple):
    """How panels are laid out so that a figure fits a page: panels in a row, and their pixels."""

    columns: int
    width: int
    height: int


LARGE_PANELS, SMALL_PANELS = PanelGrid(2, 370, 270), PanelGrid(4, 165, 130)
MOST_LARGE = 6  # panels


def draw_levels(contents: Contents, metric: str) -> Figure | None:
    """Draw a metric against the level, one panel for each shift; None where none has it."""
    charts = draw_level_charts(contents, [metric])
    drawn = [sweep for sweep in contents.sweeps if sweep.name in charts]
    if not drawn:
        return None
    layout = LARGE_PANELS if len(drawn) <= MOST_LARGE else SMALL_PANELS
    columns = 1 if max(map(len, contents.titles.values())) > LONG_TITLE else 4
    legend = alt.Legend(title=None, orient="top", columns=columns)
    panels = [
        _make_panel(
            charts[sweep.name][metric].spec, METRICS[metric].label, sweep.title, layout, legend
        )
        for sweep in drawn
    ]
    described = describe_metric(metric)
    return render_figure(
        metric,
        {"concat": panels, "columns": layout.columns, "spacing": 32},
        f"{METRICS[metric].label} as the images change",
        [
            f"{described}. Bands: {contents.intervals} at each level, joined"
            f"{describe_interval(metric)}. {contents.sample()}.",
            "Dashed line: the level that leaves images unchanged; clean results are drawn there.",
        ],
        f"{described} with 95 % intervals{describe_interval(metric)}, against "
        + " and ".join(sweep.level_title for sweep in drawn)
        + f". One curve for each of: {'; '.join(contents.titles.values())}."
        + " The tables hold the same numbers.",
        letters=110,
    )


def _make_panel(spec: Spec, label: str, title: str, layout: PanelGrid, legend: alt.Legend) -> Spec:
    """Make a chart of the page a panel, with titles of its axis and of the clean images' line."""
    heading = {"text": title, "fontSize": 13, "offset": 20}
    size = {"width": layout.width, "height": layout.height}
    panel = print_chart(spec, "title", legend, **size, title=heading)
    rule, *layers = panel["layer"]
    for layer in layers:
        layer["encoding"]["y"]["title"] = label
    word = {"type": "text", "text": "clean", "color": FAINT, "dy": -13}
    named = rule | {"mark": word, "encoding": rule["encoding"] | {"y": {"value": 0}}}
    return panel | {"layer": [rule, named, *layers]}


# ---------------------------------------------------------------- charts of the page


def draw_level_charts(contents: Contents, metrics: Sequence[str]) -> dict[str, dict[str, Chart]]:
    """Draw each of the metrics against the level: by the shift's name, and the metric's."""
    charts: dict[str, dict[str, Chart]] = {}
    for metric in metrics:
        read = [(sweep, _read_levels(contents, metric, sweep)) for sweep in contents.sweeps]
        drawn = [(sweep, rows) for sweep, rows in read if rows]
        highs = [row["high"] for _, rows in drawn for row in rows if row["high"]]
        # In steps of 0.05, so that the axis that all charts share ends at a round number.
        template = _draw_level_chart(contents, metric, math.ceil(max(highs, default=1) * 20) / 20)
        for sweep, rows in drawn:
            charts.setdefault(sweep.name, {})[metric] = _fill_chart(template, metric, sweep, rows)
    return charts


def _read_levels(contents: Contents, metric: str, sweep: Sweep) -> list[dict[str, Any]]:
    """The numbers of a metric under a shift, by model; clean images stand at the neutral level.

    None where the shift has none.
    """
    models = {title: model for model, title in contents.titles.items()}
    places = [(sweep.name, level, float(level), sweep.at(level)) for level in sweep.cells]
    places.append((CLEAN, NO_LEVEL, sweep.neutral, "clean"))
    rows = [
        {
            "title": title,
            "level": number,
            "at": place,
            **dict(zip(("value", "low", "high"), round_score(score), strict=True)),
            "text": describe_score(metric, score),
        }
        for title in order_drawing(contents)
        for shift, level, number, place in places
        if (score := contents.score(metric, models[title], shift, level))
    ]
    return rows if any(row["at"] != "clean" for row in rows) else []


def _draw_level_chart(contents: Contents, metric: str, top: float) -> Spec:
    """Build the chart of any shift: its numbers, and what its axis says, are put in later."""
    shares = alt.Axis(
        format=".0%" if is_percent(metric) else ".2~f",
        tickCount=4,
        tickMinStep=0.01,  # as fine as the labels are, so that no two read the same
        minExtent=EXTENT,
        maxExtent=EXTENT,
    )
    titles = contents.titles.values()
    x = alt.X("level:Q", axis=alt.Axis(format="~g", labelOverlap="greedy", grid=False))
    bare = alt.Chart(ROWS).encode(x=x.scale(zero=False, padding=10))
    base = bare.encode(color=color_models(titles, contents.positions))
    # A layer that has no title of its own would take the field's and add it to the axis.
    y = alt.Y("value:Q", title=None, axis=shares).scale(domain=(0, top), nice=False)
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=None),
        y2=alt.Y2("high:Q"),
        opacity=choose_value(alt.OpacityValue, IN_FOCUS, 0.16, 0.02),
    )
    quiet = choose_value(alt.OpacityValue, IN_FOCUS, 1, 0.1)
    dash = dash_models(titles, contents.positions)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, opacity=quiet, strokeDash=dash)
    points = bare.mark_point(size=44, strokeWidth=1).encode(
        y=y,
        **paint_models(contents),
        shape=shape_models(titles, contents.positions),
        opacity=quiet,
        tooltip=make_tooltip(("title", "Model"), ("at", "Images"), ("text", METRICS[metric].label)),
    )
    rule = (
        alt.Chart(alt.NamedData(name="clean"))
        .mark_rule(color=RULE, strokeDash=[4, 3])
        .encode(x=alt.X("level:Q"))
    )
    chart = alt.layer(rule, band, line, points).add_params(FOCUS)
    return make_chart("", "", chart, HEIGHT).spec


def _fill_chart(
    template: Spec, metric: str, sweep: Sweep, rows: Sequence[Mapping[str, Any]]
) -> Chart:
    """Put the numbers of a shift into the chart of any shift."""
    spec = copy.deepcopy(template)
    for layer in spec["layer"]:
        x = layer["encoding"]["x"]
        x["title"] = sweep.level_title
        x["axis"] = x.get("axis", {}) | make_level_axis(sweep, [row["level"] for row in rows])
    return Chart(
        f"{metric}-{sweep.file_name}",
        f"{METRICS[metric].label} against {sweep.level_title}, one curve for each model with its "
        "95 % interval. The table below holds the same numbers.",
        spec | {"datasets": {"rows": rows, "clean": [{"level": sweep.neutral}]}},
    )


def has_levels(contents: Contents) -> bool:
    """Say whether there is a chart of some shift."""
    return any(
        _read_levels(contents, metric, sweep)
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
    )


def _level_figures(contents: Contents) -> Iterator[Figure | None]:
    return (draw_levels(contents, metric) for metric in shown_metrics(2))


def _show_charts(contents: Contents, _: Tables) -> PartView:
    levels = draw_level_charts(contents, shown_metrics(2))
    charts = [chart for metrics in levels.values() for chart in metrics.values()]
    return PartView(charts=charts, template="levels.html.j2", facts={"levels": levels})


LEVEL_CHARTS = ReportPart(_show_charts, figures=_level_figures, accepts=None)


# ---------------------------------------------------------------- tables


def _level_tables(contents: Contents) -> Iterator[TextTable | None]:
    for sweep in contents.sweeps:
        for metric in shown_metrics(2):
            note = "".join(f". {sentence}" for sentence in sweep.notes)
            subject = f"{sweep.title}: {describe_metric(metric)} by {sweep.level_title}{note}"
            columns = [
                ScoreColumn(sweep.heading(level), metric, sweep.name, level)
                for level in sweep.cells
            ]
            caption = caption_scores(contents, subject, describe_interval(metric))
            yield tabulate_models(f"{metric}_{sweep.file_name}", caption, columns, contents)


def _show_numbers(contents: Contents, tables: Tables) -> PartView:
    by_name = {table.name: table for table in tables}
    named = {
        f"{sweep.title}: {METRICS[metric].label}": by_name[name]
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
        if (name := f"{metric}_{sweep.file_name}") in by_name
    }
    return PartView("The numbers of the curves", template="numbers.html.j2", facts={"named": named})


LEVEL_NUMBERS = ReportPart(_show_numbers, _level_tables, accepts=None)


# ---------------------------------------------------------------- heat maps

# Shifts from which on the page draws a heat map: fewer are read off the small charts.
MANY_SHIFTS = 5
TITLE_WIDTH = 200  # pixels of a model's title above a heat map


def draw_heat_map(contents: Contents, metric: str) -> Chart | None:
    """Draw the mean over levels of every shift (row) and model (column), where there are many."""
    if len(contents.sweeps) < MANY_SHIFTS:
        return None
    shifts = contents.means
    scored = [
        (title, name, score)
        for title, shift, level in shifts
        for model, name in contents.titles.items()
        if (score := contents.score(metric, model, shift, level)) is not None
    ]
    if not scored:
        return None
    rows = [
        {"shift": title, "model": name, "value": score.value, "text": describe_score(metric, score)}
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
                orient="top", labelAngle=-50, labelLimit=TITLE_WIDTH, domain=False, ticks=False
            ),
        ),
        y=alt.Y(
            "shift:N",
            sort=[title for title, _, _ in shifts],
            title=None,
            axis=alt.Axis(labelLimit=150, domain=False, ticks=False),
        ),
        tooltip=make_tooltip(
            ("model", "Model"), ("shift", "Shift"), ("text", METRICS[metric].label)
        ),
    )
    cells = base.mark_rect(stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    bright = f"datum.value > {middle}" if share else f"datum.value < {middle}"
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("value:Q", format=".0%" if share else ".2f"),
        color=choose_value(alt.ColorValue, bright, "#000000", "#ffffff"),
    )
    words = (
        f"Heat map. {METRICS[metric].label}, mean over the levels, of every shift (rows) and model "
        "(columns). The tables hold the same numbers."
    )
    layers = alt.layer(cells, numbers)
    chart = make_chart(f"heat-{metric}", words, layers, 25 * len(shifts), rows)
    # The last of the slanted titles reaches beyond its column: 6 pixels a letter, at 50 degrees.
    beyond = 0.64 * min(6 * max(map(len, contents.titles.values())), TITLE_WIDTH)
    chart.spec["padding"] = {"left": 2, "top": 2, "right": 8 + round(beyond), "bottom": 2}
    return chart


def _show_heat_maps(contents: Contents, _: Tables) -> PartView | None:
    drawn = {METRICS[metric].label: draw_heat_map(contents, metric) for metric in shown_metrics(2)}
    maps = {heading: chart for heading, chart in drawn.items() if chart is not None}
    if not maps:
        return None
    return PartView(charts=list(maps.values()), template="heat_maps.html.j2", facts={"maps": maps})


HEAT_MAPS = ReportPart(_show_heat_maps, accepts=None)


# ---------------------------------------------------------------- the scatter


def draw_scatter(contents: Contents) -> Chart | None:
    """Draw accuracy against calibration error, one point for each model, shift and level."""
    rows = list(_scatter_points(contents))
    if not rows:
        return None
    base = alt.Chart(ROWS).encode(
        x=alt.X(
            "accuracy:Q",
            title="Accuracy",
            axis=alt.Axis(format=".0%", tickCount=6, tickMinStep=0.01),
        ).scale(zero=False),
        y=alt.Y("error:Q", title="RMS calibration error", axis=alt.Axis(tickCount=6)),
        tooltip=make_tooltip(
            ("title", "Model"),
            ("at", "Images"),
            ("accuracy_text", "Accuracy"),
            ("error_text", "RMS calibration error"),
        ),
    )
    points = base.mark_point(size=46, strokeWidth=1).encode(
        **paint_models(contents),
        shape=shape_models(contents.titles.values(), contents.positions),
        opacity=choose_value(alt.OpacityValue, IN_FOCUS, 0.8, 0.08),
    )
    clean = base.transform_filter("datum.at === 'clean'").mark_point(
        size=190, shape="circle", stroke=INK, strokeWidth=1.2, fillOpacity=0
    )
    words = (
        "Scatter of accuracy against RMS calibration error, one point for each model, shift and "
        "level; clean images are circled. The tables hold the same numbers."
    )
    return make_chart("scatter", words, alt.layer(points, clean).add_params(FOCUS), 330, rows)


def _scatter_points(contents: Contents) -> Iterator[dict[str, JsonValue]]:
    words = {sweep.name: sweep for sweep in contents.sweeps}
    order = order_drawing(contents)
    for model, title in sorted(contents.titles.items(), key=lambda titled: order.index(titled[1])):
        for shift, level in contents.cells.values():
            accuracy, error = (
                contents.score(metric, model, shift, level)
                for metric in ("accuracy", "rms_calibration_error")
            )
            if accuracy is not None and error is not None:
                yield {
                    "title": title,
                    "at": "clean" if shift == CLEAN else words[shift].at(level),
                    "accuracy": accuracy.value,
                    "error": error.value,
                    "accuracy_text": describe_score("accuracy", accuracy),
                    "error_text": describe_score("rms_calibration_error", error),
                }


def _show_scatter(contents: Contents, _: Tables) -> PartView | None:
    chart = draw_scatter(contents)
    if chart is None:
        return None
    note = (
        "One point for each model, shift and level; clean images are circled. Bottom right is good."
    )
    return PartView(
        "Accuracy against calibration",
        charts=[chart],
        notes=[note],
        facts={"follow": "Follow one model through the scatter"},
    )


SCATTER = ReportPart(_show_scatter)


# ---------------------------------------------------------------- smallest levels

POINTS_BELOW_CLEAN = 0.05  # below clean images: the limit of the first column
LIMIT_SHARES = (0.95, 0.9, 0.8, 0.7, 0.5)
NO_LEVEL_BELOW = "none"
UNSURE_MARK = "*"  # marks a level whose interval still reaches the limit


class Limit(NamedTuple):
    """An accuracy that a model should not fall below.

    Attributes:
        title: for a column or a choice.
        share: the accuracy itself; None for so many points below the one on clean images.
    """

    title: str
    share: float | None

    def of(self, clean: float) -> float:
        """Return the accuracy that is meant, for a model with this one on clean images."""
        # Rounded, since 0.969 − 0.05 is a little more than 0.919 as a float.
        return round(clean - POINTS_BELOW_CLEAN, 9) if self.share is None else self.share


LIMITS = (
    Limit("5 points below clean", None),
    *(Limit(f"{100 * share:.0f} %", share) for share in LIMIT_SHARES),
)


class Crossing(NamedTuple):
    """The level nearest to clean images, on one side, at which a model is below a limit.

    Attributes:
        level: as scores.csv writes it.
        accuracy: there.
        is_open: whether the interval still reaches the limit.
    """

    level: str
    accuracy: Score
    is_open: bool


class SmallestLevels(NamedTuple):
    """What is found for one model and one shift.

    Attributes:
        model, title, sweep: of what.
        below: for each of `LIMITS`, the levels that were found; none on a side that stays above.
        unsure: for each, whether the interval at some level reaches below the limit.
    """

    model: str
    title: str
    sweep: Sweep
    below: tuple[tuple[Crossing, ...], ...]
    unsure: tuple[bool, ...]

    def texts(self) -> list[str]:
        """Write what is found for each limit: `σ = 1.2`, `f = 0.7 *; f = 1.3` or `none`."""
        marks = {True: f" {UNSURE_MARK}", False: ""}
        return [
            "; ".join(f"{self.sweep.heading(at.level)}{marks[at.is_open]}" for at in crossings)
            or f"{NO_LEVEL_BELOW}{marks[unsure]}"
            for crossings, unsure in zip(self.below, self.unsure, strict=True)
        ]


def find_smallest_levels(contents: Contents) -> list[SmallestLevels]:
    """Find for each model, shift and limit the smallest level with an accuracy below the limit.

    Only levels that were tested are looked at, and nothing is interpolated between them. A level is
    below a limit where the accuracy itself is, whatever its interval; it is marked where its
    interval still reaches the limit. The smallest level is the one nearest to what changes
    nothing; where levels lie on both sides of that, each side has its own.

    Returns:
        One for each model and shift.
    """
    rows = []
    for model, title in contents.titles.items():
        clean = contents.score("accuracy", model, CLEAN, NO_LEVEL)
        for sweep in contents.sweeps:
            scores = [
                (level, score)
                for level in sweep.cells
                if (score := contents.score("accuracy", model, sweep.name, level)) is not None
            ]
            if clean is not None and scores:
                limits = [limit.of(clean.value) for limit in LIMITS]
                crossings = tuple(tuple(_find_crossings(sweep, scores, limit)) for limit in limits)
                lowest = min((score.low for _, score in scores if not score.too_few), default=1.0)
                unsure = tuple(lowest < limit for limit in limits)
                rows.append(SmallestLevels(model, title, sweep, crossings, unsure))
    return rows


def tabulate_limits(rows: Sequence[SmallestLevels]) -> TextTable | None:
    """Lay them out, one row each; None without any."""
    if not rows:
        return None
    lines = [
        (row.model, row.title, row.sweep.name, limit.title, crossing.level, *crossing.accuracy)
        for row in rows
        for limit, crossings in zip(LIMITS, row.below, strict=True)
        for crossing in crossings
    ]
    columns = ["model", "title", "shift", "limit", "level", *Score._fields]
    caption = (
        "The smallest level tested at which accuracy is below the limit; “none”: it is at or above "
        "the limit at all levels tested. The measured accuracy is compared with the limit, not its "
        "interval, and nothing is interpolated. "
        f"“{UNSURE_MARK}”: the 95 % interval at that level still reaches the limit; beside "
        f"“none”, one at "
        "some level reaches below it."
    )
    return TextTable(
        "smallest_levels",
        TableLayout(("Model", "Shift", *(limit.title for limit in LIMITS)), words=2),
        [[row.title, row.sweep.title, *row.texts()] for row in rows],
        [caption],
        pd.DataFrame(lines, columns=columns),
    )


def _find_crossings(
    sweep: Sweep, scores: Sequence[tuple[str, Score]], limit: float
) -> Iterator[Crossing]:
    """The nearest level below the limit on each side of the neutral one, the lower side first."""
    for side in (-1, 1):
        away = {level: side * (float(level) - sweep.neutral) for level, _ in scores}
        lower = [(away[level], level, score) for level, score in scores if score.value < limit]
        nearest = min((place for place in lower if place[0] > 0), default=None)
        if nearest is not None:
            _, level, score = nearest
            yield Crossing(level, score, score.high >= limit)


def _show_limits(contents: Contents, tables: Tables) -> PartView | None:
    rows = contents.once(find_smallest_levels)
    if not rows:
        return None
    smallest = {(row.model, row.sweep.name): row.texts() for row in rows}
    facts = {"smallest": smallest, "choices": LIMITS}
    return PartView(tables=tables, template="limits.html.j2", facts=facts)


SMALLEST_LEVELS = ReportPart(
    _show_limits, lambda contents: [tabulate_limits(contents.once(find_smallest_levels))]
)
