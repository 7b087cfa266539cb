"""Self-supervised checkpoints: only the backbone is taken, and what is not taken is named."""

import copy
import functools
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from fairweather.errors import InputError
from fairweather.files import download
from fairweather.files.download import file_digest
from fairweather.models.backbones import make_encoder, state_without_head
from fairweather.models.building import (
    ModelSpec,
    build,
    describe_weights,
    find_head,
    find_weights_file,
    weights_digest,
)
from fairweather.models.checkpoints import PUBLISHED_WEIGHTS, list_parts, match_state, name_children
from fairweather.models.opening import load_model
from fairweather.models.wrappers import Classifier
from tests.conftest import TINY_EFFICIENTNET, TINY_RESNET
from tests.helpers.opened_models import open_model

RESNET18, WIDE = "torchvision:resnet18", 128  # features of the narrow one
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def projector(*widths):
    """As Barlow Twins and VICReg build theirs: norm and ReLU but after the last layer."""
    layers = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=False))


class Pretraining(nn.Module):
    """Parts by name, as programs keep them."""

    def __init__(self, **named):
        super().__init__()
        for name, part in named.items():
            setattr(self, name, part)


@pytest.fixture
def narrow(monkeypatch):
    """torchvision's ResNets have a quarter of their channels: files and digests are a sixteenth."""

    class ResNet(torchvision.models.ResNet):
        def __init__(self, block, *others, num_classes=1000, **options):
            super().__init__(block, *others, num_classes=num_classes, **options)
            self.fc = nn.Linear(WIDE * block.expansion, num_classes)

        def __setattr__(self, name, value):
            is_first = name == "inplanes" and "conv1" not in self._modules
            super().__setattr__(name, value // 4 if is_first else value)

        def _make_layer(self, block, planes, *others, **options):
            return super()._make_layer(block, planes // 4, *others, **options)

    monkeypatch.setattr("torchvision.models.resnet.ResNet", ResNet)


@functools.cache
def drawn(name, **options):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return getattr(torchvision.models, name)(**options)


def resnet(fc=None, name="resnet18", **options):
    """torchvision's ResNet with something else for a head, as pre-training programs do it."""
    network = copy.deepcopy(drawn(name, **options))
    network.fc = nn.Identity() if fc is None else fc
    return network


def exclude_bias_and_norm(p):
    return p.ndim == 1


@pytest.fixture
def main_function(monkeypatch):
    """The function where it stands in the authors' programs, whose optimisers keep it."""
    monkeypatch.setattr(exclude_bias_and_norm, "__module__", "__main__")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "exclude_bias_and_norm", exclude_bias_and_norm, raising=False)
    return exclude_bias_and_norm


def optimizer_state(model, function):
    """What the LARS of Barlow Twins and VICReg leaves: its options, and a buffer a parameter."""

    class LARS(torch.optim.Optimizer):
        def step(self):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["mu"] = torch.zeros_like(parameter)

    options = dict.fromkeys(("weight_decay_filter", "lars_adaptation_filter"), function)
    defaults = {"lr": 0.2, "weight_decay": 1e-6, "momentum": 0.9, "eta": 0.001, **options}
    optimizer = LARS(model.projector.parameters(), defaults)
    optimizer.step()
    return optimizer.state_dict()


def distributed(model):
    return {f"module.{key}": tensor for key, tensor in model.state_dict().items()}


def barlow_twins():
    model = Pretraining(backbone=resnet(), projector=projector(WIDE, 16, 16, 16))
    model.bn = nn.BatchNorm1d(16, affine=False)
    return {"epoch": 3, "model": distributed(model), "optimizer": optimizer_state(model, True)}


def vicreg(function):
    model = Pretraining(backbone=resnet(), projector=projector(WIDE, 16, 16))
    return {"epoch": 3, "model": distributed(model), "optimizer": optimizer_state(model, function)}


def simsiam():
    fc = nn.Sequential(*projector(WIDE, 16, 16), nn.BatchNorm1d(16, affine=False))
    model = Pretraining(encoder=resnet(fc), predictor=projector(16, 8, 16))
    return {"epoch": 3, "arch": "resnet18", "state_dict": distributed(model), "optimizer": {}}


def moco(fc):
    model = Pretraining(encoder_q=resnet(fc), encoder_k=resnet(fc))
    model.register_buffer("queue", torch.zeros(16, 4))
    model.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
    return {"epoch": 3, "arch": "resnet18", "state_dict": distributed(model), "optimizer": {}}


def moco_v3():
    fc = projector(WIDE, 16, 16)
    model = Pretraining(
        base_encoder=resnet(fc), momentum_encoder=resnet(fc), predictor=projector(16, 16, 16)
    )
    return {"epoch": 3, "state_dict": distributed(model)}


def lightly():
    backbone = nn.Sequential(*list(resnet().children())[:-1])
    model = Pretraining(
        backbone=backbone,
        projection_head=Pretraining(layers=projector(WIDE, 16, 16)),
        prediction_head=Pretraining(layers=projector(16, 16, 16)),
        backbone_momentum=backbone,
        projection_head_momentum=projector(WIDE, 16, 16),
    )
    return {"pytorch-lightning_version": "2.5.0", "state_dict": model.state_dict()}


def solo_learn():
    model = Pretraining(
        backbone=resnet(),
        classifier=nn.Linear(WIDE, 10),
        projector=projector(WIDE, 16, 16),
        predictor=projector(16, 16, 16),
        momentum_backbone=resnet(),
        momentum_projector=projector(WIDE, 16, 16),
    )
    return {"epoch": 3, "state_dict": model.state_dict()}


def swav():
    model = resnet()
    model.projection_head, model.prototypes = projector(WIDE, 16, 16), nn.Linear(16, 4, bias=False)
    return distributed(model)


FORMATS = {
    "barlow twins": (barlow_twins, "module.backbone.", ["module.projector", "module.bn"]),
    "vicreg": (lambda: vicreg(None), "module.backbone.", ["module.projector"]),
    "simsiam": (simsiam, "module.encoder.", ["module.encoder.fc", "module.predictor"]),
    "moco": (
        lambda: moco(nn.Linear(WIDE, 128)),
        "module.encoder_q.",
        ["module.queue", "module.queue_ptr", "fc", "module.encoder_k"],
    ),
    "moco v2": (
        lambda: moco(projector(WIDE, WIDE, 128)),
        "module.encoder_q.",
        ["module.queue", "module.queue_ptr", "module.encoder_q.fc", "module.encoder_k"],
    ),
    "moco v3": (
        moco_v3,
        "module.base_encoder.",
        ["module.base_encoder.fc", "module.momentum_encoder", "module.predictor"],
    ),
    "lightly": (
        lightly,
        "backbone.",
        [
            *("projection_head", "prediction_head"),
            *("backbone_momentum", "projection_head_momentum"),
        ],
    ),
    "solo-learn": (
        solo_learn,
        "backbone.",
        ["classifier", "projector", "predictor", "momentum_backbone", "momentum_projector"],
    ),
    "swav": (swav, "module.", ["module.projection_head", "module.prototypes"]),
}


@functools.cache
def fresh_head(classes):
    return load_model(RESNET18, classes=classes, seed=0, weights="none").network.fc


def assert_is_backbone(model, classes):
    """All tensors but the head's are the file's; the head is that of the seed, not of the file."""
    expected, state = resnet().state_dict(), model.network.state_dict()
    assert set(state) == {*expected, "fc.weight", "fc.bias"}
    assert all(torch.equal(state[key], tensor) for key, tensor in expected.items())
    fresh = fresh_head(classes)
    assert torch.equal(model.network.fc.weight, fresh.weight)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", FORMATS)
def test_a_full_checkpoint_gives_its_backbone_and_names_the_rest(tmp_path, name):
    make, prefix, left_out = FORMATS[name]
    path = tmp_path / "checkpoint.pth"
    torch.save(make(), path)
    # 128 classes: the width of MoCo's projection, which is no head of a classifier.
    assert_is_backbone(load_model(RESNET18, classes=128, weights=path), 128)
    facts = describe_weights(ModelSpec(RESNET18, 128, str(path)))
    assert facts == json.loads(json.dumps(facts))
    assert facts["prefix"] == prefix
    assert facts["left_out"] == left_out
    assert facts["head"] == "newly initialised"
    assert facts["file"] == "checkpoint.pth"
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", FORMATS)
def test_every_tensor_is_either_taken_or_named(name):
    make, _, _ = FORMATS[name]
    held = make()
    state = held.get("model", held.get("state_dict", held))
    network = torchvision.models.resnet18()
    fitted = match_state(state, network, "fc")
    assert len(fitted.state) + len(fitted.pretraining) + len(fitted.left_out) == len(state)
    assert set(fitted.state) == {key for key in network.state_dict() if not key.startswith("fc.")}
    assert list(dict.fromkeys(list_parts(fitted.pretraining))) == list_parts(fitted.pretraining)


@pytest.mark.usefixtures("narrow")
def test_the_same_as_safetensors(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file(barlow_twins()["model"], path)
    assert_is_backbone(load_model(RESNET18, classes=7, weights=path), 7)
    safetensors.torch.save_file(resnet().state_dict(), path)
    assert_is_backbone(load_model(RESNET18, classes=7, weights=path), 7)
    assert describe_weights(ModelSpec(RESNET18, 7, str(path)))["left_out"] == []


@pytest.mark.usefixtures("narrow")
def test_a_function_in_the_optimisers_state_is_not_run_and_no_obstacle(tmp_path, main_function):
    path = tmp_path / "model.pth"
    torch.save(vicreg(main_function), path)
    assert b"exclude_bias_and_norm" in path.read_bytes()
    assert_is_backbone(load_model(RESNET18, classes=7, weights=path), 7)

    class Call:
        def __reduce__(self):
            return (main_function, (torch.ones(1),))

    torch.save({"model": resnet().state_dict(), "optimizer": Call()}, path)
    with pytest.raises(InputError, match="damaged"):
        load_model(RESNET18, classes=7, weights=path)


@pytest.mark.usefixtures("narrow")
def test_a_published_backbone_of_a_resnet50_is_loaded_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path))
    state = {
        key: tensor
        for key, tensor in torchvision.models.resnet50().state_dict().items()
        if not key.startswith("fc.")
    }
    assert len(state) == 318
    for name, row in PUBLISHED_WEIGHTS.items():
        spec = ModelSpec(row.backbone, 3, name)
        with pytest.raises(InputError, match=r"https://dl.fb"):
            build(spec, offline=True)
        place = hashlib.sha256(row.address.encode()).hexdigest()[:16]
        path = tmp_path / "weights" / place / "resnet50.pth"
        path.parent.mkdir(parents=True)
        torch.save(state, path)
        model = build(spec, offline=True)
        assert torch.equal(model.network.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])
        # ImageNet's statistics, with which both were trained.
        assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
        assert model.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
        assert weights_digest(spec, offline=True) == file_digest(path, "sha256")
        path.unlink()
    with pytest.raises(InputError, match=r"vicreg .*torchvision:resnet50"):
        load_model(RESNET18, classes=3, weights="vicreg")
    with pytest.raises(InputError, match=r"norm: group"):
        load_model("torchvision:resnet50", classes=3, weights="barlow_twins", norm="group")
    with pytest.raises(InputError, match="'barlow_twins'"):
        load_model("torchvision:resnet50", classes=3, weights="barlow_twin")


