"""Compare runs, check one against rules, and estimate accuracy without labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fairweather.cli.help import shows_colour
from fairweather.cli.options import (
    DATA_HELP,
    JSON,
    UNLIKE,
    Device,
    ModelArgument,
    Offline,
    Quiet,
    RunArgument,
    progress,
    suggest,
    suggest_measuring,
    takes,
)
from fairweather.cli.runs import join_runs
from fairweather.errors import InputError, unknown_name
from fairweather.types.options import ImageOptions, PlanOptions

# ---------------------------------------------------------------- comparisons and rules


def compare(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:MODEL]", help="Run folder, or one model of it; RUN,RUN joins their seeds."
        ),
    ],
    other: Annotated[
        str,
        typer.Argument(
            metavar="REFERENCE",
            help="Another run on the same images, or published numbers: paper, timm, testbed, "
            "robustbench or openclip.",
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--match", help="With paper: compare a published model with one of the run. Repeatable."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="Also compare this metric, such as brier_score or auc/malignant. Repeatable.",
        ),
    ] = None,
    margins: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            help="How much worse the run may be, such as accuracy=2 (points). Repeatable.",
        ),
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Compare two runs, or a run with published numbers: which differences are significant?

    Examples:
        fairweather compare runs/new runs/old
        fairweather compare runs/new runs/old --margin accuracy=2
        fairweather compare runs/new:augmix runs/old:basic --metric brier_score
        fairweather compare runs/pathmnist paper
        fairweather compare runs/resnet timm
    """
    from fairweather.judge.comparison import is_reference, read_run_comparison
    from fairweather.judge.published import read_published_comparison
    from fairweather.runs.folder import open_finished_run
    from fairweather.types.record import FIGURES

    models = _read_published_rows(rows or [])
    published = is_reference(other)
    if models and not published:
        raise InputError(f"--match is for paper: {other} is a run")
    if metrics and published:
        raise InputError(f"--metric is for two runs: {other} has published numbers of its own")
    if margins and published:
        raise InputError(f"--margin is for two runs on the same images, and {other} has no images")
    run, other = _join_sides(run, other, quiet=quiet)
    folder = Path(run if Path(run).is_dir() else run.rpartition(":")[0] or run)
    comparison = (
        read_published_comparison(run, other, models, offline=offline)
        if published
        else read_run_comparison(run, other, metrics=metrics or [], margins=margins or [])
    )
    files = comparison.files()
    opened = open_finished_run(folder)
    for name, text in files.items():
        opened.write(name, text)
    typer.echo(f"{comparison}\n")
    for name in files:
        kind = "figure" if name.startswith(FIGURES) else "table"
        typer.echo(f"{kind:<8}{folder / name}")
    suggest("open {}", folder / next(iter(files)), quiet=quiet)


def _read_published_rows(asked: list[str]) -> dict[str, str]:
    """Read PUBLISHED=MODEL pairs; raises `InputError` for another form or a name given twice."""
    models: dict[str, str] = {}
    for text in asked:
        published, equals, model = text.partition("=")
        if not (published and equals and model):
            raise InputError(f"--match takes PUBLISHED=MODEL, found {text}")
        if published in models:
            raise InputError(f"--match {published}=... is given twice")
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
        typer.Argument(metavar="RULE", help="Rules, or a YAML file with a list of rules."),
    ],
    on: Annotated[
        str,
        typer.Option(
            help="Judge the worse end of the 95 % interval (interval), or the value (value)."
        ),
    ] = "interval",
    junit: Annotated[Path | None, typer.Option(help="Also write the result as JUnit XML.")] = None,
    quiet: Quiet = False,
) -> None:
    """Check a run against rules, and end with status 1 if one is not shown to be kept.

    Status 2 means that a rule cannot be judged, while the others are; 70 that the program failed.

    Examples:
        fairweather check runs/mine 'accuracy[clean] >= 90%'
        fairweather check runs/mine 'accuracy[imagenet_c/fog] drop <= 5%' --junit checks.xml
        fairweather check runs/mine rules.yaml
    """
    from fairweather.judge.looks import count_looks
    from fairweather.judge.rules import read_rules
    from fairweather.judge.verdicts import format_junit, format_verdicts, judge_rules
    from fairweather.runs.folder import open_finished_run, write_atomically
    from fairweather.types.record import PAGE

    if on not in ("interval", "value"):
        raise unknown_name("choice for --on", on, ["interval", "value"])
    judged: Literal["interval", "value"] = "value" if on == "value" else "interval"
    run, asked = open_finished_run(folder), read_rules(rules)
    judgement = judge_rules(run, asked, on=judged)
    if junit is not None:
        write_atomically(junit, format_junit(*judgement))
    if judgement.verdicts:
        _print_table(format_verdicts(judgement.verdicts))
    for unjudged in judgement.unjudged:
        typer.echo(f"fairweather: {unjudged.problem}", err=True)
    if judgement.verdicts:
        for line in count_looks(run, judgement.verdicts):
            typer.echo(f"note    {line}", err=True)
    page = folder / PAGE
    what = ("open {}", page) if page.is_file() else ("fairweather report {}", folder)
    suggest(*what, quiet=quiet or not judgement.verdicts)
    if judgement.status:
        raise typer.Exit(judgement.status)


