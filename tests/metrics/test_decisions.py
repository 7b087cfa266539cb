"""Net benefit: its formula, what it must equal, and how often its intervals hold."""

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import Grouping
from tests.helpers import reference
from tests.helpers.chance import most

THRESHOLDS = (0.05, 0.2, 0.5, 0.75)
IMAGES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.3, 0.5, 0.9, 1.0]), st.booleans()),
    min_size=1,
    max_size=12,
)


def drawn(n=300, seed=0, share=0.2):
    """Probabilities of a finding, whether it is there, and the patient of each image."""
    rng = np.random.default_rng([n, seed])
    patient = np.sort(rng.integers(n // 3, size=n))
    alike = rng.random(n) < 0.8
    present = np.where(alike, (rng.random(n) < share)[patient], rng.random(n) < share)
    noise = np.where(alike, rng.normal(size=n)[patient], rng.normal(size=n))
    odds = math.log(share / (1 - share)) + 2 * (noise + 2 * (present - 0.5))
    return scipy.special.expit(odds), present, Grouping.from_names(patient)


def independent(n, seed, share=0.1):
    """The same population, each image of its own patient."""
    rng = np.random.default_rng([n, seed])
    present = rng.random(n) < share
    noise = rng.normal(size=n) + 2 * (present - 0.5)
    return scipy.special.expit(math.log(share / (1 - share)) + 2 * noise), present


@given(images=IMAGES, threshold=st.sampled_from(THRESHOLDS), data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_net_benefit_is_that_of_the_slow_reference(images, threshold, data):
    probability, present = map(np.array, zip(*images, strict=True))
    prevalence = data.draw(st.sampled_from([None, 0.0, 0.01, 0.4]))
    counts = st.lists(st.integers(0, 3), min_size=len(images), max_size=len(images))
    weights = data.draw(st.lists(counts.filter(any), min_size=1, max_size=3))
    found = metrics.net_benefit(probability, present, threshold, weights, prevalence=prevalence)
    for value, row in zip(found, weights, strict=True):
        written_out = np.repeat(probability, row), np.repeat(present, row)
        expected = reference.net_benefit(*written_out, threshold, prevalence)
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(images=IMAGES, prevalence=st.sampled_from([None, 0.0, 0.01, 0.4]), grouped=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_curve_has_the_net_benefit_at_each_threshold(images, prevalence, grouped):
    probability, present = map(np.array, zip(*images, strict=True))
    grouping = Grouping.from_names(np.arange(len(images)) // 2) if grouped else None
    curve = metrics.decision_curve(
        probability, present, THRESHOLDS, prevalence=prevalence, grouping=grouping
    )
    share = present.mean() if prevalence is None else prevalence
    for k, threshold in enumerate(THRESHOLDS):
        value = metrics.net_benefit(probability, present, threshold, prevalence=prevalence)
        treat_all = share - (1 - share) * threshold / (1 - threshold)
        assert curve.net_benefit[k] == pytest.approx(value, abs=1e-12, nan_ok=True)
        assert curve.treat_all[k] == pytest.approx(treat_all)
        assert curve.gain[k] == pytest.approx(value - treat_all, abs=1e-12, nan_ok=True)
    known = ~np.isnan(curve.low)
    assert not known.any() or grouping is None or grouping.count > 1
    for value, low, high in (
        (curve.net_benefit, curve.low, curve.high),
        (curve.gain, curve.gain_low, curve.gain_high),
    ):
        assert (low <= value + 1e-12)[known].all()
        assert (value - 1e-12 <= high)[known].all()


def test_calling_every_image_or_none_has_the_net_benefit_of_that():
    present = np.arange(10) < 3
    every = metrics.decision_curve(np.ones(10), present, THRESHOLDS)
    assert every.net_benefit == pytest.approx(every.treat_all)
    assert every.gain == pytest.approx(np.zeros(4))
    none = metrics.decision_curve(np.zeros(10), present, THRESHOLDS)
    assert none.net_benefit.tolist() == [0.0] * 4
    assert (none.low < 0).all()  # ten images do not show that it is never called


def test_the_prevalence_of_the_images_gives_the_same_value():
    probability, present, _ = drawn()
    own = metrics.decision_curve(probability, present)
    stated = metrics.decision_curve(probability, present, prevalence=float(present.mean()))
    assert stated.net_benefit == pytest.approx(own.net_benefit, abs=1e-12)
    assert stated.gain == pytest.approx(own.gain, abs=1e-12)


def test_without_false_calls_the_interval_is_that_of_the_right_ones_beside_the_exact_bound():
    """The first of 20 images is called rightly: 1 of 20, less 0 of 20 that cost a third each."""
    probability, present = np.arange(20) < 1, np.arange(20) < 4
    curve = metrics.decision_curve(probability.astype(float), present, [0.25])
    low, high = (float(end) for end in clopper_pearson(0.05, 20))
    wrong = float(clopper_pearson(0.0, 20)[1]) / 3
    assert curve.high[0] == pytest.approx(high)
    assert curve.low[0] == pytest.approx(0.05 - math.hypot(0.05 - low, wrong))


def test_copies_of_patients_images_tell_nothing_new():
    probability, present, _ = drawn(100)
    alone = metrics.decision_curve(
        probability, present, THRESHOLDS, grouping=Grouping(np.arange(100))
    )
    copies = metrics.decision_curve(
        *(np.repeat(column, 3) for column in (probability, present)),
        THRESHOLDS,
        grouping=Grouping(np.repeat(np.arange(100), 3)),
    )
    for name in ("net_benefit", "low", "high", "gain_low", "gain_high"):
        np.testing.assert_allclose(getattr(copies, name), getattr(alone, name), atol=1e-9)


def test_one_patient_has_no_interval():
    curve = metrics.decision_curve(
        [0.9, 0.1], [True, False], [0.5], grouping=Grouping(np.zeros(2, dtype=np.int64))
    )
    assert curve.net_benefit[0] == 0.5
    assert np.isnan([curve.low[0], curve.high[0], curve.gain_low[0]]).all()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("prevalence", [None, 0.05])
def test_intervals_contain_the_truth(grouped, prevalence):
    """300 images alone or of 100 patients; the standard error of the truth is below 1e-3."""
    trials, outside = 300, np.zeros((2, 4))
    truth = metrics.decision_curve(
        *drawn(300_000, share=0.1)[:2], THRESHOLDS, prevalence=prevalence
    )
    for trial in range(trials):
        probability, present, patients = drawn(300, trial, share=0.1)
        grouping = patients
        if not grouped:
            (probability, present), grouping = independent(300, trial), None
        curve = metrics.decision_curve(
            probability, present, THRESHOLDS, prevalence=prevalence, grouping=grouping
        )
        for k, (low, high, value) in enumerate(
            (
                (curve.low, curve.high, truth.net_benefit),
                (curve.gain_low, curve.gain_high, truth.gain),
            )
        ):
            outside[k] += (low > value + 1e-3) | (high < value - 1e-3)
    assert outside.max() <= most(trials, 0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([0.5], [True], 0.0), "a threshold must be a probability above 0 and below 1, found 0"),
        (([0.5], [True], 1.0), "a threshold must be a probability above 0 and below 1, found 1"),
        (([1.5], [True], 0.5), r"probability must be in \[0, 1\], found 1.5"),
        (([0.5], [True, False], 0.5), "must be one-dimensional and equally long"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, sentence):
    for function in (metrics.net_benefit, metrics.decision_curve):
        with pytest.raises(InputError, match=sentence):
            function(*arguments)
        with pytest.raises(InputError, match="a prevalence must be between 0 and 1"):
            function([0.5], [True], 0.5, prevalence=1.2)


def predictive(called, present, prevalence):
    """Bayes' rule, from counts of images."""
    right = [call for call, truth in zip(called, present, strict=True) if truth]
    wrong = [call for call, truth in zip(called, present, strict=True) if not truth]
    sensitivity, fall_out = sum(right) / len(right), sum(wrong) / len(wrong)
    calls = prevalence * sensitivity + (1 - prevalence) * fall_out
    ppv = prevalence * sensitivity / calls if calls else math.nan
    rest = 1 - calls
    npv = (1 - prevalence) * (1 - fall_out) / rest if rest else math.nan
    return ppv, npv


@given(images=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=150, deadline=None)
def test_predictive_values_are_those_of_bayes_rule(images):
    called, present = map(np.array, zip(*images, strict=True))
    if present.all() or not present.any():
        values = metrics.predictive_values(called, present, 0.1)
        assert np.isnan([values.ppv.low, values.npv.low]).all()
        return
    for prevalence in (0.01, 0.3, float(present.mean())):
        values = metrics.predictive_values(called, present, prevalence)
        for score, value in zip(values, predictive(called, present, prevalence), strict=True):
            assert score.value == pytest.approx(value, abs=1e-12, nan_ok=True)
            assert np.isnan(score.low) or 0 <= score.low <= score.value <= score.high <= 1
    if called.any() and not called.all():  # at the images' own prevalence, it is the share of calls
        assert values.ppv.value == pytest.approx(present[called].mean())
        assert values.npv.value == pytest.approx((~present[~called]).mean())


def test_a_perfect_test_may_still_be_wrong_at_another_prevalence():
    """No false call of 100: of the upper bound of 3.6 %, most calls would be wrong at 1 %."""
    present = np.arange(200) < 100
    values = metrics.predictive_values(present, present, 0.01)
    assert (values.ppv.value, values.ppv.high) == (1, 1)
    low = float(clopper_pearson(1.0, 100)[0])
    assert values.ppv.low == pytest.approx(0.01 * low / (0.01 * low + 0.99 * (1 - low)))
    assert values.npv.low > 0.999


def test_weights_within_a_side_are_those_of_copied_images():
    probability, present, _ = drawn(120)
    called = probability >= 0.2
    counts = np.where(present, 1, np.arange(120) % 3 + 1)
    weighted = metrics.predictive_values(called, present, 0.05, counts)
    copied = metrics.predictive_values(np.repeat(called, counts), np.repeat(present, counts), 0.05)
    for score, other in zip(weighted, copied, strict=True):
        assert score.value == pytest.approx(other.value)
        assert score.high - score.low > other.high - other.low  # copies are no further images


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("threshold", "prevalence"), [(0.05, 0.01), (0.5, 0.3)])
def test_intervals_of_predictive_values_contain_the_truth(grouped, threshold, prevalence):
    trials, outside = 300, np.zeros(4)
    probability, present, _ = drawn(300_000, share=0.1)
    truth = metrics.predictive_values(probability >= threshold, present, prevalence)
    for trial in range(trials):
        probability, present, patients = drawn(300, trial, share=0.1)
        if not grouped:
            probability, present = independent(300, trial)
        grouping = patients if grouped else None
        values = metrics.predictive_values(
            probability >= threshold, present, prevalence, grouping=grouping
        )
        for k, (score, expected) in enumerate(zip(values, truth, strict=True)):
            slack = 0.02 * min(expected.value, 1 - expected.value)  # of the truth, which is drawn
            outside[2 * k] += score.low > expected.value + slack
            outside[2 * k + 1] += score.high < expected.value - slack
    assert outside.max() <= most(trials, 0.03), outside
