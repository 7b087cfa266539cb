"""Risk control of missed findings: the threshold, its promise, and MAPIE."""

import math

import numpy as np
import pytest
import scipy.stats
from mapie.risk_control import MultiLabelClassificationController
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from fairweather.errors import InputError
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.risk_control import (
    control_missed,
    count_units,
    covered_shares,
    fewest_for_missed,
    hoeffding_bentkus_p,
)
from tests.helpers.chance import FALSE_ALARM, most

MISSED = 0.2


def draw(images, seed, findings=4):
    """Findings of which some images show all more clearly; a tenth of the labels are unknown."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, findings)) < 0.4).astype(int)
    clear = rng.normal(0, 1, (images, 1))
    p = 1 / (1 + np.exp(-(2 * labels - 1 + clear + rng.normal(0, 1, labels.shape))))
    labels[rng.random(labels.shape) < 0.1] = -1
    return p, labels


def slow_share(p, labels, threshold, groups):
    """The mean over groups of the mean over their images with a finding of what is missed."""
    shares = {}
    for row, truth, group in zip(p, labels, groups, strict=True):
        there = [number for number, label in zip(row, truth, strict=True) if label == 1]
        if there:
            missed = sum(number < threshold for number in there) / len(there)
            shares.setdefault(group, []).append(missed)
    return np.mean([np.mean(own) for own in shares.values()]), len(shares)


def slow_threshold(p, labels, missed, confidence, groups):
    """The largest probability of a finding that keeps the promise; all are tried."""
    kept = []
    for threshold in p[labels == 1]:
        share, n = slow_share(p, labels, threshold, groups)
        if confidence is None:
            keeps = (n * share + 1) / (n + 1) <= missed
        else:
            level = min(share, missed)
            entropy = (1 - level) * math.log((1 - level) / (1 - missed))
            entropy += level * math.log(level / missed) if level else 0
            bentkus = math.e * scipy.stats.binom.cdf(math.ceil(round(n * share, 9)), n, missed)
            keeps = min(math.exp(-n * entropy), bentkus) <= 1 - confidence
        if keeps:
            kept.append(threshold)
    return max(kept)


@pytest.mark.parametrize("confidence", [None, 0.9])
@pytest.mark.parametrize("patients", [None, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_largest_of_all_that_keep_the_promise(confidence, patients, seed):
    p, labels = draw(90, seed)
    p = p.round(2)  # with ties
    numbers = np.arange(90) if patients is None else np.arange(90) % patients
    threshold = control_missed(
        p,
        labels,
        missed=MISSED,
        confidence=confidence,
        grouping=None if patients is None else Grouping(numbers),
    )
    assert threshold == slow_threshold(p, labels, MISSED, confidence, numbers)
    assert count_units(labels, Grouping(numbers)) == slow_share(p, labels, 0, numbers)[1]


def test_groups_of_one_image_and_the_order_of_images_change_nothing():
    p, labels = draw(80, 0)
    expected = control_missed(p, labels, missed=MISSED)
    assert control_missed(p, labels, missed=MISSED, grouping=Grouping(np.arange(80))) == expected
    order = np.random.default_rng(0).permutation(80)
    assert control_missed(p[order], labels[order], missed=MISSED) == expected
    without = np.concatenate([labels, np.zeros_like(labels), np.full_like(labels, -1)])
    assert control_missed(np.tile(p, (3, 1)), without, missed=MISSED) == expected


def test_more_may_be_missed_with_a_higher_threshold_and_confidence_lowers_it():
    p, labels = draw(300, 1)
    thresholds = [control_missed(p, labels, missed=missed) for missed in (0.05, 0.1, 0.3, 0.6)]
    assert thresholds == sorted(thresholds)
    sure = [control_missed(p, labels, missed=0.3, confidence=share) for share in (0.5, 0.9, 0.99)]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] <= thresholds[2]


# MAPIE asks for less than the share, the paper for at most: these are no fraction of the images.
@pytest.mark.parametrize("missed", [0.1037, 0.2513])
@pytest.mark.parametrize("seed", range(3))
def test_mapie_finds_the_same_threshold(missed, seed):
    p, labels = draw(120, seed)
    having = (labels == 1).any(axis=1)  # MAPIE refuses other images
    grid = np.arange(0, 1, 0.001)
    judge = MultiLabelClassificationController(
        predict_function=lambda rows: rows,
        risk="recall",
        method="crc",
        target_level=1 - missed,
        predict_params=grid,
    )
    judge.calibrate(p[having], (labels[having] == 1).astype(int))
    own = control_missed(p, labels, missed=missed)
    # Its sets are above the threshold, ours at or above it.
    assert own - 0.001 <= judge.best_predict_param[0] + 1e-12 < own + 1e-12
    sets = judge.predict(p)[:, :, 0]
    shares = covered_shares(sets.astype(float), labels, 0.5)
    np.testing.assert_array_equal(np.isnan(shares), ~having)
    assert np.nanmean(1 - shares) <= missed


def test_mapie_has_the_same_p_values():
    means = np.linspace(0, 0.3, 40)
    judge = compute_hoeffding_bentkus_p_value(means, 73, np.array([0.15]))[:, 0]
    np.testing.assert_allclose(
        hoeffding_bentkus_p(means, 73, 0.15), np.minimum(judge, 1), rtol=1e-9
    )


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_fewest_images_that_can_keep_a_promise_can_and_one_fewer_cannot(confidence):
    least = fewest_for_missed(MISSED, confidence)
    p, labels = np.full((least, 2), 0.7), np.array([[1, 0]] * least)
    assert control_missed(p, labels, missed=MISSED, confidence=confidence) == 0.7
    with pytest.raises(InputError, match=f"{least - 1} images with a finding .* at least {least}"):
        control_missed(p[1:], labels[1:], missed=MISSED, confidence=confidence)


# ---------------------------------------------------------------- the promise


def true_shares(patients=1):
    """The share that each threshold misses of a very large number of images."""
    p, labels = draw(200_000, 99)
    numbers = np.arange(len(p)) // patients
    present = labels == 1
    weights = np.where(present, 1 / np.maximum(present.sum(1), 1)[:, None], 0)
    having = np.bincount(numbers, present.any(1))
    weights /= np.maximum(having[numbers], 1)[:, None]
    order = np.argsort(p[present])
    below = np.concatenate([[0], np.cumsum(weights[present][order])]) / np.count_nonzero(having)
    return lambda threshold: below[np.searchsorted(p[present][order], threshold)]


@pytest.mark.parametrize(("images", "patients"), [(25, 1), (100, 1), (100, 4)])
def test_on_average_over_draws_of_images_the_promised_share_is_missed(images, patients):
    true, shares = true_shares(patients), []
    for seed in range(400):
        p, labels = draw(images, seed)
        grouping = Grouping(np.arange(images) // patients)
        shares.append(true(control_missed(p, labels, missed=MISSED, grouping=grouping)))
    error = np.std(shares) / np.sqrt(len(shares))
    units = images / patients
    above = scipy.stats.norm.sf((np.mean(shares) - MISSED) / error)
    assert above > FALSE_ALARM
    # Theorem 2: it is not much less, at most two losses of one image.
    assert scipy.stats.norm.cdf((np.mean(shares) - (MISSED - 2 / units)) / error) > FALSE_ALARM


@pytest.mark.parametrize(("images", "patients"), [(60, 1), (200, 1), (200, 4)])
def test_with_confidence_the_promise_is_broken_in_few_draws_of_images(images, patients):
    true, broken = true_shares(patients), 0
    for seed in range(400):
        p, labels = draw(images, seed)
        grouping = Grouping(np.arange(images) // patients)
        threshold = control_missed(p, labels, missed=MISSED, confidence=0.9, grouping=grouping)
        broken += true(threshold) > MISSED
    assert broken <= most(400, 0.1)
