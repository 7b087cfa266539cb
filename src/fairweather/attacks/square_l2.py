"""The Square attack's moves in the Euclidean norm: bumps whose energy wanders over the image."""

from __future__ import annotations

import math
from functools import cache

import torch

from fairweather.attacks import draws

_TILES = 5  # the start covers the shorter side with so many bumps


def bumps(images: torch.Tensor, states: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Start from a grid of bumps, each channel of each with a sign of its own."""
    count, channels, height, width = images.shape
    side = min(height, width) // _TILES
    rows, columns = height // side, width // side
    numbers = draws.uniform(states, rows * columns * (channels + 1))
    upright = numbers[:, : rows * columns].reshape(count, 1, rows, 1, columns, 1) < 0.5
    colors = draws.signs(numbers[:, rows * columns :]).reshape(count, channels, rows, 1, columns, 1)
    one = bump(side).to(images.device)[:, None, :]  # [side, 1, side]: between rows and columns
    other = bump(side).T.to(images.device)[:, None, :]
    grid = torch.where(upright, one, other) * colors  # [B, C, rows, side, columns, side]
    grid = grid.reshape(count, channels, rows * side, columns * side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    change = torch.zeros_like(images)
    change[:, :, top : top + rows * side, left : left + columns * side] = grid
    return _scaled(images, change, epsilon)


def moved_bump(
    images: torch.Tensor, best: torch.Tensor, states: torch.Tensor, epsilon: float, part: float
) -> torch.Tensor:
    """Empty one random window of the perturbation and put its energy, as a bump, into another."""
    count, channels, height, width = images.shape
    side = _odd(max(round(math.sqrt(part * height * width)), 3), min(height, width))
    numbers = draws.uniform(states, 5 + channels)
    upright = numbers[:, 4, None, None, None] < 0.5
    colors = draws.signs(numbers[:, 5:]).reshape(count, channels, 1, 1)
    here = _window(numbers[:, 0:2], side, height, width)
    there = _window(numbers[:, 2:4], side, height, width)

    change = best - images
    energy = (change**2).sum((2, 3), keepdim=True)  # of each channel
    emptied = torch.zeros_like(change, dtype=torch.bool)
    emptied[here], emptied[there] = True, True
    freed = ((change * emptied) ** 2).sum((1, 2, 3), keepdim=True)
    unused = (epsilon**2 - energy.sum(1, keepdim=True)).clamp_min(0) / channels

    old = change[here].permute(0, 3, 1, 2)
    old = old / _length(old).clamp_min(1e-12)
    new = torch.where(upright, bump(side).to(images), bump(side).T.to(images)) * colors + old
    new = new / _length(new).clamp_min(1e-12) * (unused + freed).sqrt()
    change = change.masked_fill(emptied, 0)
    change[here] = new.permute(0, 2, 3, 1)
    return _scaled(images, change, epsilon)


@cache
def bump(side: int) -> torch.Tensor:
    """Make the perturbation of one window: a hill above a valley, of length 1, `[side, side]`.

    >>> bump(4).sum(), bump(4).norm()
    (tensor(0.), tensor(1.0000))
    """
    upper, lower = _hill(side // 2, side), _hill(side - side // 2, side)
    whole = torch.cat([upper, -lower])
    return whole / whole.norm()


def _hill(height: int, width: int) -> torch.Tensor:
    """Stack ever larger rectangles around the middle, the k-th from inside 1 / k² high."""
    if height == 0:
        return torch.zeros(0, width)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    steps = max(height, width) // 2 + 1
    heights = 1 / torch.arange(1.0, steps + 1) ** 2
    hill = heights.flip(0).cumsum(0).flip(0)[ring]
    return hill / hill.norm()


def _odd(side: int, most: int) -> int:
    side = min(side, most)
    if side % 2:
        return side
    return side + 1 if side < most else side - 1


def _window(
    numbers: torch.Tensor, side: int, height: int, width: int
) -> tuple[torch.Tensor, slice, torch.Tensor, torch.Tensor]:
    """Index a square window of each image, which gives `[B, side, side, C]`."""
    steps = torch.arange(side, device=numbers.device)
    rows = draws.whole(numbers[:, 0], height - side + 1)[:, None] + steps
    columns = draws.whole(numbers[:, 1], width - side + 1)[:, None] + steps
    image = torch.arange(len(numbers), device=numbers.device)
    return image[:, None, None], slice(None), rows[:, :, None], columns[:, None, :]


def _length(windows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(windows, dim=(2, 3), keepdim=True)


def _scaled(images: torch.Tensor, change: torch.Tensor, epsilon: float) -> torch.Tensor:
    length = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (images + epsilon / length * change).clamp(0, 1)
