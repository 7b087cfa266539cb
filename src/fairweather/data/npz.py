"""Images in NumPy archives: `npz:PATH`, and the sets of MedMNIST, which are published as
archives."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic
from numpy.lib import format as npy

from fairweather.data.findings import FindingLabels, note_one_hot, read_finding_matrix
from fairweather.data.named_sets import check_md5, download_file, download_folder
from fairweather.data.sources import (
    SPLIT_NAMES,
    UNSPLIT,
    Listing,
    RawImage,
    Source,
    SourceRequest,
    check_exists,
    count_classes,
    require_path,
)
from fairweather.errors import UNREADABLE_ARRAYS, InputError
from fairweather.files.download import file_digest
from fairweather.files.folders import read_facts
from fairweather.types.measurement import MULTILABEL, ByteArray, IntArray
from fairweather.types.options import SPLITS
from fairweather.types.record import ORDERED_CLASSES

# ---------------------------------------------------------------- npz:PATH

BLOCK = 1 << 23  # bytes of images that are in memory at a time
CHANNELS = (1, 3)
PREFIXES = {"": UNSPLIT} | {f"{name}_": split for name, split in SPLIT_NAMES.items()}
CLASS_NAMES = ("classes", "class_names")
NEEDED = (
    "train_images and train_labels, and the same for val and test, or images and labels for one "
    "set without splits"
)
ALLOWED = "uint8 [N, H, W], [N, H, W, 1], [N, H, W, 3], [N, 1, H, W] or [N, 3, H, W]"


class ArrayHeader(NamedTuple):
    """The header of one array; its values are not read yet."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        """The name of the array in error messages."""
        return f"{self.key} in {str(self.path)!r}"


def list_npz(request: SourceRequest) -> Source:
    """Arrays of one .npz file: `train_images`, `train_labels`, `val_images` and so on.

    The split names are those of `folder:`; `images` and `labels` are one set without splits. Images
    are uint8, gray or RGB. Channels may be first or last if the shape is not ambiguous. Labels are
    whole numbers from 0, `[N]` or `[N, 1]`. Or they are findings: `[N, L]` of 0, 1 and -1 (unknown,
    as NaN is). Text in `classes` (or `class_names`) names the classes or findings; without it they
    are "0" to the largest label of any split. Images are read in blocks, so a file may be larger
    than memory. Keys are places in the array. Loading never executes code: pickled
    objects are refused.

    Raises:
        InputError: the file is of another kind or damaged, an array is missing or has another type
            or shape, or a label is negative, fractional or has no class.
    """
    path = require_path(request)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; npz: needs a .npz file")
    return list_archive(path)


def list_archive(path: Path, classes: tuple[str, ...] | None = None) -> Source:
    """List the images of a .npz file; given class names replace those in the file.

    Raises:
        InputError: see `list_npz`.
    """
    names = _array_names(path)
    keys = _pair_arrays(path, names)
    class_keys = [key for key in CLASS_NAMES if key in names]
    arrays = _read_headers(path, [*chain(*keys.values()), *class_keys])
    pairs = {split: (arrays[images], arrays[labels]) for split, (images, labels) in keys.items()}
    for images, labels in pairs.values():
        _check_images(images)
        _check_label_shape(labels, images)
    named = classes or (_read_class_names(arrays[class_keys[0]]) if class_keys else None)
    widths = {math.prod(labels.shape[1:]) for _, labels in pairs.values()}
    if len(widths) > 1:
        first, *_, last = sorted(widths)
        raise InputError(f"{str(path)!r} has {first} labels an image in one split and {last} else")
    several = widths != {1}
    columns = {
        split: read_finding_matrix(_read_whole(labels), str(labels))
        if several
        else _read_labels(labels)
        for split, (_, labels) in pairs.items()
    }
    splits = {split: _list_split(images, columns[split]) for split, (images, _) in pairs.items()}
    if several:
        return _name_findings(path, named, splits)
    largest = max(columns, key=lambda split: columns[split].max())
    every = np.concatenate(list(columns.values()))
    count = len(named) if named else count_classes(every, str(pairs[largest][1]))
    for split, (_, labels) in pairs.items():
        if len(outside := np.flatnonzero(columns[split] >= count)):
            raise InputError(
                f"label {outside[0]} of {labels} is {columns[split][outside[0]]}; with {count} "
                f"classes, allowed are 0 to {count - 1}"
            )
    return Source(named or tuple(str(label) for label in range(count)), splits)


def _name_findings(
    path: Path, named: tuple[str, ...] | None, splits: Mapping[str, Listing]
) -> Source:
    """The source of images with several findings, whose names are numbers if none are given."""
    every = np.concatenate([listing.labels for listing in splits.values()])
    findings = named or tuple(map(str, range(every.shape[1])))
    if len(findings) != every.shape[1]:
        raise InputError(
            f"{str(path)!r} has {every.shape[1]} labels an image and {len(findings)} names"
        )
    remark = f"findings: {FindingLabels(findings, every).describe()}"
    remark += note_one_hot(every)
    return Source(findings, splits, task=MULTILABEL, remarks=(remark,))


def _array_names(path: Path) -> list[str]:
    with _explain_npz_errors(path), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    return sorted(name.removesuffix(".npy") for name in names)


def _read_headers(path: Path, keys: Iterable[str]) -> dict[str, ArrayHeader]:
    arrays = {}
    with _explain_npz_errors(path), zipfile.ZipFile(path) as archive:
        for key in keys:
            info = archive.getinfo(f"{key}.npy")
            with archive.open(info) as member:
                arrays[key] = array = _read_header(path, key, member)
                size = member.tell() + math.prod(array.shape) * array.dtype.itemsize
            # Pickled objects have no known size; they are refused because of their type.
            if info.file_size != size and not array.dtype.hasobject:
                raise ValueError(f"{key} has {info.file_size} bytes, and its header says {size}")
    return arrays


def _find_array(path: Path, key: str) -> ArrayHeader:
    if key not in (names := _array_names(path)):
        raise InputError(f"{str(path)!r} has no {key}: found {', '.join(names) or 'no arrays'}")
    return _read_headers(path, [key])[key]


def _read_header(path: Path, key: str, member: IO[bytes]) -> ArrayHeader:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{key} has the format version {version}; known versions are 1.0 and 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(member)
    if fortran_order and len(shape) > 1:
        raise ValueError(
            f"the rows of {key} are not stored one after the other: save it with "
            "np.ascontiguousarray"
        )
    return ArrayHeader(path, key, shape, dtype)


def _pair_arrays(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    present = f"found {', '.join(names) or 'no arrays'}"
    pairs: dict[str, tuple[str, str]] = {}
    for prefix, split in PREFIXES.items():
        images, labels = f"{prefix}images", f"{prefix}labels"
        if images not in names and labels not in names:
            continue
        if images not in names or labels not in names:
            missing = images if images not in names else labels
            raise InputError(f"{str(path)!r} has no {missing}: {present}; it must have {NEEDED}")
        if split in pairs or UNSPLIT in pairs:
            first = (pairs.get(split) or pairs[UNSPLIT])[0]
            raise InputError(f"{str(path)!r} has both {first} and {images}; it must have {NEEDED}")
        pairs[split] = images, labels
    if not pairs:
        raise InputError(f"{str(path)!r} has no images: {present}; it must have {NEEDED}")
    return {split: pairs[split] for split in (*SPLITS, UNSPLIT) if split in pairs}


def _check_images(images: ArrayHeader) -> None:
    shape = list(images.shape)
    if images.dtype != np.uint8 or len(shape) not in (3, 4):
        raise InputError(f"{images} is {images.dtype} {shape}; allowed are {ALLOWED}")
    if 0 in shape:
        raise InputError(f"{images} is empty: its shape is {shape}")
    if len(shape) == 4 and (shape[1] in CHANNELS) == (shape[3] in CHANNELS):
        problem = "both" if shape[1] in CHANNELS else "neither"
        raise InputError(
            f"{images} has the shape {shape}: {problem} of dimensions 1 and 3 could be the "
            f"channels; allowed are {ALLOWED}"
        )


def _check_label_shape(labels: ArrayHeader, images: ArrayHeader) -> None:
    shape = list(labels.shape)
    if labels.dtype.kind not in "iufb":
        raise InputError(f"{labels} is {labels.dtype}; labels are whole numbers from 0")
    if len(shape) not in (1, 2):
        raise InputError(f"{labels} has the shape {shape}; allowed are [N], [N, 1] and [N, L]")
    if shape[0] != images.shape[0] or 0 in shape:
        raise InputError(f"{labels} has {shape[0]} labels for {images.shape[0]} images")


def _read_labels(labels: ArrayHeader) -> IntArray:
    values = _read_whole(labels).reshape(-1)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64)
    wrong = np.flatnonzero((whole != values) | (whole < 0))
    if len(wrong):
        raise InputError(
            f"label {wrong[0]} of {labels} is {values[wrong[0]]}; labels are whole numbers from 0"
        )
    return whole


def _read_whole(array: ArrayHeader) -> npt.NDArray[np.generic]:
    with _open_array(array) as member:
        return npy.read_array(member, allow_pickle=False)


def _read_class_names(array: ArrayHeader) -> tuple[str, ...]:
    if array.dtype.kind != "U" or len(array.shape) != 1 or not array.shape[0]:
        description = f"{array.dtype} {list(array.shape)}"
        raise InputError(
            f"{array} is {description}; class names must be text in label order: "
            "np.array(names, dtype=str)"
        )
    with _explain_npz_errors(array.path):
        names = tuple(str(name) for name in _read_whole(array))
    if len(set(names)) < len(names):
        raise InputError(f"{array} has a name twice: {', '.join(names)}")
    return names


def _list_split(images: ArrayHeader, labels: IntArray) -> Listing:
    def read(keys: IntArray) -> Iterator[RawImage]:
        for start, block in _read_blocks(images, int(keys[-1]) + 1 if len(keys) else 0):
            end = start + len(block)
            for key in keys[np.searchsorted(keys, start) : np.searchsorted(keys, end)]:
                yield RawImage(f"image {key} of {images}", block[key - start])

    return Listing(labels, read, (images.path,))


def _read_blocks(images: ArrayHeader, end: int) -> Iterator[tuple[int, ByteArray]]:
    size = math.prod(images.shape[1:])
    rows = max(BLOCK // size, 1)
    with _open_array(images) as member:
        _read_header(images.path, images.key, member)
        for start in range(0, end, rows):
            count = min(rows, images.shape[0] - start)
            content = member.read(count * size)
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(count, *images.shape[1:])
            yield start, _channels_last(pixels)


class ArchivedRows:
    """The rows of an array of 8-bit images in a .npz file, read one by one.

    Ascending rows are fast. Where the file is compressed, an earlier row is found from the start.

    Args:
        path: the file.
        key: the name of the array.

    Raises:
        InputError: the file cannot be read, or the array has another type or shape.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.header = _find_array(path, key)
        _check_images(self.header)
        with _explain_npz_errors(path):
            self._file = zipfile.ZipFile(path)
            self._member = self._file.open(f"{key}.npy")
            _read_header(path, key, self._member)
            self._start = self._member.tell()

    def __len__(self) -> int:
        return self.header.shape[0]

    def __getitem__(self, row: int) -> ByteArray:
        """The pixels of an image: uint8 `[H, W]` or `[H, W, 3]`."""
        shape = self.header.shape[1:]
        size = math.prod(shape)
        with _explain_npz_errors(self.header.path):
            self._member.seek(self._start + row * size)
            content = self._member.read(size)
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(1, *shape)
        return _channels_last(pixels)[0]

    def checksum(self) -> int:
        """The checksum of the array, as the archive states it."""
        return self._file.getinfo(self._member.name).CRC


