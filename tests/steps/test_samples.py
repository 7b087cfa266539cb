"""The pictures of a run: which images are chosen, how they are stored, and how they are read."""

import io
import json
import math
import shutil
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fairweather.errors import InputError
from fairweather.report.samples import INDEX, PICTURE_COLUMNS, PICTURES, CellImage, read_samples
from fairweather.runs.folder import RunFolder
from fairweather.shifts.table import CLEAN, make_shift
from fairweather.steps import samples as sampling
from fairweather.steps import samples as thumbnails
from fairweather.steps.measurement import (
    MeasuredModel,
    Measurement,
    collect_facts,
    plan_conclusion,
    plan_model,
)
from fairweather.steps.plan import (
    DATA,
    Plan,
    PredictStep,
    SampleStep,
    TrainedNetwork,
    step_fingerprint,
)
from fairweather.steps.samples import (
    MOST_MISTAKES,
    choose_lost,
    choose_mistakes,
    mistakes_per_cell,
    pick_pictures,
)
from fairweather.steps.sweeps import describe_shifts
from fairweather.steps.worker import Worker
from fairweather.types.measurement import Attack, AttackResult, Dataset, Images
from fairweather.variants.scaling import Temperature
from fairweather.workers.schedule import execute
from tests.helpers.run_folders import copy_run, finish, outcomes

SHIFTS = (
    CLEAN,
    make_shift("brightness_factor", factor=0.2),
    make_shift("imagenet_c/gaussian_noise", severity=3),
    make_shift("brightness_factor", factor=1.5),
    make_shift("brightness_factor", factor=0.8),
    make_shift("imagenet_c/gaussian_noise", severity=1),
    make_shift("brightness_factor", factor=2),
)
ATTACK = Attack("pgd", 0.1, {"epsilon": 0.1}, lambda *batch: AttackResult(batch[1], {}))
CLASSES = ("cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay")


# --- which images --------------------------------------------------------------------------------


def slow_lost(keys, levels, neutral, right, wrong, confidence, most):
    """Image by image and level by level, from the definition."""
    found = []
    for image, key in enumerate(keys):
        begins = []
        for at, level in enumerate(levels):
            outward = [
                other
                for other, there in enumerate(levels)
                if (there - neutral) * (level - neutral) > 0
                and abs(there - neutral) >= abs(level - neutral)
            ]
            if right[image] and outward and all(wrong[other][image] for other in outward):
                begins.append((abs(level - neutral), at))
        if begins:
            distance, at = min(begins)
            found.append((distance, -confidence[at][image], key, at))
    return [(key, at) for _, _, key, at in sorted(found)[:most]]


def slow_mistakes(keys, wrong, confidence, most):
    """All wrong predictions, highest confidence first; then no image twice."""
    answers = sorted(
        (-confidence[at][image], at, key)
        for image, key in enumerate(keys)
        for at in range(len(wrong))
        if wrong[at][image]
    )
    surest = {}
    for negative, at, key in answers:
        surest.setdefault(key, (negative, at))
    ordered = sorted((negative, key, at) for key, (negative, at) in surest.items())
    return [(key, at) for _, key, at in ordered[:most]]


def draw(seed, levels=(0.2, 1.5, 0.8, 1.0, 2.0), n=40):
    """Images that are often lost, and confidences with many ties."""
    rng = np.random.default_rng(seed)
    keys = rng.permutation(1000)[:n]
    hardness = rng.random(n)
    wrong = rng.random((len(levels), n)) < 0.35 + 0.6 * hardness
    confidence = rng.integers(1, 5, (len(levels), n)) / 4
    return keys, np.array(levels), rng.random(n) < 0.8, wrong, confidence


