"""A model whose outputs are mapped to the classes of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Relabelled(nn.Module):
    """A classifier that gives logits for the classes of the data: `[B, data classes]`.

    A class with one output has the logit of this output. A class with several outputs has the log
    of the sum of their exponentials, so that its probability is the sum of theirs. Outputs without
    a class are left out: the probabilities are those of the model, given that the image shows one
    of the data's classes.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, outputs]`.
        columns: for each data class, its outputs.

    >>> model = Relabelled(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), [(4,), (0, 7)])
    >>> model(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 2])
    """

    first: torch.Tensor
    members: torch.Tensor

    def __init__(self, model: nn.Module, columns: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model = model
        members: list[int] = []
        groups: list[tuple[int, int, int]] = []
        for place, outputs in enumerate(columns):
            if len(outputs) > 1:
                groups.append((place, len(members), len(members) + len(outputs)))
                members.extend(outputs)
        self.groups = tuple(groups)  # the class, and where its outputs lie among the members
        first = torch.tensor([outputs[0] for outputs in columns])
        # Not of the state: that is the model's own, and checkpoints know nothing of the data.
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("members", torch.tensor(members, dtype=torch.int64), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logits of a batch."""
        logits = self.model(images)
        chosen = logits.index_select(1, self.first)
        for place, start, stop in self.groups:
            chosen[:, place] = logits.index_select(1, self.members[start:stop]).logsumexp(1)
        return chosen
