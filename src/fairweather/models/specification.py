"""The specification of a classifier, and which of its settings fit together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pydantic

from fairweather.effects import Untold
from fairweather.errors import InputError
from fairweather.models.design import Norm, Pooling, Stem
from fairweather.models.selfsupervised import PUBLISHED_WEIGHTS
from fairweather.types import LARGEST_SIDE, SMALLEST_SIDE

PUBLISHED = ("imagenet", "lite0", *PUBLISHED_WEIGHTS)
# Channels grow with the width, and weights with its square: no published ResNet is wider than 4.
MOST_WIDTH = 10
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a classifier; stored beside its weights as model.json.

    Attributes:
        backbone: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head that the backbone comes with.
        weights: `none`, `imagenet`, `lite0` (for `timm:tf_efficientnet_lite0`), `barlow_twins` or
            `vicreg` (for `torchvision:resnet50`; check their licence), a local file, or an http(s)
            address.
        stem: `imagenet` as published, or `small` for images of about 28 to 64 pixels.
        input_size: resize to this square inside the classifier; None: take images as they are.
        mean, std: normalisation; None: that of the weights, or no normalisation for weights `none`.
        norm: `batch` as the backbone has it, or `group` in its place, with weights `none` or those
            of a network with group norm.
        pooling: of the last feature maps: `average` as the backbone has it, `max`, or `average+max`
            for the mean of both.
        width: multiplies the channels of every stage of timm's ResNets, to multiples of 8.
        weights_sha256: the SHA-256 that the file of weights must have, as hexadecimal digits.
    """

    __pydantic_config__: ClassVar = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    backbone: str
    classes: int | None = None
    weights: str = "none"
    stem: Stem = "imagenet"
    input_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    norm: Norm = "batch"
    pooling: Pooling = "average"
    width: float = 1.0
    # Where the real checksum of the weights matters, it is recorded on its own.
    weights_sha256: Untold[str | None] = None


def check_counts(classes: int | None, input_size: int | None) -> None:
    """Raise `InputError` for a number of classes, or a side in pixels, that no classifier has.

    >>> check_counts(10, 224)
    """
    for name, value, least, most in (
        ("classes", classes, 1, MOST_CLASSES),
        ("input_size", input_size, SMALLEST_SIDE, LARGEST_SIDE),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, found {value}")
        if value is not None and value > most:
            raise InputError(f"{name} must be at most {most:,}, found {value:.4g}")


def check_spec(spec: ModelSpec) -> None:
    """Raise `InputError` for an impossible width or for settings that do not fit together."""
    check_counts(spec.classes, spec.input_size)
    if not 0 < spec.width < math.inf:
        raise InputError(f"width multiplies channels and must be > 0, found {spec.width}")
    if spec.width > MOST_WIDTH:
        raise InputError(f"width must be at most {MOST_WIDTH}, found {spec.width:g}")
    if spec.weights in ("none", "imagenet") and spec.weights_sha256 is not None:
        raise InputError(
            f"weights_sha256 is the checksum of a file, but weights is {spec.weights}: give a "
            "local file or an address"
        )
    changed = [f"norm: {spec.norm}"] if spec.norm != "batch" else []
    changed += [f"width: {spec.width:g}"] if spec.width != 1 else []
    if spec.weights in PUBLISHED and changed:
        raise InputError(
            f"the {spec.weights} weights belong to {spec.backbone} as it was published, not to one "
            f"with {' and '.join(changed)}: use weights none, or a file of such a network"
        )
