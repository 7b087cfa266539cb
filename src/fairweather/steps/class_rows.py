"""The rows about single classes: sensitivity, PPV and so on of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics.class_metrics import class_metric_names
from fairweather.metrics.clusters import Clusters
from fairweather.record import ALL, CLEAN, COLUMNS, MEAN, NO_LEVEL, SLICE_COLUMNS
from fairweather.scores import (
    Estimates,
    Key,
    estimate_cells,
    slice_frame,
    to_frame,
    with_means,
    worst_slices,
)
from fairweather.types import Cell, Predictions


def class_rows(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    bootstrap: int,
    points: Mapping[str, float],
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Make the rows of each class for clean images, and for the mean over the levels of each shift.

    There are many classes, so single levels have no rows, and the estimates of one model under one
    shift are dropped before the next ones are computed: together they might not fit into memory.
    There are none where logits are not stored.

    Args:
        cells: all cells of one set of images.
        read: reads the predictions of a cell.
        bootstrap: number of resamples for every interval.
        points: the probability from which on a class is called, by class.
        clusters: which images belong together, if whole clusters are to be resampled.
    """
    parts = [pd.DataFrame(columns=COLUMNS)]
    parts += (
        to_frame(_estimate_classes(members, read, bootstrap, points, clusters))
        for members in _by_model_and_shift(cells)
    )
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def class_slice_rows(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    column: str,
    places: Mapping[str, npt.NDArray[np.integer]],
    bootstrap: int,
    points: Mapping[str, float],
    clusters: Clusters | None,
    tell: Callable[[int], None],
) -> pd.DataFrame:
    """Make the rows of each class in each slice of a column, and in the worst, for clean images.

    Shifted images have none: there would be as many as slices, classes and levels multiply to.

    Args:
        cells, read, bootstrap, points, clusters: as in `class_rows`.
        column: such as `site`.
        places: of the images of each slice, by its name such as `site=B`.
        tell: called with the number of cells that were scored.
    """
    parts = [pd.DataFrame(columns=SLICE_COLUMNS)]
    for members in _by_model_and_shift([cell for cell in cells if cell.shift.name == CLEAN]):
        tables = {}
        for name, own in places.items():
            of = None if clusters is None else clusters.select(own)
            tables[name] = _estimate_classes(
                members,
                lambda cell, own=own: read(cell).take(own),  # type: ignore[misc]
                bootstrap,
                points,
                of,
            )
            frame = slice_frame(tables[name], name)
            parts.append(frame if of is None else frame.assign(clusters=of.count))
            tell(len(members))
        parts.append(worst_slices(tables, column))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _estimate_classes(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    bootstrap: int,
    points: Mapping[str, float],
    clusters: Clusters | None,
) -> dict[Key, Estimates]:
    names = class_metric_names(read(cells[0]).classes, points)
    table = with_means(estimate_cells(cells, read, bootstrap, metrics=names, clusters=clusters))
    return {key: each for key, each in table.items() if _is_written(key)}


def _by_model_and_shift(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.shift.name), []).append(cell)
    yield from found.values()


def _is_written(key: Key) -> bool:
    _, _, shift, level = key
    return shift != ALL and level in (NO_LEVEL, MEAN)
