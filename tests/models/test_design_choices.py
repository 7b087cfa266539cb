"""Design choices: stem, norm, pooling and width change what they say and nothing else."""

import json
import math
from dataclasses import asdict
from functools import cache

import numpy as np
import pydantic
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import nn

from fairweather.errors import InputError
from fairweather.models.backbones import (
    CHOICES,
    apply_choices,
    count_groups,
    scale_channels,
    use_group_norm,
)
from fairweather.models.building import (
    ModelSpec,
    build,
    find_head,
    load_checkpoint,
    render_model_json,
    resolve_normalisation,
)
from fairweather.models.opening import load_model
from fairweather.runs.fingerprints import effective_facts
from fairweather.variants.batchnorm import BatchNorm
from tests.conftest import TINY_EFFICIENTNET, TINY_RESNET

LITE0 = "timm:tf_efficientnet_lite0"
BACKBONES = ["torchvision:resnet18", "timm:resnet10t", TINY_RESNET, LITE0]
NORMS = nn.modules.batchnorm._BatchNorm
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def norms(model):
    return [module for module in model.modules() if isinstance(module, NORMS)]


@cache
def outputs_of_published(backbone):
    return build(ModelSpec(backbone, 5), seed=2).eval()(IMAGES)


def write(folder, spec, model):
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_text(render_model_json(spec, {}))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "choices",
    [
        {"norm": "group"},
        {"stem": "small", "pooling": "max"},
        {"stem": "small", "norm": "group", "pooling": "average+max", "width": 0.5},
    ],
)
def test_all_choices_go_together_and_through_a_checkpoint(tmp_path, backbone, choices):
    if "width" in choices and (not backbone.startswith("timm:") or backbone == LITE0):
        choices = {**choices, "width": 1.0}
    spec = ModelSpec(backbone, 5, **choices)
    model = build(spec, seed=2).eval()
    assert model(IMAGES).shape == (3, 5)
    assert find_head(model, backbone).out_features == 5
    assert bool(norms(model)) == (spec.norm == "batch")
    write(tmp_path, spec, model)
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    # Each choice made a difference, and the published network is another one.
    assert not torch.allclose(outputs_of_published(backbone), model(IMAGES))


@pytest.mark.parametrize(
    "changes",
    [
        *({"backbone": 2}, {"classes": "three"}, {"classes": [3]}, {"weights": None}),
        *({"stem": "x"}, {"input_size": "x"}, {"input_size": float("nan")}, {"input_size": -1}),
        *({"mean": [0, 0]}, {"std": [1, 1, {"a": "b"}]}, {"std": [1, 1, float("inf")]}),
        *({"norm": "layer"}, {"pooling": 1}, {"width": {}}, {"dropout": 0.5}),
    ],
)
def test_a_description_of_another_kind_is_one_sentence(tmp_path, changes):
    spec = ModelSpec(TINY_RESNET, 5)
    write(tmp_path, spec, build(spec))
    facts = json.loads((tmp_path / "model.json").read_text())
    facts["spec"] |= changes
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="damaged model"):
        load_checkpoint(tmp_path)


def test_what_is_not_chosen_stays_as_it_was_to_the_bit():
    for backbone, published in (
        ("torchvision:resnet18", lambda: torchvision.models.resnet18(num_classes=5)),
        (TINY_RESNET, lambda: timm.create_model("test_resnet", num_classes=5)),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(7)
            expected = published().state_dict()
        chosen = {"norm": "batch", "pooling": "average", "width": 1.0}
        state = build(ModelSpec(backbone, 5, **chosen), seed=7).network.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)


# ------------------------------------------------------------------------------- group norm


