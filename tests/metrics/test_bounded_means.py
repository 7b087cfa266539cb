"""Intervals for any number of errors: their definition, their edges, and how often they hold."""

import dataclasses
import math

import numpy as np
import pytest

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics import METRICS, Estimate, Resamples, evaluate_resamples, to_score
from fairweather.metrics.areas import area_bounds
from fairweather.metrics.bounded_means import PRECISION, BoundedLosses, betting_interval
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.intervals import (
    mean_estimate,
    mean_of_findings,
    recipe_estimate,
    to_bounded_score,
)
from fairweather.metrics.paired import bounded_change
from fairweather.metrics.table import metrics_of
from fairweather.types.measurement import Predictions
from tests.helpers import reference
from tests.helpers.chance import most

MEANS = [row.name for row in metrics_of(Predictions.kind) if row.losses]


def ends_of(values, low=0.0, high=1.0, **options):
    return betting_interval(BoundedLosses(np.asarray(values, np.float64), low, high, **options))


def simulated(n, *, seed=0, margin=3.6):
    """A model that is right in 98 % of the images, at the default margin."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=n)
    logits = 5 * (margin * np.eye(4)[labels] + rng.normal(size=(n, 4))).astype(np.float32)
    columns = metrics.per_image(logits, labels)
    return Predictions(np.arange(n), labels, *columns, logits, tuple("abcd"), ordered=True)


def estimates_of(predictions, grouping=None, resamples=20, **options):
    shared = Resamples.draw(predictions.labels, resamples, grouping=grouping)
    return evaluate_resamples(predictions, shared, losses=True, **options)


@pytest.mark.parametrize("shape", ["few", "skewed", "middle", "wrong"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_ends_are_the_first_means_of_a_grid_that_are_rejected(shape, grouped):
    rng = np.random.default_rng(len(shape))
    values = {
        "few": (np.arange(60) < 2) * 1.0,
        "skewed": rng.random(60) ** 9,
        "middle": rng.random(60),
        "wrong": (np.arange(60) < 57) * 1.0,
    }[shape]
    sizes = rng.integers(1, 5, size=60).astype(np.float64) if grouped else None
    low, high = ends_of(values, sizes=sizes)
    slow = reference.betting_interval(values.tolist(), sizes, steps=2000)
    assert slow[0] - PRECISION <= low <= slow[0] + 1 / 2000 + PRECISION
    assert slow[1] - 1 / 2000 - PRECISION <= high <= slow[1] + PRECISION


def test_order_range_and_mirror_change_nothing():
    values = np.random.default_rng(0).random(300) ** 6
    low, high = ends_of(values)
    assert ends_of(np.sort(values)) == pytest.approx((low, high), abs=1e-9)
    assert ends_of(8 * values - 3, -3, 5) == pytest.approx((8 * low - 3, 8 * high - 3), abs=1e-5)
    assert ends_of(1 - values) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    assert low < values.mean() < high


def test_groups_of_one_size_are_their_means_and_larger_ones_count_for_more():
    values, pairs = np.random.default_rng(1).random(100) ** 3, Grouping(np.arange(100) // 2)
    means = values.reshape(-1, 2).mean(axis=1)
    whole = BoundedLosses.from_images(values, 0, 1, pairs)
    assert betting_interval(whole) == ends_of(means)
    assert ends_of(np.repeat(means, 2))[1] < ends_of(means)[1]
    # One large group is worth as much as it is large.
    uneven = Grouping(np.append(np.zeros(50, int), np.arange(1, 51)))
    losses = BoundedLosses.from_images(np.arange(100) < 50, 0, 1, uneven)
    assert losses.values @ losses.sizes / losses.sizes.sum() == 0.5
    assert betting_interval(losses)[1] - 0.5 > ends_of(np.arange(100) < 50)[1] - 0.5


def test_edges():
    for count in (1, 5, 500):
        low, high = ends_of(np.zeros(count))
        # Clopper and Pearson's, at no error, is the smallest of all that hold.
        assert low == 0
        assert 1 - 0.025 ** (1 / count) <= high <= 1
        assert ends_of(np.ones(count)) == pytest.approx((1 - high, 1), abs=1e-6)
    # Of one number, 1 is all that is known: it is seldom 40 times the mean.
    low, high = ends_of([0.5])
    assert 0 < low < 0.5 / 40 + 0.01
    assert high == pytest.approx(1 - low, abs=1e-6)
    for wrong in ([], [1.5], [math.nan]):
        with pytest.raises(InputError, match=r"in \[0, 1\] and not empty"):
            ends_of(wrong)


# A share of 2 % errors, one large loss in 1,000 images, and numbers in the middle.
DRAWS = {
    "errors": (lambda rng, n: (rng.random(n) < 0.02) * 1.0, 0.02),
    "one in 1,000": (lambda rng, n: np.where(rng.random(n) < 0.001, 1.0, 0.001), 0.001999),
    "even": (lambda rng, n: rng.random(n), 0.5),
}


@pytest.mark.parametrize("patients", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_neither_end_misses_the_truth_too_often(name, patients):
    draw, truth = DRAWS[name]
    trials, n, missed = 300, 200, np.zeros(2, int)
    for trial in range(trials):
        rng = np.random.default_rng([trial, n])
        values, sizes = draw(rng, n), None
        if patients:  # whose images are the same
            sizes = rng.integers(1, 6, size=n).astype(np.float64)
        low, high = ends_of(values, sizes=sizes)
        missed += low > truth, high < truth
    assert missed.max() <= most(trials, 0.025)


@pytest.mark.parametrize("name", MEANS)
def test_the_losses_of_a_metric_have_its_value_as_their_mean(name):
    predictions = simulated(150, margin=1.5)
    together = Grouping(np.sort(np.random.default_rng(0).integers(60, size=150)) // 2)
    together = Grouping.from_names(together.numbers)
    for grouping in (None, together):
        estimate = estimates_of(predictions, grouping, names=[name])[name]
        losses = estimate.losses
        assert np.average(losses.values, weights=losses.sizes) == pytest.approx(estimate.value)
        assert METRICS[name].bounds[0] in (losses.low, -1.0)
        assert len(losses.values) == (150 if grouping is None else grouping.count)
        assert (losses.values >= losses.low).all()
        assert (losses.values <= losses.high).all()
    assert (
        evaluate_resamples(predictions, Resamples.draw(predictions.labels, 5), names=[name])[
            name
        ].losses
        is None
    )


def test_ties_share_their_part_of_the_risk():
    tied = dataclasses.replace(
        simulated(90, margin=1.5), confidence=np.repeat([0.9, 0.6, 0.3], 30).astype(np.float32)
    )
    name = "area_under_risk_coverage"
    estimate = estimates_of(tied, names=[name])[name]
    assert estimate.losses.values.mean() == pytest.approx(estimate.value)
    assert estimate.losses.high == pytest.approx(sum(1 / k for k in range(1, 91)))


@pytest.mark.parametrize("n", [100, 300])
def test_a_good_model_is_judged_on_every_bounded_number(n):
    estimates = estimates_of(simulated(n))
    assert estimates["brier_score"].errors < 20
    for name in (*MEANS, "confidence_auroc", "macro_auc"):
        row, estimate = METRICS[name], estimates[name]
        score = to_bounded_score(estimate, row.bounds)
        assert row.bounds[0] <= score.low <= score.value <= score.high <= row.bounds[1], name
        assert score.low < score.high
        if row.fewest > 5:
            assert to_score(estimate, row.bounds).too_few
    for name in ("negative_log_likelihood", "macro_pr_auc", "cohen_kappa", "accuracy"):
        assert to_bounded_score(estimates[name]) is None, name


def test_without_an_error_a_rank_has_no_bound_and_a_loss_has_one():
    predictions = simulated(100, margin=9)
    assert predictions.correct.all()
    estimates = estimates_of(predictions)
    assert to_bounded_score(estimates["confidence_auroc"]) is None
    high = to_bounded_score(estimates["brier_score"], (0, 2)).high
    assert 2 * (1 - 0.025 ** (1 / 100)) < high < 0.2


def test_bounds_of_areas_are_where_chernoff_s_inequality_turns():
    value, pairs = 0.9, 25
    for end in area_bounds(value, pairs):
        divergence = value * math.log(value / end) + 0.1 * math.log(0.1 / (1 - end))
        assert pairs * divergence == pytest.approx(-math.log(0.025))
    assert area_bounds(1.0, 25) == pytest.approx((0.025 ** (1 / 25), 1))
    assert area_bounds(0.0, 25) == pytest.approx((0, 1 - 0.025 ** (1 / 25)))


@pytest.mark.parametrize(("n", "share"), [(200, 0.02), (300, 0.05)])
def test_the_bound_of_few_wrong_answers_holds(n, share):
    """Wrong answers are less sure; a tenth of them are as sure as the surest right ones."""
    trials, missed, least = 250, 0, metrics.areas.least_pairs
    for trial in range(trials):
        rng = np.random.default_rng([trial, n])
        wrong = rng.random(n) < share
        if not wrong.any():
            continue
        sure = np.where(wrong & (rng.random(n) < 0.9), rng.random(n) / 2, 0.5 + rng.random(n) / 2)
        area = metrics.confidence_auroc(sure, ~wrong)
        missed += area_bounds(area, least(~wrong))[0] > 0.9 + 0.1 / 2
    assert missed <= most(trials, 0.025)


def test_means_changes_and_seeds_use_the_losses_of_the_same_images():
    name = "brier_score"
    first, second = (
        estimates_of(simulated(200, seed=0, margin=margin), names=[name])[name]
        for margin in (3.6, 3.0)
    )
    mean = mean_estimate([first, second])
    middle = (first.losses.values + second.losses.values) / 2
    np.testing.assert_allclose(mean.losses.values, middle)
    assert to_bounded_score(mean, (0, 2))[1:3] == pytest.approx(
        betting_interval(BoundedLosses(middle, 0, 2))
    )
    change = bounded_change(first, second)
    assert change.value == pytest.approx(second.value - first.value)
    gap = BoundedLosses(second.losses.values - first.losses.values, -2, 2)
    assert change[1:3] == pytest.approx(betting_interval(gap))
    one, two = (dataclasses.replace(each, fewest=10**6) for each in (first, second))
    seeds = recipe_estimate([one, two])
    wide, narrow = to_bounded_score(seeds, (0, 2)), to_bounded_score(mean, (0, 2))
    assert wide.low <= narrow.low < narrow.high < wide.high
    both = bounded_change(seeds, recipe_estimate([two, one]))
    assert both.low < change.low
    assert both.high > -change.low
    unknown = dataclasses.replace(first, losses=None)
    assert mean_estimate([first, unknown]).losses is None
    assert bounded_change(first, unknown) is None
    assert bounded_change(unknown, first) is None
    assert mean_of_findings([first, second]).losses is None


def test_an_estimate_without_a_value_has_no_bound():
    losses = BoundedLosses(np.zeros(3), 0, 1)
    assert to_bounded_score(Estimate(math.nan, np.zeros(2), 3, losses=losses)) is None
