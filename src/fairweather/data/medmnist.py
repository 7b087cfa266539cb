"""The 2-D sets of MedMNIST with one class an image, by name: `pathmnist`, `pathmnist@64`."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fairweather.data.known import check_md5, own_folder
from fairweather.data.npz import list_archive
from fairweather.data.source import SPLITS, Request, Source, check_exists
from fairweather.download import fetch, file_digest
from fairweather.errors import InputError, missing_extra

RESOLUTIONS = (28, 64, 128, 224)

# Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), table 1.
TITLES = {
    "bloodmnist": "17,092 blood cells under the microscope, 8 classes, colour",
    "breastmnist": "780 breast ultrasound images, 2 classes, gray",
    "dermamnist": "10,015 dermatoscopic images, 7 classes, colour",
    "octmnist": "109,309 retinal OCT images, 4 classes, gray",
    "organamnist": "58,830 axial CT slices, 11 organs, gray",
    "organcmnist": "23,583 coronal CT slices, 11 organs, gray",
    "organsmnist": "25,211 sagittal CT slices, 11 organs, gray",
    "pathmnist": "107,180 patches of colorectal tissue, 9 classes, colour",
    "pneumoniamnist": "5,856 chest radiographs of children, 2 classes, gray",
    "retinamnist": "1,600 images of the retina, 5 grades, colour",
    "tissuemnist": "236,386 kidney cortex cells, 8 classes, gray",
}

VOLUMES = "it has volumes, and fairweather reads images"
REFUSED = {
    "adrenalmnist3d": VOLUMES,
    "chestmnist": "its images have any number of 14 findings, and fairweather needs one class each",
    "fracturemnist3d": VOLUMES,
    "nodulemnist3d": VOLUMES,
    "organmnist3d": VOLUMES,
    "synapsemnist3d": VOLUMES,
    "vesselmnist3d": VOLUMES,
}

# The origin of the splits stands in medmnist's description of each set; of these sets it says only
# of pathmnist that test images come from elsewhere. What the makers of the images say stands in
# Kather et al., https://doi.org/10.5281/zenodo.1214456: other patients, and the NCT's tissue bank,
# from which a part of NCT-CRC-HE-100K came as well.
NATURAL_SHIFT = {
    "pathmnist": (
        "Train and val images come from NCT-CRC-HE-100K and test images from CRC-VAL-HE-7K, which "
        "has other patients and, as MedMNIST describes it, is from a different clinical centre."
    )
}


class Published(NamedTuple):
    """What the package medmnist says of one file."""

    url: str
    md5: str
    classes: tuple[str, ...]


def list_medmnist(name: str, request: Request) -> Source:
    """The official splits of one set, from its published .npz file.

    The file is looked for in the request's folder, in `~/.medmnist`, where the package medmnist
    keeps it, and in fairweather's cache; otherwise it is downloaded, into the request's folder or
    else into the cache.

    Args:
        name: a key of `TITLES`.
        request: `resolution` is 28 (also where there is none), 64, 128 or 224.

    Raises:
        InputError: the package medmnist is missing, there is no such resolution, the file is
            neither there nor to be had, is not the published one or is damaged.
    """
    resolution = 28 if request.resolution is None else request.resolution
    if resolution not in RESOLUTIONS:
        raise InputError(
            f"{name} has no resolution {resolution}: allowed are "
            f"{', '.join(f'{name}@{side}' for side in RESOLUTIONS)}"
        )
    published = _published(name, resolution)
    path, md5 = _obtain(f"{name}{_suffix(resolution)}.npz", published, request)
    listed = list_archive(path, published.classes)
    notes = {"file": str(path), "md5": md5, "verified": md5 == published.md5}
    if name in NATURAL_SHIFT and set(listed.splits) == set(SPLITS):
        notes["natural_shift"] = NATURAL_SHIFT[name]
    return listed._replace(name=f"{name}@{resolution}", notes=notes)


def _suffix(resolution: int) -> str:
    return "" if resolution == 28 else f"_{resolution}"


def _published(name: str, resolution: int) -> Published:
    # Importing medmnist, or its module info, makes ~/.medmnist, and the former loads scikit-image
    # and the like for seconds; all that is needed is the dictionary of constants in info.py.
    found = importlib.util.find_spec("medmnist")
    if found is None or found.origin is None:
        raise missing_extra("medmnist", "medmnist", "the MedMNIST sets")
    path = Path(found.origin).with_name("info.py")
    suffix = _suffix(resolution)
    try:
        info = _constant(path.read_text(encoding="utf-8"), "INFO")[name]
        labels = info["label"]
        classes = tuple(labels[str(label)] for label in range(len(labels)))
        return Published(info[f"url{suffix}"], info[f"MD5{suffix}"], classes)
    except (OSError, LookupError, ValueError, SyntaxError) as error:
        raise InputError(
            f"the installed package medmnist says nothing of {name}@{resolution}: "
            "pip install 'fairweather[medmnist]'"
        ) from error


def _constant(source: str, name: str) -> dict[str, dict[str, Any]]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def _obtain(name: str, published: Published, request: Request) -> tuple[Path, str]:
    places = [Path("~/.medmnist").expanduser(), own_folder("medmnist")]
    target = places[-1]
    if request.path is not None:
        check_exists(request.path)
        if not request.path.is_dir():
            raise InputError(f"{str(request.path)!r} is a file; root names the folder of {name}")
        target = request.path
        places.insert(0, target)
    path = next((place / name for place in places if (place / name).is_file()), None)
    if path is None:
        expected = published.md5 if request.verify else None
        path = target / name
        fetch(published.url, path, md5=expected, offline=request.offline, progress=request.progress)
        if expected:
            return path, expected
    found = file_digest(path, "md5")
    check_md5(path, found, published.md5, request.verify)
    return path, found


def _named(name: str) -> Callable[[Request], Source]:
    def load(request: Request) -> Source:
        return list_medmnist(name, request)

    load.__doc__ = f"MedMNIST: {TITLES[name]}; also @64, @128 and @224."
    return load


MEDMNIST = {name: _named(name) for name in TITLES}
