"""SAR: steps towards flat minima of the entropy of reliable images, and back if all is certain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.adaptation.gradients import AdaptingByGradients
from fairweather.variants.variant import check_number

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork

KEPT = 0.9  # of the mean entropy, from one batch to the next
# Parts of the names of layers that stay as they are, as in the official code.
TOP_LAYERS = ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm.")


@dataclass(frozen=True)
class Sar(AdaptingByGradients):
    """Steps along the gradient at the worst place nearby, on images with little entropy.

    As in the official code, layers stay as they are whose name is `norm` or contains `layer4`,
    `blocks.9`, `blocks.10`, `blocks.11` or `norm.`. They are the end of a ResNet, and of a ViT of
    timm with 12 blocks. Other networks have few of them, none, or some in the middle.

    If the mean entropy falls below a limit, the scales and shifts of the model come back. As in the
    official code, momentum and the mean stay.

    Source: Niu et al. 2023, Towards Stable Test-Time Adaptation in Dynamic Wild World. The defaults
    are those for ResNets; for ViTs, the paper has `learning_rate: 0.001`. With one image in a
    batch, it is 0.000016 for ResNets and 0.00003 for ViTs.
    """

    kind: ClassVar[str] = "sar"
    kind_title: ClassVar[str] = "SAR"
    version: ClassVar[int] = 2
    passes: ClassVar[float] = 6
    margin: float = 0.4
    """Reliable are images with less entropy than this share of the largest, the log of the number
    of classes."""

    radius: float = 0.05
    """How far away the worst place is sought."""

    reset_below: float = 0.2
    """The mean entropy in nats below which the model comes back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.kind, "margin", self.margin, above=0)
        check_number(self.kind, "radius", self.radius, least=0)
        check_number(self.kind, "reset_below", self.reset_below, least=0)

    def list_parameters(self, network: nn.Module) -> list[nn.Parameter]:
        from fairweather.variants.adaptation.networks import affine_parameters

        return affine_parameters(network, self.kind, _is_adapted)

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        adapted = super().adapt(network, seed)
        for at, parameter in enumerate(adapted.adapted_parameters):
            adapted.memory[f"source/{at}"] = parameter.detach().clone()
        return adapted

    def adapt_once(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        from fairweather.variants.adaptation.networks import softmax_entropy

        parameters, memory = adapted.adapted_parameters, adapted.memory
        logits = adapted.pass_forward(images)
        limit = self.margin * math.log(logits.shape[1])
        entropies = softmax_entropy(logits)
        reliable = entropies.detach() < limit
        adapted.pass_backward(entropies[reliable].mean(), len(images))
        places = [parameter.detach().clone() for parameter in parameters]
        slopes = [parameter.grad for parameter in parameters]
        norms = [slope.norm() for slope in slopes if slope is not None]
        scale = self.radius / (torch.stack(norms).norm() + 1e-12)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                if slope is not None:
                    parameter.add_(slope * scale)
        again = softmax_entropy(adapted.pass_forward(images))[reliable]
        kept = again[again.detach() < limit]
        loss = kept.mean()
        adapted.pass_backward(loss, len(images))
        with torch.no_grad():
            for parameter, place in zip(parameters, places, strict=True):
                parameter.copy_(place)
        adapted.step(len(kept))
        if not loss.detach().isnan():
            mean = memory.get("entropy")
            own = loss.detach()
            memory["entropy"] = own if mean is None else KEPT * mean + (1 - KEPT) * own
        if "entropy" in memory and memory["entropy"] < self.reset_below:
            adapted.reset([memory[f"source/{at}"] for at in range(len(parameters))])
        return logits


def _is_adapted(layer: str) -> bool:
    # The model of a run holds the network as `network`.
    name = layer.removeprefix("network.")
    return name != "norm" and not any(top in name for top in TOP_LAYERS)
