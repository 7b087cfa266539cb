"""Several processes work in one run folder, with the same results as one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import fairweather as fw
from fairweather.errors import InputError
from fairweather.runs import claims
from fairweather.runs.claims import share_run
from fairweather.runs.folder import RunFolder
from fairweather.steps import dispatch as steps
from fairweather.workers.schedule import make_worker_mark
from tests.conftest import TINY_RESNET
from tests.helpers.commands import fairweather
from tests.helpers.forking import Program
from tests.helpers.named_evaluation import named_evaluation
from tests.helpers.pretended_gpus import pretended_gpus, start_job
from tests.helpers.run_folders import run_record, write_run
from tests.helpers.same_bytes import same
from tests.helpers.started import started

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: 2
threads: 1
ensemble: true
variants: [temperature, batchnorm]
shifts:
  - gaussian_blur: {{sigma: [1], kernel_size: 5}}
  - fgsm: {{epsilon: 4/255}}
bootstrap: 100
defaults:
  backbone: {backbone}
  recipe: {{epochs: 1, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
"""
# A worker whose claims expire soon, and which draws nothing. {before} is run first.
WORKER = """
import sys, time
from fairweather.runs import claims
from fairweather.report import building as report
from fairweather.workers import schedule
report._draw_figures, report.render_page = lambda *_: [], lambda *_: "a page"
claims.RENEWAL, claims.EXPIRY = 0.5, 6.0
schedule.LOOK_INTERVAL = 0.05
{before}
import fairweather as fw
def tell(event):
    if event.finished:
        print(event.finished.label, flush=True)
fw.run(sys.argv[1], out=sys.argv[2], device="cpu", worker=True, progress=tell)
"""
# It says so when it begins its first training, and ends it once it may.
HELD = """
from pathlib import Path
from fairweather.steps import dispatch as steps
claims.EXPIRY = 600.0
train = steps.STEP_FUNCTIONS["train"]
def held(step, *others):
    if not Path(sys.argv[2]).with_suffix(".go").exists():
        print(step.id, flush=True)
    while not Path(sys.argv[2]).with_suffix(".go").exists():
        time.sleep(0.05)
    return train(step, *others)
steps.STEP_FUNCTIONS = {**steps.STEP_FUNCTIONS, "train": held}
"""
# It says so when it begins a step of a kind, and never ends it.
STUCK = """
from fairweather.steps import dispatch as steps
def stuck(step, *_):
    print(step.id if hasattr(step, "id") else " ".join(each.id for each in step), flush=True)
    time.sleep(3600)
steps.STEP_FUNCTIONS = {{**steps.STEP_FUNCTIONS, {kind!r}: stuck}}
if {kind!r} == "predict":
    schedule.do_predictions = stuck
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
def start(study):
    """Start workers in a folder; whatever is left of them is killed at the end."""
    running = []

    def worker(folder, before="", of=study):
        command = [sys.executable, "-c", WORKER.format(before=before), str(of), str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(Program(command, **pipes))
        return running[-1]

    yield worker
    for process in running:
        process.kill()
        process.communicate()


def unfinished(alone, folder, *ids):
    """A copy of a run without these steps."""
    copy = RunFolder(folder / "run")
    shutil.copytree(alone.path, copy.path)
    for each in ids:
        copy.forget(each)
    return copy.path


@pytest.mark.parametrize(  # what the killed one was doing
    "kind", ["predict", pytest.param("train", marks=pytest.mark.nightly)]
)
def test_three_workers_of_which_one_is_killed_do_what_one_process_does(
    kind, start, alone, tmp_path
):
    folder = tmp_path / "run"
    if kind == "predict":  # all trainings are done already
        shutil.copytree(alone.path, folder)
        for step in RunFolder(folder).steps():
            if step.kind not in ("train", "pretrain"):
                RunFolder(folder).forget(step.id)
    killed = start(folder, STUCK.format(kind=kind))
    claimed = killed.stdout.readline().split()
    assert claimed, killed.communicate()
    assert (len(claimed) > 1) == (kind == "predict")  # several networks see the same images
    others = [start(folder) for _ in range(2)]
    assert all((folder / "claims" / "steps" / f"{step}.claim").exists() for step in claimed)
    killed.send_signal(signal.SIGKILL)
    for process in others:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    same(folder, alone)
    assert (folder / "report.html").is_file()
    assert not (folder / "claims").exists()


# What a worker evaluates stands in a file.
IN_AN_EVALUATION = """
import json
import fairweather as fw
fw.run = lambda file, **given: fw.evaluate(**{**json.loads(open(file).read()), **given})
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory, colour_folder):
    """An evaluation, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("evaluation")
    given = named_evaluation(folder, colour_folder)
    (folder / "asked.json").write_text(json.dumps(given))
    return folder / "asked.json", fw.evaluate(**given, out=folder / "alone", progress=False)


def test_two_workers_divide_an_evaluation_and_one_takes_over_what_the_killed_one_did(
    start, asked, tmp_path
):
    folder, (file, alone) = tmp_path / "run", asked
    killed = start(folder, STUCK.format(kind="predict") + IN_AN_EVALUATION, file)
    step = killed.stdout.readline().strip()
    assert step.startswith("predictions/"), killed.communicate()
    other = start(folder, IN_AN_EVALUATION, file)
    assert (folder / "claims" / "steps" / f"{step}.claim").exists()
    killed.send_signal(signal.SIGKILL)
    _, errors = other.communicate(timeout=600)
    assert other.returncode == 0, errors
    same(folder, alone)
    assert (folder / "report.html").is_file()
    assert not (folder / "claims").exists()


def test_two_jobs_divide_an_evaluation(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 2)
    given = json.loads(asked[0].read_text())
    folder, said = tmp_path / "run", []
    fw.evaluate(**given, out=folder, jobs=2, progress=said.append)
    same(folder, asked[1])
    assert any(event.line.startswith("clean          accuracy") for event in said)


def test_jobs_take_the_gpus_in_turn_with_the_bytes_of_one(asked, tmp_path, monkeypatch):
    """The GPUs are pretended, and each job refuses tensors of another than its own."""
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 8)
    monkeypatch.setattr("fairweather.workers.jobs.start_module", start_job(tmp_path))
    given = json.loads(asked[0].read_text()) | {"device": "cuda", "progress": False}
    with pretended_gpus(2):
        one = fw.evaluate(**given, out=tmp_path / "one")
        two = fw.evaluate(**given, out=tmp_path / "two", jobs=2)
    same(two, one)
    assert sorted(path.name for path in tmp_path.glob("cuda:*")) == ["cuda:0", "cuda:1"]
    assert {step.machine.model for step in two.folder.steps() if step.kind == "predict"} == {
        "Pretended GPU"
    }
    scores = [(run.path / "scores.csv").read_bytes() for run in (two, asked[1])]
    assert scores[0] == scores[1]  # what is pretended computes as the CPU does


@pytest.mark.parametrize(
    ("sharing", "words"),
    [
        ({"worker": True}, "worker: other processes open"),
        ({"jobs": 2}, "jobs: other processes open"),
        ({"executor": "slurm"}, "executor: other processes open"),
    ],
)
def test_a_module_of_this_process_is_not_known_to_others(
    sharing, words, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr("fairweather.workers.options.Sharing._check_jobs", lambda self: None)
    given = json.loads(asked[0].read_text()) | {"model": torch.nn.Flatten()}
    with pytest.raises(InputError, match=words):
        fw.evaluate(**given, out=tmp_path / "run", **sharing)


def test_workers_of_an_evaluation_need_a_folder_that_all_know(asked):
    with pytest.raises(InputError, match="worker needs out"):
        fw.evaluate(**json.loads(asked[0].read_text()), worker=True)


# What each of ten workers was doing when it was killed; the next one takes its step over.
KINDS = ("pretrain", "train", "train", "predict", "predict", "predict", "fit", "sample", "score")
IDS = {"sample": "samples", "score": "scores", "report": "report"}
PRETRAINED = """
pretraining:
  views:
    title: Barlow Twins
    backbone: {backbone}
    recipe: {{method: barlow_twins, epochs: 1, batch_size: 16, projector: [8, 8]}}
