"""The loss of a supervised step: cross-entropy, and the terms that some recipes add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError
from fairweather.training.augmix import jensen_shannon
from fairweather.training.batching import Batch
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.methods import rotate_quarter
from fairweather.types import Attack, Images

Forward = Callable[[torch.Tensor], torch.Tensor]


def supervised_loss(forward: Forward, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Cross-entropy of the first view, plus the consistency loss of AugMix's other views.

    All views go through the network in one forward pass, so that batch norm sees them together, as
    in the published code (Hendrycks et al. 2020).

    >>> batch = Batch((torch.zeros(2, 3, 8, 8),), torch.tensor([0, 1]))
    >>> supervised_loss(lambda images: torch.zeros(len(images), 2), batch, Recipe())
    tensor(0.6931)
    """
    logits = forward(torch.cat(batch.views)) if len(batch.views) > 1 else forward(batch.views[0])
    clean, *others = logits.split(len(batch.targets))
    loss = F.cross_entropy(clean, batch.targets, label_smoothing=recipe.label_smoothing)
    if others and recipe.augmix:
        loss = loss + recipe.augmix.consistency * jensen_shannon(clean, *others)
    return loss


def attacked(
    batch: Batch,
    keys: torch.Tensor,
    model: nn.Module,
    attack: Attack,
    rng: np.random.Generator,
) -> Batch:
    """Replace the images of a batch by attacked ones (Madry et al. 2018).

    The attack uses the model in evaluation mode, so that it changes no statistics of batch norm. It
    starts from other random points in every batch.
    """
    (images,) = batch.views
    seed = int(rng.integers(2**31))
    return Batch((attack(model, images, batch.targets, keys, seed),), batch.targets)


class RotationTask(nn.Module):
    """A second head that predicts by how many quarter turns an image was rotated.

    It reads the same features as the head of the classifier. Each image of a batch is used once
    more, rotated by 0 to 3 quarter turns; the paper uses all four turns, at twice the cost.

    Source: Hendrycks et al. 2019, Using Self-Supervised Learning Can Improve Model Robustness and
    Uncertainty, section 3.

    Args:
        head: the classifier's head, a layer with `in_features` that takes float `[B, features]`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        features = getattr(head, "in_features", None)
        if features is None:
            raise InputError(
                "recipe: rotation_prediction needs a classifier whose head is a linear layer, "
                f"found {type(head).__name__}"
            )
        self.linear = nn.Linear(features, 4)
        self._seen: list[torch.Tensor] = []
        self._head = [head]  # in a list: the head is the classifier's, not a part of this module

    def loss(
        self, forward: Forward, images: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Cross-entropy of the predicted turns of float images `[B, 3, S, S]`."""
        turns = torch.from_numpy(rng.integers(4, size=len(images))).to(images.device)
        with self._watching():
            forward(rotate_quarter(images, turns))
        return F.cross_entropy(self.linear(self._seen.pop().float()), turns)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._seen.append(inputs[0])

        handle = self._head[0].register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()


def check_square(images: Images, recipe: Recipe) -> None:
    """Raise `InputError` if a recipe rotates by quarter turns and the images are not square."""
    height, width = images.images.shape[2:]
    if recipe.rotation_prediction and height != width:
        raise InputError(
            f"recipe: rotation_prediction rotates images by 90 degrees and needs square images, "
            f"found {height}x{width}"
        )
