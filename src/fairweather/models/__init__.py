"""Classifiers by name, from files and from other libraries, each with its normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fairweather.errors import InputError
from fairweather.models.backbones import LIBRARIES
from fairweather.models.building import build as build
from fairweather.models.building import channels as channels
from fairweather.models.building import given_statistics as given_statistics
from fairweather.models.building import head_of as head_of
from fairweather.models.building import load_checkpoint as load_checkpoint
from fairweather.models.building import model_json as model_json
from fairweather.models.building import resolve_statistics as resolve_statistics
from fairweather.models.building import weights_digest as weights_digest
from fairweather.models.building import weights_facts as weights_facts
from fairweather.models.classifier import Classifier as Classifier
from fairweather.models.design import Norm as Norm
from fairweather.models.design import Pooling as Pooling
from fairweather.models.design import Stem as Stem
from fairweather.models.encoders import Encoder as Encoder
from fairweather.models.encoders import encoder_of as encoder_of
from fairweather.models.encoders import state_without_head as state_without_head
from fairweather.models.ensemble import Ensemble as Ensemble
from fairweather.models.interpolation import interpolate as interpolate
from fairweather.models.module import open_module as open_module
from fairweather.models.opening import SOURCES as SOURCES
from fairweather.models.opening import check_model as check_model
from fairweather.models.opening import check_module_options as check_module_options
from fairweather.models.opening import given_options as given_options
from fairweather.models.opening import open_model as open_model
from fairweather.models.opening import open_with as open_with
from fairweather.models.preprocessing import describe_preprocessing as describe_preprocessing
from fairweather.models.preprocessing import prepared_at as prepared_at
from fairweather.models.run_folder import trained_in as trained_in
from fairweather.models.selfsupervised import PUBLISHED_WEIGHTS as PUBLISHED_WEIGHTS
from fairweather.models.source import Opened as Opened
from fairweather.models.specification import ModelSpec as ModelSpec


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
        source: `torchvision:NAME`, `timm:NAME`, `run:FOLDER/models/NAME/seed-S` for a model of a
            run, or any other source of `open_model`: `hf:REPO`, `onnx:FILE`,
            `python:FILE.py:FUNCTION`, or a checkpoint's file with its architecture.
        architecture: only for a checkpoint's file: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head of the backbone. A backbone by name gets a
            new head if the head of the weights has another number of outputs.
        weights: only for a backbone by name: `imagenet` (default), `none` for random weights,
            `lite0`, `barlow_twins` or `vicreg` (published by their authors without a head, for
            `torchvision:resnet50`; check their licence before you use them), a local file, or an
            https address that is downloaded once. Projectors and other parts that only
            self-supervised pre-training needs are left out.
        stem: `imagenet`, or `small` for small images.
        input_size: resize images to this square inside the classifier.
        mean, std: normalisation; by default that of the weights (for a local file its own, or that
            of the backbone's published weights), and no normalisation for `weights="none"`.
        norm: `batch` or `group`; with published weights only `batch`.
        pooling: of the last feature maps: `average`, `max`, or `average+max`, the mean of both.
        width: only for timm's ResNets: multiplies the channels of every stage, rounded to
            multiples of 8.
        weights_sha256: the SHA-256 that the file of weights must have, as hexadecimal digits.
        outputs: only for `onnx:` and `python:`; see `open_model`.
        seed: random seed of the initialisation; the caller's random state does not change.

    Raises:
        InputError: something cannot be built or loaded; the message is one sentence.

    >>> import torch
    >>> model = load_model("timm:resnet18", classes=10, weights="none")
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    mean, std = given_statistics(mean, std) or (None, None)
    design: dict[str, Any] = {
        "stem": stem,
        "norm": norm,
        "pooling": pooling,
        "width": width,
        "weights_sha256": weights_sha256,
    }
    if source.partition(":")[0] in LIBRARIES:
        if architecture is not None:
            raise InputError(f"architecture goes with a checkpoint's file, not with {source}")
        if outputs != "auto":
            raise InputError(f"outputs goes with onnx: and python:, not with {source}")
        published = "imagenet" if weights is None else str(weights)
        spec = ModelSpec(
            source, classes, published, input_size=input_size, mean=mean, std=std, **design
        )
        return build(spec, seed).eval()
    given = [] if weights is None else ["weights"]
    given += [key for key, value in design.items() if value != getattr(ModelSpec, key)]
    if given:
        raise InputError(f"only torchvision: and timm: take {' and '.join(given)}, not {source}")
    return open_model(
        source,
        architecture=architecture,
        classes=classes,
        mean=mean,
        std=std,
        input_size=input_size,
        outputs=outputs,
        seed=seed,
    ).model
