"""Digital corruptions: brightness, contrast, saturation, pixelation, JPEG and elastic distortion.

Source of the formulae: hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py. Its elastic
distortion is from P. Simard, D. Steinkraus and J. Platt, "Best Practices for Convolutional Neural
Networks Applied to Visual Document Analysis" (ICDAR 2003).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.shifts.corruption import Floats, Generators, Pixels, draw_uniform, take_pairs
from fairweather.shifts.ranges import JpegQuality, NotNegative, Range, SignedShare

# Pixels per block: float32 arrays of this size stay in a core's cache.
_PIXELS_AT_ONCE = 1 << 15
# Twenty times the rounding error of float32 at 255. It is added so that a value that would be whole
# in exact arithmetic is not truncated to the next lower number. Most are whole if saturation is
# doubled.
_NUDGE = np.float32(1e-4)

_SHRINKS = Range("> 0 and <= 1", lambda value: 0 < value <= 1)


def brightness(images: Pixels, *, amount: SignedShare) -> Pixels:
    """Add `amount` to V in HSV, clip V to [0, 1], and keep hue and saturation.

    So every channel is multiplied by the same factor V'/V. The result is within 1/255 of the
    benchmark, whose conversion to hue and back rounds a few values differently.

    Args:
        images: uint8 `[B, 3, H, W]`.
        amount: in [-1, 1].

    >>> images = np.array([0, 51, 102], dtype=np.uint8).reshape(1, 3, 1, 1)
    >>> brightness(images, amount=0.1).ravel().tolist()
    [0, 63, 127]
    """
    table = _brightness_table(amount)
    result = np.empty_like(images)
    for part, out in _cut_blocks(images, result):
        largest = np.repeat(part.max(axis=1, keepdims=True), 3, axis=1)
        lines = (-1, part.shape[3])
        changed = take_pairs(table, largest.reshape(lines), part.reshape(lines))
        out[:] = changed.reshape(part.shape)
    return result


@lru_cache(maxsize=8)
def _brightness_table(amount: float) -> npt.NDArray[np.uint8]:
    """Table of a channel's new value, by the pixel's largest channel and its own, `[256 * 256]`."""
    channel = np.arange(256) / 255.0
    largest = channel[:, None]
    value = np.clip(largest + amount, 0, 1)
    saturation = (largest - channel) / np.maximum(largest, channel[1])
    grown = np.where(largest == channel, value, value * (1 - saturation))
    return (np.clip(grown, 0, 1) * 255).astype(np.uint8).ravel()


def saturate(images: Pixels, *, factor: NotNegative = 1, offset: SignedShare) -> Pixels:
    """Multiply S in HSV by `factor`, add `offset`, clip S to [0, 1], and keep hue and value.

    So a channel's distance to the largest one is multiplied by S'/S. Grey has no hue and counts as
    red, as in both benchmarks: an `offset` makes it reddish. The result is within 1/255 of the
    benchmark.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: >= 0.
        offset: in [-1, 1].

    >>> images = np.array([200, 100, 150], dtype=np.uint8).reshape(1, 3, 1, 1)
    >>> saturate(images, factor=1.5, offset=0).ravel().tolist()
    [200, 50, 125]
    """
    growths, reddenings = _saturation_tables(factor, offset)
    result = np.empty_like(images)
    for part, out in _cut_blocks(images, result):
        largest = part.max(axis=1, keepdims=True)
        extremes = [values.reshape(-1, part.shape[3]) for values in (largest, part.min(axis=1))]
        pixels, value = part.astype(np.float32), largest.astype(np.float32)
        pixels -= value
        pixels *= take_pairs(growths, *extremes).reshape(value.shape)
        value += _NUDGE
        pixels += value
        if offset > 0:
            pixels[:, 1:] -= take_pairs(reddenings, *extremes).reshape(value.shape)
        # Between 0 and 255 up to rounding errors, which are smaller than the nudge.
        np.copyto(out, pixels, casting="unsafe")
    return result


@lru_cache(maxsize=8)
def _saturation_tables(factor: float, offset: float) -> tuple[Floats, Floats]:
    """Tables by a pixel's largest and smallest channel, flat `[256 * 256]`.

    The first has the factor on a channel's distance to the largest one, the second what grey loses
    of green and blue.
    """
    values = np.arange(256, dtype=np.float32)
    largest, smallest = values[:, None], values
    spread, scale = largest - smallest, np.maximum(largest, 1)
    saturation = spread / scale
    saturation *= np.float32(factor)
    saturation += np.float32(offset)
    np.clip(saturation, 0, 1, out=saturation)
    saturation *= scale
    growth = saturation / np.maximum(spread, 1)
    reddening = saturation * ((spread == 0) & (largest > 0))
    return growth.ravel(), reddening.ravel()


def contrast(images: Pixels, *, factor: NotNegative) -> Pixels:
    """Multiply every channel's distance to its mean over the image by `factor`.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: >= 0; with 1, only the last bit changes, as in the benchmark, which truncates.

    >>> images = np.repeat(np.array([0, 100], dtype=np.uint8), 3).reshape(2, 3).T[None, :, :, None]
    >>> contrast(np.ascontiguousarray(images), factor=0.5)[0, 0].ravel().tolist()
    [25, 75]
    """
    result = np.empty_like(images)
    values = np.arange(256) / 255.0
    for part, out in _cut_blocks(images, result):
        # Sums of whole numbers are the same in any order and for any batch; OpenCV's have 32 bits.
        sums = cv2.reduce(part.reshape(-1, part.shape[3]), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        sums = sums.reshape(part.shape[:3]).sum(axis=2, dtype=np.int64)[..., None]
        means = sums / (part.shape[2] * part.shape[3]) / 255.0
        tables = (np.clip((values - means) * factor + means, 0, 1) * 255).astype(np.uint8)
        for image, table, changed in zip(part, tables, out, strict=True):
            for channel in range(3):
                cv2.LUT(image[channel], table[channel], dst=changed[channel])
    return result


def jpeg_compression(images: Pixels, *, quality: JpegQuality) -> Pixels:
    """Encode as JPEG and decode again.

    libjpeg-turbo through OpenCV, equal to the last bit to Pillow's `save(quality=...)`: 4:2:0
    subsampling and the standard tables.

    Args:
        images: uint8 `[B, 3, H, W]`.
        quality: a whole number from 1 to 100.

    >>> images = np.full((1, 3, 8, 8), 128, dtype=np.uint8)
    >>> int(jpeg_compression(images, quality=10).max())
    128
    """
    result = np.empty(images.shape, np.uint8)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    for image, out in zip(np.ascontiguousarray(images), result, strict=True):
        done, encoded = cv2.imencode(".jpg", cv2.merge(image[::-1]), parameters)
        if not done:
            raise InputError(
                f"jpeg_compression: JPEG has at most 65,500 pixels a side, found {image.shape[1:]}"
            )
        cv2.split(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)), out[::-1])
    return result


def pixelate(images: Pixels, *, factor: Annotated[float, _SHRINKS]) -> Pixels:
    """Shrink by `factor` with a box filter, and enlarge again: Pillow's `resize(BOX)` twice.

    Equal to the last bit to Pillow's `resize` of the width and then of the height. Pillow has this
    order for both at once too, unless an image is very high. The small side is
    `int(factor * side)`, at least 1.

    Args:
        images: uint8 `[B, 3, H, W]`.
        factor: in (0, 1].

    >>> images = np.array([[0, 100], [100, 200]], dtype=np.uint8)[None, None].repeat(3, axis=1)
    >>> pixelate(images, factor=0.5)[0, 0].tolist()
    [[100, 100], [100, 100]]
    """
    height, width = images.shape[2:]
    low, narrow = max(1, int(factor * height)), max(1, int(factor * width))
    rows, columns = _nearest_places(low, height), _nearest_places(narrow, width)
    result = np.empty(images.shape, np.uint8)
    for part, out in _cut_blocks(images, result, 4 * _PIXELS_AT_ONCE):
        # The axis to shrink or enlarge comes first, so that whole rows are added and copied.
        planes = part.shape[0] * part.shape[1]
        small = _shrink_lines(_transpose(part.reshape(planes * height, width)), narrow)
        small = _shrink_lines(_transpose(small.reshape(narrow * planes, height)), low)
        # Enlarging with a box filter takes the nearest pixel.
        wide = _transpose(_transpose(small).reshape(narrow, planes * low)[columns])
        wide = wide.reshape(planes, low, width)
        wide.take(rows, axis=1, out=out.reshape(planes, height, width), mode="clip")
    return result


def _transpose(plane: Pixels) -> Pixels:
    return np.asarray(cv2.transpose(plane), np.uint8)


def _shrink_lines(lines: Pixels, small: int) -> Pixels:
    """Shrink the first axis of uint8 `[large, N]` to `small` by means of neighbours, as Pillow.

    Pillow's filter takes the pixels with centres in (j, j + 1] times large / small, in doubles, and
    divides in whole numbers with 22 fraction bits: `precompute_coeffs` in its Resample.c. Both are
    repeated here, so that no bit differs.
    """
    scale = len(lines) / small
    centres = (np.arange(small) + 0.5) * scale
    first = (centres - 0.5 * scale + 0.5).astype(np.intp)
    last = (centres + 0.5 * scale + 0.5).astype(np.intp) - 1
    first += (first - centres + 0.5) * (1 / scale) <= -0.5
    last -= (last - centres + 0.5) * (1 / scale) > 0.5
    counts = last - first + 1
    weights = (2.0**22 / counts + 0.5).astype(np.uint32)[:, None]
    # Numpy is fast where all have one type. 257 * 255 < 2^16
    kind = np.uint16 if counts.max() <= 257 else np.uint32
    result = np.empty((small, lines.shape[1]), np.uint8)
    strip = max(1, 12 * _PIXELS_AT_ONCE // len(lines))
    for start in range(0, lines.shape[1], strip):
        part = lines[:, start : start + strip]
        sums: npt.NDArray[np.unsignedinteger] = part[first].astype(kind)
        for step in range(1, counts.max()):
            longer = counts > step
            if longer.all():
                sums += part[first + step].astype(kind)
            else:
                sums[longer] += part[(first + step)[longer]].astype(kind)
        totals = sums.astype(np.uint32)
        totals *= weights
        totals += np.uint32(1 << 21)
        totals >>= np.uint32(22)
        result[:, start : start + strip] = totals
    return result


def _nearest_places(small: int, large: int) -> npt.NDArray[np.intp]:
    """Return the small pixel that contains the centre of each large one."""
    return ((np.arange(large) + 0.5) * (small / large)).astype(np.intp)


def _cut_blocks(
    images: Pixels, result: Pixels, pixels: int = _PIXELS_AT_ONCE
) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield blocks of a batch and its result, with so many pixels or one image at a time."""
    step = max(1, pixels // (images.shape[2] * images.shape[3]))
    for start in range(0, len(images), step):
        yield images[start : start + step], result[start : start + step]


def elastic_transform(
    images: Pixels,
    generators: Generators,
    *,
    alpha: NotNegative,
    sigma: NotNegative,
    shift: NotNegative,
) -> Pixels:
    """Move three corners of a central square at random, then every pixel by smoothed noise.

    All three parameters are shares of the smaller side of the image. Both steps interpolate
    linearly. In the first step, positions are rounded to 1/32 of a pixel, and the image is mirrored
    without repeating its outermost pixels. In the second step, positions are exact, and the
    outermost pixels are repeated. (OpenCV before version 5 rounds the second as well.) The package
    imagecorruptions has no affine part.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one per image.
        alpha: factor on the smoothed noise, which is uniform in [-1, 1] before smoothing; >= 0.
            With 0, only the affine map is applied.
        sigma: standard deviation of the smoothing, cut off at 3 sigma; >= 0.
        shift: the largest movement of a corner along each axis; >= 0.

    >>> images = np.random.default_rng(0).integers(256, size=(1, 3, 16, 16), dtype=np.uint8)
    >>> still = elastic_transform(images, iter([np.random.default_rng(0)]), alpha=0, sigma=0,
    ...                           shift=0)
    >>> bool((still == images).all())
    True
    """
    height, width = images.shape[2:]
    side = min(height, width)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)
    result = np.empty_like(images)
    for (red, green, blue), generator, out in zip(images, generators, result, strict=False):
        # OpenCV moves pixels of four channels faster than those of three.
        moved = cv2.merge((red, green, blue, blue)).astype(np.float32)
        across, down = _draw_affine_places(generator, (height, width), shift * side)
        moved = cv2.remap(moved, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        if alpha > 0:
            places = _draw_displacement(generator, (height, width), sigma * side)
            places *= np.float32(alpha * side)
            places += grid
            across, down = places
            moved = cv2.remap(moved, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        cv2.split(moved.astype(np.uint8), (*out, blue.copy()))
    return result


def _draw_affine_places(
    generator: np.random.Generator, shape: tuple[int, int], shift: float
) -> tuple[Floats, Floats]:
    """Draw an affine map that moves three corners; return the x and y that each pixel comes from.

    They are rounded as in `cv2.warpAffine` up to version 4.
    """
    # The benchmark uses half the height for x.
    centre = np.array([shape[0] // 2, shape[1] // 2], np.float32)
    reach = min(shape) // 3
    corners = centre + np.array([[reach, reach], [reach, -reach], [-reach, -reach]], np.float32)
    moved = corners + generator.uniform(-shift, shift, size=(3, 2)).astype(np.float32)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    across, down = (
        _round_places(by_y * rows + constant, by_x * columns)
        for by_x, by_y, constant in cv2.getAffineTransform(moved, corners)
    )
    return across, down


def _round_places(rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]) -> Floats:
    """Add in units of 1/1024 of a pixel, and round to 1/32."""
    fine = np.rint(rows * 1024).astype(np.int32) + 16 + np.rint(columns * 1024).astype(np.int32)
    fine >>= 5
    places = fine.astype(np.float32)
    places /= 32
    return places


def _draw_displacement(
    generator: np.random.Generator, shape: tuple[int, int], sigma: float
) -> Floats:
    """Draw smoothed noise for x and for y, `[2, H, W]`."""
    noise = draw_uniform(generator, (2, *shape))
    if sigma == 0:
        return noise
    if 3 * sigma > min(shape):
        return _smooth_widely(noise, sigma)
    weights, border = _gaussian_weights(sigma).astype(np.float32), cv2.BORDER_REFLECT
    for field in noise:
        cv2.sepFilter2D(field, -1, weights, weights, dst=field, borderType=border)
    return noise


def _gaussian_weights(sigma: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian's weights, cut off at three standard deviations as in the benchmark."""
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _smooth_widely(noise: Floats, sigma: float) -> Floats:
    """Smooth `[2, H, W]` with a Gaussian wider than the image.

    With mirrored edges, the Gaussian multiplies each wave of the discrete cosine transform, and few
    waves remain. einsum is used without its optimiser, because the last bits of a matrix product
    depend on the number of threads.
    """
    down, across = (_cosine_waves(side, sigma) for side in noise.shape[1:])
    amplitudes = np.einsum("ckj,lj->ckl", np.einsum("ki,cij->ckj", down, noise), across)
    return np.asarray(np.einsum("cil,lj->cij", np.einsum("ki,ckl->cil", down, amplitudes), across))


@lru_cache(maxsize=8)
def _cosine_waves(size: int, sigma: float) -> Floats:
    """Return the waves, `[waves, size]`, of which a Gaussian leaves more than 1e-4, scaled.

    Each wave is multiplied by the root of the share that the Gaussian leaves. Because of the
    cut-off at 3 sigma, other waves remain too: they change a position by less than 0.004 pixels at
    the benchmark's levels.
    """
    weights = _gaussian_weights(sigma)
    offsets = np.arange(len(weights)) - len(weights) // 2
    numbers = np.arange(size)[:, None]
    remaining = np.cos(np.pi * numbers * offsets / size) @ weights
    waves_kept = int(np.argmin(remaining > 1e-4)) or size
    waves = np.cos(np.pi * numbers[:waves_kept] * (np.arange(size) + 0.5) / size)
    waves *= np.sqrt(
        remaining[:waves_kept, None] * np.where(numbers[:waves_kept] == 0, 1, 2) / size
    )
    return waves.astype(np.float32)
