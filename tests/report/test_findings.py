"""The report's first words: sentences from known numbers, and the ranking with its ties."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fairweather.attacks.table import ATTACKS
from fairweather.metrics.seeds import crossed_difference
from fairweather.report.contents import Contents, Sweep, make_sweep
from fairweather.report.front import choose_model, list_breaks, read_outcomes, write_tiles
from fairweather.report.performance import (
    COVERAGE,
    ENOUGH_EXTREME,
    MOST_SWAPS,
    RISK,
    compare_pairs,
    widen_interval,
)
from fairweather.report.ranking import (
    _estimate_scores,
    describe_comparison,
    rank_models,
    tabulate_variants,
)
from fairweather.report.sentences import describe_shifts, describe_threshold
from fairweather.runs.scores import add_means, add_worst, estimate_cells, scores_frame
from fairweather.shifts.table import SHIFTS
from fairweather.types.measurement import Cell, Score, Shift
from fairweather.types.record import COLUMNS, StepRecord
from tests.helpers.chance import deviations, most
from tests.helpers.run_folders import outcomes, run_record, sweep_record, write_run

RMS, GAP, SURE = "rms_calibration_error", "confidence_gap", "average_confidence"
# What findings are about; a run has many more metrics.
TOLD = ("accuracy", RMS, GAP, COVERAGE, RISK)
HOSTILE = "<script>a|b</script>"
DARK = Sweep("dark", "Brightness", "brightness factor f", 1.0, "", {"0.2": "dark,f=0.2"})
BLUR = Sweep("blur", "Gaussian blur", "standard deviation σ (pixels)", 0.0, "", {"2": "blur,s=2"})
FOG = Sweep("c/fog", "Fog", "level", 0.0, "", {"1": "c/fog,s=1", "5": "c/fog,s=5"})
PGD = Sweep(
    "pgd",
    "PGD",
    "budget ε (pixels in [0, 1])",
    0.0,
    "",
    {"0.03137254901960784": "pgd,8"},
    kind="attack",
)
EPSILON = next(iter(PGD.cells))


def contents(lines, sweeps=(), titles=None):
    """Contents from rows of scores.csv without model and seed: (shift, level, metric, numbers)."""
    titles = titles or {"a": "A"}
    rows = [
        (model, "0", shift, level, metric, *numbers, 1000)
        for model in titles
        for shift, level, metric, numbers in lines
    ]
    record = run_record(titles, bootstrap=200)
    return Contents({"": record}, titles, tuple(sweeps), pd.DataFrame(rows, columns=COLUMNS))


def around(value, half=0.01):
    return (value, value - half, value + half)


def acc(shift, level, value, half=0.01):
    return (shift, level, "accuracy", around(value, half))


def plain(texts):
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]


CLEAN = acc("clean", "none", 0.9)


def test_a_number_of_some_images_does_not_change_how_many_were_tested():
    made = contents([CLEAN, ("clean", "none", "missed_findings", around(0.1))])
    made.scores.loc[made.scores["metric"] == "missed_findings", "n"] = 374
    assert made.sample().startswith("n = 1,000 test images,")


@pytest.mark.parametrize(
    ("level", "words"), [("0.1", "0.1"), ("0.00784313725490196", "2/255"), ("0.0123456", "0.01235")]
)
def test_budgets_read_as_in_papers(level, words):
    assert replace(PGD, cells={level: "x"}).at(level) == f"PGD at ε = {words}"


def test_an_attack_is_one_because_the_record_says_so():
    cells = {0.1: "x,epsilon=0.1"}
    named = {kind: sweep_record("x", cells, kind=kind, level_title="budget ε") for kind in KINDS}
    assert {kind: make_sweep(each).is_attack for kind, each in named.items()} == KINDS


KINDS = {"attack": True, "shift": False}
READ = {
    "angle (degrees)": "rotation at 3 degrees",
    "brightness factor f": "brightness at f = 3",
    "exponent γ": "gamma at γ = 3",
    "factor of the pixel size": "lower resolution at 3 times the pixel size",
    "fraction of the width": "translation at 3 of the width",
    "level": "fog at level 3",  # a severity
    "quality": "JPEG at quality 3",
    "standard deviation σ (pixels)": "Gaussian blur at σ = 3",
    "turn of the colour circle": "hue at 3 of the colour circle",
}


def test_every_level_has_a_form_to_read():
    found = {}
    for kind in SHIFTS.values():
        if kind.level_title != "severity" or kind.title == "Fog":
            texts = {"title": kind.title, "level_title": kind.level_title}
            sweep = make_sweep(sweep_record("a", {3: "a"}, neutral=kind.neutral, **texts))
            found[sweep.level_title] = sweep.at("3")
    assert found == READ
    other = Sweep("", "Zoom", "steps of the lens", 0.0, "", {"3": ""})
    assert other.at("3") == "zoom at 3 (steps of the lens)"


def test_titles_keep_their_names_and_abbreviations_inside_a_sentence():
    kept = {"JPEG", "JPEG compression", *(kind.title for kind in ATTACKS.values())}
    kinds = [("shift", SHIFTS), ("attack", ATTACKS)]
    for which, kind in ((which, kind) for which, table in kinds for kind in table.values()):
        sweep = Sweep("", kind.title, kind.level_title, 0.0, "", {}, kind=which)
        stays = kind.title in kept or kind.title.startswith("Gaussian ")
        lower = kind.title[0].lower() + kind.title[1:]
        assert sweep.in_sentence == (kind.title if stays else lower)
    assert Sweep("", "AutoContrast", "level", 0.0, "", {}).in_sentence == "AutoContrast"


def test_widened_intervals_are_those_of_bonferroni():
    score = Score(0.1, 0.1 - 1.959964, 0.1 + 2 * 1.959964, 50)
    assert widen_interval(score, 1) == pytest.approx(score)
    wide = widen_interval(score, 80)
    quantile = scipy.stats.norm.isf(0.025 / 80)
    assert (wide.low, wide.high) == pytest.approx((0.1 - quantile, 0.1 + 2 * quantile), rel=1e-6)


# From here on, run folders with predictions.


def make(folder, right, sweeps=(), labels=None, sure=0.7, titles=None, bootstrap=300):
    """Contents and folder of a run, from which images are right: model, seed, cell id -> `[n]`."""
    shifts = {"clean": Shift("clean", None, {}, None)} | {
        cell: Shift(sweep.name, float(level), {}, None)
        for sweep in sweeps
        for level, cell in sweep.cells.items()
    }
    predictions = {key: outcomes(each, labels, sure) for key, each in right.items()}
    stored = {
        Cell(model, seed, shifts[cell]): each for (model, seed, cell), each in predictions.items()
    }
    table = add_means(
        estimate_cells(list(stored), stored.get, bootstrap, metrics=TOLD), list(ATTACKS)
    )
    frame = scores_frame(add_worst(table, list(ATTACKS)))
    titles = titles or {model: model.upper() for model, _, _ in right}
    record = run_record(titles, bootstrap=bootstrap)
    run = write_run(folder, record, predictions=predictions)
    return Contents({"": record}, titles, tuple(sweeps), frame, {"": run})


def draw(rng, n, p):
    return rng.random(n) < p


# What becomes of a model.


def outcome_of(contents):
    [outcome] = read_outcomes(contents).values()
    return outcome


def told(contents, at):
    """The line of a tile and its notes."""
    _, line, *notes = write_tiles(contents, "a")[at]
    return plain([line, *notes])


def test_pairing_finds_a_fall_that_overlapping_intervals_hide(tmp_path):
    clean = draw(np.random.default_rng(0), 400, 0.8)
    dark = clean & (np.arange(400) % 25 > 0)
    made = make(tmp_path, {("a", 0, "clean"): clean, ("a", 0, "dark,f=0.2"): dark}, [DARK])
    before, after = (
        made.score("accuracy", "a", *at) for at in (("clean", "none"), ("dark", "0.2"))
    )
    assert after.high > before.low
    assert outcome_of(made).falls
    assert not outcome_of(replace(made, runs={})).falls  # nothing to pair


def test_a_loss_that_may_be_chance_is_told_with_that(tmp_path):
    rng = np.random.default_rng(0)
    right = {("a", 0, "clean"): draw(rng, 300, 0.83), ("a", 0, "dark,f=0.2"): draw(rng, 300, 0.79)}
    line, doubt, _ = told(make(tmp_path, right, [DARK]), 1)
    assert line == "right under brightness at f = 0.2, where it is worst"
    assert doubt == "These images cannot confirm a loss of accuracy."


def test_the_worst_of_many_that_are_alike_is_rarely_called_a_fall(tmp_path):
    levels = {str(level): f"c/fog,s={level}" for level in range(1, 21)}
    sweep = replace(FOG, cells=levels)
    falls, claims, lucky = 0, 0, 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        right = {("a", 0, cell): draw(rng, 200, 0.7) for cell in ("clean", *levels.values())}
        outcome = outcome_of(make(tmp_path / str(seed), right, [sweep], bootstrap=100))
        gap = outcome.worst.focus.performance.gap
        falls += outcome.falls
        claims += outcome.sign(gap) != 0
        lucky += gap.low > 0
    assert max(falls, claims) <= most(16, 0.05)
    assert lucky > 0  # so the interval alone would have said more than it may


def test_a_model_no_better_than_the_most_common_answer_is_told_as_that(tmp_path):
    labels = np.where(np.arange(400) % 10 < 6, 0, 1)
    right = {("a", 0, "clean"): labels == 0, ("a", 0, "dark,f=0.2"): labels == 0}
    made = make(tmp_path / "dark", right, [DARK], labels)
    common = "Not shown to be better than always giving the most common answer (60 %)."
    assert told(made, 0)[-1] == told(made, 1)[-1] == common
    better = {("a", 0, "clean"): np.arange(400) % 10 > 0}
    assert common not in told(make(tmp_path / "clean", better, [], labels), 0)


def test_of_several_seeds_the_mean_is_told(tmp_path):
    rng = np.random.default_rng(1)
    right = {
        ("a", seed, cell): draw(rng, 300, p)
        for seed in (0, 1)
        for cell, p in (("clean", 0.9), ("dark,f=0.2", 0.5))
    }
    mean = np.mean([right["a", seed, "dark,f=0.2"].mean() for seed in (0, 1)])
    tiles = write_tiles(make(tmp_path, right, [DARK]), "a")
    assert plain([tiles[1][0]]) == [f"{100 * mean:.0f} %"]


def test_without_a_shift_there_are_two_tiles():
    lines = [CLEAN, ("clean", "none", GAP, around(0.05)), ("clean", "none", SURE, around(0.95))]
    first, second = write_tiles(contents(lines), "a")
    assert plain(first) == ["90 %", "right on clean images", "95 % interval: 89.0 to 91.0 %."]
    assert plain(second) == ["95 %", "sure on average: 5 points too confident"]


def test_scores_without_confidence_have_no_tile_of_it():
    assert len(write_tiles(contents([CLEAN, acc("dark", "0.2", 0.5)], [DARK]), "a")) == 2


def test_confidence_of_scores_of_before_is_accuracy_and_gap():
    lines = [CLEAN, ("clean", "none", GAP, around(0.05))]
    _, sure = write_tiles(contents(lines), "a")
    assert plain(sure)[0] == "95 %"


def test_a_gap_that_too_few_errors_carry_is_said_without_its_ends():
    lines = [CLEAN, ("clean", "none", GAP, (0.05, math.nan, math.nan))]
    _, sure = write_tiles(contents(lines), "a")
    assert plain(sure)[2:] == ["Too few errors for an interval."]


def test_an_attack_is_named_as_one_and_is_not_the_worst_shift():
    lines = [CLEAN, acc("dark", "0.2", 0.5), acc("pgd", EPSILON, 0.0)]
    made = contents(lines, [PGD, DARK])
    assert told(made, 1)[0] == "right under brightness at f = 0.2, where it is worst"
    rows = list_breaks(outcome_of(made))
    assert [(row.title, row.note) for row in rows] == [
        ("Brightness", "worst at f = 0.2"),
        ("PGD", "attack, worst at ε = 8/255"),
    ]
    alone = contents([CLEAN, acc("pgd", EPSILON, 0.0)], [PGD])
    assert told(alone, 1)[0] == "right under attack by PGD at ε = 8/255, where it is worst"


def test_levels_that_are_alike_are_none_that_is_worst():
    """Neither is a shift where all are alike."""
    sweep = replace(FOG, cells={"1": "c/fog,s=1", "3": "c/fog,s=3"})
    flat = [acc("c/fog", level, 0.7) for level in ("1", "3", "mean")]
    made = contents(
        [CLEAN, *flat, acc("dark", "0.2", 0.8), acc("dark", "mean", 0.8)], [sweep, DARK]
    )
    assert (
        told(made, 1)[0] == "right under fog at level 1, as at its other levels, where it is worst"
    )
    outcome = outcome_of(made)
    assert [row.note for row in list_breaks(outcome)] == [
        "the same at every level", "worst at f = 0.2",
    ]  # fmt: skip
    assert plain(describe_shifts(outcome.worst.main))[0] == (
        "Accuracy is lowest under fog at every level: 70 % right."
    )
    made = contents(
        [CLEAN, *flat, acc("dark", "0.2", 0.7), acc("dark", "mean", 0.7)], [sweep, DARK]
    )
    assert told(made, 1)[0] == "right under fog at level 1, as under every shift"
    assert plain(describe_shifts(outcome_of(made).worst.main)) == [
        "Accuracy is the same under every shift and level: 70 % right."
    ]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"blur": 0.8}, []),
        ({"blur": 0.515}, ["1 other shift"]),
        (
            {"blur": 0.515, "c/fog": 0.518},
            ["2 other shifts"],
        ),
    ],
)
def test_shifts_whose_intervals_overlap_with_the_worst_are_told(others, words):
    level = {"blur": "2", "c/fog": "5"}
    lines = [CLEAN, acc("dark", "0.2", 0.5)]
    lines += [acc(name, level[name], value) for name, value in others.items()]
    outcome = outcome_of(contents(lines, [DARK, BLUR, FOG]))
    said = plain(describe_shifts(outcome.worst.shifts))
    assert said[0] == "Accuracy is lowest under brightness at f = 0.2: 50 % right."
    assert said[2:] == [f"It may be as low under {some}: the intervals overlap." for some in words]


def test_the_page_opens_with_the_most_accurate_model_and_not_with_its_variant(tmp_path):
    rng = np.random.default_rng(7)
    right = {(name, 0, "clean"): draw(rng, 300, p) for name, p in (("a", 0.4), ("b", 0.9))}
    right |= {("b+temperature", 0, "clean"): right["b", 0, "clean"]}
    made = make(tmp_path, right)
    assert choose_model(made) == "b"
    assert choose_model(replace(made, titles={"b+temperature": "", "a": ""})) == "a"


def test_a_threshold_that_answers_little_leaves_nothing_to_judge():
    sends = "A threshold set on validation images sends"
    few = "That leaves too few answers to judge."
    for answers, risk in ((29, 0.5), (500, math.nan)):
        said = plain(describe_threshold("images under fog", 0.9, risk, answers))
        assert said == [f"{sends} 90 % of images under fog to a person.", few]
    # That it reviews nothing sounds well: how wrong its answers are comes first.
    assert plain(describe_threshold("images under fog", 0.0, 0.85, 500)) == [
        "A threshold set on validation images accepts answers of which 85 % are wrong.",
        "It sends no images under fog to a person.",
    ]
    assert plain(describe_threshold("images under fog", 1.0, math.nan, 0)) == [
        f"{sends} all images under fog to a person."
    ]


# The test of a pair.


def every_swap(first, second):
    """Two-sided p of all 2^n swaps, one by one."""
    d = first - second
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    return np.mean(np.array(sums) >= abs(d.sum()) - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_random_swaps_agree_with_all_of_them(seed):
    rng = np.random.default_rng(seed)
    columns = rng.integers(5, size=(11, 3)) / 4
    pairs = [(0, 1), (1, 2), (0, 2)]
    found = compare_pairs(columns, pairs, 1, np.random.default_rng(0)).p
    for (a, b), p in zip(pairs, found, strict=True):
        exact = every_swap(columns[:, a], columns[:, b])
        error = math.sqrt(exact * (1 - exact) / 2000)
        assert abs(p - exact) < deviations(comparisons=12) * error + 2 / 2000


def test_a_single_seed_and_cell_is_tested_as_mcnemar_did():
    rng = np.random.default_rng(0)
    columns = np.stack([draw(rng, 90, 0.8), draw(rng, 90, 0.6)], axis=1).astype(float)
    only = [int(((columns[:, a] == 1) & (columns[:, 1 - a] == 0)).sum()) for a in (0, 1)]
    (p,) = compare_pairs(columns, [(0, 1)], 1, np.random.default_rng(0)).p
    assert p == pytest.approx(scipy.stats.binomtest(only[0], sum(only)).pvalue)


def test_columns_that_are_equal_are_not_told_apart_and_p_is_never_0():
    half = np.full((50, 1), 0.5)
    same, apart = (
        compare_pairs(np.hstack([half, half - less]), [(0, 1)], 1, np.random.default_rng(0))
        for less in (0, 0.25)
    )
    assert (same.p, same.bound, same.exact) == ([1.0], [False], False)
    assert (apart.p, apart.bound) == ([1 / (1 + MOST_SWAPS)], [True])


def test_a_small_p_is_counted_among_more_swaps_than_a_large_one():
    rng = np.random.default_rng(0)
    columns = rng.integers(5, size=(400, 3)) / 4
    columns[:, 2] = np.where(np.arange(400) < 80, columns[:, 0] / 2, columns[:, 2])
    expected = every_normal(columns[:, 0], columns[:, 2])
    assert 0.001 < expected < 0.01
    for seed in range(4):
        near, far = compare_pairs(columns, [(0, 1), (0, 2)], 1, np.random.default_rng(seed)).p
        assert near > 0.2
        # Among 2,000 swaps it would be of a few; here it is of at least `ENOUGH`.
        assert far == pytest.approx(
            expected, rel=deviations(comparisons=4) / math.sqrt(ENOUGH_EXTREME)
        )


def test_swaps_are_as_many_whatever_the_number_of_tests_needs():
    half = np.full((20, 1), 0.5)
    many = compare_pairs(np.hstack([half, half - 0.25]), [(0, 1)], 2000, np.random.default_rng(0))
    assert many.p == [1 / 200_001]


def test_models_that_are_alike_are_rarely_told_apart():
    below = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        columns = rng.integers(5, size=(40, 2)) / 4
        below += compare_pairs(columns, [(0, 1)], 1, rng).p[0] < 0.05
    assert below <= most(150, 0.05)


# The ranking.

CELLS = ("dark,f=0.2", "c/fog,s=1", "c/fog,s=5")


def four_models(n=300, shares=(0.9, 0.9, 0.6, 0.3)):
    """Models a to d, on clean images all alike, and under shifts right as often as `shares`."""
    rng = np.random.default_rng(3)
    hard = rng.random((4, n))
    right = {}
    for model, at in zip("dbca", shares[::-1], strict=True):
        right[model, 0, "clean"] = draw(rng, n, 0.9)
        for cell, of in zip(CELLS, hard, strict=False):
            right[model, 0, cell] = of + rng.normal(0, 0.05, n) < at
    return right


def slow_ranks(columns):
    """The range of places of each column, with the tests and Holm's steps written out."""
    names = list(columns)
    tests = {
        pair: every_normal(columns[pair[0]], columns[pair[1]])
        for pair in itertools.combinations(names, 2)
    }
    apart, left = set(), len(tests)
    for pair in sorted(tests, key=tests.get):
        if tests[pair] * left >= 0.05:
            break
        apart.add(pair)
        left -= 1
    mean = {each: columns[each].mean() for each in names}
    ranks = {}
    for each in names:
        others = [o for o in names if (each, o) in apart or (o, each) in apart]
        better = sum(mean[o] > mean[each] for o in others)
        worse = sum(mean[o] < mean[each] for o in others)
        ranks[each] = (1 + better, len(names) - worse)
    return ranks


