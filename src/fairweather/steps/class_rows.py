"""The rows of scores.csv about single classes: sensitivity, PPV and so on of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from fairweather.metrics.class_metrics import class_metric_names
from fairweather.metrics.clusters import Clusters
from fairweather.record import ALL, COLUMNS, MEAN, NO_LEVEL
from fairweather.scores import Key, estimate_cells, to_frame, with_means
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
    for members in _by_model_and_shift(cells):
        names = class_metric_names(read(members[0]).classes, points)
        found = estimate_cells(members, read, bootstrap, metrics=names, clusters=clusters)
        table = with_means(found)
        parts.append(to_frame({key: each for key, each in table.items() if _is_written(key)}))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _by_model_and_shift(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.shift.name), []).append(cell)
    yield from found.values()


def _is_written(key: Key) -> bool:
    _, _, shift, level = key
    return shift != ALL and level in (NO_LEVEL, MEAN)
