"""Shared by the training loops: random state, optimisers, learning rates, steps, and checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fairweather.devices import repeatable_kernels, seeded_device
from fairweather.errors import NotFiniteError, TrainingDivergedError
from fairweather.small_maps import multiply_small_maps
from fairweather.training.recipe import Recipe

if TYPE_CHECKING:
    from fairweather.training.fabric import Fabric

# Reading a loss waits for the device, so it is not done after every step.
STEPS_BETWEEN_CHECKS = 50


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the CPU and the device that trains, and restore both random states afterwards.

    Kernels are repeatable; a GPU may round the factors of convolutions.

    >>> before = torch.random.get_rng_state()
    >>> with seeded(0, torch.device("cpu")):
    ...     first = torch.rand(1)
    >>> bool((torch.random.get_rng_state() == before).all())
    True
    """
    with seeded_device(seed, device), repeatable_kernels(tf32=True):
        yield


@contextmanager
def training(seed: int, device: torch.device) -> Iterator[None]:
    """As `seeded`; on a CPU, with faster convolutions of small maps.

    >>> with training(0, torch.device("cpu")):
    ...     nn.Conv2d(1, 2, 3, padding=1)(torch.zeros(1, 1, 1, 1)).shape
    torch.Size([1, 2, 1, 1])
    """
    with seeded(seed, device), multiply_small_maps(device):
        yield


def take_step(
    fabric: Fabric,
    module: nn.Module,
    optimizer: Any,  # noqa: ANN401 - Fabric wraps the optimiser in a class without a public name
    loss: torch.Tensor,
    largest_norm: float | None,
) -> None:
    """Take a step of the optimiser along the gradient of a loss, perhaps of limited norm."""
    optimizer.zero_grad()
    fabric.backward(loss)
    if largest_norm is not None:
        # If the norm is not finite, neither is the loss, which is reported.
        fabric.clip_gradients(module, optimizer, max_norm=largest_norm, error_if_nonfinite=False)
    optimizer.step()


def is_check_due(step: int, steps: int, device: torch.device) -> bool:
    """Say whether to check the losses now: always on a CPU, else every 50 steps and at the end.

    >>> [is_check_due(step, 60, torch.device("cuda")) for step in (0, 49, 59)]
    [False, True, True]
    """
    due = step % STEPS_BETWEEN_CHECKS == STEPS_BETWEEN_CHECKS - 1
    return device.type == "cpu" or due or step == steps - 1


def stop_unless_finite(losses: Sequence[torch.Tensor], epoch: int, rate: float) -> None:
    """Raise `TrainingDivergedError` if one of the latest losses is not finite.

    Args:
        losses: one scalar per step of this epoch; the latest 50 are checked.
        epoch: counted from 0; the message counts from 1.
        rate: the current learning rate, for the message.

    >>> stop_unless_finite([torch.tensor(0.5)], 0, 0.1)
    """
    finite = torch.stack(list(losses[-STEPS_BETWEEN_CHECKS:])).isfinite()
    if not finite.all():
        first = len(losses) - len(finite) + int(finite.int().argmin()) + 1
        raise TrainingDivergedError(
            f"the loss is {float(losses[first - 1])} in epoch {epoch + 1}, step {first}, at "
            f"learning rate {rate:g}; try a smaller learning_rate or a clip_gradient_norm"
        )


@contextmanager
def report_divergence(epoch: int, step: int, rate: float) -> Iterator[None]:
    """Turn `NotFiniteError` into `TrainingDivergedError`.

    An attack needs finite logits, so in adversarial training it raises the first error.

    >>> with report_divergence(0, 0, 0.1):
    ...     pass
    """
    try:
        yield
    except NotFiniteError:
        raise TrainingDivergedError(
            f"the logits are not finite in epoch {epoch + 1}, step {step + 1}, at learning rate "
            f"{rate:g}; try a smaller learning_rate or a clip_gradient_norm"
        ) from None


def mean_loss(losses: Sequence[torch.Tensor], sizes: Sequence[int]) -> float:
    """Average the losses of an epoch's batches over its images.

    >>> mean_loss([torch.tensor(1.0), torch.tensor(4.0)], [2, 1])
    2.0
    """
    weights = torch.tensor(sizes, dtype=torch.float64)
    return float((torch.stack(list(losses)).cpu().double() * weights).sum() / weights.sum())


