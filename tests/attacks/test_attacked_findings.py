"""Attacks on several findings of an image: the sum of the losses of the known, or of one."""

import warnings

import numpy as np
import pytest
import scipy.special
import torch
import torch.nn.functional as F
from torch import nn

import fairweather as fw
from fairweather.attacks.problem import NORMS
from fairweather.attacks.shift_lists import expand_shifts
from fairweather.attacks.table import ATTACKS, make_attack, select_labels, sweep
from fairweather.errors import InputError
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import UNKNOWN, Images
from tests.helpers.attack_models import held_out, linear, trained
from tests.helpers.chance import FALSE_ALARM, pairs_p

NAMES = ("even", "loop", "large")
OF_FINDINGS = [name for name, kind in ATTACKS.items() if FINDINGS in kind.accepts]
OF_CLASSES = sorted(set(ATTACKS) - set(OF_FINDINGS))
STEPS = {"fgsm": {}, "pgd": {"steps": 6, "restarts": 2}, "apgd_ce": {"steps": 8}}
RADII = {"linf": 0.06, "l2": 0.5}


class DigitFindings(nn.Module):
    """Three findings of digits, by a network that tells the digits apart."""

    sets = ((0, 2, 4, 6, 8), (0, 6, 8, 9), (5, 6, 7, 8, 9))

    def __init__(self):
        super().__init__()
        self.network = trained()

    def forward(self, images):
        logits = self.network(images)
        inside = [logits[:, list(some)].logsumexp(1) for some in self.sets]
        outside = [logits[:, sorted({*range(10)} - {*some})].logsumexp(1) for some in self.sets]
        return torch.stack(inside, dim=1) - torch.stack(outside, dim=1)


def labelled(count):
    """Images, labels of the findings of which a fifth is unknown, and keys."""
    images, digits, keys = held_out(count)
    labels = torch.tensor([[d in some for some in DigitFindings.sets] for d in digits.tolist()])
    labels = labels.long()
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 0.2] = UNKNOWN
    return images, labels, keys


