"""The recipe, the probe, collapse, and a loop that resumes to the same bits."""

import io
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pydantic
import pytest
import torch
from scipy import stats
from torch import nn

from fairweather.errors import CollapsedError, InputError, TrainingDivergedError
from fairweather.training.loop_parts import is_check_due
from fairweather.training.selfsupervised.methods import METHODS, build_projector
from fairweather.training.selfsupervised.pretraining import (
    COLLAPSED_BELOW,
    NeighbourProbe,
    correlation_of_views,
    embedding_std,
    knn_quality,
    pretrain,
    stop_if_collapsed,
)
from fairweather.training.selfsupervised.pretraining_recipe import (
    PRETRAINING_KEYS,
    PUBLISHED,
    SMALL_VIEWS,
    Pretraining,
    Views,
)
from fairweather.types.measurement import Images
from tests.helpers.chance import FALSE_ALARM, deviations, most
from tests.training.test_views import NOTHING

CPU = torch.device("cpu")
SMALL = {
    "epochs": 3,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-2,
    "views": SMALL_VIEWS,
}


def tiny(method, **changes):
    wide = {"projector": (16, 8)} if PUBLISHED[method].projector else {}
    return Pretraining(method, **{**SMALL, **wide, **changes})


def small_encoder(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )


def train(recipe, images, **options):
    *_, last = pretrain(small_encoder(), images, recipe, features=32, **options)
    return last


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_is_left_out_is_what_was_published(method):
    recipe, published = Pretraining(method), PUBLISHED[method]
    for name, value in published._asdict().items():
        if name == "bias_learning_rate" and value is None:
            value = published.learning_rate
        assert getattr(recipe, name) == value, name
    assert set(asdict(recipe)) == set(PRETRAINING_KEYS)


