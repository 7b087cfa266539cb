"""Scores under other class priors: equal to copying images, and to means over classes."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics import intervals, label_shift
from fairweather.metrics.label_shift import (
    effective_images,
    peaked_priors,
    prior_metrics,
    prior_weights,
    under_priors,
    worst_prior,
)
from fairweather.metrics.selective import coverage_interval
from fairweather.types.measurement import Predictions
from tests.helpers.chance import FALSE_ALARM, deviations, mean_p, quantile_error
from tests.helpers.costs import cost_functions, priced

CLASSES = tuple(f"class {k}" for k in range(6))
PRIORS = np.array([0.3, 0.05, 0.1, 0.25, 0.2, 0.1])


def predicted(labels, seed=0, classes=CLASSES):
    """Predictions of these labels that are better for some classes than for others."""
    generator = np.random.default_rng(seed)
    labels = np.asarray(labels)
    # Between 0 and 2, so that the classes differ.
    strength = np.linspace(0, 2, len(classes))[labels]
    logits = generator.normal(size=(len(labels), len(classes))) * 1.5
    logits[np.arange(len(labels)), labels] += strength
    columns = metrics.per_image(logits, labels)
    return Predictions(
        np.arange(len(labels)),
        labels,
        columns.predicted,
        columns.confidence,
        columns.top5_correct,
        columns.nll,
        columns.brier,
        logits,
        classes,
        ordered=True,
        costs=priced(len(classes)),
    )


@pytest.fixture(scope="module")
def predictions():
    labels = np.random.default_rng(2).choice(6, size=300, p=PRIORS[::-1])
    return predicted(labels)


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=20), data=st.data())
@settings(max_examples=80, deadline=None)
def test_weights_equal_their_definition(labels, data):
    raw = data.draw(st.lists(st.integers(0, 5), min_size=3, max_size=3))
    wanted = [share if k in labels else 0 for k, share in enumerate(raw)]
    if not any(wanted):
        wanted[labels[0]] = 1
    wanted = [share / sum(wanted) for share in wanted]
    expected = [wanted[label] * len(labels) / labels.count(label) for label in labels]
    found = prior_weights(labels, wanted)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.sum() == pytest.approx(len(labels))
    for k in set(labels):
        assert found[np.array(labels) == k].sum() / len(labels) == pytest.approx(wanted[k])


def test_the_images_own_frequencies_change_nothing():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    assert prior_weights(labels, [0.5, 0.3, 0.2]) == pytest.approx(np.ones(10))


def test_weights_of_resamples_are_those_of_repeated_images():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=20)
    rows = generator.integers(0, 4, (5, 20))
    batch = prior_weights(labels, [0.2, 0.5, 0.3], rows)
    assert batch.shape == (5, 20)
    for row, weighted in zip(rows, batch, strict=True):
        repeated = prior_weights(np.repeat(labels, row), [0.2, 0.5, 0.3])
        summed = np.bincount(np.repeat(np.arange(20), row), repeated, minlength=20)
        assert weighted == pytest.approx(summed)
        assert weighted == pytest.approx(prior_weights(labels, [0.2, 0.5, 0.3], row))


def test_a_resample_without_a_class_keeps_the_proportions_of_the_others():
    weighted = prior_weights([0, 1, 1, 2], [0.5, 0.25, 0.25], [[0, 1, 1, 2], [4, 0, 0, 0]])
    assert weighted.tolist() == [[0, 0.5, 0.5, 1], [2, 0, 0, 0]]
    assert prior_weights([0, 1], [1, 0], [[0, 2], [1, 1]]).tolist() == [[0, 0], [2, 0]]


def test_effective_images_are_kishs():
    assert effective_images([3, 3, 3]) == pytest.approx(3)
    assert effective_images([1, 0, 0]) == 1
    weights = np.array([[1, 2, 3], [1, 1, 2]])
    expected = [36 / 14, 16 / 6]
    assert effective_images(weights).tolist() == pytest.approx(expected)
    # Its definition: the variance of a weighted mean of independent values with variance 1.
    generator = np.random.default_rng(1)
    weight = generator.random(30)
    means = np.average(generator.normal(size=(20_000, 30)), axis=1, weights=weight)
    assert mean_p(means**2, 1 / effective_images(weight)) > FALSE_ALARM


def test_scores_equal_those_of_copied_images(predictions):
    """Priors that can be reached by copying images: class k has k + 1 copies of each image."""
    copies = predictions.labels + 1
    wanted = np.bincount(predictions.labels, copies)
    scores = under_priors(predictions, wanted / wanted.sum(), resamples=5)
    copied = Predictions(
        *(
            np.repeat(getattr(predictions, name), copies)
            for name in ("keys", "labels", "predicted", "confidence")
        ),
        *(np.repeat(getattr(predictions, name), copies) for name in ("top5_correct", "nll")),
        np.repeat(predictions.brier, copies),
        np.repeat(predictions.logits, copies, axis=0),
        CLASSES,
        ordered=True,
        costs=predictions.costs,
    )
    assert list(scores) == list(prior_metrics())
    expected = metrics.score(copied, resamples=1)
    for name, score in scores.items():
        assert score.value == pytest.approx(expected[name].value, abs=1e-9), name
        assert score.n == 300
    own = metrics.score(predictions, resamples=5)
    for name in set(own) & set(scores) - {"top5_accuracy"}:
        assert scores[name].value != pytest.approx(own[name].value, abs=1e-6), name


def test_means_are_the_priors_means_over_classes(predictions):
    scores = under_priors(predictions, PRIORS, resamples=5)
    for name, column in [
        ("accuracy", predictions.correct),
        ("negative_log_likelihood", predictions.nll),
        ("brier_score", predictions.brier),
        ("average_confidence", predictions.confidence),
    ]:
        means = [column[predictions.labels == k].mean() for k in range(6)]
        assert scores[name].value == pytest.approx(PRIORS @ means)
    sklearn_weights = (
        PRIORS[predictions.labels] / np.bincount(predictions.labels)[predictions.labels]
    )
    assert scores["confidence_auroc"].value == pytest.approx(
        sklearn.metrics.roc_auc_score(
            predictions.correct, predictions.confidence, sample_weight=sklearn_weights
        )
    )


def test_even_priors_make_accuracy_balanced(predictions):
    scores = under_priors(predictions, np.full(6, 1 / 6), resamples=5)
    balanced = metrics.balanced_accuracy(predictions.correct, predictions.labels)
    assert scores["accuracy"].value == pytest.approx(balanced)
    # And priors do not change balanced accuracy.
    weights = prior_weights(predictions.labels, PRIORS)
    assert metrics.balanced_accuracy(
        predictions.correct, predictions.labels, weights
    ) == pytest.approx(balanced)


def test_priors_hold_in_every_resample():
    """Each class is all right or all wrong, so under fixed priors the accuracy cannot vary."""
    labels = np.repeat([0, 1], [60, 40])
    ones = np.ones(100)
    predictions = Predictions(
        np.arange(100), labels, np.zeros(100, int), ones, ones > 0, ones, ones, None, ("a", "b")
    )
    score = under_priors(predictions, [0.3, 0.7], resamples=100)["accuracy"]
    assert score == pytest.approx((0.3, 0.3, 0.3, 100))


def test_the_interval_is_the_one_of_independent_classes(predictions):
    resamples = 8000
    score = under_priors(predictions, PRIORS, resamples=resamples)["accuracy"]
    groups = [predictions.correct[predictions.labels == k] for k in range(6)]
    variance = sum(
        prior**2 * right.var() / len(right) for prior, right in zip(PRIORS, groups, strict=True)
    )
    # In a resample a class of n images has about n of them, so that the mean of its 1 / n is
    # larger by about one part in n; the rest is the error of two quantiles.
    error = math.sqrt(variance) * deviations() * math.sqrt(2) * quantile_error(resamples)
    width = 2 * 1.96 * math.sqrt(variance)
    more = width / min(map(len, groups))
    assert score.high - score.low == pytest.approx(width, abs=error + more)


def test_blocks_do_not_change_the_resamples(predictions, monkeypatch):
    whole = under_priors(predictions, PRIORS, resamples=20)
    monkeypatch.setattr(label_shift, "WEIGHTS_AT_ONCE", 1000)
    parts = under_priors(predictions, PRIORS, resamples=20)
    for name, score in whole.items():
        assert score == pytest.approx(tuple(parts[name]), abs=1e-12, nan_ok=True), name
    assert under_priors(predictions, PRIORS, resamples=20, seed=1) != parts


def test_one_image_may_carry_all_the_weight():
    predictions = predicted([0, 0, 0, 1], classes=("a", "b"))
    scores = under_priors(predictions, [0, 1], resamples=50)
    assert "top5_accuracy" not in scores
    sure = predictions.confidence[3]
    assert scores["average_confidence"] == pytest.approx((sure, sure, sure, 4))
    # The interval for one image, not for four.
    accuracy = scores["accuracy"]
    assert accuracy.high - accuracy.low == pytest.approx(0.975)
    # No resample contains the image.
    (missed,) = [seed for seed in range(9) if not metrics.bootstrap_weights(4, 1, seed)[0, 3]][:1]
    alone = under_priors(predictions, [0, 1], resamples=1, seed=missed)["average_confidence"]
    assert alone.value == sure
    assert math.isnan(alone.low)


def test_peaked_priors_multiply_the_odds():
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    found = peaked_priors(labels, ("a", "b", "c", "d"), factor=4)
    assert list(found) == ["a x 4", "b x 4", "d x 4"]
    own = np.array([0.6, 0.3, 0, 0.1])
    for k, each in zip([0, 1, 3], found.values(), strict=True):
        assert each.sum() == pytest.approx(1)
        odds, before = each[k] / (1 - each[k]), own[k] / (1 - own[k])
        assert odds == pytest.approx(4 * before)
        others = np.delete(each, k)
        assert others / others.sum() == pytest.approx(np.delete(own, k) / (1 - own[k]))
    for each in peaked_priors(labels, ("a", "b", "c", "d"), factor=1).values():
        assert each == pytest.approx(own)
    assert list(peaked_priors([0, 1], ("a", "b"))) == ["a x 10", "b x 10"]
    assert list(peaked_priors([0, 1], ("a", "b"), factor=0.5)) == ["a x 0.5", "b x 0.5"]


@pytest.mark.parametrize(
    "metric", [name for name, row in prior_metrics().items() if row.higher_is_better is not None]
)
def test_the_worst_is_the_worst_of_them_all(predictions, metric):
    several = peaked_priors(predictions.labels, CLASSES, factor=5) | {"even": np.full(6, 1 / 6)}
    name, score = worst_prior(predictions, several, metric, resamples=20)
    values = {
        each: under_priors(predictions, wanted, resamples=20)[metric]
        for each, wanted in several.items()
    }
    assert score == values[name]
    pick = min if prior_metrics()[metric].higher_is_better else max
    assert score.value == pick(each.value for each in values.values())


def test_a_score_that_is_not_defined_is_not_the_worst():
    labels = np.array([0, 0, 1, 1])
    ones = np.array([0.9, 0.6, 0.8, 0.7])
    right_twice = Predictions(
        labels, labels, np.array([0, 0, 0, 1]), ones, ones > 0, ones, ones, None, ("a", "b")
    )
    several = {"all a": [1, 0], "even": [0.5, 0.5]}
    name, score = worst_prior(right_twice, several, "confidence_auroc", resamples=20)
    assert name == "even"
    assert score.value == pytest.approx(1 / 3)
    name, score = worst_prior(right_twice, {"all a": [1, 0]}, "confidence_auroc", resamples=20)
    assert name == "all a"
    assert math.isnan(score.value)


def test_priors_may_be_rounded_by_hand():
    assert prior_weights([0, 1, 2], [0.333] * 3) == pytest.approx(np.ones(3))


def of_confidence(metric):
    return lambda p, weights: metric(p.confidence, p.correct, weights)


FUNCTIONS = {
    "accuracy": lambda p, w: metrics.accuracy(p.correct, w),
    "top5_accuracy": lambda p, w: metrics.top5_accuracy(p.top5_correct, w),
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
    "confidence_gap": of_confidence(metrics.confidence_gap),
    "expected_calibration_error/10-equal-width": of_confidence(metrics.expected_calibration_error),
    "maximum_calibration_error/10-equal-width": of_confidence(metrics.maximum_calibration_error),
    "rms_calibration_error/10-equal-width": of_confidence(metrics.rms_calibration_error),
    "area_under_risk_coverage": of_confidence(metrics.area_under_risk_coverage),
    "excess_area_under_risk_coverage": of_confidence(metrics.excess_area_under_risk_coverage),
    "coverage_at_risk/0.05": of_confidence(metrics.coverage_at_risk),
    "confidence_auroc": of_confidence(metrics.confidence_auroc),
    "average_confidence": lambda p, w: metrics.average_confidence(p.confidence, w),
    **cost_functions(),
}


def test_scores_are_the_functions_of_columns_under_these_weights(predictions):
    weights = prior_weights(predictions.labels, PRIORS)
    scores = under_priors(predictions, PRIORS, resamples=1)
    assert list(scores) == list(FUNCTIONS) == list(prior_metrics())
    for name, function in FUNCTIONS.items():
        value = function(predictions, weights)
        assert scores[name].value == pytest.approx(value, abs=1e-12), name
        # A metric of weights, not of whole numbers: their scale does not matter.
        assert function(predictions, weights / 7) == pytest.approx(value)
    assert 0 < scores["coverage_at_risk/0.05"].value < 1


def test_replicates_are_of_weighted_resamples(predictions):
    """The interval is that of the function of columns, on each resample with weights."""
    drawn = metrics.bootstrap_weights(300, 60)
    weights = prior_weights(predictions.labels, PRIORS, drawn)
    scores = under_priors(predictions, PRIORS, resamples=60)
    of = {name: FUNCTIONS[name](predictions, weights) for name in FUNCTIONS}
    ends = np.quantile(of["accuracy"], [0.025, 0.975])
    np.testing.assert_allclose(scores["accuracy"][1:3], ends, atol=1e-12)
    name = "brier_score"
    ends = intervals.skewed_interval(scores[name].value, of[name])
    np.testing.assert_allclose(scores[name][1:3], ends, atol=1e-12)
    name, own = "coverage_at_risk/0.05", prior_weights(predictions.labels, PRIORS)
    ends = coverage_interval(predictions.confidence, predictions.correct, weights=own)
    np.testing.assert_allclose(scores[name][1:3], ends, atol=1e-12)


def test_errors_count_for_as_much_as_the_images_are_worth():
    wrong, right = [0, 1], [0, 0]
    answers = np.array([wrong] * 6 + [right] * 44 + [[1, 1]] * 10)
    labels, predicted_as = answers.T
    ones = np.ones(60)
    predictions = Predictions(
        np.arange(60), labels, predicted_as, ones / 2, ones > 0, ones, ones, None, ("a", "b")
    )
    as_they_are = under_priors(predictions, [5 / 6, 1 / 6], resamples=20)["brier_score"]
    assert not as_they_are.too_few
    # Both classes alike: 60 images are worth 1 / (0.5² / 50 + 0.5² / 10), and 6 errors 3.3.
    assert under_priors(predictions, [0.5, 0.5], resamples=20)["brier_score"].too_few


def test_all_right_under_any_priors_is_the_exact_interval():
    labels = np.random.default_rng(0).choice(6, size=97, p=PRIORS)
    ones = np.ones(97)
    right = Predictions(labels, labels, labels, ones, ones > 0, ones, ones, None, CLASSES)
    worth = int(effective_images(prior_weights(labels, PRIORS)))
    low = 0.025 ** (1 / worth)
    score = under_priors(right, PRIORS, resamples=30)["accuracy"]
    assert score == pytest.approx((1, low, 1, 97), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: prior_weights([0, 0], [0.5, 0.5]), "class 1 .*0.5"),
        (lambda p: prior_weights([0, 1], [50, 50]), "add up to 1; .*100"),
        (lambda p: prior_weights([0, 1], [1.5, -0.5]), "priors .*none negative"),
        (lambda p: prior_weights([0, 1], [math.nan, 0.5]), "add up to 1"),
        (lambda p: prior_weights([0, 1], [[0.5, 0.5]]), "priors .*found .1, 2."),
        (lambda p: prior_weights([0, 1], [0.5, 0.49]), "priors .*0.99"),
        (lambda p: prior_weights([0, 2], [0.5, 0.5]), "2 classes"),
        (lambda p: prior_weights([-1, 0], [0.5, 0.5]), "2 classes"),
        (lambda p: prior_weights([0.0, 1.0], [0.5, 0.5]), "labels .*float64"),
        (lambda p: prior_weights([], [0.5, 0.5]), "labels is empty"),
        (lambda p: effective_images(3.0), "weights .*found"),
        (lambda p: under_priors(p, [0.5, 0.5]), "each of 6 classes, found .2."),
        (lambda p: under_priors(p, PRIORS, resamples=0), "0 times: .*at least 1"),
        (lambda p: worst_prior(p, {}), "priors .*at least one"),
        (lambda p: worst_prior(p, {"own": PRIORS}, "acuracy"), "did you mean 'accuracy'"),
        (lambda p: worst_prior(p, {"own": PRIORS}, "confidence_gap"), "confidence_gap"),
        (
            lambda p: worst_prior(predicted([0, 1], classes=("a", "b")), {"x": 0}, "top5_accuracy"),
            "at least 6 classes, found 2",
        ),
        (lambda p: peaked_priors([0], ("a",), factor=0), "above 0 and finite, found 0"),
        (lambda p: peaked_priors([0], ("a",), factor=math.nan), "found nan"),
        (lambda p: peaked_priors([1], ("a",)), "1 classes"),
        (lambda p: peaked_priors([], ("a",)), "labels is empty"),
    ],
)
def test_bad_input_is_named(call, message, predictions):
    with pytest.raises(InputError, match=message):
        call(predictions)
