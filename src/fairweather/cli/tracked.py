"""The option --track: it is checked first, and the finished run is sent at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.terminal import resumable

Track = Annotated[
    str | None,
    typer.Option("--track", help="Send the finished run to a tracker: mlflow.", show_default=False),
]


def check_first(tracker: str | None) -> None:
    """Raise `InputError` before the work, and not after it, if the tracker cannot be reached."""
    if tracker is not None:
        from fairweather.tracking import check_tracker

        check_tracker(tracker)


def send(folder: Path, tracker: str | None) -> None:
    """Send a finished run and print where it went; None sends nothing."""
    if tracker is not None:
        from fairweather.runs import open_finished_run
        from fairweather.tracking import track

        with resumable():
            place = track(open_finished_run(folder), tracker)
        typer.echo(f"{tracker:<8}{place}")
