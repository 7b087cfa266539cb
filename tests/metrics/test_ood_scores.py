"""Scores of other data sets: equal to their definitions, stored while predicting, and judged."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fairweather as fw
from fairweather import metrics
from fairweather.errors import InputError
from fairweather.inference.prediction import (
    KnownFeatures,
    Predictor,
    compute_outputs,
    predict_batches,
)
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics.detection import (
    NEIGHBOURS,
    OOD_SCORES,
    OodInputs,
    compute_ood_scores,
    energy,
    knn_distance,
    max_logit,
    softmax_entropy,
)
from fairweather.runs.folder import RunFolder, shrink_predictions
from fairweather.shifts.table import CLEAN
from fairweather.steps.measurement import DataFacts, MeasuredModel, Measurement, plan_model
from fairweather.steps.plan import EnsembleNetwork, FeaturesStep, OpenedNetwork, PredictStep
from fairweather.steps.predictions import draw_sample, read_features
from fairweather.types.measurement import Images
from fairweather.types.record import predictions_file
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.variant import read_variants
from tests.helpers import reference
from tests.helpers.run_folders import outcomes

AUROC = "detection_auroc"
FPR = "false_positive_rate_at_recall/0.95"
FROM_LOGITS = {
    "max_logit": (max_logit, reference.max_logit),
    "energy": (energy, reference.energy),
    "entropy": (softmax_entropy, reference.softmax_entropy),
}
# The rounding of sums of some numbers of this size.
EXACT = {"rel": 1e-12, "abs": 1e-12}

numbers = st.floats(-30, 30)
rows_of_logits = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(numbers, min_size=classes, max_size=classes), min_size=1, max_size=8
    )
)


# ---- the functions


@given(logits=rows_of_logits)
@settings(max_examples=60, deadline=None)
def test_scores_of_logits_equal_their_definitions(logits):
    for found, slow in FROM_LOGITS.values():
        assert found(logits) == pytest.approx([slow(row) for row in logits], **EXACT)


@given(
    features=st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=6),
    known=st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=9),
    k=st.integers(1, 10),
)
@settings(max_examples=80, deadline=None)
def test_the_distance_to_neighbours_equals_its_definition(features, known, k):
    slow = [reference.knn_distance(row, known, k) for row in features]
    # The square of a distance is a difference of numbers of about 1, which rounds to some 1e-16.
    assert knn_distance(features, known, k) == pytest.approx(slow, abs=1e-7)


def test_many_images_are_compared_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    features, known = generator.normal(size=(50, 4)), generator.normal(size=(20, 4))
    whole = knn_distance(features, known)
    monkeypatch.setattr("fairweather.metrics.detection.DISTANCES_AT_ONCE", 60)
    assert knn_distance(features, known) == pytest.approx(whole, abs=1e-7)


def test_a_constant_changes_the_largest_logit_and_the_energy_but_not_the_entropy():
    logits = np.random.default_rng(0).normal(size=(20, 5))
    moved = logits + np.linspace(-100, 100, 20)[:, None]
    added = np.linspace(-100, 100, 20)
    assert max_logit(moved) == pytest.approx(max_logit(logits) + added, abs=1e-12)
    assert energy(moved) == pytest.approx(energy(logits) - added, abs=1e-12)
    assert softmax_entropy(moved) == pytest.approx(softmax_entropy(logits), abs=1e-12)
    # So of the logarithms of probabilities, the energy says nothing.
    normalised = np.log(metrics.softmax(logits))
    assert energy(normalised) == pytest.approx(np.zeros(20), abs=1e-12)


def test_the_order_of_classes_and_the_length_of_features_do_not_matter():
    generator = np.random.default_rng(1)
    logits, features, known = (generator.normal(size=(n, 6)) for n in (20, 20, 30))
    for found, _ in FROM_LOGITS.values():
        assert found(logits[:, ::-1]) == pytest.approx(found(logits), abs=1e-12)
    turned, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    expected = pytest.approx(knn_distance(features, known), abs=1e-7)
    assert knn_distance(3 * features @ turned, 0.01 * known @ turned) == expected
    assert knn_distance(features, known[::-1]) == expected


def test_scores_at_the_edges():
    one_class = [[3.0], [-2.0]]
    assert max_logit(one_class).tolist() == [3, -2]
    assert energy(one_class).tolist() == [-3, 2]
    assert softmax_entropy(one_class).tolist() == [0, 0]
    equal = np.zeros((2, 8))
    assert softmax_entropy(equal) == pytest.approx([math.log(8)] * 2)
    assert energy(equal) == pytest.approx([-math.log(8)] * 2)
    far = [[1e38, -1e38], [-1e38, -1e38]]
    assert max_logit(far).tolist() == [1e38, -1e38]
    assert softmax_entropy(far) == pytest.approx([0, math.log(2)])
    # All known images are farther than one, and a feature of length 0 is 1 away from all.
    assert knn_distance([[1.0, 0.0]], [[1e-300, 0.0]], k=9) == pytest.approx([0], abs=1e-7)
    assert knn_distance([[0.0, 0.0]], [[2.0, 0.0], [0.0, 1e200]], k=2).tolist() == [1]
    assert knn_distance([[1.0, 0.0]], [[-5.0, 0.0]]).tolist() == [2]


@pytest.mark.parametrize("found", [found for found, _ in FROM_LOGITS.values()])
def test_what_is_no_logits_is_refused(found):
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(InputError, match="logits must be finite, found 1 images"):
            found([[bad, 0.0], [1.0, 0.0]])
    for shape in ([1.0, 2.0], np.zeros((0, 3))):
        with pytest.raises(InputError, match=r"logits must be \[n, classes\] and not empty"):
            found(shape)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: knn_distance([[math.nan]], [[1.0]]), "features must be finite, found 1 images"),
        (lambda: knn_distance([[1.0]], [[math.inf]]), "known features must be finite"),
        (lambda: knn_distance([[1.0]], np.zeros((0, 1))), "known features must be .* not empty"),
        (lambda: knn_distance([[1.0]], [[1.0, 2.0]]), "features have 1 numbers, known ones 2"),
        (lambda: knn_distance([[1.0]], [[1.0]], k=0), "the first or a later one, found 0"),
    ],
)
def test_what_is_no_features_is_refused(call, complaint):
    with pytest.raises(InputError, match=complaint):
        call()


@given(logits=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=4))
@settings(max_examples=40, deadline=None)
def test_the_auroc_of_every_score_equals_scikit_learn(logits):
    rows = np.array(logits, dtype=float)
    half = len(rows) // 2
    truth = np.arange(len(rows)) < half
    found = compute_ood_scores(OodInputs(rows, rows, [*rows[:half], [0.5, 0.25, 1.0]]))
    assert list(found) == list(OOD_SCORES)
    for name, column in found.items():
        sure = OOD_SCORES[name].as_confidence(column)
        assert metrics.detection_auroc(sure[:half], sure[half:]) == pytest.approx(
            sklearn.metrics.roc_auc_score(truth, sure)
        )


def test_a_score_that_separates_completely_and_one_that_ties():
    known, others = [[9.0, 0.0]] * 30, [[1.0, 0.9]] * 20
    for name in FROM_LOGITS:
        sides = [OOD_SCORES[name].as_confidence(FROM_LOGITS[name][0](of)) for of in (known, others)]
        assert metrics.detection_auroc(*sides) == 1
        assert metrics.detection_score(*sides, resamples=20)[AUROC] == (1, 1, 1, 50)
        assert metrics.detection_auroc(sides[0], sides[0]) == 0.5


# ---- while predicting


class Net(nn.Module):
    """Features with a batch norm, and a linear last layer; `end` takes what that gives."""

    def __init__(self, classes=3, end=None):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.last = nn.Linear(8, classes)
        self.end = end or nn.Identity()

    def forward(self, images):
        return self.end(self.last(self.features(images).flatten(1)))


class WithoutLinear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, images):
        return self.conv(images).mean((2, 3))


def predicted(model, images, known, temperature=1.0, size=40):
    batches = [slice(at, at + size) for at in range(0, len(images), size)]
    (found,) = predict_batches(
        [Predictor(model, LogitDivisor(value=temperature), known=known)],
        images,
        batches=batches,
        device="cpu",
    )
    return found


def test_every_score_is_computed_while_predicting(toy_images):
    model = Net().eval()
    outputs = compute_outputs(model, toy_images, device="cpu")
    known = outputs.features[::3]
    found = predicted(model, toy_images, KnownFeatures(known), temperature=2.0)
    expected = compute_ood_scores(OodInputs(outputs.logits / 2, outputs.features, known))
    assert list(found.ood_scores) == list(OOD_SCORES)
    for name, column in found.ood_scores.items():
        assert column.dtype == np.float32
        assert column.shape == (96,)
        assert column == pytest.approx(expected[name], abs=1e-5)
    slow = [reference.knn_distance(each, known.tolist(), NEIGHBOURS) for each in outputs.features]
    assert found.ood_scores["knn"] == pytest.approx(slow, abs=1e-5)
    # Parts of the images have the same parts of the scores.
    part = found.take(np.array([5, 90]))
    assert part.ood_scores["knn"].tolist() == found.ood_scores["knn"][[5, 90]].tolist()


def test_scores_are_there_where_logits_are_not_stored(toy_images):
    names = tuple(map(str, range(101)))
    many = Images(toy_images.images, toy_images.labels, toy_images.keys, names)
    found = predicted(Net(101).eval(), many, KnownFeatures())
    assert found.logits is None
    assert list(found.ood_scores) == list(FROM_LOGITS)


def test_scores_are_not_computed_unless_asked_for(toy_images):
    assert predicted(Net(), toy_images, None).ood_scores == {}
    assert list(predicted(WithoutLinear(), toy_images, KnownFeatures(np.ones((2, 3))))
                .ood_scores) == list(FROM_LOGITS)  # fmt: skip


def test_the_same_network_read_twice_has_its_own_scores(toy_images):
    model = Net().eval()
    known = compute_outputs(model, toy_images, device="cpu").features[:9]
    readers = [
        Predictor(model, LogitDivisor(value=t), known=KnownFeatures(known)) for t in (1.0, 3.0)
    ]
    first, second = predict_batches(readers, toy_images, batches=[slice(0, 96)], device="cpu")
    assert second.ood_scores["knn"].tolist() == first.ood_scores["knn"].tolist()
    assert second.ood_scores["max_logit"] == pytest.approx(first.ood_scores["max_logit"] / 3)


# ---- files


def scored(**scores):
    return outcomes([True] * 4, ood_scores={n: np.float32(each) for n, each in scores.items()})


def test_scores_are_columns_of_the_files(tmp_path):
    run = RunFolder(tmp_path)
    asked = scored(energy=[1, 2, 3, 4], knn=[0.1, 0.2, 0.3, 0.4])
    run.write_predictions("known.parquet", asked)
    run.write_unlabelled("other.parquet", asked)
    for name in ("known.parquet", "other.parquet"):
        assert pq.read_schema(tmp_path / name).names[-2:] == ["ood/energy", "ood/knn"]
        assert run.ood_scores(name)["knn"].tolist() == asked.ood_scores["knn"].tolist()
    assert run.read_predictions("known.parquet").ood_scores["energy"].tolist() == [1, 2, 3, 4]
    small = shrink_predictions((tmp_path / "known.parquet").read_bytes())
    (tmp_path / "small.parquet").write_bytes(small)
    assert run.ood_scores("small.parquet")["knn"].tolist() == asked.ood_scores["knn"].tolist()


def test_files_without_scores_are_as_they_were(tmp_path):
    run = RunFolder(tmp_path)
    run.write_predictions("known.parquet", outcomes([True] * 4))
    run.write_unlabelled("other.parquet", outcomes([True] * 4))
    assert pq.read_schema(tmp_path / "other.parquet").names == ["keys", "predicted", "confidence"]
    assert not [n for n in pq.read_schema(tmp_path / "known.parquet").names if n.startswith("ood/")]
    assert run.ood_scores("known.parquet") == run.ood_scores("other.parquet") == {}
    assert run.read_predictions("known.parquet").ood_scores == {}


def test_scaling_keeps_what_is_of_features(tmp_path):
    logits = np.float32([[1, 0, 0, 0]] * 4)
    found = LogitDivisor(value=2).apply(replace(scored(knn=[1, 2, 3, 4]), logits=logits))
    assert found.ood_scores["knn"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"half a file", b"\x08" + bytes(7) + b"{}"])
def test_a_damaged_file_of_features_is_one_sentence(tmp_path, content):
    (tmp_path / "known.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a file of features"):
        read_features(RunFolder(tmp_path), "known.safetensors")


# ---- the plan


def planned(others=(), images=None, **model):
    """The steps that predict one model."""
    images = images or {"val": 10, "test": 20}
    digests = dict.fromkeys(images, "d")
    facts = DataFacts("data", ("a", "b"), images, digests, (8, 8))
    elsewhere = {name: DataFacts(name, ("x",), {"test": 5}, {"test": "o"}) for name in others}
    measurement = Measurement(
        data=facts,
        shifts=(CLEAN, fw.make_shift("brightness_factor", factor=0.5)),
        threads=1,
        device=torch.device("cpu"),
        others=elsewhere,
        variants=read_variants(["temperature", "batchnorm"]),
    )
    plain = {"name": "net", "title": "Net", "label": "net", "seed": 0}
    network = OpenedNetwork(digest="w")
    return list(plan_model(measurement, MeasuredModel(**(plain | {"network": network} | model))))


def test_a_run_without_other_data_sets_is_planned_as_before():
    steps = planned()
    assert not [step for step in steps if isinstance(step, FeaturesStep)]
    for step in steps:
        if isinstance(step, PredictStep):
            assert not step.ood_scores
            assert step.known is None
            assert "ood_scores" not in step.depends()
    (plain,) = [step for step in steps if step.id == "predictions/net/seed-0/test/clean"]
    assert set(plain.depends()) == {
        "version", "data", "way", "network", "shift", "seed", "batch_size", "precision", "device",
        "threads",
    }  # fmt: skip


def test_only_clean_test_images_and_other_data_sets_have_scores():
    steps = planned(["moon"])
    asked = {step.id for step in steps if isinstance(step, PredictStep) and step.ood_scores}
    part = {step.id.split("/")[3] for step in steps if isinstance(step, PredictStep)}
    (moon,) = part - {"val", "test"}
    models = ("net", "net+temperature", "net+batchnorm")
    places = ("test/clean", f"{moon}/clean")
    assert asked == {f"predictions/{m}/seed-0/{place}" for m in models for place in places}
    before = {step.id: step for step in planned()}
    for step in steps:
        if step.id in before and step.id not in asked:
            assert step == before[step.id]
        elif step.id in before:
            assert step.depends() != before[step.id].depends()
            assert step.depends()["ood_scores"] == [*OOD_SCORES, NEIGHBOURS]


def test_known_images_are_training_images_or_those_of_validation():
    def known(images):
        found = [step for step in planned(["moon"], images) if isinstance(step, FeaturesStep)]
        return [(step.id, step.images.part, step.images.digest) for step in found]

    every = {"train": 90, "val": 10, "test": 20}
    assert known(every) == [("features/net/seed-0", "train", "d")]
    assert known({"val": 10, "test": 20}) == [("features/net/seed-0", "val", "d")]
    (step,) = [step for step in planned(["moon"]) if isinstance(step, FeaturesStep)]
    assert FeaturesStep.model_validate_json(step.model_dump_json()) == step
    readers = [s.id for s in planned(["moon"]) if step.leaves[0] in s.reads]
    assert len(readers) == 3  # the model on both, and with its temperature on the other one


def test_an_ensemble_and_a_run_without_known_images_have_no_features():
    member = MeasuredModel(
        name="net", title="Net", label="net", seed=0, network=OpenedNetwork(digest="")
    )
    for model in ({"members": (member,), "network": EnsembleNetwork(members=())},):
        assert not any(isinstance(step, FeaturesStep) for step in planned(["moon"], **model))


def test_known_images_are_drawn_with_a_seed():
    assert draw_sample(10, 20, 0).tolist() == list(range(10))
    found = draw_sample(10_000, 100, 3)
    assert len(set(found.tolist())) == 100
    assert found.tolist() == sorted(found.tolist()) == draw_sample(10_000, 100, 3).tolist()
    assert found.tolist() != draw_sample(10_000, 100, 4).tolist()


# ---- a run


OTHER = "ood/other"


@pytest.fixture(scope="module")
def red(colour_folder):
    return f"images:{colour_folder / 'test' / 'red'}"


def evaluated(model, colour_folder, red, out, **options):
    dataset = fw.load_data(f"folder:{colour_folder}")
    return fw.evaluate(model, dataset, "clean", out=out, ood=[red], bootstrap=100, device="cpu",
                       **options)  # fmt: skip


@pytest.fixture(scope="module")
def run(undrawn, colour_folder, red, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return evaluated(Net(), colour_folder, red, out, variants=["temperature", "batchnorm"])


def rows_of(run, model="Net"):
    table = run.scores
    rows = table[(table["model"] == model) & table["shift"].str.startswith("ood/")]
    return dict(zip(rows["metric"], rows["value"], strict=True))


def test_another_data_set_can_be_asked_for_later(run, undrawn, colour_folder, red, tmp_path):
    options = {"bootstrap": 100, "device": "cpu", "variants": ["temperature", "batchnorm"]}
    dataset = fw.load_data(f"folder:{colour_folder}")
    before = fw.evaluate(Net(), dataset, "clean", out=tmp_path, **options).scores
    later = fw.evaluate(Net(), dataset, "clean", out=tmp_path, ood=[red], **options)
    pd.testing.assert_frame_equal(later.scores, run.scores)
    rest = later.scores[~later.scores["shift"].str.startswith("ood/")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, before)


def test_scores_csv_has_every_score_beside_confidence(run, red):
    named = [AUROC, FPR]
    with_scores = [*named, *(f"{metric}/{name}" for name in OOD_SCORES for metric in named)]
    assert list(rows_of(run)) == with_scores
    assert list(rows_of(run, "Net+temperature")) == with_scores
    assert list(rows_of(run, "Net+batchnorm")) == [n for n in with_scores if "knn" not in n]
    files = [predictions_file("Net", 0, "clean", part) for part in ("test", red)]
    known, others = (pd.read_parquet(run.path / file) for file in files)
    truth = np.repeat([1, 0], [len(known), len(others)])
    for name, kind in OOD_SCORES.items():
        sure = np.concatenate([kind.as_confidence(each[f"ood/{name}"]) for each in (known, others)])
        expected = sklearn.metrics.roc_auc_score(truth, sure)
        assert rows_of(run)[f"{AUROC}/{name}"] == pytest.approx(expected, abs=1e-7)
    table = run.scores
    rows = table[table["metric"].str.startswith((AUROC, FPR))]
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    assert (rows["n"] == len(truth)).all()


def test_the_features_are_those_of_validation_images(run, colour_folder, red):
    dataset = fw.load_data(f"folder:{colour_folder}")
    expected = compute_outputs(Net().eval(), dataset.val, device="cpu").features
    known = read_features(run.folder, "features/Net/seed-0.safetensors")
    assert known == pytest.approx(expected, abs=1e-6)
    test = compute_outputs(Net().eval(), dataset.test, device="cpu").features
    slow = [reference.knn_distance(each, expected.tolist(), NEIGHBOURS) for each in test]
    stored = pd.read_parquet(run.path / predictions_file("Net", 0, "clean"))
    assert stored["ood/knn"].to_numpy() == pytest.approx(slow, abs=1e-5)
    scaled = pd.read_parquet(run.path / predictions_file("Net+temperature", 0, "clean"))
    assert scaled["ood/knn"].equals(stored["ood/knn"])
    ratio = scaled["ood/max_logit"] / stored["ood/max_logit"]
    assert ratio.to_numpy() == pytest.approx(np.full(len(ratio), ratio[0]), rel=1e-4)
    assert abs(ratio[0] - 1) > 0.01


def test_it_says_why_a_model_has_no_score(run, colour_folder, red, tmp_path):
    absent = json.loads((run.path / "absent_metrics.json").read_text())
    for metric in (AUROC, FPR):
        assert "depend on the batch" in absent[f"{metric}/knn"]
        assert absent[f"{metric}/knn"].endswith("(Net+batchnorm)")
        assert f"{metric}/energy" not in absent
    plain = evaluated(WithoutLinear(), colour_folder, red, tmp_path / "conv")
    absent = json.loads((plain.path / "absent_metrics.json").read_text())
    assert "the last layer of the network is not linear" in absent[f"{AUROC}/knn"]
    assert f"{AUROC}/knn" not in rows_of(plain, "WithoutLinear")
    assert f"{AUROC}/entropy" in rows_of(plain, "WithoutLinear")


def test_probabilities_have_no_energy(undrawn, colour_folder, red, tmp_path):
    sure = evaluated(Net(end=nn.LogSoftmax(dim=1)), colour_folder, red, tmp_path)
    found = rows_of(sure)
    assert f"{AUROC}/energy" not in found
    assert f"{AUROC}/max_logit" not in found
    assert found[f"{AUROC}/entropy"] > 0
    absent = json.loads((tmp_path / "absent_metrics.json").read_text())
    assert absent[f"{AUROC}/energy"].startswith("the outputs are probabilities")


def test_nothing_is_done_again_in_a_finished_run(run, colour_folder, red):
    records = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.parquet")}
    options = {"variants": ["temperature", "batchnorm"]}
    evaluated(Net(), colour_folder, red, run.path, **options)
    assert {path: path.stat().st_mtime_ns for path in records} == records


def test_rules_judge_scores(run, red):
    def check(rule):
        return judge(run.folder, read_rules([rule]), on="value")

    energies = rows_of(run)[f"{AUROC}/energy"]
    (verdict,) = check(f"Net: {AUROC}/energy[ood/{red}] >= 0.9")
    assert verdict.value == pytest.approx(energies)
    assert verdict.low <= verdict.value <= verdict.high
    (rate,) = check(f"Net: {FPR}/knn[ood/{red}] <= 1")
    assert rate.value == rows_of(run)[f"{FPR}/knn"]
    with pytest.raises(InputError, match=f"did you mean '?{AUROC}/energy"):
        check(f"Net: {AUROC}/enery[ood/{red}] >= 0.9")
    with pytest.raises(InputError, match=r"Net\+batchnorm has no detection_auroc/knn: adapted"):
        check(f"Net+batchnorm: {AUROC}/knn[ood/{red}] >= 0.9")


def test_a_rule_on_a_score_that_no_model_has_says_why(undrawn, colour_folder, red, tmp_path):
    plain = evaluated(WithoutLinear(), colour_folder, red, tmp_path)
    with pytest.raises(InputError, match="WithoutLinear has no detection_auroc/knn: the last"):
        judge(plain.folder, read_rules([f"{AUROC}/knn[ood/{red}] >= 0.9"]))
