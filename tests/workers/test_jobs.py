"""Several processes do the steps of one plan side by side, with the same results."""

import errno
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch

import fairweather as fw
from fairweather.devices import check_cores
from fairweather.errors import InputError
from fairweather.progress import silent
from fairweather.report.charts import render_figure
from fairweather.requests.study.run import plan
from fairweather.requests.study.schema import load_study
from fairweather.runs.folder import RunFolder
from fairweather.steps.dispatch import STEP_FUNCTIONS
from fairweather.steps.plan import Plan, ReportStep, StepResult
from fairweather.steps.worker import Worker
from fairweather.workers import executors, jobs
from fairweather.workers.logs import Failure
from fairweather.workers.options import Sharing
from fairweather.workers.schedule import Schedule, StepsOutcome
from fairweather.workers.work import Work, WorkerSettings
from tests.conftest import TINY_RESNET
from tests.helpers.forking import Program
from tests.helpers.killed_job import ENOUGH
from tests.helpers.quick_steps import computed_once
from tests.helpers.same_bytes import files, same
from tests.helpers.started import GONE, started

pytestmark = pytest.mark.usefixtures("undrawn", "forking")

STUDY = """
name: colours
data: {{source: "folder:{folder}", size: 16}}
seeds: 2
threads: 1
ensemble: true
variants: [temperature, batchnorm]
shifts:
  - imagenet_c/gaussian_noise: [3]
  - fgsm: {{epsilon: 4/255}}
bootstrap: 100
defaults:
  backbone: {backbone}
  recipe: {{epochs: 1, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
  mixup: {{title: MixUp, recipe: {{mixup: 0.3}}}}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory, colour_folder):
    path = tmp_path_factory.mktemp("study") / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def alone(study):
    return fw.run(study, out=study.parent / "alone", device="cpu")


def write_nothing(step, worker, folder, progress):
    for name in step.leaves:
        if not name.endswith("/"):
            folder.write(name, "")
    return StepResult()


@pytest.fixture(scope="module", autouse=True)
def _cores_and_no_pages():
    """The tests need neither a machine with several cores nor the pages of their runs.

    The same predictions are scored once.
    """
    do = {
        "score": computed_once(STEP_FUNCTIONS["score"]),
        "sample": write_nothing,
        "report": write_nothing,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairweather.devices.count_cores", lambda: 8)
        patch.setattr("fairweather.steps.dispatch.STEP_FUNCTIONS", {**STEP_FUNCTIONS, **do})
        yield


@pytest.mark.usefixtures("starting")
def test_the_results_do_not_depend_on_the_number_of_jobs(study, alone, tmp_path, monkeypatch):
    events, here = [], tmp_path / "läufe"
    here.mkdir()
    # What a user has in the folder is not imported, and names are UTF-8 whatever the locale says.
    for name in ("cv2", "queue", "torch"):
        (here / f"{name}.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    run = fw.run(study, out=here / "run", device="cpu", jobs=2, progress=events.append)
    same(run, alone)
    last = {event.task: event for event in events}
    assert all(event.done == event.total for event in last.values() if event.finished is None)
    assert last["train MixUp, seed 1"].note.startswith("validation accuracy")


@pytest.mark.parametrize(
    ("models", "processes"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.nightly)]
)
def test_the_results_do_not_depend_on_how_many_share(study, alone, tmp_path, models, processes):
    shared = {"models_in_memory": models, "shift_processes": processes}
    run = fw.run(study, out=tmp_path / "run", device="cpu", **shared)
    same(run, alone)


def test_models_with_the_same_shifted_images_are_handed_out_together(alone, tmp_path, study):
    whole = plan(study, out=alone.path, device="cpu").plan
    ids = taken(whole, alone, tmp_path / "all")
    noise = [group for group in ids if "gaussian_noise" in group[0]]
    shared = next(group for group in noise if len(group) > 1)
    # Models, seeds, and each with and without adapted batch norm; and adapted ensembles, while
    # plain ones average stored logits.
    assert len(shared) == 2 * 2 * 2 + 2
    assert sum(len(group) for group in noise if len(group) > 1) == len(shared)
    assert all(len(group) == 1 for group in ids if "fgsm" in group[0] or "models/" in group[0])
    few = taken(whole, alone, tmp_path / "few", networks=2)
    noise = [group for group in few if "gaussian_noise" in group[0] and len(group) > 1]
    assert [len(group) for group in noise] == [4, 3, 3]
    # All cells of the first two networks come before those of the others: none is loaded twice.
    first = [group for group in few if group[0].startswith("predictions/mixup/seed-0/test")]
    assert few.index(noise[0]) < few.index(first[0])
    assert sorted(chain.from_iterable(ids)) == sorted(chain.from_iterable(few))


def taken(plan, alone, folder, **settings):
    """The ids of the steps that are handed out together for a run without predictions."""
    shutil.copytree(alone.path, folder)
    run, whole = RunFolder(folder), RunFolder(alone.path)
    for step in plan.steps:
        if step.kind == "predict":
            run.forget(step.id)
    schedule, found = Schedule(plan, run, silent), []
    worker = Worker(plan, device="cpu", **settings)
    while steps := schedule.take(worker):
        found.append([step.id for step in steps])
        done = []
        for step in steps:  # done as in the whole run
            names = list(whole.step(step.id).files)
            for name in names:
                run.write(name, (alone.path / name).read_bytes())
            done.append(StepResult(files=names))
        schedule.finish(steps, StepsOutcome(done, whole.step(step.id).machine, 1.0))
    return found


def test_an_error_of_the_system_stays_one():
    with pytest.raises(OSError, match="No such file") as raised:
        Path("/no/such/läufe").stat()
    failed = Failure.from_error(raised.value)
    packed = Failure.model_validate_json(failed.model_dump_json())
    assert packed.system == (errno.ENOENT, "/no/such/läufe")


def test_an_error_of_a_job_is_that_of_the_run(study, tmp_path):
    # One network of one seed: its training keeps one job busy, and no other is started.
    one = ["seeds=[0]", "ensemble=false", "models={basic: {title: Basic}}"]
    diverging = load_study(study, [*one, "recipe.learning_rate=1e30", "recipe.optimizer=sgd"])
    with pytest.raises(InputError, match=r"the (loss|logits)"):
        fw.run(diverging, out=tmp_path / "run", device="cpu", jobs=2)


def test_a_limit_that_keeps_charts_from_being_drawn_is_told_first(tmp_path, monkeypatch):
    limits = (24 * 2**30, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    plan, told = (
        Plan(data={}, steps=(ReportStep(id="report", task="report", leaves=("tables/",)),)),
        [],
    )
    Schedule(plan, RunFolder(tmp_path), lambda event: told.append(event.line))
    assert len(told) == 1
    assert "need 72 GiB of address space, and ulimit -v allows 24" in told[0]
    with pytest.raises(InputError, match="figures cannot be drawn"):
        render_figure("x", {}, "x", [], "x")


def test_a_job_that_is_killed_is_named_and_the_run_goes_on_later(
    study, alone, tmp_path, monkeypatch
):
    start = jobs.start_module
    monkeypatch.setattr(jobs, "start_module", lambda _: start("tests.helpers.killed_job"))
    with pytest.raises(InputError, match=r"did \w.* ended with signal 9; .*continues") as raised:
        fw.run(study, out=tmp_path / "run", device="cpu", jobs=2)
    assert "did nothing" not in str(raised.value)
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "steps").rglob("*.json"))) >= ENOUGH
    assert not (tmp_path / "run" / "claims").exists()
    same(fw.run(study, out=tmp_path / "run", device="cpu"), alone)  # with another number of jobs


RUN = """
import sys
import fairweather as fw
import fairweather.devices
from fairweather.workers import jobs
fairweather.devices.count_cores = lambda: 8
start = jobs.start_module

