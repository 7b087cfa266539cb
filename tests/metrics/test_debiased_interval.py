"""The interval of the debiased calibration error: its definition, its edges, how often it holds."""

import numpy as np
import pytest

from fairweather import metrics
from fairweather.metrics.debiased_interval import debiased_interval
from fairweather.metrics.grouping import Grouping, independent_images
from fairweather.types.measurement import Predictions
from tests.helpers import reference
from tests.helpers.chance import most


def draw(rng, n, gap=0.0, noise=0.0):
    """Confidences as of a good model; less often right than they say, in two ways."""
    sure = 1 - 0.5 * rng.random(n) ** 6
    sure = np.minimum(sure, 1 - 1e-9)
    return sure, rng.random(n) < np.clip(sure - gap * (1 - sure) - noise, 0, 1)


def true_error(gap, noise):
    """Over the deciles of the confidence."""
    spread = (0.5 * (1 - (np.arange(10**6) + 0.5) / 10**6) ** 6).reshape(10, -1)
    gaps = (gap * spread + noise).mean(axis=1)
    return float(np.sqrt(np.square(gaps).mean()))


@pytest.mark.parametrize(("n", "gap"), [(60, 0.0), (203, 1.0), (500, 0.3), (900, 2.0)])
@pytest.mark.parametrize("worth", [1.0, 0.5])
def test_the_ends_are_the_outermost_true_errors_that_are_not_rejected(n, gap, worth, monkeypatch):
    sure, right = draw(np.random.default_rng(n), n, gap)
    grouping = None
    if worth < 1:
        grouping = Grouping(np.arange(n) // 2)
        monkeypatch.setattr(
            "fairweather.metrics.debiased_interval.independent_images", lambda *_: worth * n
        )
    low, high = debiased_interval(sure, right, grouping=grouping)
    slow_low, slow_high, step = reference.debiased_interval(
        sure.tolist(), right.tolist(), 10, worth
    )
    enough = worth * (~right).sum() >= 30
    assert slow_low**2 * enough - step <= low**2 <= slow_low**2 * enough + 1e-8
    assert slow_high**2 - 1e-8 <= high**2 <= slow_high**2 + step


def test_the_interval_of_the_row_is_that_of_its_images():
    n = 300
    sure, right = draw(np.random.default_rng(0), n, 0.5)
    logits = np.stack([np.log(sure), np.log(1 - sure)], axis=1)
    labels = np.where(right, 0, 1)
    columns = metrics.per_image(logits, labels)
    cell = Predictions(np.arange(n), labels, *columns, logits, ("a", "b"))
    scores = metrics.score(cell, resamples=10)
    found = scores["debiased_calibration_error/10-equal-mass"]
    low, high = debiased_interval(cell.confidence, cell.correct)
    value = metrics.debiased_calibration_error(cell.confidence, cell.correct, binning="equal-mass")
    assert found[:3] == pytest.approx((value, min(low, value), high))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_any_difference_the_ends_are_apart(share):
    sure, right = np.full(400, 0.97), np.random.default_rng(0).random(400) < share
    low, high = debiased_interval(sure, right)
    assert low <= abs(0.97 - share) < high <= 1
    order = np.random.default_rng(1).permutation(400)
    assert debiased_interval(sure[order], right[order]) == pytest.approx((low, high))


def test_few_images_say_nothing_and_many_say_more():
    sure, right = draw(np.random.default_rng(0), 4000)
    assert debiased_interval(sure[:19], right[:19]) == (0, 1)
    assert debiased_interval(sure[:20], right[:20])[1] < 1
    highs = [debiased_interval(sure[:n], right[:n])[1] for n in (200, 1000, 4000)]
    assert highs[0] > highs[1] > highs[2]


def test_images_of_a_patient_are_worth_less():
    sure, right = draw(np.random.default_rng(0), 500, 0.5)
    twice, pairs = [np.repeat(each, 2) for each in (sure, right)], Grouping(np.arange(1000) // 2)
    alone = debiased_interval(*twice)
    together = debiased_interval(*twice, grouping=pairs)
    assert independent_images(twice[1], pairs) == pytest.approx(500, rel=0.01)
    assert together[0] <= alone[0]
    assert together[1] > alone[1]


@pytest.mark.parametrize(("gap", "noise"), [(0.0, 0.0), (0.35, 0.0), (0.0, 0.02), (0.6, 0.03)])
def test_neither_end_misses_the_truth_too_often(gap, noise):
    trials, truth, missed = 250, true_error(gap, noise), np.zeros(2, int)
    for trial in range(trials):
        low, high = debiased_interval(*draw(np.random.default_rng([trial, 5]), 500, gap, noise))
        missed += low > truth, high < truth
    # The gamma distribution is an approximation: the table of benchmarks/gates.py has its error.
    assert missed.max() <= most(trials, 0.035)


def test_a_well_calibrated_model_passes_half_of_the_times():
    truth = true_error(0.16, 0.0)
    assert 0.018 < truth < 0.025
    trials = 100
    passed = sum(
        debiased_interval(*draw(np.random.default_rng([trial, 9]), 1000, 0.16))[1] <= 0.05
        for trial in range(trials)
    )
    assert trials - passed <= most(trials, 0.5)
