"""Class masks, several right classes and soft labels, against plain loops and timm's own way."""

import json
from importlib import resources

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.real_labels import RealLabelsImagenet

from fairweather.errors import InputError
from fairweather.inference.choices import choose_classes
from fairweather.inference.prediction import (
    Predictor,
    make_predictions,
    predict_batches,
)
from fairweather.metrics.columns import per_image, right_losses, soft_losses
from fairweather.models.labels import rename_choices
from fairweather.types.measurement import Choices, Images
from fairweather.variants.calibration import LogitDivisor
from fairweather.variants.prediction_sets import FittedSets
from fairweather.variants.scaling import FittedVectorScaling
from tests.helpers.reference import judge_choice

STORED = ("correct", "confidence", "top5_correct", "nll", "brier")


def draw(seed, n=60, classes=12, chosen=7):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, classes)).astype(np.float32)
    places = np.sort(rng.permutation(classes)[:chosen])
    labels = rng.choice(places, n)
    return rng, logits, places, labels


def predict(logits, labels, choices, fitted=None):
    names = tuple(f"c{place}" for place in range(logits.shape[1]))
    more = {} if fitted is None else {"fitted": fitted}
    return make_predictions(logits, labels, np.arange(len(logits)), names, choices=choices, **more)


def check(predictions, logits, places, rows):
    for image, row in enumerate(rows):
        expected = judge_choice(logits[image].astype(float).tolist(), places.tolist(), **row)
        for name in STORED:
            value = getattr(predictions, name)[image]
            assert value == pytest.approx(expected[name], abs=1e-6), (image, name)


@pytest.mark.parametrize("seed", range(3))
def test_a_class_mask_equals_plain_loops(seed):
    _, logits, places, labels = draw(seed)
    choices = Choices(tuple(f"c{place}" for place in places))
    made = predict(logits, labels, choices)
    check(made, logits, places, [{"label": int(label)} for label in labels])
    assert set(made.predicted) <= set(places.tolist())
    # The same as a model that has only these classes.
    alone = per_image(logits[:, places], np.searchsorted(places, labels))
    for name in ("confidence", "nll", "brier", "top5_correct"):
        assert np.allclose(getattr(made, name), getattr(alone, name), atol=1e-6), name
    assert np.array_equal(made.predicted, places[alone.predicted])
    assert np.array_equal(made.labels, labels)
    # Calibration numbers and areas come from the stored logits.
    stored = scipy.special.softmax(made.logits.astype(float), axis=1)
    outside = np.setdiff1d(np.arange(12), places)
    assert (stored[:, outside] == 0).all()
    assert np.isfinite(made.logits).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chosen", [7, 12])
def test_several_right_classes_equal_plain_loops(seed, chosen):
    rng, logits, places, _ = draw(seed, chosen=chosen)
    truth = rng.random((len(logits), chosen)) < 0.25
    truth[np.arange(len(logits)), rng.integers(0, chosen, len(logits))] = True
    labels = places[truth.argmax(axis=1)]
    made = predict(logits, labels, Choices(tuple(f"c{place}" for place in places), truth))
    rows = [{"right": places[row].tolist(), "label": None} for row in truth]
    check(made, logits, places, rows)
    # An answer that is another right class is stored as the label, which no model changes.
    assert np.array_equal(made.labels, labels)
    assert (made.predicted == labels).sum() == made.correct.sum()


@pytest.mark.parametrize("seed", range(3))
def test_soft_labels_equal_plain_loops(seed):
    rng, logits, places, _ = draw(seed, chosen=12)
    shares = rng.dirichlet(np.full(12, 0.3), len(logits)).astype(np.float32)
    shares[0] = np.eye(12)[3]
    labels = shares.argmax(axis=1)
    made = predict(logits, labels, Choices(tuple(f"c{place}" for place in places), shares))
    rows = [
        {"shares": dict(enumerate(row.astype(float).tolist())), "label": int(label)}
        for row, label in zip(shares, labels, strict=True)
    ]
    check(made, logits, places, rows)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_one_right_class_is_a_label(seed, chosen):
    _, logits, places, labels = draw(seed, n=9, chosen=chosen)
    names = tuple(f"c{place}" for place in places)
    one_hot = places == labels[:, None]
    plain = predict(logits, labels, Choices(names))
    for truth in (one_hot, one_hot.astype(np.float32)):
        made = predict(logits, labels, Choices(names, truth))
        for name in (*STORED, "predicted"):
            assert np.allclose(getattr(made, name), getattr(plain, name), atol=1e-9), name
    if chosen == 12:
        whole = predict(logits, labels, None)
        assert np.array_equal(plain.nll, whole.nll)
        assert np.array_equal(plain.logits, whole.logits)


@given(st.integers(0, 10_000))
def test_more_right_classes_never_hurt(seed):
    rng, logits, places, labels = draw(seed, n=9)
    names = tuple(f"c{place}" for place in places)
    few = (places == labels[:, None]) | (rng.random((9, len(places))) < 0.2)
    more = few | (rng.random(few.shape) < 0.3)
    first, second = (predict(logits, labels, Choices(names, truth)) for truth in (few, more))
    assert (first.correct <= second.correct).all()
    assert (first.top5_correct <= second.top5_correct).all()
    assert (second.nll <= first.nll + 1e-9).all()


