"""One class of a data set as a finding: the same probability from every kind of model."""

import re
import textwrap
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.models.wrappers import PositiveLogits
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder
from fairweather.steps.run_model import open_run_model
from fairweather.steps.worker import open_planned_model
from fairweather.types.positive import PositiveClasses, parse_positive
from fairweather.types.record import CLEAN, predictions_file
from tests.conftest import TINY_RESNET
from tests.helpers.commands import fairweather

CLASSES = ("0", "1", "2", "3")
OPTIONS = {"device": "cpu", "bootstrap": 100, "progress": False}
SHIFT = "brightness_factor: [0.6]"
MODELS = """
    import torch

    class Light(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(0.0005))

        def forward(self, images):
            middle = 255 * images.mean((1, 2, 3))[:, None]
            return -self.scale * (middle - torch.tensor([60.0, 90.0, 130.0, 170.0])) ** 2

    class Severe(Light):
        def forward(self, images):
            logits = super().forward(images)
            return logits[:, 2:].logsumexp(1) - logits[:, :2].logsumexp(1)

    def classes():
        return Light()

    def shares():
        return torch.nn.Sequential(Light(), torch.nn.Softmax(1))

    def flat():
        return Severe()

    def column():
        return torch.nn.Sequential(Severe(), torch.nn.Unflatten(0, (-1, 1)))

    def probability():
        return torch.nn.Sequential(Severe(), torch.nn.Sigmoid())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures of four grades, and models of them."""
    folder = tmp_path_factory.mktemp("grades")
    draw = np.random.default_rng(0)
    for grade, light in enumerate((60, 90, 130, 170)):
        (folder / "photos" / str(grade)).mkdir(parents=True)
        for number in range(24):
            noise = draw.normal(light + draw.normal(0, 18), 12, (8, 8, 3))
            pixels = noise.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"photos/{grade}/g{grade}-{number}.png")
    (folder / "models.py").write_text(textwrap.dedent(MODELS))
    return folder


def evaluated(place, name, out, **options):
    options = {**OPTIONS, "positive": ">=2", **options}
    return fw.evaluate(
        f"python:{place}/models.py:{name}", f"folder:{place}/photos", SHIFT, out=out, **options
    )


def stored(run, model):
    return RunFolder(run.path).read_cell(predictions_file(model, 0, CLEAN))


def value(run, metric, **where):
    rows = RunFolder(run.path).unit_scores
    for column, wanted in {"shift": "clean", **where, "metric": metric}.items():
        rows = rows[rows[column] == wanted]
    return rows["value"].item()


def test_the_probability_is_that_of_the_positive_classes_by_the_softmax(place, tmp_path):
    run = evaluated(place, "classes", tmp_path / "run")
    predictions = stored(run, "models-classes")
    data = fw.load_data(f"folder:{place}/photos", test_fraction=1.0, progress=False).test
    model = fw.load_model(f"python:{place}/models.py:classes")
    softmax = model(data.images.double().float() / 255).double().softmax(1)
    assert predictions.classes == (">=2",)
    probability = predictions.probability[:, 0]
    np.testing.assert_allclose(probability, softmax[:, 2:].sum(1).detach(), atol=1e-6)
    present = (data.labels >= 2).numpy()
    assert predictions.labels[:, 0].tolist() == present.astype(int).tolist()
    judges = {
        "auc": sklearn.metrics.roc_auc_score,
        "pr_auc": sklearn.metrics.average_precision_score,
        "brier": sklearn.metrics.brier_score_loss,
    }
    for name, reference in judges.items():
        assert value(run, name, unit="finding=>=2") == pytest.approx(
            reference(present, probability), abs=1e-7
        )


@pytest.mark.usefixtures("no_figures", "no_page")
@pytest.mark.parametrize("name", ["shares", "flat", "column", "probability"])
def test_one_output_and_a_softmax_of_the_same_model_give_the_same_numbers(name, place, tmp_path):
    wanted = stored(evaluated(place, "classes", tmp_path / "classes"), "models-classes")
    found = stored(evaluated(place, name, tmp_path / name), f"models-{name}")
    np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-6)
    assert np.array_equal(found.labels, wanted.labels)