@pytest.mark.usefixtures("narrow")
def test_what_is_not_of_pretraining_stays_an_error(tmp_path):
    path = tmp_path / "w.pth"
    strange = {"module.strange.weight": torch.ones(1)}
    torch.save(barlow_twins()["model"] | strange, path)
    with pytest.raises(InputError, match=r"ResNet: unexpected module\.strange\.weight$"):
        load_model(RESNET18, classes=7, weights=path)
    # These names are pre-training's only beside a projector.
    for name in ("bn", "classifier"):
        plain = {f"backbone.{key}": tensor for key, tensor in resnet().state_dict().items()}
        torch.save(plain | {f"{name}.weight": torch.ones(7, WIDE)}, path)
        with pytest.raises(InputError, match=rf"unexpected {name}\.weight$"):
            load_model(RESNET18, classes=7, weights=path)
    state = barlow_twins()["model"]
    del state["module.backbone.bn1.weight"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"ResNet: missing bn1\.weight$"):
        load_model(RESNET18, classes=7, weights=path)
    torch.save(barlow_twins(), path)
    with pytest.raises(InputError, match=r"head of torchvision:resnet18 .*classes"):
        load_model(RESNET18, weights=path)


@pytest.mark.usefixtures("narrow")
def test_opening_one_as_a_classifier_says_that_it_has_no_head(tmp_path):
    torch.save(moco(nn.Linear(WIDE, 128)), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"head of torchvision:resnet18 .*trained classifier"):
        open_model(str(tmp_path / "w.pth"), architecture=RESNET18)


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_a_classifier_that_has_a_projector_itself_keeps_its_head(tmp_path, prefix):
    network = timm.create_model("test_resnet", num_classes=4).eval()
    held = {**network.state_dict(), "projector.0.weight": torch.ones(2, 96)}
    held = {prefix + key: tensor for key, tensor in held.items()}
    torch.save(held, tmp_path / "w.pth")
    opened = open_model(str(tmp_path / "w.pth"), architecture=TINY_RESNET)
    assert torch.equal(opened.model.network.fc.weight, network.fc.weight)
    assert opened.facts["checkpoint"]["left_out"] == [f"{prefix}projector"]
    facts = describe_weights(ModelSpec(TINY_RESNET, 4, str(tmp_path / "w.pth")))
    assert (facts["head"], facts["left_out"]) == ("from the weights", [f"{prefix}projector"])


