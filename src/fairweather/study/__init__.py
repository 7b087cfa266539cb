"""From a study file to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairweather.progress import Notify
from fairweather.runs import RunFolder, open_finished_run
from fairweather.study.loading import check_study as check_study
from fairweather.study.loading import load_study as load_study
from fairweather.study.loading import packaged_studies as packaged_studies
from fairweather.study.loading import study_facts as study_facts
from fairweather.study.schema import Study as Study
from fairweather.study.steps import execute as execute


def run(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    progress: Notify | None = None,
) -> RunFolder:
    """Run a study, or what is left of it: train, predict every cell, score, report.

    Args:
        study: the name of a packaged study, the path of a study file, or a checked `Study`.
        out: the run folder, by default `runs/NAME`; a folder with the same run is taken up again.
        overrides: such as `recipe.epochs=2`; only for a study that is read from a name or path.
        only: names of the models to run.
        device: `auto`, `cpu`, `cuda`, ...
        offline: never touch the network.
        progress: called with every `Event`.

    Returns:
        The run folder; `.path` is where it is, `.scores` the table of scores.csv.
    """
    checked = study if isinstance(study, Study) else load_study(study, overrides, only)
    path = Path(out) if out is not None else Path("runs") / checked.name
    for event in execute(checked, path, device=device, offline=offline, progress=progress):
        if progress is not None:
            progress(event)
    return open_finished_run(path)
