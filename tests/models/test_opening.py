"""Opening models: what another program wrote is understood whole, or refused in one sentence."""

import argparse
import hashlib
import json
import os
import pickle
import struct
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_model_data_config
from torch import nn
from torchvision.transforms import v2

from fairweather.errors import InputError
from fairweather.files.download import file_digest
from fairweather.models.building import (
    ModelSpec,
    build,
    render_model_json,
    resolve_normalisation,
    state_digest,
)
from fairweather.models.checkpoints import AVERAGE_KEYS, STATE_KEYS, match_names
from fairweather.models.opening import check_model, load_model
from fairweather.models.preprocessing import describe_preprocessing, find_normalisation
from fairweather.types.options import ModelOptions, Preparation
from tests.conftest import TINY_RESNET
from tests.helpers.opened_models import open_model
from tests.helpers.run_folders import finish, run_record, write_run

IMAGES = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def as_column(values):
    return torch.tensor(values).reshape(1, 3, 1, 1)


NORMALISED = (IMAGES - 0.5) / 0.5  # as timm says of test_resnet


@pytest.fixture(scope="module")
def network():
    """Another program's trained network, as timm builds it: 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return timm.create_model("test_resnet", num_classes=4).eval()


@pytest.fixture(scope="module")
def expected(network):
    with torch.inference_mode():
        return network(NORMALISED)


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def logits(opened, images=IMAGES):
    with torch.inference_mode():
        return opened.model(images)


def opened_from(tmp_path, held, name="other.pth", **options):
    save = safetensors.torch.save_file if name.endswith("tensors") else torch.save
    save(held, tmp_path / name)
    return open_model(str(tmp_path / name), architecture=TINY_RESNET, **options)


@pytest.mark.parametrize(
    "nesting", [*STATE_KEYS, *AVERAGE_KEYS, "state_dict.model", "model.module.net"]
)
def test_a_nested_state_dict_is_found(tmp_path, network, expected, nesting):
    held = network.state_dict()
    for key in reversed(nesting.split(".")):
        held = {"epoch": 3, key: held, "optimizer": {"state": {}, "param_groups": []}}
    opened = opened_from(tmp_path, held)
    assert torch.equal(logits(opened), expected)
    assert opened.facts["source"] == str(tmp_path / "other.pth")
    assert opened.facts["checkpoint"]["nesting"] == nesting
    assert ("averaged" in opened.facts["checkpoint"]) == (nesting in AVERAGE_KEYS)


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "model.", "backbone.", "network.", "net.", "_orig_mod.", "1."),
        *("module.model.", "model.backbone.", "_orig_mod.module.", "module._orig_mod.network."),
    ],
)
def test_a_wrappers_prefix_is_taken_off(tmp_path, network, expected, prefix):
    held = prefixed(prefix, network.state_dict())
    opened = opened_from(tmp_path, held, "other.safetensors")
    assert torch.equal(logits(opened), expected)
    assert opened.facts["checkpoint"]["prefix"] == prefix.replace("_orig_mod.", "")
    trained = load_model(TINY_RESNET, classes=4, weights=tmp_path / "other.safetensors")
    assert torch.equal(trained.network.fc.weight, network.fc.weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_files_as_programs_write_them(tmp_path, network, expected):
    parallel = nn.parallel.DataParallel(network).state_dict()
    compiled = torch.compile(network).state_dict()
    assert all(key.startswith("_orig_mod.") for key in compiled)
    inner = dict(network.state_dict())
    for key in [key for key in inner if key.startswith("layer1.0.")]:
        inner[key.replace("layer1.0.", "layer1._orig_mod.0.")] = inner.pop(key)
    average = torch.optim.swa_utils.AveragedModel(network).state_dict()
    assert "n_averaged" in average
    options = argparse.Namespace(lr=0.1)
    files = {
        "distributed": {"model": parallel, "args": options, "epoch": 1},
        "compiled": compiled,
        "compiled inside": inner,
        "lightning": {
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": prefixed("model.", network.state_dict()),
            "loops": {"fit_loop": {"state_dict": {}}},
            "hyper_parameters": {"lr": 0.1},
        },
        "averaged": {"model_ema": average},
        "parameters": {key: nn.Parameter(t) for key, t in inner.items() if t.is_floating_point()},
    }
    for name, held in files.items():
        opened = opened_from(tmp_path, held, f"{name}.ckpt")
        assert torch.equal(logits(opened), expected), name
        assert opened.name == name.replace(" ", "-")
        assert not opened.model.training


def test_of_a_plain_and_an_averaged_state_the_plain_one_is_taken(tmp_path, network, expected):
    state = network.state_dict()
    average = {key: tensor * 2 for key, tensor in state.items()}
    beside = opened_from(tmp_path, {"model_ema": average, "model": state})
    lightning = {"state_dict": prefixed("ema_model.module.", average) | prefixed("model.", state)}
    short = {"state_dict": prefixed("ema.", average) | prefixed("model.", state)}
    for opened in (beside, opened_from(tmp_path, lightning), opened_from(tmp_path, short)):
        assert torch.equal(logits(opened), expected)
        assert "is not used" in opened.facts["checkpoint"]["averaged"]


def test_a_backbone_and_a_head_beside_it_are_put_together(tmp_path, network, expected):
    state = network.state_dict()
    held = {("" if k.startswith("fc.") else "backbone.") + k: tensor for k, tensor in state.items()}
    assert torch.equal(logits(opened_from(tmp_path, held)), expected)
    twice = held | {"backbone.fc.weight": state["fc.weight"]}
    with pytest.raises(InputError, match=r"fc\.weight"):
        opened_from(tmp_path, twice)


def test_real_names_that_look_like_wrappers_survive():
    with torch.device("meta"):
        state = torchvision.models.vit_b_32().state_dict()
    assert any(key.startswith("encoder.layers.") for key in state)
    for prefix in ("", "module.", "model.module."):
        fitted = match_names(prefixed(prefix, state), list(state))
        assert list(fitted.state) == list(state)
        assert fitted.prefix == prefix
    # A real name that begins like a wrapper's attribute.
    names = ["model.0.weight", "model.1.weight", "net.weight"]
    for prefix in ("", "model.", "net.module."):
        held = {prefix + name: torch.ones(1) for name in names}
        assert list(match_names(held, names).state) == names


def test_own_model_files_bring_their_normalisation(tmp_path, network):
    spec = ModelSpec(TINY_RESNET, 4, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = build(spec, seed=3).eval()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    opened = open_model(str(path), architecture=TINY_RESNET)
    assert torch.equal(logits(opened), model(IMAGES))
    assert opened.facts["normalisation"]["from"] == "the checkpoint itself"
    with pytest.raises(InputError, match=r"mean 0\.1 0\.2 0\.3 and std .*leave mean and std out"):
        open_model(str(path), architecture=TINY_RESNET, mean=MEAN, std=STD)
    again = open_model(str(path), architecture=TINY_RESNET, mean=spec.mean, std=spec.std)
    assert torch.equal(logits(again), model(IMAGES))
    start = ModelSpec(TINY_RESNET, 7, weights=str(path))
    assert build(start).std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert resolve_normalisation(start).mean == pytest.approx((0.1, 0.2, 0.3))
    assert json.loads(render_model_json(start, {}))["spec"]["std"] == pytest.approx([0.4, 0.5, 0.6])


def test_a_wrapper_with_a_normalisation_layer_brings_it(tmp_path, network):
    normalise = nn.Module()
    normalise.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]))
    normalise.register_buffer("std", torch.tensor([0.4, 0.5, 0.6]))
    opened = opened_from(tmp_path, nn.Sequential(normalise, network).state_dict())
    assert opened.model.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert opened.facts["checkpoint"]["prefix"] == "1."


def test_the_heads_width_is_the_number_of_classes(tmp_path, network):
    opened = opened_from(tmp_path, network.state_dict())
    assert opened.facts["outputs"] == 4
    assert opened.classes is None
    with pytest.raises(InputError, match=r"fc\.weight \[4, \d+\] instead of \[5, \d+\]"):
        opened_from(tmp_path, network.state_dict(), classes=5)


def test_a_head_that_is_not_there_is_an_error_and_no_random_head(tmp_path, network):
    state = {k: t for k, t in network.state_dict().items() if not k.startswith("fc.")}
    words = r"the head of timm:test_resnet is not in the weights \(missing fc\.bias, fc\.weight\)"
    with pytest.raises(InputError, match=words):
        opened_from(tmp_path, state)
    kept = load_model(TINY_RESNET, classes=9, weights=tmp_path / "other.pth")  # for training
    assert torch.equal(kept.network.conv1[0].weight, state["conv1.0.weight"])


def test_batch_norms_counters_may_be_missing_and_nothing_else(tmp_path, network, expected):
    state = {k: t for k, t in network.state_dict().items() if "num_batches" not in k}
    assert torch.equal(logits(opened_from(tmp_path, state)), expected)
    del state["bn1.weight"]
    state |= {"layer9.weight": torch.ones(1), "criterion.weight": torch.ones(4)}
    words = r"timm:test_resnet: missing bn1\.weight; unexpected layer9\.weight, criterion\.weight$"
    with pytest.raises(InputError, match=words):
        opened_from(tmp_path, state)


def test_another_architecture_and_another_stem_are_told(tmp_path, network):
    state = torchvision.models.squeezenet1_1(num_classes=4).state_dict()
    with pytest.raises(InputError, match=r"missing conv1.* and \d+ more; unexpected features\.0"):
        opened_from(tmp_path, state)
    small = dict(network.state_dict())
    small["conv1.0.weight"] = small["conv1.0.weight"][..., :1, :1]
    with pytest.raises(InputError, match=r"of another shape conv1\.0\.weight \[\d+, 3, 1, 1\] ins"):
        opened_from(tmp_path, small)


class Evil:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_nothing_that_a_file_holds_is_run(tmp_path, network):
    trap = Evil(tmp_path / "owned")
    torch.save({"state_dict": network.state_dict(), "args": trap}, tmp_path / "zip.pth")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps({"model": trap}, protocol=2))
    torch.save({"model": network}, tmp_path / "whole.pt")
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / "script.pt")
    (tmp_path / "dumped.pt").write_bytes(pickle.dumps({"a": torch.ones(1)}, protocol=4))
    for name, held in (
        ("zip.pth", r"posix\.mkdir"),
        ("bare.ckpt", r"posix\.mkdir"),
        ("whole.pt", r"timm\.models\.resnet\.ResNet"),
        ("script.pt", "TorchScript"),
    ):
        words = (
            rf"cannot be read as weights alone, since it holds {held}, and is refused because "
            r"loading it would execute code; .*python:FILE\.py:FUNCTION, or save it with torch\."
        )
        with pytest.raises(InputError, match=words):
            open_model(str(tmp_path / name), architecture=TINY_RESNET)
        with pytest.raises(InputError, match=words):
            open_model(str(tmp_path / name))  # it does not hold "only weights"
        with pytest.raises(InputError, match=words):
            load_model(TINY_RESNET, weights=tmp_path / name)
    assert not (tmp_path / "owned").exists()
    with pytest.raises(InputError, match=r"save it with torch\."):
        open_model(str(tmp_path / "dumped.pt"), architecture=TINY_RESNET)
    torch.load(tmp_path / "zip.pth", weights_only=False)  # the trap works
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "text.ckpt", "empty.bin"])
def test_a_damaged_file_is_called_damaged(tmp_path, network, name):
    path = tmp_path / name
    if name.startswith("cut"):
        save = safetensors.torch.save_file if name.endswith("tensors") else torch.save
        save(network.state_dict(), path)
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        path.write_text("no weights at all" if name.startswith("text") else "")
    with pytest.raises(InputError, match="damaged"):
        open_model(str(path), architecture=TINY_RESNET)


def test_a_file_without_weights_says_what_it_holds(tmp_path):
    for held, words in (
        ({"epoch": 1, "loss": 0.5}, "holds no state dict of tensors: its keys are epoch, loss"),
        ([1, 2], "but a list"),
        ({}, "it is empty"),
        ({0: torch.ones(1)}, "its keys are 0"),
    ):
        with pytest.raises(InputError, match=words):
            opened_from(tmp_path, held)


# ----------------------------------------------------------------------- preprocessing


SQUASHING = "convnext_tiny.fb_in22k_ft_in1k_384"


def test_a_timm_models_preprocessing_is_timms_own():
    for name in ("test_resnet", "tf_efficientnet_lite0", "deit_tiny_patch16_224", SQUASHING):
        opened = open_model(f"timm:{name}", weights="none")
        config = resolve_model_data_config(opened.model.network)
        theirs = create_transform(**config, is_training=False)
        resize, crop, *_, normalise = theirs.transforms
        prepared = opened.preparation
        assert (prepared.size, prepared.size) == tuple(crop.size)
        squashed = isinstance(resize.size, list | tuple)
        assert prepared.fit == ("squash" if squashed else "crop")
        assert prepared.resize == (resize.size[0] if squashed else resize.size)
        assert prepared.interpolation == resize.interpolation.value
        assert opened.model.mean.flatten().tolist() == pytest.approx(normalise.mean.tolist())
        assert opened.model.std.flatten().tolist() == pytest.approx(normalise.std.tolist())
        assert opened.model.input_size == prepared.size
        assert json.loads(json.dumps(opened.facts))["preparation"]["size"] == prepared.size


def prepare(picture, preparation):
    """The preparation as `types.Preparation` describes it, with torchvision's own functions."""
    size = preparation.resize or preparation.size
    picture = v2.functional.resize(
        picture,
        [size, size] if preparation.fit == "squash" else [size],
        interpolation=v2.InterpolationMode(preparation.interpolation),
    )
    picture = v2.functional.center_crop(picture, [preparation.size])
    return v2.functional.pil_to_tensor(picture)[None].float() / 255


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_image_gets_the_librarys_own_logits(library):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    name = {"timm": "test_resnet", "torchvision": "squeezenet1_1"}[library]
    opened = open_model(f"{library}:{name}", weights="none")
    if library == "timm":
        transform = create_transform(**resolve_model_data_config(opened.model.network))
    else:
        transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        theirs = opened.model.network(transform(picture)[None])
    torch.testing.assert_close(logits(opened, prepare(picture, opened.preparation)), theirs)


