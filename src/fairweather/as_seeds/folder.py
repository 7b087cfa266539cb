"""Writing the folder of joined runs, or of a small copy of one: what, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fairweather.as_seeds.fitting import Part
from fairweather.as_seeds.taken import Taken
from fairweather.errors import InputError
from fairweather.executors import execute
from fairweather.progress import Event, Notify
from fairweather.record import JOINED, STUDY, JoinedRecord, JoinedRun, RunRecord
from fairweather.runs import LOCK, RunFolder
from fairweather.steps import Plan, Worker
from fairweather.yamlfile import dump_yaml, read_yaml


def check_place(place: Path, runs: Sequence[Path], parts: Sequence[Part]) -> None:
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
    """Say whether both are the same run, which may have moved or have more seeds now.

    A small copy has no absolute paths in its command, so that commands are not compared.
    """
    command = {"command": second.provenance.command}
    provenance = first.provenance.model_copy(update=command)
    moved = first.model_copy(update={"path": second.path, "provenance": provenance}) == second
    return moved or Path(first.path).resolve() == Path(second.path).resolve()


def begin(
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


def write_study(folder: RunFolder, record: RunRecord, first: Part) -> None:
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


def copy(taken: Taken, folder: RunFolder) -> None:
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


def fill(
    folder: RunFolder, taken: Mapping[str, Taken], plan: Plan, word: str, tell: Notify
) -> None:
    """Copy the steps that were taken from the runs, and do those of the plan."""
    for number, (step, each) in enumerate(taken.items(), start=1):
        copy(each, folder)
        tell(Event(word, number, len(taken), step))
    execute(plan, folder, Worker(plan, device="cpu", progress=tell), tell)
