"""`fairweather evaluate`: any model, any images, one command, and the same command goes on."""

import dataclasses
import gc
import inspect
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather.attacks.shift_lists import expand_with_clean
from fairweather.errors import InputError
from fairweather.inference.prediction import predict_shared
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.models.user_modules import read_class_names
from fairweather.progress import silent
from fairweather.requests.evaluation.models import ModelRequest
from fairweather.requests.evaluation.run import plan_evaluation
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.requests.settings import complete_priors, read_priors
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder
from fairweather.steps.dispatch import perform
from fairweather.steps.plan import Plan
from fairweather.steps.scoring import _forget_changed
from fairweather.steps.worker import Worker
from fairweather.types.measurement import Images
from fairweather.types.record import JOINED, predictions_file
from fairweather.workers.schedule import list_written
from tests.conftest import COLOURS, TINY_RESNET, keep_lines
from tests.helpers.commands import fairweather
from tests.helpers.started import started

pytestmark = pytest.mark.usefixtures("undrawn")

# It looks at the mean colour: right on clean images, and easy to mislead in the dark.
MODEL = """
import torch

class ByColour(torch.nn.Module):
    classes = {classes}

    def __init__(self):
        super().__init__()
        colours = torch.tensor({colours}, dtype=torch.float32)
        self.register_buffer("colours", colours / colours.norm(dim=1, keepdim=True))

    def forward(self, images):
        return 10 * images.mean((2, 3)) @ self.colours.T

def make():
    return ByColour()
"""
NAMES = sorted(COLOURS)
NAME = "by_colour-make"  # what the file and the function in it give the model


def write_model(folder, classes=NAMES, order=NAMES):
    file = folder / "by_colour.py"
    colours = [COLOURS[name] for name in order]
    file.write_text(MODEL.format(classes=list(classes) if classes else None, colours=colours))
    return f"python:{file}:make"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path)


def accuracy(table, shift="clean", level="none", model=None, metric="accuracy"):
    rows = table[(table["metric"] == metric) & (table["shift"] == shift)]
    rows = rows[(rows["level"] == level) & (rows["model"] == (model or table["model"].iloc[0]))]
    return rows["value"].item()


def images_of(table):
    """How many images the numbers have that are of no single class."""
    of_classes = table["metric"].str.startswith(tuple(f"{kind}/" for kind in CLASS_METRICS))
    assert of_classes.any()
    return table["n"][~of_classes]


def test_a_model_from_a_file_is_measured_on_a_folder(model, colour_folder, tmp_path):
    said = []
    run = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        ["brightness_factor: [0.2, 0.6]"],
        out=tmp_path / "run",
        bootstrap=100,
        device="cpu",
        progress=keep_lines(said),
    )
    table = run.scores
    assert accuracy(table) > 0.9
    assert len(table[table["metric"] == "accuracy"]) >= 4  # clean, two levels, their mean
    assert (images_of(table) == 60).all()
    images = fw.load_data(f"folder:{colour_folder}").test
    files = pd.read_csv(run.path / "images/test.csv")
    assert files["keys"].tolist() == images.keys.tolist()
    assert all((colour_folder / file).is_file() for file in files["file"])
    assert files["file"][0] == "test/blue/000.png"
    module = fw.load_model(model)
    expected = fw.predict(module, images, fw.make_shift("brightness_factor", factor=0.2))
    right = expected.correct.mean()
    assert accuracy(table, "brightness_factor", "0.2") == pytest.approx(right, abs=1e-7)
    text = "\n".join(said)
    assert "the file was run to make it" in text
    assert "no normalisation" in text
    assert "n = 60" in text
    assert "3 classes" in text
    assert said[-1].startswith("clean ")
    assert run.path == tmp_path / "run"
    for name in ("report.html", "scores.csv", "tables/summary_accuracy.md", "record.json"):
        assert (run.path / name).is_file(), name
    record = run.record
    assert (record.kind, list(record.models), record.seeds) == ("evaluation", [NAME], (0,))
    facts = record.models[NAME].facts
    assert facts["normalisation"]["mean"] is None
    assert len(facts["digest"]) == 64


def test_what_an_earlier_version_stored_wrongly_is_predicted_again(model, colour_folder, tmp_path):
    """It stored the buffer that a model writes all its batches to."""

    def evaluate():
        return fw.evaluate(
            model,
            f"folder:{colour_folder}",
            ["brightness_factor: [0.6]"],
            out=tmp_path / "run",
            validation_fraction=0.2,
            variants=["temperature"],
            bootstrap=100,
            device="cpu",
        )

    run = evaluate()
    folder, expected = RunFolder(run.path), (run.path / "scores.csv").read_bytes()
    for part in ("test", "val"):
        file = predictions_file(NAME, 0, "clean", part)
        found = folder.read_predictions(file)
        folder.write_predictions(file, replace(found, logits=np.roll(found.logits, 1, axis=1)))
        record = folder.step(file.removesuffix(".parquet"))
        checksums = {**record.files, file: folder.checksum(file)}
        folder.finish(record.model_copy(update={"files": checksums}))
    folder.forget("scores")
    folder.write(JOINED, "{}")
    with pytest.raises(InputError, match="run the commands of the joined runs again"):
        _forget_changed([file], folder)
    assert folder.file(file).is_file()  # a copy of what only another folder can make again
    folder.file(JOINED).unlink()
    with pytest.raises(InputError, match=r"clean\.parquet and 1 more .* command predicts again"):
        evaluate()
    assert not (run.path / "scores.csv").exists()
    evaluate()
    assert (run.path / "scores.csv").read_bytes() == expected


