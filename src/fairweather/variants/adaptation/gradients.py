"""What methods that adapt scales and shifts of normalisation by gradients have in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.variants.variant import Adapting, check_choice, check_number

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork

OPTIMISERS = ("adam", "sgd")


@dataclass(frozen=True)
class AdaptingByGradients(Adapting):
    """A method whose steps change the scales and shifts of batch, group and layer norm.

    Batch norm uses the statistics of the batch, and dropout stays off.
    """

    takes_steps: ClassVar[bool] = True
    passes: ClassVar[float] = 3
    optimiser: str = "sgd"
    """`adam`, or `sgd` with momentum 0.9."""

    learning_rate: float = 0.00025
    """The size of its steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.kind, "optimiser", self.optimiser, OPTIMISERS)
        check_number(self.kind, "learning_rate", self.learning_rate, above=0)

    @property
    def accepts(self) -> Collection[TaskKind]:
        return (CLASSES,)

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch, and take the steps of the method."""
        raise NotImplementedError

    def is_adapted(self, layer: str) -> bool:
        """Whether the layer of normalisation with this name is adapted."""
        return True

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        from fairweather.variants.adaptation.networks import (
            AdaptedNetwork,
            affine_parameters,
            copy_with_batch_statistics,
        )

        adapted = copy_with_batch_statistics(network)
        parameters = affine_parameters(adapted, self.kind, self.is_adapted)
        rate = self.learning_rate
        return AdaptedNetwork(adapted, self.predict, parameters, self.optimiser, rate, seed)
