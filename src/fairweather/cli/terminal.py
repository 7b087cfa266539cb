"""Progress bars on a terminal, one line per step elsewhere, and how interrupted commands end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.errors import NeedsMissingError, StoppedError
from fairweather.progress import duration

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from fairweather.progress import Event, Finished, Notify

# Characters of a terminal: from WIDE on there is room for a bar, from NARROW on for times.
WIDE, NARROW = 110, 66
# Seconds between two plain lines about a step that takes long, where there is no terminal.
BETWEEN_LINES = 60.0

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


@contextmanager
def resumable() -> Iterator[None]:
    """End with one line if the work stops before its end but can be continued.

    The status is 130 if the user interrupts it, 143 and 129 if the system ends it (SIGTERM, as
    batch systems do, and SIGHUP), and 3 if it needs what others have not done yet.
    """
    try:
        with _ended_in_order():
            yield
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues from here", err=True)
        raise typer.Exit(130) from None
    except NeedsMissingError as error:
        typer.echo(f"fairweather: {error}", err=True)
        raise typer.Exit(3) from None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does: children end, claims are given back."""
    if threading.current_thread() is not threading.main_thread():  # only that may set handlers
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        # Not by a stream, which may be just writing.
        os.write(
            2, f"ended by {signal.Signals(number).name}; the same command continues\n".encode()
        )
        raise StoppedError(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has one
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    try:
        for name, handler in before.items():
            if handler == signal.SIG_DFL:  # nohup ignores SIGHUP, and that is to stay
                signal.signal(getattr(signal, name), end)
        yield
    finally:
        for name, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(getattr(signal, name), handler)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Notify]:
    """Show a bar for every task on a terminal; elsewhere print plain lines.

    These are one for every finished step, and one a minute about a training that takes longer. Both
    go to stderr. The lines that a person should read go to stdout in any case; with `quiet` nothing
    else is printed.
    """
    if quiet:
        yield _say
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with Progress(*_columns(console.width), console=console, expand=True) as bars:
        tasks: dict[str, int] = {}

        def show(event: Event) -> None:
            _say(event)
            if event.line or event.finished:
                return
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(event.task, total=event.total, note="")
            completed = event.done + event.part  # the display counts whole units
            bars.update(tasks[event.task], completed=completed, total=event.total, note=event.note)  # type: ignore[arg-type]

        yield show


def _columns(width: int) -> list[ProgressColumn]:
    """The columns of the progress display on a terminal of so many characters.

    Numbers are never cut: 8 of 15 must not read 8/1. Names and notes are cut instead, and a narrow
    terminal has no bar and no times.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(width * 2 // 5, 1))
    rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)  # what the other columns leave

    def whole() -> Column:
        return Column(no_wrap=True)

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=name)
    ]
    if width >= WIDE:
        columns.append(BarColumn(bar_width=20))
    columns.append(MofNCompleteColumn(table_column=whole()))
    if width >= NARROW:
        columns += [
            TimeElapsedColumn(table_column=whole()),
            TextColumn("left", table_column=whole()),
            TimeRemainingColumn(table_column=whole()),
        ]
    return [*columns, TextColumn("{task.fields[note]}", markup=False, table_column=rest)]


class _Lines:
    """Print a line for every finished step, and one a minute about what takes longer."""

    def __init__(self) -> None:
        self.printed = time.monotonic()
        self.began: dict[str, tuple[float, float]] = {}  # by task: when, and what was done then

    def __call__(self, event: Event) -> None:
        _say(event)
        now = time.monotonic()
        if event.finished is not None:
            line = finished_line(event.finished, event.done, event.total)
        elif event.line or event.total is None or event.done >= event.total:
            return
        else:
            since, before = self.began.setdefault(event.task, (now, event.done + event.part))
            if now - self.printed < BETWEEN_LINES:
                return
            line = working_line(event, now - since, event.done + event.part - before)
        self.printed = now
        typer.echo(line, err=True)


def working_line(event: Event, seconds: float, units: float) -> str:
    """Describe a task that goes on in one plain line, from how long its last units took.

    >>> from fairweather.progress import Event
    >>> working_line(Event("train Basic, seed 0", 2, 8, "validation accuracy 93.1%"), 460.0, 2.0)
    '...   train Basic, seed 0  2 of 8, about 23 min to go  validation accuracy 93.1%'
    """
    done, total = event.done + event.part, event.total or 0
    exact = f"{done:.1f}" if event.part else f"{event.done}"
    left = f", about {duration((total - done) * seconds / units)} to go" if units else ""
    return f"...   {event.task}  {exact} of {total}{left}  {event.note}".rstrip()


def finished_line(step: Finished, done: int, total: int | None) -> str:
    """Describe a finished step in one plain line.

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
