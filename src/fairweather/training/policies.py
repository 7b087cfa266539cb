"""Random policies: TrivialAugment and RandAugment; each image has its own random operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fairweather.training.operations import OPERATIONS, apply_each
from fairweather.training.recipe import RandAugment
from fairweather.types import check_images

Floats = npt.NDArray[np.float64]

BINS = 31
# The operations of both papers; `identity` changes nothing.
NAMES = ("identity", *OPERATIONS)


class Span(NamedTuple):
    """The magnitudes of an operation, from the weakest to the strongest.

    Attributes:
        values: float64 `[BINS]`.
        signed: whether the negative value is equally likely.
        neutral: the value that they are added to.
    """

    values: Floats
    signed: bool
    neutral: float = 0.0


def wide_space() -> Mapping[str, Span]:
    """Give the magnitudes of the "wide" space (Müller & Hutter 2021, table 1).

    The numbers are those of `torchvision.transforms.TrivialAugmentWide`.

    >>> wide_space()["rotate"].values[[0, -1]].tolist()
    [0.0, 135.0]
    """
    return _space(0.99, (32.0, 32.0), 135.0, 0.99, 6)


def rand_augment_space(height: int, width: int) -> Mapping[str, Span]:
    """Give the magnitudes of RandAugment (Cubuk et al. 2020, section 3) for images of this size.

    The numbers are those of `torchvision.transforms.RandAugment`.

    >>> rand_augment_space(32, 32)["translate_x"].values[[0, -1]].tolist()
    [0.0, 14.0]
    """
    moved = (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    return _space(0.3, moved, 30.0, 0.9, 4)


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
    strengths = rng.integers(BINS, size=len(images))
    return _one_each(images, strengths, wide_space(), rng)


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
        policy: how many operations each image gets, the same one perhaps twice, and their strength.

    >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    >>> rand_augment(images, np.random.default_rng(0), RandAugment()).shape
    torch.Size([4, 3, 8, 8])
    """
    check_images(images)
    height, width = images.shape[2:]
    space, strengths = rand_augment_space(height, width), np.full(len(images), policy.magnitude)
    for _ in range(policy.operations):
        images = _one_each(images, strengths, space, rng)
    return images


class Draws(NamedTuple):
    """One operation per image: indices into `NAMES`, and magnitudes in its units, both `[B]`."""

    chosen: npt.NDArray[np.int64]
    magnitudes: Floats


def draw_operations(
    strengths: npt.NDArray[np.int64], space: Mapping[str, Span], rng: np.random.Generator
) -> Draws:
    """Draw an operation and a sign for each strength, an index into the magnitudes of a space.

    >>> draws = draw_operations(np.array([0, 30]), wide_space(), np.random.default_rng(2))
    >>> [NAMES[place] for place in draws.chosen], draws.magnitudes.tolist()
    (['contrast', 'posterize'], [1.0, 2.0])
    """
    chosen = rng.integers(len(NAMES), size=len(strengths))
    signs = 2 * rng.integers(2, size=len(strengths)) - 1
    spans = [space[name] for name in NAMES]
    values = np.stack([span.values for span in spans])[chosen, strengths]
    signed = np.array([span.signed for span in spans])[chosen]
    neutral = np.array([span.neutral for span in spans])[chosen]
    return Draws(chosen, neutral + np.where(signed, signs, 1) * values)


def _one_each(
    images: torch.Tensor,
    strengths: npt.NDArray[np.int64],
    space: Mapping[str, Span],
    rng: np.random.Generator,
) -> torch.Tensor:
    chosen, magnitudes = draw_operations(strengths, space, rng)
    return apply_each(images, NAMES, chosen, magnitudes, OPERATIONS)


def _space(
    shear: float, moved: tuple[float, float], degrees: float, enhanced: float, bits: int
) -> Mapping[str, Span]:
    """Build a space from its strongest magnitudes; `bits` is how many bits posterize removes."""
    nothing = Span(np.zeros(BINS), signed=False)
    sheared = Span(_up_to(shear), signed=True)
    enhancing = Span(_up_to(enhanced), signed=True, neutral=1.0)
    taken = (torch.arange(BINS) / ((BINS - 1) / bits)).round().double().numpy()
    return {
        "identity": nothing,
        "autocontrast": nothing,
        "equalize": nothing,
        "posterize": Span(8 - taken, signed=False),
        "solarize": Span(_up_to(255.0)[::-1], signed=False),
        "rotate": Span(_up_to(degrees), signed=True),
        "shear_x": sheared,
        "shear_y": sheared,
        "translate_x": Span(np.trunc(_up_to(moved[0])), signed=True),
        "translate_y": Span(np.trunc(_up_to(moved[1])), signed=True),
        "colour": enhancing,
        "contrast": enhancing,
        "brightness": enhancing,
        "sharpness": enhancing,
    }


def _up_to(strongest: float) -> Floats:
    # In float32 like torchvision: a magnitude just below a whole number must stay below it.
    return torch.linspace(0.0, strongest, BINS).double().numpy()
