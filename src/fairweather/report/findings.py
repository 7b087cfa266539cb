"""Several findings of an image: the AUC of each under each shift, and its probabilities there."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypedDict

import numpy as np

from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.report import sentences as words
from fairweather.report.calls import (
    OperatingPoint,
    PointMark,
    known,
    make_heads,
    mark_points,
    read_calls,
    read_points,
    split_by_finding,
)
from fairweather.report.contents import Contents, Sweep, ensembles_as_models, index_scores
from fairweather.report.finding_curves import FindingCurves, probability_of, trace_finding
from fairweather.report.front import Row, choose_rows, round_ends
from fairweather.report.other_images import find_shifts
from fairweather.report.readers import ReaderMark, has_readers, mark_readers
from fairweather.report.review import RISKS, START, Stop
from fairweather.report.section import PartView, ReportPart, Tables, show_tables
from fairweather.report.slices import count_known, describe_unseen
from fairweather.report.tables import (
    ScoreEntry,
    ScoreRow,
    TextTable,
    caption_scores,
    tabulate_scores,
)
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.kinds import FINDINGS, OF_FINDING
from fairweather.types.measurement import Predictions, Score
from fairweather.types.operating_points import RATES
from fairweather.types.record import (
    CLEAN,
    NATURAL,
    NO_LEVEL,
    SLICES,
    TEST,
    VAL,
    base_model,
    mean_unit_name,
    unseen_slice_label,
)

AUC, GAP = "auc", "probability_gap"
# What rounding may take off a share of images.
ROUNDING = 1e-9
NO_SHIFT = "This model was tested under no shift."
MOST_NAMED = 3  # findings below a picture, the most probable first
TERMS = (
    "AUC: the probability that an image with the finding gets a higher probability of it than one "
    "without. A coin has 0.5."
)


class ShownImages(NamedTuple):
    """Test images that the page shows: clean, or a shift at its worst level."""

    title: str
    level: str
    """In words; "" where there is none."""

    sentence: str
    """How a sentence names them, such as `under fog at level 5`."""

    shift: str
    level_name: str
    cell: str


CLEAN_IMAGES = ShownImages("Clean", "", "on clean images", CLEAN, NO_LEVEL, CLEAN)


class LargestGap(NamedTuple):
    """The mean probability that is farthest from the share of the images with its finding."""

    name: str
    """Of the finding."""

    gap: Score
    prevalence: Score
    place: ShownImages
    searched: int
    """Among how many gaps it is the largest."""


class FindingsOutcome(NamedTuple):
    """What becomes of a model on clean images and at the worst level of each shift.

    The worst level has the lowest mean AUC of several findings. Of one finding, it has the lowest
    mean of sensitivity and specificity, which also fall where all probabilities move.
    """

    title: str
    places: tuple[ShownImages, ...]
    """Clean images first, and then the shifts, the worst first."""

    means: tuple[Score, ...]
    """The mean AUC of all findings at each place."""


def read_findings(contents: Contents) -> dict[str, FindingsOutcome]:
    """Read what becomes of each model that was tested on clean images."""
    if not contents.once(split_by_finding):
        return {}
    read = ((model, _read_outcome(contents, model)) for model in contents.titles)
    return {model: outcome for model, outcome in read if outcome is not None}


def _read_outcome(contents: Contents, model: str) -> FindingsOutcome | None:
    clean = known(contents.score(AUC, model, CLEAN, NO_LEVEL))
    if clean is None:
        return None
    places = [(CLEAN_IMAGES, clean)]
    lows = (_find_low(contents, model, sweep) for sweep in contents.sweeps)
    worst_first = sorted((low for low in lows if low), key=lambda low: low[0])
    places += [(place, score) for _, place, score in worst_first]
    return FindingsOutcome(contents.titles[model], *zip(*places, strict=True))


def _find_low(
    contents: Contents, model: str, sweep: Sweep
) -> tuple[float, ShownImages, Score] | None:
    """The worst level of a shift: how bad it is, where, and the mean AUC there."""
    levels = [
        (badness, level, score)
        for level in sweep.cells
        if (score := known(contents.score(AUC, model, sweep.name, level)))
        if (badness := _judge(contents, model, sweep.name, level, score)) is not None
    ]
    if not levels:
        return None
    worth, level, score = min(levels, key=lambda item: item[0])
    return worth, _name_images(sweep, level), score


def _name_images(sweep: Sweep, level: str) -> ShownImages:
    where = f"under {'attack by ' if sweep.is_attack else ''}{sweep.at(level)}"
    cell, in_words = sweep.cells[level], sweep.level_in_words(level)
    return ShownImages(sweep.title, in_words, where, sweep.name, level, cell)


def list_places(contents: Contents) -> list[ShownImages]:
    """Clean images, every level of every shift that is no attack, and other images of a kind."""
    shifts = (sweep for sweep in contents.sweeps if not sweep.is_attack)
    shifted = (_name_images(sweep, level) for sweep in shifts for level in sweep.cells)
    others = map(_name_others, find_shifts(contents, NATURAL))
    return [CLEAN_IMAGES, *shifted, *others]


def _name_others(shift: str) -> ShownImages:
    name = shift.removeprefix(NATURAL)
    return ShownImages(name, "", f"on the images of {name}", shift, NO_LEVEL, shift)


def _judge(contents: Contents, model: str, shift: str, level: str, area: Score) -> float | None:
    """How good a model is at a level: of one finding, by its calls at the operating point."""
    views = contents.once(split_by_finding)
    if len(views) > 1:
        return area.value
    (view,) = views.values()
    calls = read_calls(view, model, shift, level, read_points(view)[0])
    return None if calls is None else (calls[0].value + calls[1].value) / 2


def choose_model(contents: Contents) -> str | None:
    """The model that the page opens with: the highest mean AUC on clean images."""
    outcomes = contents.once(read_findings)
    own = [model for model in outcomes if base_model(model) == model] or list(outcomes)
    return max(own, key=lambda model: outcomes[model].means[0].value, default=None)


# ---------------------------------------------------------------- verdict


def write_tiles(contents: Contents, model: str) -> list[list[str]]:
    """Write the tiles of a model: a number each, a line about it, and what to know of it."""
    outcome, views = contents.once(read_findings)[model], contents.once(split_by_finding)
    if len(views) == 1:
        [view] = views.values()
        tiles = _write_call_tiles(view, model, outcome)
    else:
        tiles = _write_area_tiles(views, model, outcome)
    if largest := find_largest_gap(views, model, list_places(contents)):
        name, gap, prevalence, place, searched = largest
        tiles.append(words.tile_gap(name, gap, prevalence, place.sentence, searched))
    return tiles


def _write_area_tiles(
    views: Mapping[str, Contents], model: str, outcome: FindingsOutcome
) -> list[list[str]]:
    """Write the tiles of several findings: their mean AUC, clean and where it is lowest."""
    tiles = [words.tile_area(outcome.means[0], f"mean AUC {outcome.places[0].sentence}")]
    if len(outcome.places) > 1:
        low = outcome.places[1]
        tiles.append(
            words.tile_area(outcome.means[1], f"mean AUC {low.sentence}, where it is lowest")
        )
        if fall := find_largest_fall(views, model, low):
            tiles[-1].append(words.describe_fall(*fall))
    return tiles


def _write_call_tiles(view: Contents, model: str, outcome: FindingsOutcome) -> list[list[str]]:
    """Write the tiles of one finding: its calls, clean and at their worst."""
    point, tiles = read_points(view)[0], []
    for place, note in zip(outcome.places[:2], ("", ", where their mean is lowest"), strict=False):
        if calls := read_calls(view, model, place.shift, place.level_name, point):
            tiles.append(words.tile_calls(*calls, point.title, f"{place.sentence}{note}"))
    return tiles


def find_largest_fall(
    views: Mapping[str, Contents], model: str, low: ShownImages
) -> tuple[str, float, float] | None:
    """The finding whose AUC falls most, with its AUC before and there."""
    falls = []
    for name, view in views.items():
        before = known(view.score(AUC, model, CLEAN, NO_LEVEL))
        there = known(view.score(AUC, model, low.shift, low.level_name))
        if before and there and there.value < before.value:
            falls.append((there.value - before.value, name, before.value, there.value))
    return min(falls)[1:] if falls else None


def find_largest_gap(
    views: Mapping[str, Contents], model: str, places: Sequence[ShownImages]
) -> LargestGap | None:
    """Find the mean probability that is farthest from its finding's share of the images.

    A gap whose interval excludes 0, widened for their number, comes before all others.
    """
    gaps = [
        (name, gap, prevalence, place)
        for place in places
        for name, view in views.items()
        if (gap := known(view.score(GAP, model, place.shift, place.level_name)))
        if (prevalence := known(view.score("prevalence", model, place.shift, place.level_name)))
    ]

    def rank(item: tuple[str, Score, Score, ShownImages]) -> tuple[bool, float]:
        return words.is_confirmed(item[1], len(gaps)), abs(item[1].value)

    largest = max(gaps, key=rank, default=None)
    return LargestGap(*largest, len(gaps)) if largest else None


def _show_verdict(contents: Contents, _: Tables) -> PartView | None:
    outcomes, start = contents.once(read_findings), contents.once(choose_model)
    if start is None:
        return None
    tiles = {model: write_tiles(contents, model) for model in outcomes}
    mean = "mean " if len(contents.once(split_by_finding)) > 1 else ""
    return PartView(
        template="verdict.html.j2",
        facts={
            "start": start,
            "adapted": [],  # changes are of classes
            "tiles": tiles[start],
            "models": {model: outcome.title for model, outcome in outcomes.items()},
            "chosen": f"with the highest {mean}AUC on clean images",
            "terms": TERMS,
        },
        carried={"start": start, "tiles": tiles},
    )


# ---------------------------------------------------------------- the map of findings and shifts

Number = tuple[float, float | None, float | None]
"""A value with the ends of its interval; None for an end that there is none of."""


def _numbers(score: Score | None) -> Number | None:
    return round_ends(score) if score is not None and known(score) else None


def _show_map(contents: Contents, _: Tables) -> PartView | None:
    outcomes, views = contents.once(read_findings), contents.once(split_by_finding)
    if not outcomes:
        return None
    if len(views) == 1:
        return _show_breaks(contents, outcomes, *views.values())
    carried = {
        model: {
            "columns": [[place.title, place.level, place.shift] for place in outcome.places],
            "rows": [
                [
                    name,
                    *(
                        [
                            _numbers(view.score(metric, model, place.shift, place.level_name))
                            for metric in (AUC, GAP)
                        ]
                        for place in outcome.places
                    ),
                ]
                for name, view in views.items()
            ],
            "said": words.describe_areas(
                [
                    (name, place.sentence, score)
                    for name, place, score in list_areas(views, model, outcome.places)
                ]
            ),
        }
        for model, outcome in outcomes.items()
    }
    return PartView(template="findings.html.j2", carried={"map": carried})


def list_areas(
    views: Mapping[str, Contents], model: str, places: Sequence[ShownImages]
) -> list[tuple[str, ShownImages, Score]]:
    """The AUC of each finding at each place, the lowest first."""
    areas = [
        (name, place, score)
        for place in places
        for name, view in views.items()
        if (score := known(view.score(AUC, model, place.shift, place.level_name)))
    ]
    return sorted(areas, key=lambda item: item[2].value)


# ---------------------------------------------------------------- one finding under each shift


def _show_breaks(
    contents: Contents, outcomes: Mapping[str, FindingsOutcome], view: Contents
) -> PartView:
    """Show the calls at each operating point under each shift, and the AUC."""
    points = read_points(view)
    carried = {
        model: [
            *(_list_calls(view, model, outcome.places, point) for point in points),
            _list_area(view, model, outcome.places),
        ]
        for model, outcome in outcomes.items()
    }
    titles = [f"Sensitivity and specificity {point.title}" for point in points]
    return PartView(
        template="rates.html.j2",
        facts={"shown": [*titles, "AUC"], "worst": _describe_worst(contents)},
        carried={"rates": carried},
    )


def _list_calls(
    view: Contents, model: str, places: Sequence[ShownImages], point: OperatingPoint
) -> dict[str, object]:
    """Sensitivity and specificity at each place as rows of a chart, and what they say."""
    read = _read_calls_at(view, model, places, point)
    said = describe_falls(view, model, places, point) or [NO_SHIFT]
    rows = [_make_row(place, list(zip(RATES, calls, strict=True))) for place, calls in read]
    return {**make_heads(point), "said": said, "rows": rows}


def _read_calls_at(
    view: Contents, model: str, places: Sequence[ShownImages], point: OperatingPoint
) -> list[tuple[ShownImages, tuple[Score, Score]]]:
    return [
        (place, calls)
        for place in places
        if (calls := read_calls(view, model, place.shift, place.level_name, point))
    ]


def describe_falls(
    view: Contents, model: str, places: Sequence[ShownImages], point: OperatingPoint
) -> list[str]:
    """Say how far sensitivity and specificity fall under shifts; nothing without shifts."""
    read, said = _read_calls_at(view, model, places, point), list[str]()
    if len(read) < 2:
        return said
    (_, clean), *shifted = read
    for at, kind in enumerate(RATES):
        low, calls = min(shifted, key=lambda item: item[1][at].value)
        said += words.describe_fall_of_rate(kind, clean[at], calls[at], low.sentence)
    return said


def _list_area(view: Contents, model: str, places: Sequence[ShownImages]) -> dict[str, object]:
    areas = [
        (place, score)
        for place in places
        if (score := known(view.score(AUC, model, place.shift, place.level_name)))
    ]
    name = view.classes[0]
    lowest = sorted(areas, key=lambda item: item[1].value)
    said = words.describe_areas([(name, place.sentence, score) for place, score in lowest])
    said = said if len(areas) > 1 else [NO_SHIFT]
    rows = [_make_row(place, [("right", score)], words.format_area) for place, score in areas]
    return {"head": "AUC", "kinds": {"right": [0, "AUC"]}, "said": said, "rows": rows}


def _make_row(
    place: ShownImages,
    marks: Sequence[tuple[str, Score]],
    write: Callable[[float], str] = words.format_share,
) -> Row:
    opens = "" if place.shift == CLEAN else place.shift
    made = [(kind, *round_ends(score), write(score.value)) for kind, score in marks]
    return Row(place.title, place.level, made, opens)


# ---------------------------------------------------------------- the curves of a finding


def read_finding(
    contents: Contents, model: str, seed: str, cell: str, part: str = TEST
) -> list[Predictions] | None:
    """Read a cell of a model, one entry for each finding; None where it was not predicted."""
    images = contents.read_cell(model, seed, cell, part)
    if not isinstance(images, FindingsPredictions):
        return None
    return [select_finding(images, column) for column in range(len(images.classes))]


def _trace_cell(contents: Contents, model: str, cell: str) -> dict[str, FindingCurves]:
    """The curves of each finding on the images of a cell, of the first seed."""
    images = contents.read_cell(model, contents.seeds_of(model)[0], cell)
    if not isinstance(images, FindingsPredictions):
        return {}
    traced, priors = {}, contents.home(model).run.record.priors
    stated = next(iter(priors.values()), (None,) * len(images.classes))
    for column, name in enumerate(images.classes):
        places = np.flatnonzero(images.known[:, column])
        grouping = contents.grouping.select(places) if contents.grouping and len(places) else None
        if curves := trace_finding(select_finding(images, column), grouping, stated[column]):
            traced[name] = curves
    return traced


class FindingView(TypedDict):
    """What the page says of a finding, by shift: AUCs with the titles of levels, sentences, curves.

    Sentences, curves and the operating points on them are those of clean images and of the worst
    level.
    """

    levels: dict[str, list[list[str | float | None]]]
    said: dict[str, list[str]]
    curves: dict[str, FindingCurves]
    points: dict[str, list[PointMark]]
    readers: list[ReaderMark]


def _describe_finding(
    contents: Contents, view: Contents, model: str, name: str, places: Sequence[ShownImages]
) -> FindingView:
    """What the page says of a finding: at each place, and at each level of each shift."""
    levels = {
        sweep.name: [
            [title, *numbers]
            for _, title, shift, level in sorted(
                [
                    (sweep.neutral, "clean", CLEAN, NO_LEVEL),
                    *(
                        (float(level), sweep.number(level), sweep.name, level)
                        for level in sweep.cells
                    ),
                ]
            )
            if (numbers := _numbers(view.score(AUC, model, shift, level)))
        ]
        for sweep in contents.sweeps
    }
    said = {
        place.shift: [
            *words.describe_finding(
                name,
                place.sentence,
                *(
                    known(view.score(metric, model, place.shift, place.level_name))
                    for metric in (AUC, GAP, "prevalence")
                ),
            )
        ]
        for place in places
    }
    points = {
        place.shift: mark_points(view, model, place.shift, place.level_name) for place in places
    }
    return FindingView(levels=levels, said=said, curves={}, points=points, readers=[])


def _choose_pictures(contents: Contents, place: ShownImages) -> dict[str, object]:
    """The cells of a shift whose pictures are shown, up to the level of a place."""
    (sweep,) = (sweep for sweep in contents.sweeps if sweep.name == place.shift)
    rows = choose_rows(sweep, place.level_name)
    return {
        "cells": [CLEAN, *(sweep.cells[level] for level in rows)],
        "headings": ["Clean", *map(sweep.level_in_words, rows)],
        "worst": place.cell,
    }


def _describe_worst(contents: Contents) -> str:
    """Say which level of a shift is shown."""
    if len(contents.once(split_by_finding)) > 1:
        return "the level with the lowest mean AUC"
    return "the level with the lowest mean of sensitivity and specificity"


def _name_stated(contents: Contents) -> str:
    """Say at which stated prevalence net benefits are; "" if it is that of the images."""
    for run in contents.runs.values():
        for name, shares in run.record.priors.items():
            return f"{100 * shares[0]:.3g} %" if len(shares) == 1 else f"the priors {name}"
    return ""


def _show_curves(contents: Contents, _: Tables) -> PartView | None:
    outcomes, views = contents.once(read_findings), contents.once(split_by_finding)
    if not outcomes:
        return None
    described: dict[str, dict[str, FindingView]] = {}
    for model, outcome in outcomes.items():
        described[model] = {
            name: _describe_finding(contents, view, model, name, outcome.places)
            for name, view in views.items()
        }
        for name, marks in mark_readers(contents, model).items():
            if name in described[model]:
                described[model][name]["readers"] = marks
        for place in outcome.places:
            for name, curves in _trace_cell(contents, model, place.cell).items():
                if name in described[model]:
                    described[model][name]["curves"][place.shift] = curves
    shown = {
        model: {
            place.shift: _choose_pictures(contents, place)
            for place in outcome.places
            if place.shift != CLEAN
        }
        for model, outcome in outcomes.items()
    }
    axes = {sweep.name: sweep.level_title for sweep in contents.sweeps}
    titles = {CLEAN: "Clean", **{sweep.name: sweep.title for sweep in contents.sweeps}}
    return PartView(
        template="finding.html.j2",
        facts={
            "seed": contents.first_seed,
            "findings": list(views),
            "worst": _describe_worst(contents),
            "readers": has_readers(contents),
            "stated": _name_stated(contents),
        },
        carried={"findings": described, "knows": shown, "axes": axes, "shifts": titles},
    )


# ---------------------------------------------------------------- what to review


def threshold_for(labels: IntArray, probability: FloatArray, missed: float) -> float:
    """The largest probability from which on at most this share of those with a finding is missed.

    >>> threshold_for(np.array([1, 1, 0, 1]), np.array([0.9, 0.2, 0.5, 0.7]), 0.34)
    0.7
    """
    positive = np.sort(probability[labels == 1])
    return float(positive[math.floor(missed * len(positive) + ROUNDING)])


class Worklist(NamedTuple):
    """What a person must look at to see those with a finding, the most probable images first."""

    needed: float
    """The smallest share of the images that contains them but for the share that may be missed."""

    missed: float | None
    """The share of them that the threshold of the validation images misses; None without one."""

    positives: int
    """How many have the finding."""


def measure_worklist(
    finding: Predictions, missed: float, threshold: float | None
) -> Worklist | None:
    """Measure what a person must look at; None where no image has the finding."""
    labels, probability = finding.labels, probability_of(finding)
    positives = int(labels.sum())
    if not positives:
        return None
    needed = float((probability >= threshold_for(labels, probability, missed)).mean())
    below = None if threshold is None else float((probability[labels == 1] < threshold).mean())
    return Worklist(needed, below, positives)


def _describe_stop(
    places: Sequence[ShownImages], lists: Mapping[str, Sequence[Worklist]], missed: float
) -> Stop:
    """What the page says at a stop of the slider, of each finding at one or two places."""
    where = places[-1].sentence
    order = sorted(lists, key=lambda name: -lists[name][-1].needed)
    rows = [
        Row(
            name,
            f"{lists[name][-1].positives:,} images with it",
            [
                (kind, round(item.needed, 5), None, None, words.format_share(item.needed))
                for kind, item in zip(("clean", "worst"), lists[name], strict=False)
            ],
        )
        for name in order
    ]
    said = []
    if order:
        share = words.format_share(lists[order[0]][-1].needed)
        said.append(words.describe_worklist(missed, order[0], share, where))
    if known := [
        (own[-1].missed, name) for name, own in lists.items() if own[-1].missed is not None
    ]:
        share_missed, name = max(known)
        said.append(words.describe_missed(name, share_missed, where))
    return Stop(risk=words.format_share(missed), said=said, rows=rows)


def read_worklists(contents: Contents, model: str, outcome: FindingsOutcome) -> list[Stop]:
    """What the page says at each stop of the slider; of the first seed."""
    seed, places = contents.seeds_of(model)[0], outcome.places[:2]
    cells = [read_finding(contents, model, seed, place.cell) for place in places]
    validation = read_finding(contents, model, seed, CLEAN, VAL)
    stops = []
    for missed in RISKS:
        lists: dict[str, list[Worklist]] = {}
        for column, name in enumerate(contents.classes):
            fitted = None
            if validation is not None and validation[column].labels.any():
                known = validation[column]
                fitted = threshold_for(known.labels, probability_of(known), missed)
            measured = [measure_worklist(cell[column], missed, fitted) for cell in cells if cell]
            if own := [item for item in measured if item is not None]:
                lists[name] = own
        stops.append(_describe_stop(places, lists, missed))
    return stops


def _show_review(contents: Contents, _: Tables) -> PartView | None:
    outcomes = contents.once(read_findings)
    stops = {model: read_worklists(contents, model, own) for model, own in outcomes.items()}
    stops = {model: own for model, own in stops.items() if own[START]["rows"]}
    if not stops:
        return None
    facts = {"stops": len(RISKS), "start": START}
    kinds = {"clean": [0, "clean"], "worst": [1, "worst shift"]}
    return PartView(
        template="worklist.html.j2",
        facts=facts,
        carried={"review": stops, "reviewed": {"head": "Images to look at", "kinds": kinds}},
    )


# ---------------------------------------------------------------- pictures


def _show_pictures(contents: Contents, _: Tables) -> PartView | None:
    """Show a few pictures with the findings that a model gives the highest probabilities."""
    outcomes, samples = contents.once(read_findings), contents.samples
    if samples is None or not samples.pictures or not outcomes:
        return None
    models = list(outcomes)
    known = {
        (model, cell): images
        for model in models
        for cell in dict.fromkeys(cell for cell, _ in samples.pictures)
        if (images := contents.read_cell(model, contents.seeds_of(model)[0], cell))
        if isinstance(images, FindingsPredictions)
    }
    pictures: list[dict[str, object]] = []
    strip: dict[str, list[int]] = {}
    for (cell, key), image in samples.pictures.items():
        said = [_say_of_image(known.get((model, cell)), key) for model in models]
        if key in samples.strip:
            strip.setdefault(cell, []).append(len(pictures))
        label = samples.labels[samples.strip.index(key)] if key in samples.strip else ""
        uri = "data:image/webp;base64," + base64.b64encode(image).decode()
        pictures.append({"image": uri, "cell": cell, "label": label, "predictions": said})
    gallery = {"pictures": pictures, "strip": strip, "attacked": {}, "findings": True}
    return PartView(
        template="pictures.html.j2",
        facts={"seed": contents.first_seed},
        carried={"gallery": gallery, "models": models, "classes": contents.classes},
    )


def _say_of_image(
    images: FindingsPredictions | None, key: int
) -> list[tuple[int, float, int]] | None:
    """The most probable findings of an image: place, probability and label of each."""
    if images is None or not (images.keys == key).any():
        return None
    row = int((images.keys == key).argmax())
    probability, labels = images.probability[row], images.labels[row]
    order = np.argsort(-probability, kind="stable")[:MOST_NAMED].tolist()
    return [(at, round(float(probability[at]), 3), int(labels[at])) for at in order]


# ---------------------------------------------------------------- slices


def read_slice_areas(contents: Contents) -> dict[tuple[str, ...], Score]:
    """Read AUCs in each slice of clean images, by model, unit and slice; of a single run."""
    if len(contents.runs) != 1:
        return {}
    (run,) = contents.runs.values()
    if not run.holds(SLICES):
        return {}
    table = ensembles_as_models(run.slice_scores)
    table = table[(table["metric"] == AUC) & (table["shift"] == CLEAN)]
    table = table[table["seed"] == contents.shown_seed]
    return index_scores(table, ("model", "unit", "slice"))


def _slice_tables(contents: Contents) -> Iterator[TextTable | None]:
    """Lay out the AUC of each finding in each slice of the clean images."""
    scores = read_slice_areas(contents)
    units, names = (list(dict.fromkeys(key[at] for key in scores)) for at in (1, 2))
    rows = [
        ScoreRow(
            model,
            f"{title}, {unit.removeprefix(OF_FINDING)}",
            [
                ScoreEntry(score, percent=False)
                if (score := known(scores.get((model, unit, name))))
                else None
                for name in names
            ],
        )
        for model, title in contents.titles.items()
        for unit in units
        if any((model, unit, name) in scores for name in names)
    ]
    if rows:
        caption = caption_scores(contents, "AUC of each finding in each slice of the clean images")
        head = [("Model and finding", "model"), *((name, name) for name in names)]
        table = tabulate_scores("findings_slices", caption, head, rows, drop_empty=True)
        yield replace(table, below=[*_describe_unseen(contents, scores), *table.below])


def _describe_unseen(contents: Contents, scores: Mapping[tuple[str, ...], Score]) -> Iterator[str]:
    """Say which AUC a model may have at an unseen site: of the only finding, or the mean."""
    (run,) = contents.runs.values()
    groups, names = run.groups(), contents.classes
    unit, measured = f"{OF_FINDING}{names[0]}", f"the AUC for {names[0]}"
    if len(names) > 1:
        unit, measured = mean_unit_name(unit), "the mean AUC over findings"
    for column in run.record.settings.sites:
        assert groups is not None  # slices.csv was made from them
        unseen = unseen_slice_label(column)
        predicted = {
            title: scores.get((model, unit, unseen)) for model, title in contents.titles.items()
        }
        count = count_known(groups.slices[column])
        yield describe_unseen(column, count, predicted, measured, percent=False)


SLICED = ReportPart(show_tables("Findings in slices"), _slice_tables, accepts=FINDINGS)
VERDICT, MAP, CURVES, WORKLIST, PICTURES = (
    ReportPart(show, accepts=FINDINGS)
    for show in (_show_verdict, _show_map, _show_curves, _show_review, _show_pictures)
)
