"""The scoring step: from the stored predictions of a run to scores.csv, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
import pandas as pd
import torch

from fairweather.attacks.masking import masking_warning
from fairweather.attacks.table import ATTACKS
from fairweather.errors import InputError
from fairweather.inference.prediction import join_predictions
from fairweather.metrics import FittedThresholds, absent_metrics, fit_on, under_priors, worst_prior
from fairweather.metrics.grouping import Grouping
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder, read_json
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    add_means,
    add_worst,
    estimate_cells,
    estimate_units,
    read_grouping,
    score_key,
    scores_frame,
    scores_to_csv,
    seed_spread,
    unit_frame,
    worst_slices,
)
from fairweather.shifts.table import CLEAN as UNCHANGED
from fairweather.steps.plan import ScoredModel, ScoreStep, StepResult, name_first
from fairweather.steps.predictions import has_changed_logits
from fairweather.steps.score_rows import (
    Places,
    class_slice_rows,
    concatenate_rows,
    derived_rows,
    detection_rows,
    estimate_with_classes,
    explain_absent_scores,
    slice_frames,
)
from fairweather.steps.sweeps import parse_shift
from fairweather.steps.worker import Worker
from fairweather.types.measurement import CLASSIFICATION, Attack, Cell, Predictions, Shift
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
    others = [*([VALIDATION] if step.natural_shift and step.validation else []), *step.natural]
    groupings = {part: read_grouping(folder, part) for part in (TEST, VAL, *step.natural)}
    groupings[VALIDATION] = groupings[VAL]
    parts = [(cells, groupings[TEST])]
    for name in others:
        shift = replace(UNCHANGED, name=name)
        parts.append(([Cell(row.model, row.seed, shift) for row in step.rows], groupings[name]))
    tell = _make_counter(step.task, sum(len(members) for members, _ in parts), progress)
    if step.task_name != CLASSIFICATION:
        frame, counts = _unit_rows(parts, folder, step, tell)
        frame = _with_spread(frame)
        if groupings[TEST] is not None:
            places = zip(frame["unit"], frame["shift"], strict=True)
            frame["groups"] = pd.array(list(map(counts.get, places)), dtype="Int64")
        folder.write(SCORES, scores_to_csv(frame))
        for file in (WARNINGS, ABSENT_METRICS):
            folder.write(file, "{}\n")
        return StepResult()

    def read_file(file: str) -> Predictions:
        predictions = folder.read_predictions(file)
        if has_changed_logits(predictions):
            files = [cell_file(cell) for members, _ in parts for cell in members]
            files += [file for row in step.rows for file in _validation_files(step, row)]
            _forget_changed(dict.fromkeys(files), folder)
        return predictions

    def read(cell: Cell) -> Predictions:
        return read_file(cell_file(cell))

    fitted = {
        (row.model, row.seed): fit_on(join_predictions(list(map(read_file, files))))
        for row in step.rows
        if (files := _validation_files(step, row))
    }
    fitted_on_clean = _add_draws(step, folder, fitted)
    estimated: dict[ScoreKey, Estimates] = {}
    frames = []
    for members, own_grouping in parts:
        scored, rows = estimate_with_classes(
            members,
            read,
            step.bootstrap,
            step.operating_points,
            fitted=lambda cell: (fitted_on_clean if cell.shift.name == CLEAN else fitted).get(
                (cell.model, cell.seed)
            ),
            grouping=own_grouping,
            tell=tell,
        )
        estimated |= scored
        frames.append(rows)
    derived = derived_rows(
        cells,
        {key: values for key, values in estimated.items() if not key[2].startswith(NATURAL)},
        lambda cell: folder.read_column(cell_file(cell), "predicted"),
        bootstrap=step.bootstrap,
        in_units_of_alexnet=step.in_units_of_alexnet,
        grouping=groupings[TEST],
    )
    frames = [scores_frame(_summarize(estimated.items())), derived, *frames]
    frames += [_prior_rows(step, folder, groupings[TEST])]
    frames += [detection_rows(step, folder, groupings[TEST])]
    frame = _with_spread(concatenate_rows(frames))
    folder.write(SCORES, scores_to_csv(_with_counts(frame, groupings)))
    if step.slices:
        folder.write(SLICES, scores_to_csv(_slice_rows(step, folder, cells, fitted, progress)))
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


def _make_counter(task: str, total: int, progress: Notify) -> Callable[[int], None]:
    """Make a callback that counts scored cells and reports the progress."""
    done = 0

    def count(cells: int) -> None:
        nonlocal done
        done += cells
        progress(Event(task, done, total))

    return count


def _summarize(estimated: Iterable[tuple[ScoreKey, Estimates]]) -> dict[ScoreKey, Estimates]:
    """Add the means over levels and shifts, and the worst; attacks stay apart."""
    apart = list(ATTACKS)
    return add_worst(add_means(estimated, apart), apart)


def _unit_rows(
    parts: Sequence[tuple[Sequence[Cell], Grouping | None]],
    folder: RunFolder,
    step: ScoreStep,
    tell: Callable[[int], None],
) -> tuple[pd.DataFrame, dict[tuple[str, str], int | None]]:
    """Make the rows of whole images and of each unit, of the mean over units, and of the worst.

    Also return the number of groups with known labels, by unit and shift, except for the worst.
    """
    validation = {
        (row.model, str(row.seed)): join_predictions(list(map(folder.read_cell, files)))
        for row in step.rows
        if (files := _validation_files(step, row))
    }
    tables: dict[str, dict[ScoreKey, Estimates]] = {}
    for cells, grouping in parts:
        estimated = estimate_units(
            folder.task,
            folder.read_cell(cell_file(cells[0])),
            lambda cells=cells: (  # type: ignore[misc]
                (score_key(cell), folder.read_cell(cell_file(cell))) for cell in cells
            ),
            step.bootstrap,
            grouping,
            fitted_on=validation,
            threads=torch.get_num_threads(),
        )
        for name, table in estimated.items():
            tables[name] = tables.get(name, {}) | table
        tell(len(cells))
    summaries = {name: _summarize(table.items()) for name, table in tables.items()}
    single = {name: table for name, table in summaries.items() if not is_of_all_units(name)}
    frames = [unit_frame(table, name) for name, table in summaries.items()]
    if single:
        column = next(iter(single)).partition("=")[0]
        frames.append(worst_slices(single, column, UNIT_COLUMNS))
    counts = {
        (name, shift): estimate.groups
        for name, table in summaries.items()
        for (_, _, shift, _), estimates in table.items()
        for estimate in estimates.values()
    }
    return concatenate_rows(frames), counts


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
    """Forget the steps whose stored logits a model has overwritten.

    It raises `InputError`; the command that made the run then predicts them again.
    """
    changed = [file for file in files if has_changed_logits(folder.read_predictions(file))]
    problem = (
        f"{name_first(changed)} of {folder.path}: the logits are not those that the classes were "
        "predicted from, since an earlier version of fairweather did not copy what the model gave"
    )
    if folder.is_joined:
        raise InputError(
            f"{problem}; run the commands of the joined runs again, and then join them"
        )
    for file in changed:
        folder.forget(file.removesuffix(".parquet"))
    raise InputError(f"{problem}; these files are now removed, and the same command predicts again")


def _with_spread(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the standard deviation over seeds, if there are several."""
    return concatenate_rows([frame, seed_spread(frame)])


