"""Translate a Hugging Face image processor into a preparation and a normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from timm.models import PretrainedCfg

from fairweather.errors import InputError
from fairweather.models.preprocessing import Preprocessing, Statistics, from_timm
from fairweather.pixels import Square, decode_image
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
ORIGIN = "its image processor"


def read_processor(processor: Processor) -> Preprocessing:
    """Read an image processor of transformers, and check the result against the processor itself.

    Raises `InputError` with the name of the step if a processor does something else than resize,
    crop at the center, divide by 255 and normalise.
    """
    kind = type(processor).__name__
    if kind.startswith("TimmWrapper"):
        processing = _read_timm(processor.data_config)
    else:
        settings = processor.to_dict()
        statistics = Statistics(*_normalisation(kind, settings))
        processing = Preprocessing(statistics, _preparation(kind, settings), ORIGIN)
    prepared = processing.preparation
    if prepared is not None and (prepared.resize or prepared.size) < prepared.size:
        raise _unsupported(kind, f"resized to {prepared.resize}, padded to {prepared.size}")
    _check_against(processor, processing)
    return processing


def _read_timm(config: Mapping[str, Any]) -> Preprocessing:
    keys = ("input_size", "crop_mode", "crop_pct", "interpolation", "mean", "std")
    configuration = PretrainedCfg(**{key: config[key] for key in keys if key in config})
    published = from_timm(configuration, "the repository")
    if published.preparation is None or published.remark:
        raise _unsupported("timm's transform", published.remark)
    _filter("timm", published.preparation.interpolation)
    return published._replace(origin=ORIGIN)


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


def _check_against(processor: Processor, processing: Preprocessing) -> None:
    """Compare with the processor on a picture that is so smooth that filters hardly matter."""
    prepared, square, side = processing.preparation, None, 64
    if prepared is not None:
        side = prepared.size
        square = Square(side, prepared.resize or side, "bicubic", prepared.fit)
    blobs = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    short = square.resize if square else side
    picture = Image.fromarray(blobs).resize((short * 4 // 3, short), Image.Resampling.BICUBIC)
    values = processor(picture, return_tensors="pt").get("pixel_values")
    pixels = torch.from_numpy(decode_image(picture, square))[None] / 255
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in processing.statistics)
    if values is None or values.shape != pixels.shape:
        found = "no pixel_values" if values is None else f"images {list(values.shape)}"
        raise _unsupported(type(processor).__name__, found)
    difference = float((values * std + mean - pixels).abs().mean())
    # Where a margin is odd, libraries crop one pixel apart; of `side` pixels, a blob has a fourth.
    if not difference <= 0.01 + 2 / side:
        found = f"its own pixels differ by {difference:.2f} of [0, 1] from what its settings say"
        raise _unsupported(type(processor).__name__, found)
