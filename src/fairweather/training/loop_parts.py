"""Shared parts of the training loops: random state, input, steps, and the check of the losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fairweather.devices import repeatable_kernels, seeded_device
from fairweather.errors import NotFiniteError, TrainingDivergedError
from fairweather.fabric import Fabric

# Reading a loss waits for the device, so it is not done after every step.
STEPS_BETWEEN_LOOKS = 50


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


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Turn a batch of 8-bit images into a float tensor in [0, 1], channels last in memory."""
    return images.to(memory_format=torch.channels_last).float().div_(255)


def descend(
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
        # A norm that is not finite comes with a loss that is not finite, which is reported.
        fabric.clip_gradients(module, optimizer, max_norm=largest_norm, error_if_nonfinite=False)
    optimizer.step()


def is_time_to_look(step: int, steps: int, device: torch.device) -> bool:
    """Say whether to check the losses now: always on a CPU, else every 50 steps and at the end.

    >>> [is_time_to_look(step, 60, torch.device("cuda")) for step in (0, 49, 59)]
    [False, True, True]
    """
    due = step % STEPS_BETWEEN_LOOKS == STEPS_BETWEEN_LOOKS - 1
    return device.type == "cpu" or due or step == steps - 1


def stop_unless_finite(losses: Sequence[torch.Tensor], epoch: int, rate: float) -> None:
    """Raise `TrainingDivergedError` if one of the latest losses is not finite.

    Args:
        losses: one scalar per step of this epoch; the latest 50 are checked.
        epoch: counted from 0; the message counts from 1.
        rate: the current learning rate, for the message.

    >>> stop_unless_finite([torch.tensor(0.5)], 0, 0.1)
    """
    finite = torch.stack(list(losses[-STEPS_BETWEEN_LOOKS:])).isfinite()
    if not finite.all():
        first = len(losses) - len(finite) + int(finite.int().argmin()) + 1
        raise TrainingDivergedError(
            f"the loss is {float(losses[first - 1])} in epoch {epoch + 1}, step {first}, at "
            f"learning rate {rate:g}; try a smaller learning_rate or a clip_gradient_norm"
        )


@contextmanager
def stop_where_outputs_are_not_finite(epoch: int, step: int, rate: float) -> Iterator[None]:
    """Turn `NotFiniteError` into `TrainingDivergedError`.

    An attack needs finite logits, so in adversarial training it raises the first error.

    >>> with stop_where_outputs_are_not_finite(0, 0, 0.1):
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
