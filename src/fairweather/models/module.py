"""A module of the user's own as a classifier: with the preprocessing given, in its own numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from fairweather.models.building import given_statistics
from fairweather.models.classifier import Classifier
from fairweather.models.gray import NOTE, GrayInput, takes_gray
from fairweather.models.normalisation import check_not_normalised_twice, held_normalisation
from fairweather.models.opened import Opened
from fairweather.models.outputs import LogProbabilities, asked_for
from fairweather.models.preprocessing import UNKNOWN, Statistics
from fairweather.models.weights import state_digest
from fairweather.types import Preparation

NOTHING = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NONE = "no normalisation: the model gets images in [0, 1]"


class OwnNumbers(nn.Module):
    """A network whose parameters are not float32: its images get their type, its outputs float32.

    >>> OwnNumbers(nn.Linear(2, 3).bfloat16(), torch.bfloat16)(torch.ones(1, 2)).dtype
    torch.float32
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the outputs of a batch."""
        outputs = self.network(images.to(self.dtype))
        return outputs.float() if isinstance(outputs, torch.Tensor) else outputs


def open_module(
    module: nn.Module,
    name: str,
    *,
    source: str,
    what: str,
    code: str,
    side: int | None = None,
    classes: tuple[str, ...] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    outputs: str = "auto",
) -> Opened:
    """Open a module from images in [0, 1] to logits or probabilities.

    Args:
        module: it is brought to the CPU and into evaluation mode.
        name, source, classes: as in `Opened`.
        what: what messages call it.
        code: what the digest is of besides the tensors.
        side: of the images that it gets, if that is known.
        mean, std, input_size, outputs: as in `open_model`.

    Raises:
        InputError: a mean and std are given to a module that normalises its images itself.
    """
    given, taken = given_statistics(mean, std), asked_for(outputs)
    seen = held_normalisation(module)
    if given:
        check_not_normalised_twice(module, what)
    framed = None
    if given or input_size is not None:
        framed = Classifier(module, *(given or NOTHING), input_size)
    state = state_digest((framed or module).state_dict())
    facts: dict[str, object] = {
        "source": source,
        "architecture": type(module).__name__,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "normalisation": {
            "mean": given.mean if given else None,
            "std": given.std if given else None,
            "from": "given"
            if given
            else f"the model's own normalisation: {seen}"
            if seen
            else NONE,
        },
    }
    network = module.cpu()
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point())
    if (dtype := next(dtypes, torch.float32)) != torch.float32:
        network = OwnNumbers(network, dtype)
        facts["numbers"] = f"the model computes in {dtype}: images are converted to it"
    if takes_gray(network, input_size or side):
        facts["gray"], network = NOTE, GrayInput(network)
    if taken is not None and taken.kind == "probabilities":
        network = LogProbabilities(network)
    if framed:
        framed.network = network
    preparation = None if input_size is None else Preparation(input_size)
    facts["preparation"] = {
        **(preparation._asdict() if preparation else {}),
        "from": "the size given" if preparation else UNKNOWN,
    }
    digest = hashlib.sha256(f"{code} {state}".encode()).hexdigest()
    return Opened((framed or network).eval(), name, digest, classes, preparation, facts, taken)
