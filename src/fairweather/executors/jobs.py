"""Processes that do steps of a plan beside each other: the side of the process that starts them.

A job is a process of its own with a pipe to and from it, over which lines of JSON travel: names of
steps there, events and outcomes back. It ends as soon as its input ends, so none outlives the
process that started it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import traceback
from collections.abc import Sequence
from typing import Literal, NoReturn

import pydantic

from fairweather import errors
from fairweather.children import how_it_ended, start_module
from fairweather.errors import InputError
from fairweather.executors.schedule import Outcome
from fairweather.progress import Event, Notify
from fairweather.record import Frozen, Machine
from fairweather.steps import Done, Plan, Step


class JobSettings(Frozen):
    """What a job is started with.

    Attributes:
        plan: the plan whose steps it does.
        folder: the run folder.
        device, offline, workers, networks, jobs: as in `Worker`.
    """

    plan: Plan
    folder: str
    device: str
    offline: bool
    workers: int
    networks: int | None
    jobs: int


class Order(Frozen):
    """The ids of steps to be done together."""

    steps: tuple[str, ...]


class Told(Frozen):
    """An event of a job."""

    kind: Literal["told"] = "told"
    event: Event


class Did(Frozen):
    """The outcome of an order."""

    kind: Literal["did"] = "did"
    done: tuple[Done, ...]
    machine: Machine
    seconds: float


class Failed(Frozen):
    """The error that ended an order.

    Attributes:
        type: the name of its type, if it is one of `fairweather.errors`; else empty.
        text: the error in words.
        traceback: where it came from.
        system: number and file of an error of the system, such as a full disk.
    """

    kind: Literal["failed"] = "failed"
    type: str
    text: str
    traceback: str
    system: tuple[int, str | None] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failed:
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

    def error(self, doing: str) -> Exception:
        """The error again: an `InputError` as it was, any other as `JobFailedError`."""
        known = getattr(errors, self.type, None)
        if isinstance(known, type) and issubclass(known, InputError):
            return known(self.text)
        if self.system is not None:
            number, name = self.system
            return OSError(number, os.strerror(number), name)
        return JobFailedError(f"{doing} failed:\n{self.traceback}")


Answer: pydantic.TypeAdapter[Told | Did | Failed] = pydantic.TypeAdapter(Told | Did | Failed)


class JobFailedError(RuntimeError):
    """A process that did steps failed; the text says which steps, and why."""


class Job:
    """A process that does steps, one order at a time."""

    def __init__(self, settings: JobSettings, answers: queue.SimpleQueue[tuple[Job, str]]) -> None:
        self.process = start_module("fairweather.executors.job")
        self._listener = threading.Thread(target=self._listen, args=(answers,), daemon=True)
        self._listener.start()
        self._write(settings.model_dump_json())

    def send(self, steps: Sequence[Step]) -> None:
        """Let it do these steps together."""
        self._write(Order(steps=tuple(step.id for step in steps)).model_dump_json())

    def end(self) -> None:
        """End it, whatever it does: its input ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()
        self.process.wait()
        self._listener.join()

    def _listen(self, answers: queue.SimpleQueue[tuple[Job, str]]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                answers.put((self, line))
        answers.put((self, ""))  # it has ended

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `wait` tells that it has ended
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()


class Jobs:
    """Several jobs with the same settings; each is started when there is something for it to do."""

    def __init__(self, settings: JobSettings) -> None:
        self.settings = settings
        self.answers: queue.SimpleQueue[tuple[Job, str]] = queue.SimpleQueue()
        self.idle: list[Job] = []
        self.busy: dict[Job, Sequence[Step]] = {}

    @property
    def are_all_busy(self) -> bool:
        """Whether no further steps can be started now."""
        return len(self.busy) == self.settings.jobs

    def start(self, steps: Sequence[Step]) -> None:
        """Let a job that is idle do these steps together."""
        job = self.idle.pop() if self.idle else Job(self.settings, self.answers)
        self.busy[job] = steps
        job.send(steps)

    def wait(self, tell: Notify) -> tuple[Sequence[Step], Outcome]:
        """Wait until a job has done its steps; give these and their outcome.

        Raises the error of a job; see `Failed.error`.
        """
        while True:
            job, line = self.answers.get()
            if not line and job in self.idle:  # it is not needed: another is started instead
                self.idle.remove(job)
                job.end()
                continue
            if not line:
                self._raise_ended(job)
            match Answer.validate_json(line):
                case Told(event=event):
                    tell(event)
                case Failed() as failed:
                    raise failed.error(self._doing(job))
                case Did(done=done, machine=machine, seconds=seconds):
                    self.idle.append(job)
                    return self.busy.pop(job), Outcome(done, machine, seconds)

    def end(self) -> None:
        """End all jobs, whatever they do."""
        for job in (*self.idle, *self.busy):
            job.end()

    def _raise_ended(self, job: Job) -> NoReturn:
        how = how_it_ended(job.process.wait())
        raise InputError(
            f"the process that did {self._doing(job)} ended with {how}; the same command continues "
            "from what is finished"
        )

    def _doing(self, job: Job) -> str:
        steps = self.busy.get(job, ())
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        return f"{steps[0].id}{more}" if steps else "nothing"
