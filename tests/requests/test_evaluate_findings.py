"""`fairweather evaluate` on images with several findings, from each source of models."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from sklearn.metrics import roc_auc_score

import fairweather as fw
from fairweather.attacks.shift_lists import expand_with_clean
from fairweather.attacks.table import make_attack, select_labels
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.progress import silent
from fairweather.requests.evaluation.models import ModelRequest
from fairweather.requests.evaluation.run import plan_evaluation
from fairweather.requests.evaluation_options import check_options
from fairweather.runs.folder import RunFolder
from fairweather.share.tracker_rows import read_tracked_run
from fairweather.shifts.table import make_shift
from fairweather.steps.dispatch import perform
from fairweather.steps.plan import Plan
from fairweather.steps.worker import Worker, match_labels_by_name
from fairweather.types.measurement import UNKNOWN, Groups
from fairweather.types.record import predictions_file
from fairweather.workers.schedule import list_written
from tests.conftest import keep_lines
from tests.helpers.finding_models import (
    NAMES,
    Stripes,
    draw_dataset,
    draw_findings,
    write_onnx,
    write_python,
)
from tests.helpers.same_bytes import same
from tests.tasks.test_toy_task import as_study

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS = {"bootstrap": 100, "device": "cpu"}
SHIFTS = ("brightness_factor: [0.7]",)


@pytest.fixture(scope="module")
def data():
    return draw_dataset()


def evaluated(model, data, shifts=SHIFTS, out=None, **options):
    """A run, and the lines that it printed by their first word."""
    said = []
    asked = {**OPTIONS, "progress": keep_lines(said), **options}
    run = fw.evaluate(model, data, list(shifts), out=out, **asked)
    lines = {}
    for line in said:
        word, _, text = line.partition(" ")
        lines.setdefault(word, []).append(text.strip())
    return run, lines


def scores_of(run):
    return pd.read_csv(run.path / "scores.csv")


def clean_logits(run, model=None, seed=0):
    folder = run.folder
    name = model or next(iter(folder.record.models))
    return folder.read_cell(predictions_file(name, seed, "clean")).logits


def expected_logits(data):
    with torch.no_grad():
        return Stripes()(data.test.images / 255).numpy()


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    return evaluated(Stripes(), data, out=tmp_path_factory.mktemp("plain") / "run")


# ---------------------------------------------------------------- sources and outputs


def test_a_module_is_measured_and_says_what_its_outputs_were_taken_for(expected, data):
    run, lines = expected
    np.testing.assert_allclose(clean_logits(run), expected_logits(data), rtol=1e-5, atol=1e-5)
    written = pd.read_csv(run.path / "scores.csv")
    assert len(run.unit_scores) == len(written) > len(run.scores)
    assert {f"finding={name}" for name in NAMES} <= set(run.unit_scores["unit"])
    assert lines["outputs"] == ["logits (not all are in [0, 1] for 1 image)"]
    assert lines["data"] == ["stripes: n = 160, 12 x 12 pixels, 3 findings"]
    (labels,) = lines["labels"]
    assert labels.startswith("in order: the model names no findings, so output 0 is taken to be")
    scores = scores_of(run)
    clean = scores[(scores["shift"] == "clean") & (scores["metric"] == "auc")]
    for place, name in enumerate(NAMES):
        labels = data.test.labels[:, place].numpy()
        known = labels != UNKNOWN
        auc = roc_auc_score(labels[known], expected_logits(data)[known, place])
        own = clean[clean["unit"] == f"finding={name}"]["value"].item()
        assert own == pytest.approx(auc, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "outputs", "said"),
    [
        ("logits", "auto", "logits (not all are in [0, 1] for 1 image)"),
        ("logits", "logits", "logits (given)"),
        (
            "logits.sigmoid()",
            "auto",
            "probabilities of findings (all are in [0, 1] for 64 images): the logit of each is "
            "taken",
        ),
        (
            "logits.sigmoid()",
            "probabilities",
            "probabilities of findings (given): the logit of each is taken",
        ),
    ],
)
def test_a_python_file_gives_the_same_numbers_whatever_its_outputs(
    answer, outputs, said, expected, data, tmp_path
):
    run, lines = evaluated(write_python(tmp_path, answer), data, outputs=outputs)
    assert lines["outputs"] == [said]
    assert lines["labels"] == ["the model's 3 findings, matched by name"]
    np.testing.assert_allclose(clean_logits(run), expected_logits(data), rtol=1e-3, atol=1e-3)
    columns = ["unit", "metric", "shift", "level", "value", "low", "high"]
    pd.testing.assert_frame_equal(
        scores_of(run)[columns], scores_of(expected[0])[columns], rtol=1e-3
    )


def test_an_onnx_graph_that_ends_in_a_sigmoid_gives_the_same_numbers(data, tmp_path):
    pytest.importorskip("onnxruntime")
    run, lines = evaluated(f"onnx:{write_onnx(tmp_path / 'net.onnx', 'Sigmoid')}", data)
    assert lines["outputs"] == [
        "probabilities of findings (it ends in Sigmoid): the logit of each is taken"
    ]
    np.testing.assert_allclose(clean_logits(run), expected_logits(data), rtol=1e-3, atol=1e-3)


def test_a_checkpoint_with_more_outputs_is_measured_by_a_class_map(data, tmp_path):
    network = timm.create_model("test_resnet", num_classes=18).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "net.safetensors")
    options = {"architecture": "timm:test_resnet", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    file, given = str(tmp_path / "net.safetensors"), {"Effusion": 7, "Mass": 2, "Nodule": 17}
    run, lines = evaluated(file, data, class_map=given, **options)
    with torch.no_grad():
        model = fw.load_model(file, **options)
        logits = model(data.test.images / 255)[:, [7, 2, 17]].numpy()
    np.testing.assert_allclose(clean_logits(run), logits, rtol=1e-3, atol=1e-4)
    assert lines["labels"] == ["3 findings on 3 of the model's 18 outputs, as given"]
    assert lines["outputs"] == ["logits (the network's own)"]


def test_names_are_matched_without_case_and_order(data, tmp_path):
    swapped = write_python(tmp_path, "logits[:, [2, 0, 1]]", ("NODULE", "effusion", "Mass"))
    run, _ = evaluated(swapped, data)
    np.testing.assert_allclose(clean_logits(run), expected_logits(data), rtol=1e-5, atol=1e-5)
    module = Stripes()
    module.classes = list(NAMES)
    assert evaluated(module, data)[1]["labels"] == ["the model's 3 findings, matched by name"]


@pytest.mark.parametrize("answer", ["logits[:, :1]", "logits[:, :1].sigmoid()"])
def test_one_finding_is_enough(answer, tmp_path):
    data = draw_dataset(("Effusion",))
    run, lines = evaluated(write_python(tmp_path, answer, ("Effusion",)), data)
    assert clean_logits(run).shape == (160, 1)
    assert lines["data"] == ["stripes: n = 160, 12 x 12 pixels, 1 finding"]
    assert lines["labels"] == ["the model's 1 finding, matched by name"]
    known = int((data.test.labels >= 0).sum())
    assert re.fullmatch(rf"AUC 0\..* of Effusion, n = {known}", lines["clean"][0])
    assert set(scores_of(run)["unit"]) == {"finding=Effusion"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("logits.softmax(1)", "that sum to one for 64 images, as probabilities of classes do"),
        ("logits[:, :2]", "names 3 findings but has 2 outputs"),
        ("logits[:, 0]", "the model names 3 findings but has 1 outputs"),
        ("logits * float('nan')", "not finite"),
    ],
)
def test_outputs_that_are_none_of_findings_are_refused(answer, message, data, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        evaluated(write_python(tmp_path, answer), data, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_given_probabilities_that_are_logits_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"must be in \[0, 1\], found -.*to logits"):
        evaluated(write_python(tmp_path), data, outputs="probabilities")


# ---------------------------------------------------------------- what is said


def test_the_clean_line_has_the_interval_of_the_scores():
    run, lines = evaluated(Stripes(), draw_dataset(count=500), shifts=())
    scores = scores_of(run).query("shift == 'clean' and metric == 'auc'").set_index("unit")
    mean, (line,) = scores.loc["mean finding"], lines["clean"]
    assert line.startswith(
        f"mean AUC {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] of 3 findings, n = "
    )
    lowest = scores.loc[[f"finding={name}" for name in NAMES], "value"]
    assert line.endswith(f"; the lowest is {lowest.min():.3f}, of {lowest.idxmin()[8:]}")
    assert "warning" not in lines


@pytest.mark.parametrize(
    ("answer", "outputs", "message"),
    [
        ("logits.sigmoid()", "logits", "between 0.50 and 0.73, as if a sigmoid was taken twice"),
        ("logits.sigmoid().sigmoid()", "auto", "as if a sigmoid was taken twice"),
        (
            "torch.cat([logits[:, :2], 0 * logits[:, :1] + 3], 1)",
            "auto",
            "the probability of Nodule is the same for every image",
        ),
        (
            "logits * torch.tensor([1.0, -1.0, 1.0])",
            "auto",
            "the AUC of Mass is below 0.5: outputs or labels are probably exchanged",
        ),
        ("-logits", "auto", "that is not above chance (0.5): the preprocessing or the label"),
    ],
)
def test_what_is_probably_a_mistake_is_warned_of(answer, outputs, message, data, tmp_path):
    _, lines = evaluated(write_python(tmp_path, answer), data, shifts=(), outputs=outputs)
    assert any(message in line for line in lines["warning"]), lines


def test_several_models_are_named_and_groups_are_counted(data):
    patients = np.array([f"p{number // 2}" for number in range(160)], dtype=object)
    test = replace(data.test, groups=Groups("patient", patients))
    models = {"one": Stripes(), "two": Stripes(5.0)}
    _, lines = evaluated(models, replace(data, test=test), shifts=())
    assert [line.split(":")[0] for line in lines["clean"]] == ["one", "two"]
    assert all("in 80 groups; images count equally" in line for line in lines["clean"])


# ---------------------------------------------------------------- the whole run


def test_seeds_have_an_ensemble_of_mean_probabilities_in_what_is_joined(data, tmp_path):
    models = {"net-seed0": Stripes(), "net-seed1": Stripes(8.0, 0.45)}
    run, _ = evaluated(models, data, out=tmp_path / "run")
    auc = scores_of(run).query("metric == 'auc' and shift == 'clean'")
    mean = auc[auc["unit"] == "mean finding"].set_index("seed")["value"]
    assert mean["mean"] == pytest.approx((mean["0"] + mean["1"]) / 2)


def test_validation_images_are_predicted(expected, data):
    folder = expected[0].folder
    val = folder.read_cell(predictions_file("Stripes", 0, "clean", "val"))
    np.testing.assert_array_equal(val.labels, data.val.labels.numpy())


def test_rules_are_checked(expected):
    one, two = judge(
        expected[0].folder,
        read_rules(["auc[clean|finding=Mass] >= 0.6", "auc[clean|worst finding] >= 0.999"]),
        on="value",
    )
    assert one.passed
    assert not two.passed


def test_other_images_may_have_only_some_of_the_findings(data):
    other = draw_findings(20, 9, ("Effusion", "Mass"))
    names = ("Mass", "effusion")
    swapped = replace(other, labels=other.labels[:, [1, 0]], classes=names)
    matched = match_labels_by_name(swapped, NAMES, "elsewhere")
    assert matched.classes == NAMES
    assert torch.equal(matched.labels[:, :2], other.labels)
    assert (matched.labels[:, 2] == UNKNOWN).all()
    with pytest.raises(InputError, match="not each one of the run's by name"):
        match_labels_by_name(replace(swapped, classes=("Mass", "Hernia")), NAMES, "elsewhere")


def test_runs_of_two_seeds_are_packed_and_joined_with_their_findings(data, tmp_path):
    models = {"net-seed0": Stripes(), "net-seed1": Stripes(8.0, 0.45)}
    both, _ = evaluated(models, data)
    parts = []
    for name, model in models.items():
        run, _ = evaluated({name: model}, data, out=tmp_path / name)
        parts.append(fw.pack_run(as_study(run), tmp_path / f"small-{name}"))
    joined = fw.join_seeds(parts, out=tmp_path / "joined")
    pd.testing.assert_frame_equal(scores_of(joined), scores_of(both))


def test_a_tracker_gets_each_finding_by_its_name(expected):
    run, _ = expected
    (row,) = read_tracked_run(run.folder).parts
    values = {value.key: value.value for value in row.metrics}
    assert len(values) == len(row.metrics)
    clean = scores_of(run).query("shift == 'clean' and metric == 'auc'").set_index("unit")["value"]
    assert values["auc/clean/finding_Mass"] == clean["finding=Mass"]
    assert values["auc/clean/mean_finding"] == clean["mean finding"]
    assert "auc/brightness_factor/0.7/mean_finding" in values
    assert "auc/brightness_factor/0.7/finding_Mass" not in values


def test_shifted_copies_are_exported_with_their_labels(data, tmp_path):
    blur = make_shift("gaussian_blur", sigma=0.8)
    with pytest.raises(InputError, match="several findings: choose the format npz"):
        fw.export(data, [blur], tmp_path / "png")
    assert not (tmp_path / "png").exists()
    fw.export(data, [blur], tmp_path / "npz", format="npz")
    (file,) = (tmp_path / "npz").glob("*.npz")
    written = np.load(file)
    np.testing.assert_array_equal(written["labels"], data.test.labels.numpy())
    assert written["classes"].tolist() == list(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priors": {"rare": {"Mas": 0.1}}}, "finding in the priors 'rare' 'Mas'.*'Mass'"),
        ({"priors": {"rare": {"Mass": 1.1}}}, "the prevalence of 'Mass' .*between 0 and 1.*1.1"),
        ({"costs": ("missed Mas: 2",)}, "finding of a cost 'Mas'.*'Mass'"),
        ({"ordered_classes": True}, "ordered_classes is for classification, .*: leave it out"),
        ({"ood": ("folder:.",)}, "ood is for classification, .*natural"),
        ({"shifts": ("autoattack: [0.1]",)}, "autoattack attacks the one class .*use fgsm, pgd or"),
        ({"shifts": ("square: [0.1]",)}, "square attacks the one class"),
        ({"shifts": ("pgd: {epsilon: 0.1, finding: Mas}",)}, "finding of pgd 'Mas'.*'Mass'"),
    ],
)
def test_what_has_no_meaning_is_one_sentence(options, message, data, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        evaluated(Stripes(), data, out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_attack_is_measured_as_it_changes_the_images(data):
    shifts = ("pgd: {epsilon: 0.02, steps: 4, finding: Mass}", "fgsm: [0.02]")
    run, _ = evaluated(Stripes(), data, shifts)
    for text in ("pgd,epsilon=0.02,steps=4,finding=Mass", "fgsm,epsilon=0.02"):
        stored = run.folder.read_cell(predictions_file("Stripes", 0, text))
        name, *rest = text.split(",")
        options = dict(pair.split("=") for pair in rest)
        attack = make_attack(name, **{k: v if k == "finding" else float(v) if "." in v else int(v)
                                      for k, v in options.items()})  # fmt: skip
        labels = select_labels(attack, data.test)
        moved = attack(Stripes(), data.test.images / 255, labels, data.test.keys)
        with torch.no_grad():
            np.testing.assert_allclose(stored.logits, Stripes()(moved).numpy(), atol=1e-3)
        np.testing.assert_array_equal(stored.labels, data.test.labels.numpy())
    accuracy = scores_of(run).query("metric == 'decision_accuracy'").set_index(["shift", "unit"])
    values = accuracy[accuracy["level"].isin(["none", "0.02"])]["value"]
    for name in NAMES:
        unit = f"finding={name}"
        assert values["fgsm", unit] < values["clean", unit]
        if name == "Mass":
            assert values["pgd", unit] < values["clean", unit]


STOCHASTIC, DETERMINISTIC = "imagenet_c/gaussian_noise: [2]", "gaussian_blur: [0.8]"


def test_shifts_change_the_images_alone_and_by_their_keys(data):
    run, _ = evaluated(Stripes(), data, (STOCHASTIC, DETERMINISTIC), shift_seed=5)
    for text in ("imagenet_c/gaussian_noise,severity=2", "gaussian_blur,sigma=0.8"):
        (shift,) = [item for item in expand_with_clean(text) if item.level is not None]
        stored = run.folder.read_cell(predictions_file("Stripes", 0, text))
        shifted = shift(data.test.images, data.test.keys, 5)
        with torch.no_grad():
            logits = Stripes()(shifted / 255).numpy()
        np.testing.assert_allclose(stored.logits, logits, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(stored.labels, data.test.labels.numpy())


def test_processes_that_shift_images_change_no_byte(data, tmp_path):
    shifts = (STOCHASTIC, DETERMINISTIC)
    options = {"batch_size": 32, "threads": 1}
    alone, _ = evaluated(Stripes(), data, shifts, out=tmp_path / "one", **options)
    helped, _ = evaluated(
        Stripes(), data, shifts, out=tmp_path / "two", shift_processes=2, **options
    )
    same(alone.path, helped.path)


def test_an_interrupted_run_goes_on_to_the_same_bytes(data, tmp_path):
    shifts, seen = (STOCHASTIC, DETERMINISTIC, "fgsm: [0.02]"), []

    def die(event):
        if event.step and event.step not in seen:
            seen.append(event.step)
            if len(seen) == 3:
                raise KeyboardInterrupt

    whole, _ = evaluated(Stripes(), data, shifts, out=tmp_path / "whole", threads=1)
    with pytest.raises(KeyboardInterrupt):
        evaluated(Stripes(), data, shifts, out=tmp_path / "cut", threads=1, progress=die)
    assert not (tmp_path / "cut/scores.csv").exists()
    stored = list((tmp_path / "cut").glob("predictions/**/*.parquet"))
    assert stored
    times = {path: path.stat().st_mtime_ns for path in stored}
    again, _ = evaluated(Stripes(), data, shifts, out=tmp_path / "cut", threads=1)
    same(whole.path, again.path)
    assert {path: path.stat().st_mtime_ns for path in stored} == times


@pytest.mark.parametrize("answer", ["logits", "logits.sigmoid()"])
def test_every_step_can_be_done_by_who_has_the_plan_and_the_images(answer, data, tmp_path):
    model = write_python(tmp_path, answer)
    shifts = [DETERMINISTIC, "fgsm: [0.02]"]
    folder = evaluated(model, data, shifts, out=tmp_path / "run", threads=1)[0].folder
    options = check_options({**OPTIONS, "threads": 1})
    request = ModelRequest((model,), data, expand_with_clean(shifts), options)
    planned = plan_evaluation(request, folder.path)
    assert set(planned.table["state"]) == {"done"}
    plan = Plan.model_validate_json(planned.plan.model_dump_json())
    worker = Worker(plan, device="cpu", datasets={"data": data})
    other = RunFolder(tmp_path / "other")
    other.write("record.json", (folder.path / "record.json").read_bytes())
    for step in plan.steps:
        done = perform(step, worker, other, silent)
        left = {name: other.checksum(name) for name in list_written(step, done, other)}
        assert left == folder.step(step.id).files, step.id
