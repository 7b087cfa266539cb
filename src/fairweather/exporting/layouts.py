"""The files of an export: a tree of PNGs, or one array file; both keep every bit."""

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

LONGEST_NAME = 60  # letters; most file systems take 255 bytes, and a letter has up to four


class Written(Frozen):
    """What was written of a shift.

    Attributes:
        images, bytes: how many.
        sha256: of the file, where it is one.
        pixels_sha256: of all pixels, `[N, H, W, 3]`.
    """

    images: int
    bytes: int
    sha256: str | None = None
    pixels_sha256: str


class Format(NamedTuple):
    """A row of the table of formats.

    Attributes:
        suffix: of the name of a shift's file or folder.
        write: `(path, all images, batches of the shifted ones)`: writes them to a new path.
        intact: `(path, what was written)`: is it still there.
    """

    suffix: str
    write: Callable[[Path, Images, Iterable[Images]], Written]
    intact: Callable[[Path, Written], bool]


def class_folders(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Name a folder for each class, such that folders sorted by name are in label order.

    Tools that read a folder a class number the classes by their sorted names. So where the names
    are not sorted, two of them become the same name, or one is that of a split, the label stands in
    front. What no file system or shell should meet becomes `_`.

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
    """Write CLASS/KEY.png for each image, the keys with as many digits as the largest."""
    folders = [path / name for name in class_folders(images.classes)]
    for folder in folders:
        folder.mkdir(parents=True)
    digits = len(str(int(images.keys.max())))
    pixels = hashlib.sha256()
    with ThreadPoolExecutor() as pool:  # Pillow compresses without holding up other threads
        for batch in batches:
            arrays = _channels_last(batch)
            pixels.update(arrays.data)
            named = zip(batch.labels.tolist(), batch.keys.tolist(), strict=True)
            files = [folders[label] / f"{key:0{digits}d}.png" for label, key in named]
            list(pool.map(_save_png, files, arrays))  # a list: it raises what a thread raised
    count, size = _measure_tree(path)
    return Written(images=count, bytes=size, pixels_sha256=pixels.hexdigest())


def png_tree_intact(path: Path, written: Written) -> bool:
    """Say whether there are as many images and bytes as there were."""
    return path.is_dir() and _measure_tree(path) == (written.images, written.bytes)


def write_npz(path: Path, images: Images, batches: Iterable[Images]) -> Written:
    """Write `images`, `labels`, `keys` and `classes`, batch by batch, uncompressed.

    The same images give the same bytes, whenever it is.
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


def npz_intact(path: Path, written: Written) -> bool:
    """Say whether the file has the checksum that it had."""
    return path.is_file() and _checksum(path) == written.sha256


FORMATS: Mapping[str, Format] = {
    "png": Format("", write_png_tree, png_tree_intact),
    "npz": Format(".npz", write_npz, npz_intact),
}


def _channels_last(batch: Images) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = batch.images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def _save_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def _measure_tree(path: Path) -> tuple[int, int]:
    """How many images there are, and how many bytes."""
    sizes = [file.stat().st_size for file in path.glob("*/*.png")]
    return len(sizes), sum(sizes)


def _columns(images: Images) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield "labels", images.labels.numpy()
    yield "keys", images.keys.numpy()
    yield "classes", np.array(images.classes, dtype=str)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
