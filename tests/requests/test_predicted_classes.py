"""Runs of predicted classes: the numbers of full probabilities, and nothing that needs these."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.runs.folder import RunFolder
from fairweather.types.record import predictions_file
from tests.helpers.commands import fairweather

pytestmark = pytest.mark.usefixtures("undrawn")

NAMES = ("cat", "dog", "fox")
NEED_OTHERS = (
    *("negative_log_likelihood", "brier_score", "macro_auc", "macro_pr_auc", "top5_accuracy"),
    *("classwise_calibration_error", "ranked_probability_score", "cumulative_calibration_error"),
    *("auc/", "pr_auc/", "calibration_slope/", "calibration_intercept/", "ici_4_knots/"),
    *("recalibration_intercept/", "observed_expected_ratio/", "bayes_cost", "cost_with_review"),
    *("reviewed_share", "sensitivity/>=", "specificity/>=", "ppv/>=", "npv/>=", "f1/>=", "mcc/>="),
)
NEED_CONFIDENCE = (
    *("calibration", "confidence", "average_confidence", "coverage", "area_under", "excess_area"),
    *("brier_", "risk_above", "atc_", "ici_", "observed_expected", "recalibration"),
    *("expected_cal", "maximum_cal", "rms_cal", "debiased_cal"),
)


def drawn(seed=0, n=120, classes=3, labels=None):
    """Labels, and probabilities that mostly fit them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n) if labels is None else labels
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, scipy.special.softmax(logits, axis=1)


def frames(seeds=(0,), shifts=("",), classes=NAMES, n=120):
    """The tables of each seed and shift, with labels, by the names of files."""
    labels, _ = drawn(99, n, len(classes))
    tables = {}
    for seed in seeds:
        for number, shift in enumerate(shifts):
            draw = drawn(7 * seed + number, n, len(classes), labels)[1]
            table = pd.DataFrame(draw, columns=list(classes))
            name = f"net-seed{seed}" + (f"-{shift}" if shift else "")
            tables[name] = table.assign(image=[f"{at}.png" for at in range(n)])
            tables[name]["label"] = np.array(classes)[labels]
    return tables


def test_messages_say_what_can_be_done(tmp_path):
    labels, shares = drawn()
    table = pd.DataFrame({"image": [f"{at}.png" for at in range(120)], "label": labels})
    table = table.assign(predicted=shares.argmax(1), confidence=shares.max(1))
    run = fw.evaluate(predictions=table, out=tmp_path / "run", bootstrap=100, progress=None)
    for rule, told in {
        "auc[clean|class=1] >= 50%": r"no auc/1: it needs the probability of each class",
        "accuracy[imagenet-c-files/fog,severity=3] >= 1%": "unknown shift 'imagenet-c-files/fog'",
    }.items():
        with pytest.raises(InputError, match=told):
            judge(run.folder, read_rules([rule]))


def as_predicted(run, tables, *, confidence=True):
    """The same as predicted classes, with the confidences that a run of probabilities stores."""
    folder, told = RunFolder(run.path), {}
    for name, table in tables.items():
        model, _, rest = name.partition("-seed")
        seed, _, shift = rest.partition("-")
        shift, _, level = (shift or "clean").partition(",")
        part = "val" if shift == "validation" else "test"
        cells = [cell for sweep in folder.record.sweeps for cell in sweep.cells]
        cell = next((own.id for own in cells if level and own.level == float(level)), "clean")
        stored = folder.read_predictions(predictions_file(model, int(seed), cell, part))
        order = [f"{at}.png" for at in range(len(table))]
        keys = sorted(order)  # texts are numbered in their order
        columns = {"image": keys, "predicted": [stored.classes[at] for at in stored.predicted]}
        if confidence:
            columns["confidence"] = stored.confidence
        told[name] = pd.DataFrame(columns).merge(table[["image", "label"]], on="image")
        told[name] = told[name].sample(frac=1, random_state=0).reset_index(drop=True)
    return told


def lines(run, name="scores.csv"):
    """The rows of a table of scores as they are written, by all but the numbers."""
    header, *rows = (run.path / name).read_text().splitlines()
    at = header.split(",").index("metric")
    return {tuple(row.split(",")[: at + 1]): row for row in rows}


def metric_of(key):
    return key[-1]


