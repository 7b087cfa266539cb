"""Rectangles of random pixels, and Gaussian noise."""

from __future__ import annotations

import math

import numpy as np
import torch

from fairweather.errors import InputError
from fairweather.training.boxes import Boxes, inside

_TRIES = 10  # as in torchvision; an image into which no box fits stays as it is


def random_erase(
    images: torch.Tensor,
    rng: np.random.Generator,
    *,
    probability: float,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
) -> torch.Tensor:
    """Fill a rectangle of an image with uniform noise in [0, 1], a value for every pixel.

    Source: Zhong et al. 2020, Random Erasing Data Augmentation, algorithm 1: area and aspect are
    uniform. The place is uniform among those where the box fits, as in the authors' code.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        rng: source of boxes, and of the seed of the noise, which is drawn on the images' device.
        probability: of an image to be changed; published: 0.5.
        area: least and largest share of the image; the defaults are torchvision's.
        aspect: least and largest ratio of height to width.

    >>> images = torch.zeros(4, 3, 8, 8)
    >>> erased = random_erase(images, np.random.default_rng(0), probability=1)
    >>> (erased > 0).any(1).sum((1, 2)).tolist()
    [15, 6, 2, 1]
    """
    _check_share("random_erase: probability", probability)
    _check_span("random_erase: area", area, 1.0)
    _check_span("random_erase: aspect", aspect, math.inf)
    n, _, height, width = images.shape
    boxes = draw_boxes(n, height, width, area, aspect, rng)
    erased = rng.random(n) < probability
    chosen = Boxes(*(np.where(erased, end, 0) for end in boxes))
    noise = torch.empty_like(images).uniform_(0, 1, generator=_generator(rng, images.device))
    return torch.where(inside(chosen, height, width, images.device), noise, images)


def draw_boxes(
    n: int,
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Boxes:
    """Draw boxes inside images: up to ten times each until it fits, and else an empty one.

    >>> [int(end[0]) for end in draw_boxes(1, 8, 8, (0.25, 0.25), (1, 1), np.random.default_rng(0))]
    [2, 6, 0, 4]
    """
    pixels = rng.uniform(*area, (_TRIES, n)) * height * width
    ratio = rng.uniform(*aspect, (_TRIES, n))
    high = np.maximum(np.rint(np.sqrt(pixels * ratio)), 1).astype(np.int64)
    wide = np.maximum(np.rint(np.sqrt(pixels / ratio)), 1).astype(np.int64)
    fits = (high <= height) & (wide <= width)
    first = fits.argmax(0), np.arange(n)
    high, wide = np.where(fits[first], high[first], 0), np.where(fits[first], wide[first], 0)
    top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
    return Boxes(top, top + high, left, left + wide)


def add_gaussian_noise(
    images: torch.Tensor, rng: np.random.Generator, *, std: float, probability: float
) -> torch.Tensor:
    """Add Gaussian noise, of a deviation of its own for each image, and clip to [0, 1].

    Deviations are uniform up to the largest, as in Lopes et al. 2019, Improving Robustness Without
    Sacrificing Accuracy with Patch Gaussian Augmentation, for noise on the whole image.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        rng: source of deviations, and of the seed of the noise, which is drawn on the images'
            device.
        std: the largest deviation, in units of [0, 1] pixels; none is zero.
        probability: of an image to be changed.

    >>> images = torch.full((4, 3, 8, 8), 0.5)
    >>> noisy = add_gaussian_noise(images, np.random.default_rng(1), std=0.1, probability=0.5)
    >>> (noisy != images).any(3).any(2).any(1).tolist()
    [True, True, False, True]
    """
    _check_share("add_gaussian_noise: probability", probability)
    if not std > 0:
        raise InputError(f"add_gaussian_noise: std must be > 0, found {std}")
    n = len(images)
    deviations = std * (1 - rng.random(n)) * (rng.random(n) < probability)
    noise = torch.empty_like(images).normal_(generator=_generator(rng, images.device))
    scale = torch.from_numpy(deviations).to(images.device, images.dtype).reshape(n, 1, 1, 1)
    return noise.mul_(scale).add_(images).clamp_(0, 1)


def _generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be from 0 to 1, found {value}")


def _check_span(name: str, span: tuple[float, float], most: float) -> None:
    if not 0 < span[0] <= span[1] <= most:
        allowed = "above 0" if most == math.inf else f"above 0, to at most {most:g}"
        raise InputError(f"{name} must go from low to high {allowed}, found {list(span)}")
