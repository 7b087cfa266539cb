"""A module of the user's own as a classifier: with the preprocessing given, in its own numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import nn

from fairweather.devices import OwnNumbers, in_own_numbers
from fairweather.errors import InputError, one_line
from fairweather.models.building import given_statistics
from fairweather.models.classifier import Classifier
from fairweather.models.gray import NOTE, GrayInput, takes_gray
from fairweather.models.normalisation import check_not_normalised_twice, held_normalisation
from fairweather.models.outputs import LogProbabilities, asked_for
from fairweather.models.preprocessing import NOTHING, UNKNOWN, preparation_facts
from fairweather.models.source import Opened
from fairweather.models.weights import state_digest
from fairweather.types import Preparation

NONE = "no normalisation: the model gets images in [0, 1]"


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
        InputError: a mean and std are given to a module that normalises its images itself, or its
            mode or tensors cannot be had.
    """
    given, taken = given_statistics(mean, std), asked_for(outputs)
    seen = held_normalisation(module)
    if given:
        check_not_normalised_twice(module, what)
    framed = None
    if given or input_size is not None:
        framed = Classifier(module, *(given or NOTHING), input_size)
    try:
        state = state_digest((framed or module).eval().state_dict())
    except Exception as error:  # exported, quantized and lazy modules raise different ones
        raise InputError(
            f"{what} has no evaluation mode or no plain tensors ({type(error).__name__}: "
            f"{one_line(str(error).partition(chr(10))[0])}): give the module that was exported or "
            "quantized, or an ONNX file; call a lazy module once before"
        ) from error
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
    network = in_own_numbers(module.cpu())
    if isinstance(network, OwnNumbers):
        facts["numbers"] = f"the model computes in {network.dtype}: images are converted to it"
    if takes_gray(network, input_size or side):
        facts["gray"], network = NOTE, GrayInput(network)
    if taken is not None and taken.kind == "probabilities":
        network = LogProbabilities(network)
    if framed:
        framed.network = network
    preparation = None if input_size is None else Preparation(input_size)
    origin = "the size given" if preparation else UNKNOWN
    facts["preparation"] = preparation_facts(preparation, origin)
    digest = hashlib.sha256(f"{code} {state}".encode()).hexdigest()
    return Opened((framed or network).eval(), name, digest, classes, preparation, facts, taken)
