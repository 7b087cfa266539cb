"""Decoded images on disk: one memory-mapped file per split, named by a digest of its content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import secrets
import shutil
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from loky import cpu_count

from fairweather.data.pixels import (
    Content,
    Pixels,
    Scale,
    Square,
    Target,
    UnreadableImageError,
    decode_image,
    decoder_facts,
    max_pixels,
    strict_pillow,
    write_decoded,
)
from fairweather.data.sources import RawImage
from fairweather.data.splits import Subset
from fairweather.errors import DISK_FULL, InputError
from fairweather.files.folders import cache_folder, cannot_store
from fairweather.processes import keep_freed_memory, submit, wait_for_result
from fairweather.progress import Event, Notify
from fairweather.types.measurement import BoolArray

# ---------------------------------------------------------------- files of pixels

# The pixels come first, so that the memory map starts with them. Then come a JSON object (the
# shape, which images could not be read, and a digest of both and of the pixels), its length, and a
# mark. A file is used only if it ends with the mark, and if its size and pixels fit its record.


RECORD_END = struct.Struct("<Q8s")
RECORD_MARK = b"fwpixels"
HASHED_BYTES = 1 << 22  # bytes of pixels whose digest a thread computes in one go
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL)  # of some network file systems
# Python 3.11 lacks the name; the value is that of <asm-generic/mman-common.h>.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class PixelFile(NamedTuple):
    """The content of a file that `seal` has completed."""

    images: torch.Tensor
    """uint8 `[readable, 3, H, W]`, a memory map; writing to it does not change the file."""

    unreadable: dict[int, str]
    """The reason why an image could not be read, by its place."""


@contextmanager
def explain_cache_errors(folder: Path) -> Iterator[None]:
    """Turn system errors about the cache folder into an `InputError` with advice."""
    try:
        yield
    except OSError as error:
        raise cannot_store("decoded images", folder, error) from error


def reserve_disk(file: BinaryIO, folder: Path, needed: int) -> None:
    """Reserve `needed` bytes of disk for a file, so that a full disk is noticed before decoding.

    Raises:
        InputError: there is not enough space; says how much is needed and how much there is.
    """
    free = shutil.disk_usage(folder).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, needed)
    except OSError as error:
        if error.errno in CANNOT_RESERVE:
            return  # writing reports a full disk later
        if error.errno not in DISK_FULL:
            raise
        raise InputError(
            f"decoded images need {_format_bytes(needed)} in {str(folder)!r}, where "
            f"{_format_bytes(free)} are free; the environment variable FAIRWEATHER_CACHE names "
            "another folder"
        ) from error


def seal(path: Path, shape: tuple[int, ...], unreadable: Mapping[int, str]) -> PixelFile:
    """Cut a file after its pixels, append the record, and map it.

    Nothing waits until all is on the disk: `open_sealed` finds out what a power cut has left.
    """
    places = {str(place): reason for place, reason in unreadable.items()}
    record: dict[str, Any] = {"shape": list(shape), "unreadable": places}
    with path.open("r+b") as file:
        size = file.truncate(math.prod(shape))
        pixels = _map_pixels(file, size)
        text = json.dumps({**record, "sha256": _digest(pixels, record)}).encode()
        file.seek(size)
        file.write(text + RECORD_END.pack(len(text), RECORD_MARK))
    return _pixel_file(pixels, record)


def open_sealed(path: Path, count: int) -> PixelFile | None:
    """Map the file at `path`, made of `count` images; None if it is missing, cut or damaged.

    Writing to the map does not change the file. The map may be larger than memory, since the system
    drops unchanged pages and reads them again.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        record = _read_record(file)
        if record is None:
            return None
        expected = record.pop("sha256")
        pixels = _map_pixels(file, math.prod(record["shape"]))
    # Without this, one flipped bit on a disk would change scores unnoticed.
    if _digest(pixels, record) != expected:
        return None
    if record["shape"][0] + len(record["unreadable"]) != count:
        return None
    return _pixel_file(pixels, record)


def _map_pixels(file: BinaryIO, size: int) -> mmap.mmap | bytearray:
    if size == 0:  # which cannot be mapped
        return bytearray()
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    return mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE | NO_RESERVE, writable)


