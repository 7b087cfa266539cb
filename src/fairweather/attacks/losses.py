"""What an attack raises: losses of logits, and their gradients with respect to the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# The least number of classes for which the targeted DLR loss has its four logits.
DLR_CLASSES = 4


class Slope(NamedTuple):
    """A loss at some points: is the model wrong there, bool `[B]`; value `[B]`; gradient."""

    wrong: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Give the cross-entropy of the labels in nats, `[B]`; the targets do not matter."""
    return F.cross_entropy(logits, labels, reduction="none")


def lead(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give the target's logit minus the label's, `[B]`: positive once the label is overtaken."""
    return _at(logits, targets) - _at(logits, labels)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give the targeted difference-of-logits-ratio loss, `[B]`.

    `-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)` with the logits sorted downwards: it does not change
    when all logits are scaled or moved together (Croce and Hein, "Reliable evaluation of
    adversarial robustness", 2020, equation 7). It needs at least 4 classes.

    >>> logits = torch.tensor([[5.0, 3.0, 1.0, 1.0]])
    >>> targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    tensor([-0.5000])
    """
    top = logits.topk(DLR_CLASSES, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return lead(logits, labels, targets) / (spread + 1e-12)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Give the label's logit minus the largest of the others, `[B]`."""
    return _at(logits, labels) - _others(logits, labels).amax(1)


def likely_others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sort the classes but the label, the most likely first: int64 `[B, classes - 1]`.

    >>> likely_others(torch.tensor([[2.0, 9.0, 4.0]]), torch.tensor([1]))
    tensor([[2, 0]])
    """
    return _others(logits, labels).argsort(dim=1, descending=True, stable=True)[:, :-1]


def slope(
    model: nn.Module,
    points: torch.Tensor,
    loss: Loss,
    labels: torch.Tensor,
    targets: torch.Tensor,
) -> Slope:
    """Evaluate a loss and its gradient with respect to the images; parameters get no gradients.

    Raises `InputError` for a model that passes no gradient, or one that is not finite, back.
    """
    leaf = points.detach().requires_grad_()
    with torch.enable_grad():
        try:
            logits = model(leaf).float()
        except RuntimeError as error:
            if "requires grad" in str(error):  # a tensor on its way out of PyTorch
                raise _no_gradient() from error
            raise
        value = loss(logits, labels, targets)
    if not value.requires_grad:
        raise _no_gradient()
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise _no_gradient()
    if not bool(gradient.isfinite().all()):
        raise InputError("the model's gradient with respect to its images is not finite")
    return Slope(logits.detach().argmax(1) != labels, value.detach(), gradient)


@torch.no_grad()
def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Give the model's float32 logits `[B, classes]`, without building gradients."""
    logits = model(images)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"an attack needs a model that returns a tensor, found {type(logits)}")
    return logits.float()


def predicted(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Give the model's classes, int64 `[B]`, without building gradients."""
    return logits_of(model, images).argmax(1)


def _no_gradient() -> InputError:
    return InputError(
        "this attack needs gradients, which the model does not pass back to its images; "
        "the attack square needs none"
    )


def _at(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, labels[:, None], float("-inf"))
