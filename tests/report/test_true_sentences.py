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
from fairweather.report.building import SECTIONS
from fairweather.report.contents import Contents, Sweep
from fairweather.report.other_images import AUROC, describe_other_images
from fairweather.report.performance import find_shared_cells
from fairweather.report.review import RISKS
from fairweather.requests.evaluation.predictions import ADVICE as OF_PREDICTIONS
from fairweather.requests.execution import clean_accuracy_lines
from fairweather.runs.scores import add_means, add_worst, estimate_cells, scores_frame
from fairweather.types.measurement import Cell, Predictions, Shift
from fairweather.types.record import COLUMNS, predictions_file
from tests.helpers.chance import FALSE_ALARM
from tests.helpers.run_folders import run_record, write_run

FOG = Sweep("fog", "Fog", "level", 0.0, "", {"1": "fog,s=1", "2": "fog,s=2"})
RAIN = Sweep("rain", "Rain", "level", 0.0, "", {"1": "rain,s=1"})
TOLD = ("accuracy", "confidence_gap", "average_confidence")
# A null result is never turned into a claim, whatever its interval holds.
DENIALS = re.compile(r"\bnone\b|\bfound\b|\bno (over|under|loss|gap|difference)", re.I)


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
    fog = Sweep(**{**vars(FOG), "cells": dict(list(FOG.cells.items())[:levels])})
    sweeps = (fog, RAIN)[: levels and int(rng.choice([1, 2]))]
    names = {Shift("clean", None, {}, None): "clean"}
    for sweep in sweeps:
        for level, cell in sweep.cells.items():
            names[Shift(sweep.name, float(level), {}, None)] = cell
    shifts = list(names)
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
    val = {(*at, "val"): of for at, of in files.items() if at[2] == "clean"}
    run = write_run(folder, record, predictions=files | val)
    return Contents({"": record}, titles, sweeps, scores_frame(table), {"": run}), files


@dataclass(frozen=True)
class Truth:
    """The numbers of a model in a cell, computed anew from its predictions: `[n]` each."""

    right: np.ndarray
    sure: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def accuracy(self):
        return self.right.mean()


def truth_of(files, model, cell):
    of = [each for (name, _, at), each in files.items() if (name, at) == (model, cell)]
    probabilities = [scipy.special.softmax(each.logits.astype(float), axis=1) for each in of]
    means = [np.mean([each.correct for each in of], axis=0)]
    means += [np.mean([each.confidence for each in of], axis=0)]
    return Truth(*means, np.mean(probabilities, axis=0), of[0].labels)


def number(text):
    return float(text.replace("−", "-"))


GAP = r"(?:(?P<points>[\d.]+) points? too (?P<side>confident|cautious)|as sure as it is right)"
EVIDENCE = r"(These images|\w+ seeds) cannot confirm"
COMMON = r"Not shown to be better than always giving the most common answer \((.*) %\)\."
TOO_FEW = "Too few errors for an interval."
PLACE = r"(?P<shift>fog|rain) at level (?P<level>\d)"
AT = r"(fog|rain) at level (\d)"
SHARE = r"([\d.]+ %)"
PART = r"(no|all|[\d.]+ % of)"


def is_share(text, value):
    """Whether a share is written as it is: whole per cents, a decimal near the ends, or a word."""
    if text in ("no", "all"):
        return value == (text == "all")
    written = number(text.split(" %")[0])
    return abs(written - 100 * value) <= (0.0501 if "." in text else 0.5001)


def check_gap_words(found, right, sure):
    """Points are those of the gap, rounded as its table has them, and have its sign."""
    points = found["points"] or "0.0"
    assert abs(number(points) - 100 * abs(sure - right)) <= (0.0501 if "." in points else 0.5001)
    assert found["side"] is None or (found["side"] == "confident") == (sure > right)


def check_gap_doubt(notes, score, searched):
    """A gap is called unconfirmed exactly where its widened interval includes 0."""
    doubted = any(re.fullmatch(rf"{EVIDENCE} a gap of this size\.", note) for note in notes)
    assert (TOO_FEW in notes) == bool(np.isnan(score.low))
    assert doubted == (not np.isnan(score.low) and includes_0(score, searched))


def check_accuracy_notes(notes, score, truth):
    chance = np.bincount(truth.labels).max() / len(truth.labels)
    [interval] = [note for note in notes if note.startswith("95 % interval")]
    low, high = re.fullmatch(r"95 % interval: ([\d.]+) to ([\d.]+) %\.", interval).groups()
    assert is_share(low, score.low)
    assert is_share(high, score.high)
    said = [found for note in notes if (found := re.fullmatch(COMMON, note))]
    assert bool(said) == (score.low <= chance)
    assert all(is_share(found[1], chance) for found in said)