def as_pairs(chosen):
    return list(zip(chosen.keys.tolist(), chosen.levels.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("most", [1, 6, 1000])
def test_the_choice_is_the_one_of_the_definition(seed, most):
    keys, levels, right, wrong, confidence = draw(seed)
    lost = as_pairs(choose_lost(keys, levels - 1.0, right, wrong, confidence, most))
    assert lost == slow_lost(keys, levels, 1.0, right, wrong, confidence, most)
    mistakes = as_pairs(choose_mistakes(keys, wrong, confidence, most))
    assert mistakes == slow_mistakes(keys, wrong, confidence, most)
    assert len(lost) >= min(most, 2)
    assert len(mistakes) == min(most, wrong.any(axis=0).sum())


def test_the_choice_does_not_depend_on_the_order_of_images_or_on_the_side():
    keys, levels, right, wrong, confidence = draw(3)
    order = np.random.default_rng(9).permutation(len(keys))
    chosen = choose_lost(keys, levels - 1.0, right, wrong, confidence)
    shuffled = (keys[order], right[order], wrong[:, order], confidence[:, order])
    again = choose_lost(shuffled[0], levels - 1.0, *shuffled[1:])
    assert as_pairs(again) == as_pairs(chosen)
    # 0.2 and 1.8 would be equally far from 1; no two of these levels are.
    assert as_pairs(choose_lost(keys, 1.0 - levels, right, wrong, confidence)) == as_pairs(chosen)
    surest = choose_mistakes(keys, wrong, confidence)
    assert as_pairs(choose_mistakes(shuffled[0], *shuffled[2:])) == as_pairs(surest)


def test_an_image_that_comes_back_is_not_lost_before_it_stays_lost():
    wrong = np.array([[True, True, True], [False, True, True], [True, True, False]])
    chosen = choose_lost(np.arange(3), np.arange(1.0, 4), np.ones(3, bool), wrong, np.ones((3, 3)))
    assert as_pairs(chosen) == [(1, 0), (0, 2)]


def test_what_changes_nothing_loses_nothing():
    sure, wrong = np.ones((1, 3)), np.ones((1, 3), bool)
    assert not len(choose_lost(np.arange(3), np.zeros(1), wrong[0], wrong, sure).keys)
    assert not len(choose_lost(np.arange(3), np.ones(1), ~wrong[0], wrong, sure).keys)
    assert not len(choose_lost(np.arange(3), np.ones(1), wrong[0], ~wrong, sure).keys)
    assert not len(choose_mistakes(np.arange(3), ~wrong, sure).keys)


def test_of_two_levels_as_near_the_first_counts():
    right, wrong, sure = np.ones(1, bool), np.ones((2, 1), bool), np.ones((2, 1))
    for offsets in ([-1.0, 1.0], [1.0, -1.0]):
        chosen = choose_lost(np.array([5]), np.array(offsets), right, wrong, sure)
        assert as_pairs(chosen) == [(5, 0)]


def test_levels_are_as_near_whatever_floats_make_of_their_difference():
    right, sure = np.ones(2, bool), np.array([[0.9, 0.9], [0.5, 0.5]])
    assert abs(0.6 - 1.0) != abs(1.4 - 1.0)
    for levels in ([0.6, 1.4], [1.4, 0.6]):
        offsets = np.array(levels) - 1.0
        both = choose_lost(np.arange(2), offsets, right, np.ones((2, 2), bool), sure)
        assert as_pairs(both) == [(0, 0), (1, 0)]
        # Each image is lost on one side only: the one with higher confidence comes first.
        for wrong in (np.eye(2, dtype=bool), ~np.eye(2, dtype=bool)):
            chosen = choose_lost(np.arange(2), offsets, right, wrong, sure)
            assert chosen.levels.tolist() == [0, 1]


@given(st.integers(1, 600), st.integers(0, 200))
def test_mistakes_of_many_models_stay_few(models, shifts):
    each = mistakes_per_cell(models, shifts)
    groups = models * (shifts + 1)
    assert 1 <= each <= 6
    assert each == 1 or each * groups <= MOST_MISTAKES
    assert each == 6 or (each + 1) * groups > MOST_MISTAKES


# --- thumbnails ----------------------------------------------------------------------------------


def noise(height, width, n=2):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8))


def decode(picture):
    with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
        return np.asarray(image.convert("RGB"))


