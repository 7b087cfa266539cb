"""The outputs of a classifier: logits, or probabilities, whose logarithms are logits."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import nn

from fairweather.errors import InputError, unknown_name

# The choices of the option; `auto` finds out.
OUTPUTS = ("auto", "logits", "probabilities")
GIVEN = "given"
# Half-precision probabilities of a thousand classes add up to one no better than this.
TOLERANCE = 0.01
# A probability of zero counts as this, the smallest normal float32 (1.2e-38, logarithm -87.3).
SMALLEST = torch.finfo(torch.float32).tiny


class Outputs(NamedTuple):
    """Whether outputs are treated as logits or as probabilities, and why."""

    kind: Literal["logits", "probabilities"]
    origin: str

    def __str__(self) -> str:
        """One line for people, with what is done about it."""
        taken = ": their logarithm is taken" if self.kind == "probabilities" else ""
        return f"{self.kind} ({self.origin}){taken}"


LOGITS = Outputs("logits", "the network's own")


class LogProbabilities(nn.Module):
    """A classifier whose probabilities are turned into logits; see `logarithms`.

    >>> model = LogProbabilities(nn.Sequential(nn.Flatten(), nn.Softmax(1)))
    >>> model(torch.rand(2, 3, 8, 8)).exp().sum(1).allclose(torch.ones(2))
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the logarithms of the probabilities of a batch."""
        return logarithms(self.model(images))


def logarithms(probabilities: torch.Tensor) -> torch.Tensor:
    """Turn probabilities into logits: float `[B, classes]` to float32 `[B, classes]`.

    The softmax of the logarithms gives the probabilities again; a row that does not sum to one is
    divided by its sum in this way. A probability below the smallest normal float32 is raised to it,
    so that its logarithm is -87.3, and passes no gradient back.

    Raises:
        InputError: a number is negative.

    >>> logarithms(torch.tensor([[0.2, 0.8], [0.0, 1.0]])).softmax(1)
    tensor([[2.0000e-01, 8.0000e-01],
            [1.1755e-38, 1.0000e+00]])
    """
    values = probabilities.float()
    if (values < 0).any():
        raise InputError(
            "outputs that are treated as probabilities must be >= 0, found "
            f"{float(values.min()):.4g}; set outputs (--outputs) to logits"
        )
    return values.clamp_min(SMALLEST).log()


def asked_for(outputs: str) -> Outputs | None:
    """Say what the outputs are if the option says it; None for `auto`.

    Raises `InputError` for another word.

    >>> asked_for("probabilities").kind
    'probabilities'
    """
    if outputs not in OUTPUTS:
        raise unknown_name("outputs", outputs, OUTPUTS)
    if outputs == "auto":
        return None
    return Outputs("probabilities" if outputs == "probabilities" else "logits", GIVEN)


def kind_of(outputs: torch.Tensor) -> Literal["logits", "probabilities", "sigmoids"]:
    """Say what outputs `[B, classes]` look like, for two or more classes.

    `probabilities` are >= 0 and sum to one in every row. `sigmoids` are in [0, 1] and do not sum to
    one: each is a yes or no of its own. Only zeros do not count as these, since a network with a
    new head may give them. Everything else is `logits`, including logarithms of probabilities.

    >>> rows = torch.tensor([[1.0, 3.0, 0.0], [0.5, 0.2, 0.1]])
    >>> kind_of(rows), kind_of(rows.softmax(1)), kind_of(rows.sigmoid())
    ('logits', 'probabilities', 'sigmoids')
    >>> kind_of(rows.log_softmax(1))
    'logits'
    """
    values = outputs.float()
    if not ((values >= 0) & (values <= 1 + TOLERANCE)).all():
        return "logits"
    if ((values.sum(1) - 1).abs() < TOLERANCE).all():
        return "probabilities"
    return "sigmoids" if (values <= 1).all() and values.any() else "logits"


def like_sigmoids(what: str) -> InputError:
    """Build the error for a model whose outputs are each a yes or no, with the ways out."""
    return InputError(
        f"{what}: each output is a yes or no of its own, and a softmax over them would give a "
        "wrong confidence; change the model to give logits, or set outputs (--outputs) to "
        "probabilities, which divides each row by its sum, or to logits, which uses the numbers "
        "as they are"
    )


def single_output(what: str) -> InputError:
    """Build the error for a model that gives one number per image."""
    return InputError(
        f"{what} gives one number for each image, and a classifier must give one for each class: "
        "for two classes return [0, z] for a logit z, or [1 - p, p] for a probability p"
    )
