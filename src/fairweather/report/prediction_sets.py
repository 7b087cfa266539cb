"""Prediction sets: from which level of each shift on the promised coverage is broken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.metrics import to_score
from fairweather.metrics.conformal import coverage_deviations
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import percentiles
from fairweather.report.charts import Figure
from fairweather.report.contents import Contents, Sweep
from fairweather.report.levels import draw_levels
from fairweather.report.performance import FloatArray, estimate_seed_means, read_by_seed
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import ABSENT, ScoreEntry, TableLayout, TextTable, entry_numbers
from fairweather.runs.folder import read_json
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, NO_LEVEL
from fairweather.variants.prediction_sets import Conformal, FittedSets

COVERAGE, SIZE = "conformal_coverage", "conformal_set_size"
STRATIFIED = "size_stratified_coverage/30-per-stratum"
NOT_BROKEN = "not shown to break"
SET_HEADER = (
    "Model",
    "Images",
    "Promised",
    "Where it is broken",
    "Lowest coverage (%)",
    "Classes in a set there",
    "Lowest coverage of similar sizes there",
)


class SetScores(NamedTuple):
    """The sets of a model on one set of images.

    Attributes:
        level: as scores.csv writes it.
        coverage, size: the share of covered labels, and the mean number of classes in a set.
        stratified: the lowest coverage of sets of similar size; None where it has no value.
    """

    level: str
    coverage: Score
    size: Score
    stratified: Score | None

    def breaks(self, promise: float) -> bool:
        """Tell whether the whole interval of the coverage is below the promise."""
        return self.coverage.high < promise


class ShiftPromise(NamedTuple):
    """What becomes of the promise of a model under one shift.

    Attributes:
        model, title, promise: the variant, its title, and the coverage that it promises.
        sweep: the shift; None for clean images.
        cells: of its levels, ascending.
    """

    model: str
    title: str
    promise: float
    sweep: Sweep | None
    cells: tuple[SetScores, ...]

    @property
    def changed(self) -> tuple[SetScores, ...]:
        """The cells whose level changes something; what is not changed is told of clean images."""
        if self.sweep is None:
            return self.cells
        return tuple(cell for cell in self.cells if float(cell.level) != self.sweep.neutral)

    @property
    def worst(self) -> SetScores:
        """The level with the lowest coverage."""
        return min(self.changed or self.cells, key=lambda cell: cell.coverage.value)

    @property
    def is_broken(self) -> bool:
        """Tell whether the promise is broken at some level."""
        return any(cell.breaks(self.promise) for cell in self.changed)

    def in_words(self) -> str:
        """Say from where on the promise is broken; that it is kept, no interval shows."""
        if self.sweep is None:
            return "broken" if self.is_broken else NOT_BROKEN
        if not self.is_broken:
            return f"{NOT_BROKEN} at the levels tested"
        return "; ".join(self._of_side(side) for side in self._sides() if side)

    def _sides(self) -> Iterator[list[SetScores]]:
        """The levels below and above the one that changes nothing, the nearest first."""
        assert self.sweep is not None
        for side in (-1, 1):
            away = {c.level: side * (float(c.level) - self.sweep.neutral) for c in self.cells}
            beyond = [cell for cell in self.cells if away[cell.level] > 0]
            yield sorted(beyond, key=lambda cell, away=away: away[cell.level])  # type: ignore[misc]

    def of_worst_side(self) -> str:
        """Say the same of the side on which the coverage is lowest."""
        return next(self._of_side(side) for side in self._sides() if self.worst in side)

    def _of_side(self, side: Sequence[SetScores]) -> str:
        assert self.sweep is not None
        broken = [cell.breaks(self.promise) for cell in side]
        if not any(broken):
            return f"{NOT_BROKEN} up to {self.sweep.spelled(side[-1].level)}"
        first = broken.index(True)
        on = " on" if all(broken[first:]) and first + 1 < len(side) else ""
        return f"broken {'from' if on else 'at'} {self.sweep.spelled(side[first].level)}{on}"


class PromiseFinding(NamedTuple):
    """What becomes of the promise of a variant, in one or two sentences."""

    model: str
    title: str
    sentences: tuple[str, ...]


def describe_promises(promises: Sequence[ShiftPromise]) -> list[PromiseFinding]:
    """Say of each variant where its promise breaks."""
    return [
        PromiseFinding(model, title, tuple(_describe_promise([*rows])))
        for (model, title), rows in itertools.groupby(promises, key=lambda row: row[:2])
    ]


def _describe_promise(rows: Sequence[ShiftPromise]) -> Iterator[str]:
    shifted = [row for row in rows if row.sweep is not None]
    broken = [row for row in shifted if row.is_broken]
    begin = f"It promised {100 * rows[0].promise:.6g}\N{NO-BREAK SPACE}%"
    if any(row.is_broken for row in rows if row.sweep is None):
        begin += " and broke that on clean images already"
    if not shifted:
        yield f"{begin}; no shift was tested."
        return
    worst = min(broken or shifted, key=lambda row: row.worst.coverage.value)
    if not broken:
        lowest = ScoreEntry(worst.worst.coverage, percent=True).in_words
        kept = "under no shift tested is that shown to break"
        yield f"{begin}; {kept}. The lowest coverage is {lowest}."
        return
    assert worst.sweep is not None
    yield f"{begin}; under {worst.sweep.in_sentence} that was {worst.of_worst_side()}."
    if others := len(broken) - 1:
        yield f"{others} other shift{'s' * (others > 1)} broke it too."


def find_conformal(contents: Contents) -> dict[str, Conformal]:
    """The conformal variants, which promise a coverage, by their names here."""
    variants = {name: contents.variant(name) for name in contents.titles}
    return {name: own for name, own in variants.items() if isinstance(own, Conformal)}


def check_promises(contents: Contents) -> list[ShiftPromise]:
    """Find where each conformal variant keeps its promise, on clean images and under each shift.

    A promise is broken at a level where the whole 95 % interval of the coverage is below it; few
    images make it easier to keep. Only levels that were tested are looked at.
    """
    return [*_make_promises(contents)]


def has_natural_shift(contents: Contents) -> bool:
    """Whether the test images have a different origin from the validation images."""
    return any("natural_shift" in record.data.notes for record in contents.records.values())


def tabulate_promises(contents: Contents) -> Iterator[TextTable]:
    """Lay out what becomes of all promises, one row each; nothing without prediction sets."""
    promises = contents.once(check_promises)
    if not promises:
        return
    caption = (
        "Prediction sets contain the label of as many images as promised, if the images are "
        "exchangeable with the clean validation images. Under a shift nothing is promised. Broken: "
        "the whole interval of the coverage is below the promise. The last three columns are of "
        f"the level with the lowest coverage. In brackets: {contents.intervals}"
    )
    if not has_natural_shift(contents):
        caption += "; on clean images also over other calibration images"
    caption += f". {contents.sample()}."
    if contents.grouping is not None:
        caption += (
            " Sets without “of images” in their title promise the coverage for new groups, such "
            "as patients. Groups count equally in that promise and in the coverage here. In the "
            "other columns, and in scores.csv, images count equally."
        )
    lines = [
        [
            *(*row[:2], row.sweep.name if row.sweep else CLEAN, cell.level, row.promise),
            *(*cell.coverage, *cell.size[:3], *entry_numbers(cell.stratified)),
        ]
        for row in promises
        for cell in row.cells
    ]
    ends = ("", " low", " high")
    columns = ["model", "title", "shift", "level", "promised"]
    columns += [f"coverage{end}" for end in ends] + ["n"]
    columns += [f"{name}{end}" for name in ("set size", "stratified coverage") for end in ends]
    body = [
        [
            row.title,
            row.sweep.title if row.sweep else "Clean images",
            f"{100 * row.promise:.6g} %",
            row.in_words(),
            *(
                str(ScoreEntry(score, percent) if score else ABSENT)
                for score, percent in zip(row.worst[1:], (True, False, False), strict=True)
            ),
        ]
        for row in promises
    ]
    frame, models = pd.DataFrame(lines, columns=columns), [row.model for row in promises]
    layout = TableLayout(SET_HEADER, words=4)
    yield TextTable("prediction_sets", layout, body, [caption], frame, models)


def _make_promises(contents: Contents) -> Iterator[ShiftPromise]:
    sweeps: list[Sweep | None] = [None, *contents.sweeps]
    for (model, variant), sweep in itertools.product(find_conformal(contents).items(), sweeps):
        ids = sweep.cells if sweep else {NO_LEVEL: CLEAN}
        cells = list(_read_cells(contents, model, sweep.name if sweep else CLEAN, list(ids)))
        if contents.grouping is not None and variant.weigh == "groups":
            draws = None if sweep or has_natural_shift(contents) else variant
            cells = [
                cell._replace(coverage=coverage)
                for cell in cells
                if (coverage := _estimate_coverage(contents, model, ids[cell.level], draws))
            ]
        if cells:
            title = contents.titles[model]
            yield ShiftPromise(model, title, variant.coverage, sweep, tuple(cells))


def _estimate_coverage(
    contents: Contents, model: str, cell: str, drawn: Conformal | None
) -> Score | None:
    """The coverage in which each group counts alike, as the promise does.

    Args:
        contents, model, cell: where the predictions are; None where there are none.
        drawn: the variant, if the interval is to cover other calibration images too.

    Source of an interval of two errors: Zou and Donner 2008, Construction of Confidence Limits
    about Effect Measures.
    """
    grouping, covered = contents.grouping, read_by_seed(contents, model, cell, "covered")
    if grouping is None or covered is None:
        return None
    shares = grouping.sums(covered) / grouping.sizes[:, None]
    single = Grouping(np.arange(grouping.count))
    [estimate] = estimate_seed_means([shares], contents.bootstrap, single)
    score = to_score(estimate, (0.0, 1.0))._replace(n=len(covered))
    if drawn is None:
        return score
    seeds = contents.seeds_of(model)
    deviations = np.mean([_read_deviations(contents, model, drawn, seed) for seed in seeds], axis=0)
    below, above = percentiles(deviations)
    low = score.value - np.hypot(score.value - score.low, below)
    high = score.value + np.hypot(score.high - score.value, above)
    return score._replace(low=max(0.0, float(low)), high=min(1.0, float(high)))


def _read_deviations(contents: Contents, model: str, variant: Conformal, seed: str) -> FloatArray:
    """What another draw of calibration images would change; nothing of an ensemble's sets."""
    run, name = contents.home(model)
    file = variant.file(name.removesuffix(f"+{variant.name}"), seed)
    columns = contents.read_columns(model, seed, CLEAN, ("labels",))
    if columns is None or not run.holds(file):
        return np.zeros(contents.bootstrap)
    fitted = FittedSets.read(read_json(run.file(file)), file)
    return coverage_deviations(fitted.draws, columns[0], contents.bootstrap)


