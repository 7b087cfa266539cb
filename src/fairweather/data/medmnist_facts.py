"""The facts of the MedMNIST sets: addresses, checksums, sizes and classes, and what is refused.

Sources: Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023), for the sets at 28 pixels;
MedMNIST+, https://doi.org/10.5281/zenodo.10519652, for 64, 128 and 224 pixels. Checksums, counts,
tasks and class names are those of `INFO` in medmnist 3.0.2 (Apache-2.0), the authors' own package;
a test compares every row with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
