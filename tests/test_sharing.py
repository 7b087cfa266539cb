"""Each batch is shifted once for all models that see it, ahead of them, with the same results."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.data.batches import batch_slices, gathered_batches, shift_images, shifted_batches
from fairweather.devices import Arithmetic
from fairweather.errors import InputError
from fairweather.inference import prediction as sharing
from fairweather.inference.prediction import Predictor, predict, predict_shared
from fairweather.inference.shifters import Shifters
from fairweather.progress import silent
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import make_shift
from fairweather.steps.plan import (
    DATA,
    ForwardPass,
    ImagesReference,
    OpenedNetwork,
    Plan,
    PlannedDataset,
    PredictStep,
)
from fairweather.steps.predictions import do_predict
from fairweather.steps.worker import Worker
from fairweather.training.augmentation import move_if_room, training_batches
from fairweather.types.measurement import Dataset, Images, Shift
from fairweather.variants.batchnorm import BatchNorm
from fairweather.variants.calibration import LogitDivisor

pytestmark = pytest.mark.usefixtures("undrawn", "forking")

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


@pytest.fixture(scope="module")
def shifters(forking):
    """As many processes as asked for; started once."""
    every = {number: Shifters(number, first=number) for number in (1, 2)}
    yield lambda number: every.get(number)
    for each in every.values():
        each.end()


def adapts(network):
    """A reader of a copy that adapts its batch norm."""
    return Predictor(network, adapting=BatchNorm())


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_together_is_as_one_by_one_for_any_number_of_workers(
    networks, toy_images, shift, workers, shifters
):
    adapted = [adapts(each) for each in networks[:2]]
    plain = [
        Predictor(networks[0]),
        Predictor(networks[1], LogitDivisor(value=2)),
        Predictor(networks[2]),
    ]
    found = predict_shared(
        [*plain[:2], *adapted, plain[2]],
        toy_images,
        shift,
        batch_size=20,
        device=CPU,
        seed=5,
        shifters=shifters(workers),
    )
    for at, (place, temperature) in enumerate(((0, 1.0), (1, 2.0), (4, 1.0))):
        alone = predict(
            networks[at],
            toy_images,
            shift,
            batch_size=20,
            device="cpu",
            seed=5,
            temperature=temperature,
        )
        same(found[place], alone)
    for at, reader in enumerate(adapted):
        [alone] = predict_shared([reader], toy_images, shift, batch_size=20, device=CPU, seed=5)
        same(found[2 + at], alone)


def test_each_image_is_shifted_once(networks, toy_images):
    shift, seen = counted(SHIFTS[2])
    predict_shared(
        [*map(Predictor, networks), *map(adapts, networks)],
        toy_images,
        shift,
        batch_size=20,
        device=CPU,
    )
    assert sorted(seen) == toy_images.keys.tolist()


def test_images_too_large_to_keep_are_shifted_once_for_each_kind(networks, toy_images, monkeypatch):
    monkeypatch.setattr(sharing, "MOST_KEPT_BYTES", toy_images.images.nbytes - 1)
    shift, seen = counted(SHIFTS[2])
    readers = [Predictor(networks[0]), adapts(networks[0])]
    found = predict_shared(readers, toy_images, shift, batch_size=20, device=CPU)
    assert sorted(seen) == sorted(2 * toy_images.keys.tolist())
    monkeypatch.undo()
    kept = predict_shared(readers, toy_images, SHIFTS[2], batch_size=20, device=CPU)
    same(found[1], kept[1])


class Late:
    """A batch shifter that works when it is waited for, and counts the batches on their way."""

    def __init__(self, most):
        self.max_batches, self.waiting, self.largest, self.order = most, 0, 0, []

    def start(self, images, index, shift, seed):
        batch = images[index]
        self.waiting += 1
        self.largest = max(self.largest, self.waiting)

        def result():
            self.waiting -= 1
            self.order.append(int(batch.keys[0]))
            return replace(batch, images=shift(batch.images, batch.keys, seed))

        return result


@pytest.mark.parametrize("most", [1, 2, 6])
def test_batches_come_in_order_and_never_more_than_allowed_are_on_their_way(toy_images, most):
    late = Late(most)
    batches = list(
        shifted_batches(toy_images, SHIFTS[2], 0, batch_slices(len(toy_images), 4), shifters=late)
    )
    assert [int(batch.keys[0]) for batch in batches] == late.order == list(range(0, 96, 4))
    assert (late.largest, late.waiting) == (most, 0)


def test_who_stops_early_leaves_nothing_on_its_way(toy_images):
    late = Late(3)
    batches = shifted_batches(toy_images, SHIFTS[1], 0, batch_slices(96, 8), shifters=late)
    next(batches)
    batches.close()
    assert late.waiting == 0


def test_the_next_images_may_be_larger_or_fewer(shifters):
    for side, count in ((16, 5), (32, 3), (16, 9)):
        pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
        images = Images(pixels, torch.zeros(count).long(), torch.arange(count), ("a",))
        found = list(
            shifted_batches(images, SHIFTS[2], 1, batch_slices(count, 2), shifters=shifters(2))
        )
        assert torch.equal(
            torch.cat([batch.images for batch in found]), SHIFTS[2](pixels, images.keys, 1)
        )


def test_an_error_of_the_input_in_a_shifter_is_raised_and_it_goes_on(shifters, toy_images):
    small = Images(toy_images.images[:, :, :4, :4], *columns_of(toy_images))
    with pytest.raises(InputError, match="at least 8 pixels"):
        list(shifted_batches(small, SHIFTS[1], 0, batch_slices(96, 8), shifters=shifters(1)))
    batches = list(
        shifted_batches(toy_images, SHIFTS[1], 0, batch_slices(96, 96), shifters=shifters(1))
    )
    assert torch.equal(batches[0].images, SHIFTS[1](toy_images.images, toy_images.keys, 0))


def columns_of(images):
    return images.labels, images.keys, images.classes


def test_an_error_of_the_code_in_a_shifter_has_its_traceback(shifters, toy_images):
    unknown = Shift("no_such_shift", 1, {"level": 1}, lambda images, keys, seed: images)
    with pytest.raises((InputError, RuntimeError), match="no_such_shift"):
        list(shifted_batches(toy_images, unknown, 0, batch_slices(96, 8), shifters=shifters(1)))


def test_a_shifter_that_was_killed_is_told(toy_images):
    batch_shifter = Shifters(1)
    batches = shifted_batches(toy_images, SHIFTS[1], 0, batch_slices(96, 8), shifters=batch_shifter)
    next(batches)
    (shifter,) = batch_shifter._processes
    os.kill(shifter._process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"shifts images ended with signal 9.*continues"):
        list(batches)
    batch_shifter.end()


@pytest.mark.usefixtures("starting")
def test_a_worker_ends_its_shifters(toy_images):
    worker = Worker(Plan(data={}, steps=()), device="cpu", workers=2)
    batch_shifter = worker.shifters_of(silent)
    list(shifted_batches(toy_images, SHIFTS[1], 0, batch_slices(96, 8), shifters=batch_shifter))
    # A second one has joined if the networks, which here do nothing, seemed fast enough.
    shifting = (*batch_shifter._processes, *batch_shifter._joining)
    processes = [shifter._process for shifter in shifting]
    assert {process.poll() for process in processes} == {None}
    worker.close()
    assert {process.poll() for process in processes} == {-signal.SIGKILL}


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
    readers = [Predictor(networks[0]), Predictor(Greedy(networks[1], 5))]
    found = predict_shared(
        readers,
        toy_images,
        SHIFTS[1],
        batch_size=20,
        device=CPU,
        when_halved=told.append,
    )
    assert told == [10, 5]
    whole = predict(networks[1], toy_images, SHIFTS[1], batch_size=5, device="cpu")
    np.testing.assert_array_equal(found[1].correct, whole.correct)
    np.testing.assert_allclose(found[1].logits, whole.logits, atol=1e-5)


def test_memory_that_runs_out_while_images_are_shifted_is_no_error(networks, toy_images):
    noise = SHIFTS[2]

    def apply(images, keys, seed):
        if len(images) > 3:
            raise MemoryError
        return noise.apply(images, keys, seed)

    greedy = Shift(noise.name, noise.level, noise.parameters, apply)
    found = predict(networks[0], toy_images, greedy, batch_size=20, device="cpu")
    same(found, predict(networks[0], toy_images, noise, batch_size=20, device="cpu"))
    with pytest.raises(MemoryError):
        shift_images(toy_images, always_greedy, 0)


def never(images, keys, seed):
    raise MemoryError


always_greedy = Shift("greedy", 1.0, {}, never)


def test_a_stream_that_was_interrupted_does_not_spoil_the_next(shifters, toy_images):
    batch_shifter = shifters(1)
    batches = shifted_batches(toy_images, SHIFTS[2], 0, batch_slices(96, 8), shifters=batch_shifter)
    next(batches)
    del batches  # a batch is on its way
    started = [batch_shifter.start(toy_images, slice(8), SHIFTS[2], 0) for _ in range(2)]
    del started  # nobody waits for these
    found = list(
        shifted_batches(toy_images, SHIFTS[2], 1, batch_slices(96, 8), shifters=batch_shifter)
    )
    expected = SHIFTS[2](toy_images.images, toy_images.keys, 1)
    assert torch.equal(torch.cat([batch.images for batch in found]), expected)


def test_a_step_says_that_its_batches_were_halved(networks, toy_images, tmp_path):
    dataset = Dataset("toys", None, toy_images, toy_images, (0.5,) * 3, (0.2,) * 3)
    plan = Plan(data={DATA: PlannedDataset(source="toys")}, steps=())
    network = OpenedNetwork(digest="d")
    greedy = Greedy(networks[0], 20)
    worker = Worker(plan, device="cpu", datasets={DATA: dataset}, models={"d": greedy})
    folder = RunFolder(tmp_path)

    def step(shift, how):
        return PredictStep(
            id=f"p{shift}{how.way}",
            task="t",
            leaves=(f"predictions/{shift}{how.way}.parquet",),
            model="m",
            seed=0,
            images=ImagesReference(),
            shift=shift,
            shift_seed=0,
            batch_size=64,
            how=how,
        )

    done = do_predict(step("clean", ForwardPass(network=network)), worker, folder, silent)
    assert (done.share, done.halved_to) == (1.0, 16)
    blurred = step("gaussian_blur,sigma=1,kernel_size=5", ForwardPass(network=network))
    assert do_predict(blurred, worker, folder, silent).halved_to == 16
    other = Worker(plan, device="cpu", datasets={DATA: dataset}, models={"d": networks[0]})
    assert do_predict(blurred, other, folder, silent).halved_to is None


def test_what_compiling_takes_is_not_the_time_of_a_network(
    networks, toy_images, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.compile", lambda each, **_: each)
    monkeypatch.setattr("fairweather.devices._try_compiler", lambda: None)
    dataset = Dataset("toys", None, toy_images, toy_images, (0.5,) * 3, (0.2,) * 3)
    plan = Plan(data={DATA: PlannedDataset(source="toys")}, steps=())
    worker = Worker(plan, device="cpu", datasets={DATA: dataset}, models={"d": networks[0]})
    for compiled in (True, False):
        step = PredictStep(
            id="p",
            task="t",
            leaves=("predictions/p.parquet",),
            model="m",
            seed=0,
            images=ImagesReference(),
            shift="clean",
            shift_seed=0,
            batch_size=64,
            how=ForwardPass(network=OpenedNetwork(digest="d")),
            arithmetic=Arithmetic(compile=compiled),
        )
        done = do_predict(step, worker, RunFolder(tmp_path), silent)
        assert (done.network_seconds is None) == compiled


def test_pixels_travel_to_every_model_unchanged(networks, toy_images):
    class Spoils(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner(images.mul_(0))

    readers = [Predictor(Spoils(networks[0])), Predictor(networks[1])]
    found = predict_shared(
        readers,
        toy_images,
        SHIFTS[1],
        batch_size=20,
        device=CPU,
    )
    same(found[1], predict(networks[1], toy_images, SHIFTS[1], batch_size=20, device="cpu"))


def test_images_are_those_of_the_index():
    pixels, column = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4)
    images = Images(pixels, column, column, tuple("abcd"))
    order = [torch.tensor([3, 1]), torch.tensor([0, 2])]
    keep = torch.empty_like(pixels)
    found = list(shifted_batches(images, None, 0, order, out=keep))
    assert [batch.keys.tolist() for batch in found] == [[3, 1], [0, 2]]
    assert torch.equal(keep, pixels)


# ---------------------------------------------------------------- training batches


def test_training_batches_are_the_same_from_the_images_and_from_a_thread(toy_images, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # there may be no GPU
    order = torch.from_numpy(np.random.default_rng(0).permutation(96))
    indices = list(order.split(20))
    plain = list(training_batches(toy_images, indices, CPU))
    ahead = list(gathered_batches(toy_images, indices))
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
    moved = move_if_room(toy_images, meta, 3, room)  # three jobs each have as many
    assert asked == [(meta, 3 * toy_images.images.nbytes)]
    assert moved.images.device == meta
    assert moved.labels.device == moved.keys.device == CPU
    assert move_if_room(toy_images, meta, room=lambda device, size: False) is toy_images
    assert move_if_room(toy_images, CPU) is toy_images  # on a CPU, they are there already


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
        how = ForwardPass(network=OpenedNetwork(digest="d"))
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
