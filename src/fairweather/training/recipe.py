"""The recipe: all settings of supervised training, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from fairweather.errors import InputError


def require_within(recipe: str, name: str, value: float, low: float, high: float) -> None:
    """Raise `InputError` unless a finite number is in [low, high].

    >>> require_within("recipe", "momentum", 0.9, 0, 1)
    """
    if not (low <= value <= high and value < math.inf):
        allowed = f">= {low}" if high == math.inf else f"in [{low}, {high}]"
        raise InputError(f"{recipe}: {name} must be {allowed}, found {value}")


def require_positive(recipe: str, name: str, value: float) -> None:
    """Raise `InputError` unless a number is finite and above 0.

    >>> require_positive("recipe", "learning_rate", 1e-3)
    """
    if not 0 < value < math.inf:
        raise InputError(f"{recipe}: {name} must be > 0, found {value}")


# Larger numbers were not meant: a training does not end, the draws of a distribution are no numbers
# any more, and 32 bits do not hold them.
MOST_EPOCHS = 1_000_000  # also images in a batch
MOST_ALPHA = 1000.0
LEAST_ALPHA = 0.001
MOST_EPSILON = 10_000.0
MOST_ASPECT = 1000.0


def require_at_most(recipe: str, name: str, value: float, most: float) -> None:
    """Raise `InputError` for a number above `most`.

    >>> require_at_most("recipe", "epochs", 20, 1_000_000)
    """
    if value > most:
        raise InputError(f"{recipe}: {name} must be at most {most:,}, found {value!r:.60}")


def require_alpha(recipe: str, name: str, alpha: float) -> None:
    """Raise `InputError` unless a Beta or Dirichlet distribution can be drawn from.

    >>> require_alpha("recipe", "mixup", 0.2)
    """
    require_within(recipe, name, alpha, LEAST_ALPHA, MOST_ALPHA)


# For pydantic when it reads a recipe: unknown keys are errors, and quoted text is not a number.
STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Rotation:
    """With `probability`, rotate by an angle uniform in +-`degrees` (nearest pixel, black fill)."""

    __pydantic_config__ = STRICT

    degrees: float
    probability: float = 1.0

    def __post_init__(self) -> None:
        require_within("recipe", "rotation.degrees", self.degrees, 0, 180)
        require_within("recipe", "rotation.probability", self.probability, 0, 1)


@dataclass(frozen=True)
class AugMix:
    """AugMix (Hendrycks et al. 2020) with the constants published for CIFAR.

    Attributes:
        severity: how strong an operation may be, up to 10; published: 3 for CIFAR, 1 for ImageNet.
        width: number of chains of operations that are mixed.
        depth: number of operations in a chain; 0 draws 1 to 3 at random for each chain.
        alpha: parameter of the Dirichlet distribution of the chains' weights and of the Beta
            distribution of the image's weight.
        all_operations: whether to use colour, contrast, brightness and sharpness too, which overlap
            with common test corruptions.
        consistency: weight of the Jensen-Shannon divergence between the predictions for the image
            and for two mixtures of it; 0 trains on one mixture instead.
    """

    __pydantic_config__ = STRICT

    severity: float = 3.0
    width: int = 3
    depth: int = 0
    alpha: float = 1.0
    all_operations: bool = False
    consistency: float = 12.0

    def __post_init__(self) -> None:
        require_within("recipe", "augmix.severity", self.severity, 0.1, 10)
        require_within("recipe", "augmix.width", self.width, 1, 10)
        require_within("recipe", "augmix.depth", self.depth, 0, 10)
        require_within("recipe", "augmix.consistency", self.consistency, 0, math.inf)
        require_positive("recipe", "augmix.alpha", self.alpha)
        require_alpha("recipe", "augmix.alpha", self.alpha)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020): random operations per image, all of one magnitude, 0 to 30.

    `operations` is how many each image gets.
    """

    __pydantic_config__ = STRICT

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        require_within("recipe", "rand_augment.operations", self.operations, 1, 10)
        require_within("recipe", "rand_augment.magnitude", self.magnitude, 0, 30)


@dataclass(frozen=True)
class RandomErasing:
    """Fill a rectangle with random pixels, with `probability` (Zhong et al. 2020).

    `area` is the smallest and the largest share of the image, `aspect` the smallest and the largest
    ratio of height to width.
    """

    __pydantic_config__ = STRICT

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        require_within("recipe", "random_erasing.probability", self.probability, 0, 1)
        _ordered("random_erasing.area", self.area, 1)
        _ordered("random_erasing.aspect", self.aspect, math.inf)
        for aspect in self.aspect:
            require_within("recipe", "random_erasing.aspect", aspect, 1 / MOST_ASPECT, MOST_ASPECT)


@dataclass(frozen=True)
class GaussianNoise:
    """With `probability`, add Gaussian noise whose standard deviation is uniform up to `std`.

    `std` is in units of [0, 1] pixels.
    """

    __pydantic_config__ = STRICT

    std: float
    probability: float = 0.5

    def __post_init__(self) -> None:
        require_positive("recipe", "gaussian_noise.std", self.std)
        require_at_most("recipe", "gaussian_noise.std", self.std, 1)
        require_within("recipe", "gaussian_noise.probability", self.probability, 0, 1)


