"""One decision for all images of a patient: each formula, its invariances and its edges."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics.aggregates import (
    AGGREGATES,
    aggregate_class_labels,
    aggregate_classes,
    aggregate_finding_labels,
    aggregate_findings,
    find_aggregate,
)
from fairweather.metrics.conformal import conformal_quantile
from fairweather.metrics.grouping import Grouping
from tests.helpers.chance import fewest, most
from tests.helpers.reference import aggregated_grades, aggregated_probability

UNKNOWN = -1


def patients(rng, count=40, most=9):
    sizes = rng.integers(1, most, count)
    numbers = np.repeat(np.arange(count), sizes)
    return Grouping.from_names(rng.permutation(numbers))


@pytest.mark.parametrize("name", AGGREGATES)
def test_findings_are_those_of_the_slow_reference(name):
    rng = np.random.default_rng(0)
    grouping = patients(rng)
    logits = rng.normal(0, 2, (len(grouping.numbers), 3))
    chances = scipy.special.expit(aggregate_findings(logits, grouping, name))
    for number in range(grouping.count):
        own = scipy.special.expit(logits[grouping.numbers == number])
        expected = [aggregated_probability(column.tolist(), name) for column in own.T]
        assert chances[number] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("classes", [2, 5])
def test_grades_are_those_of_the_slow_reference(name, classes):
    rng = np.random.default_rng(1)
    grouping = patients(rng)
    logits = rng.normal(0, 1, (len(grouping.numbers), classes))
    chances = np.exp(aggregate_classes(logits, grouping, name, ordered=True))
    alone = grouping.sizes == 1
    chances[alone] /= chances[alone].sum(
        axis=1, keepdims=True
    )  # logits of one image stay as they are
    assert chances.sum(axis=1) == pytest.approx(1, abs=1e-12)
    for number in range(grouping.count):
        images = scipy.special.softmax(logits[grouping.numbers == number], axis=1)
        # A grade is a difference of two numbers near 1.
        assert chances[number] == pytest.approx(aggregated_grades(images.tolist(), name), abs=1e-14)


def test_two_grades_are_one_finding():
    rng = np.random.default_rng(2)
    grouping = patients(rng)
    logits = rng.normal(0, 3, (len(grouping.numbers), 1))
    both = np.concatenate([np.zeros_like(logits), logits], axis=1)
    for name in AGGREGATES:
        grades = aggregate_classes(both, grouping, name, ordered=True)
        finding = aggregate_findings(logits, grouping, name)[:, 0]
        assert grades[:, 1] - grades[:, 0] == pytest.approx(finding, rel=1e-9, abs=1e-9)


def test_noisy_or_of_grades_is_the_highest_of_independent_draws():
    rng = np.random.default_rng(3)
    images = rng.dirichlet([2, 1, 1, 0.5], 3)
    exact = np.zeros(4)
    for first in range(4):
        for second in range(4):
            for third in range(4):
                chance = images[0][first] * images[1][second] * images[2][third]
                exact[max(first, second, third)] += chance
    grouping = Grouping(np.zeros(3, dtype=np.int64))
    found = np.exp(aggregate_classes(np.log(images), grouping, "noisy-or", ordered=True))
    assert found[0] == pytest.approx(exact, abs=1e-14)


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=12), st.randoms())
def test_any_logits_in_any_order_give_the_same_finite_numbers(values, random):
    logits = np.array(values)[:, None]
    one = Grouping(np.zeros(len(values), dtype=np.int64))
    shuffled = logits.copy()
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = logits[order]
    found = {name: aggregate_findings(logits, one, name)[0, 0] for name in AGGREGATES}
    assert np.isfinite(list(found.values())).all()
    for name, logit in found.items():
        assert aggregate_findings(shuffled, one, name)[0, 0] == pytest.approx(
            logit, rel=1e-9, abs=1e-9
        )
    assert found["any"] == found["max"] == max(values)
    near = 1e-9 * (1 + abs(found["max"]))
    assert min(values) - near <= found["mean"] <= found["max"] + near
    assert found["noisy-or"] >= found["max"] - near


@given(st.lists(st.floats(-700, 700), min_size=8, max_size=8), st.sampled_from([*AGGREGATES]))
def test_extreme_grades_have_finite_logits(values, name):
    logits = np.array(values).reshape(2, 4)
    one = Grouping(np.zeros(2, dtype=np.int64))
    assert np.isfinite(aggregate_classes(logits, one, name, ordered=True)).all()


@pytest.mark.parametrize("name", AGGREGATES)
def test_a_patient_with_one_image_has_its_logits(name):
    logits = np.random.default_rng(4).normal(0, 30, (50, 4)).astype(np.float32)
    alone = Grouping(np.arange(50))
    assert np.array_equal(aggregate_findings(logits, alone, name), logits)
    assert np.array_equal(aggregate_classes(logits, alone, name, ordered=True), logits)


def test_a_threshold_calls_a_patient_by_max_if_it_calls_any_image():
    rng = np.random.default_rng(5)
    grouping = patients(rng)
    logits = rng.normal(0, 1, (len(grouping.numbers), 1))
    for threshold in (-1.0, 0.0, 0.7):
        called = np.bincount(grouping.numbers, logits[:, 0] >= threshold) > 0
        assert np.array_equal(
            aggregate_findings(logits, grouping, "any")[:, 0] >= threshold, called
        )


def test_classes_without_an_order_have_only_a_mean():
    logits, one = np.zeros((3, 3)), Grouping(np.zeros(3, dtype=np.int64))
    assert np.exp(aggregate_classes(logits, one, "mean")).tolist() == [pytest.approx([1 / 3] * 3)]
    with pytest.raises(InputError, match="--positive"):
        aggregate_classes(logits, one, "max")


def test_a_patient_has_a_finding_if_an_image_has_it():
    rng = np.random.default_rng(6)
    grouping = patients(rng, most=4)
    labels = rng.choice([UNKNOWN, 0, 1], (len(grouping.numbers), 2))
    aggregated = aggregate_finding_labels(labels, grouping, UNKNOWN)
    differing = 0
    for number in range(grouping.count):
        own = labels[grouping.numbers == number].T.tolist()
        expected = [1 if 1 in column else UNKNOWN if UNKNOWN in column else 0 for column in own]
        assert aggregated.labels[number].tolist() == expected
        differing += any({0, 1} <= set(column) for column in own)
    assert aggregated.differing == differing > 0


def test_a_patient_has_the_highest_grade_and_one_class():
    grouping = Grouping(np.array([0, 1, 0, 1]))
    grades = aggregate_class_labels(np.array([1, 2, 3, 2]), grouping, "patient", ordered=True)
    assert grades.labels.tolist() == [3, 2]
    assert grades.differing == 1
    same = aggregate_class_labels(np.array([1, 2, 1, 2]), grouping, "patient")
    assert same.labels.tolist() == [1, 2]
    assert same.differing == 0
    with pytest.raises(InputError, match="the images of 1 of 2 patients differ in their class"):
        aggregate_class_labels(np.array([1, 2, 3, 2]), grouping, "patient")


def test_an_unknown_aggregate_has_a_closest_name():
    with pytest.raises(InputError, match="noisy-or"):
        find_aggregate("noisy or")


@pytest.mark.parametrize("name", ["mean", "max", "noisy-or"])
def test_sets_of_patients_keep_their_promise_and_sets_of_images_do_not(name):
    """One test patient for each draw of 60 others with 1 to 40 images; benchmarks/patients.py."""
    draws, count, coverage, inside = 400, 60, 0.9, {"patients": [], "images": []}
    for draw in range(draws):
        rng = np.random.default_rng([11, draw])
        sizes = np.exp(rng.uniform(0, np.log(41), count + 1)).astype(np.int64)
        grouping = Grouping(np.repeat(np.arange(count + 1), sizes))
        labels = (rng.random(count + 1) < 0.3)[grouping.numbers]
        noise = 0.7 * rng.normal(size=count + 1)[grouping.numbers]
        noise += 0.7 * rng.normal(size=len(labels))
        logits = 1.8 * labels - 1.2 + 1.5 * noise
        rows = aggregate_findings(logits[:, None], grouping, name)[:, 0]
        truth = aggregate_class_labels(labels.astype(np.int64), grouping, "patient").labels
        scores = scipy.special.expit(np.where(truth == 1, -1, 1) * rows)
        of_images = scipy.special.expit(np.where(labels, -1, 1) * logits)
        known = of_images[grouping.numbers < count]
        inside["patients"].append(scores[-1] <= conformal_quantile(scores[:-1], coverage))
        inside["images"].append(scores[-1] <= conformal_quantile(known, coverage))
    assert sum(inside["patients"]) >= fewest(draws, coverage)
    assert sum(inside["patients"]) <= most(draws, coverage + 1 / (count + 1))
    if name != "mean":  # which images make too cautious instead
        assert sum(inside["images"]) < fewest(draws, coverage)
