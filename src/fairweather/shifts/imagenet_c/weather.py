"""Weather: snow, frost, fog, and spatter, the drops of water or mud on a lens.

Source of the formulae: hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from fairweather.errors import InputError
from fairweather.shifts.corruption import (
    Floats,
    Generators,
    Pixels,
    corrupt_each,
    draw_uniform,
    find_asset,
    gaussian_filter,
    take_pairs,
)
from fairweather.shifts.imagenet_c.blur import motion_filter
from fairweather.shifts.ranges import NotNegative, Positive, Range, between, within

# Map points per block: about as many as stay in a core's own cache.
_POINTS_AT_ONCE = 1 << 15
_MAPS_AT_ONCE = 16  # whose first scales, a few points each, are made together
_WATER_OR_MUD = Range("0 (water) or 1 (mud)", lambda value: value in (0, 1))
_PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
# Colours of spatter: pale turquoise and brown, RGB.
_WATER, _MUD = np.array([(175, 238, 238), (63, 42, 20)], np.float32)[:, :, None, None]
# A relief filter for spatter, with light from the lower right.
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)


def fog(images: Pixels, generators: Generators, *, amount: Positive, decay: Positive) -> Pixels:
    """Add a plasma fractal, and darken so that the image's largest value is not exceeded.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the fractal.
        amount: the largest amount of fog, added to values in [0, 1], > 0.
        decay: the factor by which the fractal's roughness falls from scale to scale, > 0.
    """
    height, width = images.shape[2:]
    size = 1 << (max(height, width) - 1).bit_length()
    result = np.empty_like(images)
    at_once = max(1, _POINTS_AT_ONCE // size**2)
    maps_at_once = max(_MAPS_AT_ONCE, at_once)
    for first in range(0, len(images), maps_at_once):
        several = images[first : first + maps_at_once]
        maps = draw_plasma(generators, len(several), size, decay)[:, None, :height, :width]
        for start in range(0, len(several), at_once):
            chunk, clouds = several[start : start + at_once], maps[start : start + at_once]
            brightest = chunk.max(axis=(1, 2, 3), keepdims=True) / np.float32(255)
            clouds *= np.float32(255 * amount)
            foggy = chunk.astype(np.float32)
            foggy += clouds
            foggy *= brightest / (brightest + np.float32(amount))
            # At most 255 times the brightest value, so nothing has to be clipped.
            np.copyto(result[first + start : first + start + at_once], foggy, casting="unsafe")
    return result


def draw_plasma(generators: Generators, count: int, size: int, decay: float) -> Floats:
    """Draw plasma fractals, float32 `[count, size, size]` in [0, 1], by the diamond-square method.

    The map is a torus. On each scale, the centres of squares and then the two kinds of centres of
    diamonds become the mean of their four neighbours plus noise. The noise is uniform in
    +-wibble^2; wibble is 100 at first and is divided by `decay` after each scale.

    Args:
        generators: one per map; `count` of them are taken.
        size: a power of two.
        decay: > 0.
    """
    noise = np.stack([draw_uniform(next(generators), (size * size - 1,)) for _ in range(count)])
    heights = np.zeros((count, 1, 1), np.float32)
    used, wibble = 0, 100.0
    while (points := heights.shape[1]) < size:
        squared = points * points
        centres = noise[:, used : used + 3 * squared].reshape(count, 3, points, points)
        centres *= np.float32(wibble**2)
        finer = np.empty((count, 2 * points, 2 * points), np.float32)
        at_once = max(1, _POINTS_AT_ONCE // finer[0].size)
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            _refine_plasma(heights[part], centres[part], finer[part])
        heights, used, wibble = finer, used + 3 * squared, wibble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    heights /= heights.max(axis=(1, 2), keepdims=True)
    return heights


def _refine_plasma(heights: Floats, centres: Floats, finer: Floats) -> None:
    """Halve the distance of the points `[B, P, P]`; write all into `finer`, `[B, 2P, 2P]`.

    Args:
        heights: the points of a torus.
        centres: the noise of the centres of squares, and of diamonds in rows and in columns,
            `[B, 3, P, P]`; the mean of the neighbours is added.
        finer: the result.
    """
    squares, rows, columns = centres.swapaxes(0, 1)
    quarter = np.float32(0.25)
    # One more row and column, since the torus has no edge.
    count, points = heights.shape[:2]
    wrapped, around = np.empty((2, count, points + 1, points + 1), np.float32)
    wrapped[:, :-1, :-1], wrapped[:, -1, :-1] = heights, heights[:, 0]
    wrapped[:, :, -1] = wrapped[:, :, 0]
    pairs = wrapped[:, :, :-1] + wrapped[:, :, 1:]
    mean = pairs[:, :-1] + pairs[:, 1:]
    mean *= quarter
    squares += mean
    around[:, 1:, 1:], around[:, 0, 1:] = squares, squares[:, -1]
    around[:, :, 0] = around[:, :, -1]
    np.add(pairs[:, :-1], squares, out=mean)
    mean += around[:, :-1, 1:]
    mean *= quarter
    rows += mean
    np.add(heights, wrapped[:, 1:, :-1], out=mean)
    mean += squares
    mean += around[:, 1:, :-1]
    mean *= quarter
    columns += mean
    finer[:, ::2, ::2], finer[:, 1::2, 1::2] = heights, squares
    finer[:, ::2, 1::2], finer[:, 1::2, ::2] = rows, columns


def frost(
    images: Pixels,
    generators: Generators,
    *,
    image_weight: NotNegative,
    frost_weight: NotNegative,
    frost_zoom: Positive,
) -> Pixels:
    """Add a random part of a photograph of frost.

    The photographs are those of the package imagecorruptions. As in the benchmark, only the first
    five of its six are used. If `frost_zoom` would make a photograph too small for the image, the
    photograph is scaled to be one pixel larger than the image instead.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the photograph, the row and the column.
        image_weight: >= 0.
        frost_weight: >= 0.
        frost_zoom: the scale factor of the photograph, > 0.

    Raises:
        InputError: if imagecorruptions is not installed.
    """
    height, width = images.shape[2:]
    table = _frost_table(image_weight, frost_weight)
    result = np.empty_like(images)
    for image, out, generator in zip(images, result, generators, strict=False):
        number = int(generator.integers(len(_PHOTOGRAPHS)))
        photograph = _scale_photograph(number, frost_zoom, height, width)
        row = int(generator.integers(photograph.shape[1] - height))
        column = int(generator.integers(photograph.shape[2] - width))
        part = photograph[:, row : row + height, column : column + width]
        frozen = take_pairs(table, image.reshape(-1, width), part.reshape(-1, width))
        out[:] = frozen.reshape(image.shape)
    return result


@lru_cache(maxsize=8)
def _frost_table(image_weight: float, frost_weight: float) -> Pixels:
    """Table of the sum of an image's and a photograph's value, `[256 * 256]`.

    In 64 bits, as in the benchmark: with decimal weights, many results are whole numbers except for
    the last bit.
    """
    values = np.arange(256)
    sums = values[:, None] * float(image_weight) + values * float(frost_weight)
    return np.clip(sums, 0, 255).astype(np.uint8).ravel()


@lru_cache(maxsize=32)
def _scale_photograph(number: int, zoom: float, height: int, width: int) -> Pixels:
    """Return a photograph, 8-bit `[3, rows, columns]`, larger than height and width."""
    photograph = _read_photograph(number)
    rows, columns = photograph.shape[:2]
    zoom = max(zoom, (height + 1) / rows, (width + 1) / columns)
    if zoom != 1:
        photograph = np.asarray(cv2.resize(photograph, (0, 0), fx=zoom, fy=zoom), np.uint8)
    return np.ascontiguousarray(photograph.transpose(2, 0, 1))


@lru_cache(maxsize=len(_PHOTOGRAPHS))
def _read_photograph(number: int) -> Pixels:
    # Importing the package needs pkg_resources, which setuptools has removed.
    path = find_asset("imagecorruptions", "the photographs of frost", "frost", _PHOTOGRAPHS[number])
    photograph = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if photograph is None:
        raise InputError(
            f"frost: cannot read the photograph {path}; install imagecorruptions again"
        )
    return np.asarray(photograph[..., ::-1], np.uint8, order="C")


def snow(
    images: Pixels,
    generators: Generators,
    *,
    mean: float,
    scale: Positive,
    zoom: Annotated[float, between(1)],
    threshold: float,
    radius: Positive,
    sigma: Positive,
    image_weight: Annotated[float, within(0, 1)],
) -> Pixels:
    """Whiten the image, and add flakes with motion blur and the same flakes rotated by 180 degrees.

    Flakes are normal noise that is enlarged and set to 0 below a threshold. The motion blur is
    ImageMagick's, not that of the package imagecorruptions.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the noise, then the angle, -135 to -45 degrees.
        mean, scale: mean and standard deviation of the noise, for values in [0, 1]; scale > 0.
        zoom: how much the noise is enlarged, >= 1.
        threshold: smallest value of a flake.
        radius, sigma: size of the motion blur in pixels, > 0.
        image_weight: weight of the image in its mean with the whitened image, 0 to 1.
    """
    height, width = images.shape[2:]
    grey = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None] * np.float32(1.5)

    def cover(image: Pixels, generator: np.random.Generator) -> Floats:
        flakes = _draw_flakes(generator, (height, width), mean, scale, zoom)
        flakes = _drop_below(flakes, threshold)
        flakes = np.floor(np.clip(flakes, 0, 1) * np.float32(255))
        angle = generator.uniform(-135, -45)
        # ImageMagick rounds to 16 bits, and then drops the lower 8 bits.
        flakes = np.floor(motion_filter(flakes, radius, sigma, angle) + np.float32(0.5 / 257))
        flakes += flakes[::-1, ::-1].copy()
        pixels = image.astype(np.float32)
        pale = (pixels * grey).sum(axis=0) + np.float32(127.5)
        pale = pale - pixels
        np.clip(pale, 0, None, out=pale)
        pale *= np.float32(1 - image_weight)
        pixels += pale
        pixels += flakes
        return pixels

    return corrupt_each(images, generators, cover)


def _drop_below(values: Floats, least: float) -> Floats:
    """Set values below `least` to 0."""
    below = float(np.nextafter(np.float32(least), np.float32(-np.inf)))
    return np.asarray(cv2.threshold(values, below, 0, cv2.THRESH_TOZERO)[1], np.float32)


def _draw_flakes(
    generator: np.random.Generator, size: tuple[int, int], mean: float, scale: float, zoom: float
) -> Floats:
    """Draw the middle part of normal noise and enlarge it.

    As in `scipy.ndimage.zoom(order=1)`, the first and last points keep their places, and surplus
    points are cut off.
    """
    crop = [math.ceil(side / zoom) for side in size]
    noise = generator.standard_normal(crop, dtype=np.float32)
    noise *= np.float32(scale)
    noise += np.float32(mean)
    zoomed = [round(side * zoom) for side in crop]
    if zoomed != crop:
        grown = F.interpolate(
            torch.from_numpy(noise)[None, None], size=zoomed, mode="bilinear", align_corners=True
        )
        noise = grown[0, 0].numpy()
    top, left = ((z - side) // 2 for side, z in zip(size, zoomed, strict=True))
    return noise[top : top + size[0], left : left + size[1]]


def spatter(
    images: Pixels,
    generators: Generators,
    *,
    mean: float,
    scale: Positive,
    sigma: Positive,
    threshold: float,
    strength: Positive,
    mud: Annotated[float, _WATER_OR_MUD],
) -> Pixels:
    """Add drops of water that reflect light, or cover parts with mud.

    Liquid is where smoothed normal noise is above a threshold. If it is above nowhere, the image
    does not change; the benchmark divides zero by zero then.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the noise.
        mean, scale: mean and standard deviation of the noise; scale > 0.
        sigma: standard deviation of the smoothing, pixels, > 0.
        threshold: smallest value of liquid.
        strength: for water, the weight of its colour where it is brightest; for mud, the standard
            deviation in pixels of the smoothing of its edge; > 0.
        mud: 0 for water, 1 for mud.
    """

    def splash(image: Pixels, generator: np.random.Generator) -> Floats:
        noise = generator.standard_normal(image.shape[1:], dtype=np.float32)
        noise *= np.float32(scale)
        noise += np.float32(mean)
        liquid = gaussian_filter(noise, sigma)
        if mud:
            cover = gaussian_filter((liquid > threshold).astype(np.float32), strength)
            cover[cover < 0.8] = 0
            pixels = image.astype(np.float32)
            pixels *= 1 - cover
            pixels += cover * _MUD
        else:
            drops = _shade_drops(_drop_below(liquid, threshold))
            pixels = drops * np.float32(strength) * _WATER
            pixels += image.astype(np.float32)
        # The weights of mud and image add up to 1 only up to rounding.
        pixels += np.float32(1e-4)
        return pixels

    return corrupt_each(images, generators, splash)


def _shade_drops(liquid: Floats) -> Floats:
    """Light and shade of drops, float32 `[H, W]`, 1 where brightest, from the liquid's height."""
    # A height above 1 overflows and starts again at 0, as in the benchmark.
    levels = (liquid * np.float32(255)).astype(np.int32).astype(np.uint8)
    away = cv2.distanceTransform(255 - cv2.Canny(levels, 50, 150), cv2.DIST_L2, 5)
    away = cv2.blur(np.minimum(away, 20), (3, 3)).astype(np.uint8)
    lit = cv2.filter2D(cv2.equalizeHist(away), cv2.CV_8U, _RELIEF)
    wet = levels * cv2.blur(lit, (3, 3)).astype(np.float32)
    brightest = wet.max()
    return np.asarray(wet / brightest if brightest > 0 else wet, np.float32)
