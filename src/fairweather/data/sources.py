"""What a source knows before any image is decoded: its images, labels and splits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairweather.errors import InputError, join_names
from fairweather.progress import Notify
from fairweather.tasks.task import Strata, find_task
from fairweather.types.measurement import CLASSIFICATION, ByteArray, Groups, IntArray, TextArray
from fairweather.types.options import SPLITS as SPLITS

UNSPLIT = "all"  # instead of these: one set that is not split yet
# The columns of a table that say which image a row is about, in any case.
FILE_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_id")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class Request(NamedTuple):
    """The arguments of a source function.

    Attributes:
        path: the one in the specification (`folder:PATH`), or for a named set the folder with its
            files; None if neither was given.
        resolution: the number after an `@`, such as 64 in `pathmnist@64`; None without.
        offline: missing files are not downloaded.
        verify: files of a named set must have the published checksum.
        progress: called during a download.
    """

    path: Path | None = None
    resolution: int | None = None
    offline: bool = False
    verify: bool = True
    progress: Notify | None = None


class RawImage(NamedTuple):
    """One image that is not decoded yet.

    Attributes:
        name: for error messages.
        content: the path of an encoded image, its encoded bytes, or its pixels: uint8 `[H, W]` or
            `[H, W, 3]`. Items are sent to other processes, so these are plain data.
    """

    name: str
    content: Path | bytes | ByteArray


class Listing(NamedTuple):
    """The labelled images of one split of a source; the key of an image is its place in it.

    Attributes:
        labels: int64 `[N]`, or `[N, L]` of a task with several labels an image.
        read: yields the items with the given keys (int64, ascending), in their order.
        files: the files with all images, in the order of the listing: one file per image, or a few
            files with many images each. Their bytes determine all pixels.
        stretch: says which images of the files these are, if another listing of the same files has
            other images with the same keys.
        file_per_image: whether `files` has one file per image, by key. Then few images need few
            files.
        names: the path of each image's file from the folder of the source on, by key; None if
            images have no files of their own.
        table: reads columns of the source itself by their names, as texts, with a row for each key;
            None if it has no columns. Raises `InputError` for an unknown one.
        groups: what a table says of each image, by key; None if there is none.
    """

    labels: IntArray
    read: Callable[[IntArray], Iterable[RawImage]]
    files: tuple[Path, ...]
    stretch: str = ""
    file_per_image: bool = False
    names: tuple[str, ...] | None = None
    table: Callable[[list[str]], pd.DataFrame] | None = None
    groups: Groups | None = None

    @property
    def clusters(self) -> TextArray | None:
        """Which images belong together, `[N]`; None if that is not known."""
        return None if self.groups is None else self.groups.clusters


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
        files: with many images each.
        labels: of the images of each file.
        read: yields the images of a file with the given keys, of which the first is an offset.
    """
    starts = np.cumsum([0, *map(len, labels)])

    def read_shards(keys: IntArray) -> Iterator[RawImage]:
        for file, (start, end) in zip(files, pairwise(starts), strict=True):
            own = keys[np.searchsorted(keys, start) : np.searchsorted(keys, end)]
            if len(own):
                yield from read(file, own, int(start))

    return Listing(np.concatenate(labels), read_shards, tuple(files))


class Source(NamedTuple):
    """The result of a source function.

    Attributes:
        classes: class names in label order.
        splits: either `{"all": ...}`, one set that is not split yet, or some of `train`, `val` and
            `test`.
        name: the full name of a named set, such as `pathmnist@28` for `pathmnist`.
        notes: facts for the provenance, such as the checksum of a file. If test images are known to
            have another origin than the others, `natural_shift` says which.
        side: height and width of all images of a published set that is never resized, because its
            images were corrupted at this size.
        parts: for each split, the end of the specification that names this split as a set: `val` if
            it is `folder:PATH/val`.
        task: what is told of each image; a name of `fairweather.tasks.task.TASKS`.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Listing]
    name: str | None = None
    notes: Mapping[str, object] = {}
    side: int | None = None
    parts: Mapping[str, str] = {}
    task: str = CLASSIFICATION

    def strata(self, labels: IntArray) -> Strata:
        """Group images by their labels, as the task says."""
        return find_task(self.task).strata(labels, self.classes)


def require_path(request: Request) -> Path:
    """The path of a request; raises `InputError` if there is no such file or folder."""
    if request.path is None:
        raise InputError("this data source needs a path")
    check_exists(request.path)
    return request.path


def relative_names(root: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    """Name files by their paths from a folder on, which tell nothing of the machine.

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
    raise InputError(f"there is no file or folder {str(path)!r}{hint}")


@contextmanager
def explain_read_errors() -> Iterator[None]:
    """Turn the system's error with a file of the user's into an `InputError` that names it."""
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
        raise InputError(f"{kind} {join_names(empty)} {verb} no readable image in {split}")


def count_classes(labels: IntArray, place: str) -> int:
    """The number of classes without names; raises `InputError` for labels that skip many."""
    largest = int(labels.max(initial=-1))
    # Every class needs an image. Without this check, a column of large numbers would fill memory.
    if largest >= len(labels):
        raise InputError(
            f"{place} has labels up to {largest}, but there are {len(labels)} images: class "
            "labels must be 0, 1, 2 and so on"
        )
    return largest + 1
