"""Studies: the content of their files, and a whole run that can be killed at any moment."""

import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather.data.pixel_scans import digest
from fairweather.errors import InputError
from fairweather.files.yamlfile import dump_yaml, parse_yaml
from fairweather.report.finished_run import Run
from fairweather.report.samples import read_samples
from fairweather.requests.inputs import make_plan
from fairweather.requests.study.packaged import packaged_studies
from fairweather.requests.study.run import make_study_inputs
from fairweather.requests.study.schema import check_study, load_study, write_study
from fairweather.runs.folder import RunFolder, write_atomically
from fairweather.steps.measurement import DataFacts
from fairweather.steps.plan import (
    DATA,
    LIBRARY_VERSIONS,
    SHIFT_VERSIONS,
    VERSIONS,
    step_fingerprint,
)
from fairweather.steps.sweeps import describe_shifts
from fairweather.types.options import Preparation
from tests.conftest import COLOURS, TINY_EFFICIENTNET, TINY_RESNET, picture, write_pictures
from tests.helpers.commands import fairweather
from tests.helpers.forking import Program
from tests.helpers.started import started

pytestmark = pytest.mark.usefixtures("undrawn")

STUDY = """
name: colours
title: Colours
data: {{source: "folder:{folder}", size: 16}}
seeds: {seeds}
shifts:
  - brightness_factor: [0.3, 2]
  - gaussian_blur: {{sigma: [1], kernel_size: 5}}
bootstrap: 100
defaults:
  backbone: {backbone}
  recipe: {{epochs: 3, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
  mixup:
    title: MixUp + Aug
    recipe: {{mixup: 0.3, horizontal_flip: 0.4, rotation: {{degrees: 20, probability: 0.4}}}}
"""


@pytest.fixture(scope="module")
def colour_folder(tmp_path_factory):
    """As few files as a study needs: trainings are stopped, changed and repeated here."""
    return write_pictures(tmp_path_factory.mktemp("few"), train=12, test=8)


@pytest.fixture
def study_file(tmp_path, colour_folder):
    def write(text=STUDY, seeds="[0]", backbone=TINY_RESNET):
        path = tmp_path / "colours.yaml"
        path.write_text(text.format(folder=colour_folder, seeds=seeds, backbone=backbone))
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E4", -25000.0),
        ("8/255", 8 / 255),
        ("0.5/2", 0.25),
        ("'8/255'", "8/255"),
        ('"1e-3"', "1e-3"),
        ("12", 12),
        (".5", 0.5),
        ("no", "no"),
        ("none", "none"),
        ("null", None),
        ("true", True),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("0x10", "0x10"),
        ("folder:a/b", "folder:a/b"),
        ("1/2/3", "1/2/3"),
    ],
)
def test_numbers_are_numbers_and_text_is_text(text, value):
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(dump_yaml([found])) == [found]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", r"'a' .*twice \(line 1"),
        ("{a: 1", r"YAML.*\(line 1"),
        ("1/0", r"1/0 .*zero \(line 1"),
        ("!!python/object/apply:os.system ['true']", r"YAML.*os\.system.*\(line 1"),
    ],
)
def test_yaml_that_is_wrong_says_where(text, words):
    with pytest.raises(InputError, match=words):
        parse_yaml(text)


def minimal(**changes):
    study = {"name": "s", "data": {"source": "mnist5k"}, "models": {"a": {"title": "A"}}}
    study["models"]["a"]["backbone"] = "timm:resnet18"
    return study | changes


BARLOW = {"recipe": {"method": "barlow_twins"}}