def every_normal(first, second):
    """The p-value of swaps by their normal approximation: near enough where none is near 5 %."""
    d = first - second
    return 2 * scipy.stats.norm.sf(abs(d.sum()) / math.sqrt((d**2).sum()))


def test_places_are_those_of_the_tests_written_out(tmp_path):
    right = four_models()
    found = rank_models(make(tmp_path, right, [DARK, FOG]))
    shifted = {
        m: right[m, 0, CELLS[0]] / 2 + right[m, 0, CELLS[1]] / 4 + right[m, 0, CELLS[2]] / 4
        for m in "abcd"
    }
    clean = {m: right[m, 0, "clean"].astype(float) for m in "abcd"}
    assert [row.model for row in found.rows] == sorted("abcd", key=lambda m: -shifted[m].mean())
    assert {row.model: (row.best_rank, row.worst_rank) for row in found.rows} == slow_ranks(shifted)
    on_clean = {row.model: (row.clean_best_rank, row.clean_worst_rank) for row in found.rows}
    assert on_clean == slow_ranks(clean) == dict.fromkeys("abcd", (1, 4))
    assert [row.rank for row in found.rows] == ["1–2", "1–2", "3", "4"]


def test_p_to_the_next_is_of_mcnemars_test_and_corrected_for_all_pairs(tmp_path):
    rng = np.random.default_rng(2)
    right = {(m, 0, "clean"): draw(rng, 200, p) for m, p in (("a", 0.9), ("b", 0.8), ("c", 0.75))}
    found = rank_models(make(tmp_path, right))
    first, second, third = (right[row.model, 0, "clean"] for row in found.rows)
    raw = [
        scipy.stats.binomtest((one & ~two).sum(), (one != two).sum()).pvalue
        for one, two in ((first, second), (second, third), (first, third))
    ]
    assert raw[2] < raw[0] < raw[1]
    assert found.rows[0].p_next == pytest.approx(2 * raw[0])
    assert found.rows[1].p_next == pytest.approx(max(2 * raw[0], raw[1]))
    assert math.isnan(found.rows[2].p_next)
    assert not found.shifted
    assert found.table.layout.header == (
        "Model",
        "Rank on clean images",
        "Clean (%)",
        "p against the next",
    )
    assert "McNemar's exact test" in found.caption
    assert "swaps" not in found.caption


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_the_caption_names_the_test_that_was_used(tmp_path, seeds):
    rng = np.random.default_rng(0)
    right = {
        (model, seed, cell): draw(rng, 300, p)
        for model, seed, p in zip("ab", seeds, (0.9, 0.7), strict=True)
        for cell in ("clean", *CELLS)
    }
    one = {key: column for key, column in right.items() if key[2] in ("clean", CELLS[0])}
    caption = rank_models(make(tmp_path / "one", one, [DARK])).caption
    assert caption.endswith("Holm's correction over all pairs: McNemar's exact test.")
    caption = rank_models(make(tmp_path / "all", right, [DARK, FOG])).caption
    assert "McNemar's exact test on clean images, and random swaps" in caption


