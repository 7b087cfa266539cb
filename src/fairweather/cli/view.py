"""One page over all runs below a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def view(
    folder: Annotated[Path, typer.Argument(help="The folder that has your runs.")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="The page to write.", show_default="FOLDER/index.html")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Also open the page in your web browser.")
    ] = False,
) -> None:
    """List all runs below a folder on one page, to sort, filter and compare them."""
    from fairweather.report.runs_page import view as write_page

    page = write_page(folder, out)
    typer.echo(f"{'page':<8}{page}")
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        typer.echo("fairweather: there is no web browser here; open the page yourself", err=True)
