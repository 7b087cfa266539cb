"""The table of the published constants of the common corruptions.

Source: D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (ICLR 2019), as in github.com/hendrycks/robustness,
ImageNet-C/create_c/make_cifar_c.py (CIFAR-10-C), make_tinyimagenet_c.py (Tiny-ImageNet-C) and
make_imagenet_c.py (ImageNet-C; the package imagenet-c 0.0.3 has the same). The names of the
parameters are this project's; constants.json says what each is.

The lengths of ImageNet-C's `elastic_transform` are shares of 224 px times 244: a typing error in
the benchmark's code. Its images were made with it, so it stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fairweather.facts import read_facts

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


def _rows(rows: Sequence[Sequence[float]]) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in rows)


CONSTANTS: Mapping[str, Constants] = {
    name: Constants(
        tuple(facts["parameters"]),
        _rows(facts["cifar10"]),
        _rows(facts["tiny_imagenet"]),
        _rows(facts["imagenet"]),
    )
    for name, facts in read_facts("fairweather.shifts.imagenet_c", "constants").items()
}
