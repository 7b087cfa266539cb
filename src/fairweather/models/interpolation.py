"""Interpolation between two sets of weights of one network."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fairweather.errors import InputError


def interpolate(
    start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Mix two state dicts of one network: `(1 - share) * start + share * end`.

    A mixture of a pre-trained network and its fine-tuned version is often more robust than both.
    The running statistics of batch norm are mixed like weights. Whole numbers, such as its
    counters, are those of `end` unless the share is 0.

    Args:
        start, end: with the same names and shapes; the result has the types and devices of `end`.
        share: of `end`, in [0, 1]; 0 gives `start` and 1 gives `end`, bit for bit.

    Raises:
        InputError: a share outside [0, 1], or names or shapes that differ.

    Source: Wortsman et al. 2022, Robust Fine-Tuning of Zero-Shot Models, equation 1.

    >>> start, end = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 4.0])}
    >>> interpolate(start, end, 0.25)
    {'w': tensor([0.2500, 2.5000])}
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of an interpolation must be in [0, 1], found {share}")
    _check_same(start, end)
    return {name: _between(start[name], tensor, share) for name, tensor in end.items()}


def _between(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    start, end = start.detach().to(end.device, end.dtype), end.detach()
    # The ends are taken, not computed: 0 times infinity is no number.
    if share == 0:
        return start.clone()
    if share == 1 or not end.is_floating_point():
        return end.clone()
    return torch.lerp(start, end, share)  # equal ends give the same bits


def _check_same(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor]) -> None:
    if lone := sorted(start.keys() ^ end.keys()):
        raise InputError(
            f"weights can only be mixed with weights of the same network, but {len(lone)} tensors "
            f"are only on one side, such as {lone[0]}"
        )
    for name, tensor in end.items():
        if start[name].shape != tensor.shape:
            shapes = f"{list(start[name].shape)} and {list(tensor.shape)}"
            raise InputError(
                f"weights can only be mixed if their shapes are equal, but {name} has {shapes}"
            )
