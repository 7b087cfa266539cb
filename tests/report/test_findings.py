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
from hypothesis import given, settings
from hypothesis import strategies as st

from fairweather.attacks.table import ATTACKS
from fairweather.metrics import FittedThresholds
from fairweather.metrics.seeds import crossed_difference
from fairweather.report import sentences as words
from fairweather.report.contents import Contents, Sweep, make_sweep
from fairweather.report.overview import find_findings, write_verdict
from fairweather.report.performance import (
    COVERAGE,
    ENOUGH_EXTREME,
    MOST_SWAPS,
    RISK,
    ModelOutcome,
    Performance,
    WorstLevel,
    WorstLevels,
    compare_pairs,
    widen_interval,
)
from fairweather.report.ranking import _estimate_scores, rank_models, tabulate_variants
from fairweather.report.sentences import describe_confidence, detail_confidence, format_points
from fairweather.runs.scores import add_means, add_worst, estimate_cells, scores_frame
from fairweather.shifts.table import SHIFTS
from fairweather.types.measurement import Cell, Score, Shift
from fairweather.types.record import COLUMNS, StepRecord
from tests.helpers.chance import deviations, most
from tests.helpers.run_folders import outcomes, run_record, sweep_record, write_run

RMS, GAP = "rms_calibration_error", "confidence_gap"
# What findings are about; a run has many more metrics.
TOLD = ("accuracy", RMS, GAP, COVERAGE, RISK)
HOSTILE = "<script>a|b</script>"
DARK = Sweep("dark", "Brightness", "brightness factor f", 1.0, "", {"0.2": "dark,f=0.2"})
BLUR = Sweep("blur", "Gaussian blur", "standard deviation σ (pixels)", 0.0, "", {"2": "blur,s=2"})
FOG = Sweep("c/fog", "Fog", "severity", 0.0, "", {"1": "c/fog,s=1", "5": "c/fog,s=5"})
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


def sentences(lines, sweeps=()):
    (found,) = find_findings(contents(lines, sweeps))
    assert (found.model, found.title) == ("a", "A")
    assert len(found.sentences) <= 3
    return plain(found.sentences)


def more(lines, sweeps=()):
    (found,) = find_findings(contents(lines, sweeps))
    return plain(found.more)


CLEAN = acc("clean", "none", 0.9)


def test_a_fall_names_the_shift_and_its_level():
    assert sentences([CLEAN, acc("dark", "0.2", 0.5)], [DARK]) == [
        "Accuracy falls from 90.0 % on clean images to 50.0 % under brightness at f = 0.2."
    ]


def test_no_change_is_not_called_one():
    lines = [CLEAN, acc("dark", "0.2", 0.89)]
    assert sentences(lines, [DARK]) == [
        "Accuracy is 90.0 % on clean images and 89.0 % under brightness at f = 0.2; these images "
        "cannot confirm a difference."
    ]
    assert "The intervals of the two accuracies overlap." in more(lines, [DARK])


def test_more_accuracy_than_on_clean_images_is_no_loss():
    lines = [CLEAN, acc("c/fog", "1", 0.95), acc("c/fog", "5", 0.94)]
    first, *_ = sentences(lines, [FOG])
    assert first == (
        "No accuracy is lost: 90.0 % on clean images, at least 94.0 % under fog at severity 5."
    )


def test_the_lowest_level_of_all_shifts_is_told_and_the_means_of_two():
    lines = [
        CLEAN,
        acc("dark", "0.2", 0.7),
        acc("dark", "mean", 0.7),
        acc("c/fog", "1", 0.8),
        acc("c/fog", "5", 0.4),
        acc("c/fog", "mean", 0.6),
    ]
    assert sentences(lines, [DARK, FOG]) == [
        "Accuracy falls from 90.0 % on clean images to 40.0 % at worst, under fog at severity 5."
    ]
    assert more(lines, [DARK, FOG]) == [
        "Its mean accuracy over the levels is 70.0 % under brightness and 60.0 % under fog."
    ]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (["Fog"], "under fog"),
        (["Fog", "Snow"], "under fog and snow"),
        (["Fog", "Snow", "JPEG"], "under 3 other shifts"),
    ],
)
def test_shifts_whose_intervals_overlap_with_the_lowest_are_told(others, words):
    names = ["Frost", *others, "Hue"]
    values = [0.5, *[0.51] * len(others), 0.8]
    sweeps = [Sweep(title, title, "severity", 0.0, "", {"3": title}) for title in names]
    lines = [acc(title, "3", value) for title, value in zip(names, values, strict=True)]
    assert sentences([CLEAN, *lines], sweeps)[0].endswith("under frost at severity 3.")
    told = f"Its lowest accuracy {words} may be as low: the intervals overlap."
    assert more([CLEAN, *lines], sweeps)[0] == told


