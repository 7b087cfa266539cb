"""Joins runs with different seeds into one run, so that several machines can share the work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fairweather.as_seeds.fitting import check_fit, open_part
from fairweather.as_seeds.folder import begin, check_place, fill, write_study
from fairweather.as_seeds.packing import pack_run
from fairweather.as_seeds.planning import describe, plan_rest
from fairweather.display import shows_progress, teller
from fairweather.errors import InputError
from fairweather.finished_run import Run
from fairweather.progress import Event, Notify
from fairweather.report.joining import short_names
from fairweather.runs import lock_run

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
    names = short_names(paths)  # raises if one is named twice
    place = Path(out) if out is not None else Path("runs") / "+".join(names)
    # In order of their first seeds, since the first is shown where only one seed can be.
    parts = sorted((open_part(path) for path in paths), key=lambda part: min(part.record.seeds))
    check_place(place, paths, parts)
    held = check_fit(parts)
    record = describe(parts)
    rest = plan_rest(record, parts, held)
    tell = teller(progress)
    if any(part.record.ensemble for part in parts):
        words = "ensembles are left out, since each has the seeds of one run only"
        tell(Event("join", 0, None, line=words))
    with lock_run(place) as folder:
        begin(folder, record, parts, rest.taken)
        write_study(folder, record, parts[0])
        fill(folder, rest.taken, rest.plan, "join", tell)
    return Run(place)