def test_children_by_place_are_those_of_the_network():
    network = torchvision.models.resnet18()
    inside = nn.Sequential(*list(network.children())[:-1])
    numbered = {f"module.backbone.{key}": tensor for key, tensor in inside.state_dict().items()}
    named = name_children(numbered, [name for name, _ in network.named_children()])
    expected = [key for key in network.state_dict() if not key.startswith("fc.")]
    assert list(named) == [f"module.backbone.{key}" for key in expected]
    beyond = {"12.weight": torch.ones(1), "fc.0.weight": torch.ones(1)}
    assert name_children(beyond, ["conv1"]) == beyond
    # Of two tensors that would have one name, none is lost without a word.
    keys = ("0.weight", "conv1.weight", "4.0.conv1.weight")
    assert len(match_state({key: torch.ones(1) for key in keys}, network, "fc").state) == 3


def test_facts_of_weights_that_are_no_checkpoint(monkeypatch):
    from fairweather.models.backbones import Timm

    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr(Timm, "imagenet", lambda self, name, offline: state)
    shared = {"left_out": [], "nesting": "", "prefix": ""}
    for classes, head in ((3, "newly initialised"), (None, "from the weights")):
        facts = describe_weights(ModelSpec(TINY_RESNET, classes, "imagenet"))
        assert facts == {"weights": "imagenet", **shared, "head": head}
    facts = describe_weights(ModelSpec("timm:tf_efficientnet_lite0", 3, "lite0"))
    assert facts["sha256"] == file_digest(find_weights_file("lite0"), "sha256")
    assert facts["head"] == "newly initialised"


