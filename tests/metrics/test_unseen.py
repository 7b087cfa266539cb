"""The prediction interval of an unseen site: its model, its judges, its edges, and how it holds."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import METRICS, Estimate
from fairweather.metrics.accuracy_estimation import PastErrors, SiteErrors
from fairweather.metrics.unseen import (
    FEWEST_SITES,
    RandomEffects,
    SiteShare,
    is_predictable,
    predict_unseen,
    unseen_score,
)
from tests.helpers import reference
from tests.helpers.chance import most

# Vaccinated with and without tuberculosis, then the others: 13 trials of BCG. Source: Colditz et
# al. 1994, as in `dat.bcg` of the R package metafor.
BCG = (
    *((4, 119, 11, 128), (6, 300, 29, 274), (3, 228, 11, 209), (62, 13536, 248, 12619)),
    *((33, 5036, 47, 5761), (180, 1361, 372, 1079), (8, 2537, 10, 619)),
    *((505, 87886, 499, 87892), (29, 7470, 45, 7232), (17, 1699, 65, 1600)),
    *((186, 50448, 141, 27197), (5, 2493, 3, 2338), (27, 16886, 29, 17825)),
)
ENDS = (0.025, 0.5, 0.975)


def log_risk_ratios():
    a, b, c, d = np.array(BCG, dtype=float).T
    values = np.log(a / (a + b)) - np.log(c / (c + d))
    return values, 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def test_the_restricted_likelihood_is_largest_where_metafor_says():
    """Source: Viechtbauer 2010, Conducting Meta-Analyses in R with the metafor Package, section
    4.1: tau^2 0.3132, estimate -0.7145, se 0.1798; prediction interval of the ratio 0.15 to 1.55.
    """
    model = RandomEffects.fit(*log_risk_ratios())
    near = slice(model.likelihood.argmax() - 1, model.likelihood.argmax() + 2)
    curve = np.polyfit(np.log(model.between[near]), model.likelihood[near], 2)
    best = np.exp(-curve[1] / (2 * curve[0]))
    assert best == pytest.approx(0.3132, abs=2e-3)
    mean, error = (np.interp(best, model.between, column) for column in (model.means, model.errors))
    assert mean == pytest.approx(-0.7145, abs=2e-4)
    assert np.sqrt(error) == pytest.approx(0.1798, abs=2e-4)
    reach = scipy.stats.norm.ppf(0.975) * np.sqrt(best + error)
    assert np.exp([mean - reach, mean + reach]).round(2).tolist() == [0.15, 1.55]


def test_averaging_over_the_variance_makes_the_interval_of_metafor_a_little_wider():
    low, _, high = RandomEffects.fit(*log_risk_ratios()).quantiles(ENDS)
    reach = scipy.stats.t.ppf(0.975, 12) * np.sqrt(0.3132 + 0.1798**2)
    assert -0.7145 - 1.1 * reach < low < -0.7145 - reach
    assert -0.7145 + reach < high < -0.7145 + 1.1 * reach


@pytest.mark.parametrize("sites", [5, 8, 20])
def test_with_large_sites_it_is_students_interval_with_one_degree_of_freedom_less(sites):
    values = np.random.default_rng(sites).normal(size=sites)
    reach = scipy.stats.t.ppf(0.975, sites - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / sites)
    found = RandomEffects.fit(values, np.full(sites, 1e-8)).quantiles(ENDS)
    expected = [values.mean() - reach, values.mean(), values.mean() + reach]
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_quantiles_are_those_of_the_slow_reference(spread):
    generator = np.random.default_rng(1)
    values, variances = generator.normal(0, spread, 7), generator.uniform(0.1, 2, 7)
    found = RandomEffects.fit(values, variances).quantiles(ENDS)
    expected = reference.unseen_value(values.tolist(), variances.tolist(), ENDS)
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e5)), min_size=FEWEST_SITES, max_size=9),
    st.randoms(use_true_random=False),
)
def test_order_and_direction_do_not_matter_and_ends_lie_within_bounds(pairs, random):
    sites = [SiteShare(*pair) for pair in pairs]
    low, middle, high = predict_unseen(sites)
    assert 0 <= low <= middle <= high <= 1
    shuffled = random.sample(sites, len(sites))
    assert predict_unseen(shuffled) == pytest.approx((low, middle, high), abs=1e-6)
    errors = [SiteShare(1 - share, images) for share, images in sites]
    assert predict_unseen(errors) == pytest.approx((1 - high, 1 - middle, 1 - low), abs=1e-6)


def test_sites_without_an_error_say_that_an_unseen_one_may_have_some():
    low, middle, high = predict_unseen([SiteShare(1.0, 50)] * 5)
    assert 0.4 < low < middle < high < 1
    larger, _, _ = predict_unseen([SiteShare(1.0, 5000)] * 5)
    assert larger > low


def test_fewer_than_five_sites_are_refused():
    with pytest.raises(InputError, match="needs at least 5 sites, found 4"):
        predict_unseen([SiteShare(0.9, 100)] * 4)
    few = [Estimate(0.9, np.array([0.88, 0.92]), 100)] * 4
    undefined = Estimate(np.nan, np.array([np.nan, np.nan]), 100)
    assert unseen_score([*few, undefined], (0.0, 1.0)) is None
    assert unseen_score([*few, few[0]], (0.0, 1.0)).n == 5


def test_fewer_than_three_errors_a_site_are_refused_and_so_are_hits_and_precise_areas():
    def predict(shares, n, spread=0.0, column=None):
        pair = np.array([-spread, spread])
        drawn = [Estimate(share, share + pair, n, column=column) for share in shares]
        return unseen_score(drawn, (0.0, 1.0))

    shares = np.array([1.0, 0.9, 0.95, 1.0, 0.9])  # 5 errors in 20 images of each
    assert predict(shares, 59) is None
    assert predict(shares, 61).n == 5
    assert predict(1 - shares, 59) is None
    assert predict(1 - shares, 61).n == 5
    # An area of 0.9 whose variance is that of 29 or 31 independent images.
    for images, enough in ((29, False), (31, True)):
        column = np.array([-1.0, 1.0], dtype=np.float32) * np.sqrt(0.09 / images)
        assert (predict([0.9] * 5, 400, column=column) is not None) == enough


def test_the_precision_of_a_site_is_that_of_its_replicates_or_its_column():
    """A share of 400 images; the same as 40 groups of 10 equal images; an area; other bounds."""
    shares = (0.7, 0.8, 0.85, 0.9, 0.75)
    exact = predict_unseen([SiteShare(share, 400) for share in shares])

    def predict(make, bounds=(0.0, 1.0)):
        score = unseen_score(
            [make(share, np.sqrt(share * (1 - share) / 400)) for share in shares], bounds
        )
        return score.low, score.value, score.high

    pair = np.array([-1.0, 1.0])
    images = predict(lambda share, sd: Estimate(share, share + sd * pair, 400))
    areas = predict(lambda share, sd: Estimate(share, np.empty(0), 400, "area", column=sd * pair))
    wider = scipy.stats.t.ppf(0.975, 39) / scipy.stats.norm.ppf(0.975)
    groups = predict(lambda share, sd: Estimate(share, share + wider * sd * pair, 4000, groups=40))
    kappas = predict(
        lambda share, sd: Estimate(2 * share - 1, 2 * (share + sd * pair) - 1, 400), (-1.0, 1.0)
    )
    for found in (images, areas, groups, [(end + 1) / 2 for end in kappas]):
        assert found == pytest.approx(exact, abs=1e-6)


def test_calibration_errors_and_numbers_without_two_bounds_are_not_predicted():
    names = ("accuracy", "macro_auc", "cohen_kappa", "balanced_accuracy", "brier_score")
    assert all(is_predictable(METRICS[name]) for name in names)
    others = ("negative_log_likelihood", "rms_calibration_error", "average_confidence")
    assert not any(is_predictable(METRICS[name]) for name in others)


@pytest.mark.parametrize("sites", [5, 20])
def test_a_few_draws_miss_as_rarely_as_they_should(sites):
    trials, generator = 200, np.random.default_rng(sites)
    truth = scipy.special.expit(generator.normal(2, 0.5, (trials, sites + 1)))
    shares = generator.binomial(200, truth[:, :sites]) / 200
    ends = [predict_unseen([SiteShare(share, 200) for share in row]) for row in shares]
    low, _, high = np.transpose(ends)
    assert np.count_nonzero(truth[:, sites] < low) <= most(trials, 0.04)
    assert np.count_nonzero(truth[:, sites] > high) <= most(trials, 0.04)


def past_errors(errors, sites):
    """One method or several, under three shifts and at sites whose errors are known exactly."""
    count = len(errors)
    nothing, everywhere = np.zeros(count), np.zeros((count, count))
    spreads = np.full_like(errors, 0.1)
    known = None if sites is None else SiteErrors(sites, np.full_like(sites, 1e-9))
    cells = np.arange(count), errors, spreads, nothing, nothing, everywhere, everywhere
    return PastErrors(*cells, known)


def test_the_range_spans_the_prediction_of_the_error_at_an_unseen_site():
    errors = np.array([-0.06, -0.02, 0.0, 0.03, 0.05])
    reach = scipy.stats.t.ppf(0.975, 4) * errors.std(ddof=1) * np.sqrt(1.2)
    shifts, images = np.full((3, 1), 0.01), 10**9
    found = past_errors(shifts, errors[:, None]).range([0.7], images, 0.0)
    assert found.low == pytest.approx(0.7 - reach, abs=1e-3)
    assert found.high == pytest.approx(0.7 + reach, abs=1e-3)
    alone = past_errors(shifts, None).range([0.7], images, 0.0)
    assert (alone.low, alone.high) == pytest.approx((0.69, 0.7), abs=1e-3)
    # A larger error under a shift counts too, and few images add their own chance.
    larger = past_errors(np.full((3, 1), 0.4), errors[:, None]).range([0.7], images, 0.0)
    assert larger.low == pytest.approx(0.3, abs=1e-3)
    few = past_errors(shifts, errors[:, None]).range([0.7], 400, 0.0)
    assert 0.7 - reach - 0.01 < few.low < 0.7 - reach


def test_the_method_of_a_site_is_chosen_without_this_site():
    """The second method is better at all sites but one, and by that one alone the worse."""
    shifts = np.zeros((3, 2))
    sites = np.column_stack([np.full(6, 0.1), [0.0, 0.0, 0.0, 0.0, 0.0, 0.9]])
    known = past_errors(shifts, sites)
    assert known.best() == 0
    low, high = known.site_interval(0.0)
    # At the last site, the others choose the second method, so its error there is 0.9.
    chosen = np.array([0.1] * 5 + [0.9])
    reach = scipy.stats.t.ppf(0.975, 5) * chosen.std(ddof=1) * np.sqrt(1 + 1 / 6)
    assert (low, high) == pytest.approx((chosen.mean() - reach, chosen.mean() + reach), abs=1e-3)
