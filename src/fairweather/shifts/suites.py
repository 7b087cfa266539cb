"""Suites: named lists of sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairweather.shifts.imagenet_c import CORRUPTIONS
from fairweather.shifts.medmnist_c import DEFAULT
from fairweather.shifts.medmnist_c.constants import FAMILIES

Sweep = Sequence[float] | Mapping[str, object]

_SEVERITIES = (1, 2, 3, 4, 5)
# The benchmark averages the first fifteen; the others are for validation.
_BENCHMARK, _EXTRA = tuple(CORRUPTIONS)[:15], tuple(CORRUPTIONS)[15:]
_QUICK = ("gaussian_noise", "motion_blur", "fog", "contrast", "jpeg_compression")

_PATHMNIST: Mapping[str, Sweep] = {
    f"medmnist_c/{name}": _SEVERITIES for name in FAMILIES[DEFAULT].corruptions
}


def _medmnist_c(dataset: str) -> Mapping[str, Sweep]:
    return {
        f"medmnist_c/{name}": {"severity": _SEVERITIES, "dataset": dataset}
        for name in FAMILIES[dataset].corruptions
    }


SUITES: Mapping[str, Mapping[str, Sweep]] = {
    # The levels of the report "Evaluating the Robustness of Deep Learning Models", section 7.
    "paper_pathmnist": {
        "brightness_factor": (0.8, 0.9, 1.1, 1.2),
        "gaussian_blur": {"sigma": (0.3, 0.5, 0.7, 0.9), "kernel_size": 5},
    },
    "paper_pets": {
        "brightness_factor": (0.6, 0.8, 1.2, 1.4),
        "gaussian_blur": {"sigma": (0.3, 0.5, 0.7, 0.9), "kernel_size": 5},
    },
    # Hendrycks and Dietterich (2019): the fifteen corruptions that the benchmark averages, in its
    # order, and the four for validation.
    "imagenet_c": {f"imagenet_c/{name}": _SEVERITIES for name in _BENCHMARK},
    "imagenet_c_extra": {f"imagenet_c/{name}": _SEVERITIES for name in _EXTRA},
    # Di Salvo, Doerrich and Ledig (2024): the corruptions of PathMNIST, and of each other 2-D set.
    "medmnist_c": _PATHMNIST,
    **{f"medmnist_c/{dataset}": _medmnist_c(dataset) for dataset in FAMILIES if dataset != DEFAULT},
    f"medmnist_c/{DEFAULT}": _PATHMNIST,
    # One or two of each family (noise, blur, weather, digital), without the slow ones.
    "quick": {f"imagenet_c/{name}": (1, 3, 5) for name in _QUICK},
}
