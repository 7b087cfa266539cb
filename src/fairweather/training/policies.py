"""Random policies: TrivialAugment, RandAugment and AugMix; each image has its own operations.

Source of AugMix: Hendrycks et al. 2020, AugMix: A Simple Data Processing Method to Improve
Robustness and Uncertainty, algorithm 1; constants of google-research/augmix, augmentations.py and
cifar.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.devices import send
from fairweather.training.operations import OPERATIONS, SMOOTH_OPERATIONS, apply_chosen
from fairweather.training.recipe import AugMix, RandAugment
from fairweather.types.measurement import check_images

Floats = npt.NDArray[np.float64]

MAGNITUDE_BINS = 31
# The operations of both papers; `identity` changes nothing.
OPERATION_NAMES = ("identity", *OPERATIONS)


class MagnitudeRange(NamedTuple):
    """The magnitudes of an operation, from the weakest to the strongest."""

    values: Floats
    """float64 `[MAGNITUDE_BINS]`."""

    signed: bool
    """Whether the negative value is equally likely."""

    neutral: float = 0.0
    """The value that they are added to."""


def wide_space() -> Mapping[str, MagnitudeRange]:
    """Give the magnitudes of the "wide" space (Müller & Hutter 2021, table 1).

    The numbers are those of `torchvision.transforms.TrivialAugmentWide`.

    >>> wide_space()["rotate"].values[[0, -1]].tolist()
    [0.0, 135.0]
    """
    return _build_space(0.99, (32.0, 32.0), 135.0, 0.99, 6)


def rand_augment_space(height: int, width: int) -> Mapping[str, MagnitudeRange]:
    """Give the magnitudes of RandAugment (Cubuk et al. 2020, section 3) for images of this size.

    The numbers are those of `torchvision.transforms.RandAugment`.

    >>> rand_augment_space(32, 32)["translate_x"].values[[0, -1]].tolist()
    [0.0, 14.0]
    """
    moved = (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    return _build_space(0.3, moved, 30.0, 0.9, 4)


def trivial_augment(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Apply one operation with one strength to each image, both drawn uniformly.

    Equal to `torchvision.transforms.TrivialAugmentWide` on PIL images, for the same random numbers.
    Images are uint8 `[B, 3, H, W]`, in and out. Moved pixels are the nearest source pixels; pixels
    from outside the image are black.

    Source: Müller & Hutter 2021, TrivialAugment: Tuning-free Yet State-of-the-Art Data
    Augmentation, algorithm 1.

    >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    >>> trivial_augment(images, np.random.default_rng(0)).shape
    torch.Size([4, 3, 8, 8])
    """
    check_images(images)
    strengths = rng.integers(MAGNITUDE_BINS, size=len(images))
    draws = draw_operations(strengths, wide_space(), rng)
    return apply_chosen(images, OPERATION_NAMES, *draws, OPERATIONS)


def rand_augment(
    images: torch.Tensor, rng: np.random.Generator, policy: RandAugment
) -> torch.Tensor:
    """Apply several operations with one strength to each image, one after the other.

    Equal to `torchvision.transforms.RandAugment` on PIL images, for the same random numbers. Moved
    pixels are the nearest source pixels; pixels from outside the image are black.

    Source: Cubuk et al. 2020, RandAugment: Practical automated data augmentation with a reduced
    search space.

    Args:
        images: uint8 `[B, 3, H, W]`.
        rng: random source of operations and signs.
        policy: how many operations each image gets, perhaps the same one twice, and their strength.

    >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    >>> rand_augment(images, np.random.default_rng(0), RandAugment()).shape
    torch.Size([4, 3, 8, 8])
    """
    check_images(images)
    height, width = images.shape[2:]
    space, strengths = rand_augment_space(height, width), np.full(len(images), policy.magnitude)
    for _ in range(policy.operations):
        draws = draw_operations(strengths, space, rng)
        images = apply_chosen(images, OPERATION_NAMES, *draws, OPERATIONS)
    return images


class OperationDraws(NamedTuple):
    """One operation per image, `[B]`: indices into `OPERATION_NAMES`, and their magnitudes."""

    chosen: npt.NDArray[np.int64]
    magnitudes: Floats


def draw_operations(
    strengths: npt.NDArray[np.int64], space: Mapping[str, MagnitudeRange], rng: np.random.Generator
) -> OperationDraws:
    """Draw an operation and a sign for each strength, an index into the magnitudes of a space.

    >>> draws = draw_operations(np.array([0, 30]), wide_space(), np.random.default_rng(2))
    >>> [OPERATION_NAMES[place] for place in draws.chosen], draws.magnitudes.tolist()
    (['contrast', 'posterize'], [1.0, 2.0])
    """
    chosen = rng.integers(len(OPERATION_NAMES), size=len(strengths))
    signs = 2 * rng.integers(2, size=len(strengths)) - 1
    spans = [space[name] for name in OPERATION_NAMES]
    values = np.stack([span.values for span in spans])[chosen, strengths]
    signed = np.array([span.signed for span in spans])[chosen]
    neutral = np.array([span.neutral for span in spans])[chosen]
    return OperationDraws(chosen, neutral + np.where(signed, signs, 1) * values)


