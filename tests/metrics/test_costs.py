"""Expected costs: equal to slow references and to scikit-learn's counts, with fair intervals."""

import numpy as np
import pytest
import sklearn.metrics

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics import METRICS, evaluate_resamples, to_score
from fairweather.metrics.cost_metrics import COST_METRICS
from fairweather.metrics.costs import bayes_decisions, expected_cost, finding_costs
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.hidden_error import Observation, hidden_in_levels
from fairweather.metrics.sample import Resamples, Sample
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.measurement import UNKNOWN, Predictions
from tests.helpers.chance import most
from tests.helpers.costs import slow_costs

NAMES = [row.name for row in COST_METRICS]
MATRIX = ((0.0, 1.0, 2.0), (5.0, 0.0, 1.0), (20.0, 10.0, 0.5))
WITH_REVIEW = tuple((*row, 1.5) for row in MATRIX)


def drawn(n=200, seed=0, costs=WITH_REVIEW):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    logits = (rng.normal(size=(n, 3)) + 2 * np.eye(3)[labels]).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    names = ("benign", "naevus", "melanoma")
    return Predictions(np.arange(n), labels, *columns, logits, names, costs=costs)


@pytest.mark.parametrize("costs", [MATRIX, WITH_REVIEW])
def test_values_and_replicates_are_those_of_the_slow_reference(costs):
    predictions = drawn(costs=costs)
    weights = metrics.bootstrap_weights(200, 3)
    shared = Resamples.from_weights(predictions.strata, weights)
    found = evaluate_resamples(predictions, shared, None, NAMES)
    resampled = [predictions.take(np.repeat(np.arange(200), row)) for row in weights]
    expected = [slow_costs(each) for each in (predictions, *resampled)]
    assert found.keys() == expected[0].keys()
    for name, estimate in found.items():
        values = [numbers[name] for numbers in expected]
        np.testing.assert_allclose([estimate.value, *estimate.replicates], values, atol=1e-12)


def test_scikit_learns_counts_times_the_costs_are_the_expected_cost():
    predictions = drawn(costs=MATRIX)
    truth, matrix = predictions.labels, np.array(MATRIX)
    bayes = bayes_decisions(metrics.softmax(predictions.logits), matrix).decision
    found = metrics.score(predictions, 10)
    for name, decisions in (("expected_cost", predictions.predicted), ("bayes_cost", bayes)):
        counts = sklearn.metrics.confusion_matrix(truth, decisions, labels=range(3))
        assert found[name].value == pytest.approx((counts * matrix).sum() / 200)
        assert expected_cost(decisions, truth, matrix) == pytest.approx(found[name].value)
        ratio = expected_cost(decisions, truth, matrix, normalised=True)
        assert found[f"{name}/normalised"].value == pytest.approx(ratio)


def test_with_equal_costs_it_is_the_error_rate_and_no_decision_changes():
    predictions = drawn(costs=((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)))
    found = metrics.score(predictions, 10)
    for name in ("expected_cost", "bayes_cost"):
        assert found[name].value == pytest.approx(1 - found["accuracy"].value)
    most_frequent = np.bincount(predictions.labels).max() / 200
    ratio = found["expected_cost"].value / (1 - most_frequent)
    assert found["expected_cost/normalised"].value == pytest.approx(ratio)


def test_a_constant_decision_has_a_normalised_cost_of_one_and_no_less_than_that():
    labels = drawn().labels
    ratios = [expected_cost(np.full(200, d), labels, MATRIX, normalised=True) for d in range(3)]
    assert min(ratios) == pytest.approx(1)
    assert np.isnan(expected_cost([0, 0], [0, 0], MATRIX, normalised=True))  # nothing to lose


def test_bayes_decisions_of_right_probabilities_cost_least():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 4000)
    labels = (shares.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)
    decided = bayes_decisions(shares, WITH_REVIEW)
    paid = np.array(WITH_REVIEW)[labels, decided.decision] - decided.expected_cost
    # What they cost is what they are expected to cost, and any other decision costs more.
    assert abs(paid.mean()) < 4 * paid.std() / np.sqrt(4000)
    every = shares @ np.array(WITH_REVIEW)
    assert (decided.expected_cost <= every.min(axis=1)).all()


def test_the_threshold_of_a_finding_follows_from_its_costs():
    """Call it where p · missed > (1 − p) · false: from 1 / 21 on, at 20 to 1."""
    p = np.array([0.04, 0.047, 0.048, 0.5])
    decided = bayes_decisions(np.stack([1 - p, p], axis=1), finding_costs(20, 1)).decision
    assert decided.tolist() == [0, 0, 1, 1]


