"""A guard of several findings keeps its promise about each, and is the same as a folder."""

import csv
import json
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data.loading import load_data
from fairweather.deploy import making
from fairweather.deploy.guard import FindingsGuard, GuardOutputs
from fairweather.deploy.loading import make_promise
from fairweather.deploy.promise import Promise
from fairweather.deploy.tracing import trace
from fairweather.errors import InputError
from fairweather.metrics import Grouping
from fairweather.metrics.columns import clopper_pearson
from fairweather.models.wrappers import Ensemble
from fairweather.runs.folder import StoredGroups
from fairweather.steps.run_model import RunModel, open_run_model
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import MULTILABEL, UNKNOWN
from fairweather.types.record import CLEAN, VAL
from fairweather.variants.prediction_sets import split_halves
from fairweather.variants.scaling import fit_temperature
from tests.helpers.chance import most
from tests.helpers.commands import fairweather
from tests.helpers.finding_models import (
    FILE,
    NAMES,
    OFFSET,
    SCALE,
    SIDE,
    Stripes,
    draw_findings,
    write_onnx,
)
from tests.helpers.findings import draw_dataset
from tests.helpers.run_folders import finish, run_record, write_run

PROMISE = Promise(risk=0.15, certainty=0.9, coverage=None)


def reopened(folder, predictions, patients=None):
    """A model of a run that has only validation predictions."""
    record = run_record({"a": "Model A"}, classes=NAMES)
    record = record.model_copy(update={"data": record.data.model_copy(update={"task": MULTILABEL})})
    run = write_run(folder, record, None, {("a", 0, CLEAN, VAL): predictions})
    if patients is not None:
        run.write_groups(
            "groups/val.parquet", StoredGroups(predictions.keys, "patient", patients, {})
        )
        finish(run, "groups/val", ["groups/val.parquet"], kind="group")
    return RunModel(run, run.record, "a", 0, ())


