"""Methods of adaptation: as published, on what they work, and in which order they see images."""

import dataclasses
import importlib.util
import itertools
import json
import math
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
import typer.main
from timm.models import is_model_pretrained
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fairweather as fw
from fairweather.attacks.shift_lists import expand_with_clean
from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.inference import prediction
from fairweather.inference.prediction import Predictor, learn_from_source, predict, predict_shared
from fairweather.metrics.robustness import ALEXNET
from fairweather.models.opening import load_model
from fairweather.models.wrappers import Ensemble
from fairweather.shifts.table import make_shift
from fairweather.small_maps import multiply_small_maps
from fairweather.types.measurement import Passes
from fairweather.types.record import predictions_file
from fairweather.variants.adaptation import cotta
from fairweather.variants.adaptation.networks import softmax_entropy
from fairweather.variants.streams import IMAGE_ORDERS, draw_stream
from fairweather.variants.variant import VARIANTS, Adapting, read_variant, variant_class
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers import reference_adaptation as reference
from tests.helpers.commands import fairweather
from tests.helpers.finding_models import write_onnx
from tests.helpers.memory_habits import Plain
from tests.variants.test_adapting import bright

METHODS = [kind for kind in VARIANTS if issubclass(variant_class(kind), Adapting)]
CPU = torch.device("cpu")


# ---------------------------------------------------------------- the authors' code

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "official_adaptation.py"
# The last three rows of the outputs of the authors' code, at the commits that the note of the
# benchmark names.
OFFICIAL = json.loads((Path(__file__).parent / "official_logits.json").read_text())


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("official_adaptation", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", OFFICIAL)
def test_the_logits_are_those_of_the_authors_code(benchmark, case):
    text = benchmark.CASES[case][1]
    network, batches = benchmark.network_of(case), benchmark.batches_of(case)
    outputs = benchmark.ours(text, network, batches)
    if case.startswith("lame"):
        outputs = outputs.exp()
    np.testing.assert_allclose(outputs[-3:], OFFICIAL[case], rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- commands for published numbers

NOTES = BENCHMARK.parent / "notes" / "official_adaptation.md"


def test_the_commands_for_published_numbers_are_understood(tmp_path, monkeypatch):
    """The shell expands them, and their files lie in the published layouts, with few images."""
    _, _, text = NOTES.read_text(encoding="utf-8").partition("## Published numbers")
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    shell = f"fairweather() {{ printf '%s\\0' \"$@\" END; }}\n{block}"
    printed = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    calls = [call.split("\0")[:-1] for call in printed.stdout.split("END\0")[:-1]]
    monkeypatch.chdir(tmp_path)
    for name in ALEXNET:
        (tmp_path / "ImageNet-C" / name / "5" / "n01440764").mkdir(parents=True)
        (tmp_path / "CIFAR-10-C").mkdir(exist_ok=True)
        np.save(tmp_path / "CIFAR-10-C" / f"{name}.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.zeros(5, np.uint8))
    variants = re.findall(r"^\| .*\| `'?([^`'-][^`']*)'?`[^|]*\|$", text, re.MULTILINE)
    assert len(variants) == 12  # of the table
    assert len(calls) == 4
    for name, *words in calls:
        command = typer.main.get_command(app).commands[name]
        with command.make_context(name, words, **app.info.context_settings) as context:
            given = context.params
        shifts = expand_with_clean(given["shift"])
        found = {(shift.name.partition("/")[2], shift.level) for shift in shifts[1:]}
        assert found == {(corruption, 5.0) for corruption in ALEXNET}
        variants += given["variants"]
        source, _, model = given["model"].partition(":")
        assert source == "python" or is_model_pretrained(model)
    for variant in variants:
        assert read_variant(variant).adapting is not None


# ---------------------------------------------------------------- slow references

WIDTH, CLASSES = 12, 3


def small_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))
    with torch.no_grad():
        network[2].weight *= 4
        network[1].bias += 0.2 * torch.randn(WIDTH)
    return network.eval()


def small_batches(count=3, size=5):
    torch.manual_seed(3)
    return [torch.rand(size, 3, 2, 2) for _ in range(count)]


def as_numbers(network):
    return [
        value
        for tensor in (network[1].weight, network[1].bias, network[2].weight, network[2].bias)
        for value in tensor.detach().flatten().tolist()
    ]


def adapted_outputs(text, network, batches, source=()):
    variant = read_variant(text)
    adapted = variant.adapt(network).eval()
    if source:
        adapted.memory |= variant.learn(variant.adapt(network).eval(), source)
    with torch.no_grad():
        return torch.cat([adapted(batch.clone()) for batch in batches]), adapted


EATA = "margin: 0.9, redundancy: 0.97, learning_rate: 0.5"
SAR = "margin: 0.9, learning_rate: 0.2"
SLOW = {
    "tent: {optimiser: sgd, learning_rate: 0.5}": (reference.tent, (0.5,)),
    "tent: {optimiser: sgd, learning_rate: 0.5, steps: 2}": (reference.tent, (0.5, 2)),
    f"sar: {{{SAR}}}": (reference.sar, (0.2, 0.9, 0.05, 0.2)),
    f"sar: {{{SAR}, reset_below: 1.5}}": (reference.sar, (0.2, 0.9, 0.05, 1.5)),
    "t3a: {supports: 2}": (reference.t3a, (2,)),
    "t3a": (reference.t3a, (100,)),
    "lame": (reference.lame, ("rbf", 5)),
    "lame: {affinity: knn, neighbours: 2}": (reference.lame, ("knn", 2)),
    "lame: {affinity: linear}": (reference.lame, ("linear", 5)),
}


@pytest.mark.parametrize("text", SLOW)
def test_methods_are_those_of_their_papers(text):
    network, batches = small_network(), small_batches()
    slow, options = SLOW[text]
    images = [batch.flatten(1).tolist() for batch in batches]
    expected = slow(reference.Network(WIDTH, CLASSES), as_numbers(network), images, *options)
    outputs, _ = adapted_outputs(text, network, batches)
    if text.startswith("lame"):
        outputs = outputs.exp()
    np.testing.assert_allclose(outputs, expected, rtol=2e-3, atol=2e-3)
    plain = torch.cat([network(batch) for batch in batches]).detach()
    if "reset_below" in text:  # each batch begins with the model's own parameters
        np.testing.assert_allclose(outputs, plain, rtol=1e-5, atol=1e-5)
        return
    moved = outputs - (plain.softmax(1) if text.startswith("lame") else plain)
    assert moved[-5:].abs().max() > 0.02  # the tolerance would notice a method that does nothing


def test_sar_comes_back_and_goes_on_in_the_middle_of_a_stream():
    network = small_network()
    torch.manual_seed(4)
    images = torch.rand(200, 3, 2, 2)
    with torch.no_grad():
        images = images[softmax_entropy(network(images)).argsort()]
    first, *others = images[-15:].split(5)
    batches = [first, *images[:10].split(5), *others]  # unsure, sure, sure, unsure, unsure

    def expect(reset_below):
        seen = [batch.flatten(1).tolist() for batch in batches]
        own = reference.Network(WIDTH, CLASSES)
        rows = reference.sar(own, as_numbers(network), seen, 0.2, 1, 0.05, reset_below)
        return np.array(rows).reshape(5, 5, CLASSES)

    # The mean entropies are 0.99, 0.89, 0.81, 0.83 and 0.85.
    outputs, adapted = adapted_outputs(
        "sar: {margin: 1, learning_rate: 0.2, reset_below: 0.82}", network, batches
    )
    assert 0.82 < adapted.memory["entropy"] < 0.87
    outputs = outputs.reshape(5, 5, CLASSES).numpy()
    np.testing.assert_allclose(outputs, expect(0.82), rtol=2e-3, atol=2e-3)
    plain = torch.stack([network(batch) for batch in batches]).detach().numpy()
    moved = np.abs(outputs - plain).max((1, 2))
    assert moved[[1, 2, 4]].min() > 0.02  # it adapts before it comes back, and after that again
    assert moved[3] < 1e-5
    assert np.abs(outputs - expect(0))[3:].max((1, 2)).min() > 0.02
    # Its momentum stays: a new copy would take another step.
    anew, _ = adapted_outputs("sar: {margin: 1, learning_rate: 0.2}", network, batches[3:])
    assert np.abs(outputs[4] - anew[5:].numpy()).max() > 0.02


def test_cotta_is_that_of_its_paper(monkeypatch):
    monkeypatch.setattr(cotta, "augment", lambda images, random: images**2)
    network, batches = small_network(), small_batches()
    images = [batch.flatten(1).tolist() for batch in batches]
    expected = reference.cotta(
        reference.Network(WIDTH, CLASSES),
        as_numbers(network),
        images,
        0.5,
        0.8,
        lambda image: [value**2 for value in image],
    )
    text = "optimiser: sgd, learning_rate: 0.5, kept: 0.8, restored: 0, sure: 1"
    outputs, adapted = adapted_outputs(f"cotta: {{{text}, augmentations: 3}}", network, batches)
    np.testing.assert_allclose(outputs, expected, rtol=2e-3, atol=2e-3)
    still = torch.cat([network(batch**2) for batch in batches]).detach()
    assert (outputs - still)[-5:].abs().max() > 0.02
    assert adapted.passes[:2] == (15 * 5, 15)


def test_cotta_does_not_augment_what_the_model_is_sure_of(monkeypatch):
    monkeypatch.setattr(cotta, "augment", lambda images, random: images**2)
    network, batches = small_network(), small_batches(1)
    sure, unsure = (
        adapted_outputs(f"cotta: {{sure: {limit}, restored: 0}}", network, batches)[0]
        for limit in (0, 1)
    )
    torch.testing.assert_close(sure, network(batches[0]).detach())
    assert (sure - unsure).abs().max() > 0.1


def test_all_weights_come_back():
    network, batches = small_network(), small_batches()
    _, adapted = adapted_outputs("cotta: {restored: 1, kept: 0.5}", network, batches)
    for name, tensor in adapted.network.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name])
    assert not torch.equal(adapted.further["teacher"][2].weight, network[2].weight)


