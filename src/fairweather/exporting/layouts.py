"""The files of an export: a tree of PNGs or one array file, both without loss."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy
from PIL import Image

from fairweather.data.source import SPLIT_NAMES
from fairweather.record import Frozen
from fairweather.types import Images

LONGEST_NAME = 60  # letters of up to 4 bytes; most file systems allow 255 bytes


class Written(Frozen):
    """The files that were written for a shift.

    Attributes:
        images, bytes: the numbers of images and of bytes.
        sha256: checksum of the file; of a tree, of the names and checksums of its files.
        pixels_sha256: checksum of all pixels, `[N, H, W, 3]`.
    """

    images: int
    bytes: int
    sha256: str | None = None
    pixels_sha256: str


class Format(NamedTuple):
    """A row of the table of formats.

    Attributes:
        suffix: ending of the name of a shift's file or folder.
        write: `(path, all images, batches of shifted images)`: writes the batches to a new path.
        checksum: of what was written at a path; another one, or "", if it has changed or is gone.
    """

    suffix: str
    write: Callable[[Path, Images, Iterable[Images]], Written]
    checksum: Callable[[Path], str]


def class_folders(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Choose a folder name for each class, so that sorted folder names are in label order.

    Tools that read one folder per class number the classes by sorted folder name. So the label is
    put in front if the names are not sorted, if two names would be equal, or if one is the name of
    a split. Characters that file systems or shells may not accept become `_`.

    >>> class_folders(("cat", "dog"))
    ('cat', 'dog')
    >>> class_folders(("smooth muscle", "mucus", "a/b"))
    ('0_smooth_muscle', '1_mucus', '2_a_b')
    """
    safe = [re.sub(r"[^\w-]+", "_", name)[:LONGEST_NAME] or "_" for name in classes]
    distinct = len({name.casefold() for name in safe}) == len(safe)
    if distinct and safe == sorted(safe) and not SPLIT_NAMES.keys() & {*map(str.lower, safe)}:
        return tuple(safe)
    digits = len(str(len(classes) - 1))
    return tuple(f"{label:0{digits}d}_{name}" for label, name in enumerate(safe))


def write_png_tree(path: Path, images: Images, batches: Iterable[Images]) -> Written:
    """Write CLASS/KEY.png for each image; keys are padded to equal length."""
    folders = [path / name for name in class_folders(images.classes)]
    for folder in folders:
        folder.mkdir(parents=True)
    digits = len(str(int(images.keys.max())))
    pixels = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # Pillow compresses without blocking other threads
        for batch in batches:
            arrays = _channels_last(batch)
            pixels.update(arrays.data)
            named = zip(batch.labels.tolist(), batch.keys.tolist(), strict=True)
            files = [folders[label] / f"{key:0{digits}d}.png" for label, key in named]
            list(pool.map(_save_png, files, arrays))  # `list` raises the errors of the threads
    files = _images_in(path)
    return Written(
        images=len(files),
        bytes=sum(file.stat().st_size for file in files),
        sha256=_checksum_of_tree(path),
        pixels_sha256=pixels.hexdigest(),
    )


def write_npz(path: Path, images: Images, batches: Iterable[Images]) -> Written:
    """Write `images`, `labels`, `keys` and `classes`, batch by batch, uncompressed.

    Equal images give equal bytes: the file contains no time.
    """
    shape = (len(images), *images.images.shape[2:], 3)
    pixels = hashlib.sha256()
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(member, header)
                for batch in batches:
                    arrays = _channels_last(batch)
                    pixels.update(arrays.data)
                    member.write(arrays.data)
            for name, column in _columns(images):
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                    npy.write_array(member, column, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return Written(
        images=len(images),
        bytes=path.stat().st_size,
        sha256=_checksum(path),
        pixels_sha256=pixels.hexdigest(),
    )


def _channels_last(batch: Images) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = batch.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _save_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def _images_in(path: Path) -> list[Path]:
    return sorted(path.glob("*/*.png"))


def _checksum_of_tree(path: Path) -> str:
    files = _images_in(path)
    with ThreadPoolExecutor() as pool:  # hashing and reading release Python's lock
        sums = pool.map(_checksum, files)
        lines = [
            f"{each}  {file.relative_to(path).as_posix()}\n"
            for file, each in zip(files, sums, strict=True)
        ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _columns(images: Images) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield "labels", images.labels.numpy()
    yield "keys", images.keys.numpy()
    yield "classes", np.array(images.classes, dtype=str)


def _checksum(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


FORMATS: Mapping[str, Format] = {
    "png": Format("", write_png_tree, _checksum_of_tree),
    "npz": Format(".npz", write_npz, _checksum),
}
