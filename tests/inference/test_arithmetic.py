"""Predictions in fewer bits and by compiled networks: as far from exact ones as arithmetic says."""

import os
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fairweather as fw
from fairweather.attacks.table import make_attack
from fairweather.data.batches import batch_slices
from fairweather.devices import Arithmetic, _try_compiler
from fairweather.errors import InputError
from fairweather.inference.prediction import (
    KnownFeatures,
    Predictor,
    compute_outputs,
    predict,
    predict_batches,
    predict_streams,
)
from fairweather.types.measurement import Images
from fairweather.variants.batchnorm import BatchNorm
from fairweather.variants.variant import read_variant
from tests.helpers.attack_models import held_out, trained
from tests.helpers.memory_habits import Plain

CPU = torch.device("cpu")
ACCUMULATED = 2**-24  # products of 16-bit numbers are added up in float32
# By precision: the unit roundoff, and half of the smallest number, to which small ones are rounded.
ROUNDING = {"fp32": (2**-24, 0.0), "bf16": (2**-8, 0.0), "fp16": (2**-11, 2**-25)}
ROUNDING["tf32"] = (2**-11, 0.0)  # of CUDA devices alone
no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
ON_EACH_DEVICE = [
    *[("cpu", precision) for precision in ROUNDING if precision != "tf32"],
    *[pytest.param("cuda", precision, marks=no_cuda) for precision in ROUNDING],
]


def exact_logits(model, pixels, precision):
    """The logits in float64, and a bound on how far off they are in another precision.

    Each layer rounds its input, its weights and its output. Errors of earlier layers are passed on
    by the absolute values of the weights (Higham 2002, Accuracy and Stability, section 3).
    """
    unit, tiny = ROUNDING[precision]
    values = (pixels.double() / 255 - model.mean.double()) / model.std.double()
    errors = 4 * ACCUMULATED * (values.abs() + 1)
    for layer in model.network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            apply = F.linear
            if isinstance(layer, nn.Conv2d):
                apply = partial(F.conv2d, stride=layer.stride, padding=layer.padding)
            weight, bias = layer.weight.double(), layer.bias.double()
            share = (1 + unit) ** 3 - 1 + (weight[0].numel() + 1) * ACCUMULATED
            size = apply(values.abs() + errors, weight.abs(), bias.abs())
            small = tiny * apply(
                values.abs() + 1, torch.ones_like(weight), weight.abs().flatten(1).sum(1)
            )
            errors = apply(errors, weight.abs()) + share * size + small + tiny
            values = apply(values, weight, bias)
        elif isinstance(layer, nn.BatchNorm2d):
            rows = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            mean, variance, scale, offset = (row.double()[:, None, None] for row in rows)
            scale = scale / (variance + layer.eps).sqrt()
            share = (1 + unit) ** 2 * (1 + ACCUMULATED) ** 8 - 1
            size = scale.abs() * (values.abs() + errors + mean.abs()) + offset.abs()
            errors = scale.abs() * errors + share * size + tiny
            values = scale * (values - mean) + offset
        elif isinstance(layer, nn.ReLU):
            values = values.relu()
        elif isinstance(layer, nn.Flatten):
            values, errors = values.flatten(1), errors.flatten(1)
        else:
            assert isinstance(layer, nn.Dropout)
    return values, errors


@pytest.fixture(scope="module")
def digits():
    pixels, labels, keys = held_out(70)
    return Images((pixels * 255).round().to(torch.uint8), labels, keys, tuple("0123456789"))


@pytest.mark.parametrize(("device", "precision"), ON_EACH_DEVICE)
def test_fewer_bits_move_logits_as_far_as_arithmetic_says(device, precision, digits):
    with torch.no_grad():
        exact, bound = exact_logits(trained(), digits.images, precision)
    found = predict(trained(), digits, batch_size=32, device=device, precision=precision)
    moved = (torch.from_numpy(found.logits).double() - exact).abs()
    assert bool((moved <= bound).all())
    if precision in ("fp32", "tf32"):
        return
    # They are in 16 bits in fact: float32 would be nearer.
    assert bool((moved > exact_logits(trained(), digits.images, "fp32")[1]).any())


def test_numbers_too_large_for_fp16_are_named_with_its_largest(toy_images):
    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.layer = nn.Linear(192, 3)
            nn.init.zeros_(self.layer.weight)
            nn.init.constant_(self.layer.bias, value)

        def forward(self, images):
            return self.layer(images.flatten(1))

    ask = partial(predict, images=toy_images, device="cpu")
    assert (ask(Constant(65_504), precision="fp16").logits == 65_504).all()
    with pytest.raises(InputError, match="largest number is 65,504: use bf16 or fp32"):
        ask(Constant(65_520), precision="fp16")  # halfway to what would come next
    for precision in ("fp32", "bf16"):
        logits = ask(Constant(65_520), precision=precision).logits
        assert torch.from_numpy(logits).isfinite().all()


def test_each_step_of_a_method_uses_the_weights_of_the_step_before(toy_images, monkeypatch):
    """Autocast keeps rounded weights until its block ends, which has all steps in it."""
    cotta = read_variant(
        "cotta: {orders: 1, batch_size: 24, learning_rate: 0.1, steps: 3, sure: 0}"
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()

    def logits():
        predictor, bf16 = Predictor(network, adapting=cotta), Arithmetic("bf16")
        options = {"images": toy_images, "batch_size": 24, "device": CPU, "arithmetic": bf16}
        return predict_streams(predictor, cotta, **options).logits

    found = logits()
    monkeypatch.setattr(torch, "autocast", partial(torch.autocast, cache_enabled=False))
    assert (found == logits()).all()
    monkeypatch.undo()
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: None)
    assert (found != logits()).any()


