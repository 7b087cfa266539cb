"""The common form of all requests, a trial of it on one image, and its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn

from fairweather.attacks.problem import needs_classes_error
from fairweather.attacks.table import ATTACKS, select_labels
from fairweather.data.corrupted import BENCHMARK, find_published_set
from fairweather.errors import InputError, join_names
from fairweather.metrics.robustness import ALEXNET, SEVERITIES
from fairweather.progress import Event, Notify, silent
from fairweather.runs.folder import StoredGroups
from fairweather.steps.measurement import (
    OOD_DATA,
    DataFacts,
    MeasuredModel,
    Measurement,
    Settings,
    plan_conclusion,
    plan_models,
)
from fairweather.steps.plan import (
    DATA,
    NATURAL_DATA,
    Plan,
    PlannedDataset,
    PlannedModel,
    Step,
    link_steps,
)
from fairweather.steps.sweeps import digest_published, pair_published
from fairweather.steps.worker import open_data
from fairweather.tasks import find_task
from fairweather.types.measurement import (
    AnyPredictions,
    Attack,
    Dataset,
    Images,
    ReaderCalls,
    Shift,
)
from fairweather.types.record import NATURAL, ModelRecord


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """The trainings of a study, before it measures."""

    steps: tuple[Step, ...] = ()
    """Pre-trainings and trainings, each after those that it needs."""

    reports: tuple[str, ...] = ()
    """The files of these steps that the report reads."""

    mixup: bool = False
    """Whether MixUp is used; then the samples show an example."""

    pretraining: Mapping[str, ModelRecord] = field(default_factory=dict)
    """The record of each pre-training."""

    seen_shifts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The test shifts that each model is trained with, and what makes them."""

    precision: str | None = None
    """Of the trainings, as given."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run measures: the form that studies, evaluations and joined seeds all become."""

    kind: Literal["study", "evaluation"]
    name: str
    title: str
    description: str = ""
    """`kind`, `name`, `title`, `description`: of the run."""

    sources: Mapping[str, PlannedDataset]
    """How each data set is loaded, by its name in the plan."""

    facts: Mapping[str, DataFacts]
    """What is known of each data set, by the same name. If predictions came with labels and without
    images, `data` has facts and no source."""

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    """The data sets that are open; empty if the run is only planned."""

    models: Sequence[MeasuredModel]
    """In the order of the request; an ensemble comes after its members."""

    records: Mapping[str, ModelRecord]
    """The record of each model, by name."""

    seeds: tuple[int, ...]
    """Of all models."""

    settings: Settings
    """How everything is measured."""

    trainings: Trainings = field(default_factory=Trainings)
    """The trainings before the measurements."""

    networks: Sequence[tuple[PlannedModel, nn.Module]] = ()
    """For each model from elsewhere, how other processes open it, and its open network, which
    returns logits."""

    read_predictions: Callable[[str], AnyPredictions] | None = None
    """Reads predictions of other programs, by the name of the file in the run."""

    groups: Mapping[str, StoredGroups] = field(default_factory=dict)
    """What belongs together in such predictions without images, by split."""

    readers: ReaderCalls | None = None
    """What people call each test image; None if nobody was asked."""

    pictured: tuple[Shift, ...] | None = None
    """The shifts whose images the report shows; None for all."""

    lines: Sequence[str] = ()
    """Facts about the inputs for people, one per line."""

    advice: str = ""
    """What to check if a model is no better than chance. If it is empty, the accuracy on clean
    images is not reported."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Texts of further files of the run folder, by name."""


def make_measurement(inputs: Inputs) -> Measurement:
    """Combine the data and settings that all models are measured with."""
    facts, settings = inputs.facts, inputs.settings
    data = facts[DATA]
    return Measurement(
        **vars(settings),
        data=replace(data, ordered=data.ordered or settings.ordered),
        others=_select_facts(OOD_DATA, facts),
        natural=_select_facts(NATURAL_DATA, facts, NATURAL),
        reports=inputs.trainings.reports,
        mixup=inputs.trainings.mixup,
        pictured=inputs.pictured,
        readers=inputs.readers,
    )


def _select_facts(
    prefix: str, facts: Mapping[str, DataFacts], new_prefix: str = ""
) -> dict[str, DataFacts]:
    """The data sets whose names in the plan have a prefix, which is replaced."""
    selected = {name: fact for name, fact in facts.items() if name.startswith(prefix)}
    return {f"{new_prefix}{name.removeprefix(prefix)}": fact for name, fact in selected.items()}


def make_plan(inputs: Inputs) -> Plan:
    """Plan all steps of a run: trainings, predictions, scores and report."""
    measurement = make_measurement(inputs)
    sources = {
        name: replace(source, digests=dict(inputs.facts[name].digests))
        for name, source in inputs.sources.items()
    }
    steps = [
        *inputs.trainings.steps,
        *plan_models(measurement, inputs.models),
        *plan_conclusion(measurement, inputs.models),
    ]
    published = {
        shift.id: shift.files.source
        for shift in (*measurement.shifts, *measurement.fit_on)
        if isinstance(shift, Shift) and shift.files is not None
    }
    return link_steps(sources, [planned for planned, _ in inputs.networks], steps, published)


def model_label(title: str, seed: int, seeds: Sequence[int]) -> str:
    """The name of a model in messages: its title, with the seed if there are several."""
    return f"{title}, seed {seed}" if len(seeds) > 1 else title


