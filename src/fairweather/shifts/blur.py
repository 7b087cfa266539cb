"""Gaussian blur, the operation of torchvision."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fairweather.errors import InputError
from fairweather.types import ShiftFunction

MOST_SIGMA = 1000  # pixels; a kernel of 8,001 is beyond any image that a classifier takes


def gaussian_blur(*, sigma: float, kernel_size: int | None = None) -> ShiftFunction:
    """Convolve with a Gaussian, reflecting at the borders and rounding to 8 bits.

    Equal to `torchvision.transforms.functional.gaussian_blur` on PIL images to the last bit.

    Args:
        sigma: standard deviation in pixels, > 0.
        kernel_size: odd side of the square kernel; by default `2 * ceil(4 * sigma) + 1`, which
            cuts nothing off that 8 bits could show. A smaller kernel blurs less than `sigma` says:
            see `effective_sigma`.

    >>> images = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    >>> images[:, :, 2, 2] = 255
    >>> gaussian_blur(sigma=0.5)(images, torch.tensor([0]), 0)[0, 0, 2].tolist()
    [0, 21, 158, 21, 0]
    """
    if sigma <= 0:
        raise InputError(f"gaussian_blur: sigma must be > 0, found {sigma}")
    if sigma > MOST_SIGMA:
        raise InputError(f"gaussian_blur: sigma must be <= {MOST_SIGMA}, found {sigma}")
    size = 2 * math.ceil(4 * sigma) + 1 if kernel_size is None else kernel_size
    if size != int(size) or size < 1 or size % 2 == 0:
        raise InputError(f"gaussian_blur: kernel_size must be odd and >= 1, found {size}")
    profile = _profile(sigma, int(size))
    kernel = torch.mm(profile[:, None], profile[None, :])

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        n, channels, height, width = images.shape
        reach = kernel.shape[0] // 2
        if min(height, width) <= reach:
            raise InputError(
                f"gaussian_blur: a kernel of {kernel.shape[0]} needs images of more than {reach} "
                f"pixels a side, found {height}x{width}"
            )
        # One image of many channels instead of many images of three: the same sums in the same
        # order, but oneDNN's depthwise convolution fills its vectors (benchmarks/README.md).
        planes = images.reshape(1, n * channels, height, width).float()
        padded = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
        weight = kernel.to(images.device).expand(n * channels, 1, *kernel.shape)
        blurred = F.conv2d(padded, weight, groups=n * channels)
        return blurred.round_().to(torch.uint8).reshape(images.shape)

    return apply


def effective_sigma(sigma: float, kernel_size: int) -> float:
    """Give the standard deviation, in pixels, of the Gaussian that is left inside the kernel.

    >>> round(effective_sigma(0.9, kernel_size=5), 2), round(effective_sigma(3.0, kernel_size=5), 2)
    (0.88, 1.36)
    """
    profile = _profile(sigma, kernel_size).double()
    offsets = torch.arange(kernel_size, dtype=torch.float64) - kernel_size // 2
    return math.sqrt(float((profile * offsets**2).sum()))


def _profile(sigma: float, size: int) -> torch.Tensor:
    """One row of the kernel, float32 `[size]`, in torchvision's order of operations."""
    half = (size - 1) * 0.5
    weights = torch.exp(-0.5 * (torch.linspace(-half, half, size) / sigma) ** 2)
    return weights / weights.sum()
