"""Every model is built and every shift applied to one image, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from fairweather import models
from fairweather.cells import predict
from fairweather.errors import InputError
from fairweather.study.entries import PretrainingEntry
from fairweather.study.schema import Study
from fairweather.study.training_plans import adversary, model_spec
from fairweather.training import Recipe, RotationTask, check_square
from fairweather.training.selfsupervised import METHODS
from fairweather.types import Attack, Dataset, Images, Shift
from fairweather.variants import adapt_batchnorm


def try_out(study: Study, dataset: Dataset, starts: Mapping[str, Dataset], offline: bool) -> None:
    """Raise `InputError` for what of a study would fail later.

    Args:
        study: checked by itself.
        dataset: its data.
        starts: the data of its pre-trainings, by their names.
        offline: never touch the network.
    """
    for part, images in (("training", dataset.train), ("validation", dataset.val)):
        if images is None:
            raise InputError(
                f"{dataset.name} has no {part} images: training needs both, and test images choose "
                "nothing"
            )
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only the class {dataset.classes[0]!r}: needs two")
    image = dataset.test[:1]
    for shift in study.all_shifts():
        if isinstance(shift, Shift):
            shift(image.images, image.keys, study.shift_seed)
    for name, start in study.pretraining.items():
        with _taking(f"pretraining.{name}", start.backbone, starts[name].test):
            _try_pretraining(start, starts[name], offline)
    tried: set[models.ModelSpec] = set()
    for name, entry in study.models.items():
        spec = model_spec(dataset, entry)
        if entry.pretraining is not None:  # what it starts from has yet to be made
            spec = replace(spec, weights="none")
        with _taking(f"models.{name}", entry.backbone, image):
            if spec not in tried:
                _try_model(study, spec, dataset, offline)
            for shift in entry.weather():
                shift(image.images, image.keys)
            for each in entry.tries():
                _try_recipe(each.recipe, spec, dataset)
        tried.add(spec)


@contextmanager
def _taking(place: str, backbone: str, images: Images) -> Iterator[None]:
    """Say of whatever goes wrong where in the study it is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # What a network does with images that it was not made for is its own: an assertion of a
    # transformer, an empty feature map of a deep stack of poolings.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} "
            f"({str(error).splitlines()[0]}); set input_size"
        ) from None


def _try_pretraining(start: PretrainingEntry, dataset: Dataset, offline: bool) -> None:
    if dataset.train is None:
        raise InputError(f"{dataset.name} has no training images")
    height, width = dataset.test.images.shape[2:]
    if start.recipe.method == "rotation" and height != width:
        raise InputError(f"rotation turns squares by 90 degrees, found {height}x{width}")
    model = models.build(model_spec(dataset, start), offline=offline)
    encoder = models.encoder_of(model, start.backbone)
    with torch.random.fork_rng(devices=[]):  # a projector and dropout draw
        METHODS[start.recipe.method].build(encoder.features, start.recipe, len(dataset.classes))
        encoder.module.train()(dataset.train[:2].images.float() / 255)


def _try_model(study: Study, spec: models.ModelSpec, dataset: Dataset, offline: bool) -> None:
    image, train = dataset.test[:1], dataset.train
    assert train is not None
    model = models.build(spec, offline=offline)
    models.head_of(model, spec.backbone)
    if "batchnorm" in study.variants:
        adapt_batchnorm(model)
    predicted = predict(model, image, device="cpu").predicted
    _try_attacks(study, model, image, predicted)
    with torch.random.fork_rng(devices=[]):  # dropout draws
        logits = model.train()(train[:2].images.float() / 255)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{spec.backbone} does not return plain logits while it trains")


def _try_attacks(
    study: Study, model: torch.nn.Module, image: Images, predicted: np.ndarray
) -> None:
    """Ask every attack for an image that is wrong anyway: it checks all, and searches nothing."""
    wrong = torch.from_numpy((predicted + 1) % len(image.classes))
    for attack in study.all_shifts():
        if isinstance(attack, Attack):
            attack(model, image.images.float() / 255, wrong, image.keys, study.shift_seed)


def _try_recipe(recipe: Recipe, spec: models.ModelSpec, dataset: Dataset) -> None:
    check_square(dataset.test, recipe)
    if not (recipe.rotation_prediction or recipe.adversarial):
        return
    model = models.build(replace(spec, weights="none", weights_sha256=None))
    if recipe.rotation_prediction:
        with torch.random.fork_rng(devices=[]):
            RotationTask(models.head_of(model, spec.backbone))
    if attack := adversary(recipe):
        image = dataset.test[:1]
        attack(model, image.images.float() / 255, image.labels, image.keys)
