"""Modules around networks: normalisation, gray images, deep ensembles, the data's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import StoppedError
from fairweather.types.kinds import CLASSES, TaskKind

# ---------------------------------------------------------------- normalisation

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


class SquareResize(torch.autograd.Function):
    """Images resized to a square (bilinear, antialiased), with a reproducible gradient.

    torch's own gradient sums in a random order on a GPU, and is missing on MPS. Each side is
    resized by itself, so that both the result and the gradient are products of matrices.

    >>> SquareResize.apply(torch.ones(1, 3, 4, 6), 8).shape
    torch.Size([1, 3, 8, 8])
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, side: int) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Resize float images `[B, 3, H, W]`."""
        ctx.size, ctx.side = images.shape[-2:], side
        return _resize(images, (side, side))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401 - torch's own
        """Give each pixel its share of the gradient of every pixel that it became."""
        (given,) = gradients
        # Converted first: not every device has float64.
        both = (
            _resize_matrix(length, ctx.side).to(given.dtype).to(given.device) for length in ctx.size
        )
        rows, columns = both
        return rows.T @ given @ columns, None


def _resize(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@cache
def _resize_matrix(length: int, side: int) -> torch.Tensor:
    """The matrix that resizes lines: float64 `[side, length]`, on the CPU."""
    return _resize(torch.eye(length, dtype=torch.float64)[None, None], (side, length))[0, 0]


class Classifier(nn.Module):
    """A network with its normalisation in front: float `[B, 3, H, W]` in [0, 1] to `[B, classes]`.

    Args:
        network: normalised images to logits.
        mean, std: per-channel statistics that the network was trained with, stored as buffers.
        input_size: resize images to this square first (bilinear, antialiased); None: no resizing.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    >>> model = Classifier(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    >>> model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 10])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.input_size = input_size
        self.batchnorm_frozen = False
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        if self.input_size and images.shape[-2:] != (self.input_size, self.input_size):
            images = SquareResize.apply(images, self.input_size)
        return self.network((images - self.mean) / self.std)

    def freeze_batchnorm(self) -> None:
        """Never change batch norm again: neither its running statistics nor its parameters.

        These layers stay in evaluation mode through every later `train()`, which would otherwise
        change their statistics again.
        """
        self.batchnorm_frozen = True
        for module in self.modules():
            if isinstance(module, _BATCH_NORMS):
                module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Switch the mode of every layer except frozen batch norm."""
        super().train(mode)
        if self.batchnorm_frozen:
            for module in self.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()
        return self


# ---------------------------------------------------------------- gray images

LUMA = (0.299, 0.587, 0.114)  # of R, G and B: ITU-R BT.601, as Pillow's mode L
TRIED_SIDES = (28, 32, 64, 96, 128, 224)  # that a network of unknown size is tried at


def to_gray(images: torch.Tensor) -> torch.Tensor:
    """Give the luma of RGB images: `[B, 3, H, W]` to `[B, 1, H, W]`; gray images keep their values.

    >>> to_gray(torch.full((1, 3, 1, 1), 0.5)).tolist()
    [[[[0.5]]]]
    """
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


class GrayInput(nn.Module):
    """A network with one input channel, as a network for RGB images."""

    note = "the model has one input channel: it gets the luma of the images (ITU-R BT.601)"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch `[B, 3, H, W]`."""
        return self.network(to_gray(images))


def is_gray_network(network: nn.Module, size: int | None = None) -> bool:
    """Say whether a network takes images with one channel and none with three.

    Only a network whose first convolution has one input channel is tried.

    Args:
        network: images `[B, C, H, W]` to logits.
        size: the side of the images; None tries some.

    >>> is_gray_network(nn.Conv2d(1, 4, 3)), is_gray_network(nn.Conv2d(3, 4, 3))
    (True, False)
    """
    if not has_one_channel(network):
        return False
    sides = TRIED_SIDES if size is None else (size,)
    gray = any(accepts_images(network, 1, side) for side in sides)
    return gray and not any(accepts_images(network, 3, side) for side in sides)


def has_one_channel(network: nn.Module) -> bool:
    """Say whether the first convolution of a network has one input channel."""
    _, first = _first_convolution(network)
    return first is not None and first.in_channels == 1


def _first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d | None]:
    layers = network.named_modules()
    return next((item for item in layers if isinstance(item[1], nn.Conv2d)), ("", None))


def narrow_input(state: Mapping[str, torch.Tensor], network: nn.Module) -> None:
    """Give the first convolution of a network one input channel if that of the weights has one.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3))
    >>> narrow_input({"0.weight": torch.zeros(4, 1, 3, 3)}, network)
    >>> has_one_channel(network)
    True
    """
    name, first = _first_convolution(network)
    stored = state.get(f"{name}.weight")
    if first is None or stored is None or first.in_channels != 3 or first.groups != 1:
        return
    if stored.shape == (first.out_channels, 1, *first.weight.shape[2:]):
        first.in_channels = 1
        first.weight = nn.Parameter(first.weight.detach()[:, :1].clone())