def test_a_p_that_is_only_bounded_is_shown_as_that(tmp_path):
    right = four_models(shares=(0.9, 0.6, 0.3, 0.1))
    found = rank_models(make(tmp_path, right, [DARK, FOG]))
    assert [row.p_next_at_most for row in found.rows] == [True, True, True, False]
    assert [row.p_in_words for row in found.rows] == ["< 0.001"] * 3 + ["–"]
    row = found.rows[0]
    assert row._replace(p_next=0.00101).p_in_words == "≤ 0.002"
    assert row._replace(p_next=0.00101, p_next_at_most=False).p_in_words == "0.001"
    assert "≤" not in found.caption


def test_the_caption_explains_a_bound_where_one_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.report.performance.MOST_SWAPS", 1_999)
    right = four_models(shares=(0.9, 0.6, 0.3, 0.1))
    found = rank_models(make(tmp_path, right, [DARK, FOG]))
    assert found.rows[0].p_in_words == "≤ 0.003"  # the least of 2,000, of 6 pairs
    assert found.caption.endswith("“≤”: no random swap gave as large a difference.")


def test_numbers_are_those_of_the_scores(tmp_path):
    made = make(tmp_path, four_models(), [DARK, FOG])
    for row in rank_models(made).rows:
        assert row.score == made.score("accuracy", row.model, "all", "mean")
        assert row.clean == made.score("accuracy", row.model, "clean", "none")


