"""Do the 95 % intervals cover the true value about that often? A short benchmarks/coverage.py."""

from collections import Counter

import numpy as np
import pytest
import scipy.special

from fairweather import metrics
from fairweather.metrics import METRICS, Estimate, Resamples, to_score
from fairweather.metrics.paired import paired_difference
from fairweather.types.measurement import Predictions

ROW = METRICS
MEANS = ("accuracy", "negative_log_likelihood", "brier_score")
CLASSES = 10
# What the interval of each is to hold at least, and percentiles of an error of 0 at most.
BINNED = [
    ("rms_calibration_error", 0.92, 0.1),
    ("expected_calibration_error", 0.85, 0.1),
    ("debiased_calibration_error/10-equal-width", 0.92, 1.0),
]


def simulate_logits(margins, images, seed=3):
    """Two models that share most of an image's noise: labels `[images]`, logits of both."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=images)
    shared, *own = generator.normal(size=(3, images, CLASSES))
    noise = [np.sqrt(0.8) * shared + np.sqrt(0.2) * each for each in own]
    truth = np.eye(CLASSES)[labels]
    return labels, [1.5 * (m * truth + each) for m, each in zip(margins, noise, strict=True)]


@pytest.fixture(scope="module")
def population():
    """Columns of both models `[images, 6]`: a population with known means."""
    labels, logits = simulate_logits((3.1, 2.9), 20_000)
    columns = []
    for found in (metrics.per_image(each, labels) for each in logits):
        columns += [found.predicted == labels, found.nll, found.brier]
    return np.stack(columns, axis=1).astype(np.float64)


def draw_replicates(population, n, trials, resamples, together=50):
    """Values `[6]` and replicates `[6, resamples]` of each trial."""
    for batch in range(trials // together):
        generator = np.random.default_rng([n, batch])
        sample = population[generator.integers(len(population), size=(n, together))]
        weights = metrics.bootstrap_weights(n, resamples, seed=batch).astype(np.float64)
        replicates = np.tensordot(weights, sample, axes=1) / n
        yield from zip(sample.mean(axis=0), replicates.transpose(1, 2, 0), strict=True)


def test_means_and_paired_differences_are_held_in_93_to_97_percent(population):
    n, trials = 500, 2000
    truth = population.mean(axis=0)
    hits = Counter()
    for values, replicates in draw_replicates(population, n, trials, resamples=400):
        estimates = [
            Estimate(value, of_value, n, ROW[name].interval)
            for value, of_value, name in zip(values, replicates, MEANS * 2, strict=True)
        ]
        for place, name in enumerate(MEANS):
            first, second = estimates[place], estimates[place + 3]
            score = to_score(first, ROW[name].bounds)
            hits[name] += score.low <= truth[place] <= score.high
            score = paired_difference(first, second)
            hits[f"{name}, paired"] += score.low <= truth[place + 3] - truth[place] <= score.high
    assert len(hits) == 6
    for name, count in hits.items():
        assert 0.93 <= count / trials <= 0.97, (name, count / trials)


def binned_cell(generator, n, gap, difficulty):
    """Accuracy is below every confidence by the gap, so the true binned error is the gap."""
    confidence = 0.1 + 0.9 * generator.beta(5, 1.5, size=n)
    luck = scipy.special.ndtr((difficulty + generator.normal(size=n)) / np.sqrt(2))
    right = luck < confidence - gap
    nothing = np.zeros(n)
    return Predictions(
        keys=np.arange(n),
        labels=np.zeros(n, dtype=np.int64),
        predicted=(~right).astype(np.int64),
        confidence=confidence,
        top5_correct=np.ones(n, dtype=bool),
        nll=nothing,
        brier=nothing,
        logits=None,
        classes=("a", "b"),
    )


@pytest.fixture(scope="module")
def binned():
    """Estimates of 200 trials with a gap of 0.05 and with none, as runs make them."""
    n, trials = 300, 200
    names = {"accuracy", *(name for name, *_ in BINNED)}
    found = []
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        difficulty = generator.normal(size=n)
        weights = metrics.bootstrap_weights(n, 200, seed=trial)
        cells = [binned_cell(generator, n, gap, difficulty) for gap in (0.05, 0.0)]
        shared = Resamples.from_weights(cells[0].labels, weights)
        found.append([metrics.evaluate_resamples(cell, shared, names=names) for cell in cells])
    return found


def coverage(scores, truth):
    return np.mean([score.low <= truth <= score.high for score in scores])


@pytest.mark.parametrize(("name", "least", "naive"), BINNED)
def test_binned_errors_are_held_with_a_gap_and_without(binned, name, least, naive):
    row = ROW[name]
    for place, truth in ((0, 0.05), (1, 0.0)):
        scores = [to_score(trial[place][name], row.bounds) for trial in binned]
        assert coverage(scores, truth) >= least
    # The result of resampling without correction: the noise of the bins counts twice.
    estimates = [trial[1][name] for trial in binned]
    plain = [to_score(Estimate(each.value, each.replicates, each.n)) for each in estimates]
    assert coverage(plain, 0.0) <= naive


def test_the_engine_s_accuracy_and_its_paired_difference_are_held(binned):
    """95 % of 200 trials are 190, with a standard deviation of 3."""
    mean_confidence = 0.1 + 0.9 * 5 / 6.5
    truths = mean_confidence - 0.05, mean_confidence
    scores = [to_score(trial[0]["accuracy"], (0.0, 1.0)) for trial in binned]
    assert 0.91 <= coverage(scores, truths[0]) <= 0.99
    paired = [paired_difference(*(cell["accuracy"] for cell in trial)) for trial in binned]
    assert 0.91 <= coverage(paired, truths[1] - truths[0]) <= 0.99
    # Pairing makes them narrow: without it, the squares of both widths would add up.
    widths = [np.mean([each.high - each.low for each in some]) for some in (scores, paired)]
    assert widths[1] < 0.95 * np.sqrt(2) * widths[0]


def test_the_paired_difference_of_calibration_errors_is_held(binned):
    name = "rms_calibration_error"
    scores = [paired_difference(trial[1][name], trial[0][name]) for trial in binned]
    assert coverage(scores, 0.05) >= 0.88
