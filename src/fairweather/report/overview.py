"""A row for each model: accuracy and confidence clean, on average, at the worst, and attacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from fairweather.report.contents import Contents
from fairweather.report.operating_points import describe_targets
from fairweather.report.other_images import list_other_images
from fairweather.report.performance import (
    Performance,
    find_lowest,
    find_worst_levels,
    read_performance,
)
from fairweather.report.ranking import rank_models
from fairweather.report.section import Brief, ReportPart, show_tables
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW,
    ScoreEntry,
    ScoreRow,
    TableLayout,
    TextTable,
    tabulate_scores,
)
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import Score
from fairweather.types.operating_points import POINT_SIGN, RATES
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

# ---------------------------------------------------------------- the table

STATES = ("Clean", "Mean over shifts", "Worst level", "Strongest attack")
MOST_LINES = 40  # in a terminal
MOST_SENTENCES = 5  # above them; the page has all


class BriefMetric(NamedTuple):
    """A metric in a terminal: its name in scores.csv, its heading, its factor and its format."""

    name: str
    heading: str
    factor: int
    form: str


BRIEF_METRICS: Mapping[TaskKind, tuple[BriefMetric, ...]] = {
    CLASSES: (
        BriefMetric("accuracy", "accuracy (%)", 100, "z.1f"),
        BriefMetric("confidence_gap", "confidence − accuracy", 100, "+z.1f"),
    ),
    FINDINGS: (
        BriefMetric("auc", "mean AUC", 1, "z.3f"),
        BriefMetric("probability_gap", "mean probability − prevalence", 100, "+z.1f"),
    ),
}
# Of classes in an order, behind those of classes.
BRIEF_OF_GRADES = (
    BriefMetric("mean_absolute_error", "grades off", 1, "z.2f"),
    BriefMetric("off_by_two", "off by two or more (%)", 100, "z.1f"),
)


def list_metrics_of_one(contents: Contents) -> tuple[BriefMetric, ...]:
    """The metrics of a run with one finding, with the rates at its first operating point."""
    start = f"{RATES[0]}{POINT_SIGN}"
    names = contents.scores["metric"].unique()
    asked = [name.removeprefix(start) for name in names if name.startswith(start)]
    rates = [f"{rate}{POINT_SIGN}{asked[0]}" if asked else rate for rate in RATES]
    return (
        BriefMetric("auc", "AUC", 1, "z.3f"),
        *(BriefMetric(name, f"{name} (%)", 100, "z.1f") for name in rates),
        BriefMetric("probability_gap", "mean probability − prevalence", 100, "+z.1f"),
    )


class Measure(NamedTuple):
    """A number of `Performance` that the table has, with its words in the head and in the CSV."""

    name: Literal["accuracy", "gap"]
    column: str
    key: str


MEASURES = (
    Measure("accuracy", "accuracy (%)", "accuracy"),
    Measure("gap", "confidence − accuracy (points)", "confidence_gap"),
)


def read_states(contents: Contents, model: str) -> dict[str, Performance]:
    """Read accuracy and confidence of a model in each state: clean, mean, worst level, attacked.

    The worst level is that of the lowest accuracy, and the strongest attack likewise. There is no
    mean where only one set of shifted images was tested.
    """
    worst = find_worst_levels(contents, model)
    several = sum(low.levels for low in worst.shifts) > 1
    lowest, strongest = find_lowest(worst.shifts), find_lowest(worst.attacks)
    read = (
        read_performance(contents, model, CLEAN, NO_LEVEL),
        read_performance(contents, model, ALL, MEAN) if several else None,
        lowest and lowest.performance,
        strongest and strongest.performance,
    )
    return {state: own for state, own in zip(STATES, read, strict=True) if own}


def order_models(contents: Contents, ranked: Sequence[str]) -> list[str]:
    """Order the models as they are ranked, each before its variants; without ranks as they are.

    Args:
        contents: of the run.
        ranked: the models in the order of the ranking; variants are not among them.
    """
    place = {model: at for at, model in enumerate(ranked)}
    return sorted(contents.titles, key=lambda model: place.get(base_model(model), len(place)))


def tabulate_overview(contents: Contents) -> TextTable | None:
    """Lay out each model in each state, one row per model; None where there is nothing."""
    ranks = contents.once(rank_models)
    order = order_models(contents, [row.model for row in ranks.rows] if ranks else [])
    read = {model: states for model in order if (states := read_states(contents, model))}
    if not read:
        return None
    present = [state for state in STATES if any(state in states for states in read.values())]
    worst = (
        " Worst level: the one with the model's lowest accuracy; accuracy and confidence are "
        "those of that level."
        if "Worst level" in present
        else ""
    )
    caption = (
        "Accuracy, and mean confidence − accuracy: above 0 a model is overconfident, below 0 "
        f"underconfident.{worst} In brackets: {contents.intervals}. {contents.sample()}."
    )
    columns = [(state, measure) for measure in MEASURES for state in present]
    head = [(f"{state}: {m.column}", f"{state.lower()} {m.key}") for state, m in columns]
    rows = [
        ScoreRow(
            model,
            contents.titles[model],
            [_find_entry(states.get(state), measure) for state, measure in columns],
        )
        for model, states in read.items()
    ]
    return tabulate_scores("overview", caption, [("Model", "model"), *head], rows)


def _find_entry(there: Performance | None, measure: Measure) -> ScoreEntry | None:
    score: Score | None = there and getattr(there, measure.name)
    return None if score is None or math.isnan(score.value) else ScoreEntry(score, percent=True)


# ---------------------------------------------------------------- in a terminal


def summarize_overview(contents: Contents) -> Brief:
    """Say what is found about other images, and tabulate each model on clean and shifted ones."""
    sentences = [*list_other_images(contents), *describe_targets(contents)]
    shown, rest = sentences[:MOST_SENTENCES], len(sentences) - MOST_SENTENCES
    more = [f"{PAGE} has {rest} more such sentences."] if rest > 0 else []
    metrics = next((own for kind, own in BRIEF_METRICS.items() if kind in contents.kinds), ())
    if FINDINGS in contents.kinds and len(contents.classes) == 1:
        metrics = list_metrics_of_one(contents)
    if contents.data.ordered:
        metrics = (*metrics, *BRIEF_OF_GRADES)
    if "expected_cost" in set(contents.scores["metric"]):
        metrics = (*metrics, BriefMetric("expected_cost", "cost of a decision", 1, "z.3f"))
    layout = TableLayout(("model", "images", *(metric.heading for metric in metrics)), words=2)
    return Brief([*shown, *more], layout, _brief_lines(contents, metrics))


def _brief_lines(contents: Contents, metrics: Sequence[BriefMetric]) -> list[list[str]]:
    """One line per model and state of the images, as text; ensembles are left out."""
    scores = contents.scores
    rows = scores[scores["metric"].isin([metric.name for metric in metrics])]
    rows = rows[rows["seed"] == contents.shown_seed]
    levels = {
        shift: MEAN if is_shifted(shift) else NO_LEVEL
        for shift in rows["shift"].unique()
        if shift == CLEAN or shift.startswith(NATURAL) or is_shifted(shift)
    }
    lines = []
    for model in rows["model"].unique():
        for shift, level in levels.items():
            read = [contents.score(metric.name, model, shift, level) for metric in metrics]
            if not model.endswith(ENSEMBLE_SUFFIX) and any(read):
                lines.append([model, shift, *map(_format_brief, read, metrics)])
    if len(lines) > MOST_LINES:
        lines = [line for line in lines if line[1] in (CLEAN, ALL)]
    before = ["", *(model for model, *_ in lines)]
    return [
        ["" if line[0] == model else line[0], *line[1:]]
        for line, model in zip(lines, before, strict=False)
    ]


def _format_brief(score: Score | None, metric: BriefMetric) -> str:
    if score is None or math.isnan(score.value):
        return ABSENT
    numbers = (f"{metric.factor * number:{metric.form}}" for number in score[:3])
    value, low, high = (number.replace("-", "−") for number in numbers)
    return f"{value} ({TOO_FEW})" if score.too_few else f"{value} [{low}, {high}]"


OVERVIEW = ReportPart(
    show_tables("Clean, on average and at the worst level"),
    lambda contents: [tabulate_overview(contents)],
)
