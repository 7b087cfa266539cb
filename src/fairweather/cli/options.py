"""What the commands have in common: options, progress, interruption and tracking."""

from __future__ import annotations

import dataclasses
import inspect
import os
import signal
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.errors import InputError, NeedsMissingError, StoppedError, unknown_name
from fairweather.progress import display
from fairweather.types.options import Channels, DataOptions, option_flag

if TYPE_CHECKING:
    from fairweather.progress import Notify


# ---------------------------------------------------------------- what a command shows of its progr

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]


@contextmanager
def resumable() -> Iterator[None]:
    """End with one line if the work stops before its end but can be continued.

    The status is 130 if the user interrupts it, 143 and 129 if the system ends it (SIGTERM, as
    batch systems do, and SIGHUP), and 3 if the jobs that did the steps were cancelled.
    """
    try:
        with _end_on_signals():
            yield
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues from here", err=True)
        raise typer.Exit(130) from None
    except NeedsMissingError as error:
        typer.echo(f"fairweather: {error}", err=True)
        raise typer.Exit(3) from None


@contextmanager
def _end_on_signals() -> Iterator[None]:
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


# ---------------------------------------------------------------- what is done before torch is impo


def check_study_name(study: str) -> None:
    """Raise `InputError` unless this is a packaged study or a file.

    >>> check_study_name("quickstrat")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown study 'quickstrat'; did you mean 'quickstart'? known: ...
    """
    if Path(study).is_file():
        return
    files = (resources.files("fairweather") / "studies").iterdir()
    packaged = [each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml")]
    if study in packaged:
        return
    if Path(study).suffix in (".yaml", ".yml") or len(Path(study).parts) > 1:
        raise InputError(f"there is no study file {study}")
    raise unknown_name("study", study, packaged)


def go_offline(offline: bool) -> None:
    """Keep huggingface_hub off the network if asked to; it reads this when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


# ---------------------------------------------------------------- the options of the command line,

Command = Callable[..., None]


def _declare_option(kind: type, name: str, given: Any) -> Any:  # noqa: ANN401 - a type
    """An option of a type, as a command that has only some of its options declares it."""
    told = next(each.metadata for each in dataclasses.fields(kind) if each.name == name)
    option = typer.Option(
        option_flag(name, told), help=told["help"], min=told["least"], show_default=True
    )
    return Annotated[given, option]


DataRoot = _declare_option(DataOptions, "root", str | None)
Size = _declare_option(DataOptions, "size", int | None)
SkipUnreadable = _declare_option(DataOptions, "skip_unreadable", bool)
Scale = _declare_option(DataOptions, "scale", str | None)
DataArgument = Annotated[
    str, typer.Argument(help="A data source, such as folder:PATH (see: fairweather list data).")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
Device = Annotated[str, typer.Option(help="The device: auto, cpu, cuda, cuda:1 or mps.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Overwrite results in the folder that were made with other settings."
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Suites = Annotated[
    list[str] | None,
    typer.Option(help="A suite of shifts (see: fairweather list suites). Repeatable."),
]
Shifts = Annotated[
    list[str] | None,
    typer.Option(
        help="A shift, NAME[,parameter=value...] (see: fairweather list shifts). Repeatable."
    ),
]


def takes(kind: type) -> Callable[[Command], Command]:
    """Give a command the options of a type, with their help, in place of its `**options`."""

    def naming(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        parameters = [each for each in own.parameters.values() if each.kind != each.VAR_KEYWORD]
        kinds = typing.get_type_hints(kind)
        for option in dataclasses.fields(kind):
            told, default = option.metadata, option.default
            shown = told["shown"] or default not in ((), None, False)
            said = typer.Option(
                option_flag(option.name, told),
                help=told["help"],
                metavar=told["metavar"],
                show_default=shown,
            )
            parameters.append(
                inspect.Parameter(
                    option.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if default == () else default,
                    annotation=Annotated[_command_line_type(option.name, kinds[option.name]), said],
                )
            )
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return naming


def _command_line_type(name: str, kind: Any) -> Any:  # noqa: ANN401 - a type
    """The type that an option has on the command line.

    A mapping is given as a file, a tuple of texts by repeating the option, three numbers as R,G,B,
    and classes with commas between them.
    """
    choices = set(typing.get_args(kind)) - {types.NoneType} if _is_union(kind) else {kind}
    if Channels in choices or name == "classes":
        return str | None
    if kind == tuple[str, ...] or name in ("natural", "variants", "fit_on", "title"):
        return list[str] | None
    if any(typing.get_origin(each) is Mapping for each in choices):
        return Path | None
    return kind


def _is_union(kind: object) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


# ---------------------------------------------------------------- the option --track: it is checked

Track = Annotated[
    str | None,
    typer.Option("--track", help="Send the finished run to a tracker: mlflow.", show_default=False),
]


def check_tracking(tracker: str | None) -> None:
    """Raise `InputError` before the work, and not after it, if the tracker cannot be reached."""
    if tracker is not None:
        from fairweather.share.tracking import check_tracker

        check_tracker(tracker)


def send_run(folder: Path, tracker: str | None) -> None:
    """Send a finished run and print where it went; None sends nothing."""
    if tracker is not None:
        from fairweather.runs.folder import open_finished_run
        from fairweather.share.tracking import track

        with resumable():
            place = track(open_finished_run(folder), tracker)
        typer.echo(f"{tracker:<8}{place}")
