"""Batch norm with the statistics of test images: adaptation without labels or gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fairweather.errors import InputError
from fairweather.types.kinds import TaskKind
from fairweather.variants.variant import EVERY_KIND, SHUFFLED, Adapting, check_number

if TYPE_CHECKING:  # reports, which read variants, start in half the time without it
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork


@dataclass(frozen=True)
class BatchNorm(Adapting):
    """Batch norm uses the statistics of the batch of test images.

    Source: Nado et al. 2020, Evaluating Prediction-Time Batch Normalization for Robustness under
    Covariate Shift; Schneider et al. 2020, Improving Robustness against Common Corruptions by
    Covariate Shift Adaptation, which mixes them with those of the training images.

    >>> import torch
    >>> copied = BatchNorm().adapt(torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval())
    >>> copied(torch.rand(4, 3, 8, 8) + 5).mean().abs().item() < 1e-5
    True
    """

    kind: ClassVar[str] = "batchnorm"
    kind_title: ClassVar[str] = "batch norm of the test batch"
    batch_size: int | None = field(default=None, kw_only=True)
    orders: int = field(default=None, kw_only=True)  # type: ignore[assignment]
    """The number of streams; by default five where answers depend on the order, as of sorted images
    and with a momentum, else one."""

    source: float = 0.0
    """How many images the training statistics count as, beside those of the batch; the paper's
    choice is 16. 0 leaves them out."""

    momentum: float = 1.0
    """The share of a new batch in the moving mean of the test statistics; 1 leaves out earlier
    batches. With less, the mean begins with the training statistics."""

    def __post_init__(self) -> None:
        check_number(self.kind, "source", self.source, least=0)
        check_number(self.kind, "momentum", self.momentum, above=0, most=1)
        if self.orders is None:
            object.__setattr__(self, "orders", self._usual_orders)
        super().__post_init__()

    @property
    def _usual_orders(self) -> int:
        return 1 if self.order == SHUFFLED and not self.remembers else 5

    @property
    def changed(self) -> Mapping[str, Any]:
        """As for other variants; a single stream goes without saying where it is usual."""
        is_usual = self.orders == 1 == self._usual_orders
        return {k: v for k, v in super().changed.items() if k != "orders" or not is_usual}

    @property
    def untitled(self) -> Collection[str]:
        return ("batch_size", *["orders"] * (self.orders == self._usual_orders))

    @property
    def accepts(self) -> Collection[TaskKind]:
        return EVERY_KIND

    @property
    def remembers(self) -> bool:
        return self.momentum < 1

    def fewest(self, network: nn.Module) -> int:
        return 1 if self.source or self.momentum < 1 else 2

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        norms = _list_norms(network)
        adapted = sum(module.running_mean is not None for module in norms)
        return f"statistics of batch norm ({adapted} of {len(norms)} layers)"

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        from fairweather.variants.adaptation.networks import (
            AdaptedNetwork,
            copy_with_batch_statistics,
            copy_with_mixed_statistics,
        )

        norms = _list_norms(network)
        if not norms:
            raise InputError(f"{self.kind} needs batch norm, and PyTorch finds none in the network")
        if all(norm.running_mean is None for norm in norms):
            raise InputError(
                f"{self.kind} would change nothing: the network's batch norm has no statistics of "
                "training images, and uses those of each batch already"
            )
        if self.source or self.momentum < 1:
            adapted = copy_with_mixed_statistics(network, self.source, self.momentum)
        else:
            adapted = copy_with_batch_statistics(network)
        return AdaptedNetwork(adapted, self.predict)

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return adapted.pass_forward(images)


def _list_norms(network: nn.Module) -> list[nn.Module]:
    """The layers of batch norm, each with `running_mean`, which is None without statistics."""
    from fairweather.variants.adaptation.networks import BATCH_NORM

    return [module for module in network.modules() if isinstance(module, BATCH_NORM)]
