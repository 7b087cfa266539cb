"""Progress: how far a task is, and a word on how it goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Event(NamedTuple):
    """How much of a task is done, and a word on how it goes."""

    task: str
    done: int
    total: int
    note: str = ""


def notify_loading(
    notify: Callable[[Event], None], task: str, done: int, total: int | None
) -> None:
    """Turn what the loading of data reports into an event; downloads are told in megabytes."""
    if task.startswith("download"):
        task, done, total = f"{task}, MB", done // 10**6, total and total // 10**6
    notify(Event(task, done, max(total or 0, done)))
