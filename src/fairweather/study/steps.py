"""The wiring: a study's steps in order, each done once, whatever interrupts them."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairweather import models, report
from fairweather.attacks import ATTACKS
from fairweather.cells import predict, predict_cells
from fairweather.data import digest, load_data
from fairweather.devices import resolve_device
from fairweather.errors import InputError
from fairweather.runs import open_run
from fairweather.scores import VALIDATION, estimate_cells, to_csv, to_frame, with_means
from fairweather.shifts import CLEAN
from fairweather.study.attack_warnings import attack_warnings
from fairweather.study.context import Context, Event, notify_loading
from fairweather.study.describe import describe
from fairweather.study.samples import write_samples
from fairweather.study.schema import Study
from fairweather.study.training_steps import model_spec, seed_title, trainings
from fairweather.types import Attack, Cell, Dataset, Images, Predictions, Shift

# Each is raised when its step makes something else of the same inputs.
PREDICT_VERSION, SAMPLES_VERSION, SCORE_VERSION, REPORT_VERSION = 1, 1, 2, 2
PRECISION = "fp32"
# Other versions of these make other weather of the same images.
LIBRARIES = {
    name: importlib.metadata.version(name)
    for name in ("numpy", "opencv-python-headless", "pillow", "torch", "torchvision")
}


def execute(
    study: Study,
    out: Path,
    *,
    device: str = "auto",
    offline: bool = False,
    notify: Callable[[Event], None] | None = None,
) -> Iterator[Event]:
    """Do every step of a study that does not stand in the run folder yet, and report progress.

    `notify` is called with what happens within the first step, the loading of the data: downloads
    (in megabytes) and decoding.

    Raises `InputError` when data, models or the folder are not as the study says.
    """
    target = resolve_device(device)
    yield Event("load data", 0, 1)
    watch = notify and partial(notify_loading, notify)
    dataset = load_data(**study.data.model_dump(), offline=offline, progress=watch)
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    digests = {name: digest(part) for name, part in parts.items() if part is not None}
    _try_out(study, dataset, offline)
    yield Event("load data", 1, 1, f"{len(dataset.test)} test images")
    with open_run(out) as run:
        context = Context(study, run, dataset, digests, target, offline)
        describe(context)
        for name, entry in study.models.items():
            yield from trainings(context, name, entry)
            for seed in study.seeds:
                yield from _predictions(context, name, seed)
        _samples(context)
        yield from _scores(context)
        yield from _report(context)


def _try_out(study: Study, dataset: Dataset, offline: bool) -> None:
    """Build every model and shift one image every way: mistakes show before anything is written."""
    if dataset.train is None or dataset.val is None:
        missing = "training" if dataset.train is None else "validation"
        raise InputError(
            f"{dataset.name} has no {missing} images: training needs both, and test images choose "
            "nothing"
        )
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only the class {dataset.classes[0]!r}: needs two")
    image = dataset.test[:1]
    for shift in study.all_shifts():
        if isinstance(shift, Shift):
            shift(image.images, image.keys, study.shift_seed)
    specs: dict[models.ModelSpec, str] = {}
    for name, entry in study.models.items():
        specs.setdefault(model_spec(dataset, entry), name)
    for spec, name in specs.items():
        try:
            model = models.build(spec, offline=offline)
            models.head_of(model, spec.backbone)
            predicted = predict(model, image, device="cpu").predicted
            _try_attacks(study, model, image, predicted)
            pair = dataset.train[:2].images.float() / 255
            with torch.random.fork_rng(devices=[]):  # dropout draws
                logits = model.train()(pair)
            if not isinstance(logits, torch.Tensor):
                raise InputError(f"{spec.backbone} does not return plain logits while it trains")
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from None
        # What a network does with images that it was not made for is its own: an assertion of a
        # transformer, an empty feature map of a deep stack of poolings.
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            height, width = image.images.shape[2:]
            raise InputError(
                f"models.{name}: {spec.backbone} cannot take images of {height}x{width} "
                f"({str(error).splitlines()[0]}); set input_size"
            ) from None


def _try_attacks(
    study: Study, model: torch.nn.Module, image: Images, predicted: np.ndarray
) -> None:
    """Ask every attack for an image that is wrong anyway: it checks all, and searches nothing."""
    wrong = torch.from_numpy((predicted + 1) % len(image.classes))
    for attack in study.all_shifts():
        if isinstance(attack, Attack):
            attack(model, image.images.float() / 255, wrong, image.keys, study.shift_seed)


def _predictions(context: Context, name: str, seed: int) -> Iterator[Event]:
    """Predict the clean validation images, for fitting only, and every cell of one model."""
    run, study, dataset = context.run, context.study, context.dataset
    cells = [Cell(name, seed, shift) for shift in study.all_shifts()]
    inputs = {cell: cell_inputs(context, cell) for cell in cells}
    val_step = f"predictions/{name}/seed-{seed}/val"
    val_inputs = inputs[cells[0]] | {"data": context.digests.get("val")}
    missing = [cell for cell in cells if not run.is_done(cell.id, inputs[cell])]
    val_is_done = dataset.val is None or run.is_done(val_step, val_inputs)
    task = f"predict {seed_title(context, name, seed)}"
    done = len(cells) - len(missing)
    yield Event(task, done, len(cells))
    if val_is_done and not missing:
        return
    model = models.load_checkpoint(run.path / f"models/{name}/seed-{seed}")
    options: dict[str, Any] = {
        "batch_size": study.prediction_batch_size,
        "device": context.device,
        "precision": PRECISION,
        "seed": study.shift_seed,
    }
    if dataset.val is not None and not val_is_done:
        run.write_predictions(f"{val_step}.parquet", predict(model, dataset.val, **options))
        run.finish(val_step, val_inputs, [f"{val_step}.parquet"])
    for cell, predictions in predict_cells(model, dataset.test, missing, **options):
        run.write_predictions(str(cell.path), predictions)
        run.finish(cell.id, inputs[cell], [str(cell.path)])
        done += 1
        accuracy = f"{cell.shift.id}: accuracy {predictions.correct.mean():.1%}"
        yield Event(task, done, len(cells), accuracy)


def cell_inputs(context: Context, cell: Cell) -> dict[str, Any]:
    """Everything that a cell's predictions depend on: its fingerprint."""
    study = context.study
    return {
        "version": PREDICT_VERSION,
        "model": context.run.checksum(f"models/{cell.model}/seed-{cell.seed}/model.safetensors"),
        "data": context.digests["test"],
        "shift": cell.shift.id,
        **({} if cell.shift.level is None else {"libraries": LIBRARIES}),
        "seed": study.shift_seed,
        "batch_size": study.prediction_batch_size,
        "precision": PRECISION,
        **context.machine,
    }


