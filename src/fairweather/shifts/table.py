"""The table of named shifts of 8-bit test images, and their sweeps and suites."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.shifts import basic
from fairweather.shifts.imagenet_c import corruptions as imagenet_c
from fairweather.shifts.imagenet_c.corruptions import CORRUPTIONS
from fairweather.shifts.medmnist_c import corruptions as medmnist_c
from fairweather.shifts.medmnist_c.corruptions import DEFAULT_DATASET, FAMILIES
from fairweather.shifts.ranges import check_arguments
from fairweather.types.measurement import Parameter, Shift, ShiftFunction, is_finite, make_levels

# Families of shifts have different names for one operation: these become the same name.
_OPERATIONS = {
    "jpeg": "jpeg_compression",
    "brightness_factor": "brightness",
    **{f"{name}_{way}": name for name in ("brightness", "contrast") for way in ("up", "down")},
    **{f"gamma_corr_{way}": "gamma" for way in ("up", "down")},
}


def operation_name(shift: str) -> str:
    """Name the operation of a shift; the name is the same for all families of shifts.

    >>> operation_name("imagenet_c/brightness"), operation_name("brightness_factor")
    ('brightness', 'brightness')
    """
    last = shift.rpartition("/")[2]
    return _OPERATIONS.get(last, last)


SweepLevels = Sequence[float] | Mapping[str, object]

_SEVERITIES = (1, 2, 3, 4, 5)
# The benchmark averages the first fifteen; the others are for validation.
_BENCHMARK, _EXTRA = tuple(CORRUPTIONS)[:15], tuple(CORRUPTIONS)[15:]
_QUICK = ("gaussian_noise", "motion_blur", "fog", "contrast", "jpeg_compression")

_PATHMNIST_SUITE: Mapping[str, SweepLevels] = {
    f"medmnist_c/{name}": _SEVERITIES for name in FAMILIES[DEFAULT_DATASET]
}


def _medmnist_suite(dataset: str) -> Mapping[str, SweepLevels]:
    return {
        f"medmnist_c/{name}": {"severity": _SEVERITIES, "dataset": dataset}
        for name in FAMILIES[dataset]
    }


SUITES: Mapping[str, Mapping[str, SweepLevels]] = {
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
    "medmnist_c": _PATHMNIST_SUITE,
    **{
        f"medmnist_c/{dataset}": _medmnist_suite(dataset)
        for dataset in FAMILIES
        if dataset != DEFAULT_DATASET
    },
    f"medmnist_c/{DEFAULT_DATASET}": _PATHMNIST_SUITE,
    # One or two of each family (noise, blur, weather, digital), without the slow ones.
    "quick": {f"imagenet_c/{name}": (1, 3, 5) for name in _QUICK},
}


class ShiftKind(NamedTuple):
    """A row of the table of shifts."""

    build: Callable[..., ShiftFunction]
    """Makes the function of 8-bit images from keyword parameters."""

    title: str
    level_title: str
    """`title`, `level_title`: texts for table heads and axes."""

    neutral: float = 0.0
    """The level that changes nothing; clean images have this place on a figure's axis."""

    note: Callable[[Mapping[str, Parameter]], str] = lambda parameters: ""
    """Returns what a reader must know about these parameters, or ""."""

    parameters: tuple[str, ...] = ()
    """The names of the keywords, if the signature of `build` does not contain them."""

    texts: tuple[str, ...] = ()
    """The parameters that are text; all others are numbers."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of all keyword parameters, in order."""
        return self.parameters or tuple(inspect.signature(self.build).parameters)

    @property
    def level(self) -> str:
        """The parameter that a sweep varies: the first."""
        return self.parameter_names[0]


def _blur_note(parameters: Mapping[str, Parameter]) -> str:
    if "kernel_size" not in parameters:
        return ""
    sigma, size = float(parameters["sigma"]), int(parameters["kernel_size"])
    return (
        f"with a {size}x{size} kernel, the effective σ is {basic.effective_sigma(sigma, size):.2f}"
    )


def _corruption_rows(name: str, family: ModuleType, *options: str) -> dict[str, ShiftKind]:
    """The rows of a published family, whose module builds its `CORRUPTIONS` by name."""
    return {
        f"{name}/{key}": ShiftKind(
            partial(family.corruption, key),
            row.title,
            "severity",
            note=partial(family.severity_note, key),
            parameters=("severity", *options, *family.PARAMETERS[key]),
            texts=("dataset",),
        )
        for key, row in family.CORRUPTIONS.items()
    }


