"""Checkpoints of self-supervised pre-training: published backbones, and parts to leave out."""

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
    """Weights that the authors of a method published: their address and their backbone."""

    address: str
    backbone: str


# Backbones without a head, pre-trained on ImageNet without its labels. None of them is shipped or
# used by default. The licence of the authors' code need not be that of their weights, and that of
# Barlow Twins has changed over time (it was CC BY-NC 4.0): check it before you use them.
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

# The attributes for parts that only pre-training needs, in Barlow Twins, VICReg, SimSiam,
# SimCLR, SwAV, MoCo, solo-learn, lightly.
HEADS = {
    *("projector", "projection_head", "projection_mlp", "projection", "prototypes"),
    *("predictor", "prediction_head", "prediction_mlp", "online_classifier"),
    *("encoder_k", "queue", "queue_ptr"),
}
MOMENTUM = re.compile(r"^(momentum|target|teacher)_|_(momentum|target)$")
# Names that other parts have too. They belong to pre-training only if one of its heads is there:
# the norm of Barlow Twins' embedding, and the classifier that solo-learn trains along.
BESIDE = {"bn", "classifier"}
NUMBERED = re.compile(rf"^((?:(?:{'|'.join(sorted(WRAPPERS))})\.)*)(\d+)\.(.+)$")


def fit_state(state: Mapping[str, torch.Tensor], network: nn.Module, head: str | None) -> Fitted:
    """Give a file's tensors the names of a network, without those that only pre-training needs.

    Projectors, predictors, momentum copies and queues are left out and named in the result. If they
    are outside the network, its head is a projector too and is left out; if they are parts of the
    network itself, its head is kept. Children by number, as in
    `Sequential(*list(network.children())[:-1])`, get their names.

    Args:
        state: the tensors of a file.
        network: the network whose names the tensors get.
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
    own = {key for key, part in strangers.items() if part in HEADS or MOMENTUM.search(part)}
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
    """Replace the numbers of child modules by their names.

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
