"""A trial of a study before anything is written: build every model, try shifts on one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

from fairweather import models
from fairweather.errors import InputError
from fairweather.inference import predict
from fairweather.running.inputs import Settings
from fairweather.running.trial import try_model, try_shifts
from fairweather.running.trial import try_out as try_settings
from fairweather.steps.training import training_attack, with_statistics
from fairweather.study.planning import has_own_statistics, model_spec
from fairweather.study.schema import NetworkEntry, PretrainingEntry, Study
from fairweather.training import Recipe, RotationTask, check_square
from fairweather.training.selfsupervised import METHODS
from fairweather.types import CLASSIFICATION, Dataset, Images


def try_out(
    study: Study,
    settings: Settings,
    dataset: Dataset,
    starts: Mapping[str, Dataset],
    offline: bool,
) -> None:
    """Raise `InputError` for anything in a study that would fail later.

    Args:
        study: a study that is valid in itself.
        settings: how its models are measured.
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
    try_settings(dataset, settings, "a study")
    image = dataset.test[:1]
    for name, start in study.pretraining.items():
        with _explained(f"pretraining.{name}", start.backbone, starts[name].test):
            _try_pretraining(start, starts[name], offline)
    tried: set[models.ModelSpec] = set()
    for name, entry in study.models.items():
        spec = _spec(entry, dataset)
        if entry.pretraining is not None:  # the weights that it starts from do not exist yet
            spec = with_statistics(replace(spec, weights="none"), dataset)
        with _explained(f"models.{name}", entry.backbone, image):
            if spec not in tried:
                _try_model(settings, spec, dataset, offline)
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


def _try_model(settings: Settings, spec: models.ModelSpec, dataset: Dataset, offline: bool) -> None:
    image, train = dataset.test[:1], dataset.train
    assert train is not None
    model = models.build(spec, offline=offline)
    models.head_of(model, spec.backbone)
    predict(model, image, device="cpu", progress=False)
    try_model(model.eval(), settings, image)
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


@contextmanager
def _explained(place: str, backbone: str, images: Images) -> Iterator[None]:
    """Put the place in the study before every error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # Networks fail in different ways with images that they were not made for: transformers with an
    # assertion, many poolings with an empty feature map.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        said = str(error).partition("\n")[0]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} ({said}); set input_size"
        ) from None
