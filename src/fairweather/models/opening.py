"""Open a classifier from any source, with its preprocessing and class names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fairweather.errors import InputError, check_text
from fairweather.models.building import given_statistics
from fairweather.models.foreign import refuse_foreign
from fairweather.models.hf import HF
from fairweather.models.named import FILE, TIMM, TORCHVISION
from fairweather.models.onnx import ONNX
from fairweather.models.python_file import PYTHON
from fairweather.models.run_folder import RUN
from fairweather.models.source import OF_ANY, Opened, Source
from fairweather.models.specification import check_counts
from fairweather.options import ModelOptions, takes

# By the kind before the colon; `file` has none.
SOURCES: dict[str, Source] = {
    "torchvision": TORCHVISION,
    "timm": TIMM,
    "hf": HF,
    "onnx": ONNX,
    "run": RUN,
    "python": PYTHON,
    "file": FILE,
}


@takes(ModelOptions)
def open_model(
    source: str,
    *,
    classes: int | None = None,
    offline: bool = False,
    seed: int = 0,
    **options: Any,  # noqa: ANN401 - those of `ModelOptions`
) -> Opened:
    """Open a classifier from any source, with the preprocessing of its own configuration.

    Loading never executes code, with one exception: `python:` runs the file that it names, and
    `facts["runs_code"]` says so. A head that is not in the weights is an error, not a random head.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `hf:REPO_OR_FOLDER`, `onnx:FILE`,
            `run:FOLDER/models/NAME/seed-S`, `python:FILE.py:FUNCTION`, or a checkpoint's file
            (.safetensors, .pt, .pth, .bin, .ckpt) with an architecture.
        architecture: only for a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        weights: only for a network by name: `imagenet` (default), `none`, `lite0`, a local file, or
            an https address.
        classes: number of outputs; by default that of the weights' head.
        mean, std: normalisation, where the model has none of its own or another one.
        input_size: side, in pixels, of the square images that the model gets.
        outputs: only for `onnx:` and `python:`: `logits`, or `probabilities`, of which the
            logarithm is taken. With `auto`, an ONNX graph says which, and a function's model gives
            logits.
        offline: download nothing.
        seed: random seed of weights `none`.

    Raises:
        InputError: one sentence that says what was asked, what was found and what is allowed.

    >>> import torch
    >>> opened = open_model("timm:test_resnet", weights="none")
    >>> opened.model(torch.rand(1, 3, 160, 160)).shape, opened.preparation.size
    (torch.Size([1, 1000]), 160)
    """
    given = ModelOptions(**options)
    return open_with(source, given, classes=classes, offline=offline, seed=seed)


def open_with(
    source: str,
    options: ModelOptions,
    *,
    classes: int | None = None,
    offline: bool = False,
    seed: int = 0,
) -> Opened:
    """Open a classifier as `open_model` does."""
    found, place = find_source(source)
    every = {**given_options(options), "classes": classes, "offline": offline, "seed": seed}
    check_model(source, **given_options(options), classes=classes)
    return found.open(place, **{name: every[name] for name in (*found.options, *found.settings)})


def given_options(options: ModelOptions) -> dict[str, Any]:
    """The options of a model by name; other fields of a subclass are left out."""
    found = {each.name: getattr(options, each.name) for each in fields(ModelOptions)}
    return {**found, "weights": None if found["weights"] is None else str(found["weights"])}


def check_model(source: str, **options: Any) -> None:  # noqa: ANN401 - those of `open_model`
    """Raise `InputError` for what is wrong with a model and can be known without opening it.

    It looks at the form of the source, at the options, and at whether there is such a network or
    file. Nothing is downloaded and no weights are read.

    >>> check_model("timm:resnet5")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown timm model 'resnet5'; did you mean 'resnet50'? ...
    """
    found, place = find_source(check_text(source, "the model"))
    _check_options(source, found.options, options)
    found.check(place, options.get("architecture"))


def check_module_options(what: str, **options: Any) -> None:  # noqa: ANN401 - those of `open_model`
    """Raise `InputError` for options that a module of this process does not take."""
    _check_options(what, OF_ANY, options)


def find_source(text: str) -> tuple[Source, str]:
    """Find the source that a text names, and what stands behind its kind.

    >>> find_source("timm:resnet18")[1]
    'resnet18'
    """
    kind, colon, place = text.partition(":")
    try:
        Path(text.rpartition(":")[2]).expanduser()
    except RuntimeError:
        raise InputError(f"the model {text!r} names a user without a home folder") from None
    if colon and kind in SOURCES and SOURCES[kind].takes is None:
        return SOURCES[kind], place
    refuse_foreign(Path(text))
    near = None
    if not colon or Path(text).expanduser().exists():
        near = next(filter(None, (source.guess(text) for source in SOURCES.values())), None)
    if near is None:
        for source in SOURCES.values():
            if source.takes is not None and source.takes(text):
                return source, text
        kinds = [name for name, source in SOURCES.items() if source.takes is None]
        close = difflib.get_close_matches(kind.lower(), kinds if colon else [], n=1)
        near = f"{close[0]}:{place}" if close else None
    hint = f"; did you mean {near!r}?" if near else ";"
    known = ", ".join(source.form for source in SOURCES.values())
    raise InputError(f"unknown model source {text!r}{hint} known: {known}")


def _check_options(source: str, allowed: Sequence[str], options: dict[str, Any]) -> None:
    check_counts(options.get("classes"), options.get("input_size"))
    given = {name for name, value in options.items() if value not in (None, "auto")}
    if wrong := sorted(given - set(allowed)):
        may = f"it takes only {', '.join(allowed)}" if allowed else "it takes no options"
        raise InputError(f"{' and '.join(wrong)} cannot be given for {source}: {may}")
    given_statistics(options.get("mean"), options.get("std"))