@pytest.mark.usefixtures("no_figures", "no_page")
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_what_an_output_is_can_be_said(outputs, place, tmp_path):
    name = "column" if outputs == "logits" else "probability"
    found = stored(evaluated(place, name, tmp_path / "run", outputs=outputs), f"models-{name}")
    wanted = stored(evaluated(place, "classes", tmp_path / "classes"), "models-classes")
    np.testing.assert_allclose(found.probability, wanted.probability, atol=1e-6)


def test_several_findings_are_made_of_the_same_classes(place, tmp_path):
    run = evaluated(place, "classes", tmp_path / "run", positive=["1|2", ">=3"])
    predictions = stored(run, "models-classes")
    assert predictions.classes == ("1|2", ">=3")
    assert sorted(map(tuple, np.unique(predictions.labels, axis=0).tolist())) == [
        *((0, 0), (0, 1), (1, 0)),
    ]


def test_a_finished_run_opens_the_model_again(place, tmp_path):
    for name in ("classes", "column"):
        run = evaluated(place, name, tmp_path / name)
        images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        (network,) = open_run_model(str(run.path)).networks
        shares = fw.load_model(f"python:{place}/models.py:classes")(images).softmax(1)
        wanted = shares[:, 2:].sum(1)
        torch.testing.assert_close(network(images)[:, 0].sigmoid(), wanted, atol=1e-6, rtol=0)


