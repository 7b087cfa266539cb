"""Processes on this machine that claim and do steps for the process that starts them.

The parent holds the lock of the run folder and prepares it. A job gets the run once, and answers
with lines of JSON. It ends as soon as its input ends, so no job outlives its parent.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

import cv2
import pydantic

from fairweather.errors import InputError
from fairweather.processes import (
    describe_exit,
    read_first_line,
    send_line,
    start_module,
    take_stdout,
)
from fairweather.progress import Event, Notify
from fairweather.runs.claims import CLAIMS, SharedRun, open_claims
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import Plan, Step, name_first
from fairweather.steps.worker import Worker
from fairweather.types.record import FrozenRecord
from fairweather.workers.logs import Failure
from fairweather.workers.schedule import (
    FollowedSchedule,
    StepsOutcome,
    execute_shared,
    finish_locally,
    perform_locally,
)
from fairweather.workers.work import Assignment


class StepsBegun(FrozenRecord):
    """The ids of steps that a job has begun to do together."""

    kind: Literal["began"] = "began"
    steps: tuple[str, ...]


class StepEvent(FrozenRecord):
    """An event within a step, or of its end."""

    kind: Literal["told"] = "told"
    event: Event


JobMessage: pydantic.TypeAdapter[StepsBegun | StepEvent | Failure] = pydantic.TypeAdapter(
    StepsBegun | StepEvent | Failure
)


class JobProcess:
    """A job, and what it is doing."""

    def __init__(
        self, assignment: Assignment, answers: queue.SimpleQueue[tuple[JobProcess, str]]
    ) -> None:
        self.assignment, self.is_ready = assignment, False
        self.doing: tuple[str, ...] = ()
        self.process = start_module("fairweather.workers.jobs")
        self._listener = threading.Thread(target=self._speak, args=(answers,), daemon=True)
        self._listener.start()

    def end(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it may not have read everything
            self.process.stdin.close()

    @property
    def work(self) -> str:
        """What it is doing, for a message."""
        return name_first(self.doing) if self.doing else "nothing"

    def check_end(self) -> None:
        """Raise `InputError` unless it has ended in order."""
        if status := self.process.wait():
            raise InputError(
                f"the process that did {self.work} ended with {describe_exit(status)}; the same "
                "command continues from what is finished"
            )

    def _speak(self, answers: queue.SimpleQueue[tuple[JobProcess, str]]) -> None:
        """Send it the run, which waits until it reads, and receive its answers."""
        send_line(self.process, self.assignment.model_dump_json())
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                answers.put((self, line))
        answers.put((self, ""))  # it has ended


def execute_by_jobs(
    assignments: Sequence[Assignment], run: RunFolder, worker: Worker, tell: Notify
) -> None:
    """Execute the steps of a plan as `execute` does, in several processes of this machine.

    The results are the same to the byte.

    Args:
        assignments: what each process is told; at most one process starts for each step to do.
        run, tell: as in `execute`.
        worker: does the short steps that need the others, such as the scores.
    """
    plan, lasting = assignments[0].plan, select_lasting(assignments[0].plan)
    short = {step.id for step in plan.steps} - lasting
    notes: dict[str, str] = {}
    followed = FollowedSchedule(plan, run, tell, lambda step: notes.get(step.id, ""))
    answers: queue.SimpleQueue[tuple[JobProcess, str]] = queue.SimpleQueue()
    jobs: list[JobProcess] = []
    try:
        while any(step.id in lasting for step in followed.waiting):
            begun = {step for job in jobs for step in job.doing}
            idle = sum(not job.doing for job in jobs)
            free = followed.free(begun | short)
            places = list(assignments)
            for job in jobs:
                places.remove(job.assignment)
            jobs += [JobProcess(place, answers) for place in places[: max(free - idle, 0)]]
            if not jobs:
                followed.check_finished()
            job, line = answers.get()
            match JobMessage.validate_json(line) if line else None:
                case None:
                    if job.doing or not job.is_ready:  # idle jobs are not needed
                        job.check_end()
                    job.end()
                    jobs.remove(job)
                    followed.look(len(begun))
                case Failure() as failed:
                    raise failed.to_exception(job.work)
                case StepsBegun(steps=steps):
                    job.doing, job.is_ready = steps, True
                case StepEvent(event=event) if event.finished is None:
                    tell(event)
                case StepEvent(event=event):
                    notes[event.step] = event.note
                    job.doing = tuple(step for step in job.doing if step != event.step)
                    followed.look(len(begun))
    finally:
        for job in jobs:
            job.end()
        shutil.rmtree(run.file(CLAIMS), ignore_errors=True)  # of jobs that were killed
    finish_locally(followed, worker)


def select_lasting(plan: Plan) -> set[str]:
    """The ids of the steps for jobs: the long ones, and all that these need."""
    lasting = set[str]()
    for step in reversed(plan.steps):
        if not step.disposable or step.id in lasting:
            lasting |= {step.id, *step.needs}
    return lasting


LOOK_INTERVAL = 0.1  # seconds between two checks of what the other jobs have done


def main() -> None:
    """Read the run from standard input, and work in its folder until everything is done."""
    output = take_stdout()
    assignment = Assignment.model_validate_json(read_first_line())
    cv2.setNumThreads(assignment.threads)  # jobs share the cores

    def answer(message: StepsBegun | StepEvent | Failure) -> None:
        output.write(message.model_dump_json() + "\n")
        output.flush()

    def perform(steps: Sequence[Step], worker: Worker, run: RunFolder, _: Notify) -> StepsOutcome:
        answer(StepsBegun(steps=tuple(step.id for step in steps)))
        return perform_locally(steps, worker, run, lambda event: answer(StepEvent(event=event)))

    def finished(event: Event) -> None:
        if event.finished is not None:
            answer(StepEvent(event=event))

    run = RunFolder(Path(assignment.folder))
    try:
        with closing(assignment.worker()) as worker, open_claims(run.file, None) as claims:
            execute_shared(
                assignment.plan,
                SharedRun(run, claims),
                worker,
                finished,
                perform=perform,
                only=select_lasting(assignment.plan),
                looks=LOOK_INTERVAL,
            )
    except Exception as error:  # raised again in the parent
        answer(Failure.from_error(error))


if __name__ == "__main__":
    main()