@pytest.mark.parametrize("weight", [0, 3])
def test_eata_is_that_of_its_paper(weight):
    network, batches = small_network(), small_batches()
    source = small_batches(2, 4)
    images, known = ([b.flatten(1).tolist() for b in several] for several in (batches, source))
    slow = reference.Network(WIDTH, CLASSES)
    expected = reference.eata(slow, as_numbers(network), images, 0.5, 0.9, 0.97, weight, known)
    text = f"eata: {{{EATA}, fisher_weight: {weight}}}"
    outputs, adapted = adapted_outputs(text, network, batches, source if weight else ())
    np.testing.assert_allclose(outputs, expected, rtol=2e-3, atol=2e-3)
    assert "mean" in adapted.memory


@pytest.mark.parametrize(("source", "momentum"), [(0, 1), (16, 1), (3, 0.5), (0, 0.1)])
def test_batch_norm_mixes_statistics(source, momentum):
    norm = nn.BatchNorm2d(3, affine=False)
    mean, variance = [0.1, 0.5, 0.9], [0.02, 0.1, 0.3]
    norm.running_mean.copy_(torch.tensor(mean))
    norm.running_var.copy_(torch.tensor(variance))
    batches = small_batches()
    text = f"batchnorm: {{source: {source}, momentum: {momentum}}}"
    adapted = read_variant(text).adapt(nn.Sequential(norm).eval()).eval()
    outputs = torch.cat([adapted(batch) for batch in batches]).flatten(2)
    images = [batch.flatten(2).tolist() for batch in batches]
    expected = reference.mixed_batch_norm(images, mean, variance, source, momentum)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "streams"),
    [
        ("batchnorm", 1),
        ("batchnorm: {source: 16}", 1),
        ("batchnorm: {orders: 3}", 3),
        ("batchnorm: {order: by_class}", 5),
        ("batchnorm: {order: dirichlet}", 5),
        ("batchnorm: {momentum: 0.5}", 5),
        ("batchnorm: {momentum: 0.5, orders: 1}", 1),
        ("batchnorm: {order: by_class, orders: 1}", 1),
    ],
)
def test_batch_norm_has_several_streams_where_the_order_matters(text, streams):
    variant = read_variant(text)
    assert len(variant.draw_streams(np.arange(9) % 3)) == streams
    assert read_variant(variant.text) == variant == read_variant(variant.full_text)
    assert len(variant.once().draw_streams(np.arange(9) % 3)) == 1


def test_many_source_images_leave_batch_norm_as_it_is():
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    images = torch.rand(4, 3, 8, 8)
    adapted = read_variant("batchnorm: {source: 1.0e+12}").adapt(network).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(images), network(images), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- distances of LAME


