"""The table of the published constants of MedMNIST-C, per data set.

Source: F. Di Salvo, S. Doerrich and C. Ledig, "MedMNIST-C: Comprehensive benchmark and improved
classifier robustness by simulating realistic image corruptions" (2024), as in the package medmnistc
0.1.0, medmnistc/corruptions/registry.py: CORRUPTIONS_DS, in its order, and DATASET_RGB. If it lists
six values, its severities use the first five. The names of the parameters are this project's.
Lengths are in pixels of 224 px images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name

Row = tuple[float, ...]
Rows = tuple[float | Row, ...]


class Family(NamedTuple):
    """The corruptions of a data set.

    Attributes:
        grey: are its images grey; then corrupted images are converted back to grey.
        rows: for each corruption, the parameters at severities 1 to 5; a number if there is only
            one.
    """

    grey: bool
    rows: Mapping[str, Rows]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names in the registry's order."""
        return tuple(self.rows)


PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "pixelate": ("factor",),  # factor on the side
    "jpeg_compression": ("quality",),  # quality of libjpeg, 1 to 100
    "gaussian_noise": ("scale",),  # standard deviation, for values in [0, 1]
    "speckle_noise": ("scale",),  # standard deviation relative to the value
    "impulse_noise": ("amount",),  # share of the values that become 0 or 255
    "shot_noise": ("photons",),  # expected photons of a white pixel
    "gaussian_blur": ("kernel_size",),  # pixels; the standard deviation is computed from it
    "defocus_blur": ("radius", "alias_blur"),  # pixels; softening of the disk's edge, pixels
    "motion_blur": ("radius", "sigma"),  # half the kernel; standard deviation; both pixels
    "zoom_blur": ("stop", "step"),  # the end of the zoom factors, which start at 1; their step
    "brightness_up": ("factor",),  # factor on the values
    "brightness_down": ("factor",),
    "contrast_up": ("factor",),  # factor on the distance to the mean grey
    "contrast_down": ("factor",),
    "saturate": ("offset",),  # added to S in HSV
    "stain_deposit": ("marks", "size"),  # largest number; side of a drawing, pixels
    "bubble": ("max_radius", "max_bubbles"),  # pixels; largest number
    "gamma_corr_up": ("exponent",),  # for values in [0, 1]
    "gamma_corr_down": ("exponent",),
    "black_corner": ("radius",),  # of the visible circle, share of half the smaller side
    "characters": ("words", "letters", "font_scale"),  # the largest of each; OpenCV's font scale
}

_UP = (1.1, 1.2, 1.3, 1.4, 1.5)
_DOWN = (0.9, 0.8, 0.7, 0.6, 0.5)
_CONTRAST_UP = (1.1, 1.2, 1.3, 1.4, 1.6)
_CONTRAST_DOWN = (0.9, 0.8, 0.7, 0.6, 0.4)
_GAMMA_DOWN = (0.9, 0.8, 0.7, 0.6, 0.4)
_QUALITY = (50, 30, 15, 10, 7)
_COARSE = (0.3, 0.25, 0.2, 0.15, 0.1)
_GAUSSIAN_NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)
_SPECKLE_NOISE = (0.05, 0.15, 0.2, 0.35, 0.45)
_IMPULSE_NOISE = (0.01, 0.03, 0.06, 0.09, 0.17)
_SHOT_NOISE = (60, 25, 18, 10, 5)
_KERNEL = (3, 5, 7, 9, 11)
_DISK = ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5))

_ORGANS: Mapping[str, Rows] = {
    "pixelate": (0.7, 0.6, 0.5, 0.4, 0.35),
    "jpeg_compression": _QUALITY,
    "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
    "speckle_noise": (0.05, 0.1, 0.2, 0.3, 0.4),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.08),
    "shot_noise": (200, 100, 50, 25, 15),
    "gaussian_blur": (11, 13, 15, 17, 21),
    "brightness_up": (1.2, 1.3, 1.4, 1.5, 1.6),
    "brightness_down": (0.8, 0.75, 0.7, 0.65, 0.6),
    "contrast_up": (1.3, 1.4, 1.6, 1.7, 1.8),
    "contrast_down": (0.8, 0.7, 0.6, 0.55, 0.5),
    "gamma_corr_up": (1.3, 1.4, 1.6, 1.8, 2),
    "gamma_corr_down": _GAMMA_DOWN,
}

