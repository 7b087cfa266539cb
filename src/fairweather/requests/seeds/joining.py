"""Joins runs with different seeds into one run, and makes small copies of runs to join."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import torch
from pydantic import JsonValue

from fairweather.errors import InputError, unknown_name
from fairweather.files.yamlfile import dump_yaml, read_yaml
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.report.finished_run import Run
from fairweather.report.joint_runs import shorten_names
from fairweather.requests.seeds.parts import (
    CopiedStep,
    SeedsPart,
    check_parts,
    collect_samples,
    collect_steps,
    open_part,
)
from fairweather.runs.claims import lock_run
from fairweather.runs.folder import LOCK, RunFolder, shrink_predictions
from fairweather.runs.provenance import command_line
from fairweather.shifts.table import CLEAN
from fairweather.steps.measurement import DataFacts, MeasuredModel, Measurement, plan_conclusion
from fairweather.steps.plan import Plan, SampleStep, Step, TrainedNetwork
from fairweather.steps.predictions import parse_shift
from fairweather.steps.worker import Worker
from fairweather.types.measurement import Shift
from fairweather.types.record import (
    DESCRIPTION,
    GROUPS,
    JOINED,
    NATURAL,
    STUDY,
    TEST,
    DataRecord,
    JoinedRecord,
    JoinedRun,
    Provenance,
    RunRecord,
    base_model,
    model_folder,
    parse_predictions_path,
)
from fairweather.variants.variant import find_variant, read_variants
from fairweather.workers.schedule import execute

# ---------------------------------------------------------------- the joined run: its record, the s

Value = TypeVar("Value")


def describe_joined_run(parts: Sequence[SeedsPart]) -> RunRecord:
    """Make the record of the joined run; texts such as titles are those of the first run."""
    records = [part.record for part in parts]
    first, *_ = records
    threads = {record.settings.threads for record in records}
    settings = {"threads": first.settings.threads if len(threads) == 1 else None}
    return first.model_copy(
        update={
            "models": _unite(record.models for record in records),
            "pretraining": _unite(record.pretraining for record in records),
            "seeds": tuple(sorted({seed for record in records for seed in record.seeds})),
            "ensemble": False,  # since each ensemble has the seeds of one run only
            "variants": _unite(record.variants for record in records),
            "seen_shifts": _unite(record.seen_shifts for record in records),
            "natural": {
                name: source
                for name, source in first.natural.items()
                if all(name in record.natural for record in records)
            },
            "settings": first.settings.model_copy(update=settings),
            "provenance": _unite_provenance([record.provenance for record in records]),
        }
    )


def _unite_provenance(every: Sequence[Provenance]) -> Provenance:
    """The first run's, with this command, the latest time, and git revisions if all agree."""
    git = {
        name: revision
        for name, revision in every[0].git.items()
        if all(each.git.get(name) == revision for each in every)
    }
    latest = max(each.time for each in every)
    return every[0].model_copy(update={"command": command_line(), "git": git, "time": latest})


