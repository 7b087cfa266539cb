"""Blurs: Gaussian, defocus, glass, motion and zoom.

OpenCV convolves one image at a time, so sums have the same order in any batch. With small and
sparse kernels this is faster than torch on whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import sparse

from fairweather.shifts.corruption import (
    Floats,
    Generators,
    Pixels,
    Places,
    change_each_image,
    gaussian_filter,
    place_type,
    quantise,
    quantise_clipped,
    take,
)
from fairweather.shifts.ranges import Positive, Range, whole

# OpenCV sums kernels of a smaller area than this directly, and larger ones by Fourier transform.
_DIRECT_BELOW = 130
# Fourier transforms take as long as so many taps on each padded pixel.
_TAPS_OF_A_TRANSFORM = 60
# Pixels of an image's zooms per block: about as many as stay in a core's own cache.
_ZOOMED_AT_ONCE = 1 << 17
_ABOVE_ONE = Range("> 1", lambda value: value > 1)


def gaussian_blur(images: Pixels, *, sigma: Positive) -> Pixels:
    """Convolve with a Gaussian of `sigma` pixels, > 0, cut off at 4 sigma; edges are repeated.

    As `skimage.filters.gaussian`. The shift `gaussian_blur` differs: it reflects and rounds.

    >>> images = np.zeros((1, 3, 9, 9), np.uint8)
    >>> images[..., 4, 4] = 255
    >>> gaussian_blur(images, sigma=0.5)[0, 0, 4, 2:7].tolist()
    [0, 21, 157, 21, 0]
    """
    return change_each_image(images, lambda image: gaussian_filter(image, sigma))


def defocus_blur(images: Pixels, *, radius: Positive, alias_blur: Positive) -> Pixels:
    """Convolve with a disk of `radius` pixels with a softened edge; borders are reflected.

    Args:
        images: uint8 `[B, 3, H, W]`.
        radius: > 0; the disk consists of whole pixels, so any radius below 1 is one pixel.
        alias_blur: standard deviation of the softening in pixels, > 0.
    """
    return convolve(images, disk(radius, alias_blur))


def convolve(images: Pixels, kernel: Floats) -> Pixels:
    """Convolve with a kernel that is symmetric about its centre; borders are reflected.

    Args:
        images: uint8 `[B, 3, H, W]`.
        kernel: float32 `[2k + 1, 2k + 1]`.
    """
    height, width = images.shape[2:]
    reach = len(kernel) // 2
    result = np.empty_like(images)
    padded_area = math.prod(_transform_shape(height, width, reach))
    work = np.count_nonzero(kernel) * height * width
    if kernel.size < _DIRECT_BELOW and work < _TAPS_OF_A_TRANSFORM * padded_area:
        for planes, changed in zip(images, result, strict=True):
            image = cv2.merge(tuple(planes)).astype(np.float32)
            blurred = np.asarray(cv2.filter2D(image, -1, kernel), np.float32)
            cv2.split(quantise_clipped(blurred), tuple(changed))
        return result
    # `cv2.filter2D` would transform block by block. One complex Fourier transform takes red and
    # green at once, and a smaller one takes both halves of blue.
    half = -(-height // 2)
    filters = _PairFilter(kernel, height, width), _PairFilter(kernel, half, width)
    for image, (red, green, blue) in zip(images, result, strict=True):
        padded = [
            cv2.copyMakeBorder(plane, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
            for plane in image
        ]
        filters[0].blur(padded[0], padded[1], (red, green))
        ends = padded[2][: half + 2 * reach], padded[2][height - half :]
        filters[1].blur(*ends, (blue[:half], blue[height - half :]))
    return result


class _PairFilter:
    """Convolves two planes of a size with a symmetric kernel, by one complex Fourier transform."""

    def __init__(self, kernel: Floats, height: int, width: int) -> None:
        self.reach = reach = len(kernel) // 2
        self.shape = _transform_shape(height, width, reach)
        placed = np.zeros(self.shape, np.float32)
        # OpenCV's inverse transform leaves the scale out.
        placed[: len(kernel), : len(kernel)] = kernel / np.float32(placed.size)
        centred = np.roll(placed, (-reach, -reach), axis=(0, 1))
        # The transform of a symmetric kernel is real.
        waves = cv2.extractChannel(cv2.dft(centred, flags=cv2.DFT_COMPLEX_OUTPUT), 0)
        self.waves = np.asarray(cv2.merge((waves, waves)), np.float32)

    def blur(self, first: Pixels, second: Pixels, out: tuple[Pixels, Pixels]) -> None:
        """Write the convolution of two planes, with a border of the kernel's reach, into `out`."""
        high, wide = (size - side for size, side in zip(self.shape, first.shape, strict=True))
        pair = cv2.merge((first, second))
        pair = cv2.copyMakeBorder(pair, 0, high, 0, wide, cv2.BORDER_CONSTANT)
        spectrum = np.asarray(cv2.dft(pair.astype(np.float32)), np.float32)
        spectrum *= self.waves
        blurred = np.asarray(cv2.dft(spectrum, dst=spectrum, flags=cv2.DFT_INVERSE), np.float32)
        height, width = out[0].shape
        inside = blurred[self.reach : self.reach + height, self.reach : self.reach + width]
        # The taps of large disks sum to 1.01, so values are clipped.
        cv2.split(quantise_clipped(inside), out)


