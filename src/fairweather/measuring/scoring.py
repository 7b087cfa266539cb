"""From the stored predictions of a run to scores.csv: a step of its own, without any model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from fairweather.attacks import ATTACKS
from fairweather.measuring.attack_warnings import attack_warnings
from fairweather.measuring.beside import detection_rows, prior_rows
from fairweather.measuring.derived import derived_rows
from fairweather.measuring.predicting import cell_file, cells_of, validation_file
from fairweather.measuring.setting import Setting, Subject
from fairweather.metrics import Fitted, absent_metrics, fit_on
from fairweather.progress import Event
from fairweather.scores import (
    VALIDATION,
    Estimates,
    Key,
    estimate_cells,
    seed_spread,
    to_csv,
    to_frame,
    with_means,
    with_worst,
)
from fairweather.shifts import CLEAN
from fairweather.types import Cell, Predictions
from fairweather.variants import variant_name

# Raised when scoring makes something else of the same predictions.
VERSION = 3


def score_run(setting: Setting, subjects: Sequence[Subject]) -> Iterator[Event]:
    """Write scores.csv and warnings.json from the predictions of all models and variants."""
    run = setting.run
    rows = [(name, subject.seed) for subject in subjects for name in names_of(setting, subject)]
    cells = [cell for name, seed in rows for cell in cells_of(setting, name, seed)]
    beside = _validation_cells(setting, rows)
    inputs = _inputs(setting, rows, cells)
    total = len(cells) + len(beside)
    if run.is_done("scores", inputs):
        yield Event("score", total, total, "done before")
        return

    def read(cell: Cell) -> Predictions:
        return run.read_predictions(_file(cell))

    fitted = _fit(setting, rows)
    estimated: list[tuple[Key, Estimates]] = []
    # Two calls: validation images are other images, and are resampled on their own.
    for part in (cells, beside):
        for estimate in estimate_cells(
            part, read, setting.bootstrap, fitted=lambda cell: fitted.get((cell.model, cell.seed))
        ):
            estimated.append(estimate)
            yield Event("score", len(estimated), total)
    frame = _frame(setting, rows, cells, dict(estimated))
    run.write("scores.csv", to_csv(frame))
    warnings = _warnings(setting, subjects, frame)
    run.write("warnings.json", json.dumps(warnings, indent=1) + "\n")
    absent = absent_metrics(read(cells[0]), next(iter(fitted.values()), None))
    run.write("absent_metrics.json", json.dumps(dict(absent), indent=1) + "\n")
    run.finish("scores", inputs, ["scores.csv", "warnings.json", "absent_metrics.json"])
    for title, warning in warnings.items():
        yield Event(f"attacks on {title}", 1, 1, warning)


def _frame(
    setting: Setting,
    rows: Sequence[tuple[str, int | str]],
    cells: Sequence[Cell],
    estimated: Mapping[Key, Estimates],
) -> pd.DataFrame:
    run, apart = setting.run, list(ATTACKS)
    table = with_worst(with_means(estimated.items(), apart), apart)
    parts = [
        to_frame(table),
        derived_rows(
            setting, cells, estimated, lambda cell: run.read_column(_file(cell), "predicted")
        ),
        prior_rows(setting, rows),
        detection_rows(setting, rows),
    ]
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    spread = seed_spread(frame)
    return pd.concat([frame, spread], ignore_index=True) if len(spread) else frame


def _fit(
    setting: Setting, rows: Sequence[tuple[str, int | str]]
) -> dict[tuple[str, int | str], Fitted | None]:
    """What is fitted on the clean validation images of each model or variant and seed."""
    if setting.dataset.val is None:
        return {}
    return {row: fit_on(setting.run.read_predictions(validation_file(*row))) for row in rows}


def _warnings(setting: Setting, subjects: Sequence[Subject], frame: pd.DataFrame) -> dict[str, str]:
    labels = setting.dataset.test.labels
    titles = {subject.name: subject.title for subject in subjects}
    chance = labels.bincount().max().item() / len(labels)
    return attack_warnings(frame, titles, setting.shifts, chance)


def names_of(setting: Setting, subject: Subject) -> list[str]:
    """The model's name, then those of its variants."""
    return [subject.name, *(variant_name(subject.name, each) for each in setting.variants)]


def _inputs(
    setting: Setting, rows: Sequence[tuple[str, int | str]], cells: Sequence[Cell]
) -> Mapping[str, Any]:
    files = [str(cell.path) for cell in cells]
    for name, seed in rows:
        clean = Cell(name, seed, CLEAN)
        files += [cell_file(part, clean) for part in setting.parts if part != "test"]
    return {
        "version": VERSION,
        "files": [(file, setting.run.checksum(file)) for file in files],
        "bootstrap": setting.bootstrap,
        "priors": {name: list(values) for name, values in setting.priors.items()},
        "others": list(setting.others),
    }


def _validation_cells(setting: Setting, rows: Sequence[tuple[str, int | str]]) -> list[Cell]:
    if "natural_shift" not in setting.dataset.notes or setting.dataset.val is None:
        return []
    shift = replace(CLEAN, name=VALIDATION)
    return [Cell(name, seed, shift) for name, seed in rows]


def _file(cell: Cell) -> str:
    if cell.shift.name == VALIDATION:
        return validation_file(cell.model, cell.seed)
    return cell_file("test", cell)