def _unite(mappings: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for mapping in mappings:
        found = {**found, **{key: each for key, each in mapping.items() if key not in found}}
    return found


class RemainingSteps(NamedTuple):
    """The steps to copy into a joined run, by id, and the plan of the steps after these."""

    taken: Mapping[str, CopiedStep]
    plan: Plan


def plan_remaining(
    record: RunRecord, parts: Sequence[SeedsPart], held: Mapping[tuple[str, int], SeedsPart]
) -> RemainingSteps:
    """Plan the scores and the report of all seeds together, as a study plans its own.

    Raises `InputError` if predictions of a run are missing, or are not those that it wrote.
    """
    taken = collect_steps(parts)
    *samples, score, report = _concluding_steps(record, taken)
    for sample in samples:
        assert isinstance(sample, SampleStep)
        if pictures := collect_samples(sample, parts):
            taken[sample.id] = pictures
    return RemainingSteps(taken, _link_steps([score, report], taken, held))


def plan_scores(
    record: RunRecord, parts: Sequence[SeedsPart], held: Mapping[tuple[str, int], SeedsPart]
) -> RemainingSteps:
    """Plan the scores alone, without pictures and report; raises as `plan_remaining` does."""
    taken = collect_steps(parts)
    *_, score, _ = _concluding_steps(record, taken)
    return RemainingSteps(taken, _link_steps([score], taken, held))


def _concluding_steps(record: RunRecord, taken: Mapping[str, CopiedStep]) -> list[Step]:
    """The steps of samples, scores and report."""
    return plan_conclusion(_make_measurement(record, taken), list(_measured_models(record)))


def _link_steps(
    steps: Sequence[Step],
    taken: Mapping[str, CopiedStep],
    held: Mapping[tuple[str, int], SeedsPart],
) -> Plan:
    """A plan of steps, the scores first, that read what was taken from the runs."""
    score, *_ = steps
    makers = {name: step for step, each in taken.items() for name in each.files}
    for name in score.reads:
        if name not in makers:
            raise _unfinished_error(name, held)
    makers |= dict.fromkeys(score.leaves, score.id)
    needing = tuple(_add_needs(step, makers) for step in steps)
    return Plan.model_construct(data={}, models=(), steps=needing)


def _add_needs(step: Step, makers: Mapping[str, str]) -> Step:
    needs = dict.fromkeys(makers[name] for name in step.reads if name in makers)
    return step.model_copy(update={"needs": tuple(needs)})


def _unfinished_error(name: str, held: Mapping[tuple[str, int], SeedsPart]) -> InputError:
    place = parse_predictions_path(name)
    assert place is not None  # scores read only predictions
    part = held[base_model(place.model), int(place.seed)]
    return InputError(f"{part.name} has no {name}: let the run finish first")


def _make_measurement(record: RunRecord, taken: Mapping[str, CopiedStep]) -> Measurement:
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
            slices=_read_slices(data),
            ordered=data.ordered,
            task=data.task,
        ),
        shifts=(CLEAN, *(parse_shift(cell.id) for cell in record.cells())),
        threads=settings.threads or torch.get_num_threads(),
        device="cpu",
        shift_seed=settings.shift_seed,
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
        variants=read_variants(settings.variants),
        operating_points=settings.operating_points,
        fit_on=tuple(each for each in map(parse_shift, settings.fit_on) if isinstance(each, Shift)),
        natural={
            name: DataFacts(name, data.classes, {TEST: 0}, {TEST: data.digests[name]})
            for name in (f"{NATURAL}{each}" for each in record.natural)
        },
        reports=tuple(
            name for each in taken.values() if each.step.kind in trainings for name in each.files
        ),
    )


def _read_slices(data: DataRecord) -> tuple[str, ...]:
    match data.arguments.get("groups"):
        case [_, _, [*slices], *_]:  # as `GroupColumns` is written
            return tuple(map(str, slices))
    return ()


def _measured_models(record: RunRecord) -> Iterator[MeasuredModel]:
    """The measured models in the order of a study: each model, then each of its interpolations."""
    for model, described in record.models.items():
        titles = {model: described.title}
        titles |= {n: t for n, t in record.variants.items() if _is_interpolation(model, n, record)}
        for name, title in titles.items():
            for seed in record.seeds:
                network = TrainedNetwork(folder=model_folder(model, seed))
                yield MeasuredModel(name, seed, title, title, network)


def _is_interpolation(model: str, name: str, record: RunRecord) -> bool:
    """Whether a name is that of a model's interpolation, and not of one of its variants."""
    variants = read_variants(record.settings.variants)
    return base_model(name) == model and find_variant(name, variants) is None


# ---------------------------------------------------------------- writing the folder of joined runs


