"""Classifiers from torchvision's and timm's networks, their weights, and a run's own."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from fairweather import effects
from fairweather.download import file_digest
from fairweather.errors import InputError
from fairweather.models.backbones import find_library
from fairweather.models.checkpoints import Checkpoint, read_checkpoint
from fairweather.models.classifier import Classifier
from fairweather.models.design import make_choices
from fairweather.models.fitting import Fitted, describe_checkpoint
from fairweather.models.preprocessing import NOTHING, Statistics
from fairweather.models.selfsupervised import PUBLISHED_WEIGHTS, fit_state
from fairweather.models.specification import PUBLISHED, ModelSpec, check_spec
from fairweather.models.weights import LITE0, load_into, rename_in_order, weights_file

# The published weights that are files, and the backbone of each.
BACKBONES = {"lite0": LITE0, **{name: row.backbone for name, row in PUBLISHED_WEIGHTS.items()}}
NEW_HEAD = "newly initialised"
# The functions of torch that fill the parameters of new layers with random numbers.
_RANDOM_FILLS = (
    nn.init.kaiming_uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
)


class Built(NamedTuple):
    """A classifier, and how the file of its weights was read; None for random weights."""

    model: Classifier
    checkpoint: Checkpoint | None
    fitted: Fitted | None
    head_loaded: bool


def build(spec: ModelSpec, seed: int = 0, *, offline: bool = False) -> Classifier:
    """Build the classifier of a specification with its weights, and a new head if one is needed.

    With `offline`, published weights must be in the local cache.
    """
    return assemble(spec, seed, offline=offline).model


def assemble(spec: ModelSpec, seed: int = 0, *, offline: bool = False) -> Built:
    """Build a classifier as `build` does, and say how its weights were used."""
    check_spec(spec)
    library, name = find_library(spec.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        network = library.build(name, spec.classes, spec.width)
        make_choices(network, stem=spec.stem, norm=spec.norm, pooling=spec.pooling)
    checkpoint, fitted, head_loaded = None, None, False
    if spec.weights != "none":
        checkpoint = pretrained(spec, offline)
        head = library.head(network)
        fitted = fit_state(checkpoint.state, network, head)
        head_loaded = load_into(network, fitted.state, head)
        if spec.classes is None and not head_loaded:
            raise InputError(
                f"the head of {spec.backbone} is not in its weights: give the number of classes"
            )
    mean, std = _statistics(spec, checkpoint.statistics if checkpoint else None)
    return Built(Classifier(network, mean, std, spec.input_size), checkpoint, fitted, head_loaded)


def weights_facts(spec: ModelSpec, *, offline: bool = False) -> dict[str, object]:
    """Describe, for JSON, the weights that a classifier starts from and how they were used.

    `weights` is as in the specification, and `head` is `newly initialised` or `from the weights`.
    For a file there are also its name `file`, its `sha256`, and how it was read: `nesting`,
    `prefix`, and `left_out`, the parts that only pre-training needs.

    It builds the classifier once more, and raises `InputError` as `build` does.

    >>> weights_facts(ModelSpec("timm:test_resnet", classes=3))
    {'weights': 'none', 'head': 'newly initialised'}
    """
    with _LeavesParameters():
        _, checkpoint, fitted, head_loaded = assemble(spec, offline=offline)
    facts: dict[str, object] = {"weights": spec.weights}
    if spec.weights not in ("none", "imagenet"):
        file = weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
        facts |= {"file": file.name, "sha256": file_digest(file, "sha256")}
    if checkpoint and fitted:
        facts |= {"left_out": [], **describe_checkpoint(checkpoint, fitted)}
    return {**facts, "head": "from the weights" if head_loaded else NEW_HEAD}


def resolve_statistics(spec: ModelSpec) -> ModelSpec:
    """Fill in the normalisation: the given one, else that of the weights, else none."""
    held = None
    if spec.mean is None and spec.weights not in ("none", *PUBLISHED):
        # The file that a training started from may be gone.
        with contextlib.suppress(InputError):
            held = read_checkpoint(weights_file(spec.weights, offline=True)).statistics
    mean, std = _statistics(spec, held)
    return replace(spec, mean=mean, std=std)


def _statistics(spec: ModelSpec, held: Statistics | None) -> Statistics:
    if spec.mean is not None and spec.std is not None:
        return Statistics(spec.mean, spec.std)
    if spec.weights == "none":
        return NOTHING
    library, name = find_library(spec.backbone)
    return held or library.preprocessing(name).statistics


def head_of(model: Classifier, backbone: str) -> nn.Module:
    """Give the head of a classifier, which a smaller backbone learning rate does not concern."""
    library, _ = find_library(backbone)
    return model.network.get_submodule(library.head(model.network))


def weights_digest(spec: ModelSpec, *, offline: bool = False) -> str:
    """Identify the weights of a specification: files by their SHA-256, published ones by name."""
    if spec.weights in ("none", "imagenet"):
        return spec.weights
    file = weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
    return file_digest(file, "sha256")


def model_json(spec: ModelSpec, facts: Mapping[str, object]) -> str:
    """Write the text of model.json: what `load_checkpoint` needs, and facts for people."""
    return json.dumps({"spec": effects.facts(resolve_statistics(spec)), **facts}, indent=2) + "\n"


class _LeavesParameters(TorchFunctionMode):
    """Leaves new parameters as they are in memory: for networks whose own values nobody uses.

    Random numbers take most of the time of building a ResNet.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in _RANDOM_FILLS:
            tensor = args[0] if args else given["tensor"]
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **given)


