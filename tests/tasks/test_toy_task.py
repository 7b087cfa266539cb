"""A task of two findings whose labels may be unknown, which only this file knows."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.special
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.metrics import METRICS, Accepts, Metric
from fairweather.requests.study.run import try_study
from fairweather.runs.folder import RunFolder
from fairweather.tasks import TASKS, Strata, Task, Unit
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import AnyPredictions, Dataset, Images
from fairweather.variants.calibration import Calibration
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.variant import VARIANTS

NAMES = ("Effusion", "Mass")
UNKNOWN = -1
OF_IMAGE, OF_FINDING = (
    TaskKind("masked", "sigmoid", "toy image"),
    TaskKind("masked", "sigmoid", "toy finding"),
)


@dataclass(frozen=True)
class Findings(AnyPredictions):
    """What is stored of each image: `[N, 2]` labels and probabilities."""

    kind: ClassVar = OF_IMAGE
    stored: ClassVar = {"keys": np.int64, "labels": np.int64, "probability": np.float64}
    keys: np.ndarray
    labels: np.ndarray
    probability: np.ndarray
    logits: np.ndarray | None
    classes: tuple[str, ...]

    @property
    def correct(self):
        right = (self.probability >= 0.5) == (self.labels == 1)
        return (right | (self.labels == UNKNOWN)).all(axis=1)


@dataclass(frozen=True)
class Finding(AnyPredictions):
    """One finding of the images where it is known."""

    kind: ClassVar = OF_FINDING
    stored: ClassVar = {}
    keys: np.ndarray
    labels: np.ndarray
    probability: np.ndarray
    logits: np.ndarray | None
    classes: tuple[str, ...]

    @property
    def strata(self):
        return self.labels

    @property
    def correct(self):
        return (self.probability >= 0.5) == (self.labels == 1)


def check_labels(labels, classes):
    if labels.shape[1:] != (len(classes),) or not np.isin(labels, (0, 1, UNKNOWN)).all():
        raise InputError("labels of findings must be 0, 1 or -1 (unknown)")


def units(predictions):
    def unit(column):
        places = np.flatnonzero(predictions.labels[:, column] != UNKNOWN)

        def part(found):
            own = (each[places, column] for each in (found.labels, found.probability))
            return Finding(found.keys[places], *own, None, (found.classes[column],))

        return Unit(f"finding={predictions.classes[column]}", places, part)

    return tuple(map(unit, range(len(predictions.classes))))


TOY = Task(
    name="toy_findings",
    predictions=Findings,
    columns=lambda logits, labels: {"probability": scipy.special.expit(logits.astype(np.float64))},
    check=check_labels,
    strata=lambda labels, classes: Strata((labels == 1).any(1).astype(np.int64), ("none", "some")),
    name_labels=lambda labels, classes: [str(row) for row in labels.tolist()],
    kinds=(OF_IMAGE, OF_FINDING),
    combine=lambda logits: np.mean(list(logits), axis=0),
    decision_metric="finding_accuracy",
    rule="finding_accuracy[clean] >= 90%",
    units=units,
)


def mean_of(column):
    def evaluate(sample):
        return sample.weights @ column(sample.predictions) / sample.weights.sum(axis=1)

    return evaluate


ROWS = (
    Metric(
        "finding_accuracy",
        "Accuracy of a finding",
        "mean of what is decided right",
        mean_of(lambda p: p.correct.astype(np.float64)),
        higher_is_better=True,
        interval="share",
        accepts=Accepts(OF_FINDING),
        shown=2,
    ),
    Metric(
        "finding_brier",
        "Brier score of a finding",
        "mean of (p - y)²",
        mean_of(lambda p: (p.probability - p.labels) ** 2),
        higher_is_better=False,
        interval="skewed",
        accepts=Accepts(OF_FINDING),
        shown=2,
    ),
)


class FittedBias(FittedParameters):
    """What is added to the logits of each finding."""

    bias: tuple[float, ...]

    def change(self, logits):
        return np.asarray(logits + np.float32(self.bias), dtype=np.float32)


@dataclass(frozen=True)
class Bias(Calibration):
    """The mean probability of each finding is its share among the images where it is known."""

    kind: ClassVar = "toy_bias"
    kind_title: ClassVar = "a bias of each finding"
    fitted_types: ClassVar = {OF_IMAGE: FittedBias}

    def fit(self, predictions, grouping):
        def gap(bias, logits, labels):
            known = labels != UNKNOWN
            return scipy.special.expit(logits[known] + bias).mean() - labels[known].mean()

        columns = zip(predictions.logits.T, predictions.labels.T, strict=True)
        return FittedBias(bias=[scipy.optimize.brentq(gap, -9, 9, each) for each in columns])


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(TASKS, TOY.name, TOY)
    monkeypatch.setitem(VARIANTS, Bias.kind, f"{__name__}:Bias")
    for row in ROWS:
        monkeypatch.setitem(METRICS, row.name, row)


def images_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, 2, generator=generator) < torch.tensor([0.4, 0.2])
    pixels = torch.full((count, 3, 8, 8), 90.0)
    pixels[:, :, :4] += 60 * truth[:, 0, None, None, None]
    pixels[:, :, 4:] += 60 * truth[:, 1, None, None, None]
    pixels += torch.randn(count, 1, 2, 1, generator=generator).repeat_interleave(4, 2) * 25
    labels = truth.long()
    labels[torch.rand(count, 2, generator=generator) < 0.15] = UNKNOWN
    found = pixels.clamp(0, 255).to(torch.uint8)
    return Images(found, labels, torch.arange(count), NAMES)


@pytest.fixture(scope="module")
def dataset():
    val, test = images_of(120, 1), images_of(160, 2)
    return Dataset("toys", None, val, test, (0.4,) * 3, (0.2,) * 3, {}, TOY.name)


class Halves(nn.Module):
    """The brightness of each half of an image as the logit of a finding."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(scale)), 0.0

    def forward(self, images):
        halves = images.unflatten(2, (2, -1)).mean(dim=(1, 3, 4))
        return self.scale * (halves - 0.47 + self.bias)


