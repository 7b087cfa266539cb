"""The recipe: every knob of supervised training, in one place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

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


# For whoever reads a recipe with pydantic: no unknown keys, and quoted text is not a number.
STRICT = {"extra": "forbid", "strict": True}


@dataclass(frozen=True)
class Rotation:
    """Rotate by an angle uniform in +-`degrees`, with `probability` (nearest pixel, black fill)."""

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
        width: chains of operations that are mixed.
        depth: operations in a chain; 0 draws 1 to 3 for each.
        alpha: of the Dirichlet distribution over chains and the Beta distribution of the image.
        all_operations: also colour, contrast, brightness and sharpness, which common test
            corruptions contain too.
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


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020): so many operations an image, all of one magnitude of 30."""

    __pydantic_config__ = STRICT

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        require_within("recipe", "rand_augment.operations", self.operations, 1, 10)
        require_within("recipe", "rand_augment.magnitude", self.magnitude, 0, 30)


@dataclass(frozen=True)
class RandomErasing:
    """Fill a rectangle with random pixels, with `probability` (Zhong et al. 2020).

    `area` is the least and the largest share of the image, `aspect` of height to width.
    """

    __pydantic_config__ = STRICT

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    aspect: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        require_within("recipe", "random_erasing.probability", self.probability, 0, 1)
        _ordered("random_erasing.area", self.area, 1)
        _ordered("random_erasing.aspect", self.aspect, math.inf)


@dataclass(frozen=True)
class GaussianNoise:
    """Add Gaussian noise with `probability`, its deviation uniform up to `std` of [0, 1] pixels."""

    __pydantic_config__ = STRICT

    std: float
    probability: float = 0.5

    def __post_init__(self) -> None:
        require_positive("recipe", "gaussian_noise.std", self.std)
        require_within("recipe", "gaussian_noise.probability", self.probability, 0, 1)


@dataclass(frozen=True)
class Adversarial:
    """Train on images that PGD has changed within `epsilon` (Madry et al. 2018).

    Attributes:
        epsilon: the budget in units of [0, 1] pixels.
        steps: of PGD, from a random start; one step costs as much as a training step.
        norm: `linf` or `l2`.
        step_size: of each step; None: 2.5 epsilon / steps.
    """

    __pydantic_config__ = STRICT

    epsilon: float
    steps: int = 7
    norm: str = "linf"
    step_size: float | None = None

    def __post_init__(self) -> None:
        require_positive("recipe", "adversarial.epsilon", self.epsilon)
        require_within("recipe", "adversarial.steps", self.steps, 1, 1000)
        if self.norm not in ("linf", "l2"):
            raise InputError(f"recipe: adversarial.norm must be linf or l2, found {self.norm!r}")
        if self.step_size is not None:
            require_positive("recipe", "adversarial.step_size", self.step_size)


def _ordered(name: str, pair: tuple[float, float], most: float) -> None:
    """Raise `InputError` unless the two ends of a span are in order and in [low, high]."""
    if not 0 < pair[0] <= pair[1] <= most:
        allowed = "above 0" if most == math.inf else f"above 0, to at most {most:g}"
        raise InputError(f"recipe: {name} must go from low to high {allowed}, found {list(pair)}")


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: the most images in a step; an epoch is cut into nearly equal batches.
        optimizer: `adamw` or `sgd` (Nesterov momentum).
        learning_rate: of the head, and of the backbone times `backbone_learning_rate_scale`.
        backbone_learning_rate_scale: below 1 for fine-tuning.
        momentum: of SGD.
        weight_decay: decoupled for AdamW, an L2 term for SGD.
        decay_norms_and_biases: whether `weight_decay` also acts on one-dimensional parameters.
        schedule: of the learning rate after warm-up: `none`, `cosine` (to zero at the end),
            `exponential` (times `schedule_gamma` an epoch) or `step` (times `schedule_gamma` every
            `schedule_step` epochs). It begins anew when the backbone joins the head.
        schedule_gamma, schedule_step: see `schedule`.
        warmup_epochs: the learning rate rises linearly from zero over these epochs; not while only
            the head is trained.
        freeze_batchnorm: keep running statistics and affine parameters of batch norm as they are.
        probe_epochs: in so many of the first epochs only the head is trained, the backbone frozen
            and in evaluation mode: as many as `epochs` is a linear probe, fewer train the head
            first and then everything (Kumar et al. 2022).
        probe_learning_rate: of the head meanwhile; None: `learning_rate`.
        horizontal_flip, vertical_flip: probabilities.
        rotation: `Rotation` or None.
        trivial_augment: one random operation of random strength an image (Müller & Hutter 2021).
        rand_augment: `RandAugment` or None.
        augmix: `AugMix` or None.
        gaussian_noise: `GaussianNoise` or None.
        random_erasing: `RandomErasing` or None.
        mixup: alpha of the Beta distribution of MixUp (Zhang et al. 2018), 0 for none.
        cutmix: alpha of the Beta distribution of CutMix (Yun et al. 2019), 0 for none. With MixUp
            too, every batch gets the one or the other with equal chance.
        adversarial: `Adversarial` or None.
        rotation_prediction: weight of the loss of a second head that tells by which quarter turns
            images were rotated (Hendrycks et al. 2019, "Using Self-Supervised Learning..."), 0 for
            none; published: 0.5.
        label_smoothing: weight of the uniform distribution in the targets, in [0, 1).
        clip_gradient_norm: the largest norm of the whole gradient; None for no limit.
        ema_decay: keep a moving average of the weights with this decay, which is what is evaluated
            and stored; 0 for none. The first steps decay faster: (1 + step) / (10 + step).
        select: the checkpoint that is kept: highest validation `accuracy` (ties: lower loss),
            lowest validation `nll`, or the `last`; only epochs that train the backbone count, where
            there are some.

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
        for name in (
            *("weight_decay", "backbone_learning_rate_scale", "mixup", "cutmix", "warmup_epochs"),
            "rotation_prediction",
        ):
            require_within("recipe", name, getattr(self, name), 0, float("inf"))
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
            less = " less probe_epochs" if self.probe_epochs else ""
            raise InputError(
                f"recipe: warmup_epochs must be below epochs{less}, found {self.warmup_epochs} of "
                f"{after}"
            )

    def _check_together(self) -> None:
        """Refuse what has no agreed meaning together, rather than do something of the kind."""
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
                    "label an image"
                )


RECIPE_KEYS = tuple(field.name for field in fields(Recipe))
# What recipes had before others joined them: earlier runs name just these, and are still what they
# were.
_FIRST_KEYS = RECIPE_KEYS[: RECIPE_KEYS.index("probe_epochs")]


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """Write a recipe as plain values for a fingerprint: later keys only where they do something.

    >>> "cutmix" in recipe_facts(Recipe()), recipe_facts(Recipe(cutmix=1.0))["cutmix"]
    (False, 1.0)
    """
    values, defaults = asdict(recipe), asdict(Recipe())
    return {
        key: value for key, value in values.items() if key in _FIRST_KEYS or value != defaults[key]
    }
