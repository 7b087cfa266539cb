"""Training as steps of a run: resumable by epoch, sweeps kept as a table."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fairweather import models
from fairweather.attacks import make_training_attack
from fairweather.data import fewer_labels, with_wrong_labels
from fairweather.devices import training_precision
from fairweather.errors import TrainingDivergedError
from fairweather.measuring import Event
from fairweather.study.context import Context
from fairweather.study.entries import PRETRAINING, ModelEntry, NetworkEntry
from fairweather.study.resuming import (
    State,
    as_safetensors,
    drop_state,
    pretraining_folder,
    read_state,
    write_state,
)
from fairweather.training import Recipe, fit, recipe_facts, selected_epoch
from fairweather.types import Attack, Dataset, Images, Shift

# Raised when training makes something else of the same inputs.
VERSION = 1
SELECTED = ("epoch", "val_accuracy", "val_loss")
FILES = ("model.safetensors", "model.json", "history.csv")
PROBED = "probed.safetensors"  # where an interpolation begins


class Training(NamedTuple):
    """One model to train: what it is, from where, on what, how and with which seed.

    Attributes:
        folder: in the run.
        title: what progress calls it.
        spec: of the network; its weights are `pretraining:NAME` where the study makes them.
        recipe: how it is trained.
        seed: of everything random.
        weather: shifts of the training images.
        label_fraction, label_noise: how many of the labels there are, and how many are wrong.
        start: the file in the run with the weights of a pre-training.
    """

    folder: str
    title: str
    spec: models.ModelSpec
    recipe: Recipe
    seed: int
    weather: tuple[Shift, ...] = ()
    label_fraction: float = 1.0
    label_noise: float = 0.0
    start: str | None = None

    def loaded_spec(self, run: Path) -> models.ModelSpec:
        """The specification with a file in the place of the study's own pre-training."""
        return replace(self.spec, weights=str(run / self.start)) if self.start else self.spec


def model_spec(dataset: Dataset, entry: NetworkEntry) -> models.ModelSpec:
    """The network of an entry; from scratch it is normalised by the training images' statistics."""
    mean: Sequence[float] | None = entry.mean
    std: Sequence[float] | None = entry.std
    if mean is None and (entry.weights == "none" or entry.weights.startswith(PRETRAINING)):
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
        norm=entry.norm,
        pooling=entry.pooling,
        width=entry.width,
        weights_sha256=entry.weights_sha256,
    )


def trainings(context: Context, name: str, entry: ModelEntry) -> Iterator[Event]:
    """Train a model of the study with every seed, its sweep first."""
    chosen = (yield from _sweep(context, name, entry)) if entry.sweep else None
    recipe = chosen.recipe if chosen else entry.recipe
    for seed in context.study.seeds:
        folder = f"models/{name}/seed-{seed}"
        title = seed_title(context, name, seed)
        training = _training(context, entry, folder, title, recipe, seed)
        if chosen and chosen.seed == seed:
            _adopt(context, chosen, training)
        yield from train_step(context, training)


def _training(
    context: Context, entry: ModelEntry, folder: str, title: str, recipe: Recipe, seed: int
) -> Training:
    spec, start = model_spec(context.dataset, entry), None
    if entry.pretraining is not None:
        of = pretraining_folder(context, entry.pretraining, seed)
        start = f"{of}/model.safetensors"
        if entry.mean is None:  # its weights come with the statistics that they were made with
            made = json.loads((context.run.path / of / "model.json").read_text())["spec"]
            spec = replace(spec, mean=tuple(made["mean"]), std=tuple(made["std"]))
    return Training(
        folder,
        title,
        spec,
        recipe,
        seed,
        tuple(entry.weather()),
        entry.label_fraction,
        entry.label_noise,
        start,
    )


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


def _adopt(context: Context, source: Training, target: Training) -> None:
    """Take over what a try of a sweep has trained already with the same recipe and seed."""
    run, inputs = context.run, training_inputs(context, target)
    if not run.is_done(target.folder, inputs):
        probed = (run.path / source.folder / PROBED).is_file()
        names = [*FILES, *([PROBED] if probed else [])]
        for name in names:
            content = (run.path / source.folder / name).read_bytes()
            run.write(f"{target.folder}/{name}", content)
        run.finish(target.folder, inputs, [f"{target.folder}/{name}" for name in names])


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
        weather=training.weather,
        attack=adversary(training.recipe),
    )
    for epoch in epochs:
        yield epoch.state


def training_images(context: Context, training: Training) -> Images:
    """The training images with the labels that this model gets."""
    train, seed = context.dataset.train, context.study.data.seed
    assert train is not None
    # Which images stay is decided by their true labels, and is the same whatever becomes of these.
    noisy = with_wrong_labels(train, training.label_noise, seed)
    if training.label_fraction == 1:
        return noisy  # not a copy: the pixels may be larger than memory
    return noisy[fewer_labels(train, training.label_fraction, seed)]


def adversary(recipe: Recipe) -> Attack | None:
    """The attack that makes the training images of an adversarial recipe."""
    if (settings := recipe.adversarial) is None:
        return None
    given = {key: value for key, value in asdict(settings).items() if value is not None}
    return make_training_attack("pgd", **given)


def _changes_labels(training: Training) -> bool:
    return training.label_fraction < 1 or training.label_noise > 0


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


def _sweep(context: Context, name: str, entry: ModelEntry) -> Generator[Event, None, Training]:
    """Train every try with the first seed; returns the one that validation chooses."""
    tries = [
        _training(
            context,
            entry,
            f"models/{name}/sweep/try-{number}",
            f"{entry.title}, try {number} of {len(entry.tries())}",
            recipe,
            context.study.seeds[0],
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
    """Everything that a training depends on: its fingerprint.

    What came later stands there only where it does something: earlier runs have no such entries,
    and are still what they were.
    """
    later = {
        "weather": [shift.id for shift in training.weather],
        "label_fraction": None if training.label_fraction == 1 else training.label_fraction,
        "label_noise": training.label_noise,
        "label_seed": str(context.study.data.seed) if _changes_labels(training) else None,
    }
    spec = training.loaded_spec(context.run.path)
    return {
        "version": VERSION,
        "train": context.digests.get("train"),
        "val": context.digests.get("val"),
        "spec": models.spec_facts(training.spec),
        "weights": models.weights_digest(spec, offline=context.offline),
        "recipe": recipe_facts(training.recipe),
        **{key: value for key, value in later.items() if value},
        "seed": training.seed,
        "precision": training_precision(context.study.precision, context.device),
        **context.machine,
    }
