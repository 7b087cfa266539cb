"""Studies: what a file may say, and a whole run that survives being killed anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather.errors import InputError
from fairweather.measuring import describe_shifts
from fairweather.measuring.predicting import plain_plan
from fairweather.models import ModelSpec
from fairweather.report.samples import read_samples
from fairweather.runs import RunFolder, fingerprint
from fairweather.shifts import make_shift
from fairweather.study import check_study, execute, load_study, packaged_studies
from fairweather.study.context import Context
from fairweather.study.steps import subjects
from fairweather.study.training_plans import Training, training_inputs
from fairweather.training import Recipe
from fairweather.types import Cell
from fairweather.yamlfile import dump_yaml, parse_yaml

from .conftest import COLOURS, TINY_EFFICIENTNET, TINY_RESNET, picture

STUDY = """
name: colours
title: Colours
data: {{source: "folder:{folder}", size: 16}}
seeds: {seeds}
shifts:
  - brightness_factor: [0.3, 2]
  - gaussian_blur: {{sigma: [1, 2], kernel_size: 5}}
bootstrap: 200
defaults:
  backbone: {backbone}
  recipe: {{epochs: 3, batch_size: 16, learning_rate: 1e-2}}
models:
  basic: {{title: Basic}}
  mixup:
    title: MixUp + Aug
    recipe: {{mixup: 0.3, horizontal_flip: 0.4, rotation: {{degrees: 20, probability: 0.4}}}}
"""


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
        ("a: 1\na: 2", r"the key 'a' stands twice \(line 1"),
        ("{a: 1", "is not YAML"),
        ("1/0", "divides by zero"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_yaml_that_is_wrong_says_where(text, words):
    with pytest.raises(InputError, match=words):
        parse_yaml(text)


def minimal(**changes):
    study = {"name": "s", "data": {"source": "mnist5k"}, "models": {"a": {"title": "A"}}}
    study["models"]["a"]["backbone"] = "timm:resnet18"
    return study | changes


def model(**keys):
    return {"models": {"a": {"title": "A", "backbone": "timm:resnet18", **keys}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shfits": []}, "unknown key 'shfits'; did you mean 'shifts'"),
        (
            {"data": {"source": "mnist5k", "sice": 3}},
            "data: unknown key 'sice'; did you mean 'size'",
        ),
        (model(recipe={"epoch": 3}), "models.a.recipe: unknown key 'epoch'; did you mean 'epochs'"),
        (model(recipe={"learning_rate": "1e-3"}), "valid number, found '1e-3'"),
        (model(recipe={"epochs": 2.5}), "recipe.epochs: .*integer.*found 2.5"),
        (model(recipe={"epochs": 0}), "epochs must be >= 1, found 0"),
        (model(recipe={"optimizer": "adam"}), "'adamw' or 'sgd', found 'adam'"),
        (model(recipe={"rotation": {"degree": 2}}), "did you mean 'degrees'"),
        (model(weights=None), "weights: .*string, found None"),
        (model(sweep={"lr": [1]}), "unknown recipe key in sweep 'lr'"),
        (model(sweep={"epochs": ["three"]}), "epochs: .*integer.*found 'three'"),
        ({"models": {}}, "models: .*at least 1"),
        ({"models": {"../a": {"title": "A", "backbone": "x"}}}, "it names a folder"),
        ({"models": {"a": {"title": "A"}}}, "models.a.backbone: field required"),
        ({"models": {"a": 3}}, "models.a: "),
        ({"seeds": [0, 0]}, "seeds must be different"),
        ({"seeds": [-1]}, "seeds must be different and >= 0"),
        ({"shifts": [{"gausian_blur": [1]}]}, "did you mean 'gaussian_blur'"),
        ({"shifts": [{"gaussian_blur": [1], "x": 2}]}, "each entry must be one NAME: LEVELS"),
        ({"shifts": [{"suite": "paper"}]}, "did you mean 'paper_pets'"),
        ({"shifts": [{"gaussian_blur": [1]}, {"gaussian_blur": [1]}]}, "at 1 stands twice"),
        (
            {"shifts": [{"gaussian_blur": [1]}, {"gaussian_blur": {"sigma": 2, "kernel_size": 5}}]},
            "swept twice with different parameters",
        ),
        ({"shifts": [{"gaussian_blur": [2]}, {"gaussian_blur": [2.0]}]}, "at 2 stands twice"),
        ({"bootstrap": 10}, "bootstrap: .*greater than or equal to 100"),
    ],
)
def test_a_study_that_is_wrong_gets_one_clear_sentence(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        check_study(minimal(**changes))
    assert "\n" not in str(caught.value)


def test_a_shift_may_be_swept_in_two_places():
    shifts = [{"gaussian_blur": [2]}, {"brightness_factor": [0.5]}, {"gaussian_blur": [1]}]
    described = describe_shifts(check_study(minimal(shifts=shifts)).all_shifts())
    levels = [[cell["level"] for cell in sweep["cells"]] for sweep in described]
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
        only=["basic"],
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
        "gaussian_blur,sigma=2,kernel_size=5",
    ]


def test_a_resolved_study_reads_back_as_itself(study_file):
    study = load_study(study_file())
    assert check_study(parse_yaml(dump_yaml(study.model_dump(mode="json")))) == study


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
    }


RESULTS = ("scores.csv", "models/*/*/model.safetensors", "predictions/**/*.parquet", "tables/*")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, colour_folder):
    """An uninterrupted run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "colours.yaml"
    path.write_text(STUDY.format(folder=colour_folder, seeds="[0]", backbone=TINY_RESNET))
    events = []
    run = fw.run(path, out=folder / "run", device="cpu", progress=events.append)
    return run, events


