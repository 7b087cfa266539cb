"""EATA: entropy of reliable and new images only, and no parameter moves far that matters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.adaptation.gradients import AdaptingByGradients
from fairweather.variants.variant import check_number

if TYPE_CHECKING:
    import torch

    from fairweather.variants.adaptation.networks import AdaptedNetwork, Tensors

KEPT = 0.9  # of the mean probabilities, from one batch to the next


@dataclass(frozen=True)
class Eata(AdaptingByGradients):
    """Steps towards less entropy on images that are reliable and unlike those before.

    Parameters that matter for clean images are held back, by the Fisher information of validation
    images. Without it (`fisher_weight: 0`), this is the paper's ETA.

    Source: Niu et al. 2022, Efficient Test-Time Model Adaptation without Forgetting. The defaults
    are the paper's for ImageNet; for CIFAR-10, it has `margin: 0.4`, `redundancy: 0.4`,
    `fisher_weight: 1` and `learning_rate: 0.005`.
    """

    kind: ClassVar[str] = "eata"
    kind_title: ClassVar[str] = "EATA"
    margin: float = 0.4
    """Reliable are images with less entropy than this share of the largest, the log of the number
    of classes."""

    redundancy: float = 0.05
    """New are images whose probabilities have a smaller cosine than this with the mean of earlier
    ones."""

    fisher_weight: float = 2000.0
    """How strongly parameters are held back; 0 to do without validation images."""

    fisher_images: int = 2000
    """The number of validation images that the Fisher information is from, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.kind, "margin", self.margin, above=0)
        check_number(self.kind, "redundancy", self.redundancy, above=0)
        check_number(self.kind, "fisher_weight", self.fisher_weight, least=0)
        check_number(self.kind, "fisher_images", self.fisher_images, least=1, whole=True)
        self.check_effect("fisher_images", self.fisher_weight > 0, "it goes with a fisher_weight")

    @property
    def own_title(self) -> str:
        return self.kind_title if self.fisher_weight else "ETA"

    @property
    def source_images(self) -> int:
        return self.fisher_images if self.fisher_weight else 0

    def learn(self, adapted: AdaptedNetwork, batches: Iterable[torch.Tensor]) -> Tensors:
        """The mean over batches of squared gradients of the loss of the model's own answers."""
        import torch

        sums = [torch.zeros_like(parameter) for parameter in adapted.adapted_parameters]
        count = 0
        for images in batches:
            logits = adapted.pass_forward(images)
            loss = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
            adapted.pass_backward(loss, len(images))
            for total, parameter in zip(sums, adapted.adapted_parameters, strict=True):
                if parameter.grad is not None:
                    total += parameter.grad**2
            count += 1
        learned = {}
        for at, (total, parameter) in enumerate(zip(sums, adapted.adapted_parameters, strict=True)):
            learned[f"fisher/{at}"] = total / count
            learned[f"source/{at}"] = parameter.detach().clone()
        return learned

    def adapt_once(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        from fairweather.variants.adaptation.networks import softmax_entropy

        logits = adapted.pass_forward(images)
        limit = self.margin * math.log(logits.shape[1])
        entropies = softmax_entropy(logits)
        probabilities = logits.detach().softmax(1)
        chosen = entropies.detach() < limit
        mean = adapted.memory.get("mean")
        if mean is not None:
            cosines = torch.nn.functional.cosine_similarity(mean[None], probabilities, dim=1)
            chosen &= cosines.abs() < self.redundancy
        if not chosen.any():
            return logits
        own = probabilities[chosen].mean(0)
        adapted.memory["mean"] = own if mean is None else KEPT * mean + (1 - KEPT) * own
        weights = 1 / (entropies.detach()[chosen] - limit).exp()
        loss = (entropies[chosen] * weights).mean()
        for at, parameter in enumerate(adapted.adapted_parameters if self.fisher_weight else ()):
            moved = parameter - adapted.memory[f"source/{at}"]
            loss = loss + self.fisher_weight * (adapted.memory[f"fisher/{at}"] * moved**2).sum()
        adapted.descend(loss, len(images))
        return logits