def by_definition(images, groups, weight, bias, eps):
    """Wu & He 2018, equations 1, 2 and 7: each group of each image by itself."""
    out = np.empty_like(images)
    size = images.shape[1] // groups
    for image in range(len(images)):
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            values = images[image, part]
            normed = (values - values.mean()) / np.sqrt(values.var() + eps)
            scale, shift = (each[part, None, None] for each in (weight, bias))
            out[image, part] = normed * scale + shift
    return out


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("channels", [64, 40, 12])
def test_group_norm_is_that_of_the_paper_with_the_affine_part_and_epsilon_kept(kind, channels):
    rng = np.random.default_rng(channels)
    old = kind(channels, eps=1e-3)
    weight, bias = rng.normal(size=(2, channels)).astype(np.float32)
    old.weight.data, old.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    network = nn.Sequential(old)
    use_group_norm(network)
    images = rng.normal(2, 3, (4, channels, 5, 3)).astype(np.float32)
    expected = by_definition(images.astype(np.float64), count_groups(channels), weight, bias, 1e-3)
    if kind is BatchNormAct2d:  # the activation that timm fuses with it stays
        assert network[0].act is old.act
        expected = expected.clip(min=0)
    np.testing.assert_allclose(network(torch.from_numpy(images)).detach(), expected, atol=2e-5)
    assert network[0].weight is old.weight


def test_groups_are_the_most_that_divide_evenly():
    for channels in range(1, 600):
        count = count_groups(channels)
        fitting = [
            groups
            for groups in range(1, channels + 1)
            if channels % groups == 0 and groups <= 32 and channels >= 2 * groups
        ]
        assert count == max(fitting, default=1)
    assert count_groups(2048) == count_groups(64) == 32  # as published for ResNets


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_group_norm_an_image_in_training_depends_on_no_other(backbone):
    for norm in ("group", "batch"):
        model = build(ModelSpec(backbone, 5, norm=norm), seed=1).train()
        with torch.inference_mode():
            together, alone = model(IMAGES), model(IMAGES[:2])
        assert torch.allclose(together[:2], alone, atol=1e-4) == (norm == "group")


@pytest.mark.parametrize("backbone", [TINY_RESNET, TINY_EFFICIENTNET, "torchvision:resnet18"])
def test_group_norm_changes_no_name_and_no_first_weight(backbone):
    batch, group = (
        build(ModelSpec(backbone, 5, norm=norm), seed=1).state_dict() for norm in ("batch", "group")
    )
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert list(group) == [key for key in batch if not key.endswith(statistics)]
    assert all(torch.equal(group[key], batch[key]) for key in group)
    sizes = [sum(p.numel() for p in build(ModelSpec(backbone, 5, norm=n)).parameters())
             for n in ("batch", "group")]  # fmt: skip
    assert sizes[0] == sizes[1]


def test_without_batch_norm_freezing_does_nothing_and_adapting_is_refused():
    model = build(ModelSpec(TINY_RESNET, 5, norm="group"))
    model.freeze_batchnorm()
    model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    with pytest.raises(InputError, match="batch norm"):
        BatchNorm().adapt(model)


def test_weights_of_a_network_with_group_norm_fit_one_with_group_norm_only(tmp_path):
    path = tmp_path / "w.safetensors"
    model = build(ModelSpec(TINY_RESNET, 5, norm="group", pooling="max", width=0.5), seed=3)
    safetensors.torch.save_file(model.state_dict(), path)
    spec = ModelSpec(TINY_RESNET, 5, str(path), norm="group", width=0.5)
    start = build(spec, seed=4).state_dict()
    assert all(torch.equal(start[key], tensor) for key, tensor in model.state_dict().items())
    with pytest.raises(InputError, match=r"missing .*running_mean"):
        build(ModelSpec(TINY_RESNET, 5, str(path), width=0.5))
    with pytest.raises(InputError, match="layer1"):
        build(ModelSpec(TINY_RESNET, 5, str(path), norm="group"))
    safetensors.torch.save_file(build(ModelSpec(TINY_RESNET, 5)).state_dict(), path)
    with pytest.raises(InputError, match=r"unexpected network\.bn1\.num_batches_tracked"):
        build(ModelSpec(TINY_RESNET, 5, str(path), norm="group"))