def includes_0(score, searched):
    factor = scipy.stats.norm.isf(0.025 / searched) / scipy.stats.norm.isf(0.025)
    ends = (score.value - score.low, score.high - score.value)
    return score.value - factor * ends[0] <= 0 <= score.value + factor * ends[1]


def paired_p(one, other):
    d = one - other
    return scipy.stats.ttest_1samp(d, 0).pvalue if d.std() else 1.0


def check_class(text, truth):
    shares = r"a mean probability of ([\d.]+) %, but is ([\d.]+) % of (the clean|these) images\."
    found = re.fullmatch(rf"“(\w)” gets {shares}", text)
    if found:
        at = "wxyz".index(found[1])
        assert is_share(found[2], truth.probabilities[:, at].mean())
        assert is_share(found[3], (truth.labels == at).mean())
    return bool(found)


def front_of(contents):
    """What the front of the page says: what its script reads, and what its templates show."""
    carried, facts = {}, {}
    for section in SECTIONS:
        for part in section.parts if section.front else ():
            if view := part.shown(contents, ()):
                carried |= view.carried
                facts |= view.facts
    return plain(carried), plain(facts)


def plain(value):
    """The same with plain spaces, and tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    return value.replace("\N{NO-BREAK SPACE}", " ") if isinstance(value, str) else value


def sentences_in(value):
    """Every sentence in it; what is no sentence has no full stop and is no line of a tile."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for own in value for text in sentences_in(own)]
    return [value] if isinstance(value, str) and value.endswith(".") else []


