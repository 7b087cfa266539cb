"""A file of weights as a model, with the network that they belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fairweather.errors import InputError
from fairweather.models.backbones import find_library
from fairweather.models.named import OF_NAMED, open_named
from fairweather.models.opened import Opened
from fairweather.models.source import Source, closest_file

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def open_weights(file: str, *, architecture: str, **given: Any) -> Opened:  # noqa: ANN401 - of open_named
    """Open a network by name with the weights of a file; see `open_model`."""
    opened = open_named(architecture, weights=file, **given)
    return replace(opened, facts={**opened.facts, "source": file})


def _check(file: str, architecture: str | None) -> None:
    if architecture is None:
        raise InputError(
            f"{file} holds only weights: name the network that they belong to with the "
            "architecture timm:NAME or torchvision:NAME"
        )
    find_library(architecture)
    if not Path(file).expanduser().is_file():
        raise InputError(f"weights: there is no file {file}{closest_file(Path(file))}")


FILE = Source(
    f"FILE ({', '.join(SUFFIXES)}) with an architecture",
    "weights of a network of timm or torchvision",
    open_weights,
    options=("architecture", *(name for name in OF_NAMED if name != "weights")),
    settings=("offline", "seed"),
    check=_check,
    takes=lambda text: text.endswith(SUFFIXES) or Path(text).expanduser().is_file(),
)
