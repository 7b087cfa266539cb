"""Deferral of single findings, and of images by their least sure finding."""

import numpy as np
import pandas as pd
import pytest

import fairweather as fw
from fairweather.metrics.selective import RISK
from tests.helpers.finding_models import NAMES, Stripes
from tests.helpers.findings import draw_dataset

SHIFTS = {"clean": ("clean", "none"), "brightness_factor,factor=0.7": ("brightness_factor", "0.7")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fw.evaluate(
        {"net": Stripes()},
        draw_dataset(),
        ["brightness_factor: [0.7]"],
        outputs="logits",
        bootstrap=100,
        out=tmp_path_factory.mktemp("deferral") / "run",
        device="cpu",
        progress=False,
    )


def decisions(cell, column):
    """The confidence and whether it is right, of each image where something is known."""
    columns = range(len(NAMES)) if column is None else [column]
    rows = []
    for p, labels in zip(cell.probability, cell.labels, strict=True):
        if any(labels[k] != -1 for k in columns):
            sure = min(max(p[k], 1 - p[k]) for k in columns)
            right = all(labels[k] in (-1, int(p[k] >= 0.5)) for k in columns)
            rows.append((sure, right))
    return rows


def slow_threshold(rows):
    """The smallest confidence from which on at most 5 % are wrong."""
    kept = [np.inf]
    for threshold, _ in rows:
        answered = [right for sure, right in rows if sure >= threshold]
        if answered.count(False) <= RISK * len(answered):
            kept.append(threshold)
    return min(kept)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("column", [None, 0, 1, 2])
def test_a_finding_is_deferred_by_its_confidence_and_an_image_by_its_least_sure_one(
    run, shift, column
):
    folder, (name, level) = run.folder, SHIFTS[shift]
    validation = folder.read_cell(folder.predictions("net", 0, "clean", "val"))
    rows = decisions(folder.read_cell(folder.predictions("net", 0, shift)), column)
    threshold = slow_threshold(decisions(validation, column))
    unit = "image" if column is None else f"finding={NAMES[column]}"
    scores = pd.read_csv(run.path / "scores.csv")
    chosen = (scores.unit == unit) & (scores["shift"] == name) & (scores.level == level)
    scores = scores[chosen].set_index("metric")
    answered = [right for sure, right in rows if sure >= threshold]
    value = scores.value
    assert value[f"coverage_above_validation_threshold/{RISK}"] == pytest.approx(
        len(answered) / len(rows), rel=1e-7
    )
    assert value[f"risk_above_validation_threshold/{RISK}"] == pytest.approx(
        answered.count(False) / len(answered), rel=1e-7
    )
    best = slow_threshold(rows)
    share = np.mean([sure >= best for sure, _ in rows])
    assert value[f"coverage_at_risk/{RISK}"] == pytest.approx(share, rel=1e-7)
    running = [np.mean([not r for s, r in rows if s >= sure]) for sure, _ in rows]
    assert value["area_under_risk_coverage"] == pytest.approx(np.mean(running), rel=1e-7)
    # Each of the two rates is of its own images.
    rates = [rate for rate in ("sensitivity", "specificity") if rate in scores.index]
    assert set(scores.n.drop(rates)) == {len(rows)}
    assert not rates or scores.n[rates].sum() == len(rows)


def test_an_image_of_which_nothing_is_known_is_not_judged(run):
    cell = run.folder.read_cell(run.folder.predictions("net", 0, "clean"))
    nothing = int((cell.labels == -1).all(axis=1).sum())
    scores = pd.read_csv(run.path / "scores.csv").query("unit == 'image' and shift == 'clean'")
    assert nothing > 0
    assert set(scores.n) == {len(cell) - nothing}
