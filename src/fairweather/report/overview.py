"""The first picture of a report: how far accuracy falls, and whether confidence falls with it."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

import altair as alt

from fairweather.record import (
    ALL,
    CLEAN,
    ENSEMBLE_SUFFIX,
    MEAN,
    NATURAL,
    NO_LEVEL,
    PAGE,
    base_model,
    is_shifted,
)
from fairweather.report import figures
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure, either, printed, render
from fairweather.report.other_images import all_sentences
from fairweather.report.page.drawing import FOCUS, INK, LOUD, RULE, model_paint, spec_of
from fairweather.report.performance import Performance, lowest, performance_at, worst_levels
from fairweather.report.ranking import ranking
from fairweather.report.section import Brief, Chart, Part, Shown, Tables
from fairweather.report.sentences import points
from fairweather.report.table_formats import Layout
from fairweather.report.tables import ABSENT, TOO_FEW, Entry, Row, Table
from fairweather.report.training_files import read_warnings
from fairweather.types import Score

# In the order in which they are drawn, each with its shape and that shape as a letter.
STATES: dict[str, tuple[str, str]] = {
    "Clean": ("circle", "●"),
    "Mean over shifts": ("diamond", "◆"),
    "Worst level": ("triangle-down", "▼"),
    "Strongest attack": ("square", "■"),
}
# Pixels of a state in the row of a model, by how many rows there are at most; and of the gap.
STEPS, STEP, GAP = ((6, 15), (14, 11)), 8, 12
LINE = 26  # letters of a title in one line beside the chart
LINES = 3
MOST_NUMBERED = 14  # rows that have room for their numbers
LABELS = 190  # pixels of these titles at most
WIDTHS = {"accuracy": 340, "gap": 300}  # pixels of the two panels of the figure
TENTH = 0.05  # the axis of confidence − accuracy ends at a multiple of it
ROOM = 0.12  # of that axis on either side, for the numbers
# The two charts stand beside each other, in files and in windows as wide as the style says: then
# they share the titles of their rows.
BESIDE = "!(windowSize()[0] < 720)"
LEAST = 0.1  # and reaches so far on either side, so that a small gap looks small
SUBTITLE = 120

BRIEF = Layout(("model", "images", "accuracy (%)", "confidence − accuracy"), words=2)
MOST_LINES = 40  # in a terminal
MOST_SENTENCES = 5  # above them; the page has all

Measure = Literal["accuracy", "gap"]
TITLES: dict[Measure, str | list[str]] = {
    "accuracy": "Accuracy",
    "gap": ["confidence − accuracy (points)", "← underconfident · overconfident →"],
}
SHORT: dict[Measure, str] = {"accuracy": "Accuracy", "gap": "Confidence − accuracy"}


class Reading(NamedTuple):
    """What one model does in one state of the test images.

    Attributes:
        model, title: its names.
        state: one of `STATES`.
        place: which images, in words.
        performance: there.
    """

    model: str
    title: str
    state: str
    place: str
    performance: Performance


def readings(contents: Contents, model: str) -> list[Reading]:
    """Read accuracy and confidence of a model in each state: clean, mean, worst level, attacked.

    The worst level is that of the lowest accuracy, and the strongest attack likewise. There is no
    mean where only one set of shifted images was tested.
    """
    found = worst_levels(contents, model)
    states: list[tuple[str, str, Performance | None]] = [
        ("Clean", "clean images", performance_at(contents, model, CLEAN, NO_LEVEL))
    ]
    if sum(low.levels for low in found.shifts) > 1:
        mean = performance_at(contents, model, ALL, MEAN)
        states.append(("Mean over shifts", "mean over all shifts", mean))
    for state, lows in (("Worst level", found.shifts), ("Strongest attack", found.attacks)):
        if (low := lowest(lows)) is not None:
            states.append((state, low.sweep.at(low.level), low.performance))
    return [
        Reading(model, contents.titles[model], state, place, performance)
        for state, place, performance in states
        if performance is not None
    ]


def in_order(contents: Contents, ranked: Sequence[str]) -> list[str]:
    """Order the models as they are ranked, each before its variants; without ranks as they are.

    Args:
        contents: of the run.
        ranked: the models in the order of the ranking; variants are not among them.
    """
    place = {model: at for at, model in enumerate(ranked)}
    return sorted(contents.titles, key=lambda model: place.get(base_model(model), len(place)))


def ranked_order(contents: Contents) -> list[str]:
    """Order the models as they are ranked."""
    ranks = contents.once(ranking)
    return in_order(contents, [row.model for row in ranks.rows] if ranks else [])


def overview_figure(contents: Contents, order: Sequence[str]) -> Figure | None:
    """Draw a row for each model: accuracy, and beside it confidence − accuracy, in each state.

    None where no model was tested on clean images.
    """
    read = [each for model in order for each in readings(contents, model)]
    if not read:
        return None
    legend = alt.Legend(
        title=None, orient="top", symbolFillColor=figures.INK, symbolStrokeColor=figures.INK
    )
    panels = [
        printed(
            chart.spec,
            "state",
            legend,
            width=WIDTHS[measure],
            height=chart.spec["height"],
            title={"text": _HEADINGS[measure], "fontSize": 13, "anchor": "start", "offset": 10},
        )
        for measure, chart in overview_charts(contents, order).items()
    ]
    alone = len({each.state for each in read}) == 1
    title = "Accuracy and confidence on clean images" if alone else "What the shifts cost"
    subtitle = f"Lines: {contents.intervals}. {contents.sample()}."
    return render(
        "overview",
        {"hconcat": panels, "spacing": 24},
        alt.Title(title, subtitle=textwrap.wrap(subtitle, SUBTITLE, break_on_hyphens=False)),
        alt_text(contents, read),
    )


_HEADINGS: dict[Measure, str] = {
    "accuracy": "How far does accuracy fall?",
    "gap": "Does confidence fall with accuracy?",
}


def alt_text(contents: Contents, read: Sequence[Reading], measure: Measure | None = None) -> str:
    """Say what somebody who does not see the chart has to know."""
    what = {"accuracy": "accuracy", "gap": "confidence minus accuracy"}
    drawn = what[measure] if measure else " and ".join(what.values())
    states = ", ".join(state.lower() for state in STATES if state in {r.state for r in read})
    models = "; ".join(dict.fromkeys(each.title for each in read))
    return (
        f"One row for each model: {drawn} with its interval, for {states}. "
        f"Models: {models}. The table below the chart has the same numbers."
    )


class _Point(TypedDict):
    """A point of the chart with its interval; no ends where too few errors carry the number."""

    at: int
    title: str
    state: str
    step: int
    place: str
    value: float
    low: float | None
    high: float | None
    text: str


def forest(
    contents: Contents,
    read: Sequence[Reading],
    measure: Measure,
) -> alt.LayerChart | None:
    """Build the chart of one measure, a row for each model; None where nothing was measured.

    Args:
        contents: of the run.
        read: in the order of the rows.
        measure: what is drawn.
    """
    titles = list(dict.fromkeys(each.title for each in read))
    states = [state for state in STATES if state in {each.state for each in read}]
    rows = [row for each in read if (row := _point(each, measure, titles, states)) is not None]
    if not rows:
        return None
    lines = [textwrap.wrap(title, LINE)[:LINES] or [""] for title in titles]
    step = next((pixels for most, pixels in STEPS if len(titles) <= most), STEP)
    height = max(step * len(states), 14 * max(map(len, lines))) + GAP
    named = "true" if measure == "accuracy" else f"!({BESIDE})"
    axis = alt.Axis(
        labelExpr=f"({named}) ? {_names(lines)}[datum.value] : ''",
        labelLimit=LABELS,
        labelLineHeight=13,
        labelFontSize=12,
        tickBand="extent",
        grid=True,
        ticks=False,
        domain=False,
    )
    inner = GAP / height
    y = alt.Y(
        "at:O",
        title=None,
        axis=axis,
        scale=alt.Scale(
            domain=list(range(len(titles))), paddingInner=inner, paddingOuter=inner / 2
        ),
    )
    offset = alt.YOffset("state:N", scale=alt.Scale(domain=states, padding=0))
    painted = model_paint(contents)
    scale, ticks = _axis(rows, measure)
    x = alt.X("value:Q", title=TITLES[measure], scale=scale, axis=ticks)
    base = alt.Chart().encode(y=y, yOffset=offset)
    seen = either(alt.OpacityValue, LOUD, 1, 0.15)
    path = base.mark_line(strokeWidth=1, strokeDash=[2, 3]).encode(
        x=x,
        stroke=painted["stroke"],
        detail=alt.Detail("at:O"),
        order=alt.Order("step:Q"),
        opacity=either(alt.OpacityValue, LOUD, 0.7, 0.1),
    )
    ends = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(
            x=alt.X("low:Q", title=TITLES[measure], scale=scale, axis=ticks),
            x2=alt.X2("high:Q"),
            stroke=painted["stroke"],
            opacity=seen,
        )
    )
    shapes = [STATES[state][0] for state in states]
    spots = base.mark_point(size=62, strokeWidth=1.5).encode(
        x=x,
        **painted,
        shape=alt.Shape(
            "state:N",
            scale=alt.Scale(domain=states, range=shapes),
            legend=None,
        ),
        opacity=seen,
        tooltip=[
            alt.Tooltip("title:N", title="Model"),
            alt.Tooltip("place:N", title="Images"),
            alt.Tooltip("text:N", title=SHORT[measure]),
        ],
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=RULE, strokeWidth=1.5)
    numbers = _numbers(base, measure, scale) if len(titles) <= MOST_NUMBERED else []
    at_zero = zero.encode(x=alt.X("zero:Q", title=TITLES[measure], scale=scale, axis=ticks))
    line = [at_zero] if measure == "gap" else []
    return alt.LayerChart(
        layer=[*line, path, ends, *numbers, spots.add_params(FOCUS)],
        data=alt.Data(values=rows),
        height=height * len(titles),
    )


def _numbers(base: alt.Chart, measure: Measure, scale: alt.Scale) -> list[alt.Chart]:
    """Write each number beside its interval: inside the axis, and away from the line at 0."""
    number = "format(100 * datum.value, '.1f')"
    beside = base.transform_calculate(
        number=number if measure == "accuracy" else f"(datum.value > 0 ? '+' : '') + {number}",
        left="datum.value > 0.5" if measure == "accuracy" else "datum.value < 0",
        end="isValid(datum.low) ? (datum.left ? datum.low : datum.high) : datum.value",
    )
    found = []
    sides: tuple[tuple[str, Literal["left", "right"], int], ...]
    sides = (("datum.left", "right", -8), ("!datum.left", "left", 8))
    for side, align, dx in sides:
        text = beside.transform_filter(side).mark_text(
            align=align, dx=dx, baseline="middle", fontSize=11, color=INK
        )
        at = alt.X("end:Q", title=TITLES[measure], scale=scale)
        numbered = "true" if measure == "accuracy" else BESIDE
        seen = either(alt.OpacityValue, numbered, 1, 0)
        found.append(text.encode(x=at, text=alt.Text("number:N"), opacity=seen))
    return found


def _point(
    each: Reading, measure: Measure, titles: Sequence[str], states: Sequence[str]
) -> _Point | None:
    score = getattr(each.performance, measure)
    if score is None or math.isnan(score.value):
        return None
    return _Point(
        at=titles.index(each.title),
        title=each.title,
        state=each.state,
        step=states.index(each.state),
        place=each.place,
        value=score.value,
        low=None if math.isnan(score.low) else score.low,
        high=None if math.isnan(score.high) else score.high,
        text=Entry(score, percent=True).in_words if measure == "accuracy" else points(score),
    )


def _axis(rows: Sequence[_Point], measure: Measure) -> tuple[alt.Scale, alt.Axis]:
    if measure == "accuracy":
        values = [0, 0.25, 0.5, 0.75, 1]
        return alt.Scale(domain=[0, 1]), alt.Axis(format=".0%", values=values)
    ends = [end for row in rows for end in (row["low"], row["value"], row["high"])]
    known = [end for end in ends if end is not None]
    low, high = min(*known, -LEAST), max(*known, LEAST)
    room = ROOM * (high - low)
    low = math.floor((low - room) / TENTH) * TENTH
    high = math.ceil((high + room) / TENTH) * TENTH
    sign = "(datum.value > 0.001 ? '+' : '') + format(100 * datum.value, '.0f')"
    axis = alt.Axis(tickCount=5, labelExpr=sign)
    return alt.Scale(domain=[round(low, 2), round(high, 2)], nice=False), axis


def _names(lines: Sequence[Sequence[str]]) -> str:
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    return json.dumps(lines).replace(".", r"\u002e")


def overview_table(contents: Contents, order: Sequence[str]) -> Table | None:
    """Lay out what the overview draws, one row per model; None where there is nothing."""
    read = {(each.model, each.state): each for model in order for each in readings(contents, model)}
    states = [state for state in STATES if state in {state for _, state in read}]
    if not read:
        return None

    def entry(model: str, state: str, measure: Measure) -> Entry | None:
        reading = read.get((model, state))
        score: Score | None = getattr(reading.performance, measure) if reading else None
        return None if score is None or math.isnan(score.value) else Entry(score, percent=True)

    columns = [(state, measure) for measure in TITLES for state in states]
    heads = {"accuracy": "accuracy (%)", "gap": "confidence − accuracy (points)"}
    keys = {"accuracy": "accuracy", "gap": "confidence_gap"}
    worst = (
        " Worst level: the one with the model's lowest accuracy; accuracy and confidence are "
        "those of that level."
        if "Worst level" in states
        else ""
    )
    return Table(
        name="overview",
        caption=(
            "Accuracy, and mean confidence − accuracy: above 0 a model is overconfident, below 0 "
            f"underconfident.{worst} In brackets: {contents.intervals}. {contents.sample()}."
        ),
        header=("Model", *(f"{state}: {heads[measure]}" for state, measure in columns)),
        keys=("model", *(f"{state.lower()} {keys[measure]}" for state, measure in columns)),
        rows=tuple(
            Row(
                model,
                contents.titles[model],
                contents.titles[model],
                tuple(entry(model, state, measure) for state, measure in columns),
            )
            for model in order
            if any((model, state) in read for state in states)
        ),
    )


# ---------------------------------------------------------------- on the page


def overview_charts(contents: Contents, order: Sequence[str]) -> dict[Measure, Chart]:
    """Draw accuracy, and confidence − accuracy, of each model in each state, in this order."""
    read = [each for model in order for each in readings(contents, model)]
    found: dict[Measure, Chart] = {}
    for measure in TITLES:
        chart = forest(contents, read, measure)
        if chart is not None:
            spec = spec_of(chart.properties(width="container"))
            words = alt_text(contents, read, measure)
            found[measure] = Chart(f"overview-{measure}", words, spec)
    return found


def _shown(contents: Contents, tables: Tables) -> Shown:
    charts = overview_charts(contents, order := ranked_order(contents))
    seen = {each.state for model in order for each in readings(contents, model)}
    facts = {
        "overview": charts,
        "states": [(glyph, state) for state, (_, glyph) in STATES.items() if state in seen],
        "warnings": read_warnings(contents),
    }
    return Shown("", tables, list(charts.values()), template="overview.html.j2", facts=facts)


PART = Part(
    _shown,
    lambda contents: [overview_table(contents, ranked_order(contents))],
    lambda contents: [overview_figure(contents, ranked_order(contents))],
)


# ---------------------------------------------------------------- in a terminal


def brief(contents: Contents) -> Brief:
    """Say what is found about other images, and tabulate each model on clean and shifted ones."""
    found = all_sentences(contents)
    told, rest = found[:MOST_SENTENCES], len(found) - MOST_SENTENCES
    more = [f"{PAGE} has {rest} more such sentences."] if rest > 0 else []
    return Brief([*told, *more], BRIEF, _brief_lines(contents))


def _brief_lines(contents: Contents) -> list[list[str]]:
    """One line per model and state of the images, as text; ensembles are left out."""
    scores = contents.scores
    rows = scores[scores["metric"].isin(["accuracy", "confidence_gap"])]
    rows = rows[rows["seed"] == contents.shown_seed]
    levels = {
        shift: MEAN if is_shifted(shift) else NO_LEVEL
        for shift in rows["shift"].unique()
        if shift == CLEAN or shift.startswith(NATURAL) or is_shifted(shift)
    }
    found = []
    for model in rows["model"].unique():
        for shift, level in levels.items():
            read = (
                contents.score(name, model, shift, level) for name in ("accuracy", "confidence_gap")
            )
            accuracy, gap = read
            if not model.endswith(ENSEMBLE_SUFFIX) and (accuracy or gap):
                found.append([model, shift, _percent(accuracy, "z.1f"), _percent(gap, "+z.1f")])
    if len(found) > MOST_LINES:
        found = [line for line in found if line[1] in (CLEAN, ALL)]
    before = ["", *(model for model, *_ in found)]
    return [
        ["" if line[0] == model else line[0], *line[1:]]
        for line, model in zip(found, before, strict=False)
    ]


def _percent(score: Score | None, form: str) -> str:
    if score is None or math.isnan(score.value):
        return ABSENT
    value, low, high = (f"{100 * number:{form}}".replace("-", "−") for number in score[:3])
    return f"{value} ({TOO_FEW})" if score.too_few else f"{value} [{low}, {high}]"