def test_of_many_shifts_the_worst_the_best_and_the_mean_are_told():
    titles = [f"Corruption {number}" for number in range(15)]
    sweeps = [Sweep(title, title, "severity", 0.0, "", {"5": title}) for title in titles]
    lines = [acc(title, "5", 0.3 + 0.03 * at) for at, title in enumerate(titles)]
    lines = [CLEAN, *lines, acc("all", "mean", 0.51)]
    (first,) = sentences(lines, sweeps)
    assert "30.0 % at worst, under corruption 0 at severity 5" in first
    assert more(lines, sweeps) == [
        "It keeps most accuracy under corruption 14: 72.0 % at the worst level of that shift.",
        "Its mean accuracy over all 15 shifts is 51.0 %.",
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.5, 0.501, 0.502), None),
        ((0.5, 0.51, 0.519), None),
        ((0.5, 0.7, 0.71), "under s1"),
        ((0.5, 0.7, 0.71, 0.71, 0.71), "under 3 other shifts"),
        ((0.5, 0.6, 0.7), ""),
    ],
)
def test_a_best_shift_is_named_only_where_it_differs_from_the_lowest(values, words):
    sweeps = [Sweep(f"s{at}", f"S{at}", "severity", 0.0, "", {"5": "x"}) for at in range(5)]
    lines = [acc(f"s{at}", "5", value) for at, value in enumerate(values)]
    told = [text for text in more([CLEAN, *lines], sweeps) if "lowest accuracy" not in text]
    if words is None:
        assert told == []
        mean = acc("all", "mean", 0.5)
        last = more([CLEAN, *lines, mean], sweeps)[-1]
        assert last == "Its mean accuracy over all 3 shifts is 50.0 %."
    else:
        assert told[0].startswith("It keeps most accuracy under s2: ")
        overlaps = f"It may keep as much {words}: the intervals overlap."
        assert told[1:] == ([overlaps] if words else [])


def test_a_run_without_shifts_says_so():
    lines = [CLEAN, ("clean", "none", GAP, around(0.05)), ("clean", "none", RMS, around(0.06))]
    assert sentences(lines) == [
        "It is right in 90.0 % of the clean images; no shift was tested.",
        "On average it is overconfident by 5.0 points.",
    ]
    assert more(lines) == ["Its RMS calibration error is 0.06."]
    lines[1] = ("clean", "none", GAP, around(-0.005))
    assert sentences(lines)[1] == (
        "On average it is underconfident by 0.5 points, which these images cannot confirm."
    )


def test_an_attack_is_named_as_one_and_is_not_the_worst_shift():
    lines = [CLEAN, acc("dark", "0.2", 0.5), ("pgd", EPSILON, "accuracy", (0.0, 0.0, 0.004))]
    (first,), (last,) = sentences(lines, [DARK, PGD]), more(lines, [DARK, PGD])
    assert "brightness" in first
    assert "PGD" not in first
    assert last == "An attack (PGD at ε = 8/255) leaves an accuracy of 0.0 %: nothing is left."


def test_the_strongest_attack_stands_for_all():
    fgsm = replace(PGD, name="fgsm", title="FGSM", cells={"0.1": "fgsm"})
    lines = [
        CLEAN,
        acc("dark", "0.2", 0.5),
        acc("fgsm", "0.1", 0.3),
        acc("pgd", EPSILON, 0.2),
    ]
    assert more(lines, [DARK, fgsm, PGD])[-1] == (
        "The strongest of 2 attacks (PGD at ε = 8/255) leaves an accuracy of 20.0 %."
    )


