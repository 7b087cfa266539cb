"""The packaged studies, each run to its end on a few random images in the real format."""

import numpy as np
import pandas as pd
import pytest
import torch

import fairweather as fw
from fairweather.data import named_sets as fashion_mnist
from fairweather.errors import InputError
from fairweather.judge.published import read_published, read_published_comparison
from fairweather.models.opening import load_model
from fairweather.requests.study.packaged import packaged_studies, study_facts
from fairweather.requests.study.schema import load_study
from tests.conftest import TINY_RESNET
from tests.data import test_medmnist as med
from tests.data import test_named_sets as known_sets

pytestmark = pytest.mark.usefixtures("undrawn")

QUICK = [
    "recipe.epochs=1",
    "recipe.warmup_epochs=0",
    "seeds=1",
    "bootstrap=100",
    "data.verify=false",
]
# A plain one, and one with all that the study has: published weights, augmentation and MixUp.
REPORTED = ("basic", "mixup_aug_pt")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "no package")


def published_weights(path, backbone):
    """A file like the published one of Barlow Twins: torchvision's names, no head."""
    state = load_model(backbone, classes=2, seed=9, weights="none").network.state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    return path


def check_finished(run, models, shifts=8):
    scores = run.scores
    assert list(dict.fromkeys(scores["model"])) == list(models)
    accuracy = scores[(scores["metric"] == "accuracy") & ~scores["level"].isin(["mean", "worst"])]
    shifted = accuracy[~accuracy["shift"].isin(["clean", "validation"])]
    assert len(shifted) == shifts * len(models)
    assert (run.path / "report.html").is_file()


def test_pathmnist_runs_on_an_npz_in_the_official_layout(tmp_path, draw):
    med.write(tmp_path / "pathmnist.npz", classes=9, side=28)
    weights = published_weights(tmp_path / "resnet18.pth", "torchvision:resnet18")
    overrides = [*QUICK, f"models.mixup_aug_pt.weights={weights}", f"data.root={tmp_path}"]
    run = fw.run("pathmnist", out=tmp_path / "run", overrides=overrides, models=REPORTED)
    check_finished(run, REPORTED)
    assert run.record.data.name == "pathmnist@28"
    assert run.record.data.notes["verified"] is False
    validation = run.scores[run.scores["shift"] == "validation"]
    of_class = validation["metric"] == "sensitivity/adipose"
    assert set(validation[validation["metric"] == "accuracy"]["n"]) == {18}
    assert set(validation[of_class]["n"]) == {2}
    table = pd.read_csv(run.path / "tables" / "natural_shift_accuracy.csv")
    for row in table.itertuples():
        assert row.difference == pytest.approx(row.clean - row.validation, abs=1e-6)
    draw(run, figures=False)
    page = (run.path / "report.html").read_text()
    assert "A natural shift" in page
    assert "test images. Train and val images come from" in page
    assert "centre. The validation images chose" in page
    notes = " ".join(read_published_comparison(run.folder).notes)
    assert "Other training: basic has epochs 1 instead of 80." in notes
    others = f"weights {str(weights).lower()} instead of imagenet, epochs 1 instead of 60"
    assert f"mixup_aug_pt has {others}." in notes
    assert "were not verified" in notes
    compared = fw.compare_with_published(run)
    assert set(compared["model"]) >= set(REPORTED)
    assert compared["published"].notna().all()
    assert compared[compared["model"].isin(REPORTED)]["measured"].notna().any()


def test_pathmnist_has_the_settings_of_the_published_runs():
    # protocol: weights, flips and rotation, mixup, rate, backbone's share, frozen, epochs
    published = {
        "basic": ("none", False, 0, 1e-3, 1, False, 80),
        "mixup_aug": ("none", True, 0.3, 5e-4, 1, False, 60),
        "mixup_aug_pt": ("imagenet", True, 0.3, 5e-4, 0.1, True, 60),
        "basic_1": ("none", True, 0, 5e-4, 1, False, 60),
        "pt_0": ("imagenet", True, 0, 1e-3, 1, False, 60),
        "pt_1": ("imagenet", True, 0, 5e-4, 0.1, False, 60),
        "pt_2": ("imagenet", True, 0.3, 5e-4, 0.1, False, 60),
        "pt_3": ("imagenet", True, 0.3, 5e-4, 1, False, 60),
        "pt_4": ("imagenet", True, 0.3, 5e-4, 0.01, False, 60),
    }
    study = load_study("pathmnist")
    assert study.models.keys() == published.keys()
    for name, settings in published.items():
        entry, recipe = study.models[name], study.models[name].recipe
        augmented = recipe.rotation is not None
        assert settings == (
            entry.weights,
            augmented,
            recipe.mixup,
            recipe.learning_rate,
            recipe.backbone_learning_rate_scale,
            recipe.freeze_batchnorm,
            recipe.epochs,
        )
        assert (entry.backbone, entry.stem, entry.input_size) == (
            "torchvision:resnet18",
            "imagenet",
            None,
        )
        assert (recipe.optimizer, recipe.weight_decay, recipe.batch_size) == ("adamw", 1e-6, 256)
        assert recipe.schedule == "none"
        assert recipe.warmup_epochs == 0
        assert recipe.select == "accuracy"
        flips = (recipe.horizontal_flip, recipe.vertical_flip)
        assert flips == ((0.4, 0.4) if augmented else (0, 0))
        if augmented:
            assert (recipe.rotation.degrees, recipe.rotation.probability) == (20, 0.4)


