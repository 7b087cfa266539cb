"""Shifts as people name them on a command line: suites, and shifts with their parameters."""

from __future__ import annotations

from collections.abc import Sequence

from fairweather.errors import InputError, unknown_name
from fairweather.shifts import SHIFTS, make_shift, suite, sweep
from fairweather.types import Parameter, Shift

SEVERITIES = (1, 2, 3, 4, 5)


def choose_shifts(suites: Sequence[str] = (), shifts: Sequence[str] = ()) -> list[Shift]:
    """Give the shifts of suites and of texts such as `gaussian_blur,sigma=0.7`, each once.

    A shift that has severities, named without one, stands for all five.

    Raises:
        InputError: nothing is named, or a name or a parameter is not in the tables.

    >>> [shift.id for shift in choose_shifts(shifts=["gamma,exponent=0.5", "clean"])]
    ['gamma,exponent=0.5', 'clean']
    >>> len(choose_shifts(["quick"], ["imagenet_c/fog"]))
    17
    """
    if not suites and not shifts:
        raise InputError(
            "name what the weather does: --suite NAME, or --shift NAME[,parameter=value...]"
        )
    chosen = [shift for name in suites for shift in suite(name)]
    chosen += [shift for text in shifts for shift in _parse(text)]
    return list({shift.id: shift for shift in chosen}.values())


def _parse(text: str) -> list[Shift]:
    name, *pairs = (part.strip() for part in text.split(","))
    if name not in ("clean", *SHIFTS):
        raise unknown_name("shift", name, ["clean", *SHIFTS])
    parameters: dict[str, Parameter] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key:
            raise InputError(f"--shift takes NAME[,parameter=value...], found {text!r}")
        if key in parameters:
            raise InputError(f"--shift names {key} twice: {text!r}")
        parameters[key] = _value(value)
    if name in SHIFTS and SHIFTS[name].level == "severity" and "severity" not in parameters:
        return sweep(name, {"severity": SEVERITIES, **parameters})
    return [make_shift(name, **parameters)]


def _value(text: str) -> Parameter:
    """A number where it is one; what may be text is for the shift to say."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