def check_same_rows(full, told, lacking, table="scores.csv"):
    """Every row of the poorer run is a row of the other, and the others are of what it lacks."""
    every, known = lines(full, table), lines(told, table)
    assert known
    assert [row for key, row in known.items() if every.get(key) != row] == []
    left_out = {metric_of(key) for key in every.keys() - known.keys()}
    assert left_out
    assert [name for name in sorted(left_out) if not name.startswith(lacking)] == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of probabilities, one of classes with confidences, and one of classes alone."""
    folder = tmp_path_factory.mktemp("runs")
    tables = frames((0, 1), ("", "fog,1", "fog,2", "validation"))
    facts = pd.DataFrame(
        {
            "image": [f"{at}.png" for at in range(120)],
            "patient": [f"p{at // 3}" for at in range(120)],
            "site": ["ABC"[at % 3] for at in range(120)],
        }
    )
    facts.to_csv(folder / "facts.csv", index=False)
    asked = {
        "bootstrap": 100,
        "metadata": folder / "facts.csv",
        "group": "patient",
        "slices": ("site",),
        "ordered_classes": True,
        "costs": ("missed fox: 5",),
        "allow_shared_groups": True,
        "progress": False,
    }
    full = fw.evaluate(predictions=tables, out=folder / "full", **asked)
    sure = fw.evaluate(predictions=as_predicted(full, tables), out=folder / "sure", **asked)
    alone = fw.evaluate(
        predictions=as_predicted(full, tables, confidence=False), out=folder / "alone", **asked
    )
    return full, sure, alone


def test_class_and_confidence_give_the_bytes_of_full_probabilities(runs):
    full, sure, _ = runs
    check_same_rows(full, sure, NEED_OTHERS)
    check_same_rows(full, sure, NEED_OTHERS, "slices.csv")
    metrics = {metric_of(key) for key in lines(sure)}
    assert {"accuracy", "balanced_accuracy", "matthews_correlation", "cohen_kappa"} <= metrics
    assert {"expected_calibration_error", "rms_calibration_error/10-equal-mass"} <= metrics
    assert {"maximum_calibration_error", "debiased_calibration_error/10-equal-mass"} <= metrics
    assert {"confidence_auroc", "area_under_risk_coverage", "coverage_at_risk/0.05"} <= metrics
    assert {"excess_area_under_risk_coverage", "atc_accuracy", "average_confidence"} <= metrics
    assert {"expected_cost", "quadratic_kappa", "sensitivity/fox", "ppv/cat"} <= metrics


def test_classes_alone_give_the_bytes_of_what_needs_no_confidence(runs):
    full, sure, alone = runs
    check_same_rows(full, alone, (*NEED_OTHERS, *NEED_CONFIDENCE))
    check_same_rows(sure, alone, NEED_CONFIDENCE)
    metrics = {metric_of(key) for key in lines(alone)}
    assert {"accuracy", "macro_f1", "expected_cost", "sensitivity/fox", "mcc/dog"} <= metrics


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**16), n=st.integers(12, 60), classes=st.integers(2, 7))
def test_whatever_the_predictions_the_rows_are_the_same(tmp_path_factory, seed, n, classes):
    folder, names = tmp_path_factory.mktemp("any"), tuple("abcdefg"[:classes])
    tables = frames((seed,), ("",), names, n)
    asked = {"bootstrap": 100, "progress": False, "classes": names}
    full = fw.evaluate(predictions=tables, out=folder / "full", **asked)
    told = as_predicted(full, tables)
    sure = fw.evaluate(predictions=told, out=folder / "sure", **asked)
    check_same_rows(full, sure, NEED_OTHERS)


def test_what_is_left_out_is_said_once_in_a_line_in_the_record_and_on_the_page(runs, capsys):
    _, sure, alone = runs
    for run, words in ((sure, "and their confidence"), (alone, "calibration and deferral")):
        model = RunFolder(run.path).record.models["net"]
        assert words in model.settings["read: outputs"]
        assert "AUC" in model.settings["read: outputs"]
        absent = json.loads((run.path / "absent_metrics.json").read_text())
        assert "probability of each class" in absent["negative_log_likelihood"]


def test_the_page_names_what_is_left_out_once_and_has_no_empty_part(runs, tmp_path, draw):
    _, sure, alone = runs
    pages = {}
    for run in (sure, alone):
        copy = shutil.copytree(run.path, tmp_path / run.path.name)
        draw(SimpleNamespace(path=copy))
        pages[copy.name] = (copy / "report.html").read_text()
    assert pages["sure"].count("Only this probability is known.") == 1
    assert pages["alone"].count("Only predicted classes are known.") == 1
    assert 'id="review-rows"' in pages["sure"]
    assert 'id="review-rows"' not in pages["alone"]
    legend = (tmp_path / "sure" / "figures" / "calibration.svg").read_text()
    assert "under shift" in legend
    for page in pages.values():
        assert "NaN" not in page.split("<main")[1].split("<script")[0]


def test_the_legend_of_calibration_names_no_shift_without_one(tmp_path, draw):
    run = fw.evaluate(predictions=frames(), out=tmp_path / "run", bootstrap=100, progress=False)
    draw(run)
    drawn = (run.path / "figures" / "calibration.svg").read_text()
    assert "clean" in drawn
    assert "under shift" not in drawn


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"variants": ("temperature",)}, "--variant .temperature. needs the probability"),
        ({"variants": ("conformal",)}, "--variant .conformal. needs the probability"),
        ({"operating_points": ("0.3",)}, "--operating-point"),
        ({"operating_points": ("sensitivity=0.9",)}, "--operating-point"),
        ({"positive": "fox"}, "positive"),
    ],
)
def test_what_needs_other_probabilities_is_refused_in_a_sentence(tmp_path, runs, asked, told):
    full, _, _ = runs
    tables = as_predicted(full, frames((0,), ("", "validation")))
    with pytest.raises(InputError, match=told):
        fw.evaluate(predictions=tables, out=tmp_path / "run", progress=False, **asked)
    assert not (tmp_path / "run").exists()


def test_patients_as_units_are_refused(tmp_path, runs):
    tables = as_predicted(runs[0], frames((0,)))
    labels = frames()["net-seed0"]["label"]
    patients = [f"{label}{at % 9}" for at, label in enumerate(labels)]
    facts = pd.DataFrame({"image": [f"{at}.png" for at in range(120)], "patient": patients})
    facts.to_csv(tmp_path / "facts.csv", index=False)
    asked = {"metadata": tmp_path / "facts.csv", "unit": "patient", "progress": False}
    with pytest.raises(InputError, match=r"--unit .patient. needs the probability"):
        fw.evaluate(predictions=tables, out=tmp_path / "run", **asked)


def test_one_run_has_one_kind_of_predictions(tmp_path, runs):
    tables = frames((0, 1))
    told = as_predicted(runs[0], {"net-seed1": tables["net-seed1"]})
    with pytest.raises(InputError, match=r"the probability of every class.*its confidence"):
        fw.evaluate(predictions={**tables, **told}, out=tmp_path / "run", progress=False)


def test_such_runs_are_compared_with_each_other_and_with_full_ones(runs):
    full, sure, alone = runs
    for one, other in ((sure, alone), (full, sure), (alone, full)):
        rows = fw.compare_runs(one.path, other.path)
        clean = rows[(rows["metric"] == "accuracy") & (rows["shift"] == "clean")]
        assert clean["difference"].abs().max() == 0


def test_rules_are_checked_and_say_what_is_missing(runs):
    _, sure, alone = runs
    assert fairweather("check", sure.path, "accuracy[clean] >= 10%").returncode == 0
    assert fairweather("check", sure.path, "sensitivity/fox[clean] >= 1%").returncode == 0
    assert fairweather("check", sure.path, "confidence_auroc[clean] >= 10%").returncode == 0
    for path, rule in (
        (sure.path, "brier_score[clean] <= 2"),
        (alone.path, "average_confidence[clean] <= 100%"),
    ):
        result = fairweather("check", path, rule)
        assert result.returncode == 2
        assert "predicted class" in result.stderr


def test_cards_verifications_and_joint_reports_go_with_them(tmp_path, runs):
    full, sure, alone = runs
    for run in (sure, alone):
        verified = fairweather("verify", run.path)
        assert verified.returncode == 0, verified.stdout
        written = fairweather("card", run.path)
        assert written.returncode == 0, written.stderr
    for pair in ((sure, alone), (full, alone)):
        out = tmp_path / pair[0].path.name
        joint = fairweather("report", *(run.path for run in pair), "--out", out)
        assert joint.returncode == 0, joint.stderr


@pytest.mark.parametrize("command", [("estimate",), ("guard", "--risk", "5%")])
def test_what_needs_the_network_is_refused_in_a_sentence(tmp_path, runs, command):
    name, *options = command
    more = ["folder:photos"] if name == "estimate" else [tmp_path / "guard"]
    result = fairweather(name, f"{runs[1].path}:net:0", *more, *options)
    assert result.returncode == 2, result.stderr
    assert "predictions" in result.stderr


@pytest.mark.parametrize("typed", ["cta", "cat"])
def test_a_predicted_class_that_no_label_has_is_named_with_its_rows(tmp_path, typed):
    labels = np.array(["cat", "dog"] * 20)
    predicted = np.where(np.arange(40) == 7, typed, labels)
    path = tmp_path / "net.csv"
    pd.DataFrame({"label": labels, "predicted_class": predicted}).to_csv(path, index=False)
    out = ("--out", tmp_path / "run", "--bootstrap", 100)
    result = fairweather("evaluate", f"predictions:{path}", *out)
    assert result.returncode == 0, result.stderr
    note = "no label is 'cta', which 1 of 40 rows predict"
    assert (note in " ".join((result.stdout + result.stderr).split())) == (typed == "cta")