def tell(module):
    process = start(module)
    print(process.pid, flush=True)
    return process

def told(event):
    if event.finished is not None:
        print("finished", flush=True)

jobs.start_module = tell
fw.run(sys.argv[1], out=sys.argv[2], device="cpu", jobs=2, progress=told)
"""
FORKED_RUN = f"""
from tests.helpers.forking import modules_forked
forking = modules_forked()
forking.__enter__()
{RUN}
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("how", "begin", "code"),
    [
        (signal.SIGKILL, Program, FORKED_RUN),
        pytest.param(signal.SIGKILL, subprocess.Popen, RUN, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, subprocess.Popen, RUN, marks=pytest.mark.nightly),
        pytest.param(signal.SIGINT, subprocess.Popen, RUN, marks=pytest.mark.nightly),
    ],
    ids=["killed-forked", "killed", "terminated", "interrupted"],
)
def test_no_job_outlives_the_process_that_started_it(study, alone, tmp_path, how, begin, code):
    command = [sys.executable, "-c", code, str(study), str(tmp_path / "run")]
    with started(command, begin, stderr=subprocess.DEVNULL) as process:
        told = iter(process.stdout.readline, "finished\n")
        jobs = [int(line) for line in told]
        assert len(jobs) == 2
        process.send_signal(how)
        process.wait(timeout=GONE)
    end = time.monotonic() + GONE
    while any(Path(f"/proc/{job}").exists() for job in jobs) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [job for job in jobs if Path(f"/proc/{job}").exists()]
    same(fw.run(study, out=tmp_path / "run", device="cpu"), alone)


def test_more_jobs_than_cores_are_refused_with_a_way_out(study, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 4)
    with pytest.raises(
        InputError, match=r"5 jobs of 1 threads need 5 cores.* has 4: at most 4 jobs$"
    ):
        fw.run(study, out=tmp_path / "run", device="cpu", jobs=5)
    with pytest.raises(InputError, match=r"3 jobs of 2 threads.*at most 2 jobs; with threads 1"):
        check_cores(3, 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("jobs", 0), ("shift_processes", -1), ("models_in_memory", 0)]
)
def test_impossible_numbers_are_refused(study, tmp_path, option, value):
    with pytest.raises(InputError, match=f"{option} must be at least"):
        fw.run(study, out=tmp_path / "run", device="cpu", **{option: value})


