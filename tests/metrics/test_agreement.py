"""Agreement of raters: Cohen's kappa and Krippendorff's alpha."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fairweather.errors import InputError
from fairweather.metrics.agreement import (
    agreement_kappa,
    krippendorff_alpha,
    score_agreement,
    score_alpha,
)
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.sample import draw_counts
from fairweather.types.measurement import UNKNOWN
from tests.helpers import reference

# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C: four observers of twelve
# units, with alpha = 0.743.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
).T
PUBLISHED = np.where(PUBLISHED == 0, UNKNOWN, PUBLISHED)


def draw(rng, n=60, raters=3, classes=3, missing=0.0):
    truth = rng.integers(classes, size=n)
    other = rng.integers(classes, size=(n, raters))
    calls = np.where(rng.random((n, raters)) < 0.7, truth[:, None], other)
    return np.where(rng.random((n, raters)) < missing, UNKNOWN, calls)


def test_kappa_is_that_of_scikit_learn_and_of_a_slow_reference():
    rng = np.random.default_rng(0)
    calls = draw(rng)
    first, second = calls[:, 0], calls[:, 1]
    assert agreement_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    slow = reference.cohen_kappa_of_two(first.tolist(), second.tolist())
    assert agreement_kappa(first, second) == pytest.approx(slow)
    weights = rng.integers(0, 3, size=(9, len(first)))
    for row, value in zip(weights, agreement_kappa(first, second, weights), strict=True):
        assert value == pytest.approx(cohen_kappa_score(first, second, sample_weight=row))


def test_alpha_is_the_published_one_and_that_of_a_slow_reference():
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.743, abs=5e-4)
    rng = np.random.default_rng(1)
    calls = draw(rng, missing=0.3)
    assert krippendorff_alpha(calls) == pytest.approx(reference.krippendorff_alpha(calls.tolist()))
    weights = rng.integers(0, 3, size=(9, len(calls)))
    for row, value in zip(weights, krippendorff_alpha(calls, weights), strict=True):
        copied = np.repeat(calls, row, axis=0)
        assert value == pytest.approx(reference.krippendorff_alpha(copied.tolist()))


def test_without_missing_calls_alpha_is_the_kappa_of_fleiss_but_for_small_numbers():
    calls = draw(np.random.default_rng(2), n=40, raters=4)
    kappa, number = reference.fleiss_kappa(calls.tolist()), calls.size
    assert 1 - krippendorff_alpha(calls) == pytest.approx((1 - kappa) * (number - 1) / number)


def test_names_and_order_of_raters_do_not_matter():
    calls = draw(np.random.default_rng(3), missing=0.2)
    renamed = np.where(calls == UNKNOWN, UNKNOWN, 7 - 2 * calls)
    assert krippendorff_alpha(renamed[:, ::-1]) == pytest.approx(krippendorff_alpha(calls))
    first, second = draw(np.random.default_rng(4)).T[:2]
    assert agreement_kappa(second, first) == agreement_kappa(first, second)


def test_edges():
    same, other = np.array([0, 1, 0]), np.array([1, 0, 1])
    assert agreement_kappa(same, same) == 1
    assert agreement_kappa(same, other) < 0
    assert np.isnan(agreement_kappa(np.zeros(3, int), np.zeros(3, int)))
    assert np.isnan(krippendorff_alpha(np.zeros((3, 2), int)))
    assert np.isnan(krippendorff_alpha(np.array([[0, UNKNOWN], [UNKNOWN, 1]])))
    with pytest.raises(InputError, match="called by both"):
        score_agreement(np.array([0, UNKNOWN]), np.array([UNKNOWN, 1]))


def test_scores_leave_out_missing_calls_and_resample_groups():
    calls = draw(np.random.default_rng(5), n=80, missing=0.2)
    grouping = Grouping(np.arange(80) // 4)
    both = (calls[:, :2] != UNKNOWN).all(axis=1)
    share, kappa = score_agreement(calls[:, 0], calls[:, 1], 200, grouping)
    assert share.n == kappa.n == both.sum()
    alike = (calls[both, 0] == calls[both, 1]).astype(int)
    own = grouping.select(np.flatnonzero(both))
    low, high = share_interval(alike, np.zeros(len(alike)), 1, own)
    assert share[:3] == pytest.approx((alike.mean(), low[0], high[0]))
    weights = draw_counts(80, 200, grouping=grouping)[:, both]
    drawn = agreement_kappa(calls[both, 0], calls[both, 1], weights)
    assert np.ptp(drawn) > 0
    assert kappa.low < kappa.value < kappa.high
    wide, narrow = score_alpha(calls, 200, Grouping(np.arange(80) // 10)), score_alpha(calls, 200)
    assert wide.value == narrow.value
    assert wide.n == ((calls != UNKNOWN).sum(axis=1) > 1).sum()


def test_perfect_agreement_of_a_few_images_is_not_certain():
    calls = np.repeat(np.array([[0], [1]] * 10), 2, axis=1)
    _, kappa = score_agreement(calls[:, 0], calls[:, 1], 100)
    low = clopper_pearson(1.0, 20)[0]
    assert kappa == pytest.approx((1, 1 - 2 * (1 - low), 1, 20))  # half agree by chance
    alpha = score_alpha(calls, 100)
    assert alpha.high == 1
    assert alpha.low == pytest.approx(1 - (1 - low) / (20 / 39))
    _, grouped = score_agreement(calls[:, 0], calls[:, 1], 100, Grouping(np.arange(20) // 4))
    assert grouped.low < kappa.low
    nothing = np.zeros((5, 2), np.int64)
    assert np.isnan(score_agreement(nothing[:, 0], nothing[:, 1], 100)[1].value)
    assert np.isnan(score_alpha(nothing, 100).value)


def test_intervals_of_kappa_cover_the_truth():
    from tests.helpers.chance import fewest

    rng, trials = np.random.default_rng(6), 120
    shared = rng.integers(2, size=400_000)
    calls = np.where(rng.random((400_000, 2)) < 0.8, shared[:, None], 1 - shared[:, None])
    truth = agreement_kappa(calls[:, 0], calls[:, 1])
    hits = 0
    for trial in range(trials):
        part = calls[rng.integers(len(calls), size=100)]
        _, kappa = score_agreement(part[:, 0], part[:, 1], 200, seed=trial)
        hits += kappa.low <= truth <= kappa.high
    assert hits >= fewest(trials, 0.93)