def _digest(pixels: mmap.mmap | bytearray, record: Mapping[str, Any]) -> str:
    """The SHA-256 of the digests of all stretches of the pixels, which threads compute, and of the
    record."""
    with memoryview(pixels) as view, ThreadPoolExecutor(cpu_count()) as pool:

        def digest_stretch(start: int) -> bytes:
            return hashlib.sha256(view[start : start + HASHED_BYTES]).digest()

        stretches = pool.map(digest_stretch, range(0, len(view), HASHED_BYTES))
        hasher = hashlib.sha256(b"".join(stretches))
    hasher.update(json.dumps(record).encode())
    return hasher.hexdigest()


def _pixel_file(pixels: mmap.mmap | bytearray, record: Mapping[str, Any]) -> PixelFile:
    images = torch.from_numpy(np.ndarray(record["shape"], np.uint8, buffer=pixels))
    return PixelFile(images, {int(place): text for place, text in record["unreadable"].items()})


def _read_record(file: BinaryIO) -> dict[str, Any] | None:
    """The JSON object after the pixels; None if the file does not end with a valid one."""
    size = file.seek(0, os.SEEK_END)
    if size < RECORD_END.size:
        return None
    file.seek(size - RECORD_END.size)
    length, mark = RECORD_END.unpack(file.read(RECORD_END.size))
    start = size - RECORD_END.size - length
    if mark != RECORD_MARK or start < 0:
        return None
    file.seek(start)
    try:
        record = json.loads(file.read(length))
    except ValueError:
        return None
    if not isinstance(record, dict) or record.keys() != {"shape", "unreadable", "sha256"}:
        return None
    shape = record["shape"]
    is_shape = isinstance(shape, list) and all(type(side) is int for side in shape)
    is_valid = is_shape and math.prod(shape) == start and isinstance(record["unreadable"], dict)
    return record if is_valid else None


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# ---------------------------------------------------------------- decoding

