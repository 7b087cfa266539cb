"""Blurs and colours of MedMNIST-C, with lengths that scale with the image.

The package's lengths are meant for images of 224 pixels; see `corruptions` for the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Annotated

import cv2
import numpy as np
import torch

from fairweather.shifts import basic
from fairweather.shifts.corruption import (
    Floats,
    Generators,
    Pixels,
    change_each_image,
    corrupt_each,
    separable_filter,
)
from fairweather.shifts.imagenet_c import blur as imagenet_c
from fairweather.shifts.ranges import NotNegative, Positive, Range
from fairweather.types.measurement import ShiftFunction

CANVAS = 224


def pixel_scale(height: int, width: int) -> float:
    """Return the length, in pixels of this image, of one pixel of a 224 px image.

    >>> pixel_scale(28, 40)
    0.125
    """
    return min(height, width) / CANVAS


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width of a canvas with the image's aspect ratio and a smaller side of 224.

    >>> canvas_size(28, 40)
    (224, 320)
    """
    scale = pixel_scale(height, width)
    return round(height / scale), round(width / scale)


def fit_layer(layer: Floats, height: int, width: int) -> Floats:
    """Resize a float32 canvas `[h, w]` or `[h, w, 3]` to an image's size; shrink by area means.

    >>> fit_layer(np.eye(2, dtype=np.float32), 1, 1)
    array([[0.5]], dtype=float32)
    """
    shrinks = height < layer.shape[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, (width, height), interpolation=interpolation), np.float32)


def scaling_matrix(taps: int, scale: float) -> Floats:
    """Return the matrix that scales an odd number of taps around a centre, `[odd, taps]`.

    A tap k pixels from the centre moves to k * scale, and its weight is shared linearly between the
    pixels there. With a scale above 1, pixels between taps are interpolated. The sum of the weights
    does not change.

    >>> scaling_matrix(3, 1.0)
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> scaling_matrix(3, 0.25)
    array([[0.25, 0.  , 0.  ],
           [0.75, 1.  , 0.75],
           [0.  , 0.  , 0.25]], dtype=float32)
    """
    reach = taps // 2
    wide = max(1.0, scale)
    far = int(np.ceil(reach * scale + wide)) - 1
    gaps = np.arange(-far, far + 1)[:, None] - np.arange(-reach, reach + 1) * scale
    shares = np.maximum(0, 1 - np.abs(gaps) / wide)
    return (shares / shares.sum(axis=0)).astype(np.float32)


_ODD = Range("an odd whole number >= 3", lambda value: value >= 3 and value % 2 == 1)


def defocus_blur(images: Pixels, *, radius: Positive, alias_blur: Positive) -> Pixels:
    """Convolve with ImageNet-C's disk; borders are reflected.

    Args:
        images: uint8 `[B, 3, H, W]`.
        radius, alias_blur: pixels of a 224 px image, > 0; see `imagenet_c.blur.defocus_blur`.

    >>> images = np.zeros((1, 3, 28, 28), np.uint8)
    >>> images[..., 14, 14] = 255
    >>> defocus_blur(images, radius=7, alias_blur=0.3)[0, 0, 14, 12:17].tolist()
    [0, 31, 99, 31, 0]
    """
    kernel = _scale_kernel(imagenet_c.disk(radius, alias_blur), pixel_scale(*images.shape[2:]))
    return imagenet_c.convolve(images, kernel)


def motion_blur(
    images: Pixels, generators: Generators, *, radius: Positive, sigma: Positive
) -> Pixels:
    """Smear to one side along a line with a random angle of -45 to 45 degrees; edges are repeated.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the angle.
        radius, sigma: pixels of a 224 px image, > 0; see `imagenet_c.blur.motion_blur`.
    """
    scale = pixel_scale(*images.shape[2:])
    if scale == 1:
        return imagenet_c.motion_blur(images, generators, radius=radius, sigma=sigma)
    reach = 2 * math.ceil(radius)
    point = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    point[reach, reach] = 1

    def smear(image: Pixels) -> Floats:
        angle = next(generators).uniform(-45, 45)
        # Filtering a single bright point gives the kernel, rotated by 180 degrees.
        line = imagenet_c.motion_filter(point, radius, sigma, angle)[::-1, ::-1]
        kernel = _scale_kernel(line, scale)
        image = image.astype(np.float32)
        blurred = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(blurred, np.float32)

    return change_each_image(images, smear)


def gaussian_blur(images: Pixels, *, kernel_size: Annotated[float, _ODD]) -> Pixels:
    """Convolve with a Gaussian of `kernel_size` taps, with reflected borders, and round.

    Its standard deviation is torchvision's default, 0.15 kernel_size + 0.35. At 224 px the values
    are within 1/255 of `torchvision.transforms.functional.gaussian_blur` on PIL images.

    Args:
        images: uint8 `[B, 3, H, W]`.
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
    line = scaling_matrix(size, pixel_scale(*images.shape[2:])) @ weights
    # `change_each_image` drops the fraction; adding half a grey level turns this into rounding.
    return change_each_image(
        images,
        lambda image: separable_filter(image, line, cv2.BORDER_REFLECT_101) + np.float32(0.5),
    )


def _scale_kernel(kernel: Floats, scale: float) -> Floats:
    """Scale a square kernel."""
    ways = scaling_matrix(len(kernel), scale)
    return np.ascontiguousarray(ways @ kernel @ ways.T)


def contrast(images: Pixels, *, factor: NotNegative) -> Pixels:
    """Multiply every value's distance to the image's mean grey by `factor`, and drop the fraction.

    Equal to `PIL.ImageEnhance.Contrast` to the last bit: one mean grey for all channels, rounded to
    a whole number. ImageNet-C's contrast is different.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: >= 0; 1 changes nothing.

    >>> images = np.array([0, 100], np.uint8).reshape(1, 1, 1, 2).repeat(3, axis=1)
    >>> contrast(images, factor=0.5)[0, 0].ravel().tolist()
    [25, 75]
    """
    # Sums of whole numbers are the same in any order and for any batch.
    means = luminance(images).sum(axis=(1, 2), dtype=np.int64) / images[0, 0].size
    greys = np.floor(means + 0.5).astype(np.float32)

    def stretch(image: Pixels, grey: np.float32) -> Floats:
        return grey + np.float32(factor) * (image.astype(np.float32) - grey)

    return corrupt_each(images, greys, stretch)


def to_grey(images: Pixels) -> Pixels:
    """Set all three channels to the luminance.

    >>> to_grey(np.array([200, 100, 150], dtype=np.uint8).reshape(1, 3, 1, 1)).ravel().tolist()
    [136, 136, 136]
    """
    return np.ascontiguousarray(np.broadcast_to(luminance(images)[:, None], images.shape))


def luminance(images: Pixels) -> Pixels:
    """Convert `[B, 3, H, W]` to the luminance `[B, H, W]`, as Pillow converts RGB to L.

    Source: Pillow, libImaging/Convert.c, L24 (ITU-R 601-2 in 16-bit fixed point).
    """
    red, green, blue = (images[:, channel].astype(np.uint32) for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16).astype(np.uint8)


def _as_corruption(build: Callable[..., ShiftFunction]) -> Callable[..., Pixels]:
    """Make a corruption of a shift without random numbers; it has the shift's parameters."""

    @wraps(build)
    def corrupt(images: Pixels, **parameters: float) -> Pixels:
        shift = build(**parameters)
        return shift(torch.from_numpy(images), torch.arange(len(images)), 0).numpy()

    return corrupt


brightness_factor = _as_corruption(basic.brightness_factor)
gamma = _as_corruption(basic.gamma)
