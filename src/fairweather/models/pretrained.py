"""Networks of torchvision and timm, with published weights or those of a checkpoint's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.files.download import file_digest
from fairweather.models.backbones import LIBRARIES, Library, find_library
from fairweather.models.building import (
    ModelSpec,
    check_normalisation,
    find_weights_file,
    load_network,
    read_pretrained,
    state_digest,
)
from fairweather.models.checkpoints import Checkpoint, describe_checkpoint, match_state
from fairweather.models.class_names import IMAGENET_CLASSES, read_imagenet
from fairweather.models.preprocessing import (
    UNKNOWN_ORIGIN,
    Normalisation,
    Preprocessing,
    describe_preparation,
    format_numbers,
    scale_preparation,
)
from fairweather.models.sources import OpenedModel, SourceKind, folder_name, suggest_file
from fairweather.models.wrappers import (
    GRAY_NOTE,
    Classifier,
    GrayInput,
    has_one_channel,
    narrow_input,
)

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files of weights
NAMED_OPTIONS = ("weights", "classes", "mean", "std", "input_size")


def open_named(
    architecture: str,
    *,
    weights: str | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    offline: bool = False,
    seed: int = 0,
) -> OpenedModel:
    """Open a network by name, with all its tensors from its weights; see `open_model`."""
    weights = weights or "imagenet"
    given = check_normalisation(mean, std)
    library, name = find_library(architecture)
    checkpoint = None
    if weights != "none":
        checkpoint = read_pretrained(ModelSpec(architecture, weights=weights), offline)
    network, understood = _build_network(library, architecture, checkpoint, classes, seed)
    published = _read_preprocessing(library, name, architecture, given, checkpoint)
    statistics, origin = _choose_statistics(weights, given, checkpoint, published)
    preparation = published.preparation if published else None
    prepared_by = published.origin if published else UNKNOWN_ORIGIN
    if input_size is not None:
        # How much is cropped away is known for published weights only, not for a file.
        own = preparation if weights in ("none", "imagenet", "lite0") else None
        preparation = scale_preparation(own, input_size)
        prepared_by = "the size given" + (f", otherwise {prepared_by}" if own else "")
    size = preparation.size if preparation else None
    gray = has_one_channel(network)
    if gray and len({*statistics.mean}) + len({*statistics.std}) > 2:
        raise InputError(
            f"{weights} has one input channel, and does not say how images were normalised: give "
            "mean and std, each with the same number three times"
        )
    taking = GrayInput(network) if gray else network
    model = Classifier(taking, statistics.mean, statistics.std, size).eval()
    if input_size is not None:
        _check_size(model, architecture, input_size)
    outputs = _count_outputs(library, network)
    facts: dict[str, object] = {
        "source": architecture,
        "architecture": architecture,
        "weights": weights,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "outputs": outputs,
        "normalisation": {"mean": statistics.mean, "std": statistics.std, "from": origin},
        "preparation": {
            **describe_preparation(preparation, prepared_by),
            **({"remark": published.remark} if published and published.remark else {}),
        },
        "checkpoint": understood,
    }
    if gray:
        facts["gray"] = GRAY_NOTE
    wnids = read_imagenet().wnids if outputs == IMAGENET_CLASSES and weights != "none" else None
    if wnids:
        facts["classes"] = "the 1,000 of ImageNet by wnid, since there are 1,000 outputs"
    called, digest = name, state_digest(model.state_dict())
    if weights not in ("none", "imagenet"):
        file = find_weights_file(weights, offline=offline)
        digest = file_digest(file, "sha256")
        called = file.stem if weights != "lite0" else name
    return OpenedModel(model, folder_name(called), digest, wnids, preparation, facts)


def _build_network(
    library: Library,
    architecture: str,
    checkpoint: Checkpoint | None,
    classes: int | None,
    seed: int,
) -> tuple[nn.Module, dict[str, object]]:
    _, name = find_library(architecture)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = library.build(name, classes)
        if checkpoint is None:
            return network, {"weights": f"random, of seed {seed}"}
        head = _find_head(library, network)
        fitted = match_state(checkpoint.state, network, head)
        weight = fitted.state.get(f"{head}.weight")
        if (
            classes is None
            and weight is not None
            and len(weight) != _count_outputs(library, network)
        ):
            network = library.build(name, len(weight))
    _check_head(library, network, architecture, fitted.state)
    narrow_input(fitted.state, network)
    load_network(network, fitted.state, architecture)
    return network, describe_checkpoint(checkpoint, fitted)


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


def _read_preprocessing(
    library: Library,
    name: str,
    architecture: str,
    given: Normalisation | None,
    checkpoint: Checkpoint | None,
) -> Preprocessing | None:
    try:
        return library.preprocessing(name)
    except InputError:
        if given or (checkpoint and checkpoint.statistics):
            return None
        raise


def _choose_statistics(
    weights: str,
    given: Normalisation | None,
    checkpoint: Checkpoint | None,
    published: Preprocessing | None,
) -> tuple[Normalisation, str]:
    held = checkpoint.statistics if checkpoint else None
    if given and held and not _is_close(given, held):
        raise InputError(
            f"{weights} contains its own normalisation, mean {format_numbers(held.mean)} and std "
            f"{format_numbers(held.std)}, and images must not be normalised twice: leave mean and "
            f"std out"
        )
    if given:
        return given, "given"
    if held:
        return held, "the checkpoint itself"
    assert published is not None
    return published.statistics, published.origin


@torch.no_grad()
def _check_size(model: Classifier, architecture: str, size: int) -> None:
    try:
        model(torch.zeros(1, 3, size, size))
    # Every network raises another error if its size is fixed.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"input_size: {architecture} takes no images of {size} x {size} ({reason})"
        ) from error


def _is_close(one: Normalisation, other: Normalisation) -> bool:
    pairs = zip(one.mean + one.std, other.mean + other.std, strict=True)
    return all(abs(a - b) < 1e-5 for a, b in pairs)


def _find_head(library: Library, network: nn.Module) -> str | None:
    try:
        return library.head(network)
    except InputError:
        return None  # for example two heads: then all tensors must be there anyway


def _count_outputs(library: Library, network: nn.Module) -> int | None:
    head = _find_head(library, network)
    weight: Any = getattr(network.get_submodule(head), "weight", None) if head else None
    return (
        len(weight) if isinstance(weight, torch.Tensor) else getattr(network, "num_classes", None)
    )


def _make_source(kind: str, title: str) -> SourceKind:
    library = LIBRARIES[kind]

    def guess(text: str) -> str | None:
        return f"{kind}:{text}" if library.knows(text) and not Path(text).exists() else None

    return SourceKind(
        f"{kind}:NAME",
        title,
        lambda name, **given: open_named(f"{kind}:{name}", **given),
        options=NAMED_OPTIONS,
        settings=("offline", "seed"),
        check=lambda name, _: library.check(name),
        guess=guess,
    )


TORCHVISION = _make_source("torchvision", "a network of torchvision, with its published weights")
TIMM = _make_source("timm", "a network of timm, with its published weights")


def open_weights(file: str, *, architecture: str, **given: Any) -> OpenedModel:  # noqa: ANN401 - of open_named
    """Open a network by name with the weights of a file; see `open_model`."""
    opened = open_named(architecture, weights=file, **given)
    return replace(opened, facts={**opened.facts, "source": file})


def _check_weights(file: str, architecture: str | None) -> None:
    if architecture is None:
        raise InputError(
            f"{file} holds only weights: name the network that they belong to with the "
            "architecture timm:NAME or torchvision:NAME"
        )
    find_library(architecture)
    if not Path(file).expanduser().is_file():
        raise InputError(f"weights: there is no file {file}{suggest_file(Path(file))}")


FILE = SourceKind(
    f"FILE ({', '.join(WEIGHTS_SUFFIXES)}) with an architecture",
    "weights of a network of timm or torchvision",
    open_weights,
    options=("architecture", *(name for name in NAMED_OPTIONS if name != "weights")),
    settings=("offline", "seed"),
    check=_check_weights,
    takes=lambda text: text.endswith(WEIGHTS_SUFFIXES) or Path(text).expanduser().is_file(),
)
