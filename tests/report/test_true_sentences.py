"""Every sentence of many made-up runs is held against the numbers that it is about."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats

from fairweather.attacks.table import ATTACKS
from fairweather.metrics.columns import per_image
from fairweather.report.contents import Contents, Sweep
from fairweather.report.other_images import AUROC, describe_other_images
from fairweather.report.overview import find_findings, write_verdict
from fairweather.report.ranking import rank_models
from fairweather.requests.evaluation.predictions import ADVICE as OF_PREDICTIONS
from fairweather.requests.execution import clean_accuracy_lines
from fairweather.runs.scores import add_means, add_worst, estimate_cells, scores_frame
from fairweather.types.measurement import Cell, Predictions, Shift
from fairweather.types.record import COLUMNS, predictions_file
from tests.helpers.chance import FALSE_ALARM
from tests.helpers.reference import rms_calibration_error
from tests.helpers.run_folders import run_record, write_run

FOG = Sweep("fog", "Fog", "severity", 0.0, "", {"1": "fog,s=1", "2": "fog,s=2"})
TOLD = ("accuracy", "rms_calibration_error", "confidence_gap", "macro_auc")
# A null result is never turned into a claim, whatever its interval holds.
DENIALS = re.compile(r"(was|were|is|are) (not )?found|\bno (over|under|loss|difference)", re.I)


def predictions(logits, labels, classes):
    columns = per_image(logits, labels)._asdict()
    return Predictions(np.arange(len(labels)), labels, logits=logits, classes=classes, **columns)


def drawn(rng, labels, classes, signal, scale, lean):
    """Logits right as often as the signal is strong, too sure by `scale`, leaning to the last."""
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += signal
    logits[:, -1] += lean
    return (scale * logits).astype(np.float32)


def a_run(folder, rng):
    """A run of one or two models with random accuracy, calibration, seeds, classes and shares."""
    n, k = int(rng.choice([30, 120, 400])), int(rng.choice([2, 2, 4]))
    seeds, levels = int(rng.choice([1, 1, 3])), int(rng.choice([0, 1, 2]))
    classes = tuple("wxyz"[:k])
    share = rng.uniform(0.1, 0.6)
    labels = rng.choice(k, n, p=[*[(1 - share) / (k - 1)] * (k - 1), share])
    sweep = Sweep(**{**vars(FOG), "cells": dict(list(FOG.cells.items())[:levels])})
    shifts = [Shift("clean", None, {}, None)]
    shifts += [Shift("fog", float(level), {}, None) for level in sweep.cells]
    names = dict(zip(shifts, ["clean", *sweep.cells.values()], strict=True))
    titles = dict(list({"a": "A", "b": "B"}.items())[: int(rng.choice([1, 2]))])
    stored = {}
    for model in titles:
        scale, lean, signal = np.exp(rng.uniform(-1, 1.5)), rng.uniform(0, 2), rng.uniform(0, 4)
        for seed in range(seeds):
            far = rng.uniform(0, 2)  # seeds differ more than images
            for at, shift in enumerate(shifts):
                weaker = max(0.0, signal - at * far)
                logits = drawn(rng, labels, k, weaker, scale, lean)
                stored[Cell(model, seed, shift)] = predictions(logits, labels, classes)
    cells = estimate_cells(list(stored), stored.get, 200, metrics=TOLD)
    table = add_worst(add_means(cells, list(ATTACKS)), list(ATTACKS))
    record = run_record(titles, classes=classes, bootstrap=200)
    files = {(each.model, each.seed, names[each.shift]): of for each, of in stored.items()}
    run = write_run(folder, record, predictions=files)
    sweeps = (sweep,) if levels else ()
    return Contents({"": record}, titles, sweeps, scores_frame(table), {"": run}), files


@dataclass(frozen=True)
class Truth:
    """The numbers of a model in a cell, computed anew from its predictions: `[n]` each."""

    right: np.ndarray
    sure: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    rms: float

    @property
    def accuracy(self):
        return self.right.mean()

    @property
    def gaps(self):
        return self.sure - self.right

    @property
    def gap(self):
        return self.gaps.mean()


def truth_of(files, model, cell):
    of = [each for (name, _, at), each in files.items() if (name, at) == (model, cell)]
    probabilities = [scipy.special.softmax(each.logits.astype(float), axis=1) for each in of]
    means = [np.mean([each.correct for each in of], axis=0)]
    means += [np.mean([each.confidence for each in of], axis=0)]
    rms = np.mean([rms_calibration_error(each.confidence, each.correct) for each in of])
    return Truth(*means, np.mean(probabilities, axis=0), of[0].labels, rms)


def number(text):
    return float(text.replace("−", "-"))


def is_near(text, value, unit=100):
    digits = len(text.partition(".")[2])
    return abs(number(text) - unit * value) <= 0.5001 * 10**-digits


def check_gap(side, points, gap):
    assert is_near(points, abs(gap))
    assert abs(gap) < 1e-3 or (side == "over") == (gap > 0)


GAP = r"(?P<side{0}>over|under)confident by (?P<gap{0}>[\d.]+) points"
EVIDENCE = r"(?P<evidence>these images|\w+ seeds)"
COMMON = "always giving the most common answer"


def check_confidence(text, truth, clean, scores, searched, seeds):
    """Hold a sentence on the gap against it; says whether the sentence is one."""
    found = re.fullmatch(
        rf"On average it is {GAP.format(1)}(, which {EVIDENCE} cannot confirm)?.", text
    )
    if found and clean is truth:
        check_gap(found["side1"], found["gap1"], truth.gap)
        score = scores["clean"]
        assert (score.low <= 0 <= score.high) == (found["evidence"] is not None)
        return True
    for pair in re.finditer(r"(over|under)confident by ([\d.]+) points(?= on clean)", text):
        check_gap(*pair.groups(), clean.gap)
    for pair in re.finditer(r"(over|under)confident by ([\d.]+) points there", text):
        check_gap(*pair.groups(), truth.gap)
    sure = truth.sure.mean() - clean.sure.mean()
    fall = truth.accuracy - clean.accuracy
    rules = {
        r"Its confidence does not fall with it: .*": sure >= 0 > fall,
        r"Its confidence falls less than its accuracy: .*": 0 > sure > fall,
        r"Its confidence falls further than its accuracy: .*": sure < fall < 0,
        r"Its confidence changes otherwise than its accuracy: .*": abs(sure - fall) > 0,
        r"It turns from .*": clean.gap * truth.gap < 0,
        r"It is .* there, which is less than on clean images .*": abs(truth.gap) < abs(clean.gap),
        r"It is .* there, which .* cannot confirm; on clean images it is .*": includes_0(
            scores["there"], searched
        ),
        r"It is .* there and .* on clean images; .* cannot confirm a change.": seeds > 1
        or paired_p(truth.gaps, clean.gaps) > FALSE_ALARM,
        r"On average it is .* there and .* on clean images.": True,
    }
    return any(re.fullmatch(rule, text) and _holds(holds, text) for rule, holds in rules.items())


def _holds(holds, text):
    assert holds, text
    return True


def includes_0(score, searched):
    factor = scipy.stats.norm.isf(0.025 / searched) / scipy.stats.norm.isf(0.025)
    ends = (score.value - score.low, score.high - score.value)
    return score.value - factor * ends[0] <= 0 <= score.value + factor * ends[1]


def check_chance(text, truth, auc):
    chance = np.bincount(truth.labels).max() / len(truth.labels)
    if f"above {COMMON}" in text:
        assert truth.accuracy > chance
    if f"no better than {COMMON}" in text:
        assert truth.accuracy <= chance + 1e-9
        told = "though it tells the classes apart" in text
        assert told == (auc is not None and auc.low > 0.5), text


def paired_p(one, other):
    d = one - other
    return scipy.stats.ttest_1samp(d, 0).pvalue if d.std() else 1.0


def check_accuracy(text, truth, clean, seeds):
    percents = re.findall(r"([\d.]+) %", text)
    rules = {
        r"It is right in .* of the clean images.*; no shift was tested.": True,
        r"Accuracy falls from .*": truth.accuracy < clean.accuracy,
        r"No accuracy is lost: .*": truth.accuracy > clean.accuracy,
        # With several seeds the images alone may differ clearly, and the recipes not.
        r"Accuracy is .*; .* cannot confirm a difference.": seeds > 1
        or paired_p(truth.right, clean.right) > FALSE_ALARM,
    }
    assert is_near(percents[0], clean.accuracy)
    assert len(percents) == 1 or is_near(percents[1], truth.accuracy)
    return any(re.fullmatch(rule, text) and _holds(holds, text) for rule, holds in rules.items())


def check_class(text, truth):
    found = re.fullmatch(
        r"“(\w)” has a mean probability of ([\d.]+) %, and ([\d.]+) % of the .* are of it.", text
    )
    if found:
        at = "wxyz".index(found[1])
        assert is_near(found[2], truth.probabilities[:, at].mean())
        assert is_near(found[3], (truth.labels == at).mean())
    return bool(found)


RMS = (
    r"Its RMS calibration error is (?P<clean>[\d.]+)\.",
    r"Its RMS calibration error (?P<way>rises|falls) from (?P<clean>[\d.]+) on clean images "
    r"to (?P<there>[\d.]+) there\.",
    r"Its RMS calibration error is (?P<clean>[\d.]+) on clean images and "
    r"(?P<there>[\d.]+) there; .* cannot confirm a difference\.",
)


def check_rms(text, truth, clean):
    found = next(filter(None, (re.fullmatch(rule, text) for rule in RMS)), None)
    if found:
        told = found.groupdict()
        assert is_near(told["clean"], clean.rms, unit=1), text
        assert is_near(
            told.get("there", told["clean"]), truth.rms if "there" in told else clean.rms, 1
        )
        assert "way" not in told or (told["way"] == "rises") == (truth.rms > clean.rms)
    return bool(found)


def check_difference(text, truth, clean):
    number_ = r"([+−]?[\d.]+)"
    found = re.fullmatch(rf"The difference is {number_} points \[{number_}, {number_}\]\.", text)
    if found:
        assert is_near(found[1], truth.accuracy - clean.accuracy), text
        low, value, high = (number(found[place]) for place in (2, 1, 3))
        assert low <= value <= high
    return bool(found)


OTHERS = (
    r"With \d sets of images tested, so large a (gap|difference in accuracy) can be chance.",
    r"The most common answer is right in .* of the images(, and the model's AUC is .* there)?.",
    rf"Already on clean images it is .* {COMMON} .*",
    r"Its mean accuracy over the levels is .*",
)


@pytest.mark.parametrize("seed", range(12))
def test_every_sentence_says_what_its_numbers_say(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number_of_run in range(4):
        contents, files = a_run(tmp_path / str(number_of_run), rng)
        found = find_findings(contents)
        for each in found:
            check_model(contents, files, each)
        check_answer(contents, files, found)


def check_model(contents, files, each):
    cells = contents.sweeps[0].cells if contents.sweeps else {}
    clean = truth = truth_of(files, each.model, "clean")
    place = ("clean", "none")
    if cells:
        of = {level: truth_of(files, each.model, cell) for level, cell in cells.items()}
        level = min(of, key=lambda level: of[level].accuracy)
        truth, place = of[level], ("fog", level)
    scores = {
        "clean": contents.score("confidence_gap", each.model, "clean", "none"),
        "there": contents.score("confidence_gap", each.model, *place),
    }
    searched, seeds = max(1, len(cells)), len(contents.seeds)
    texts = [text.replace("\N{NO-BREAK SPACE}", " ") for text in (*each.sentences, *each.more)]
    first, *others = texts
    assert not [text for text in texts if DENIALS.search(text)]
    assert check_accuracy(first, truth, clean, seeds), first
    check_chance(first, truth, contents.score("macro_auc", each.model, *place))
    for text in others:
        known = (
            check_confidence(text, truth, clean, scores, searched, seeds)
            or check_class(text, truth)
            or check_rms(text, truth, clean)
            or check_difference(text, truth, clean)
        )
        assert known or any(re.fullmatch(other, text) for other in OTHERS), text
        if found := re.search(r"the model's AUC is (\d\.\d+) there", text):
            auc = contents.score("macro_auc", each.model, *place)
            assert is_near(found[1], auc.value, unit=1)
    for text in (text for text in others if text.startswith("Already")):
        check_chance(text, clean, contents.score("macro_auc", each.model, "clean", "none"))
    # Whoever reads only the sentences reads of a class that is far off, unless they say more.
    off = truth.probabilities.mean(axis=0) - np.bincount(
        truth.labels, minlength=truth.probabilities.shape[1]
    ) / len(truth.labels)
    enough = np.bincount(truth.labels, minlength=2).min() >= 20
    if seeds == 1 and enough and np.abs(off).max() > 0.2:
        assert any("mean probability" in text for text in texts)
        if includes_0(scores["there"], searched):
            assert "mean probability" in each.sentences[1]


def check_answer(contents, files, found):
    text = write_verdict(found, rank_models(contents)).replace("\N{NO-BREAK SPACE}", " ")
    assert not DENIALS.search(text)
    if "cannot tell the models apart" in text and len(contents.seeds) == 1:
        cells = [*contents.sweeps[0].cells.values()] if contents.sweeps else ["clean"]
        pair = (
            np.mean([truth_of(files, model, cell).right for cell in cells], axis=0)
            for model in contents.titles
        )
        assert paired_p(*pair) > FALSE_ALARM, text
    gaps = {each.outcome.title: (each.outcome.there or each.outcome.clean).gap for each in found}
    for side, points in re.findall(r"(over|under)confident by ([\d.]+) points", text):
        near = [gap for gap in gaps.values() if is_near(points, abs(gap.value))]
        assert any(abs(gap.value) < 1e-3 or (side == "over") == (gap.value > 0) for gap in near)
        assert ("cannot confirm" in text) == any(
            not each.outcome.side
            for each in found
            if (each.outcome.there or each.outcome.clean).gap in near
        )
    for which, side in re.findall(r"(all|some) are (over|under)confident there", text):
        signs = [
            each.outcome.side for each in found if f"“{each.title}”" in text or "“" not in text
        ]
        wanted = 1 if side == "over" else -1
        assert (all if which == "all" else any)(sign == wanted for sign in signs)
    for low, high in re.findall(r"([\d.]+) (?:and|to) ([\d.]+) %", text.partition(":")[2]):
        shown = [(each.outcome.there or each.outcome.clean).accuracy.value for each in found]
        assert is_near(low, min(shown)) or len(found) > 2
        assert is_near(high, max(shown)) or len(found) > 2


def clinic(folder):
    """Two classes that are told apart (AUC 0.97), with probabilities that lean to the rarer one.

    On average it is as sure as it is right: 24 % are wrong, and the rarer class has 48.6 %.
    """
    rng = np.random.default_rng(0)
    labels = (np.arange(2000) < 416).astype(int)
    strength = 2.66 * labels + rng.normal(size=2000)
    logits = np.stack([np.zeros(2000), 1.2 * (strength - 0.5)], axis=1).astype(np.float32)
    made = predictions(logits, labels, ("benign", "malignant"))
    stored = {Cell("a", 0, Shift("clean", None, {}, None)): made}
    frame = scores_frame(dict(estimate_cells(list(stored), stored.get, 300, metrics=TOLD)))
    record = run_record({"a": "A"}, classes=("benign", "malignant"), bootstrap=300)
    run = write_run(folder, record, predictions={("a", 0, "clean"): made})
    return Contents({"": record}, {"a": "A"}, (), frame, {"": run}), made


def test_confidence_that_is_right_on_average_does_not_hide_a_class_that_is_not(tmp_path):
    contents, made = clinic(tmp_path)
    gap = contents.score("confidence_gap", "a", "clean", "none")
    mean = scipy.special.softmax(made.logits, axis=1)[:, 1].mean()
    assert gap.low < 0 < gap.high
    assert mean > 0.4
    _, said, *_ = find_findings(contents)[0].sentences
    assert said.replace("\N{NO-BREAK SPACE}", " ") == (
        f"“malignant” has a mean probability of {100 * mean:.1f} %, and 20.8 % of the clean images "
        "are of it."
    )


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (lambda logits: logits, "it tells the classes apart, and calls one too often"),
        (lambda logits: logits[:, ::-1], "the two classes are probably exchanged"),
        (lambda logits: np.random.default_rng(1).permutation(logits), "the order of the"),
    ],
    ids=["threshold", "exchanged", "shuffled"],
)
def test_the_order_of_rows_is_blamed_only_where_the_auc_is_that_of_a_coin(tmp_path, turn, told):
    _, made = clinic(tmp_path / "first")
    logits = np.ascontiguousarray(turn(made.logits), dtype=np.float32)
    record = run_record({"a": "A"}, classes=made.classes, bootstrap=300)
    again = predictions(logits, made.labels, made.classes)
    run = write_run(tmp_path / "run", record, predictions={("a", 0, "clean"): again})
    *_, said = clean_accuracy_lines(run, predictions_file("a", 0, "clean"), OF_PREDICTIONS)
    assert said.startswith("warning        that is not above chance (79.2%")
    assert told in said
    assert ("order of the rows" in said) == (told == "the order of the")


def test_few_images_above_chance_are_not_called_wrong(tmp_path):
    labels = np.arange(12) % 2
    logits = np.stack([np.zeros(12), np.where(np.arange(12) < 4, 4 * labels - 2, 1)], axis=1)
    record = run_record({"a": "A"}, classes=("x", "y"), bootstrap=300)
    made = predictions(logits.astype(np.float32), labels, ("x", "y"))
    run = write_run(tmp_path, record, predictions={("a", 0, "clean"): made})
    *_, said = clean_accuracy_lines(run, predictions_file("a", 0, "clean"), OF_PREDICTIONS)
    assert said.startswith("note           12 images cannot confirm that it is above chance (50.0%")


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_of_other_images_is_what_their_intervals_say(seed):
    rng = np.random.default_rng(seed)
    half = 10 ** rng.uniform(-2, -0.3)
    auroc, clean, there = rng.uniform(0.2, 0.9, 3)
    rows = [
        ("a", "0", shift, "none", metric, value, value - half, value + half, 50)
        for shift, metric, value in (
            ("clean", "accuracy", clean),
            ("natural/b", "accuracy", there),
            ("ood/c", AUROC, auroc),
        )
    ]
    for text in describe_other_images(
        pd.DataFrame(rows, columns=COLUMNS), {"a": "A"}, natural_shift=False
    ):
        assert not DENIALS.search(text)
        if "pairs" in text:
            assert ("surer" in text and "no surer" not in text) == (auroc - half > 0.5)
            assert ("more sure of the images" in text) == (auroc + half < 0.5)
        else:
            assert ("less than" in text) <= (there < clean)
            assert ("more than" in text) <= (there > clean)
            assert "may be chance" in text or abs(there - clean) > half
