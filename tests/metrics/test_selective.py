"""Selective prediction: equal to its definitions, to scikit-learn, and on repeated images."""

import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import columns as ordered
from fairweather.metrics import selective
from tests.helpers import reference
from tests.helpers.chance import most

INF = math.inf

# Tenths give ties and thresholds that are confidences; the other numbers are in between.
shares = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))


@st.composite
def columns_and_weights(draw):
    n = draw(st.integers(1, 20))

    def column(values):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    weights = np.stack([column(st.integers(0, 3)) for _ in range(3)])
    weights[:, draw(st.integers(0, n - 1))] += 1
    return column(shares), column(st.booleans()), weights


def simulated(n, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.2, 1, size=n)
    return confidence, generator.random(n) < confidence


METRICS = {
    "area": (selective.area_under_risk_coverage, reference.area_under_risk_coverage),
    "coverage at 0.05": (
        selective.coverage_at_risk,
        partial(reference.coverage_at_risk, risk=0.05),
    ),
    "coverage at 0.5": (
        partial(selective.coverage_at_risk, risk=0.5),
        partial(reference.coverage_at_risk, risk=0.5),
    ),
    "coverage at 0": (
        partial(selective.coverage_at_risk, risk=0),
        partial(reference.coverage_at_risk, risk=0),
    ),
    "auroc": (selective.confidence_auroc, reference.confidence_auroc),
    "risk above 0.7": (
        lambda confidence, correct, weights=None: selective.risk_above(
            confidence, correct, 0.7, weights
        ),
        partial(reference.risk_above, threshold=0.7),
    ),
    "coverage above 0.7": (
        lambda confidence, correct, weights=None: selective.coverage_above(
            confidence, 0.7, weights
        ),
        lambda confidence, _: reference.coverage_above(confidence, 0.7),
    ),
}


# Drawing images takes longer than all metrics of them, so that each draw is for all.
@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_metrics_equal_their_definitions(data):
    confidence, correct, _ = data
    for name, (fast, slow) in METRICS.items():
        expected = slow(confidence.tolist(), correct.tolist())
        assert fast(confidence, correct) == pytest.approx(expected, abs=1e-12, nan_ok=True), name


@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_weights_are_repeated_images(data):
    confidence, correct, weights = data
    repeated = [(np.repeat(confidence, row), np.repeat(correct, row)) for row in weights]
    for name, (fast, _) in METRICS.items():
        batch = fast(confidence, correct, weights)
        assert batch.shape == (len(weights),), name
        expected = [fast(*each) for each in repeated]
        assert batch == pytest.approx(expected, abs=1e-12, nan_ok=True), name
        alone = [fast(confidence, correct, row) for row in weights]
        assert alone == pytest.approx(batch, abs=1e-12, nan_ok=True), name


