"""Choices about the architecture of a network: its stem, its norm, its global pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.norm_act import BatchNormAct2d, GroupNormAct
from torch import nn

from fairweather.errors import InputError, unknown_name

Stem = Literal["imagenet", "small"]
Norm = Literal["batch", "group"]
Pooling = Literal["average", "max", "average+max"]

MOST_GROUPS = 32  # Wu & He 2018, table 3
# With one channel per group, nothing would be left of feature maps of one pixel.
SMALLEST_GROUP = 2


def make_choices(network: nn.Module, **choices: str) -> None:
    """Change a network in place as its specification says; the published choice changes nothing.

    Args:
        network: as its library builds it.
        choices: the chosen value for each key of `CHOICES`.

    Raises:
        InputError: a value that is not in the table, or a network that cannot be changed like this.

    >>> from torchvision.models import resnet18
    >>> network = resnet18()
    >>> make_choices(network, norm="group", pooling="max")
    >>> network.bn1.num_groups, network.avgpool.pool_type
    (32, 'max')
    """
    for key, value in choices.items():
        if value not in CHOICES[key]:
            raise unknown_name(key, value, CHOICES[key])
        CHOICES[key][value](network)


def small_stem(network: nn.Module) -> None:
    """Keep the resolution in the first layers, for images of about 28 to 64 pixels.

    ResNets get a 3x3 convolution of stride 1 and no max-pooling (He et al. 2016, section 4.2).
    Deep stems of several 3x3 convolutions, EfficientNets and MobileNets keep their layers; only the
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


def group_norm(network: nn.Module) -> None:
    """Replace every batch norm by group norm (Wu & He 2018), in place.

    Scale, shift, epsilon, fused activations and the names of tensors stay. In training, the output
    for an image no longer depends on the other images of its batch. Raises `InputError` for a
    network without batch norm, or with a batch norm that is not for images.

    >>> network = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24))
    >>> group_norm(network)
    >>> network[1].num_groups
    12
    """
    kind = type(network).__name__
    norms = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    if not norms:
        raise InputError(f"norm: group replaces batch norm, and {kind} has none")
    if found := {type(norm).__name__ for norm in norms.values() if type(norm) not in _GROUPED}:
        known = ", ".join(each.__name__ for each in _GROUPED)
        raise InputError(f"norm: group replaces {known}, but {kind} has {', '.join(sorted(found))}")
    for name, norm in norms.items():
        network.set_submodule(name, _GROUPED[type(norm)](norm))


def group_count(channels: int) -> int:
    """Give the number of groups for some channels: the largest that divides them evenly.

    At most 32, the published number, with at least two channels each.

    >>> [group_count(channels) for channels in (64, 40, 32, 7, 1)]
    [32, 20, 16, 1, 1]
    """
    most = min(MOST_GROUPS, channels // SMALLEST_GROUP)
    return max((count for count in range(1, most + 1) if channels % count == 0), default=1)


def pool(kind: str, network: nn.Module) -> None:
    """Change how the last feature maps are pooled, in place.

    Args:
        kind: timm's name: `max`, or `avgmax` for half the sum of the average and the maximum.
        network: with one layer that averages whole feature maps. Torchvision's VGG, DenseNet and
            MobileNetV2 have none: they pool to a grid or in their `forward`.

    Raises:
        InputError: there is no such layer.

    >>> import timm
    >>> network = timm.create_model("test_efficientnet")
    >>> pool("avgmax", network)
    >>> network.global_pool.pool_type
    'avgmax'
    """
    found = {name: layer for name, layer in network.named_modules() if _averages(name, layer)}
    if len(found) != 1:
        raise InputError(
            "pooling: only average is possible for "
            f"{type(network).__name__}; others need one pooling layer, as ResNets, EfficientNets, "
            "MobileNetV3 and ConvNeXt of torchvision and timm have"
        )
    ((name, layer),) = found.items()
    flatten = isinstance(getattr(layer, "flatten", None), nn.Flatten)
    network.set_submodule(name, SelectAdaptivePool2d(pool_type=kind, flatten=flatten))


def _averages(name: str, layer: nn.Module) -> bool:
    # Squeeze-and-excitation blocks have an `avgpool` too, but not at the top of a network.
    if name == "avgpool" and isinstance(layer, nn.AdaptiveAvgPool2d):
        return layer.output_size in (1, (1, 1))
    return isinstance(layer, SelectAdaptivePool2d) and isinstance(layer.pool, nn.AdaptiveAvgPool2d)


def _plain(norm: nn.Module) -> nn.Module:
    old: Any = norm
    new = nn.GroupNorm(group_count(old.num_features), old.num_features, old.eps, old.affine)
    new.weight, new.bias = old.weight, old.bias
    return new


def _fused(norm: nn.Module) -> nn.Module:
    old: Any = norm
    groups = group_count(old.num_features)
    new = GroupNormAct(old.num_features, groups, eps=old.eps, affine=old.affine)
    new.weight, new.bias, new.drop, new.act = old.weight, old.bias, old.drop, old.act
    return cast("nn.Module", new)


def _as_published(network: nn.Module) -> None:
    """Change nothing."""


_GROUPED: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    nn.BatchNorm2d: _plain,
    BatchNormAct2d: _fused,
}
CHOICES: Mapping[str, Mapping[str, Callable[[nn.Module], None]]] = {
    "stem": {"imagenet": _as_published, "small": small_stem},
    "norm": {"batch": _as_published, "group": group_norm},
    "pooling": {
        "average": _as_published,
        "max": partial(pool, "max"),
        "average+max": partial(pool, "avgmax"),
    },
}
