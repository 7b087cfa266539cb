"""Prediction sets: from which level of each shift on the promised coverage is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.metrics import to_score
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.conformal import coverage_deviations
from fairweather.metrics.intervals import percentiles
from fairweather.report.charts import INK
from fairweather.report.contents import Contents, Sweep
from fairweather.report.levels import draw_level_charts
from fairweather.report.performance import FloatArray, estimate_seed_means, read_by_seed
from fairweather.report.section import Chart, PartView, ReportPart, Tables
from fairweather.report.tables import ABSENT, ScoreEntry, TableLayout, TextTable
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
    def shift(self) -> str:
        """The title of the shift."""
        return "Clean images" if self.sweep is None else self.sweep.title

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

    def entries(self) -> list[str]:
        """Write it as a row of the table."""
        worst, stratified = self.worst, self.worst.stratified
        return [
            self.title,
            self.shift,
            f"{100 * self.promise:.6g} %",
            self.in_words(),
            str(ScoreEntry(worst.coverage, percent=True)),
            str(ScoreEntry(worst.size, percent=False)),
            ABSENT if stratified is None else str(ScoreEntry(stratified, percent=False)),
        ]

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


class PromiseTable(NamedTuple):
    """What becomes of all promises.

    Attributes:
        rows: each variant on clean images, and then under each shift.
        caption: what the table shows.
        natural_shift: whether the test images have a different origin from the validation images.
    """

    rows: tuple[ShiftPromise, ...]
    caption: str
    natural_shift: bool

    @property
    def table(self) -> TextTable:
        """What becomes of all promises as it is written to files, one row each."""
        lines = [
            (
                row.model,
                row.title,
                CLEAN if row.sweep is None else row.sweep.name,
                cell.level,
                row.promise,
                *cell.coverage,
                *cell.size[:3],
                *(cell.stratified[:3] if cell.stratified else (None,) * 3),
            )
            for row in self.rows
            for cell in row.cells
        ]
        ends = ("", " low", " high")
        columns = ["model", "title", "shift", "level", "promised"]
        columns += [f"coverage{end}" for end in ends] + ["n"]
        columns += [f"{name}{end}" for name in ("set size", "stratified coverage") for end in ends]
        return TextTable(
            "prediction_sets",
            TableLayout(SET_HEADER, words=4),
            [row.entries() for row in self.rows],
            [self.caption],
            pd.DataFrame(lines, columns=columns),
            [row.model for row in self.rows],
        )

    @property
    def titles(self) -> list[str]:
        """The titles of the variants."""
        return list(dict.fromkeys(row.title for row in self.rows))

    def told(self) -> list[PromiseFinding]:
        """Say of each variant where its promise breaks."""
        return [self._told(model) for model in dict.fromkeys(row.model for row in self.rows)]

    def _told(self, model: str) -> PromiseFinding:
        rows = [row for row in self.rows if row.model == model]
        shifted = [row for row in rows if row.sweep is not None]
        broken = [row for row in shifted if row.is_broken]
        begin = f"It promised {100 * rows[0].promise:.6g}\N{NO-BREAK SPACE}%"
        if any(row.is_broken for row in rows if row.sweep is None):
            begin += " and broke that on clean images already"
        title = rows[0].title
        if not shifted:
            return PromiseFinding(model, title, (f"{begin}; no shift was tested.",))
        if not broken:
            lowest = min(shifted, key=lambda row: row.worst.coverage.value)
            shown = ScoreEntry(lowest.worst.coverage, percent=True).in_words
            told = f"{begin}; under no shift tested is that shown to break"
            return PromiseFinding(model, title, (f"{told}. The lowest coverage is {shown}.",))
        worst = min(broken, key=lambda row: row.worst.coverage.value)
        assert worst.sweep is not None
        where = f"under {worst.sweep.in_sentence} that was {worst.of_worst_side()}"
        others = len(broken) - 1
        more = f"{others} other shift{'s' * (others > 1)} broke it too." if others else ""
        return PromiseFinding(model, title, (f"{begin}; {where}.", *([more] if more else [])))


def find_conformal(contents: Contents) -> dict[str, Conformal]:
    """The conformal variants, which promise a coverage, by their names here."""
    variants = {name: contents.variant(name) for name in contents.titles}
    return {name: each for name, each in variants.items() if isinstance(each, Conformal)}


def check_promises(contents: Contents) -> PromiseTable | None:
    """Find where each conformal variant keeps its promise.

    A promise is broken at a level where the whole 95 % interval of the coverage is below it; few
    images make it easier to keep. Only levels that were tested are looked at.

    Returns:
        None where there are no prediction sets.
    """
    natural = any("natural_shift" in record.data.notes for record in contents.records.values())
    rows = tuple(_make_promises(contents, find_conformal(contents), natural=natural))
    if not rows:
        return None
    caption = (
        "Prediction sets contain the label of as many images as promised, if images are "
        "exchangeable with the clean validation images; under a shift nothing is promised. Broken: "
        "the whole interval of the coverage is below the promise. The last three columns are of "
        f"the level with the lowest coverage. In brackets: {contents.intervals}"
    )
    end = "" if natural else "; on clean images also over other calibration images"
    return PromiseTable(
        rows, f"{caption}{end}. {contents.sample()}.{_note_weights(contents)}", natural
    )


def _note_weights(contents: Contents) -> str:
    """Say what counts alike in promises, where that is not what counts alike in the coverage."""
    if contents.clusters is None:
        return ""
    return (
        " Sets without “of images” in their title promise the coverage for new patients (or other "
        "clusters) that count alike, and so they do in the coverage here; in scores.csv, and in "
        "the other columns, each image counts alike."
    )


def _make_promises(
    contents: Contents, variants: Mapping[str, Conformal], *, natural: bool
) -> Iterator[ShiftPromise]:
    for model, variant in variants.items():
        places: list[tuple[Sweep | None, str, Sequence[str]]] = [(None, CLEAN, [NO_LEVEL])]
        places += [(sweep, sweep.name, list(sweep.cells)) for sweep in contents.sweeps]
        for sweep, shift, levels in places:
            cells = tuple(_read_cells(contents, model, shift, levels))
            if contents.clusters is not None and variant.weigh == "clusters":
                ids = {NO_LEVEL: CLEAN} if sweep is None else sweep.cells
                draws = None if natural or sweep else variant
                cells = tuple(
                    cell._replace(coverage=coverage)
                    for cell in cells
                    if (coverage := _estimate_coverage(contents, model, ids[cell.level], draws))
                    is not None
                )
            if cells:
                yield ShiftPromise(model, contents.titles[model], variant.coverage, sweep, cells)


def _estimate_coverage(
    contents: Contents, model: str, cell: str, drawn: Conformal | None
) -> Score | None:
    """The coverage in which each cluster counts alike, as the promise does.

    Args:
        contents, model, cell: where the predictions are; None where there are none.
        drawn: the variant, if the interval is to cover other calibration images too.

    Source of an interval of two errors: Zou and Donner 2008, Construction of Confidence Limits
    about Effect Measures.
    """
    clusters, covered = contents.clusters, read_by_seed(contents, model, cell, "covered")
    if clusters is None or covered is None:
        return None
    shares = clusters.sums(covered) / clusters.sizes[:, None]
    each = Clusters(np.arange(clusters.count))
    [found] = estimate_seed_means([shares], contents.bootstrap, each)
    score = to_score(found, (0.0, 1.0))._replace(n=len(covered))
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


def draw_set_charts(contents: Contents) -> dict[str, dict[str, Chart]]:
    """Draw coverage and size of prediction sets in the same way, with the promised coverages."""
    found = draw_level_charts(contents, (COVERAGE, SIZE))
    promised = [
        {"value": value}
        for value in sorted({each.coverage for each in find_conformal(contents).values()})
    ]
    y = {"field": "value", "type": "quantitative", "title": None}
    rule = {"type": "rule", "color": INK, "strokeDash": [6, 3], "strokeWidth": 1}
    for charts in found.values():
        spec = charts[COVERAGE].spec
        spec["layer"].append({"data": {"name": "promised"}, "mark": rule, "encoding": {"y": y}})
        spec["datasets"]["promised"] = promised
    return found


def _set_tables(contents: Contents) -> Iterator[TextTable]:
    if (found := contents.once(check_promises)) is not None:
        yield found.table


def _show_sets(contents: Contents, tables: Tables) -> PartView | None:
    found = contents.once(check_promises)
    if found is None:
        return None
    charts = draw_set_charts(contents)
    facts = {"promises": found, "sets": charts}
    every = [chart for metrics in charts.values() for chart in metrics.values()]
    return PartView(tables=tables, charts=every, template="sets.html.j2", facts=facts)


PREDICTION_SETS = ReportPart(_show_sets, _set_tables)
