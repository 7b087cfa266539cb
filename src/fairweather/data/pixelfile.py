"""A file of 8-bit pixels: reserved, filled, sealed by a record at its end, then memory-mapped.

The pixels come first, so that the memory map starts with them. Then come a JSON object (the shape,
which images could not be read, and the SHA-256 of the pixels), the length of this object, and a
mark. A file without the mark at its very end is not used, nor is a file of another size than its
record implies, or with other pixels.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from filelock import FileLock

from fairweather.errors import DISK_FULL, InputError
from fairweather.folders import cannot_store

END = struct.Struct("<Q8s")
MARK = b"fwpixels"
CHUNK = 1 << 24  # bytes of pixels that are hashed at a time
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL)
# Python 3.11 lacks the name; the value is that of <asm-generic/mman-common.h>.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class PixelFile(NamedTuple):
    """The content of a sealed file.

    Attributes:
        images: uint8 `[readable, 3, H, W]`, a memory map; writing to it changes memory alone.
        unreadable: the place of each image that could not be read, and the reason.
    """

    images: torch.Tensor
    unreadable: dict[int, str]


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the system's errors with the cache folder into an `InputError` with a way out."""
    try:
        yield
    except OSError as error:
        raise cannot_store("decoded images", folder, error) from error


def reserve(file: BinaryIO, folder: Path, needed: int) -> None:
    """Reserve `needed` bytes of disk for a file, so that a full disk is found before the work.

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
            return  # some network file systems cannot; writing reports a full disk too, but later
        if error.errno not in DISK_FULL:
            raise
        raise InputError(
            f"decoded images need {_size(needed)} in {str(folder)!r}, where {_size(free)} are "
            "free; the environment variable FAIRWEATHER_CACHE names another folder"
        ) from error


def remove_places(file: BinaryIO, places: Container[int], count: int, bytes_per_image: int) -> None:
    """Move pixels forward in the file over the places of images that could not be read."""
    kept = 0
    for place in range(count):
        if place in places:
            continue
        if kept < place:
            file.seek(place * bytes_per_image)
            pixels = file.read(bytes_per_image)
            file.seek(kept * bytes_per_image)
            file.write(pixels)
        kept += 1


def seal(path: Path, shape: tuple[int, ...], unreadable: Mapping[int, str]) -> None:
    """Cut a file after its pixels, append the record, and wait until everything is on the disk."""
    places = {str(place): why for place, why in unreadable.items()}
    record: dict[str, Any] = {"shape": list(shape), "unreadable": places}
    with path.open("r+b") as file:
        file.truncate(math.prod(shape))
        hasher = hashlib.file_digest(file, "sha256")
        hasher.update(json.dumps(record).encode())
        text = json.dumps({**record, "sha256": hasher.hexdigest()}).encode()
        file.seek(0, os.SEEK_END)
        file.write(text + END.pack(len(text), MARK))
        file.flush()
        os.fsync(file.fileno())


def lock_of(path: Path) -> FileLock:
    """The lock of the process that fills a file."""
    return FileLock(path.with_suffix(".lock"))


def open_sealed(path: Path, count: int) -> PixelFile | None:
    """Map the file at `path`, made of `count` images; None if it is missing, cut or damaged.

    The map is private and reserves no memory: writing to it changes memory alone, and it may be
    larger than memory, since the system drops unchanged pages and reads them again.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        record = _read_record(file)
        if record is None:
            return None
        expected = record.pop("sha256")
        pixels = mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    # Without this, a disk that changed one bit would change scores, and nobody would know.
    hasher = _hasher_of(pixels, math.prod(record["shape"]))
    hasher.update(json.dumps(record).encode())
    if hasher.hexdigest() != expected or record["shape"][0] + len(record["unreadable"]) != count:
        return None
    images = torch.from_numpy(np.ndarray(record["shape"], np.uint8, buffer=pixels))
    return PixelFile(images, {int(place): why for place, why in record["unreadable"].items()})


def _hasher_of(pixels: mmap.mmap, count: int) -> hashlib._Hash:
    """SHA-256 of the first `count` bytes."""
    hasher = hashlib.sha256()
    with memoryview(pixels) as view:
        for start in range(0, count, CHUNK):
            hasher.update(view[start : min(start + CHUNK, count)])
    return hasher


def _read_record(file: BinaryIO) -> dict | None:
    size = file.seek(0, os.SEEK_END)
    if size < END.size:
        return None
    file.seek(size - END.size)
    length, mark = END.unpack(file.read(END.size))
    start = size - END.size - length
    if mark != MARK or start < 0:
        return None
    file.seek(start)
    try:
        record = json.loads(file.read(length))
    except ValueError:
        return None
    if not isinstance(record, dict) or record.keys() != {"shape", "unreadable", "sha256"}:
        return None
    shape = record["shape"]
    plain = isinstance(shape, list) and all(type(side) is int for side in shape)
    whole = plain and math.prod(shape) == start and isinstance(record["unreadable"], dict)
    return record if whole else None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