def open_datasets(
    sources: Mapping[str, PlannedDataset], *, offline: bool, progress: Notify | None
) -> dict[str, Dataset]:
    """Load data sets, by their names in the plan."""
    return {
        name: open_data(source, offline=offline, progress=progress)
        for name, source in sources.items()
    }


# ---------------------------------------------------------------- trial on one image


def try_settings(dataset: Dataset, settings: Settings, purpose: str) -> None:
    """Raise `InputError` for classes, variants or shifts that would fail later with any model.

    Args:
        dataset: the data set that is measured on.
        settings: how it is measured.
        purpose: what needs two classes, for the message.
    """
    if len(dataset.classes) < find_task(dataset.task).least_classes:
        raise InputError(
            f"{dataset.name} has only the class {dataset.classes[0]!r}: {purpose} needs at least "
            "two"
        )
    for attack in settings.shifts:
        if isinstance(attack, Attack):
            if not set(ATTACKS[attack.name].accepts) & set(find_task(dataset.task).kinds):
                raise needs_classes_error(attack.name)
            select_labels(attack, dataset.test[:1])  # raises for an unknown finding
    image = dataset.test[:1]
    try_shifts([*settings.shifts, *settings.fit_on], image, settings.shift_seed)


def try_shifts(shifts: Sequence[Shift | Attack], image: Images, seed: int) -> None:
    """Apply every shift to one image; raises `InputError` for the first that does not work.

    Published files have been tried by `pair_published_files`.
    """
    for shift in shifts:
        if isinstance(shift, Shift) and shift.files is None:
            shift(image.images, image.keys, seed)


def note_streams(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """Note what must be known of the streams of networks that adapt, one per line."""
    for variant in settings.variants:
        if variant.adapting is variant and (
            remark := variant.remark(len(dataset.test), settings.batch_size)
        ):
            yield f"note           {variant.title}: {remark}"


def describe_published_files(settings: Settings, dataset: Dataset) -> Iterator[str]:
    """Say which published files are measured, and which are missing, one fact per line."""
    cells: dict[str, list[Shift]] = {}
    for shift in settings.shifts:
        if isinstance(shift, Shift) and shift.files is not None:
            cells.setdefault(shift.name.partition("/")[0], []).append(shift)
    for family, shifts in cells.items():
        facts = find_published_set(family)
        assert facts is not None, "its name is that of a set"
        levels: dict[str, set[float | None]] = {}
        for shift in shifts:
            levels.setdefault(shift.name.partition("/")[2], set()).add(shift.level)
        of_all = "" if facts.images is None else f" of {facts.images:,}"
        measured, kinds = (
            f"{number} {noun}{'s' * (number != 1)}"
            for number, noun in ((len(shifts), "cell"), (len(levels), "corruption"))
        )
        yield (
            f"published      {facts.title}: {measured} of {kinds}, "
            f"{len(dataset.test):,}{of_all} images each"
        )
        if partial := [name for name, present in levels.items() if len(present) < SEVERITIES]:
            names = join_names(partial)
            yield f"note           {facts.title}: not all severities of {names} are measured"
        if family == BENCHMARK and (
            missing := [name for name in ALEXNET if len(levels.get(name, ())) < SEVERITIES]
        ):
            yield f"note           no mCE: not all severities of {join_names(missing)} are measured"


def pair_published_files(settings: Settings, dataset: Dataset, tell: Notify = silent) -> Settings:
    """Pair the published files among the shifts with the clean images of a data set.

    Raises `InputError` if files are missing, or differ from the clean images in labels or size.
    """
    count = len(digest_published(settings.shifts))

    def report(done: int) -> None:
        tell(Event("pair published files", done, count))

    shifts = tuple(pair_published(settings.shifts, dataset.test, report))
    fit_on = settings.fit_on
    if dataset.val is not None:
        fit_on = tuple(pair_published(fit_on, dataset.val))
    return replace(settings, shifts=shifts, fit_on=fit_on)


def try_model(model: nn.Module, settings: Settings, dataset: Dataset) -> None:
    """Try the variants and attacks on a model; raises `InputError` for one that does not work.

    The labels for the attacks are those that the model does not predict: an attack on a wrong
    answer checks its settings and does not search.
    """
    image = dataset.test[:1]
    pixels = image.images.float() / 255
    for variant in settings.variants:
        variant.check_network(model, pixels)
        if (adapting := variant.adapting) is not None:
            if adapting.takes_steps and settings.arithmetic.precision == "fp16":
                raise InputError(
                    f"precision fp16 rounds gradients of {variant.kind} to 0: use bf16 or fp32"
                )
            for part in filter(None, (dataset.val, dataset.test)):
                adapting.count_batches(len(part), settings.batch_size, model)
    attacks = [shift for shift in settings.shifts if isinstance(shift, Attack)]
    if not attacks:
        return
    with torch.no_grad():
        logits = model(pixels)
    if image.labels.ndim == 1:
        wrong_labels = (logits.argmax(1) + 1) % len(image.classes)
    else:
        wrong_labels = (logits < 0).long()
    for attack in attacks:
        attack(model, pixels, wrong_labels, image.keys, settings.shift_seed)
    # All other attacks need gradients, and a model may refuse to give them.
    if any(attack.name != "square" for attack in attacks):
        model(pixels.requires_grad_())
