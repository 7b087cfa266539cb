"""Execute a plan by array jobs of a SLURM cluster, each a worker in the run folder.

The process that submits them does no steps. It follows the workers in the folder, and can be
stopped and started again, because a note in the folder lists the jobs.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

import cv2
import pydantic
import torch
from submitit import JobEnvironment, SlurmExecutor
from submitit.core.utils import FailedJobError
from submitit.helpers import Checkpointable

from fairweather.devices import resolve_device
from fairweather.errors import InputError, NeedsMissingError, StoppedError, unknown_name
from fairweather.progress import Event, Notify, format_duration
from fairweather.runs import claims
from fairweather.runs.claims import SharedRun, share_run
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import Plan, name_first
from fairweather.types.record import RunRecord
from fairweather.workers import slurm_jobs
from fairweather.workers.logs import Failure, make_logged_perform, read_last_lines
from fairweather.workers.options import Sharing
from fairweather.workers.schedule import FollowedSchedule, execute_shared, make_worker_mark
from fairweather.workers.work import Assignment, Work

MOST_JOBS = 8  # at a time, unless asked otherwise
# Processes that shift images beside a GPU, unless asked otherwise. SLURM must be asked for their
# cores before it is measured how many are needed.
MOST_WORKERS = 8
MAX_LOST = 3  # jobs that may end before their work does, and are replaced
MAX_RESUMED = 1000  # how often a job is submitted again at its time limit
# Seconds: before the time limit, when a job is warned;
SIGNAL_DELAY = 90
# between two checks of the folder, two queries of SLURM, and two lines on what jobs do;
LOOK_INTERVAL, QUERY_INTERVAL, REMINDER_INTERVAL = 3.0, 30.0, 60.0
# a step waits before another job is submitted for it;
SUBMIT_DELAY = 60.0
# after which a slow file system shows files of other machines;
ANSWER_TIMEOUT = 90.0
# after which a job missing in the note must have been cancelled;
LISTING_TIMEOUT = 120.0
# a job waits for others, which is longer than a claim lasts;
EXTRA_PATIENCE = 60.0
# jobs have to end when nothing is left to do.
END_TIMEOUT = 30.0


# The answer of a job at its end: its error, or nothing if no work was left for it.
ArrayJobAnswer: pydantic.TypeAdapter[Failure | None] = pydantic.TypeAdapter(Failure | None)


class ArrayJob(Checkpointable):
    """The work of a job. submitit stores it, calls it, and submits it again after an
    interruption."""

    def __init__(self, assignment: Assignment, place: slurm_jobs.Place) -> None:
        self.assignment, self.place = assignment, place

    def __call__(self) -> None:
        """Work in the run folder until nothing is left to do, and write an answer."""
        job = JobEnvironment().job_id
        run = RunFolder(Path(self.assignment.folder))
        answer = slurm_jobs.answer_file(self.place, job)
        with _ended_if_cancelled(run, job):
            if not _wait_until_listed(run, job):
                return
            try:
                _work_as_job(self.assignment, job)
            except Exception as error:
                run.write(answer, ArrayJobAnswer.dump_json(Failure.from_error(error)))
                raise
            run.write(answer, ArrayJobAnswer.dump_json(None))


def choose_slurm_device(
    sharing: Sharing, device: str, threads: int | None, precision: str, written: str
) -> torch.device:
    """Choose the device of every job, which this machine may lack; see
    `executors.choose_device`."""
    if device == "auto":
        device = "cuda" if sharing.gpu else "cpu"
    if device not in ("cpu", "cuda"):
        raise unknown_name("device of a job", device, ["auto", "cpu", "cuda"])
    if device == "cuda" and not sharing.gpu:
        raise InputError("device cuda needs a GPU in each job: add --gpus 1")
    free = {"threads": "8"} if threads is None else {}
    free |= {"training_precision": "bf16"} if precision == "auto" and sharing.gpu else {}
    if free:
        fixes = " ".join(written.format(name=name, value=value) for name, value in free.items())
        raise InputError(
            "the jobs run on other machines than this one, and the results depend on "
            f"{' and '.join(free)}: say which, such as {fixes}; each job asks for at least so many "
            "cores as it has threads"
        )
    return torch.device(device)


def execute_on_slurm(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Do the steps of a run by jobs, and return when all are done and the jobs have ended.

    There are at most as many jobs at a time as `sharing` allows, and no more than steps to do.

    Raises:
        InputError: a job has raised it, more than `MAX_LOST` jobs were killed, or there are jobs
            for another plan.
        JobFailedError: jobs failed otherwise.
        NeedsMissingError: `fairweather cancel` has ended the jobs.
    """
    device, workers = work.device.type, sharing.shift_processes
    if workers is None:
        workers = MOST_WORKERS if device == "cuda" else 0
    settings = replace(work.settings(sharing, workers=workers, jobs=1, on_device=1), device=device)

    def prepare(folder: RunFolder, others: bool) -> None:
        work.prepare(folder, others or _has_own_jobs(folder, work.plan))

    mark = make_worker_mark(work.plan, None)
    with share_run(work.path.absolute(), mark, prepare) as shared:
        driver = _SlurmDriver(work.assign(settings), shared, sharing, tell)
        try:
            driver.follow()
        except KeyboardInterrupt:
            driver.tell_left()
            raise


