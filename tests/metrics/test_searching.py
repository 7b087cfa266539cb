"""The interval of the largest coverage at a risk: its definition, and how often it holds."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from fairweather import metrics
from fairweather.metrics import intervals, selective
from fairweather.metrics.grouping import Grouping, zou_donner_interval
from fairweather.metrics.sample import Resamples
from fairweather.metrics.selective import coverage_interval
from fairweather.types.measurement import Predictions, Score
from tests.helpers.chance import most

NAME = "coverage_at_risk/0.05"


def predictions_of(confidence, correct):
    n = len(confidence)
    zeros, nll = np.zeros(n, dtype=np.int64), -np.log(confidence)
    ones = np.ones(n, dtype=bool)
    return Predictions(
        np.arange(n), zeros, np.where(correct, 0, 1), confidence, ones, nll, nll, None, ("a", "b")
    )


def estimate_of(confidence, correct, grouping=None, resamples=40):
    predictions = predictions_of(confidence, correct)
    shared = Resamples.draw(predictions.labels, resamples, grouping=grouping)
    return intervals.evaluate_resamples(predictions, shared, names=[NAME])[NAME]


def draw(generator, n, shape):
    """A calibrated model: its answers above a confidence are wrong as often as that says."""
    confidence = generator.beta(*shape, n)
    return confidence, generator.random(n) < confidence


def true_coverage(shape):
    """The largest coverage with a risk of 5 %, from quantiles of the confidence."""
    quantiles = (np.arange(200_000) + 0.5) / 200_000
    sure = scipy.stats.beta.ppf(quantiles, *shape)[::-1]
    risk = np.cumsum(1 - sure) / np.arange(1, len(sure) + 1)
    return np.count_nonzero(risk <= 0.05) / len(sure)


@pytest.mark.parametrize("shape", [(2, 2.88), (4, 1), (19, 1)])
def test_neither_end_misses_the_truth_too_often(shape):
    """Models that are right in 41, 80 and 95 % of the images."""
    truth, trials, low, high = true_coverage(shape), 100, 0, 0
    for trial in range(trials):
        columns = draw(np.random.default_rng([trial, 1]), 200, shape)
        score = metrics.to_score(estimate_of(*columns), (0, 1))
        low += score.low > truth
        high += score.high < truth
    assert max(low, high) <= most(trials, 0.025)


def slow_interval(confidence, correct, risk):
    """What the docstring says, threshold by threshold."""
    n, ordered = len(confidence), sorted(confidence, reverse=True)
    tried = sorted({ordered[int(np.ceil(k * n / 100)) - 1] for k in range(1, 101)}, reverse=True)
    answered = [sum(sure >= each for sure in confidence) for each in tried]
    wrong = [
        sum(sure >= each and not right for sure, right in zip(confidence, correct, strict=True))
        for each in tried
    ]
    starts, part = [], n
    while not starts or part >= 5 / risk:
        starts.append(part)
        part /= 2
    level, lowest = 0.0, 0
    for place, (of, errors) in enumerate(zip(answered, wrong, strict=True)):
        before = answered[place - 1] if place else 0
        level += 0.02 * sum(before < start <= of for start in starts) / len(starts)
        if scipy.stats.binom.cdf(errors, of, risk) <= level:
            lowest = of
        else:
            level = 0.0
    possible = [
        place
        for place, (of, errors) in enumerate(zip(answered, wrong, strict=True))
        if scipy.stats.binom.sf(errors - 1, of, risk) > 0.02
    ]
    following = possible[-1] + 1 if possible else 0
    highest = n
    if following < len(tried):
        highest = sum(sure > tried[following] for sure in confidence)
    low = scipy.stats.beta.ppf(0.005, lowest, n - lowest + 1) if 0 < lowest < n else lowest / n
    high = scipy.stats.beta.ppf(0.995, highest + 1, n - highest) if highest < n else 1.0
    return low, high


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [1, 30, 99, 260])
def test_an_interval_is_its_definition(seed, n):
    generator = np.random.default_rng([seed, n])
    confidence, correct = draw(generator, n, (6, 1))
    for digits in (1, 8):
        columns = confidence.round(digits), correct
        for risk in (0.05, 0.2):
            expected = slow_interval(*columns, risk)
            assert coverage_interval(*columns, risk=risk) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_neither_the_order_of_images_nor_a_monotone_confidence_moves_it(seed):
    generator = np.random.default_rng(seed)
    confidence, correct = draw(generator, 300, (6, 1))
    confidence, grouping = confidence.round(2), generator.integers(0, 60, 300)
    order = generator.permutation(300)
    for known in (None, Grouping.from_names(grouping)):
        again = None if known is None else known.select(order)
        found = coverage_interval(confidence, correct, grouping=known)
        moved = coverage_interval(np.exp(confidence[order]), correct[order], grouping=again)
        assert moved == pytest.approx(found, abs=1e-12)


def test_the_value_is_in_its_interval():
    for seed in range(40):
        columns = draw(np.random.default_rng(seed), 150, (8, 1))
        low, high = coverage_interval(*columns)
        assert low <= selective.coverage_at_risk(*columns) <= high


def test_images_that_are_repeated_say_no_more():
    """Five copies of each image, which are known to belong together."""
    for seed in range(8):
        confidence, correct = draw(np.random.default_rng(seed), 400, (19, 1))
        low, high = coverage_interval(confidence, correct)
        of = Grouping(np.repeat(np.arange(400), 5))
        again = coverage_interval(np.repeat(confidence, 5), np.repeat(correct, 5), grouping=of)
        assert again[0] <= low + 0.01
        assert again[1] >= high - 0.01


def test_a_weight_is_how_often_an_image_counts():
    confidence, correct = draw(np.random.default_rng(0), 4000, (14, 1))
    alone = coverage_interval(confidence, correct, grouping=Grouping(np.arange(4000)))
    assert coverage_interval(confidence, correct, weights=np.full(4000, 3.0)) == pytest.approx(
        alone, rel=1e-9
    )
    half = np.where(np.arange(4000) % 2, 1.0, 0.0)
    known = coverage_interval(confidence, correct, weights=half)
    assert 0 < known[0] < alone[0] <= alone[1] < known[1]


def test_few_images_and_images_that_agree():
    right, wrong = np.ones(300, dtype=bool), np.zeros(300, dtype=bool)
    confidence = np.linspace(0.5, 1, 300)
    assert coverage_interval(confidence, right) == (1, 1)
    low, high = coverage_interval(confidence, wrong)
    # Two images are above the first threshold that is tried.
    assert (low, high) == (0, pytest.approx(scipy.stats.beta.ppf(0.995, 3, 298)))
    assert coverage_interval(confidence, wrong, risk=1)[1] == 1
    assert coverage_interval(confidence, right, risk=0)[0] == 0
    assert coverage_interval([0.5], [True]) == (0, 1)
    one = Grouping(np.zeros(300, dtype=np.int64))
    assert coverage_interval(confidence, right, grouping=one) == (0, 1)
    assert estimate_of(confidence, right, one).too_few


def test_below_200_images_all_answers_are_tested_together():
    confidence = np.linspace(1, 0.5, 199)
    for wrong in range(4):
        for places in (slice(wrong), slice(199 - wrong, None)):
            correct = np.ones(199, dtype=bool)
            correct[places] = False
            shown = scipy.stats.binom.cdf(wrong, 199, 0.05) <= 0.02
            assert coverage_interval(confidence, correct)[0] == float(shown)


def test_means_worst_values_and_differences_have_intervals():
    generator = np.random.default_rng(2)
    first, second = (estimate_of(*draw(generator, 500, shape)) for shape in ((19, 1), (9, 1)))
    ends = np.array([first.ends, second.ends])
    mean = metrics.to_score(metrics.mean_estimate([first, second]), (0, 1))
    assert mean[1:3] == pytest.approx(ends.mean(axis=0))
    worst = metrics.to_score(metrics.worst_estimate([first, second], higher_is_better=True))
    assert worst[1:3] == pytest.approx(ends.min(axis=0))
    scores = [Score(each.value, *each.ends, 500) for each in (first, second)]
    difference = metrics.paired_difference(first, second)
    assert difference[1:3] == pytest.approx(zou_donner_interval(scores[1], scores[0]))
    assert metrics.paired_change(first, second) == difference
    seeds = metrics.recipe_estimate([first, second])
    recipe = metrics.to_score(seeds, (0, 1))
    assert recipe.low < mean.low
    assert recipe.high >= mean.high
    assert metrics.paired_change(seeds, seeds).value == 0
    together = metrics.to_score(first.together(4), (0, 1))
    alone = metrics.to_score(first, (0, 1))
    assert together.low < alone.low
    few = dataclasses.replace(first, groups=1)
    assert np.isnan(metrics.paired_difference(few, few).low)
