"""Calls of a finding at its operating points, and the rates of each slice, such as a site."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import holm
from fairweather.metrics.findings import PRESENT
from fairweather.metrics.grouping import Grouping, heterogeneity_p
from fairweather.metrics.sample import is_called
from fairweather.report import sentences as words
from fairweather.report.contents import Contents, ensembles_as_models
from fairweather.report.front import Row, make_mark
from fairweather.report.joint_runs import join_scores
from fairweather.report.section import PartView, ReportPart, Tables, show_tables
from fairweather.report.tables import (
    ABSENT,
    ScoreEntry,
    TableLayout,
    TextTable,
    entry_numbers,
    format_p_value,
)
from fairweather.tasks.multilabel import FindingsPredictions, select_finding
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import Score
from fairweather.types.operating_points import POINT_SIGN, parse_threshold
from fairweather.types.record import CLEAN, ENSEMBLE_SUFFIX, NO_LEVEL, SLICES, slice_label

KINDS = ("sensitivity", "specificity")
UNIT = "finding="


class OperatingPoint(NamedTuple):
    """Where a finding is called: from a threshold on, which is given or chosen for a target."""

    at: str
    """What names of metrics have after `@`, such as `0.3` or `sensitivity=0.95`; "" for 0.5."""

    @property
    def title(self) -> str:
        """How a sentence names it.

        >>> OperatingPoint("0.3").title, OperatingPoint("sensitivity=0.95").title
        ('at 0.3', 'at a target sensitivity of 0.95')
        """
        kind, _, target = self.at.partition("=")
        return f"at a target {kind} of {target}" if target else f"at {self.at or 0.5}"

    @property
    def short(self) -> str:
        """What a chart writes beside it.

        >>> OperatingPoint("0.3").short, OperatingPoint("sensitivity=0.95").short
        ('0.3', 'sens. 0.95')
        """
        kind, _, target = self.at.partition("=")
        return f"{kind[:4]}. {target}" if target else self.at or "0.5"

    def metric(self, kind: str) -> str:
        """The name of a metric there, as in scores.csv."""
        return f"{kind}{POINT_SIGN}{self.at}" if self.at else kind

    def threshold(self, view: Contents, model: str, seed: str | None = None) -> float | None:
        """The probability from which on the finding is called; None where none was chosen."""
        if not self.at:
            return 0.5
        given = parse_threshold(self.at)
        chosen = known(view.score(f"threshold{POINT_SIGN}{self.at}", model, CLEAN, NO_LEVEL, seed))
        return given if chosen is None else chosen.value


def split_by_finding(contents: Contents) -> Mapping[str, Contents]:
    """The scores of each finding by its name."""
    if not contents.runs or FINDINGS not in contents.kinds:
        return {}
    tables = {label: ensembles_as_models(run.unit_scores) for label, run in contents.runs.items()}
    rows = join_scores(tables) if len(tables) > 1 else next(iter(tables.values()))
    return {
        str(unit).removeprefix(UNIT): replace(
            contents, scores=own.drop(columns="unit").reset_index(drop=True)
        )
        for unit, own in rows.groupby("unit", sort=False)
        if str(unit).startswith(UNIT)
    }


def list_points(view: Contents) -> list[OperatingPoint]:
    """The operating points of a finding: those that were asked for, and then 0.5."""
    start = f"sensitivity{POINT_SIGN}"
    asked = [name for name in view.scores["metric"].unique() if str(name).startswith(start)]
    return [OperatingPoint(str(name).removeprefix(start)) for name in asked] + [OperatingPoint("")]


def known(score: Score | None) -> Score | None:
    """A score with a value, or None."""
    return None if score is None or math.isnan(score.value) else score


def seed_of_scores(model: str, seed: str) -> str | None:
    """The seed of a model's predictions as scores name it; None for an ensemble."""
    return None if model.endswith(ENSEMBLE_SUFFIX) else seed


def read_calls(
    view: Contents, model: str, shift: str, level: str, point: OperatingPoint
) -> tuple[Score, Score] | None:
    """Sensitivity and specificity at a point; None where one of them is unknown."""
    first, second = (known(view.score(point.metric(kind), model, shift, level)) for kind in KINDS)
    return (first, second) if first and second else None


class PointMark(NamedTuple):
    """Where an operating point is on the curves, of the seed that they are of."""

    title: str
    false: float
    """1 − specificity."""

    sensitivity: float
    ppv: float | None
    threshold: float | None


def mark_points(view: Contents, model: str, shift: str, level: str) -> list[PointMark]:
    """Find where the operating points of a finding are on its curves."""
    seed, marks = seed_of_scores(model, view.seeds_of(model)[0]), []
    for point in list_points(view):
        right, absent, ppv = (
            known(view.score(point.metric(kind), model, shift, level, seed))
            for kind in (*KINDS, "ppv")
        )
        if right and absent:
            marks.append(
                PointMark(
                    point.short,
                    round(1 - absent.value, 4),
                    round(right.value, 4),
                    ppv and round(ppv.value, 4),
                    point.threshold(view, model, seed),
                )
            )
    return marks


