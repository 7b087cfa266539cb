"""From the predictions of a run's cells to the rows of scores.csv."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fairweather.errors import InputError
from fairweather.metrics import (
    METRICS,
    Estimate,
    Fitted,
    Resamples,
    evaluate_resamples,
    mean_estimate,
    recipe_estimate,
    to_score,
    worst_estimate,
)
from fairweather.record import ALL, COLUMNS, ENSEMBLE, MEAN, SPREAD, WORST, is_shifted
from fairweather.types import Cell, Predictions

HIGHER_IS_BETTER = {
    metric.name: metric.higher_is_better
    for metric in METRICS
    if metric.higher_is_better is not None
}
Estimates = Mapping[str, Estimate]
# model, seed, shift, level: the key of a row of scores.csv but for the metric.
Key = tuple[str, str, str, str]


def estimate_cells(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    resamples: int,
    seed: int = 0,
    fitted: Callable[[Cell], Fitted | None] = lambda _: None,
) -> Iterator[tuple[Key, Estimates]]:
    """Estimate every metric of every cell of a run, on as many threads as torch has.

    Args:
        cells: of the same images.
        read: the predictions of a cell. It is called here, a cell at a time.
        resamples: of the images.
        seed: of the resampling.
        fitted: what is fitted on the clean validation images of the cell's model and seed.

    Raises `InputError` when two cells were not predicted on the same images in the same order.
    """
    import torch  # here, since what only reads runs starts in half the time without

    if not cells:
        return
    first = read(cells[0])

    def sets() -> Iterator[tuple[Key, Predictions, Fitted | None]]:
        for number, cell in enumerate(cells):
            predictions = read(cell) if number else first
            if not np.array_equal(first.keys, predictions.keys) or not np.array_equal(
                first.labels, predictions.labels
            ):
                raise InputError(f"{cell.id} was predicted on other images than {cells[0].id}")
            key = (cell.model, str(cell.seed), cell.shift.name, cell.shift.level_name)
            yield key, predictions, fitted(cell)

    shared = Resamples.draw(first.labels, resamples, seed)
    yield from estimate_metrics(sets(), shared, threads=torch.get_num_threads())


def estimate_metrics(
    sets: Iterable[tuple[Key, Predictions, Fitted | None]],
    shared: Resamples,
    metrics: Collection[str] | None = None,
    *,
    threads: int = 1,
) -> Iterator[tuple[Key, Estimates]]:
    """Estimate metrics of cells on the same resamples of the images: the one way to do it.

    One more cell is worked on at once than there are threads, and no more than one beyond is held;
    their number changes nothing in the results, which come in the order of the cells.

    Args:
        sets: the key of each cell, its predictions, and what is fitted on the clean validation
            images of its model and seed. One is taken at a time.
        shared: resamples of the images that all were predicted on, as often as the study says.
        metrics: names of the metrics; None: all. Names that no metric has are left out.
        threads: at least 1.

    Raises `InputError` for predictions with other labels than the resamples.
    """
    pending: deque[tuple[Key, Future[dict[str, Estimate]]]] = deque()
    # A product that is itself spread over threads would wait for those of the other cells. One more
    # cell than threads, because cells wait for each other wherever Python itself runs.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads + 1) as pool:
        for key, predictions, fitted in sets:
            task = pool.submit(evaluate_resamples, predictions, shared, fitted, metrics)
            pending.append((key, task))
            if len(pending) > threads:
                done, found = pending.popleft()
                yield done, found.result()
        while pending:
            done, found = pending.popleft()
            yield done, found.result()


def with_means(
    cells: Iterable[tuple[Key, Estimates]], apart: Collection[str] = ()
) -> dict[Key, Estimates]:
    """Add the means: over a shift's levels, over shifts, and over seeds, each resampled jointly.

    A mean over seeds is an estimate of the recipe: its interval covers other seeds and images.
    Every shift counts the same in the mean over shifts, whatever its number of levels; clean and
    validation images, other class priors and other data sets count in neither. Shifts that stand
    `apart`, such as attacks, have means over their levels and do not count in the mean over shifts.
    """
    table = dict(cells)
    table |= _combined(table, _of_levels(MEAN), _mean)
    table |= _combined(
        table,
        lambda m, s, shift, lv: (m, s, ALL, MEAN) if lv == MEAN and shift not in apart else None,
        _mean,
    )
    return table | _over_seeds(table)


def with_worst(table: Mapping[Key, Estimates], apart: Collection[str] = ()) -> dict[Key, Estimates]:
    """Add what each metric is at the worst level of each shift and of all, as level `worst`.

    Each metric has its own worst level, as the images are and again in each resample. A metric for
    which neither more nor less is better has none. What counts in no mean of `with_means` counts
    here neither; over seeds, it is the mean of each seed's worst.

    Args:
        table: from `with_means`, with the same `apart`.
    """
    levels = {
        key: {name: estimates[name] for name in estimates if name in HIGHER_IS_BETTER}
        for key, estimates in table.items()
        if MEAN not in (key[1], key[3])
    }
    worst = _combined(levels, _of_levels(WORST), _worst)
    counted = {key: estimates for key, estimates in levels.items() if key[2] not in apart}
    worst |= _combined(
        counted,
        lambda m, s, shift, _: (m, s, ALL, WORST) if is_shifted(shift) else None,
        _worst,
    )
    return {**table, **worst, **_over_seeds(worst)}


def seed_spread(frame: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation over seeds of each value of scores.csv, as rows of seed `sd`.

    It is the sample standard deviation (n - 1), of the values and not of the images behind them, so
    it has no interval. There is no row where there are fewer than two seeds.
    """
    rows = frame[~frame["seed"].isin([MEAN, SPREAD, ENSEMBLE])]
    groups = rows.groupby(["model", "shift", "level", "metric"], sort=False)
    spread = groups.agg(value=("value", "std"), n=("n", "first"), seeds=("seed", "nunique"))
    found = spread[spread["seeds"] > 1].reset_index()
    return found.assign(seed=SPREAD, low=np.nan, high=np.nan)[COLUMNS]


