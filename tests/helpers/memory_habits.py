"""Models that compute the same and treat the memory of their tensors differently."""

from __future__ import annotations

import torch
from torch import nn


class Plain(nn.Module):
    """A small network for images of 8 x 8 pixels, whose last layer sees 8 features."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8)
            )
            self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(2 * images).relu())


class ReusesItsOutput(Plain):
    """One buffer for the outputs of all batches, as a CUDA graph or an exported runtime has."""

    buffer: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        if logits.requires_grad:
            return logits
        if self.buffer is None or len(self.buffer) < len(logits):
            self.buffer = torch.empty_like(logits)
        return self.buffer[: len(logits)].copy_(logits)


class ReusesItsFeatures(Plain):
    """One buffer for what the last layer sees, which is overwritten after that too."""

    buffer: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.body(2 * images).relu()
        if features.requires_grad:
            return self.head(features)
        if self.buffer is None or len(self.buffer) < len(features):
            self.buffer = torch.empty_like(features)
        seen = self.buffer[: len(features)].copy_(features)
        logits = self.head(seen)
        seen.fill_(7)
        return logits


class ChangesItsInput(Plain):
    """It calculates in the memory of the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images.mul_(2)).relu())


class KeepsItsInput(Plain):
    """It overwrites the images of one batch when the next one comes."""

    last: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.last is not None:
            self.last.detach().fill_(7)
        self.last = images
        return super().forward(images)


class KeepsItsOutput(Plain):
    """It overwrites the logits of one batch when the next one comes."""

    last: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.last is not None:
            self.last.fill_(7)
        logits = super().forward(images)
        self.last = logits.detach()
        return logits


class GivesItsConstant(Plain):
    """A tensor that it makes in its first call takes part in all later ones."""

    two: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.two is None:
            self.two = torch.full_like(images[:1], 2)
        return self.head(self.body(self.two * images).relu())


HABITS = (
    ReusesItsOutput,
    ReusesItsFeatures,
    ChangesItsInput,
    KeepsItsInput,
    KeepsItsOutput,
    GivesItsConstant,
)
