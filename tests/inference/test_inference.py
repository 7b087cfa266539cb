"""Prediction: from shifted 8-bit images to per-image columns, without changing the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.attacks.table import make_attack
from fairweather.data.batches import batch_slices, to_input
from fairweather.errors import InputError, StoppedError
from fairweather.inference.prediction import Predictor, predict, predict_batches
from fairweather.models.opening import load_model
from fairweather.progress import silent
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import CLEAN, make_shift
from fairweather.steps.plan import (
    DATA,
    ForwardPass,
    ImagesReference,
    OpenedNetwork,
    Plan,
    PlannedDataset,
    PlannedModel,
    PredictStep,
)
from fairweather.steps.predictions import do_predict
from fairweather.steps.worker import Worker
from fairweather.types.measurement import Dataset, Images
from fairweather.types.record import predictions_file
from tests.conftest import TINY_RESNET


@pytest.fixture(scope="module")
def model():
    return load_model(TINY_RESNET, classes=3, weights="none")


def test_columns_are_those_of_the_models_logits(model, toy_images):
    found = predict(model, toy_images, device="cpu")
    with torch.inference_mode():
        logits = model(toy_images.images.float() / 255)
    probabilities = logits.double().softmax(1)
    assert found.logits == pytest.approx(logits.numpy(), abs=1e-5)
    assert found.confidence == pytest.approx(probabilities.max(1).values.numpy(), abs=1e-6)
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    assert found.keys.tolist() == toy_images.keys.tolist()
    assert found.classes == toy_images.classes
    assert found.logits.dtype == np.float32


def test_a_shift_acts_on_the_8_bit_images(model, toy_images):
    shift = make_shift("brightness_factor", factor=0.55)
    shifted = Images(
        (toy_images.images.float() * torch.tensor(0.55)).to(torch.uint8),
        toy_images.labels,
        toy_images.keys,
        toy_images.classes,
    )
    a, b = predict(model, toy_images, shift, device="cpu"), predict(model, shifted, device="cpu")
    assert np.array_equal(a.logits, b.logits)


@pytest.mark.parametrize("batch_size", [1, 7, 96])
def test_the_batch_size_does_not_matter(model, toy_images, batch_size):
    whole = predict(model, toy_images, device="cpu")
    parts = predict(model, toy_images, batch_size=batch_size, device="cpu")
    assert parts.logits == pytest.approx(whole.logits, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_evaluated_and_put_back(toy_images, training):
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 3))
    network.train(training)
    before = network[1].running_mean.clone()
    first, second = (predict(network, toy_images, device="cpu") for _ in range(2))
    assert np.array_equal(first.logits, second.logits)
    assert torch.equal(network[1].running_mean, before)
    assert network.training is training


def worker_of(model, images, **options):
    """A worker with open data and models, as in an evaluation of Python objects."""
    plan = Plan(
        data={DATA: PlannedDataset(source="toys")},
        models=(PlannedModel(source="toy", answers=3, columns=((0,), (1,), (2,)), digest="d"),),
        steps=(),
    )
    dataset = Dataset("toys", None, None, images, (0.5,) * 3, (0.2,) * 3)
    return Worker(plan, device="cpu", datasets={DATA: dataset}, models={"d": model}, **options)


def predict_step(shift, **changes):
    settings = {
        "id": f"predictions/m/seed-0/test/{shift.id}",
        "task": "predict M",
        "leaves": (predictions_file("m", 0, shift.id),),
        "model": "m",
        "seed": 0,
        "images": ImagesReference(),
        "shift": shift.id,
        "shift_seed": 0,
        "batch_size": 96,
        "how": ForwardPass(network=OpenedNetwork(digest="d")),
    }
    return PredictStep(**settings | changes)


def test_each_shift_is_a_step_that_leaves_one_file(model, toy_images, tmp_path):
    worker, folder = worker_of(model, toy_images), RunFolder(tmp_path)
    for shift in (CLEAN, make_shift("gaussian_blur", sigma=1)):
        done = do_predict(predict_step(shift), worker, folder, silent)
        assert done.note.startswith(f"{shift.id}: accuracy ")
        stored = folder.read_predictions(f"predictions/m/seed-0/test/{shift.id}.parquet")
        expected = predict(model, toy_images, shift, batch_size=96, device="cpu")
        assert np.array_equal(stored.logits, expected.logits)
        assert np.array_equal(stored.keys, toy_images.keys.numpy())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, i: predict(m, i[:0]), "at least one image"),
        (lambda m, i: predict(m, i, precision="fp8"), "precision 'fp8'.*bf16, fp16, fp32, tf32"),
        (lambda m, i: predict(m, i, device="gpu"), "device 'gpu'.*auto, cpu, cuda, mps, xpu"),
        (
            lambda m, i: predict(load_model(TINY_RESNET, classes=4, weights="none"), i),
            "4 outputs.* 3 classes",
        ),
        (lambda m, i: predict(nn.Identity(), i), "logits .*classes"),
    ],
)
def test_bad_input_gets_one_clear_sentence(model, toy_images, call, words):
    with pytest.raises(InputError, match=words):
        call(model, toy_images)


def test_beyond_100_classes_logits_are_not_kept():
    many = load_model(TINY_RESNET, classes=101, weights="none")
    classes = tuple(f"c{i}" for i in range(101))
    pixels = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 100]), torch.arange(2), classes)
    found = predict(many, images, device="cpu")
    assert found.logits is None
    assert found.confidence.shape == (2,)


def test_cudnn_stays_on_while_images_are_predicted(toy_images):
    seen = []

    class Watching(nn.Module):
        def forward(self, images):
            flags = torch.backends.cudnn
            seen.append((flags.enabled, flags.deterministic, flags.benchmark, flags.allow_tf32))
            return torch.zeros(len(images), 3)

    before = torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic
    predict(Watching(), toy_images, device="cpu")
    assert set(seen) == {(before[0], True, False, False)}
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic) == before


class Forgetful(torch.nn.Module):
    """A linear model that runs out of memory for more than `room` images."""

    def __init__(self, room, error):
        super().__init__()
        self.linear, self.room, self.error = torch.nn.Linear(3 * 8 * 8, 3), room, error
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        if len(images) > self.room:
            raise self.error
        return self.linear(images.flatten(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "numpy"],
)
def test_a_batch_that_does_not_fit_is_halved(toy_images, error):
    model, said = Forgetful(room=10, error=error), []
    halved = predict(model, toy_images, batch_size=64, device="cpu", when_halved=said.append)
    assert said == [32, 16, 8]
    assert model.seen == [64, 32, 16, *[8] * 12]
    model.room = 64
    whole = predict(model, toy_images, batch_size=64, device="cpu")
    assert (halved.keys == whole.keys).all()
    np.testing.assert_allclose(halved.logits, whole.logits, atol=1e-6)


def test_a_halved_batch_stays_halved_for_the_steps_that_follow(toy_images, tmp_path):
    model, events = Forgetful(room=50, error=MemoryError()), []
    worker = worker_of(model, toy_images)
    for factor in (0.5, 1.5):
        shift = make_shift("brightness_factor", factor=factor)
        do_predict(predict_step(shift), worker, RunFolder(tmp_path), events.append)
    assert model.seen == [96, 48, 48, 48, 48]
    assert [event.line.split()[-1] for event in events if event.line] == ["48"]
    assert worker.batch_size(96) == 48
    assert worker.batch_size(20) == 20


def test_a_worker_holds_what_it_opens_against_the_plan(colour_folder):
    source = PlannedDataset(source=f"folder:{colour_folder}", size=16, validation_fraction=0.0)
    worker = Worker(Plan(data={DATA: source}, steps=()), device="cpu")
    assert len(worker.images(ImagesReference(part="test"))) == 60
    with pytest.raises(InputError, match="has no val images"):
        worker.images(ImagesReference(part="val"))
    changed = replace(source, digests={"test": "x"})
    worker = Worker(Plan(data={DATA: changed}, steps=()), device="cpu")
    with pytest.raises(InputError, match=r"the test images of folder:.* their digests differ$"):
        worker.dataset()


def test_other_errors_are_not_taken_for_a_lack_of_memory(toy_images):
    model = Forgetful(room=1, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        predict(model, toy_images, device="cpu")
    assert model.seen == [96]


class Ending(torch.nn.Module):
    """Ends the process when it is given images."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, images):
        raise self.how