def test_networks_that_renormalise_inside_are_fed_what_they_expect():
    # torchvision builds GoogLeNet with transform_input=True when it loads the weights itself.
    theirs = torchvision.models.GoogLeNet(4, transform_input=True, init_weights=False).eval()
    opened = open_model("torchvision:googlenet", weights="none", classes=4)
    opened.model.input_size = None
    fed = []
    for network in (theirs, opened.model.network):
        network.conv1.register_forward_pre_hook(lambda _, arguments: fed.append(arguments[0]))
    images = IMAGES[:, :, :64, :64]
    theirs((images - as_column(MEAN)) / as_column(STD))
    opened.model(images)
    torch.testing.assert_close(*fed)


def test_what_timm_would_pad_or_not_square_is_said():
    from fairweather.models.backbones import LIBRARIES

    volo = LIBRARIES["timm"].preprocessing("volo_d4_448")
    assert volo.preparation.resize is None
    assert "not padded" in volo.remark
    if not timm.is_model("vit_base_patch16_sapiens2"):
        pytest.skip(f"timm {timm.__version__} has no network for images that are not squares")
    oblong = LIBRARIES["timm"].preprocessing("vit_base_patch16_sapiens2")
    assert oblong.preparation is None
    assert "not squares" in oblong.remark


def test_images_of_another_size_are_resized_inside():
    opened = open_model(TINY_RESNET, weights="none")
    small = IMAGES[..., :50, :50]
    resized = nn.functional.interpolate(small, (160, 160), mode="bilinear", antialias=True)
    assert torch.equal(logits(opened, small), logits(opened, resized))