def simulated(count, rng, patients=1):
    """Logits that say too much; the images of a patient have the same difficulty."""
    labels = (rng.random((count, 3)) < (0.5, 0.3, 0.2)).astype(np.int64)
    clear = np.repeat(rng.normal(2, 1.5, (count // patients, 1)), patients, axis=0)
    logits = (2 * ((2 * labels - 1) * clear + rng.normal(0, 1.5, labels.shape))).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = UNKNOWN
    keys = rng.permutation(10 * count)[:count]
    return FindingsPredictions(keys, labels, logits, NAMES)


# ---------------------------------------------------------------- the promise


def test_each_finding_is_fitted_where_it_is_known_on_one_half_and_judged_on_the_other(tmp_path):
    predictions = simulated(900, np.random.default_rng(0))
    fit = making.fit_findings(reopened(tmp_path, predictions), PROMISE)
    assert fit.certainty == pytest.approx(1 - 0.1 / 3)
    for column, fitted in enumerate(fit.findings):
        finding = select_finding(predictions, column)
        parts = split_halves(finding.keys)
        first, second = (finding.take(part) for part in parts)
        assert (fitted.finding, fitted.others) == (NAMES[column], len(first))
        assert fitted.temperature == fit_temperature(first.logits, first.labels).value
        logit = second.logits[:, 1] / np.float32(fitted.temperature)
        p = 1 / (1 + np.exp(-logit.astype(float)))
        answered = np.maximum(p, 1 - p) >= fitted.threshold - 1e-12
        wrong = answered & ((p >= 0.5) != (second.labels == 1))
        assert (fitted.images, fitted.answered) == (len(second), answered.sum())
        assert fitted.wrong == wrong.sum()
        assert fitted.bound <= PROMISE.risk


@pytest.mark.parametrize("patients", [1, 3])
@pytest.mark.parametrize("trials", [40, pytest.param(150, marks=pytest.mark.nightly)])
def test_the_promise_is_kept_for_all_findings_together(tmp_path, trials, patients):
    rng = np.random.default_rng(0)
    truth, broken, answered = simulated(60_000, rng, patients), 0, []
    alone = [select_finding(truth, column) for column in range(len(truth.classes))]
    for trial in range(trials):
        validation = simulated(900 * patients, rng, patients)
        groups = None if patients == 1 else np.arange(len(validation)) // patients
        fit = making.fit_findings(reopened(tmp_path / str(trial), validation, groups), PROMISE)
        risks = []
        for column, fitted in enumerate(fit.findings):
            if fitted.threshold is None:
                continue
            new = making.apply_temperature(alone[column], fitted.temperature)
            sure = new.confidence >= fitted.threshold
            answered.append(sure.mean())
            risks.append((~new.correct[sure]).mean())
        broken += max(risks) > PROMISE.risk
    assert broken <= most(trials, 1 - PROMISE.certainty)
    assert np.mean(answered) > 0.3  # it is no promise about nothing


def test_images_of_patients_count_once_or_as_many_as_they_are_worth(tmp_path):
    rng = np.random.default_rng(1)
    predictions, patients = simulated(1500, rng, 3), np.arange(1500) // 3
    model = reopened(tmp_path, predictions, patients)
    once = making.fit_findings(model, PROMISE)
    every = making.fit_findings(model, PROMISE.model_copy(update={"weigh": "images"}))
    for column, (one, all_) in enumerate(zip(once.findings, every.findings, strict=True)):
        known = predictions.labels[:, column] != UNKNOWN
        own = Grouping(patients).select(np.flatnonzero(known))
        second = split_halves(predictions.keys[known], own).thresholds
        assert one.images == len(np.unique(own.numbers[second]))
        assert all_.images == len(second)
    assert once.group == every.group == "patient"


def test_a_finding_that_cannot_be_promised_is_left_to_a_person(tmp_path):
    predictions = simulated(900, np.random.default_rng(0))
    labels = predictions.labels.copy()
    labels[:, 1] = np.where(np.arange(900) < 20, 1, UNKNOWN)
    labels[:, 2] = np.random.default_rng(1).integers(0, 2, 900)
    model = reopened(tmp_path, predictions.with_columns(labels=labels))
    first, few, random = making.fit_findings(model, PROMISE).findings
    assert first.threshold is not None
    assert few.threshold is few.bound is random.threshold is None
    assert few.reason == "10 validation images are too few"
    assert "of 450 validation images are wrong" in random.reason
    nothing = predictions.with_columns(labels=np.full_like(labels, UNKNOWN))
    with pytest.raises(InputError, match=r"no finding .* Effusion \(no validation image is known"):
        making.fit_findings(reopened(tmp_path / "none", nothing), PROMISE)


def test_more_findings_need_more_certainty_of_each(tmp_path):
    predictions = simulated(900, np.random.default_rng(0))
    fit = making.fit_findings(reopened(tmp_path, predictions), PROMISE)
    sure = making.fit_findings(
        reopened(tmp_path / "sure", predictions),
        PROMISE.model_copy(update={"certainty": 1 - 0.1 / 30}),
    )
    for one, more in zip(fit.findings, sure.findings, strict=True):
        assert more.threshold is None or more.threshold >= one.threshold


# ---------------------------------------------------------------- a guard of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    answer = FILE.format(classes=NAMES, scale=SCALE, offset=OFFSET, answer="logits")
    (folder / "model.py").write_text(answer)
    return fw.evaluate(
        f"python:{folder}/model.py:make",
        draw_dataset(val=900),
        ["brightness_factor: [0.6]"],
        outputs="logits",
        bootstrap=100,
        out=folder / "run",
        device="cpu",
        progress=False,
    ).path


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guards") / "guard"
    done = fairweather("guard", run, folder, "--risk", "15%", "--confidence", "90%", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "at most 15 % of the answers about each finding are wrong" in done.stdout
    assert "with 90 % confidence for all 3 findings together" in done.stdout
    for number, name in enumerate(NAMES, start=1):
        assert f"finding {number}  {name}: answered from a confidence of" in done.stdout
    assert "error rate above 15 % at" in done.stdout
    return folder


def test_a_saved_guard_says_what_the_guard_of_the_run_says(run, saved):
    own = fw.load_guard(fw.Run(run), risk=0.15, confidence=0.9, device="cpu")
    again = fw.load_guard(saved, device="cpu")
    assert isinstance(own, FindingsGuard)
    assert isinstance(again, FindingsGuard)
    assert again.record.fit == own.record.fit
    images = draw_findings(50, 7).images
    one, other = own(images), again(images)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    np.testing.assert_array_equal(one.present, other.present)
    np.testing.assert_array_equal(one.answered, other.answered)
    assert repr(again).startswith("FindingsGuard(")


def test_answers_are_what_the_record_says(saved):
    guard, images = fw.load_guard(saved, device="cpu"), draw_findings(80, 8).images
    answers, logits = guard(images), Stripes()(images.float() / 255).detach().numpy()
    for column, fitted in enumerate(guard.record.fit.findings):
        p = 1 / (1 + np.exp(-logits[:, column] / fitted.temperature))
        np.testing.assert_allclose(answers.probabilities[:, column], p, atol=1e-5)
        np.testing.assert_array_equal(answers.present[:, column], logits[:, column] >= 0)
        sure = np.maximum(p, 1 - p)
        clear = np.abs(sure - fitted.threshold) > 1e-5
        expected = sure >= fitted.threshold
        np.testing.assert_array_equal(answers.answered[clear, column], expected[clear])
    nothing = guard.record.fit.findings[0].model_copy(update={"threshold": None})
    fit = guard.record.fit.model_copy(
        update={"findings": (nothing, *guard.record.fit.findings[1:])}
    )
    left = replace(guard, record=guard.record.model_copy(update={"fit": fit}))(images)
    assert not left.answered[:, 0].any()
    np.testing.assert_array_equal(left.answered[:, 1:], answers.answered[:, 1:])


def test_what_test_images_kept_is_counted_where_a_finding_is_known(run, saved):
    guard, model = fw.load_guard(saved, device="cpu"), open_run_model(str(run))
    checks = {(check.finding, check.images): check for check in guard.record.kept}
    assert len(checks) == 2 * len(NAMES)
    for shift in ("clean", "brightness_factor,factor=0.6"):
        cell = model.run.read_cell(model.run.predictions(model.name, 0, shift))
        for column, fitted in enumerate(guard.record.fit.findings):
            known = cell.labels[:, column] != UNKNOWN
            logit = cell.logits[known, column].astype(float) / fitted.temperature
            p = 1 / (1 + np.exp(-logit))
            sure = np.maximum(p, 1 - p) >= fitted.threshold - 1e-6  # float32 is stored
            wrong = sure & ((p >= 0.5) != (cell.labels[known, column] == 1))
            check = checks[NAMES[column], shift]
            assert check.n == known.sum()
            assert check.answered == pytest.approx(sure.mean())
            assert check.risk.value == pytest.approx(wrong.sum() / sure.sum())
            low, high = clopper_pearson(wrong.sum() / sure.sum(), sure.sum())
            assert (check.risk.low, check.risk.high) == pytest.approx((float(low), float(high)))


def test_guard_json_is_readable_and_an_altered_task_is_refused(saved):
    facts = json.loads((saved / "guard.json").read_text())
    assert (facts["version"], facts["task"]) == (2, "multilabel")
    assert [fitted["finding"] for fitted in facts["fit"]["findings"]] == list(NAMES)
    assert facts["promise"]["coverage"] is None


def test_an_ensemble_of_findings_is_one_graph():
    members = [Stripes(), Stripes(scale=5.0)]
    traced = trace(members, (12, 12), FINDINGS)
    images = draw_findings(9, 3).images.float() / 255
    expected = Ensemble(members, FINDINGS)(images).detach()
    from fairweather.deploy.graph import GraphNetwork

    logits, _ = GraphNetwork(*traced)(images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_an_onnx_file_is_not_saved_as_a_guard_and_what_works_is_said(tmp_path):
    pytest.importorskip("onnxruntime")
    network = fw.load_model(f"onnx:{write_onnx(tmp_path / 'stripes.onnx')}")
    with pytest.raises(InputError, match=r"an ONNX file; without a saved guard, use .*predict RUN"):
        trace([network, network], (SIDE, SIDE), FINDINGS)


def test_an_onnx_graph_says_what_the_guard_says(run, tmp_path):
    onnxruntime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = open_run_model(str(run))
    guard = making.make_guard(model, PROMISE, device="cpu")
    making.save_onnx(guard, model, tmp_path / "guard.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "guard.onnx", providers=["CPUExecutionProvider"]
    )
    images = draw_findings(20, 5).images
    _, probabilities, confidence = session.run(None, {"images": images.numpy()})
    answers = guard(images)
    np.testing.assert_allclose(probabilities, answers.probabilities, atol=1e-5)
    sure = np.maximum(answers.probabilities, 1 - answers.probabilities)
    np.testing.assert_allclose(confidence, sure, atol=1e-5)
    stored = {each.key: each.value for each in onnx.load(tmp_path / "guard.onnx").metadata_props}
    thresholds = [fitted.threshold for fitted in guard.record.fit.findings]
    assert json.loads(stored["thresholds"]) == thresholds
    assert json.loads(stored["thresholds_present"]) == thresholds


# ---------------------------------------------------------------- the command


@pytest.fixture
def new(tmp_path):
    """A folder of images without labels."""
    folder = tmp_path / "new"
    folder.mkdir()
    for number, image in enumerate(draw_findings(40, 9).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder


def test_predict_writes_a_column_for_each_finding(saved, new, tmp_path):
    done = fairweather("predict", saved, f"images:{new}", "--out", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    guard = fw.load_guard(saved, device="cpu")
    files = sorted(new.iterdir())
    answers = guard([Image.open(path) for path in files])
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", *NAMES, *(f"probability of {name}" for name in NAMES)]
    assert [row["file"] for row in rows] == [path.name for path in files]
    for at, row in enumerate(rows):
        for column, name in enumerate(NAMES):
            said = "present" if answers.present[at, column] else "absent"
            assert row[name] == (said if answers.answered[at, column] else "review")
            p = answers.probabilities[at, column]
            assert float(row[f"probability of {name}"]) == pytest.approx(p, abs=1e-5)
    review = int((~answers.answered[:, 0]).sum())
    assert f"{review} for review" in done.stdout
    assert "40 of " in done.stdout
    assert "findings with review need a person" in done.stderr
    done = fairweather("predict", saved, f"images:{new}", "--out", tmp_path / "answers.parquet")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "answers.parquet").column_names == list(rows[0])


def test_dark_images_end_with_a_command_that_measures_findings(run, tmp_path):
    images = draw_findings(80, 9)
    dark, names = tmp_path / "dark", ",".join(["file", *NAMES])
    dark.mkdir()
    lines = [names]
    for number, (image, labels) in enumerate(zip(images.images, images.labels, strict=True)):
        pixels = (image.permute(1, 2, 0).numpy() * 0.6).astype(np.uint8)
        Image.fromarray(pixels).save(dark / f"{number:02}.png")
        lines.append(",".join([f"{number:02}.png", *map(str, labels.tolist())]))
    asked = ("--risk", "15%", "--out", tmp_path / "answers.csv", "--device", "cpu")
    done = fairweather("predict", run, f"images:{dark}", *asked)
    assert done.returncode == 4, done.stderr
    start, _, said = done.stderr.rpartition("next    ")[2].partition("fairweather evaluate MODEL ")
    assert start == "label about 100 of these images, then: "
    (dark / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = shlex.split(said)[0].replace("LABELLED", str(dark / "labels.csv"))
    assert load_data(source, test_fraction=1.0).test.labels.tolist() == images.labels.tolist()


def test_known_labels_of_new_images_count_the_wrong_answers(saved, tmp_path):
    images = draw_findings(40, 9)
    order = [2, 0, 1]  # a table may name the findings in another order
    lines = [",".join(["file", *(NAMES[place] for place in order)])]
    for number, (image, labels) in enumerate(zip(images.images, images.labels, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02}.png")
        cells = ["" if labels[place] == UNKNOWN else str(int(labels[place])) for place in order]
        lines.append(",".join([f"{number:02}.png", *cells]))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = f"csv:{tmp_path / 'labels.csv'},findings={'|'.join(NAMES[place] for place in order)}"
    done = fairweather("predict", saved, source, "--out", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    answers, labels = fw.load_guard(saved, device="cpu")(images.images), images.labels.numpy()
    for column, name in enumerate(NAMES):
        sure = answers.answered[:, column] & (labels[:, column] != UNKNOWN)
        wrong = sure & (answers.present[:, column] != (labels[:, column] == 1))
        assert f"{name}: by the labels {wrong.sum()} answers are wrong" in done.stdout


def test_a_guard_with_limits_of_findings_is_made_and_predicts(run, tmp_path):
    limits = ("--missed", "Effusion: 20%", "--false-alarms", "Effusion: 30%")
    done = fairweather("guard", run, tmp_path / "guard", *limits, "--confidence", "90%")
    assert done.returncode == 0, done.stderr
    lines = {line[:11].strip(): line[11:] for line in done.stdout.splitlines()}
    assert "present from 0." in lines["finding 1"]
    assert lines["finding 2"] == "Mass: all for review: nothing is promised about it"
    assert lines["limit 1"].startswith("at most 20 % missed among answered images of Effusion: ")
    assert lines["limit 2"].startswith(
        "at most 30 % false alarms among answered images without Eff"
    )
    images = draw_findings(60, 9)
    guard = fw.load_guard(tmp_path / "guard", device="cpu")
    for check in guard.record.kept_limits:
        assert 0 < check.n < 200
    rows = [",".join(["file", *NAMES])]
    for number, (image, labels) in enumerate(zip(images.images, images.labels, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02}.png")
        cells = ["" if label == UNKNOWN else str(int(label)) for label in labels]
        rows.append(",".join([f"{number:02}.png", *cells]))
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    source = f"csv:{tmp_path / 'labels.csv'},findings={'|'.join(NAMES)}"
    done = fairweather("predict", tmp_path / "guard", source, "--out", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    answers, labels = guard(images.images), images.labels.numpy()[:, 0]
    sure, present = answers.answered[:, 0], answers.present[:, 0]
    for label, words in ((1, "of Effusion are missed"), (0, "without Effusion are false alarms")):
        among = sure & (labels == label)
        wrong = (among & (present != label)).sum()
        assert f"by the labels {wrong} of {among.sum()} answered images {words}" in done.stdout


def test_dark_images_are_warned_of(saved):
    guard = fw.load_guard(saved, device="cpu")
    images = draw_findings(80, 9).images
    assert not guard.check(images).unlike
    assert guard.check((images.float() * 0.6).to(torch.uint8)).unlike


def test_numbers_that_are_not_finite_are_refused(saved):
    guard = fw.load_guard(saved, device="cpu")
    with pytest.raises(InputError, match="not finite"):
        guard.answers(GuardOutputs(np.full((1, 3), np.nan, np.float32), None))


def test_sets_of_classes_are_refused_with_what_there_is(run, tmp_path):
    with pytest.raises(InputError, match=r"about findings: leave it out, or .* risk_control"):
        fw.load_guard(run, risk=0.15, coverage=0.9)
    done = fairweather("guard", run, tmp_path / "guard", "--risk", "15%", "--coverage", "90%")
    assert done.returncode == 2
    assert "coverage is that of sets of classes" in done.stderr
    assert not (tmp_path / "guard").exists()
    assert make_promise(0.1).coverage == 0.9


def test_accuracy_without_labels_is_refused_with_what_to_do(run, new):
    done = fairweather("estimate", run, f"images:{new}")
    assert done.returncode == 2
    assert "estimate is about one class of each image" in done.stderr
    assert "label about 100 of the images" in done.stderr


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_predictions_has_no_model_and_names_what_has_one(tmp_path):
    table = pd.DataFrame({"Mass": [0.1, 0.9, 0.4, 0.7], "label_Mass": [0, 1, 1, 0]})
    run = fw.evaluate(predictions=table, bootstrap=100, out=tmp_path / "run", progress=False).path
    for command in (
        ("predict", run, f"images:{tmp_path}", "--risk", "5%"),
        ("guard", run, tmp_path / "guard", "--risk", "5%"),
        ("estimate", run, f"images:{tmp_path}"),
    ):
        done = fairweather(*command)
        assert done.returncode == 2
        assert "made elsewhere: evaluate the model itself" in done.stderr