def test_a_worker_opens_the_model_as_its_plan_says(place, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(
        "fairweather.requests.execution.executors.carry_out",
        lambda work, *_: plans.append(work.plan),
    )
    with suppress(InputError, OSError):
        evaluated(place, "classes", tmp_path / "run")
    (source,) = plans[0].models
    assert source.positive == ((2, 3),)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shares = fw.load_model(f"python:{place}/models.py:classes")(images).softmax(1)
    opened = open_planned_model(source)(images)[:, 0].sigmoid()
    torch.testing.assert_close(opened, shares[:, 2:].sum(1), atol=1e-6, rtol=0)


def test_images_of_another_place_are_labelled_by_the_same_classes(place, tmp_path):
    """They may have only some of the classes, so that a finding means the same there."""
    other = tmp_path / "other"
    for grade in ("1", "3"):
        (other / grade).mkdir(parents=True)
        for number in range(4):
            pixels = np.full((8, 8, 3), 40 * int(grade) + 5 * number, np.uint8)
            Image.fromarray(pixels).save(other / grade / f"{number}.png")
    run = evaluated(place, "classes", tmp_path / "run", natural={"b": f"folder:{other}"})
    assert value(run, "prevalence", shift="natural/b", unit="finding=>=2") == 0.5


def test_a_run_of_a_trained_model_keeps_its_positive_class(place, tmp_path):
    study = {
        "name": "grades",
        "title": "Grades",
        "data": {"source": f"folder:{place}/photos", "positive": [">=2"]},
        "shifts": [{"brightness_factor": [0.6]}],
        "models": {
            "basic": {
                "title": "Basic",
                "backbone": TINY_RESNET,
                "recipe": {"epochs": 1, "batch_size": 32},
            }
        },
        "bootstrap": 100,
    }
    checked = check_study(study)
    run = fw.run(checked, out=tmp_path / "study", device="cpu", progress=False)
    assert stored(run, "basic").classes == (">=2",)
    assert stored(run, "basic").logits.shape[1] == 1
    model = f"run:{tmp_path}/study/models/basic/seed-0"
    again = fw.evaluate(model, f"folder:{place}/photos", SHIFT, out=tmp_path / "again", **OPTIONS)
    (name,) = RunFolder(again.path).record.models
    assert np.array_equal(stored(again, name).labels, stored(run, "basic").labels)
    np.testing.assert_allclose(stored(again, name).logits, stored(run, "basic").logits, atol=1e-5)


# ---------------------------------------------------------------- predictions of other programs


def table(count=60, seed=0):
    draw = np.random.default_rng(seed)
    present = np.arange(count) % 3 == 0
    logit = draw.normal(size=count) + 1.5 * present - 1
    probability = 1 / (1 + np.exp(-logit))
    names = np.where(present, "malignant", "benign")
    return pd.DataFrame({"label": names, "score": probability}), present, probability


def score(frame, **options):
    options = {"positive": "malignant", **OPTIONS, **options}
    return fw.evaluate(predictions=frame, **options)


def test_one_column_of_scores_is_one_finding():
    frame, present, probability = table()
    run = score(frame)
    for name, reference in (
        ("auc", sklearn.metrics.roc_auc_score),
        ("pr_auc", sklearn.metrics.average_precision_score),
        ("brier", sklearn.metrics.brier_score_loss),
    ):
        wanted = reference(present, probability)
        assert value(run, name, unit="finding=malignant") == pytest.approx(wanted, abs=1e-6)


def forms():
    frame, present, p = table()
    names, numbers = frame["label"].to_numpy(), present.astype(int)
    logit, scores = np.log(p / (1 - p)), frame["score"].to_numpy()
    both = pd.DataFrame({"malignant": p, "benign": 1 - p})
    return {
        "logits": (frame.assign(score=logit), None),
        "labels 0 and 1": (frame.assign(label=numbers), None),
        "an array": (scores, numbers),
        "an array with one column": (scores[:, None], list(names)),
        "two columns": (both.assign(label=names), None),
        "percentages": (100 * both, list(names)),
        "columns in another order": (both[["benign", "malignant"]].assign(label=names), None),
        "logits of both": (np.log(both).assign(label=names), None),
        "a column called after the class": (frame.rename(columns={"score": "p_malignant"}), None),
        "another column besides": (
            frame.rename(columns={"score": "malignant"}).assign(age=50.0),
            None,
        ),
        "true or false": (scores, present),
    }


@pytest.mark.usefixtures("no_figures", "no_page")
@pytest.mark.parametrize("form", forms())
def test_all_forms_of_the_same_scores_give_the_same_numbers(form):
    predictions, labels = forms()[form]
    run = score(predictions, **({} if labels is None else {"labels": labels}))
    wanted = score(table()[0])
    for metric in ("auc", "brier", "sensitivity", "specificity"):
        found = value(run, metric, unit="finding=malignant")
        assert found == pytest.approx(value(wanted, metric, unit="finding=malignant"), abs=1e-6)


def test_files_and_a_data_set_are_read_alike(place, tmp_path):
    data = fw.load_data(f"folder:{place}/photos", test_fraction=1.0, progress=False).test
    light = data.images.double().mean((1, 2, 3)).numpy() / 255
    frame = pd.DataFrame({"file": data.names, "score": light})
    frame.to_csv(tmp_path / "scores.csv", index=False)
    np.savez(tmp_path / "scores.npz", scores=light, labels=data.labels.numpy())
    area = sklearn.metrics.roc_auc_score(data.labels >= 2, light)
    for file, images in (("scores.csv", f"folder:{place}/photos"), ("scores.npz", None)):
        run = fw.evaluate(f"predictions:{tmp_path / file}", images, positive=">=2", **OPTIONS)
        assert value(run, "auc", unit="finding=>=2") == pytest.approx(area, abs=1e-7)


def test_a_second_table_may_have_a_column_of_the_finding(tmp_path):
    frame, present, _ = table()
    keys = [f"{number}.png" for number in range(len(frame))]
    scores = frame[["score"]].assign(image=keys)
    truth = pd.DataFrame({"image": keys[::-1], "malignant": present[::-1].astype(int)})
    run = score(scores, labels=truth)
    wanted = value(score(frame), "auc", unit="finding=malignant")
    assert value(run, "auc", unit="finding=malignant") == wanted


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({}, {"positive": ()}, r"one column of outputs: name the class .* 'benign' or 'malignant'"),
        ({}, {"positive": "malignat"}, "unknown positive class 'malignat'; did you mean 'malig"),
        ({"rename": "p_benign"}, {}, "'p_benign', which is of 'benign', and positive is 'malig"),
        ({"scale": 100}, {}, "divide percentages by 100"),
        ({}, {"positive": ["malignant", "benign"]}, "positive names 2 findings"),
        ({}, {"positive": "benign|malignant"}, "is every class of the data"),
    ],
)
def test_what_is_unclear_is_refused(change, options, sentence):
    frame, _, _ = table()
    frame["score"] *= change.get("scale", 1)
    frame = frame.rename(columns={"score": change.get("rename", "score")})
    with pytest.raises(InputError, match=sentence):
        score(frame, **options)


