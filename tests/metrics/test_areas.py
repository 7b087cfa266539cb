"""Intervals of areas under curves: DeLong's and Obuchowski's variances, and what they hold."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from benchmarks import areas as simulated

from fairweather import metrics
from fairweather.metrics import Estimate, Grouping, areas, paired_difference, to_score
from fairweather.metrics.areas import (
    area_interval,
    auc_column,
    column_spread,
    disjoint_pairs,
    least_pairs,
    precision_column,
    unit_column,
)
from fairweather.metrics.metric import class_metric_names
from fairweather.runs.scores import add_means, add_worst
from fairweather.types.measurement import Predictions
from tests.helpers import reference
from tests.helpers.chance import FALSE_ALARM, mean_p, most

# A column is stored with seven digits, of which sums of squares lose one.
SEVEN_DIGITS = 1e-6
NAMES = ["macro_auc", "macro_pr_auc"]

# Turck et al. 2010: outcome, grade (WFNS) and 100 times S100B of 113 patients; pROC's data `aSAH`.
GOOD = (
    "111111111111111111111111111111111111122222222222222222222333444444445555",
    "4 4 4 4 5 5 6 6 7 7 7 7 8 8 8 8 9 9 9 9 10 10 10 10 11 11 13 13 14 14 14 15 16 18 19 48 50 4 "
    "7 8 8 9 9 10 10 10 11 11 13 14 15 15 15 16 17 19 43 5 7 33 16 17 28 32 34 38 45 47 24 46 "
    "47 50",
)
POOR = (
    "11222222222222344444444555555555555555555",
    "7 8 7 7 9 9 10 10 11 14 25 30 41 58 13 13 16 23 26 27 48 71 96 3 12 22 32 33 35 44 44 49 52 "
    "56 70 71 74 77 82 86 207",
)


def drawn(n=300, classes=4, seed=0, decimals=None, shift=0.0):
    """Predictions of a middling model; other shifts are other answers to the same images."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    common, own = generator.normal(size=(2, n, classes))
    logits = common + shift * own + 1.5 * np.eye(classes)[labels]
    logits = (logits if decimals is None else logits.round(decimals)).astype("f4")
    columns = metrics.per_image(logits, labels)
    names = tuple("abcdefgh"[:classes])
    return Predictions(np.arange(n), labels, *columns, logits, names, False)


def estimated(predictions, names=NAMES, grouping=None):
    shared = metrics.Resamples.draw(predictions.labels, 1, grouping=grouping)
    return metrics.evaluate_resamples(predictions, shared, None, names)


def variance(column, grouping=None):
    return column_spread(unit_column(column, grouping)).variance


