"""The recipe: all settings of supervised training, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

import pydantic

from fairweather.errors import InputError
from fairweather.shifts.ranges import (
    POSITIVE,
    Alpha,
    AlphaOrZero,
    BatchSize,
    BelowOne,
    CheckedSettings,
    Epochs,
    Epsilon,
    NotNegative,
    Positive,
    Share,
    at_most,
    between,
    require,
)
from fairweather.types.measurement import is_finite

LARGEST_ASPECT = 1000.0
Metric = Literal["accuracy", "auc"]  # of validation
BALANCED = "balanced"  # positive weights by how many images have a finding
Aspect = Annotated[float, between(1 / LARGEST_ASPECT, LARGEST_ASPECT)]


@dataclass(frozen=True)
class Rotation(CheckedSettings, where="recipe: rotation."):
    """With `probability`, rotate by an angle uniform in +-`degrees` (nearest pixel, black fill)."""

    degrees: Annotated[float, between(0, 180)]
    probability: Share = 1.0


@dataclass(frozen=True)
class AugMix(CheckedSettings, where="recipe: augmix."):
    """AugMix (Hendrycks et al. 2020) with the constants published for CIFAR."""

    severity: Annotated[float, between(0.1, 10)] = 3.0
    """How strong an operation may be, up to 10; published: 3 for CIFAR, 1 for ImageNet."""

    width: Annotated[int, between(1, 10)] = 3
    """Number of chains of operations that are mixed."""

    depth: Annotated[int, between(0, 10)] = 0
    """Number of operations in a chain; 0 draws 1 to 3 at random for each chain."""

    alpha: Alpha = 1.0
    """Parameter of the Dirichlet distribution of the chains' weights and of the Beta distribution
    of the image's weight."""

    all_operations: bool = False
    """Whether to use colour, contrast, brightness and sharpness too, which overlap with common test
    corruptions."""

    consistency: NotNegative = 12.0
    """Weight of the Jensen-Shannon divergence between the predictions for the image and for two
    mixtures of it; 0 trains on one mixture instead."""


@dataclass(frozen=True)
class RandAugment(CheckedSettings, where="recipe: rand_augment."):
    """RandAugment (Cubuk et al. 2020): random operations per image, all of one magnitude, 0 to 30.

    `operations` is how many each image gets.
    """

    operations: Annotated[int, between(1, 10)] = 2
    magnitude: Annotated[int, between(0, 30)] = 9


@dataclass(frozen=True)
class RandomErasing(CheckedSettings, where="recipe: random_erasing."):
    """Fill a rectangle with random pixels, with `probability` (Zhong et al. 2020).

    `area` is the smallest and the largest share of the image, `aspect` the smallest and the largest
    ratio of height to width.
    """

    probability: Share = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[Aspect, Aspect] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _check_ordered("random_erasing.area", self.area, 1)
        _check_ordered("random_erasing.aspect", self.aspect, math.inf)
        super().__post_init__()


@dataclass(frozen=True)
class GaussianNoise(CheckedSettings, where="recipe: gaussian_noise."):
    """With `probability`, add Gaussian noise whose standard deviation is uniform up to `std`.

    `std` is in units of [0, 1] pixels.
    """

    std: Annotated[float, POSITIVE, at_most(1)]
    probability: Share = 0.5


@dataclass(frozen=True)
class AsymmetricLoss(CheckedSettings, where="recipe: asymmetric_loss."):
    """Let easy findings count less, those that are absent most (Ben-Baruch et al. 2021).

    The defaults are those of the authors' training on MS-COCO.
    """

    gamma_neg: NotNegative = 4.0
    """The exponent of an absent finding: its loss counts p^gamma_neg, with p its probability."""

    gamma_pos: NotNegative = 0.0
    """The exponent of a finding that is there: its loss counts (1 - p)^gamma_pos."""

    clip: BelowOne = 0.05
    """The probability of an absent finding is lowered by this; one below it costs nothing."""