def test_attacks_alone_are_the_answer():
    assert sentences([CLEAN, ("pgd", EPSILON, "accuracy", (0.0, 0.0, 0.004))], [PGD]) == [
        "Accuracy falls from 90.0 % on clean images to 0.0 % under attack by PGD at ε = 8/255: "
        "nothing is left."
    ]


def test_that_nothing_is_left_is_said_only_where_the_interval_says_so():
    few = ("pgd", EPSILON, "accuracy", (0.0, 0.0, 0.242))
    assert more([CLEAN, acc("dark", "0.2", 0.5), few], [DARK, PGD])[-1] == (
        "An attack (PGD at ε = 8/255) leaves an accuracy of 0.0 %."
    )
    assert sentences([CLEAN, few], [PGD])[0].endswith("to 0.0 % under attack by PGD at ε = 8/255.")


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
    "quality": "JPEG at quality 3",
    "severity": "fog at severity 3",
    "standard deviation σ (pixels)": "Gaussian blur at σ = 3",
    "turn of the colour circle": "hue at 3 of the colour circle",
}


def test_every_level_has_a_form_to_read():
    found = {}
    for kind in SHIFTS.values():
        if kind.level_title != "severity" or kind.title == "Fog":
            sweep = Sweep("", kind.title, kind.level_title, kind.neutral, "", {"3": ""})
            found[kind.level_title] = sweep.at("3")
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
    assert Sweep("", "AutoContrast", "severity", 0.0, "", {}).in_sentence == "AutoContrast"


def calibration_lines(gap, gap_there, rms=(0.03, 0.02, 0.04), rms_there=(0.3, 0.28, 0.32)):
    return [
        CLEAN,
        acc("dark", "0.2", 0.5),
        ("clean", "none", GAP, gap),
        ("dark", "0.2", GAP, gap_there),
        ("clean", "none", RMS, rms),
        ("dark", "0.2", RMS, rms_there),
    ]


RISES = "Its RMS calibration error rises from 0.03 on clean images to 0.30 there."


@pytest.mark.parametrize(
    ("gap", "there", "words"),
    [
        (
            0.01,
            0.25,
            "Its confidence falls less than its accuracy: it is overconfident by 25.0 points "
            "there, and by 1.0 points on clean images.",
        ),
        (
            -0.05,
            -0.25,
            "Its confidence falls further than its accuracy: it is underconfident by 25.0 points "
            "there, and by 5.0 points on clean images.",
        ),
        (
            0.05,
            0.06,
            "It is overconfident by 6.0 points there and by 5.0 points on clean images; these "
            "images cannot confirm a change.",
        ),
        (
            0.15,
            0.06,
            "It is overconfident by 6.0 points there, which is less than on clean images (15.0 "
            "points).",
        ),
        (
            -0.15,
            -0.06,
            "It is underconfident by 6.0 points there, which is less than on clean images (15.0 "
            "points).",
        ),
        (
            0.0,
            -0.005,
            "It is underconfident by 0.5 points there and overconfident by 0.0 points on clean "
            "images; these images cannot confirm a change.",
        ),
        (
            0.1,
            -0.005,
            "It is underconfident by 0.5 points there, which these images cannot confirm; on clean "
            "images it is overconfident by 10.0 points.",
        ),
        (
            -0.05,
            0.04,
            "It turns from underconfident by 5.0 points on clean images to overconfident by 4.0 "
            "points there.",
        ),
        (
            0.05,
            -0.06,
            "It turns from overconfident by 5.0 points on clean images to underconfident by 6.0 "
            "points there.",
        ),
        (
            -0.05,
            0.2,
            "Its confidence falls less than its accuracy: it is overconfident by 20.0 points "
            "there, and underconfident by 5.0 points on clean images.",
        ),
    ],
    ids=[
        "overconfident",
        "underconfident",
        "as before",
        "closer",
        "closer from below",
        "no change",
        "no error",
        "turns up",
        "turns down",
        "turns and grows",
    ],
)
def test_confidence_is_said_to_follow_as_far_as_its_intervals_say(gap, there, words):
    lines = calibration_lines(around(gap), around(there))
    assert sentences(lines, [DARK])[1] == words
    assert more(lines, [DARK]) == [RISES]


