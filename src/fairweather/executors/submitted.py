"""The jobs of a cluster that were submitted for a run, and whether they still are there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess  # nosec B404 # for the programs of SLURM, without a shell
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from fairweather.errors import InputError
from fairweather.executor_options import EXECUTORS, SLURM
from fairweather.record import Frozen
from fairweather.runs import RunFolder, locked

NOTE = "jobs.json"
JOB_LOGS = "logs/jobs"  # folder in the run folder: the files of submitit
LOCKED = 60.0  # seconds that another process may take to submit jobs
ENDING = 10.0  # seconds within which jobs of this machine end once they are told to

# It becomes a part of the names of files, and of the command that ends the job.
JobId = Annotated[str, pydantic.StringConstraints(pattern=r"^\d{1,18}(_\d{1,9})?$")]


class Submitted(Frozen):
    """The jobs that were submitted for a run: its file `jobs.json`.

    Attributes:
        executor: `slurm` or `slurm-local`.
        host: the machine that they were submitted from.
        study: the digest of their plan.
        jobs: their numbers, also of those that have ended.
    """

    version: Literal[1] = 1
    executor: str
    host: str
    study: str
    jobs: tuple[JobId, ...] = ()


def read_note(run: RunFolder) -> Submitted | None:
    """What was submitted for a run and was not ended; raises `InputError` for a damaged file."""
    path = run.file(NOTE)
    try:
        found = Submitted.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if found is None or found.executor not in EXECUTORS:
        raise InputError(f"{path} does not say which jobs were submitted; remove it") from None
    return found


@contextmanager
def note_locked(run: RunFolder) -> Iterator[None]:
    """Let no other process submit jobs for a run, or end them, inside the `with` block."""
    with locked(run.file(JOB_LOGS), timeout=LOCKED, needed=False):
        yield


def write_note(run: RunFolder, note: Submitted) -> None:
    """Write down what was submitted."""
    run.write(NOTE, note.model_dump_json(indent=1) + "\n")


def forget(run: RunFolder, note: Submitted) -> None:
    """Remove the note, and the files of its jobs but their logs."""
    run.file(NOTE).unlink(missing_ok=True)
    for job in note.jobs:
        pickles = (f"{JOB_LOGS}/{job}_submitted.pkl", f"{JOB_LOGS}/{job}_0_result.pkl")
        for name in (*pickles, answer_of(job)):
            run.file(name).unlink(missing_ok=True)


def log_of(job: str) -> str:
    """The name of the log of a job in the run folder."""
    return f"{JOB_LOGS}/{job}_0_log.out"


def answer_of(job: str) -> str:
    """The name of the file in which a job says why it has ended."""
    return f"{JOB_LOGS}/{job}_answer.json"


def states(run: RunFolder, note: Submitted) -> Mapping[str, bool] | None:
    """The jobs that have not ended, each with whether it runs; None if SLURM does not answer.

    Raises `InputError` for processes of another machine.
    """
    if note.executor == SLURM:
        return _in_queue(note.jobs)
    if note.host != socket.gethostname():
        raise InputError(
            f"the jobs of {run.path} are processes of the machine {note.host}, and this is "
            f"{socket.gethostname()}: give the command there"
        )
    return {job: True for job in note.jobs if _is_process(run, job)}


def end_jobs(run: RunFolder, note: Submitted, jobs: Collection[str]) -> None:
    """End jobs; those of this machine have ended when this returns."""
    if note.executor == SLURM:
        if jobs:
            _ask("scancel", *jobs)
        return
    for job in filter(partial(_is_process, run), jobs):
        with suppress(ProcessLookupError):
            os.kill(int(job), signal.SIGTERM)  # passed on to the worker
    until = time.monotonic() + ENDING
    while time.monotonic() < until and any(_is_process(run, job) for job in jobs):
        time.sleep(0.1)


def cancel(path: Path) -> int:
    """End all jobs that were submitted for a run; returns how many had not ended yet.

    Raises `InputError` if SLURM does not answer.
    """
    run = RunFolder(path)
    if read_note(run) is None:
        return 0
    with note_locked(run):
        note = read_note(run)
        if note is None:  # another process has just ended them
            return 0
        alive = states(run, note)
        if alive is None:
            raise InputError("SLURM does not answer (squeue); give the command again later")
        # First the note: without it, a job that is told to end does not wait to be resumed.
        forget(run, note)
        end_jobs(run, note, alive)
    return len(alive)


def _in_queue(jobs: Collection[str]) -> Mapping[str, bool] | None:
    # Not by their numbers: squeue fails for those that ended long ago.
    asked = ("--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T")
    answer = _ask("squeue", *asked)
    if answer is None:
        return None
    found = dict(line.split()[:2] for line in answer.splitlines() if len(line.split()) > 1)
    return {job: found[job] != "PENDING" for job in jobs if job in found}


def _ask(*command: str) -> str | None:
    """The answer of a program of SLURM; None if it has none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # nosec B603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _is_process(run: RunFolder, job: str) -> bool:
    """Whether a process of this machine is this job: a later one may have its number."""
    try:
        command = Path(f"/proc/{job}/cmdline").read_bytes().decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self/cmdline").exists():
            return False
        command = _ask("ps", "-o", "args=", "-p", job) or ""
    return "submitit.local._local" in command and str(run.file(JOB_LOGS).resolve()) in command
