"""What a source knows before any image is decoded: which images, labels and splits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError
from fairweather.progress import Notify

SPLITS = ("train", "val", "test")
WHOLE = "all"  # in place of these: one set that is still to be split
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
    """What a source function is asked for.

    Attributes:
        path: of the specification (`folder:PATH`), or for a named set the folder with its files;
            None where neither was given.
        resolution: the number behind an `@`, such as 64 in `pathmnist@64`; None without.
        offline: files that are not there are not downloaded.
        verify: files of a named set must have the published checksum.
        progress: called while a file is downloaded.
    """

    path: Path | None = None
    resolution: int | None = None
    offline: bool = False
    verify: bool = True
    progress: Notify | None = None


class Item(NamedTuple):
    """One image that is not decoded yet.

    Attributes:
        name: what an error message calls it.
        content: where the encoded image lies, its encoded bytes, or its pixels: uint8 `[H, W]` or
            `[H, W, 3]`. Items go to other processes, so these are plain data.
    """

    name: str
    content: Path | bytes | npt.NDArray[np.uint8]


class Listing(NamedTuple):
    """The labelled images of one source split; an image's key is its place in here.

    Attributes:
        labels: int64 `[N]`.
        read: yields the items with these keys (int64, ascending), in their order.
        files: whose bytes decide all pixels, in the order of the listing: an image file each, or
            the few files that hold all images.
        stretch: which images of the files these are, where another listing of the same files has
            others under the same keys.
        file_per_image: is `files` one file an image, by key, so that few images need few files.
    """

    labels: npt.NDArray[np.int64]
    read: Callable[[npt.NDArray[np.int64]], Iterable[Item]]
    files: tuple[Path, ...]
    stretch: str = ""
    file_per_image: bool = False


class Source(NamedTuple):
    """What a source function returns.

    Attributes:
        classes: class names in label order.
        splits: either `{"all": ...}`, one set that is still to be split, or some of `train`, `val`
            and `test`.
        name: of a known set, with what the specification may leave out: `pathmnist@28`.
        notes: facts for the provenance, such as the checksum of a file. `natural_shift` says, where
            it is known, how the test images differ from the others by their origin.
        side: height and width of all images of a published set that is never resized, because its
            pixels were changed at this size.
        parts: by split, what behind the specification names it as a set of its own: `val` where
            `folder:PATH/val` does.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Listing]
    name: str | None = None
    notes: Mapping[str, object] = {}
    side: int | None = None
    parts: Mapping[str, str] = {}


def required_path(request: Request) -> Path:
    """The path of a request; raises `InputError` where neither specification nor root gave one."""
    if request.path is None:
        raise InputError("this data source needs a path")
    return request.path


def check_exists(path: Path) -> None:
    """Raise `InputError` with the near sibling name unless there is such a file or folder."""
    if path.exists():
        return
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"there is no file or folder {str(path)!r}{hint}")


def check_same_classes(names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the class names that all splits share; raise `InputError` with both differences.

    >>> check_same_classes({"train": ("cat", "dog"), "test": ("cat", "dog")})
    ('cat', 'dog')
    """
    (first, classes), *others = names.items()
    for split, other in others:
        if other == classes:
            continue
        here, there = sorted(set(classes) - set(other)), sorted(set(other) - set(classes))
        only = [
            f"only in {where}: {', '.join(extra)}"
            for where, extra in ((first, here), (split, there))
            if extra
        ]
        difference = "; ".join(only) or "the same names in another order"
        raise InputError(f"{first} and {split} have different classes ({difference})")
    return classes


def check_no_empty_class(
    labels: npt.NDArray[np.int64], classes: tuple[str, ...], split: str
) -> None:
    """Raise `InputError` naming the classes that have no image."""
    if not len(labels):
        raise InputError(f"there are no readable images in {split}")
    counts = np.bincount(labels, minlength=len(classes))
    empty = [repr(name) for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        kind = "class" if len(empty) == 1 else "classes"
        raise InputError(f"{kind} {shown} without any readable image in {split}")
