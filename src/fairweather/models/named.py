"""Networks of torchvision and timm, with published weights or those of a checkpoint's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairweather.download import file_digest
from fairweather.errors import InputError
from fairweather.models.backbones import LIBRARIES, Library, find_library
from fairweather.models.building import given_statistics, pretrained
from fairweather.models.checkpoints import Checkpoint
from fairweather.models.classifier import Classifier
from fairweather.models.fitting import describe_checkpoint
from fairweather.models.gray import NOTE, GrayInput, has_one_channel, narrow_as
from fairweather.models.preprocessing import (
    UNKNOWN,
    Preprocessing,
    Statistics,
    at_size,
    in_words,
    preparation_facts,
)
from fairweather.models.selfsupervised import fit_state
from fairweather.models.source import Opened, Source, closest_file, folder_name
from fairweather.models.specification import ModelSpec
from fairweather.models.weights import load_whole, state_digest, weights_file
from fairweather.models.wnids import CLASSES, imagenet

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files of weights
OF_NAMED = ("weights", "classes", "mean", "std", "input_size")


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
) -> Opened:
    """Open a network by name, with all its tensors from its weights; see `open_model`."""
    weights = weights or "imagenet"
    given = given_statistics(mean, std)
    library, name = find_library(architecture)
    checkpoint = None
    if weights != "none":
        checkpoint = pretrained(ModelSpec(architecture, weights=weights), offline)
    network, understood = _network(library, architecture, checkpoint, classes, seed)
    published = _published(library, name, architecture, given, checkpoint)
    statistics, origin = _statistics(weights, given, checkpoint, published)
    preparation = published.preparation if published else None
    prepared_by = published.origin if published else UNKNOWN
    if input_size is not None:
        # How much is cropped away is known for published weights only, not for a file.
        own = preparation if weights in ("none", "imagenet", "lite0") else None
        preparation = at_size(own, input_size)
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
    outputs = _outputs(library, network)
    facts: dict[str, object] = {
        "source": architecture,
        "architecture": architecture,
        "weights": weights,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "outputs": outputs,
        "normalisation": {"mean": statistics.mean, "std": statistics.std, "from": origin},
        "preparation": {
            **preparation_facts(preparation, prepared_by),
            **({"remark": published.remark} if published and published.remark else {}),
        },
        "checkpoint": understood,
    }
    if gray:
        facts["gray"] = NOTE
    wnids = imagenet().wnids if outputs == CLASSES and weights != "none" else None
    if wnids:
        facts["classes"] = "the 1,000 of ImageNet by wnid, since there are 1,000 outputs"
    called, digest = name, state_digest(model.state_dict())
    if weights not in ("none", "imagenet"):
        file = weights_file(weights, offline=offline)
        digest = file_digest(file, "sha256")
        called = file.stem if weights != "lite0" else name
    return Opened(model, folder_name(called), digest, wnids, preparation, facts)


def _network(
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
        head = _head(library, network)
        fitted = fit_state(checkpoint.state, network, head)
        weight = fitted.state.get(f"{head}.weight")
        if classes is None and weight is not None and len(weight) != _outputs(library, network):
            network = library.build(name, len(weight))
    _check_head(library, network, architecture, fitted.state)
    narrow_as(fitted.state, network)
    load_whole(network, fitted.state, architecture)
    return network, describe_checkpoint(checkpoint, fitted)


def _check_head(
    library: Library, network: nn.Module, architecture: str, state: dict[str, torch.Tensor]
) -> None:
    if _outputs(library, network) == 0:
        raise InputError(
            f"{architecture} has no head: its published weights give features, not classes"
        )
    head = _head(library, network)
    missing = {key for key in network.state_dict() if key not in state}
    if head and missing and all(key.startswith(f"{head}.") for key in missing):
        raise InputError(
            f"the head of {architecture} is not in the weights (missing "
            f"{', '.join(sorted(missing))}), and a random head would only guess: give the weights "
            "of a trained classifier"
        )


def _published(
    library: Library,
    name: str,
    architecture: str,
    given: Statistics | None,
    checkpoint: Checkpoint | None,
) -> Preprocessing | None:
    try:
        return library.preprocessing(name)
    except InputError:
        if given or (checkpoint and checkpoint.statistics):
            return None
        raise


def _statistics(
    weights: str,
    given: Statistics | None,
    checkpoint: Checkpoint | None,
    published: Preprocessing | None,
) -> tuple[Statistics, str]:
    held = checkpoint.statistics if checkpoint else None
    if given and held and not _close(given, held):
        raise InputError(
            f"{weights} contains its own normalisation, mean {in_words(held.mean)} and std "
            f"{in_words(held.std)}, and images must not be normalised twice: leave mean and std out"
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


def _close(one: Statistics, other: Statistics) -> bool:
    pairs = zip(one.mean + one.std, other.mean + other.std, strict=True)
    return all(abs(a - b) < 1e-5 for a, b in pairs)


def _head(library: Library, network: nn.Module) -> str | None:
    try:
        return library.head(network)
    except InputError:
        return None  # for example two heads: then all tensors must be there anyway


def _outputs(library: Library, network: nn.Module) -> int | None:
    head = _head(library, network)
    weight: Any = getattr(network.get_submodule(head), "weight", None) if head else None
    return (
        len(weight) if isinstance(weight, torch.Tensor) else getattr(network, "num_classes", None)
    )


def _source(kind: str, title: str) -> Source:
    library = LIBRARIES[kind]

    def guess(text: str) -> str | None:
        return f"{kind}:{text}" if library.knows(text) and not Path(text).exists() else None

    return Source(
        f"{kind}:NAME",
        title,
        lambda name, **given: open_named(f"{kind}:{name}", **given),
        options=OF_NAMED,
        settings=("offline", "seed"),
        check=lambda name, _: library.check(name),
        guess=guess,
    )


TORCHVISION = _source("torchvision", "a network of torchvision, with its published weights")
TIMM = _source("timm", "a network of timm, with its published weights")


def open_weights(file: str, *, architecture: str, **given: Any) -> Opened:  # noqa: ANN401 - of open_named
    """Open a network by name with the weights of a file; see `open_model`."""
    opened = open_named(architecture, weights=file, **given)
    return replace(opened, facts={**opened.facts, "source": file})


def _check(file: str, architecture: str | None) -> None:
    if architecture is None:
        raise InputError(
            f"{file} holds only weights: name the network that they belong to with the "
            "architecture timm:NAME or torchvision:NAME"
        )
    find_library(architecture)
    if not Path(file).expanduser().is_file():
        raise InputError(f"weights: there is no file {file}{closest_file(Path(file))}")


FILE = Source(
    f"FILE ({', '.join(SUFFIXES)}) with an architecture",
    "weights of a network of timm or torchvision",
    open_weights,
    options=("architecture", *(name for name in OF_NAMED if name != "weights")),
    settings=("offline", "seed"),
    check=_check,
    takes=lambda text: text.endswith(SUFFIXES) or Path(text).expanduser().is_file(),
)
