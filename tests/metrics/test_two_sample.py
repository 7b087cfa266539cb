"""Tests for unlike images: the level that they promise, their definitions, and what they refuse."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from fairweather.errors import InputError
from fairweather.metrics import (
    Grouping,
    differ_p,
    features_differ_p,
    one_of_each,
    outputs_differ_p,
    softmax,
    two_sample,
)
from tests.helpers.chance import FALSE_ALARM, deviations, distribution_p, most

LEVEL = 0.05


def probabilities(generator, n, classes=4, scale=3.0):
    """Probabilities of n images from features that depend on each other."""
    return softmax(scale * generator.normal(size=(n, 3)) @ np.eye(3, classes))


def drawn(kind, generator):
    """Two sets of one distribution: their probabilities and their features."""
    n, m = 60, 20
    outputs = probabilities(generator, n + m, scale=60.0 if kind == "saturated" else 3.0)
    features = generator.normal(size=(n + m, 6)) ** 3
    if kind == "tied":
        outputs, features = outputs.round(1), features.round()
    if kind == "constant":
        outputs, features = np.full((n + m, 3), 1 / 3), np.ones((n + m, 2))
    return (outputs[:n], outputs[n:]), (features[:n], features[n:])


@pytest.mark.parametrize("kind", ["plain", "saturated", "tied", "constant"])
def test_false_alarms_are_at_most_as_frequent_as_promised(kind, monkeypatch):
    monkeypatch.setattr(two_sample, "SPLITS", 99)  # exact for any number of splits
    trials = 400
    found = []
    for trial in range(trials):
        outputs, features = drawn(kind, np.random.default_rng([trial, 1]))
        each = outputs_differ_p(*outputs), features_differ_p(*features, seed=trial)
        found.append([*each, differ_p(*each)])
    alarms = (np.array(found) <= LEVEL).sum(axis=0)
    assert alarms.max() <= most(trials, LEVEL)


def test_the_p_value_of_features_is_uniform_without_a_difference(monkeypatch):
    monkeypatch.setattr(two_sample, "SPLITS", 399)
    found = []
    for trial in range(200):
        features = np.random.default_rng([trial, 2]).normal(size=(45, 4))
        found.append(features_differ_p(features[:30], features[30:], seed=trial))
    steps = np.random.default_rng(0).random(200) / 400  # within the steps of the p-values
    assert distribution_p(np.array(found) - steps, "uniform") > FALSE_ALARM


@pytest.mark.parametrize("m", [10, 40, 300])
def test_what_differs_plainly_is_seen(m):
    generator = np.random.default_rng(m)
    reference = probabilities(generator, 300)
    assert outputs_differ_p(reference, np.eye(4)[np.arange(m) % 4]) < 0.01
    features = generator.normal(size=(300, 16))
    assert features_differ_p(features, generator.normal(size=(m, 16)) + 1.5) == 0.001


def test_a_drop_of_all_confidences_is_seen_however_many_classes_there_are():
    generator = np.random.default_rng(0)
    classes = 60

    def sure(n, low, high):
        """The rest of the probability goes to one other class."""
        rows, first = np.zeros((n, classes)), generator.integers(0, classes, n)
        rows[np.arange(n), first] = generator.uniform(low, high, n)
        rows[np.arange(n), (first + 1) % classes] = 1 - rows.max(axis=1)
        return rows

    known, less = sure(600, 0.7, 1.0), sure(60, 0.6, 0.9)
    each = [scipy.stats.ks_2samp(*pair).pvalue for pair in zip(known.T, less.T, strict=True)]
    assert outputs_differ_p(known, less) < 0.01 < min(each) * classes


@pytest.mark.parametrize(("n", "m"), [(10, 10), (12, 30), (50, 50), (100, 20), (1000, 10)])
def test_the_p_value_of_outputs_is_no_smaller_than_the_exact_one(n, m):
    generator = np.random.default_rng([n, m])
    compared = 0
    for moved in np.linspace(0.5, 2, 7):
        first, second = (
            scipy.stats.norm.cdf(generator.normal(*each)) for each in ((0, 1, n), (moved, 1, m))
        )
        exact = scipy.stats.ks_2samp(first, second, method="exact")
        assert two_sample.kolmogorov_smirnov_distance(first, second) == pytest.approx(
            exact.statistic, abs=1e-12
        )
        if exact.pvalue < 0.1:
            compared += 1
            pair = [np.stack([each, 1 - each], axis=1) for each in (first, second)]
            assert outputs_differ_p(*pair) >= exact.pvalue
    assert compared


def test_the_energy_distance_is_its_definition():
    generator = np.random.default_rng(3)
    places = generator.normal(size=(9, 2))
    inside = generator.permuted(np.tile(np.arange(9) < 4, (5, 1)), axis=1)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    for found, member in zip(two_sample.split_energies(distances, inside), inside, strict=True):
        first, second = places[~member], places[member]

        def mean(one, other):
            return np.mean([np.hypot(*(a - b)) for a in one for b in other])

        slow = 2 * mean(first, second) - mean(first, first) - mean(second, second)
        assert found == pytest.approx(slow, abs=1e-12)


def test_the_p_value_of_features_is_its_definition(monkeypatch):
    """It is the permutation test of scipy, with random splits in place of all."""
    monkeypatch.setattr(two_sample, "FEWEST_IMAGES", 6)
    generator = np.random.default_rng(5)
    features = generator.normal(size=(12, 3)) + 0.9 * (np.arange(12) >= 6)[:, None]
    scaled = features / features.std(axis=0)
    distances = scipy.spatial.distance.cdist(scaled, scaled)

    def statistic(first, second):
        between, one, other = (
            distances[np.ix_(*places)].mean()
            for places in ((first, second), (first, first), (second, second))
        )
        return 2 * between - one - other

    slow = scipy.stats.permutation_test(
        (np.arange(6), np.arange(6, 12)), statistic, alternative="greater"
    ).pvalue  # of all 924 splits
    found = features_differ_p(features[:6], features[6:])
    error = np.sqrt(slow * (1 - slow) / 999)
    assert 0.01 < slow < 0.5
    assert abs(found - slow) < deviations() * error + 1 / 1000


def test_what_does_not_matter_changes_nothing():
    generator = np.random.default_rng(1)
    outputs = probabilities(generator, 50), probabilities(generator, 30, scale=2.0)
    found = outputs_differ_p(*outputs)
    assert outputs_differ_p(*outputs[::-1]) == pytest.approx(found, rel=1e-12)
    assert outputs_differ_p(*(each[:, ::-1] for each in outputs)) == found
    assert outputs_differ_p(*(generator.permutation(each) for each in outputs)) == found
    features = generator.normal(size=(50, 4)), generator.normal(size=(30, 4)) + 0.3
    found = features_differ_p(*features)
    assert found == features_differ_p(*features)
    units = np.array([1.0, 1000.0, -0.5, 8.0])
    assert features_differ_p(*(units * each + 7 for each in features)) == found
    constant = [np.column_stack([each, np.full(len(each), 3.0)]) for each in features]
    assert features_differ_p(*constant) == found


def test_of_two_classes_one_column_counts():
    generator = np.random.default_rng(2)
    first, second = generator.random(80), generator.random(40) ** 2
    found = outputs_differ_p(*(np.stack([each, 1 - each], axis=1) for each in (first, second)))
    steps = [
        two_sample.kolmogorov_smirnov_distance(first, second),
        two_sample.kolmogorov_smirnov_distance(
            np.maximum(first, 1 - first), np.maximum(second, 1 - second)
        ),
    ]
    slow = 2 * scipy.stats.kstwobign.sf(np.sqrt(80 * 40 / 120) * max(steps))
    assert found == pytest.approx(slow, rel=1e-9)


@pytest.mark.parametrize("m", [1, 9])
def test_of_few_images_nothing_is_said(m):
    generator = np.random.default_rng(0)
    known, others = probabilities(generator, 50), np.eye(4)[np.zeros(m, dtype=int)]
    assert np.isnan(outputs_differ_p(known, others))
    assert np.isnan(features_differ_p(known, others))
    assert np.isnan(features_differ_p(others, known))


def test_more_images_than_are_compared_are_drawn():
    generator = np.random.default_rng(0)
    known = generator.normal(size=(3 * two_sample.MOST_IMAGES, 2))
    assert features_differ_p(known, known[:2000] + 1) == 0.001
    assert features_differ_p(known[:1500], known[1500:], seed=1) > FALSE_ALARM


def test_one_image_of_each_patient():
    grouping = Grouping(np.array([0, 0, 1, 2, 2, 2]))
    drawn = np.array([one_of_each(grouping, seed) for seed in range(40)])
    assert (grouping.numbers[drawn] == [0, 1, 2]).all()
    assert {len(set(column)) for column in drawn.T} == {2, 1, 3}  # each image of each is drawn


def test_repeated_images_give_false_alarms_that_one_of_each_does_not():
    """Ten images of each patient that are all alike: why one of each is compared."""
    trials, alarms, of_one = 60, 0, 0
    for trial in range(trials):
        generator = np.random.default_rng([trial, 9])
        known, others = probabilities(generator, 40), probabilities(generator, 12)
        patients = Grouping(np.repeat(np.arange(12), 10))
        repeated = np.repeat(others, 10, axis=0)
        alarms += outputs_differ_p(np.repeat(known, 10, axis=0), repeated) <= LEVEL
        of_one += outputs_differ_p(known, repeated[one_of_each(patients, trial)]) <= LEVEL
    assert alarms > most(trials, LEVEL) >= of_one


@pytest.mark.parametrize("test", [outputs_differ_p, features_differ_p])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((20, 3)), np.ones((20, 2)), r"found \[20, 3\] and \[20, 2\]"),
        (np.ones(20), np.ones((20, 2)), r"found \[20\]"),
        (np.ones((0, 3)), np.ones((20, 3)), r"found \[0, 3\]"),
        (np.ones((20, 3)), np.full((20, 3), np.nan), "finite"),
    ],
)
def test_bad_input_is_named(test, first, second, message):
    with pytest.raises(InputError, match=message):
        test(first, second)
