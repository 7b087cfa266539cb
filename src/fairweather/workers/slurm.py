"""Executes a plan by array jobs of a SLURM cluster, each a worker in the run folder.

The process that submits them does no steps. It follows what the workers do in the folder, and may
be left and started again: which jobs there are stands in a note in the folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import cv2
import pydantic
import torch

from fairweather.devices import choose_workers, count_cores, resolve_device
from fairweather.errors import InputError, NeedsMissingError, StoppedError, unknown_name
from fairweather.processes import safe_path
from fairweather.progress import Event, Notify, format_duration
from fairweather.runs import claims
from fairweather.runs.claims import SharedRun, share_run
from fairweather.runs.folder import RunFolder, fingerprint
from fairweather.steps.plan import Plan
from fairweather.types.record import RunRecord
from fairweather.workers.logs import Failure, make_logged_perform, read_last_lines
from fairweather.workers.options import JobRequest, Sharing, make_job_request
from fairweather.workers.schedule import FollowedSchedule
from fairweather.workers.shared import execute_shared, make_worker_mark
from fairweather.workers.slurm_jobs import (
    JOB_LOGS,
    Place,
    SubmittedJobs,
    answer_file,
    end_all,
    end_jobs,
    forget_jobs,
    job_name,
    make_place,
    note_locked,
    place_folder,
    read_note,
    require_states,
    states,
    write_note,
)
from fairweather.workers.work import Assignment, Work

if TYPE_CHECKING:
    from submitit import Executor
    from submitit.helpers import DelayedSubmission

MOST_JOBS = 8  # at a time, unless asked otherwise
MOST_WORKERS = 8  # processes that shift images beside a GPU, unless asked otherwise
MAX_LOST = 3  # so many jobs that ended before their work did are replaced
MAX_RESUMED = 1000  # how often a job that meets its time limit is submitted again
SIGNAL_DELAY = 90  # seconds before the time limit at which a job is told of it
LOOKED, ASKED = 3.0, 30.0  # seconds between two looks at the folder, and two questions to SLURM
SUBMIT_DELAY = (
    60.0  # seconds that a step waits before another job is submitted for it, beside others
)
REMINDED = 60.0  # seconds between two times of saying which jobs do what
SEEN = 90.0  # seconds after which a file of another machine is seen, on a slow file system too
LISTED = 120.0  # seconds after which a job that does not stand in the note must have been cancelled
EXTRA_PATIENCE = 60.0  # seconds that a job waits longer for others than a claim lasts
END_TIMEOUT = 30.0  # seconds that jobs have to end once nothing is left to do


# What a job says at its end: why it failed; or nothing, since nothing was left to do, or others do
# all that can be done now.
ArrayJobAnswer: pydantic.TypeAdapter[Failure | None] = pydantic.TypeAdapter(Failure | None)


class ArrayJob:
    """What a job does; submitit stores it, calls it, and submits it again if it is interrupted."""

    def __init__(self, assigned: Assignment, place: Place) -> None:
        self.assigned, self.place = assigned, place

    def __call__(self) -> None:
        """Work in the run folder until nothing is left to do, and write an answer."""
        import submitit

        job = submitit.JobEnvironment().job_id
        run = RunFolder(Path(self.assigned.folder))
        answer = answer_file(self.place, job)
        with _ended_if_cancelled(run, job):
            if not _wait_until_listed(run, job):
                return
            try:
                _work_as_job(self.assigned, job)
            except Exception as error:
                run.write(answer, ArrayJobAnswer.dump_json(Failure.of(error)))
                raise
            run.write(answer, ArrayJobAnswer.dump_json(None))

    def checkpoint(self) -> DelayedSubmission:
        """Say what to submit again: the same, since all that is done is in the run folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def choose_slurm_device(
    sharing: Sharing, device: str, threads: int | None, precision: str, written: str
) -> torch.device:
    """The device of every job, which this machine need not have; as `executors.device_of`."""
    request = make_job_request(sharing)
    if device == "auto":
        device = "cuda" if request.gpu else "cpu"
    if device not in ("cpu", "cuda"):
        raise unknown_name("device of a job", device, ["auto", "cpu", "cuda"])
    if device == "cuda" and not request.gpu:
        raise InputError("device cuda needs a GPU in each job: add --gpus 1")
    if request.is_here:
        return resolve_device(device)
    free = {"threads": "8"} if threads is None else {}
    free |= {"precision": "bf16"} if precision == "auto" and request.gpu else {}
    if free:
        fixes = " ".join(written.format(name=name, value=value) for name, value in free.items())
        raise InputError(
            "the jobs run on other machines than this one, and the results depend on "
            f"{' and '.join(free)}: say which, such as {fixes}; each job asks for so many cores as "
            "it has threads"
        )
    return torch.device(device)


