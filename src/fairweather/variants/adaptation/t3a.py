"""T3A: the last layer becomes the mean feature of the surest images of each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.variant import Adapting, check_number

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork


@dataclass(frozen=True)
class T3a(Adapting):
    """Images are compared with the mean feature of the surest images so far of each class.

    Source: Iwasawa and Matsuo 2021, Test-Time Classifier Adjustment Module for Model-Agnostic
    Domain Generalization. The paper chooses `supports` among 1, 5, 20, 50, 100 and all by training
    domains; the batch size is that of the official code.
    """

    kind: ClassVar[str] = "t3a"
    kind_title: ClassVar[str] = "T3A"
    version: ClassVar[int] = 2
    batch_size: int | None = field(default=32, kw_only=True)
    supports: int = 100
    """How many images of each class are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.kind, "supports", self.supports, least=1, whole=True)

    def fewest(self, network: nn.Module) -> int:
        return 1

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        from fairweather.variants.adaptation.networks import count_numbers, find_last_layer

        layer = find_last_layer(network, images, self.kind).layer
        numbers = count_numbers(network, layer.parameters())
        return f"the last layer, of {layer.in_features:,} features: {numbers}"

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        from fairweather.variants.adaptation.networks import without_autocast

        def compare(features: torch.Tensor) -> torch.Tensor:
            with without_autocast(features):
                return self.compare(adapted, last.layer, features)

        with torch.no_grad():
            last = adapted.find_last_layer(images, self.kind)
            with last.watch(compare):
                return adapted.pass_forward(images)

    def compare(
        self, adapted: AdaptedNetwork, layer: nn.Linear, features: torch.Tensor
    ) -> torch.Tensor:
        """The outputs in place of those of the last layer, `[B, C]`."""
        import torch
        from torch.nn.functional import linear, normalize

        from fairweather.variants.adaptation.networks import softmax_entropy

        memory, features = adapted.memory, features.float()
        weights = layer.weight.float()
        bias = None if layer.bias is None else layer.bias.float()
        # The rows of the last layer are the first supports.
        seen = [features] if memory else [weights, features]
        outputs = linear(torch.cat(seen), weights, bias)
        new = {
            "features": torch.cat(seen),
            "classes": outputs.argmax(1),
            "entropies": softmax_entropy(outputs),
        }
        for name, values in new.items():
            earlier = [memory[name].to(values.device)] if name in memory else []
            memory[name] = torch.cat([*earlier, values])
        kept = []
        for label in range(len(weights)):
            places = torch.nonzero(memory["classes"] == label)[:, 0]
            order = memory["entropies"][places].argsort(stable=True)
            kept.append(places[order[: self.supports]])
        chosen = torch.cat(kept)
        for name in new:
            memory[name] = memory[name][chosen]
        members = torch.nn.functional.one_hot(memory["classes"], len(weights)).float()
        centres = normalize(memory["features"], dim=1).T @ members
        return features @ normalize(centres, dim=0)
