"""Attacks: equal to known optima and to other libraries, within budget, the same for any batch."""

import itertools
import math
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import fairweather as fw
from fairweather.attacks import draws, gradient_attacks
from fairweather.attacks.masking import masking_warning
from fairweather.attacks.problem import (
    NORMS,
    AttackPlan,
    AttackRun,
    likely_other_classes,
    project_into_ball,
    project_on_hyperplane,
    targeted_dlr,
)
from fairweather.attacks.square import draw_bumps, make_bump, move_bump, square_share
from fairweather.attacks.table import ATTACKS, make_attack, run_attack, sweep
from fairweather.errors import InputError
from tests.helpers.attack_models import OneByOne, digits, held_out, linear, network, trained
from tests.helpers.chance import FALSE_ALARM, deviations, distribution_p, fewest, means_p, pairs_p

SMALL = {  # budgets small enough for a test of every attack
    "fgsm": {},
    "pgd": {"steps": 4, "restarts": 2},
    "apgd_ce": {"steps": 6},
    "apgd_t": {"steps": 6, "targets": 3},
    "fab_t": {"steps": 5, "targets": 3, "restarts": 2},
    "square": {"queries": 20, "restarts": 2},
    "autoattack": {"steps": 4, "queries": 10, "targets": 3},
    "auto_ensemble_without_dlr": {"steps": 4, "queries": 10, "targets": 3},
}
RADII = {"linf": 0.1, "l2": 0.8}
GRADIENT = sorted(set(ATTACKS) - {"square"})
THEIR_NORMS = {"linf": "Linf", "l2": "L2"}


def small(name, norm="linf", epsilon=None):
    return make_attack(name, epsilon=epsilon or RADII[norm], norm=norm, **SMALL[name])


