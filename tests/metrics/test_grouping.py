"""Images of one patient: resampled together, tested together, with intervals that hold."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.judge.differences import _effective_robustness as effective
from fairweather.metrics import (
    METRICS,
    Estimate,
    Resamples,
    paired_difference,
    recipe_estimate,
    to_score,
)
from fairweather.metrics import grouping as grouping_module
from fairweather.metrics.classification import F1, NPV, PPV, SENSITIVITY, SPECIFICITY
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import (
    Grouping,
    equal_means_p,
    independent_images,
    membership_p,
    share_interval,
    zou_donner_interval,
)
from fairweather.metrics.hidden_error import Observation, hidden_in_classes
from fairweather.metrics.intervals import evaluate_resamples, widen_for_groups
from fairweather.metrics.sample import Sample, bootstrap_weights, draw_counts
from fairweather.metrics.seeds import crossed_difference, crossed_mean
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import ShiftLevel
from tests.helpers import reference
from tests.helpers.chance import deviations, fewest, most, share_p

ROW = METRICS


def some_predictions(n, seed=0, classes=3):
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    logits = (2 * np.eye(classes)[labels] + generator.normal(size=(n, classes))).astype(np.float32)
    found = metrics.per_image(logits, labels)
    names = tuple("abc"[:classes])
    return Predictions(np.arange(n), labels, *found, logits=logits, classes=names)


def test_all_images_of_a_group_count_alike_and_groups_as_in_a_bootstrap_of_groups():
    grouping = Grouping.from_names(["b", "a", "b", "c", "a", "b"])
    counts = draw_counts(6, 50, seed=4, grouping=grouping)
    assert grouping.numbers.tolist() == [0, 1, 0, 2, 1, 0]
    assert np.array_equal(counts[:, [0, 1, 3]], bootstrap_weights(3, 50, seed=4))
    for same in ([0, 2, 5], [1, 4]):
        assert (counts[:, same] == counts[:, same[:1]]).all()


@pytest.mark.parametrize("wrong", [[], [0, 2], [-1, 0], [[0]]])
def test_group_numbers_are_checked(wrong):
    with pytest.raises(InputError, match="groups must be"):
        Grouping(np.array(wrong, dtype=np.int64))


def test_groups_for_other_images_are_refused():
    with pytest.raises(InputError, match="5 images and groups for 2"):
        draw_counts(5, 3, grouping=Grouping(np.array([0, 1])))


def test_groups_of_one_image_each_give_the_same_values_and_nearly_the_same_intervals():
    """All that differs is Student's t for the normal distribution, and n / (n - 1)."""
    n = 300
    predictions = some_predictions(n)
    alone = Resamples.draw(predictions.labels, 200)
    single = Resamples.draw(predictions.labels, 200, grouping=Grouping(np.arange(n)))
    assert np.array_equal(alone.counts, single.counts)
    plain = evaluate_resamples(predictions, alone)
    found = evaluate_resamples(predictions, single)
    widening = single.grouping.widening()
    assert 1 < widening < 1 + 2 / n * (1 + 1.96**2)
    for name, estimate in plain.items():
        assert found[name].value == estimate.value
        if estimate.column is None:
            centred, wider = (
                each.replicates - np.nanmean(each.replicates) for each in (estimate, found[name])
            )
            np.testing.assert_allclose(wider, widening * centred, rtol=1e-9, atol=1e-12)
        else:  # an area
            np.testing.assert_array_equal(found[name].column[single.order], estimate.column)
        assert found[name].groups == n
        assert estimate.groups is None
        assert found[name].errors == pytest.approx(estimate.errors)


def test_replicates_are_the_metric_on_the_drawn_groups():
    predictions = some_predictions(60)
    grouping = Grouping(np.arange(60) // 4)
    shared = Resamples.draw(predictions.labels, 20, grouping=grouping)
    found = evaluate_resamples(predictions, shared)["negative_log_likelihood"]
    drawn = bootstrap_weights(15, 20)
    slow = []
    for times in drawn:
        patients = [predictions.nll[4 * g : 4 * g + 4] for g in np.repeat(range(15), times)]
        slow.append(np.mean(np.concatenate(patients)))
    slow = np.array(slow)
    wider = slow.mean() + grouping.widening() * (slow - slow.mean())
    np.testing.assert_allclose(found.replicates, wider, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8),
    seed=st.integers(0, 1000),
)
def test_influences_give_the_mean_and_the_jackknifes_variance(sizes, seed):
    """One group left out after the other, written out."""
    grouping = Grouping(np.repeat(np.arange(len(sizes)), sizes))
    column = np.random.default_rng(seed).normal(size=sum(sizes))
    without = np.array([column[grouping.numbers != g].mean() for g in range(len(sizes))])
    expected = np.square(without - without.mean()).sum() * (1 - 1 / len(sizes))
    found = crossed_mean(column[:, None], grouping)
    assert found.value == pytest.approx(column.mean(), abs=1e-12)
    assert found.images == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert found.n == pytest.approx(sum(sizes) ** 2 / sum(m * m for m in sizes))


