"""Detection of another data set: equal to counting pairs and to scikit-learn, and fast enough."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.metrics import detection
from tests.helpers.chance import FALSE_ALARM, deviations, mean_p

shares = st.one_of(st.integers(0, 10).map(lambda k: k / 10), st.floats(0, 1))
sets = st.lists(shares, min_size=1, max_size=20)


def slow_auroc(known, others):
    wins = [(sure > other) + (sure == other) / 2 for sure in known for other in others]
    return sum(wins) / len(wins)


def slow_rate(known, others, recall):
    enough = [at for at in known if sum(sure >= at for sure in known) / len(known) >= recall]
    return sum(other >= max(enough) for other in others) / len(others)


def simulated(n, m, seed=0):
    generator = np.random.default_rng(seed)
    return generator.beta(6, 1, n), generator.beta(2, 1, m)


@given(known=sets, others=sets)
@settings(max_examples=80, deadline=None)
def test_auroc_counts_pairs(known, others):
    expected = pytest.approx(slow_auroc(known, others), abs=1e-12)
    assert detection.detection_auroc(known, others) == expected
    turned = detection.detection_auroc(others, known)
    assert 1 - turned == expected


@given(known=sets, others=sets, recall=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1]))
@settings(max_examples=80, deadline=None)
def test_the_rate_equals_its_definition(known, others, recall):
    found = detection.false_positive_rate_at(known, others, recall=recall)
    assert found == slow_rate(known, others, recall)


@given(known=sets, others=sets, data=st.data())
@settings(max_examples=60, deadline=None)
def test_weights_are_repeated_images(known, others, data):
    def draw_weights(n):
        rows = data.draw(
            st.lists(
                st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any),
                min_size=3,
                max_size=3,
            )
        )
        return np.array(rows)

    rows_in, rows_out = draw_weights(len(known)), draw_weights(len(others))
    for measure in (detection.detection_auroc, detection.false_positive_rate_at):
        batch = measure(known, others, rows_in, rows_out)
        repeated = [
            measure(np.repeat(known, row_in), np.repeat(others, row_out))
            for row_in, row_out in zip(rows_in, rows_out, strict=True)
        ]
        assert batch.shape == (3,)
        assert batch == pytest.approx(repeated, abs=1e-12)
        # One set may have no weights, or one row of weights for all resamples.
        ones = np.ones(len(others))
        alone = measure(known, others, rows_in)
        assert alone == pytest.approx(measure(known, others, rows_in, ones), abs=0)
        assert alone == pytest.approx([measure(known, others, row) for row in rows_in], abs=1e-12)
        assert measure(known, others, None, rows_out).shape == (3,)
        assert isinstance(measure(known, others, rows_in[0], rows_out[0]), float)


@pytest.mark.parametrize("decimals", [2, 9])
def test_both_equal_scikit_learn(decimals):
    known, others = (column.round(decimals) for column in simulated(300, 200))
    truth, sure = np.repeat([1, 0], [300, 200]), np.concatenate([known, others])
    weights = np.random.default_rng(1).random(500)
    assert detection.detection_auroc(known, others) == pytest.approx(
        sklearn.metrics.roc_auc_score(truth, sure)
    )
    found = detection.detection_auroc(known, others, weights[:300], weights[300:])
    assert found == pytest.approx(sklearn.metrics.roc_auc_score(truth, sure, sample_weight=weights))
    passed, kept, _ = sklearn.metrics.roc_curve(truth, sure, drop_intermediate=False)
    assert detection.false_positive_rate_at(known, others) == passed[kept >= 0.95].min()


def test_detection_at_the_edges():
    assert detection.detection_auroc([0.9], [0.1]) == 1
    assert detection.detection_auroc([0.1], [0.9]) == 0
    assert detection.detection_auroc([0.5], [0.5]) == 0.5
    assert detection.detection_auroc([1.0] * 3, [1.0] * 2) == 0.5
    assert detection.false_positive_rate_at([0.9], [0.1]) == 0
    assert detection.false_positive_rate_at([0.1], [0.9]) == 1
    assert detection.false_positive_rate_at([0.5], [0.5]) == 1


def test_a_recall_of_exactly_the_limit_is_enough():
    known = np.arange(20) / 20
    assert detection.false_positive_rate_at(known, [0.01]) == 0
    assert detection.false_positive_rate_at(known, [0.01], recall=0.951) == 1
    assert detection.false_positive_rate_at(known, [known[1]]) == 1


def test_scores_are_of_the_images_as_they_are():
    known, others = simulated(400, 300)
    scores = detection.detection_score(known, others, resamples=200)
    assert list(scores) == ["detection_auroc", "false_positive_rate_at_recall/0.95"]
    values = (detection.detection_auroc(known, others), slow_rate(known, others, 0.95))
    assert tuple(score.value for score in scores.values()) == values
    for score in scores.values():
        assert score.low < score.value < score.high
        assert score.n == 700
    assert detection.detection_score(known, others, resamples=200) == scores
    assert detection.detection_score(known, others, resamples=200, seed=1) != scores


def test_intervals_equal_those_of_resampled_images():
    known, others = simulated(150, 80)
    generator = np.random.default_rng(3)
    drawn = [
        (generator.choice(known, len(known)), generator.choice(others, len(others)))
        for _ in range(2000)
    ]
    scores = detection.detection_score(known, others, resamples=4000)
    # 2.5 % of the 2,000 values drawn here are beyond each end, up to the error of that share and of
    # the end, which is a quantile of 4,000. A value at the end counts on both sides.
    off = deviations(comparisons=4) * math.sqrt(0.025 * 0.975 * (1 / 2000 + 1 / 4000))
    for name, measure in [
        ("detection_auroc", detection.detection_auroc),
        ("false_positive_rate_at_recall/0.95", detection.false_positive_rate_at),
    ]:
        values = np.array([measure(*pair) for pair in drawn])
        low, high = scores[name].low, scores[name].high
        assert (values < low).mean() - off < 0.025 < (values <= low).mean() + off
        assert (values > high).mean() - off < 0.025 < (values >= high).mean() + off


def test_the_interval_is_the_one_of_hanley_and_mcneil():
    # Their standard error of the area between exponential scores, 1982, equations 1 and 2.
    n, m, ratios = 600, 400, []
    for seed in range(16):
        generator = np.random.default_rng(seed)
        known, others = generator.exponential(3, n), generator.exponential(1, m)
        score = detection.detection_score(known, others, seed=seed)["detection_auroc"]
        area = score.value
        q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
        variance = area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)
        ratios.append((score.high - score.low) / (2 * 1.96 * math.sqrt(variance / (n * m))))
    assert mean_p(ratios, 1) > FALSE_ALARM


def test_perfect_separation_has_an_exact_interval_for_the_rate():
    scores = detection.detection_score([0.9] * 30, [0.1] * 20, resamples=50)
    assert scores["detection_auroc"] == (1, 1, 1, 50)
    rate = scores["false_positive_rate_at_recall/0.95"]
    assert (rate.value, rate.low, rate.n) == (0, 0, 50)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper and Pearson's, 0 of 20


@pytest.mark.parametrize(("n", "m"), [(20_000, 20_000), (20_000, 300)])
@pytest.mark.parametrize("ties", [False, True])
def test_bins_move_the_measures_by_less_than_is_said(n, m, ties):
    known, others = simulated(n, m, seed=n + m)
    if ties:
        known[: n // 2], others[: m // 4] = 1, known[-1]
    exact = detection._joint_levels(known, others)
    binned = detection._merge_levels(exact)
    assert exact.images.shape[1] > 1 + detection.MOST_LEVELS >= binned.images.shape[1] > 500
    for column in ("images", "wrong"):
        found, expected = (getattr(each, column)[0] for each in (binned, exact))
        assert (found[0], found[-1]) == (0, expected[-1])
        assert set(found) <= set(expected)
    area, rough = (detection.rank_area(each)[0] for each in (exact, binned))
    assert abs(area - rough) < 0.0001
    rate, coarse = (detection._false_positive_rate(each, 0.95)[0] for each in (exact, binned))
    assert 0 <= coarse - rate < 0.003


def test_few_distinct_confidences_are_not_binned():
    known, others = (column.round(3) for column in simulated(5000, 5000))
    exact = detection._joint_levels(known, others)
    assert detection._merge_levels(exact) is exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detection.detection_auroc([], [0.5]), "confidence_in is empty"),
        (lambda: detection.detection_auroc([0.5], []), "confidence_out is empty"),
        (lambda: detection.detection_auroc([[0.5]], [0.5]), r"confidence_in \[1, 1\]"),
        (lambda: detection.detection_auroc([math.nan], [0.5]), "confidence_in has 1 values"),
        (lambda: detection.detection_auroc([0.5], [math.nan]), "confidence_out has 1 values"),
        (
            lambda: detection.detection_auroc([0.5], [0.5], [[1], [1]], [[1], [1], [1]]),
            "weights_in and weights_out .*found 2 and 3",
        ),
        (lambda: detection.detection_auroc([0.5], [0.5], [0], [1]), "weights"),
        (lambda: detection.false_positive_rate_at([0.5], [0.5], recall=0), "found 0"),
        (lambda: detection.false_positive_rate_at([0.5], [0.5], recall=95), "found 95"),
        (lambda: detection.false_positive_rate_at([0.5], [0.5], recall=math.nan), "found nan"),
        (lambda: detection.detection_score([0.5], [0.5], resamples=0), "0 times"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
