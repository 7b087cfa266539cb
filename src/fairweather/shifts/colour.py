"""Hue, gamma and the loss of JPEG."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c.digital import jpeg_compression
from fairweather.shifts.pictures import on_pictures
from fairweather.types import ShiftFunction


def hue(*, turn: float) -> ShiftFunction:
    """Turn the hue, an 8-bit H of HSV, around the colour circle.

    Equal to `torchvision.transforms.functional.adjust_hue` on PIL images: no turn is not quite the
    image itself, as 8 bits of HSV are fewer colours than 8 bits of RGB.

    Args:
        turn: share of the circle, in [-0.5, 0.5].

    >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> hue(turn=1 / 3)(red, torch.arange(1), 0).flatten().tolist()
    [0, 255, 0]
    """
    if not -0.5 <= turn <= 0.5:
        raise InputError(f"hue: turn must be in [-0.5, 0.5], found {turn}")
    steps = np.arange(256) + int(turn * 255)
    table = [*(steps % 256).tolist(), *range(256), *range(256)]

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        def turned(picture: Image.Image) -> Image.Image:
            return picture.convert("HSV").point(table).convert("RGB")

        return on_pictures(images, turned)

    return apply


def gamma(*, exponent: float) -> ShiftFunction:
    """Raise values in [0, 1] to a power: above 1 darker, below 1 brighter.

    Equal to `torchvision.transforms.functional.adjust_gamma` on PIL images.

    Args:
        exponent: > 0.

    >>> grey = torch.full((1, 3, 1, 1), 128, dtype=torch.uint8)
    >>> gamma(exponent=2)(grey, torch.arange(1), 0).flatten().tolist()
    [64, 64, 64]
    """
    if exponent <= 0:
        raise InputError(f"gamma: exponent must be > 0, found {exponent}")
    # Just below 256, as in torchvision: all 256 outputs are as wide, and 1 is still 255.
    values = (256 - 1e-3) * (np.arange(256) / 255) ** exponent
    table = torch.from_numpy(values.astype(np.uint8))

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        return table.to(images.device)[images.int()]

    return apply


def jpeg(*, quality: float) -> ShiftFunction:
    """Encode as JPEG and decode again, as `imagenet_c/jpeg_compression` at any quality.

    Args:
        quality: libjpeg's, a whole number from 1 to 100; 100 is not quite lossless.

    >>> grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    >>> jpeg(quality=50)(grey, torch.arange(1), 0).unique().tolist()
    [128]
    """
    if quality != int(quality) or not 1 <= quality <= 100:
        raise InputError(f"jpeg: quality must be a whole number from 1 to 100, found {quality}")

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        pixels = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(jpeg_compression(pixels, quality=quality)).to(images.device)

    return apply
