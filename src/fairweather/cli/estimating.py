"""Estimate how accurate a model of a finished run will be on images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fairweather.cli.first_checks import go_offline
from fairweather.cli.options import Device, Offline, takes
from fairweather.cli.terminal import Quiet, progress
from fairweather.errors import InputError
from fairweather.options import ImageOptions


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
    go_offline(offline)
    _check_out(out)
    from fairweather import estimation
    from fairweather.runs import write_atomically

    with progress(quiet=quiet) as show:
        found = estimation.estimate(
            run,
            data,
            with_labels=with_labels,
            device=device,
            offline=offline,
            progress=show,
            **options,
        )
    typer.echo(str(found))
    if out is not None:
        write_atomically(out, found.to_json())
        typer.echo(f"\njson    {out}")


def _check_out(out: Path | None) -> None:
    if out is None:
        return
    if out.suffix.lower() != ".json":
        raise InputError(f"the result is written as JSON: --out must end with .json, found {out}")
    if not out.parent.is_dir():
        raise InputError(f"--out: there is no folder {out.parent}")
    if out.is_dir():
        raise InputError(f"--out: {out} is a folder; name a file")
