"""What a classifier is made of, and which of its parts fit together."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from fairweather.errors import InputError
from fairweather.models.design import Norm, Pooling, Stem
from fairweather.models.selfsupervised import PUBLISHED_WEIGHTS

PUBLISHED = ("imagenet", "lite0", *PUBLISHED_WEIGHTS)
# What model.json did not hold at first: left out where it is the default, so that the runs of that
# time are still what they were.
LATER = ("norm", "pooling", "width")


@dataclass(frozen=True)
class ModelSpec:
    """What a classifier is made of; stored beside its weights as model.json.

    Attributes:
        backbone: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head that the backbone comes with.
        weights: `none`, `imagenet`, `lite0` (for `timm:tf_efficientnet_lite0`), `barlow_twins` or
            `vicreg` (for `torchvision:resnet50`; look at their licence), a local file, or an
            http(s) address.
        stem: `imagenet` as published, or `small` for images of about 28 to 64 pixels.
        input_size: resize to this square inside the classifier; None: take images as they are.
        mean, std: normalisation; None: the weights' own, or none at all from scratch.
        norm: `batch` as the backbone has it, or `group` in its place, with weights `none` or those
            of a network with group norm.
        pooling: of the last feature maps: `average` as the backbone has it, `max`, or `average+max`
            for the mean of both.
        width: multiplies the channels of every stage of timm's ResNets, to multiples of 8.
        weights_sha256: what the file of the weights must have, as hexadecimal digits.
    """

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
    weights_sha256: str | None = None


def spec_facts(spec: ModelSpec) -> dict[str, Any]:
    """Give what a specification says, fit for JSON and for fingerprints.

    The SHA-256 that is asked of the weights is left out: it makes no other model, and what the
    weights really have stands beside this wherever it matters.

    >>> list(spec_facts(ModelSpec("timm:resnet18", width=0.5)))[-2:]
    ['std', 'width']
    """
    defaults = {field.name: field.default for field in fields(ModelSpec) if field.name in LATER}
    facts = asdict(spec)
    del facts["weights_sha256"]
    return {key: value for key, value in facts.items() if value != defaults.get(key, ...)}


def check_spec(spec: ModelSpec) -> None:
    """Raise `InputError` for a width that is none, and for parts that do not fit together."""
    if not 0 < spec.width < math.inf:
        raise InputError(f"width multiplies channels and must be > 0, found {spec.width}")
    if spec.weights in ("none", "imagenet") and spec.weights_sha256 is not None:
        raise InputError(
            f"weights_sha256 is that of a file, and weights is {spec.weights}: give a local file "
            "or an address"
        )
    changed = [f"norm: {spec.norm}"] if spec.norm != "batch" else []
    changed += [f"width: {spec.width:g}"] if spec.width != 1 else []
    if spec.weights in PUBLISHED and changed:
        raise InputError(
            f"the {spec.weights} weights belong to {spec.backbone} as it was published, not to one "
            f"with {' and '.join(changed)}: give weights none, or a file of such a network"
        )
