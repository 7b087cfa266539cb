"""Accuracy without labels: equal to its definitions, and exact on the validation images."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import accuracy, confidence_gap, selective

images = st.lists(
    st.tuples(st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1)), st.booleans()),
    min_size=1,
    max_size=20,
)


def columns(drawn):
    return np.array([sure for sure, _ in drawn]), np.array([right for _, right in drawn])


def slow_threshold(confidence, correct):
    """The smallest candidate whose share below is closest to the error: the definition."""
    wrong = list(correct).count(False)
    distance = {
        at: abs(sum(sure < at for sure in confidence) - wrong) for at in [*confidence, math.inf]
    }
    return min(at for at in distance if distance[at] == min(distance.values()))


@given(drawn=images)
@settings(max_examples=150, deadline=None)
def test_the_threshold_equals_its_definition(drawn):
    confidence, correct = columns(drawn)
    expected = slow_threshold(confidence.tolist(), correct.tolist())
    assert selective.atc_threshold(confidence, correct) == expected


@given(drawn=images, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_repetition_moves_the_threshold(drawn, seed):
    confidence, correct = columns(drawn)
    order = np.random.default_rng(seed).permutation(len(confidence))
    threshold = selective.atc_threshold(confidence, correct)
    assert selective.atc_threshold(confidence[order], correct[order]) == threshold
    assert selective.atc_threshold(np.tile(confidence, 3), np.tile(correct, 3)) == threshold


@pytest.mark.parametrize("seed", range(20))
def test_without_ties_the_estimate_on_validation_images_is_their_accuracy(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 60))
    confidence, correct = generator.random(n), generator.random(n) < generator.random()
    threshold = selective.atc_threshold(confidence, correct)
    assert selective.atc_accuracy(confidence, threshold) == accuracy(correct)


@given(drawn=images)
@settings(max_examples=100, deadline=None)
def test_with_ties_it_is_off_by_at_most_half_of_them(drawn):
    confidence, correct = columns(drawn)
    threshold = selective.atc_threshold(confidence, correct)
    error = abs(selective.atc_accuracy(confidence, threshold) - accuracy(correct))
    most = max(np.unique(confidence, return_counts=True)[1])
    assert error <= most / 2 / len(confidence) + 1e-12
    if most == 1:
        assert error < 1e-12


def test_atc_at_the_edges():
    confidence = [0.6, 0.9, 0.7]
    assert selective.atc_threshold(confidence, [True] * 3) == 0.6
    assert selective.atc_threshold(confidence, [False] * 3) == math.inf
    assert selective.atc_threshold([0.5], [True]) == 0.5
    assert selective.atc_threshold([0.5], [False]) == math.inf
    # All are equal: the closer of all and none; all if both are equally close.
    assert selective.atc_threshold([1.0] * 4, [True, False, False, False]) == math.inf
    assert selective.atc_threshold([1.0] * 4, [True, True, False, False]) == 1
    assert selective.atc_accuracy([0.99, 1.0], math.inf) == 0
    assert selective.atc_accuracy([0.7, 0.6], 0.7) == 0.5


def test_which_images_are_wrong_does_not_matter_to_atc():
    confidence = [0.6, 0.9, 0.7, 0.8]
    assert {selective.atc_threshold(confidence, np.arange(4) != wrong) for wrong in range(4)} == {
        0.7
    }


@given(drawn=images)
@settings(max_examples=60, deadline=None)
def test_average_confidence_is_off_by_the_confidence_gap(drawn):
    confidence, correct = columns(drawn)
    average = selective.average_confidence(confidence)
    assert average == pytest.approx(sum(confidence.tolist()) / len(confidence), abs=1e-12)
    gap = confidence_gap(confidence, correct)
    assert average - accuracy(correct) == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize(
    "estimate", [selective.average_confidence, lambda c, w=None: selective.atc_accuracy(c, 0.5, w)]
)
def test_weights_are_repeated_images(estimate):
    generator = np.random.default_rng(0)
    confidence = generator.random(30).round(1)
    weights = generator.integers(0, 4, (5, 30))
    batch = estimate(confidence, weights)
    assert batch.shape == (5,)
    repeated = [estimate(np.repeat(confidence, row)) for row in weights]
    assert batch == pytest.approx(repeated, abs=1e-12)
    assert isinstance(estimate(confidence, weights[0]), float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selective.average_confidence([0.5, 1.5]), r"in \[0, 1\], found 1.5"),
        (lambda: selective.average_confidence([-0.5]), r"in \[0, 1\], found -0.5"),
        (lambda: selective.average_confidence([math.nan]), "confidence has 1"),
        (lambda: selective.average_confidence([]), "confidence is empty"),
        (lambda: selective.atc_threshold([0.5], [True, False]), r"correct \[2\]"),
        (lambda: selective.atc_threshold([math.nan], [True]), "confidence has 1"),
        (lambda: selective.atc_accuracy([0.5], math.nan), "threshold .*found nan"),
        (lambda: selective.atc_accuracy([], 0.5), "confidence is empty"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
