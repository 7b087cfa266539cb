"""Rows of scores.csv that need more than one cell: of classes, across levels, on other data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.attacks.table import ATTACKS
from fairweather.data.corrupted import BENCHMARK, TWINS, find_twin
from fairweather.metrics import (
    METRICS,
    Estimate,
    FittedThresholds,
    detection_score,
    estimate_means,
    mce_alexnet,
    mean_corruption_error,
    paired_change,
    paired_difference,
    relative_mce_alexnet,
)
from fairweather.metrics.columns import FloatArray, IntArray, Result
from fairweather.metrics.detection import DETECTION_METRICS, OOD_SCORES
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import stream_estimate
from fairweather.metrics.metric import class_metric_names, find_class_metric_row
from fairweather.metrics.robustness import (
    ADAPTED,
    ALEXNET,
    FILES_MINUS_MEMORY,
    SEVERITIES,
    select_benchmark,
)
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    estimate_cells,
    score_key,
    scores_frame,
    slice_frame,
    unseen_slices,
    worst_slices,
)
from fairweather.steps.plan import ScoredModel, ScoreStep
from fairweather.steps.sweeps import shift_kind
from fairweather.types.measurement import Cell, Predictions
from fairweather.types.operating_points import OperatingPoints, has_target
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    COLUMNS,
    MEAN,
    NO_LEVEL,
    OOD,
    SLICE_COLUMNS,
    SUMMARY_LEVELS,
    WORST,
    base_model,
)

Places = npt.NDArray[np.integer]  # of the images of a slice


def estimate_with_classes(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    bootstrap: int,
    points: OperatingPoints,
    fitted: Callable[[Cell], FittedThresholds | None] = lambda _: None,
    grouping: Grouping | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> tuple[dict[ScoreKey, Estimates], pd.DataFrame]:
    """Estimate the metrics of every cell, and make the rows of each class.

    Classes have rows for clean images, and for the mean over the levels of each shift. There may be
    many classes, so single levels have rows of targets only. Estimates of classes are dropped after
    each model and shift, because together they might not fit into memory. Both come from one pass,
    because a macro AUC needs the areas of all classes. Without logits, classes have the rows of
    their calls only, and more than 100 classes have none.

    Args:
        cells: all cells of one set of images.
        read, fitted, grouping: as in `estimate_cells`.
        bootstrap: number of resamples for every interval.
        points: the operating points of each class.
        tell: called with the number of cells that were scored.

    Returns:
        The estimates of each cell, in the order of the cells, and the rows.
    """
    parts, estimated = [pd.DataFrame(columns=COLUMNS)], {}
    classes = _class_names(read(cells[0]), points) if cells else []
    estimated_cells = estimate_cells(
        [cell for members in _group_cells(cells) for cell in members],
        read,
        bootstrap,
        fitted=fitted,
        grouping=grouping,
        metrics=[*METRICS, *classes],
    )
    for _, members in groupby(estimated_cells, key=lambda cell: (cell[0][0], cell[0][2])):
        single: dict[ScoreKey, Estimates] = {}
        for key, estimates in members:
            single[key] = {
                name: estimate
                for name, estimate in estimates.items()
                if find_class_metric_row(name)
            }
            estimated[key] = {
                name: estimate for name, estimate in estimates.items() if name not in single[key]
            }
            tell(1)
        parts.append(scores_frame(_select_written(single)))
    return {key: estimated[key] for key in map(score_key, cells)}, concatenate_rows(parts)


def class_slice_rows(
    cells: Sequence[Cell],
    read: Callable[[Cell], Predictions],
    column: str,
    places: Mapping[str, Places],
    bootstrap: int,
    points: OperatingPoints,
    fitted: Callable[[Cell], FittedThresholds | None],
    grouping: Grouping | None,
    tell: Callable[[int], None],
    *,
    sites: bool,
) -> pd.DataFrame:
    """Make the rows of each class in each slice of a column, and in the worst, for clean images.

    Shifted images have none, because slices, classes and levels would multiply.

    Args:
        cells, read, bootstrap, points, fitted, grouping: as in `estimate_with_classes`.
        column: such as `site`.
        places: of the images of each slice, by its name such as `site=B`.
        tell: called with the number of cells that were scored.
        sites: whether the slices are a sample, so that an unseen one is predicted.
    """
    parts = [pd.DataFrame(columns=SLICE_COLUMNS)]
    clean = [cell for cell in cells if cell.shift.name == CLEAN]
    for members in _group_cells(clean):
        names = _class_names(read(members[0]), points)

        def estimate(
            subset: Places,
            own_grouping: Grouping | None,
            members: Sequence[Cell] = members,
            names: Sequence[str] = names,
        ) -> dict[ScoreKey, Estimates]:
            estimates = estimate_cells(
                members,
                lambda cell: read(cell).take_images(subset),
                bootstrap,
                fitted=fitted,
                grouping=own_grouping,
                metrics=names,
            )
            tell(len(members))
            return _select_written(dict(estimates))

        parts += slice_frames(column, places, grouping, estimate, sites=sites)
    return concatenate_rows(parts)


def slice_frames(
    column: str,
    slices: Mapping[str, Places],
    grouping: Grouping | None,
    estimate: Callable[[Places, Grouping | None], Mapping[ScoreKey, Estimates]],
    *,
    sites: bool,
) -> list[pd.DataFrame]:
    """Make the rows of each slice of a column, by what `estimate` gives, and of the worst.

    If the slices are sites, there are rows of an unseen one too.
    """
    tables, frames = {}, []
    for name, places in slices.items():
        own_grouping = None if grouping is None else grouping.select(places)
        tables[name] = estimate(places, own_grouping)
        frame = slice_frame(tables[name], name)
        count = None if own_grouping is None else own_grouping.count
        frames.append(frame if count is None else frame.assign(groups=count))
    unseen = [unseen_slices(tables, column)] if sites else []
    return [*frames, worst_slices(tables, column), *unseen]


def _class_names(predictions: Predictions, points: OperatingPoints) -> list[str]:
    return class_metric_names(predictions.classes, points, ordered=predictions.ordered)


def _group_cells(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.shift.name), []).append(cell)
    yield from groups.values()


def _select_written(estimated: Mapping[ScoreKey, Estimates]) -> dict[ScoreKey, Estimates]:
    """The estimates of classes that have rows, from those of all cells of a model and shift.

    Single levels have those of targets, of which it is asked where they are kept.
    """
    return {
        (model, seed, shift, level): {
            name: estimate
            for name, estimate in estimates.items()
            if level in (NO_LEVEL, MEAN) or has_target(name)
        }
        for (model, seed, shift, level), estimates in add_means(estimated.items()).items()
        if shift != ALL
    }


def concatenate_rows(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows after rows; the first part may be empty, and has the columns."""
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def derived_rows(
    cells: Sequence[Cell],
    table: Mapping[ScoreKey, Estimates],
    predicted: Callable[[Cell], Sequence[IntArray]],
    *,
    bootstrap: int,
    in_units_of_alexnet: bool,
    grouping: Grouping | None = None,
) -> pd.DataFrame:
    """Make the rows of scores.csv that need several cells.

    Args:
        cells: all cells that are scored.
        table: the estimates of each cell, with the metric `accuracy`.
        predicted: reads the predicted classes of each stream of a cell, int64 `[n]`.
        bootstrap: number of resamples for every interval.
        in_units_of_alexnet: whether the images are those of the published mCE.
        grouping: which images belong together, if whole groups were resampled for the table.
    """
    derived: dict[ScoreKey, dict[str, Estimate]] = {}
    for key, estimate in _flip_rates(cells, predicted, bootstrap, grouping):
        derived.setdefault(key, {})["flip_rate"] = estimate
    for key, name, estimate in _corruption_errors(table, in_units_of_alexnet):
        derived.setdefault(key, {})[name] = estimate
    families = {shift for _, _, shift, _ in derived if shift not in ATTACKS and "/" not in shift}
    apart = [*ATTACKS, *(families - {cell.shift.name for cell in cells})]
    return scores_frame(add_means(derived.items(), apart=apart))


