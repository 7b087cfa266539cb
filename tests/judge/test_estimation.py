"""How accurate a model will be on images without labels, from the run folder to the text."""

import dataclasses
import json
import math
import shutil
import sys

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import fairweather as fw
from fairweather.cli import app as cli
from fairweather.errors import InputError
from fairweather.judge import estimation
from fairweather.judge.known_cells import (
    CHANCE_MATCH,
    METHOD_TITLES,
    KnownCell,
    UnlabelledPredictions,
    compute_past_errors,
    fit_methods,
    identify_rows,
    is_among,
    read_known_cells,
    read_site_errors,
)
from fairweather.metrics import accuracy_estimation as estimating
from fairweather.metrics import features_differ_p, one_of_each, outputs_differ_p, softmax
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.two_sample import Cloud
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder, StoredGroups
from fairweather.steps.run_model import open_run_model, open_validation_images
from fairweather.types.options import MISSING
from fairweather.types.record import CLEAN, TEST, VAL, predictions_file
from tests.conftest import TINY_RESNET, write_pictures
from tests.helpers.run_folders import outcomes

pytestmark = pytest.mark.usefixtures("undrawn")

MODEL = """
import numpy as np
import torch

def make():
    found = np.load({file!r})
    layer = torch.nn.Linear(*found["weight"].T.shape)
    layer.load_state_dict({{name: torch.from_numpy(found[name]) for name in ("weight", "bias")}})
    return torch.nn.Sequential(torch.nn.Flatten(), layer)
"""
BRIGHTNESS = """
import torch

class Brightness(torch.nn.Module):
    def forward(self, images):
        value = 2 * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-value, value], 1)

def make():
    return Brightness()
"""
SHIFTS = ["brightness_factor: [0.4, 0.7, 1]", "rotation: [0, 15]",
          "gaussian_blur: {sigma: [0.8, 1.4]}",
          "imagenet_c/gaussian_noise: [1, 4]", "imagenet_c/pixelate: [3, 5]"]  # fmt: skip
UNCHANGED = ["brightness_factor,factor=1", "rotation,degrees=0"]  # levels that change nothing


@pytest.fixture(scope="module")
def digits():
    return fw.load_data("mnist5k")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("estimates")


@pytest.fixture(scope="module")
def run(digits, folder):
    """A linear classifier of digits in closed form, measured under five shifts."""
    pixels = digits.train.images.numpy().reshape(len(digits.train), -1) / 255
    targets = np.eye(10)[digits.train.labels.numpy()] - 0.1
    gram = pixels.T @ pixels + 50 * np.eye(pixels.shape[1])
    weight = 8 * np.linalg.solve(gram, pixels.T @ targets).T
    file = folder / "layer.npz"
    np.savez(file, weight=weight.astype(np.float32), bias=np.zeros(10, np.float32))
    (folder / "linear.py").write_text(MODEL.format(file=str(file)))
    return fw.evaluate(
        f"python:{folder}/linear.py:make", "mnist5k", SHIFTS,
        validation_fraction=0.1, bootstrap=100, out=folder / "run", device="cpu",
    ).path  # fmt: skip


def write_set(folder, name, images, count=300, labels=None):
    """An npz set of some images, from all over the set; returns its source."""
    places = np.linspace(0, len(images) - 1, count).astype(int)
    pixels = images.images[places].numpy().transpose(0, 2, 3, 1)
    if name.startswith("jpeg"):
        coded = (cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, 15])[1] for each in pixels)
        pixels = np.stack([cv2.imdecode(each, cv2.IMREAD_COLOR) for each in coded])
    own = images.labels[places].numpy()
    present, numbers = np.unique(own if labels is None else labels[own], return_inverse=True)
    classes = np.array(images.classes)[present]
    np.savez(folder / f"{name}.npz", images=pixels, labels=numbers, classes=classes)
    return f"npz:{folder}/{name}.npz"


