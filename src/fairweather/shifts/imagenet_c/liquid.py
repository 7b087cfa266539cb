"""Spatter: drops of water, or mud, on the lens.

Source of the formulae: hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.shifts.imagenet_c.imagewise import check_positive, gaussian_filter

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Generators = Iterator[np.random.Generator]

# Pale turquoise and brown, RGB.
_WATER, _MUD = np.array([(175, 238, 238), (63, 42, 20)], np.float32)[:, :, None, None]
# Light falls from the lower right.
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def spatter(
    images: Pixels,
    generators: Generators,
    *,
    mean: float,
    scale: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> Pixels:
    """Add drops of water that catch the light, or cover parts with mud.

    The liquid is normal noise, smoothed, where it is above a threshold. An image of which nothing
    is above stays as it is; the benchmark divides zero by zero there.

    Args:
        images: see the package.
        generators: see the package; each gives the noise.
        mean, scale: of the noise; scale > 0.
        sigma: standard deviation of the smoothing, pixels, > 0.
        threshold: least value of liquid.
        strength: of water: weight of its colour where it is brightest; of mud: standard deviation
            of the smoothing of its edge, pixels; > 0.
        mud: 0 for water, 1 for mud.
    """
    for name, value in (("scale", scale), ("sigma", sigma), ("strength", strength)):
        check_positive("spatter", name, value)
    if mud not in (0, 1):
        raise InputError(f"spatter: mud must be 0 (water) or 1 (mud), found {mud}")
    result = np.empty_like(images)
    for image, out in zip(images, result, strict=True):
        noise = next(generators).standard_normal(image.shape[1:], dtype=np.float32)
        noise *= np.float32(scale)
        noise += np.float32(mean)
        liquid = gaussian_filter(noise, sigma)
        if mud:
            cover = gaussian_filter((liquid > threshold).astype(np.float32), strength)
            cover[cover < 0.8] = 0
            changed = image * (1 - cover) + cover * _MUD
        else:
            liquid[liquid < threshold] = 0
            changed = image + _wetness(liquid) * np.float32(strength) * _WATER
        # Weights of mud and image add up to 1 only nearly.
        changed += np.float32(1e-4)
        np.copyto(out, np.minimum(changed, 255, out=changed), casting="unsafe")
    return result


def _wetness(liquid: Floats) -> Floats:
    """Light and shade of drops, float32 `[H, W]`, 1 where brightest, from how high they stand."""
    # A height beyond 1 overflows and starts again at 0, as there.
    levels = (liquid * np.float32(255)).astype(np.int32).astype(np.uint8)
    away = cv2.distanceTransform(255 - cv2.Canny(levels, 50, 150), cv2.DIST_L2, 5)
    away = cv2.blur(np.minimum(away, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(away), cv2.CV_8U, _RELIEF)
    wet = levels * cv2.blur(lit, (3, 3)).astype(np.float32)
    brightest = wet.max()
    return np.asarray(wet / brightest if brightest > 0 else wet, np.float32)
