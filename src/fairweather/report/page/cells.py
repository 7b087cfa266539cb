"""Numbers of one model on one set of images: reliability diagrams, risk, classes, confusions."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from statistics import fmean
from typing import NamedTuple, TypedDict

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import reliability_bins
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import Grouping, running_share_interval, share_interval
from fairweather.metrics.selective import (
    RiskCoverage,
    coverage_above,
    deferral_shares,
    is_answered,
    risk_above,
    risk_coverage_curve,
    threshold_at_risk,
)
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
from fairweather.types.record import (
    ALL,
    CLEAN,
    ENSEMBLE_SUFFIX,
    MEAN,
    NO_LEVEL,
    TEST,
    VAL,
)

# ---------------------------------------------------------------- reliability diagrams

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
    return render_figure(
        "reliability",
        chart,
        "Is the confidence right?",
        subtitle,
        f"Reliability diagrams: accuracy against confidence in {BINS} bins with 95 % "
        f"intervals, "
        f"on clean images and at {WORST_NOTE}: {'; '.join(shown)}. Models: {'; '.join(titles)}.",
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
        if cell := read_cell(contents, name, seed, condition.cell):
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


# ---------------------------------------------------------------- numbers of a cell

HISTOGRAM_BARS = 20  # of the histogram of confidence
CURVE_POINTS = 60  # of the risk-coverage curve
FINE_POINTS = 400  # of those whose intervals over groups are computed
FIRST_POINT = 10  # images of its first point: the risk of fewer images is mostly chance
# Up to so many classes a confusion matrix can be read; beyond, the page lists the worst.
MOST_CLASSES = 40
WORST_CLASSES = 20
CONFUSIONS = 12
MOST_CELLS = 2000  # of all models together; with more, a page has one level of each shift
RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)

FloatArray = npt.NDArray[np.float64]
IntervalEnds = tuple[FloatArray, FloatArray]  # of intervals


class CellColumns(NamedTuple):
    """What is read of a cell, one entry an image: label and prediction `[n]`, confidence `[n]`."""

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: FloatArray

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label."""
        return self.labels == self.predicted


RoundedRow = list[float | None]  # numbers that belong together, rounded; None for what is no number


class CellNumbers(TypedDict):
    """What the charts of a cell draw.

    Attributes:
        n: images.
        bins: of the reliability diagram: which, mean confidence, accuracy, its interval, images.
        bars: images of each bar of the histogram, of right answers and of wrong ones.
        curve: coverage, risk and its interval of each point of the risk-coverage curve.
        hand: share to defer and its interval, for each of `RISKS`.
        kept: for each threshold, the share deferred and the share of wrong answers, with intervals.
        classes: class, images, accuracy and its interval.
        confused: label, prediction and images, one after the other.
    """

    n: int
    bins: list[RoundedRow]
    bars: list[list[int]]
    curve: list[RoundedRow]
    hand: list[RoundedRow]
    kept: list[RoundedRow]
    classes: list[RoundedRow]
    confused: list[int]


def read_cell(
    contents: Contents, model: str, seed: str, cell: str, part: str = TEST
) -> CellColumns | None:
    """Read a cell of a model; None where it was not predicted."""
    columns = contents.read_columns(model, seed, cell, CellColumns._fields, part)
    return None if columns is None else CellColumns(*columns)