def test_without_scores_of_the_mean_it_is_computed_as_they_are(tmp_path):
    made = make(tmp_path, four_models(), [DARK, FOG])
    without = replace(made, scores=made.scores[made.scores["shift"] != "all"])
    for row, expected in zip(rank_models(without).rows, rank_models(made).rows, strict=True):
        assert row.score == pytest.approx(expected.score, abs=1e-7)
    assert len(_estimate_scores(made, [np.ones((300, 1)), np.ones((300, 2))])) == 2


def test_the_order_of_models_changes_nothing(tmp_path):
    made = make(tmp_path, four_models(), [DARK, FOG])
    turned = replace(made, titles=dict(reversed(made.titles.items())))
    assert rank_models(turned) == rank_models(made)


def test_the_order_of_images_changes_no_place(tmp_path):
    right = four_models()
    order = np.random.default_rng(9).permutation(300)
    moved = {key: column[order] for key, column in right.items()}
    ranks = [
        [(row.model, row.rank, row.clean_rank) for row in rank_models(made).rows]
        for made in (
            make(tmp_path / "as", right, [DARK, FOG]),
            make(tmp_path / "moved", moved, [DARK, FOG], labels=(np.arange(300) % 4)[order]),
        )
    ]
    assert ranks[0] == ranks[1]


