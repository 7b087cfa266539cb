"""Prediction sets: scores, quantiles, sets and metrics, and the rows of a run that has them."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fairweather as fw
from fairweather.data.batches import batch_slices
from fairweather.errors import InputError
from fairweather.inference.prediction import Predictor, make_predictions, predict_batches
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import FittedThresholds, Resamples, evaluate_resamples, softmax, to_score
from fairweather.metrics.conformal import (
    FREE_RANKS,
    METHODS,
    RANK_PENALTY,
    CalibrationDraw,
    class_scores,
    classwise_quantiles,
    conformal_quantile,
    coverage_deviations,
    fewest_images,
    label_scores,
    prediction_sets,
    set_columns,
    size_stratified_coverage,
)
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.report.contents import Sweep, read_contents
from fairweather.report.prediction_sets import (
    SetScores,
    ShiftPromise,
    check_promises,
    describe_promises,
)
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder, StoredGroups
from fairweather.steps.plan import ScoredModel, ScoreStep
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, RunSettings, predictions_file, sets_file, variant_name
from fairweather.variants.prediction_sets import Conformal, FittedSets, split_halves
from fairweather.variants.scaling import fit_temperature
from fairweather.variants.variant import read_variant, read_variants
from tests.conftest import TINY_RESNET
from tests.helpers import reference
from tests.helpers.chance import FALSE_ALARM
from tests.helpers.run_folders import finish, outcomes, run_record, sweep_record, write_run
from tests.report.test_report import Sentences, crowded

pytestmark = pytest.mark.usefixtures("undrawn")


def quantile_rank(images, coverage):
    """Which of the sorted scores is the threshold; above the number of images there is none."""
    return math.ceil((images + 1) * Fraction(repr(coverage)))


def made(n=400, classes=6, seed=0, decimals=None, factor=1.0):
    """Logits of a middling model and labels that fit its probabilities; rounded ones have ties."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    chances = softmax(logits)
    labels = (chances.cumsum(1) > rng.random((n, 1))).argmax(1)
    logits = factor * logits
    return (logits if decimals is None else logits.round(decimals)).astype(np.float32), labels


# ---------------------------------------------------------------- scores and sets


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("classes", [1, 2, 9])
def test_scores_and_sets_are_those_of_the_slow_reference(method, decimals, classes):
    logits, labels = made(60, classes, decimals=decimals)
    probabilities = softmax(logits)
    scores = class_scores(probabilities, method)
    slow = [
        reference.class_scores(row, method, RANK_PENALTY, FREE_RANKS)
        for row in probabilities.tolist()
    ]
    np.testing.assert_allclose(scores, slow, rtol=0, atol=1e-12)
    for threshold in (0.0, 0.31, 0.97, math.inf):
        sets = prediction_sets(probabilities, threshold, method)
        expected = [
            reference.prediction_set(row, own, threshold)
            for row, own in zip(probabilities.tolist(), scores.tolist(), strict=True)
        ]
        assert [set(np.flatnonzero(each).tolist()) for each in sets] == expected
        size, covered = set_columns(probabilities, labels, threshold, method)
        assert size.tolist() == [len(each) for each in expected]
        assert covered.tolist() == [k in s for k, s in zip(labels.tolist(), expected, strict=True)]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "ordinal"])
@pytest.mark.parametrize("decimals", [None, 0])
def test_order_of_classes_and_of_images_does_not_matter(method, decimals):
    logits, labels = made(80, 12, decimals=decimals)
    probabilities = softmax(logits)
    rng = np.random.default_rng(1)
    classes, images = rng.permutation(12), rng.permutation(80)
    scores = class_scores(probabilities, method)
    np.testing.assert_array_equal(
        class_scores(probabilities[images][:, classes], method), scores[images][:, classes]
    )
    quantile = conformal_quantile(label_scores(probabilities, labels, method), 0.8)
    assert quantile == conformal_quantile(
        label_scores(probabilities[images], labels[images], method), 0.8
    )
    sets = prediction_sets(probabilities, quantile, method)
    moved = prediction_sets(probabilities[images][:, classes], quantile, method)
    np.testing.assert_array_equal(moved, sets[images][:, classes])


@pytest.mark.parametrize("method", METHODS)
def test_no_set_is_empty_and_each_has_the_most_probable_class(method):
    probabilities = softmax(made(300, 5)[0])
    for threshold in (-1.0, 0.0, 0.4, [0.1, 0.9, 0.0, 0.3, 0.2]):
        sets = prediction_sets(probabilities, threshold, method)
        assert sets.any(axis=1).all()
        if method != "lac" or np.ndim(threshold) == 0:
            assert sets[np.arange(300), probabilities.argmax(axis=1)].all()


def test_equal_probabilities_are_in_a_set_together():
    for method in METHODS:
        sets = prediction_sets([[0.25] * 4, [0.4, 0.4, 0.1, 0.1]], 0.3, method)
        assert sets.sum(axis=1).tolist() == [4, 2]


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, [0.1, 0.9, 0.0, 0.8, 0.2, 0.7, 0.4]])
def test_ordinal_sets_are_grades_in_a_row(decimals, threshold):
    probabilities = softmax(made(300, 7, decimals=decimals)[0])
    sets = prediction_sets(probabilities, threshold, "ordinal")
    for row in sets:
        members = np.flatnonzero(row)
        assert members.tolist() == list(range(members[0], members[-1] + 1))
    turned = np.asarray(threshold)[::-1] if np.ndim(threshold) else threshold
    other = prediction_sets(probabilities[:, ::-1], turned, "ordinal")
    np.testing.assert_array_equal(other[:, ::-1], sets)


