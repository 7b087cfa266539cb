"""Sources of models, the models that they open, and files that none of them opens."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fairweather.errors import InputError, check_name
from fairweather.models.outputs import LOGITS, OutputKind
from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.types.options import ModelOptions, Preparation

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
