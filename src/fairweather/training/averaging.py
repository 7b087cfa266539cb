"""A moving average of a model's weights, which is often better calibrated than the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Make an exponential moving average of a model, its batch-norm statistics included.

    Each `update_parameters(model)` moves it: average = d * average + (1 - d) * model, where d is
    `decay`, but in the first steps no more than (1 + step) / (10 + step), so that the random
    initialisation is soon forgotten (Tarvainen & Valpola 2017 raise it in steps for the same end).

    >>> model = nn.Linear(1, 1)
    >>> average = average_of(model, 0.9)
    >>> average.update_parameters(model)
    >>> bool(average.module.weight == model.weight)
    True
    """

    @torch.no_grad()
    def move(averages: Tensors, currents: Tensors, steps: Any) -> None:  # noqa: ANN401
        rate = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, rate)
            else:
                average.copy_(current)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)