def test_ordinal_sets_are_those_of_aps_where_probabilities_fall_to_both_sides():
    steps = np.abs(np.arange(7) - np.linspace(-0.3, 6.4, 90)[:, None])
    probabilities = softmax(-2 * steps)
    for threshold in (0.0, 0.5, 0.95):
        np.testing.assert_array_equal(
            prediction_sets(probabilities, threshold, "ordinal"),
            prediction_sets(probabilities, threshold, "aps"),
        )
    # The grade between two probable ones is in, though it is improbable.
    rows = [[0.45, 0.01, 0.44, 0.06, 0.04]]
    assert prediction_sets(rows, 0.46, "aps").tolist() == [[True, False, True, False, False]]
    assert prediction_sets(rows, 0.46, "ordinal").tolist() == [[True, True, True, False, False]]


def test_raps_is_aps_up_to_five_classes_and_makes_smaller_sets_beyond():
    few, many = (softmax(made(50, classes)[0]) for classes in (5, 300))
    np.testing.assert_array_equal(class_scores(few, "aps"), class_scores(few, "raps"))
    assert (class_scores(many, "aps") <= class_scores(many, "raps")).all()
    sizes = [prediction_sets(many, 0.9, method).sum() for method in ("aps", "raps")]
    assert sizes[1] < sizes[0]


def test_bad_scores_are_one_sentence():
    with pytest.raises(InputError, match="did you mean 'aps'"):
        class_scores([[1.0]], "apps")
    with pytest.raises(InputError, match=r"\[n, classes\], found \[2\]"):
        class_scores([0.5, 0.5])
    with pytest.raises(InputError, match="without NaN"):
        conformal_quantile([0.5, math.nan], 0.5)
    for coverage in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(InputError, match="a share between 0 and 1"):
            conformal_quantile([0.5], coverage)


# ---------------------------------------------------------------- the exact quantile


@given(st.integers(0, 3000), st.integers(1, 999))
def test_the_rank_is_exact_and_the_fewest_images_are_those_that_have_it(images, thousandths):
    coverage = thousandths / 1000
    rank = quantile_rank(images, coverage)
    assert 1000 * (rank - 1) < (images + 1) * thousandths <= 1000 * rank
    assert (rank <= images) == (images >= fewest_images(coverage))


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95, 0.999])
def test_with_one_image_too_few_every_class_is_in_every_set(coverage):
    needed = fewest_images(coverage)
    assert needed == math.ceil(round(1 / (1 - coverage), 6)) - 1
    scores = np.arange(1, needed + 1) / needed
    assert conformal_quantile(scores, coverage) == 1.0
    assert conformal_quantile(scores[1:], coverage) == math.inf
    assert prediction_sets([[0.9, 0.1]], math.inf).all()


@pytest.mark.parametrize("n", [9, 10, 19, 57])
def test_coverage_over_all_draws_is_at_least_the_promise_exactly(n):
    """Of n + 1 exchangeable scores each is left out once: the share covered is rank / (n + 1)."""
    scores = np.random.default_rng(n).random(n + 1)
    covered = [scores[at] <= conformal_quantile(np.delete(scores, at), 0.9) for at in range(n + 1)]
    assert sum(covered) == quantile_rank(n, 0.9)
    tied = scores.round(1)
    covered = [tied[at] <= conformal_quantile(np.delete(tied, at), 0.9) for at in range(n + 1)]
    assert sum(covered) >= 0.9 * (n + 1)


def test_classwise_quantiles_are_those_of_each_class_alone():
    rng = np.random.default_rng(0)
    scores, labels = rng.random(60), rng.integers(0, 3, 60)
    found = classwise_quantiles(scores, labels, 0.8, 4)
    assert found[:3].tolist() == [conformal_quantile(scores[labels == k], 0.8) for k in range(3)]
    assert found[3] == math.inf


# ---------------------------------------------------------------- the same as MAPIE


class Fixed:
    """A fitted classifier that MAPIE takes: the features are the probabilities themselves."""

    def __init__(self, classes):
        self.classes_ = np.arange(classes)
        self.n_features_in_ = classes

    def fit(self, features, labels):
        return self

    def predict(self, features):
        return np.asarray(features).argmax(axis=1)

    def predict_proba(self, features):
        return np.asarray(features)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize("coverage", [0.8, 0.93])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_lac_sets_are_those_of_mapie(coverage, factor):
    mapie = pytest.importorskip("mapie.classification")
    sklearn = pytest.importorskip("sklearn.base")
    kind = type("Classifier", (Fixed, sklearn.ClassifierMixin, sklearn.BaseEstimator), {})
    logits, labels = made(500, 7, factor=factor)
    probabilities = softmax(logits)
    other = mapie.SplitConformalClassifier(
        kind(7), confidence_level=coverage, prefit=True, conformity_score="lac"
    )
    other.conformalize(probabilities[:200], labels[:200])
    _, expected = other.predict_set(probabilities[200:])
    quantile = conformal_quantile(label_scores(probabilities[:200], labels[:200]), coverage)
    sets = prediction_sets(probabilities[200:], quantile)
    filled = ~expected[:, :, 0].any(axis=1)  # MAPIE leaves these empty
    np.testing.assert_array_equal(sets[~filled], expected[~filled, :, 0])
    assert (sets[filled].sum(axis=1) == 1).all()


