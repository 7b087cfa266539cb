"""A run with several findings an image: scores, slices, patients, seeds, rules and comparison."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import find_example, judge
from fairweather.metrics import holm, score
from fairweather.metrics.areas import area_bounds, area_interval, auc_column
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.operating_points import choose_threshold
from fairweather.runs.folder import RunFolder
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.measurement import MULTILABEL, UNKNOWN, Dataset, Groups, Images
from fairweather.types.operating_points import TargetRate
from tests.conftest import figures_left_out
from tests.helpers.commands import fairweather
from tests.helpers.prediction_runs import SITES, TEST, evaluate_findings, label_findings

NAMES = ("Effusion", "Mass", "Hernia")
SHIFTS = ["brightness_factor: [0.7, 1.3]"]
UNITS = [*(f"finding={name}" for name in NAMES[:2]), "mean finding", "weighted mean finding"]


class Thirds(nn.Module):
    """The brightness of each third of an image as the logit of a finding."""

    def __init__(self, scale=20.0, bias=0.47):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.tensor(scale)), bias

    def forward(self, images):
        return self.scale * (images.unflatten(2, (3, -1)).mean(dim=(1, 3, 4)) - self.bias)


def images_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, 3, generator=generator) < torch.tensor([0.4, 0.2, 0.0])
    pixels = torch.full((count, 3, 9, 9), 90.0)
    for place in range(3):
        pixels[:, :, 3 * place : 3 * place + 3] += 60 * truth[:, place, None, None, None]
    pixels += torch.randn(count, 1, 3, 1, generator=generator).repeat_interleave(3, 2) * 30
    labels = truth.long()
    labels[torch.rand(count, 3, generator=generator) < 0.2] = UNKNOWN
    return Images(pixels.clamp(0, 255).to(torch.uint8), labels, torch.arange(count), NAMES)


@pytest.fixture(scope="module")
def dataset():
    """No image has a hernia; site C does not look for masses."""
    test = images_of(480, 2)
    sites = np.array(["A", "B", "C"] * 160, dtype=object)
    labels = test.labels.clone()
    labels[torch.from_numpy(sites == "C"), 1] = UNKNOWN
    patients = np.array([f"{number:03}" for number in np.arange(480) // 2], dtype=object)
    groups = Groups(group="patient", names=patients, slices={"site": sites})
    test = replace(test, labels=labels, groups=groups)
    return Dataset("toys", None, images_of(120, 1), test, (0.4,) * 3, (0.2,) * 3, {}, MULTILABEL)


def evaluated(dataset, out, models, **options):
    asked = {"outputs": "logits", "bootstrap": 100, "device": "cpu", "progress": False, **options}
    return fw.evaluate(models, dataset, SHIFTS, out=out, **asked)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("findings") / "run"
    return evaluated(dataset, out, {"net": Thirds()}, operating_points=["Effusion=0.3"])


def predictions_of(dataset, net, places=slice(None)):
    logits = net(dataset.test.images / 255).detach().numpy()
    whole = (dataset.test.keys.numpy(), dataset.test.labels.numpy(), logits)
    return FindingsPredictions(*(column[places] for column in whole), NAMES)


def cells_of(run, name="scores.csv"):
    scores = pd.read_csv(run.path / name)
    clean = scores[scores["shift"] == "clean"]
    keys = [key for key in ("slice", "unit", "metric") if key in scores]
    return clean.set_index(keys).sort_index()


def test_streams_of_adapted_findings_have_means_although_each_is_known_for_other_images(
    dataset, tmp_path
):
    net = nn.Sequential(nn.BatchNorm2d(3), Thirds(bias=0.0))
    run = evaluated(dataset, tmp_path / "run", {"net": net}, variants=["batchnorm: {orders: 3}"])
    scores = (
        pd.read_csv(run.path / "scores.csv")
        .set_index(["model", "shift", "unit", "metric"])
        .sort_index()
    )
    adapted = scores.loc["net+batchnorm-orders3", "clean"]
    known = [adapted.loc[(f"finding={name}", "auc"), "value"] for name in NAMES[:2]]
    mean = adapted.loc[("mean finding", "auc")]
    assert mean["value"] == pytest.approx(np.mean(known), rel=1e-5)
    assert mean["low"] < mean["value"] < mean["high"]


def test_each_finding_has_the_numbers_of_the_images_where_it_is_known(run, dataset):
    clean, predictions = cells_of(run), predictions_of(dataset, Thirds())
    kinds = [f"{kind} finding" for kind in ("mean", "weighted mean", "worst")]
    expected = {"image", *(f"finding={name}" for name in NAMES), *kinds}
    assert set(clean.index.get_level_values("unit")) == expected
    for column, name in enumerate(NAMES):
        found = clean.loc[f"finding={name}"]
        one = select_finding(predictions, column)
        for metric, theirs in score(one, 10).items():
            assert found.loc[metric, "value"] == pytest.approx(theirs.value, rel=1e-5, nan_ok=True)
            denominators = {"sensitivity": one.labels.sum(), "specificity": (one.labels == 0).sum()}
            images = denominators.get(metric, len(one))
            assert found.loc[metric, "n"] == images < len(predictions)
    assert "sensitivity@0.3" in clean.loc["finding=Effusion"].index
    assert "sensitivity@0.3" not in clean.loc["finding=Mass"].index


def test_a_finding_that_no_image_has_is_in_no_mean_and_this_is_said_once(dataset, tmp_path):
    said = []
    run = evaluated(dataset, tmp_path / "run", {"net": Thirds()}, progress=said.append)
    lines = [event.line for event in said if "in no mean" in event.line]
    assert lines == [
        "note           in no mean over findings, and never the worst: finding=Hernia (no image "
        "has it)"
    ]
    clean = cells_of(run)
    values = [clean.loc[(unit, "specificity"), "value"] for unit in UNITS[:2]]
    assert clean.loc[("mean finding", "specificity"), "value"] == pytest.approx(np.mean(values))
    assert clean.loc[("worst finding", "specificity"), "value"] == min(values)
    labels = dataset.test.labels.numpy()
    positives = (labels == 1).sum(axis=0)[:2]
    weighted = clean.loc[("weighted mean finding", "specificity"), "value"]
    assert weighted == pytest.approx(np.average(values, weights=positives))
    assert np.isnan(clean.loc[("finding=Hernia", "auc"), "value"])
    absent = json.loads((run.path / "absent_metrics.json").read_text())
    assert absent == {"finding=Hernia": "no image has it"}


@pytest.mark.parametrize("known", [False, True])
def test_the_mean_area_has_the_variance_of_all_images_or_patients(dataset, run, tmp_path, known):
    n, net = len(dataset.test), Thirds()
    if not known:
        alone = replace(dataset, test=replace(dataset.test, groups=None))
        run = evaluated(alone, tmp_path / "run", {"net": net})
    clean = cells_of(run).xs("auc", level="metric")
    labels, patients = dataset.test.labels.numpy(), np.arange(n) // 2
    units = n // 2 if known else n
    column, pairs = np.zeros(units), []
    probability = scipy.special.expit(predictions_of(dataset, net).logits)
    for place, name in enumerate(NAMES[:2]):
        there = labels[:, place] != UNKNOWN
        truth = labels[there, place] == 1
        of = patients[there] if known else np.flatnonzero(there)
        added = auc_column(probability[there, place], truth, of if known else None)
        column += np.bincount(of, added, units) / 2
        sides = [len(np.unique(of[side])) for side in (truth, ~truth)]
        pairs.append(min(*sides, len(np.unique(of)) // 2) if known else min(sides))
        if known:
            assert clean.loc[f"finding={name}", "groups"] == len(np.unique(of)) < units
    mean = clean.loc["mean finding"]
    ends = area_interval(mean["value"], column * np.sqrt(units), min(pairs))
    assert (mean["low"], mean["high"]) == pytest.approx(ends, rel=1e-5)
    assert mean["n"] == n
    if known:
        assert mean["groups"] == units
        assert np.isnan(clean.loc["worst finding", "groups"])


def test_slices_have_each_finding(run, dataset):
    clean = cells_of(run, "slices.csv")
    sites = dataset.test.groups.slices["site"]
    patients = np.arange(len(sites)) // 2
    for site in "ABC":
        places = np.flatnonzero(sites == site)
        predictions = predictions_of(dataset, Thirds(), places)
        own = clean.loc[f"site={site}"]
        units = UNITS[: 1 if site == "C" else 2]
        for column, unit in enumerate(units):
            known = predictions.labels[:, column] != UNKNOWN
            grouping = Grouping(np.unique(patients[places[known]], return_inverse=True)[1])
            theirs = score(select_finding(predictions, column), 100, grouping=grouping)
            for metric in ("auc", "brier", "sensitivity"):
                row = own.loc[(unit, metric)]
                assert row["value"] == pytest.approx(theirs[metric].value, rel=1e-5)
                assert row["groups"] == grouping.count
            ends = own.loc[(unit, "auc")]  # computed without resamples
            assert (ends["low"], ends["high"]) == pytest.approx(
                theirs["auc"][1:3], rel=1e-5, nan_ok=True
            )
        single = [own.loc[(unit, "auc"), "value"] for unit in units]
        assert own.loc[("mean finding", "auc"), "value"] == pytest.approx(np.mean(single))
        assert own.loc[("worst finding", "auc"), "value"] == min(single)
    assert "finding=Mass" not in clean.loc["site=C"].index.get_level_values("unit")
    values = clean["value"]
    of_sites = [values[f"site={site}", "finding=Effusion", "auc"] for site in "ABC"]
    assert values["worst site", "finding=Effusion", "auc"] == min(of_sites)


def verdicts(run, *rules, on="interval"):
    return judge(run.folder, read_rules(rules), on=on)


def test_rules_are_of_findings_their_means_the_worst_and_slices(run):
    scores, slices = cells_of(run)["value"], cells_of(run, "slices.csv")["value"]
    at_point = scores["finding=Effusion", "sensitivity@0.3"]
    at_worst = slices["worst site", "finding=Effusion", "auc"]
    expected = {
        "auc[clean|finding=Effusion] >= 0.7": scores["finding=Effusion", "auc"],
        "auc[clean|worst finding] >= 0.7": scores["worst finding", "auc"],
        "auc[clean|weighted mean finding] >= 0.7": scores["weighted mean finding", "auc"],
        "auc[clean] >= 0.7": scores["mean finding", "auc"],
        "hamming_loss[clean] <= 0.5": scores["image", "hamming_loss"],
        "sensitivity@0.3[clean|finding=Effusion] >= 0.5": at_point,
        "sensitivity[clean|finding=Effusion@0.3] >= 0.5": at_point,
        "auc[clean|finding=Effusion|site=B] >= 0.6": slices["site=B", "finding=Effusion", "auc"],
        "auc[clean|finding=Effusion|worst site] >= 0.6": at_worst,
        "brier[clean|worst finding|worst site] <= 0.6": max(
            slices[f"site={site}", "worst finding", "brier"] for site in "ABC"
        ),
        "exact_match[clean|site=A] >= 0.2": slices["site=A", "image", "exact_match"],
        "brier[clean|worst finding|site=A] <= 0.5": slices["site=A", "worst finding", "brier"],
        "brier[clean|site=A] <= 0.5": slices["site=A", "mean finding", "brier"],
    }
    for verdict, value in zip(verdicts(run, *expected), expected.values(), strict=True):
        assert verdict.value == value
        assert verdict.passed, verdict.rule
    (failed,) = verdicts(run, "auc[clean|finding=Effusion] >= 0.999")
    assert not failed.passed


def test_drops_are_of_a_finding_of_a_mean_or_of_a_slice(run):
    parts = ["finding=Mass", "weighted mean finding", "mean finding"]
    rules = [f"brier[brightness_factor=1.3|{unit}] rise <= 90%" for unit in parts]
    rules += ["auc[brightness_factor=1.3] drop <= 90%"]
    rules += ["brier[brightness_factor=1.3|finding=Effusion|site=A] rise <= 90%"]
    found = verdicts(run, *rules)
    scores = pd.read_csv(run.path / "scores.csv", dtype={"level": str})
    slices = pd.read_csv(run.path / "slices.csv", dtype={"level": str})
    own = slices[slices["slice"] == "site=A"]
    asked = [(scores, unit, "brier", 1) for unit in parts]
    asked += [(scores, "mean finding", "auc", -1), (own, "finding=Effusion", "brier", 1)]
    for verdict, (table, unit, metric, sign) in zip(found, asked, strict=True):
        rows = table[(table["unit"] == unit) & (table["metric"] == metric)]
        values = rows.set_index(["shift", "level"])["value"]
        change = sign * (values["brightness_factor", "1.3"] - values["clean", "none"])
        assert verdict.value == pytest.approx(change, abs=1e-6)
        # The change keeps all ranks, and so the area.
        assert verdict.low < verdict.value < verdict.high or metric == "auc"


def test_a_rise_at_the_threshold_of_validation_images_is_that_of_both_cells(run):
    name = "risk_above_validation_threshold/0.05"
    (verdict,) = verdicts(run, f"{name}[brightness_factor=1.3|finding=Mass] rise <= 90%")
    scores = pd.read_csv(run.path / "scores.csv", dtype={"level": str})
    rows = scores[(scores["unit"] == "finding=Mass") & (scores["metric"] == name)]
    values = rows.set_index(["shift", "level"])["value"]
    change = values["brightness_factor", "1.3"] - values["clean", "none"]
    assert verdict.value == pytest.approx(change, abs=1e-6)


def test_a_rule_about_a_finding_counts_the_patients_for_whom_it_is_known(run, dataset):
    labels, patients = dataset.test.labels.numpy(), dataset.test.groups.names
    sites = dataset.test.groups.slices["site"]
    known = labels[:, 1] != UNKNOWN
    rules = ["auc[clean|finding=Mass] >= 0.1", "brier[clean|finding=Mass|site=A] <= 0.9"]
    whole, part = verdicts(run, *rules, "auc[clean] >= 0.1")[:2]
    assert whole.groups == {"the test set": len(np.unique(patients[known]))}
    assert part.groups == {"site=A": len(np.unique(patients[known & (sites == "A")]))}
    (every,) = verdicts(run, "auc[clean|worst finding] >= 0.1")
    assert every.groups == {"the test set": len(np.unique(patients))}
    assert every.groups != whole.groups


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("missed_findings[clean] <= 10%", "measure a risk_control variant"),
        ("auc[clean|finding=Mas] >= 0.9", "did you mean 'finding=Mass'"),
        ("auc[clean|finding=Mas|site=B] >= 0.9", "did you mean 'finding=Mass'"),
        ("auc[clean|finding=Mass|site=D] >= 0.9", "did you mean 'site="),
        ("auc[clean|finding=Mass|site=C] >= 0.9", "unknown for every image there"),
        ("auc[clean|finding=Hernia] >= 0.9", "none has the finding"),
        ("auc[clean|city=B] >= 0.9", "unknown slice 'city=B'; did you mean 'site=B'"),
        (
            "sensitivity[clean|finding=Effusion@0.4] >= 0.9",
            "of Effusion '0.4'.* known: 0.3; measure it with --operating-point Effusion=0.4$",
        ),
        (
            "sensitivity@0.4[clean|mean finding] >= 0.9",
            "unknown operating point '0.4'.* --operating-point 0.4$",
        ),
        ("auc[clean|finding=Mass@0.3] >= 0.9", "unknown metric 'auc@0.3'; did you mean 'auc'"),
        ("acu[clean|finding=Mass] >= 0.9", "did you mean 'auc'"),
        (
            "auc[brightness_factor|worst finding] drop <= 1%",
            "a drop or a rise is of one finding or of a mean",
        ),
        ("auc[clean|class=Mass] >= 0.9", "write finding=NAME for class=NAME"),
        ("exact_match[clean|finding=Mass] >= 0.9", "finding=Mass has no exact_match; .* of image"),
    ],
)
def test_a_rule_about_what_is_not_there_says_what_is(run, rule, said):
    with pytest.raises(InputError, match=said):
        verdicts(run, rule)


def test_a_rule_of_the_worst_site_names_the_site_with_too_few_patients(tmp_path):
    with figures_left_out():
        made = evaluate_findings(tmp_path, group="patient", slices=("site",))
    with_mass = label_findings(("Effusion", "Mass"), TEST)[::2, 1]  # two images of each patient
    site, few = SITES[0], int(with_mass[:: len(SITES)].sum())  # the first of two with 80 images
    needed = (
        rf"auc of net for clean, site={site} cannot be judged on its interval: it needs at least "
        r"30 images with the finding, and without it \(of one patient, one counts\), "
        rf"found {few} of Mass;"
    )
    with pytest.raises(InputError, match=needed):
        judge(RunFolder(made.path), read_rules(["auc[clean|finding=Mass|worst site] >= 0.7"]))


def test_a_rule_of_a_finding_that_few_images_have_names_their_number(dataset, tmp_path):
    labels = dataset.test.labels.clone()
    has_mass = labels[:, 1] == 1
    labels[has_mass & (has_mass.cumsum(0) > 9), 1] = UNKNOWN
    labels[:, 2] = UNKNOWN
    few = replace(dataset, test=replace(dataset.test, labels=labels, groups=None))
    run = evaluated(few, tmp_path / "run", {"net": Thirds()})
    needed = "at least 30 images with the finding, and without it.*found 9 of Mass"
    with pytest.raises(InputError, match=f"{needed}; use auc, take more images"):
        verdicts(run, "pr_auc[clean|finding=Mass] >= 0.01")
    (verdict,) = verdicts(run, "pr_auc[clean|finding=Mass] >= 0.01", on="value")
    assert verdict.passed
    (verdict,) = verdicts(run, "auc[clean|finding=Mass] >= 0.5")
    # Nine images with it make nine pairs.
    assert verdict.bounded
    assert (verdict.low, verdict.high) == pytest.approx(area_bounds(verdict.value, 9), abs=0.02)
    with pytest.raises(InputError, match="Hernia has no numbers: it is unknown for every image"):
        verdicts(run, "auc[clean|finding=Hernia] >= 0.5")


def test_a_finding_that_is_in_no_mean_over_a_slice_is_said(dataset, tmp_path):
    said = []
    run = evaluated(dataset, tmp_path / "run", {"net": Thirds()}, progress=said.append)
    lines = [event.line for event in said if "not in the mean" in event.line]
    assert lines == [
        "note           not in the mean over site=C: finding=Mass (it is unknown for every image)"
    ]
    slices = cells_of(run, "slices.csv")["value"].xs("brier", level="metric")
    assert slices["site=C", "mean finding"] == slices["site=C", "finding=Effusion"]


def test_the_exact_match_that_is_said_first_is_that_of_the_table(dataset, tmp_path):
    labels = dataset.test.labels.clone()
    labels[::3] = UNKNOWN
    said, some = [], replace(dataset, test=replace(dataset.test, labels=labels, groups=None))
    run = evaluated(some, tmp_path / "run", {"net": Thirds()}, progress=said.append)
    share = cells_of(run).loc[("image", "exact_match"), "value"]
    notes = [event.note for event in said if event.note.startswith("clean: exact match")]
    assert f"clean: exact match {share:.1%}" in notes  # beside that of validation images


@pytest.mark.usefixtures("no_figures", "no_page")
def test_two_models_are_compared_for_each_finding(dataset, tmp_path):
    alone = replace(dataset, test=replace(dataset.test, groups=None))
    nets = {"first": Thirds(), "second": Thirds(bias=0.52)}
    runs = [evaluated(alone, tmp_path / name, {"net": net}) for name, net in nets.items()]
    table = fw.compare_runs(*runs)
    others = table[table["p"].notna() & (table["metric"] != "decision_accuracy")]
    assert {*others["metric"]} <= {"auc", "pr_auc", "brier"}
    tested = table[table["metric"] == "decision_accuracy"].dropna(subset="p").sort_values("p")
    clean = tested[tested["shift"] == "clean"].set_index("unit")
    labels = alone.test.labels.numpy()
    right = [(predictions_of(alone, net).logits >= 0) == (labels == 1) for net in nets.values()]
    for column, name in enumerate(NAMES):
        known = labels[:, column] != UNKNOWN
        a, b = (side[known, column] for side in right)
        row = clean.loc[f"finding={name}"]
        assert row["difference"] == pytest.approx(b.mean() - a.mean(), abs=1e-7)
        p = scipy.stats.binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue
        assert row["p"] == pytest.approx(p, rel=1e-6)
    # Holm, over findings and shifts together.
    steps = tested["p"].to_numpy() * np.arange(len(tested), 0, -1)
    holm = np.minimum(np.maximum.accumulate(steps), 1)
    np.testing.assert_allclose(np.sort(tested["p_holm"]), holm, rtol=1e-6)
    comparison = read_run_comparison(*(run.path for run in runs))
    words = " ".join([comparison.caption, *comparison.notes])
    assert "the share of right decisions differs in" in words
    assert "For right decisions, it is McNemar's exact test" in words
    assert "accuracy" not in words
    assert "RMS" not in words


@pytest.mark.usefixtures("no_figures", "no_page")
def test_models_that_decide_alike_do_not_predict_a_class(dataset, tmp_path):
    alone = replace(dataset, test=replace(dataset.test, groups=None))
    runs = []
    for scale in (20, 30):
        folder = tmp_path / f"run{scale}"
        runs.append(evaluated(alone, folder, {"net": Thirds(float(scale))}).path)
    notes = read_run_comparison(*runs).notes
    assert any("both make the same decisions in all cells" in note for note in notes)


def test_a_wrong_name_is_called_a_finding(dataset, tmp_path):
    with pytest.raises(InputError, match="unknown finding of an operating point 'Mas'"):
        evaluated(dataset, tmp_path / "run", {"net": Thirds()}, operating_points=["Mas=0.3"])
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_figures", "no_page")
def test_seeds_are_averaged_for_each_finding(dataset, tmp_path):
    models = {"net-seed0": Thirds(), "net-seed1": Thirds(12.0)}
    run = evaluated(dataset, tmp_path / "run", models)
    for file in ("scores.csv", "slices.csv"):
        table = pd.read_csv(run.path / file)
        at = (table["metric"] == "brier") & (table["shift"] == "clean")
        at &= table["slice"] == "site=A" if "slice" in table else True
        for unit in UNITS:
            of = table[at & (table["unit"] == unit)].set_index("seed")["value"]
            assert of["mean"] == pytest.approx((of["0"] + of["1"]) / 2)
            assert file == "slices.csv" or of["sd"] > 0
    (verdict,) = verdicts(run, "brier[clean|finding=Mass] <= 0.5")
    rows = cells_of(run).loc[("finding=Mass", "brier")]
    assert verdict.value == rows[rows["seed"] == "mean"]["value"].item()


def test_predictions_from_a_file_give_the_numbers_of_the_module(run, dataset, tmp_path):
    logits = predictions_of(dataset, Thirds()).logits
    pd.DataFrame(logits, columns=list(NAMES)).to_csv(tmp_path / "net.csv", index=False)
    given = fw.evaluate(
        f"predictions:{tmp_path / 'net.csv'}",
        dataset,
        outputs="logits",
        bootstrap=100,
        operating_points=["Effusion=0.3"],
        out=tmp_path / "given",
        progress=False,
    )
    columns = ["value", "low", "high", "n"]
    ours, theirs = (cells_of(each)[columns] for each in (given, run))
    fitted = theirs.index.difference(ours.index).get_level_values("metric")
    assert all("validation_threshold" in name or "atc" in name for name in fitted)
    theirs = theirs.loc[ours.index]
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)


def choose(dataset, target, name, net=None):
    """The threshold for a target, chosen on the validation images where the finding is known."""
    images, column = dataset.val, NAMES.index(name)
    logits = (net or Thirds())(images.images / 255).detach().numpy()
    labels = images.labels.numpy()[:, column]
    known = labels != UNKNOWN
    p = fw.metrics.softmax(np.stack([0 * logits[known, column], logits[known, column]], axis=1))
    return choose_threshold(p[:, 1], labels[known] == 1, target)


@pytest.fixture(scope="module")
def targeted(dataset, tmp_path_factory):
    """Two seeds with several operating points of two findings."""
    larger = replace(dataset, val=images_of(400, 1))
    nets = {"net-seed0": Thirds(), "net-seed1": Thirds(18.0, 0.45)}
    points = ["Effusion=sensitivity=0.9", "Effusion=0.3", "Mass=specificity=0.80"]
    out = tmp_path_factory.mktemp("targets") / "run"
    return larger, evaluated(larger, out, nets, operating_points=points)


def test_the_threshold_of_a_target_is_chosen_for_each_seed_on_validation_images(targeted):
    dataset, run = targeted
    stored = {"Effusion": ("sensitivity=0.9", 0.3), "Mass": "specificity=0.8"}
    assert run.record.settings.operating_points == stored
    rows = pd.read_csv(run.path / "scores.csv", dtype={"seed": str})
    rows = rows[rows["shift"] == "clean"].set_index(["seed", "unit", "metric"]).sort_index()
    test, labels = dataset.test, dataset.test.labels.numpy()
    for seed, net in (("0", Thirds()), ("1", Thirds(18.0, 0.45))):
        for name, target in (
            ("Effusion", TargetRate("sensitivity", 0.9)),
            ("Mass", TargetRate("specificity", 0.8)),
        ):
            threshold, column = choose(dataset, target, name, net), NAMES.index(name)
            own = rows.loc[seed, f"finding={name}"]
            assert own.loc[f"threshold@{target}", "value"] == pytest.approx(threshold, rel=1e-7)
            p = scipy.special.expit(net(test.images / 255).detach().numpy()[:, column])
            for rate, present in (("sensitivity", 1), ("specificity", 0)):
                of_rate = labels[:, column] == present
                right = ((p >= threshold) == present)[of_rate].mean()
                assert own.loc[f"{rate}@{target}", "value"] == pytest.approx(right)
                assert own.loc[f"{rate}@{target}", "n"] == of_rate.sum()
    # A threshold of another finding is no number of their mean.
    units = rows.loc["0"].reset_index()
    assert set(units[units["metric"].str.startswith("threshold")]["unit"]) == set(UNITS[:2])


def test_shifted_images_and_sites_have_the_numbers_at_a_target_too(targeted):
    _, run = targeted
    name = "sensitivity@sensitivity=0.9"
    scores, slices = (pd.read_csv(run.path / file) for file in ("scores.csv", "slices.csv"))
    cells = set(scores[scores["metric"] == name]["level"])
    assert cells == {"none", "0.7", "1.3", "mean", "worst"}
    assert {f"site={site}" for site in "ABC"} <= set(slices[slices["metric"] == name]["slice"])


def test_rules_are_judged_at_a_target_and_its_drop_has_the_same_threshold(targeted):
    _, run = targeted
    rule = "sensitivity[clean|finding=Effusion@sensitivity=0.9] >= 0.5"
    other = "sensitivity@sensitivity=0.9[brightness_factor=0.7|finding=Effusion] drop <= 100%"
    first, second = judge(RunFolder(run.path), read_rules([rule, other]))
    rows = pd.read_csv(run.path / "scores.csv")
    rows = rows[(rows["metric"] == "sensitivity@sensitivity=0.9") & (rows["seed"] == "mean")]
    by_level = rows[rows["unit"] == "finding=Effusion"].set_index("level")["value"]
    assert first.value == pytest.approx(by_level["none"], rel=1e-6)
    assert second.value == pytest.approx(by_level["none"] - by_level["0.7"], abs=1e-6)


def test_it_is_said_where_a_target_is_kept(targeted):
    """Each patient counts alike; each seed has its own threshold."""
    dataset, run = targeted
    table = pd.read_csv(run.path / "tables" / "operating_points.csv", dtype={"seed": str})
    images = {"clean", "site=A", "site=B", "site=C"}
    images |= {f"brightness_factor={level}" for level in ("0.7", "1.3")}
    assert set(table["images"]) == images
    assert set(table["verdict"]) == {"kept", "broken", "cannot tell"}
    target = table["target"].str.partition("=")[2].astype(float)
    assert ((table["verdict"] == "kept") == (table["low"] >= target)).all()
    assert ((table["verdict"] == "broken") == (table["high"] < target)).all()
    test, labels = dataset.test, dataset.test.labels.numpy()[:, 0]
    sites, patients = test.groups.slices["site"], np.arange(480) // 2
    p = scipy.special.expit(Thirds()(test.images / 255).detach().numpy()[:, 0])
    rows = table[(table["seed"] == "0") & (table["class"] == "Effusion")].set_index("images")
    for name, inside in (("clean", labels == 1), ("site=A", (labels == 1) & (sites == "A"))):
        row = rows.loc[name]
        right = pd.Series(p[inside] >= row["threshold"]).groupby(patients[inside]).mean()
        assert row["value"] == pytest.approx(right.mean())
        assert (row["n"], row["groups"]) == (inside.sum(), len(right))
    said = run.overview()
    assert "sensitivity=0.9 of Effusion (threshold" in said
    assert "is broken in 1 of 6 sets of images, worst in brightness_factor=0.7" in said


def test_the_rates_of_sites_have_their_own_images_and_a_test_of_their_difference(targeted):
    dataset, run = targeted
    table = pd.read_csv(run.path / "tables" / "rates_site.csv")
    slices = pd.read_csv(run.path / "slices.csv", dtype={"seed": str})
    rows = table[(table["class"] == "Effusion") & (table["point"] == "sensitivity=0.9")]
    labels = dataset.test.labels.numpy()[:, 0]
    sites = dataset.test.groups.slices["site"]
    right = []
    for net in (Thirds(), Thirds(18.0, 0.45)):
        threshold = choose(dataset, TargetRate("sensitivity", 0.9), "Effusion", net)
        p = scipy.special.expit(net(dataset.test.images / 255).detach().numpy()[:, 0])
        right.append((p >= threshold) == (labels == 1))
    for rate, label in (("sensitivity", 1), ("specificity", 0)):
        own = rows[rows["rate"] == rate].set_index("slice")
        for site in "ABC":
            inside = (labels == label) & (sites == site)
            assert own.loc[f"site={site}", "n"] == inside.sum()
            assert own.loc[f"site={site}", "value"] == pytest.approx(
                np.mean([column[inside].mean() for column in right])
            )
            stored = slices[(slices["slice"] == f"site={site}") & (slices["seed"] == "mean")]
            stored = stored[stored["metric"] == f"{rate}@sensitivity=0.9"]
            stored = stored[(stored["unit"] == UNITS[0]) & (stored["shift"] == "clean")]
            assert stored["low"].item() == pytest.approx(own.loc[f"site={site}", "low"])
    # Patients have images of two sites, so no site can be tested against another.
    assert table["p_holm"].isna().all()


def test_models_are_compared_each_at_its_own_threshold(targeted, tmp_path):
    """Without groups, by McNemar's exact test on the images that a rate is about; Holm's p."""
    dataset, _ = targeted
    alone = replace(dataset, test=replace(dataset.test, groups=None))
    nets = {"a": Thirds(), "b": Thirds(7.0, 0.41)}
    points = ["Effusion=sensitivity=0.9", "Mass=0.5"]
    run = evaluated(alone, tmp_path / "run", nets, operating_points=points)
    comparison = read_run_comparison(f"{run.path}:a", f"{run.path}:b")
    table = comparison.points.frame
    assert set(table["unit"]) == {"finding=Effusion", "finding=Mass"}
    rates = [f"{rate}@sensitivity=0.9" for rate in ("sensitivity", "specificity")]
    rates += ["sensitivity@0.5", "specificity@0.5"]
    assert set(table["metric"]) == set(rates)
    assert len(table) == 4 * len(("clean", "0.7", "1.3"))
    labels = alone.test.labels.numpy()[:, 0]
    for rate, label in zip(rates[:2], (1, 0), strict=True):
        right = []
        for net in nets.values():
            threshold = choose(alone, TargetRate("sensitivity", 0.9), "Effusion", net)
            p = scipy.special.expit(net(alone.test.images / 255).detach().numpy()[:, 0])
            right.append(((p >= threshold) == label)[labels == label])
        row = table[(table["metric"] == rate) & (table["shift"] == "clean")].iloc[0]
        only_a, only_b = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
        assert (row["only_a_right"], row["only_b_right"]) == (only_a, only_b)
        assert row["difference"] == pytest.approx(right[1].mean() - right[0].mean())
        assert row["n"] == (labels == label).sum()
        p = scipy.stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert row["p"] == pytest.approx(p)
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"]).tolist())
    assert "Rates (%) at operating points" in str(comparison)
    assert f"{comparison.name}_points.csv" in " ".join(comparison.files())


@pytest.mark.usefixtures("no_figures", "no_page")
def test_points_without_a_name_are_those_of_all_findings_and_need_images_of_each(dataset, tmp_path):
    common = replace(dataset, val=replace(images_of(700, 3), classes=NAMES))
    with pytest.raises(InputError, match=r"sensitivity of Hernia .* at least 29 .* found 0$"):
        evaluated(common, tmp_path / "run", {"net": Thirds()}, operating_points=["sensitivity=0.9"])
    specific = evaluated(
        common, tmp_path / "other", {"net": Thirds()}, operating_points=["specificity=0.9"]
    )
    assert specific.record.settings.operating_points == dict.fromkeys(NAMES, "specificity=0.9")


def test_a_target_without_validation_images_is_refused(dataset, tmp_path):
    points = ["Effusion=sensitivity=0.9"]
    with pytest.raises(InputError, match=r"sensitivity=0.9 is chosen on validation images"):
        evaluated(
            replace(dataset, val=None), tmp_path / "run", {"net": Thirds()}, operating_points=points
        )
    few = replace(dataset, val=images_of(40, 1))
    with pytest.raises(InputError, match="needs at least 29 validation images that have it, found"):
        evaluated(few, tmp_path / "run", {"net": Thirds()}, operating_points=points)
    assert not (tmp_path / "run" / "record.json").exists()


def test_the_next_command_has_a_rule_that_can_be_judged(run, dataset, tmp_path):
    """Of few images, an AUC has no interval in scores.csv, and one for any number of images."""
    rule = "auc[clean] >= 0.8"
    assert find_example(run.folder) == rule
    few = replace(dataset, test=images_of(60, 4))
    small = evaluated(few, tmp_path / "run", {"net": Thirds()})
    assert find_example(small.folder) == rule
    assert [verdict.bounded for verdict in judge(small.folder, read_rules([rule]))] == [True]
    # Without predictions there is none, and the share of right decisions still has one.
    small.folder.forget(small.folder.predictions("net", 0, "clean").removesuffix(".parquet"))
    assert find_example(small.folder) == "decision_accuracy[clean] >= 80%"


def test_an_operating_point_of_an_unknown_finding_names_the_closest(dataset, tmp_path):
    with pytest.raises(InputError, match="did you mean 'Mass'"):
        evaluated(dataset, tmp_path / "run", {"net": Thirds()}, operating_points=["Mas=0.3"])


def test_images_with_findings_are_previewed(dataset, tmp_path):
    test = dataset.test
    np.savez(
        tmp_path / "data.npz",
        images=test.images.permute(0, 2, 3, 1).numpy(),
        labels=test.labels.numpy(),
        classes=np.array(NAMES),
    )
    command = ("preview", "npz:data.npz", "--shift", "gamma,exponent=2", "--images", "3")
    done = fairweather(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "preview.png").is_file()