def test_published_rates_belong_to_their_optimizer():
    assert Pretraining("barlow_twins", learning_rate=0.7).bias_learning_rate == 0.0048
    assert Pretraining("simclr", learning_rate=0.7).bias_learning_rate == 0.7
    adamw = Pretraining("barlow_twins", optimizer="adamw", learning_rate=1e-3)
    assert adamw.bias_learning_rate == 1e-3
    with pytest.raises(InputError, match=r"learning_rate .*barlow_twins .*lars .*adamw"):
        Pretraining("barlow_twins", optimizer="adamw")
    assert Pretraining("barlow_twins", epochs=20).warmup_epochs == 2
    assert Pretraining("barlow_twins", epochs=20, warmup_epochs=5).warmup_epochs == 5


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_recipe_is_read_strictly_and_written_whole(method):
    adapter = pydantic.TypeAdapter(Pretraining)
    recipe = tiny(method, clip_gradient_norm=1.0)
    assert adapter.validate_json(json.dumps(asdict(recipe))) == recipe
    short = {"method": method, "views": {"blur": [0, 0]}}
    assert adapter.validate_json(json.dumps(short)) == Pretraining(method, views=Views(blur=(0, 0)))
    for key, value in (("epoch", 3), ("epochs", "3"), ("projector", ["8"]), ("views", {"zoom": 1})):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_json(json.dumps({"method": method, key: value}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "barlow"}, "'barlow'.*'barlow_twins'"),
        ({"epochs": 0}, "pretraining: epochs .*>= 1.* 0$"),
        ({"batch_size": 1}, "batch_size .*>= 2"),
        ({"learning_rate": 0.0}, "learning_rate .*> 0"),
        ({"momentum": 1.0}, r"momentum .*\[0, 1\)"),
        ({"warmup_epochs": 1000}, r"warmup_epochs .*epochs \(1000\).* 1000$"),
        ({"projector": ()}, r"projector .*barlow_twins .*at least one width.*\[\]"),
        ({"projector": (8, 0)}, "projector .*>= 1.* 0$"),
        ({"redundancy_weight": -1.0}, "redundancy_weight .*>= 0"),
        ({"clip_gradient_norm": 0.0}, "clip_gradient_norm .*> 0"),
        ({"method": "rotation", "projector": (8,)}, r"projector .*rotation .*no widths.*\[8\]"),
    ],
)
def test_a_recipe_checks_its_values(changes, words):
    with pytest.raises(InputError, match=words):
        Pretraining(**{"method": "barlow_twins", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_scale": (0.0, 1.0)}, "views: crop_scale .*> 0.* 0"),
        ({"crop_scale": (0.5, 0.2)}, r"crop_scale .*\[0\.5, 1\.0\].* 0\.2$"),
        ({"crop_scale": (0.5, 1.2)}, r"crop_scale .*1\.0\].* 1\.2$"),
        ({"blur": (1.0,)}, r"blur .*two numbers.* \[1\.0\]"),
        ({"solarize": (0.0, 1.1)}, r"solarize .*\[0, 1\].* 1\.1$"),
        ({"hue": 0.6}, r"hue .*\[0, 0\.5\].* 0\.6$"),
        ({"contrast": -0.1}, "contrast .*>= 0"),
        ({"horizontal_flip": 2.0}, r"horizontal_flip .*\[0, 1\]"),
        ({"blur_sigma": (2.0, 1.0)}, r"blur_sigma .*>= 2\.0.* 1\.0$"),
    ],
)
def test_views_check_their_values(changes, words):
    with pytest.raises(InputError, match=words):
        Views(**changes)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_says_how_it_went(toy_images, method):
    recipe = tiny(method, epochs=2)
    probe = NeighbourProbe(toy_images[:64], toy_images[64:])
    last = train(recipe, toy_images[:64], probe=probe)
    assert list(last.history[0]) == [
        "epoch",
        "train_loss",
        "embedding_std",
        "learning_rate",
        "images_per_second",
        "knn_accuracy",
    ]
    assert [row["epoch"] for row in last.history] == [1, 2]
    assert all(math.isfinite(value) for row in last.history for value in row.values())
    asked = len(probe.val.labels)
    assert last.history[-1]["knn_accuracy"] * asked > most(asked, 1 / 3)  # three equal classes
    matrices = (last.correlation, last.correlation_before)
    assert [each is not None for each in matrices] == [method == "barlow_twins"] * 2
    start = small_encoder().state_dict()
    assert any(not torch.equal(start[key], last.state["encoder"][key]) for key in start)


def losses_of_one_batch(method, images, **changes):
    """Losses of epochs of one batch with all images, whose views do not change them."""
    wide = PUBLISHED[method].projector and (16,)
    recipe = tiny(
        method, batch_size=len(images.labels), views=NOTHING, projector=wide, warmup_epochs=0.0
    )
    encoder = small_encoder()
    encoder[3] = nn.Identity()  # no dropout
    *_, last = pretrain(encoder, images, replace(recipe, **changes), features=32)
    return [row["train_loss"] for row in last.history]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"rotation"}))
def test_every_small_step_downhill_lowers_the_loss(toy_images, method):
    losses = losses_of_one_batch(method, toy_images, epochs=10, learning_rate=1e-3)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_the_loss_of_rotation_falls(toy_images):
    """Every epoch has new random rotations, so the loss goes down, but not at every step."""
    toy_images.images[:, :, :4] //= 4  # dark at the top, so that rotations can be seen
    losses = losses_of_one_batch("rotation", toy_images, epochs=20)
    trend = stats.kendalltau(range(20), losses, alternative="less")
    assert trend.pvalue < FALSE_ALARM  # a loss that does not fall passes this rarely


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def timeless(history):
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in history]