def _max_jobs(request: JobRequest, asked: int | None, threads: int) -> int:
    """How many jobs there are at most: as asked, or as many as fit, on this machine its cores."""
    if asked is not None:
        return asked
    return min(MOST_JOBS, max(count_cores() // threads, 1)) if request.is_here else MOST_JOBS


def _count_workers(request: JobRequest, device: torch.device, asked: int | None, jobs: int) -> int:
    """How many processes of a job shift images ahead; for each, a job asks for a core."""
    if request.is_here:
        return choose_workers(device, asked, jobs)
    return asked if asked is not None else MOST_WORKERS * (device.type == "cuda")


def execute_on_slurm(work: Work, sharing: Sharing, tell: Notify) -> None:
    """Do the steps of a run by jobs, and return when all are done and the jobs have ended.

    At most so many jobs as `sharing` says are there at a time; no more than there are steps to do.

    Raises:
        InputError: a job has raised it, more than `LOST` jobs were killed, or jobs for another plan
            are there.
        JobFailedError: jobs failed otherwise.
        NeedsMissingError: `fairweather cancel` has ended the jobs.
    """
    request, plan, path = make_job_request(sharing), work.plan, work.path.absolute()
    most = _max_jobs(request, sharing.jobs, plan.steps[0].threads)
    assigned = work.assigned(
        sharing,
        workers=_count_workers(request, work.device, sharing.workers, most),
        jobs=most if request.is_here else 1,
        device=work.device.type,
    )

    def prepare(folder: RunFolder, others: bool) -> None:
        work.prepare(folder, others or bool(_find_own_jobs(folder, plan, request)))

    with share_run(path, make_worker_mark(plan, None), prepare) as shared:
        driver = _SlurmDriver(assigned, shared, request, tell, most)
        try:
            driver.follow()
        except KeyboardInterrupt:
            driver.say_left()
            raise


def _find_own_jobs(run: RunFolder, plan: Plan, request: JobRequest) -> Mapping[str, bool]:
    """As `alive`, of the jobs for a plan; raises `InputError` if they are for another one."""
    note = read_note(run)
    there = {} if note is None else require_states(run, note)
    asked = request.executor, _plan_digest(plan)
    if there and note is not None and (note.executor, note.study) != asked:
        raise InputError(
            f"{_count_jobs(len(there))} of another study or other settings work in {run.path}, or "
            f"wait "
            f"to do so: end them with `fairweather cancel {run.path}`, or name another folder with "
            "--out"
        )
    return there


def _plan_digest(plan: Plan) -> str:
    return fingerprint({step.id: step.depends() for step in plan.steps})


class _SlurmDriver:
    """Submits jobs, as many as there is work for, and tells what they do.

    Attributes:
        ended: jobs that are known to have ended.
        lost: how many of them ended before their work did.
    """

    def __init__(
        self, assigned: Assignment, shared: SharedRun, request: JobRequest, tell: Notify, most: int
    ) -> None:
        self.assigned, self.request, self.tell, self.most = assigned, request, tell, most
        self.run, self.claims = shared.run, shared.claims
        self.followed = FollowedSchedule(assigned.plan, shared.run, tell, lambda _: "done")
        self.ended: set[str] = set()
        self.missing: dict[str, float] = {}  # jobs that SLURM does not have: since when
        self.lost = 0
        self.error: Exception | None = None  # the last one of a job
        self.running: Mapping[str, bool] = {}  # jobs that have not ended: whether they run
        self.asked = self.reminded = float("-inf")
        self.enough = time.monotonic()  # when there last were jobs for all that could be begun
        self.said = ""

    def follow(self) -> None:
        """Submit jobs and follow them until all steps are done."""
        if self.followed.waiting:
            self._begin()
        while self.followed.waiting:
            owners = self.claims.owners()
            note = read_note(self.run)  # before the look: who removes it may have done the rest
            if self.followed.look(len(set(owners.values()))):
                continue
            if note is None:
                raise NeedsMissingError(
                    f"the jobs of {self.run.path} were ended by `fairweather cancel`; the same "
                    "command submits jobs for what is left"
                )
            self._look_after_jobs(note)
            self._submit(note, owners)
            self._say_who_does_what(owners)
            time.sleep(LOOKED)
        self._end()

    def say_left(self) -> None:
        """Say that the jobs go on."""
        note = read_note(self.run)
        alive = [] if note is None else [job for job in note.jobs if job not in self.ended]
        if alive:
            go = "goes" if len(alive) == 1 else "go"
            words = f"{_count_jobs(len(alive))} of {self.run.path} {go} on without this command"
            way = f"`fairweather cancel {self.run.path}` ends them"
            self.tell(Event("jobs", 0, None, line=f"{words}; {way}"))

    def _begin(self) -> None:
        """Begin a note, unless there is one with jobs for this plan."""
        with note_locked(self.run):
            note = read_note(self.run)
            if note is not None:
                if there := require_states(self.run, note):
                    # What had failed before may have been mended since.
                    self.ended = {
                        job
                        for job in note.jobs
                        if job not in there or self.run.file(note.answer_of(job)).is_file()
                    }
                    self._say(
                        "jobs", f"taking up {_count_jobs(len(there))} that were submitted before"
                    )
                    return
                forget_jobs(self.run, note)
            note = SubmittedJobs(
                executor=self.request.executor,
                host=socket.gethostname(),
                folder=str(self.run.path.resolve()),
                study=_plan_digest(self.assigned.plan),
            )
            write_note(self.run, note)

    def _say(self, what: str, words: str) -> None:
        self.tell(Event("jobs", 0, None, line=f"{what:14} {words}"))

    def _look_after_jobs(self, note: SubmittedJobs) -> None:
        """Find out which jobs have ended, and why."""
        for place in {note.jobs[job] for job in self._alive(note)}:
            with suppress(FileNotFoundError):  # listing a folder makes NFS ask its server
                list(self.run.file(place_folder(place)).iterdir())
        for job in self._alive(note):
            self._read_answer(note, job)
        if time.monotonic() - self.asked < ASKED:
            return
        self.asked = now = time.monotonic()
        found = states(self.run, note)
        if found is None:
            return
        self.running = found
        self.missing = {
            job: self.missing.get(job, now) for job in self._alive(note) if job not in found
        }
        for job, since in self.missing.items():
            if now - since >= SEEN and not self._read_answer(note, job):
                self._lose(note, job, "ended without an answer, as a killed one does")

    def _alive(self, note: SubmittedJobs) -> list[str]:
        return [job for job in note.jobs if job not in self.ended]

    def _read_answer(self, note: SubmittedJobs, job: str) -> bool:
        """Read why a job has ended, if it has said so."""
        path = self.run.file(note.answer_of(job))
        try:
            answer = ArrayJobAnswer.validate_json(path.read_bytes())
        except FileNotFoundError:
            return False
        except ValueError:
            raise InputError(f"{path} is not the answer of a job; remove it") from None
        self.ended.add(job)
        if answer is not None:
            self.error = answer.error(f"job {job}")
            if isinstance(self.error, InputError):  # it would not help to try again
                self._give_up()
            self._lose(note, job, f"failed ({answer.type}: {answer.text})")
        return True

    def _lose(self, note: SubmittedJobs, job: str, how: str) -> None:
        self.ended.add(job)
        self.lost += 1
        log = note.log_of(job)
        lines = read_last_lines(self.run, log)
        where = f"; the end of {self.run.path / log}:\n{lines}" if lines else ""
        self._say("failed", f"job {job} {how}{where}".rstrip())

    def _submit(self, note: SubmittedJobs, owners: Mapping[str, str]) -> None:
        """Submit as many jobs as could begin a step now, beside those that are there."""
        there, busy = self._alive(note), set(owners.values())
        idle = max(len(there) - len(busy), 0)
        room = self.most - max(self.lost - MAX_LOST, 0) - len(there)
        wanted = min(self.followed.free(owners) - idle, room)
        now = time.monotonic()
        if wanted <= 0:
            self.enough = now
        if wanted > 0 and not (there and now - self.enough < SUBMIT_DELAY):
            with note_locked(self.run):
                latest = read_note(self.run)
                if latest is None:  # the next look says why
                    return
                place = make_place(self.run)
                array = ArrayJob(self.assigned, place)
                try:
                    new = _submit_array(self.request, self.run, array, wanted)
                except InputError:
                    shutil.rmtree(self.run.file(place_folder(place)))
                    if not latest.jobs:
                        forget_jobs(self.run, latest)
                    raise
                jobs = {**latest.jobs, **dict.fromkeys(new, place)}
                write_note(self.run, latest.model_copy(update={"jobs": jobs}))
            # A process may have the number of one that ended before.
            self.ended.difference_update(new)
            self.asked = self.enough = time.monotonic()
            self._say("jobs", f"{_count_jobs(len(new))} submitted: {', '.join(new)}")
        elif not there and room <= 0:
            self._give_up()

    def _give_up(self) -> NoReturn:
        """End all jobs, and raise what made that necessary."""
        try:
            self._end_all()
        except InputError as failed:
            self._say("note", str(failed))
        if self.error is not None:
            raise self.error
        raise InputError(
            f"{self.lost} jobs for {self.run.path} were killed before they had done their work: "
            f"their logs in {self.run.path / JOB_LOGS} may say why; the same command goes on from "
            "what is finished"
        )

    def _end(self) -> None:
        """Let the jobs end, now that all is done: those that wait in the queue at once."""
        note, until = read_note(self.run), time.monotonic() + END_TIMEOUT
        if note is None:
            return
        found = states(self.run, note)
        if found is not None:
            running = {job for job, runs in found.items() if runs}
            end_jobs(self.run, note, found.keys() - running)
            self.ended.update(set(note.jobs) - running)
        while alive := self._alive(note):
            self.ended.update(job for job in alive if self.run.file(note.answer_of(job)).is_file())
            if time.monotonic() > until:
                break
            time.sleep(min(LOOKED, 0.5))
        self._end_all()

    def _end_all(self) -> None:
        with note_locked(self.run):
            note = read_note(self.run)
            if note is not None:
                left = set(self._alive(note))
                end_all(
                    self.run, note, left & require_states(self.run, note).keys() if left else ()
                )

    def _say_who_does_what(self, owners: Mapping[str, str]) -> None:
        """Say once a minute which steps are being done where, if that has changed."""
        if time.monotonic() - self.reminded < REMINDED:
            return
        by: dict[str, list[str]] = {}
        for step, owner in owners.items():
            by.setdefault(owner, []).append(step)
        lines = []
        for owner, steps in by.items():
            more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
            lines.append(
                f"{'running':14} {self.followed.label(steps[0])}{more}, on "
                f"{claims.parse_host(owner)}"
            )
        queued = sum(not runs for runs in self.running.values())
        if queued:
            lines.append(f"{'queued':14} {_count_jobs(queued)}")
        text = "\n".join(lines)
        if text and text != self.said:
            self.tell(Event("jobs", 0, None, line=text))
            self.said, self.reminded = text, time.monotonic()


def _count_jobs(jobs: int) -> str:
    return f"{jobs} job{'s' * (jobs != 1)}"


def _submit_array(request: JobRequest, run: RunFolder, job: ArrayJob, number: int) -> list[str]:
    """Submit an array of jobs; returns their numbers."""
    from submitit.core.utils import FailedJobError

    folder = run.file(place_folder(job.place)).resolve()
    if request.is_here:
        executor = _executor_here(request, folder)
    else:
        needed = job.assigned.plan.steps[0].threads + job.assigned.workers
        executor = _executor_on_slurm(request, folder, needed, job_name(run))
    try:
        # submitit starts a Python of its own, if not SLURM.
        safe = safe_path() if request.is_here else nullcontext()
        with _ignoring_signals(apart=request.is_here), safe:
            submitted = executor.submit_array([job] * number)
    except FailedJobError as error:
        words = "; ".join(str(error).split("\n"))
        raise InputError(f"SLURM did not take the jobs: {words}") from None
    for link in folder.glob(".submission_file_*.sh"):  # nobody needs it once sbatch has read it
        link.unlink(missing_ok=True)
    return [each.job_id for each in submitted]


def _executor_on_slurm(request: JobRequest, folder: Path, needed: int, name: str) -> Executor:
    from submitit import SlurmExecutor

    python = f"{shlex.quote(sys.executable)} -P"  # modules of the current folder are not ours
    executor = SlurmExecutor(folder, max_num_timeout=MAX_RESUMED, python=python)
    asked = {"partition": request.partition, "gpus_per_node": request.gpu}
    executor.update_parameters(
        **{key: value for key, value in asked.items() if value},
        job_name=name,
        time=request.minutes,
        cpus_per_task=needed,
        setup=list(request.setup),
        signal_delay_s=SIGNAL_DELAY,
        stderr_to_stdout=True,
        # SLURM no longer passes the cores of a job on to what it runs.
        srun_args=[f"--cpus-per-task={needed}"],
        additional_parameters={"requeue": True},
    )
    return executor


def _executor_here(request: JobRequest, folder: Path) -> Executor:
    from submitit import LocalExecutor

    # submitit would put the commands before its own process, which then gets no signals.
    script = "\n".join([*request.setup, 'exec "$0" "$@"'])
    python = shlex.join(["bash", "-c", script, sys.executable, "-P"])
    executor = LocalExecutor(folder, max_num_timeout=MAX_RESUMED, python=python)
    executor.update_parameters(
        timeout_min=request.minutes,
        gpus_per_node=int(bool(request.gpu)),
        signal_delay_s=SIGNAL_DELAY,
        stderr_to_stdout=True,
    )
    return executor


@contextmanager
def _ignoring_signals(*, apart: bool) -> Iterator[None]:
    """Let Ctrl-C and the end of the terminal pass by while jobs are submitted.

    What is started meanwhile never notices them. If it is to be `apart`, it does not hold the
    terminal either, or a pipe, whose reader would wait for its end.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()  # only that may set handlers
    before = {each: signal.signal(each, signal.SIG_IGN) for each in numbers} if main else {}
    own = [os.dup(number) for number in (0, 1, 2)] if apart else []
    try:
        if apart:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            os.close(nothing)
        yield
    finally:
        for number, kept in enumerate(own):
            os.dup2(kept, number)
            os.close(kept)
        for each, handler in before.items():
            signal.signal(each, handler)


# ---- in a job


@contextmanager
def _ended_if_cancelled(run: RunFolder, job: str) -> Iterator[None]:
    """End the job in order at SIGTERM, if it does not stand in the note any more.

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
    """Wait until the job stands in the note; False if it was cancelled before."""
    until = time.monotonic() + LISTED
    while not _is_in_note(run, job):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _is_in_note(run: RunFolder, job: str) -> bool:
    note = read_note(run)
    return note is not None and job in note.jobs


def _work_as_job(assigned: Assignment, job: str) -> None:
    """Work in the run folder together with other jobs."""
    device = resolve_device(assigned.device)
    plan, path = assigned.plan, Path(assigned.folder)
    cv2.setNumThreads(plan.steps[0].threads)

    def check(folder: RunFolder, others: bool) -> None:
        if not folder.has_record or _lasting_facts(folder.record) != _lasting_facts(
            assigned.record
        ):
            raise InputError(
                f"the run in {path} is not the one that job {job} was submitted for: it was begun "
                "anew with other settings"
            )

    worker = assigned.worker(_print_event)
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
    """Write what a person may look for into the log of the job."""
    if event.line:
        print(event.line, flush=True)
    if event.finished:
        print(
            f"done  {event.finished.label}  {format_duration(event.finished.seconds)}", flush=True
        )
