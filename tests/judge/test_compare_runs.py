"""Runs beside runs: planted differences are found, counted and tested; other images are refused."""

import csv
import io
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.metrics import bootstrap_weights, holm, intervals, per_image, score
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.paired import LEAST_P
from fairweather.metrics.seeds import crossed_difference
from fairweather.report.tables import TOO_FEW_NOTE
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Predictions
from fairweather.types.record import DataRecord, RunSettings
from tests.helpers.reference import paired_ends, paired_shares_interval
from tests.helpers.run_folders import copy_run, outcomes, run_record, sweep_record, write_run

pytestmark = pytest.mark.usefixtures("undrawn")

N = 200
FOG = sweep_record("fog", {1: "fog,severity=1", 2: "fog,severity=2"})
BLUR = sweep_record("a/blur", {0.5: "a/blur,sigma=0.5"})
PGD_CELLS = {0.1: "pgd,epsilon=0.1,steps=5"}
PGD = sweep_record("pgd", PGD_CELLS, kind="attack", title="PGD")
UNCORRECTED = "interval excludes 0 (uncorrected)"
CELLS = ("clean", "fog,severity=1", "fog,severity=2", "a/blur,sigma=0.5")
PLACES = {
    "clean": ("clean", "none"),
    "fog,severity=1": ("fog", "1"),
    "fog,severity=2": ("fog", "2"),
    "a/blur,sigma=0.5": ("a/blur", "0.5"),
    "pgd,epsilon=0.1,steps=5": ("pgd", "0.1"),
}


def predictions(right, confidence=0.8, keys=None, shifted_labels=0):
    n = len(right)
    columns = {} if keys is None else {"keys": keys}
    labels = (np.arange(n) + shifted_labels) % 3
    nll = np.where(right, 0.2, 1.6)
    return outcomes(right, labels, confidence, classes=("a", "b", "c"), nll=nll, **columns)


def right(share, seed=0, n=N):
    """So many of n images are right; which ones depends on the seed."""
    return np.random.default_rng(seed).permutation(n) < round(share * n)


def make_run(
    path, models, *, shifts=(FOG, BLUR), digest="d" * 64, shift_seed=0, bootstrap=200, **data
):
    """A run folder with only what a comparison reads: {model: {seed: {cell: predictions}}}."""
    facts = {"name": "toys", "classes": ("a", "b", "c"), "digests": {"test": digest}}
    seeds = {seed for each in models.values() for seed in each}
    record = run_record(
        {name: name.capitalize() for name in models if "+" not in name},
        shifts,
        data=DataRecord(**facts | data),
        seeds=tuple(sorted(seeds - {"ensemble"})) or (0,),
        ensemble="ensemble" in seeds,
        variants={name: name for name in models if "+" in name},
        settings=RunSettings(shift_seed=shift_seed, bootstrap=bootstrap),
    )
    stored = {
        (model, seed, cell): columns
        for model, seeds in models.items()
        for seed, cells in seeds.items()
        for cell, columns in cells.items()
    }
    return write_run(path, record, predictions=stored).path


def make_model(shares, seed=0):
    """A seed's predictions, by the share that is right in each cell."""
    return {cell: predictions(right(share, seed)) for cell, share in shares.items()}


def row(table, shift, level="none", metric="accuracy", **more):
    wanted = (table["shift"] == shift) & (table["level"] == level) & (table["metric"] == metric)
    for column, value in more.items():
        wanted &= table[column] == value
    assert wanted.sum() == 1, (shift, level, metric)
    return table[wanted].iloc[0]


SHARES_A = dict(zip(CELLS, (0.9, 0.7, 0.5, 0.6), strict=True))
SHARES_B = dict(zip(CELLS, (0.9, 0.71, 0.7, 0.4), strict=True))


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    """Clean: the same images right. Then alike, better, and worse. Nobody changes these runs."""
    root = tmp_path_factory.mktemp("one-seed")
    first = {cell: predictions(right(share, 1), 0.9) for cell, share in SHARES_A.items()}
    second = {cell: predictions(right(share, 1), 0.7) for cell, share in SHARES_B.items()}
    # At the first severity both are right 70 % of the time, about other images.
    second["fog,severity=1"] = predictions(right(0.71, 2), 0.7)
    a = make_run(root / "a", {"net": {0: first}}, bootstrap=1000)
    b = make_run(root / "b", {"other": {3: second}}, bootstrap=1000)
    return a, b, first, second


@pytest.fixture(scope="module")
def compared(one_seed):
    """The comparison of these two, which most tests only read."""
    return read_run_comparison(*one_seed[:2])


def slow_p_value(b, c):
    outcomes = (math.comb(b + c, k) for k in range(b + c + 1) if abs(2 * k - b - c) >= abs(b - c))
    return sum(outcomes) / 2 ** (b + c)


def test_cells_are_tested_on_the_same_images(one_seed, compared):
    *_, first, second = one_seed
    table = compared.table
    p_values = {}
    for cell in CELLS:
        found = row(table, *PLACES[cell])
        only_a = int((first[cell].correct & ~second[cell].correct).sum())
        only_b = int((second[cell].correct & ~first[cell].correct).sum())
        assert (found["only_a_right"], found["only_b_right"]) == (only_a, only_b)
        p_values[cell] = slow_p_value(only_a, only_b)
        assert found["p"] == pytest.approx(p_values[cell])
        assert found["a"] == pytest.approx(SHARES_A[cell])
        assert found["b"] == pytest.approx(SHARES_B[cell])
        assert found["difference"] == pytest.approx(SHARES_B[cell] - SHARES_A[cell])
        assert (found["seeds_a"], found["seeds_b"], found["n"]) == (1, 1, N)
    # Holm, by hand: each times the number of those that are at least as large, never falling.
    largest = 0.0
    for rank, cell in enumerate(sorted(CELLS, key=p_values.get)):
        largest = min(1.0, max(largest, (4 - rank) * p_values[cell]))
        assert row(table, *PLACES[cell])["p_holm"] == pytest.approx(largest)
    verdicts = [row(table, *PLACES[cell])["verdict"] for cell in CELLS]
    assert verdicts == ["cannot tell", "cannot tell", "real", "real"]
    assert set(table["model_a"]) == {"net"}
    assert set(table["model_b"]) == {"other"}


