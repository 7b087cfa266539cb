"""Classifiers from torchvision's and timm's networks, their weights, and a run's own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from fairweather.download import file_digest
from fairweather.errors import InputError
from fairweather.models.backbones import Stem, find_library, small_stem
from fairweather.models.checkpoints import Checkpoint, fit_names, read_checkpoint
from fairweather.models.classifier import Classifier
from fairweather.models.preprocessing import Statistics
from fairweather.models.weights import LITE0, load_into, rename_in_order, weights_file

PUBLISHED = ("none", "imagenet", "lite0")  # the weights that are no file of the user's


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
    held = None
    if spec.weights != "none":
        checkpoint = pretrained(spec, offline)
        held = checkpoint.statistics
        state = fit_names(checkpoint.state, network.state_dict()).state
        loaded = load_into(network, state, library.head(network))
        if spec.classes is None and not loaded.head_loaded:
            raise InputError(f"the head of {spec.backbone} is not in its weights: give classes")
    mean, std = _statistics(spec, held)
    return Classifier(network, mean, std, spec.input_size)


def resolve_statistics(spec: ModelSpec) -> ModelSpec:
    """Fill in the normalisation: the given one, else the weights' own, else none at all."""
    held = None
    if spec.mean is None and spec.weights not in PUBLISHED:
        # A training may outlive the file that it began with.
        with contextlib.suppress(InputError):
            held = read_checkpoint(weights_file(spec.weights, offline=True)).statistics
    mean, std = _statistics(spec, held)
    return replace(spec, mean=mean, std=std)


def _statistics(spec: ModelSpec, held: Statistics | None) -> Statistics:
    if spec.mean is not None and spec.std is not None:
        return Statistics(spec.mean, spec.std)
    if spec.weights == "none":
        return Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    library, name = find_library(spec.backbone)
    return held or library.preprocessing(name).statistics


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
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{folder} holds weights that are not its model.json's") from error
    return model.eval()


def pretrained(spec: ModelSpec, offline: bool) -> Checkpoint:
    """Read the weights that a specification names, other than `none`."""
    library, name = find_library(spec.backbone)
    if spec.weights == "imagenet":
        return Checkpoint(dict(library.imagenet(name, offline)), None, "", ())
    if spec.weights == "lite0":
        if spec.backbone != LITE0:
            raise InputError(f"the lite0 weights belong to {LITE0}, not to {spec.backbone}")
        full = library.build(name, None).state_dict()
        state = read_checkpoint(weights_file("lite0")).state
        shapes = (tensor.shape for tensor in full.values())
        return Checkpoint(rename_in_order(state, full, shapes), None, "", ())
    return read_checkpoint(weights_file(spec.weights, offline=offline))


def channels(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Check that there is one number a channel; raises `InputError` otherwise."""
    if len(values) != 3:
        raise InputError(f"{name} needs one number a channel, three in all, found {list(values)}")
    red, green, blue = map(float, values)
    if name == "mean" and not 0 <= min(red, green, blue) <= max(red, green, blue) <= 1:
        raise InputError(f"mean is that of images in [0, 1], found {list(values)}")
    if name == "std" and min(red, green, blue) <= 0:
        raise InputError(f"std must be > 0, found {list(values)}")
    return red, green, blue


def given_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Statistics | None:
    """Check a normalisation that a user may have given; raises `InputError` for half of one."""
    if (mean is None) != (std is None):
        raise InputError("mean and std go together: give both or neither")
    if mean is None or std is None:
        return None
    return Statistics(channels("mean", mean), channels("std", std))
