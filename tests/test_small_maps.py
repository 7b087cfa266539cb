"""Convolutions of small maps as matrix products: the numbers of torch's own, in all that trains."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import weight_norm

from fairweather import small_maps
from fairweather.attacks.table import make_attack
from fairweather.inference.prediction import Predictor, compute_outputs, predict, predict_shared
from fairweather.shifts.table import CLEAN
from fairweather.small_maps import SmallMaps, find_taps, multiply
from fairweather.training.loop_parts import training
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.pretraining import pretrain
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining
from fairweather.training.supervised import fit
from fairweather.variants.variant import read_variant
from tests.training.test_training import same_state

CPU = torch.device("cpu")
DOUBLE = 2.0**-53  # unit roundoff
BFLOAT16 = 2.0**-8


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(outputs, inputs, direction):
    return torch.autograd.grad(outputs, inputs, direction)


def with_gradients(convolve, tensors, settings):
    """A convolution, and its gradients along a fixed direction."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    outputs = convolve(*tensors, **settings)
    direction = draw(*outputs.shape, seed=9).to(outputs.dtype)
    return [outputs.detach(), *gradients(outputs, tensors, direction)]


def largest_errors(tensors, settings):
    """What any order of the sums may err by: Higham 2002, section 3.1, for both sides."""
    tensors = [tensor.detach().abs().requires_grad_() for tensor in tensors]
    outputs = F.conv2d(*tensors, **settings)
    direction = draw(*outputs.shape, seed=9).abs()
    values = [outputs.detach(), *gradients(outputs, tensors, direction)]
    terms = tensors[0].numel() + tensors[1].numel() + outputs.numel()  # no sum has more
    return [2 * terms * DOUBLE * value for value in values]


