"""What a source knows before any image is decoded: its images, labels and splits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.data.pixels import Framed
from fairweather.errors import InputError, join_names, unknown_name
from fairweather.progress import Notify
from fairweather.tasks import Strata, find_task
from fairweather.types.measurement import (
    CLASSIFICATION,
    ByteArray,
    Groups,
    IntArray,
    TextArray,
    TruthArray,
)

UNSPLIT = "all"  # the name of a set that is not split yet, in place of `options.SPLITS`
# The columns of a table that say which image a row is about, in upper or lower case.
FILE_COLUMNS = (
    *("file", "filename", "file_name", "path", "filepath", "image", "image_id", "image index"),
)
# The names of splits in folders and tables, and ours.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class SourceRequest(NamedTuple):
    """The arguments of a source function."""

    path: Path | None = None
    """What follows the colon (`folder:PATH`), or for a named set the folder with its files; None if
    neither was given."""

    resolution: int | None = None
    """The number after an `@`, such as 64 in `pathmnist@64`; None without."""

    offline: bool = False
    """Missing files are not downloaded."""

    verify: bool = True
    """Files of a named set must have the published checksum."""

    progress: Notify | None = None
    """Called during a download."""


class RawImage(NamedTuple):
    """One image that is not decoded yet."""

    name: str
    """For error messages."""

    content: Path | bytes | ByteArray | Framed
    """The path of an encoded image, its encoded bytes, or its pixels: uint8 `[H, W]` or `[H, W,
    3]`. It is plain data, because it is sent to other processes."""


class Listing(NamedTuple):
    """The labelled images of one split of a source; the key of an image is its place in it."""

    labels: IntArray
    """int64 `[N]`, or `[N, L]` of a task with several labels an image."""

    read: Callable[[IntArray], Iterable[RawImage]]
    """Yields the images with the given keys (int64, ascending), in this order."""

    files: tuple[Path, ...]
    """The files with all images, in the order of the listing: one file per image, or a few files
    with many images each. Their bytes determine all pixels."""

    stretch: str = ""
    """Which part of the files this is, such as `severity 3`, if other listings of the same files
    have other images with the same keys; it goes into the digest."""

    file_per_image: bool = False
    """Whether `files` has one file per image, by key. Then a few images need only a few files."""

    names: tuple[str, ...] | None = None
    """The path of each image's file from the folder of the source on, by key; None if images have
    no files of their own."""

    table: Callable[[list[str]], pd.DataFrame] | None = None
    """Reads columns that the source stores beside its images, by their names: texts, with a row for
    each key. Raises `InputError` for an unknown column. None without columns."""

    groups: Groups | None = None
    """What a table says of each image, by key; None if there is none."""

    truth: TruthArray | None = None
    """What is right of each image beyond its label, by key (`Choices.truth`)."""

    @property
    def group_names(self) -> TextArray | None:
        """The name of each image's group, `[N]`; None if the groups are unknown."""
        return None if self.groups is None else self.groups.names


def list_files(labels: IntArray, paths: tuple[Path, ...], names: tuple[str, ...]) -> Listing:
    """List images that have a file each, by key."""

    def read(keys: IntArray) -> Iterator[RawImage]:
        for key in keys:
            yield RawImage(str(paths[key]), paths[key])

    return Listing(labels, read, paths, file_per_image=True, names=names)


def list_arrays(
    labels: npt.NDArray[np.integer], images: ByteArray, files: tuple[Path, ...], name: str
) -> Listing:
    """List images that are the rows of an array, uint8 `[N, H, W]` or `[N, H, W, 3]`."""

    def read(keys: IntArray) -> Iterator[RawImage]:
        for key in keys:
            yield RawImage(f"{name} {key}", images[key])

    return Listing(labels.astype(np.int64), read, files)


def list_shards(
    files: Sequence[Path],
    labels: Sequence[IntArray],
    read: Callable[[Path, IntArray, int], Iterable[RawImage]],
) -> Listing:
    """List the images of several files, one file after the other.

    Args:
        files: the files, with many images each.
        labels: for each file, the labels of its images.
        read: yields images of a file, given the file, keys of images in it, and the key of its
            first image, to be subtracted from them.
    """
    starts = np.cumsum([0, *map(len, labels)])

    def read_shards(keys: IntArray) -> Iterator[RawImage]:
        for file, (start, end) in zip(files, pairwise(starts), strict=True):
            in_file = keys[np.searchsorted(keys, start) : np.searchsorted(keys, end)]
            if len(in_file):
                yield from read(file, in_file, int(start))

    return Listing(np.concatenate(labels), read_shards, tuple(files))


class Source(NamedTuple):
    """The result of a source function."""

    classes: tuple[str, ...]
    """Class names in label order."""

    splits: Mapping[str, Listing]
    """Either `{"all": ...}`, one set that is not split yet, or some of `train`, `val` and `test`.
    """

    name: str | None = None
    """The full name of a named set, such as `pathmnist@28` for `pathmnist`."""

    notes: Mapping[str, object] = {}
    """Facts for the provenance, such as the checksum of a file. If test images are known to come
    from elsewhere than training images, `natural_shift` says from where."""

    side: int | None = None
    """Height and width of all images of a published set that is never resized, because its images
    were corrupted at this size."""

    parts: Mapping[str, str] = {}
    """What must be added to the specification to name one split as a set, by split: `val` if
    `folder:PATH/val` names it."""

    task: str = CLASSIFICATION
    """What is told of each image; a name of `fairweather.tasks.TASKS`."""

    remarks: tuple[str, ...] = ()
    """What was assumed about the files, one sentence each."""

    choices: tuple[str, ...] = ()
    """The classes of a natural shift that a model of more classes chooses among, also those without
    an image here; empty if nothing is known."""

    def strata(self, labels: IntArray) -> Strata:
        """Group images by their labels, as the task says."""
        return find_task(self.task).strata(labels, self.classes)


