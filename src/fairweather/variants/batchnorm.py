"""Batch norm with the statistics of the test batch: adaptation without labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fairweather.errors import InputError
from fairweather.variants.variant import Adapting

if TYPE_CHECKING:  # reports, which read variants, start in half the time without it
    from torch import nn


@dataclass(frozen=True)
class BatchNorm(Adapting):
    """Batch norm uses the statistics of the batch of test images.

    Source: Nado et al. 2020, Evaluating Prediction-Time Batch Normalization for Robustness under
    Covariate Shift; Schneider et al. 2020, Improving Robustness against Common Corruptions by
    Covariate Shift Adaptation (with no weight on the training statistics).

    >>> import torch
    >>> copied = BatchNorm().adapt(torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval())
    >>> copied(torch.rand(4, 3, 8, 8) + 5).mean().abs().item() < 1e-5
    True
    """

    kind: ClassVar[str] = "batchnorm"
    kind_title: ClassVar[str] = "batch norm of the test batch"
    batch_size: int | None = field(default=None, kw_only=True)
    orders: int = field(default=1, kw_only=True)

    def adapt(self, network: nn.Module, seed: int = 0) -> nn.Module:
        from torch import nn

        adapted = copy.deepcopy(network)
        kind = nn.modules.batchnorm._BatchNorm
        norms = [module for module in adapted.modules() if isinstance(module, kind)]
        if not norms:
            raise InputError(f"{type(network).__name__} has no batch norm that could be adapted")
        for norm in norms:
            # Without running statistics, torch and timm use the batch's, in evaluation mode too.
            norm.track_running_stats = False
            norm.running_mean = None
            norm.running_var = None
        return adapted
