"""The step that scores: from the stored predictions of a run to scores.csv, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NoReturn

import numpy as np
import pandas as pd
import torch

from fairweather.attacks.masking import masking_warning
from fairweather.attacks.table import ATTACKS
from fairweather.errors import InputError
from fairweather.inference.prediction import join_predictions
from fairweather.metrics import Fitted, absent_metrics, fit_on, under_priors, worst_prior
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.conformal import CalibrationDraw
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder, read_json
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    add_worst,
    estimate_cells,
    estimate_units,
    read_clusters,
    score_key,
    scores_frame,
    scores_to_csv,
    seed_spread,
    slice_frame,
    unit_frame,
    worst_slices,
)
from fairweather.shifts.table import CLEAN as UNCHANGED
from fairweather.steps.plan import ScoredModel, ScoreStep, StepResult
from fairweather.steps.predictions import has_changed_logits, parse_shift
from fairweather.steps.score_rows import (
    class_slice_rows,
    derived_rows,
    detection_rows,
    estimate_with_classes,
    explain_absent_scores,
)
from fairweather.steps.worker import Worker
from fairweather.types.measurement import CLASSIFICATION, Attack, Cell, Predictions, Score, Shift
from fairweather.types.record import (
    ABSENT_METRICS,
    CLEAN,
    COLUMNS,
    ENSEMBLE,
    MEAN,
    NATURAL,
    NO_LEVEL,
    OOD,
    PRIORS,
    SCORES,
    SLICES,
    SPREAD,
    TEST,
    UNIT_COLUMNS,
    VAL,
    VALIDATION,
    WARNINGS,
    WORST_PRIORS,
    is_of_all_units,
    predictions_file,
    slice_label,
)
from fairweather.variants.prediction_sets import FittedSets

# The metric by which the worst priors are found: which priors are worst depends on the metric.
WORST_BY = "accuracy"


def do_score(step: ScoreStep, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Write scores.csv, warnings.json and absent_metrics.json."""
    shifts = {text: parse_shift(text) for row in step.rows for text in row.shifts}
    cells = [Cell(row.model, row.seed, shifts[text]) for row in step.rows for text in row.shifts]
    # Images of other sets are resampled separately, each set by itself.
    apart = {name: _other_cells(step, name) for name in _other_images(step)}
    total = len(cells) + sum(map(len, apart.values()))

    fitted_on = [file for row in step.rows for file in _validation_files(step, row)]
    files = [*map(cell_file, chain(cells, *apart.values())), *fitted_on]

    done = 0

    def tell(cells: int) -> None:
        nonlocal done
        done += cells
        progress(Event(step.task, done, total))

    clusters = {part: read_clusters(folder, part) for part in (TEST, VAL, *step.natural)}
    clusters[VALIDATION] = clusters[VAL]
    of_parts = [(cells, clusters[TEST])]
    of_parts += [(each, clusters[name]) for name, each in apart.items()]
    if step.task_name != CLASSIFICATION:
        frame, counts = _unit_rows(of_parts, folder, step.bootstrap, tell)
        frame = _with_spread(frame)
        if clusters[TEST] is not None:
            places = zip(frame["unit"], frame["shift"], strict=True)
            frame["clusters"] = pd.array(list(map(counts.get, places)), dtype="Int64")
        folder.write(SCORES, scores_to_csv(frame))
        for file in (WARNINGS, ABSENT_METRICS):
            folder.write(file, "{}\n")
        return StepResult()

    def read_file(file: str) -> Predictions:
        predictions = folder.read_predictions(file)
        if has_changed_logits(predictions):
            _forget_changed(dict.fromkeys(files), folder)
        return predictions

    def read(cell: Cell) -> Predictions:
        return read_file(cell_file(cell))

    fitted = _fit_models(step, read_file)
    draws = _calibration_draws(step, folder)
    estimated: dict[ScoreKey, Estimates] = {}
    of_classes = []
    for part, of in of_parts:
        scored, rows = estimate_with_classes(
            part,
            read,
            step.bootstrap,
            step.operating_points,
            fitted=lambda cell: _fitted_for_cell(cell, fitted, draws),
            clusters=of,
            tell=tell,
        )
        estimated |= scored
        of_classes.append(rows)
    frame = _make_frame(step, folder, cells, estimated, of_classes, clusters[TEST])
    folder.write(SCORES, scores_to_csv(_with_counts(frame, clusters)))
    if step.slices:
        found = _slice_rows(step, folder, cells, fitted, progress)
        folder.write(SLICES, scores_to_csv(found))
    labels = read(cells[0]).labels
    chance = np.bincount(labels).max().item() / len(labels)
    warnings = attack_warnings(frame, step.titles, list(shifts.values()), chance)
    folder.write(WARNINGS, json.dumps(warnings, indent=1) + "\n")
    absent = dict(absent_metrics(read(cells[0]), next(iter(fitted.values()), None)))
    absent |= explain_absent_scores(step, folder)
    folder.write(ABSENT_METRICS, json.dumps(absent, indent=1) + "\n")
    for title, warning in warnings.items():
        progress(Event(f"attacks on {title}", 1, 1, warning))
    return StepResult()


