"""Models of several findings: what their outputs are, and which finding each is of."""

from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.models.labels import match_labels
from fairweather.models.onnx import open_onnx
from fairweather.models.opening import open_with_options
from fairweather.models.outputs import (
    LARGEST,
    OF_FINDINGS,
    SMALLEST,
    ConvertedOutputs,
    convert_outputs,
    detect_finding_kind,
    finding_logits,
    parse_outputs,
)
from fairweather.models.run_models import check_learned
from fairweather.models.sources import Setup
from fairweather.models.wrappers import Ensemble
from fairweather.tasks import mean_probability
from fairweather.types.kinds import CLASSES, FINDINGS
from fairweather.types.options import ModelOptions
from tests.helpers.finding_models import NAMES, SIDE, Stripes, draw_findings, write_onnx
from tests.helpers.opened_models import open_model

OF_FINDING = Setup(predicts=FINDINGS)


# ---------------------------------------------------------------- probabilities and logits


def test_the_logit_of_a_probability_is_the_exact_one():
    p = torch.cat([torch.logspace(-37, -0.5, 200), 1 - torch.logspace(-7, -0.5, 200)])
    exact = scipy.special.logit(p.double().numpy())
    # One rounding each of 1 - p, the ratio and the logarithm, of which the ratio's is absolute.
    np.testing.assert_allclose(finding_logits(p[None])[0].numpy(), exact, rtol=3e-7, atol=3e-7)


def test_a_decision_at_one_half_is_kept_to_the_last_bit():
    half = torch.tensor(0.5)
    below, above = (
        torch.nextafter(half, torch.tensor(0.0)),
        torch.nextafter(half, torch.tensor(1.0)),
    )
    lower, middle, upper = finding_logits(torch.stack([below, half, above])[None])[0]
    assert lower < 0 == middle < upper


def test_zero_and_one_have_the_ends_of_logits_and_keep_their_order():
    p = torch.tensor([[0.0, SMALLEST, 1e-30, 0.5, 1 - 1e-6, LARGEST, 1.0]])
    logits = finding_logits(p)[0]
    assert logits.isfinite().all()
    assert (logits.diff() >= 0).all()
    assert logits[0] == logits[1] == torch.tensor(SMALLEST).log()
    assert logits[-1] == logits[-2] > 16.6


def test_gradients_are_those_of_the_logits():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    images, gradients = torch.rand(6, 3, 8, 8), []
    for model in (network, ConvertedOutputs(nn.Sequential(network, nn.Sigmoid()), finding_logits)):
        leaf = images.clone().requires_grad_()
        model(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_a_clamped_probability_passes_no_gradient():
    p = torch.tensor([[0.0, 1.0, 0.5]], requires_grad=True)
    finding_logits(p).sum().backward()
    assert p.grad.tolist() == [[0.0, 0.0, 4.0]]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_numbers_that_are_no_probabilities_are_refused(value):
    with pytest.raises(InputError, match=r"in \[0, 1\], found .*--outputs\) to logits"):
        finding_logits(torch.tensor([[0.5, value]]))


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[0.9, 0.9], [0.2, 0.1]], OF_FINDINGS),
        ([[0.9], [1.0]], OF_FINDINGS),  # one finding: its rows sum to nothing
        ([[1.0], [1.0]], OF_FINDINGS),
        ([[0.0, 0.0], [0.0, 0.0]], "logits"),  # a head that starts from zero
        ([[0.5, 0.5], [-0.2, 1.2]], "logits"),
        ([[2.0]], "logits"),
    ],
)
def test_what_outputs_of_findings_look_like(rows, kind):
    assert detect_finding_kind(torch.tensor(rows), "it").kind == kind


def test_outputs_that_are_all_zero_are_called_so():
    assert str(detect_finding_kind(torch.zeros(2, 3), "it")) == "logits (all are 0 for 2 images)"


def test_probabilities_of_classes_are_refused_with_a_way_out():
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    with pytest.raises(
        InputError, match=r"sum to one for 9 images, .*--outputs\) to probabilities"
    ):
        detect_finding_kind(rows, "it")


def test_given_probabilities_are_those_of_findings():
    assert parse_outputs("probabilities", FINDINGS).kind == OF_FINDINGS
    assert parse_outputs("probabilities").kind == "probabilities"
    assert parse_outputs("auto", FINDINGS) is None


# ---------------------------------------------------------------- sources


@pytest.fixture
def images():
    return draw_findings(7, 3).images / 255


@pytest.mark.parametrize(
    ("last", "outputs", "kind"),
    [
        ("", "auto", "logits"),
        ("Sigmoid", "auto", OF_FINDINGS),
        ("Sigmoid", "probabilities", OF_FINDINGS),
    ],
)
def test_an_onnx_graph_says_what_its_outputs_are(last, outputs, kind, images, tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "stripes.onnx", last)
    opened = open_onnx(str(path), ModelOptions(outputs=outputs), OF_FINDING)
    assert opened.outputs.kind == kind
    with torch.no_grad():
        torch.testing.assert_close(opened.model(images), Stripes()(images), rtol=1e-4, atol=1e-4)