def _has_own_jobs(run: RunFolder, plan: Plan) -> bool:
    """Whether there are jobs for a plan; raises `InputError` for jobs of another plan."""
    note = slurm_jobs.read_note(run)
    if note is None or not (states := slurm_jobs.require_states(run, note)):
        return False
    if note.study != plan.digest:
        raise InputError(
            f"{_count_jobs(len(states))} of another study or other settings work in {run.path}, or "
            f"wait to do so: end them with `fairweather cancel {run.path}`, or name another folder "
            "with --out"
        )
    return True


class _SlurmDriver:
    """Submits as many jobs as there is work for, and reports what they do.

    Attributes:
        ended: jobs that are known to have ended.
        lost: how many of them ended before their work did.
    """

    def __init__(
        self, assignment: Assignment, shared: SharedRun, sharing: Sharing, tell: Notify
    ) -> None:
        self.assignment, self.sharing, self.tell = assignment, sharing, tell
        self.most = sharing.jobs or MOST_JOBS
        self.run, self.claims = shared.run, shared.claims
        self.followed = FollowedSchedule(assignment.plan, shared.run, tell, lambda _: "done")
        self.ended: set[str] = set()
        self.missing: dict[str, float] = {}  # jobs that SLURM does not list: since when
        self.lost = 0
        self.error: Exception | None = None  # the last error of a job
        self.running: Mapping[str, bool] = {}  # jobs that have not ended: whether they run
        self.asked = self.reminded = float("-inf")
        self.enough = time.monotonic()  # when there were last enough jobs for all that could begin
        self.said = ""

    def follow(self) -> None:
        """Submit jobs and follow them until all steps are done."""
        if self.followed.waiting:
            self._begin()
        while self.followed.waiting:
            owners = self.claims.owners()
            note = slurm_jobs.read_note(
                self.run
            )  # before the check: a worker that ended may have done the rest
            if self.followed.look(len(set(owners.values()))):
                continue
            if note is None:
                raise NeedsMissingError(
                    f"the jobs of {self.run.path} were ended by `fairweather cancel`; the same "
                    "command submits jobs for what is left"
                )
            self._look_after_jobs(note)
            self._submit(note, owners)
            self._tell_owners(owners)
            time.sleep(LOOK_INTERVAL)
        self._end()

    def tell_left(self) -> None:
        """Say that the jobs continue."""
        note = slurm_jobs.read_note(self.run)
        alive = [] if note is None else [job for job in note.jobs if job not in self.ended]
        if alive:
            go = "goes" if len(alive) == 1 else "go"
            words = f"{_count_jobs(len(alive))} of {self.run.path} {go} on without this command"
            way = f"`fairweather cancel {self.run.path}` ends them"
            self.tell(Event("jobs", 0, None, line=f"{words}; {way}"))

    def _begin(self) -> None:
        """Begin a note, unless one lists jobs for this plan."""
        with slurm_jobs.lock_note(self.run):
            note = slurm_jobs.read_note(self.run)
            if note is not None:
                if states := slurm_jobs.require_states(self.run, note):
                    # Earlier failures may have been repaired since.
                    self.ended = {
                        job
                        for job in note.jobs
                        if job not in states or self.run.file(note.answer_file(job)).is_file()
                    }
                    self._say(
                        "jobs", f"taking up {_count_jobs(len(states))} that were submitted before"
                    )
                    return
                slurm_jobs.forget_jobs(self.run, note)
            note = slurm_jobs.SubmittedJobs(
                folder=str(self.run.path.resolve()),
                study=self.assignment.plan.digest,
            )
            slurm_jobs.write_note(self.run, note)

    def _say(self, label: str, words: str) -> None:
        self.tell(Event("jobs", 0, None, line=f"{label:14} {words}"))

    def _look_after_jobs(self, note: slurm_jobs.SubmittedJobs) -> None:
        """Find out which jobs have ended, and why."""
        for place in {note.jobs[job] for job in self._alive(note)}:
            with suppress(FileNotFoundError):  # listing a folder makes NFS ask its server
                list(self.run.file(slurm_jobs.place_folder(place)).iterdir())
        for job in self._alive(note):
            self._read_answer(note, job)
        if time.monotonic() - self.asked < QUERY_INTERVAL:
            return
        self.asked = now = time.monotonic()
        running = slurm_jobs.states(self.run, note)
        if running is None:
            return
        self.running = running
        self.missing = {
            job: self.missing.get(job, now) for job in self._alive(note) if job not in running
        }
        for job, since in self.missing.items():
            if now - since >= ANSWER_TIMEOUT and not self._read_answer(note, job):
                self._lose(note, job, "ended without an answer, as a killed one does")

    def _alive(self, note: slurm_jobs.SubmittedJobs) -> list[str]:
        return [job for job in note.jobs if job not in self.ended]

    def _read_answer(self, note: slurm_jobs.SubmittedJobs, job: str) -> bool:
        """Read why a job has ended, if it left an answer."""
        path = self.run.file(note.answer_file(job))
        try:
            answer = ArrayJobAnswer.validate_json(path.read_bytes())
        except FileNotFoundError:
            return False
        except ValueError:
            raise InputError(f"{path} is not the answer of a job; remove it") from None
        self.ended.add(job)
        if answer is not None:
            self.error = answer.to_exception(f"job {job}")
            if isinstance(self.error, InputError):  # trying again would not help
                self._give_up()
            self._lose(note, job, f"failed ({answer.type}: {answer.text})")
        return True

    def _lose(self, note: slurm_jobs.SubmittedJobs, job: str, cause: str) -> None:
        self.ended.add(job)
        self.lost += 1
        log = note.log_file(job)
        lines = read_last_lines(self.run, log)
        excerpt = f"; the end of {self.run.path / log}:\n{lines}" if lines else ""
        self._say("failed", f"job {job} {cause}{excerpt}".rstrip())

    def _submit(self, note: slurm_jobs.SubmittedJobs, owners: Mapping[str, str]) -> None:
        """Submit as many jobs as could begin a step now, besides existing ones."""
        alive, busy = self._alive(note), set(owners.values())
        idle = max(len(alive) - len(busy), 0)
        room = self.most - max(self.lost - MAX_LOST, 0) - len(alive)
        wanted = min(self.followed.free(owners) - idle, room)
        now = time.monotonic()
        if wanted <= 0:
            self.enough = now
        if wanted > 0 and not (alive and now - self.enough < SUBMIT_DELAY):
            with slurm_jobs.lock_note(self.run):
                latest = slurm_jobs.read_note(self.run)
                if latest is None:  # the next check says why
                    return
                place = slurm_jobs.make_place(self.run)
                array = ArrayJob(self.assignment, place)
                try:
                    new = _submit_array(self.sharing, self.run, array, wanted)
                except InputError:
                    shutil.rmtree(self.run.file(slurm_jobs.place_folder(place)))
                    if not latest.jobs:
                        slurm_jobs.forget_jobs(self.run, latest)
                    raise
                jobs = {**latest.jobs, **dict.fromkeys(new, place)}
                slurm_jobs.write_note(self.run, latest.model_copy(update={"jobs": jobs}))
            # A process may have the number of an earlier one.
            self.ended.difference_update(new)
            self.asked = self.enough = time.monotonic()
            self._say("jobs", f"{_count_jobs(len(new))} submitted: {', '.join(new)}")
        elif not alive and room <= 0:
            self._give_up()

    def _give_up(self) -> NoReturn:
        """End all jobs, and raise the error that made it necessary."""
        try:
            self._end_all_jobs()
        except InputError as failed:
            self._say("note", str(failed))
        if self.error is not None:
            raise self.error
        raise InputError(
            f"{self.lost} jobs for {self.run.path} were killed before they had done their work: "
            f"their logs in {self.run.path / slurm_jobs.JOB_LOGS} may say why; the same command "
            "goes on from what is finished"
        )

    def _end(self) -> None:
        """Let the jobs end, now that everything is done; end queued ones at once."""
        note, until = slurm_jobs.read_note(self.run), time.monotonic() + END_TIMEOUT
        if note is None:
            return
        states = slurm_jobs.states(self.run, note)
        if states is not None:
            running = {job for job, runs in states.items() if runs}
            slurm_jobs.end_jobs(self.run, states.keys() - running)
            self.ended.update(set(note.jobs) - running)
        while alive := self._alive(note):
            self.ended.update(
                job for job in alive if self.run.file(note.answer_file(job)).is_file()
            )
            if time.monotonic() > until:
                break
            time.sleep(min(LOOK_INTERVAL, 0.5))
        self._end_all_jobs()

    def _end_all_jobs(self) -> None:
        with slurm_jobs.lock_note(self.run):
            note = slurm_jobs.read_note(self.run)
            if note is not None:
                alive = set(self._alive(note))
                slurm_jobs.end_all_jobs(
                    self.run,
                    note,
                    alive & slurm_jobs.require_states(self.run, note).keys() if alive else (),
                )

    def _tell_owners(self, owners: Mapping[str, str]) -> None:
        """Say once a minute which steps run where, if that has changed."""
        if time.monotonic() - self.reminded < REMINDER_INTERVAL:
            return
        by: dict[str, list[str]] = {}
        for step, owner in owners.items():
            by.setdefault(owner, []).append(step)
        lines = []
        for owner, steps in by.items():
            work = name_first(list(map(self.followed.label, steps)))
            lines.append(f"{'running':14} {work}, on {claims.parse_host(owner)}")
        queued = sum(not runs for runs in self.running.values())
        if queued:
            lines.append(f"{'queued':14} {_count_jobs(queued)}")
        text = "\n".join(lines)
        if text and text != self.said:
            self.tell(Event("jobs", 0, None, line=text))
            self.said, self.reminded = text, time.monotonic()