# -------------------------------------------------------------------------------- encoders

ENCODERS = {
    RESNET18: 512,
    "timm:resnet10t": 512,
    TINY_RESNET: 96,
    "timm:tf_efficientnet_lite0": 1280,
    "torchvision:densenet121": 1024,
    "torchvision:mobilenet_v2": 1280,
    "torchvision:mobilenet_v3_small": 1024,
    "torchvision:efficientnet_b0": 1280,
    "timm:test_vit": 64,
}


@pytest.mark.parametrize("backbone", ENCODERS)
def test_the_head_on_the_features_gives_the_logits(backbone):
    size = 160 if backbone == "timm:test_vit" else None
    model = build(
        ModelSpec(backbone, 5, input_size=size, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    )
    model.eval()
    encoder, features = make_encoder(model, backbone)
    assert features == ENCODERS[backbone]
    with torch.inference_mode():
        logits = model(IMAGES)
        found = encoder(IMAGES)
        assert found.shape == (2, features)
        assert torch.equal(find_head(model, backbone)(found), logits)
        assert torch.equal(model(IMAGES), logits)  # the classifier is as it was
    shared = {id(parameter) for parameter in model.parameters()}
    head = {id(parameter) for parameter in find_head(model, backbone).parameters()}
    assert {id(parameter) for parameter in encoder.parameters()} == shared - head
    assert {id(b) for b in encoder.buffers()} == {id(b) for b in model.buffers()}


def test_vggs_features_are_those_of_its_last_hidden_layer():
    with torch.device("meta"):
        network = torchvision.models.vgg11(num_classes=5)
    model = Classifier(network, (0.0,) * 3, (1.0,) * 3)
    encoder = make_encoder(model, "torchvision:vgg11")
    assert encoder.features == 4096
    assert encoder.module.network.classifier[3] is network.classifier[3]
    assert isinstance(network.classifier[6], nn.Linear)


def test_training_the_encoder_trains_the_classifier():
    model = build(ModelSpec(TINY_RESNET, 5)).train()
    before = model.network.fc.weight.clone(), model.network.conv1[0].weight.clone()
    encoder, _ = make_encoder(model, TINY_RESNET)
    assert encoder.training
    optimizer = torch.optim.SGD(encoder.parameters(), 0.1)
    encoder.train()(IMAGES).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.network.fc.weight, before[0])
    assert not torch.equal(model.network.conv1[0].weight, before[1])
    assert model.network.bn1.num_batches_tracked == 1
    encoder.to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64, torch.float32}
    assert model.network.fc.weight.dtype == torch.float32  # the head is not the encoder's
    assert model.mean.dtype == torch.float64


