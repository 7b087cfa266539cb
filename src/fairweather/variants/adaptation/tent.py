"""TENT: steps towards predictions of less entropy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.adaptation.gradients import AdaptingByGradients

if TYPE_CHECKING:
    import torch

    from fairweather.variants.adaptation.networks import AdaptedNetwork


@dataclass(frozen=True)
class Tent(AdaptingByGradients):
    """Each batch takes a step towards predictions of less entropy.

    Source: Wang et al. 2021, Tent: Fully Test-Time Adaptation by Entropy Minimization. The defaults
    are those of the official code for CIFAR-10-C. The paper's for ImageNet are `optimiser: sgd`,
    `learning_rate: 0.00025` and `batch_size: 64`.
    """

    kind: ClassVar[str] = "tent"
    kind_title: ClassVar[str] = "TENT"
    batch_size: int | None = field(default=200, kw_only=True)
    optimiser: str = "adam"
    learning_rate: float = 0.001

    def adapt_once(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        from fairweather.variants.adaptation.networks import softmax_entropy

        logits = adapted.pass_forward(images)
        adapted.descend(softmax_entropy(logits).mean(), len(images))
        return logits
