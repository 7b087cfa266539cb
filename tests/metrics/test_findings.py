"""Numbers of findings: equal to slow references, scikit-learn and torchmetrics."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.classification as judges
from benchmarks import findings as simulated

from fairweather import metrics
from fairweather.metrics import METRICS, Resamples, evaluate_resamples, to_score
from fairweather.metrics.findings import point_metric_names
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.recalibration import CALIBRATION_NUMBERS
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import metrics_of
from fairweather.runs.scores import estimate_units
from fairweather.tasks import FindingsPredictions, find_task, select_finding
from fairweather.types.kinds import FINDING, FINDINGS
from fairweather.types.measurement import MULTILABEL, UNKNOWN
from tests.helpers import reference
from tests.helpers.chance import most

NAMES = ("Effusion", "Mass", "Nodule")
TASK = find_task(MULTILABEL)
NOTES = Path(simulated.__file__).with_name("notes") / "findings.md"
OF_COLUMNS = {row.name for row in METRICS.values() if row.column is not None}  # no replicates
AREAS = {name for name in OF_COLUMNS if METRICS[name].interval == "area"} - {
    "macro_auc",
    "macro_pr_auc",
}
KEY = ("net", "0", "clean", "none")


def drawn(n=400, seed=0, decimals=2, unknown=0.2):
    """Three findings; with few decimals, many images have the same probability."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < (0.4, 0.2, 0.08)).astype(np.int64)
    logits = rng.normal(2 * labels - 1, 1.5).round(decimals).astype(np.float32)
    labels[rng.random((n, 3)) < unknown] = UNKNOWN
    return FindingsPredictions(np.arange(n), labels, logits, NAMES)


def exploded(predictions, row):
    """The images of a resample, written out."""
    columns = {
        name: np.repeat(getattr(predictions, name), row, axis=0)
        for name in ("keys", "labels", "logits")
    }
    return dataclasses.replace(predictions, **columns)


def numbers_of(predictions, column):
    known = predictions.labels[:, column] != UNKNOWN
    present = [label == 1 for label in predictions.labels[known, column].tolist()]
    return reference.finding_numbers(predictions.probability[known, column].tolist(), present)


def estimated(predictions, resamples=12, grouping=None, **options):
    return {
        unit: cells[KEY]
        for unit, cells in estimate_units(
            TASK, [(KEY, predictions)], resamples, grouping, **options
        ).items()
    }


@pytest.mark.parametrize("decimals", [None, 0])
def test_values_and_replicates_of_a_finding_are_those_of_the_slow_reference(decimals):
    predictions = drawn(decimals=decimals) if decimals == 0 else drawn(decimals=9)
    weights = metrics.bootstrap_weights(len(predictions), 3)
    for column in range(3):
        one = select_finding(predictions, column)
        known = predictions.labels[:, column] != UNKNOWN
        shared = Resamples.from_weights(one.strata, weights[:, known])
        own = [row.name for row in metrics_of(FINDING)]  # those of deferral are of a classifier too
        own += [kind.name for kind in CALIBRATION_NUMBERS]
        found = evaluate_resamples(one, shared, None, own)
        assert set(found) == set(own)
        expected = [numbers_of(predictions, column)]
        expected += [numbers_of(exploded(predictions, row), column) for row in weights]
        assert expected[0].keys() == found.keys()
        for name, estimate in found.items():
            values = [estimate.value, *estimate.replicates]
            assert len(values) == (1 if name in OF_COLUMNS else 4)
            theirs = [each[name] for each in expected[: len(values)]]
            np.testing.assert_allclose(values, theirs, atol=1e-6 if name == "nll" else 1e-12)


def test_values_and_replicates_of_whole_images_are_those_of_the_slow_reference():
    predictions = drawn(unknown=0.5)
    judged = TASK.judged(predictions)
    assert len(judged) < len(predictions)
    predictions = predictions.take(judged)
    weights = metrics.bootstrap_weights(len(predictions), 3)
    own = [row.name for row in metrics_of(FINDINGS) if not row.accepts.sets]
    shared = Resamples.from_weights(predictions.strata, weights)
    found = evaluate_resamples(predictions, shared, None, own)
    assert list(found) == own
    for place, each in enumerate((predictions, *(exploded(predictions, row) for row in weights))):
        expected = reference.image_numbers(each.probability.tolist(), each.labels.tolist())
        assert expected.keys() == found.keys()
        for name, estimate in found.items():
            values = [estimate.value, *estimate.replicates]
            assert values[place] == pytest.approx(expected[name], abs=1e-12)


