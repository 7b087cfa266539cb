"""Progress bars on a terminal, a line a step elsewhere, and how an interrupted command ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.progress import duration

if TYPE_CHECKING:
    from fairweather.progress import Event, Finished, Notify


Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


@contextmanager
def resumable() -> Iterator[None]:
    """End with status 130 and a word when the user interrupts what can be taken up again."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Notify]:
    """Show a bar with ETA for every task on a terminal; elsewhere, a line for every finished step.

    Both are on stderr. Lines for people are said on stdout in any case, and alone with `quiet`.
    """
    if quiet:
        yield _say
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log
        return
    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=5)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def show(event: Event) -> None:
            _say(event)
            if event.line or event.finished:
                return
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(event.task, total=event.total, note="")
            bars.update(tasks[event.task], completed=event.done, total=event.total, note=event.note)  # type: ignore[arg-type]

        yield show


def _log(event: Event) -> None:
    _say(event)
    if event.finished is not None:
        typer.echo(finished_line(event.finished, event.done, event.total), err=True)


def finished_line(step: Finished, done: int, total: int | None) -> str:
    """Tell of a finished step in one plain line.

    >>> from fairweather.progress import Finished
    >>> finished_line(Finished("train Basic, seed 0", 41.2, 720.0), 3, 24)
    'done  train Basic, seed 0  41 s  (3 of 24, about 12 min to go)'
    """
    time = f"{step.seconds:.1f} s" if step.seconds < 9.95 else duration(step.seconds)
    left = "" if step.left is None else f", about {duration(step.left)} to go"
    return f"done  {step.label}  {time}  ({done} of {total}{left})"


def _say(event: Event) -> None:
    if event.line:
        typer.echo(event.line)
