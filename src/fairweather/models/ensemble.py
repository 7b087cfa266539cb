"""Several classifiers as one: a deep ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """Average the probabilities of classifiers of the same classes, and give the logarithms.

    Source: Lakshminarayanan et al. 2017, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, section 2.4.

    >>> sure, unsure = nn.Linear(1, 2), nn.Linear(1, 2)
    >>> both = Ensemble([sure, unsure])
    >>> both(torch.zeros(3, 1)).exp().sum(1).detach().round(decimals=4)
    tensor([1., 1., 1.])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the log-probabilities of a batch, `[B, classes]`."""
        # Each gets images of its own, since it may change them.
        logs = torch.stack([member(images.clone()).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))
