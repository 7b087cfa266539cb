"""How good an embedding is: its nearest neighbours, its spread, and the correlation of views."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.devices import in_evaluation_mode
from fairweather.errors import CollapsedError
from fairweather.training.loop_parts import to_input
from fairweather.training.selfsupervised.methods import cross_correlation
from fairweather.training.selfsupervised.pretraining_recipe import Views
from fairweather.training.selfsupervised.views import two_views
from fairweather.types import Images

MOST_TRAIN, MOST_VAL, NEIGHBOURS = 5_000, 2_000, 20  # limits of the k-NN probe
TEMPERATURE = 0.07  # Wu et al. 2018, section 3.4, as is the weight exp(s / 0.07)
BATCH_SIZE = 256
LAST_STEPS = 5  # steps at the end of an epoch; the spread of the embedding is averaged over them
COLLAPSED_BELOW = 0.05
MOST_IMAGES, MOST_DIMENSIONS = 1024, 64  # limits of a correlation matrix


class Probe(NamedTuple):
    """Labelled images for k-NN: images of `train` vote on the class of each image of `val`."""

    train: Images
    val: Images


def knn_accuracy(encoder: nn.Module, probe: Probe, device: torch.device) -> float:
    """Give the share of validation images that their 20 nearest training images classify correctly.

    Neighbours are nearest by the cosine s of the features; each votes with the weight exp(s / 0.07)
    (Wu et al. 2018, section 3.4). At most 5,000 training and 2,000 validation images, evenly
    spread, are used. Nothing is random. The encoder runs in evaluation mode and is set back.

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
    train, val = evenly_spread(probe.train, MOST_TRAIN), evenly_spread(probe.val, MOST_VAL)
    known = F.normalize(encode(encoder, train, device), dim=1)
    asked = F.normalize(encode(encoder, val, device), dim=1)
    labels = train.labels.to(device)
    nearest = (asked @ known.T).topk(min(NEIGHBOURS, len(train)), dim=1)
    # The cosine of the nearest is subtracted, so that nothing overflows: a common factor of all
    # weights does not change the vote.
    weights = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
    # As whole numbers, whose sum does not depend on the order in which a GPU adds them up.
    votes = torch.zeros(len(val), len(train.classes), device=device, dtype=torch.int64)
    votes.scatter_add_(1, labels[nearest.indices], (weights * 2**32).round().long())
    return float((votes.argmax(1).cpu() == val.labels).double().mean())


def evenly_spread(images: Images, most: int) -> Images:
    """Take at most `most` images, evenly spread."""
    return images[:: -(-len(images) // most)] if len(images) else images


def encode(encoder: nn.Module, images: Images, device: torch.device) -> torch.Tensor:
    """Give the float32 features `[N, f]` of images, from the encoder in evaluation mode."""
    with in_evaluation_mode(encoder), torch.inference_mode():
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


def embedding_std(embedding: torch.Tensor) -> float:
    """Measure how far embeddings spread over the sphere: 1 is evenly, 0 is collapsed.

    Each embedding is divided by its length. The result is the standard deviation of each dimension,
    averaged over the d dimensions, times the square root of d (Chen and He 2021, section 4.1).

    Args:
        embedding: float `[B, d]`, at least two images.

    >>> embedding_std(torch.ones(8, 4))
    0.0
    """
    unit = F.normalize(embedding.float(), dim=1)
    return float(unit.std(0).mean()) * math.sqrt(embedding.shape[1])


def stop_if_collapsed(spread: float, epoch: int, method: str) -> None:
    """Raise `CollapsedError` if an `embedding_std` is below 0.05.

    Below this, the cosine of two images is above 0.997 on average. Useful embeddings have a few
    tenths or more from the first epoch on.

    >>> stop_if_collapsed(0.5, 0, "simsiam")
    """
    if spread < COLLAPSED_BELOW:
        raise CollapsedError(
            f"the embedding of {method} has collapsed in epoch {epoch + 1}: its spread is "
            f"{spread:.2g} (1 means evenly spread, below {COLLAPSED_BELOW:g} means the same for "
            "all images); try a smaller learning_rate, a larger batch_size or another method"
        )


def correlation_of_views(
    embed: nn.Module, images: Images, views: Views, seed: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Correlate the embeddings of two views of up to 1,024 images, evenly spread.

    The same seed makes the same views, so that the matrices before and after training differ only
    by the training. `embed` runs in evaluation mode and is not changed.

    Args:
        embed: float `[B, 3, H, W]` in [0, 1] to `[B, d]`, on `device`: encoder and projector.
        images: the images to embed; at least two.
        views: how views are made.
        seed: random seed of the views.
        device: where `embed` is.

    Returns float64 `[d, d]` in [-1, 1] on the CPU, of the first 64 dimensions if there are more.

    >>> images = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)
    >>> column = torch.arange(32)
    >>> some = Images(images, column * 0, column, ("a",))
    >>> embed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> correlation_of_views(embed, some, Views(), 0, torch.device("cpu")).shape
    (3, 3)
    """
    rng = np.random.default_rng(seed)
    pairs = []
    with in_evaluation_mode(embed), torch.inference_mode():
        for batch in in_batches(evenly_spread(images, MOST_IMAGES), BATCH_SIZE):
            both = two_views(batch.images.to(device), views, rng)
            pairs.append([embed(view)[:, :MOST_DIMENSIONS].cpu().double() for view in both])
        first, second = (torch.cat(embeddings) for embeddings in zip(*pairs, strict=True))
        return cross_correlation(first, second).numpy()
