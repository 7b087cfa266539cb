"""Compute the rows of scores.csv from the predictions of a run's cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from fairweather.errors import InputError
from fairweather.files.tables import frame_to_csv
from fairweather.metrics import (
    METRICS,
    Estimate,
    FittedThresholds,
    Resamples,
    evaluate_resamples,
    fit_on,
    mean_estimate,
    recipe_estimate,
    to_score,
    worst_estimate,
)
from fairweather.metrics.areas import scatter_column
from fairweather.metrics.columns import IntArray
from fairweather.metrics.findings import find_finding_targets, point_metric_names
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import mean_of_findings, stream_estimate
from fairweather.metrics.metric import THRESHOLD, MetricRow, find_targets
from fairweather.metrics.operating_points import choose_thresholds
from fairweather.metrics.rows import require_row
from fairweather.metrics.sample import draw_counts
from fairweather.metrics.table import needs_thresholds
from fairweather.metrics.unseen import is_predictable, unseen_score
from fairweather.runs.folder import RunFolder
from fairweather.tasks import Task, Unit
from fairweather.types.kinds import FINDING
from fairweather.types.measurement import AnyPredictions, Cell, Predictions, Score, join_streams
from fairweather.types.operating_points import POINT_SIGN, OperatingPoints, list_points
from fairweather.types.options import MISSING
from fairweather.types.record import (
    ALL,
    CLEAN,
    COLUMNS,
    ENSEMBLE,
    IMAGE,
    MEAN,
    SLICE_COLUMNS,
    SPREAD,
    TEST,
    UNIT_COLUMNS,
    VAL,
    WORST,
    is_shifted,
    mean_unit_name,
    slice_label,
    unseen_slice_label,
    weighted_mean_unit_name,
    worst_slice_label,
)

Estimates = Mapping[str, Estimate]
# model, seed, shift, level: the key of a row of scores.csv, without the metric.
ScoreKey = tuple[str, str, str, str]
Table = Mapping[ScoreKey, Estimates]


class Validation(NamedTuple):
    """The validation images of a model and seed, on which its thresholds are fitted."""

    clean: AnyPredictions
    """Those that thresholds of operating points are chosen on."""

    fitted_on: AnyPredictions
    """Those under all shifts that its other thresholds are fitted on."""

    grouping: Grouping | None
    """Which of the clean ones belong together."""


def read_validation(folder: RunFolder, model: str, seed: int | str) -> Validation | None:
    """Read the clean validation images of a model and seed; None if they were not predicted."""
    file = folder.predictions(model, seed, CLEAN, VAL)
    if not folder.holds(file):
        return None
    clean = folder.read_cell(file)
    return Validation(clean, clean, read_grouping(folder, VAL))


def read_grouping(folder: RunFolder, part: str = TEST) -> Grouping | None:
    """Read which images of a part belong together; None if the run was not told."""
    groups = folder.groups(part)
    return None if groups is None or groups.numbers is None else Grouping(groups.numbers)


def score_key(cell: Cell) -> ScoreKey:
    """The key of a cell's rows in scores.csv."""
    return (cell.model, str(cell.seed), cell.shift.name, cell.shift.level_name)


def estimate_cells(
    cells: Sequence[Cell],
    read: Callable[[Cell], AnyPredictions],
    resamples: int,
    seed: int = 0,
    fitted: Callable[[Cell], FittedThresholds | None] = lambda _: None,
    grouping: Grouping | None = None,
    metrics: Sequence[str] | None = None,
) -> Iterator[tuple[ScoreKey, Estimates]]:
    """Estimate metrics of every cell of a run, on as many threads as torch has.

    Args:
        cells: all with the same images.
        read: reads the predictions of a cell, with all streams of a model that adapts. It is called
            in this thread, for one cell at a time.
        resamples: how many resamples of the images.
        seed: seed of the resampling.
        fitted: returns the thresholds that were fitted on the clean validation images of the
            cell's model and seed, or None.
        grouping: which images belong together, if whole groups are to be resampled.
        metrics: as in `estimate_metrics`.

    Raises `InputError` if two cells were not predicted on the same images in the same order.
    """
    import torch  # not at the top: programs that only read runs start twice as fast without torch

    if not cells:
        return
    predictions = read(cells[0])
    first = predictions.streams[0]

    def sets() -> Iterator[tuple[ScoreKey, AnyPredictions, FittedThresholds | None]]:
        for number, cell in enumerate(cells):
            own = read(cell) if number else predictions
            if not all(_has_same_images(first, stream) for stream in own.streams):
                raise InputError(f"{cell.id} was predicted on other images than {cells[0].id}")
            yield score_key(cell), own, fitted(cell)

    shared = Resamples.draw(first.strata, resamples, seed, grouping)
    yield from estimate_metrics(sets(), shared, metrics, threads=torch.get_num_threads())


