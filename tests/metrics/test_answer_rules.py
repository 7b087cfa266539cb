"""Rules that keep several limits: equal to their definitions, and broken as rarely as is said."""

import csv
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import Grouping, fewest_for_risk, guaranteed_threshold
from fairweather.metrics.answer_rules import (
    CLEAR,
    LimitedImages,
    guaranteed_rule,
    is_answered_within,
    rules_to_try,
    show_share,
)
from fairweather.metrics.grouping import effective_sample
from tests.helpers import reference
from tests.helpers.chance import most

INF = math.inf
tenths = st.integers(0, 10).map(lambda k: k / 10)  # with many ties


@st.composite
def limited_images(draw):
    """Scores of images, and two limits: on all of them, and on those of a class."""
    n = draw(st.integers(1, 16))
    scores = np.array(draw(st.lists(st.tuples(tenths, tenths), min_size=n, max_size=n)))
    wrong, inside = (
        np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))) for _ in range(2)
    )
    inside[0] = True
    limits = draw(st.tuples(st.sampled_from([0.2, 0.45]), st.sampled_from([0.3, 0.6])))
    return scores, [
        LimitedImages(limits[0], scores, wrong),
        LimitedImages(limits[1], scores[inside], wrong[inside]),
    ]


def plain(limited):
    return [(own.limit, own.scores.tolist(), own.wrong.tolist()) for own in limited]


@given(data=limited_images())
@settings(max_examples=60, deadline=None)
def test_rules_to_try_are_those_that_no_rule_beats_after_stricter_ones(data):
    scores, limited = data
    tried = rules_to_try(scores, limited).tolist()
    assert tried == reference.rules_to_try(scores.tolist(), plain(limited))
    chances = [reference.rule_p(plain(limited), rule) for rule in tried]
    counts = [sum(reference.reached(scores.tolist(), rule)) for rule in tried]
    # From safe to many answers, and to all of them at last; no limit of so few images is clear.
    assert all(later >= own - 1e-9 for own, later in pairwise(chances))
    assert all(later >= own for own, later in pairwise(counts))
    assert counts[-1] == len(scores)


@pytest.mark.parametrize("seed", range(3))
def test_rules_that_show_a_limit_clearly_come_first(seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 9, (150, 2)) / 8
    wrong, inside = generator.random(150) < 0.1, generator.random(150) < 0.4
    limited = [
        LimitedImages(0.45, scores, wrong),
        LimitedImages(0.5, scores[inside], wrong[inside]),
    ]
    tried = rules_to_try(scores, limited).tolist()
    assert tried == reference.rules_to_try(scores.tolist(), plain(limited))
    chances = [reference.rule_p(plain(limited), rule) for rule in tried]
    assert min(chances) < chances[0] < CLEAR


def test_the_first_rule_is_not_the_one_before_the_first_error():
    """Which errors are just below a threshold is chance; the strictest safe rule comes first."""
    scores = np.stack([np.zeros(400), -np.arange(400.0)], axis=1)
    wrong = np.arange(400) >= 300
    positives = np.append(np.arange(100), np.arange(300, 400))
    limited = [LimitedImages(0.05, scores[positives], wrong[positives])]
    tried = rules_to_try(scores, limited)
    assert tried[0].tolist() == [0, -99]  # all that the limit counts, and nothing in doubt
    assert [0, -299] in tried.tolist()


