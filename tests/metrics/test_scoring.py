"""Fast scoring: the shared sums equal the pure functions, for any order and number of threads."""

import dataclasses
import functools
import tracemalloc

import numpy as np
import pytest
import torch

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics import Estimate, FittedThresholds, intervals, to_score
from fairweather.metrics.columns import equal_width_places, merge_levels, order_by_confidence
from fairweather.metrics.recalibration import CALIBRATION_NUMBERS
from fairweather.metrics.table import metrics_of
from fairweather.runs.scores import (
    add_means,
    add_worst,
    estimate_cells,
    estimate_metrics,
    scores_frame,
    scores_to_csv,
    seed_spread,
)
from fairweather.shifts.table import CLEAN, sweep
from fairweather.types.measurement import Cell, Predictions
from tests.helpers import reference
from tests.helpers.costs import cost_functions, priced, slow_costs

ROWS = metrics_of(Predictions.kind)  # test_findings.py is about those of findings
NAMES = [metric.name for metric in ROWS if metric.alias_of is None]
BOUNDS = {metric.name: metric.bounds for metric in ROWS}
FITTED = FittedThresholds(threshold=0.7, atc_threshold=0.6)


def simulated(n, classes=10, seed=0, decimals=None):
    """Predictions of a middling model; with few decimals many confidences are equal."""
    generator = np.random.default_rng(seed)
    # The last class is rare, and the first is common.
    labels = np.minimum(generator.geometric(0.35, size=n) - 1, classes - 1)
    logits = 1.2 * generator.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    logits = (logits if decimals is None else logits.round(decimals)).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    names = tuple(map(str, range(classes)))
    sets = metrics.set_columns(metrics.softmax(logits), labels, 0.7, "aps")
    return Predictions(
        np.arange(n), labels, *columns, logits, names, True, *sets, costs=priced(classes)
    )


def counted(p, w):
    return metrics.class_counts(p.predicted, p.labels, len(p.classes), w)


def mean_over_classes(name):
    kind, _, of = name.partition("_")

    def evaluate(p, w):
        counts = counted(p, w)
        found = getattr(counts, kind)(getattr(counts, of))
        return found if np.ndim(w) == 2 else found[0]

    return evaluate


def binned(error, binning):
    return lambda p, w: error(p.confidence, p.correct, w, bins=10, binning=binning)


def decomposed(part):
    return lambda p, w: getattr(metrics.brier_decomposition(p.confidence, p.correct, w), part)


def of_confidence(function, **options):
    return lambda p, w: function(p.confidence, p.correct, w, **options)


