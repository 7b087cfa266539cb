"""Models: what is loaded is what was published, and nothing is normalised twice or by accident."""

import http.server
import pickle
import threading

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from fairweather.errors import InputError
from fairweather.files.download import file_digest
from fairweather.models.building import (
    ModelSpec,
    _UninitialisedParameters,
    build,
    find_head,
    find_lite0_file,
    render_model_json,
    weights_digest,
)
from fairweather.models.opening import load_model
from tests.conftest import TINY_EFFICIENTNET, TINY_RESNET


def inner(model, images):
    """Logits of the network behind the classifier's normalisation."""
    return model.network((images - model.mean) / model.std)


@pytest.mark.parametrize("backbone", ["torchvision:resnet18", "timm:resnet18", TINY_EFFICIENTNET])
def test_a_new_head_has_as_many_outputs_as_classes(backbone):
    model = load_model(backbone, classes=7, weights="none")
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert not model.training
    head = find_head(model, backbone)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 7


# At night the families too whose smallest network has hundreds of megabytes.
@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "densenet121",
        "convnext_tiny",
        pytest.param("vgg11", marks=pytest.mark.nightly),
        pytest.param("vit_b_32", marks=pytest.mark.nightly),
    ],
)
def test_the_head_of_a_torchvision_model_is_its_last_layer(name):
    model = load_model(f"torchvision:{name}", classes=3, weights="none")
    assert find_head(model, f"torchvision:{name}").out_features == 3


def test_the_seed_decides_the_weights_and_the_callers_random_state_stays():
    before = torch.random.get_rng_state()
    a, b, c = (load_model(TINY_RESNET, classes=3, seed=seed, weights="none") for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [next(model.parameters()) for model in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_lite0_is_the_published_imagenet_classifier():
    model = load_model("timm:tf_efficientnet_lite0", weights="lite0")
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5, 0.5, 0.5]
    published = list(torch.load(find_lite0_file(), weights_only=True).values())
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(model.network.state_dict().values(), published, strict=True)
    )
    assert model(torch.rand(1, 3, 224, 224)).shape == (1, 1000)


