"""Networks by name from torchvision and timm: their design choices, and their encoders."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import nn

from fairweather.errors import InputError, first_line, unknown_name
from fairweather.models.preprocessing import HALVES, Preprocessing, read_timm, read_torchvision
from fairweather.models.wrappers import Classifier

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# ---------------------------------------------------------------- design choices

Stem = Literal["imagenet", "small"]
Norm = Literal["batch", "group"]
Pooling = Literal["average", "max", "average+max"]

MOST_GROUPS = 32  # Wu & He 2018, table 3
# With one channel per group, feature maps of one pixel would become zero.
SMALLEST_GROUP = 2


def apply_choices(network: nn.Module, **choices: str) -> None:
    """Change a network in place as its specification says; the published design changes nothing.

    Args:
        network: as its library builds it.
        choices: the chosen value for each key of `CHOICES`.

    Raises:
        InputError: a value that is not in the table, or a network that cannot be changed like this.

    >>> from torchvision.models import resnet18
    >>> network = resnet18()
    >>> apply_choices(network, norm="group", pooling="max")
    >>> network.bn1.num_groups, network.avgpool.pool_type
    (32, 'max')
    """
    for key, value in choices.items():
        if value not in CHOICES[key]:
            raise unknown_name(key, value, CHOICES[key])
        CHOICES[key][value](network)


def use_small_stem(network: nn.Module) -> None:
    """Keep the resolution in the first layers, for images of about 28 to 64 pixels.

    ResNets get a 3x3 convolution of stride 1 and no max-pooling (He et al. 2016, section 4.2). Deep
    stems of several 3x3 convolutions, EfficientNets and MobileNets keep their layers. Only the
    stride of the first one becomes 1, so that published weights still fit. Raises `InputError` for
    other networks.
    """
    layers: Any = network
    first = getattr(network, "conv1", None)
    if isinstance(first, nn.Conv2d) and hasattr(network, "maxpool"):
        layers.conv1 = nn.Conv2d(3, first.out_channels, 3, stride=1, padding=1, bias=False)
        layers.maxpool = nn.Identity()
    elif isinstance(first, nn.Sequential) and hasattr(network, "maxpool"):
        cast("nn.Conv2d", first[0]).stride = (1, 1)
        layers.maxpool = nn.Identity()
    elif isinstance(getattr(network, "conv_stem", None), nn.Conv2d):
        layers.conv_stem.stride = (1, 1)
    else:
        kind = type(network).__name__
        raise InputError(
            f"stem: small is possible for ResNets, EfficientNets and MobileNets, not for {kind}"
        )


def use_group_norm(network: nn.Module) -> None:
    """Replace every batch norm by group norm (Wu & He 2018), in place.

    Scale, shift, epsilon, fused activations and the names of tensors stay. In training, the output
    for an image no longer depends on the other images of its batch. Raises `InputError` for a
    network without batch norm, or with a batch norm that is not for images.

    >>> network = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24))
    >>> use_group_norm(network)
    >>> network[1].num_groups
    12
    """
    from timm.layers.norm_act import BatchNormAct2d

    kind, replaced = type(network).__name__, (nn.BatchNorm2d, BatchNormAct2d)
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    if not norms:
        raise InputError(f"norm: group replaces batch norm, which {kind} does not have")
    if others := {type(norm).__name__ for norm in norms.values() if type(norm) not in replaced}:
        known = ", ".join(norm.__name__ for norm in replaced)
        raise InputError(
            f"norm: group replaces {known}, but {kind} has {', '.join(sorted(others))}"
        )
    for name, norm in norms.items():
        network.set_submodule(name, _to_group_norm(norm))


def count_groups(channels: int) -> int:
    """Give the number of groups for some channels: the largest that divides them evenly.

    At most 32, the published number, with at least two channels each.

    >>> [count_groups(channels) for channels in (64, 40, 32, 7, 1)]
    [32, 20, 16, 1, 1]
    """
    most = min(MOST_GROUPS, channels // SMALLEST_GROUP)
    return max((count for count in range(1, most + 1) if channels % count == 0), default=1)


def change_pooling(kind: str, network: nn.Module) -> None:
    """Change how the last feature maps are pooled, in place.

    Args:
        kind: timm's name: `max`, or `avgmax` for half the sum of the average and the maximum.
        network: with one layer that averages whole feature maps. Torchvision's VGG, DenseNet and
            MobileNetV2 have none: they pool to a grid or in their `forward`.

    Raises:
        InputError: the network has no layer that averages whole feature maps.

    >>> import timm
    >>> network = timm.create_model("test_efficientnet")
    >>> change_pooling("avgmax", network)
    >>> network.global_pool.pool_type
    'avgmax'
    """
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    layers = [item for item in network.named_modules() if _is_average_pooling(*item)]
    if len(layers) != 1:
        raise InputError(
            "pooling: only average is possible for "
            f"{type(network).__name__}; others need one pooling layer, as ResNets, EfficientNets, "
            "MobileNetV3 and ConvNeXt of torchvision and timm have"
        )
    ((name, layer),) = layers
    flatten = isinstance(getattr(layer, "flatten", None), nn.Flatten)
    network.set_submodule(name, SelectAdaptivePool2d(pool_type=kind, flatten=flatten))


def _is_average_pooling(name: str, layer: nn.Module) -> bool:
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    # Squeeze-and-excitation blocks have an `avgpool` too, but not at the top of a network.
    if name == "avgpool" and isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    return isinstance(layer, SelectAdaptivePool2d) and isinstance(layer.pool, nn.AdaptiveAvgPool2d)


def _to_group_norm(norm: nn.Module) -> nn.Module:
    from timm.layers.norm_act import BatchNormAct2d, GroupNormAct

    old: Any = norm
    channels, groups = old.num_features, count_groups(old.num_features)
    new: Any = nn.GroupNorm(groups, channels, old.eps, old.affine)
    if isinstance(norm, BatchNormAct2d):
        new = GroupNormAct(channels, groups, eps=old.eps, affine=old.affine)
        new.drop, new.act = old.drop, old.act
    new.weight, new.bias = old.weight, old.bias
    return cast("nn.Module", new)


def _keep(network: nn.Module) -> None:
    """Change nothing."""


CHOICES: Mapping[str, Mapping[str, Callable[[nn.Module], None]]] = {
    "stem": {"imagenet": _keep, "small": use_small_stem},
    "norm": {"batch": _keep, "group": use_group_norm},
    "pooling": {
        "average": _keep,
        "max": partial(change_pooling, "max"),
        "average+max": partial(change_pooling, "avgmax"),
    },
}


# ---------------------------------------------------------------- libraries

# Each takes a second to import, so only a network of it imports it.

# When torchvision itself loads published weights, it builds these with `transform_input`. They then
# take images normalised by ImageNet's statistics, and convert them to a mean and std of 0.5. Built
# without it, as here, they expect a mean and std of 0.5.
INCEPTIONS = ("googlenet", "inception_v3")


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
        """Build a network with random weights and `classes` outputs (None: its own number).

        Raises `InputError` for a width other than 1.
        """
        self.check(name)
        if width != 1:
            raise _fixed_width_error(f"torchvision:{name}")
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name in INCEPTIONS:
            options["init_weights"] = True  # the default, which gives a warning
        import torchvision.models

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
            raise _download_error(f"torchvision:{name}", error) from error

    def preprocessing(self, name: str) -> Preprocessing:
        """Give the preprocessing that the published weights expect."""
        published = read_torchvision(self._weights(name).transforms(), name)
        return published._replace(statistics=HALVES) if name in INCEPTIONS else published

    def head(self, network: nn.Module) -> str:
        """Name the head: the last linear layer, or the last convolution in a SqueezeNet."""
        for kind in (nn.Linear, nn.Conv2d):
            names = [name for name, module in network.named_modules() if isinstance(module, kind)]
            if names:
                return names[-1]
        raise InputError(f"{type(network).__name__} has no layer that could be its head")

    def _names(self) -> list[str]:
        import torchvision.models

        return torchvision.models.list_models(module=torchvision.models)

    def _weights(self, name: str) -> WeightsEnum:
        import torchvision.models

        published = torchvision.models.get_model_weights(name)
        # Papers before 2022, the report among them, used the first ImageNet weights.
        return getattr(published, "IMAGENET1K_V1", published.DEFAULT)


class Timm:
    """Networks of `timm`, such as `timm:tf_efficientnet_lite0`."""

    def knows(self, name: str) -> bool:
        """Say whether there is a network of this name."""
        import timm

        if not timm.is_model(name):  # this ignores the tag after the dot
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
        import timm

        network, dot, _ = name.partition(".")
        if not dot or not timm.is_model(network):
            raise unknown_name("timm model", network, timm.list_models())
        tagged = timm.list_pretrained(f"{network}.*")
        raise unknown_name("pretrained timm model", name, [network, *tagged])

    def build(self, name: str, classes: int | None, width: float = 1.0) -> nn.Module:
        """Build a network with random weights and `classes` outputs (None: its own number).

        The channels of its stages are multiplied by `width`. Raises `InputError` if the network
        cannot change it.
        """
        import timm

        self.check(name)
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if width != 1:
            options["channels"] = _stage_channels(name, width)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about layers without channels
                network = timm.create_model(name, pretrained=False, **options)
        except ValueError as error:  # groups that no longer divide the channels
            if width == 1:
                raise
            raise _width_error(name, width, str(error)) from None
        if any(parameter.numel() == 0 for parameter in network.parameters()):
            raise _width_error(name, width, "a layer has no channels left")
        return network

    def imagenet(self, name: str, offline: bool) -> Mapping[str, torch.Tensor]:
        """Fetch the published ImageNet weights, or take them from the local cache."""
        import huggingface_hub.constants
        import timm

        if offline and not huggingface_hub.constants.HF_HUB_OFFLINE:
            raise InputError(
                f"offline, the weights of timm:{name} must come from the Hugging Face cache: set "
                "HF_HUB_OFFLINE=1 before Python starts, as --offline does"
            )
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except (OSError, RuntimeError) as error:
            raise _download_error(f"timm:{name}", error) from error

    def preprocessing(self, name: str) -> Preprocessing:
        """Give the preprocessing that the published weights expect."""
        import timm

        configuration = timm.get_pretrained_cfg(name)
        if configuration is None:
            raise InputError(
                f"timm:{name} has no published weights, so no statistics either: give mean and std"
            )
        return read_timm(configuration, name)

    def head(self, network: nn.Module) -> str:
        """Name the head, as timm defines it."""
        classifier = cast("Any", network).get_classifier()
        for name, module in network.named_modules():
            if module is classifier:
                return name
        raise InputError(f"{type(network).__name__} has no single layer that is its head")


def scale_channels(channels: int, width: float) -> int:
    """Multiply a number of channels by a width: to the nearest multiple of 8, at least 8.

    >>> scale_channels(64, 0.25), scale_channels(48, 0.5), scale_channels(8, 0.1)
    (16, 24, 8)
    >>> scale_channels(24, 0.5)
    16
    """
    return max(8, int(channels * width / 8 + 0.5) * 8)


Library = Torchvision | Timm
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
    import timm

    if not timm.models.is_model_in_modules(name, ("resnet",)):
        raise _fixed_width_error(f"timm:{name}")
    with torch.device("meta"):
        network: Any = timm.create_model(name, pretrained=False)
    stages = [stage for stage in network.feature_info if stage["module"].startswith("layer")]
    blocks = [network.get_submodule(stage["module"])[-1] for stage in stages]
    return tuple(
        scale_channels(stage["num_chs"] // block.expansion, width)
        for stage, block in zip(stages, blocks, strict=True)
    )


def _width_error(name: str, width: float, reason: str) -> InputError:
    return InputError(f"width {width:g} does not suit timm:{name}: {reason.splitlines()[0]}")


def _fixed_width_error(backbone: str) -> InputError:
    return InputError(
        "width: another than 1 is known for timm's ResNets, such as timm:resnet18, not for "
        f"{backbone}"
    )


def _download_error(backbone: str, error: Exception) -> InputError:
    return InputError(
        f"the ImageNet weights of {backbone} could not be fetched ({first_line(error)}); "
        "give a local file as weights instead, or none for random ones"
    )


# ---------------------------------------------------------------- encoders


class Encoder(NamedTuple):
    """A module from float images `[B, 3, H, W]` in [0, 1] to features `[B, D]`, and D."""

    module: nn.Module
    features: int


class FeatureHead(nn.Module):
    """Replaces a head and returns its input, which must be `[B, D]`.

    >>> FeatureHead()(torch.ones(2, 5)).shape
    torch.Size([2, 5])
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features unchanged; raises `InputError` if they are not `[B, D]`."""
        if features.ndim != 2:
            raise _features_error(f"one of shape {list(features.shape)}")
        return features


def make_encoder(model: Classifier, backbone: str) -> Encoder:
    """Give a classifier without its head, but with its normalisation and resizing.

    The two share all parameters, buffers and layers except the head: training one trains the other.
    They also share the mode (`train`, `eval`) of these layers. So freeze batch norm first, and set
    the mode of the one that is used next.

    Args:
        model: from `build` or `load_model`.
        backbone: `torchvision:NAME` or `timm:NAME`.

    Raises:
        InputError: the input of the head is not `[B, D]`. If its layer does not show that, the
            error comes with the first batch.

    >>> from fairweather.models.opening import load_model
    >>> model = load_model("timm:test_resnet", classes=3, weights="none")
    >>> encoder = make_encoder(model, "timm:test_resnet")
    >>> encoder.module(torch.rand(2, 3, 32, 32)).shape, encoder.features
    (torch.Size([2, 96]), 96)
    """
    name = _head_name(model, backbone)
    head = model.get_submodule(name)
    if not isinstance(head, nn.Linear):
        raise _features_error(f"those that a {type(head).__name__} takes in {backbone}")
    return Encoder(_replace_part(model, name.split("."), FeatureHead()), head.in_features)


def state_without_head(model: Classifier, backbone: str) -> dict[str, torch.Tensor]:
    """Give all tensors of a classifier except those of its head, for a file of weights.

    They are on the CPU and contiguous, as safetensors needs them, and include `mean` and `std`. A
    model with this file as `weights` has the same backbone and normalisation and a new head.

    >>> from fairweather.models.opening import load_model
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


def _replace_part(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """A copy of a module that shares everything except the one part at a path."""
    first, *rest = path
    shallow: Any = copy.copy(module)
    # The tables of parameters and buffers stay shared, so that moving one module moves both.
    shallow._modules = dict(module._modules)
    shallow._modules[first] = _replace_part(shallow._modules[first], rest, part) if rest else part
    return shallow


def _features_error(inputs: str) -> InputError:
    return InputError(f"an encoder needs features [B, D] before the head, found {inputs}")
