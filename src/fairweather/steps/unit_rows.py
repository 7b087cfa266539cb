"""The rows of scores.csv for each unit of a task, such as each finding, and their means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fairweather.attacks import ATTACKS
from fairweather.metrics.clusters import Clusters
from fairweather.record import IMAGE, UNIT_COLUMNS, mean_unit
from fairweather.scores import (
    Estimates,
    Key,
    estimate_cells,
    mean_of_units,
    unit_frame,
    with_means,
    with_worst,
    worst_slices,
)
from fairweather.tasks import Task, Unit
from fairweather.types import AnyPredictions, Cell


def unit_rows(
    parts: Sequence[tuple[Sequence[Cell], Clusters | None]],
    read: Callable[[Cell], AnyPredictions],
    task: Task,
    bootstrap: int,
    tell: Callable[[int], None],
) -> pd.DataFrame:
    """Make the rows of whole images and of each unit, of the mean over units, and of the worst.

    Args:
        parts: the cells of each set of images, and which of these belong together.
        read: reads the predictions of a cell, once for each unit.
        task: which units there are.
        bootstrap: number of resamples for every interval.
        tell: called with the number of cells that were scored.
    """
    tables: dict[str, dict[Key, Estimates]] = {}
    for cells, clusters in parts:
        first = read(cells[0])
        units, n = task.units(first), len(first)
        image = Unit(IMAGE, np.arange(n), lambda predictions: predictions)
        found = {
            unit.name: dict(estimate_cells(cells, read, bootstrap, clusters=clusters, unit=unit))
            for unit in (image, *units)
        }
        found[mean_unit(units[0].name)] = mean_of_units(
            [found[unit.name] for unit in units], n, clusters
        )
        for name, table in found.items():
            tables[name] = tables.get(name, {}) | table
        tell(len(cells))
    apart = list(ATTACKS)
    every = {
        name: with_worst(with_means(table.items(), apart), apart) for name, table in tables.items()
    }
    singles = {unit.name: every[unit.name] for unit in units}
    column = units[0].name.partition("=")[0]
    frames = [unit_frame(table, name) for name, table in every.items()]
    frames.append(worst_slices(singles, column, UNIT_COLUMNS))
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
