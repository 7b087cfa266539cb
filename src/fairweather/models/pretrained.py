"""Networks of torchvision and timm, with published weights or the weights of a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fairweather.data.natural_sets import IMAGENET_CLASSES
from fairweather.errors import InputError, first_line
from fairweather.files.download import file_digest
from fairweather.models.backbones import LIBRARIES, Library, find_library
from fairweather.models.building import (
    ModelSpec,
    check_normalisation,
    find_weights_file,
    load_state,
    read_pretrained,
    state_digest,
)
from fairweather.models.checkpoints import (
    Checkpoint,
    describe_checkpoint,
    match_state,
    read_checkpoint,
)
from fairweather.models.class_names import read_imagenet
from fairweather.models.preprocessing import (
    UNKNOWN_ORIGIN,
    Normalisation,
    Preprocessing,
    describe_normalisation,
    describe_preparation,
    format_numbers,
    scale_preparation,
)
from fairweather.models.sources import OpenedModel, Setup, SourceKind, folder_name, suggest_file
from fairweather.models.wrappers import Classifier, GrayInput, has_one_channel, narrow_input
from fairweather.types.options import ModelOptions

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files of weights
NAMED_OPTIONS = ("weights", "classes", "mean", "std", "input_size")


def open_named(
    architecture: str, weights: str, options: ModelOptions, settings: Setup
) -> OpenedModel:
    """Open a network by name, all of whose tensors come from its weights."""
    given = check_normalisation(options.mean, options.std)
    library, name = find_library(architecture)
    checkpoint = None
    if weights != "none":
        spec = ModelSpec(architecture, weights=weights)
        checkpoint = read_pretrained(spec, settings.offline)
    network, reading = _build_network(library, architecture, checkpoint, settings)
    stored = checkpoint.statistics if checkpoint else None
    if given and stored and not np.allclose(given, stored, rtol=0, atol=1e-5):
        raise InputError(
            f"{weights} contains its own normalisation, mean {format_numbers(stored.mean)} and std "
            f"{format_numbers(stored.std)}, and images must not be normalised twice: leave mean "
            "and std out"
        )
    published = _read_preprocessing(library, name, given or stored)
    normalisation = given or stored or published.statistics
    origin = "given" if given else "the checkpoint itself" if stored else published.origin
    preparation, prepared_by = published.preparation, published.origin
    if options.input_size is not None:
        # How much is cropped away is known for published weights only, not for a file.
        usual = preparation if weights in ("none", "imagenet", "lite0") else None
        preparation = scale_preparation(usual, options.input_size)
        prepared_by = "the size given" + (f", otherwise {prepared_by}" if usual else "")
    gray = has_one_channel(network)
    if gray and len({*normalisation.mean}) + len({*normalisation.std}) > 2:
        raise InputError(
            f"{weights} has one input channel, and does not say how images were normalised: give "
            "mean and std, each with the same number three times"
        )
    size = preparation.size if preparation else None
    model = Classifier(GrayInput(network) if gray else network, *normalisation, size).eval()
    if options.input_size is not None:
        _check_size(model, architecture, options.input_size)
    outputs = _count_outputs(library, network)
    remark = {"remark": published.remark} if published.remark else {}
    facts: dict[str, object] = {
        "source": architecture,
        "architecture": architecture,
        "weights": weights,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "outputs": outputs,
        "normalisation": describe_normalisation(normalisation, origin),
        "preparation": {**describe_preparation(preparation, prepared_by), **remark},
        "checkpoint": reading,
    }
    if gray:
        facts["gray"] = GrayInput.note
    wnids = read_imagenet().wnids if outputs == IMAGENET_CLASSES and weights != "none" else None
    if wnids:
        facts["classes"] = "the 1,000 of ImageNet by wnid, since there are 1,000 outputs"
    if weights in ("none", "imagenet"):
        digest = state_digest(model.state_dict())
    else:
        file = find_weights_file(weights, offline=settings.offline)
        digest = file_digest(file, "sha256")
        name = file.stem if weights != "lite0" else name
    return OpenedModel(model, folder_name(name), digest, wnids, preparation, facts)


def _build_network(
    library: Library, architecture: str, checkpoint: Checkpoint | None, settings: Setup
) -> tuple[nn.Module, dict[str, object]]:
    """A network with its weights, and how their file was read."""
    _, name = find_library(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        network = library.build(name, settings.classes)
        if checkpoint is None:
            return network, {"weights": f"random, of seed {settings.seed}"}
        head = _find_head(library, network)
        matched = match_state(checkpoint.state, network, head)
        weight = matched.state.get(f"{head}.weight")
        width = _count_outputs(library, network) if weight is None else len(weight)
        if settings.classes is None and width != _count_outputs(library, network):
            network = library.build(name, width)
    _check_head(library, network, architecture, matched.state)
    narrow_input(matched.state, network)
    load_state(network, matched.state, architecture)
    return network, describe_checkpoint(checkpoint, matched)


def _check_head(
    library: Library, network: nn.Module, architecture: str, state: dict[str, torch.Tensor]
) -> None:
    if _count_outputs(library, network) == 0:
        raise InputError(
            f"{architecture} has no head: its published weights give features, not classes"
        )
    head = _find_head(library, network)
    missing = {key for key in network.state_dict() if key not in state}
    if head and missing and all(key.startswith(f"{head}.") for key in missing):
        raise InputError(
            f"the head of {architecture} is not in the weights (missing "
            f"{', '.join(sorted(missing))}), and a random head would only guess: give the weights "
            "of a trained classifier"
        )


def _read_preprocessing(library: Library, name: str, known: Normalisation | None) -> Preprocessing:
    """The published preprocessing, or only the known normalisation."""
    try:
        return library.preprocessing(name)
    except InputError:
        if known is None:
            raise
        return Preprocessing(known, None, UNKNOWN_ORIGIN)


@torch.no_grad()
def _check_size(model: Classifier, architecture: str, size: int) -> None:
    try:
        model(torch.zeros(1, 3, size, size))
    # Networks raise different errors if their size is fixed.
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"input_size: {architecture} takes no images of {size} x {size} ({reason})"
        ) from error


def _find_head(library: Library, network: nn.Module) -> str | None:
    try:
        return library.head(network)
    except InputError:
        return None  # for example two heads: then all tensors must be there anyway


def _count_outputs(library: Library, network: nn.Module) -> int | None:
    head = _find_head(library, network)
    weight = getattr(network.get_submodule(head), "weight", None) if head else None
    if isinstance(weight, torch.Tensor):
        return len(weight)
    return getattr(network, "num_classes", None)


def _make_source(kind: str, title: str) -> SourceKind:
    library = LIBRARIES[kind]

    def open_(name: str, options: ModelOptions, settings: Setup) -> OpenedModel:
        return open_named(f"{kind}:{name}", str(options.weights or "imagenet"), options, settings)

    def guess(text: str) -> str | None:
        return f"{kind}:{text}" if library.knows(text) and not Path(text).exists() else None

    def check(name: str, _: str | None) -> None:
        library.check(name)

    return SourceKind(f"{kind}:NAME", title, open_, NAMED_OPTIONS, check, guess)


TORCHVISION = _make_source("torchvision", "a network of torchvision, with its published weights")
TIMM = _make_source("timm", "a network of timm, with its published weights")


def open_weights(file: str, options: ModelOptions, settings: Setup) -> OpenedModel:
    """Open a network by name with the weights of a file; see `open_with_options`."""
    assert options.architecture is not None
    opened = open_named(options.architecture, file, options, settings)
    return replace(opened, facts={**opened.facts, "source": file})


def _check_weights(file: str, architecture: str | None) -> None:
    if architecture is not None:
        find_library(architecture)
    if not Path(file).expanduser().is_file():
        raise InputError(f"there is no file {file}{suggest_file(Path(file))}")
    if architecture is None:
        read_checkpoint(Path(file).expanduser())  # refuses what is no weights
        raise InputError(
            f"{file} holds only weights: for a network of your own, write a function that returns "
            "it with these weights, and name python:FILE.py:FUNCTION; for one of timm or "
            "torchvision, add its architecture (--architecture timm:NAME or torchvision:NAME)"
        )


FILE = SourceKind(
    f"FILE ({', '.join(WEIGHTS_SUFFIXES)}) with an architecture",
    "weights of a network of timm or torchvision",
    open_weights,
    options=("architecture", *(name for name in NAMED_OPTIONS if name != "weights")),
    check=_check_weights,
    takes=lambda text: text.endswith(WEIGHTS_SUFFIXES) or Path(text).expanduser().is_file(),
)
