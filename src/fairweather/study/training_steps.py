"""A training as a step of a run: resumable by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from fairweather import models
from fairweather.devices import training_precision
from fairweather.progress import Event
from fairweather.study.context import Context
from fairweather.study.resuming import State, as_safetensors, drop_state, read_state, write_state
from fairweather.study.training_plans import Training, adversary, training_images, training_inputs
from fairweather.training import fit, selected_epoch

SELECTED = ("epoch", "val_accuracy", "val_loss")
FILES = ("model.safetensors", "model.json", "history.csv")
PROBED = "probed.safetensors"  # where an interpolation begins


def train_step(context: Context, training: Training) -> Iterator[Event]:
    """Train one model from where it stands, and store what its recipe selects."""
    run, folder, epochs = context.run, training.folder, training.recipe.epochs
    task = f"train {training.title}"
    inputs = training_inputs(context, training)
    if run.is_done(folder, inputs):
        # A run that was killed just after the training left it.
        drop_state(context, folder)
        yield Event(task, epochs, epochs, "done before")
        return
    # Now: a training may outlive the file that it began with.
    weights = _weights_facts(context, training)
    state = read_state(context, folder, inputs)
    yield Event(task, len(state["history"]) if state else 0, epochs, _start_note(weights))
    for epoch_state in _epochs(context, training, state):
        state = epoch_state
        write_state(context, folder, inputs, state)
        row = state["history"][-1]
        note = f"validation accuracy {row['val_accuracy']:.1%}, loss {row['val_loss']:.3f}"
        yield Event(task, len(state["history"]), epochs, note)
    assert state is not None
    run.finish(folder, inputs, _store(context, training, state, weights))
    drop_state(context, folder)


def _start_note(weights: Mapping[str, Any]) -> str:
    """Say what a training starts from; nothing where that is nothing."""
    if weights["weights"] == "none":
        return ""
    left_out = weights.get("left_out")
    beside = f", without {', '.join(left_out)}" if left_out else ""
    return f"weights: {weights.get('file', weights['weights'])}{beside}; head {weights['head']}"


def _epochs(context: Context, training: Training, state: State | None) -> Iterator[State]:
    val = context.dataset.val
    assert val is not None
    spec = training.loaded_spec(context.run.path)
    model = models.build(spec, training.seed, offline=context.offline)
    if training.recipe.freeze_batchnorm:
        model.freeze_batchnorm()
    epochs = fit(
        model,
        training_images(context, training),
        val,
        training.recipe,
        head=models.head_of(model, training.spec.backbone),
        seed=training.seed,
        device=context.device,
        precision=training_precision(context.study.precision, context.device),
        state=state,
        train_shifts=training.weather,
        attack=adversary(training.recipe),
    )
    for epoch in epochs:
        yield epoch.state


def _store(
    context: Context, training: Training, state: State, weights: Mapping[str, Any]
) -> list[str]:
    """Write what a training made; returns the names of the files."""
    run, folder, history = context.run, training.folder, state["history"]
    chosen = history[selected_epoch(history, training.recipe)]
    facts = {
        "classes": list(context.dataset.classes),
        "seed": training.seed,
        "recipe": asdict(training.recipe),
        "weights": weights,
        "training_images": len(training_images(context, training)),
        "label_fraction": training.label_fraction,
        "label_noise": training.label_noise,
        "train_shifts": [shift.id for shift in training.weather],
        "precision": training_precision(context.study.precision, context.device),
        **{key: chosen[key] for key in SELECTED},
    }
    files: dict[str, bytes | str] = {
        "model.safetensors": as_safetensors(state["best"]),
        "model.json": models.model_json(training.spec, facts),
        "history.csv": pd.DataFrame(history).to_csv(index=False),
    }
    if "probed" in state:
        files[PROBED] = as_safetensors(state["probed"])
    for name, content in files.items():
        run.write(f"{folder}/{name}", content)
    return [f"{folder}/{name}" for name in files]


def _weights_facts(context: Context, training: Training) -> dict[str, Any]:
    spec = training.loaded_spec(context.run.path)
    facts = models.weights_facts(spec, offline=context.offline)
    return facts | ({"file": training.start} if training.start else {})
