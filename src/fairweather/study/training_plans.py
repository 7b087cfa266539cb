"""What a training of a study is: the network, the recipe, the images, and its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from fairweather import models
from fairweather.attacks import make_training_attack
from fairweather.data import fewer_labels, with_wrong_labels
from fairweather.devices import training_precision
from fairweather.study.context import Context
from fairweather.study.entries import PRETRAINING, ModelEntry, NetworkEntry
from fairweather.study.resuming import pretraining_folder
from fairweather.training import Recipe, recipe_facts
from fairweather.types import Attack, Dataset, Images, Shift

# Raised when training makes something else of the same inputs.
VERSION = 1


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


def planned(
    context: Context, entry: ModelEntry, folder: str, title: str, recipe: Recipe, seed: int
) -> Training:
    """Plan the training of a model with one of its recipes."""
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


def _changes_labels(training: Training) -> bool:
    return training.label_fraction < 1 or training.label_noise > 0
