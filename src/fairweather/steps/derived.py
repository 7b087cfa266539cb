"""Metrics of several cells together: flips along levels, errors over a family of corruptions.

A cell is one set of test images: clean, or one shift or attack at one level.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.attacks import ATTACKS
from fairweather.metrics import Estimate, estimate_means, mce_alexnet, mean_corruption_error
from fairweather.metrics.across_shifts import ALEXNET, SEVERITIES, Errors
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import Result
from fairweather.record import MEAN, SUMMARY_LEVELS
from fairweather.scores import Estimates, Key, to_frame, with_means
from fairweather.steps.describing import kind_of
from fairweather.types import Attack, Cell, Shift


def derived_rows(
    cells: Sequence[Cell],
    table: Mapping[Key, Estimates],
    predicted: Callable[[Cell], npt.NDArray[np.int64]],
    *,
    bootstrap: int,
    in_units_of_alexnet: bool,
    clusters: Clusters | None = None,
) -> pd.DataFrame:
    """Make the rows of scores.csv that need several cells.

    Args:
        cells: all cells that are scored.
        table: the estimates of each cell, with the metric `accuracy`.
        predicted: reads the predicted classes of a cell, int64 `[n]`.
        bootstrap: number of resamples for every interval.
        in_units_of_alexnet: whether the images are those of the published mCE.
        clusters: which images belong together, if whole clusters were resampled for the table.
    """
    found: dict[Key, dict[str, Estimate]] = {}
    for key, estimate in _flips(cells, predicted, bootstrap, clusters):
        found.setdefault(key, {})["flip_rate"] = estimate
    for key, name, estimate in _corruption_errors(table, in_units_of_alexnet):
        found.setdefault(key, {})[name] = estimate
    families = {shift for _, _, shift, _ in found if shift not in ATTACKS and "/" not in shift}
    with_all = with_means(
        found.items(), apart=[*ATTACKS, *(families - {cell.shift.name for cell in cells})]
    )
    return to_frame(with_all)


def _flips(
    cells: Sequence[Cell],
    predicted: Callable[[Cell], npt.NDArray[np.int64]],
    bootstrap: int,
    clusters: Clusters | None,
) -> Iterator[tuple[Key, Estimate]]:
    """How often the predicted class changes along the levels of each shift, clean included."""
    keys: list[Key] = []
    columns: list[npt.NDArray[np.float64]] = []
    for clean, levels in _sweeps(cells):
        classes = np.stack([predicted(cell) for cell in _in_order(clean, levels)])
        keys.append((clean.model, str(clean.seed), levels[0].shift.name, MEAN))
        columns.append((classes[1:] != classes[:-1]).mean(axis=0))
    if not keys:
        return
    every = np.stack(columns, axis=1)
    found = estimate_means(every, ["share"] * len(keys), bootstrap, clusters=clusters)
    yield from zip(keys, found, strict=True)


def _sweeps(cells: Sequence[Cell]) -> Iterator[tuple[Cell, list[Cell]]]:
    """The clean cell of each model and seed with the cells of each of its shifts."""
    clean = {(cell.model, cell.seed): cell for cell in cells if cell.shift.level is None}
    sweeps: dict[tuple[str, int | str, str], list[Cell]] = {}
    for cell in cells:
        if cell.shift.level is not None:
            sweeps.setdefault((cell.model, cell.seed, cell.shift.name), []).append(cell)
    for (model, seed, _), levels in sweeps.items():
        yield clean[model, seed], levels


def _in_order(clean: Cell, levels: Sequence[Cell]) -> list[Cell]:
    """The cells sorted by level; clean has the level that changes nothing."""
    neutral = kind_of(levels[0].shift.name).neutral

    def level(cell: Cell) -> float:
        return neutral if cell is clean else float(_level(cell.shift))

    return sorted([clean, *levels], key=level)


def _level(shift: Shift | Attack) -> float:
    assert shift.level is not None
    return shift.level


def _corruption_errors(
    table: Mapping[Key, Estimates], in_units_of_alexnet: bool
) -> Iterator[tuple[Key, str, Estimate]]:
    """The errors of each family of corruptions, such as imagenet_c, for each model and seed."""
    families: dict[tuple[str, str, str], dict[str, list[Estimate]]] = {}
    for (model, seed, shift, level), estimates in table.items():
        family, slash, corruption = shift.partition("/")
        if slash and level not in SUMMARY_LEVELS:
            of_family = families.setdefault((model, seed, family), {})
            of_family.setdefault(corruption, []).append(estimates["accuracy"])
    for (model, seed, family), accuracies in families.items():
        key = (model, seed, family, MEAN)
        yield key, "mean_corruption_error", _combine(mean_corruption_error, accuracies)
        benchmark = {name: accuracies[name] for name in ALEXNET if name in accuracies}
        full = len(benchmark) == len(ALEXNET) and all(
            len(members) == SEVERITIES for members in benchmark.values()
        )
        if family == "imagenet_c" and full and in_units_of_alexnet:
            yield key, "mce_alexnet/in-memory", _combine(mce_alexnet, benchmark)


def _combine(
    metric: Callable[[Errors], Result], accuracies: Mapping[str, Sequence[Estimate]]
) -> Estimate:
    """One number of the accuracies at each severity of each corruption."""
    values, replicates = {}, {}
    for name, members in accuracies.items():
        values[name] = 1 - np.array([each.value for each in members])
        replicates[name] = np.clip(1 - np.stack([each.replicates for each in members]), 0, 1)
    drawn, first = np.asarray(metric(replicates), dtype=np.float64), members[0]
    return Estimate(float(metric(values)), drawn, first.n, clusters=first.clusters)


def is_imagenet_at_224(classes: Sequence[str], side: tuple[int, int] | None) -> bool:
    """Say whether errors in units of AlexNet's are the published mCE on this data set.

    This is so only for the 1000 classes of ImageNet, at 224x224 pixels.

    >>> is_imagenet_at_224(["cat", "dog"], (224, 224))
    False
    """
    wnids = [re.fullmatch(r"n\d{8}", name) for name in classes]
    return len(wnids) == 1000 and all(wnids) and side == (224, 224)
