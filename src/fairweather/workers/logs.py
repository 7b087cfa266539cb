"""Logs and errors of steps that other processes do."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from typing import Literal

from fairweather import errors
from fairweather.errors import InputError
from fairweather.progress import Event, Notify
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import Step
from fairweather.steps.worker import Worker
from fairweather.types.record import FrozenRecord
from fairweather.workers.schedule import Perform, StepsOutcome, perform_locally


class JobFailedError(RuntimeError):
    """A process that did steps failed; the text says which steps, and why."""


class Failure(FrozenRecord):
    """The error that ended the work of a process."""

    kind: Literal["failed"] = "failed"
    type: str
    """The name of its type, if it is one of `fairweather.errors`; else empty."""

    text: str
    """The error in words."""

    traceback: str
    """Where it came from."""

    system: tuple[int, str | None] | None = None
    """Number and file of an error of the system, such as a full disk."""

    @classmethod
    def from_error(cls, error: Exception) -> Failure:
        """Pack an error that is being handled."""
        system = None
        if isinstance(error, OSError) and error.errno is not None:
            name = error.filename
            system = (error.errno, None if name is None else os.fsdecode(name))
        return cls(
            type=type(error).__name__,
            text=str(error),
            traceback=traceback.format_exc(),
            system=system,
        )

    def to_exception(self, doing: str) -> Exception:
        """The error again: an `InputError` as it was, any other as `JobFailedError`."""
        known = getattr(errors, self.type, None)
        if isinstance(known, type) and issubclass(known, InputError):
            return known(self.text)
        if self.system is not None:
            number, name = self.system
            return OSError(number, os.strerror(number), name)
        return JobFailedError(f"{doing} failed:\n{self.traceback}")


STEP_LOGS = "logs/steps"  # folder in the run folder
LINE_INTERVAL = 10.0  # seconds between two lines about how far a step is


def step_log(step: str) -> str:
    """The name of the log of a step in the run folder.

    >>> step_log("scores")
    'logs/steps/scores.log'
    """
    return f"{STEP_LOGS}/{step}.log"


def write_log(run: RunFolder, steps: Sequence[Step], text: str) -> None:
    """Append lines to the logs of steps that are done together."""
    for step in steps:
        path = run.file(step_log(step.id))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n")


def make_logged_perform(by: str) -> Perform:
    """Do steps, and write their progress to `logs/steps/ID.log` in the run folder.

    Args:
        by: who does them, such as the number of a job and the name of its machine.
    """

    def perform(
        steps: Sequence[Step], worker: Worker, run: RunFolder, tell: Notify
    ) -> StepsOutcome:
        written = time.monotonic()

        def told(event: Event) -> None:
            nonlocal written
            if time.monotonic() - written >= LINE_INTERVAL:
                written = time.monotonic()
                text = f"{event.task}  {event.done} of {event.total}  {event.note}"
                write_log(run, steps, text)
            tell(event)

        write_log(run, steps, f"begun by {by}")
        try:
            outcome = perform_locally(steps, worker, run, told)
        except Exception:
            write_log(run, steps, f"failed\n{traceback.format_exc()}")
            raise
        except BaseException as end:  # the job is ended, or moved to another machine
            write_log(run, steps, f"ended by {type(end).__name__}")
            raise
        write_log(run, steps, f"done in {outcome.seconds:.1f} s")
        return outcome

    return perform


def read_last_lines(run: RunFolder, name: str, lines: int = 10) -> str:
    """The last lines of a log in a run folder, indented; empty if there is none.

    >>> from pathlib import Path
    >>> read_last_lines(RunFolder(Path("runs/nowhere")), step_log("scores"))
    ''
    """
    path = run.file(name)
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 10_000, 0))
        text = file.read().decode(errors="replace")
    return "".join(f"    {line}\n" for line in text.splitlines()[-lines:])
