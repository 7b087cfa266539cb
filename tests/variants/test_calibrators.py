"""Calibrators beside temperature: vector scaling, isotonic regression, top-versus-all."""

import json
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.isotonic
import sklearn.linear_model
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fairweather.errors import InputError
from fairweather.metrics import per_image, softmax
from fairweather.variants.calibration import LEAST_SCALE, MOST_BIAS, MOST_SCALE
from fairweather.variants.curves import (
    FittedIsotonic,
    FittedTopVersusAll,
    Isotonic,
    StepFunction,
    TopVersusAll,
    fit_steps,
    log_odds,
    share_out,
)
from fairweather.variants.scaling import FittedVectorScaling, VectorScaling, fit_temperature
from tests.helpers import reference
from tests.helpers.chance import FALSE_ALARM, distribution_p

fit_vector_scaling, fit_isotonic = VectorScaling().fit_logits, Isotonic().fit_logits


def fit_top_versus_all(logits, labels, method="isotonic"):
    return TopVersusAll(method=method).fit_logits(logits, labels)


FITS = {
    "vector_scaling": fit_vector_scaling,
    "isotonic": fit_isotonic,
    "top_versus_all": fit_top_versus_all,
    "logistic": lambda logits, labels: fit_top_versus_all(logits, labels, "logistic"),
}
KEEP_CLASSES = ("top_versus_all", "logistic")
# A logit is float32: of numbers below 32, half a step is at most this.
STEP = 32 * 2.0**-24