"""


@pytest.mark.nightly
def test_ten_workers_are_killed_at_different_steps_and_the_bytes_are_the_same(
    start, study, tmp_path
):
    path, folder = tmp_path / "colours.yaml", tmp_path / "run"
    text = study.read_text() + PRETRAINED.format(backbone=TINY_RESNET)
    path.write_text(text.replace("{title: Basic}", "{title: Basic, weights: pretraining:views}"))
    alone = fw.run(path, out=tmp_path / "alone", device="cpu")
    for kind in (*KINDS, "report"):
        worker = start(folder, STUCK.format(kind=kind), path)
        begun = IDS.get(kind, ("pretraining/", "models/", "predictions/", "variants/"))
        assert any(line.startswith(begun) for line in worker.stdout), worker.communicate()
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    _, errors = start(folder, "", path).communicate(timeout=600)
    assert not errors
    same(folder, alone)
    assert not (folder / "claims").exists()


@pytest.mark.nightly
def test_two_workers_divide_the_steps_and_do_none_twice(start, alone, tmp_path):
    folder = tmp_path / "run"
    held = start(folder, HELD)
    assert held.stdout.readline().strip() == "models/basic/seed-0"
    other = start(folder, "claims.EXPIRY = 600.0")
    assert other.stdout.readline()  # it has done a step
    folder.with_suffix(".go").touch()
    done = [1]
    for process in (held, other):
        labels, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        done.append(len(labels.splitlines()))
    assert sum(done) == len(alone.folder.steps())
    same(folder, alone)


def test_workers_that_start_at_the_same_moment_all_join(study, tmp_path):
    script = """