def estimate_metrics(
    sets: Iterable[tuple[ScoreKey, AnyPredictions, FittedThresholds | None]],
    shared: Resamples,
    metrics: Collection[str] | None = None,
    *,
    threads: int = 1,
    losses: bool = False,
    contributions: bool = False,
) -> Iterator[tuple[ScoreKey, Estimates]]:
    """Estimate metrics of cells on the same resamples of the images.

    Every estimate of a cell is computed here, of a network that adapts from those of its streams.
    At most `threads + 1` cells are computed at once, and one more is in memory. The number of
    threads does not change the results; they come in the order of the cells.

    Args:
        sets: the key of each cell, its predictions, and the thresholds that were fitted on the
            clean validation images of its model and seed. One cell is taken at a time.
        shared: resamples of the images of all cells.
        metrics: names of the metrics, those of classes too; None means all rows of `METRICS`. Names
            of unknown metrics are ignored.
        threads: at least 1.
        losses: as in `evaluate_resamples`.
        contributions: as in `evaluate_resamples`.

    Raises `InputError` if the labels of the predictions are not those of the resamples.
    """
    pending: deque[tuple[ScoreKey, list[Future[dict[str, Estimate]]]]] = deque()
    # BLAS gets one thread, because a product over several threads would wait for the threads of
    # other cells. One cell more than threads, because cells wait for each other in Python code.
    evaluate = partial(evaluate_resamples, losses=losses, contributions=contributions)
    with (
        _thread_libraries().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(threads + 1) as pool,
    ):
        for key, predictions, fitted in sets:
            tasks = [
                pool.submit(evaluate, stream, shared, fitted, metrics)
                for stream in predictions.streams
            ]
            pending.append((key, tasks))
            if len(pending) > threads:
                ready, futures = pending.popleft()
                yield ready, _join_streams([future.result() for future in futures])
        while pending:
            ready, futures = pending.popleft()
            yield ready, _join_streams([future.result() for future in futures])


def _join_streams(streams: Sequence[Estimates]) -> Estimates:
    """The estimates of a cell from those of each stream."""
    return {
        name: stream_estimate([estimates[name] for estimates in streams])
        for name in streams[0]
        if all(name in estimates for estimates in streams)
    }


@cache
def _thread_libraries() -> ThreadpoolController:
    """Find the libraries that compute in threads, such as NumPy's BLAS. Searching takes longer than
    the metrics of a small cell, so it is done once.
    """
    return ThreadpoolController()


def add_means(
    cells: Iterable[tuple[ScoreKey, Estimates]], apart: Collection[str] = ()
) -> dict[ScoreKey, Estimates]:
    """Add the means over a shift's levels, over shifts, and over seeds, all resampled jointly.

    A mean over seeds is an estimate of the recipe: its interval covers other seeds and other
    images. In the mean over shifts, every shift has the same weight, however many levels it has.
    Clean images, validation images, other class priors and other data sets are in neither of the
    first two means. Shifts named in `apart`, such as attacks, have a mean over their levels but are
    not in the mean over shifts.
    """
    table = dict(cells)
    table |= _combine_cells(table, _group_by_shift(MEAN), _mean)
    table |= _combine_cells(
        table,
        lambda m, s, shift, lv: (m, s, ALL, MEAN) if lv == MEAN and shift not in apart else None,
        _mean,
    )
    return table | _seed_means(table)


def add_worst(table: Table, apart: Collection[str] = ()) -> dict[ScoreKey, Estimates]:
    """Add the worst value of each metric over the levels of each shift and over all shifts.

    The level of these rows is `worst`. The worst level is found for each metric separately, on the
    images and again on each resample. A metric without a better direction has no worst value. A
    cell that is in no mean of `add_means` is not used here either. The worst value over seeds is
    the mean of each seed's worst value.

    Args:
        table: from `add_means`, with the same `apart`.
    """
    levels = {
        key: {name: estimate for name, estimate in estimates.items() if has_direction(name)}
        for key, estimates in table.items()
        if MEAN not in (key[1], key[3])
    }
    worst = _combine_cells(levels, _group_by_shift(WORST), _worst)
    counted = {key: estimates for key, estimates in levels.items() if key[2] not in apart}
    worst |= _combine_cells(
        counted, lambda m, s, shift, _: (m, s, ALL, WORST) if is_shifted(shift) else None, _worst
    )
    return {**table, **worst, **_seed_means(worst)}


