"""The command line: its commands, `fairweather list`, and one sentence for every mistake."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fairweather.cli.deploy import guard, predict
from fairweather.cli.help import DocumentedCommand, DocumentedGroup
from fairweather.cli.images import export, preview
from fairweather.cli.judge import card, check, compare, estimate, plan_test, verify
from fairweather.cli.options import Command, check_file, go_offline, suggest
from fairweather.cli.runs import cancel, clean, demo, evaluate, pack, plan, report, run, view
from fairweather.errors import (
    GONE,
    RENAMED,
    InputError,
    check_writable,
    describe_os_error,
    join_names,
    one_line,
    unknown_name,
)
from fairweather.files.folders import cache_folder
from fairweather.requests.study.packaged import check_study_name, packaged_studies, study_facts

# ---------------------------------------------------------------- names

Entries = Iterable[tuple[str, str]]


def list_names(
    section: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help=(
                "studies, shifts, attacks, suites, variants, metrics, models, data, pretraining "
                "or all."
            ),
        ),
    ] = "all",
) -> None:
    """List known names: studies, shifts, metrics, sources of models and data.

    Examples:
        fairweather list shifts
        fairweather list
    """
    if section not in ("all", *LISTS):
        raise unknown_name("list", section, ["all", *LISTS])
    for title, entries in LISTS.items():
        if section in ("all", title):
            typer.echo(f"{title}:")
            for name, description in entries():
                typer.echo(f"  {name:<41} {description}")
    suggest(NEXT.get(section, "fairweather evaluate MODEL DATA --shift NAME"))


def _list_shifts() -> Entries:
    from fairweather.data.corrupted import PUBLISHED_SETS
    from fairweather.shifts.table import SHIFTS

    table = [(name, f"{kind.title}: {kind.level_title}") for name, kind in SHIFTS.items()]
    files = [
        (f"{name}:FOLDER", f"{facts.title}: published files, from {facts.address}")
        for name, facts in PUBLISHED_SETS.items()
    ]
    return [*table, *files]


def _list_attacks() -> Entries:
    from fairweather.attacks.table import ATTACKS

    return [(name, f"{kind.title}: {kind.level_title}") for name, kind in ATTACKS.items()]


def _list_suites() -> Entries:
    from fairweather.shifts.table import SUITES

    short = {name: [shift.rpartition("/")[2] for shift in own] for name, own in SUITES.items()}
    return [(name, join_names(shifts)) for name, shifts in short.items()]


def _list_variants() -> Entries:
    """The variants with their own parameters, and the protocol of those that adapt."""
    from dataclasses import fields

    from fairweather.variants.variant import VARIANTS, Adapting, variant_class

    protocol = {field.name: field.default for field in fields(Adapting)}
    for name in VARIANTS:
        kind = variant_class(name)
        usual = kind()
        yield name, usual.title
        own = {field.name: getattr(usual, field.name) for field in fields(kind)}.items()
        if parameters := ", ".join(
            f"{field}: {default}" for field, default in sorted(own - protocol.items())
        ):
            yield "", parameters
    yield (
        "(those that adapt, if not named above)",
        ", ".join(f"{field}: {default}" for field, default in protocol.items()),
    )


def _list_metrics() -> Entries:
    from fairweather.metrics.rows import iterate_rows

    return [(row.name, row.label) for row in iterate_rows()]


def _list_models() -> Entries:
    from fairweather.models.opening import MODEL_SOURCES

    return [(source.form, source.title) for source in MODEL_SOURCES.values()]


def _list_data() -> Entries:
    from fairweather.data.loading import DATA_SOURCES

    return [(name, (load.__doc__ or "").partition("\n")[0]) for name, load in DATA_SOURCES.items()]


def _list_pretraining() -> Entries:
    from fairweather.training.selfsupervised.methods import METHODS

    return [(name, method.title) for name, method in METHODS.items()]


def _list_studies() -> Entries:
    from fairweather.files.yamlfile import parse_yaml

    for name, text in packaged_studies().items():
        yield name, parse_yaml(text).get("title", "")
        for fact, words in study_facts(text).items():
            yield "", f"{fact}: {words}"


LISTS: Mapping[str, Callable[[], Entries]] = {
    "studies": _list_studies,
    "shifts": _list_shifts,
    "attacks": _list_attacks,
    "suites": _list_suites,
    "variants": _list_variants,
    "metrics": _list_metrics,
    "models": _list_models,
    "data": _list_data,
    "pretraining": _list_pretraining,
}

# What one does with such a name; with most, one evaluates.
NEXT = {
    "studies": "fairweather run STUDY",
    "shifts": "fairweather preview --shift NAME",
    "suites": "fairweather preview --shift NAME",
    "variants": "fairweather evaluate MODEL DATA --variant 'NAME: {{PARAMETER: VALUE}}'",
    "metrics": "fairweather check RUN 'METRIC[clean] >= 0.9'",
    "pretraining": "fairweather run STUDY, with the name as the method of its pretraining",
}


# ---------------------------------------------------------------- commands

# The panels of the help and their commands, in the order of the help.
COMMANDS: Mapping[str, Mapping[str, Command]] = {
    "Commands to begin with": {
        "demo": demo,
        "evaluate": evaluate,
        "check": check,
        "predict": predict,
    },
    "More commands": {
        "estimate": estimate,
        "compare": compare,
        "plan-test": plan_test,
        "report": report,
        "view": view,
        "verify": verify,
        "card": card,
        "guard": guard,
        "run": run,
        "plan": plan,
        "preview": preview,
        "export": export,
        "pack": pack,
        "clean": clean,
        "cancel": cancel,
        "list": list_names,
    },
}

# Checks of arguments before a command imports torch, so that a typo is reported at once.
FIRST_CHECKS: Mapping[str, Mapping[str, Callable[[Any], None]]] = {
    "demo": {"out": check_writable},
    "run": {"study": check_study_name, "out": check_writable},
    "plan": {"study": check_study_name},
    "estimate": {"out": partial(check_file, "--out", (".json",), in_present_folder=True)},
    "predict": {"out": partial(check_file, "--out", (".csv", ".parquet"))},
    "guard": {"folder": check_writable, "onnx": partial(check_file, "--onnx", (".onnx",))},
    "plan-test": {"out": partial(check_file, "--out", (".csv", ".svg"), in_present_folder=True)},
    "check": {"junit": partial(check_file, "--junit", (), in_present_folder=True)},
    "report": {"out": check_writable},
    "preview": {"out": partial(check_file, "--out", (".png",))},
    "export": {"out": check_writable},
    "pack": {"out": check_writable},
}

SUMMARY = "Will your image classifier still work, and know when it doesn't, once the images change?"
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h, which Python has on Unix alone
# Typer raises it for arguments that it cannot read; its module depends on Typer's version.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="fairweather",
    cls=DocumentedGroup,
    help=SUMMARY,
    add_completion=False,
    rich_markup_mode=None,  # `DocumentedCommand` writes the help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def _print_version(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import fairweather

        typer.echo(fairweather.__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


def _with_first_checks(name: str, command: Command) -> Command:
    @wraps(command)
    def checked(**arguments: Any) -> None:  # noqa: ANN401 - as Typer gives them
        go_offline(arguments.get("offline", False))
        for argument, first_check in FIRST_CHECKS.get(name, {}).items():
            if arguments[argument] is not None:
                first_check(arguments[argument])
        command(**arguments)

    return checked


for _panel, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=DocumentedCommand, rich_help_panel=_panel)(
            _with_first_checks(_name, _command)
        )


def _cache_hint(error: OSError) -> str:
    """Say how to choose another cache folder, if the error is about a file in it."""
    if not isinstance(error.filename, str | os.PathLike):
        return ""
    if not Path(error.filename).absolute().is_relative_to(cache_folder().absolute()):
        return ""
    return "; the environment variable FAIRWEATHER_CACHE names another folder for the cache"


def main() -> None:
    """Run the command line.

    It ends with status 2 and one sentence when the input or the machine is at fault, with 130 when
    it was interrupted, and with 70 and a traceback when the program itself is. Python would use 1,
    which here says that a rule of `check` is not shown to be kept.
    """
    # Letters that the terminal cannot show are printed as question marks.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding != "utf-8":
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(prog_name="fairweather", standalone_mode=False)
    except InputError as error:
        _exit_with(str(error))
    except OSError as error:
        _exit_with(f"{describe_os_error(error)}{_cache_hint(error)}")
    except typer.Abort:  # older versions of Typer raise it when interrupted
        sys.exit(130)
    except UsageError as error:
        _exit_with(_usage_sentence(error))
    except Exception:
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)
    sys.exit(status or 0)


def _exit_with(sentence: str) -> NoReturn:
    typer.echo(f"fairweather: {one_line(sentence)}", err=True)
    sys.exit(2)


def _usage_sentence(error: Any) -> str:  # noqa: ANN401 - a `UsageError`
    """Say what Typer cannot read, and which help explains it."""
    message, context = error.format_message().strip().removesuffix("."), error.ctx
    command = context.command_path if context else "fairweather"
    old_name = getattr(error, "option_name", "")
    new_name = RENAMED.get(old_name)
    if new_name and new_name in {name for param in context.command.params for name in param.opts}:
        message = f"{old_name} is now called {new_name}"
    elif old_name == "--strategy" and context.command.name == "run":
        message = f"--{GONE['strategy']}"
    return f"{message}; see: {command} --help"
