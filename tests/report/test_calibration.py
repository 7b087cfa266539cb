"""Smooth calibration curves on the page, and the table beside them."""

import math

import numpy as np
import pytest
import torch

import fairweather as fw
from fairweather import metrics
from fairweather.metrics import softmax
from fairweather.metrics.metric import FEWEST_OUTCOMES
from fairweather.report.calibration import (
    CALIBRATION,
    CONFIDENCE,
    POINTS,
    describe_calibration,
    describe_slopes,
    trace_curves,
)
from fairweather.report.contents import read_contents
from fairweather.runs.folder import RunFolder
from fairweather.types.measurement import Dataset, Images, Score
from tests.conftest import figures_left_out
from tests.report.test_page_of_findings import Thirds
from tests.report.test_report import split_sentences


def images_of(count, seed):
    """One third of an image is bright; it is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    pixels = torch.full((count, 3, 9, 9), 90.0)
    for row in range(3):
        pixels[:, :, 3 * row : 3 * row + 3] += 30 * (labels == row)[:, None, None, None]
    noise = torch.randn(count, 1, 3, 1, generator=generator).repeat_interleave(3, 2)
    pixels = (pixels + 25 * noise).clamp(0, 255).to(torch.uint8)
    return Images(pixels, labels, torch.arange(count), ("top", "middle", "low"))


@pytest.fixture(scope="module")
def classified(tmp_path_factory):
    data = Dataset("toys", None, images_of(90, 1), images_of(400, 2), (0.4,) * 3, (0.2,) * 3, {})
    with figures_left_out():
        made = fw.evaluate(
            {"sharp": Thirds(20.0), "flat": Thirds(2.0)},
            data,
            ["gaussian_blur: [0.8]"],
            outputs="logits",
            bootstrap=100,
            out=tmp_path_factory.mktemp("calibration") / "run",
            device="cpu",
            progress=False,
        )
    return RunFolder(made.path)


def test_the_table_has_the_scores_of_the_confidence_and_of_each_class(classified):
    contents = read_contents(classified)
    table, _ = CALIBRATION.tables(contents)
    rows = table.frame.set_index("of")
    for model in contents.titles:
        for shift, level in (("clean", "none"), ("gaussian_blur", "mean")):
            score = contents.score("calibration_slope", model, shift, level)
            row = rows.loc[f"{model}/{CONFIDENCE}/{shift}"]
            assert row[["calibration_slope", "calibration_slope low"]].tolist() == [*score[:2]]
        images = contents.read_cell(model, "0", "clean")
        for label, name in enumerate(images.classes):
            value = metrics.calibration_slope(
                softmax(images.logits)[:, label], images.labels == label
            )
            own = rows.loc[f"{model}/{name}/clean", "calibration_slope"]
            assert own == pytest.approx(value, abs=1e-7)
        z, _ = metrics.spiegelhalter_test(images.confidence, images.correct)
        assert rows.loc[f"{model}/{CONFIDENCE}/clean", "z"].startswith(f"{z:.2f}".replace("-", "−"))
    assert table.layout.header[-2:] == ("z (p)", "Probabilities are")
    assert all(len(line) == len(table.layout.header) for line in table.body)


def test_the_curves_are_those_of_the_stored_predictions(classified):
    contents = read_contents(classified)
    points = trace_curves(contents)
    assert set(points["of"]) >= {CONFIDENCE}
    assert set(points["under"]) == {False, True}
    own = points[(points["of"] == CONFIDENCE) & ~points["under"]]
    for model, found in own.groupby("model"):
        images = contents.read_cell(model, "0", "clean")
        curve = metrics.calibration_curve(images.confidence, images.correct, points=POINTS)
        np.testing.assert_allclose(found["share"], curve.share, atol=1e-9)
        assert (found["low"] <= found["share"]).all()
        assert (found["share"] <= found["high"]).all()


def test_a_side_with_few_images_has_no_curve(classified):
    contents = read_contents(classified)
    for (model, name, under), _ in trace_curves(contents).groupby(["model", "of", "under"]):
        if name != CONFIDENCE or under:
            continue
        images = contents.read_cell(model, "0", "clean")
        assert min(images.correct.sum(), (~images.correct).sum()) >= FEWEST_OUTCOMES


@pytest.mark.parametrize(
    ("slope", "ratio", "said"),
    [
        ((0.6, 0.5, 0.7), (1.0, 0.9, 1.1), "too extreme"),
        ((1.6, 1.5, 1.7), (0.8, 0.7, 0.9), "too moderate, too high on average"),
        ((1.0, 0.8, 1.2), (1.2, 1.1, 1.3), "too low on average"),
        ((1.0, 0.8, 1.2), (1.0, 0.9, 1.3), ""),
        ((0.5, math.nan, math.nan), None, ""),
    ],
)
def test_only_what_an_interval_shows_is_said(slope, ratio, said):
    scores = (None if numbers is None else Score(*numbers, 100) for numbers in (slope, ratio))
    assert describe_calibration(*scores) == said


def test_sentences_are_short_and_name_the_worst_first(classified):
    contents = read_contents(classified)
    said = list(describe_slopes(contents))
    assert len(said) <= 3
    for text in said:
        assert all(len(words.split()) <= 20 for words in split_sentences(text))
        assert "Probabilities are too" in text
