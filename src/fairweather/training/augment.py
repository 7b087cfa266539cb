"""Augmentation of whole batches of tensors, with parameters drawn for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from fairweather.training.recipe import Recipe
from fairweather.types import Images, Shift


class Geometry(NamedTuple):
    """What is done to each image: bool flips `[B]` and rotations in degrees `[B]`, float64."""

    horizontal: torch.Tensor
    vertical: torch.Tensor
    degrees: torch.Tensor


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


def apply_train_shifts(
    batch: Images, train_shifts: Sequence[Shift], rng: np.random.Generator
) -> Images:
    """Leave each image of a batch as it is or give it one of several shifts, all equally likely.

    The shifts draw with a seed of their own for every batch: an image that is met again gets other
    noise.

    >>> from fairweather.types import Shift
    >>> black = Shift("black", 1.0, {}, lambda images, keys, seed: images * 0)
    >>> pixels, column = torch.full((64, 3, 8, 8), 9, dtype=torch.uint8), torch.arange(64)
    >>> batch = Images(pixels, column * 0, column, ("a",))
    >>> changed = apply_train_shifts(batch, [black], np.random.default_rng(0)).images
    >>> sorted(set(changed.flatten().tolist()))
    [0, 9]
    """
    chosen = torch.from_numpy(rng.integers(len(train_shifts) + 1, size=len(batch)))
    seed = int(rng.integers(2**31))
    images = batch.images.clone()
    for number, shift in enumerate(train_shifts):
        places = (chosen == number).nonzero().flatten()
        if len(places):
            images[places] = shift(batch.images[places], batch.keys[places], seed)
    return replace(batch, images=images)
