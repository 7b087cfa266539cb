"""A study is a plan: steps are plain data, done anywhere, in any order that fits their needs."""

import json
import random
import shutil
import subprocess
import sys

import pytest
import torch

from fairweather.progress import silent
from fairweather.requests.execution import describe_run
from fairweather.requests.inputs import make_plan
from fairweather.requests.study.run import open_study, run
from fairweather.requests.study.schema import load_study
from fairweather.runs.claims import open_run
from fairweather.runs.folder import RunFolder
from fairweather.runs.provenance import describe_machine
from fairweather.steps.ledger import Ledger, begin_run, standings
from fairweather.steps.plan import Plan, StepResult
from fairweather.types.record import RECORD, StepRecord, parse_step_record
from fairweather.workers.schedule import list_written
from tests.conftest import TINY_RESNET, figures_left_out
from tests.helpers.forking import Program
from tests.helpers.started import started

STUDY = """
name: everything
data: {{source: "folder:{folder}", size: 16}}
seeds: [0, 1]
ensemble: true
threads: 1
shifts:
  - brightness_factor: [0.3]
  - fgsm: [8/255]
variants: [temperature, batchnorm, {{conformal: {{method: aps, coverage: 0.5}}}}]
bootstrap: 100
pretraining:
  views: {{recipe: {{method: barlow_twins, epochs: 1, batch_size: 16, projector: [16, 16]}}}}
defaults:
  backbone: {backbone}
  recipe: {{epochs: 2, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
  swept:
    title: Swept
    weights: pretraining:views
    recipe: {{probe_epochs: 1, mixup: 0.3}}
    sweep: {{learning_rate: [0.01, 0.001]}}
    interpolations: [0.5]
"""
# A program that knows only the plan. It imports everything once, which takes seconds, and does each
# step in a process of its own. To end one properly, or to look in it for what is no longer used,
# touches and so copies all memory of the program, which takes longer than most steps. A page is
# drawn here and there, but no figures in files.
PROGRAM = """
import gc, json, os, sys
from pathlib import Path
from fairweather.report import building as report
from fairweather.progress import silent
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import Plan
from fairweather.steps.worker import Worker
from fairweather.steps.dispatch import perform
report._draw_figures = lambda *_: []
plan = Plan.model_validate_json(Path(sys.argv[1]).read_text())
gc.freeze()
for order in sys.stdin:
    step, folder = json.loads(order)
    if not (process := os.fork()):
        worker = Worker(plan, device="cpu")
        done = perform(plan.step(step), worker, RunFolder(Path(folder)), silent)
        print("FILES", json.dumps(done.files), flush=True)
        os._exit(0)
    assert os.waitpid(process, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def study_file(colour_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "everything.yaml"
    path.write_text(STUDY.format(folder=colour_folder, backbone=TINY_RESNET))
    return path


@pytest.fixture(scope="module")
def study(study_file, request):
    """The study with fewer models and shifts that has steps of every kind, or the whole of it."""
    few = {"overrides": ["shifts=[{fgsm: [8/255]}]"], "models": ["swept"]}
    return load_study(study_file, **getattr(request, "param", few))


def inputs_from(study):
    return open_study(study, torch.device("cpu"), offline=True, tell=silent)


@pytest.fixture(scope="module")
def planned(study):
    inputs = inputs_from(study)
    return make_plan(inputs), describe_run(inputs)


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """The run as `fairweather run` makes it."""
    torch.set_num_threads(1)
    with figures_left_out():
        return run(study, out=tmp_path_factory.mktemp("runs") / "whole", device="cpu").folder


def do_alone(elsewhere, step, run, folder):
    """Do a step in a process and a folder of its own, and copy its files back."""
    hand_over(step, run, folder)
    take_back(step, run, folder, elsewhere(step, folder))


def hand_over(step, run, folder):
    """Give a folder the files that a step reads."""
    alone = RunFolder(folder)
    shutil.copy(run.path / RECORD, _parent(folder / RECORD))
    for need in step.needs:
        record = run.step(need)
        alone.finish(record)
        for name in set(record.files) & set(step.reads):
            shutil.copy(run.path / name, _parent(folder / name))


@pytest.fixture
def elsewhere(planned, tmp_path):
    """Do a step in a folder and another process, and give the names of its files."""
    file = tmp_path / "plan.json"
    file.write_text(planned[0].model_dump_json())
    command = [sys.executable, "-c", PROGRAM, str(file)]
    with started(command, Program, stdin=subprocess.PIPE) as program:

        def do(step, folder):
            program.stdin.write(json.dumps([step.id, str(folder)]) + "\n")
            program.stdin.flush()
            for line in program.stdout:
                if line.startswith("FILES "):
                    return json.loads(line.removeprefix("FILES "))
            raise AssertionError(f"{step.id} was not done")

        yield do
        program.stdin.close()


def take_back(step, run, folder, files):
    """Copy the files of a step from its folder into the run, and note it as done."""
    files = list_written(step, StepResult(files=files), RunFolder(folder))
    for name in files:
        shutil.copy(folder / name, _parent(run.path / name))
    run.finish(
        StepRecord(
            id=step.id,
            kind=step.kind,
            fingerprint=Ledger(run).fingerprint(step),
            depends=step.depends(),
            files={name: run.checksum(name) for name in files},
            machine=describe_machine(torch.device("cpu")),
        )
    )


def _parent(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def one_of_each_kind(plan):
    """One step of each kind and way, the latest, so that its input is as complete as possible."""
    found = {}
    for step in plan.steps:
        way = getattr(getattr(step, "how", None), "way", "")
        found[step.kind, way] = step
    return list(found.values())


def without_times(files):
    """All files except the history of a training, which has its speed."""
    return {name: each for name, each in files.items() if not name.endswith("history.csv")}


@pytest.mark.parametrize("study", [{}], indirect=True, ids=["whole"])
def test_a_plan_reads_back_from_json(planned):
    plan, _ = planned
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    kinds = {step.kind for step in plan.steps}
    trained = {"pretrain", "train", "choose"}
    assert kinds == trained | {"fit", "predict", "score", "sample", "report"}


def test_a_record_holds_whatever_a_step_depends_on(study_file):
    """Also a normalisation, which a study may give; tuples are lists there, and compare equal."""
    given = ["models.basic.mean=[0.5, 0.4, 0.3]", "models.basic.std=[0.2, 0.2, 0.2]"]
    for step in make_plan(inputs_from(load_study(study_file, given))).steps:
        record = StepRecord(
            id=step.id, kind=step.kind, fingerprint="f", depends=step.depends(), files={}
        )
        assert parse_step_record(record.to_json(), "here").depends == step.depends()


def test_a_longer_sweep_leaves_finished_seeds_as_they_are(study_file):
    """Seeds depend only on the chosen recipe, not on other tries."""
    short, longer = (
        make_plan(inputs_from(load_study(study_file, [f"models.swept.sweep={rates}"])))
        for rates in ("{learning_rate: [0.01, 0.001]}", "{learning_rate: [0.01, 0.001, 0.0001]}")
    )
    trained = "models/swept/seed-1"
    assert len(longer.steps) == len(short.steps) + 1
    assert short.step(trained).depends() == longer.step(trained).depends()
    assert short.step(trained).reads == longer.step(trained).reads
    assert "models/swept/chosen.json" in longer.step(trained).reads


def test_a_report_is_made_again_when_a_step_was_done_on_another_machine(planned, finished):
    """It needs every other step, so that it can list all machines wherever it runs."""
    plan, _ = planned
    report = plan.steps[-1]
    assert set(report.needs) == {step.id for step in plan.steps[:-1]}
    ledger = Ledger(finished)
    before = ledger.fingerprint(report)
    record = finished.step(plan.steps[0].id)
    machine = record.machine.model_copy(update={"instructions": "OTHER"})
    ledger._records[record.id] = record.model_copy(update={"machine": machine})
    assert ledger.fingerprint(report) != before


@pytest.mark.parametrize("study", [{}], indirect=True, ids=["whole"])
def test_needs_are_the_steps_that_leave_what_is_read(planned):
    plan, _ = planned
    makers = {file: step.id for step in plan.steps for file in (*step.leaves, *step.may_leave)}
    seen = set()
    for step in plan.steps:
        assert set(step.needs) == {makers[file] for file in step.reads if file != RECORD}
        assert set(step.needs) <= seen
        seen.add(step.id)


def test_one_step_of_each_kind_in_another_process(planned, finished, elsewhere, tmp_path):
    plan, _ = planned
    for number, step in enumerate(one_of_each_kind(plan)):
        folder = tmp_path / str(number)
        folder.mkdir()
        hand_over(step, finished, folder)
        files = elsewhere(step, folder)
        before = finished.step(step.id)
        copy = RunFolder(tmp_path / f"run-{folder.name}")
        shutil.copytree(finished.path, copy.path)
        copy.forget(step.id)
        take_back(step, copy, folder, files)
        after = copy.step(step.id)
        assert after.fingerprint == before.fingerprint, step.id
        assert without_times(after.files) == without_times(before.files), step.id
        assert (copy.path / "scores.csv").read_bytes() == (
            finished.path / "scores.csv"
        ).read_bytes()
        shutil.rmtree(copy.path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("study", [{}], indirect=True, ids=["whole"])
@pytest.mark.parametrize("order", ["as planned", "shuffled"])
def test_every_step_in_a_process_of_its_own(order, planned, finished, elsewhere, tmp_path):
    plan, record = planned
    steps = list(plan.steps) if order == "as planned" else shuffled(plan.steps)
    with open_run(tmp_path / "run") as folder:
        begin_run(plan, folder, record, replace=False)
        for number, step in enumerate(steps):
            alone = tmp_path / str(number)
            alone.mkdir()
            do_alone(elsewhere, step, folder, alone)
            shutil.rmtree(alone)
        assert {each.state for each in standings(plan, folder)} == {"done"}
    # The page also has the start time of the run and the speed of training.
    scores = (each.path / "scores.csv" for each in (folder, finished))
    assert len({path.read_bytes() for path in scores}) == 1


def shuffled(steps):
    """Another order in which each step comes after those that it needs."""
    rng, done, waiting, found = random.Random(0), set(), list(steps), []
    while waiting:
        ready = [step for step in waiting if set(step.needs) <= done]
        step = rng.choice(ready)
        waiting.remove(step)
        done.add(step.id)
        found.append(step)
    assert [step.id for step in found] != [step.id for step in steps]
    return found
