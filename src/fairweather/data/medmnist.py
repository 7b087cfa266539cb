"""The 2-D sets of MedMNIST with one class per image, by name: `pathmnist`, `pathmnist@64`.

Sources: Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), for the sets at 28 pixels;
MedMNIST+, https://doi.org/10.5281/zenodo.10519652, for 64, 128 and 224 pixels. Checksums, counts,
tasks and class names are those of `INFO` in medmnist 3.0.2 (Apache-2.0), the authors' own package;
a test compares every row with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fairweather.data.known import check_md5, obtain, own_folder
from fairweather.data.npz import list_archive
from fairweather.data.source import SPLITS, Request, Source, check_exists
from fairweather.download import file_digest
from fairweather.errors import InputError
from fairweather.facts import read_facts

RESOLUTIONS = (28, 64, 128, 224)
ADDRESS = "https://zenodo.org/records/10519652/files/{file}?download=1"


class Facts(NamedTuple):
    """The facts of one set.

    Attributes:
        shows: what its images show.
        task: as MedMNIST calls it. Each image has one class in all of these; an ordinal regression
            is treated as a classification, as its authors do.
        channels: 1 for gray images, 3 for RGB.
        images: how many each split has.
        classes: names in label order.
        md5: by resolution, of the published file.
        classes_are: what the classes stand for.
    """

    shows: str
    task: str
    channels: int
    images: Mapping[str, int]
    classes: tuple[str, ...]
    md5: Mapping[int, str]
    classes_are: str

    @property
    def title(self) -> str:
        """One line for lists."""
        colour = "colour" if self.channels == 3 else "gray"
        count = f"{sum(self.images.values()):,}"
        return f"{count} {self.shows}, {len(self.classes)} {self.classes_are}, {colour}"


def file_name(name: str, resolution: int) -> str:
    """The name of the file that is published for a set at a resolution.

    >>> file_name("pathmnist", 28), file_name("pathmnist", 64)
    ('pathmnist.npz', 'pathmnist_64.npz')
    """
    return f"{name}.npz" if resolution == 28 else f"{name}_{resolution}.npz"


_FACTS = read_facts("fairweather.data", "medmnist_facts")
SETS = {
    name: Facts(
        **facts
        | {
            "classes": tuple(facts["classes"]),
            "md5": {int(resolution): digest for resolution, digest in facts["md5"].items()},
        }
    )
    for name, facts in _FACTS["sets"].items()
}
# Why other sets of MedMNIST are not read.
REFUSED: Mapping[str, str] = _FACTS["refused"]
# Of these sets, MedMNIST's descriptions say only of pathmnist that the test images come from
# elsewhere. Kather et al., who made the images, say (https://doi.org/10.5281/zenodo.1214456) that
# CRC-VAL-HE-7K has other patients, and that it comes from the tissue bank of the NCT, from which a
# part of NCT-CRC-HE-100K came as well.
NATURAL_SHIFT: Mapping[str, str] = _FACTS["natural_shift"]


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