def model(**keys):
    return {"models": {"a": {"title": "A", "backbone": "timm:resnet18", **keys}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shfits": []}, "'shfits'.*'shifts'"),
        ({"data": {"source": "mnist5k", "sice": 3}}, "data: .*'sice'.*'size'"),
        (model(recipe={"epoch": 3}), r"models\.a\.recipe: .*'epoch'.*'epochs'"),
        (model(recipe={"learning_rate": "1e-3"}), "learning_rate: .*number.* '1e-3'"),
        (model(recipe={"epochs": 2.5}), "recipe.epochs: .*integer.* 2.5"),
        (model(recipe={"epochs": 0}), "epochs .*>= 1.* 0$"),
        (model(recipe={"optimizer": "adam"}), "'adamw' or 'sgd'.* 'adam'"),
        (model(recipe={"rotation": {"degree": 2}}), "'degree'.*'degrees'"),
        (model(weights=None), "weights: .*string.* None"),
        (model(sweep={"lr": [1]}), "sweep 'lr'.*learning_rate"),
        (model(sweep={"epochs": ["three"]}), "epochs: .*integer.* 'three'"),
        ({"models": {}}, "models: .*at least 1"),
        ({"models": {"../a": {"title": "A", "backbone": "x"}}}, r"'\.\./a' .*letters, digits"),
        ({"models": {"a": {"title": "A"}}}, r"models\.a\.backbone: .*required"),
        (
            {"models": {name: model()["models"]["a"] for name in ("a", "b", "A")}},
            "the models 'a' and 'A' differ only in upper and lower case.*macOS.*rename",
        ),
        (
            {"pretraining": {n: {**model()["models"]["a"], **BARLOW} for n in ("x1", "X1")}},
            "the pre-trainings 'x1' and 'X1' differ only in upper",
        ),
        ({"models": {"a": 3}}, r"models\.a: "),
        ({"seeds": [0, 0]}, r"seeds .*different.* \[0, 0\]"),
        ({"seeds": [-1]}, r"seeds .*>= 0.* \[-1\]"),
        ({"seeds": 0}, r"seeds: .*1 to 100 \(3 means \[0, 1, 2\]\), or a list.* 0$"),
        ({"seeds": 1598}, "seeds: .*1 to 100 .* 1598$"),
        ({"seeds": True}, "seeds: .*1 to 100 .* True$"),
        ({"seeds": []}, r"seeds: must be the number of seeds.*, or a list such as.* found \[\]$"),
        (
            {"seeds": [0, 1.5]},
            r"seeds: must be .*, or a list such as.* found \[0, 1.5\]$",
        ),
        ({"shifts": [{"gausian_blur": [1]}]}, "'gausian_blur'.*'gaussian_blur'"),
        ({"shifts": [{"gaussian_blur": [1], "x": 2}]}, "NAME: LEVELS"),
        ({"shifts": [{"suite": "paper"}]}, "'paper'.*'paper_pets'"),
        (
            {"shifts": [{"gaussian_blur": [1]}, {"gaussian_blur": [1]}]},
            "gaussian_blur .* 1 .*twice",
        ),
        (
            {"shifts": [{"gaussian_blur": [1]}, {"gaussian_blur": {"sigma": 2, "kernel_size": 5}}]},
            "gaussian_blur .*twice with different parameters",
        ),
        (
            {"shifts": [{"gaussian_blur": [2]}, {"gaussian_blur": [2.0]}]},
            "gaussian_blur at 2 .*twice",
        ),
        ({"bootstrap": 10}, "bootstrap must .* 100, .* 10$"),
        ({"threads": 0}, "threads must .* 1, .* 0$"),
    ],
)
def test_a_study_that_is_wrong_gets_one_clear_sentence(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        check_study(minimal(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "seeds"),
    [({}, [0, 1, 2]), ({"seeds": 3}, [0, 1, 2]), ({"seeds": 1}, [0]), ({"seeds": [4, 1]}, [4, 1])],
)
def test_seeds_are_a_list_or_how_many(written, seeds):
    study = check_study(minimal(**written))
    assert study.seeds == parse_yaml(write_study(study))["seeds"] == seeds


def test_a_shift_may_be_swept_in_two_places():
    shifts = [{"gaussian_blur": [2]}, {"brightness_factor": [0.5]}, {"gaussian_blur": [1]}]
    described = describe_shifts(check_study(minimal(shifts=shifts)).all_shifts())
    levels = [[cell.level for cell in sweep.cells] for sweep in described]
    assert levels == [[2.0, 1.0], [0.5]]


def test_defaults_lie_under_every_model_and_overrides_over_it(study_file):
    path = study_file()
    study = load_study(path)
    assert study.models["mixup"].recipe.mixup == 0.3
    assert study.models["mixup"].recipe.learning_rate == 0.01
    assert study.models["basic"].recipe.mixup == 0
    changed = load_study(
        path,
        ["recipe.epochs=7", "models.basic.recipe.mixup=1/4", "data.size=8", "seeds=[3, 4]"],
        models=["basic"],
    )
    assert list(changed.models) == ["basic"]
    assert changed.models["basic"].recipe.epochs == 7
    assert changed.models["basic"].recipe.mixup == 0.25
    assert (changed.data.size, changed.seeds) == (8, [3, 4])
    assert [shift.id for shift in study.all_shifts()] == [
        "clean",
        "brightness_factor,factor=0.3",
        "brightness_factor,factor=2",
        "gaussian_blur,sigma=1,kernel_size=5",
    ]


def test_a_resolved_study_reads_back_as_itself(study_file):
    study = load_study(study_file())
    assert check_study(parse_yaml(write_study(study))) == study


@pytest.mark.parametrize("name", packaged_studies())
def test_packaged_studies_are_valid_and_say_what_to_expect(name):
    study = load_study(name)
    assert study.name == name
    header = packaged_studies()[name].partition("name:")[0]
    assert all(word in header for word in ("command", "time", "hardware", "expect"))


def contents(folder, *patterns):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


RESULTS = ("scores.csv", "models/*/*/model.safetensors", "predictions/**/*.parquet", "tables/*")


class StoppedError(Exception):
    """Simulates a signal, a full disk or a power failure."""


@contextmanager
def watched_writes(stop_at=None):
    """Name the files of a run folder as they are written, without the one to stop at."""
    written = []

    def write(run, name, content):
        written.append(name)
        if stop_at == name:
            raise StoppedError
        write_atomically(run.path / name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write", write)
        yield written


class Whole(NamedTuple):
    """An uninterrupted run, its events, and its files in the order of writing."""

    run: Run
    events: list
    writes: list


@pytest.fixture(scope="module")
def whole(tmp_path_factory, colour_folder):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder, seeds="[0]", backbone=TINY_RESNET))
    events = []
    with watched_writes() as writes:
        run = fw.run(path, out=folder / "run", device="cpu", progress=events.append)
    return Whole(run, events, writes)