@dataclass(frozen=True)
class Adversarial:
    """Train on images that PGD has changed within `epsilon` (Madry et al. 2018).

    Attributes:
        epsilon: the budget in units of [0, 1] pixels.
        steps: number of PGD steps from a random start; one costs as much as a training step.
        norm: `linf` or `l2`.
        step_size: size of each step; None means 2.5 epsilon / steps.
    """

    __pydantic_config__ = STRICT

    epsilon: float
    steps: int = 7
    norm: str = "linf"
    step_size: float | None = None

    def __post_init__(self) -> None:
        require_positive("recipe", "adversarial.epsilon", self.epsilon)
        require_at_most("recipe", "adversarial.epsilon", self.epsilon, MOST_EPSILON)
        require_within("recipe", "adversarial.steps", self.steps, 1, 1000)
        if self.norm not in ("linf", "l2"):
            raise InputError(f"recipe: adversarial.norm must be linf or l2, found {self.norm!r}")
        if self.step_size is not None:
            require_positive("recipe", "adversarial.step_size", self.step_size)
            require_at_most("recipe", "adversarial.step_size", self.step_size, MOST_EPSILON)


def _ordered(name: str, pair: tuple[float, float], most: float) -> None:
    """Raise `InputError` unless 0 < low <= high <= `most`."""
    if not 0 < pair[0] <= pair[1] <= most:
        allowed = "above 0" if most == math.inf else f"above 0 and at most {most:g}"
        raise InputError(f"recipe: {name} must be [low, high], {allowed}, found {list(pair)}")


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: largest number of images in a step; an epoch is cut into nearly equal batches.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        learning_rate: learning rate of the head; the backbone has this times
            `backbone_learning_rate_scale`.
        backbone_learning_rate_scale: see `learning_rate`; below 1 for fine-tuning.
        momentum: momentum of SGD.
        weight_decay: decoupled for AdamW, an L2 term for SGD.
        decay_norms_and_biases: whether `weight_decay` also acts on one-dimensional parameters.
        schedule: how the learning rate changes after warm-up: `none`, `cosine` (to zero at the
            end), `exponential` (times `schedule_gamma` per epoch) or `step` (times `schedule_gamma`
            every `schedule_step` epochs). It starts again after `probe_epochs`.
        schedule_gamma, schedule_step: see `schedule`.
        warmup_epochs: the learning rate rises linearly from zero over these epochs; there is no
            warm-up while only the head is trained.
        freeze_batchnorm: keep running statistics and affine parameters of batch norm as they are.
        probe_epochs: number of epochs at the start in which only the head is trained; the backbone
            is frozen and in evaluation mode. With as many as `epochs` this is a linear probe; with
            fewer, the head is trained first and then everything (Kumar et al. 2022).
        probe_learning_rate: learning rate of the head in `probe_epochs`; None means
            `learning_rate`.
        horizontal_flip, vertical_flip: probabilities of a flip.
        rotation: `Rotation` or None.
        trivial_augment: one random operation of random strength per image (Müller & Hutter 2021).
        rand_augment: `RandAugment` or None.
        augmix: `AugMix` or None.
        gaussian_noise: `GaussianNoise` or None.
        random_erasing: `RandomErasing` or None.
        mixup: alpha of the Beta distribution of MixUp (Zhang et al. 2018), 0 for none.
        cutmix: alpha of the Beta distribution of CutMix (Yun et al. 2019), 0 for none. If MixUp is
            on too, each batch gets one of the two with equal probability.
        adversarial: `Adversarial` or None.
        rotation_prediction: weight of the loss of a second head that predicts by how many quarter
            turns images were rotated (Hendrycks et al. 2019, "Using Self-Supervised Learning..."),
            0 for none; published: 0.5.
        label_smoothing: weight of the uniform distribution in the targets, in [0, 1).
        clip_gradient_norm: largest allowed norm of the whole gradient; None for no limit.
        ema_decay: decay of a moving average of the weights; the average is then evaluated and
            stored instead of the weights; 0 for none. The first steps have at most
            (1 + step) / (10 + step).
        select: the checkpoint that is kept: highest validation `accuracy` (ties: lower loss),
            lowest validation `nll`, or the `last`. If any epochs train the backbone, only these
            count.

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
    probe_epochs: int = 0
    probe_learning_rate: float | None = None
    trivial_augment: bool = False
    rand_augment: RandAugment | None = None
    augmix: AugMix | None = None
    gaussian_noise: GaussianNoise | None = None
    random_erasing: RandomErasing | None = None
    cutmix: float = 0.0
    adversarial: Adversarial | None = None
    rotation_prediction: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"recipe: {name} must be in [0, 1), found {getattr(self, name)}")
        for name in ("horizontal_flip", "vertical_flip", "momentum"):
            require_within("recipe", name, getattr(self, name), 0, 1)
        for name, least in (("epochs", 1), ("batch_size", 2), ("schedule_step", 1)):
            require_within("recipe", name, getattr(self, name), least, float("inf"))
            require_at_most("recipe", name, getattr(self, name), MOST_EPOCHS)
        for name in (
            *("weight_decay", "backbone_learning_rate_scale", "mixup", "cutmix", "warmup_epochs"),
            "rotation_prediction",
        ):
            require_within("recipe", name, getattr(self, name), 0, float("inf"))
        for name in ("mixup", "cutmix"):
            if alpha := getattr(self, name):
                require_alpha("recipe", name, alpha)
        for name in (
            *("learning_rate", "schedule_gamma", "clip_gradient_norm", "probe_learning_rate"),
        ):
            if (value := getattr(self, name)) is not None:
                require_positive("recipe", name, value)
        require_within("recipe", "probe_epochs", self.probe_epochs, 0, self.epochs)
        self._check_warmup()
        self._check_together()

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


RECIPE_KEYS = tuple(field.name for field in fields(Recipe))
