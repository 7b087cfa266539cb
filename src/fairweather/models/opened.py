"""A classifier that was opened, and what is known about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fairweather.errors import check_name
from fairweather.models.outputs import LOGITS, Outputs
from fairweather.types import Preparation


@dataclass(frozen=True)
class Opened:
    """A classifier from any source, with everything that is known about it.

    Attributes:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, outputs]`, in evaluation mode;
            its normalisation is inside, and so is resizing if its size is fixed.
        name: also the name of a folder: letters, digits, `_`, `-` and `.`, first a letter or digit.
        digest: SHA-256, in hexadecimal, of the weights: of their file, or of the tensors of the
            state dict.
        classes: names in the order of the outputs; None if the model has no names.
        preparation: how the model's own configuration prepares images; None if that is unknown
            and images stay as they are.
        facts: for people and the record, as JSON: `source`, `architecture`, `parameters`,
            `outputs`, `normalisation` (`mean` and `std`, both None if there is none, and where they
            are `from`), `preparation` (its fields, and where they are `from`), ...
        outputs: what the network's own outputs are, before `model` turns them into logits; None if
            only images can show it, and `model` gives the outputs as they are.
    """

    model: nn.Module
    name: str
    digest: str
    classes: tuple[str, ...] | None
    preparation: Preparation | None
    facts: Mapping[str, object]
    outputs: Outputs | None = LOGITS

    def __post_init__(self) -> None:
        for each in self.classes or ():
            check_name(each, f"the model {self.name} has a class with a name that cannot be used:")


def folder_name(text: str) -> str:
    """Turn any text into a name for a model, which can also be the name of a folder.

    >>> folder_name("hf-hub:timm/resnet18 (mine)"), folder_name("../..")
    ('hf-hub-timm-resnet18-mine', 'model')
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._") or "model"