def test_a_run_makes_the_folder_of_the_contract(whole):
    run = whole.run
    names = {
        path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()
    }
    expected = {"study.yaml", "record.json", "scores.csv", "summary.csv", "warnings.json"}
    expected |= {"report.html", "samples/index.json", "samples/pictures.parquet"}
    for model_name in ("basic", "mixup"):
        folder = f"models/{model_name}/seed-0"
        expected |= {
            f"{folder}/{name}" for name in ("model.safetensors", "model.json", "history.csv")
        }
        shifts = ("clean", "brightness_factor,factor=2", "gaussian_blur,sigma=1,kernel_size=5")
        for place in ("val/clean", *(f"test/{shift}" for shift in shifts)):
            expected.add(f"predictions/{model_name}/seed-0/{place}.parquet")
    assert expected <= names
    assert not [name for name in names if "resume" in name or "partial" in name]
    assert {f"steps/models/{name}/seed-0.json" for name in ("basic", "mixup")} <= names
    # Every file was written by a step or describes the run.
    left = {name for step in run.folder.steps() for name in step.files}
    described = {"study.yaml", "record.json", ".lock", "images/test.csv", "images/val.csv"}
    assert {name for name in names if not name.startswith("steps/")} == left | described
    assert run.scores.loc[run.scores.level == "mean", "shift"].nunique() == 3


def test_progress_counts_up_to_its_total(whole):
    last = {event.task: event for event in whole.events}
    assert all(event.done == event.total for event in last.values())
    assert any(task.startswith("train MixUp") for task in last)


def test_a_finished_run_does_nothing_again(whole, study_file):
    run = whole.run
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}
    events = []
    with watched_writes() as writes:
        fw.run(study_file(), out=run.path, device="cpu", progress=events.append)
    assert writes == ["study.yaml"]
    del before[run.path / "study.yaml"]
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert {event.note for event in events if event.task != "load data"} == {"done before"}


def trained(whole, path):
    """Make the folder as it is once its models are trained."""
    for place in ("models", "steps/models"):
        shutil.copytree(whole.run.path / place, path / place)
    for name in ("record.json", "study.yaml"):
        shutil.copy(whole.run.path / name, path)


def stopped(study, out, progress=None):
    with pytest.raises(StoppedError):
        fw.run(study, out=out, device="cpu", progress=progress)


def stop_at(task, done):
    def progress(event):
        if (event.task, event.done) == (task, done):
            raise StoppedError

    return progress


EVENTS = [
    pytest.param("train Basic", 0, marks=pytest.mark.nightly),
    ("train Basic", 2),
    ("predict Basic", 4),
    pytest.param("train MixUp + Aug", 1, marks=pytest.mark.nightly),
    pytest.param("samples", 1, marks=pytest.mark.nightly),
    ("score", 4),
    pytest.param("score", 8, marks=pytest.mark.nightly),
    ("report", 1),
]


@pytest.mark.parametrize(("task", "done"), EVENTS)
def test_a_run_stopped_anywhere_ends_the_same(whole, study_file, tmp_path, task, done):
    study, out = load_study(study_file()), tmp_path / "run"
    if not task.startswith("train"):
        trained(whole, out)
    stopped(study, out, stop_at(task, done))
    fw.run(study, out=out, device="cpu")
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def check_stopped_at_write(whole, study, out, write):
    with watched_writes(write) as writes:
        stopped(study, out)
    assert len(writes) < len(whole.writes)
    fw.run(study, out=out, device="cpu")
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


@pytest.mark.parametrize(
    "name",
    [
        "record.json",
        "models/basic/seed-0/resume/state.pt",
        pytest.param("models/basic/seed-0/model.json", marks=pytest.mark.nightly),
        pytest.param("steps/models/basic/seed-0.json", marks=pytest.mark.nightly),
        "steps/predictions/mixup/seed-0/val/clean.json",
        pytest.param("samples/index.json", marks=pytest.mark.nightly),
        pytest.param("warnings.json", marks=pytest.mark.nightly),
        pytest.param("steps/scores.json", marks=pytest.mark.nightly),
        "summary.csv",
    ],
)
def test_a_run_stopped_between_a_file_and_its_record_ends_the_same(
    whole, study_file, tmp_path, name
):
    out = tmp_path / "run"
    if not name.startswith(("record", "models", "steps/models")):
        trained(whole, out)
    check_stopped_at_write(whole, load_study(study_file()), out, name)


def copy_of(whole, path):
    shutil.copytree(whole.run.path, path)
    return path


CLEAN = "predictions/basic/seed-0/test/clean"


DAMAGED = [
    ("models/basic/seed-0/model.safetensors", ["models/basic/seed-0"]),
    ("steps/models/basic/seed-0.json", ["models/basic/seed-0"]),
    ("samples/index.json", ["samples", "report"]),
    (f"{CLEAN}.parquet", [CLEAN]),
    (f"steps/{CLEAN}.json", [CLEAN]),
    ("scores.csv", ["scores", "report"]),
    ("report.html", ["report"]),
    ("steps/report.json", ["report"]),
]


