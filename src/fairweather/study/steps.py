"""The wiring: a study's steps in order, each done once, whatever interrupts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from fairweather.data import digest, load_data
from fairweather.devices import resolve_device
from fairweather.measuring import (
    describe_run,
    predict_subject,
    report_step,
    samples_step,
    score_run,
)
from fairweather.progress import Event, Notify
from fairweather.runs import open_run
from fairweather.study.context import Context, PretrainingImages
from fairweather.study.entries import DataEntry
from fairweather.study.model_steps import trainings
from fairweather.study.pretraining_steps import pretraining_files, pretrainings
from fairweather.study.schema import Study
from fairweather.study.subjects import extra_titles, subjects
from fairweather.study.trying_out import try_out
from fairweather.types import Dataset


def execute(
    study: Study,
    out: Path,
    *,
    device: str = "auto",
    offline: bool = False,
    progress: Notify | None = None,
) -> Iterator[Event]:
    """Do every step of a study that does not stand in the run folder yet, and report progress.

    `progress` is called with what happens within the first step, the loading of the data: downloads
    (in megabytes) and decoding.

    Raises `InputError` when data, models or the folder are not as the study says.
    """
    target = resolve_device(device)
    yield Event("load data", 0, 1)

    def load(entry: DataEntry) -> Dataset:
        return load_data(**entry.model_dump(), offline=offline, progress=progress)

    dataset = load(study.data)
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    digests = {name: digest(part) for name, part in parts.items() if part is not None}
    starts = _pretraining_images(study, dataset, digests, load)
    try_out(study, dataset, {name: start.dataset for name, start in starts.items()}, offline)
    yield Event("load data", 1, 1, f"{len(dataset.test)} test images")
    with open_run(out) as run:
        context = Context.of(study, run, dataset, digests, target, offline, starts)
        if progress is not None:
            context = replace(context, when_halved=partial(_notify_halved, progress))
        _describe(context)
        yield from pretrainings(context)
        for name, entry in study.models.items():
            yield from trainings(context, name, entry)
            for subject in subjects(context, name):
                yield from predict_subject(context, subject)
        tries = [each for entry in study.models.values() for each in entry.tries()]
        every = [each for name in study.models for each in subjects(context, name)]
        samples_step(context, every, mixup=any(each.recipe.mixup > 0 for each in tries))
        yield from score_run(context, every)
        yield from report_step(context, _training_files(context))


def _pretraining_images(
    study: Study,
    dataset: Dataset,
    digests: Mapping[str, str],
    load: Callable[[DataEntry], Dataset],
) -> dict[str, PretrainingImages]:
    """The images of each pre-training, by its name: the study's own, or others that are loaded."""
    found = {}
    for name, start in study.pretraining.items():
        if start.data is None:
            found[name] = PretrainingImages(dataset, digests.get("train", ""))
        else:
            other = load(start.data)
            own = digest(other.train) if other.train is not None else ""
            found[name] = PretrainingImages(other, own)
    return found


def _describe(context: Context) -> None:
    study = context.study
    titles = {name: entry.title for name, entry in study.models.items()}
    more: dict[str, object] = {}
    if seen := study.seen_shifts():
        more["seen_shifts"] = seen
    if study.ensemble:
        more["ensembles"] = len(study.seeds)
    describe_run(context, study.model_dump(mode="json"), titles, more, extra_titles(context))


def _notify_halved(progress: Notify, size: int) -> None:
    progress(Event(f"memory ran out: batches of {size}", 1, 1))


def _training_files(context: Context) -> list[str]:
    """What of the trainings the report draws on."""
    files = pretraining_files(context)
    for name, entry in context.study.models.items():
        for seed in context.study.seeds:
            folder = f"models/{name}/seed-{seed}"
            files += [f"{folder}/history.csv", f"{folder}/model.json"]
        files += [f"models/{name}/sweep.csv"] if entry.sweep else []
    return files
