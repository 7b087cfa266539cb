"""The loop of pre-training: a generator of epochs; the caller prints, saves and decides."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from timm.optim.lars import Lars
from torch import nn

from fairweather.errors import InputError
from fairweather.fabric import Fabric
from fairweather.group import ALONE, Group, synchronise_batchnorm
from fairweather.training.batching import near, training_batches
from fairweather.training.loop_parts import (
    descend,
    is_time_to_look,
    mean_loss,
    seeded,
    stop_unless_finite,
)
from fairweather.training.optimization import batches, learning_rates, set_learning_rate
from fairweather.training.selfsupervised.diagnostics import (
    LAST_STEPS,
    Probe,
    correlation_of_views,
    embedding_std,
    knn_accuracy,
    stop_if_collapsed,
)
from fairweather.training.selfsupervised.methods import METHODS, Outcome, TwoViews
from fairweather.training.selfsupervised.pretraining_recipe import PER_IMAGES, Pretraining
from fairweather.training.selfsupervised.views import one_view, two_views
from fairweather.types import Images

State = dict[str, Any]
Matrix = npt.NDArray[np.float64]


class PretrainingEpoch(NamedTuple):
    """The result of one epoch.

    Attributes:
        history: one row per epoch so far; the last is this epoch's. Its keys are `epoch`,
            `train_loss`, `embedding_std`, `knn_accuracy` (with a probe), `learning_rate` and
            `images_per_second`.
        state: everything that pre-training needs to continue; `encoder` holds the weights.
        correlation: float64 `[d, d]`, the cross-correlation after this epoch; None for all methods
            but Barlow Twins.
        correlation_before: the same before the first epoch.
    """

    history: list[dict[str, float]]
    state: State
    correlation: Matrix | None
    correlation_before: Matrix | None


class Learner(nn.Module):
    """An encoder and the objective after it, as one module for the optimiser and for Fabric."""

    def __init__(self, encoder: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, views: Sequence[torch.Tensor], targets: torch.Tensor) -> Outcome:
        """Give the loss and the embedding of a batch."""
        outcome: Outcome = self.objective(self.encoder, views, targets)
        return outcome


def pretrain(
    encoder: nn.Module,
    images: Images,
    recipe: Pretraining,
    *,
    features: int,
    probe: Probe | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: str = "fp32",
    state: State | None = None,
    after_step: Callable[[float], None] | None = None,
    group: Group = ALONE,
    sync_batchnorm: bool = False,
) -> Iterator[PretrainingEpoch]:
    """Pre-train an encoder, one epoch at a time.

    If `state` is that of the last epoch, this epoch is yielded again.

    All random numbers depend on (seed, epoch) only. Pre-training that continues from a `state` thus
    ends with the same weights as pre-training without interruption. The caller's random state stays
    as it is.

    Args:
        encoder: float `[B, 3, H, W]` in [0, 1] to `[B, features]`; trained in place.
        images: training images; only `supervised` uses their labels.
        recipe: all settings.
        features: number of features that the encoder returns.
        probe: labelled images for the k-NN accuracy after every epoch; None for no such column.
        seed: random seed of the projector's weights, the order, views and dropout.
        device: where to train; by default the CPU.
        precision: `fp32` or `bf16` (mixed).
        state: an earlier `PretrainingEpoch.state` to continue from.
        after_step: called after each step but an epoch's last, with the share of the epoch's steps
            that are done.
        group: the processes that train together; each must call this with the same arguments, and
            gets the same epochs. All have equal parts of each batch, so up to one image less than
            there are processes is left out of it.
        sync_batchnorm: batch norm, also that of the projector, has the statistics of the whole
            batch, of all processes; for GPUs only.

    Raises `TrainingDivergedError` with epoch, step and learning rate if a loss is not finite, and
    `CollapsedError` if the embedding is the same for all images at the end of an epoch. `rotation`
    and `supervised` are not checked for collapse, since their loss would show it.
    """
    if len(images) < 2:
        raise InputError(f"pre-training needs at least 2 images, found {len(images)}")
    group.check_batches(list(batches(torch.arange(len(images)), recipe.batch_size)))
    device = device or torch.device("cpu")
    method = METHODS[recipe.method]
    with seeded(_stream(seed, 1), torch.device("cpu")):
        learner = Learner(encoder, method.build(features, recipe, len(images.classes)))
    if sync_batchnorm:
        synchronise_batchnorm(learner)
    learner.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(learner, recipe)
    history: list[dict[str, float]] = []
    if state is None:
        before = _correlation(learner, images, recipe, seed, device)
    else:
        learner.encoder.load_state_dict(state["encoder"])
        learner.objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        history, before = list(state["history"]), _to_numpy(state["correlation_before"])

    def so_far() -> PretrainingEpoch:
        state = {
            # Not a copy: a caller that keeps a state must save it before the next epoch.
            "encoder": learner.encoder.state_dict(),
            "objective": learner.objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "correlation_before": None if before is None else torch.from_numpy(before),
        }
        now = _correlation(learner, images, recipe, seed, device)
        return PretrainingEpoch(history, state, now, before)

    if len(history) >= recipe.epochs:  # it was stopped before the result was stored
        yield so_far()
        return
    fabric = group.fabric(device, precision)
    images = near(images, device)
    wrapped, wrapped_optimizer = fabric.setup(learner, optimizer)
    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([seed, epoch])
        # Dropout has other random numbers in each process.
        with seeded(int(rng.integers(2**63)) ^ group.rank, device):
            row = _train_epoch(
                fabric, wrapped, wrapped_optimizer, images, recipe, epoch, rng, after_step, group
            )
        group.copy_statistics(learner)
        if method.may_collapse:
            stop_if_collapsed(row["embedding_std"], epoch, recipe.method)
        if probe is not None:
            row["knn_accuracy"] = knn_accuracy(encoder, probe, device)
        history = [*history, row]
        yield so_far()


def _train_epoch(
    fabric: Fabric,
    learner: nn.Module,
    optimizer: Any,  # noqa: ANN401 - Fabric wraps the optimiser in a class without a public name
    images: Images,
    recipe: Pretraining,
    epoch: int,
    rng: np.random.Generator,
    after_step: Callable[[float], None] | None,
    group: Group,
) -> dict[str, float]:
    learner.train()
    order = torch.from_numpy(rng.permutation(len(images)))
    # The losses of several processes need equal parts.
    steps = [
        index[: len(index) // group.size * group.size]
        for index in batches(order, recipe.batch_size)
    ]
    losses: list[torch.Tensor] = []
    embeddings: deque[torch.Tensor] = deque(maxlen=LAST_STEPS)
    start = time.perf_counter()
    for step, batch in enumerate(training_batches(images, steps, fabric.device)):
        set_learning_rate(optimizer, learning_rate_scale(recipe, epoch + step / len(steps)))
        part = group.part(len(batch))
        views = [view[part] for view in _views(batch.images.to(fabric.device), recipe, rng)]
        targets = METHODS[recipe.method].targets(batch.labels)[part]
        outcome = learner(views, targets.to(fabric.device))
        descend(fabric, learner, optimizer, outcome.loss, recipe.clip_gradient_norm)
        losses.append(group.mean(outcome.loss.detach()))
        embeddings.append(outcome.embedding.detach())
        if is_time_to_look(step, len(steps), fabric.device):
            stop_unless_finite(losses, epoch, _rate(optimizer))
        if after_step is not None and len(losses) < len(steps):
            after_step(len(losses) / len(steps))
    seconds = time.perf_counter() - start
    spreads = [embedding_std(_whole(each, group)) for each in embeddings]
    return {
        "epoch": epoch + 1,
        "train_loss": mean_loss(losses, [len(index) for index in steps]),
        "embedding_std": float(np.mean(spreads)),
        "learning_rate": _rate(optimizer),
        "images_per_second": len(images) / seconds,
    }


def _whole(embedding: torch.Tensor, group: Group) -> torch.Tensor:
    """The embedding of a whole batch, from those of all processes."""
    if group.size == 1:
        return embedding
    return torch.cat(group.gather(embedding.cpu()))


def _views(
    images: torch.Tensor, recipe: Pretraining, rng: np.random.Generator
) -> tuple[torch.Tensor, ...]:
    if METHODS[recipe.method].views == 2:
        return two_views(images, recipe.views, rng)
    return (one_view(images, recipe.views, 1, rng),)


def _correlation(
    learner: Learner, images: Images, recipe: Pretraining, seed: int, device: torch.device
) -> Matrix | None:
    if recipe.method != "barlow_twins":
        return None
    assert isinstance(learner.objective, TwoViews)
    embed = nn.Sequential(learner.encoder, learner.objective.project)
    return correlation_of_views(embed, images, recipe.views, _stream(seed, 2), device)


def _rate(optimizer: torch.optim.Optimizer) -> float:
    rates = learning_rates(optimizer)
    return rates.get("weights", rates["biases"])


def _stream(seed: int, number: int) -> int:
    """Give a seed that is neither the encoder's nor that of any epoch."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def _to_numpy(matrix: torch.Tensor | None) -> Matrix | None:
    return None if matrix is None else matrix.cpu().numpy()