def binary(n=60, seed=0, decimals=None):
    generator = np.random.default_rng(seed)
    positive = generator.random(n) < 0.4
    scores = generator.normal(size=(2, n)) + positive
    return positive, scores if decimals is None else scores.round(decimals)


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("design", ["images", "of one side", "of both sides"])
def test_variances_are_those_of_the_slow_reference(design, decimals):
    positive, (first, second) = binary(decimals=decimals)
    grouping = np.arange(60)
    if design == "of one side":
        grouping = np.where(positive, grouping // 7, 50 + grouping // 5)
    if design == "of both sides":  # each group has some of either side
        for side in (positive, ~positive):
            grouping[side] = np.arange(side.sum()) % 8
    grouping = Grouping.from_names(grouping).numbers
    columns = [auc_column(scores, positive, grouping) for scores in (first, second)]
    for column, scores in zip(columns, (first, second), strict=True):
        expected = reference.auc_covariance(scores, scores, positive, grouping)
        assert variance(column, grouping) == pytest.approx(expected, rel=SEVEN_DIGITS)
    parts = [
        reference.auc_covariance(a, b, positive, grouping)
        for a, b in ((first, first), (second, second), (first, second))
    ]
    difference = np.subtract(*(unit_column(column, grouping) for column in columns))
    expected = parts[0] + parts[1] - 2 * parts[2]
    # The difference of two columns keeps fewer digits than they have.
    assert column_spread(difference).variance == pytest.approx(expected, rel=10 * SEVEN_DIGITS)


def test_groups_of_one_image_each_change_nothing():
    predictions = drawn()
    alone = estimated(predictions, grouping=Grouping(np.arange(300)))
    for name, estimate in estimated(predictions).items():
        assert to_score(alone[name]) == to_score(estimate)


@pytest.mark.parametrize("decimals", [None, 1])
def test_scipy_divides_by_the_same_variance(decimals):
    """Brunner and Munzel's statistic is the AUC less 1/2, in units of DeLong's deviation."""
    positive, (scores, _) = binary(decimals=decimals)
    area = np.array(reference.placements(scores, positive))[positive].mean()
    statistic = (area - 0.5) / math.sqrt(variance(auc_column(scores, positive)))
    expected = scipy.stats.brunnermunzel(scores[~positive], scores[positive]).statistic
    assert statistic == pytest.approx(expected, rel=SEVEN_DIGITS)


def test_the_paired_test_is_that_of_proc():
    """`roc.test(aSAH$outcome, aSAH$wfns, aSAH$s100b)`: Z, p and the interval that pROC prints."""
    grades, protein = (
        np.array([int(number) for of in (GOOD, POOR) for number in read(of[at])], dtype=float)
        for at, read in ((0, list), (1, str.split))
    )
    positive = np.arange(113) >= 72
    areas_of = [
        np.mean(np.array(reference.placements(each, positive))[positive])
        for each in (grades, protein)
    ]
    assert np.round(areas_of, 7).tolist() == [0.8236789, 0.7313686]
    columns = [unit_column(auc_column(each, positive), None) for each in (grades, protein)]
    gap = areas_of[0] - areas_of[1]
    deviation = math.sqrt(column_spread(columns[0] - columns[1]).variance)
    assert round(gap / deviation, 5) == 2.20898
    assert round(2 * scipy.stats.norm.sf(gap / deviation), 5) == 0.02718
    ends = scipy.stats.norm.interval(0.95, gap, deviation)
    assert np.round(ends, 5).tolist() == [0.01041, 0.17421]
    # Ours has Student's t: wider, since few patients carry the variance.
    second, first = (
        Estimate(area, np.empty(0), 113, "area", column=column)
        for area, column in zip(areas_of, columns, strict=True)
    )
    score = paired_difference(first, second)
    assert score.low < ends[0] < ends[1] < score.high
    assert score.value == pytest.approx(gap)


@pytest.mark.parametrize("decimals", [None, 0])
@pytest.mark.parametrize("name", NAMES)
def test_a_column_is_what_each_image_adds_to_first_order(name, decimals):
    """Each image counts a little more, and a little less."""
    predictions, little = drawn(60, decimals=decimals), 1e-4
    scores, labels = metrics.softmax(predictions.logits), predictions.labels
    rows = [1 + sign * little * np.eye(60) for sign in (1, -1)]
    more, less = (getattr(metrics, name)(scores, labels, row) for row in rows)
    slopes = (more - less) / (2 * little)
    if name == "macro_auc":
        column_of, sides = auc_column, [(labels == k).sum() for k in range(4)]
        # DeLong's variances divide by one image less of each side.
        unscaled = [
            np.where(labels == k, math.sqrt((m - 1) / m), math.sqrt((59 - m) / (60 - m)))
            for k, m in enumerate(sides)
        ]
    else:
        column_of, unscaled = precision_column, [math.sqrt(59 / 60)] * 4
    columns = [column_of(scores[:, k], labels == k) * unscaled[k] for k in range(4)]
    # The third power of `little` is left out of the slopes, times at most 60.
    np.testing.assert_allclose(slopes, np.mean(columns, axis=0), atol=60 * little**2)


def test_the_order_of_the_images_changes_no_interval():
    """Not by a bit: of classes, means over classes and levels, and differences; with groups."""
    cells = [drawn(200, shift=shift, decimals=1) for shift in (0.3, 0.8)]
    of = np.random.default_rng(1).integers(40, size=200)
    names = [*NAMES, *(f"{kind}/{name}" for kind in ("auc", "pr_auc") for name in "abcd")]
    found = []
    for seed in range(4):
        rows = np.random.default_rng(seed).permutation(200) if seed else np.arange(200)
        for grouping in (None, Grouping.from_names(of[rows])):
            low, high = (estimated(cell.take(rows), names, grouping) for cell in cells)
            mean = add_means(
                (("m", "0", "snow", str(k)), each) for k, each in enumerate((low, high))
            )
            every = [low, high, mean["m", "0", "snow", "mean"]]
            scores = [to_score(each[name], (0.0, 1.0)) for each in every for name in names]
            found.append(scores + [paired_difference(low[name], high[name]) for name in names])
    for places in (range(0, 8, 2), range(1, 8, 2)):
        assert len({repr(found[place]) for place in places}) == 1
    assert found[0] != found[1]


def test_means_have_the_mean_column_and_the_worst_its_own():
    cells = [drawn(shift=shift) for shift in (0.3, 2.0)]
    low, high = (estimated(each) for each in cells)
    table = add_worst(add_means((("m", "0", "snow", str(k)), e) for k, e in enumerate((low, high))))
    for name in NAMES:
        mean, worst = (table["m", "0", "snow", level][name] for level in ("mean", "worst"))
        expected = (low[name].column.astype(float) + high[name].column) / 2
        np.testing.assert_allclose(mean.column, expected, rtol=1e-6, atol=1e-6)
        assert mean.value == pytest.approx((low[name].value + high[name].value) / 2)
        assert worst.value == high[name].value
        assert worst.column is high[name].column


def test_seeds_add_their_own_variance():
    """Two seeds with the same answers differ in nothing; others widen the interval."""
    same = [estimated(drawn(shift=0.5)) for _ in range(2)]
    other = [estimated(drawn(shift=shift)) for shift in (0.2, 1.0)]
    for name in NAMES:
        one = to_score(same[0][name], (0.0, 1.0))
        both = to_score(metrics.recipe_estimate([each[name] for each in same]), (0.0, 1.0))
        assert both.low <= one.low < one.high <= both.high
        apart = metrics.recipe_estimate([each[name] for each in other])
        wide = to_score(apart, (0.0, 1.0))
        images = to_score(metrics.mean_estimate([each[name] for each in other]), (0.0, 1.0))
        assert wide.high - wide.low > images.high - images.low
        (part,) = apart.recipes
        assert part.between == pytest.approx(np.var([e[name].value for e in other], ddof=1) / 2)
        # The residual mean square of two seeds is half of the variance of their difference.
        gap = other[0][name].column.astype(float) - other[1][name].column
        assert part.shared == pytest.approx(np.square(gap).mean() / 4, rel=1e-3)
        alone = paired_difference(*(each[name] for each in other))
        recipes = paired_difference(
            metrics.recipe_estimate([same[0][name], other[0][name]]), other[1][name]
        )
        assert recipes.low < recipes.value < recipes.high
        assert alone.low < alone.value < alone.high


def test_intervals_that_hold_together_are_wider():
    estimate = estimated(drawn())["macro_auc"]
    alone, five = (to_score(estimate.together(tests), (0.0, 1.0)) for tests in (1, 5))
    assert alone == to_score(estimate, (0.0, 1.0))
    assert five.low < alone.low < alone.high < five.high


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_perfect_area_is_no_proof_of_perfection(value):
    """At 1, all of so many disjoint pairs are right: exactly Clopper and Pearson's interval."""
    low, high = area_interval(value, np.zeros(200, dtype=np.float32), 40)
    end = 1 - 0.025 ** (1 / 40)
    assert (low, high) == pytest.approx((0, end) if value == 0 else (1 - end, 1))
    five = area_interval(1.0, np.zeros(200, dtype=np.float32), 40, tests=5)
    assert five[0] == pytest.approx(0.005 ** (1 / 40))


def test_two_perfect_models_may_differ():
    perfect = Estimate(1.0, np.empty(0), 80, "area", column=np.zeros(80, np.float32), pairs=40)
    score = paired_difference(perfect, perfect)
    # Zou and Donner: of two intervals that each reach 1 - 0.025 ** (1 / 40) far.
    reach = 1 - 0.025 ** (1 / 40)
    assert score[:3] == pytest.approx((0, -reach, reach))
    other = estimated(drawn())["macro_auc"]
    same = paired_difference(other, other)
    assert same.value == 0  # the same ranks: any transformation of scores keeps both
    assert 0 < same.high == -same.low < 0.05  # other images may be ranked otherwise


def test_a_score_without_ties_broken_is_worth_its_pairs():
    """All scores are equal: the area is a half, and no placement varies."""
    positive = np.arange(60) < 20
    column = unit_column(auc_column(np.zeros(60), positive), None)
    assert not column.any()
    low, high = area_interval(0.5, column, disjoint_pairs(positive))
    assert low == pytest.approx(scipy.stats.beta.ppf(0.025, 10, 11))
    assert high == pytest.approx(scipy.stats.beta.ppf(0.975, 11, 10))


def test_few_images_that_carry_the_variance_have_few_degrees_of_freedom():
    generator = np.random.default_rng(0)
    alike = generator.choice([-1.0, 1.0], size=1000)
    assert column_spread(alike).freedom == 999
    few = np.zeros(1000)
    few[:4] = 1
    assert column_spread(few).freedom == pytest.approx(1 / (1 / 4 - 1 / 1000))
    # Of a normal sample the kurtosis is 3, up to its standard error of the root of 24 / n.
    kurtosis = 1 + 1000 / column_spread(generator.normal(size=1000)).freedom
    assert abs(kurtosis - 3) < 4 * math.sqrt(24 / 1000)


def test_one_class_has_no_area():
    predictions = drawn(40, classes=2)
    one = dataclasses.replace(predictions, labels=np.zeros(40, dtype=np.int64))
    names = [*NAMES, *class_metric_names(one.classes)]
    found = estimated(one, names)
    for name in [name for name in names if "auc" in name]:
        assert math.isnan(found[name].value), name
        assert np.isnan(to_score(found[name], (0.0, 1.0))[:3]).all(), name
    for area in (metrics.macro_auc, metrics.macro_pr_auc):
        assert math.isnan(area(metrics.softmax(one.logits), one.labels))
    # A row of weights that counts one class only, beside one that counts both.
    rows = np.stack([predictions.labels == 0, np.ones(40)]).astype(float)
    alone, both = metrics.macro_pr_auc(
        metrics.softmax(predictions.logits), predictions.labels, rows
    )
    assert math.isnan(alone)
    assert 0 < both < 1


def test_one_image_of_a_class_says_nothing_of_its_variance():
    positive = np.arange(50) == 7
    scores = np.random.default_rng(0).random(50)
    for column_of in (auc_column, precision_column):
        assert np.isfinite(column_of(scores, positive)).all()
    labels = np.where(np.arange(90) == 0, 2, np.arange(90) % 2)
    logits = np.random.default_rng(1).normal(size=(90, 3)).astype("f4")
    single = Predictions(
        np.arange(90), labels, *metrics.per_image(logits, labels), logits, ("a", "b", "c"), False
    )
    found = estimated(single, [*NAMES, "auc/c", "auc/a"])
    assert to_score(found["auc/c"]).too_few
    assert not to_score(found["auc/a"]).too_few
    assert to_score(found["macro_auc"]).too_few  # and so are means over all classes


@pytest.mark.parametrize(("images", "few"), [(4, True), (5, False)])
def test_a_mean_over_classes_needs_five_images_of_the_rarest(images, few):
    labels = np.where(np.arange(90) < images, 2, np.arange(90) % 2)
    logits = np.random.default_rng(1).normal(size=(90, 3)).astype("f4")
    columns = metrics.per_image(logits, labels)
    predictions = Predictions(np.arange(90), labels, *columns, logits, ("a", "b", "c"), False)
    assert (predictions.labels != predictions.predicted).sum() >= 20
    for name, estimate in estimated(predictions).items():
        assert to_score(estimate).too_few == few, name
    patients = estimated(predictions, grouping=Grouping(np.arange(90) // 2))
    assert all(to_score(each).too_few for each in patients.values())


@pytest.mark.parametrize(("images", "few"), [(29, True), (30, False)])
def test_a_mean_over_two_classes_needs_as_many_images_as_each_of_them(images, few):
    labels = (np.arange(120) < images).astype(int)
    logits = np.random.default_rng(1).normal(size=(120, 2)).astype("f4")
    columns = metrics.per_image(logits, labels)
    predictions = Predictions(np.arange(120), labels, *columns, logits, ("a", "b"), False)
    found = estimated(predictions, [*NAMES, "auc/a", "auc/b", "pr_auc/b"])
    assert {name: to_score(each).too_few for name, each in found.items()} == dict.fromkeys(
        found, few
    )
    assert found["macro_auc"].value == pytest.approx(found["auc/b"].value)


def test_the_bias_of_the_average_precision_is_what_labels_by_chance_have():
    """Of the images above a positive, as large a share is positive as of all other images."""
    generator, n, off = np.random.default_rng(0), 40, []
    for _ in range(1000):
        positive = generator.random(n) < 0.3
        scores, m = generator.normal(size=n), positive.sum()
        precision = reference.average_precision(scores, positive)
        top = positive[scores.argmax()]  # nothing is above it
        expected = (top + (m - top) * (m - 1) / (n - 1)) / m
        off.append(precision - areas.precision_bias(scores, positive) - expected)
    assert mean_p(off, 0) > FALSE_ALARM
    tied = np.array([0.5, 0.5, 0.5, 0.2])
    # Two of three at or above are positive; of the two others, one is.
    found = areas.precision_bias(tied, np.array([True, True, False, False]))
    assert found == pytest.approx(2 / 3 - 1 / 2)


def test_the_lower_end_is_corrected_for_the_bias_and_the_upper_is_not():
    column = np.array([0.1, -0.1] * 50, dtype=np.float32)
    _, high = area_interval(0.6, column, 50)
    corrected = area_interval(0.6, column, 50, bias=0.02)
    assert corrected == (area_interval(0.58, column, 50)[0], high)
    first, second = (
        Estimate(value, np.empty(0), 100, "area", column=each, pairs=50, bias=bias)
        for value, each, bias in ((0.5, 0 * column, 0.01), (0.6, column, 0.03))
    )
    score = paired_difference(first, second)
    reach = column_spread(column).reach()
    assert score[:3] == pytest.approx((0.1, 0.08 - reach, 0.1 + reach))


def test_an_image_is_in_one_pair_only():
    positive = np.array([True] * 5 + [False] * 9)
    assert disjoint_pairs(positive) == 5
    assert disjoint_pairs(positive, np.zeros(14, dtype=int)) == 0
    assert disjoint_pairs(positive, np.arange(14) // 2) == 3
    # Groups with images of both sides are used once.
    assert disjoint_pairs(positive, np.arange(14) % 5) == 2
    assert areas.disjoint_pairs(np.ones(4, dtype=bool)) == 0


LONE = np.array([1.0] + [0.0] * 99, dtype=np.float32)  # Student's t reaches nearly to 0 and 1


@pytest.mark.parametrize("tests", [1, 5])
@pytest.mark.parametrize("value", [0.02, 0.5, 0.9, 0.996, 0.99999])
@pytest.mark.parametrize("least", [0.9, 7.5, 99, 20_000])
def test_the_bound_is_that_of_the_slow_reference(value, least, tests):
    expected = reference.bound_ends(value, least, tests)
    assert area_interval(value, LONE, 0.1, tests=tests, least=least) == pytest.approx(
        expected, abs=1e-10
    )
    narrow = area_interval(value, LONE / 1e6, np.inf, tests=tests)
    assert area_interval(value, LONE / 1e6, np.inf, tests=tests, least=least) == tuple(
        np.clip(narrow, *expected)
    )


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("images", [1, 5, 30, 100])
def test_the_bound_misses_in_at_most_two_and_a_half_percent(images, side):
    """Each positive is above all of many negatives or below all, so that the AUC is a share."""
    rights = np.arange(images + 1)
    ends = [area_interval(right / images, LONE, 0.1, least=images)[side] for right in rights]
    for truth in [*np.linspace(0.001, 0.999, 400), 1 - 1e-5]:
        missed = np.greater(ends, truth) if side == 0 else np.less(ends, truth)
        assert scipy.stats.binom.pmf(rights, images, truth)[missed].sum() <= 0.025 + 1e-9


DESIGNS = {
    "two classes": ([0, 0, 1, 1, 1], None),
    "one positive": ([0, 1, 1, 1, 1, 1], None),
    "three images": ([0, 1, 2], None),
    "three classes": ([0, 0, 1, 1, 2, 2], None),
    "unequal classes": ([0, 0, 0, 0, 1, 2], None),
    "groups of one class": ([0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 2, 2, 3, 4, 4]),
    "groups of two classes": ([0, 1, 0, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 2, 2, 3]),
    "groups of three classes": ([0, 1, 2, 0, 1, 2, 2], [0, 0, 0, 1, 1, 2, 3]),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_a_mean_of_areas_is_as_certain_as_its_least_pairs(design):
    """All outcomes of a few groups that each have two: no exponential mean exceeds the bound's."""
    labels, groups = DESIGNS[design]
    labels = np.array(labels)
    groups = np.arange(len(labels)) if groups is None else np.array(groups)
    pairs, count = least_pairs(labels, groups), groups.max() + 1
    generator, classes = np.random.default_rng(0), labels.max() + 1
    for trial in range(20):
        chance = generator.random(count) ** (1 + trial % 3)
        rows = generator.normal(size=(2, len(labels), classes))
        rows[0] += 3 * np.eye(classes)[labels]  # one is mostly right
        found = []
        for outcome in itertools.product((0, 1), repeat=count):
            at = np.array(outcome)
            values = rows[at[groups], np.arange(len(labels))]
            weight = np.where(at == 1, chance, 1 - chance).prod()
            found.append((weight, reference.macro_auc(values, labels)))
        weights, areas_of = np.transpose(found)
        mean = weights @ areas_of
        for slope in (-30, -5, -1, 1, 5, 30):
            exact = np.log(weights @ np.exp(slope * areas_of))
            bound = pairs * np.log(1 - mean + mean * np.exp(slope / pairs))
            assert exact <= bound + 1e-9, (trial, slope)


def test_more_pairs_would_be_too_many():
    """Positives above all negatives or below all: the AUC is a share of the positives."""
    positive = np.arange(3000) < 3
    pairs, share, slope = least_pairs(positive), 0.6, 5.0
    assert pairs == pytest.approx(3, rel=1e-3)
    exact, bound, fewer = (
        k * np.log(1 - share + share * np.exp(slope / k)) for k in (3, 1.01 * pairs, pairs)
    )
    assert bound < exact < fewer


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_least_pairs_are_those_of_the_slow_reference(classes):
    generator = np.random.default_rng(classes)
    labels = np.minimum(generator.geometric(0.4, size=60) - 1, classes - 1)
    images = np.arange(60)
    assert least_pairs(labels) == pytest.approx(reference.least_pairs(labels, images))
    assert least_pairs(labels) == least_pairs(labels, images)
    assert least_pairs(labels + 3) == least_pairs(labels[::-1]) == least_pairs(labels)
    for groups in (images // 4, generator.integers(12, size=60)):
        _, groups = np.unique(groups, return_inverse=True)
        assert 0 < least_pairs(labels, groups) <= reference.least_pairs(labels, groups) + 1e-9
    # Groups of one class and one size: exactly as many pairs as if they were images.
    repeated, groups = np.repeat(labels, 5), np.repeat(images, 5)
    assert least_pairs(repeated, groups) == pytest.approx(least_pairs(labels))


def test_the_least_pairs_of_two_classes_are_nearly_the_images_of_the_rarer():
    for rare, others in ((1, 500), (30, 30), (100, 900)):
        positive = np.arange(rare + others) < rare
        assert rare * others / (others + 1) == pytest.approx(least_pairs(positive))
        assert least_pairs(~positive) == least_pairs(positive)
    assert least_pairs(np.ones(9, dtype=bool)) == 0
    assert least_pairs(np.arange(40) % 2, np.zeros(40, dtype=int)) < 1


def one_decides(images=100, rank=0.4):
    """Two classes, each perfectly apart, but for one positive above a share of the negatives."""
    labels = np.repeat([0, 1], images)
    margins = np.where(labels == 1, 3.0, -3.0) + np.linspace(0, 1, 2 * images)
    margins[-1] = margins[round((1 - rank) * images)] - 1e-4
    logits = np.stack([-margins, margins], axis=1).astype("f4")
    columns = metrics.per_image(logits, labels)
    return Predictions(np.arange(2 * images), labels, *columns, logits, ("a", "b"), False)


def test_one_deciding_image_does_not_make_any_area_possible():
    found = estimated(one_decides(), [*NAMES, "auc/a", "auc/b", "pr_auc/b"])
    for name in ("macro_auc", "auc/a", "auc/b"):
        estimate = dataclasses.replace(found[name], fewest=0)
        value, low, high, _ = to_score(estimate, (0.0, 1.0))
        assert value == pytest.approx(0.996)
        assert estimate.least_pairs == pytest.approx(100 * 100 / 101)
        assert column_spread(estimate.column).freedom < 1.1
        assert (low, high) == pytest.approx(reference.bound_ends(value, 100 * 100 / 101))
        assert 0.949 < low < 0.95
        before = dataclasses.replace(estimate, least_pairs=0.0)
        assert to_score(before, (0.0, 1.0)).low < 0.1
        assert to_score(estimate.together(5)).low < low
    # The error of an average precision has no such bound.
    assert {found[name].least_pairs for name in ("macro_pr_auc", "pr_auc/b")} == {0}


def test_a_bounded_interval_is_mirrored_and_knows_ranks_only():
    positive = np.arange(200) < 60
    scores = np.random.default_rng(3).normal(size=200) + 6 * positive
    scores[0] = 0.1

    def ends(scores, positive):
        column = unit_column(auc_column(scores, positive), None)
        value = float(np.mean(np.array(reference.placements(scores, positive))[positive]))
        found = area_interval(value, column, 60, least=least_pairs(positive))
        assert found != area_interval(value, column, 60)
        return np.array(found)

    low, high = ends(scores, positive)
    np.testing.assert_array_equal(ends(np.exp(scores / 9), positive), (low, high))
    for mirrored in (ends(-scores, positive), ends(scores, ~positive)):
        np.testing.assert_allclose(mirrored, (1 - high, 1 - low), atol=1e-9)
    np.testing.assert_allclose(ends(-scores, ~positive), (low, high), atol=1e-9)


def test_the_bound_changes_no_interval_of_a_perfect_area():
    """There, Clopper and Pearson's interval is the bound for one pair more at most."""
    for rare, others in ((1, 9), (30, 30), (50, 2000)):
        positive = np.arange(rare + others) < rare
        zeros = np.zeros(rare + others, dtype=np.float32)
        bounded = area_interval(1.0, zeros, rare, least=least_pairs(positive))
        assert bounded == area_interval(1.0, zeros, rare)


def test_means_are_bounded_by_their_least_certain_part():
    cells = [estimated(drawn(shift=shift))["macro_auc"] for shift in (0.3, 2.0)]
    labels = drawn().labels
    assert [each.least_pairs for each in cells] == [least_pairs(labels)] * 2
    parts = [dataclasses.replace(cells[0], least_pairs=9.0), cells[1]]
    for mean in (metrics.mean_estimate(parts), metrics.recipe_estimate(parts)):
        assert mean.least_pairs == 9
    groups = Grouping(np.arange(300) // 3)
    grouped = estimated(drawn(), grouping=groups)["macro_auc"]
    assert grouped.least_pairs == least_pairs(labels, groups.numbers) < least_pairs(labels)


@pytest.mark.parametrize("kind", ["equal", "outliers", "few"])
def test_near_one_the_bound_narrows_and_misses_no_more(kind):
    """`benchmarks/areas.py` asks the same at length."""
    trials, area = 150, 0.996
    drawn = (both[0] for both in simulated.draw_single(kind, 100, area, 0.5, trials))
    missed, _, largest = simulated.near_one(drawn, area)
    for tails in missed.split(" → "):
        for percent in map(float, tails.split(" / ")):
            assert trials * percent / 100 <= most(trials, 0.05) + 1e-9
    assert float(largest.split(" → ")[1]) < 0.13


@pytest.mark.parametrize(("positives", "area"), [(50, 0.9), (50, 0.99), (200, 0.95)])
def test_either_tail_misses_seldom(positives, area):
    """`benchmarks/areas.py` asks the same at length."""
    trials = 300
    for found in simulated.single("equal", positives, area, 0.2, trials):
        for percent in map(float, found.split(" / ")):
            assert trials * percent / 100 <= most(trials, 0.05) + 1e-9


def test_either_tail_of_groups_misses_seldom_and_that_of_images_often():
    trials = 200
    *found, as_images = simulated.grouped(40, "unequal", True, 0.5, 0.85, trials)
    for entry in found:
        for percent in map(float, entry.split(" / ")):
            assert trials * percent / 100 <= most(trials, 0.05) + 1e-9
    assert sum(trials * float(each) / 100 for each in as_images.split(" / ")) > most(trials, 0.1)
