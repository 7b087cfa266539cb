"""LAME: similar images of a batch get similar probabilities; the network stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fairweather.variants.variant import Adapting, check_choice, check_number

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork

MOST_STEPS = 100
AFFINITIES = ("rbf", "knn", "linear")


@dataclass(frozen=True)
class Lame(Adapting):
    """Probabilities of a batch are smoothed over images with similar features.

    Source: Boudiaf et al. 2022, Parameter-free Online Test-time Adaptation. The defaults are those
    of the official code; the batch size is that of its experiments with a ResNet-50.
    """

    kind: ClassVar[str] = "lame"
    kind_title: ClassVar[str] = "LAME"
    version: ClassVar[int] = 2
    affinity: str = "rbf"
    """How similarity is measured: `rbf`, `knn` or `linear`."""

    neighbours: int = 5
    """Of `knn`: how many are similar. Of `rbf`: the width is the mean distance of the one with this
    number, counting the image itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.kind, "affinity", self.affinity, AFFINITIES)
        check_number(self.kind, "neighbours", self.neighbours, least=1, whole=True)
        self.check_effect("neighbours", self.affinity != "linear", "it goes with rbf and knn")

    @property
    def remembers(self) -> bool:
        return False

    def fewest(self, network: nn.Module) -> int:
        return 2  # alone, an image keeps its probabilities

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        from fairweather.variants.adaptation.networks import find_last_layer

        layer = find_last_layer(network, images, self.kind).layer
        return f"answers, by the {layer.in_features:,} features before the last layer; no weights"

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        from fairweather.variants.adaptation.networks import without_autocast

        with torch.no_grad():
            last = adapted.find_last_layer(images, self.kind)
            with last.watch() as seen:
                logits = adapted.pass_forward(images)
            with without_autocast(logits):
                features = torch.nn.functional.normalize(seen.features.float(), dim=1)
                unary = -(logits.softmax(1) + 1e-10).log()
                return smooth(unary, self.similarity(features)).clamp(min=1e-30).log()

    def similarity(self, features: torch.Tensor) -> torch.Tensor:
        """How similar the images of a batch are, `[B, B]`, from features of length 1."""
        import torch

        if self.affinity == "linear":
            return features @ features.T
        # One image at a time: all differences at once are [B, B, D], 2 GB for 512 images and 2,048
        # features, and products of matrices lose what tells near duplicates apart.
        norm = torch.linalg.vector_norm
        distances = torch.stack([norm(features - image, dim=1) for image in features])
        if self.affinity == "knn":
            count = min(self.neighbours + 1, len(features))
            nearest = distances.topk(count, largest=False).indices[:, 1:]
            return torch.zeros_like(distances).scatter_(1, nearest, 1.0)
        count = min(self.neighbours, len(features))
        width = distances.topk(count, largest=False).values[:, -1].mean().clamp(min=1e-12)
        return (-(distances**2) / (2 * width**2)).exp()


def smooth(unary: torch.Tensor, similarity: torch.Tensor) -> torch.Tensor:
    """Probabilities that are near the network's, and near each other for similar images.

    Args:
        unary: `[B, C]`, minus the logs of the network's probabilities.
        similarity: `[B, B]`.
    """
    shares, before = (-unary).softmax(1), float("inf")
    for step in range(MOST_STEPS):
        pull = similarity @ shares
        shares = (pull - unary).softmax(1)
        energy = (unary * shares - pull * shares + shares * shares.clamp(min=1e-20).log()).sum()
        if step > 1 and abs(energy.item() - before) <= 1e-8 * abs(before):
            break
        before = energy.item()
    return shares
