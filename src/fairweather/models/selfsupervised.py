"""What self-supervised pre-training leaves behind: published backbones, and heads of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import nn

from fairweather.models.fitting import (
    COMPILED,
    WRAPPERS,
    Fitted,
    attribute,
    common_prefix,
    fit_names,
)


class PublishedWeights(NamedTuple):
    """Weights of a method's authors: where they are, and of which backbone."""

    address: str
    backbone: str


# Backbones without a head, pre-trained on ImageNet without its labels. Nothing of this is shipped
# or taken by default. The licence of the authors' code need not be that of their weights, and that
# of Barlow Twins has changed over time (CC BY-NC 4.0 once): look at it before you use them.
PUBLISHED_WEIGHTS: Mapping[str, PublishedWeights] = {
    # github.com/facebookresearch/barlowtwins (Zbontar et al. 2021)
    "barlow_twins": PublishedWeights(
        "https://dl.fbaipublicfiles.com/barlowtwins/"
        "ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
        "torchvision:resnet50",
    ),
    # github.com/facebookresearch/vicreg (Bardes et al. 2022)
    "vicreg": PublishedWeights(
        "https://dl.fbaipublicfiles.com/vicreg/resnet50.pth", "torchvision:resnet50"
    ),
}

# The attributes in which programs keep what only pre-training needs: Barlow Twins, VICReg, SimSiam,
# SimCLR, SwAV, MoCo, solo-learn, lightly.
HEADS = {
    *("projector", "projection_head", "projection_mlp", "projection", "prototypes"),
    *("predictor", "prediction_head", "prediction_mlp", "online_classifier"),
    *("encoder_k", "queue", "queue_ptr"),
}
MOMENTUM = re.compile(r"^(momentum|target|teacher)_|_(momentum|target)$")
# Names that other things have too, and that are pre-training's only beside one of its heads: the
# norm of Barlow Twins' embedding, solo-learn's classifier that learns along.
BESIDE = {"bn", "classifier"}
NUMBERED = re.compile(rf"^((?:(?:{'|'.join(sorted(WRAPPERS))})\.)*)(\d+)\.(.+)$")


def fit_state(state: Mapping[str, torch.Tensor], network: nn.Module, head: str | None) -> Fitted:
    """Give a file's tensors the names of a network, without those that only pre-training needs.

    A projector, a predictor, a copy with momentum, a queue are left out and named. Where there are
    any beside a network, what stands in the place of its head is a projector as well, and left out
    too; where they are parts of the network itself, its head is a head. Children by number, as in
    `Sequential(*list(network.children())[:-1])`, get their names.

    Args:
        state: of a file.
        network: whose names they shall have.
        head: the name of its head, if it has one.

    >>> network = nn.Sequential()
    >>> network.add_module("conv", nn.Conv2d(3, 8, 3))
    >>> held = {f"module.backbone.{key}": value for key, value in network.state_dict().items()}
    >>> fitted = fit_state({**held, "module.projector.0.weight": torch.ones(4, 8)}, network, None)
    >>> list(fitted.state), fitted.pretraining
    (['conv.weight', 'conv.bias'], ('module.projector.0.weight',))
    """
    names = set(network.state_dict())
    bare = {key.replace(COMPILED, ""): tensor for key, tensor in state.items()}
    numbered = named_children(bare, [name for name, _ in network.named_children()])
    more = common_prefix(numbered, names).names > common_prefix(bare, names).names
    if more and len(numbered) == len(bare):
        bare = numbered
    fitted = fit_names(bare, names)
    strangers = {key: attribute(key) for key in fitted.state if key not in names}
    own = {key for key, part in strangers.items() if _of_pretraining(part)}
    if not own:
        return fitted
    own |= {key for key, part in strangers.items() if part in BESIDE}
    beside = not all(key.startswith(fitted.prefix) for key in own)
    if head and beside:
        places = (f"{head}.", f"{fitted.prefix}{head}.")
        own |= {key for key in fitted.state if key.startswith(places)}
    kept = {key: tensor for key, tensor in fitted.state.items() if key not in own}
    return fitted._replace(state=kept, pretraining=tuple(key for key in fitted.state if key in own))


def named_children(
    state: Mapping[str, torch.Tensor], children: Collection[str]
) -> dict[str, torch.Tensor]:
    """Call children by their names that are called by their places.

    >>> list(named_children({"backbone.1.weight": torch.ones(1)}, ["conv1", "bn1"]))
    ['backbone.bn1.weight']
    """
    places = {str(place): name for place, name in enumerate(children)}
    renamed = {}
    for key, tensor in state.items():
        match = NUMBERED.match(key)
        if match and match[2] in places:
            renamed[f"{match[1]}{places[match[2]]}.{match[3]}"] = tensor
        else:
            renamed[key] = tensor
    return renamed


def _of_pretraining(part: str) -> bool:
    """Tell whether an attribute is that of a head, or of a copy, that only pre-training needs."""
    return part in HEADS or bool(MOMENTUM.search(part))
