"""Run a study, and report on what it left."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.progress import progress, resumable


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
    with resumable(), progress() as show:
        finished = studies.run(checked, out=out, device=device, offline=offline, progress=show)
    print_places(finished.path)


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Build tables, figures and page again from a run folder alone."""
    from fairweather.report import build_report
    from fairweather.runs import open_finished_run

    build_report(open_finished_run(folder))
    print_places(folder)


def print_places(folder: Path) -> None:
    """Say where tables, figures and page are."""
    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        typer.echo(f"{what:<8}{folder / name}")