def test_confidence_is_not_said_to_lag_where_no_accuracy_is_lost():
    lines = [
        CLEAN,
        acc("dark", "0.2", 0.9),
        ("clean", "none", GAP, around(0.0)),
        ("dark", "0.2", GAP, around(-0.3)),
        ("clean", "none", RMS, around(0.03)),
        ("dark", "0.2", RMS, around(0.3)),
    ]
    assert sentences(lines, [DARK])[1].startswith(
        "Its confidence changes otherwise than its accuracy: it is underconfident by 30.0 points "
        "there"
    )


def test_of_the_lowest_of_many_confidence_is_told_by_wider_intervals():
    levels = {str(level): f"c/fog,s={level}" for level in range(1, 81)}
    sweep = replace(FOG, cells=levels)
    lines = [
        CLEAN,
        *[acc("c/fog", level, 0.5 if level == "1" else 0.7) for level in levels],
        ("clean", "none", GAP, around(0.0)),
        ("c/fog", "1", GAP, around(0.025)),
        ("clean", "none", RMS, around(0.03)),
        ("c/fog", "1", RMS, around(0.055)),
    ]
    # Apart by their own intervals, but not by those of one of 80, which are 1.74 times as wide.
    assert sentences(lines, [sweep])[1] == (
        "It is overconfident by 2.5 points there and by 0.0 points on clean images; these images "
        "cannot confirm a change."
    )
    assert more(lines, [sweep]) == [
        "With 80 sets of images tested, so large a gap can be chance.",
        "Its RMS calibration error is 0.03 on clean images and 0.06 there; these images cannot "
        "confirm a difference.",
    ]
    one = replace(FOG, cells={"1": "c/fog,s=1"})
    assert sentences(lines, [one])[1].startswith("Its confidence falls less than its accuracy")
    assert more(lines, [one])[0].startswith("Its RMS calibration error rises from")


def test_widened_intervals_are_those_of_bonferroni():
    score = Score(0.1, 0.1 - 1.959964, 0.1 + 2 * 1.959964, 50)
    assert widen_interval(score, 1) == pytest.approx(score)
    wide = widen_interval(score, 80)
    quantile = scipy.stats.norm.isf(0.025 / 80)
    assert (wide.low, wide.high) == pytest.approx((0.1 - quantile, 0.1 + 2 * quantile), rel=1e-6)


def test_calibration_without_a_difference_is_not_called_the_same():
    lines = calibration_lines(around(0.0), around(0.005), rms_there=(0.05, 0.03, 0.06))
    assert sentences(lines, [DARK])[1].endswith("; these images cannot confirm a change.")
    assert more(lines, [DARK]) == [
        "Its RMS calibration error is 0.03 on clean images and 0.05 there; these images cannot "
        "confirm a difference."
    ]


def deferred(coverage, coverage_there, risk_there):
    return [
        CLEAN,
        acc("dark", "0.2", 0.5),
        ("clean", "none", COVERAGE, coverage),
        ("clean", "none", RISK, around(0.05)),
        ("dark", "0.2", COVERAGE, coverage_there),
        ("dark", "0.2", RISK, risk_there),
    ]


RULE = "With the threshold that keeps errors to 5 % on validation images, it defers "


@pytest.mark.parametrize(
    ("there", "risk", "words"),
    [
        (
            around(0.4),
            around(0.2),
            "60.0 % of the images there to a person, and 20.0 % of its answers ",
        ),
        (
            around(0.4),
            around(0.05),
            "60.0 % of the images there to a person, and 5.0 % of its answers ",
        ),
        (
            around(0.01),
            around(0.2),
            "99.0 % of the images there to a person, which leaves too few ",
        ),
        (
            around(0.4),
            (math.nan,) * 3,
            "60.0 % of the images there to a person, which leaves too few ",
        ),
        ((0.0, 0.0, 0.004), (math.nan,) * 3, "every image."),
    ],
)
def test_what_would_be_deferred_is_told_with_the_errors_that_are_left(there, risk, words):
    lines = deferred(around(0.88), there, risk)
    told = sentences(lines, [DARK])[1]
    assert told.startswith(RULE + words)
    assert ("are still wrong" in told) == (risk == around(0.2) and there == around(0.4))
    assert more(lines, [DARK]) == [
        "On clean images, that threshold defers 12.0 % to a person, and 5.0 % of its answers are "
        "wrong."
    ]


