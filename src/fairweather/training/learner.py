"""The state of supervised training, and how training continues from a stored state."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fairweather.fabric import Fabric
from fairweather.group import ALONE, Group
from fairweather.training.loop_parts import descend, seeded
from fairweather.training.objective import RotationTask
from fairweather.training.optimization import Phase, build_optimizer, phase_of
from fairweather.training.recipe import Recipe

State = dict[str, Any]
Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Make an exponential moving average of a model, its batch-norm statistics included.

    Each `update_parameters(model)` sets average = d * average + (1 - d) * model. Here d is the
    smaller of `decay` and (1 + step) / (10 + step), so that the average soon forgets the random
    initialisation (Tarvainen & Valpola 2017 raise the decay in steps for the same reason).

    >>> model = nn.Linear(1, 1)
    >>> average = average_of(model, 0.9)
    >>> average.update_parameters(model)
    >>> bool(average.module.weight == model.weight)
    True
    """

    @torch.no_grad()
    def move(averages: Tensors, currents: Tensors, steps: Any) -> None:  # noqa: ANN401
        rate = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, rate)
            else:
                average.copy_(current)

    return AveragedModel(model, multi_avg_fn=move, use_buffers=True)


class Learner:
    """A model in training, with its optimiser, its average and its second head, if it has them."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        head: nn.Module | None,
        task: RotationTask | None,
        fabric: Fabric,
    ) -> None:
        self.model, self.recipe, self.head, self.task = model, recipe, head, task
        self.fabric, self.device = fabric, fabric.device
        self.average = average_of(model, recipe.ema_decay) if recipe.ema_decay else None
        self.forward: nn.Module
        self.trainable = [each for each in model.parameters() if each.requires_grad]
        self.probe = False
        self._plain: torch.optim.Optimizer
        self.optimizer: Any = None  # Fabric wraps it in a class without a public name

    @classmethod
    def of(
        cls,
        model: nn.Module,
        recipe: Recipe,
        head: nn.Module | None,
        seed: int,
        device: torch.device,
        precision: str,
        group: Group = ALONE,
    ) -> Learner:
        """Move the model to the device, with a second head if the recipe asks for one."""
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        task = None
        if recipe.rotation_prediction and head is not None:
            with seeded(seed, device):
                task = RotationTask(head).to(device)
        return cls(model, recipe, head, task, group.fabric(device, precision))

    def enter(self, phase: Phase, stored: State | None = None) -> None:
        """Begin or continue a phase: each has its own optimiser and trainable parameters."""
        self.probe = phase.probe
        in_head = {id(each) for each in self.head.parameters()} if self.head is not None else set()
        for each in self.trainable:
            each.requires_grad_(not phase.probe or id(each) in in_head)
        # Again in each phase: only what is trained is shared with other processes.
        self.forward = self.fabric.setup_module(self.model)
        self._plain = build_optimizer(
            self.model,
            self.head,
            self.recipe,
            learning_rate=self.recipe.probe_learning_rate if phase.probe else None,
            beside=self.task,
        )
        if stored is not None:
            self._plain.load_state_dict(stored)
        self.optimizer = self.fabric.setup_optimizers(self._plain)

    def load(self, state: State, epochs: int) -> None:
        """Load the state that was stored after this number of epochs."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.task is not None:
            self.task.load_state_dict(state["task"])
        self.enter(phase_of(self.recipe, epochs - 1), state["optimizer"])

    def state(self) -> State:
        """Everything that the next epoch needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._plain.state_dict(),
            **({"average": self.average.state_dict()} if self.average is not None else {}),
            **({"task": self.task.state_dict()} if self.task is not None else {}),
        }

    def train_mode(self) -> None:
        """Set training mode; if only the head is trained, the backbone stays in evaluation mode."""
        if self.probe and self.head is not None:
            self.model.eval()
            self.head.train()
        else:
            self.model.train()

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy is reported and whose weights are stored."""
        return self.model if self.average is None else self.average.module

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Float32 logits of the evaluated model, computed in the precision of training."""
        with self.fabric.autocast():
            logits: torch.Tensor = self.evaluated(images)
        return logits.float()

    def step(self, loss: torch.Tensor) -> None:
        """Update the weights by one step, and then their average."""
        largest = self.recipe.clip_gradient_norm
        descend(self.fabric, self.forward, self.optimizer, loss, largest)
        if self.average is not None:
            self.average.update_parameters(self.model)
