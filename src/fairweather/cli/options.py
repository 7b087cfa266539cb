"""The options of the command line, each declared once; those of a type come with its own help."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fairweather.options import Channels, DataOptions, flag_of

Command = Callable[..., None]


def _declared(kind: type, name: str, given: Any) -> Any:  # noqa: ANN401 - a type
    """An option of a type, as a command that has only some of its options declares it."""
    told = next(each.metadata for each in dataclasses.fields(kind) if each.name == name)
    option = typer.Option(
        flag_of(name, told), help=told["help"], min=told["least"], show_default=True
    )
    return Annotated[given, option]


DataRoot = _declared(DataOptions, "root", str | None)
Size = _declared(DataOptions, "size", int | None)
SkipUnreadable = _declared(DataOptions, "skip_unreadable", bool)
Scale = _declared(DataOptions, "scale", str | None)
Source = Annotated[
    str, typer.Argument(help="A data source, such as folder:PATH (see: fairweather list data).")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
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
                flag_of(option.name, told),
                help=told["help"],
                metavar=told["metavar"],
                show_default=shown,
            )
            parameters.append(
                inspect.Parameter(
                    option.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if default == () else default,
                    annotation=Annotated[_on_the_line(option.name, kinds[option.name]), said],
                )
            )
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return naming


def _on_the_line(name: str, kind: Any) -> Any:  # noqa: ANN401 - a type
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
