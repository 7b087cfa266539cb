"""A data set that travels to a machine that does not have it: its pixels in pieces."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.data.pixelfile import PixelFile, explained, lock_of, open_sealed, reserve, seal
from fairweather.folders import cache_folder
from fairweather.types import Dataset, Images

PIECE = 2**26  # bytes of pixels that travel at a time
Pixels = npt.NDArray[np.uint8]


class SentPart(NamedTuple):
    """A split without its pixels.

    Attributes:
        shape: of the pixels, `[N, 3, H, W]`.
        labels, keys: int64 `[N]`.
        classes: names in label order.
        digest: of pixels, labels and keys.
    """

    shape: tuple[int, ...]
    labels: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    digest: str


class SentData(NamedTuple):
    """A data set without its pixels; the attributes are those of `Dataset`."""

    name: str
    parts: Mapping[str, SentPart]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: Mapping[str, object]

    @property
    def bytes(self) -> int:
        """The size of all pixels."""
        return sum(math.prod(part.shape) for part in self.parts.values())


def describe(dataset: Dataset, digests: Mapping[str, str]) -> SentData:
    """Describe a data set for a machine that does not have it; `digests` has that of each split."""
    parts = {
        name: SentPart(
            shape=tuple(images.images.shape),
            labels=images.labels.numpy(),
            keys=images.keys.numpy(),
            classes=images.classes,
            digest=digests[name],
        )
        for name, images in splits_of(dataset).items()
    }
    return SentData(dataset.name, parts, dataset.mean, dataset.std, dict(dataset.notes))


def splits_of(dataset: Dataset) -> dict[str, Images]:
    """The splits that a data set has, by name."""
    every = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: images for name, images in every.items() if images is not None}


def pieces(images: Images) -> Iterator[Pixels]:
    """Cut the pixels of a split into pieces; they may be larger than memory."""
    each = max(PIECE // images.images[:1].nbytes, 1)
    for chunk in images.images.split(each):
        yield chunk.contiguous().numpy()


def receive(sent: SentData, pieces_of: Callable[[str], Iterable[Pixels]]) -> Dataset:
    """Make a data set of what was sent; its pixels are stored once in the cache of this machine.

    Args:
        sent: the data set without its pixels.
        pieces_of: gives the pieces of a split by its name; called only if they are not stored yet.

    Raises `InputError` if the cache folder cannot be written.
    """
    parts = {name: _receive(part, partial(pieces_of, name)) for name, part in sent.parts.items()}
    return Dataset(
        sent.name,
        parts.get("train"),
        parts.get("val"),
        parts["test"],
        sent.mean,
        sent.std,
        sent.notes,
    )


def _receive(part: SentPart, given: Callable[[], Iterable[Pixels]]) -> Images:
    path = cache_folder() / "images" / f"sent-{part.digest}.pixels"
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(path):  # one process of this machine stores them
            stored = open_sealed(path, part.shape[0]) or _store(path, part, given())
    # Copies: what travelled through shared memory must not be written to, and may go away.
    labels, keys = (torch.from_numpy(column.copy()) for column in (part.labels, part.keys))
    return Images(stored.images, labels, keys, part.classes)


def _store(path: Path, part: SentPart, given: Iterable[Pixels]) -> PixelFile:
    unfinished = path.with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        with unfinished.open("xb") as file:
            reserve(file, path.parent, math.prod(part.shape))
            for piece in given:
                piece.tofile(file)
        seal(unfinished, part.shape, {})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    stored = open_sealed(path, part.shape[0])
    assert stored is not None  # it was sealed above
    return stored