def test_a_test_that_only_holm_undoes_is_no_difference(tmp_path):
    # 6 of 6 discordant images: p = 2/64, which four tests together do not bear.
    better = np.zeros(N, bool)
    better[:6] = True
    a = {cell: predictions(np.zeros(N, bool)) for cell in CELLS}
    b = a | {"fog,severity=1": predictions(better)}
    runs = [make_run(tmp_path / name, {"m": {0: cells}}) for name, cells in (("a", a), ("b", b))]
    comparison = read_run_comparison(*runs)
    found = row(comparison.table, "fog", "1")
    assert found["p"] == pytest.approx(2 / 2**6)
    assert found["p_holm"] == pytest.approx(4 * 2 / 2**6)
    assert found["low"] > 0
    assert found["verdict"] == "cannot tell"
    assert re.search(r"Fog +1 +Accuracy .* 0\.125 +cannot tell", str(comparison))
    counted = comparison.notes[-2]
    assert "the accuracy differs in 0 of 4 cells: B is better in 0, A in 0. 4 are open" in counted


def test_intervals_are_of_a_paired_bootstrap(one_seed, compared):
    *_, first, second = one_seed
    table = compared.table
    weights = bootstrap_weights(N).astype(float)
    change = {cell: second[cell].correct * 1.0 - first[cell].correct for cell in CELLS}
    fog = (change["fog,severity=1"] + change["fog,severity=2"]) / 2
    expected = {
        ("clean", "none"): change["clean"],
        ("fog", "1"): change["fog,severity=1"],
        ("fog", "mean"): fog,
        ("a/blur", "mean"): change["a/blur,sigma=0.5"],
        ("all", "mean"): (fog + change["a/blur,sigma=0.5"]) / 2,
    }
    for place, images in expected.items():
        found = row(table, *place)
        assert found["difference"] == pytest.approx(images.mean())
        if images.any():
            ends = paired_ends(images.mean(), weights @ images / N, N)
            if place[1] != "mean":  # one cell has exact counts, and needs no resamples
                ends = paired_shares_interval((images < 0).sum(), (images > 0).sum(), N)
            np.testing.assert_allclose(found[["low", "high"]].astype(float), ends, atol=1e-6)
    assert row(table, "clean")["low"] < 0 < row(table, "clean")["high"]
    for place in (("fog", "mean"), ("all", "mean")):
        assert pd.isna(row(table, *place)["p"])
        assert pd.isna(row(table, *place)["only_a_right"])
    assert row(table, "fog", "mean")["verdict"] == UNCORRECTED
    blurred = row(table, "a/blur", "mean", "rms_calibration_error")
    assert blurred["low"] <= 0 <= blurred["high"]
    assert blurred["verdict"] == "cannot tell"


def test_losses_have_the_paired_t_test_and_its_interval(one_seed, compared):
    *_, first, second = one_seed
    moved = {cell: second[cell].nll - first[cell].nll for cell in CELLS}
    fog = (moved["fog,severity=1"] + moved["fog,severity=2"]) / 2
    places = [(PLACES[cell], images) for cell, images in moved.items()]
    for place, images in [*places, (("fog", "mean"), fog)]:
        found = row(compared.table, *place, "negative_log_likelihood")
        if not images.any():  # and a loss without a limit could be anything on other images
            assert pd.isna([found["low"], found["high"]]).all()
            assert found["difference"] == 0
            assert found["p"] == 1
            assert found["verdict"] == "cannot tell"
            continue
        t = scipy.stats.ttest_1samp(images, 0).statistic
        freedom = slow_freedom(images)
        reach = scipy.stats.t.ppf(0.975, freedom) * images.std(ddof=1) / math.sqrt(N)
        ends = images.mean() - reach, images.mean() + reach
        # Columns are stored with seven digits.
        assert (found["low"], found["high"]) == pytest.approx(ends, rel=1e-5)
        if place[1] == "mean":
            assert pd.isna(found["p"])
            assert found["verdict"] == UNCORRECTED
        else:
            p = 2 * scipy.stats.t.sf(abs(t), freedom)
            assert found["p"] == pytest.approx(max(p, LEAST_P), rel=1e-3)
            assert found["verdict"] == ("real" if found["p_holm"] < 0.05 else "cannot tell")


def slow_freedom(images):
    """The number of images over their kurtosis less 1, but at most one less than the images."""
    deviations = [image - sum(images) / N for image in images]
    squares, fourths = (sum(each**power for each in deviations) / N for power in (2, 4))
    return min(N / (fourths / squares**2 - 1), N - 1)


def test_holm_corrects_each_metric_alone(compared):
    table = compared.table
    for metric in table["metric"].unique():
        tested = table[(table["metric"] == metric) & table["p"].notna()]
        assert len(tested) == len(CELLS)
        np.testing.assert_allclose(tested["p_holm"], holm(tested["p"]))
    assert "Each metric has a Holm correction of its own." in compared.caption


@pytest.mark.parametrize("asked", [(150, 400), (400, 150)])
def test_images_are_resampled_as_often_as_the_studies_say(one_seed, tmp_path, asked):
    *_, first, second = one_seed
    runs = [
        make_run(tmp_path / f"{name}{number}", {"m": {0: cells}}, bootstrap=number)
        for name, cells, number in zip("ab", (first, second), asked, strict=True)
    ]
    comparison = read_run_comparison(*runs)
    assert "(400 resamples, the same for both)" in comparison.caption
    moved = second["fog,severity=2"].correct * 1.0 - first["fog,severity=2"].correct
    moved += second["fog,severity=1"].correct * 1.0 - first["fog,severity=1"].correct
    moved /= 2
    ends = paired_ends(moved.mean(), bootstrap_weights(N, 400) @ moved / N, N)
    found = row(comparison.table, "fog", "mean")
    np.testing.assert_allclose(found[["low", "high"]].astype(float), ends, atol=1e-12)