def test_aps_sets_are_those_of_mapie_that_include_the_class_which_reaches_the_threshold():
    scores = pytest.importorskip("mapie.conformity_scores.sets.aps")
    logits, labels = made(500, 7)
    probabilities = softmax(logits)
    theirs, _ = scores.APSConformityScore.get_true_label_cumsum_proba(
        labels, probabilities, np.arange(7)
    )
    # The sum up to and including the label, of which its own probability is the last term.
    own = probabilities[np.arange(500), labels]
    np.testing.assert_allclose(
        label_scores(probabilities, labels, "aps"), theirs[:, 0] - own, rtol=0, atol=1e-12
    )


# ---------------------------------------------------------------- fitting on validation images


def columns_of(logits, labels, keys=None):
    keys = np.arange(len(labels)) if keys is None else keys
    names = tuple(f"class {k}" for k in range(logits.shape[1]))
    return make_predictions(logits, labels.astype(np.int64), keys, names)


def test_halves_depend_on_the_keys_alone():
    keys = np.random.default_rng(0).integers(0, 2**62, 101)
    parts = split_halves(keys)
    assert len(parts.temperature) == 50
    assert sorted([*parts.temperature, *parts.thresholds]) == list(range(101))
    order = np.random.default_rng(1).permutation(101)
    moved = split_halves(keys[order])
    assert set(keys[order][moved.temperature]) == set(keys[parts.temperature])
    # Neighbours such as the images of a class in a folder are not all in one half.
    first = split_halves(np.arange(1000)).temperature
    share = (first < 500).mean()
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / 500)


def test_no_patient_is_in_both_halves():
    rng = np.random.default_rng(0)
    for seed in range(20):
        grouping = Grouping.from_names(rng.integers(0, 12, 90))
        parts = split_halves(rng.permutation(1000)[:90], grouping)
        assert not set(grouping.numbers[parts.temperature]) & set(
            grouping.numbers[parts.thresholds]
        ), seed
        assert len(np.unique(grouping.numbers[parts.temperature])) == grouping.count // 2
    alone = Grouping(np.zeros(40, dtype=np.int64))
    with pytest.raises(InputError, match="all validation images belong together"):
        Conformal().split(np.arange(40), np.zeros(40, int), ("a", "b"), alone)


def test_temperature_and_threshold_are_each_fitted_on_their_half():
    logits, labels = made(400, factor=3.0)
    predictions = columns_of(logits, labels)
    parts = split_halves(predictions.keys)
    fitted = Conformal(method="aps").fit(predictions)
    at = parts.temperature
    assert fitted.temperature == fit_temperature(logits[at], labels[at]).value
    at = parts.thresholds
    scaled = logits[at] / np.float32(fitted.temperature)
    scores = label_scores(softmax(scaled), labels[at], "aps")
    assert fitted.thresholds == (conformal_quantile(scores, 0.9),)
    assert fitted.images == (200,)
    every = fitted.apply(predictions)
    assert fitted.covered == (every.covered[at].sum(),)
    assert fitted.covered[0] >= quantile_rank(200, 0.9)


def test_without_ties_exactly_the_rank_is_covered_and_filled_sets_are_counted():
    logits, labels = made(800, 5)
    fitted = Conformal(coverage=0.95).fit(columns_of(logits, labels))
    assert fitted.filled == 0
    assert fitted.covered == (quantile_rank(400, 0.95),)
    # A model that is mostly right: a threshold for 50 % leaves many sets empty.
    noise = np.random.default_rng(0).normal(size=(800, 5))
    sure = (2.5 * np.eye(5)[labels] + noise).astype(np.float32)
    fitted = Conformal(coverage=0.5).fit(columns_of(sure, labels))
    assert fitted.filled > 0.1
    assert fitted.covered[0] > quantile_rank(400, 0.5)


def test_classwise_sets_have_a_threshold_for_each_class():
    logits, labels = made(600, 3)
    variant = Conformal(coverage=0.8, classwise=True)
    fitted = variant.fit(columns_of(logits, labels))
    assert len(fitted.thresholds) == len(fitted.images) == 3
    assert sum(fitted.images) == 300
    assert [draw.label for draw in fitted.draws] == [0, 1, 2]


def patients(count, rng, *, largest=40):
    """Logits, labels and groups of patients: half of them are large, and hard."""
    large = rng.random(count) < 0.5
    grouping = np.repeat(np.arange(count), np.where(large, largest, 1))
    logits = rng.normal(size=(len(grouping), 4)) + 4 * np.eye(4)[rng.integers(0, 4, len(grouping))]
    # All images of a hard patient have the same chance to be wrong, up to 60 %.
    wrong = rng.random(len(grouping)) < (large * rng.uniform(0.2, 0.6, count))[grouping]
    labels = np.where(wrong, rng.integers(0, 4, len(grouping)), logits.argmax(1))
    return logits.astype(np.float32), labels, Grouping(grouping)


