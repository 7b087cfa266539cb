"""The source `folder:PATH`: image files in one folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairweather.data.source import (
    SPLIT_NAMES,
    SPLITS,
    WHOLE,
    Listing,
    Request,
    Source,
    check_same_classes,
    listing_of_files,
    names_below,
    path_of,
)
from fairweather.errors import InputError

UNLABELLED = "unlabelled"  # the one class of images without labels


def list_folder(request: Request) -> Source:
    """Image files in split folders (`train/cat/1.jpg`) or in class folders alone (`cat/1.jpg`).

    Split folders are called train or training, val, valid or validation, test or testing, in upper
    or lower case; other folders beside them are ignored. Classes and files are sorted by name.
    Files in nested folders belong to their class. Hidden files are ignored. Every other file counts
    as an image, so that a file that is not an image is reported and not silently left out.

    Raises:
        InputError: the folder is missing, or has no class folders, an empty class folder, two
            folders for one split, or splits with different classes.
    """
    path = path_of(request)
    if not path.is_dir():
        raise InputError(
            f"{str(path)!r} is a file; folder: needs a folder with one folder per class"
        )
    roots = _split_folders(path)
    folders = {split: _class_folders(root) for split, root in roots.items()}
    classes = check_same_classes(
        {split: tuple(folder.name for folder in below) for split, below in folders.items()}
    )
    names = {split: root.name for split, root in roots.items() if split != WHOLE}
    splits = {split: _list_split(folders[split], path) for split in folders}
    return Source(classes, splits, parts=names)


def list_images(request: Request) -> Source:
    """Image files without labels, in a folder and the folders in it: for `--ood`.

    Files are sorted by name. All images have the one class `unlabelled`, so that a model can be
    asked about them but not judged by them. Hidden files are ignored.

    Raises:
        InputError: the folder is missing or has no files.
    """
    path = path_of(request)
    if not path.is_dir():
        raise InputError(f"{str(path)!r} is a file; images: needs a folder with image files")
    paths = tuple(_visible_files(path))
    if not paths:
        raise InputError(f"{str(path)!r} has no files")
    return Source((UNLABELLED,), {WHOLE: _listing(paths, np.zeros(len(paths), np.int64), path)})


def _split_folders(path: Path) -> dict[str, Path]:
    folders = _visible_folders(path)
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if len(named) < len(folders):
        # A class may be called "train": beside class folders, only a folder that has folders itself
        # is a split.
        named = [folder for folder in named if _visible_folders(folder)]
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            both = f"{splits[split].name} and {folder.name}"
            raise InputError(f"{str(path)!r} has two folders for {split}: {both}")
        splits[split] = folder
    return {split: splits[split] for split in SPLITS if split in splits} or {WHOLE: path}


def _class_folders(root: Path) -> list[Path]:
    folders = _visible_folders(root)
    if not folders:
        raise InputError(
            f"{str(root)!r} has no class folders: it needs one folder per class; a table with the "
            "label of each file is csv:PATH, and images without labels are images:PATH"
        )
    return folders


def _list_split(folders: list[Path], root: Path) -> Listing:
    paths: list[Path] = []
    counts: list[int] = []
    for folder in folders:
        before = len(paths)
        paths.extend(_visible_files(folder))
        counts.append(len(paths) - before)
        if not counts[-1]:
            raise InputError(f"class folder {str(folder)!r} is empty")
    return _listing(tuple(paths), np.repeat(np.arange(len(folders)), counts), root)


def _listing(paths: tuple[Path, ...], labels: npt.NDArray[np.int64], root: Path) -> Listing:
    return listing_of_files(labels, paths, names_below(root, paths))


def _visible(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entries, key=lambda entry: entry.name)


def _visible_folders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in the folders in it, in the order of their names."""
    left = [iter(_visible(folder))]  # no recursion: folders may be nested deeper than calls may
    while left:
        entry = next(left[-1], None)
        if entry is None:
            left.pop()
        elif entry.is_dir():
            if entry.is_symlink() and entry.parent.resolve().is_relative_to(entry.resolve()):
                raise InputError(f"{str(entry)!r} is a link to a folder that contains it")
            left.append(iter(_visible(entry)))
        elif entry.is_file():
            yield entry
        else:
            raise InputError(f"{str(entry)!r} cannot be read: it is no file")