def test_given_numbers_win_and_are_said(tmp_path, network):
    opened = opened_from(
        tmp_path, network.state_dict(), mean=[0.2] * 3, std=[0.25] * 3, input_size=80
    )
    assert opened.model.input_size == opened.preparation.size == 80
    assert opened.preparation == Preparation(80)  # what ImageNet weights crop off is theirs
    assert opened.model.mean.flatten().tolist() == pytest.approx([0.2] * 3)
    assert describe_preprocessing(opened) == (
        "resize 80 (bilinear), crop 80 (the size given), mean 0.2 0.2 0.2, "
        "std 0.25 0.25 0.25 (given)"
    )
    assert describe_preprocessing(open_model(TINY_RESNET, weights="none")) == (
        "resize 168 (bilinear), crop 160, mean 0.5 0.5 0.5, std 0.5 0.5 0.5 "
        "(timm's configuration of test_resnet)"
    )


def test_a_size_that_a_network_cannot_take_is_told():
    with pytest.raises(InputError, match=r"input_size: timm:test_vit .*100 x 100"):
        open_model("timm:test_vit", weights="none", input_size=100)


def test_lite0_has_imagenets_head_and_classes():
    opened = open_model("timm:tf_efficientnet_lite0", weights="lite0")
    assert opened.classes == tuple(ImageNetInfo().label_names())
    assert opened.classes[0] == "n01440764"
    assert opened.model.mean.flatten().tolist() == [0.5] * 3
    assert opened.preparation == (224, 256, "bicubic", "crop")
    assert opened.model.network.classifier.bias.abs().max() > 0.01  # a new head's bias is 0
    assert opened.name == "tf_efficientnet_lite0"


