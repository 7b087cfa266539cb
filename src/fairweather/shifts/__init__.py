"""Changes of the weather: named shifts of 8-bit test images, their sweeps and suites."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from fairweather.errors import InputError, unknown_name
from fairweather.shifts.blur import effective_sigma as effective_sigma
from fairweather.shifts.blur import gaussian_blur
from fairweather.shifts.brightness import brightness_factor
from fairweather.types import Parameter, Shift, ShiftFunction

Sweep = Sequence[float] | Mapping[str, object]


class ShiftKind(NamedTuple):
    """A row of the table of shifts.

    Attributes:
        build: keyword parameters in, the function of 8-bit images out.
        level: the parameter that a sweep varies.
        title, level_title: for table heads and axes.
        neutral: the level that changes nothing, where clean belongs on the axis of a figure.
        note: what a reader must know about these parameters, or nothing.
    """

    build: Callable[..., ShiftFunction]
    level: str
    title: str
    level_title: str
    neutral: float
    note: Callable[[Mapping[str, Parameter]], str]


def _no_note(parameters: Mapping[str, Parameter]) -> str:
    return ""


def _blur_note(parameters: Mapping[str, Parameter]) -> str:
    if "kernel_size" not in parameters:
        return ""
    sigma, size = float(parameters["sigma"]), int(parameters["kernel_size"])
    return f"a {size}x{size} kernel leaves an effective σ of {effective_sigma(sigma, size):.2f}"


SHIFTS: Mapping[str, ShiftKind] = {
    "brightness_factor": ShiftKind(
        brightness_factor, "factor", "Brightness", "brightness factor f", 1.0, _no_note
    ),
    "gaussian_blur": ShiftKind(
        gaussian_blur, "sigma", "Gaussian blur", "standard deviation σ (pixels)", 0.0, _blur_note
    ),
}

# The levels of the report "Evaluating the Robustness of Deep Learning Models", section 7.
SUITES: Mapping[str, Mapping[str, Sweep]] = {
    "paper_pathmnist": {
        "brightness_factor": (0.8, 0.9, 1.1, 1.2),
        "gaussian_blur": {"sigma": (0.3, 0.5, 0.7, 0.9), "kernel_size": 5},
    },
    "paper_pets": {
        "brightness_factor": (0.6, 0.8, 1.2, 1.4),
        "gaussian_blur": {"sigma": (0.3, 0.5, 0.7, 0.9), "kernel_size": 5},
    },
}


def _unchanged(images: torch.Tensor, keys: torch.Tensor, seed: int) -> torch.Tensor:
    return images


CLEAN = Shift("clean", None, {}, _unchanged)


def make_shift(name: str, **parameters: Parameter) -> Shift:
    """Make one shift at one level.

    Raises `InputError` for a name, a parameter or a value that the table of shifts does not allow.

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
    known = inspect.signature(kind.build).parameters
    for key, value in parameters.items():
        if key not in known:
            raise unknown_name(f"parameter of {name}", key, known)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError(f"{name}: {key} must be a finite number, found {value!r}")
    if kind.level not in parameters:
        raise InputError(f"{name} needs its level: make_shift({name!r}, {kind.level}=...)")
    ordered = {key: parameters[key] for key in known if key in parameters}
    return Shift(name, float(parameters[kind.level]), ordered, kind.build(**ordered))


def sweep(name: str, levels: Sweep) -> list[Shift]:
    """Make one shift at several levels, from a list of levels or a mapping of parameters.

    >>> [shift.id for shift in sweep("gaussian_blur", {"sigma": [0.3, 0.9], "kernel_size": 5})]
    ['gaussian_blur,sigma=0.3,kernel_size=5', 'gaussian_blur,sigma=0.9,kernel_size=5']
    """
    if name not in SHIFTS:
        raise unknown_name("shift", name, SHIFTS)
    level = SHIFTS[name].level
    parameters = dict(levels) if isinstance(levels, Mapping) else {level: levels}
    swept = parameters.pop(level, None)
    values = [swept] if isinstance(swept, int | float) else swept
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f"{name}: {level} must be a number or a list of numbers, found {swept!r}")
    shifts = [make_shift(name, **{level: value, **parameters}) for value in values]
    if len({shift.level for shift in shifts}) < len(shifts):
        raise InputError(f"{name}: {level} has the same level twice: {list(values)}")
    return shifts


def suite(name: str) -> list[Shift]:
    """Give the shifts of a named suite.

    >>> len(suite("paper_pathmnist"))
    8
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return [shift for key, levels in SUITES[name].items() for shift in sweep(key, levels)]
