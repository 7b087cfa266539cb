"""The help of the commands: a sentence, examples, and options in panels under plain names."""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, TextIO

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

# Every option of every command: its panel, its place there, and what stands for its value.
PANELS: Mapping[str, Mapping[str, str]] = {
    "Model": {
        "--model": "MODEL",
        "--set": "KEY=VALUE",
        "--seeds": "N|LIST",
        "--architecture": "NAME",
        "--weights": "WEIGHTS",
        "--outputs": "KIND",
        "--mean": "R,G,B",
        "--std": "R,G,B",
        "--input-size": "N",
        "--class-map": "FILE",
        "--classes": "NAMES|FILE",
        "--variant": "VARIANT",
        "--match": "PUBLISHED=MODEL",
        "--margin": "METRIC=NUMBER",
        "--metric": "METRIC",
    },
    "Data": {
        "--data-root": "FOLDER",
        "--size": "N",
        "--limit": "N",
        "--images": "N",
        "--part": "SPLIT",
        "--validation-fraction": "SHARE",
        "--metadata": "FILE",
        "--group": "COLUMN",
        "--unit": "COLUMN",
        "--aggregate": "NAME",
        "--slice": "COLUMN",
        "--sites": "COLUMN",
        "--labels": "FILE",
        "--positive": "CLASS",
        "--readers": "FILE",
        "--findings": "NAMES|FILE",
        "--empty-labels": "MEANING",
        "--label-column": "COLUMN",
        "--predicted-column": "COLUMN",
        "--confidence-column": "COLUMN",
        "--key-column": "COLUMN",
        "--scale": "LOW..HIGH",
        "--skip-unreadable": "",
        "--allow-duplicates": "",
        "--allow-shared-groups": "",
        "--offline": "",
    },
    "Shifts": {
        "--shift": "SHIFT",
        "--shift-seed": "N",
        "--natural": "DATA|NAME=DATA",
        "--ood": "DATA",
        "--fit-on": "SHIFT",
    },
    "Statistics": {
        "--risk": "SHARE",
        "--missed": "SHARE",
        "--false-alarms": "SHARE",
        "--confidence": "SHARE",
        "--coverage": "SHARE",
        "--weigh": "UNIT",
        "--on": "END",
        "--expect": "NUMBER",
        "--power": "SHARE",
        "--prevalence": "SHARE",
        "--pilot": "RUN",
        "--discordant": "SHARE",
        "--sd": "NUMBER",
        "--images-per-patient": "NUMBER",
        "--icc": "NUMBER",
        "--seed-sd": "NUMBER",
        "--seed-discordant": "SHARE",
        "--reference": "NUMBER",
        "--tests": "N",
        "--have": "RUN",
        "--rule": "RULE|FILE",
        "--bootstrap": "N",
        "--operating-point": "POINT|NAME=POINT",
        "--priors": "PRIOR|FILE",
        "--cost": "COST|FILE",
        "--ordered-classes": "",
        "--with-labels": "",
        "--no-variants": "",
        "--join-seeds": "",
    },
    "Speed": {
        "--device": "DEVICE",
        "--devices": "N",
        "--jobs": "N",
        "--batch-size": "N",
        "--precision": "PRECISION",
        "--threads": "N",
        "--shift-processes": "N",
        "--models-in-memory": "N",
        "--cudnn-benchmark": "",
        "--compile": "",
    },
    "Cluster (machines)": {
        "--worker": "",
        "--executor": "EXECUTOR",
        "--nodes": "N",
        "--partition": "NAME",
        "--gpus": "GPU",
        "--time": "TIME",
        "--setup": "COMMAND",
    },
    "Output": {
        "--out": "PATH",
        "--open": "",
        "--replace": "",
        "--title": "TITLE",
        "--format": "FORMAT",
        "--onnx": "FILE",
        "--junit": "FILE",
        "--remove": "KIND",
        "--dry-run": "",
        "--json": "",
        "--track": "TRACKER",
        "--quiet": "",
        "--version": "",
        "--help": "",
    },
}


def shows_colour(stream: TextIO) -> bool:
    """Tell whether text there may have a colour: on a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _bold(text: str, colour: str | None = None) -> str:
    return typer.style(text, fg=colour, bold=True) if shows_colour(sys.stdout) else text


class DocumentedCommand(TyperCommand):
    """A command whose help begins with examples and has its options in panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - of Click
        """Write usage, what the command does, examples, arguments, and each panel of options."""
        formatter.write_usage(_bold(ctx.command_path), self.usage(ctx), prefix="")
        paragraphs, examples = self.explained()
        for paragraph in paragraphs:
            formatter.write(f"\n{textwrap.fill(paragraph, formatter.width)}\n")
        with formatter.section(_bold("Examples")):
            formatter.write("".join(f"  {line}\n" for line in examples))
        for title, rows in self.panels(ctx).items():
            _write_panel(formatter, title, rows)

    def explained(self) -> tuple[list[str], list[str]]:
        """What the command does, in paragraphs, and its examples: the parts of its docstring."""
        said, _, examples = inspect.cleandoc(self.help or "").partition("\n\nExamples:\n")
        paragraphs = [" ".join(paragraph.split()) for paragraph in said.split("\n\n")]
        return paragraphs, inspect.cleandoc(examples).splitlines()

    def usage(self, ctx: Any) -> str:  # noqa: ANN401 - of Click
        """What follows the name of the command: its arguments, then its options."""
        options, *arguments = self.collect_usage_pieces(ctx)
        return " ".join([*(piece.strip("{}").replace("}.", ".") for piece in arguments), options])

    def panels(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:  # noqa: ANN401 - of Click
        """Names and meanings of the arguments, and of the options of each panel."""
        parameters = self.get_params(ctx)
        given = [name for name in parameters if isinstance(name, TyperArgument)]
        shown = {"Arguments": [(name.metavar or "", name.help or "") for name in given]}
        options = {
            max(option.opts, key=len): option for option in parameters if option not in given
        }
        for title, metavars in PANELS.items():
            shown[title] = [
                _describe_option(options[name], metavar, ctx)
                for name, metavar in metavars.items()
                if name in options
            ]
        return {title: rows for title, rows in shown.items() if rows}


class DocumentedGroup(TyperGroup):
    """The program, whose help lists its commands in panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - of Click
        """Write usage, what the program does, its commands, and its options."""
        formatter.write_usage(_bold(ctx.command_path), "COMMAND [OPTIONS]", prefix="")
        formatter.write(f"\n{textwrap.fill(self.help or '', formatter.width)}\n")
        shown: dict[str, list[tuple[str, str]]] = {}
        for command in self.commands.values():
            if isinstance(command, DocumentedCommand):
                rows = shown.setdefault(command.rich_help_panel or "", [])
                rows.append((command.name or "", command.explained()[0][0]))
        shown["Options"] = [_describe_option(option, "", ctx) for option in self.get_params(ctx)]
        for title, rows in shown.items():
            _write_panel(formatter, title, rows)


def _describe_option(option: Any, metavar: str, ctx: Any) -> tuple[str, str]:  # noqa: ANN401
    """The names of an option with what stands for its value, and its meaning with its default."""
    option.metavar = metavar or None
    names, said = option.get_help_record(ctx)
    # Typer puts a default in words into brackets of its own.
    return names, re.sub(r"\[default: \((.*)\)\]$", r"[default: \1]", said)


def _write_panel(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:  # noqa: ANN401
    with formatter.section(_bold(title)):
        formatter.write_dl([(_bold(names, "cyan"), said) for names, said in rows])
