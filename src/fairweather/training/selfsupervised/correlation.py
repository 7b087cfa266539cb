"""The cross-correlation matrix of Barlow Twins on given images, in evaluation mode."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.training.selfsupervised.losses import cross_correlation
from fairweather.training.selfsupervised.probe import evaluating, in_batches, spread
from fairweather.training.selfsupervised.recipe import Views
from fairweather.training.selfsupervised.views import two_views
from fairweather.types import Images

MOST_IMAGES = 1024
MOST_DIMENSIONS = 64
BATCH_SIZE = 256


def correlation_of_views(
    embed: nn.Module, images: Images, views: Views, seed: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Correlate the embeddings of two views of up to 1,024 images, evenly spread.

    The same seed makes the same views, so that the matrix before training and the one after differ
    by the training alone. In evaluation mode: looking changes nothing.

    Args:
        embed: float `[B, 3, H, W]` in [0, 1] to `[B, d]`, on `device`: encoder and projector.
        images: what is looked at; at least two.
        views: how views are made.
        seed: of the views.
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
    with evaluating(embed), torch.inference_mode():
        for batch in in_batches(spread(images, MOST_IMAGES), BATCH_SIZE):
            both = two_views(batch.images.to(device), views, rng)
            pairs.append([embed(view)[:, :MOST_DIMENSIONS].double() for view in both])
        first, second = (torch.cat(embeddings) for embeddings in zip(*pairs, strict=True))
        return cross_correlation(first, second).cpu().numpy()