def to_frame(table: Mapping[Key, Estimates]) -> pd.DataFrame:
    """Write estimates as the tidy table of scores.csv, one row a metric."""
    bounds = {metric.name: metric.bounds for metric in METRICS}
    rows = [
        (*key, name, *to_score(estimate, bounds[name]))
        for key, estimates in table.items()
        for name, estimate in estimates.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def to_csv(frame: pd.DataFrame) -> str:
    """Write the text of scores.csv: eight significant digits, the same bytes for the same rows."""
    return str(frame.to_csv(index=False, float_format="%.8g", lineterminator="\n"))


def _of_levels(level: str) -> Callable[[str, str, str, str], Key | None]:
    return lambda m, s, shift, _: (m, s, shift, level) if is_shifted(shift) else None


def _over_seeds(table: Mapping[Key, Estimates]) -> dict[Key, Estimates]:
    if len({seed for _, seed, _, _ in table} - {ENSEMBLE}) < 2:
        return {}

    def of_seeds(model: str, seed: str, shift: str, level: str) -> Key | None:
        return None if seed == ENSEMBLE else (model, MEAN, shift, level)

    return _combined(table, of_seeds, _recipe)


def _combined(
    table: Mapping[Key, Estimates],
    group_of: Callable[[str, str, str, str], Key | None],
    combine: Callable[[str, Sequence[Estimate]], Estimate],
) -> dict[Key, Estimates]:
    groups: dict[Key, list[Estimates]] = {}
    for key, estimates in table.items():
        group = group_of(*key)
        if group is not None:
            groups.setdefault(group, []).append(estimates)
    return {
        key: {
            name: combine(name, [each[name] for each in members])
            for name in members[0]
            if all(name in each for each in members)
        }
        for key, members in groups.items()
    }


def _mean(_: str, estimates: Sequence[Estimate]) -> Estimate:
    return mean_estimate(estimates)


def _recipe(_: str, estimates: Sequence[Estimate]) -> Estimate:
    return recipe_estimate(estimates)


def _worst(metric: str, estimates: Sequence[Estimate]) -> Estimate:
    return worst_estimate(estimates, higher_is_better=HIGHER_IS_BETTER[metric])
