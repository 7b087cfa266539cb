"""The few pictures that a run keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image

from fairweather.errors import InputError
from fairweather.runs import RunFolder


class Mixup(NamedTuple):
    """Two pictures with their labels, and their mixture with the weight of the first."""

    pictures: tuple[Image.Image, Image.Image, Image.Image]
    labels: tuple[str, str]
    weight: float


class Samples(NamedTuple):
    """The few pictures of a run: their class names, and what each shifted test set made of them."""

    labels: tuple[str, ...]
    strips: Mapping[str, tuple[Image.Image, ...]]
    mixup: Mixup | None


def read_samples(run: RunFolder) -> Samples | None:
    """Read the pictures, or None where the run has none."""
    index_path = run.path / "samples" / "index.json"
    if not index_path.is_file():
        return None
    index = json.loads(index_path.read_text())
    strips = {
        cell: _cut(_read_strip(run, name), index["width"]) for cell, name in index["strips"].items()
    }
    mixup = None
    if described := index.get("mixup"):
        strip = _read_strip(run, described["file"])
        first, second, mixture = _cut(strip, strip.width // 3)
        labels = (str(described["labels"][0]), str(described["labels"][1]))
        mixup = Mixup((first, second, mixture), labels, float(described["weight"]))
    return Samples(tuple(str(label) for label in index["labels"]), strips, mixup)


def _read_strip(run: RunFolder, name: str) -> Image.Image:
    """Read pictures that stand side by side in one file."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"samples/index.json names a file outside the run folder: {name}")
    with Image.open(run.path / name) as file:
        return file.convert("RGB")


def _cut(strip: Image.Image, width: int) -> tuple[Image.Image, ...]:
    lefts = range(0, strip.width, width)
    return tuple(strip.crop((left, 0, left + width, strip.height)) for left in lefts)
