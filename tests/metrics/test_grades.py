"""Grades: metrics of a grade or more are those of two classes, in scores, rules and comparisons."""

import csv
import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from benchmarks import grades as benchmark

import fairweather as fw
from fairweather import metrics
from fairweather.errors import InputError
from fairweather.inference.prediction import make_predictions
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.classification import merge_classes
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.label_shift import predictive_values_under
from fairweather.metrics.metric import class_metric_names, find_class_metric
from fairweather.metrics.operating_points import choose_threshold
from fairweather.metrics.sample import draw_counts
from fairweather.requests.checks import check_variants
from fairweather.requests.settings import check_operating_points
from fairweather.runs.folder import RunFolder
from fairweather.tasks import CLASSIFICATION_TASK
from fairweather.types.operating_points import TargetRate
from fairweather.variants.prediction_sets import Conformal
from tests.helpers.chance import FALSE_ALARM
from tests.helpers.commands import fairweather

GRADES = ("none", "mild", "moderate", "severe", "proliferative")


def simulated(n=400, seed=0, classes=GRADES, ordered=True):
    """Predictions of grades that are mostly right, and rarely far off."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(classes), size=n, p=np.array([5, 2, 2, 1, 1]) / 11)
    centre = labels + generator.normal(0, 0.8, n)
    logits = -np.square(np.arange(len(classes)) - centre[:, None])
    logits += generator.normal(0, 0.3, logits.shape)
    made = make_predictions(logits.astype(np.float32), labels, np.arange(n), classes)
    return dataclasses.replace(made, ordered=ordered)


def two_classes(grades, first):
    """The same from its definition: probabilities are added, and labels compared."""
    probabilities = metrics.softmax(grades.logits)
    above = probabilities[:, first:].sum(axis=1)
    logits = np.log(np.stack([1 - above, above], axis=1)).astype(np.float32)
    labels = (grades.labels >= first).astype(np.int64)
    return make_predictions(logits, labels, grades.keys, ("lower", "higher"))


@pytest.mark.parametrize("first", range(1, 5))
@pytest.mark.parametrize("grouped", [False, True])
def test_a_grade_or_more_is_the_second_of_two_classes(first, grouped):
    """Values, intervals and counts, from predictions of two classes that know of no grades."""
    grades = simulated()
    grouping = Grouping(np.arange(400) // 2) if grouped else None
    of_two = two_classes(grades, first)
    weights = draw_counts(400, 50, grouping=grouping)
    ours, theirs = (
        Resamples.from_weights(predictions.labels, weights, grouping)
        for predictions in (grades, of_two)
    )
    of_grade, of_class = f">={GRADES[first]}", "higher"
    kinds = ("specificity", "sensitivity", "ppv", "npv", "f1", "auc", "pr_auc")
    for point in ("", "@0.3"):
        called = kinds[:5] if point else kinds
        found = evaluate_resamples(grades, ours, None, [f"{k}/{of_grade}{point}" for k in called])
        at = point or "@0.5"
        names = [f"{k}/{of_class}{at if k in kinds[:5] else ''}" for k in called]
        expected = evaluate_resamples(of_two, theirs, None, names)
        assert len(found) == len(expected) == len(called)
        for kind, mine, other in zip(called, found.values(), expected.values(), strict=True):
            score, wanted = to_score(mine, (0.0, 1.0)), to_score(other, (0.0, 1.0))
            assert score == pytest.approx(wanted, abs=1e-6, nan_ok=True), kind


def test_costs_of_grades_are_measured_beside_each_grade_or_more(tmp_path):
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 60)
    scores = rng.random((60, 3)) + 2 * np.eye(3)[labels]
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=["g0", "g1", "g2"])
    table["label"] = [f"g{label}" for label in labels]
    table.to_csv(tmp_path / "net.csv", index=False)
    costs = np.array([[0, 1, 2], [2, 0, 1], [20, 10, 0]])
    frame = pd.DataFrame(costs, columns=["g0", "g1", "g2"], index=["g0", "g1", "g2"])
    frame.to_csv(tmp_path / "costs.csv")
    said = []
    run = fw.evaluate(
        f"predictions:{tmp_path / 'net.csv'}",
        ordered_classes=True,
        costs=str(tmp_path / "costs.csv"),
        out=tmp_path / "run",
        progress=lambda event: said.append(event.line),
    )
    assert "order          g0 < g1 < g2" in said
    scores = run.scores.set_index("metric")["value"]
    predicted = table[["g0", "g1", "g2"]].to_numpy().argmax(axis=1)
    assert scores["expected_cost"] == pytest.approx(costs[labels, predicted].mean())
    called = (table["g1"] + table["g2"] >= 0.5)[labels >= 1]
    assert scores["sensitivity/>=g1"] == pytest.approx(called.mean())


def test_a_prior_of_grades_is_that_of_all_of_them():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    rng = np.random.default_rng(5)
    logits = (rng.normal(size=(100, 3)) + 2 * np.eye(3)[labels]).astype(np.float32)
    grades = dataclasses.replace(
        make_predictions(logits, labels, np.arange(100), ("a", "b", "c")), ordered=True
    )
    priors = np.array([0.8, 0.15, 0.05])
    p = metrics.softmax(logits)
    for name, chosen in (("ppv/>=b@0.3", [1, 2]), ("npv/>=c@0.3", [2]), ("ppv/c@0.3", [2])):
        metric = find_class_metric(name, grades.classes)
        called, present = p[:, chosen].sum(axis=1) >= 0.3, np.isin(labels, chosen)
        weight = (priors / np.bincount(labels))[labels]
        kept = called if name.startswith("ppv") else ~called
        right = present if name.startswith("ppv") else ~present
        expected = weight[kept & right].sum() / weight[kept].sum()
        under = predictive_values_under(grades, priors, [metric])
        assert under[name].value == pytest.approx(expected)
    never = predictive_values_under(
        grades, [0.5, 0.5, 0.0], [find_class_metric("npv/c@0.3", grades.classes)]
    )
    assert never["npv/c@0.3"].value == 1


def test_areas_of_a_grade_or_more_are_those_of_scikit_learn():
    grades = simulated(n=300)
    probabilities = metrics.softmax(grades.logits)
    shared = Resamples.draw(grades.labels, 5)
    found = evaluate_resamples(grades, shared, None, [f"auc/>={name}" for name in GRADES[1:]])
    for first, estimate in enumerate(found.values(), start=1):
        area = sklearn.metrics.roc_auc_score(
            grades.labels >= first, probabilities[:, first:].sum(axis=1)
        )
        assert estimate.value == pytest.approx(area, abs=1e-5)


def test_the_sum_of_errors_over_thresholds_is_the_mean_absolute_error():
    """An answer that is k grades off is on the wrong side of k thresholds."""
    grades = simulated()
    wrong = [
        ((grades.predicted >= k) != (grades.labels >= k)).mean() for k in range(1, len(GRADES))
    ]
    error = metrics.mean_absolute_error(grades.predicted, grades.labels)
    assert sum(wrong) == pytest.approx(error)


def test_a_grade_that_no_image_has_gives_no_number():
    grades = simulated()
    few = grades.take(np.flatnonzero(grades.labels < 3))
    shared = Resamples.draw(few.labels, 5)
    found = evaluate_resamples(few, shared, None, ["sensitivity/>=severe", "auc/>=severe"])
    assert np.isnan([estimate.value for estimate in found.values()]).all()
    known = evaluate_resamples(few, shared, None, ["specificity/>=severe"])
    assert 0 < known["specificity/>=severe"].value <= 1


@pytest.mark.parametrize(
    "name",
    [
        *("sensitivity/>=none", "sensitivity/>=mil", "sensitivity/>=", "sensitivity/>=mild@2"),
        *("auc/>=mild@0.3", "conformal_coverage/>=mild"),
    ],
)
def test_names_of_no_metric_of_grades(name):
    assert find_class_metric(name, GRADES) is None


def test_classes_without_an_order_have_no_metrics_of_grades():
    plain = simulated(ordered=False)
    shared = Resamples.draw(plain.labels, 5)
    assert evaluate_resamples(plain, shared, None, ["sensitivity/>=mild"]) == {}
    assert not any(">=" in name for name in class_metric_names(GRADES))
    assert not any(">=" in name for name in class_metric_names(GRADES[:2], ordered=True))
    # The name of a class comes first.
    odd = ("a", ">=b", "b")
    assert not hasattr(find_class_metric("auc/>=b", odd), "first")


def test_points_of_grades_are_checked():
    points = {">=moderate": 0.3, "mild": 0.4, "": "sensitivity=0.9"}
    assert check_operating_points(points, GRADES, ordered=True) == {
        "mild": 0.4,
        ">=mild": "sensitivity=0.9",
        ">=moderate": (0.3, "sensitivity=0.9"),
        ">=severe": "sensitivity=0.9",
        ">=proliferative": "sensitivity=0.9",
    }
    assert check_operating_points({">=2": 0.3}, GRADES, ordered=True) == {">=moderate": 0.3}
    with pytest.raises(InputError, match="needs classes in an order, such as grades"):
        check_operating_points({">=mild": 0.3}, GRADES)
    for wrong in (">=none", ">=9", ">=mlid"):
        with pytest.raises(InputError, match=f"unknown class of an operating point '{wrong}'"):
            check_operating_points({wrong: 0.3}, GRADES, ordered=True)


# ---- a run


def tables(seed, n=700, strength=1.0):
    """Predictions of two models and of validation images, as other programs write them."""
    made = {}
    for name, own in ((f"model{seed}", seed), (f"model{seed}-validation", 100 + seed)):
        grades = simulated(n, seed=own if "val" in name else 0)
        noise = np.random.default_rng(own).normal(0, 0.7, grades.logits.shape)
        shares = metrics.softmax(strength * grades.logits + noise)
        frame = pd.DataFrame(shares, columns=[f"prob_{grade}" for grade in GRADES])
        made[name] = frame.assign(label=np.array(GRADES)[grades.labels])
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grades")
    return [
        fw.evaluate(
            predictions=tables(seed, strength=strength),
            ordered_classes=True,
            operating_points=[">=moderate=0.3", ">=moderate=sensitivity=0.9"],
            bootstrap=100,
            out=folder / f"run{seed}",
        )
        for seed, strength in ((1, 1.0), (2, 0.25))
    ]


def test_scores_have_each_grade_or_more(runs):
    scores = runs[0].scores.set_index("metric")["value"]
    for first in range(1, len(GRADES)):
        assert 0.5 < scores[f"auc/>={GRADES[first]}"] <= 1
    for name in ("mean_absolute_error", "off_by_two", "ranked_probability_score"):
        assert 0 < scores[name] < 1
    stored = RunFolder(runs[0].path).read_predictions(
        "predictions/model1/seed-0/test/clean.parquet"
    )
    merged = merge_classes(stored, 2)
    called = metrics.softmax(merged.logits)[:, 1] >= 0.3
    expected = called[merged.labels == 1].mean()
    assert scores["sensitivity/>=moderate@0.3"] == pytest.approx(expected, abs=1e-7)


def test_a_grade_or_more_has_the_numbers_of_the_finding_that_positive_makes(runs, tmp_path):
    finding = fw.evaluate(
        predictions=tables(1), positive=">=moderate", bootstrap=100, out=tmp_path / "finding"
    )
    whole = runs[0].scores.set_index("metric")["value"]
    own = finding.scores.set_index("metric")["value"]
    for kind in ("sensitivity", "specificity", "ppv", "npv", "f1", "auc", "pr_auc"):
        assert own[kind] == pytest.approx(whole[f"{kind}/>=moderate"], abs=1e-7), kind


def test_the_threshold_of_a_grade_keeps_its_target(runs):
    scores = runs[0].scores.set_index("metric")["value"]
    folder = RunFolder(runs[0].path)
    validation = folder.read_predictions("predictions/model1/seed-0/val/clean.parquet")
    merged = merge_classes(validation, 2)
    target = TargetRate("sensitivity", 0.9)
    chosen = choose_threshold(metrics.softmax(merged.logits)[:, 1], merged.labels == 1, target)
    assert scores["threshold/>=moderate@sensitivity=0.9"] == pytest.approx(chosen, abs=1e-7)
    assert 0.85 < scores["sensitivity/>=moderate@sensitivity=0.9"] <= 1


def test_the_table_of_classes_explains_a_grade_or_more(runs):
    table = (runs[0].path / "tables" / "classes.md").read_text()
    assert "gt;=moderate@0.3" in table
    assert "this class and all after it" in table


@pytest.mark.parametrize(
    "rule",
    [
        "sensitivity[clean|class>=moderate] >= 50%",
        "sensitivity[clean|class=>=moderate] >= 50%",
        "sensitivity[clean|class>=moderate@0.3] >= 50%",
        "sensitivity@sensitivity=0.9[clean|class>=moderate] >= 50%",
        "mean_absolute_error[clean] <= 2",
        "off_by_two[clean] <= 50%",
    ],
)
def test_rules_name_a_grade_or_more(runs, rule):
    [verdict] = judge(RunFolder(runs[0].path), read_rules([rule]))
    assert verdict.passed
    [again] = read_rules([str(verdict.rule)])
    assert again == verdict.rule


def test_a_wrong_grade_in_a_rule_is_one_sentence(runs):
    with pytest.raises(InputError, match="unknown class '>=sever'; did you mean '>=severe'"):
        judge(RunFolder(runs[0].path), read_rules(["auc[clean|class>=sever] >= 0.5"]))


def test_two_models_are_compared_at_each_grade(runs):
    comparison = read_run_comparison(*(run.path for run in runs))
    frame = comparison.classes.frame.set_index("class")
    assert [name for name in frame.index if name.startswith(">=")] == [
        f">={name}" for name in GRADES[1:]
    ]
    for run, side in zip(runs, ("a", "b"), strict=True):
        scores = run.scores.set_index("metric")["value"]
        for name in (">=mild", ">=moderate", "mild"):
            assert frame[side][name] == pytest.approx(scores[f"sensitivity/{name}"], abs=1e-6)
    compared = set(comparison.main.frame["metric"])
    assert {"mean_absolute_error", "ranked_probability_score"} <= compared
    points = comparison.points.frame
    assert "sensitivity/>=moderate@0.3" in set(points["metric"])


def test_the_command_line_takes_a_grade_as_an_operating_point(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables(1, n=200)["model1"].to_csv("probs.csv", index=False)
    asked = ["evaluate", "predictions:probs.csv", "--bootstrap", "100", "--quiet"]
    refused = fairweather(*asked, "--operating-point", ">=mild=0.3")
    assert refused.returncode == 2
    assert "--ordered-classes" in refused.stderr
    done = fairweather(*asked, "--ordered-classes", "--operating-point", ">=mild=0.3")
    assert done.returncode == 0, done.stderr
    assert "sensitivity/>=mild@0.3" in (tmp_path / "runs" / "probs" / "scores.csv").read_text()


# ---- sets of grades, and what the report shows


@pytest.fixture(scope="module")
def with_sets(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "run"
    return fw.evaluate(
        predictions=tables(1),
        ordered_classes=True,
        variants=["conformal: {method: ordinal, coverage: 0.8}"],
        bootstrap=100,
        out=out,
    )


def test_ordinal_sets_are_measured_as_a_variant(with_sets):
    rows = with_sets.scores[with_sets.scores["model"] == "model1+conformal-ordinal-0.8"]
    scores = rows.set_index("metric")["value"]
    assert 0.7 < scores["conformal_coverage"] < 0.9
    assert 1 <= scores["conformal_set_size"] < 5
    assert "Ordinal sets for 80 %" in (with_sets.path / "report.html").read_text()


def test_ordinal_sets_need_an_order(tmp_path):
    told = r"conformal-ordinal-0\.9 is for classes in an order.*ordered_classes"
    asked = {"variants": ["conformal: {method: ordinal}"], "out": tmp_path / "run"}
    with pytest.raises(InputError, match=told):
        fw.evaluate(predictions=tables(1), **asked)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=told):
        check_variants([Conformal("ordinal")], CLASSIFICATION_TASK, "the data")
    check_variants([Conformal("ordinal")], CLASSIFICATION_TASK, "the data", ordered=True)


def test_the_report_says_how_far_off_grades_are(with_sets, tmp_path):
    scores = with_sets.scores[with_sets.scores["model"] == "model1"].set_index("metric")["value"]
    table = pd.read_csv(with_sets.path / "tables" / "grades.csv").set_index("model")
    for name in ("mean_absolute_error", "off_by_two", "quadratic_kappa"):
        assert table[f"clean {name}"]["model1"] == pytest.approx(scores[name])
    page = (with_sets.path / "report.html").read_text()
    assert f"Answers are {scores['mean_absolute_error']:.2f} grades off on average" in page
    assert "grades off" in str(with_sets)
    plain = fw.evaluate(predictions=tables(1, n=100), bootstrap=100, out=tmp_path / "plain")
    assert not (plain.path / "tables" / "grades.csv").exists()
    assert "grades off" not in str(plain) + (plain.path / "report.html").read_text()


def test_the_stored_coverage_of_ordinal_sets_is_what_was_promised():
    """The committed table, and the first draws of it again."""
    with benchmark.STORED.open(encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert len(stored) == 2 * 2 * 3 * 3
    for row in stored:
        assert int(row["draws"]) == 2000
        below = (float(row["coverage"]) - 0.9) / float(row["error"])
        assert below > -4, row
        if row["method"] == "ordinal":
            assert float(row["gaps"]) == 0
    again = [
        benchmark.judged(
            Conformal("ordinal", 0.9),
            40,
            benchmark.SHARES["screening"],
            "uneven",
            np.random.default_rng(seed),
        )
        for seed in range(60)
    ]
    coverage, _, gaps = np.array(again).T
    assert scipy.stats.ttest_1samp(coverage, 0.9, alternative="less").pvalue > FALSE_ALARM
    assert not gaps.any()