def split_parts(
    path: Path, kind: str, known: Collection[str], ending: str = ""
) -> tuple[Path, dict[str, str]]:
    """Take stated parts, such as `,label=dx`, off the end of a path.

    Args:
        path: what follows the colon of a specification.
        kind: of the source, for messages.
        known: the names of its parts.
        ending: a regular expression for the end of the path itself; without that end, or without
            parts, the path stays as it is.

    Raises:
        InputError: a part is unknown.

    >>> split_parts(Path("skin/labels.csv,label=dx,images=photos"), "csv", ["label", "images"])[1]
    {'label': 'dx', 'images': 'photos'}
    """
    form = rf"(?P<path>.*?{ending})(?P<given>(,[^,=]+=[^,]*)*)"
    match = re.fullmatch(form, str(path), re.IGNORECASE)
    if match is None:
        return path, {}
    pairs = [pair.partition("=") for pair in match["given"].split(",")[1:]]
    for name, _, _ in pairs:
        if name not in known:
            raise unknown_name(f"part of {kind}:", name, known)
    return Path(match["path"]), {name: value for name, _, value in pairs}


def require_path(request: SourceRequest) -> Path:
    """The path of a request; raises `InputError` if there is no such file or folder."""
    if request.path is None:
        raise InputError("this data source needs a path")
    check_exists(request.path)
    return request.path


def relative_names(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    """Name files by their paths inside a folder, which reveal nothing about the machine.

    >>> relative_names(Path("/home/ann/pets"), [Path("/home/ann/pets/cat/1.jpg")])
    ('cat/1.jpg',)
    """
    # As text: a million calls of `Path.relative_to` take seconds. Path("a") is below Path(".").
    prefix = "" if root == Path() else f"{str(root).rstrip('/')}/"
    return tuple(str(path).removeprefix(prefix) for path in paths)


def check_exists(path: Path) -> None:
    """Raise `InputError` with the closest name in its folder unless a file or folder exists."""
    if path.is_file() or path.is_dir():
        return
    if path.exists():
        raise InputError(f"{str(path)!r} is neither a file nor a folder")
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    closest = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.6)
    hint = f"; did you mean {closest[0]!r}?" if closest else ""
    if ",findings=" in str(path):
        hint = "; findings are separated by |, as in ,findings=Effusion|Mass"
    raise InputError(f"there is no file or folder {str(path)!r}{hint}")


@contextmanager
def explain_read_errors() -> Iterator[None]:
    """Turn an `OSError` from reading a file of the user into an `InputError` that names it."""
    try:
        yield
    except OSError as error:
        name = "a file of the data set" if error.filename is None else repr(str(error.filename))
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error


def check_same_classes(names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the class names that all splits share; raise `InputError` if they differ.

    >>> check_same_classes({"train": ("cat", "dog"), "test": ("cat", "dog")})
    ('cat', 'dog')
    """
    (first, classes), *others = names.items()
    for split, other in others:
        if other == classes:
            continue
        extra_here, missing = sorted(set(classes) - set(other)), sorted(set(other) - set(classes))
        only = [
            f"only in {where}: {', '.join(extra)}"
            for where, extra in ((first, extra_here), (split, missing))
            if extra
        ]
        difference = "; ".join(only) or "the same names in another order"
        raise InputError(f"{first} and {split} have different classes ({difference})")
    return classes


def check_no_empty_class(strata: Strata, split: str) -> None:
    """Raise `InputError` with the names of the classes that have no image."""
    if not len(strata.numbers):
        raise InputError(f"there are no readable images in {split}")
    counts = np.bincount(strata.numbers, minlength=len(strata.names))
    empty = [repr(name) for name, count in zip(strata.names, counts, strict=True) if not count]
    if empty:
        kind = "class" if len(empty) == 1 else "classes"
        verb = "has" if len(empty) == 1 else "have"
        first, last = counts.nonzero()[0][[0, -1]]
        from_one = f": labels go from {first} to {last}; numbers of classes begin at 0"
        why = from_one if first and strata.names[0] == "0" else ""
        raise InputError(f"{kind} {join_names(empty)} {verb} no readable image in {split}{why}")


def count_classes(labels: IntArray, place: str) -> int:
    """Count classes that have no names: the largest label plus 1.

    Raises `InputError` for more classes than images, because each class needs an image.
    """
    largest = int(labels.max(initial=-1))
    # Without this check, a column of large numbers would fill memory.
    if largest >= len(labels):
        raise InputError(
            f"{place} has labels up to {largest}, but there are {len(labels)} images: class "
            "labels must be 0, 1, 2 and so on"
        )
    return largest + 1
