"""The scoring step: from the stored predictions of a run to scores.csv, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, NoReturn, cast

import numpy as np
import pandas as pd
import torch

from fairweather.attacks.masking import masking_warning
from fairweather.attacks.table import ATTACKS
from fairweather.errors import InputError
from fairweather.inference.prediction import join_predictions
from fairweather.metrics import FittedThresholds, absent_metrics, fit_on
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import class_metric_names, find_targets
from fairweather.metrics.operating_points import choose_thresholds
from fairweather.metrics.unseen import describe_need
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder, read_json
from fairweather.runs.scores import (
    Estimates,
    ScoreKey,
    Validation,
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
    unseen_slices,
    worst_slices,
)
from fairweather.shifts.table import CLEAN as UNCHANGED
from fairweather.steps.plan import ScoredModel, ScoreStep, StepResult, name_first
from fairweather.steps.predictions import has_changed_logits
from fairweather.steps.prior_rows import prevalence_rows, prior_rows
from fairweather.steps.score_rows import (
    Places,
    adaptation_rows,
    class_slice_rows,
    concatenate_rows,
    derived_rows,
    detection_rows,
    estimate_with_classes,
    explain_absent_scores,
    file_difference_rows,
    slice_frames,
)
from fairweather.steps.sweeps import parse_shift
from fairweather.steps.worker import Worker
from fairweather.types.measurement import (
    CLASSIFICATION,
    AnyPredictions,
    Attack,
    Cell,
    Predictions,
    Shift,
)
from fairweather.types.options import MISSING, order_of_value
from fairweather.types.record import (
    ABSENT_METRICS,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE,
    MEAN,
    NATURAL,
    OOD,
    SCORES,
    SLICES,
    SPREAD,
    TEST,
    UNIT_COLUMNS,
    UNIT_SLICE_COLUMNS,
    VAL,
    VALIDATION,
    WARNINGS,
    predictions_file,
    slice_label,
    unseen_slice_label,
    worst_slice_label,
)
from fairweather.variants.prediction_sets import FittedSets


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
    if afterwards := [
        Cell(row.model, row.seed, replace(UNCHANGED, name=name))
        for row in step.rows
        for name in row.afterwards
    ]:
        parts.append((afterwards, groupings[TEST]))
    tell = _make_counter(step.task, sum(len(members) for members, _ in parts), progress)
    if step.task_name != CLASSIFICATION:
        _score_units(step, folder, parts, tell, progress)
        return StepResult()

    def check(predictions: AnyPredictions) -> Predictions:
        assert isinstance(predictions, Predictions), "only classifiers are scored here"
        if has_changed_logits(predictions):
            files = [cell_file(cell) for members, _ in parts for cell in members]
            files += [file for row in step.rows for file in _validation_files(step, row)]
            _forget_changed(dict.fromkeys(files), folder)
        return predictions

    def read_file(file: str) -> Predictions:
        return check(folder.read_cell(file))

    def read(cell: Cell) -> Predictions:
        return check(folder.read_streams(cell_file(cell)))

    first = read(cells[0]).streams[0]
    classes = first.classes
    targets = find_targets(class_metric_names(classes, step.operating_points), classes)
    fitted = {
        (row.model, row.seed): fit_on(join_predictions(list(map(read_file, files))))._replace(
            points=choose_thresholds(read_file(row.file(CLEAN, VAL)), targets, groupings[VAL])
        )
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
        {
            key: values
            for key, values in estimated.items()
            if not key[2].startswith((NATURAL, CLEAN_AFTER))
        },
        lambda cell: list(folder.read_stream_columns(cell_file(cell), ["predicted"])[0]),
        bootstrap=step.bootstrap,
        in_units_of_alexnet=step.in_units_of_alexnet,
        grouping=groupings[TEST],
    )
    table = _summarize(estimated.items())
    frames = [scores_frame(table), derived, *frames, adaptation_rows(step.rows, table)]
    frames.append(file_difference_rows(table))
    frames += [prior_rows(step, folder, groupings[TEST], fitted)]
    frames += [detection_rows(step, folder, groupings[TEST])]
    frame = _with_spread(concatenate_rows(frames))
    folder.write(SCORES, scores_to_csv(_with_counts(frame, groupings)))
    if step.slices:
        _write_slices(step, folder, _slice_rows(step, folder, cells, fitted, progress), progress)
    chance = np.bincount(first.labels).max().item() / len(first)
    warnings = attack_warnings(frame, step.titles, list(shifts.values()), chance)
    folder.write(WARNINGS, json.dumps(warnings, indent=1) + "\n")
    absent = dict(absent_metrics(first, next(iter(fitted.values()), None)))
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


def _score_units(
    step: ScoreStep,
    folder: RunFolder,
    parts: Sequence[tuple[Sequence[Cell], Grouping | None]],
    tell: Callable[[int], None],
    progress: Notify,
) -> None:
    """Write the files of a task with units, and say once which are in no mean."""
    scored = [_score_images(step, folder, cells, grouping) for cells, grouping in parts]
    for cells, _ in parts:
        tell(len(cells))
    (cells, grouping), left_out = parts[0], scored[0].left_out
    frames = [images.frame for images in scored]
    if step.priors:
        frames.append(prevalence_rows(step, folder, grouping, _read_validations(step, folder)))
    folder.write(SCORES, scores_to_csv(_with_spread(concatenate_rows(frames))))
    several = len(folder.record.data.classes) > 1
    words = "in no mean over findings, and never the worst" if several else "no AUC"
    _say_left_out(step, words, left_out, progress)
    for (others, _), images in zip(parts[1:], scored[1:], strict=True):
        further = {name: why for name, why in images.left_out.items() if name not in left_out}
        _say_left_out(step, f"not in the mean over {others[0].shift.name}", further, progress)
    if step.slices:
        rows = list(_unit_slice_rows(step, folder, cells, grouping, left_out, progress))
        _write_slices(step, folder, concatenate_rows(rows), progress)
    folder.write(WARNINGS, "{}\n")
    folder.write(ABSENT_METRICS, json.dumps(left_out, indent=1) + "\n")


def _say_left_out(
    step: ScoreStep, words: str, left_out: Mapping[str, str], progress: Notify
) -> None:
    if left_out:
        why = "; ".join(f"{name} ({reason})" for name, reason in left_out.items())
        progress(Event(step.task, 1, 1, line=f"note           {words}: {why}"))


def _write_slices(step: ScoreStep, folder: RunFolder, rows: pd.DataFrame, progress: Notify) -> None:
    """Write slices.csv, and say of which columns of sites it predicts no unseen one, and why."""
    folder.write(SLICES, scores_to_csv(rows))
    named = set(rows["slice"])
    for column in step.sites:
        if unseen_slice_label(column) not in named:
            sites = {name for name in named if name.startswith(f"{column}=")}
            need = describe_need(column, len(sites - {slice_label(column, MISSING)}))
            progress(Event(step.task, 1, 1, line=f"note           {need}"))


class ScoredImages(NamedTuple):
    """The estimates of some images, of a task with units."""

    tables: Mapping[str, Mapping[ScoreKey, Estimates]]
    """By what is in the column `unit` of scores.csv, except for the worst."""

    judged: Mapping[str, Mapping[ScoreKey, Estimates]]
    """Those of single units that are in the means, and among which the worst is."""

    frame: pd.DataFrame
    """Rows of scores.csv, with the worst."""

    left_out: Mapping[str, str]
    """Why units are in no mean, by their names."""


def _score_images(
    step: ScoreStep,
    folder: RunFolder,
    cells: Sequence[Cell],
    grouping: Grouping | None,
    places: Places | None = None,
) -> ScoredImages:
    """Score whole images, each unit, the means over units and the worst, all or at some places."""

    def read(cell: Cell) -> AnyPredictions:
        predictions = folder.read_streams(cell_file(cell))
        return predictions if places is None else predictions.take_images(places)

    estimated = estimate_units(
        folder.task,
        ((score_key(cell), read(cell)) for cell in cells),
        step.bootstrap,
        grouping,
        points=step.operating_points,
        fitted_on=_read_validations(step, folder),
        threads=torch.get_num_threads(),
    )
    tables = {name: _summarize(table.items()) for name, table in estimated.items()}
    units = folder.task.units(read(cells[0]).streams[0])
    frames = [_count_groups(unit_frame(table, name), table) for name, table in tables.items()]
    judged = {unit.name: tables[unit.name] for unit in units if not unit.left_out}
    if judged and len(units) > 1:
        frames.append(worst_slices(judged, units[0].column, UNIT_COLUMNS))
    left_out = {unit.name: unit.left_out for unit in units if unit.left_out}
    return ScoredImages(tables, judged, concatenate_rows(frames), left_out)


def _read_validations(step: ScoreStep, folder: RunFolder) -> dict[tuple[str, str], Validation]:
    """The validation images of a task with units, by model and seed."""
    return {
        (row.model, str(row.seed)): Validation(
            folder.read_cell(row.file(CLEAN, VAL)),
            join_predictions(list(map(folder.read_cell, files))),
            read_grouping(folder, VAL),
        )
        for row in step.rows
        if (files := _validation_files(step, row))
    }


def _count_groups(frame: pd.DataFrame, table: Mapping[ScoreKey, Estimates]) -> pd.DataFrame:
    """Add the number of groups of the images of a table, if whole groups were resampled."""
    counts = (e.groups for estimates in table.values() for e in estimates.values())
    groups = next(counts, None)
    return (
        frame if groups is None else frame.assign(groups=pd.array([groups] * len(frame), "Int64"))
    )


def _unit_slice_rows(
    step: ScoreStep,
    folder: RunFolder,
    cells: Sequence[Cell],
    grouping: Grouping | None,
    left_out: Mapping[str, str],
    progress: Notify,
) -> Iterator[pd.DataFrame]:
    """The rows of slices.csv of a task with units: in each slice, and in the worst of a column.

    It says which units, beside `left_out`, are not in the means over a slice.
    """
    groups = folder.groups()
    assert groups is not None  # an earlier step wrote them
    values = {
        column: sorted(set(groups.slices[column]), key=order_of_value) for column in step.slices
    }
    units = folder.task.units(folder.read_cell(cell_file(cells[0])))
    tell = _make_counter("score slices", sum(map(len, values.values())) * len(cells), progress)
    for column in step.slices:
        slices: dict[str, ScoredImages] = {}
        for value in values[column]:
            name, places = (
                slice_label(column, value),
                np.flatnonzero(groups.slices[column] == value),
            )
            own_grouping = None if grouping is None else grouping.select(places)
            slices[name] = _score_images(step, folder, cells, own_grouping, places)
            frame = slices[name].frame.copy()
            frame.insert(UNIT_SLICE_COLUMNS.index("slice"), "slice", name)
            yield frame
            tell(len(cells))
            own = slices[name].left_out.items()
            further = {unit: why for unit, why in own if unit not in left_out}
            _say_left_out(step, f"not in the mean over {name}", further, progress)
        for unit in dict.fromkeys(unit for images in slices.values() for unit in images.tables):
            tables = {
                name: images.tables[unit]
                for name, images in slices.items()
                if unit in images.tables
            }
            yield worst_slices(tables, column).assign(unit=unit)[UNIT_SLICE_COLUMNS]
            if column in step.sites:
                yield unseen_slices(tables, column).assign(unit=unit)[UNIT_SLICE_COLUMNS]
        everywhere = {
            f"{name}|{unit}": table
            for name, images in slices.items()
            for unit, table in images.judged.items()
        }
        if everywhere and len(units) > 1:
            worst = worst_slices(everywhere, column)
            yield worst.assign(unit=worst_slice_label(units[0].column))[UNIT_SLICE_COLUMNS]


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
        return cast("Predictions", folder.read_streams(cell_file(cell)))

    clean = sum(
        cell.shift.name == CLEAN for cell in cells
    )  # single classes are scored for these too
    values = sum(len(set(groups.slices[column])) for column in step.slices)
    tell = _make_counter("score slices", values * (len(cells) + clean), progress)

    def summarize(places: Places, own_grouping: Grouping | None) -> dict[ScoreKey, Estimates]:
        estimated = []
        for estimate in estimate_cells(
            cells,
            lambda cell: read(cell).take_images(places),
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
            for value in sorted(set(groups.slices[column]), key=order_of_value)
        }
        is_sample = column in step.sites
        frames += slice_frames(column, slices, grouping, summarize, sites=is_sample)
        frames.append(
            class_slice_rows(
                cells,
                read,
                column,
                slices,
                step.bootstrap,
                step.operating_points,
                lambda cell: fitted.get((cell.model, cell.seed)),
                grouping,
                tell,
                sites=is_sample,
            )
        )
    table = concatenate_rows(frames)
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
