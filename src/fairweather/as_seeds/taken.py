"""The finished steps that a joined run copies from the given runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from fairweather.as_seeds.fitting import Part
from fairweather.record import StepRecord
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
from fairweather.runs import RunFolder, fingerprint, parquet_bytes, read_json
from fairweather.steps.plan import SampleStep

_WEIGHTS = ".safetensors"


class Taken(NamedTuple):
    """A step that was done in one of the runs.

    Attributes:
        step: its record.
        files: the files to copy: all that exist, except weights.
        read: gives the content of each of these.
    """

    step: StepRecord
    files: tuple[str, ...]
    read: Callable[[str], bytes]


def take_over(parts: Sequence[Part]) -> dict[str, Taken]:
    """The finished steps of the models in all runs, by id.

    A sweep, or a pre-training for all seeds, comes from the first run that has it.

    Raises `InputError` if a file has changed since its step wrote it.
    """
    found: dict[str, Taken] = {}
    for part in parts:
        for step in part.steps.values():
            if step.id not in found:
                found[step.id] = _taken(step, part.run)
    return found


def _taken(step: StepRecord, run: RunFolder) -> Taken:
    small = [name for name in step.files if not name.endswith(_WEIGHTS)]
    missing = run.check_files(small.__contains__)
    files = tuple(name for name in small if name not in missing)
    return Taken(step, files, lambda name: run.file(name).read_bytes())


# ---------------------------------------------------------------- pictures


class _Shown(NamedTuple):
    """The pictures of a run, and the models whose mistakes they show."""

    taken: Taken
    samples: Samples
    models: Sequence[str]
    mixup: object


def take_samples(planned: SampleStep, parts: Sequence[Part]) -> Taken | None:
    """The pictures for the first seed of every model; None if no run has any.

    If one run has the first seed of all models, its pictures are used unchanged. Otherwise pictures
    of several runs are put together. The images that all models get wrong are then unknown, since
    choosing them would need the test images.
    """
    found = list(_shown(planned, parts))
    for each in found:
        if set(each.models) == set(planned.models):
            return each.taken
    return _put_together(planned, found) if found else None


def _shown(planned: SampleStep, parts: Sequence[Part]) -> Iterator[_Shown]:
    wanted = planned.depends()["models"]
    assert isinstance(wanted, dict)
    for part in parts:
        step = part.run.step(planned.id)
        models = step.depends.get("models") if step else None
        if step is None or not isinstance(models, dict):
            continue
        taken = _taken(step, part.run)
        own = [name for name in wanted if models.get(name) == wanted[name]]
        if own and set(planned.leaves) <= set(taken.files):
            samples = read_samples(part.run)
            if samples is not None:
                yield _Shown(taken, samples, own, read_json(part.run.file(INDEX)).get("mixup"))


def _put_together(planned: SampleStep, found: Sequence[_Shown]) -> Taken:
    first = found[0]
    mistakes = {name: each.samples.mistakes.get(name, {}) for each in found for name in each.models}
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
        **{name: first.taken.read(name) for name in first.taken.files if name != ATTACKED},
        INDEX: (json.dumps(index, indent=1) + "\n").encode(),
        PICTURES: _pictures(planned, found),
        **_attacked(found),
    }
    made_of = {"joined": [each.taken.step.fingerprint for each in found]}
    step = first.taken.step.model_copy(
        update={
            "depends": {"models": planned.depends()["models"], **made_of},
            "fingerprint": fingerprint(made_of),
            "files": {name: hashlib.sha256(each).hexdigest() for name, each in content.items()},
        }
    )
    return Taken(step, tuple(content), content.__getitem__)


def _pictures(planned: SampleStep, found: Sequence[_Shown]) -> bytes:
    """The pictures of the strip and of the mistakes, sorted by shift and then by key."""
    every = {at: image for each in reversed(found) for at, image in each.samples.pictures.items()}
    strip = {(shift, key) for shift in planned.shifts for key in found[0].samples.strip}
    shown = {
        (image.cell, image.key)
        for each in found
        for name in each.models
        for images in each.samples.mistakes.get(name, {}).values()
        for image in images
    }
    order = {shift: place for place, shift in enumerate(planned.shifts)}
    kept = sorted((strip | shown) & every.keys(), key=lambda at: (order[at[0]], at[1]))
    return _as_parquet([(*at, every[at]) for at in kept], PICTURE_COLUMNS)


def _attacked(found: Sequence[_Shown]) -> dict[str, bytes]:
    """The file with what each model saw under attack; none where no run has such pictures."""
    strip = found[0].samples.strip
    kept = [
        (*at, image)
        for each in found
        for at, image in each.samples.attacked.items()
        if at[0] in each.models and at[2] in strip
    ]
    return {ATTACKED: _as_parquet(kept, ATTACKED_COLUMNS)} if kept else {}


def _as_parquet(rows: Sequence[Sequence[object]], schema: pa.Schema) -> bytes:
    columns = [[row[at] for row in rows] for at in range(len(schema))]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return parquet_bytes(pa.Table.from_arrays(arrays, schema=schema))
