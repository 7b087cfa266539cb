"""Compare runs, check one against rules, and estimate accuracy without labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fairweather.cli.options import Device, Offline, Quiet, RunArgument, progress, takes
from fairweather.cli.runs import join_runs
from fairweather.errors import InputError, unknown_name
from fairweather.types.options import ImageOptions

# ---------------------------------------------------------------- comparisons and rules


def compare(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or FOLDER:MODEL for one of its models. FOLDER,FOLDER joins runs "
            "with different seeds.",
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="Another run on the same images, written like the first; or paper, for the "
            "published numbers of the paper.",
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            metavar="PUBLISHED=MODEL",
            help="With paper: compare this published model with this model of the run, for "
            "example mixup_aug_pt=my_model. May be repeated.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare two runs, or a run with published numbers.

    It says which differences are statistically significant.
    """
    from fairweather.judge.comparison import REFERENCES, read_run_comparison
    from fairweather.judge.published import read_published_comparison
    from fairweather.runs.folder import open_finished_run

    models = _read_published_rows(rows or [])
    if models and other not in REFERENCES:
        raise InputError(f"--as is for {' and '.join(REFERENCES)}: {other} is a run")
    run, other = _join_sides(run, other, quiet=quiet)
    folder = Path(run if Path(run).is_dir() else run.rpartition(":")[0] or run)
    comparison = (
        read_published_comparison(folder, other, models)
        if other in REFERENCES
        else read_run_comparison(run, other)
    )
    files = comparison.files()
    opened = open_finished_run(folder)
    for name, text in files.items():
        opened.write(name, text)
    typer.echo(f"{comparison}\n")
    for name in files:
        typer.echo(f"table   {folder / name}")


def _read_published_rows(asked: list[str]) -> dict[str, str]:
    """Read PUBLISHED=MODEL pairs; raises `InputError` for another form or a name given twice."""
    models: dict[str, str] = {}
    for text in asked:
        published, equals, model = text.partition("=")
        if not (published and equals and model):
            raise InputError(f"--as takes PUBLISHED=MODEL, found {text}")
        if published in models:
            raise InputError(f"--as {published}=... is given twice")
        models[published] = model
    return models


def _join_sides(*asked: str, quiet: bool) -> list[str]:
    """Join the runs of each RUN,RUN or RUN,RUN:MODEL as seeds; return the joined runs' names.

    A folder whose own name has a comma is taken as it is. The joined folders get different names
    on both sides, so that one side never overwrites the other.
    """
    from fairweather.judge.compared_runs import split_run_and_model
    from fairweather.report.joint_runs import shorten_names

    sides = [split_run_and_model(text) for text in asked]
    runs = [
        [] if "," not in folder or Path(folder).is_dir() else folder.split(",")
        for folder, _ in sides
    ]
    every = sorted({Path(run).resolve() for side in runs for run in side})
    if not every:
        return list(asked)
    names = dict(zip(every, shorten_names(every), strict=True))
    compared = list(asked)
    for at, (side, (_, model)) in enumerate(zip(runs, sides, strict=True)):
        if side:
            out = Path("runs") / "+".join(names[Path(run).resolve()] for run in side)
            joined = join_runs(side, out, quiet=quiet)
            compared[at] = f"{joined}:{model}" if model else str(joined)
            if not quiet:
                typer.echo(f"joined  {joined}", err=True)
    return compared


def check(
    folder: RunArgument,
    rules: Annotated[
        list[str],
        typer.Argument(
            help="Rules such as 'accuracy[clean] >= 0.85', or a YAML file with a list of them."
        ),
    ],
    on: Annotated[
        str,
        typer.Option(
            help="interval: a rule must hold at the worse end of the 95 % interval; value: for the "
            "measured value alone."
        ),
    ] = "interval",
    junit: Annotated[
        Path | None, typer.Option(help="Also write the result as JUnit XML to this file.")
    ] = None,
) -> None:
    """Check a run against rules, print a table, and end with status 1 if a rule is broken.

    The status is 2, with one sentence, if a rule cannot be judged, for example because the scores
    were changed after the run. It is 70 if the program itself fails.
    """
    from fairweather.judge.rules import read_rules
    from fairweather.judge.verdicts import format_junit, format_verdicts, judge
    from fairweather.runs.folder import open_finished_run, write_atomically

    if on not in ("interval", "value"):
        raise unknown_name("choice for --on", on, ["interval", "value"])
    judged: Literal["interval", "value"] = "value" if on == "value" else "interval"
    verdicts = judge(open_finished_run(folder), read_rules(rules), on=judged)
    if junit is not None:
        write_atomically(junit, format_junit(verdicts))
    _print_table(format_verdicts(verdicts))
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def _print_table(table: str) -> None:
    """Print; a reader that closes the pipe early changes nothing about the verdict."""
    try:
        typer.echo(table)
    except BrokenPipeError:
        # What is still in the buffer would be written once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------- estimates


@takes(ImageOptions)
def estimate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run folder, or FOLDER:MODEL or FOLDER:MODEL:SEED for one of its models; SEED "
            "is a number or ensemble.",
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="The images, as a data source: images:PATH has no labels, and those of others are "
            "not used (see: fairweather list data)."
        ),
    ],
    with_labels: Annotated[
        bool,
        typer.Option(
            "--with-labels", help="Also say how many are right by their labels, to compare."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result as JSON to this file.")
    ] = None,
    device: Device = "auto",
    offline: Offline = False,
    quiet: Quiet = False,
    **options: Any,  # noqa: ANN401 - those of `ImageOptions`
) -> None:
    """Estimate how accurate a model of a finished run will be on images without labels.

    It says a range, whether the model sees the images as it sees its validation images, and which
    known shift they look most like.
    """
    from fairweather.judge import estimation
    from fairweather.runs.folder import write_atomically

    with progress(quiet=quiet) as show:
        accuracy = estimation.estimate(
            run,
            data,
            with_labels=with_labels,
            device=device,
            offline=offline,
            progress=show,
            **options,
        )
    typer.echo(str(accuracy))
    if out is not None:
        write_atomically(out, accuracy.to_json())
        typer.echo(f"\njson    {out}")