no_vectors = pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default",
    reason="torch 2.13 writes vector code, and then leaves its own header out",
)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=no_vectors), pytest.param("cuda", marks=no_cuda)]
)
def test_compiled_networks_give_the_logits_of_others_up_to_float32(device, digits):
    ask = partial(predict, trained(), digits, batch_size=32, device=device)
    with torch.no_grad():
        exact, bound = exact_logits(trained(), digits.images, "fp32")
    first, again = (ask(compile=True).logits for _ in range(2))
    assert (first == again).all()
    assert bool(((torch.from_numpy(first).double() - exact).abs() <= bound).all())


@pytest.fixture
def compilations(monkeypatch):
    """What is compiled, without a compiler: the graphs are run as they are."""
    graphs, compiling = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(compiling, backend=backend))
    _try_compiler()
    graphs.clear()
    yield graphs
    torch.compiler.reset()


class Whole(nn.Module):
    """Its weights and gray values are small whole numbers, so float32 rounds none of its sums."""

    def __init__(self, width):
        super().__init__()
        self.body, self.head = nn.Linear(192, width), nn.Linear(width, 3)
        for number, weights in enumerate(self.parameters()):
            drawn = torch.Generator().manual_seed(number)
            weights.data = torch.randint(-2, 3, weights.shape, generator=drawn).float()

    def forward(self, images):
        return self.head(self.body((255 * images).round().flatten(1)))


def test_every_network_is_compiled_once_though_the_last_batch_is_short(compilations, toy_images):
    networks = [Whole(width) for width in range(2, 14)]  # more than torch compiles by default
    for count in (96, 93, 96):  # batches of 90, and one of 6 or 3
        for network in networks:
            ask = partial(predict, network, toy_images[:count], batch_size=90, device="cpu")
            np.testing.assert_array_equal(ask(compile=True).logits, ask().logits)
    assert len(compilations) == len(networks)


class Forgetful(Whole):
    """Out of memory in the passes whose numbers it is given; it counts the images of all."""

    def __init__(self, passes):
        super().__init__(width=2)
        self.passes, self.seen = passes, []

    def forward(self, images):
        self.seen.append(len(images))
        if len(self.seen) in self.passes:
            raise torch.OutOfMemoryError
        return super().forward(images)


@pytest.mark.parametrize(
    ("count", "passes", "halved", "seen"),
    [
        (81, [1, 2], [20, 10], [40, 20, *[10] * 8, 1]),  # the batches are 40 and 41
        (75, [2], [17], [40, 40, 17, 17, 1]),  # the last batch is filled up, and does not fit
        (75, [1], [20], [40, 20, 20, 20, 20]),
    ],
)
def test_filled_batches_are_halved(monkeypatch, toy_images, count, passes, halved, seen):
    monkeypatch.setattr("torch.compile", lambda each, **_: each)
    images, told, network = toy_images[:count], [], Forgetful(passes)
    ask = partial(predict, images=images, batch_size=40, device="cpu")
    found = ask(network, compile=True, when_halved=told.append)
    assert (told, network.seen) == (halved, seen)
    np.testing.assert_array_equal(found.keys, np.arange(count))
    np.testing.assert_array_equal(found.logits, ask(Whole(width=2)).logits)


def test_batches_that_share_their_statistics_are_not_filled_up(compilations, toy_images):
    network = Plain()
    network.body[1] = nn.BatchNorm2d(4, track_running_stats=False)
    found = predict(network, toy_images, batch_size=90, device="cpu", compile=True)
    expected = predict(network, toy_images, batch_size=90, device="cpu")
    np.testing.assert_array_equal(found.logits, expected.logits)
    assert len(compilations) == 2


def test_attacks_methods_of_adaptation_and_features_are_not_compiled(compilations, toy_images):
    attack, compiled = make_attack("fgsm", epsilon=0.02), Arithmetic(compile=True)
    ask = {"device": CPU, "arithmetic": compiled}
    predict(Plain(), toy_images, attack, device="cpu", compile=True)
    method = BatchNorm()
    adapting = Predictor(Plain(), adapting=method)
    predict_streams(adapting, method, images=toy_images, batch_size=32, **ask)
    compute_outputs(Plain(), toy_images, **ask)
    known = KnownFeatures(compute_outputs(Plain(), toy_images, device=CPU).features)
    reader = Predictor(Plain(), known=known)
    predict_batches([reader], toy_images, batches=batch_slices(96, 32), **ask)
    assert not compilations


def test_no_compiler_is_one_sentence(monkeypatch, toy_images):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    _try_compiler.cache_clear()
    torch.compiler.reset()  # what was compiled before is not compiled again
    with pytest.raises(
        InputError, match=r"torch\.compile fails .*C\+\+ compiler.*leave out compile"
    ):
        predict(Plain(), toy_images, device="cpu", compile=True)


def test_steps_of_adaptation_are_not_taken_in_half_precision(toy_images, tmp_path):
    data = fw.Dataset("toys", None, None, toy_images, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(InputError, match=r"precision fp16 .* tent to 0: use bf16"):
        fw.evaluate(
            Plain(), data, "gamma: [2]", variants=["tent"], precision="fp16", out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
