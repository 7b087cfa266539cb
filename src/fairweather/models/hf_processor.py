"""Translate a Hugging Face image processor into a preparation and a normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image

from fairweather.errors import InputError
from fairweather.types import Preparation

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Processor = Any  # transformers.BaseImageProcessor, of an extra
Channels = tuple[float, float, float]

# The supported steps; do_convert_rgb and do_reduce_labels change no RGB image.
KNOWN_STEPS = {
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_reduce_labels",
}
FILTERS: Mapping[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# ConvNextImageProcessor resizes to a square, and crops nothing, from this size on.
CONVNEXT_SQUASHES_FROM = 384
# LevitImageProcessor resizes the shorter side to this many times its size.
LEVIT_MARGIN = 256 / 224


class Processing(NamedTuple):
    """The preprocessing of 8-bit images: squares of one size, then `(x - mean) / std`.

    Attributes:
        preparation: None if images keep their size.
        mean, std: per channel, for images in [0, 1].
    """

    preparation: Preparation | None
    mean: Channels
    std: Channels


def read_processor(processor: Processor) -> Processing:
    """Read an image processor of transformers, and check the result against the processor itself.

    Raises `InputError` with the name of the step if a processor does something else than resize,
    crop at the center, divide by 255 and normalise.
    """
    kind = type(processor).__name__
    if kind.startswith("TimmWrapper"):
        processing = _read_timm(processor.data_config)
    else:
        settings = processor.to_dict()
        processing = Processing(_preparation(kind, settings), *_normalisation(kind, settings))
    prepared = processing.preparation
    if prepared is not None and (prepared.resize or prepared.size) < prepared.size:
        raise _unsupported(kind, f"resized to {prepared.resize}, padded to {prepared.size}")
    _check_against(processor, processing)
    return processing


def _read_timm(config: Mapping[str, Any]) -> Processing:
    _, height, width = config["input_size"]
    mode, share = config.get("crop_mode", "center"), float(config["crop_pct"])
    if height != width or mode not in ("center", "squash"):
        raise _unsupported("timm's transform", f"{height}x{width} with crop_mode {mode!r}")
    # timm.data.transforms_factory: transforms_imagenet_eval
    resize = int(height / share)
    fit: Literal["crop", "squash"] = "squash" if mode == "squash" else "crop"
    preparation = Preparation(height, resize, _filter("timm", config["interpolation"]), fit)
    return Processing(preparation, _channels(config["mean"]), _channels(config["std"]))


def _preparation(kind: str, settings: Mapping[str, Any]) -> Preparation | None:
    extra = [key for key in settings if key.startswith("do_") and settings[key]]
    if unknown := sorted(set(extra) - KNOWN_STEPS):
        raise _unsupported(kind, ", ".join(unknown))
    crop = _square(kind, "crop_size", settings) if settings.get("do_center_crop") else None
    if not settings.get("do_resize"):
        if crop is not None:
            raise _unsupported(kind, "do_center_crop without do_resize")
        return None
    interpolation = _filter(kind, settings.get("resample"))
    edge = dict(settings["size"]).get("shortest_edge")
    if edge is None:
        side = _square(kind, "size", settings)
        return Preparation(crop or side, side, interpolation, "squash")
    if kind.startswith("ConvNext"):
        if edge >= CONVNEXT_SQUASHES_FROM:
            return Preparation(crop or edge, edge, interpolation, "squash")
        return Preparation(crop or edge, int(edge / settings["crop_pct"]), interpolation)
    if crop is None:
        raise _unsupported(kind, "size.shortest_edge without do_center_crop: oblong images")
    if kind.startswith("PoolFormer"):
        edge = int(edge / settings["crop_pct"])
    if kind.startswith("Levit"):
        edge = int(LEVIT_MARGIN * edge)
    return Preparation(crop, edge, interpolation)


def _normalisation(kind: str, settings: Mapping[str, Any]) -> tuple[Channels, Channels]:
    factor = settings.get("rescale_factor")
    if not settings.get("do_rescale") or factor is None or abs(factor * 255 - 1) > 1e-6:
        found = f"do_rescale {settings.get('do_rescale')} with rescale_factor {factor}, not 1/255"
        raise _unsupported(kind, found)
    if settings.get("rescale_offset"):
        raise _unsupported(kind, "rescale_offset")
    normalised = bool(settings.get("do_normalize"))
    mean = _channels(settings["image_mean"] if normalised else 0.0)
    std = _channels(settings["image_std"] if normalised else 1.0)
    if settings.get("include_top"):  # EfficientNetImageProcessor divides by std a second time
        again = _channels(settings["image_std"])
        std = _channels([one * two for one, two in zip(std, again, strict=True)])
    return mean, std


def _filter(kind: str, resample: object) -> Filter:
    if resample in FILTERS.values():
        return cast("Filter", resample)
    if not isinstance(resample, int) or int(resample) not in FILTERS:
        raise _unsupported(kind, f"the filter {resample!r} of its resizing")
    return FILTERS[int(resample)]


def _square(kind: str, key: str, settings: Mapping[str, Any]) -> int:
    given = settings[key]
    sides = given if isinstance(given, Mapping) else dict.fromkeys(("height", "width"), given)
    known = {name: side for name, side in sides.items() if side is not None}
    if set(known.values()) != {known.get("height"), known.get("width")} or len(known) != 2:
        raise _unsupported(kind, f"{key} {known}")
    if known["height"] != known["width"]:
        raise _unsupported(kind, f"{key} {known['height']}x{known['width']}, which is not a square")
    return int(known["height"])


def _channels(values: float | Sequence[float]) -> Channels:
    red, green, blue = np.broadcast_to(np.asarray(values, dtype=float), 3).tolist()
    return red, green, blue


def _unsupported(kind: str, what: str) -> InputError:
    return InputError(
        f"the preprocessing of {kind} is not supported ({what}): change "
        "preprocessor_config.json, or load the model with python:FILE.py:FUNCTION"
    )


def _check_against(processor: Processor, processing: Processing) -> None:
    """Compare with the processor on a picture that is so smooth that filters hardly matter."""
    side = processing.preparation.size if processing.preparation else 64
    blobs = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    resize = processing.preparation.resize if processing.preparation else None
    short = resize or side
    picture = Image.fromarray(blobs).resize((short * 4 // 3, short), Image.Resampling.BICUBIC)
    values = processor(picture, return_tensors="pt").get("pixel_values")
    expected = _as_read(picture, processing)
    if values is None or tuple(values.shape) != tuple(expected.shape):
        found = "no pixel_values" if values is None else f"images {list(values.shape)}"
        raise _unsupported(type(processor).__name__, found)
    std = torch.tensor(processing.std).reshape(1, 3, 1, 1)
    difference = float(((values - expected) * std).abs().mean())
    # Where a margin is odd, libraries crop one pixel apart; of `side` pixels, a blob has a fourth.
    if not difference <= 0.01 + 2 / side:
        found = f"its own pixels differ by {difference:.2f} of [0, 1] from what its settings say"
        raise _unsupported(type(processor).__name__, found)


def _as_read(picture: Image.Image, processing: Processing) -> torch.Tensor:
    if (preparation := processing.preparation) is not None:
        size, resize = preparation.size, preparation.resize or preparation.size
        short = min(picture.size)
        sides = [resize * side // short for side in picture.size]
        if preparation.fit == "squash":
            sides = [resize, resize]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in sides)
        picture = picture.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) for x in (processing.mean, processing.std))
    return (pixels - mean) / std