# ---------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize(
    ("backbone", "last"),
    [
        ("torchvision:resnet18", "layer4"),
        ("torchvision:mobilenet_v3_small", "features"),
        ("torchvision:convnext_tiny", "features"),
        ("timm:resnet18", "layer4"),
        (TINY_EFFICIENTNET, "bn2"),
        ("timm:test_convnext", "stages"),
    ],
)
def test_the_last_feature_maps_are_pooled_as_chosen(backbone, last):
    pooled, maps = {}, []
    for pooling in ("average", "max", "average+max"):
        network = build(ModelSpec(backbone, 5, pooling=pooling), seed=1).network.eval()
        network.get_submodule(last).register_forward_hook(lambda *call: maps.append(call[2]))
        layers = [
            module
            for name, module in network.named_modules()
            if name in ("avgpool", "global_pool", "head.global_pool")
        ]
        layers[0].register_forward_hook(
            lambda *call, pooling=pooling: pooled.setdefault(pooling, call[2])
        )
        with torch.inference_mode():
            assert network(torch.rand(2, 3, 96, 96)).shape == (2, 5)
        average, maximum = maps[-1].mean((2, 3)), maps[-1].amax((2, 3))
        expected = {"average": average, "max": maximum, "average+max": (average + maximum) / 2}
        torch.testing.assert_close(pooled[pooling].flatten(1), expected[pooling])
    assert len({each.shape for each in pooled.values()}) == 1


def test_pooling_makes_no_parameter_and_draws_nothing():
    states = [build(ModelSpec(TINY_RESNET, 5, pooling=p)).state_dict() for p in CHOICES["pooling"]]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(state[key], states[0][key]) for key in state)


# ------------------------------------------------------------------------------------ width


def parameters_of_resnet18(stages, classes, stem=64):
    """Count by hand: 3x3 convolutions and norms of two blocks a stage, projections, the head."""

    def convolution(side, before, after):
        return side * side * before * after + 2 * after  # with the norm behind it

    count, before = convolution(7, 3, stem), stem
    for place, after in enumerate(stages):
        count += convolution(3, before, after) + 3 * convolution(3, after, after)
        if place or before != after:
            count += convolution(1, before, after)
        before = after
    return count + (before + 1) * classes


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0, 1.5, 2.0])
def test_the_width_multiplies_the_channels_of_every_stage(width):
    model = build(ModelSpec("timm:resnet18", 10, width=width))
    stages = [int(width * channels) for channels in (64, 128, 256, 512)]
    found = [model.network.get_submodule(f"layer{n}")[-1].conv2.out_channels for n in (1, 2, 3, 4)]
    assert found == stages
    assert sum(p.numel() for p in model.parameters()) == parameters_of_resnet18(stages, 10)
    assert find_head(model, "timm:resnet18").in_features == stages[-1]


def test_bottlenecks_and_mixed_stages_are_scaled_before_they_expand():
    network = build(ModelSpec(TINY_RESNET, 5, width=0.5)).network
    assert [stage["num_chs"] for stage in network.feature_info] == [32, 16, 24, 4 * 24, 48]
    wide = build(ModelSpec("timm:resnet14t", 5, width=2.0)).network
    assert wide.layer4[-1].conv2.out_channels == 2 * 512
    assert wide.fc.in_features == 2 * 2048


def test_channels_are_the_nearest_multiple_of_8():
    for channels in (8, 24, 48, 64, 512):
        for width in np.linspace(0.01, 3, 60):
            found = scale_channels(channels, width)
            assert found % 8 == 0
            assert found == 8 or abs(found - channels * width) <= 4
    assert scale_channels(1, 0.01) == 8


# ------------------------------------------------------------------------ the specification