def estimate_units(
    task: Task,
    cells: Iterable[tuple[ScoreKey, AnyPredictions]],
    resamples: int,
    grouping: Grouping | None = None,
    metrics: Collection[str] | None = None,
    points: OperatingPoints = MappingProxyType({}),
    *,
    fitted_on: Mapping[tuple[str, str], Validation] = MappingProxyType({}),
    threads: int = 1,
    losses: bool = False,
) -> dict[str, dict[ScoreKey, Estimates]]:
    """Estimate metrics of whole images, of each unit and, of several, of the two means over them.

    All are estimated on the same resamples of the images. A unit that is known for no image has no
    estimates, and one of `Unit.left_out` is in no mean.

    Args:
        task: which units there are.
        cells: the key of each cell and its predictions, with all streams of a model that adapts;
            the logits of all are kept in memory.
        resamples: how many resamples of the images.
        grouping: which images belong together, if whole groups are to be resampled.
        metrics, threads, losses: as in `estimate_metrics`.
        points: the operating points of each finding, by its name.
        fitted_on: validation images by model and seed, for thresholds of each unit.

    Returns:
        The estimates by what is in the column `unit` of scores.csv.

    Raises `InputError` if a cell was not predicted on the same images in the same order.
    """
    kept: list[tuple[ScoreKey, list[AnyPredictions]]] = []
    for key, predictions in cells:
        streams = predictions.streams
        first = kept[0][1][0] if kept else streams[0]
        if not all(_has_same_images(first, stream) for stream in streams):
            raise InputError(f"{'/'.join(key)} was predicted on other images")
        same = {"keys": first.keys, "labels": first.labels}
        kept.append((key, [stream.with_columns(**same) for stream in streams]))
    if not kept:
        return {}
    first = kept[0][1][0]
    counts = draw_counts(len(first), resamples, grouping=grouping)
    tables: dict[str, dict[ScoreKey, Estimates]] = {}
    in_means: list[tuple[Unit, IntArray]] = []
    for unit in task.every_unit(first):
        if not len(unit.places):
            continue
        shared = select_resamples(unit, first, counts, grouping)
        names = metrics
        if metrics is None and (extra := point_metric_names(list_points(points, unit.value))):
            names = [*METRICS, *extra]
        thresholds = {
            model: fit_unit(task, unit.name, validation, names or ())
            for model, validation in fitted_on.items()
        }
        parts = (
            (key, join_streams(list(map(unit.select, streams))), thresholds.get(key[:2]))
            for key, streams in kept
        )
        estimated = estimate_metrics(parts, shared, names, threads=threads, losses=losses)
        tables[unit.name] = dict(estimated)
        if unit.name != IMAGE and not unit.left_out:
            in_means.append((unit, _places_among_all(unit, shared, grouping)))
    if len(units := task.units(first)) == 1:
        return _without_repeats(tables, units[0].name)
    if in_means:
        pairs = [(tables[unit.name], places) for unit, places in in_means]
        weights, (name, *_) = [unit.weight for unit, _ in in_means], in_means[0][0]
        whole = tables.get(IMAGE, {})
        for mean, shares in (
            (mean_unit_name(name), None),
            (weighted_mean_unit_name(name), weights),
        ):
            tables[mean] = _mean_of_units(pairs, shares, whole, len(first), grouping)
    return tables


def fit_unit(
    task: Task, name: str, validation: Validation, metrics: Collection[str]
) -> FittedThresholds | None:
    """Fit the thresholds that metrics of a unit, or of whole images, need; None without any.

    Targets are found among the names of the metrics.
    """
    units = {unit.name: unit for unit in task.every_unit(validation.clean)}
    places, grouping = units[name].places, validation.grouping
    if not len(places):
        return None
    # Its thresholds are fitted on its confidence and on what is right.
    clean, fitted_on = (
        cast("Predictions", units[name].select(predictions))
        for predictions in (validation.clean, validation.fitted_on)
    )
    targets = {}
    if clean.kind == FINDING:
        targets = find_finding_targets(metrics)
    elif isinstance(clean, Predictions):
        targets = find_targets(metrics, clean.classes)
    if not targets and not needs_thresholds(clean.kind):
        return None
    chosen = choose_thresholds(clean, targets, grouping and grouping.select(places))
    return fit_on(fitted_on)._replace(points=chosen)