def _unit_rows(
    parts: Sequence[tuple[Sequence[Cell], Clusters | None]],
    folder: RunFolder,
    bootstrap: int,
    tell: Callable[[int], None],
) -> tuple[pd.DataFrame, dict[tuple[str, str], int | None]]:
    """Make the rows of whole images and of each unit, of the mean over units, and of the worst.

    With the number of clusters whose label is known, by unit and shift; of the worst there is none.
    """
    tables: dict[str, dict[ScoreKey, Estimates]] = {}
    for cells, clusters in parts:
        found = estimate_units(
            folder.task,
            folder.read_cell(cell_file(cells[0])),
            lambda cells=cells: (  # type: ignore[misc]
                (score_key(cell), folder.read_cell(cell_file(cell))) for cell in cells
            ),
            bootstrap,
            clusters,
            threads=torch.get_num_threads(),
        )
        for name, table in found.items():
            tables[name] = tables.get(name, {}) | table
        tell(len(cells))
    apart = list(ATTACKS)
    every = {
        name: add_worst(add_means(table.items(), apart), apart) for name, table in tables.items()
    }
    single = {name: table for name, table in every.items() if not is_of_all_units(name)}
    frames = [unit_frame(table, name) for name, table in every.items()]
    if single:
        column = next(iter(single)).partition("=")[0]
        frames.append(worst_slices(single, column, UNIT_COLUMNS))
    counts = {
        (name, shift): estimate.clusters
        for name, table in every.items()
        for (_, _, shift, _), estimates in table.items()
        for estimate in estimates.values()
    }
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True), counts


def cell_file(cell: Cell) -> str:
    """The file with the predictions of a cell; `validation` means the clean validation images.

    `natural/NAME` means other images, which are clean too.
    """
    if cell.shift.name.startswith(NATURAL):
        return predictions_file(cell.model, cell.seed, CLEAN, cell.shift.name)
    if cell.shift.name == VALIDATION:
        return predictions_file(cell.model, cell.seed, CLEAN, VAL)
    return predictions_file(cell.model, cell.seed, cell.shift.id)


def _forget_changed(files: Iterable[str], folder: RunFolder) -> NoReturn:
    """Forget the steps that stored logits which a model has changed since, of which one was found.

    It raises `InputError`; then the command that made the run makes them again.
    """
    changed = [file for file in files if has_changed_logits(folder.read_predictions(file))]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    what = (
        f"{changed[0]}{more} of {folder.path}: the logits are not those that the classes were "
        "predicted from, since an earlier version of fairweather did not copy what the model gave"
    )
    if folder.is_joined:
        raise InputError(f"{what}; run the commands of the joined runs again, and then join them")
    for file in changed:
        folder.forget(file.removesuffix(".parquet"))
    raise InputError(f"{what}; these files are now removed, and the same command predicts again")