@pytest.fixture(scope="module")
def jpeg(digits, folder):
    return write_set(folder, "jpeg", digits.test)


@pytest.fixture(scope="module")
def found(run, jpeg):
    return fw.estimate(fw.Run(run), jpeg, with_labels=True, device="cpu")


def test_a_range_and_the_truth_beside_it(found):
    assert found.reason == ""
    assert 0 <= found.low <= found.value <= 1
    assert found.unlike_p < 0.05
    assert found.high is None  # what differs may be none of the known shifts
    assert found.value - found.low <= 0.5
    assert found.shifts >= 3
    assert found.images == 300
    assert found.method in METHOD_TITLES
    chosen = next(each for each in found.methods if each.name == found.method)
    assert found.value == pytest.approx(chosen.value)
    assert chosen.mean_error == min(each.mean_error for each in found.methods)
    truth = found.truth
    exact = binomtest(round(truth.value * truth.n), truth.n).proportion_ci(method="exact")
    assert (truth.low, truth.high) == pytest.approx((exact.low, exact.high))
    assert found.held.told + found.held.refused == 9  # the levels that change something


def test_labels_are_never_used_for_the_estimate(run, jpeg, found, digits, folder):
    wrong = write_set(folder, "jpeg_wrong", digits.test, labels=np.arange(10)[::-1])
    other = fw.estimate(run, wrong, with_labels=True, device="cpu")
    assert other.truth.value < found.truth.value
    assert other.methods == found.methods
    assert (other.value, other.low, other.high) == (found.value, found.low, found.high)
    assert fw.estimate(run, jpeg, device="cpu").truth is None


def test_what_each_method_was_off_by_is_read_from_the_run(run, found):
    model = open_run_model(str(run))
    cells = [CLEAN, *(cell.id for cell in model.record.cells() if cell.id not in UNCHANGED)]
    stored = [model.run.read_predictions(predictions_file(model.name, 0, each)) for each in cells]
    off = [each.confidence.mean() - each.correct.mean() for each in stored]
    own = found.methods[0]
    assert own.name == "average_confidence"
    assert (own.least_error, own.largest_error) == pytest.approx((min(off), max(off)))
    clean, dark, darker, turned, *others = np.abs(off)
    mean = np.mean([clean, (dark + darker) / 2, turned, *np.reshape(others, (3, 2)).mean(axis=1)])
    assert own.mean_error == pytest.approx(mean)


def test_levels_that_change_nothing_are_the_clean_images(run, found):
    of = open_run_model(str(run))
    stored = of.run.read_predictions(predictions_file(of.name, 0, CLEAN))
    for cell in UNCHANGED:
        same = of.run.read_predictions(predictions_file(of.name, 0, cell))
        np.testing.assert_array_equal(same.confidence, stored.confidence)
    validation = of.validation()
    methods, seen = (
        fit_methods(validation, seeds=False),
        UnlabelledPredictions.from_predictions(validation),
    )
    cells, own, unchanged = read_known_cells(of, methods, [], new_images=seen, tell=lambda _: None)
    assert (own, unchanged) == ([], [])  # each has a level that changes something
    assert len(cells) == 10
    past = compute_past_errors(cells, Cloud.from_rows(seen.rows), lambda _: None)
    assert len(past.shifts) == 5


def test_test_images_of_the_run_are_known_to_be_its_own(run, digits, folder):
    own = fw.estimate(run, write_set(folder, "own", digits.test), device="cpu")
    assert estimation.OWN_TEST in own.notes
    assert own.value is None or own.held.told + own.held.refused == 9


def test_validation_images_of_the_run_are_known_to_be_its_own(run, digits, folder):
    model = open_run_model(str(run))
    own = fw.estimate(run, write_set(folder, "known", open_validation_images(model)), device="cpu")
    assert estimation.OWN_VALIDATION in own.notes
    assert estimation.OWN_VALIDATION in str(own)
    assert estimation.OWN_TEST not in own.notes