def test_scores_of_any_kind_are_taken_when_they_are_said_to_be_logits():
    frame, present, probability = table()
    run = score(frame.assign(score=100 * probability), outputs="logits")
    (model,) = RunFolder(run.path).record.models.values()
    assert "used as logits: their order counts" in model.settings["read: note"]
    area = sklearn.metrics.roc_auc_score(present, probability)
    assert value(run, "auc", unit="finding=malignant") == pytest.approx(area)


# ---------------------------------------------------------------- which class is meant


class OneNumber(nn.Module):
    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] - 0.4


def test_a_model_with_one_output_needs_the_name_of_the_class(place):
    whole = fw.load_data(f"folder:{place}/photos", test_fraction=1.0, progress=False)
    test = whole.test[whole.test.labels < 2]
    two = fw.Images(test.images, test.labels, test.keys, ("benign", "malignant"))
    data = fw.Dataset("two", None, None, two, whole.mean, whole.std)
    with pytest.raises(InputError, match=r"with positive .*, 'benign' or 'malignant'"):
        fw.evaluate(OneNumber(), data, "clean", **OPTIONS)
    run = fw.evaluate(OneNumber(), data, "clean", positive="malignant", **OPTIONS)
    assert value(run, "auc", unit="finding=malignant") > 0.9
    marked = fw.load_data(f"folder:{place}/photos", positive="1", progress=False)
    with pytest.raises(InputError, match="has the findings '1' already"):
        fw.evaluate(OneNumber(), marked, "clean", positive="1", **OPTIONS)


def test_splits_are_those_of_the_classes(place):
    """So that a model of a run sees the same test images, whatever is positive."""
    source = f"folder:{place}/photos"
    plain, marked = (
        fw.load_data(source, progress=False, **more) for more in ({}, {"positive": ">=2"})
    )
    for part in ("train", "val", "test"):
        ours, theirs = getattr(plain, part), getattr(marked, part)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal((ours.labels >= 2).long()[:, None], theirs.labels)


