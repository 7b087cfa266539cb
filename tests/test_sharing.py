"""Each batch is shifted once for all models that see it, ahead of them, with the same results."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import fairweather as fw
from fairweather.devices import Arithmetic
from fairweather.errors import InputError
from fairweather.inference import Reader, adapt_batchnorm, predict, predict_adapted, predict_shared
from fairweather.inference import shared as sharing
from fairweather.shifts import make_shift
from fairweather.steps.plan import Forward, ImagesReference, OpenedNetwork, PredictStep
from fairweather.streams import shifted_batches, slices
from fairweather.training.batching import near, training_batches
from fairweather.types import Images, Shift

CPU = torch.device("cpu")
NOISE = "imagenet_c/gaussian_noise"


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    ).eval()


@pytest.fixture
def networks():
    return [network(seed) for seed in range(3)]


def counted(shift):
    """The shift, and the keys of every image that it was applied to."""
    seen, lock = [], threading.Lock()

    def apply(images, keys, seed):
        with lock:
            seen.extend(keys.tolist())
        return shift.apply(images, keys, seed)

    return Shift(shift.name, shift.level, shift.parameters, apply), seen


def same(one, other):
    for column in ("keys", "labels", "logits", "confidence", "correct", "nll"):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


SHIFTS = [make_shift("clean"), make_shift("gaussian_blur", sigma=1), make_shift(NOISE, severity=3)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_together_is_as_one_by_one_for_any_number_of_workers(networks, toy_images, shift, workers):
    adapted = [adapt_batchnorm(each) for each in networks[:2]]
    found = predict_shared(
        [Reader(networks[0]), Reader(networks[1], 2.0), Reader(networks[2])],
        adapted,
        toy_images,
        shift,
        batch_size=20,
        adapted_batch_size=20,
        device=CPU,
        seed=5,
        workers=workers,
    )
    for at, temperature in enumerate((1.0, 2.0, 1.0)):
        alone = predict(
            networks[at],
            toy_images,
            shift,
            batch_size=20,
            device="cpu",
            seed=5,
            temperature=temperature,
        )
        same(found.plain[at], alone)
    for at, model in enumerate(adapted):
        same(
            found.adapted[at],
            predict_adapted(model, toy_images, shift, batch_size=20, device="cpu", seed=5),
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_shifted_once(networks, toy_images, workers):
    shift, seen = counted(SHIFTS[2])
    predict_shared(
        [Reader(each) for each in networks],
        [adapt_batchnorm(each) for each in networks],
        toy_images,
        shift,
        batch_size=20,
        adapted_batch_size=20,
        device=CPU,
        workers=workers,
    )
    assert sorted(seen) == toy_images.keys.tolist()


def test_images_too_large_to_keep_are_shifted_once_for_each_kind(networks, toy_images, monkeypatch):
    monkeypatch.setattr(sharing, "MOST_KEPT", toy_images.images.nbytes - 1)
    shift, seen = counted(SHIFTS[2])
    readers, adapted = [Reader(networks[0])], [adapt_batchnorm(networks[0])]
    sizes = {"batch_size": 20, "adapted_batch_size": 20, "device": CPU}
    found = predict_shared(readers, adapted, toy_images, shift, **sizes)
    assert sorted(seen) == sorted(2 * toy_images.keys.tolist())
    monkeypatch.undo()
    kept = predict_shared(readers, adapted, toy_images, SHIFTS[2], **sizes)
    same(found.adapted[0], kept.adapted[0])


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order_and_never_more_than_allowed_exist(toy_images, workers):
    made, used, most = [], [], []

    def apply(images, keys, seed):
        made.append(int(keys[0]))
        most.append(len(made) - len(used))
        time.sleep(0.01 * (int(keys[0]) % 3))  # so that later batches are often ready first
        return images

    slow = Shift("slow", None, {}, apply)
    for batch in shifted_batches(toy_images, slow, 0, slices(len(toy_images), 4), workers=workers):
        used.append(int(batch.keys[0]))
        time.sleep(0.005)
    assert used == sorted(used) == list(range(0, len(toy_images), 4))
    assert max(most) <= workers + 2


def test_an_error_in_a_worker_is_raised_and_no_thread_is_left(toy_images):
    def apply(images, keys, seed):
        raise InputError("no such picture")

    before = threading.active_count()
    with pytest.raises(InputError, match="no such picture"):
        list(
            shifted_batches(toy_images, Shift("bad", None, {}, apply), 0, slices(96, 8), workers=2)
        )
    assert threading.active_count() == before


def test_who_stops_early_leaves_no_thread(toy_images):
    before = threading.active_count()
    batches = shifted_batches(toy_images, SHIFTS[1], 0, slices(96, 8), workers=2)
    next(batches)
    batches.close()
    assert threading.active_count() == before


class Greedy(nn.Module):
    """It predicts at most `most` images at a time."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, images):
        if len(images) > self.most:
            raise MemoryError
        return self.inner(images)