def test_batch_norm_frozen_before_is_frozen_in_the_encoder():
    model = build(ModelSpec(TINY_RESNET, 5))
    model.freeze_batchnorm()
    encoder, _ = make_encoder(model, TINY_RESNET)
    encoder.train()(IMAGES)
    assert model.network.bn1.num_batches_tracked == 0
    assert model.network.layer1.training


@pytest.mark.parametrize("options", [{}, {"norm": "group", "pooling": "max", "width": 0.5}])
def test_the_state_without_the_head_is_a_file_of_weights(tmp_path, options):
    path = tmp_path / "encoder.safetensors"
    spec = ModelSpec(TINY_RESNET, 5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), **options)
    model = build(spec, seed=1).to(memory_format=torch.channels_last)
    state = state_without_head(model, TINY_RESNET)
    assert set(model.state_dict()) - set(state) == {"network.fc.weight", "network.fc.bias"}
    safetensors.torch.save_file(state, path)
    start = ModelSpec(TINY_RESNET, 7, str(path), **options)
    loaded = build(start, seed=2)
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in state.items())
    fresh = build(ModelSpec(TINY_RESNET, 7, **options), seed=2)
    assert torch.equal(loaded.network.fc.weight, fresh.network.fc.weight)
    facts = describe_weights(start)
    assert (facts["prefix"], facts["head"]) == ("network.", "newly initialised")


