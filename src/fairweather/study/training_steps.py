"""Training as steps of a run: resumable by epoch, sweeps kept as a table."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import pandas as pd
import safetensors.torch
import torch

from fairweather import models
from fairweather.devices import training_precision
from fairweather.errors import TrainingDivergedError
from fairweather.measuring import Event
from fairweather.runs import fingerprint
from fairweather.study.context import Context
from fairweather.study.schema import ModelEntry
from fairweather.training import Recipe, fit, selected_epoch
from fairweather.types import Dataset, Shift

# Raised when training makes something else of the same inputs.
VERSION = 1
SELECTED = ("epoch", "val_accuracy", "val_loss")
FILES = ("model.safetensors", "model.json", "history.csv")
State = dict[str, Any]


class Training(NamedTuple):
    """One model to train: its folder in the run, a title, what it is, how and with which seed."""

    folder: str
    title: str
    spec: models.ModelSpec
    recipe: Recipe
    seed: int
    weather: tuple[Shift, ...] = ()


def model_spec(dataset: Dataset, entry: ModelEntry) -> models.ModelSpec:
    """The model of an entry; from scratch it is normalised by the training images' statistics."""
    mean: Sequence[float] | None = entry.mean
    std: Sequence[float] | None = entry.std
    if mean is None and entry.weights == "none":
        # A channel without any contrast has no deviation to divide by.
        mean, std = dataset.mean, [max(deviation, 1 / 255) for deviation in dataset.std]
    return models.ModelSpec(
        backbone=entry.backbone,
        classes=len(dataset.classes),
        weights=entry.weights,
        stem=entry.stem,
        input_size=entry.input_size,
        mean=None if mean is None else models.channels("mean", mean),
        std=None if std is None else models.channels("std", std),
    )


def trainings(context: Context, name: str, entry: ModelEntry) -> Iterator[Event]:
    """Train a model of the study with every seed, its sweep first."""
    chosen = (yield from _sweep(context, name, entry)) if entry.sweep else None
    recipe = chosen.recipe if chosen else entry.recipe
    for seed in context.study.seeds:
        folder = f"models/{name}/seed-{seed}"
        title = seed_title(context, name, seed)
        spec, weather = model_spec(context.dataset, entry), tuple(entry.weather())
        training = Training(folder, title, spec, recipe, seed, weather)
        if chosen and chosen.seed == seed:
            _adopt(context, chosen, training)
        yield from train_step(context, training)


def seed_title(context: Context, name: str, seed: int) -> str:
    """Name a model, and its seed where there are several."""
    title = context.study.models[name].title
    return f"{title}, seed {seed}" if len(context.study.seeds) > 1 else title


def train_step(context: Context, training: Training) -> Iterator[Event]:
    """Train one model from where it stands, and store what its recipe selects."""
    run, folder, epochs = context.run, training.folder, training.recipe.epochs
    task = f"train {training.title}"
    inputs = training_inputs(context, training)
    if run.is_done(folder, inputs):
        _drop_state(context, training)  # a run that was killed just after the training left it
        yield Event(task, epochs, epochs, "done before")
        return
    state = _read_state(context, training, inputs)
    yield Event(task, len(state["history"]) if state else 0, epochs)
    for epoch_state in _epochs(context, training, state):
        state = epoch_state
        _write_state(context, training, inputs, state)
        row = state["history"][-1]
        note = f"validation accuracy {row['val_accuracy']:.1%}, loss {row['val_loss']:.3f}"
        yield Event(task, len(state["history"]), epochs, note)
    assert state is not None
    _store(context, training, state)
    run.finish(folder, inputs, [f"{folder}/{name}" for name in FILES])
    _drop_state(context, training)


def _adopt(context: Context, source: Training, target: Training) -> None:
    """Take over what a try of a sweep has trained already with the same recipe and seed."""
    run, inputs = context.run, training_inputs(context, target)
    if not run.is_done(target.folder, inputs):
        for name in FILES:
            content = (run.path / source.folder / name).read_bytes()
            run.write(f"{target.folder}/{name}", content)
        run.finish(target.folder, inputs, [f"{target.folder}/{name}" for name in FILES])


