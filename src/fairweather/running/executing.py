"""Begins and executes a run, whatever asked for it, or says how far it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fairweather import executors
from fairweather.errors import InputError, check_writable
from fairweather.executor_options import Sharing
from fairweather.executors import Work
from fairweather.finished_run import Run
from fairweather.progress import Event, Notify
from fairweather.record import RECORD, RunRecord
from fairweather.running.describing import record_of
from fairweather.running.inputs import Inputs, plan_of
from fairweather.running.telling import clean_steps, telling_clean
from fairweather.runs import RunFolder, check_takeable
from fairweather.steps.progressing import Outlook


def check_out(out: Path | None) -> None:
    """Raise `InputError` if the run folder cannot be written or is not one to work in."""
    if out is not None:
        check_writable(out)
        check_takeable(out)
    elif not Path("runs").exists():  # a folder in it may be writable where it is not
        check_writable(Path("runs"))


def carry_out(
    inputs: Inputs,
    out: Path | None,
    sharing: Sharing,
    tell: Notify,
    *,
    offline: bool = False,
    replace: bool = False,
) -> Run:
    """Begin or continue a run, by default in `runs/NAME`, and do all steps that are not done.

    Args:
        inputs: what is measured; the data sets are open.
        out: the run folder.
        sharing: who does the steps; it was checked.
        tell: called for every step, and for events within long ones.
        offline: never use the network.
        replace: replace finished work that was made with other settings.

    Raises:
        InputError: the folder cannot be used, a step refuses its input, or a process that did steps
            was killed.
        JobFailedError: a step failed in another process.
        NeedsMissingError: jobs of a cluster were cancelled.
    """
    path = out or Path("runs") / inputs.name
    check_writable(path)
    for line in inputs.lines:
        tell(Event("evaluate", 0, None, line=line))
    record = record_of(inputs)
    work = Work(
        path=path,
        # It shows within moments whether a model is used correctly.
        plan=plan_of(inputs).beginning_with(clean_steps(inputs)),
        record=record,
        device=inputs.settings.device,
        offline=offline,
        datasets=inputs.datasets,
        replace=replace,
        files=inputs.files,
        check=partial(_check_same, record=record) if inputs.opened else lambda _: None,
        models={each.source.digest: each.network for each in inputs.opened},
        given=inputs.given,
    )
    executors.carry_out(work, sharing, telling_clean(inputs, RunFolder(path), tell))
    return Run(path)


def outlook(inputs: Inputs, out: Path | None) -> Outlook:
    """Plan a run and say how far it is; nothing is written."""
    path = out or Path("runs") / inputs.name
    if RunFolder(path).is_read_only:
        check_takeable(path)
    return Outlook.of(inputs.name, path, plan_of(inputs))


def _check_same(folder: RunFolder, record: RunRecord) -> None:
    """Refuse a folder with results of another model or other data of the same name."""
    if not (folder.path / RECORD).is_file() or folder.record.name != record.name:
        return  # a run of another name is refused before it would be overwritten
    before = folder.record.models
    changed = [
        name
        for name, model in record.models.items()
        if name in before and before[name].facts.get("digest") != model.facts.get("digest")
    ]
    if changed:
        what = f"another model called {changed[0]!r}"
    elif folder.record.data.source != record.data.source:
        what = f"another data set called {record.data.name!r}"
    else:
        return
    raise InputError(
        f"{folder.path} contains the evaluation of {what}; replace it with --replace, "
        "or name another folder with --out"
    )