def check_joined_folder(place: Path, runs: Sequence[Path], parts: Sequence[SeedsPart]) -> None:
    """Raise `InputError` unless the folder is new, or was joined from these runs before.

    There may be more runs now than before, and their folders may have moved.
    """
    if place.is_file():
        raise InputError(f"{place} is a file, not a folder for a run")
    if place.resolve() in [run.resolve() for run in runs]:
        raise InputError(f"{place} is one of the runs; name another folder for the joined run")
    holds = {path.name for path in place.iterdir()} - {LOCK} if place.is_dir() else set()
    if holds and not RunFolder(place).is_joined:
        raise InputError(
            f"{place} contains something other than runs that were joined or packed; name another "
            "folder with --out"
        )
    given = [_describe_part(part) for part in parts]
    before = RunFolder(place).joined.runs if holds else ()
    others = [each.path for each in before if not any(_is_same_run(each, run) for run in given)]
    if others:
        raise InputError(
            f"{place} was joined from other runs, such as {others[0]}; name another folder with "
            "--out"
        )


def _describe_part(part: SeedsPart) -> JoinedRun:
    return JoinedRun(
        path=part.name,
        models=tuple(part.record.models),
        seeds=part.record.seeds,
        provenance=part.record.provenance,
    )


def _is_same_run(first: JoinedRun, second: JoinedRun) -> bool:
    """Say whether both are the same run, which may have moved or have more seeds now.

    A small copy has no absolute paths in its command, so that commands are not compared.
    """
    command = {"command": second.provenance.command}
    provenance = first.provenance.model_copy(update=command)
    moved = first.model_copy(update={"path": second.path, "provenance": provenance}) == second
    return moved or Path(first.path).resolve() == Path(second.path).resolve()


def begin_joined_run(
    folder: RunFolder,
    record: RunRecord,
    parts: Sequence[SeedsPart],
    taken: Mapping[str, CopiedStep],
) -> None:
    """Write the record of the joined run, and remove its steps that differ from those of the runs.

    Scores and report are removed first: if joining is then interrupted, the folder has no numbers
    rather than wrong ones.
    """
    joined = JoinedRecord(runs=tuple(map(_describe_part, parts)))
    folder.write(JOINED, joined.to_json())  # first of all, since it marks the folder as joined
    made = ("report", "scores")
    wanted = {step: each.step for step, each in taken.items()}
    standing = {step.id: step for step in folder.readable_steps() if step.id not in made}
    damaged = folder.damaged_steps()
    stale = [step for step in standing if standing[step] != wanted.get(step)]
    described = folder.has_record and folder.record.lasting() == record.lasting()
    if stale or damaged or not described or len(standing) < len(wanted):
        for step in (*made, *stale, *damaged):
            folder.forget(step)
    folder.describe(record)


def write_study(folder: RunFolder, record: RunRecord, first: SeedsPart) -> None:
    """Write the study that would train all of it: the first one, with all models and seeds."""
    study = first.run.file(STUDY)
    if study.is_file() and isinstance(found := read_yaml(study), dict):
        folder.write(STUDY, dump_yaml({**found, **_whole_study(record)}))


def _whole_study(record: RunRecord) -> dict[str, object]:
    """The keys in which the study of all models and seeds differs from that of the first run."""
    entries = {
        key: {name: {"title": each.title, **each.settings} for name, each in networks.items()}
        for key, networks in (("models", record.models), ("pretraining", record.pretraining))
    }
    return {"seeds": list(record.seeds), "ensemble": record.ensemble, **entries}


def copy_step(taken: CopiedStep, folder: RunFolder) -> None:
    """Copy the files of a step and then its record, unless they are there already."""
    checksums = taken.step.files
    there = folder.step(taken.step.id) == taken.step and all(
        folder.file(name).is_file() and folder.checksum(name) == checksums[name]
        for name in taken.files
    )
    if there:
        return
    for name in taken.files:
        folder.write(name, taken.read(name))
    folder.finish(taken.step)


def fill_joined_run(
    folder: RunFolder, taken: Mapping[str, CopiedStep], plan: Plan, word: str, tell: Notify
) -> None:
    """Copy the steps that were taken from the runs, and do those of the plan."""
    for number, (step, each) in enumerate(taken.items(), start=1):
        copy_step(each, folder)
        tell(Event(word, number, len(taken), step))
    execute(plan, folder, Worker(plan, device="cpu", progress=tell), tell)


