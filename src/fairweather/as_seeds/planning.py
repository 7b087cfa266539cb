"""The joined run: its record, the steps to copy, and the plan of the remaining steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import torch

from fairweather.as_seeds.fitting import Part
from fairweather.as_seeds.taken import Taken, take_over, take_samples
from fairweather.errors import InputError
from fairweather.record import (
    GROUPS,
    NATURAL,
    TEST,
    DataRecord,
    Provenance,
    RunRecord,
    base_model,
    model_folder,
    place_of,
)
from fairweather.runs import command_line
from fairweather.shifts import CLEAN
from fairweather.steps import Plan, Step
from fairweather.steps.measuring import DataFacts, Measured, Measurement, conclude
from fairweather.steps.plan import SampleStep, Trained
from fairweather.steps.predicting import shift_of
from fairweather.types import Shift
from fairweather.variants import read_variants, variant_of

Value = TypeVar("Value")


def describe(parts: Sequence[Part]) -> RunRecord:
    """Make the record of the joined run; texts such as titles are those of the first run."""
    records = [part.record for part in parts]
    first, *_ = records
    threads = {record.settings.threads for record in records}
    settings = {"threads": first.settings.threads if len(threads) == 1 else None}
    return first.model_copy(
        update={
            "models": _united(record.models for record in records),
            "pretraining": _united(record.pretraining for record in records),
            "seeds": tuple(sorted({seed for record in records for seed in record.seeds})),
            "ensemble": False,  # since each ensemble has the seeds of one run only
            "variants": _united(record.variants for record in records),
            "seen_shifts": _united(record.seen_shifts for record in records),
            "natural": {
                name: source
                for name, source in first.natural.items()
                if all(name in record.natural for record in records)
            },
            "settings": first.settings.model_copy(update=settings),
            "provenance": _provenance([record.provenance for record in records]),
        }
    )


def _provenance(every: Sequence[Provenance]) -> Provenance:
    """The first run's, with this command, the latest time, and git revisions if all agree."""
    git = {
        name: revision
        for name, revision in every[0].git.items()
        if all(each.git.get(name) == revision for each in every)
    }
    latest = max(each.time for each in every)
    return every[0].model_copy(update={"command": command_line(), "git": git, "time": latest})


def _united(mappings: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for mapping in mappings:
        found = {**found, **{key: each for key, each in mapping.items() if key not in found}}
    return found


class Rest(NamedTuple):
    """The steps to copy into a joined run, by id, and the plan of the steps after these."""

    taken: Mapping[str, Taken]
    plan: Plan


def plan_rest(
    record: RunRecord, parts: Sequence[Part], held: Mapping[tuple[str, int], Part]
) -> Rest:
    """Plan the scores and the report of all seeds together, as a study plans its own.

    Raises `InputError` if predictions of a run are missing, or are not those that it wrote.
    """
    taken = take_over(parts)
    *samples, score, report = _concluding(record, taken)
    for sample in samples:
        assert isinstance(sample, SampleStep)
        if pictures := take_samples(sample, parts):
            taken[sample.id] = pictures
    return Rest(taken, _linked([score, report], taken, held))


def plan_scores(
    record: RunRecord, parts: Sequence[Part], held: Mapping[tuple[str, int], Part]
) -> Rest:
    """Plan the scores alone, without pictures and report; raises as `plan_rest` does."""
    taken = take_over(parts)
    *_, score, _ = _concluding(record, taken)
    return Rest(taken, _linked([score], taken, held))


def _concluding(record: RunRecord, taken: Mapping[str, Taken]) -> list[Step]:
    """The steps of samples, scores and report."""
    return conclude(_measurement(record, taken), list(_measured(record)))


def _linked(
    steps: Sequence[Step], taken: Mapping[str, Taken], held: Mapping[tuple[str, int], Part]
) -> Plan:
    """A plan of steps, the scores first, that read what was taken from the runs."""
    score, *_ = steps
    makers = {name: step for step, each in taken.items() for name in each.files}
    for name in score.reads:
        if name not in makers:
            raise _unfinished(name, held)
    makers |= dict.fromkeys(score.leaves, score.id)
    needing = tuple(_needing(step, makers) for step in steps)
    return Plan.model_construct(data={}, models=(), steps=needing)


def _needing(step: Step, makers: Mapping[str, str]) -> Step:
    needs = dict.fromkeys(makers[name] for name in step.reads if name in makers)
    return step.model_copy(update={"needs": tuple(needs)})


def _unfinished(name: str, held: Mapping[tuple[str, int], Part]) -> InputError:
    place = place_of(name)
    assert place is not None  # scores read only predictions
    part = held[base_model(place.model), int(place.seed)]
    return InputError(f"{part.name} has no {name}: let the run finish first")


def _measurement(record: RunRecord, taken: Mapping[str, Taken]) -> Measurement:
    data, settings = record.data, record.settings
    trainings = ("train", "choose", "pretrain")
    return Measurement(
        data=DataFacts(
            name=data.name,
            classes=data.classes,
            images=dict.fromkeys(data.digests, 0),  # used only to estimate durations
            digests=data.digests,
            side=data.side,
            natural_shift="natural_shift" in data.notes,
            groups={
                PurePosixPath(name).stem: None
                for step, each in taken.items()
                if step == GROUPS
                for name in each.files
            },
            slices=_slices_of(data),
            ordered=data.ordered,
            task=data.task,
        ),
        shifts=(CLEAN, *(shift_of(cell.id) for cell in record.cells())),
        threads=settings.threads or torch.get_num_threads(),
        device="cpu",
        shift_seed=settings.shift_seed,
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
        variants=read_variants(settings.variants),
        operating_points=settings.operating_points,
        fit_on=tuple(each for each in map(shift_of, settings.fit_on) if isinstance(each, Shift)),
        natural={
            name: DataFacts(name, data.classes, {TEST: 0}, {TEST: data.digests[name]})
            for name in (f"{NATURAL}{each}" for each in record.natural)
        },
        reports=tuple(
            name for each in taken.values() if each.step.kind in trainings for name in each.files
        ),
    )


def _slices_of(data: DataRecord) -> tuple[str, ...]:
    match data.arguments.get("groups"):
        case [_, _, [*slices], *_]:  # as `GroupColumns` is written
            return tuple(map(str, slices))
    return ()


def _measured(record: RunRecord) -> Iterator[Measured]:
    """The measured models in the order of a study: each model, then each of its interpolations."""
    for model, described in record.models.items():
        titles = {model: described.title}
        titles |= {n: t for n, t in record.variants.items() if _is_network_of(model, n, record)}
        for name, title in titles.items():
            for seed in record.seeds:
                network = Trained(folder=model_folder(model, seed))
                yield Measured(name, seed, title, title, network)


def _is_network_of(model: str, name: str, record: RunRecord) -> bool:
    """Whether a name is that of a model's interpolation, and not of one of its variants."""
    variants = read_variants(record.settings.variants)
    return base_model(name) == model and variant_of(name, variants) is None