# ---------------------------------------------------------------- slices, such as sites


class SliceCalls(NamedTuple):
    """Sensitivity and specificity on the clean images of a slice, and how many each is a share of.

    A rate is None where no image is behind it.
    """

    name: str
    rates: tuple[Score | None, Score | None]
    images: tuple[int, int]


class ColumnCalls(NamedTuple):
    """The slices of a column at an operating point, and how likely their differences are."""

    point: OperatingPoint
    slices: Sequence[SliceCalls]

    p: tuple[float, float]
    """Of equal sensitivities, and of equal specificities; NaN where that is not tested."""


SliceKey = tuple[str, str, str]  # column, model, finding


def find_slice_calls(contents: Contents) -> dict[SliceKey, ColumnCalls]:
    """Find the calls of each model and finding in the slices of the clean images; of a single run.

    They are at the first operating point. The p-values of a column have Holm's correction.
    """
    run = next(iter(contents.runs.values()))
    groups = run.groups()
    if len(contents.runs) != 1 or groups is None or not groups.slices or not run.holds(SLICES):
        return {}
    table = ensembles_as_models(run.slice_scores)
    table = table[(table["shift"] == CLEAN) & (table["seed"] == contents.shown_seed)]
    calls: dict[SliceKey, ColumnCalls] = {}
    for model in contents.titles:
        for finding, view in contents.once(split_by_finding).items():
            point = list_points(view)[0]
            own = table[(table["model"] == model) & (table["unit"] == f"{UNIT}{finding}")]
            scores = {
                (name, metric): Score(value, low, high, int(n))
                for name, metric, value, low, high, n in zip(
                    *(own[column] for column in ("slice", "metric", *Score._fields)), strict=True
                )
            }
            called, labels = _read_called(contents, view, model, finding, point)
            for column, values in groups.slices.items():
                if len(values) == len(labels):
                    names, parts = np.unique(values, return_inverse=True)
                    calls[column, model, finding] = ColumnCalls(
                        point,
                        [
                            _read_slice(scores, column, str(name), point, labels[parts == part])
                            for part, name in enumerate(names)
                        ],
                        _test_equality(contents, called, labels, parts),
                    )
    return _correct(calls)


def _read_slice(
    scores: Mapping[tuple[str, str], Score],
    column: str,
    name: str,
    point: OperatingPoint,
    labels: npt.NDArray[np.int64],
) -> SliceCalls:
    first, second = (
        known(scores.get((slice_label(column, name), point.metric(kind)))) for kind in KINDS
    )
    return SliceCalls(
        name, (first, second), (int((labels == PRESENT).sum()), int((labels == 0).sum()))
    )