# ---------------------------------------------------------------- a small copy of a run, to commit


@shows_progress
def pack_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    models: Sequence[str] | None = None,
    shifts: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    progress: Notify | bool | None = True,
) -> Run:
    """Make a small copy of a run, from which its seeds can be joined with those of others.

    It contains the records, the training histories, scores.csv, and the predictions in single
    precision without logits: about 10 bytes per image and cell. It contains no weights, no pictures
    and no ensembles, and it has no numbers that need logits, such as classwise errors. `join_seeds`
    and `fairweather compare` take it like any run; it cannot be continued. Absolute paths in the
    commands and in the description of the data are cut to their last part. Those in recipes stay,
    such as that of a file of weights: they are part of what a result depends on.

    Args:
        run: the run folder of a study.
        out: the folder of the copy; it is new, or was packed from this run before.
        models: which models to keep; by default all.
        shifts: which shifts and attacks to keep, by the names in scores.csv; by default all.
        variants: which of the run's variants to keep, by what stands behind `MODEL+`; by default
            all, `()` for none.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: a name is unknown, the run is no study or is unfinished, a file is damaged, or
            `out` contains something else.

    >>> import fairweather as fw
    >>> fw.pack_run("runs/missing", "packed")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fairweather.errors.InputError: runs/missing ...
    """
    whole, place, tell = open_part(Path(run)), Path(out), to_notify(progress)
    record = _select_record(whole.record, models, shifts, variants)
    part = whole.of(record)
    check_joined_folder(place, [Path(run)], [part])
    record = _hide_folders(describe_joined_run([part]))
    rest = plan_scores(record, [part], check_parts([part]))
    small = {step: _shrink_step(each) for step, each in rest.taken.items()}
    with lock_run(place) as folder:
        named = SeedsPart(_cut_paths(part.name), part.run, _hide_folders(part.record))
        begin_joined_run(folder, record, [named], small)
        fill_joined_run(folder, small, rest.plan, "pack", tell)
    return Run(place)


def _select_record(
    record: RunRecord,
    models: Sequence[str] | None,
    shifts: Sequence[str] | None,
    variants: Sequence[str] | None,
) -> RunRecord:
    """The record of what is kept, in the order of the run."""
    kept = _select_names("model", models, list(record.models))
    names = _select_names("shift", shifts, [sweep.name for sweep in record.sweeps])
    known = {each.name: each for each in read_variants(record.settings.variants)}
    uses = _select_names("variant", variants, list(known))
    if not kept:
        raise InputError("a copy without models has nothing to join: name a model, or none for all")
    return record.model_copy(
        update={
            "models": {name: each for name, each in record.models.items() if name in kept},
            "sweeps": tuple(sweep for sweep in record.sweeps if sweep.name in names),
            "variants": {
                name: title
                for name, title in record.variants.items()
                if base_model(name) in kept
                and ((of := find_variant(name, known.values())) is None or of.name in uses)
            },
            "seen_shifts": {
                name: each for name, each in record.seen_shifts.items() if base_model(name) in kept
            },
            "settings": record.settings.model_copy(
                update={"variants": tuple(known[name].text for name in uses)}
            ),
        }
    )


def _select_names(kind: str, asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The known names that were asked for, in their own order."""
    for name in asked or ():
        if name not in known:
            raise unknown_name(kind, name, known)
    return [name for name in known if asked is None or name in asked]


def _hide_folders(record: RunRecord) -> RunRecord:
    """The record without the folders of this machine, which often contain a person's name."""
    data, provenance = record.data, record.provenance
    try:
        command = shlex.join(map(_cut_paths, shlex.split(provenance.command)))
    except ValueError:  # not written by a shell: a quotation mark is missing
        command = " ".join(map(_cut_paths, provenance.command.split()))
    return record.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "name": _cut_paths(data.name),
                    "arguments": {
                        key: _cut_nested_paths(each) for key, each in data.arguments.items()
                    },
                    "notes": {key: _cut_nested_paths(each) for key, each in data.notes.items()},
                }
            ),
            "natural": {name: _cut_paths(source) for name, source in record.natural.items()},
            "provenance": provenance.model_copy(update={"command": command}),
        }
    )