def _samples(context: Context) -> None:
    study, run = context.study, context.run
    # What an attack does depends on the model, and shows nothing.
    shifts = [shift for shift in study.all_shifts() if isinstance(shift, Shift)]
    inputs: dict[str, Any] = {
        "version": SAMPLES_VERSION,
        "data": dict(context.digests),
        "shifts": [shift.id for shift in shifts],
        "seed": study.shift_seed,
        "mixup": any(t.recipe.mixup > 0 for entry in study.models.values() for t in entry.tries()),
    }
    if not run.is_done("samples", inputs):
        files = write_samples(run, context.dataset, shifts, study.shift_seed, inputs["mixup"])
        run.finish("samples", inputs, files)


def _scores(context: Context) -> Iterator[Event]:
    study, run = context.study, context.run
    cells = [
        Cell(name, seed, shift)
        for name in study.models
        for seed in study.seeds
        for shift in study.all_shifts()
    ]
    beside = _validation_cells(context) if "natural_shift" in context.dataset.notes else []
    inputs = {
        "version": SCORE_VERSION,
        "cells": [(cell.id, run.checksum(_file(cell))) for cell in [*cells, *beside]],
        "bootstrap": study.bootstrap,
    }
    total = len(cells) + len(beside)
    if run.is_done("scores", inputs):
        yield Event("score", total, total, "done before")
        return

    def read(cell: Cell) -> Predictions:
        return run.read_predictions(_file(cell))

    estimated = []
    # Two calls: validation images are other images, and are resampled on their own.
    for part in (cells, beside):
        for estimate in estimate_cells(part, read, study.bootstrap):
            estimated.append(estimate)
            yield Event("score", len(estimated), total)
    frame = to_frame(with_means(estimated, apart=list(ATTACKS)))
    run.write("scores.csv", to_csv(frame))
    chance = context.dataset.test.labels.bincount().max().item() / len(context.dataset.test)
    warnings = attack_warnings(frame, study, chance)
    run.write("warnings.json", json.dumps(warnings, indent=1) + "\n")
    run.finish("scores", inputs, ["scores.csv", "warnings.json"])
    for title, warning in warnings.items():
        yield Event(f"attacks on {title}", 1, 1, warning)


def _validation_cells(context: Context) -> list[Cell]:
    shift = replace(CLEAN, name=VALIDATION)
    study = context.study
    return [Cell(name, seed, shift) for name in study.models for seed in study.seeds]


def _file(cell: Cell) -> str:
    if cell.shift.name == VALIDATION:
        return f"predictions/{cell.model}/seed-{cell.seed}/val.parquet"
    return str(cell.path)


def _report(context: Context) -> Iterator[Event]:
    study, run = context.study, context.run
    sources = ["study.yaml", "provenance.json", "scores.csv", "samples/index.json"]
    sources += ["warnings.json"]
    for name, entry in study.models.items():
        for seed in study.seeds:
            folder = f"models/{name}/seed-{seed}"
            sources += [f"{folder}/history.csv", f"{folder}/model.json"]
        sources += [f"models/{name}/sweep.csv"] if entry.sweep else []
    inputs = {"version": REPORT_VERSION, "files": [(name, run.checksum(name)) for name in sources]}
    if not run.is_done("report", inputs):
        yield Event("report", 0, 1)
        run.finish("report", inputs, report.build_report(run))
    yield Event("report", 1, 1)
