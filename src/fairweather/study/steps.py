"""The wiring: a study's steps in order, each done once, whatever interrupts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fairweather import models
from fairweather.cells import predict
from fairweather.data import digest, load_data
from fairweather.devices import resolve_device
from fairweather.errors import InputError
from fairweather.measuring import (
    Event,
    Subject,
    describe_run,
    notify_loading,
    predict_subject,
    report_step,
    samples_step,
    score_run,
)
from fairweather.runs import open_run
from fairweather.study.context import Context
from fairweather.study.schema import Study
from fairweather.study.training_steps import model_spec, seed_title, trainings
from fairweather.types import Attack, Dataset, Images, Shift
from fairweather.variants import adapt_batchnorm


def execute(
    study: Study,
    out: Path,
    *,
    device: str = "auto",
    offline: bool = False,
    notify: Callable[[Event], None] | None = None,
) -> Iterator[Event]:
    """Do every step of a study that does not stand in the run folder yet, and report progress.

    `notify` is called with what happens within the first step, the loading of the data: downloads
    (in megabytes) and decoding.

    Raises `InputError` when data, models or the folder are not as the study says.
    """
    target = resolve_device(device)
    yield Event("load data", 0, 1)
    watch = notify and partial(notify_loading, notify)
    dataset = load_data(**study.data.model_dump(), offline=offline, progress=watch)
    parts = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    digests = {name: digest(part) for name, part in parts.items() if part is not None}
    _try_out(study, dataset, offline)
    yield Event("load data", 1, 1, f"{len(dataset.test)} test images")
    with open_run(out) as run:
        context = Context.of(study, run, dataset, digests, target, offline)
        if notify is not None:
            context = replace(context, when_halved=partial(_notify_halved, notify))
        titles = {name: entry.title for name, entry in study.models.items()}
        describe_run(context, study.model_dump(mode="json"), titles)
        for name, entry in study.models.items():
            yield from trainings(context, name, entry)
            for subject in subjects(context, name):
                yield from predict_subject(context, subject)
        tries = [each for entry in study.models.values() for each in entry.tries()]
        samples_step(context, mixup=any(each.recipe.mixup > 0 for each in tries))
        every = [each for name in study.models for each in subjects(context, name)]
        yield from score_run(context, every)
        yield from report_step(context, _training_files(context))


def _notify_halved(notify: Callable[[Event], None], size: int) -> None:
    notify(Event(f"memory ran out: batches of {size}", 1, 1))


def _try_out(study: Study, dataset: Dataset, offline: bool) -> None:
    """Build every model and shift one image every way: mistakes show before anything is written."""
    if dataset.train is None or dataset.val is None:
        missing = "training" if dataset.train is None else "validation"
        raise InputError(
            f"{dataset.name} has no {missing} images: training needs both, and test images choose "
            "nothing"
        )
    if len(dataset.classes) < 2:
        raise InputError(f"{dataset.name} has only the class {dataset.classes[0]!r}: needs two")
    image = dataset.test[:1]
    for shift in study.all_shifts():
        if isinstance(shift, Shift):
            shift(image.images, image.keys, study.shift_seed)
    specs: dict[models.ModelSpec, str] = {}
    for name, entry in study.models.items():
        specs.setdefault(model_spec(dataset, entry), name)
    for spec, name in specs.items():
        try:
            model = models.build(spec, offline=offline)
            models.head_of(model, spec.backbone)
            if "batchnorm" in study.variants:
                adapt_batchnorm(model)
            predicted = predict(model, image, device="cpu").predicted
            _try_attacks(study, model, image, predicted)
            pair = dataset.train[:2].images.float() / 255
            with torch.random.fork_rng(devices=[]):  # dropout draws
                logits = model.train()(pair)
            if not isinstance(logits, torch.Tensor):
                raise InputError(f"{spec.backbone} does not return plain logits while it trains")
        except InputError as error:
            raise InputError(f"models.{name}: {error}") from None
        # What a network does with images that it was not made for is its own: an assertion of a
        # transformer, an empty feature map of a deep stack of poolings.
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            height, width = image.images.shape[2:]
            raise InputError(
                f"models.{name}: {spec.backbone} cannot take images of {height}x{width} "
                f"({str(error).splitlines()[0]}); set input_size"
            ) from None


def _try_attacks(
    study: Study, model: torch.nn.Module, image: Images, predicted: np.ndarray
) -> None:
    """Ask every attack for an image that is wrong anyway: it checks all, and searches nothing."""
    wrong = torch.from_numpy((predicted + 1) % len(image.classes))
    for attack in study.all_shifts():
        if isinstance(attack, Attack):
            attack(model, image.images.float() / 255, wrong, image.keys, study.shift_seed)


def subjects(context: Context, name: str) -> list[Subject]:
    """A model of the study that has been trained, with every seed."""
    return [
        Subject(
            name=name,
            seed=seed,
            title=context.study.models[name].title,
            label=seed_title(context, name, seed),
            digest=context.run.checksum(f"models/{name}/seed-{seed}/model.safetensors"),
            load=partial(models.load_checkpoint, context.run.path / f"models/{name}/seed-{seed}"),
        )
        for seed in context.study.seeds
    ]


def _training_files(context: Context) -> list[str]:
    """What of the trainings the report draws on."""
    files = []
    for name, entry in context.study.models.items():
        for seed in context.study.seeds:
            folder = f"models/{name}/seed-{seed}"
            files += [f"{folder}/history.csv", f"{folder}/model.json"]
        files += [f"models/{name}/sweep.csv"] if entry.sweep else []
    return files
