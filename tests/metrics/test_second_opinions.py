"""The metrics beside scikit-learn's, torchmetrics' and netcal's: where they agree, and where not.

`test_metrics.py` compares the unweighted values on two classes; here are weights, several classes,
the edges, and the metrics that have no row there.
"""

import importlib.metadata

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
import torch
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from fairweather import metrics
from fairweather.metrics.calibration import brier_decomposition, classwise_calibration_error

CLASSES = 7
ERRORS = {
    "l1": metrics.expected_calibration_error,
    "l2": metrics.rms_calibration_error,
    "max": metrics.maximum_calibration_error,
}


def predictions(n=500, seed=0):
    """Logits of a fair, overconfident model in float64, so that no confidence is exactly 1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(CLASSES, size=n)
    logits = generator.normal(size=(n, CLASSES)) * 2 + 2 * np.eye(CLASSES)[labels]
    return metrics.per_image(logits, labels), metrics.softmax(logits), labels, logits


def counts(n, seed=9):
    weights = np.random.default_rng(seed).integers(0, 4, size=n)
    weights[0] = 1
    return weights


# scikit-learn. Its `sample_weight` is our `weights`.


def test_weighted_metrics_equal_scikit_learn():
    columns, probabilities, labels, logits = predictions()
    weights = counts(len(labels))
    right = columns.predicted == labels
    kept = {"sample_weight": weights}
    assert metrics.accuracy(right, weights) == pytest.approx(
        sklearn.metrics.accuracy_score(labels, columns.predicted, **kept)
    )
    assert metrics.balanced_accuracy(right, labels, weights) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, columns.predicted, **kept)
    )
    assert metrics.top5_accuracy(columns.top5_correct, weights) == pytest.approx(
        sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, **kept)
    )
    assert metrics.negative_log_likelihood(columns.nll, weights) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities, **kept)
    )
    assert metrics.macro_auc(probabilities, labels, weights) == pytest.approx(
        # Class by class: `roc_auc_score` takes no weights for several classes in some versions.
        np.mean(
            [
                sklearn.metrics.roc_auc_score(labels == k, probabilities[:, k], **kept)
                for k in range(CLASSES)
            ]
        )
    )


def test_brier_score_is_the_sum_of_scikit_learn_s_over_classes():
    # Ours is Brier's own, in [0, 2]; scikit-learn's of one class against the rest is in [0, 1].
    columns, probabilities, labels, _ = predictions()
    weights = counts(len(labels))
    of_classes = [
        sklearn.metrics.brier_score_loss(labels == k, probabilities[:, k], sample_weight=weights)
        for k in range(CLASSES)
    ]
    assert metrics.brier_score(columns.brier, weights) == pytest.approx(sum(of_classes))


@pytest.mark.parametrize("binning", ["equal-width", "equal-mass"])
def test_the_parts_add_up_to_scikit_learn_s_brier_score(binning):
    columns, _, labels, _ = predictions()
    right, weights = columns.predicted == labels, counts(len(labels))
    parts = brier_decomposition(columns.confidence, right, weights, binning=binning)
    assert parts.score == pytest.approx(
        sklearn.metrics.brier_score_loss(right, columns.confidence, sample_weight=weights)
    )


def test_reliability_bins_equal_scikit_learn_s_calibration_curve():
    # Both take (a, b]; scikit-learn leaves out empty bins. Quantiles of distinct values cut where
    # `array_split` does if the bins divide the images.
    columns, _, labels, _ = predictions()
    right = columns.predicted == labels
    for binning, strategy in (("equal-width", "uniform"), ("equal-mass", "quantile")):
        found = metrics.reliability_bins(columns.confidence, right, binning=binning)
        accuracy, confidence = sklearn.calibration.calibration_curve(
            right, columns.confidence, n_bins=10, strategy=strategy
        )
        held = found.images > 0
        np.testing.assert_allclose(found.accuracy[held], accuracy)
        np.testing.assert_allclose(found.confidence[held], confidence)


def test_where_a_probability_is_zero_scikit_learn_clips():
    # `log_loss` sees the probability, which is 0 here, and clips it to the machine's epsilon;
    # ours is taken from the logits and stays what the model said.
    logits, labels = np.array([[800.0, 0.0], [0.0, 1.0]]), [1, 1]
    columns, probabilities = metrics.per_image(logits, labels), metrics.softmax(logits)
    clipped = sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
    assert metrics.negative_log_likelihood(columns.nll) == pytest.approx(400, abs=0.2)
    assert clipped < 30


# torchmetrics.


@pytest.mark.parametrize("norm", ERRORS)
def test_multiclass_calibration_errors_equal_torchmetrics(norm):
    # Probabilities, not logits: torchmetrics applies a softmax only where some value of the batch
    # lies outside [0, 1], so logits that all lie inside would be taken for probabilities.
    columns, probabilities, labels, _ = predictions()
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(labels),
        num_classes=CLASSES,
        n_bins=10,
        norm=norm,
    )
    value = ERRORS[norm](columns.confidence, columns.predicted == labels)
    assert value == pytest.approx(float(expected), abs=1e-6)  # torchmetrics works in float32


def test_classwise_error_is_the_mean_of_torchmetrics_binary_errors():
    _, probabilities, labels, _ = predictions()
    of_classes = [
        float(
            binary_calibration_error(
                torch.from_numpy(probabilities[:, k].copy()),
                torch.from_numpy((labels == k).astype(np.int64)),
                n_bins=10,
                norm="l1",
            )
        )
        for k in range(CLASSES)
    ]
    value = classwise_calibration_error(probabilities, labels)
    assert value == pytest.approx(np.mean(of_classes), abs=1e-9)


def release(package):
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


# Two images of confidence exactly 1, which saturated logits do give, and two of 0.95.
SURE, RIGHT = np.array([1.0, 1.0, 0.95, 0.95]), np.array([True, True, False, True])


@pytest.mark.parametrize(
    ("norm", "ours", "theirs"),
    [
        # One bin (0.9, 1]: accuracy 3/4, confidence 0.975.
        # Two bins, the sure ones apart: gaps 0 and 0.45 of two images each.
        ("l1", 0.225, 0.225),
        ("l2", 0.225, 0.45 / np.sqrt(2)),
        ("max", 0.225, 0.45),
    ],
)
def test_where_torchmetrics_gives_confidence_one_a_bin_of_its_own(norm, ours, theirs):
    # Its issue 3510: `bucketize(..., right=True)` puts a confidence of 1 past the last edge. Up to
    # 1.9 the value is `theirs`; a later version may be mended, and must then be ours.
    assert ERRORS[norm](SURE, RIGHT) == pytest.approx(ours)
    found = float(
        multiclass_calibration_error(
            torch.from_numpy(np.stack([SURE, 1 - SURE], axis=1)),
            torch.from_numpy(np.where(RIGHT, 0, 1)),
            num_classes=2,
            n_bins=10,
            norm=norm,
        )
    )
    allowed = [theirs] if release("torchmetrics") <= (1, 9) else [theirs, ours]
    assert any(found == pytest.approx(value, abs=1e-6) for value in allowed)


def test_where_torchmetrics_counts_an_edge_into_the_bin_above():
    # Ours, as Guo et al. 2017, takes (0.4, 0.5] and (0.5, 0.6]; torchmetrics takes [0.5, 0.6).
    confidence, right = np.array([0.5, 0.55]), np.array([True, False])
    found = float(
        binary_calibration_error(
            torch.from_numpy(confidence), torch.from_numpy(right.astype(np.int64)), n_bins=10
        )
    )
    assert metrics.expected_calibration_error(confidence, right) == pytest.approx(0.525)
    below, together = 0.525, abs(0.5 - 0.525)
    allowed = [together] if release("torchmetrics") <= (1, 9) else [together, below]
    assert any(found == pytest.approx(value, abs=1e-6) for value in allowed)


# netcal, where it is installed (without its dependencies, which are of no use here).


@pytest.fixture
def netcal():
    return pytest.importorskip("netcal.metrics.confidence", reason="netcal is optional")


def test_calibration_errors_equal_netcal(netcal):
    columns, probabilities, labels, _ = predictions()
    right = columns.predicted == labels
    for theirs, ours in (
        (netcal.ECE, metrics.expected_calibration_error),
        (netcal.MCE, metrics.maximum_calibration_error),
    ):
        expected = theirs(bins=10).measure(probabilities, labels)
        assert ours(columns.confidence, right) == pytest.approx(expected, abs=1e-9)


def test_equal_mass_error_equals_netcal(netcal):
    # It cuts at interpolated quantiles: the same bins, for distinct values and 500 = 10 * 50.
    columns, probabilities, labels, _ = predictions()
    expected = netcal.ECE(bins=10, equal_intervals=False).measure(probabilities, labels)
    value = metrics.expected_calibration_error(
        columns.confidence, columns.predicted == labels, binning="equal-mass"
    )
    assert value == pytest.approx(expected, abs=1e-9)


def test_netcal_s_ace_is_the_plain_mean_over_bins(netcal):
    # Not the adaptive error of Nixon et al. 2019 that shares its letters, nor any row of ours: each
    # bin that is not empty counts the same, however few images it holds.
    columns, probabilities, labels, _ = predictions()
    found = metrics.reliability_bins(columns.confidence, columns.predicted == labels)
    expected = netcal.ACE(bins=10).measure(probabilities, labels)
    gaps = np.abs(found.accuracy - found.confidence)
    assert np.nanmean(gaps) == pytest.approx(expected, abs=1e-9)


def test_classwise_error_is_the_mean_of_netcal_s_binary_errors(netcal):
    _, probabilities, labels, _ = predictions()
    of_classes = [
        netcal.ECE(bins=10).measure(probabilities[:, k], (labels == k).astype(int))
        for k in range(CLASSES)
    ]
    value = classwise_calibration_error(probabilities, labels)
    assert value == pytest.approx(np.mean(of_classes), abs=1e-9)


def test_netcal_judges_the_second_of_two_classes_not_the_predicted(netcal):
    # With two classes it asks whether the second class's probability is right; the error of the
    # predicted class, which is ours, is another number.
    generator = np.random.default_rng(4)
    second = generator.uniform(size=400)
    labels = (generator.random(400) < second**2).astype(int)
    pairs = np.stack([1 - second, second], axis=1)
    expected = netcal.ECE(bins=10).measure(pairs, labels)
    of_second = metrics.expected_calibration_error(second, labels == 1)
    of_predicted = metrics.expected_calibration_error(pairs.max(axis=1), pairs.argmax(1) == labels)
    assert of_second == pytest.approx(expected, abs=1e-9)
    assert abs(of_predicted - expected) > 0.05


@pytest.mark.parametrize(
    ("confidence", "right", "ours", "theirs"),
    [
        # Confidence 1 is clipped into the last bin: no defect there.
        ([1.0, 1.0, 0.95, 0.95], [1, 1, 0, 1], 0.225, 0.225),
        # But an edge belongs to the bin above, as in numpy's histograms.
        ([0.5, 0.55], [1, 0], 0.525, 0.025),
    ],
)
def test_netcal_at_the_edges(netcal, confidence, right, ours, theirs):
    columns = np.array(confidence), np.array(right)
    assert metrics.expected_calibration_error(*columns) == pytest.approx(ours)
    assert netcal.ECE(bins=10).measure(*columns) == pytest.approx(theirs)
