"""Networks by name from torchvision and timm, with a head of the right width."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

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

# torchvision builds these with `transform_input` when it loads their published weights itself: they
# then take images normalised by ImageNet's statistics and turn those into halves. Built without, as
# here, they take halves.
INCEPTIONS = ("googlenet", "inception_v3")
HALVES = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Library(Protocol):
    """A library of networks that are built by name."""

    def knows(self, name: str) -> bool:
        """Say whether there is a network of this name."""

    def check(self, name: str) -> None:
        """Raise `InputError`, with the closest name, unless there is a network of this name."""

    def build(self, name: str, classes: int | None, width: float = 1.0) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number).

        The channels of its stages are multiplied by `width`. Raises `InputError` for a width that
        is not 1 if the network cannot change it.
        """

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, or take them from the local cache."""

    def preprocessing(self, name: str) -> Preprocessing:
        """Give the preprocessing that the published weights expect."""

    def head(self, network: nn.Module) -> str:
        """Name the module that is the head."""


class Torchvision:
    """Networks of `torchvision.models`, such as `torchvision:resnet18`."""

    def knows(self, name: str) -> bool:
        """Say whether there is a network of this name."""
        return name in self._names()

    def check(self, name: str) -> None:
        """Raise `InputError`, with the closest name, unless there is a network of this name."""
        if not self.knows(name):
            raise unknown_name("torchvision model", name, self._names())

    def build(self, name: str, classes: int | None, width: float = 1.0) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number)."""
        self.check(name)
        if width != 1:
            raise _no_width(f"torchvision:{name}")
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name in INCEPTIONS:
            options["init_weights"] = True  # the default, which warns of itself
        return torchvision.models.get_model(name, weights=None, **options)

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, or take them from the local cache."""
        weights = self._weights(name)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        if offline and not cached.is_file():
            raise InputError(f"offline, and the weights of torchvision:{name} are not at {cached}")
        try:
            return weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise _unreachable(f"torchvision:{name}", error) from error

    def preprocessing(self, name: str) -> Preprocessing:
        """Give the preprocessing that the published weights expect."""
        published = from_torchvision(self._weights(name).transforms(), name)
        return published._replace(statistics=HALVES) if name in INCEPTIONS else published

    def head(self, network: nn.Module) -> str:
        """Name the head: the last linear layer, or the last convolution in a SqueezeNet."""
        for kind in (nn.Linear, nn.Conv2d):
            found = [key for key, module in network.named_modules() if isinstance(module, kind)]
            if found:
                return found[-1]
        raise InputError(f"{type(network).__name__} has no layer that could be its head")

    def _names(self) -> list[str]:
        return torchvision.models.list_models(module=torchvision.models)

    def _weights(self, name: str) -> torchvision.models.WeightsEnum:
        published = torchvision.models.get_model_weights(name)
        # The first ImageNet weights are those that papers before 2022, the report among them, used.
        return getattr(published, "IMAGENET1K_V1", published.DEFAULT)


class Timm:
    """Networks of `timm`, such as `timm:tf_efficientnet_lite0`."""

    def knows(self, name: str) -> bool:
        """Say whether there is a network of this name."""
        if not timm.is_model(name):  # this ignores the tag behind the dot
            return False
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError:
            return "." not in name
        return True

    def check(self, name: str) -> None:
        """Raise `InputError`, with the closest name, unless there is a network of this name."""
        if self.knows(name):
            return
        network, dot, _ = name.partition(".")
        if not dot or not timm.is_model(network):
            raise unknown_name("timm model", network, timm.list_models())
        tagged = timm.list_pretrained(f"{network}.*")
        raise unknown_name("pretrained timm model", name, [network, *tagged])

    def build(self, name: str, classes: int | None, width: float = 1.0) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number)."""
        self.check(name)
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if width != 1:
            options["channels"] = _stage_channels(name, width)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # of layers without channels: see below
                network = timm.create_model(name, pretrained=False, **options)
        except ValueError as error:  # groups that no longer divide the channels
            if width == 1:
                raise
            raise _too_narrow(name, width, str(error)) from None
        if any(parameter.numel() == 0 for parameter in network.parameters()):
            raise _too_narrow(name, width, "a layer has no channels left")
        return network

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, or take them from the local cache."""
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
        """Give the preprocessing that the published weights expect."""
        configuration = timm.get_pretrained_cfg(name)
        if configuration is None:
            raise InputError(
                f"timm:{name} has no published weights, so no statistics either: give mean and std"
            )
        return from_timm(configuration, name)

    def head(self, network: nn.Module) -> str:
        """Name the head, as timm defines it."""
        classifier = cast("Any", network).get_classifier()
        named = network.named_modules()
        found = next((key for key, module in named if module is classifier), None)
        if found is None:
            raise InputError(f"{type(network).__name__} has no single layer that is its head")
        return found


def scaled(channels: int, width: float) -> int:
    """Multiply a number of channels by a width: to the nearest multiple of 8, at least 8.

    >>> scaled(64, 0.25), scaled(48, 0.5), scaled(8, 0.1), scaled(24, 0.5)
    (16, 24, 8, 16)
    """
    return max(8, int(channels * width / 8 + 0.5) * 8)


LIBRARIES: Mapping[str, Library] = {"torchvision": Torchvision(), "timm": Timm()}


def find_library(backbone: str) -> tuple[Library, str]:
    """Split `LIBRARY:NAME` and look both up.

    Raises `InputError`, with the closest name, if there is no such library or network.

    >>> find_library("timm:resnet18")[1]
    'resnet18'
    """
    library, colon, name = backbone.partition(":")
    if not colon or library not in LIBRARIES:
        raise unknown_name("model source", backbone, [f"{key}:NAME" for key in LIBRARIES])
    LIBRARIES[library].check(name)
    return LIBRARIES[library], name


def _stage_channels(name: str, width: float) -> tuple[int, ...]:
    """The channels of a ResNet's stages, multiplied by a width, before its blocks expand them.

    The stem keeps its own, as that of wide residual networks (Zagoruyko & Komodakis 2016, table 1).
    """
    if not timm.models.is_model_in_modules(name, ("resnet",)):
        raise _no_width(f"timm:{name}")
    with torch.device("meta"):
        network: Any = timm.create_model(name, pretrained=False)
    stages = [stage for stage in network.feature_info if stage["module"].startswith("layer")]
    blocks = [network.get_submodule(stage["module"])[-1] for stage in stages]
    return tuple(
        scaled(stage["num_chs"] // block.expansion, width)
        for stage, block in zip(stages, blocks, strict=True)
    )


def _too_narrow(name: str, width: float, reason: str) -> InputError:
    return InputError(f"width {width:g} does not suit timm:{name}: {reason.splitlines()[0]}")


def _no_width(backbone: str) -> InputError:
    return InputError(
        "width: another than 1 is known for timm's ResNets, such as timm:resnet18, not for "
        f"{backbone}"
    )


def _unreachable(backbone: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"the ImageNet weights of {backbone} could not be fetched ({reason}); "
        "give a local file as weights instead, or none for random ones"
    )