def _build_space(
    shear: float, moved: tuple[float, float], degrees: float, enhanced: float, bits: int
) -> Mapping[str, MagnitudeRange]:
    """Build a space from its strongest magnitudes; `bits` is how many bits posterize removes."""
    nothing = MagnitudeRange(np.zeros(MAGNITUDE_BINS), signed=False)
    sheared = MagnitudeRange(_magnitudes_up_to(shear), signed=True)
    enhancing = MagnitudeRange(_magnitudes_up_to(enhanced), signed=True, neutral=1.0)
    cut = (torch.arange(MAGNITUDE_BINS) / ((MAGNITUDE_BINS - 1) / bits)).round().double().numpy()
    return {
        "identity": nothing,
        "autocontrast": nothing,
        "equalize": nothing,
        "posterize": MagnitudeRange(8 - cut, signed=False),
        "solarize": MagnitudeRange(_magnitudes_up_to(255.0)[::-1], signed=False),
        "rotate": MagnitudeRange(_magnitudes_up_to(degrees), signed=True),
        "shear_x": sheared,
        "shear_y": sheared,
        "translate_x": MagnitudeRange(np.trunc(_magnitudes_up_to(moved[0])), signed=True),
        "translate_y": MagnitudeRange(np.trunc(_magnitudes_up_to(moved[1])), signed=True),
        "colour": enhancing,
        "contrast": enhancing,
        "brightness": enhancing,
        "sharpness": enhancing,
    }


def _magnitudes_up_to(strongest: float) -> Floats:
    # In float32 like torchvision, so that magnitudes just below a whole number stay below it.
    return torch.linspace(0.0, strongest, MAGNITUDE_BINS).double().numpy()


# --- AugMix

