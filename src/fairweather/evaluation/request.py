"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from fairweather.types import Attack, Dataset, Shift


@dataclass(frozen=True)
class Request:
    """A model, its data, shifts and attacks, and how they are brought together; see `evaluate`."""

    model: str | nn.Module
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    architecture: str | None = None
    weights: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    input_size: int | None = None
    outputs: str = "auto"
    labels: Mapping[str, object] | None = None
    size: int | None = None
    root: str | Path | None = None
    limit: int | None = None
    validation_fraction: float = 0.0
    skip_unreadable: bool = False
    variants: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()
    priors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    batch_size: int = 256
    bootstrap: int = 1000
    shift_seed: int = 0
    title: str | None = None
    device: str = "auto"
    offline: bool = False
