"""The answer: accuracy and confidence of each model in one chart, and what is found in words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import Literal, NamedTuple

import altair as alt
import numpy as np

from fairweather.metrics import mcnemar_exact, paired_change
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import IntervalKind
from fairweather.metrics.seeds import crossed_mean
from fairweather.report import sentences as words
from fairweather.report.charts import (
    FOCUS,
    IN_FOCUS,
    INK,
    RULE,
    Chart,
    Figure,
    choose_value,
    look_up,
    make_chart,
    make_tooltip,
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
from fairweather.report.section import Brief, PartView, ReportPart, Tables
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

# ---------------------------------------------------------------- the overview

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


class Measure(NamedTuple):
    """What one of the two charts draws.

    Attributes:
        name: of the number in `Performance`.
        words: in a sentence.
        title, short: of its axis, and in a tooltip.
        heading: above its panel in the figure.
        column, key: its words in the head of the table.
        width: of the panel, in pixels.
    """

    name: Literal["accuracy", "gap"]
    words: str
    title: str | list[str]
    short: str
    heading: str
    column: str
    key: str
    width: int


ACCURACY = Measure(
    "accuracy",
    "accuracy",
    "Accuracy",
    "Accuracy",
    "How far does accuracy fall?",
    "accuracy (%)",
    "accuracy",
    340,
)
CONFIDENCE_GAP = Measure(
    "gap",
    "confidence minus accuracy",
    ["confidence − accuracy (points)", "← underconfident · overconfident →"],
    "Confidence − accuracy",
    "Does confidence fall with accuracy?",
    "confidence − accuracy (points)",
    "confidence_gap",
    300,
)
MEASURES = (ACCURACY, CONFIDENCE_GAP)


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

    def score(self, measure: Measure) -> Score | None:
        """The number of a measure, if there is one."""
        score: Score | None = getattr(self.performance, measure.name)
        return None if score is None or math.isnan(score.value) else score


def read_states(contents: Contents, model: str) -> list[Reading]:
    """Read accuracy and confidence of a model in each state: clean, mean, worst level, attacked.

    The worst level is that of the lowest accuracy, and the strongest attack likewise. There is no
    mean where only one set of shifted images was tested.
    """
    worst = find_worst_levels(contents, model)
    states: list[tuple[str, str, Performance | None]] = [
        ("Clean", "clean images", read_performance(contents, model, CLEAN, NO_LEVEL))
    ]
    if sum(low.levels for low in worst.shifts) > 1:
        mean = read_performance(contents, model, ALL, MEAN)
        states.append(("Mean over shifts", "mean over all shifts", mean))
    for state, lows in (("Worst level", worst.shifts), ("Strongest attack", worst.attacks)):
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


def read_overview(contents: Contents) -> list[Reading]:
    """Read each model in each state, in the order of the ranking."""
    return [
        reading for model in order_by_rank(contents) for reading in read_states(contents, model)
    ]


def _find_states(readings: Sequence[Reading]) -> list[str]:
    present = {reading.state for reading in readings}
    return [state for state in STATES if state in present]


def draw_overview(contents: Contents) -> Figure | None:
    """Draw a row for each model: accuracy, and beside it confidence − accuracy, in each state.

    None where no model was tested on clean images.
    """
    readings = contents.once(read_overview)
    if not readings:
        return None
    legend = alt.Legend(title=None, orient="top", symbolFillColor=INK, symbolStrokeColor=INK)
    charts = draw_overview_charts(contents)
    panels = [
        print_chart(
            charts[measure.name].spec,
            "state",
            legend,
            width=measure.width,
            height=charts[measure.name].spec["height"],
            title={"text": measure.heading, "fontSize": 13, "anchor": "start", "offset": 10},
        )
        for measure in MEASURES
        if measure.name in charts
    ]
    alone = len(_find_states(readings)) == 1
    return render_figure(
        "overview",
        {"hconcat": panels, "spacing": 24},
        "Accuracy and confidence on clean images" if alone else "What the shifts cost",
        [f"Lines: {contents.intervals}. {contents.sample()}."],
        _describe_chart(readings, *MEASURES),
        letters=SUBTITLE_LETTERS,
    )


def _describe_chart(readings: Sequence[Reading], *measures: Measure) -> str:
    """Say what somebody who does not see the chart has to know."""
    states = ", ".join(state.lower() for state in _find_states(readings))
    models = "; ".join(dict.fromkeys(reading.title for reading in readings))
    return (
        f"One row for each model: {' and '.join(measure.words for measure in measures)} with its "
        f"interval, for {states}. Models: {models}. The table below the chart has the same numbers."
    )


def draw_forest(contents: Contents, readings: Sequence[Reading], measure: Measure) -> Chart | None:
    """Build the chart of one measure, a row for each model; None where nothing was measured.

    Args:
        contents: of the run.
        readings: in the order of the rows.
        measure: what is drawn.
    """
    titles = list(dict.fromkeys(reading.title for reading in readings))
    states = _find_states(readings)
    rows = [
        {
            "at": titles.index(reading.title),
            "title": reading.title,
            "state": reading.state,
            "step": states.index(reading.state),
            "place": reading.place,
            "value": score.value,
            # No ends where too few errors carry the number.
            "low": None if score.too_few else score.low,
            "high": None if score.too_few else score.high,
            "text": format_points(score)
            if measure is CONFIDENCE_GAP
            else ScoreEntry(score, percent=True).in_words,
        }
        for reading in readings
        if (score := reading.score(measure))
    ]
    if not rows:
        return None
    lines = [textwrap.wrap(title, TITLE_LETTERS)[:TITLE_LINES] or [""] for title in titles]
    step = next((pixels for most, pixels in STEPS if len(titles) <= most), SMALLEST_STEP)
    height = max(step * len(states), 14 * max(map(len, lines))) + GAP
    named = "true" if measure is ACCURACY else f"!({SIDE_BY_SIDE})"
    axis = alt.Axis(
        labelExpr=f"({named}) ? {look_up(lines)} : ''",
        labelLimit=LABEL_WIDTH,
        labelLineHeight=13,
        labelFontSize=12,
        tickBand="extent",
        grid=True,
        ticks=False,
        domain=False,
    )
    inner = GAP / height
    places = list(range(len(titles)))
    paddings = alt.Scale(domain=places, paddingInner=inner, paddingOuter=inner / 2)
    y = alt.Y("at:O", title=None, axis=axis, scale=paddings)
    offset = alt.YOffset("state:N", scale=alt.Scale(domain=states, padding=0))
    painted = paint_models(contents)
    scale, ticks = _make_axis(readings, measure)
    x, low, at_0 = (
        alt.X(f"{field}:Q", title=measure.title, scale=scale, axis=ticks)
        for field in ("value", "low", "zero")
    )
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
        .encode(x=low, x2=alt.X2("high:Q"), stroke=painted["stroke"], opacity=seen)
    )
    shapes = alt.Scale(domain=states, range=[STATES[state][0] for state in states])
    spots = base.mark_point(size=62, strokeWidth=1.5).encode(
        x=x,
        **painted,
        shape=alt.Shape("state:N", scale=shapes, legend=None),
        opacity=seen,
        tooltip=make_tooltip(("title", "Model"), ("place", "Images"), ("text", measure.short)),
    )
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=RULE, strokeWidth=1.5)
    numbers = _draw_numbers(base, measure, scale) if len(titles) <= MOST_NUMBERED else []
    line = [zero.encode(x=at_0)] if measure is CONFIDENCE_GAP else []
    layers = [*line, path, ends, *numbers, spots.add_params(FOCUS)]
    chart = alt.LayerChart(layer=layers, data=alt.Data(values=rows))
    words = _describe_chart(readings, measure)
    return make_chart(f"overview-{measure.name}", words, chart, height * len(titles))


def _draw_numbers(base: alt.Chart, measure: Measure, scale: alt.Scale) -> list[alt.Chart]:
    """Write each number beside its interval: inside the axis, and away from the line at 0."""
    number, left, numbered = "format(100 * datum.value, '.1f')", "datum.value > 0.5", "true"
    if measure is CONFIDENCE_GAP:
        number, left = f"(datum.value > 0 ? '+' : '') + {number}", "datum.value < 0"
        numbered = SIDE_BY_SIDE
    end = "isValid(datum.low) ? (datum.left ? datum.low : datum.high) : datum.value"
    beside = base.transform_calculate(number=number, left=left, end=end)
    sides: tuple[tuple[str, Literal["left", "right"], int], ...]
    sides = (("datum.left", "right", -8), ("!datum.left", "left", 8))
    return [
        beside.transform_filter(side)
        .mark_text(align=align, dx=dx, baseline="middle", fontSize=11, color=INK)
        .encode(
            x=alt.X("end:Q", title=measure.title, scale=scale),
            text=alt.Text("number:N"),
            opacity=choose_value(alt.OpacityValue, numbered, 1, 0),
        )
        for side, align, dx in sides
    ]


def _make_axis(readings: Sequence[Reading], measure: Measure) -> tuple[alt.Scale, alt.Axis]:
    if measure is ACCURACY:
        values = [0, 0.25, 0.5, 0.75, 1]
        return alt.Scale(domain=[0, 1]), alt.Axis(format=".0%", values=values)
    scores = [score for reading in readings if (score := reading.score(measure))]
    known = [end for score in scores for end in score[:3] if not math.isnan(end)]
    low, high = min(*known, -AXIS_LEAST), max(*known, AXIS_LEAST)
    room = AXIS_ROOM * (high - low)
    low = math.floor((low - room) / AXIS_STEP) * AXIS_STEP
    high = math.ceil((high + room) / AXIS_STEP) * AXIS_STEP
    sign = "(datum.value > 0.001 ? '+' : '') + format(100 * datum.value, '.0f')"
    axis = alt.Axis(tickCount=5, labelExpr=sign)
    return alt.Scale(domain=[round(low, 2), round(high, 2)], nice=False), axis


def tabulate_overview(contents: Contents) -> TextTable | None:
    """Lay out what the overview draws, one row per model; None where there is nothing."""
    readings = contents.once(read_overview)
    if not readings:
        return None
    states = _find_states(readings)
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
    columns = [(state, measure) for measure in MEASURES for state in states]
    head = [(f"{state}: {m.column}", f"{state.lower()} {m.key}") for state, m in columns]
    by_model: dict[str, dict[str, Reading]] = {}
    for reading in readings:
        by_model.setdefault(reading.model, {})[reading.state] = reading
    rows = [
        ScoreRow(
            model,
            contents.titles[model],
            [
                score and ScoreEntry(score, percent=True)
                for state, measure in columns
                for score in [read[state].score(measure) if state in read else None]
            ],
        )
        for model, read in by_model.items()
    ]
    return tabulate_scores("overview", caption, [("Model", "model"), *head], rows)


# ---------------------------------------------------------------- on the page


def draw_overview_charts(contents: Contents) -> dict[str, Chart]:
    """Draw accuracy, and confidence − accuracy, of each model in each state, by the measure."""
    readings = contents.once(read_overview)
    charts = {measure.name: draw_forest(contents, readings, measure) for measure in MEASURES}
    return {name: chart for name, chart in charts.items() if chart}


def _show_overview(contents: Contents, tables: Tables) -> PartView:
    charts, states = draw_overview_charts(contents), _find_states(contents.once(read_overview))
    facts = {
        "overview": charts,
        "states": [(STATES[state][1], state) for state in states],
        "warnings": read_warnings(contents),
    }
    return PartView("", tables, list(charts.values()), template="overview.html.j2", facts=facts)


OVERVIEW = ReportPart(
    _show_overview,
    lambda contents: [tabulate_overview(contents)],
    lambda contents: [draw_overview(contents)],
)


# ---------------------------------------------------------------- in a terminal


def summarize_overview(contents: Contents) -> Brief:
    """Say what is found about other images, and tabulate each model on clean and shifted ones."""
    sentences = list_other_images(contents)
    shown, rest = sentences[:MOST_SENTENCES], len(sentences) - MOST_SENTENCES
    more = [f"{PAGE} has {rest} more such sentences."] if rest > 0 else []
    return Brief([*shown, *more], BRIEF, _brief_lines(contents))


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
    lines = []
    for model in rows["model"].unique():
        for shift, level in levels.items():
            read = (
                contents.score(name, model, shift, level) for name in ("accuracy", "confidence_gap")
            )
            accuracy, gap = read
            if not model.endswith(ENSEMBLE_SUFFIX) and (accuracy or gap):
                lines.append(
                    [model, shift, _format_percent(accuracy, "z.1f"), _format_percent(gap, "+z.1f")]
                )
    if len(lines) > MOST_LINES:
        lines = [line for line in lines if line[1] in (CLEAN, ALL)]
    before = ["", *(model for model, *_ in lines)]
    return [
        ["" if line[0] == model else line[0], *line[1:]]
        for line, model in zip(lines, before, strict=False)
    ]


def _format_percent(score: Score | None, form: str) -> str:
    if score is None or math.isnan(score.value):
        return ABSENT
    value, low, high = (f"{100 * number:{form}}".replace("-", "−") for number in score[:3])
    return f"{value} ({TOO_FEW})" if score.too_few else f"{value} [{low}, {high}]"


# ---------------------------------------------------------------- each model in words


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
    correction of McNemar's test, or of `crossed_mean` where there are several seeds). A model is
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
        differs = (contents.variant(model) or Variant).difference
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
    leaders = ranks.leaders if ranks else models
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
    grouping = contents.grouping
    estimates = iter(estimate_seed_means(every, contents.bootstrap, grouping, cycle(kinds)))
    changes = {}
    for model, (right, _, right_there, _) in columns.items():
        accuracy, gap, accuracy_there, gap_there = islice(estimates, 4)
        changes[model] = PairedChange(
            paired_change(accuracy, accuracy_there),
            paired_change(gap, gap_there),
            min(1.0, _test_change(right, right_there, grouping) * worst[model].searched),
        )
    return changes


def _test_change(clean: FloatArray, there: FloatArray, grouping: Grouping | None) -> float:
    """Test whether the same trained networks are as often right here and there, `[n, S]` each."""
    if clean.shape[1] > 1 or grouping is not None:
        return crossed_mean(there - clean, grouping).p
    return mcnemar_exact(clean[:, 0] > 0, there[:, 0] > 0).p


def _read_columns(
    contents: Contents, model: str, cell: str, images: ImageKeys
) -> tuple[FloatArray, FloatArray] | None:
    """How often each image is right, and confidence − that: `[n, S]` each."""
    right = read_correct(contents, model, {cell: 1.0}, images)
    sure = read_by_seed(contents, model, cell, "confidence")
    return None if right is None or sure is None else (right, sure - right)


def _show_verdict(contents: Contents, _: Tables) -> PartView | None:
    verdict = write_verdict(contents.once(find_findings), contents.once(rank_models))
    return PartView(template="verdict.html.j2", facts={"told": verdict}) if verdict else None


def _show_findings(contents: Contents, _: Tables) -> PartView:
    order = order_by_rank(contents)
    findings = sorted(contents.once(find_findings), key=lambda finding: order.index(finding.model))
    return PartView(
        "Each model in words", template="findings.html.j2", facts={"findings": findings}
    )


VERDICT, FINDINGS = ReportPart(_show_verdict), ReportPart(_show_findings)
