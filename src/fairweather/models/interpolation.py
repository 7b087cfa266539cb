"""Weights between two sets of weights of one network."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fairweather.errors import InputError


def interpolate(
    start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Mix two state dicts of one network: `(1 - share) * start + share * end`.

    Between a pre-trained network and what fine-tuning made of it there often lies one that is more
    robust than both. The running statistics of batch norm are mixed like weights; whole numbers,
    its counters, are those of the end unless the share is 0.

    Args:
        start, end: the same names and shapes; the result has the types and devices of the end.
        share: of the end, in [0, 1]; 0 and 1 give the ends, bit for bit.

    Raises:
        InputError: a share outside of [0, 1], or names and shapes that differ.

    Source: Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, equation 1.

    >>> start, end = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}
    >>> interpolate(start, end, 0.25)
    {'w': tensor([0.2500, 2.5000])}
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of an interpolation is in [0, 1], found {share}")
    _check_same(start, end)
    return {name: _between(start[name], tensor, share) for name, tensor in end.items()}


def _between(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    start, end = start.detach().to(end.device, end.dtype), end.detach()
    # The ends are taken, not computed: 0 times infinity is no number.
    if share == 0:
        return start.clone()
    if share == 1 or not end.is_floating_point():
        return end.clone()
    return torch.lerp(start, end, share)  # what is the same at both ends stays so, to the bit


def _check_same(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]) -> None:
    if lone := sorted(start.keys() ^ end.keys()):
        raise InputError(
            f"weights are mixed with weights of the same network, but {len(lone)} tensors are only "
            f"on one side, such as {lone[0]}"
        )
    for name, tensor in end.items():
        if start[name].shape != tensor.shape:
            shapes = f"{list(start[name].shape)} and {list(tensor.shape)}"
            raise InputError(f"weights are mixed shape by shape, but {name} has {shapes}")