def _flip_rates(
    cells: Sequence[Cell],
    predicted: Callable[[Cell], Sequence[IntArray]],
    bootstrap: int,
    grouping: Grouping | None,
) -> Iterator[tuple[ScoreKey, Estimate]]:
    """How often the predicted class changes along the levels of each shift, clean included."""
    clean = {(cell.model, cell.seed): cell for cell in cells if cell.shift.level is None}
    sweeps: dict[tuple[str, int | str, str], list[tuple[float, Cell]]] = {}
    for cell in cells:
        if (level := cell.shift.level) is not None:
            sweep = cell.model, cell.seed, cell.shift.name
            sweeps.setdefault(sweep, []).append((level, cell))
    keys: list[ScoreKey] = []
    columns: list[npt.NDArray[np.float64]] = []
    for (model, seed, shift), levels in sweeps.items():
        at_neutral = (shift_kind(shift).neutral, clean[model, seed])
        by_level = sorted([at_neutral, *levels], key=itemgetter(0))
        for classes in zip(*(predicted(cell) for _, cell in by_level), strict=True):  # by stream
            keys.append((model, str(seed), shift, MEAN))
            columns.append((np.diff(classes, axis=0) != 0).mean(axis=0))
    if keys:
        shares = np.stack(columns, axis=1)
        rates = estimate_means(shares, ["share"] * len(keys), bootstrap, grouping=grouping)
        for key, streams in groupby(zip(keys, rates, strict=True), itemgetter(0)):
            yield key, stream_estimate([rate for _, rate in streams])


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
        averaged = {name: accuracies[name] for name in select_benchmark(accuracies)}
        yield key, "mean_corruption_error", _combine_errors(mean_corruption_error, averaged)
        benchmark = {name: accuracies[name] for name in ALEXNET if name in accuracies}
        full = len(benchmark) == len(ALEXNET) and all(
            len(members) == SEVERITIES for members in benchmark.values()
        )
        if not full or not in_units_of_alexnet:
            continue
        if family == TWINS[BENCHMARK]:
            yield key, "mce_alexnet/in-memory", _combine_errors(mce_alexnet, benchmark)
        elif family == BENCHMARK:
            clean = table[model, seed, CLEAN, NO_LEVEL]["accuracy"]
            relative = _combine_errors(relative_mce_alexnet, benchmark, clean)
            yield key, "mce_alexnet/files", _combine_errors(mce_alexnet, benchmark)
            yield key, "relative_mce_alexnet/files", relative