def _make_frame(
    step: ScoreStep,
    folder: RunFolder,
    cells: Sequence[Cell],
    estimated: Mapping[ScoreKey, Estimates],
    of_classes: Sequence[pd.DataFrame],
    clusters: Clusters | None,
) -> pd.DataFrame:
    apart = list(ATTACKS)
    table = add_worst(add_means(estimated.items(), apart), apart)
    parts = [
        scores_frame(table),
        derived_rows(
            cells,
            {key: each for key, each in estimated.items() if not key[2].startswith(NATURAL)},
            lambda cell: folder.read_column(cell_file(cell), "predicted"),
            bootstrap=step.bootstrap,
            in_units_of_alexnet=step.in_units_of_alexnet,
            clusters=clusters,
        ),
        *of_classes,
        _prior_rows(step, folder, clusters),
        detection_rows(step, folder, clusters),
    ]
    return _with_spread(pd.concat([part for part in parts if len(part)], ignore_index=True))


def _with_spread(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the standard deviation over seeds, if there are several."""
    spread = seed_spread(frame)
    return pd.concat([frame, spread], ignore_index=True) if len(spread) else frame


def _with_counts(frame: pd.DataFrame, clusters: Mapping[str, Clusters | None]) -> pd.DataFrame:
    """Add the number of clusters behind each row, if there are any."""
    test = clusters[TEST]
    if test is None:
        return frame
    counts = {name: None if of is None else of.count for name, of in clusters.items()}
    of_others = frame["shift"].str.startswith((NATURAL, OOD)) | (frame["shift"] == VALIDATION)
    known = frame["shift"].map(counts).where(of_others, test.count)
    return frame.assign(clusters=known.astype("Int64"))


def _slice_rows(
    step: ScoreStep,
    folder: RunFolder,
    cells: Sequence[Cell],
    fitted: Mapping[tuple[str, int | str], Fitted | None],
    progress: Notify,
) -> pd.DataFrame:
    """The rows of slices.csv: each slice of a column alone, the worst of them, single classes."""
    groups = folder.groups()
    assert groups is not None  # the step that wrote it comes first
    every = None if groups.clusters is None else Clusters(groups.clusters)
    apart, frames, done = list(ATTACKS), [], 0

    def read(cell: Cell) -> Predictions:
        return folder.read_predictions(cell_file(cell))

    clean = sum(cell.shift.name == CLEAN for cell in cells)  # of these, single classes too
    values = sum(len(set(groups.slices[column])) for column in step.slices)
    total = values * (len(cells) + clean)

    def tell(cells: int) -> None:
        nonlocal done
        done += cells
        progress(Event("score slices", done, total))

    for column in step.slices:
        tables: dict[str, Mapping[ScoreKey, Estimates]] = {}
        slices = {
            slice_label(column, value): np.flatnonzero(groups.slices[column] == value)
            for value in sorted(set(groups.slices[column]))
        }
        for name, places in slices.items():
            clusters = None if every is None else every.select(places)
            estimated = []
            for estimate in estimate_cells(
                cells,
                lambda cell, places=places: read(cell).take(places),  # type: ignore[misc]
                step.bootstrap,
                fitted=lambda cell: fitted.get((cell.model, cell.seed)),
                clusters=clusters,
            ):
                estimated.append(estimate)
                tell(1)
            table = add_worst(add_means(estimated, apart), apart)
            tables[name] = table
            frame = slice_frame(table, name)
            frames.append(frame if clusters is None else frame.assign(clusters=clusters.count))
        frames.append(worst_slices(tables, column))
        rest = (step.bootstrap, step.operating_points, every, tell)
        frames.append(class_slice_rows(cells, read, column, slices, *rest))
    found = pd.concat(frames, ignore_index=True)
    if every is not None:
        found["clusters"] = found["clusters"].astype("Int64")
    return found


def _fit_models(
    step: ScoreStep, read_file: Callable[[str], Predictions]
) -> dict[tuple[str, int | str], Fitted | None]:
    """The values fitted on the validation images, by model or variant, and seed."""
    return {
        (row.model, row.seed): fit_on(join_predictions([read_file(file) for file in files]))
        for row in step.rows
        if (files := _validation_files(step, row))
    }


def _validation_files(step: ScoreStep, row: ScoredModel) -> list[str]:
    shifts = row.fitted_on if step.validation else ()
    return [predictions_file(row.model, row.seed, shift, VAL) for shift in shifts]


def _calibration_draws(
    step: ScoreStep, folder: RunFolder
) -> dict[tuple[str, int | str], tuple[CalibrationDraw, ...]]:
    """The calibration images behind prediction sets, by variant and seed.

    There are none where the test images have a different origin from the validation images: they
    are not exchangeable with them, and the distribution of the coverage is not known.
    """
    if step.natural_shift:
        return {}
    return {
        (row.model, row.seed): FittedSets.read(read_json(folder.file(file)), file).draws
        for row in step.rows
        if (file := step.sets.get(predictions_file(row.model, row.seed, CLEAN, VAL))) is not None
    }


def _fitted_for_cell(
    cell: Cell,
    fitted: Mapping[tuple[str, int | str], Fitted | None],
    draws: Mapping[tuple[str, int | str], tuple[CalibrationDraw, ...]],
) -> Fitted | None:
    """What was fitted for a cell; only clean test images are exchangeable with those of fitting."""
    found = fitted.get((cell.model, cell.seed))
    if found is None or cell.shift.name != CLEAN:
        return found
    return found._replace(draws=draws.get((cell.model, cell.seed), ()))


def _other_images(step: ScoreStep) -> list[str]:
    """What is in the column shift for sets of images that are not the test images."""
    return [*([VALIDATION] if step.natural_shift and step.validation else []), *step.natural]


def _other_cells(step: ScoreStep, images: str) -> list[Cell]:
    shift = replace(UNCHANGED, name=images)
    return [Cell(row.model, row.seed, shift) for row in step.rows]


def _prior_rows(step: ScoreStep, folder: RunFolder, clusters: Clusters | None) -> pd.DataFrame:
    """The scores of the clean test images under each set of class priors, and under the worst."""

    def scores(row: ScoredModel) -> Iterator[tuple[str, Mapping[str, Score]]]:
        if not step.priors:
            return
        predictions = folder.read_predictions(predictions_file(row.model, row.seed, CLEAN))
        for name, priors in step.priors.items():
            found = under_priors(predictions, priors, resamples=step.bootstrap, clusters=clusters)
            yield f"{PRIORS}{name}", found
        arrays = {name: np.array(priors) for name, priors in step.priors.items()}
        _, worst = worst_prior(
            predictions, arrays, WORST_BY, resamples=step.bootstrap, clusters=clusters
        )
        yield WORST_PRIORS, {WORST_BY: worst}

    return _as_frame(step.rows, scores)


def _as_frame(
    rows: Sequence[ScoredModel],
    scores: Callable[[ScoredModel], Iterator[tuple[str, Mapping[str, Score]]]],
) -> pd.DataFrame:
    lines = [
        (row.model, str(row.seed), shift, NO_LEVEL, metric, *score)
        for row in rows
        for shift, of in scores(row)
        for metric, score in of.items()
    ]
    return pd.DataFrame(lines, columns=COLUMNS)


def attack_warnings(
    scores: pd.DataFrame, titles: Mapping[str, str], shifts: Sequence[Shift | Attack], chance: float
) -> dict[str, str]:
    """Give the warnings about gradient masking, by the title of the model.

    If attacks fail where they should succeed, the robust accuracy cannot be trusted. With several
    seeds, the mean of their accuracies is checked; an ensemble is checked separately.

    Args:
        scores: the table of scores.csv.
        titles: titles of the models, by name.
        shifts: shifts and attacks; only attacks in the maximum norm are checked.
        chance: the share of the most frequent class among the test images.
    """
    attacks = [
        shift
        for shift in shifts
        if isinstance(shift, Attack) and shift.parameters.get("norm", "linf") == "linf"
    ]
    accuracy = scores[scores["metric"] == "accuracy"]
    single = ~accuracy["seed"].isin([MEAN, SPREAD, ENSEMBLE])
    judged = [(name, title, single) for name, title in titles.items()]
    if (together := accuracy["seed"] == ENSEMBLE).any():
        judged += [(name, f"{title}, ensemble", together) for name, title in titles.items()]
    found = {}
    for name, title, seeds in judged:
        rows = accuracy[(accuracy["model"] == name) & seeds]
        table: dict[str, dict[float, float]] = {}
        for attack in attacks:
            at = (rows["shift"] == attack.name) & (rows["level"] == attack.level_name)
            table.setdefault(attack.name, {})[attack.level] = float(rows[at]["value"].mean())
        if warning := masking_warning(table, chance):
            found[title] = warning
    return found
