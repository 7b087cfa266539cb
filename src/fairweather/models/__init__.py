"""Classifiers by name: a backbone, its weights, a head, and the normalisation that fits them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import safetensors
import safetensors.torch
import torch
from torch import nn

from fairweather.download import file_digest
from fairweather.errors import InputError, unknown_name
from fairweather.models.backbones import Stem, find_library, small_stem
from fairweather.models.classifier import Classifier as Classifier
from fairweather.models.weights import (
    LITE0,
    load_into,
    read_state,
    rename_in_order,
    weights_file,
)


@dataclass(frozen=True)
class ModelSpec:
    """What a classifier is made of; stored beside its weights as model.json.

    Attributes:
        backbone: `torchvision:NAME` or `timm:NAME`.
        classes: number of outputs; None keeps the head that the backbone comes with.
        weights: `none`, `imagenet`, `lite0` (for `timm:tf_efficientnet_lite0`), a local file, or an
            http(s) address.
        stem: `imagenet` as published, or `small` for images of about 28 to 64 pixels.
        input_size: resize to this square inside the classifier; None: take images as they are.
        mean, std: normalisation; None: the weights' own, or none at all from scratch.
    """

    backbone: str
    classes: int | None = None
    weights: str = "none"
    stem: Stem = "imagenet"
    input_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def load_model(
    backbone: str,
    *,
    classes: int | None = None,
    weights: str | Path = "none",
    stem: Stem = "imagenet",
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Classifier:
    """Build a classifier in evaluation mode, or load one from a run.

    Args:
        backbone: `torchvision:NAME`, `timm:NAME`, or `run:FOLDER/models/NAME/seed-S` for a
            checkpoint with everything that belongs to it.
        classes: number of outputs; None keeps the head that the backbone comes with.
        weights: `none`, `imagenet`, `lite0`, a local file, or an https address that is downloaded
            once.
        stem: `imagenet`, or `small` for small images.
        input_size: resize to this square inside the classifier.
        mean, std: normalisation; by default that of the weights (for a local file that of the
            backbone's published weights), and none for `weights="none"`.
        seed: of the random initialisation; the caller's random state stays as it is.

    >>> model = load_model("timm:resnet18", classes=10, weights="none")
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if backbone.startswith("run:"):
        return load_checkpoint(Path(backbone.removeprefix("run:")))
    if stem not in get_args(Stem):
        raise unknown_name("stem", stem, get_args(Stem))
    if (mean is None) != (std is None):
        raise InputError("mean and std go together: give both or neither")
    spec = ModelSpec(
        backbone,
        classes,
        str(weights),
        stem,
        input_size,
        None if mean is None else channels("mean", mean),
        None if std is None else channels("std", std),
    )
    return build(spec, seed).eval()


def build(spec: ModelSpec, seed: int = 0, *, offline: bool = False) -> Classifier:
    """Build the classifier of a specification, its weights loaded, its head new if it has to be.

    With `offline`, published weights must lie in the local cache.
    """
    library, name = find_library(spec.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        network = library.build(name, spec.classes)
        if spec.stem == "small":
            small_stem(network)
    spec = resolve_statistics(spec)
    if spec.weights != "none":
        state = _pretrained_state(spec, offline)
        loaded = load_into(network, state, library.head(network))
        if spec.classes is None and not loaded.head_loaded:
            raise InputError(f"the head of {spec.backbone} is not in its weights: give classes")
    assert spec.mean is not None
    assert spec.std is not None
    return Classifier(network, spec.mean, spec.std, spec.input_size)


def resolve_statistics(spec: ModelSpec) -> ModelSpec:
    """Fill in the normalisation: the given one, else the weights' own, else none at all."""
    if spec.mean is not None:
        return spec
    if spec.weights == "none":
        return replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    library, name = find_library(spec.backbone)
    statistics = library.statistics(name)
    return replace(spec, mean=statistics.mean, std=statistics.std)


def head_of(model: Classifier, backbone: str) -> nn.Module:
    """Give the head of a classifier, the part that a smaller backbone learning rate spares."""
    library, _ = find_library(backbone)
    return model.network.get_submodule(library.head(model.network))


def weights_digest(spec: ModelSpec, *, offline: bool = False) -> str:
    """Say which weights a specification starts from: by content for files, by name if published."""
    if spec.weights in ("none", "imagenet"):
        return spec.weights
    return file_digest(weights_file(spec.weights, offline=offline), "sha256")


def model_json(spec: ModelSpec, facts: Mapping[str, object]) -> str:
    """Write the text of model.json: what `load_checkpoint` needs, and facts for people."""
    return json.dumps({"spec": asdict(resolve_statistics(spec)), **facts}, indent=2) + "\n"


def load_checkpoint(folder: Path) -> Classifier:
    """Load model.safetensors by model.json, in evaluation mode.

    Raises `InputError` when the folder is not that of a finished model.
    """
    try:
        spec = ModelSpec(**json.loads((folder / "model.json").read_text())["spec"])
        state = safetensors.torch.load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no finished model: {error.filename} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(f"{folder} holds a damaged model ({type(error).__name__})") from None
    model = build(replace(spec, weights="none"))
    model.load_state_dict(state)
    return model.eval()


def _pretrained_state(spec: ModelSpec, offline: bool) -> dict[str, torch.Tensor]:
    library, name = find_library(spec.backbone)
    if spec.weights == "imagenet":
        return dict(library.imagenet(name, offline))
    if spec.weights == "lite0":
        if spec.backbone != LITE0:
            raise InputError(f"the lite0 weights belong to {LITE0}, not to {spec.backbone}")
        full = library.build(name, None).state_dict()
        state = read_state(weights_file("lite0"))
        return rename_in_order(state, full, (tensor.shape for tensor in full.values()))
    return read_state(weights_file(spec.weights, offline=offline))


def channels(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Check that there is one number a channel; raises `InputError` otherwise."""
    if len(values) != 3:
        raise InputError(f"{name} needs one number a channel, three in all, found {list(values)}")
    red, green, blue = map(float, values)
    if name == "std" and min(red, green, blue) <= 0:
        raise InputError(f"std must be > 0, found {list(values)}")
    return red, green, blue
