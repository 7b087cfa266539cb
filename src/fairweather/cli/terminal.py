"""What a command shows of its progress, and how interrupted commands end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.display import display
from fairweather.errors import NeedsMissingError, StoppedError

if TYPE_CHECKING:
    from fairweather.progress import Notify

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


@contextmanager
def resumable() -> Iterator[None]:
    """End with one line if the work stops before its end but can be continued.

    The status is 130 if the user interrupts it, 143 and 129 if the system ends it (SIGTERM, as
    batch systems do, and SIGHUP), and 3 if the jobs that did the steps were cancelled.
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
        yield lambda event: typer.echo(event.line) if event.line else None
        return
    with display(typer.echo, every_step=True) as show:
        yield show
