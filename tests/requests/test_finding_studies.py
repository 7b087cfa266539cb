"""Studies on images with several findings: trainings, the choice of checkpoints, and refusals."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather.errors import InputError
from fairweather.report.contents import read_contents
from fairweather.report.training import TRACES, draw_pretraining, draw_training
from fairweather.requests.inputs import make_plan
from fairweather.requests.study.run import make_study_inputs
from fairweather.requests.study.schema import check_study
from fairweather.steps.measurement import collect_facts
from fairweather.steps.plan import DATA, Plan
from fairweather.workers.rank_processes import _check_plans
from tests.conftest import TINY_RESNET
from tests.training.test_findings import NAMES, images_of

pytestmark = pytest.mark.usefixtures("undrawn")

SHORT = {"epochs": 4, "batch_size": 20, "learning_rate": 2e-2}
MODELS = {
    "basic": {"recipe": SHORT},
    "mixup": {"recipe": SHORT | {"mixup": 0.3, "horizontal_flip": 0.5}},
    "asymmetric": {
        "recipe": SHORT | {"asymmetric_loss": {"gamma_neg": 2}, "positive_weights": "balanced"},
        "label_fraction": 0.5,
    },
    "swept": {"recipe": SHORT, "sweep": {"positive_weights": [None, {"Mass": 3}]}},
    "started": {"recipe": SHORT, "weights": "pretraining:supervised"},
    "robust": {"recipe": SHORT | {"epochs": 1, "adversarial": {"epsilon": 0.01, "steps": 1}}},
}
STARTS = {
    "supervised": {
        "recipe": {"method": "supervised", "epochs": 2, "batch_size": 20},
    },
}


def write_images(path, count=60):
    arrays = {"classes": np.array(NAMES)}
    for seed, part in enumerate(("train", "val", "test")):
        images = images_of(count, seed + 1)
        arrays[f"{part}_images"] = images.images.permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = images.labels.numpy()
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("findings") / "set.npz")


def raw(file, models=MODELS, **changes):
    network = {"backbone": TINY_RESNET, "stem": "small"}
    study = {
        "name": "findings",
        "data": f"npz:{file}",
        "seeds": [0, 1],
        "ensemble": True,
        "bootstrap": 100,
        "threads": 1,
        "shifts": [{"brightness_factor": [0.7]}],
        "pretraining": {
            name: {"title": name, **network, **start} for name, start in STARTS.items()
        },
        "models": {name: {"title": name, **network, **entry} for name, entry in models.items()},
    }
    return study | changes


def run_of(study, path, **options):
    return fw.run(check_study(study), out=path, device="cpu", **options)


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    return run_of(raw(file), tmp_path_factory.mktemp("run") / "run", progress=False)


def facts(run, folder):
    return json.loads((run.path / folder / "model.json").read_text())


def test_each_model_is_scored_for_each_finding(run):
    scores = pd.read_csv(run.path / "scores.csv")
    auc = scores[scores["metric"] == "auc"]
    units = {*(f"finding={name}" for name in NAMES), "mean finding", "worst finding"}
    assert units <= set(auc["unit"])
    assert set(auc["model"]) == set(MODELS)
    assert {"0", "1", "ensemble"} <= set(auc["seed"])
    # Brightness tells the findings apart, so a network that has learned them is well above 0.5;
    # with 40 known images and more of each side the standard error is below 0.1.
    basic = auc[(auc["model"] == "basic") & (auc["shift"] == "clean") & (auc["seed"] == "mean")]
    assert basic.set_index("unit").loc["mean finding", "value"] > 0.8


def test_the_checkpoint_with_the_best_mean_auc_is_kept_and_the_record_says_so(run):
    for name in MODELS:
        history = pd.read_csv(run.path / f"models/{name}/seed-0/history.csv")
        assert {"train_auc", "val_auc", "val_loss"} <= set(history)
        described = facts(run, f"models/{name}/seed-0")
        assert described["recipe"]["select"] == "auc"
        best = history.sort_values(["val_auc", "val_loss"], ascending=[False, True]).iloc[0]
        assert described["val_auc"] == best["val_auc"] == history["val_auc"].max()
        assert described["epoch"] == best["epoch"]


def test_the_record_has_the_weights_of_the_findings(run, file):
    with np.load(file) as content:
        labels = content["train_labels"]
    half = facts(run, "models/asymmetric/seed-0")
    assert half["training_images"] == len(labels) // 2
    assert set(half["positive_weights"]) == set(NAMES)
    # Of half of the images, stratified by the rarest finding, the weights are nearly the same.
    for column, name in enumerate(NAMES):
        there, absent = ((labels[:, column] == value).sum() for value in (1, 0))
        assert half["positive_weights"][name] == pytest.approx(absent / there, rel=0.5)
    assert "positive_weights" not in facts(run, "models/basic/seed-0")


def test_a_sweep_chooses_by_the_mean_auc(run):
    table = pd.read_csv(run.path / "models/swept/sweep.csv")
    best = table.sort_values(["val_auc", "val_loss"], ascending=[False, True], kind="stable")
    assert table["chosen"].sum() == 1
    assert bool(best["chosen"].iloc[0])
    chosen = json.loads((run.path / "models/swept/chosen.json").read_text())
    assert chosen == facts(run, "models/swept/seed-1")["recipe"]


def test_a_pre_training_is_judged_by_the_mean_auc_of_its_neighbours(run):
    history = pd.read_csv(run.path / "pretraining/supervised/seed-0/history.csv")
    described = facts(run, "pretraining/supervised/seed-0")
    assert described["labels_used"]
    assert described["knn_auc"] == history["knn_auc"].iloc[-1]


def test_the_figures_show_the_mean_auc_of_each_epoch(run):
    contents = read_contents(run.folder)
    drawn = {trace.name: draw_training(contents, trace) for trace in TRACES}
    assert drawn["training_curves"] is None
    assert "Training mean AUC: on up to" in drawn["training_auc"].alt
    assert draw_pretraining(contents).alt.startswith("k-NN mean AUC and deviation")


@pytest.mark.parametrize("name", ["mixup", "asymmetric"])
def test_an_interrupted_training_ends_with_the_same_bytes(run, file, tmp_path, name):
    study = raw(file, {name: MODELS[name]}, pretraining={}, ensemble=False, seeds=[0])

    def stop(event):
        if event.task.startswith("train") and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(study, tmp_path / "run", progress=stop)
    notes = []
    again = run_of(study, tmp_path / "run", progress=lambda event: notes.append(event))
    assert min(e.done for e in notes if e.task.startswith("train")) == 2
    assert any("validation mean AUC" in event.note for event in notes)
    weights = f"models/{name}/seed-0/model.safetensors"
    assert (again.path / weights).read_bytes() == (run.path / weights).read_bytes()


def test_processes_that_got_their_plan_as_json_agree_with_the_first(file):
    """The published views of `supervised` have a 0 for a float, which JSON gives back as 0.0."""
    study = check_study(raw(file, processes=2))
    facts = {DATA: collect_facts(fw.load_data(f"npz:{file}"))}
    plan = make_plan(make_study_inputs(study, facts, torch.device("cpu")))
    digests = []

    class Listener:
        def gather(self, digest):
            digests.append(digest)
            return [digest]

    for known in (plan, Plan.model_validate_json(plan.model_dump_json())):
        _check_plans(known, Listener())
    assert digests[0] == digests[1]


def write_chest_x_rays(path):
    """A small file in the format of ChestMNIST, in which each finding is there and is not."""
    generator, content = np.random.default_rng(0), {}
    for part, count in (("train", 48), ("val", 24), ("test", 24)):
        content[f"{part}_images"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (generator.random((count, 14)) < 0.3).astype(np.uint8)
        labels[0], labels[1] = 0, 1
        content[f"{part}_labels"] = labels
    np.savez_compressed(path, **content)


def test_the_study_of_chest_x_rays_runs_on_a_small_file_in_the_published_format(tmp_path):
    write_chest_x_rays(tmp_path / "chestmnist.npz")
    file = Path(__file__).parents[2] / "results/chestmnist/study.yaml"
    noise = "{medmnist_c/shot_noise: {severity: [5], dataset: chestmnist}}"
    overrides = [f"shifts=[{{brightness_factor: [0.8]}}, {noise}]", f"data.root={tmp_path}"]
    overrides += ["data.verify=false", "seeds=1", "threads=1", "bootstrap=100"]
    overrides += ["recipe.epochs=1", "recipe.batch_size=24"]
    run = fw.run(
        file,
        out=tmp_path / "run",
        overrides=overrides,
        device="cpu",
        progress=False,
    )
    scores = pd.read_csv(run.path / "scores.csv")
    auc = scores[scores["metric"] == "auc"]
    assert set(auc["model"]) == {"basic", "mixup_aug", "asymmetric"}
    findings = [unit for unit in set(auc["unit"]) if unit.startswith("finding=")]
    assert len(findings) == 14
    assert {"clean", "brightness_factor", "medmnist_c/shot_noise"} <= set(auc["shift"])


def with_recipe(**recipe):
    return {"models": {"basic": {"title": "b", "backbone": TINY_RESNET, "recipe": recipe}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (with_recipe(cutmix=1.0), r"models\.basic: recipe: cutmix mixes labels .*use mixup"),
        (with_recipe(positive_weights={"Mas": 2}), r"models\.basic: .*finding 'Mas'.*'Mass'"),
        (with_recipe(positive_weights="heavy"), r"positive_weights must be balanced.*'heavy'"),
        (with_recipe(positive_weights={"Mass": "2"}), r"positive_weights must .* number.*'2'"),
        (with_recipe(positive_weights={"Mass": -1}), r"a number > 0 for each finding.*-1"),
        (with_recipe(positive_weights={}), r"a number > 0 for each finding.*\{\}"),
        (with_recipe(asymmetric_loss={"gamma": 1}), "unknown key 'gamma'.*gamma_neg"),
        (with_recipe(asymmetric_loss={"clip": 1}), r"asymmetric_loss\.clip must be in \[0, 1\)"),
    ],
)
def test_recipes_that_do_not_fit_are_one_sentence(file, tmp_path, changes, words):
    with pytest.raises(InputError, match=words) as error:
        run_of(raw(file) | changes | {"pretraining": {}}, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_other_classes_are_not_drawn(file, tmp_path):
    models = {"noisy": {"title": "n", "backbone": TINY_RESNET, "label_noise": 0.1}}
    with pytest.raises(InputError, match=r"models\.noisy: label_noise is about classes"):
        run_of(raw(file, models, pretraining={}), tmp_path / "run")


def test_a_recipe_for_findings_is_refused_for_classes(colour_folder, tmp_path):
    for recipe in ({"asymmetric_loss": {}}, {"positive_weights": "balanced"}, {"select": "auc"}):
        study = raw("", pretraining={}, data={"source": f"folder:{colour_folder}", "size": 16})
        with pytest.raises(InputError, match=rf"models\.basic: recipe: {next(iter(recipe))} "):
            run_of(study | with_recipe(**recipe), tmp_path / "run")