def test_one_image_of_each_patient_counts_for_thresholds():
    logits, labels, grouping = patients(200, np.random.default_rng(0))
    predictions = columns_of(logits, labels)
    parts = Conformal().split(predictions.keys, labels, predictions.classes, grouping)
    assert len(parts.thresholds) == len(np.unique(grouping.numbers[parts.thresholds])) == 100
    fitted = Conformal().fit(predictions, grouping)
    assert fitted.images == (100,)
    each = Conformal("lac", 0.5, classwise=True).split(
        predictions.keys,
        labels,
        predictions.classes,
        grouping,
    )
    pairs = list(zip(grouping.numbers[each.thresholds], labels[each.thresholds], strict=True))
    assert len(set(pairs)) == len(pairs) > 100


def test_halves_do_not_look_at_the_sizes_of_patients():
    rng, count = np.random.default_rng(1), 0
    for _ in range(20):
        logits, _, grouping = patients(200, rng)
        parts = split_halves(rng.permutation(10**6)[: len(logits)], grouping)
        large = grouping.sizes > 1
        count += int(large[np.unique(grouping.numbers[parts.temperature])].sum()) - large.sum() / 2
    # Of 100 patients without replacement, half of 200 large: a variance of 100 / 8 each time.
    assert abs(count) < 5 * math.sqrt(20 * 100 / 8)


def test_the_promise_is_kept_for_new_patients_of_any_size():
    rng, trials, found = np.random.default_rng(2), 200, []
    for _ in range(trials):
        logits, labels, grouping = patients(60, rng)
        fitted = Conformal(coverage=0.8).fit(columns_of(logits, labels), grouping)
        others, truth, of = patients(300, rng)
        _, first = np.unique(of.numbers, return_index=True)  # one image of each new patient
        found.append(fitted.apply(columns_of(others[first], truth[first])).covered.mean())
    error = np.std(found) / math.sqrt(trials)
    assert np.mean(found) > 0.8 - 4 * error


@pytest.mark.parametrize(
    ("variant", "n", "words"),
    [
        (Conformal(), 17, "0.9 needs at least 9 calibration images, and half of the 17 .* is 9"),
        (Conformal(coverage=0.999), 1500, "needs at least 999 .* is 750"),
        (Conformal(classwise=True, coverage=0.5), 8, "in each class .* of 'class 1'"),
    ],
)
def test_too_few_images_are_one_sentence(variant, n, words):
    names = ("class 0", "class 1")
    labels = np.zeros(n, dtype=np.int64)
    if n == 17:
        assert len(variant.split(np.arange(n), labels, names).thresholds) == 9
        n = 16
        words = "half of the 16 validation images is 8"
    with pytest.raises(InputError, match=words):
        variant.split(np.arange(n), labels[:n], names)


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0}, {"thresholds": [math.nan]}, {"method": "naps"}, {"images": "many"}, None],
)
def test_a_file_with_something_else_is_one_sentence(change):
    logits, labels = made(100)
    facts = json.loads(Conformal().fit(columns_of(logits, labels)).model_dump_json())
    assert FittedSets.read(facts, "sets.json").draws
    facts = facts | change if change is not None else {}
    with pytest.raises(InputError, match=r"sets\.json does not hold"):
        FittedSets.read(facts, "sets.json")


# ---------------------------------------------------------------- coverage, simulated


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classwise", [False, True])
def test_the_promise_is_kept_on_exchangeable_images(method, classwise):
    """The mean over draws is at least the promise."""
    shares = []
    variant = Conformal(method, 0.8, classwise)
    for seed in range(60):
        logits, labels = made(700, 3, seed=seed, factor=2.0)
        fitted = variant.fit(columns_of(logits[:300], labels[:300]))
        rest = columns_of(logits[300:], labels[300:])
        found = fitted.apply(rest)
        shares.append(found.covered.mean())
    below = scipy.stats.ttest_1samp(shares, 0.8, alternative="less").pvalue
    assert below > FALSE_ALARM


def interval_of(covered, draws):
    """The interval of `conformal_coverage` of images with sets."""
    n = len(covered)
    logits = np.zeros((n, 2), dtype=np.float32)
    columns = columns_of(logits, np.zeros(n, dtype=np.int64))
    sets = with_columns(columns, covered)
    shared = Resamples.draw(sets.labels, 200)
    found = evaluate_resamples(
        sets, shared, FittedThresholds(0.5, 0.5, draws), {"conformal_coverage"}
    )
    return to_score(found["conformal_coverage"], (0.0, 1.0))


def with_columns(columns, covered, size=None):
    sizes = np.ones(len(covered), dtype=np.int64) if size is None else size
    return replace(columns, covered=covered, set_size=sizes)