@pytest.mark.parametrize(
    ("device", "jobs", "places", "on_each"),
    [
        ("cuda", 4, [0, 1, 3, 0], 2),
        ("cuda", 3, [0, 1, 3], 1),
        ("cuda", 2, [0, 1], 1),
        ("cuda", 1, [None], 1),
        ("cuda:1", 2, [1, 1], 2),
        ("cpu", 2, [None, None], 2),
    ],
)
def test_jobs_take_gpus_of_one_model_in_turn(device, jobs, places, on_each, monkeypatch):
    models = ["A100", "A100", "T4", "A100"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(models))
    monkeypatch.setattr("torch.cuda.get_device_name", models.__getitem__)
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 16)
    asked, plan = torch.device(device), Plan(data={}, steps=())
    monkeypatch.setattr(Work, "assign", lambda self, settings: settings)
    work = Work(path=Path(), plan=plan, record=None, device=asked, offline=True, datasets={})
    found = executors.assign_jobs(work, Sharing(jobs=jobs), jobs)
    workers = 0 if device == "cpu" else 16 // jobs - 1
    assert found == [
        WorkerSettings(
            device=asked.type if place is None else f"cuda:{place}",
            offline=True,
            workers=workers,
            networks=None,
            jobs=jobs,
            jobs_on_device=on_each,
        )
        for place in places
    ]


@pytest.mark.parametrize(("device", "refused"), [("cpu", True), ("cuda", False)])
def test_a_job_beside_a_gpu_needs_one_core(device, refused, monkeypatch):
    monkeypatch.setattr("fairweather.devices.count_cores", lambda: 4)
    monkeypatch.setattr(executors, "resolve_device", torch.device)
    options = {"threads": 4, "precision": "fp32", "written": ""}
    if refused:
        with pytest.raises(InputError, match="2 jobs of 4 threads need 8 cores"):
            executors.choose_device(Sharing(jobs=2), device, **options)
    else:
        assert executors.choose_device(Sharing(jobs=4), device, **options).type == device
        with pytest.raises(InputError, match="5 jobs of 1 threads need 5 cores"):
            executors.choose_device(Sharing(jobs=5), device, **options)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"jobs": 2, "worker": True}, "worker and jobs are different ways"),
        ({"executor": "ray", "devices": 2}, "devices and executor ray are different ways"),
        ({"executor": "local", "gpus": "1"}, "gpus is for the jobs of SLURM"),
        ({"executor": "local://here"}, "unknown executor 'local://here'"),
    ],
)
def test_of_different_ways_to_share_the_work_one_is_chosen(asked, words):
    with pytest.raises(InputError, match=words):
        Sharing(**asked).check()


def test_jobs_open_models_by_name_only(toy_images):
    dataset = fw.Dataset("toys", None, None, toy_images, (0.5,) * 3, (0.2,) * 3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.raises(InputError, match="jobs: other processes open"):
        fw.evaluate(model, dataset, "gaussian_blur: [1]", device="cpu", jobs=2, threads=1)


@pytest.mark.nightly
def test_an_evaluation_does_not_depend_on_jobs_either(alone, colour_folder, tmp_path):
    model = f"run:{alone.path}/models/basic/seed-0"
    asked = (model, f"folder:{colour_folder}", ["gaussian_blur: [1, 2]", "imagenet_c/fog: [2]"])
    options = {"device": "cpu", "threads": 1, "size": 16, "bootstrap": 200}
    options["variants"] = ("batchnorm",)
    one = fw.evaluate(*asked, out=tmp_path / "one", **options)
    two = fw.evaluate(*asked, out=tmp_path / "two", jobs=2, shift_processes=1, **options)
    same(one, two)
    assert files(one)


def test_what_a_try_left_that_diverged_does_not_count_when_it_is_replaced(study, tmp_path):
    """Jobs leave files in place until a step writes them again, and this one leaves other files."""
    chosen = {}
    for number in (1, 2):
        for rates, again in (([1e30, 1e-2], False), ([1e-1, 1e-2], True)):
            sweep = f"models.basic.sweep={{learning_rate: {rates}}}"
            sets = [sweep, "seeds=[0]", "ensemble=false", "shifts=[]", "variants=[]"]
            sets.append("models.basic.recipe.optimizer=sgd")
            out = tmp_path / str(number)
            options = {"device": "cpu", "jobs": number, "replace": again}
            fw.run(study, out=out, overrides=sets, models=["basic"], **options)
        chosen[number] = (out / "models/basic/sweep.csv").read_bytes()
        assert not list(out.rglob("diverged.json"))
    assert chosen[1] == chosen[2]
