"""A study is done by jobs of SLURM, here of programs that behave like it, or by submitit's own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.errors import InputError, NeedsMissingError, TrainingDivergedError
from fairweather.requests.study.run import plan
from fairweather.runs.folder import RunFolder
from fairweather.types.record import RECORD
from fairweather.workers import options as executor_options
from fairweather.workers import slurm
from fairweather.workers import slurm_jobs as submitted
from fairweather.workers.logs import Failure, JobFailedError, read_last_lines
from fairweather.workers.options import parse_minutes
from fairweather.workers.schedule import FollowedSchedule
from tests.conftest import TINY_RESNET
from tests.helpers import fake_slurm
from tests.helpers.forking import Program
from tests.helpers.named_evaluation import named_evaluation
from tests.helpers.same_bytes import same

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: 2
threads: 1
variants: [{{tent: {{cells: continual, orders: 2, batch_size: 16}}}}]
shifts:
  - brightness_factor: {{factor: [0.5]}}
bootstrap: 100
models:
  basic:
    title: Basic
    backbone: {backbone}
    recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
"""
# The command, which asks often.
COMMAND = """
from fairweather.workers import slurm
slurm.LOOK_INTERVAL, slurm.QUERY_INTERVAL, slurm.ANSWER_TIMEOUT = 0.1, 0.3, 0.5
from fairweather.cli.app import main
main()
"""
# What a job does first: it leaves figures out. {patch} changes how it does its steps.
PREPARED = """
import os, pathlib, sys, time
from fairweather import errors
from fairweather.report import building as report
from fairweather.steps import dispatch as steps
from fairweather.workers import schedule
report._draw_figures = lambda *_: []
schedule.LOOK_INTERVAL = 0.05
here, train = pathlib.Path({here!r}), steps.STEP_FUNCTIONS["train"]
{patch}
"""
CUSTOM = """
import pathlib
if "submitit.core._submit" in pathlib.Path("/proc/self/cmdline").read_text():
    exec({prepared!r})
"""
# A training tells that it has begun, and ends once it may.
HELD = """
def held(step, *others):
    (here / "begun").mkdir(exist_ok=True)
    (here / "begun" / str(os.getpid())).touch()
    while not (here / "go").exists():
        time.sleep(0.05)
    return train(step, *others)
steps.STEP_FUNCTIONS = {**steps.STEP_FUNCTIONS, "train": held}
"""
DIVERGED = """
def diverged(step, *others):
    raise errors.TrainingDivergedError("the loss is not finite")
steps.STEP_FUNCTIONS = {**steps.STEP_FUNCTIONS, "train": diverged}
"""
# Then submitit does the job, as the script of the job would have called it.
CALLED = """
import runpy
runpy.run_module("submitit.core._submit", run_name="__main__")
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    path = tmp_path_factory.mktemp("study") / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def alone(study):
    return fw.run(study, out=study.parent / "alone", device="cpu")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The state of SLURM, whose programs are on PATH; what it started is ended."""
    fake_slurm.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    place = tmp_path / "slurm"
    place.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(place))
    yield place
    for pid in [path.read_text() for path in place.glob("*.step")]:
        if fake_slurm.is_there(pid):
            os.kill(int(pid), signal.SIGKILL)


def prepared_in(folder, patch):
    """What a job does first whose trainings tell in a folder that they have begun."""
    here = folder / "custom"
    here.mkdir(exist_ok=True)
    return PREPARED.format(here=str(here), patch=patch)


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Give the command that patches the steps of jobs."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))

    def write(patch=""):
        prepared = prepared_in(tmp_path, patch)
        custom = tmp_path / "custom"
        (custom / "sitecustomize.py").write_text(CUSTOM.format(prepared=prepared))
        return f'export PYTHONPATH="{custom}:$PYTHONPATH"'

    return write


@pytest.fixture
def start(study, setup, tmp_path):
    """Give the command, with `patch` in its jobs; what is left of it is killed at the end."""
    running = []

    def run(*options, patch=""):
        own = ["run", str(study), "--out", str(tmp_path / "run"), "--setup", setup(patch)]
        command = [sys.executable, "-c", COMMAND, *own, *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, **pipes))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def often(monkeypatch):
    """Ask often, and look so often that a training of a fraction of a second is seen."""
    monkeypatch.setattr(slurm, "QUERY_INTERVAL", 0.2)
    for name in ("LOOK_INTERVAL", "REMINDER_INTERVAL"):
        monkeypatch.setattr(slurm, name, 0.02)


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)
    return found