def _without_repeats(
    tables: Mapping[str, Mapping[ScoreKey, Estimates]], unit: str
) -> dict[str, dict[ScoreKey, Estimates]]:
    """Leave out the numbers of whole images that are those of their only unit."""
    own = tables.get(unit, {})
    whole: dict[ScoreKey, Estimates] = {
        key: {name: one for name, one in estimates.items() if name not in own.get(key, {})}
        for key, estimates in tables.get(IMAGE, {}).items()
    }
    rest = {name: dict(table) for name, table in tables.items() if name != IMAGE}
    return {IMAGE: whole, **rest} if any(whole.values()) else rest


def _has_same_images(first: AnyPredictions, second: AnyPredictions) -> bool:
    pairs = (first.keys, second.keys), (first.labels, second.labels)
    return all(np.array_equal(*pair) for pair in pairs)


def select_resamples(
    unit: Unit, first: AnyPredictions, counts: NDArray[np.uint8], grouping: Grouping | None
) -> Resamples:
    """Keep the images of a unit, given predictions and resamples of all images."""
    return Resamples.from_part(unit.select(first).strata, unit.places, counts, grouping)


def _places_among_all(unit: Unit, shared: Resamples, grouping: Grouping | None) -> IntArray:
    """The places of a unit's images, or of their groups, among all."""
    if grouping is None or shared.grouping is None:
        return unit.places[shared.order]
    _, first = np.unique(shared.grouping.numbers, return_index=True)
    return grouping.numbers[unit.places[first]]


def _mean_of_units(
    units: Sequence[tuple[Mapping[ScoreKey, Estimates], IntArray]],
    weights: Sequence[float] | None,
    whole: Mapping[ScoreKey, Estimates],
    images: int,
    grouping: Grouping | None,
) -> dict[ScoreKey, Estimates]:
    """The mean over units of each metric; the units may be known for different images.

    Args:
        units: the estimates of each, with `_places_among_all`.
        weights: of each; None if all count the same.
        whole: the estimates of whole images, whose metrics have no mean over units.
        images: the number of all images.
        grouping: of all images.
    """
    count = None if grouping is None else grouping.count

    def on_all(estimate: Estimate, places: IntArray) -> Estimate:
        streams = tuple(on_all(stream, places) for stream in estimate.of_seeds)
        estimate = replace(estimate, n=images, groups=count, of_seeds=streams)
        if estimate.column is None:
            return estimate
        return replace(estimate, column=scatter_column(estimate.column, places, estimate.units))

    return {
        key: {
            name: mean_of_findings(
                [on_all(table[key][name], places) for table, places in units], weights
            )
            for name in estimates
            if all(name in table[key] for table, _ in units)
            and name not in whole.get(key, {})
            and name.partition(POINT_SIGN)[0] != THRESHOLD.name
        }
        for key, estimates in units[0][0].items()
    }


def worst_slices(
    slices: Mapping[str, Table], column: str, columns: list[str] = SLICE_COLUMNS
) -> pd.DataFrame:
    """Find the worst value of each metric over the slices of a column, as rows of slices.csv.

    The smallest of many noisy numbers is smaller than the smallest true value, so the interval is
    made to cover the worst true value. Its worse end is the worst of the worse ends of all slices.
    Its better end is the worst of their better ends, corrected for the number of slices that may be
    the worst, because their intervals overlap with that of the worst (Bonferroni). If a slice has a
    value without an interval, there is no interval here either. A metric without a better direction
    has no worst value.

    Args:
        slices: from `add_worst`, for each slice of the column by its name.
        column: such as `site`.
        columns: of the table.
    """
    rows = [
        (*key, worst_slice_label(column), name, *_worst_slice_score(known, require_row(name)))
        for key, name, known in _iter_known(slices)
        if has_direction(name)
    ]
    return pd.DataFrame(rows, columns=columns)


def unseen_slices(slices: Mapping[str, Table], column: str) -> pd.DataFrame:
    """Predict each metric at an unseen site, as rows of slices.csv whose n is the number of sites.

    A metric that is known at fewer than five sites has no row, and neither has one with too few
    errors there, or one that `is_predictable` leaves out.

    Args:
        slices: as for `worst_slices`; they are a sample, such as hospitals. Images without a value
            are of no known site, and do not count.
        column: such as `site`.
    """
    missing = slice_label(column, MISSING)
    sites = {name: table for name, table in slices.items() if name != missing}
    rows = [
        (*key, unseen_slice_label(column), name, *score)
        for key, name, known in _iter_known(sites)
        if is_predictable(row := require_row(name))
        and (score := unseen_score(known, row.bounds)) is not None
    ]
    return pd.DataFrame(rows, columns=SLICE_COLUMNS)


