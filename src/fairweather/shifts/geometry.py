"""Turned, moved and coarser images."""

from __future__ import annotations

import torch
from PIL import Image

from fairweather.errors import InputError
from fairweather.shifts.pictures import on_pictures
from fairweather.types import ShiftFunction


def rotation(*, degrees: float) -> ShiftFunction:
    """Turn counter-clockwise around the centre, interpolating linearly; what comes in is black.

    Equal to `torchvision.transforms.functional.rotate(BILINEAR)` on PIL images.

    Args:
        degrees: any number.

    >>> images = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    >>> rotation(degrees=45)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [0, 0, 9, 9, 9, 9, 0, 0]
    """

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        return on_pictures(
            images, lambda picture: picture.rotate(degrees, Image.Resampling.BILINEAR)
        )

    return apply


def translate(*, fraction: float) -> ShiftFunction:
    """Move to the right by a share of the width, to whole pixels; what comes in is black.

    Equal to `torchvision.transforms.functional.affine(translate=[pixels, 0])`.

    Args:
        fraction: in (-1, 1); negative moves to the left.

    >>> images = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    >>> translate(fraction=0.25)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [0, 0, 9, 9, 9, 9, 9, 9]
    """
    if not -1 < fraction < 1:
        raise InputError(f"translate: fraction must be between -1 and 1, found {fraction}")

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        width = images.shape[3]
        pixels = round(fraction * width)
        moved = torch.zeros_like(images)
        moved[..., max(0, pixels) : width + min(0, pixels)] = images[
            ..., max(0, -pixels) : width - max(0, pixels)
        ]
        return moved

    return apply


def downscale(*, factor: float) -> ShiftFunction:
    """Shrink by a factor and grow again, both with Pillow's linear filter.

    Args:
        factor: >= 1; the sides in between are rounded to whole pixels, at least one.

    >>> images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> images[..., 4:] = 200
    >>> downscale(factor=4)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [29, 29, 47, 82, 118, 153, 171, 171]
    """
    if factor < 1:
        raise InputError(f"downscale: factor must be >= 1, found {factor}")

    def coarser(picture: Image.Image) -> Image.Image:
        small = tuple(max(1, round(side / factor)) for side in picture.size)
        linear = Image.Resampling.BILINEAR
        return picture.resize((small[0], small[1]), linear).resize(picture.size, linear)

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        return on_pictures(images, coarser)

    return apply