def test_published_weights_are_the_default(monkeypatch):
    from fairweather.models.backbones import Timm

    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr(Timm, "imagenet", lambda self, name, offline: state)
    opened = open_model(TINY_RESNET)
    assert torch.equal(opened.model.network.fc.weight, state["fc.weight"])
    assert opened.facts["weights"] == "imagenet"
    assert len(opened.classes) == 1000
    with pytest.raises(InputError, match=r"fc\.weight \[1000, \d+\] instead of \[3, \d+\]"):
        open_model(TINY_RESNET, classes=3)


def test_load_model_and_open_model_have_the_same_default(monkeypatch):
    from fairweather.models.backbones import Timm

    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr(Timm, "imagenet", lambda self, name, offline: state)
    expected = open_model(TINY_RESNET).model
    with torch.inference_mode():
        assert torch.equal(load_model(TINY_RESNET)(IMAGES), expected(IMAGES))
        assert not torch.equal(load_model(TINY_RESNET, weights="none")(IMAGES), expected(IMAGES))
    three = load_model(TINY_RESNET, classes=3)  # for training: a new head on published features
    assert torch.equal(three.network.conv1[0].weight, state["conv1.0.weight"])
    assert three(IMAGES).shape == (2, 3)


def test_a_network_without_a_head_is_no_classifier(monkeypatch):
    from fairweather.models.backbones import Timm

    state = timm.create_model("test_vit", num_classes=0).state_dict()
    monkeypatch.setattr(Timm, "build", lambda *_: timm.create_model("test_vit", num_classes=0))
    monkeypatch.setattr(Timm, "imagenet", lambda self, name, offline: state)
    with pytest.raises(InputError, match="no head"):
        open_model("timm:test_vit")