def slow_means(image, height, width):
    """The mean of the area that each new pixel covers, pixel by pixel: `[height, width, 3]`."""

    def cover(new, length, place):
        """How much of each old pixel lies under a new one."""
        low, high = place * length / new, (place + 1) * length / new
        return [max(0.0, min(high, at + 1) - max(low, at)) for at in range(length)]

    result = np.zeros((height, width, 3))
    for y in range(height):
        rows = cover(height, image.shape[0], y)
        for x in range(width):
            weights = np.outer(rows, cover(width, image.shape[1], x))
            result[y, x] = (weights[..., None] * image).sum((0, 1)) / weights.sum()
    return result


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (8, 32), (30, 17)])
def test_small_pictures_keep_every_pixel(size):
    images = noise(*size)
    for image, picture in zip(images, thumbnails.make_thumbnails(images), strict=True):
        assert np.array_equal(decode(picture), image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), (112, 112)),
        ((300, 200), (112, 75)),
        ((113, 8), (112, 8)),
        ((1000, 2), (112, 1)),
        ((112, 112), (112, 112)),
        ((65, 96), (65, 96)),
    ],
)
def test_large_pictures_are_made_smaller_and_none_larger(size, expected):
    for (height, width), wanted in ((size, expected), (size[::-1], expected[::-1])):
        for picture in thumbnails.make_thumbnails(noise(height, width)):
            assert decode(picture).shape == (*wanted, 3)


@pytest.mark.parametrize("size", [(224, 16), (150, 97)])
def test_a_small_pixel_is_the_mean_of_what_it_covers(size, monkeypatch):
    monkeypatch.setattr(thumbnails, "LOSSLESS", thumbnails.LONGEST)
    images = noise(*size, n=1)
    found = decode(thumbnails.make_thumbnails(images)[0])
    expected = slow_means(images[0].permute(1, 2, 0).numpy(), *found.shape[:2])
    assert np.abs(found - expected).max() <= 0.51


def test_large_pictures_look_like_themselves_and_are_small():
    y, x = np.mgrid[:224, :224] / 224
    smooth = np.stack([x, y, 1 - x * y])[None] * 255
    (picture,) = thumbnails.make_thumbnails(torch.from_numpy(smooth.round().astype(np.uint8)))
    wanted = smooth[0].reshape(3, 112, 2, 112, 2).mean((2, 4)).transpose(1, 2, 0)
    assert np.abs(decode(picture) - wanted).mean() < 3
    assert len(picture) < 3000


# --- a run ---------------------------------------------------------------------------------------


def make_test_images(n, size=(12, 12), classes=CLASSES, seed=0):
    """Different pictures, their keys neither in order nor without gaps."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (n, 3, *size), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(len(classes), size=n))
    return Images(pixels, labels, torch.from_numpy(rng.permutation(3 * n)[:n]), classes)


def make_predictions(images, rng, hardness, skill):
    """Wrong if an image is harder than the model's skill; confidences with ties."""
    n = len(images)
    right = hardness + rng.normal(0, 0.05, n) <= skill
    return outcomes(
        right,
        images.labels.numpy(),
        rng.integers(2, 17, n) / 16,
        classes=images.classes,
        keys=images.keys.numpy(),
        top5_correct=right,
    )


class Made(NamedTuple):
    """A run with predictions, its data, and the step that chooses and stores its pictures.

    `predicted` are the steps whose predictions it reads; they are done.
    """

    run: RunFolder
    dataset: Dataset
    shifts: tuple
    predicted: list[PredictStep]
    step: SampleStep


# Name and seed of each model; pictures are those of the first seed of a name.
BASIC = (("basic", 1),)
EVERY = tuple((name, seed) for name in ("basic", "other") for seed in (1, 0, "ensemble"))