def read_archived_labels(path: Path, key: str) -> IntArray:
    """The labels in a .npz file: int64 `[N]`, or `[N, L]` of findings.

    Raises `InputError` if the file has no such array, or other numbers.
    """
    labels = _find_array(path, key)
    if math.prod(labels.shape[1:]) > 1:
        return read_finding_matrix(_read_whole(labels), str(labels))
    return _read_labels(labels)


def _channels_last(pixels: ByteArray) -> ByteArray:
    if pixels.ndim == 4 and pixels.shape[3] not in CHANNELS:
        pixels = pixels.transpose(0, 2, 3, 1)
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels


@contextmanager
def _open_array(array: ArrayHeader) -> Iterator[IO[bytes]]:
    name = f"{array.key}.npy"
    with (
        _explain_npz_errors(array.path),
        zipfile.ZipFile(array.path) as file,
        file.open(name) as member,
    ):
        yield member


@contextmanager
def _explain_npz_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except UNREADABLE_ARRAYS as error:
        reason = _explain_npz_error(path, error)
        raise InputError(f"{str(path)!r} cannot be read as a .npz file: {reason}") from error


def _explain_npz_error(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return "it ends too early" if file.read(2) == b"PK" else "it is not a zip archive"
    return (str(error) or type(error).__name__).splitlines()[0]


# ---------------------------------------------------------------- MedMNIST

RESOLUTIONS = (28, 64, 128, 224)
MEDMNIST_URL = "https://zenodo.org/records/10519652/files/{file}?download=1"


class MedMNISTSet(NamedTuple):
    """The facts of one set."""

    shows: str
    """What its images show."""

    task: str
    """As MedMNIST calls it. Each image has one class, but any number of findings in chestmnist; an
    ordinal regression is treated as a classification, as its authors do."""

    channels: int
    """1 for gray images, 3 for RGB."""

    images: Mapping[str, int]
    """How many each split has."""

    classes: tuple[str, ...]
    """Names in label order."""

    md5: Mapping[int, str]
    """By resolution, of the published file."""

    classes_are: str
    """What the classes stand for, such as `findings`."""

    @property
    def title(self) -> str:
        """One line for lists."""
        colour = "colour" if self.channels == 3 else "gray"
        count = f"{sum(self.images.values()):,}"
        return f"{count} {self.shows}, {len(self.classes)} {self.classes_are}, {colour}"


def medmnist_file(name: str, resolution: int) -> str:
    """The name of the file that is published for a set at a resolution.

    >>> medmnist_file("pathmnist", 28), medmnist_file("pathmnist", 64)
    ('pathmnist.npz', 'pathmnist_64.npz')
    """
    return f"{name}.npz" if resolution == 28 else f"{name}_{resolution}.npz"


_MEDMNIST_FACTS = read_facts("fairweather.data", "medmnist_facts")
MEDMNIST_SETS = pydantic.TypeAdapter(dict[str, MedMNISTSet]).validate_python(
    _MEDMNIST_FACTS["sets"]
)
# Why other sets of MedMNIST are not read.
REFUSED_SETS: Mapping[str, str] = _MEDMNIST_FACTS["refused"]
# Of these sets, MedMNIST's descriptions say only of pathmnist that the test images come from
# elsewhere. Kather et al., who made the images, say (https://doi.org/10.5281/zenodo.1214456) that
# CRC-VAL-HE-7K has other patients. It comes from the tissue bank of the NCT, as does a part of
# NCT-CRC-HE-100K.
NATURAL_SHIFT: Mapping[str, str] = _MEDMNIST_FACTS["natural_shift"]


def list_medmnist(name: str, request: SourceRequest) -> Source:
    """The official splits of one set, from its published .npz file.

    The file is looked for in the request's folder, then in `~/.medmnist`, where the package
    medmnist stores it, then in fairweather's cache. If it is in none of them, it is downloaded into
    the request's folder, or into the cache where the request has no folder.

    Args:
        name: a key of `MEDMNIST_SETS`.
        request: `resolution` is 28 (also where it is None), 64, 128 or 224.

    Raises:
        InputError: there is no such resolution; the file is missing and cannot be downloaded, is
            damaged, or is not the published one.
    """
    resolution = 28 if request.resolution is None else request.resolution
    if resolution not in RESOLUTIONS:
        raise InputError(
            f"{name} has no resolution {resolution}: allowed are "
            f"{', '.join(f'{name}@{side}' for side in RESOLUTIONS)}"
        )
    facts = MEDMNIST_SETS[name]
    path, md5 = _obtain_medmnist(medmnist_file(name, resolution), facts.md5[resolution], request)
    listed = list_archive(path, facts.classes)
    notes = {"file": str(path), "md5": md5, "verified": md5 == facts.md5[resolution]}
    if name in NATURAL_SHIFT and set(listed.splits) == set(SPLITS):
        notes["natural_shift"] = NATURAL_SHIFT[name]
    if facts.task == "ordinal-regression":
        notes[ORDERED_CLASSES] = True
    return listed._replace(name=f"{name}@{resolution}", notes=notes)


def _obtain_medmnist(file: str, published: str, request: SourceRequest) -> tuple[Path, str]:
    """Find or download a file; its path and its MD5."""
    places = [Path("~/.medmnist").expanduser(), download_folder("medmnist")]
    target = places[-1]
    if request.path is not None:
        check_exists(request.path)
        if not request.path.is_dir():
            raise InputError(f"{str(request.path)!r} is a file; root is the folder of {file}")
        target = request.path
        places.insert(0, target)
    path = next((place / file for place in places if (place / file).is_file()), None)
    if path is None:
        path = download_file(request, MEDMNIST_URL.format(file=file), target / file, published)
        if request.verify:
            return path, published
    digest = file_digest(path, "md5")
    check_md5(path, digest, published, request.verify)
    return path, digest


def _make_lister(name: str) -> Callable[[SourceRequest], Source]:
    def load(request: SourceRequest) -> Source:
        return list_medmnist(name, request)

    load.__doc__ = f"MedMNIST: {MEDMNIST_SETS[name].title}; also @64, @128 and @224."
    return load


MEDMNIST = {name: _make_lister(name) for name in MEDMNIST_SETS}
