"""The classifier: images in [0, 1] in, logits out, with its normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_NORMS = (nn.modules.batchnorm._BatchNorm,)


class Resized(torch.autograd.Function):
    """Images resized to a square (bilinear, antialiased), with a gradient that repeats itself.

    torch's own gradient adds up in any order on a GPU, and does not exist on MPS. Each side is
    resized by itself, so that both the result and the gradient are products of matrices.

    >>> Resized.apply(torch.ones(1, 3, 4, 6), 8).shape
    torch.Size([1, 3, 8, 8])
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, side: int) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Resize float images `[B, 3, H, W]`."""
        ctx.size, ctx.side = images.shape[-2:], side
        return _resize(images, (side, side))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401 - torch's own
        """Give each pixel its share of the gradient of every pixel that it became."""
        (given,) = gradients
        # Converted first: not every device has float64.
        both = (_matrix(length, ctx.side).to(given.dtype).to(given.device) for length in ctx.size)
        rows, columns = both
        return rows.T @ given @ columns, None


def _resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@cache
def _matrix(length: int, side: int) -> torch.Tensor:
    """What resizes lines of a length to another: float64 `[side, length]`, on the CPU."""
    return _resize(torch.eye(length, dtype=torch.float64)[None, None], (side, length))[0, 0]


class Classifier(nn.Module):
    """A network with its normalisation in front: float `[B, 3, H, W]` in [0, 1] to `[B, classes]`.

    Args:
        network: normalised images to logits.
        mean, std: per-channel statistics that the network was trained with, stored as buffers.
        input_size: resize images to this square first (bilinear, antialiased); None: no resizing.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    >>> model = Classifier(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.input_size = input_size
        self.batchnorm_frozen = False
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        if self.input_size and images.shape[-2:] != (self.input_size, self.input_size):
            images = Resized.apply(images, self.input_size)
        return self.network((images - self.mean) / self.std)

    def freeze_batchnorm(self) -> None:
        """Never change batch norm again: neither its running statistics nor its parameters.

        These layers stay in evaluation mode through every later `train()`, which would otherwise
        change their statistics again.
        """
        self.batchnorm_frozen = True
        for module in self.modules():
            if isinstance(module, _NORMS):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Switch the mode of every layer except frozen batch norm."""
        super().train(mode)
        if self.batchnorm_frozen:
            for module in self.modules():
                if isinstance(module, _NORMS):
                    module.eval()
        return self