@given(data=limited_images(), certainty=st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_a_guaranteed_rule_is_the_last_that_passes_in_order(data, certainty):
    scores, limited = data
    tried = rules_to_try(scores, limited)
    rule = guaranteed_rule(limited, tried, certainty=certainty)
    expected = reference.guaranteed_rule(plain(limited), tried.tolist(), certainty)
    assert rule.thresholds == tuple(expected)
    for own, share in zip(limited, rule.shown, strict=True):
        answered = (own.scores >= rule.thresholds).all(axis=1)
        assert (share.answered, share.wrong) == (answered.sum(), own.wrong[answered].sum())
        if share.answered:
            # So few are as rare as promised, if the share is the bound; see Clopper and Pearson.
            tail = reference.binomial_tail(share.wrong, share.answered, share.bound)
            assert tail == pytest.approx(1 - certainty, abs=1e-9)
            assert share.bound <= own.limit + 1e-12
            assert share.p <= 1 - certainty
        else:
            assert (share.p, share.bound) == (1, 1)


@given(data=limited_images(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_neither_the_order_of_images_nor_of_limits_matters(data, seed):
    scores, limited = data
    order = np.random.default_rng(seed).permutation(len(scores))
    moved = [
        LimitedImages(limited[1].limit, limited[1].scores[::-1], limited[1].wrong[::-1]),
        LimitedImages(limited[0].limit, scores[order], limited[0].wrong[order]),
    ]
    tried = rules_to_try(scores, limited)
    np.testing.assert_array_equal(rules_to_try(scores[order], moved), tried)
    one, other = guaranteed_rule(limited, tried), guaranteed_rule(moved, tried)
    assert one.thresholds == other.thresholds
    assert one.shown == other.shown[::-1]


@given(data=limited_images())
@settings(max_examples=30, deadline=None)
def test_only_the_order_of_scores_matters(data):
    scores, limited = data
    tried = rules_to_try(scores, limited)
    moved = [own._replace(scores=np.exp(own.scores) - 3) for own in limited]
    np.testing.assert_array_equal(rules_to_try(np.exp(scores) - 3, moved), np.exp(tried) - 3)


@pytest.mark.parametrize("groups", [None, Grouping(np.arange(600) // 3)])
def test_one_limit_and_one_score_are_the_threshold_of_confidence(groups):
    generator = np.random.default_rng(0)
    confidence = generator.beta(6, 1, 600)
    correct = generator.random(600) < confidence
    tried = np.quantile(confidence, np.linspace(0.8, 0, 30))
    scores = np.stack([confidence, np.zeros(600)], axis=1)
    rule = guaranteed_rule(
        [LimitedImages(0.12, scores, ~correct, groups)], np.stack([tried, np.zeros(30)], axis=1)
    )
    known = guaranteed_threshold(confidence, correct, tried, risk=0.12, grouping=groups)
    assert tried[-1] < known.threshold <= tried[0]
    assert rule.thresholds == (known.threshold, 0)
    assert rule.shown[0].bound == pytest.approx(known.bound, rel=1e-12)


def test_the_p_value_of_a_rule_is_the_largest_and_no_level_is_divided():
    """As many right answers as show one limit show three: 5 % is not divided by three."""
    fewest = fewest_for_risk(0.05)
    scores, wrong = np.ones((fewest, 2)), np.zeros(fewest, dtype=bool)
    limited = [LimitedImages(0.05, scores, wrong)] * 3
    assert guaranteed_rule(limited, [(1, 1)]).thresholds == (1, 1)
    short = LimitedImages(0.05, scores[1:], wrong[1:])
    assert guaranteed_rule([*limited, short], [(1, 1)]).thresholds == (INF, INF)


def test_images_of_groups_count_as_what_they_are_worth():
    wrong, groups = np.arange(60) < 4, Grouping(np.arange(60) // 4)
    share = show_share(LimitedImages(0.3, np.ones((60, 2)), wrong, groups), (1, 1))
    alone = show_share(LimitedImages(0.3, np.ones((60, 2)), wrong), (1, 1))
    assert (share.answered, share.wrong) == (60, 4)
    assert share.p > alone.p
    worth = effective_sample(wrong, groups)
    assert worth.images < 60
    assert share.bound > alone.bound


def test_without_answers_nothing_is_shown():
    images = LimitedImages(0.3, np.zeros((5, 2)), np.zeros(5, dtype=bool))
    assert show_share(images, (1, 1)) == (0, 0, 1, 1)
    wrong = LimitedImages(0.3, np.ones((5, 2)), np.ones(5, dtype=bool))
    assert show_share(wrong, (1, 1)) == (5, 5, 1, 1)
    assert guaranteed_rule([images], np.empty((0, 2))).thresholds == (INF, INF)


def test_ceilings_are_about_other_classes_alone():
    p = np.array([[0.5, 0.5, 0.0], [0.1, 0.3, 0.6], [0.1, 0.9, 0.0], [0.4, 0.3, 0.3]])
    predicted = p.argmax(axis=1)
    answered = is_answered_within(p.max(axis=1), predicted, p, 0.45, (1, 0.3, 1))
    assert answered.tolist() == [False, True, True, False]
    assert is_answered_within(p.max(axis=1), predicted, None, 0.45, ()).tolist() == [
        True, True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("n", [130, 400])
@pytest.mark.parametrize("missed", ["at random", "by doubt"])
def test_limits_are_broken_as_rarely_as_is_said(n, missed):
    """A third of the images is of a class with its own limit; either of two may be broken.

    At random, just above the limits is wrong whatever the scores. By doubt, an image is wrong with
    its doubt, which is between 0 and 0.4; then the true share up to a doubt is half of that.
    """
    broken = 0
    for trial in range(400):
        generator = np.random.default_rng([n, trial])
        halves = []
        for _ in range(2):
            doubt = 0.4 * generator.random(n)
            inside = np.arange(n) % 3 == 0
            chance = doubt if missed == "by doubt" else np.full(n, 0.1 + 1e-9)
            wrong, scores = generator.random(n) < chance, np.stack([np.zeros(n), -doubt], axis=1)
            halves.append(
                (
                    scores,
                    [
                        LimitedImages(0.1, scores, wrong),
                        LimitedImages(0.1, scores[inside], wrong[inside]),
                    ],
                )
            )
        (scores, proposing), (_, judging) = halves
        rule = guaranteed_rule(judging, rules_to_try(scores, proposing))
        top = -rule.thresholds[1]
        broken += top >= 0 and (missed == "at random" or top / 2 > 0.1)
    assert broken <= most(400, 0.05)


def test_the_stored_simulation_breaks_no_limit_too_often():
    """2,000 draws of each setting; benchmarks/class_limits.py makes the table."""
    with (Path(__file__).parents[2] / "benchmarks/class_limits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"overconfident", "ties", "blind"}
    for row in rows:
        trials = int(row["trials"])
        assert trials == 2000
        assert round(trials * float(row["broken"])) <= most(trials, 0.05), row


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guaranteed_rule([], [[0.5]]), r"candidates for a rule must be numbers \[k, 2\]"),
        (lambda: guaranteed_rule([], [[0.5, math.nan]]), "candidates for a rule"),
        (lambda: rules_to_try(np.ones((0, 2)), []), r"numbers \[n, 2\], at least one row"),
        (lambda: rules_to_try(np.ones((2, 3)), []), "scores of images"),
        (
            lambda: rules_to_try([[1, 1]], [LimitedImages(1, np.ones((1, 2)), np.ones(1, bool))]),
            r"in \(0, 1\), found 1",
        ),
        (
            lambda: guaranteed_rule(
                [LimitedImages(0.1, np.ones((1, 2)), np.ones(1, bool))], [[1, 1]], certainty=1
            ),
            r"in \(0, 1\), found 1",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
