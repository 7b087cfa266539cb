"""The disk use of a run, and removing files that the same command can make again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fairweather.errors import unknown_name
from fairweather.runs.claims import lock_run, remove_empty_folders
from fairweather.runs.folder import PARTIAL, RunFolder, open_finished_run
from fairweather.types.record import StepKind, StepRecord, is_part_of, step_file

# The kinds of files that may be removed, each with how it can be made again.
REMOVABLE: Mapping[str, str] = {
    "left-over": "of models, shifts and seeds that the run no longer has, and of interrupted steps",
    "report": "quickly made again from the scores and predictions",
    "samples": "made again from the data and predictions, and from the models if there are attacks",
    "predictions": "made again from the models and the data, which may take long",
}
# The kinds of files in the order they are made, with the steps that write them.
_STEPS: Mapping[str, Sequence[StepKind]] = {
    "models": ("pretrain", "train", "choose"),
    "predictions": ("fit", "features", "conform", "predict"),
    "scores": ("group", "read", "score"),  # intervals over groups need the groups
    "samples": ("sample",),
    "report": ("report",),
    "left-over": (),
}


class DiskUse(NamedTuple):
    """The disk use of one kind of files."""

    kind: str
    """`models`, `predictions`, `scores`, `samples`, `report` or `left-over`."""

    files: tuple[str, ...]
    """Names in the run folder, or folders of interrupted trainings."""

    bytes: int
    """Total size."""


def measure_disk_use(run: RunFolder) -> list[DiskUse]:
    """Give the disk use of each kind of files in a run folder, in the order they are made."""
    names_of: dict[str, list[str]] = {kind: [] for kind in _STEPS}
    for kind, step in _steps_by_kind(run):
        names_of[kind] += step.files
    names_of["left-over"] += [*_list_interrupted(run), *map(step_file, run.damaged_steps())]
    uses = []
    for kind, names in names_of.items():
        existing = [name for name in names if run.file(name).exists()]
        uses.append(DiskUse(kind, tuple(existing), sum(_size(run.file(name)) for name in existing)))
    return uses


def _steps_by_kind(run: RunFolder) -> Iterator[tuple[str, StepRecord]]:
    kind_of = {step: kind for kind, steps in _STEPS.items() for step in steps}
    for step in run.readable_steps():
        yield kind_of[step.kind] if is_part_of(run.record, step) else "left-over", step


def remove_files(path: Path, kinds: Sequence[str]) -> DiskUse:
    """Remove files of some kinds that can be made again; returns what was removed.

    Raises:
        InputError: a kind is not in `REMOVABLE`, or there is no run, or a process works in it.
    """
    for kind in kinds:
        if kind not in REMOVABLE:
            raise unknown_name("kind of files", kind, REMOVABLE)
    open_finished_run(path)
    with lock_run(path) as run:
        uses = [use for use in measure_disk_use(run) if use.kind in kinds]
        for kind, step in _steps_by_kind(run):
            if kind in kinds:
                run.forget(step.id)
        if "left-over" in kinds:
            for damaged in run.damaged_steps():
                run.forget(damaged)
            for name in _list_interrupted(run):
                place = run.file(name)
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)
        remove_empty_folders(run.path)
    files = tuple(name for use in uses for name in use.files)
    return DiskUse("removed", files, sum(use.bytes for use in uses))


def _list_interrupted(run: RunFolder) -> Iterator[str]:
    """Names of the states of unfinished trainings, and of partially written files."""
    for path in sorted(run.path.rglob("*")):
        if path.is_symlink():
            continue
        name = path.relative_to(run.path).as_posix()
        trained = name.startswith(("models/", "pretraining/"))
        if (path.is_dir() and path.name == "resume" and trained) or PARTIAL.fullmatch(path.name):
            yield name


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def format_disk_use(uses: Sequence[DiskUse]) -> str:
    """Write disk use as one line per kind.

    >>> print(format_disk_use([DiskUse("models", ("a", "b"), 3_000_000)]))
    models             2 files         3.0 MB
    """
    return "\n".join(
        f"{use.kind:<14}{len(use.files):>6} files  {use.bytes / 1e6:>11,.1f} MB" for use in uses
    )
