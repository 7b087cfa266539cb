"""Sends a finished run to a tracker, such as MLflow."""

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
    """How to use a tracker.

    Attributes:
        check: raises `InputError` if it is not installed, has no address set, or does not answer;
            sends nothing.
        send: `(records, folder) -> address`; what was sent before is updated. Raises `InputError`.
    """

    check: Callable[[], None]
    send: Callable[[Records, Path], str]


TRACKERS: Mapping[str, Tracker] = {"mlflow": Tracker(to_mlflow.check, to_mlflow.send)}


def check_tracker(name: str) -> None:
    """Raise `InputError` unless this tracker is known, installed, has an address and answers.

    >>> check_tracker("mlfow")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown tracker 'mlfow'; did you mean 'mlflow'? known: mlflow
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    TRACKERS[name].check()


def track(run: str | os.PathLike[str], tracker: str) -> str:
    """Send a finished run to a tracker; what was sent before is updated.

    Args:
        run: the result of `fairweather.run`, or the run folder; it is only read.
        tracker: a name in `TRACKERS`. Environment variables of the tracker's own documentation give
            the server, which must be set, and the experiment.

    Returns:
        The address of the run in the tracker, for a browser if possible.

    Raises:
        InputError: the run is not finished or is damaged; or the tracker is unknown, not installed,
            has no address set, or refuses the run.
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
