"""A finished run in a tracker that people already have."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.runs import open_finished_run
from fairweather.tracking import to_mlflow
from fairweather.tracking.records import Records, read_records


class Tracker(NamedTuple):
    """How to reach a tracker.

    Attributes:
        check: raises `InputError` when it is not installed, was not told where, or does not
            answer; sends nothing.
        send: `(records, folder) -> where they are now`; what is there already is brought up to
            date. Raises `InputError`.
    """

    check: Callable[[], None]
    send: Callable[[Records, Path], str]


TRACKERS: Mapping[str, Tracker] = {"mlflow": Tracker(to_mlflow.check, to_mlflow.send)}


def check_tracker(name: str) -> None:
    """Raise `InputError` unless this tracker is known, installed, told where, and answers.

    >>> check_tracker("mlfow")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown tracker 'mlfow'; did you mean 'mlflow'? known: mlflow
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    TRACKERS[name].check()


def track(run: str | os.PathLike[str], tracker: str) -> str:
    """Send a finished run to a tracker; what was sent before is brought up to date.

    Args:
        run: what `fairweather.run` returned, or the run folder; it is only read.
        tracker: a name in `TRACKERS`. Which server, and which experiment there, is said by the
            environment, as the tracker's own documentation has it; the server has to be said.

    Returns:
        Where it is now: an address that a browser opens, if there is one.

    Raises:
        InputError: the run is not finished or damaged, or the tracker is unknown, not installed,
            was not told where, or does not take it.
    """
    folder = open_finished_run(Path(run))
    records = read_records(folder)
    check_tracker(tracker)
    try:
        return TRACKERS[tracker].send(records, folder.path)
    except InputError as error:
        raise InputError(
            f"{folder.path} is finished, but not all of it was sent: {error}"
        ) from error
