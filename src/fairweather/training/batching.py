"""From 8-bit training images to the input of a training step: augmented floats and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fairweather.devices import has_room_for
from fairweather.streams import gathered_batches
from fairweather.training.augment import (
    add_gaussian_noise,
    apply_geometry,
    apply_train_shifts,
    cut_mix,
    draw_geometry,
    mix,
    random_erase,
)
from fairweather.training.augmix import augmix
from fairweather.training.loop_parts import to_input
from fairweather.training.policies import rand_augment, trivial_augment
from fairweather.training.recipe import AugMix, Recipe
from fairweather.types import Images, Shift


def near(
    images: Images, device: torch.device, room: Callable[[torch.device, int], bool] = has_room_for
) -> Images:
    """Copy the pixels of training images to the device if they can stay there; else keep them.

    Labels and keys stay where they are: reading them must not wait for the device.
    """
    if not room(device, images.images.nbytes):
        return images
    return replace(images, images=images.images.to(device))


def training_batches(
    images: Images, indices: Sequence[torch.Tensor], device: torch.device
) -> Iterator[Images]:
    """Yield batches of training images in order.

    For a GPU that does not have the images itself (`near`), a thread gathers the next batch in
    page-locked memory while the current one is trained on.

    Args:
        images: the training images.
        indices: int64, those of each batch.
        device: where training takes place.
    """
    if device.type == "cuda" and images.images.device.type == "cpu":
        yield from gathered_batches(images, indices)
        return
    for index in indices:
        pixels = images.images[index.to(images.images.device)]
        yield Images(pixels, images.labels[index], images.keys[index], images.classes)


class Batch(NamedTuple):
    """The input of one training step.

    Attributes:
        views: views of the same images, each float `[B, 3, H, W]` in [0, 1]; the targets belong to
            the first.
        targets: classes int64 `[B]`, or soft labels float `[B, classes]` that sum to one.
    """

    views: tuple[torch.Tensor, ...]
    targets: torch.Tensor


def make_batch(
    batch: Images,
    recipe: Recipe,
    rng: np.random.Generator,
    device: torch.device,
    train_shifts: Sequence[Shift] = (),
) -> Batch:
    """Augment a batch as its recipe says; each image has its own random parameters.

    The order is: training shifts, flips and rotation, policies (all on 8-bit images), AugMix,
    noise, erasing, MixUp or CutMix.

    >>> pixels, column = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    >>> made = make_batch(
    ...     Images(pixels, column, column, tuple("abcd")),
    ...     Recipe(mixup=0.3),
    ...     np.random.default_rng(0),
    ...     torch.device("cpu"),
    ... )
    >>> len(made.views), made.targets.shape
    (1, torch.Size([4, 4]))
    """
    if train_shifts:
        batch = apply_train_shifts(batch, train_shifts, rng)
    images = batch.images.to(device, non_blocking=device.type == "cuda")
    labels = batch.labels.to(device)
    if recipe.horizontal_flip or recipe.vertical_flip or recipe.rotation:
        images = apply_geometry(images, draw_geometry(len(images), recipe, rng))
    if recipe.trivial_augment:
        images = trivial_augment(images, rng)
    if policy := recipe.rand_augment:
        images = rand_augment(images, rng, policy)
    views = _mixtures(images, recipe.augmix, rng) if recipe.augmix else (to_input(images),)
    views = tuple(_disturb(view, recipe, rng) for view in views)
    alphas = [(mix, recipe.mixup), (cut_mix, recipe.cutmix)]
    mixings = [(mixing, alpha) for mixing, alpha in alphas if alpha]
    if not mixings:
        return Batch(views, labels)
    mixing, alpha = mixings[int(rng.integers(2)) if len(mixings) == 2 else 0]
    mixed = mixing(views[0], labels, len(batch.classes), alpha, rng)
    return Batch((mixed.images,), mixed.targets)


def _mixtures(
    images: torch.Tensor, options: AugMix, rng: np.random.Generator
) -> tuple[torch.Tensor, ...]:
    """The images and two mixtures of each; only one mixture if there is no consistency loss."""
    if not options.consistency:
        return (augmix(images, rng, options),)
    return to_input(images), augmix(images, rng, options), augmix(images, rng, options)


def _disturb(images: torch.Tensor, recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    if recipe.gaussian_noise:
        images = add_gaussian_noise(images, rng, recipe.gaussian_noise)
    if recipe.random_erasing:
        images = random_erase(images, rng, recipe.random_erasing)
    return images