def test_a_net_benefit_is_the_prevalence_less_the_cost_at_its_odds():
    rng = np.random.default_rng(1)
    present, p = rng.random(300) < 0.2, rng.random(300)
    for threshold in (0.1, 0.5, 0.8):
        calls, odds = (p >= threshold).astype(int), threshold / (1 - threshold)
        cost = expected_cost(calls, present.astype(int), finding_costs(1, odds))
        benefit = metrics.net_benefit(p, present, threshold)
        assert benefit == pytest.approx(present.mean() - cost)


def test_a_finding_has_its_own_costs_where_it_is_known():
    rng = np.random.default_rng(2)
    labels = (rng.random((300, 2)) < 0.3).astype(np.int64)
    logits = rng.normal(2 * labels - 1, 1.5).astype(np.float32)
    labels[rng.random((300, 2)) < 0.2] = UNKNOWN
    both = FindingsPredictions(
        np.arange(300), labels, logits, ("Mass", "Edema"), costs=((20, 1, 2), (3, 1, 2))
    )
    for column, missed in enumerate((20, 3)):
        one = select_finding(both, column)
        assert one.costs == ((0, 1, 2), (missed, 0, 2))
        found = metrics.score(one, 10)
        for name, value in slow_costs(one).items():
            assert found[name].value == pytest.approx(value), name


def test_without_costs_or_a_price_there_are_no_such_metrics():
    plain = drawn(costs=None)
    assert not set(NAMES) & set(metrics.score(plain, 10))
    assert not [name for name, _ in metrics.absent_metrics(plain) if name in NAMES]
    reasons = dict(metrics.absent_metrics(drawn(costs=MATRIX)))
    assert reasons["reviewed_share"].startswith("it needs the price of a review")
    no_logits = metrics.score(drawn().with_columns(logits=None), 10)
    assert set(NAMES) & set(no_logits) == {"expected_cost", "expected_cost/normalised"}


def hidden(column, levels, grouping=None):
    labels = np.zeros(len(column), dtype=np.int64)
    columns = metrics.per_image(np.zeros((len(column), 2)), labels)
    cell = Predictions(np.arange(len(column)), labels, *columns, None, ("a", "b"))
    once = Resamples.from_weights(labels, np.ones((1, len(column)), np.uint8)).prepare(cell)
    sample = Sample(once, once.order, np.ones((1, len(column))))
    seen = Observation(sample, float(column.mean()), grouping=grouping)
    return hidden_in_levels(column, np.array(levels), seen)


def test_errors_that_no_image_has_made_are_hidden():
    """None of 50 images costs anything, and one may cost 20: as with 0 errors of 50."""
    none = hidden(np.zeros(50), [0.0, 1.0, 20.0])
    assert none.below == 0
    assert np.sqrt(none.above) == pytest.approx(20 * (1 - 0.025 ** (1 / 50)))
    frequent = hidden(np.repeat([0.0, 20.0], [50, 50]), [0.0, 20.0])
    assert frequent == (0, 0)
    patients = hidden(np.zeros(50), [0.0, 20.0], Grouping(np.arange(50) // 5))
    assert np.sqrt(patients.above) == pytest.approx(20 * (1 - 0.025 ** (1 / 10)))


@pytest.mark.parametrize(("heavy", "cost"), [(2, 20.0), (10, 100.0)])
def test_intervals_with_few_heavy_errors_contain_the_truth(heavy, cost):
    n, trials, matrix = 300, 250, ((0.0, 1.0), (cost, 0.0))
    shares = np.array([0.7, 0.1, heavy / n])  # right, called wrongly, missed; the rest is right
    rng, outside = np.random.default_rng(heavy), np.zeros(2)
    truth = float(shares[1] + cost * shares[2])
    for _ in range(trials):
        kind = rng.choice(4, n, p=[*shares, 1 - shares.sum()])
        labels, calls = (kind >= 2).astype(int), np.isin(kind, (1, 3)).astype(int)
        logits = 4.0 * np.eye(2)[calls]
        columns = metrics.per_image(logits, labels)
        cell = Predictions(
            np.arange(n), labels, *columns, np.float32(logits), ("no", "yes"), costs=matrix
        )
        shared = Resamples.draw(labels, 150, seed=1)
        found = evaluate_resamples(cell, shared, None, ["expected_cost"])["expected_cost"]
        score = to_score(found, METRICS["expected_cost"].bounds)
        outside += [score.low > truth, score.high < truth]
    assert outside.max() <= most(trials, 0.03), outside


@pytest.mark.parametrize(
    ("costs", "sentence"),
    [
        ([[0, 1]], r"costs must be \[2, 2\], .*found \[1, 2\]"),
        ([[0, 1, 2, 3]] * 2, r"found \[2, 4\]"),
        ([[0, -1], [1, 0]], "costs must be finite and not negative"),
        ([[0, np.nan], [1, 0]], "costs must be finite and not negative"),
    ],
)
def test_bad_costs_get_one_sentence(costs, sentence):
    with pytest.raises(InputError, match=sentence):
        bayes_decisions([[0.5, 0.5]], costs)
