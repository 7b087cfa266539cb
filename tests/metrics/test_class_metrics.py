"""Numbers of single classes in scores.csv: equal to scikit-learn, with intervals that hold."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import scipy.interpolate
import scipy.optimize
import scipy.special
import sklearn.linear_model
import sklearn.metrics
from benchmarks import classes as simulated

from fairweather import metrics
from fairweather.metrics import Estimate, to_score
from fairweather.metrics.metric import CLASS_METRICS, class_metric_names, find_class_metric
from fairweather.runs.scores import add_means, estimate_cells, scores_frame
from fairweather.steps.score_rows import estimate_with_classes
from fairweather.types.measurement import Cell, Predictions, Shift
from tests.helpers.chance import most

NAMES = ("benign/a", "malignant", "none of these", "never called")
POINT = 0.3


def drawn(n=500, seed=0, images=(0, 1, 3), called=(0, 1, 2), answers=None):
    """Predictions of four classes; one has no images, and one is never called.

    With `answers`, a number, they are others for the same images.
    """
    generator = np.random.default_rng(seed)
    labels = generator.choice(images, size=n)
    if answers is not None:
        generator = np.random.default_rng((seed, answers))
    logits = generator.normal(size=(n, 4)) + 1.2 * np.eye(4)[labels]
    logits[:, [k for k in range(4) if k not in called]] -= 9
    columns = metrics.per_image(logits.astype("f4"), labels)
    sets = metrics.set_columns(metrics.softmax(logits), labels, 0.6)
    return Predictions(np.arange(n), labels, *columns, logits.astype("f4"), NAMES, False, *sets)


def odds_of(probability):
    return np.log(probability / (1 - probability))[:, None]


def regression(columns, truth):
    """Unpenalised, by scikit-learn."""
    made = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    return made.fit(columns, truth) if truth.any() else None


def slope_of(probability, truth):
    fit = regression(odds_of(probability), truth)
    return fit.coef_[0, 0] if fit else math.nan


def free_intercept_of(probability, truth):
    fit = regression(odds_of(probability), truth)
    return fit.intercept_[0] if fit else math.nan


def intercept_of(probability, truth):
    """What makes the mean probability right."""
    odds = odds_of(probability)[:, 0]
    if not truth.any():
        return math.nan
    return scipy.optimize.brentq(
        lambda a: scipy.special.expit(odds + a).mean() - truth.mean(), -30, 30, xtol=1e-12
    )


def ici_of(probability, truth):
    """With natural cubic splines of SciPy, which span the same curves."""
    odds = odds_of(probability)[:, 0]
    if not truth.any():
        return math.nan
    knots = np.quantile(odds, [0.05, 0.35, 0.65, 0.95])
    curve = scipy.interpolate.CubicSpline(knots, np.eye(4), bc_type="natural")
    inside = np.clip(odds, knots[0], knots[-1])
    columns = curve(inside) + curve(inside, 1) * (odds - inside)[:, None]  # straight outside
    fitted = regression(columns[:, 1:], truth).predict_proba(columns[:, 1:])[:, 1]
    return np.abs(fitted - probability).mean()


CALIBRATION = {
    "calibration_slope": slope_of,
    "recalibration_intercept": free_intercept_of,
    "calibration_intercept": intercept_of,
    "observed_expected_ratio": lambda p, y: y.mean() / p.mean() if y.any() else math.nan,
    "ici_4_knots": ici_of,
}


def names_of(predictions, points=None):
    return class_metric_names(predictions.classes, points or {"malignant": POINT})


def theirs(name, predictions, weights):
    """The number by scikit-learn; NaN where it has no value."""
    found = find_class_metric(name, predictions.classes)
    label, kept = found.class_label, {"sample_weight": weights}
    truth = predictions.labels == label
    probability = metrics.softmax(predictions.logits)[:, label]
    calls = predictions.predicted == label
    if found.threshold is not None:
        calls = probability >= found.threshold
    if name.startswith("auc/"):
        if not truth.any():
            return math.nan
        return sklearn.metrics.roc_auc_score(truth, probability, **kept)
    if name.startswith("pr_auc/"):
        if not truth.any():
            return math.nan
        return sklearn.metrics.average_precision_score(truth, probability, **kept)
    if (kind := name.partition("/")[0]) in CALIBRATION:
        return CALIBRATION[kind](probability, truth)
    if kind == "mcc":
        # Of a class that is never called scikit-learn says 0; nothing was correlated with anything.
        varies = truth.any() and calls.any()
        return sklearn.metrics.matthews_corrcoef(truth, calls, **kept) if varies else math.nan
    kept["zero_division"] = np.nan
    return {
        # Of the images of the class, the share that is covered.
        "conformal_coverage": lambda: sklearn.metrics.recall_score(
            truth, truth & predictions.covered, **kept
        ),
        "sensitivity": lambda: sklearn.metrics.recall_score(truth, calls, **kept),
        "specificity": lambda: sklearn.metrics.recall_score(~truth, ~calls, **kept),
        "ppv": lambda: sklearn.metrics.precision_score(truth, calls, **kept),
        "npv": lambda: sklearn.metrics.precision_score(~truth, ~calls, **kept),
        "f1": lambda: sklearn.metrics.f1_score(truth, calls, **kept),
    }[name.partition("/")[0]]()


def test_every_number_and_replicate_is_that_of_scikit_learn():
    predictions = drawn()
    weights = metrics.bootstrap_weights(500, 4)
    shared = metrics.Resamples.from_weights(predictions.labels, weights)
    names = names_of(predictions)
    assert len(names) == 4 * 14 + 6
    found = metrics.evaluate_resamples(predictions, shared, None, names)
    assert list(found) == names
    for name, estimate in found.items():
        has_column = find_class_metric(name, NAMES).column is not None
        assert len(estimate.replicates) == (0 if has_column else 4)
        rows = [np.ones(500), *weights.astype(float)][: 1 + len(estimate.replicates)]
        expected = [theirs(name, predictions, row) for row in rows]
        slack = 1e-6 if name.partition("/")[0] in CALIBRATION else 1e-12  # where theirs stops
        np.testing.assert_allclose([estimate.value, *estimate.replicates], expected, atol=slack)


def test_numbers_that_do_not_exist_are_nan_and_the_images_are_counted():
    predictions = drawn()
    shared = metrics.Resamples.draw(predictions.labels, 50)
    found = metrics.evaluate_resamples(predictions, shared, None, names_of(predictions))
    scores = {name: to_score(estimate, (0.0, 1.0)) for name, estimate in found.items()}
    undefined = {name for name, score in scores.items() if math.isnan(score.value)}
    of_images = ("sensitivity", "auc", "pr_auc", "conformal_coverage", "mcc", *CALIBRATION)
    absent = {f"{kind}/none of these" for kind in of_images}
    assert undefined == absent | {"ppv/never called", "mcc/never called"}
    assert all(math.isnan(scores[name].low) for name in undefined)
    assert scores["f1/never called"].value == 0  # it has images, and none is found
    assert scores["f1/never called"].high > 0
    for label, name in enumerate(NAMES):
        images = (predictions.labels == label).sum()
        assert {scores[f"{kind}/{name}"].n for kind in CLASS_METRICS} == {images}


def test_the_images_that_a_value_is_a_share_of():
    predictions = drawn()
    truth, calls = predictions.labels == 1, predictions.predicted == 1
    expected = {
        "sensitivity": truth.sum(),
        "specificity": (~truth).sum(),
        "ppv": calls.sum(),
        "npv": (~calls).sum(),
        "f1": (truth | calls).sum(),
        "mcc": min((truth & calls).sum(), (~truth & ~calls).sum(), (truth != calls).sum()),
        **dict.fromkeys(CALIBRATION, min(truth.sum(), (~truth).sum())),
        "auc": min(truth.sum(), (~truth).sum()),
        "pr_auc": min(truth.sum(), (~truth).sum()),
    }
    for kind, images in expected.items():
        assert find_class_metric(f"{kind}/malignant", NAMES).errors(predictions) == images


@pytest.mark.parametrize(
    "name",
    [
        *("accuracy", "ppv", "ppv/", "ppv/mole", "ppb/malignant", "auc/malignant@0.3"),
        *("ppv/mole@0.3", "ppv/malignant@", "ppv/malignant@1", "ppv/malignant@nan"),
    ],
)
def test_other_names_are_of_no_class(name):
    assert find_class_metric(name, NAMES) is None


def test_a_class_with_the_sign_of_an_operating_point_in_its_name():
    classes = ("a@0.5", "a")
    assert find_class_metric("ppv/a@0.5", classes).class_label == 0
    assert find_class_metric("ppv/a@0.5@0.5", classes).threshold == 0.5
    assert find_class_metric("ppv/a@0.25", classes).class_label == 1


def test_a_perfect_class_of_few_images_is_no_proof_of_perfection():
    """The interval has the width of the images of the class, and not of all images."""
    few = Estimate(1.0, np.ones(100), 20, "conditional", errors=20)
    # Clopper and Pearson's lower end of 20 of 20 is that of a one-sided level of 2.5 %.
    assert to_score(few, (0.0, 1.0)).low == pytest.approx(0.025 ** (1 / 20))
    overlap = to_score(dataclasses.replace(few, interval="overlap"), (0.0, 1.0))
    low = to_score(few, (0.0, 1.0)).low
    assert overlap.low == pytest.approx(2 * low / (1 + low))
    area = dataclasses.replace(few, interval="area", column=np.zeros(90, np.float32), pairs=30)
    found = to_score(dataclasses.replace(area, errors=30, fewest=30), (0.0, 1.0))
    assert found.low == pytest.approx(0.025 ** (1 / 30))
    assert to_score(dataclasses.replace(area, fewest=30)).too_few


@pytest.mark.parametrize("sensitivity", [0.5, 0.99])
def test_either_tail_misses_seldom_where_few_images_are_of_the_class(sensitivity):
    """`benchmarks/classes.py` asks the same at length."""
    trials = 40
    for name, (below, above, none) in simulated.tails(30, sensitivity, trials).items():
        assert trials * below <= most(trials, 0.05), name
        assert trials * above <= most(trials, 0.05), name
        # On average 30 images are of the class, and areas need at least 30.
        assert (none > 0) == ("auc" in name), name


def cells_and_reader():
    """Clean images and two levels of a shift for two models and seeds, each with other answers."""
    shifts = [Shift("clean", None, {}, lambda *_: None)]
    shifts += [Shift("snow", level, {}, lambda *_: None) for level in (1, 2)]
    cells = [Cell(model, seed, shift) for model in "mn" for seed in (0, 1) for shift in shifts]
    made = {cell: drawn(answers=number) for number, cell in enumerate(cells)}
    return cells, made.__getitem__


def test_clean_images_and_means_over_levels_have_rows_and_single_levels_have_none():
    cells, read = cells_and_reader()
    _, rows = estimate_with_classes(cells, read, 100, {"malignant": POINT})
    found = set(zip(rows["model"], rows["seed"], rows["shift"], rows["level"], strict=True))
    conditions = {("clean", "none"), ("snow", "mean")}
    seeds = ("0", "1", "mean")
    assert found == {
        (model, seed, *each) for model in "mn" for seed in seeds for each in conditions
    }
    assert len(rows) == len(found) * len(names_of(drawn()))
    name = "ppv/malignant"
    one = rows[(rows["metric"] == name) & (rows["model"] == "n") & (rows["seed"] == "1")]
    clean, *snow = (_estimate(read(cell), name).value for cell in cells[-3:])
    np.testing.assert_allclose(one["value"], [clean, np.mean(snow)], atol=1e-8)


def _estimate(predictions, name):
    shared = metrics.Resamples.draw(predictions.labels, 100)
    return metrics.evaluate_resamples(predictions, shared, None, [name])[name]


def test_without_logits_classes_have_the_rows_of_their_calls_and_the_same_numbers():
    cells = [Cell("m", 0, Shift("clean", None, {}, lambda *_: None))]
    _, every = estimate_with_classes(cells, lambda _: drawn(), 100, {"malignant": ("0.3",)})
    lacking = dataclasses.replace(drawn(), logits=None)
    estimated, rows = estimate_with_classes(cells, lambda _: lacking, 100, {"malignant": ("0.3",)})
    assert estimated
    assert set(rows["metric"].str.partition("/")[0]) == {
        *("sensitivity", "specificity", "ppv", "npv", "f1", "mcc")
    }
    same = every[every["metric"].isin(rows["metric"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.reset_index(drop=True), same)


def test_more_than_100_classes_have_no_rows():
    names = tuple(map(str, range(101)))
    predictions = dataclasses.replace(drawn(), logits=None, classes=names)
    cells = [Cell("m", 0, Shift("clean", None, {}, lambda *_: None))]
    estimated, rows = estimate_with_classes(cells, lambda _: predictions, 100, {})
    assert estimated
    assert not len(rows)


def test_one_pass_gives_what_two_would_in_the_order_of_the_cells():
    cells, read = cells_and_reader()
    fitted = {
        cell: metrics.FittedThresholds(0.4 + number / 50, 0.5) for number, cell in enumerate(cells)
    }
    given = {"grouping": metrics.Grouping(np.arange(500) // 5)}
    expected = dict(estimate_cells(cells, read, 50, fitted=fitted.get, **given))
    told, points = [], {"malignant": POINT}
    estimated, rows = estimate_with_classes(
        cells, read, 50, points, fitted=fitted.get, tell=told.append, **given
    )
    assert told == [1] * len(cells)
    assert list(estimated) == list(expected)
    for key, found in estimated.items():
        assert list(found) == list(expected[key])
        for name, estimate in found.items():
            np.testing.assert_array_equal(estimate.replicates, expected[key][name].replicates)
            assert repr(estimate) == repr(expected[key][name])
    single = estimate_cells(cells, read, 50, metrics=names_of(drawn(), points), **given)
    table = scores_frame(add_means(single))
    table = table[(table["level"].isin(["none", "mean"])) & (table["shift"] != "all")]
    at = ["model", "seed", "shift", "metric"]
    pd.testing.assert_frame_equal(
        rows.sort_values(at, ignore_index=True), table.sort_values(at, ignore_index=True)
    )
    assert estimate_with_classes([], read, 50, {})[0] == {}


def test_means_over_levels_take_the_harmonic_mean_of_what_the_values_are_shares_of():
    """A level at which the class is called 10 times is as vague as these 10 images say."""
    level = [
        Estimate(value, np.full(50, value), 40, "conditional", errors=errors, fewest=1)
        for value, errors in ((1.0, 10), (1.0, 30))
    ]
    table = add_means((("m", "0", "snow", str(k)), {"ppv/a": each}) for k, each in enumerate(level))
    mean = table["m", "0", "snow", "mean"]["ppv/a"]
    assert mean.errors == pytest.approx(15)
    row = scores_frame({("m", "0", "snow", "mean"): {"ppv/a": mean}}).iloc[0]
    assert row["low"] == pytest.approx(0.025 ** (1 / 15))
    assert row["n"] == 40
