"""The recipe: every knob of supervised training, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from fairweather.errors import InputError

# For whoever reads a recipe with pydantic: no unknown keys, and quoted text is not a number.
STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Rotation:
    """Rotate by an angle uniform in +-`degrees`, with `probability` (nearest pixel, black fill)."""

    __pydantic_config__ = STRICT

    degrees: float
    probability: float = 1.0

    def __post_init__(self) -> None:
        _within("rotation.degrees", self.degrees, 0, 180)
        _within("rotation.probability", self.probability, 0, 1)


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: the most images in a step; an epoch is cut into nearly equal batches.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        learning_rate: of the head, and of the backbone times `backbone_learning_rate_scale`.
        backbone_learning_rate_scale: below 1 for fine-tuning; 0 leaves the backbone as it is (a
            linear probe, but for batch norm: see `freeze_batchnorm`).
        momentum: of SGD.
        weight_decay: decoupled for AdamW, an L2 term for SGD.
        decay_norms_and_biases: whether `weight_decay` also acts on one-dimensional parameters.
        schedule: of the learning rate after warm-up: `none`, `cosine` (to zero at the end),
            `exponential` (times `schedule_gamma` an epoch) or `step` (times `schedule_gamma` every
            `schedule_step` epochs).
        schedule_gamma, schedule_step: see `schedule`.
        warmup_epochs: the learning rate rises linearly from zero over these epochs.
        freeze_batchnorm: keep running statistics and affine parameters of batch norm as they are.
        horizontal_flip, vertical_flip: probabilities.
        rotation: `Rotation` or None.
        mixup: alpha of the Beta distribution of MixUp (Zhang et al. 2018), 0 for none.
        label_smoothing: weight of the uniform distribution in the targets, in [0, 1).
        clip_gradient_norm: the largest norm of the whole gradient; None for no limit.
        select: the checkpoint that is kept: highest validation `accuracy` (ties: lower loss),
            lowest validation `nll`, or the `last`.

    >>> Recipe(epochs=20, learning_rate=5e-4, mixup=0.3, rotation=Rotation(20, 0.4)).optimizer
    'adamw'
    """

    __pydantic_config__ = STRICT

    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    backbone_learning_rate_scale: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True
    schedule: Literal["none", "cosine", "exponential", "step"] = "none"
    schedule_gamma: float = 0.1
    schedule_step: int = 30
    warmup_epochs: float = 0.0
    freeze_batchnorm: bool = False
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: Rotation | None = None
    mixup: float = 0.0
    label_smoothing: float = 0.0
    clip_gradient_norm: float | None = None
    select: Literal["accuracy", "nll", "last"] = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"recipe: label_smoothing must be in [0, 1), found {self.label_smoothing}"
            )
        for name in ("horizontal_flip", "vertical_flip", "momentum"):
            _within(name, getattr(self, name), 0, 1)
        for name, least in (("epochs", 1), ("batch_size", 2), ("schedule_step", 1)):
            _within(name, getattr(self, name), least, math.inf)
        for name in ("weight_decay", "backbone_learning_rate_scale", "mixup", "warmup_epochs"):
            _within(name, getattr(self, name), 0, math.inf)
        for name in ("learning_rate", "schedule_gamma", "clip_gradient_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"recipe: {name} must be > 0, found {value}")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise InputError(
                f"recipe: warmup_epochs must be below epochs, found {self.warmup_epochs} of "
                f"{self.epochs}"
            )


RECIPE_KEYS = tuple(field.name for field in fields(Recipe))


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and value < math.inf):
        allowed = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise InputError(f"recipe: {name} must be {allowed}, found {value}")
