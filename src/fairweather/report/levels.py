"""Numbers under each shift: curves over levels, tables, and the smallest levels below a limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.report.charts import (
    FAINT,
    INK,
    RULE,
    Figure,
    color_models,
    dash_models,
    make_level_axis,
    order_drawing,
    paint_models,
    render_figure,
    round_score,
    shape_models,
)
from fairweather.report.contents import Contents, Sweep
from fairweather.report.section import ReportPart, show_figures, show_tables
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


class PanelGrid(NamedTuple):
    """How panels are laid out so that a figure fits a page: panels in a row, and their pixels."""

    columns: int
    width: int
    height: int


LARGE_PANELS, SMALL_PANELS = PanelGrid(2, 370, 270), PanelGrid(4, 165, 130)
MOST_LARGE = 6  # panels


def draw_levels(contents: Contents, metric: str, promised: Sequence[float] = ()) -> Figure | None:
    """Draw a metric against the level, one panel for each shift; None where none has it.

    `promised` are numbers that dashed horizontal lines mark.
    """
    read = [(sweep, _read_levels(contents, metric, sweep)) for sweep in contents.sweeps]
    drawn = [(sweep, rows) for sweep, rows in read if rows]
    if not drawn:
        return None
    highs = [row["high"] for _, rows in drawn for row in rows if row["high"]]
    # In steps of 0.05, so that the axis that all panels share ends at a round number.
    top = math.ceil(max(highs, default=1) * 20) / 20
    layout = LARGE_PANELS if len(drawn) <= MOST_LARGE else SMALL_PANELS
    panels = [
        _draw_panel(contents, metric, sweep, rows, top, promised).properties(
            width=layout.width,
            height=layout.height,
            title=alt.Title(sweep.title, fontSize=13, offset=20),
        )
        for sweep, rows in drawn
    ]
    described, label = describe_metric(metric), METRICS[metric].label
    notes = ["Dashed line: the level that leaves images unchanged; clean results are drawn there."]
    notes += ["Dashed horizontal line: the promised coverage."] if promised else []
    return render_figure(
        metric.replace("/", "_"),
        alt.concat(*panels, columns=layout.columns, spacing=32),
        f"{label} as the images change",
        [
            f"{described}. Bands: {contents.intervals} at each level, joined"
            f"{describe_interval(metric)}. {contents.sample()}.",
            *notes,
        ],
        f"{described} with 95 % intervals{describe_interval(metric)}, against "
        + " and ".join(sweep.level_title for sweep, _ in drawn)
        + f". One curve for each of: {'; '.join(contents.titles.values())}."
        + " The tables hold the same numbers.",
        letters=110,
    )


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
        }
        for title in order_drawing(contents)
        for shift, level, number, place in places
        if (score := contents.score(metric, models[title], shift, level))
    ]
    return rows if any(row["at"] != "clean" for row in rows) else []


def _draw_panel(
    contents: Contents,
    metric: str,
    sweep: Sweep,
    rows: Sequence[Mapping[str, Any]],
    top: float,
    promised: Sequence[float],
) -> alt.LayerChart | alt.FacetChart:
    """Draw a metric under a shift: a curve and its band for each model."""
    shares = alt.Axis(
        format=".0%" if is_percent(metric) else ".2~f",
        tickCount=4,
        tickMinStep=0.01,  # as fine as the labels are, so that no two read the same
    )
    titles, label = contents.titles.values(), METRICS[metric].label
    columns = 1 if max(map(len, titles)) > LONG_TITLE else 4
    legend = alt.Legend(title=None, orient="top", columns=columns)
    axis = make_level_axis(sweep, [row["level"] for row in rows])
    axis |= {"format": "~g", "labelOverlap": "greedy", "grid": False}
    x = alt.X("level:Q", title=sweep.level_title, axis=axis).scale(zero=False, padding=10)
    bare = alt.Chart(alt.Data(values=rows)).encode(x=x)
    base = bare.encode(color=color_models(titles, contents.positions, legend))
    y = alt.Y("value:Q", title=label, axis=shares).scale(domain=(0, top), nice=False)
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=label), y2=alt.Y2("high:Q"))
    dash = dash_models(titles, contents.positions, legend)
    line = base.mark_line(strokeWidth=1.8).encode(y=y, strokeDash=dash)
    points = bare.mark_point(size=44, strokeWidth=1, opacity=1).encode(
        y=y,
        **paint_models(contents, legend),
        shape=shape_models(titles, contents.positions, legend),
    )
    clean = alt.Chart(alt.Data(values=[{"level": sweep.neutral}])).encode(x=alt.X("level:Q"))
    rule = clean.mark_rule(color=RULE, strokeDash=[4, 3])
    word = clean.mark_text(text="clean", color=FAINT, dy=-13).encode(y=alt.YValue(0))
    lines = alt.Chart(alt.Data(values=[{"value": value} for value in promised]))
    kept = lines.mark_rule(color=INK, strokeDash=[6, 3]).encode(y=alt.Y("value:Q", title=label))
    return alt.layer(rule, word, band, line, points, *([kept] if promised else []))


def has_levels(contents: Contents) -> bool:
    """Say whether there is a chart of some shift."""
    return any(
        _read_levels(contents, metric, sweep)
        for sweep in contents.sweeps
        for metric in shown_metrics(2)
    )


def _level_figures(contents: Contents) -> Iterator[Figure | None]:
    return (draw_levels(contents, metric) for metric in shown_metrics(2))


LEVEL_CHARTS = ReportPart(
    show_figures("Each metric against the level", *shown_metrics(2)),
    figures=_level_figures,
    accepts=None,
)


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


LEVEL_NUMBERS = ReportPart(show_tables("Each level"), _level_tables, accepts=None)


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


SMALLEST_LEVELS = ReportPart(
    show_tables("The smallest level at which accuracy falls below a limit"),
    lambda contents: [tabulate_limits(find_smallest_levels(contents))],
)