def drawn(n=400, classes=4, seed=0, factor=1.0, biases=0.0):
    """Logits that were calibrated, and are then multiplied and moved; labels by chance."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    labels = (softmax(logits).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return (logits * factor + biases).astype(np.float32), labels


def nll(logits, labels):
    return per_image(logits, labels).nll.mean()


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", FITS)
def test_what_is_stored_is_what_was_fitted(name):
    logits, labels = drawn()
    fitted = FITS[name](logits, labels)
    again = type(fitted).model_validate_json(fitted.model_dump_json())
    assert again == fitted
    assert (again.change(logits) == fitted.change(logits)).all()
    assert fitted.images == len(labels)
    assert fitted.nll_before == nll(logits, labels)
    assert fitted.nll_after == nll(fitted.change(logits), labels)


@pytest.mark.parametrize("name", FITS)
def test_neither_the_order_of_images_nor_that_of_classes_matters(name):
    logits, labels = drawn(n=150)
    expected = softmax(FITS[name](logits, labels).change(logits))
    images = np.random.default_rng(1).permutation(len(labels))
    by_images = FITS[name](logits[images], labels[images]).change(logits)
    classes = np.array([2, 0, 3, 1])
    moved = FITS[name](logits[:, classes], classes.argsort()[labels]).change(logits[:, classes])
    # Sums in another order; the minimum of a likelihood is flat.
    np.testing.assert_allclose(softmax(by_images), expected, atol=1e-4)
    np.testing.assert_allclose(softmax(moved), expected[:, classes], atol=1e-4)


@pytest.mark.parametrize("name", ["vector_scaling", "logistic"])
def test_images_that_are_there_twice_change_no_likelihood(name):
    logits, labels = drawn(n=100)
    once, twice = (FITS[name](np.tile(logits, (k, 1)), np.tile(labels, k)) for k in (1, 2))
    np.testing.assert_allclose(
        softmax(once.change(logits)), softmax(twice.change(logits)), atol=1e-4
    )


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("case", ["one image", "all right", "all wrong", "no image of a class"])
def test_at_the_edges_every_number_is_finite(name, case):
    logits, labels = drawn(n=60, classes=3)
    if case == "one image":
        logits, labels = logits[:1], labels[:1]
    elif case == "all right":
        labels = logits.argmax(axis=1)
    elif case == "all wrong":
        labels = logits.argmin(axis=1)
    else:
        labels = np.where(labels == 2, 0, labels)
    fitted = FITS[name](logits, labels)
    far = np.float32([[400, 0, -400], [0, 0, 0], [-1e4, 1e4, 1e4], [3, 3, 2]])
    for rows in (logits, far):
        found = fitted.change(rows)
        assert found.dtype == np.float32
        columns = per_image(found, np.full(len(rows), 2))  # refuses what is not finite
        assert np.isfinite(columns.nll).all()
        np.testing.assert_allclose(softmax(found).sum(axis=1), 1)
        if name in KEEP_CLASSES:
            assert (columns.predicted == rows.argmax(axis=1)).all()


@pytest.mark.parametrize("name", FITS)
def test_the_logits_must_have_the_classes_that_it_was_fitted_for(name):
    fitted = FITS[name](*drawn(n=50))
    with pytest.raises(InputError, match="4 classes, but the model has 3 outputs"):
        fitted.change(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(InputError, match="labels go from 0 to 5"):
        FITS[name](np.zeros((2, 3)), [0, 5])


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (FittedVectorScaling, {"scales": [1, 1, 1]}),
        (FittedVectorScaling, {"scales": [1, 0, 1, 1]}),
        (FittedVectorScaling, {"biases": [0, 0, 0, math.nan]}),
        (FittedVectorScaling, {"images": 0}),
        (FittedIsotonic, {"steps": []}),
        (FittedIsotonic, {"steps": [{"at": [0.1, 0.1], "values": [0, 1]}]}),
        (FittedIsotonic, {"steps": [{"at": [0.1, 0.2], "values": [1, 0]}]}),
        (FittedIsotonic, {"steps": [{"at": [0.1, 0.2], "values": [0, 2]}]}),
        (FittedIsotonic, {"steps": [{"at": [0.1, 0.2], "values": [0]}]}),
        (FittedTopVersusAll, {"curve": {"slope": -1, "offset": 0}}),
        (FittedTopVersusAll, {"curve": {"slope": 1, "offset": math.inf}}),
        (FittedTopVersusAll, {"classes": 1}),
        (FittedTopVersusAll, {"kind": "isotonic"}),
    ],
)
def test_a_file_that_was_changed_is_refused(kind, change):
    name = kind.model_fields["kind"].default
    content = json.loads(FITS[name](*drawn(n=50)).model_dump_json())
    kind.model_validate(content)
    with pytest.raises(ValidationError):
        kind.model_validate({**content, **change})


# ---------------------------------------------------------------- vector scaling


def test_vector_scaling_of_two_classes_is_a_logistic_regression():
    logits, labels = drawn(n=500, classes=2, factor=2, biases=[0.5, -0.5])
    fitted = fit_vector_scaling(logits, labels)
    judge = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    judge.fit(logits.astype(float), labels)
    below, above = judge.coef_[0]
    assert below < 0 < above  # as ours must be
    np.testing.assert_allclose(fitted.scales, [-below, above], rtol=1e-4)
    assert np.diff(fitted.biases) == pytest.approx(judge.intercept_, rel=1e-4)
    found = softmax(fitted.change(logits))
    np.testing.assert_allclose(found, judge.predict_proba(logits.astype(float)), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_vector_scaling_is_where_no_number_can_be_changed_for_the_better(seed):
    logits, labels = drawn(n=80, classes=3, seed=seed, factor=2)
    fitted = fit_vector_scaling(logits, labels)
    slopes = reference.vector_scaling_slopes(
        logits.tolist(), labels.tolist(), fitted.scales, fitted.biases
    )
    # The loss is convex: it has its minimum where it is flat.
    np.testing.assert_allclose(slopes, 0, atol=1e-5)
    assert sum(fitted.biases) == pytest.approx(0, abs=1e-12)


def test_vector_scaling_is_never_worse_than_a_temperature():
    for seed in range(20):
        logits, labels = drawn(n=30, seed=seed, factor=3)
        fitted, temperature = fit_vector_scaling(logits, labels), fit_temperature(logits, labels)
        # Logits are rounded to float32 when they are applied.
        assert fitted.nll_after <= temperature.nll_after + 2 * STEP
        assert fitted.nll_before == temperature.nll_before


def test_where_nothing_is_wrong_vector_scaling_gains_what_chance_gains():
    # Wilks: twice the gain in likelihood of 2 x classes - 1 free numbers follows chi-square.
    gains = []
    for seed in range(200):
        logits, labels = drawn(n=1000, classes=3, seed=seed)
        fitted = fit_vector_scaling(logits, labels)
        gains.append(2 * fitted.images * (fitted.nll_before - fitted.nll_after))
    assert distribution_p(gains, "chi2", 5) > FALSE_ALARM


def test_vector_scaling_finds_the_scales_and_biases_that_were_undone():
    scales, biases = np.array([0.5, 2.0, 1.0]), np.array([1.0, 0.0, -1.0])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(30):
        true = rng.normal(size=(1000, 3)) * 2
        labels = (softmax(true).cumsum(axis=1) > rng.random((1000, 1))).argmax(axis=1)
        fitted = fit_vector_scaling((true - biases) / scales, labels)
        found.append([*fitted.scales, *fitted.biases])
    off = np.mean(found, axis=0) - [*scales, *biases]
    error = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    p = 2 * scipy.stats.t.sf(np.abs(off / error), len(found) - 1)
    # Estimates of the largest likelihood are off by about 1 / n; that is below the error here.
    assert (p > FALSE_ALARM).all()


def test_vector_scaling_stays_within_its_bounds():
    logits, labels = drawn(n=60, classes=3)
    right = fit_vector_scaling(logits, logits.argmax(axis=1))
    assert LEAST_SCALE <= min(right.scales) <= max(right.scales) <= MOST_SCALE
    missing = fit_vector_scaling(logits, np.where(labels == 2, 0, labels))
    assert max(np.abs(missing.biases)) <= 2 * MOST_BIAS
    assert not (missing.change(logits).argmax(axis=1) == 2).any()


# ---------------------------------------------------------------- isotonic regression


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=14),
    st.lists(st.floats(-1, 7), min_size=1, max_size=5),
)
def test_steps_equal_the_definition_and_scikit_learn(images, elsewhere):
    places, hits = (list(column) for column in zip(*images, strict=True))
    steps = fit_steps(places, hits)
    expected = reference.isotonic(places, hits)
    np.testing.assert_allclose(steps(np.array(places, dtype=float)), expected, atol=1e-12)
    judge = sklearn.isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    judge.fit(np.array(places, dtype=float), np.array(hits, dtype=float))
    np.testing.assert_allclose(steps(np.array(elsewhere)), judge.predict(elsewhere), atol=1e-12)


def test_isotonic_is_scikit_learn_s_for_each_class_with_one_image_more():
    logits, labels = drawn(n=300, classes=3, factor=2)
    fitted = fit_isotonic(logits, labels)
    new, _ = drawn(n=200, classes=3, factor=2, seed=1)
    columns = []
    for label in range(3):
        judge = sklearn.isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        judge.fit(softmax(logits)[:, label], labels == label)
        columns.append(judge.predict(softmax(new)[:, label]))
    shares = np.stack(columns, axis=1)
    total = shares.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, shares / np.where(total > 0, total, 1), 1 / 3)
    expected = (300 * shares + 1 / 3) / 301
    np.testing.assert_allclose(fitted.probabilities(softmax(new)), expected, atol=1e-12)
    np.testing.assert_allclose(softmax(fitted.change(new)), expected, atol=STEP)


def test_isotonic_equals_netcal():
    binning = pytest.importorskip("netcal.binning", reason="netcal is optional")
    logits, labels = drawn(n=300, classes=3)
    # Without images whose row is all zero, where netcal divides 0 by 0.
    judge = binning.IsotonicRegression().fit(softmax(logits), labels)
    found = fit_isotonic(logits, labels).probabilities(softmax(logits))
    expected = (300 * judge.transform(softmax(logits)) + 1 / 3) / 301
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_row_of_zeros_is_equal_shares_and_keeps_the_model_s_answer():
    nothing = FittedIsotonic(
        images=9,
        nll_before=1,
        nll_after=1,
        steps=tuple(StepFunction(at=(0.6, 0.8), values=(0, 1)) for _ in range(3)),
    )
    found = nothing.change(np.log([[0.4, 0.35, 0.25], [0.25, 0.4, 0.35], [0.35, 0.25, 0.4]]))
    np.testing.assert_allclose(softmax(found), 1 / 3, atol=STEP)
    assert found.argmax(axis=1).tolist() == [0, 1, 2]


def test_isotonic_may_change_the_answer_and_one_image_makes_it_always_the_same():
    logits, _ = drawn(n=20, classes=3)
    fitted = fit_isotonic(logits[:1], [2])
    np.testing.assert_allclose(
        softmax(fitted.change(logits)), [[1 / 6, 1 / 6, 4 / 6]] * 20, atol=STEP
    )


def test_a_class_without_images_is_never_the_answer_where_another_is_left():
    logits, labels = drawn(n=200, classes=3)
    fitted = fit_isotonic(logits, np.where(labels == 2, 1, labels))
    assert fitted.steps[2].values == (0.0, 0.0)
    left = np.stack([s(c) for s, c in zip(fitted.steps, softmax(logits).T, strict=True)], axis=1)
    some = left.sum(axis=1) > 0
    assert not (fitted.change(logits[some]).argmax(axis=1) == 2).any()
    smallest = fitted.probabilities(softmax(logits))[some, 2]
    np.testing.assert_allclose(smallest, 1 / 3 / 201)


@pytest.mark.parametrize("name", ["isotonic", "top_versus_all"])
def test_only_the_order_of_what_is_calibrated_matters_to_the_steps(name):
    logits, labels = drawn(n=200, classes=2)
    # With two classes a temperature keeps the order of all probabilities.
    one, other = (softmax(FITS[name](z, labels).change(z)) for z in (logits, logits * 0.5))
    np.testing.assert_allclose(one, other, atol=2 * STEP)


# ---------------------------------------------------------------- top-versus-all


def test_the_confidence_is_scikit_learn_s_of_being_right():
    logits, labels = drawn(n=500, factor=3)
    new, _ = drawn(n=300, factor=3, seed=1)
    right = logits.argmax(axis=1) == labels
    sure, sure_of_new = softmax(logits).max(axis=1), softmax(new).max(axis=1)
    judge = sklearn.isotonic.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    expected = (500 * judge.fit(sure, right).predict(sure_of_new) + 1 / 2) / 501
    found = softmax(fit_top_versus_all(logits, labels).change(new)).max(axis=1)
    np.testing.assert_allclose(found, np.maximum(expected, 1 / 4), atol=STEP)

    judge = sklearn.linear_model.LogisticRegression(C=np.inf, tol=1e-10)
    odds, odds_of_new = (log_odds(np.log(softmax(each)))[:, None] for each in (logits, new))
    expected = judge.fit(odds, right).predict_proba(odds_of_new)[:, 1]
    found = softmax(fit_top_versus_all(logits, labels, "logistic").change(new)).max(axis=1)
    np.testing.assert_allclose(found, np.maximum(expected, 1 / 4), atol=1e-5)


@pytest.mark.parametrize("name", KEEP_CLASSES)
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_the_answer_stays_and_the_others_keep_their_order(name, classes):
    logits, labels = drawn(n=300, classes=classes, factor=4)
    fitted = FITS[name](logits, labels)
    found = fitted.change(logits)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert softmax(found).max(axis=1).min() >= 1 / classes - STEP
    by_model = np.take_along_axis(found, logits.argsort(axis=1), axis=1)
    assert (np.diff(by_model, axis=1) >= 0).all()


def test_the_others_keep_their_proportions_where_there_is_room():
    logits = np.log([[0.9, 0.06, 0.04]])
    fitted = FittedTopVersusAll(
        images=1, nll_before=1, nll_after=1, classes=3, curve={"slope": 1, "offset": -1.5}
    )
    found = softmax(fitted.change(logits))[0]
    assert found[0] == pytest.approx(1 / (1 + math.exp(1.5) / 9))
    assert found[1] / found[2] == pytest.approx(1.5)


@given(
    st.lists(st.floats(-30, 0), min_size=1, max_size=8),
    st.floats(0, 1, exclude_max=True),
)
def test_what_is_left_is_shared_out_as_one_place_after_the_other(logits, room):
    shares = softmax(np.array([logits]))
    # Between equal chances for all classes, the least confidence, and certainty.
    most = 1 / (len(logits) + 1) + room * (1 - 1 / (len(logits) + 1))
    found = np.exp(share_out(np.log(shares), np.log([1 - most]), np.log([most])))
    expected = reference.shared_out(shares[0].tolist(), 1 - most, most)
    np.testing.assert_allclose(found[0], expected, atol=1e-9)
    assert found.sum() == pytest.approx(1 - most, abs=1e-9)
    assert found.max() <= most * (1 + 1e-12)


def test_chances_of_being_right_are_above_0_and_below_1():
    logits, _ = drawn(n=99, classes=3)
    for labels, expected in ((logits.argmax(axis=1), 99.5 / 100), (logits.argmin(axis=1), 1 / 3)):
        found = softmax(fit_top_versus_all(logits, labels).change(logits)).max(axis=1)
        np.testing.assert_allclose(found, expected, atol=STEP)