@pytest.mark.parametrize("seed", range(12))
def test_every_sentence_says_what_its_numbers_say(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number_of_run in range(4):
        contents, files = a_run(tmp_path / str(number_of_run), rng)
        carried, facts = front_of(contents)
        said = [
            *sentences_in(carried),
            *sentences_in([facts["said"], facts["note"]] if "said" in facts else []),
        ]
        assert said
        for text in said:
            assert not DENIALS.search(text), text
            assert len(text.replace(" %", "%").split()) <= 20, text
            assert len(re.findall(r"[\d.]*\d", text)) <= 3, text
        for model in contents.titles:
            cells = truths_of(contents, files, model)
            check_tiles(contents, model, carried["tiles"][model], cells)
            if contents.sweeps:
                check_breaks(carried["breaks"][model], cells)
                for name, own in carried["knows"][model].items():
                    check_knowledge(contents, model, name, own["said"], cells)
            check_review(contents, files, model, carried["review"][model], cells)
            check_hurt(carried["hurt"][model], cells)
        if len(contents.titles) > 1:
            check_comparison(contents, files, facts)


def truths_of(contents, files, model):
    """The truth of each cell by shift and level, clean images first."""
    cells = {("clean", "none"): truth_of(files, model, "clean")}
    for sweep in contents.sweeps:
        for level, cell in sweep.cells.items():
            cells[sweep.name, level] = truth_of(files, model, cell)
    return cells


def find_worst(cells, shift=None):
    shifted = [at for at in cells if at[0] == (shift or at[0]) and at[0] != "clean"]
    return min(shifted, key=lambda at: cells[at].accuracy, default=("clean", "none"))


def check_tiles(contents, model, tiles, cells):
    place = find_worst(cells)
    clean, truth = cells["clean", "none"], cells[place]
    searched = max(1, len(cells) - 1)
    first, *others = tiles
    assert first[1] == "right on clean images"
    assert is_share(first[0], clean.accuracy)
    check_accuracy_notes(first[2:], contents.score("accuracy", model, "clean", "none"), clean)
    if contents.sweeps:
        worst, *others = others
        found = re.fullmatch(rf"right under {PLACE}(.*)", worst[1])
        assert (found["shift"], found["level"]) == place
        own = [of.accuracy for (shift, _), of in cells.items() if shift == place[0]]
        every = [of.accuracy for (shift, _), of in cells.items() if shift != "clean"]
        flat = len(own) > 1 and np.ptp(own) < 1e-9
        even = len(every) > 1 and np.ptp(every) < 1e-9
        words = ", as at its other levels, where it is worst" if flat else ", where it is worst"
        assert found[3] == (", as under every shift" if even else words)
        assert is_share(worst[0], truth.accuracy)
        check_accuracy_notes(worst[2:], contents.score("accuracy", model, *place), truth)
        doubted = any(re.fullmatch(rf"{EVIDENCE} a loss of accuracy\.", note) for note in worst)
        if not doubted:
            assert truth.accuracy < clean.accuracy
        elif len(contents.seeds) == 1 and truth.accuracy < clean.accuracy:
            assert paired_p(truth.right, clean.right) > FALSE_ALARM
    [sure] = others
    there = " there" if contents.sweeps else ""
    found = re.fullmatch(rf"sure{there} on average: {GAP}", sure[1])
    assert is_share(sure[0], truth.sure.mean())
    check_gap_words(found, truth.accuracy, truth.sure.mean())
    check_gap_doubt(sure[2:], contents.score("confidence_gap", model, *place), searched)
    if not contents.sweeps:
        check_classes(contents, sure, truth)


def check_classes(contents, said, truth):
    """What is said of a class is true, and a class that is far off is named."""
    named = [text for text in said if check_class(text, truth)]
    shares = np.bincount(truth.labels, minlength=truth.probabilities.shape[1]) / len(truth.labels)
    off = truth.probabilities.mean(axis=0) - shares
    enough = np.bincount(truth.labels, minlength=2).min() >= 20
    assert named or not (len(contents.seeds) == 1 and enough and np.abs(off).max() > 0.2)


def check_breaks(own, cells):
    shift, level = find_worst(cells)
    first, *others = own["said"]
    lowest = cells[shift, level].accuracy
    if found := re.fullmatch(
        rf"Accuracy is the same under every shift and level: {SHARE} right\.", first
    ):
        assert np.ptp([of.accuracy for (at, _), of in cells.items() if at != "clean"]) < 1e-9
        assert is_share(found[1], lowest)
        assert not others
    else:
        place = r"(fog|rain) at (?:level (\d)|every level)"
        found = re.fullmatch(rf"Accuracy is lowest under {place}: {SHARE} right\.", first)
        levels = [of.accuracy for (at, _), of in cells.items() if at == shift]
        flat = len(levels) > 1 and np.ptp(levels) < 1e-9
        assert found.groups()[:2] == (shift, None if flat else level)
        assert is_share(found[3], lowest)
    lows = {name: cells[find_worst(cells, name)].accuracy for name, _ in cells if name != "clean"}
    for text in others:
        if best := re.fullmatch(
            rf"It is highest under (fog|rain): {SHARE} right at the worst level\.", text
        ):
            assert lows[best[1]] == max(lows.values())
            assert is_share(best[2], max(lows.values()))
        else:
            assert text == "It may be as low under 1 other shift: the intervals overlap."
    assert [row[3] for row in own["rows"]] == sorted(lows, key=lows.get)
    for _, _, marks, name in own["rows"]:
        assert marks[0][1] == pytest.approx(cells["clean", "none"].accuracy, abs=1e-5)
        mean = [truth.accuracy for (shift, _), truth in cells.items() if shift == name]
        assert marks[1][1] == pytest.approx(np.mean(mean), abs=1e-5)
        assert marks[2][1] == pytest.approx(lows[name], abs=1e-5)
        assert all(is_share(mark[4], mark[1]) for mark in marks)


def check_knowledge(contents, model, name, said, cells):
    place = find_worst(cells, name)
    truth = cells[place]
    first, second, *notes = said
    found = re.fullmatch(rf"{GAP} under {PLACE}\.", first, re.I)
    assert (found["shift"], found["level"]) == place
    check_gap_words(found, truth.accuracy, truth.sure.mean())
    right, sure = re.fullmatch(
        rf"It is right on {SHARE} of the images, and {SHARE} sure on average\.", second
    ).groups()
    assert is_share(right, truth.accuracy)
    assert is_share(sure, truth.sure.mean())
    score = contents.score("confidence_gap", model, *place)
    check_gap_doubt(notes, score, len(cells) - 1)
    if place == find_worst(cells):
        check_classes(contents, notes, truth)


def needed_of(files, model, cell, risk):
    """The smallest share that a person must review, found by trying every number of answers."""
    shares = []
    for (name, _, at), each in files.items():
        if (name, at) == (model, cell):
            order = np.argsort(-each.confidence, kind="stable")
            sure, wrong = each.confidence[order], np.cumsum(~each.correct[order])
            # Images of one confidence are answered together.
            ends = np.flatnonzero(np.append(np.diff(sure) < 0, True)) + 1
            kept = [end for end in ends if wrong[end - 1] <= risk * end + 1e-12]
            shares.append(1 - max(kept, default=0) / len(sure))
    return np.mean(shares)


def check_review(contents, files, model, stops, cells):
    shift, level = find_worst(cells)
    for stop, risk in zip(stops, RISKS, strict=True):
        first, *said = stop["said"]
        rule = rf"At {SHARE} errors, a person must review {PART} clean images\."
        limit, clean = re.fullmatch(rule, first).groups()
        assert is_share(limit, risk)
        assert is_share(clean, needed_of(files, model, "clean", risk))
        if contents.sweeps:
            rule = rf"Of images under {AT}, it is ([\d.]+ %)\."
            *where, share = re.fullmatch(rule, said.pop(0)).groups()
            cell = next(own for own in contents.sweeps if own.name == shift).cells[level]
            assert where == [shift, level]
            assert is_share(share, needed_of(files, model, cell, risk))
        for text in said:
            assert any(re.fullmatch(rule, text) for rule in THRESHOLD), text
        sent = [row[2][1] for row in stop["rows"]]
        assert all(sent)
        [share] = re.findall(rf"(?:images|It) sends {PART} ", " ".join(said))
        assert is_share(share, sent[1 if contents.sweeps else 0][1])


THRESHOLD = (
    rf"A threshold set on validation images sends {PART} "
    rf"(clean images|images under {AT}) to a person\.",
    r"That leaves too few answers to judge\.",
    rf"A threshold set on validation images accepts answers of which {SHARE} are wrong\.",
    rf"It sends {PART} (clean images|images under {AT}) to a person\.",
)


def check_hurt(divisions, cells):
    clean = cells["clean", "none"]
    shifted = {
        name: np.mean([own.right for (at, _), own in cells.items() if at == name], axis=0)
        for name in {at for at, _ in cells} - {"clean"}
    }
    right = np.mean([*shifted.values()], axis=0) if shifted else clean.right
    labels = clean.labels
    counts = np.bincount(labels)
    enough = 10 if (counts >= 10).sum() > 1 else 1
    kept = [at for at in range(len(counts)) if counts[at] >= enough]
    means = {"wxyz"[at]: right[labels == at].mean() for at in kept}
    own = divisions["class"]
    name = min(means, key=means.get)
    when = rf" on average over the shifts, {SHARE} when clean" if shifted else ""
    found = re.fullmatch(
        rf"Class (\w) fares worst: {SHARE} of its images are right{when}\.", own["said"][0]
    )
    assert means[found[1]] == pytest.approx(means[name])
    assert is_share(found[2], means[name])
    if shifted:
        assert is_share(found[3], clean.right[labels == "wxyz".index(found[1])].mean())
    mark = own["rows"][0][2][1 if shifted else 0]
    noise = mark[2] is None or mark[3] >= right.mean()
    assert noise == (len(own["said"]) == 2)


def check_comparison(contents, files, facts):
    cells = find_shared_cells(contents, contents.titles) or {"clean": 1.0}
    means = {
        title: sum(w * truth_of(files, model, cell).right for cell, w in cells.items())
        for model, title in contents.titles.items()
    }
    where = "over the shifts" if contents.sweeps else "on clean images"
    images = "images over the shifts" if contents.sweeps else "clean images"
    values = {title: right.mean() for title, right in means.items()}
    if found := re.fullmatch(
        r"“(.)” is ([\d.]+) points? more accurate than “(.)” (.*)\.", facts["said"]
    ):
        assert found[4] == where
        assert facts["note"] == ""
        difference = values[found[1]] - values[found[3]]
        assert difference > 0
        assert is_share(found[2], difference)
    else:
        # A result that the tests do not confirm is a note, and what is measured the headline.
        assert re.fullmatch(
            r"(These images|\w+ seeds|.*groups.*) cannot tell them apart\.", facts["note"]
        )
        found = re.fullmatch(
            rf"The models are right on ([\d.]+)(?: to ([\d.]+))? % of the {images}\.",
            facts["said"],
        )
        assert is_share(found[1], min(values.values()))
        assert is_share(found[2] or found[1], max(values.values()))
        if len(contents.seeds) == 1:
            assert paired_p(*means.values()) > FALSE_ALARM


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
    *_, sure = front_of(contents)[0]["tiles"]["a"]
    assert sure[-1] == (
        f"“malignant” gets a mean probability of {100 * mean:.0f} %, "
        "but is 21 % of the clean images."
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


@pytest.mark.parametrize("classes", [2, 10])
def test_an_auc_without_an_interval_explains_nothing(tmp_path, classes):
    """These images are told apart, or exchanged, by chance: a class has three."""
    labels, names = np.arange(3 * classes) % classes, tuple(map(str, range(classes)))
    for sign in (1, -1):
        logits = -3.0 * np.eye(classes)[(labels + 1) % classes] + sign * np.eye(classes)[labels]
        logits[:, 0] += 9  # always called
        record = run_record({"a": "A"}, classes=names, bootstrap=300)
        made = predictions(logits.astype(np.float32), labels, names)
        run = write_run(tmp_path / str(sign), record, predictions={("a", 0, "clean"): made})
        *_, said = clean_accuracy_lines(run, predictions_file("a", 0, "clean"), OF_PREDICTIONS)
        assert said.endswith(f"gets): {OF_PREDICTIONS}")


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
            assert ("is more confident on its own" in text) == (auroc - half > 0.5)
            assert ("more confident on the images" in text) == (auroc + half < 0.5)
        else:
            assert ("less than" in text) <= (there < clean)
            assert ("more than" in text) <= (there > clean)
            assert "may be chance" in text or abs(there - clean) > half