def test_several_models_see_the_same_images_in_one_run(colour_folder, tmp_path):
    """Each has the numbers that it has alone, and both are on one page."""
    right, folder = write_model(tmp_path), tmp_path / "other"
    folder.mkdir()
    wrong = write_model(folder, order=NAMES[1:] + NAMES[:1])  # of the same name
    data, shifts = f"folder:{colour_folder}", ["brightness_factor: [0.5]"]
    options = {"bootstrap": 100, "device": "cpu", "variants": ["temperature"]}
    said = []
    together = fw.evaluate(
        [right, wrong],
        data,
        shifts,
        out=tmp_path / "together",
        progress=keep_lines(said),
        validation_fraction=0.2,
        **options,
    )
    assert list(together.record.models) == [NAME, f"{NAME}-2"]
    assert {line.split(":")[0] for line in said if line.startswith("clean")} == {
        f"clean          {NAME}",
        f"clean          {NAME}-2",
    }
    for model, name in ((right, NAME), (wrong, f"{NAME}-2")):
        alone = fw.evaluate(
            model, data, shifts, out=tmp_path / name, validation_fraction=0.2, **options
        )
        rows = together.scores[together.scores["model"].str.replace("+temperature", "") == name]
        expected = alone.scores.drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(
            rows.drop(columns="model").reset_index(drop=True), expected, check_exact=True
        )
    compared = fw.compare_runs(f"{together.path}:{NAME}", f"{together.path}:{NAME}-2")
    assert compared["difference"].iloc[0] != 0
    with pytest.raises(InputError, match="are the same model"):
        fw.evaluate([right, right], data, bootstrap=100)
    with pytest.raises(InputError, match="title names one model"):
        fw.evaluate([right, wrong], data, title="Mine", bootstrap=100)


def test_models_that_need_other_sizes_are_refused_until_a_size_is_given(colour_folder):
    models, options = ["timm:test_resnet", "timm:resnet10t"], {"weights": "none", "offline": True}
    with pytest.raises(InputError, match=r"crop 160.*crop 176.*--size"):
        fw.evaluate(models, f"folder:{colour_folder}", **options)
    with pytest.raises(InputError, match="has 1,000 outputs"):  # the sizes are no obstacle now
        fw.evaluate(models, f"folder:{colour_folder}", size=32, **options)


def test_the_clean_line_is_said_before_any_shift_runs(model, colour_folder, monkeypatch):
    order = []

    def watching(self, images, keys, seed=0):
        order.append(self.name)
        return images

    monkeypatch.setattr("fairweather.types.measurement.Shift.__call__", watching)
    fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "gaussian_blur: [1]",
        bootstrap=100,
        device="cpu",
        progress=lambda event: event.line and order.append(f"line: {event.line.split()[0]}"),
    )
    at = order.index("line: clean")
    # One image is tried out before any line; after the clean one come the batches of the shift.
    assert order.index("gaussian_blur") < order.index("line: model") < at
    # Batches, then pictures.
    assert order[at + 1 :] == ["gaussian_blur", "clean", "gaussian_blur"]


@pytest.mark.parametrize("order", [["green", "red", "blue"]])
def test_classes_are_matched_by_name_not_by_place(colour_folder, tmp_path, order):
    model = write_model(tmp_path, classes=order, order=order)
    run = fw.evaluate(model, f"folder:{colour_folder}", "clean", bootstrap=100, device="cpu")
    assert accuracy(run.scores) > 0.9


def test_labels_can_be_given_and_wrong_ones_warn(colour_folder, tmp_path):
    model = write_model(tmp_path, classes=["sky", "grass", "blood"], order=["blue", "green", "red"])
    data = f"folder:{colour_folder}"
    options = {"bootstrap": 100, "device": "cpu"}
    with pytest.raises(InputError, match=r"(?s)blue.*sky.*--class-map"):
        fw.evaluate(model, data, "clean", **options)
    file = tmp_path / "labels.yaml"
    file.write_text("blue: sky\ngreen: grass\nred: blood\n")
    assert accuracy(fw.evaluate(model, data, "clean", class_map=file, **options).scores) > 0.9
    said = []
    wrong = {"blue": "grass", "green": "blood", "red": "sky"}
    run = fw.evaluate(model, data, "clean", class_map=wrong, progress=keep_lines(said), **options)
    assert accuracy(run.scores) < 0.1
    assert "not above chance (33.3%, what a model that always says blue gets)" in said[-1]
    assert "--class-map" in said[-1]


class Constant(nn.Module):
    def forward(self, images):
        return torch.tensor([0.0, 3.0, 1.0]).repeat(len(images), 1)


def test_a_constant_answer_is_no_better_than_chance_however_large_its_class(colour_folder):
    whole = fw.load_data(f"folder:{colour_folder}")
    kept = torch.cat(
        [whole.test.labels.eq(1).nonzero()[:20], whole.test.labels.ne(1).nonzero()[:12]]
    )
    data = replace(whole, test=whole.test[kept.flatten()])
    said = []
    options = {"bootstrap": 100, "device": "cpu", "progress": keep_lines(said)}
    assert accuracy(fw.evaluate(Constant(), data, "clean", **options).scores) == 0.625
    assert "not above chance (62.5%, what a model that always says green gets)" in said[-1]


def test_a_finished_evaluation_is_not_done_again(model, colour_folder, tmp_path, monkeypatch):
    def run():
        return fw.evaluate(
            model,
            f"folder:{colour_folder}",
            ["imagenet_c/gaussian_noise: [1]", "fgsm,epsilon=8/255"],
            out=tmp_path / "run",
            variants=["temperature"],
            validation_fraction=0.2,
            ood=["mnist5k"],
            bootstrap=100,
            limit=30,
            device="cpu",
        )

    first = run().scores
    bytes_before = (tmp_path / "run/scores.csv").read_bytes()
    monkeypatch.setattr("fairweather.steps.predictions.predict_shared", None)
    monkeypatch.setattr("fairweather.steps.predictions.read_fitted", None)
    pd.testing.assert_frame_equal(run().scores, first)
    assert (tmp_path / "run/scores.csv").read_bytes() == bytes_before
    (tmp_path / "run" / predictions_file(NAME, 0, "imagenet_c/gaussian_noise,severity=1")).unlink()
    with pytest.raises(TypeError):  # now there is something to predict
        run()


