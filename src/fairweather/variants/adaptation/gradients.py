"""What methods that adapt scales and shifts of normalisation by gradients have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.variant import EPISODIC, Adapting, check_choice, check_number

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

    steps: int = 1
    """How often each batch is seen and stepped along. Its logits are those before the last step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.kind, "optimiser", self.optimiser, OPTIMISERS)
        check_number(self.kind, "learning_rate", self.learning_rate, above=0)
        check_number(self.kind, "steps", self.steps, least=1, whole=True)

    @property
    def work(self) -> float:
        return self.steps * self.passes

    def remark(self, images: int, batch_size: int) -> str:
        """Say that no step changes an answer, if the only batch is answered before it.

        >>> from fairweather.variants.variant import read_variant
        >>> tent = read_variant("tent: {batch_size: 64}")
        >>> tent.remark(64, 256), tent.remark(65, 256)
        ('1 batch a stream: no step changes an answer. Choose a smaller batch_size.', '')
        """
        if self.steps > 1 or self.cells != EPISODIC or images > (self.batch_size or batch_size):
            return ""
        return "1 batch a stream: no step changes an answer. Choose a smaller batch_size."

    def list_parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """The parameters that its steps change; raises `InputError` if there are none."""
        from fairweather.variants.adaptation.networks import affine_parameters

        return affine_parameters(network, self.kind)

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        from fairweather.variants.adaptation.networks import count_norms, count_numbers

        own = self.list_parameters(network)
        return f"scales and shifts of {count_norms(network, own)}: {count_numbers(network, own)}"

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        from fairweather.variants.adaptation.networks import (
            AdaptedNetwork,
            copy_with_batch_statistics,
        )

        adapted = copy_with_batch_statistics(network)
        parameters, rate = self.list_parameters(adapted), self.learning_rate
        return AdaptedNetwork(adapted, self.predict, parameters, self.optimiser, rate, seed)

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        for _ in range(self.steps):
            logits = self.adapt_once(adapted, images)
        return logits

    def adapt_once(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch, and take a step for it."""
        raise NotImplementedError
