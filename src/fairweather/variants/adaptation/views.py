"""Test-time augmentation: the mean of the probabilities of several views of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from fairweather.types.kinds import CLASSES, TaskKind
from fairweather.variants.variant import Adapting, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairweather.variants.adaptation.networks import AdaptedNetwork

CROPPED = 7 / 8  # the side of a crop, as 224 of 256 pixels
TITLES = {"flip": "flips", "five_crop": "five crops", "ten_crop": "five crops and flips"}


@dataclass(frozen=True)
class AveragedViews(Adapting):
    """The network predicts several views of each image, and their probabilities are averaged.

    An image is predicted by itself, so that batches and their order have no effect. A crop has 7/8
    of the image's sides, and is resized to its size.

    Source: Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural Networks,
    section 4.1: five crops and their flips.
    """

    kind: ClassVar[str] = "views"
    kind_title: ClassVar[str] = "test-time augmentation"
    passes: ClassVar[float] = 2
    alone: ClassVar[bool] = True
    batch_size: int | None = field(default=None, kw_only=True)
    orders: int = field(default=1, kw_only=True)
    views: str = "flip"
    """`flip`, the image and its mirror image; `five_crop`; or `ten_crop`, with mirror images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.kind, "views", self.views, TITLES)

    @property
    def own_title(self) -> str:
        return f"{self.kind_title} ({TITLES[self.views]})"

    @property
    def untitled(self) -> Collection[str]:
        return ("batch_size", "views")

    def phrase(self, images: int, batch_size: int, kind: TaskKind = CLASSES) -> str:
        return self.title

    @property
    def remembers(self) -> bool:
        return False

    def fewest(self, network: nn.Module) -> int:
        return 1

    def describe_adapted(self, network: nn.Module, images: torch.Tensor) -> str:
        return "nothing"

    def predict(self, adapted: AdaptedNetwork, images: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            logs = [
                adapted.pass_forward(view).log_softmax(1) for view in MAKERS[self.views](images)
            ]
            return torch.stack(logs).logsumexp(0) - math.log(len(logs))


def flip(images: torch.Tensor) -> list[torch.Tensor]:
    """The images and their mirror images."""
    return [images, images.flip(3)]


def crop(images: torch.Tensor) -> list[torch.Tensor]:
    """The four corners and the centre, each resized to the size of the images."""
    import torch

    size = images.shape[2:]
    height, width = (max(1, round(side * CROPPED)) for side in size)
    down, across = size[0] - height, size[1] - width
    corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    return [
        torch.nn.functional.interpolate(
            images[:, :, top : top + height, left : left + width],
            size=tuple(size),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        for top, left in corners
    ]


def crop_and_flip(images: torch.Tensor) -> list[torch.Tensor]:
    """The five crops and their mirror images."""
    return [*crop(images), *(view.flip(3) for view in crop(images))]


MAKERS: Mapping[str, Callable[[torch.Tensor], list[torch.Tensor]]] = {
    "flip": flip,
    "five_crop": crop,
    "ten_crop": crop_and_flip,
}