def dying_after(monkeypatch, count):
    """Let the process be interrupted once so many shifts were predicted; counts them."""
    done = []

    def dying(readers, images, shift, **options):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(shift.id)
        return predict_shared(readers, images, shift, **options)

    monkeypatch.setattr("fairweather.steps.predictions.predict_shared", dying)
    return done


def test_an_interrupted_evaluation_goes_on_by_the_cell(model, colour_folder, tmp_path, monkeypatch):
    def run(out=None):
        return fw.evaluate(
            model,
            f"folder:{colour_folder}",
            "imagenet_c/gaussian_noise: [1, 2]",
            out=out,
            bootstrap=100,
            device="cpu",
        )

    whole = run()
    with monkeypatch.context() as patch:
        done = dying_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    assert done == ["clean", "imagenet_c/gaussian_noise,severity=1"]
    assert len(list((tmp_path / "run").glob("predictions/*/seed-0/test/*.parquet"))) == 2
    done = dying_after(monkeypatch, 3)
    pd.testing.assert_frame_equal(run(tmp_path / "run").scores, whole.scores)
    assert done == ["imagenet_c/gaussian_noise,severity=2"]


def test_a_limit_is_a_stratified_subset_and_marks_every_number(model, colour_folder):
    said = []
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "clean",
        limit=12,
        bootstrap=100,
        device="cpu",
        progress=keep_lines(said),
    ).scores
    assert (images_of(table) == 12).all()
    assert any("n = 12 of 60, a stratified subset" in line for line in said)


def test_a_set_without_parts_is_tested_whole(model, colour_folder):
    test = colour_folder / "test"
    table = fw.evaluate(model, f"folder:{test}", "clean", bootstrap=100, device="cpu").scores
    assert (images_of(table) == 60).all()
    table = fw.evaluate(
        model,
        f"folder:{test}",
        "clean",
        validation_fraction=0.25,
        variants=["temperature"],
        bootstrap=100,
        device="cpu",
    ).scores
    assert (images_of(table) == 45).all()
    assert set(table["model"]) == {"by_colour-make", "by_colour-make+temperature"}


def test_a_runs_own_data_are_cut_as_they_were_for_its_training(colour_folder, tmp_path):
    source = f"folder:{colour_folder / 'train'}"
    model = {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}
    study = check_study(
        {
            "name": "own",
            "data": {"source": source, "size": 16},
            "seeds": [0],
            "models": {"basic": model},
            "bootstrap": 100,
        }
    )
    run = fw.run(study, out=tmp_path / "run", device="cpu")
    place, said = f"run:{run.path}/models/basic/seed-0", []
    options = {"bootstrap": 100, "device": "cpu", "progress": keep_lines(said)}
    table = fw.evaluate(place, source, "clean", **options).scores
    assert (images_of(table) == 18).all()  # a fifth of 90 was set apart as test images
    assert any(line.startswith("fitting ") and "run that trained" in line for line in said)
    assert accuracy(table) == accuracy(run.scores)
    # Other data are whole, at the size that the model was trained on.
    table = fw.evaluate(place, f"folder:{colour_folder / 'test'}", "clean", **options).scores
    assert (images_of(table) == 60).all()
    assert any("16 x 16" in line for line in said)


def test_costs_are_scored_under_shifts_in_slices_and_for_variants(model, colour_folder, tmp_path):
    paths = sorted(path.relative_to(colour_folder) for path in colour_folder.rglob("*.png"))
    table = tmp_path / "sites.csv"
    rows = [f"{path.as_posix()},{'AB'[k % 2]}" for k, path in enumerate(paths)]
    table.write_text("\n".join(["file,site", *rows]) + "\n")
    run = evaluated(
        model,
        colour_folder,
        tmp_path / "run",
        "brightness_factor: [0.1, 0.2]",
        costs=("missed blue: 20", "review: 0.5"),
        validation_fraction=0.3,
        variants=("temperature",),
        metadata=table,
        slices=("site",),
    )
    costs = {"blue": (0, 20, 20, 0.5), "green": (1, 0, 1, 0.5), "red": (1, 1, 0, 0.5)}
    assert run.record.settings.costs == costs
    bayes = run.scores[run.scores["metric"] == "bayes_cost"].set_index(["model", "shift", "level"])
    names = ["by_colour-make", "by_colour-make+temperature"]
    levels = [("clean", "none")]
    levels += [("brightness_factor", level) for level in ("0.1", "0.2", "mean", "worst")]
    assert {(name, *level) for name in names for level in levels} <= set(bayes.index)
    cells = {level: bayes.loc[(names[1], *level)] for level in levels}
    mean = (cells[levels[1]]["value"] + cells[levels[2]]["value"]) / 2
    assert cells["brightness_factor", "mean"]["value"] == pytest.approx(mean)
    stored = run.folder.read_predictions(f"predictions/{names[1]}/seed-0/test/clean.parquet")
    decided = fw.metrics.bayes_decisions(
        fw.metrics.softmax(stored.logits), np.array(list(costs.values()))[:, :3]
    )
    value = fw.metrics.expected_cost(decided.decision, stored.labels, list(costs.values()))
    assert cells["clean", "none"]["value"] == pytest.approx(value, abs=1e-7)
    sites = pd.read_csv(run.path / "slices.csv").query("metric == 'cost_with_review'")
    assert {"site=A", "site=B", "worst site"} <= set(sites["slice"])


