"""The recipe of a pre-training: all settings, and the published values of each method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, NamedTuple

from fairweather.errors import InputError, unknown_name
from fairweather.shifts.ranges import (
    POSITIVE,
    BatchSize,
    BelowOne,
    CheckedSettings,
    Epochs,
    NotNegative,
    Positive,
    Share,
    at_most,
    between,
    require,
)

MethodName = Literal["barlow_twins", "simclr", "vicreg", "simsiam", "rotation", "supervised"]
PER_IMAGES = 256  # learning rates are given per 256 images of a batch, as they are published
MOST_PROJECTED = 65_536  # width of a projector; the published ones have up to 8,192
WIDTHS = between(1), at_most(MOST_PROJECTED)
Width = Annotated[int, *WIDTHS]
MOST_WARMUP = 0.1  # share of all epochs, unless `warmup_epochs` is given


@dataclass(frozen=True)
class Views(CheckedSettings, where="views: "):
    """How two random views of each image are made, in this order; the defaults are Barlow Twins'.

    Source: Zbontar et al. 2021, section 2.2, where the blur was for images of 224 pixels. Set
    `horizontal_flip` to 0 for digits and other images that mean something else when mirrored.

    >>> Views(horizontal_flip=0.0).crop_scale
    (0.08, 1.0)
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """The share of the image's area that a crop covers is uniform in this range; the crop is
    resized back to the size of the image."""

    horizontal_flip: Share = 0.5
    """Probability of a flip."""

    jitter_probability: Share = 0.8
    """Probability of changing brightness, contrast, saturation and hue, in random order."""

    brightness: NotNegative = 0.4
    contrast: NotNegative = 0.4
    saturation: NotNegative = 0.2
    """`brightness`, `contrast`, `saturation`: factors are uniform in [1 - x, 1 + x]."""

    hue: Annotated[float, between(0, 0.5)] = 0.1
    """The turn of the hue is uniform in +-x, where 0.5 is half the circle."""

    grayscale: Share = 0.2
    """Probability of making the view grey."""

    blur: tuple[Share, Share] = (1.0, 0.1)
    """Probabilities of a Gaussian blur, in the first and in the second view."""

    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """The blur's standard deviation in pixels is uniform in this range."""

    solarize: tuple[Share, Share] = (0.0, 0.2)
    """Probabilities of inverting values of 0.5 or more, in the first and second view."""

    def __post_init__(self) -> None:
        for name in ("crop_scale", "blur", "blur_sigma", "solarize"):
            if len(getattr(self, name)) != 2:
                given = list(getattr(self, name))
                raise InputError(f"views: {name} needs two numbers, found {given}")
        super().__post_init__()
        for name, most in (("crop_scale", 1.0), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            require(f"views: {name}", low, POSITIVE)
            require(f"views: {name}", high, between(low, most))


# For images of about 32 pixels: no blur and no tiny crops, as in Chen and He 2021 for CIFAR-10
# (appendix D). solo-learn has no blur there either, but crops from 0.08 on.
SMALL_VIEWS = Views(crop_scale=(0.2, 1.0), blur=(0.0, 0.0))
NAMED_VIEWS: Mapping[str, Views] = {"small": SMALL_VIEWS}  # names that a study may give as `views`


class PublishedSettings(NamedTuple):
    """The published settings of a method; learning rates are per 256 images."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    bias_learning_rate: float | None  # None means that of the weights
    weight_decay: float
    warmup_epochs: float
    final_learning_rate_scale: float
    projector: tuple[int, ...]
    views: Views


_WIDE = (8192, 8192, 8192)
_BARLOW = Views()
_STRONG = Views(
    brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=(0.5, 0.5), solarize=(0, 0)
)
_MOCO = Views(crop_scale=(0.2, 1.0), saturation=0.4, blur=(0.5, 0.5), solarize=(0, 0))
_PLAIN = Views(jitter_probability=0.0, grayscale=0.0, blur=(0, 0), solarize=(0, 0))
_FLIPPED = replace(_PLAIN, crop_scale=(0.6, 1.0))
PUBLISHED: Mapping[str, PublishedSettings] = {
    # Zbontar et al. 2021, section 2.2 and the authors' main.py.
    "barlow_twins": PublishedSettings(
        1000, 2048, "lars", 0.2, 0.0048, 1e-6, 10, 1e-3, _WIDE, _BARLOW
    ),
    # Chen et al. 2020, section 2.2: 100 epochs unless said otherwise; a hidden and an output layer.
    # Views of full strength: the authors' data_util.py.
    "simclr": PublishedSettings(100, 4096, "lars", 0.3, None, 1e-6, 10, 0.0, (2048, 128), _STRONG),
    # Bardes et al. 2022, section 4.2; the final rate is that of the authors' main_vicreg.py.
    "vicreg": PublishedSettings(1000, 2048, "lars", 0.2, None, 1e-6, 10, 1e-3, _WIDE, _BARLOW),
    # Chen and He 2021, section 3, and the authors' main_simsiam.py. There the predictor can have a
    # constant learning rate; here it has the same schedule as the rest.
    "simsiam": PublishedSettings(
        100, 512, "sgd", 0.05, None, 1e-4, 0, 0.0, (2048, 2048, 2048), _MOCO
    ),
    # Gidaris et al. 2018, section 3.1, CIFAR-10: 0.1 for 128 images, each in all four rotations.
    # Their learning rate falls in steps, and they crop from a padded image.
    "rotation": PublishedSettings(100, 128, "sgd", 0.2, None, 5e-4, 0, 0.0, (), _FLIPPED),
    # Goyal et al. 2017, section 5.1; their learning rate falls in steps, and norms do not decay.
    "supervised": PublishedSettings(90, 256, "sgd", 0.1, None, 1e-4, 5, 0.0, (), _PLAIN),
}


LEFT_OUT: Any = None  # the field then has the method's published value


@dataclass(frozen=True)
class Pretraining(CheckedSettings, where="pretraining: "):
    """How an encoder is pre-trained.

    A setting that is left out takes the method's published value from `PUBLISHED`; the object
    always holds the values that are used. There are two exceptions. A published learning rate
    belongs to its optimiser: with another one, `learning_rate` must be given. A warm-up that is
    left out lasts at most a tenth of the epochs.

    Raises `InputError` for values out of range.

    >>> recipe = Pretraining("barlow_twins", epochs=300, batch_size=256, learning_rate=0.4)
    >>> recipe.optimizer, recipe.bias_learning_rate, recipe.projector
    ('lars', 0.0048, (8192, 8192, 8192))
    """

    method: MethodName
    """`barlow_twins`, `simclr`, `vicreg`, `simsiam` and `rotation` need no labels; `supervised` is
    the same loop with labels. `rotation` predicts by which right angle an image was rotated."""

    epochs: Epochs = LEFT_OUT
    """Passes over the images."""

    batch_size: BatchSize = LEFT_OUT
    """Largest number of images in a step; an epoch is cut into nearly equal batches."""

    optimizer: Literal["lars", "sgd", "adamw"] = LEFT_OUT
    """`lars` or `sgd` (both without Nesterov momentum), or `adamw`."""

    learning_rate: Positive = LEFT_OUT
    """Learning rate of the weights per 256 images; it is multiplied by `batch_size` / 256."""

    bias_learning_rate: Positive = LEFT_OUT
    """The same for biases and norm parameters. By default it is that of the weights, except 0.0048
    for Barlow Twins with LARS, as published."""

    weight_decay: NotNegative = LEFT_OUT
    """An L2 term, decoupled for AdamW; with `lars` not on biases and norms."""

    momentum: BelowOne = 0.9
    """Momentum of LARS and SGD."""

    trust_coefficient: Positive = 1e-3
    """For LARS, the length of a step relative to the weights (You et al. 2017)."""

    warmup_epochs: NotNegative = LEFT_OUT
    """The learning rate rises linearly from zero over these epochs."""

    final_learning_rate_scale: Share = LEFT_OUT
    """After warm-up, the learning rate falls along a cosine to this share of its full value."""

    clip_gradient_norm: Positive | None = None
    """Largest allowed norm of the whole gradient; None for no limit."""

    projector: tuple[int, ...] = LEFT_OUT
    """Widths of the layers between features and loss; none for `rotation` and `supervised`, which
    have one linear layer."""

    views: Views = LEFT_OUT
    """How views are made; `rotation` and `supervised` use only the second kind of view. By default
    these are the method's views. If only some keys are given, the others are those of Barlow Twins.
    """

    redundancy_weight: NotNegative = 0.0051
    """Lambda of Barlow Twins."""

    temperature: Positive = 0.1
    """Temperature of SimCLR; the best published is 0.1 on ImageNet, 0.5 on CIFAR-10."""

    invariance_weight: NotNegative = 25.0
    variance_weight: NotNegative = 25.0
    covariance_weight: NotNegative = 1.0
    """`invariance_weight`, `variance_weight`, `covariance_weight`: weights of the terms of VICReg.
    """

    predictor_width: Width = 512
    """Width of the hidden layer of SimSiam's predictor."""

    def __post_init__(self) -> None:
        if self.method not in PUBLISHED:
            raise unknown_name("pre-training method", self.method, PUBLISHED)
        for name, value in _fill_in(self).items():
            object.__setattr__(self, name, value)
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"pretraining: warmup_epochs must be below epochs ({self.epochs}), found "
                f"{self.warmup_epochs}"
            )
        self._check_projector()

    def _check_projector(self) -> None:
        for width in self.projector:
            require("pretraining: a width of the projector", width, *WIDTHS)
        needed = bool(PUBLISHED[self.method].projector)
        if needed != bool(self.projector):
            allowed = "at least one width" if needed else "no widths"
            raise InputError(
                f"pretraining: the projector of {self.method} takes {allowed}, found "
                f"{list(self.projector)}"
            )


def _fill_in(entry: Pretraining) -> dict[str, Any]:
    """Give the values of the settings that were left out."""
    values = PUBLISHED[entry.method]._asdict()
    as_published = entry.optimizer in (None, values["optimizer"])
    if not as_published and entry.learning_rate is None:
        raise InputError(
            f"pretraining: learning_rate is needed, since {entry.method} is published with "
            f"{values['optimizer']} and not with {entry.optimizer}"
        )
    if not as_published or values["bias_learning_rate"] is None:
        rate = values["learning_rate"] if entry.learning_rate is None else entry.learning_rate
        values["bias_learning_rate"] = rate
    epochs = values["epochs"] if entry.epochs is None else entry.epochs
    values["warmup_epochs"] = min(values["warmup_epochs"], MOST_WARMUP * epochs)
    return {name: value for name, value in values.items() if getattr(entry, name) is None}


PRETRAINING_KEYS = tuple(field.name for field in fields(Pretraining))
