"""The rows about single classes: sensitivity, PPV and so on of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.metrics import METRICS, Fitted
from fairweather.metrics.class_metrics import class_metric_names, of_classes
from fairweather.metrics.clusters import Clusters
from fairweather.record import ALL, CLEAN, COLUMNS, MEAN, NO_LEVEL, SLICE_COLUMNS
from fairweather.scores import (
    Estimates,
    Key,
    estimate_cells,
    key_of,
    slice_frame,
    to_frame,
    with_means,
    worst_slices,
)
from fairweather.types import Cell, Predictions


def estimate_with_classes(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    bootstrap: int,
    points: Mapping[str, float],
    fitted: Callable[[Cell], Fitted | None] = lambda _: None,
    clusters: Clusters | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[dict[Key, Estimates], pd.DataFrame]:
    """Estimate the metrics of every cell, and make the rows of each class.

    Classes have rows for clean images, and for the mean over the levels of each shift. There are
    many classes, so single levels have none, and the estimates of classes are dropped after each
    model and shift: together they might not fit into memory. Both come from one pass, because a
    macro AUC needs the areas of all classes. There are no rows of classes where logits are not
    stored.

    Args:
        cells: all cells of one set of images.
        read, fitted, clusters: as in `estimate_cells`.
        bootstrap: number of resamples for every interval.
        points: the probability from which on a class is called, by class.
        tell: called with the number of cells that were scored.

    Returns:
        The estimates of each cell, in the order of the cells, and the rows.
    """
    parts, estimated = [pd.DataFrame(columns=COLUMNS)], {}
    classes = class_metric_names(read(cells[0]).classes, points) if cells else []
    found = estimate_cells(
        [cell for members in _by_model_and_shift(cells) for cell in members],
        read,
        bootstrap,
        fitted=fitted,
        clusters=clusters,
        metrics=[*METRICS, *classes],
    )
    for _, members in groupby(found, key=lambda each: (each[0][0], each[0][2])):
        single: dict[Key, Estimates] = {}
        for key, estimates in members:
            estimated[key] = {name: estimates[name] for name in estimates if not of_classes(name)}
            single[key] = {name: estimates[name] for name in estimates if of_classes(name)}
            tell(1)
        parts.append(to_frame(_written(single)))
    return {key: estimated[key] for key in map(key_of, cells)}, _joined(parts)


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
        cells, read, bootstrap, points, clusters: as in `estimate_with_classes`.
        column: such as `site`.
        places: of the images of each slice, by its name such as `site=B`.
        tell: called with the number of cells that were scored.
    """
    parts = [pd.DataFrame(columns=SLICE_COLUMNS)]
    for members in _by_model_and_shift([cell for cell in cells if cell.shift.name == CLEAN]):
        tables = {}
        for name, own in places.items():
            of = None if clusters is None else clusters.select(own)
            found = estimate_cells(
                members,
                lambda cell, own=own: read(cell).take(own),  # type: ignore[misc]
                bootstrap,
                clusters=of,
                metrics=class_metric_names(read(members[0]).classes, points),
            )
            tables[name] = _written(dict(found))
            frame = slice_frame(tables[name], name)
            parts.append(frame if of is None else frame.assign(clusters=of.count))
            tell(len(members))
        parts.append(worst_slices(tables, column))
    return _joined(parts)


def _by_model_and_shift(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.shift.name), []).append(cell)
    yield from found.values()


def _written(estimated: Mapping[Key, Estimates]) -> dict[Key, Estimates]:
    """The estimates of classes that have rows, from those of all cells of a model and shift."""
    return {
        (model, seed, shift, level): each
        for (model, seed, shift, level), each in with_means(estimated.items()).items()
        if shift != ALL and level in (NO_LEVEL, MEAN)
    }


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows after rows; the first part may be empty, and has the columns."""
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