MEANS_OVER_CLASSES = [
    f"{mean}_{of}" for of in ("specificity", "ppv", "npv", "f1") for mean in ("macro", "weighted")
]
# Each row of the table, computed by its pure function.
PURE = {
    "accuracy": lambda p, w: metrics.accuracy(p.correct, w),
    "top5_accuracy": lambda p, w: metrics.top5_accuracy(p.top5_correct, w),
    "balanced_accuracy": lambda p, w: metrics.balanced_accuracy(p.correct, p.labels, w),
    "macro_auc": lambda p, w: metrics.macro_auc(metrics.softmax(p.logits), p.labels, w),
    "macro_pr_auc": lambda p, w: metrics.macro_pr_auc(metrics.softmax(p.logits), p.labels, w),
    **{name: mean_over_classes(name) for name in MEANS_OVER_CLASSES},
    "cohen_kappa": lambda p, w: counted(p, w).kappa[slice(None) if np.ndim(w) == 2 else 0],
    "matthews_correlation": lambda p, w: counted(p, w).matthews[
        slice(None) if np.ndim(w) == 2 else 0
    ],
    "quadratic_kappa": lambda p, w: metrics.quadratic_kappa(p.predicted, p.labels, w),
    "mean_absolute_error": lambda p, w: metrics.mean_absolute_error(p.predicted, p.labels, w),
    "off_by_two": lambda p, w: metrics.off_by_two(p.predicted, p.labels, w),
    "negative_log_likelihood": lambda p, w: metrics.negative_log_likelihood(p.nll, w),
    "negative_log_likelihood/clipped-10": lambda p, w: metrics.negative_log_likelihood(
        p.nll, w, clip=10
    ),
    "brier_score": lambda p, w: metrics.brier_score(p.brier, w),
    "ranked_probability_score": lambda p, w: metrics.ranked_probability_score(
        metrics.softmax(p.logits), p.labels, w
    ),
    "confidence_gap": lambda p, w: metrics.confidence_gap(p.confidence, p.correct, w),
    **{
        f"{name}/10-{binning}": binned(getattr(metrics, name), binning)
        for name in (
            "expected_calibration_error",
            "maximum_calibration_error",
            "rms_calibration_error",
        )
        for binning in ("equal-width", "equal-mass")
    },
    "rms_calibration_error/100-per-bin": lambda p, w: metrics.adaptive_rms_calibration_error(
        p.confidence, p.correct, w
    ),
    "classwise_calibration_error/10-equal-width": lambda p, w: metrics.classwise_calibration_error(
        metrics.softmax(p.logits), p.labels, w
    ),
    "cumulative_calibration_error/10-equal-width": lambda p, w: (
        metrics.cumulative_calibration_error(metrics.softmax(p.logits), p.labels, w)
    ),
    "debiased_calibration_error/10-equal-width": binned(
        metrics.debiased_calibration_error, "equal-width"
    ),
    "debiased_calibration_error/10-equal-mass": binned(
        metrics.debiased_calibration_error, "equal-mass"
    ),
    "brier_reliability/10-equal-width": decomposed("reliability"),
    "brier_resolution/10-equal-width": decomposed("resolution"),
    "brier_uncertainty": decomposed("uncertainty"),
    "area_under_risk_coverage": lambda p, w: metrics.area_under_risk_coverage(
        p.confidence, p.correct, w
    ),
    "coverage_at_risk/0.05": lambda p, w: metrics.coverage_at_risk(p.confidence, p.correct, w),
    "confidence_auroc": lambda p, w: metrics.confidence_auroc(p.confidence, p.correct, w),
    "excess_area_under_risk_coverage": of_confidence(metrics.excess_area_under_risk_coverage),
    **{
        name: of_confidence(getattr(metrics, name))
        for name in (
            "calibration_slope",
            "recalibration_intercept",
            "calibration_intercept",
            "observed_expected_ratio",
        )
    },
    "ici_4_knots": of_confidence(metrics.integrated_calibration_index),
    "average_confidence": lambda p, w: metrics.average_confidence(p.confidence, w),
    "risk_above_validation_threshold/0.05": lambda p, w: metrics.risk_above(
        p.confidence, p.correct, FITTED.threshold, w
    ),
    "coverage_above_validation_threshold/0.05": lambda p, w: metrics.coverage_above(
        p.confidence, FITTED.threshold, w
    ),
    "atc_accuracy": lambda p, w: metrics.atc_accuracy(p.confidence, FITTED.atc_threshold, w),
    "atc_accuracy_error": lambda p, w: (
        metrics.atc_accuracy(p.confidence, FITTED.atc_threshold, w) - metrics.accuracy(p.correct, w)
    ),
    "conformal_coverage": lambda p, w: metrics.conformal_coverage(p.covered, w),
    "conformal_set_size": lambda p, w: metrics.conformal_set_size(p.set_size, w),
    "size_stratified_coverage/30-per-stratum": lambda p, w: metrics.size_stratified_coverage(
        p.set_size, p.covered, w
    ),
    **cost_functions(),
}
# They have no replicates: test_areas.py and test_recalibration.py are about their intervals.
OF_COLUMNS = {metric.name for metric in ROWS if metric.column is not None}
# With more images or confidences than these, the replicates are approximations.
APPROXIMATE = {
    "classwise_calibration_error/10-equal-width",
    "cumulative_calibration_error/10-equal-width",
    "area_under_risk_coverage",
    "excess_area_under_risk_coverage",
    "coverage_at_risk/0.05",
    "confidence_auroc",
}


def fractional(n, rows):
    return np.random.default_rng(5).exponential(size=(rows, n))


