"""The front of the page: how often a model is right, where that breaks, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from fairweather.metrics import to_score
from fairweather.metrics.selective import (
    coverage_above,
    deferral_shares,
    risk_above,
    threshold_at_risk,
)
from fairweather.report import sentences as words
from fairweather.report.adaptation import summarise_adaptation
from fairweather.report.contents import Contents, Sweep
from fairweather.report.other_images import list_other_images
from fairweather.report.performance import (
    FloatArray,
    ImageKeys,
    ModelOutcome,
    WorstLevel,
    estimate_seed_means,
    find_miscalibrated_class,
    find_shared_cells,
    read_correct,
    read_image_keys,
    read_outcome,
    read_performance,
)
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.training import read_warnings
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, NO_LEVEL, TEST, VAL, base_model

ROWS = 4  # of pictures: clean images, and levels up to the worst one
KINDS = ("clean", "mean", "worst")  # of marks
TERMS = "Sure: the probability that a model gives its own answer, called confidence."


Mark = tuple[str, float, float | None, float | None, str]
"""A number in a row of a chart: its kind, value, low and high end, and the same as text."""


class Row(NamedTuple):
    """A row of a chart: what it is of, what stands beside it, and what a click on it opens."""

    title: str
    note: str
    marks: Sequence[Mark | None]
    opens: str = ""


def make_mark(kind: str, score: Score | None) -> Mark | None:
    """Make a mark of a share; None where there is no number."""
    if score is None or math.isnan(score.value):
        return None
    return kind, *round_ends(score), words.format_share(score.value)


def round_ends(score: Score) -> tuple[float, float | None, float | None]:
    """Value, low and high end as a chart draws them; None for an end that is no number."""
    low, high = (None if math.isnan(end) else round(end, 5) for end in score[1:3])
    return round(score.value, 5), low, high


# ---------------------------------------------------------------- which model


def read_outcomes(contents: Contents) -> dict[str, ModelOutcome]:
    """Read what becomes of each model that was tested on clean images."""
    read = ((model, read_outcome(contents, model)) for model in contents.titles)
    return {model: outcome for model, outcome in read if outcome is not None}


def choose_model(contents: Contents) -> str | None:
    """The model that the page opens with: the most accurate on clean images, before its variants.

    It is the one that somebody would use who has not seen any shift.
    """
    outcomes = contents.once(read_outcomes)
    own = [model for model in outcomes if base_model(model) == model] or list(outcomes)
    return max(own, key=lambda model: outcomes[model].clean.accuracy.value, default=None)


# ---------------------------------------------------------------- verdict


def write_tiles(contents: Contents, model: str) -> list[list[str]]:
    """Write the tiles of a model: a number each, a line about it, and what to know of it."""
    outcome = contents.once(read_outcomes)[model]
    clean, low = outcome.clean, outcome.worst.focus
    tiles = [[words.format_share(clean.accuracy.value), *words.describe_clean(outcome)]]
    tiles[0] += _describe_grades(contents, model)
    there, where = clean, ""
    if low is not None:
        there, where = low.performance, " there"
        accuracy = words.format_share(there.accuracy.value)
        tiles.append([accuracy, *words.describe_worst(outcome, low)])
    if there.gap is not None and there.confidence is not None:
        sure = words.format_share(there.confidence.value)
        tiles.append([sure, *words.describe_sureness(outcome, there.gap, where)])
        tiles[-1] += describe_class(contents, model, CLEAN) if low is None else []
    return tiles


def _describe_grades(contents: Contents, model: str) -> list[str]:
    """Say how far off the answers are on clean images, where classes are grades."""
    error, far = (
        contents.score(metric, model, CLEAN, NO_LEVEL)
        for metric in ("mean_absolute_error", "off_by_two")
    )
    return [words.describe_grades_off(error, far)] if error and far else []


def describe_class(contents: Contents, model: str, cell: str, searched: int = 1) -> list[str]:
    """Say which class gets too much or too little probability, if one is confirmed to."""
    off = find_miscalibrated_class(contents, model, cell, searched)
    where = "of the clean images" if cell == CLEAN else "of these images"
    return [words.describe_class_share(off, where)] if off else []


def explain_terms(contents: Contents, model: str) -> str:
    """Explain the words of the tiles, and what is left out where only predicted classes are known.

    Without a log-likelihood, nothing is known of other classes; without a confidence, of none.
    """
    lacks_gap, lacks_likelihood = (
        contents.score(metric, model, CLEAN, NO_LEVEL) is None
        for metric in ("confidence_gap", "negative_log_likelihood")
    )
    if lacks_gap:
        return (
            "Only predicted classes are known. Calibration, deferral, log-likelihood, AUC and "
            "others that need probabilities are left out."
        )
    if lacks_likelihood:
        return (
            f"{TERMS} Only this probability is known. Log-likelihood, AUC and others that need "
            "those of all classes are left out."
        )
    return TERMS


def _show_verdict(contents: Contents, _: Tables) -> PartView | None:
    outcomes, start = contents.once(read_outcomes), contents.once(choose_model)
    if start is None:
        return None
    return PartView(
        template="verdict.html.j2",
        facts={
            "start": start,
            "tiles": write_tiles(contents, start),
            "models": {model: outcome.title for model, outcome in outcomes.items()},
            "chosen": "that is most accurate on clean images",
            "adapted": summarise_adaptation(contents),
            "terms": explain_terms(contents, start),
        },
        carried={
            "start": start,
            "tiles": {model: write_tiles(contents, model) for model in outcomes},
        },
    )


# ---------------------------------------------------------------- where it breaks


def order_lows(outcome: ModelOutcome) -> list[WorstLevel]:
    """Order the shifts by their worst level, the worst first, and then the attacks."""
    return [
        low
        for kind in (outcome.worst.shifts, outcome.worst.attacks)
        for low in sorted(kind, key=lambda low: low.performance.accuracy.value)
    ]


def list_breaks(outcome: ModelOutcome) -> list[Row]:
    """List accuracy on clean images, on average and at the worst level of each shift."""
    return [
        Row(
            low.sweep.title,
            ("attack, " if low.sweep.is_attack else "")
            + (
                "the same at every level"
                if low.is_flat
                else f"worst at {low.sweep.level_in_words(low.level)}"
            ),
            [
                make_mark(kind, score)
                for kind, score in zip(
                    KINDS,
                    (outcome.clean.accuracy, low.mean, low.performance.accuracy),
                    strict=True,
                )
            ],
            low.sweep.name,
        )
        for low in order_lows(outcome)
    ]


def _show_breaks(contents: Contents, _: Tables) -> PartView | None:
    outcomes = contents.once(read_outcomes)
    shifted = {model: outcome for model, outcome in outcomes.items() if outcome.worst.main}
    if not shifted:
        return None
    return PartView(
        template="breaks.html.j2",
        facts={"warnings": read_warnings(contents)},
        carried={
            "breaks": {
                model: {
                    "said": [*words.describe_shifts(outcome.worst.main)],
                    "rows": list_breaks(outcome),
                }
                for model, outcome in shifted.items()
            }
        },
    )


def _show_other_images(contents: Contents, _: Tables) -> PartView | None:
    sentences = list_other_images(contents)
    return PartView("Other images", notes=sentences) if sentences else None


# ---------------------------------------------------------------- does it know


def choose_rows(sweep: Sweep, worst: str) -> list[str]:
    """Choose the levels whose pictures are shown: at even steps from clean to the worst level."""
    side = 1 if float(worst) >= sweep.neutral else -1
    away = {level: side * (float(level) - sweep.neutral) for level in sweep.cells}
    until = sorted((at, level) for level, at in away.items() if 0 < at <= away[worst])
    steps = (math.ceil(len(until) * step / (ROWS - 1)) - 1 for step in range(1, ROWS))
    return list(dict.fromkeys(until[step][1] for step in steps)) if until else []


def list_levels(contents: Contents, model: str, sweep: Sweep) -> list[Mapping[str, object]]:
    """List accuracy and confidence at each level of a shift, with clean images at their place."""
    places = [(sweep.neutral, 0, "clean", CLEAN, NO_LEVEL, CLEAN)]
    places += [
        (float(level), 1, sweep.number(level), sweep.name, level, cell)
        for level, cell in sweep.cells.items()
    ]
    return [
        {
            "title": title,
            "cell": cell,
            "right": make_mark("right", there.accuracy),
            "sure": make_mark("sure", there.confidence),
        }
        for _, _, title, shift, level, cell in sorted(places)
        if (there := read_performance(contents, model, shift, level))
    ]


def _describe_shift(
    contents: Contents, model: str, outcome: ModelOutcome, low: WorstLevel
) -> dict[str, object]:
    said = [*words.describe_knowledge(outcome, low)]
    if low is outcome.worst.focus:
        cell = low.sweep.cells[low.level]
        said += describe_class(contents, model, cell, outcome.worst.searched)
    rows = choose_rows(low.sweep, low.level)
    return {
        "said": said,
        "axis": low.sweep.level_title,
        "levels": list_levels(contents, model, low.sweep),
        "cells": [CLEAN, *(low.sweep.cells[level] for level in rows)],
        "headings": ["Clean", *map(low.sweep.level_in_words, rows)],
        "worst": low.sweep.cells[low.level],
    }


def _show_knowledge(contents: Contents, _: Tables) -> PartView | None:
    outcomes = contents.once(read_outcomes)
    known = {
        model: {
            low.sweep.name: _describe_shift(contents, model, outcome, low)
            for low in order_lows(outcome)
        }
        for model, outcome in outcomes.items()
        if outcome.worst.main
    }
    if not known:
        return None
    shifts = {sweep.name: sweep.title for sweep in contents.sweeps}
    return PartView(template="knows.html.j2", carried={"knows": known, "shifts": shifts})


VERDICT, BREAKS, KNOWLEDGE = (
    ReportPart(show, accepts=None) for show in (_show_verdict, _show_breaks, _show_knowledge)
)
OTHER_IMAGES = ReportPart(_show_other_images)


# ---------------------------------------------------------------- what to do

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


# ---------------------------------------------------------------- worst classes and groups

MOST_PARTS = 5
FEWEST_IMAGES = 10  # of a part that is shown, unless at most one has so many
BOUNDS = (0.0, 1.0)  # of accuracy


class Division(NamedTuple):
    """A way to divide the images: the noun of a part, each part's name, and each image's part."""

    noun: str
    names: tuple[str, ...]
    parts: npt.NDArray[np.int64]


def list_divisions(contents: Contents, images: ImageKeys) -> Iterator[Division]:
    """Divide the images by class, and by each column of subgroups that was asked for."""
    if len(contents.classes) > 1:
        yield Division("class", contents.classes, images.labels)
    groups = next((own for run in contents.runs.values() if (own := run.groups())), None)
    for column, values in groups.slices.items() if groups else ():
        if len(values) == len(images.labels):
            names, parts = np.unique(values, return_inverse=True)
            yield Division(column, tuple(map(str, names)), parts.ravel())


def find_hurt(
    contents: Contents, division: Division, clean: FloatArray, shifted: FloatArray | None
) -> tuple[list[Row], list[str]] | None:
    """Find the parts of the images with the lowest accuracy; None of a single part.

    Args:
        contents: of the run.
        division: of its test images.
        clean: how often each clean image is right, by seed: `[n, S]`.
        shifted: the same on average over the shifts; None without shifts.
    """
    right = clean if shifted is None else shifted
    counts = np.bincount(division.parts, minlength=len(division.names))
    sums = np.bincount(division.parts, right.mean(axis=1), minlength=len(division.names))
    kept = np.flatnonzero(counts >= FEWEST_IMAGES)
    kept = kept if len(kept) > 1 else np.flatnonzero(counts)
    if len(kept) < 2:
        return None
    worst = kept[np.argsort(sums[kept] / counts[kept], kind="stable")][:MOST_PARTS]
    parts = []
    for at in worst.tolist():
        scores = [_estimate(contents, columns, division.parts == at) for columns in (clean, right)]
        parts.append((f"{division.noun} {division.names[at]}", int(counts[at]), scores))
    rows = [
        Row(
            name[:1].upper() + name[1:],
            f"{n:,} images",
            [
                make_mark("clean", scores[0]),
                None if shifted is None else make_mark("mean", scores[1]),
            ],
        )
        for name, n, scores in parts
    ]
    everyone = _estimate(contents, right, np.ones(len(right), dtype=bool))
    _, _, (before, there) = parts[0]
    said = words.describe_hurt(
        rows[0].title, there, before if shifted is not None else None, everyone
    )
    return rows, [*said]


def _estimate(contents: Contents, right: FloatArray, inside: npt.NDArray[np.bool_]) -> Score:
    grouping, kept = contents.grouping, np.flatnonzero(inside)
    own = None if grouping is None else grouping.select(kept)
    [estimate] = estimate_seed_means([right[kept]], contents.bootstrap, own)
    return to_score(estimate, BOUNDS)


class WorstParts(TypedDict):
    """The parts of a division with the lowest accuracy as rows of a chart, and what they say."""

    rows: list[Row]
    said: list[str]


def find_worst_parts(contents: Contents, model: str) -> Mapping[str, WorstParts]:
    """Find the worst parts of each division for a model, by the noun of a part."""
    images = contents.once(read_image_keys)
    if images is None:
        return {}
    clean = read_correct(contents, model, {CLEAN: 1.0}, images)
    cells = find_shared_cells(contents, [model])
    shifted = read_correct(contents, model, cells, images) if cells else None
    if clean is None or (cells and shifted is None):
        return {}
    hurt = (
        (division.noun, find_hurt(contents, division, clean, shifted))
        for division in list_divisions(contents, images)
    )
    return {noun: WorstParts(rows=parts[0], said=parts[1]) for noun, parts in hurt if parts}


def _show_hurt(contents: Contents, _: Tables) -> PartView | None:
    hurt = {
        model: own
        for model in contents.once(read_outcomes)
        if (own := find_worst_parts(contents, model))
    }
    if not hurt:
        return None
    nouns = list(dict.fromkeys(noun for own in hurt.values() for noun in own))
    facts = {"nouns": nouns, "shifted": any(find_shared_cells(contents, [own]) for own in hurt)}
    return PartView(template="hurt.html.j2", facts=facts, carried={"hurt": hurt})


HURT = ReportPart(_show_hurt)
