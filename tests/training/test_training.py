"""Training: augmentation against PIL, schedules, and a loop that resumes to the same bits."""

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from fairweather.errors import InputError, TrainingDivergedError
from fairweather.models.wrappers import Classifier
from fairweather.training.augmentation import Geometry, apply_geometry, draw_geometry, mix_up
from fairweather.training.loop_parts import (
    build_optimizer,
    cut_batches,
    learning_rate_scale,
    parameter_groups,
)
from fairweather.training.recipe import Recipe, Rotation
from fairweather.training.supervised import fit, select_epoch
from tests.helpers.chance import FALSE_ALARM, distribution_p, most, share_p

FULL = Recipe(
    epochs=4,
    batch_size=20,
    learning_rate=3e-3,
    schedule="cosine",
    warmup_epochs=1,
    horizontal_flip=0.4,
    vertical_flip=0.4,
    rotation=Rotation(20, 0.4),
    mixup=0.3,
    label_smoothing=0.1,
    clip_gradient_norm=1.0,
)


def small_network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )
    return Classifier(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def noise(n, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def to_pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(28, 28), (17, 32)])
def test_flips_and_rotations_are_those_of_pil(size):
    images = noise(60, *size)
    recipe = Recipe(horizontal_flip=0.5, vertical_flip=0.5, rotation=Rotation(180, 0.7))
    geometry = draw_geometry(60, recipe, np.random.default_rng(0))
    expected = []
    for image, flip_h, flip_v, degrees in zip(images, *geometry, strict=True):
        pil = to_pil(image)
        pil = pil.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip_h else pil
        pil = pil.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if flip_v else pil
        expected.append(from_pil(pil.rotate(float(degrees), Image.Resampling.NEAREST)))
    same = (apply_geometry(images, geometry) == torch.stack(expected)).float().mean()
    # PIL rounds source coordinates to 1/65536 of a pixel: ties may fall on the other side.
    assert same > 0.999


def test_each_step_but_the_last_of_an_epoch_is_told(toy_images):
    parts, recipe = [], Recipe(epochs=2, batch_size=16)
    train, val = toy_images[:64], toy_images[64:]
    list(fit(small_network(), train, val, recipe, after_step=parts.append))
    assert parts == 2 * [0.25, 0.5, 0.75]


def test_no_rotation_moves_no_pixel():
    images, none = noise(8, 11, 14), torch.zeros(8, dtype=torch.bool)
    still = Geometry(none, none, torch.zeros(8, dtype=torch.float64))
    assert torch.equal(apply_geometry(images, still), images)
    twice = Geometry(~none, ~none, torch.zeros(8, dtype=torch.float64))
    assert torch.equal(apply_geometry(images, twice), images.flip(2, 3))


def test_probabilities_and_angles_are_drawn_for_each_image():
    recipe = Recipe(horizontal_flip=0.4, vertical_flip=0.1, rotation=Rotation(20, 0.4))
    geometry = draw_geometry(20_000, recipe, np.random.default_rng(0))
    turned = geometry.degrees != 0
    assert share_p(geometry.horizontal, 0.4) > FALSE_ALARM
    assert share_p(geometry.vertical, 0.1) > FALSE_ALARM
    assert share_p(turned, 0.4) > FALSE_ALARM
    assert geometry.degrees.abs().max() <= 20
    assert distribution_p(geometry.degrees[turned], "uniform", -20, 40) > FALSE_ALARM


def test_mixup_mixes_images_and_labels_with_the_same_weights():
    n = 512
    labels = torch.arange(n)
    one_hot_images = torch.zeros(n, 3, 16, 32)
    one_hot_images.reshape(n, 3, -1)[torch.arange(n), :, labels] = 1
    (images,), targets = mix_up(one_hot_images, labels, n, 0.3, np.random.default_rng(0))
    assert torch.allclose(images[:, 0].flatten(1), targets, atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(n))
    own = targets[torch.arange(n), labels]
    assert distribution_p(own[own < 1], "beta", 0.3, 0.3) > FALSE_ALARM  # 1: mixed with itself