def begun(folder):
    """The processes of jobs that have begun a training."""
    return {path.name for path in (folder / "custom" / "begun").glob("*")}


def ended(process, status=0):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, (output, errors)
    return output, errors


# submitit does not wait for the processes that it starts. Two jobs at once are left to the night:
# by day tests/workers/test_workers.py divides the steps of a run between processes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_jobs_do_what_one_process_does_and_leave_only_logs(
    jobs, often, setup, state, study, alone, tmp_path
):
    folder, said = tmp_path / "run", []
    options = {"executor": "slurm", "jobs": jobs, "setup": [setup()]}
    fw.run(study, out=folder, **options, progress=said.append)
    same(folder, alone)
    assert (folder / "report.html").is_file()
    assert any(f"{jobs} job{'s' * (jobs > 1)} submitted" in event.line for event in said)
    assert any(
        "running" in event.line and "train Basic, seed 0, on" in event.line for event in said
    )
    finished = [event for event in said if event.finished]
    assert [event.done for event in finished] == list(range(1, len(alone.folder.steps()) + 1))
    assert "train Basic, seed 0" in [event.finished.label for event in finished]
    assert not (folder / "jobs.json").exists()
    assert not (folder / "claims").exists()
    left = {path.suffix for path in (folder / "logs/jobs").rglob("*")}
    assert left <= {".out", ".lock", "", ".sh"}  # the script of the job
    log = (folder / "logs/steps/models/basic/seed-1.log").read_text()
    assert "begun by job" in log
    assert "done in" in log
    for step in alone.folder.step_ids():
        assert (folder / f"logs/steps/{step}.log").is_file()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_job_does_an_evaluation(often, setup, state, colour_folder, tmp_path):
    given = named_evaluation(tmp_path, colour_folder)
    alone = fw.evaluate(**given, out=tmp_path / "alone", progress=False)
    folder, said = tmp_path / "run", []
    options = {"executor": "slurm", "jobs": 1, "setup": [setup()]}
    fw.evaluate(**given, **options, out=folder, progress=said.append)
    same(folder, alone)
    assert any(event.line.startswith("clean          accuracy") for event in said)
    assert (folder / "logs/steps/scores.log").is_file()


@pytest.mark.nightly
def test_the_command_can_be_left_and_taken_up_again(often, setup, study, state, alone, tmp_path):
    (state / "hold").touch()
    folder, said, command = tmp_path / "run", [], setup()
    options = {"executor": "slurm", "partition": "long,short", "gpus": "a100:1", "jobs": 2}
    options |= {"time": "1:30:00", "device": "cpu", "workers": 2, "setup": [command]}
    options |= {"overrides": ["training_precision=fp32"], "out": folder}

    def leave(event):
        said.append(event.line)
        if "2 jobs submitted" in event.line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fw.run(study, **options, progress=leave)
    assert said[-1] == (
        f"2 jobs of {folder} go on without this command; `fairweather cancel {folder}` ends them"
    )
    (script,) = state.glob("*.sh")
    lines = script.read_text().splitlines()
    for line in ("partition=long,short", "gpus-per-node=a100:1", "time=90", "cpus-per-task=3"):
        assert f"#SBATCH --{line}" in lines
    assert {"#SBATCH --requeue", "#SBATCH --signal=USR2@90", "#SBATCH --array=0-1%2"} <= set(lines)
    assert command in lines
    assert any(line.startswith("srun ") and "--cpus-per-task=3" in line for line in lines)
    with pytest.raises(InputError, match="2 jobs of another study or other settings"):
        fw.run(study, out=folder, executor="slurm", overrides=["seeds=1"])
    (state / "hold").unlink()
    fw.run(study, **options, progress=leave)
    assert any("taking up 2 jobs" in line for line in said)
    assert len(list(state.glob("*.sh"))) == 1
    same(folder, alone)