def test_a_model_that_answers_as_another_costs_no_test(tmp_path):
    right = four_models()
    twins = right | {("e", *key[1:]): column for key, column in right.items() if key[0] == "a"}
    alone, beside = (
        rank_models(make(tmp_path / name, each, [DARK, FOG]))
        for name, each in (("alone", right), ("beside", twins))
    )
    p_values = {row.model: row.p_next for row in alone.rows}
    twin = {row.model: row for row in beside.rows}
    assert [twin[model].rank for model in "aecbd"] == ["1–3", "1–3", "1–3", "4", "5"]
    assert twin["b"].p_next == p_values["b"]


def test_attacks_do_not_count(tmp_path):
    right = four_models()
    attacked = right | {(m, 0, "pgd,8"): np.full(300, m == "d") for m in "abcd"}
    plain, with_attack = (
        rank_models(make(tmp_path / name, each, sweeps))
        for name, each, sweeps in (
            ("plain", right, [DARK, FOG]),
            ("attacked", attacked, [DARK, FOG, PGD]),
        )
    )
    assert plain.rows == with_attack.rows


def test_only_what_all_models_were_tested_on_counts(tmp_path):
    right = four_models()
    del right["a", 0, "dark,f=0.2"]
    found = rank_models(make(tmp_path, right, [DARK, FOG]))
    for row in found.rows:
        both = [right[row.model, 0, cell].mean() for cell in CELLS[1:]]
        assert row.score.value == pytest.approx(np.mean(both))
    assert (
        "on the 2 of 3 shifted sets that every model was tested on. This "
        "mean can differ from those in other tables"
    ) in found.caption


