"""Weight-space interpolation: between two ends, which it gives to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairweather.errors import InputError
from fairweather.models.building import ModelSpec, build
from fairweather.models.checkpoints import interpolate
from tests.conftest import TINY_RESNET

SHARES = st.floats(0, 1)


def state(seed, **tensors):
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "running_var": torch.rand(3, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "num_batches_tracked": torch.tensor(10 + seed),
        **tensors,
    }


@given(SHARES)
def test_every_number_lies_where_it_should(share):
    start, end = state(1), state(2)
    mixed = interpolate(start, end, share)
    assert list(mixed) == list(end)
    for name in ("weight", "running_var", "half"):
        pairs = zip(start[name].flatten().tolist(), end[name].flatten().tolist(), strict=True)
        expected = [(1 - share) * a + share * b for a, b in pairs]
        atol = 2e-3 if name == "half" else 1e-6
        np.testing.assert_allclose(mixed[name].flatten().tolist(), expected, atol=atol)
        assert mixed[name].dtype == end[name].dtype
    assert mixed["num_batches_tracked"] == (start if share == 0 else end)["num_batches_tracked"]


@given(SHARES)
def test_the_other_way_round_is_the_same_with_the_rest_of_the_share(share):
    there, back = interpolate(state(1), state(2), share), interpolate(state(2), state(1), 1 - share)
    torch.testing.assert_close(there["weight"], back["weight"], atol=1e-6, rtol=0)


def test_the_ends_are_given_to_the_bit_and_as_copies():
    start = state(1, odd=torch.tensor([float("nan"), 0.1, -0.0]))
    end = state(2, odd=torch.tensor([float("inf"), 1e-40, 0.3]))
    for share, whole in ((0, start), (0.0, start), (1, end), (1.0, end)):
        mixed = interpolate(start, end, share)
        for name, tensor in whole.items():
            assert mixed[name].numpy().tobytes() == tensor.numpy().tobytes()
            assert mixed[name].data_ptr() != tensor.data_ptr()
    for share in (0.1, 1 / 3, 0.7):
        assert torch.equal(interpolate(end, end, share)["weight"], end["weight"])


def test_half_way_between_two_classifiers_is_a_classifier():
    first, second = (build(ModelSpec(TINY_RESNET, 3), seed=seed) for seed in (0, 1))
    mixed = build(ModelSpec(TINY_RESNET, 3), seed=2).eval()
    mixed.load_state_dict(interpolate(first.state_dict(), second.state_dict(), 0.5))
    weights = [model.network.fc.weight for model in (first, second, mixed)]
    torch.testing.assert_close(weights[2], (weights[0] + weights[1]) / 2)
    assert not any(tensor.requires_grad for tensor in interpolate(
        dict(first.named_parameters()), dict(second.named_parameters()), 0.5
    ).values())  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "share", "words"),
    [
        (state(1), state(2), 1.1, r"in \[0, 1\], found 1.1"),
        (state(1), state(2), -0.1, "found -0.1"),
        (state(1), state(2), float("nan"), "found nan"),
        (state(1, more=torch.ones(1)), state(2), 0.5, "1 tensors are only on one side, such as mo"),
        (state(1), state(2, fc=torch.ones(1)), 0.5, "such as fc"),
        (state(1), state(2, weight=torch.ones(4, 3)), 0.5, r"weight has \[3, 4\] and \[4, 3\]"),
    ],
)
def test_what_cannot_be_mixed_is_told(start, end, share, words):
    with pytest.raises(InputError, match=words):
        interpolate(start, end, share)
