"""Run a study, and make the report of finished runs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.cli.first_checks import check_study_name, go_offline
from fairweather.cli.options import JSON, DataRoot, Device, Offline, Replace, RunFolder, takes
from fairweather.cli.terminal import Quiet, progress, resumable
from fairweather.cli.tracked import Track, check_first, send
from fairweather.errors import InputError, check_writable
from fairweather.executor_options import Sharing, read_sharing

if TYPE_CHECKING:
    from fairweather.steps.progressing import Outlook
    from fairweather.study import Study

StudyName = Annotated[
    str,
    typer.Argument(help="A packaged study (see: fairweather list studies), or a study file."),
]
Out = Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/NAME")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a key of the study, such as recipe.epochs=2 or models.basic.weights=none. "
        "Repeatable.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="How many seeds to train every model with (3 means the seeds 0, 1 and 2), or a list "
        "of seeds (3,4, or 3, for a single one).",
        show_default="as in the study, else 3",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Run, score and report only this model. Repeatable.")
]


@takes(Sharing)
def run(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    only: Only = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    replace: Replace = False,
    steps: Annotated[str | None, typer.Option(hidden=True)] = None,
    strategy: Annotated[
        str,
        typer.Option(help="How they work together: ddp, torch's DistributedDataParallel."),
    ] = "ddp",
    quiet: Quiet = False,
    track: Track = None,
    **sharing: Any,  # noqa: ANN401 - as Typer gives them
) -> None:
    """Run a study: train, predict under every shift, score and report.

    The same command continues a run that was interrupted.
    """
    check_study_name(study)
    if out is not None:
        check_writable(out)
    if steps is not None:
        raise InputError("--steps is gone: give the command with --worker, once for each part")
    asked = read_sharing(sharing)
    dataclasses.replace(asked, devices=1).check()
    from fairweather import study as studies

    checked = _read(study, set_, seeds, only, data_root, offline)
    check_first(track)
    helps = studies.helps_another(checked, asked.devices, asked.nodes)
    with resumable(), progress(quiet=quiet or helps) as show:
        finished = studies.run(
            checked,
            out=out,
            device=device,
            offline=offline,
            replace=replace,
            strategy=strategy,
            **sharing,
            progress=show,
        )
    if helps:
        return
    typer.echo(finished.overview() + "\n")
    print_places(finished.path)
    send(finished.path, track)


def plan(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    only: Only = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    json: JSON = False,
    quiet: Quiet = False,
) -> None:
    """Print the steps of a study, which of them are done, and how long the rest may take."""
    check_study_name(study)
    from fairweather import study as studies

    checked = _read(study, set_, seeds, only, data_root, offline)
    with resumable(), progress(quiet=quiet) as show:
        found = studies.plan(checked, out=out, device=device, offline=offline, progress=show)
    show_outlook(found, as_json=json)


def show_outlook(found: Outlook, *, as_json: bool) -> None:
    """Print a plan and how far it is, as a table or as JSON."""
    typer.echo(found.to_json() if as_json else str(found))


def cancel(run: RunFolder) -> None:
    """End the jobs that `--executor slurm` has submitted; what is finished stays."""
    from fairweather.executors import submitted
    from fairweather.runs import open_finished_run

    open_finished_run(run)
    ended = submitted.cancel(run)
    if ended:
        typer.echo(f"ended {ended} job{'s' * (ended > 1)} of {run}")
    else:
        typer.echo(f"no jobs of {run} are waiting or running")


def clean(
    run: RunFolder,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="What to remove: left-over (files of models that the study no longer has, and of "
            "interrupted steps), report, samples or predictions. Repeatable.",
            show_default="nothing",
        ),
    ] = None,
) -> None:
    """Show how much disk space a run takes, and remove files that can be made again."""
    from fairweather import cleaning
    from fairweather.runs import open_finished_run

    opened = open_finished_run(run)
    if remove:
        removed = cleaning.remove(run, remove)
        typer.echo(f"removed {len(removed.files)} files, {removed.bytes / 1e6:,.1f} MB\n")
    typer.echo(cleaning.as_table(cleaning.disk_use(opened)))


def _read(
    study: str,
    set_: list[str] | None,
    seeds: str | None,
    only: list[str] | None,
    data_root: str | None,
    offline: bool,
) -> Study:
    """Read and check the study that the command line asks for."""
    go_offline(offline)
    from fairweather.study import load_study

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    overrides = list(set_ or [])
    if seeds is not None:
        overrides.append(f"seeds=[{seeds}]" if "," in seeds else f"seeds={seeds}")
    if data_root is not None:
        overrides.append(f"data.root={json_text(data_root)}")
    return load_study(study, overrides, only or ())


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run folder, or several on the same test images.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the report of several runs; that of one run goes into its own.",
            show_default="reports/RUN+RUN; with --as-seeds runs/RUN+RUN",
        ),
    ] = None,
    as_seeds: Annotated[
        bool,
        typer.Option(
            "--as-seeds",
            help="Join runs of one study with different seeds or models into one run folder.",
        ),
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Make tables, figures and page again from the files of one or several runs."""
    if out is not None:
        check_writable(out)
    if as_seeds:
        check_first(track)
        place = join(runs, out, quiet=quiet)
        missing = _missing_files([place])
    else:
        if len(runs) == 1 and out is not None:
            words = "the report of one run goes into its own folder; --out is for several runs"
            raise InputError(words)
        if len(runs) > 1 and track is not None:
            raise InputError("--track sends one run, found several: send them one by one")
        missing = _missing_files(runs)
        check_first(track)
        place = _build(runs, out)
    for path, names in missing.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            words = (
                f"fairweather: {path} has no {names[0]}{more}; the report leaves out what needs it"
            )
            typer.echo(words, err=True)
    print_places(place)
    send(place, track)