def test_a_specification_of_before_is_still_what_it_was(tmp_path):
    spec = ModelSpec(TINY_RESNET, 3, input_size=24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    before = {
        "backbone": TINY_RESNET,
        "classes": 3,
        "weights": "none",
        "stem": "imagenet",
        "input_size": 24,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }
    assert effective_facts(spec) == before
    assert list(effective_facts(spec)) == list(before)
    written = json.dumps({"spec": before, "note": "for people"}, indent=2) + "\n"
    assert render_model_json(spec, {"note": "for people"}) == written
    model = build(spec, seed=5).eval()
    (tmp_path / "model.json").write_text(written)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(load_checkpoint(tmp_path)(IMAGES), model(IMAGES))


def test_what_is_chosen_stands_in_the_facts_and_a_digest_does_not():
    spec = ModelSpec(TINY_RESNET, 3, norm="group", pooling="max", width=0.5)
    assert {"norm": "group", "pooling": "max", "width": 0.5}.items() <= effective_facts(
        spec
    ).items()
    assert effective_facts(
        ModelSpec("a:b", 3, "w.pth", weights_sha256="0" * 64)
    ) == effective_facts(ModelSpec("a:b", 3, "w.pth"))
    assert set(asdict(spec)) - set(effective_facts(ModelSpec("a:b"))) == {
        *("norm", "pooling", "width", "weights_sha256"),
    }
    read = pydantic.TypeAdapter(ModelSpec).validate_python(
        effective_facts(resolve_normalisation(spec))
    )
    assert read == resolve_normalisation(spec)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "layer"}, "'layer'.* batch, group"),
        ({"norm": "groups"}, "did you mean 'group'"),
        ({"pooling": "avg"}, "pooling 'avg'.* 'average'"),
        ({"stem": "tiny"}, "stem 'tiny'"),
        ({"width": 0.0}, "width .*> 0, found 0.0"),
        ({"width": -1.0}, "width .*> 0, found -1.0"),
        ({"width": math.inf}, "width .*> 0, found inf"),
        ({"width": math.nan}, "width .*> 0, found nan"),
        ({"weights_sha256": "0" * 64}, "weights_sha256 .* none: give a local file"),
        (
            {"weights": "imagenet", "norm": "group"},
            "imagenet weights .* timm:test_resnet .*norm: group: .* none, or a file",
        ),
        ({"weights": "imagenet", "norm": "group", "width": 2.0}, "norm: group and width: 2: "),
    ],
)
def test_choices_that_cannot_be_made_are_told_in_one_sentence(options, words):
    with pytest.raises(InputError, match=words):
        load_model(TINY_RESNET, classes=3, **{"weights": "none", **options})


@pytest.mark.parametrize(
    ("backbone", "options", "words"),
    [
        ("torchvision:resnet18", {"width": 0.5}, "timm:resnet18, not for torchvision:resnet18"),
        (LITE0, {"width": 0.5}, f"timm:resnet18, not for {LITE0}"),
        ("timm:resnet50_gn", {"width": 0.25}, r"width 0\.25 does not suit timm:resnet50_gn: "),
        ("timm:resnext50_32x4d", {"width": 0.1}, "a layer has no channels left"),
        ("run:nowhere", {"norm": "group"}, "take norm, not run:nowhere"),
        ("torchvision:squeezenet1_1", {"pooling": "max"}, "pooling.* for Squeeze"),
        ("torchvision:densenet121", {"pooling": "max"}, "pooling.* for DenseNet"),
        ("timm:test_vit", {"pooling": "max"}, "pooling.* for VisionTransformer"),
        ("timm:test_vit", {"norm": "group"}, "batch norm, which VisionTransformer does not have"),
        (
            "torchvision:squeezenet1_1",
            {"norm": "group"},
            "which SqueezeNet does not have",
        ),
        ("onnx:x.onnx", {"norm": "group", "width": 0.5}, "take norm and width, not onnx:x.onnx"),
    ],
)
def test_networks_that_cannot_be_changed_so_are_told(backbone, options, words):
    by_name = backbone.startswith(("torchvision:", "timm:"))
    weights = {"weights": "none"} if by_name else {}
    with pytest.raises(InputError, match=words):
        load_model(backbone, classes=3, **weights, **options)


def test_a_grid_is_no_global_pooling():
    with torch.device("meta"):
        network = torchvision.models.vgg11()
    assert network.avgpool.output_size == (7, 7)
    with pytest.raises(InputError, match=r"pooling.* for VGG"):
        apply_choices(network, pooling="max")


def test_batch_norm_that_is_not_of_images_is_told():
    with pytest.raises(InputError, match=r"BatchNorm2d, BatchNormAct2d, .*Se"):
        apply_choices(nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm2d(4)), norm="group")


@pytest.mark.parametrize("name", ["resnet10t", "test_resnet"])
def test_a_deep_stem_keeps_the_resolution_and_its_weights(name):
    network = build(ModelSpec(f"timm:{name}", 2, stem="small"), seed=1).network.eval()
    early = network.maxpool(network.act1(network.bn1(network.conv1(IMAGES))))
    assert early.shape[2:] == IMAGES.shape[2:]
    published = build(ModelSpec(f"timm:{name}", 2), seed=1).network.state_dict()
    assert all(torch.equal(published[k], t) for k, t in network.state_dict().items())
