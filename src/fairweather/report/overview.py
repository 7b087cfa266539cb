"""The answer: accuracy and confidence of each model in one chart, and what is found in words."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Literal, NamedTuple, TypedDict

import altair as alt
import numpy as np

from fairweather.metrics import mcnemar_exact, paired_change
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.metric import IntervalKind
from fairweather.metrics.seeds import crossed_mean
from fairweather.report import sentences as words
from fairweather.report.charts import (
    FOCUS,
    IN_FOCUS,
    INK,
    RULE,
    Figure,
    choose_value,
    make_spec,
    paint_models,
    print_chart,
    render_figure,
)
from fairweather.report.contents import Contents
from fairweather.report.other_images import list_other_images
from fairweather.report.performance import (
    FloatArray,
    ImageKeys,
    ModelOutcome,
    PairedChange,
    Performance,
    WorstLevels,
    estimate_seed_means,
    find_lowest,
    find_miscalibrated_class,
    find_worst_levels,
    gives_same_answers,
    read_by_seed,
    read_correct,
    read_image_keys,
    read_performance,
)
from fairweather.report.ranking import Ranking, drop_variants, rank_models
from fairweather.report.section import Brief, Chart, PartView, ReportPart, Tables
from fairweather.report.sentences import format_points
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW,
    ScoreEntry,
    ScoreRow,
    TableLayout,
    TextTable,
    tabulate_scores,
)
from fairweather.report.training import read_warnings
from fairweather.types.measurement import Score
from fairweather.types.record import (
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
from fairweather.variants.variant import Variant

# ---------------------------------------------------------------- the first picture of a report: ho

# In the order in which they are drawn, each with its shape and that shape as a letter.
STATES: dict[str, tuple[str, str]] = {
    "Clean": ("circle", "●"),
    "Mean over shifts": ("diamond", "◆"),
    "Worst level": ("triangle-down", "▼"),
    "Strongest attack": ("square", "■"),
}
# Pixels of a state in the row of a model, by how many rows there are at most; and of the gap.
STEPS, SMALLEST_STEP, GAP = ((6, 15), (14, 11)), 8, 12
TITLE_LETTERS = 26  # letters of a title in one line beside the chart
TITLE_LINES = 3
MOST_NUMBERED = 14  # rows that have room for their numbers
LABEL_WIDTH = 190  # pixels of these titles at most
WIDTHS = {"accuracy": 340, "gap": 300}  # pixels of the two panels of the figure
AXIS_STEP = 0.05  # the axis of confidence − accuracy ends at a multiple of it
AXIS_ROOM = 0.12  # of that axis on either side, for the numbers
# The two charts stand beside each other, in files and in windows as wide as the style says: then
# they share the titles of their rows.
SIDE_BY_SIDE = "!(windowSize()[0] < 720)"
AXIS_LEAST = 0.1  # and reaches so far on either side, so that a small gap looks small
SUBTITLE_LETTERS = 120

BRIEF = TableLayout(("model", "images", "accuracy (%)", "confidence − accuracy"), words=2)
MOST_LINES = 40  # in a terminal
MOST_SENTENCES = 5  # above them; the page has all

Measure = Literal["accuracy", "gap"]
TITLES: dict[Measure, str | list[str]] = {
    "accuracy": "Accuracy",
    "gap": ["confidence − accuracy (points)", "← underconfident · overconfident →"],
}
SHORT_TITLES: dict[Measure, str] = {"accuracy": "Accuracy", "gap": "Confidence − accuracy"}


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


def read_states(contents: Contents, model: str) -> list[Reading]:
    """Read accuracy and confidence of a model in each state: clean, mean, worst level, attacked.

    The worst level is that of the lowest accuracy, and the strongest attack likewise. There is no
    mean where only one set of shifted images was tested.
    """
    found = find_worst_levels(contents, model)
    states: list[tuple[str, str, Performance | None]] = [
        ("Clean", "clean images", read_performance(contents, model, CLEAN, NO_LEVEL))
    ]
    if sum(low.levels for low in found.shifts) > 1:
        mean = read_performance(contents, model, ALL, MEAN)
        states.append(("Mean over shifts", "mean over all shifts", mean))
    for state, lows in (("Worst level", found.shifts), ("Strongest attack", found.attacks)):
        if (low := find_lowest(lows)) is not None:
            states.append((state, low.sweep.at(low.level), low.performance))
    return [
        Reading(model, contents.titles[model], state, place, performance)
        for state, place, performance in states
        if performance is not None
    ]


def order_models(contents: Contents, ranked: Sequence[str]) -> list[str]:
    """Order the models as they are ranked, each before its variants; without ranks as they are.

    Args:
        contents: of the run.
        ranked: the models in the order of the ranking; variants are not among them.
    """
    place = {model: at for at, model in enumerate(ranked)}
    return sorted(contents.titles, key=lambda model: place.get(base_model(model), len(place)))


def order_by_rank(contents: Contents) -> list[str]:
    """Order the models as they are ranked."""
    ranks = contents.once(rank_models)
    return order_models(contents, [row.model for row in ranks.rows] if ranks else [])


def draw_overview(contents: Contents, order: Sequence[str]) -> Figure | None:
    """Draw a row for each model: accuracy, and beside it confidence − accuracy, in each state.

    None where no model was tested on clean images.
    """
    read = [each for model in order for each in read_states(contents, model)]
    if not read:
        return None
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolFillColor=INK,
        symbolStrokeColor=INK,
    )
    panels = [
        print_chart(
            chart.spec,
            "state",
            legend,
            width=WIDTHS[measure],
            height=chart.spec["height"],
            title={"text": _HEADINGS[measure], "fontSize": 13, "anchor": "start", "offset": 10},
        )
        for measure, chart in draw_overview_charts(contents, order).items()
    ]
    alone = len({each.state for each in read}) == 1
    title = "Accuracy and confidence on clean images" if alone else "What the shifts cost"
    subtitle = f"Lines: {contents.intervals}. {contents.sample()}."
    return render_figure(
        "overview",
        {"hconcat": panels, "spacing": 24},
        alt.Title(
            title, subtitle=textwrap.wrap(subtitle, SUBTITLE_LETTERS, break_on_hyphens=False)
        ),
        describe_chart(contents, read),
    )


_HEADINGS: dict[Measure, str] = {
    "accuracy": "How far does accuracy fall?",
    "gap": "Does confidence fall with accuracy?",
}


def describe_chart(
    contents: Contents, read: Sequence[Reading], measure: Measure | None = None
) -> str:
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


def draw_forest(
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
    rows = [row for each in read if (row := _make_point(each, measure, titles, states)) is not None]
    if not rows:
        return None
    lines = [textwrap.wrap(title, TITLE_LETTERS)[:TITLE_LINES] or [""] for title in titles]
    step = next((pixels for most, pixels in STEPS if len(titles) <= most), SMALLEST_STEP)
    height = max(step * len(states), 14 * max(map(len, lines))) + GAP
    named = "true" if measure == "accuracy" else f"!({SIDE_BY_SIDE})"
    axis = alt.Axis(
        labelExpr=f"({named}) ? {_label_rows(lines)}[datum.value] : ''",
        labelLimit=LABEL_WIDTH,
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
    painted = paint_models(contents)
    scale, ticks = _make_axis(rows, measure)
    x = alt.X("value:Q", title=TITLES[measure], scale=scale, axis=ticks)
    base = alt.Chart().encode(y=y, yOffset=offset)
    seen = choose_value(alt.OpacityValue, IN_FOCUS, 1, 0.15)
    path = base.mark_line(strokeWidth=1, strokeDash=[2, 3]).encode(
        x=x,
        stroke=painted["stroke"],
        detail=alt.Detail("at:O"),
        order=alt.Order("step:Q"),
        opacity=choose_value(alt.OpacityValue, IN_FOCUS, 0.7, 0.1),
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
            alt.Tooltip("text:N", title=SHORT_TITLES[measure]),
        ],
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=RULE, strokeWidth=1.5)
    numbers = _draw_numbers(base, measure, scale) if len(titles) <= MOST_NUMBERED else []
    at_zero = zero.encode(x=alt.X("zero:Q", title=TITLES[measure], scale=scale, axis=ticks))
    line = [at_zero] if measure == "gap" else []
    return alt.LayerChart(
        layer=[*line, path, ends, *numbers, spots.add_params(FOCUS)],
        data=alt.Data(values=rows),
        height=height * len(titles),
    )


def _draw_numbers(base: alt.Chart, measure: Measure, scale: alt.Scale) -> list[alt.Chart]:
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
        numbered = "true" if measure == "accuracy" else SIDE_BY_SIDE
        seen = choose_value(alt.OpacityValue, numbered, 1, 0)
        found.append(text.encode(x=at, text=alt.Text("number:N"), opacity=seen))
    return found


def _make_point(
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
        text=ScoreEntry(score, percent=True).in_words
        if measure == "accuracy"
        else format_points(score),
    )


def _make_axis(rows: Sequence[_Point], measure: Measure) -> tuple[alt.Scale, alt.Axis]:
    if measure == "accuracy":
        values = [0, 0.25, 0.5, 0.75, 1]
        return alt.Scale(domain=[0, 1]), alt.Axis(format=".0%", values=values)
    ends = [end for row in rows for end in (row["low"], row["value"], row["high"])]
    known = [end for end in ends if end is not None]
    low, high = min(*known, -AXIS_LEAST), max(*known, AXIS_LEAST)
    room = AXIS_ROOM * (high - low)
    low = math.floor((low - room) / AXIS_STEP) * AXIS_STEP
    high = math.ceil((high + room) / AXIS_STEP) * AXIS_STEP
    sign = "(datum.value > 0.001 ? '+' : '') + format(100 * datum.value, '.0f')"
    axis = alt.Axis(tickCount=5, labelExpr=sign)
    return alt.Scale(domain=[round(low, 2), round(high, 2)], nice=False), axis


def _label_rows(lines: Sequence[Sequence[str]]) -> str:
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    return json.dumps(lines).replace(".", r"\u002e")


def tabulate_overview(contents: Contents, order: Sequence[str]) -> TextTable | None:
    """Lay out what the overview draws, one row per model; None where there is nothing."""
    read = {
        (each.model, each.state): each for model in order for each in read_states(contents, model)
    }
    states = [state for state in STATES if state in {state for _, state in read}]
    if not read:
        return None

    def entry(model: str, state: str, measure: Measure) -> ScoreEntry | None:
        reading = read.get((model, state))
        score: Score | None = getattr(reading.performance, measure) if reading else None
        return None if score is None or math.isnan(score.value) else ScoreEntry(score, percent=True)

    worst = (
        " Worst level: the one with the model's lowest accuracy; accuracy and confidence are "
        "those of that level."
        if "Worst level" in states
        else ""
    )
    caption = (
        "Accuracy, and mean confidence − accuracy: above 0 a model is overconfident, below 0 "
        f"underconfident.{worst} In brackets: {contents.intervals}. {contents.sample()}."
    )
    columns = [(state, measure) for measure in TITLES for state in states]
    heads: dict[Measure, tuple[str, str]] = {
        "accuracy": ("accuracy (%)", "accuracy"),
        "gap": ("confidence − accuracy (points)", "confidence_gap"),
    }
    named = [(state, *heads[measure]) for state, measure in columns]
    head = [(f"{state}: {title}", f"{state.lower()} {key}") for state, title, key in named]
    rows = [
        ScoreRow(model, contents.titles[model], [entry(model, *column) for column in columns])
        for model in order
        if any((model, state) in read for state in states)
    ]
    return tabulate_scores("overview", caption, [("Model", "model"), *head], rows)


# ---------------------------------------------------------------- on the page


def draw_overview_charts(contents: Contents, order: Sequence[str]) -> dict[Measure, Chart]:
    """Draw accuracy, and confidence − accuracy, of each model in each state, in this order."""
    read = [each for model in order for each in read_states(contents, model)]
    found: dict[Measure, Chart] = {}
    for measure in TITLES:
        chart = draw_forest(contents, read, measure)
        if chart is not None:
            spec = make_spec(chart.properties(width="container"))
            words = describe_chart(contents, read, measure)
            found[measure] = Chart(f"overview-{measure}", words, spec)
    return found


def _show_overview(contents: Contents, tables: Tables) -> PartView:
    charts = draw_overview_charts(contents, order := order_by_rank(contents))
    seen = {each.state for model in order for each in read_states(contents, model)}
    facts = {
        "overview": charts,
        "states": [(glyph, state) for state, (_, glyph) in STATES.items() if state in seen],
        "warnings": read_warnings(contents),
    }
    return PartView("", tables, list(charts.values()), template="overview.html.j2", facts=facts)


OVERVIEW = ReportPart(
    _show_overview,
    lambda contents: [tabulate_overview(contents, order_by_rank(contents))],
    lambda contents: [draw_overview(contents, order_by_rank(contents))],
)


# ---------------------------------------------------------------- in a terminal


def summarize_overview(contents: Contents) -> Brief:
    """Say what is found about other images, and tabulate each model on clean and shifted ones."""
    found = list_other_images(contents)
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
                found.append(
                    [model, shift, _format_percent(accuracy, "z.1f"), _format_percent(gap, "+z.1f")]
                )
    if len(found) > MOST_LINES:
        found = [line for line in found if line[1] in (CLEAN, ALL)]
    before = ["", *(model for model, *_ in found)]
    return [
        ["" if line[0] == model else line[0], *line[1:]]
        for line, model in zip(found, before, strict=False)
    ]


def _format_percent(score: Score | None, form: str) -> str:
    if score is None or math.isnan(score.value):
        return ABSENT
    value, low, high = (f"{100 * number:{form}}".replace("-", "−") for number in score[:3])
    return f"{value} ({TOO_FEW})" if score.too_few else f"{value} [{low}, {high}]"


# ---------------------------------------------------------------- what is found of each model, in a


class ModelFindings(NamedTuple):
    """What the report says of a model in words, as plain text that is to be escaped.

    Attributes:
        model, title: its names.
        sentences: at most three: of accuracy, of confidence, and of what is deferred to a person.
        more: what a reader may want to know besides.
        outcome: the numbers behind the sentences.
    """

    model: str
    title: str
    sentences: tuple[str, ...]
    more: tuple[str, ...]
    outcome: ModelOutcome


def find_findings(contents: Contents) -> list[ModelFindings]:
    """Say of each model how far its accuracy falls and whether its confidence falls with it.

    Accuracy "falls" only where the 95 % interval of the paired difference to clean images excludes
    0, and where that is not to be expected of the worst of so many shifted sets (Bonferroni's
    correction of McNemar's test, or of that of `cross` where there are several seeds). A model is
    called overconfident where the interval of mean confidence − accuracy is above 0, widened by the
    same correction. Where it is not, a class comes first whose mean probability differs from its
    share of the images. Where there are no predictions to pair, two numbers differ where their
    intervals do not overlap. Of a variant that gives the answers of its base model only the
    confidence is told.

    Returns:
        One for each model that was tested on clean images, in the study's order.
    """
    images = read_image_keys(contents)
    worst = {
        model: find_worst_levels(contents, model)
        for model in contents.titles
        if contents.score("accuracy", model, CLEAN, NO_LEVEL)
    }
    changes = _pair_changes(contents, worst, images) if images else {}
    chance = np.bincount(images.labels).max() / len(images.labels) if images else None
    findings = []
    for model, lows in worst.items():
        clean = read_performance(contents, model, CLEAN, NO_LEVEL)
        assert clean is not None
        change = changes.get(model, PairedChange())
        outcome = ModelOutcome(contents.titles[model], clean, lows, change, chance)
        sentences, more = _describe_model(contents, model, outcome, set(worst))
        findings.append(ModelFindings(model, outcome.title, sentences, more, outcome))
    return findings


def _describe_model(
    contents: Contents, model: str, outcome: ModelOutcome, models: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the sentences on a model, and what a reader may want to know besides."""
    base, focus = base_model(model), outcome.worst.focus
    if base in models and base != model and gives_same_answers(contents, model, base):
        differs = (contents.variant(model) or Variant).differs
        accuracy = words.describe_same_answers(contents.titles[base], focus, differs)
        detail: Iterable[str] = ()
    else:
        accuracy = words.describe_accuracy(outcome)
        mean = contents.score("accuracy", model, ALL, MEAN)
        detail = words.detail_accuracy(outcome, mean)
    cell = focus.sweep.cells[focus.level] if focus else CLEAN
    off = find_miscalibrated_class(contents, model, cell, max(1, outcome.worst.searched))
    by_class = [words.describe_class_share(off, shifted=focus is not None)] if off else []
    confidence = [*words.describe_confidence(outcome)]
    if by_class and outcome.gap and not outcome.side:
        # The largest probabilities may be right on average, and those of a class not.
        by_class, confidence = confidence, by_class
    on_clean = contents.fitted_on(model) == (CLEAN,)
    deferral = words.describe_deferral(outcome, on_clean=on_clean)
    further = (*words.detail_confidence(outcome), *words.detail_deferral(outcome))
    return (accuracy, *confidence, *deferral), (*detail, *by_class, *further)


def write_verdict(findings: Sequence[ModelFindings], ranks: Ranking | None) -> str:
    """Say in one sentence which model is best, how far it falls, and if confidence falls too.

    Where several share the first place it is about all of these; without ranks it is about the
    models, not about their variants. Empty where no model was tested on clean images.
    """
    outcomes = {finding.model: finding.outcome for finding in findings}
    models = [row.model for row in ranks.rows] if ranks else drop_variants(outcomes)
    leaders = [models[at] for at in ranks.leaders] if ranks else models
    best = [outcomes[model] for model in leaders if model in outcomes]
    ranked: words.RankedBy = None if ranks is None else "shifts" if ranks.shifted else "clean"
    return words.write_answer(best, len(models), ranked) if best else ""


def _pair_changes(
    contents: Contents, worst: Mapping[str, WorstLevels], images: ImageKeys
) -> dict[str, PairedChange]:
    """The change from clean to the lowest accuracy of each model, on the same images."""
    columns: dict[str, list[FloatArray]] = {}
    for model, lows in worst.items():
        cells = (CLEAN, lows.focus.sweep.cells[lows.focus.level]) if lows.focus else ()
        pairs = [_read_columns(contents, model, cell, images) for cell in cells]
        known = [column for pair in pairs if pair for column in pair]
        if len(known) == 4:
            columns[model] = known
    if not columns:
        return {}
    # One call, since all share the resamples: of each model four columns.
    kinds: Sequence[IntervalKind] = ("share", "percentile", "share", "percentile")
    every = [column for of_model in columns.values() for column in of_model]
    clusters = contents.clusters
    estimates = iter(estimate_seed_means(every, contents.bootstrap, clusters, cycle(kinds)))
    changes = {}
    for model, (right, _, right_there, _) in columns.items():
        accuracy, gap, accuracy_there, gap_there = islice(estimates, 4)
        changes[model] = PairedChange(
            paired_change(accuracy, accuracy_there),
            paired_change(gap, gap_there),
            min(1.0, _test_change(right, right_there, clusters) * worst[model].searched),
        )
    return changes


def _test_change(clean: FloatArray, there: FloatArray, clusters: Clusters | None) -> float:
    """Test whether the same trained networks are as often right here and there, `[n, S]` each."""
    if clean.shape[1] > 1 or clusters is not None:
        return crossed_mean(there - clean, clusters).p
    return mcnemar_exact(clean[:, 0] > 0, there[:, 0] > 0).p


def _read_columns(
    contents: Contents, model: str, cell: str, images: ImageKeys
) -> tuple[FloatArray, FloatArray] | None:
    """How often each image is right, and confidence − that: `[n, S]` each."""
    right = read_correct(contents, model, {cell: 1.0}, images)
    sure = read_by_seed(contents, model, cell, "confidence")
    return None if right is None or sure is None else (right, sure - right)


def _show_verdict(contents: Contents, _: Tables) -> PartView | None:
    told = write_verdict(contents.once(find_findings), contents.once(rank_models))
    return PartView(template="verdict.html.j2", facts={"told": told}) if told else None


def _show_findings(contents: Contents, _: Tables) -> PartView:
    order = order_by_rank(contents)
    findings = sorted(contents.once(find_findings), key=lambda each: order.index(each.model))
    return PartView(
        "Each model in words", template="findings.html.j2", facts={"findings": findings}
    )


VERDICT, FINDINGS = ReportPart(_show_verdict), ReportPart(_show_findings)
