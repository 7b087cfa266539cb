"""Changes of colour and sharpness of whole batches, with a parameter for each image.

Every function takes float images `[B, 3, H, W]` in [0, 1] and float parameters `[B]` on the same
device, returns images of the same shape in [0, 1], and equals torchvision's on each image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

LUMA = (0.2989, 0.587, 0.114)  # torchvision's rounding of ITU-R BT.601
KERNEL_SHARE = 10  # a blur's kernel is about a tenth of the image (Chen et al. 2020, appendix A)
SOLARIZE_FROM = 0.5
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply, and clip.

    >>> brightness(torch.full((1, 3, 8, 8), 0.5), torch.tensor([1.5])).max()
    tensor(0.7500)
    """
    return (images * _wide(factor)).clamp_(0, 1)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move away from the mean grey value of the image by a factor, and clip."""
    return _blend(images, grey(images).mean((2, 3), keepdim=True), factor)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Move away from the grey value of each pixel by a factor, and clip."""
    return _blend(images, grey(images), factor)


def hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Turn the hue by a share of the whole circle, leaving HSV's saturation and value.

    >>> red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    >>> hue(red, torch.tensor([1 / 3])).flatten().tolist()
    [0.0, 1.0, 0.0]
    """
    value, which = images.max(1)
    least = images.amin(1)
    chroma = value - least
    red, green, blue = images.unbind(1)
    across = torch.stack([green - blue, blue - red, red - green], 1).gather(1, which[:, None])[:, 0]
    sextant = across / chroma.clamp(min=torch.finfo(images.dtype).tiny) + 2 * which
    sextant = sextant + 6 * turn.reshape(-1, 1, 1)
    # In sextants of the circle: a channel has the value up to one away from its own hue, the least
    # from two away, and is linear between.
    own = torch.tensor([0.0, 2.0, 4.0], device=images.device, dtype=images.dtype)
    away = ((sextant[:, None] - own.reshape(1, 3, 1, 1) + 3) % 6 - 3).abs()
    return (least[:, None] + chroma[:, None] * (2 - away).clamp_(0, 1)).clamp_(0, 1)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Give the grey value of each pixel, `[B, 1, H, W]`."""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights.reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of `sigma` pixels, cut off at a tenth of the image, at least 3 pixels.

    The kernel is odd, and borders are reflected.

    >>> blur(torch.ones(1, 3, 28, 28), torch.tensor([2.0])).mean().round(decimals=4)
    tensor(1.)
    """
    for dimension in (2, 3):
        images = _blur_along(images, dimension, sigma)
    return images.clamp(0, 1)


def blur_radius(size: int) -> int:
    """Give how many pixels on either side of the middle a blur's kernel has.

    >>> [2 * blur_radius(size) + 1 for size in (28, 32, 224)]
    [3, 3, 23]
    """
    return max(1, size // KERNEL_SHARE // 2)


def solarize(images: torch.Tensor) -> torch.Tensor:
    """Invert what is 0.5 or brighter."""
    return torch.where(images >= SOLARIZE_FROM, 1 - images, images)


def _blur_along(images: torch.Tensor, dimension: int, sigma: torch.Tensor) -> torch.Tensor:
    size = images.shape[dimension]
    radius = blur_radius(size)
    taps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.softmax(-0.5 * (taps / sigma[:, None]).square(), 1)
    pad = (radius, radius, 0, 0) if dimension == 3 else (0, 0, radius, radius)
    padded = F.pad(images, pad, mode="reflect")
    # A sum over few taps: a convolution with a kernel of its own for each image is slower.
    parts = (
        padded.narrow(dimension, tap, size) * _wide(weight) for tap, weight in enumerate(weights.T)
    )
    return torch.stack(list(parts)).sum(0)


def _blend(images: torch.Tensor, towards: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(towards.expand_as(images), images, _wide(factor)).clamp_(0, 1)


def _wide(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.reshape(-1, 1, 1, 1)