import sys, threading, time
from pathlib import Path
from fairweather.runs.claims import share_run
def prepare(folder, others): prepared.append(others)
prepared = []
print(flush=True)
for line in sys.stdin:
    while time.time() < float(line.split()[0]): pass
    with share_run(Path(line.split()[1]), {"device": "cpu"}, prepare): pass
    print(len(prepared), flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [Program([sys.executable, "-c", script], **pipes) for _ in range(3)]
    try:
        assert [process.stdout.readline() for process in processes] == ["\n"] * 3
        for turn in range(1, 11):
            at = time.time() + 0.2
            for process in processes:
                process.stdin.write(f"{at} {tmp_path / str(turn)}\n")
                process.stdin.flush()
            assert [process.stdout.readline() for process in processes] == [f"{turn}\n"] * 3
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_worker_that_the_system_ends_gives_its_claims_back(study, tmp_path):
    folder = tmp_path / "run"
    stuck = f"import sys, time{STUCK.format(kind='train')}"
    command = f"{stuck}from fairweather.cli.app import main\nmain()"
    arguments = ["run", str(study), "--out", str(folder), "--device", "cpu", "--worker"]
    called = [sys.executable, "-c", command, *arguments]
    with started(called, Program, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == "models/basic/seed-0"
        assert (folder / "claims" / "steps" / "models" / "basic" / "seed-0.claim").is_file()
        process.terminate()
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 143
    assert "ended by SIGTERM; the same command continues" in errors
    assert "Traceback" not in errors
    assert not (folder / "claims").exists()


def test_a_worker_that_fails_gives_its_claims_back(study, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(
        "fairweather.steps.dispatch.STEP_FUNCTIONS", {**steps.STEP_FUNCTIONS, "train": broken}
    )
    with pytest.raises(RuntimeError, match="no such luck"):
        fw.run(study, out=tmp_path / "run", device="cpu", worker=True)
    assert not (tmp_path / "run" / "claims").exists()


def test_files_that_another_worker_replaces_are_read_later(study, alone, tmp_path, monkeypatch):
    folder, scored = unfinished(alone, tmp_path, "scores"), steps.STEP_FUNCTIONS["score"]
    missed = []

    def too_early(*arguments):
        if len(missed) < 2:
            missed.append(None)
            raise FileNotFoundError("predictions that are just being replaced")
        return scored(*arguments)

    monkeypatch.setattr(
        "fairweather.steps.dispatch.STEP_FUNCTIONS", {**steps.STEP_FUNCTIONS, "score": too_early}
    )
    fw.run(study, out=folder, device="cpu", worker=True)
    assert len(missed) == 2
    same(folder, alone)


def test_a_worker_and_another_command_do_not_meet(start, study, tmp_path):
    folder = tmp_path / "run"
    working = start(folder, STUCK.format(kind="train"))
    assert working.stdout.readline().strip() == "models/basic/seed-0"
    with pytest.raises(InputError, match="1 worker is working in"):
        fw.run(study, out=folder, device="cpu")
    with pytest.raises(InputError, match="has another study or settings than this one"):
        fw.run(study, out=folder, device="cpu", overrides=["ensemble=false"], worker=True)


def test_parts_are_gone_and_the_way_to_share_is_named(study, tmp_path):
    words = ["run", str(study), "--out", str(tmp_path / "run"), "--steps", "2/3"]
    done = fairweather(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("fairweather: --steps is now called --worker")
    assert not (tmp_path / "run").exists()


def test_a_worker_that_joins_removes_what_killed_ones_were_writing(tmp_path):
    new, old = (tmp_path / "models" / f".{digit * 16}.partial" for digit in "01")
    mark = {"device": "cpu"}
    write_run(tmp_path, run_record({"m": "M"}))
    with share_run(tmp_path, mark, lambda *_: None):
        new.parent.mkdir()
        for partial in (new, old):
            partial.touch()
        os.utime(old, (time.time() - 7200,) * 2)
        with share_run(tmp_path, mark, lambda *_: None):
            assert new.exists()  # the other worker may be writing it
            assert not old.exists()
    with share_run(tmp_path, mark, lambda *_: None):
        assert not new.exists()  # nobody is


def test_a_worker_on_another_kind_of_processor_joins_with_a_warning(study, alone, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(alone.path, folder)
    RunFolder(folder).forget("report")
    mark = make_worker_mark(fw.plan(study, out=folder, device="cpu").plan, torch.device("cpu"))
    other = json.dumps({**mark, "kind of processor": "Another, AVX512"})
    with claims.open_claims(RunFolder(folder).file, other):
        fw.run(study, out=folder, device="cpu", worker=True, progress=said.append)
    warnings = [event.line for event in said if "kind of processor" in event.line]
    assert len(warnings) == 1
    assert "(Another, AVX512) than this one" in warnings[0]


def test_a_worker_waits_for_a_step_that_another_process_has_claimed(
    study, alone, tmp_path, monkeypatch
):
    monkeypatch.setattr("fairweather.runs.claims.EXPIRY", 4.0)
    folder = unfinished(alone, tmp_path, "models/basic/seed-0")
    (folder / "claims" / "steps" / "models" / "basic").mkdir(parents=True)
    (folder / "claims" / "steps" / "models" / "basic" / "seed-0.claim").write_text("killed")
    fw.run(study, out=folder, device="cpu", worker=True)
    same(folder, alone)


def test_a_worker_stops_if_the_run_is_begun_anew_meanwhile(study, tmp_path, monkeypatch):
    folder, train = tmp_path / "run", steps.STEP_FUNCTIONS["train"]

    def train_long(*arguments):
        record = (folder / "record.json").read_text()
        (folder / "record.json").write_text(record.replace('"basic"', '"plain"'))
        return train(*arguments)

    monkeypatch.setattr(
        "fairweather.steps.dispatch.STEP_FUNCTIONS", {**steps.STEP_FUNCTIONS, "train": train_long}
    )
    with pytest.raises(InputError, match="was started again with other settings"):
        fw.run(study, out=folder, device="cpu", worker=True)
    assert RunFolder(folder).steps() == []


def test_the_ways_to_share_exclude_each_other(study, tmp_path):
    with pytest.raises(InputError, match="choose one"):
        fw.run(study, out=tmp_path / "run", jobs=2, worker=True)
    assert not (tmp_path / "run").exists()