def test_resamples_are_the_same_in_blocks(one_seed, compared, monkeypatch):
    a, b, *_ = one_seed
    monkeypatch.setattr(intervals, "COUNTS_AT_ONCE", 300 * N)
    pd.testing.assert_frame_equal(read_run_comparison(a, b).table, compared.table)


def test_the_numbers_are_those_of_the_scores(one_seed, compared):
    *_, first, second = one_seed
    table = compared.table
    metrics = ("accuracy", "rms_calibration_error", "negative_log_likelihood")
    assert tuple(table["metric"].unique()) == metrics
    for cell in CELLS:
        for side, columns in (("a", first[cell]), ("b", second[cell])):
            scores = score(columns, resamples=2)
            for metric in metrics:
                assert row(table, *PLACES[cell], metric)[side] == pytest.approx(
                    scores[metric].value
                )
    assert len(table) == len(metrics) * (len(CELLS) + 3)


def test_the_other_way_round_everything_has_the_other_sign(one_seed, compared):
    a, b, *_ = one_seed
    there, back = compared.table, read_run_comparison(b, a).table
    np.testing.assert_allclose(there["difference"], -back["difference"])
    np.testing.assert_allclose(there["low"], -back["high"])
    np.testing.assert_allclose(there["p_holm"], back["p_holm"], rtol=1e-6)  # found by a search
    assert list(there["only_a_right"]) == list(back["only_b_right"])
    assert list(there["verdict"]) == list(back["verdict"])


def test_only_a_corrected_test_makes_a_difference_real(compared):
    tested = compared.table["p_holm"].notna()
    verdicts = compared.table["verdict"]
    assert set(verdicts[tested]) == {"real", "cannot tell"}
    assert set(verdicts[~tested]) == {UNCORRECTED, "cannot tell"}
    untested = compared.table[~tested]
    excluding = (untested["low"] > 0) | (untested["high"] < 0)
    assert list(untested["verdict"] == UNCORRECTED) == list(excluding)
    (last,) = compared.notes[-1:]
    assert last.startswith(f"{excluding.sum()} of the {len(untested)} lines without a test")
    for text in (last, compared.caption):
        assert UNCORRECTED in text
        assert "one in twenty" in text
    assert "real only if a test in one cell says so" in compared.caption
    assert "For the accuracy, it is McNemar's exact test" in compared.caption


def test_the_notes_count_cells_and_directions(one_seed, compared):
    a, b, *_ = one_seed
    counted, last = compared.notes[-2:]
    assert counted == (
        "After Holm's correction, the accuracy differs in 2 of 4 cells: B is better in 1, A in 1. "
        "2 are open: these images cannot tell which side is better there."
    )
    text = str(compared)
    assert text.endswith(last)
    assert "several seeds" in compared.scope
    assert f"A is {a}, B is {b}, on the same 200 test images" in text
    assert "McNemar's exact test, over the 4 cells of this table." in text


