"""Classifiers by name, from files and from other libraries, with the normalisation that fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from torch import nn

from fairweather.errors import InputError, unknown_name
from fairweather.models.backbones import LIBRARIES, Stem
from fairweather.models.building import ModelSpec as ModelSpec
from fairweather.models.building import build as build
from fairweather.models.building import channels as channels
from fairweather.models.building import given_statistics as given_statistics
from fairweather.models.building import head_of as head_of
from fairweather.models.building import load_checkpoint as load_checkpoint
from fairweather.models.building import model_json as model_json
from fairweather.models.building import resolve_statistics as resolve_statistics
from fairweather.models.building import weights_digest as weights_digest
from fairweather.models.classifier import Classifier as Classifier
from fairweather.models.opened import Opened as Opened
from fairweather.models.opening import open_model as open_model
from fairweather.models.preprocessing import describe_preprocessing as describe_preprocessing


def load_model(
    source: str,
    *,
    architecture: str | None = None,
    classes: int | None = None,
    weights: str | Path = "none",
    stem: Stem = "imagenet",
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a classifier in evaluation mode, or load one that anybody made.

    Args:
        source: `torchvision:NAME`, `timm:NAME`, `run:FOLDER/models/NAME/seed-S` for a checkpoint
            with everything that belongs to it, or anything else that `open_model` takes: `hf:REPO`,
            `onnx:FILE`, `python:FILE.py:FUNCTION`, or a checkpoint's file with its architecture.
        architecture: of a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head that the backbone comes with. A backbone by
            name gets a new head where that of the weights has another width.
        weights: of a backbone by name: `none`, `imagenet`, `lite0`, a local file, or an https
            address that is downloaded once.
        stem: `imagenet`, or `small` for small images.
        input_size: resize to this square inside the classifier.
        mean, std: normalisation; by default that of the weights (for a local file its own, or that
            of the backbone's published weights), and none for `weights="none"`.
        seed: of the random initialisation; the caller's random state stays as it is.

    Raises:
        InputError: one sentence that says what does not fit.

    >>> import torch
    >>> model = load_model("timm:resnet18", classes=10, weights="none")
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if source.startswith("run:"):
        return load_checkpoint(Path(source.removeprefix("run:")))
    if source.partition(":")[0] not in LIBRARIES:
        if (stem, str(weights)) != ("imagenet", "none"):
            raise InputError(f"stem and weights go with torchvision: and timm:, not with {source}")
        return open_model(
            source,
            architecture=architecture,
            classes=classes,
            mean=mean,
            std=std,
            input_size=input_size,
            seed=seed,
        ).model
    if architecture is not None:
        raise InputError(f"architecture goes with a checkpoint's file, not with {source}")
    if stem not in get_args(Stem):
        raise unknown_name("stem", stem, get_args(Stem))
    statistics = given_statistics(mean, std) or (None, None)
    spec = ModelSpec(source, classes, str(weights), stem, input_size, *statistics)
    return build(spec, seed).eval()
