"""Numbers of each class against the others, their means, and kappas: equal to scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics.columns import sum_by_number

CLASSES = 5
# Each number of a class, as scikit-learn computes it from "is the class" and "is called so".
THEIRS = {
    "sensitivity": lambda truth, calls, **of: sklearn.metrics.recall_score(truth, calls, **of),
    "specificity": lambda truth, calls, **of: sklearn.metrics.recall_score(~truth, ~calls, **of),
    "ppv": lambda truth, calls, **of: sklearn.metrics.precision_score(truth, calls, **of),
    "npv": lambda truth, calls, **of: sklearn.metrics.precision_score(~truth, ~calls, **of),
    "f1": lambda truth, calls, **of: sklearn.metrics.f1_score(truth, calls, **of),
}


def drawn(seed=0, n=400, unused=(), unseen=()):
    """Labels, predictions and weights; some classes have no images, or are never predicted."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([k for k in range(CLASSES) if k not in unseen], size=n)
    guesses = generator.choice([k for k in range(CLASSES) if k not in unused], size=n)
    lucky = (generator.random(n) < 0.6) & ~np.isin(labels, unused)
    weights = generator.integers(0, 4, size=n) * 1.0
    return labels, np.where(lucky, labels, guesses), weights


CASES = {
    "all classes": {},
    "one without images": {"unseen": (3,)},
    "one never predicted": {"unused": (1,)},
    "one of neither": {"unseen": (2,), "unused": (2,)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", THEIRS)
def test_every_number_of_every_class_is_that_of_scikit_learn(name, case):
    labels, predicted, weights = drawn(**CASES[case])
    found = getattr(metrics.class_counts(predicted, labels, CLASSES, weights), name)[:, 0]
    kept = {"sample_weight": weights, "zero_division": np.nan}
    expected = [THEIRS[name](labels == k, predicted == k, **kept) for k in range(CLASSES)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    undefined = {
        "sensitivity": CASES[case].get("unseen", ()),
        "ppv": CASES[case].get("unused", ()),
        "f1": set(CASES[case].get("unseen", ())) & set(CASES[case].get("unused", ())),
    }
    assert np.flatnonzero(np.isnan(found)).tolist() == list(undefined.get(name, ()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mean", ["macro", "weighted"])
def test_means_over_classes_are_those_of_scikit_learn(mean, case):
    labels, predicted, weights = drawn(**CASES[case])
    counts = metrics.class_counts(predicted, labels, CLASSES, weights)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, average=mean, sample_weight=weights, zero_division=np.nan
    )
    average = getattr(counts, mean)
    assert average(counts.ppv)[0] == pytest.approx(precision, abs=1e-12)
    assert average(counts.sensitivity)[0] == pytest.approx(recall, abs=1e-12)
    assert average(counts.f1)[0] == pytest.approx(f1, abs=1e-12)


def test_the_mean_sensitivities_are_the_accuracies():
    labels, predicted, weights = drawn(unseen=(3,))
    counts = metrics.class_counts(predicted, labels, CLASSES, weights)
    right = labels == predicted
    assert counts.macro(counts.sensitivity)[0] == pytest.approx(
        metrics.balanced_accuracy(right, labels, weights), abs=1e-12
    )
    assert counts.weighted(counts.sensitivity)[0] == pytest.approx(
        metrics.accuracy(right, weights), abs=1e-12
    )


@pytest.mark.parametrize("case", CASES)
def test_both_kappas_are_those_of_scikit_learn(case):
    labels, predicted, weights = drawn(**CASES[case])
    kept = {"labels": range(CLASSES), "sample_weight": weights}
    assert metrics.class_counts(predicted, labels, CLASSES, weights).kappa[0] == pytest.approx(
        sklearn.metrics.cohen_kappa_score(labels, predicted, **kept), abs=1e-12
    )
    assert metrics.quadratic_kappa(predicted, labels, weights) == pytest.approx(
        sklearn.metrics.cohen_kappa_score(labels, predicted, weights="quadratic", **kept), abs=1e-12
    )


def test_kappas_of_a_single_class_say_nothing():
    same = np.zeros(4, dtype=int)
    assert np.isnan(metrics.class_counts(same, same, 2).kappa).all()
    assert np.isnan(metrics.quadratic_kappa(same, same))


@pytest.mark.parametrize("decimals", [None, 1])
def test_areas_under_both_curves_are_those_of_scikit_learn(decimals):
    generator = np.random.default_rng(4)
    labels = generator.choice([0, 1, 2, 4], size=300)
    logits = generator.normal(size=(300, CLASSES)) + np.eye(CLASSES)[labels]
    scores = metrics.softmax(logits if decimals is None else logits.round(decimals))
    scores = scores if decimals is None else scores.round(decimals)
    weights = generator.integers(0, 4, size=300) * 1.0
    precisions = [
        sklearn.metrics.average_precision_score(labels == k, scores[:, k], sample_weight=weights)
        for k in (0, 1, 2, 4)
    ]
    assert metrics.macro_pr_auc(scores, labels, weights) == pytest.approx(
        np.mean(precisions), abs=1e-12
    )
    # Of one class scikit-learn says 1; nothing was ranked against anything, as for the macro AUC.
    assert np.isnan(metrics.macro_pr_auc(np.eye(2)[[0, 0, 0]], [0, 0, 0]))


@pytest.mark.parametrize(("predicted", "labels"), [([0, 5], [0, 1]), ([0, 1], [-1, 1])])
def test_a_class_that_does_not_exist_is_refused(predicted, labels):
    with pytest.raises(InputError, match="but there are 5 classes"):
        metrics.class_counts(predicted, labels, 5)


def test_sums_by_number_are_those_of_the_loop():
    generator = np.random.default_rng(2)
    numbers, columns = generator.integers(4, size=50), generator.random((50, 3))
    expected = np.zeros((6, 3))
    for number, row in zip(numbers, columns, strict=True):
        expected[number] += row
    assert np.array_equal(sum_by_number(numbers, columns, 6), expected)


@pytest.mark.parametrize("numbers", [[0, 3], [-1, 0]])
def test_no_number_is_outside_the_sums(numbers):
    """SciPy would write beyond its memory."""
    with pytest.raises(ValueError, match="numbers of rows must be 0 to 2"):
        sum_by_number(np.array(numbers), np.ones((2, 1)), 3)
