"""The step that stores the pictures of the report, so that the report never needs the data."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.special
import torch
from PIL import Image
from torch import nn

from fairweather.attacks.table import select_labels
from fairweather.data.batches import to_input
from fairweather.devices import place_network
from fairweather.progress import Notify
from fairweather.report.samples import (
    ATTACKED,
    ATTACKED_COLUMNS,
    INDEX,
    INDEX_VERSION,
    PICTURE_COLUMNS,
    PICTURES,
    CellImage,
)
from fairweather.runs.folder import RunFolder, to_parquet
from fairweather.steps.plan import SampleStep, StepResult
from fairweather.steps.sweeps import group_by_sweep, parse_shift, shift_kind
from fairweather.steps.worker import Worker
from fairweather.tasks import CLASSIFICATION_TASK, Task, find_task
from fairweather.types.kinds import CLASSES
from fairweather.types.measurement import CLASSIFICATION, Attack, Dataset, Images, Shift
from fairweather.types.record import CLEAN, predictions_file

LONGEST = 112  # pixels of the longer side
# Up to this side, single pixels are visible, so none may change.
LOSSLESS = 32
# A thousand photographs of 112 pixels then take 2.6 MB, which fits into a page.
QUALITY = 75
# WebP's default: a twentieth of the time of the slowest setting, and files 1 % larger (PathMNIST).
_EFFORT = 4


def make_thumbnails(images: torch.Tensor) -> list[bytes]:
    """Encode images as small WebP pictures, lossless if the longer side is at most 32 pixels.

    If the longer side has more than 112 pixels, it becomes 112, and each pixel is the mean of the
    area that it covers. Nothing is enlarged. The same images give the same bytes.

    Args:
        images: uint8 `[N, 3, H, W]`.

    >>> picture = make_thumbnails(torch.zeros(1, 3, 224, 112, dtype=torch.uint8))[0]
    >>> Image.open(io.BytesIO(picture)).size
    (56, 112)
    """
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    height, width = (int(length) for length in images.shape[2:])
    shrink = LONGEST / max(height, width)
    if shrink >= 1:
        return [_encode_webp(array) for array in arrays]
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    resized = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in arrays)
    return [_encode_webp(np.asarray(array, np.uint8)) for array in resized]


def _encode_webp(array: np.ndarray) -> bytes:
    options: dict[str, Any] = {"quality": QUALITY}
    if max(array.shape[:2]) <= LOSSLESS:
        options = {"lossless": True, "quality": 100}
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", method=_EFFORT, **options)
    return buffer.getvalue()


# The numbers of pictures of one kind, and of mistakes in all, that fit into a page.
MOST_PICTURES, MOST_MISTAKES = 6, 240
MIXUP_WEIGHT = 0.5
MIXUP = "samples/mixup.png"
# Name and seed of the predictions to show for a model, by its name in the report.
ShownModels = Mapping[str, tuple[str, int | str]]


def do_sample(step: SampleStep, worker: Worker, folder: RunFolder, progress: Notify) -> StepResult:
    """Choose pictures by the predictions, and store them under the shifts of the predictions."""
    dataset, image_keys = worker.dataset(step.images.data), dict[int, int]()
    every = (worker.shift(text, dataset.test, step.published) for text in step.shifts)
    shifts = [shift for shift in every if isinstance(shift, Shift)]
    if step.aggregation is not None:
        shown = show_units(folder, dataset.test, next(iter(step.models.values())))
        image_keys = dict(enumerate(shown.keys.tolist()))
        dataset = replace(dataset, test=number_images(shown, folder, step.models))
    choice = PictureChoice({}, {})  # mistakes are those of a classifier
    if dataset.task == CLASSIFICATION:
        choice = choose_pictures(folder, dataset.test, shifts, step.models)
    write_samples(
        folder, dataset, shifts, step.shift_seed, choice, step.mixup, image_keys=image_keys
    )
    if step.attacks:
        folder.write(ATTACKED, _attack_pictures(step, worker, folder, dataset, image_keys))
    return StepResult()


def show_units(run: RunFolder, test: Images, model: tuple[str, int | str]) -> Images:
    """Choose an image of each patient, or of another unit: the one that decides most.

    It has the highest probability of what is most probable for the patient, according to the
    clean predictions of a model.
    """
    file, groups = predictions_file(*model, CLEAN), run.image_groups()
    images, rows = run.read_images(file), run.read_cell(file)
    assert groups is not None, "an earlier step wrote them"
    assert groups.numbers is not None, "units are groups"
    assert images.logits is not None, "units need them"
    assert rows.logits is not None
    column = rows.logits.argmax(axis=1)[groups.numbers]
    logs = images.logits.astype(np.float64)
    if images.kind == CLASSES:
        logs = scipy.special.log_softmax(logs, axis=1)
    order = np.lexsort((-logs[np.arange(len(logs)), column], groups.numbers))
    first = np.unique(groups.numbers[order], return_index=True)[1]
    return test[torch.from_numpy(order[first])]


def number_images(shown: Images, run: RunFolder, models: ShownModels) -> Images:
    """Give the images of units the numbers of these as keys, and their labels."""
    rows = run.read_cell(predictions_file(*next(iter(models.values())), CLEAN))
    return replace(shown, keys=torch.from_numpy(rows.keys), labels=torch.from_numpy(rows.labels))


def _attack_pictures(
    step: SampleStep,
    worker: Worker,
    folder: RunFolder,
    dataset: Dataset,
    image_keys: Mapping[int, int],
) -> bytes:
    """Attack the strip with each network again, as it was when it was predicted.

    An attack draws its random numbers by image, so it finds the same change, apart from rounding in
    batches of another size.
    """
    strip = pick_pictures(dataset.test, MOST_PICTURES, task=find_task(dataset.task))
    drawn = replace(strip, keys=_find_image_keys(strip.keys, image_keys))
    attacks = [attack for text in step.attacks if isinstance(attack := parse_shift(text), Attack)]
    columns: dict[str, list[Any]] = {name: [] for name in ATTACKED_COLUMNS.names}
    for name, network in step.networks.items():
        model = worker.network(network, folder)
        for attack in attacks:
            attacked = attack_images(model, drawn, attack, worker.device, step.shift_seed)
            columns["model"] += [name] * len(strip)
            columns["cell"] += [attack.id] * len(strip)
            columns["key"] += strip.keys.tolist()
            columns["image"] += make_thumbnails(attacked)
    return to_parquet(pa.table(columns, schema=ATTACKED_COLUMNS))


@torch.no_grad()
def attack_images(
    model: nn.Module, images: Images, attack: Attack, device: torch.device, seed: int
) -> torch.Tensor:
    """Attack images as `fairweather.inference.prediction.predict` does, rounded to 8 bits.

    They are attacked one by one, which never needs more memory than the predictions.

    Returns:
        uint8 `[N, 3, H, W]`, on the CPU.
    """
    place_network(model.eval(), device)
    attacked = []
    for at in range(len(images)):
        image = images[at : at + 1]
        inputs = to_input(image.images.to(device))
        labels, keys = select_labels(attack, image).to(device), image.keys.to(device)
        attacked.append(attack(model, inputs, labels, keys, seed).mul(255).round().to("cpu"))
    return torch.cat(attacked).to(torch.uint8)


class PictureChoice(NamedTuple):
    """The images to show; the fields are those of `fairweather.report.samples.Samples`."""

    lost: Mapping[str, tuple[CellImage, ...]]
    mistakes: Mapping[str, Mapping[str, tuple[CellImage, ...]]]


class ChosenImages(NamedTuple):
    """Chosen images and the level of each, the most important first."""

    keys: npt.NDArray[np.int64]
    """int64 `[K]`, each once."""

    levels: npt.NDArray[np.int64]
    """int64 `[K]`, the index of the level, from 0."""


def choose_lost(
    keys: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.float64],
    right: npt.NDArray[np.bool_],
    lost: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    most: int = MOST_PICTURES,
) -> ChosenImages:
    """Choose the images that become wrong closest to the neutral level, and stay wrong beyond it.

    An image is lost from a level on if it is wrong there and at every level further from neutral on
    the same side. If it is lost on both sides, the closer level counts, or the first of two equally
    close ones. Images lost at closer levels come first, then those with higher confidence, then
    those with smaller keys.

    Args:
        keys: int64 `[N]`, each once.
        offsets: float64 `[L]`, each level minus the neutral one; a level at 0 is skipped.
        right: bool `[N]`, whether the clean image is classified correctly; only such images count.
        lost: bool `[L, N]`, whether all models are wrong at this level.
        confidence: float64 `[L, N]`, their confidence at this level.
        most: largest number of images.

    >>> right = np.array([True, True, True, False])
    >>> lost = np.array([[False, True, True, True], [True, False, True, True]])
    >>> choose_lost(np.arange(4), np.array([1.0, 2.0]), right, lost, np.ones((2, 4)))
    ChosenImages(keys=array([2, 0]), levels=array([0, 1]))
    """
    stays = np.zeros_like(lost)
    for side in (-1, 1):
        places = np.flatnonzero(np.sign(offsets) == side)
        inwards = places[np.argsort(-np.abs(offsets[places]), kind="stable")]
        stays[inwards] = np.logical_and.accumulate(lost[inwards], axis=0)
    # As floats, 0.6 and 1.4 are not exactly as far from 1.
    near = np.round(np.abs(offsets), 9)
    distances = np.where(stays & right, near[:, None], np.inf)
    at = np.flatnonzero(np.isfinite(distances).any(axis=0))  # the images that are lost
    levels = distances[:, at].argmin(axis=0)
    order = np.lexsort((keys[at], -confidence[levels, at], distances[levels, at]))[:most]
    return ChosenImages(keys[at[order]], levels[order])


def choose_mistakes(
    keys: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.bool_],
    confidence: npt.NDArray[np.float64],
    most: int = MOST_PICTURES,
) -> ChosenImages:
    """Choose the wrong predictions with the highest confidence, each image once.

    An image is chosen at the level where it is wrong with the highest confidence, or at the first
    of several such levels. With equal confidence, the smaller key comes first.

    Args:
        keys: int64 `[N]`, each once.
        wrong: bool `[L, N]`, whether the prediction is wrong at this level.
        confidence: float64 `[L, N]`, in [0, 1].
        most: largest number of images.

    >>> wrong = np.array([[True, True, False], [True, False, False]])
    >>> confidence = np.array([[0.6, 0.7, 0.9], [0.8, 0.9, 0.9]])
    >>> choose_mistakes(np.array([7, 8, 9]), wrong, confidence)
    ChosenImages(keys=array([7, 8]), levels=array([1, 0]))
    """
    places = np.flatnonzero(wrong.any(axis=0))
    sure = np.where(wrong[:, places], confidence[:, places], -np.inf)
    levels = sure.argmax(axis=0)
    order = np.lexsort((keys[places], -sure.max(axis=0)))[:most]
    return ChosenImages(keys[places[order]], levels[order])


def mistakes_per_cell(models: int, shifts: int) -> int:
    """Say how many mistakes are kept of each model under each shift and on clean images.

    It is six, or fewer so that there are at most 240 in all, but at least one.

    >>> mistakes_per_cell(models=6, shifts=2), mistakes_per_cell(5, 20), mistakes_per_cell(40, 80)
    (6, 2, 1)
    """
    return max(1, min(MOST_PICTURES, MOST_MISTAKES // (models * (shifts + 1))))


class _CellPredictions(NamedTuple):
    """The predictions of a model on the test images in some cells: both `[cells, N]`."""

    wrong: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]


def choose_pictures(
    run: RunFolder, test: Images, shifts: Sequence[Shift], models: ShownModels
) -> PictureChoice:
    """Choose which mistakes are shown, from the predictions of all models in every cell.

    Args:
        run: the folder with the predictions, whose rows have the order of the test images.
        test: the test images.
        shifts: clean first.
        models: model or variant and seed of the predictions, by the name in the report.
    """
    keys, sweeps = test.keys.numpy(), group_by_sweep(shifts)
    most = mistakes_per_cell(len(models), len(sweeps))
    lost: dict[str, tuple[CellImage, ...]] = {}
    mistakes: dict[str, dict[str, tuple[CellImage, ...]]] = {name: {} for name in models}
    right = np.ones(len(keys), dtype=bool)
    for name, model in models.items():
        answers = _read_cells(run, test, model, shifts[:1])
        right &= ~answers.wrong[0]
        chosen = choose_mistakes(keys, *answers, most)
        mistakes[name][shifts[0].name] = _cell_images(chosen, shifts[:1])
    for sweep, members in sweeps.items():
        all_wrong = np.ones((len(members), len(keys)), dtype=bool)
        confidence = np.zeros((len(members), len(keys)))
        for name, model in models.items():
            answers = _read_cells(run, test, model, members)
            all_wrong &= answers.wrong
            confidence += answers.confidence / len(models)
            mistakes[name][sweep] = _cell_images(choose_mistakes(keys, *answers, most), members)
        levels = np.array([member.level for member in members], dtype=float)
        offsets = levels - shift_kind(sweep).neutral
        lost[sweep] = _cell_images(
            choose_lost(keys, offsets, right, all_wrong, confidence), members
        )
    return PictureChoice(lost, mistakes)


def write_samples(
    run: RunFolder,
    dataset: Dataset,
    shifts: Sequence[Shift],
    shift_seed: int,
    choice: PictureChoice,
    mixup: bool,
    *,
    image_keys: Mapping[int, int] = MappingProxyType({}),
) -> list[str]:
    """Store thumbnails of the chosen images and of a strip of images in every cell.

    The strip has up to six test images of different classes. With `mixup`, an example of MixUp is
    stored too. Shifts draw by the keys of images, which `image_keys` has by the key of a patient.
    Returns the names of the files.
    """
    task = find_task(dataset.task)
    strip = pick_pictures(dataset.test, MOST_PICTURES, task=task)
    index: dict[str, Any] = {
        "version": INDEX_VERSION,
        "labels": task.name_labels(strip.labels.numpy(), strip.classes),
        "strip": strip.keys.tolist(),
        "lost": _as_json(choice.lost),
        "mistakes": {name: _as_json(images) for name, images in choice.mistakes.items()},
    }
    wanted: dict[str, set[int]] = {shift.id: set(index["strip"]) for shift in shifts}
    for by_name in (choice.lost, *choice.mistakes.values()):
        for key, cell in chain.from_iterable(by_name.values()):
            wanted[cell].add(key)
    run.write(PICTURES, _encode_pictures(dataset.test, shifts, shift_seed, wanted, image_keys))
    if (
        mixup
        and dataset.train is not None
        and len(pair := pick_pictures(dataset.train, 2, task=task)) == 2
    ):
        run.write(MIXUP, _encode_mixture(pair.images))
        index["mixup"] = {
            "file": MIXUP,
            "labels": task.name_labels(pair.labels.numpy(), pair.classes),
            "weight": MIXUP_WEIGHT,
        }
    run.write(INDEX, json.dumps(index, indent=1) + "\n")
    return [INDEX, PICTURES, *([MIXUP] if "mixup" in index else [])]


def pick_pictures(
    images: Images, most: int, seed: int = 0, task: Task = CLASSIFICATION_TASK
) -> Images:
    """Pick at most `most` images of different strata, such as classes, by the seed, in order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    labels = task.strata(images.labels.numpy(), images.classes).numbers[order]
    first_of_class = np.unique(labels, return_index=True)[1]
    chosen = np.sort(rng.permutation(first_of_class)[:most])
    by_class = chosen[np.argsort(labels[chosen])]
    return images[torch.from_numpy(order[by_class])]


