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
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import METRICS, Accepts, Metric
from fairweather.metrics.areas import area_interval, auc_column, least_pairs
from fairweather.metrics.classification import class_areas
from fairweather.requests.study.run import try_study
from fairweather.runs.folder import RunFolder
from fairweather.tasks.task import TASKS, Strata, Task, Unit
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import AnyPredictions, Dataset, Groups, Images
from fairweather.variants.calibration import Calibration
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.variant import VARIANTS

NAMES = ("Effusion", "Mass")
UNKNOWN = -1
OF_IMAGE, OF_FINDING = (
    TaskKind("masked", "sigmoid", "image"),
    TaskKind("masked", "sigmoid", "finding"),
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
    kinds=(OF_IMAGE, OF_FINDING),
    combine=lambda logits: np.mean(list(logits), axis=0),
    decision_metric="finding_accuracy",
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
    fitted_type: ClassVar = FittedBias
    accepts: ClassVar = OF_IMAGE

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
    assert set(scores["unit"]) == {*singles, "mean finding", "worst finding"}
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


def verdicts(run, *rules, on="interval"):
    return judge(run.folder, read_rules(rules), on=on)


def test_a_rule_is_of_one_finding_of_the_worst_or_of_their_mean(run):
    one, worst, mean = verdicts(
        run,
        "finding_accuracy[clean|finding=Effusion] >= 0.7",
        "finding_accuracy[brightness_factor|worst finding] >= 0.9",
        "finding_brier[clean] <= 0.5",
    )
    scores = pd.read_csv(run.path / "scores.csv").set_index(["unit", "shift", "level", "metric"])
    clean = ("finding=Effusion", "clean", "none", "finding_accuracy")
    assert one.value == scores.loc[clean, "value"]
    assert mean.value == scores.loc[("mean finding", "clean", "none", "finding_brier"), "value"]
    at = [(f"finding={name}", "brightness_factor", "mean", "finding_accuracy") for name in NAMES]
    assert worst.value == min(scores.loc[each, "value"] for each in at)
    assert [one.passed, mean.passed, worst.passed] == [True, True, False]


def test_a_drop_is_of_one_finding_or_of_their_mean(run):
    one, mean = verdicts(
        run,
        "finding_accuracy[brightness_factor=1.3|finding=Mass] drop <= 5%",
        "finding_accuracy[brightness_factor=1.3] drop <= 50%",
    )
    scores = pd.read_csv(run.path / "scores.csv", dtype={"level": str})
    scores = scores.set_index(["unit", "shift", "level", "metric"])["value"]
    for verdict, unit in ((one, "finding=Mass"), (mean, "mean finding")):
        clean = scores[(unit, "clean", "none", "finding_accuracy")]
        shifted = scores[(unit, "brightness_factor", "1.3", "finding_accuracy")]
        assert verdict.value == pytest.approx(clean - shifted)
        assert verdict.low < verdict.value < verdict.high


def test_a_rule_of_an_unknown_finding_names_the_closest(run):
    with pytest.raises(InputError, match="finding=Mass"):
        verdicts(run, "finding_brier[clean|finding=Mas] <= 0.2")


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


def test_two_models_are_compared_for_each_finding(dataset, tmp_path):
    first = evaluated(dataset, tmp_path / "first", {"net": Halves(20.0)})
    other = Halves(20.0)
    other.bias = -0.03
    second = evaluated(dataset, tmp_path / "second", {"net": other})
    table = fw.compare_runs(first, second)
    clean = table[table["shift"] == "clean"].set_index(["unit", "metric"])
    assert set(clean.index.get_level_values("unit")) == {f"finding={name}" for name in NAMES}
    for name in NAMES:
        row = clean.loc[(f"finding={name}", "finding_accuracy")]
        assert row["difference"] == row["b"] - row["a"] != 0
        assert row["only_a_right"] - row["only_b_right"] == -round(row["difference"] * row["n"])
        assert row["p"] <= row["p_holm"] <= 1  # over both findings


def test_the_page_has_a_table_of_each_finding(run):
    page = run.report().read_text()
    for words in ("Each unit by itself", "net, finding=Effusion", "Brier score of a finding"):
        assert words in page
    assert "Reliability" not in page
    written = pd.read_csv(run.path / "tables" / "units_finding_brier.csv")
    titles = [f"net, finding={name}" for name in NAMES]
    assert written["title"].tolist() == [*titles, "net, worst finding"]


def own_auc(sample):
    p = sample.predictions
    scores = np.stack([-p.probability, p.probability], axis=1)
    return class_areas(scores, p.labels, sample.weights)[:, -1]


FINDING_AUC = Metric(
    "finding_auc",
    "AUC of a finding",
    "probability that an image with the finding has a higher probability of it than one without",
    own_auc,
    higher_is_better=True,
    interval="area",
    fewest=5,
    accepts=Accepts(OF_FINDING),
    column=lambda cell: auc_column(
        cell.predictions.probability, cell.predictions.labels == 1, cell.groups
    ),
    least_pairs=least_pairs,
)


@pytest.mark.parametrize("known", [False, True])
def test_the_mean_area_of_findings_has_the_variance_of_all_images(
    dataset, tmp_path, monkeypatch, known
):
    monkeypatch.setitem(METRICS, FINDING_AUC.name, FINDING_AUC)
    n = len(dataset.test)
    patients = np.arange(n) // 2
    names = np.array([f"{number:03}" for number in patients[::-1]], dtype=object)
    groups = Groups(group="patient", names=names) if known else None
    data = replace(dataset, test=replace(dataset.test, groups=groups))
    run = evaluated(data, tmp_path / "run", {"net": Halves(3.0)})
    scores = pd.read_csv(run.path / "scores.csv")
    clean = scores[(scores["shift"] == "clean") & (scores["metric"] == "finding_auc")]
    clean = clean.set_index("unit")
    labels = dataset.test.labels.numpy()
    units = n // 2 if known else n
    column, pairs, least = np.zeros(units), [], []
    probability = scipy.special.expit(Halves(3.0)(dataset.test.images / 255).detach().numpy())
    for place, name in enumerate(NAMES):
        there = labels[:, place] >= 0
        truth = labels[there, place] == 1
        of = patients[there] if known else np.flatnonzero(there)
        added = auc_column(probability[there, place], truth, of if known else None)
        column += np.bincount(of, added, units) / 2
        sides = [len(np.unique(of[side])) for side in (truth, ~truth)]
        least.append(least_pairs(truth, of if known else None))
        pairs.append(min(*sides, len(np.unique(of)) // 2) if known else min(sides))
        if known:
            assert clean.loc[f"finding={name}", "groups"] == len(np.unique(of)) < units
    mean = clean.loc["mean finding"]
    assert mean["value"] == pytest.approx(
        clean.loc[[f"finding={k}" for k in NAMES], "value"].mean()
    )
    ends = area_interval(mean["value"], column * np.sqrt(units), min(pairs), least=min(least))
    assert (mean["low"], mean["high"]) == pytest.approx(ends, rel=1e-5)
    assert mean["n"] == n
    if known:
        assert mean["groups"] == units
        assert np.isnan(clean.loc["worst finding", "groups"])


def test_seeds_are_averaged_for_each_finding(dataset, tmp_path):
    models = {"net-seed0": Halves(20.0), "net-seed1": Halves(12.0)}
    run = evaluated(dataset, tmp_path / "run", models)
    scores = pd.read_csv(run.path / "scores.csv")
    brier = scores[(scores["metric"] == "finding_brier") & (scores["shift"] == "clean")]
    for unit in ("finding=Mass", "mean finding"):
        of = brier[brier["unit"] == unit].set_index("seed")["value"]
        assert of["mean"] == pytest.approx((of["0"] + of["1"]) / 2)
        assert of["sd"] > 0


def test_predictions_from_a_file_give_the_numbers_of_the_module_that_made_them(
    run, dataset, tmp_path
):
    logits = Halves(20.0)(dataset.test.images / 255).detach().numpy()
    table = pd.DataFrame(logits, columns=list(NAMES))
    table.to_csv(tmp_path / "net.csv", index=False)
    given = fw.evaluate(
        f"predictions:{tmp_path / 'net.csv'}",
        dataset,
        outputs="logits",
        bootstrap=100,
        out=tmp_path / "given",
        progress=False,
    )
    ours, theirs = (pd.read_csv(each.path / "scores.csv") for each in (given, run))
    theirs = theirs[theirs["shift"] == "clean"]
    columns = ["unit", "metric", "value", "low", "high", "n"]
    ours = ours[ours["shift"] == "clean"][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs[columns].reset_index(drop=True), rtol=1e-4)


def test_labels_and_options_that_the_task_does_not_know_are_refused(dataset, tmp_path):
    wrong = replace(dataset.test, labels=dataset.test.labels.clamp(min=0) + 1)
    with pytest.raises(InputError, match=r"0, 1 or -1"):
        evaluated(replace(dataset, test=wrong), tmp_path, Halves(20.0))
    for asked in ({"variants": ["temperature"]}, {"priors": {"some": {"Mass": 0.5}}}):
        with pytest.raises(InputError, match=r"accept the task of|is for classification"):
            evaluated(dataset, tmp_path / "run", Halves(20.0), **asked)


def test_a_study_is_refused_by_the_loss_that_it_would_train_with(dataset):
    sets = replace(dataset, train=dataset.val)
    with pytest.raises(InputError, match="cross-entropy of a training does not accept the task of"):
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


def test_subgroups_and_findings_that_no_image_has_are_left_out(dataset, tmp_path):
    labels = dataset.test.labels.clone()
    labels[:, 1] = UNKNOWN
    sites = np.array(["a", "b"] * (len(labels) // 2), dtype=object)
    test = replace(dataset.test, labels=labels, groups=Groups(slices={"site": sites}))
    run = evaluated(replace(dataset, test=test), tmp_path / "run", Halves(20.0))
    assert "finding=Effusion" in set(pd.read_csv(run.path / "scores.csv")["unit"])
    assert "finding=Mass" not in set(pd.read_csv(run.path / "scores.csv")["unit"])
