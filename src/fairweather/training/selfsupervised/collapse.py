"""Whether an embedding has collapsed: become the same for all images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from fairweather.errors import CollapsedError

LAST_STEPS = 5  # of an epoch, over which the spread of the embedding is averaged
COLLAPSED_BELOW = 0.05


def embedding_std(embedding: torch.Tensor) -> float:
    """Measure how far embeddings spread over the sphere: 1 in all directions alike, 0 collapsed.

    The standard deviation of each dimension of the embeddings, each divided by its length; the mean
    over the d dimensions, times the square root of d (Chen and He 2021, section 4.1).

    Args:
        embedding: float `[B, d]`, at least two images.

    >>> embedding_std(torch.ones(8, 4))
    0.0
    """
    unit = F.normalize(embedding.float(), dim=1)
    return float(unit.std(0).mean()) * math.sqrt(embedding.shape[1])


def stop_if_collapsed(spread: float, epoch: int, method: str) -> None:
    """Raise `CollapsedError` when an `embedding_std` is below 0.05.

    There, the cosine of two images is above 0.997 on average. Embeddings that work have some tenths
    or more from the first epoch on.

    >>> stop_if_collapsed(0.5, 0, "simsiam")
    """
    if spread < COLLAPSED_BELOW:
        raise CollapsedError(
            f"the embedding of {method} has collapsed in epoch {epoch + 1}: its spread is "
            f"{spread:.2g}, where 1 is spread evenly and below {COLLAPSED_BELOW:g} is the same for "
            "all images; try a smaller learning_rate, a larger batch_size or another method"
        )