def begin_forked(state, job, code):
    """Begin a job that waits in the queue: submitit does it in a program that was forked."""
    place = re.search(r"submitit\.core\._submit (\S+)", (state / f"{job}.sh").read_text())[1]
    program = Program(
        [sys.executable, "-c", code + CALLED, place],
        env=os.environ | {"SLURM_JOB_ID": job, "SUBMITIT_EXECUTOR": "slurm"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for name in (job, f"{job}.step"):
        (state / name).write_text(str(program.pid))


def test_cancel_ends_the_jobs_and_gives_their_claims_back(often, study, state, tmp_path):
    (state / "hold").touch()
    folder, said = tmp_path / "run", []
    cancel = ["cancel", str(folder)]

    def end(event):
        if "1 job submitted" in event.line:
            begin_forked(state, "100", prepared_in(tmp_path, HELD))
        if "running" in event.line and not said:
            (pid,) = wait_for(lambda: begun(tmp_path))
            said.extend([pid, CliRunner().invoke(app, cancel).stdout])

    with pytest.raises(NeedsMissingError, match="were ended by `fairweather cancel`"):
        fw.run(study, out=folder, executor="slurm", jobs=1, progress=end)
    pid, answer = said
    assert answer == f"ended 1 job of {folder}\n"
    wait_for(lambda: not fake_slurm.is_there(pid))
    assert not (folder / "jobs.json").exists()
    assert not (folder / "claims").exists()
    result = CliRunner().invoke(app, cancel)
    assert (result.exit_code, result.stdout) == (0, f"no jobs of {folder} are waiting or running\n")


@pytest.mark.nightly
def test_a_job_that_is_interrupted_or_killed_is_submitted_again(start, state, alone, tmp_path):
    process = start("--executor", "slurm", "--jobs", "1", patch=HELD)
    (pid,) = wait_for(lambda: begun(tmp_path))
    os.kill(int(pid), signal.SIGUSR2)  # SLURM: the time is over, or others need the machine
    wait_for(lambda: len(begun(tmp_path)) == 2)
    assert "scontrol requeue 100" in (state / "asked.log").read_text()
    (pid,) = begun(tmp_path) - {pid}
    os.kill(int(pid), signal.SIGTERM)  # comes before an interruption too, and ends nothing
    os.kill(int(pid), signal.SIGKILL)
    claim = tmp_path / "run/claims/steps/models/basic/seed-0.claim"
    old = time.time() - 1000
    os.utime(claim, (old, old))  # as if minutes had passed
    wait_for(lambda: len(begun(tmp_path)) == 3)
    (tmp_path / "custom" / "go").touch()
    output, _ = ended(process)
    assert "job 100 ended without an answer" in output
    assert "1 job submitted: 200" in output
    same(tmp_path / "run", alone)


@pytest.mark.nightly
def test_what_a_job_refuses_ends_the_command_with_its_sentence(start, state, tmp_path):
    _, errors = ended(start("--executor", "slurm", patch=DIVERGED), 2)
    assert "fairweather: the loss is not finite\n" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "jobs.json").exists()
    assert "TrainingDivergedError" in read_last_lines(
        RunFolder(tmp_path / "run"), "logs/steps/models/basic/seed-0.log"
    )


# ---- without jobs


@pytest.fixture
def never(monkeypatch, state):
    """Jobs are submitted, and each has ended without its work at once; gives what they answer."""
    answers, numbers, write = [], iter(range(1, 1000)), submitted.write_note

    def submit(request, run, job, number):
        return [str(next(numbers)) for _ in range(number)]

    def end(run, note):
        write(run, note)
        for job in note.jobs:
            (run.path / note.log_file(job)).write_text("first\nlast\n")
            for answer in answers:
                (run.path / note.answer_file(job)).write_text(answer.model_dump_json())

    monkeypatch.setattr(slurm, "_submit_array", submit)
    monkeypatch.setattr(submitted, "write_note", end)
    for name in ("LOOK_INTERVAL", "QUERY_INTERVAL", "ANSWER_TIMEOUT"):
        monkeypatch.setattr(slurm, name, 0.0)
    return answers


def test_jobs_that_are_killed_are_replaced_three_times(never, study, tmp_path):
    said = []
    with pytest.raises(InputError, match=r"5 jobs .* were killed before they"):
        fw.run(study, out=tmp_path / "run", executor="slurm", jobs=2, progress=said.append)
    assert sum("ended without an answer" in event.line for event in said) == 5
    assert sum("submitted: " in event.line for event in said) == 3  # of 2, 2 and 1
    assert not (tmp_path / "run" / "jobs.json").exists()


@pytest.mark.parametrize(
    ("name", "raised", "words", "times"),
    [
        ("RuntimeError", JobFailedError, "job 4 failed:\nTraceback: luck", 4),
        ("TrainingDivergedError", TrainingDivergedError, "no such luck", 0),  # once is enough
    ],
)
def test_the_error_of_a_job_is_told(name, raised, words, times, never, study, tmp_path):
    never.append(Failure(type=name, text="no such luck", traceback="Traceback: luck"))
    said = []
    with pytest.raises(raised, match=words):
        fw.run(study, out=tmp_path / "run", executor="slurm", jobs=1, progress=said.append)
    lines = [event.line for event in said if "failed" in event.line]
    assert len(lines) == times
    for number, line in enumerate(lines, 1):
        assert f"job {number} failed (RuntimeError: no such luck); the end of" in line
        assert "    last" in line
    assert not (tmp_path / "run" / "jobs.json").exists()


def test_a_damaged_note_is_one_sentence(study, alone, tmp_path, state):
    folder = shutil.copytree(alone.path, tmp_path / "run")
    (folder / "jobs.json").write_text('{"executor": "slurm", "jobs": ["1; rm -r ."]}')
    result = CliRunner().invoke(app, ["cancel", str(folder)])
    assert isinstance(result.exception, InputError)
    assert "does not say which jobs were submitted" in str(result.exception)


PLACE = "0123456789abcdef"


def noted(folder, *jobs, **facts):
    """Write a note of jobs into a run folder."""
    facts = {"study": ""} | facts
    note = submitted.SubmittedJobs(
        folder=str(folder.resolve()), jobs=dict.fromkeys(jobs, PLACE), **facts
    )
    submitted.write_note(RunFolder(folder), note)
    return note


def test_a_note_of_the_last_version_is_read(tmp_path):
    note, path = noted(tmp_path, "1"), tmp_path / "jobs.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"executor": "slurm", "host": "a"}))
    assert submitted.read_note(RunFolder(tmp_path)) == note


def queued(state, job, name):
    """Put a job into the queue."""
    (state / "hold").touch()
    (state / f"{job}.sh").write_text(f"#SBATCH --job-name={name}\n")
    (state / job).write_text("PENDING")


def unfinished(alone, folder):
    """A copy of a run without one of its predictions; also what does it."""
    run = RunFolder(shutil.copytree(alone.path, folder))
    step = next(step for step in alone.folder.step_ids() if step.startswith("predictions/"))
    run.forget(step)

    def finish():
        shutil.copytree(alone.path, folder, dirs_exist_ok=True)

    return run, finish


def test_jobs_that_were_not_ended_can_be_cancelled_again(alone, state, tmp_path):
    folder = shutil.copytree(alone.path, tmp_path / "run")
    noted(folder, "100")
    queued(state, "100", submitted.job_name(RunFolder(folder)))
    (state / "no-scancel").touch()
    with pytest.raises(InputError, match="SLURM did not end all jobs"):
        submitted.cancel_jobs(folder)
    (state / "no-scancel").unlink()
    (state / "no-squeue").touch()
    with pytest.raises(InputError, match="SLURM does not answer"):
        submitted.cancel_jobs(folder)
    (state / "no-squeue").unlink()
    assert submitted.cancel_jobs(folder) == 1
    assert not (state / "100").exists()
    assert not (folder / "jobs.json").exists()


def test_jobs_of_another_folder_are_not_ended(alone, state, tmp_path):
    folder = shutil.copytree(alone.path, tmp_path / "run")
    noted(folder, "100", "200")
    queued(state, "100", submitted.job_name(RunFolder(folder)))
    queued(state, "200", "mine")  # a note can have any number
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(InputError, match=f"work in {folder}, and this is {copy}"):
        submitted.cancel_jobs(copy)
    assert (state / "100").exists()
    assert submitted.cancel_jobs(folder) == 1
    assert not (state / "100").exists()
    assert (state / "200").exists()


def test_no_answer_of_slurm_does_not_mean_that_no_jobs_are_there(alone, state, study, tmp_path):
    folder = shutil.copytree(alone.path, tmp_path / "run")
    noted(folder, "100")
    queued(state, "100", submitted.job_name(RunFolder(folder)))
    (state / "no-squeue").touch()
    before = (folder / RECORD).read_bytes()
    with pytest.raises(InputError, match="SLURM does not answer"):
        fw.run(study, out=folder, executor="slurm", overrides=["seeds=1"])
    assert (folder / RECORD).read_bytes() == before


def test_what_was_planted_for_jobs_is_not_used(alone, state, study, tmp_path):
    run, _ = unfinished(alone, tmp_path / "run")
    (state / "hold").touch()
    planted = run.path / "logs/jobs/100_submitted.pkl"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"harm")

    def leave(event):
        if "submitted" in event.line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fw.run(study, out=run.path, executor="slurm", progress=leave)
    note = submitted.read_note(run)
    (place,) = (run.file(submitted.place_folder(each)) for each in note.jobs.values())
    assert place.stat().st_mode & 0o777 == 0o700
    assert (place / "100_submitted.pkl").is_file()
    assert f"submitit.core._submit {place}\n" in (state / "100.sh").read_text()
    assert planted.read_bytes() == b"harm"