def _read_cells(
    contents: Contents, model: str, shift: str, levels: Sequence[str]
) -> Iterator[SetScores]:
    for level in levels:
        coverage, size, stratified = (
            contents.score(metric, model, shift, level) for metric in (COVERAGE, SIZE, STRATIFIED)
        )
        if coverage is not None and size is not None:
            known = stratified is not None and stratified.value == stratified.value  # not NaN
            yield SetScores(level, coverage, size, stratified if known else None)


# ---------------------------------------------------------------- on the page


def _draw_sets(contents: Contents) -> Iterator[Figure | None]:
    """Draw coverage and size of prediction sets against the level, with the promised coverages."""
    variants = find_conformal(contents)
    if variants:
        promised = sorted({variant.coverage for variant in variants.values()})
        yield draw_levels(contents, COVERAGE, promised)
        yield draw_levels(contents, SIZE)


def _show_sets(contents: Contents, tables: Tables) -> PartView | None:
    promises = contents.once(check_promises)
    if not promises:
        return None
    facts = {
        "findings": describe_promises(promises),
        "natural_shift": has_natural_shift(contents),
        "figures": (COVERAGE, SIZE),
    }
    return PartView(tables=tables, template="sets.html.j2", facts=facts)


PREDICTION_SETS = ReportPart(_show_sets, tabulate_promises, _draw_sets)
