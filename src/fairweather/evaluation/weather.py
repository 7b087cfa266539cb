"""The shifts and attacks of an evaluation, as people name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairweather.attacks import ATTACKS, make_attack
from fairweather.errors import InputError, unknown_name
from fairweather.shifts import CLEAN, SHIFTS, SUITES, suite
from fairweather.shifts.choosing import choose_shifts
from fairweather.study.expanding import expand_shifts
from fairweather.types import Attack, Shift
from fairweather.yamlfile import parse_yaml

Weather = Shift | Attack | str


def choose_weather(asked: Weather | Iterable[Weather]) -> tuple[Shift | Attack, ...]:
    """Give clean and then every shift and attack that was asked for, each once.

    Args:
        asked: shifts and attacks, or texts: a suite (`imagenet_c`), a shift with its parameters
            (`gaussian_blur,sigma=0.7`), one that has severities alone (`imagenet_c/fog`: all five),
            an attack (`pgd,epsilon=8/255`), or an entry as a study writes it
            (`brightness_factor: [0.8, 1.2]`).

    Raises:
        InputError: a name or a parameter is not in the tables.

    >>> [each.id for each in choose_weather(["gamma: [0.5, 2]", "pgd,epsilon=0.1,steps=5"])]
    ['clean', 'gamma,exponent=0.5', 'gamma,exponent=2', 'pgd,epsilon=0.1,steps=5']
    """
    entries = [asked] if isinstance(asked, Shift | Attack | str) else list(asked)
    chosen = [CLEAN, *(each for entry in entries for each in _expand(entry))]
    unique = tuple({each.id: each for each in chosen}.values())
    levels = [(each.name, each.level_name) for each in unique]
    for each, level in zip(unique, levels, strict=True):
        if levels.count(level) > 1:
            raise InputError(f"shifts: {each.name} at {each.level_name} stands twice")
    return unique


def _expand(entry: Weather) -> list[Shift | Attack]:
    if not isinstance(entry, str):
        return [entry]
    if ":" in entry:
        parsed = parse_yaml(entry, "shifts")
        if not isinstance(parsed, Mapping):
            raise InputError(f"shifts: {entry!r} is not NAME: LEVELS")
        return expand_shifts([dict(parsed)], "shifts")
    name = entry.partition(",")[0].strip()
    if name in SUITES:
        return list(suite(name))
    if name in ATTACKS:
        return [make_attack(name, **_parameters(entry))]
    if name not in ("clean", *SHIFTS):
        raise unknown_name("suite, shift or attack", name, ["clean", *SUITES, *SHIFTS, *ATTACKS])
    return list(choose_shifts(shifts=[entry]))


def _parameters(text: str) -> dict[str, float | int | str]:
    parameters: dict[str, float | int | str] = {}
    for pair in text.split(",")[1:]:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or key in parameters:
            raise InputError(f"an attack is NAME[,parameter=value...], found {text!r}")
        parameters[key] = parse_yaml(value, text)  # 8/255 is a number there
    return parameters