# Size, kernel, stride, padding and dilation along one axis; the kernel fits into the padded map.
AXES = [
    axis
    for axis in itertools.product(*map(range, (1, 1, 1, 0, 1), (5, 6, 4, 5, 4)))
    if axis[0] + 2 * axis[3] > axis[4] * (axis[1] - 1)
]
SMALL_AXES = st.sampled_from([axis for axis in AXES if find_taps(*axis) is not None])
FORMATS = st.sampled_from([torch.contiguous_format, torch.channels_last])


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (7, 2)])
def test_weights_that_meet_only_padding_have_no_gradient_in_bf16(kernel, stride):
    images = draw(12, 32, 1, 1, dtype=torch.float32)
    weight = draw(64, 32, kernel, kernel, dtype=torch.float32).requires_grad_()
    for size in range(8, 20):  # what is freed has no zeros
        _ = torch.full((2**size,), torch.nan)
    with SmallMaps(), torch.autocast("cpu", torch.bfloat16):
        outputs = F.conv2d(images, weight, stride=stride, padding=kernel // 2)
    (found,) = gradients(outputs, weight, torch.ones_like(outputs))
    found[:, :, kernel // 2, kernel // 2] = 0
    assert not found.any()


@given(
    SMALL_AXES, SMALL_AXES, st.integers(1, 4), st.integers(1, 4), st.booleans(), FORMATS, FORMATS
)
def test_values_and_gradients_are_those_of_torch(
    down, across, channels, outputs, has_bias, of_images, of_weights
):
    assume(down[3] or across[3])
    batch = len(find_taps(*down)) * len(find_taps(*across)) * down[0] * across[0]
    tensors = [
        draw(batch, channels, down[0], across[0]).contiguous(memory_format=of_images),
        draw(outputs, channels, down[1], across[1], seed=1).contiguous(memory_format=of_weights),
        *([draw(outputs, seed=2)] if has_bias else []),
    ]
    names = ("stride", "padding", "dilation")
    settings = dict(zip(names, zip(down[2:], across[2:], strict=True), strict=True))
    ours = with_gradients(multiply, tensors, settings)
    theirs = with_gradients(F.conv2d, tensors, settings)
    for one, other, most in zip(ours, theirs, largest_errors(tensors, settings), strict=True):
        assert one.shape == other.shape
        assert ((one - other).abs() <= most).all()
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    assert multiply(tensors[0][1:], *tensors[1:], **settings) is None  # too small a batch


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_taps_connect_each_output_with_each_input_or_are_none(size):
    for numbers in (axis for axis in AXES if axis[0] == size):
        _, kernel, stride, padding, dilation = numbers
        weight = torch.arange(1.0, kernel + 1).view(1, 1, -1)  # taps are told apart
        pixels = torch.eye(size)[:, None]
        seen = F.conv1d(pixels, weight, stride=stride, padding=padding, dilation=dilation)[:, 0].T
        taps = find_taps(*numbers)
        assert (taps is None) == bool((seen == 0).any())
        assert taps is None or taps == (seen.int() - 1).tolist()


@pytest.mark.parametrize(
    ("images", "weight", "settings"),
    [
        ((64, 4, 1, 1), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
        ((64, 4, 1, 1), (4, 2, 3, 3), {"padding": 1, "groups": 2}),
        ((64, 4, 1, 1), (4, 4, 3, 3), {"padding": "same"}),
        ((64, 4, 1, 1), (4, 4, 1, 1), {}),
        ((64, 4, 3, 3), (4, 4, 3, 3), {}),  # nothing to save
        ((99, 4, 3, 3), (4, 4, 3, 3), {"padding": 1}),
        ((64, 4, 2, 2), (4, 4, 3, 3), {"padding": 2, "dilation": 2}),
        ((4, 1, 1), (4, 4, 3, 3), {"padding": 1}),
        ((15, 4, 2, 2), (4, 4, 3, 3), {"padding": 1}),
    ],
)
def test_other_convolutions_are_left_to_torch(images, weight, settings):
    tensors = draw(*images), draw(*weight)
    assert multiply(*tensors, **settings) is None
    expected = F.conv2d(*tensors, **settings)
    with SmallMaps():
        assert torch.equal(F.conv2d(*tensors, **settings), expected)


def test_other_devices_are_left_to_torch():
    images, weight = (torch.empty(64, 4, 1, 1, device="meta"), torch.empty(4, 4, 3, 3))
    assert multiply(images, weight, padding=1) is None


class Watched(torch.Tensor):
    """A type with functions of its own, as quantized tensors have."""


def test_types_with_their_own_functions_are_left_to_them(products):
    layer, images = nn.Conv2d(4, 3, 3, padding=1), draw(64, 4, 1, 1, dtype=torch.float32)
    with SmallMaps(), torch.no_grad():
        assert type(layer(images.as_subclass(Watched))) is Watched
        assert not products
        layer(images)
    assert products == [(64, 4, 1, 1)]


def test_one_number_in_a_sequence_counts_for_both_axes():
    images, weight = draw(64, 3, 2, 2), draw(4, 3, 3, 3)
    settings = {"stride": [2], "padding": (1,), "dilation": [1]}
    assert torch.allclose(
        multiply(images, weight, **settings), F.conv2d(images, weight, **settings)
    )


def test_a_convolution_that_does_not_fit_is_an_error_as_ever():
    with SmallMaps(), pytest.raises(RuntimeError):
        F.conv2d(draw(64, 5, 1, 1), draw(4, 3, 3, 3), padding=1)


def test_a_first_call_without_gradients_does_not_spoil_the_next():
    find_taps.cache_clear()
    images, weight = draw(64, 3, 1, 1), draw(4, 3, 3, 3).requires_grad_()
    with SmallMaps():
        with torch.inference_mode():
            F.conv2d(images, weight, padding=1)
        F.conv2d(images, weight, padding=1).sum().backward()
    assert torch.allclose(weight.grad[:, :, 1, 1], images.sum((0, 2, 3)).expand(4, 3))


def test_under_autocast_it_is_rounded_as_torchs():
    tensors = [draw(64, 8, 2, 2), draw(4, 8, 3, 3, seed=1), draw(4, seed=2)]
    with SmallMaps(), torch.autocast("cpu", torch.bfloat16):
        rounded = F.conv2d(*(tensor.float() for tensor in tensors), padding=1)
    assert rounded.dtype == torch.bfloat16
    exact = F.conv2d(*tensors, padding=1)
    # Images, weights and results are rounded: three factors 1 + u; u once more for the sums.
    most = 4 * BFLOAT16 * F.conv2d(*(tensor.abs() for tensor in tensors), padding=1)
    assert ((rounded.double() - exact).abs() <= most).all()


def test_parametrized_weights_learn():
    layer = weight_norm(nn.Conv2d(4, 3, 3, padding=1)).double()
    other = copy.deepcopy(layer)
    images = draw(64, 4, 1, 1)
    with SmallMaps():
        layer(images).square().sum().backward()
    other(images).square().sum().backward()
    for one, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.fixture
def products(monkeypatch):
    """The shapes of the images of all convolutions that were matrix products."""
    shapes = []

    def watched(input, *others, **settings):
        result = multiply(input, *others, **settings)
        if result is not None:
            shapes.append(tuple(input.shape))
        return result

    monkeypatch.setattr(small_maps, "multiply", watched)
    return shapes


def learn(model, images, labels):
    """The loss and all gradients."""
    model.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return torch.cat(
        [loss.detach()[None], *(weight.grad.flatten() for weight in model.parameters())]
    )


def test_the_loss_and_gradients_of_a_resnet18_are_torchs(products):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=3).to(memory_format=torch.channels_last)
    images, labels = draw(24, 3, 28, 28), torch.arange(24) % 3
    rough = learn(copy.deepcopy(model), images.float(), labels)
    model = model.double()
    exact = learn(model, images, labels)
    with training(0, CPU):
        ours = learn(model, images, labels)
    assert products == 3 * [(24, 256, 2, 2)] + [(24, 256, 2, 2)] + 3 * [(24, 512, 1, 1)]
    # float64 rounds 2^29 times as finely as float32; the network amplifies both alike.
    assert (ours - exact).norm() <= 2.0**-20 * (rough.double() - exact).norm()


def small_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 8, stride=8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def test_ddp_has_the_same_gradients(products):
    model = small_network().eval().double()
    images, labels = draw(32, 3, 8, 8), torch.arange(32) % 8
    alone = learn(copy.deepcopy(model), images, labels)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with SmallMaps():
            shared = learn(DistributedDataParallel(model), images, labels)
    finally:
        dist.destroy_process_group()
    assert products == [(32, 8, 1, 1)]
    assert torch.allclose(shared, alone, rtol=1e-12, atol=1e-12)


def test_what_predicts_attacks_and_adapts_multiplies(toy_images, products):
    images = replace(toy_images[:32], classes=tuple("abcdefgh"))
    network = nn.Sequential(small_network(), nn.Identity()).eval()

    def was_used():
        used = bool(products)
        products.clear()
        return used

    compute_outputs(network, images, device=CPU)
    assert was_used()
    attack = make_attack("fgsm", epsilon=0.1)
    pixels = images.images.float() / 255
    attack(network, pixels, images.labels, images.keys, 0, None)
    assert was_used()
    adapting = read_variant("tent").adapting
    predictor = Predictor(network, adapting=adapting)
    predict_shared([predictor], images, CLEAN, batch_size=32, device=CPU)
    assert was_used()


def test_predictions_are_torchs(toy_images, products):
    """In float64, so that both are rounded to float32 once: a unit in the last place apart."""
    images = replace(toy_images[:32], classes=tuple("abcdefgh"))
    network = small_network().eval().double()
    found = predict(network, images, device="cpu", progress=None).logits
    assert products == [(32, 8, 1, 1)]
    with torch.no_grad():
        exact = network(images.images.double() / 255).numpy()
    assert (np.abs(found - exact) <= 2.0**-22 * np.abs(exact).max()).all()


def test_a_training_multiplies_and_resumes_to_the_same_bits(toy_images, products):
    images = toy_images[:64]
    recipe = Recipe(epochs=3, batch_size=32)
    head = nn.Linear(8, len(images.classes))

    def trained(state=None):
        network = nn.Sequential(small_network(), copy.deepcopy(head))
        return fit(network, images, images, recipe, state=state)

    epochs = trained()
    state = copy.deepcopy(next(epochs).state)
    *_, whole = epochs
    *_, resumed = trained(state)
    # Two steps in three epochs, and in two more; validation is left to torch.
    assert len(products) == 2 * (3 + 2)
    assert same_state(resumed.state["model"], whole.state["model"])
    assert np.isfinite(whole.history[-1]["train_loss"])


def test_a_pre_training_multiplies(toy_images, products):
    images = toy_images[:64]
    recipe = Pretraining("rotation", epochs=1, batch_size=32, optimizer="adamw", learning_rate=1e-3)
    assert len(list(pretrain(small_network(), images, recipe, features=8))) == 1
    assert len(products) >= 2