def test_the_risk_on_clean_images_of_few_answers_is_not_told():
    (told,) = more(deferred(around(0.02), around(0.4), around(0.2)), [DARK])
    assert told.endswith("defers 98.0 % to a person, which leaves too few answers to judge.")


def test_where_no_clean_image_is_answered_all_are_deferred():
    (told,) = more(deferred((0.0, 0.0, 0.0), around(0.4), around(0.2)), [DARK])
    assert told == "On clean images, that threshold defers every image."


def test_without_shifts_the_clean_images_that_are_deferred_are_told():
    lines = [
        CLEAN,
        ("clean", "none", COVERAGE, around(0.88)),
        ("clean", "none", RISK, around(0.05)),
    ]
    assert sentences(lines)[1] == (
        f"{RULE}12.0 % of the clean images, and 5.0 % of its answers are wrong."
    )


intervals = st.tuples(st.floats(0.2, 0.8), st.floats(0.001, 0.1), st.floats(0.001, 0.1)).map(
    lambda each: (each[0], each[0] - each[1], each[0] + each[2])
)


@settings(max_examples=60, deadline=None)
@given(clean=intervals, dark=intervals, blur=intervals)
def test_without_predictions_nothing_falls_whose_intervals_overlap(clean, dark, blur):
    lines = [
        ("clean", "none", "accuracy", clean),
        ("dark", "0.2", "accuracy", dark),
        ("blur", "2", "accuracy", blur),
    ]
    first = sentences(lines, [DARK, BLUR])[0]
    lowest = min(dark, blur)
    assert first.startswith("Accuracy falls") == (lowest[2] < clean[1])


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


def first_sentence(found):
    return find_findings(found)[0].sentences[0].replace("\N{NO-BREAK SPACE}", " ")


def test_pairing_finds_a_fall_that_overlapping_intervals_hide(tmp_path):
    clean = draw(np.random.default_rng(0), 400, 0.8)
    dark = clean & (np.arange(400) % 25 > 0)
    found = make(tmp_path, {("a", 0, "clean"): clean, ("a", 0, "dark,f=0.2"): dark}, [DARK])
    before, after = (
        found.score("accuracy", "a", *at) for at in (("clean", "none"), ("dark", "0.2"))
    )
    assert after.high > before.low
    assert first_sentence(found).startswith("Accuracy falls from")


def test_a_difference_whose_interval_holds_0_is_told_with_it(tmp_path):
    rng = np.random.default_rng(0)
    right = {("a", 0, "clean"): draw(rng, 300, 0.83), ("a", 0, "dark,f=0.2"): draw(rng, 300, 0.75)}
    found = make(tmp_path, right, [DARK])
    assert first_sentence(found).endswith("; these images cannot confirm a difference.")
    value = 100 * (right["a", 0, "dark,f=0.2"].mean() - right["a", 0, "clean"].mean())
    told = find_findings(found)[0].more[0]
    assert told.startswith(f"The difference is {value:.1f} points [".replace("-", "−"))


def test_the_worst_of_many_that_are_alike_is_rarely_called_a_fall(tmp_path):
    levels = {str(level): f"c/fog,s={level}" for level in range(1, 21)}
    sweep = replace(FOG, cells=levels)
    falls, excluding, claims, lucky = 0, 0, 0, 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        right = {("a", 0, cell): draw(rng, 200, 0.7) for cell in ("clean", *levels.values())}
        (found,) = find_findings(make(tmp_path / str(seed), right, [sweep], bootstrap=100))
        first, second = found.sentences[:2]
        falls += first.startswith("Accuracy falls")
        excluding += any("a difference in accuracy can be chance" in text for text in found.more)
        claims += "cannot confirm a change" not in second
        lucky += any("so large a gap can be chance" in text for text in found.more)
    assert max(falls, claims) <= most(16, 0.05)
    assert min(excluding, lucky) > 0  # so the intervals alone would have said more than they may


