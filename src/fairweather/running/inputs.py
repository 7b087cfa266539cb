"""What a run measures, whatever asked for it, and the measurement and the plan of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import nn

from fairweather.devices import FP32, Arithmetic
from fairweather.progress import Notify
from fairweather.record import NATURAL, ModelRecord
from fairweather.running.classes import OfClasses
from fairweather.steps import Plan, Step, in_order
from fairweather.steps.measuring import (
    OOD_DATA,
    DataFacts,
    Measured,
    Measurement,
    conclude,
    predict_models,
)
from fairweather.steps.plan import DATA, NATURAL_DATA, DataSource, ModelSource
from fairweather.steps.worker import open_data
from fairweather.types import AnyPredictions, Attack, Dataset, Shift
from fairweather.variants import Variant


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How everything is measured.

    Attributes:
        shifts: clean first, then every shift and attack at every level.
        fit_on: the shifts of the validation images that some variants are fitted on.
        threads, device: of every step.
        arithmetic: how networks are computed.
        classes: what is asked of the classes of the data.
    """

    shifts: tuple[Shift | Attack, ...]
    threads: int
    device: torch.device
    variants: tuple[Variant, ...] = ()
    fit_on: tuple[Shift, ...] = ()
    shift_seed: int = 0
    batch_size: int = 256
    arithmetic: Arithmetic = FP32
    bootstrap: int = 1000
    classes: OfClasses = field(default_factory=OfClasses)


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """What a study does before it measures.

    Attributes:
        steps: pre-trainings and trainings, each after those that it needs.
        reports: the files of them that the report reads.
        mixup: whether MixUp is used; then the samples show an example.
        pretraining: the record of each pre-training.
        seen_shifts: the test shifts that each model is trained with, and what makes them.
        precision: of the trainings, as given.
    """

    steps: tuple[Step, ...] = ()
    reports: tuple[str, ...] = ()
    mixup: bool = False
    pretraining: Mapping[str, ModelRecord] = field(default_factory=dict)
    seen_shifts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    precision: str | None = None


class OpenModel(NamedTuple):
    """A model from elsewhere: how a process opens it, and its network, which gives logits."""

    source: ModelSource
    network: nn.Module


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run measures, whatever asked for it.

    Attributes:
        kind, name, title, description: of the run.
        sources: how each data set is loaded, by its name in the plan.
        facts: of the same data sets; `data` is there without a source where predictions came with
            their labels.
        datasets: those that are open; none if the run is only planned.
        models: in the order of the request; an ensemble comes after its members.
        described: the record of each model, by name.
        seeds: of all models.
        trainings: what is done first.
        opened: the models from elsewhere.
        given: reads predictions that were made elsewhere, by the file that they are stored in.
        pictured: as in `Measurement`.
        lines: what a person reads about them, one fact a line.
        advice: what is probably wrong where a model is no better than chance; without one, the
            accuracy on clean images is not told.
        files: further files of the run folder.
    """

    kind: Literal["study", "evaluation"]
    name: str
    title: str
    description: str = ""
    sources: Mapping[str, DataSource]
    facts: Mapping[str, DataFacts]
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    models: Sequence[Measured]
    described: Mapping[str, ModelRecord]
    seeds: tuple[int, ...]
    settings: Settings
    trainings: Trainings = field(default_factory=Trainings)
    opened: Sequence[OpenModel] = ()
    given: Callable[[str], AnyPredictions] | None = None
    pictured: tuple[Shift, ...] | None = None
    lines: Sequence[str] = ()
    advice: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def measurement_of(inputs: Inputs) -> Measurement:
    """What all models are measured on, and how."""
    settings, facts, trainings = inputs.settings, inputs.facts, inputs.trainings
    own, classes = facts[DATA], settings.classes
    return Measurement(
        data=replace(own, ordered=own.ordered or classes.ordered),
        shifts=settings.shifts,
        threads=settings.threads,
        device=settings.device.type,
        shift_seed=settings.shift_seed,
        batch_size=settings.batch_size,
        arithmetic=settings.arithmetic,
        bootstrap=settings.bootstrap,
        variants=settings.variants,
        others=_beginning(OOD_DATA, facts),
        natural=_beginning(NATURAL_DATA, facts, NATURAL),
        priors=classes.priors,
        operating_points=classes.operating_points,
        fit_on=settings.fit_on,
        reports=trainings.reports,
        mixup=trainings.mixup,
        pictured=inputs.pictured,
    )


def _beginning(
    prefix: str, facts: Mapping[str, DataFacts], instead: str = ""
) -> dict[str, DataFacts]:
    """The data sets whose names in the plan begin so, with something else instead of the prefix."""
    found = {name: each for name, each in facts.items() if name.startswith(prefix)}
    return {f"{instead}{name.removeprefix(prefix)}": each for name, each in found.items()}


def plan_of(inputs: Inputs) -> Plan:
    """Plan everything: trainings, predictions, and what is made of these."""
    measurement = measurement_of(inputs)
    sources = {
        name: replace(source, digests=dict(inputs.facts[name].digests))
        for name, source in inputs.sources.items()
    }
    steps = [
        *inputs.trainings.steps,
        *predict_models(measurement, inputs.models),
        *conclude(measurement, inputs.models),
    ]
    return in_order(sources, [each.source for each in inputs.opened], steps)


def label_of(title: str, seed: int, seeds: Sequence[int]) -> str:
    """What a model is called in messages: its title, with the seed if there are several."""
    return f"{title}, seed {seed}" if len(seeds) > 1 else title


def open_all(
    sources: Mapping[str, DataSource], *, offline: bool, progress: Notify | None
) -> dict[str, Dataset]:
    """Load data sets, by their names in the plan."""
    return {
        name: open_data(source, offline=offline, progress=progress)
        for name, source in sources.items()
    }