class Sizes(TorchDispatchMode):
    """Notes how many numbers each operation returns."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        results = result if isinstance(result, tuple | list) else [result]
        self.noted += [each.numel() for each in results if isinstance(each, torch.Tensor)]
        return result


@pytest.mark.parametrize("affinity", ["rbf", "knn"])
def test_lame_never_holds_the_differences_of_all_pairs(affinity):
    """They are 2 GB for 512 images and 2,048 features."""
    features = torch.rand(40, 50)
    with Sizes() as sizes:
        read_variant({"lame": {"affinity": affinity}}).similarity(features)
    assert max(sizes.noted) == 40 * 50


def test_lame_tells_near_duplicates_apart():
    """A product of matrices errs by about the root of float32's precision, 3e-4."""
    torch.manual_seed(6)
    images, ways = torch.randn(2, 12, 48, dtype=torch.float64)
    ways = torch.nn.functional.normalize(ways, dim=1)
    near = torch.cat([images, images + 1e-4 * ways, images + 3e-4 * ways])
    features = near.float()
    exact = torch.cdist(
        features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = exact.fill_diagonal_(math.inf).argmin(1)
    assert (nearest % 12 == torch.arange(36) % 12).all()  # each has the others of its three
    found = read_variant("lame: {affinity: knn, neighbours: 1}").similarity(features)
    torch.testing.assert_close(found, torch.eye(36)[nearest])


# ---------------------------------------------------------------- views


@pytest.mark.parametrize(("views", "count"), [("flip", 2), ("five_crop", 5), ("ten_crop", 10)])
def test_views_are_averaged_and_each_image_is_alone(views, count):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    images = torch.rand(6, 3, 16, 16)
    outputs, adapted = adapted_outputs(f"views: {{views: {views}}}", network, [images])
    assert adapted.passes[:2] == (6 * count, 0)
    one_by_one, _ = adapted_outputs(f"views: {{views: {views}}}", network, list(images.split(1)))
    torch.testing.assert_close(outputs, one_by_one)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(6))
    mirrored, _ = adapted_outputs(f"views: {{views: {views}}}", network, [images.flip(3)])
    is_even = views != "five_crop"  # both mirror images are among the views
    assert torch.allclose(outputs, mirrored, atol=1e-5) == is_even
    if views == "flip":
        both = [network(view).softmax(1) for view in (images, images.flip(3))]
        torch.testing.assert_close(outputs.exp(), sum(both) / 2)


# ---------------------------------------------------------------- what a network offers


def test_layer_norm_and_single_images_are_adapted():
    network = load_model("timm:test_vit", classes=3, weights="none").eval()
    images = torch.rand(4, 3, 160, 160)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for kind in ("tent", "sar", "eata", "cotta", "t3a", "lame"):
        options = "fisher_weight: 0, margin: 1" if kind == "eata" else ""
        variant = read_variant(f"{kind}: {{{options}}}")
        fewest = 2 if kind == "lame" else 1
        assert variant.fewest(network) == fewest
        adapted = variant.adapt(network).eval()
        for part in images[: 2 * fewest].split(fewest):
            assert adapted(part).isfinite().all()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("kind", METHODS)
