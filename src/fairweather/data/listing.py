"""What a source knows before any image is decoded: which images, labels and splits."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairweather.errors import InputError

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


class Item(NamedTuple):
    """One image that is not decoded yet.

    Attributes:
        name: what an error message calls it.
        open: returns it as a Pillow image; called once, in a worker thread.
    """

    name: str
    open: Callable[[], Image.Image]


class Listing(NamedTuple):
    """The labelled images of one source split; an image's key is its place in here.

    Attributes:
        labels: int64 `[N]`.
        read: yields the items with these keys (int64, ascending), in their order.
    """

    labels: npt.NDArray[np.int64]
    read: Callable[[npt.NDArray[np.int64]], Iterable[Item]]


class Source(NamedTuple):
    """What a source function returns.

    Attributes:
        classes: class names in label order.
        splits: either `{"all": ...}`, one set that is still to be split, or some of `train`, `val`
            and `test`.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Listing]


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
