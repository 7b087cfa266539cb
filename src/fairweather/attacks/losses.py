"""The losses that attacks maximise, and their gradients with respect to the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

# The targeted DLR loss uses four logits, so it needs this many classes.
DLR_CLASSES = 4


class Slope(NamedTuple):
    """A loss at some points: whether the model is wrong, bool `[B]`; value `[B]`; gradient."""

    wrong: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy of the labels in nats, `[B]`; the targets are not used."""
    return F.cross_entropy(logits, labels, reduction="none")


def lead(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the target's logit minus the label's, `[B]`."""
    return _at(logits, targets) - _at(logits, labels)


def targeted_dlr(logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the targeted difference-of-logits-ratio loss, `[B]`.

    `-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)`, with the logits sorted in descending order. It does
    not change if all logits are multiplied by a number or if a number is added to all (Croce and
    Hein, "Reliable evaluation of adversarial robustness", 2020, equation 7). It needs at least 4
    classes.

    >>> logits = torch.tensor([[5.0, 3.0, 1.0, 1.0]])
    >>> targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    tensor([-0.5000])
    """
    top = logits.topk(DLR_CLASSES, dim=1).values
    spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return lead(logits, labels, targets) / (spread + 1e-12)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the label's logit minus the largest of the others, `[B]`."""
    return _at(logits, labels) - _others(logits, labels).amax(1)


def likely_others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sort the classes other than the label, the most likely first: int64 `[B, classes - 1]`.

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
    """Compute a loss and its gradient with respect to the images; parameters get no gradients.

    Raises `InputError` if the model has no gradient with respect to its images, or a gradient that
    is not finite.
    """
    leaf = points.detach().requires_grad_()
    with torch.enable_grad():
        try:
            logits = model(leaf.clone()).float()  # it may change its input
        except RuntimeError as error:
            if "requires grad" in str(error):  # the model converts a tensor, to numpy for example
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
    """Return the model's float32 logits `[B, classes]`, without gradients.

    The model gets a copy of the images, and its logits are copied: it may reuse either's memory.
    """
    logits = model(images.clone())
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"an attack needs a model that returns a tensor, found {type(logits)}")
    return logits.to(torch.float32, copy=True)


def predicted(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the predicted classes, int64 `[B]`, without gradients."""
    return logits_of(model, images).argmax(1)


def _no_gradient() -> InputError:
    return InputError(
        "this attack needs gradients with respect to the images, but the model does not give any; "
        "the attack square needs no gradients"
    )


def _at(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, labels[:, None], float("-inf"))
