"""Join runs with different seeds into one run, and make small copies of runs to join."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from fairweather.steps.plan import Plan, SampleStep, TrainedNetwork
from fairweather.steps.sweeps import parse_shift
from fairweather.steps.worker import Worker
from fairweather.types.measurement import Shift
from fairweather.types.options import slice_name
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
from fairweather.variants.variant import find_variant, read_variants, write_adapting
from fairweather.workers.schedule import execute

# ---------------------------------------------------------------- record and plan

Value = TypeVar("Value")


def describe_joined_run(parts: Sequence[SeedsPart]) -> RunRecord:
    """Make the record of the joined run; texts such as titles are those of the first run."""
    records = [part.record for part in parts]
    first, *_ = records
    threads = {record.settings.threads for record in records}
    natural = {
        name: source
        for name, source in first.natural.items()
        if all(name in record.natural for record in records)
    }
    settings = {"threads": first.settings.threads if len(threads) == 1 else None}
    return first.model_copy(
        update={
            "models": _unite(record.models for record in records),
            "pretraining": _unite(record.pretraining for record in records),
            "seeds": tuple(sorted({seed for record in records for seed in record.seeds})),
            "ensemble": False,  # since each ensemble has the seeds of one run only
            "variants": _unite(record.variants for record in records),
            "seen_shifts": _unite(record.seen_shifts for record in records),
            "natural": natural,
            "choices": {name: first.choices[name] for name in natural if name in first.choices},
            "settings": first.settings.model_copy(update=settings),
            "provenance": _unite_provenance([record.provenance for record in records]),
        }
    )


def _unite_provenance(every: Sequence[Provenance]) -> Provenance:
    """The provenance of the first run, with this command, the latest time, and git revisions if all
    agree."""
    git = {
        name: revision
        for name, revision in every[0].git.items()
        if all(provenance.git.get(name) == revision for provenance in every)
    }
    latest = max(provenance.time for provenance in every)
    return every[0].model_copy(update={"command": command_line(), "git": git, "time": latest})


def _unite(mappings: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    united: dict[str, Value] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            united.setdefault(key, value)
    return united


class RemainingSteps(NamedTuple):
    """The steps to copy into a joined run, by id, and the plan of the steps after these."""

    copied: Mapping[str, CopiedStep]
    plan: Plan


def plan_remaining(
    record: RunRecord,
    parts: Sequence[SeedsPart],
    holders: Mapping[tuple[str, int], SeedsPart],
    *,
    scores_only: bool = False,
) -> RemainingSteps:
    """Plan the pictures, the scores and the report of all seeds together, or the scores alone.

    Raises `InputError` if predictions of a run are missing, or are not those that it wrote.
    """
    copied = collect_steps(parts)
    measurement = _make_measurement(record, copied)
    *samples, score, report = plan_conclusion(measurement, list(_measured_models(record)))
    for sample in samples if not scores_only else ():
        assert isinstance(sample, SampleStep)
        if pictures := collect_samples(sample, parts):
            copied[sample.id] = pictures
    makers = {name: step for step, copy in copied.items() for name in copy.files}
    for name in score.reads:
        if name not in makers:
            place = parse_predictions_path(name)
            assert place is not None  # scores read only predictions
            part = holders[base_model(place.model), int(place.seed)]
            raise InputError(f"{part.name} has no {name}: let the run finish first")
    makers |= dict.fromkeys(score.leaves, score.id)
    steps = tuple(
        step.model_copy(
            update={
                "needs": tuple(dict.fromkeys(makers[name] for name in step.reads if name in makers))
            }
        )
        for step in ([score] if scores_only else [score, report])
    )
    return RemainingSteps(copied, Plan.model_construct(data={}, models=(), steps=steps))


def _make_measurement(record: RunRecord, copied: Mapping[str, CopiedStep]) -> Measurement:
    data, settings = record.data, record.settings
    grouped = copied[GROUPS].files if GROUPS in copied else ()
    trainings = ("train", "choose", "pretrain")
    return Measurement(
        data=DataFacts(
            name=data.name,
            classes=data.classes,
            images=dict.fromkeys(data.digests, 0),  # used only to estimate durations
            digests=data.digests,
            side=data.side,
            natural_shift="natural_shift" in data.notes,
            groups={PurePosixPath(name).stem: None for name in grouped},
            slices=_read_slices(data),
            ordered=data.ordered,
            task=data.task,
        ),
        shifts=(CLEAN, *(parse_shift(cell.id) for cell in record.cells())),
        threads=settings.threads or torch.get_num_threads(),
        device=torch.device("cpu"),
        shift_seed=settings.shift_seed,
        batch_size=settings.batch_size,
        bootstrap=settings.bootstrap,
        variants=read_variants(settings.variants),
        operating_points=settings.operating_points,
        costs=settings.costs,
        sites=settings.sites,
        aggregation=settings.aggregation,
        fit_on=tuple(
            shift for shift in map(parse_shift, settings.fit_on) if isinstance(shift, Shift)
        ),
        natural={
            name: DataFacts(name, data.classes, {TEST: 0}, {TEST: data.digests[name]})
            for name in (f"{NATURAL}{source}" for source in record.natural)
        },
        reports=tuple(
            name for copy in copied.values() if copy.step.kind in trainings for name in copy.files
        ),
    )


def _read_slices(data: DataRecord) -> tuple[str, ...]:
    match data.arguments.get("groups"):
        case [_, _, [*slices], *_]:  # as `GroupColumns` is written
            return tuple(slice_name(str(slice_)) for slice_ in slices)
    return ()


def _measured_models(record: RunRecord) -> Iterator[MeasuredModel]:
    """The measured models in the order of a study: each model, then each of its interpolations."""
    variants = read_variants(record.settings.variants)
    for model, described in record.models.items():
        titles = {model: described.title} | {
            name: title
            for name, title in record.variants.items()
            if base_model(name) == model and find_variant(name, variants) is None
        }
        for (name, title), seed in itertools.product(titles.items(), record.seeds):
            network = TrainedNetwork(folder=model_folder(model, seed))
            yield MeasuredModel(name, seed, title, title, network)


# ---------------------------------------------------------------- run folder


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
    descriptions = [_describe_part(part) for part in parts]
    before = RunFolder(place).joined.runs if holds else ()
    others = [
        earlier.path
        for earlier in before
        if not any(_is_same_run(earlier, run) for run in descriptions)
    ]
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


def write_joined_run(
    place: Path,
    record: RunRecord,
    parts: Sequence[SeedsPart],
    steps: RemainingSteps,
    tell: Notify,
    *,
    is_packed: bool = False,
) -> Run:
    """Write the record of the joined run, copy the steps of its parts, and do those of the plan.

    First it removes steps that differ from those of the runs, beginning with scores and report. So
    an interrupted joining leaves no numbers rather than wrong ones.
    """
    with lock_run(place) as folder:
        joined = JoinedRecord(runs=tuple(map(_describe_part, parts)))
        folder.write(JOINED, joined.to_json())  # first of all, since it marks the folder as joined
        derived = ("report", "scores")
        standing = {step.id: step for step in folder.readable_steps() if step.id not in derived}
        damaged = folder.damaged_steps()
        copied = {name: copy.step for name, copy in steps.copied.items()}
        stale = [name for name, step in standing.items() if step != copied.get(name)]
        described = folder.has_record and folder.record.lasting() == record.lasting()
        if stale or damaged or not described or len(standing) < len(copied):
            for name in (*derived, *stale, *damaged):
                folder.forget(name)
        folder.describe(record)
        if not is_packed:
            _write_study(folder, record, parts[0])
        for number, (name, copy) in enumerate(steps.copied.items(), start=1):
            _write_copy(folder, copy)
            tell(Event("pack" if is_packed else "join", number, len(copied), name))
        execute(steps.plan, folder, Worker(steps.plan, device="cpu", progress=tell), tell)
    return Run(place)


def _write_study(folder: RunFolder, record: RunRecord, first: SeedsPart) -> None:
    """Write the study that would train everything: the first one, with all models and seeds."""
    study = first.run.file(STUDY)
    if study.is_file() and isinstance(written := read_yaml(study), dict):
        entries = {
            key: {name: {"title": entry.title, **entry.settings} for name, entry in named.items()}
            for key, named in (("models", record.models), ("pretraining", record.pretraining))
        }
        whole = {"seeds": list(record.seeds), "ensemble": record.ensemble, **entries}
        folder.write(STUDY, dump_yaml({**written, **whole}))


def _write_copy(folder: RunFolder, copy: CopiedStep) -> None:
    """Write the files of a step and then its record, unless they are there already."""
    is_there = folder.step(copy.step.id) == copy.step and all(
        folder.file(name).is_file() and folder.checksum(name) == copy.step.files[name]
        for name in copy.files
    )
    if not is_there:
        for name in copy.files:
            folder.write(name, copy.read(name))
        folder.finish(copy.step)


# ---------------------------------------------------------------- small copies


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
    such as the path of a file of weights, because results depend on them.

    Args:
        run: the run folder of a study.
        out: the folder of the copy; it is new, or was packed from this run before.
        models: which models to keep; by default all.
        shifts: which shifts and attacks to keep, by the names in scores.csv; by default all.
        variants: which of the run's variants to keep, by what stands behind `MODEL+`; by default
            all, `()` for none.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: a name is unknown, the run is not a study or is unfinished, a file is damaged,
            or `out` contains something else.

    >>> import fairweather as fw
    >>> fw.pack_run("runs/missing", "packed")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fairweather.errors.InputError: runs/missing ...
    """
    whole, place = open_part(Path(run)), Path(out)
    part = replace(whole, record=_select_record(whole.record, models, shifts, variants))
    check_joined_folder(place, [Path(run)], [part])
    record = _hide_folders(describe_joined_run([part]))
    steps = plan_remaining(record, [part], check_parts([part]), scores_only=True)
    keeps_logits = record.settings.aggregation is not None
    small = {
        name: _shrink_step(copy, keeps_logits=keeps_logits) for name, copy in steps.copied.items()
    }
    hidden = SeedsPart(_cut_paths(part.name), part.run, _hide_folders(part.record))
    steps, tell = steps._replace(copied=small), to_notify(progress)
    return write_joined_run(place, record, [hidden], steps, tell, is_packed=True)