@pytest.fixture
def run(dataset, tmp_path):
    return evaluated(dataset, tmp_path / "run", {"net": Halves(20.0)})


def evaluated(dataset, out, models, **options):
    shifts = ["brightness_factor: [0.7, 1.3]", "gaussian_blur: [0.8]"]
    asked = {"outputs": "logits", "bootstrap": 100, "device": "cpu", "progress": False, **options}
    return fw.evaluate(models, dataset, shifts, out=out, **asked)


def test_a_module_is_scored_for_each_finding_over_the_images_where_it_is_known(run, dataset):
    scores = pd.read_csv(run.path / "scores.csv")
    singles = {f"finding={name}" for name in NAMES}
    assert set(scores["unit"]) == {
        *singles,
        "mean finding",
        "weighted mean finding",
        "worst finding",
    }
    probability = scipy.special.expit(Halves(20.0)(dataset.test.images / 255).detach().numpy())
    labels = dataset.test.labels.numpy()
    clean = scores[scores["shift"] == "clean"].set_index(["unit", "metric"])
    each = []
    for column, name in enumerate(NAMES):
        known = labels[:, column] >= 0
        truth, p = labels[known, column], probability[known, column]
        found = clean.loc[(f"finding={name}", "finding_brier")]
        assert found["value"] == pytest.approx(np.square(p - truth).mean(), rel=1e-5)
        assert found["n"] == known.sum()
        assert found["low"] < found["value"] < found["high"]
        each.append(found["value"])
    mean = clean.loc[("mean finding", "finding_brier")]
    assert mean["value"] == pytest.approx(np.mean(each))
    assert mean["low"] < mean["value"] < mean["high"]


def test_a_calibration_of_each_finding_is_fitted_where_it_is_known(dataset, tmp_path):
    unsure = Halves(20.0)
    unsure.bias = 0.05
    run = evaluated(dataset, tmp_path / "run", {"net": unsure}, variants=["toy_bias"])
    scores = pd.read_csv(run.path / "scores.csv")
    clean = scores[(scores["shift"] == "clean") & (scores["metric"] == "finding_brier")]
    values = clean.set_index(["model", "unit"])["value"]
    for unit in (*(f"finding={name}" for name in NAMES), "mean finding"):
        assert values["net+toy_bias", unit] < values["net", unit]
    assert "a bias of each finding" in (run.path / "report.html").read_text()


