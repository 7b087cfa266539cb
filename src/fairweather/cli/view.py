"""One page over all runs below a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.options import suggest


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with your runs.")] = Path(
        "runs"
    ),
    out: Annotated[
        Path | None, typer.Option(help="File of the page.", show_default="FOLDER/index.html")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Also open the page in your web browser.")
    ] = False,
) -> None:
    """List all runs below a folder on one page, to sort, filter and compare them.

    Examples:
        fairweather view
        fairweather view runs/2026 --open
    """
    from fairweather.report.runs_page import view as write_page

    page = write_page(folder, out)
    typer.echo(f"{'page':<8}{page}")
    if not (open_ and webbrowser.open(page.resolve().as_uri())):
        suggest("open {}", page)
