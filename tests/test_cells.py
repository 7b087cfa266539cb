"""Prediction: shifted 8-bit images in, per-image columns out, the model left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.attacks import make_attack
from fairweather.cells import predict, predict_cells, predict_logits
from fairweather.errors import InputError
from fairweather.models import load_model
from fairweather.shifts import CLEAN, make_shift
from fairweather.types import Cell, Images

from .conftest import TINY_RESNET


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


def test_cells_come_one_by_one(model, toy_images):
    cells = [Cell("a", 0, shift) for shift in (CLEAN, make_shift("gaussian_blur", sigma=1))]
    found = predict_cells(model, toy_images, cells, device="cpu")
    assert next(found)[0] == cells[0]
    cell, predictions = next(found)
    assert cell == cells[1]
    assert cell.path.as_posix() == "predictions/a/seed-0/gaussian_blur,sigma=1.parquet"
    assert len(predictions) == len(toy_images)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, i: predict(m, i[:0]), "no images"),
        (lambda m, i: predict(m, i, precision="fp16"), "unknown precision 'fp16'"),
        (lambda m, i: predict(m, i, device="gpu"), "unknown device 'gpu'"),
        (
            lambda m, i: predict(load_model(TINY_RESNET, classes=4, weights="none"), i),
            "4 outputs, the data 3",
        ),
        (lambda m, i: predict(nn.Identity(), i), "must return logits"),
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
    """A linear model whose machine has room for so many images at a time."""

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


def test_a_halved_batch_stays_halved_for_the_cells_that_follow(toy_images):
    model = Forgetful(room=50, error=MemoryError())
    cells = [Cell("m", 0, make_shift("brightness_factor", factor=f)) for f in (0.5, 1.5)]
    assert len(list(predict_cells(model, toy_images, cells, batch_size=96, device="cpu"))) == 2
    assert model.seen == [96, 48, 48, 48, 48]


def test_other_errors_are_not_taken_for_a_lack_of_memory(toy_images):
    model = Forgetful(room=1, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        predict(model, toy_images, device="cpu")
    assert model.seen == [96]


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
    logits = predict_logits(model, images, batch_size=2, device="cpu")
    assert logits.shape == (5, 101)
    assert predict(model, images, device="cpu").logits is None
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(images.images.float() / 255).numpy(), atol=1e-6)