def _count_jobs(jobs: int) -> str:
    return f"{jobs} job{'s' * (jobs != 1)}"


def count_job_cores(device: str, threads: int, workers: int) -> int:
    """The cores of a job; beside a GPU, its threads hardly compute while images are shifted.

    >>> count_job_cores("cuda", 8, 8), count_job_cores("cuda", 8, 2), count_job_cores("cpu", 8, 2)
    (9, 8, 10)
    """
    return max(threads, workers + 1) if device == "cuda" else threads + workers


def _submit_array(sharing: Sharing, run: RunFolder, job: ArrayJob, number: int) -> list[str]:
    """Submit an array of jobs; returns their numbers."""
    folder = run.file(slurm_jobs.place_folder(job.place)).resolve()
    settings, threads = job.assignment.settings, job.assignment.threads
    cores = count_job_cores(settings.device, threads, settings.workers)
    executor = _make_executor(sharing, folder, cores, slurm_jobs.job_name(run))
    try:
        with _ignoring_signals():
            submitted = executor.submit_array([job] * number)
    except FailedJobError as error:
        words = "; ".join(str(error).split("\n"))
        raise InputError(f"SLURM did not take the jobs: {words}") from None
    for link in folder.glob(".submission_file_*.sh"):  # useless after sbatch has read it
        link.unlink(missing_ok=True)
    return [job_handle.job_id for job_handle in submitted]