def test_other_images_that_the_run_knows_are_left_out(run, digits, folder):
    others = write_set(folder, "jpeg_other", digits.test, 200)
    known = fw.evaluate(
        f"python:{folder}/linear.py:make", "mnist5k", SHIFTS[2:], natural={"coded": others},
        validation_fraction=0.1, limit=400, bootstrap=100, out=folder / "natural", device="cpu",
    ).path  # fmt: skip
    own = fw.estimate(known, others, device="cpu")
    assert estimation.OWN_OTHER.format("natural/coded") in own.notes
    assert own.like is None or own.like.shift != "natural/coded"
    new = fw.estimate(known, write_set(folder, "jpeg_half", digits.val, 200), device="cpu")
    assert not new.notes
    assert (own.natural, new.natural) == (0, 1)
    assert own.held.told + own.held.refused == new.held.told + new.held.refused - 1 == 6


def test_validation_images_of_one_patient_are_compared_once(run, jpeg, found, monkeypatch):
    """Ten images of each patient would else be taken for ten patients."""
    model = open_run_model(str(run))
    validation = model.validation()
    patients = np.arange(len(validation)) // 10
    groups = StoredGroups(validation.keys, "patient", patients, {})
    monkeypatch.setattr(RunFolder, "groups", lambda _, part: groups if part == VAL else None)
    chosen = one_of_each(Grouping(patients))
    compared = []

    def compare(reference, batch):
        compared.append(len(reference))
        return features_differ_p(reference, batch)

    monkeypatch.setattr(estimation, "features_differ_p", compare)
    other = fw.estimate(run, jpeg, device="cpu")
    assert compared == [len(chosen)]
    rows = UnlabelledPredictions.from_predictions(validation).rows[chosen]
    pictures = fw.load_data(jpeg, parts=("test",), test_fraction=1.0).test
    with torch.inference_mode():
        logits = model.networks[0](pictures.images.float() / 255).numpy()
    assert other.outputs_p == pytest.approx(outputs_differ_p(rows, softmax(logits)), rel=1e-4)
    assert other.outputs_p > found.outputs_p
    assert other.methods[1].value == found.methods[1].value  # fitted on all images
    alone = StoredGroups(validation.keys, "patient", 0 * patients, {})
    monkeypatch.setattr(RunFolder, "groups", lambda _, part: alone if part == VAL else None)
    assert "or of one patient only" in fw.estimate(run, jpeg, device="cpu").reason


def test_images_like_nothing_known_cannot_be_told(run, folder):
    """Photographs, so to speak: bright colours where there were strokes on black."""
    pictures = write_pictures(folder / "pictures", train=1, val=1, test=12)
    other = fw.estimate(run, f"images:{pictures}/test", device="cpu")
    assert other.value is None
    assert "resemble neither those for validation images" in other.reason
    assert other.unlike_p <= 0.002
    assert other.like is None
    assert str(other).startswith("No useful estimate: ")
    titles = [method.title for method in other.methods]
    assert len(titles) >= 5
    assert not [title for title in ("method", *titles) if f"\n{title}  " in str(other)]
    assert all(title in other.to_json() for title in titles)
    named = fw.estimate(run, f"folder:{pictures}/test", device="cpu")
    assert "all classes of the images by name ('blue', 'green', 'red')" in named.reason
    with pytest.raises(InputError, match="no labels that are each a class"):
        fw.estimate(run, f"images:{pictures}/test", with_labels=True, device="cpu")


@pytest.mark.parametrize("count", [1, 9, 19])
def test_of_few_images_nothing_is_told(run, digits, folder, count):
    few = fw.estimate(run, write_set(folder, f"jpeg{count}", digits.test, count), device="cpu")
    assert few.reason == f"there are {count} images, and 20 are needed"
    assert (few.value, few.low, few.high, few.like) == (None, None, None, None)
    assert math.isnan(few.unlike_p) == (count < 10)
    assert str(few)