@given(data=columns_and_weights(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_order_of_images_does_not_matter(data, seed):
    confidence, correct, _ = data
    order = np.random.default_rng(seed).permutation(len(confidence))
    for name, (fast, _) in METRICS.items():
        moved = fast(confidence[order], correct[order])
        expected = fast(confidence, correct)
        assert moved == pytest.approx(expected, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("name", ["area", "coverage at 0.05", "auroc"])
def test_only_the_order_of_confidences_matters(name):
    confidence, correct = simulated(60)
    fast, _ = METRICS[name]
    assert fast(np.log(confidence) - 5, correct) == fast(confidence, correct)


@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_the_curve_has_a_point_for_each_distinct_confidence(data):
    confidence, correct, _ = data
    curve = selective.risk_coverage_curve(confidence, correct)
    assert curve.threshold.tolist() == sorted(set(confidence.tolist()), reverse=True)
    assert curve.coverage.tolist() == [
        reference.coverage_above(confidence, at) for at in curve.threshold
    ]
    assert curve.risk.tolist() == [
        reference.risk_above(confidence.tolist(), correct.tolist(), at) for at in curve.threshold
    ]
    assert curve.coverage[-1] == 1
    steps = np.diff(curve.coverage, prepend=0)
    area = selective.area_under_risk_coverage(confidence, correct)
    assert steps @ curve.risk == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("n", [2, 7, 100])
def test_area_without_ties_is_the_mean_of_the_running_error_rates(n):
    confidence, correct = simulated(n)
    wrong = ~correct[np.argsort(-confidence)]
    rates = np.cumsum(wrong) / np.arange(1, n + 1)
    area = selective.area_under_risk_coverage(confidence, correct)
    assert area == pytest.approx(rates.mean(), abs=1e-12)
    # The area under straight lines from the first to the last point, divided by their distance.
    lines = sklearn.metrics.auc(np.arange(1, n + 1) / n, rates) / (1 - 1 / n)
    assert abs(lines - area) < 1 / (n - 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [1, 6])
def test_auroc_equals_scikit_learn(seed, decimals):
    confidence, correct = simulated(200, seed)
    confidence = confidence.round(decimals)
    weights = np.random.default_rng(seed).random((2, 200))
    expected = [
        sklearn.metrics.roc_auc_score(correct, confidence, sample_weight=row) for row in weights
    ]
    assert selective.confidence_auroc(confidence, correct, weights) == pytest.approx(expected)
    assert selective.confidence_auroc(confidence, correct) == pytest.approx(
        sklearn.metrics.roc_auc_score(correct, confidence)
    )


@given(data=columns_and_weights(), risk=shares)
@settings(max_examples=80, deadline=None)
def test_the_threshold_keeps_the_risk_with_the_largest_coverage(data, risk):
    confidence, correct, _ = data
    threshold = selective.threshold_at_risk(confidence, correct, risk=risk)
    allowed = [
        at for at in confidence if reference.risk_above(confidence, correct.tolist(), at) <= risk
    ]
    assert threshold == min(allowed, default=INF)
    coverage = selective.coverage_above(confidence, threshold)
    assert coverage == selective.coverage_at_risk(confidence, correct, risk=risk)
    kept = selective.risk_above(confidence, correct, threshold)
    assert kept <= risk if allowed else math.isnan(kept)


def test_a_risk_of_exactly_the_limit_is_kept():
    for wrong, n in [(1, 20), (3, 60), (7, 140), (500, 10_000)]:
        correct = np.arange(n) >= wrong
        confidence = np.full(n, 0.5)
        assert selective.coverage_at_risk(confidence, correct) == 1
        assert selective.threshold_at_risk(confidence, correct) == 0.5
        assert selective.coverage_at_risk(confidence[1:], correct[1:][::-1]) == 1
        assert selective.coverage_at_risk(confidence, np.arange(n) > wrong) == 0


def test_the_largest_coverage_may_lie_beyond_a_larger_risk():
    confidence, correct = [0.9, 0.8, 0.7, 0.6, 0.5], [False, True, True, True, False]
    assert selective.coverage_at_risk(confidence, correct, risk=0.25) == 0.8
    assert selective.threshold_at_risk(confidence, correct, risk=0.25) == 0.6


@pytest.mark.parametrize("confidence", [[0.5], [0.9, 0.9, 0.9], [0.0, 1.0]])
def test_all_right_and_all_wrong(confidence):
    right, wrong = np.full(len(confidence), True), np.full(len(confidence), False)
    assert selective.area_under_risk_coverage(confidence, right) == 0
    assert selective.area_under_risk_coverage(confidence, wrong) == 1
    assert selective.coverage_at_risk(confidence, right, risk=0) == 1
    assert selective.coverage_at_risk(confidence, wrong, risk=0.99) == 0
    assert selective.coverage_at_risk(confidence, wrong, risk=1) == 1
    assert selective.threshold_at_risk(confidence, right, risk=0) == min(confidence)
    assert selective.threshold_at_risk(confidence, wrong, risk=0.99) == INF
    assert math.isnan(selective.confidence_auroc(confidence, right))
    assert math.isnan(selective.confidence_auroc(confidence, wrong))
    assert selective.risk_above(confidence, wrong, 0) == 1
    assert math.isnan(selective.risk_above(confidence, right, INF))
    assert selective.coverage_above(confidence, INF) == 0


def test_equal_confidences_are_answered_together():
    confidence, correct = [0.8] * 4, [True, True, True, False]
    assert selective.area_under_risk_coverage(confidence, correct) == 0.25
    assert selective.confidence_auroc(confidence, correct) == 0.5
    assert selective.coverage_at_risk(confidence, correct, risk=0.2) == 0
    assert selective.risk_coverage_curve(confidence, correct).coverage.tolist() == [1]


def test_a_threshold_at_a_confidence_answers_it():
    confidence, correct = [0.1 + 0.2, 0.5], [False, True]
    assert selective.coverage_above(confidence, 0.1 + 0.2) == 1
    assert selective.coverage_above(confidence, np.nextafter(0.1 + 0.2, 1)) == 0.5
    assert selective.risk_above(confidence, correct, 0.1 + 0.2) == 0.5


def test_a_resample_that_misses_the_surest_images():
    confidence, correct = [0.9, 0.8, 0.7], [False, True, False]
    weights = [[0, 1, 1], [0, 2, 0], [1, 0, 0]]
    areas = selective.area_under_risk_coverage(confidence, correct, weights)
    assert areas.tolist() == [0.25, 0, 1]
    assert selective.coverage_at_risk(confidence, correct, weights).tolist() == [0.5, 1, 0]
    risks = selective.risk_above(confidence, correct, 0.85, weights)
    assert np.isnan(risks).tolist() == [True, True, False]


@given(data=columns_and_weights())
@settings(max_examples=40, deadline=None)
def test_level_sums_count_every_image(data):
    confidence, correct, weights = data
    sums = ordered.level_sums(confidence, correct, weights)
    for k, sure in enumerate([*sorted(set(confidence)), INF]):
        below = confidence < sure
        assert sums.images[:, k].tolist() == weights[:, below].sum(axis=1).tolist()
        assert sums.wrong[:, k].tolist() == weights[:, below & ~correct].sum(axis=1).tolist()
    assert sums.images.shape == sums.wrong.shape == (3, len(set(confidence)) + 1)


# ---------------------------------------------------------------- a threshold with a guarantee


def halves(n, right, seed):
    generator = np.random.default_rng(seed)
    confidence = generator.beta(6, 1, size=n)
    correct = generator.random(n) < right(confidence)
    return (confidence[::2], correct[::2]), (confidence[1::2], correct[1::2])


def test_thresholds_that_show_a_risk_equally_well_begin_with_the_highest():
    # No right answer shows nothing: the chance is 1, whether or not its sum is rounded.
    for n in range(1, 40):
        confidence = np.linspace(0.1, 0.9, n)
        tried = selective.thresholds_to_try(confidence, np.full(n, False), risk=0.3)
        assert tried.tolist() == confidence[::-1].tolist()


@given(data=columns_and_weights(), risk=st.sampled_from([0.1, 0.3, 0.45]))
@settings(max_examples=60, deadline=None)
def test_a_guaranteed_threshold_is_the_last_that_passes_in_order(data, risk):
    confidence, correct, weights = data
    tried = selective.thresholds_to_try(confidence, correct, risk=risk)
    assert tried.tolist() == reference.thresholds_to_try(
        confidence.tolist(), correct.tolist(), risk
    )
    confidence, correct = np.repeat(confidence, weights[0]), np.repeat(correct, weights[0])
    if len(confidence) < selective.fewest_for_risk(risk, 0.8):
        with pytest.raises(InputError, match="cannot show a risk"):
            selective.guaranteed_threshold(confidence, correct, tried, risk=risk, certainty=0.8)
        return
    found = selective.guaranteed_threshold(confidence, correct, tried, risk=risk, certainty=0.8)
    assert found.threshold == reference.guaranteed_threshold(
        confidence.tolist(), correct.tolist(), tried.tolist(), risk, 0.8
    )
    answers = correct[confidence >= found.threshold]
    assert (found.answered, found.wrong) == (len(answers), np.count_nonzero(~answers))
    if found.answered:
        # The upper end of the interval of Clopper and Pearson: so few are as rare as promised.
        at_bound = reference.binomial_tail(found.wrong, found.answered, found.bound)
        assert at_bound == pytest.approx(0.2, abs=1e-9)
        assert found.bound <= risk + 1e-12


def test_the_fewest_images_are_those_that_pass_if_all_are_right():
    for risk, certainty in [(0.05, 0.95), (0.01, 0.95), (0.2, 0.9), (0.5, 0.5), (0.001, 0.999)]:
        fewest = selective.fewest_for_risk(risk, certainty)
        assert (1 - risk) ** fewest <= (1 - certainty) * (1 + 1e-9)
        assert (1 - risk) ** (fewest - 1) > 1 - certainty
        right = np.full(fewest, True)
        found = selective.guaranteed_threshold(
            np.full(fewest, 0.7), right, [0.7], risk=risk, certainty=certainty
        )
        assert found.threshold == 0.7


def test_images_of_equal_confidence_are_answered_together_or_not_at_all():
    confidence, correct = np.full(200, 0.9), np.arange(200) >= 30
    tried = selective.thresholds_to_try(confidence, correct)
    assert tried.tolist() == [0.9]
    found = selective.guaranteed_threshold(confidence, correct, tried)
    assert found[:4] == (INF, 200, 0, 0)
    assert math.isnan(found.bound)


def test_one_wrong_answer_at_the_top_does_not_end_the_search():
    confidence = np.linspace(1, 0.5, 1000)
    correct = np.arange(1000) != 0  # the surest of all is wrong
    tried = selective.thresholds_to_try(confidence, correct)
    assert selective.guaranteed_threshold(confidence, correct, tried).answered == 1000


TRUE_RISKS = {
    # A risk just above what is promised everywhere: each answer breaks the promise.
    "uninformative": (lambda c: np.full_like(c, 0.9 - 1e-9), lambda _: 0.1 + 1e-9),
    # Of confidences from Beta(6, 1) from t on, the mean is 6 / 7 (1 - t^7) / (1 - t^6).
    "calibrated": (lambda c: c, lambda t: 1 - 6 / 7 * (1 - t**7) / (1 - t**6)),
}


@pytest.mark.parametrize("n", [100, 400, 1600])
@pytest.mark.parametrize("name", TRUE_RISKS)
def test_the_promise_is_broken_as_rarely_as_is_said(name, n):
    right, true_risk = TRUE_RISKS[name]
    broken = 0
    for trial in range(400):
        first, second = halves(n, right, [n, trial])
        tried = selective.thresholds_to_try(*first, risk=0.1)
        found = selective.guaranteed_threshold(*second, tried, risk=0.1)
        broken += found.threshold < 1 and true_risk(found.threshold) > 0.1
    assert broken <= most(400, 0.05)


NAN = math.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selective.area_under_risk_coverage([0.5], [True, False]), r"correct \[2\]"),
        (lambda: selective.risk_coverage_curve([], []), "confidence is empty"),
        (lambda: selective.confidence_auroc([0.5, NAN], [True, False]), "confidence has 1 values"),
        (lambda: selective.coverage_above([NAN, NAN], 0.5), "confidence has 2 values"),
        (lambda: selective.coverage_above([0.5], NAN), "threshold .*found nan"),
        (lambda: selective.risk_above([0.5], [True], NAN), "threshold .*found nan"),
        (lambda: selective.risk_above([0.5], [True], 0.5, [1, 1]), r"weights .*found \[2\]"),
        (lambda: selective.coverage_at_risk([0.5], [True], risk=5), r"in \[0, 1\], found 5"),
        (lambda: selective.threshold_at_risk([0.5], [True], risk=-0.1), "found -0.1"),
        (lambda: selective.threshold_at_risk([0.5], [True], risk=NAN), "found nan"),
        (lambda: selective.thresholds_to_try([0.5], [True], risk=0), r"in \(0, 1\), found 0"),
        (lambda: selective.guaranteed_threshold([0.5], [True], [0.5], risk=1), "found 1"),
        (lambda: selective.guaranteed_threshold([0.5], [True], [0.5]), "1 images cannot .* 59"),
        (lambda: selective.guaranteed_threshold([0.5] * 99, [True] * 99, [NAN]), "numbers"),
        (lambda: selective.fewest_for_risk(0.05, NAN), "certainty .*found nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
