"""The jobs of a cluster that were submitted for a run, and which of them still exist."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess  # nosec B404 # for the programs of SLURM, without a shell
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from fairweather.errors import InputError
from fairweather.runs.claims import lock_folder
from fairweather.runs.folder import RunFolder
from fairweather.types.record import FrozenRecord

JOBS_FILE = "jobs.json"
JOB_LOGS = "logs/jobs"  # folder in the run folder: the files of submitit
ANSWER = "_answer.json"  # end of the name of the file with a job's answer
LOCK_TIMEOUT = 60.0  # seconds that another process may take to submit jobs

# It becomes part of file names, and of the command that ends the job.
JobId = Annotated[str, pydantic.StringConstraints(pattern=r"^\d{1,18}(_\d{1,9})?$")]
Place = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class SubmittedJobs(FrozenRecord):
    """The jobs that were submitted for a run: its file `jobs.json`."""

    model_config = pydantic.ConfigDict(extra="ignore")  # notes had an executor and a host too

    version: Literal[1] = 1
    folder: str
    """The path of the run folder there. A copy of the folder has the note, but no jobs."""

    study: str
    """The digest of their plan."""

    jobs: dict[JobId, Place] = pydantic.Field(default_factory=dict)
    """Their numbers, also of those that have ended, each with the name of the folder in `logs/jobs`
    that has its files."""

    def log_file(self, job: str) -> str:
        """The name of the log of a job in the run folder."""
        return f"{place_folder(self.jobs[job])}/{job}_0_log.out"

    def answer_file(self, job: str) -> str:
        """The name of the file in which a job says why it has ended."""
        return answer_file(self.jobs[job], job)


def read_note(run: RunFolder) -> SubmittedJobs | None:
    """The jobs that were submitted for a run and not ended; raises `InputError` for a damaged
    file."""
    path = run.file(JOBS_FILE)
    try:
        return SubmittedJobs.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path} does not say which jobs were submitted; remove it") from None


def lock_note(run: RunFolder) -> AbstractContextManager[None]:
    """Keep other processes from submitting or ending jobs of a run inside the `with` block."""
    return lock_folder(run.file(JOB_LOGS), timeout=LOCK_TIMEOUT, needed=False)


def write_note(run: RunFolder, note: SubmittedJobs) -> None:
    """Write down the submitted jobs."""
    run.write(JOBS_FILE, note.model_dump_json(indent=1) + "\n")


def forget_jobs(run: RunFolder, note: SubmittedJobs) -> None:
    """Remove the note, and the files of its jobs except their logs."""
    run.file(JOBS_FILE).unlink(missing_ok=True)
    for job, place in note.jobs.items():
        for end in ("_submitted.pkl", "_0_result.pkl", ANSWER):
            run.file(f"{place_folder(place)}/{job}{end}").unlink(missing_ok=True)


def make_place(run: RunFolder) -> Place:
    """Make a new folder for the files of new jobs, which is surely empty."""
    place = secrets.token_hex(8)
    run.file(JOB_LOGS).mkdir(parents=True, exist_ok=True)
    run.file(place_folder(place)).mkdir(mode=0o700)
    return place


def place_folder(place: Place) -> str:
    """The name of such a folder in the run folder."""
    return f"{JOB_LOGS}/{place}"


def answer_file(place: Place, job: str) -> str:
    """The name of the file in which a job says why it has ended."""
    return f"{place_folder(place)}/{job}{ANSWER}"


def job_name(run: RunFolder) -> str:
    """The name that SLURM shows for the jobs of this run folder alone."""
    digest = hashlib.sha256(str(run.path.resolve()).encode(errors="surrogateescape")).hexdigest()
    return f"fairweather-{digest[:16]}"


def require_states(run: RunFolder, note: SubmittedJobs) -> Mapping[str, bool]:
    """As `states`; raises `InputError` if SLURM does not answer."""
    if (running := states(run, note)) is None:
        raise InputError(
            f"SLURM does not answer (squeue), so the jobs of {run.path} are not known; give the "
            "command again later"
        )
    return running


def states(run: RunFolder, note: SubmittedJobs) -> Mapping[str, bool] | None:
    """The jobs that have not ended, and whether each runs; None if SLURM does not answer.

    Raises `InputError` for jobs of another folder.
    """
    if note.folder != (here := str(run.path.resolve())):
        raise InputError(
            f"the jobs in {run.file(JOBS_FILE)} work in {note.folder}, and this is {here}: if it "
            "is a copy of that folder, remove this file; else give the command with that path"
        )
    return _read_queue(run, note.jobs)


def end_all_jobs(run: RunFolder, note: SubmittedJobs, jobs: Collection[str]) -> None:
    """End the remaining jobs, and remove the note; raises `InputError` as `end_jobs` does.

    If they could not be ended, the note is restored.
    """
    # The note first: without it, a job that is told to end does not wait to be resumed.
    run.file(JOBS_FILE).unlink(missing_ok=True)
    try:
        end_jobs(run, jobs)
    except BaseException:
        write_note(run, note)
        raise
    forget_jobs(run, note)


def end_jobs(run: RunFolder, jobs: Collection[str]) -> None:
    """End jobs that `states` has found; raises `InputError` if SLURM did not end them."""
    # It also fails for jobs that have ended since the query.
    if jobs and _run_program("scancel", *jobs) is None:
        queued = _read_queue(run, jobs)
        if queued is None or queued:
            raise InputError(
                f"SLURM did not end all jobs of {run.path} (scancel failed): they may still "
                f"hold their machines; give `fairweather cancel {run.path}` again later"
            )


def cancel_jobs(path: Path) -> int:
    """End all jobs that were submitted for a run; returns how many had not ended yet.

    Raises `InputError` if SLURM does not answer, or does not end them.
    """
    run = RunFolder(path)
    if read_note(run) is None:
        return 0
    with lock_note(run):
        note = read_note(run)
        if note is None:  # another process has just ended them
            return 0
        jobs = require_states(run, note)
        end_all_jobs(run, note, jobs)
    return len(jobs)


def _read_queue(run: RunFolder, jobs: Collection[str]) -> Mapping[str, bool] | None:
    # Not by their numbers: squeue fails for jobs that ended long ago. And a number proves nothing,
    # since the note could contain the numbers of other jobs.
    asked = ("--noheader", "--array", f"--user={os.getuid()}", "--format=%i %T %j")
    answer = _run_program("squeue", *asked)
    if answer is None:
        return None
    lines = [line.split() for line in answer.splitlines()]
    name = job_name(run)
    queue = {line[0]: line[1] for line in lines if len(line) == 3 and line[2] == name}
    return {job: queue[job] != "PENDING" for job in jobs if job in queue}


def _run_program(*command: str) -> str | None:
    """The output of a SLURM program; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # nosec B603 # words, no shell
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
