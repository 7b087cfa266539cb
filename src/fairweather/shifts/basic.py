"""Single operations of torchvision and Pillow: brightness, blur, hue, gamma, JPEG, and geometry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c.digital import jpeg_compression
from fairweather.shifts.ranges import POSITIVE, JpegQuality, NotNegative, Positive, Range, between
from fairweather.types.measurement import ShiftFunction

MOST_SIGMA = 1000  # pixels
MOST_KERNEL = 8 * MOST_SIGMA + 1  # pixels, of the largest sigma
_SIGMA = POSITIVE, Range(f"<= {MOST_SIGMA}", lambda value: value <= MOST_SIGMA)
_KERNEL = (
    Range("odd and >= 1", lambda value: value >= 1 and value % 2 == 1),
    Range(f"<= {MOST_KERNEL}", lambda value: value <= MOST_KERNEL),
)
_INSIDE = Range("between -1 and 1", lambda value: -1 < value < 1)


def brightness_factor(*, factor: NotNegative) -> ShiftFunction:
    """Multiply every channel by `factor`, clip to [0, 255] and drop the fraction.

    Equal to `torchvision.transforms.functional.adjust_brightness` on PIL images to the last bit:
    PIL multiplies in 32-bit floats and truncates. This is not ImageNet-C's brightness, which adds
    to V in HSV.

    Args:
        factor: 0 is black, 1 changes nothing, 2 is twice as bright; any number >= 0.

    >>> images = torch.tensor([0, 101, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> brightness_factor(factor=1.2)(images, torch.tensor([0]), 0).flatten().tolist()
    [0, 121, 255]
    """
    values = torch.arange(256, dtype=torch.float32)
    table = (values * torch.tensor(factor, dtype=torch.float32)).clamp_(0, 255).to(torch.uint8)
    return _by_table(table.numpy())


def gaussian_blur(
    *, sigma: Annotated[float, *_SIGMA], kernel_size: Annotated[int, *_KERNEL] | None = None
) -> ShiftFunction:
    """Convolve with a Gaussian, reflecting at the borders and rounding to 8 bits.

    Equal to `torchvision.transforms.functional.gaussian_blur` on PIL images to the last bit.

    Args:
        sigma: standard deviation in pixels, > 0.
        kernel_size: odd side of the square kernel in pixels; by default `2 * ceil(4 * sigma) + 1`,
            so that what is cut off is too small for 8 bits. A smaller kernel blurs less than
            `sigma` does; see `effective_sigma`.

    >>> images = torch.zeros(1, 3, 5, 5, dtype=torch.uint8)
    >>> images[:, :, 2, 2] = 255
    >>> gaussian_blur(sigma=0.5)(images, torch.tensor([0]), 0)[0, 0, 2].tolist()
    [0, 21, 158, 21, 0]
    """
    size = 2 * math.ceil(4 * sigma) + 1 if kernel_size is None else kernel_size
    profile = _profile(sigma, int(size))

    def blur(images: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = images.shape
        reach = len(profile) // 2
        if min(height, width) <= reach:
            raise InputError(
                f"gaussian_blur: a kernel of {len(profile)} needs images of more than {reach} "
                f"pixels per side, found {height}x{width}"
            )
        # Made here, since the largest ones need much memory.
        kernel = torch.mm(profile[:, None], profile[None, :])
        # One image with many channels instead of many images with three. The sums and their order
        # are the same, but oneDNN's depthwise convolution is faster (benchmarks/notes/speed.md).
        planes = images.reshape(1, n * channels, height, width).float()
        padded = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
        weight = kernel.to(images.device).expand(n * channels, 1, *kernel.shape)
        blurred = F.conv2d(padded, weight, groups=n * channels)
        return blurred.round_().to(torch.uint8).reshape(images.shape)

    return _without_draws(blur)


def effective_sigma(sigma: float, kernel_size: int) -> float:
    """Return the standard deviation, in pixels, of the part of the Gaussian inside the kernel.

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


def hue(*, turn: Annotated[float, between(-0.5, 0.5)]) -> ShiftFunction:
    """Rotate the hue, an 8-bit H of HSV, around the colour circle.

    Equal to `torchvision.transforms.functional.adjust_hue` on PIL images. Even a turn of 0 changes
    the image slightly, because 8-bit HSV has fewer colours than 8-bit RGB.

    Args:
        turn: share of the circle, in [-0.5, 0.5].

    >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> hue(turn=1 / 3)(red, torch.arange(1), 0).flatten().tolist()
    [0, 255, 0]
    """
    steps = np.arange(256) + int(turn * 255)
    table = [*(steps % 256).tolist(), *range(256), *range(256)]
    return _by_pillow(lambda picture: picture.convert("HSV").point(table).convert("RGB"))


def gamma(*, exponent: Positive) -> ShiftFunction:
    """Raise values in [0, 1] to a power: above 1 makes images darker, below 1 brighter.

    Equal to `torchvision.transforms.functional.adjust_gamma` on PIL images.

    Args:
        exponent: > 0.

    >>> grey = torch.full((1, 3, 1, 1), 128, dtype=torch.uint8)
    >>> gamma(exponent=2)(grey, torch.arange(1), 0).flatten().tolist()
    [64, 64, 64]
    """
    # Just below 256, as in torchvision: all 256 outputs have equal width, and 1 becomes 255.
    values = (256 - 1e-3) * (np.arange(256) / 255) ** exponent
    return _by_table(values.astype(np.uint8))


def jpeg(*, quality: JpegQuality) -> ShiftFunction:
    """Encode as JPEG and decode again, as `imagenet_c/jpeg_compression` but at any quality.

    Args:
        quality: libjpeg's quality, a whole number from 1 to 100; 100 is not lossless.

    >>> grey = torch.full((1, 3, 8, 8), 128, dtype=torch.uint8)
    >>> jpeg(quality=50)(grey, torch.arange(1), 0).unique().tolist()
    [128]
    """

    def compress(images: torch.Tensor) -> torch.Tensor:
        pixels = np.ascontiguousarray(images.cpu().numpy())
        return torch.from_numpy(jpeg_compression(pixels, quality=quality)).to(images.device)

    return _without_draws(compress)


def rotation(*, degrees: float) -> ShiftFunction:
    """Rotate counter-clockwise around the centre, with linear interpolation and black corners.

    Equal to `torchvision.transforms.functional.rotate(BILINEAR)` on PIL images.

    Args:
        degrees: any number.

    >>> images = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    >>> rotation(degrees=45)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [0, 0, 9, 9, 9, 9, 0, 0]
    """
    return _by_pillow(lambda picture: picture.rotate(degrees, Image.Resampling.BILINEAR))


def translate(*, fraction: Annotated[float, _INSIDE]) -> ShiftFunction:
    """Move to the right by a share of the width, in whole pixels; uncovered pixels are black.

    Equal to `torchvision.transforms.functional.affine(translate=[pixels, 0])`.

    Args:
        fraction: in (-1, 1); negative moves to the left.

    >>> images = torch.full((1, 3, 8, 8), 9, dtype=torch.uint8)
    >>> translate(fraction=0.25)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [0, 0, 9, 9, 9, 9, 9, 9]
    """

    def move(images: torch.Tensor) -> torch.Tensor:
        width = images.shape[3]
        pixels = round(fraction * width)
        moved = torch.zeros_like(images)
        moved[..., max(0, pixels) : width + min(0, pixels)] = images[
            ..., max(0, -pixels) : width - max(0, pixels)
        ]
        return moved

    return _without_draws(move)


def downscale(*, factor: Annotated[float, between(1)]) -> ShiftFunction:
    """Shrink by a factor and enlarge again, both with Pillow's linear filter.

    Args:
        factor: >= 1; the smaller sides are rounded to whole pixels, at least one.

    >>> images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> images[..., 4:] = 200
    >>> downscale(factor=4)(images, torch.arange(1), 0)[0, 0, 0].tolist()
    [29, 29, 47, 82, 118, 153, 171, 171]
    """

    def coarser(picture: Image.Image) -> Image.Image:
        small = tuple(max(1, round(side / factor)) for side in picture.size)
        linear = Image.Resampling.BILINEAR
        return picture.resize((small[0], small[1]), linear).resize(picture.size, linear)

    return _by_pillow(coarser)


def _without_draws(change: Callable[[torch.Tensor], torch.Tensor]) -> ShiftFunction:
    return lambda images, keys, seed: change(images)


def _by_table(table: npt.NDArray[np.uint8]) -> ShiftFunction:
    """Make a shift that replaces each 8-bit value by an entry of `[256]`, on the CPU."""

    def apply(images: torch.Tensor) -> torch.Tensor:
        if images.numel() == 0:
            return images.clone()
        pixels = np.ascontiguousarray(images.cpu().numpy())
        changed = cv2.LUT(pixels.reshape(-1, pixels.shape[-1]), table)
        return torch.from_numpy(np.asarray(changed, np.uint8).reshape(pixels.shape)).to(
            images.device
        )

    return _without_draws(apply)


def _by_pillow(change: Callable[[Image.Image], Image.Image]) -> ShiftFunction:
    """Make a shift that changes uint8 `[B, 3, H, W]` image by image; the size must not change.

    >>> images = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)
    >>> add_three = _by_pillow(lambda picture: picture.point(lambda value: value + 3))
    >>> add_three(images, torch.arange(2), 0).unique()
    tensor([3], dtype=torch.uint8)
    """

    def apply(images: torch.Tensor) -> torch.Tensor:
        rows = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
        changed = np.empty_like(rows)
        for row, out in zip(rows, changed, strict=True):
            out[:] = np.asarray(change(Image.fromarray(row)))
        return torch.from_numpy(changed).permute(0, 3, 1, 2).contiguous().to(images.device)

    return _without_draws(apply)
