"""Encoded image files to one 8-bit tensor: upright, RGB, resized and cropped, each file once."""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from fairweather.data.listing import Item
from fairweather.errors import InputError

Pixels = npt.NDArray[np.uint8]
WORKERS = min(os.cpu_count() or 1, 32)
CHUNK = 16  # images per task: one small image costs less than handing it to a thread


class UnreadableImageError(InputError):
    """One image cannot be decoded; the message names it, and `skip_unreadable` skips it."""


class Decoded(NamedTuple):
    """What became of a number of items.

    Attributes:
        images: uint8 `[readable, 3, H, W]`.
        readable: bool `[N]`, which of the items these are.
        skipped: names of the others.
    """

    images: torch.Tensor
    readable: npt.NDArray[np.bool_]
    skipped: list[str]


def decode_images(
    items: Iterable[Item], count: int, *, size: int | None, skip_unreadable: bool
) -> Decoded:
    """Decode `count` items, in threads, into one tensor that is allocated once.

    Items are taken from the iterator as they are needed, so that few encoded images are in memory
    at a time. With a size, images become `[3, size, size]` (see `decode_image`); without, all must
    have the same height and width.

    Raises:
        InputError: an image is unreadable and `skip_unreadable` is false, or, without a size, two
            images differ in theirs.

    >>> square = Item("square", lambda: Image.new("L", (9, 9), 7))
    >>> decode_images([square], 1, size=8, skip_unreadable=False).images.unique()
    tensor([7], dtype=torch.uint8)
    """
    pixels = np.empty((0, 3, size or 0, size or 0), dtype=np.uint8)
    readable = np.zeros(count, dtype=np.bool_)
    skipped: list[str] = []
    first = ""
    filled = 0
    with _strict_pillow(), ThreadPoolExecutor(WORKERS) as pool:
        for place, (name, result) in enumerate(_decode_in_order(pool, items, size)):
            if isinstance(result, UnreadableImageError):
                if not skip_unreadable:
                    raise result
                skipped.append(name)
                continue
            if not filled:
                first, pixels = name, np.empty((count, *result.shape), dtype=np.uint8)
            elif result.shape != pixels.shape[1:]:
                raise InputError(
                    f"images differ in height x width: {first} has {_shape(pixels)} and {name} has "
                    f"{_shape(result)}; set size to resize and crop all of them"
                )
            pixels[filled] = result
            readable[place] = True
            filled += 1
    return Decoded(torch.from_numpy(pixels[:filled]), readable, skipped)


def decode_image(item: Item, size: int | None) -> Pixels:
    """Decode one image: uint8 `[3, H, W]`.

    * EXIF orientation is applied; of an animation, the first frame is taken.
    * Every mode becomes RGB. Transparency is dropped, as torchvision's `ImageFolder` does, so the
      colour stored under a transparent pixel shows. 16-bit grayscale is scaled, `round(v / 257)`,
      over its whole range and not over what one image uses: images stay comparable in brightness.
      Floating-point images have no known range and are refused.
    * The shorter side is resized to `size` (Pillow's antialiased bilinear filter, aspect kept) and
      the center is cropped, as torchvision's `Resize` and `CenterCrop` do. An image that is already
      `size` x `size` keeps every bit.

    Raises:
        UnreadableImageError: it is no image, or is damaged, too large or of unknown range.
    """
    try:
        with item.open() as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb = _fit(_to_rgb(upright), size)
    except MemoryError:
        raise
    # On damaged files Pillow's decoders raise anything from SyntaxError to struct.error.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's word: a file that may not be opened, or too many open files
        raise UnreadableImageError(f"cannot read {item.name}: {_reason(error)}") from error
    return np.asarray(rgb).transpose(2, 0, 1).copy()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("it has floating-point pixels (mode F), whose range is unknown")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, which turns a radiograph white.
        values = np.asarray(image, dtype=np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            found = f"{values.min()} to {values.max()}"
            raise ValueError(f"its pixels go from {found}, which is not a 16-bit range")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


def _fit(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or image.size == (size, size):
        return image
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"it is too elongated to be resized: {width} x {height} pixels at {size}")
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def _reason(error: Exception) -> str:
    # Pillow's sentence holds the address of a buffer, and the system's repeats the file name.
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image in a format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


Result = tuple[str, Pixels | UnreadableImageError]


def _decode_in_order(
    pool: ThreadPoolExecutor, items: Iterable[Item], size: int | None
) -> Iterator[Result]:
    def decode_chunk(chunk: list[Item]) -> list[Result]:
        return [(item.name, _decode_or_error(item, size)) for item in chunk]

    # Executor.map would read every item before it returned the first result.
    running: deque[Future[list[Result]]] = deque()
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        running.append(pool.submit(decode_chunk, chunk))
        if len(running) > WORKERS:
            yield from running.popleft().result()
    for future in running:
        yield from future.result()


def _decode_or_error(item: Item, size: int | None) -> Pixels | UnreadableImageError:
    try:
        return decode_image(item, size)
    except UnreadableImageError as error:
        return error


@contextmanager
def _strict_pillow() -> Iterator[None]:
    # Warning filters are per process, so they are set once around the pool, not in its threads.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # remarks on metadata change no pixel
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _shape(pixels: Pixels) -> str:
    return "{} x {}".format(*pixels.shape[-2:])