@pytest.mark.parametrize(
    ("calibration", "test"), [(99, 400), pytest.param(399, 200, marks=pytest.mark.nightly)]
)
def test_the_interval_covers_other_calibration_images_too(calibration, test):
    """Scores are uniform: the mean coverage of all draws is rank / (n + 1) exactly."""
    rng = np.random.default_rng(0)
    rank, times = quantile_rank(calibration, 0.9), 250
    truth = rank / (calibration + 1)
    held = {(): 0, (CalibrationDraw(calibration, rank),): 0}
    for _ in range(times):
        threshold = np.sort(rng.random(calibration))[rank - 1]
        covered = rng.random(test) <= threshold
        for draws in held:
            _, low, high, _ = interval_of(covered, draws)
            held[draws] += low <= truth <= high
    without, with_draw = held.values()
    assert scipy.stats.binomtest(with_draw, times, 0.95, "less").pvalue > FALSE_ALARM
    # Without the draw it is too narrow, by more where the calibration images are the fewer.
    assert without < with_draw
    if calibration < test:
        assert scipy.stats.binomtest(without, times, 0.95, "less").pvalue < FALSE_ALARM


def test_deviations_have_the_variance_of_the_beta_distribution():
    drawn = coverage_deviations([CalibrationDraw(49, 45)], np.zeros(3, int), 20_000)
    expected = scipy.stats.beta(45, 5)
    # The standard error of a variance is about its size times √((kurtosis + 2) / n).
    kurtosis = float(expected.stats("k"))
    assert abs(drawn.var() / expected.var() - 1) < 5 * math.sqrt((kurtosis + 2) / 20_000)
    assert abs(drawn.mean()) < 5 * expected.std() / math.sqrt(20_000)
    halved = coverage_deviations([CalibrationDraw(49, 45, 1)], np.array([0, 1]), 20_000)
    np.testing.assert_allclose(halved, drawn / 2)


# ---------------------------------------------------------------- strata of sizes


def test_the_lowest_stratum_is_that_of_the_slow_reference():
    rng = np.random.default_rng(0)
    size = rng.choice([1, 2, 3, 5, 40, 300], 500, p=[0.4, 0.3, 0.1, 0.14, 0.04, 0.02])
    covered = rng.random(500) < 0.6 + 0.1 * (size < 3)
    found = size_stratified_coverage(size, covered)
    assert found == pytest.approx(reference.lowest_stratum(size.tolist(), covered.tolist()))
    weights = rng.integers(0, 3, (4, 500))
    batch = size_stratified_coverage(size, covered, weights)
    for row, value in zip(weights, batch, strict=True):
        again = reference.lowest_stratum(size.tolist(), covered.tolist(), row.tolist())
        assert value == pytest.approx(again)


def test_no_stratum_with_enough_images_has_no_value():
    assert math.isnan(size_stratified_coverage([1] * 29 + [2] * 29, [True] * 58))


# ---------------------------------------------------------------- written forms


def test_every_written_form_of_the_parameters_is_read_alike():
    forms = [
        {"conformal": {"method": "aps", "coverage": 0.95}},
        "conformal: {method: aps, coverage: 0.95}",
        'conformal: {"method": "aps", "coverage": 0.95}',
        Conformal("aps", 0.95),
    ]
    assert {read_variant(form) for form in forms} == {Conformal("aps", 0.95)}
    assert read_variant(Conformal("raps", 0.8, True).text) == Conformal("raps", 0.8, True)
    assert Conformal("raps", 0.8, True).name == "conformal-raps-0.8-classwise"
    assert Conformal().text == "conformal"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("conformal: {method: apps}", "did you mean 'aps'"),
        ("conformal: {coverage: 90}", "a share between 0 and 1, such as 0.9, found 90"),
        ("conformal: {coverage: 90%}", "a share between 0 and 1"),
        ("conformal: {classwise: 1}", "must be true or false"),
        ("conformal: {level: 0.9}", "unknown parameter of conformal 'level'"),
        ("conformal: aps", "each must be KIND"),
        ("conformall", "did you mean 'conformal'"),
    ],
)
def test_bad_parameters_are_one_sentence(form, words):
    with pytest.raises(InputError, match=words):
        read_variant(form)
    with pytest.raises(InputError, match="listed twice"):
        read_variants(["conformal", {"conformal": {"coverage": 0.9}}])


# ---------------------------------------------------------------- runs