def test_images_that_look_like_a_known_shift_are_said_to(run, digits, folder):
    blurred = fw.make_shift("gaussian_blur", sigma=1.4)
    changed = blurred(digits.val.images, digits.val.keys, 0)
    images = fw.Images(changed, digits.val.labels, digits.val.keys, digits.val.classes)
    other = fw.estimate(run, write_set(folder, "blurred", images, 400), device="cpu")
    assert (other.like.shift, other.like.level) == ("gaussian_blur", "1.4")
    assert other.unlike_p <= 0.05
    assert "look most like Gaussian blur" in str(other)


def test_a_run_without_validation_images_cannot_tell(run, jpeg, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    model = open_run_model(str(copy))
    file = predictions_file(model.name, 0, CLEAN, VAL)
    (copy / file).unlink()
    (copy / f"steps/{file.removesuffix('.parquet')}.json").unlink()
    other = fw.estimate(copy, jpeg, device="cpu")
    assert other.reason == "the run has no predictions of validation images, or of one patient only"
    assert [each.name for each in other.methods] == ["average_confidence"]
    assert math.isnan(other.unlike_p)


def test_the_validation_images_of_the_run_are_opened_again(run):
    model = open_run_model(str(run))
    stored, opened = model.validation(), open_validation_images(model)
    assert opened.keys.tolist() == stored.keys.tolist()
    assert opened.labels.tolist() == stored.labels.tolist()


def test_shifts_that_do_not_count_are_named(digits, folder, run, jpeg):
    shifts = ["rotation: [0]", "brightness_factor: [0.5, 1]", "imagenet_c/brightness: [3]"]
    few = fw.evaluate(
        f"python:{folder}/linear.py:make", "mnist5k", shifts, limit=400,
        validation_fraction=0.1, bootstrap=100, out=folder / "few", device="cpu",
    ).path  # fmt: skip
    assert fw.estimate(few, jpeg, device="cpu").reason == (
        "an estimate needs 3 tested shifts to show how wrong it may be, found 1. "
        "Shifts that change no answer do not count: 'rotation'. "
        "'brightness_factor', 'imagenet_c/brightness' count as one: they share an operation or "
        "answers"
    )


def test_agreement_is_that_of_the_seeds(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", train=12, val=6, test=8)
    recipe = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    study = {
        "name": "small", "data": {"source": f"folder:{pictures}"}, "seeds": 2, "ensemble": True,
        "bootstrap": 100, "shifts": [{"brightness_factor": {"factor": [0.5]}}],
        "models": {"basic": {"title": "Basic", "backbone": TINY_RESNET, "recipe": recipe}},
    }  # fmt: skip
    out = fw.run(check_study(study), out=tmp_path / "run", device="cpu").path
    of = open_run_model(f"{out}:basic:0")
    said = [
        of.run.read_predictions(predictions_file("basic", seed, CLEAN)).predicted
        for seed in (0, 1, "ensemble")
    ]

    def agreement(seed):
        found = fw.estimate(f"{out}:basic:{seed}", f"folder:{pictures}/test", device="cpu")
        assert found.reason.endswith("needs 3 tested shifts to show how wrong it may be, found 1")
        return next(each.value for each in found.methods if each.name == "seed_agreement")

    assert agreement(0) == pytest.approx((said[0] == said[1]).mean())
    assert agreement(1) == agreement(0)
    both = np.mean([said[2] == said[0], said[2] == said[1]])
    assert agreement("ensemble") == pytest.approx(both)
    (out / "models/basic/seed-1/model.safetensors").unlink()
    alone = fw.estimate(f"{out}:basic:0", f"folder:{pictures}/test", device="cpu")
    assert any("other seeds of the model were not asked" in note for note in alone.notes)
    assert "seed_agreement" not in {each.name for each in alone.methods}


# ---- the command


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["fairweather", "estimate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr()


def test_the_command_prints_the_range_first_and_writes_json(
    run, jpeg, found, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "found.json"
    status, told = command(
        monkeypatch, capsys, run, jpeg, "--with-labels", "--out", out, "--device", "cpu"
    )
    assert status == 4  # they differ from the validation images
    assert told.out == f"{found}\n\njson    {out}\n"
    assert told.err.endswith(f"next    fairweather predict {run} {jpeg} --risk 5%\n")
    first = told.out.partition("\n")[0]
    low = f"or as low as {100 * found.low:.0f} % (an extrapolation)."
    assert first == f"Estimated accuracy: {100 * found.value:.0f} %, {low}"
    assert "weak evidence about another hospital" in told.out
    held = f"at {found.held.held} of {found.held.told} levels"
    same = "All these levels change the same test images, which says nothing about other images."
    assert same in told.out.partition(held)[2].partition("\n")[0]
    written = json.loads(out.read_text())
    assert written["value"] == found.value
    assert written["held"] == found.held._asdict()
    assert [each["name"] for each in written["methods"]] == [each.name for each in found.methods]
    assert out.read_text() == found.to_json()


def test_images_that_differ_lead_to_labels_and_not_to_predict(run, jpeg, monkeypatch, capsys):
    status, told = command(monkeypatch, capsys, run, jpeg, "--device", "cpu")
    assert (status, told.out.startswith("Estimated accuracy")) == (4, True)
    measured = f"fairweather estimate {run} folder:LABELLED --with-labels"
    assert told.err.endswith(f"next    label about 100 of these images, then: {measured}\n")


def test_images_like_the_validation_images_have_two_ends_and_real_shifts_are_no_corruptions(found):
    alike = dataclasses.replace(found, high=0.999, unlike_p=0.5)
    range_ = f"between {100 * found.low:.0f} and 100 % (an extrapolation)."
    assert str(alike).partition("\n")[0].endswith(range_)
    assert "weak evidence" in str(alike)
    other = str(dataclasses.replace(alike, natural=1, held=alike.held._replace(refused=1)))
    assert "weak evidence" not in other
    # Not all of them are changes of the same images then.
    assert "and 1 was refused. Levels that change the same test images are an easier q" in other


def test_a_one_sided_range_that_is_too_wide_has_no_upper_end_either(run, jpeg, found, monkeypatch):
    monkeypatch.setattr(estimating, "WIDEST_RANGE", 0.0)
    told = fw.estimate(run, jpeg, device="cpu").reason
    assert told.startswith(f"the accuracy could be as low as {100 * found.low:.0f} %")


def test_what_is_not_known_is_null_in_json(run, digits, folder):
    few = fw.estimate(run, write_set(folder, "jpeg5", digits.test, 5), device="cpu")
    written = json.loads(few.to_json())
    for name in ("value", "low", "high", "unlike_p", "held", "truth", "like"):
        assert written[name] is None, name


def test_a_p_of_exactly_the_limit_is_no_alarm(found):
    """As a guard has it."""
    limit = dataclasses.replace(found, unlike_p=0.05)
    assert "finds no difference from the validation images" in str(limit)
    assert "differ from the validation images" in str(dataclasses.replace(found, unlike_p=0.0499))


def test_nothing_is_written_for_bad_input(run, tmp_path, monkeypatch, capsys):
    for bad in ("found.txt", "nowhere/found.json"):
        status, told = command(monkeypatch, capsys, run, "images:x", "--out", tmp_path / bad)
        assert status == 2
        assert told.err.startswith("fairweather: ")
        assert "--out" in told.err
    assert not list(tmp_path.iterdir())


# ---- what the run knows


def known(shift, errors, digest):
    cloud = Cloud.from_rows(np.random.default_rng(len(digest)).random((5, 2)))
    numbers = np.array(errors, dtype=float)
    return KnownCell(shift, "1", shift, 0.5, 100, 0.5 + numbers, np.ones(2), cloud, digest)


def test_two_names_of_one_change_are_left_out_together():
    cells = [
        known("darker", [0.1, 0.2], b"a"), known("darker", [0.1, 0.2], b"bb"),
        known("blur", [0.1, 0.2], b"ccc"), known("dim", [0.1, 0.2], b"bb"),
        known("night", [0.1, 0.2], b"dddd"), known("night", [0.1, 0.2], b"a"),
    ]  # fmt: skip
    found = compute_past_errors(cells, cells[0].cloud, lambda _: None)
    first, blur = found.shift[0], found.shift[2]
    assert found.shift.tolist() == [first, first, blur, first, first, first]
    assert blur != first
    np.testing.assert_allclose(found.errors, [[0.1, 0.2]] * 6)
    np.testing.assert_array_equal(found.between, found.between.T)


def test_families_with_one_operation_are_left_out_together():
    names = ["brightness_factor", "blur", "imagenet_c/brightness", "natural/blur", "natural/b/blur"]
    cells = [known(name, [0.1, 0.2], b"x" * k) for k, name in enumerate(names, 1)]
    found = compute_past_errors(cells, cells[0].cloud, lambda _: None).shift
    assert found[0] == found[2]
    assert len(set(found)) == 4


def test_images_are_known_by_their_logits():
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    stored = outcomes([True] * 50, logits=logits)

    def seen(rows):
        return UnlabelledPredictions(rows.argmax(axis=1), rows.max(axis=1), rows)

    assert is_among(seen(logits[7:29] + 1e-5), stored)
    assert not is_among(seen(logits + 0.1), stored)
    assert not is_among(seen(np.concatenate([logits[:20], logits[:30] + 0.1])), stored)
    assert not is_among(seen(np.repeat(logits[:1], 40, axis=0)), stored)  # chance hits one image
    # 0.42 ** 15 = 2.2e-6 and 0.42 ** 16 = 9.4e-7: fewer may match by chance.
    assert not is_among(seen(logits[:15]), stored)
    assert is_among(seen(logits[:16]), stored)


def two_classes(values):
    """Logits of two classes, which say one number."""
    return np.stack([-values, values], axis=1).astype(np.float32)


def two_humps(generator, count):
    """As a network that sees brightness alone says of dark and of light images."""
    return generator.normal(generator.choice([-0.5, 0.5], count), 0.004)


DRAWS = {
    "smooth": lambda generator, count: generator.normal(0, 1, count),
    "crowded": two_humps,
    "a grid": lambda generator, count: generator.integers(0, 200, count) / 10,
    "a grid with noise": lambda generator, count: (
        generator.integers(0, 200, count) / 10 + generator.normal(0, 1e-5, count)
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_other_images_of_two_classes_match_by_chance_as_seldom_as_is_stated(name):
    generator, matched = np.random.default_rng(5), []
    for _ in range(40):
        stored = DRAWS[name](generator, 200)
        new = DRAWS[name](generator, 100)
        identified, _ = identify_rows(two_classes(new), two_classes(stored))
        matched.append(identified.mean())
        rows = two_classes(new)
        seen = UnlabelledPredictions(rows.argmax(axis=1), rows.max(axis=1), rows)
        assert not is_among(seen, outcomes([True] * 200, logits=two_classes(stored)))
    error = np.std(matched, ddof=1) / np.sqrt(len(matched))
    assert np.mean(matched) - 5 * error < CHANCE_MATCH
    if name == "a grid":
        assert np.mean(matched) == pytest.approx(1 / np.e, abs=5 * error + 0.001)


def test_images_of_two_classes_are_known_where_their_numbers_have_enough_digits():
    stored = two_humps(np.random.default_rng(6), 200)
    rows = two_classes(stored + 1e-7)[:100]
    seen = UnlabelledPredictions(rows.argmax(axis=1), rows.max(axis=1), rows)
    assert is_among(seen, outcomes([True] * 200, logits=two_classes(stored)))


def test_new_images_of_two_classes_are_not_taken_for_those_of_the_run(tmp_path):
    """Most of their answers are as near to stored ones as those of one image on two machines."""
    (tmp_path / "mean.py").write_text(BRIGHTNESS)
    for seed, folder in enumerate(("own", "new")):
        generator = np.random.default_rng(seed)
        for name, base in (("dark", 60), ("light", 190)):
            (tmp_path / folder / name).mkdir(parents=True)
            for place in range(100 if folder == "own" else 40):
                pixels = np.clip(generator.normal(base, 25, (28, 28, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(tmp_path / folder / name / f"{place}.png"), pixels)
    run = fw.evaluate(
        f"python:{tmp_path}/mean.py:make", f"folder:{tmp_path}/own", ["gaussian_blur: [1]"],
        validation_fraction=0.5, bootstrap=100, out=tmp_path / "run", device="cpu",
    ).path  # fmt: skip
    other = fw.estimate(run, f"images:{tmp_path}/new", device="cpu")
    assert not {estimation.OWN_TEST, estimation.OWN_VALIDATION} & {*other.notes}
    own = fw.estimate(run, f"images:{tmp_path}/own", device="cpu")
    assert not {estimation.OWN_TEST, estimation.OWN_VALIDATION} & {*own.notes}  # half of each


def test_images_are_known_by_their_confidences_where_there_are_no_logits():
    """As of more than 100 classes."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (300, 120))

    def seen(rows):
        return UnlabelledPredictions(rows.argmax(axis=1), softmax(rows).max(axis=1), None)

    def stored(rows):
        labels = rows.argmax(axis=1)
        confidence, names = softmax(rows).max(axis=1), [str(k) for k in range(120)]
        return outcomes([True] * len(rows), labels, confidence, classes=names)

    assert is_among(seen(logits[40:90] + 1e-6), stored(logits))
    assert not is_among(seen(generator.normal(0, 2, (300, 120))), stored(logits))
    sure = np.where(np.arange(120) == np.arange(300)[:, None] % 120, 40, logits)
    assert not is_among(seen(sure), stored(sure))  # all are certain: nothing tells them apart


def test_a_root_of_new_images_may_be_that_of_the_runs_own_too(run, digits, folder, monkeypatch):
    source, asked = write_set(folder, "with_a_root", digits.val), []

    def moved(of, *, root=None, **rest):
        asked.append(root)
        if root is None:
            raise InputError("the data have moved")
        return open_validation_images(of, **rest)

    monkeypatch.setattr(estimation, "open_validation_images", moved)
    found = fw.estimate(run, source, root=folder, device="cpu")
    assert asked == [None, str(folder)]
    assert not any("Features were not compared" in note for note in found.notes)
    found = fw.estimate(run, source, device="cpu")
    assert any("Features were not compared: the data have moved" in note for note in found.notes)


@pytest.fixture(scope="module")
def hospitals(folder):
    """A network that sees brightness, measured at seven sites with brightness of their own."""
    generator, rows = np.random.default_rng(0), ["file,site,patient"]
    (folder / "brightness.py").write_text(BRIGHTNESS)
    for number in range(560):
        label, patient = number % 2, number // 4
        site = patient % 7
        mean = 127 + 25 * (2 * label - 1) + 9 * (site - 3) + generator.normal(0, 25)
        pixels = np.clip(generator.normal(mean, 5, (16, 16, 3)), 0, 255).astype(np.uint8)
        name = f"{'benign' if label == 0 else 'malignant'}/{number}.png"
        file = folder / "hospitals" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels)
        rows.append(f"{name},S{site},P{patient}")
    (folder / "sites.csv").write_text("\n".join(rows) + "\n")
    shifts = [
        "brightness_factor: [0.8]",
        "imagenet_c/contrast: [2]",
        "imagenet_c/gaussian_noise: [3]",
    ]
    return fw.evaluate(
        f"python:{folder}/brightness.py:make", f"folder:{folder}/hospitals", shifts,
        validation_fraction=0.3, bootstrap=100, out=folder / "sites", device="cpu",
        metadata=folder / "sites.csv", group="patient", sites=["site"],
    ).path  # fmt: skip


def test_each_site_is_left_out_in_turn(hospitals):
    model = open_run_model(str(hospitals))
    validation = model.validation()
    found = read_site_errors(model, validation, [])
    assert found.errors.shape == found.variances.shape == (7, 5)
    test, val = model.run.groups(), model.run.groups(VAL)
    clean = model.run.read_predictions(predictions_file(model.name, 0, CLEAN))
    for at in range(7):
        here, there = (np.flatnonzero(own.slices["site"] == f"S{at}") for own in (test, val))
        apart = np.setdiff1d(np.arange(len(validation)), there)
        assert len(there)
        sure, right = validation.confidence[apart], validation.correct[apart]
        error = clean.confidence[here].mean() - clean.correct[here].mean()
        assert found.errors[at, 0] == pytest.approx(error)
        difference = error - (sure.mean() - right.mean())
        named = list(fit_methods(validation, seeds=False)).index("difference_of_confidences")
        assert found.errors[at, named] == pytest.approx(difference)
        off = (clean.confidence - clean.correct)[here]
        columns = Grouping(test.numbers).select(here).influences(off[:, None])
        variance = columns.var(ddof=1) / len(columns)
        assert found.variances[at, 0] == pytest.approx(variance)


@pytest.mark.parametrize("known", [False, True])
def test_validation_images_of_unknown_sites_fit_no_method(hospitals, monkeypatch, known):
    """Otherwise a site would be among the images for which it is said to be left out."""
    model = open_run_model(str(hospitals))
    validation = model.validation()
    val = model.run.groups(VAL)
    half = np.where(np.arange(len(validation)) % 2, val.slices["site"], MISSING)
    told = val._replace(slices={"site": half} if known else {})
    groups = RunFolder.groups
    monkeypatch.setattr(
        RunFolder, "groups", lambda run, part=TEST: told if part == VAL else groups(run, part)
    )
    found = read_site_errors(model, validation, [])
    if not known:
        assert found is None
        return
    apart = validation.take(np.flatnonzero((half != "S0") & (half != MISSING)))
    clean = model.run.read_predictions(predictions_file(model.name, 0, CLEAN))
    here = np.flatnonzero(groups(model.run).slices["site"] == "S0")
    error = clean.confidence[here].mean() - clean.correct[here].mean()
    difference = error - (apart.confidence.mean() - apart.correct.mean())
    named = list(fit_methods(validation, seeds=False)).index("difference_of_confidences")
    assert found.errors[0, named] == pytest.approx(difference)


def test_the_range_allows_for_an_unseen_site_and_says_so(hospitals, folder):
    generator = np.random.default_rng(5)
    for number in range(200):
        mean = 127 + 25 * (2 * (number % 2) - 1) + 30 + generator.normal(0, 25)
        pixels = np.clip(generator.normal(mean, 5, (16, 16, 3)), 0, 255).astype(np.uint8)
        file = folder / "eighth" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), pixels)
    found = fw.estimate(hospitals, f"images:{folder}/eighth", device="cpu")
    assert found.sites == 7
    said = (
        "The range allows for an unseen site: each of the 7 sites of the test images was left out"
    )
    assert said in str(found)
    assert "weak evidence about another hospital" not in str(found)
    assert json.loads(found.to_json())["sites"] == 7