def _make_executor(sharing: Sharing, folder: Path, cores: int, name: str) -> SlurmExecutor:
    python = f"{shlex.quote(sys.executable)} -P"  # never import modules of the current folder
    executor = SlurmExecutor(folder, max_num_timeout=MAX_RESUMED, python=python)
    optional = {"partition": sharing.partition, "gpus_per_node": sharing.gpu}
    executor.update_parameters(
        **{name: value for name, value in optional.items() if value},
        job_name=name,
        time=sharing.minutes,
        cpus_per_task=cores,
        setup=list(sharing.setup),
        signal_delay_s=SIGNAL_DELAY,
        stderr_to_stdout=True,
        # SLURM no longer passes the cores of a job to its programs.
        srun_args=[f"--cpus-per-task={cores}"],
        additional_parameters={"requeue": True},
    )
    return executor


@contextmanager
def _ignoring_signals() -> Iterator[None]:
    """Ignore Ctrl-C and the end of the terminal while jobs are submitted."""
    names = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    main = (
        threading.current_thread() is threading.main_thread()
    )  # only the main thread may set handlers
    before = {name: signal.signal(name, signal.SIG_IGN) for name in names} if main else {}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


# ---- in a job


@contextmanager
def _ended_if_cancelled(run: RunFolder, job: str) -> Iterator[None]:
    """End the job cleanly at SIGTERM, if the note no longer lists it.

    SLURM sends the same signal to a job that it interrupts, and then submits it again itself.
    """

    def end(number: int, _: FrameType | None) -> None:
        if not _is_in_note(run, job):
            raise StoppedError(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_listed(run: RunFolder, job: str) -> bool:
    """Wait until the note lists the job; False if it was cancelled before."""
    until = time.monotonic() + LISTING_TIMEOUT
    while not _is_in_note(run, job):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _is_in_note(run: RunFolder, job: str) -> bool:
    note = slurm_jobs.read_note(run)
    return note is not None and job in note.jobs


def _work_as_job(assignment: Assignment, job: str) -> None:
    """Work in the run folder together with other jobs."""
    device = resolve_device(assignment.settings.device)
    plan, path = assignment.plan, Path(assignment.folder)
    cv2.setNumThreads(assignment.threads)

    def check(folder: RunFolder, others: bool) -> None:
        expected = _lasting_facts(assignment.record)
        if not folder.has_record or _lasting_facts(folder.record) != expected:
            raise InputError(
                f"the run in {path} is not the one that job {job} was submitted for: it was "
                "started again with other settings"
            )

    worker = assignment.worker(_print_event)
    with closing(worker), share_run(path, make_worker_mark(plan, device), check) as shared:
        execute_shared(
            plan,
            shared,
            worker,
            _print_event,
            perform=make_logged_perform(f"job {job} on {socket.gethostname()}"),
            patience=claims.EXPIRY + EXTRA_PATIENCE,
        )


def _lasting_facts(record: RunRecord) -> dict[str, object]:
    return {name: fact for name, fact in record.lasting().items() if name != "provenance"}


def _print_event(event: Event) -> None:
    """Write facts for people into the log of the job."""
    if event.line:
        print(event.line, flush=True)
    if event.finished:
        print(
            f"done  {event.finished.label}  {format_duration(event.finished.seconds)}", flush=True
        )