# --- Optimisers and learning rates


class Phase(NamedTuple):
    """Consecutive epochs with one optimiser and one schedule of the learning rate."""

    start: int
    """Its first epoch, counted from 0."""

    epochs: int
    """Number of its epochs."""

    probe: bool
    """Whether only the head is trained."""


def find_phase(recipe: Recipe, epoch: float) -> Phase:
    """Return the phase that an epoch belongs to.

    >>> find_phase(Recipe(epochs=10, probe_epochs=4), 3), find_phase(Recipe(epochs=10), 3).probe
    (Phase(start=0, epochs=4, probe=True), False)
    """
    if epoch < recipe.probe_epochs or recipe.probe_epochs == recipe.epochs:
        return Phase(0, recipe.probe_epochs, True)
    return Phase(recipe.probe_epochs, recipe.epochs - recipe.probe_epochs, False)


def parameter_groups(
    model: nn.Module,
    head: nn.Module | None,
    recipe: Recipe,
    learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into backbone and head, with and without weight decay.

    Each group has `params`, `weight_decay`, its full learning rate `base_lr`, and `part`, which is
    `head` or `backbone` (without a head, everything is `head`). Empty groups are left out. The
    head's full learning rate is that of the recipe unless another is given.
    """
    rate = learning_rate or recipe.learning_rate
    in_head = {id(p) for p in (head if head is not None else model).parameters()}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            part = "head" if id(parameter) in in_head else "backbone"
            decayed = recipe.decay_norms_and_biases or parameter.ndim > 1
            groups.setdefault((part, decayed), []).append(parameter)
    scale = {"head": 1.0, "backbone": recipe.backbone_learning_rate_scale}
    decay = {True: recipe.weight_decay, False: 0.0}
    return [
        parameter_group(part, parameters, rate * scale[part], decay[decayed])
        for (part, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def parameter_group(
    part: str, parameters: list[nn.Parameter], rate: float, decay: float
) -> dict[str, Any]:
    """Make a group for an optimiser of torch; the schedule scales `base_lr`."""
    return {
        "params": parameters,
        "weight_decay": decay,
        "lr": rate,
        "base_lr": rate,
        "part": part,
    }


def build_optimizer(
    model: nn.Module,
    head: nn.Module | None,
    recipe: Recipe,
    *,
    learning_rate: float | None = None,
    beside: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe, in PyTorch's fused implementation.

    Args:
        model: the model whose trainable parameters are optimised.
        head: the head of the model.
        recipe: the recipe of the model.
        learning_rate: learning rate of the head; None means the recipe's.
        beside: another module that is trained like the head, such as a second head.
    """
    groups = parameter_groups(model, head, recipe, learning_rate)
    if beside is not None:
        groups += parameter_groups(beside, None, recipe, learning_rate)
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def learning_rate_scale(recipe: Recipe, epoch: float) -> float:
    """Give the factor on the learning rate after `epoch` epochs, which may be a fraction.

    >>> recipe = Recipe(epochs=11, schedule="cosine", warmup_epochs=1)
    >>> [round(learning_rate_scale(recipe, epoch), 3) for epoch in (0, 0.5, 1, 6, 11)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    phase = find_phase(recipe, epoch)
    warmup = 0.0 if phase.probe else recipe.warmup_epochs
    epoch = epoch - phase.start
    if epoch < warmup:
        return epoch / warmup
    after = epoch - warmup
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * after / (phase.epochs - warmup)))
    if recipe.schedule == "exponential":
        return recipe.schedule_gamma**after
    if recipe.schedule == "step":
        return recipe.schedule_gamma ** (math.floor(after) // recipe.schedule_step)
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's learning rate to its full rate times `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scale


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Give the current learning rate of each part that is trained."""
    return {group["part"]: group["lr"] for group in optimizer.param_groups}


def cut_batches(order: torch.Tensor, batch_size: int) -> Iterator[torch.Tensor]:
    """Cut an order of images into nearly equal batches.

    No image is dropped. No batch has a single image, since batch norm cannot train on one. Where
    one would be left over, there is one batch less, and a batch may have three images.

    >>> [len(batch) for batch in cut_batches(torch.arange(129), 128)]
    [65, 64]
    """
    fewest = math.ceil(len(order) / batch_size)
    yield from order.tensor_split(max(1, min(fewest, len(order) // 2)))
