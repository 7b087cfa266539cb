"""Brightness and contrast as in Pillow, gamma, saturation, and conversion to grey."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from fairweather.ranges import NotNegative, Positive, Signed
from fairweather.shifts.basic import brightness_factor as brightness_shift
from fairweather.shifts.basic import gamma as gamma_shift
from fairweather.shifts.imagenet_c import digital
from fairweather.types import ShiftFunction

Pixels = npt.NDArray[np.uint8]


def brightness_factor(images: Pixels, *, factor: NotNegative) -> Pixels:
    """Multiply by `factor` >= 0 and drop the fraction: the shift `brightness_factor`.

    >>> brightness_factor(np.full((1, 3, 1, 1), 101, np.uint8), factor=1.2).ravel().tolist()
    [121, 121, 121]
    """
    return _shifted(images, brightness_shift(factor=factor))


def gamma(images: Pixels, *, exponent: Positive) -> Pixels:
    """Raise values in [0, 1] to a power > 0: the shift `gamma`.

    >>> gamma(np.full((1, 3, 1, 1), 128, np.uint8), exponent=2).ravel().tolist()
    [64, 64, 64]
    """
    return _shifted(images, gamma_shift(exponent=exponent))


def saturate(images: Pixels, *, offset: Signed) -> Pixels:
    """Add `offset`, in [-1, 1], to S in HSV; grey becomes reddish, as in medmnistc.

    >>> images = np.array([200, 100, 150], dtype=np.uint8).reshape(1, 3, 1, 1)
    >>> saturate(images, offset=0.25).ravel().tolist()
    [200, 50, 125]
    """
    return digital.saturate(images, factor=1, offset=offset)


def contrast(images: Pixels, *, factor: NotNegative) -> Pixels:
    """Multiply every value's distance to the image's mean grey by `factor`, and drop the fraction.

    Equal to `PIL.ImageEnhance.Contrast` to the last bit: one mean grey for all channels, rounded to
    a whole number. ImageNet-C's contrast is different.

    Args:
        images: see the package.
        factor: >= 0; 1 changes nothing.

    >>> images = np.array([0, 100], np.uint8).reshape(1, 1, 1, 2).repeat(3, axis=1)
    >>> contrast(images, factor=0.5)[0, 0].ravel().tolist()
    [25, 75]
    """
    pixels = images.shape[2] * images.shape[3]
    # Sums of whole numbers are the same in any order and for any batch.
    means = luminance(images).sum(axis=(1, 2), dtype=np.int64) / pixels
    greys = np.floor(means + 0.5).astype(np.float32)[:, None]
    values = np.arange(256, dtype=np.float32)
    tables = np.clip(greys + np.float32(factor) * (values - greys), 0, 255).astype(np.uint8)
    result = np.empty_like(images)
    for image, table, out in zip(images, tables, result, strict=True):
        np.take(table, image, out=out, mode="wrap")
    return result


def grey(images: Pixels) -> Pixels:
    """Set all three channels to the luminance.

    >>> grey(np.array([200, 100, 150], dtype=np.uint8).reshape(1, 3, 1, 1)).ravel().tolist()
    [136, 136, 136]
    """
    return np.ascontiguousarray(np.broadcast_to(luminance(images)[:, None], images.shape))


def luminance(images: Pixels) -> Pixels:
    """Convert `[B, 3, H, W]` to the luminance `[B, H, W]`, as Pillow converts RGB to L.

    Source: Pillow, libImaging/Convert.c, L24 (ITU-R 601-2 in 16-bit fixed point).
    """
    red, green, blue = (images[:, channel].astype(np.uint32) for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16).astype(np.uint8)


def _shifted(images: Pixels, shift: ShiftFunction) -> Pixels:
    return shift(torch.from_numpy(images), torch.arange(len(images)), 0).numpy()