# ---------------------------------------------------------------------------------- runs


def test_a_runs_model_brings_classes_and_size(tmp_path):
    folder = tmp_path / "models/basic/seed-2"
    folder.mkdir(parents=True)
    spec = ModelSpec(TINY_RESNET, 3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = build(spec, seed=5).eval()
    (folder / "model.json").write_text(render_model_json(spec, {"classes": ["a", "b", "c"]}))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    assert open_model(f"run:{folder}").preparation is None
    for notes, prepared in (
        ({"size": [64, 64]}, (64, None, "bilinear", "crop")),
        ({"size": [28, 36]}, None),
        (
            {"size": [64, 64], "preparation": {"size": 64, "resize": 72, "fit": "squash"}},
            (64, 72, "bilinear", "squash"),
        ),
    ):
        run = write_run(tmp_path, run_record({"basic": "Basic"}, classes="abc", notes=notes))
        made = [f"models/basic/seed-2/{name}" for name in ("model.json", "model.safetensors")]
        finish(run, "models/basic/seed-2", made)
        opened = open_model(f"run:{folder}")
        assert opened.preparation == prepared
    assert opened.classes == ("a", "b", "c")
    assert opened.name == "basic-seed-2"
    assert opened.digest == file_digest(folder / "model.safetensors", "sha256")
    assert opened.facts["architecture"] == TINY_RESNET
    assert torch.equal(logits(opened), model(IMAGES))
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(InputError, match=r"record\.json is not the record of a fairweather"):
        open_model(f"run:{folder}")
    (tmp_path / "record.json").unlink()
    write_run(tmp_path, run_record({"m": "M"}, notes={"size": [9, 9], "preparation": {"side": 9}}))
    with pytest.raises(InputError, match=r"the record .*preparation of images"):
        open_model(f"run:{folder}")
    safetensors.torch.save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"seed-2/model\.safetensors is damaged or was changed"):
        open_model(f"run:{folder}")
    (tmp_path / "record.json").unlink()  # a folder that was copied alone has no checksums
    with pytest.raises(InputError, match=r"seed-2 .*model\.json"):
        open_model(f"run:{folder}")