def test_a_run_makes_the_folder_of_the_contract(whole):
    run, _ = whole
    names = {
        path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()
    }
    expected = {"study.yaml", "provenance.json", "manifest.json", "scores.csv", "summary.csv"}
    expected |= {"report.html", "samples/index.json", "samples/pictures.parquet"}
    for model_name in ("basic", "mixup"):
        folder = f"models/{model_name}/seed-0"
        expected |= {
            f"{folder}/{name}" for name in ("model.safetensors", "model.json", "history.csv")
        }
        shifts = ("clean", "brightness_factor,factor=2", "gaussian_blur,sigma=1,kernel_size=5")
        expected |= {f"predictions/{model_name}/seed-0/{name}.parquet" for name in ("val", *shifts)}
    assert expected <= names
    assert not [name for name in names if "resume" in name or "partial" in name]
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert "models/basic/seed-0" in manifest["steps"]
    assert run.scores.loc[run.scores.level == "mean", "shift"].nunique() == 3


def test_progress_counts_up_to_its_total(whole):
    _, events = whole
    last = {event.task: event for event in events}
    assert all(event.done == event.total for event in last.values())
    assert any(task.startswith("train MixUp") for task in last)


def test_a_finished_run_does_nothing_again(whole, study_file):
    run, _ = whole
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.parquet")}
    before |= {p: p.stat().st_mtime_ns for p in run.path.rglob("*.safetensors")}
    for _ in execute(load_study(study_file()), run.path, device="cpu"):
        pass
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.parametrize("stop_at", [2, 4, 7, 9, 12, 18])
def test_a_run_stopped_anywhere_ends_the_same(whole, study_file, tmp_path, stop_at):
    study, out = load_study(study_file()), tmp_path / "run"
    stopped = execute(study, out, device="cpu")
    for _ in range(stop_at):
        next(stopped)
    stopped.close()
    for _ in execute(study, out, device="cpu"):
        pass
    assert contents(out, *RESULTS) == contents(whole[0].path, *RESULTS)


