"""The table of data sources, and the way from a specification to one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairweather.data.cifar10 import list_cifar10
from fairweather.data.corrupted import list_cifar10_c, list_imagenet_c
from fairweather.data.fashion_mnist import list_fashion_mnist
from fairweather.data.folder import list_folder
from fairweather.data.listing import Request, Source
from fairweather.data.medmnist import MEDMNIST, REFUSED
from fairweather.data.mnist5k import list_mnist5k
from fairweather.data.npz import list_npz
from fairweather.data.oxford_pets import list_oxford_pets
from fairweather.data.parquet import list_parquet
from fairweather.errors import InputError, unknown_name
from fairweather.progress import Notify

SOURCES: dict[str, Callable[[Request], Source]] = {
    "cifar-10-c:PATH": list_cifar10_c,
    "cifar10": list_cifar10,
    "fashion-mnist": list_fashion_mnist,
    "folder:PATH": list_folder,
    "imagenet-c:PATH": list_imagenet_c,
    "mnist5k": list_mnist5k,
    "npz:PATH": list_npz,
    "oxford-iiit-pet": list_oxford_pets,
    "parquet:PATH": list_parquet,
    **MEDMNIST,
}


def list_source(
    source: str,
    root: str | Path | None = None,
    *,
    offline: bool = False,
    verify: bool = True,
    progress: Notify | None = None,
) -> Source:
    """List the images of a source; nothing is decoded yet.

    Args:
        source: an entry of `SOURCES`: a name, a MedMNIST name with its resolution behind an `@`, or
            one with a colon, such as `folder:`, and a path.
        root: what a relative path is relative to; for a named set, the folder that has its files.
        offline, verify, progress: see `Request`.

    Raises:
        InputError: there is no such source, or its files are not there or not what they should be.
    """
    name, colon, path = source.partition(":")
    entry, at, resolution = (f"{name}:PATH", "", "") if colon else name.partition("@")
    if entry in REFUSED:
        raise InputError(f"{entry} cannot be used: {REFUSED[entry]}")
    if entry not in SOURCES:
        raise unknown_name("data source", entry, SOURCES)
    if colon and not path:
        raise InputError(f"the data source {source!r} needs a path: {entry}")
    if at and (entry not in MEDMNIST or not resolution.isdecimal()):
        raise InputError(f"only a MedMNIST set has a size, a number, behind @: found {source!r}")
    place = None
    try:
        if colon or root is not None:
            place = Path(root or "").expanduser() / Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"the data source {source!r} is in no known home folder") from None
    asked = int(resolution) if at else None
    return SOURCES[entry](Request(place, asked, offline, verify, progress))
