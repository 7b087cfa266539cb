"""Thresholds for a target sensitivity or specificity: the choice, its promise, and its edges."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from benchmarks import thresholds as simulated

from fairweather.errors import InputError
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.operating_points import (
    NOTHING_CALLED,
    choose_threshold,
    fewest_for_target,
    shorten_threshold,
)
from fairweather.types.operating_points import RATES, TargetRate
from tests.helpers import reference
from tests.helpers.chance import FALSE_ALARM, most


def drawn(seed, images=300, groups=None, digits=None):
    """Skewed scores, with ties if they are rounded; groups of unequal size, alike within."""
    rng = np.random.default_rng(seed)
    present = rng.random(images) < 0.5
    groups = np.arange(images) if groups is None else np.sort(rng.zipf(1.6, images) % groups)
    own = rng.normal(0, 1.5, images)[groups]
    probability = 1 / (1 + np.exp(-(3 * present - 2.5 + own + rng.normal(0, 1, images))))
    return (probability if digits is None else probability.round(digits)), present, groups


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("groups", [None, 150])
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_that_keeps_the_target_has_a_better_other_rate(rate, digits, groups, seed):
    probability, present, numbers = drawn(seed, groups=groups, digits=digits)
    grouping = None if groups is None else Grouping.from_names(numbers)
    target = TargetRate(rate, 0.8)
    threshold = choose_threshold(probability, present, target, grouping)
    p, truth, names = probability.tolist(), present.tolist(), numbers.tolist()
    assert reference.keeps_target(p, truth, threshold, rate, 0.8, names)
    others = present != (rate == "sensitivity")
    right = (probability >= threshold) == present
    best = reference.best_other_rate(p, truth, rate, 0.8, names)
    assert right[others].mean() == pytest.approx(best)


def test_a_specificity_is_the_sensitivity_of_those_without_the_finding():
    probability, present, _ = drawn(5)
    calls = probability >= choose_threshold(probability, present, TargetRate("specificity", 0.85))
    mirrored = 1 - probability
    others = mirrored >= choose_threshold(mirrored, ~present, TargetRate("sensitivity", 0.85))
    assert (calls == ~others).all()


def test_one_image_of_each_group_counts_like_an_image_without_groups():
    probability, present, _ = drawn(6)
    alone, target = Grouping(np.arange(len(present))), TargetRate("sensitivity", 0.9)
    expected = choose_threshold(probability, present, target)
    assert choose_threshold(probability, present, target, alone) == expected


def test_images_again_in_their_group_change_nothing():
    """Each group counts alike, and not each image."""
    probability, present, numbers = drawn(7, groups=150)
    twice = (np.repeat(part, 2) for part in (probability, present, numbers))
    p, truth, groups = twice
    for rate in RATES:
        target = TargetRate(rate, 0.8)
        expected = choose_threshold(probability, present, target, Grouping.from_names(numbers))
        assert choose_threshold(p, truth, target, Grouping.from_names(groups)) == expected


@pytest.mark.parametrize("value", [0.8, 0.9, 0.95, 0.99])
def test_as_few_images_as_can_be_show_it_without_an_error_and_one_less_never(value):
    target = TargetRate("sensitivity", value)
    least = fewest_for_target(target)
    assert scipy.stats.binom.cdf(0, least, 1 - value) <= 0.05 < (value ** (least - 1))
    scores = np.linspace(0.5, 0.9, least)
    assert choose_threshold(scores, np.ones(least, bool), target) == 0.5
    with pytest.raises(InputError, match=f"at least {least} validation images .* {least - 1}$"):
        choose_threshold(scores[1:], np.ones(least - 1, bool), target)
    with pytest.raises(InputError, match=f"at least {least} groups of validation images"):
        choose_threshold(scores, np.ones(least, bool), target, Grouping(np.zeros(least, int)))


def test_scores_that_do_not_separate_call_all_or_none():
    present = np.arange(200) < 100
    for score, lowest, highest in ((0.0, 0.0, 0.1), (0.4, 0.4, 0.5), (1.0, 1.0, NOTHING_CALLED)):
        same = np.full(200, score)
        assert choose_threshold(same, present, TargetRate("sensitivity", 0.9)) <= lowest
        assert choose_threshold(same, present, TargetRate("specificity", 0.9)) >= highest


def test_a_threshold_has_as_few_digits_as_make_the_same_calls():
    assert shorten_threshold(0.0, 0.00034) == 0.0003
    low = np.nextafter(0.3, 0)
    assert shorten_threshold(low, 0.3) == 0.3
    assert low < shorten_threshold(low, np.nextafter(0.3, 1)) <= np.nextafter(0.3, 1)


@pytest.mark.parametrize(("rate", "grouped"), [("sensitivity", False), ("specificity", True)])
def test_the_promise_is_broken_in_at_most_a_twentieth_of_draws(rate, grouped):
    """`benchmarks/thresholds.py` asks the same at length."""
    draws, broken, target = 400, 0, TargetRate(rate, 0.9)
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 6, 60) if grouped else np.ones(60, int)
        groups = np.repeat(np.arange(60), sizes)
        own = rng.normal(0, 2, 60)[groups] if grouped else 0
        scores = own + rng.normal(0, 1, len(groups))
        present = np.full(len(groups), rate == "sensitivity")
        spread = np.sqrt(5) if grouped else 1.0
        threshold = choose_threshold(
            scipy.stats.norm.cdf(scores), present, target, Grouping(groups) if grouped else None
        )
        edge = scipy.stats.norm.ppf(min(threshold, 1)) / spread
        kept = scipy.stats.norm.sf(edge) if rate == "sensitivity" else scipy.stats.norm.cdf(edge)
        broken += kept < 0.9
    assert broken <= most(draws, 0.05)


def test_the_table_of_the_benchmark_has_every_setting_and_no_promise_broken_too_often():
    table = pd.read_csv(simulated.STORED)
    assert list(table.columns) == list(simulated.COLUMNS)
    assert set(table["scores"]) == set(simulated.SCORES)
    assert (table["units"].min(), table["units"].max()) == (30, 500)
    assert set(table["target"]) == set(simulated.TARGETS)
    assert (table["draws"] == 2000).all()
    # Each setting may be a false alarm.
    allowed = scipy.stats.binom.isf(FALSE_ALARM / len(table), 2000, 0.05)
    assert (table["broken"] * 2000 <= allowed).all()
    assert table["broken"].mean() < 0.05


def test_the_benchmark_measures_what_its_table_says():
    """A short try: the choice seldom breaks the target, and the usual threshold often."""
    few = simulated.measure("even", "sensitivity", 60, 0.9, 50)
    assert few[:5] == ("even", "sensitivity", 60, 0.9, 50)
    assert few[5] * 50 <= most(50, 0.05)
    stored = pd.read_csv(simulated.STORED)
    usual = stored[stored["scores"] == "even"]["usual"]
    assert usual.min() > 0.4 > few[5]
