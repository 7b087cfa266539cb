"""Progress: how far a task is, and a short note about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Finished(NamedTuple):
    """A step of a run that has just been done.

    Attributes:
        label: what was done.
        seconds: how long that took.
        left: seconds that the remaining steps may take; None where that is not known.
    """

    label: str
    seconds: float
    left: float | None = None


class Event(NamedTuple):
    """How much of a task is done, and a short note about it.

    Functions that take long have an argument `progress`. True, the default, shows bars on a
    terminal and in a notebook, and lines elsewhere; False shows nothing; a function is called with
    every event.

    Attributes:
        task: what is being done; events of the same task belong together.
        done: how much of it is done: images, cells, epochs, or megabytes of a download.
        total: how much there is to do; None where that is not known.
        note: such as the accuracy so far.
        line: text for a person, printed on its own line even where no progress is shown.
        finished: the step that has just been done; `done` and `total` then count the run's steps.
        part: share of the next unit that is done too, in [0, 1): of an epoch that takes minutes.
        step: id of the step of the run that is done now, whether just now or before.
    """

    task: str
    done: int
    total: int | None
    note: str = ""
    line: str = ""
    finished: Finished | None = None
    part: float = 0.0
    step: str = ""


Notify = Callable[[Event], None]


def duration(seconds: float) -> str:
    """Write a duration in words.

    >>> duration(45), duration(600), duration(9000)
    ('45 s', '10 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def silent(_: Event) -> None:
    """Ignore an event."""
