"""Batches whose images and labels are mixed with those of partners."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from fairweather.errors import InputError
from fairweather.training.boxes import Boxes, areas, inside


class Mixed(NamedTuple):
    """A mixed batch: float images `[B, 3, H, W]` and soft labels `[B, classes]`."""

    images: torch.Tensor
    targets: torch.Tensor


def mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> Mixed:
    """Mix every image with a partner from its batch: MixUp (Zhang et al. 2018, section 2).

    Args:
        images: float `[B, 3, H, W]`.
        labels: int64 `[B]`.
        classes: width of the soft labels.
        alpha: each image's own weight is drawn from Beta(alpha, alpha).
        rng: source of weights and partners.

    >>> mixed = mix(torch.rand(4, 3, 8, 8), torch.arange(4), 4, 0.3, np.random.default_rng(0))
    >>> bool(torch.isclose(mixed.targets.sum(1), torch.ones(4)).all())
    True
    """
    n = len(images)
    weight = torch.from_numpy(rng.beta(alpha, alpha, n)).to(images)
    partner = torch.from_numpy(rng.permutation(n)).to(images.device)
    targets = F.one_hot(labels, classes).to(images)
    return Mixed(
        torch.lerp(images[partner], images, weight.reshape(n, 1, 1, 1)),
        torch.lerp(targets[partner], targets, weight.reshape(n, 1)),
    )


def cut_mix(
    images: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> Mixed:
    """Paste a rectangle of a partner from the batch into every image: CutMix.

    Source: Yun et al. 2019, CutMix, section 3 and algorithm A1. A box whose area is drawn from
    Beta(alpha, alpha) lies about a pixel drawn uniformly, and is cut off at the image's edges; the
    labels are mixed by the area that was really pasted. Here each image has a box of its own.

    Args:
        images: float `[B, 3, H, W]`.
        labels: int64 `[B]`.
        classes: width of the soft labels.
        alpha: published: 1.
        rng: source of boxes and partners.

    >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    >>> mixed = cut_mix(images, labels, 4, 1.0, np.random.default_rng(0))
    >>> bool(torch.isclose(mixed.targets.sum(1), torch.ones(4)).all())
    True
    """
    if not alpha > 0:
        raise InputError(f"cut_mix: alpha must be > 0, found {alpha}")
    n, _, height, width = images.shape
    boxes = draw_boxes(rng.beta(alpha, alpha, n), height, width, rng)
    partner = torch.from_numpy(rng.permutation(n)).to(images.device)
    pasted = inside(boxes, height, width, images.device)
    share = torch.from_numpy(areas(boxes) / (height * width)).to(images).reshape(n, 1)
    targets = F.one_hot(labels, classes).to(images)
    return Mixed(
        torch.where(pasted, images[partner], images),
        torch.lerp(targets, targets[partner], share),
    )


def draw_boxes(
    kept: npt.NDArray[np.float64],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> Boxes:
    """Draw boxes that would leave a share `kept` `[B]` of an image, about uniform centres.

    Sides are rounded down to even numbers of pixels, as in the published code; what lies outside
    the image is cut off.

    >>> [int(end) for end in np.ravel(draw_boxes(np.zeros(1), 4, 4, np.random.default_rng(0)))]
    [1, 4, 0, 4]
    """
    half = np.sqrt(1 - kept) / 2
    ends = []
    for size in (height, width):
        centre, reach = rng.integers(size, size=len(kept)), (half * size).astype(np.int64)
        ends += [np.maximum(centre - reach, 0), np.minimum(centre + reach, size)]
    return Boxes(*ends)
