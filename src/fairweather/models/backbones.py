"""Networks by name from torchvision and timm, with a head of the right width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import huggingface_hub.constants
import timm
import torch
import torchvision
from torch import nn

from fairweather.errors import InputError, unknown_name
from fairweather.models.preprocessing import (
    Preprocessing,
    Statistics,
    from_timm,
    from_torchvision,
)

Stem = Literal["imagenet", "small"]
# torchvision builds these with `transform_input` when it loads their published weights itself: they
# then take images normalised by ImageNet's statistics and turn those into halves. Built without, as
# here, they take halves.
INCEPTIONS = ("googlenet", "inception_v3")
HALVES = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Library(Protocol):
    """What a source of named networks can do."""

    def knows(self, name: str) -> bool:
        """Tell whether there is a network of this name."""

    def build(self, name: str, classes: int | None) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number)."""

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, from the local cache when they are there."""

    def preprocessing(self, name: str) -> Preprocessing:
        """Give what the published weights expect of their images."""

    def head(self, network: nn.Module) -> str:
        """Name the module that is the head."""


class Torchvision:
    """Networks of `torchvision.models`, such as `torchvision:resnet18`."""

    def knows(self, name: str) -> bool:
        """Tell whether there is a network of this name."""
        return name in torchvision.models.list_models(module=torchvision.models)

    def build(self, name: str, classes: int | None) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number)."""
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise unknown_name("torchvision model", name, known)
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name in INCEPTIONS:
            options["init_weights"] = True  # the default, which warns of itself
        return torchvision.models.get_model(name, weights=None, **options)

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, from the local cache when they are there."""
        weights = self._weights(name)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if offline and not cached.is_file():
            raise InputError(f"offline, and the weights of torchvision:{name} are not at {cached}")
        try:
            return weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise _unreachable(f"torchvision:{name}", error) from error

    def preprocessing(self, name: str) -> Preprocessing:
        """Give what the published weights expect of their images."""
        published = from_torchvision(self._weights(name).transforms(), name)
        return published._replace(statistics=HALVES) if name in INCEPTIONS else published

    def head(self, network: nn.Module) -> str:
        """Name the module that is the head: the last linear layer, in SqueezeNets a convolution."""
        for kind in (nn.Linear, nn.Conv2d):
            found = [key for key, module in network.named_modules() if isinstance(module, kind)]
            if found:
                return found[-1]
        raise InputError(f"{type(network).__name__} has no layer that could be its head")

    def _weights(self, name: str) -> torchvision.models.WeightsEnum:
        published = torchvision.models.get_model_weights(name)
        # The first ImageNet weights are those that papers before 2022, the report among them, used.
        return getattr(published, "IMAGENET1K_V1", published.DEFAULT)


class Timm:
    """Networks of `timm`, such as `timm:tf_efficientnet_lite0`."""

    def knows(self, name: str) -> bool:
        """Tell whether there is a network of this name."""
        return bool(timm.is_model(name))

    def build(self, name: str, classes: int | None) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number)."""
        if not timm.is_model(name):
            raise unknown_name("timm model", name, timm.list_models())
        width: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        return timm.create_model(name, pretrained=False, **width)

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, from the local cache when they are there."""
        if offline and not huggingface_hub.constants.HF_HUB_OFFLINE:
            raise InputError(
                f"offline, the weights of timm:{name} must come from the Hugging Face cache: set "
                "HF_HUB_OFFLINE=1 before Python starts, as --offline does"
            )
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:
            raise _unreachable(f"timm:{name}", error) from error

    def preprocessing(self, name: str) -> Preprocessing:
        """Give what the published weights expect of their images."""
        configuration = timm.get_pretrained_cfg(name, allow_unregistered=False)
        if configuration is None:
            raise InputError(
                f"timm:{name} has no published weights, so no statistics either: give mean and std"
            )
        return from_timm(configuration, name)

    def head(self, network: nn.Module) -> str:
        """Name the module that is the head, as timm knows it."""
        classifier = cast("Any", network).get_classifier()
        named = network.named_modules()
        found = next((key for key, module in named if module is classifier), None)
        if found is None:
            raise InputError(f"{type(network).__name__} has no single layer that is its head")
        return found


LIBRARIES: Mapping[str, Library] = {"torchvision": Torchvision(), "timm": Timm()}


def find_library(backbone: str) -> tuple[Library, str]:
    """Split `LIBRARY:NAME` and look the library up.

    >>> find_library("timm:resnet18")[1]
    'resnet18'
    """
    library, colon, name = backbone.partition(":")
    if not colon or library not in LIBRARIES:
        raise unknown_name("model source", backbone, [f"{key}:NAME" for key in LIBRARIES])
    return LIBRARIES[library], name


def small_stem(network: nn.Module) -> None:
    """Keep the resolution in the first layers, for images of about 28 to 64 pixels.

    ResNets get a 3x3 convolution of stride 1 and no max-pooling (He et al. 2016, section 4.2);
    EfficientNets and MobileNets keep their 3x3 stem and take its stride away, so that published
    weights still fit. Raises `InputError` for other networks.
    """
    layers: Any = network
    if isinstance(getattr(network, "conv1", None), nn.Conv2d) and hasattr(network, "maxpool"):
        channels = layers.conv1.out_channels
        layers.conv1 = nn.Conv2d(3, channels, 3, stride=1, padding=1, bias=False)
        layers.maxpool = nn.Identity()
    elif isinstance(getattr(network, "conv_stem", None), nn.Conv2d):
        layers.conv_stem.stride = (1, 1)
    else:
        kind = type(network).__name__
        raise InputError(f"stem: small is known for ResNets and EfficientNets, not for {kind}")


def _unreachable(backbone: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the ImageNet weights of {backbone} could not be fetched ({reason}); "
        "give a local file as weights instead"
    )