def _select_record(
    record: RunRecord,
    models: Sequence[str] | None,
    shifts: Sequence[str] | None,
    variants: Sequence[str] | None,
) -> RunRecord:
    """The record of what is kept, in the order of the run."""
    model_names = _select_names("model", models, list(record.models))
    names = _select_names("shift", shifts, [sweep.name for sweep in record.sweeps])
    known = {variant.name: variant for variant in read_variants(record.settings.variants)}
    uses = _select_names("variant", variants, list(known))
    if not model_names:
        raise InputError("a copy without models has nothing to join: name a model, or none for all")
    return record.model_copy(
        update={
            "models": {
                name: described for name, described in record.models.items() if name in model_names
            },
            "sweeps": tuple(sweep for sweep in record.sweeps if sweep.name in names),
            "variants": {
                name: title
                for name, title in record.variants.items()
                if base_model(name) in model_names
                and (
                    (variant := find_variant(name, known.values())) is None or variant.name in uses
                )
            },
            "seen_shifts": {
                name: seen
                for name, seen in record.seen_shifts.items()
                if base_model(name) in model_names
            },
            "settings": record.settings.model_copy(
                update={
                    "variants": tuple(known[name].text for name in uses),
                    "adapting": write_adapting(known[name] for name in uses),
                }
            ),
        }
    )


