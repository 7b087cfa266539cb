"""Published test sets of corrupted images: `imagenet-c:FOLDER` as shifts of clean images.

One corruption at one severity, `imagenet-c:FOLDER/fog/3`, can be read as data too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pydantic

from fairweather.data.image_folders import list_folder
from fairweather.data.named_sets import CIFAR_CLASSES
from fairweather.data.npz import ArchivedRows, read_archived_labels
from fairweather.data.pixels import UnreadableImageError, strict_pillow
from fairweather.data.sources import UNSPLIT, Listing, RawImage, Source, SourceRequest, check_exists
from fairweather.errors import InputError, join_names, unknown_name
from fairweather.files.download import file_digest
from fairweather.files.folders import read_facts
from fairweather.types.measurement import ByteArray, Images, IntArray, StoredImage

if TYPE_CHECKING:  # reports, which name these sets, start in half the time without it
    import torch

SEVERITIES = (1, 2, 3, 4, 5)
FILES = "-files"  # what the name of a set ends with where its files are shifts
LABELS = "labels.npy"  # beside the arrays of a set
IMAGES_KEY, LABELS_KEY = "test_images", "test_labels"  # in a .npz file of MedMNIST-C
STATS_PER_TASK = 512  # files whose size a thread asks for in one go

# ---------------------------------------------------------------- the table of sets


class PublishedSet(NamedTuple):
    """A published set of corrupted test images."""

    title: str
    layout: Literal["folders", "npy", "npz"]
    """`fog/3/CLASS/FILE`; or `fog.npy` with `labels.npy`; or `fog.npz` with images and labels. An
    array has all images at severity 1, then the same at severity 2, and so on."""

    images: int | None
    """How many each corruption has at a severity; None where sets differ."""

    side: int
    """Height and width in pixels."""

    address: str
    """Where to get it."""

    also: tuple[str, ...]
    """Other spellings of its name."""

    corruptions: tuple[str, ...]
    """In the order of their authors."""


PUBLISHED_SETS: Mapping[str, PublishedSet] = pydantic.TypeAdapter(
    dict[str, PublishedSet]
).validate_python(read_facts("fairweather.data", "published_sets"))
# Hendrycks and Dietterich 2019: the fifteen corruptions of the benchmark, then four for validation.
CORRUPTIONS = PUBLISHED_SETS["imagenet-c"].corruptions
BENCHMARK = f"imagenet-c{FILES}"  # the family of the published mCE
# The family that is made in memory as the published files were.
TWINS = {
    BENCHMARK: "imagenet_c",
    f"cifar-10-c{FILES}": "imagenet_c",
    f"cifar-100-c{FILES}": "imagenet_c",
    f"tiny-imagenet-c{FILES}": "imagenet_c",
    f"medmnist-c{FILES}": "medmnist_c",
}
SUFFIXES = {"npy": ".npy", "npz": ".npz"}


def find_published_name(name: str) -> str:
    """Give the usual name of a published set, whatever its spelling; another name stays.

    >>> find_published_name("cifar10-c"), find_published_name("folder")
    ('cifar-10-c', 'folder')
    """
    usual = (known for known, facts in PUBLISHED_SETS.items() if name in facts.also)
    return next(usual, name)


def find_published_set(shift: str) -> PublishedSet | None:
    """The published set that a shift, or a family of shifts, is read from; None for another one.

    >>> find_published_set("imagenet-c-files/fog").title, find_published_set("imagenet_c/fog")
    ('ImageNet-C', None)
    """
    family, _, _ = shift.partition("/")
    return PUBLISHED_SETS.get(family.removesuffix(FILES)) if family.endswith(FILES) else None


def find_twin(shift: str) -> str:
    """The shift that is made in memory as published files were; "" where there is none.

    >>> find_twin("cifar-10-c-files/fog"), find_twin("3dcc-files/fog_3d")
    ('imagenet_c/fog', '')
    """
    family, _, corruption = shift.partition("/")
    return f"{TWINS[family]}/{corruption}" if family in TWINS else ""


# ---------------------------------------------------------------- cells: a corruption at a severity


class PublishedCell(NamedTuple):
    """The files of a corruption at a severity."""

    published: str
    """The name of the set."""

    corruption: str
    severity: int
    path: Path
    """The folder of the severity, or the file with all severities."""

    @property
    def source(self) -> str:
        """The text that finds these files again."""
        if self.path.suffix not in SUFFIXES.values():
            return f"{self.published}:{self.path}"
        return f"{self.published}:{self.path.with_suffix('')}/{self.severity}"

    @property
    def shift(self) -> str:
        """The name of the shift."""
        return f"{self.published}{FILES}/{self.corruption}"


def find_cells(published: str, path: Path) -> list[PublishedCell]:
    """Find the corruptions and severities of a set in a folder.

    Args:
        published: the name of the set.
        path: its folder, in which corruptions may lie in folders such as `blur`, as in the archives
            of ImageNet-C; or FOLDER/CORRUPTION, or FOLDER/CORRUPTION/SEVERITY.

    Raises:
        InputError: there is nothing of the set, or a corruption lies in two places.
    """
    facts = PUBLISHED_SETS[published]
    place, severity = path, None
    if path.parent.name in facts.corruptions:
        place, severity = path.parent, path.name
    if place.name in facts.corruptions and _list_severities(facts, place):
        cells = _list_cells(published, {place.name: place})
        if severity is None:
            return cells
        if severity not in map(str, SEVERITIES):
            raise InputError(f"a severity of {published} is 1 to 5, found {severity!r}")
        if chosen := [cell for cell in cells if str(cell.severity) == severity]:
            return chosen
    if not place.exists() and place.name in facts.corruptions and place.parent.is_dir():
        inner = _find_corruptions(facts, place.parent).get(place.name)
        if inner is not None:  # in a folder such as `blur`
            return find_cells(published, inner if severity is None else inner / severity)
    check_exists(path)
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is a file; {published}: needs the folder of the set")
    places = _find_corruptions(facts, path)
    if not places:
        layout = {"folders": "fog/3/CLASS/IMAGE", "npy": "fog.npy and labels.npy", "npz": "fog.npz"}
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        raise InputError(
            f"{str(path)!r} has no corruption of {facts.title}: it must have files such as "
            f"{layout[facts.layout].replace('fog', facts.corruptions[0])}; it has "
            f"{join_names(names) or 'nothing'}"
        )
    return _list_cells(published, places)


def _find_corruptions(facts: PublishedSet, folder: Path) -> dict[str, Path]:
    inner = sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    places: dict[str, Path] = {}
    for parent in (folder, *inner):
        for name in facts.corruptions:
            place = parent / name
            if not _list_severities(facts, place):
                continue
            if name in places:
                both = f"{str(places[name].parent)!r} and {str(parent)!r}"
                raise InputError(f"{name} lies in both {both}: name one of these folders")
            places[name] = place
    return {name: places[name] for name in facts.corruptions if name in places}


def _list_severities(facts: PublishedSet, place: Path) -> list[int]:
    if facts.layout == "folders":
        return [severity for severity in SEVERITIES if (place / str(severity)).is_dir()]
    return [*SEVERITIES] if _array_path(facts, place).is_file() else []


def _array_path(facts: PublishedSet, place: Path) -> Path:
    return place.with_name(f"{place.name}{SUFFIXES[facts.layout]}")


def _list_cells(published: str, places: Mapping[str, Path]) -> list[PublishedCell]:
    facts = PUBLISHED_SETS[published]
    return [
        PublishedCell(
            published,
            name,
            severity,
            place / str(severity) if facts.layout == "folders" else _array_path(facts, place),
        )
        for name, place in places.items()
        for severity in _list_severities(facts, place)
    ]


# ---------------------------------------------------------------- files instead of a shift


@dataclass(frozen=True)
class PublishedFiles:
    """The files of a cell, paired with clean images; they take the place of a shift."""

    cell: PublishedCell
    digest: str | None = None
    """Of an array's content, or the names and sizes of image files; None until they are paired."""

    @property
    def source(self) -> str:
        """The text that finds these files again."""
        return self.cell.source

    @property
    def is_array(self) -> bool:
        """Whether one file has all images."""
        return PUBLISHED_SETS[self.cell.published].layout != "folders"

    def pair_with(self, images: Images) -> PublishedFiles:
        """Pair the files with clean images, and say which files these are.

        Raises:
            InputError: a file is missing, or the labels or sizes of both differ.
        """
        _index_folder.cache_clear()  # files may have been added
        _open_rows.cache_clear()
        digest = self._check_array(images) if self.is_array else self._check_folder(images)
        self.read(images[:1])
        return replace(self, digest=digest)

    def locate(self, images: Images) -> list[StoredImage]:
        """Find the file of each image: by its name, or in an array by its key."""
        if self.is_array:
            path = str(self.cell.path)
            first = (self.cell.severity - 1) * (len(_open_rows(path)) // len(SEVERITIES))
            return [StoredImage(path, first + key) for key in images.keys.tolist()]
        return [StoredImage(str(self.cell.path / name)) for name in self._names(images)]

    def read(self, images: Images) -> torch.Tensor:
        """Read the images, uint8 `[N, 3, H, W]`."""
        import torch

        shape = tuple(images.images.shape[1:])
        return torch.from_numpy(read_stored(self.locate(images), shape))

    def _names(self, images: Images) -> list[str]:
        """The path of each image's file in the folder of the cell."""
        if images.names is None:
            raise InputError(
                f"{self.cell.published} is paired by the names of image files, and these clean "
                "images are not in files: give folder:PATH or csv:PATH"
            )
        index, stems = _index_folder(self.cell.path), list(map(_stem, images.names))
        missing = [
            name for name, stem in zip(images.names, stems, strict=True) if stem not in index
        ]
        if missing:
            raise InputError(
                f"{self.source} has no file for {len(missing):,} of the {len(images):,} clean "
                f"images: {join_names(missing)}"
            )
        return [index[stem] for stem in stems]

    def _check_folder(self, images: Images) -> str:
        names = self._names(images)
        folders = [name.partition("/")[0] for name in names]
        _check_labels(self.source, np.unique(folders, return_inverse=True)[1], images)
        paths = [f"{self.cell.path}/{name}" for name in names]
        chunks = [paths[at : at + STATS_PER_TASK] for at in range(0, len(paths), STATS_PER_TASK)]
        with ThreadPoolExecutor() as pool:  # a shared disk answers slowly
            sizes = [size for part in pool.map(_list_sizes, chunks) for size in part]
        lines = (f"{name}\0{size}\n" for name, size in zip(names, sizes, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _check_array(self, images: Images) -> str:
        path, keys = self.cell.path, images.keys.numpy()
        rows, labels = _open_rows(str(path)), _read_array_labels(path)
        if len(rows) != len(SEVERITIES) * len(labels):
            raise InputError(
                f"{str(path)!r} has {len(rows)} images, but there are {len(SEVERITIES)} times "
                f"{len(labels)} labels"
            )
        if keys.max() >= len(labels):
            raise InputError(
                f"{self.source} has {len(labels):,} images, and the clean set has more: give the "
                "test images that it was made from"
            )
        if labels.ndim == images.labels.ndim:
            same = (labels[keys] == images.labels.numpy()).reshape(len(keys), -1).all(axis=1)
            if not same.all():
                raise InputError(
                    f"the labels of {self.source} differ from those of {(~same).sum():,} of the "
                    f"{len(keys):,} clean images: give the test images that it was made from, in "
                    "their order"
                )
        else:
            _check_labels(self.source, labels[keys], images)
        state = path.stat()
        checksum = rows.checksum or _hash_file(path, state.st_size, state.st_mtime_ns)
        facts = repr((rows.shape, checksum, state.st_size)).encode()
        return hashlib.sha256(facts + labels.astype("<i8").tobytes()).hexdigest()


def read_stored(stored: Sequence[StoredImage], shape: tuple[int, ...]) -> ByteArray:
    """Read published images: uint8 `[N, 3, H, W]`.

    Args:
        stored: where they are.
        shape: `(3, H, W)` of the clean images.

    Raises:
        InputError: an image cannot be read, or has another size than the clean ones.
    """
    from fairweather.data.cache import to_pixels

    pixels = np.empty((len(stored), *shape), dtype=np.uint8)
    with strict_pillow():
        for place, (path, row) in zip(pixels, stored, strict=True):
            try:
                content = Path(path) if row is None else _open_rows(path)[row]
                image = to_pixels(content, None)
            except (UnreadableImageError, OSError) as error:
                raise InputError(f"cannot read {path}: {error}") from error
            if image.shape != shape:
                sizes = (" x ".join(map(str, size[:0:-1])) for size in (shape, image.shape))
                ours, theirs = sizes
                raise InputError(
                    f"the published images are {theirs} pixels ({path}) and the clean images "
                    f"{ours}: published images are never resized, so give both one size, as with "
                    f"--size {min(image.shape[1:])}"
                )
            place[...] = image
    return pixels


@dataclass(frozen=True)
class ImageRows:
    """The images of an array file."""

    rows: npt.NDArray[np.generic] | ArchivedRows
    shape: tuple[int, ...]
    checksum: int | None
    """Of the pixels, if the file states it."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> ByteArray:
        return np.array(self.rows[row])  # a copy: a memory map cannot be sent elsewhere


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0] or name


def _list_sizes(paths: list[str]) -> list[int]:
    return [Path(path).stat().st_size for path in paths]


@lru_cache(maxsize=64)  # five severities lie in one file
def _hash_file(path: Path, size: int, modified: int) -> str:
    return file_digest(path, "sha256")


# The names of 50,000 files take 12 MB. A mixed stream takes each batch from several cells.
@lru_cache(maxsize=16)
def _index_folder(folder: Path) -> dict[str, str]:
    """The path of each file in a folder of class folders, by its name without the ending."""
    index: dict[str, str] = {}
    with os.scandir(folder) as classes:
        names = sorted(entry.name for entry in classes if entry.is_dir())
    for name in names:
        with os.scandir(folder / name) as files:
            for entry in files:
                if entry.name.startswith("."):
                    continue
                stem, path = _stem(entry.name), f"{name}/{entry.name}"
                if index.setdefault(stem, path) != path:
                    raise InputError(
                        f"{str(folder)!r} has two files called {stem}: {index[stem]} and {path}"
                    )
    return index


@lru_cache(maxsize=2)
def _open_rows(path: str) -> ImageRows:
    file = Path(path)
    if file.suffix == ".npz":
        archived = ArchivedRows(file, IMAGES_KEY)
        return ImageRows(archived, archived.header.shape, archived.checksum())
    images = open_array(file)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise InputError(
            f"{path!r} is {images.dtype} {list(images.shape)}; it must be uint8 [N, H, W, 3]"
        )
    return ImageRows(images, images.shape, None)


def _read_array_labels(path: Path) -> IntArray:
    """The labels of one severity of an array file; all severities have the same."""
    if path.suffix == ".npz":
        return _divide_labels(read_archived_labels(path, LABELS_KEY), path).astype(np.int64)
    return _read_labels(path.with_name(LABELS))


def _check_labels(source: str, theirs: IntArray, images: Images) -> None:
    """Raise `InputError` unless equal labels of both sides go together.

    Args:
        source: of the files, for messages.
        theirs: int64 `[N]`, the labels or folders of the files of the images.
        images: the clean images, whose labels may be findings, made of classes.
    """
    ours = images.labels.numpy()
    pairs = np.unique(np.column_stack([theirs, ours]), axis=0)
    one_to_one = [len(np.unique(theirs)) == len(pairs)]
    if ours.ndim == 1:  # several classes may make one finding
        one_to_one.append(len(np.unique(ours)) == len(pairs))
    if not all(one_to_one):
        raise InputError(
            f"the classes of {source} are not those of the clean images: images of one class there "
            "have several classes here, or the reverse"
        )


# ---------------------------------------------------------------- one cell as data


def _list_array(published: str, request: SourceRequest) -> Source:
    """The test images of a .npy set at one severity; a key is a place among them."""
    cell = _find_cell(published, request.path or Path())
    path, side = cell.path, PUBLISHED_SETS[published].side
    images = open_array(path)
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
        raise InputError(
            f"{str(path)!r} is {images.dtype} {list(images.shape)}; "
            f"{published} has uint8 [N, {side}, {side}, 3]"
        )
    labels = _read_labels(path.with_name(LABELS))
    if len(images) != len(SEVERITIES) * len(labels):
        raise InputError(
            f"{str(path)!r} has {len(images)} images, but labels.npy has {len(SEVERITIES)} times "
            f"{len(labels)} labels"
        )
    if not 0 <= labels.min() <= labels.max() < len(CIFAR_CLASSES):
        span = f"{labels.min()} to {labels.max()}"
        labels_path = str(path.with_name(LABELS))
        raise InputError(f"labels of {labels_path!r} go from {span}; {published} has 0 to 9")
    start = (cell.severity - 1) * len(labels)

    def read(keys: IntArray) -> Iterator[RawImage]:
        for key in keys:
            pixels = np.array(images[start + key])  # a copy: a memory map cannot be sent elsewhere
            yield RawImage(f"image {key} at severity {cell.severity} in {str(path)!r}", pixels)

    listing = Listing(labels, read, (path,), stretch=f"severity {cell.severity}")
    return _make_source(cell, CIFAR_CLASSES, listing)


def _list_class_folders(published: str, request: SourceRequest) -> Source:
    """The test images of a set of class folders at one severity."""
    path = request.path or Path()
    cell = _find_cell(published, path)
    source = list_folder(request)
    if set(source.splits) != {UNSPLIT} or not all(map(_is_wnid, source.classes)):
        wrong = [name for name in source.classes if not _is_wnid(name)]
        names = join_names(wrong or list(source.splits))
        raise InputError(
            f"{str(path)!r} must have one folder per class, named like n01440764; found {names}"
        )
    return _make_source(cell, source.classes, source.splits[UNSPLIT])


def _refuse_as_data(published: str, request: SourceRequest) -> Source:
    """No data of their own: the classes have no names in the files."""
    raise InputError(
        f"{published} is read as shifts of the clean images alone: fairweather evaluate MODEL DATA "
        f"--shift {published}:{request.path}"
    )


def _make_source(cell: PublishedCell, classes: tuple[str, ...], listing: Listing) -> Source:
    """The test set that was published there, wherever its files are stored."""
    name = f"{cell.published}/{cell.corruption}/{cell.severity}"
    notes = {"corruption": cell.corruption, "severity": cell.severity}
    side = PUBLISHED_SETS[cell.published].side
    return Source(classes, {"test": listing}, name, notes, side=side)


def _make_lister(published: str) -> Callable[[SourceRequest], Source]:
    facts = PUBLISHED_SETS[published]
    lister = _list_class_folders
    if facts.layout != "folders":
        lister = _list_array if published.startswith("cifar-10-") else _refuse_as_data

    def load(request: SourceRequest) -> Source:
        return lister(published, request)

    load.__doc__ = f"{facts.title} at PATH = FOLDER/CORRUPTION/SEVERITY; whole, it is a --shift."
    return load


CORRUPTED_SOURCES = {f"{name}:PATH": _make_lister(name) for name in PUBLISHED_SETS}


def _find_cell(published: str, path: Path) -> PublishedCell:
    corruption, severity = path.parent.name, path.name
    if severity not in [str(known) for known in SEVERITIES]:
        raise InputError(
            f"{published}:PATH is a set of shifts: evaluate clean images under them, as in "
            f"fairweather evaluate MODEL folder:VAL --shift {published}:{path}; as data, PATH ends "
            f"with the severity, 1 to 5, as in {published}:FOLDER/fog/3; found {severity!r}"
        )
    facts = PUBLISHED_SETS[published]
    if corruption not in facts.corruptions:
        raise unknown_name(f"corruption of {published}", corruption, facts.corruptions)
    check_exists(path.parent.parent)
    place = path
    if facts.layout != "folders":
        place = _array_path(facts, path.parent)
        check_exists(place)
    return PublishedCell(published, corruption, int(severity), place)


def _is_wnid(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdecimal()


def open_array(path: Path) -> npt.NDArray[Any]:
    """Map a .npy file into memory; raises `InputError` for another file or pickled objects."""
    check_exists(path)
    try:
        # This reads only the .npy format, and refuses pickled objects.
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{str(path)!r} cannot be read as a .npy file: {reason}") from error


def _read_labels(path: Path) -> IntArray:
    """Read the labels of one severity, and check that all severities have the same labels."""
    stored = open_array(path)
    if stored.dtype.kind not in "iu" or stored.ndim != 1:
        raise _wrong_labels(path, stored)
    return _divide_labels(np.asarray(stored), path).astype(np.int64)


def _divide_labels(stored: npt.NDArray[np.integer], path: Path) -> npt.NDArray[np.integer]:
    if not len(stored) or len(stored) % len(SEVERITIES):
        raise _wrong_labels(path, stored)
    labels = stored.reshape(len(SEVERITIES), -1, *stored.shape[1:])
    same = (labels == labels[0]).reshape(len(SEVERITIES), -1).all(axis=1)
    if not same.all():
        raise InputError(
            f"{str(path)!r} must have the same {labels.shape[1]} labels {len(SEVERITIES)} times, "
            f"but the labels of severity {int(np.argmin(same)) + 1} differ from those of severity 1"
        )
    return labels[0]


def _wrong_labels(path: Path, stored: npt.NDArray[np.generic]) -> InputError:
    return InputError(
        f"{str(path)!r} is {stored.dtype} {list(stored.shape)}; it must have one whole number "
        f"per image, and as many for each of {len(SEVERITIES)} severities"
    )
