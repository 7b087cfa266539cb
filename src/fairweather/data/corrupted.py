"""The sources `cifar-10-c:PATH` and `imagenet-c:PATH`: published test sets of corrupted images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.data.image_folders import list_folder
from fairweather.data.named_sets import CIFAR_CLASSES
from fairweather.data.sources import UNSPLIT, Listing, RawImage, Source, SourceRequest, check_exists
from fairweather.errors import InputError, join_names, unknown_name
from fairweather.types.measurement import IntArray

# Hendrycks and Dietterich 2019: the fifteen corruptions of the benchmark, then four for validation.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
SEVERITIES = 5
CIFAR_SIDE, IMAGENET_SIDE = 32, 224
WNID = re.compile(r"n\d{8}")


class CorruptedPath(NamedTuple):
    """The path of a specification in its three pieces: FOLDER/CORRUPTION/SEVERITY."""

    folder: Path
    corruption: str
    severity: int

    def source(
        self, published: str, classes: tuple[str, ...], listing: Listing, side: int
    ) -> Source:
        """The test set that was published there, wherever its files are stored."""
        name = f"{published}/{self.corruption}/{self.severity}"
        notes = {"corruption": self.corruption, "severity": self.severity}
        return Source(classes, {"test": listing}, name, notes, side=side)


def list_cifar10_c(request: SourceRequest) -> Source:
    """CIFAR-10-C as published: PATH is FOLDER/CORRUPTION/SEVERITY, such as CIFAR-10-C/fog/3.

    The folder has `fog.npy`, uint8 `[5 n, 32, 32, 3]`: the n test images at severity 1, then the
    same images at severity 2, and so on. It also has `labels.npy` with the same n labels five times
    (n is 10,000). A key is a place among the n images: an image has the same key at every severity.
    There are only test images. Files are memory-mapped, and pickled objects are refused.

    Raises:
        InputError: a name, a severity or a file is wrong, or the files have another layout.
    """
    place = _parse_corrupted_path("cifar-10-c", request.path or Path())
    path = place.folder / f"{place.corruption}.npy"
    images = open_array(path)
    if images.dtype != np.uint8 or images.shape[1:] != (CIFAR_SIDE, CIFAR_SIDE, 3):
        raise InputError(
            f"{str(path)!r} is {images.dtype} {list(images.shape)}; "
            f"cifar-10-c has uint8 [N, {CIFAR_SIDE}, {CIFAR_SIDE}, 3]"
        )
    labels = _read_labels(place.folder / "labels.npy")
    if len(images) != SEVERITIES * len(labels):
        raise InputError(
            f"{str(path)!r} has {len(images)} images, but labels.npy has {SEVERITIES} times "
            f"{len(labels)} labels"
        )
    start = (place.severity - 1) * len(labels)

    def read(keys: IntArray) -> Iterator[RawImage]:
        for key in keys:
            pixels = np.array(images[start + key])  # a copy: a memory map cannot be sent elsewhere
            yield RawImage(f"image {key} at severity {place.severity} in {str(path)!r}", pixels)

    listing = Listing(labels, read, (path,), stretch=f"severity {place.severity}")
    return place.source("cifar-10-c", CIFAR_CLASSES, listing, CIFAR_SIDE)


def list_imagenet_c(request: SourceRequest) -> Source:
    """ImageNet-C as published: PATH is FOLDER/CORRUPTION/SEVERITY, such as ImageNet-C/fog/3.

    That folder has one folder of JPEGs per class, named by its WordNet number (`n01440764`). These
    are the class names, sorted. A key is a place in the order of folders and files. If no file is
    missing, an image has the same key at every severity. There are only test images.

    Raises:
        InputError: a name, a severity or the folder is wrong.
    """
    path = request.path or Path()
    place = _parse_corrupted_path("imagenet-c", path)
    source = list_folder(request)
    wrong = [name for name in source.classes if not WNID.fullmatch(name)]
    if set(source.splits) != {UNSPLIT} or wrong:
        names = join_names(wrong or list(source.splits))
        raise InputError(
            f"{str(path)!r} must have one folder per class, named like n01440764; found {names}"
        )
    return place.source("imagenet-c", source.classes, source.splits[UNSPLIT], IMAGENET_SIDE)


def _parse_corrupted_path(published: str, path: Path) -> CorruptedPath:
    corruption, severity = path.parent.name, path.name
    if severity not in [str(known) for known in range(1, SEVERITIES + 1)]:
        raise InputError(
            f"{published}:PATH ends with the severity, 1 to {SEVERITIES}, as in "
            f"{published}:FOLDER/fog/3; found {severity!r}"
        )
    if corruption not in CORRUPTIONS:
        raise unknown_name(f"corruption of {published}", corruption, CORRUPTIONS)
    check_exists(path.parent.parent)
    return CorruptedPath(path.parent.parent, corruption, int(severity))


def open_array(path: Path) -> npt.NDArray[Any]:
    """Map a .npy file into memory; raises `InputError` for another file or pickled objects."""
    check_exists(path)
    try:
        # This reads only the .npy format, and refuses pickled objects.
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{str(path)!r} cannot be read as a .npy file: {reason}") from error


def _read_labels(path: Path) -> IntArray:
    """Read the labels of one severity, and check that all severities have the same labels."""
    stored = open_array(path)
    whole = stored.dtype.kind in "iu" and stored.ndim == 1
    if not whole or not len(stored) or len(stored) % SEVERITIES:
        raise InputError(
            f"{str(path)!r} is {stored.dtype} {list(stored.shape)}; it must have one whole number "
            f"per image, and as many for each of {SEVERITIES} severities"
        )
    labels = np.asarray(stored).astype(np.int64).reshape(SEVERITIES, -1)
    different = np.flatnonzero((labels != labels[0]).any(1))
    if len(different):
        raise InputError(
            f"{str(path)!r} must have the same {labels.shape[1]} labels {SEVERITIES} times, but "
            f"the labels of severity {different[0] + 1} differ from those of severity 1"
        )
    if not 0 <= labels.min() <= labels.max() < len(CIFAR_CLASSES):
        span = f"{labels.min()} to {labels.max()}"
        raise InputError(f"labels of {str(path)!r} go from {span}; cifar-10-c has 0 to 9")
    return labels[0]
