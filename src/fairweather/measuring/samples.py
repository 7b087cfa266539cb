"""The few pictures that the report shows, stored so that it never needs the data again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image

from fairweather.measuring.choosing import (
    MOST_PICTURES,
    Chosen,
    confident_mistakes,
    lost_first,
    mistakes_each,
)
from fairweather.measuring.describe import kind_of
from fairweather.measuring.scoring import names_of
from fairweather.measuring.setting import LIBRARIES, Setting, Subject
from fairweather.measuring.thumbnails import thumbnails
from fairweather.report.samples import COLUMNS, INDEX, PICTURES, Place
from fairweather.report.samples import VERSION as INDEX_VERSION
from fairweather.report.words import ENSEMBLE_SUFFIX
from fairweather.runs import RunFolder
from fairweather.types import ENSEMBLE, Cell, Dataset, Images, Shift

# Raised when the pictures become others of the same inputs.
VERSION = 3
MIXUP_WEIGHT = 0.5
MIXUP = "samples/mixup.png"
# The folder and the seed of the predictions that stand for a model, by its name in the report.
Models = Mapping[str, tuple[str, int | str]]


class Choice(NamedTuple):
    """The images whose mistakes are shown, as `fairweather.report.samples.Samples` says it."""

    lost: Mapping[str, tuple[Place, ...]]
    mistakes: Mapping[str, Mapping[str, tuple[Place, ...]]]


class _Answers(NamedTuple):
    """What a model says of the test images in some cells: both `[cells, N]`."""

    wrong: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]


def samples_step(setting: Setting, subjects: Sequence[Subject], *, mixup: bool) -> None:
    """Store the pictures of a run, with a MixUp example if that was asked for.

    The predictions of all subjects and variants have to be there.
    """
    run = setting.run
    # What an attack does depends on the model, and shows nothing.
    shifts = [shift for shift in setting.shifts if isinstance(shift, Shift)]
    models = first_seeds(setting, subjects)
    inputs = {
        "version": VERSION,
        "data": dict(setting.digests),
        "shifts": [shift.id for shift in shifts],
        "libraries": LIBRARIES,
        "seed": setting.shift_seed,
        "mixup": mixup,
        "predictions": [
            (name, [run.checksum(_file(model, shift)) for shift in shifts])
            for name, model in models.items()
        ],
    }
    if not run.is_done("samples", inputs):
        choice = choose(run, setting.dataset.test, shifts, models)
        files = write_samples(run, setting.dataset, shifts, setting.shift_seed, choice, mixup)
        run.finish("samples", inputs, files)


def first_seeds(setting: Setting, subjects: Sequence[Subject]) -> Models:
    """Take the predictions of the first seed for a model or variant, and its ensemble's apart."""
    found: dict[str, tuple[str, int | str]] = {}
    for subject in subjects:
        together = ENSEMBLE_SUFFIX if subject.seed == ENSEMBLE else ""
        for name in names_of(setting, subject):
            found.setdefault(name + together, (name, subject.seed))
    return found


def choose(run: RunFolder, test: Images, shifts: Sequence[Shift], models: Models) -> Choice:
    """Choose which mistakes are shown, from the predictions of all models in every cell.

    Args:
        run: where the predictions lie, their rows in the order of the test images.
        test: the test images.
        shifts: clean first.
        models: the model, variant or ensemble by its name in the report.
    """
    keys, sweeps = test.keys.numpy(), _sweeps(shifts)
    most = mistakes_each(len(models), len(sweeps))
    lost: dict[str, tuple[Place, ...]] = {}
    mistakes: dict[str, dict[str, tuple[Place, ...]]] = {name: {} for name in models}
    right = np.ones(len(keys), dtype=bool)
    for name, model in models.items():
        answers = _read(run, test, model, shifts[:1])
        right &= ~answers.wrong[0]
        chosen = confident_mistakes(keys, *answers, most)
        mistakes[name][shifts[0].name] = _places(chosen, shifts[:1])
    for sweep, members in sweeps.items():
        all_wrong = np.ones((len(members), len(keys)), dtype=bool)
        confidence = np.zeros((len(members), len(keys)))
        for name, model in models.items():
            answers = _read(run, test, model, members)
            all_wrong &= answers.wrong
            confidence += answers.confidence / len(models)
            mistakes[name][sweep] = _places(confident_mistakes(keys, *answers, most), members)
        offsets = np.array([_offset(member) for member in members])
        lost[sweep] = _places(lost_first(keys, offsets, right, all_wrong, confidence), members)
    return Choice(lost, mistakes)