def _combine_errors(
    metric: Callable[..., Result],
    accuracies: Mapping[str, Sequence[Estimate]],
    *clean: Estimate,
) -> Estimate:
    """One number of the accuracies at each severity of each corruption, and maybe on clean."""
    values, replicates = {}, {}
    for name, members in accuracies.items():
        values[name] = 1 - np.array([estimate.value for estimate in members])
        drawn = np.stack([estimate.replicates for estimate in members])
        replicates[name] = np.clip(1 - drawn, 0, 1)
    drawn_clean = [np.clip(1 - estimate.replicates, 0, 1) for estimate in clean]
    combined = np.asarray(metric(replicates, *drawn_clean), dtype=np.float64)
    value, first = metric(values, *(1 - estimate.value for estimate in clean)), members[0]
    return Estimate(float(value), combined, first.n, groups=first.groups)


def is_imagenet_at_224(classes: Sequence[str], side: tuple[int, int] | None) -> bool:
    """Say whether errors in units of AlexNet's are the published mCE on this data set.

    This is so only for the 1000 classes of ImageNet, at 224x224 pixels.

    >>> is_imagenet_at_224(["cat", "dog"], (224, 224))
    False
    """
    wnids = [re.fullmatch(r"n\d{8}", name) for name in classes]
    return len(wnids) == 1000 and all(wnids) and side == (224, 224)


