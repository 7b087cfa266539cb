"""Processes of this machine that claim steps and do them, for the process that starts them.

That one holds the lock of the run folder and prepares it. A job is told once what the run is; it
answers with lines of JSON, and ends as soon as its input ends, so none outlives its parent.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import pydantic

from fairweather.children import how_it_ended, send_line, start_module
from fairweather.claims import CLAIMS
from fairweather.errors import InputError
from fairweather.executors.failed import Failed
from fairweather.executors.followed import Followed
from fairweather.executors.local import finish_here
from fairweather.executors.work import Assigned
from fairweather.progress import Event, Notify
from fairweather.record import Frozen
from fairweather.runs import RunFolder
from fairweather.steps import Plan, Worker


class Began(Frozen):
    """The ids of steps that a job has begun to do together."""

    kind: Literal["began"] = "began"
    steps: tuple[str, ...]


class Told(Frozen):
    """An event within a step, or of its end."""

    kind: Literal["told"] = "told"
    event: Event


Answer: pydantic.TypeAdapter[Began | Told | Failed] = pydantic.TypeAdapter(Began | Told | Failed)


class Job:
    """A job, and what it is doing."""

    def __init__(self, assigned: Assigned, answers: queue.SimpleQueue[tuple[Job, str]]) -> None:
        self.doing: tuple[str, ...] = ()
        self.process = start_module("fairweather.executors.job")
        self._listener = threading.Thread(target=self._speak, args=(assigned, answers), daemon=True)
        self._listener.start()

    def end(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has not read all
            self.process.stdin.close()

    @property
    def work(self) -> str:
        """What it is doing, for a message."""
        more = f" and {len(self.doing) - 1} more" if len(self.doing) > 1 else ""
        return f"{self.doing[0]}{more}" if self.doing else "nothing"

    def check_end(self) -> None:
        """Raise `InputError` unless it has ended in order."""
        if status := self.process.wait():
            raise InputError(
                f"the process that did {self.work} ended with {how_it_ended(status)}; the same "
                "command continues from what is finished"
            )

    def _speak(self, assigned: Assigned, answers: queue.SimpleQueue[tuple[Job, str]]) -> None:
        """Tell it what the run is, which waits until it listens, and hear its answers."""
        send_line(self.process, assigned.model_dump_json())
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                answers.put((self, line))
        answers.put((self, ""))  # it has ended


def execute_by_jobs(
    assigned: Sequence[Assigned], run: RunFolder, worker: Worker, tell: Notify
) -> None:
    """Execute the steps of a plan as `execute` does, in several processes of this machine.

    The results are the same to the byte.

    Args:
        assigned: what each process is told; no more are started than there are steps to do.
        run, tell: as in `execute`.
        worker: does what is short and needs the others, such as the scores.
    """
    plan, lasting = assigned[0].plan, lasting_steps(assigned[0].plan)
    short = {step.id for step in plan.steps} - lasting
    notes: dict[str, str] = {}
    followed = Followed(plan, run, tell, lambda step: notes.get(step.id, ""))
    answers: queue.SimpleQueue[tuple[Job, str]] = queue.SimpleQueue()
    jobs: dict[Job, Assigned] = {}
    ready: set[Job] = set()
    try:
        while any(step.id in lasting for step in followed.waiting):
            begun = {step for job in jobs for step in job.doing}
            idle = sum(not job.doing for job in jobs)
            free = followed.free(begun | short)
            places = list(assigned)
            for place in jobs.values():
                places.remove(place)
            for place in places[: max(free - idle, 0)]:
                jobs[Job(place, answers)] = place
            if not jobs:
                followed.check_finished()
            job, line = answers.get()
            match Answer.validate_json(line) if line else None:
                case None:
                    if job.doing or job not in ready:  # an idle one is not needed
                        job.check_end()
                    job.end()
                    del jobs[job]
                    followed.look(len(begun))
                case Failed() as failed:
                    raise failed.error(job.work)
                case Began(steps=steps):
                    job.doing = steps
                    ready.add(job)
                case Told(event=event) if event.finished is None:
                    tell(event)
                case Told(event=event):
                    notes[event.step] = event.note
                    job.doing = tuple(step for step in job.doing if step != event.step)
                    followed.look(len(begun))
    finally:
        for job in jobs:
            job.end()
        shutil.rmtree(run.file(CLAIMS), ignore_errors=True)  # of jobs that were killed
    finish_here(followed, worker)


def lasting_steps(plan: Plan) -> set[str]:
    """The ids of the steps that jobs do: those that take long, and all that they need."""
    found = set[str]()
    for step in reversed(plan.steps):
        if not step.disposable or step.id in found:
            found |= {step.id, *step.needs}
    return found
