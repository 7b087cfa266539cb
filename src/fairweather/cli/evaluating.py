"""Measure an existing model on any images."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.first_checks import go_offline
from fairweather.cli.options import JSON, Replace, takes
from fairweather.cli.running import print_places, show_outlook
from fairweather.cli.terminal import Quiet, progress, resumable
from fairweather.cli.tracked import Track, check_first, send
from fairweather.errors import InputError, check_writable
from fairweather.evaluation_options import EvaluationOptions, check_options

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")


@takes(EvaluationOptions)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="The model: timm:NAME, torchvision:NAME, hf:REPO, onnx:FILE, "
            "run:FOLDER/models/NAME/seed-S, python:FILE.py:FUNCTION, or the FILE of a checkpoint "
            "with --architecture; or predictions:FILE, predictions that were made elsewhere. "
            "NAME-seedN=SOURCE names the model and its seed."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            help="A data source, such as folder:PATH (see: fairweather list data). Predictions "
            "whose file has the labels need none."
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A further model that is measured on the same images, in the same run; "
            "NAME-seedN=SOURCE makes it seed N of the model NAME. Repeatable; with --size if the "
            "models need images of different sizes.",
        ),
    ] = None,
    shifts: Annotated[
        list[str] | None,
        typer.Option(
            help="A suite, or a shift or attack as NAME[,parameter=value...]; several are "
            "separated by commas. Several levels are written 'gamma: [0.5, 2]'. Repeatable.",
            show_default="quick",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/MODEL-on-DATA")
    ] = None,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and how far it is; write nothing.")
    ] = False,
    json: JSON = False,
    quiet: Quiet = False,
    track: Track = None,
    **options: object,
) -> None:
    """Measure any model on any images, without training.

    The same command continues an evaluation that was interrupted.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = _channels(f"--{name}", str(given[name]))
    if "classes" in given:
        given["classes"] = _classes(str(given["classes"]))
    go_offline(bool(given.get("offline")))
    check_options(given)
    models = _by_name([model, *(more or ())])
    given_sources = models.values() if isinstance(models, dict) else models
    if data is None and not all(each.startswith("predictions:") for each in given_sources):
        raise InputError(
            f"name the data set that {model} is measured on; only predictions:FILE may have none"
        )
    if json and not dry_run:
        raise InputError("--json goes with --dry-run")
    if not dry_run and out is not None:
        check_writable(out)
    from fairweather.evaluation import QUICK, make_request, outlook, run_request

    request = make_request(
        models if more or isinstance(models, dict) else model, data, shifts or QUICK, None, given
    )
    check_first(track)
    with resumable(), progress(quiet=quiet) as show:
        if dry_run:
            found = outlook(request, out, progress=show)
        else:
            finished = run_request(request, out, replace=replace, progress=show)
    if dry_run:
        show_outlook(found, as_json=json)
        return
    typer.echo("\n" + finished.overview() + "\n")
    print_places(finished.path)
    send(finished.path, track)


def _by_name(models: list[str]) -> list[str] | dict[str, str]:
    """The sources of models, by their names if they are written NAME=SOURCE."""
    pairs = [NAMED.fullmatch(each) for each in models]
    named = {each[1]: each[2] for each in pairs if each is not None and not Path(each[0]).is_file()}
    if not named:
        return models
    if len(named) < len(models):
        raise InputError(
            "name each model and seed once, as NAME-seedN=SOURCE, or none: found "
            f"{', '.join(models)}"
        )
    return named


def _classes(text: str) -> list[str]:
    """The names of classes: the lines of a file, or what stands between commas."""
    file = Path(text)
    try:
        named = file.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        named = False  # a list that is too long for a path
    if not named:
        return [name.strip() for name in text.split(",")]
    try:
        return [
            line.strip()
            for line in file.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except UnicodeDecodeError:
        raise InputError(f"--classes: {text} is not a text file in UTF-8") from None


def _channels(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{option} takes three numbers, as in 0.5,0.5,0.5, found {text!r}")
    return numbers
