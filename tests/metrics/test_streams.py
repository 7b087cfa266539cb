"""Networks that adapt: intervals over streams and images, and streams that collapse."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import streams as simulated

from fairweather.metrics import (
    METRICS,
    bootstrap_weights,
    estimate_means,
    evaluate_metrics,
    mean_estimate,
    paired_change,
    paired_difference,
    per_image,
    recipe_estimate,
    to_score,
    worst_estimate,
)
from fairweather.metrics.collapse import (
    Collapse,
    choose_window,
    find_collapse,
    is_certainty_wrong,
)
from fairweather.metrics.intervals import stream_estimate
from fairweather.metrics.sample import Resamples
from fairweather.metrics.seeds import crossed_mean, stack_seeds
from fairweather.runs.scores import estimate_metrics
from fairweather.types.measurement import join_streams
from tests.helpers.chance import fewest, most
from tests.metrics.test_scoring import simulated as draw_predictions

NOTES = Path(simulated.__file__).with_name("notes") / "streams.md"
KEY = ("m", "0", "clean", "none")


def draw_streams(count=4, n=200):
    """Streams of the same images, whose logits differ a little."""
    first, rng, streams = draw_predictions(n, seed=0), np.random.default_rng(1), []
    for _ in range(count):
        logits = (first.logits + rng.normal(size=first.logits.shape)).astype(np.float32)
        columns = per_image(logits, first.labels)._asdict()
        streams.append(first.with_columns(logits=logits, **columns))
    return streams


def test_streams_are_joined_and_cut_as_they_were():
    streams = draw_streams()
    joined = join_streams(streams)
    assert len(joined) == 800
    assert joined.stream.tolist() == np.repeat(np.arange(4), 200).tolist()
    for ours, theirs in zip(joined.streams, streams, strict=True):
        assert np.array_equal(ours.logits, theirs.logits)
        assert np.array_equal(ours.keys, theirs.keys)
    taken = joined.take_images(np.array([3, 5]))
    assert taken.keys.tolist() == [*streams[0].keys[[3, 5]]] * 4
    assert join_streams(streams[:1]) is streams[0]
    assert streams[0].streams == (streams[0],)


def test_a_cell_has_the_mean_of_its_streams_and_each_metric_of_each_is_as_if_alone():
    streams = draw_streams()
    weights = bootstrap_weights(200, 50)
    shared = Resamples.from_weights(streams[0].strata, weights)
    ((key, joint),) = estimate_metrics([(KEY, join_streams(streams), None)], shared)
    assert key == KEY
    alone = [evaluate_metrics(stream, weights) for stream in streams]
    for name, estimate in joint.items():
        values = [each[name].value for each in alone]
        assert estimate.value == pytest.approx(np.mean(values), nan_ok=True), name
        assert [each.value for each in estimate.of_seeds] == pytest.approx(values, nan_ok=True)
        by_hand = recipe_estimate([each[name] for each in alone])
        assert to_score(estimate, METRICS[name].bounds) == pytest.approx(
            to_score(by_hand, METRICS[name].bounds), nan_ok=True
        )


def test_one_stream_has_the_interval_over_images_of_a_plain_model():
    (stream,) = draw_streams(1)
    weights = bootstrap_weights(200, 50)
    shared = Resamples.from_weights(stream.strata, weights)
    ((_, joint),) = estimate_metrics([(KEY, join_streams([stream]), None)], shared)
    alone = evaluate_metrics(stream, weights)
    assert to_score(joint["accuracy"]) == to_score(alone["accuracy"])
    assert joint["accuracy"].of_seeds == ()


def test_the_order_of_the_streams_is_nothing_and_equal_streams_add_no_width():
    right = np.random.default_rng(0).random((500, 4)) < 0.9
    estimates = estimate_means(right.astype(float), ["share"] * 4, 300)
    there, back = (to_score(stream_estimate(each)) for each in (estimates, estimates[::-1]))
    assert there == pytest.approx(back)
    equal, alone = stream_estimate(estimates[:1] * 5), to_score(estimates[0])
    assert equal.recipes[0].between == equal.recipes[0].shared == 0
    # Student's t with 499 degrees of freedom, and skewness at 0.9, in the place of percentiles.
    assert to_score(equal).low <= alone.low
    assert alone.high <= to_score(equal).high + 1e-12


def test_the_interval_is_that_of_streams_crossed_with_images():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(4000, 1)) + 0.5 * rng.normal(size=(4000, 5))
    columns += 0.03 * rng.normal(size=5)
    score = to_score(stream_estimate(estimate_means(columns, ["percentile"] * 5, 4000)))
    low, high = crossed_mean(columns).interval
    # Percentiles of 4,000 replicates: each end has a standard error of 0.03 standard errors.
    error = 4 * 0.03 * (high - low) / 4
    assert score.low == pytest.approx(low, abs=error)
    assert score.high == pytest.approx(high, abs=error)


def test_means_over_levels_keep_the_spread_of_the_streams():
    rng = np.random.default_rng(0)
    shares = rng.random((300, 3, 2)) < np.array([0.5, 0.7, 0.9])[:, None]
    levels = []
    for at in range(2):
        columns = shares[:, :, at].astype(float)
        levels.append(stream_estimate(estimate_means(columns, ["share"] * 3, 100)))
    mean = mean_estimate(levels)
    values = shares.mean(axis=(0, 2))
    assert [stream.value for stream in mean.of_seeds] == pytest.approx(values)
    assert mean.recipes[0].between == pytest.approx(values.var(ddof=1) / 3)
    worst = worst_estimate(levels, higher_is_better=True)
    least = min(levels, key=lambda level: level.value)
    assert worst.value == least.value
    assert worst.recipes == least.recipes
    # Seeds of the network, each with streams: what varies are the means over streams.
    seeds = recipe_estimate(levels)
    assert seeds.recipes[0].seeds == 2


def test_adapted_minus_plain_is_paired_by_image_and_by_stream():
    rng = np.random.default_rng(0)
    hard = rng.random((400, 1)) < 0.3
    plain = estimate_means((~hard).astype(float), ["share"], 500)[0]
    same = stream_estimate([plain] * 5)
    assert paired_difference(plain, same).value == 0
    right = (~hard | (rng.random((400, 5)) < 0.2)).astype(float)
    adapted = stream_estimate(estimate_means(right, ["share"] * 5, 500))
    gap = paired_difference(plain, adapted)
    assert gap.value == pytest.approx((right - ~hard).mean())
    apart = to_score(adapted)
    assert gap.high - gap.low < apart.high - apart.low
    again = paired_change(adapted, adapted)
    assert (again.value, again.low <= 0 <= again.high) == (0, True)


def test_seeds_have_the_means_over_their_streams_and_a_single_one_its_streams():
    streams = [np.random.default_rng(seed).random((3, 7)) for seed in range(2)]
    assert np.array_equal(stack_seeds(streams[:1]), streams[0].T)
    expected = [[seed[:, image].sum() / 3 for seed in streams] for image in range(7)]
    assert stack_seeds(streams) == pytest.approx(np.array(expected))


# --- Collapse ---


def slow_collapse(predicted, confidence, plain, plain_confidence, is_sorted):
    """Each class and window by itself."""
    n = len(predicted)
    window = min(100, n // 2)
    if window < 10:
        return None
    certain = None
    for at in range(n - window + 1):
        inside = slice(at, at + window)
        for label in sorted(set(predicted.tolist())):
            others = sum(each != label for each in predicted[inside])
            expected = min(sum(c != label for c in each[inside]) for each in plain)
            if expected >= window * (0.7 if is_sorted else 0.2) and others <= 0.1 * expected:
                return "one class", at, label
        doubt = 1 - np.mean(confidence[inside])
        if certain is None and doubt <= 0.01 and 1 - np.mean(plain_confidence[inside]) >= 0.05:
            certain = "certain", at, int(np.bincount(predicted[inside]).argmax())
    return certain


def draw_stream(rng, classes, n, order, accuracy):
    labels = rng.integers(classes, size=n)
    if order == "by_class":
        labels = np.sort(labels)
    wrong = rng.random(n) >= accuracy
    return labels, np.where(wrong, rng.integers(classes, size=n), labels)


@pytest.mark.parametrize("order", ["shuffled", "by_class"])
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_a_healthy_stream_is_never_called_collapsed(order, classes, accuracy):
    rng = np.random.default_rng([classes, round(100 * accuracy)])
    for _ in range(20):
        labels, plain = draw_stream(rng, classes, 1000, order, accuracy)
        sure = np.full(1000, 0.8)
        # One that is as good, one that is always right, and one that is right where it is dark.
        better = np.where(rng.random(1000) < 0.5, labels, plain)
        for predicted in (plain, better, labels):
            found = find_collapse(predicted, sure, [plain], sure, is_sorted=order == "by_class")
            assert found is None


@pytest.mark.parametrize("order", ["shuffled", "by_class"])
@pytest.mark.parametrize("classes", [3, 10, 100])
def test_a_collapse_is_found_within_a_window_of_where_it_begins(order, classes):
    rng = np.random.default_rng(classes)
    labels, plain = draw_stream(rng, classes, 1000, order, 0.9)
    predicted, sure = labels.copy(), np.full(1000, 0.8)
    predicted[400:] = 1
    found = find_collapse(predicted, sure, [plain], sure, is_sorted=order == "by_class")
    assert (found.kind, found.label) == ("one class", 1)
    # The window may begin before it, and later where the images themselves are of that class.
    own = np.flatnonzero((labels == 1) & (np.arange(1000) >= 400))
    later = len(own) if order == "by_class" else 0
    assert 300 <= found.place <= 400 + later + 100


def test_the_windows_are_those_of_plain_loops():
    rng = np.random.default_rng(3)
    for trial in range(30):
        n, is_sorted = int(rng.integers(15, 260)), bool(trial % 2)
        labels, plain = draw_stream(rng, 4, n, "by_class" if is_sorted else "shuffled", 0.7)
        predicted, sure = labels.copy(), rng.uniform(0.98, 1, n)
        predicted[n // 3 :] = rng.integers(4)
        plain_sure = np.full(n, 0.9)
        found = find_collapse(predicted, sure, [plain, labels], plain_sure, is_sorted=is_sorted)
        expected = slow_collapse(predicted, sure, [plain, labels], plain_sure, is_sorted)
        assert (found and tuple(found)) == expected


@pytest.mark.parametrize("n", [20, 47, 300])
def test_a_collapse_of_a_single_window_is_found_wherever_it_lies(n):
    """With as many other answers as a collapse may have, and these all at one end."""
    window, sure = choose_window(n), np.full(n, 0.8)
    plain = np.arange(n) % 10
    for begin in range(n - window + 1):
        inside = slice(begin, begin + window)
        predicted = np.where(plain == 1, 2, plain)
        predicted[inside] = 1
        most = int(0.1 * np.count_nonzero(plain[inside] != 1))
        ends = (slice(begin, begin + most), slice(begin + window - most, begin + window))
        predicted[ends[begin % 2]] = 2
        found = find_collapse(predicted, sure, [plain], sure, is_sorted=False)
        expected = slow_collapse(predicted, sure, [plain], sure, False)
        assert (found.kind, found.label) == ("one class", 1)
        assert tuple(found) == expected


def test_a_plain_network_that_gives_one_class_itself_does_not_show_a_collapse_by_adapting():
    stuck, sure = np.zeros(400, dtype=int), np.full(400, 0.8)
    assert find_collapse(stuck, sure, [stuck], sure, is_sorted=False) is None
    several = np.arange(400) % 5
    assert find_collapse(stuck, sure, [several], sure, is_sorted=False).place == 0


def test_certainty_is_found_and_a_stream_of_few_images_says_nothing():
    several = np.arange(400) % 5
    certain, unsure = np.full(400, 0.999), np.full(400, 0.8)
    found = find_collapse(several, certain, [several], unsure, is_sorted=False)
    assert found == Collapse("certain", 0, 0)
    # Whoever was certain before has not become so by adapting.
    assert find_collapse(several, certain, [several], certain, is_sorted=False) is None
    few = several[:18] * 0
    sure = unsure[:18]
    assert find_collapse(few, sure, [several[:18]], sure, is_sorted=False) is None


def test_certainty_is_wrong_only_where_it_errs_far_more_than_it_says():
    plain, sure = (np.arange(200) % 5 > 0).astype(float), np.full(200, 0.999)
    worse = np.where(np.arange(200) % 3 > 0, plain, 0)
    assert is_certainty_wrong(worse, plain, sure)
    for right in (plain, np.ones(200), np.where(np.arange(200) > 1, plain, 0)):
        assert not is_certainty_wrong(right, plain, sure)  # as good, better, one image worse
    assert not is_certainty_wrong(worse, plain, np.full(200, 0.9))  # it says so
    always = np.ones(200)
    assert not is_certainty_wrong(np.where(np.arange(200) < 5, 0, always), always, sure)  # 2.5 %


# --- The stored simulation ---


@pytest.fixture(scope="module")
def table():
    return simulated.read_rows()


def test_the_stored_table_has_every_setting(table):
    assert set(table["setting"]) == set(simulated.SETTINGS)
    assert set(table["trials"]) == {simulated.TRIALS}
    assert table["held"].between(0, 1).all()


def test_intervals_that_are_used_hold_where_nothing_collapses(table):
    rows = table[table["form"].isin([simulated.USED, simulated.OVER_NETWORKS])]
    calm = [s for s in rows["setting"].unique() if "collapse" not in s and "strongly" not in s]
    for row in rows[rows["setting"].isin(calm)].itertuples():
        assert round(row.held * row.trials) >= fewest(row.trials, simulated.LEAST), row


def test_no_form_knows_of_a_collapse_that_no_stream_shows(table):
    rows = table[(table["setting"] == "collapse of 20 %") & (table["streams"] == 5)]
    # A third of draws has no stream with a collapse.
    for row in rows.itertuples():
        assert round(row.held * row.trials) <= most(row.trials, 1 - 0.8**5 + 0.05), row


def test_the_notes_are_those_of_the_table(table):
    page = NOTES.read_text(encoding="utf-8")
    for line in simulated.summary(table):
        assert line in page