def join(runs: Sequence[str | Path], out: Path | None = None, *, quiet: bool = False) -> Path:
    """Join runs as seeds of one run, and return its folder; a second call continues."""
    from fairweather.as_seeds import join_seeds

    with resumable(), progress(quiet=quiet) as show:
        return join_seeds(runs, out=out, progress=show).path


def pack(
    run: Annotated[Path, typer.Argument(help="A run folder of a study.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the small copy.", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this model; repeatable.", show_default="all"),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this shift or attack; repeatable.", show_default="all"),
    ] = None,
    no_variants: Annotated[
        bool, typer.Option("--no-variants", help="Leave out temperature scaling and the like.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a small copy of a run, to commit or to send: enough to join its seeds with others."""
    check_writable(out)
    from fairweather.as_seeds import pack_run

    with resumable(), progress(quiet=quiet) as show:
        kept = () if no_variants else None
        packed = pack_run(run, out, models=only, shifts=shift, variants=kept, progress=show)
    files = [each for each in packed.path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files)
    typer.echo(f"{packed.path}: {len(files)} files, {size / 1e6:.1f} MB")


def _missing_files(runs: Sequence[Path]) -> dict[Path, list[str]]:
    """Name the files that the report of each run misses; a changed file is an error."""
    from fairweather.report.intact import check_intact
    from fairweather.runs import open_finished_run

    opened = [open_finished_run(folder) for folder in runs]
    return {run.path: check_intact(run) for run in opened}


def _build(runs: Sequence[Path], out: Path | None) -> Path:
    """Report one run in its folder, or several side by side; return the folder of the report."""
    from fairweather.report import build_joint_report, rebuild_report
    from fairweather.report.joining import short_names
    from fairweather.runs import open_finished_run
    from fairweather.vega import lacks_addresses

    if lack := lacks_addresses():
        typer.echo(f"fairweather: {lack}; tables and page are written without them", err=True)
    opened = [open_finished_run(folder) for folder in runs]
    if len(opened) == 1:
        rebuild_report(runs[0])
        return runs[0]
    place = out or Path("reports") / "+".join(short_names(runs))
    build_joint_report(opened, place)
    return place


def print_places(folder: Path) -> None:
    """Print where tables, figures and page are."""
    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        if (folder / name).exists():  # figures may have been left out
            typer.echo(f"{what:<8}{folder / name}")
