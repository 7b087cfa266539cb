"""A trial of a study before anything is written: build every model, try shifts on one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from fairweather import models
from fairweather.errors import InputError
from fairweather.inference import predict
from fairweather.steps.one_image import explained, try_attacks, try_fitting, try_shifts
from fairweather.steps.training import training_attack, with_statistics
from fairweather.study.planning import has_own_statistics, model_spec
from fairweather.study.schema import NetworkEntry, PretrainingEntry, Study
from fairweather.training import Recipe, RotationTask, check_square
from fairweather.training.selfsupervised import METHODS
from fairweather.types import CLASSIFICATION, Attack, Dataset


def try_out(study: Study, dataset: Dataset, starts: Mapping[str, Dataset], offline: bool) -> None:
    """Raise `InputError` for anything in a study that would fail later.

    Args:
        study: a study that is valid in itself.
        dataset: the data of the study.
        starts: the data of its pre-trainings, by their names.
        offline: never use the network.
    """
    for part, images in (("training", dataset.train), ("validation", dataset.val)):
        if images is None:
            raise InputError(
                f"{dataset.name} has no {part} images: a study needs training and validation "
                "images, since test images must not choose a checkpoint"
            )
    if dataset.task != CLASSIFICATION:
        raise InputError(
            f"a study trains for {CLASSIFICATION}, and the task of {dataset.name} is {dataset.task}"
        )
    if len(dataset.classes) < 2:
        raise InputError(
            f"{dataset.name} has only the class {dataset.classes[0]!r}: a study needs at least two"
        )
    try_fitting(study.all_variants(), dataset.val)
    image = dataset.test[:1]
    try_shifts([*study.all_shifts(), *study.fit_on_shifts()], image, study.shift_seed)
    for name, start in study.pretraining.items():
        with explained(f"pretraining.{name}", start.backbone, starts[name].test):
            _try_pretraining(start, starts[name], offline)
    tried: set[models.ModelSpec] = set()
    for name, entry in study.models.items():
        spec = _spec(entry, dataset)
        if entry.pretraining is not None:  # the weights that it starts from do not exist yet
            spec = with_statistics(replace(spec, weights="none"), dataset)
        with explained(f"models.{name}", entry.backbone, image):
            if spec not in tried:
                _try_model(study, spec, dataset, offline)
            try_shifts(entry.training_shifts(), image, 0)
            for each in entry.tries():
                _try_recipe(each.recipe, spec, dataset)
        tried.add(spec)


def _spec(entry: NetworkEntry, dataset: Dataset) -> models.ModelSpec:
    spec = model_spec(entry, len(dataset.classes))
    return with_statistics(spec, dataset) if has_own_statistics(entry) else spec


def _try_pretraining(start: PretrainingEntry, dataset: Dataset, offline: bool) -> None:
    if dataset.train is None:
        raise InputError(f"{dataset.name} has no training images")
    height, width = dataset.test.images.shape[2:]
    if start.recipe.method == "rotation" and height != width:
        raise InputError(f"rotation needs square images, found {height}x{width}")
    model = models.build(_spec(start, dataset), offline=offline)
    encoder = models.encoder_of(model, start.backbone)
    with torch.random.fork_rng(devices=[]):  # a projector and dropout use random numbers
        METHODS[start.recipe.method].build(encoder.features, start.recipe, len(dataset.classes))
        encoder.module.train()(dataset.train[:2].images.float() / 255)


def _try_model(study: Study, spec: models.ModelSpec, dataset: Dataset, offline: bool) -> None:
    image, train = dataset.test[:1], dataset.train
    assert train is not None
    model = models.build(spec, offline=offline)
    models.head_of(model, spec.backbone)
    for variant in study.all_variants():
        variant.check_network(model)
    predict(model, image, device="cpu", progress=False)
    attacks = [each for each in study.all_shifts() if isinstance(each, Attack)]
    try_attacks(attacks, model.eval(), image, study.shift_seed)
    with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
        logits = model.train()(train[:2].images.float() / 255)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{spec.backbone} does not return plain logits in training mode")


def _try_recipe(recipe: Recipe, spec: models.ModelSpec, dataset: Dataset) -> None:
    check_square(dataset.test, recipe)
    if not (recipe.rotation_prediction or recipe.adversarial):
        return
    model = models.build(replace(spec, weights="none", weights_sha256=None))
    if recipe.rotation_prediction:
        with torch.random.fork_rng(devices=[]):
            RotationTask(models.head_of(model, spec.backbone))
    if attack := training_attack(recipe):
        image = dataset.test[:1]
        attack(model, image.images.float() / 255, image.labels, image.keys)
