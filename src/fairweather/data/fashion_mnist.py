"""The source `fashion-mnist`: 70,000 gray 28x28 pictures of clothes (Xiao et al. 2017)."""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairweather.data.known import (
    DAMAGED,
    check_md5,
    find_folder,
    md5,
    missing_file,
    obtain,
    own_folder,
    read_file,
)
from fairweather.data.source import Request, Source, listing_of_arrays
from fairweather.errors import InputError
from fairweather.facts import read_facts

NAME = "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PLACES = (".", "FashionMNIST/raw", "raw", NAME)
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FACTS = read_facts("fairweather.data", "known_sets")[NAME]
CLASSES = tuple(_FACTS["classes"])
# Of the compressed files, as downloaded: torchvision.datasets.FashionMNIST.resources.
COMPRESSED_MD5: Mapping[str, str] = _FACTS["compressed_md5"]
# Of the files after decompression. Debian has compressed the same bytes again; torchvision stores
# them uncompressed.
CONTENT_MD5: Mapping[str, str] = _FACTS["content_md5"]
PREFIXES = {"train": "train", "test": "t10k"}
UNSIGNED_BYTES = 0x08  # the third byte of an idx file; the fourth is the number of dimensions


def list_fashion_mnist(request: Request) -> Source:
    """60,000 training and 10,000 test images of ten kinds of clothes: 28x28 gray.

    With a path, they are read from there: a folder of the four idx files, uncompressed or as .gz,
    or a folder that has them in `FashionMNIST/raw`, where torchvision stores them. Without a path,
    they are read from the Debian package dataset-fashion-mnist if it is installed. Otherwise they
    are read from the cache, and downloaded if they are missing. Checksums are those of the
    uncompressed content.

    Raises:
        InputError: a file is missing, damaged or not the published one.
    """
    folder, origin = _find(request)
    paths = {stem: _idx_path(folder, stem) for stem in CONTENT_MD5}
    contents = {stem: _read_content(path) for stem, path in paths.items()}
    digests = {stem: md5(content) for stem, content in contents.items()}
    for stem, published in CONTENT_MD5.items():
        check_md5(paths[stem], digests[stem], published, request.verify)
    splits = {}
    for split, prefix in PREFIXES.items():
        images, labels = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        pixels = _parse_idx(contents[images], paths[images], (28, 28))
        numbers = _parse_idx(contents[labels], paths[labels], ())
        _check_pair(paths[images], pixels, paths[labels], numbers)
        splits[split] = listing_of_arrays(
            numbers, pixels, (paths[images],), f"{NAME} {split} image"
        )
    notes = {"origin": origin, "verified": request.verify, "md5": digests}
    return Source(CLASSES, splits, NAME, notes)


def _find(request: Request) -> tuple[Path, str]:
    if request.path is not None:
        marks = [stem + suffix for stem in CONTENT_MD5 for suffix in (".gz", "")]
        return find_folder(NAME, request.path, PLACES, marks), str(request.path)
    if DEBIAN.is_dir():
        return DEBIAN, "the Debian package dataset-fashion-mnist"
    folder = own_folder(NAME)
    for stem, checksum in COMPRESSED_MD5.items():
        path = folder / f"{stem}.gz"
        if not path.exists():
            obtain(request, f"{URL}{stem}.gz", path, checksum)
    return folder, URL


def _idx_path(folder: Path, stem: str) -> Path:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.exists():
            return path
    raise missing_file(NAME, f"{stem}.gz", folder)


def _read_content(path: Path) -> bytes:
    content = read_file(NAME, path.name, path.parent)
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except DAMAGED as error:
        raise InputError(f"{str(path)!r} is damaged or cut off: {error}") from error


def _parse_idx(content: bytes, path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return uint8 `[N, *shape]` from the format of http://yann.lecun.com/exdb/mnist (2010)."""
    header = struct.Struct(f">{2 + len(shape)}I")
    if len(content) < header.size:
        raise InputError(f"{str(path)!r} is cut off: an idx file has at least {header.size} bytes")
    magic, count, *found = header.unpack_from(content)
    expected = UNSIGNED_BYTES << 8 | 1 + len(shape)
    if magic != expected:
        raise InputError(
            f"{str(path)!r} is not the expected idx file: it begins with {magic:#010x} instead of "
            f"{expected:#010x}"
        )
    if tuple(found) != shape:
        sizes = " x ".join(map(str, found))
        raise InputError(f"{str(path)!r} has images of {sizes} pixels instead of 28 x 28")
    needed = header.size + count * math.prod(shape)
    if len(content) != needed:
        raise InputError(f"{str(path)!r} has {len(content)} bytes, but its header says {needed}")
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(count, *shape)


def _check_pair(
    images: Path, pixels: npt.NDArray[np.uint8], labels: Path, numbers: npt.NDArray[np.uint8]
) -> None:
    if len(pixels) != len(numbers):
        raise InputError(
            f"{str(images)!r} has {len(pixels)} images and {labels.name!r} {len(numbers)} labels"
        )
    if not len(pixels):
        raise InputError(f"{str(images)!r} has no images")
    if numbers.max() >= len(CLASSES):
        raise InputError(f"{str(labels)!r} has the label {numbers.max()}; known are 0 to 9")
