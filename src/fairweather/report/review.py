"""What to do: how many images a person must review, and what the threshold sends there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from fairweather.metrics.selective import (
    coverage_above,
    deferral_shares,
    risk_above,
    threshold_at_risk,
)
from fairweather.report import sentences as words
from fairweather.report.contents import Contents
from fairweather.report.front import Mark, Row, make_mark, order_lows, read_outcomes
from fairweather.report.performance import ModelOutcome
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, TEST, VAL

FloatArray = npt.NDArray[np.float64]
# The stops of the slider: the largest share of wrong answers. The page opens at the fourth.
RISKS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)
START = RISKS.index(0.05)
MOST_ROWS = 8  # clean images, and the shifts that cost most


class CellColumns(NamedTuple):
    """What is read of a cell, one entry an image: label and prediction `[n]`, confidence `[n]`.

    An unknown confidence is NaN.
    """

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: FloatArray

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label."""
        return self.labels == self.predicted

    @property
    def is_sure(self) -> bool:
        """Whether the confidence is known."""
        return not np.isnan(self.confidence).any()


def read_cell(
    contents: Contents, model: str, seed: str, cell: str, part: str = TEST
) -> CellColumns | None:
    """Read a cell of a model; None where it was not predicted."""
    columns = contents.read_columns(model, seed, cell, CellColumns._fields, part)
    return None if columns is None else CellColumns(*columns)


class Review(NamedTuple):
    """What a person must review of some images, means over seeds; one entry for each of `RISKS`.

    Attributes:
        n: images.
        needed: the smallest share that keeps the risk; its interval covers those of all seeds.
        sent: the share that the threshold of the validation images sends to a person.
        wrong: the share of wrong answers without review; NaN where a seed answers nothing.
    """

    n: int
    needed: Sequence[Score]
    sent: Sequence[float]
    wrong: Sequence[float]


def fit_thresholds(contents: Contents, model: str, seed: str) -> list[float]:
    """Give the confidence that keeps each of `RISKS` on validation images; none without them."""
    cells = [read_cell(contents, model, seed, cell, VAL) for cell in contents.fitted_on(model)]
    known = [cell for cell in cells if cell is not None and cell.is_sure]
    if len(known) < len(cells):
        return []
    confidence = np.concatenate([cell.confidence for cell in known])
    correct = np.concatenate([cell.correct for cell in known])
    return [threshold_at_risk(confidence, correct, risk=risk) for risk in RISKS]


def measure_review(
    contents: Contents, model: str, cell: str, thresholds: Mapping[str, Sequence[float]]
) -> Review | None:
    """Measure what a person must review in a cell; None where a seed lacks it or a confidence.

    `thresholds` are those of each seed of the model, from `fit_thresholds`.
    """
    needed, sent, wrong = [], [], []
    for seed, fitted in thresholds.items():
        columns = read_cell(contents, model, seed, cell)
        if columns is None or not columns.is_sure:
            return None
        confidence, correct = columns.confidence, columns.correct
        needed.append(deferral_shares(confidence, correct, RISKS, contents.grouping))
        sent.append([1 - float(coverage_above(confidence, at)) for at in fitted])
        wrong.append([float(risk_above(confidence, correct, at)) for at in fitted])
    return Review(
        needed[0][0].n,
        [_join_seeds(scores) for scores in zip(*needed, strict=True)],
        np.mean(sent, axis=0).tolist(),
        np.mean(wrong, axis=0).tolist(),
    )


def _join_seeds(scores: Sequence[Score]) -> Score:
    values, lows, highs, counts = zip(*scores, strict=True)
    return Score(float(np.mean(values)), min(lows), max(highs), counts[0])


def _list_places(outcome: ModelOutcome) -> Iterator[tuple[str, str, str, str]]:
    """Title, note, words and cell of clean images, and of the worst level of the hardest shifts."""
    yield "Clean images", "", "clean images", CLEAN
    for low in order_lows(outcome)[: MOST_ROWS - 1]:
        sweep, level = low.sweep, low.level
        yield (
            sweep.title,
            sweep.level_in_words(level),
            f"images under {sweep.at(level)}",
            sweep.cells[level],
        )


class Stop(TypedDict):
    """What the page says at a stop of the slider: the risk as text, sentences, and rows."""

    risk: str
    said: list[str]
    rows: list[Row]


def describe_stops(contents: Contents, model: str, outcome: ModelOutcome) -> list[Stop]:
    """What the page says at each stop of the slider."""
    fitted = {seed: fit_thresholds(contents, model, seed) for seed in contents.seeds_of(model)}
    thresholds = fitted if all(fitted.values()) else {seed: [] for seed in fitted}
    places = [
        (title, note, where, review)
        for title, note, where, cell in _list_places(outcome)
        if (review := measure_review(contents, model, cell, thresholds))
    ]
    if not places:
        return []
    stops: list[Stop] = []
    for at, risk in enumerate(RISKS):
        needed = [(where, review.needed[at]) for _, _, where, review in places[:2]]
        said = [*words.describe_review(risk, needed)]
        *_, where, review = places[:2][-1]
        if review.sent:
            answers = (1 - review.sent[at]) * review.n
            said += words.describe_threshold(where, review.sent[at], review.wrong[at], answers)
        rows = [
            Row(title, note, [make_mark("needed", review.needed[at]), _mark_threshold(review, at)])
            for title, note, _, review in places
        ]
        stops.append(Stop(risk=words.format_share(risk), said=said, rows=rows))
    return stops


def _mark_threshold(review: Review, at: int) -> Mark | None:
    if not review.sent or math.isnan(review.sent[at]):
        return None
    share = review.sent[at]
    return "sent", round(share, 5), None, None, words.format_share(share)


def _show_review(contents: Contents, _: Tables) -> PartView | None:
    outcomes = contents.once(read_outcomes)
    stops = {
        model: said
        for model, outcome in outcomes.items()
        if (said := describe_stops(contents, model, outcome))
    }
    if not stops:
        return None
    sent = any(row.marks[1] for own in stops.values() for row in own[START]["rows"])
    facts = {
        "stops": len(RISKS),
        "start": START,
        "thresholds": sent,
        "grouped": contents.grouping is not None,
        "seeds": max(len(contents.seeds_of(model)) for model in stops),
    }
    return PartView(template="review.html.j2", facts=facts, carried={"review": stops})


REVIEW = ReportPart(_show_review)
