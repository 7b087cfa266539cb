"""How each variant of a model is predicted: from stored logits, or by a changed model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from fairweather.cells import MOST_STORED_CLASSES, predict_logits
from fairweather.errors import InputError
from fairweather.measuring.predicting import (
    Model,
    Plan,
    cell_file,
    predict_part,
    validation_file,
)
from fairweather.measuring.setting import PRECISION, Setting, Subject
from fairweather.types import Attack, Cell, Dataset, Predictions
from fairweather.variants import (
    VARIANTS,
    adapt_batchnorm,
    even_batches,
    fit_temperature,
    predict_adapted,
    scale,
    variant_name,
)

# Raised when fitting or applying a variant makes something else of the same inputs.
VERSION = 1


def variant_phrase(setting: Setting, variant: str) -> str:
    """Say what a variant is; what adaptation does depends on how many images it sees together."""
    if variant != "batchnorm":
        return VARIANTS[variant]
    size = even_batches(len(setting.dataset.test), setting.batch_size)
    return f"{VARIANTS[variant]} ({size} images)"


def temperature_plan(setting: Setting, subject: Subject, model: Model) -> Plan:
    """The model's logits divided by what was fitted on the clean validation images.

    Under attack these are the images that were found against the model as it stands.
    """
    run, name = setting.run, variant_name(subject.name, "temperature")
    stored = len(setting.dataset.classes) <= MOST_STORED_CLASSES

    def inputs(part: str, cell: Cell) -> Mapping[str, Any]:
        fitted_on = run.checksum(validation_file(subject.name, subject.seed))
        of = run.checksum(cell_file(part, Cell(subject.name, subject.seed, cell.shift)))
        return {"version": VERSION, "validation": fitted_on, "of": of}

    def stream(part: str, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Predictions]]:
        temperature = _fit(setting, subject, model)
        if not stored or part in setting.others:
            yield from predict_part(setting, model(), part, cells, temperature)
            return
        for cell in cells:
            of = cell_file(part, Cell(subject.name, subject.seed, cell.shift))
            yield cell, scale(run.read_predictions(of), temperature)

    label = f"{subject.label} + {variant_phrase(setting, 'temperature')}"
    return Plan(name, subject.seed, label, inputs, stream)


def batchnorm_plan(setting: Setting, subject: Subject, model: Model) -> Plan:
    """The model with its batch norm adapted to each batch of test images."""
    name = variant_name(subject.name, "batchnorm")

    def inputs(part: str, cell: Cell) -> Mapping[str, Any]:
        plain = setting.inputs(subject.digest, setting.digests[part], cell.shift)
        return plain | {"variant": "batchnorm", "variant_version": VERSION}

    def stream(part: str, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Predictions]]:
        adapted = adapt_batchnorm(model())
        for cell in cells:
            assert not isinstance(cell.shift, Attack)
            yield (
                cell,
                predict_adapted(
                    adapted,
                    setting.images(part),
                    cell.shift,
                    batch_size=setting.batch_size,
                    device=setting.device,
                    precision=PRECISION,
                    seed=setting.shift_seed,
                ),
            )

    label = f"{subject.label} + {variant_phrase(setting, 'batchnorm')}"
    return Plan(name, subject.seed, label, inputs, stream)


PLANS: Mapping[str, Callable[[Setting, Subject, Model], Plan]] = {
    "temperature": temperature_plan,
    "batchnorm": batchnorm_plan,
}


def check_variants(variants: Sequence[str], dataset: Dataset, model: nn.Module) -> None:
    """Raise `InputError` for a variant that this model or these data cannot have."""
    if "temperature" in variants and dataset.val is None:
        raise InputError(
            f"temperature is fitted on validation images, and {dataset.name} has none: set some "
            "aside with validation_fraction, such as 0.2"
        )
    if "batchnorm" in variants:
        adapt_batchnorm(model)


def _fit(setting: Setting, subject: Subject, model: Model) -> float:
    """The fitted temperature, which stands in the run folder with what it did."""
    run, step = setting.run, f"variants/{variant_name(subject.name, 'temperature')}"
    step = f"{step}/seed-{subject.seed}/temperature"
    source = validation_file(subject.name, subject.seed)
    inputs = {"version": VERSION, "validation": run.checksum(source)}
    if not run.is_done(step, inputs):
        stored = run.read_predictions(source)
        logits = stored.logits
        if logits is None:
            logits = predict_logits(
                model(),
                setting.images("val"),
                batch_size=setting.batch_size,
                device=setting.device,
                precision=PRECISION,
            )
        fitted = fit_temperature(logits, stored.labels)
        run.write(f"{step}.json", json.dumps(fitted._asdict(), indent=1) + "\n")
        run.finish(step, inputs, [f"{step}.json"])
    return float(json.loads((run.path / f"{step}.json").read_text())["value"])
