"""Intervals for recipes: seeds and images both vary, and all seeds see the same images."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import (
    bootstrap_weights,
    estimate_means,
    mean_estimate,
    paired_change,
    paired_difference,
    recipe_estimate,
    to_score,
)
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.seeds import (
    SeedVariance,
    crossed_difference,
    crossed_mean,
    find_outlying_seed,
    seed_variance,
    stretch_near_bounds,
    widen_for_seeds,
)
from tests.helpers.chance import fewest, most

pytestmark = pytest.mark.usefixtures("undrawn")


def crossed_columns(n, seeds, of_seeds=0.0, of_images=0.0, of_both=0.0, rng=0):
    """Numbers per image and seed, with effects of images, of seeds, and of their interaction."""
    rng = np.random.default_rng(rng)
    return (
        of_images * rng.normal(size=(n, 1))
        + of_seeds * rng.normal(size=(1, seeds))
        + of_both * rng.normal(size=(n, seeds))
    )


def slow_variance(columns):
    """s²/S + V − r/(nS), one image and seed after the other."""
    n, seeds = columns.shape
    mean = columns.sum() / (n * seeds)
    of_seed = [columns[:, s].sum() / n for s in range(seeds)]
    of_image = [columns[i].sum() / seeds for i in range(n)]
    between = sum((each - mean) ** 2 for each in of_seed) / (seeds - 1) / seeds
    images = sum((each - mean) ** 2 for each in of_image) / (n - 1) / n
    residual = sum(
        (columns[i, s] - of_image[i] - of_seed[s] + mean) ** 2
        for i in range(n)
        for s in range(seeds)
    ) / ((n - 1) * (seeds - 1))
    return max(between + images - residual / (n * seeds), between, images)


@pytest.mark.parametrize("effects", [(0.3, 1, 1), (0, 1, 2), (1, 0.1, 0.1), (0, 0, 1)])
def test_the_variance_is_that_of_the_crossed_model(effects):
    columns = crossed_columns(40, 4, *effects)
    found = crossed_mean(columns)
    assert found.value == pytest.approx(columns.mean())
    assert found.variance == pytest.approx(slow_variance(columns))
    assert found.variance >= found.images
    assert found.variance >= columns.mean(axis=0).var(ddof=1) / 4 * (1 - 1e-12)


def test_without_images_that_differ_two_recipes_are_compared_by_welchs_test():
    first, second = (crossed_columns(30, seeds, 1, rng=seeds) for seeds in (3, 6))
    found = crossed_difference(first, second)
    welch = scipy.stats.ttest_ind(second[0], first[0], equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    ends = welch.confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high))


def test_with_one_seed_on_each_side_it_is_the_paired_t_test_over_images():
    first, second = (crossed_columns(30, 1, 0, 1, 1, rng=rng) for rng in (1, 2))
    found = crossed_difference(first, second)
    paired = scipy.stats.ttest_rel(second[:, 0], first[:, 0])
    assert found.p == pytest.approx(paired.pvalue)
    assert found.interval == pytest.approx(tuple(paired.confidence_interval(0.95)))


def test_the_order_of_images_and_seeds_does_not_matter_and_scale_scales():
    columns, rng = crossed_columns(25, 5, 1, 1, 1), np.random.default_rng(3)
    other = columns[rng.permutation(25)][:, rng.permutation(5)]
    assert np.array(crossed_mean(other).interval) == pytest.approx(
        np.array(crossed_mean(columns).interval)
    )
    assert crossed_mean(10 * columns).reach == pytest.approx(10 * crossed_mean(columns).reach)
    backwards = crossed_difference(columns, columns[:, :2])
    assert crossed_difference(columns[:, :2], columns).value == pytest.approx(-backwards.value)


def test_equal_numbers_have_no_width_and_their_difference_is_none():
    ones = np.full((10, 3), 0.1)
    assert crossed_mean(ones).interval == (pytest.approx(0.1),) * 2
    assert crossed_difference(ones, ones).p == 1
    assert crossed_difference(ones, ones + 0.5).p == pytest.approx(2 / 2**10)


def test_the_bootstrap_finds_the_variances_of_the_columns():
    columns = crossed_columns(400, 3, 0.05, 1, 0.5)
    resamples = 4000
    weights = bootstrap_weights(400, resamples).astype(float)
    found = seed_variance(columns.mean(axis=0), (weights @ columns / 400).T)
    exact = crossed_mean(columns).recipes[0]
    assert found.between == pytest.approx(exact.between)
    # A variance of B normal numbers has a relative standard error of sqrt(2 / B), that of two
    # independent ones (3 seeds) half the square of it; n − 1 instead of n is 1/400.
    tolerance = 4 * (2 / (2 * resamples)) ** 0.5 + 1 / 400
    assert found.shared == pytest.approx(exact.shared, rel=tolerance)


def test_resamples_without_a_value_are_left_out():
    rows = np.array([[0.4, np.nan, 0.6], [0.5, 0.1, 0.5]])
    assert seed_variance([0.4, 0.5], rows) == seed_variance([0.4, 0.5], rows[:, [0, 2]])


@pytest.mark.parametrize(("values", "rows"), [([0.5], [[0.5]]), ([0.5, 0.6], [[0.5]])])
def test_a_variance_over_seeds_needs_two_and_their_replicates(values, rows):
    with pytest.raises(InputError, match=r"at least two .*found"):
        seed_variance(values, rows)


def test_a_difference_needs_the_same_images():
    with pytest.raises(InputError, match="found 3 and 4"):
        crossed_difference(np.ones((3, 2)), np.ones((4, 2)))


# ---------------------------------------------------------------- of estimates


def estimates(columns, interval="share", resamples=1000):
    return estimate_means(columns, [interval] * columns.shape[1], resamples)


def right(n, shares, rng=0):
    """So many of n images are right, by seed."""
    rng = np.random.default_rng(rng)
    hard = rng.uniform(size=(n, 1))
    return ((hard + rng.normal(0, 0.1, size=(n, len(shares)))) < np.array(shares)).astype(float)


def test_the_interval_of_a_recipe_is_that_of_the_crossed_model():
    columns = right(1000, [0.6, 0.7, 0.65])
    score = to_score(recipe_estimate(estimates(columns, resamples=4000)), (0.0, 1.0))
    low, high = crossed_mean(columns).interval
    # Percentiles of 4,000 resamples have an error of about 2 % of the width, 1.96 one of 1 %.
    assert (score.low, score.high) == pytest.approx((low, high), abs=0.04 * (high - low))
    alone = to_score(mean_estimate(estimates(columns)), (0.0, 1.0))
    assert alone.high - alone.low < 0.5 * (high - low)


def test_the_interval_of_one_seed_is_over_images():
    (only,) = estimates(right(500, [0.6]))
    assert to_score(recipe_estimate([only])) == to_score(only)


def test_it_stays_within_the_bounds_and_holds_the_value():
    score = to_score(recipe_estimate(estimates(right(50, [0.99, 0.6]))), (0.0, 1.0))
    assert (score.low, score.high) == (0.0, 1.0)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 100), st.sampled_from(["share", "basic", "percentile"]))
def test_more_is_covered_than_by_the_images_alone(seeds, rng, interval):
    columns = right(60, np.random.default_rng(rng).uniform(0.3, 0.8, size=seeds), rng)
    found = estimates(columns, interval, resamples=50)
    recipe, images = to_score(recipe_estimate(found)), to_score(mean_estimate(found))
    assert recipe.value == images.value
    assert recipe.low <= images.low + 1e-12
    assert recipe.high >= images.high - 1e-12


def test_an_interval_that_is_not_symmetric_stays_so():
    low, high = widen_for_seeds((0.1, 0.9), 0.8, 10**9, [SeedVariance(3, 0.0, 0.0)])
    assert (low, high) == pytest.approx((0.1, 0.9), rel=1e-6)
    low, high = widen_for_seeds((0.1, 0.9), 0.8, 10**9, [SeedVariance(3, 0.01, 0.0)])
    assert 0.8 - low > 0.7
    assert 0.1 < high - 0.8 < 0.8 - low
    assert widen_for_seeds((0.1, 0.9), 0.8, 100, []) == (0.1, 0.9)


def test_stretched_ends_are_where_the_variance_goes_with_the_number():
    low, high = stretch_near_bounds((0.75, 0.95), 0.85, (0.0, 1.0))
    assert high == 0.95
    assert 0.85 - low == pytest.approx(0.1 * (low * (1 - low) / (0.85 * 0.15)) ** 0.5)
    low, high = stretch_near_bounds((0.1, 0.5), 0.3, (0.0, np.inf))
    assert low == 0.1
    assert high - 0.3 == pytest.approx(0.2 * (high / 0.3) ** 0.5)
    # Shares on another scale, and mirrored.
    ends = np.array(stretch_near_bounds((7.5, 9.5), 8.5, (0.0, 10.0)))
    assert ends == pytest.approx(10 * np.array(stretch_near_bounds((0.75, 0.95), 0.85, (0.0, 1.0))))
    mirrored = stretch_near_bounds((0.05, 0.25), 0.15, (0.0, 1.0))
    assert mirrored == pytest.approx(tuple(1 - ends[::-1] / 10))
    for bounds in ((-np.inf, np.inf), (0.85, 1.0), (0.0, 0.85)):
        assert stretch_near_bounds((0.75, 0.95), 0.85, bounds) == (0.75, 0.95)


def test_skewed_seeds_are_held_where_symmetric_intervals_miss():
    """Three networks of a recipe that is right on about 89 %, most of them on more."""
    rng = np.random.default_rng(4)
    shares = scipy.stats.norm.cdf((1.5 + 0.42 * rng.normal(size=(1500, 3))) / 1.118)
    truth = scipy.stats.norm.cdf(1.5 / np.hypot(1.118, 0.42))
    held = {"symmetric": 0, "stretched": 0}
    for each in shares:
        centre = each.mean()
        ends = widen_for_seeds(
            (centre, centre), centre, 10**6, [SeedVariance(3, each.var(ddof=1) / 3, 0.0)]
        )
        for name, (low, high) in (
            ("symmetric", ends),
            ("stretched", stretch_near_bounds(ends, centre, (0.0, 1.0))),
        ):
            held[name] += low <= truth <= high
    assert held["stretched"] >= fewest(1500, 0.94)
    assert held["symmetric"] < fewest(1500, 0.95)


def test_what_a_seed_brings_to_both_cancels_in_a_change():
    clean = right(800, [0.9, 0.6, 0.75])
    # One in ten right images becomes wrong: the change is about the same in all seeds.
    shifted = clean * (np.arange(800)[:, None] % 10 > 0)
    before, after = (recipe_estimate(estimates(each)) for each in (clean, shifted))
    change, apart = paired_change(before, after), paired_difference(before, after)
    assert change.value == apart.value < 0
    assert change.high < 0 < apart.high
    low, high = crossed_mean(shifted - clean).interval
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_a_difference_of_two_recipes_is_that_of_the_crossed_model():
    first, second = right(1000, [0.6, 0.7, 0.65], 1), right(1000, [0.7, 0.72], 1)
    found = paired_difference(*(recipe_estimate(estimates(each)) for each in (first, second)))
    low, high = crossed_difference(first, second).interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04 * (high - low))


def test_a_change_needs_the_same_trained_networks():
    two, one = recipe_estimate(estimates(right(50, [0.5, 0.6]))), estimates(right(50, [0.5]))[0]
    with pytest.raises(InputError, match="found 2 and 1 seeds"):
        paired_change(two, one)


# ---------------------------------------------------------------- coverage

TRIALS = 1500


@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 0.5])
def test_intervals_hold_the_truth_of_the_recipe(of_seeds):
    """A short version; `make coverage` prints the long table."""
    held = [
        abs(found.value) <= found.reach
        for trial in range(TRIALS)
        if (found := crossed_mean(crossed_columns(100, 3, of_seeds, 1, 1, rng=[trial, 5])))
    ]
    assert sum(held) >= fewest(TRIALS, 0.93)


@settings(deadline=None)
@given(
    seeds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    chances=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
    grouped=st.booleans(),
    rng=st.integers(0, 1000),
)
def test_p_is_below_5_percent_exactly_where_the_interval_excludes_0(seeds, chances, grouped, rng):
    generator = np.random.default_rng(rng)
    grouping = Grouping(np.arange(40) // 3) if grouped else None
    sides = [
        (generator.random((40, count)) < chance + generator.normal(0, 0.1, count)).astype(float)
        for count, chance in zip(seeds, chances, strict=True)
    ]
    found = crossed_difference(*sides, grouping, bounds=(0.0, 1.0))
    low, high = found.interval
    # Where nothing varies, there is no width, and p is that of a sign test.
    assert not found.errors or (found.p < 0.05) == (low > 0 or high < 0)


def test_seeds_that_vary_beside_seeds_that_do_not_rarely_differ_by_chance():
    """Three seeds of 95 %, and three of a mean of 95 % with a standard deviation of 3.5 points."""
    trials, n, rejected = 1500, 2000, 0
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        shares = scipy.stats.norm.cdf(1.73469 + 0.334988 * generator.normal(size=3))
        columns = (generator.random((n, 6)) < np.append(np.full(3, 0.95), shares)).astype(float)
        rejected += crossed_difference(columns[:, :3], columns[:, 3:], bounds=(0.0, 1.0)).p < 0.05
    assert rejected <= most(trials, 0.06)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_normal_seeds_are_rarely_called_far_out(seeds):
    """At most 1 % of recipes; a training that failed is found, and equal seeds are none."""
    generator, trials, n = np.random.default_rng(3), 1500, 50
    columns = crossed_columns(n, seeds, of_images=1, of_both=0.1)
    called = 0
    for own in generator.normal(0, 0.5, (trials, seeds)):
        called += find_outlying_seed(columns + own) is not None
    assert called <= most(trials, 0.01)
    failed = np.where(np.arange(seeds) == 1, -1000.0, 0.0)
    assert find_outlying_seed(columns + failed) == 1
    assert find_outlying_seed(np.ones((n, seeds))) is None
    assert find_outlying_seed(columns[:, :2]) is None


def test_seeds_that_are_equal_by_chance_make_no_other_one_far_out():
    """97, 97 and 96 of 100 right: the other is not infinitely many deviations away."""
    right = np.arange(100)[:, None] < np.array([97, 97, 96])
    assert find_outlying_seed(right.astype(float)) is None
