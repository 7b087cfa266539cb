"""The runs to join as seeds: whether they fit together, and the steps to copy."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.report.samples import (
    ATTACKED,
    ATTACKED_COLUMNS,
    INDEX,
    INDEX_VERSION,
    PICTURE_COLUMNS,
    PICTURES,
    Samples,
    read_samples,
)
from fairweather.runs.folder import RunFolder, fingerprint, open_finished_run, read_json, to_parquet
from fairweather.steps.ledger import find_difference
from fairweather.steps.plan import SampleStep
from fairweather.types.operating_points import list_points
from fairweather.types.record import (
    GROUPS,
    TEST,
    TRAIN,
    VAL,
    WEIGHTS,
    RunRecord,
    StepRecord,
    base_model,
    chosen_recipe,
    is_part_of,
)

# ---------------------------------------------------------------- do the runs fit together

# The settings of a step that may differ between machines; the page of a run names the machines.
MACHINE_SETTINGS = ("device", "threads")


@dataclass(frozen=True)
class SeedsPart:
    """One of the runs that are joined."""

    name: str
    """Its folder, as it was given."""

    run: RunFolder
    """The folder."""

    record: RunRecord
    """The record of the run, or of the part that is used."""

    @cached_property
    def steps(self) -> Mapping[str, StepRecord]:
        """The steps of single seeds, by id: no ensembles, scores, samples and report."""
        described = self.record.model_copy(update={"ensemble": False})
        return {
            step.id: step
            for step in self.run.steps()
            if step.kind not in ("score", "sample", "report") and is_part_of(described, step)
        }

    @property
    def files(self) -> set[str]:
        """The files that these steps left."""
        return {name for step in self.steps.values() for name in step.files}


def open_part(path: str | Path) -> SeedsPart:
    """Open a run whose seeds will be joined with those of others.

    Raises `InputError` if there is no run, or one without training.
    """
    run = open_finished_run(Path(path))
    if run.record.kind != "study":
        raise InputError(
            f"{path} is an evaluation, and only runs of a study are joined: evaluate all seeds in "
            "one run, as fw.evaluate({'NAME-seed0': ..., 'NAME-seed1': ...}, DATA) or "
            "fairweather evaluate NAME-seed0=... DATA --model NAME-seed1=..."
        )
    return SeedsPart(str(path), run, run.record)


def check_parts(parts: Sequence[SeedsPart]) -> dict[tuple[str, int], SeedsPart]:
    """Say which of the runs has each model with each seed.

    Raises `InputError` with the first difference in data, shifts, settings, versions or recipes. It
    also does so if two runs contain the same seed of a model, or a model lacks a seed.
    """
    _check_shared_values(parts)
    holders: dict[tuple[str, int], SeedsPart] = {}
    for part in parts:
        for model, seed in itertools.product(part.record.models, part.record.seeds):
            if (first := holders.setdefault((model, seed), part)) is not part:
                raise InputError(
                    f"seed {seed} of {model} is in both {first.name} and {part.name}: leave one of "
                    "the two runs out"
                )
    _check_recipes(parts)
    models = list(dict.fromkeys(model for model, _ in holders))
    seeds = sorted({seed for _, seed in holders})
    missing = [pair for pair in itertools.product(models, seeds) if pair not in holders]
    if missing:
        model, seed = missing[0]
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise InputError(
            f"the runs have the models {', '.join(models)} and the seeds "
            f"{', '.join(map(str, seeds))}, but none has seed {seed} of {model}{more}; add the run "
            "that has it, or join the runs of each model separately"
        )
    return holders


# ---------------------------------------------------------------- what all runs share


def _check_shared_values(parts: Sequence[SeedsPart]) -> None:
    expected: dict[str, tuple[SeedsPart, JsonValue]] = {}
    for part in parts:
        for item, value in _shared_values(part):
            first, earlier = expected.setdefault(item, (part, value))
            if value != earlier:
                raise _difference_error(item, (first, earlier), (part, value))
    for part in parts[1:]:
        for first, second in ((parts[0], part), (part, parts[0])):
            others = {cell.id for cell in second.record.cells()}
            if missing := [cell.id for cell in first.record.cells() if cell.id not in others]:
                raise InputError(
                    f"{first.name} and {second.name} cannot be joined: {missing[0]} is tested in "
                    f"{first.name} and not in {second.name}"
                )


def _shared_values(part: SeedsPart) -> Iterator[tuple[str, JsonValue]]:
    """The values that must be equal in all runs, with their names."""
    record, settings, every = part.record, part.record.settings, part.steps.values()
    yield "task", record.data.task
    yield "classes", list(record.data.classes)
    for name, words in ((TEST, "test"), (VAL, "validation"), (TRAIN, "training")):
        yield f"digest of the {words} images", record.data.digests.get(name)
    yield "shift_seed", settings.shift_seed
    yield "bootstrap", settings.bootstrap
    yield "batch_size", settings.batch_size
    yield "precision of predictions", settings.precision
    yield "cudnn_benchmark", settings.cudnn_benchmark
    yield "compile", settings.compile
    yield "variants", list(settings.variants)
    yield "fit_on", list(settings.fit_on)
    points = settings.operating_points
    yield "operating_points", {name: list(list_points(points, name)) for name in points}
    yield "costs", {name: list(costs) for name, costs in settings.costs.items()}
    yield "sites", list(settings.sites)
    yield "ordered_classes", record.data.ordered
    yield "unit", settings.unit
    yield "aggregate", list(settings.aggregates)
    grouped = part.steps.get(GROUPS)
    yield "groups of images", grouped.depends.get("digests") if grouped else None
    read = part.steps.get("readers")
    yield "calls of readers", read.depends.get("digest") if read else None
    libraries = [record.provenance.versions, *(s.depends.get("libraries") for s in every)]
    for versions in libraries:
        for name, version in versions.items() if isinstance(versions, dict) else ():
            # A plus sign precedes the kind of machine that it was built for: 2.6.0+cpu.
            yield f"version of {name}", str(version).partition("+")[0]
    for step in every:
        yield f"version of the steps that {step.kind}", step.depends.get("version")


# ---------------------------------------------------------------- recipes


def _check_recipes(parts: Sequence[SeedsPart]) -> None:
    """Compare each model and each pre-training with those of the first run that has them."""
    for kind, check in (("models", _check_chosen), ("pretraining", _check_shared_pretraining)):
        holders: dict[str, SeedsPart] = {}
        for part in parts:
            for name in getattr(part.record, kind):
                if (first := holders.setdefault(name, part)) is not part:
                    _check_same_settings(name, first, part)
                    check(name, first, part)


def _check_chosen(name: str, first: SeedsPart, second: SeedsPart) -> None:
    """Raise `InputError` unless two runs have one model with the same variants and sweep."""
    kinds = [[v for v in part.record.variants if base_model(v) == name] for part in (first, second)]
    if kinds[0] != kinds[1]:
        item = f"the list of variants of {name}"
        raise _difference_error(item, (first, kinds[0]), (second, kinds[1]))
    recipe = chosen_recipe(name)
    if recipe in first.files | second.files:
        for part in (first, second):
            if not part.run.holds(recipe):
                raise InputError(f"{part.name} has no {recipe}: let the run finish first")
        recipes = [
            json.loads(part.run.file(recipe).read_text(encoding="utf-8"))
            for part in (first, second)
        ]
        if difference := find_difference(*recipes):
            item = f"{difference.key} chosen by the sweep of {name}"
            raise _difference_error(item, (first, difference.first), (second, difference.second))


def _check_same_settings(name: str, first: SeedsPart, second: SeedsPart) -> None:
    """Raise `InputError` unless the steps of two runs had the same settings, except for seeds."""
    ours, theirs = _seedless_settings(name, first), _seedless_settings(name, second)
    for step in ours:
        if step in theirs and (difference := find_difference(ours[step], theirs[step])):
            what = f"{difference.key} of {name}"
            raise _difference_error(what, (first, difference.first), (second, difference.second))


def _seedless_settings(name: str, part: SeedsPart) -> dict[str, dict[str, JsonValue]]:
    """The settings of the steps of a model or a pre-training, for the first seed."""
    seedless_settings: dict[str, dict[str, JsonValue]] = {}
    for step in part.steps.values():
        folders = step.id.split("/")
        if step.kind in ("group", "read") or base_model(folders[1]) != name:
            continue
        # A model may have a name like that of a seed.
        seedless = ["seed" if folder.startswith("seed-") else folder for folder in folders[2:]]
        place = "/".join([*folders[:2], *seedless])
        # Versions of libraries are compared separately.
        seeds = ["stream_seed", *(["seed"] if step.kind != "predict" else [])]
        left_out = {*MACHINE_SETTINGS, "libraries", *seeds}
        settings = {key: value for key, value in step.depends.items() if key not in left_out}
        network = settings.get("network")
        if isinstance(network, dict):  # its folder names the seed
            settings["network"] = {key: value for key, value in network.items() if key != "folder"}
        seedless_settings.setdefault(place, settings)
    return seedless_settings


def _check_shared_pretraining(name: str, first: SeedsPart, second: SeedsPart) -> None:
    """Raise `InputError` if a pre-training for all seeds has other weights in the two runs."""
    for step in first.steps.values():
        twin = second.steps.get(step.id)
        if step.kind != "pretrain" or step.id.split("/")[1] != name or twin is None:
            continue
        weights = f"{step.id}/{WEIGHTS}"
        if step.files.get(weights) != twin.files.get(weights):
            raise InputError(
                f"{first.name} and {second.name} cannot be joined: {step.id} is one pre-training "
                "for all seeds, but its weights differ between the two runs; start both from the "
                "same file, or leave out its seed, so that each seed has its own pre-training"
            )


def _difference_error(
    item: str, first_value: tuple[SeedsPart, object], second_value: tuple[SeedsPart, object]
) -> InputError:
    (first, ours), (second, theirs) = first_value, second_value
    return InputError(
        f"{first.name} and {second.name} cannot be joined: {item} is {_shorten(ours)} in "
        f"{first.name} and {_shorten(theirs)} in {second.name}"
    )


def _shorten(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text or "nothing"
    return text if len(text) <= 60 else f"{text[:12]}..."


# ---------------------------------------------------------------- steps to copy

_WEIGHTS_SUFFIX = ".safetensors"


class CopiedStep(NamedTuple):
    """A step that was done in one of the runs."""

    step: StepRecord
    """Its record."""

    files: tuple[str, ...]
    """The files to copy: all that exist, except weights."""

    read: Callable[[str], bytes]
    """Returns the content of each of these."""


def collect_steps(parts: Sequence[SeedsPart]) -> dict[str, CopiedStep]:
    """The finished steps of the models in all runs, by id.

    A sweep, or a pre-training for all seeds, comes from the first run that has it.

    Raises `InputError` if a file has changed since its step wrote it.
    """
    copies: dict[str, CopiedStep] = {}
    for part in parts:
        for step in part.steps.values():
            if step.id not in copies:
                copies[step.id] = _copy_of_step(step, part.run)
    return copies


def _copy_of_step(step: StepRecord, run: RunFolder) -> CopiedStep:
    small = [name for name in step.files if not name.endswith(_WEIGHTS_SUFFIX)]
    missing = run.check_files(small.__contains__)
    files = tuple(name for name in small if name not in missing)
    return CopiedStep(step, files, lambda name: run.file(name).read_bytes())


# ---------------------------------------------------------------- pictures


class _PartPictures(NamedTuple):
    """The pictures of a run, and the models whose mistakes they show."""

    copy: CopiedStep
    samples: Samples
    models: Sequence[str]
    mixup: object


def collect_samples(planned: SampleStep, parts: Sequence[SeedsPart]) -> CopiedStep | None:
    """The pictures for the first seed of every model; None if no run has any.

    If one run has the first seed of all models, its pictures are used unchanged. Otherwise pictures
    of several runs are put together. The images that all models get wrong are then unknown, since
    choosing them would need the test images.
    """
    shown = list(_list_pictures(planned, parts))
    for pictures in shown:
        if set(pictures.models) == set(planned.models):
            return pictures.copy
    return _combine_pictures(planned, shown) if shown else None


def _list_pictures(planned: SampleStep, parts: Sequence[SeedsPart]) -> Iterator[_PartPictures]:
    wanted = planned.depends()["models"]
    assert isinstance(wanted, dict)
    for part in parts:
        step = part.run.step(planned.id)
        models = step.depends.get("models") if step else None
        if step is None or not isinstance(models, dict):
            continue
        copy = _copy_of_step(step, part.run)
        drawn = [name for name in wanted if models.get(name) == wanted[name]]
        if drawn and set(planned.leaves) <= set(copy.files):
            samples = read_samples(part.run)
            if samples is not None:
                yield _PartPictures(
                    copy, samples, drawn, read_json(part.run.file(INDEX)).get("mixup")
                )


def _combine_pictures(planned: SampleStep, parts: Sequence[_PartPictures]) -> CopiedStep:
    first = parts[0]
    mistakes = {
        name: pictures.samples.mistakes.get(name, {})
        for pictures in parts
        for name in pictures.models
    }
    index = {
        "version": INDEX_VERSION,
        "labels": first.samples.labels,
        "strip": first.samples.strip,
        "lost": None,
        "mistakes": {
            name: {
                shift: [image._asdict() for image in images]
                for shift, images in mistakes[name].items()
            }
            for name in planned.models
            if name in mistakes
        },
        **({"mixup": first.mixup} if first.mixup else {}),
    }
    content = {
        **{name: first.copy.read(name) for name in first.copy.files if name != ATTACKED},
        INDEX: (json.dumps(index, indent=1) + "\n").encode(),
        PICTURES: _encode_pictures(planned, parts),
        **_encode_attacked(parts),
    }
    made_of = {"joined": [pictures.copy.step.fingerprint for pictures in parts]}
    step = first.copy.step.model_copy(
        update={
            "depends": {"models": planned.depends()["models"], **made_of},
            "fingerprint": fingerprint(made_of),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        }
    )
    return CopiedStep(step, tuple(content), content.__getitem__)


def _encode_pictures(planned: SampleStep, parts: Sequence[_PartPictures]) -> bytes:
    """The pictures of the strip and of the mistakes, sorted by shift and then by key."""
    every = {
        at: image for pictures in reversed(parts) for at, image in pictures.samples.pictures.items()
    }
    strip = {(shift, key) for shift in planned.shifts for key in parts[0].samples.strip}
    shown = {
        (image.cell, image.key)
        for pictures in parts
        for name in pictures.models
        for images in pictures.samples.mistakes.get(name, {}).values()
        for image in images
    }
    order = {shift: place for place, shift in enumerate(planned.shifts)}
    places = sorted((strip | shown) & every.keys(), key=lambda at: (order[at[0]], at[1]))
    return _encode_parquet([(*at, every[at]) for at in places], PICTURE_COLUMNS)


def _encode_attacked(parts: Sequence[_PartPictures]) -> dict[str, bytes]:
    """Combine the files with attacked pictures of each model; none if no run has such pictures."""
    strip = parts[0].samples.strip
    rows = [
        (*at, image)
        for pictures in parts
        for at, image in pictures.samples.attacked.items()
        if at[0] in pictures.models and at[2] in strip
    ]
    return {ATTACKED: _encode_parquet(rows, ATTACKED_COLUMNS)} if rows else {}


def _encode_parquet(rows: Sequence[Sequence[object]], schema: pa.Schema) -> bytes:
    named = [dict(zip(schema.names, row, strict=True)) for row in rows]
    return to_parquet(pa.Table.from_pylist(named, schema=schema))