LEVELS = ("0.5", "0.8")
STUDY = {
    "name": "sets",
    "shifts": [{"brightness_factor": [0.5, 0.8]}, {"fgsm": [0.02]}],
    "variants": [
        "temperature",
        {"conformal": {"coverage": 0.8}},
        {"conformal": {"method": "aps", "coverage": 0.8, "classwise": True}},
    ],
    "seeds": [0],
    "bootstrap": 100,
    "models": {"basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}},
}
SETS = "conformal-lac-0.8"


def study_on(colour_folder):
    data = {"source": f"folder:{colour_folder}", "size": 16, "validation_fraction": 0.5}
    return check_study(STUDY | {"data": data})


@pytest.fixture(scope="module")
def with_set_rows(colour_folder, tmp_path_factory):
    return fw.run(
        study_on(colour_folder), out=tmp_path_factory.mktemp("sets") / "run", device="cpu"
    )


def values(run, model, metric):
    rows = run.scores[(run.scores["model"] == model) & (run.scores["metric"] == metric)]
    return dict(zip(zip(rows["shift"], rows["level"], strict=True), rows["value"], strict=True))


def test_only_variants_with_sets_have_rows_about_them(with_set_rows):
    scores = with_set_rows.scores
    about = scores["metric"].str.startswith(("conformal_", "size_stratified"))
    names = {f"basic+{SETS}", "basic+conformal-aps-0.8-classwise"}
    assert set(scores["model"][about]) == names
    assert set(scores["model"]) == {"basic", "basic+temperature", *names}
    for name in names:
        found = values(with_set_rows, name, "conformal_coverage")
        places = {("clean", "none"), *(("brightness_factor", level) for level in LEVELS)}
        assert {*places, ("fgsm", "0.02"), ("brightness_factor", "worst")} <= set(found)
        of_classes = [f"conformal_coverage/{each}" for each in with_set_rows.record.data.classes]
        assert all(("clean", "none") in values(with_set_rows, name, each) for each in of_classes)
    absent = json.loads((with_set_rows.path / "absent_metrics.json").read_text())
    assert not [name for name in absent if name.startswith(("conformal", "size_stratified"))]


def test_stored_columns_are_those_of_the_stored_thresholds(with_set_rows):
    folder = with_set_rows.folder
    for variant in read_variants(STUDY["variants"][1:]):
        place = folder.file(sets_file("basic", variant.name, 0))
        fitted = FittedSets.read(json.loads(place.read_text()), str(place))
        val = folder.read_predictions(predictions_file("basic", 0, "clean", "val"))
        assert fitted == variant.fit(val)
        for cell in ("clean", "brightness_factor,factor=0.5", "fgsm,epsilon=0.02"):
            plain = folder.read_predictions(predictions_file("basic", 0, cell))
            own = folder.read_predictions(predictions_file(f"basic+{variant.name}", 0, cell))
            logits = plain.logits / np.float32(fitted.temperature)
            again = fitted.apply(plain)
            np.testing.assert_array_equal(own.logits, logits)
            np.testing.assert_array_equal(own.set_size, again.set_size)
            np.testing.assert_array_equal(own.covered, again.covered)
            assert (plain.set_size, plain.covered) == (None, None)


def test_an_interrupted_run_writes_the_same_bytes(with_set_rows, colour_folder):
    folder, name = with_set_rows.folder, f"basic+{SETS}"
    file = sets_file("basic", SETS, 0)
    cell = predictions_file(name, 0, "brightness_factor,factor=0.5")
    before = {each: folder.file(each).read_bytes() for each in (file, cell, "scores.csv")}
    for step in (file.removesuffix(".json"), cell.removesuffix(".parquet"), "scores"):
        folder.forget(step)
    fw.run(study_on(colour_folder), out=with_set_rows.path, device="cpu")
    assert {each: folder.file(each).read_bytes() for each in before} == before


def test_without_sets_no_step_depends_on_their_metrics(with_set_rows):
    scores = with_set_rows.folder.step("scores").depends["metrics"]
    assert "conformal_coverage" in scores
    row = ScoredModel(model="basic", seed=0, shifts=("clean",))
    plain = ScoreStep(
        id="scores",
        task="score",
        leaves=(),
        rows=(row,),
        titles={},
        validation=True,
        natural_shift=False,
        bootstrap=100,
    )
    left = [name for name in scores if name not in plain.inputs()["metrics"]]
    assert set(left) == {
        "conformal_coverage",
        "conformal_set_size",
        "size_stratified_coverage/30-per-stratum",
    }


def test_rules_about_sets(with_set_rows):
    def judged(text):
        return judge(RunFolder(with_set_rows.path), read_rules([text]), on="value")

    verdicts = judged("conformal_coverage[brightness_factor=0.5] >= 0")
    assert [each.model for each in verdicts] == [
        f"basic+{SETS}",
        "basic+conformal-aps-0.8-classwise",
    ]
    assert judged(f"basic+{SETS}: conformal_set_size[clean] <= 3")[0].passed
    some = with_set_rows.record.data.classes[0]
    assert judged(f"conformal_coverage[clean|class={some}] >= 0")[0].passed
    with pytest.raises(InputError, match="basic has no prediction sets, which conformal_coverage"):
        judged("basic: conformal_coverage[clean] >= 0.8")
    with pytest.raises(InputError, match="did you mean 'conformal_coverage'"):
        judged(f"basic+{SETS}: conformal_coverge[clean] >= 0.8")


def test_the_page_says_where_the_promise_breaks(with_set_rows, draw):
    draw(with_set_rows, figures=False)
    page = (with_set_rows.path / "report.html").read_text()
    assert "<h3>Prediction sets</h3>" in page
    assert "promised 80\N{NO-BREAK SPACE}%" in page
    own = Sentences(page.partition('<details id="sets">')[2].partition("</details>")[0])
    assert crowded(own.found) == []
    assert "Under a shift nothing is promised" in page
    table = pd.read_csv(with_set_rows.path / "tables" / "prediction_sets.csv")
    found = values(with_set_rows, f"basic+{SETS}", "conformal_coverage")
    rows = table[table["model"] == f"basic+{SETS}"]
    for shift, level, value in zip(rows["shift"], rows["level"], rows["coverage"], strict=True):
        assert value == pytest.approx(found[shift, str(level)])
    assert set(rows["promised"]) == {0.8}


def test_sets_without_stored_logits_are_made_while_predicting(toy_images):
    names = tuple(f"class {k}" for k in range(120))
    images = replace(toy_images, classes=names)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 120))
    reader = Predictor(model, keeps_logits=True)
    [again] = predict_batches([reader], images, batches=batch_slices(96, 96), device="cpu")
    logits = again.logits
    labels = images.labels.numpy()
    plain = make_predictions(logits, labels, images.keys.numpy(), names)
    fitted = Conformal("raps", 0.7).fit(replace(plain, logits=logits))
    (found,) = predict_batches(
        [Predictor(model, fitted)],
        images,
        batches=batch_slices(
            96, 96
        ),  # as the logits were: another batch may change their last digits
        device="cpu",
    )
    assert found.logits is None
    expected = fitted.apply(replace(plain, logits=logits))
    np.testing.assert_array_equal(found.set_size, expected.set_size)
    np.testing.assert_array_equal(found.covered, expected.covered)


