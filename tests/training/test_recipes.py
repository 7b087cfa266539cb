"""The newer recipes: each trains, resumes to the same bits, and changes only allowed weights."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.attacks.table import make_attack, make_training_attack
from fairweather.errors import InputError, TrainingDivergedError
from fairweather.runs.fingerprints import effective_facts
from fairweather.training.augmentation import TrainingBatch, make_batch
from fairweather.training.loop_parts import find_phase, learning_rate_scale
from fairweather.training.policies import jensen_shannon
from fairweather.training.recipe import (
    Adversarial,
    AugMix,
    GaussianNoise,
    RandAugment,
    RandomErasing,
    Recipe,
)
from fairweather.training.supervised import (
    MovingAverage,
    RotationTask,
    attack_batch,
    fit,
    select_epoch,
    supervised_loss,
)
from tests.helpers.chance import FALSE_ALARM, share_p
from tests.training.test_training import same_state, small_network

CPU = torch.device("cpu")
SHORT = {"epochs": 3, "batch_size": 32}
RECIPES = {
    "cutmix": Recipe(**SHORT, cutmix=1.0),
    "mixup and cutmix": Recipe(**SHORT, mixup=0.3, cutmix=1.0),
    "augmix": Recipe(**SHORT, augmix=AugMix()),
    "augmix without consistency": Recipe(**SHORT, augmix=AugMix(consistency=0, width=1)),
    "trivial augment": Recipe(**SHORT, trivial_augment=True),
    "rand augment": Recipe(**SHORT, rand_augment=RandAugment()),
    "random erasing": Recipe(**SHORT, random_erasing=RandomErasing()),
    "gaussian noise": Recipe(**SHORT, gaussian_noise=GaussianNoise(0.2)),
    "adversarial": Recipe(**SHORT, adversarial=Adversarial(8 / 255, steps=2)),
    "adversarial l2": Recipe(**SHORT, adversarial=Adversarial(0.5, steps=2, norm="l2")),
    "rotation prediction": Recipe(**SHORT, rotation_prediction=0.5),
    "label smoothing": Recipe(**SHORT, label_smoothing=0.1),
    "moving average": Recipe(**SHORT, ema_decay=0.9),
    "probe": Recipe(**SHORT, probe_epochs=3),
    "probe, then all": Recipe(**SHORT, probe_epochs=1, probe_learning_rate=1e-2),
    "everything that goes together": Recipe(
        **SHORT,
        horizontal_flip=0.5,
        rand_augment=RandAugment(1, 5),
        gaussian_noise=GaussianNoise(0.05),
        random_erasing=RandomErasing(0.3),
        cutmix=1.0,
        rotation_prediction=0.5,
        ema_decay=0.9,
        probe_epochs=1,
        label_smoothing=0.1,
    ),
}


def attack_of(recipe):
    settings = recipe.adversarial
    if settings is None:
        return None
    return make_training_attack(
        "pgd", epsilon=settings.epsilon, norm=settings.norm, steps=settings.steps
    )


def trained(recipe, images, *, seed=3, model=None, state=None):
    model = model or small_network()
    return fit(
        model,
        images[:64],
        images[64:],
        recipe,
        head=model.network[6],
        seed=seed,
        state=state,
        attack=attack_of(recipe),
    )


@pytest.mark.parametrize("interrupted_after", [1, 2])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_resumes_to_the_same_bits(toy_images, name, interrupted_after):
    recipe = RECIPES[name]
    *_, whole = trained(recipe, toy_images)
    assert [row["epoch"] for row in whole.history] == [1, 2, 3]
    assert all(math.isfinite(row["train_loss"]) for row in whole.history)
    epochs = trained(recipe, toy_images)
    for _ in range(interrupted_after):
        part = next(epochs)
    buffer = io.BytesIO()
    torch.save(part.state, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    *_, resumed = trained(recipe, toy_images, model=small_network(seed=7), state=state)
    assert same_state(resumed.state["model"], whole.state["model"])
    for key in ("best", "probed", "average", "task"):
        assert same_state(resumed.state.get(key, {}), whole.state.get(key, {})), key
    start = small_network().state_dict()
    assert not same_state(start, whole.state["model"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_does_something_that_the_plain_one_does_not(toy_images, name):
    plain = Recipe(**SHORT)
    *_, changed = trained(RECIPES[name], toy_images)
    *_, same = trained(plain, toy_images)
    key = "best" if RECIPES[name].ema_decay else "model"
    assert not same_state(changed.state[key], same.state[key])


def test_a_probe_moves_the_head_and_not_a_bit_of_anything_else(toy_images):
    model = small_network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    *_, last = trained(replace(RECIPES["probe"], weight_decay=0.5), toy_images, model=model)
    moved = {key for key, tensor in last.state["model"].items() if not tensor.equal(before[key])}
    assert moved == {"network.6.weight", "network.6.bias"}
    assert [row["backbone_learning_rate"] for row in last.history] == [0.0] * 3
    assert "probed" not in last.state


def test_a_probe_before_the_rest_keeps_where_it_ended(toy_images):
    recipe = RECIPES["probe, then all"]
    epochs = trained(recipe, toy_images)
    first = next(epochs)
    at_the_end_of_the_probe = {key: t.clone() for key, t in first.state["model"].items()}
    *_, last = epochs
    assert same_state(last.state["probed"], at_the_end_of_the_probe)
    backbone = "network.0.weight"
    assert last.state["probed"][backbone].equal(small_network().state_dict()[backbone])
    assert not last.state["model"][backbone].equal(last.state["probed"][backbone])
    assert select_epoch(last.history, recipe) > 0
    assert last.history[0]["learning_rate"] == 1e-2
    assert last.history[1]["learning_rate"] == 1e-3


def test_a_probe_leaves_what_was_frozen_before_frozen_after(toy_images):
    model = small_network()
    model.network[0].weight.requires_grad_(False)
    frozen = model.network[0].weight.detach().clone()
    *_, last = trained(RECIPES["probe, then all"], toy_images, model=model)
    assert last.state["model"]["network.0.weight"].equal(frozen)
    assert not last.state["model"]["network.1.weight"].equal(torch.ones(8))


def test_phases_cut_the_epochs_and_each_has_its_own_schedule():
    recipe = Recipe(epochs=10, probe_epochs=4, schedule="cosine", warmup_epochs=1)
    assert [find_phase(recipe, epoch).probe for epoch in (0, 3.9, 4, 9)] == [
        True,
        True,
        False,
        False,
    ]
    found = [learning_rate_scale(recipe, epoch) for epoch in (0, 2, 4, 5, 7.5, 10)]
    assert found == pytest.approx([1, 0.5, 0, 1, 0.5, 0], abs=1e-12)
    whole = Recipe(epochs=4, probe_epochs=4, schedule="cosine")
    assert learning_rate_scale(whole, 4) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probe_epochs": 21}, r"probe_epochs .*\[0, 20\].* 21$"),
        (
            {"probe_epochs": 18, "warmup_epochs": 2},
            r"warmup_epochs .*epochs - probe_epochs \(2\).* 2$",
        ),
        ({"ema_decay": 1.0}, r"ema_decay .*\[0, 1\)"),
        ({"cutmix": -1.0}, "cutmix .*>= 0"),
        ({"augmix": AugMix(), "mixup": 0.1}, "augmix .*mixup"),
        ({"adversarial": Adversarial(0.1), "cutmix": 1.0}, "adversarial .*cutmix"),
        ({"adversarial": Adversarial(0.1), "augmix": AugMix()}, "adversarial .*augmix"),
        (
            {"rand_augment": RandAugment(), "trivial_augment": True},
            "rand_augment .*trivial_augment",
        ),
    ],
)
def test_a_recipe_refuses_what_has_no_meaning(changes, words):
    with pytest.raises(InputError, match=words):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AugMix(severity=11), r"augmix\.severity .*\[0\.1, 10\].* 11$"),
        (lambda: AugMix(alpha=0), r"augmix\.alpha .*> 0.* 0$"),
        (lambda: RandAugment(magnitude=31), r"rand_augment\.magnitude .*\[0, 30\].* 31$"),
        (lambda: RandomErasing(area=(0.5, 0.1)), r"random_erasing\.area .*low, high.*\[0.5, 0.1\]"),
        (lambda: RandomErasing(area=(0, 0.1)), r"random_erasing\.area .*above 0 .*1.*\[0, 0\.1\]"),
        (lambda: GaussianNoise(0), r"gaussian_noise\.std .*> 0.* 0$"),
        (lambda: Adversarial(0.1, norm="l1"), r"adversarial\.norm .*linf or l2.* 'l1'"),
        (lambda: Adversarial(0.1, steps=0), r"adversarial\.steps .*\[1, 1000\].* 0$"),
    ],
)
def test_options_check_their_values(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_later_keys_stand_in_a_fingerprint_only_where_they_do_something():
    first = effective_facts(Recipe())
    assert list(first)[-1] == "select"
    assert effective_facts(Recipe(ema_decay=0.5)) == first | {"ema_decay": 0.5}
    assert effective_facts(Recipe(augmix=AugMix()))["augmix"]["severity"] == 3.0


def test_soft_labels_sum_to_one_whatever_mixes(toy_images):
    rng = np.random.default_rng(0)
    for _ in range(4):
        batch = make_batch(toy_images, RECIPES["mixup and cutmix"], rng, CPU)
        assert batch.targets.shape == (96, 3)
        assert torch.allclose(batch.targets.sum(1), torch.ones(96), atol=1e-6)
        assert 0 <= float(batch.views[0].min()) <= float(batch.views[0].max()) <= 1


def test_mixup_and_cutmix_take_turns(toy_images):
    rng = np.random.default_rng(0)
    recipe = RECIPES["mixup and cutmix"]
    original = toy_images.images.float() / 255
    pasted = []
    for _ in range(40):
        views = make_batch(toy_images, recipe, rng, CPU).views[0]
        # CutMix leaves pixels outside its box as they are in almost every image, MixUp in none.
        untouched = (views == original).all(1).flatten(1).any(1).double().mean()
        pasted.append(bool(untouched > 0.5))
    assert share_p(pasted, 0.5) > FALSE_ALARM


def test_augmix_gives_the_image_and_two_mixtures_of_it(toy_images):
    rng = np.random.default_rng(0)
    views = make_batch(toy_images, RECIPES["augmix"], rng, CPU).views
    assert len(views) == 3
    assert torch.equal(views[0], toy_images.images.float() / 255)
    assert not torch.equal(views[1], views[2])


def test_the_loss_of_augmix_is_cross_entropy_and_twelve_times_the_divergence():
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.rand(4, 3, 8, 8, generator=generator) for _ in range(3))
    weight = torch.randn(3, 3, generator=generator)
    targets = torch.tensor([0, 1, 2, 0])

    def forward(images):
        return images.mean((2, 3)) @ weight * 20

    batch = TrainingBatch(views, targets)
    logits = [forward(view) for view in views]
    expected = F.cross_entropy(logits[0], targets) + 12 * jensen_shannon(*logits)
    assert float(supervised_loss(forward, batch, RECIPES["augmix"])) == pytest.approx(
        float(expected), rel=1e-6
    )


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.8)])
def test_adversarial_training_moves_every_image_within_the_budget(toy_images, norm, epsilon):
    model = small_network().eval()
    images = toy_images.images.float() / 255
    with torch.no_grad():
        wrong = model(images).argmax(1) != toy_images.labels
    assert 0 < int(wrong.sum()) < 96
    attack = make_training_attack("pgd", epsilon=epsilon, norm=norm, steps=3)
    batch = attack_batch(
        TrainingBatch((images,), toy_images.labels),
        toy_images.keys,
        model,
        attack,
        np.random.default_rng(0),
    )
    moved = (batch.views[0] - images).flatten(1)
    length = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    assert bool((length > epsilon / 10).all())
    assert float(length.max()) <= epsilon + 2e-6
    with torch.no_grad():
        before, after = (
            F.cross_entropy(model(each), toy_images.labels, reduction="none")
            for each in (images, batch.views[0])
        )
    assert bool((after >= before - 1e-5).all())
    assert float((after - before)[wrong].mean()) > 0


def test_adversarial_training_that_diverges_says_so(toy_images):
    recipe = Recipe(
        epochs=1,
        batch_size=16,
        optimizer="sgd",
        learning_rate=1e30,
        adversarial=Adversarial(0.1, steps=2),
    )
    with pytest.raises(TrainingDivergedError, match=r"not finite in epoch 1, step [2-4]|loss is"):
        list(trained(recipe, toy_images))


def test_an_attack_while_training_moves_no_batchnorm_statistics(toy_images):
    seen = []
    attack = attack_of(RECIPES["adversarial"])

    def watching(model, images, labels, keys, stream, tell=None):
        before = model.network[1].running_mean.clone()
        found = attack.apply(model, images, labels, keys, stream)
        seen.append((before.equal(model.network[1].running_mean), model.training, stream))
        return found

    model = small_network()
    watched = replace(attack, apply=watching)
    recipe = RECIPES["adversarial"]
    list(
        fit(model, toy_images[:64], toy_images[64:], recipe, head=model.network[6], attack=watched)
    )
    assert len(seen) == 6
    assert all(still and training for still, training, _ in seen)
    assert len({stream for *_, stream in seen}) == 6  # every batch starts from other points


def test_an_adversarial_recipe_and_an_attack_go_together(toy_images):
    model = small_network()
    with pytest.raises(InputError, match=r"adversarial .*attack .*both or neither"):
        next(fit(model, toy_images[:64], toy_images[64:], RECIPES["adversarial"]))
    attack = make_attack("pgd", epsilon=0.1)
    with pytest.raises(InputError, match=r"adversarial .*attack .*both or neither"):
        next(fit(model, toy_images[:64], toy_images[64:], Recipe(), attack=attack))


@pytest.mark.parametrize("name", ["probe", "rotation prediction"])
def test_what_needs_the_head_says_so(toy_images, name):
    with pytest.raises(InputError, match=f"{name.partition(' ')[0]}.* head of the model"):
        next(fit(small_network(), toy_images[:64], toy_images[64:], RECIPES[name]))


def test_the_rotation_task_reads_what_the_head_reads(toy_images):
    model = small_network().eval()
    task = RotationTask(model.network[6])
    images = toy_images.images[:8].float() / 255
    loss = task.loss(model, images, np.random.default_rng(0))
    turns = torch.from_numpy(np.random.default_rng(0).integers(4, size=8))
    turned = torch.stack([x.rot90(int(k), (1, 2)) for x, k in zip(images, turns, strict=True)])
    features = model.network[:6]((turned - model.mean) / model.std)
    expected = F.cross_entropy(task.linear(features), turns)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert not model.network[6]._forward_pre_hooks  # no hook is left
    with pytest.raises(InputError, match=r"rotation_prediction .*linear layer.* ReLU"):
        RotationTask(nn.ReLU())


def test_the_rotation_task_reads_what_a_head_reads_last(toy_images):
    head, images = nn.Linear(3, 3), toy_images.images[:8].float() / 255
    task = RotationTask(head)
    loss = task.loss(lambda x: head(head(x.mean((2, 3)))), images, np.random.default_rng(0))
    turns = torch.from_numpy(np.random.default_rng(0).integers(4, size=8))
    # A turn does not change a mean colour.
    expected = F.cross_entropy(task.linear(head(images.mean((2, 3)))), turns)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_second_head_learns_and_is_not_in_the_checkpoint(toy_images):
    recipe = RECIPES["rotation prediction"]
    epochs = trained(recipe, toy_images)
    first = {key: t.clone() for key, t in next(epochs).state["task"].items()}
    *_, last = epochs
    assert not same_state(first, last.state["task"])
    assert last.state["best"].keys() == small_network().state_dict().keys()


def test_turning_needs_squares(toy_images):
    wide = replace(toy_images, images=toy_images.images[:, :, :6])
    model = small_network()
    with pytest.raises(InputError, match=r"rotation_prediction .*square.* 6x8"):
        next(
            fit(
                model,
                wide[:64],
                wide[64:],
                RECIPES["rotation prediction"],
                head=model.network[6],
            )
        )


def test_a_moving_average_is_the_one_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.5)
    by_hand = None
    for step in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0 + step)
        model[1].running_mean += 1
        model[1].num_batches_tracked += 1
        average.update_parameters(model)
        now = {key: tensor.double().clone() for key, tensor in model.state_dict().items()}
        if by_hand is None:
            by_hand = now
            continue
        decay = min(0.5, (1 + step) / (10 + step))
        by_hand = {key: decay * by_hand[key] + (1 - decay) * now[key] for key in now}
    found = average.module.state_dict()
    for key in ("0.weight", "0.bias", "1.weight", "1.running_mean"):
        assert torch.allclose(found[key].double(), by_hand[key], atol=1e-5), key
    assert int(found["1.num_batches_tracked"]) == 6


def test_the_average_is_what_is_evaluated_and_kept(toy_images):
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=2e-2, ema_decay=0.95, select="last")
    *_, last = trained(recipe, toy_images)
    assert not same_state(last.state["best"], last.state["model"])
    kept = {key.removeprefix("module."): t for key, t in last.state["average"].items()}
    del kept["n_averaged"]
    assert same_state(last.state["best"], kept)
    model = small_network()
    model.load_state_dict(last.state["best"])
    images, labels = toy_images[64:].images.float() / 255, toy_images[64:].labels
    accuracy = (model.eval()(images).argmax(1) == labels).double().mean()
    assert float(accuracy) == pytest.approx(last.history[-1]["val_accuracy"])


def test_settings_may_be_lists_and_must_be_there():
    assert RandomErasing(aspect=[0.3, 3.3]).aspect == [0.3, 3.3]
    with pytest.raises(InputError, match="batch_size must be a number, found None"):
        Recipe(batch_size=None)
