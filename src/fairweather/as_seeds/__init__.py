"""Runs with different seeds, joined into one run, so that hours on several machines add up."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fairweather.as_seeds.fitting import check_fit, open_part
from fairweather.as_seeds.folder import begin, check_place, copy, write_study
from fairweather.as_seeds.packing import pack_run
from fairweather.as_seeds.planning import describe, plan_rest
from fairweather.errors import InputError
from fairweather.executors import execute
from fairweather.finished_run import Run
from fairweather.progress import Event, Notify, silent
from fairweather.report.joining import short_names
from fairweather.runs import lock_run
from fairweather.steps import Worker

__all__ = ["join_seeds", "pack_run"]


def join_seeds(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    progress: Notify | None = None,
) -> Run:
    """Join runs of one study with different seeds, or different models, into one run.

    It is a run folder of its own with what the others left, but for weights, and with scores and
    a report of all seeds together. Scores are computed from the predictions of single images, as if
    one run had had all seeds. Ensembles are left out: they were of other seeds than these. The
    folders may lack weights, and they stay as they are.

    Args:
        runs: run folders of studies, two or more; in which order does not matter for seeds.
        out: the folder of the joined run, by default `runs/RUN+RUN`; one that was joined before is
            brought up to date.
        progress: called with every `Event`.

    Raises:
        InputError: the runs differ in data, shifts, settings, versions or the recipe of a model,
            and the first difference is named; a seed of a model stands in two of them; not every
            model has every seed; predictions are missing or damaged; or `out` holds something else.
    """
    if len(runs) < 2:
        raise InputError(f"joining seeds takes at least two runs, found {len(runs)}")
    paths = [Path(run) for run in runs]
    names = short_names(paths)  # raises where one is named twice
    place = Path(out) if out is not None else Path("runs") / "+".join(names)
    # The first seed of a study stands for all where only one can be shown.
    parts = sorted((open_part(path) for path in paths), key=lambda part: min(part.record.seeds))
    check_place(place, paths, parts)
    held = check_fit(parts)
    record = describe(parts)
    rest = plan_rest(record, parts, held)
    tell = progress or silent
    if any(part.record.ensemble for part in parts):
        words = "ensembles are left out: they are of fewer seeds than are joined"
        tell(Event("join", 0, None, line=words))
    with lock_run(place) as folder:
        begin(folder, record, parts, rest.taken)
        write_study(folder, record, parts[0])
        for number, (step, taken) in enumerate(rest.taken.items(), start=1):
            copy(taken, folder)
            tell(Event("join", number, len(rest.taken), step))
        execute(rest.plan, folder, Worker(rest.plan, device="cpu", progress=tell), tell)
    return Run(place)