def _select_names(kind: str, asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The requested names, in the order of the known ones."""
    for name in asked or ():
        if name not in known:
            raise unknown_name(kind, name, known)
    return [name for name in known if asked is None or name in asked]


def _hide_folders(record: RunRecord) -> RunRecord:
    """The record without the folders of this machine, which often contain a person's name."""
    data, provenance = record.data, record.provenance
    try:
        command = shlex.join(map(_cut_paths, shlex.split(provenance.command)))
    except ValueError:  # a quotation mark is missing, so no shell wrote it
        command = " ".join(map(_cut_paths, provenance.command.split()))
    return record.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "name": _cut_paths(data.name),
                    "arguments": _cut_nested_paths(dict(data.arguments)),
                    "notes": _cut_nested_paths(dict(data.notes)),
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
            return [_cut_nested_paths(item) for item in value]
        case dict():
            return {key: _cut_nested_paths(item) for key, item in value.items()}
    return value


def _cut_paths(word: str) -> str:
    """Keep only the last part of each absolute path in a word.

    >>> _cut_paths("/home/ann/my data/"), _cut_paths("--out=/home/ann/a"), _cut_paths(
    ...     "folder:/home/ann/pets@64"
    ... )
    ('.../my data', '--out=.../a', 'folder:.../pets@64')
    >>> _cut_paths("runs/a"), _cut_paths("https://example.org/a/b"), _cut_paths("1/255")
    ('runs/a', 'https://example.org/a/b', '1/255')
    """
    if word.startswith("/"):
        return f".../{PurePosixPath(word).name}"
    return re.sub(r"(?<=[=:\s\[,])/(?!/)[^\s,\]]*", lambda match: _cut_paths(match.group()), word)


def _shrink_step(copy: CopiedStep, *, keeps_logits: bool) -> CopiedStep:
    """The same step, with small files of predictions, no folders in descriptions, and checksums.

    Patients are made from the logits of their images, which are then kept.
    """
    content = {
        name: _shrink_file(name, copy.read(name), keeps_logits=keeps_logits) for name in copy.files
    }
    files = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    step = copy.step.model_copy(update={"files": {**copy.step.files, **files}})
    return CopiedStep(step, copy.files, content.__getitem__)


def _shrink_file(name: str, content: bytes, *, keeps_logits: bool) -> bytes:
    if name.startswith("predictions/"):
        return shrink_predictions(content, keeps_logits=keeps_logits)
    if PurePosixPath(name).name == DESCRIPTION:
        return json.dumps(_cut_nested_paths(json.loads(content)), indent=2).encode()
    return content


# ---------------------------------------------------------------- joining


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
        InputError: the runs differ in data, shifts, settings, versions or the recipe of a model;
            the message names the first difference. Or two runs have the same seed of a model, or
            not every model has every seed. Or predictions are missing or damaged, or `out` contains
            something else.
    """
    if len(runs) < 2:
        raise InputError(f"joining seeds takes at least two runs, found {len(runs)}")
    paths = [Path(run) for run in runs]
    names = shorten_names(paths)  # raises if one is named twice
    place = Path(out) if out is not None else Path("runs") / "+".join(names)
    # In order of their first seeds, because some parts of the page show only the first.
    parts = sorted((open_part(path) for path in paths), key=lambda part: min(part.record.seeds))
    check_joined_folder(place, paths, parts)
    holders, record = check_parts(parts), describe_joined_run(parts)
    steps = plan_remaining(record, parts, holders)
    tell = to_notify(progress)
    if any(part.record.ensemble for part in parts):
        words = "ensembles are left out, since each has the seeds of one run only"
        tell(Event("join", 0, None, line=words))
    return write_joined_run(place, record, parts, steps, tell)