def test_without_a_shared_cell_clean_images_rank(tmp_path):
    right = {k: v for k, v in four_models().items() if k[2] == "clean" or k[0] == "a"}
    found = rank_models(make(tmp_path, right, [DARK, FOG]))
    assert not found.shifted
    assert [row.score for row in found.rows] == [row.clean for row in found.rows]
    assert (
        "accuracy on clean images: none of the 3 shifted sets was tested on every model"
        in found.caption
    )


def test_a_difference_that_is_confirmed_is_the_headline(tmp_path):
    made = make(tmp_path, four_models(shares=(0.7, 0.5, 0.4, 0.2)), [DARK, FOG])
    ranks = rank_models(made)
    said, note = describe_comparison(made, ranks)
    first = max(ranks.rows, key=lambda row: row.clean.value)
    apart = {
        row.model: row.score.value - first.score.value for row in ranks.rows if row is not first
    }
    assert ranks.differences.keys() == apart.keys()
    for model, value in apart.items():
        assert ranks.differences[model][1].score.value == pytest.approx(value)
    far = max(apart, key=lambda model: abs(apart[model]))
    points = f"{abs(100 * apart[far]):.0f} points"
    pair = (far.upper(), first.title) if apart[far] > 0 else (first.title, far.upper())
    expected = f"“{pair[0]}” is {points} more accurate than “{pair[1]}” over the shifts."
    assert said == expected
    assert note == ""


