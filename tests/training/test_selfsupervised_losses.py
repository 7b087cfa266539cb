"""Losses against their definitions and against lightly; LARS against lightly's."""

import numpy as np
import pytest
import torch
from lightly.loss import BarlowTwinsLoss
from lightly.utils.lars import LARS
from torch import nn

from fairweather.errors import InputError
from fairweather.training.selfsupervised.methods import (
    METHODS,
    barlow_twins_loss,
    cross_correlation,
    rotate_quarter,
    rotation_loss,
)
from fairweather.training.selfsupervised.pretraining import (
    build_optimizer,
    learning_rate_scale,
    parameter_groups,
)
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining


def embeddings(n=24, d=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, d, generator=generator, dtype=dtype) * torch.arange(1, d + 1) + 3
    return first, first + torch.randn(n, d, generator=generator, dtype=dtype)


def slow_loss(first, second, weight):
    """Equations 1 and 2 of Zbontar et al. 2021, one correlation at a time."""
    n, d = first.shape
    total = 0.0
    for i in range(d):
        for j in range(d):
            a, b = first[:, i].numpy(), second[:, j].numpy()
            top = sum((a[k] - a.mean()) * (b[k] - b.mean()) for k in range(n)) / n
            c = top / np.sqrt((a.var() + 1e-5) * (b.var() + 1e-5))
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


@pytest.mark.parametrize("weight", [0.0, 0.0051, 1.0])
def test_barlow_twins_by_definition_and_by_lightly(weight):
    first, second = embeddings()
    found = float(barlow_twins_loss(first, second, weight))
    assert found == pytest.approx(slow_loss(first, second, weight), rel=1e-9)
    assert found == pytest.approx(float(BarlowTwinsLoss(weight)(first, second)), rel=1e-9)


def test_the_gradient_is_lightlys():
    gradients = []
    for loss in (lambda a, b: barlow_twins_loss(a, b, 0.0051), BarlowTwinsLoss(0.0051)):
        first, second = (each.requires_grad_() for each in embeddings())
        loss(first, second).backward()
        gradients.append((first.grad, second.grad))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-9)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-9)


def test_scale_shift_and_order_of_the_batch_do_not_matter():
    first, second = embeddings()
    loss = float(barlow_twins_loss(first, second, 0.0051))
    scale = torch.linspace(0.5, 9, 7)
    moved = barlow_twins_loss(first * scale - 4, second / scale + 2, 0.0051)
    assert float(moved) == pytest.approx(loss, rel=1e-3)  # but for 1e-5 on the variance
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    shuffled = barlow_twins_loss(first[order], second[order], 0.0051)
    assert float(shuffled) == pytest.approx(loss, rel=1e-12)
    assert float(barlow_twins_loss(second, first, 0.0051)) == pytest.approx(loss, rel=1e-12)


def test_equal_views_have_nothing_on_the_diagonal_and_constant_ones_all():
    first, _ = embeddings(n=256)
    assert float(barlow_twins_loss(first, first, 0.0)) == pytest.approx(0, abs=1e-9)
    constant = torch.ones(8, 5)
    assert torch.equal(cross_correlation(constant, constant), torch.zeros(5, 5))
    assert float(barlow_twins_loss(constant, constant, 0.0051)) == 5
    assert float(barlow_twins_loss(first, -first, 0.0)) == pytest.approx(4 * 7, rel=1e-4)


