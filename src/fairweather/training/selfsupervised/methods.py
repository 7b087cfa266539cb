"""The methods of pre-training: what is put behind the encoder, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import missing_extra
from fairweather.training.selfsupervised.losses import barlow_twins_loss
from fairweather.training.selfsupervised.recipe import Pretraining
from fairweather.training.selfsupervised.rotation import TURNS, rotation_loss


class Outcome(NamedTuple):
    """The loss of a batch, a scalar, and the embedding `[B, d]` of its first view."""

    loss: torch.Tensor
    embedding: torch.Tensor


class Method(NamedTuple):
    """A way to train an encoder.

    Attributes:
        title: for people, with its paper.
        views: 2, or 1: the second kind alone.
        may_collapse: whether an embedding that is the same for all images is a failure to look for.
        build: `(features, recipe, classes)` to the module `(encoder, views, labels) -> Outcome`.
    """

    title: str
    views: int
    may_collapse: bool
    build: Callable[[int, Pretraining, int], nn.Module]


def projector(features: int, widths: Sequence[int], last: nn.Module | None = None) -> nn.Sequential:
    """Build linear layers without bias, with batch norm and ReLU between them.

    Args:
        features: width of the input.
        widths: of the layers, in order; the last is the embedding's.
        last: what follows the last layer, if anything does.

    >>> [type(layer).__name__ for layer in projector(512, (8, 8))]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip([features, *widths], widths)):  # noqa: B905
        if number:
            layers += [nn.BatchNorm1d(before), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(before, after, bias=False))
    return nn.Sequential(*layers, *([last] if last else []))


class TwoViews(nn.Module):
    """A loss of the embeddings of two views; each view has batch statistics of its own."""

    def __init__(self, project: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.project, self.loss = project, loss

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> Outcome:
        """Embed both views and compare them; labels are not looked at."""
        first, second = (self.project(encoder(view)) for view in views)
        return Outcome(self.loss(first, second), first)


class SimSiam(nn.Module):
    """Each view predicts the other's embedding, through which no gradient flows."""

    def __init__(self, features: int, recipe: Pretraining, classes: int) -> None:
        super().__init__()
        width = recipe.projector[-1]
        norm = nn.BatchNorm1d(width, affine=False)
        self.project = projector(features, recipe.projector, norm)
        self.predict = nn.Sequential(
            projector(width, (recipe.predictor_width,)),
            nn.BatchNorm1d(recipe.predictor_width),
            nn.ReLU(inplace=True),
            nn.Linear(recipe.predictor_width, width),
        )
        self.loss = _lightly().NegativeCosineSimilarity()

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> Outcome:
        """Chen and He 2021, algorithm 1; labels are not looked at."""
        first, second = (self.project(encoder(view)) for view in views)
        forth = self.loss(self.predict(first), second.detach())
        back = self.loss(self.predict(second), first.detach())
        return Outcome((forth + back) / 2, first)


class Rotation(nn.Module):
    """One linear layer guesses by which right angle an image was turned."""

    def __init__(self, features: int, recipe: Pretraining, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, TURNS)

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> Outcome:
        """Labels are not looked at."""
        return Outcome(*rotation_loss(encoder, self.head, views[0]))


class Supervised(nn.Module):
    """One linear layer tells the labels."""

    def __init__(self, features: int, recipe: Pretraining, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, classes)

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], labels: torch.Tensor
    ) -> Outcome:
        """Mean cross-entropy in nats."""
        features = encoder(views[0])
        return Outcome(F.cross_entropy(self.head(features), labels), features)


def _barlow_twins(features: int, recipe: Pretraining, classes: int) -> nn.Module:
    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return barlow_twins_loss(first, second, recipe.redundancy_weight)

    return TwoViews(projector(features, recipe.projector), loss)


def _simclr(features: int, recipe: Pretraining, classes: int) -> nn.Module:
    """The embedding has a batch norm without offset, as in the authors' code."""
    loss = _lightly().NTXentLoss(temperature=recipe.temperature, gather_distributed=True)
    norm = nn.BatchNorm1d(recipe.projector[-1])
    norm.bias.requires_grad_(False)
    return TwoViews(projector(features, recipe.projector, norm), loss)


def _vicreg(features: int, recipe: Pretraining, classes: int) -> nn.Module:
    loss = _lightly().VICRegLoss(
        recipe.invariance_weight,
        recipe.variance_weight,
        recipe.covariance_weight,
        gather_distributed=True,
    )
    return TwoViews(projector(features, recipe.projector), loss)


def _lightly() -> Any:  # noqa: ANN401 - a module whose types nobody has written down
    """The losses of lightly.

    With several processes that have equal shares of a batch, gradients averaged over processes are
    those of one process for all three that are used here. Its fourth, that of Barlow Twins,
    normalises the share of each process by itself, which is another loss: hence our own.
    """
    try:
        import lightly.loss
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("lightly"):
            raise
        raise missing_extra("lightly", "ssl", "SimCLR, VICReg and SimSiam") from None
    return lightly.loss


METHODS: Mapping[str, Method] = {
    "barlow_twins": Method("Barlow Twins (Zbontar et al. 2021)", 2, True, _barlow_twins),
    "simclr": Method("SimCLR (Chen et al. 2020)", 2, True, _simclr),
    "vicreg": Method("VICReg (Bardes et al. 2022)", 2, True, _vicreg),
    "simsiam": Method("SimSiam (Chen and He 2021)", 2, True, SimSiam),
    "rotation": Method("rotation prediction (Gidaris et al. 2018)", 1, False, Rotation),
    "supervised": Method("supervised", 1, False, Supervised),
}
