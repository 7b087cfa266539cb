"""Optimisers and the learning rate of a pre-training."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn

from fairweather.training.selfsupervised.recipe import PER_IMAGES, Pretraining


def parameter_groups(model: nn.Module, recipe: Pretraining) -> list[dict[str, Any]]:
    """Split the trainable parameters into weights and one-dimensional ones: biases and norms.

    Each group has `params`, `weight_decay`, its full learning rate `base_lr` for the recipe's batch
    size, and `part`, which is `weights` or `biases`. Empty groups are left out.
    """
    rates = {"weights": recipe.learning_rate, "biases": recipe.bias_learning_rate}
    spared = 0.0 if recipe.optimizer == "lars" else recipe.weight_decay
    decays = {"weights": recipe.weight_decay, "biases": spared}
    parts: dict[str, list[nn.Parameter]] = {"weights": [], "biases": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parts["weights" if parameter.ndim > 1 else "biases"].append(parameter)
    scale = recipe.batch_size / PER_IMAGES
    return [
        {
            "params": parameters,
            "weight_decay": decays[part],
            "lr": rates[part] * scale,
            "base_lr": rates[part] * scale,
            "part": part,
        }
        for part, parameters in parts.items()
        if parameters
    ]


def build_optimizer(model: nn.Module, recipe: Pretraining) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe.

    LARS (You et al. 2017) is timm's. Only weights take steps of a length relative to their own;
    biases and norm parameters take those of SGD. timm divides by the norm of the gradient plus the
    decayed norm of the weights, Barlow Twins' code by the norm of the sum of the two: at a weight
    decay of 1e-6 these differ in the sixth digit.
    """
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "lars":
        adapted = [{**group, "always_adapt": group["part"] == "weights"} for group in groups]
        return Lars(adapted, momentum=recipe.momentum, trust_coeff=recipe.trust_coefficient)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def learning_rate_scale(recipe: Pretraining, epoch: float) -> float:
    """Give the factor on the learning rate after `epoch` epochs, a fraction within an epoch.

    >>> recipe = Pretraining("barlow_twins", epochs=110, warmup_epochs=10)
    >>> [round(learning_rate_scale(recipe, epoch), 4) for epoch in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5005, 0.001]
    """
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    done = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    high = 0.5 * (1 + math.cos(math.pi * done))
    return high + (1 - high) * recipe.final_learning_rate_scale