def write_samples(
    run: RunFolder,
    dataset: Dataset,
    shifts: Sequence[Shift],
    shift_seed: int,
    choice: Choice,
    mixup: bool,
) -> list[str]:
    """Store thumbnails of what was chosen and of a strip in every cell, and a MixUp example.

    The strip is of up to six test images of different classes. Returns the names of the files.
    """
    strip = pick_pictures(dataset.test, MOST_PICTURES)
    index: dict[str, Any] = {
        "version": INDEX_VERSION,
        "labels": _names(strip),
        "strip": strip.keys.tolist(),
        "lost": _as_json(choice.lost),
        "mistakes": {name: _as_json(groups) for name, groups in choice.mistakes.items()},
    }
    wanted: dict[str, set[int]] = {shift.id: set(index["strip"]) for shift in shifts}
    for place in _all_places(choice):
        wanted[place.cell].add(place.key)
    run.write(PICTURES, _pictures(dataset.test, shifts, shift_seed, wanted))
    files = [INDEX, PICTURES]
    if mixup and dataset.train is not None and len(pair := pick_pictures(dataset.train, 2)) == 2:
        run.write(MIXUP, _png(_with_mixture(pair.images)))
        index["mixup"] = {"file": MIXUP, "labels": _names(pair), "weight": MIXUP_WEIGHT}
        files.append(MIXUP)
    run.write(INDEX, json.dumps(index, indent=1) + "\n")
    return files


def pick_pictures(images: Images, most: int, seed: int = 0) -> Images:
    """Pick pictures of as many different classes as there are, seeded, in the order of classes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    labels = images.labels.numpy()[order]
    first_of_class = np.unique(labels, return_index=True)[1]
    chosen = np.sort(rng.permutation(first_of_class)[:most])
    by_class = chosen[np.argsort(labels[chosen])]
    return images[torch.from_numpy(order[by_class])]


def _sweeps(shifts: Sequence[Shift]) -> dict[str, list[Shift]]:
    found: dict[str, list[Shift]] = {}
    for shift in shifts:
        if shift.level is not None:
            found.setdefault(shift.name, []).append(shift)
    return found


def _offset(shift: Shift) -> float:
    """How far a level is from the one that changes nothing, and on which side."""
    assert shift.level is not None
    return shift.level - kind_of(shift.name).neutral


def _file(model: tuple[str, int | str], shift: Shift) -> str:
    return str(Cell(*model, shift).path)


def _read(
    run: RunFolder, test: Images, model: tuple[str, int | str], shifts: Sequence[Shift]
) -> _Answers:
    files = [_file(model, shift) for shift in shifts]
    predicted = np.stack([run.read_column(file, "predicted") for file in files])
    confidence = np.stack([run.read_column(file, "confidence") for file in files])
    return _Answers(predicted != test.labels.numpy(), confidence)


def _places(chosen: Chosen, shifts: Sequence[Shift]) -> tuple[Place, ...]:
    pairs = zip(chosen.keys.tolist(), chosen.levels.tolist(), strict=True)
    return tuple(Place(key, shifts[level].id) for key, level in pairs)


def _as_json(groups: Mapping[str, Sequence[Place]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [place._asdict() for place in places] for name, places in groups.items()}


def _all_places(choice: Choice) -> Iterator[Place]:
    for groups in (choice.lost, *choice.mistakes.values()):
        for places in groups.values():
            yield from places


def _pictures(
    test: Images, shifts: Sequence[Shift], seed: int, wanted: Mapping[str, set[int]]
) -> bytes:
    """Shift what is wanted of each cell at full size, and only then make it small."""
    by_key = np.argsort(test.keys.numpy())
    sorted_keys = test.keys.numpy()[by_key]
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS.names}
    for shift in shifts:
        keys = np.array(sorted(wanted[shift.id]), dtype=np.int64)
        images = test[torch.from_numpy(by_key[np.searchsorted(sorted_keys, keys)])]
        columns["cell"] += [shift.id] * len(keys)
        columns["key"] += keys.tolist()
        columns["image"] += thumbnails(shift(images.images, images.keys, seed))
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table(columns, schema=COLUMNS), sink)
    return bytes(sink.getvalue().to_pybytes())


def _names(images: Images) -> list[str]:
    return [images.classes[label] for label in images.labels.tolist()]


def _with_mixture(pair: torch.Tensor) -> torch.Tensor:
    first, second = pair.float()
    mixture = torch.lerp(second, first, MIXUP_WEIGHT).round().to(torch.uint8)
    return torch.cat([pair, mixture[None]])


def _png(images: torch.Tensor) -> bytes:
    strip = images.permute(2, 0, 3, 1).flatten(1, 2).contiguous()  # [H, N * W, 3]
    buffer = io.BytesIO()
    Image.fromarray(strip.numpy()).save(buffer, "png")
    return buffer.getvalue()
