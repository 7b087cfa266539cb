"""The command line: thin, plain when piped, and one sentence for every mistake."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fairweather.cli.comparing import check, compare
from fairweather.cli.estimating import estimate
from fairweather.cli.evaluating import evaluate
from fairweather.cli.exporting import export, preview
from fairweather.cli.guarding import guard, predict
from fairweather.cli.listing import list_names
from fairweather.cli.running import cancel, clean, pack, plan, report, run
from fairweather.errors import InputError, one_line, os_error_sentence
from fairweather.folders import cache_folder

COMMANDS: Mapping[str, Callable[..., None]] = {
    "run": run,
    "plan": plan,
    "evaluate": evaluate,
    "estimate": estimate,
    "predict": predict,
    "guard": guard,
    "compare": compare,
    "check": check,
    "report": report,
    "preview": preview,
    "export": export,
    "cancel": cancel,
    "clean": clean,
    "pack": pack,
    "list": list_names,
}

OUR_FAULT = 70  # EX_SOFTWARE of sysexits.h, which Python has on Unix alone
# What Typer raises for arguments that it cannot read; its module depends on Typer's version.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="fairweather",
    help="Train image classifiers, and measure their accuracy and calibration under shifts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # in the default one, [clean] would be a style and not be shown
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        import fairweather

        typer.echo(fairweather.__version__)
        raise typer.Exit


for _name, _command in COMMANDS.items():
    app.command(name=_name)(_command)


def _way_out(error: OSError) -> str:
    """Say how the folder of the cache is changed, if the system refused something there."""
    named = isinstance(error.filename, str | os.PathLike)
    if not named or not Path(error.filename).absolute().is_relative_to(cache_folder().absolute()):
        return ""
    return "; the environment variable FAIRWEATHER_CACHE names another folder for the cache"


def main() -> None:
    """Run the command line.

    It ends with status 2 and one sentence on bad input, with 130 when it was interrupted, and with
    70 and a traceback when the program itself is at fault. Status 1, which Python would use, says
    that a rule is broken.
    """
    # A terminal may not have every letter.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding != "utf-8":
        sys.stdout.reconfigure(errors="replace")
    try:
        status = app(prog_name="fairweather", standalone_mode=False)
    except InputError as error:
        _end(str(error))
    except OSError as error:
        _end(f"{os_error_sentence(error)}{_way_out(error)}")
    except typer.Abort:  # older versions of Typer say so of an interruption
        sys.exit(130)
    except UsageError as error:
        _end(_usage_sentence(error))
    except Exception:
        traceback.print_exc()
        sys.exit(OUR_FAULT)
    sys.exit(status or 0)


def _end(told: str) -> NoReturn:
    if told:
        typer.echo(f"fairweather: {one_line(told)}", err=True)
    sys.exit(2)


def _usage_sentence(error: Any) -> str:  # noqa: ANN401 - a `UsageError`
    """Say what Typer cannot read, and where it is explained; nothing where the help was shown."""
    said = error.format_message().strip().removesuffix(".")
    return said and f"{said}; see: {error.ctx.command_path if error.ctx else 'fairweather'} --help"
