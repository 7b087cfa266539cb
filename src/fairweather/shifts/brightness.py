"""Brightness as a factor on RGB, the operation of PIL and torchvision."""

from __future__ import annotations

import torch

from fairweather.errors import InputError
from fairweather.types import ShiftFunction


def brightness_factor(*, factor: float) -> ShiftFunction:
    """Multiply every channel by `factor`, clip to [0, 255] and drop the fraction.

    Equal to `torchvision.transforms.functional.adjust_brightness` on PIL images to the last bit:
    PIL multiplies in 32-bit floats and truncates. Not ImageNet-C's brightness, which adds to V in
    HSV.

    Args:
        factor: 0 is black, 1 changes nothing, 2 is twice as bright; any number >= 0.

    >>> images = torch.tensor([0, 101, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> brightness_factor(factor=1.2)(images, torch.tensor([0]), 0).flatten().tolist()
    [0, 121, 255]
    """
    if factor < 0:
        raise InputError(f"brightness_factor: factor must be >= 0, found {factor}")
    values = torch.arange(256, dtype=torch.float32)
    table = (values * torch.tensor(factor, dtype=torch.float32)).clamp_(0, 255).to(torch.uint8)

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        return table.to(images.device)[images.int()]

    return apply