def test_positive_logits_are_those_of_the_sums_of_probabilities():
    logits = 5 * torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    model = PositiveLogits(nn.Identity(), [(0,), (1, 4), (0, 2, 3)])
    shares = logits.double().softmax(1)
    wanted = torch.stack(
        [shares[:, [0]].sum(1), shares[:, [1, 4]].sum(1), shares[:, [0, 2, 3]].sum(1)], 1
    )
    torch.testing.assert_close(model(logits).double().sigmoid(), wanted, atol=1e-6, rtol=0)
    # Far from one half too, where a probability in float32 would be 0 or 1.
    far = model(torch.tensor([[90.0, 0, 0, 0, 0]]))
    torch.testing.assert_close(far[0, 0], torch.tensor(90 - np.log(4)).float())


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        ("2", {"2": ("2",)}),
        (">=2", {">=2": ("2", "3")}),
        ("3|1", {"3|1": ("1", "3")}),
        ([">=1", ">=3"], {">=1": ("1", "2", "3"), ">=3": ("3",)}),
    ],
)
def test_positive_classes_are_read(asked, members):
    assert parse_positive(asked, CLASSES) == PositiveClasses(CLASSES, members)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (">=0", "every class"),
        (">=4", "unknown positive class '4'"),
        ("1|x", "unknown positive class 'x'"),
        ("", "unknown positive class ''"),
        (["1", "1"], "twice"),
    ],
)
def test_positive_classes_that_are_none_are_refused(asked, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_positive(asked, CLASSES)


# ---------------------------------------------------------------- one finding in every command


def lines_of(**options):
    events = []
    frame, _, _ = table(**{name: options.pop(name) for name in ("count",) if name in options})
    score(options.pop("frame", frame), progress=events.append, **options)
    return [event.line for event in events if event.line]


def test_a_score_of_the_other_class_is_warned_of():
    (warning,) = [line for line in lines_of(positive="benign") if line.startswith("warning")]
    assert "not above chance (0.5): a high score probably means 'malignant'" in warning
    assert not [line for line in lines_of() if line.startswith("warning")]


def test_two_classes_are_told_of_positive():
    both = pd.DataFrame({"malignant": [0.9, 0.2, 0.6], "benign": [0.1, 0.8, 0.4]})
    both["label"] = ["malignant", "benign", "malignant"]
    (hint,) = [line for line in lines_of(frame=both, positive=()) if "--positive" in line]
    assert "'malignant' or 'benign'" in hint or "'benign' or 'malignant'" in hint
    assert not [line for line in lines_of(frame=both) if "--positive" in line]


@pytest.fixture(scope="module")
def sliced(place, tmp_path_factory):
    """A run of one finding with slices, validation images and a calibrated variant."""
    folder = tmp_path_factory.mktemp("sliced")
    names = sorted(path.relative_to(place / "photos") for path in place.glob("photos/*/*.png"))
    sites = ["north" if number % 3 else "south" for number in range(len(names))]
    pd.DataFrame({"file": map(str, names), "site": sites}).to_csv(folder / "sites.csv", index=False)
    return evaluated(
        place,
        "classes",
        folder / "run",
        metadata=folder / "sites.csv",
        slices=("site",),
        validation_fraction=0.4,
        variants=("temperature",),
    )


def test_one_finding_has_neither_means_nor_a_worst(sliced):
    folder = RunFolder(sliced.path)
    assert set(folder.unit_scores["unit"]) == {"finding=>=2"}
    assert set(folder.slice_scores["unit"]) == {"finding=>=2"}
    assert set(folder.slice_scores["slice"]) == {"site=north", "site=south", "worst site"}
    metrics = set(folder.unit_scores["metric"])
    assert {"auc", "sensitivity", "decision_accuracy", "area_under_risk_coverage"} <= metrics
    assert not metrics & {"exact_match", "hamming_loss"}
    # Of scores without a unit, which rules and tables read.
    assert len(folder.scores) == len(folder.unit_scores)


def test_rules_and_tables_need_not_name_the_only_finding(sliced):
    rules = [
        "auc[clean] >= 0.5",
        "sensitivity[brightness_factor] >= 0",
        "specificity[clean|finding=>=2] >= 0",
        "auc[clean|site=north] >= 0.5",
        "auc[clean|worst site] >= 0",
        "sensitivity[brightness_factor=0.6] drop <= 100%",
    ]
    verdicts = judge(RunFolder(sliced.path), read_rules(rules), on="value")
    assert len(verdicts) == 2 * len(rules)  # of the model and of its variant
    assert all(verdict.passed for verdict in verdicts)
    assert verdicts[0].value == value(sliced, "auc", model="models-classes")
    head = sliced.overview().splitlines()[0]
    assert head.split()[:5] == ["model", "images", "AUC", "sensitivity", "(%)"]


def test_a_guard_knows_which_classes_have_the_finding(sliced, place, tmp_path):
    model = f"{sliced.path}:models-classes"
    made = fairweather("guard", model, tmp_path / "guard", "--risk", "40%", "--quiet")
    assert made.returncode == 0, made.stderr
    out, photos = tmp_path / "answers.csv", f"folder:{place}/photos"
    ended = fairweather("predict", tmp_path / "guard", photos, "--out", out, "--quiet")
    assert f"of {photos}, with one finding each" in ended.stdout
    assert re.search(r"labels +>=2: by the labels \d+ answers? (is|are) wrong", ended.stdout)
    answers = pd.read_csv(out)
    assert {"present", "absent"} >= set(answers[">=2"]) - {"review"}


def test_a_comparison_speaks_of_the_only_finding(sliced, place, tmp_path):
    other = evaluated(place, "column", tmp_path / "other", validation_fraction=0.4)
    ended = fairweather("compare", f"{sliced.path}:models-classes", other.path)
    assert "  AUC  " in ended.stdout
    assert "finding=" not in ended.stdout


def test_a_class_that_is_typed_in_two_ways_is_not_silently_negative():
    classes = ["Malignant", "benign", "malignant"]
    with pytest.raises(InputError, match=r"'Malignant' differ only .* 'malignant\|Malignant'"):
        parse_positive("malignant", classes)
    both = parse_positive("malignant|Malignant", classes)
    assert both.mark(np.array([0, 1, 2]))[:, 0].tolist() == [1, 0, 1]
