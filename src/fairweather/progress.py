"""Progress: how far a task is, and a word on how it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Event(NamedTuple):
    """How much of a task is done, and a word on how it goes.

    Attributes:
        task: what is being done; events of the same task belong together.
        done: how much of it is done: images, cells, epochs, or megabytes of a download.
        total: how much there is to do; None where nobody knows.
        note: a word on how it goes.
        line: what a person should read even when nothing is drawn, in a line of its own.
    """

    task: str
    done: int
    total: int | None
    note: str = ""
    line: str = ""


Notify = Callable[[Event], None]


def silent(_: Event) -> None:
    """Tell nobody."""