CASES = {
    "distinct": (functools.partial(simulated, 300), metrics.bootstrap_weights),
    "tied": (functools.partial(simulated, 700, decimals=0), metrics.bootstrap_weights),
    "few": (functools.partial(simulated, 30, classes=6), metrics.bootstrap_weights),
    "many classes": (functools.partial(simulated, 250, classes=100), metrics.bootstrap_weights),
    "large counts": (
        functools.partial(simulated, 150),
        lambda n, rows: 1 + 1000 * metrics.bootstrap_weights(n, rows).astype(np.int64),
    ),
    "fractions": (functools.partial(simulated, 300, decimals=1), fractional),
}


@functools.cache
def evaluated(case):
    make, draw = CASES[case]
    predictions = make()
    weights = draw(len(predictions), 12)
    return predictions, weights, metrics.evaluate_metrics(predictions, weights, FITTED)


def test_every_row_has_its_pure_function():
    assert set(PURE) == set(NAMES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_replicates_are_those_of_the_pure_function(name, case):
    predictions, weights, estimates = evaluated(case)
    estimate = estimates[name]
    value = PURE[name](predictions, None)
    assert estimate.value == pytest.approx(value, abs=1e-12, nan_ok=True)
    if name not in OF_COLUMNS:
        expected = PURE[name](predictions, weights)
        np.testing.assert_allclose(estimate.replicates, expected, rtol=0, atol=1e-12)


def columns_of(slow, **options):
    return lambda p: slow(p.confidence.tolist(), p.correct.tolist(), **options)


def mean(column):
    return lambda p: sum(column(p).tolist()) / len(p)


def answered(part, threshold):
    if part == "risk":
        return columns_of(reference.risk_above, threshold=threshold)
    return lambda p: reference.coverage_above(p.confidence.tolist(), threshold)


OF_CALIBRATION = [kind.name for kind in CALIBRATION_NUMBERS]
# Each row, computed by its slow reference.
SLOW = {
    "accuracy": mean(lambda p: p.correct),
    "top5_accuracy": mean(lambda p: p.top5_correct),
    "balanced_accuracy": lambda p: reference.balanced_accuracy(
        p.correct.tolist(), p.labels.tolist()
    ),
    "macro_auc": lambda p: reference.macro_auc(
        metrics.softmax(p.logits).tolist(), p.labels.tolist()
    ),
    "macro_pr_auc": lambda p: reference.macro_pr_auc(
        metrics.softmax(p.logits).tolist(), p.labels.tolist()
    ),
    **{
        name: lambda p, name=name: reference.mean_over_classes(
            name, p.predicted.tolist(), p.labels.tolist()
        )
        for name in MEANS_OVER_CLASSES
    },
    "cohen_kappa": lambda p: reference.kappa(p.predicted.tolist(), p.labels.tolist(), power=0),
    "matthews_correlation": lambda p: reference.matthews_correlation(
        p.predicted.tolist(), p.labels.tolist()
    ),
    "quadratic_kappa": lambda p: reference.kappa(p.predicted.tolist(), p.labels.tolist(), power=2),
    "mean_absolute_error": lambda p: reference.mean_absolute_error(
        p.predicted.tolist(), p.labels.tolist()
    ),
    "off_by_two": lambda p: reference.off_by_two(p.predicted.tolist(), p.labels.tolist()),
    "negative_log_likelihood": mean(lambda p: p.nll),
    "negative_log_likelihood/clipped-10": mean(
        lambda p: np.array([min(loss, 10) for loss in p.nll])
    ),
    "brier_score": mean(lambda p: p.brier),
    "ranked_probability_score": lambda p: reference.ranked_probability_score(
        metrics.softmax(p.logits).tolist(), p.labels.tolist()
    ),
    "confidence_gap": mean(lambda p: p.confidence - p.correct),
    **{
        f"{name}/10-{binning}": columns_of(getattr(reference, name), binning=binning)
        for name in (
            "expected_calibration_error",
            "maximum_calibration_error",
            "rms_calibration_error",
        )
        for binning in ("equal-width", "equal-mass")
    },
    "rms_calibration_error/100-per-bin": columns_of(reference.adaptive_rms_calibration_error),
    "classwise_calibration_error/10-equal-width": lambda p: reference.classwise_calibration_error(
        metrics.softmax(p.logits).tolist(), p.labels.tolist()
    ),
    "cumulative_calibration_error/10-equal-width": lambda p: reference.cumulative_calibration_error(
        metrics.softmax(p.logits).tolist(), p.labels.tolist()
    ),
    "debiased_calibration_error/10-equal-width": columns_of(reference.debiased_calibration_error),
    "debiased_calibration_error/10-equal-mass": columns_of(
        reference.debiased_calibration_error, binning="equal-mass"
    ),
    **{
        f"brier_{part}": lambda p, at=at: columns_of(reference.brier_parts)(p)[at]
        for at, part in enumerate(
            ("reliability/10-equal-width", "resolution/10-equal-width", "uncertainty")
        )
    },
    "area_under_risk_coverage": columns_of(reference.area_under_risk_coverage),
    "coverage_at_risk/0.05": columns_of(reference.coverage_at_risk),
    "confidence_auroc": columns_of(reference.confidence_auroc),
    "excess_area_under_risk_coverage": columns_of(reference.excess_area),
    **{
        name: lambda p, name=name: columns_of(reference.calibration_numbers)(p)[name]
        for name in OF_CALIBRATION
    },
    "average_confidence": mean(lambda p: p.confidence),
    "risk_above_validation_threshold/0.05": answered("risk", FITTED.threshold),
    "coverage_above_validation_threshold/0.05": answered("coverage", FITTED.threshold),
    "atc_accuracy": answered("coverage", FITTED.atc_threshold),
    "atc_accuracy_error": lambda p: SLOW["atc_accuracy"](p) - SLOW["accuracy"](p),
    "conformal_coverage": mean(lambda p: p.covered),
    "conformal_set_size": mean(lambda p: p.set_size),
    "size_stratified_coverage/30-per-stratum": lambda p: reference.lowest_stratum(
        p.set_size.tolist(), p.covered.tolist()
    ),
    **{name: lambda p, name=name: slow_costs(p)[name] for name in cost_functions()},
}


@functools.cache
def drawn_by_hand(decimals):
    """Few images, and the images of three resamples of them written out."""
    predictions = simulated(210, classes=6, decimals=decimals)
    weights = metrics.bootstrap_weights(210, 3)
    written = [
        dataclasses.replace(
            predictions,
            **{
                name: np.repeat(column, row, axis=0)
                for name, column in vars(predictions).items()
                if isinstance(column, np.ndarray)
            },
        )
        for row in weights
    ]
    return predictions, written, metrics.evaluate_metrics(predictions, weights, FITTED)


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_replicates_are_those_of_the_slow_reference(name, decimals):
    predictions, written, estimates = drawn_by_hand(decimals)
    found = [estimates[name].value, *estimates[name].replicates]
    assert len(found) == (1 if name in OF_COLUMNS else 4)
    expected = [SLOW[name](each) for each in (predictions, *written)[: len(found)]]
    # The square root is steep at 0, so the squares of the debiased error are compared.
    power = 2 if name.startswith("debiased") else 1
    np.testing.assert_allclose(
        np.sign(found) * np.abs(found) ** power,
        np.sign(expected) * np.abs(expected) ** power,
        atol=1e-12,
        rtol=0,
    )


def test_shortcuts_do_not_move_the_replicates(monkeypatch):
    """If each image counts once, the result is the value itself, however coarse the groups are."""
    predictions = simulated(3000)
    monkeypatch.setattr(intervals, "MOST_LEVELS", 50)
    estimates = metrics.evaluate_metrics(predictions, np.ones((1, 3000), dtype=np.uint8), FITTED)
    for name, estimate in estimates.items():
        if name not in OF_COLUMNS:
            assert estimate.replicates[0] == pytest.approx(estimate.value, abs=1e-12), name


@functools.cache
def large():
    """20,000 images: more than are grouped exactly."""
    predictions = simulated(20_000)
    weights = metrics.bootstrap_weights(len(predictions), 120)
    return predictions, weights, metrics.evaluate_metrics(predictions, weights, FITTED)


@pytest.mark.parametrize("name", NAMES)
def test_replicates_of_many_images_are_as_good_as_exact(name):
    predictions, weights, estimates = large()
    estimate = estimates[name]
    assert estimate.value == pytest.approx(PURE[name](predictions, None), abs=1e-11)
    if name in OF_COLUMNS:
        if estimate.interval == "area":  # of ranks, which the order of the images cannot change
            assert estimate.value == PURE[name](predictions, None)
        return
    exact = PURE[name](predictions, weights)
    if name not in APPROXIMATE:
        np.testing.assert_allclose(estimate.replicates, exact, rtol=0, atol=1e-11)
        return
    found, expected = (
        to_score(dataclasses.replace(estimate, replicates=each), BOUNDS[name])
        for each in (estimate.replicates, exact)
    )
    most = 0.02 * (expected.high - expected.low)
    assert np.ptp(estimate.replicates - exact) > 0  # the replicates are approximate
    assert abs(found.low - expected.low) < most
    assert abs(found.high - expected.high) < most


def test_float32_sums_by_class_keep_seven_digits():
    predictions, weights, estimates = large()
    name = "classwise_calibration_error/10-equal-width"
    exact = PURE[name](predictions, weights)
    np.testing.assert_allclose(estimates[name].replicates, exact, rtol=0, atol=1e-7)


def test_one_wrong_of_twenty_is_a_risk_of_five_percent():
    predictions = dataclasses.replace(
        simulated(25),
        confidence=np.linspace(1, 0.2, 25),
        labels=np.zeros(25, dtype=np.int64),
        predicted=np.isin(np.arange(25), [19, 20, 21, 22, 23, 24]).astype(np.int64),
    )
    estimate = metrics.evaluate_metrics(predictions, np.ones((1, 25)))["coverage_at_risk/0.05"]
    assert estimate.value == estimate.replicates[0] == 0.8


def test_a_group_parts_no_confidence_and_no_bin():
    confidence = np.random.default_rng(0).beta(5, 1.5, size=5000).round(4)
    order = merge_levels(order_by_confidence(confidence, confidence > 0.5), 300, 10)
    assert len(order.levels) - 1 <= 300
    sure = np.sort(confidence)
    inside = order.levels[1:-1]
    assert (sure[inside] > sure[inside - 1]).all()
    edges = equal_width_places(order, 10).tolist()
    assert edges == [(confidence <= k / 10).sum() if k else 0 for k in range(11)]
    assert set(edges) <= set(order.levels.tolist())
    # The largest group is not much larger than needed.
    assert np.diff(order.levels).max() < 3 * 5000 / 300


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_order_of_the_images_does_not_matter(decimals):
    predictions = simulated(400, decimals=decimals)
    weights = metrics.bootstrap_weights(400, 20)
    order = np.random.default_rng(1).permutation(400)
    columns = {
        name: column[order]
        for name, column in vars(predictions).items()
        if isinstance(column, np.ndarray)
    }
    moved = dataclasses.replace(predictions, **columns)
    here = metrics.evaluate_metrics(predictions, weights, FITTED)
    there = metrics.evaluate_metrics(moved, weights[:, order], FITTED)
    for name in NAMES:
        assert there[name].value == pytest.approx(here[name].value, abs=1e-13)
        np.testing.assert_allclose(there[name].replicates, here[name].replicates, atol=1e-13)


def test_memory_does_not_grow_with_the_resamples(monkeypatch):
    predictions = simulated(5000)
    monkeypatch.setattr(intervals, "COUNTS_AT_ONCE", 20 * 5000)
    weights = metrics.bootstrap_weights(5000, 400)

    def peak(rows):
        shared = metrics.Resamples.from_weights(predictions.labels, weights[:rows])
        metrics.evaluate_resamples(predictions, shared, FITTED)
        tracemalloc.start()
        metrics.evaluate_resamples(predictions, shared, FITTED)
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Only the replicates need more memory: 26 metrics, 380 resamples, a few copies.
    assert peak(400) - peak(20) < 4 * 26 * 380 * 8


@pytest.fixture
def cells():
    shifts = [CLEAN, *sweep("brightness_factor", [0.5, 1.5]), *sweep("gaussian_blur", [1])]
    return [Cell("m", seed, shift) for seed in (0, 1) for shift in shifts]


def stored(cells, n=500):
    predictions = [simulated(n, seed=number) for number in range(len(cells))]
    labels = predictions[0].labels
    found = {}
    for cell, each in zip(cells, predictions, strict=True):
        columns = metrics.per_image(each.logits, labels)
        found[cell] = dataclasses.replace(each, labels=labels, **columns._asdict())
    return found


def test_threads_change_nothing(cells, monkeypatch):
    predictions = stored(cells)
    results = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        table = dict(estimate_cells(cells, predictions.__getitem__, 30, fitted=lambda cell: FITTED))
        assert list(table) == [
            (cell.model, str(cell.seed), cell.shift.name, cell.shift.level_name) for cell in cells
        ]
        results.append(table)
    for key in results[0]:
        for name in results[0][key]:
            first, second = (table[key][name] for table in results)
            assert first.value == second.value or np.isnan(first.value)
            assert first.replicates.tobytes() == second.replicates.tobytes()


def test_few_cells_are_held_at_once(cells, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    predictions, read = stored(cells), []

    def reader(cell):
        read.append(cell)
        return predictions[cell]

    for number, _ in enumerate(estimate_cells(cells, reader, 10)):
        assert len(read) <= number + 3
    assert read == cells


def test_what_is_fitted_is_each_cells_own(cells):
    predictions = stored(cells)

    def fitted(cell):
        return None if cell.seed == 0 else FittedThresholds(0.9, 0.5)

    table = dict(estimate_cells(cells, predictions.__getitem__, 10, fitted=fitted))
    assert "atc_accuracy" not in table["m", "0", "clean", "none"]
    found = table["m", "1", "clean", "none"]["atc_accuracy"].value
    assert found == (predictions[cells[4]].confidence >= 0.5).mean()
    # A mean has only the metrics that all cells have.
    summary = add_means(table.items())
    assert "accuracy" in summary["m", "mean", "clean", "none"]
    assert "atc_accuracy" not in summary["m", "mean", "clean", "none"]


def test_other_labels_are_other_images(cells):
    predictions = stored(cells)
    other = dataclasses.replace(predictions[cells[2]], labels=np.zeros(500, dtype=np.int64))
    predictions[cells[2]] = other
    with pytest.raises(InputError, match="other images than"):
        list(estimate_cells(cells, predictions.__getitem__, 10))
    assert list(estimate_cells([], predictions.__getitem__, 10)) == []


def test_some_metrics_are_estimated_as_all_are(cells):
    predictions = stored(cells)
    every = dict(estimate_cells(cells, predictions.__getitem__, 15, fitted=lambda _: FITTED))
    shared = metrics.Resamples.draw(predictions[cells[0]].labels, 15)
    keyed = zip(every, predictions.values(), strict=True)
    # Only the alias is asked for, not the metric that it repeats.
    names = ("atc_accuracy", "rms_calibration_error", "flip_rate")
    some = dict(estimate_metrics(((key, each, FITTED) for key, each in keyed), shared, names))
    assert list(some) == list(every)
    for key, found in some.items():
        assert sorted(found) == ["atc_accuracy", "rms_calibration_error"]
        for name, each in found.items():
            assert each.value == every[key][name].value
            assert each.replicates.tobytes() == every[key][name].replicates.tobytes()


def test_resamples_are_of_images_with_these_labels():
    shared = metrics.Resamples.draw(np.zeros(30, dtype=np.int64), 5)
    with pytest.raises(InputError, match=r"labels .*resamples"):
        list(estimate_metrics([(("m", "0", "clean", "none"), simulated(30), None)], shared))


def estimates(**values):
    return {
        name: Estimate(value, np.array([value, 1 - value]), 9) for name, value in values.items()
    }


def levels(shift, *values, seed="0"):
    return [
        (("m", seed, shift, str(level)), estimates(accuracy=a, brier_score=b, confidence_gap=0.1))
        for level, (a, b) in enumerate(values)
    ]


def test_worst_is_by_metric_and_resample():
    cells = [
        *levels("clean", (0.1, 0.9)),
        *levels("fog", (0.8, 0.3), (0.6, 0.2)),
        *levels("snow", (0.7, 0.4)),
        *levels("pgd", (0.2, 0.8)),
        *levels("priors/uniform", (0.1, 0.9)),
        *levels("ood/svhn", (0.1, 0.9)),
    ]
    table = add_worst(add_means(cells, apart=["pgd"]), apart=["pgd"])
    worst = {key[2]: found for key, found in table.items() if key[3] == "worst"}
    assert set(worst) == {"fog", "snow", "pgd", "all"}
    assert set(worst["fog"]) == {"accuracy", "brier_score"}
    assert worst["fog"]["accuracy"].value == 0.6
    assert worst["fog"]["accuracy"].replicates.tolist() == pytest.approx([0.6, 0.2])
    assert worst["fog"]["brier_score"].value == 0.3
    assert worst["fog"]["brier_score"].replicates.tolist() == pytest.approx([0.3, 0.8])
    assert (worst["all"]["accuracy"].value, worst["all"]["brier_score"].value) == (0.6, 0.4)
    means = {key[2]: found["accuracy"].value for key, found in table.items() if key[3] == "mean"}
    assert means == pytest.approx({"fog": 0.7, "snow": 0.7, "pgd": 0.2, "all": 0.7})


def test_worst_over_seeds_is_the_mean_of_each_seeds_worst():
    cells = [*levels("fog", (0.8, 0), (0.6, 0)), *levels("fog", (0.5, 0), (0.9, 0), seed="1")]
    table = add_worst(add_means(cells))
    assert table["m", "mean", "fog", "worst"]["accuracy"].value == pytest.approx(0.55)
    assert table["m", "mean", "all", "worst"]["accuracy"].value == pytest.approx(0.55)


def test_the_spread_over_seeds_is_the_sample_deviation(cells):
    frame = scores_frame(add_means(estimate_cells(cells, stored(cells).__getitem__, 10)))
    spread = seed_spread(frame)
    assert set(spread.seed) == {"sd"}
    assert list(spread) == list(frame)
    assert spread[["low", "high"]].isna().all(axis=None)
    wanted = "shift == 'gaussian_blur' and level == 'mean' and metric == 'accuracy'"
    values = frame.query(wanted + " and seed in ('0', '1')").value
    assert spread.query(wanted).value.item() == pytest.approx(np.std(values, ddof=1))
    assert len(spread) == len(frame[frame.seed == "0"])
    assert seed_spread(frame[frame.seed == "0"]).empty
    assert "m,sd,clean,none,accuracy," in scores_to_csv(spread)


def test_fit_on_keeps_the_risk_on_what_it_was_fitted_on():
    validation = simulated(800, seed=4)
    fitted = metrics.fit_on(validation)
    scores = metrics.score(validation, 20, fitted=fitted)
    assert 0 < scores["coverage_above_validation_threshold/0.05"].value < 1
    assert scores["risk_above_validation_threshold/0.05"].value <= 0.05
    assert scores["coverage_above_validation_threshold/0.05"].value == pytest.approx(
        scores["coverage_at_risk/0.05"].value
    )
    assert scores["atc_accuracy_error"].value == pytest.approx(0, abs=1 / 800)
    columns = {
        name: column[:0]
        for name, column in vars(validation).items()
        if isinstance(column, np.ndarray)
    }
    nothing = dataclasses.replace(validation, **columns)
    with pytest.raises(InputError, match="validation predictions"):
        metrics.fit_on(nothing)


def test_a_metric_may_be_a_function_of_columns():
    """What a contributor writes first: a pure function on the sample's columns and weights."""
    predictions = simulated(200)
    weights = metrics.bootstrap_weights(200, 7)
    shared = metrics.Resamples.from_weights(predictions.labels, weights)
    prepared = shared.prepare(predictions)
    sample = metrics.Sample(prepared, prepared.order, shared.counts)
    found = metrics.negative_log_likelihood(sample.predictions.nll, sample.weights)
    np.testing.assert_allclose(found, metrics.negative_log_likelihood(predictions.nll, weights))


def test_shifted_names_that_only_begin_alike_are_counted():
    cells = [*levels("oodles", (0.5, 0.5)), *levels("ood/oodles", (0.5, 0.5))]
    means = {key[2] for key in add_means(cells) if key[3] == "mean"}
    assert means == {"oodles", "all"}