def describe_cell(
    cell: CellColumns, classes: int, thresholds: Sequence[float], grouping: Grouping | None = None
) -> CellNumbers:
    """Work out what the charts of a cell draw.

    Args:
        cell: what is read of it.
        classes: how many there are.
        thresholds: the confidence that keeps each of `RISKS` on validation images; may be empty.
        grouping: which images belong together; then intervals are about other groups.
    """
    confidence, correct = cell.confidence, cell.correct
    curve = risk_coverage_curve(confidence, correct)
    risk = _estimate_risk_interval(curve, cell, grouping)
    return {
        "n": len(correct),
        "bins": _tabulate_bins(confidence, correct, grouping),
        "bars": [
            np.histogram(confidence[answers], HISTOGRAM_BARS, (0, 1))[0].tolist()
            for answers in (correct, ~correct)
        ],
        "curve": _thin_curve(curve, risk, len(correct)),
        "hand": [
            round_numbers(score[:3])
            for score in deferral_shares(confidence, correct, RISKS, grouping)
        ],
        "kept": [
            _apply_threshold(confidence, correct, threshold, grouping) for threshold in thresholds
        ],
        "classes": _tabulate_classes(cell, classes, grouping),
        "confused": _count_confusions(cell, classes, all_of_them=classes <= MOST_CLASSES),
    }


def round_numbers(numbers: Sequence[float] | FloatArray) -> RoundedRow:
    """Write numbers with six digits behind the point, and what is no number as None.

    >>> round_numbers([0.12345678, float("nan"), 1.0])
    [0.123457, None, 1.0]
    """
    return [round(float(number), 6) if np.isfinite(number) else None for number in numbers]


def _estimate_risk_interval(
    curve: RiskCoverage, cell: CellColumns, grouping: Grouping | None
) -> IntervalEnds:
    """The 95 % interval of the risk at each point of a risk-coverage curve.

    With groups it is computed at even points and at those that are drawn; others take the next.
    """
    images = np.round(curve.coverage * len(cell.confidence)).astype(np.int64)
    if grouping is None:
        return clopper_pearson(curve.risk, images)
    order = np.argsort(-cell.confidence, kind="stable")
    even = np.searchsorted(curve.coverage, np.linspace(0, 1, FINE_POINTS))
    last = len(images) - 1
    at = np.union1d(np.minimum(even, last), _find_drawn(curve, len(order)))
    low, high = running_share_interval(
        ~cell.correct[order], Grouping(grouping.numbers[order]), images[at]
    )
    following = np.searchsorted(at, np.arange(len(images)))
    return low[following], high[following]


def _tabulate_bins(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], grouping: Grouping | None
) -> list[RoundedRow]:
    """Bins that hold images: which, mean confidence, accuracy, its interval, images."""
    bins = reliability_bins(confidence, correct, bins=BINS, grouping=grouping)
    columns = (bins.confidence, bins.accuracy, bins.accuracy_low, bins.accuracy_high)
    table = np.stack(columns, axis=1)
    return [
        [at, *round_numbers(table[at]), int(bins.images[at])]
        for at in np.flatnonzero(bins.images).tolist()
    ]


def _thin_curve(curve: RiskCoverage, ends: IntervalEnds, images: int) -> list[RoundedRow]:
    """Points of a curve at about even coverages, from where a few images are answered to all.

    Each is coverage, risk, and the risk's interval over the images that are answered.
    """
    at = _find_drawn(curve, images)
    points = np.stack([curve.coverage[at], curve.risk[at], ends[0][at], ends[1][at]], axis=1)
    return [round_numbers(point) for point in points]


def _find_drawn(curve: RiskCoverage, images: int) -> npt.NDArray[np.int64]:
    """The points of a curve that are drawn."""
    first = min(FIRST_POINT / images, 1.0)
    at = np.unique(np.searchsorted(curve.coverage, np.linspace(first, 1, CURVE_POINTS)))
    return at[at < len(curve.coverage)]


def _apply_threshold(
    confidence: FloatArray,
    correct: npt.NDArray[np.bool_],
    threshold: float,
    grouping: Grouping | None,
) -> RoundedRow:
    """What a threshold defers and how wrong the answers are, each with its interval."""
    answered = is_answered(confidence, threshold)
    everything = np.zeros(len(confidence), dtype=np.int64)
    over = 1 - float(coverage_above(confidence, threshold))
    risk = float(risk_above(confidence, correct, threshold))
    over_ends = share_interval(~answered, everything, 1, grouping)
    risk_ends = share_interval(~correct, np.where(answered, 0, -1), 1, grouping)
    return round_numbers([over, *np.ravel(over_ends), risk, *np.ravel(risk_ends)])