def _read_cells(
    run: RunFolder, test: Images, model: tuple[str, int | str], shifts: Sequence[Shift]
) -> _CellPredictions:
    files = [predictions_file(*model, shift.id) for shift in shifts]
    predicted = np.stack([run.read_column(file, "predicted") for file in files])
    # Where it is unknown, no mistake comes before another.
    confidence = np.nan_to_num([run.read_column(file, "confidence") for file in files])
    return _CellPredictions(predicted != test.labels.numpy(), confidence)


def _cell_images(chosen: ChosenImages, shifts: Sequence[Shift]) -> tuple[CellImage, ...]:
    pairs = zip(chosen.keys.tolist(), chosen.levels.tolist(), strict=True)
    return tuple(CellImage(key, shifts[level].id) for key, level in pairs)


def _as_json(groups: Mapping[str, Sequence[CellImage]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [image._asdict() for image in images] for name, images in groups.items()}


def _find_image_keys(keys: torch.Tensor, image_keys: Mapping[int, int]) -> torch.Tensor:
    return torch.tensor([image_keys.get(key, key) for key in keys.tolist()], dtype=torch.int64)


def _encode_pictures(
    test: Images,
    shifts: Sequence[Shift],
    seed: int,
    wanted: Mapping[str, set[int]],
    image_keys: Mapping[int, int],
) -> bytes:
    """Shift the wanted images of each cell at full size, and only then make thumbnails."""
    by_key = np.argsort(test.keys.numpy())
    sorted_keys = test.keys.numpy()[by_key]
    columns: dict[str, list[Any]] = {name: [] for name in PICTURE_COLUMNS.names}
    for shift in shifts:
        keys = np.array(sorted(wanted[shift.id]), dtype=np.int64)
        images = test[torch.from_numpy(by_key[np.searchsorted(sorted_keys, keys)])]
        columns["cell"] += [shift.id] * len(keys)
        columns["key"] += keys.tolist()
        drawn = replace(images, keys=_find_image_keys(images.keys, image_keys))
        columns["image"] += make_thumbnails(shift.change(drawn, seed))
    return to_parquet(pa.table(columns, schema=PICTURE_COLUMNS))


def _encode_mixture(pair: torch.Tensor) -> bytes:
    """A PNG of two images and their mixture."""
    first, second = pair.float()
    mixture = torch.lerp(second, first, MIXUP_WEIGHT).round().to(torch.uint8)
    images = torch.cat([pair, mixture[None]])
    strip = images.permute(2, 0, 3, 1).flatten(1, 2).contiguous()  # [H, N * W, 3]
    buffer = io.BytesIO()
    Image.fromarray(strip.numpy()).save(buffer, "png")
    return buffer.getvalue()
