"""The command line: thin, silent when piped, and with one sentence for whatever goes wrong."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairweather.study import Event


app = typer.Typer(
    name="fairweather",
    help="Train image classifiers, change the weather, and see how accurate and honest they stay.",
    no_args_is_help=True,
    add_completion=False,
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


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A packaged study (see `list`) or a study file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/NAME")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key: recipe.epochs=2, models.basic.weights=none."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run, score and report only this model; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Run a study: train, predict under every shift, score, report. Run again to go on."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    from fairweather import study as studies

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    overrides = list(set_ or [])
    if data_root is not None:
        import json

        overrides.append(f"data.root={json.dumps(data_root)}")
    checked = studies.load_study(study, overrides, only or ())
    try:
        with _progress() as show:
            finished = studies.run(checked, out=out, device=device, offline=offline, progress=show)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    _print_places(finished.path)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Build tables, figures and page again from a run folder alone."""
    from fairweather.report import build_report
    from fairweather.runs import open_finished_run

    build_report(open_finished_run(folder))
    _print_places(folder)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    reference: Annotated[
        str, typer.Argument(help="What to hold it against: paper, the published report.")
    ],
) -> None:
    """Put a run's numbers beside published ones, and write the table into the run folder."""
    from fairweather.comparison import read_comparison
    from fairweather.runs import open_finished_run

    run = open_finished_run(folder)
    comparison = read_comparison(run, reference)
    for name, text in comparison.files().items():
        run.write(name, text)
    typer.echo(f"{comparison}\n")
    for name in comparison.files():
        typer.echo(f"table   {folder / name}")


@app.command()
def preview(
    data: Annotated[str, typer.Argument(help="A data source (see `list data`).")] = "mnist5k",
    suite: Annotated[
        list[str] | None, typer.Option(help="A suite (see `list suites`); repeatable.")
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(help="NAME[,parameter=value...] (see `list shifts`); repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The PNG.")] = Path("preview.png"),
    size: Annotated[int | None, typer.Option(help="Resize and crop images to this.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures, each of another class.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the pictures and of the weather.")] = 0,
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Draw a contact sheet of test images: a row a shift, a column a level."""
    from fairweather import contact_sheet
    from fairweather.data import load_data
    from fairweather.runs import write_atomically
    from fairweather.shifts.choosing import choose_shifts
    from fairweather.study.samples import pick_pictures

    if out.suffix.lower() != ".png":
        raise InputError(f"a contact sheet is a PNG: --out must end with .png, found {out}")
    shifts = choose_shifts(suite or (), shift or ())
    with _progress() as show:
        dataset = load_data(
            data, size=size, root=data_root, seed=seed, offline=offline, progress=_watch(show)
        )
    picked = pick_pictures(dataset.test, images, seed)
    subtitle = f"Test images of {dataset.name}, seed {seed}."
    sheet = contact_sheet.preview(picked, shifts, seed=seed, subtitle=subtitle)
    write_atomically(out, sheet.png)
    typer.echo(f"preview {out}")


@app.command()
def export(
    data: Annotated[str, typer.Argument(help="A data source (see `list data`).")],
    out: Annotated[Path, typer.Option(help="A new folder, or one to go on with.")],
    suite: Annotated[
        list[str] | None, typer.Option(help="A suite (see `list suites`); repeatable.")
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(help="NAME[,parameter=value...] (see `list shifts`); repeatable."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="png (a folder a class) or npz.")
    ] = "png",
    part: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    size: Annotated[int | None, typer.Option(help="Resize and crop images to this.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and of the weather.")] = 0,
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Write a corrupted copy of a data set, without loss. Run again to go on."""
    from fairweather import exporting
    from fairweather.data import load_data
    from fairweather.shifts.choosing import choose_shifts

    shifts = choose_shifts(suite or (), shift or ())
    try:
        with _progress() as show:
            watch = _watch(show)
            dataset = load_data(
                data, size=size, root=data_root, seed=seed, offline=offline, progress=watch
            )
            manifest = exporting.export(
                dataset, shifts, out, part=part, format=format_, seed=seed, progress=watch
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{'export':<10}{out}")
    typer.echo(f"{'manifest':<10}{manifest}")


@app.command(name="list")
def list_(
    what: Annotated[
        str, typer.Argument(help="studies, shifts, attacks, suites, metrics or data.")
    ] = "all",
) -> None:
    """List what there is by name: studies, shifts, attacks, suites, metrics, data sources."""
    from fairweather.errors import unknown_name

    sections = _sections()
    if what != "all" and what not in sections:
        raise unknown_name("list", what, ["all", *sections])
    for title, entries in sections.items():
        if what in ("all", title):
            typer.echo(f"{title}:")
            for name, description in entries:
                typer.echo(f"  {name:<42}{description}")


def main() -> None:
    """Run the command line: status 2 and one sentence on bad input, 130 when interrupted."""
    try:
        app()
    except (InputError, OSError) as error:
        typer.echo(f"fairweather: {error}", err=True)
        sys.exit(2)


def _print_places(folder: Path) -> None:
    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        typer.echo(f"{what:<8}{folder / name}")


def _sections() -> dict[str, list[tuple[str, str]]]:
    from fairweather.attacks import ATTACKS
    from fairweather.data import SOURCES
    from fairweather.metrics import METRICS
    from fairweather.shifts import SHIFTS, SUITES

    return {
        "studies": list(_study_entries()),
        "shifts": [(name, f"{kind.title}: {kind.level_title}") for name, kind in SHIFTS.items()],
        "attacks": [(name, f"{kind.title}: {kind.level_title}") for name, kind in ATTACKS.items()],
        "suites": [(name, _few(sweeps)) for name, sweeps in SUITES.items()],
        "metrics": [(metric.name, metric.label) for metric in METRICS],
        "data": [(name, (load.__doc__ or "").partition("\n")[0]) for name, load in SOURCES.items()],
    }


def _few(sweeps: Iterable[str], most: int = 4) -> str:
    names = [name.rpartition("/")[2] for name in sweeps]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _study_entries() -> Iterator[tuple[str, str]]:
    from fairweather.study import packaged_studies, study_facts
    from fairweather.yamlfile import parse_yaml

    for name, text in packaged_studies().items():
        yield name, parse_yaml(text).get("title", "")
        for fact, words in study_facts(text).items():
            yield "", f"{fact}: {words}"


def _watch(show: Callable[[Event], None] | None) -> Callable[[str, int, int | None], None] | None:
    """What the loading of data calls, so that its progress is shown; nothing where none is."""
    if show is None:
        return None
    from fairweather.study import notify_loading

    return functools.partial(notify_loading, show)


@contextmanager
def _progress() -> Iterator[Callable[[Event], None] | None]:
    """Show a bar with ETA for every task on a terminal; nothing at all elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    one_line = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=5)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def show(event: Event) -> None:
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(event.task, total=event.total, note="")
            bars.update(tasks[event.task], completed=event.done, note=event.note)  # type: ignore[arg-type]

        yield show
