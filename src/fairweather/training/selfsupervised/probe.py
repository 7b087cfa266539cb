"""How good frozen features are: what their nearest neighbours say of unseen images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.training.steps import to_input
from fairweather.types import Images

MOST_TRAIN, MOST_VAL = 5_000, 2_000
NEIGHBOURS = 20
TEMPERATURE = 0.07  # Wu et al. 2018, section 3.4, as is the weight exp(s / 0.07)
BATCH_SIZE = 256


class Probe(NamedTuple):
    """Labelled images whose features vote, and labelled images that are voted on."""

    train: Images
    val: Images


def knn_accuracy(encoder: nn.Module, probe: Probe, device: torch.device) -> float:
    """Give the share of validation images that the 20 nearest training images label rightly.

    Nearest by the cosine s of the features; each votes with the weight exp(s / 0.07) (Wu et al.
    2018, section 3.4). At most 5,000 training and 2,000 validation images, evenly spread, are
    looked at. Nothing is random; the encoder is used in evaluation mode and left in its own.

    Args:
        encoder: float `[B, 3, H, W]` in [0, 1] to `[B, features]`, on `device`.
        probe: two sets with the same classes.
        device: where the encoder is.

    >>> labels = torch.tensor([0, 0, 0, 2, 2, 2])
    >>> pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    >>> pixels[torch.arange(6), labels] = 200
    >>> both = Images(pixels, labels, torch.arange(6), ("red", "green", "blue"))
    >>> encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> knn_accuracy(encoder, Probe(both, both), torch.device("cpu"))
    1.0
    """
    train, val = spread(probe.train, MOST_TRAIN), spread(probe.val, MOST_VAL)
    known = F.normalize(encode(encoder, train, device), dim=1)
    asked = F.normalize(encode(encoder, val, device), dim=1)
    labels = train.labels.to(device)
    nearest = (asked @ known.T).topk(min(NEIGHBOURS, len(train)), dim=1)
    # Less the nearest's, so that nothing overflows: a common factor changes no vote.
    weights = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
    votes = torch.zeros(len(val), len(train.classes), device=device, dtype=weights.dtype)
    votes.scatter_add_(1, labels[nearest.indices], weights)
    return float((votes.argmax(1).cpu() == val.labels).double().mean())


def spread(images: Images, most: int) -> Images:
    """Take at most so many images, evenly spread."""
    return images[:: -(-len(images) // most)] if len(images) else images


def encode(encoder: nn.Module, images: Images, device: torch.device) -> torch.Tensor:
    """Give the float32 features `[N, f]` of images, from the encoder in evaluation mode."""
    with evaluating(encoder), torch.inference_mode():
        return torch.cat(
            [
                encoder(to_input(batch.images.to(device))).float()
                for batch in in_batches(images, BATCH_SIZE)
            ]
        )


def in_batches(images: Images, size: int) -> Iterator[Images]:
    """Cut images into batches, in order."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and afterwards each of its parts into the mode it had.

    >>> layer = nn.Dropout()
    >>> with evaluating(layer):
    ...     layer.training
    False
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
