"""Positive classes: findings that are made of the classes of a data set.

A finding is in an image if its class is one of some classes. So a classifier of two classes is a
question with the answers yes and no, and it has a sensitivity and a specificity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairweather.errors import InputError, quote_names, unknown_name
from fairweather.types.measurement import IntArray

ANY = "|"  # between classes, each of which is positive
FROM = ">="  # before the first of several positive classes, in the order of classes
NOTE = "positive"  # among the notes of a data set


class PositiveClasses(NamedTuple):
    """The classes of a data set, and those that have each finding."""

    classes: tuple[str, ...]
    """Class names in label order."""

    members: Mapping[str, tuple[str, ...]]
    """The positive classes of each finding."""

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings."""
        return tuple(self.members)

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The places of the positive classes of each finding, in label order."""
        return tuple(tuple(map(self.classes.index, members)) for members in self.members.values())

    def mark(self, labels: IntArray) -> IntArray:
        """Turn labels of classes `[N]` into labels of findings, int64 `[N, L]` of 0 and 1.

        >>> parse_positive("dog", ["cat", "dog"]).mark(np.array([1, 0])).tolist()
        [[1], [0]]
        """
        columns = [np.isin(labels, places) for places in self.places]
        return np.stack(columns, axis=1).astype(np.int64)

    def describe(self) -> str:
        """Say what is positive and what is negative.

        >>> parse_positive(">=1", ["0", "1", "2"]).describe()
        ">=1: '1', '2' are positive, '0' is negative"
        >>> parse_positive("dog", ["cat", "dog"]).describe()
        "'dog' is positive, 'cat' is negative"
        """
        parts = []
        for finding, members in self.members.items():
            others = [name for name in self.classes if name not in members]
            title = "" if members == (finding,) else f"{finding}: "
            sides = ((members, "positive"), (others, "negative"))
            parts.append(title + ", ".join(f"{_list(names)} {side}" for names, side in sides))
        return "; ".join(parts)

    def note(self) -> dict[str, list[str] | dict[str, list[str]]]:
        """Write it as JSON, for the notes of a data set and the record of a run.

        >>> positive = parse_positive("dog", ["cat", "dog"])
        >>> read_positive({NOTE: positive.note()}) == positive
        True
        """
        members = {finding: list(names) for finding, names in self.members.items()}
        return {"classes": list(self.classes), "members": members}


def read_positive(notes: Mapping[str, object]) -> PositiveClasses | None:
    """Read what the findings of a data set were made of from its notes; None of other data."""
    match notes.get(NOTE):
        case {"classes": [*classes], "members": dict(members)}:
            read = {str(finding): tuple(map(str, names)) for finding, names in members.items()}
            return PositiveClasses(tuple(map(str, classes)), read)
    return None


def list_positive(asked: str | Iterable[str] | None) -> tuple[str, ...]:
    """The findings that are asked for: none, one text, or several."""
    return (asked,) if isinstance(asked, str) else tuple(asked or ())


def parse_positive(asked: str | Iterable[str], classes: Sequence[str]) -> PositiveClasses:
    """Read which classes are positive.

    Args:
        asked: for each finding a class, several as `A|B`, or `>=A` for the class A and all after
            it. After `>=`, a whole number that is no class counts classes from 0.
        classes: class names in label order.

    Raises:
        InputError: an unknown class, a finding that is named twice, no class that is negative, or
            one that a positive class differs from only in upper and lower case.

    >>> parse_positive(["2|3", ">=3"], ["0", "1", "2", "3"]).members
    {'2|3': ('2', '3'), '>=3': ('3',)}
    >>> parse_positive(">=1", ["none", "mild", "severe"]).members
    {'>=1': ('mild', 'severe')}
    """
    members: dict[str, tuple[str, ...]] = {}
    for text in list_positive(asked):
        if text in members:
            raise InputError(f"positive names {text!r} twice")
        members[text] = _find_members(text, classes)
        if len(members[text]) == len(classes):
            raise InputError(
                f"positive {text!r} is every class of the data, {quote_names(classes)}: name only "
                "those that have the finding"
            )
        _check_spellings(members[text], classes)
    return PositiveClasses(tuple(classes), members)


def _check_spellings(members: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse a negative class that is a positive one spelled otherwise, as in tables by hand."""
    positive = {name.strip().casefold(): name for name in members}
    for name in classes:
        other = positive.get(name.strip().casefold())
        if other is not None and name not in members:
            raise InputError(
                f"the classes {other!r} and {name!r} differ only in case or spaces, and only "
                f"{other!r} is positive: name both, {other + ANY + name!r}, or rename one"
            )


def _find_members(text: str, classes: Sequence[str]) -> tuple[str, ...]:
    if text in classes:
        return (text,)
    first = text.removeprefix(FROM).strip()
    if text.startswith(FROM) and first:
        if first not in classes and first.isdecimal() and int(first) < len(classes):
            return tuple(classes[int(first) :])
        if first not in classes:
            raise unknown_name("positive class", first, classes)
        return tuple(classes[list(classes).index(first) :])
    names = [part.strip() for part in text.split(ANY)]
    for name in names:
        if name not in classes:
            raise unknown_name("positive class", name, classes)
    return tuple(name for name in classes if name in names)


def _list(names: Sequence[str]) -> str:
    verb = "is" if len(names) == 1 else "are"
    return f"{quote_names(names)} {verb}"