def _epochs(context: Context, training: Training, state: State | None) -> Iterator[State]:
    train, val = context.dataset.train, context.dataset.val
    assert train is not None
    assert val is not None
    model = models.build(training.spec, training.seed, offline=context.offline)
    if training.recipe.freeze_batchnorm:
        model.freeze_batchnorm()
    epochs = fit(
        model,
        train,
        val,
        training.recipe,
        head=models.head_of(model, training.spec.backbone),
        seed=training.seed,
        device=context.device,
        precision=training_precision(context.study.precision, context.device),
        state=state,
        weather=training.weather,
    )
    for epoch in epochs:
        yield epoch.state


def _store(context: Context, training: Training, state: State) -> None:
    run, folder, history = context.run, training.folder, state["history"]
    chosen = history[selected_epoch(history, training.recipe)]
    facts = {
        "classes": list(context.dataset.classes),
        "seed": training.seed,
        "recipe": asdict(training.recipe),
        "precision": training_precision(context.study.precision, context.device),
        **{key: chosen[key] for key in SELECTED},
    }
    # Contiguous: safetensors stores plain memory, and training leaves convolutions channels last.
    best = {name: tensor.contiguous() for name, tensor in state["best"].items()}
    run.write(f"{folder}/model.safetensors", safetensors.torch.save(best))
    run.write(f"{folder}/model.json", models.model_json(training.spec, facts))
    run.write(f"{folder}/history.csv", pd.DataFrame(history).to_csv(index=False))


def _sweep(context: Context, name: str, entry: ModelEntry) -> Generator[Event, None, Training]:
    """Train every try with the first seed; returns the one that validation chooses."""
    tries = [
        Training(
            folder=f"models/{name}/sweep/try-{number}",
            title=f"{entry.title}, try {number} of {len(entry.tries())}",
            spec=model_spec(context.dataset, entry),
            recipe=recipe,
            seed=context.study.seeds[0],
            weather=tuple(entry.weather()),
        )
        for number, (_, recipe) in enumerate(entry.tries(), start=1)
    ]
    rows: list[dict[str, Any]] = []
    for number, (training, (values, _)) in enumerate(zip(tries, entry.tries(), strict=True), 1):
        try:
            yield from train_step(context, training)
        except TrainingDivergedError as error:
            rows.append({"try": number, **values, "diverged": str(error)})
            continue
        facts = json.loads((context.run.path / training.folder / "model.json").read_text())
        rows.append({"try": number, **values, **{key: facts[key] for key in SELECTED}})
    table = pd.DataFrame(rows, columns=list(dict.fromkeys(key for row in rows for key in row)))
    if "val_loss" not in table:
        raise TrainingDivergedError(f"every try of {entry.title} diverged; {rows[-1]['diverged']}")
    by_accuracy = entry.sweep_metric == "accuracy"
    ranked = table.assign(val_accuracy=-table["val_accuracy"]).dropna(subset=["val_loss"])
    order = ["val_accuracy", "val_loss"] if by_accuracy else ["val_loss"]
    chosen = int(ranked.sort_values(order, kind="stable").index[0])
    table["chosen"] = table.index == chosen
    context.run.write(f"models/{name}/sweep.csv", table.to_csv(index=False))
    return tries[chosen]


def training_inputs(context: Context, training: Training) -> dict[str, Any]:
    """Everything that a training depends on: its fingerprint."""
    return {
        "version": VERSION,
        "train": context.digests.get("train"),
        "val": context.digests.get("val"),
        "spec": asdict(training.spec),
        "weights": models.weights_digest(training.spec, offline=context.offline),
        "recipe": asdict(training.recipe),
        # Only where there are some: earlier runs have no such entry, and are still what they were.
        **({"weather": [shift.id for shift in training.weather]} if training.weather else {}),
        "seed": training.seed,
        "precision": training_precision(context.study.precision, context.device),
        **context.machine,
    }


def _write_state(
    context: Context, training: Training, inputs: Mapping[str, Any], state: State
) -> None:
    buffer = io.BytesIO()
    torch.save({"inputs": fingerprint(inputs), "state": state}, buffer)
    context.run.write(f"{training.folder}/resume/state.pt", buffer.getvalue())


def _drop_state(context: Context, training: Training) -> None:
    shutil.rmtree(context.run.path / training.folder / "resume", ignore_errors=True)


def _read_state(context: Context, training: Training, inputs: Mapping[str, Any]) -> State | None:
    """The state that an interrupted training left, if it was this training."""
    path = context.run.path / training.folder / "resume" / "state.pt"
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, map_location=context.device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        return None
    return stored["state"] if stored["inputs"] == fingerprint(inputs) else None