def test_each_class_is_measured_and_one_at_its_operating_point(model, colour_folder, tmp_path):
    run = evaluated(
        model,
        colour_folder,
        tmp_path / "run",
        "brightness_factor: [0.1, 0.2]",
        operating_points=("blue=0.2", "red=0.9"),
        ordered_classes=True,
    )
    table = run.scores
    clean = fw.predict(fw.load_model(model), fw.load_data(f"folder:{colour_folder}").test)
    label = clean.classes.index("blue")
    truth = clean.labels == label
    calls = fw.metrics.softmax(clean.logits)[:, label] >= 0.2
    sensitivity, recall = (calls & truth).sum() / truth.sum(), clean.correct[truth].mean()
    assert accuracy(table, metric="sensitivity/blue@0.2") == pytest.approx(sensitivity, abs=1e-7)
    assert accuracy(table, metric="sensitivity/blue") == pytest.approx(recall, abs=1e-7)
    kappa = fw.metrics.quadratic_kappa(clean.predicted, clean.labels)
    assert accuracy(table, metric="quadratic_kappa") == pytest.approx(kappa, abs=1e-7)
    of_blue = table[table["metric"] == "ppv/blue@0.2"]
    conditions = zip(of_blue["shift"], of_blue["level"], strict=True)
    assert list(conditions) == [("clean", "none"), ("brightness_factor", "mean")]
    assert (of_blue["n"] == truth.sum()).all()
    assert run.record.settings.operating_points == {"blue": 0.2, "red": 0.9}
    verdicts = judge(RunFolder(run.path), read_rules(["sensitivity[clean|class=blue@0.2] > 0"]))
    assert verdicts[0].value == pytest.approx(sensitivity, abs=1e-7)
    with pytest.raises(InputError, match=r"operating point blue=0.2, operating point red=0.9"):
        evaluated(model, colour_folder, tmp_path / "run", "brightness_factor: [0.1, 0.2]")


@pytest.mark.parametrize(
    ("points", "complaint"),
    [
        (("blu=0.2",), "unknown class of an operating point 'blu'; did you mean 'blue'"),
        (("blue",), "is a threshold or a target, such as 0.3, .*, found 'blue'"),
        (("blue=1.5",), "is a threshold or a target, .* found 'blue=1.5'"),
        (("blue=sensitivity=2",), "found 'blue=sensitivity=2'"),
        (("sensitivity=0.9",), "sensitivity=0.9 is chosen on validation images, which .* not have"),
    ],
)
def test_operating_points_that_cannot_be_are_refused(
    model, colour_folder, tmp_path, points, complaint
):
    with pytest.raises(InputError, match=complaint):
        evaluated(model, colour_folder, tmp_path / "run", operating_points=points)
    assert not (tmp_path / "run" / "record.json").exists()


def test_priors_reweigh_the_clean_images(model, colour_folder, tmp_path):
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "brightness_factor: [0.1]",
        out=tmp_path / "run",
        priors={"blue_skies": {"blue": 0.9}, "meadow": {"green": 0.8, "blue": 0.1, "red": 0.1}},
        bootstrap=100,
        device="cpu",
    ).scores
    clean = fw.predict(fw.load_model(model), fw.load_data(f"folder:{colour_folder}").test)
    recall = [clean.correct[clean.labels == label].mean() for label in range(3)]
    expected = np.dot(recall, [0.9, 0.05, 0.05])
    assert accuracy(table, "priors/blue_skies") == pytest.approx(expected, abs=1e-7)
    both = [accuracy(table, f"priors/{name}") for name in ("blue_skies", "meadow")]
    assert accuracy(table, "priors/worst") == min(both)
    shifted = accuracy(table, "brightness_factor", "mean")
    assert accuracy(table, "all", "mean") == pytest.approx(shifted, abs=1e-7)


def test_another_data_set_is_told_apart_by_confidence(model, colour_folder, tmp_path):
    table = fw.evaluate(
        model,
        f"folder:{colour_folder}",
        "clean",
        out=tmp_path / "run",
        ood=["mnist5k"],
        limit=40,
        bootstrap=100,
        device="cpu",
    ).scores
    rows = table[table["shift"] == "ood/mnist5k"]
    assert "detection_auroc" in set(rows["metric"])
    stored = predictions_file(NAME, 0, "clean", part="mnist5k")
    columns = pd.read_parquet(tmp_path / "run" / stored)
    scores = [f"ood/{name}" for name in ("max_logit", "energy", "entropy")]
    # Its labels mean nothing here, and there are no known images beside those that are tested.
    assert list(columns) == ["keys", "predicted", "confidence", *scores]
    clean = pd.read_parquet(tmp_path / "run" / predictions_file(NAME, 0, "clean"))
    pairs = clean["confidence"].to_numpy()[:, None] - columns["confidence"].to_numpy()
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert accuracy(table, "ood/mnist5k", metric="detection_auroc") == pytest.approx(
        expected, abs=1e-7
    )


class Linear(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, classes)

    def forward(self, images):
        return self.linear(images.mean((2, 3)))


def test_a_module_and_a_data_set_in_memory(colour_folder, tmp_path):
    dataset = fw.load_data(f"folder:{colour_folder}")
    module = Linear().train()
    attack = fw.make_attack("fgsm", epsilon=0.1)
    table = fw.evaluate(module, dataset, [attack], out=tmp_path, bootstrap=100, device="cpu").scores
    assert set(table["model"]) == {"Linear"}
    assert module.training  # as it came
    expected = fw.predict(module, dataset.test, device="cpu").correct.mean()
    assert accuracy(table) == pytest.approx(expected, abs=1e-7)
    with torch.no_grad():
        module.linear.bias[0] += 5
    with pytest.raises(InputError, match=r"another model called 'Linear'.*--replace"):
        fw.evaluate(module, dataset, [attack], out=tmp_path, bootstrap=100, device="cpu")
    again = fw.evaluate(module, dataset, [attack], bootstrap=100, device="cpu").scores
    expected = fw.predict(module, dataset.test, device="cpu").correct.mean()
    assert accuracy(again) == pytest.approx(expected, abs=1e-7)