def _read_called(
    contents: Contents, view: Contents, model: str, finding: str, point: OperatingPoint
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Whether each clean image is called, `[n, S]`, and its label, `[n]`; both may be empty."""
    place, columns = contents.classes.index(finding), []
    labels = np.empty(0, dtype=np.int64)
    for seed in contents.seeds_of(model):
        images = contents.read_cell(model, seed, CLEAN)
        if not isinstance(images, FindingsPredictions):
            return np.empty((0, 1)), np.empty(0, dtype=np.int64)
        labels = images.labels[:, place]
        threshold = point.threshold(view, model, seed_of_scores(model, seed)) if point.at else None
        column = np.zeros(len(labels))
        column[images.known[:, place]] = is_called(
            select_finding(images, place), PRESENT, threshold
        )
        columns.append(column)
    return np.stack(columns, axis=1), labels


def _test_equality(
    contents: Contents,
    called: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    parts: npt.NDArray[np.int64],
) -> tuple[float, float]:
    """Test whether all parts have the same sensitivity, and the same specificity."""
    p_values = []
    for label in (PRESENT, 0):
        chosen = np.flatnonzero(labels == label)
        present, part = np.unique(parts[chosen], return_inverse=True)
        grouping = None
        if contents.grouping is not None and len(chosen):
            grouping = contents.grouping.select(chosen)
        p = math.nan
        if len(present) > 1 and not _divides_groups(grouping, part):
            generator = np.random.default_rng(0)
            p = heterogeneity_p(called[chosen], part, grouping, generator)
        p_values.append(p)
    return p_values[0], p_values[1]


def _divides_groups(grouping: Grouping | None, parts: npt.NDArray[np.int64]) -> bool:
    """Whether a group has images in several parts."""
    if grouping is None:
        return False
    pairs = np.unique(np.stack([grouping.numbers, parts]), axis=1)
    return pairs.shape[1] > grouping.count


def _correct(calls: Mapping[SliceKey, ColumnCalls]) -> dict[SliceKey, ColumnCalls]:
    """Apply Holm's correction to the p-values of each column of slices."""
    corrected: dict[SliceKey, ColumnCalls] = {}
    for column in dict.fromkeys(key[0] for key in calls):
        own = {key: column_calls for key, column_calls in calls.items() if key[0] == column}
        p = np.array([column_calls.p for column_calls in own.values()])
        tested = ~np.isnan(p)
        p[tested] = holm(p[tested]) if tested.any() else p[tested]
        corrected |= {
            key: column_calls._replace(p=(row[0], row[1]))
            for (key, column_calls), row in zip(own.items(), p.tolist(), strict=True)
        }
    return corrected


def describe_slices(column: str, calls: ColumnCalls) -> Iterator[str]:
    """Say of each rate where it is lowest and highest, and whether a test confirms that."""
    for place, kind in enumerate(KINDS):
        rates = sorted((rate.value, own.name) for own in calls.slices if (rate := own.rates[place]))
        if len(rates) > 1:
            yield words.describe_rates(kind, rates[0], rates[-1])
            yield words.describe_rate_test(kind, column, calls.p[place])


def tabulate_calls(contents: Contents) -> Iterator[TextTable]:
    """Lay out the calls of each model and finding in each slice, a table for each column."""
    calls = contents.once(find_slice_calls) if contents.runs else {}
    for column in dict.fromkeys(key[0] for key in calls):
        rows = [
            (model, finding, column_calls, own)
            for (of_column, model, finding), column_calls in calls.items()
            if of_column == column
            for own in column_calls.slices
        ]
        tests = sum(not math.isnan(p) for key in calls if key[0] == column for p in calls[key].p)
        yield _lay_out_calls(contents, column, rows, tests)


def _lay_out_calls(
    contents: Contents,
    column: str,
    rows: Sequence[tuple[str, str, ColumnCalls, SliceCalls]],
    tests: int,
) -> TextTable:
    body, lines = [], []
    for model, finding, calls, own in rows:
        cells = [contents.titles[model], f"{finding} {calls.point.title}", own.name]
        line: list[str | float] = [model, finding, calls.point.at or "0.5", own.name]
        for rate, images, p in zip(own.rates, own.images, calls.p, strict=True):
            cells += [
                f"{images:,}",
                str(ScoreEntry(rate, percent=True)) if rate else ABSENT,
                ABSENT if math.isnan(p) else format_p_value(p),
            ]
            line += [images, *entry_numbers(rate), p]
        body.append(cells)
        lines.append(line)
    header = (
        *("Model", "Finding", column[:1].upper() + column[1:]),
        *("Images with it", "Sensitivity (%)", "p (Holm)"),
        *("Images without it", "Specificity (%)", "p (Holm)"),
    )
    numbers = [f"{kind}{part}" for kind in KINDS for part in (" n", "", " low", " high", " p_holm")]
    units = "images" if contents.grouping is None else "groups"
    below = (
        f"Clean images by {column}, at the operating point. In brackets: {contents.intervals}. The "
        f"p value is how often a random division of the {units} makes rates that differ as much, "
        f"for these networks. It has Holm's correction over the {tests} tests of this table."
    )
    return TextTable(
        f"calls_{column.replace('*', '_and_')}",
        TableLayout(header, words=3),
        body,
        [below],
        pd.DataFrame(lines, columns=["model", "finding", "point", "slice", *numbers]),
        [row[0] for row in rows],
    )


def _show_slices(contents: Contents, _: Tables) -> PartView | None:
    """Show the calls of one finding in the slices, where there is no other."""
    calls = contents.once(find_slice_calls) if contents.runs else {}
    if not calls or len(contents.once(split_by_finding)) > 1:
        return None
    shown: dict[str, dict[str, object]] = {}
    for (column, model, _finding), column_calls in calls.items():
        rows = [
            Row(
                own.name,
                f"{own.images[0]:,} with it, {own.images[1]:,} without",
                [make_mark(kind, rate) for kind, rate in zip(KINDS, own.rates, strict=True)],
            )
            for own in column_calls.slices
        ]
        said = [*describe_slices(column, column_calls)]
        shown.setdefault(model, {})[column] = {"rows": rows, "said": said}
    point = next(iter(calls.values())).point
    return PartView(
        template="hurt.html.j2",
        facts={
            "nouns": list(dict.fromkeys(column for column, *_ in calls)),
            "note": "Clean images. Tables under Details have the same with intervals.",
        },
        carried={"hurt": shown, "divided": make_heads(point)},
    )


def make_heads(point: OperatingPoint) -> dict[str, object]:
    """What stands above a chart of calls, and the column and the name of each kind of mark."""
    head = f"{point.title[:1].upper()}{point.title[1:]}"
    return {"head": head, "kinds": {kind: [at, kind] for at, kind in enumerate(KINDS)}}


CALLS = ReportPart(
    show_tables("Sensitivity and specificity in slices"), tabulate_calls, accepts=FINDINGS
)
HURT = ReportPart(_show_slices, accepts=FINDINGS)
