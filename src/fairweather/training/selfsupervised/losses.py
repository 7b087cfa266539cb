"""The loss of Barlow Twins, from the statistics of the whole batch on however many processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed

EPSILON = 1e-5  # batch norm's, as the published code normalises with it


def barlow_twins_loss(
    first: torch.Tensor, second: torch.Tensor, redundancy_weight: float
) -> torch.Tensor:
    """Pull the cross-correlation of two embeddings towards the identity matrix.

    The sum of (1 - C_ii)^2 over the diagonal, plus `redundancy_weight` times the sum of C_ij^2 off
    it (Zbontar et al. 2021, equation 1). With `torch.distributed`, C is that of the batch of all
    processes, whatever the share of each: every process gets the same loss, and gradients that are
    averaged over processes, as `DistributedDataParallel` does, are those of one process.

    Args:
        first, second: float `[B, d]`, the embeddings of two views of the same images; at least two
            images in all.
        redundancy_weight: lambda, 0.0051 in the paper.

    Returns a scalar, in float32 or in the embeddings' own type if that is wider.

    >>> embedding = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(barlow_twins_loss(embedding, embedding, 0.0051)), 6)
    0.0
    """
    correlation = cross_correlation(first, second)
    on = correlation.diagonal()
    off = correlation - torch.diag(on)
    return (on - 1).square().sum() + redundancy_weight * off.square().sum()


def cross_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Correlate every dimension of one embedding with every one of another, over all processes.

    Each dimension is normalised by its mean and population variance, to which 1e-5 is added as in
    batch norm: a dimension without variance correlates with nothing.

    Args:
        first, second: float `[B, d]`.

    Returns `[d, d]` in [-1, 1], in float32 or in the embeddings' own type if that is wider.

    >>> cross_correlation(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-3.0], [3.0]])).round()
    tensor([[-1.]])
    """
    wide = torch.promote_types(first.dtype, torch.float32)
    # A mean over thousands of images is not for the 8 bits of a bfloat16's fraction.
    with torch.autocast(first.device.type, enabled=False):
        count = _sum_over_processes(torch.tensor(len(first), dtype=wide, device=first.device))
        standard = [_standardise(embedding.to(wide), count) for embedding in (first, second)]
        return _sum_over_processes(standard[0].T @ standard[1]) / count


def _standardise(embedding: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    centred = embedding - _sum_over_processes(embedding.sum(0)) / count
    variance = _sum_over_processes(centred.square().sum(0)) / count
    return centred / (variance + EPSILON).sqrt()


class _Sum(torch.autograd.Function):
    """A sum over processes whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Add the values up."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Every process's loss depends on the values of every process."""
        return _Sum.forward(ctx, gradients[0])


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_world_size() == 1:
        return values
    total: torch.Tensor = _Sum.apply(values)
    return total