def make(
    path, test, models=BASIC, shifts=(*SHIFTS[:3], ATTACK, *SHIFTS[3:]), variants=(), mixup=False
):
    """A run of these models whose predictions get worse away from neutral."""
    dataset = Dataset("made up", test, None, test, (0.5,) * 3, (0.5,) * 3)
    measurement = Measurement(
        data=collect_facts(dataset, ("train", "test")),
        shifts=shifts,
        threads=1,
        device=torch.device("cpu"),
        shift_seed=7,
        variants=variants,
        mixup=mixup,
    )
    measured = [
        MeasuredModel(name, seed, name, name, TrainedNetwork(folder=f"models/{name}/seed-{seed}"))
        for name, seed in models
    ]
    step, *_ = plan_conclusion(measurement, measured)
    predicted = [
        each.model_copy(update={"reads": ()})  # as if there were no networks
        for model in measured
        for each in plan_model(measurement, model)
        if isinstance(each, PredictStep) and each.leaves[0] in step.reads
    ]
    # What is attacked are networks, once each: no temperature, and no other seeds.
    ensembles = {f"{name}+ensemble" for name, seed in models if seed == "ensemble"}
    assert set(step.networks) == (
        {name for name, _ in models} | ensembles if step.attacks else set()
    )
    reads = tuple(file for file in step.reads if not file.startswith("models/"))
    unattacked = {"attacks": (), "networks": {}, "reads": reads}
    step = step.model_copy(update={"needs": tuple(each.id for each in predicted), **unattacked})
    made = Made(RunFolder(path), dataset, shifts, predicted, step)
    predict(made)
    return made


def predict(made, seed=0):
    """Store the predictions of every model, variant and ensemble that pictures are chosen by."""
    test = made.dataset.test
    hardness = np.random.default_rng(seed).random(len(test))
    generators = {}
    for step in made.predicted:
        who = f"{step.model}{step.seed}"
        rng = generators.setdefault(who, np.random.default_rng([seed, *who.encode()]))
        [shift] = [each for each in made.shifts if each.id == step.shift]
        neutral = 1.0 if shift.name == "brightness_factor" else 0.0
        harm = abs((shift.level or neutral) - neutral)
        store(made, step, make_predictions(test, rng, hardness, 0.9 - 0.25 * harm))


def store(made, step, predictions):
    """Store predictions like the step that predicts."""
    [file] = step.leaves
    made.run.write_predictions(file, predictions)
    settings = {"fingerprint": step_fingerprint(step, {}), "depends": step.depends()}
    finish(made.run, step.id, [file], kind="predict", **settings)


