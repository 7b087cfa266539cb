"""Studies that judge patients: trainings, ensembles, attacks, pictures, small copies and seeds."""

import json

import numpy as np
import pandas as pd
import pytest

import fairweather as fw
from fairweather.deploy.making import save_guard, save_onnx
from fairweather.errors import InputError
from fairweather.metrics import softmax
from fairweather.report.samples import read_samples
from fairweather.runs.folder import RunFolder
from fairweather.steps.run_model import open_run_model
from fairweather.types.record import CLEAN, ENSEMBLE, predictions_file
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.commands import fairweather
from tests.helpers.quick_steps import quick_steps

STUDY = """
name: patients
data:
  source: "folder:{folder}"
  size: 16
  validation_fraction: 0.5
  groups: {{metadata: {folder}/people.csv, slices: [site]}}
seeds: {seeds}
ensemble: {ensemble}
threads: 1
unit: patient
aggregate: {aggregate}
ordered_classes: true
variants: [temperature, {{conformal: {{coverage: 0.5}}}}]
shifts: [{{gaussian_blur: [1]}}, {{fgsm: {{epsilon: [0.01]}}}}]
bootstrap: 100
models:
  a:
    title: A
    backbone: {backbone}
    recipe: {{epochs: 1, batch_size: 8, learning_rate: 0.01}}
"""
PROMISE = {"risk": 0.9, "confidence": 0.5, "coverage": 0.5}
ASKED = ("--risk", "90%", "--confidence", "50%", "--coverage", "50%")
PATIENTS = 12  # in the test split: three classes with 8 images of 4 patients each


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("people") / "data", train=16, test=8)
    rows = []
    for path in sorted(folder.rglob("*.png")):
        part, colour, number = *path.parts[-3:-1], int(path.stem)
        patient, site = f"{part}-{colour}-{number // 2}", "AB"[number // 2 % 2]
        rows.append(f"{part}/{colour}/{path.name},{patient},{site}")
    (folder / "people.csv").write_text("\n".join(["file,patient,site", *rows, ""]))
    return folder


def run_study(pictures, out, seeds=(0,), aggregate="auto"):
    study = out.parent / f"{out.name}.yaml"
    several = str(len(seeds) > 1).lower()
    study.write_text(
        STUDY.format(
            folder=pictures, backbone=TINY_RESNET, seeds=[*seeds], ensemble=several,
            aggregate=aggregate,
        )
    )  # fmt: skip
    with quick_steps():
        return fw.run(study, out=out, device="cpu", progress=False)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    return run_study(pictures, tmp_path_factory.mktemp("patients") / "whole", seeds=(0, 1))


def model_name(run):
    return f"{run.path}:a:0"


def test_every_number_is_of_patients(whole):
    of_all = ~whole.scores["metric"].str.contains("/(?:>=)?[012]|/(?:>=)?[a-z]+$", regex=True)
    assert set(whole.scores["n"][of_all]) == {PATIENTS}
    some = {PATIENTS // 3, 2 * PATIENTS // 3}  # of a class, and of two of three grades
    assert set(whole.scores["n"]) == {PATIENTS, *some}
    assert "groups" not in whole.scores
    assert {*whole.scores["seed"]} >= {"0", "1", "mean", ENSEMBLE}
    sizes = whole.folder.slice_scores.query("metric == 'accuracy' and level == 'none'")["n"]
    assert set(sizes) <= {PATIENTS // 2, 0}


def test_variants_are_fitted_on_patients_and_the_ensemble_is_of_images(whole):
    folder = whole.folder
    fitted = json.loads((whole.path / "variants/a+conformal-lac-0.5/seed-0/sets.json").read_text())
    patients = len(folder.read_column(predictions_file("a", 0, CLEAN, "val"), "keys"))
    assert sum(fitted["images"]) + fitted["temperature_images"] == patients
    members = [folder.read_images(predictions_file("a", seed, CLEAN)) for seed in (0, 1)]
    ensemble = folder.read_images(predictions_file("a", ENSEMBLE, CLEAN))
    expected = folder.task.combine(member.logits for member in members)
    assert np.array_equal(ensemble.logits, expected)
    for variant in ("a", "a+temperature"):
        assert len(folder.read_cell(predictions_file(variant, 0, CLEAN))) == PATIENTS


def test_a_picture_is_of_the_image_that_decides_most(whole):
    folder, samples = whole.folder, read_samples(whole.folder)
    assert samples is not None
    file = predictions_file("a", 0, CLEAN)
    images, rows, groups = folder.read_images(file), folder.read_cell(file), folder.image_groups()
    assert groups is not None
    assert max(samples.strip) < PATIENTS
    data = fw.load_data("folder:" + str(json.loads(
        (whole.path / "record.json").read_text())["data"]["notes"]["source"].partition(":")[2]
    ), size=16, progress=False)  # fmt: skip
    chances = np.exp(images.logits - np.logaddexp.reduce(images.logits, axis=1, keepdims=True))
    for patient, label in zip(samples.strip, samples.labels, strict=True):
        own = np.flatnonzero(groups.numbers == patient)
        decisive = own[chances[own, rows.predicted[patient]].argmax()]
        assert label == data.classes[rows.labels[patient]]
        shown = np.asarray(samples.strips[CLEAN][samples.strip.index(patient)].convert("RGB"))
        assert np.array_equal(shown, data.test.images[decisive].permute(1, 2, 0).numpy())
    assert samples.attacked


@pytest.mark.usefixtures("no_figures", "no_page")
def test_a_small_copy_and_joined_seeds_judge_patients_too(pictures, whole, tmp_path):
    halves = [run_study(pictures, tmp_path / f"half{seed}", seeds=(seed,)) for seed in (0, 1)]
    small = [
        fw.pack_run(half.path, tmp_path / f"small{place}") for place, half in enumerate(halves)
    ]
    joined = fw.join_seeds([run.path for run in small], out=tmp_path / "joined", progress=False)
    wanted = whole.scores.query("seed != 'ensemble'")
    keys = ["model", "seed", "shift", "level", "metric"]
    ours = joined.scores.set_index(keys)["value"].sort_index()
    theirs = wanted.set_index(keys)["value"].sort_index()
    shared = ours.index.intersection(theirs.index)
    assert ("a", "mean", "gaussian_blur", "mean", "accuracy") in shared
    assert ours[shared].to_numpy() == pytest.approx(
        theirs[shared].to_numpy(), rel=1e-5, nan_ok=True
    )
    other = run_study(pictures, tmp_path / "other", seeds=(1,), aggregate="mean")
    with pytest.raises(InputError, match="aggregate"):
        fw.join_seeds([halves[0].path, other.path], out=tmp_path / "none", progress=False)


def test_another_aggregate_keeps_trainings_and_predictions_and_fits_again(pictures, tmp_path):
    out = tmp_path / "run"
    before = {step.id: step for step in run_study(pictures, out, aggregate="mean").folder.steps()}
    run_study(pictures, out, aggregate="noisy-or")
    after = {step.id: step for step in RunFolder(out).steps()}
    kept = {name for name in before if before[name].fingerprint == after[name].fingerprint}
    own = {name for name in before if name.startswith(("models/a/", "predictions/a/", "groups"))}
    assert kept == own
    assert before["models/a/seed-0"].files == after["models/a/seed-0"].files


def test_an_estimate_is_refused(whole):
    with pytest.raises(InputError, match="judges patients, and estimate is about images"):
        fw.estimate(f"{whole.path}:a:0", "mnist5k")


def test_a_guard_answers_patients(whole, pictures, tmp_path):
    folder = whole.folder
    model = open_run_model(f"{whole.path}:a:0")
    made = fw.load_guard(model_name(whole), **PROMISE)
    save_guard(made, model, tmp_path / "guard")
    rows, groups = folder.read_cell(predictions_file("a", 0, CLEAN)), folder.image_groups()
    images = fw.load_data(f"folder:{pictures}", size=16, progress=False).test
    for guard in (made, fw.load_guard(tmp_path / "guard")):
        assert guard.record.judged.aggregate == folder.choose_aggregate("a", 0).name
        answers = guard(images.images, patients=groups.numbers.tolist())
        calibrated = softmax(rows.logits / guard.record.fit.temperature)
        assert answers.probabilities == pytest.approx(calibrated, abs=1e-4)
        assert guard.check(images.images, groups.numbers).images == PATIENTS
        with pytest.raises(InputError, match="give the patient of each of 24 images as patients"):
            guard(images.images)
        with pytest.raises(InputError, match="found 3"):
            guard(images.images, patients=["a", "b", "c"])
    assert (
        "validation patients"
        in fairweather("guard", model_name(whole), tmp_path / "b", *ASKED).stdout
    )
    with pytest.raises(InputError, match="an ONNX file answers images"):
        save_onnx(made, model, tmp_path / "model.onnx")


def test_predict_has_a_row_for_each_patient(whole, pictures, tmp_path):
    table, people = tmp_path / "answers.csv", pictures / "people.csv"
    asked = ["predict", model_name(whole), f"folder:{pictures}", *ASKED, "--out", table]
    assert "--metadata" in fairweather(*asked).stderr
    result = fairweather(*asked, "--metadata", people)
    assert result.returncode in (0, 4), result.stderr
    assert f"{PATIENTS} of" in result.stdout
    answers = pd.read_csv(table)
    assert len(answers) == PATIENTS
    assert set(answers["patient"]) == set(
        pd.read_csv(people).query("file.str.startswith('test')")["patient"]
    )
    rows = whole.folder.read_cell(predictions_file("a", 0, CLEAN))
    names = [whole.folder.record.data.classes[place] for place in rows.predicted]
    assert answers["class"].tolist() == names


def test_a_comparison_with_images_is_refused(whole, pictures, tmp_path):
    study = (whole.path.parent / "whole.yaml").read_text()
    plain = tmp_path / "plain.yaml"
    lines = [line for line in study.splitlines() if not line.startswith(("unit", "aggregate"))]
    plain.write_text("\n".join(lines).replace("slices: [site]", "slices: [site], group: patient"))
    with quick_steps():
        images = fw.run(plain, out=tmp_path / "images", device="cpu", progress=False)
    with pytest.raises(InputError, match=r"judges patients and .* images: measure both"):
        fw.compare_runs(whole.path, images.path)