QUICK = {"bootstrap": 100, "device": "cpu"}


class ByColour(nn.Module):
    """Its outputs are in this order."""

    order = ("red", "green", "blue")

    def forward(self, images):
        colours = torch.tensor([COLOURS[name] for name in self.order])
        return 10 * images.mean((2, 3)) @ (colours - 127.5).T / 127.5


@pytest.mark.parametrize("attribute", ["classes", "class_names"])
@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_a_module_that_names_its_outputs_is_matched_by_name(colour_folder, attribute, kind):
    data = fw.load_data(f"folder:{colour_folder}")
    named = ByColour()
    setattr(named, attribute, kind(named.order))
    run = fw.evaluate(named, data, "clean", **QUICK)
    assert run.record.models["ByColour"].facts["labels"] == "the model's 3 classes, matched by name"
    in_order = fw.evaluate(ByColour(), data, "clean", **QUICK)
    labels = in_order.record.models["ByColour"].facts["labels"]
    assert labels == "in order: the model names no classes"
    first, second = (
        each.folder.read_predictions(predictions_file("ByColour", 0, "clean"))
        for each in (run, in_order)
    )
    np.testing.assert_allclose(first.logits, second.logits[:, ::-1], rtol=1e-6)
    assert accuracy(run.scores) > accuracy(in_order.scores)


@pytest.mark.parametrize("names", [4, None, [0, 1, 2], [], "red", {"red": 0}, ["red", 1]], ids=str)
def test_what_is_no_list_of_texts_names_no_outputs(names):
    module = ByColour()
    module.classes = names
    assert read_class_names(module) is None
    module.class_names = {0: "red", 1: "green", 2: "blue"}
    assert read_class_names(module) == ("red", "green", "blue")


def test_outputs_of_a_module_with_too_few_names_are_given_by_number(colour_folder):
    module, data = ByColour(), fw.load_data(f"folder:{colour_folder}")
    module.classes = ["red", "green"]
    given = {name: number for number, name in enumerate(data.classes)}
    named = fw.evaluate(module, data, "clean", **QUICK, class_map=given).scores
    module.classes = None
    in_order = fw.evaluate(module, data, "clean", **QUICK).scores
    pd.testing.assert_frame_equal(named, in_order)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["red", "green"], "the model names 2 classes but has 3 outputs"),
        (["red", "gren", "blue"], "no class for 1 of the data's 3: 'green'.*is 'gren'"),
    ],
    ids=str,
)
def test_wrong_names_of_a_modules_outputs_are_one_sentence(colour_folder, names, words):
    module = ByColour()
    module.classes = names
    with pytest.raises(InputError, match=words):
        fw.evaluate(module, fw.load_data(f"folder:{colour_folder}"), "clean", **QUICK)