def test_of_one_set_of_images_the_interval_alone_decides(tmp_path):
    clean = np.arange(60) >= 7
    dark = np.arange(60) != 7
    found = make(tmp_path, {("a", 0, "clean"): dark, ("a", 0, "dark,f=0.2"): clean}, [DARK])
    assert 0.05 < scipy.stats.binomtest(1, 8).pvalue < 0.1
    assert first_sentence(found).startswith("Accuracy falls from 98.3 %")


def test_a_model_no_better_than_the_most_common_answer_is_told_as_that(tmp_path):
    labels = np.where(np.arange(400) % 10 < 6, 0, 1)
    right = {("a", 0, "clean"): labels == 0, ("a", 0, "dark,f=0.2"): labels == 0}
    (found,) = find_findings(make(tmp_path / "dark", right, [DARK], labels))
    assert found.sentences[0].endswith("; these images cannot confirm a difference.")
    assert plain(found.more)[:2] == [
        "The difference is 0.0 points [−0.7, 0.7].",
        "Already on clean images it is no better than always giving the most common answer "
        "(60.0 %).",
    ]
    del right["a", 0, "dark,f=0.2"]
    assert first_sentence(make(tmp_path / "clean", right, [], labels)) == (
        "It is right in 60.0 % of the clean images, no better than always giving the most common "
        "answer; no shift was tested."
    )


def test_a_collapse_is_told_also_where_clean_images_are_hardly_better_than_chance(tmp_path):
    rng = np.random.default_rng(0)
    labels = (np.arange(300) % 10 == 0).astype(int)
    right = {
        ("a", 0, cell): draw(rng, 300, p)
        for cell, p in (("clean", 0.92), ("dark,f=0.2", 0.12), ("pgd,8", 0.0))
    }
    (found,) = find_findings(make(tmp_path, right, [DARK, PGD], labels))
    first, second = plain(found.sentences)
    assert first.startswith("Accuracy falls from 88.3 % on clean images to ")
    assert first.endswith(" under brightness at f = 0.2.")
    assert second.startswith("Its confidence does not fall with it")
    already, *_, attack, _ = plain(found.more)
    assert already.startswith("Already on clean images it is no better than always giving the most")
    assert attack.startswith("An attack (PGD at ε = 8/255) leaves")


def test_a_fall_to_the_most_common_answer_is_told_as_that(tmp_path):
    rng = np.random.default_rng(0)
    right = {("a", 0, "clean"): draw(rng, 400, 0.9), ("a", 0, "dark,f=0.2"): draw(rng, 400, 0.2)}
    found = make(tmp_path, right, [DARK])
    assert first_sentence(found).endswith(
        "under brightness at f = 0.2, no better than always giving the most common answer."
    )
    told = "The most common answer is right in 25.0 % of the images."
    assert told in plain(find_findings(found)[0].more)


def test_confidence_is_paired_too(tmp_path):
    rng = np.random.default_rng(0)
    right = {("a", 0, "clean"): draw(rng, 400, 0.7), ("a", 0, "dark,f=0.2"): draw(rng, 400, 0.3)}
    (found,) = find_findings(make(tmp_path, right, [DARK]))
    assert found.sentences[1].startswith(
        "Its confidence does not fall with it: it is overconfident by 39.8 points"
    )


def test_a_seed_that_answers_nothing_leaves_no_risk_to_tell(tmp_path):
    right = draw(np.random.default_rng(0), 400, 0.8)
    shifts = (Shift("clean", None, {}, None), Shift("dark", 0.2, {}, None))
    stored = {
        Cell("a", seed, shift): outcomes(right, confidence=sure)
        for seed, there in ((0, 0.7), (1, 0.3))
        for shift, sure in zip(shifts, (0.7, there), strict=True)
    }
    record = run_record({"a": "A"}, bootstrap=300)
    cells = {(cell.model, cell.seed, cell.shift.id): each for cell, each in stored.items()}
    run = write_run(tmp_path, record, predictions=cells)
    fitted = FittedThresholds(threshold=0.5, atc_threshold=0.5)
    scored = estimate_cells(list(stored), stored.get, 300, fitted=lambda cell: fitted)
    frame = scores_frame(add_worst(add_means(dict(scored).items(), []), []))
    found = Contents({"": record}, {"a": "A"}, (DARK,), frame, {"": run})
    assert math.isnan(found.score(RISK, "a", "dark", "0.2").value)
    assert found.score(COVERAGE, "a", "dark", "0.2").value == 0.5
    told = find_findings(found)[0].sentences[-1]
    assert told.endswith("of the images there to a person, which leaves too few answers to judge.")
    assert "nan" not in told


