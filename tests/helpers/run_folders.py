"""Run folders as runs leave them, from a few arguments: for tests of what reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import scores_to_csv
from fairweather.types.measurement import Predictions
from fairweather.types.record import (
    COLUMNS,
    RECORD,
    SCORES,
    TEST,
    CellRecord,
    DataRecord,
    Machine,
    ModelRecord,
    Provenance,
    RunRecord,
    RunSettings,
    StepRecord,
    SweepRecord,
)

MACHINE = Machine(device="cpu", model="a processor", instructions="AVX2", threads=1)
PROVENANCE = Provenance(
    time="2026-01-02T03:04:05+00:00",
    command="fairweather run synthetic",
    git={"working_folder": None, "fairweather": {"revision": "0123abc", "dirty": True}},
    python="3.11.7",
    platform="Linux",
    versions={"fairweather": "0.1.0", "torch": "2.6.0"},
    hardware={"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 1},
)
# Model, seed, id of the shift; and the part of the data where that is not the test images.
PredictionKey = tuple[str, int | str, str] | tuple[str, int | str, str, str]


def sweep_record(name: str, cells: Mapping[float, str], **facts: Any) -> SweepRecord:
    """A shift (or an attack: `kind="attack"`) with the id of each of its levels.

    >>> sweep_record("imagenet_c/fog", {1: "imagenet_c/fog,severity=1"}).title
    'Fog'
    """
    plain = {
        "kind": "shift",
        "title": name.rpartition("/")[2].replace("_", " ").capitalize(),
        "level_title": "severity",
        "neutral": 0.0,
    }
    each = tuple(CellRecord(id=cell, level=level) for level, cell in cells.items())
    return SweepRecord(name=name, cells=each, **(plain | facts))


def run_record(
    models: Mapping[str, str] | Mapping[str, ModelRecord],
    sweeps: Iterable[SweepRecord] = (),
    *,
    classes: Sequence[str] = ("w", "x", "y", "z"),
    bootstrap: int = 1000,
    notes: Mapping[str, Any] | None = None,
    **facts: Any,
) -> RunRecord:
    """The record of a study of these models, by name: each its title, or all that is known of it.

    Other facts are fields of `RunRecord`.

    >>> run_record({"a": "Model A"}, seeds=(0, 1)).models["a"].title
    'Model A'
    """
    plain = {
        "kind": "study",
        "name": "synthetic",
        "data": DataRecord(
            name="digits",
            classes=tuple(classes),
            digests={"test": "feed"},
            mean=(0.13, 0.13, 0.13),
            std=(0.3, 0.3, 0.3),
            notes=dict(notes or {}),
        ),
        "settings": RunSettings(bootstrap=bootstrap),
        "provenance": PROVENANCE,
    }
    described = {
        name: ModelRecord(title=each) if isinstance(each, str) else each
        for name, each in models.items()
    }
    return RunRecord(models=described, sweeps=tuple(sweeps), **(plain | facts))


def outcomes(
    right: Sequence[bool] | np.ndarray,
    labels: Sequence[int] | np.ndarray | None = None,
    confidence: float | np.ndarray = 0.7,
    *,
    classes: Sequence[str] = ("w", "x", "y", "z"),
    **columns: Any,
) -> Predictions:
    """Predictions that are right where they are said to be, and the next class elsewhere."""
    right = np.asarray(right, dtype=bool)
    n = len(right)
    labels = np.arange(n) % len(classes) if labels is None else np.asarray(labels)
    plain = {
        "keys": np.arange(n),
        "labels": labels,
        "predicted": np.where(right, labels, (labels + 1) % len(classes)),
        "confidence": np.broadcast_to(np.asarray(confidence, dtype=float), (n,)).copy(),
        "top5_correct": np.ones(n, dtype=bool),
        "nll": np.ones(n),
        "brier": np.ones(n),
        "logits": None,
        "classes": tuple(classes),
    }
    return Predictions(**(plain | columns))


def write_run(
    path: Path,
    record: RunRecord,
    scores: pd.DataFrame | Iterable[Sequence[object]] | None = None,
    predictions: Mapping[PredictionKey, Predictions] | None = None,
) -> RunFolder:
    """Write a run folder: the record, and what the steps that predict and score leave.

    Args:
        path: of the folder.
        record: of the run.
        scores: rows of scores.csv; a run that is not scored yet has none.
        predictions: by model, seed and the id of the shift, and maybe the part of the data.
    """
    run = RunFolder(path)
    run.describe(record)
    for (model, seed, shift, *part), each in (predictions or {}).items():
        file = run.predictions(model, seed, shift, part[0] if part else TEST)
        run.write_predictions(file, each)
        finish(run, file.removesuffix(".parquet"), [file], kind="predict")
    if scores is not None:
        write_scores(run, scores)
    return run


def write_scores(run: RunFolder, scores: pd.DataFrame | Iterable[Sequence[object]]) -> None:
    """Write scores.csv, as the step that scores leaves it."""
    frame = scores if isinstance(scores, pd.DataFrame) else pd.DataFrame(scores, columns=COLUMNS)
    run.write(SCORES, scores_to_csv(frame))
    finish(run, "scores", [SCORES], kind="score")


def finish(
    run: RunFolder,
    step: str,
    files: Collection[str],
    *,
    kind: str = "train",
    fingerprint: str = "0" * 16,
    depends: Mapping[str, Any] | None = None,
    machine: Machine | None = MACHINE,
) -> None:
    """Record a step as done: its files are there, and have the checksums that they have now."""
    run.finish(
        StepRecord(
            id=step,
            kind=kind,
            fingerprint=fingerprint,
            depends=depends or {},
            files={name: run.checksum(name) for name in files},
            machine=machine,
        )
    )


def change_record(run: RunFolder, change: Callable[[dict[str, Any]], object]) -> RunFolder:
    """Edit record.json by hand; returns the folder as it then reads."""
    facts = json.loads((run.path / RECORD).read_text())
    change(facts)
    run.write(RECORD, json.dumps(facts, indent=1))
    return RunFolder(run.path)


def copy_run(run: RunFolder, path: Path) -> RunFolder:
    """Copy a run folder."""
    return RunFolder(Path(shutil.copytree(run.path, path)))
