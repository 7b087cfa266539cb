"""Pictures of shifted images, and shifted copies of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairweather.cli.options import (
    DataArgument,
    DataRoot,
    Offline,
    Quiet,
    Scale,
    Shifts,
    ShiftSeed,
    Size,
    SkipUnreadable,
    progress,
    resumable,
    suggest,
)
from fairweather.errors import InputError
from fairweather.progress import Event

if TYPE_CHECKING:
    from fairweather.types.measurement import Images, Shift


def preview(
    data: DataArgument = "mnist5k",
    shift: Shifts = None,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    size: Size = None,
    images: Annotated[
        int, typer.Option(min=1, help="Pictures under each shift, each of another class.")
    ] = 1,
    shift_seed: ShiftSeed = 0,
    data_root: DataRoot = None,
    scale: Scale = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Draw test images under shifts: one row per shift, one column per level.

    Examples:
        fairweather preview --shift imagenet_c/fog
        fairweather preview folder:photos --shift quick --images 3 --out sheet.png
    """
    from fairweather.data.loading import load_data
    from fairweather.report import contact_sheet
    from fairweather.runs.folder import write_atomically
    from fairweather.steps.samples import pick_pictures
    from fairweather.tasks import find_task

    shifts = _read_shifts(shift or [])
    with progress(quiet=quiet) as show:
        dataset = load_data(
            data,
            size=size,
            root=data_root,
            seed=shift_seed,
            parts={"test"},
            scale=scale,
            offline=offline,
            progress=show,
        )
    picked = pick_pictures(dataset.test, images, shift_seed, find_task(dataset.task))
    subtitle = f"Test images of {dataset.name}, seed {shift_seed}."
    sheet = contact_sheet.preview(picked, shifts, seed=shift_seed, subtitle=subtitle)
    write_atomically(out, sheet.png)
    typer.echo(f"preview {out}")
    suggest("open {}", out, quiet=quiet)


def export(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="New folder, or one with an unfinished export.")],
    shift: Shifts = None,
    format_: Annotated[
        str, typer.Option("--format", help="png (one folder per class) or npz.")
    ] = "png",
    part: Annotated[
        str | None,
        typer.Option(
            help="Split of a study to export: test, val or train.",
            show_default="what evaluate tests",
        ),
    ] = None,
    size: Size = None,
    shift_seed: ShiftSeed = 0,
    data_root: DataRoot = None,
    skip_unreadable: SkipUnreadable = False,
    scale: Scale = None,
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Write a shifted copy of a data set, without loss.

    The same command continues an interrupted export.

    Examples:
        fairweather export folder:photos --shift imagenet_c/fog,severity=3 --out foggy
    """
    from fairweather.data.loading import TEST_FRACTION, list_source, load_data, tested_share
    from fairweather.data.sources import UNSPLIT
    from fairweather.share import export as exporting
    from fairweather.types.record import escape

    shifts = _read_shifts(shift or [])
    with resumable(), progress(quiet=quiet) as show:
        listed = list_source(data, data_root, offline=offline)
        undivided, share = UNSPLIT in listed.splits, tested_share(data)
        dataset = load_data(
            data,
            size=size,
            root=data_root,
            seed=shift_seed,
            parts={"test", part or "test"},
            test_fraction=share if part is None else TEST_FRACTION,
            skip_unreadable=skip_unreadable,
            allow_duplicates=True,  # a copy is no measurement, but a line tells
            scale=scale,
            offline=offline,
            progress=show,
        )
        images = exporting.select_part(dataset, part or "test")
        every = sum(len(listing.labels) for listing in listed.splits.values())
        show(Event("export", 0, None, line=_describe_images(images, every, part, undivided, share)))
        manifest = exporting.export(
            dataset,
            shifts,
            out,
            part=part or "test",
            format=format_,
            seed=shift_seed,
            progress=show,
        )
    typer.echo(f"{'export':<10}{out}")
    typer.echo(f"{'manifest':<10}{manifest}")
    first = out / escape(shifts[0].id)
    source = f"folder:{first}" if format_ == "png" else f"npz:{first}.npz"
    suggest("fairweather evaluate MODEL {} --shift clean", source, quiet=quiet)


def _describe_images(
    images: Images, every: int, part: str | None, undivided: bool, share: float
) -> str:
    """Say which images are exported: how many of how many, why these, and the first files."""
    from fairweather.errors import join_names

    if part is None and undivided and share == 1:
        why = "the set has no splits, so all of it is tested"
    elif undivided:
        why = f"the {part or 'test'} split that a study draws with this seed"
    else:
        why = f"the {part or 'test'} split"
    files = "" if images.names is None else f": {join_names(images.names.tolist())}"
    return f"images         {len(images):,} of {every:,}, {why}{files}"


def _read_shifts(shifts: list[str]) -> list[Shift]:
    from fairweather.attacks.shift_lists import expand_only_shifts

    if not shifts:
        raise InputError("name at least one shift, such as --shift quick or --shift imagenet_c/fog")
    return expand_only_shifts(shifts)
