"""Checks that runs fit together as seeds of one study, and names the first difference if not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.record import (
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
from fairweather.runs import RunFolder, open_finished_run
from fairweather.steps.progressing import first_difference

# The settings of a step that may differ between machines; the page of a run names the machines.
OF_THE_MACHINE = ("device", "threads")


@dataclass(frozen=True)
class Part:
    """One of the runs that are joined.

    Attributes:
        name: its folder, as it was given.
        run: the folder.
        record: what the run is, or what is taken of it.
    """

    name: str
    run: RunFolder
    record: RunRecord

    @cached_property
    def steps(self) -> Mapping[str, StepRecord]:
        """The steps of single seeds, by id: no ensembles, scores, samples and report."""
        described = self.record.model_copy(update={"ensemble": False})
        return {
            step.id: step
            for step in self.run.steps()
            if step.kind not in ("score", "sample", "report") and is_part_of(described, step)
        }

    def of(self, record: RunRecord) -> Part:
        """As much of the run as another record describes."""
        return Part(self.name, self.run, record)

    @property
    def held(self) -> list[tuple[str, int]]:
        """Each model with each of its seeds."""
        return [(model, seed) for model in self.record.models for seed in self.record.seeds]


def open_part(path: str | Path) -> Part:
    """Open a run whose seeds are to be joined with those of others.

    Raises `InputError` if there is no run, or one without training.
    """
    run = open_finished_run(Path(path))
    if run.record.kind != "study":
        raise InputError(
            f"{path} is an evaluation, and only runs of a study are joined: evaluate all seeds in "
            "one run, as fw.evaluate({'NAME-seed0': ..., 'NAME-seed1': ...}, DATA) or "
            "fairweather evaluate NAME-seed0=... DATA --model NAME-seed1=..."
        )
    return Part(str(path), run, run.record)


def check_fit(parts: Sequence[Part]) -> dict[tuple[str, int], Part]:
    """Say which of the runs has each model with each seed.

    Raises `InputError` with the first difference in data, shifts, settings, versions or recipes; if
    two runs contain the same seed of a model; and if not every model has every seed.
    """
    _check_shared(parts)
    held = _check_once(parts)
    _check_recipes(parts)
    _check_complete(held)
    return held


# ---------------------------------------------------------------- what all runs share


def _check_shared(parts: Sequence[Part]) -> None:
    seen: dict[str, tuple[Part, JsonValue]] = {}
    for part in parts:
        for what, value in _shared(part):
            first, expected = seen.setdefault(what, (part, value))
            if value != expected:
                raise _differ(what, (first, expected), (part, value))
    for part in parts[1:]:
        _check_shifts(parts[0], part)
        _check_shifts(part, parts[0])


def _shared(part: Part) -> Iterator[tuple[str, JsonValue]]:
    """The values that must be equal in all runs, with their names."""
    record, settings, every = part.record, part.record.settings, part.steps.values()
    yield "task", record.data.task
    yield "classes", list(record.data.classes)
    for name, words in ((TEST, "test"), (VAL, "validation"), (TRAIN, "training")):
        yield f"digest of the {words} images", record.data.digests.get(name)
    yield "shift_seed", settings.shift_seed
    yield "bootstrap", settings.bootstrap
    yield "prediction_batch_size", settings.batch_size
    yield "precision of predictions", settings.precision
    yield "cudnn_benchmark", settings.cudnn_benchmark
    yield "variants", list(settings.variants)
    yield "fit_on", list(settings.fit_on)
    yield "operating_points", dict(settings.operating_points)
    yield "ordered_classes", record.data.ordered
    grouped = part.steps.get(GROUPS)
    yield "groups of images", grouped.depends.get("digests") if grouped else None
    libraries = [record.provenance.versions, *(s.depends.get("libraries") for s in every)]
    for versions in libraries:
        for name, version in versions.items() if isinstance(versions, dict) else ():
            # After a plus sign is the kind of machine that it was built for: 2.6.0+cpu.
            yield f"version of {name}", str(version).partition("+")[0]
    for step in every:
        yield f"version of the steps that {step.kind}", step.depends.get("version")


def _check_shifts(one: Part, other: Part) -> None:
    theirs = {cell.id for cell in other.record.cells()}
    for cell in one.record.cells():
        if cell.id not in theirs:
            raise InputError(
                f"{one.name} and {other.name} cannot be joined: {cell.id} is tested in {one.name} "
                f"and not in {other.name}"
            )


# ---------------------------------------------------------------- models and seeds


def _check_once(parts: Sequence[Part]) -> dict[tuple[str, int], Part]:
    held: dict[tuple[str, int], Part] = {}
    for part in parts:
        for model, seed in part.held:
            if other := held.get((model, seed)):
                raise InputError(
                    f"seed {seed} of {model} is in both {other.name} and {part.name}: leave one of "
                    "the two runs out"
                )
            held[model, seed] = part
    return held


def _check_complete(held: Mapping[tuple[str, int], Part]) -> None:
    models = list(dict.fromkeys(model for model, _ in held))
    seeds = sorted({seed for _, seed in held})
    missing = [(m, s) for m in models for s in seeds if (m, s) not in held]
    if missing:
        model, seed = missing[0]
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise InputError(
            f"the runs have the models {', '.join(models)} and the seeds "
            f"{', '.join(map(str, seeds))}, but none has seed {seed} of {model}{more}; add the run "
            "that has it, or join the runs of each model separately"
        )


# ---------------------------------------------------------------- recipes


def _check_recipes(parts: Sequence[Part]) -> None:
    """Compare each model and each pre-training with those of the first run that has them."""
    models: dict[str, Part] = {}
    starts: dict[str, Part] = {}
    for part in parts:
        for name in part.record.models:
            if (first := models.setdefault(name, part)) is not part:
                _check_model(name, first, part)
        for name in part.record.pretraining:
            if (first := starts.setdefault(name, part)) is not part:
                _check_alike(name, first, part)
                _check_one_start(name, first, part)


def _check_model(name: str, one: Part, other: Part) -> None:
    _check_alike(name, one, other)
    kinds = [[v for v in p.record.variants if base_model(v) == name] for p in (one, other)]
    if kinds[0] != kinds[1]:
        raise _differ(f"the list of variants of {name}", (one, kinds[0]), (other, kinds[1]))
    if chosen_recipe(name) in _files(one) | _files(other):
        recipes = [_chosen(part, name) for part in (one, other)]
        if found := first_difference(*recipes):
            what = f"{found.key} chosen by the sweep of {name}"
            raise _differ(what, (one, found.one), (other, found.other))


def _check_alike(name: str, one: Part, other: Part) -> None:
    """Raise `InputError` unless the steps of two runs had the same settings, except for seeds."""
    ours, theirs = _without_seeds(name, one), _without_seeds(name, other)
    for step in ours:
        if step in theirs and (found := first_difference(ours[step], theirs[step])):
            raise _differ(f"{found.key} of {name}", (one, found.one), (other, found.other))


def _without_seeds(name: str, part: Part) -> dict[str, dict[str, JsonValue]]:
    """The settings of the steps of a model or a pre-training, for the first seed."""
    found: dict[str, dict[str, JsonValue]] = {}
    of_models = (step for step in part.steps.values() if step.kind != "group")
    for step in of_models:
        where, model, *rest = step.id.split("/")
        if base_model(model) == name:
            seedless = ["seed" if each.startswith("seed-") else each for each in rest]
            found.setdefault("/".join([where, model, *seedless]), _facts(step))
    return found


def _facts(step: StepRecord) -> dict[str, JsonValue]:
    # Versions of libraries are compared separately.
    left_out = {*OF_THE_MACHINE, "libraries", *(["seed"] if step.kind != "predict" else [])}
    facts = {key: value for key, value in step.depends.items() if key not in left_out}
    network = facts.get("network")
    if isinstance(network, dict):  # its folder names the seed
        facts["network"] = {key: each for key, each in network.items() if key != "folder"}
    return facts


def _check_one_start(name: str, one: Part, other: Part) -> None:
    """Raise `InputError` if a pre-training for all seeds has other weights in the two runs."""
    for step in one.steps.values():
        twin = other.steps.get(step.id)
        if step.kind != "pretrain" or step.id.split("/")[1] != name or twin is None:
            continue
        weights = f"{step.id}/{WEIGHTS}"
        if step.files.get(weights) != twin.files.get(weights):
            raise InputError(
                f"{one.name} and {other.name} cannot be joined: {step.id} is one pre-training for "
                "all seeds, but its weights differ between the two runs; start both from the same "
                "file, or leave out its seed, so that each seed has its own pre-training"
            )


def _files(part: Part) -> set[str]:
    return {name for step in part.steps.values() for name in step.files}


def _chosen(part: Part, model: str) -> dict[str, JsonValue]:
    name = chosen_recipe(model)
    if not part.run.holds(name):
        raise InputError(f"{part.name} has no {name}: let the run finish first")
    recipe: dict[str, JsonValue] = json.loads(part.run.file(name).read_text(encoding="utf-8"))
    return recipe


def _differ(what: str, one: tuple[Part, object], other: tuple[Part, object]) -> InputError:
    (first, ours), (second, theirs) = one, other
    return InputError(
        f"{first.name} and {second.name} cannot be joined: {what} is {_short(ours)} in "
        f"{first.name} and {_short(theirs)} in {second.name}"
    )


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = text or "nothing"
    return text if len(text) <= 60 else f"{text[:12]}..."