@dataclass(frozen=True)
class Adversarial(CheckedSettings, where="recipe: adversarial."):
    """Train on images that PGD has changed within `epsilon` (Madry et al. 2018)."""

    epsilon: Epsilon
    """The budget in units of [0, 1] pixels."""

    steps: Annotated[int, between(1, 1000)] = 7
    """Number of PGD steps from a random start; one costs as much as a training step."""

    norm: str = "linf"
    """`linf` or `l2`."""

    step_size: Epsilon | None = None
    """Size of each step; None means 2.5 epsilon / steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("linf", "l2"):
            raise InputError(f"recipe: adversarial.norm must be linf or l2, found {self.norm!r}")


def _check_ordered(name: str, pair: tuple[float, float], most: float) -> None:
    """Raise `InputError` unless 0 < low <= high <= `most`."""
    if not 0 < pair[0] <= pair[1] <= most:
        allowed = "above 0" if most == math.inf else f"above 0 and at most {most:g}"
        raise InputError(f"recipe: {name} must be [low, high], {allowed}, found {list(pair)}")


@dataclass(frozen=True)
class Recipe(CheckedSettings, where="recipe: "):
    """How a classifier is trained.

    >>> Recipe(epochs=20, learning_rate=5e-4, mixup=0.3, rotation=Rotation(20, 0.4)).optimizer
    'adamw'
    """

    epochs: Epochs = 20
    """Passes over the training images."""

    batch_size: BatchSize = 128
    """Largest number of images in a step; an epoch is cut into nearly equal batches."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`adamw` or `sgd` (Nesterov momentum)."""

    learning_rate: Positive = 1e-3
    """Learning rate of the head; the backbone has this times `backbone_learning_rate_scale`."""

    backbone_learning_rate_scale: NotNegative = 1.0
    """See `learning_rate`; below 1 for fine-tuning."""

    momentum: Share = 0.9
    """Momentum of SGD."""

    weight_decay: NotNegative = 1e-4
    """Decoupled for AdamW, an L2 term for SGD."""

    decay_norms_and_biases: bool = True
    """Whether `weight_decay` also acts on one-dimensional parameters."""

    schedule: Literal["none", "cosine", "exponential", "step"] = "none"
    """How the learning rate changes after warm-up: `none`, `cosine` (to zero at the end),
    `exponential` (times `schedule_gamma` per epoch) or `step` (times `schedule_gamma` every
    `schedule_step` epochs). It starts again after `probe_epochs`."""

    schedule_gamma: Positive = 0.1
    schedule_step: Epochs = 30
    """`schedule_gamma`, `schedule_step`: see `schedule`."""

    warmup_epochs: NotNegative = 0.0
    """The learning rate rises linearly from zero over these epochs; there is no warm-up while only
    the head is trained."""

    freeze_batchnorm: bool = False
    """Keep running statistics and affine parameters of batch norm as they are."""

    horizontal_flip: Share = 0.0
    vertical_flip: Share = 0.0
    """`horizontal_flip`, `vertical_flip`: probabilities of a flip."""

    rotation: Rotation | None = None
    """`Rotation` or None."""

    mixup: AlphaOrZero = 0.0
    """Alpha of the Beta distribution of MixUp (Zhang et al. 2018), 0 for none."""

    label_smoothing: BelowOne = 0.0
    """Weight of the uniform distribution in the targets, in [0, 1); of a finding, of 0.5."""

    clip_gradient_norm: Positive | None = None
    """Largest allowed norm of the whole gradient; None for no limit."""

    select: Literal["accuracy", "auc", "nll", "last"] = "accuracy"
    """The checkpoint that is kept: highest validation `accuracy` (ties: lower loss), lowest
    validation `nll`, or the `last`. If any epochs train the backbone, only these count. For several
    findings of an image, `accuracy` stands for `auc`, the highest mean AUC over the findings."""

    probe_epochs: int = 0
    """Number of epochs at the start in which only the head is trained; the backbone is frozen and
    in evaluation mode. With as many as `epochs` this is a linear probe; with fewer, the head is
    trained first and then everything (Kumar et al. 2022)."""

    probe_learning_rate: Positive | None = None
    """Learning rate of the head in `probe_epochs`; None means `learning_rate`."""

    trivial_augment: bool = False
    """One random operation of random strength per image (Müller & Hutter 2021)."""

    rand_augment: RandAugment | None = None
    """`RandAugment` or None."""

    augmix: AugMix | None = None
    """`AugMix` or None."""

    gaussian_noise: GaussianNoise | None = None
    """`GaussianNoise` or None."""

    random_erasing: RandomErasing | None = None
    """`RandomErasing` or None."""

    cutmix: AlphaOrZero = 0.0
    """Alpha of the Beta distribution of CutMix (Yun et al. 2019), 0 for none. If MixUp is on too,
    each batch gets one of the two with equal probability."""

    adversarial: Adversarial | None = None
    """`Adversarial` or None."""

    rotation_prediction: NotNegative = 0.0
    """Weight of the loss of a second head that predicts by how many quarter turns images were
    rotated (Hendrycks et al. 2019, "Using Self-Supervised Learning..."), 0 for none; published:
    0.5."""

    ema_decay: BelowOne = 0.0
    """Decay of a moving average of the weights; the average is then evaluated and stored instead of
    the weights; 0 for none. The first steps have at most (1 + step) / (10 + step)."""

    asymmetric_loss: AsymmetricLoss | None = None
    """`AsymmetricLoss` or None, for several findings of an image. Their loss is otherwise binary
    cross-entropy, mean over the known labels."""

    positive_weights: pydantic.SkipValidation[Literal["balanced"] | dict[str, float] | None] = (
        field(default=None, hash=False)
    )
    """How much a finding that is there counts in the loss, by finding, such as `{Mass: 5}`; 1 for
    those not named. `balanced` is the number of training images without the finding, divided by
    that with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("recipe: probe_epochs", self.probe_epochs, between(0, self.epochs))
        self._check_weights()
        self._check_warmup()
        self._check_together()

    def selecting(self, metric: Metric) -> Recipe:
        """The same recipe, with `select` by a metric of validation in place of the accuracy.

        Raises `InputError` if it selects by another metric.
        """
        if self.select not in ("accuracy", "nll", "last", metric):
            raise InputError(
                f"recipe: select must be {metric}, nll or last for these data, found {self.select}"
            )
        return replace(self, select=metric) if self.select == "accuracy" else self

    def _check_weights(self) -> None:
        weights = self.positive_weights
        numbers = weights.values() if isinstance(weights, dict) else ()
        if not (
            weights in (None, BALANCED)
            or (numbers and all(is_finite(weight) and weight > 0 for weight in numbers))
        ):
            raise InputError(
                f"recipe: positive_weights must be {BALANCED}, or a number > 0 for each finding, "
                f"such as {{Mass: 5}}, found {weights!r:.60}"
            )

    def _check_warmup(self) -> None:
        after = self.epochs - self.probe_epochs
        if self.warmup_epochs >= after and self.warmup_epochs > 0:
            less = " - probe_epochs" if self.probe_epochs else ""
            raise InputError(
                f"recipe: warmup_epochs must be below epochs{less} ({after}), found "
                f"{self.warmup_epochs}"
            )

    def _check_together(self) -> None:
        """Refuse settings whose combination has no agreed meaning."""
        if self.rand_augment and self.trivial_augment:
            raise InputError("recipe: rand_augment and trivial_augment exclude each other")
        mixes = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        if self.augmix and mixes:
            raise InputError(f"recipe: augmix and {mixes[0]} exclude each other")
        if self.adversarial:
            others = [*mixes, *(["augmix"] if self.augmix else [])]
            if others:
                raise InputError(
                    f"recipe: adversarial and {others[0]} exclude each other: the attack needs one "
                    "label per image"
                )


RECIPE_KEYS = tuple(setting.name for setting in fields(Recipe))