def sample(made, **changes):
    """Do the step, unless it is done."""
    step = made.step.model_copy(update=changes)
    plan = Plan.model_construct(data={}, model=None, steps=(*made.predicted, step))
    execute(plan, made.run, Worker(plan, device="cpu", datasets={DATA: made.dataset}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models and their variant in two seeds and together, seven cells and an attack."""
    path = tmp_path_factory.mktemp("samples") / "run"
    found = make(path, make_test_images(90), EVERY, variants=(Temperature(),), mixup=True)
    sample(found)
    return found


def contents(run):
    files = sorted((run.path / "samples").iterdir())
    return {file.name: file.read_bytes() for file in files}


def expected_choice(made, models):
    """The expected index, from the stored predictions and the slow references."""
    test, run = made.dataset.test, made.run
    keys = test.keys.tolist()
    sweeps = {
        sweep.name: (
            [cell.id for cell in sweep.cells],
            [cell.level for cell in sweep.cells],
            sweep.neutral,
        )
        for sweep in describe_shifts(made.shifts)
        if sweep.name != ATTACK.name
    }

    def read(model, ids):
        found = [run.read_predictions(run.predictions(*model, each)) for each in ids]
        return [~each.correct for each in found], [each.confidence for each in found]

    clean = {name: read(model, ["clean"]) for name, model in models.items()}
    right = [not any(clean[name][0][0][image] for name in models) for image in range(len(keys))]
    most = mistakes_per_cell(len(models), len(sweeps))
    lost, mistakes = {}, {}
    for name, (wrong, confidence) in clean.items():
        chosen = slow_mistakes(keys, wrong, confidence, most)
        mistakes[name] = {"clean": tuple(CellImage(key, "clean") for key, _ in chosen)}
    for sweep, (ids, levels, neutral) in sweeps.items():
        said = {name: read(model, ids) for name, model in models.items()}
        wrong = np.array([each for each, _ in said.values()]).all(axis=0)
        confidence = np.array([each for _, each in said.values()]).mean(axis=0)
        chosen = slow_lost(keys, levels, neutral, right, wrong, confidence, 6)
        lost[sweep] = tuple(CellImage(key, ids[at]) for key, at in chosen)
        for name, each in said.items():
            chosen = slow_mistakes(keys, *each, most)
            mistakes[name][sweep] = tuple(CellImage(key, ids[at]) for key, at in chosen)
    return lost, mistakes


def test_a_run_keeps_what_all_models_lose_first_and_confident_mistakes(made):
    stored = read_samples(made.run)
    models = {
        f"{name}{variant}{mark}": (f"{name}{variant}", seed)
        for name in ("basic", "other")
        for variant in ("", "+temperature")
        for mark, seed in (("", 1), ("+ensemble", "ensemble"))
    }
    lost, mistakes = expected_choice(made, models)
    assert stored.lost == lost
    assert stored.mistakes == mistakes
    assert len(lost["brightness_factor"]) == 6
    assert len({shown.cell for shown in lost["brightness_factor"]}) > 1
    assert all(len(images) == 6 for images in mistakes["basic"].values())


def test_every_picture_is_of_the_image_as_a_model_saw_it(made):
    stored, test = read_samples(made.run), made.dataset.test
    chosen = [shown for images in stored.lost.values() for shown in images]
    for groups in stored.mistakes.values():
        chosen += [shown for images in groups.values() for shown in images]
    shown = {(cell, key) for key, cell in chosen}
    shown |= {(shift.id, key) for shift in SHIFTS for key in stored.strip}
    assert set(stored.pictures) == shown
    row = {key: at for at, key in enumerate(test.keys.tolist())}
    for shift in SHIFTS:
        every = shift(test.images, test.keys, 7)
        for cell, key in shown:
            if cell == shift.id:
                wanted = every[row[key]].permute(1, 2, 0).numpy()
                assert np.array_equal(decode(stored.pictures[cell, key]), wanted)


def test_the_strip_is_of_different_classes_and_in_every_cell(made):
    stored, test = read_samples(made.run), made.dataset.test
    picked = pick_pictures(test, 6)
    assert stored.strip == tuple(picked.keys.tolist())
    assert stored.labels == tuple(CLASSES[label] for label in picked.labels.tolist())
    assert len(set(stored.labels)) == 6
    assert list(stored.strips) == [shift.id for shift in SHIFTS]
    for image, picture in zip(picked.images, stored.strips["clean"], strict=True):
        assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())
    first, second, mixture = (np.asarray(each, float) for each in stored.mixup.pictures)
    assert np.abs(mixture - (first + second) / 2).max() <= 0.5


def test_the_same_run_gives_the_same_bytes(made, tmp_path):
    images = make_test_images(90)
    again = make(tmp_path / "again", images, EVERY, variants=(Temperature(),), mixup=True)
    sample(again)
    assert contents(again.run) == contents(made.run)
    sample(again, shift_seed=8)
    other = contents(again.run)
    assert other["index.json"] == contents(made.run)["index.json"]
    assert other["pictures.parquet"] != contents(made.run)["pictures.parquet"]


def test_pictures_are_stored_once_and_again_when_predictions_change(tmp_path, monkeypatch):
    made = make(tmp_path / "run", make_test_images(40))
    made.run.write("samples/clean.png", b"of an earlier version")
    finish(made.run, "samples", ["samples/clean.png"], kind="sample")
    sample(made)
    assert list(contents(made.run)) == ["index.json", "pictures.parquet"]
    before = contents(made.run)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_samples", None)
        sample(made)
        (made.run.path / PICTURES).unlink()
        with pytest.raises(TypeError):
            sample(made)
    sample(made)
    assert contents(made.run) == before
    predict(made, seed=1)
    sample(made)
    assert contents(made.run) != before


@pytest.mark.parametrize(
    ("n", "size", "classes"),
    [
        (1, (12, 12), CLASSES),
        (4, (12, 12), CLASSES),
        (30, (12, 12), ("cat",)),
        (30, (20, 9), CLASSES),
        (30, (9, 30), CLASSES),
    ],
)
def test_few_images_one_class_and_rectangles(n, size, classes, tmp_path):
    test = make_test_images(n, size, classes)
    made = make(tmp_path / "run", test, mixup=True)
    sample(made)
    stored = read_samples(made.run)
    assert len(stored.strip) == min(6, len(test.labels.unique()))
    assert all(picture.size == size[::-1] for picture in stored.strips["clean"])
    assert len(stored.strips) == len(SHIFTS)


def test_a_run_of_clean_images_keeps_mistakes_alone(tmp_path):
    made = make(tmp_path / "run", make_test_images(40), shifts=(CLEAN,))
    sample(made)
    stored = read_samples(made.run)
    assert stored.lost == {}
    assert {model: list(groups) for model, groups in stored.mistakes.items()} == {
        "basic": ["clean"]
    }
    assert stored.mixup is None


def test_a_model_that_is_never_wrong_and_one_that_always_is(tmp_path):
    made = make(tmp_path / "run", make_test_images(20))
    for step in made.predicted:
        stored = made.run.read_predictions(step.leaves[0])
        store(made, step, replace(stored, predicted=stored.labels))
    sample(made)
    never = read_samples(made.run)
    assert not any(never.lost.values())
    assert not any(never.mistakes["basic"].values())
    for step in made.predicted:
        store(made, step, replace(stored, predicted=(stored.labels + 1) % 8))
    sample(made)
    always = read_samples(made.run)
    assert not any(always.lost.values())
    assert all(len(images) == 6 for images in always.mistakes["basic"].values())


def test_photographs_are_shifted_at_full_size_and_then_made_small(tmp_path):
    test = make_test_images(3, (224, 160))
    made = make(tmp_path / "run", test, shifts=SHIFTS[:3])
    sample(made)
    stored = read_samples(made.run)
    noisy = SHIFTS[2]
    for key in stored.strip:
        (at,) = np.flatnonzero(test.keys.numpy() == key)
        shifted = noisy(test.images[at : at + 1], test.keys[at : at + 1], 7)
        assert stored.pictures[noisy.id, key] == thumbnails.make_thumbnails(shifted)[0]
        assert decode(stored.pictures[noisy.id, key]).shape == (112, 80, 3)


# --- reading -------------------------------------------------------------------------------------


def strip_of(pictures):
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(buffer, "png")
    return buffer.getvalue()


def test_a_folder_without_pictures_has_none(tmp_path):
    assert read_samples(RunFolder(tmp_path)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[]", "cannot be read: all: "),
        ("{", "cannot be read: all: Invalid JSON"),
        ("[" * 100_000, "cannot be read"),
        ({"version": 3}, "cannot be read: version: Input should be 2"),
        ({"version": "two"}, "cannot be read: version: "),
        ({"labels": []}, "cannot be read: labels: "),
        ({"labels": ["cat"]}, "found 1 labels for 6 images"),
        ({"lost": {"blur": [{"key": 0}]}}, r"lost\.blur\.0\.cell: "),
        (
            {"lost": {"blur": [{"key": 10**6, "cell": "clean"}]}},
            "the picture of image 1000000",
        ),
        ({"mistakes": {"m": {"blur": [{"key": 0, "cell": "/etc"}]}}}, "image 0 under '/etc'"),
        ({"strip": [0, 1, 2, 3, 4, 10**9]}, "the picture of image"),
        ({"mixup": {"file": "x", "labels": ["a"], "weight": 1}}, r"mixup\.labels"),
        ({"mixup": {"file": "x", "labels": ["a", "b"], "weight": math.inf}}, r"mixup\.weight"),
        ({"mixup": {"file": "../../x", "labels": ["a", "b"], "weight": 1}}, "outside the run"),
        ({"mixup": {"file": "/etc/passwd", "labels": ["a", "b"], "weight": 1}}, "outside the run"),
        ({"mixup": {"file": "samples/link", "labels": ["a", "b"], "weight": 1}}, "outside the run"),
        ({"mixup": {"file": "samples/no.png", "labels": ["a", "b"], "weight": 1}}, "No such file"),
        ({"mixup": {"file": INDEX, "labels": ["a", "b"], "weight": 1}}, "is not a picture"),
        ({"mixup": {"file": "samples/odd.png", "labels": ["a", "b"], "weight": 1}}, "found 5 pix"),
    ],
)
def test_an_index_that_is_wrong_gets_one_sentence(made, tmp_path, change, words):
    run = copy_run(made.run, tmp_path / "copy")
    (run.path / "samples/link").symlink_to(tmp_path / "elsewhere.png")
    run.write("samples/odd.png", strip_of([np.zeros((8, 5, 3), np.uint8)]))
    shutil.copy(run.path / "samples/mixup.png", tmp_path / "elsewhere.png")
    if not isinstance(change, str):
        change = json.dumps(json.loads((run.path / INDEX).read_text()) | change)
    run.write(INDEX, change)
    with pytest.raises(InputError, match=words) as caught:
        read_samples(run)
    assert "\n" not in str(caught.value)


def test_a_table_of_pictures_that_is_none_gets_one_sentence(made, tmp_path):
    run = copy_run(made.run, tmp_path / "copy")
    table = pyarrow.parquet.read_table(run.path / PICTURES)

    def refused(words):
        with pytest.raises(InputError, match=words) as caught:
            read_samples(run)
        assert "\n" not in str(caught.value)

    pyarrow.parquet.write_table(table.drop_columns(["key"]), run.path / PICTURES)
    refused(r"must have the columns cell \(string\), key \(int64\).* found cell \(string\), image")
    cell = table["cell"][0].as_py().encode()
    no_text = pa.array([b"\xff" + cell] * len(table)).view(pa.string())
    changed = table.set_column(0, table.schema.field("cell"), no_text)
    pyarrow.parquet.write_table(changed, run.path / PICTURES)
    refused("cannot be read: 'utf-8' codec")
    run.write(PICTURES, b"not parquet")
    refused("cannot be read")


def test_a_run_that_lost_its_pictures_says_how_to_get_a_report(made, tmp_path):
    run = copy_run(made.run, tmp_path / "copy")
    (run.path / PICTURES).unlink()
    with pytest.raises(InputError) as caught:
        read_samples(run)
    assert str(caught.value) == (
        f"{run.path} has no samples/pictures.parquet, which belongs to samples/index.json: the "
        "command that made the run makes it again, and without samples/index.json the report has "
        "no pictures"
    )
    (run.path / INDEX).unlink()
    assert read_samples(run) is None


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(decode(picture)).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("of_strip", [True, False])
@pytest.mark.parametrize("damage", [lambda _: b"<svg/>", lambda _: b"", lambda x: x[:-9], png])
def test_every_picture_has_to_be_a_webp(made, tmp_path, of_strip, damage):
    run = copy_run(made.run, tmp_path / "copy")
    table = pyarrow.parquet.read_table(run.path / PICTURES)
    strip = read_samples(run).strip
    cells, keys, pictures = (table[name].to_pylist() for name in PICTURE_COLUMNS.names)
    at = next(row for row, key in enumerate(keys) if (key in strip) == of_strip)
    pictures[at] = damage(pictures[at])
    table = table.set_column(2, PICTURE_COLUMNS.field("image"), pa.array(pictures, pa.binary()))
    pyarrow.parquet.write_table(table, run.path / PICTURES)
    with pytest.raises(InputError) as caught:
        read_samples(run)
    assert str(caught.value) == (
        f"{run.path / PICTURES} must contain WebP pictures, but that of image {keys[at]} under "
        f"{cells[at]!r} is not one"
    )