# By day, each file in one of the two ways, and files and records in both.
@pytest.mark.parametrize(
    ("damaged", "again", "how"),
    [
        pytest.param(
            *each, how, marks=[] if how == ("cut", "gone")[at % 2] else pytest.mark.nightly
        )
        for at, each in enumerate(DAMAGED)
        for how in ("cut", "gone")
    ],
)
def test_a_step_whose_file_or_record_is_damaged_is_done_again(
    whole, study_file, tmp_path, damaged, again, how
):
    out = copy_of(whole, tmp_path / "run")
    if how == "gone":
        (out / damaged).unlink()
    else:
        content = (out / damaged).read_bytes()
        (out / damaged).write_bytes(content[: len(content) // 2])
    with watched_writes() as writes:
        fw.run(study_file(), out=out, device="cpu")
    redone = [name.removeprefix("steps/") for name in writes if name.startswith("steps/")]
    # Scores and report were removed first; steps that read the same bytes stay done.
    expected = again if again[-1] == "report" else [*again, "samples", "scores", "report"]
    assert redone == [f"{step}.json" for step in expected]
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def test_numbers_are_gone_while_predictions_change(whole, study_file, tmp_path):
    out = copy_of(whole, tmp_path / "run")
    (out / f"{CLEAN}.parquet").unlink()
    with watched_writes(f"{CLEAN}.parquet"):
        stopped(study_file(), out)
    for name in ("scores.csv", "warnings.json", "summary.csv", "report.html", "samples/index.json"):
        assert not (out / name).exists(), name
    assert not list(out.glob("tables/*"))


def test_numbers_are_gone_while_what_the_run_is_changes(whole, study_file, tmp_path):
    out = copy_of(whole, tmp_path / "run")
    more = load_study(study_file(), ["title=Other colours"])
    with watched_writes("record.json"):
        stopped(more, out)
    assert not (out / "scores.csv").exists()
    with watched_writes() as writes:
        run = fw.run(more, out=out, device="cpu")
    assert run.record.title == "Other colours"
    redone = [name for name in writes if name.startswith("steps/")]
    assert redone == [f"steps/{step}.json" for step in ("samples", "scores", "report")]


# It says so when it has stored what the first training continues from, and then does nothing.
STUCK = """
import time
from fairweather.__main__ import main
from fairweather.steps import training
write = training.Resumption.write
def told(*given):
    write(*given)
    print("stored", flush=True)
    time.sleep(3600)
training.Resumption.write = told
main()
"""


def test_a_killed_process_is_taken_up_by_the_same_command(whole, study_file, tmp_path):
    out = tmp_path / "run"
    command = ["run", str(study_file()), "--out", str(out), "--device", "cpu"]
    program = [sys.executable, "-c", STUCK, *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with started(program, Program, env=environment) as killed:
        assert killed.stdout.readline() == "stored\n"
        killed.send_signal(signal.SIGKILL)
    assert (out / "models/basic/seed-0/resume/state.pt").exists()
    assert not (out / "scores.csv").exists()
    done = fairweather(*command)
    assert done.returncode == 0, done.stderr
    *said, end = done.stderr.splitlines()  # only finished steps, to the end
    assert all(line.startswith("done  ") for line in said)
    assert said[-1].startswith("done  report")
    assert end.startswith(f"next    open {out}/report.html, or: fairweather check {out} ")
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def test_a_changed_recipe_trains_again_and_an_unchanged_model_does_not(whole, study_file, tmp_path):
    out = copy_of(whole, tmp_path / "run")
    changed = load_study(study_file(), ["models.mixup.recipe.mixup=0.5"])
    before = contents(out, "**/*")
    words = r"run .*models/mixup/seed-0 \(recipe\.mixup: 0\.3, now 0\.5\).* 5 .*--replace.*--out"
    with pytest.raises(InputError, match=words):
        fw.run(changed, out=out, device="cpu")
    assert contents(out, "**/*") == before
    with watched_writes() as writes:
        fw.run(changed, out=out, device="cpu", replace=True)
    assert "models/mixup/seed-0/model.safetensors" in writes
    assert not [name for name in writes if "basic" in name]
    for name in ("models/basic/seed-0/model.safetensors", f"{CLEAN}.parquet"):
        assert (out / name).read_bytes() == before[name]
    name = "models/mixup/seed-0/model.safetensors"
    assert (out / name).read_bytes() != before[name]


@pytest.mark.parametrize(
    ("overrides", "only", "words"),
    [
        (["threads=2"], (), r": models/basic/seed-0 \(threads: 1, now 2\).*--replace.*--out"),
        (["recipe.epochs=4"], (), r"models/basic/seed-0 \(recipe\.epochs: 3, now 4\)"),
        (["data.seed=1"], (), r"models/basic/seed-0 \(train: \w{12}\.\.\., now \w{12}\.\.\.\)"),
        (["models.basic.norm=group"], (), r"models/basic/seed-0 \(spec\.norm: None, now group\)"),
        (["batch_size=7"], (), r": predictions/basic/seed-0/val/clean \(batch_s"),
        (
            ["shifts=[{brightness_factor: [0.3]}]"],
            (),
            r"run .*: shift brightness_factor,factor=2, shift "
            r"gaussian_blur,sigma=1,kernel_size=5; .*--replace.*--out",
        ),
        ([], ("mixup",), ": model basic; .*--replace"),
        (["seeds=[1]"], (), ": seed 0 of basic, seed 0 of mixup; .*--replace"),
    ],
)
def test_what_would_be_replaced_or_dropped_is_named_and_nothing_is_touched(
    whole, study_file, overrides, only, words
):
    before = contents(whole.run.path, "**/*")
    study = load_study(study_file(), overrides, only)
    with pytest.raises(InputError, match=words) as caught:
        fw.run(study, out=whole.run.path, device="cpu")
    assert "\n" not in str(caught.value)
    assert contents(whole.run.path, "**/*") == before


def test_what_is_dropped_with_a_word_is_out_of_the_scores(whole, study_file, tmp_path):
    out = copy_of(whole, tmp_path / "run")
    fewer = load_study(study_file(), ["shifts=[{brightness_factor: [0.3]}]"], ["mixup"])
    with watched_writes() as writes:
        run = fw.run(fewer, out=out, device="cpu", replace=True)
    assert set(run.scores["model"]) == {"mixup"}
    assert set(run.scores["shift"]) == {"clean", "brightness_factor", "all"}
    redone = [name for name in writes if name.startswith("steps/")]
    assert redone == [f"steps/{step}.json" for step in ("samples", "scores", "report")]
    # Predictions stay on the disk, and asking for them again predicts nothing again.
    with watched_writes() as writes:
        fw.run(study_file(), out=out, device="cpu")
    assert not [name for name in writes if name.startswith(("models", "predictions"))]
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def test_more_shifts_and_models_need_no_word(whole, study_file, tmp_path):
    fewer = load_study(study_file(), ["shifts=[{brightness_factor: [0.3]}]"], ["basic"])
    out = tmp_path / "run"
    fw.run(fewer, out=out, device="cpu")
    with watched_writes() as writes:
        fw.run(study_file(), out=out, device="cpu")
    assert not [name for name in writes if name.startswith("models/basic")]
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def test_an_unfinished_run_may_be_changed_where_nothing_is_finished(study_file, tmp_path):
    stopped(study_file(), tmp_path / "run", stop_at("train Basic", 1))
    changed = load_study(study_file(), ["recipe.epochs=1"])
    run = fw.run(changed, out=tmp_path / "run", device="cpu")
    assert run.record.models["basic"].settings["recipe"]["epochs"] == 1


def test_seeds_are_trained_and_averaged(study_file, tmp_path):
    path = study_file(seeds="[0, 1]")
    overrides = ["shifts=[]", "recipe.epochs=1"]
    run = fw.run(path, out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"])
    clean = run.scores.query("shift == 'clean' and metric == 'accuracy' and model == 'basic'")
    value = clean.set_index("seed").value
    assert value["mean"] == pytest.approx((value["0"] + value["1"]) / 2)


def test_a_sweep_keeps_every_try_and_trains_the_chosen_one(study_file, tmp_path):
    overrides = ["models.basic.sweep={learning_rate: [1e-5, 1e-2], schedule: [none, cosine]}"]
    overrides += ["models.basic.sweep_metric=nll", "recipe.epochs=2", "shifts=[]"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    table = pd.read_csv(run.path / "models/basic/sweep.csv")
    assert list(table.columns) == [
        "try",
        "learning_rate",
        "schedule",
        "epoch",
        "val_accuracy",
        "val_loss",
        "chosen",
    ]
    assert len(table) == 4
    assert table.chosen.sum() == 1
    best = table.loc[table.chosen].iloc[0]
    assert best.val_loss == table.val_loss.min()
    assert best.learning_rate == 0.01
    used = json.loads((run.path / "models/basic/seed-0/model.json").read_text())
    assert used["recipe"]["learning_rate"] == best.learning_rate
    assert used["recipe"]["schedule"] == best.schedule
    tried = run.path / f"models/basic/sweep/try-{best['try']}/model.safetensors"
    final = run.path / "models/basic/seed-0/model.safetensors"
    assert final.read_bytes() == tried.read_bytes()


def test_a_try_that_diverges_is_kept_and_never_chosen(study_file, tmp_path):
    overrides = ["models.basic.sweep={learning_rate: [1e30, 1e-2]}", "recipe.epochs=1"]
    overrides += ["recipe.optimizer=sgd", "shifts=[]"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    table = pd.read_csv(run.path / "models/basic/sweep.csv")
    assert table.chosen.tolist() == [False, True]
    assert "learning rate" in table.diverged[0]
    with pytest.raises(InputError, match=r"Basic .*learning rate"):
        fw.run(
            study_file(),
            out=tmp_path / "other",
            overrides=["models.basic.sweep={learning_rate: [1e30]}", "recipe.optimizer=sgd"],
            models=["basic"],
        )


def test_a_backbone_at_rate_zero_stays(study_file, tmp_path):
    overrides = [
        "recipe.backbone_learning_rate_scale=0",
        "recipe.weight_decay=0",
        "recipe.epochs=1",
        "shifts=[]",
    ]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    trained = fw.load_model(f"run:{run.path}/models/basic/seed-0").network
    fresh = fw.load_model(TINY_RESNET, classes=3, seed=0, weights="none").network
    assert torch.equal(trained.conv1[0].weight, fresh.conv1[0].weight)
    assert not torch.equal(trained.fc.weight, fresh.fc.weight)


def test_the_folder_of_another_study_is_left_alone(whole, study_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole.run.path, out)
    before = contents(out, "*.csv", "*.yaml", "*.json")
    with pytest.raises(InputError, match=r"run .*'colours'.*'other'.*--out"):
        fw.run(study_file(), out=out, device="cpu", overrides=["name=other"])
    assert contents(out, "*.csv", "*.yaml", "*.json") == before


@pytest.mark.parametrize("name", ["off", "no", "NA", "null", "1e3", "2026-01-01"])
def test_names_that_yaml_might_misread_are_names(study_file, tmp_path, name):
    text = STUDY.replace("  basic: {{title: Basic}}", f"  '{name}': {{{{title: '{name}'}}}}")
    run = fw.run(
        study_file(text),
        out=tmp_path / "run",
        device="cpu",
        overrides=["recipe.epochs=1", "shifts=[]"],
        models=[name],
    )
    assert set(run.scores.model) == {name}
    assert f"| {name} |" in (run.path / "tables/summary_accuracy.md").read_text()


def planned(name="models/a/seed-0", files=None, digests=None, device="cpu", **changes):
    """The fingerprint of a step of a small study."""
    network = {"backbone": TINY_RESNET, "title": "A"} | changes.pop("entry", {})
    study = check_study(minimal(**({"models": {"a": network}} | changes)))
    digests = {"train": "t", "val": "v", "test": "t"} | (digests or {})
    facts = DataFacts("mnist5k", ("a", "b", "c"), dict.fromkeys(digests, 30), digests)
    sources = dict.fromkeys([DATA, *(f"pretraining:{each}" for each in study.pretraining)], facts)
    step = make_plan(make_study_inputs(study, sources, torch.device(device))).step(name)
    checksums = dict.fromkeys(step.reads, "0" * 64) | (files or {})
    return step_fingerprint(step, checksums)


WRONG_LABELS = {"entry": {"label_noise": 0.1}}
START = {
    "pretraining": {"p": {"title": "P", "backbone": TINY_RESNET, "recipe": {"method": "simclr"}}},
    "entry": {"weights": "pretraining:p"},
}


@pytest.mark.parametrize(
    ("change", "base"),
    [
        ({"digests": {"train": "x"}}, {}),
        ({"digests": {"val": "x"}}, {}),
        ({"training_precision": "bf16"}, {}),
        ({"seeds": [1], "name": "models/a/seed-1"}, {}),
        ({"entry": {"recipe": {"momentum": 0.5}}}, {}),
        ({"entry": {"weights": "imagenet"}}, {}),
        ({"entry": {"norm": "group"}}, {}),
        ({"entry": {"train_shifts": [{"gamma": [2]}]}}, {}),
        ({"entry": {"label_fraction": 0.5}}, {}),
        ({"entry": {"label_noise": 0.2}}, WRONG_LABELS),
        ({"data": {"source": "mnist5k", "seed": 1}}, WRONG_LABELS),
        ({"threads": 2}, {"threads": 1}),
        ({"device": "mps"}, {}),
        ({"files": {"pretraining/p/seed-0/model.safetensors": "1" * 64}}, START),
    ],
    ids=str,
)
def test_every_input_of_a_training_is_in_its_fingerprint(change, base):
    if "entry" in change and "entry" in base:
        change = change | {"entry": base["entry"] | change["entry"]}
    assert planned(**(base | change)) != planned(**base)


@pytest.mark.parametrize(
    "change",
    [
        {"digests": {"test": "x"}},
        {"entry": {"title": "Another"}},
        {"shifts": [{"gamma": [2]}]},
        {"shift_seed": 1},
        {"batch_size": 8},
        {"bootstrap": 200},
        {"variants": ["temperature"]},
        {"seeds": [0, 1], "ensemble": True},
        {"data": {"source": "mnist5k", "seed": 1}},
        {"models": {"b": {"title": "B", "backbone": TINY_RESNET}}, "name": "models/b/seed-0"},
        {"threads": torch.get_num_threads()},
        {"operating_points": {"a": 0.3}},
        {"costs": {"missed a": 20}},
        {"ordered_classes": True},
    ],
    ids=str,
)
def test_what_a_training_does_not_depend_on_is_not_in_its_fingerprint(change):
    assert planned(**change) == planned()


def scores_of(**changes):
    """The plan of the scores of a small study with the classes a, b and c."""
    study = check_study(minimal(**changes))
    facts = DataFacts("mnist5k", ("a", "b", "c"), {"train": 30, "val": 30, "test": 30})
    return make_plan(make_study_inputs(study, {DATA: facts}, torch.device("cpu"))).step("scores")


def test_scores_know_what_errors_cost():
    plain, step = scores_of(), scores_of(costs={"missed b": 20, "review": 3})
    assert (plain.costs, step.inputs() != plain.inputs()) == ({}, True)
    assert step.costs == {"a": (0, 1, 1, 3), "b": (20, 0, 20, 3), "c": (1, 1, 0, 3)}
    with pytest.raises(InputError, match="unknown class of a cost 'd'"):
        scores_of(costs={"missed d": 20})


def test_scores_know_the_operating_points_and_the_order_of_the_classes():
    plain = scores_of()
    assert (plain.operating_points, plain.ordered) == ({}, False)
    for changes in ({"operating_points": {"a": 0.3}}, {"ordered_classes": True}):
        step = scores_of(**changes)
        assert step.inputs() != plain.inputs()
        assert step.operating_points == changes.get("operating_points", {})
        assert step.ordered == changes.get("ordered_classes", False)


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("sensitivity=0.90", dict.fromkeys("abc", "sensitivity=0.9")),
        (0.3, dict.fromkeys("abc", 0.3)),
        ([0.3, "specificity=0.9"], dict.fromkeys("abc", (0.3, "specificity=0.9"))),
        ({"b": [0.3, "sensitivity=0.9"], "a": 0.5}, {"a": 0.5, "b": (0.3, "sensitivity=0.9")}),
    ],
)
def test_a_study_has_points_for_all_classes_or_for_some(written, stored):
    assert scores_of(operating_points=written).operating_points == stored
    study = check_study(minimal(operating_points=written))
    again = check_study(parse_yaml(write_study(study)))
    assert again.operating_points == study.operating_points


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({"d": 0.3}, "unknown class of an operating point 'd'"),
        ({"a": 1}, "of 'a' is a probability between 0 and 1, or a target .*, found 1"),
        ({"a": "high"}, "an operating point of 'a' is .*, found high"),
        ({"a": [0.3, 2]}, "found 2"),
        (
            "sensitivity=1.5",
            "an operating point is a threshold or a target, .* found 'sensitivity=1.5'",
        ),
        ({"sensitivity": 0.95}, "write the target as a text, sensitivity=0.95"),
        ({"recall": 0.9}, "a target is a sensitivity or a specificity, .*, found 'recall'"),
        ({"a": [[0.3]]}, "operating_points"),
    ],
)
def test_an_operating_point_that_cannot_be_is_refused(points, words):
    with pytest.raises(InputError, match=words):
        scores_of(operating_points=points)


def test_threads_that_nobody_chose_are_those_of_torch(monkeypatch):
    before = planned()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert planned() == planned(threads=7) != before


CELL = "predictions/a/seed-0/test/gaussian_blur,sigma=1"


@pytest.mark.parametrize(
    "change",
    [
        {"digests": {"test": "x"}},
        {"shift_seed": 1},
        {"batch_size": 8},
        {"threads": 2},
        {"device": "mps"},
        {"name": "predictions/a/seed-0/test/gaussian_blur,sigma=2"},
        {"name": "predictions/a/seed-0/val/clean"},
        {"files": {"models/a/seed-0/model.safetensors": "1" * 64}},
    ],
    ids=str,
)
def test_every_input_of_a_prediction_is_in_its_fingerprint(change):
    base = {"name": CELL, "shifts": [{"gaussian_blur": [1, 2]}]}
    assert planned(**(base | change)) != planned(**base)


@pytest.mark.parametrize(
    "change",
    [
        {"digests": {"train": "x", "val": "x"}},
        {"bootstrap": 200},
        {"entry": {"title": "Another"}},
        {"shifts": [{"gaussian_blur": [1]}, {"gamma": [2]}]},
        {"variants": ["batchnorm"]},
    ],
    ids=str,
)
def test_what_a_prediction_does_not_depend_on_is_not_in_its_fingerprint(change):
    base = {"name": CELL, "shifts": [{"gaussian_blur": [1, 2]}]}
    assert planned(**(base | change)) == planned(**base)


def test_other_libraries_make_other_shifted_images_and_no_other_clean_ones(monkeypatch):
    shifts = {"shifts": [{"gaussian_blur": [1]}]}
    clean = "predictions/a/seed-0/test/clean"
    before = planned(CELL, **shifts), planned(clean, **shifts)
    monkeypatch.setitem(LIBRARY_VERSIONS, "opencv", "another")
    assert planned(CELL, **shifts) != before[0]
    assert planned(clean, **shifts) == before[1]


def test_the_version_of_a_shift_is_in_the_fingerprints_of_its_images_only(monkeypatch):
    shifts = {"shifts": [{"gaussian_blur": [1]}]}
    names = CELL, "samples", "predictions/a/seed-0/test/clean"
    before = [planned(name, **shifts) for name in names]
    monkeypatch.setitem(SHIFT_VERSIONS, "gamma", 2)
    assert [planned(name, **shifts) for name in names] == before
    monkeypatch.setitem(SHIFT_VERSIONS, "gaussian_blur", 2)
    after = [planned(name, **shifts) for name in names]
    assert [new == old for new, old in zip(after, before, strict=True)] == [False, False, True]


@pytest.mark.parametrize("name", ["models/a/seed-0", CELL, "scores", "samples", "report"])
def test_the_version_of_its_code_is_in_every_fingerprint(monkeypatch, name):
    shifts = {"shifts": [{"gaussian_blur": [1]}]}
    before = planned(name, **shifts)
    for kind in VERSIONS:
        monkeypatch.setitem(VERSIONS, kind, 99)
    assert planned(name, **shifts) != before


@pytest.mark.parametrize(
    "change",
    [
        {"bootstrap": 200},
        {"entry": {"title": "Another"}},
        {"files": {f"{CELL}.parquet": "1" * 64}},
        {"shifts": [{"gaussian_blur": [1]}]},
        {"variants": ["temperature"]},
        {"seeds": [0, 1]},
    ],
    ids=str,
)
def test_every_input_of_the_scores_is_in_their_fingerprint(change):
    base = {"name": "scores", "shifts": [{"gaussian_blur": [1, 2]}]}
    assert planned(**(base | change)) != planned(**base)


def test_pretrained_rows_are_normalised_by_their_weights(study_file, tmp_path):
    overrides = ["models.mixup.backbone=timm:tf_efficientnet_lite0", "models.mixup.weights=lite0"]
    overrides += ["recipe.epochs=1", "models.mixup.recipe.freeze_batchnorm=true", "shifts=[]"]
    run = fw.run(
        study_file(backbone=TINY_EFFICIENTNET),
        out=tmp_path / "run",
        device="cpu",
        overrides=overrides,
    )
    scratch, tuned = (
        fw.load_model(f"run:{run.path}/models/{name}/seed-0") for name in ("basic", "mixup")
    )
    dataset = fw.load_data(load_study(study_file()).data.source, size=16)
    assert scratch.mean.flatten().tolist() == pytest.approx(dataset.mean)
    assert tuned.mean.flatten().tolist() == [0.5] * 3
    fresh = fw.load_model("timm:tf_efficientnet_lite0", classes=3, weights="lite0")
    assert torch.equal(tuned.network.bn1.running_mean, fresh.network.bn1.running_mean)


@pytest.mark.parametrize("size", [(18, 24), pytest.param((24, 18), marks=pytest.mark.nightly)])
def test_rectangles_go_all_the_way(study_file, tmp_path, size, draw):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "rectangles" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture(colour, rng, 24).resize(size).save(folder / f"{number}.png")
    overrides = [f"data={{source: 'folder:{tmp_path / 'rectangles'}'}}", "recipe.epochs=1"]
    overrides += ["shifts=[{brightness_factor: [0.3]}]"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    draw(run)
    assert (run.path / "figures/shifts.png").exists()
    assert [each.size for each in read_samples(run.folder).strips["clean"]] == 3 * [size]


def test_squashed_images_are_whole_and_the_run_s_model_sees_them_so_again(study_file, tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "rectangles" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture(colour, rng, 24).resize((24, 12)).save(folder / f"{number}.png")
    source = f"folder:{tmp_path / 'rectangles'}"
    overrides = [f"data={{source: '{source}', size: 16, fit: squash}}", "recipe.epochs=1"]
    overrides += ["shifts=[]"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    expected = fw.load_data(source, preparation=Preparation(16, fit="squash"))
    assert run.record.data.digests["test"] == digest(expected.test)
    assert run.record.data.digests["test"] != digest(fw.load_data(source, size=16).test)
    again = fw.evaluate(
        f"run:{run.path}/models/basic/seed-0", source, "clean", bootstrap=100, device="cpu"
    )
    assert again.record.data.digests["test"] == run.record.data.digests["test"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.size=null", "data.fit=squash"], "fit: squash needs data.size"),
        (["models.mixup.weights=nowhere.pth"], "models.mixup: weights: .*nowhere.pth"),
        (["models.mixup.backbone=timm:resnet_8"], "models.mixup: .*timm .*resnet_8"),
        (["models.mixup.backbone=torchvision:vit_b_32"], "vit_b_32 .*16x16 .*input_size"),
        (["models.mixup.backbone=timm:test_vit", "models.mixup.stem=small"], "VisionTransformer"),
        (["shifts=[{gaussian_blur: [4]}]"], "gaussian_blur.* 16 pixels"),
        (["data.size=4"], "size .* 8"),
        (["models.mixup.backbone=torchvision:alexnet"], "alexnet .*16x16 .*input_size"),
        (["models.mixup.backbone=torchvision:squeezenet1_1"], "squeezenet1_1 .*16x16 .*input_size"),
        (["models.mixup.mean=[0.5, 0.5, 0.5]"], "mean and std .*both or neither"),
        (["models.mixupp.recipe.epochs=1"], "'mixupp'.*'mixup'"),
        (["models=3"], "models: "),
        (["name=../elsewhere"], r"'\.\./elsewhere' .*letters, digits"),
        (["shifts=[{suite: [paper_pets]}]"], "suite "),
        (["recipe.batch_size=1"], "batch_size .*>= 2"),
    ],
)
def test_mistakes_show_before_anything_is_written(study_file, tmp_path, overrides, words):
    with pytest.raises(InputError, match=words) as caught:
        fw.run(study_file(), out=tmp_path / "run", device="cpu", overrides=overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_data_are_loaded(study_file, tmp_path):
    (tmp_path / "file").touch()
    overrides = ["data.source=folder:nowhere"]
    with pytest.raises(InputError, match=r"file/run.*another folder"):
        fw.run(study_file(), out=tmp_path / "file/run", overrides=overrides)


def test_a_state_left_behind_by_a_kill_is_cleared(whole, study_file, tmp_path):
    out = copy_of(whole, tmp_path / "run")
    left = out / "models/basic/seed-0/resume/state.pt"
    left.parent.mkdir()
    left.write_bytes(b"half a sta")
    fw.run(study_file(), out=out, device="cpu")
    assert not left.parent.exists()
    assert contents(out, *RESULTS) == contents(whole.run.path, *RESULTS)


def test_a_study_without_shifts_scores_clean_images(study_file, tmp_path):
    overrides = ["shifts=[]", "recipe.epochs=1"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, models=["basic"]
    )
    assert set(run.scores["shift"]) == {"clean"}
    assert (run.path / "report.html").exists()


def test_one_class_is_nothing_to_classify(study_file, colour_folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "one" / split).mkdir(parents=True)
        (tmp_path / "one" / split / "red").symlink_to(colour_folder / split / "red")
    overrides = [f"data.source='folder:{tmp_path / 'one'}'"]
    with pytest.raises(InputError, match="only the class 'red'"):
        fw.run(study_file(), out=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_data_without_training_images_cannot_train(study_file, colour_folder, tmp_path):
    only_test = tmp_path / "only"
    only_test.mkdir()
    (only_test / "test").symlink_to(colour_folder / "test")
    with pytest.raises(InputError, match="no training images"):
        fw.run(study_file(), out=tmp_path / "run", overrides=[f"data.source='folder:{only_test}'"])
