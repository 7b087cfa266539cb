"""Rows of scores.csv that need more than one cell: of classes, across levels, on other data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.attacks.table import ATTACKS
from fairweather.metrics import (
    METRICS,
    Estimate,
    Fitted,
    detection_score,
    estimate_means,
    mce_alexnet,
    mean_corruption_error,
)
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray, Result
from fairweather.metrics.detection import DETECTION_METRICS, OOD_SCORES
from fairweather.metrics.metric import class_metric_names, find_class_metric_row
from fairweather.metrics.robustness import ALEXNET, SEVERITIES, Errors
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    estimate_cells,
    score_key,
    scores_frame,
    slice_frame,
    worst_slices,
)
from fairweather.steps.plan import ScoredModel, ScoreStep
from fairweather.steps.sweeps import shift_kind
from fairweather.types.measurement import Attack, Cell, Predictions, Shift
from fairweather.types.record import (
    ALL,
    CLEAN,
    COLUMNS,
    MEAN,
    NO_LEVEL,
    OOD,
    SLICE_COLUMNS,
    SUMMARY_LEVELS,
    TEST,
    predictions_file,
)

# ---------------------------------------------------------------- the rows about single classes: se


def estimate_with_classes(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    bootstrap: int,
    points: Mapping[str, float],
    fitted: Callable[[Cell], Fitted | None] = lambda _: None,
    clusters: Clusters | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[dict[ScoreKey, Estimates], pd.DataFrame]:
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
        [cell for members in _group_cells(cells) for cell in members],
        read,
        bootstrap,
        fitted=fitted,
        clusters=clusters,
        metrics=[*METRICS, *classes],
    )
    for _, members in groupby(found, key=lambda each: (each[0][0], each[0][2])):
        single: dict[ScoreKey, Estimates] = {}
        for key, estimates in members:
            estimated[key] = {
                name: estimates[name] for name in estimates if not find_class_metric_row(name)
            }
            single[key] = {
                name: estimates[name] for name in estimates if find_class_metric_row(name)
            }
            tell(1)
        parts.append(scores_frame(_select_written(single)))
    return {key: estimated[key] for key in map(score_key, cells)}, _concatenate_rows(parts)


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
    for members in _group_cells([cell for cell in cells if cell.shift.name == CLEAN]):
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
            tables[name] = _select_written(dict(found))
            frame = slice_frame(tables[name], name)
            parts.append(frame if of is None else frame.assign(clusters=of.count))
            tell(len(members))
        parts.append(worst_slices(tables, column))
    return _concatenate_rows(parts)


def _group_cells(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.shift.name), []).append(cell)
    yield from found.values()


def _select_written(estimated: Mapping[ScoreKey, Estimates]) -> dict[ScoreKey, Estimates]:
    """The estimates of classes that have rows, from those of all cells of a model and shift."""
    return {
        (model, seed, shift, level): each
        for (model, seed, shift, level), each in add_means(estimated.items()).items()
        if shift != ALL and level in (NO_LEVEL, MEAN)
    }


def _concatenate_rows(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows after rows; the first part may be empty, and has the columns."""
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


# ---------------------------------------------------------------- metrics of several cells together


