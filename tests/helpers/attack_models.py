"""Models to attack: small trained networks from files, and linear ones with known answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn

from fairweather.models.wrappers import Classifier

MEAN, STD = (0.3, 0.3, 0.3), (0.38, 0.38, 0.38)


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


def network_file(classes: int) -> Path:
    """Where the trained network for the first `classes` digits is kept."""
    return Path(__file__).parents[1] / "networks" / f"digits_{classes}.safetensors"


@cache
def trained(classes: int = 10) -> nn.Module:
    """A network that gets held-out digits right, with its normalisation inside: 5 or 10 classes.

    It is read from a file, so that it is the same on every machine (networks/README.md).
    """
    model = Classifier(network(classes), MEAN, STD)
    model.load_state_dict(load_file(network_file(classes)))
    return model.eval()


def held_out(count: int, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images that training never saw, labels, keys."""
    images, labels = digits(classes)
    half = len(images) // 2
    images, labels = images[half : half + count], labels[half : half + count]
    return images, labels, torch.arange(1000, 1000 + len(labels))


class OneByOne(nn.Module):
    """The same logits to the bit in any batch: kernels may add in another order in a larger one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.inner(image) for image in images.split(1)])


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """`logits = weight @ pixels + bias`, weight `[classes, 3 * H * W]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)
