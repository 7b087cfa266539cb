"""A classifier without its head: features instead of logits, from the same parameters."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from fairweather.errors import InputError
from fairweather.models.backbones import find_library
from fairweather.models.classifier import Classifier


class Encoder(NamedTuple):
    """A module from float images `[B, 3, H, W]` in [0, 1] to features `[B, D]`, and D."""

    module: nn.Module
    features: int


class Features(nn.Module):
    """Replaces a head and returns its input, which must be `[B, D]`.

    >>> Features()(torch.ones(2, 5)).shape
    torch.Size([2, 5])
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Give the features as they are; raises `InputError` if they are not `[B, D]`."""
        if features.ndim != 2:
            raise _no_features(f"one of shape {list(features.shape)}")
        return features


def encoder_of(model: Classifier, backbone: str) -> Encoder:
    """Give a classifier without its head, but with its normalisation and resizing.

    The two share all parameters, buffers and layers except the head: training one trains the
    other. They also share the mode (`train`, `eval`) of these layers, so set the mode of the one
    that is used next, and freeze batch norm before.

    Args:
        model: from `build` or `load_model`.
        backbone: `torchvision:NAME` or `timm:NAME`.

    Raises:
        InputError: the input of the head is not `[B, D]`. If its layer does not show that, the
            error comes with the first batch.

    >>> from fairweather.models import load_model
    >>> model = load_model("timm:test_resnet", classes=3, weights="none")
    >>> encoder = encoder_of(model, "timm:test_resnet")
    >>> encoder.module(torch.rand(2, 3, 32, 32)).shape, encoder.features
    (torch.Size([2, 96]), 96)
    """
    name = _head_name(model, backbone)
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise _no_features(f"those that a {type(head).__name__} takes in {backbone}")
    return Encoder(_replaced(model, name.split("."), Features()), head.in_features)


def state_without_head(model: Classifier, backbone: str) -> dict[str, torch.Tensor]:
    """Give all tensors of a classifier except those of its head, for a file of weights.

    They are on the CPU and contiguous, as safetensors needs them, and include `mean` and `std`. A
    model with this file as `weights` has the same backbone and normalisation and a new head.

    >>> from fairweather.models import load_model
    >>> model = load_model("timm:test_resnet", classes=3, weights="none")
    >>> sorted(set(model.state_dict()) - set(state_without_head(model, "timm:test_resnet")))
    ['network.fc.bias', 'network.fc.weight']
    """
    name = _head_name(model, backbone)
    return {
        key: tensor.detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
        if not key.startswith(f"{name}.")
    }


def _head_name(model: Classifier, backbone: str) -> str:
    library, _ = find_library(backbone)
    return f"network.{library.head(model.network)}"


def _replaced(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """A copy of a module that shares everything except the one part at a path."""
    first, *rest = path
    shallow: Any = copy.copy(module)
    # The tables of parameters and buffers stay shared, so that moving one module moves both.
    shallow._modules = dict(module._modules)
    shallow._modules[first] = _replaced(shallow._modules[first], rest, part) if rest else part
    return shallow


def _no_features(found: str) -> InputError:
    return InputError(f"an encoder needs features [B, D] before the head, found {found}")