SHIFTS: Mapping[str, ShiftKind] = {
    "brightness_factor": ShiftKind(
        basic.brightness_factor, "Brightness", "brightness factor f", neutral=1.0
    ),
    "gaussian_blur": ShiftKind(
        basic.gaussian_blur, "Gaussian blur", "standard deviation σ (pixels)", note=_blur_note
    ),
    "rotation": ShiftKind(basic.rotation, "Rotation", "angle (degrees)"),
    "translate": ShiftKind(basic.translate, "Translation", "fraction of the width"),
    "downscale": ShiftKind(
        basic.downscale, "Lower resolution", "factor of the pixel size", neutral=1.0
    ),
    "hue": ShiftKind(basic.hue, "Hue", "turn of the colour circle"),
    "gamma": ShiftKind(basic.gamma, "Gamma", "exponent γ", neutral=1.0),
    "jpeg": ShiftKind(basic.jpeg, "JPEG", "quality", neutral=100.0),
    **_corruption_rows("imagenet_c", imagenet_c, "image_size"),
    **_corruption_rows("medmnist_c", medmnist_c, "dataset"),
}


CLEAN = Shift("clean", None, {}, lambda images, keys, seed: images)


def make_shift(name: str, **parameters: Parameter) -> Shift:
    """Make one shift at one level.

    Raises `InputError` for a name, a parameter or a value that the table of shifts does not allow.

    >>> import torch
    >>> shift = make_shift("gaussian_blur", sigma=0.7, kernel_size=5)
    >>> images = torch.randint(256, (2, 3, 28, 28), dtype=torch.uint8)
    >>> shift(images, torch.arange(2), seed=0).shape
    torch.Size([2, 3, 28, 28])
    """
    if name == "clean" and not parameters:
        return CLEAN
    if name not in SHIFTS:
        raise unknown_name("shift", name, ["clean", *SHIFTS])
    kind = SHIFTS[name]
    known = kind.parameter_names
    for key, value in parameters.items():
        if key not in known:
            raise unknown_name(f"parameter of {name}", key, known)
        _check_parameter(kind, f"{name}: {key}", key, value)
    if kind.level not in parameters:
        raise InputError(f"{name} needs its level, {kind.level}=NUMBER")
    ordered = {key: parameters[key] for key in known if key in parameters}
    check_arguments(name, kind.build, ordered)
    return Shift(name, float(parameters[kind.level]), ordered, kind.build(**ordered))


def _check_parameter(kind: ShiftKind, title: str, key: str, value: Parameter) -> None:
    if key in kind.texts:
        if not isinstance(value, str):
            raise InputError(f"{title} must be text, found {value!r}")
    elif not is_finite(value):
        raise InputError(f"{title} must be a finite number, found {value!r:.60}")


def sweep(name: str, levels: SweepLevels) -> list[Shift]:
    """Make one shift at several levels, from a list of levels or a mapping of parameters.

    >>> [shift.id for shift in sweep("gaussian_blur", {"sigma": [0.3, 0.9], "kernel_size": 5})]
    ['gaussian_blur,sigma=0.3,kernel_size=5', 'gaussian_blur,sigma=0.9,kernel_size=5']
    """
    if name not in SHIFTS:
        raise unknown_name("shift", name, SHIFTS)
    return make_levels(name, SHIFTS[name].level, levels, make_shift)


def suite(name: str, image_size: int | None = None) -> list[Shift]:
    """Return the shifts of a named suite.

    Args:
        name: a name in `SUITES`.
        image_size: the image side in pixels, for shifts whose parameters depend on it. By default,
            these use the smaller side of the images.

    >>> len(suite("imagenet_c")), len(suite("imagenet_c_extra")), len(suite("paper_pathmnist"))
    (75, 20, 8)
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    shifts = []
    for key, levels in SUITES[name].items():
        kind = SHIFTS[key]
        sized = (
            {"image_size": image_size}
            if image_size and "image_size" in kind.parameter_names
            else {}
        )
        swept = levels if isinstance(levels, Mapping) else {kind.level: levels}
        shifts += sweep(key, {**swept, **sized})
    return shifts
