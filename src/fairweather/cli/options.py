"""What the commands have in common: options, progress, interruption and tracking."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import signal
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.errors import InputError, NeedsMissingError, StoppedError, check_writable
from fairweather.progress import display
from fairweather.types.options import Channels, DataOptions, WrittenNumber, option_flag

if TYPE_CHECKING:
    from fairweather.progress import Notify


# ---------------------------------------------------------------- progress and interruption

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no hints.")]


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

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # nohup ignores SIGHUP, and that is to stay; Windows has only SIGTERM.
    unhandled = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in unhandled:
            signal.signal(number, end)
        yield
    finally:
        for number in unhandled:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Notify]:
    """Show a bar for every task on a terminal; elsewhere print a line for each stage and minute.

    Both go to stderr. The lines that a person should read go to stdout in any case; with `quiet`
    nothing else is printed.
    """
    if quiet:
        yield lambda event: typer.echo(event.line) if event.line else None
        return
    with display(typer.echo, every_stage=True) as show:
        yield show


def suggest(what: str, *names: object, quiet: bool = False) -> None:
    """End a command with what to open or run next, on stderr, since it is no result.

    Each `{}` stands for one of the names, which are quoted as a shell takes them.
    """
    if not quiet:
        line = what.format(*(shlex.quote(str(name)) for name in names))
        typer.echo(f"next    {line}", err=True)


UNLIKE = 4  # the exit status if the images differ from the validation images


def suggest_measuring(run: str, labelled: str = "", *, quiet: bool) -> None:
    """End a command with how to measure a model on images that nobody has labelled yet.

    Args:
        run: the run of the model.
        labelled: the data set that they become, if `estimate` is not about it.
        quiet: whether to say nothing.
    """
    what = "label about 100 of these images, then: fairweather "
    if labelled:
        suggest(what + "evaluate MODEL {}", labelled, quiet=quiet)
    else:
        suggest(what + "estimate {} folder:LABELLED --with-labels", run, quiet=quiet)


# ---------------------------------------------------------------- first checks


# What is said before the form of a file that is not of it.
_REASONS = {".json": "the result is written as JSON: ", ".png": "a contact sheet is a PNG: "}


def check_file(
    option: str, suffixes: tuple[str, ...], path: Path, *, in_present_folder: bool = False
) -> None:
    """Raise `InputError` unless a file with one of the suffixes can be written there."""
    if suffixes and path.suffix.lower() not in suffixes:
        reason = _REASONS.get(suffixes[0], "")
        raise InputError(f"{reason}{option} must end with {' or '.join(suffixes)}, found {path}")
    if in_present_folder and not path.parent.is_dir():
        raise InputError(f"{option}: there is no folder {path.parent}")
    check_writable(path.parent)
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder; name a file")


def go_offline(offline: bool) -> None:
    """Keep huggingface_hub off the network if asked to; it reads this when it is imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


# ---------------------------------------------------------------- options

Command = Callable[..., None]
_type_hints = cache(typing.get_type_hints)


def _declare_option(kind: type, name: str) -> Any:  # noqa: ANN401 - a type
    """An option of a type, as a command declares it."""
    option = next(option for option in dataclasses.fields(kind) if option.name == name)
    declared = option.metadata
    said = typer.Option(
        option_flag(name, declared),
        help=declared["description"],
        show_default=declared["shown"] or option.default not in ((), None, False),
    )
    return Annotated[_command_line_type(name, _type_hints(kind)[name]), said]


def _command_line_type(name: str, kind: Any) -> Any:  # noqa: ANN401 - a type
    """The type that an option has on the command line.

    A mapping is given as a file, a tuple of texts by repeating the option, three numbers as R,G,B,
    classes with commas between them, and numbers that may be per cent as a text.
    """
    choices = set(typing.get_args(kind)) - {types.NoneType} if _is_union(kind) else {kind}
    if Channels in choices or WrittenNumber in choices or name in ("classes", "findings"):
        return str | None
    several = ("natural", "variants", "fit_on", "title", "positive", "costs", "pilot")
    if kind == tuple[str, ...] or name in several:
        return list[str] | None
    if any(typing.get_origin(choice) is Mapping for choice in choices):
        return Path | None
    return kind


def _is_union(kind: object) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


DataRoot = _declare_option(DataOptions, "root")
Size = _declare_option(DataOptions, "size")
SkipUnreadable = _declare_option(DataOptions, "skip_unreadable")
Scale = _declare_option(DataOptions, "scale")
DATA_HELP = "Images, such as folder:PATH (see: fairweather list data)."
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN[:MODEL[:SEED]]", help="Run folder, or one model of it; SEED may be ensemble."
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, mps or xpu.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace results that were made with other settings.")
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SHIFT_HELP = (
    "Suite, shift or published files: quick, imagenet_c/fog,severity=3, 'gamma: [0.5, 2]' or "
    "imagenet-c:FOLDER. Repeatable."
)
QUICK_HELP = "noise, motion blur, fog, contrast and JPEG, at levels 1, 3 and 5"
Shifts = Annotated[list[str] | None, typer.Option("--shift", help=SHIFT_HELP)]
ShiftSeed = Annotated[int, typer.Option("--shift-seed", help="Random seed of shifts and split.")]


def takes(kind: type) -> Callable[[Command], Command]:
    """Give a command the options of a type, with their help, in place of its `**options`."""

    def naming(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        *parameters, _ = own.parameters.values()  # the last is `**options`
        for option in dataclasses.fields(kind):
            parameters.append(
                inspect.Parameter(
                    option.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if option.default == () else option.default,
                    annotation=_declare_option(kind, option.name),
                )
            )
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return naming


# ---------------------------------------------------------------- tracking

Track = Annotated[
    str | None, typer.Option("--track", help="Send the finished run to mlflow.", show_default=False)
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