def _with_counts(frame: pd.DataFrame, groupings: Mapping[str, Grouping | None]) -> pd.DataFrame:
    """Add the number of groups behind each row, if there are any."""
    test = groupings[TEST]
    if test is None:
        return frame
    counts = {
        name: None if grouping is None else grouping.count for name, grouping in groupings.items()
    }
    of_others = frame["shift"].str.startswith((NATURAL, OOD)) | (frame["shift"] == VALIDATION)
    known = frame["shift"].map(counts).where(of_others, test.count)
    return frame.assign(groups=known.astype("Int64"))


def _slice_rows(
    step: ScoreStep,
    folder: RunFolder,
    cells: Sequence[Cell],
    fitted: Mapping[tuple[str, int | str], FittedThresholds],
    progress: Notify,
) -> pd.DataFrame:
    """The rows of slices.csv: each slice of a column alone, the worst of them, single classes."""
    groups = folder.groups()
    assert groups is not None  # an earlier step wrote them
    grouping = None if groups.numbers is None else Grouping(groups.numbers)

    def read(cell: Cell) -> Predictions:
        return folder.read_predictions(cell_file(cell))

    clean = sum(
        cell.shift.name == CLEAN for cell in cells
    )  # single classes are scored for these too
    values = sum(len(set(groups.slices[column])) for column in step.slices)
    tell = _make_counter("score slices", values * (len(cells) + clean), progress)

    def summarize(places: Places, own_grouping: Grouping | None) -> dict[ScoreKey, Estimates]:
        estimated = []
        for estimate in estimate_cells(
            cells,
            lambda cell: read(cell).take(places),
            step.bootstrap,
            fitted=lambda cell: fitted.get((cell.model, cell.seed)),
            grouping=own_grouping,
        ):
            estimated.append(estimate)
            tell(1)
        return _summarize(estimated)

    frames = []
    for column in step.slices:
        slices = {
            slice_label(column, value): np.flatnonzero(groups.slices[column] == value)
            for value in sorted(set(groups.slices[column]))
        }
        frames += slice_frames(column, slices, grouping, summarize)
        points = step.operating_points
        frames.append(
            class_slice_rows(cells, read, column, slices, step.bootstrap, points, grouping, tell)
        )
    table = pd.concat(frames, ignore_index=True)
    if grouping is not None:
        table["groups"] = table["groups"].astype("Int64")
    return table


