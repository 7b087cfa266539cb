"""Do the 95 % intervals of real predictions cover the true value, or report too few errors?

`benchmarks/good_models.py` asks the same at length. The bar: either tail misses at most 5 % of the
truths, and so no rule with its limit at the truth is passed in more, for every row of a classifier.
"""

from functools import cache

import numpy as np
import pytest
from benchmarks import good_models

from fairweather.judge.rules import Rule
from fairweather.judge.verdicts import Verdict
from fairweather.metrics import METRICS, Estimate, bootstrap_weights, to_score
from fairweather.metrics.table import metrics_of
from fairweather.types.measurement import Predictions
from tests.helpers.chance import most

pytestmark = pytest.mark.usefixtures("undrawn")

# Prediction sets are not of models but of variants; test_conformal.py simulates their coverage.
NAMES = [
    metric.name
    for metric in metrics_of(Predictions.kind)
    if metric.alias_of is None and not (metric.accepts.sets or metric.accepts.costs)
]
# Images, and how many draws of them: what takes a few seconds each.
DRAWS = ((200, 120), (500, 80), (2000, 25))
CASES = [(population, *drawn) for population in good_models.POPULATIONS for drawn in DRAWS]
# By day the fewest images of the better population and the most of the other, from which what is
# marked comes too, in half as many draws.
BY_DAY = [("tissue_99", 200, 60), ("tissue_89", 2000, 12)]
BY_DAY_AND_NIGHT = BY_DAY + [pytest.param(*case, marks=pytest.mark.nightly) for case in CASES]
# The metrics that depend most on the errors.
MARKED = {"confidence_auroc", "macro_auc", "negative_log_likelihood"}


@cache
def drawn(population, n, trials):
    predictions = good_models.population(population)
    truths = good_models.true_values(predictions, n)
    return truths, list(good_models.draw_scores(predictions, n, trials, resamples=200))


def test_the_populations_are_as_right_as_their_names_say():
    right = [good_models.population(name).correct for name in good_models.POPULATIONS]
    assert [round(100 * each.mean()) for each in right] == [89, 99]
    assert min(map(len, right)) > 5000


@pytest.mark.parametrize(("population", "n", "trials"), BY_DAY_AND_NIGHT)
def test_either_tail_misses_at_most_five_percent(population, n, trials):
    truths, scores = drawn(population, n, trials)
    for name in NAMES:
        found = [score[name] for score in scores]
        _, below, above = good_models.tails(found, truths[name])
        assert trials * below <= most(trials, 0.05), name
        assert trials * above <= most(trials, 0.05), name
        numbers = [score for score in found if not (score.too_few or np.isnan(score.value))]
        assert all(score.low <= score.value <= score.high for score in numbers)


@pytest.mark.parametrize(("population", "n", "trials"), BY_DAY_AND_NIGHT)
def test_a_rule_with_its_limit_at_the_truth_is_seldom_passed(population, n, trials):
    truths, scores = drawn(population, n, trials)
    for name in NAMES:
        for operator in (">=", "<="):
            # Slightly beyond the true value, so that the model breaks the rule.
            limit = truths[name] + (1e-7 if operator == ">=" else -1e-7)
            rule = Rule(None, name, "clean", "", operator, f"{limit:.12f}")
            verdicts = [
                Verdict(rule, "basic", "clean", *score[name], "interval") for score in scores
            ]
            passed = sum(not each.too_few and each.passed for each in verdicts)
            assert passed <= most(trials, 0.05), (name, operator)


def test_the_skewness_of_the_likelihood_is_undone():
    """Percentiles miss too many true values above, although few samples have too few errors."""
    n, trials, together = 260, 2500, 50
    predictions = good_models.population("tissue_89")
    truth, row = predictions.nll.mean(), METRICS
    kinds = (row["negative_log_likelihood"].interval, "percentile")
    missed = dict.fromkeys(kinds, 0)
    for batch in range(trials // together):
        drawn = np.random.default_rng([n, batch]).integers(len(predictions), size=(n, together))
        losses = predictions.nll[drawn]
        weights = bootstrap_weights(n, 300, seed=batch).astype(np.float64)
        for value, replicates in zip(losses.mean(axis=0), (weights @ losses / n).T, strict=True):
            for kind in kinds:
                missed[kind] += to_score(Estimate(value, replicates, n, kind)).high < truth
    assert missed[kinds[0]] <= most(trials, 0.05) < missed["percentile"]


@pytest.mark.parametrize("cases", [BY_DAY, pytest.param(CASES, marks=pytest.mark.nightly)])
def test_good_models_are_marked_and_others_are_not(cases):
    shares = {
        (population, n, name): np.mean([np.isnan(score[name].low) for score in scores])
        for population, n, trials in cases
        for _, scores in [drawn(population, n, trials)]
        for name in NAMES
    }
    for name in MARKED:
        # Two errors among 200 images; 226 among 2,000.
        assert shares["tissue_99", 200, name] == 1
        assert shares["tissue_89", 2000, name] == 0
    # Some bin nearly always has too few images for the maximum over bins.
    assert shares["tissue_89", 2000, "maximum_calibration_error/10-equal-width"] == 1
    for name in ("accuracy", "balanced_accuracy", "rms_calibration_error/10-equal-width"):
        assert not any(shares[population, n, name] for population, n, _ in cases)
