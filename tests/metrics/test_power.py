"""Power: against all outcomes counted out with the tests themselves, scipy and simulations."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.paired import McNemar, mcnemar_exact, paired_shares_interval
from fairweather.metrics.power import (
    DRAWS,
    Goal,
    GroupSizes,
    RecipeSpread,
    Spread,
    area_power,
    binormal_moments,
    crossed_power,
    design_effect,
    even_sizes,
    grouped_share_power,
    normal_area_power,
    paired_power,
    random_share_power,
    share_power,
    smallest_effect,
    smallest_size,
    thinned_sizes,
)
from tests.helpers.chance import deviations

# ---------------------------------------------------------------- shares


def slow_share_power(n, truth, limit):
    """The probability of all numbers of hits whose interval, as scipy computes it, is kept."""
    power = 0.0
    for hits in range(n + 1):
        low = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "exact").low
        if low >= limit:
            power += math.comb(n, hits) * truth**hits * (1 - truth) ** (n - hits)
    return power


@pytest.mark.parametrize(("truth", "limit"), [(0.9, 0.8), (0.99, 0.9), (0.6, 0.5), (0.3, 0.29)])
def test_power_of_a_limit_is_that_of_all_outcomes_counted_out(truth, limit):
    sizes = np.array([1, 5, 17, 40, 90])
    power = share_power(sizes, truth, Goal(low=limit))
    assert power == pytest.approx([slow_share_power(n, truth, limit) for n in sizes], abs=1e-9)
    # An upper limit is a lower one of the other share.
    assert share_power(sizes, 1 - truth, Goal(high=1 - limit)) == pytest.approx(power, abs=1e-9)


def test_no_share_has_power_beyond_its_level_at_the_limit():
    sizes = np.arange(1, 400)
    assert (share_power(sizes, 0.8, Goal(low=0.8)) <= 0.025).all()
    assert share_power(np.array([0]), 0.9, Goal(low=0.8))[0] == 0


@pytest.mark.parametrize(("truth", "limit"), [(0.9, 0.8), (0.95, 0.9), (0.99, 0.97), (0.55, 0.5)])
def test_from_the_planned_size_on_the_power_stays(truth, limit):
    def power_of(sizes):
        return share_power(sizes, truth, Goal(low=limit))

    size = smallest_size(power_of, 0.8)
    every = power_of(np.arange(1, 5 * size))
    assert (every[size - 1 :] >= 0.8).all()
    assert every[size - 2] < 0.8


def test_a_random_number_of_positives_is_summed_over():
    def power_of_count(counts):
        return share_power(counts, 0.9, Goal(low=0.7))

    n, part = 300, 0.1
    chances = scipy.stats.binom.pmf(np.arange(n + 1), n, part)
    expected = chances @ power_of_count(np.arange(n + 1))
    assert random_share_power(np.array([n]), part, power_of_count)[0] == pytest.approx(expected)
    assert random_share_power(np.array([n]), 1.0, power_of_count) == power_of_count(np.array([n]))


def test_sizes_of_groups():
    even = even_sizes(2.5)
    assert (even.mean, even.effective) == (2.5, pytest.approx((0.5 * 4 + 0.5 * 9) / 2.5))
    assert design_effect(even_sizes(1).effective, 0.7) == 1


def test_images_that_count_by_chance_are_thinned():
    rng = np.random.default_rng(0)
    sizes, draws = thinned_sizes(2.5, 0.3), 20_000
    drawn = rng.binomial(2 + (rng.random(draws) < 0.5), 0.3)
    for count, share in zip(sizes.images, sizes.shares, strict=True):
        error = math.sqrt(share * (1 - share) / draws)
        assert abs((drawn == count).mean() - share) < deviations(len(sizes.images)) * error
    assert sizes.mean == pytest.approx(0.75)
    assert thinned_sizes(200, 0.5).mean == 100
    rare = sizes.at_occupied(0.1)
    assert (rare.occupied, rare.effective) == (pytest.approx(0.1), pytest.approx(sizes.effective))


def test_groups_without_images_that_count_say_nothing():
    sizes, groups, occupied = even_sizes(3), 90, 0.4
    power = grouped_share_power(groups, 0.9, Goal(low=0.75), sizes.at_occupied(occupied), 0.3)
    counts = np.arange(15, 61)
    chances = scipy.stats.binom.pmf(counts, groups, occupied)
    powers = [grouped_share_power(n, 0.9, Goal(low=0.75), sizes, 0.3) for n in counts.tolist()]
    # Both are drawn, and the powers of neighbours with the same seed err alike.
    assert abs(power - chances @ powers) < deviations() * math.sqrt(0.5 / DRAWS)


def test_patients_need_more_images_the_more_alike_their_images_are():
    powers = [
        grouped_share_power(60, 0.9, Goal(low=0.8), even_sizes(5), icc) for icc in (0.01, 0.3, 0.9)
    ]
    assert powers[0] > powers[1] > powers[2]
    # Of unequal patients with as many images, some count for more: their power is lower.
    unequal = GroupSizes(np.array([1, 21]), np.array([0.8, 0.2]))
    assert grouped_share_power(60, 0.9, Goal(low=0.8), unequal, 0.3) < powers[1]
    flipped = grouped_share_power(60, 0.1, Goal(high=0.2), even_sizes(5), 0.3)
    assert flipped == powers[1]
    assert grouped_share_power(1, 0.9, Goal(low=0.1), even_sizes(5), 0.3) == 0


def test_hits_of_patients_are_beta_binomial():
    """A limit far below shows the draws: their shares have the variance of the design effect."""
    groups, size, icc, truth = 400, 4, 0.3, 0.8
    spread = math.sqrt(truth * (1 - truth) * design_effect(size, icc) / (groups * size))
    # With so many groups, the interval begins about 1.96 spreads below the share.
    limit = truth - (1.959964 + 0.841621) * spread
    power = grouped_share_power(groups, truth, Goal(low=limit), even_sizes(size), icc)
    assert abs(power - 0.8) < 0.04 + deviations() * math.sqrt(0.16 / DRAWS)


# ---------------------------------------------------------------- paired shares


def slow_paired_power(n, difference, discordant, goal):
    """The probability of all outcomes that the tests of `compare` call so."""
    gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
    power = 0.0
    for won, lost in itertools.product(range(n + 1), repeat=2):
        if won + lost > n:
            continue
        test = (
            mcnemar_exact([False] * won + [True] * lost, [True] * won + [False] * lost)
            if (won + lost)
            else McNemar(0, 0, 1.0)
        )
        if goal.low == 0 and math.isinf(goal.high):
            shown = test.p < 0.05 / goal.tests and won > lost
        else:
            low, high = paired_shares_interval(test.b, test.c, n)
            shown = low > goal.low and high < goal.high
        if shown:
            ways = math.comb(n, won) * math.comb(n - won, lost)
            power += ways * gain**won * loss**lost * (1 - discordant) ** (n - won - lost)
    return power


@pytest.mark.parametrize("n", [8, 25])
@pytest.mark.parametrize(
    ("difference", "discordant"), [(0.1, 0.3), (0.0, 0.2), (-0.1, 0.4), (0.3, 0.3)]
)
@pytest.mark.parametrize(
    "goal", [Goal(low=0.0), Goal(low=0.0, tests=3), Goal(low=-0.25), Goal(-0.3, 0.3)]
)
def test_power_of_a_pair_is_that_of_all_outcomes_counted_out(n, difference, discordant, goal):
    expected = slow_paired_power(n, difference, discordant, goal)
    assert paired_power(n, difference, discordant, goal) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("difference", "discordant"), [(0.02, 0.06), (0.05, 0.2), (0.01, 0.1)])
def test_the_size_of_a_pair_is_near_connors(difference, discordant):
    """Connor 1987, Sample Size for Testing Differences in Proportions for the Paired-Sample Design.

    The exact test needs up to about one more image for each image of the difference, which is the
    correction for continuity of Levin and Serlin 2000.
    """
    level, power = scipy.special.ndtri([0.975, 0.8])
    spread = math.sqrt(discordant - difference**2)
    connor = ((level * math.sqrt(discordant) + power * spread) / difference) ** 2
    size = smallest_size(
        lambda sizes: np.array(
            [paired_power(n, difference, discordant, Goal(low=0)) for n in sizes]
        ),
        0.8,
        is_smooth=True,
    )
    assert connor - 1 < size < connor + 2 / difference


# ---------------------------------------------------------------- groups and seeds


def test_groups_without_seeds_have_the_power_of_the_noncentral_t():
    for groups, shift in ((5, 2.0), (20, 2.5), (1000, 3.0)):
        images, spread = 40 * groups, Spread(1.0, (), 4.0)
        deviation = math.sqrt(4.0 / images)
        power = crossed_power(images, groups, 1, shift * deviation, spread, Goal(low=0))
        freedom = groups - 1
        quantile = scipy.stats.t.ppf(0.975, freedom)
        assert power == pytest.approx(scipy.stats.nct.sf(quantile, freedom, shift), abs=0.005)


def test_without_noise_of_images_seeds_have_the_power_of_welchs_test():
    seeds, draws = 4, 20_000
    spread = Spread(1e-12, (RecipeSpread(1.0), RecipeSpread(1.0)))
    power = crossed_power(10**6, 10**6, seeds, 2.0, spread, Goal(low=0))
    old, new = np.random.default_rng(0).normal(size=(2, draws, seeds))
    test = scipy.stats.ttest_ind(new + 2.0, old, axis=1, equal_var=False)
    shown = ((test.pvalue < 0.05) & (test.statistic > 0)).mean()
    assert abs(power - shown) < 0.01 + deviations() * math.sqrt(0.25 / draws)


def test_more_images_cannot_replace_seeds():
    spread = Spread(0.06, (RecipeSpread(0.01**2), RecipeSpread(0.01**2)))
    endless = crossed_power(10**9, 10**9, 3, 0.02, spread, Goal(low=0))
    assert endless < 0.5
    assert crossed_power(10**4, 10**4, 10, 0.02, spread, Goal(low=0)) > 0.8
    nothing = Spread(0.0)
    assert crossed_power(10, 10, 1, 0.01, nothing, Goal(low=0)) == 1
    assert crossed_power(10, 10, 1, 0.0, nothing, Goal(low=0)) == 0


def test_an_interval_within_a_margin_is_above_one_end_and_below_the_other():
    spread = Spread(0.05)
    both = crossed_power(2000, 2000, 1, 0.0, spread, Goal(-0.02, 0.02))
    above = crossed_power(2000, 2000, 1, 0.0, spread, Goal(low=-0.02))
    assert both == pytest.approx(2 * above - 1, abs=1e-3)


def test_near_a_bound_seeds_show_less():
    far = RecipeSpread(0.01**2, 0.001)
    near = RecipeSpread(0.01**2, 0.001, 0.97, (0.0, 1.0))
    powers = [
        crossed_power(5000, 5000, 3, 0.03, Spread(0.03, (recipe, recipe)), Goal(low=0))
        for recipe in (far, near)
    ]
    assert powers[0] > powers[1]


# ---------------------------------------------------------------- areas


@pytest.mark.parametrize("area", [0.5, 0.7, 0.9, 0.99])
def test_binormal_placements_have_the_variance_of_two_correlated_normals(area):
    # Two positives that both beat one negative: normal scores that correlate by 1/2.
    z = scipy.special.ndtri(area)
    both = area - 2 * scipy.special.owens_t(z, 1 / math.sqrt(3))
    assert binormal_moments(area).variance == pytest.approx(both - area**2, abs=2e-4)


def test_the_error_of_an_area_is_near_that_of_hanley_and_mcneil():
    """Hanley and McNeil 1982, The Meaning and Use of the Area under a ROC Curve, page 34.

    Their example has an area of 0.893, 51 images of the class and 58 others: an error of 0.032.
    """
    variance = binormal_moments(0.893).variance * (1 / 51 + 1 / 58)
    assert math.sqrt(variance) == pytest.approx(0.032, abs=0.0025)


def test_large_studies_of_areas_follow_the_formula():
    drawn = area_power(4000, 0.1, 0.9, Goal(low=0.88), draws=400)
    formula = normal_area_power(400, 3600, 0.9, Goal(low=0.88))
    assert abs(drawn - formula) < 0.02 + deviations() * math.sqrt(0.25 / 400)
    assert area_power(50, 0.001, 0.9, Goal(low=0.5), draws=50) == 0
    assert area_power(300, 0.1, 0.99, Goal(low=0.5), fewest=31, draws=400) < 0.6
    assert area_power(4000, 0.1, 0.1, Goal(high=0.12), draws=400) == pytest.approx(
        drawn, abs=0.02 + deviations() * math.sqrt(0.5 / 400)
    )
    # Large studies by the formula, where so many positives are certain.
    large = area_power(30_000, 0.1, 0.9, Goal(low=0.893), fewest=30)
    assert large == normal_area_power(3000, 27_000, 0.9, Goal(low=0.893))


# ---------------------------------------------------------------- searches


def test_no_size_is_enough_where_power_never_rises():
    assert smallest_size(lambda sizes: np.full(len(sizes), 0.5), 0.8) is None
    assert smallest_effect(lambda effect: 0.5, 0.8, 0.0, 1.0) is None


def test_the_smallest_effect_has_the_power_and_a_smaller_one_does_not():
    def power_of(truth):
        return float(share_power(np.array([100]), truth, Goal(low=0.8))[0])

    effect = smallest_effect(power_of, 0.8, 0.8, 1.0)
    assert power_of(effect) >= 0.8 > power_of(effect - 1e-4)


def test_the_limit_is_reached_where_the_interval_says_so():
    """The exact interval that is planned is the one that is judged."""
    hits = np.arange(101)
    low, _ = clopper_pearson(hits / 100, 100)
    kept = scipy.stats.binom.pmf(hits, 100, 0.9) @ (low >= 0.8)
    assert share_power(np.array([100]), 0.9, Goal(low=0.8))[0] == pytest.approx(kept)
