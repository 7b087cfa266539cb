"""A model beside readers: points, the curve at their specificity, and other readers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.special import ndtr

from fairweather.errors import InputError
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.readers import (
    RocCurves,
    average_over_readers,
    compare_with_readers,
    reader_points,
    threshold_at,
)
from fairweather.metrics.sample import draw_counts
from fairweather.types.measurement import UNKNOWN
from tests.helpers import reference
from tests.helpers.chance import fewest


def draw(rng, positives=30, negatives=70, readers=3, per_group=1, ties=None):
    """Scores of a model and calls of readers of the same case difficulty."""
    positive = np.arange(positives + negatives) < positives
    numbers = np.arange(positives + negatives) // per_group
    hard = rng.normal(size=numbers[-1] + 1)[numbers]

    def rate(signal):
        return signal * positive + np.sqrt(0.4) * hard + np.sqrt(0.6) * rng.normal(size=len(hard))

    scores = rate(1.8)
    if ties:
        scores = np.round(scores * ties) / ties
    points = [(rng.normal(1.8, 0.3), rng.normal(1.0, 0.4)) for _ in range(readers)]
    calls = np.stack([rate(signal) > cut for signal, cut in points], axis=1).astype(np.int64)
    return scores, positive, calls, Grouping(numbers), points


@pytest.mark.parametrize("ties", [None, 1])
def test_the_curve_at_a_specificity_is_that_of_a_slow_reference(ties):
    rng = np.random.default_rng(0)
    scores, positive, *_ = draw(rng, 11, 23, ties=ties)
    weights = rng.integers(0, 4, size=(40, len(scores)))
    wanted = rng.random(40).round(2)
    swift = RocCurves.trace(scores, positive, weights).sensitivity(wanted)
    for row, specificity, value in zip(weights, wanted, swift, strict=True):
        copied = np.repeat(np.arange(len(scores)), row)
        slow = reference.sensitivity_at(
            scores[copied].tolist(), positive[copied].tolist(), specificity
        )
        assert value == pytest.approx(slow, abs=1e-12)


def test_at_its_own_specificity_a_threshold_has_its_own_sensitivity():
    scores, positive, *_ = draw(np.random.default_rng(1), ties=2)
    for threshold in np.unique(scores):
        called = scores >= threshold
        specificity = (~called[~positive]).mean()
        highest = max(
            (scores >= cut)[positive].mean()
            for cut in np.unique(scores)
            if (scores >= cut)[~positive].mean() <= 1 - specificity + 1e-12
        )
        curve = RocCurves.trace(scores, positive, np.ones((1, len(scores))))
        value = curve.sensitivity(np.array([specificity]))[0]
        assert value == pytest.approx(highest)
        assert threshold_at(scores, positive, specificity) <= threshold


def test_ends_of_the_curve_and_one_kind_of_images():
    scores, positive = np.array([0.9, 0.5, 0.1]), np.array([True, False, True])
    once = np.ones((2, 3))
    both = RocCurves.trace(scores, positive, once)
    assert both.sensitivity(np.array([1.0, 0.0])).tolist() == [0.5, 1]
    for side in (np.ones(3, bool), np.zeros(3, bool)):
        assert np.isnan(RocCurves.trace(scores, side, once).sensitivity(np.full(2, 0.5))).all()
    assert threshold_at(np.array([1.0, 2.0]), np.array([True, False]), 1.0) == np.inf


def test_points_have_exact_intervals_and_leave_out_missing_calls():
    positive = np.array([True] * 6 + [False] * 8)
    calls = np.array([1, 1, 1, 0, UNKNOWN, 1] + [0] * 7 + [UNKNOWN])[:, None]
    (point,) = reader_points(positive, calls)
    low, high = clopper_pearson(4 / 5, 5)
    assert point.sensitivity == (0.8, float(low), float(high), 5)
    low, high = clopper_pearson(1.0, 7)
    assert point.specificity == (1.0, float(low), float(high), 7)
    grouping = Grouping(np.arange(14) // 2)
    (grouped,) = reader_points(positive, calls, grouping)
    own = np.flatnonzero(positive & (calls[:, 0] != UNKNOWN))
    low, high = share_interval(calls[own, 0], np.zeros(5), 1, grouping.select(own))
    assert grouped.sensitivity[1:3] == pytest.approx((float(low[0]), float(high[0])))


def test_a_comparison_is_that_of_plain_loops_with_the_same_resamples():
    scores, positive, calls, *_ = draw(np.random.default_rng(2), 20, 30)
    calls[3, 1] = calls[40, 1] = UNKNOWN
    weights = draw_counts(len(scores), 60)
    compared = compare_with_readers(scores, positive, calls, resamples=60)
    for reader, own in enumerate(compared.readers):
        read = calls[:, reader] != UNKNOWN

        def both(rows, read=read, reader=reader):
            rows = rows[read[rows]]
            side = positive[rows]
            called = calls[rows, reader] == 1
            point = called[side].mean(), (~called[~side]).mean()
            at = reference.sensitivity_at(scores[rows].tolist(), side.tolist(), point[1])
            back = reference.sensitivity_at((-scores[rows]).tolist(), (~side).tolist(), point[0])
            return point, at, back

        point, at, back = both(np.arange(len(scores)))
        assert own.sensitivity == pytest.approx(at)
        assert own.specificity == pytest.approx(back)
        assert own.more_sensitive.value == pytest.approx(at - point[0])
        assert own.more_specific.value == pytest.approx(back - point[1])
        drawn = [both(np.repeat(np.arange(len(scores)), row)) for row in weights]
        differences = np.array([at - point[0] for point, at, _ in drawn])
        units, negatives = int((positive & read).sum()), int((~positive & read).sum())
        alarms = (1 - point[1]) * negatives
        freedom = min(units - 1, 2 * max(min(alarms, negatives - alarms), 1))
        factor = scipy.stats.t.ppf(0.975, freedom) / 1.959963984540054
        factor *= np.sqrt(units / (units - 1))
        wide = differences.mean() + factor * (differences - differences.mean())
        value = at - point[0]
        assert units * (units * wide.var() + value**2) >= 6
        low, high = np.quantile(wide, (0.025, 0.975)).clip(-1, 1)
        assert own.more_sensitive[1:3] == pytest.approx((min(low, value), max(high, value)))


def test_the_mean_reader_stands_at_the_mean_point():
    scores, positive, calls, *_ = draw(np.random.default_rng(3))
    compared = compare_with_readers(scores, positive, calls, resamples=100)
    points = [own.reader for own in compared.readers]
    specificity = np.mean([point.specificity.value for point in points])
    assert compared.mean.reader.specificity.value == pytest.approx(specificity)
    slow = reference.sensitivity_at(scores.tolist(), positive.tolist(), specificity)
    assert compared.mean.sensitivity == pytest.approx(slow)
    for average, field in zip(compared.averages, ("more_sensitive", "more_specific"), strict=True):
        values = [getattr(own, field).value for own in compared.readers]
        assert average.fixed.value == pytest.approx(np.mean(values))
        assert average.random.mean == pytest.approx(np.mean(values))


def test_a_reader_does_not_differ_from_itself_and_order_does_not_matter():
    scores, positive, calls, grouping, _ = draw(np.random.default_rng(4), per_group=2)
    ladder, kinds = np.arange(60.0)[::-1], np.repeat([True, False, True, False], [20, 1, 9, 30])
    own = (ladder >= 40).astype(np.int64)[:, None]
    (alone,) = compare_with_readers(ladder, kinds, own, 50).readers
    assert alone.more_sensitive.value == alone.more_specific.value == 0
    assert alone.threshold == 40
    assert alone.more_sensitive.low < 0 < alone.more_sensitive.high  # not a width of 0
    scaled = compare_with_readers(np.exp(scores), positive, calls, 50, grouping)
    plain = compare_with_readers(scores, positive, calls, 50, grouping)
    assert [own.more_sensitive for own in scaled.readers] == [
        own.more_sensitive for own in plain.readers
    ]
    turned = compare_with_readers(scores, positive, calls[:, ::-1], 50, grouping)
    assert turned.readers[::-1] == plain.readers


def test_calls_and_classes_exchanged_exchange_sensitivity_and_specificity():
    scores, positive, calls, *_ = draw(np.random.default_rng(5), ties=2)
    one = compare_with_readers(scores, positive, calls, 50)
    other = compare_with_readers(-scores, ~positive, 1 - calls, 50)
    for first, second in zip(one.readers, other.readers, strict=True):
        assert first.more_sensitive == pytest.approx(second.more_specific)
        assert first.reader.sensitivity == pytest.approx(second.reader.specificity)


def test_a_model_that_is_always_wrong_has_an_interval_with_a_width():
    positive = np.arange(80) < 40
    compared = compare_with_readers(1.0 - positive, positive, positive.astype(int)[:, None], 60)
    (own,) = compared.readers
    assert own.more_sensitive.value == -1
    assert -1 < own.more_sensitive.high < -0.8
    assert compared.mean.more_specific.high > -1


def test_resamples_without_one_kind_of_images_are_left_out():
    scores, positive = np.arange(12.0), np.arange(12) >= 10
    calls = np.array([0, 1] * 6)[:, None]
    (own,) = compare_with_readers(scores, positive, calls, 200).readers
    assert own.more_sensitive.low <= own.more_sensitive.value <= own.more_sensitive.high


def test_a_reader_of_one_kind_of_images_is_left_out():
    scores, positive, calls, *_ = draw(np.random.default_rng(6))
    calls[positive, 0] = UNKNOWN
    compared = compare_with_readers(scores, positive, calls, 50)
    assert compared.readers[0] is None
    assert compared.averages[0].random is None  # two readers are too few
    assert compare_with_readers(scores, positive, calls[:, :1], 50) is None


# MRMCaov, an R package: VanDyke example of 114 cases and five readers, each of two treatments by
# itself, with the AUCs and covariances that its README and RJafroc's book print.
VAN_DYKE = (
    (
        (0.9196457, 0.8587762, 0.9038647, 0.9731079, 0.8297907),
        (0.0010141028, 0.0004839618),
        (0.8970370, 0.03317360, 12.74465, 0.8252236, 0.9688505),
    ),
    (
        (0.9478261, 0.9053140, 0.9217391, 0.9993559, 0.9299517),
        (0.0005904738, 0.0002041879),
        (0.9408374, 0.02156637, 12.71019, 0.8941378, 0.9875369),
    ),
)


@pytest.mark.parametrize(("areas", "covariances", "published"), VAN_DYKE)
def test_other_readers_have_the_published_interval(areas, covariances, published):
    variance, shared = covariances
    matrix = np.full((5, 5), shared) + (variance - shared) * np.eye(5)
    mean, error, freedom, low, high = published
    own = average_over_readers(areas, matrix)
    assert own.mean == pytest.approx(mean, abs=1e-7)
    assert own.freedom == pytest.approx(freedom, abs=2e-5)
    assert (own.low, own.high) == pytest.approx((low, high), abs=1e-7)
    _, square, slow_freedom = reference.average_over_readers(areas, matrix.tolist())
    assert square**0.5 == pytest.approx(error, abs=1e-8)
    assert own.freedom == pytest.approx(slow_freedom)


def test_other_readers_are_never_surer_than_these():
    covariance = np.full((3, 3), 0.001) + 0.003 * np.eye(3)
    alike = average_over_readers([0.1, 0.1, 0.1], covariance)
    assert (alike.high - alike.mean) >= 1.959 * np.sqrt(covariance.mean())
    assert alike.p == pytest.approx(2 * ndtr(-0.1 / np.sqrt(covariance.mean())), rel=1e-4)
    nothing = average_over_readers([0.0, 0.0, 0.0], np.zeros((3, 3)))
    assert np.isnan(nothing.low)
    with pytest.raises(InputError, match="2 readers are too few"):
        average_over_readers([0.1, 0.2], covariance[:2, :2])


@pytest.mark.parametrize("per_group", [1, 4])
def test_intervals_cover_the_truth(per_group):
    """Of a reader, and of the mean over other readers; benchmarks/readers.py has 2,000 trials."""
    rng, hits, trials = np.random.default_rng(7), [], 120
    for _ in range(trials):
        scores, positive, calls, grouping, points = draw(rng, 60, 140, 3, per_group)
        compared = compare_with_readers(
            scores, positive, calls, 200, grouping if per_group > 1 else None
        )
        signal, cut = points[0]
        truth = ndtr(1.8 - cut) - ndtr(signal - cut)
        own = compared.readers[0].more_sensitive
        # The mean over readers of this truth is 0 but for the curvature of the normal distribution.
        random = compared.averages[0].random
        hits.append((own.low <= truth <= own.high, random.low <= 0.004 <= random.high))
    assert np.sum(hits, axis=0).min() >= fewest(trials, 0.93)


def test_the_stored_simulation_is_as_good_as_its_notes_say():
    table = pd.read_csv(Path(__file__).parents[2] / "benchmarks/readers.csv")
    assert table["trials"].min() >= 2000
    missed = table["below"] + table["above"]
    assert missed.max() <= 0.075
    assert table["none"].max() == 0
    of_sensitivity = missed[table["what"] == "other readers, sensitivity"]
    assert of_sensitivity.max() <= 0.057
    assert missed[table["what"].isin(["kappa", "alpha"])].between(0.039, 0.055).all()


def test_other_readers_have_an_interval_where_only_images_vary():
    """Where the variance is raised to that of these readers, so are the degrees of freedom."""
    covariance = np.full((3, 3), -0.002) + 0.01 * np.eye(3)
    found = average_over_readers([0.1, 0.1, 0.1], covariance)
    assert np.isfinite([found.low, found.high, found.p]).all()
    error = np.sqrt(covariance.mean())
    z = scipy.stats.norm.ppf(0.975)
    assert (found.high - found.low) / 2 == pytest.approx(z * error, rel=1e-6)