def test_the_page_has_a_table_of_each_finding(run):
    page = run.report().read_text()
    for words in ("Each finding by itself", "net, finding=Effusion", "Brier score of a finding"):
        assert words in page
    assert "Reliability" not in page
    written = pd.read_csv(run.path / "tables" / "units_finding_brier.csv")
    titles = [f"net, finding={name}" for name in NAMES]
    assert written["title"].tolist() == [
        *titles,
        "net, weighted mean finding",
        "net, worst finding",
    ]


def test_labels_and_options_that_the_task_does_not_know_are_refused(dataset, tmp_path):
    wrong = replace(dataset.test, labels=dataset.test.labels.clamp(min=0) + 1)
    with pytest.raises(InputError, match=r"0, 1 or -1"):
        evaluated(replace(dataset, test=wrong), tmp_path, Halves(20.0))
    for asked in ({"variants": ["temperature"]}, {"priors": {"some": {"Mass": 0.5}}}):
        with pytest.raises(
            InputError, match=r"does not accept the classes of|is for classification"
        ):
            evaluated(dataset, tmp_path / "run", Halves(20.0), **asked)


def test_a_study_is_refused_where_no_loss_accepts_its_task(dataset, monkeypatch):
    monkeypatch.setitem(TASKS, TOY.name, replace(TOY, kinds=(TaskKind("boxes", "sigmoid"),)))
    sets = replace(dataset, train=dataset.val)
    with pytest.raises(InputError, match="no loss of a training accepts the task of toys, toy"):
        try_study(None, None, sets, {}, offline=True)


def as_study(run):
    """The run as one that trains would have been written: a joined run has such runs alone."""
    folder = RunFolder(run.path)
    folder.describe(folder.record.model_copy(update={"kind": "study"}))
    for step in folder.steps():
        if "network" in step.depends:
            network = {"kind": "trained", "folder": "models/net"}
            depends = {**step.depends, "network": network}
            folder.finish(step.model_copy(update={"depends": depends}))
    return run.path


@pytest.mark.usefixtures("no_figures")
def test_runs_of_two_seeds_are_joined_with_their_findings(dataset, tmp_path):
    runs = [
        as_study(evaluated(dataset, tmp_path / f"{seed}", {f"net-seed{seed}": Halves(scale)}))
        for seed, scale in enumerate((20.0, 12.0))
    ]
    joined = fw.join_seeds(runs, out=tmp_path / "joined")
    ours = pd.read_csv(joined.path / "scores.csv")
    models = {"net-seed0": Halves(20.0), "net-seed1": Halves(12.0)}
    both = evaluated(dataset, tmp_path / "both", models)
    pd.testing.assert_frame_equal(ours, pd.read_csv(both.path / "scores.csv"))
    assert "net, finding=Mass" in (joined.path / "report.html").read_text()
    small = [fw.pack_run(run, tmp_path / f"small-{run.name}") for run in runs]
    again = pd.read_csv(fw.join_seeds(small, out=tmp_path / "again").path / "scores.csv")
    pd.testing.assert_frame_equal(again, ours)


def test_a_task_may_have_no_units(dataset, tmp_path, monkeypatch):
    row = Metric(
        "all_right",
        "All right",
        "share of images without a wrong finding",
        mean_of(lambda p: p.correct.astype(np.float64)),
        higher_is_better=True,
        interval="share",
        accepts=Accepts(OF_IMAGE),
    )
    monkeypatch.setitem(METRICS, row.name, row)
    whole = replace(TOY, kinds=(OF_IMAGE,), units=lambda _: (), decision_metric=row.name)
    monkeypatch.setitem(TASKS, TOY.name, whole)
    run = evaluated(dataset, tmp_path / "run", Halves(20.0))
    assert set(run.scores["metric"]) == {"all_right"}