def test_the_model_stays_as_it_is_and_nothing_is_left_of_an_earlier_copy(kind, toy_images):
    network = load_model(TINY_RESNET, classes=3, weights="none").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    variant = read_variant(f"{kind}: {{orders: 1, batch_size: 20}}")
    learned = {}
    if variant.source_images:
        learned = learn_from_source(network, variant, toy_images[:40], batch_size=20, device=CPU)
    predictor = Predictor(network, adapting=variant, learned=learned)
    one, other = (
        predict_shared([predictor], toy_images, make_shift("clean"), batch_size=20, device=CPU)[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.logits, other.logits)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_sar_leaves_the_last_blocks_alone():
    resnet = load_model("timm:resnet18", classes=3, weights="none")
    adapted = read_variant("sar").adapt(resnet)
    names = {
        name
        for name, parameter in adapted.network.named_parameters()
        if any(parameter is own for own in adapted.adapted_parameters)
    }
    assert not any("layer4" in name for name in names)
    assert {name.split(".")[1] for name in names} == {"bn1", "layer1", "layer2", "layer3"}
    vit = read_variant("sar").adapt(load_model("timm:test_vit", classes=3, weights="none"))
    total = sum(isinstance(module, nn.LayerNorm) for module in vit.network.modules())
    assert len(vit.adapted_parameters) == 2 * (total - 1)  # not the norm behind the blocks


def test_sar_leaves_layers_in_the_middle_or_none_alone_by_their_names():
    deep = timm.models.VisionTransformer(32, 16, num_classes=3, embed_dim=8, depth=24, num_heads=2)
    named = torchvision.models.VisionTransformer(32, 16, 12, 2, 8, 8, num_classes=3)
    image, sar = torch.rand(1, 3, 32, 32), read_variant("sar")
    assert "layer norm (42 of 49 layers)" in sar.describe_adapted(deep.eval(), image)
    assert "layer norm (25 of 25 layers)" in sar.describe_adapted(named.eval(), image)


class Stubborn(nn.Module):
    """A network that gives no gradients."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.GroupNorm(3, 3), nn.Linear(12, 2)

    def forward(self, images):
        with torch.no_grad():
            return self.head(self.norm(images).flatten(1))


PLAIN = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
REFUSED = [
    ("tent", PLAIN, "batch, group or layer norm, and PyTorch finds none"),
    ("eata: {fisher_weight: 0}", PLAIN, "batch, group or layer norm, and PyTorch finds none"),
    ("sar", PLAIN, "batch, group or layer norm, and PyTorch finds none"),
    ("batchnorm: {source: 16}", PLAIN, "needs batch norm, and PyTorch finds none"),
    ("batchnorm", nn.BatchNorm2d(3, track_running_stats=False), "would change nothing: the netw"),
    (
        "batchnorm: {source: 16}",
        nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), PLAIN),
        "would change nothing: the network's batch norm has no statistics",
    ),
    ("cotta", nn.Flatten(), "adapts all weights, and PyTorch finds none"),
    ("tent", Stubborn(), "gives no gradients"),
    ("lame", nn.Flatten(), "one linear layer"),
    ("t3a", nn.Sequential(PLAIN, nn.BatchNorm1d(2)), "one linear layer"),
    ("t3a", Ensemble([PLAIN, nn.Sequential(nn.Flatten(), nn.Linear(12, 2))]), "one linear layer"),
]


@pytest.mark.parametrize(("text", "network", "words"), REFUSED)
def test_a_network_without_what_a_method_needs_is_refused_on_one_image(text, network, words):
    with pytest.raises(InputError, match=words) as raised:
        read_variant(text).check_network(network.eval(), torch.rand(1, 3, 2, 2))
    assert "\n" not in str(raised.value)


def test_eata_is_tried_on_an_image_that_counts():
    """It then holds parameters back, by what it has learned from images before."""
    network = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        network[2].bias += torch.tensor([9.0, -9.0])  # sure of all images
    read_variant("eata").check_network(network, torch.rand(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("text", "images", "batch_size", "fits"),
    [
        ("batchnorm", 10, 1, False),
        ("batchnorm", 3, 2, False),  # two batches, of two and of one
        ("batchnorm", 4, 2, True),
        ("batchnorm: {source: 16}", 10, 1, True),
        ("tent: {batch_size: 1}", 10, 256, False),
        ("tent", 1, 256, False),
        ("cotta: {batch_size: 1}", 10, 256, False),
        ("lame: {batch_size: 1}", 10, 256, False),
        ("t3a: {batch_size: 1}", 10, 256, True),
        ("views", 1, 1, True),
    ],
)
def test_a_batch_that_is_too_small_is_refused(text, images, batch_size, fits):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2))
    variant = read_variant(text)
    if fits:
        variant.count_batches(images, batch_size, network)
        return
    with pytest.raises(InputError, match="needs at least 2 images in a batch, found 1:"):
        variant.count_batches(images, batch_size, network)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("tent: {order: by_clas}", "order of tent 'by_clas'; did you mean 'by_class'"),
        ("tent: {cells: continal}", "cells of tent 'continal'; did you mean 'continual'"),
        ("tent: {cells: mixd}", "cells of tent 'mixd'; did you mean 'mixed'"),
        ("tent: {optimiser: sdg}", "optimiser of tent 'sdg'; did you mean 'sgd'"),
        ("tent: {batch_size: 0}", "batch_size of tent must be a whole number >= 1, found 0"),
        ("tent: {batch_size: 2.5}", "batch_size of tent must be a whole number >= 1, found 2.5"),
        ("tent: {orders: true}", "orders of tent must be a whole number >= 1, found True"),
        ("tent: {learning_rate: 0}", "learning_rate of tent must be a number > 0, found 0"),
        ("tent: {learning_rate: .nan}", "learning_rate of tent must be a number > 0, found nan"),
        ("tent: {learning_rate: fast}", "must be a number > 0, found 'fast'"),
        ("cotta: {kept: 2}", "kept of cotta must be a number >= 0 and <= 1, found 2"),
        ("lame: {affinity: kNN}", "affinity of lame 'kNN'"),
        ("views: {views: flips}", "views of views 'flips'; did you mean 'flip'"),
        ("eata: {fisher: 0}", "parameter of eata 'fisher'"),
        ("tent: {concentration: 0}", "concentration of tent must be a number > 0 and <="),
        ("tent: {imbalance: 0.5, order: imbalanced}", "imbalance of tent must be a number >= 1"),
        ("tent: {order: [by_class]}", re.escape("""order of tent "['by_class']"; did you mean""")),
        ("views: {views: {flip: 1}}", re.escape("""views of views "{'flip': 1}"; known:""")),
        ("tent: {order: imbalanced, imbalance: 1.0e+308}", "and <= 1e\\+09, found 1e\\+308"),
        (
            "tent: {concentration: 0.5}",
            "concentration of tent has no effect: it goes with order: d",
        ),
        (
            "lame: {imbalance: 5}",
            "imbalance of lame has no effect: it goes with order: imbalanced",
        ),
        ("tent: {imbalance: 5, order: dirichlet}", "^imbalance of tent has no effect"),
        ("views: {order: by_class}", "order of views has no effect: each image is predicted by"),
        (
            "views: {orders: 2}",
            "orders of views has no effect: each image is predicted by itself",
        ),
        ("views: {order_seed: 1}", "^order_seed of views has no effect"),
        ("lame: {affinity: linear, neighbours: 3}", "neighbours of lame has no effect: it goes wi"),
        ("eata: {fisher_weight: 0, fisher_images: 9}", "fisher_images of eata has no effect: it"),
        ("tent: {order: dirichlet, concentration: 1.0e+308}", "and <= 1e\\+09, found 1e\\+308"),
    ],
)
def test_a_bad_protocol_is_one_sentence(form, words):
    with pytest.raises(InputError, match=words) as raised:
        read_variant(form)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True, None, "a", 10**400, -1, math.inf])
@pytest.mark.parametrize("kind", VARIANTS)
def test_any_value_of_a_parameter_makes_a_variant_or_one_sentence(kind, value):
    for field in dataclasses.fields(variant_class(kind)):
        variant = None
        with suppress(InputError):
            variant = read_variant({kind: {field.name: value}})
        if variant is not None:
            assert read_variant(variant.text) == variant
            assert kind in variant.name


@pytest.mark.parametrize("kind", METHODS)
def test_a_title_says_every_field_that_is_changed(kind):
    values = {"optimiser": ["adam", "sgd"], "order": ["by_class"], "cells": ["gradual"]}
    values |= {"affinity": ["knn"], "views": ["five_crop"]}
    needs = {"concentration": {"order": "dirichlet"}, "imbalance": {"order": "imbalanced"}}
    plain = variant_class(kind)()
    untold = {"order", "orders", "order_seed", *needs} if plain.alone else set()
    names = {field.name for field in dataclasses.fields(plain)} - {"batch_size"} - untold
    for name in names:
        default = getattr(plain, name)
        if name not in values:
            values[name] = [default / 2 if isinstance(default, float) and default else default + 1]
        value = next(other for other in values[name] if other != default)
        title = read_variant({kind: {name: value, **needs.get(name, {})}}).title
        said = value if isinstance(value, str) else f"{name} {value:g}"
        assert said.replace("_", " ") in title


@pytest.mark.parametrize(
    ("parameters", "title"),
    [
        ("", ""),
        ("order: by_class", ", by class"),
        ("order: by_class, orders: 5", ", by class"),
        ("order: by_class, orders: 1", ", by class, orders 1"),
        ("orders: 5", ", orders 5"),
        ("momentum: 0.5", ", momentum 0.5"),
        ("momentum: 0.5, orders: 1", ", orders 1, momentum 0.5"),
        ("batch_size: 64, source: 16", ", source 16"),
    ],
)
def test_titles_of_batch_norm_leave_out_the_usual_number_of_streams(parameters, title):
    assert (
        read_variant(f"batchnorm: {{{parameters}}}").title == f"batch norm of the test batch{title}"
    )


def test_a_protocol_is_in_name_title_and_written_form():
    variant = read_variant("tent: {order: by_class, batch_size: 16, learning_rate: 0.01}")
    assert variant.name == "tent-batch_size16-by_class-learning_rate0.01"
    assert variant.title == "TENT, by class, learning rate 0.01"
    assert variant.phrase(100, 256) == "TENT, by class, learning rate 0.01 (batches of 15)"
    assert read_variant(variant.text) == variant
    assert read_variant("eata: {fisher_weight: 0}").title == "ETA, fisher weight 0"
    assert read_variant("eata: {cells: continual}").title == "EATA, continual"
    seeded = read_variant("tent: {order_seed: 1234567}")
    assert (seeded.name, seeded.title) == ("tent-order_seed1234567", "TENT, order seed 1234567")
    rate = read_variant({"tent": {"learning_rate": np.float64(0.5)}})
    assert (rate.name, rate.title) == ("tent-learning_rate0.5", "TENT, learning rate 0.5")
    evaluated = read_variant("tent: {batch_size: null}")
    assert evaluated.name == "tent-batch_sizenull"
    assert evaluated.phrase(100, 25) == "TENT (batches of 25)"
    assert read_variant(evaluated.text) == evaluated


# ---------------------------------------------------------------- what of a network adapts


class Mixed(nn.Module):
    """Convolutions with each kind of normalisation, a free parameter, and a last layer."""

    def __init__(self):
        super().__init__()
        self.free = nn.Parameter(torch.ones(3, 1, 1))
        self.layer3 = nn.BatchNorm2d(3)
        self.layer4 = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
        self.fixed = nn.BatchNorm2d(6, affine=False)
        self.groups = nn.GroupNorm(2, 6)
        self.instances = nn.InstanceNorm2d(6, affine=True)
        self.norm, self.root = nn.LayerNorm(6), nn.RMSNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        maps = self.fixed(self.layer4(self.layer3(images * self.free)))
        return self.head(self.root(self.norm(self.instances(self.groups(maps)).mean((2, 3)))))


# The free ones 3; batch norm 6 and 12, a convolution 24; group, instance and layer norm 12 each,
# RMS norm 6; the last layer 28.
MIXED = {
    "batchnorm": "statistics of batch norm (3 of 3 layers)",
    "batchnorm: {source: 16}": "statistics of batch norm (3 of 3 layers)",
    "tent": "scales and shifts of batch norm (2 of 2 layers), instance norm (1 of 1 layers), "
    "group norm (1 of 1 layers), layer norm (1 of 1 layers), RMS norm (1 of 1 layers): "
    "60 of 115 numbers",
    "sar": "scales and shifts of batch norm (1 of 2 layers), instance norm (1 of 1 layers), "
    "group norm (1 of 1 layers), layer norm (0 of 1 layers), RMS norm (1 of 1 layers): "
    "36 of 115 numbers",
    "cotta": "weights and biases (15 of 16 parameters): 112 of 115 numbers",
    "lame": "answers, by the 6 features before the last layer; no weights",
    "t3a": "the last layer, of 6 features: 28 of 115 numbers",
    "views": "nothing",
}


@pytest.mark.parametrize("text", MIXED)
def test_what_adapts_is_said_of_each_kind_of_layer(text):
    network = Mixed().eval()
    variant, images = read_variant(text), torch.rand(1, 3, 8, 8)
    assert variant.describe_adapted(network, images) == MIXED[text]
    eata = read_variant("eata").describe_adapted(network, images)
    assert eata == MIXED["tent"]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("timm:test_resnet", "batch norm"),  # the class of timm
        ("timm:resnet10t", "batch norm"),
        ("timm:resnet50_gn", "group norm"),
        ("timm:test_vit", "layer norm"),
    ],
)
@pytest.mark.parametrize("kind", ["tent", "sar"])
def test_numbers_that_adapt_are_those_that_a_step_changes(name, layers, kind):
    """Counted once more by taking a step with scales and shifts that all have a slope."""
    network = load_model(name, classes=3, weights="none").eval()
    variant = read_variant({kind: {"learning_rate": 0.1}})
    said = variant.describe_adapted(network, torch.rand(1, 3, 64, 64))
    adapted = variant.adapt(network).eval()
    for parameter in adapted.adapted_parameters:
        parameter.grad = torch.ones_like(parameter)
    adapted.step(1)
    before = dict(network.named_parameters())
    changed = {
        own: int((parameter != before[own]).sum())
        for own, parameter in adapted.network.named_parameters()
        if not torch.equal(parameter, before[own])
    }
    numbers = f"{sum(changed.values()):,} of {sum(p.numel() for p in network.parameters()):,}"
    count = len({own.rpartition(".")[0] for own in changed})
    assert said.startswith(f"scales and shifts of {layers} ({count} of ")
    assert said.endswith(f" layers): {numbers} numbers")


def test_a_layer_without_statistics_of_training_has_none_to_adapt():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    said = read_variant("batchnorm").describe_adapted(network.eval(), torch.rand(1, 3, 8, 8))
    assert said == "statistics of batch norm (1 of 2 layers)"


# ---------------------------------------------------------------- a request that cannot work


def digits(classes=3, val=True):
    splits = [bright(12, classes, seed) for seed in (0, 1)]
    return fw.Dataset("bright", None, splits[0] if val else None, splits[1], (0.5,) * 3, (0.2,) * 3)


def bright_network():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), {"variants": ["tent"]}, "layer norm"),
        (bright_network(), {"variants": ["tent: {batch_size: 1}"]}, "needs at least 2 images"),
        (bright_network(), {"variants": ["batchnorm"], "batch_size": 1}, "needs at least 2 images"),
        (
            bright_network(),
            {"variants": ["temperature: {of: {tent: {batch_size: 1}}}"]},
            "needs at least 2 images",
        ),
        (bright_network(), {"variants": ["eata"], "val": False}, "eata learns from validation"),
    ],
)
def test_nothing_is_written_for_what_cannot_be_adapted(network, options, words, tmp_path):
    data = digits(val=options.pop("val", True))
    with torch.no_grad():  # so that outputs are never taken for probabilities
        network[-1].bias.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    with pytest.raises(InputError, match=words) as raised:
        fw.evaluate(network.eval(), data, [], out=tmp_path / "run", device="cpu", **options)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind != "views"])
def test_an_onnx_graph_is_refused(kind, tmp_path):
    command = f"evaluate onnx:graph.onnx folder:pictures --variant {kind} --out run --quiet"
    write_onnx(tmp_path / "graph.onnx")
    write_pictures(tmp_path / "pictures", train=3, test=3, val=3)
    done = fairweather(*command.split(), "--offline", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in done.stderr
    (said,) = done.stderr.strip().splitlines()
    assert f"{kind} works on layers of PyTorch" in said
    assert "only views works there" in said


def scripted_network():
    """Layer norm, and outputs that are never taken for probabilities."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 3)).eval()
    with torch.no_grad():
        layers[-1].bias.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    return layers, torch.jit.trace(layers, torch.rand(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind != "views"])
def test_torchscript_is_refused_where_layers_change(kind, tmp_path):
    _, network = scripted_network()
    words = f"^{kind} works on layers of PyTorch, which TorchScript such as .* only views works"
    with pytest.raises(InputError, match=words):
        fw.evaluate(network, digits(), [], variants=[kind], out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_views_of_torchscript_are_averaged(tmp_path):
    plain, network = scripted_network()
    data = digits()
    run = fw.evaluate(network, data, [], variants=["views"], out=tmp_path / "run", device="cpu")
    (base,) = [model for model in run.record.models if "+" not in model]
    stored = run.folder.read_image_streams(predictions_file(f"{base}+views", 0, "clean"))
    images = data.test.images.float() / 255
    with torch.no_grad():
        both = plain(images).softmax(1) + plain(images.flip(3)).softmax(1)
    np.testing.assert_allclose(stored.logits, (both / 2).log().numpy(), atol=1e-5)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_frozen_torchscript_predicts_as_before_it_was_frozen(tmp_path):
    _, network = scripted_network()
    images = digits().test[:8]
    frozen = torch.jit.freeze(network.eval())
    logits = [fw.predict(model, images, device="cpu").logits for model in (network, frozen)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    with pytest.raises(InputError, match=r"^tent works on layers of PyTorch, which TorchS"):
        fw.evaluate(frozen, digits(), [], variants=["tent"], out=tmp_path / "run", device="cpu")


# ---------------------------------------------------------------- orders of images


@pytest.mark.parametrize("order", IMAGE_ORDERS)
def test_a_stream_has_each_image_once_and_depends_on_its_seed(order):
    labels = np.random.default_rng(0).integers(0, 7, 200)
    one, again, other = (draw_stream(labels, order, seed) for seed in (5, 5, 6))
    assert sorted(one) == list(range(200))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def runs(labels):
    """How many images of one class follow each other, on average."""
    return len(labels) / (1 + np.sum(labels[1:] != labels[:-1]))


def test_orders_keep_images_of_a_class_together():
    labels = np.random.default_rng(0).integers(0, 10, 2000)
    seen = {order: labels[draw_stream(labels, order, 1)] for order in IMAGE_ORDERS}
    assert runs(seen["shuffled"]) < 1.3
    assert runs(seen["by_class"]) == 200
    together, apart = (
        runs(labels[draw_stream(labels, "dirichlet", 1, concentration=concentration)])
        for concentration in (0.01, 1000)
    )
    assert together > 3 * apart
    # With a large parameter, each slot has an equal share of each class.
    slots = labels[draw_stream(labels, "dirichlet", 1, concentration=1e9)]
    counts = np.stack([np.bincount(slot, minlength=10) for slot in slots.reshape(10, 200)])
    assert np.abs(counts - np.bincount(labels) / 10).max() <= 15  # slots are not of equal size


def test_an_imbalanced_order_prefers_one_class_after_the_other():
    labels = np.arange(2000) % 10
    even, uneven = (
        labels[draw_stream(labels, "imbalanced", 1, imbalance=ratio)].reshape(10, 200)
        for ratio in (1, 1e9)
    )
    assert max(np.bincount(slot).max() for slot in even) < 45  # 20 and 4 or 5 standard errors
    assert [len(set(slot)) for slot in uneven] == [1] * 10
    first = labels[draw_stream(labels, "imbalanced", 1, imbalance=9)][:200]
    # A first draw has the class with probability 9 / 18; it falls as its images become fewer.
    assert 55 < np.bincount(first).max() < 130


@pytest.mark.parametrize(
    "how",
    ["{order: imbalanced, imbalance: 1.0e+9}", "{order: dirichlet, concentration: 1.0e+9}"],
)
def test_the_largest_numbers_of_an_order_give_a_stream(how):
    labels = np.random.default_rng(0).integers(10, size=2000)
    (stream,) = read_variant(f"lame: {how}").once().draw_streams(labels)
    assert sorted(stream) == list(range(2000))


def test_findings_can_only_be_shuffled():
    labels = np.zeros((6, 2), dtype=np.int64)
    assert sorted(draw_stream(labels, "shuffled", 0)) == list(range(6))
    with pytest.raises(InputError, match="order by_class needs one class for each image"):
        draw_stream(labels, "by_class", 0)


# ---------------------------------------------------------------- streams of a cell


def streams_of(text, images, shift="clean", network=None, **options):
    network = network or load_model(TINY_RESNET, classes=3, weights="none").eval()
    predictor = Predictor(network, adapting=read_variant(text))
    (rows,) = predict_shared(
        [predictor], images, make_shift(shift), batch_size=20, device=CPU, **options
    )
    return rows


def test_a_cell_has_the_streams_one_after_the_other(toy_images):
    rows = streams_of("tent: {batch_size: 24, orders: 3, order: by_class}", toy_images)
    np.testing.assert_array_equal(rows.stream, np.repeat(np.arange(3), 96))
    np.testing.assert_array_equal(rows.keys, np.tile(toy_images.keys, 3))
    variant = read_variant("tent: {order: by_class, orders: 3}")
    for number, places in enumerate(variant.draw_streams(toy_images.labels.numpy())):
        own = rows.place[rows.stream == number]
        np.testing.assert_array_equal(own[places], np.arange(96))
    assert rows.passes == Passes(3 * 96, 3 * 96, batches=12, steps=12)
    logits = rows.logits.reshape(3, 96, 3)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    single = streams_of("tent: {batch_size: 24, orders: 1, order: by_class}", toy_images)
    np.testing.assert_array_equal(single.logits, logits[0])


@pytest.mark.parametrize("kind", ["tent", "eata", "sar", "cotta"])
def test_scales_of_group_norm_get_the_same_steps_in_each_memory_format(toy_images, kind):
    """Predictions are made channels last, where torch 2.13 by itself ends with a signal."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 3)).eval()
    options = {"batch_size": 24, "orders": 1, "learning_rate": 0.5}
    if kind == "cotta":
        options["restored"] = 0
    if kind in ("eata", "sar"):
        options["margin"] = 9
    variant = read_variant({kind: options})
    learned = {}
    if variant.source_images:
        learned = learn_from_source(network, variant, toy_images[:40], batch_size=20, device=CPU)
    predictor = Predictor(network, adapting=variant, learned=learned)
    (rows,) = predict_shared(
        [predictor], toy_images, make_shift("clean"), batch_size=20, device=CPU
    )
    adapted = variant.adapt(network).eval()
    adapted.memory |= variant.learn(adapted, [toy_images[:40].images.float() / 255])
    (places,) = variant.draw_streams(toy_images.labels.numpy())
    images = toy_images.images[places].float() / 255
    logits = torch.cat([adapted(batch) for batch in images.split(24)])
    np.testing.assert_allclose(rows.logits[places], logits, rtol=1e-3, atol=1e-3)
    assert (logits - network(images)).abs().max() > 0.01


def test_each_seed_of_a_model_has_orders_and_random_numbers_of_its_own(toy_images):
    text = "cotta: {batch_size: 48, orders: 2, augmentations: 1, sure: 1, restored: 0.5}"
    labels = toy_images.labels.numpy()
    for seed in (0, 1, 2**32 - 1):
        for number, places in enumerate(read_variant(text).draw_streams(labels, seed)):
            own = np.random.default_rng((0, number, seed) if seed else (0, number))
            np.testing.assert_array_equal(places, own.permutation(96))
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    seen = []
    for seed in (0, 1, 2**32 - 1):
        predictor = Predictor(network, adapting=read_variant(text), seed=seed)
        (rows,) = predict_shared(
            [predictor], toy_images, make_shift("clean"), batch_size=20, device=CPU
        )
        np.testing.assert_array_equal(
            rows.place[:96], np.argsort(predictor.adapting.draw_streams(labels, seed)[0])
        )
        seen.append(rows.logits)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(seen, 2))


def test_passes_are_those_of_test_images_alone(toy_images):
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    variant = read_variant("eata: {batch_size: 24, orders: 2, redundancy: 9, margin: 9}")
    learned = learn_from_source(network, variant, toy_images[:40], batch_size=20, device=CPU)
    predictor = Predictor(network, adapting=variant, learned=learned)
    (rows,) = predict_shared(
        [predictor], toy_images, make_shift("clean"), batch_size=20, device=CPU
    )
    assert rows.passes == Passes(2 * 96, 2 * 96, batches=8, steps=8)


def test_a_method_learns_from_clean_images_once_for_all_cells_and_fits(toy_images, monkeypatch):
    learned = []

    def learn(model, adapting, *arguments, **options):
        learned.append(adapting.fisher_images)
        return learn_from_source(model, adapting, *arguments, **options)

    monkeypatch.setattr("fairweather.steps.predictions.learn_from_source", learn)
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    data = fw.Dataset("toy", None, toy_images[:40], toy_images[40:], (0.5,) * 3, (0.2,) * 3)
    variants = ["eata", "temperature: {of: eata}", "eata: {fisher_images: 20}"]
    fw.evaluate(
        network, data, "gamma: [0.5, 2]", variants=variants, bootstrap=100, progress=False,
        device="cpu",
    )  # fmt: skip
    assert sorted(learned) == [20, 2000]


def test_steps_and_returns_to_the_model_are_counted(toy_images):
    seldom = streams_of(
        "eata: {fisher_weight: 0, batch_size: 24, orders: 2, redundancy: 1.0e-9, margin: 9}",
        toy_images,
    )
    assert seldom.passes == Passes(2 * 96, 2 * 24, batches=8, steps=2)  # the first of each stream
    returning = streams_of(
        "sar: {batch_size: 24, orders: 2, margin: 9, reset_below: 9}", toy_images
    )
    assert returning.passes[2:] == (8, 8, 8)
    staying = streams_of("sar: {batch_size: 24, orders: 2, margin: 9, reset_below: 0}", toy_images)
    assert staying.passes[2:] == (8, 8, 0)


def test_steps_of_sar_without_reliable_images_are_not_counted(toy_images):
    never = streams_of("sar: {batch_size: 24, orders: 2, margin: 1.0e-9}", toy_images)
    assert never.passes == Passes(4 * 96, 4 * 96, batches=8, steps=0)


def test_momentum_still_moves_sar_where_no_image_is_reliable():
    """As in the authors' code; none of these moves is a step that is counted."""
    network = small_network()
    torch.manual_seed(4)
    images = torch.rand(200, 3, 2, 2)
    with torch.no_grad():
        entropies, places = softmax_entropy(network(images)).sort()
    margin = entropies[100].item() / math.log(CLASSES)
    variant = read_variant(f"sar: {{margin: {margin}, learning_rate: 0.001, reset_below: 0}}")
    adapted, seen = variant.adapt(network).eval(), []
    for batch in (images[places[:5]], images[places[-5:]], images[places[-10:-5]]):
        adapted(batch)
        seen.append([parameter.detach().clone() for parameter in adapted.adapted_parameters])
    assert adapted.passes[2:] == (3, 1, 0)
    for before, after in itertools.pairwise(seen):
        assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_shifted_images_need_not_fit_into_memory(toy_images, monkeypatch):
    shift = "imagenet_c/gaussian_noise"
    texts = "tent: {batch_size: 24, orders: 2}", "lame: {batch_size: 24, orders: 1}"
    options = {"batch_size": 20, "device": CPU, "seed": 4}
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    predictors = [Predictor(network, adapting=read_variant(text)) for text in texts]
    noise = make_shift(shift, severity=3)
    kept = predict_shared(predictors, toy_images, noise, **options)
    beside = predict_shared([Predictor(network), *predictors], toy_images, noise, **options)[1:]
    monkeypatch.setattr(prediction, "MOST_KEPT_BYTES", 0)
    again = predict_shared(predictors, toy_images, noise, **options)
    for rows in zip(kept, beside, again, strict=True):
        for other in rows[1:]:
            np.testing.assert_array_equal(rows[0].logits, other.logits)


def test_cotta_draws_by_stream_and_not_from_the_global_state(toy_images):
    text = "cotta: {batch_size: 48, orders: 2, augmentations: 2, sure: 1, restored: 0.5}"
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    torch.manual_seed(0)
    one = streams_of(text, toy_images, network=network)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    np.testing.assert_array_equal(one.logits, streams_of(text, toy_images, network=network).logits)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.passes == Passes(2 * 96 * 4, 2 * 96, batches=4, steps=4)


def test_bfloat16_adapts_too(toy_images):
    from fairweather.devices import Arithmetic

    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    for kind in ("tent", "sar", "t3a", "lame", "views", "cotta", "batchnorm: {source: 16}"):
        rows = streams_of(kind, toy_images[:40], network=network, arithmetic=Arithmetic("bf16"))
        assert np.isfinite(rows.logits).all(), kind


@pytest.mark.parametrize("kind", METHODS)
def test_a_network_that_keeps_computed_tensors_adapts(kind):
    """PyTorch copies no tensor with a history, such as a weight of the older weight norm."""
    variant = read_variant(f"{kind}: {{fisher_weight: 0}}" if kind == "eata" else kind)
    torch.manual_seed(0)
    batch = torch.rand(6, 3, 8, 8)
    plain, keeping = Plain(), Plain()
    keeping.kept = 2 * keeping.head.weight
    outputs = []
    for network in (plain, keeping):
        with torch.no_grad():
            outputs.append(variant.adapt(network).eval()(batch))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("text", ["t3a: {supports: 2}", "lame", "lame: {affinity: linear}"])
def test_features_are_compared_in_full_precision(text):
    """bfloat16 holds each logit of this network, and so changes no answer."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, CLASSES)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.randint(-1, 2, (CLASSES, WIDTH)))
        network[1].bias.zero_()
    batches = [torch.randint(0, 3, (8, 3, 2, 2)) / 2 for _ in range(4)]
    expected, _ = adapted_outputs(text, network, batches)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = adapted_outputs(text, network, batches)
    assert torch.equal(found, expected)


# ---------------------------------------------------------------- from one cell to the next


@pytest.mark.parametrize(
    "text",
    [
        "tent: {learning_rate: 0.01",
        "eata: {learning_rate: 0.01, margin: 1, redundancy: 1",
        "sar: {learning_rate: 0.01, margin: 1",
        "cotta: {learning_rate: 0.01, augmentations: 2",
        "t3a: {supports: 5",
        "batchnorm: {momentum: 0.3",
    ],
)
def test_two_cells_are_one_longer_stream(text, toy_images):
    """What is carried from cell to cell is all that a method changes."""
    variant = read_variant(f"{text}, cells: continual, orders: 2, batch_size: 24}}")
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    source = toy_images[:40] if variant.source_images else None
    options, learned = {"batch_size": 20, "device": CPU}, {}
    if source is not None:
        learned = learn_from_source(network, variant, source, **options)
    first, second = make_shift("clean"), make_shift("gamma", exponent=2)
    carried, cells = [], []
    for shift in (first, second):
        predictor = Predictor(network, adapting=variant, learned=learned, carried=carried)
        cells += predict_shared([predictor], toy_images, shift, **options)
    for number, places in enumerate(variant.draw_streams(toy_images.labels.numpy())):
        adapted = variant.adapt(network, number).eval()
        if source is not None:
            pixels = [part.images.float() / 255 for part in (source[:20], source[20:])]
            adapted.memory |= variant.learn(variant.adapt(network).eval(), pixels)
        adapted.to(memory_format=torch.channels_last)
        for cell, shift in zip(cells, (first, second), strict=True):
            pixels = shift(toy_images.images, toy_images.keys)
            logits = np.empty((96, 3), dtype=np.float32)
            with torch.no_grad(), multiply_small_maps(CPU):
                for part in np.array_split(places, 4):
                    batch = pixels[part].to(memory_format=torch.channels_last).float().div_(255)
                    logits[part] = adapted(batch)
            own = cell.logits[cell.stream == number]
            np.testing.assert_allclose(own, logits, rtol=1e-4, atol=1e-4)
    fresh = predict(network, toy_images, second, device="cpu")
    assert fresh is not None
    assert len(carried) == 2


def test_only_what_has_changed_is_carried(toy_images):
    network = load_model(TINY_RESNET, classes=3, weights="none").eval()
    carried = []
    variant = read_variant("tent: {cells: continual, orders: 1, batch_size: 24, optimiser: sgd}")
    predictor = Predictor(network, adapting=variant, carried=carried)
    predict_shared([predictor], toy_images, make_shift("clean"), batch_size=20, device=CPU)
    (changes,) = carried
    kinds = {name.split("/")[0] for name in changes}
    assert kinds == {"network", "optimiser", "batches"}
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    owners = {name.partition("/")[2].rpartition(".")[0] for name in changes if "network/" in name}
    assert owners <= {f"network.{name}" for name in norms}


# ---------------------------------------------------------------- what earlier batches change

STEPS = ("tent", "eata", "sar", "cotta")


@pytest.mark.parametrize("kind", [*STEPS, *(f"{kind}: {{steps: 2}}" for kind in STEPS)])
def test_a_stream_of_one_batch_is_remarked_where_no_step_changes_its_answers(kind):
    name, _, further = kind.partition(": ")
    further = further.strip("{}")
    images = torch.cat(small_batches(2))
    outputs = {}
    for rate in (1e-9, 0.5):
        fisher = "fisher_weight: 0" if name == "eata" else ""  # needs validation images
        margin = "margin: 1.0" if name in ("eata", "sar") else ""
        parameters = ", ".join(filter(None, [further, fisher, margin, f"learning_rate: {rate}"]))
        adapted = read_variant(f"{name}: {{{parameters}}}").adapt(small_network()).eval()
        outputs[rate] = adapted(images)
    variant = read_variant(kind)
    has_idle_steps = torch.allclose(outputs[1e-9], outputs[0.5], atol=1e-5)
    assert bool(variant.remark(len(images), 256)) == has_idle_steps
    assert not variant.remark(variant.batch_size + 1, 256)
    assert not read_variant({name: {"cells": "continual"}}).remark(len(images), 256)


@pytest.mark.parametrize("kind", STEPS)
def test_two_steps_on_a_batch_are_one_on_each_of_two_equal_batches(kind):
    strong = {"learning_rate": 0.2}
    strong |= {"margin": 1.0} if kind in ("eata", "sar") else {}
    strong |= {"fisher_weight": 0.0, "redundancy": 2.0} if kind == "eata" else {}
    # CoTTA then draws no numbers.
    strong |= {"sure": 0.0, "restored": 0.0, "kept": 0.5} if kind == "cotta" else {}
    batches = small_batches()
    twice, _ = adapted_outputs({kind: {**strong, "steps": 2}}, small_network(), batches)
    doubled = [batch for batch in batches for _ in range(2)]
    once, adapted = adapted_outputs({kind: strong}, small_network(), doubled)
    last = once.unflatten(0, (len(batches), 2, -1))[:, 1].flatten(0, 1)
    torch.testing.assert_close(twice, last)
    assert adapted.passes.steps == 2 * len(batches)
    single, _ = adapted_outputs({kind: strong}, small_network(), batches)
    assert (twice - single).abs().max() > 0.01


def test_each_step_of_cotta_draws_its_own_augmentations(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        cotta,
        "augment",
        lambda images, random: drawn.append(torch.rand(1, generator=random).item()) or images,
    )
    adapted_outputs("cotta: {steps: 2, sure: 1, restored: 0}", small_network(), small_batches(2))
    assert len(drawn) == len(set(drawn)) == 2 * 2 * 32


@pytest.mark.parametrize("name", [kind for kind in METHODS if kind != "batchnorm"])
def test_methods_remember_whose_later_answers_earlier_batches_change(name):
    variant = read_variant(name)
    first, second = small_batches(2)
    strong = {"learning_rate": 0.5} if name in STEPS else {}
    strong |= {"margin": 1.0} if name in ("eata", "sar") else {}
    strong |= {"fisher_weight": 0.0} if name == "eata" else {}  # needs validation images
    alone, after = (read_variant({name: strong}).adapt(small_network()).eval() for _ in range(2))
    after(first)
    changed = not torch.allclose(after(second), alone(second), atol=1e-4)
    assert variant.remembers == changed


@pytest.mark.parametrize(("momentum", "remembers"), [(1.0, False), (0.5, True)])
def test_batch_norm_remembers_with_a_momentum_alone(momentum, remembers):
    variant = read_variant({"batchnorm": {"momentum": momentum}})
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(WIDTH, CLASSES)).eval()
    first, second = small_batches(2)
    alone, after = (variant.adapt(network).eval() for _ in range(2))
    after(first)
    assert torch.allclose(alone(second), after(second), atol=1e-6) != remembers
    assert variant.remembers == remembers
