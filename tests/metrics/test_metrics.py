"""Metrics: equal to their definitions, to other libraries, and to themselves on repeated images."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from fairweather import metrics
from fairweather.errors import InputError
from tests.helpers import reference

BINNINGS = ["equal-width", "equal-mass"]
ERRORS = ["expected_calibration_error", "maximum_calibration_error", "rms_calibration_error"]
BINS = (3, 10)
CLASSES = 4


def calibration_case(name, bins, binning):
    def evaluate(columns, weights=None):
        error = getattr(metrics, name)
        return error(columns["confidence"], columns["correct"], weights, bins=bins, binning=binning)

    return evaluate


METRICS = {
    "accuracy": lambda c, w=None: metrics.accuracy(c["correct"], w),
    "top5_accuracy": lambda c, w=None: metrics.top5_accuracy(c["correct"], w),
    "balanced_accuracy": lambda c, w=None: metrics.balanced_accuracy(c["correct"], c["labels"], w),
    "macro_auc": lambda c, w=None: metrics.macro_auc(c["probabilities"], c["labels"], w),
    "mean_absolute_error": lambda c, w=None: metrics.mean_absolute_error(
        c["predicted"], c["labels"], w
    ),
    "off_by_two": lambda c, w=None: metrics.off_by_two(c["predicted"], c["labels"], w),
    "ranked_probability_score": lambda c, w=None: metrics.ranked_probability_score(
        c["distributions"], c["labels"], w
    ),
    "cumulative_calibration_error": lambda c, w=None: metrics.cumulative_calibration_error(
        c["distributions"], c["labels"], w
    ),
    "negative_log_likelihood": lambda c, w=None: metrics.negative_log_likelihood(c["nll"], w),
    "brier_score": lambda c, w=None: metrics.brier_score(c["nll"], w),
    "confidence_gap": lambda c, w=None: metrics.confidence_gap(c["confidence"], c["correct"], w),
} | {
    f"{name}/{bins}-{binning}": calibration_case(name, bins, binning)
    for name in ERRORS
    for binning in BINNINGS
    for bins in BINS
}

# Tenths give ties, bin edges, 0 and 1; the other numbers are in between.
shares = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))


DISTRIBUTIONS = [
    tuple(k / 5 for k in row)
    for row in itertools.product(range(6), repeat=CLASSES)
    if sum(row) == 5
] + [(0.13, 0.29, 0.41, 0.17)]


@st.composite
def columns_and_weights(draw):
    n = draw(st.integers(1, 25))

    def column(values):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    columns = {
        "confidence": column(shares),
        "correct": column(st.booleans()),
        "labels": column(st.integers(0, CLASSES - 1)),
        "predicted": column(st.integers(0, CLASSES - 1)),
        # Rows of fifths that add up to 1 give bin edges and certain answers.
        "distributions": column(st.sampled_from(DISTRIBUTIONS)),
        "probabilities": column(st.tuples(*[shares] * CLASSES)),
        "nll": column(st.floats(0, 50)),
    }
    weights = np.stack([column(st.integers(0, 3)) for _ in range(3)])
    weights[:, draw(st.integers(0, n - 1))] += 1
    return columns, weights


def simulated(n=500, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(0.1, 0.999, size=n)
    return confidence, generator.random(n) < confidence**1.5


# Drawing images takes longer than all metrics of them, so that each draw is for all.
@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_weights_are_repeated_images(data):
    columns, weights = data
    repeated = [
        {key: np.repeat(column, row, axis=0) for key, column in columns.items()} for row in weights
    ]
    for name, metric in METRICS.items():
        batch = metric(columns, weights)
        assert batch.shape == (len(weights),), name
        expected = [metric(each) for each in repeated]
        assert batch == pytest.approx(expected, abs=1e-9, nan_ok=True), name
        alone = [metric(columns, row) for row in weights]
        assert alone == pytest.approx(batch, abs=1e-12, nan_ok=True), name


@given(data=columns_and_weights(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_order_of_images_does_not_matter(data, seed):
    columns, _ = data
    order = np.random.default_rng(seed).permutation(len(columns["labels"]))
    moved = {key: column[order] for key, column in columns.items()}
    for name, metric in METRICS.items():
        assert metric(moved) == pytest.approx(metric(columns), abs=1e-12, nan_ok=True), name


@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_metrics_equal_their_definitions(data):
    c = {key: column.tolist() for key, column in data[0].items()}
    n = len(c["labels"])
    expected = {
        "accuracy": sum(c["correct"]) / n,
        "top5_accuracy": sum(c["correct"]) / n,
        "balanced_accuracy": reference.balanced_accuracy(c["correct"], c["labels"]),
        "macro_auc": reference.macro_auc(c["probabilities"], c["labels"]),
        "mean_absolute_error": reference.mean_absolute_error(c["predicted"], c["labels"]),
        "off_by_two": reference.off_by_two(c["predicted"], c["labels"]),
        "ranked_probability_score": reference.ranked_probability_score(
            c["distributions"], c["labels"]
        ),
        "cumulative_calibration_error": reference.cumulative_calibration_error(
            c["distributions"], c["labels"]
        ),
        "negative_log_likelihood": sum(c["nll"]) / n,
        "brier_score": sum(c["nll"]) / n,
        "confidence_gap": (sum(c["confidence"]) - sum(c["correct"])) / n,
    } | {
        f"{name}/{bins}-{binning}": getattr(reference, name)(
            c["confidence"], c["correct"], bins, binning
        )
        for name in ERRORS
        for binning in BINNINGS
        for bins in BINS
    }
    assert expected.keys() == METRICS.keys()
    for name, metric in METRICS.items():
        assert metric(data[0]) == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize(("name", "norm"), [*zip(ERRORS, ["l1", "max", "l2"], strict=True)])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_errors_equal_torchmetrics(name, norm, bins):
    confidence, correct = simulated()
    # Two classes; the first is predicted if its probability is larger.
    confidence = np.maximum(confidence, 1 - confidence)
    preds = torch.from_numpy(np.stack([confidence, 1 - confidence], axis=1))
    target = torch.from_numpy(np.where(correct, 0, 1))
    expected = multiclass_calibration_error(preds, target, num_classes=2, n_bins=bins, norm=norm)
    value = getattr(metrics, name)(confidence, correct, bins=bins)
    assert value == pytest.approx(float(expected), abs=1e-6)


def test_metrics_equal_scikit_learn():
    generator = np.random.default_rng(3)
    labels = generator.integers(CLASSES, size=400)
    logits = generator.normal(size=(400, CLASSES)).round(1) + 2 * np.eye(CLASSES)[labels]
    columns, probabilities = metrics.per_image(logits, labels), metrics.softmax(logits)
    assert metrics.macro_auc(probabilities, labels) == pytest.approx(
        sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert metrics.balanced_accuracy(columns.predicted == labels, labels) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, columns.predicted)
    )
    assert metrics.negative_log_likelihood(columns.nll) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities)
    )
    assert metrics.mean_absolute_error(columns.predicted, labels) == pytest.approx(
        sklearn.metrics.mean_absolute_error(labels, columns.predicted)
    )


@pytest.mark.parametrize("k", range(11))
def test_a_bin_includes_its_upper_edge(k):
    diagram = metrics.reliability_bins([k / 10], [True])
    assert diagram.images.argmax() == max(k - 1, 0)


@pytest.mark.parametrize("k", range(1, 10))
def test_a_bin_excludes_its_lower_edge(k):
    diagram = metrics.reliability_bins([np.nextafter(k / 10, 1)], [True])
    assert diagram.images.argmax() == k


@pytest.mark.parametrize("bins", [3, 10, 15, 49, 98])
def test_edges_are_exact_for_any_number_of_bins(bins):
    # 98 and 49 are where (k / bins) * bins is not k in float64.
    diagram = metrics.reliability_bins(np.arange(1, bins + 1) / bins, [True] * bins, bins=bins)
    assert (diagram.images == 1).all()


def test_confidence_of_exactly_one_is_in_the_last_bin():
    # Half of these have confidence 1: torchmetrics puts them into a separate bin (its issue 3510).
    confidence, correct = [1.0, 1.0, 0.95, 0.95], [True, False, False, False]
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.725)
    assert metrics.rms_calibration_error(confidence, correct) == pytest.approx(0.725)


@pytest.mark.parametrize("binning", BINNINGS)
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [False, False], 1.0),
        ([0.0, 0.0], [False, False], 0.0),
        ([0.0], [True], 1.0),
        ([0.25], [False], 0.25),
        ([0.75] * 4, [False, True, True, True], 0.0),
    ],
)
def test_calibration_errors_at_the_edges(name, binning, confidence, correct, expected):
    assert getattr(metrics, name)(confidence, correct, binning=binning) == expected


def test_equal_mass_bins_are_cut_as_by_array_split():
    confidence, correct = simulated(n=47)
    diagram = metrics.reliability_bins(confidence, correct, binning="equal-mass")
    order = np.argsort(confidence)
    parts = np.array_split(order, 10)
    assert diagram.images.tolist() == [len(part) for part in parts]
    np.testing.assert_allclose(diagram.lower, [confidence[part].min() for part in parts])
    np.testing.assert_allclose(diagram.upper, [confidence[part].max() for part in parts])
    np.testing.assert_allclose(diagram.accuracy, [correct[part].mean() for part in parts])


@pytest.mark.parametrize("binning", BINNINGS)
def test_reliability_bins_say_what_the_error_is(binning):
    confidence, correct = simulated()
    diagram = metrics.reliability_bins(confidence, correct, bins=7, binning=binning)
    gap = np.abs(diagram.accuracy - diagram.confidence)
    error = metrics.expected_calibration_error(confidence, correct, bins=7, binning=binning)
    assert np.average(gap, weights=diagram.images) == pytest.approx(error)
    assert (diagram.lower[1:] >= diagram.upper[:-1]).all()
    assert (diagram.accuracy_low < diagram.accuracy).all()
    assert (diagram.accuracy < diagram.accuracy_high).all()


@pytest.mark.parametrize("binning", BINNINGS)
def test_empty_bins_have_no_means(binning):
    diagram = metrics.reliability_bins([0.95, 0.95], [True, False], binning=binning)
    empty = diagram.images == 0
    assert empty.sum() == (9 if binning == "equal-width" else 8)
    assert np.isnan(diagram.accuracy[empty]).all()
    assert np.isnan(diagram.accuracy_low[empty]).all()


def test_the_interval_of_a_bin_is_the_published_one():
    # Newcombe 1998, table I, method 5 (Clopper and Pearson's): 81 of 263, 15 of 148, 0 of 20, 1 of
    # 29; and three of three, for which (1/2 - 0.95/2)^(1/3) is known.
    for right, n, low, high in [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (3, 3, 0.2924, 1),
    ]:
        diagram = metrics.reliability_bins([0.5] * n, [k < right for k in range(n)], bins=1)
        assert diagram.accuracy_low[0] == pytest.approx(low, abs=5e-5)
        assert diagram.accuracy_high[0] == pytest.approx(high, abs=5e-5)


def test_wilson_interval_is_the_published_one():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    shares, counts = np.array([81 / 263, 15 / 148, 0, 1 / 29]), np.array([263, 148, 20, 29])
    low, high = metrics.wilson_interval(shares, counts)
    assert low == pytest.approx([0.2553, 0.0624, 0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


@pytest.mark.parametrize("name", METRICS)
def test_one_image_is_enough(name):
    columns = {
        "confidence": [0.5],
        "correct": [True],
        "labels": [1],
        "probabilities": [[0.5, 0.5]],
        "nll": [0.5],
        "predicted": [0],
        "distributions": [[0.5, 0.5]],
    }
    value = METRICS[name](columns)
    assert isinstance(value, float)
    assert math.isnan(value) == (name == "macro_auc")


@given(data=columns_and_weights())
@settings(max_examples=60, deadline=None)
def test_a_scale_of_grades_has_two_ends(data):
    """Turned around, each metric of grades is the same."""
    c = data[0]
    turned = c | {
        "labels": CLASSES - 1 - c["labels"],
        "predicted": CLASSES - 1 - c["predicted"],
        "distributions": c["distributions"][:, ::-1],
    }
    for name in ("mean_absolute_error", "off_by_two", "ranked_probability_score"):
        assert METRICS[name](turned) == pytest.approx(METRICS[name](c), abs=1e-12), name
    # Each edge of a bin belongs to the bin below it, and turned around to the other one.
    inside = c | {"distributions": np.tile([(0.13, 0.29, 0.41, 0.17)], (len(c["labels"]), 1))}
    other = turned | {"distributions": inside["distributions"][:, ::-1]}
    name = "cumulative_calibration_error"
    assert METRICS[name](other) == pytest.approx(METRICS[name](inside), abs=1e-12)


def test_a_ranked_probability_score_knows_how_far_off_an_answer_is():
    certain, labels = np.eye(4), [0, 0, 0, 0]
    scores = [metrics.ranked_probability_score(certain[[k]], labels[:1]) for k in range(4)]
    assert scores == [0, 1 / 3, 2 / 3, 1]
    two = np.array([[0.3, 0.7], [0.6, 0.4]])
    brier = metrics.brier_score(metrics.per_image(np.log(two), [0, 1]).brier)
    assert metrics.ranked_probability_score(two, [0, 1]) == pytest.approx(brier / 2)
    # Proper: no other forecast is better on average than the true probabilities.
    truth = np.array([0.1, 0.2, 0.3, 0.4])

    def expected(forecast):
        rows = np.tile(forecast, (4, 1))
        return float(metrics.ranked_probability_score(rows, range(4), truth))

    best = expected(truth)
    for move in itertools.permutations([0.05, -0.05, 0.0, 0.0]):
        assert expected(truth + move) > best


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_true_probabilities_of_grades_are_calibrated(shift):
    rows = np.repeat(DISTRIBUTIONS[-1:], 100, axis=0)
    labels = np.repeat(np.arange(4), [13, 29, 41, 17])
    assert metrics.cumulative_calibration_error(rows, labels) == pytest.approx(0, abs=1e-12)
    moved = np.minimum(labels + shift, 3)
    shares = np.bincount(moved, minlength=4)[:0:-1].cumsum()[::-1] / 100
    gap = np.abs(np.array([0.87, 0.58, 0.17]) - shares).mean()
    assert metrics.cumulative_calibration_error(rows, moved) == pytest.approx(gap)


def test_macro_auc_leaves_out_absent_classes():
    probabilities = [[0.8, 0.1, 0.1], [0.3, 0.5, 0.2], [0.4, 0.2, 0.4]]
    assert metrics.macro_auc(probabilities, [0, 1, 1]) == 1.0


@given(
    rows=st.integers(2, 8).flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(-40, 40), min_size=classes, max_size=classes),
            min_size=1,
            max_size=6,
        )
    ),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_per_image_equals_its_definition(rows, data):
    labels = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    columns = metrics.per_image(np.array(rows, dtype=np.float32), labels)
    for image, (row, label) in enumerate(zip(rows, labels, strict=True)):
        found = [column[image] for column in columns]
        assert found == pytest.approx(reference.per_image(row, label), abs=1e-12)


def test_saturated_logits_stay_finite():
    columns = metrics.per_image(np.array([[3e38, -3e38], [1e4, 0]], dtype=np.float32), [1, 0])
    assert columns.confidence.tolist() == [1, 1]
    assert columns.nll[0] == pytest.approx(6e38)
    assert columns.nll[1] == 0
    assert not np.signbit(columns.nll[1])
    assert columns.brier.tolist() == [2, 0]
    assert columns.confidence.dtype == columns.nll.dtype == columns.brier.dtype == np.float64
    assert columns.predicted.dtype == np.int64


def test_top5_counts_the_strictly_greater():
    tied = np.zeros((1, 10), dtype=np.float32)
    assert metrics.per_image(tied, [9]).top5_correct.all()
    ordered = np.arange(6, dtype=np.float32)[None].repeat(2, axis=0)
    assert metrics.per_image(ordered, [0, 1]).top5_correct.tolist() == [False, True]
    assert metrics.per_image(ordered[:, :5], [0, 1]).top5_correct.all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.accuracy([]), "correct is empty"),
        (lambda: metrics.accuracy([[True]]), r"correct \[1, 1\]"),
        (
            lambda: metrics.accuracy([True], [1, 2]),
            r"weights .*\[1\] or \[B, 1\], found \[2\]",
        ),
        (lambda: metrics.accuracy([True, True], [1, -1]), "weights .*not negative"),
        (lambda: metrics.accuracy([True, True], [1, math.nan]), "weights .*finite"),
        (lambda: metrics.accuracy([True, True], [1, math.inf]), "weights .*finite"),
        (lambda: metrics.accuracy([True, True], [[1, 1], [0, 0]]), "weights"),
        (lambda: metrics.balanced_accuracy([True], [1, 2]), r"correct \[1\], labels \[2\]"),
        (lambda: metrics.macro_auc([[0.5, 0.5]], [2]), "2 classes"),
        (lambda: metrics.macro_auc([[0.5, 0.5]], [-1]), "2 classes"),
        (lambda: metrics.macro_auc([0.5], [0]), r"\[1, classes\]"),
        (lambda: metrics.macro_auc([[0.5, math.nan]], [0]), "probabilities"),
        (lambda: metrics.mean_absolute_error([0.5], [1]), "predicted must be whole numbers"),
        (lambda: metrics.mean_absolute_error([0], [-1]), "labels go from -1"),
        (lambda: metrics.off_by_two([0, 1], [1]), r"predicted \[2\], labels \[1\]"),
        (lambda: metrics.ranked_probability_score([[1.0]], [0]), "at least two grades"),
        (lambda: metrics.ranked_probability_score([[0.5, 0.6]], [0]), "must add up to 1"),
        (lambda: metrics.ranked_probability_score([[0.5, 0.5]], [2]), "2 classes"),
        (
            lambda: metrics.cumulative_calibration_error([[0.5, 0.5]], [0], bins=0),
            "bins must be at least 1",
        ),
        (lambda: metrics.negative_log_likelihood([-0.1]), "nll .*found -0.1"),
        (lambda: metrics.negative_log_likelihood([math.nan]), "nll has 1"),
        (lambda: metrics.negative_log_likelihood([math.nan], clip=10), "nll has 1"),
        (lambda: metrics.negative_log_likelihood([0.1], clip=0), "above 0, found 0"),
        (lambda: metrics.confidence_gap([1.1], [True]), r"in \[0, 1\], found 1.1"),
        (lambda: metrics.confidence_gap([math.nan], [True]), r"in \[0, 1\], found nan"),
        (lambda: metrics.confidence_gap([0.5], [0.25]), "correct .*found 0.25"),
        (lambda: metrics.rms_calibration_error([0.5], [math.nan]), "correct .*found nan"),
        (
            lambda: metrics.rms_calibration_error([0.5], [True], bins=0),
            "bins .*at least 1, found 0",
        ),
        (lambda: metrics.rms_calibration_error([0.5], [True], binning="equal-mas"), "'equal-mass'"),
        (lambda: metrics.reliability_bins([0.5], [True, False]), r"correct \[2\]"),
        (lambda: metrics.per_image([[1.0, math.inf]], [0]), "found 1 images"),
        (lambda: metrics.per_image([[1.0, 0.0]], [2]), "2 classes"),
        (lambda: metrics.per_image([[1.0, 0.0]], [0.0]), "labels .*float64"),
        (lambda: metrics.per_image([1.0, 0.0], [0]), r"\[n, classes\]"),
        (lambda: metrics.softmax(np.zeros((0, 3))), r"found \[0, 3\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_everything_public_is_exported_and_sorted():
    assert [name for name in metrics.__all__ if not hasattr(metrics, name)] == []
    assert metrics.__all__ == sorted(metrics.__all__, key=lambda n: (not n.isupper(), n))
