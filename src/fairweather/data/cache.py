"""Decoded images on disk: one memory-mapped file per split, keyed by the content of its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.data.decode import decode_images, unreadable_error
from fairweather.data.pixelfile import PixelFile, explained, lock_of, open_sealed, seal
from fairweather.data.source import Item
from fairweather.data.split import Part
from fairweather.folders import cache_folder
from fairweather.intensity import Scale
from fairweather.pixels import Square, decoder_facts
from fairweather.progress import Event, Notify

VERSION = 2  # raise it if the same files give other pixels, or if the layout of a file changes
FILES_PER_TASK = 64
ABANDONED = 3600.0  # seconds without a write, after which its process must have died
STRIDE = 256  # images between two reports of progress


class CachedImages(NamedTuple):
    """The images of a split.

    Attributes:
        images: uint8 `[readable, 3, H, W]`, memory-mapped; writing to it does not change the cache.
        readable: bool `[N]`, which keys of the split these images have.
        skipped: names of the other images, from the folder of the source on if they have files.
        reason: why the first of these cannot be read.
    """

    images: torch.Tensor
    readable: npt.NDArray[np.bool_]
    skipped: list[str]
    reason: str = ""


@dataclass(frozen=True)
class Entry:
    """The images of a split and how they are decoded, which determine their file in the cache.

    Attributes:
        part: a listing and keys into it.
        name: of the split. Splits of one file share its content, and may share their keys.
        content: digest of the listing's files (`content_digests`).
        square, scale: see `decode_image`.
    """

    part: Part
    name: str
    content: str
    square: Square | None = None
    scale: Scale | None = None

    @property
    def path(self) -> Path:
        """The file in the cache folder, which need not exist."""
        facts = {
            "version": VERSION,
            "part": self.name,
            "content": self.content,
            "keys": hashlib.sha256(self.part.keys.astype("<i8").tobytes()).hexdigest(),
            "size": _square_fact(self.square),
            **({} if self.scale is None else {"scale": list(self.scale)}),
            **decoder_facts(),
        }
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return cache_folder() / "images" / f"{key}.pixels"

    @property
    def is_decoded(self) -> bool:
        """Say whether the images are decoded in the cache."""
        return self.path.is_file()


def cached_images(
    entry: Entry, *, skip_unreadable: bool, progress: Notify | None = None
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
    with explained(path.parent):
        stored = open_sealed(path, len(part.keys))
    if stored is None:
        if progress is not None and path.is_file():
            line = f"the decoded {name} images in the cache are damaged, or of an earlier version"
            progress(Event(f"decode {name}", 0, None, line=f"{line}: they are decoded again"))
        stored = _decode_once(entry, path, skip_unreadable, progress)
    readable = np.ones(len(part.keys), dtype=np.bool_)
    readable[list(stored.unreadable)] = False
    if not stored.unreadable:
        return CachedImages(stored.images, readable, [])
    # Names come from the listing: a file may have been renamed since it was decoded.
    lost, names = part.keys[~readable], part.listing.names
    reason = stored.unreadable[min(stored.unreadable)]
    if not skip_unreadable:
        raise unreadable_error(next(iter(part.listing.read(lost[:1]))).name, reason)
    found = part.listing.read(lost) if names is None else ()
    skipped = [item.name for item in found] if names is None else [names[key] for key in lost]
    return CachedImages(stored.images, readable, skipped, reason)


def content_digests(parts: Mapping[str, Part]) -> dict[str, str]:
    """Return the SHA-256 of each split's files: of their bytes in order, whatever their names.

    Files that splits share are read once. The `stretch` of a listing is appended to the digest.
    """
    known: dict[tuple[Path, ...], str] = {}
    for part in parts.values():
        if part.listing.files not in known:
            known[part.listing.files] = _digest_files(part.listing.files)
    return {name: known[part.listing.files] + part.listing.stretch for name, part in parts.items()}


def _digest_files(files: tuple[Path, ...]) -> str:
    slices = [
        files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)
    ]
    whole = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # hashing and reading release Python's lock
        for digests in pool.map(lambda few: b"".join(map(_digest_file, few)), slices):
            whole.update(digests)
    return whole.hexdigest()


def _digest_file(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _square_fact(square: Square | None) -> int | list[object] | None:
    if square is None or square == Square(square.size, resize=square.size):
        return square and square.size  # as keys were made before there were preparations
    return list(square)


def _items(part: Part, name: str, progress: Notify | None) -> Iterator[Item]:
    """Read the items of a split one by one, when decoding needs them, and report their number."""
    task, count = f"decode {name}", len(part.keys)
    for done, item in enumerate(part.listing.read(part.keys)):
        if progress is not None and done % STRIDE == 0:
            progress(Event(task, done, count))
        yield item
    if progress is not None:
        progress(Event(task, count, count))


def _decode_once(
    entry: Entry, path: Path, skip_unreadable: bool, progress: Notify | None
) -> PixelFile:
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_of(path)
        lock.acquire()
    try:
        with explained(path.parent):  # another process may have decoded them meanwhile
            stored = open_sealed(path, len(entry.part.keys))
        return stored or _decode(entry, path, skip_unreadable, progress)
    finally:
        lock.release()


def _decode(entry: Entry, path: Path, skip_unreadable: bool, progress: Notify | None) -> PixelFile:
    count = len(entry.part.keys)
    partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    with explained(path.parent):
        for leftover in path.parent.glob("*.partial"):  # of killed processes
            ours = leftover.name.startswith(f"{path.stem}.")  # this process holds the lock
            with contextlib.suppress(FileNotFoundError):
                if ours or time.time() - leftover.lstat().st_mtime > ABANDONED:
                    leftover.unlink()
        partial.touch(exist_ok=False)
    try:
        decoded = decode_images(
            _items(entry.part, entry.name, progress),
            count,
            partial,
            square=entry.square,
            skip_unreadable=skip_unreadable,
            scale=entry.scale,
        )
        with explained(path.parent):
            seal(partial, *decoded)
            stored = open_sealed(partial, count)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    assert stored is not None  # it was sealed above
    return stored
