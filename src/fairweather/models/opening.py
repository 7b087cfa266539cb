"""Open a classifier from any source, with its preprocessing and class names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from fairweather.errors import InputError, check_text
from fairweather.models.backbones import LIBRARIES, Norm, Pooling, Stem
from fairweather.models.building import ModelSpec, build, check_counts, check_normalisation
from fairweather.models.hf import HF
from fairweather.models.onnx import ONNX
from fairweather.models.pretrained import FILE, TIMM, TORCHVISION
from fairweather.models.run_models import RUN
from fairweather.models.sources import (
    MODULE_OPTIONS,
    OpenedModel,
    Setup,
    SourceKind,
    refuse_foreign,
)
from fairweather.models.user_modules import PYTHON
from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.types.options import ModelOptions

# By the kind before the colon; `file` needs no kind.
MODEL_SOURCES: dict[str, SourceKind] = {
    "torchvision": TORCHVISION,
    "timm": TIMM,
    "hf": HF,
    "onnx": ONNX,
    "run": RUN,
    "python": PYTHON,
    "file": FILE,
}


def open_with_options(
    source: str,
    options: ModelOptions,
    *,
    classes: int | None = None,
    offline: bool = False,
    seed: int = 0,
    predicts: TaskKind = CLASSES,
) -> OpenedModel:
    """Open a model from any source, with the preprocessing of its own configuration.

    Loading never executes code, with one exception: `python:` runs the file that it names, and
    `facts["runs_code"]` says so. A head that is not in the weights is an error, not a random head.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `hf:REPO_OR_FOLDER`, `onnx:FILE`,
            `run:FOLDER/models/NAME/seed-S`, `python:FILE.py:FUNCTION`, or a checkpoint's file
            (.safetensors, .pt, .pth, .bin, .ckpt) with an architecture.
        options: as the source takes them. With the `outputs` `auto`, an ONNX graph says whether
            they are probabilities, and a function's model gives logits.
        classes: number of outputs; by default that of the weights' head.
        offline: download nothing.
        seed: random seed of weights `none`.
        predicts: one class of each image, or findings.

    Raises:
        InputError: one sentence that says what was asked, what was found and what is allowed.

    >>> import torch
    >>> opened = open_with_options("timm:test_resnet", ModelOptions(weights="none"))
    >>> opened.model(torch.rand(1, 3, 160, 160)).shape, opened.preparation.size
    (torch.Size([1, 1000]), 160)
    """
    kind, place = find_source(source)
    check_model(source, options, classes)
    return kind.open(place, options, Setup(classes, offline, seed, predicts))


def list_given_options(options: ModelOptions) -> dict[str, Any]:
    """The options of a model by name; other fields of a subclass are left out."""
    values = {option.name: getattr(options, option.name) for option in fields(ModelOptions)}
    return {**values, "weights": None if values["weights"] is None else str(values["weights"])}


def check_model(source: str, options: ModelOptions, classes: int | None = None) -> None:
    """Raise `InputError` for mistakes that show without opening the model.

    It checks the form of the source, the options, and that the network or file exists. Nothing is
    downloaded and no weights are read.

    >>> check_model("timm:resnet5", ModelOptions())
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown timm model 'resnet5'; did you mean 'resnet50'? ...
    """
    kind, place = find_source(source)
    check_model_options(source, options, kind.options, classes)
    kind.check(place, options.architecture)


def check_model_options(
    source: str,
    options: ModelOptions,
    allowed: Sequence[str] = MODULE_OPTIONS,
    classes: int | None = None,
) -> None:
    """Raise `InputError` for options that a source, such as a module, does not take."""
    check_counts(classes, options.input_size)
    values = {**list_given_options(options), "classes": classes}
    given = {name for name, value in values.items() if value not in (None, "auto")}
    if wrong := sorted(given - set(allowed)):
        may = f"it takes only {', '.join(allowed)}" if allowed else "it takes no options"
        raise InputError(f"{' and '.join(wrong)} cannot be given for {source}: {may}")
    check_normalisation(options.mean, options.std)


def find_source(text: str) -> tuple[SourceKind, str]:
    """Find the source that a text names, and the text after its kind.

    >>> find_source("timm:resnet18")[1]
    'resnet18'
    """
    kind, colon, place = check_text(text, "the model").partition(":")
    try:
        Path(text.rpartition(":")[2]).expanduser()
    except RuntimeError:
        raise InputError(f"the model {text!r} names a user without a home folder") from None
    if colon and kind in MODEL_SOURCES and MODEL_SOURCES[kind].takes is None:
        return MODEL_SOURCES[kind], place
    refuse_foreign(Path(text))
    near = None
    if not colon or Path(text).expanduser().exists():
        near = next(filter(None, (source.guess(text) for source in MODEL_SOURCES.values())), None)
    if near is None:
        for source in MODEL_SOURCES.values():
            if source.takes is not None and source.takes(text):
                return source, text
        kinds = [name for name, source in MODEL_SOURCES.items() if source.takes is None]
        close = difflib.get_close_matches(kind.lower(), kinds if colon else [], n=1)
        near = f"{close[0]}:{place}" if close else None
    hint = f"; did you mean {near!r}?" if near else ";"
    known = ", ".join(source.form for source in MODEL_SOURCES.values())
    raise InputError(f"unknown model source {text!r}{hint} known: {known}")


def load_model(
    source: str,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    weights: str | Path | None = None,
    stem: Stem = "imagenet",
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    norm: Norm = "batch",
    pooling: Pooling = "average",
    width: float = 1.0,
    weights_sha256: str | None = None,
    outputs: str = "auto",
    seed: int = 0,
) -> nn.Module:
    """Build a classifier by name, or load an existing one, in evaluation mode.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, or `run:FOLDER/models/NAME/seed-S` for a model of a
            run. Or any other source: `hf:REPO`, `onnx:FILE`,
            `python:FILE.py:FUNCTION`, or a checkpoint's file with its architecture.
        architecture: only for a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head of the backbone. A backbone by name gets a
            new head if the head of the weights has another number of outputs.
        weights: only for a backbone by name: `imagenet` (default), `none` for random weights,
            `lite0`, a local file, or an https address that is downloaded once. `barlow_twins` and
            `vicreg` were published by their authors without a head, for `torchvision:resnet50`.
            Check their licence before you use them. Projectors and other parts that only
            self-supervised pre-training needs are left out.
        stem: `imagenet`, or `small` for small images.
        input_size: resize images to this square inside the classifier.
        mean, std: normalisation; by default that of the weights. A local file has its own, or that
            of the backbone's published weights; `weights="none"` has no normalisation.
        norm: `batch` or `group`; with published weights only `batch`.
        pooling: of the last feature maps: `average`, `max`, or `average+max`, the mean of both.
        width: only for timm's ResNets: multiplies the channels of every stage, rounded to
            multiples of 8.
        weights_sha256: the SHA-256 that the file of weights must have, as hexadecimal digits.
        outputs: only for `onnx:` and `python:`: `logits`, or `probabilities`, of which the
            logarithm is taken. With `auto`, an ONNX graph says which, and a function's model gives
            logits.
        seed: random seed of the initialisation; the caller's random state does not change.

    Raises:
        InputError: something cannot be built or loaded; the message is one sentence.

    >>> import torch
    >>> model = load_model("timm:resnet18", classes=10, weights="none")
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    mean, std = check_normalisation(mean, std) or (None, None)
    start = "imagenet" if weights is None else str(weights)
    spec = ModelSpec(
        *(source, classes, start, stem, input_size, mean, std, norm, pooling, width),
        weights_sha256=weights_sha256,
    )
    if check_text(source, "the model").partition(":")[0] in LIBRARIES:
        if architecture is not None:
            raise InputError(f"architecture goes with a checkpoint's file, not with {source}")
        if outputs != "auto":
            raise InputError(f"outputs goes with onnx: and python:, not with {source}")
        return build(spec, seed).eval()
    given = [] if weights is None else ["weights"]
    design = ("stem", "norm", "pooling", "width", "weights_sha256")
    given += [name for name in design if getattr(spec, name) != getattr(ModelSpec, name)]
    if given:
        raise InputError(f"only torchvision: and timm: take {' and '.join(given)}, not {source}")
    options = ModelOptions(
        architecture=architecture, mean=mean, std=std, input_size=input_size, outputs=outputs
    )
    return open_with_options(source, options, classes=classes, seed=seed).model