def test_without_a_folder_the_run_lasts_as_long_as_the_result(
    model, colour_folder, tmp_path, monkeypatch
):
    (tmp_path / "passing").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    run = evaluated(model, colour_folder, None)
    assert run.path.is_relative_to(tmp_path / "passing")
    assert (run.path / "report.html").is_file()
    del run
    gc.collect()
    assert not list((tmp_path / "passing").iterdir())
    with monkeypatch.context() as patch:
        dying_after(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            evaluated(model, colour_folder, None)
    assert not list((tmp_path / "passing").iterdir())


def checkpoint(folder):
    """A network with weights in a file, as another program leaves them."""
    network = timm.create_model("test_resnet", num_classes=3)
    torch.save({"state_dict": network.state_dict()}, folder / "x.pt")
    return str(folder / "x.pt")


def softmaxed(folder):
    text = (folder / "by_colour.py").read_text()
    answer = "return (10 * images.mean((2, 3)) @ self.colours.T)"
    text = text.replace(answer.replace("(10", "10").replace("T)", "T"), f"{answer}.softmax(1)")
    (folder / "softmaxed.py").write_text(text)
    return f"python:{folder / 'softmaxed.py'}:make"


def trained(folder, colour_folder):
    entry = {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}
    study = {
        "name": "trained",
        "data": {"source": f"folder:{colour_folder}", "size": 16},
        "seeds": [0],
        "models": {"basic": entry},
        "bootstrap": 100,
    }
    run = fw.run(check_study(study), out=folder / "trained", device="cpu")
    return f"run:{run.path}/models/basic/seed-0"


STATISTICS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
OTHERS = {"ood": ["mnist5k"], "limit": 30}  # a few images of another set


@pytest.mark.parametrize(
    ("of", "options"),
    [
        ("file", {"variants": ["temperature"], "validation_fraction": 0.2, **OTHERS}),
        ("file", {"limit": 12, "class_map": {"blue": "red", "green": "green", "red": "blue"}}),
        ("softmaxed", {}),
        ("checkpoint", {"architecture": "timm:test_resnet", "size": 24, **STATISTICS}),
        pytest.param(
            "checkpoint",
            {"architecture": "timm:test_resnet", "input_size": 24, **STATISTICS},
            marks=pytest.mark.nightly,
        ),
        ("trained", {"variants": ["batchnorm"]}),
    ],
    ids=str,
)
def test_every_step_can_be_done_by_who_has_nothing_but_the_plan(
    model, colour_folder, tmp_path, of, options
):
    model = {
        "file": lambda: model,
        "softmaxed": lambda: softmaxed(tmp_path),
        "checkpoint": lambda: checkpoint(tmp_path),
        "trained": lambda: trained(tmp_path, colour_folder),
    }[of]()
    options = {"bootstrap": 100, "device": "cpu"} | options
    shifts = ["gamma: [2]", "fgsm,epsilon=8/255"]
    folder = fw.evaluate(
        model, f"folder:{colour_folder}", shifts, out=tmp_path / "run", **options
    ).folder
    tested = expand_with_clean(shifts)
    request = ModelRequest((model,), f"folder:{colour_folder}", tested, check_options(options))
    found = plan_evaluation(request, folder.path)
    assert set(found.table["state"]) == {"done"}
    plan = Plan.model_validate_json(found.plan.model_dump_json())
    worker, other = Worker(plan, device="cpu"), RunFolder(tmp_path / "other")
    other.write("record.json", (folder.path / "record.json").read_bytes())
    for step in plan.steps:
        done = perform(step, worker, other, silent)
        left = {name: other.checksum(name) for name in list_written(step, done, other)}
        # The page says how long the networks took, which no second try repeats.
        other.write(f"steps/{step.id}.json", (folder.path / f"steps/{step.id}.json").read_bytes())
        assert left == folder.step(step.id).files, step.id


def test_the_signature_names_every_option_with_its_default():
    parameters = inspect.signature(fw.evaluate).parameters
    first = ["model", "dataset", "shifts", "predictions", "labels", "readers", "out", "replace"]
    assert list(parameters)[:9] == [*first, "progress"]
    for option in dataclasses.fields(EvaluationOptions):
        assert parameters[option.name].default == option.default
    with pytest.raises(InputError, match=r"'batchsize'.*'batch_size'"):
        fw.evaluate("x", "y", batchsize=3)
    with pytest.raises(InputError, match=r"bootstrap .*100.* 3"):
        fw.evaluate("x", "y", bootstrap=3)


@pytest.mark.parametrize("models", [None, [], {}], ids=str)
def test_no_model_is_not_taken_for_predictions(models):
    with pytest.raises(InputError, match=r"needs a model; only predictions:FILE needs none"):
        fw.evaluate(models, "digits")


def evaluated(model, colour_folder, out, shifts="clean", **options):
    options = {"bootstrap": 100, "device": "cpu"} | options
    return fw.evaluate(model, f"folder:{colour_folder}", shifts, out=out, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 7}, "batch_size: 256, now 7"),
        ({"limit": 12}, ".*, now .*"),
        ({"threads": 2}, "threads: 1, now 2"),
        ({"shift_seed": 1}, "seed: 0, now 1"),
    ],
    ids=str,
)
def test_other_options_replace_what_depends_on_them_only_when_told(
    model, colour_folder, tmp_path, options, words
):
    out = tmp_path / "run"
    evaluated(model, colour_folder, out)
    before = (out / "scores.csv").read_bytes()
    words = rf"predictions/by_colour-make/seed-0/test/clean \({words}\);.*--replace, or"
    with pytest.raises(InputError, match=words):
        evaluated(model, colour_folder, out, **options)
    assert (out / "scores.csv").read_bytes() == before
    table = evaluated(model, colour_folder, out, replace=True, **options).scores
    assert (images_of(table) == options.get("limit", 60)).all()
    alone = evaluated(model, colour_folder, tmp_path / "alone", **options).scores
    pd.testing.assert_frame_equal(table, alone)


