"""Pictures of what shifts do, and corrupted copies of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.cli.terminal import Quiet, progress, resumable
from fairweather.errors import InputError

if TYPE_CHECKING:
    from fairweather.types import Shift


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
    seed: Annotated[int, typer.Option(help="Of the pictures and of the shifts.")] = 0,
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw a contact sheet of test images: a row a shift, a column a level."""
    from fairweather import contact_sheet
    from fairweather.data import load_data
    from fairweather.runs import write_atomically
    from fairweather.steps.sampling import pick_pictures

    if out.suffix.lower() != ".png":
        raise InputError(f"a contact sheet is a PNG: --out must end with .png, found {out}")
    shifts = _chosen(suite or [], shift or [])
    with progress(quiet=quiet) as show:
        dataset = load_data(
            data, size=size, root=data_root, seed=seed, offline=offline, progress=show
        )
    picked = pick_pictures(dataset.test, images, seed)
    subtitle = f"Test images of {dataset.name}, seed {seed}."
    sheet = contact_sheet.preview(picked, shifts, seed=seed, subtitle=subtitle)
    write_atomically(out, sheet.png)
    typer.echo(f"preview {out}")


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
    seed: Annotated[int, typer.Option(help="Of the split and of the shifts.")] = 0,
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a corrupted copy of a data set, without loss. Run again to go on."""
    from fairweather import exporting
    from fairweather.data import load_data

    shifts = _chosen(suite or [], shift or [])
    with resumable(), progress(quiet=quiet) as show:
        dataset = load_data(
            data, size=size, root=data_root, seed=seed, offline=offline, progress=show
        )
        manifest = exporting.export(
            dataset, shifts, out, part=part, format=format_, seed=seed, progress=show
        )
    typer.echo(f"{'export':<10}{out}")
    typer.echo(f"{'manifest':<10}{manifest}")


def _chosen(suites: list[str], shifts: list[str]) -> list[Shift]:
    from fairweather.shift_lists import only_shifts

    if not suites and not shifts:
        raise InputError("name some shifts: --suite NAME, or --shift NAME[,parameter=value...]")
    return only_shifts([*({"suite": name} for text in suites for name in text.split(",")), *shifts])