def test_an_evaluation_of_a_model_and_of_predictions_has_sets(tmp_path):
    digits = fw.load_data("mnist5k", size=8)
    model = fw.load_model("timm:test_vit", weights="none", classes=10, input_size=160)
    small = fw.Dataset(
        "digits", None, digits.test[40:70], digits.test[:40], digits.mean, digits.std
    )
    run = fw.evaluate(
        model,
        small,
        "brightness_factor: [0.5]",
        variants=["conformal: {method: aps, coverage: 0.7}"],
        bootstrap=100,
        device="cpu",
    )
    (name,) = {*run.scores["model"]} - {run.scores["model"].iloc[0]}
    assert name.endswith("+conformal-aps-0.7")
    coverage = values(run, name, "conformal_coverage")
    assert {("clean", "none"), ("brightness_factor", "0.5")} <= set(coverage)
    few = replace(small, val=digits.test[40:52])
    with pytest.raises(
        InputError, match=r"0\.9 needs at least 9 calibration images, .* 12 .* is 6"
    ):
        fw.evaluate(model, few, variants=[{"conformal": {}}], device="cpu")
    none = replace(small, val=None)
    with pytest.raises(InputError, match="conformal is fitted on validation images"):
        fw.evaluate(model, none, variants=["conformal"], device="cpu")
    rng = np.random.default_rng(0)

    def labelled(n):
        probabilities = scipy.special.softmax(rng.normal(size=(n, 3)), axis=1)
        return pd.DataFrame(probabilities, columns=list("abc")).assign(
            label=rng.choice([*"abc"], n)
        )

    tables = {"m": labelled(60), "m-validation": labelled(40)}
    run = fw.evaluate(predictions=tables, variants=["conformal"], bootstrap=100)
    assert ("clean", "none") in values(run, "m+conformal-lac-0.9", "conformal_coverage")


def test_small_copies_keep_sets(with_set_rows, tmp_path):
    packed = fw.pack_run(with_set_rows.path, tmp_path / "packed", variants=[SETS])
    ours, theirs = (
        values(run, f"basic+{SETS}", "conformal_coverage") for run in (with_set_rows, packed)
    )
    assert theirs == pytest.approx({key: ours[key] for key in theirs})
    assert not packed.scores["model"].str.contains("classwise").any()


# ---------------------------------------------------------------- where the promise breaks


def score_of(value, width=0.02):
    return Score(value, value - width, value + width, 200)


def kept(coverages, neutral=1.0):
    sweep = Sweep("b", "Brightness", "brightness factor f", neutral, "", {k: k for k in coverages})
    cells = [SetScores(k, score_of(v), score_of(2.0), None) for k, v in coverages.items()]
    return ShiftPromise("m", "M", 0.9, sweep, tuple(cells))


@pytest.mark.parametrize(
    ("coverages", "words"),
    [
        ({"0.8": 0.9, "1.2": 0.89}, "not shown to break at the levels tested"),
        ({"1.2": 0.91, "1.5": 0.85, "2": 0.8}, "broken from f = 1.5 on"),
        ({"1.2": 0.91, "1.5": 0.85, "2": 0.9}, "broken at f = 1.5"),
        ({"1.2": 0.7}, "broken at f = 1.2"),
        (
            {"0.2": 0.5, "0.5": 0.8, "1.5": 0.92},
            "broken from f = 0.5 on; not shown to break up to f = 1.5",
        ),
    ],
)
def test_the_level_from_which_a_promise_is_broken_is_told(coverages, words):
    assert kept(coverages).in_words() == words


def test_a_level_that_changes_nothing_is_told_of_clean_images_alone():
    row = kept({"1": 0.5, "1.5": 0.85, "2": 0.9})
    assert (row.worst.level, row.in_words()) == ("1.5", "broken at f = 1.5")
    (told,) = describe_promises([row])
    assert "was broken at f = 1.5" in told.sentences[0]
    assert not kept({"1": 0.5, "1.5": 0.91}).is_broken