@pytest.mark.parametrize("interrupted_after", [1, 3])
@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("barlow_twins", "lars"), ("simsiam", "sgd"), ("simclr", "adamw"), ("supervised", "sgd")],
)
def test_resumed_pretraining_ends_with_the_same_bits(
    toy_images, method, optimizer, interrupted_after
):
    recipe = tiny(method, optimizer=optimizer, clip_gradient_norm=5.0, views=Views())
    whole = train(recipe, toy_images, seed=3)
    epochs = pretrain(small_encoder(), toy_images, recipe, features=32, seed=3)
    for _ in range(interrupted_after):
        part = next(epochs)
    buffer = io.BytesIO()
    torch.save(part.state, buffer)
    torch.manual_seed(99)  # other random numbers were used in between
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    encoder = small_encoder(seed=7)
    *_, resumed = pretrain(encoder, toy_images, recipe, features=32, seed=3, state=state)
    assert same_state(resumed.state["encoder"], whole.state["encoder"])
    assert same_state(encoder.state_dict(), whole.state["encoder"])
    assert same_state(resumed.state["objective"], whole.state["objective"])
    assert timeless(resumed.history) == timeless(whole.history)
    if method == "barlow_twins":
        assert np.array_equal(resumed.correlation, whole.correlation)
        assert np.array_equal(resumed.correlation_before, whole.correlation_before)


def test_another_seed_ends_elsewhere_and_the_callers_random_state_stays(toy_images):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    recipe = tiny("barlow_twins", epochs=1)
    ends = [train(recipe, toy_images, seed=seed).state for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert same_state(ends[0]["encoder"], ends[1]["encoder"])
    assert not same_state(ends[0]["encoder"], ends[2]["encoder"])
    assert not torch.equal(*(end["objective"]["project.0.weight"] for end in ends[1:]))


def test_every_epoch_draws_anew(toy_images):
    """The weights stay the same, so only the order and the views change the loss."""
    still = tiny("barlow_twins", optimizer="sgd", learning_rate=1e-30, weight_decay=0.0)
    losses = {row["train_loss"] for row in train(still, toy_images).history}
    assert len(losses) == 3


def test_only_supervised_looks_at_the_labels(toy_images):
    other = replace(toy_images, labels=toy_images.labels.flip(0))
    for method in METHODS:
        ends = [
            train(tiny(method, epochs=1), each).state["encoder"] for each in (toy_images, other)
        ]
        assert same_state(*ends) == (method != "supervised"), method


def test_probing_and_looking_change_nothing(toy_images):
    recipe = tiny("barlow_twins", epochs=2)
    probed = train(recipe, toy_images, probe=NeighbourProbe(toy_images, toy_images))
    plain = train(recipe, toy_images)
    assert same_state(probed.state["encoder"], plain.state["encoder"])
    # One step for each of two views, and three batches per epoch.
    assert int(plain.state["encoder"]["1.num_batches_tracked"]) == 2 * 2 * 3


def test_a_loss_that_is_not_finite_stops(toy_images):
    encoder = small_encoder()
    with torch.no_grad():
        encoder[0].bias[0] = math.nan
    for limit in (None, 1.0):
        recipe = tiny("barlow_twins", clip_gradient_norm=limit)
        with pytest.raises(TrainingDivergedError, match="epoch 1, step 1, at learning rate 0"):
            next(pretrain(encoder, toy_images, recipe, features=32))
    recipe = tiny("vicreg", optimizer="sgd", learning_rate=1e30, epochs=2, warmup_epochs=0.0)
    with pytest.raises(TrainingDivergedError, match=r"epoch [12], step \d, at learning rate"):
        train(recipe, toy_images)


class Blind(nn.Module):
    """An encoder with the same output for every image."""

    def __init__(self):
        super().__init__()
        self.answer = nn.Parameter(torch.linspace(-1, 1, 32))

    def forward(self, images):
        return self.answer.expand(len(images), 32)


@pytest.mark.parametrize("method", ["barlow_twins", "simclr", "vicreg", "simsiam"])
def test_a_collapsed_embedding_stops(toy_images, method):
    words = rf"{method} .*epoch 1: .* 0 .*learning_rate.*batch_size"
    with pytest.raises(CollapsedError, match=words):
        next(pretrain(Blind(), toy_images, tiny(method), features=32))


@pytest.mark.parametrize("weight", [0.0, 25.0])
def test_vicreg_without_its_variance_term_really_collapses(toy_images, weight):
    """With the term, the same run does not collapse."""
    recipe = tiny(
        "vicreg",
        epochs=40,
        batch_size=16,
        learning_rate=0.1,
        projector=(8,),
        variance_weight=weight,
        covariance_weight=weight / 25,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 32))
    epochs = pretrain(encoder, toy_images, recipe, features=32)
    seen = []
    if weight:
        seen.extend(epochs)
        assert len(seen) == 40
    else:
        with pytest.raises(CollapsedError, match=r"vicreg .*epoch \d+"):
            seen.extend(epochs)
        assert seen  # it was not collapsed from the start