def test_repeating_every_image_of_a_group_changes_nothing():
    """Ten copies of each image tell no more than one: the trap that groups are for."""
    predictions = some_predictions(160)
    ten = np.repeat(np.arange(160), 10)
    columns = {
        name: column[ten]
        for name, column in vars(predictions).items()
        if isinstance(column, np.ndarray)
    }
    copies = Predictions(**columns, classes=predictions.classes)
    once = Resamples.draw(predictions.labels, 300, grouping=Grouping(np.arange(160)))
    often = Resamples.draw(copies.labels, 300, grouping=Grouping(ten))
    for name in ("accuracy", "brier_score", "rms_calibration_error"):
        one, other = (
            to_score(evaluate_resamples(*each)[name], ROW[name].bounds)
            for each in ((predictions, once), (copies, often))
        )
        assert other[:3] == pytest.approx(one[:3])
    assert one.n == 160
    assert other.n == 1600


def test_errors_of_one_group_count_for_less():
    grouping = Grouping(np.arange(1000) // 10)
    assert grouping.evenness(np.arange(1000) % 10 == 0) == 1
    assert grouping.evenness(np.arange(1000) == 7) == 1
    assert grouping.evenness(np.zeros(1000, dtype=bool)) == 1
    # Ten images of one group are worth about one.
    assert 0.1 < grouping.evenness(np.arange(1000) < 10) < 0.11


def slow_interval(hits, of):
    """Group by group: the outer ends of Korn and Graubard's interval and of Hall's.

    Groups of one size that have only hits or only misses are so many single images.
    """
    share, names = hits.mean(), sorted(set(of.tolist()))
    count = len(names)
    if count < 2:
        return 0.0, 1.0
    members = [hits[of == name].tolist() for name in names]
    if len(set(map(len, members))) == 1 and all(len(set(own)) == 1 for own in members):
        exact = scipy.stats.binomtest(sum(own[0] for own in members), count).proportion_ci()
        return exact.low, exact.high
    t = scipy.stats.t.ppf(0.975, count - 1) / scipy.stats.norm.ppf(0.975)
    excess = [(hits[of == name] - share).sum() for name in names]
    left_out = np.array([hits[of != name].mean() for name in names])
    # Around the share of all images; the mean of these shares differs where sizes do.
    variance = ((left_out - share) ** 2).sum() * (count - 1) / count
    if share in (0, 1):
        return tuple(map(float, clopper_pearson(share, count / t**2)))
    images = min(len(hits), share * (1 - share) / variance) if variance > 1e-20 else len(hits)
    low, high = map(float, clopper_pearson(share, images / t**2))
    if variance > 1e-20:
        # The mean of resampled groups has the skewness of one group over the root of the count.
        skewness = scipy.stats.skew(excess) / math.sqrt(count)
        draws = scipy.stats.norm.ppf([0.975, 0.025])
        if abs(skewness) > 1e-4:
            bends = np.cbrt(1 + skewness * (draws - skewness / 6))
            bent = share - math.sqrt(variance) * t * 3 / skewness * (bends - 1)
        else:
            bent = share - math.sqrt(variance) * t * draws
        low, high = min(low, bent[0]), max(high, bent[1])
    return max(low, 0), min(high, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(-1, 2)), min_size=1),
)
def test_the_interval_of_a_share_is_that_of_a_slow_reference(rows):
    hits, of, parts = (np.array(column) for column in zip(*rows, strict=True))
    grouping = Grouping.from_names(of)
    found = np.transpose(share_interval(hits, parts, 3, grouping))
    for part in range(3):
        inside = parts == part
        expected = slow_interval(hits[inside], of[inside]) if inside.any() else (np.nan, np.nan)
        assert found[part] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("share", [SENSITIVITY, SPECIFICITY, PPV, NPV, F1])
