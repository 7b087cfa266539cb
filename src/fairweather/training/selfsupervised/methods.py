"""The methods of pre-training: the module after the encoder, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError, missing_extra
from fairweather.training.losses import ONE_CLASS
from fairweather.training.selfsupervised.pretraining_recipe import Pretraining

EPSILON = 1e-5  # that of batch norm, with which the published code normalises
TURNS = 4  # rotations by 0, 90, 180 and 270 degrees
Predictor = Callable[[torch.Tensor], torch.Tensor]


def barlow_twins_loss(
    first: torch.Tensor, second: torch.Tensor, redundancy_weight: float
) -> torch.Tensor:
    """Measure how far the cross-correlation of two embeddings is from the identity matrix.

    The sum of (1 - C_ii)^2 over the diagonal, plus `redundancy_weight` times the sum of C_ij^2 off
    it (Zbontar et al. 2021, equation 1). With `torch.distributed`, C is that of the global batch,
    however it is divided among processes. Every process gets the same loss. Gradients averaged over
    processes, as `DistributedDataParallel` does, equal those of one process.

    Args:
        first, second: float `[B, d]`, the embeddings of two views of the same images; at least two
            images in all.
        redundancy_weight: lambda, 0.0051 in the paper.

    Returns a scalar, in float32 or in the embeddings' own type if that is wider.

    >>> embedding = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(float(barlow_twins_loss(embedding, embedding, 0.0051)), 6)
    0.0
    """
    correlation = cross_correlation(first, second)
    on = correlation.diagonal()
    off = correlation - torch.diag(on)
    return (on - 1).square().sum() + redundancy_weight * off.square().sum()


def cross_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Correlate every dimension of one embedding with every one of another, over all processes.

    Each dimension is normalised by its mean and population variance. As in batch norm, 1e-5 is
    added to the variance, so that a constant dimension has correlation 0 with all.

    Args:
        first, second: float `[B, d]`.

    Returns `[d, d]` in [-1, 1], in float32 or in the embeddings' own type if that is wider.

    >>> cross_correlation(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-3.0], [3.0]])).round()
    tensor([[-1.]])
    """
    wide = torch.promote_types(first.dtype, torch.float32)
    # The 8 bits of a bfloat16's fraction are too few for a mean over thousands of images.
    with torch.autocast(first.device.type, enabled=False):
        count = _sum_over_processes(first.new_full((), len(first), dtype=wide))
        standard = [_standardise(embedding.to(wide), count) for embedding in (first, second)]
        return _sum_over_processes(standard[0].T @ standard[1]) / count


