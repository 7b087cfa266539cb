"""Whatever a model does with the memory of inputs and outputs, its predictions are the same."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fairweather.attacks.shift_lists import expand_shifts
from fairweather.data.batches import batch_slices
from fairweather.deploy.graph import GraphNetwork
from fairweather.deploy.tracing import trace
from fairweather.errors import InputError
from fairweather.inference.prediction import (
    KnownFeatures,
    Predictor,
    compute_outputs,
    predict,
    predict_batches,
    predict_shared,
)
from fairweather.models.wrappers import Ensemble
from fairweather.shifts.table import CLEAN
from fairweather.steps.predictions import has_changed_logits
from fairweather.variants.variant import read_variant
from tests.helpers.memory_habits import HABITS, Plain, ReusesItsFeatures, ReusesItsOutput

ATTACKS = (
    "fgsm,epsilon=0.1",
    "pgd,epsilon=0.1,steps=3",
    "apgd_ce,epsilon=1,norm=l2,steps=3",
    "fab_t,epsilon=0.1,steps=3",
    "square,epsilon=0.1,queries=9",
)
# With several passes of each batch, where a method takes any.
ADAPTING = (
    "batchnorm",
    "views: {views: ten_crop}",
    "lame",
    "t3a",
    "tent: {steps: 2}",
    "eata: {fisher_weight: 0, margin: 5, redundancy: 2, steps: 2}",
    "sar",
    "cotta: {augmentations: 2, sure: 1}",
)
CPU = torch.device("cpu")
pytestmark = pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)


def same(found, expected):
    """Compare all columns of two predictions."""
    for field in fields(found):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
        else:
            assert np.array_equal(one, other), field.name


def test_predictions_of_several_batches_are_those_of_a_plain_model(habit, toy_images):
    found = predict(habit(), toy_images, batch_size=20, device="cpu")
    same(found, predict(Plain(), toy_images, batch_size=20, device="cpu"))
    assert np.array_equal(found.logits.argmax(1), found.predicted)
    reader = Predictor(habit(), keeps_logits=True)
    [again] = predict_shared([reader], toy_images, CLEAN, batch_size=20, device=CPU)
    assert np.array_equal(again.logits, found.logits)


def test_features_and_their_scores_are_those_of_a_plain_model(habit, toy_images):
    found, expected = (compute_outputs(of(), toy_images, batch_size=20) for of in (habit, Plain))
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.features, expected.features)
    same(*(scored(of(), toy_images, expected.features) for of in (habit, Plain)))


def scored(model, images, features):
    """Predict with the scores of how unlike the images are."""
    reader = Predictor(model, known=KnownFeatures(features))
    (found,) = predict_batches([reader], images, batches=batch_slices(len(images), 20), device=CPU)
    return found


@pytest.mark.parametrize("text", ADAPTING)
def test_adapted_copies_are_those_of_a_plain_model(habit, text, toy_images):
    adapting = replace(read_variant(text), batch_size=24, orders=1)
    model, plain = habit(), Plain()
    predict(
        model, toy_images, expand_shifts(ATTACKS[0])[0], batch_size=20, device="cpu"
    )  # it keeps that
    ((found,), (expected,)) = (
        predict_shared(
            [Predictor(of, adapting=adapting)],
            toy_images,
            CLEAN,
            batch_size=24,
            device=CPU,
        )
        for of in (model, plain)
    )
    same(found, expected)


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_find_what_they_find_for_a_plain_model(habit, text, toy_images):
    (attack,) = expand_shifts(text)
    model = habit()
    predict(model, toy_images, batch_size=20, device="cpu")  # of one run, first without gradients
    found = predict(model, toy_images, attack, batch_size=30, device="cpu")
    same(found, predict(Plain(), toy_images, attack, batch_size=30, device="cpu"))


def test_members_of_an_ensemble_do_not_disturb_each_other(habit, toy_images):
    found = predict(Ensemble([habit(), habit()]), toy_images, batch_size=20, device="cpu")
    same(found, predict(Ensemble([Plain(), Plain()]), toy_images, batch_size=20, device="cpu"))


def test_a_guard_is_that_of_a_plain_model_or_none(habit, toy_images):
    if habit in (ReusesItsOutput, ReusesItsFeatures):  # its buffer fits one size of batch
        with pytest.raises(InputError, match="cannot be stored as a list of operations"):
            trace([habit(), habit()], (8, 8))
        return
    images = toy_images.images.float() / 255
    networks = [habit(), habit()]
    logits, _ = GraphNetwork(*trace(networks, (8, 8)))(images)
    expected, _ = GraphNetwork(*trace([Plain(), Plain()], (8, 8)))(images)
    assert torch.equal(logits, expected)
    predict(networks[0], toy_images, device="cpu")  # it can still be used


def test_stored_logits_that_are_not_those_of_the_classes_are_found(habit, toy_images):
    found = predict(habit(), toy_images, device="cpu")
    assert not has_changed_logits(found)
    found.logits[3] = 9 * np.eye(3)[(found.predicted[3] + 1) % 3]
    assert has_changed_logits(found)