def test_scikit_learn_agrees():
    predictions = drawn()
    for column in range(3):
        found = metrics.score(select_finding(predictions, column), 10)
        known = predictions.labels[:, column] != UNKNOWN
        y, p = predictions.labels[known, column], predictions.probability[known, column]
        ours = {
            "auc": sklearn.metrics.roc_auc_score(y, p),
            "pr_auc": sklearn.metrics.average_precision_score(y, p),
            "brier": sklearn.metrics.brier_score_loss(y, p),
            "nll": sklearn.metrics.log_loss(y, p),
            "sensitivity": sklearn.metrics.recall_score(y, p >= 0.5),
            "specificity": sklearn.metrics.recall_score(1 - y, p < 0.5),
            "ppv": sklearn.metrics.precision_score(y, p >= 0.5),
            "npv": sklearn.metrics.precision_score(1 - y, p < 0.5),
            "f1": sklearn.metrics.f1_score(y, p >= 0.5),
            "decision_accuracy": sklearn.metrics.accuracy_score(y, p >= 0.5),
        }
        for name, value in ours.items():
            assert found[name].value == pytest.approx(value, abs=1e-7), name
    full = drawn(unknown=0)
    images = metrics.score(full, 10)
    called = full.probability >= 0.5
    assert images["exact_match"].value == sklearn.metrics.accuracy_score(full.labels, called)
    assert images["hamming_loss"].value == pytest.approx(
        sklearn.metrics.hamming_loss(full.labels, called)
    )


def test_torchmetrics_agrees_and_leaves_out_what_is_unknown():
    predictions = drawn(1000, decimals=9)  # it does not call a finding at exactly 0.5
    kept = np.flatnonzero((predictions.labels != UNKNOWN).any(axis=1))
    predictions = predictions.take(kept)  # it calls an image without a known label an exact match
    scores, truth = map(torch.from_numpy, (predictions.probability, predictions.labels))
    found = estimated(predictions)
    of = {"num_labels": 3, "ignore_index": UNKNOWN}
    theirs = {
        "auc": judges.MultilabelAUROC,
        "pr_auc": judges.MultilabelAveragePrecision,
        "sensitivity": judges.MultilabelRecall,
        "specificity": judges.MultilabelSpecificity,
        "ppv": judges.MultilabelPrecision,
        "npv": judges.MultilabelNegativePredictiveValue,
        "f1": judges.MultilabelF1Score,
        "decision_accuracy": judges.MultilabelAccuracy,
    }
    for name, judge in theirs.items():
        values = judge(average=None, **of)(scores, truth).tolist()
        ours = [found[f"finding={finding}"][name].value for finding in NAMES]
        assert ours == pytest.approx(values, abs=1e-6), name
        mean = judge(average="macro", **of)(scores, truth).item()
        assert found["mean finding"][name].value == pytest.approx(mean, abs=1e-6), name
    for name in AREAS:  # weighted by the images that have the finding
        weighted = theirs[name](average="weighted", **of)(scores, truth).item()
        assert found["weighted mean finding"][name].value == pytest.approx(weighted, abs=1e-6)
    for name, norm in (("ece", "l1"), ("rms_ece", "l2")):
        for column, finding in enumerate(NAMES):
            judge = judges.BinaryCalibrationError(n_bins=10, norm=norm, ignore_index=UNKNOWN)
            value = judge(scores[:, column], truth[:, column]).item()
            ours = found[f"finding={finding}"][f"{name}/10-equal-width"].value
            assert ours == pytest.approx(value, abs=1e-6)
    exact, hamming = (
        judges.MultilabelExactMatch(**of),
        judges.MultilabelHammingDistance(average="micro", **of),
    )
    images = found["image"]
    assert images["exact_match"].value == pytest.approx(exact(scores, truth).item(), abs=1e-6)
    assert images["hamming_loss"].value == pytest.approx(hamming(scores, truth).item(), abs=1e-6)


