"""The table of the published constants of MedMNIST-C, per data set.

Source: F. Di Salvo, S. Doerrich and C. Ledig, "MedMNIST-C: Comprehensive benchmark and improved
classifier robustness by simulating realistic image corruptions" (2024), as in the package medmnistc
0.1.0, medmnistc/corruptions/registry.py: CORRUPTIONS_DS, in its order, and DATASET_RGB. If it lists
six values, its severities use the first five. The names of the parameters are this project's;
constants.json says what each is. Lengths are in pixels of 224 px images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.facts import read_facts

Row = tuple[float, ...]


class Family(NamedTuple):
    """The corruptions of a data set.

    Attributes:
        grey: are its images grey; then corrupted images are converted back to grey.
        rows: for each corruption, the parameters at severities 1 to 5.
    """

    grey: bool
    rows: Mapping[str, tuple[Row, ...]]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names in the registry's order."""
        return tuple(self.rows)


_FACTS = read_facts("fairweather.shifts.medmnist_c", "constants")
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    name: tuple(meanings) for name, meanings in _FACTS["parameters"].items()
}
FAMILIES: Mapping[str, Family] = {
    dataset: Family(
        facts["grey"],
        {name: tuple(map(tuple, rows)) for name, rows in facts["corruptions"].items()},
    )
    for dataset, facts in _FACTS["datasets"].items()
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
    return dict(zip(PARAMETERS[name], family.rows[name][severity - 1], strict=True))
