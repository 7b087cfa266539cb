"""The demonstration: its finding, its page, and what to do next."""

from __future__ import annotations

from json import dumps as json_text
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.options import JSON, Quiet, Replace, progress, resumable


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    replace: Replace = False,
    json: JSON = False,
    quiet: Quiet = False,
) -> None:
    """See in a minute what fairweather finds: a digit classifier in fog.

    It measures a small network, which comes with the package, on 1,000 handwritten digits under
    five shifts. The same command continues an interrupted demo.

    Examples:
        fairweather demo
        fairweather demo --out runs/fog --json
    """
    from fairweather.requests import demonstration

    with resumable(), progress(quiet=quiet) as show:
        run = demonstration.demo(out=out, replace=replace, progress=show)
    finding, commands = demonstration.read_finding(run), demonstration.next_commands(run)
    page = run.path / "report.html"
    if json:
        scores = {name: score._asdict() for name, score in finding._asdict().items()}
        facts = {"finding": scores, "page": str(page), "commands": list(commands)}
        typer.echo(json_text(facts, indent=1))
        return
    typer.echo(f"\n{finding}\n\npage    {page}\n\nIts confidence does not warn you. These do:\n")
    for command, effect in commands.items():
        typer.echo(f"  {command}\n      {effect}")