def test_of_several_seeds_the_mean_is_told(tmp_path):
    rng = np.random.default_rng(1)
    right = {
        ("a", seed, cell): draw(rng, 300, p)
        for seed in (0, 1)
        for cell, p in (("clean", 0.9), ("dark,f=0.2", 0.5))
    }
    told = first_sentence(make(tmp_path, right, [DARK]))
    mean = np.mean([right["a", seed, "dark,f=0.2"].mean() for seed in (0, 1)])
    assert told.startswith("Accuracy falls")
    assert f"to {100 * mean:.1f} % under" in told


def with_variant(folder, change=None):
    """Model a, and a variant of it with another confidence, and maybe with another answer."""
    rng = np.random.default_rng(1)
    cells = {"clean": 0.9, "dark,f=0.2": 0.5, "c/fog,s=1": 0.8, "c/fog,s=5": 0.7}
    right = {("a", 0, cell): draw(rng, 300, p) for cell, p in cells.items()}
    right |= {("a+temperature", 0, cell): right["a", 0, cell].copy() for cell in cells}
    if change:
        column = right["a+temperature", 0, change]
        column[[np.argmax(column), np.argmin(column)]] = False, True  # as often right as before
    titles = {"a": "A", "a+temperature": "A, scaled"}
    made = make(folder, right, [DARK, FOG], titles=titles)
    return find_findings(made)[1].sentences


def test_of_a_variant_that_answers_as_its_model_only_the_confidence_is_told(tmp_path):
    first, second = with_variant(tmp_path)
    assert first == (
        "It gives the same answers as “A”, also under brightness at f = 0.2; only its confidence "
        "differs."
    )
    assert second.startswith("It turns from")


@pytest.mark.parametrize("cell", ["clean", "c/fog,s=1"])
def test_a_variant_with_one_other_answer_is_a_model_of_its_own(tmp_path, cell):
    assert with_variant(tmp_path, change=cell)[0].startswith("Accuracy falls")


@pytest.mark.parametrize("models", [1, 3, 7])
def test_each_model_has_three_sentences_however_much_there_is_to_tell(models):
    shift = [acc("dark", "0.2", 0.5), acc("c/fog", "1", 0.6), acc("blur", "2", 0.8)]
    calibrated = [
        (*at, metric, around(value))
        for at in (("clean", "none"), ("dark", "0.2"))
        for metric, value in ((GAP, 0.0), (RMS, 0.03), (COVERAGE, 0.8), (RISK, 0.05))
    ]
    lines = [CLEAN, *shift, acc("pgd", EPSILON, 0.2), *calibrated]
    titles = {f"m{at}": f"M{at}" for at in range(models)}
    told = find_findings(contents(lines, [DARK, FOG, BLUR, PGD], titles))
    assert [len(found.sentences) for found in told] == [3] * models
    assert all(any("attack" in text for text in found.more) for found in told)


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
    assert found.leaders == [row.model for row in found.rows[:2]]


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
        "on the 2 of 3 shifted sets of images that every model was tested on, so this "
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


def told_first(contents):
    (told,) = plain([write_verdict(find_findings(contents), rank_models(contents))])
    return told