@torch.no_grad()
def accepts_images(network: nn.Module, channels: int, side: int) -> bool:
    """Say whether a network takes images of a size, in evaluation mode."""
    was_training = network.training
    try:
        network.eval()(torch.zeros(1, channels, side, side))
    except StoppedError:
        raise
    # Networks raise different errors for images that they cannot take.
    except (Exception, SystemExit):
        return False
    finally:
        network.train(was_training)
    return True


# ---------------------------------------------------------------- deep ensembles


class Ensemble(nn.Module):
    """Average the probabilities of models of the same classes or findings, and give logits.

    Args:
        members: the models.
        predicts: what they predict: classes, of which the logits are the logarithms of the mean
            probabilities, or findings, of which they are its logits.

    Source: Lakshminarayanan et al. 2017, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, section 2.4.

    >>> sure, unsure = nn.Linear(1, 2), nn.Linear(1, 2)
    >>> both = Ensemble([sure, unsure])
    >>> both(torch.zeros(3, 1)).exp().sum(1).detach().round(decimals=4)
    tensor([1., 1., 1.])
    """

    def __init__(self, members: Sequence[nn.Module], predicts: TaskKind = CLASSES) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.average = AVERAGES[predicts.outputs]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch, `[B, classes]`."""
        # Each gets images of its own, since it may change them.
        return self.average(torch.stack([member(images.clone()) for member in self.members]))


def _average_softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))


def _average_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)


# The logits of the mean probability of members `[M, B, C]`, by what logits become.
AVERAGES: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softmax": _average_softmax,
    "sigmoid": _average_sigmoid,
}


# ---------------------------------------------------------------- classes of the data


class LabelMapper(nn.Module):
    """A classifier that gives logits for the classes of the data: `[B, data classes]`.

    A class with one output has the logit of this output. A class with several outputs has the log
    of the sum of their exponentials, so that its probability is the sum of theirs. Outputs without
    a class are left out: the probabilities are those of the model, given that the image shows one
    of the data's classes.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, outputs]`.
        columns: for each data class, its outputs.

    >>> model = LabelMapper(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), [(4,), (0, 7)])
    >>> model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 2])
    """

    first: torch.Tensor
    members: torch.Tensor

    def __init__(self, model: nn.Module, columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        members: list[int] = []
        groups: list[tuple[int, int, int]] = []
        for place, outputs in enumerate(columns):
            if len(outputs) > 1:
                groups.append((place, len(members), len(members) + len(outputs)))
                members.extend(outputs)
        self.groups = tuple(groups)  # the class, and the places of its outputs among the members
        first = torch.tensor([outputs[0] for outputs in columns])
        # Not part of the state, which is the model's own: checkpoints know nothing of the data.
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("members", torch.tensor(members, dtype=torch.int64), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        logits = self.model(images)
        chosen = logits.index_select(1, self.first)
        for place, start, stop in self.groups:
            chosen[:, place] = logits.index_select(1, self.members[start:stop]).logsumexp(1)
        return chosen


class OneColumn(nn.Module):
    """A model of one finding may give `[B]`; this gives `[B, 1]`, and other outputs as they are.

    >>> OneColumn(nn.Flatten(0))(torch.zeros(2, 1, 1, 1)).shape
    torch.Size([2, 1])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the outputs of a batch."""
        outputs = self.model(images)
        is_column = isinstance(outputs, torch.Tensor) and outputs.ndim == 1
        return outputs[:, None] if is_column else outputs


class PositiveLogits(nn.Module):
    """A classifier that says for findings, made of its classes, whether they are there: `[B, L]`.

    The sigmoid of each logit is the probability of all positive classes of the finding.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
        positive: for each finding, its positive classes; there are others.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    >>> images, shares = torch.rand(2, 3, 8, 8), lambda logits: logits.softmax(1)[:, 1:].sum(1)
    >>> probability = PositiveLogits(model, [(1, 2)])(images).sigmoid()
    >>> probability[:, 0].allclose(shares(model(images)))
    True
    """

    def __init__(self, model: nn.Module, positive: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        self.positive = tuple(map(tuple, positive))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        logits = self.model(images)
        columns = []
        for members in self.positive:
            others = [place for place in range(logits.shape[1]) if place not in members]
            present, absent = (
                torch.stack([logits[:, place] for place in some], dim=1).logsumexp(1)
                for some in (members, others)
            )
            columns.append(present - absent)
        return torch.stack(columns, dim=1)
