"""The preprocessing of a model: size, filter, crop, mean and std, as published or as asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
from timm.models import PretrainedCfg
from torchvision.transforms._presets import ImageClassification

from fairweather.models.classifier import Classifier
from fairweather.models.gray import runs
from fairweather.models.source import Opened
from fairweather.types import Preparation

# The defaults of timm where a configuration says nothing (timm.data.config, timm.data.constants).
TIMM_FILTER = "bicubic"
TIMM_CROP = 0.875
UNKNOWN = "unknown"  # the origin of the preparation if no configuration describes it


class Statistics(NamedTuple):
    """Per-channel mean and standard deviation of images in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NOTHING = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # images stay as they are


class Preprocessing(NamedTuple):
    """The preprocessing of a model's own configuration; `origin` and `remark` are for people."""

    statistics: Statistics
    preparation: Preparation | None
    origin: str
    remark: str = ""


def from_timm(configuration: PretrainedCfg, name: str) -> Preprocessing:
    """Read timm's configuration of a model, as `timm.data.resolve_model_data_config` does.

    The shorter side becomes floor(size / crop_pct), as in `timm.data.create_transform`.
    """
    statistics = Statistics(three(configuration.mean), three(configuration.std))
    origin = f"timm's configuration of {name}"
    _, height, width = configuration.input_size
    mode = configuration.crop_mode or "center"
    if height != width or mode not in ("center", "squash"):
        remark = f"its {height} x {width} images with crop mode {mode} are not squares cut out"
        return Preprocessing(statistics, None, origin, remark)
    share = configuration.crop_pct or TIMM_CROP
    fit: Literal["crop", "squash"] = "squash" if mode == "squash" else "crop"
    interpolation: Any = configuration.interpolation or TIMM_FILTER
    preparation = Preparation(height, math.floor(height / share), interpolation, fit)
    return _without_padding(Preprocessing(statistics, preparation, origin))


def from_torchvision(transform: ImageClassification, name: str) -> Preprocessing:
    """Read the transform that torchvision publishes with its weights."""
    statistics = Statistics(three(transform.mean), three(transform.std))
    (resize,), (size,) = transform.resize_size, transform.crop_size
    preparation = Preparation(size, resize, transform.interpolation.value)
    origin = f"torchvision's transform of {name}"
    return _without_padding(Preprocessing(statistics, preparation, origin))


def at_size(preparation: Preparation | None, size: int) -> Preparation:
    """Prepare images at another size; the same share of the image is cropped away.

    >>> at_size(Preparation(224, resize=256), 448)
    Preparation(size=448, resize=512, interpolation='bilinear', fit='crop')
    """
    if preparation is None:
        return Preparation(size)
    resize = None
    if preparation.resize is not None:
        resize = math.floor(size * preparation.resize / preparation.size)
    return preparation._replace(size=size, resize=resize)


def prepared_at(opened: Opened, size: int, *, keep: bool) -> Opened:
    """Use the size that was asked for instead of the one in the model's configuration.

    A network that takes any size then gets the images at this size. With `keep`, or if the network
    takes only its own size, the images are resized once more inside the model.
    """
    model = opened.model
    origin = "the size given"
    if isinstance(model, Classifier) and model.input_size not in (None, size):
        if keep or not runs(model.network, 3, size):
            origin += f", then {model.input_size} inside the model"
        else:
            model.input_size = None
    preparation = Preparation(size)
    facts = {**opened.facts, "preparation": {**preparation._asdict(), "from": origin}}
    return replace(opened, preparation=preparation, facts=facts)


def describe_preprocessing(opened: Opened) -> str:
    """Describe in one line the preprocessing of a model, and where it comes from.

    >>> from torch import nn
    >>> normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "from": "the file"}
    >>> facts = {"normalisation": normalisation, "preparation": {"from": "the file"}}
    >>> opened = Opened(nn.Identity(), "mine", "0f", None, Preparation(224, 256), facts)
    >>> print(describe_preprocessing(opened))
    resize 256 (bilinear), crop 224, mean 0.5 0.5 0.5, std 0.25 0.25 0.25 (the file)
    """
    normalised, prepared = (_fact(opened, key) for key in ("normalisation", "preparation"))
    first, says = _prepared_words(opened.preparation), prepared.get("from")
    second, also_says = _normalised_words(normalised), normalised.get("from")
    if normalised.get("mean") is None:
        second, also_says = str(also_says or second), None
    once = says in (None, UNKNOWN, also_says)
    return f"{first}{'' if once else _aside(says)}, {second}{_aside(also_says)}"


def in_words(numbers: Iterable[float]) -> str:
    """Write numbers for a message.

    >>> in_words((0.5, 1 / 3))
    '0.5 0.3333'
    """
    return " ".join(f"{number:.4g}" for number in numbers)


def three(values: Iterable[float | torch.Tensor]) -> tuple[float, float, float]:
    """Give three numbers as a tuple of floats."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _without_padding(published: Preprocessing) -> Preprocessing:
    """Do not resize images to less than the crop, where the library would pad them."""
    preparation = published.preparation
    if preparation is None or preparation.resize is None or preparation.resize >= preparation.size:
        return published
    remark = f"resized to {preparation.size}, not padded from {preparation.resize}"
    return published._replace(preparation=preparation._replace(resize=None), remark=remark)


def preparation_facts(preparation: Preparation | None, origin: str) -> dict[str, object]:
    """How images are prepared, and where this is from, as `Opened.facts` has it."""
    return {**(preparation._asdict() if preparation else {}), "from": origin}


def _fact(opened: Opened, key: str) -> Mapping[str, Any]:
    fact = opened.facts.get(key)
    return cast("Mapping[str, Any]", fact) if isinstance(fact, Mapping) else {}


def _aside(origin: object) -> str:
    return f" ({origin})" if origin else ""


def _prepared_words(preparation: Preparation | None) -> str:
    if preparation is None:
        return "images as they are"
    side = preparation.resize or preparation.size
    resize = f"resize {side}" if preparation.fit == "crop" else f"resize {side} x {side}"
    return f"{resize} ({preparation.interpolation}), crop {preparation.size}"


def _normalised_words(normalisation: Mapping[str, Any]) -> str:
    if normalisation.get("mean") is None:
        return "normalisation unknown"
    mean, std = (in_words(normalisation[key]) for key in ("mean", "std"))
    return f"mean {mean}, std {std}"