def test_the_published_settings_are_those_of_the_study():
    published = {study.name: study.models for study in read_published("paper")}
    for name in ("pathmnist", "oxford-pets"):
        study = load_study(name)
        assert published[name].keys() == study.models.keys()
        for model, facts in published[name].items():
            entry = study.models[model].model_dump()
            ours = {**entry, **entry["recipe"]}
            assert {key: ours[key] for key in facts.training} == facts.training


def test_a_file_without_the_official_splits_is_not_called_a_natural_shift(tmp_path):
    path = med.write(tmp_path / "pathmnist.npz", classes=9, side=28)
    arrays = dict(np.load(path))
    del arrays["val_images"], arrays["val_labels"]
    np.savez_compressed(path, **arrays)
    notes = fw.load_data("pathmnist", root=tmp_path, verify=False).notes
    assert "natural_shift" not in notes


@pytest.mark.parametrize(
    ("backbone", "models"),
    [
        (TINY_RESNET, ("no_pretraining", "self_supervised")),
        # Supervised differs from self-supervised by its file of weights alone.
        pytest.param(
            "torchvision:resnet50",
            ("no_pretraining", "supervised", "self_supervised"),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["a smaller network", "the published network"],
)
def test_oxford_pets_runs_on_the_official_folders(tmp_path, backbone, models):
    known_sets.write_pets(tmp_path / "oxford-iiit-pet")
    weights = published_weights(tmp_path / "weights.pth", backbone)
    overrides = [
        *QUICK,
        f"backbone={backbone}",
        *(f"models.{name}.weights={weights}" for name in models[1:]),
        f"data.root={tmp_path}",
        "data.size=32",
    ]
    run = fw.run("oxford-pets", out=tmp_path / "run", overrides=overrides, models=models)
    check_finished(run, models)
    assert not (run.path / "tables" / "natural_shift_accuracy.csv").exists()


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("cifar10", ("basic", "lite0_mixup_aug_pt")),
        pytest.param("cifar10", None, marks=pytest.mark.nightly),
        pytest.param("fashion-mnist", None, marks=pytest.mark.nightly),
    ],
)
def test_the_other_studies_run_on_files_in_their_formats(name, models, tmp_path):
    if name == "cifar10":
        known_sets.write_cifar(tmp_path / "cifar-10-batches-py")
    else:
        known_sets.write_fashion(tmp_path, compress=True, counts=(40, 20))
    overrides = [*QUICK, f"data.root={tmp_path}"]
    run = fw.run(name, out=tmp_path / "run", overrides=overrides, models=models)
    check_finished(run, models or load_study(name).models)


def test_a_study_takes_noisy_and_unbalanced_labels(tmp_path):
    med.write(tmp_path / "pathmnist.npz", classes=9, side=28)
    overrides = [*QUICK, f"data.root={tmp_path}", f"backbone={TINY_RESNET}", "shifts=[]"]
    worse = [*overrides, "data.label_noise=0.2", "data.imbalance=0.5"]
    records = []
    for number, each in enumerate((overrides, worse)):
        run = fw.run("pathmnist", out=tmp_path / str(number), overrides=each, models=["basic"])
        records.append(run.record.data)
    plain, noisy = records
    assert plain.digests["train"] != noisy.digests["train"]
    assert plain.digests["test"] == noisy.digests["test"]
    assert noisy.notes["label_noise"] == 0.2


def test_another_file_than_the_published_one_needs_a_word(tmp_path):
    med.write(tmp_path / "pathmnist.npz", classes=9, side=28)
    overrides = [f"data.root={tmp_path}", f"backbone={TINY_RESNET}"]
    with pytest.raises(InputError, match="verify: false"):
        fw.run("pathmnist", out=tmp_path / "run", overrides=overrides, models=["basic"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", packaged_studies())
def test_every_study_trains_each_model_with_three_seeds(name):
    assert load_study(name).seeds == [0, 1, 2]


@pytest.mark.parametrize("name", packaged_studies())
def test_every_study_says_its_time_and_hardware(name):
    assert study_facts(packaged_studies()[name]).keys() == {"time", "hardware"}
