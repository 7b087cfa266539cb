"""The preprocessing of a model: as published, as given, or found inside the model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from fairweather.models.sources import OpenedModel
from fairweather.models.wrappers import Classifier, accepts_images
from fairweather.types.options import Preparation

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torchvision.transforms._presets import ImageClassification

# timm's defaults for missing settings (timm.data.config, timm.data.constants).
TIMM_FILTER = "bicubic"
TIMM_CROP = 0.875
UNKNOWN_ORIGIN = "unknown"  # the origin of the preparation if no configuration describes it


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of images in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NO_NORMALISATION = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # images stay as they are
HALVES = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Preprocessing(NamedTuple):
    """The preprocessing of a model's own configuration; `origin` and `remark` are for people."""

    statistics: Normalisation
    preparation: Preparation | None
    origin: str
    remark: str = ""


def read_timm(configuration: PretrainedCfg, name: str) -> Preprocessing:
    """Read timm's configuration of a model, as `timm.data.resolve_model_data_config` does.

    The shorter side becomes floor(size / crop_pct), as in `timm.data.create_transform`.
    """
    statistics = Normalisation(to_triple(configuration.mean), to_triple(configuration.std))
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


def read_torchvision(transform: ImageClassification, name: str) -> Preprocessing:
    """Read the transform that torchvision publishes with its weights."""
    statistics = Normalisation(to_triple(transform.mean), to_triple(transform.std))
    (resize,), (size,) = transform.resize_size, transform.crop_size
    preparation = Preparation(size, resize, transform.interpolation.value)
    origin = f"torchvision's transform of {name}"
    return _without_padding(Preprocessing(statistics, preparation, origin))


def scale_preparation(preparation: Preparation | None, size: int) -> Preparation:
    """Prepare images at another size; the same share of the image is cropped away.

    >>> scale_preparation(Preparation(224, resize=256), 448)
    Preparation(size=448, resize=512, interpolation='bilinear', fit='crop')
    """
    if preparation is None:
        return Preparation(size)
    resize = None
    if preparation.resize is not None:
        resize = math.floor(size * preparation.resize / preparation.size)
    return preparation._replace(size=size, resize=resize)


def prepare_at(opened: OpenedModel, size: int, *, keep: bool) -> OpenedModel:
    """Use the requested size instead of the one in the model's configuration.

    A network that takes any size then gets the images at this size. With `keep`, or if the network
    takes only its own size, the images are resized once more inside the model.
    """
    model, preparation, origin = opened.model, Preparation(size), "the size given"
    if isinstance(model, Classifier) and model.input_size not in (None, size):
        if keep or not accepts_images(model.network, 3, size):
            origin += f", then {model.input_size} inside the model"
        else:
            model.input_size = None
    facts = {**opened.facts, "preparation": describe_preparation(preparation, origin)}
    return replace(opened, preparation=preparation, facts=facts)


def describe_preprocessing(opened: OpenedModel) -> str:
    """Describe in one line the preprocessing of a model, and where it comes from.

    >>> from torch import nn
    >>> normalisation = {"mean": [0.5] * 3, "std": [0.25] * 3, "from": "the file"}
    >>> facts = {"normalisation": normalisation, "preparation": {"from": "the file"}}
    >>> opened = OpenedModel(nn.Identity(), "mine", "0f", None, Preparation(224, 256), facts)
    >>> print(describe_preprocessing(opened))
    resize 256 (bilinear), crop 224, mean 0.5 0.5 0.5, std 0.25 0.25 0.25 (the file)
    """
    facts = (opened.facts.get(key) for key in ("normalisation", "preparation"))
    normalised, prepared = (fact if isinstance(fact, Mapping) else {} for fact in facts)
    origin, prepared_by = normalised.get("from"), prepared.get("from")
    known = normalised.get("mean") is not None
    images = _format_preparation(opened.preparation)
    if prepared_by not in (None, UNKNOWN_ORIGIN, origin if known else None):
        images += f" ({prepared_by})"
    if not known:
        return f"{images}, {origin or 'normalisation unknown'}"
    mean, std = (format_numbers(normalised[key]) for key in ("mean", "std"))
    return f"{images}, mean {mean}, std {std}{f' ({origin})' if origin else ''}"