def _validation_files(step: ScoreStep, row: ScoredModel) -> list[str]:
    return [row.file(shift, VAL) for shift in row.fitted_on] if step.validation else []


def _add_draws(
    step: ScoreStep, folder: RunFolder, fitted: Mapping[tuple[str, int | str], FittedThresholds]
) -> dict[tuple[str, int | str], FittedThresholds]:
    """Add the calibration images behind prediction sets, for clean test images.

    Other images are not exchangeable with these, so the distribution of their coverage is unknown.
    The same holds for test images with another origin than the validation images.
    """
    with_draws = dict(fitted)
    for row in step.rows if not step.natural_shift else ():
        key = row.model, row.seed
        file = step.sets.get(row.file(CLEAN, VAL))
        if file is not None and key in with_draws:
            sets = FittedSets.read(read_json(folder.file(file)), file)
            with_draws[key] = with_draws[key]._replace(draws=sets.draws)
    return with_draws


def _prior_rows(step: ScoreStep, folder: RunFolder, grouping: Grouping | None) -> pd.DataFrame:
    """The scores of the clean test images under each set of class priors, and under the worst."""
    lines: list[tuple[object, ...]] = []
    priors = {name: np.array(shares) for name, shares in step.priors.items()}
    for row in step.rows if priors else ():
        predictions = folder.read_predictions(row.file(CLEAN))
        scores = {
            f"{PRIORS}{name}": under_priors(
                predictions, shares, resamples=step.bootstrap, grouping=grouping
            )
            for name, shares in step.priors.items()
        }
        _, worst = worst_prior(
            predictions, priors, WORST_BY, resamples=step.bootstrap, grouping=grouping
        )
        scores[WORST_PRIORS] = {WORST_BY: worst}
        lines += [
            (row.model, str(row.seed), shift, NO_LEVEL, metric, *score)
            for shift, metrics in scores.items()
            for metric, score in metrics.items()
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
    warnings = {}
    for name, title, seeds in judged:
        rows = accuracy[(accuracy["model"] == name) & seeds]
        table: dict[str, dict[float, float]] = {}
        for attack in attacks:
            at = (rows["shift"] == attack.name) & (rows["level"] == attack.level_name)
            table.setdefault(attack.name, {})[attack.level] = float(rows[at]["value"].mean())
        if warning := masking_warning(table, chance):
            warnings[title] = warning
    return warnings
