"""Prediction: shifted 8-bit images in, per-image columns out, the model left as it was."""

import numpy as np
import pytest
import torch
from torch import nn

from fairweather.cells import predict, predict_cells
from fairweather.errors import InputError
from fairweather.models import load_model
from fairweather.shifts import CLEAN, make_shift
from fairweather.types import Cell, Images

from .conftest import TINY_RESNET


@pytest.fixture(scope="module")
def model():
    return load_model(TINY_RESNET, classes=3)


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
        (lambda m, i: predict(load_model(TINY_RESNET, classes=4), i), "4 outputs, the data 3"),
        (lambda m, i: predict(nn.Identity(), i), "must return logits"),
    ],
)
def test_bad_input_gets_one_clear_sentence(model, toy_images, call, words):
    with pytest.raises(InputError, match=words):
        call(model, toy_images)


def test_beyond_100_classes_logits_are_not_kept():
    many = load_model(TINY_RESNET, classes=101)
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
