"""Shifts and attacks as studies write them, at every level."""

from __future__ import annotations

from typing import Any

from fairweather import attacks
from fairweather.attacks import ATTACKS
from fairweather.errors import InputError, unknown_name
from fairweather.shifts import SHIFTS, suite, sweep
from fairweather.types import Attack, Shift


def expand_shifts(entries: list[dict[str, Any]], key: str) -> list[Shift | Attack]:
    """Give every level of sweeps, suites and attacks as a study writes them, in their order.

    `key` is what an error calls the list.
    """
    found: list[Shift | Attack] = []
    for entry in entries:
        if len(entry) != 1:
            raise InputError(f"{key}: each entry must be one NAME: LEVELS, found {entry}")
        ((name, levels),) = entry.items()
        if name == "suite" and not isinstance(levels, str):
            raise InputError(f"{key}: suite must be a name, found {levels!r}")
        if name in ATTACKS:
            found += attacks.sweep(name, levels)
        elif name == "suite" or name in SHIFTS:
            found += suite(levels) if name == "suite" else sweep(name, levels)
        else:
            raise unknown_name("shift or attack", name, ["suite", *SHIFTS, *ATTACKS])
    return found