def _transform_shape(height: int, width: int, reach: int) -> tuple[int, int]:
    """Sides of a plane and its border for which transforms are fast: multiples of 8."""
    high, wide = (
        8 * cv2.getOptimalDFTSize(-(-(side + 2 * reach) // 8)) for side in (height, width)
    )
    return high, wide


def disk(radius: float, alias_blur: float) -> Floats:
    """Make the kernel of `defocus_blur`, float32 `[2k + 1, 2k + 1]`, without an empty rim.

    Disks with a radius of 8 or more touch the rim of the benchmark's kernel, where its softening
    reflects. So they sum to 1.01 and make images slightly brighter. This is kept, because the
    benchmark's images were made that way.

    >>> disk(1, 0.2).round(2)[1]
    array([0.2, 0.2, 0.2], dtype=float32)
    """
    reach, size = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    offsets = np.arange(-reach, reach + 1)
    inside = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    kernel = inside.astype(np.float32) / np.float32(inside.sum())
    kernel = np.asarray(cv2.GaussianBlur(kernel, (size, size), alias_blur), np.float32)
    # A softening of 0.1 pixels leaves 1e-22 beside the disk, which would cost as much as any tap.
    kernel[kernel < 1e-12] = 0
    # Taps of at most 1e-6 are too small for 8 bits; without them small disks are summed directly.
    rim = min(int(side.any(axis=1).argmax()) for side in (kernel > 1e-6, kernel.T > 1e-6))
    return np.ascontiguousarray(kernel[rim : len(kernel) - rim, rim : len(kernel) - rim])


def motion_blur(
    images: Pixels, generators: Generators, *, radius: Positive, sigma: Positive
) -> Pixels:
    """Smear to one side along a line with a random angle of -45 to 45 degrees; edges are repeated.

    This is the benchmark's motion blur, from ImageMagick; the package imagecorruptions has another.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the angle.
        radius: half the number of taps, pixels, > 0.
        sigma: standard deviation of the (half) Gaussian along the line, pixels, > 0.
    """

    def smear(image: Pixels) -> Floats:
        angle = next(generators).uniform(-45, 45)
        return motion_filter(image.astype(np.float32), radius, sigma, angle)

    return change_each_image(images, smear)


def motion_filter(image: Floats, radius: float, sigma: float, angle: float) -> Floats:
    """Filter float32 `[H, W]` or `[H, W, C]` as ImageMagick's MotionBlurImage; edges are repeated.

    Tap i = 0, 1, ... 2 ceil(radius) has the weight exp(-i^2 / 2 sigma^2). It is i pixels away at
    `angle` degrees (y downwards), rounded to whole pixels; halves are rounded down.

    Source: ImageMagick 6, magick/effect.c, MotionBlurImageChannel and GetMotionBlurKernel.

    >>> image = np.array([[0, 0, 0, 100, 0]], np.float32)
    >>> motion_filter(image, radius=1, sigma=1, angle=0).round()
    array([[ 0.,  8., 35., 57.,  0.]], dtype=float32)
    """
    taps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    angle = math.radians(angle)
    rows, columns = (
        np.ceil(taps * slope - 0.5).astype(int).tolist()
        for slope in (math.sin(angle), math.cos(angle))
    )
    above, left = max(0, -rows[-1]), max(0, -columns[-1])
    padded = cv2.copyMakeBorder(
        image, above, max(0, rows[-1]), left, max(0, columns[-1]), cv2.BORDER_REPLICATE
    )
    rows, columns = [y + above for y in rows], [x + left for x in columns]
    height, width = image.shape[:2]
    pieces: list[Floats] = []
    for part in _cut_line(rows, columns):
        kernel, top, side = _smallest_kernel(rows[part], columns[part], weights[part])
        down, across = kernel.shape
        window = padded[top : top + height + down - 1, side : side + width + across - 1]
        filtered = np.asarray(cv2.filter2D(window, -1, kernel, anchor=(0, 0)), np.float32)
        pieces.append(filtered[:height, :width])
    result, *others = pieces
    for piece in others:
        cv2.add(result, piece, dst=result)
    return result


def _cut_line(rows: list[int], columns: list[int]) -> Iterator[slice]:
    """Cut a line of taps so that the rectangle of each piece is small enough to sum directly."""
    start = 0
    for at in range(1, len(rows)):
        area = (abs(rows[at] - rows[start]) + 1) * (abs(columns[at] - columns[start]) + 1)
        if area >= _DIRECT_BELOW:
            yield slice(start, at)
            start = at
    yield slice(start, len(rows))


def _smallest_kernel(
    rows: list[int], columns: list[int], weights: Floats
) -> tuple[Floats, int, int]:
    """Put taps into the smallest kernel; return it with its row and column."""
    top, left = min(rows[0], rows[-1]), min(columns[0], columns[-1])
    shape = (abs(rows[-1] - rows[0]) + 1, abs(columns[-1] - columns[0]) + 1)
    kernel = np.zeros(shape, np.float32)
    for y, x, weight in zip(rows, columns, weights, strict=True):
        kernel[y - top, x - left] += weight
    return kernel, top, left


def zoom_blur(images: Pixels, *, stop: Annotated[float, _ABOVE_ONE], step: Positive) -> Pixels:
    """Average the image with its zooms by 1, 1 + step, ... up to `stop`, as in `numpy.arange`.

    A zoom is `scipy.ndimage.zoom(order=1)` of the central part, whose first and last pixels keep
    their places; surplus pixels are cut off. A zoom by less than 1.07 does not change an image of 8
    pixels.

    Args:
        images: uint8 `[B, 3, H, W]`.
        stop: > 1; excluded, except for rounding errors, which are the same as in the benchmark.
        step: > 0.
    """
    factors = tuple(np.arange(1, stop, step).tolist())
    height, width = images.shape[2:]
    parts = math.ceil(height * width * len(factors) / _ZOOMED_AT_ONCE)
    at_once = math.ceil(width / min(parts, width))
    blocks = _zoom_matrices(width, factors, at_once)
    to_rows = _mean_zoom_matrix(height, factors)
    result = np.empty_like(images)
    # Zoom the columns, then zoom and average the rows: both are sparse linear maps.
    for image, out in zip(images.reshape(-1, 3 * height, width), result, strict=True):
        columns = np.asarray(cv2.transpose(image), np.uint8).astype(np.float32)
        for number, to_columns in enumerate(blocks):
            zoomed = np.asarray(cv2.transpose(to_columns.multiply(columns)), np.float32)
            mean = to_rows.multiply(zoomed.reshape(3 * height * len(factors), -1))
            start = number * at_once
            out[:, :, start : start + at_once] = quantise(mean).reshape(3, height, -1)
    return result


class _SparseMap(NamedTuple):
    """A sparse matrix in the form of `torch.embedding_bag`, which multiplies faster than SciPy."""

    places: torch.Tensor
    starts: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, matrix: sparse.csr_array) -> _SparseMap:
        starts = torch.from_numpy(matrix.indptr[:-1].astype(np.int32))
        places = torch.from_numpy(matrix.indices.astype(np.int32))
        return cls(places, starts, torch.from_numpy(matrix.data))

    def multiply(self, lines: Floats) -> Floats:
        """Multiply with float32 `[columns of the matrix, N]`."""
        return np.asarray(
            F.embedding_bag(
                self.places,
                torch.from_numpy(lines),
                self.starts,
                mode="sum",
                per_sample_weights=self.weights,
            )
        )


@lru_cache(maxsize=64)
def _zoom_matrices(side: int, factors: tuple[float, ...], at_once: int) -> tuple[_SparseMap, ...]:
    """The maps that zoom a line of pixels by each factor, for so many pixels of the result each.

    `[factors * at_once, side]`: the rows are ordered by factor, then by pixel.
    """
    maps = [_zoom_matrix(side, factor) for factor in factors]
    return tuple(
        _SparseMap.of(sparse.vstack([one[start : start + at_once] for one in maps], format="csr"))
        for start in range(0, side, at_once)
    )


def _zoom_matrix(side: int, factor: float) -> sparse.csr_array:
    crop = math.ceil(side / factor)
    zoomed = round(crop * factor)
    first = (zoomed - side) // 2
    places = np.arange(first, first + side) * ((crop - 1) / (zoomed - 1)) + (side - crop) // 2
    below = np.minimum(places.astype(int), side - 2)
    share = (places - below).astype(np.float32)
    at = np.arange(side)
    entries = np.concatenate([1 - share, share])
    indices = (np.concatenate([at, at]), np.concatenate([below, below + 1]))
    zoom = sparse.csr_array((entries, indices), shape=(side, side))
    zoom.eliminate_zeros()
    return zoom


@lru_cache(maxsize=64)
def _mean_zoom_matrix(side: int, factors: tuple[float, ...]) -> _SparseMap:
    """The mean of the image and all its zooms; the first zoom, by 1, is the image again.

    `[3 * side, 3 * side * factors]`: the rows are ordered by channel, then by pixel, and the
    columns also by factor.
    """
    weights = np.ones(len(factors), np.float32)
    weights[0] += 1
    weights /= len(factors) + 1
    stacked = np.arange(side * len(factors)).reshape(len(factors), side)
    zooms = [
        weight * _zoom_matrix(side, factor) for weight, factor in zip(weights, factors, strict=True)
    ]
    mean = sparse.hstack(zooms, format="csr")[:, stacked.T.ravel()]
    return _SparseMap.of(sparse.block_diag([mean] * 3, format="csr").sorted_indices())


def glass_blur(
    images: Pixels,
    generators: Generators,
    *,
    sigma: Positive,
    reach: Annotated[float, whole(1, 15)],
    passes: Annotated[float, whole(1, 100)],
) -> Pixels:
    """Blur, give each pixel the value of a nearby one, in place, and blur again.

    The benchmark's code tries to swap two pixels, but it swaps two views of one array, so both get
    the value of the second. This is kept, because the benchmark's images were made that way. The
    offsets are from -reach to reach - 1, as in the benchmark.

    Args:
        images: uint8 `[B, 3, H, W]`.
        generators: one for each image; it gives the offsets.
        sigma: standard deviation of the Gaussian in pixels, > 0.
        reach: largest offset on each axis in pixels, a whole number from 1 to 15.
        passes: number of passes over the image, a whole number from 1 to 100.
    """
    height, width = images.shape[2:]
    scanned = [len(range(side)[_scanned(side, int(reach))]) for side in (height, width)]

    def shatter(image: Pixels) -> Floats:
        blurred = quantise(gaussian_filter(image, sigma))
        source, *later = (
            _pixel_origins(height, width, int(reach), offsets)
            for offsets in draw_offsets(next(generators), int(reach), (int(passes), 2, *scanned))
        )
        for origins in later:
            source = take(source, origins)
        # As pixels of four bytes, each is copied at once.
        pixels = cv2.cvtColor(blurred, cv2.COLOR_RGB2RGBA).view(np.int32).ravel()
        moved = take(pixels, source).view(np.uint8).reshape(height, width, 4)
        return gaussian_filter(np.asarray(cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB), np.uint8), sigma)

    return change_each_image(images, shatter)


