"""Blurs with lengths that scale with the image: defocus, motion, and torchvision's Gaussian.

Every kernel is the published one, scaled to the image by `scaling.spread`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from fairweather.ranges import Positive, Range
from fairweather.shifts.imagenet_c import blur as imagenet_c
from fairweather.shifts.imagenet_c.imagewise import Floats, each
from fairweather.shifts.medmnist_c.scaling import scale_of, spread

Pixels = npt.NDArray[np.uint8]
Generators = Iterator[np.random.Generator]
_ODD = Range("an odd whole number >= 3", lambda value: value >= 3 and value % 2 == 1)


def defocus_blur(images: Pixels, *, radius: Positive, alias_blur: Positive) -> Pixels:
    """Convolve with ImageNet-C's disk; borders are reflected.

    Args:
        images: see the package.
        radius, alias_blur: pixels of a 224 px image, > 0; see `imagenet_c.blur.defocus_blur`.

    >>> images = np.zeros((1, 3, 28, 28), np.uint8)
    >>> images[..., 14, 14] = 255
    >>> defocus_blur(images, radius=7, alias_blur=0.3)[0, 0, 14, 12:17].tolist()
    [0, 31, 99, 31, 0]
    """
    kernel = _scaled(imagenet_c.disk(radius, alias_blur), scale_of(*images.shape[2:]))
    return each(images, lambda image: np.asarray(cv2.filter2D(image, -1, kernel), np.float32))


def motion_blur(
    images: Pixels, generators: Generators, *, radius: Positive, sigma: Positive
) -> Pixels:
    """Smear to one side along a line with a random angle of -45 to 45 degrees; edges are repeated.

    Args:
        images: see the package.
        generators: see the package; each gives the angle.
        radius, sigma: pixels of a 224 px image, > 0; see `imagenet_c.blur.motion_blur`.
    """
    scale = scale_of(*images.shape[2:])
    if scale == 1:
        return imagenet_c.motion_blur(images, generators, radius=radius, sigma=sigma)
    point = _point(2 * math.ceil(radius))

    def smear(image: Floats) -> Floats:
        angle = next(generators).uniform(-45, 45)
        # Filtering a single bright point gives the kernel, rotated by 180 degrees.
        line = imagenet_c.motion_filter(point, radius, sigma, angle)[::-1, ::-1]
        kernel = _scaled(line, scale)
        blurred = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(blurred, np.float32)

    return each(images, smear)


def gaussian_blur(images: Pixels, *, kernel_size: Annotated[float, _ODD]) -> Pixels:
    """Convolve with a Gaussian of `kernel_size` taps, with reflected borders, and round.

    Its standard deviation is torchvision's default, 0.15 kernel_size + 0.35. At 224 px the values
    are within 1/255 of `torchvision.transforms.functional.gaussian_blur` on PIL images.

    Args:
        images: see the package.
        kernel_size: pixels of a 224 px image, odd, >= 3.

    >>> images = np.zeros((1, 3, 28, 28), np.uint8)
    >>> images[..., 14, 14] = 255
    >>> gaussian_blur(images, kernel_size=25)[0, 0, 14, 12:17].tolist()
    [1, 30, 93, 30, 1]
    """
    size = int(kernel_size)
    places = np.arange(size) - size // 2
    weights = np.exp(-((places / (0.15 * size + 0.35)) ** 2) / 2)
    weights = (weights / weights.sum()).astype(np.float32)
    line = spread(size, scale_of(*images.shape[2:])) @ weights
    # `each` drops the fraction; adding half a grey level turns this into rounding.
    return each(images, lambda image: cv2.sepFilter2D(image, -1, line, line) + np.float32(0.5))


def _point(reach: int) -> Floats:
    point = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    point[reach, reach] = 1
    return point


def _scaled(kernel: Floats, scale: float) -> Floats:
    """Scale a square kernel."""
    ways = spread(len(kernel), scale)
    return np.ascontiguousarray(ways @ kernel @ ways.T)