def test_the_order_of_images_and_a_change_of_all_logits_that_keeps_ranks_change_no_area():
    predictions = drawn()
    order = np.random.default_rng(1).permutation(len(predictions))
    steeper = predictions.with_columns(logits=predictions.logits * 2 - 1)
    here, moved, ranked = map(estimated, (predictions, predictions.take(order), steeper))
    for unit, estimates in here.items():
        for name, estimate in estimates.items():
            assert moved[unit][name].value == pytest.approx(estimate.value, abs=1e-13), (unit, name)
            if name in AREAS:
                assert ranked[unit][name].value == pytest.approx(estimate.value, abs=1e-13)


def test_a_finding_and_its_absence_change_places():
    """Without images at 0.5, where the finding is called."""
    predictions = drawn(decimals=9, unknown=0.1)
    negative = predictions.with_columns(
        labels=np.where(predictions.labels == UNKNOWN, UNKNOWN, 1 - predictions.labels),
        logits=-predictions.logits,
    )
    same = {"auc": "auc", "brier": "brier", "nll": "nll", "decision_accuracy": "decision_accuracy"}
    same |= {"sensitivity": "specificity", "ppv": "npv"}
    here, there = estimated(predictions), estimated(negative)
    assert here.keys() == there.keys()
    for unit in (*(f"finding={name}" for name in NAMES), "mean finding"):
        for name, other in same.items():
            assert there[unit][other].value == pytest.approx(here[unit][name].value, abs=1e-12)
        assert there[unit]["probability_gap"].value == pytest.approx(
            -here[unit]["probability_gap"].value
        )


def test_every_kind_of_interval_is_that_of_the_counterpart():
    counterparts = {
        "brier": "brier_score",
        "nll": "negative_log_likelihood",
        "probability_gap": "confidence_gap",
    }
    counterparts |= {"ece/10-equal-width": "expected_calibration_error/10-equal-width"}
    counterparts |= {"rms_ece/10-equal-mass": "rms_calibration_error/10-equal-mass"}
    counterparts |= {"decision_accuracy": "accuracy", "exact_match": "accuracy"}
    for ours, theirs in counterparts.items():
        assert METRICS[ours].interval == METRICS[theirs].interval
    for kind, row in CLASS_METRICS.items():
        if not row.accepts.sets:
            assert (METRICS[kind].interval, METRICS[kind].fewest) == (row.interval, row.fewest)


def test_an_operating_point_is_in_the_name_of_the_number():
    predictions, at = drawn(), 0.3
    found = estimated(predictions, points={"Mass": at})
    names = [f"{kind}@0.3" for kind in ("sensitivity", "specificity", "ppv", "npv", "f1", "mcc")]
    assert point_metric_names([str(at)]) == names
    assert [name for name in found["finding=Mass"] if "@" in name] == names
    for unit in ("finding=Effusion", "mean finding", "image"):  # they have no such point
        assert not any("@" in name for name in found[unit])
    known = predictions.labels[:, 1] != UNKNOWN
    y, p = predictions.labels[known, 1] == 1, predictions.probability[known, 1]
    for name in names:
        kind = name.partition("@")[0]
        value = reference.one_vs_rest(kind, (p >= at).tolist(), y.tolist(), True)
        assert found["finding=Mass"][name].value == pytest.approx(value, abs=1e-12)
        assert find_row(name).label == f"{METRICS[kind].label} at 0.3"
    together = estimated(predictions, points=dict.fromkeys(NAMES, at))
    mean = np.mean([together[f"finding={name}"]["f1@0.3"].value for name in NAMES])
    assert together["mean finding"]["f1@0.3"].value == pytest.approx(mean)


