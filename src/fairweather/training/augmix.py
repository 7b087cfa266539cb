"""AugMix: mixtures of chains of operations, and the divergence that keeps predictions consistent.

Source: Hendrycks et al. 2020, AugMix: A Simple Data Processing Method to Improve Robustness and
Uncertainty, algorithm 1; constants of google-research/augmix, augmentations.py and cifar.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.training.operations import SMOOTH_OPERATIONS, apply_each
from fairweather.training.recipe import AugMix
from fairweather.types import check_images

Floats = npt.NDArray[np.float64]

# The order is fixed, since random numbers index it. The operations that are not here overlap with
# common test corruptions.
PUBLISHED = (
    *("autocontrast", "equalize", "posterize", "rotate", "solarize"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
ALL = (*PUBLISHED, "colour", "contrast", "brightness", "sharpness")
_DEEPEST = 3  # the longest chain, if the depth is random
# Keeps the divergence finite for a class that every view rules out.
_LEAST_PROBABILITY = 1e-7


class Strength(NamedTuple):
    """What a magnitude depends on: levels in [0.1, 10] and signs, `[M]`, and the images' size."""

    level: Floats
    sign: Floats
    height: int
    width: int


# The published code has int() where this has floor: the same, since no value is negative.
_MAGNITUDES: Mapping[str, Callable[[Strength], Floats]] = {
    "autocontrast": lambda drawn: drawn.level,
    "equalize": lambda drawn: drawn.level,
    "posterize": lambda drawn: 4 - np.floor(drawn.level * 4 / 10),
    "rotate": lambda drawn: drawn.sign * np.floor(drawn.level * 30 / 10),
    "solarize": lambda drawn: 256 - np.floor(drawn.level * 256 / 10),
    "shear_x": lambda drawn: drawn.sign * drawn.level * 0.3 / 10,
    "shear_y": lambda drawn: drawn.sign * drawn.level * 0.3 / 10,
    "translate_x": lambda drawn: drawn.sign * np.floor(drawn.level * (drawn.width / 3) / 10),
    "translate_y": lambda drawn: drawn.sign * np.floor(drawn.level * (drawn.height / 3) / 10),
    "colour": lambda drawn: drawn.level * 1.8 / 10 + 0.1,
    "contrast": lambda drawn: drawn.level * 1.8 / 10 + 0.1,
    "brightness": lambda drawn: drawn.level * 1.8 / 10 + 0.1,
    "sharpness": lambda drawn: drawn.level * 1.8 / 10 + 0.1,
}


class Chains(NamedTuple):
    """The random chains of a batch: B images, W chains for each, at most D operations in a chain.

    Attributes:
        chosen: `[D, B, W]`, indices into `ALL`, or -1 after the end of a chain.
        magnitudes: `[D, B, W]`, in the units of each operation.
        weights: `[B, W + 1]`, the weights of the chains and, last, of the image; they sum to one.
    """

    chosen: npt.NDArray[np.int64]
    magnitudes: Floats
    weights: Floats


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
    depths = np.full(shape, depth) if depth else rng.integers(1, _DEEPEST + 1, shape)
    chains = draw_chains(
        depths,
        (high, wide),
        rng,
        severity=options.severity,
        alpha=options.alpha,
        names=ALL if options.all_operations else PUBLISHED,
    )
    return mix_chains(images, chains)


def draw_chains(
    depths: npt.NDArray[np.int64],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    severity: float,
    alpha: float,
    names: tuple[str, ...] = PUBLISHED,
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
        magnitudes[at] = _MAGNITUDES[name](Strength(level[at], sign[at], *size))
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
    >>> black = np.full((1, 1, 1), ALL.index("brightness")), np.zeros((1, 1, 1))
    >>> mix_chains(images, Chains(*black, np.array([[0.25, 0.75]]))).unique()
    tensor([0.7500])
    """
    n, width = chains.weights.shape[0], chains.weights.shape[1] - 1
    walked = images.repeat_interleave(width, 0)
    for chosen, magnitudes in zip(chains.chosen, chains.magnitudes, strict=True):
        walked = apply_each(walked, ALL, chosen.ravel(), magnitudes.ravel(), SMOOTH_OPERATIONS)
    ends = walked.reshape(n, width, *images.shape[1:])
    weights = torch.from_numpy(chains.weights / 255).to(images.device, torch.float32)
    *of_chains, own = weights.reshape(n, width + 1, 1, 1, 1).unbind(1)
    mixed = images.float().mul_(own)
    for number, weight in enumerate(of_chains):
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
