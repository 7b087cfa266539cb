"""The plan of an attack: runs in order, each on the images that are still right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
from torch import nn

from fairweather.attacks import draws
from fairweather.attacks.losses import likely_others
from fairweather.attacks.norms import NORMS, Norm
from fairweather.ranges import Range, at_most
from fairweather.types import LARGEST_SIDE, is_finite

# What is larger was not meant: no two images are further apart, and no attack ends.
MOST_EPSILON, MOST_STEPS = 3 * LARGEST_SIDE, 1_000_000
_WHOLE = Range(
    "a whole number >= 1",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 1,
)
Budget = Annotated[
    float,
    Range("a finite number >= 0", lambda value: is_finite(value) and float(value) >= 0),
    at_most(MOST_EPSILON),
]
StepSize = Annotated[
    float,
    Range("a finite number > 0", lambda value: is_finite(value) and float(value) > 0),
    at_most(MOST_EPSILON),
]
Count = Annotated[int, _WHOLE, at_most(MOST_STEPS)]


@dataclass(frozen=True)
class Problem:
    """Images that a model gets right, and the budget of an attack on them.

    Attributes:
        model: in evaluation mode.
        images: float32 `[B, 3, H, W]` in [0, 1].
        labels, keys: int64 `[B]`.
        logits: float32 `[B, classes]` on the unchanged images.
        epsilon: the largest length of a perturbation, in units of [0, 1] pixels.
        norm: the norm that measures length.
        stream: the name of this run's random sequences.
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
        """Return the problem with separate random sequences for the run with this purpose."""
        return replace(self, stream=f"{self.stream}/{purpose}")

    def sequences(self) -> torch.Tensor:
        """Return the state of each image's random sequence, int64 `[B]`."""
        return draws.streams(self.keys, self.stream)

    def targets(self, rank: int) -> torch.Tensor:
        """Return the `rank`-th most likely class other than the label, from 0: int64 `[B]`."""
        return likely_others(self.logits, self.labels)[:, rank]


class Run(NamedTuple):
    """One pass of one attack.

    Attributes:
        name: the attack that is reported for the images that this run breaks.
        purpose: the name of this run's random sequences; no other run has the same.
        attack: returns a point within the budget for each image, `[B, 3, H, W]`: one that the model
            gets wrong, if it found one.
    """

    name: str
    purpose: str
    attack: Callable[[Problem], torch.Tensor]


class Plan(NamedTuple):
    """Runs in order; each attacks only the images that no earlier one has broken.

    Attributes:
        epsilon, norm: the budget; `norm` is a name in NORMS.
        runs: returns the runs for a number of classes.
        least_classes: models with fewer classes are refused.
        instead: the attack that the error message then recommends.
    """

    epsilon: float
    norm: str
    runs: Callable[[int], Sequence[Run]]
    least_classes: int = 2
    instead: str = ""

    @property
    def ball(self) -> Norm:
        """The norm that measures length."""
        return NORMS[self.norm]
