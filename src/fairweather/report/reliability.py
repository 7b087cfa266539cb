"""Reliability diagrams: is a model that is 80 % confident right in 80 % of these images?"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import altair as alt
import pandas as pd

from fairweather.metrics import reliability_bins
from fairweather.record import ALL, CLEAN, ENSEMBLE_SUFFIX, MEAN, NO_LEVEL, SUMMARY_LEVELS
from fairweather.report.contents import Contents
from fairweather.report.figures import FAINT, GRID, INK, RULE, Figure, model_color, render
from fairweather.types import Predictions

SIDE = 190
ROW_GAP, COLUMN_GAP = 34, 28
LINE = 26  # letters of a title that fit beside or above a panel
NOT_MEASURED = "not measured"
BINS = 10
WORST = "the level of each shift at which the models' mean accuracy is lowest"
OUTLINE = 0.8
MOST_SHIFTS = 5  # beside clean images: a page holds no more columns
MOST_MODELS = 20  # rows that someone may still look through; the page's charts show any model


class Condition(NamedTuple):
    """A column of the figure: one state of the test images."""

    title: str
    shift: str
    level: str
    cell: str


def reliability_figure(contents: Contents) -> Figure | None:
    """Draw one diagram for each model on clean images and at the worst level of each shift.

    With several seeds it shows the first, because bins of different models cannot be averaged. Of
    many models it shows the most accurate.
    """
    conditions = hardest(contents, worst_conditions(contents))
    kept = most_accurate(contents)
    bins = panels(contents, conditions, kept)
    if bins["confidence"].isna().all():
        return None
    titles = [contents.titles[name] for name in kept]
    looks = dict(zip(contents.titles, contents.positions, strict=True))
    shown = [condition.title for condition in conditions]
    chart = _layers(titles, [looks[name] for name in kept], bins).facet(
        row=alt.Row("row:O", header=_header(titles, padding=10)),
        column=alt.Column("column:O", header=_header(shown, padding=22)),
        spacing={"row": ROW_GAP, "column": COLUMN_GAP},
    )
    seed = f", seed {contents.seeds[0]} (ensembles: all)" if len(contents.seeds) > 1 else ""
    if not any(name.endswith(ENSEMBLE_SUFFIX) for name in kept):
        seed = seed.removesuffix(" (ensembles: all)")
    kind = "exact intervals" if contents.clusters is None else "intervals over clusters"
    subtitle = [
        f"On the dashed diagonal, confidence equals accuracy; below it, a model is overconfident. "
        f"{BINS} equal-width bins{seed}.",
        f"Lines: 95 % {kind}. Shaded: the gap to the diagonal. Area: share of the images.",
        f"Columns: clean images, and {WORST}{_some(contents, conditions)}. "
        "RMS: RMS calibration error.",
        *_chosen(len(kept), len(contents.titles)),
    ]
    return render(
        "reliability",
        chart,
        alt.Title("Is the confidence right?", subtitle=subtitle),
        f"Reliability diagrams: accuracy against confidence in {BINS} bins with 95 % intervals, "
        f"on clean images and at {WORST}: {'; '.join(shown)}. Models: {'; '.join(titles)}.",
    )


def panels(contents: Contents, conditions: list[Condition], models: Sequence[str]) -> pd.DataFrame:
    """Bins that hold images, one in each row, of every model under every condition.

    A pair without predictions has one row, without a bin: Vega lays the panels of a facet one
    after the other, so a pair that had none would shift those that follow it under other titles.
    """
    frames = []
    for (row, name), (column, condition) in product(enumerate(models), enumerate(conditions)):
        predictions = contents.read_predictions(name, contents.seeds_of(name)[0], condition.cell)
        if predictions is not None:
            frame = _diagram(contents, name, condition, predictions)
        else:
            frame = pd.DataFrame({"confidence": [math.nan], "note": [NOT_MEASURED]})
        frames.append(frame.assign(row=row, column=column, title=contents.titles[name]))
    return pd.concat(frames, ignore_index=True)


def worst_conditions(contents: Contents) -> list[Condition]:
    """Name the clean images and, for each shift, the level at which mean accuracy is lowest."""
    conditions = [Condition("Clean", CLEAN, NO_LEVEL, CLEAN)]
    for sweep in contents.sweeps:
        scores = contents.pick("accuracy", sweep.name)
        levels = scores[~scores["level"].isin(SUMMARY_LEVELS)]
        values = levels.groupby("level", sort=False)["value"]
        # In a report of several runs, a level that few models have is not the worst for all.
        means = values.mean()[values.count() == values.count().max()]
        if len(means):
            level = str(means.idxmin())
            title = f"{sweep.title}, {sweep.heading(level)}"
            conditions.append(Condition(title, sweep.name, level, sweep.cells[level]))
    return conditions


def hardest(contents: Contents, conditions: list[Condition]) -> list[Condition]:
    """Keep the clean images and the few shifts with the lowest accuracy, in their order."""
    if len(conditions) <= 1 + MOST_SHIFTS:
        return conditions
    clean, *others = conditions
    means = [
        contents.pick("accuracy", each.shift).query("level == @each.level")["value"].mean()
        for each in others
    ]
    kept = sorted(range(len(others)), key=lambda at: means[at])[:MOST_SHIFTS]
    return [clean, *(others[at] for at in sorted(kept))]


def most_accurate(contents: Contents) -> list[str]:
    """The `MOST_MODELS` models with the highest mean accuracy over all shifts, in their order.

    Those without that mean come last, and are compared on clean images.
    """
    names = list(contents.titles)
    if len(names) <= MOST_MODELS:
        return names

    def accuracy(name: str) -> list[float]:
        places = ((ALL, MEAN), (CLEAN, NO_LEVEL))
        found = [contents.score("accuracy", name, *place) for place in places]
        return [-math.inf if score is None else score.value for score in found]

    best = sorted(names, key=accuracy, reverse=True)[:MOST_MODELS]
    return [name for name in names if name in best]


def _chosen(shown: int, every: int) -> list[str]:
    if shown == every:
        return []
    return [f"The {shown} models of {every} with the highest mean accuracy over all shifts."]


def _some(contents: Contents, conditions: list[Condition]) -> str:
    shown, every = len(conditions) - 1, len(contents.sweeps)
    return f", of the {shown} shifts of {every} where it is lowest" if shown < every else ""


def _diagram(
    contents: Contents, name: str, condition: Condition, predictions: Predictions
) -> pd.DataFrame:
    """Bins that hold images, one in each row; the first has the note of the panel."""
    bins = reliability_bins(
        predictions.confidence, predictions.correct, bins=BINS, clusters=contents.clusters
    )
    frame = pd.DataFrame(bins._asdict()).query("images > 0").reset_index(drop=True)
    seed = None if name.endswith(ENSEMBLE_SUFFIX) else contents.seeds_of(name)[0]
    notes = [
        words.format(score.value)
        for metric, words in (
            ("accuracy", "accuracy {:.1%}"),
            ("rms_calibration_error", "RMS {:.3f}"),
        )
        if (score := contents.score(metric, name, condition.shift, condition.level, seed))
    ]
    return frame.assign(
        share=frame["images"] / len(predictions),
        note=[", ".join(notes), *[""] * (len(frame) - 1)],
    )


def _header(titles: list[str], padding: int) -> alt.Header:
    """Title the panels by their number, so that two with the same title stay two; wrap titles."""
    lines = json.dumps([textwrap.wrap(title, LINE) or [""] for title in titles])
    # Vega-Lite puts its own code wherever it reads datum.label or datum.value, in strings too.
    lines = lines.replace(".", r"\u002e")
    return alt.Header(
        title=None,
        labelExpr=f"{lines}[datum.value]",
        labelLimit=SIDE + COLUMN_GAP,
        labelPadding=padding,
    )


def _layers(titles: list[str], positions: Sequence[int], bins: pd.DataFrame) -> alt.LayerChart:
    shares = [0, 0.25, 0.5, 0.75, 1]
    axis = alt.Axis(values=shares, format=".0%")
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("confidence:Q", title="Confidence", axis=axis, scale=unit)
    y = alt.Y("accuracy:Q", title="Accuracy", axis=axis, scale=unit)
    base = alt.Chart().encode(x=x, color=model_color(titles, None, positions))
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
        width=SIDE,
        height=SIDE,
        view=alt.ViewBackground(stroke=GRID),
    )