@pytest.mark.parametrize("method", ["rotation", "supervised"])
def test_where_the_loss_would_tell_nobody_asks_for_collapse(toy_images, method):
    epoch = next(pretrain(Blind(), toy_images, tiny(method), features=32))
    assert epoch.history[0]["embedding_std"] == 0


def test_the_spread_of_an_embedding():
    n, d = 100_000, 16
    isotropic = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    # A coordinate of a point on the sphere has the kurtosis 3 d / (d + 2), which gives the relative
    # error of its deviation; the mean of d of them has no larger one.
    error = deviations() * math.sqrt((3 * d / (d + 2) - 1) / n) / 2
    assert embedding_std(isotropic) == pytest.approx(1, abs=error)
    assert embedding_std(isotropic * 1e-3) == pytest.approx(1, abs=error)
    assert embedding_std(torch.ones(9, 4)) == 0
    assert embedding_std(torch.zeros(9, 4)) == 0
    # Far from the origin all point the same way: 1 less the mean cosine, which is the squared
    # length of the mean, is the spread squared, but for n - 1 in place of n and for a mean of
    # deviations in place of variances. Each changes it by about a part in n.
    far = isotropic.double() + 30
    unit = far / far.norm(dim=1, keepdim=True)
    spread = math.sqrt(1 - float(unit.mean(0).square().sum()))
    assert embedding_std(far) == pytest.approx(spread, rel=10 / n)
    stop_if_collapsed(COLLAPSED_BELOW, 0, "simsiam")
    with pytest.raises(CollapsedError):
        stop_if_collapsed(COLLAPSED_BELOW * 0.99, 0, "simsiam")


def slow_knn(train_features, labels, asked, classes, k=20):
    found = []
    for feature in asked:
        cosines = [
            float(feature @ other / np.linalg.norm(feature) / np.linalg.norm(other))
            for other in train_features
        ]
        votes = [0.0] * classes
        for place in sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]:
            votes[int(labels[place])] += math.exp(cosines[place] / 0.07)
        found.append(int(np.argmax(votes)))
    return found


def test_knn_accuracy_by_definition():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (150, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (150,), generator=generator)
    pixels[torch.arange(150), labels % 3, labels] |= 64
    both = Images(pixels, labels, torch.arange(150), tuple("abcd"))
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    features = pixels.flatten(1).double().numpy() / 255
    expected = slow_knn(features[:90], labels[:90], features[90:], 4)
    accuracy = knn_quality(encoder, NeighbourProbe(both[:90], both[90:]), CPU)
    assert accuracy == pytest.approx(np.mean(np.array(expected) == labels[90:].numpy()))
    assert encoder.training
    assert encoder[1].training
    few = knn_quality(encoder, NeighbourProbe(both[:3], both[:3]), CPU)
    assert few == 1