def test_a_difference_that_is_not_confirmed_is_a_note(tmp_path):
    alike = four_models(shares=(0.6, 0.6, 0.6, 0.6))
    right = {key: column for key, column in alike.items() if key[0] in "ab"}
    clean = {key: column for key, column in right.items() if key[2] == "clean"}
    for sweeps, columns, images in (
        ([DARK, FOG], right, "images over the shifts"),
        ([], clean, "clean images"),
    ):
        made = make(tmp_path / images, columns, sweeps)
        said, note = plain(describe_comparison(made, rank_models(made)))
        assert re.fullmatch(rf"The models are right on \d+( to \d+)? % of the {images}\.", said)
        assert note == "These images cannot tell them apart."


def test_what_some_pairs_leave_open_is_a_note(tmp_path):
    made = make(tmp_path, four_models(shares=(0.7, 0.69, 0.68, 0.2)), [DARK, FOG])
    ranks = rank_models(made)
    open_pairs = [own for _, own in ranks.differences.values() if own.p >= 0.05]
    said, note = plain(describe_comparison(made, ranks))
    assert 0 < len(open_pairs) < len(ranks.differences)
    assert " more accurate than " in said
    assert note.startswith("These images cannot tell “")


def test_a_variant_is_no_rival_of_its_own_model(tmp_path):
    rng = np.random.default_rng(7)
    right = {("a", 0, "clean"): draw(rng, 300, 0.9), ("b", 0, "clean"): draw(rng, 300, 0.4)}
    right |= {("a+temperature", 0, "clean"): right["a", 0, "clean"]}
    found = rank_models(make(tmp_path, right))
    assert [row.model for row in found.rows] == ["a", "b"]
    only = {key: column for key, column in right.items() if key[0] != "b"}
    assert rank_models(make(tmp_path / "same", only)) is None


def test_recipes_are_told_apart_by_seeds_and_images(tmp_path):
    rng = np.random.default_rng(5)
    right = {
        (model, seed, "clean"): draw(rng, 300, p)
        for model, p in (("a", 0.5), ("b", 0.9))
        for seed in (0, 1, 2)
    }
    found = rank_models(make(tmp_path, right))
    assert [(row.model, row.rank) for row in found.rows] == [("b", "1"), ("a", "2")]
    expected = np.mean([right["b", seed, "clean"].mean() for seed in range(3)])
    assert found.rows[0].score.value == pytest.approx(expected)
    columns = [
        np.stack([right[m, seed, "clean"] for seed in (0, 1, 2)], 1).astype(float) for m in "ab"
    ]
    assert found.rows[0].p_next == pytest.approx(crossed_difference(*columns, bounds=(0.0, 1.0)).p)
    assert "95 % intervals over seeds and images" in found.caption
    assert found.caption.endswith("over all pairs: Student's t over seeds and images.")
    assert found.notes == ()


def test_recipes_whose_seeds_differ_more_than_they_do_are_not_told_apart(tmp_path):
    rng = np.random.default_rng(5)
    shares = {"a": (0.5, 0.7, 0.6), "b": (0.9, 0.6, 0.7)}
    right = {
        (model, seed, "clean"): draw(rng, 300, p)
        for model, of_seeds in shares.items()
        for seed, p in enumerate(of_seeds)
    }
    made = make(tmp_path / "several", right)
    found = rank_models(made)
    assert [row.rank for row in found.rows] == ["1–2", "1–2"]
    assert found.notes == ()
    assert made.scope.startswith("This is about the recipes: the intervals cover training again")
    # As trained networks they are: the images of each seed alone tell.
    one = {key: column for key, column in right.items() if key[1] == 0}
    made = make(tmp_path / "one", one)
    assert [row.rank for row in rank_models(made).rows] == ["1", "2"]
    assert made.scope.startswith("Each recipe was trained once, so this is about these trained")


@pytest.mark.parametrize(
    ("titles", "which"), [({"a": "A"}, "this network"), ({"a": "A", "b": "B"}, "these networks")]
)
def test_of_evaluated_networks_nobody_says_that_they_were_trained(titles, which):
    made = contents([CLEAN], titles=titles)
    record = made.records[""].model_copy(update={"kind": "evaluation"})
    assert replace(made, records={"": record}).scope == (
        f"This is about {which}, on other images like these."
    )