def test_all_classes_right_and_certain_images():
    logits = np.array([[0.0, 60.0, -60.0]], np.float32)
    names, labels = ("c0", "c1", "c2"), np.array([1])
    everything = predict(logits, labels, Choices(names, np.ones((1, 3), bool)))
    assert (everything.nll[0], everything.brier[0]) == (0, 0)
    assert everything.correct.all()
    far = predict(logits, np.array([2]), Choices(("c0", "c2")))
    assert far.nll[0] == pytest.approx(60)
    assert far.predicted.tolist() == [0]
    assert np.signbit(everything.nll).sum() == 0


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match=r"right classes must be bool \[1, 2\] with one in each"):
        right_losses([[0.0, 1.0]], [[False, False]])
    with pytest.raises(InputError, match=r"soft labels must be \[1, 2\], found \[1, 3\]"):
        soft_losses([[0.0, 1.0]], [[0.2, 0.3, 0.5]])


@pytest.mark.parametrize(
    "fitted",
    [
        LogitDivisor(value=2.5),
        FittedVectorScaling(
            scales=tuple(np.linspace(0.2, 3, 12)),
            biases=tuple(np.linspace(-2, 2, 12)),
            images=50,
            nll_before=1.0,
            nll_after=0.9,
        ),
    ],
)
def test_a_calibration_is_applied_before_the_mask(fitted):
    _, logits, places, labels = draw(5)
    network = torch.nn.Module()
    network.forward = lambda images: torch.from_numpy(logits)[images[:, 0, 0, 0].mul(255).long()]
    pixels = torch.arange(len(logits), dtype=torch.uint8)[:, None, None, None]
    names = tuple(f"c{place}" for place in range(12))
    images = Images(
        pixels.expand(-1, 3, 8, 8).contiguous(),
        torch.from_numpy(labels),
        torch.arange(len(logits)),
        names,
        choices=Choices(tuple(names[place] for place in places)),
    )
    batches = [slice(0, 25), slice(25, 60)]
    (made,) = predict_batches([Predictor(network, fitted)], images, batches=batches, device="cpu")
    changed = fitted.change(logits)
    check(made, changed, places, [{"label": int(label)} for label in labels])


def test_a_set_covers_if_any_right_class_is_in_it():
    rng, logits, places, _ = draw(1, chosen=12)
    truth = rng.random((len(logits), 12)) < 0.3
    truth[:, 0] = True
    sets = FittedSets(
        method="lac",
        coverage=0.9,
        classwise=False,
        temperature=1.0,
        temperature_images=50,
        thresholds=(0.9,),
        images=(50,),
        covered=(46,),
        filled=0.0,
    )
    names = tuple(f"c{place}" for place in places)
    made = predict(logits, np.zeros(len(logits), int), Choices(names, truth), sets)
    inside = scipy.special.softmax(logits.astype(float), axis=1) >= 1 - 0.9
    assert np.array_equal(made.covered, (inside & truth).any(axis=1))
    assert np.array_equal(made.set_size, inside.sum(axis=1))


def test_reassessed_labels_equal_timms_own_counting(tmp_path):
    """timm counts top-1 and top-5 on ReaL labels with a class of its own."""
    real = json.loads(
        (resources.files("timm") / "data/_info/imagenet_real_labels.json").read_text()
    )[:400]
    path = tmp_path / "real.json"
    path.write_text(json.dumps(real))
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(len(real))]
    judge = RealLabelsImagenet(names, real_json=path)
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, (len(real), 1000)).astype(np.float32)
    for image, classes in enumerate(real):  # often right, sometimes only among the first five
        for place in classes[-1:]:
            logits[image, place] += rng.choice([0, 2.2, 9])
    judge.add_result(torch.from_numpy(logits))
    kept = [image for image, classes in enumerate(real) if classes]
    truth = np.zeros((len(kept), 1000), bool)
    for row, image in enumerate(kept):
        truth[row, real[image]] = True
    names = tuple(f"c{place}" for place in range(1000))
    made = predict(logits[kept], truth.argmax(axis=1), Choices(names, truth))
    assert 100 * made.correct.mean() == pytest.approx(judge.get_accuracy(1), abs=1e-9)
    assert 100 * made.top5_correct.mean() == pytest.approx(judge.get_accuracy(5), abs=1e-9)
    assert 20 < judge.get_accuracy(1) < judge.get_accuracy(5) < 90
    assert made.logits is None


def test_a_mask_equals_timms_own_validation():
    """timm cuts the columns of the subset out, and numbers the labels within it."""
    folder = resources.files("timm") / "data" / "_info"
    indices = [int(text) for text in (folder / "imagenet_r_indices.txt").read_text().split()]
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (300, 1000)).astype(np.float32)
    target = rng.integers(0, 200, 300)
    logits[np.arange(300), np.array(indices)[target]] += rng.choice([0, 5], 300)
    cut = torch.from_numpy(logits)[:, indices]
    correct = cut.topk(5).indices.eq(torch.from_numpy(target)[:, None])
    names = tuple(f"c{place}" for place in range(1000))
    choices = Choices(tuple(names[place] for place in indices))
    made = predict(logits, np.array(indices)[target], choices)
    assert np.array_equal(made.correct, correct[:, 0].numpy())
    assert np.array_equal(made.top5_correct, correct.any(1).numpy())
    whole = predict(logits, np.array(indices)[target], None)
    assert made.correct.mean() > whole.correct.mean()


def test_choices_are_named_as_the_run_names_them():
    truth = np.array([[True, False, True]])
    choices = Choices(("n01440764", "n01443537", "n02123045"), truth)
    named = rename_choices(choices, ["tabby", "tench", "house"])
    assert named.names == ("tench", "tabby")
    assert named.truth.tolist() == [[True, True]]
    logits = np.array([[1, 2, 9]], np.float32)
    masked, right = choose_classes(logits, ["tabby", "tench", "house"], named)
    assert masked[0, :2].tolist() == [1, 2]
    assert masked[0, 2] < -900
    assert right.tolist() == [[True, True, False]]
