"""Several findings of an image: their losses, soft labels and weights, and that networks learn."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.attacks.table import make_training_attack
from fairweather.errors import InputError
from fairweather.models.wrappers import Classifier
from fairweather.training.augmentation import TrainingBatch, make_batch, mix_up, soft_labels
from fairweather.training.losses import (
    ONE_CLASS,
    PLAIN,
    SEVERAL_FINDINGS,
    finding_entropy,
    finding_losses,
    mean_auc,
    weigh_findings,
)
from fairweather.training.recipe import (
    AsymmetricLoss,
    AugMix,
    GaussianNoise,
    RandAugment,
    RandomErasing,
    Recipe,
    Rotation,
)
from fairweather.training.selfsupervised.pretraining import NeighbourProbe, knn_quality, pretrain
from fairweather.training.supervised import fit, select_epoch, supervised_loss
from fairweather.types.measurement import UNKNOWN, Images
from tests.training.test_selfsupervised import small_encoder, tiny
from tests.training.test_training import same_state

CPU = torch.device("cpu")
NAMES = ("Effusion", "Mass")
FOCUSES = (
    PLAIN,
    AsymmetricLoss(),
    AsymmetricLoss(4, 1, 0.05),
    AsymmetricLoss(0.5, 2, 0),
    AsymmetricLoss(0, 0, 0.2),
)


def draw(count=40, findings=3, seed=0):
    """Logits, and soft labels with unknown ones, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, findings, generator=generator, dtype=torch.float64)
    targets = torch.rand(count, findings, generator=generator, dtype=torch.float64)
    targets[: count // 2] = targets[: count // 2].round()
    targets[torch.rand(count, findings, generator=generator) < 0.2] = math.nan
    return logits, targets


def slow_loss(logit, target, focus, weight):
    if math.isnan(target):
        return 0.0
    p = 1 / (1 + math.exp(-logit))
    shifted = max(p - focus.clip, 0)
    there = -((1 - p) ** focus.gamma_pos) * math.log(p)
    absent = -(shifted**focus.gamma_neg) * math.log(1 - shifted)
    return weight * target * there + (1 - target) * absent


@pytest.mark.parametrize("focus", FOCUSES)
def test_the_loss_is_its_formula(focus):
    logits, targets = draw()
    weights = torch.tensor([1.0, 0.5, 7.0], dtype=torch.float64)
    expected = [
        [
            slow_loss(*pair, focus, weight)
            for *pair, weight in zip(*rows, weights.tolist(), strict=True)
        ]
        for rows in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    losses = finding_losses(logits, targets, focus, weights)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("focus", FOCUSES)
def test_the_gradient_is_that_of_finite_differences(focus):
    logits, targets = draw(seed=1)
    # At the clip the loss has a kink, where finite differences are of both sides.
    near = (logits.sigmoid() - focus.clip).abs() < 1e-3
    logits = torch.where(near, logits + 0.1, logits).requires_grad_()
    weights = torch.tensor([1.0, 0.5, 7.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: finding_losses(z, targets, focus, weights), logits)


# From https://github.com/Alibaba-MIIL/ASL, `AsymmetricLoss` of src/loss_functions/losses.py at
# commit 8c9e0bd8, run on these logits and labels in float64 with (gamma_neg, gamma_pos, clip).
LOGITS, LABELS = [[-3.0, -0.5, 2.0], [0.0, 1.5, -4.0]], [[0, 1, 0], [1, 0, 1]]
OFFICIAL = {
    (4, 0, 0.05): 7.03830436284266,
    (4, 1, 0.05): 6.25170580823176,
    (2, 1, 0): 7.68623531641204,
    (0, 0, 0): 9.56230273325733,
}


@pytest.mark.parametrize("settings", OFFICIAL)
def test_the_asymmetric_loss_is_that_of_the_authors_code(settings):
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    targets = torch.tensor(LABELS, dtype=torch.float64)
    total = finding_losses(logits, targets, AsymmetricLoss(*settings)).sum()
    # Their code limits probabilities to 1e-8 from below, which changes none of these.
    assert float(total) == pytest.approx(OFFICIAL[settings], rel=1e-12)


def test_without_focus_it_is_torchs_cross_entropy_with_positive_weights():
    logits, targets = draw(seed=2)
    known, weights = targets.isfinite(), torch.tensor([2.0, 1.0, 0.25], dtype=torch.float64)
    own = F.binary_cross_entropy_with_logits(
        logits, targets.nan_to_num(), pos_weight=weights, reduction="none"
    )
    losses = finding_losses(logits, targets, weights=weights)
    torch.testing.assert_close(losses, torch.where(known, own, 0))


@pytest.mark.parametrize("focus", FOCUSES)
def test_what_is_unknown_changes_neither_loss_nor_gradient(focus):
    logits, targets = draw(seed=3)
    recipe = Recipe(asymmetric_loss=focus, label_smoothing=0.1)
    results = []
    for other in (0.0, 5.0, -80.0):
        changed = torch.where(targets.isnan(), other, logits).requires_grad_()
        batch = TrainingBatch((changed,), targets)
        loss = supervised_loss(lambda z: z, batch, recipe, SEVERAL_FINDINGS)
        loss.backward()
        assert not changed.grad[targets.isnan()].any()
        results.append((loss.detach(), changed.grad))
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("focus", FOCUSES)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_sure_logits_have_finite_losses_and_gradients(focus, target):
    logits = torch.tensor([[-1000.0, -120.0, -90.0, 0, 90, 120, 1000]], requires_grad=True)
    losses = finding_losses(logits, torch.full_like(logits, target), focus)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert (losses >= 0).all()
    assert logits.grad.isfinite().all()


def test_the_loss_of_a_batch_is_the_mean_over_its_known_labels():
    logits, targets = draw(seed=4)
    batch, known = TrainingBatch((logits,), targets), targets.isfinite()
    recipe = Recipe(label_smoothing=0.2)
    smoothed = 0.8 * targets + 0.1
    expected = finding_losses(logits, smoothed).sum() / known.sum()
    loss = supervised_loss(lambda z: z, batch, recipe, SEVERAL_FINDINGS)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    nothing = TrainingBatch((logits,), torch.full_like(targets, math.nan))
    assert float(supervised_loss(lambda z: z, nothing, recipe, SEVERAL_FINDINGS)) == 0
    hard = torch.where(known, targets.round(), UNKNOWN).long()
    whole = TrainingBatch((logits,), hard)
    loss = supervised_loss(lambda z: z, whole, Recipe(), SEVERAL_FINDINGS)
    assert float(loss) == pytest.approx(float(finding_entropy(logits, hard)), rel=1e-6)


def slow_divergence(views):
    """That of two probabilities, for each finding of each image."""
    total = 0.0
    for logits in zip(*(view.flatten().tolist() for view in views), strict=True):
        ps = [1 / (1 + math.exp(-logit)) for logit in logits]
        mean = sum(ps) / 3
        for p in ps:
            total += p * math.log(p / mean) + (1 - p) * math.log((1 - p) / (1 - mean))
    return total / (3 * views[0].numel())


def test_the_consistency_of_augmix_is_that_of_each_probability():
    views = tuple(draw(seed=seed)[0] for seed in (5, 6, 7))
    targets = draw(seed=5)[1]
    plain = supervised_loss(
        lambda z: z, TrainingBatch(views[:1], targets), Recipe(), SEVERAL_FINDINGS
    )
    recipe = Recipe(augmix=AugMix(consistency=3))
    both = supervised_loss(lambda z: z, TrainingBatch(views, targets), recipe, SEVERAL_FINDINGS)
    assert float(both - plain) == pytest.approx(3 * slow_divergence(views), rel=1e-6)


def test_a_mixed_label_is_known_only_where_both_are():
    labels = torch.tensor([[1, 0, UNKNOWN], [0, UNKNOWN, 1], [1, 1, 0], [UNKNOWN, 0, 0]]).repeat(
        50, 1
    )
    images = torch.rand(200, 3, 8, 8)
    codes = torch.arange(200.0).reshape(200, 1, 1, 1).expand(-1, 3, 8, 8)
    (mixed,), targets = mix_up(images, labels, 3, 1.0, np.random.default_rng(0))
    (marks,), _ = mix_up(codes, labels, 3, 1.0, np.random.default_rng(0))
    draws = np.random.default_rng(0)
    weight, partner = torch.from_numpy(draws.beta(1.0, 1.0, 200)), draws.permutation(200)
    soft = soft_labels(labels, 3).double()
    expected = weight[:, None] * soft + (1 - weight[:, None]) * soft[partner]
    torch.testing.assert_close(targets.double(), expected, equal_nan=True, rtol=0, atol=1e-6)
    unknown = labels == UNKNOWN
    assert torch.equal(targets.isnan(), unknown | unknown[partner])
    assert marks.shape == mixed.shape


def pairs_auc(scores, labels):
    wins = [
        (a > b) + (a == b) / 2
        for a, there in zip(scores, labels, strict=True)
        for b, absent in zip(scores, labels, strict=True)
        if there == 1 and absent == 0
    ]
    return sum(wins) / len(wins)


def test_the_mean_auc_is_that_of_all_pairs_and_leaves_out_what_has_one_side():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-3, 4, (60, 4), generator=generator).double()
    labels = torch.randint(-1, 2, (60, 4), generator=generator)
    labels[:, 3] = labels[:, 3].clamp(max=0)
    areas = [pairs_auc(logits[:, k].tolist(), labels[:, k].tolist()) for k in range(3)]
    assert mean_auc(torch.stack((logits, labels.double()), 1)) == pytest.approx(np.mean(areas))
    assert math.isnan(mean_auc(torch.stack((logits, torch.zeros(60, 4)), 1)))


def slow_votes(train, labels, asked):
    """The weighted share of the 20 nearest neighbours that have a finding, where they know."""
    train, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, asked))
    votes = np.zeros((len(asked), labels.shape[1]))
    for row, image in enumerate(asked):
        cosines = train @ image
        nearest = np.argsort(-cosines)[:20]
        for column in range(labels.shape[1]):
            known = [k for k in nearest if labels[k, column] != UNKNOWN]
            weights = [math.exp(cosines[k] / 0.07) for k in known]
            there = [w for k, w in zip(known, weights, strict=True) if labels[k, column] == 1]
            votes[row, column] = sum(there) / sum(weights)
    return votes


