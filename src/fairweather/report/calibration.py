"""Smooth calibration curves, with slope, intercept, O:E and ICI: of the confidence, of each class
or of each finding, clean and under shift."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from fairweather.metrics import softmax
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import FEWEST_OUTCOMES
from fairweather.metrics.recalibration import Outcomes
from fairweather.report.calls import known, split_by_finding
from fairweather.report.charts import (
    COLORS,
    DASHED,
    FAINT,
    GRID,
    RULE,
    SLACK,
    SOLID,
    Figure,
    look_up,
    render_figure,
)
from fairweather.report.contents import Contents
from fairweather.report.finding_curves import probability_of
from fairweather.report.findings import read_finding, read_findings
from fairweather.report.reliability import (
    find_worst_conditions,
    keep_hardest,
    keep_most_accurate,
)
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import (
    ScoreRow,
    TableLayout,
    TextTable,
    caption_scores,
    find_entry,
    format_p_value,
    tabulate_scores,
)
from fairweather.tasks import FindingsPredictions
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import CLEAN, MEAN

SLOPE, RATIO = "calibration_slope", "observed_expected_ratio"
COLUMNS = (
    ("Slope", SLOPE),
    ("Intercept", "calibration_intercept"),
    ("Observed / expected", RATIO),
    ("ICI", "ici_4_knots"),
)
POINTS = 11  # of each half of a curve
PANEL_SIDE, MOST_MODELS, MOST_SUBJECTS, MOST_SENTENCES = 116, 3, 5, 3
CONFIDENCE = "Confidence"
LEAST_SLOPE = 1e-3  # as which negative slopes count


class Subject(NamedTuple):
    """Whose probabilities are judged: the confidence, a class or a finding."""

    title: str
    suffix: str
    """Of the names of its metrics in scores.csv."""

    scores: Contents
    every_shift: bool = False
    """Whether a table has each shift of it, or the worst alone."""


class DrawnImages(NamedTuple):
    """Images of which curves are drawn."""

    title: str
    cell: str


def list_subjects(contents: Contents) -> list[Subject]:
    """The confidence and each class, or each finding."""
    if FINDINGS in contents.kinds:
        views = contents.once(split_by_finding)
        return [Subject(name, "", view) for name, view in views.items()]
    names = contents.scores["metric"].unique()
    classes = [str(n).partition("/")[2] for n in names if str(n).startswith(f"{SLOPE}/")]
    return [
        Subject(CONFIDENCE, "", contents, every_shift=True),
        *(Subject(name, f"/{name}", contents) for name in classes),
    ]


def find_slope(subject: Subject, model: str, shift: str, level: str) -> Score | None:
    """The slope of a subject; None where it is undefined, or has no interval."""
    score = known(subject.scores.score(f"{SLOPE}{subject.suffix}", model, shift, level))
    return None if score is None or score.too_few else score


def choose_places(subject: Subject, model: str) -> list[tuple[str, str, str]]:
    """Clean images, and all shifts or the one with the slope farthest from 1, with its level."""
    clean, *shifts = subject.scores.means
    if subject.every_shift:
        return [clean, *shifts]
    slopes = ((place, find_slope(subject, model, *place[1:])) for place in shifts)
    measured = [(distance_of(slope), place) for place, slope in slopes if slope]
    return [clean, *(place for _, place in sorted(measured, reverse=True)[:1])]


def distance_of(slope: Score) -> float:
    """How far a slope is from 1: twice as steep is as far as half as steep."""
    return abs(math.log(max(slope.value, LEAST_SLOPE)))


def describe_calibration(slope: Score | None, ratio: Score | None) -> str:
    """Say in words what slope and O:E show; "" where they show nothing.

    >>> describe_calibration(Score(0.6, 0.5, 0.7, 99), Score(1.0, 0.9, 1.1, 99))
    'too extreme'
    """
    said = []
    for score, below, above in (
        (slope, "too extreme", "too moderate"),
        (ratio, "too high on average", "too low on average"),
    ):
        if score is not None and score.high < 1:
            said.append(below)
        elif score is not None and score.low > 1:
            said.append(above)
    return ", ".join(said)


def _list_places(contents: Contents) -> Iterator[tuple[str, str, Subject, tuple[str, str, str]]]:
    """Whose probabilities are judged where: in words, model, subject, and the place."""
    for (model, title), subject in product(contents.titles.items(), list_subjects(contents)):
        whose = f"{title}: {subject.title}" if len(contents.titles) > 1 else subject.title
        for place in choose_places(subject, model):
            yield whose, model, subject, place


def _tabulate(contents: Contents) -> Iterator[TextTable | None]:
    rows, added = [], []
    for whose, model, subject, (place, shift, level) in _list_places(contents):
        entries = [
            find_entry(subject.scores, f"{name}{subject.suffix}", model, shift, level)
            for _, name in COLUMNS
        ]
        if not any(entries):
            continue
        mean = " (mean over levels)" if level == MEAN else ""
        key = f"{model}/{subject.title}/{shift}"
        rows.append(ScoreRow(key, f"{whose}, {place.lower()}{mean}", entries))
        slope, ratio = (entry.score if entry else None for entry in entries[::2])
        test = _test_clean(contents, model, subject) if shift == CLEAN else ""
        added.append((test, describe_calibration(slope, ratio) or "–"))
    if not rows:
        return
    subject_of = (
        "Calibration of each finding’s probability"
        if FINDINGS in contents.kinds
        else "Calibration of the confidence, and of the probability of each class"
    )
    caption = caption_scores(
        contents,
        f"{subject_of}. Slope: 1 is right; below 1, probabilities are too extreme. Intercept: 0 is "
        "right; below 0, they are too high. Observed / expected: how often it happened / mean "
        "probability. ICI: mean distance from the smooth curve. z: Spiegelhalter’s test on the "
        "clean images of the first seed. Of classes and findings, the shift with the slope "
        "farthest from 1 is shown",
    )
    table = tabulate_scores("calibration", caption, [("Of", "of"), *COLUMNS], rows)
    tests, said = zip(*added, strict=True)
    yield replace(
        table,
        layout=table.layout._replace(header=(*table.layout.header, "z (p)", "Probabilities are")),
        body=[[*line, *more] for line, more in zip(table.body, added, strict=True)],
        values=[[*line, *more] for line, more in zip(table.values, added, strict=True)],
        frame=table.frame.assign(z=tests, said=said),
    )
    yield _tabulate_curves(contents)


def _test_clean(contents: Contents, model: str, subject: Subject) -> str:
    outcomes = read_outcomes(contents, model, CLEAN).get(subject.title)
    if outcomes is None:
        return ""
    z, p = outcomes.spiegelhalter
    return f"{z:.2f} (p {format_p_value(p)})".replace("-", "−")


def read_outcomes(contents: Contents, model: str, cell: str) -> Mapping[str, Outcomes]:
    """The outcomes of each subject on the images of a cell, of the first seed."""
    if not contents.runs:  # scores alone
        return {}
    seed, grouping = contents.seeds_of(model)[0], contents.grouping
    if FINDINGS in contents.kinds:
        return _read_findings(contents, model, seed, cell)
    images = contents.read_cell(model, seed, cell)
    if not isinstance(images, Predictions) or images.confidence is None:
        return {}
    groups = None if grouping is None else grouping.numbers
    own = {CONFIDENCE: Outcomes(images.confidence.astype(np.float64), images.correct, groups)}
    if images.logits is not None:
        probabilities = softmax(images.logits)
        own |= {
            name: Outcomes(probabilities[:, label], images.labels == label, groups)
            for label, name in enumerate(images.classes)
        }
    return own


def _read_findings(contents: Contents, model: str, seed: str, cell: str) -> Mapping[str, Outcomes]:
    own: dict[str, Outcomes] = {}
    images = contents.read_cell(model, seed, cell)
    if not isinstance(images, FindingsPredictions):
        return own
    for column, finding in enumerate(read_finding(contents, model, seed, cell) or ()):
        grouping: Grouping | None = contents.grouping
        if grouping is not None:
            grouping = grouping.select(np.flatnonzero(images.known[:, column]))
        groups = None if grouping is None else grouping.numbers
        name = images.classes[column]
        own[name] = Outcomes(probability_of(finding), finding.labels == 1, groups)
    return own


# ---------------------------------------------------------------- the curves


def find_places(contents: Contents, model: str) -> list[DrawnImages]:
    """Clean images, and the worst level of the shift that costs most."""
    if FINDINGS in contents.kinds:
        outcome = contents.once(read_findings).get(model)
        places = outcome.places[:2] if outcome else ()
        return [
            DrawnImages(f"{place.title}, {place.level}" if place.level else place.title, place.cell)
            for place in places
        ]
    clean, *shifted = keep_hardest(contents, contents.once(find_worst_conditions))
    worst = min(shifted, key=lambda condition: condition.accuracy, default=None)
    return [DrawnImages(place.title, place.cell) for place in (clean, worst) if place]


def trace_curves(contents: Contents) -> pd.DataFrame:
    """Points of the curves of each model, subject and place, with their bands."""
    frames = []
    for model in keep_most_accurate(contents)[:MOST_MODELS]:
        for under, place in zip((False, True), find_places(contents, model), strict=False):
            for name, outcomes in read_outcomes(contents, model, place.cell).items():
                happened = int(outcomes.happened.sum())
                if min(happened, len(outcomes.happened) - happened) < FEWEST_OUTCOMES:
                    continue
                frame = pd.DataFrame(outcomes.trace_curve(POINTS)._asdict())
                frames.append(frame.assign(model=model, of=name, place=place.title, under=under))
    columns = ["model", "of", "place", "under", "probability", "share", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame()


def _tabulate_curves(contents: Contents) -> TextTable | None:
    points = contents.once(trace_curves)
    if points.empty:
        return None
    frame = points.drop(columns="under")
    body = [
        [contents.titles[model], of, place, *(f"{number:.3f}" for number in numbers)]
        for model, of, place, *numbers in frame.itertuples(index=False)
    ]
    return TextTable(
        "calibration_curves",
        TableLayout(("Model", "Of", "Images", "Probability", "Share", "Low", "High"), words=3),
        body,
        [
            "How often it happened at each probability, on images of the first seed. Bands: "
            f"pointwise 95 % intervals. Each side has at least {FEWEST_OUTCOMES} images."
        ],
        frame,
    )


def draw_calibration(contents: Contents) -> Figure | None:
    """Draw the curves of a few models: a row for each, a column for each subject."""
    points = contents.once(trace_curves)
    if points.empty:
        return None
    models = list(dict.fromkeys(points["model"]))
    subjects = list(dict.fromkeys(points["of"]))[:MOST_SUBJECTS]
    points = points[points["of"].isin(subjects)]
    points = points.assign(
        row=points["model"].map(models.index),
        column=points["of"].map(subjects.index),
        state=np.where(points["under"], "under shift", "clean"),
    )
    chart = _make_layers(points).facet(
        row=alt.Row("row:O", header=_make_header([contents.titles[name] for name in models])),
        column=alt.Column("column:O", header=_make_header(subjects)),
        spacing=24,
        padding=SLACK,
    )
    shown = "; ".join(dict.fromkeys(points.loc[points["under"], "place"]))
    subtitle = [
        "On the dashed diagonal, probabilities are right. Flatter: too extreme. Below: too high. "
        "Shaded: pointwise 95 % bands.",
        f"Smooth curves from the 1 % to the 99 % quantile of the images. Under shift: {shown}."
        if shown
        else "Smooth curves from the 1 % to the 99 % quantile of the images.",
    ]
    return render_figure(
        "calibration",
        chart,
        "Are the probabilities right?",
        subtitle,
        f"Smooth calibration curves with 95 % bands, {' and '.join(_list_states(points))}. "
        "Columns: "
        f"{'findings' if FINDINGS in contents.kinds else 'the confidence, and classes'}. Models: "
        f"{'; '.join(contents.titles[name] for name in models)}.",
        letters=80,  # of one panel, too
    )


def _list_states(points: pd.DataFrame) -> list[str]:
    """The states that have curves, in the order of the legend."""
    return [state for state in ("clean", "under shift") if (points["state"] == state).any()]


def _make_header(titles: list[str]) -> alt.Header:
    return alt.Header(
        title=None, labelExpr=look_up(titles), labelLimit=PANEL_SIDE, labelColor=FAINT
    )


def _make_layers(points: pd.DataFrame) -> alt.LayerChart:
    shares = [0, 0.5, 1]
    axis, unit = alt.Axis(values=shares, format=".0%"), alt.Scale(domain=[0, 1])
    states = _list_states(points)
    color = alt.Color(
        "state:N",
        scale=alt.Scale(domain=states, range=COLORS[:2]),
        legend=alt.Legend(title=None, orient="top"),
    )
    dash = alt.StrokeDash(
        "state:N", scale=alt.Scale(domain=states, range=[SOLID, DASHED]), legend=None
    )
    base = alt.Chart().encode(
        x=alt.X("probability:Q", title="Probability", axis=axis, scale=unit), color=color
    )
    diagonal = (
        alt.Chart()
        .transform_aggregate(count="count()")
        .mark_rule(color=RULE, strokeDash=[4, 3])
        .encode(x=alt.XDatum(0), y=alt.YDatum(0), x2=alt.X2Datum(1), y2=alt.Y2Datum(1))
    )
    share = alt.Y("share:Q", title="Share", axis=axis, scale=unit)
    band = base.mark_area(opacity=0.2, line=False).encode(
        y=alt.Y("low:Q", axis=axis, scale=unit, title="Share"), y2=alt.Y2("high:Q")
    )
    line = base.mark_line(strokeWidth=1.5).encode(y=share, strokeDash=dash)
    return alt.LayerChart(
        layer=[diagonal, band, line],
        data=points,
        width=PANEL_SIDE,
        height=PANEL_SIDE,
        view=alt.ViewBackground(stroke=GRID),
    )


# ---------------------------------------------------------------- the page


def describe_slopes(contents: Contents) -> Iterator[str]:
    """Say where probabilities are shown to be too extreme, or too moderate: the worst first."""
    said = []
    for whose, model, subject, (place, shift, level) in _list_places(contents):
        slope = find_slope(subject, model, shift, level)
        if slope and (words := describe_calibration(slope, None)):
            where = "on clean images" if shift == CLEAN else f"under {place.lower()}"
            numbers = f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"
            sentence = f"{whose}: slope {numbers} {where}. Probabilities are {words}."
            said.append((distance_of(slope), sentence))
    yield from (text for _, text in sorted(said, reverse=True)[:MOST_SENTENCES])


def _show(contents: Contents, tables: Tables) -> PartView | None:
    if not tables:
        return None
    return PartView(
        "Calibration: slope, intercept and curves",
        tables[:1],
        figures=["calibration"],
        notes=list(describe_slopes(contents)),
    )


CALIBRATION = ReportPart(_show, _tabulate, lambda contents: [draw_calibration(contents)])
OF_FINDINGS = replace(CALIBRATION, accepts=FINDINGS)