def adaptation_rows(
    models: Iterable[ScoredModel], table: Mapping[ScoreKey, Estimates]
) -> pd.DataFrame:
    """Make the rows of how much adapting changes each model, from the estimates of all cells.

    What is fitted on a network that adapts is compared with the same fitted on the plain network.
    Clean images after shifts are compared with clean images.
    """
    lines = []
    pairs = {row.model: drop_adapting(row.model) for row in models if row.adapts}
    for (model, seed, shift, level), own in table.items():
        same = CLEAN if shift.startswith(CLEAN_AFTER) else shift
        plain = table.get((pairs.get(model, ""), seed, same, level), {})
        for name, changed in ADAPTED.items() if level != WORST else ():
            if name in own and name in plain:
                first, second = plain[name], own[name]
                alike = len(first.of_seeds) == len(second.of_seeds)
                change = (paired_change if alike else paired_difference)(first, second)
                lines.append((model, seed, shift, level, changed, *change))
    return pd.DataFrame(lines, columns=COLUMNS)


def file_difference_rows(table: Mapping[ScoreKey, Estimates]) -> pd.DataFrame:
    """Make the rows of how published files differ from the same made in memory, paired by image.

    They are of each corruption at each level, and of means over levels, that a run has both of.
    """
    lines = []
    for (model, seed, shift, level), on_files in table.items():
        in_memory = table.get((model, seed, find_twin(shift), level), {})
        if "accuracy" in in_memory and level != WORST:
            change = paired_change(in_memory["accuracy"], on_files["accuracy"])
            lines.append((model, seed, shift, level, FILES_MINUS_MEMORY, *change))
    return pd.DataFrame(lines, columns=COLUMNS)


def drop_adapting(name: str) -> str:
    """The name of what a model that adapts is compared with: the same without adapting.

    >>> drop_adapting("basic+tent"), drop_adapting("basic+tent+temperature")
    ('basic', 'basic+temperature')
    """
    base = base_model(name)
    _, *fitted = name.removeprefix(f"{base}+").split("+")
    return "+".join([base, *fitted])


# If all energies are closer to 0 than this, logits are logarithms of probabilities.
NORMALISED = 1e-4
# Scores that are larger for known images (first) than for others (second), by the suffix of the
# metric's name, which is empty for the confidence.
_Sides = Mapping[str, tuple[FloatArray, FloatArray]]


def detection_rows(step: ScoreStep, folder: RunFolder, grouping: Grouping | None) -> pd.DataFrame:
    """How well confidence and each score separate each other data set from clean test images."""
    lines = [
        (row.model, str(row.seed), f"{OOD}{other}", NO_LEVEL, f"{metric}{name}", *score)
        for row in step.rows
        for other in step.others
        for name, (known, unknown) in _sides(folder, row, other).items()
        for metric, score in detection_score(
            known, unknown, resamples=step.bootstrap, grouping=grouping
        ).items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def explain_absent_scores(step: ScoreStep, folder: RunFolder) -> dict[str, str]:
    """Explain why models lack a score, by the names of its metrics."""
    reasons: dict[str, str] = {}
    for name in OOD_SCORES if step.others else ():
        models: dict[str, list[str]] = {}
        for row in step.rows:
            scores = folder.ood_scores(row.file(CLEAN))
            if (why := _explain_absence(scores, name, row)) is not None:
                models.setdefault(why, []).append(row.model)
        text = "; ".join(f"{why} ({', '.join(names)})" for why, names in models.items())
        reasons |= {f"{metric}/{name}": text for metric in DETECTION_METRICS if text}
    return reasons


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
    files = row.file(CLEAN), row.file(CLEAN, other)
    known, unknown = (folder.read_column(file, "confidence") for file in files)
    of_known, of_unknown = map(folder.ood_scores, files)
    sides = {"": (known, unknown)}
    for name, kind in OOD_SCORES.items():
        if name not in of_known or name not in of_unknown:
            continue
        if not (kind.of_raw_logits and _are_normalised(of_known)):
            scores = kind.as_confidence(of_known[name]), kind.as_confidence(of_unknown[name])
            sides[f"/{name}"] = scores
    return sides


def _are_normalised(scores: Mapping[str, np.ndarray]) -> bool:
    return bool(np.abs(scores["energy"]).max() < NORMALISED)