_SPEC = pydantic.TypeAdapter(ModelSpec)


def load_checkpoint(folder: Path) -> Classifier:
    """Load the model of model.json and model.safetensors, in evaluation mode.

    Raises `InputError` if the folder does not hold a finished model.
    """
    described, weights = folder / "model.json", folder / "model.safetensors"
    for needed in (described, weights):
        if not needed.is_file():
            raise InputError(f"{folder} does not hold a finished model: {needed} is missing")
    try:
        spec = _SPEC.validate_python(json.loads(described.read_text(encoding="utf-8"))["spec"])
        state = safetensors.torch.load_file(weights)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        safetensors.SafetensorError,
    ) as error:
        raise InputError(f"{folder} holds a damaged model ({type(error).__name__})") from None
    with _LeavesParameters():
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
    own = model.state_dict()
    missing = own.keys() - state.keys()
    kinds = {key.rpartition(".")[2] for key in missing}
    return state.keys() <= own.keys() and 0 < len(missing) <= 2 and kinds <= {"weight", "bias"}


def pretrained(spec: ModelSpec, offline: bool) -> Checkpoint:
    """Read the weights that a specification names, other than `none`."""
    library, name = find_library(spec.backbone)
    if spec.weights == "imagenet":
        return Checkpoint(dict(library.imagenet(name, offline)), None, "", ())
    owner = BACKBONES.get(spec.weights, spec.backbone)
    if spec.backbone != owner:
        raise InputError(f"the {spec.weights} weights belong to {owner}, not to {spec.backbone}")
    file = weights_file(spec.weights, sha256=spec.weights_sha256, offline=offline)
    held = read_checkpoint(file)
    if spec.weights == "lite0":
        full = library.build(name, None).state_dict()
        shapes = (tensor.shape for tensor in full.values())
        return Checkpoint(rename_in_order(held.state, full, shapes), None, "", ())
    return held


def channels(name: str, values: Sequence[float]) -> tuple[float, float, float]:
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
    if name == "std" and not all(0 < each < math.inf for each in (red, green, blue)):
        raise InputError(f"std must be > 0, found {list(values)}")
    return red, green, blue


def given_statistics(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Statistics | None:
    """Check the normalisation that a user gave; raises `InputError` for one of the two alone."""
    if (mean is None) != (std is None):
        raise InputError("mean and std go together: give both or neither")
    if mean is None or std is None:
        return None
    return Statistics(channels("mean", mean), channels("std", std))
