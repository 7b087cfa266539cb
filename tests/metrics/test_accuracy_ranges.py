"""Estimates of accuracy without labels: equal to their definitions, and ranges as they are told."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import accuracy_estimation as estimating
from fairweather.metrics import (
    average_confidence,
    confidence_gap,
    difference_of_confidences,
    seed_agreement,
)
from fairweather.metrics.accuracy_estimation import NO_SHIFT, PastErrors
from fairweather.metrics.two_sample import (
    Cloud,
    EnergyDistance,
    energy_distance,
    is_nearest,
    nearness_difference,
)
from tests.helpers.chance import FALSE_ALARM, distribution_p, mean_p, most

MANY = 1_000_000  # images, whose sample is so large that past errors alone make the range


def past(generator, shifts=5, levels=3, methods=4):
    """Errors that grow with a random distance."""
    cells = shifts * levels
    distance = generator.random(cells).round(2)  # with ties
    between, error = generator.random((2, cells, cells)) * 0.1
    return PastErrors(
        np.repeat(np.arange(shifts), levels),
        generator.normal(0.05, 0.1, (cells, methods)) * (1 + distance[:, None]),
        generator.uniform(0.2, 0.5, (cells, methods)),
        distance,
        generator.random(cells) * 0.1,
        between + between.T,
        (error + error.T) / 4,
    )


def slow_best(known, cells):
    """The method with the smallest mean over shifts of the mean absolute error."""
    means = []
    for method in range(known.errors.shape[1]):
        of_shifts = []
        for shift in sorted({known.shift[cell] for cell in cells}):
            own = [abs(known.errors[cell, method]) for cell in cells if known.shift[cell] == shift]
            of_shifts.append(sum(own) / len(own))
        means.append(sum(of_shifts) / len(of_shifts))
    return means.index(min(means))


def slow_range(known, cells, estimates, images, distance):
    """The range from some cells, as its docstring says it."""
    method = slow_best(known, cells)
    order = sorted(cells, key=lambda cell: known.distance[cell])
    near = [cell for cell in cells if known.distance[cell] <= 2 * distance]
    reach = 0
    while len({known.shift[cell] for cell in near}) < 3:
        farthest = known.distance[order[reach]]
        near = [cell for cell in cells if known.distance[cell] <= max(farthest, 2 * distance)]
        reach += 1
    high, low = 0.0, 0.0
    for cell in near:
        rest = [other for other in cells if known.shift[other] != known.shift[cell]]
        chosen = slow_best(known, rest)
        chance = 1.959963984540054 * known.spreads[cell, chosen] / images**0.5
        high = max(high, known.errors[cell, chosen] + chance)
        low = min(low, known.errors[cell, chosen] - chance)
    value, low, high = (min(max(estimates[method] - e, 0), 1) for e in (0, high, low))
    exact = scipy.stats.beta.ppf([0.025, 0.975], [value * images, value * images + 1],
                                 [(1 - value) * images + 1, (1 - value) * images])  # fmt: skip
    exact = np.where([value == 0, value == 1], [0, 1], exact)
    ends = value, min(low, exact[0]), max(high, exact[1])
    return method, *ends, len({known.shift[cell] for cell in near}), len(near)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("distance", [0.0, 0.2, 2.0])
def test_a_range_is_its_definition(seed, distance):
    generator = np.random.default_rng(seed)
    known, estimates = past(generator), generator.uniform(0.4, 0.9, 4)
    slow = slow_range(known, list(range(15)), estimates, 50, distance)
    assert known.range(estimates, 50, distance) == pytest.approx(slow, abs=1e-12)


@given(
    seed=st.integers(0, 10_000),
    images=st.integers(20, 10_000),
    distance=st.floats(0, 3),
    off=st.floats(-1, 1),
    one_sided=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_estimate_is_in_its_range(seed, images, distance, off, one_sided):
    """Whatever the past errors are, all too high or all too low too."""
    generator = np.random.default_rng(seed)
    known = past(generator)
    known.errors[:] += off
    accuracy = generator.random(15) if one_sided else None
    found = known.range(generator.uniform(-0.2, 1.2, 4), images, distance, accuracy)
    assert 0 <= found.low <= found.value <= 1
    assert found.holds(found.value)
    assert found.high is None if one_sided else found.value <= found.high <= 1


def test_the_range_of_unlike_images_reaches_down_to_the_worst_known_accuracy():
    """Counted by hand; of shifts that moved the answers at most twice as far."""
    known = alike([0.02, 0.05, 0.03, 0.0], distance=0.2)
    known.distance[3] = 0.9
    accuracy = np.array([0.7, 0.55, 0.6, 0.1])
    found = known.range([0.9], MANY, 0.2, accuracy)
    assert (found.low, found.high, found.value) == (0.55, None, 0.9)
    assert found.holds(0.95)
    assert not found.holds(0.5)
    assert not found.is_too_wide
    assert known.range([0.9], MANY, 0.5, accuracy).is_too_wide  # 0.1 counts too
    # Where the estimate less its largest error is lower, that is the end.
    assert known.range([0.58], MANY, 0.2, accuracy).low == pytest.approx(0.53)
    # All ranges that are made without their shift hold: 0.55 under the second is not below 0.6.
    truth = np.array([0.7, 0.55, 0.6, 0.65])
    estimates = truth[:, None] + known.errors
    images = np.full(4, MANY)
    assert known.held(estimates, truth, images, one_sided=True) == (3, 4, 0)


def alike(errors, spread=0.0, distance=0.2):
    """Cells of one shift each, all equally far, of one method."""
    count = len(errors)
    return PastErrors(
        np.arange(count), np.reshape(errors, (-1, 1)), np.full((count, 1), spread),
        np.full(count, distance), np.zeros(count), *np.zeros((2, count, count)),
    )  # fmt: skip


def held(known, truth=0.6, images=MANY):
    truth = np.full(len(known.shift), truth)
    return known.held(truth[:, None] + known.errors, truth, np.full(len(truth), images))


def test_ranges_hold_all_shifts_but_the_two_that_are_off_the_most():
    """Counted by hand: a range from the others holds an error that is between two of theirs."""
    errors = [0.03, -0.02, 0.1, 0.05, -0.06, 0.0]
    assert held(alike(errors)) == (4, 6, 0)
    # Chance of 1.96 * 40 / 1000 = 0.078 holds -0.06 beside -0.02, and 0.1 beside 0.05.
    assert held(alike(errors, spread=40.0)) == (6, 6, 0)


def test_ranges_that_are_not_told_are_refused():
    """Counted by hand."""
    wide = alike([0.4, -0.3, 0.1, 0.0])  # without 0.4 or -0.3, 0.4 wide; else 0.7
    assert held(wide) == (0, 2, 2)
    far = alike([-0.02, -0.01, 0.02, 0.03, 0.04])
    far.distance[0] = 0.5  # farther than half of the others, from them and from validation images
    far.between[0, 1:] = far.between[1:, 0] = 0.3
    assert held(far) == (2, 4, 1)  # not 0.04, nor -0.01: -0.02 is too far to count
    far.distance_error[0] = 0.16  # what is nearest, 0.3, has no error
    assert held(far).refused == 1
    far.between_error[0, 1:] = 0.06  # by chance, it may be as near as 0.18
    assert held(far) == (2, 5, 0)
    near = alike([-0.02, -0.01, 0.02, 0.03, 0.04])
    near.distance[0] = 0.5
    near.distance_error[1:] = 0.03  # 0.2 may be 0.2588, and 0.5 is at most twice as far
    assert held(near) == (3, 5, 0)


@pytest.mark.parametrize("seed", range(4))
def test_ranges_that_held_are_those_that_would_be_told(seed):
    """For each cell, what is said of such images by a run that never saw its shift."""
    known = past(np.random.default_rng([seed, 1]))
    truth = np.random.default_rng([seed, 2]).uniform(0.3, 0.9, 15)
    estimates, counts = truth[:, None] + known.errors, [0, 0, 0]
    for cell in range(15):
        keep = [each for each in range(15) if each // 3 != cell // 3]
        other = PastErrors(
            known.shift[keep], known.errors[keep], known.spreads[keep], known.distance[keep],
            known.distance_error[keep], known.between[keep][:, keep],
            known.between_error[keep][:, keep],
        )  # fmt: skip
        apart = [EnergyDistance(known.between[cell, k], known.between_error[cell, k]) for k in keep]
        around = EnergyDistance(known.distance[cell], known.distance_error[cell])
        told = other.judge(estimates[cell], 200, around, apart)
        if told is not None:
            farthest = around.value + 1.959963984540054 * around.error
            slow = slow_range(known, keep, estimates[cell], 200, farthest)
            assert told == pytest.approx(slow, abs=1e-12)
        if told is None or told.high - told.low > 0.5:
            counts[2] += 1
            continue
        counts[1] += 1
        counts[0] += told.low <= truth[cell] <= told.high
    assert known.held(estimates, truth, np.full(15, 200)) == tuple(counts)


def test_a_range_is_at_least_as_wide_as_that_of_the_sample():
    """Errors of 0 do not make an estimate from 100 images certain."""
    known = alike([0.0, 0.0, 0.0])
    found = known.range([1.0], 100, 0.2)
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 100)), 1)
    found = known.range([0.0], 100, 0.2)
    assert (found.low, found.high) == (0, pytest.approx(1 - 0.025 ** (1 / 100)))
    exact = scipy.stats.binomtest(90, 100).proportion_ci(method="exact")
    assert known.range([0.9], 100, 0.2)[2:4] == pytest.approx((exact.low, exact.high))
    assert known.range([0.9], 100, 0.2, np.ones(3))[2:4] == (pytest.approx(exact.low), None)


def test_clean_images_are_no_shift():
    errors = [0.2, 0.0, 0.01, 0.02]
    known = alike(errors)
    known.shift[0] = NO_SHIFT
    found = known.range([0.6], MANY, 0.2)
    assert (found.shifts, found.cells) == (3, 3)
    assert found.low == pytest.approx(0.4)  # their error counts
    assert known.mean_absolute() == pytest.approx(np.mean(errors))
    assert held(known).refused == 3  # each without two others
    with pytest.raises(InputError, match="3 shifts, found 2"):
        known.take(np.array([True, True, True, False])).range([0.6], 100, 0.2)
    five = alike([*errors, 0.03])
    five.shift[0] = NO_SHIFT
    assert sum(held(five)[1:]) == 4


def test_a_range_does_not_depend_on_the_order_of_cells_or_the_numbers_of_shifts():
    generator = np.random.default_rng(3)
    known, estimates = past(generator), generator.uniform(0.4, 0.9, 4)
    order = generator.permutation(15)
    moved = PastErrors(
        7 - known.shift[order], known.errors[order], known.spreads[order],
        known.distance[order], known.distance_error[order],
        known.between[np.ix_(order, order)], known.between_error[np.ix_(order, order)],
    )  # fmt: skip
    found, again = known.range(estimates, 50, 0.2), moved.range(estimates, 50, 0.2)
    assert again == pytest.approx(found, abs=1e-12)


def test_fewer_images_and_farther_ones_have_wider_ranges():
    generator = np.random.default_rng(4)
    known, estimates = past(generator), np.full(4, 0.6)

    def width(images, distance):
        found = known.range(estimates, images, distance)
        return found.high - found.low

    assert width(20, 0.1) > width(200, 0.1) > width(20000, 0.1)
    assert width(200, 0.0) <= width(200, 0.2) <= width(200, 1.0)


def test_the_worst_past_error_is_in_the_range():
    errors = np.array([[0.0], [0.1], [-0.05], [0.3]])
    known = alike(errors)
    known.distance[:] = [0.1, 0.1, 0.1, 0.9]
    near = known.range([0.6], MANY, 0.05)
    assert (near.low, near.high, near.shifts) == (pytest.approx(0.5), pytest.approx(0.65), 3)
    far = known.range([0.6], MANY, 0.5)
    assert (far.low, far.high, far.shifts) == (pytest.approx(0.3), pytest.approx(0.65), 4)
    assert known.range([1.2], MANY, 0.05).high == 1


def test_fewer_than_three_shifts_have_no_range():
    generator = np.random.default_rng(0)
    with pytest.raises(InputError, match="3 shifts, found 2"):
        past(generator, shifts=2).range(np.zeros(4), 100, 0.1)
    found = past(generator, shifts=3).held(np.zeros((9, 4)), np.zeros(9), np.full(9, 100))
    assert found == (0, 0, 9)


def test_images_like_nothing_known_are_known_to_be():
    known = past(np.random.default_rng(0))
    half = float(np.median(known.distance))
    assert known.is_unknown([EnergyDistance(half + 1e-9, 0), EnergyDistance(9, 0)])
    assert not known.is_unknown([EnergyDistance(9, 0), EnergyDistance(half, 0)])
    assert not known.is_unknown([EnergyDistance(half + 0.1, 0.06)])
    assert known.is_unknown([EnergyDistance(half + 0.1, 0.04)])


# ---- the methods


def test_the_difference_of_confidences_is_right_where_the_gap_is_the_same():
    generator = np.random.default_rng(0)
    confidence, correct = generator.uniform(0.3, 1, 50), generator.random(50) < 0.7
    own = difference_of_confidences(confidence, confidence, correct)
    assert own == pytest.approx(correct.mean(), abs=1e-12)
    other = generator.uniform(0.3, 1, 20)
    slow = average_confidence(other) - confidence_gap(confidence, correct)
    assert difference_of_confidences(other, confidence, correct) == pytest.approx(slow, abs=1e-12)


def test_weights_are_repeated_images():
    generator = np.random.default_rng(1)
    confidence, correct = generator.random(9), generator.random(9) < 0.5
    predicted, others = generator.integers(0, 3, 9), generator.integers(0, 3, (2, 9))
    weights = generator.integers(1, 4, (2, 9))
    found = difference_of_confidences(confidence, confidence, correct, weights)
    agreed = seed_agreement(predicted, others, weights)
    for row, difference, agreement in zip(weights, found, agreed, strict=True):
        repeated = np.repeat(confidence, row)
        slow = difference_of_confidences(repeated, confidence, correct)
        assert difference == pytest.approx(slow, abs=1e-12)
        each = np.repeat(predicted, row), np.repeat(others, row, axis=1)
        assert agreement == pytest.approx(seed_agreement(*each), abs=1e-12)


def test_agreement_is_counted():
    predicted, others = [0, 1, 2], [[0, 1, 1], [0, 0, 1]]
    assert seed_agreement(predicted, others) == (2 + 1 + 0) / 6
    assert seed_agreement(predicted, [predicted]) == 1
    assert estimating.agreement_shares(predicted, others).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seed_agreement([0, 1], np.zeros((0, 2))), r"at least one .*\[2\] and \[0, 2\]"),
        (lambda: seed_agreement([0, 1], [[0, 1, 1]]), r"\[1, 3\]"),
        (lambda: difference_of_confidences([0.5], [0.5], [True, False]), r"correct \[2\]"),
        (lambda: difference_of_confidences([1.5], [0.5], [True]), "found 1.5"),
        (lambda: difference_of_confidences([], [0.5], [True]), "empty"),
        (lambda: Cloud.from_rows(np.zeros((1, 3))), r"at least 2, found \[1, 3\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ---- how near


def test_the_energy_distance_is_its_definition():
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=(6, 3)), generator.normal(1, 1, (5, 3))

    def mean(one, other):
        apart = [[np.linalg.norm(a - b) for b in other] for a in one]
        same = one is other
        return np.sum(apart) / (len(one) * (len(other) - same))

    slow = 2 * mean(first, second) - mean(first, first) - mean(second, second)
    found = energy_distance(Cloud.from_rows(first), Cloud.from_rows(second))
    assert found.value == pytest.approx(slow, abs=1e-9)
    assert energy_distance(Cloud.from_rows(second), Cloud.from_rows(first)) == pytest.approx(
        found, abs=1e-9
    )


def test_the_energy_distance_of_one_distribution_is_0_on_average():
    found = []
    for trial in range(200):
        rows = np.random.default_rng(trial).normal(size=(40, 2))
        found.append(energy_distance(Cloud.from_rows(rows[:25]), Cloud.from_rows(rows[25:])).value)
    assert mean_p(found, 0) > FALSE_ALARM


def test_the_error_of_how_much_nearer_is_its_standard_error():
    """Of two sets that are equally near, the difference in its errors is normal."""
    scaled = []
    for trial in range(300):
        generator = np.random.default_rng([trial, 3])
        batch = Cloud.from_rows(generator.normal(0, 1, (150, 2)))
        either = [Cloud.from_rows(generator.normal([side, 0], 1, (150, 2))) for side in (-1, 1)]
        ahead = nearness_difference(batch, *either)
        scaled.append(ahead.value / ahead.error)
    assert distribution_p(scaled, "norm") > FALSE_ALARM


def test_how_much_nearer_is_the_difference_of_both_distances():
    generator = np.random.default_rng(6)
    batch, first, second = (Cloud.from_rows(generator.normal(k, 1, (30 + k, 2))) for k in range(3))
    slow = energy_distance(batch, second).value - energy_distance(batch, first).value
    assert nearness_difference(batch, first, second).value == pytest.approx(slow, abs=1e-9)


def test_what_is_as_near_as_others_is_not_called_nearest():
    trials, called = 200, 0
    for trial in range(trials):
        generator = np.random.default_rng([trial, 4])
        sets = [Cloud.from_rows(generator.normal(0, 1, (60, 1))) for _ in range(4)]
        values = [energy_distance(sets[0], each).value for each in sets[1:]]
        first = 1 + int(np.argmin(values))
        others = [each for place, each in enumerate(sets[1:], 1) if place != first]
        called += is_nearest(sets[0], sets[first], others, 3)
    assert called <= most(trials, 0.05)
