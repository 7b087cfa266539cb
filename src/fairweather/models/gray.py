"""Networks with one input channel: they get the luma of RGB images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fairweather.errors import StoppedError

LUMA = (0.299, 0.587, 0.114)  # of R, G and B: ITU-R BT.601, as Pillow's mode L
SIDES = (28, 32, 64, 96, 128, 224)  # that a network of unknown size is tried at
NOTE = "the model has one input channel: it gets the luma of the images (ITU-R BT.601)"


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """Give the luma of RGB images: `[B, 3, H, W]` to `[B, 1, H, W]`; gray images keep their values.

    >>> to_gray(torch.full((1, 3, 1, 1), 0.5)).tolist()
    [[[[0.5]]]]
    """
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


class GrayInput(nn.Module):
    """A network with one input channel, as a network for RGB images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch `[B, 3, H, W]`."""
        return self.network(to_gray(images))


def takes_gray(network: nn.Module, size: int | None = None) -> bool:
    """Say whether a network takes images with one channel and none with three.

    Only a network whose first convolution has one input channel is tried.

    Args:
        network: images `[B, C, H, W]` to logits.
        size: the side of the images; None tries some.

    >>> takes_gray(nn.Conv2d(1, 4, 3)), takes_gray(nn.Conv2d(3, 4, 3))
    (True, False)
    """
    if not has_one_channel(network):
        return False
    sides = SIDES if size is None else (size,)
    gray = any(runs(network, 1, side) for side in sides)
    return gray and not any(runs(network, 3, side) for side in sides)


def has_one_channel(network: nn.Module) -> bool:
    """Say whether the first convolution of a network has one input channel."""
    layers = (each for each in network.modules() if isinstance(each, nn.Conv2d))
    first = next(layers, None)
    return first is not None and first.in_channels == 1


def narrow_as(state: Mapping[str, torch.Tensor], network: nn.Module) -> None:
    """Give the first convolution of a network one input channel if that of the weights has one.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3))
    >>> narrow_as({"0.weight": torch.zeros(4, 1, 3, 3)}, network)
    >>> has_one_channel(network)
    True
    """
    layers = ((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d))
    name, first = next(layers, ("", None))
    stored = state.get(f"{name}.weight")
    if first is None or stored is None or first.in_channels != 3 or first.groups != 1:
        return
    if stored.shape == (first.out_channels, 1, *first.weight.shape[2:]):
        first.in_channels = 1
        first.weight = nn.Parameter(first.weight.detach()[:, :1].clone())


@torch.no_grad()
def runs(network: nn.Module, channels: int, side: int) -> bool:
    """Say whether a network takes images of a size, in evaluation mode."""
    was_training = network.training
    try:
        network.eval()(torch.zeros(1, channels, side, side))
    except StoppedError:
        raise
    # Every network raises another error for images that it cannot take.
    except (Exception, SystemExit):
        return False
    finally:
        network.train(was_training)
    return True