def test_a_finding_without_both_sides_has_what_can_be_computed_and_is_in_no_mean():
    whole = drawn()
    labels = whole.labels.copy()
    labels[:, 2] = np.minimum(labels[:, 2], 0)  # no image has a nodule
    found = estimated(whole.with_columns(labels=labels))
    nodule = found["finding=Nodule"]
    for name in ("auc", "pr_auc", "sensitivity"):
        score = to_score(nodule[name], (0, 1))
        assert math.isnan(score.value)
        assert math.isnan(score.low)
    assert nodule["prevalence"].value == 0
    known = labels[:, 2] == 0
    p = whole.probability[known, 2]
    assert nodule["brier"].value == pytest.approx(np.square(p).mean())
    assert nodule["specificity"].value == (p < 0.5).mean()
    two = estimated(
        dataclasses.replace(
            whole, labels=labels[:, :2], logits=whole.logits[:, :2], classes=NAMES[:2]
        )
    )
    for unit in ("mean finding", "weighted mean finding"):
        for name, estimate in found[unit].items():
            assert estimate.value == pytest.approx(two[unit][name].value, abs=1e-15)
    labels[:, 2] = UNKNOWN
    assert "finding=Nodule" not in estimated(whole.with_columns(labels=labels))


def test_a_ppv_without_a_call_leaves_its_mean_undefined():
    whole = drawn()
    logits = whole.logits.copy()
    logits[:, 2] -= 9
    found = estimated(whole.with_columns(logits=logits))
    for unit in ("finding=Nodule", "mean finding", "weighted mean finding"):
        assert math.isnan(found[unit]["ppv"].value)
        assert not math.isnan(found[unit]["auc"].value)


def test_the_means_are_those_of_every_resample():
    predictions = drawn()
    found = estimated(predictions, 20)
    weights = (predictions.labels == 1).sum(axis=0)
    for name in found["mean finding"]:
        values = [found[f"finding={finding}"][name].value for finding in NAMES]
        draws = [found[f"finding={finding}"][name].replicates for finding in NAMES]
        for unit, shares in (("mean finding", None), ("weighted mean finding", weights)):
            assert found[unit][name].value == pytest.approx(np.average(values, weights=shares))
            if name not in OF_COLUMNS:
                mean = np.average(draws, axis=0, weights=shares)
                np.testing.assert_allclose(found[unit][name].replicates, mean, atol=1e-14)
            assert found[unit][name].n == len(predictions)


def test_few_images_with_the_finding_have_no_interval():
    """As of classes: areas need 30 on each side, and a mean with such a finding has none either."""
    labels = np.zeros((400, 2), dtype=np.int64)
    labels[:200, 0] = labels[:20, 1] = 1
    logits = np.random.default_rng(0).normal(labels, 1).astype(np.float32)
    found = estimated(FindingsPredictions(np.arange(400), labels, logits, NAMES[:2]))
    scores = {unit: {name: to_score(e) for name, e in of.items()} for unit, of in found.items()}
    assert scores["finding=Mass"]["auc"].too_few
    assert not scores["finding=Effusion"]["auc"].too_few
    assert not scores["finding=Mass"]["sensitivity"].too_few
    assert not math.isnan(scores["finding=Mass"]["auc"].value)


def test_every_number_of_findings_has_its_rows_in_the_table_of_coverage():
    stored, page = simulated.read_rows(), NOTES.read_text(encoding="utf-8")
    settings = len(simulated.TRIALS) * len(simulated.POSITIVES) * 2  # images and patients
    for row in simulated.ROWS:
        units = [
            unit for unit in simulated.UNITS if (unit == "image") == (row.accepts.kind == FINDINGS)
        ]
        for unit in units:
            own = [each for each in stored if (each["unit"], each["metric"]) == (unit, row.name)]
            assert len(own) == settings, (unit, row.name)
    for line in simulated.summary(stored):
        assert line in page


@pytest.mark.parametrize("patients", [False, True])
def test_intervals_of_a_finding_with_fifty_images_miss_in_at_most_five_percent_a_side(patients):
    trials, population = 40, simulated.Population(50 / 400, patients=patients)
    truths = {key: value for key, (value, *_) in simulated.numbers(population.all, 1).items()}
    missed = {key: np.zeros(2) for key in truths}
    for trial in range(trials):
        drawn = population.draw(500, trial)
        for key, (_, low, high) in simulated.numbers(drawn[0], 150, drawn[1]).items():
            missed[key] += [low > truths[key] + 1e-9, high < truths[key] - 1e-9]
    for key, tails in missed.items():
        assert max(tails) <= most(trials, 0.05), (key, tails)
