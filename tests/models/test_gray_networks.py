"""Networks with one input channel, and images of another range than a model is made for."""

import warnings

import pytest
import safetensors.torch
import torch
from torch import nn

import fairweather as fw
from fairweather.errors import StoppedError
from fairweather.models.preprocessing import prepare_at
from fairweather.models.sources import OpenedModel
from fairweather.models.wrappers import Classifier, is_gray_network, to_gray
from fairweather.requests.evaluation.models import describe_odd_range
from tests.helpers.opened_models import open_model

pytestmark = pytest.mark.usefixtures("undrawn")

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CODE = """
import torch
from torch import nn

def gray():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 3))

class Converts(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = gray()

    def forward(self, images):
        return self.network(images[:, :1] + 0 * images[:, 2:])

class Exits(Converts):
    why = SystemExit(0)

    def forward(self, images):
        raise self.why

def stopped(*_):
    from fairweather.errors import StoppedError
    raise StoppedError(143)

class Stopped(nn.Module):
    forward = stopped

def timm_gray():
    import timm
    return timm.create_model("test_resnet", in_chans=1, num_classes=3)
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(CODE)
    return path


def network_of(code, name):
    space = {}
    exec(compile(code.read_text(), "models", "exec"), space)
    with torch.random.fork_rng():
        return space[name]().eval()


def test_luma_is_that_of_pillow_and_keeps_gray_values():
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    gray = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(to_gray(gray), images[:, :1], atol=1e-6)
    red = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1)
    assert to_gray(red).item() == pytest.approx(0.299)


@pytest.mark.parametrize("name", ["gray", "timm_gray"])
def test_a_network_of_a_file_with_one_channel_gets_one(code, name):
    opened = open_model(f"python:{code}:{name}")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = opened.model(images)
    assert logits.shape == (2, 3)
    assert "one input channel" in opened.facts["gray"]
    if name == "gray":
        expected = network_of(code, name)(to_gray(images))
        assert torch.allclose(logits, expected, atol=1e-6)


def test_a_network_that_converts_by_itself_is_left_alone(code):
    opened = open_model(f"python:{code}:Converts")
    assert "gray" not in opened.facts
    assert not is_gray_network(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


def test_an_onnx_file_with_one_channel_gets_one(code, tmp_path):
    pytest.importorskip("onnxscript")
    network = network_of(code, "gray")
    path = tmp_path / "gray.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.rand(2, 1, 28, 28),), path, dynamo=True,
            dynamic_shapes=({0: "batch"},), verbose=False,
        )  # fmt: skip
    opened = open_model(f"onnx:{path}")
    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(opened.model(images), network(to_gray(images)), atol=1e-4)
    assert opened.facts["input"]["channels"] == 1


def test_a_checkpoint_with_one_channel_gets_one(code, tmp_path):
    network = network_of(code, "timm_gray")
    file = tmp_path / "gray.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    own = {"architecture": "timm:test_resnet", "std": (0.25,) * 3}
    opened = open_model(str(file), mean=(0.5,) * 3, **own)
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network((to_gray(images) - 0.5) / 0.25)
        assert torch.allclose(opened.model(images), expected, atol=1e-4)
    assert "one input channel" in opened.facts["gray"]
    with pytest.raises(fw.InputError, match=r"one input channel.*same number three times"):
        open_model(str(file), mean=(0.5, 0.4, 0.3), **own)


def test_a_gray_network_is_evaluated_and_said(code, colour_folder):
    lines = []
    run = fw.evaluate(
        f"python:{code}:gray", f"folder:{colour_folder}", "brightness_factor: [0.5]",
        bootstrap=100, device="cpu", progress=lambda event: lines.append(event.line),
    )  # fmt: skip
    assert any(line.startswith("note ") and "one input channel" in line for line in lines)
    assert set(run.scores["shift"]) >= {"clean", "brightness_factor"}


def test_a_gray_network_in_memory_is_evaluated_as_that_of_a_file(code, colour_folder, tmp_path):
    lines, scores = [], []
    for number, model in enumerate((f"python:{code}:gray", network_of(code, "gray"))):
        run = fw.evaluate(
            model, f"folder:{colour_folder}", "clean", out=tmp_path / str(number),
            bootstrap=100, device="cpu", progress=lambda event: lines.append(event.line),
        )  # fmt: skip
        scores.append(run.scores.drop(columns="model"))
    assert sum("one input channel" in line for line in lines) == 2
    assert scores[0].equals(scores[1])


def test_a_gray_network_that_calls_exit_is_an_error_and_not_a_success(code, colour_folder):
    with pytest.raises(fw.InputError, match=r"called sys\.exit\(0\) instead"):
        fw.evaluate(f"python:{code}:Exits", f"folder:{colour_folder}", device="cpu")


def test_a_signal_of_the_system_ends_every_try_of_a_network(code):
    network = network_of(code, "Exits")
    opened = OpenedModel(Classifier(network, (0.5,) * 3, (0.5,) * 3, 32), "m", "", None, None, {})
    assert not is_gray_network(network)
    assert prepare_at(opened, 16, keep=False).model.input_size == 32
    network.why = StoppedError(143)
    with pytest.raises(StoppedError):
        is_gray_network(network)
    with pytest.raises(StoppedError):
        prepare_at(opened, 16, keep=False)


@pytest.mark.parametrize("name", ["stopped", "Stopped"])
def test_a_signal_of_the_system_ends_an_evaluation(name, code, colour_folder):
    with pytest.raises(StoppedError):  # while the model is made, and at its first image
        fw.evaluate(f"python:{code}:{name}", f"folder:{colour_folder}", device="cpu")


@pytest.mark.parametrize(
    ("mean", "std", "far"),
    [
        ((0.02,) * 3, (0.015,) * 3, True),  # 12 bits in 16
        ((0.99,) * 3, (0.02,) * 3, True),
        ((0.13,) * 3, (0.31,) * 3, False),  # digits
        ((0.74, 0.53, 0.71), (0.12, 0.18, 0.12), False),  # PathMNIST
        ((0.485, 0.456, 0.406), (0.01,) * 3, False),
    ],
)
def test_images_far_from_the_normalisation_are_told(mean, std, far):
    assert (describe_odd_range(IMAGENET, mean, std) is not None) == far
    assert describe_odd_range({"mean": None, "std": None, "from": "nothing"}, mean, std) is None
