"""Run a study, and report on what it left."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.terminal import progress, resumable
from fairweather.cli.tracked import Track, check_first, send
from fairweather.errors import InputError


def run(
    study: Annotated[str, typer.Argument(help="A packaged study (see `list`) or a study file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/NAME")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: recipe.epochs=2, models.basic.weights=none."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run, score and report only this model; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    track: Track = None,
) -> None:
    """Run a study: train, predict under every shift, score, report. Run again to go on."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    from fairweather import study as studies

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    overrides = list(set_ or [])
    if data_root is not None:
        import json

        overrides.append(f"data.root={json.dumps(data_root)}")
    checked = studies.load_study(study, overrides, only or ())
    check_first(track)
    with resumable(), progress() as show:
        finished = studies.run(checked, out=out, device=device, offline=offline, progress=show)
    print_places(finished.path)
    send(finished.path, track)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run folder, or several on the same test images.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where the report of several runs goes; that of one goes into the run.",
            show_default="reports/RUN+RUN",
        ),
    ] = None,
    track: Track = None,
) -> None:
    """Build tables, figures and page again from run folders alone."""
    from fairweather.report import build_joint_report, build_report
    from fairweather.report.intact import check_intact
    from fairweather.report.joining import short_names
    from fairweather.runs import open_finished_run

    if len(runs) == 1 and out is not None:
        raise InputError("the report of one run goes into its folder; --out is for several runs")
    if len(runs) > 1 and track is not None:
        raise InputError("--track sends one run, found several; send them one by one")
    opened = [open_finished_run(folder) for folder in runs]
    check_first(track)
    missing = {run.path: check_intact(run) for run in opened}
    if len(opened) == 1:
        build_report(opened[0])
        place = runs[0]
    else:
        place = out or Path("reports") / "+".join(short_names(runs))
        build_joint_report(opened, place)
    for path, names in missing.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            words = f"fairweather: {path} has no {names[0]}{more}; what needs it is left out"
            typer.echo(words, err=True)
    print_places(place)
    send(place, track)


def print_places(folder: Path) -> None:
    """Say where tables, figures and page are."""
    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        typer.echo(f"{what:<8}{folder / name}")
