"""Reliability diagrams: accuracy against confidence, clean and at the worst level of each shift."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import NamedTuple

import altair as alt
import pandas as pd

from fairweather.metrics import reliability_bins
from fairweather.report.charts import (
    FAINT,
    GRID,
    INK,
    RULE,
    Figure,
    color_models,
    look_up,
    render_figure,
)
from fairweather.report.contents import Contents
from fairweather.report.review import read_cell
from fairweather.report.section import ReportPart, show_figures
from fairweather.types.record import ALL, CLEAN, ENSEMBLE_SUFFIX, MEAN, NO_LEVEL

PANEL_SIDE = 190
ROW_GAP, COLUMN_GAP = 34, 28
TITLE_LETTERS = 26  # letters of a title that fit beside or above a panel
NOT_MEASURED = "not measured"
PANEL_NOTES = {"accuracy": "accuracy {:.1%}", "rms_calibration_error": "RMS {:.3f}"}
WORST_NOTE = "the level of each shift at which the models' mean accuracy is lowest"
OUTLINE = 0.8
BINS = 10  # of reliability diagrams
MOST_SHIFTS = 5  # beside clean images: a page holds no more columns
MOST_MODELS = 20  # rows that someone may still look through; the page's charts show any model


class DiagramCondition(NamedTuple):
    """A column of the figure: one state of the test images."""

    title: str
    shift: str
    level: str
    cell: str
    accuracy: float = 1.0


def draw_reliability(contents: Contents) -> Figure | None:
    """Draw one diagram for each model on clean images and at the worst level of each shift.

    With several seeds it shows the first, because bins of different models cannot be averaged. Of
    many models it shows the most accurate.
    """
    conditions = keep_hardest(contents, find_worst_conditions(contents))
    kept = keep_most_accurate(contents)
    bins = tabulate_panels(contents, conditions, kept)
    if bins["confidence"].isna().all():
        return None
    titles = [contents.titles[name] for name in kept]
    looks = dict(zip(contents.titles, contents.positions, strict=True))
    shown = [condition.title for condition in conditions]
    chart = _make_layers(titles, [looks[name] for name in kept], bins).facet(
        row=alt.Row("row:O", header=_make_header(titles, padding=10)),
        column=alt.Column("column:O", header=_make_header(shown, padding=22)),
        spacing={"row": ROW_GAP, "column": COLUMN_GAP},
    )
    several, every = len(contents.seeds) > 1, len(contents.sweeps)
    ensembles = " (ensembles: all)" if any(n.endswith(ENSEMBLE_SUFFIX) for n in kept) else ""
    seed = f", seed {contents.seeds[0]}{ensembles}" if several else ""
    kind = "exact intervals" if contents.grouping is None else "intervals over groups"
    few = len(conditions) - 1 < every
    chosen = f", of the {len(conditions) - 1} shifts of {every} where it is lowest" if few else ""
    subtitle = [
        f"On the dashed diagonal, confidence equals accuracy; below it, a model is overconfident. "
        f"{BINS} equal-width bins{seed}.",
        f"Lines: 95 % {kind}. Shaded: the gap to the diagonal. Area: share of the images.",
        f"Columns: clean images, and {WORST_NOTE}{chosen}. RMS: RMS calibration error.",
    ]
    if len(kept) < (models := len(contents.titles)):
        best = "with the highest mean accuracy over all shifts"
        subtitle.append(f"The {len(kept)} models of {models} {best}.")
    named = [contents.shift_title(condition.shift) for condition in conditions[1:]]
    return render_figure(
        "reliability",
        chart,
        "Is the confidence right?",
        subtitle,
        f"Reliability diagrams: accuracy against confidence in {BINS} bins with 95 % intervals. "
        f"Columns: clean images, and {WORST_NOTE}: {'; '.join(named)}. "
        f"Models: {'; '.join(titles)}.",
    )


def tabulate_panels(
    contents: Contents, conditions: list[DiagramCondition], models: Sequence[str]
) -> pd.DataFrame:
    """Bins that hold images, one in each row, of every model under every condition.

    A pair without predictions has one row, without a bin: Vega lays the panels of a facet one
    after the other, so a pair that had none would shift those that follow it under other titles.
    """
    frames = []
    for (row, name), (column, condition) in product(enumerate(models), enumerate(conditions)):
        seed = contents.seeds_of(name)[0]
        frame = pd.DataFrame({"confidence": [math.nan], "note": [NOT_MEASURED]})
        if (cell := read_cell(contents, name, seed, condition.cell)) and cell.is_sure:
            grouping = contents.grouping
            bins = reliability_bins(cell.confidence, cell.correct, bins=BINS, grouping=grouping)
            frame = pd.DataFrame(bins._asdict()).query("images > 0").reset_index(drop=True)
            scored = None if name.endswith(ENSEMBLE_SUFFIX) else seed
            notes = [
                words.format(score.value)
                for metric, words in PANEL_NOTES.items()
                if (score := contents.score(metric, name, condition.shift, condition.level, scored))
            ]
            frame["share"] = frame["images"] / len(cell.keys)
            frame["note"] = [", ".join(notes), *[""] * (len(frame) - 1)]
        frames.append(frame.assign(row=row, column=column, title=contents.titles[name]))
    return pd.concat(frames, ignore_index=True)


def find_worst_conditions(contents: Contents) -> list[DiagramCondition]:
    """Name the clean images and, for each shift, the level at which mean accuracy is lowest."""
    conditions = [DiagramCondition("Clean", CLEAN, NO_LEVEL, CLEAN)]
    for sweep in contents.sweeps:
        accuracies = {
            level: [
                score.value
                for model in contents.titles
                if (score := contents.score("accuracy", model, sweep.name, level))
            ]
            for level in sweep.cells
        }
        # In a report of several runs, a level that few models have is not the worst for all.
        most = max(map(len, accuracies.values()), default=0)
        means = {
            level: fmean(values)
            for level, values in accuracies.items()
            if most and len(values) == most
        }
        if means:
            level = min(means, key=lambda level: means[level])
            title, cell = f"{sweep.title}, {sweep.heading(level)}", sweep.cells[level]
            conditions.append(DiagramCondition(title, sweep.name, level, cell, means[level]))
    return conditions


def keep_hardest(contents: Contents, conditions: list[DiagramCondition]) -> list[DiagramCondition]:
    """Keep the clean images and the few shifts with the lowest accuracy, in their order."""
    if len(conditions) <= 1 + MOST_SHIFTS:
        return conditions
    clean, *others = conditions
    kept = sorted(others, key=lambda condition: condition.accuracy)[:MOST_SHIFTS]
    return [clean, *(condition for condition in others if condition in kept)]


def keep_most_accurate(contents: Contents) -> list[str]:
    """The `MOST_MODELS` models with the highest mean accuracy over all shifts, in their order.

    Those without that mean come last, and are compared on clean images.
    """
    names = list(contents.titles)
    if len(names) <= MOST_MODELS:
        return names

    def accuracy(name: str) -> list[float]:
        places = ((ALL, MEAN), (CLEAN, NO_LEVEL))
        scores = [contents.score("accuracy", name, *place) for place in places]
        return [-math.inf if score is None else score.value for score in scores]

    best = sorted(names, key=accuracy, reverse=True)[:MOST_MODELS]
    return [name for name in names if name in best]


def _make_header(titles: list[str], padding: int) -> alt.Header:
    """Title the panels by their number, so that two with the same title stay two; wrap titles."""
    lines = [textwrap.wrap(title, TITLE_LETTERS) or [""] for title in titles]
    return alt.Header(
        title=None,
        labelExpr=look_up(lines),
        labelLimit=PANEL_SIDE + COLUMN_GAP,
        labelPadding=padding,
    )


def _make_layers(titles: list[str], positions: Sequence[int], bins: pd.DataFrame) -> alt.LayerChart:
    shares = [0, 0.25, 0.5, 0.75, 1]
    axis = alt.Axis(values=shares, format=".0%")
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("confidence:Q", title="Confidence", axis=axis, scale=unit)
    y = alt.Y("accuracy:Q", title="Accuracy", axis=axis, scale=unit)
    base = alt.Chart().encode(x=x, color=color_models(titles, positions))
    diagonal = (
        alt.Chart()
        .transform_aggregate(count="count()")
        .mark_rule(color=RULE, strokeDash=[4, 3])
        .encode(x=alt.XDatum(0), y=alt.YDatum(0), x2=alt.X2Datum(1), y2=alt.Y2Datum(1))
    )
    gap = base.mark_rule(strokeWidth=9, opacity=0.25).encode(y=y, y2=alt.Y2("confidence:Q"))
    interval = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("accuracy_low:Q"), y2=alt.Y2("accuracy_high:Q")
    )
    size = alt.Size(
        "share:Q",
        scale=alt.Scale(domain=[0, 1], range=[0, 700]),
        legend=alt.Legend(
            title="Share of the images in a bin",
            values=[0.05, 0.2, 0.5],
            format=".0%",
            orient="top",
            symbolFillColor=FAINT,
            symbolStrokeColor=INK,
            symbolStrokeWidth=OUTLINE,
        ),
    )
    # Dark, so that it shows where a share is so small that nothing else would.
    points = base.mark_point(filled=True, opacity=1, stroke=INK, strokeWidth=OUTLINE).encode(
        y=y, size=size
    )
    note = alt.Chart().mark_text(align="left", color=FAINT, fontSize=11)
    note = note.encode(x=alt.XValue(0), y=alt.YValue(-10), text=alt.Text("note:N"))
    return alt.LayerChart(
        layer=[diagonal, gap, interval, points, note],
        data=bins,
        width=PANEL_SIDE,
        height=PANEL_SIDE,
        view=alt.ViewBackground(stroke=GRID),
    )


RELIABILITY = ReportPart(
    show_figures("Is the confidence right?", "reliability"),
    figures=lambda contents: [draw_reliability(contents)],
)