def verify(run: RunArgument, json: JSON = False, quiet: Quiet = False) -> None:
    """Compute scores, tables, page and figures again from stored predictions, and compare.

    It ends with status 1 if a file differs, was changed since, or if no scores can be computed.

    Examples:
        fairweather verify runs/mine
        fairweather verify runs/mine --json
    """
    from fairweather.judge import verification

    with progress(quiet=quiet) as show:
        verified = verification.verify(run, progress=show)
    typer.echo(verified.to_json() if json else str(verified))
    suggest("fairweather report {}   # its page, built again", run, quiet=quiet or json)
    if not verified.is_confirmed:
        raise typer.Exit(1)


def card(
    run: Annotated[
        str, typer.Argument(metavar="RUN[:MODEL]", help="Run folder, or one model of it.")
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            help="A rule of fairweather check, or a YAML file of rules: the card has the verdicts. "
            "Repeatable.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a model card: Markdown with Hugging Face's metadata, and a page for clinicians.

    What you fill in stays when the card is written again.

    Examples:
        fairweather card runs/mine
        fairweather card runs/mine:basic --rule 'accuracy[clean] >= 90%'
        fairweather card runs/mine --rule rules.yaml
    """
    from fairweather.judge.model_card import write_card

    written = write_card(run, rules or [])
    typer.echo(str(written))
    suggest("open {}", written.page, quiet=quiet)


COLOURS = {"failed": "red", "passed": "green"}  # of the lines that begin with the word


def _print_table(table: str) -> None:
    """Print; a reader that closes the pipe early changes nothing about the verdict."""
    if coloured := shows_colour(sys.stdout):
        lines = table.splitlines()
        colours = [COLOURS.get(line.partition(" ")[0]) for line in lines]
        table = "\n".join(map(typer.style, lines, colours))
    try:
        typer.echo(table, color=coloured)
    except BrokenPipeError:
        # What is still in the buffer would be written once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------- plans


@takes(PlanOptions)
def plan_test(
    claim: Annotated[
        str,
        typer.Argument(
            metavar="CLAIM",
            help="What to show: 'METRIC >= NUMBER', or of two models 'METRIC better', 'METRIC not "
            "worse by NUMBER', 'METRIC within NUMBER'.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write the power by size, as CSV or SVG.")
    ] = None,
    quiet: Quiet = False,
    **options: Any,  # noqa: ANN401 - those of `PlanOptions`
) -> None:
    """Plan a test: how many images, positives, patients and seeds show what you claim?

    The effect is yours to state; a pilot run supplies variances alone.

    Examples:
        fairweather plan-test 'sensitivity >= 0.8' --expect 0.9 --prevalence 5%
        fairweather plan-test 'accuracy not worse by 2%' --expect 0 --pilot runs/both
    """
    from fairweather.judge import planning
    from fairweather.runs.folder import write_atomically

    given = {name: value for name, value in options.items() if value is not None}
    planned = planning.plan_test(claim, **given)
    typer.echo(str(planned))
    if out is not None:
        write_atomically(
            out, planned.curve_as_csv() if out.suffix == ".csv" else planned.curve_as_svg()
        )
        typer.echo(f"\n{out.suffix[1:]:<8}{out}")
    what = ("check NEW {}", planned.rule) if planned.rule else ("compare NEW OLD",)
    suggest(f"fairweather {what[0]}", *what[1:], quiet=quiet)


# ---------------------------------------------------------------- estimates


@takes(ImageOptions)
def estimate(
    run: ModelArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"{DATA_HELP} No labels are used.")],
    with_labels: Annotated[
        bool, typer.Option("--with-labels", help="Also print the accuracy by the images' labels.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
    device: Device = "auto",
    offline: Offline = False,
    quiet: Quiet = False,
    **options: Any,  # noqa: ANN401 - those of `ImageOptions`
) -> None:
    """Estimate a model's accuracy on images without labels.

    It prints a likely range, a test for distribution shift, and the most similar tested shift. If
    the images differ from the validation images, it ends with status 4.

    Examples:
        fairweather estimate runs/mine images:new
        fairweather estimate runs/mine:basic:0 folder:new --with-labels
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
    # `predict` would warn of images that differ, and needs validation images as an estimate does.
    if accuracy.truth is None and accuracy.high is None:
        suggest_measuring(run, quiet=quiet)
    elif accuracy.value is None:
        suggest("measure the model again with --natural new={}", data, quiet=quiet)
    else:
        suggest("fairweather predict {} {} --risk 5%", run, data, quiet=quiet)
    if accuracy.unlike:
        raise typer.Exit(UNLIKE)
