"""Several findings of an image: what is stored, the units, the strata and the ensemble."""

import numpy as np
import pytest
import scipy.special

from fairweather.errors import InputError
from fairweather.tasks import (
    FindingsPredictions,
    check_labels,
    find_task,
    mean_probability,
    rarest_finding,
    select_finding,
)
from fairweather.types.measurement import MULTILABEL, UNKNOWN

NAMES = ("Effusion", "Mass", "Nodule")


def draw(count=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < (0.4, 0.2, 0.05)).astype(np.int64)
    labels[rng.random((count, 3)) < 0.2] = UNKNOWN
    logits = rng.normal(2 * labels - 1, 2).astype(np.float32)
    return FindingsPredictions(np.arange(count), labels, logits, NAMES)


def test_a_finding_has_the_losses_of_its_probability_where_it_is_known():
    predictions = draw()
    for column, name in enumerate(NAMES):
        one = select_finding(predictions, column)
        known = predictions.labels[:, column] != UNKNOWN
        y = predictions.labels[known, column]
        p = scipy.special.expit(predictions.logits[known, column].astype(float))
        assert one.classes == (f"no {name}", name)
        np.testing.assert_array_equal(one.keys, np.flatnonzero(known))
        np.testing.assert_allclose(one.nll, -np.log(np.where(y == 1, p, 1 - p)), rtol=1e-9)
        np.testing.assert_allclose(one.brier / 2, (p - y) ** 2, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(one.confidence, np.maximum(p, 1 - p), rtol=1e-12)
        np.testing.assert_array_equal(one.correct, (p >= 0.5) == (y == 1))


def test_a_finding_that_is_unknown_for_every_image_has_no_images():
    predictions = draw()
    unknown = predictions.with_columns(labels=np.full_like(predictions.labels, UNKNOWN))
    one = select_finding(unknown, 1)
    assert len(one) == len(one.confidence) == len(one.correct) == len(one.logits) == 0


def test_an_image_is_right_where_all_known_findings_are():
    predictions = draw()
    right = [
        all(
            label == UNKNOWN or (logit >= 0) == (label == 1)
            for label, logit in zip(*rows, strict=True)
        )
        for rows in zip(predictions.labels, predictions.logits, strict=True)
    ]
    np.testing.assert_array_equal(predictions.correct, right)


def test_the_units_are_the_findings_and_whole_images():
    predictions = draw()
    image, *findings = find_task(MULTILABEL).every_unit(predictions)
    known = np.flatnonzero((predictions.labels != UNKNOWN).any(axis=1))
    assert 0 < len(known) < len(predictions)
    np.testing.assert_array_equal(image.select(predictions).keys, known)
    assert [unit.name for unit in findings] == [f"finding={name}" for name in NAMES]
    for unit in (image, *findings):
        np.testing.assert_array_equal(unit.places, unit.select(predictions).keys)


def test_the_stratum_of_an_image_is_its_rarest_finding():
    labels = draw(1000).labels
    counts = (labels == 1).sum(axis=0)
    strata = rarest_finding(labels, NAMES)
    for row, number in zip(labels, strata.numbers, strict=True):
        own = [NAMES[k] for k in np.flatnonzero(row == 1)]
        rarest = min(own, key=lambda name: counts[NAMES.index(name)]) if own else "none"
        assert strata.names[number] == rarest


def test_an_ensemble_has_the_mean_probability_also_of_sure_members():
    logits = [np.float32([[0.3, -60, 80]]), np.float32([[-2, -40, 90]])]
    p = [scipy.special.expit(member.astype(float)) for member in logits]
    mean = mean_probability(logits)
    np.testing.assert_allclose(scipy.special.expit(mean[0, 0]), np.mean(p, axis=0)[0, 0], rtol=1e-6)
    # One minus a probability that is 1 in float64: the mean of exp(-80) and exp(-90).
    np.testing.assert_allclose(mean[0, 1], -40 + np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(mean[0, 2], 80 - np.log((1 + np.exp(-10)) / 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [([[0, 1, 2]], "Nodule must be 0, 1 or -1"), ([[0, 1]], "a column for each of 3 findings")],
)
def test_labels_that_are_none_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        check_labels(np.array(labels), NAMES)