def _scanned(side: int, reach: int) -> slice:
    """The rows or columns that change: the benchmark's limits. In small images, there are none."""
    return slice(reach + 1, max(0, side - reach + 1))


def _pixel_origins(height: int, width: int, reach: int, offsets: npt.NDArray[np.int8]) -> Places:
    """Return, for each pixel of `[H * W]`, where its value comes from after one pass.

    Args:
        height, width: pixels.
        reach: largest offset in pixels.
        offsets: down and to the right, for each pixel that is scanned.

    The benchmark goes from the lower right to the upper left and overwrites each pixel with one at
    a random offset. If that pixel comes later in the pass, it still has its old value. If it came
    earlier, it has already been overwritten, so its own origin is looked up, and so on. All these
    chains are followed at once, in steps twice as long each time; few have more than two links.
    """
    places = np.arange(height * width, dtype=place_type(height * width))
    hop = places.copy()
    if offsets.size:
        step = np.asarray(cv2.addWeighted(offsets[0], width, offsets[1], 1, 0, dtype=cv2.CV_32S))
        # A negative step of 16 bits wraps, and so does its sum.
        scanned = hop.reshape(height, width)[_scanned(height, reach), _scanned(width, reach)]
        scanned += step.astype(hop.dtype)
    if reach == 1:
        return hop  # all offsets lead to pixels that come later
    # A pixel outside the scan is its own origin, which ends the chain.
    link = np.maximum(hop, places)
    last = take(link, link)
    if last.dtype == np.uint16:  # all are looked up sooner than those that go on are picked
        while not np.array_equal(last, link):
            link, last = last, take(last, last)
        return take(hop, last)
    pending = np.flatnonzero(last != link)
    while len(pending):
        before = last.take(pending)
        reached = last.take(before)
        last[pending] = reached
        pending = pending[reached != before]
    return take(hop, last)


def draw_offsets(
    generator: np.random.Generator, reach: int, shape: tuple[int, ...]
) -> npt.NDArray[np.int8]:
    """Draw whole numbers from -reach to reach - 1, as `generator.integers` for one pass at a time.

    Args:
        generator: one without half a number left.
        reach: from 1 to 15.
        shape: the passes come first; each begins with 32 new bits.
    """
    if reach & (reach - 1):
        passes, *size = shape
        return np.stack(
            [generator.integers(-reach, reach, size=size, dtype=np.int8) for _ in range(passes)]
        )
    # Numpy takes the upper bits of each byte, and rejects none; eight bytes at once are faster.
    count = math.prod(shape[1:])
    words = -(-count // 4)
    raw = generator.bit_generator.random_raw(-(-shape[0] * words // 2))
    drawn = raw.view(np.uint32)[: shape[0] * words].reshape(shape[0], words).view(np.uint8)
    numbers = drawn[:, :count] >> np.uint8(9 - (2 * reach).bit_length())
    return (numbers.view(np.int8) - np.int8(reach)).reshape(shape)
