"""Augmentation of whole batches of tensors, with parameters drawn for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from fairweather.training.recipe import Recipe
from fairweather.types import Images, Shift


class Geometry(NamedTuple):
    """What is done to each image: bool flips `[B]` and rotations in degrees `[B]`, float64."""

    horizontal: torch.Tensor
    vertical: torch.Tensor
    degrees: torch.Tensor


class Mixed(NamedTuple):
    """A mixed batch: float images `[B, 3, H, W]` and soft labels `[B, classes]`."""

    images: torch.Tensor
    targets: torch.Tensor


def draw_geometry(n: int, recipe: Recipe, rng: np.random.Generator) -> Geometry:
    """Draw flips and rotations for `n` images.

    >>> recipe = Recipe(horizontal_flip=0.5)
    >>> draw_geometry(4, recipe, np.random.default_rng(0)).degrees.tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    flip_h, flip_v, rotate, angle = torch.from_numpy(rng.random((4, n)))
    degrees = torch.zeros(n, dtype=torch.float64)
    if recipe.rotation is not None:
        drawn = (2 * angle - 1) * recipe.rotation.degrees
        degrees = torch.where(rotate < recipe.rotation.probability, drawn, degrees)
    return Geometry(flip_h < recipe.horizontal_flip, flip_v < recipe.vertical_flip, degrees)


def apply_geometry(images: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Flip, then rotate about the centre: uint8 `[B, 3, H, W]` in and out.

    Both are one look-up of the nearest source pixel, black outside, as PIL's `transpose` and
    `rotate` do it; positive degrees turn counter-clockwise.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> flip = Geometry(torch.tensor([True]), torch.tensor([False]), torch.zeros(1))
    >>> apply_geometry(image, flip)[0, 0].tolist()
    [[1, 0], [3, 2]]
    """
    n, channels, height, width = images.shape
    angle = (geometry.degrees * (math.pi / 180)).to(images.device, torch.float32)
    cos, sin = angle.cos().reshape(n, 1, 1), angle.sin().reshape(n, 1, 1)
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).reshape(1, height, 1)
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2).reshape(1, 1, width)
    column = (cos * x - sin * y + width / 2).floor_().long()
    row = (sin * x + cos * y + height / 2).floor_().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    flip_h = geometry.horizontal.to(images.device).reshape(n, 1, 1)
    flip_v = geometry.vertical.to(images.device).reshape(n, 1, 1)
    column = torch.where(flip_h, width - 1 - column, column).clamp_(0, width - 1)
    row = torch.where(flip_v, height - 1 - row, row).clamp_(0, height - 1)
    source = (row * width + column).reshape(n, 1, -1).expand(n, channels, -1)
    picked = images.reshape(n, channels, -1).gather(2, source).reshape(images.shape)
    return picked * inside[:, None]


def mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> Mixed:
    """Mix every image with a partner from its batch: MixUp (Zhang et al. 2018, section 2).

    Args:
        images: float `[B, 3, H, W]`.
        labels: int64 `[B]`.
        classes: width of the soft labels.
        alpha: each image's own weight is drawn from Beta(alpha, alpha).
        rng: source of weights and partners.

    >>> mixed = mix(torch.rand(4, 3, 8, 8), torch.arange(4), 4, 0.3, np.random.default_rng(0))
    >>> bool(torch.isclose(mixed.targets.sum(1), torch.ones(4)).all())
    True
    """
    n = len(images)
    weight = torch.from_numpy(rng.beta(alpha, alpha, n)).to(images)
    partner = torch.from_numpy(rng.permutation(n)).to(images.device)
    targets = F.one_hot(labels, classes).to(images)
    return Mixed(
        torch.lerp(images[partner], images, weight.reshape(n, 1, 1, 1)),
        torch.lerp(targets[partner], targets, weight.reshape(n, 1)),
    )


def change_weather(batch: Images, weather: Sequence[Shift], rng: np.random.Generator) -> Images:
    """Leave each image of a batch as it is or give it one of several shifts, all equally likely.

    The shifts draw with a seed of their own for every batch: an image that is met again gets other
    noise.

    >>> from fairweather.types import Shift
    >>> black = Shift("black", 1.0, {}, lambda images, keys, seed: images * 0)
    >>> pixels, column = torch.full((64, 3, 8, 8), 9, dtype=torch.uint8), torch.arange(64)
    >>> batch = Images(pixels, column * 0, column, ("a",))
    >>> changed = change_weather(batch, [black], np.random.default_rng(0)).images
    >>> sorted(set(changed.flatten().tolist()))
    [0, 9]
    """
    chosen = torch.from_numpy(rng.integers(len(weather) + 1, size=len(batch)))
    seed = int(rng.integers(2**31))
    images = batch.images.clone()
    for number, shift in enumerate(weather):
        places = (chosen == number).nonzero().flatten()
        if len(places):
            images[places] = shift(batch.images[places], batch.keys[places], seed)
    return replace(batch, images=images)