def format_numbers(numbers: Iterable[float]) -> str:
    """Write numbers for a message.

    >>> format_numbers((0.5, 1 / 3))
    '0.5 0.3333'
    """
    return " ".join(f"{number:.4g}" for number in numbers)


def to_triple(values: Iterable[float | torch.Tensor]) -> tuple[float, float, float]:
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


def describe_preparation(preparation: Preparation | None, origin: str) -> dict[str, object]:
    """The preparation of images and its origin, in the form of `OpenedModel.facts`."""
    return {**(preparation._asdict() if preparation else {}), "from": origin}


def describe_normalisation(normalisation: Normalisation | None, origin: str) -> dict[str, object]:
    """The normalisation and its origin, in the form of `OpenedModel.facts`."""
    mean, std = normalisation or (None, None)
    return {"mean": mean, "std": std, "from": origin}


def _format_preparation(preparation: Preparation | None) -> str:
    if preparation is None:
        return "images as they are"
    side = preparation.resize or preparation.size
    resize = f"resize {side}" if preparation.fit == "crop" else f"resize {side} x {side}"
    return f"{resize} ({preparation.interpolation}), crop {preparation.size}"


# ---------------------------------------------------------------- inside a module

MEANS = re.compile(r"(^|_)(means?|mu)$")
DEVIATIONS = re.compile(r"(^|_)(stds?|sigma)$")
RUNNING = re.compile(r"running_")  # of batch norm, which are not statistics of images
NORMALISING = re.compile(r"(^|[a-z_])Normali[sz](e|er|ation)|^normali[sz]", re.ASCII)


def find_normalisation(module: nn.Module) -> str | None:
    """Say where a module already normalises its images; None if nothing like that is found.

    It finds any part with a mean and a std of three numbers that change something, as in
    torchvision, kornia and this package (or of one number, if its class is called Normalize). It
    also finds a first layer, or one directly below the top, whose class is called Normalize or
    similar, and a torchvision transform in an attribute. It cannot find arithmetic in a `forward`.

    >>> find_normalisation(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))) is None
    True
    """
    parts = list(module.named_modules())
    first = next((name for name, part in parts if not list(part.children())), "")
    for name, part in parts:
        place = f"{name or 'its top'} ({type(part).__name__})"
        mean, std = (_read_numbers(part, pattern) for pattern in (MEANS, DEVIATIONS))
        # Noise layers have one mean and deviation too, so one number each is not enough.
        per_channel = len(mean or ()) == 3 or len(std or ()) == 3 or _is_normalising(part)
        if mean and std and per_channel and (set(mean), set(std)) != ({0.0}, {1.0}):
            return f"{place} with mean {format_numbers(mean)} and std {format_numbers(std)}"
        near_the_top = name and (name == first or "." not in name)
        if near_the_top and not mean and _is_normalising(part):
            return place
        if name == "" and (attribute := _find_transform(part)):
            return f"the transform in its attribute {attribute}"
    return None


def _read_numbers(part: nn.Module, pattern: re.Pattern[str]) -> tuple[float, ...] | None:
    for name, value in _list_attributes(part):
        if not pattern.search(name) or RUNNING.search(name):
            continue
        if isinstance(value, torch.Tensor):
            value = value.detach().flatten().tolist()
        numbers = value if isinstance(value, list | tuple) else [value]
        plain = tuple(float(v) for v in numbers if isinstance(v, float | int))
        if len(plain) == len(numbers) and len(numbers) in (1, 3):
            return plain
    return None


def _list_attributes(part: nn.Module) -> Iterator[tuple[str, object]]:
    yield from part.named_buffers(recurse=False)
    yield from part.named_parameters(recurse=False)
    for name, value in vars(part).items():
        if not isinstance(value, bool):
            yield name, value


def _is_normalising(part: nn.Module) -> bool:
    # Layers that scale features to length one have such names too, but also an exponent.
    return bool(NORMALISING.search(type(part).__name__)) and not hasattr(part, "p")


def _find_transform(part: nn.Module) -> str | None:
    for name, value in vars(part).items():
        steps = getattr(value, "transforms", [])
        if isinstance(steps, list) and any(
            NORMALISING.search(type(step).__name__) for step in steps
        ):
            return name
    return None
