"""What is known of a classifier that came from somewhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from fairweather.models.outputs import LOGITS, Outputs
from fairweather.types import Preparation


@dataclass(frozen=True)
class Opened:
    """A classifier from anywhere, with everything that is known of it.

    Attributes:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, outputs]`, in evaluation mode;
            its normalisation is inside, and so is resizing where its size is fixed.
        name: names a folder: letters, digits, `_`, `-` and `.`, beginning with a letter or digit.
        digest: SHA-256, in hexadecimal, of what decides its outputs: the weights file, or the
            tensors of the state dict.
        classes: names in the order of the outputs; None where the model names none.
        preparation: how the model's own configuration prepares images; None where that is unknown
            and images stay as they are.
        facts: for people and provenance, all of it fit for JSON: `source`, `architecture`,
            `parameters`, `outputs`, `normalisation` (`mean`, `std`, and where they are `from`; both
            None where there is none), `preparation` (the fields, and where they are `from`), ...
        outputs: what the network's own outputs were taken for, before `model` made logits of them;
            None where only images can tell, and `model` gives them as they are.
    """

    model: nn.Module
    name: str
    digest: str
    classes: tuple[str, ...] | None
    preparation: Preparation | None
    facts: Mapping[str, object]
    outputs: Outputs | None = LOGITS


def folder_name(text: str) -> str:
    """Turn any text into the name of a model, which must be able to name a folder.

    >>> folder_name("hf-hub:timm/resnet18 (mine)"), folder_name("../..")
    ('hf-hub-timm-resnet18-mine', 'model')
    """
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._") or "model"