def test_lite0_with_a_new_head_keeps_the_backbone():
    full = load_model("timm:tf_efficientnet_lite0", weights="lite0").network.state_dict()
    ours = load_model("timm:tf_efficientnet_lite0", classes=4, weights="lite0").network.state_dict()
    differing = [
        key
        for key in full
        if full[key].shape != ours[key].shape or not torch.equal(full[key], ours[key])
    ]
    assert differing == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_is_loaded_with_its_backbones_statistics(tmp_path, suffix):
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    path = tmp_path / f"weights{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    model = load_model("torchvision:resnet18", classes=3, weights=path)
    assert torch.equal(model.network.conv1.weight, state["conv1.weight"])
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    same_width = load_model("torchvision:resnet18", classes=5, weights=path)
    assert torch.equal(same_width.network.fc.weight, state["fc.weight"])
    given = load_model(
        "torchvision:resnet18", classes=5, weights=path, mean=[0.1] * 3, std=[0.2] * 3
    )
    assert given.std.flatten().tolist() == pytest.approx([0.2] * 3)


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    del state["layer1.0.conv1.weight"]
    state["extra.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    words = r"missing layer1\.0\.conv1\.weight; unexpected extra\.weight; of another shape conv1"
    with pytest.raises(InputError, match=words):
        load_model("torchvision:resnet18", classes=5, weights=tmp_path / "w.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "whole.pth")
    for name in ("evil.pth", "whole.pth"):
        with pytest.raises(InputError, match=r"save it with"):
            load_model("torchvision:resnet18", classes=5, weights=tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_weights_come_from_an_address_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    # As the authors of Barlow Twins publish theirs: torchvision's names, no head.
    published = load_model("torchvision:resnet18", classes=7, seed=3, weights="none").network
    state = {k: v for k, v in published.state_dict().items() if not k.startswith("fc.")}
    torch.save(state, served / "resnet18.pth")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            requests.append(args)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/resnet18.pth"
        spec = ModelSpec("torchvision:resnet18", 5, weights=address)
        with pytest.raises(InputError, match="downloads are off"):
            build(spec, offline=True)
        models = [build(spec, seed=1), build(spec, seed=1, offline=True)]
        server.shutdown()
    assert len(requests) == 1
    for model in models:
        assert torch.equal(model.network.conv1.weight, state["conv1.weight"])
        assert torch.equal(model.network.fc.weight, models[0].network.fc.weight)
    assert weights_digest(spec, offline=True) == file_digest(served / "resnet18.pth", "sha256")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_model("torchvision:resnet81", classes=2), "did you mean 'resnet"),
        (lambda: load_model("timm:resnet_18", classes=2), "unknown timm model 'resnet_18'"),
        (lambda: load_model("timm:resnet18.a1_in1", classes=2), "did you mean 'resnet18.a1_in1k'"),
        (lambda: load_model("resnet18", classes=2), "unknown model source 'resnet18'"),
        (lambda: load_model(TINY_RESNET, weights="imagenett"), "did you mean 'imagenet'"),
        (lambda: load_model(TINY_RESNET, weights="no/such.pth"), "there is no file no/such.pth"),
        (lambda: load_model(TINY_RESNET, weights="lite0"), "the lite0 weights belong to timm:tf_"),
        (lambda: load_model(TINY_RESNET, classes=2, stem="tiny"), "unknown stem 'tiny'"),
        (
            lambda: load_model("torchvision:squeezenet1_1", classes=2, stem="small"),
            "not for SqueezeNet",
        ),
        (lambda: load_model(TINY_RESNET, classes=2, mean=[0.5]), "give both or neither"),
        (lambda: load_model(TINY_RESNET, mean=[0.5], std=[1.0]), "mean .*one per channel"),
        (lambda: load_model("run:/nowhere/models/a/seed-0"), "run:/nowhere/models/a/seed-0"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_the_small_stem_keeps_the_resolution():
    images = torch.rand(1, 3, 28, 28)
    for stem, side in (("imagenet", 7), ("small", 28)):
        network = load_model("torchvision:resnet18", classes=2, stem=stem, weights="none").network
        early = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        assert early.shape[-1] == side
    lite = load_model("timm:tf_efficientnet_lite0", classes=2, weights="lite0", stem="small")
    assert lite.network.conv_stem(images).shape[-1] == 28


def test_normalisation_is_inside_and_only_once():
    model = load_model(
        TINY_RESNET, classes=3, mean=(0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3), weights="none"
    )
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), inner(model, images))
    bare = load_model(TINY_RESNET, classes=3, weights="none")
    assert torch.allclose(bare.network(images), bare(images))


def test_input_size_resizes_inside():
    small = torch.rand(2, 3, 20, 20)
    model = load_model(TINY_RESNET, classes=3, input_size=40, weights="none")
    resized = torch.nn.functional.interpolate(small, (40, 40), mode="bilinear", antialias=True)
    assert torch.allclose(model(small), model(resized))
    assert torch.equal(model(resized), inner(model, resized))


def saved(folder, spec, model):
    """How a model that a run has saved is named."""
    (folder / "model.json").write_text(render_model_json(spec, {"note": "for people"}))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return f"run:{folder}"


def test_a_checkpoint_carries_everything(tmp_path):
    spec = ModelSpec(TINY_RESNET, 3, input_size=24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    model = build(spec, seed=5).eval()
    loaded = load_model(saved(tmp_path, spec, model))
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    "name", ["resnet", "convnext", "efficientnet_evos", "mambaout", "maxvit", "vit3", "vit_relpos"]
)
def test_a_loaded_network_is_the_saved_one_to_the_bit(tmp_path, name):
    """Its random numbers are not drawn, so that all it has must come from the file or be fixed."""
    if not timm.is_model(f"test_{name}"):
        pytest.skip(f"timm {timm.__version__} has no test_{name}")
    spec = ModelSpec(f"timm:test_{name}", 3)
    with torch.random.fork_rng():
        model = build(spec, seed=3).eval()
        for each in model.parameters():  # some begin at zero, and would hide others
            each.data.normal_(std=0.1)
    loaded = load_model(saved(tmp_path, spec, model))
    for kind in ("named_parameters", "named_buffers"):
        expected, found = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], each) for key, each in expected.items())
    pixels = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))


def test_only_parameters_are_left_undrawn():
    """A buffer that is not stored would have random memory else."""
    with torch.random.fork_rng(), _UninitialisedParameters():
        before = torch.get_rng_state()
        nn.Linear(3, 3)
        nn.init.kaiming_normal_(nn.Conv2d(3, 3, 1).weight)
        assert torch.equal(torch.get_rng_state(), before)
        torch.empty(3).normal_()
        assert not torch.equal(torch.get_rng_state(), before)


def test_batchnorm_frozen_once_stays_frozen_through_train():
    model = load_model(TINY_RESNET, classes=3, weights="none")
    model.freeze_batchnorm()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    model.train()
    assert model.network.training
    assert not any(norm.training for norm in norms)
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


def test_weights_are_told_apart_by_content(tmp_path):
    path = tmp_path / "w.safetensors"
    digests = []
    for value in (0.0, 1.0):
        safetensors.torch.save_file({"a": torch.full((2,), value)}, path)
        digests.append(weights_digest(ModelSpec(TINY_RESNET, weights=str(path))))
    assert digests[0] != digests[1]
    assert weights_digest(ModelSpec(TINY_RESNET)) == "none"