def images_of(count, seed, unknown=0.15):
    """Effusion makes an image redder by 60 of 255, Mass greener; noise has a deviation of 18."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(count, 2, generator=generator) < torch.tensor([0.5, 0.3])
    pixels = torch.full((count, 3, 8, 8), 90.0)
    pixels[:, :2] += 60 * truth[:, :, None, None]
    pixels += 18 * torch.randn(count, 3, 1, 1, generator=generator)
    pixels += 10 * torch.randn(count, 3, 8, 8, generator=generator)
    labels = truth.long()
    labels[torch.rand(count, 2, generator=generator) < unknown] = UNKNOWN
    return Images(pixels.clamp(0, 255).to(torch.uint8), labels, torch.arange(count), NAMES)


def test_neighbours_vote_for_each_finding():
    both = images_of(150, 3)
    encoder = nn.Flatten()
    features = both.images.flatten(1).double().numpy() / 255
    labels = both.labels.numpy()
    votes = slow_votes(features[:90], labels[:90], features[90:])
    expected = np.mean([pairs_auc(votes[:, k], labels[90:, k]) for k in range(2)])
    probe = NeighbourProbe(both[:90], both[90:], SEVERAL_FINDINGS)
    # Weights are rounded to 2^-32, which can change no order of votes that differ by more.
    assert knn_quality(encoder, probe, CPU) == pytest.approx(expected, abs=1e-3)


# --- Trainings

SHORT = {"epochs": 3, "batch_size": 32}
RECIPES = {
    "plain": Recipe(**SHORT),
    "asymmetric": Recipe(**SHORT, asymmetric_loss=AsymmetricLoss()),
    "balanced": Recipe(**SHORT, positive_weights="balanced"),
    "weighed": Recipe(**SHORT, positive_weights={"Mass": 4.0}),
    "mixup": Recipe(**SHORT, mixup=0.3, horizontal_flip=0.5, rotation=Rotation(20)),
    "augmix": Recipe(**SHORT, augmix=AugMix()),
    "trivial augment": Recipe(**SHORT, trivial_augment=True),
    "rand augment": Recipe(**SHORT, rand_augment=RandAugment()),
    "erasing and noise": Recipe(
        **SHORT, random_erasing=RandomErasing(), gaussian_noise=GaussianNoise(0.2)
    ),
    "rotation prediction": Recipe(**SHORT, rotation_prediction=0.5),
    "label smoothing": Recipe(**SHORT, label_smoothing=0.1),
    "moving average": Recipe(**SHORT, ema_decay=0.9),
    "probe, then all": Recipe(**SHORT, probe_epochs=1, probe_learning_rate=1e-2),
}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(8, 2)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *pooled, head)
    return Classifier(nn.Sequential(*layers), (0.4, 0.4, 0.4), (0.2, 0.2, 0.2)), head


def trained(recipe, *, seed=3, start=0, state=None, train=None, val=None):
    model, head = network(start)
    attack = recipe.adversarial and make_training_attack("pgd", epsilon=4 / 255, steps=2)
    return fit(
        model,
        images_of(80, 1) if train is None else train,
        images_of(60, 2) if val is None else val,
        recipe,
        head=head,
        seed=seed,
        state=state,
        attack=attack,
        loss=SEVERAL_FINDINGS,
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_resumes_to_the_same_bits(name):
    recipe = RECIPES[name]
    *_, whole = trained(recipe)
    assert all(math.isfinite(row["train_loss"]) for row in whole.history)
    assert all(0 <= row["val_auc"] <= 1 for row in whole.history)
    buffer = io.BytesIO()
    torch.save(next(trained(recipe)).state, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    *_, resumed = trained(recipe, start=7, state=state)
    for key in ("model", "best", "probed", "average", "task"):
        assert same_state(resumed.state.get(key, {}), whole.state.get(key, {})), key
    *_, plain = trained(RECIPES["plain"])
    is_plain = same_state(plain.state["best"], whole.state["best"])
    assert is_plain == (name == "plain")


LEARNING = Recipe(epochs=12, batch_size=32, learning_rate=2e-2, schedule="cosine")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixup": 0.3},
        {"asymmetric_loss": AsymmetricLoss(), "positive_weights": "balanced"},
        {"augmix": AugMix()},
    ],
    ids=["plain", "mixup", "asymmetric", "augmix"],
)
def test_a_network_learns_two_findings(changes):
    """Colours separate them by d = 60 / 18 = 3.3, so the best AUC is Phi(d / sqrt 2) = 0.99.

    Of 300 images, about 75 have the rarer finding where it is known. So the standard error of an
    AUC of 0.9 is 0.02 (Hanley and McNeil 1982), and its mean over two is smaller. A network that
    learns nothing is at 0.5: 0.9 is far from either.
    """
    recipe, val = replace(LEARNING, **changes), images_of(300, 2)
    *_, last = trained(recipe, train=images_of(300, 1), val=val)
    chosen = last.history[select_epoch(last.history, SEVERAL_FINDINGS.complete(recipe))]
    assert chosen["val_auc"] > 0.9
    assert chosen["val_auc"] == max(row["val_auc"] for row in last.history)
    model, _ = network()
    model.load_state_dict(last.state["best"])
    with torch.no_grad():
        logits = model.eval()(val.images.float() / 255)
    assert mean_auc(SEVERAL_FINDINGS.outcomes(logits, val.labels)) == pytest.approx(
        chosen["val_auc"], abs=1e-3
    )
    if not changes:
        expected = float(finding_entropy(logits, val.labels))
        assert chosen["val_loss"] == pytest.approx(expected, rel=1e-4)


def test_each_finding_needs_a_known_training_label():
    train = images_of(40, 1)
    train.labels[:, 1] = UNKNOWN
    with pytest.raises(InputError, match="no training image has a known label of Mass"):
        next(trained(Recipe(), train=train))


def test_balanced_weights_are_how_many_lack_a_finding_for_one_that_has_it():
    train = images_of(200, 5)
    counts = [
        [(train.labels[:, column] == value).sum().item() for value in (0, 1)] for column in (0, 1)
    ]
    weights = weigh_findings(Recipe(positive_weights="balanced"), train)
    assert weights.tolist() == pytest.approx([absent / there for absent, there in counts])
    assert weigh_findings(Recipe(positive_weights={"Mass": 3}), train).tolist() == [1, 3]
    assert weigh_findings(Recipe(), train) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positive_weights": {"Mas": 2.0}}, "positive_weights: unknown finding 'Mas'.*Mass"),
        ({"cutmix": 1.0}, "cutmix mixes labels by the area of a box.*use mixup"),
        ({"select": "auc", "mixup": 0.2, "cutmix": 0.2}, "cutmix mixes labels"),
    ],
)
def test_a_recipe_that_does_not_fit_findings_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        next(trained(Recipe(**changes)))


def test_balanced_weights_need_both_sides_of_each_finding():
    train = images_of(40, 1)
    train.labels[:, 1].clamp_(max=0)
    with pytest.raises(InputError, match=r"balanced needs .* found 0 with Mass and \d+ without it"):
        next(trained(Recipe(positive_weights="balanced"), train=train))


def test_validation_images_need_both_sides_of_a_finding():
    val = images_of(40, 1)
    val.labels.clamp_(max=0)
    with pytest.raises(InputError, match="validation images have no finding that some have"):
        next(trained(Recipe(), val=val))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"asymmetric_loss": AsymmetricLoss()}, "asymmetric_loss is for several findings"),
        ({"positive_weights": "balanced"}, "positive_weights is for several findings"),
        ({"select": "auc"}, "select must be accuracy, nll or last for these data, found auc"),
    ],
)
def test_a_recipe_for_findings_is_refused_for_classes(toy_images, changes, words):
    model, head = network()
    with pytest.raises(InputError, match=words):
        next(fit(model, toy_images, toy_images, Recipe(**changes), head=head))
    assert ONE_CLASS.complete(Recipe()) == Recipe()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AsymmetricLoss(gamma_neg=-1), r"asymmetric_loss\.gamma_neg must be >= 0"),
        (lambda: AsymmetricLoss(clip=1), r"asymmetric_loss\.clip must be in \[0, 1\)"),
        (
            lambda: Recipe(positive_weights={"Mass": 0}),
            "positive_weights must be balanced, or a number > 0",
        ),
    ],
)
def test_settings_check_their_values(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_soft_labels_stay_known_without_mixing():
    batch = make_batch(
        images_of(20, 1), Recipe(trivial_augment=True), np.random.default_rng(0), CPU
    )
    assert torch.equal(batch.targets, images_of(20, 1).labels)


# --- Pre-trainings


def pretrained(method, train, state=None, start=0):
    return pretrain(
        small_encoder(start),
        train,
        tiny(method),
        features=32,
        probe=NeighbourProbe(images_of(60, 4), images_of(40, 2), SEVERAL_FINDINGS),
        state=state,
        loss=SEVERAL_FINDINGS,
    )


def test_a_pre_training_learns_known_findings_and_resumes_to_the_same_bits():
    *_, whole = pretrained("supervised", images_of(64, 1))
    assert all(0 <= row["knn_auc"] <= 1 for row in whole.history)
    assert whole.history[-1]["train_loss"] < whole.history[0]["train_loss"]
    buffer = io.BytesIO()
    torch.save(next(pretrained("supervised", images_of(64, 1))).state, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    *_, resumed = pretrained("supervised", images_of(64, 1), state, start=7)
    assert same_state(resumed.state["encoder"], whole.state["encoder"])


@pytest.mark.parametrize("method", ["barlow_twins", "rotation"])
def test_a_method_without_labels_sees_none(method):
    train = images_of(64, 1)
    hidden = replace(train, labels=torch.full_like(train.labels, UNKNOWN))
    states = [next(pretrained(method, images)).state["encoder"] for images in (train, hidden)]
    assert same_state(*states)
