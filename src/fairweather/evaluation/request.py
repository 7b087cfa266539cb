"""The request for an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fairweather.evaluation_options import EvaluationOptions
from fairweather.types import Attack, Dataset, Shift


@dataclass(frozen=True)
class Request:
    """A model, its data, the shifts and the options; see `evaluate`."""

    model: str | nn.Module
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    options: EvaluationOptions