# The order is fixed, because random numbers index it. The other operations overlap with common test
# corruptions.
PUBLISHED_OPERATIONS = (
    *("autocontrast", "equalize", "posterize", "rotate", "solarize"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
ALL_OPERATIONS = (*PUBLISHED_OPERATIONS, "colour", "contrast", "brightness", "sharpness")
_LONGEST_CHAIN = 3  # the longest chain, if the depth is random
# Keeps the divergence finite for a class to which every view gives zero probability.
_LEAST_PROBABILITY = 1e-7


# Each takes levels in [0.1, 10] and signs, `[M]`, and the height and the width of the images. The
# published code has int() instead of floor, which is the same for values above 0.
_MAGNITUDES: Mapping[str, Callable[[Floats, Floats, int, int], Floats]] = {
    "autocontrast": lambda level, *_: level,
    "equalize": lambda level, *_: level,
    "posterize": lambda level, *_: 4 - np.floor(level * 4 / 10),
    "rotate": lambda level, sign, *_: sign * np.floor(level * 30 / 10),
    "solarize": lambda level, *_: 256 - np.floor(level * 256 / 10),
    "shear_x": lambda level, sign, *_: sign * level * 0.3 / 10,
    "shear_y": lambda level, sign, *_: sign * level * 0.3 / 10,
    "translate_x": lambda level, sign, _, width: sign * np.floor(level * (width / 3) / 10),
    "translate_y": lambda level, sign, height, _: sign * np.floor(level * (height / 3) / 10),
    **dict.fromkeys(
        ("colour", "contrast", "brightness", "sharpness"),
        lambda level, *_: level * 1.8 / 10 + 0.1,
    ),
}


class Chains(NamedTuple):
    """The random chains of a batch: B images, W chains each, at most D operations in a chain."""

    chosen: npt.NDArray[np.int64]
    """`[D, B, W]`, indices into `ALL_OPERATIONS`, or -1 after the end of a chain."""

    magnitudes: Floats
    """`[D, B, W]`, in the units of each operation."""

    weights: Floats
    """`[B, W + 1]`, the weights of the chains and, last, of the image; they sum to one."""


def augmix(images: torch.Tensor, rng: np.random.Generator, options: AugMix) -> torch.Tensor:
    """Mix every image with chains of random operations on it.

    The constants are those published for CIFAR; ImageNet has severity 1. The published code
    normalises and then mixes; this function mixes in [0, 1]. Both are the same, since the weights
    sum to one.

    Args:
        images: uint8 `[B, 3, H, W]`.
        rng: random source of operations, strengths and weights.
        options: how strong the operations are, and how chains are made of them.

    Returns:
        float32 `[B, 3, H, W]` in [0, 1], channels last in memory.

    >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    >>> mixed = augmix(images, np.random.default_rng(0), AugMix())
    >>> mixed.shape, mixed.dtype
    (torch.Size([4, 3, 8, 8]), torch.float32)
    """
    check_images(images)
    n, _, high, wide = images.shape
    shape, depth = (n, options.width), options.depth
    depths = np.full(shape, depth) if depth else rng.integers(1, _LONGEST_CHAIN + 1, shape)
    chains = draw_chains(
        depths,
        (high, wide),
        rng,
        severity=options.severity,
        alpha=options.alpha,
        names=ALL_OPERATIONS if options.all_operations else PUBLISHED_OPERATIONS,
    )
    return mix_chains(images, chains)


def draw_chains(
    depths: npt.NDArray[np.int64],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    severity: float,
    alpha: float,
    names: tuple[str, ...] = PUBLISHED_OPERATIONS,
) -> Chains:
    """Draw chains of operations of lengths `depths` `[B, W]`, for images of (height, width) pixels.

    >>> depths = np.array([[1, 3, 2]])
    >>> chains = draw_chains(depths, (8, 8), np.random.default_rng(0), severity=3.0, alpha=1.0)
    >>> chains.chosen[:, 0].tolist()
    [[7, 5, 4], [-1, 2, 0], [-1, 0, -1]]
    """
    n, width = depths.shape
    shape = (int(depths.max(initial=1)), n, width)
    chosen = rng.integers(len(names), size=shape)
    level = rng.uniform(0.1, severity, shape)
    sign = 2.0 * rng.integers(2, size=shape) - 1
    weights = np.ones((n, width + 1))
    weights[:, :width] = rng.dirichlet(np.full(width, alpha), n)
    share = rng.beta(alpha, alpha, (n, 1))
    weights *= np.where(np.arange(width + 1) < width, share, 1 - share)
    magnitudes = np.empty(shape)
    for number, name in enumerate(names):
        at = chosen == number
        magnitudes[at] = _MAGNITUDES[name](level[at], sign[at], *size)
    beyond = np.arange(shape[0])[:, None, None] >= depths
    return Chains(np.where(beyond, -1, chosen), magnitudes, weights)


def mix_chains(images: torch.Tensor, chains: Chains) -> torch.Tensor:
    """Apply all chains to all images, step by step, and mix the results.

    Args:
        images: uint8 `[B, 3, H, W]`.
        chains: the chains of these images.

    Returns:
        float32 `[B, 3, H, W]` in [0, 1], channels last in memory.

    >>> images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    >>> black = np.full((1, 1, 1), ALL_OPERATIONS.index("brightness")), np.zeros((1, 1, 1))
    >>> mix_chains(images, Chains(*black, np.array([[0.25, 0.75]]))).unique()
    tensor([0.7500])
    """
    n, width = chains.weights.shape[0], chains.weights.shape[1] - 1
    walked = images.repeat_interleave(width, 0)
    for chosen, magnitudes in zip(chains.chosen, chains.magnitudes, strict=True):
        walked = apply_chosen(
            walked, ALL_OPERATIONS, chosen.ravel(), magnitudes.ravel(), SMOOTH_OPERATIONS
        )
    ends = walked.reshape(n, width, *images.shape[1:])
    weights = send(torch.from_numpy(chains.weights / 255).float(), images.device)
    *chain_weights, own = weights.reshape(n, width + 1, 1, 1, 1).unbind(1)
    mixed = images.float().mul_(own)
    for number, weight in enumerate(chain_weights):
        mixed.addcmul_(ends[:, number].float(), weight)
    # Float32 weights may sum to a little more than one.
    return mixed.clamp_(max=1).contiguous(memory_format=torch.channels_last)


def jensen_shannon(clean: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Measure how much the predictions for three views differ: a scalar in [0, log 3] nats.

    This is the divergence from each view's probabilities to their mixture, averaged over views and
    batch. The mixture is clipped at 1e-7 from below. The published weight in the loss is 12.

    Source: Hendrycks et al. 2020, equation 2.

    Args:
        clean, first, second: float logits `[B, classes]`; gradients flow into all three.

    >>> one, other = torch.tensor([[0.0, 200.0]]), torch.tensor([[200.0, 0.0]])
    >>> jensen_shannon(one, one, one), jensen_shannon(one, one, other)
    (tensor(0.), tensor(0.6365))
    """
    log_p = F.log_softmax(torch.stack((clean, first, second)), 2)
    p = log_p.exp()
    log_mixture = p.mean(0).clamp(_LEAST_PROBABILITY, 1).log()
    return (p * (log_p - log_mixture)).sum(2).mean()
