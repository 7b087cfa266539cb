"""Class-wise, adaptive and debiased calibration errors, and the parts of the Brier score."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics.calibration import (
    BrierDecomposition,
    adaptive_rms_calibration_error,
    brier_decomposition,
    classwise_calibration_error,
    debiased_calibration_error,
    rms_calibration_error,
)
from tests.helpers import reference
from tests.helpers.chance import FALSE_ALARM, deviations, fewest, mean_p, most

BINNINGS = ["equal-width", "equal-mass"]
CLASSES = 3


def part_case(k, bins, binning):
    def evaluate(c, w=None):
        parts = brier_decomposition(c["confidence"], c["correct"], w, bins=bins, binning=binning)
        return parts[k]

    return evaluate, lambda c: reference.brier_parts(c["confidence"], c["correct"], bins, binning)[
        k
    ]


def debiased_case(bins, binning):
    def evaluate(c, w=None):
        return debiased_calibration_error(
            c["confidence"], c["correct"], w, bins=bins, binning=binning
        )

    # The square root is steep at 0, so the squares are compared.
    return (
        lambda c, w=None: signed_square(evaluate(c, w)),
        lambda c: signed_square(
            reference.debiased_calibration_error(c["confidence"], c["correct"], bins, binning)
        ),
    )


def adaptive_case(per_bin):
    def evaluate(c, w=None):
        value = adaptive_rms_calibration_error(c["confidence"], c["correct"], w, per_bin=per_bin)
        return np.square(value)

    return (
        evaluate,
        lambda c: (
            reference.adaptive_rms_calibration_error(c["confidence"], c["correct"], per_bin) ** 2
        ),
    )


def classwise_case(bins):
    def evaluate(c, w=None):
        return classwise_calibration_error(c["probabilities"], c["labels"], w, bins=bins)

    return evaluate, lambda c: reference.classwise_calibration_error(
        c["probabilities"], c["labels"], bins
    )


def signed_square(value):
    return np.sign(value) * np.square(value)


# Each metric and its slow reference.
CASES = (
    {f"classwise/{bins}": classwise_case(bins) for bins in (1, 3, 10)}
    | {f"adaptive/{per_bin}": adaptive_case(per_bin) for per_bin in (1, 2, 5, 100)}
    | {
        f"debiased/{bins}-{binning}": debiased_case(bins, binning)
        for bins in (1, 3, 10)
        for binning in BINNINGS
    }
    | {
        f"{part}/3-{binning}": part_case(k, 3, binning)
        for k, part in enumerate(BrierDecomposition._fields)
        for binning in BINNINGS
    }
)

# Tenths give ties, bin edges, 0 and 1; the other numbers are in between.
shares = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))


@st.composite
def columns_and_weights(draw):
    n = draw(st.integers(1, 25))

    def column(values):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    first, second = column(shares), column(shares)
    columns = {
        "confidence": column(shares),
        "correct": column(st.booleans()),
        "labels": column(st.integers(0, CLASSES - 1)),
        "probabilities": np.stack(
            [first, (1 - first) * second, (1 - first) * (1 - second)], axis=1
        ),
    }
    weights = np.stack([column(st.integers(0, 3)) for _ in range(3)])
    weights[:, draw(st.integers(0, n - 1))] += 1
    return columns, weights


# Drawing images takes longer than all metrics of them, so that each draw is for all.
@given(data=columns_and_weights(), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_formula_weights_and_order(data, seed):
    columns, weights = data
    listed = {key: column.tolist() for key, column in columns.items()}
    order = np.random.default_rng(seed).permutation(len(columns["labels"]))
    moved = {key: column[order] for key, column in columns.items()}
    repeated = [
        {key: np.repeat(column, row, axis=0) for key, column in columns.items()} for row in weights
    ]
    for name, (metric, slow) in CASES.items():
        value = metric(columns)
        assert value == pytest.approx(slow(listed), abs=1e-12), name
        assert metric(moved) == pytest.approx(value, abs=1e-12), name
        batch = metric(columns, weights)
        assert batch.shape == (len(weights),), name
        assert [metric(each) for each in repeated] == pytest.approx(batch, abs=1e-12), name
        assert [metric(columns, row) for row in weights] == pytest.approx(batch, abs=1e-12), name


def simulated(n, seed, power=1.0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.3, 1, size=n)
    return confidence, generator.random(n) < confidence**power


# Class-wise.


def test_classwise_does_not_depend_on_the_order_of_classes():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([0.5] * 5, size=200)
    labels, renamed = generator.integers(5, size=200), np.array([3, 0, 4, 1, 2])
    moved = np.empty_like(probabilities)
    moved[:, renamed] = probabilities
    assert classwise_calibration_error(moved, renamed[labels]) == pytest.approx(
        classwise_calibration_error(probabilities, labels), abs=1e-12
    )


def test_classwise_counts_classes_that_no_image_has():
    with_empty = [[0.75, 0.25, 0.0], [0.75, 0.25, 0.0]]
    assert classwise_calibration_error(with_empty, [0, 1]) == pytest.approx(0.25 * 2 / 3)
    assert classwise_calibration_error([[0.5, 0.3, 0.2]], [0]) == pytest.approx(1 / 3)


def test_classwise_of_two_classes_sees_both_sides_alike():
    # Without values at bin edges, the second class has the first's bins and gaps in reverse order.
    confidence, correct = simulated(300, seed=1)
    pairs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(correct, 0, 1)
    assert classwise_calibration_error(pairs, labels) == pytest.approx(
        reference.expected_calibration_error(confidence, correct), abs=1e-12
    )


@pytest.mark.parametrize("k", range(11))
def test_classwise_bins_exclude_the_lower_edge_and_include_the_upper(k):
    # One image is at an edge, the other in the bin below. In one bin, their errors would cancel.
    edge, below = k / 10, max(k - 1, 0) / 10 + 0.05
    probabilities = [[edge, 1 - edge], [below, 1 - below]]
    expected = reference.classwise_calibration_error(probabilities, [0, 1])
    assert classwise_calibration_error(probabilities, [0, 1]) == pytest.approx(expected, abs=1e-12)
    one_class = abs((edge + below) - 1) / 2
    assert expected >= one_class / 2 - 1e-12


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], 0.0),
        ([[1.0, 0.0], [0.0, 1.0]], [1, 0], 1.0),
        ([[1.0]], [0], 0.0),
        ([[0.25, 0.75]], [1], 0.25),
    ],
)
def test_classwise_at_the_edges(probabilities, labels, expected):
    assert classwise_calibration_error(probabilities, labels) == expected


# Adaptive.


def published_calib_err(confidence, correct, per_bin=100):
    """As the published code: its cuts, and its loop that leaves out the last bin."""
    order = np.argsort(confidence)
    sure, right = confidence[order], correct[order]
    n, count = len(sure), len(sure) // per_bin
    total = 0.0
    for k in range(count - 1):
        part = slice(k * per_bin, (k + 1) * per_bin)
        total += per_bin / n * (sure[part].mean() - right[part].mean()) ** 2
    last = slice((count - 1) * per_bin, n)
    rest = (n - last.start) / n * (sure[last].mean() - right[last].mean()) ** 2
    return math.sqrt(total), math.sqrt(total + rest)


@pytest.mark.parametrize("n", [100, 199, 200, 250, 1000, 7180])
def test_the_published_code_leaves_out_the_share_of_its_last_bin(n):
    # Every second image is right and every confidence is about 0.9, so all bins have the same gap.
    # The published value lacks the share of the last bin: everything below 200 images, 29 % at 200.
    confidence, correct = np.linspace(0.899, 0.901, n), np.arange(n) % 2 == 0
    value = adaptive_rms_calibration_error(confidence, correct)
    assert value == pytest.approx(0.4, abs=0.01)
    published, mended = published_calib_err(confidence, correct)
    assert value == pytest.approx(mended, abs=1e-12)
    left_out = (n - 100 * (n // 100 - 1)) / n
    assert published / value == pytest.approx(math.sqrt(1 - left_out), abs=0.005)


@pytest.mark.parametrize("n", [100, 357, 2000])
def test_adaptive_equals_the_published_code_with_its_loop_mended(n):
    confidence, correct = simulated(n, seed=2, power=3.0)
    published, mended = published_calib_err(confidence, correct)
    assert adaptive_rms_calibration_error(confidence, correct) == pytest.approx(mended, abs=1e-12)
    assert published < mended


def test_the_last_bin_takes_the_rest():
    # 250 images: one bin of 100 with gap 0, one of 150 with gap 0.9 - 0.3.
    confidence = np.repeat([0.5, 0.9], [100, 150])
    correct = np.concatenate([np.arange(100) < 50, np.arange(150) < 45])
    value = adaptive_rms_calibration_error(confidence, correct)
    assert value == pytest.approx(math.sqrt(150 / 250 * 0.6**2))


@pytest.mark.parametrize("n", [1, 2, 99, 100, 199])
def test_fewer_than_two_hundred_images_are_one_bin(n):
    confidence, correct = simulated(n, seed=3)
    expected = abs(confidence.mean() - correct.mean())
    assert adaptive_rms_calibration_error(confidence, correct) == pytest.approx(expected)


def test_images_of_equal_confidence_share_their_accuracy_across_a_cut():
    # Whichever 100 of these come first, 60 % of both bins are right.
    correct = np.arange(200) < 120
    for order in (slice(None), slice(None, None, -1)):
        value = adaptive_rms_calibration_error(np.full(200, 0.6), correct[order])
        assert value == pytest.approx(0, abs=1e-12)


def test_rows_of_weights_may_count_different_numbers_of_images():
    confidence, correct = simulated(30, seed=4)
    weights = np.array([np.full(30, 1), np.full(30, 20), np.arange(30), np.eye(30)[3]])
    batch = adaptive_rms_calibration_error(confidence, correct, weights)
    for row, value in zip(weights.astype(int), batch, strict=True):
        repeated = np.repeat(confidence, row), np.repeat(correct, row)
        assert adaptive_rms_calibration_error(*repeated) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_bins_of_as_many_images_as_equal_mass_bins_agree_with_them(folds):
    confidence, correct = simulated(100 * folds, seed=5)
    expected = rms_calibration_error(confidence, correct, bins=folds, binning="equal-mass")
    assert adaptive_rms_calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1000, 8000])
def test_the_noise_of_a_hundred_images_stays_however_many_there_are(n):
    # The docstring's size of the bias: sqrt(mean p(1-p) / 100).
    values = [adaptive_rms_calibration_error(*simulated(n, seed)) for seed in range(40)]
    p = np.linspace(0.3, 1, 10001)
    assert mean_p(np.square(values), np.mean(p * (1 - p)) / 100) > FALSE_ALARM


# Debiased.


def trials(n, gap, count):
    """Values on many data sets whose confidence is `gap` above the probability of being right."""
    for seed in range(count):
        generator = np.random.default_rng(seed)
        confidence = generator.uniform(0.3 + gap, 1, size=n)
        yield confidence, generator.random(n) < confidence - gap


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("n", [500, 2000])
def test_a_calibrated_model_scores_near_zero(n, binning):
    plain, debiased = np.transpose(
        [
            (
                rms_calibration_error(*columns, binning=binning),
                debiased_calibration_error(*columns, binning=binning),
            )
            for columns in trials(n, gap=0.0, count=400)
        ]
    )
    assert mean_p(signed_square(debiased), 0) > FALSE_ALARM
    # Farther from the truth than the debiased error, by more than the errors of both means.
    far = deviations() * (plain.std() + debiased.std()) / math.sqrt(400)
    assert abs(debiased.mean()) + far < plain.mean()
    # A sum of chi-squares is below its mean in more than half of all cases, and at most as often
    # as a chi-square with a single degree of freedom.
    below = (debiased < 0).sum()
    assert fewest(400, 0.5) <= below <= most(400, scipy.stats.chi2.cdf(1, 1))


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("n", [500, 2000])
def test_a_true_gap_is_found_without_bias(n, binning):
    plain, debiased = np.transpose(
        [
            (
                rms_calibration_error(*columns, binning=binning) ** 2,
                signed_square(debiased_calibration_error(*columns, binning=binning)),
            )
            for columns in trials(n, gap=0.05, count=400)
        ]
    )
    assert mean_p(debiased, 0.05**2) > FALSE_ALARM
    assert plain.mean() - 0.05**2 > deviations() * plain.std() / math.sqrt(400)


def test_the_noise_taken_off_vanishes_with_n():
    confidence, correct = simulated(500, seed=6, power=2.0)
    plain = rms_calibration_error(confidence, correct)
    values = [
        debiased_calibration_error(confidence, correct, np.full(500, k)) for k in (1, 10, 1000)
    ]
    assert values[0] < values[1] < values[2] < plain
    assert values[2] == pytest.approx(plain, rel=1e-3)


def test_bins_of_one_image_count_as_zero():
    # One image far off in the first bin; 0.75 of four images right in another.
    confidence, correct = [0.05, 0.95, 0.95, 0.95, 0.95], [True, True, True, True, False]
    squares = 4 / 5 * (0.2**2 - 0.75 * 0.25 / 3)
    expected = math.copysign(math.sqrt(abs(squares)), squares)
    assert debiased_calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([0.5], [True], 0.0),  # one image has no variance
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [False, False], 1.0),
        ([0.0, 0.0], [True, True], 1.0),
        ([0.5, 0.5], [True, False], -0.5),  # the lower bound
        ([0.1, 0.3, 0.5], [True, False, True], 0.0),  # every image in a bin of its own
    ],
)
def test_debiased_at_the_edges(confidence, correct, expected):
    assert debiased_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-12)


@given(data=columns_and_weights())
@settings(max_examples=50, deadline=None)
def test_debiased_stays_in_its_bounds_and_below_the_plain_error(data):
    columns, weights = data
    values = debiased_calibration_error(columns["confidence"], columns["correct"], weights)
    plain = rms_calibration_error(columns["confidence"], columns["correct"], weights)
    assert (values >= -0.5 - 1e-12).all()
    assert (values <= plain + 1e-9).all()


# Decomposition.


@given(data=columns_and_weights())
@settings(max_examples=50, deadline=None)
def test_the_parts_add_up_to_the_brier_score(data):
    columns, weights = data
    sure, right = columns["confidence"], columns["correct"]
    brier = np.mean((sure - right) ** 2)
    expected = weights @ np.square(sure - right) / weights.sum(axis=1)
    bounds = (0, 0, 0, 0, -0.5), (1, 0.25, 0.25, 0.25, 0.5)
    for bins, binning in product([1, 2, 10, 40], BINNINGS):
        parts = brier_decomposition(sure, right, bins=bins, binning=binning)
        assert parts.score == pytest.approx(brier, abs=1e-12)
        added = parts.reliability - parts.resolution + parts.uncertainty
        assert added + parts.remainder == pytest.approx(brier, abs=1e-12)
        batch = brier_decomposition(sure, right, weights, bins=bins, binning=binning)
        np.testing.assert_allclose(batch.score, expected, atol=1e-12)
        for value, low, high in zip(batch, *bounds, strict=True):
            assert ((value >= low - 1e-12) & (value <= high + 1e-12)).all()


@given(data=columns_and_weights())
@settings(max_examples=30, deadline=None)
def test_reliability_is_the_squared_rms_error(data):
    columns, weights = data
    parts = brier_decomposition(columns["confidence"], columns["correct"], weights)
    error = rms_calibration_error(columns["confidence"], columns["correct"], weights)
    np.testing.assert_allclose(parts.reliability, np.square(error), atol=1e-12)


def test_nothing_remains_where_a_bin_holds_one_confidence():
    # Murphy's own case: the forecast probabilities are the bins.
    confidence = np.tile([0.15, 0.55, 0.85], 40)
    correct = np.random.default_rng(7).random(120) < confidence
    parts = brier_decomposition(confidence, correct)
    assert parts.within_bin_variance == pytest.approx(0, abs=1e-12)
    assert parts.within_bin_covariance == pytest.approx(0, abs=1e-12)
    assert parts.resolution > 0.03


def test_confidence_that_tells_all_has_all_of_the_resolution():
    parts = brier_decomposition([1.0, 1.0, 1.0, 0.0], [True, True, True, False])
    assert parts == (0.0, 0.1875, 0.1875, 0.0, 0.0)
    assert parts.score == 0.0


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([0.75], [True], (0.0625, 0.0, 0.0, 0.0, 0.0)),
        ([1.0, 1.0], [True, True], (0.0, 0.0, 0.0, 0.0, 0.0)),
        ([1.0, 1.0], [False, False], (1.0, 0.0, 0.0, 0.0, 0.0)),
        ([0.0], [True], (1.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
@pytest.mark.parametrize("binning", BINNINGS)
def test_decomposition_at_the_edges(binning, confidence, correct, expected):
    assert brier_decomposition(confidence, correct, binning=binning) == expected


# Input.

PAIR = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classwise_calibration_error([], []), "labels is empty"),
        (lambda: classwise_calibration_error([0.5], [0]), r"\[1, classes\], found \[1\]"),
        (lambda: classwise_calibration_error(PAIR * 2, [0]), r"\[1, classes\], found \[2, 2\]"),
        (lambda: classwise_calibration_error([[]], [0]), r"\[1, classes\], found \[1, 0\]"),
        (lambda: classwise_calibration_error([[1.5, -0.5]], [0]), r"in \[0, 1\], found 1.5"),
        (lambda: classwise_calibration_error([[math.nan, 1]], [0]), r"in \[0, 1\], found nan"),
        (
            lambda: classwise_calibration_error([[0.5, 0.5], [0.9, 0.8]], [0, 0]),
            "found 1.7 for image 1",
        ),
        (lambda: classwise_calibration_error(PAIR, [2]), "2 classes"),
        (lambda: classwise_calibration_error(PAIR, [-1]), "2 classes"),
        (lambda: classwise_calibration_error(PAIR, [0.0]), r"int \[1\], found float64"),
        (lambda: classwise_calibration_error(PAIR, [0], bins=0), "bins .*at least 1, found 0"),
        (lambda: classwise_calibration_error(PAIR, [0], [1, 2]), r"\[1\] or \[B, 1\]"),
        (lambda: adaptive_rms_calibration_error([0.5], [True], per_bin=0), "per_bin .* found 0"),
        (lambda: adaptive_rms_calibration_error([1.1], [True]), r"in \[0, 1\], found 1.1"),
        (lambda: adaptive_rms_calibration_error([0.5], [True, False]), r"correct \[2\]"),
        (lambda: adaptive_rms_calibration_error([0.5], [True], [-1]), "weights .*not negative"),
        (lambda: debiased_calibration_error([], []), "confidence is empty"),
        (lambda: debiased_calibration_error([0.5], [True], bins=0), "bins .*at least 1, found 0"),
        (
            lambda: debiased_calibration_error([0.5], [True], binning="equal-widht"),
            "did you mean 'equal-width'",
        ),
        (lambda: brier_decomposition([math.nan], [True]), r"in \[0, 1\], found nan"),
        (lambda: brier_decomposition([0.5], [True], bins=-1), "at least 1, found -1"),
        (lambda: brier_decomposition([0.5], [True], binning="x"), "'x'.*equal-mass, equal-width"),
        (lambda: brier_decomposition([0.5], [True], [0]), "weights"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
