"""The network of the demo, without timm, which takes longer to import than the demo to compute.

It is timm's `resnet10t` of an eighth of the width, with the same names of tensors (`study.yaml`).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

classes = tuple("0123456789")
WEIGHTS = Path(__file__).with_name("model.safetensors")
STEM, CHANNELS = (24, 32, 64), (8, 16, 32, 64)


class Block(nn.Module):
    """Two convolutions beside a shortcut that averages pixels where the block has a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        smaller = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True)
        shortcut = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(smaller, *shortcut)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Give the features of the next layer."""
        hidden = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.downsample(features))


class DigitClassifier(nn.Module):
    """Images `[B, 3, H, W]` in [0, 1] to logits `[B, 10]`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("std", torch.ones(1, 3, 1, 1))
        first, second, width = STEM
        layers = {
            "conv1": nn.Sequential(
                nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(first),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, padding=1, bias=False),
                nn.BatchNorm2d(second),
                nn.ReLU(),
                nn.Conv2d(second, width, 3, padding=1, bias=False),
            ),
            "bn1": nn.BatchNorm2d(width),
            "act1": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
        }
        for number, outputs in enumerate(CHANNELS, start=1):
            layers[f"layer{number}"] = nn.Sequential(Block(width, outputs, 1 if number == 1 else 2))
            width = outputs
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        self.network = nn.Sequential(OrderedDict(**layers, fc=nn.Linear(width, len(classes))))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images, and give their logits."""
        logits: torch.Tensor = self.network((images - self.mean) / self.std)
        return logits


def load_digits() -> DigitClassifier:
    """Load the classifier with the weights in this folder.

    >>> load_digits()(torch.zeros(2, 3, 28, 28)).shape
    torch.Size([2, 10])
    """
    model = DigitClassifier()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
