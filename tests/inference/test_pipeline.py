"""How batches come to a device and outputs come back: copied once, in time, and unchanged."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairweather.data.batches import batch_slices, shifted_batches
from fairweather.devices import FP32, Lane
from fairweather.inference.prediction import (
    Batcher,
    KnownFeatures,
    Predictor,
    WatchedNetwork,
    compute_ahead,
    compute_outputs,
    predict,
    predict_batches,
)
from fairweather.inference.shifters import SLOTS, Shifters
from fairweather.shifts.table import make_shift
from fairweather.types.measurement import Images
from tests.helpers.memory_habits import HABITS, Plain
from tests.helpers.pretended_device import pretended_mode
from tests.inference.test_memory_habits import same

CPU = torch.device("cpu")
NOISE = make_shift("imagenet_c/gaussian_noise", severity=3)
SIZES = (2, 9, 3, 17, 1, 30, 34)  # of batches; together all 96 images


@pytest.fixture(scope="module")
def shifters(forking):
    processes = Shifters(2, first=2)
    yield processes
    processes.end()


@pytest.fixture
def large(toy_images):
    """The images at 64 pixels, whose batches are larger than all else that is allocated."""
    pixels = toy_images.images.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return replace(toy_images, images=pixels)


class Copies(TorchDispatchMode):
    """Counts what torch writes: the names of all operations with 8-bit results, but views."""

    def __init__(self, bytes_of_a_batch):
        super().__init__()
        self.bytes, self.names = bytes_of_a_batch, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        is_pixels = isinstance(found, torch.Tensor) and found.dtype == torch.uint8
        if is_pixels and found.nbytes >= self.bytes and not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return found


@pytest.mark.parametrize("kind", ["slices", "rows"])
def test_pixels_are_copied_once(kind, shifters, large):
    order = torch.from_numpy(np.random.default_rng(0).permutation(96))
    batches = batch_slices(96, 24) if kind == "slices" else list(order.split(24))
    size = large.images[:24].nbytes
    list(shifted_batches(large, NOISE, 0, batches, shifters=shifters))  # they start
    with Copies(size) as copies:
        tracemalloc.start()
        found = shifted_batches(large, NOISE, 0, batches, shifters=shifters)
        pixels = [batch.images.sum(dtype=torch.float64) for batch in found]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert copies.names == ["copy_" if kind == "slices" else "index_select"] * len(batches)
    assert peak < size  # NumPy copies nothing
    shifted = NOISE(large.images, large.keys, 0)
    assert pixels == [shifted[batch].sum(dtype=torch.float64) for batch in batches]


def test_batches_stay_as_long_as_somebody_has_them(large):
    processes = Shifters(2, first=2)
    slices = batch_slices(96, 12)
    kept = list(shifted_batches(large, NOISE, 0, slices, shifters=processes))
    assert len({batch.images.data_ptr() for batch in kept}) == len(processes._memory._slots) == 8
    for _ in range(2):  # the memory of others is used again
        for batch in shifted_batches(large, NOISE, 1, slices, shifters=processes):
            del batch
    assert len(processes._memory._slots) <= 8 + processes.max_batches + 2
    processes.end()
    found = torch.cat([batch.images for batch in kept])
    assert torch.equal(found, NOISE(large.images, large.keys, 0))


def test_memory_of_batches_is_used_again(large):
    processes = Shifters(1)
    for _ in shifted_batches(large, NOISE, 0, batch_slices(96, 4), shifters=processes):
        pass
    assert len(processes._memory._slots) <= SLOTS + 2
    processes.end()


def test_batches_may_grow_while_others_wait(shifters, large):
    for _ in range(2):
        batches = torch.arange(96).split(SIZES)
        found = list(shifted_batches(large, NOISE, 0, batches, shifters=shifters))
        assert [len(batch) for batch in found] == list(SIZES)
        pixels = torch.cat([batch.images for batch in found])
        assert torch.equal(pixels, NOISE(large.images, large.keys, 0))


def everything_of(images, device, shifters=None, batches=None, shift=NOISE):
    features = np.eye(8, dtype=np.float32)
    networks = [Predictor(habit(), known=KnownFeatures(features)) for habit in HABITS]
    batches = batches or batch_slices(len(images), 20)
    return predict_batches(
        networks, images, shift, batches=batches, device=device, shifters=shifters
    )


def test_a_gpu_reads_what_is_page_locked_and_nothing_else_is_copied(toy_images):
    with pretended_mode("cuda") as mode:
        processes = Shifters(1, mode.device)
        found = everything_of(toy_images, mode.device, processes)
        assert len(mode.streams.locked) == len(processes._memory._slots) <= SLOTS + 2
        batches = [toy_images.images[:size].nbytes for size in (20, 20, 20, 20, 16)]
        pixels = [copy for copy in mode.streams.copied if copy[0] in batches]
        assert pixels == [(size, True) for size in batches for _ in HABITS]
        processes.end()
        assert not mode.streams.locked
    for one, other in zip(found, everything_of(toy_images, CPU), strict=True):
        same(one, other)


def test_where_memory_cannot_be_locked_in_place_it_is_copied(toy_images):
    with pretended_mode("cuda") as mode:
        mode.streams.refuses = True
        processes = Shifters(1, mode.device)
        found = everything_of(toy_images, mode.device, processes)
        assert not mode.streams.locked
        processes.end()
    for one, other in zip(found, everything_of(toy_images, CPU), strict=True):
        same(one, other)


@pytest.mark.parametrize("shift", [None, NOISE], ids=["clean", "noise"])
def test_outputs_of_a_gpu_are_those_of_the_cpu(toy_images, shift):
    batches = list(torch.arange(96).split(SIZES))
    with pretended_mode("cuda") as mode:
        found = everything_of(toy_images, mode.device, batches=batches, shift=shift)
        outputs = compute_outputs(Plain(), toy_images, batch_size=20, device=mode.device)
    known = everything_of(toy_images, CPU, batches=batches, shift=shift)
    for one, other in zip(found, known, strict=True):
        same(one, other)
    expected = compute_outputs(Plain(), toy_images, batch_size=20, device=CPU)
    assert np.array_equal(outputs.logits, expected.logits)
    assert np.array_equal(outputs.features, expected.features)


class Greedy(Plain):
    """It has memory for five images."""

    def forward(self, images):
        if len(images) > 5:
            raise torch.OutOfMemoryError
        return super().forward(images)


def test_memory_of_a_gpu_that_runs_out_halves_the_batches(toy_images):
    told = []
    with pretended_mode("cuda") as mode:
        found = predict(
            Greedy(), toy_images, NOISE, batch_size=20, device=mode.device, when_halved=told.append
        )
    assert told == [10, 5]
    same(found, predict(Plain(), toy_images, NOISE, batch_size=5, device="cpu"))


def order_of(images: Images, device: torch.device) -> list[str]:
    """When batches are given to two networks, and when their outputs are used."""
    seen: list[str] = []

    class Told(Plain):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append("given")
            return super().forward(images)

    networks: list[nn.Module] = [Told().to(device), Told().to(device)]
    found = compute_ahead(
        [WatchedNetwork(network) for network in networks],
        [images[:9], images[9:20]],
        Lane(device),
        FP32,
        batcher=Batcher(96),
    )
    seen.extend("used" for _ in found)
    return seen


def test_a_gpu_computes_the_next_part_while_the_outputs_of_one_are_used(toy_images):
    with pretended_mode("cuda") as mode:
        ahead = order_of(toy_images, mode.device)
    assert ahead == ["given", *["given", "used"] * 3, "used"]
    assert order_of(toy_images, CPU) == ["given", "used"] * 4


def test_all_cells_share_one_stream_of_copies():
    with pretended_mode("cuda") as mode:
        assert Lane(mode.device).copies is Lane(mode.device).copies


@pytest.mark.parametrize("what", ["pixels", "outputs"])
def test_without_page_locked_memory_copies_wait(what, toy_images, monkeypatch):
    """As in WSL and containers, which allow little of it."""
    moving, refused = torch.Tensor.to, []

    def refuse(tensor, *_, **__):
        refused.append(tensor.shape)
        raise RuntimeError("CUDA error: out of memory")

    def to(tensor, *arguments, **named):
        if arguments[:1] == ("cpu",) and named.get("non_blocking"):
            refuse(tensor)
        return moving(tensor, *arguments, **named)

    expected = predict(Plain(), toy_images, batch_size=24, device="cpu")
    with pretended_mode("cuda") as mode, monkeypatch.context() as patch:
        if what == "pixels":
            patch.setattr(torch.Tensor, "pin_memory", refuse)
        else:
            patch.setattr(torch.Tensor, "to", to)
        found = predict(Plain(), toy_images, batch_size=24, device=mode.device)
    assert len(refused) == 4
    same(found, expected)