SECONDS_ALONE = 1.0  # decoding that lasts longer is shared with others, who start in half a second
SECONDS_PER_TASK = 0.05  # sending images to a process takes a hundredth of this
MOST_PER_TASK = 128
ENVIRONMENT = {
    # A numerical library may start one thread per core when it is imported; decoding needs none.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc keeps the memory of one image for the next, which saves a tenth of the time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}

NumberedImage = tuple[int, RawImage]


class DecodingResult(NamedTuple):
    """The result of decoding a number of items."""

    shape: tuple[int, ...]
    """`(readable, 3, H, W)` of the pixels in the file."""

    unreadable: dict[int, str]
    """The reason why an item could not be read, by its place."""


def decode_images(
    items: Iterable[RawImage],
    count: int,
    path: Path,
    *,
    square: Square | None,
    skip_unreadable: bool,
    scale: Scale | None = None,
) -> DecodingResult:
    """Decode `count` items into the empty file at `path`: uint8 `[readable, 3, H, W]`.

    Items are taken from the iterator when they are needed, so that memory holds few encoded images.
    Decoded images are written directly to the file, whose space is reserved first. With a `square`,
    images become `[3, size, size]` (see `decode_image`); without one, all must have the same height
    and width. If it would take longer than a second, as many processes as there are cores decode
    the rest; set `LOKY_MAX_CPU_COUNT` in the environment for fewer.

    Raises:
        InputError: an image is unreadable and `skip_unreadable` is false; two images differ in
            height or width and there is no square; or the disk is full.

    >>> import tempfile
    >>> import numpy as np
    >>> image = RawImage("gray", np.full((9, 9), 7, dtype=np.uint8))
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     decode_images([image], 1, Path(file.name), square=Square(8, 8), skip_unreadable=False)
    DecodingResult(shape=(1, 3, 8, 8), unreadable={})
    """
    keep_freed_memory()
    numbered, workers = enumerate(items), cpu_count()
    with strict_pillow(), _open_for_writing(path) as file:
        writer = _PixelWriter(file, path, count, square, skip_unreadable, scale)
        per_task = _decode_here(writer, numbered, workers)
        _decode_in_parallel(writer, numbered, workers, per_task)
        writer.close_gaps()
    side = square.size if square else 0
    shape = writer.shape or (3, side, side)
    return DecodingResult((count - len(writer.unreadable), *shape), writer.unreadable)


@contextmanager
def _open_for_writing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; closing it writes too, and so may find the disk full."""
    file = path.open("r+b")
    try:
        yield file
    finally:
        with explain_cache_errors(path.parent):
            file.close()


@dataclass
class _PixelWriter:
    """A file that is being filled. It decodes each image and checks its shape."""

    file: BinaryIO
    path: Path
    count: int
    square: Square | None
    skip_unreadable: bool
    scale: Scale | None
    shape: tuple[int, ...] | None = None
    first: str = ""  # name of the image that has this shape
    position: int = 0  # where in the file the last write ended
    unreadable: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, image: RawImage) -> None:
        try:
            pixels = to_pixels(image.content, self.square, self.scale)
        except UnreadableImageError as error:
            if not self.skip_unreadable:
                raise unreadable_error(image.name, f"{error}{OR_SKIP}") from error
            self.unreadable[place] = str(error)
            return
        if self.shape is None:
            self.shape, self.first = pixels.shape, image.name
            with explain_cache_errors(self.path.parent):
                reserve_disk(self.file, self.path.parent, self.count * pixels.nbytes)
        if pixels.shape != self.shape:
            raise InputError(
                f"images differ in height x width: {self.first} has {_format_size(self.shape)} and "
                f"{image.name} has {_format_size(pixels.shape)}; set size to resize and crop all "
                "of them"
            )
        start = place * pixels.nbytes
        with explain_cache_errors(self.path.parent):
            if start != self.position:  # a seek flushes the buffer: one write per image
                self.file.seek(start)
            self.file.write(pixels.data)
        self.position = start + pixels.nbytes

    def close_gaps(self) -> None:
        """Move pixels forward over the places of images that could not be read."""
        readable, size = 0, math.prod(self.shape or ())
        with explain_cache_errors(self.path.parent):
            self.file.flush()
            for place in range(self.count) if self.shape and self.unreadable else ():
                if place in self.unreadable:
                    continue
                if readable < place:
                    self.file.seek(place * size)
                    pixels = self.file.read(size)
                    self.file.seek(readable * size)
                    self.file.write(pixels)
                readable += 1


def to_pixels(content: Content, square: Square | None, scale: Scale | None = None) -> Pixels:
    """Make one image uint8 `[3, H, W]`, as `decode_image` does.

    Pixels that already have their final size only change their layout. Pillow would copy them
    several times, and sending them to another process would cost even more.

    >>> to_pixels(np.full((9, 9), 7, dtype=np.uint8), None).shape
    (3, 9, 9)
    """
    if scale is not None or not has_final_size(content, square):
        return decode_image(content, square, scale)
    assert isinstance(content, np.ndarray)
    if content.ndim == 2:
        return np.repeat(content[None], 3, axis=0)
    return content.transpose(2, 0, 1).copy()


def has_final_size(content: Content, square: Square | None) -> bool:
    """Say whether an image is given as pixels, gray or RGB, that need no resizing and no crop.

    >>> pixels = np.zeros((9, 9), dtype=np.uint8)
    >>> has_final_size(pixels, Square(9, resize=9)), has_final_size(pixels, Square(9, resize=10))
    (True, False)
    """
    if not isinstance(content, np.ndarray) or content.dtype != np.uint8:
        return False
    if content.ndim != 2 and content.shape[2:] != (3,):
        return False
    return square is None or content.shape[:2] == (square.size, square.size) == 2 * (square.resize,)


# How to load the other images.
OR_SKIP = "; remove the file, or skip it with skip_unreadable (--skip-unreadable)"


def unreadable_error(name: str, reason: str) -> InputError:
    """Build the error for an image that cannot be decoded."""
    return InputError(f"cannot read {name}: {reason}")


def _decode_here(writer: _PixelWriter, numbered: Iterator[NumberedImage], workers: int) -> int:
    """Decode in this process: all items, or until it pays to start others.

    Returns:
        How many images to send to a process at a time.
    """
    start, busy, decoded = time.perf_counter(), time.thread_time(), 0
    for place, image in numbered:
        writer.add(place, image)
        if writer.scale is None and has_final_size(image.content, writer.square):
            continue
        decoded += 1
        seconds = time.perf_counter() - start
        left = seconds / decoded * (writer.count - place)
        is_slow = left >= SECONDS_ALONE and seconds >= SECONDS_ALONE / 10
        if is_slow and workers > 1 and writer.shape is not None:
            per_image = max((time.thread_time() - busy) / decoded, 1e-6)
            return min(max(int(SECONDS_PER_TASK / per_image), 1), MOST_PER_TASK)
    return MOST_PER_TASK


def _decode_in_parallel(
    writer: _PixelWriter, numbered: Iterator[NumberedImage], workers: int, per_task: int
) -> None:
    """Decode the rest in other processes; this one decodes while they start, and tries again what
    they cannot decode."""
    running: deque[tuple[list[NumberedImage], Future[list[int]]]] = deque()
    have_started = False

    def collect_first() -> None:
        chunk, future = running.popleft()
        with explain_cache_errors(writer.path.parent):
            advice = "set LOKY_MAX_CPU_COUNT=1 in the environment to decode in one process"
            failed = wait_for_result(future, "decoded images", advice)
        for place, image in chunk:
            if place in failed:
                writer.add(place, image)

    try:
        # Executor.map would read every image before it returns the first result.
        while chunk := list(islice(numbered, per_task)):
            if len(running) == 2 * workers:
                have_started = have_started or running[0][1].done()
                if not have_started:
                    while chunk:  # each image is freed before more of them are read
                        writer.add(*chunk.pop(0))
                    continue
                collect_first()
            assert writer.shape is not None  # known since `_decode_here`
            target = Target(writer.path, writer.shape, writer.square, max_pixels(), writer.scale)
            contents = [image.content for _, image in chunk]
            future = submit(workers, ENVIRONMENT, write_decoded, target, chunk[0][0], contents)
            running.append((chunk, future))
        while running:
            collect_first()
    finally:
        for _, future in running:
            future.cancel()


def _format_size(shape: tuple[int, ...]) -> str:
    return "{} x {}".format(*shape[-2:])


# ---------------------------------------------------------------- the cache

VERSION = 3  # raise it if the same images give other pixels, or if the layout of a file changes
FILES_PER_TASK = 64  # files whose digest a thread computes in one go
ABANDONED_SECONDS = 3600.0  # after so long without a write, the process of a file must have died
IMAGES_PER_REPORT = 256  # of progress


class CachedImages(NamedTuple):
    """The images of a split."""

    images: torch.Tensor
    """uint8 `[readable, 3, H, W]`, memory-mapped; writing to it does not change the cache."""

    readable: BoolArray
    """Bool `[N]`, which keys of the split have an image."""

    skipped: list[str]
    """Names of the images that could not be read; of a file, its path in the source's folder."""

    reason: str = ""
    """Why the first skipped image could not be read."""


@dataclass(frozen=True)
class CacheEntry:
    """The images of a split and how they are decoded, which determine their file in the cache."""

    part: Subset
    """The images: a listing and keys into it."""

    name: str
    """The name of the split. Splits of one file share its content, and may have the same keys."""

    content: str
    """Digest of the listing's files (`content_digests`)."""

    square: Square | None = None
    scale: Scale | None = None
    """`square`, `scale`: see `decode_image`."""

    @property
    def path(self) -> Path:
        """The file in the cache folder, whether it exists or not."""
        facts = {
            "version": VERSION,
            "part": self.name,
            "content": self.content,
            "keys": hashlib.sha256(self.part.keys.astype("<i8").tobytes()).hexdigest(),
            "size": _describe_square(self.square),
            **({} if self.scale is None else {"scale": list(self.scale)}),
            **decoder_facts(),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "images" / f"{key}.pixels"

    @property
    def is_decoded(self) -> bool:
        """Whether the cache has the decoded images."""
        return self.path.is_file()


def read_or_decode(
    entry: CacheEntry, *, skip_unreadable: bool, progress: Notify | None = None
) -> CachedImages:
    """Map the decoded images of a split, and decode them first if they are not in the cache.

    The file is in `images/` of the cache folder. It is filled under another name and renamed when
    it is complete. A lock makes sure that only one process decodes the same images.

    Args:
        entry: the images and how they are decoded.
        skip_unreadable: leave unreadable images out.
        progress: called with the number of decoded images and their total, every 256 images.

    Raises:
        InputError: see `decode_images`; or the cache folder cannot be read or written.
    """
    path, part, name = entry.path, entry.part, entry.name
    with explain_cache_errors(path.parent):
        stored = open_sealed(path, len(part.keys))
    if stored is None:
        if progress is not None and path.is_file():
            line = f"the decoded {name} images in the cache are damaged, or of an earlier version"
            progress(Event(f"decode {name}", 0, None, line=f"{line}: they are decoded again"))
        stored = _decode_once(entry, skip_unreadable, progress)
    readable = np.ones(len(part.keys), dtype=np.bool_)
    readable[list(stored.unreadable)] = False
    if not stored.unreadable:
        return CachedImages(stored.images, readable, [])
    # Names come from the listing: a file may have been renamed since it was decoded.
    skipped_keys, names = part.keys[~readable], part.listing.names
    reason = stored.unreadable[min(stored.unreadable)]
    if not skip_unreadable:
        first = next(iter(part.listing.read(skipped_keys[:1])))
        raise unreadable_error(first.name, f"{reason}{OR_SKIP}")
    if names is None:
        skipped = [image.name for image in part.listing.read(skipped_keys)]
    else:
        skipped = [names[key] for key in skipped_keys]
    return CachedImages(stored.images, readable, skipped, reason)


def content_digests(parts: Mapping[str, Subset]) -> dict[str, str]:
    """Return the SHA-256 of each split's files: of their bytes in order, whatever their names.

    Files that splits share are read once. The digest ends with the listing's `stretch`, which tells
    listings of the same files apart.
    """
    files = {name: part.listing.files for name, part in parts.items()}
    digests = {paths: _digest_files(paths) for paths in set(files.values())}
    return {name: digests[files[name]] + part.listing.stretch for name, part in parts.items()}


def _digest_files(files: tuple[Path, ...]) -> str:
    chunks = [files[i : i + FILES_PER_TASK] for i in range(0, len(files), FILES_PER_TASK)]
    hasher = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # hashing and reading release Python's lock
        for digests in pool.map(lambda chunk: b"".join(map(_digest_file, chunk)), chunks):
            hasher.update(digests)
    return hasher.hexdigest()


def _digest_file(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _describe_square(square: Square | None) -> int | list[object] | None:
    if square is None or square == Square(square.size, resize=square.size):
        return square and square.size  # as in earlier versions, whose files stay in use
    return list(square)


def _read_images(part: Subset, name: str, progress: Notify | None) -> Iterator[RawImage]:
    """Read the images of a split one by one, when decoding needs them, and report their number."""
    task, count = f"decode {name}", len(part.keys)
    for done, image in enumerate(part.listing.read(part.keys)):
        if progress is not None and done % IMAGES_PER_REPORT == 0:
            progress(Event(task, done, count))
        yield image
    if progress is not None:
        progress(Event(task, count, count))


def _decode_once(entry: CacheEntry, skip_unreadable: bool, progress: Notify | None) -> PixelFile:
    """Decode the images into the cache, unless another process does so meanwhile."""
    path, count = entry.path, len(entry.part.keys)
    with explain_cache_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    with lock:
        with explain_cache_errors(path.parent):
            if (stored := open_sealed(path, count)) is not None:
                return stored
            _remove_leftovers(path)
            partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
            partial.touch(exist_ok=False)
        try:
            decoded = decode_images(
                _read_images(entry.part, entry.name, progress),
                count,
                partial,
                square=entry.square,
                skip_unreadable=skip_unreadable,
                scale=entry.scale,
            )
            with explain_cache_errors(path.parent):
                stored = seal(partial, *decoded)
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return stored


def _remove_leftovers(path: Path) -> None:
    """Remove the partial files of killed processes; the caller holds the lock of `path`."""
    for leftover in path.parent.glob("*.partial"):
        is_of_path = leftover.name.startswith(f"{path.stem}.")
        with contextlib.suppress(FileNotFoundError):
            if is_of_path or time.time() - leftover.lstat().st_mtime > ABANDONED_SECONDS:
                leftover.unlink()
