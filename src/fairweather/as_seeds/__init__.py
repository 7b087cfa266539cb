"""Joins runs with different seeds into one run, so that several machines can share the work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fairweather.as_seeds.fitting import Part, check_fit, open_part
from fairweather.as_seeds.planning import describe, plan_rest
from fairweather.as_seeds.taken import Taken
from fairweather.errors import InputError
from fairweather.executors import execute
from fairweather.finished_run import Run
from fairweather.progress import Event, Notify, silent
from fairweather.record import JOINED, STUDY, JoinedRecord, JoinedRun, RunRecord
from fairweather.report.joining import short_names
from fairweather.runs import LOCK, RunFolder, lock_run
from fairweather.steps import Worker
from fairweather.yamlfile import dump_yaml, read_yaml

__all__ = ["join_seeds"]


def join_seeds(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Notify | None = None,
) -> Run:
    """Join runs of one study with different seeds, or different models, into one run.

    The result is a new run folder. It contains the files of the other folders except weights, and
    scores and a report of all seeds together. Scores are computed from the predictions of single
    images, as if one run had all seeds. Ensembles are left out, since each has the seeds of one run
    only. The given folders may lack weights, and are not changed.

    Args:
        runs: run folders of studies, two or more; their order does not matter for seeds.
        out: the folder of the joined run, by default `runs/RUN+RUN`; an earlier joined run of the
            same folders is updated.
        progress: called with every `Event`.

    Raises:
        InputError: the runs differ in data, shifts, settings, versions or the recipe of a model
            (the message names the first difference); two runs contain the same seed of a model; not
            every model has every seed; predictions are missing or damaged; or `out` contains
            something else.
    """
    if len(runs) < 2:
        raise InputError(f"joining seeds takes at least two runs, found {len(runs)}")
    paths = [Path(run) for run in runs]
    names = short_names(paths)  # raises if one is named twice
    place = Path(out) if out is not None else Path("runs") / "+".join(names)
    # In order of their first seeds, since the first is shown where only one seed can be.
    parts = sorted((open_part(path) for path in paths), key=lambda part: min(part.record.seeds))
    _check_place(place, paths, parts)
    held = check_fit(parts)
    record = describe(parts)
    rest = plan_rest(record, parts, held)
    tell = progress or silent
    if any(part.record.ensemble for part in parts):
        words = "ensembles are left out, since each has the seeds of one run only"
        tell(Event("join", 0, None, line=words))
    with lock_run(place) as folder:
        _begin(folder, record, parts, rest.taken)
        for number, (step, taken) in enumerate(rest.taken.items(), start=1):
            _copy(taken, folder)
            tell(Event("join", number, len(rest.taken), step))
        execute(rest.plan, folder, Worker(rest.plan, device="cpu", progress=tell), tell)
    return Run(place)


def _check_place(place: Path, runs: Sequence[Path], parts: Sequence[Part]) -> None:
    """Raise `InputError` unless the folder is new, or was joined from these runs before.

    There may be more runs now than before, and their folders may have moved.
    """
    if place.is_file():
        raise InputError(f"{place} is a file, not a folder for the joined run")
    if place.resolve() in [run.resolve() for run in runs]:
        raise InputError(f"{place} is one of the runs; name another folder for the joined run")
    holds = {path.name for path in place.iterdir()} - {LOCK} if place.is_dir() else set()
    if holds and not RunFolder(place).is_joined:
        raise InputError(
            f"{place} holds something other than joined runs; name another folder with --out"
        )
    given = [_joined_run(part) for part in parts]
    before = RunFolder(place).joined.runs if holds else ()
    others = [each.path for each in before if not any(_is_same(each, run) for run in given)]
    if others:
        raise InputError(
            f"{place} was joined from other runs, such as {others[0]}; name another folder with "
            "--out"
        )


def _joined_run(part: Part) -> JoinedRun:
    return JoinedRun(
        path=part.name,
        models=tuple(part.record.models),
        seeds=part.record.seeds,
        provenance=part.record.provenance,
    )


def _is_same(first: JoinedRun, second: JoinedRun) -> bool:
    """Say whether both are the same run, which may have moved or have more seeds now."""
    moved = first.model_copy(update={"path": second.path}) == second
    return moved or Path(first.path).resolve() == Path(second.path).resolve()


def _begin(
    folder: RunFolder, record: RunRecord, parts: Sequence[Part], taken: Mapping[str, Taken]
) -> None:
    """Write the record of the joined run, and remove its steps that differ from those of the runs.

    Scores and report are removed first: if joining is then interrupted, the folder has no numbers
    rather than wrong ones.
    """
    joined = JoinedRecord(runs=tuple(map(_joined_run, parts)))
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
    study = parts[0].run.file(STUDY)
    if study.is_file() and isinstance(first := read_yaml(study), dict):
        folder.write(STUDY, dump_yaml({**first, **_whole_study(record)}))


def _whole_study(record: RunRecord) -> dict[str, object]:
    """The keys in which the study of all models and seeds differs from that of the first run."""
    entries = {
        key: {name: {"title": each.title, **each.settings} for name, each in networks.items()}
        for key, networks in (("models", record.models), ("pretraining", record.pretraining))
    }
    return {"seeds": list(record.seeds), "ensemble": record.ensemble, **entries}


def _copy(taken: Taken, folder: RunFolder) -> None:
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