# -------------------------------------------------------------------------- python: files

MINE = """
    import torch
    from torch import nn
    from beside import WIDTH

    classes = ["cat", "dog"]
    ready = nn.Flatten()
    number = 3

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(WIDTH, 2)

        def forward(self, images):
            return self.linear(images.mean((2, 3)))

    def make():
        return Net()

    def make_normalised():
        from torchvision.transforms import v2
        return nn.Sequential(v2.Normalize([0.5] * 3, [0.25] * 3), Net())

    def wrong():
        return {"model": Net()}

    def broken():
        raise ValueError("no such thing\\nat all")

    def leaves():
        raise SystemExit(3)

    def needs(more):
        return Net()

    def calls():
        return broken()
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(MINE))
    yield path
    sys.modules.pop("beside", None)


def test_a_function_of_the_users_file_gives_the_model(mine):
    before = torch.random.get_rng_state(), list(sys.path)
    opened, again, other = (open_model(f"python:{mine}:make", seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert sys.path == before[1]
    assert not opened.model.training
    assert opened.classes == ("cat", "dog")
    assert opened.name == "mine-make"
    assert opened.digest == again.digest != other.digest
    assert torch.equal(logits(opened), opened.model.linear(IMAGES.mean((2, 3))))
    assert "the file was run" in opened.facts["runs_code"]
    assert describe_preprocessing(opened) == (
        "images as they are, no normalisation: the model gets images in [0, 1]"
    )
    assert json.dumps(opened.facts)
    assert torch.equal(load_model(f"python:{mine}:Net")(IMAGES), logits(opened))
    assert isinstance(open_model(f"python:{mine}:ready").model, nn.Flatten)
    mine.write_text(mine.read_text() + "\n# changed\n")
    assert open_model(f"python:{mine}:make").digest != opened.digest
    assert not list(mine.parent.glob("__pycache__/mine*"))


def test_given_normalisation_and_size_are_put_around_the_users_model(mine):
    plain = open_model(f"python:{mine}:make")
    opened = open_model(f"python:{mine}:make", mean=[0.5] * 3, std=[0.5] * 3, input_size=160)
    assert torch.equal(logits(opened), logits(plain, NORMALISED))
    assert opened.preparation.size == opened.model.input_size == 160
    assert opened.digest != plain.digest


def test_nothing_is_normalised_twice(mine):
    opened = open_model(f"python:{mine}:make_normalised")
    assert "the model's own normalisation: 0 (Normalize) with mean 0.5" in describe_preprocessing(
        opened
    )
    words = r"0 \(Normalize\) with mean .*; leave mean and std out"
    with pytest.raises(InputError, match=words):
        open_model(f"python:{mine}:make_normalised", mean=MEAN, std=STD)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("mak", "unknown function of .*mine.py 'mak'; did you mean 'make'"),
        ("wrong", r"wrong\(\) in .*mine\.py returned a dict, not a torch\.nn\.Module"),
        ("broken", r"mine\.py, line 29 raised ValueError: no such thing$"),
        ("calls", r"mine\.py, line 29 raised ValueError"),  # where it was raised
        ("leaves", r"mine\.py, line 32 raised SystemExit: 3"),
        ("needs", r"mine\.py raised TypeError: .*'more'"),
        ("number", r"number in .*mine\.py is of type int, not a function"),
    ],
)
def test_what_goes_wrong_in_the_users_file_is_told_in_one_sentence(mine, function, words):
    with pytest.raises(InputError, match=words) as caught:
        open_model(f"python:{mine}:{function}")
    if "raised" in words:
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_like_it", r"mine\.py, line 1 raised ModuleNotFoundError: No module named"),
        ("x = 1\ndef make(:\n", r"mine\.py, line 2 raised SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_run_says_where(mine, text, words):
    mine.write_text(text)
    with pytest.raises(InputError, match=words):
        open_model(f"python:{mine}:make")


def test_a_digest_is_that_of_names_types_shapes_and_bytes():
    state = {"b": torch.tensor([[1.0], [2.0]], dtype=torch.bfloat16), "a": torch.tensor(7)}
    content = b"a torch.int64 []\n" + struct.pack("<q", 7)
    content += b"b torch.bfloat16 [2, 1]\n" + bytes([0x80, 0x3F, 0x00, 0x40])
    assert state_digest(state) == hashlib.sha256(content).hexdigest()
    channels_last = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert state_digest({"a": channels_last}) == state_digest({"a": channels_last.contiguous()})


def test_digests_tell_weights_apart(tmp_path, network):
    opened = opened_from(tmp_path, network.state_dict())
    assert opened.digest == file_digest(tmp_path / "other.pth", "sha256")
    random = [open_model(TINY_RESNET, weights="none", seed=seed).digest for seed in (0, 0, 1)]
    assert random[0] == random[1] != random[2]


# ------------------------------------------------------------------- seen normalisations


class Normalize(nn.Module):
    def forward(self, images):
        return images * 2 - 1


class Normalization(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.std = [0.5] * 3, [0.25] * 3


class Unit(nn.Module):
    """Scales features to length one, as some heads do."""

    def __init__(self):
        super().__init__()
        self.p = 2


Unit.__name__ = "Normalize"


class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.std = 0.0, 0.1


def with_buffers(mean, std, shape=(1, 3, 1, 1)):
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    module.register_buffer(mean, torch.full((3,), 0.5).reshape(shape))
    module.register_buffer(std, torch.full((3,), 0.25).reshape(shape))
    return module


def with_transform():
    module = nn.Linear(3, 2)
    module.preprocess = torchvision.transforms.Compose([v2.Normalize(MEAN, STD)])
    return module


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        (nn.Sequential(torchvision.transforms.Normalize(MEAN, STD), nn.Flatten()), "0 (Normalize)"),
        (nn.Sequential(nn.Sequential(v2.Normalize(MEAN, STD))), "0.0 (Normalize)"),
        (nn.Sequential(Normalize(), nn.Flatten()), "0 (Normalize)"),
        (nn.Sequential(nn.Sequential(Normalization()), nn.Flatten()), "0.0 (Normalization)"),
        (with_buffers("mean", "std"), "its top (Sequential) with mean 0.5 0.5 0.5 and std 0.25"),
        (with_buffers("pixel_mean", "pixel_std", (3,)), "its top (Sequential) with mean"),
        (with_buffers("mu", "sigma"), "its top (Sequential) with mean"),
        (with_transform(), "the transform in its attribute preprocess"),
        (build(ModelSpec(TINY_RESNET, 2, mean=MEAN, std=STD)), "its top (Classifier) with mean"),
    ],
)
def test_a_modules_own_normalisation_is_seen(module, seen):
    assert find_normalisation(module).startswith(seen)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        nn.BatchNorm2d(3),
        build(ModelSpec(TINY_RESNET, 2)),
        timm.create_model("test_vit"),
        nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.LayerNorm(3), nn.InstanceNorm2d(3))),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2), Unit()),
        nn.Sequential(Noise(), nn.Linear(3, 2)),
    ],
)
def test_layers_of_a_network_are_not_taken_for_one(module):
    assert find_normalisation(module) is None


# -------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("resnet18", {}, "'resnet18'.*'torchvision:resnet18'"),
        ("test_resnet", {}, "'timm:test_resnet'"),
        ("tim:resnet18", {}, "'timm:resnet18'"),
        ("Torchvision:resnet18", {}, "'torchvision:resnet18'"),
        ("model.onnx", {}, "'onnx:model.onnx'"),
        ("net.py", {}, "'python:net.py:FUNCTION'"),
        (
            "nonsense",
            {},
            r"'nonsense'.*torchvision:NAME, timm:NAME, hf",
        ),
        ("file:x", {}, "'file:x'.*python:FILE.py:FUNCTION"),
        ("w.pth", {}, "no file w.pth"),
        ("w.pth", {"architecture": TINY_RESNET}, "no file w.pth"),
        ("w.pth", {"architecture": "resnet18"}, "'resnet18'.*timm:NAME"),
        (TINY_RESNET, {"architecture": TINY_RESNET}, "architecture .* timm:test"),
        ("run:x", {"classes": 3, "mean": MEAN}, "classes and mean .* run:x"),
        ("python:x.py:f", {"classes": 3}, "classes .* python:x.py:f.* mean, std, input_size"),
        ("run:x", {"outputs": "logits"}, "outputs .* run:x"),
        ("hf:x", {"mean": MEAN, "std": STD}, "mean and std .* hf:x"),
        ("onnx:x.onnx", {"classes": 3}, "classes .* onnx:x.onnx.* mean, std"),
        ("onnx:x.onnx", {}, "onnx:x.onnx.*no such file"),
        ("python:x.py", {}, "FILE.py:FUNCTION.*'x.py'"),
        ("python:x.py:f", {}, "no file x.py"),
        (TINY_RESNET, {"input_size": 7}, "input_size .*8.* 7"),
        (TINY_RESNET, {"classes": 0}, "classes .*1.* 0"),
        (TINY_RESNET, {"mean": MEAN}, "give both or neither"),
        (TINY_RESNET, {"weights": "lite0"}, "lite0.*tf_efficientnet_lite0"),
    ],
)
def test_bad_sources_get_one_clear_sentence(source, options, words):
    with pytest.raises(InputError, match=words):
        open_model(source, **options)


def test_weights_without_a_network_name_the_option(tmp_path):
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "w.pth")
    words = r"w\.pth holds only weights: .*python:FILE\.py:FUNCTION; .*--architecture timm:NAME"
    with pytest.raises(InputError, match=words):
        open_model(str(tmp_path / "w.pth"))
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(InputError, match=r"notes\.txt is damaged or not a PyTorch checkpoint"):
        open_model(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("options", [{}, {"weights": "none"}, {"weights": "lite0"}], ids=str)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision:resnet19", "'resnet19'.*'resnet18'"),
        ("timm:resnet19", "'resnet19'.*'resnet18'"),
        (
            "timm:resnet50.a1_in1",
            "did you mean 'resnet50.a1_in1k'.*timm.list_pretrained",
        ),
        ("timm:resnet19.a1_in1k", "'resnet19'.*'resnet18'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "'fasterrcnn"),
        ("timm:", "timm.*''"),
    ],
)
def test_a_network_that_there_is_not_is_one_sentence(source, options, words):
    with pytest.raises(InputError, match=words) as caught:
        open_model(source, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "file",
    ["m.tflite", "a/m.h5", "m.keras", "m/saved_model.pb", "m.mlmodel", "m.mlpackage", "m.engine"],
)
@pytest.mark.parametrize("form", ["{}", "onnx:{}"])
def test_files_of_other_programs_say_how_they_become_onnx(file, form):
    with pytest.raises(InputError) as caught:
        open_model(form.format(file))
    said = str(caught.value)
    assert file in said
    assert f"onnx:{Path(file).with_suffix('.onnx')}" in said
    assert ("tf2onnx" in said) == (not file.endswith((".mlmodel", ".mlpackage", ".engine")))


def test_an_onnx_file_may_be_named_pb(tmp_path):
    (tmp_path / "network.pb").write_bytes(b"")
    check_model(f"onnx:{tmp_path}/network.pb", ModelOptions())
    with pytest.raises(InputError, match="TensorFlow"):
        check_model(f"{tmp_path}/network.pb", ModelOptions())


def test_a_long_table_shows_the_closest_names_and_what_lists_them_all():
    with pytest.raises(InputError) as caught:
        open_model("timm:resnet5")
    said = str(caught.value)
    for words in ("resnet50", "resnet51q", "timm.list_models()", f"{len(timm.list_models()):,}"):
        assert words in said
    assert len(said) < 250


def test_a_missing_file_names_the_closest_one(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"did you mean '.*network\.onnx'"):
        open_model(f"onnx:{tmp_path}/netwrk.onnx")


def test_a_folder_is_known_by_what_is_in_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"did you mean 'hf:{tmp_path}'"):
        open_model(str(tmp_path))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match=f"did you mean 'run:{tmp_path}'"):
        open_model(str(tmp_path))


def test_load_model_takes_every_source(tmp_path, network, expected):
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = load_model(str(tmp_path / "w.pth"), architecture=TINY_RESNET)
    with torch.inference_mode():
        assert torch.equal(model(IMAGES), expected)
    with pytest.raises(InputError, match=r"weights.* onnx:x"):
        load_model("onnx:x.onnx", weights="imagenet")
    with pytest.raises(InputError, match=f"architecture.*{TINY_RESNET}"):
        load_model(TINY_RESNET, architecture=TINY_RESNET)


def test_a_user_without_a_home_folder_is_named():
    for source in ("~nobody_has_this_name/a.pth", "onnx:~nobody_has_this_name/a.onnx"):
        with pytest.raises(InputError, match="a user without a home folder"):
            open_model(source)
