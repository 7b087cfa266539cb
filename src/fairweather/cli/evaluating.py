"""Measure a model that is there already, on whatever images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fairweather.cli.running import print_places
from fairweather.cli.terminal import progress, resumable
from fairweather.cli.tracked import Track, check_first, send
from fairweather.errors import InputError


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="timm:NAME, torchvision:NAME, hf:REPO, onnx:FILE, run:FOLDER/models/NAME/seed-S, "
            "python:FILE.py:FUNCTION, or a checkpoint FILE with --architecture."
        ),
    ],
    data: Annotated[str, typer.Argument(help="A data source (see `list data`).")],
    shifts: Annotated[
        list[str] | None,
        typer.Option(
            help="A suite, NAME[,parameter=value...] of a shift or an attack, several of these "
            "with commas between them, or an entry as in a study, 'gamma: [0.5, 2]'; repeatable.",
            show_default="quick",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/MODEL-on-DATA")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of a checkpoint: timm:NAME or torchvision:NAME.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of a name: imagenet, lite0, a file, an address.", show_default="imagenet"
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Normalisation, R,G,B in [0, 1]; with --std.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation, R,G,B; with --mean.")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Resize to this inside the model, after the shifts.")
    ] = None,
    outputs: Annotated[
        str,
        typer.Option(
            help="Of onnx: and python: logits, or probabilities, whose logarithm is taken; auto "
            "looks at those of the first images."
        ),
    ] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(help="YAML, JSON or CSV: each class of the data, and the model's for it."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize and crop images to this, not as the model is configured, and feed them so."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A stratified subset of this many test images.")
    ] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(help="Share to set apart for fitting, where there is no validation part."),
    ] = 0.0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave damaged files out and count them.")
    ] = False,
    variant: Annotated[
        list[str] | None, typer.Option(help="temperature or batchnorm; repeatable.")
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="Another data source that confidence should tell apart; repeatable."),
    ] = None,
    priors: Annotated[
        Path | None, typer.Option(help="YAML: by a name, the probability of some classes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a forward pass.")] = 256,
    bootstrap: Annotated[
        int, typer.Option(min=100, max=100_000, help="Resamples behind every interval.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the shifts and attacks.")] = 0,
    title: Annotated[str | None, typer.Option(help="What tables call the model.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    data_root: Annotated[str | None, typer.Option(help="The folder of the data set.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
    track: Track = None,
) -> None:
    """Measure any model on any images, without training. Run again to go on."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    from fairweather.evaluation import Request, execute, prepare, read_priors
    from fairweather.models.labels import read_label_file
    from fairweather.shift_lists import clean_and

    request = Request(
        model=model,
        dataset=data,
        shifts=clean_and(shifts or ["quick"]),
        architecture=architecture,
        weights=weights,
        mean=_channels("--mean", mean),
        std=_channels("--std", std),
        input_size=input_size,
        outputs=outputs,
        labels=read_label_file(labels) if labels else None,
        size=size,
        root=data_root,
        limit=limit,
        validation_fraction=validation_fraction,
        skip_unreadable=skip_unreadable,
        variants=tuple(variant or ()),
        ood=tuple(ood or ()),
        priors=read_priors(priors) if priors else {},
        batch_size=batch_size,
        bootstrap=bootstrap,
        shift_seed=seed,
        title=title,
        device=device,
        offline=offline,
    )
    check_first(track)
    with resumable(), progress() as show:
        prepared = prepare(request, show)
        place = out or Path("runs") / prepared.name
        for event in execute(prepared, place, typer.echo):
            if show is not None:
                show(event)
    typer.echo()
    print_places(place)
    send(place, track)


def _channels(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} takes three numbers, as in 0.5,0.5,0.5, found {text!r}"
        ) from None
