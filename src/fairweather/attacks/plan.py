"""What an attack is to the harness: a plan of runs, each on the images that are still right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from fairweather.attacks import draws
from fairweather.attacks.losses import likely_others
from fairweather.attacks.norms import NORMS, Norm


@dataclass(frozen=True)
class Problem:
    """Images that a model gets right, and what an attack may do to them.

    Attributes:
        model: in evaluation mode.
        images: float32 `[B, 3, H, W]` in [0, 1].
        labels, keys: int64 `[B]`.
        logits: float32 `[B, classes]` of the images as they are.
        epsilon: the longest perturbation, in units of [0, 1] pixels.
        norm: what length means.
        stream: names the random sequences of this run.
    """

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    keys: torch.Tensor
    logits: torch.Tensor
    epsilon: float
    norm: Norm
    stream: str

    def take(self, index: torch.Tensor) -> Problem:
        """Keep some of the images."""
        columns = ("images", "labels", "keys", "logits")
        return replace(self, **{name: getattr(self, name)[index] for name in columns})

    def named(self, purpose: str) -> Problem:
        """Give the run with this purpose random sequences of its own."""
        return replace(self, stream=f"{self.stream}/{purpose}")

    def sequences(self) -> torch.Tensor:
        """Give the state of each image's random sequence, int64 `[B]`."""
        return draws.streams(self.keys, self.stream)

    def targets(self, rank: int) -> torch.Tensor:
        """Give the class but the label that is the `rank`-th most likely, from 0: int64 `[B]`."""
        return likely_others(self.logits, self.labels)[:, rank]


class Run(NamedTuple):
    """One pass of one attack.

    Attributes:
        name: the attack that a broken image is put down to.
        purpose: tells the random sequences of this run from those of every other.
        attack: gives a point within the budget for each image, `[B, 3, H, W]`: one that the model
            gets wrong where it found one.
    """

    name: str
    purpose: str
    attack: Callable[[Problem], torch.Tensor]


class Plan(NamedTuple):
    """Runs in order; each meets only the images that all earlier ones left right.

    Attributes:
        epsilon, norm: the budget, `norm` a name in NORMS.
        runs: for so many classes.
        least_classes: fewer are refused.
        instead: the attack to name in that refusal.
    """

    epsilon: float
    norm: str
    runs: Callable[[int], Sequence[Run]]
    least_classes: int = 2
    instead: str = ""

    @property
    def ball(self) -> Norm:
        """What length means."""
        return NORMS[self.norm]