def derived_rows(
    cells: Sequence[Cell],
    table: Mapping[ScoreKey, Estimates],
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
    found: dict[ScoreKey, dict[str, Estimate]] = {}
    for key, estimate in _flip_rates(cells, predicted, bootstrap, clusters):
        found.setdefault(key, {})["flip_rate"] = estimate
    for key, name, estimate in _corruption_errors(table, in_units_of_alexnet):
        found.setdefault(key, {})[name] = estimate
    families = {shift for _, _, shift, _ in found if shift not in ATTACKS and "/" not in shift}
    with_all = add_means(
        found.items(), apart=[*ATTACKS, *(families - {cell.shift.name for cell in cells})]
    )
    return scores_frame(with_all)


def _flip_rates(
    cells: Sequence[Cell],
    predicted: Callable[[Cell], npt.NDArray[np.int64]],
    bootstrap: int,
    clusters: Clusters | None,
) -> Iterator[tuple[ScoreKey, Estimate]]:
    """How often the predicted class changes along the levels of each shift, clean included."""
    keys: list[ScoreKey] = []
    columns: list[npt.NDArray[np.float64]] = []
    for clean, levels in _sweeps(cells):
        classes = np.stack([predicted(cell) for cell in _sort_by_level(clean, levels)])
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


def _sort_by_level(clean: Cell, levels: Sequence[Cell]) -> list[Cell]:
    """The cells sorted by level; clean has the level that changes nothing."""
    neutral = shift_kind(levels[0].shift.name).neutral

    def level(cell: Cell) -> float:
        return neutral if cell is clean else float(_level(cell.shift))

    return sorted([clean, *levels], key=level)


def _level(shift: Shift | Attack) -> float:
    assert shift.level is not None
    return shift.level


def _corruption_errors(
    table: Mapping[ScoreKey, Estimates], in_units_of_alexnet: bool
) -> Iterator[tuple[ScoreKey, str, Estimate]]:
    """The errors of each family of corruptions, such as imagenet_c, for each model and seed."""
    families: dict[tuple[str, str, str], dict[str, list[Estimate]]] = {}
    for (model, seed, shift, level), estimates in table.items():
        family, slash, corruption = shift.partition("/")
        if slash and level not in SUMMARY_LEVELS:
            of_family = families.setdefault((model, seed, family), {})
            of_family.setdefault(corruption, []).append(estimates["accuracy"])
    for (model, seed, family), accuracies in families.items():
        key = (model, seed, family, MEAN)
        yield key, "mean_corruption_error", _combine_errors(mean_corruption_error, accuracies)
        benchmark = {name: accuracies[name] for name in ALEXNET if name in accuracies}
        full = len(benchmark) == len(ALEXNET) and all(
            len(members) == SEVERITIES for members in benchmark.values()
        )
        if family == "imagenet_c" and full and in_units_of_alexnet:
            yield key, "mce_alexnet/in-memory", _combine_errors(mce_alexnet, benchmark)


def _combine_errors(
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


# ---------------------------------------------------------------- the rows of scores.csv on other d

# With energies nearer to 0 than this, for all images, logits are logarithms of probabilities.
NORMALISED = 1e-4
# What is larger for known images (first) than for others (second), by what it adds to the name of a
# metric: nothing for the confidence.
_Sides = Mapping[str, tuple[FloatArray, FloatArray]]


def detection_rows(step: ScoreStep, folder: RunFolder, clusters: Clusters | None) -> pd.DataFrame:
    """How well confidence and each score separate each other data set from clean test images."""
    lines = [
        (row.model, str(row.seed), f"{OOD}{other}", NO_LEVEL, f"{metric}{name}", *score)
        for row in step.rows
        for other in step.others
        for name, (known, unknown) in _sides(folder, row, other).items()
        for metric, score in detection_score(
            known, unknown, resamples=step.bootstrap, clusters=clusters
        ).items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def explain_absent_scores(step: ScoreStep, folder: RunFolder) -> dict[str, str]:
    """Why models have no number of a score, by the names of its metrics."""
    found: dict[str, str] = {}
    if not step.others:
        return found
    for name in OOD_SCORES:
        reasons: dict[str, list[str]] = {}
        for row in step.rows:
            scores = folder.ood_scores(predictions_file(row.model, row.seed, CLEAN))
            if (why := _explain_absence(scores, name, row)) is not None:
                reasons.setdefault(why, []).append(row.model)
        told = [f"{why} ({', '.join(models)})" for why, models in reasons.items()]
        found |= {f"{metric}/{name}": "; ".join(told) for metric in DETECTION_METRICS if told}
    return found


def _explain_absence(scores: Mapping[str, np.ndarray], name: str, row: ScoredModel) -> str | None:
    if name in scores:
        raw = OOD_SCORES[name].of_raw_logits and _are_normalised(scores)
        return "the outputs are probabilities, of which it says nothing" if raw else None
    if row.adapts:
        return "adapted features depend on the batch, and cannot be compared with stored ones"
    return (
        "the last layer of the network is not linear, or there are neither training nor validation "
        "images"
    )


def _sides(folder: RunFolder, row: ScoredModel, other: str) -> _Sides:
    files = [predictions_file(row.model, row.seed, CLEAN, part) for part in (TEST, other)]
    known, unknown = (folder.read_column(file, "confidence") for file in files)
    of_known, of_unknown = (folder.ood_scores(file) for file in files)
    sides = {"": (known, unknown)}
    for name, kind in OOD_SCORES.items():
        there = name in of_known and name in of_unknown
        if there and not (kind.of_raw_logits and _are_normalised(of_known)):
            sides[f"/{name}"] = (
                kind.as_confidence(of_known[name]),
                kind.as_confidence(of_unknown[name]),
            )
    return sides


def _are_normalised(scores: Mapping[str, np.ndarray]) -> bool:
    return bool(np.abs(scores["energy"]).max() < NORMALISED)