FAMILIES: Mapping[str, Family] = {
    "pathmnist": Family(
        grey=False,
        rows={
            "pixelate": (0.8, 0.6, 0.4, 0.3, 0.25),
            "jpeg_compression": _QUALITY,
            "defocus_blur": ((3, 0.1), (4, 0.1), (5, 0.2), (6, 0.2), (7, 0.3)),
            "motion_blur": ((5, 5), (10, 5), (15, 5), (15, 8), (15, 12)),
            "brightness_up": (1.1, 1.15, 1.2, 1.22, 1.25),
            "brightness_down": (0.85, 0.8, 0.75, 0.72, 0.7),
            "contrast_up": _CONTRAST_UP,
            "contrast_down": (0.8, 0.7, 0.6, 0.55, 0.5),
            "saturate": (0.05, 0.1, 0.15, 0.2, 0.25),
            # The size is not in the registry: only severity 5 has the larger drawings.
            "stain_deposit": ((1, 24), (2, 24), (3, 24), (4, 24), (5, 32)),
            "bubble": ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25)),
        },
    ),
    "bloodmnist": Family(
        grey=False,
        rows={
            "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
            "jpeg_compression": _QUALITY,
            "defocus_blur": ((2, 0.01), (3, 0.1), (4, 0.1), (5, 0.1), (6, 0.1)),
            "motion_blur": ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)),
            "brightness_up": (1.1, 1.2, 1.3, 1.35, 1.4),
            "brightness_down": _DOWN,
            "contrast_up": (1.1, 1.15, 1.2, 1.25, 1.3),
            "contrast_down": _DOWN,
            "saturate": (0.05, 0.1, 0.15, 0.17, 0.2),
            "stain_deposit": ((1, 24), (2, 24), (3, 24), (3, 24), (3, 32)),
            "bubble": ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)),
        },
    ),
    "dermamnist": Family(
        grey=False,
        rows={
            "pixelate": (0.7, 0.5, 0.4, 0.3, 0.25),
            "jpeg_compression": (30, 20, 15, 10, 7),
            "gaussian_noise": _GAUSSIAN_NOISE,
            "speckle_noise": _SPECKLE_NOISE,
            "impulse_noise": _IMPULSE_NOISE,
            "shot_noise": _SHOT_NOISE,
            "defocus_blur": _DISK,
            "motion_blur": ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
            "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
            "brightness_up": _UP,
            "brightness_down": _DOWN,
            "contrast_up": _CONTRAST_UP,
            "contrast_down": (0.8, 0.7, 0.6, 0.5, 0.4),
            "black_corner": (1.1, 1.05, 1, 0.9, 0.95),  # the last two in this order
            "characters": ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18)),
        },
    ),
    "retinamnist": Family(
        grey=False,
        rows={
            "pixelate": (0.8, 0.6, 0.5, 0.4, 0.35),
            "jpeg_compression": (30, 25, 20, 10, 5),
            "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
            "speckle_noise": (0.1, 0.15, 0.2, 0.25, 0.3),
            "defocus_blur": _DISK,
            "motion_blur": ((8, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
            "brightness_down": _DOWN,
            "contrast_down": _CONTRAST_DOWN,
        },
    ),
    "tissuemnist": Family(
        grey=True,
        rows={
            "pixelate": (0.4, 0.3, 0.2, 0.15, 0.1),
            "jpeg_compression": (25, 20, 15, 10, 7),
            "impulse_noise": (0.01, 0.015, 0.02, 0.025, 0.03),
            "gaussian_blur": (13, 15, 17, 21, 25),
            "brightness_up": (1.3, 1.4, 1.5, 1.6, 1.7),
            "brightness_down": (0.8, 0.7, 0.6, 0.5, 0.4),
            "contrast_up": _CONTRAST_UP,
            "contrast_down": _CONTRAST_DOWN,
        },
    ),
    "octmnist": Family(
        grey=True,
        rows={
            "pixelate": _COARSE,
            "jpeg_compression": (30, 15, 10, 7, 5),
            "speckle_noise": (0.15, 0.3, 0.4, 0.5, 0.6),
            "defocus_blur": ((0.5, 0.6), (1, 0.5), (1.5, 0.1), (2, 0.5), (2.5, 0.1)),
            "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            "contrast_down": (0.6, 0.4, 0.3, 0.2, 0.15),
        },
    ),
    "breastmnist": Family(
        grey=True,
        rows={
            "pixelate": _COARSE,
            "jpeg_compression": _QUALITY,
            "speckle_noise": (0.1, 0.15, 0.2, 0.25, 0.3),
            "motion_blur": ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
            "brightness_up": (1.4, 1.5, 1.6, 1.8, 2),
            "brightness_down": (0.55, 0.5, 0.45, 0.4, 0.3),
            "contrast_down": _CONTRAST_DOWN,
        },
    ),
    "chestmnist": Family(
        grey=True,
        rows={
            "pixelate": _COARSE,
            "jpeg_compression": _QUALITY,
            "gaussian_noise": _GAUSSIAN_NOISE,
            "speckle_noise": _SPECKLE_NOISE,
            "impulse_noise": _IMPULSE_NOISE,
            "shot_noise": _SHOT_NOISE,
            "gaussian_blur": _KERNEL,
            "brightness_up": _UP,
            "brightness_down": _DOWN,
            "contrast_up": _CONTRAST_UP,
            "contrast_down": _CONTRAST_DOWN,
            "gamma_corr_up": _CONTRAST_UP,
            "gamma_corr_down": _GAMMA_DOWN,
        },
    ),
    "pneumoniamnist": Family(
        grey=True,
        rows={
            "pixelate": (0.8, 0.7, 0.6, 0.5, 0.4),
            "jpeg_compression": _QUALITY,
            "gaussian_noise": (0.04, 0.05, 0.06, 0.07, 0.08),
            "speckle_noise": (0.05, 0.07, 0.1, 0.15, 0.2),
            "impulse_noise": (0.005, 0.01, 0.013, 0.017, 0.02),
            "shot_noise": (300, 200, 150, 100, 80),
            "gaussian_blur": _KERNEL,
            "brightness_up": _UP,
            "brightness_down": _DOWN,
            "contrast_up": _CONTRAST_UP,
            "contrast_down": _CONTRAST_DOWN,
            "gamma_corr_up": _CONTRAST_UP,
            "gamma_corr_down": _GAMMA_DOWN,
        },
    ),
    "organamnist": Family(grey=True, rows=_ORGANS),
    "organcmnist": Family(grey=True, rows=_ORGANS),
    "organsmnist": Family(grey=True, rows=_ORGANS),
}


def published(name: str, dataset: str, severity: int) -> dict[str, float]:
    """Return a corruption's parameters for a data set at a severity, 1 to 5.

    Raises:
        InputError: the data set is not one of the twelve, or it does not have the corruption.

    >>> published("bubble", "pathmnist", severity=1)
    {'max_radius': 7, 'max_bubbles': 15}
    """
    if dataset not in FAMILIES:
        raise unknown_name("data set of MedMNIST-C", dataset, FAMILIES)
    family = FAMILIES[dataset]
    if name not in family.rows:
        raise InputError(
            f"medmnist_c/{name}: {dataset} does not have this corruption; "
            f"it has {', '.join(family.corruptions)}"
        )
    row = family.rows[name][severity - 1]
    values = row if isinstance(row, tuple) else (row,)
    return dict(zip(PARAMETERS[name], values, strict=True))
