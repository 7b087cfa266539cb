"""From the specification of a data set to its images; nothing is written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fairweather.data.decode import decode_images
from fairweather.data.folder import list_folder
from fairweather.data.hashing import digest
from fairweather.data.listing import Source, check_no_empty_class
from fairweather.data.mnist5k import list_mnist5k
from fairweather.data.parquet import list_parquet
from fairweather.data.split import Part, divide
from fairweather.data.statistics import channel_statistics
from fairweather.errors import InputError, unknown_name
from fairweather.types import Dataset, Images

__all__ = ["SOURCES", "digest", "load_data"]

SMALLEST_SIZE = 8
SKIPPED_NAMES_SHOWN = 20

# Each takes one path: that of the specification, or for a named set the folder with its files.
SOURCES: dict[str, Callable[[Path], Source]] = {
    "folder:PATH": list_folder,
    "mnist5k": list_mnist5k,
    "parquet:PATH": list_parquet,
}


def load_data(
    source: str,
    *,
    size: int | None = None,
    root: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    skip_unreadable: bool = False,
) -> Dataset:
    """Load a data set: decode each image once, split what has no splits, measure mean and std.

    Images are uint8 `[N, 3, H, W]`. What a source has as train, val and test is used as it is. A
    source that is one set gives `test_fraction` of it to test; a missing val is taken from train.
    A source with only test images has neither train nor val. Both draws are stratified and depend
    on the labels, the fraction and the seed alone. Every split must have an image of every class.

    Args:
        source: an entry of `SOURCES`: `mnist5k`, `folder:PATH` or `parquet:PATH`.
        size: resize the shorter side to this and crop the center; at least 8. By default images
            stay as they are and must all have the same height and width.
        root: what a relative PATH is relative to; for a named set, the folder that has its files.
        seed: of the draws.
        validation_fraction: share of the images that are not test images; 0 for no val.
        test_fraction: share of a set that comes without splits.
        skip_unreadable: leave damaged files out and count them in `notes`. Their keys stay unused
            and no other image changes its split.

    Raises:
        InputError: an option, a name, a file or a label is wrong; the message is one sentence.

    >>> dataset = load_data("mnist5k", size=8)
    >>> len(dataset.train), len(dataset.val), len(dataset.test), dataset.classes[:3]
    (3600, 400, 1000, ('0', '1', '2'))
    >>> dataset.test.images.shape, dataset.test.images.dtype
    (torch.Size([1000, 3, 8, 8]), torch.uint8)
    """
    _check_options(size, seed, validation_fraction, test_fraction)
    listed = _list_source(source, root)
    parts = divide(listed, seed, validation_fraction, test_fraction)
    splits: dict[str, Images] = {}
    skipped: list[str] = []
    for name, part in parts.items():
        splits[name], names = _decode_part(part, listed.classes, name, size, skip_unreadable)
        skipped += names
    height, width = _common_size(splits)
    test = splits["test"]
    mean, std = channel_statistics(splits.get("train", test))
    notes = {
        "source": source,
        "size": [height, width],
        "images": {name: len(images) for name, images in splits.items()},
        "skipped_files": len(skipped),
        "skipped_names": skipped[:SKIPPED_NAMES_SHOWN],
    }
    return Dataset(source, splits.get("train"), splits.get("val"), test, mean, std, notes)


def _check_options(
    size: int | None, seed: int, validation_fraction: float, test_fraction: float
) -> None:
    if size is not None and size < SMALLEST_SIZE:
        raise InputError(f"size must be at least {SMALLEST_SIZE}, found {size}")
    if seed < 0:
        raise InputError(f"seed must not be negative, found {seed}")
    if not 0 <= validation_fraction < 1:
        raise InputError(f"validation_fraction must be in [0, 1), found {validation_fraction}")
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction must be in (0, 1), found {test_fraction}")


def _list_source(source: str, root: str | Path | None) -> Source:
    name, colon, path = source.partition(":")
    entry = f"{name}:PATH" if colon else name
    if entry not in SOURCES:
        raise unknown_name("data source", entry, SOURCES)
    if colon and not path:
        raise InputError(f"the data source {source!r} needs a path: {entry}")
    try:
        place = Path(root or "").expanduser() / Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"the data source {source!r} is in no known home folder") from None
    return SOURCES[entry](place)


def _decode_part(
    part: Part, classes: tuple[str, ...], name: str, size: int | None, skip_unreadable: bool
) -> tuple[Images, list[str]]:
    items = part.listing.read(part.keys)
    decoded = decode_images(items, len(part.keys), size=size, skip_unreadable=skip_unreadable)
    keys = part.keys[decoded.readable]
    labels = part.listing.labels[keys]
    check_no_empty_class(labels, classes, name)
    columns = (torch.from_numpy(labels), torch.from_numpy(keys))
    return Images(decoded.images, *columns, classes), decoded.skipped


def _common_size(splits: dict[str, Images]) -> tuple[int, int]:
    sizes = {name: tuple(images.images.shape[-2:]) for name, images in splits.items()}
    height, width = sizes["test"]
    for name, (other_height, other_width) in sizes.items():
        if (other_height, other_width) != (height, width):
            raise InputError(
                f"images differ in height x width: test has {height} x {width} and {name} has "
                f"{other_height} x {other_width}; set size to resize and crop all of them"
            )
    return height, width
