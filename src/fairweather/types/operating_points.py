"""Operating points: the probability from which on a class or a finding is called.

A point is a threshold, such as 0.3, or a target, such as `sensitivity=0.95`: its threshold is then
chosen on clean validation images, for each model and seed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from fairweather.errors import InputError
from fairweather.types.measurement import format_number

Rate = Literal["sensitivity", "specificity"]
RATES: tuple[Rate, ...] = get_args(Rate)
POINT_SIGN = "@"  # between the name of a metric or class and its operating point
EVERY = ""  # stands for all classes or findings
EXAMPLES = "0.3, sensitivity=0.95 or malignant=0.3"
StoredPoint: TypeAlias = float | str
# The points of each class or finding: one, or several in their order.
OperatingPoints = Mapping[str, StoredPoint | tuple[StoredPoint, ...]]
_NAMED = re.compile(rf"(.+?)=((?:(?:{'|'.join(RATES)})=)?[^=]+)")


class TargetRate(NamedTuple):
    """A sensitivity or specificity that a threshold is chosen to keep."""

    rate: Rate
    value: float
    """In (0, 1)."""

    def __str__(self) -> str:
        return f"{self.rate}={format_number(self.value)}"


def parse_threshold(text: str) -> float | None:
    """Read a probability between 0 and 1; None for any other text.

    >>> parse_threshold("0.3"), parse_threshold("0"), parse_threshold("high")
    (0.3, None, None)
    """
    try:
        threshold = float(text)
    except ValueError:
        return None
    return threshold if 0 < threshold < 1 else None


def parse_point(text: str) -> float | TargetRate | None:
    """Read a threshold or a target; None for any other text.

    >>> parse_point("0.3"), parse_point("specificity=0.90"), parse_point("recall=0.9")
    (0.3, TargetRate(rate='specificity', value=0.9), None)
    """
    name, sign, number = text.rpartition("=")
    value = parse_threshold(number)
    if not sign or value is None:
        return value
    return next((TargetRate(rate, value) for rate in RATES if rate == name), None)


def list_points(points: OperatingPoints, name: str) -> tuple[str, ...]:
    """The points of a class or finding, as they stand in the names of metrics.

    >>> list_points({"Mass": (0.3, "sensitivity=0.95")}, "Mass"), list_points({}, "Mass")
    (('0.3', 'sensitivity=0.95'), ())
    """
    own = points.get(name, ())
    return tuple(map(str, own if isinstance(own, tuple) else (own,)))


def list_targets(points: OperatingPoints) -> list[tuple[str, TargetRate]]:
    """The targets among some points, each with the name of its class or finding.

    >>> list_targets({"Mass": (0.3, "sensitivity=0.95")})
    [('Mass', TargetRate(rate='sensitivity', value=0.95))]
    """
    parsed = ((name, parse_point(text)) for name in points for text in list_points(points, name))
    return [(name, point) for name, point in parsed if isinstance(point, TargetRate)]


def has_target(name: str) -> bool:
    """Tell whether a metric is at a target.

    >>> has_target("ppv@sensitivity=0.9"), has_target("ppv/malignant@0.3")
    (True, False)
    """
    return isinstance(parse_point(name.rpartition(POINT_SIGN)[2]), TargetRate)


def store_points(
    points: Mapping[str, Sequence[float | TargetRate]],
) -> dict[str, StoredPoint | tuple[StoredPoint, ...]]:
    """Write points as they are stored: each once, and a single one by itself.

    >>> store_points({"a": [0.3], "b": [0.3, TargetRate("sensitivity", 0.9), 0.3]})
    {'a': 0.3, 'b': (0.3, 'sensitivity=0.9')}
    """
    stored: dict[str, StoredPoint | tuple[StoredPoint, ...]] = {}
    for name, own in points.items():
        several = tuple(p if isinstance(p, float) else str(p) for p in dict.fromkeys(own))
        stored[name] = several[0] if len(several) == 1 else several
    return stored


def parse_operating_points(
    written: OperatingPoints | StoredPoint | Sequence[StoredPoint],
) -> OperatingPoints:
    """Read operating points: `POINT`, of every class or finding, or `NAME=POINT`; one or several.

    A mapping of names to points is not checked here, since it may name anything.

    >>> parse_operating_points(["malignant=0.3", "a=b=0.5", "a=b=specificity=0.9"])
    {'malignant': 0.3, 'a=b': (0.5, 'specificity=0.9')}
    >>> parse_operating_points("sensitivity=0.95"), parse_operating_points([0.3, 0.7])
    ({'': 'sensitivity=0.95'}, {'': (0.3, 0.7)})
    """
    if isinstance(written, Mapping):
        return written
    points: dict[str, list[float | TargetRate]] = {}
    for text in map(str, [written] if isinstance(written, str | float) else written):
        name, point = EVERY, parse_point(text)
        if point is None and (match := _NAMED.fullmatch(text)):
            name, point = match[1], parse_point(match[2])
        if point is None:
            raise InputError(
                f"an operating point is a threshold or a target, such as {EXAMPLES}, found {text!r}"
            )
        points.setdefault(name, []).append(point)
    return store_points(points)
