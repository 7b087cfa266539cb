"""Turning images by right angles, and guessing by which (Gidaris et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from fairweather.errors import InputError

TURNS = 4


def rotate_quarter(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn each image counter-clockwise by 90 degrees times its own number of turns.

    Args:
        images: `[B, C, H, H]` of any type; `InputError` unless they are square.
        turns: int64 `[B]`, from 0 to 3, on the images' device.

    >>> image = torch.tensor([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    >>> rotate_quarter(image, torch.tensor([1])).flatten().tolist()
    [2, 4, 1, 3]
    """
    height, width = images.shape[2:]
    if height != width:
        raise InputError(f"rotation by right angles needs square images, found {height}x{width}")
    turned = images
    for turn in range(1, TURNS):
        chosen = (turns == turn).reshape(-1, 1, 1, 1)
        turned = torch.where(chosen, images.rot90(turn, (2, 3)), turned)
    return turned


def rotation_loss(
    encoder: Callable[[torch.Tensor], torch.Tensor],
    head: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn images and score the guess by how much: mean cross-entropy in nats.

    Images are turned by their place in the batch, each angle equally often, so the batch must be in
    random order. (Gidaris et al. feed all four turns of each image in one step.)

    Args:
        encoder: float `[B, 3, H, H]` to features `[B, f]`.
        head: features to four logits.
        images: float `[B, 3, H, H]`.

    Returns the loss, a scalar, and the features of the turned images.

    >>> images = torch.rand(8, 3, 8, 8)
    >>> loss, _ = rotation_loss(lambda x: x.flatten(1), lambda x: x[:, :4] * 0, images)
    >>> round(float(loss.exp()), 4)
    4.0
    """
    turns = torch.arange(len(images), device=images.device) % TURNS
    features = encoder(rotate_quarter(images, turns))
    return F.cross_entropy(head(features), turns), features
