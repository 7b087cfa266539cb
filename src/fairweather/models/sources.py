"""Sources of models, what they open with its preprocessing, and files that none of them opens."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from fairweather.errors import InputError, check_name
from fairweather.models.outputs import LOGITS, OutputKind
from fairweather.models.wrappers import Classifier, accepts_images
from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.types.options import ModelOptions, Preparation

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torchvision.transforms._presets import ImageClassification


# The options of a model from any program.
MODULE_OPTIONS = ("mean", "std", "input_size", "outputs")


@dataclass(frozen=True)
class OpenedModel:
    """A classifier from any source, with everything that is known about it."""

    model: nn.Module
    """Float images `[B, 3, H, W]` in [0, 1] to logits `[B, outputs]`, in evaluation mode; its
    normalisation is inside, and so is resizing if its size is fixed."""

    name: str
    """Also the name of a folder: letters, digits, `_`, `-` and `.`, first a letter or digit."""

    digest: str
    """SHA-256, in hexadecimal, of the weights: of their file, or of the tensors of the state dict.
    """

    classes: tuple[str, ...] | None
    """Names in the order of the outputs; None if the model has no names."""

    preparation: Preparation | None
    """How the model's own configuration prepares images; None if that is unknown and images stay as
    they are."""

    facts: Mapping[str, object]
    """For people and the record, as JSON: `source`, `architecture`, `parameters`, `outputs`,
    `normalisation` (`mean` and `std`, both None if there is none, and where they are `from`),
    `preparation` (its fields, and where they are `from`), ..."""

    outputs: OutputKind | None = LOGITS
    """What the network's own outputs are, before `model` turns them into logits; None if only
    images can show it, and `model` gives the outputs as they are."""

    def __post_init__(self) -> None:
        for name in self.classes or ():
            check_name(name, f"the model {self.name} has a class with a name that cannot be used:")


def folder_name(text: str) -> str:
    """Turn any text into a name for a model, which can also be the name of a folder.

    >>> folder_name("hf-hub:timm/resnet18 (mine)"), folder_name("../..")
    ('hf-hub-timm-resnet18-mine', 'model')
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._") or "model"


class Setup(NamedTuple):
    """The settings for opening a model, besides its options."""

    classes: int | None = None
    offline: bool = False
    seed: int = 0
    predicts: TaskKind = CLASSES


@dataclass(frozen=True)
class SourceKind:
    """Where models come from: one row of `models.opening.MODEL_SOURCES`."""

    form: str
    """How it is written: `KIND:PLACE`, or words for a source without a kind."""

    title: str
    """What it is, for a list."""

    open: Callable[[str, ModelOptions, Setup], OpenedModel]
    """Opens a model from the text after the kind."""

    options: tuple[str, ...] = ()
    """The options of a model that it takes."""

    check: Callable[[str, str | None], None] = lambda place, architecture: None
    """Raises `InputError` for mistakes that show without opening, given the text after the kind and
    the architecture."""

    guess: Callable[[str], str | None] = lambda text: None
    """What a text without a kind may have meant, such as `hf:FOLDER` for a folder with its files;
    None if it is nothing of this source."""

    takes: Callable[[str], bool] | None = None
    """Of a source without a kind, whether a text is one."""


def suggest_file(path: Path) -> str:
    """Suggest a file with a similar name to a missing one, for the end of a message."""
    folder = path.expanduser().parent
    entries = folder.iterdir() if folder.is_dir() else ()
    names = [entry.name for entry in entries if entry.name != path.name]  # which is not a file
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""


# ---------------------------------------------------------------- files of other programs

_TF2ONNX = "pip install tf2onnx; python -m tf2onnx.convert"
# What these files are, and how to make an ONNX file of them.
CONVERTERS: Mapping[str, tuple[str, str]] = {
    ".tflite": ("a TensorFlow Lite model", f"{_TF2ONNX} --tflite {{path}} --output {{onnx}}"),
    ".h5": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".keras": ("a Keras model", f"{_TF2ONNX} --keras {{path}} --output {{onnx}}"),
    ".pb": ("a TensorFlow model", f"{_TF2ONNX} --saved-model {{folder}} --output {{onnx}}"),
    ".mlmodel": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".mlpackage": ("a Core ML model", "torch.onnx.export of the network that it was made from"),
    ".engine": ("a TensorRT engine", "or take the ONNX file that it was built from"),
    ".trt": ("a TensorRT engine", "or take the ONNX file that it was built from"),
}


def refuse_foreign(path: Path) -> None:
    """Raise `InputError` for a file of another program, by its suffix."""
    suffix = path.suffix.lower()
    if suffix not in CONVERTERS:
        return
    kind, template = CONVERTERS[suffix]
    onnx = path.with_suffix(".onnx")
    command = template.format(path=path, folder=path.parent, onnx=onnx)
    raise InputError(
        f"{path} is {kind}, which cannot be opened: convert it to ONNX ({command}), then give "
        f"onnx:{onnx}"
    )


# timm's defaults for missing settings (timm.data.config, timm.data.constants).
TIMM_FILTER = "bicubic"
TIMM_CROP = 0.875
UNKNOWN_ORIGIN = "unknown"  # the origin of the preparation if no configuration describes it


# ---------------------------------------------------------------- preprocessing


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
