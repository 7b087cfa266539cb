"""A model gets the same numbers whether it gives logits or probabilities."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fairweather as fw
from fairweather.errors import InputError
from fairweather.models.outputs import ConvertedOutputs, detect_kind, log_probabilities
from fairweather.runs.folder import RunFolder
from tests.conftest import COLOURS, keep_lines
from tests.helpers.opened_models import open_model

pytestmark = pytest.mark.usefixtures("undrawn")

NAMES = sorted(COLOURS)
OPTIONS = {"bootstrap": 100, "device": "cpu"}
MODEL = """
import torch

class ByColour(torch.nn.Module):
    classes = {classes}

    def __init__(self):
        super().__init__()
        self.register_buffer("colours", torch.tensor({colours}, dtype=torch.float32) / 255)

    def forward(self, images):
        logits = {scale} * images.mean((2, 3)) @ self.colours.T
        return {answer}

def make():
    return ByColour()
"""
ANSWERS = {
    "logits": "logits",
    "log_probabilities": "logits.log_softmax(1)",
    "probabilities": "logits.softmax(1)",
    "sigmoids": "(logits - 4).sigmoid()",
}


def write(folder, answer, classes=NAMES, scale=20.0):
    colours = [COLOURS.get(name, (10, 10, 10)) for name in classes]
    text = MODEL.format(
        classes=list(classes), colours=colours, scale=scale, answer=ANSWERS.get(answer, answer)
    )
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(text)
    return f"python:{folder / 'model.py'}:make"


def evaluated(model, data, shifts="brightness_factor: [0.5]", **options):
    said = []
    run = fw.evaluate(model, data, shifts, progress=keep_lines(said), **OPTIONS, **options)
    return run.scores, [line for line in said if line.startswith("outputs")]


def same(one, other, atol=1e-5):
    pd.testing.assert_frame_equal(one, other, atol=atol, rtol=1e-5)


@pytest.fixture(scope="module")
def data(colour_folder):
    return fw.load_data(f"folder:{colour_folder}")


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    table, lines = evaluated(write(tmp_path_factory.mktemp("plain"), "logits"), data)
    assert lines == []
    return table


def value(table, metric):
    rows = table[(table["metric"] == metric) & (table["shift"] == "clean")]
    return rows["value"].item()


# ---------------------------------------------------------------------------------- what they are


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 1000),
    st.floats(0.01, 30),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_probabilities_are_known_in_every_precision(seed, classes, scale, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(8, classes, generator=generator, dtype=torch.float64)
    assert detect_kind(logits.softmax(1).to(dtype)) == "probabilities"
    assert detect_kind(logits.log_softmax(1).to(dtype)) == "logits"
    assert detect_kind((logits - logits.min() + 1.5).to(dtype)) == "logits"


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], "probabilities"),
        ([[0.0, 0.0], [0.0, 0.0]], "logits"),  # a head that starts from zero
        ([[0.9, 0.9], [0.2, 0.1]], "sigmoids"),
        ([[0.5, 0.5], [0.2, 0.1]], "sigmoids"),
        ([[0.0, 1.0], [0.0, 0.0]], "sigmoids"),
        ([[0.5, 0.5], [-0.2, 1.2]], "logits"),
        ([[0.5, 0.5], [0.2, 3.0]], "logits"),
        ([[-0.5, -0.5]], "logits"),
        ([[float("nan"), 0.5]], "logits"),
    ],
)
def test_what_rows_of_numbers_look_like(rows, kind):
    assert detect_kind(torch.tensor(rows)) == kind


# ---------------------------------------------------------------------------------- the logarithm


def test_gradients_are_those_of_the_logits():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    model = ConvertedOutputs(nn.Sequential(network, nn.Softmax(1)), log_probabilities)
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    gradients = []
    for each in (network, model):
        inputs = images.clone().requires_grad_()
        F.cross_entropy(each(inputs) * 3, labels).backward()
        gradients.append(inputs.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


def test_a_probability_of_zero_is_the_smallest_normal_number_and_pulls_nothing():
    probabilities = torch.tensor([[0.0, 1e-42, 0.25, 0.75]], requires_grad=True)
    logits = log_probabilities(probabilities)
    smallest = float(np.log(np.finfo(np.float32).tiny))
    assert logits.tolist()[0] == pytest.approx([smallest, smallest, np.log(0.25), np.log(0.75)])
    logits.sum().backward()
    assert probabilities.grad.tolist()[0] == pytest.approx([0, 0, 4, 4 / 3])


def test_half_precision_becomes_float32_and_negative_numbers_are_told():
    assert (
        log_probabilities(torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16)).dtype == torch.float32
    )
    with pytest.raises(InputError, match=r"-0\.5.* outputs \(--outputs\) to logits"):
        log_probabilities(torch.tensor([[1.5, -0.5]]))


# ---------------------------------------------------------------------------------- evaluations


@pytest.mark.parametrize("answer", ["probabilities", "log_probabilities", "probabilities.half"])
def test_the_same_model_gets_the_same_numbers(answer, data, expected, tmp_path):
    words = ANSWERS.get(answer, "logits.softmax(1).half()")
    table, lines = evaluated(write(tmp_path, words), data, out=tmp_path / "run")
    same(table, expected, atol=2e-3 if "half" in answer else 1e-5)
    (described,) = RunFolder(tmp_path / "run").record.models.values()
    facts = described.facts["outputs_as"]
    if answer == "log_probabilities":
        assert lines == []
        assert facts["kind"] == "logits"
    else:
        says = "for 60 test images they are >= 0 and sum to one"
        assert lines == [f"outputs        probabilities ({says}): their logarithm is taken"]
        assert facts == {"kind": "probabilities", "from": says}


def test_a_module_in_memory_is_looked_at_too(data, expected, tmp_path):
    module = nn.Sequential(fw.load_model(write(tmp_path, "logits")), nn.Softmax(1))
    table, lines = evaluated(module.train(), data)
    assert module.training
    same(table.drop(columns="model"), expected.drop(columns="model"))
    assert "their logarithm is taken" in lines[0]


def test_an_attack_on_probabilities_finds_what_it_finds_on_logits(data, tmp_path):
    tables = [
        evaluated(write(tmp_path / answer, answer, scale=8.0), data, "fgsm,epsilon=0.2")[0]
        for answer in ("logits", "probabilities")
    ]
    same(*tables)
    rows = tables[0][(tables[0]["metric"] == "accuracy") & (tables[0]["level"] == "0.2")]
    assert 0 < rows["value"].item() < value(tables[0], "accuracy")


def test_what_is_said_wins_over_what_is_seen(data, expected, tmp_path):
    model = write(tmp_path, "probabilities")
    table, lines = evaluated(model, data, outputs="probabilities")
    same(table, expected)
    assert lines == ["outputs        probabilities (given): their logarithm is taken"]
    table, lines = evaluated(model, data, outputs="logits")
    assert lines == ["outputs        logits (given)"]
    assert value(table, "accuracy") == value(expected, "accuracy")
    assert (
        value(table, "expected_calibration_error")
        > value(expected, "expected_calibration_error") + 0.1
    )  # a softmax of a softmax
    module = fw.load_model(model)
    same(
        evaluated(module, data, outputs="logits")[0].drop(columns="model"),
        table.drop(columns="model"),
    )
    with pytest.raises(InputError, match=r">= 0.* -.*--outputs"):
        fw.evaluate(Minus(), data, "clean", outputs="probabilities", out=tmp_path / "x", **OPTIONS)
    assert not (tmp_path / "x").exists()


class Minus(nn.Module):
    def forward(self, images):
        return -images.mean((2, 3))


def test_predictions_are_not_those_of_another_way_to_take_the_outputs(data, tmp_path):
    model, out = write(tmp_path, "probabilities"), tmp_path / "run"
    first, _ = evaluated(model, data, "clean", outputs="logits", out=out)
    with pytest.raises(InputError, match=r"seed-0/val/clean \(network\.digest: "):
        evaluated(model, data, "clean", out=out)
    second, _ = evaluated(model, data, "clean", out=out, replace=True)
    assert value(first, "negative_log_likelihood") > value(second, "negative_log_likelihood") + 0.1
    same(evaluated(model, data, "clean", outputs="probabilities", out=out)[0], second)


def test_sigmoids_are_refused_with_the_ways_out(data, tmp_path):
    model = write(tmp_path, "sigmoids")
    with pytest.raises(InputError, match=r"outputs \(--outputs\)") as told:
        fw.evaluate(model, data, "clean", out=tmp_path / "run", **OPTIONS)
    assert "--outputs" in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()
    module = fw.load_model(model)
    images = data.test.images.float() / 255
    raw = module(images)
    for outputs, wanted in (("logits", raw.softmax(1)), ("probabilities", raw / raw.sum(1, True))):
        table, _ = evaluated(model, data, "clean", outputs=outputs)
        nll = -wanted[torch.arange(60), data.test.labels].log().mean()
        assert value(table, "negative_log_likelihood") == pytest.approx(float(nll), abs=1e-5)


def test_one_image_that_looks_like_probabilities_is_not_enough(data, tmp_path):
    # The first image's row sums to one, all others' do not.
    answer = "torch.cat([logits[:1].softmax(1), logits[1:]])"
    _, lines = evaluated(write(tmp_path, answer), data, "clean")
    assert lines == []


def test_a_small_batch_size_is_kept(data, tmp_path):
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            seen.append(len(images))
            return images.mean((2, 3)).softmax(1)

    _, lines = evaluated(Watched(), data, "clean", batch_size=8)
    assert "8 test images" in lines[0]
    assert max(seen) == 8


def test_some_of_a_models_classes_have_the_probabilities_that_logits_give(data, tmp_path):
    classes = ["grey", *NAMES]
    tables = [
        evaluated(write(tmp_path / answer, answer, classes), data, "clean")[0]
        for answer in ("logits", "probabilities")
    ]
    same(*tables)
    assert value(tables[0], "accuracy") > 0.9


class OneNumber(nn.Module):
    def __init__(self, keepdim):
        super().__init__()
        self.keepdim = keepdim

    def forward(self, images):
        return images.flatten(1).mean(1, keepdim=self.keepdim)


@pytest.mark.parametrize("keepdim", [True, False])
def test_one_number_an_image_is_one_sentence_that_helps(keepdim, data):
    with pytest.raises(InputError, match=r"OneNumber gives one number .*--positive.* 'red'"):
        fw.evaluate(OneNumber(keepdim), data, "clean", **OPTIONS)


# ---------------------------------------------------------------------------------- opening


def test_load_model_makes_logits_of_what_are_said_to_be_probabilities(data, tmp_path):
    logits, probabilities = (write(tmp_path / each, each) for each in ("logits", "probabilities"))
    images = data.test.images[:4].float() / 255
    wanted = fw.load_model(logits)(images).log_softmax(1)
    for more in ({}, {"input_size": 16}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}):
        model = fw.load_model(probabilities, outputs="probabilities", **more)
        torch.testing.assert_close(model(images), wanted)
        assert not model.training
        plain = fw.load_model(probabilities, **more)
        torch.testing.assert_close(plain(images), wanted.exp())
    digests = [open_model(probabilities, outputs=each).digest for each in ("auto", "probabilities")]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("source", ["timm:test_resnet", "torchvision:resnet18"])
def test_networks_by_name_give_logits_and_say_so(source, data):
    for call in (open_model, fw.load_model):
        with pytest.raises(InputError, match=f"outputs .*{source}"):
            call(source, weights="none", outputs="logits")
    with pytest.raises(InputError, match=r"'logit'.*'logits'"):
        fw.evaluate(Minus(), data, "clean", outputs="logit", **OPTIONS)