def test_what_only_the_scores_depend_on_needs_no_word(model, colour_folder, tmp_path):
    out = tmp_path / "run"
    evaluated(model, colour_folder, out, "gamma: [2]")
    stored = out / predictions_file(NAME, 0, "gamma,exponent=2")
    before = stored.stat().st_mtime_ns
    more = {"bootstrap": 200, "title": "By colour", "priors": {"blue_skies": {"blue": 0.9}}}
    table = evaluated(model, colour_folder, out, ["gamma: [2, 3]"], **more).scores
    assert {"gamma", "priors/blue_skies"} <= set(table["shift"])
    assert stored.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def whole(colour_folder, tmp_path_factory):
    """A model, all that an evaluation of it was asked for, and its run: to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    model, asked = (
        write_model(folder),
        {
            "shifts": "gamma: [2]",
            "variants": ("temperature",),
            "priors": {"blue_skies": {"blue": 0.9}},
            "ood": ("mnist5k",),
            "limit": 30,
            "validation_fraction": 0.2,
        },
    )
    evaluated(model, colour_folder, folder / "run", **asked)
    return model, asked, folder / "run"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifts": "clean"}, "shift gamma,exponent=2"),
        ({"variants": ()}, r"model by_colour-make\+temperature"),
        ({"priors": None}, "priors blue_skies"),
        ({"ood": ()}, "ood mnist5k"),
    ],
    ids=str,
)
def test_what_the_scores_have_is_not_dropped_without_a_word(
    whole, colour_folder, tmp_path, options, words
):
    model, asked, run = whole
    out = shutil.copytree(run, tmp_path / "run")
    before = (out / "scores.csv").read_bytes()
    fewer = asked | options
    with pytest.raises(InputError, match=f": {words}; .*--replace"):
        evaluated(model, colour_folder, out, **fewer)
    assert (out / "scores.csv").read_bytes() == before
    table = evaluated(model, colour_folder, out, replace=True, **fewer).scores
    alone = evaluated(model, colour_folder, tmp_path / "alone", **fewer).scores
    pd.testing.assert_frame_equal(table, alone)


def test_numbers_of_what_is_about_to_change_do_not_stay(
    model, colour_folder, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    evaluated(model, colour_folder, out, "gamma: [2]")
    assert (out / "scores.csv").is_file()
    with monkeypatch.context() as patch:
        dying_after(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            evaluated(model, colour_folder, out, "gamma: [2]", limit=30, replace=True)
    for name in ("scores.csv", "report.html", "tables/summary_accuracy.md"):
        assert not (out / name).exists(), name
    with pytest.raises(InputError, match="has not been scored yet"):
        fw_report(out)
    # What stands there is of the first settings still, but for what had to go.
    assert (images_of(evaluated(model, colour_folder, out, "gamma: [2]").scores) == 60).all()


def fw_report(folder):
    from fairweather.report.building import build_report
    from fairweather.runs.folder import open_finished_run

    return build_report(open_finished_run(folder))


def test_a_lack_of_memory_is_told(colour_folder):
    class Small(Linear):
        def forward(self, images):
            if len(images) > 16:
                raise MemoryError
            return super().forward(images)

    said = []
    dataset = fw.load_data(f"folder:{colour_folder}")
    fw.evaluate(Small(), dataset, "clean", bootstrap=100, device="cpu", progress=keep_lines(said))
    halved = [line for line in said if "memory ran out" in line]
    assert len(dataset.test) == 60
    assert [line.split()[-1] for line in halved] == ["30", "15"]


def test_logits_that_are_no_numbers_are_said_before_anything_is_written(colour_folder, tmp_path):
    module = Linear()
    torch.nn.init.constant_(module.linear.bias, float("nan"))
    with pytest.raises(InputError, match=r"Linear .*not finite"):
        fw.evaluate(module, fw.load_data(f"folder:{colour_folder}"), "clean", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a", "must be like NAME"),
        ("", "must be like NAME"),
        ("v: {blue: 0.5}\nw: 0.5", "found 0.5 for 'w'"),
        ("w: {blue: half}", "found 'half' for 'blue'"),
        ("worst: {blue: 0.5}", "'worst'.* choose another"),
    ],
)
def test_a_file_of_priors_that_says_something_else_is_one_sentence(tmp_path, text, words):
    (tmp_path / "priors.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_priors(tmp_path / "priors.yaml")


def test_a_checkpoint_at_the_size_given_is_what_the_other_program_measures(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3).eval()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    source = f"folder:{tmp_path / 'data'}"
    images = fw.load_data(source, test_fraction=1).test
    inputs = images.images.float() / 255 - torch.tensor(mean).reshape(3, 1, 1)
    inputs /= torch.tensor(std).reshape(3, 1, 1)
    with torch.inference_mode():
        expected = network(inputs).numpy()
    for sizes in ({"size": 32}, {"input_size": 32}, {"size": 32, "input_size": 32}):
        out = tmp_path / "-".join(map(str, sizes))
        options = {"architecture": "timm:test_resnet", "mean": mean, "std": std, **sizes}
        fw.evaluate(
            str(tmp_path / "x.pt"), source, "clean", out=out, bootstrap=100, device="cpu", **options
        )
        found = RunFolder(out).read_predictions(predictions_file("x", 0, "clean"))
        np.testing.assert_allclose(found.logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shifts": "gausian_blur"}, "unknown suite, shift or attack 'gausian_blur'; did you mean"),
        ({"shifts": "gaussian_blur"}, "sigma"),
        ({"variants": ["temperature"]}, "temperature is fitted on validation images"),
        (
            {"variants": ["batchnorm"]},
            "by_colour.py:make: batchnorm needs batch norm, and PyTorch finds none",
        ),
        ({"priors": {"p": {"bleu": 0.5}}}, "did you mean 'blue'"),
        ({"priors": {"p": {"blue": 1.5}}}, "must be probabilities"),
        ({"device": "gpu"}, "device"),
        ({"limit": 2}, "limit"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    model, colour_folder, tmp_path, options, words
):
    arguments = {"shifts": "clean", "device": "cpu"} | options
    data = f"folder:{colour_folder / 'test'}"
    with pytest.raises(InputError, match=words) as caught:
        fw.evaluate(model, data, out=tmp_path / "run", **arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ("folder:{}/tets", {}, "tets'; did you mean 'test'"),
        ("folder:{}/test", {"ood": ["folder:nowhere"]}, "nowhere"),
        ("folder:{}/test", {"shifts": "gausian_blur"}, "gaussian_blur"),
        ("folder:{}/test", {"class_map": Path("nowhere.yaml")}, "nowhere.yaml"),
        ("folder:{}/test", {"priors": Path("nowhere.yaml")}, "nowhere.yaml"),
        ("folder:{}/test", {"variants": ["temprature"]}, "temperature"),
        ("folder:{}/test", {"variants": ["temperature"]}, "validation_fraction"),
        ("folder:{}/test", {"validation_fraction": 2}, "validation_fraction"),
        ("folder:{}/test", {"out": Path("/dev/null/run")}, "/dev/null"),
        ("folder:{}/test", {"mean": (0.5, 0.5, 0.5), "classes": 3}, "classes"),
        ("folder:{}/test", {"classes": ["a", "b"]}, "a model: class_map says which of its outputs"),
        ("folder:{}/test", {"findings": ["a"]}, r"csv:PATH,findings=A\|B"),
        ("folder:{}/test", {"device": "gpu"}, "device"),
    ],
)
def test_what_is_cheap_to_check_is_checked_before_weights_are_fetched(
    colour_folder, monkeypatch, data, options, words
):
    def fetched(*_, **__):
        raise AssertionError("weights were opened")

    monkeypatch.setattr("fairweather.requests.evaluation.models.open_with_options", fetched)
    arguments = {"shifts": "clean"} | options
    with pytest.raises(InputError, match=words):
        fw.evaluate("timm:resnet18", data.format(colour_folder), **arguments)


def test_a_mistyped_model_is_told_before_data_are_fetched(monkeypatch):
    def fetched(*_, **__):
        raise AssertionError("data were fetched")

    monkeypatch.setattr("fairweather.requests.evaluation.models.list_source", fetched)
    with pytest.raises(InputError, match="resnet50"):
        fw.evaluate("timm:resnet5", "cifar10", "clean")
    with pytest.raises(AssertionError, match="fetched"):
        fw.evaluate("timm:resnet50", "cifar10", "clean")


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"verified": True, "md5": "a8b069"}, "^verified .*published MD5, a8b069"),
        ({"verified": False, "verification": "none are published"}, "^not verified .*none are"),
        ({}, None),
    ],
)
def test_it_is_told_whether_files_were_verified(model, colour_folder, notes, words):
    data, said = fw.load_data(f"folder:{colour_folder}", size=32), []
    data = replace(data, notes={**data.notes, **notes})
    fw.evaluate(model, data, "clean", bootstrap=100, progress=keep_lines(said), device="cpu")
    found = [line for line in said if "verified" in line]
    assert len(found) == (words is not None)
    assert (re.search(words, found[0]) is not None) if words else not found


def test_the_interval_at_the_terminal_is_the_one_of_the_scores(toy_images):
    class Often(nn.Module):
        """Right for two classes of three, so that the ends are those of resampled images."""

        def forward(self, images):
            bright = images.mean(dim=(2, 3))[:, [2, 1, 0]]
            return torch.stack([bright[:, 0], bright[:, 1], bright[:, 2] - 9], dim=1) * 50

    said = []
    several = Images(
        toy_images.images.repeat(4, 1, 1, 1),
        toy_images.labels.repeat(4),
        torch.arange(384),
        toy_images.classes,
    )
    data = fw.Dataset("toy", None, None, several, (0.5,) * 3, (0.5,) * 3)
    options = {"bootstrap": 100, "progress": keep_lines(said), "device": "cpu"}
    table = fw.evaluate(Often(), data, "clean", **options).scores
    clean = table[(table["shift"] == "clean") & (table["metric"] == "accuracy")].iloc[0]
    (line,) = [line for line in said if line.startswith("clean ")]
    shown = [float(number) / 100 for number in re.findall(r"([\d.]+)%", line)]
    assert shown == pytest.approx([clean["value"], clean["low"], clean["high"]], abs=0.00051)


def test_an_interval_that_ends_at_the_value_says_why(colour_folder):
    class Right(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))[:, [2, 1, 0]] * 50

    said = []
    data = fw.load_data(f"folder:{colour_folder}")
    fw.evaluate(Right(), data, "clean", bootstrap=100, progress=keep_lines(said), device="cpu")
    assert "100.0%]" in said[-1]
    assert "no image is wrong" in said[-1]


def test_another_models_folder_is_not_overwritten(model, colour_folder, tmp_path):
    options = {"out": tmp_path / "run", "bootstrap": 100, "device": "cpu"}
    fw.evaluate(model, f"folder:{colour_folder}", "clean", **options)
    with pytest.raises(InputError, match=r"run .*'by_colour-make-on-.*--out"):
        fw.evaluate(Linear(), fw.load_data(f"folder:{colour_folder}"), "clean", **options)


def test_a_wrong_number_of_outputs_or_pixels_is_one_sentence(colour_folder):
    with pytest.raises(InputError, match="4"):
        fw.evaluate(Linear(4), fw.load_data(f"folder:{colour_folder}"), "clean", device="cpu")
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    with pytest.raises(InputError, match=r"16x16.* size or input_size"):
        fw.evaluate(narrow, fw.load_data(f"folder:{colour_folder}"), "clean", device="cpu")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"blue": 0.5}, (0.5, 0.25, 0.25)),
        ({"blue": 1.0}, (1.0, 0.0, 0.0)),
        ({"blue": 0.2, "green": 0.3, "red": 0.5}, (0.2, 0.3, 0.5)),
    ],
)
def test_priors_that_are_not_named_share_the_rest(colour_folder, asked, expected):
    test = fw.load_data(f"folder:{colour_folder}").test
    assert complete_priors({"p": asked}, test.labels.numpy(), test.classes)["p"] == pytest.approx(
        expected
    )


def test_priors_of_all_classes_must_add_up(colour_folder):
    test = fw.load_data(f"folder:{colour_folder}").test
    with pytest.raises(InputError, match=r"add up to 0\.6, not 1"):
        complete_priors(
            {"p": {"blue": 0.2, "green": 0.2, "red": 0.2}}, test.labels.numpy(), test.classes
        )


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_the_command_line_from_model_to_check_and_comparison(model, colour_folder, tmp_path, alone):
    """By night, the first command is a process of its own, which draws its report."""
    data = f"folder:{colour_folder}"
    words = ["--shift", "brightness_factor: [0.2]", "--bootstrap", "100", "--device", "cpu"]
    command = ["evaluate", model, data, *words]
    if alone:
        program = [sys.executable, "-m", "fairweather", *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with started(program, cwd=tmp_path, **pipes) as process:
            said, told = process.communicate()
        code = process.returncode
    else:
        code, said, told = fairweather(*command, cwd=tmp_path)
    assert code == 0, told
    *steps, note, end = told.splitlines()
    assert all(line.startswith("done  ") for line in steps)
    assert note.startswith("note    estimate and predict need validation images")
    assert end.startswith("next    open runs/")
    assert "clean          accuracy" in said
    folder = said.split("page    ")[1].strip().removesuffix("/report.html")
    assert (tmp_path / folder / "report.html").is_file()
    good = fairweather("check", folder, "accuracy[clean] >= 0.5", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    bad = fairweather("check", folder, "accuracy[*] >= 0.999", "--junit", "out.xml", cwd=tmp_path)
    assert bad.returncode == 1
    assert "accuracy" in bad.stdout
    assert "<testsuite" in (tmp_path / "out.xml").read_text()
    wrong = fairweather("check", folder, "acuracy[clean] >= 0.5", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "accuracy" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    other = write_model(tmp_path, classes=["green", "red", "blue"])
    done = fairweather("evaluate", other, data, *words, "--out", "other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = fairweather("compare", folder, "other", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "real" in compared.stdout
    tables = sorted((tmp_path / folder / "tables").glob("compare_*.csv"))
    assert [table.stem.endswith("_classes") for table in tables] == [False, True]
    assert all(str(table.relative_to(tmp_path)) in compared.stdout for table in tables)
