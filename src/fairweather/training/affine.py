"""Affine changes of whole batches of 8-bit images, with a matrix for each image, as in Pillow.

Images are uint8 `[B, 3, H, W]`; magnitudes are `[B]`, of any real dtype and best on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Lookup = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Bits behind the point of a source coordinate. Pillow rounds those of its nearest neighbours to
# 16; for linear interpolation it computes in float64, which not every device has.
_NEAREST_BITS, _LINEAR_BITS = 16, 32


def nearest(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Look up the nearest source pixel of every pixel, black outside the image.

    Equal to the last bit to `PIL.Image.transform(AFFINE, NEAREST)`.

    Args:
        images: uint8 `[B, 3, H, W]`.
        matrices: float64 `[B, 6]` on the CPU, Pillow's `(a, b, c, d, e, f)`: the pixel whose centre
            is (x, y) comes from (a x + b y + c, d x + e y + f), in pixels from the top left corner.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> one_to_the_right = torch.tensor([[1, 0, -1, 0, 1, 0]], dtype=torch.float64)
    >>> nearest(image, one_to_the_right)[0, 0].tolist()
    [[0, 0], [0, 2]]
    """
    height, width = images.shape[2:]
    column, row = _sources(images, matrices, _NEAREST_BITS)
    column, row = column >> _NEAREST_BITS, row >> _NEAREST_BITS
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    picked = _pick(images, column.clamp_(0, width - 1), row.clamp_(0, height - 1))
    return picked * inside[:, None]


def bilinear(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between source pixels and drop the fraction, black outside the image.

    Equal to `PIL.Image.transform(AFFINE, BILINEAR)`, but that values are interpolated in float32:
    about one in 100,000 falls on the other side of a whole number, and is off by one.

    Args:
        images: uint8 `[B, 3, H, W]`.
        matrices: as for `nearest`.

    >>> image = torch.tensor([0, 100, 200] * 3, dtype=torch.uint8).reshape(1, 3, 1, 3)
    >>> half_to_the_right = torch.tensor([[1, 0, -0.5, 0, 1, 0]], dtype=torch.float64)
    >>> bilinear(image, half_to_the_right)[0, 0].tolist()
    [[0, 50, 150]]
    """
    height, width = images.shape[2:]
    one = 1 << _LINEAR_BITS
    column, row = _sources(images, matrices, _LINEAR_BITS)
    inside = (column >= 0) & (column < width * one) & (row >= 0) & (row < height * one)
    left, right, across = _neighbours(column, width)
    upper, lower, down = _neighbours(row, height)
    values = images.float()
    top = _between(_pick(values, left, upper), _pick(values, right, upper), across)
    bottom = _between(_pick(values, left, lower), _pick(values, right, lower), across)
    return _between(top, bottom, down).mul_(inside[:, None]).to(torch.uint8)


def rotate(images: torch.Tensor, degrees: torch.Tensor, lookup: Lookup = nearest) -> torch.Tensor:
    """Turn counter-clockwise about the centre; what comes in is black.

    Equal to `PIL.Image.rotate`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> rotate(image, torch.tensor([90]))[0, 0].tolist()
    [[1, 3], [0, 2]]
    """
    height, width = images.shape[2:]
    angle = -degrees.cpu().double() * (math.pi / 180)
    # Rounded as Pillow does it, so that quarter turns are exact.
    cos, sin = angle.cos().round(decimals=15), angle.sin().round(decimals=15)
    right = width / 2 - cos * (width / 2) - sin * (height / 2)
    down = height / 2 + sin * (width / 2) - cos * (height / 2)
    return lookup(images, torch.stack((cos, sin, right, -sin, cos, down), 1))


def shear_x(images: torch.Tensor, slope: torch.Tensor, lookup: Lookup = nearest) -> torch.Tensor:
    """Move every row to the left by `slope` times its distance from the upper edge.

    Equal to `PIL.Image.transform(AFFINE, (1, slope, 0, 0, 1, 0))`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> shear_x(image, torch.tensor([0.5]))[0, 0].tolist()
    [[0, 1], [3, 0]]
    """
    return lookup(images, _matrices(slope, 1))


def shear_y(images: torch.Tensor, slope: torch.Tensor, lookup: Lookup = nearest) -> torch.Tensor:
    """Move every column upwards by `slope` times its distance from the left edge.

    Equal to `PIL.Image.transform(AFFINE, (1, 0, 0, slope, 1, 0))`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> shear_y(image, torch.tensor([0.5]))[0, 0].tolist()
    [[0, 3], [2, 0]]
    """
    return lookup(images, _matrices(slope, 3))


def translate_x(
    images: torch.Tensor, pixels: torch.Tensor, lookup: Lookup = nearest
) -> torch.Tensor:
    """Move to the right by so many pixels, to the left by a negative number; black comes in.

    Equal to `PIL.Image.transform(AFFINE, (1, 0, -pixels, 0, 1, 0))`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> translate_x(image, torch.tensor([-1]))[0, 0].tolist()
    [[1, 0], [3, 0]]
    """
    return lookup(images, _matrices(-pixels, 2))


def translate_y(
    images: torch.Tensor, pixels: torch.Tensor, lookup: Lookup = nearest
) -> torch.Tensor:
    """Move down by so many pixels, up by a negative number; black comes in.

    Equal to `PIL.Image.transform(AFFINE, (1, 0, 0, 0, 1, -pixels))`.

    >>> image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    >>> translate_y(image, torch.tensor([1]))[0, 0].tolist()
    [[0, 0], [0, 1]]
    """
    return lookup(images, _matrices(-pixels, 5))


def _sources(
    images: torch.Tensor, matrices: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each pixel comes from: columns and rows int64 `[B, H, W]` with `bits` fraction bits."""
    height, width = images.shape[2:]
    of_corner = matrices.clone()
    of_corner[:, 2::3] += 0.5 * (matrices[:, 0::3] + matrices[:, 1::3])
    fixed = (of_corner * 2**bits + 0.5).floor().long().to(images.device)
    a, b, c, d, e, f = fixed.reshape(-1, 6, 1, 1).unbind(1)
    x = torch.arange(width, device=images.device)
    y = torch.arange(height, device=images.device)[:, None]
    return (a * x + c) + b * y, (d * x + f) + e * y


def _neighbours(place: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two pixels beside a place, and how far it is from the first to the second, in [0, 1]."""
    place = place - (1 << (_LINEAR_BITS - 1))
    first = place >> _LINEAR_BITS
    share = (place & ((1 << _LINEAR_BITS) - 1)).float().mul_(2.0**-_LINEAR_BITS)
    return first.clamp(0, size - 1), (first + 1).clamp_(0, size - 1), share[:, None]


def _pick(images: torch.Tensor, column: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    source = (row * images.shape[3] + column).flatten(1)[:, None]
    flat = images.flatten(2)
    return flat.gather(2, source.expand_as(flat)).reshape(images.shape)


def _between(first: torch.Tensor, second: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    # As Pillow writes it; `torch.lerp` rounds otherwise. In place, since memory is what takes time.
    return second.sub_(first).mul_(share).add_(first)


def _matrices(values: torch.Tensor, column: int) -> torch.Tensor:
    """Matrices that change nothing but for one of their six numbers, float64 `[B, 6]`."""
    matrices = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(values), 1)
    matrices[:, column] = values.cpu().double()
    return matrices