def test_statistics_are_float32_under_mixed_precision():
    first, second = embeddings(n=512, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = barlow_twins_loss(first.bfloat16(), second.bfloat16(), 0.0051)
    assert mixed.dtype == torch.float32
    rounded = barlow_twins_loss(first.bfloat16().float(), second.bfloat16().float(), 0.0051)
    assert float(mixed) == pytest.approx(float(rounded), rel=1e-6)


def slow_simclr(first, second, temperature):
    z = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    n, total = len(first), 0.0
    for i in range(2 * n):
        s = (z[i] * z).sum(1) / temperature
        others = torch.cat([s[:i], s[i + 1 :]])
        total += float(others.logsumexp(0) - s[(i + n) % (2 * n)])
    return total / (2 * n)


def slow_vicreg(first, second, invariance, variance, covariance):
    d = first.shape[1]
    total = invariance * float((first - second).square().mean())
    for z in (first.numpy(), second.numpy()):
        cov = np.cov(z.T)
        stds = np.sqrt(np.diag(cov) + 1e-4)
        total += variance * np.maximum(0, 1 - stds).mean() / 2
        total += covariance * (cov**2 - np.diag(np.diag(cov) ** 2)).sum() / d
    return total


def loss_of(method, **options):
    recipe = Pretraining(method, projector=(7,), **options)
    return METHODS[method].build(7, recipe, 0).loss


def test_lightlys_losses_are_what_the_papers_say():
    first, second = embeddings()
    found = loss_of("simclr", temperature=0.3)(first, second)
    assert float(found) == pytest.approx(slow_simclr(first, second, 0.3), rel=1e-9)
    weights = {"invariance_weight": 3.0, "variance_weight": 50.0, "covariance_weight": 2.0}
    first, second = first / 10, second / 10
    found = loss_of("vicreg", **weights)(first, second)
    assert float(found) == pytest.approx(slow_vicreg(first, second, 3, 50, 2), rel=1e-9)
    cosine = (first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1)
    assert float(loss_of("simsiam")(first, second)) == pytest.approx(-float(cosine.mean()))


def test_simsiam_sends_no_gradient_through_the_predicted_embedding():
    objective = METHODS["simsiam"].build(6, Pretraining("simsiam", projector=(8, 5)), 0)
    first, second = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    targets = [objective.project(view).detach() for view in (first, second)]
    predicted = [objective.predict(objective.project(view)) for view in (first, second)]
    expected = -sum(
        torch.nn.functional.cosine_similarity(p, z).mean() / 2
        for p, z in zip(predicted, reversed(targets), strict=True)
    )
    expected.backward()
    wanted = [each.grad.clone() for each in objective.parameters()]
    objective.zero_grad()
    outcome = objective(nn.Identity(), (first, second), None)
    outcome.loss.backward()
    assert outcome.loss.item() == pytest.approx(expected.item())
    for parameter, gradient in zip(objective.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_quarter_turns_are_those_of_numpy(dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (9, 3, 6, 6), generator=generator).to(dtype)
    turns = torch.arange(9) % 4
    found = rotate_quarter(images, turns)
    for image, turn, turned in zip(images, turns, found, strict=True):
        assert np.array_equal(np.rot90(image.numpy(), int(turn), (1, 2)), turned.numpy())
    back = rotate_quarter(found, (4 - turns) % 4)
    assert torch.equal(back, images)
    with pytest.raises(InputError, match=r"square images.* 6x7"):
        rotate_quarter(torch.zeros(1, 3, 6, 7), turns[:1])


def test_the_rotation_loss_knows_the_turns():
    """A head with high confidence in the right turn has no loss, in a wrong turn it has."""
    images = torch.zeros(8, 3, 4, 4)
    images[:, :, 0, 0] = 1  # counter-clockwise: top left, bottom left, bottom right, top right

    def corners(turned):
        return turned[:, 0, [0, 3, 3, 0], [0, 0, 3, 3]]

    turns = torch.arange(8) % 4
    right, features = rotation_loss(corners, lambda seen: 100 * seen, images, turns)
    assert float(right) == pytest.approx(0, abs=1e-6)
    assert features.shape == (8, 4)
    wrong, _ = rotation_loss(corners, lambda seen: 100 * seen.roll(1, 1), images, turns)
    assert float(wrong) == pytest.approx(100, rel=1e-3)


def network():
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_lars_takes_the_steps_of_lightlys():
    recipe = Pretraining(
        "barlow_twins", batch_size=128, learning_rate=40.0, weight_decay=1e-2, momentum=0.9
    )
    with torch.random.fork_rng():
        ours, theirs = network(), network()
        optimizer = build_optimizer(ours, recipe)
        weights = [each for each in theirs.parameters() if each.ndim > 1]
        biases = [each for each in theirs.parameters() if each.ndim == 1]
        # lightly adapts where there is a weight decay; rates are for 256 images, the batch is half.
        groups = [
            {"params": weights, "lr": 20.0, "weight_decay": 1e-2},
            {"params": biases, "lr": 0.0024, "weight_decay": 0.0},
        ]
        reference = LARS(groups, lr=1.0, momentum=0.9, trust_coefficient=1e-3)
        for _ in range(6):
            images = torch.randn(16, 5)
            for model, each in ((ours, optimizer), (theirs, reference)):
                each.zero_grad()
                model(images).square().sum().backward()
                each.step()
    start = network().state_dict()
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], rtol=1e-5, atol=1e-7), name
        assert not torch.equal(value, start[name])


def test_without_weight_decay_weights_are_adapted_all_the_same():
    """lightly, and timm unless told, then take the steps of SGD; the authors' code adapts."""
    with torch.random.fork_rng():
        model = network()
    recipe = Pretraining("barlow_twins", batch_size=256, learning_rate=1.0, weight_decay=0.0)
    optimizer = build_optimizer(model, recipe)
    before = [each.detach().clone() for each in model.parameters()]
    model(torch.ones(4, 5) * torch.arange(4)[:, None]).square().sum().backward()
    optimizer.step()
    for was, now in zip(before, model.parameters(), strict=True):
        moved = float((now.detach() - was).norm())
        if now.ndim > 1:
            assert moved == pytest.approx(1e-3 * float(was.norm()), rel=1e-4)
        else:
            assert moved == pytest.approx(0.0048 * float(now.grad.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "kind", "spared"),
    [("lars", "Lars", 0.0), ("sgd", "SGD", 0.3), ("adamw", "AdamW", 0.3)],
)
def test_optimizers_and_their_groups(optimizer, kind, spared):
    recipe = Pretraining(
        "simclr",
        optimizer=optimizer,
        learning_rate=0.2,
        bias_learning_rate=0.1,
        weight_decay=0.3,
        batch_size=512,
    )
    model = network()
    groups = parameter_groups(model, recipe)
    found = [(g["part"], g["base_lr"], g["weight_decay"], len(g["params"])) for g in groups]
    assert found == [("weights", 0.4, 0.3, 2), ("biases", 0.2, spared, 3)]
    assert type(build_optimizer(model, recipe)).__name__ == kind
    frozen = nn.Linear(2, 2)
    frozen.bias.requires_grad_(False)
    assert [g["part"] for g in parameter_groups(frozen, recipe)] == ["weights"]


def test_the_learning_rate_rises_and_falls_to_its_share():
    recipe = Pretraining("simclr", epochs=10, warmup_epochs=2.0, final_learning_rate_scale=0.1)
    found = [learning_rate_scale(recipe, epoch) for epoch in (0, 1, 2, 6, 10)]
    assert found == pytest.approx([0, 0.5, 1, 0.55, 0.1], abs=1e-12)
    flat = Pretraining("simclr", epochs=1, warmup_epochs=0.0)
    assert learning_rate_scale(flat, 0) == 1