def test_one_group_for_each_image_hides_as_much_as_none(share):
    """One class is rare and never called, one is called without images, and two are not there."""
    labels = np.repeat([0, 1, 2], [20, 23, 4])
    predicted = np.where(labels == 2, 0, labels)
    predicted[:2] = 3
    logits = 3 * np.eye(6, dtype=np.float32)[predicted]
    found = Predictions(
        np.arange(47), labels, *metrics.per_image(logits, labels), logits, tuple("abcdef")
    )
    prepared = Resamples.draw(labels, 1).prepare(found)
    once = Sample(prepared, prepared.order, np.ones((1, 47)))
    hidden = [
        hidden_in_classes(share, "macro", Observation(once, 0.5, grouping=grouping))
        for grouping in (None, Grouping(np.arange(47)))
    ]
    assert tuple(hidden[1]) == pytest.approx(tuple(hidden[0]))


def test_groups_that_agree_within_are_worth_one_image_each():
    right, grouping = np.repeat(np.arange(40) != 7, 5), Grouping(np.arange(200) // 5)
    assert independent_images(right, grouping) == pytest.approx(39)  # of variance with 39 for 40
    assert independent_images(np.ones(200), grouping) == 40
    heavy = Grouping(np.maximum(np.arange(200) - 100, 0))  # one has half of the images
    assert independent_images(np.ones(200), heavy) == heavy.effective < 4


def test_without_groups_it_is_exact_and_repeated_images_tell_nothing_more():
    hits = np.arange(200) % 3 > 0
    none = np.zeros(200, dtype=int)
    found = np.ravel(share_interval(hits, none, 1, None))
    assert found == pytest.approx(np.ravel(clopper_pearson(hits.mean(), 200)))
    assert np.isnan(share_interval(hits, none - 1, 1, None)).all()
    single = np.ravel(share_interval(hits, none, 1, Grouping(np.arange(200))))
    assert single == pytest.approx(found)
    repeated = Grouping(np.arange(800) // 4)
    again = share_interval(hits.repeat(4), none.repeat(4), 1, repeated)
    assert np.ravel(again) == pytest.approx(single)


@pytest.mark.parametrize("hits", [5, 7, 1, 0])
def test_a_few_patients_with_one_image_each_have_the_exact_interval(hits):
    right, none = np.arange(7) < hits, np.zeros(7, dtype=int)
    expected = scipy.stats.binomtest(hits, 7).proportion_ci()
    for weights in (None, np.full(7, 0.3)):
        ends = share_interval(right, none, 1, Grouping(np.arange(7)), weights)
        assert np.ravel(ends) == pytest.approx([expected.low, expected.high], abs=1e-6)
    unequal = share_interval(right, none, 1, Grouping(np.arange(7)), np.arange(1.0, 8))
    assert np.ptp(unequal) > expected.high - expected.low


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_the_exact_interval_of_groups_that_agree_holds_whatever_their_correlation(
    share, correlation
):
    """Pairs of images: every set of 6 pairs by its probability, so nothing is drawn."""
    agree = share * (1 - share) * correlation
    chances = {2: share**2 + agree, 0: (1 - share) ** 2 + agree}
    chances[1] = 1 - sum(chances.values())
    missed = 0.0
    for pairs in itertools.product(chances, repeat=6):
        chance = math.prod(chances[hits] for hits in pairs)
        right = np.ravel([[hits > 0, hits > 1] for hits in pairs])
        [low], [high] = share_interval(right, np.zeros(12), 1, Grouping(np.arange(12) // 2))
        missed += chance * (not low <= share <= high)
    assert missed <= 0.05


def test_groups_of_one_share_are_worth_no_more_than_their_images():
    hits, grouping = np.tile(np.arange(7) < 1, 2), Grouping(np.repeat([0, 1], 7))
    found = np.ravel(share_interval(hits, np.zeros(14, dtype=int), 1, grouping))
    expected = clopper_pearson(1 / 7, 14 * (1.959964 / 12.706205) ** 2)
    assert found == pytest.approx(np.ravel(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "share"),
    [([200] + [10] * 20, 0.8), ([2000] + [10] * 20, 0.8), ([1000] + [10] * 99, 0.97)],
)
def test_an_interval_holds_where_one_group_has_most_of_the_images(sizes, share):
    generator, trials, of = np.random.default_rng(0), 600, np.repeat(np.arange(len(sizes)), sizes)
    both, held = 1 / 0.3 - 1, 0
    for _ in range(trials):
        chance = generator.beta(share * both, (1 - share) * both, len(sizes))
        hits = generator.random(len(of)) < chance[of]
        [low], [high] = share_interval(hits, np.zeros_like(of), 1, Grouping(of))
        held += low <= share <= high
    assert held >= fewest(trials, 0.93)


def test_of_one_group_nothing_is_known_and_the_interval_is_everything():
    found = share_interval([True, False, False], [0, 0, 0], 1, Grouping(np.zeros(3, dtype=int)))
    assert np.ravel(found) == pytest.approx([0, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("share", "patients"), [(0.8, 40), (0.95, 20), (0.95, 40), (0.98, 100), (0.99, 100)]
)
def test_an_interval_over_groups_holds_where_that_over_images_does_not(share, patients):
    """Ten images a patient, correlation 0.3: their shares of right answers differ."""
    generator, trials = np.random.default_rng(0), 1000
    of, none = np.arange(10 * patients) // 10, np.zeros(10 * patients, dtype=int)
    held = {True: 0, False: 0}
    both = 1 / 0.3 - 1
    shares = generator.beta(share * both, (1 - share) * both, size=(trials, patients))
    hits = generator.random((trials, 10 * patients)) < shares[:, of]
    for row in hits:
        for known in held:
            [low], [high] = share_interval(row, none, 1, Grouping(of) if known else None)
            held[known] += int(low <= share <= high)
    assert fewest(trials, 0.93) <= held[True]
    assert held[False] < most(trials, 0.85)


def test_one_group_has_no_interval():
    predictions = some_predictions(30)
    shared = Resamples.draw(predictions.labels, 20, grouping=Grouping(np.zeros(30, dtype=np.int64)))
    score = to_score(evaluate_resamples(predictions, shared)["accuracy"], (0, 1))
    assert score.too_few
    assert score.value > 0


def test_all_right_is_as_sure_as_the_number_of_groups():
    """100 images of 10 patients, all right: the interval of 10 images, not of 100."""
    drawn = Estimate(1.0, np.ones(50), n=100, interval="share")
    wide = to_score(widen_for_groups(drawn, Grouping(np.repeat(np.arange(10), 10))), (0, 1))
    assert wide[:3] == pytest.approx(to_score(Estimate(1.0, np.ones(50), 10, "share"), (0, 1))[:3])
    assert wide.n == 100


def test_a_group_of_all_right_images_is_not_thought_to_differ():
    """Ten of ten right beside 95 %: Student's t sees no spread in the ten, and finds p < 0.001."""
    right, inside = np.ones((1010, 1)), np.arange(1010) < 10
    right[10:60] = 0
    assert membership_p(right, inside, None, np.random.default_rng(0)) > 0.5


@pytest.mark.parametrize(
    ("group", "trials"),
    [
        (20, 60),
        pytest.param(20, 150, marks=pytest.mark.nightly),
        pytest.param(3, 150, marks=pytest.mark.nightly),
    ],
)
def test_random_groups_of_patients_differ_as_rarely_as_the_level_says(group, trials):
    grouping = Grouping(np.repeat(np.arange(60), np.arange(60) % 7 + 1))
    rejected = []
    for trial in range(trials):
        generator = np.random.default_rng([group, trial])
        right = draw_trial(generator, grouping, 0.2)[:, :1]
        inside = np.isin(grouping.numbers, generator.permutation(60)[:group])
        rejected.append(membership_p(right, inside, grouping, generator) < 0.05)
    assert np.sum(rejected) <= most(trials, 0.05)


def test_a_difference_of_groups_is_found_and_its_interval_is_newcombe_s():
    right, inside = np.zeros((200, 1)), np.arange(200) < 100
    right[:90] = 1
    right[100:160] = 1
    assert membership_p(right, inside, None, np.random.default_rng(0)) < 1e-5
    sides = [
        Score(share, *map(float, metrics.wilson_interval(share, 100)), 100) for share in (0.9, 0.6)
    ]
    low, high = zou_donner_interval(*sides)
    first, second = (metrics.wilson_interval(share, 100) for share in (0.9, 0.6))
    assert low == pytest.approx(0.3 - np.hypot(0.9 - first[0], second[1] - 0.6))
    assert high == pytest.approx(0.3 + np.hypot(first[1] - 0.9, 0.6 - second[0]))


def test_several_intervals_that_hold_together_are_wider_for_recipes_too():
    draws = np.random.default_rng(0).normal(0, 0.01, (3, 200))
    values = (0.8, 0.84, 0.88)
    seeds = [Estimate(v, v + d, 500, "share") for v, d in zip(values, draws, strict=True)]
    recipe = recipe_estimate(seeds)
    alone, together = (to_score(each, (0, 1)) for each in (recipe, recipe.together(9)))
    assert together.low < alone.low
    assert together.high > alone.high


def test_effective_robustness_takes_replicates_of_groups_beyond_1():
    """Those of an accuracy near 1 are widened beyond it."""
    generator = np.random.default_rng(0)
    grouping = Grouping(np.arange(200) // 10)
    clean, shifted = ShiftLevel("clean", "none"), ShiftLevel("fog", "mean")

    def estimates(value):
        drawn = Estimate(value, value + generator.normal(0, 0.01, 100), 200, "share")
        return widen_for_groups(drawn, grouping)

    models = [{clean: estimates(v), shifted: estimates(v - 0.1)} for v in (0.9, 0.95, 0.99, 0.993)]
    assert models[-1][clean].replicates.max() > 1
    found = effective(models[-1], models[:-1], shifted)
    assert np.isfinite(found.replicates).all()
    assert found.groups == 20


# ---------------------------------------------------------------- coverage


def draw_trial(generator, grouping, correlation):
    """Right or wrong of two models with equal chances, with this intra-class correlation."""
    both = 1 / correlation - 1
    chance = generator.beta(0.8 * both, 0.2 * both, grouping.count)
    return (generator.random((len(grouping.numbers), 2)) < chance[grouping.numbers, None]).astype(
        float
    )


def test_intervals_hold_with_20_patients_where_those_over_images_do_not():
    """10 images a patient, a correlation of 0.3: benchmarks/groups.py in short."""
    trials, grouping = 200, Grouping(np.repeat(np.arange(20), 10))
    held, over_images, paired, rejected = [], [], [], []
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        columns = draw_trial(generator, grouping, 0.3)
        counts = draw_counts(200, 200, seed=trial, grouping=grouping).astype(float)
        replicates = (counts @ columns / counts.sum(axis=1, keepdims=True)).T
        estimates = [
            widen_for_groups(Estimate(value, drawn, 200, "share"), grouping)
            for value, drawn in zip(columns.mean(axis=0), replicates, strict=True)
        ]
        score = to_score(estimates[0], (0, 1))
        held.append(score.low <= 0.8 <= score.high)
        plain = bootstrap_weights(200, 200, seed=trial).astype(float) @ columns[:, 0] / 200
        score = to_score(Estimate(columns[:, 0].mean(), plain, 200, "share"), (0, 1))
        over_images.append(score.low <= 0.8 <= score.high)
        gap = paired_difference(*estimates)
        paired.append(gap.low <= 0 <= gap.high)
        rejected.append(crossed_difference(columns[:, [0]], columns[:, [1]], grouping).p < 0.05)
    assert np.sum(held) >= fewest(trials, 0.93)
    assert np.sum(paired) >= fewest(trials, 0.93)
    assert np.sum(over_images) <= most(trials, 0.8)
    assert share_p(rejected, 0.05) > 1e-4


def test_where_few_patients_have_most_images_p_is_rarely_small_by_chance():
    """Pareto sizes, the largest of 20 has about a quarter of all: benchmarks/groups.py."""
    trials, rejected = 1000, 0
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        sizes = np.minimum(np.ceil(3 * (1 + generator.pareto(1.3, 20))), 1000).astype(int)
        grouping = Grouping(np.repeat(np.arange(20), sizes))
        chances = generator.beta(0.8 * 7 / 3, 0.2 * 7 / 3, (20, 2))  # a correlation of 0.3
        right = (generator.random((len(grouping.numbers), 2)) < chances[grouping.numbers]).astype(
            float
        )
        rejected += crossed_difference(right[:, :1], right[:, 1:], grouping).p < 0.05
    assert rejected <= most(trials, 0.06)


def hits_and_parts(sizes, hits):
    right = [[1.0] * k + [0.0] * (n - k) for n, k in zip(sizes, hits, strict=True)]
    return np.concatenate(right)[:, None], np.repeat(range(len(sizes)), sizes)


@pytest.mark.parametrize(
    ("sizes", "hits"),
    [
        ((9, 9), (9, 1)),
        ((3, 5, 4), (3, 1, 2)),
        ((6, 6, 6), (6, 3, 0)),
        ((2, 7, 3, 4), (0, 7, 1, 2)),
    ],
)
def test_differences_between_sites_have_the_exact_p_value_of_freeman_and_halton(sizes, hits):
    p = equal_means_p(*hits_and_parts(sizes, hits), None, np.random.default_rng(0))
    assert p == pytest.approx(reference.freeman_halton(sizes, hits))
    if len(sizes) == 2:
        table = [[k, n - k] for n, k in zip(sizes, hits, strict=True)]
        assert p == pytest.approx(scipy.stats.fisher_exact(table).pvalue)


def test_tables_that_are_too_many_are_drawn(monkeypatch):
    columns, parts = hits_and_parts((6, 6, 6), (5, 3, 1))
    exact = equal_means_p(columns, parts, None, np.random.default_rng(0))
    monkeypatch.setattr(grouping_module, "MOST_TABLES", 1)
    drawn = equal_means_p(columns, parts, None, np.random.default_rng(0))
    error = np.sqrt(exact * (1 - exact) / grouping_module.MOST_SUBSETS)
    assert drawn == pytest.approx(
        exact, abs=deviations() * error + 2 / grouping_module.MOST_SUBSETS
    )


def test_a_test_of_several_parts_counts_all_divisions():
    right, parts = np.array([1, 1, 0, 1, 0, 0, 0.0]), np.array([0, 0, 0, 1, 1, 2, 2])

    def spread(division):
        inside = [right[division == part] for part in range(3)]
        return sum(len(of_part) * (of_part.mean() - right.mean()) ** 2 for of_part in inside)

    every = [spread(np.array(order)) for order in set(itertools.permutations(parts.tolist()))]
    exact = np.mean([far >= spread(parts) - 1e-12 for far in every])
    alone = Grouping(np.arange(len(right)))  # without it, divisions are ordered by their chance
    p = equal_means_p(right[:, None], parts, alone, np.random.default_rng(0))
    rounds = min(grouping_module.MOST_SUBSETS, grouping_module.ENOUGH_AS_FAR / exact)
    assert abs(p - exact) < deviations() * np.sqrt(exact * (1 - exact) / rounds) + 1 / rounds
    # Of two parts it is the same test as of one of them.
    two = np.minimum(parts, 1)
    generators = np.random.default_rng(1), np.random.default_rng(1)
    assert equal_means_p(right[:, None], two, None, generators[0]) == membership_p(
        right[:, None], two == 0, None, generators[1]
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_a_test_of_several_parts_keeps_its_size_and_finds_a_gap(grouped, monkeypatch):
    monkeypatch.setattr("fairweather.metrics.grouping.MOST_SUBSETS", 199)
    rng, trials, rejected = np.random.default_rng(0), 150, {0.0: 0, 0.5: 0}
    for gap in rejected:
        for _ in range(trials):
            of_patient = rng.random(60)
            patient = np.repeat(np.arange(60), 3) if grouped else np.arange(60)
            site = rng.permutation(np.arange(60) % 3)
            rate = np.clip(0.2 + 0.6 * of_patient - gap * (site == 2) * of_patient, 0, 1)[patient]
            right = (rng.random(len(patient)) < rate).astype(float)
            grouping = Grouping(patient) if grouped else None
            rejected[gap] += equal_means_p(right[:, None], site[patient], grouping, rng) <= 0.05
    assert rejected[0.0] <= most(trials, 0.05)
    assert rejected[0.5] > rejected[0.0]


def test_groups_are_permuted_whole():
    # All images of a patient are alike: three patients a site say little, however many images.
    patient = np.repeat(np.arange(9), 50)
    right, site = (patient % 3 == 0).astype(float), patient // 3
    alone = np.random.default_rng(0)
    assert equal_means_p(right[:, None], site, Grouping(patient), alone) == 1.0
    moved = (patient < 3).astype(float)
    p = equal_means_p(moved[:, None], site, Grouping(patient), np.random.default_rng(0))
    assert 0.005 < p < 0.1
    assert equal_means_p(moved[:, None], site, None, np.random.default_rng(0)) <= 1 / 10_000
    across = Grouping(np.arange(450) % 50)  # a patient with images of several sites
    assert np.isnan(equal_means_p(moved[:, None], site, across, np.random.default_rng(0)))
