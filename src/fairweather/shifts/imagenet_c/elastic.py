"""Elastic distortion: a random affine map, then small smooth displacements.

Source of the formulae: hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py, after
P. Simard, D. Steinkraus and J. Platt, "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis" (ICDAR 2003). The package imagecorruptions has no affine part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def elastic_transform(
    images: Pixels,
    generators: Iterator[np.random.Generator],
    *,
    alpha: float,
    sigma: float,
    shift: float,
) -> Pixels:
    """Move three corners of a central square at random, then every pixel by smoothed noise.

    All three parameters are shares of the smaller side of the image. Both steps interpolate
    linearly: the first from places rounded to 1/32 of a pixel, in an image mirrored without its
    outermost pixels, the second from places as they are, in an image mirrored with them. (OpenCV
    before version 5 rounds the second as well.)

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one an image.
        alpha: factor on the smoothed noise, which is uniform in [-1, 1] before; >= 0; 0 leaves the
            affine map alone.
        sigma: standard deviation of the smoothing, cut off at three of them; >= 0.
        shift: how far a corner moves at most, along each axis; >= 0.

    >>> images = np.random.default_rng(0).integers(256, size=(1, 3, 16, 16), dtype=np.uint8)
    >>> still = elastic_transform(images, iter([np.random.default_rng(0)]), alpha=0, sigma=0,
    ...                           shift=0)
    >>> bool((still == images).all())
    True
    """
    for name, value in (("alpha", alpha), ("sigma", sigma), ("shift", shift)):
        if value < 0:
            raise InputError(f"elastic_transform: {name} must be >= 0, found {value}")
    height, width = images.shape[2:]
    side = min(height, width)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    result = np.empty_like(images)
    for image, out in zip(images, result, strict=True):
        generator = next(generators)
        moved = image.transpose(1, 2, 0).astype(np.float32)
        across, down = _affine_places(generator, (height, width), shift * side)
        moved = cv2.remap(moved, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        if alpha > 0:
            across, down = grid + _displacement(generator, (height, width), sigma * side) * (
                np.float32(alpha * side)
            )
            moved = cv2.remap(moved, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        # The linear interpolation of values in [0, 255] stays there.
        np.copyto(out, moved.transpose(2, 0, 1), casting="unsafe")
    return result


def _affine_places(
    generator: np.random.Generator, shape: tuple[int, int], shift: float
) -> tuple[Floats, Floats]:
    """Draw an affine map that moves three corners: the x and the y that each pixel comes from.

    Rounded as by `cv2.warpAffine` until version 4.
    """
    # Half the height stands first, for x, in the benchmark.
    centre = np.array([shape[0] // 2, shape[1] // 2], np.float32)
    reach = min(shape) // 3
    corners = centre + np.array([[reach, reach], [reach, -reach], [-reach, -reach]], np.float32)
    moved = corners + generator.uniform(-shift, shift, size=(3, 2)).astype(np.float32)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    across, down = (
        _rounded(by_y * rows + constant, by_x * columns)
        for by_x, by_y, constant in cv2.getAffineTransform(moved, corners)
    )
    return across, down


def _rounded(rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Floats:
    """Add in units of 1/1024 of a pixel, and round to 1/32."""
    fine = np.rint(rows * 1024).astype(np.int32) + np.rint(columns * 1024).astype(np.int32)
    return ((fine + 16) >> 5).astype(np.float32) / np.float32(32)


def _displacement(generator: np.random.Generator, shape: tuple[int, int], sigma: float) -> Floats:
    """Draw smoothed noise for x and for y, `[2, H, W]`."""
    noise = generator.random((2, *shape), dtype=np.float32)
    noise *= 2
    noise -= 1
    if sigma == 0:
        return noise
    if 3 * sigma > min(shape):
        return _smooth_widely(noise, sigma)
    weights, border = _weights(sigma).astype(np.float32), cv2.BORDER_REFLECT
    return np.stack(
        [cv2.sepFilter2D(field, -1, weights, weights, borderType=border) for field in noise]
    )


def _weights(sigma: float) -> npt.NDArray[np.float64]:
    """Give a Gaussian's weights, cut off at three standard deviations as the benchmark's are."""
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _smooth_widely(noise: Floats, sigma: float) -> Floats:
    """Smooth `[2, H, W]` with a Gaussian wider than the image.

    With mirrored edges it scales the waves of the discrete cosine transform, and leaves few. einsum
    without its optimiser, since a matrix product's last bits depend on the number of threads.
    """
    down, across = (_waves(side, sigma) for side in noise.shape[1:])
    amplitudes = np.einsum("ckj,lj->ckl", np.einsum("ki,cij->ckj", down, noise), across)
    return np.asarray(np.einsum("cil,lj->cij", np.einsum("ki,ckl->cil", down, amplitudes), across))


@lru_cache(maxsize=8)
def _waves(size: int, sigma: float) -> Floats:
    """Give the waves, `[waves, size]`, that a Gaussian leaves 1e-4 of, times the root of how much.

    The cut-off at 3 sigma leaves others too, to less than 0.004 pixels at the benchmark's levels.
    """
    weights = _weights(sigma)
    offsets = np.arange(len(weights)) - len(weights) // 2
    numbers = np.arange(size)[:, None]
    left = np.cos(np.pi * numbers * offsets / size) @ weights
    kept = int(np.argmin(left > 1e-4)) or size
    waves = np.cos(np.pi * numbers[:kept] * (np.arange(size) + 0.5) / size)
    waves *= np.sqrt(left[:kept, None] * np.where(numbers[:kept] == 0, 1, 2) / size)
    return waves.astype(np.float32)