def test_memory_that_runs_out_halves_the_batches_of_all_that_follow(networks, toy_images):
    told = []
    readers = [Reader(networks[0]), Reader(Greedy(networks[1], 5))]
    found = predict_shared(
        readers,
        [],
        toy_images,
        SHIFTS[1],
        batch_size=20,
        adapted_batch_size=20,
        device=CPU,
        when_halved=told.append,
    )
    assert told == [10, 5]
    whole = predict(networks[1], toy_images, SHIFTS[1], batch_size=5, device="cpu")
    np.testing.assert_array_equal(found.plain[1].correct, whole.correct)
    np.testing.assert_allclose(found.plain[1].logits, whole.logits, atol=1e-5)


def test_pixels_travel_to_every_model_unchanged(networks, toy_images):
    class Spoils(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images.mul_(0))

    readers = [Reader(Spoils(networks[0])), Reader(networks[1])]
    found = predict_shared(
        readers,
        [],
        toy_images,
        SHIFTS[1],
        batch_size=20,
        adapted_batch_size=20,
        device=CPU,
    )
    same(found.plain[1], predict(networks[1], toy_images, SHIFTS[1], batch_size=20, device="cpu"))


def test_workers_are_an_argument_of_predict(networks, toy_images):
    one = fw.predict(networks[0], toy_images, SHIFTS[2], batch_size=16, device="cpu", workers=2)
    same(one, fw.predict(networks[0], toy_images, SHIFTS[2], batch_size=16, device="cpu"))


def test_images_are_those_of_the_index():
    pixels, column = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    images = Images(pixels, column, column, tuple("abcd"))
    order = [torch.tensor([3, 1]), torch.tensor([0, 2])]
    keep = torch.ones_like(pixels)
    found = list(shifted_batches(images, None, 0, order, keep=keep))
    assert [batch.keys.tolist() for batch in found] == [[3, 1], [0, 2]]
    assert not keep.any()


# ---------------------------------------------------------------- training batches


def test_training_batches_are_the_same_from_the_images_and_from_a_thread(toy_images):
    order = torch.from_numpy(np.random.default_rng(0).permutation(96))
    indices = list(order.split(20))
    plain = list(training_batches(toy_images, indices, CPU))
    ahead = list(shifted_batches(toy_images, None, 0, indices, workers=1))
    assert [len(batch) for batch in plain] == [20, 20, 20, 20, 16]
    for one, other, index in zip(plain, ahead, indices, strict=True):
        for column in ("images", "labels", "keys"):
            expected = getattr(toy_images, column)[index]
            assert torch.equal(getattr(one, column), expected)
            assert torch.equal(getattr(other, column), expected)


def test_pixels_go_to_the_device_only_if_they_have_room(toy_images):
    asked = []

    def room(device, size):
        asked.append((device, size))
        return True

    meta = torch.device("meta")
    moved = near(toy_images, meta, room)
    assert asked == [(meta, toy_images.images.nbytes)]
    assert moved.images.device == meta
    assert moved.labels.device == moved.keys.device == CPU
    assert near(toy_images, meta, lambda device, size: False) is toy_images
    assert near(toy_images, CPU) is toy_images  # on a CPU, they are there already


# ---------------------------------------------------------------- arithmetic


def test_the_arithmetic_holds_in_its_block_and_not_after_it():
    flags, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = flags.benchmark, flags.allow_tf32, matmul.allow_tf32
    with Arithmetic("tf32", cudnn_benchmark=True).on(CPU):
        assert (flags.benchmark, flags.allow_tf32, matmul.allow_tf32) == (True, True, True)
        assert not torch.is_autocast_enabled("cpu")
    assert (flags.benchmark, flags.allow_tf32, matmul.allow_tf32) == before
    with Arithmetic("bf16").on(CPU):
        assert (flags.benchmark, flags.allow_tf32, matmul.allow_tf32) == (False, False, False)
        assert torch.is_autocast_enabled("cpu")


def test_tf32_is_refused_where_there_is_none(networks, toy_images):
    with pytest.raises(InputError, match="tf32 is for CUDA devices; this device is cpu"):
        predict(networks[0], toy_images, device="cpu", precision="tf32")


def test_bf16_changes_the_numbers_little(networks, toy_images):
    exact = predict(networks[0], toy_images, device="cpu")
    rough = predict(networks[0], toy_images, device="cpu", precision="bf16")
    assert not np.array_equal(exact.logits, rough.logits)
    # Each of the two layers rounds its input, its weights and its output to 8 bits.
    np.testing.assert_allclose(rough.logits, exact.logits, atol=6 * 2**-8 * 3)


def test_the_arithmetic_is_part_of_the_fingerprint_only_where_it_is_not_the_default():
    def step(**changes):
        how = Forward(network=OpenedNetwork(digest="d"))
        return PredictStep(
            id="p",
            task="t",
            leaves=("f",),
            model="m",
            seed=0,
            images=ImagesReference(digest="i"),
            shift="clean",
            shift_seed=0,
            batch_size=8,
            how=how,
            **changes,
        )

    plain = step().depends()
    assert plain["precision"] == "fp32"
    assert "cudnn_benchmark" not in plain
    other = step(arithmetic=Arithmetic("bf16", cudnn_benchmark=True)).depends()
    assert other == {**plain, "precision": "bf16", "cudnn_benchmark": True}