def test_what_is_told_of_a_variant():
    clean = ShiftPromise(
        "m", "M", 0.9, None, (SetScores("none", score_of(0.8), score_of(2.0), None),)
    )
    worse, other = kept({"0.5": 0.2, "0.8": 0.9}), kept({"1.5": 0.4})
    (told,) = describe_promises([clean, worse, other])
    assert told.sentences == (
        "It promised 90\N{NO-BREAK SPACE}% and broke that on clean images already; under "
        "brightness that was broken at f = 0.5.",
        "1 other shift broke it too.",
    )
    few = SetScores("0.5", Score(0.65, 0.4, 0.905, 16), score_of(2.0), None)
    unknown = kept({"0.5": 0.9})._replace(cells=(few,))
    assert "kept" not in unknown.in_words()
    told = describe_promises([kept({"0.5": 0.95}), unknown])[0].sentences
    assert told == (
        "It promised 90\N{NO-BREAK SPACE}%; under no shift tested is that shown to break. "
        "The lowest coverage is 65.0\N{NO-BREAK SPACE}% [40.0, 90.5].",
    )


def test_sets_that_weigh_images_cover_images_where_large_patients_are_hard():
    """Half of the patients have 40 images, and are hard: one image of each covers too few."""
    rng = np.random.default_rng(3)
    logits, labels, grouping = patients(300, rng)
    others, truth, _ = patients(300, rng)
    covered = {}
    for weigh in ("groups", "images"):
        variant = Conformal(coverage=0.8, weigh=weigh)
        fitted = variant.fit(columns_of(logits, labels), grouping)
        assert fitted.images == (150,) if weigh == "groups" else fitted.images[0] < 150
        covered[weigh] = fitted.apply(columns_of(others, truth)).covered.mean()
    # About 30 % of the images of large patients are wrong, and 15 % by patients. The share of 75
    # such patients, with a deviation of 0.75 * 0.12 each, has one of 0.01; of the others likewise.
    assert covered["groups"] < 0.8 - 0.04 < covered["images"]


@pytest.mark.parametrize(("weigh", "is_broken"), [("groups", False), ("images", True)])
def test_a_promise_for_patients_is_judged_by_patients_that_count_alike(tmp_path, weigh, is_broken):
    """Half of 400 patients have 40 images, of which 82 % are covered; the others have one each."""
    grouping = Grouping(np.repeat(np.arange(400), np.tile([40, 1], 200)))
    covered = (grouping.sizes[grouping.numbers] == 1) | (
        np.random.default_rng(0).random(8200) < 0.82
    )
    variant = Conformal(weigh=weigh)
    model = variant_name("a", variant.name)
    right = outcomes(np.ones(8200), covered=covered, set_size=np.ones(8200, dtype=np.int64))
    record = run_record(
        {"a": "A"},
        [sweep_record("fog", {1: "fog,s=1"})],
        settings=RunSettings(bootstrap=1000, variants=[variant.text]),
        variants={model: variant.title},
    )
    cells = {(model, 0, CLEAN): right, (model, 0, "fog,s=1"): right}
    scores = [
        (model, "0", shift, level, metric, value, value - 0.01, value + 0.01, 8200)
        for shift, level in ((CLEAN, "none"), ("fog", "1"))
        for metric, value in (("conformal_coverage", covered.mean()), ("conformal_set_size", 1.0))
    ]
    run = write_run(tmp_path, record, scores, cells)
    file = sets_file("a", variant.name, 0)
    facts = {"method": "lac", "coverage": 0.9, "classwise": False, "filled": 0, "thresholds": [0.5]}
    facts |= {"temperature": 1, "temperature_images": 50, "images": [50], "covered": [46]}
    run.write(file, json.dumps(facts))
    finish(run, "sets", [file])
    groups = StoredGroups(right.keys, "patient", grouping.numbers, {})
    run.write_groups("groups/test.parquet", groups)
    finish(run, "groups/test", ["groups/test.parquet"], kind="group")
    clean, shifted = (each.cells[0].coverage for each in check_promises(read_contents(run)))
    assert [row.is_broken for row in check_promises(read_contents(run))] == [is_broken] * 2
    if weigh == "groups":
        by_hand = np.mean(np.bincount(grouping.numbers, covered) / grouping.sizes)
        assert clean.value == shifted.value == pytest.approx(by_hand)
        [low], [high] = share_interval(covered, np.zeros(8200), 1, grouping, grouping.equal_weights)
        # An end from 1,000 resamples has a standard error of 4 % of half of the interval.
        assert shifted.high - shifted.low == pytest.approx(high - low, rel=0.2)
        # Of clean images, Beta(46, 5) of other calibration images is added.
        beta = 2 * 1.96 * scipy.stats.beta(46, 5).std()
        wide = np.hypot(shifted.high - shifted.low, beta)
        assert clean.high - clean.low == pytest.approx(wide, rel=0.2)


def test_what_counts_alike_is_in_the_name_and_the_text_only_where_it_is_not_the_default():
    assert Conformal().text == "conformal"
    images = Conformal(weigh="images")
    assert images.name == "conformal-lac-0.9-images"
    assert images.text == 'conformal: {"weigh": "images"}'
    with pytest.raises(InputError, match=r"weigh .*'patients'"):
        Conformal(weigh="patients")
    keys, labels = np.arange(60), np.zeros(60, dtype=int)
    with pytest.raises(InputError, match="which do is not known here: leave it out"):
        images.split(keys, labels, ("cat",))
