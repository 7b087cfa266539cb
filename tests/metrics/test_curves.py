"""ROC and precision-recall curves: equal to judges, and bands that hold the truth."""

import csv
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from benchmarks import curves as simulated

from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.curves import trace_curves
from fairweather.metrics.grouping import Grouping
from tests.helpers.chance import most

MANY = 20_000  # draws, which leave the end of a band an error of some 0.005
CLOSE = 0.02


def drawn(n=300, share=0.2, seed=0, decimals=1, groups=None):
    """Scores with ties, findings, and groups that have several images."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < share
    scores = rng.normal(1.5 * positive, 1).round(decimals)
    grouping = None if groups is None else Grouping.from_names(rng.integers(groups, size=n))
    return scores, positive, grouping


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_curves_are_those_of_scikit_learn(decimals, share):
    scores, positive, _ = drawn(share=share, decimals=decimals)
    false, right, thresholds = sklearn.metrics.roc_curve(positive, scores, drop_intermediate=False)
    every = trace_curves(scores, positive, points=10_000, draws=10)
    assert every.roc.x == pytest.approx(false)
    assert every.roc.y == pytest.approx(right)
    assert every.roc.threshold == pytest.approx(thresholds)
    precision, recall, at = sklearn.metrics.precision_recall_curve(positive, scores)
    best = {}  # the highest threshold that reaches a recall
    for p, r, threshold in zip(precision, recall, at, strict=False):
        best[r] = p, threshold
    curve = every.precision_recall
    assert curve.x.tolist() == pytest.approx(sorted(best))
    assert [best[r] for r in sorted(best)] == [
        pytest.approx(point) for point in zip(curve.y, curve.threshold, strict=True)
    ]
    thinned = trace_curves(scores, positive, points=20, draws=10)
    for few, all_points in zip(thinned, every, strict=True):
        assert len(few.x) <= 20
        assert set(zip(few.x, few.y, strict=True)) <= set(
            zip(all_points.x, all_points.y, strict=True)
        )
        assert (few.x[-1], few.y[-1]) == (all_points.x[-1], all_points.y[-1])


def bands(scores, positive, grouping=None):
    """The bands of all curves, with little error of the draws."""
    made = trace_curves(scores, positive, grouping, points=12, draws=MANY)
    return [np.stack([curve.low, curve.high]) for curve in made]


def test_only_the_order_of_scores_matters_and_not_that_of_images():
    scores, positive, grouping = drawn(groups=100)
    order = np.random.default_rng(1).permutation(len(scores))
    for groups in (None, grouping):
        curves = trace_curves(scores, positive, groups)
        again = trace_curves(np.exp(scores), positive, groups)
        for curve, other in zip(curves, again, strict=True):
            assert np.stack(curve[1:]).tolist() == np.stack(other[1:]).tolist()
    for curve, other in zip(
        trace_curves(scores, positive), trace_curves(scores[order], positive[order]), strict=True
    ):
        assert np.stack(curve).tolist() == np.stack(other).tolist()


def test_bands_are_those_of_clopper_and_pearson_where_a_threshold_is_known():
    positive = np.arange(100_030) < 30
    scores = np.random.default_rng(0).random(100_030)
    scores[:30] += np.arange(30) / 30
    roc, _ = trace_curves(scores, positive, draws=MANY)
    inside = (roc.x > 0.05) & (roc.x < 0.95)
    assert inside.sum() > 10
    # Where a positive is at the threshold itself, it may be below it, or the next above.
    below, above = (np.clip(roc.y + step / 30, 0, 1) for step in (-1, 1))
    (fewer, _), (low, high), (_, more) = (clopper_pearson(y, 30) for y in (below, roc.y, above))
    for end, *ends in ((roc.low, fewer, low), (roc.high, high, more)):
        assert (ends[0] - CLOSE <= end)[inside].all()
        assert (end <= ends[1] + CLOSE)[inside].all()
    equal = [
        np.abs(pair[0] - pair[1])[inside] < CLOSE for pair in ((roc.low, low), (roc.high, high))
    ]
    assert np.mean(equal) > 0.6


def test_groups_of_one_image_change_nothing_and_copies_of_images_neither():
    scores, positive, _ = drawn(120)
    alone = bands(scores, positive)
    copies = np.repeat(np.arange(120), 3)
    factor = Grouping(np.arange(positive.sum())).widening()
    for groups in (Grouping(np.arange(120)), Grouping(copies)):
        places = np.arange(120) if groups.count == len(groups.numbers) else copies
        for own, other in zip(bands(scores[places], positive[places], groups), alone, strict=True):
            # Groups widen the band by Student's t.
            widths, wider = other[1] - other[0], own[1] - own[0]
            assert (wider >= widths - CLOSE).all()
            assert (wider <= factor * widths + 2 * CLOSE).all()
    naive = bands(scores[copies], positive[copies])
    assert (naive[0][1] - naive[0][0]).mean() < 0.8 * (alone[0][1] - alone[0][0]).mean()


def test_one_group_of_a_side_says_nothing():
    scores, positive, _ = drawn(40)
    groups = Grouping.from_names(np.where(positive, "all", np.arange(40).astype(str)))
    roc, precision_recall = trace_curves(scores, positive, groups)
    inside = (roc.y > 0) & (roc.y < 1)
    assert set(roc.low[inside]) == {0.0}
    assert set(roc.high[inside]) == {1.0}
    assert precision_recall.low.max() <= precision_recall.y.max()


@pytest.mark.parametrize("count", [2, 3])
def test_two_images_are_enough(count):
    positive = np.arange(count) > 0
    for curve in trace_curves(np.arange(count) * 1.0, positive):
        assert np.isfinite(np.stack(curve[1:])).all()
        assert (curve.low <= curve.y + 1e-9).all()
        assert (curve.y <= curve.high + 1e-9).all()


def test_many_images_are_fast_and_have_narrow_bands():
    scores, positive, _ = drawn(50_000, decimals=9)
    roc, precision_recall = trace_curves(scores, positive, draws=100)
    inside = (roc.x > 0.01) & (roc.x < 0.99)
    assert (roc.high - roc.low)[inside].max() < 0.04
    assert (precision_recall.high - precision_recall.low)[20:].max() < 0.06


def read_rows():
    with simulated.STORED.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_stored_table_is_complete_and_no_band_misses_more_than_it_may():
    rows = read_rows()
    places = sum(map(len, simulated.PLACES.values()))
    assert len(rows) == places * len(simulated.SIZES) * len(simulated.DRAWN)
    note = Path(simulated.__file__).with_name("notes") / "curves.md"
    assert set(simulated.summary(rows)) <= set(note.read_text(encoding="utf-8").splitlines())
    shares = np.array([[float(row[side]) for side in ("below", "above")] for row in rows])
    assert shares.sum(axis=1).mean() <= 0.05
    for row, share in zip(rows, shares, strict=True):
        trials = int(row["trials"])
        assert round(share.sum() * trials) <= most(trials, 0.05)


@pytest.mark.parametrize("patients", [False, True])
def test_bands_hold_the_curves_of_a_population(patients):
    trials = 60
    population = simulated.Population(0.1, patients=patients, skewed=True)
    for _, _, below, above in simulated.count_misses(population, 400, trials):
        assert round((below + above) * trials) <= most(trials, 0.05)
