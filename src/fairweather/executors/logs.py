"""A log for each step, for those who were not there when it was done."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

from fairweather.executors.local import perform_here
from fairweather.executors.schedule import Outcome
from fairweather.executors.shared import Perform
from fairweather.progress import Event, Notify
from fairweather.runs import RunFolder
from fairweather.steps import Step, Worker

STEP_LOGS = "logs/steps"  # folder in the run folder
BETWEEN_LINES = 10.0  # seconds between two lines about how far a step is


def log_of(step: str) -> str:
    """The name of the log of a step in the run folder.

    >>> log_of("scores")
    'logs/steps/scores.log'
    """
    return f"{STEP_LOGS}/{step}.log"


def write_log(run: RunFolder, steps: Sequence[Step], text: str) -> None:
    """Append lines to the logs of steps that are done together."""
    for step in steps:
        path = run.file(log_of(step.id))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n")


def logging_steps(by: str) -> Perform:
    """Do steps, and write how far they are to `logs/steps/ID.log` in the run folder.

    Args:
        by: what does them, such as the number of a job and the name of its machine.
    """

    def perform(steps: Sequence[Step], worker: Worker, run: RunFolder, tell: Notify) -> Outcome:
        written = time.monotonic()

        def told(event: Event) -> None:
            nonlocal written
            if time.monotonic() - written >= BETWEEN_LINES:
                written = time.monotonic()
                text = f"{event.task}  {event.done} of {event.total}  {event.note}"
                write_log(run, steps, text)
            tell(event)

        write_log(run, steps, f"begun by {by}")
        try:
            outcome = perform_here(steps, worker, run, told)
        except Exception:
            write_log(run, steps, f"failed\n{traceback.format_exc()}")
            raise
        except BaseException as end:  # the job is ended, or moved to another machine
            write_log(run, steps, f"ended by {type(end).__name__}")
            raise
        write_log(run, steps, f"done in {outcome.seconds:.1f} s")
        return outcome

    return perform


def last_lines(run: RunFolder, name: str, lines: int = 10) -> str:
    """The last lines of a log in a run folder, indented; empty if there is none.

    >>> from pathlib import Path
    >>> last_lines(RunFolder(Path("runs/nowhere")), log_of("scores"))
    ''
    """
    path = run.file(name)
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 10_000, 0))
        text = file.read().decode(errors="replace")
    return "".join(f"    {line}\n" for line in text.splitlines()[-lines:])
