"""The front of the page: how often a model is right, where that breaks, and whether it knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fairweather.report import sentences as words
from fairweather.report.adaptation import summarise_adaptation
from fairweather.report.contents import Contents, Sweep
from fairweather.report.other_images import list_other_images
from fairweather.report.performance import (
    ModelOutcome,
    WorstLevel,
    find_miscalibrated_class,
    read_outcome,
    read_performance,
)
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.training import read_warnings
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, NO_LEVEL, base_model

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