@given(n=st.integers(2, 3000), size=st.integers(2, 400))
def test_batches_hold_every_image_once_and_none_is_tiny(n, size):
    parts = list(cut_batches(torch.arange(n), size))
    lengths = [len(part) for part in parts]
    assert torch.equal(torch.cat(parts), torch.arange(n))
    assert min(lengths) >= 2
    assert max(lengths) <= max(size, 3)
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == math.ceil(n / size) or max(lengths) <= 3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("none", [0, 0.5, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.5, 0]),
        ("exponential", [0, 0.5, 1, 0.1**4, 0.1**8]),
        ("step", [0, 0.5, 1, 0.1, 0.01]),
    ],
)
def test_schedules_at_their_corners(schedule, expected):
    recipe = Recipe(epochs=10, schedule=schedule, warmup_epochs=2, schedule_step=4)
    found = [learning_rate_scale(recipe, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_every_trainable_parameter_is_in_one_group():
    model = small_network()
    model.network[0].bias.requires_grad_(False)
    recipe = Recipe(
        learning_rate=1e-2,
        backbone_learning_rate_scale=0.1,
        weight_decay=0.5,
        decay_norms_and_biases=False,
    )
    groups = parameter_groups(model, model.network[6], recipe)
    found = sorted((g["part"], g["weight_decay"], g["lr"], len(g["params"])) for g in groups)
    assert found == [
        ("backbone", 0.0, pytest.approx(1e-3), 2),
        ("backbone", 0.5, pytest.approx(1e-3), 1),
        ("head", 0.0, 1e-2, 1),
        ("head", 0.5, 1e-2, 1),
    ]
    everywhere = parameter_groups(model, None, Recipe())
    assert [(g["part"], g["weight_decay"], len(g["params"])) for g in everywhere] == [
        ("head", 1e-4, 5)
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns_and_keeps_the_best_epoch(toy_images, optimizer):
    recipe = Recipe(epochs=12, batch_size=16, optimizer=optimizer, learning_rate=2e-2)
    model = small_network()
    *_, last = fit(model, toy_images[:64], toy_images[64:], recipe)
    chosen = select_epoch(last.history, recipe)
    right = round(32 * last.history[chosen]["val_accuracy"])
    assert right > most(32, 1 / 3)  # of 32 guesses among three classes
    assert last.history[chosen]["val_accuracy"] == max(row["val_accuracy"] for row in last.history)
    model.load_state_dict(last.state["best"])
    images, labels = toy_images[64:].images.float() / 255, toy_images[64:].labels
    accuracy = (model.eval()(images).argmax(1) == labels).double().mean()
    assert float(accuracy) == pytest.approx(last.history[chosen]["val_accuracy"])


def test_history_says_everything(toy_images):
    recipe = Recipe(epochs=2, batch_size=16, backbone_learning_rate_scale=0.1, schedule="step")
    model = small_network()
    *_, last = fit(model, toy_images[:64], toy_images[64:], recipe, head=model.network[6])
    assert list(last.history[0]) == [
        "epoch",
        "train_loss",
        "learning_rate",
        "backbone_learning_rate",
        "images_per_second",
        "seconds",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
    ]
    assert [row["epoch"] for row in last.history] == [1, 2]
    for row in last.history:
        assert row["seconds"] * row["images_per_second"] == pytest.approx(64)
    assert last.history[0]["backbone_learning_rate"] == pytest.approx(1e-4)


def test_the_learning_rate_follows_its_schedule_within_an_epoch(toy_images):
    recipe = Recipe(epochs=1, batch_size=16, learning_rate=1.0, optimizer="sgd", schedule="cosine")
    model = small_network()
    (epoch,) = fit(model, toy_images[:64], toy_images[64:], recipe)
    # The last of four steps starts three quarters through the epoch.
    assert epoch.history[0]["learning_rate"] == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))


def test_label_smoothing_is_in_the_loss(toy_images):
    def first_loss(smoothing):
        recipe = Recipe(epochs=1, batch_size=64, label_smoothing=smoothing)
        model = small_network()
        with torch.no_grad():
            model.network[6].weight.zero_()
            model.network[6].bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
        (epoch,) = fit(model, toy_images[:63], toy_images[64:], recipe)
        return epoch.history[0]["train_loss"]

    # With a third of the images in each class smoothing would change nothing: keep one class.
    toy_images = toy_images[(toy_images.labels == 0).nonzero()[:, 0].repeat(3)]
    log_p = torch.tensor([2.0, 0.0, 0.0]).log_softmax(0)
    assert first_loss(0.0) == pytest.approx(float(-log_p[0]), abs=1e-5)
    smoothed = -(0.7 * log_p[0] + 0.3 * log_p.mean())
    assert first_loss(0.3) == pytest.approx(float(smoothed), abs=1e-5)


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_resumed_training_ends_with_the_same_bits(toy_images, interrupted_after):
    train, val = toy_images[:64], toy_images[64:]
    *_, whole = fit(small_network(), train, val, FULL, seed=3)
    epochs = fit(small_network(), train, val, FULL, seed=3)
    for _ in range(interrupted_after):
        part = next(epochs)
    buffer = io.BytesIO()
    torch.save(part.state, buffer)
    torch.manual_seed(99)  # other random numbers were used in between
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    *_, resumed = fit(small_network(seed=7), train, val, FULL, seed=3, state=state)
    assert same_state(resumed.state["model"], whole.state["model"])
    assert same_state(resumed.state["best"], whole.state["best"])
    clocked = ("images_per_second", "seconds")
    timeless = [
        [{k: v for k, v in row.items() if k not in clocked} for row in epoch.history]
        for epoch in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_another_seed_ends_elsewhere_and_the_callers_random_state_stays(toy_images):
    train, val = toy_images[:64], toy_images[64:]
    state = torch.random.get_rng_state()
    recipe = Recipe(epochs=1, batch_size=16)
    ends = [next(fit(small_network(), train, val, recipe, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_state(ends[0].state["model"], ends[1].state["model"])
    assert not same_state(ends[0].state["model"], ends[2].state["model"])


def test_frozen_batchnorm_is_the_same_to_the_bit_after_training(toy_images):
    model = small_network()
    norm = model.network[1]
    norm.running_mean.copy_(torch.linspace(-1, 1, 8))
    model.freeze_batchnorm()
    before = {key: tensor.clone() for key, tensor in norm.state_dict().items()}
    start = model.network[6].weight.clone()
    list(fit(model, toy_images[:64], toy_images[64:], Recipe(epochs=3, batch_size=16)))
    assert same_state(norm.state_dict(), before)
    assert not torch.equal(model.network[6].weight, start)


def test_evaluation_moves_no_batchnorm_statistics(toy_images):
    """One epoch updates the statistics once per step, and not again for the training accuracy."""
    model = small_network()
    list(fit(model, toy_images[:64], toy_images[64:], Recipe(epochs=1, batch_size=16)))
    assert int(model.network[1].num_batches_tracked) == 4


def test_a_loss_that_is_not_finite_stops_with_epoch_step_and_rate(toy_images):
    model = small_network()
    with torch.no_grad():
        model.network[6].bias[0] = math.inf
    for limit in (None, 1.0):
        recipe = Recipe(epochs=1, clip_gradient_norm=limit)
        with pytest.raises(
            TrainingDivergedError, match=r"epoch 1, step 1, at learning rate 0\.001"
        ):
            list(fit(model, toy_images[:64], toy_images[64:], recipe))
    recipe = Recipe(epochs=1, batch_size=16, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingDivergedError, match=r"epoch 1, step [2-4]"):
        list(fit(small_network(), toy_images[:64], toy_images[64:], recipe))


def test_clipping_limits_the_step(toy_images):
    def moved(limit):
        model = small_network()
        start = {key: p.detach().clone() for key, p in model.named_parameters()}
        recipe = Recipe(
            epochs=1,
            batch_size=64,
            optimizer="sgd",
            momentum=0,
            weight_decay=0,
            learning_rate=1.0,
            clip_gradient_norm=limit,
        )
        list(fit(model, toy_images[:64], toy_images[64:], recipe))
        return sum(
            float((p.detach() - start[key]).square().sum()) for key, p in model.named_parameters()
        )

    assert math.sqrt(moved(0.01)) == pytest.approx(0.01, rel=1e-3)
    assert math.sqrt(moved(None)) > 0.01


@settings(deadline=None, max_examples=20)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_the_selected_epoch_is_the_first_best(rows):
    history = [{"val_accuracy": a / 3, "val_loss": float(b)} for a, b in rows]
    accuracies, losses = [a for a, _ in rows], [b for _, b in rows]
    by_accuracy = select_epoch(history, Recipe(select="accuracy"))
    best = [b for a, b in rows if a == max(accuracies)]
    assert rows[by_accuracy] == (max(accuracies), min(best))
    assert select_epoch(history, Recipe(select="nll")) == losses.index(min(losses))
    assert select_epoch(history, Recipe(select="last")) == len(rows) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs .*>= 1.* 0$"),
        ({"horizontal_flip": 1.5}, r"horizontal_flip .*\[0, 1\].* 1.5$"),
        ({"learning_rate": 0.0}, "learning_rate .*> 0.* 0.0$"),
        ({"warmup_epochs": 20}, r"warmup_epochs .*epochs \(20\).* 20$"),
        ({"mixup": -1.0}, "mixup .*>= 0.* -1.0$"),
        ({"clip_gradient_norm": 0.0}, "clip_gradient_norm .*> 0.* 0.0$"),
    ],
)
def test_a_recipe_checks_its_values(changes, words):
    with pytest.raises(InputError, match=words):
        Recipe(**changes)


def test_optimizers_are_pytorchs():
    model = small_network()
    assert isinstance(build_optimizer(model, None, Recipe()), torch.optim.AdamW)
    sgd = build_optimizer(model, None, Recipe(optimizer="sgd", momentum=0.8))
    assert sgd.defaults["momentum"] == 0.8
    assert sgd.defaults["nesterov"]