def _iter_known(slices: Mapping[str, Table]) -> Iterator[tuple[ScoreKey, str, list[Estimate]]]:
    """Give the estimates of each metric in the slices where it is defined."""
    for key, estimates in next(iter(slices.values()), {}).items():
        for name in estimates:
            every = [table[key][name] for table in slices.values() if name in table.get(key, {})]
            if known := [estimate for estimate in every if not np.isnan(estimate.value)]:
                yield key, name, known


def has_direction(name: str) -> bool:
    """Tell whether a metric, or a metric of a class, has a better direction, and so a worst value.

    >>> has_direction("ppv/malignant"), has_direction("confidence_gap")
    (True, False)
    """
    return require_row(name).higher_is_better is not None


def _worst_slice_score(estimates: Sequence[Estimate], row: MetricRow) -> Score:
    alone = [to_score(score, row.bounds) for score in estimates]
    worst = min if row.higher_is_better else max
    value = worst(score.value for score in alone)
    n = next(score.n for score in alone if score.value == value)
    if any(score.too_few for score in alone):
        return Score(value, np.nan, np.nan, n)
    if row.higher_is_better:
        least = min(score.high for score in alone)
        candidates = sum(score.low <= least for score in alone)
    else:
        least = max(score.low for score in alone)
        candidates = sum(score.high >= least for score in alone)
    together = [to_score(score.together(candidates), row.bounds) for score in estimates]
    low, high = (alone, together) if row.higher_is_better else (together, alone)
    return Score(value, worst(score.low for score in low), worst(score.high for score in high), n)


def seed_spread(frame: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation over seeds of each value of scores.csv, as rows with the seed `sd`.

    This is the sample standard deviation (n - 1) of the values, and it has no interval. A model
    with fewer than two seeds has no such row.
    """
    rows = frame[~frame["seed"].isin([MEAN, SPREAD, ENSEMBLE])]
    keys = [name for name in ("model", "shift", "level", "unit", "metric") if name in frame]
    same = {name: (name, "first") for name in ("n", "groups") if name in frame}
    spread = rows.groupby(keys, sort=False).agg(
        value=("value", "std"), seeds=("seed", "nunique"), **same
    )
    repeated = spread[spread["seeds"] > 1].reset_index()
    return repeated.assign(seed=SPREAD, low=np.nan, high=np.nan)[list(frame)]


def scores_frame(table: Table) -> pd.DataFrame:
    """Write estimates as the tidy table of scores.csv, one row per cell and metric."""
    rows = [
        (*key, name, *to_score(estimate, require_row(name).bounds))
        for key, estimates in table.items()
        for name, estimate in estimates.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def slice_frame(table: Table, slice_: str) -> pd.DataFrame:
    """Write estimates of one slice as rows of slices.csv."""
    return scores_frame(table).assign(slice=slice_)[SLICE_COLUMNS]


def unit_frame(table: Table, unit: str) -> pd.DataFrame:
    """Write estimates of one unit as rows of scores.csv."""
    return scores_frame(table).assign(unit=unit)[UNIT_COLUMNS]


def scores_to_csv(frame: pd.DataFrame) -> str:
    """Write the text of scores.csv with eight significant digits; equal rows give equal bytes."""
    return frame_to_csv(frame)


def _group_by_shift(level: str) -> Callable[[str, str, str, str], ScoreKey | None]:
    return lambda m, s, shift, _: (m, s, shift, level) if is_shifted(shift) else None


def _seed_means(table: Table) -> dict[ScoreKey, Estimates]:
    if len({seed for _, seed, _, _ in table} - {ENSEMBLE}) < 2:
        return {}

    def of_seeds(model: str, seed: str, shift: str, level: str) -> ScoreKey | None:
        return None if seed == ENSEMBLE else (model, MEAN, shift, level)

    return _combine_cells(table, of_seeds, lambda _, seeds: recipe_estimate(seeds))


def _combine_cells(
    table: Table,
    key_of: Callable[[str, str, str, str], ScoreKey | None],
    combine: Callable[[str, Sequence[Estimate]], Estimate],
) -> dict[ScoreKey, Estimates]:
    combined: dict[ScoreKey, list[Estimates]] = {}
    for key, estimates in table.items():
        if (new := key_of(*key)) is not None:
            combined.setdefault(new, []).append(estimates)
    return {
        key: {
            name: combine(name, [estimates[name] for estimates in members])
            for name in members[0]
            if all(name in estimates for estimates in members)
        }
        for key, members in combined.items()
    }


def _mean(_: str, estimates: Sequence[Estimate]) -> Estimate:
    return mean_estimate(estimates)


def _worst(metric: str, estimates: Sequence[Estimate]) -> Estimate:
    return worst_estimate(estimates, higher_is_better=bool(require_row(metric).higher_is_better))