def are_right(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(1) == labels


def accuracy(model, images, labels):
    return are_right(model, images, labels).double().mean().item()


def lengths(change, norm):
    flat = change.double().flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


class Counted(nn.Module):
    """Logits from pixels in 64ths, by whole numbers only: exact, so the same in any batch."""

    def __init__(self, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        shape = (3 * 8 * 8, classes)
        self.register_buffer("weights", torch.randint(-9, 10, shape, generator=generator).double())

    def forward(self, images):
        assert not images.requires_grad
        assert not torch.is_grad_enabled()
        return (images.double() * 64).floor().flatten(1) @ self.weights


class Constant(nn.Module):
    """Always class 0, with a gradient of zero, so results show only the random numbers."""

    def forward(self, images):
        return images.flatten(1).sum(1, keepdim=True) * 0 + torch.tensor([1.0, 0.5, 0, 0, 0])


def noise(count, size=8, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def right_labels(model, images):
    with torch.no_grad():
        return model(images).argmax(1)


# --- every attack of the table ---------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_keeps_its_budget_and_breaks_images(name, norm):
    model, (images, labels, keys) = trained(), held_out(60)
    clean = accuracy(model, images, labels)
    result = small(name, norm).outcome(model, images, labels, keys)
    assert result.images.dtype == torch.float32
    assert result.images.shape == images.shape
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert lengths(result.images - images, norm).max() <= RADII[norm] + 1e-6
    robust = accuracy(model, result.images, labels)
    assert robust < clean - 0.03
    assert result.robust.double().mean().item() == robust
    wrong = ~torch.stack([result.robust, *result.broken.values()])
    assert ((~wrong).sum(0) == 1).all(), "each image is robust, or one part broke it"
    unchanged = result.images[result.broken["clean"]] == images[result.broken["clean"]]
    assert result.broken["clean"].any()
    assert unchanged.all()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_leaves_the_model_and_the_random_states_alone(name):
    torch.manual_seed(5)
    model = network(10).train()
    model[1].eval()  # frozen batch norm inside a model in training mode
    model[0].weight.requires_grad_(False)
    next(model[3].parameters()).grad = torch.ones(24, 12, 3, 3)
    images = noise(6)
    labels = right_labels(model.eval(), images)
    model.train()[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grads = [
        (p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()
    ]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    pixels = images.clone()
    small(name)(model, images, labels, torch.arange(6))
    assert torch.equal(images, pixels)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for parameter, (required, grad) in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad == required
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]


def test_the_mode_is_restored_after_an_error():
    class Broken(nn.Module):
        def forward(self, images):
            raise OSError("no such device")

    model = Broken().train()
    with pytest.raises(OSError, match="no such device"):
        small("pgd")(model, noise(2), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert model.training


@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_is_attacked_in_evaluation_mode(name):
    model = trained()
    images, labels, keys = held_out(20)
    expected = small(name)(model, images, labels, keys)
    model.train()
    try:
        assert torch.equal(small(name)(model, images, labels, keys), expected)
    finally:
        model.eval()


def test_a_model_is_attacked_with_exact_kernels():
    class Curious(nn.Module):
        def forward(self, images):
            flags = torch.backends.cudnn
            found.add((flags.enabled, flags.benchmark, flags.deterministic, flags.allow_tf32))
            return images.flatten(1)[:, :4]

    found = set()
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic
    small("pgd")(**{**GOOD, "model": Curious()})
    assert found == {(True, False, True, False)}
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic) == before


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_changes_at_epsilon_zero(name, norm):
    model, (images, labels, keys) = trained(), held_out(20)
    attack = make_attack(name, epsilon=0, norm=norm, **SMALL[name])
    assert torch.equal(attack(model, images, labels, keys), images)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "fab_t", "autoattack"])
def test_accuracy_is_at_most_chance_at_epsilon_one(name):
    model, (images, labels, keys) = trained(), held_out(60)
    robust = accuracy(model, small(name, epsilon=1)(model, images, labels, keys), labels)
    assert robust <= 0.1
    assert masking_warning({name: {1.0: robust}}, chance=0.1) == ""


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_is_monotone_in_epsilon(norm):
    model, (images, labels, keys) = trained(), held_out(100)
    levels = [RADII[norm] * factor for factor in (0.25, 0.5, 1, 1.5, 2, 3)]
    attacks = sweep("pgd", {"epsilon": levels, "steps": 10, "norm": norm})
    robust = [accuracy(model, a(model, images, labels, keys), labels) for a in attacks]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > 0.8
    assert robust[-1] < 0.1


# --- known optima ----------------------------------------------------------------------------


def binary(pixel=0.5, margin=0.0):
    """A linear model of two classes, images, labels, and the direction that raises the loss."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3 * 8 * 8, generator=generator)
    images = pixel + 0.02 * (noise(5) - 0.5)
    middle = (weight @ images.flatten(1).T).mean(1)
    model = linear(weight, torch.tensor([margin, 0]) - middle)
    labels = right_labels(model, images)
    uphill = (weight[1 - labels] - weight[labels]).reshape(images.shape)
    return model, images, labels, uphill


def test_fgsm_is_the_closed_formula():
    model, images, labels, uphill = binary()
    attacked = make_attack("fgsm", epsilon=0.03)(model, images, labels, torch.arange(5))
    torch.testing.assert_close(attacked, images + 0.03 * uphill.sign(), rtol=0, atol=1e-7)


def test_fgsm_clips_to_the_range_of_pixels():
    model, images, labels, uphill = binary(pixel=0.02)
    attacked = make_attack("fgsm", epsilon=0.3)(model, images, labels, torch.arange(5))
    expected = (images + 0.3 * uphill.sign()).clamp(0, 1)
    assert (expected == 0).any()
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd_ce"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradient_attacks_reach_the_optimum_of_a_linear_model(name, norm):
    model, images, labels, uphill = binary(margin=5)
    length = uphill.flatten(1).norm(dim=1)[:, None, None, None]
    epsilon, best = {"linf": (0.02, uphill.sign()), "l2": (0.2, uphill / length)}[norm]
    # The default steps add up to 2.5 epsilon, which leaves e^-2.5 of a Euclidean start's detour.
    steps = {"fgsm": {}, "pgd": {"steps": 30, "step_size": epsilon}, "apgd_ce": {"steps": 30}}
    attack = make_attack(name, epsilon=epsilon, norm=norm, **steps[name])
    result = attack.outcome(model, images, labels, torch.arange(5))
    assert result.robust.all(), "a broken image is dropped before it reaches the optimum"
    change = (result.images - images) / epsilon
    torch.testing.assert_close(change, best, rtol=0, atol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_fab_breaks_a_linear_model_just_beyond_its_margin(norm):
    model, images, labels, uphill = binary()
    with torch.no_grad():
        logits = model(images)
    flat = uphill.flatten(1)
    dual = flat.abs().sum(1) if norm == "linf" else flat.norm(dim=1)
    distance = (logits.amax(1) - logits.amin(1)) / dual
    for place in range(5):
        one = slice(place, place + 1)
        near, far = (float(distance[place]) * factor for factor in (0.999, 1.06))
        for epsilon, robust in ((near, True), (far, False)):
            attack = make_attack("fab_t", epsilon=epsilon, norm=norm, steps=5)
            result = attack.outcome(model, images[one], labels[one], torch.arange(1))
            assert result.robust.item() == robust


def test_pgd_starts_uniformly_in_the_ball():
    images = torch.full((500, 3, 8, 8), 0.5)
    attack = make_attack("pgd", epsilon=0.1, norm="l2", steps=1)
    points = attack(Constant(), images, torch.zeros(500, dtype=torch.int64), torch.arange(500))
    radii = lengths(points - images, "l2") / 0.1
    shares = (radii ** images[0].numel()).clamp(0, 1)  # of the ball's volume
    assert distribution_p(shares, "uniform") > FALSE_ALARM


def test_pgd_takes_the_stated_step():
    model, images, labels, uphill = binary()
    attack = make_attack("pgd", epsilon=1e-4, steps=1, step_size=1e-5)
    start = make_attack("pgd", epsilon=1e-4, steps=1, step_size=1e-12)
    # The random numbers depend on the id, so both are run with the same stream.
    batch = (model, images, labels, torch.arange(5), "0/same")
    step = attack.apply(*batch).images - start.apply(*batch).images
    inside = (attack.apply(*batch).images - images).abs() < 0.99e-4
    torch.testing.assert_close(step[inside], (1e-5 * uphill.sign())[inside], rtol=0, atol=2e-7)
    default = make_attack("pgd", epsilon=1e-4, steps=25)
    given = make_attack("pgd", epsilon=1e-4, steps=25, step_size=1e-5)
    assert torch.equal(default.apply(*batch).images, given.apply(*batch).images)


# --- other implementations -------------------------------------------------------------------


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():  # it imports names that SciPy has moved
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def torchattacks():
    # It pins an old requests, so it is no dependency: pip install --no-deps torchattacks==3.5.1
    return pytest.importorskip("torchattacks")


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_equals_foolbox(foolbox, norm):
    model, (images, labels, keys) = trained(), held_out(300)
    reference = {
        "linf": foolbox.attacks.LinfFastGradientAttack,
        "l2": foolbox.attacks.L2FastGradientAttack,
    }
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1))
    _, expected, _ = reference[norm](random_start=False)(
        theirs, images, labels, epsilons=RADII[norm]
    )
    result = make_attack("fgsm", epsilon=RADII[norm], norm=norm).outcome(
        model, images, labels, keys
    )
    right = ~result.broken["clean"]
    torch.testing.assert_close(result.images[right], expected[right], rtol=0, atol=2e-6)


def more_at_night(few, many):
    """A search is repeated a few times by day, in one norm.

    At night it is repeated in each norm, until small differences show.
    """
    by_night = [pytest.param(norm, many, marks=pytest.mark.nightly) for norm in NORMS]
    return pytest.mark.parametrize(("norm", "times"), [("linf", few), *by_night])


# Two searches with different random numbers sometimes break different images. If each image has its
# own random numbers, they are compared in pairs: if two differ, either may be right.


@more_at_night(1, 3)
def test_pgd_agrees_with_foolbox(foolbox, norm, times):
    model, (images, labels, keys) = trained(), held_out(400)
    epsilon, steps = RADII[norm], 20
    attack = make_attack("pgd", epsilon=epsilon, steps=steps, norm=norm)
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    theirs = kind(abs_stepsize=2.5 * epsilon / steps, steps=steps)
    ours_right, theirs_right = [], []
    for seed in range(times):
        moved = attack(model, images, labels, keys, seed)
        ours_right.append(are_right(model, moved, labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bounded = foolbox.PyTorchModel(model, bounds=(0, 1))
            _, moved, _ = theirs(bounded, images, labels, epsilons=epsilon)
        theirs_right.append(are_right(model, moved, labels))
    assert 0.3 < torch.cat(ours_right).double().mean() < 0.7
    assert pairs_p(torch.cat(ours_right), torch.cat(theirs_right)) > FALSE_ALARM


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t"])
@more_at_night(1, 6)
def test_auto_pgd_agrees_with_torchattacks(torchattacks, name, norm, times):
    classes = 5
    model, (images, labels, keys) = trained(classes), held_out(450, classes)
    epsilon = 1.5 * RADII[norm]
    reference = {
        "apgd_ce": torchattacks.APGD,
        "apgd_t": partial(torchattacks.APGDT, n_classes=classes),
    }
    attack = make_attack(name, epsilon=epsilon, norm=norm, steps=15)
    ours_right, theirs_right = [], []
    for seed in range(times):
        ours_right.append(are_right(model, attack(model, images, labels, keys, seed), labels))
        with torch.random.fork_rng(devices=[]):
            theirs = reference[name](
                model, norm=THEIR_NORMS[norm], eps=epsilon, steps=15, seed=seed
            )
            theirs_right.append(are_right(model, theirs(images, labels), labels))
    assert 0.2 < torch.cat(ours_right).double().mean() < 0.8
    assert pairs_p(torch.cat(ours_right), torch.cat(theirs_right)) > FALSE_ALARM


@more_at_night(1, 3)
def test_fab_agrees_with_torchattacks(torchattacks, norm, times):
    """Without restarts it uses no random numbers: a pair differs only by rounding."""
    classes = 5
    model, (images, labels, keys) = trained(classes), held_out(150, classes)
    ours_right, theirs_right = [], []
    for factor in (1.5, 1, 2)[:times]:
        epsilon = factor * RADII[norm]
        attack = make_attack("fab_t", epsilon=epsilon, norm=norm, steps=15)
        ours_right.append(are_right(model, attack(model, images, labels, keys), labels))
        theirs = torchattacks.FAB(
            *(model, THEIR_NORMS[norm], epsilon, 15), n_classes=classes, multi_targeted=True
        )
        theirs_right.append(are_right(model, theirs(images, labels), labels))
    assert 0.2 < torch.cat(ours_right).double().mean() < 0.8
    assert pairs_p(torch.cat(ours_right), torch.cat(theirs_right)) > FALSE_ALARM


@more_at_night(6, 32)
def test_square_agrees_with_torchattacks(torchattacks, norm, times):
    """Theirs places one square for the whole batch, so only whole searches are independent."""
    model, (images, labels, keys) = trained(), held_out(150)
    queries = 40
    attack = make_attack("square", epsilon=RADII[norm] * 1.5, queries=queries, norm=norm)
    robust, expected = [], []
    for seed in range(times):
        robust.append(accuracy(model, attack(model, images, labels, keys, seed), labels))
        with torch.random.fork_rng(devices=[]):
            theirs = torchattacks.Square(
                model, THEIR_NORMS[norm], eps=attack.level, n_queries=queries, seed=seed
            )
            theirs.p_selection = lambda query: square_share(query, queries)
            # Published code never puts a square at the last row or column; the paper does.
            draw = theirs.random_int
            theirs.random_int = lambda low, high, draw=draw: draw(low, high + 1)
            expected.append(accuracy(model, theirs(images, labels), labels))
    assert 0.3 < np.mean(robust) < 0.9
    assert means_p(robust, expected) > FALSE_ALARM


@pytest.mark.parametrize("norm", NORMS)
def test_squares_reach_the_last_row_and_column(norm):
    weight = torch.zeros(2, 3, 8, 8)
    weight[1, :, -1, -1] = 1
    model = linear(weight.flatten(1), torch.tensor([1.6, 0]))
    images, labels = torch.full((40, 3, 8, 8), 0.5), torch.zeros(40, dtype=torch.int64)
    attack = make_attack("square", epsilon=2.5 * RADII[norm], norm=norm, queries=300)
    robust = attack.outcome(model, images, labels, torch.arange(40)).robust
    # Half of the starts have the right colours there; without squares there it would stay so.
    assert robust.sum() < fewest(40, 0.5)


def test_a_moved_bump_follows_the_algorithm():
    """Algorithm 3 of the paper with the authors' normalisation, one image at a time."""
    images, epsilon, part = 0.4 + 0.2 * noise(6, size=9), 0.5, 0.2
    start = draw_bumps(images, draws.streams(torch.arange(6), "start"), 0.8 * epsilon)
    states = draws.streams(torch.arange(6), "move")
    found = move_bump(images, start, states, epsilon, part)
    side = 5  # sqrt(0.2) * 9 is 4, made odd
    for image, point, result, numbers in zip(
        images.numpy(), start.numpy(), found, draws.uniform(states, 8).numpy(), strict=True
    ):
        change = point - image
        top, left, top2, left2 = (int(number * (9 - side + 1)) for number in numbers[:4])
        here = slice(top, top + side), slice(left, left + side)
        there = slice(top2, top2 + side), slice(left2, left2 + side)
        union = np.zeros((9, 9), dtype=bool)
        union[here] = union[there] = True
        freed = (change[:, union] ** 2).sum()
        unused = max(epsilon**2 - (change**2).sum(), 0) / 3
        shape = make_bump(side).numpy() if numbers[4] < 0.5 else make_bump(side).numpy().T
        moved = change.copy()
        moved[:, union] = 0
        for channel in range(3):
            old = change[channel][here]
            new = (1 if numbers[5 + channel] < 0.5 else -1) * shape + old / np.linalg.norm(old)
            moved[channel][here] = new / np.linalg.norm(new) * np.sqrt(unused + freed)
        expected = np.clip(image + epsilon * moved / np.linalg.norm(moved), 0, 1)
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_published_constants():
    assert (
        gradient_attacks.MOMENTUM,
        gradient_attacks.LEAST_RISES,
        gradient_attacks.FIRST_STEP,
    ) == (0.75, 0.75, 2)
    assert (
        gradient_attacks.LARGEST_BIAS,
        gradient_attacks.OVERSHOOT,
        gradient_attacks.BACKWARD_SHARE,
    ) == (0.1, 1.05, 0.9)
    lengths_of_100 = list(itertools.islice(gradient_attacks._checkpoint_periods(100), 8))
    assert lengths_of_100 == [22, 19, 16, 13, 10, 7, 6, 6]
    published = {0: 1, 10: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128}
    assert {query: 0.8 / square_share(query) for query in published} == published


# --- the ensemble ----------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 4, 8, 9, 10, 12])
def test_the_ensemble_takes_any_number_of_classes(classes, norm):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        model = network(classes).eval()
    images = noise(5)
    labels = right_labels(model, images)
    name = "autoattack" if classes > 3 else "auto_ensemble_without_dlr"
    # So small that some images are still right at the last target of the last part.
    attack = make_attack(name, epsilon=1e-5, norm=norm, steps=2, queries=3)
    result = attack.outcome(model, images, labels, torch.arange(5))
    parts = ["clean", "apgd_ce", "apgd_t", "fab_t", "square"]
    if classes < 4:
        parts.remove("apgd_t")
    assert list(result.broken) == parts
    assert result.robust.any()


@pytest.mark.parametrize(
    ("name", "instead"), [("autoattack", "auto_ensemble_without_dlr"), ("apgd_t", "apgd_ce")]
)
@pytest.mark.parametrize("classes", [2, 3])
def test_below_four_classes_nothing_is_called_autoattack(name, instead, classes):
    model, images = network(classes).eval(), noise(2)
    with pytest.raises(InputError, match=f"{name} .* 4 classes, found {classes}; .*{instead}$"):
        small(name)(model, images, right_labels(model, images), torch.arange(2))


def test_the_targets_are_the_most_likely_others():
    logits = torch.tensor([[3.0, 9, 4, 1], [5.0, 2, 8, 7]])
    assert likely_other_classes(logits, torch.tensor([1, 0])).tolist() == [[2, 0, 3], [2, 3, 1]]


def test_all_targets_are_tried():
    # Class 0 is right; only class 3, the least likely, is within reach.
    weight = torch.zeros(4, 3 * 8 * 8)
    weight[3] = 1
    model = linear(weight, torch.tensor([10.0, 9.9, 9.8, -84.0]))
    images, labels = torch.full((2, 3, 8, 8), 0.47), torch.zeros(2, dtype=torch.int64)
    for targets, robust in ((1, True), (2, True), (3, False)):
        attack = make_attack("fab_t", epsilon=0.05, steps=3, targets=targets)
        assert (attack.outcome(model, images, labels, torch.arange(2)).robust == robust).all()


def test_an_ensemble_is_at_least_as_strong_as_its_parts():
    model, (images, labels, keys) = trained(), held_out(300)
    result = small("autoattack").outcome(model, images, labels, keys)
    first = make_attack("apgd_ce", epsilon=RADII["linf"], steps=4)
    batch = (model, images, labels, keys, f"0/{small('autoattack').id}")
    alone = first.apply(*batch)
    assert torch.equal(alone.broken["apgd_ce"], result.broken["apgd_ce"])
    assert (result.robust <= alone.robust).all()
    assert result.robust.sum() < alone.robust.sum()


def test_square_breaks_what_hides_its_gradient():
    class Stairs(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, images):
            return self.inner((images * 64).round() / 64 + 0 * images)

    model, (images, labels, keys) = Stairs(trained()), held_out(100)
    attack = make_attack("autoattack", epsilon=0.12, steps=5, queries=60, targets=2)
    result = attack.outcome(model, images, labels, keys)
    assert result.broken["square"].sum() > 10
    masked = {
        name: {
            0.12: accuracy(model, small(name, epsilon=0.12)(model, images, labels, keys), labels)
        }
        for name in ("pgd", "square")
    }
    assert "square, which uses no gradients" in masking_warning(masked, chance=0.1)


# --- models without gradients ----------------------------------------------------------------


class Exported(nn.Module):
    """Like a wrapper of an ONNX session: the arithmetic is done outside PyTorch."""

    def __init__(self, detach):
        super().__init__()
        self.detach, self.scale = detach, nn.Parameter(torch.ones(()))

    def forward(self, images):
        outside = images.detach().numpy() if self.detach else images.numpy()
        return torch.from_numpy(outside.reshape(len(outside), -1)[:, :4] * 9).float()


class Frozen(nn.Module):
    """Its outputs have gradients for its parameters, but not for the images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.detach().flatten(1)[:, :4]


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("model", [Exported(True), Exported(False), Frozen()])
def test_gradient_attacks_need_gradients(model, name):
    images = noise(6)
    with pytest.raises(InputError, match=r"gradients.*square"):
        small(name)(model, images, right_labels(model, images), torch.arange(6))


@pytest.mark.parametrize("norm", NORMS)
def test_square_needs_no_gradients(norm):
    model, images = Exported(False), noise(12)
    labels = right_labels(model, images)
    attack = make_attack("square", epsilon=4 * RADII[norm], norm=norm, queries=60)
    assert accuracy(model, attack(model, images, labels, torch.arange(12)), labels) < 0.5


def test_an_attack_works_in_inference_mode_and_not_in_half_precision():
    model, (images, labels, keys) = trained(), held_out(10)
    expected = small("pgd")(model, images, labels, keys)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(small("pgd")(model, images * 1, labels, keys), expected)


# --- randomness ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "apgd_t", "square"])
def test_random_starts_are_the_same_in_any_batch_and_order(name, norm):
    model, images, keys = Constant(), noise(9), torch.arange(70, 79)
    labels = torch.zeros(9, dtype=torch.int64)
    attack = small(name, norm)
    whole = attack(model, images, labels, keys, seed=3)
    assert not torch.equal(whole, images)
    order = torch.tensor([4, 0, 8, 7, 1, 2, 3, 6, 5])
    parts = [attack(model, images[i], labels[i], keys[i], seed=3) for i in order.split(2)]
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.parametrize("norm", NORMS)
def test_square_is_the_same_in_any_batch_and_order_from_start_to_end(norm):
    model, images, keys = Counted(), noise(9), torch.arange(70, 79)
    labels = right_labels(model, images)
    attack = make_attack("square", epsilon=RADII[norm] / 2, norm=norm, queries=50)
    whole = attack.outcome(model, images, labels, keys, seed=3)
    assert 0 < whole.robust.sum() < 9
    for place in range(9):
        one = slice(place, place + 1)
        alone = attack(model, images[one], labels[one], keys[one], seed=3)
        assert torch.equal(alone, whole.images[one])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_is_as_robust_in_any_batch_and_order(name):
    model, (images, labels, keys) = OneByOne(trained()), held_out(24)
    attack = small(name)
    whole = attack.outcome(model, images, labels, keys)
    back = attack.outcome(model, images.flip(0), labels.flip(0), keys.flip(0))
    parts = [
        attack.outcome(model, images[part], labels[part], keys[part])
        for part in torch.arange(24).split(7)
    ]
    assert torch.equal(back.robust.flip(0), whole.robust)
    assert torch.equal(torch.cat([part.robust for part in parts]), whole.robust)
    for name, broken in whole.broken.items():
        assert torch.equal(torch.cat([part.broken[name] for part in parts]), broken)


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "square"])
def test_seed_key_and_epsilon_change_the_draws(name):
    model, images = Constant(), torch.full((1, 3, 8, 8), 0.5)
    labels = torch.zeros(1, dtype=torch.int64)
    changes = {
        (seed, key, epsilon): (
            small(name, epsilon=epsilon)(model, images, labels, torch.tensor([key]), seed) - images
        )
        / epsilon
        for seed, key, epsilon in [(0, 0, 0.1), (1, 0, 0.1), (0, 1, 0.1), (0, 0, 0.2)]
    }
    first, *others = changes.values()
    assert all((first - other).abs().max() > 0.1 for other in others)


def test_the_sequences_are_splitmix64():
    # The first numbers of the authors' reference from the state 1234567.
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = draws.uniform(torch.tensor([1234567]), 4)
    assert found[0].tolist() == [(number >> 40) / 2**24 for number in known]


def test_the_numbers_have_their_distributions():
    states = draws.streams(torch.arange(100), "0/test")
    flat, bell = draws.uniform(states, 1000), draws.normal(states, 1000)
    assert 0 <= flat.min() <= flat.max() < 1
    assert distribution_p(flat, "uniform") > FALSE_ALARM
    assert distribution_p(bell, "norm") > FALSE_ALARM
    offspring = torch.stack([draws.fork(states, number) for number in range(50)])
    assert len(offspring.unique()) == 5000
    # Of two independent sequences of n, the correlation has a standard error of 1 / sqrt(n).
    among = np.corrcoef(flat.numpy())
    farthest = np.abs(among - np.eye(100)).max()
    assert farthest < deviations(comparisons=100 * 99 // 2) / math.sqrt(1000)


# --- geometry and losses ---------------------------------------------------------------------


def slow_distance(point, normal, offset, norm):
    """The least distance to the hyperplane within the box, by a general solver; None if beyond."""
    n = len(point)
    if norm == "linf":
        cost = np.r_[np.zeros(n), 1.0]
        slack = -np.ones((n, 1))
        rows = np.block([[np.eye(n), slack], [-np.eye(n), slack]])
        bounds = [*zip(-point, 1 - point, strict=True), (0, None)]
        solved = optimize.linprog(
            cost, rows, np.zeros(2 * n), np.r_[normal, 0][None], [offset - normal @ point], bounds
        )
        return solved.fun if solved.success else None
    crossing = {
        "type": "eq",
        "fun": lambda d: normal @ (point + d) - offset,
        "jac": lambda d: normal,
    }
    solved = optimize.minimize(
        lambda d: d @ d,
        np.zeros(n),
        jac=lambda d: 2 * d,
        bounds=list(zip(-point, 1 - point, strict=True)),
        constraints=[crossing],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return math.sqrt(solved.fun) if solved.success else None


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_hyperplane_is_the_shortest(norm):
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(40, 3, 1, 3, generator=generator)
    points[::4] = (points[::4] * 1.4 - 0.2).clamp(0, 1)  # on the bounds, too
    normals = torch.randn(40, 3, 1, 3, generator=generator)
    normals[::3, 1] = 0
    value = (normals * points).flatten(1).sum(1)
    offsets = value + torch.linspace(-5, 5, 40)
    moves = project_on_hyperplane(points, normals, offsets, NORMS[norm])
    reached = (normals * (points + moves)).flatten(1).sum(1)
    assert (points + moves).min() >= -1e-6
    assert (points + moves).max() <= 1 + 1e-6
    beyond = 0
    for place in range(40):
        flat = [tensor[place].flatten().double().numpy() for tensor in (points, normals)]
        expected = slow_distance(*flat, float(offsets[place]), norm)
        if expected is None:
            beyond += 1
            corner = (offsets[place] > value[place]).eq(normals[place] > 0).float()
            moved = normals[place] != 0
            torch.testing.assert_close((points + moves)[place][moved], corner[moved])
        else:
            assert reached[place] == pytest.approx(float(offsets[place]), abs=1e-4)
            assert lengths(moves[[place]], norm).item() == pytest.approx(expected, abs=1e-4)
    assert 3 < beyond < 37


@pytest.mark.parametrize("norm", NORMS)
def test_a_hyperplane_does_not_depend_on_the_scale_of_its_normal(norm):
    points, normals = noise(4), noise(4, seed=1) - 0.5
    offsets = (normals * points).flatten(1).sum(1) + 1
    expected = project_on_hyperplane(points, normals, offsets, NORMS[norm])
    for scale in (1e-30, 1e20):
        scaled = project_on_hyperplane(points, normals * scale, offsets * scale, NORMS[norm])
        torch.testing.assert_close(scaled, expected, rtol=1e-3, atol=1e-4)
    still = project_on_hyperplane(points, normals * 0, offsets, NORMS[norm])
    assert (still == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_hyperplane_is_found_beside_saturated_pixels_with_large_gradients(norm):
    small = 2.0**-20  # all sums are exact in float32
    points, normals = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), small)
    points[0, 0, 0, 0] = normals[0, 0, 0, 0] = 1.0
    offsets = (normals * points).flatten(1).sum(1) + small
    moves = project_on_hyperplane(points, normals, offsets, NORMS[norm])
    # The other 191 pixels move by 1 / 191 each. Shares of sums are rounded by 2**-38 at most, and
    # fewer than 8 other numbers to 24 bits.
    expected = torch.full((1, 3, 8, 8), 1 / 191)
    expected[0, 0, 0, 0] = 0
    assert torch.allclose(moves, expected, rtol=8 * 2**-24 + 2**-38, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_points_are_moved_into_ball_and_box(norm):
    images, points = noise(6), noise(6, seed=1) * 3 - 1
    moved = project_into_ball(images, points, 0.3, NORMS[norm])
    assert lengths(moved - images, norm).max() <= 0.3 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    torch.testing.assert_close(project_into_ball(images, moved, 0.3, NORMS[norm]), moved)


def test_a_vanishing_gradient_still_has_a_direction():
    gradient = noise(1) * 1e-35
    assert lengths(NORMS["l2"].steepest(gradient), "l2").item() == pytest.approx(1, abs=1e-5)
    assert (NORMS["l2"].steepest(gradient * 0) == 0).all()


def test_targeted_dlr_is_its_formula_and_has_no_scale():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(50) % 7
    targets = (labels + 1 + torch.arange(50) % 6) % 7
    expected = []
    for row, label, target in zip(logits.tolist(), labels, targets, strict=True):
        top = sorted(row, reverse=True)
        expected.append(-(row[label] - row[target]) / (top[0] - (top[2] + top[3]) / 2))
    found = targeted_dlr(logits, labels, targets)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    torch.testing.assert_close(targeted_dlr(logits * 7 + 3, labels, targets), found)


@pytest.mark.parametrize("side", [1, 3, 4, 7])
def test_a_bump_is_a_hill_above_a_valley(side):
    assert make_bump(side).norm().item() == pytest.approx(1)
    upper, lower = make_bump(side)[: side // 2], make_bump(side)[side // 2 :]
    assert (upper > 0).all()
    assert (lower < 0).all()
    # Rectangles around the middle, 1, 1 / 4 and 1 / 9 high.
    if side == 4:
        hill = upper / upper[1, 2]
        torch.testing.assert_close(
            hill[1],
            torch.tensor([1 / 9, 1 / 4 + 1 / 9, 1.25 + 1 / 9, 1 / 4 + 1 / 9]) / (1.25 + 1 / 9),
        )


# --- bad input, and attacks that misbehave ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pdg", {"epsilon": 0.1}, "'pdg'; did you mean 'pgd'"),
        ("pgd", {"epsilon": 0.1, "step": 3}, "did you mean 'steps'"),
        ("pgd", {}, "pgd .*epsilon=NUMBER"),
        ("pgd", {"epsilon": -0.1}, "epsilon .*>= 0, found -0.1"),
        ("pgd", {"epsilon": math.nan}, "epsilon .*finite .*found nan"),
        ("pgd", {"epsilon": math.inf, "norm": "l2"}, "epsilon .*finite .*found inf"),
        ("pgd", {"epsilon": "8"}, "found '8'"),
        ("pgd", {"epsilon": True}, "found True"),
        ("pgd", {"epsilon": 8}, "epsilon .*at most 1 .*found 8"),
        ("pgd", {"epsilon": 0.1, "steps": 0}, "steps .*>= 1, found 0"),
        ("pgd", {"epsilon": 0.1, "steps": 2.5}, "steps .*whole number .*found 2.5"),
        ("pgd", {"epsilon": 0.1, "step_size": 0}, "step_size .*> 0, found 0"),
        ("pgd", {"epsilon": 0.1, "restarts": -1}, "restarts .*>= 1, found -1"),
        ("fgsm", {"epsilon": 0.1, "norm": "linff"}, "did you mean 'linf'"),
        ("square", {"epsilon": 0.1, "queries": True}, "queries .*>= 1, found True"),
        ("fab_t", {"epsilon": 0.1, "targets": 0}, "targets .*>= 1, found 0"),
    ],
)
def test_bad_parameters_get_one_sentence(name, parameters, message):
    with pytest.raises(InputError, match=message) as caught:
        make_attack(name, **parameters)
    assert "\n" not in str(caught.value)


GOOD = {
    "model": linear(torch.ones(4, 3 * 8 * 8)),
    "images": torch.full((2, 3, 8, 8), 0.5),
    "labels": torch.zeros(2, dtype=torch.int64),
    "keys": torch.arange(2),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "float32 .* torch.uint8"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float64)}, "float32 .* torch.float64"),
        ({"images": torch.zeros(2, 1, 8, 8)}, r"found torch.float32 \[2, 1, 8, 8\]"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one image"),
        ({"images": torch.full((2, 3, 8, 8), 1.01)}, "found 1.01 to 1.01; normalisation"),
        ({"images": torch.full((2, 3, 8, 8), -0.01)}, "found -0.01 to -0.01"),
        ({"images": torch.full((2, 3, 8, 8), math.nan)}, "found nan to nan"),
        ({"labels": torch.zeros(2)}, "int64 label for each of 2 images"),
        ({"labels": torch.tensor([0, 4])}, "labels .* 0 to 4.* 4 classes"),
        ({"keys": torch.arange(3)}, r"int64 key for each of 2 images, found torch.int64 \[3\]"),
        ({"model": nn.Identity()}, r"logits \[B, classes\], found \[2, 3, 8, 8\]"),
        ({"model": linear(torch.full((4, 192), math.nan))}, "finite logits"),
        ({"model": linear(torch.ones(1, 192))}, "at least 2 classes, found 1"),
    ],
)
def test_bad_batches_get_one_sentence(changed, message):
    with pytest.raises(InputError, match=message) as caught:
        small("pgd")(**{**GOOD, **changed})
    assert "\n" not in str(caught.value)


def test_an_l2_budget_beyond_the_box_is_refused():
    with pytest.raises(InputError, match=r"epsilon .*13\.86.* l2, found 14"):
        make_attack("pgd", epsilon=14, norm="l2")(**GOOD)


def test_a_gradient_that_is_not_finite_is_said():
    class Root(nn.Module):
        def forward(self, images):
            return (images - images.detach()).abs().sqrt().flatten(1)[:, :4] + torch.arange(
                4, 0, -1
            )

    with pytest.raises(InputError, match=r"gradient .*not finite"):
        small("pgd")(**{**GOOD, "model": Root()})


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda problem: problem.images + 0.2, "budget: 0.19"),
        (lambda problem: problem.images + 0.6, r"left \[0, 1\]"),
        (lambda problem: problem.images * math.nan, r"left \[0, 1\]"),
        (lambda problem: problem.images[:1], "must return float32"),
        (lambda problem: problem.images.double(), "must return float32"),
    ],
)
def test_the_harness_trusts_no_attack(attack, message):
    plan = AttackPlan(0.1, "linf", lambda classes: [AttackRun("rogue", "", attack)])
    with pytest.raises(RuntimeError, match=message):
        run_attack("rogue", plan, **GOOD, stream="0")


# --- names, levels, warnings -----------------------------------------------------------------


def test_ids_and_levels():
    attacks = sweep("pgd", {"epsilon": [2 / 255, 8 / 255], "steps": 10})
    assert [attack.id for attack in attacks] == [
        "pgd,epsilon=0.00784313725490196,steps=10",
        "pgd,epsilon=0.03137254901960784,steps=10",
    ]
    assert [attack.level_name for attack in attacks] == [
        "0.00784313725490196",
        "0.03137254901960784",
    ]
    assert fw.make_attack("pgd", steps=5, epsilon=1).id == "pgd,epsilon=1,steps=5"
    assert isinstance(attacks[0], fw.Attack)
    with pytest.raises(InputError, match=r"epsilon .*\[0.1, 0.1\]"):
        sweep("fgsm", [0.1, 0.1])
    with pytest.raises(InputError, match=r"epsilon .*found None"):
        sweep("fgsm", {"norm": "l2"})


def test_every_kind_has_its_titles_and_budgets_are_noted():
    assert set(SMALL) == set(ATTACKS)
    for kind in ATTACKS.values():
        assert kind.level == "epsilon"
        assert kind.neutral == 0
        assert kind.title
    note = ATTACKS["autoattack"].note
    assert note({"epsilon": 0.1, "steps": 100, "queries": 6000}) == ""
    assert note({"steps": 5, "queries": 10}) == (
        "below the published budget: 5 steps instead of 100, 10 queries instead of 5000"
    )
    assert "not AutoAttack" in ATTACKS["auto_ensemble_without_dlr"].note({})


def test_the_standard_budget_is_the_published_one():
    plan = ATTACKS["autoattack"].plan({"epsilon": 0.1})
    names = [run.name for run in plan.runs(10)]
    assert names == ["apgd_ce", *["apgd_t"] * 9, *["fab_t"] * 9, "square"]
    assert [run.name for run in plan.runs(4)].count("apgd_t") == 3
    assert len({run.purpose for run in plan.runs(10)}) == 20


def test_signs_of_gradient_masking():
    fine = {"pgd": {0.1: 0.5, 0.2: 0.5, 1.0: 0.05}, "square": {0.1: 0.7}}
    assert masking_warning(fine, chance=0.1) == ""
    assert masking_warning({}, chance=0.1) == ""
    # One step on a normal network overshoots and may not reach chance.
    one_step = {8 / 255: 0.237, 0.1: 0.0, 0.3: 0.0, 1.0: 0.227}
    assert masking_warning({"fgsm": one_step, "square": {0.1: 0.0}}, chance=0.1) == ""
    chance = masking_warning({"apgd_ce": {1.0: 0.2}}, chance=0.1)
    assert "apgd_ce leaves an accuracy of 0.2 at epsilon 1, above chance (0.1)" in chance
    rising = masking_warning({"pgd": {0.3: 0.4, 0.1: 0.3, 0.2: 0.305}}, chance=0.1)
    assert "under pgd rises from 0.3 at epsilon 0.1 to 0.4 at epsilon 0.3" in rising
    blind = masking_warning({"pgd": {0.1: 0.5}, "square": {0.1: 0.4, 0.2: 0.1}}, chance=0.1)
    assert "leaves 0.4 at epsilon 0.1, but pgd leaves 0.5" in blind
    small = masking_warning({"pgd": {2 / 255: 0.1, 8 / 255: 0.5}}, chance=0.1)
    assert "rises from 0.1 at epsilon 2/255 to 0.5 at epsilon 8/255" in small
    both = masking_warning({"pgd": {0.1: 0.5, 1: 0.9}, "square": {0.1: 0.4}}, chance=0.1)
    assert both.count(";") == 2


def test_the_trained_network_is_worth_attacking():
    images, labels = digits()
    assert len(images) == 1797
    assert accuracy(trained(), *held_out(400)[:2]) > 0.9
    assert set(labels.tolist()) == set(range(10))