@pytest.mark.parametrize("backbone", [TINY_EFFICIENTNET, "torchvision:mobilenet_v3_small"])
def test_heads_inside_a_part_are_left_out_alone(tmp_path, backbone):
    path = tmp_path / "encoder.safetensors"
    state = state_without_head(build(ModelSpec(backbone, 5), seed=1), backbone)
    safetensors.torch.save_file(state, path)
    loaded = build(ModelSpec(backbone, 7, str(path)), seed=2)
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in state.items())


def test_features_that_are_maps_are_told():
    model = build(ModelSpec("torchvision:squeezenet1_1", 5))
    with pytest.raises(InputError, match=r"\[B, D\].*found those"):
        make_encoder(model, "torchvision:squeezenet1_1")

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(36, 5))
    tokens = Classifier(network, (0.0,) * 3, (1.0,) * 3)
    encoder = make_encoder(tokens, RESNET18).module
    with pytest.raises(InputError, match=r"found one of shape \[2, 4, 36\]"):
        encoder(torch.rand(2, 3, 8, 8))


# --------------------------------------------------------------------------------- digests


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of one file that cuts its first answers off, and obeys ranges."""
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    torch.save(build(ModelSpec(TINY_RESNET, 5), seed=3).network.state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    state = SimpleNamespace(requests=[], cuts=[], digest=hashlib.sha256(content).hexdigest())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.requests.append(asked)
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
            self.send_response(206 if start else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(content)
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/w.pth"
        yield state
        server.shutdown()
        thread.join()


def test_weights_from_an_address_are_resumed_checked_and_kept(served):
    served.cuts = [10_000, 20_000]
    model = load_model(TINY_RESNET, classes=5, weights=served.url, weights_sha256=served.digest)
    assert served.requests == [None, "bytes=10000-", "bytes=30000-"]
    assert torch.equal(
        model.network.fc.weight, build(ModelSpec(TINY_RESNET, 5), seed=3).network.fc.weight
    )
    spec = ModelSpec(TINY_RESNET, 5, served.url, weights_sha256=served.digest.upper())
    assert describe_weights(spec, offline=True)["sha256"] == served.digest
    assert weights_digest(spec, offline=True) == served.digest
    assert len(served.requests) == 3


def test_a_wrong_digest_of_an_address_is_told_and_the_download_removed(served, tmp_path):
    wrong = "0" * 64
    for ask in (build, weights_digest):
        with pytest.raises(InputError, match=rf"{served.digest} .*{wrong}; .*rem"):
            ask(ModelSpec(TINY_RESNET, 5, served.url, weights_sha256=wrong))
    assert not list((tmp_path / "cache").rglob("w.pth*"))
    build(ModelSpec(TINY_RESNET, 5, served.url))  # without a digest, the file is taken as it is
    with pytest.raises(InputError, match=rf"{wrong}; remove .*downlo"):
        build(ModelSpec(TINY_RESNET, 5, served.url, weights_sha256=wrong))


def test_the_digest_of_a_local_file_is_checked(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build(ModelSpec(TINY_RESNET, 5)).network.state_dict(), path)
    digest, wrong = hashlib.sha256(path.read_bytes()).hexdigest(), "ab" * 32
    for good in (digest, digest.upper()):
        load_model(TINY_RESNET, classes=5, weights=path, weights_sha256=good)
    with pytest.raises(InputError, match=rf"w\.pth .*{digest} .*{wrong}$"):
        load_model(TINY_RESNET, classes=5, weights=path, weights_sha256=wrong)
    for malformed in (digest[:-1], digest + "0", "g" * 64, "", f" {digest}"):
        with pytest.raises(InputError, match=r"weights_sha256 .*64 hexadecimal"):
            load_model(TINY_RESNET, classes=5, weights=path, weights_sha256=malformed)
    lite0 = "timm:tf_efficientnet_lite0"
    with pytest.raises(InputError, match=wrong):
        load_model(lite0, classes=5, weights="lite0", weights_sha256=wrong)