def test_a_probe_looks_at_a_few_images_evenly_spread():
    seen = []

    def encoder(images):
        seen.append(len(images))
        return images.flatten(1) + 1

    wrapped = nn.Identity()
    wrapped.forward = encoder
    pixels = torch.zeros(6001, 3, 8, 8, dtype=torch.uint8)
    labels = torch.arange(6001) * 2 // 6001
    many = Images(pixels, labels, torch.arange(6001), ("a", "b"))
    knn_quality(wrapped, NeighbourProbe(many, many), CPU)
    assert sum(seen) == 3001 + 1501


def test_the_projector_is_the_published_one():
    layers = build_projector(512, (8192, 8192, 8192))
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == 2 * ["Linear", "BatchNorm1d", "ReLU"] + ["Linear"]
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)]
    assert shapes == [(8192, 512), (8192, 8192), (8192, 8192)]
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Linear))


def test_correlations_are_of_the_same_views_and_of_few_dimensions(toy_images):
    embed = nn.Sequential(small_encoder(), build_projector(32, (80,)))
    embed[0][3].eval()
    twice = [correlation_of_views(embed, toy_images, SMALL_VIEWS, 0, CPU) for _ in range(2)]
    assert twice[0].shape == (64, 64)
    assert twice[0].dtype == np.float64
    assert np.array_equal(*twice)
    assert np.abs(twice[0]).max() <= 1
    other = correlation_of_views(embed, toy_images, SMALL_VIEWS, 1, CPU)
    assert not np.array_equal(twice[0], other)
    assert embed[0][1].training
    assert not embed[0][3].training


def test_losses_are_looked_at_now_and_then_on_a_gpu():
    assert all(is_check_due(step, 200, CPU) for step in range(200))
    gpu = [step for step in range(120) if is_check_due(step, 120, torch.device("cuda"))]
    assert gpu == [49, 99, 119]


def test_one_image_is_not_enough(toy_images):
    with pytest.raises(InputError, match=r"at least 2 images.* 1$"):
        next(pretrain(small_encoder(), toy_images[:1], tiny("simsiam"), features=32))


def striped(n, seed):
    """Images whose class is the direction of faint stripes; their colour is random."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    y, x = np.mgrid[:16, :16]
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    stripes = np.sin(np.stack([x, y, x + y, x - y])[labels] * np.pi / 2 + phase)
    images = rng.uniform(60, 195, (n, 3, 1, 1)) + 35 * stripes[:, None]
    images = np.clip(images + rng.normal(0, 10, images.shape), 0, 255).astype(np.uint8)
    return Images(
        torch.from_numpy(images), torch.from_numpy(labels), torch.arange(n), tuple("abcd")
    )


def test_barlow_twins_finds_what_its_views_have_in_common():
    """Random weights detect mostly the colour; all views of an image have the same stripes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = nn.Sequential(
            *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    images, asked = striped(256, 0), 1000
    probe = NeighbourProbe(images, striped(asked, 1))
    before = knn_quality(encoder, probe, CPU)
    views = Views(
        crop_scale=(0.5, 1.0),
        horizontal_flip=0.0,
        jitter_probability=1.0,
        brightness=0.8,
        saturation=0.8,
        hue=0.5,
        blur=(0.0, 0.0),
        solarize=(0.0, 0.0),
    )
    recipe = tiny("barlow_twins", epochs=10, projector=(16,), weight_decay=1e-4, views=views)
    *_, last = pretrain(encoder, images, recipe, features=32, probe=probe)
    after = last.history[-1]["knn_accuracy"]
    error = math.sqrt((before * (1 - before) + after * (1 - after)) / asked)
    assert after - before > deviations() * error
    # A correlation of 256 images, after Fisher's transformation, has an error of 1 / sqrt(253);
    # the mean of several has no larger one.
    matrices = last.correlation_before, last.correlation
    start, end = (np.arctanh(np.diag(each)).mean() for each in matrices)
    assert end - start > deviations() * math.sqrt(2 / 253)
