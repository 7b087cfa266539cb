"""What all corruptions share: random numbers per image, changed batches, the row of a table."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from fairweather.errors import InputError, missing_pictures
from fairweather.shifts.ranges import check_arguments
from fairweather.types.measurement import ShiftFunction, format_number

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.integer[Any]]
Generators = Iterator[np.random.Generator]
Draws = TypeVar("Draws")
Entry = TypeVar("Entry", bound=np.integer[Any] | np.floating[Any])

SMALLEST_SIDE = 8  # pixels


def image_generators(keys: torch.Tensor, seed: int, stream: str) -> Iterator[np.random.Generator]:
    """Yield one generator per image, which depends only on its key, the seed and the stream.

    The global random state is neither used nor changed.

    Args:
        keys: int64 `[B]`.
        seed: the random seed of the shifts.
        stream: the name of the random sequence, such as a shift with its level.

    >>> first, second = image_generators(torch.tensor([7, 8]), 0, "gaussian_noise,severity=3")
    >>> again, = image_generators(torch.tensor([8]), 0, "gaussian_noise,severity=3")
    >>> bool(second.random() == again.random() != first.random())
    True
    """
    common = hashlib.blake2b(f"{seed}/{stream}/".encode(), digest_size=8)
    for key in keys.tolist():
        # The seed is 64 bits of a hash. With a million images and a thousand cells, two images
        # share a generator in one of forty runs. SFC64 is numpy's fastest generator.
        digest = common.copy()
        digest.update(key.to_bytes(8, "little", signed=True))
        yield np.random.Generator(np.random.SFC64(int.from_bytes(digest.digest(), "little")))


def draw_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw float32 numbers from -1 to 1: 2 u - 1 of numpy's u = `random(dtype=float32)`.

    Of a generator without half a number left, twice as fast: each of its 64 bits give two numbers.

    >>> first, second = np.random.default_rng(0), np.random.default_rng(0)
    >>> bool((draw_uniform(first, (5,)) == 2 * second.random(5, dtype=np.float32) - 1).all())
    True
    """
    count = math.prod(shape)
    words = generator.bit_generator.random_raw(-(-count // 2)).view(np.uint32)[:count]
    numbers = (words >> np.uint32(8)).astype(np.float32)
    numbers *= np.float32(2**-23)
    numbers -= 1
    return numbers.reshape(shape)


class Corruption(NamedTuple):
    """A row of the table of corruptions."""

    function: Callable[..., Pixels]
    """See the docstring of `imagenet_c.corruptions`."""

    title: str
    """Text for table heads."""

    @property
    def is_random(self) -> bool:
        """Whether it needs random numbers."""
        return "generators" in inspect.signature(self.function).parameters


def check_severity(name: str, severity: float) -> int:
    """Return a severity; raises `InputError` unless it is 1, 2, 3, 4 or 5."""
    if severity not in (1, 2, 3, 4, 5):
        raise InputError(
            f"{name}: severity must be 1, 2, 3, 4 or 5, found {format_number(severity)}"
        )
    return int(severity)


def make_corruption_shift(
    name: str,
    severity: int,
    row: Corruption,
    published_at: Callable[[int], Mapping[str, float]],
    constants: Mapping[str, float],
    finish: Callable[[Pixels], Pixels] = lambda pixels: pixels,
) -> ShiftFunction:
    """Make a shift of a corruption.

    Args:
        name: as in the table of shifts; with the severity, it names the stream of random numbers.
        severity: 1 to 5.
        row: the corruption.
        published_at: gives its published constants for the smaller side of the images.
        constants: values that replace the published ones.
        finish: changes the corrupted images once more.
    """
    check_arguments(row.function.__name__, row.function, constants)
    stream, is_random = f"{name},severity={severity}", row.is_random

    def apply(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST_SIDE:
            raise InputError(
                f"{name} needs images of at least {SMALLEST_SIDE} pixels per side, "
                f"found {height}x{width}"
            )
        if len(images) == 0:
            return images.clone()
        # On the CPU, so that every device sees the same shifted images.
        pixels = np.ascontiguousarray(images.cpu().numpy())
        drawn = (image_generators(keys, seed, stream),) if is_random else ()
        parameters = {**published_at(min(height, width)), **constants}
        changed = row.function(pixels, *drawn, **parameters)
        return torch.from_numpy(finish(changed)).to(images.device)

    if constants:  # a trial, since only the corruption knows which values it allows
        trial = torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE, dtype=torch.uint8)
        apply(trial, torch.zeros(1, dtype=torch.int64), 0)
    return apply


def find_asset(package: str, content: str, *place: str) -> Path:
    """Find a file of a package without importing it, since its imports may be missing or fail."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise missing_pictures(package, content)
    return Path(spec.origin).parent.joinpath(*place)


def corrupt_each(
    images: Pixels,
    draws: Iterable[Draws],
    change: Callable[[Pixels, Draws], npt.NDArray[np.floating]],
) -> Pixels:
    """Change images `[B, 3, H, W]` one by one, clip to [0, 255], and drop the fraction.

    Args:
        images: uint8.
        draws: what each image gets, such as its random generator; one is taken for each.
        change: uint8 `[3, H, W]` and its draws to new real numbers of the same shape.

    >>> images = np.full((1, 3, 1, 1), 100, np.uint8)
    >>> corrupt_each(images, [0.5], lambda image, drawn: image + drawn).ravel()
    array([100, 100, 100], dtype=uint8)
    """
    result = np.empty_like(images)
    for image, out, drawn in zip(images, result, draws, strict=False):
        changed = change(image, drawn)
        np.copyto(out, np.clip(changed, 0, 255, out=changed), casting="unsafe")
    return result


# In uniform areas, sums of float32 weights can end slightly below the exact whole number. A
# thousandth of a grey level is added, so that dropping the fraction does not take a whole level.
_NUDGE = np.float32(1e-3)


def change_each_image(images: Pixels, change: Callable[[Pixels], Floats]) -> Pixels:
    """Change images `[B, 3, H, W]` one by one, and quantise.

    Args:
        images: uint8.
        change: uint8 `[H, W, 3]` to float32 in [0, 255] of the same shape.

    >>> change_each_image(np.full((1, 3, 1, 1), 100, np.uint8), lambda image: image * np.float32(
    ...     1.258
    ... )).ravel()
    array([125, 125, 125], dtype=uint8)
    """
    result = np.empty_like(images)
    for planes, changed in zip(images, result, strict=True):
        cv2.split(quantise(change(cv2.merge(tuple(planes)))), tuple(changed))
    return result


def quantise(image: Floats) -> Pixels:
    """Drop the fraction of values >= 0 and < 255.99; the array itself is changed.

    >>> quantise(np.array([0.7, 41.99999, 255.4], np.float32)).tolist()
    [0, 42, 255]
    """
    image += _NUDGE
    return image.astype(np.uint8)


def quantise_clipped(image: Floats) -> Pixels:
    """Drop the fraction of values >= 0, or below by a rounding error; above 255 becomes 255.

    In one pass, since OpenCV rounds to the nearest whole number; one value of 200,000 differs by
    one from that of `quantise`.

    >>> quantise_clipped(np.array([[-1e-5, 0.7, 41.99999, 256.7]], np.float32)).tolist()
    [[0, 0, 42, 255]]
    """
    return np.asarray(cv2.convertScaleAbs(image, alpha=1, beta=float(_NUDGE) - 0.5), np.uint8)


# OpenCV has tables of 65,536 entries since version 4.13; numpy takes twice as long.
_HAS_LARGE_TABLES = tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)


def take_pairs(table: npt.NDArray[Entry], first: Pixels, second: Pixels) -> npt.NDArray[Entry]:
    """Return the entries `256 * first + second` of a table, `[256 * 256]`, for arrays `[n, m]`.

    >>> table = np.arange(65536, dtype=np.uint16)
    >>> take_pairs(table, np.array([[1]], np.uint8), np.array([[2]], np.uint8))
    array([[258]], dtype=uint16)
    """
    pairs = cv2.merge((second, first)).view(np.uint16)[..., 0]
    if _HAS_LARGE_TABLES:
        return np.asarray(cv2.LUT(pairs, table), table.dtype)
    return table.take(pairs)


def place_type(count: int) -> np.dtype[np.integer[Any]]:
    """The type of places in a table of so many entries: 16 bits where OpenCV looks them up."""
    return np.dtype(np.uint16 if _HAS_LARGE_TABLES and count <= 1 << 16 else np.int32)


def take(table: npt.NDArray[Entry], places: Places) -> npt.NDArray[Entry]:
    """Return `table[places]` of a table `[n]`; places of `place_type(n)` are fastest.

    >>> take(np.array([5, 6, 7], np.int32), np.array([2, 0], np.uint16))
    array([7, 5], dtype=int32)
    """
    if not _HAS_LARGE_TABLES or places.dtype != np.uint16:
        return table.take(places)
    padded = np.empty(1 << 16, table.dtype)  # no place leads to what is left empty
    padded[: len(table)] = table
    return np.asarray(cv2.LUT(places.reshape(1, -1), padded), table.dtype).reshape(places.shape)


def gaussian_filter(image: Floats | Pixels, sigma: float) -> Floats:
    """Convolve `[H, W]` or `[H, W, C]` with a Gaussian, as `skimage.filters.gaussian` does.

    It is cut off at 4 sigma, so a sigma below 1/8 pixel changes nothing; edges are repeated.

    >>> line = np.array([[0, 0, 100, 0, 0]], np.float32)
    >>> gaussian_filter(line, 0.4).round(1)
    array([[ 0. ,  4. , 91.9,  4. ,  0. ]], dtype=float32)
    """
    line = cv2.getGaussianKernel(2 * int(4 * sigma + 0.5) + 1, sigma, cv2.CV_32F)
    return separable_filter(image, np.asarray(line, np.float32), cv2.BORDER_REPLICATE)


def separable_filter(image: Floats | Pixels, line: Floats, border: int) -> Floats:
    """Convolve rows and columns of `[H, W]` or `[H, W, C]` with one line of taps, an odd number."""
    # Faster from 8 bits; but OpenCV adds up to five taps in another order then.
    if len(line) <= 5:
        image = image.astype(np.float32)
    return np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, line, line, borderType=border), np.float32)
