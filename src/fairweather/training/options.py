"""Parts of a recipe that have settings of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fairweather.errors import InputError
from fairweather.training.ranges import require_positive, require_within

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