def _cut_nested_paths(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return _cut_paths(value)
        case list():
            return [_cut_nested_paths(each) for each in value]
        case dict():
            return {key: _cut_nested_paths(each) for key, each in value.items()}
    return value


def _cut_paths(word: str) -> str:
    """The word, with only the last part of each absolute path in it.

    >>> _cut_paths("/home/ann/my data/"), _cut_paths("--out=/home/ann/a"), _cut_paths(
    ...     "folder:/home/ann/pets@64"
    ... )
    ('.../my data', '--out=.../a', 'folder:.../pets@64')
    >>> _cut_paths("runs/a"), _cut_paths("https://example.org/a/b"), _cut_paths("1/255")
    ('runs/a', 'https://example.org/a/b', '1/255')
    """
    if word.startswith("/"):
        return f".../{PurePosixPath(word).name}"
    return re.sub(r"(?<=[=:\s\[,])/(?!/)[^\s,\]]*", lambda found: _cut_paths(found.group()), word)


def _shrink_step(taken: CopiedStep) -> CopiedStep:
    """The same step, with small files of predictions, no folders in descriptions, and checksums."""
    content = {name: _shrink_file(name, taken.read(name)) for name in taken.files}
    files = {name: hashlib.sha256(each).hexdigest() for name, each in content.items()}
    step = taken.step.model_copy(update={"files": {**taken.step.files, **files}})
    return CopiedStep(step, taken.files, content.__getitem__)


def _shrink_file(name: str, content: bytes) -> bytes:
    if name.endswith(".parquet") and not name.startswith(f"{GROUPS}/"):
        return shrink_predictions(content)
    if PurePosixPath(name).name == DESCRIPTION:
        return json.dumps(_cut_nested_paths(json.loads(content)), indent=2).encode()
    return content


# ---------------------------------------------------------------- joins runs with different seeds i

__all__ = ["join_seeds", "pack_run"]


@shows_progress
def join_seeds(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Notify | bool | None = True,
) -> Run:
    """Join runs of one study with different seeds, or different models, into one run.

    The result is a new run folder. It contains the files of the other folders except weights, and
    scores and a report of all seeds together. Scores are computed from the predictions of single
    images, as if one run had all seeds. Ensembles are left out, since each has the seeds of one run
    only. The given folders may lack weights, and are not changed.

    Args:
        runs: run folders of studies, two or more, in any order.
        out: the folder of the joined run, by default `runs/RUN+RUN`; an earlier joined run of the
            same folders is updated.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: the runs differ in data, shifts, settings, versions or the recipe of a model
            (the message names the first difference); two runs contain the same seed of a model; not
            every model has every seed; predictions are missing or damaged; or `out` contains
            something else.
    """
    if len(runs) < 2:
        raise InputError(f"joining seeds takes at least two runs, found {len(runs)}")
    paths = [Path(run) for run in runs]
    names = shorten_names(paths)  # raises if one is named twice
    place = Path(out) if out is not None else Path("runs") / "+".join(names)
    # In order of their first seeds, since the first is shown where only one seed can be.
    parts = sorted((open_part(path) for path in paths), key=lambda part: min(part.record.seeds))
    check_joined_folder(place, paths, parts)
    held = check_parts(parts)
    record = describe_joined_run(parts)
    rest = plan_remaining(record, parts, held)
    tell = to_notify(progress)
    if any(part.record.ensemble for part in parts):
        words = "ensembles are left out, since each has the seeds of one run only"
        tell(Event("join", 0, None, line=words))
    with lock_run(place) as folder:
        begin_joined_run(folder, record, parts, rest.taken)
        write_study(folder, record, parts[0])
        fill_joined_run(folder, rest.taken, rest.plan, "join", tell)
    return Run(place)
