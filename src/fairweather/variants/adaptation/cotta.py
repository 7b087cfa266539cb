"""CoTTA: a student follows the mean of its past on augmented images, and is partly restored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fairweather.errors import InputError
from fairweather.variants.adaptation.gradients import AdaptingByGradients
from fairweather.variants.variant import check_number

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork

TEACHER, ANCHOR = "teacher", "anchor"


@dataclass(frozen=True)
class Cotta(AdaptingByGradients):
    """All weights of a student follow a teacher, which is the moving mean of the student.

    Where the model itself is not sure, the teacher averages its logits over augmented images. After
    each step, a random share of the student's weights comes back from the model. The answers are
    the teacher's.

    Source: Wang et al. 2022, Continual Test-Time Domain Adaptation. The defaults are those of the
    official code for CIFAR-10-C. For ImageNet, it has `batch_size: 64`, `optimiser: sgd`,
    `learning_rate: 0.01`, `restored: 0.001` and `sure: 0.1`. It then also has Nesterov's momentum
    and a loss that is symmetric in student and teacher, which are not here.
    """

    kind: ClassVar[str] = "cotta"
    kind_title: ClassVar[str] = "CoTTA"
    passes: ClassVar[float] = 35
    version: ClassVar[int] = 2
    copies: ClassVar[int] = 6  # student, teacher, the model, gradients, and two moments of Adam
    batch_size: int | None = field(default=200, kw_only=True)
    optimiser: str = "adam"
    learning_rate: float = 0.001
    kept: float = 0.999
    """The share of the teacher that stays at each step."""

    restored: float = 0.01
    """The share of the student's weights that comes back at each step."""

    sure: float = 0.92
    """The model's mean confidence in a batch from which on it is not augmented."""

    augmentations: int = 32
    """How often a batch is augmented."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kept", "restored", "sure"):
            check_number(self.kind, name, getattr(self, name), least=0, most=1)
        check_number(self.kind, "augmentations", self.augmentations, least=1, whole=True)

    def list_parameters(self, network: nn.Module) -> list[nn.Parameter]:
        weights = [
            parameter
            for name, parameter in network.named_parameters()
            if name.rpartition(".")[2] in ("weight", "bias")
        ]
        if not weights:
            raise InputError(
                f"{self.kind} adapts all weights, and PyTorch finds none in the network"
            )
        return weights

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        from fairweather.variants.adaptation.networks import count_numbers

        own, every = self.list_parameters(network), list(network.parameters())
        counts = f"{len(own)} of {len(every)} parameters"
        return f"weights and biases ({counts}): {count_numbers(network, own)}"

    def adapt(self, network: nn.Module, seed: int = 0) -> AdaptedNetwork:
        adapted = super().adapt(network, seed)
        for name in (TEACHER, ANCHOR):
            adapted.further[name] = copy.deepcopy(adapted.network).requires_grad_(False)
        return adapted

    def adapt_once(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        teacher, anchor = adapted.further[TEACHER], adapted.further[ANCHOR]
        logits, random = adapted.pass_forward(images), adapted.random
        with torch.no_grad():
            sure = adapted.pass_forward(images, anchor).softmax(1).max(1).values.mean()
            if sure < self.sure:
                total = torch.zeros_like(logits)
                for _ in range(self.augmentations):
                    total += adapted.pass_forward(augment(images, random), teacher)
                answers = total / self.augmentations
            else:
                answers = adapted.pass_forward(images, teacher)
        loss = -(answers.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        adapted.descend(loss, len(images))
        with torch.no_grad():
            own = list(adapted.network.parameters())
            for mean, parameter in zip(teacher.parameters(), own, strict=True):
                mean.copy_(self.kept * mean + (1 - self.kept) * parameter)
            names = dict(anchor.named_parameters())
            for name, parameter in adapted.network.named_parameters():
                if parameter.requires_grad:
                    mask = torch.rand(parameter.shape, generator=random) < self.restored
                    parameter.copy_(torch.where(mask.to(parameter.device), names[name], parameter))
        return answers


def augment(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Change colours, place, sharpness and noise of a batch, all images in the same way.

    Args:
        images: float `[B, 3, H, W]` in [0, 1].
        random: on the CPU; the order of draws is that of the official code.
    """
    import torch
    from torchvision.transforms import InterpolationMode, functional

    def uniform(low: float, high: float) -> float:
        return torch.empty(1).uniform_(low, high, generator=random).item()

    colours: list[tuple[Callable[[torch.Tensor, float], torch.Tensor], float, float]] = [
        (functional.adjust_brightness, 0.6, 1.4),
        (functional.adjust_contrast, 0.7, 1.3),
        (functional.adjust_saturation, 0.5, 1.5),
        (functional.adjust_hue, -0.06, 0.06),
        (lambda batch, gamma: functional.adjust_gamma(batch.clamp(1e-8, 1), gamma), 0.7, 1.3),
    ]
    batch = images.clamp(0, 1)
    for at in torch.randperm(len(colours), generator=random).tolist():
        change, low, high = colours[at]
        batch = change(batch, uniform(low, high))
    height, width = images.shape[2:]
    padding = [width // 2, height // 2]
    batch = functional.pad(batch, padding, padding_mode="edge")
    angle = uniform(-15, 15)
    across, down = (round(uniform(-side / 16, side / 16)) for side in reversed(batch.shape[2:]))
    scale = uniform(0.9, 1.1)
    batch = functional.affine(
        batch, angle, [across, down], scale, [0.0, 0.0], InterpolationMode.BILINEAR
    )
    sigma = uniform(0.001, 0.5)
    batch = functional.gaussian_blur(batch, [5, 5], [sigma, sigma])
    batch = functional.center_crop(batch, [height, width])
    if torch.rand(1, generator=random) < 0.5:
        batch = functional.hflip(batch)
    noise = torch.randn(batch.shape, generator=random) * 0.005
    return (batch + noise.to(batch.device)).clamp(0, 1)