def test_a_folder_for_jobs_is_never_one_that_was_there(alone, monkeypatch, tmp_path):
    run = RunFolder(shutil.copytree(alone.path, tmp_path / "run"))
    monkeypatch.setattr(submitted.secrets, "token_hex", lambda size: PLACE)
    (run.path / "other").mkdir()
    (run.path / "logs/jobs").mkdir(parents=True)
    (run.path / "logs/jobs" / PLACE).symlink_to(run.path / "other")
    with pytest.raises(FileExistsError):
        submitted.make_place(run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_run_nothing_of_the_current_folder(state, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    (tmp_path / "shlex.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    settings = SimpleNamespace(device="cpu", workers=0)
    job = SimpleNamespace(  # which fails, since it is no function
        place=submitted.make_place(run), assignment=SimpleNamespace(settings=settings, threads=1)
    )
    (number,) = slurm._submit_array(executor_options.Sharing(executor="slurm"), run, job, 1)
    note = submitted.SubmittedJobs(folder="", study="", jobs={number: job.place})
    log = run.file(note.log_file(number))
    wait_for(
        lambda: (tmp_path / "harm").exists() or (log.exists() and "not callable" in log.read_text())
    )
    assert not (tmp_path / "harm").exists()


def test_another_command_that_has_seen_the_end_first_is_no_cancel(
    alone, never, study, monkeypatch, tmp_path
):
    run, finish = unfinished(alone, tmp_path / "run")
    write = submitted.write_note

    def end(run, note):
        write(run, note)
        if note.jobs:  # the jobs do all, and the other command removes the note
            finish()
            (run.path / "jobs.json").unlink()

    monkeypatch.setattr(submitted, "write_note", end)
    fw.run(study, out=run.path, executor="slurm")
    same(run.path, alone)


def test_what_had_failed_before_the_jobs_are_taken_up_ends_nothing(
    alone, often, state, study, tmp_path
):
    run, finish = unfinished(alone, tmp_path / "run")
    digest = plan(study, out=run.path, device="cpu").plan.digest
    note = noted(run.path, "100", "200", study=digest)
    queued(state, "200", submitted.job_name(run))
    failed = Failure(type="TrainingDivergedError", text="no such luck", traceback="")
    (run.path / note.answer_file("100")).parent.mkdir(parents=True)
    (run.path / note.answer_file("100")).write_text(failed.model_dump_json())
    said = []

    def tell(event):
        said.append(event.line)
        if "queued" in event.line:
            finish()

    fw.run(study, out=run.path, executor="slurm", jobs=1, progress=tell)
    assert f"{'jobs':14} taking up 1 job that were submitted before" in said
    assert not any("failed" in line for line in said)
    same(run.path, alone)
    assert not (state / "200").exists()  # nothing was left to do


def test_a_command_that_cannot_end_its_jobs_says_so_and_ends_them_when_given_again(
    alone, often, state, study, tmp_path
):
    run, finish = unfinished(alone, tmp_path / "run")
    (state / "hold").touch()

    def tell(event):
        if "queued" in event.line:
            finish()
            (state / "no-scancel").touch()

    with pytest.raises(InputError, match="SLURM did not end all jobs"):
        fw.run(study, out=run.path, executor="slurm", progress=tell)
    assert (state / "100").exists()
    assert submitted.read_note(run).jobs.keys() == {"100"}
    (state / "no-scancel").unlink()
    fw.run(study, out=run.path, executor="slurm")
    assert not (state / "100").exists()
    assert submitted.read_note(run) is None


def test_a_job_whose_answer_is_seen_late_is_not_lost(alone, never, study, monkeypatch, tmp_path):
    run, finish = unfinished(alone, tmp_path / "run")
    asked, said = [], []

    def states(folder, note):
        asked.append(note)
        if len(asked) > 1:
            finish()
        return {}

    monkeypatch.setattr(slurm, "ANSWER_TIMEOUT", 90.0)
    monkeypatch.setattr(submitted, "states", states)
    fw.run(study, out=run.path, executor="slurm", progress=said.append)
    assert len(asked) > 1
    assert not any("ended without an answer" in event.line for event in said)


def test_the_time_that_remains_is_divided_among_the_jobs(study, alone, tmp_path):
    whole, left = plan(study, out=alone.path, device="cpu").plan, {}
    first, second, *_ = (step.id for step in whole.steps if step.kind == "predict")
    for busy in (1, 8):
        run = RunFolder(shutil.copytree(alone.path, tmp_path / str(busy)))
        run.forget(first)
        run.forget(second)
        said = []
        followed = FollowedSchedule(whole, run, said.append, lambda _: "done")
        for name in (record := alone.folder.step(first)).files:
            shutil.copyfile(alone.folder.file(name), run.file(name))
        run.finish(record)
        assert followed.look(busy) == 1
        (left[busy],) = (event.finished.left for event in said if event.finished)
    assert left[8] == pytest.approx(left[1] / 8)


def test_a_finished_run_submits_nothing(study, alone, state):
    assert fw.run(study, out=alone.path, executor="slurm").path == alone.path
    assert not list(state.glob("*.sh"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"executor": "slrum"}, "unknown executor 'slrum'; did you mean 'slurm'"),
        ({"executor": "slurm-local"}, r"slurm-local is gone: jobs \(--jobs N\)"),
        ({"partition": "gpu"}, "partition is for the jobs of SLURM"),
        ({"time": "1:00:00"}, "time is for the jobs of SLURM"),
        ({"executor": "slurm", "partition": "a b"}, "partition must be a name"),
        ({"executor": "slurm", "gpus": "4"}, "a job uses one GPU.*--jobs 4"),
        ({"executor": "slurm", "gpus": "two"}, "gpus must be 0, 1 or TYPE:1"),
        ({"executor": "slurm", "time": "soon"}, "time must be minutes"),
        ({"executor": "slurm", "time": "2:00"}, "two hours are 2:00:00"),
        ({"executor": "slurm", "setup": ["a\nb"]}, "setup must be one line"),
        ({"executor": "slurm", "worker": True}, "different ways to share the work"),
        ({"executor": "slurm", "device": "cuda"}, "add --gpus 1"),
        ({"executor": "slurm", "device": "mps"}, "unknown device of a job 'mps'"),
        (
            {"executor": "slurm", "gpus": "1", "overrides": ["threads=null"]},
            "threads and training_precision: say which, such as --set threads=8 --set "
            "training_precision=bf16",
        ),
        ({"executor": "slurm", "partition": "nowhere"}, "SLURM did not take the jobs: .*nowhere"),
    ],
)
def test_what_jobs_cannot_have_is_one_sentence(options, words, study, tmp_path, state):
    with pytest.raises(InputError, match=words):
        fw.run(study, out=tmp_path / "run", **options)
    assert not RunFolder(tmp_path / "run").step_ids()
    assert not (tmp_path / "run" / "jobs.json").exists()


def test_without_slurm_or_the_extra_it_is_one_sentence(study, tmp_path, monkeypatch):
    arguments = ["run", str(study), "--out", str(tmp_path / "run"), "--executor", "slurm"]
    monkeypatch.setattr(executor_options.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"this machine has no sbatch.*--jobs N"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    monkeypatch.setattr(executor_options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'fairweather\[slurm\]'"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("5", 5), ("90:30", 91), ("1:00:00", 60), ("0:05:01", 6), ("2-0", 2880), ("1-2:3:4", 1564)],
)
def test_a_time_limit_is_read_as_sbatch_reads_it(time, minutes):
    assert parse_minutes(time) == minutes
