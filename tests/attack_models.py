"""Models to attack: a small network trained within seconds, and linear ones with known answers."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from fairweather.models.classifier import Classifier


def digits(classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 8 x 8 digits: float32 `[N, 3, 8, 8]` in [0, 1], labels."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().div(16)[:, None].expand(-1, 3, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    known = labels < classes
    return images[known].contiguous(), labels[known]


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24 * 16, classes),
    )


@cache
def trained(classes: int = 10) -> nn.Module:
    """A network that gets held-out digits right, with its normalisation inside."""
    images, labels = digits(classes)
    images, labels = images[: len(images) // 2], labels[: len(images) // 2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(network(classes), (0.3, 0.3, 0.3), (0.38, 0.38, 0.38))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(20):
            order = torch.randperm(len(images))
            for batch in order.split(64):
                noisy = images[batch] + 0.1 * torch.randn_like(images[batch])
                loss = F.cross_entropy(model(noisy), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return model.eval()


def held_out(count: int, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images that training never saw, labels, keys."""
    images, labels = digits(classes)
    half = len(images) // 2
    images, labels = images[half : half + count], labels[half : half + count]
    return images, labels, torch.arange(1000, 1000 + len(labels))


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """`logits = weight @ pixels + bias`, weight `[classes, 3 * H * W]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)
