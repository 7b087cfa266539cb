"""A metric, a shift or a source of models is one row: added while Python runs, all know it."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fairweather as fw
from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import METRICS, Accepts, Metric
from fairweather.metrics.label_shift import prior_metrics
from fairweather.metrics.rows import find_row
from fairweather.models.opening import MODEL_SOURCES
from fairweather.models.sources import OpenedModel, SourceKind
from fairweather.shifts.table import SHIFTS, ShiftKind
from tests.conftest import COLOURS, figures_left_out

SITE = Path(__file__).parents[1] / "docs" / "site"
NAME, LABEL = "mean_square_confidence", "Mean square of the confidence"
FORMULA = "mean of the squared confidence over the images"
LABELS = np.tile([0, 1, 2], 40)


def mean_square(sample):
    """Mean of the squared confidence, `[B]`."""
    squares = np.square(sample.predictions.confidence)
    return sample.weights @ squares / sample.weights.sum(axis=1)


ROW = Metric(
    NAME,
    LABEL,
    FORMULA,
    mean_square,
    higher_is_better=True,
    bounds=(0.1, 1.0),
    accepts=Accepts(fractions=True),
    shown=1,
)


@pytest.fixture
def one_more(monkeypatch):
    monkeypatch.setitem(METRICS, NAME, ROW)


def shares(seed):
    """Probabilities that are mostly right: float64 `[n, 3]`."""
    logits = np.random.default_rng(seed).normal(size=(len(LABELS), 3))
    logits[np.arange(len(LABELS)), LABELS] += 2
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.fixture
def runs(one_more, tmp_path):
    with figures_left_out():
        return [
            fw.evaluate(predictions=shares(n), labels=LABELS, bootstrap=100, out=tmp_path / str(n))
            for n in (0, 1)
        ]


def test_scores_page_comparison_and_rules_have_a_metric_that_is_one_row(runs):
    first, second = runs
    rows = first.scores[first.scores["metric"] == NAME]
    assert rows["value"].item() == pytest.approx(np.square(shares(0).max(axis=1)).mean(), abs=1e-6)
    page = (first.path / "report.html").read_text()
    assert f"<code>{NAME}</code></th><td>{LABEL}</td><td>{FORMULA}</td>" in page
    assert f"{NAME},{LABEL}," in (first.path / "tables" / "clean_metrics.csv").read_text()
    compared = fw.compare_runs(first.path, second.path)
    mine = compared[compared["metric"] == NAME]["a"].item()
    assert mine == pytest.approx(rows["value"].item(), abs=1e-8)
    (verdict,) = judge(first.folder, read_rules([f"{NAME}[clean] >= 0.2"]))
    assert verdict.low == rows["low"].item()
    with pytest.raises(InputError, match=r"is always in \[0.1, 1\]"):
        judge(first.folder, read_rules([f"{NAME}[clean] >= 0.05"]))


@pytest.mark.usefixtures("one_more")
def test_the_list_and_scores_under_priors_have_a_metric_that_is_one_row():
    listed = CliRunner().invoke(app, ["list", "metrics"]).stdout
    assert f"  {NAME:<41} {LABEL}\n" in listed
    assert find_row(NAME) == ROW
    assert NAME in prior_metrics()


@pytest.mark.usefixtures("one_more")
def test_the_manual_describes_a_metric_that_is_one_row(monkeypatch):
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("the extra docs is not installed")
    monkeypatch.syspath_prepend(str(SITE))
    pages = importlib.import_module("fairweather_pages")
    from docutils import nodes

    monkeypatch.setattr(pages.Metrics, "section", lambda _, name, *__, **___: nodes.section())
    described = [section.astext() for section in pages.Metrics.run(object.__new__(pages.Metrics))]
    assert any(f"{LABEL}: {FORMULA}." in text for text in described)


def negative(*, share):
    """Mix each image with its negative: 0 changes nothing, 1 is the negative."""

    def apply(images, keys, seed):
        mixed = images.float() * (1 - 2 * share) + 255 * share
        return mixed.round().to(torch.uint8)

    return apply


@pytest.fixture
def one_more_shift(monkeypatch):
    row = ShiftKind(negative, "Negative", "share of the negative")
    monkeypatch.setitem(SHIFTS, "negative", row)


@pytest.mark.usefixtures("one_more_shift")
def test_a_shift_that_is_one_row_is_made_listed_measured_and_shown(colour_folder, tmp_path):
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert not fw.make_shift("negative", share=1)(white, torch.arange(1)).any()
    listed = CliRunner().invoke(app, ["list", "shifts"]).stdout
    assert "negative" in listed
    data, options = f"folder:{colour_folder}", {"bootstrap": 100, "device": "cpu"}
    with figures_left_out():
        run = fw.evaluate(
            ByColour(20), data, ["negative: [0.25, 1]"], out=tmp_path / "run", **options
        )
    rows = run.scores[(run.scores["shift"] == "negative") & (run.scores["metric"] == "accuracy")]
    assert {"0.25", "1"} <= set(rows["level"])
    assert "share of the negative" in (run.path / "report.html").read_text()
    with pytest.raises(InputError, match=r"unknown parameter .*known: share"):
        fw.make_shift("negative", shar=1)


class ByColour(nn.Module):
    """The class whose colour an image has."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("colours", torch.tensor(list(COLOURS.values())) / 255)
        self.scale = scale

    def forward(self, images):
        return self.scale * images.mean((2, 3)) @ self.colours.T


def open_colour(place, options, settings):
    facts = {"source": f"colour:{place}"}
    model = ByColour(float(place)).eval()
    return OpenedModel(model, f"colour-{place}", place, tuple(COLOURS), None, facts)


def check_colour(place, _):
    if not place.isdigit():
        raise InputError(f"colour: needs a number, found {place}")


COLOUR = SourceKind(
    "colour:SCALE",
    "classes by their colour",
    open_colour,
    options=("input_size",),
    check=check_colour,
    guess=lambda text: f"colour:{text}" if text.isdigit() else None,
)


@pytest.fixture
def one_more_source(monkeypatch):
    monkeypatch.setitem(MODEL_SOURCES, "colour", COLOUR)


@pytest.mark.usefixtures("one_more_source", "undrawn")
def test_a_source_of_models_that_is_one_row_is_evaluated(colour_folder, tmp_path):
    data, options = f"folder:{colour_folder}", {"bootstrap": 100, "device": "cpu"}
    run = fw.evaluate("colour:20", data, "clean", out=tmp_path / "run", **options)
    clean = run.scores[run.scores["metric"] == "accuracy"]
    assert clean["value"].tolist() == [1.0] * len(clean)
    assert run.record.models["colour-20"].settings["source"] == "colour:20"
    for wrong, told in (
        ("colour:red", "colour: needs a number, found red"),
        ("20", "did you mean 'colour:20'"),
        ("collour:20", "did you mean 'colour:20'"),
    ):
        with pytest.raises(InputError, match=told):
            fw.evaluate(wrong, data, "clean", out=tmp_path / "wrong", **options)
    with pytest.raises(InputError, match=r"weights cannot be given for .* only input_size"):
        fw.evaluate("colour:20", data, "clean", weights="none", out=tmp_path / "wrong", **options)


@pytest.mark.usefixtures("one_more_source")
def test_the_list_names_a_source_of_models_that_is_one_row():
    listed = CliRunner().invoke(app, ["list", "models"]).stdout
    assert f"  {COLOUR.form:<41} {COLOUR.title}\n" in listed
    with pytest.raises(InputError, match=r"known: .*colour:SCALE"):
        fw.evaluate("nothing", "folder:nowhere")