def test_a_model_that_calls_exit_is_an_error_and_not_a_success(toy_images):
    with pytest.raises(InputError, match=r"the model called sys\.exit\(0\) instead"):
        predict(Ending(SystemExit(0)), toy_images, device="cpu")


def test_a_signal_of_the_system_ends_predictions(toy_images):
    with pytest.raises(StoppedError):
        predict(Ending(StoppedError(143)), toy_images, device="cpu")


def test_one_image_that_does_not_fit_is_one_sentence(toy_images):
    model = Forgetful(room=0, error=MemoryError())
    with pytest.raises(InputError, match="a single image"):
        predict(model, toy_images, batch_size=2, device="cpu")


def test_a_temperature_divides_the_logits_and_an_attack_does_not_see_it(toy_images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    attack = make_attack("pgd", epsilon=0.05, steps=2)
    for shift in (None, attack):
        plain = predict(model, toy_images, shift, device="cpu")
        cooled = predict(model, toy_images, shift, device="cpu", temperature=0.5)
        assert (cooled.logits == plain.logits / np.float32(0.5)).all()
        assert (cooled.predicted == plain.predicted).all()


def test_logits_of_many_classes_are_there_for_who_asks():
    images = Images(
        torch.zeros(5, 3, 8, 8, dtype=torch.uint8),
        torch.arange(5),
        torch.arange(5),
        tuple(map(str, range(101))),
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 101))
    reader = Predictor(model, keeps_logits=True)
    [found] = predict_batches([reader], images, batches=batch_slices(5, 2), device="cpu")
    logits = found.logits
    assert logits.shape == (5, 101)
    assert predict(model, images, device="cpu").logits is None
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(images.images.float() / 255).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (5, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inputs_are_all_values_divided_by_255(size, layout):
    count = -(-256 // (size[0] * size[1]))
    values = torch.arange(count * 3 * size[0] * size[1], dtype=torch.uint8)
    images = values.reshape(count, 3, *size).contiguous(memory_format=layout)
    before = images.clone()
    inputs = to_input(images)
    assert torch.equal(inputs, before.float() / 255)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