def parameter_groups(model: nn.Module, recipe: Pretraining) -> list[dict[str, Any]]:
    """Split the trainable parameters into weights and one-dimensional ones (biases and norms).

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

    LARS (You et al. 2017) is timm's. Only weights take steps whose length is relative to their own
    norm; biases and norm parameters take steps of SGD. timm divides by the norm of the gradient
    plus the decayed norm of the weights, the code of Barlow Twins by the norm of the sum of the
    two. At a weight decay of 1e-6 these differ in the sixth digit.
    """
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "lars":
        adapted = [{**group, "always_adapt": group["part"] == "weights"} for group in groups]
        return Lars(adapted, momentum=recipe.momentum, trust_coeff=recipe.trust_coefficient)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, fused=True)


def learning_rate_scale(recipe: Pretraining, epoch: float) -> float:
    """Give the factor on the learning rate after `epoch` epochs, which may be a fraction.

    >>> recipe = Pretraining("barlow_twins", epochs=110, warmup_epochs=10)
    >>> [round(learning_rate_scale(recipe, epoch), 4) for epoch in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5005, 0.001]
    """
    if epoch < recipe.warmup_epochs:
        return epoch / recipe.warmup_epochs
    done = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    high = 0.5 * (1 + math.cos(math.pi * done))
    return high + (1 - high) * recipe.final_learning_rate_scale