def test_a_killed_process_is_taken_up_by_the_same_command(whole, study_file, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fairweather", "run", str(study_file()), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, "--device", "cpu"], env=environment)
    resumable = out / "models/basic/seed-0/resume/state.pt"
    deadline = time.monotonic() + 120
    while not resumable.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "scores.csv").exists()
    done = subprocess.run(
        [*command, "--device", "cpu"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert contents(out, *RESULTS) == contents(whole[0].path, *RESULTS)


def test_a_changed_recipe_trains_again_and_an_unchanged_model_does_not(whole, study_file, tmp_path):
    study, out = load_study(study_file()), tmp_path / "run"
    for _ in execute(study, out, device="cpu"):
        pass
    basic = out / "models/basic/seed-0/model.safetensors"
    other = out / "models/mixup/seed-0/model.safetensors"
    before = basic.stat().st_mtime_ns, other.stat().st_mtime_ns
    changed = load_study(study_file(), ["models.mixup.recipe.mixup=0.5"])
    for _ in execute(changed, out, device="cpu"):
        pass
    after = basic.stat().st_mtime_ns, other.stat().st_mtime_ns
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_seeds_are_trained_and_averaged(study_file, tmp_path):
    path = study_file(seeds="[0, 1]")
    run = fw.run(path, out=tmp_path / "run", device="cpu", overrides=["recipe.epochs=1"])
    clean = run.scores.query("shift == 'clean' and metric == 'accuracy' and model == 'basic'")
    value = clean.set_index("seed").value
    assert value["mean"] == pytest.approx((value["0"] + value["1"]) / 2)


def test_a_sweep_keeps_every_try_and_trains_the_chosen_one(study_file, tmp_path):
    overrides = ["models.basic.sweep={learning_rate: [1e-5, 1e-2], schedule: [none, cosine]}"]
    overrides += ["models.basic.sweep_metric=nll", "recipe.epochs=2"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, only=["basic"]
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
    overrides += ["recipe.optimizer=sgd"]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, only=["basic"]
    )
    table = pd.read_csv(run.path / "models/basic/sweep.csv")
    assert table.chosen.tolist() == [False, True]
    assert "learning rate" in table.diverged[0]
    with pytest.raises(InputError, match="every try of Basic diverged"):
        fw.run(
            study_file(),
            out=tmp_path / "other",
            overrides=["models.basic.sweep={learning_rate: [1e30]}", "recipe.optimizer=sgd"],
            only=["basic"],
        )


def test_a_backbone_at_rate_zero_stays(study_file, tmp_path):
    overrides = [
        "recipe.backbone_learning_rate_scale=0",
        "recipe.weight_decay=0",
        "recipe.epochs=1",
    ]
    run = fw.run(
        study_file(), out=tmp_path / "run", device="cpu", overrides=overrides, only=["basic"]
    )
    trained = fw.load_model(f"run:{run.path}/models/basic/seed-0").network
    fresh = fw.load_model(TINY_RESNET, classes=3, seed=0, weights="none").network
    assert torch.equal(trained.conv1[0].weight, fresh.conv1[0].weight)
    assert not torch.equal(trained.fc.weight, fresh.fc.weight)


def test_the_folder_of_another_study_is_left_alone(whole, study_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0].path, out)
    before = contents(out, "*.csv", "*.yaml", "*.json")
    with pytest.raises(InputError, match="holds the run of 'colours', not of 'other'"):
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
        only=[name],
    )
    assert set(run.scores.model) == {name}
    assert f"| {name} |" in (run.path / "tables/summary_accuracy.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"digests": {"train": "x", "val": "v", "test": "t"}},
        {"digests": {"train": "t", "val": "x", "test": "t"}},
        {"precision": "bf16"},
        {"seed": 1},
        {"recipe": {"momentum": 0.5}},
        {"weights": "imagenet"},
        {"threads": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_of_a_training_is_in_its_fingerprint(tmp_path, monkeypatch, change):
    def inputs(digests=None, precision="fp32", seed=0, recipe=None, weights="none", threads=1):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        study = check_study(minimal(precision=precision))
        digests = digests or {"train": "t", "val": "v", "test": "t"}
        run, device = RunFolder(tmp_path), torch.device("cpu")
        context = Context.of(study, run, None, digests, device, offline=False)
        spec = ModelSpec(TINY_RESNET, 3, weights)
        return training_inputs(context, Training("f", "t", spec, Recipe(**(recipe or {})), seed))

    assert fingerprint(inputs(**change)) != fingerprint(inputs())


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "x"},
        {"shift_seed": 1},
        {"batch": 8},
        {"threads": 2},
        {"shift": 2},
        {"model": b"other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_of_a_cell_is_in_its_fingerprint(tmp_path, monkeypatch, change):
    def inputs(digest="t", shift_seed=0, batch=256, threads=1, shift=1, model=b"weights"):
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        study = check_study(minimal(shift_seed=shift_seed, prediction_batch_size=batch))
        run = RunFolder(tmp_path)
        run.write("models/a/seed-0/model.safetensors", model)
        context = Context.of(study, run, None, {"test": digest}, torch.device("cpu"), False)
        (subject,) = subjects(context, "a")
        cell = Cell("a", 0, make_shift("gaussian_blur", sigma=shift))
        return plain_plan(context, subject, subject.load).inputs("test", cell)

    assert fingerprint(inputs(**change)) != fingerprint(inputs())


def test_pretrained_rows_are_normalised_by_their_weights(study_file, tmp_path):
    overrides = ["models.mixup.backbone=timm:tf_efficientnet_lite0", "models.mixup.weights=lite0"]
    overrides += ["recipe.epochs=1", "models.mixup.recipe.freeze_batchnorm=true"]
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


@pytest.mark.parametrize("size", [(24, 18), (18, 24)])
def test_rectangles_go_all_the_way(study_file, tmp_path, size):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "rectangles" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture(colour, rng, 24).resize(size).save(folder / f"{number}.png")
    overrides = [f"data={{source: 'folder:{tmp_path / 'rectangles'}'}}", "recipe.epochs=1"]
    run = fw.run(study_file(), out=tmp_path / "run", device="cpu", overrides=overrides)
    assert (run.path / "figures/shifts.png").exists()
    assert [each.size for each in read_samples(run).strips["clean"]] == 3 * [size]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["models.mixup.weights=nowhere.pth"], "models.mixup: weights: .*nowhere.pth"),
        (["models.mixup.backbone=timm:resnet_8"], "models.mixup: unknown timm model"),
        (
            ["models.mixup.backbone=torchvision:vit_b_32"],
            "cannot take images of 16x16 .*input_size",
        ),
        (["models.mixup.backbone=torchvision:vgg11", "models.mixup.stem=small"], "not for VGG"),
        (["shifts=[{gaussian_blur: [4]}]"], "needs images of more than 16 pixels a side"),
        (["data.size=4"], "size must be at least 8"),
        (["models.mixup.backbone=torchvision:alexnet"], "cannot take images of 16x16"),
        (["models.mixup.backbone=torchvision:squeezenet1_1"], "cannot take images of 16x16"),
        (["models.mixup.mean=[0.5, 0.5, 0.5]"], "give both or neither"),
        (["models.mixupp.recipe.epochs=1"], "unknown model 'mixupp'; did you mean 'mixup'"),
        (["models=3"], "models: "),
        (["name=../elsewhere"], "the name '../elsewhere' must be"),
        (["shifts=[{suite: [paper_pets]}]"], "suite must be a name"),
        (["recipe.batch_size=1"], "batch_size must be >= 2"),
    ],
)
def test_mistakes_show_before_anything_is_written(study_file, tmp_path, overrides, words):
    with pytest.raises(InputError, match=words) as caught:
        fw.run(study_file(), out=tmp_path / "run", device="cpu", overrides=overrides)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_state_left_behind_by_a_kill_is_cleared(whole, study_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0].path, out)
    left = out / "models/basic/seed-0/resume/state.pt"
    left.parent.mkdir()
    left.write_bytes(b"half a sta")
    for _ in execute(load_study(study_file()), out, device="cpu"):
        pass
    assert not left.parent.exists()
    assert contents(out, *RESULTS) == contents(whole[0].path, *RESULTS)


def test_a_study_without_shifts_scores_clean_images(study_file, tmp_path):
    overrides = ["shifts=[]", "recipe.epochs=1"]
    run = fw.run(study_file(), out=tmp_path / "run", device="cpu", overrides=overrides)
    assert set(run.scores["shift"]) == {"clean"}
    assert (run.path / "report.html").exists()


def test_one_class_is_nothing_to_classify(study_file, colour_folder, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "one" / split).mkdir(parents=True)
        (tmp_path / "one" / split / "red").symlink_to(colour_folder / split / "red")
    overrides = [f"data.source='folder:{tmp_path / 'one'}'"]
    with pytest.raises(InputError, match="has only the class 'red'"):
        fw.run(study_file(), out=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_data_without_training_images_cannot_train(study_file, colour_folder, tmp_path):
    only_test = tmp_path / "only"
    only_test.mkdir()
    (only_test / "test").symlink_to(colour_folder / "test")
    with pytest.raises(InputError, match="has no training images"):
        fw.run(study_file(), out=tmp_path / "run", overrides=[f"data.source='folder:{only_test}'"])