def test_an_onnx_graph_of_one_finding_is_opened(images, tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "stripes.onnx", "Sigmoid", outputs=1)
    opened = open_onnx(str(path), ModelOptions(), OF_FINDING)
    with torch.no_grad():
        torch.testing.assert_close(
            opened.model(images), Stripes(outputs=1)(images), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(InputError, match=r"one number for each image, .* with positive"):
        open_model(f"onnx:{path}")
    several = write_onnx(tmp_path / "several.onnx", "Sigmoid")
    with pytest.raises(InputError, match="ends in Sigmoid"):
        open_model(f"onnx:{several}")


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_an_onnx_graph_of_classes_is_refused(last, tmp_path):
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "stripes.onnx", last)
    with pytest.raises(InputError, match=f"ends in {last}, as probabilities of classes"):
        open_onnx(str(path), ModelOptions(), OF_FINDING)
    given = open_onnx(str(path), ModelOptions(outputs="logits"), OF_FINDING)
    assert given.outputs.kind == "logits"


def save_vit(folder, **settings):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(
        image_size=SIDE, patch_size=4, intermediate_size=32, **sizes, **settings
    )
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return network


@pytest.mark.parametrize("problem", ["multi_label_classification", None])
def test_a_hugging_face_model_gives_logits_of_its_findings(problem, images, tmp_path):
    settings = {"id2label": dict(enumerate(NAMES)), "problem_type": problem}
    network = save_vit(tmp_path / "vit", **settings)
    opened = open_with_options(f"hf:{tmp_path / 'vit'}", ModelOptions(), predicts=FINDINGS)
    assert opened.classes == NAMES
    with torch.no_grad():
        expected = network(pixel_values=(images - 0.5) / 0.5).logits
        torch.testing.assert_close(opened.model(images), expected, rtol=1e-5, atol=1e-5)


def test_a_hugging_face_model_of_something_else_is_refused(tmp_path):
    save_vit(tmp_path / "classes", num_labels=3, problem_type="single_label_classification")
    with pytest.raises(InputError, match="not a model of several findings: it is single_label"):
        open_with_options(f"hf:{tmp_path / 'classes'}", ModelOptions(), predicts=FINDINGS)
    save_vit(tmp_path / "findings", num_labels=3, problem_type="multi_label_classification")
    with pytest.raises(InputError, match="not a classifier of two or more classes"):
        open_model(f"hf:{tmp_path / 'findings'}")
    save_vit(tmp_path / "one", num_labels=1, problem_type="multi_label_classification")
    one = open_with_options(f"hf:{tmp_path / 'one'}", ModelOptions(), predicts=FINDINGS)
    assert one.model(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 1)


def test_a_model_of_a_run_predicts_what_it_learned():
    run = Path(__file__).parents[1] / "version_2" / "run"
    source = f"run:{run}/models/basic/seed-0"
    check_learned(source, CLASSES)
    check_learned("timm:resnet18", FINDINGS)
    with pytest.raises(InputError, match="one class of each image, and these data have several"):
        check_learned(source, FINDINGS)


# ---------------------------------------------------------------- ensembles


def test_an_ensemble_has_the_logit_of_the_mean_probability(images):
    members = [Stripes(), Stripes(5.0, 0.3)]
    with torch.no_grad():
        together = Ensemble(members, FINDINGS)(images)
        alone = [member(images) for member in members]
    mean = torch.stack([logits.double().sigmoid() for logits in alone]).mean(0)
    torch.testing.assert_close(together.double().sigmoid(), mean, rtol=1e-5, atol=1e-7)
    stored = mean_probability([logits.numpy() for logits in alone])
    np.testing.assert_allclose(together.numpy(), stored, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- which output is of which finding


def test_findings_are_found_among_more_outputs_by_name():
    model = [f"other {number}" for number in range(16)]
    model[3:3] = ["pleural_effusion", "MASS"]
    labels = match_labels(model, 18, ["Mass", "Pleural Effusion"], predicts=FINDINGS)
    assert labels.columns == ((4,), (3,))
    assert labels.note == "2 of the model's 18 findings, matched by name"


def test_findings_are_mapped_as_given():
    given = {"Mass": "lump", "Nodule": 0}
    labels = match_labels(["a", "lump", "b"], 3, ["Mass", "Nodule"], given, FINDINGS)
    assert labels.columns == ((1,), (0,))
    assert labels.note == "2 findings on 2 of the model's 3 outputs, as given"


@pytest.mark.parametrize(
    ("names", "outputs", "data", "given", "message"),
    [
        (None, 18, ["Mass"], None, "18 outputs.*: say which .* with --class-map .* 'Mass,0'$"),
        (["Mass"], 1, ["Nodule"], None, "has no finding for 1 of the data's 1: 'Nodule'"),
        (["a", "b"], 2, ["Mass"], {"Mass": ["a", "b"]}, "2 outputs for 'Mass': a finding has one"),
        (["a", "b"], 2, ["Mass"], {"Mas": "a"}, "finding of the data .*'Mas'.*'Mass'"),
        (["a", "b"], 2, ["Mass", "Node"], {"Mass": "a"}, "all 2 findings of the data"),
        (["a", "b"], 3, ["a", "b"], None, "names 2 findings but has 3 outputs"),
    ],
)
def test_what_does_not_fit_is_one_sentence(names, outputs, data, given, message):
    with pytest.raises(InputError, match=message) as caught:
        match_labels(names, outputs, data, given, FINDINGS)
    assert "\n" not in str(caught.value)


def test_only_what_is_no_logit_is_converted():
    model = nn.Identity()
    assert convert_outputs(model, "logits") is model
    assert convert_outputs(model, OF_FINDINGS).convert is finding_logits
