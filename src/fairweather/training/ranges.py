"""Checks of the numbers of a recipe, each with one sentence."""

from __future__ import annotations

import math

from fairweather.errors import InputError


def require_within(recipe: str, name: str, value: float, low: float, high: float) -> None:
    """Raise `InputError` unless a finite number is in [low, high].

    >>> require_within("recipe", "momentum", 0.9, 0, 1)
    """
    if not (low <= value <= high and value < math.inf):
        allowed = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise InputError(f"{recipe}: {name} must be {allowed}, found {value}")


def require_positive(recipe: str, name: str, value: float) -> None:
    """Raise `InputError` unless a number is finite and above 0.

    >>> require_positive("recipe", "learning_rate", 1e-3)
    """
    if not 0 < value < math.inf:
        raise InputError(f"{recipe}: {name} must be > 0, found {value}")
