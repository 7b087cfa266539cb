"""Which numbers a setting or a parameter may be, stated in its type: `momentum: Share = 0.9`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_type_hints

from fairweather.errors import InputError


class Range(NamedTuple):
    """Numbers that are allowed: in words, and whether a number is one of them."""

    allowed: str
    holds: Callable[[Any], bool]


def between(low: float, high: float = math.inf) -> Range:
    """Finite numbers in [low, high].

    >>> between(0, 1).allowed, between(1).allowed
    ('in [0, 1]', '>= 1')
    """
    words = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
    return Range(words, lambda value: low <= value <= high and value < math.inf)


def at_most(most: float) -> Range:
    """Numbers that are not larger than one that was never meant.

    >>> at_most(1_000_000).allowed
    'at most 1,000,000'
    """
    return Range(f"at most {most:,}", lambda value: value <= most)


def whole(low: int, high: float = math.inf) -> Range:
    """Whole numbers in [low, high].

    >>> whole(1, 100).allowed, whole(3).allowed
    ('a whole number from 1 to 100', 'a whole number >= 3')
    """
    words = f">= {low}" if high == math.inf else f"from {low} to {high}"
    return Range(f"a whole number {words}", lambda value: low <= value <= high and value % 1 == 0)


def within(low: float, high: float) -> Range:
    """Numbers from a low to a high one.

    >>> within(-1, 1).allowed
    'from -1 to 1'
    """
    return Range(f"from {low} to {high}", lambda value: low <= value <= high)


POSITIVE = Range("> 0", lambda value: 0 < value < math.inf)
# Larger numbers are mistakes: trainings would not end, random draws would overflow, and 32 bits
# would not suffice.
MOST_EPOCHS = 1_000_000  # also images in a batch
MOST_ALPHA, LEAST_ALPHA = 1000.0, 0.001
MOST_EPSILON = 10_000.0

Share = Annotated[float, between(0, 1)]
BelowOne = Annotated[float, Range("in [0, 1)", lambda value: 0 <= value < 1)]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, between(0)]
SignedShare = Annotated[float, within(-1, 1)]
JpegQuality = Annotated[float, whole(1, 100)]  # of JPEG
Epsilon = Annotated[float, POSITIVE, at_most(MOST_EPSILON)]
Epochs = Annotated[int, between(1), at_most(MOST_EPOCHS)]
BatchSize = Annotated[int, between(2), at_most(MOST_EPOCHS)]
# A parameter of a Beta or Dirichlet distribution, and one that is 0 where nothing is drawn.
Alpha = Annotated[float, POSITIVE, between(LEAST_ALPHA, MOST_ALPHA)]
AlphaOrZero = Annotated[
    float,
    between(0),
    Range(
        between(LEAST_ALPHA, MOST_ALPHA).allowed,
        lambda value: value == 0 or LEAST_ALPHA <= value <= MOST_ALPHA,
    ),
]


def require(name: str, value: Any, *ranges: Range) -> None:  # noqa: ANN401 - what a user gave
    """Raise `InputError` unless a number is in all ranges.

    >>> require("recipe: learning_rate", 1e-3, POSITIVE)
    """
    for allowed, holds in ranges:
        if not holds(value):
            raise InputError(f"{name} must be {allowed}, found {value!r:.60}")


def check_arguments(
    name: str, function: Callable[..., object], arguments: Mapping[str, object]
) -> None:
    """Raise `InputError` unless keyword arguments are in the ranges that a signature states.

    >>> def blur(*, sigma: Positive) -> None: ...
    >>> check_arguments("blur", blur, {"sigma": 0.5})
    """
    known = inspect.signature(function, eval_str=True).parameters
    for key, value in arguments.items():
        if key in known:
            require(f"{name}: {key}", value, *_ranges_in(known[key].annotation))


class CheckedSettings:
    """Settings that are checked as they are made: `InputError` says what is allowed.

    A subclass says `where`: what stands before the name of a setting in that sentence.
    """

    _where: ClassVar[str]
    _ranges: ClassVar[Mapping[str, list[Range]]]
    # For pydantic when it reads a recipe: unknown keys are errors, and quoted text is not a number.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012 - pydantic's own name

    def __init_subclass__(cls, *, where: str) -> None:
        cls._where = where
        hints = get_type_hints(cls, include_extras=True)
        cls._ranges = {name: _ranges_in(hint) for name, hint in hints.items()}

    def __post_init__(self) -> None:
        for name, ranges in self._ranges.items():
            setting = getattr(self, name)
            if setting is None and ranges and getattr(type(self), name, ...) is not None:
                raise InputError(f"{self._where}{name} must be a number, found None")
            for value in setting if isinstance(setting, tuple | list) else (setting,):
                if value is not None:
                    require(f"{self._where}{name}", value, *ranges)


def _ranges_in(hint: Any) -> list[Range]:  # noqa: ANN401 - a type of any form
    """The ranges of a type; of a tuple or an optional number, those inside it."""
    kinds = dict.fromkeys((hint, *get_args(hint)))
    marks = [mark for kind in kinds for mark in getattr(kind, "__metadata__", ())]
    return [mark for mark in marks if isinstance(mark, Range)]