def _standardise(embedding: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    centred = embedding - _sum_over_processes(embedding.sum(0)) / count
    variance = _sum_over_processes(centred.square().sum(0)) / count
    return centred / (variance + EPSILON).sqrt()


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Add the values up."""
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch's own
        """Sum the gradients too: every process's loss depends on the values of all processes."""
        return _SumOverProcesses.forward(ctx, gradients[0])


def _sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_world_size() == 1:
        return values
    total: torch.Tensor = _SumOverProcesses.apply(values)
    return total


def rotate_quarter(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate each image counter-clockwise by 90 degrees times its own number of turns.

    Args:
        images: `[B, C, H, H]` of any type; `InputError` unless they are square.
        turns: int64 `[B]`, from 0 to 3, on the images' device.

    >>> image = torch.tensor([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    >>> rotate_quarter(image, torch.tensor([1])).flatten().tolist()
    [2, 4, 1, 3]
    """
    height, width = images.shape[2:]
    if height != width:
        raise InputError(f"rotation by right angles needs square images, found {height}x{width}")
    turned = images
    for turn in range(1, TURNS):
        chosen = (turns == turn).reshape(-1, 1, 1, 1)
        turned = torch.where(chosen, images.rot90(turn, (2, 3)), turned)
    return turned


def label_loss(
    encoder: Predictor,
    head: Predictor,
    images: torch.Tensor,
    labels: torch.Tensor,
    entropy: Callable[..., torch.Tensor] = F.cross_entropy,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure how well labels are predicted; like `rotation_loss`, for unrotated images."""
    features = encoder(images)
    return entropy(head(features), labels), features


def rotation_loss(
    encoder: Predictor, head: Predictor, images: torch.Tensor, turns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate images and measure how well the angles are predicted: mean cross-entropy in nats.

    (Gidaris et al. use all four rotations of each image in one step.)

    Args:
        encoder: float `[B, 3, H, H]` to features `[B, f]`.
        head: features to four logits.
        images: float `[B, 3, H, H]`.
        turns: int64 `[B]`, the number of right angles that each image is rotated by, from 0 to 3.

    Returns the loss, a scalar, and the features of the rotated images.

    >>> images, turns = torch.rand(8, 3, 8, 8), torch.arange(8) % 4
    >>> loss, _ = rotation_loss(lambda x: x.flatten(1), lambda x: x[:, :4] * 0, images, turns)
    >>> round(float(loss.exp()), 4)
    4.0
    """
    return label_loss(encoder, head, rotate_quarter(images, turns), turns)


class BatchLoss(NamedTuple):
    """The loss of a batch, a scalar, and the embedding `[B, d]` of its first view."""

    loss: torch.Tensor
    embedding: torch.Tensor


class Method(NamedTuple):
    """A way to train an encoder."""

    title: str
    """Its name for people, with its paper."""

    views: int
    """Number of views: 2, or 1, which is then of the second kind."""

    may_collapse: bool
    """Whether training must check that not all images have the same embedding."""

    build: Callable[..., nn.Module]
    """`(features, recipe, classes, loss)`, with the loss of the labels, to the module `(encoder,
    views, targets) -> BatchLoss`."""

    targets: Callable[[torch.Tensor], torch.Tensor] = lambda labels: labels
    """From the labels of a batch to what its images are to predict; two views need none."""

    learns_labels: bool = False
    """Whether it learns labels; the others see none."""


def _cycle_turns(labels: torch.Tensor) -> torch.Tensor:
    """Each number of right angles equally often; the order of a batch is random."""
    return torch.arange(len(labels)) % TURNS


def build_projector(
    features: int, widths: Sequence[int], last: nn.Module | None = None
) -> nn.Sequential:
    """Build linear layers without bias, with batch norm and ReLU between them.

    Args:
        features: width of the input.
        widths: widths of the layers, in order; the last is that of the embedding.
        last: module after the last layer, if any.

    >>> [type(layer).__name__ for layer in build_projector(512, (8, 8))]
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
        self, encoder: nn.Module, views: Sequence[torch.Tensor], targets: torch.Tensor
    ) -> BatchLoss:
        """Embed both views and compare them; there are no targets."""
        first, second = (self.project(encoder(view)) for view in views)
        return BatchLoss(self.loss(first, second), first)


class SimSiam(nn.Module):
    """Each view predicts the embedding of the other, and no gradient flows through the latter."""

    def __init__(self, features: int, recipe: Pretraining, *_: object) -> None:
        super().__init__()
        width = recipe.projector[-1]
        norm = nn.BatchNorm1d(width, affine=False)
        self.project = build_projector(features, recipe.projector, norm)
        self.predict = nn.Sequential(
            build_projector(width, (recipe.predictor_width,)),
            nn.BatchNorm1d(recipe.predictor_width),
            nn.ReLU(inplace=True),
            nn.Linear(recipe.predictor_width, width),
        )
        self.loss = _import_lightly().NegativeCosineSimilarity()

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], targets: torch.Tensor
    ) -> BatchLoss:
        """Chen and He 2021, algorithm 1; there are no targets."""
        first, second = (self.project(encoder(view)) for view in views)
        forth = self.loss(self.predict(first), second.detach())
        back = self.loss(self.predict(second), first.detach())
        return BatchLoss((forth + back) / 2, first)


class LayerPrediction(nn.Module):
    """One linear layer predicts the targets: labels, or numbers of right angles."""

    def __init__(
        self, features: int, outputs: int, loss: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        super().__init__()
        self.head, self.loss = nn.Linear(features, outputs), loss

    def forward(
        self, encoder: nn.Module, views: Sequence[torch.Tensor], targets: torch.Tensor
    ) -> BatchLoss:
        """Mean cross-entropy in nats of the targets."""
        return BatchLoss(*self.loss(encoder, self.head, views[0], targets))


def _barlow_twins(features: int, recipe: Pretraining, *_: object) -> nn.Module:
    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return barlow_twins_loss(first, second, recipe.redundancy_weight)

    return TwoViews(build_projector(features, recipe.projector), loss)


def _simclr(features: int, recipe: Pretraining, *_: object) -> nn.Module:
    """As in the authors' code, the embedding has a batch norm without offset."""
    loss = _import_lightly().NTXentLoss(temperature=recipe.temperature, gather_distributed=True)
    norm = nn.BatchNorm1d(recipe.projector[-1])
    norm.bias.requires_grad_(False)
    return TwoViews(build_projector(features, recipe.projector, norm), loss)


def _vicreg(features: int, recipe: Pretraining, *_: object) -> nn.Module:
    loss = _import_lightly().VICRegLoss(
        recipe.invariance_weight,
        recipe.variance_weight,
        recipe.covariance_weight,
        gather_distributed=True,
    )
    return TwoViews(build_projector(features, recipe.projector), loss)


def _import_lightly() -> Any:  # noqa: ANN401 - a module without type annotations
    """The losses of lightly.

    If processes have equal shares of a batch, gradients averaged over processes equal those of one
    process, for the three losses used here. lightly's loss of Barlow Twins is not used, because it
    normalises each process's share separately.
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
    "rotation": Method(
        "rotation prediction (Gidaris et al. 2018)",
        1,
        False,
        lambda features, *_: LayerPrediction(features, TURNS, rotation_loss),
        _cycle_turns,
    ),
    "supervised": Method(
        "supervised",
        1,
        False,
        lambda features, _, classes, loss=ONE_CLASS: LayerPrediction(
            features, classes, partial(label_loss, entropy=loss.entropy)
        ),
        learns_labels=True,
    ),
}
