"""Decode the images of one split into one file of 8-bit pixels, in several processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from loky import cpu_count

from fairweather.data.pixelfile import explained, remove_places, reserve
from fairweather.data.source import Item
from fairweather.errors import InputError
from fairweather.intensity import Scale, UnreadableImageError
from fairweather.pixels import (
    Content,
    Pixels,
    Square,
    Target,
    decode_image,
    most_pixels,
    strict_pillow,
    write_decoded,
)
from fairweather.pool import result_of, submit

CHUNK = 16  # images per task: decoding one small image costs less than sending it to a process
SECONDS_ALONE = 1.0  # before other processes help: they need half a second to start
# A numerical library may start one thread per core when it is imported; decoding needs none.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Numbered = tuple[int, Item]


class Decoded(NamedTuple):
    """The result of decoding a number of items.

    Attributes:
        shape: `(readable, 3, H, W)` of the pixels in the file.
        unreadable: the place of each item that is not in the file, and the reason.
    """

    shape: tuple[int, ...]
    unreadable: dict[int, str]


def decode_images(
    items: Iterable[Item],
    count: int,
    path: Path,
    *,
    square: Square | None,
    skip_unreadable: bool,
    scale: Scale | None = None,
) -> Decoded:
    """Decode `count` items into the empty file at `path`: uint8 `[readable, 3, H, W]`.

    Items are taken from the iterator when they are needed, so that few encoded images are in memory
    at a time. Decoded images are written directly to the file, whose space is reserved first. With
    a `square`, images become `[3, size, size]` (see `decode_image`); without one, all must have the
    same height and width. After one second, as many processes as there are cores decode the rest;
    set `LOKY_MAX_CPU_COUNT` in the environment for fewer.

    Raises:
        InputError: an image is unreadable and `skip_unreadable` is false; two images differ in
            height or width and there is no square; or the disk is full.

    >>> import tempfile
    >>> import numpy as np
    >>> item = Item("gray", np.full((9, 9), 7, dtype=np.uint8))
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     decode_images([item], 1, Path(file.name), square=Square(8, 8), skip_unreadable=False)
    Decoded(shape=(1, 3, 8, 8), unreadable={})
    """
    numbered, workers = enumerate(items), cpu_count()
    with strict_pillow(), _opened(path) as file:
        filling = _Filling(file, path, count, square, skip_unreadable, scale)
        _decode_alone(filling, numbered, workers)
        _decode_together(filling, numbered, workers)
        filling.close_gaps()
    side = square.size if square else 0
    shape = filling.shape or (3, side, side)
    return Decoded((count - len(filling.unreadable), *shape), filling.unreadable)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; closing it writes too, so that it may find the disk full."""
    file = path.open("r+b")
    try:
        yield file
    finally:
        with explained(path.parent):
            file.close()


@dataclass
class _Filling:
    """A file that is being filled: the only place that checks the shape of each image."""

    file: BinaryIO
    path: Path
    count: int
    square: Square | None
    skip_unreadable: bool
    scale: Scale | None
    shape: tuple[int, ...] | None = None
    first: str = ""  # name of the image that has this shape
    position: int = 0  # in the file: where the last write ended
    unreadable: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, item: Item) -> None:
        try:
            pixels = to_pixels(item.content, self.square, self.scale)
        except UnreadableImageError as error:
            if not self.skip_unreadable:
                raise unreadable_error(item.name, str(error)) from error
            self.unreadable[place] = str(error)
            return
        if self.shape is None:
            self.shape, self.first = pixels.shape, item.name
            with explained(self.path.parent):
                reserve(self.file, self.path.parent, self.count * pixels.nbytes)
        if pixels.shape != self.shape:
            raise InputError(
                f"images differ in height x width: {self.first} has {_sides(self.shape)} and "
                f"{item.name} has {_sides(pixels.shape)}; set size to resize and crop all of them"
            )
        start = place * pixels.nbytes
        with explained(self.path.parent):
            if start != self.position:  # a seek flushes the buffer: one write per image
                self.file.seek(start)
            self.file.write(pixels.data)
        self.position = start + pixels.nbytes

    def close_gaps(self) -> None:
        with explained(self.path.parent):
            self.file.flush()
            if self.shape and self.unreadable:
                _, height, width = self.shape
                remove_places(self.file, self.unreadable, self.count, 3 * height * width)


def to_pixels(content: Content, square: Square | None, scale: Scale | None = None) -> Pixels:
    """Make one image uint8 `[3, H, W]`, as `decode_image` does.

    Pixels that already have their size only change their layout: Pillow would copy them several
    times, and sending them to another process costs more than that.

    >>> to_pixels(np.full((9, 9), 7, dtype=np.uint8), None).shape
    (3, 9, 9)
    """
    if scale is not None or not has_its_size(content, square):
        return decode_image(content, square, scale)
    assert isinstance(content, np.ndarray)
    if content.ndim == 2:
        return np.repeat(content[None], 3, axis=0)
    return content.transpose(2, 0, 1).copy()


def has_its_size(content: Content, square: Square | None) -> bool:
    """Say whether an image is given as pixels, gray or RGB, that need no resizing and no crop.

    >>> pixels = np.zeros((9, 9), dtype=np.uint8)
    >>> has_its_size(pixels, Square(9, resize=9)), has_its_size(pixels, Square(9, resize=10))
    (True, False)
    """
    if not isinstance(content, np.ndarray) or content.dtype != np.uint8:
        return False
    if content.ndim != 2 and content.shape[2:] != (3,):
        return False
    return square is None or content.shape[:2] == (square.size, square.size) == 2 * (square.resize,)


def unreadable_error(name: str, reason: str) -> InputError:
    """Build the error for an image that cannot be decoded."""
    return InputError(f"cannot read {name}: {reason}")


def _decode_alone(filling: _Filling, numbered: Iterator[Numbered], workers: int) -> None:
    start = time.perf_counter()
    for place, item in numbered:
        filling.add(place, item)
        if filling.scale is None and has_its_size(item.content, filling.square):
            continue
        waited = time.perf_counter() - start >= SECONDS_ALONE
        if waited and workers > 1 and filling.shape is not None:
            return


def _decode_together(filling: _Filling, numbered: Iterator[Numbered], workers: int) -> None:
    running: deque[tuple[list[Numbered], Future[list[int]]]] = deque()
    try:
        # Executor.map would read every item before it returns the first result.
        while chunk := list(islice(numbered, CHUNK)):
            running.append((chunk, _submit(filling, chunk, workers)))
            if len(running) > 2 * workers:
                _collect(filling, *running.popleft())
        while running:
            _collect(filling, *running.popleft())
    finally:
        for _, future in running:
            future.cancel()


def _submit(filling: _Filling, chunk: list[Numbered], workers: int) -> Future[list[int]]:
    assert filling.shape is not None  # known since `_decode_alone`
    target = Target(filling.path, filling.shape, filling.square, most_pixels(), filling.scale)
    contents = [item.content for _, item in chunk]
    return submit(workers, WORKER_ENVIRONMENT, write_decoded, target, chunk[0][0], contents)


def _collect(filling: _Filling, chunk: list[Numbered], future: Future[list[int]]) -> None:
    with explained(filling.path.parent):
        alone = "set LOKY_MAX_CPU_COUNT=1 in the environment to decode in one process"
        left = result_of(future, "decoded images", alone)
    for place, item in chunk:
        if place in left:
            filling.add(place, item)


def _sides(shape: tuple[int, ...]) -> str:
    return "{} x {}".format(*shape[-2:])