def test_the_answer_names_the_best_model_its_fall_and_its_confidence(tmp_path):
    right = four_models(shares=(0.7, 0.5, 0.4, 0.2))
    made = make(tmp_path / "one", right, [DARK, FOG], sure=0.99)
    best = rank_models(made).rows[0].model
    clean = right[best, 0, "clean"].mean()
    worst = min(right[best, 0, cell].mean() for cell in CELLS)
    told = told_first(made)
    assert told.startswith(
        f"“{best.upper()}” is best over the shifts, but falls from {100 * clean:.1f} % on clean "
        f"images to {100 * worst:.1f} % at its worst, where it is overconfident by "
    )
    assert float(re.search(r"by ([\d.]+) points\.$", told)[1]) == pytest.approx(
        99 - 100 * worst, abs=0.06
    )
    alone = {key: column for key, column in right.items() if key[0] == best}
    told = told_first(make(tmp_path / "alone", alone, [DARK, FOG], sure=0.99))
    assert told.startswith(f"“{best.upper()}” falls from ")


def test_the_answer_is_about_all_who_share_the_first_place(tmp_path):
    made = make(tmp_path, four_models(), [DARK, FOG], sure=0.99)
    found = rank_models(made)
    first, second = (row for row in found.rows if row.model in found.leaders)
    lows = sorted(
        min(four_models()[row.model, 0, cell].mean() for cell in CELLS) for row in (first, second)
    )
    assert told_first(made).startswith(
        f"“{first.title}” and “{second.title}” share the first place:"
    )
    assert f"{100 * lows[0]:.1f} and {100 * lows[1]:.1f} % accuracy" in told_first(made)


def test_the_answer_says_where_models_cannot_be_told_apart(tmp_path):
    alike = four_models(shares=(0.6, 0.6, 0.6, 0.6))
    right = {key: column for key, column in alike.items() if key[0] in "ab"}
    made = make(tmp_path / "shifts", right, [DARK, FOG])
    assert told_first(made).startswith("These images cannot tell the models apart: all fall to")
    clean = {key: column for key, column in right.items() if key[2] == "clean"}
    made = make(tmp_path / "clean", clean)
    shares = sorted(100 * column.mean() for column in clean.values())
    assert told_first(made) == (
        "These images cannot tell the models apart: they are right in "
        f"{shares[0]:.1f} to {shares[1]:.1f} % of the clean images; no shift was tested."
    )


def test_models_that_were_not_compared_are_not_said_to_be_alike(tmp_path):
    made = make(tmp_path, four_models(), [DARK, FOG])
    (told,) = plain([write_verdict(find_findings(made), None)])
    assert told.startswith("The models were not compared")
    assert "difference" not in told


def test_the_best_on_clean_images_is_not_called_best_over_shifts():
    clean, there = (Performance(Score(v, v - 0.01, v + 0.01, 200)) for v in (0.9, 0.5))
    lows = WorstLevels([WorstLevel(DARK, "0.2", there, None, 1)])
    outcome = ModelOutcome("Old", clean, lows)
    (told,) = plain([words.write_answer([outcome], 2, "clean")])
    assert told.startswith("“Old” is best on clean images, but falls from 90.0 %")
    (told,) = plain([words.write_answer([outcome], 2, None)])
    assert "best" not in told


def test_a_variant_is_no_rival_of_its_own_model(tmp_path):
    rng = np.random.default_rng(7)
    right = {("a", 0, "clean"): draw(rng, 300, 0.9), ("b", 0, "clean"): draw(rng, 300, 0.4)}
    right |= {("a+temperature", 0, "clean"): right["a", 0, "clean"]}
    found = rank_models(made := make(tmp_path, right))
    assert [row.model for row in found.rows] == ["a", "b"]
    assert told_first(made).startswith("“A” is best: right in ")
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
    assert found.leaders == [found.rows[0].model]
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


def test_a_gap_that_too_few_errors_carry_is_said_without_its_ends():
    gap, known = Score(0.003, math.nan, math.nan, 500), Score(0.2, 0.1, 0.3, 500)
    clean = Performance(Score(0.99, 0.98, 1.0, 500), gap, known)
    there = Performance(known, known, known)
    assert format_points(gap) == "0.3 points [too few errors]"
    lows = WorstLevels([WorstLevel(DARK, "0.2", there, None, 1)])
    for outcome in (ModelOutcome("A", clean), ModelOutcome("A", clean, lows)):
        told = [*describe_confidence(outcome), *detail_confidence(outcome)]
        assert "by 0.3 points" in told[0]
        assert not any("nan" in sentence for sentence in told)
        assert "found" not in told[0]


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
