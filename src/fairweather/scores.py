"""From the predictions of a run's cells to the rows of scores.csv."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from fairweather.errors import InputError
from fairweather.metrics import (
    METRICS,
    Estimate,
    bootstrap_weights,
    evaluate_metrics,
    mean_estimate,
    to_score,
)
from fairweather.types import Cell, Predictions

COLUMNS = ["model", "seed", "shift", "level", "metric", "value", "low", "high", "n"]
# Where test images differ from all others by their origin, the clean validation images stand
# beside them under this name; like clean, they count in no mean over shifts.
VALIDATION = "validation"
UNSHIFTED = ("clean", VALIDATION)
Estimates = Mapping[str, Estimate]
# model, seed, shift, level: the key of a row of scores.csv but for the metric.
Key = tuple[str, str, str, str]


def estimate_cells(
    cells: Sequence[Cell], read: Callable[[Cell], Predictions], resamples: int, seed: int = 0
) -> Iterator[tuple[Key, Estimates]]:
    """Estimate every metric of every cell on the same resamples of the images.

    Raises `InputError` when two cells were not predicted on the same images in the same order.
    """
    keys: np.ndarray | None = None
    for cell in cells:
        predictions = read(cell)
        if keys is None:
            keys = predictions.keys
            weights = bootstrap_weights(len(keys), resamples, seed)
        if not np.array_equal(keys, predictions.keys):
            raise InputError(f"{cell.id} was predicted on other images than {cells[0].id}")
        row = (cell.model, str(cell.seed), cell.shift.name, cell.shift.level_name)
        yield row, evaluate_metrics(predictions, weights)


def with_means(
    cells: Iterable[tuple[Key, Estimates]], apart: Collection[str] = ()
) -> dict[Key, Estimates]:
    """Add the means: over a shift's levels, over shifts, and over seeds, each resampled jointly.

    Every shift counts the same in the mean over shifts, whatever its number of levels; clean and
    validation images count in neither. Shifts that stand `apart`, such as attacks, have means over
    their levels and do not count in the mean over shifts.
    """
    table = dict(cells)
    table |= _means(
        table, lambda m, s, shift, _: None if shift in UNSHIFTED else (m, s, shift, "mean")
    )
    table |= _means(
        table,
        lambda m, s, shift, lv: (
            (m, s, "all", "mean") if lv == "mean" and shift not in apart else None
        ),
    )
    seeds = {seed for _, seed, _, _ in table}
    if len(seeds) > 1:
        table |= _means(table, lambda m, _, shift, level: (m, "mean", shift, level))
    return table


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


def _means(
    table: Mapping[Key, Estimates], group_of: Callable[[str, str, str, str], Key | None]
) -> dict[Key, Estimates]:
    groups: dict[Key, list[Estimates]] = {}
    for key, estimates in table.items():
        group = group_of(*key)
        if group is not None:
            groups.setdefault(group, []).append(estimates)
    return {
        key: {name: mean_estimate([each[name] for each in members]) for name in members[0]}
        for key, members in groups.items()
    }
