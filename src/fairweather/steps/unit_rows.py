"""The rows of scores.csv for each unit of a task, such as each finding, and their means."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from fairweather.attacks import ATTACKS
from fairweather.metrics.clusters import Clusters
from fairweather.record import UNIT_COLUMNS, is_of_all_units
from fairweather.scores import (
    Estimates,
    Key,
    estimate_units,
    key_of,
    unit_frame,
    with_means,
    with_worst,
    worst_slices,
)
from fairweather.tasks import Task
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
        found = estimate_units(
            task,
            read(cells[0]),
            lambda cells=cells: ((key_of(cell), read(cell)) for cell in cells),  # type: ignore[misc]
            bootstrap,
            clusters,
            threads=torch.get_num_threads(),
        )
        for name, table in found.items():
            tables[name] = tables.get(name, {}) | table
        tell(len(cells))
    apart = list(ATTACKS)
    every = {
        name: with_worst(with_means(table.items(), apart), apart) for name, table in tables.items()
    }
    single = {name: table for name, table in every.items() if not is_of_all_units(name)}
    column = next(iter(single)).partition("=")[0]
    frames = [unit_frame(table, name) for name, table in every.items()]
    frames.append(worst_slices(single, column, UNIT_COLUMNS))
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