def line(count=5, findings=3, seed=0):
    """A linear model, images amid their range, and labels of which the first is right."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(findings, 3 * 8 * 8, generator=generator) / 10
    images = 0.5 + 0.1 * torch.rand(count, 3, 8, 8, generator=generator)
    labels = torch.randint(-1, 2, (count, findings), generator=generator)
    model = linear(weight)
    labels[:, 0] = (model(images)[:, 0] >= 0).long()
    return weight, model, images, labels, torch.arange(count)


def losses(model, images, labels):
    """The slow sum of the binary losses of known findings, in float64."""
    with torch.no_grad():
        logits = model(images).double().numpy()
    rows = zip(logits, labels.tolist(), strict=True)
    return np.array(
        [
            sum(np.logaddexp(0, -z if y else z) for z, y in zip(*row, strict=True) if y != UNKNOWN)
            for row in rows
        ]
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_of_fgsm_is_the_one_computed_by_hand(norm):
    weight, model, images, labels, keys = line()
    moved = make_attack("fgsm", epsilon=RADII[norm], norm=norm)(model, images, labels, keys)
    for before, after, label in zip(images.numpy(), moved.numpy(), labels.tolist(), strict=True):
        gradient = np.zeros(before.size)
        for w, y in zip(weight.double().numpy(), label, strict=True):
            z = w @ before.ravel()
            if y != UNKNOWN:
                gradient += (scipy.special.expit(z) - y) * w
        step = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
        expected = before + RADII[norm] * step.reshape(before.shape)
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OF_FINDINGS)
def test_what_is_unknown_contributes_nothing(name):
    weight, model, images, labels, keys = line()
    labels[:, 2] = UNKNOWN
    attack = make_attack(name, epsilon=0.05, **STEPS[name])
    moved = attack(model, images, labels, keys)
    assert not torch.equal(moved, images)
    other = linear(torch.cat([weight[:2], -7 * weight[2:]]))
    assert torch.equal(attack(other, images, labels, keys), moved)
    fewer = attack(linear(weight[:2]), images, labels[:, :2], keys)
    torch.testing.assert_close(fewer, moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OF_FINDINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_one_finding_is_attacked_as_two_classes_are(name, norm):
    weight, model, images, _, keys = line(findings=1)
    labels = (model(images) >= 0).long()
    two = linear(torch.cat([torch.zeros_like(weight), weight]))
    once = {key: value for key, value in STEPS[name].items() if key != "restarts"}
    for settings in (once, STEPS[name]):
        attack = make_attack(name, epsilon=RADII[norm] / 20, norm=norm, **settings)
        ours, theirs = (
            attack.outcome(model, images, labels, keys),
            attack.outcome(two, images, labels[:, 0], keys),
        )
        assert torch.equal(ours.robust, theirs.robust)
        # Of several starts, findings keep the highest loss, and classes the first.
        same = torch.full_like(ours.robust, True) if settings == once else ~ours.robust
        torch.testing.assert_close(ours.images[same], theirs.images[same], rtol=0, atol=1e-5)


def test_of_several_starts_the_most_harmful_point_is_kept():
    model, (images, labels, keys) = DigitFindings().eval(), labelled(200)
    settings = {"epsilon": 0.1, "steps": 2, "step_size": 0.005}
    first, best = (
        losses(model, attack(model, images, labels, keys), labels).mean()
        for attack in (make_attack("pgd", restarts=count, **settings) for count in (1, 6))
    )
    before = losses(model, images, labels).mean()
    assert best - before > 1.4 * (first - before)


@pytest.mark.parametrize("name", OF_FINDINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_raises_the_sum_of_the_losses_within_its_budget(name, norm):
    model, (images, labels, keys) = DigitFindings().eval(), labelled(200)
    attack = make_attack(name, epsilon=RADII[norm], norm=norm, **STEPS[name])
    result = attack.outcome(model, images, labels, keys)
    change = (result.images - images).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert length.max() <= RADII[norm] + 1e-6
    before, after = losses(model, images, labels), losses(model, result.images, labels)
    assert after.mean() > 3 * before.mean()
    decided = (model(result.images) >= 0) == (labels == 1)
    right = (decided & (labels != UNKNOWN)).any(1)
    assert torch.equal(result.robust, right)
    left = result.broken["clean"]
    assert torch.equal(result.images[left], images[left])


def test_an_image_with_nothing_known_or_nothing_right_is_left_alone():
    _, model, images, labels, keys = line()
    labels[0] = UNKNOWN
    labels[1] = (model(images[1:2]) < 0).long()
    moved = make_attack("pgd", epsilon=0.05)(model, images, labels, keys)
    unchanged = (moved == images).flatten(1).all(1)
    assert unchanged.tolist() == [True, True, False, False, False]


def as_images(count=40):
    pixels, labels, keys = labelled(count)
    return Images((pixels * 255).round().to(torch.uint8), labels, keys, NAMES)


@pytest.mark.parametrize("name", OF_FINDINGS)
def test_of_one_finding_only_its_own_loss_is_raised(name):
    model, images = DigitFindings(), as_images()
    attack = make_attack(name, epsilon=0.06, **STEPS[name], finding="loop")
    attacked = fw.predict(model, images, attack, device="cpu", progress=False)
    clean = fw.predict(model, images, device="cpu", progress=False)
    labels, own = images.labels.numpy(), images.labels[:, 1].numpy()
    np.testing.assert_array_equal(attacked.labels, labels)  # what is stored keeps all labels
    left = own == UNKNOWN
    assert left.any()
    np.testing.assert_array_equal(attacked.logits[left], clean.logits[left])
    only = images.labels.clone()
    only[:, [0, 2]] = UNKNOWN
    moved = attack(model, images.images / 255, only, images.keys)
    with torch.no_grad():
        np.testing.assert_allclose(attacked.logits, model(moved).numpy(), rtol=1e-4, atol=1e-4)
    right = [np.mean((p.logits[~left, 1] >= 0) == own[~left]) for p in (clean, attacked)]
    assert right[1] < right[0] - 0.2


def test_select_labels_masks_the_others():
    images = as_images(6)
    attack = make_attack("pgd", epsilon=0.1, finding="loop")
    labels = select_labels(attack, images)
    assert torch.equal(labels[:, 1], images.labels[:, 1])
    assert (labels[:, [0, 2]] == UNKNOWN).all()
    assert select_labels(make_attack("pgd", epsilon=0.1), images) is images.labels


# --- other implementations -------------------------------------------------------------------


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():  # it imports names that SciPy has moved
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("foolbox")


def of_findings(attack, labels):
    """An attack of foolbox whose loss is the sum over known findings; it labels images by place."""
    there, known = (labels == 1).float(), (labels != UNKNOWN).float()

    def make_loss(model, places):
        import eagerpy

        def loss(images):
            logits = model(images).raw
            value = F.binary_cross_entropy_with_logits(logits, there, known, reduction="sum")
            return eagerpy.astensor(value)

        return loss

    attack.get_loss_fn = make_loss
    return attack


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_equals_foolbox_with_the_binary_losses(foolbox, norm):
    model, (images, labels, keys) = DigitFindings().eval(), labelled(200)
    reference = {
        "linf": foolbox.attacks.LinfFastGradientAttack,
        "l2": foolbox.attacks.L2FastGradientAttack,
    }
    theirs = of_findings(reference[norm](random_start=False), labels)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1))
    places = torch.arange(len(images))
    _, expected, _ = theirs(bounded, images, places, epsilons=RADII[norm])
    result = make_attack("fgsm", epsilon=RADII[norm], norm=norm).outcome(
        model, images, labels, keys
    )
    moved = ~result.broken["clean"]
    assert moved.sum() > 150
    torch.testing.assert_close(result.images[moved], expected[moved], rtol=0, atol=2e-6)


def test_pgd_agrees_with_foolbox_with_the_binary_losses(foolbox):
    model, (images, labels, keys) = DigitFindings().eval(), labelled(300)
    epsilon, steps = 0.15, 20
    ours = make_attack("pgd", epsilon=epsilon, steps=steps)(model, images, labels, keys)
    theirs = of_findings(
        foolbox.attacks.LinfPGD(abs_stepsize=2.5 * epsilon / steps, steps=steps), labels
    )
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, moved, _ = theirs(bounded, images, torch.arange(len(images)), epsilons=epsilon)

    def some_right(points):
        with torch.no_grad():
            right = (model(points) >= 0) == (labels == 1)
        return (right & (labels != UNKNOWN)).any(1)

    assert 0.2 < some_right(ours).double().mean() < 0.8
    assert pairs_p(some_right(ours), some_right(moved)) > FALSE_ALARM


# --- names and bad input ---------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_CLASSES)
def test_an_attack_on_a_class_is_refused_and_says_what_to_use(name):
    _, model, images, labels, keys = line()
    with pytest.raises(InputError, match="several findings: use") as caught:
        make_attack(name, epsilon=0.1)(model, images, labels, keys)
    words = str(caught.value).partition("use ")[2].replace(" or ", ", ").split(", ")
    assert words == OF_FINDINGS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, 2, dtype=torch.int64), r"each of the model's 3 outputs, found \[5, 2\]"),
        (torch.full((5, 3), 2), "0, 1 or -1 .*found 2 to 2"),
        (torch.zeros(4, 3, dtype=torch.int64), "label for each of 5 images"),
        (torch.zeros(5, 3), "int64 label"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    _, model, images, _, keys = line()
    with pytest.raises(InputError, match=message):
        make_attack("pgd", epsilon=0.1)(model, images, labels, keys)


def test_a_finding_stands_in_the_id_and_is_read_from_it():
    (one, two) = sweep("pgd", {"epsilon": [0.1, 0.2], "finding": "Pleural Effusion", "steps": 5})
    assert two.id == "pgd,epsilon=0.2,steps=5,finding=Pleural Effusion"
    assert [attack.id for attack in expand_shifts(one.id)] == [one.id]
    assert make_attack("fgsm", epsilon=0.1, finding=3).parameters["finding"] == "3"


@pytest.mark.parametrize("finding", ["a,b", "a: b", "", "[a]"])
def test_a_finding_that_an_id_cannot_hold_is_refused(finding):
    with pytest.raises(InputError, match="cannot be on a finding called"):
        make_attack("pgd", epsilon=0.1, finding=finding)


def test_an_unknown_finding_and_one_of_classes_are_refused():
    attack = make_attack("pgd", epsilon=0.1, finding="lop")
    with pytest.raises(InputError, match="finding of pgd 'lop'; did you mean 'loop'"):
        fw.predict(DigitFindings(), as_images(4), attack, device="cpu", progress=False)
    pixels, labels, keys = held_out(4)
    names = tuple(map(str, range(10)))
    classes = Images((pixels * 255).to(torch.uint8), labels, keys, names)
    with pytest.raises(InputError, match="finding=lop is for images with several findings"):
        fw.predict(trained(), classes, attack, device="cpu", progress=False)