def _tabulate_classes(
    cell: CellColumns, classes: int, grouping: Grouping | None
) -> list[RoundedRow]:
    """Class, images, accuracy and its interval; of many classes only the least accurate."""
    images = np.bincount(cell.labels, minlength=classes)
    right = np.bincount(cell.labels[cell.correct], minlength=classes)
    present = np.flatnonzero(images)
    accuracy = right[present] / images[present]
    low, high = share_interval(cell.correct, cell.labels, classes, grouping)
    rows = np.stack([present, images[present], accuracy, low[present], high[present]], axis=1)
    if classes > MOST_CLASSES:
        rows = rows[np.argsort(accuracy, kind="stable")[:WORST_CLASSES]]
    return [[int(row[0]), int(row[1]), *round_numbers(row[2:])] for row in rows]


def _count_confusions(cell: CellColumns, classes: int, *, all_of_them: bool) -> list[int]:
    """Label, prediction and count of the matrix, one after the other; the most frequent first."""
    pairs, counts = np.unique(cell.labels * classes + cell.predicted, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if not all_of_them:
        wrong = pairs[order] // classes != pairs[order] % classes
        order = order[wrong][:CONFUSIONS]
    flat = np.stack([pairs[order] // classes, pairs[order] % classes, counts[order]], axis=1)
    return [int(number) for number in flat.ravel()]


def shows_every_level(contents: Contents) -> bool:
    """Say whether every level of every shift can be looked at; of many models that is too much."""
    cells = 1 + sum(len(sweep.cells) for sweep in contents.sweeps)
    several = any(len(sweep.cells) > 1 for sweep in contents.sweeps)
    return not several or cells * len(contents.titles) <= MOST_CELLS


def find_shown_cells(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Give each model with its cells that can be looked at, clean first.

    If all would be too many, it is the level of each shift with the lowest mean accuracy of all
    models, or the first one that this model has.
    """
    every = [[CLEAN], *(list(sweep.cells.values()) for sweep in contents.sweeps)]
    if shows_every_level(contents):
        yield from (
            (model, [cell for cells in every for cell in cells]) for model in contents.titles
        )
        return
    worst = {condition.cell for condition in find_worst_conditions(contents)}
    levels = [sorted(cells, key=lambda cell: cell not in worst) for cells in every]
    for model in contents.titles:
        seed = contents.seeds_of(model)[0]
        there = ((cell for cell in cells if contents.has(model, seed, cell)) for cells in levels)
        yield model, [cell for cells in there for cell in itertools.islice(cells, 1)]


def read_cells(
    contents: Contents, further: Collection[str]
) -> Iterator[tuple[str, str, CellColumns, bool]]:
    """Read the cells of every model that can be looked at, and then some further ones.

    Each comes with the name of the model, the id of the shift, and whether it can be looked at.
    With several seeds it is the first: bins of different trainings cannot be averaged.
    """
    for model, shown in find_shown_cells(contents):
        seed = contents.seeds_of(model)[0]
        for cell in dict.fromkeys([*shown, *further]):
            columns = read_cell(contents, model, seed, cell)
            if columns is not None:
                yield model, cell, columns, cell in shown


def fit_thresholds(contents: Contents) -> dict[str, list[float]]:
    """Give the confidence that keeps each of `RISKS` on validation images, where there are some."""
    thresholds: dict[str, list[float]] = {}
    for model in contents.titles:
        seed = contents.seeds_of(model)[0]
        cells = [read_cell(contents, model, seed, cell, VAL) for cell in contents.fitted_on(model)]
        known = [cell for cell in cells if cell is not None]
        thresholds[model] = []
        if len(known) == len(cells):
            confidence = np.concatenate([cell.confidence for cell in known])
            correct = np.concatenate([cell.correct for cell in known])
            thresholds[model] = [threshold_at_risk(confidence, correct, risk=r) for r in RISKS]
    return thresholds