def test_the_text_shows_each_row_once(compared):
    lines = str(compared).split("\n\n")[1].splitlines()
    assert len(lines) == 1 + len(compared.table)
    found = [line for line in lines if re.search(r"Fog +2 +Accuracy", line)]
    pattern = (
        r"net / other +Fog +2 +Accuracy +50\.0 +70\.0 +\+20\.0 \[\+1\d\.\d, \+2\d\.\d\]"
        r" +< 0\.001 +real"
    )
    assert re.fullmatch(pattern, found[0])
    assert re.search(
        r"net / other +Clean +– +Accuracy +90\.0 +90\.0 +\+0\.0 \[−1\.9, \+1\.9\]", lines[1]
    )
    first = [compared.table.iloc[place]["level"] for place in range(0, 12, 3)]
    assert first == ["none", "mean", "mean", "mean"]


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two models of two and three seeds on one side, of two each on the other."""
    root = tmp_path_factory.mktemp("several")
    ours = {
        "small": {seed: make_model(SHARES_A, seed) for seed in (0, 1)},
        "large": {seed: make_model(SHARES_B, seed) for seed in (0, 1, 5)},
    }
    theirs = {
        "large": {seed: make_model(SHARES_A, seed + 10) for seed in (0, 1)},
        "small": {
            0: make_model({cell: share + 0.05 for cell, share in SHARES_A.items()}, 20),
            1: make_model({cell: share - 0.03 for cell, share in SHARES_A.items()}, 21),
        },
    }
    runs = (
        make_run(root / name, models, bootstrap=1000)
        for name, models in (("ours", ours), ("theirs", theirs))
    )
    return *runs, ours, theirs


@pytest.fixture(scope="module")
def compared_several(several):
    """The comparison of these two."""
    return read_run_comparison(*several[:2])


def test_models_are_paired_by_name_and_seeds_are_averaged(several, compared_several):
    *_, ours, theirs = several
    comparison = compared_several
    table = comparison.table
    assert (table["model_a"] == table["model_b"]).all()
    assert list(table["model_a"].unique()) == ["small", "large"]  # the study's order
    found = row(table, "fog", "2", model_a="small")
    assert (found["seeds_a"], found["seeds_b"]) == (2, 2)
    assert found["a"] == pytest.approx(0.5)
    assert found["b"] == pytest.approx((0.55 + 0.47) / 2)
    assert found["sd_a"] == pytest.approx(0)
    assert found["sd_b"] == pytest.approx(0.08 / math.sqrt(2))
    right = {
        side: np.stack([cells["fog,severity=2"].correct for cells in models["small"].values()], 1)
        for side, models in (("a", ours), ("b", theirs))
    }
    sides = (right[side].astype(float) for side in "ab")
    crossed = crossed_difference(*sides, bounds=(0.0, 1.0))
    # The interval and the p-value are of one distribution, which needs no resamples.
    assert (found["low"], found["high"]) == pytest.approx(crossed.interval)
    assert found["p"] == pytest.approx(crossed.p)
    assert row(table, "clean", model_a="large")["seeds_a"] == 3
    # A loss with fewer than 20 errors has neither an interval nor a test.
    tested = (table["level"] != "mean") & table["low"].notna()
    assert (table["p"].notna() == tested).all()
    assert table["only_a_right"].isna().all()
    text = str(comparison)
    assert "This is about the recipes: the intervals cover training again" in text
    assert "only one training" not in text
    assert "(sd 5.7)" in text
    assert "over the seeds of each side with several" in text
    assert "For the accuracy, it is Student's t over seeds and images" in text
    assert "8 cells of 2 pairs of models" in text
    assert "McNemar" not in text


def test_one_model_of_a_run_is_named_with_a_colon(several, compared_several):
    a, b, *_ = several
    table = read_run_comparison(f"{a}:small", f"{a}:large").table
    assert set(table["model_a"]) == {"small"}
    assert set(table["model_b"]) == {"large"}
    comparison = read_run_comparison(f"{a}:large", f"{b}:small")
    assert comparison.name == "compare_large_theirs_small"
    assert compared_several.name == "compare_theirs"


def test_a_folder_may_have_a_colon_in_its_name(one_seed, tmp_path):
    a, b, *_ = one_seed
    odd = copy_run(RunFolder(a), tmp_path / "runs:12").path
    assert len(read_run_comparison(odd, b).table) == len(read_run_comparison(f"{odd}:net", b).table)


def test_what_cannot_be_paired_is_refused(several, one_seed, tmp_path):
    a, b, *_ = several
    single, *_ = one_seed
    for arguments, words in (
        ((a, single), "has small, large, .* has net; name one of each as FOLDER:MODEL"),
        ((a, f"{b}:small"), "cannot be paired by name"),
        ((a, f"{b}:smal"), "unknown model of .*theirs 'smal'; did you mean 'small'"),
        ((a, a), "are the same; two models of one run"),
        ((f"{a}:small", f"{a}:small"), "are the same"),
        ((a, "papre"), "unknown run folder or reference 'papre'; did you mean 'paper'"),
        ((f"{tmp_path / 'nowhere'}:m", a), "nowhere holds no run"),
        ((a, tmp_path), "holds no run: there is no record.json"),
    ):
        with pytest.raises(InputError, match=words):
            read_run_comparison(*arguments)
    empty = make_run(tmp_path / "empty", {})
    with pytest.raises(InputError, match="empty has no predictions"):
        read_run_comparison(a, empty)


def test_an_unfinished_run_is_refused(one_seed, tmp_path):
    a, whole, *_ = one_seed
    b = copy_run(RunFolder(whole), tmp_path / "b").path
    RunFolder(b).forget("predictions/other/seed-3/test/a__blur,sigma=0.5")
    words = "b has no predictions of other, seed 3, under a/blur,sigma=0.5: let the run finish"
    with pytest.raises(InputError, match=words):
        read_run_comparison(a, b)


def test_other_test_images_are_refused(tmp_path):
    models = {"m": {0: make_model(SHARES_A)}}
    a = make_run(tmp_path / "a", models)
    for number, (more, words) in enumerate(
        (
            (
                {"digest": "e" * 64},
                r"both are on toys \(3 classes\), but the digests .* dddddd.* and ee",
            ),
            (
                {"digest": "e" * 64, "name": "cars", "notes": {"size": [32, 32]}},
                r"a is on toys \(3 classes\), .* on cars \(3 classes, 32 x 32 pixels\)",
            ),
        )
    ):
        b = make_run(tmp_path / f"b{number}", models, **more)
        with pytest.raises(InputError, match=words):
            read_run_comparison(a, b)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (predictions(right(0.5, n=199)), "has 199 images, .* has 200, and they are not the same"),
        (predictions(right(0.5), keys=np.arange(N)[::-1].copy()), "has 200 images"),
        (predictions(right(0.5), shifted_labels=1), "has 200 labels"),
    ],
)
def test_predictions_of_other_images_are_refused(tmp_path, columns, words):
    cells = make_model(SHARES_A)
    a = make_run(tmp_path / "a", {"m": {0: cells}})
    b = make_run(tmp_path / "b", {"m": {0: cells | {"fog,severity=1": columns}}})
    for runs in ((a, b), (b, a)):
        with pytest.raises(InputError, match=words):
            read_run_comparison(*runs)


def test_cells_of_one_run_alone_are_counted_and_in_no_mean(one_seed, tmp_path):
    a, _, _, second = one_seed
    fewer = sweep_record("fog", {level: f"fog,severity={level}" for level in (2, 3, 4)})
    cells = {"clean": second["clean"], "fog,severity=2": second["fog,severity=2"]}
    b = make_run(tmp_path / "c", {"net": {0: cells}}, shifts=(fewer,))
    comparison = read_run_comparison(a, b)
    places = comparison.table[["shift", "level"]].drop_duplicates()
    assert list(places.itertuples(index=False, name=None)) == [
        ("clean", "none"),
        ("fog", "mean"),
        ("fog", "2"),
    ]
    assert row(comparison.table, "fog", "mean")["a"] == pytest.approx(0.5)
    text = str(comparison)
    assert re.search(f"Only in {a}, .*: 2 shifted sets of images \\(a/blur,sigma=0.5, ", text)
    assert re.search(f"Only in {b}, .*: 2 shifted sets of images \\(fog,severity=3", text)


def test_runs_without_a_common_shift_are_compared_on_clean_images(one_seed, tmp_path):
    a, *_ = one_seed
    b = make_run(tmp_path / "c", {"net": {0: {"clean": predictions(right(0.9, 7))}}}, shifts=())
    comparison = read_run_comparison(a, b)
    assert len(comparison.table) == 3
    assert "differs in 0 of 1 cell: B is better in 0, A in 0. 1 is open" in comparison.notes[-1]


def test_attacks_are_in_no_mean_over_shifts(tmp_path):
    models = {
        name: {"m": {0: make_model(SHARES_A | {PGD_CELLS[0.1]: attacked})}}
        for name, attacked in (("a", 0.1), ("b", 0.9))
    }
    runs = [make_run(tmp_path / n, m, shifts=(FOG, PGD, BLUR)) for n, m in models.items()]
    table = read_run_comparison(*runs).table
    assert row(table, "pgd", "mean")["difference"] == pytest.approx(0.8)
    assert row(table, "all", "mean")["difference"] == pytest.approx(0)
    # The record says what an attack is, whatever its parameters are called.
    named = sweep_record("pgd", PGD_CELLS)
    runs = [make_run(tmp_path / f"{n}2", m, shifts=(FOG, named, BLUR)) for n, m in models.items()]
    assert row(read_run_comparison(*runs).table, "all", "mean")["difference"] == pytest.approx(
        0.8 / 3
    )


def test_other_shift_seeds_are_said(one_seed, compared, tmp_path):
    a, *_, second = one_seed
    assert "shift seeds" not in str(compared)
    other = make_run(tmp_path / "c", {"net": {0: second}}, shift_seed=7)
    assert "different shift seeds (0 and 7)" in str(read_run_comparison(a, other))


def logit(share):
    return math.log(share / (1 - share))


@pytest.fixture
def reference(tmp_path):
    """Four trained models, and a variant that must not count as a fifth."""
    shares = ((0.6, 0.3), (0.7, 0.45), (0.8, 0.5), (0.9, 0.7))
    models = {
        f"m{number}": {0: make_model(dict.fromkeys(CELLS, shifted) | {"clean": clean}, number)}
        for number, (clean, shifted) in enumerate(shares)
    }
    models["m0+temperature"] = {0: make_model(dict.fromkeys(CELLS, 0.9) | {"clean": 0.6})}
    return make_run(tmp_path / "reference", models), shares


def test_effective_robustness_is_against_the_line_of_the_other_runs_models(one_seed, reference):
    a, *_ = one_seed
    b, shares = reference
    comparison = read_run_comparison(a, f"{b}:m0")
    frame = comparison.robustness.frame
    assert list(frame["shift"]) == ["all", "fog", "a/blur"]
    assert list(frame["model"]) == ["net"] * 3
    slope, intercept = np.polyfit([logit(x) for x, _ in shares], [logit(y) for _, y in shares], 1)
    expected = 1 / (1 + math.exp(-(intercept + slope * logit(0.9))))
    np.testing.assert_allclose(frame["clean"], 0.9)
    np.testing.assert_allclose(frame["expected"], expected)
    np.testing.assert_allclose(frame["shifted"], [0.6, 0.6, 0.6])
    np.testing.assert_allclose(frame["effective_robustness"], 0.6 - expected)
    assert (frame["low"] < frame["effective_robustness"]).all()
    assert (frame["high"] > frame["effective_robustness"]).all()
    assert (frame["high"] - frame["low"] < 0.3).all()
    text = str(comparison)
    assert re.search(r"net +All shifts +90\.0 +60\.0 +\d\d\.\d +−\d\.\d \[", text)
    assert "4 trained models of reference" in text
    files = comparison.files()
    assert len(files) == 9
    assert "tables/compare_reference_m0_effective_robustness.csv" in files


def test_two_reference_models_are_too_few_for_a_line(one_seed, tmp_path):
    a, *_ = one_seed
    models = {
        name: {0: make_model(dict.fromkeys(CELLS, 0.5) | {"clean": clean}, number)}
        for number, (name, clean) in enumerate((("x", 0.6), ("y", 0.7), ("z", 0.7)))
    }
    b = make_run(tmp_path / "few", models)
    comparison = read_run_comparison(a, f"{b}:x")
    assert comparison.robustness is None
    assert "Effective robustness" not in str(comparison)
    assert len(comparison.files()) == 6


def test_within_one_run_a_model_is_no_reference_for_itself(reference):
    b, shares = reference
    comparison = read_run_comparison(f"{b}:m0", f"{b}:m3")
    slope, intercept = np.polyfit(
        [logit(x) for x, _ in shares[1:]], [logit(y) for _, y in shares[1:]], 1
    )
    expected = 1 / (1 + math.exp(-(intercept + slope * logit(0.6))))
    np.testing.assert_allclose(comparison.robustness.frame["expected"], expected)


def test_the_files_hold_the_table(one_seed):
    a, b, *_ = one_seed
    before = {path: path.stat().st_mtime_ns for path in [*a.rglob("*"), *b.rglob("*")]}
    comparison = read_run_comparison(a, b)
    files = comparison.files()
    assert {path: path.stat().st_mtime_ns for path in [*a.rglob("*"), *b.rglob("*")]} == before
    tables = "compare_b", "compare_b_classes"
    kinds = "md", "csv", "tex"
    assert list(files) == [f"tables/{table}.{kind}" for table in tables for kind in kinds]
    lines = list(csv.DictReader(io.StringIO(files["tables/compare_b.csv"])))
    assert list(lines[0]) == list(comparison.table.columns)
    assert len(lines) == len(comparison.table)
    np.testing.assert_allclose(
        [float(line["difference"]) for line in lines], comparison.table["difference"], atol=1e-7
    )
    assert [line["p"] == "" for line in lines] == list(comparison.table["p"].isna())
    markdown = [line for line in files["tables/compare_b.md"].splitlines() if line[:1] == "|"]
    assert len(markdown) == 2 + len(lines)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown} == {10}
    latex = files["tables/compare_b.tex"]
    assert r"\begin{tabular}{llllrrrrr}" in latex
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(lines)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {8}


def test_a_run_called_paper_does_not_overwrite_the_published_comparison(one_seed, tmp_path):
    a, b, *_ = one_seed
    paper = copy_run(RunFolder(b), tmp_path / "paper").path
    assert read_run_comparison(a, paper).name == "compare_paper_run"


def test_a_difference_that_seeds_could_undo_is_not_called_real(tmp_path):
    def spread(shares):
        return {
            seed: {cell: predictions(right(share, 4)) for cell in CELLS}
            for seed, share in enumerate(shares)
        }

    a = make_run(tmp_path / "a", {"m": spread((0.50, 0.505, 0.51))})
    noisy = make_run(tmp_path / "noisy", {"m": spread((0.60, 0.90, 0.65))})
    steady = make_run(tmp_path / "steady", {"m": spread((0.895, 0.90, 0.905))})
    for b, comparison, verdict, count in (
        (noisy, read_run_comparison(a, noisy), "cannot tell", 0),
        (steady, read_run_comparison(a, steady), "real", 4),
    ):
        found = row(comparison.table, "fog", "2")
        assert found["difference"] > 0.2
        assert (found["low"] > 0) == (verdict == "real")
        assert found["verdict"] == verdict
        words = f"accuracy differs in {count} of 4 cells: B is better in {count}, A in 0."
        assert words in comparison.notes[-2]
        back = read_run_comparison(b, a).notes[-2]
        assert f"differs in {count} of 4 cells: B is better in 0, A in {count}" in back
    assert "assume that seeds are about normal" in comparison.caption
    assert not any("far out" in note or "power" in note for note in comparison.notes)
    # A training that failed is named, on clean images and for all shifts.
    failed = make_run(tmp_path / "failed", {"m": spread((0.9, 0.905, 0.2, 0.895, 0.9))})
    told = [note for note in read_run_comparison(a, failed).notes if "far out" in note]
    assert [note[: note.index(" is right on")] for note in told] == [
        f"{where}, B (m): seed 2" for where in ("Clean", "All shifts")
    ]
    # With one seed on a side nothing is known about seeds, which is said first.
    single = make_run(tmp_path / "single", {"m": {0: spread((0.9,))[0]}})
    comparison = read_run_comparison(a, single)
    assert str(comparison).startswith("One side has only one training")


def test_where_nothing_varies_the_interval_still_has_a_width(tmp_path):
    every = {seed: {"clean": predictions(np.ones(80, dtype=bool))} for seed in range(3)}
    a, b = (make_run(tmp_path / name, {"m": every}, shifts=()) for name in "ab")
    comparison = read_run_comparison(a, b)
    found = row(comparison.table, "clean")
    assert found["p"] == 1
    # Tango's interval of no difference: z² / (n + z²).
    half = 1.959963985**2 / (80 + 1.959963985**2)
    assert (found["low"], found["high"]) == pytest.approx((-half, half), rel=1e-6)
    assert "uses no resamples" not in comparison.caption
    some = {seed: {"clean": predictions(right(0.9, seed, 80))} for seed in range(3)}
    caption = read_run_comparison(a, make_run(tmp_path / "c", {"m": some}, shifts=())).caption
    assert "For accuracy, the interval is that of the t-test and uses no resamples." in caption


def test_three_images_that_all_differ_say_little_of_a_class(tmp_path):
    labels = np.r_[np.zeros(3, dtype=int), np.arange(77) % 2 + 1]

    def model(share):
        columns = predictions(np.r_[np.full(3, share), np.ones(77)].astype(bool))
        of = np.where(columns.correct, labels, (labels + 1) % 3)
        logits = 3 * np.eye(3, dtype="f4")[of]
        return {"clean": replace(columns, labels=labels, predicted=of, logits=logits)}

    found = classes_of(
        tmp_path, dict.fromkeys(range(3), model(0)), dict.fromkeys(range(3), model(1))
    )
    frame = found.classes.frame.set_index("class")
    assert frame["difference"]["a"] == frame["high"]["a"] == 1
    assert frame["low"]["a"] < 0.5
    assert frame["verdict"]["a"] == "cannot tell"


def test_what_is_made_of_the_same_trainings_is_paired_seed_by_seed(tmp_path):
    plain = {
        seed: make_model(dict.fromkeys(CELLS, share), 4)
        for seed, share in enumerate((0.5, 0.7, 0.9))
    }
    lost = np.arange(N) % 10 == 0
    adapted = {
        seed: {cell: predictions(each.correct & ~lost) for cell, each in cells.items()}
        for seed, cells in plain.items()
    }
    run = make_run(tmp_path / "run", {"m": plain, "m+batchnorm": adapted})
    found = row(read_run_comparison(f"{run}:m", f"{run}:m+batchnorm").table, "clean")
    assert found["high"] < 0
    assert found["p"] < 0.05
    # Of two recipes with as many seeds as far apart, nothing could be said.
    apart = make_run(tmp_path / "apart", {"m": adapted})
    found = row(read_run_comparison(f"{run}:m", apart).table, "clean")
    assert found["high"] > 0
    assert found["p"] > 0.5


def change_columns(cells, **changes):
    """Another model's predictions: each column as the change makes it of the first model's."""
    return {
        cell: replace(each, **{name: change(each) for name, change in changes.items()})
        for cell, each in cells.items()
    }


@pytest.mark.parametrize(
    ("more", "verdicts"), [(1e-7, {"cannot tell"}), (1e-4, {"real", UNCORRECTED})]
)
def test_what_rounds_otherwise_is_no_finding(tmp_path, more, verdicts):
    cells = make_model(SHARES_A)
    moved = change_columns(cells, nll=lambda each: each.nll + more)
    a, b = (make_run(tmp_path / n, {"m": {0: c}}) for n, c in (("a", cells), ("b", moved)))
    for runs in ((a, b), (b, a)):
        table = read_run_comparison(*runs).table
        nll = table[table["metric"] == "negative_log_likelihood"]
        # Every image moves alike: the intervals leave out 0 however small that is.
        assert ((nll["low"] > 0) | (nll["high"] < 0)).all()
        assert set(nll["verdict"]) == verdicts
        assert set(table[table["metric"] != "negative_log_likelihood"]["verdict"]) == {
            "cannot tell"
        }


def test_identical_predictions_are_no_ties(tmp_path):
    cells = make_model(SHARES_A)
    scaled = change_columns(
        cells, confidence=lambda each: each.confidence - 0.2, nll=lambda each: each.nll + 0.1
    )
    # As often right in every cell, and on the same images, but with other wrong answers.
    other = change_columns(
        cells,
        predicted=lambda each: np.where(each.correct, each.labels, (each.labels + 2) % 3),
    )
    models = {"m": {0: cells}, "m+temperature": {0: scaled}, "other": {0: other}}
    run = make_run(tmp_path / "a", models)
    comparison = read_run_comparison(f"{run}:m", f"{run}:m+temperature")
    *_, same, last = comparison.notes
    assert "m / m+temperature" in same
    assert "same class" in same
    assert "probabilities differ" in same
    assert "identical" not in same
    # The accuracy of the means is not among the lines that may differ.
    excluding = (comparison.table["verdict"] == UNCORRECTED).sum()
    assert excluding >= 3
    assert last.startswith(f"{excluding} of the 6 lines")
    assert UNCORRECTED in last
    text = str(comparison)
    assert not re.search(r"\d (is|are) open", text)
    assert "the accuracy differs" not in text
    text = str(read_run_comparison(f"{run}:m", f"{run}:other"))
    assert "are identical" not in text
    assert "4 are open" in text
    # A single answer in a single cell is enough, in any seed.
    once = cells | {"fog,severity=2": other["fog,severity=2"]}
    two = make_run(tmp_path / "b", {"m": {0: cells, 1: cells}, "n": {0: once, 1: cells}})
    assert "are identical" not in str(read_run_comparison(f"{two}:m", f"{two}:n"))


def test_identical_pairs_are_not_counted_with_the_others(tmp_path):
    cells, better = make_model(SHARES_A), make_model(SHARES_B)
    a = make_run(tmp_path / "a", {"m": {0: cells}, "n": {0: cells}})
    b = make_run(tmp_path / "b", {"m": {0: cells}, "n": {0: better}})
    notes = read_run_comparison(a, b).notes
    assert notes[-3].startswith("m: ")
    assert "identical" in notes[-3]
    assert "After Holm's correction, the accuracy differs in 2 of 4 cells: B" in notes[-2]


def prepared(size, **more):
    notes = {"source": "folder:photos", "size": [size, size], "preparation": {"size": size}}
    return {"notes": notes, "digest": f"{size:064d}", **more}


def test_one_source_prepared_at_two_sizes_is_compared_with_a_note(tmp_path):
    cells, others = make_model(SHARES_A), make_model(SHARES_B)
    a = make_run(tmp_path / "a", {"m": {0: cells}}, **prepared(32))
    b = make_run(tmp_path / "b", {"m": {0: others}}, **prepared(48))
    same = make_run(tmp_path / "c", {"m": {0: others}}, **prepared(32))
    comparison = read_run_comparison(a, b)
    (note,) = (each for each in comparison.notes if "preprocessing" in each)
    assert "(32 x 32 and 48 x 48 pixels)" in note
    of_one_size = read_run_comparison(a, same)
    pd.testing.assert_frame_equal(comparison.table, of_one_size.table)
    assert "preprocessing" not in str(of_one_size)


def test_one_size_made_otherwise_is_compared_too(tmp_path):
    models = {"m": {0: make_model(SHARES_A)}}
    a = make_run(tmp_path / "a", models, **prepared(32))
    facts = prepared(32)
    facts["notes"]["preparation"] = {"size": 32, "resize": 36}
    b = make_run(tmp_path / "b", models, **facts | {"digest": "e" * 64})
    as_it_was = make_run(tmp_path / "c", models, **facts)  # nothing had to be resized
    assert "preprocessing" not in str(read_run_comparison(a, as_it_was))
    assert "preprocessing (32 x 32 and 32 x 32" in str(read_run_comparison(a, b))


@pytest.mark.parametrize(
    ("change", "columns", "words"),
    [
        ({"source": "folder:others"}, {}, "not on the same test images"),
        ({"source": None}, {}, "not on the same test images"),
        ({"classes": ["a", "b", "d"]}, {}, "not on the same test images"),
        # Nothing was prepared otherwise, and still the pixels differ.
        ({"size": [32, 32], "preparation": {"size": 32}}, {}, "but the digests of the test images"),
        ({}, {"keys": lambda each: each.keys + 1}, "has 200 images, .* they are not the same"),
        ({}, {"labels": lambda each: (each.labels + 1) % 3}, "has 200 labels, .* not the same"),
    ],
)
def test_other_images_prepared_otherwise_are_still_refused(tmp_path, change, columns, words):
    cells = make_model(SHARES_A)
    a = make_run(tmp_path / "a", {"m": {0: cells}}, **prepared(32))
    facts = prepared(48)
    for name, changed in change.items():
        (facts if name == "classes" else facts["notes"])[name] = changed
    b = make_run(tmp_path / "b", {"m": {0: change_columns(cells, **columns)}}, **facts)
    for runs in ((a, b), (b, a)):
        with pytest.raises(InputError, match=words):
            read_run_comparison(*runs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": [0, 1, 0, 0] * 30}, "same images, 30 of 120 have other labels$"),
        ({"image": [f"{at:03}.png" for at in range(120)]}, "; all labels agree, so keys may be"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_what_sets_tables_of_predictions_apart_is_said(tmp_path, change, words):
    likely = np.random.default_rng(0).uniform(size=120)
    table = {"image": [f"{at:03}" for at in range(120)], "a": likely, "b": 1 - likely}
    truth, runs = {"labels": [0, 1] * 60}, []
    for name, changed in (("one", {}), ("other", change)):
        own = {**table, **truth, **changed}
        labels = own.pop("labels")
        asked = {"labels": labels, "bootstrap": 100, "out": tmp_path / name, "progress": False}
        runs.append(fw.evaluate(predictions=pd.DataFrame(own), **asked).path)
    with pytest.raises(InputError, match=words):
        read_run_comparison(*runs)


def test_two_runs_without_a_source_are_not_taken_for_one(tmp_path):
    models = {"m": {0: make_model(SHARES_A)}}
    runs = []
    for size in (32, 48):
        facts = prepared(size)
        del facts["notes"]["source"]
        runs.append(make_run(tmp_path / str(size), models, **facts))
    with pytest.raises(InputError, match="not on the same test images"):
        read_run_comparison(*runs)


def test_an_ensemble_is_compared_as_a_model_of_its_own(tmp_path):
    cells = make_model(SHARES_A)
    models = {"m": {0: cells, 1: cells, "ensemble": make_model(SHARES_B)}}
    run = make_run(tmp_path / "a", models)
    table = read_run_comparison(f"{run}:m", f"{run}:m+ensemble").table
    found = row(table, "fog", "2")
    assert (found["seeds_a"], found["seeds_b"]) == (2, 1)
    assert found["b"] == pytest.approx(0.7)
    with pytest.raises(InputError, match=r"'n'.* m, m\+ensemble"):
        read_run_comparison(f"{run}:n", run)


def test_what_too_few_errors_carry_is_not_compared(tmp_path):
    """The likelihood of a model with 5 errors, and its difference, are without an interval."""
    shares = dict.fromkeys(CELLS, 0.7)
    good, other = shares | {"clean": 1 - 5 / N}, shares | {"clean": 0.8}
    a = make_run(tmp_path / "a", {"net": {0: make_model(good)}})
    b = make_run(tmp_path / "b", {"net": {0: make_model(other, seed=1)}})
    comparison = read_run_comparison(a, b)
    clean = row(comparison.table, "clean", metric="negative_log_likelihood")
    assert clean["verdict"] == "too few errors"
    assert pd.isna(clean["low"])
    assert pd.isna(clean["high"])
    assert clean["difference"] > 0
    assert " [too few errors]" in str(comparison)
    assert TOO_FEW_NOTE in comparison.notes
    assert row(comparison.table, "clean")["verdict"] == "real"
    fog = row(comparison.table, "fog", "1", "negative_log_likelihood")
    assert fog["low"] < fog["high"]


def with_logits(shares, seed=0):
    """Clean predictions by the share of the images of each class that is right, with logits."""
    labels = np.arange(N) % 3
    correct = np.zeros(N, dtype=bool)
    for label, share in enumerate(shares):
        of_class = np.flatnonzero(labels == label)
        correct[of_class] = right(share, seed, len(of_class))
    columns = predictions(correct)
    logits = 3 * np.eye(3, dtype="f4")[columns.predicted]
    return {"clean": replace(columns, logits=logits)}


def classes_of(tmp_path, first, second):
    a = make_run(tmp_path / "a", {"net": first}, shifts=())
    b = make_run(tmp_path / "b", {"net": second}, shifts=())
    return read_run_comparison(a, b)


def test_the_classes_whose_sensitivities_differ_are_shown_and_the_file_has_all(tmp_path):
    first, second = with_logits((0.9, 0.9, 0.5), seed=1), with_logits((0.9, 0.4, 0.52), seed=1)
    found = classes_of(tmp_path, {0: first}, {0: second})
    frame = found.classes.frame.set_index("class")
    assert frame["verdict"].tolist() == ["cannot tell", "real", "cannot tell"]
    assert frame["n"].tolist() == [67, 67, 66]
    correct = [each["clean"].correct[np.arange(N) % 3 == 1] for each in (first, second)]
    only_a, only_b = (correct[0] & ~correct[1]).sum(), (correct[1] & ~correct[0]).sum()
    assert frame["p_holm"]["b"] == pytest.approx(3 * slow_p_value(only_a, only_b), rel=1e-9)
    assert frame["difference"]["b"] == pytest.approx(correct[1].mean() - correct[0].mean())
    assert -1 <= frame["low"]["b"] < frame["difference"]["b"] < frame["high"]["b"] < 0
    # Nothing differs where the same images are right, and the interval still has a width.
    assert frame["p_holm"]["a"] == 1
    assert frame["low"]["a"] < 0 < frame["high"]["a"]
    text = str(found)
    assert "1 of 3 differ" in text
    assert re.search(r"net +b +67 +\d", text)
    assert not re.search(r"net +c +66", text)
    files = found.files()
    assert "| c |" in files["tables/compare_b_classes.md"]
    assert len(list(csv.DictReader(io.StringIO(files["tables/compare_b_classes.csv"])))) == 3


def test_classes_of_several_seeds_are_compared_over_seeds_and_images(tmp_path):
    first = {seed: with_logits((0.9, 0.9, 0.5), seed) for seed in (0, 1, 2)}
    second = {seed: with_logits((0.9, 0.3, 0.5), seed) for seed in (3, 4, 5)}
    found = classes_of(tmp_path, first, second)
    frame = found.classes.frame.set_index("class")
    assert frame["verdict"].tolist() == ["cannot tell", "real", "cannot tell"]
    of_b = np.arange(N) % 3 == 1
    sides = (
        np.stack([each["clean"].correct[of_b] for each in runs.values()], axis=1).astype(float)
        for runs in (first, second)
    )
    assert frame["p_holm"]["b"] == pytest.approx(3 * crossed_difference(*sides).p, rel=1e-9)


def test_runs_without_logits_are_compared_by_class(compared):
    assert len(compared.classes.frame) == 3
    assert "tables/compare_b_classes.csv" in compared.files()


def test_more_than_100_classes_are_not_compared_one_by_one():
    reasons = []
    for classes in (100, 101):
        logits, labels = np.eye(classes, dtype=np.float32), np.arange(classes)
        columns = labels, labels, *per_image(logits, labels), None, tuple(map(str, labels))
        reasons.append(CLASS_METRICS["sensitivity"].accepts.explain_absence(Predictions(*columns)))
    assert reasons[0] is None
    assert "at most 100 classes" in reasons[1]