def test_scores_of_before_say_nothing_of_recipes(tmp_path):
    right = {(m, seed, "clean"): np.arange(300) % 5 > 0 for m in "ab" for seed in (0, 1, 2)}
    made = make(tmp_path, right)
    assert made.intervals == "95 % intervals over seeds and images"
    run = made.runs[""]
    for version, of_recipes in ((4, ["a", "b"]), (3, [])):
        step = StepRecord(
            id="scores", kind="score", fingerprint="f", depends={"version": version}, files={}
        )
        run.finish(step)
        again = replace(made)
        assert again.of_recipes == of_recipes
    assert again.intervals == "95 % bootstrap intervals over images"
    assert again.scope.startswith("An earlier version of fairweather made these scores")


def test_of_a_recipe_with_one_seed_no_number_of_seeds_is_told(tmp_path):
    rng = np.random.default_rng(3)
    right = {("a", seed, "clean"): draw(rng, 300, p) for seed, p in enumerate((0.5, 0.8, 0.6))}
    right |= {("b", 0, "clean"): draw(rng, 300, 0.6)}
    found = rank_models(make(tmp_path, right))
    assert [row.rank for row in found.rows] == ["1–2", "1–2"]
    assert found.notes == ()


def test_a_variant_and_its_model_are_paired_seed_by_seed(tmp_path):
    rng = np.random.default_rng(5)
    right = {("a", seed, "clean"): draw(rng, 400, p) for seed, p in enumerate((0.5, 0.9, 0.7))}
    lost = np.arange(400) % 10 == 0
    right |= {("a+batchnorm", *key[1:]): column & ~lost for key, column in right.items()}
    frame = tabulate_variants(make(tmp_path, right)).frame
    assert frame["model"].tolist() == ["a", "a+batchnorm"]
    parts = ("value", "low", "high")
    changes = frame.filter(like="change of accuracy").set_axis(parts, axis=1)
    own, change = changes.itertuples()
    assert math.isnan(own.value)
    losses = [(right["a", s, "clean"] & lost).mean() for s in range(3)]
    assert change.value == pytest.approx(-np.mean(losses))
    # The seeds differ by 40 points, and both change alike with them.
    assert change.high < 0
    assert change.high - change.low < 0.2


def test_without_a_variant_there_is_no_table_of_variants(tmp_path):
    assert tabulate_variants(make(tmp_path, four_models(), [DARK, FOG])) is None


def test_a_variant_that_gives_the_same_answers_changes_nothing(tmp_path):
    right = {k: v for k, v in four_models().items() if k[0] == "a"}
    right |= {("a+temperature", *key[1:]): column for key, column in right.items()}
    frame = tabulate_variants(make(tmp_path, right, [DARK, FOG])).frame
    changes = frame.filter(like="change of accuracy")
    shifted, low, high, clean, *_ = changes.iloc[1]
    assert shifted == clean == 0
    assert low <= 0 <= high


def test_there_is_no_ranking_of_one_model_or_of_what_is_not_there(tmp_path):
    right = four_models()
    one = {key: column for key, column in right.items() if key[0] == "a"}
    assert rank_models(make(tmp_path / "one", one, [DARK, FOG])) is None
    made = make(tmp_path / "gone", right, [DARK, FOG])
    assert rank_models(replace(made, runs={})) is None
    (tmp_path / "gone/predictions/b/seed-0/test/c__fog,s=5.parquet").unlink()
    assert rank_models(made) is None


def test_models_of_other_images_are_not_ranked(tmp_path):
    right = four_models()
    made = make(tmp_path, right, [DARK, FOG])
    moved = outcomes(right["b", 0, "clean"], (np.arange(300) + 1) % 4)
    made.runs[""].write_predictions(made.runs[""].predictions("b", 0, "clean"), moved)
    assert rank_models(made) is None


def test_the_ranking_is_written_as_markdown_and_csv(tmp_path):
    titles = dict(zip("dbca", ("D", HOSTILE, "C, x", "A"), strict=True))
    found = rank_models(make(tmp_path, four_models(), [DARK, FOG], titles=titles))
    texts = found.table.texts()
    head, rule, *rows = texts["md"].splitlines()[:6]
    assert head.count("|") == rule.count("|") == 7
    assert "<script>" not in texts["md"]
    assert r"a\|b" in texts["md"]
    lines = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [line["model"] for line in lines] == [row.model for row in found.rows]
    assert float(lines[0]["score low"]) == pytest.approx(found.rows[0].score.low, abs=1e-7)
    assert [int(line["worst_rank"]) for line in lines] == [row.worst_rank for row in found.rows]
    assert len(rows) == 4
    assert all(len(cells) == len(found.table.layout.header) for cells in found.table.body)
