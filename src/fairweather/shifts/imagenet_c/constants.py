"""The table of the published constants of the common corruptions.

Source: D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (ICLR 2019), as in github.com/hendrycks/robustness,
ImageNet-C/create_c/make_cifar_c.py (CIFAR-10-C), make_tinyimagenet_c.py (Tiny-ImageNet-C) and
make_imagenet_c.py (ImageNet-C; the package imagenet-c 0.0.3 has the same). The names of the
parameters are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Row = tuple[float, ...]


class Constants(NamedTuple):
    """A corruption's parameters at the five severities of each published set.

    Attributes:
        names: the names of the parameters, in the order of the rows.
        cifar10, tiny_imagenet, imagenet: five rows each, severity 1 first, for images of 32, 64 and
            224 pixels.
    """

    names: tuple[str, ...]
    cifar10: tuple[Row, ...]
    tiny_imagenet: tuple[Row, ...]
    imagenet: tuple[Row, ...]

    def at(self, severity: int, image_size: int) -> dict[str, float]:
        """Return the parameters at a severity, 1 to 5, from the set for this side in pixels.

        >>> CONSTANTS["defocus_blur"].at(severity=2, image_size=28)
        {'radius': 0.4, 'alias_blur': 0.5}
        """
        rows = self.imagenet
        if image_size < TINY_IMAGENET_BELOW:
            rows = self.cifar10 if image_size < CIFAR10_BELOW else self.tiny_imagenet
        return dict(zip(self.names, rows[severity - 1], strict=True))


# Roughly half-way between 32, 64 and 224 pixels.
CIFAR10_BELOW = 48
TINY_IMAGENET_BELOW = 128


def _one(name: str, cifar10: Row, tiny_imagenet: Row, imagenet: Row) -> Constants:
    """A corruption with a single parameter."""
    sets = (tuple((value,) for value in row) for row in (cifar10, tiny_imagenet, imagenet))
    return Constants((name,), *sets)


# 244 is a typing error for 224 in the benchmark's code. Its images were made with it, so it stays.
_E = 244 / 224

CONSTANTS: Mapping[str, Constants] = {
    # standard deviation, for values in [0, 1]
    "gaussian_noise": _one(
        "scale",
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.04, 0.08, 0.12, 0.15, 0.18),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    # expected photons of a white pixel
    "shot_noise": _one(
        "photons",
        (500, 250, 100, 75, 50),
        (250, 100, 50, 30, 15),
        (60, 25, 12, 5, 3),
    ),
    # share of the values that become 0 or 255
    "impulse_noise": _one(
        "amount",
        (0.01, 0.02, 0.03, 0.05, 0.07),
        (0.01, 0.02, 0.05, 0.08, 0.14),
        (0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    # standard deviation relative to the value
    "speckle_noise": _one(
        "scale",
        (0.06, 0.1, 0.12, 0.16, 0.2),
        (0.15, 0.2, 0.25, 0.3, 0.35),
        (0.15, 0.2, 0.35, 0.45, 0.6),
    ),
    # pixels; the standard deviation that softens the edge of the disk, pixels
    "defocus_blur": Constants(
        ("radius", "alias_blur"),
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # pixels; farthest swap, pixels; passes over the image
    "glass_blur": Constants(
        ("sigma", "reach", "passes"),
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # half the length of the kernel, pixels; standard deviation along it, pixels
    "motion_blur": Constants(
        ("radius", "sigma"),
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    # the end of the zoom factors, which start at 1 (as in numpy.arange); their step
    "zoom_blur": Constants(
        ("stop", "step"),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    # pixels
    "gaussian_blur": _one(
        "sigma",
        (0.4, 0.6, 0.7, 0.8, 1),
        (0.5, 0.75, 1, 1.25, 1.5),
        (1, 2, 3, 4, 6),
    ),
    # flakes: mean, standard deviation, zoom, smallest value shown; their motion blur: radius, sigma
    # (pixels); weight of the image in its mean with the whitened image
    "snow": Constants(
        ("mean", "scale", "zoom", "threshold", "radius", "sigma", "image_weight"),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # weights of the image and of the photograph of frost; scale factor of the photograph
    "frost": Constants(
        ("image_weight", "frost_weight", "frost_zoom"),
        ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
        ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    ),
    # amount added to values in [0, 1]; factor by which the fractal's roughness falls per scale
    "fog": Constants(
        ("amount", "decay"),
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # added to V in HSV, in [0, 1]
    "brightness": _one(
        "amount",
        (0.05, 0.1, 0.15, 0.2, 0.3),
        (0.1, 0.2, 0.3, 0.4, 0.5),
        (0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    # factor on the distance to the channel's mean
    "contrast": _one(
        "factor",
        (0.75, 0.5, 0.4, 0.3, 0.15),
        (0.4, 0.3, 0.2, 0.1, 0.05),
        (0.4, 0.3, 0.2, 0.1, 0.05),
    ),
    # shares of the smaller side: displacement, its smoothness, shift of the affine map's corners
    "elastic_transform": Constants(
        ("alpha", "sigma", "shift"),
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        (
            (2 * _E, 0.7 * _E, 0.1 * _E),
            (2 * _E, 0.08 * _E, 0.2 * _E),
            (0.05 * _E, 0.01 * _E, 0.02 * _E),
            (0.07 * _E, 0.01 * _E, 0.02 * _E),
            (0.12 * _E, 0.01 * _E, 0.02 * _E),
        ),
    ),
    # factor on the side
    "pixelate": _one(
        "factor",
        (0.95, 0.9, 0.85, 0.75, 0.65),
        (0.9, 0.8, 0.7, 0.6, 0.5),
        (0.6, 0.5, 0.4, 0.3, 0.25),
    ),
    # quality of libjpeg, 1 to 100
    "jpeg_compression": _one(
        "quality",
        (80, 65, 58, 50, 40),
        (65, 58, 50, 40, 25),
        (25, 18, 15, 10, 7),
    ),
    # liquid: mean, standard deviation, smoothness (pixels), smallest value shown; strength (for
    # mud: smoothness, pixels); 0 for water, 1 for mud
    "spatter": Constants(
        ("mean", "scale", "sigma", "threshold", "strength", "mud"),
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    # S in HSV is multiplied by the first, then the second is added
    "saturate": Constants(
        ("factor", "offset"),
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}
