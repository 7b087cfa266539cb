"""The 2-D sets of MedMNIST with one class per image, by name: `pathmnist`, `pathmnist@64`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairweather.data.known import check_md5, obtain, own_folder
from fairweather.data.medmnist_facts import ADDRESS, NATURAL_SHIFT, RESOLUTIONS, SETS, file_name
from fairweather.data.npz import list_archive
from fairweather.data.source import SPLITS, Request, Source, check_exists
from fairweather.download import file_digest
from fairweather.errors import InputError


def list_medmnist(name: str, request: Request) -> Source:
    """The official splits of one set, from its published .npz file.

    The file is looked for in the request's folder, then in `~/.medmnist`, where the package
    medmnist stores it, then in fairweather's cache. If it is in none of them, it is downloaded into
    the request's folder, or into the cache where the request has no folder.

    Args:
        name: a key of `SETS`.
        request: `resolution` is 28 (also where it is None), 64, 128 or 224.

    Raises:
        InputError: there is no such resolution; the file is missing and cannot be downloaded, is
            damaged, or is not the published one.
    """
    resolution = 28 if request.resolution is None else request.resolution
    if resolution not in RESOLUTIONS:
        raise InputError(
            f"{name} has no resolution {resolution}: allowed are "
            f"{', '.join(f'{name}@{side}' for side in RESOLUTIONS)}"
        )
    facts = SETS[name]
    path, md5 = _obtain(file_name(name, resolution), facts.md5[resolution], request)
    listed = list_archive(path, facts.classes)
    notes = {"file": str(path), "md5": md5, "verified": md5 == facts.md5[resolution]}
    if name in NATURAL_SHIFT and set(listed.splits) == set(SPLITS):
        notes["natural_shift"] = NATURAL_SHIFT[name]
    if facts.task == "ordinal-regression":
        notes["ordered_classes"] = True
    return listed._replace(name=f"{name}@{resolution}", notes=notes)


def _obtain(file: str, published: str, request: Request) -> tuple[Path, str]:
    """Find or download a file; its path and its MD5."""
    places = [Path("~/.medmnist").expanduser(), own_folder("medmnist")]
    target = places[-1]
    if request.path is not None:
        check_exists(request.path)
        if not request.path.is_dir():
            raise InputError(f"{str(request.path)!r} is a file; root is the folder of {file}")
        target = request.path
        places.insert(0, target)
    path = next((place / file for place in places if (place / file).is_file()), None)
    if path is None:
        path = obtain(request, ADDRESS.format(file=file), target / file, published)
        if request.verify:
            return path, published
    found = file_digest(path, "md5")
    check_md5(path, found, published, request.verify)
    return path, found


def _named(name: str) -> Callable[[Request], Source]:
    def load(request: Request) -> Source:
        return list_medmnist(name, request)

    load.__doc__ = f"MedMNIST: {SETS[name].title}; also @64, @128 and @224."
    return load


MEDMNIST = {name: _named(name) for name in SETS}
