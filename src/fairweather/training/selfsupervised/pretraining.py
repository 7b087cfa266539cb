"""Pre-training: a generator of epochs, and the quality of embeddings; the caller saves."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.data.batches import to_input
from fairweather.devices import in_evaluation_mode, place_network, send
from fairweather.errors import CollapsedError, InputError
from fairweather.processes import keep_freed_memory
from fairweather.training import loop_parts
from fairweather.training.augmentation import known_share, move_if_room, training_batches
from fairweather.training.losses import ONE_CLASS, LabelLoss
from fairweather.training.ranks import ALONE, Ranks, synchronise_batchnorm
from fairweather.training.selfsupervised.methods import (
    METHODS,
    BatchLoss,
    TwoViews,
    cross_correlation,
)
from fairweather.training.selfsupervised.pretraining_recipe import PER_IMAGES, Pretraining, Views
from fairweather.training.selfsupervised.views import make_two_views, make_view
from fairweather.types.measurement import Images

if TYPE_CHECKING:
    from fairweather.training.fabric import Fabric

# --- How good an embedding is

MOST_PROBE_TRAIN, MOST_PROBE_VAL, NEIGHBOURS = 5_000, 2_000, 20  # limits of the k-NN probe
TEMPERATURE = 0.07  # Wu et al. 2018, section 3.4, as is the weight exp(s / 0.07)
BATCH_SIZE = 256
SPREAD_STEPS = 5  # steps at the end of an epoch; the spread of the embedding is averaged over them
COLLAPSED_BELOW = 0.05
MOST_CORRELATED_IMAGES, MOST_CORRELATED_DIMENSIONS = 1024, 64  # limits of a correlation matrix


class NeighbourProbe(NamedTuple):
    """Labelled images for k-NN: images of `train` vote on the class of each image of `val`."""

    train: Images
    val: Images

    loss: LabelLoss = ONE_CLASS
    """What kind of labels they have."""


def knn_quality(encoder: nn.Module, probe: NeighbourProbe, device: torch.device) -> float:
    """The accuracy, or the mean AUC of findings, of the votes of the 20 nearest training images.

    Neighbours are nearest by the cosine s of the features; each votes with the weight exp(s / 0.07)
    (Wu et al. 2018, section 3.4). At most 5,000 training and 2,000 validation images, evenly
    spread, are used. Nothing is random. The encoder runs in evaluation mode and is set back.

    Args:
        encoder: float `[B, 3, H, W]` in [0, 1] to `[B, features]`, on `device`.
        probe: two sets with the same classes.
        device: where the encoder is.

    >>> labels = torch.tensor([0, 0, 0, 2, 2, 2])
    >>> pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    >>> pixels[torch.arange(6), labels] = 200
    >>> both = Images(pixels, labels, torch.arange(6), ("red", "green", "blue"))
    >>> encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> knn_quality(encoder, NeighbourProbe(both, both), torch.device("cpu"))
    1.0
    """
    train, val = (
        take_evenly_spread(probe.train, MOST_PROBE_TRAIN),
        take_evenly_spread(probe.val, MOST_PROBE_VAL),
    )
    known = F.normalize(encode_images(encoder, train, device), dim=1)
    unknown = F.normalize(encode_images(encoder, val, device), dim=1)
    nearest = (unknown @ known.T).topk(min(NEIGHBOURS, len(train)), dim=1)
    # The cosine of the nearest is subtracted to prevent overflow; a common factor does not change
    # the vote.
    weights = ((nearest.values - nearest.values[:, :1]) / TEMPERATURE).exp()
    # As whole numbers, whose sum does not depend on the order of addition.
    heavy = (weights * 2**32).round().long().cpu()
    votes = probe.loss.vote(heavy, train.labels[nearest.indices.cpu()], len(train.classes))
    return probe.loss.measure(probe.loss.outcomes(votes, val.labels))


def take_evenly_spread(images: Images, most: int) -> Images:
    """Take at most `most` images, evenly spread."""
    return images[:: -(-len(images) // most)] if len(images) else images


def encode_images(encoder: nn.Module, images: Images, device: torch.device) -> torch.Tensor:
    """Give the float32 features `[N, f]` of images, from the encoder in evaluation mode."""
    with in_evaluation_mode(encoder), torch.inference_mode():
        batches = (send(batch.images, device) for batch in cut_in_order(images))
        return torch.cat([encoder(to_input(batch)).float() for batch in batches])


def cut_in_order(images: Images) -> Iterator[Images]:
    """Cut images into batches, in order."""
    for start in range(0, len(images), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE]


def embedding_std(embedding: torch.Tensor) -> float:
    """Measure how far embeddings spread over the sphere: 1 is evenly, 0 is collapsed.

    Each embedding is divided by its length. The result is the standard deviation of each dimension,
    averaged over the d dimensions, times the square root of d (Chen and He 2021, section 4.1).

    Args:
        embedding: float `[B, d]`, at least two images.

    >>> embedding_std(torch.ones(8, 4))
    0.0
    """
    unit = F.normalize(embedding.float(), dim=1)
    return float(unit.std(0).mean()) * math.sqrt(embedding.shape[1])


def stop_if_collapsed(spread: float, epoch: int, method: str) -> None:
    """Raise `CollapsedError` if an `embedding_std` is below 0.05.

    Below this, the cosine of two images is above 0.997 on average. Useful embeddings have a few
    tenths or more from the first epoch on.

    >>> stop_if_collapsed(0.5, 0, "simsiam")
    """
    if spread < COLLAPSED_BELOW:
        raise CollapsedError(
            f"the embedding of {method} has collapsed in epoch {epoch + 1}: its spread is "
            f"{spread:.2g} (1 means evenly spread, below {COLLAPSED_BELOW:g} means the same for "
            "all images); try a smaller learning_rate, a larger batch_size or another method"
        )


def correlation_of_views(
    embed: nn.Module, images: Images, views: Views, seed: int, device: torch.device
) -> npt.NDArray[np.float64]:
    """Correlate the embeddings of two views of up to 1,024 images, evenly spread.

    The same seed makes the same views, so that the matrices before and after training differ only
    by the training. `embed` runs in evaluation mode and is not changed.

    Args:
        embed: float `[B, 3, H, W]` in [0, 1] to `[B, d]`, on `device`: encoder and projector.
        images: the images to embed; at least two.
        views: how views are made.
        seed: random seed of the views.
        device: where `embed` is.

    Returns float64 `[d, d]` in [-1, 1] on the CPU, of the first 64 dimensions if there are more.

    >>> images = torch.randint(256, (32, 3, 8, 8), dtype=torch.uint8)
    >>> column = torch.arange(32)
    >>> some = Images(images, column * 0, column, ("a",))
    >>> embed = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> correlation_of_views(embed, some, Views(), 0, torch.device("cpu")).shape
    (3, 3)
    """
    rng = np.random.default_rng(seed)
    pairs = []
    with in_evaluation_mode(embed), torch.inference_mode():
        for batch in cut_in_order(take_evenly_spread(images, MOST_CORRELATED_IMAGES)):
            both = make_two_views(send(batch.images, device), views, rng)
            pairs.append(
                [embed(view)[:, :MOST_CORRELATED_DIMENSIONS].cpu().double() for view in both]
            )
        first, second = (torch.cat(embeddings) for embeddings in zip(*pairs, strict=True))
        return cross_correlation(first, second).numpy()


# --- The loop

State = dict[str, Any]
Matrix = npt.NDArray[np.float64]


class PretrainingEpoch(NamedTuple):
    """The result of one epoch."""

    history: list[dict[str, float]]
    """One row per epoch so far; the last is this epoch's. Its keys are `epoch`, `train_loss`,
    `embedding_std`, `learning_rate` and `images_per_second`, and with a probe `knn_accuracy`, or
    `knn_auc` of several findings."""

    state: State
    """Everything that pre-training needs to continue; `encoder` holds the weights."""

    correlation: Matrix | None
    """float64 `[d, d]`, the cross-correlation after this epoch; None for all methods but Barlow
    Twins."""

    correlation_before: Matrix | None
    """The same before the first epoch."""


class EncoderWithObjective(nn.Module):
    """An encoder and the objective after it, as one module for the optimiser and for Fabric."""

    def __init__(self, encoder: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, views: Sequence[torch.Tensor], targets: torch.Tensor) -> BatchLoss:
        """Give the loss and the embedding of a batch."""
        outcome: BatchLoss = self.objective(self.encoder, views, targets)
        return outcome


def pretrain(
    encoder: nn.Module,
    images: Images,
    recipe: Pretraining,
    *,
    features: int,
    probe: NeighbourProbe | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: str = "fp32",
    state: State | None = None,
    after_step: Callable[[float], None] | None = None,
    ranks: Ranks = ALONE,
    jobs: int = 1,
    sync_batchnorm: bool = False,
    loss: LabelLoss = ONE_CLASS,
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
        probe: labelled images for the k-NN votes after every epoch; None for no such column.
        seed: random seed of the projector's weights, the order, views and dropout.
        device: where to train; by default the CPU.
        precision: `fp32` or `bf16` (mixed).
        state: an earlier `PretrainingEpoch.state` to continue from.
        after_step: called after each step but an epoch's last, with the share of the epoch's steps
            that are done.
        ranks: the processes that train together; each must call this with the same arguments, and
            gets the same epochs. All have equal parts of each batch, so up to one image less than
            there are processes is left out of it.
        jobs: how many trainings share the memory of the device.
        sync_batchnorm: batch norm, also that of the projector, has the statistics of the whole
            batch, of all processes; for GPUs only.
        loss: how `supervised` learns the labels.

    Raises `TrainingDivergedError` with epoch, step and learning rate if a loss is not finite.
    Raises `CollapsedError` if the embedding is the same for all images at the end of an epoch.
    `rotation` and `supervised` are not checked for collapse, since their loss would show it.
    """
    if len(images) < 2:
        raise InputError(f"pre-training needs at least 2 images, found {len(images)}")
    ranks.check_batches(list(loop_parts.cut_batches(torch.arange(len(images)), recipe.batch_size)))
    keep_freed_memory()
    device = device or torch.device("cpu")
    method = METHODS[recipe.method]
    with loop_parts.seeded(_derive_seed(seed, 1), torch.device("cpu")):
        objective = method.build(features, recipe, len(images.classes), loss)
        learner = EncoderWithObjective(encoder, objective)
    if sync_batchnorm:
        synchronise_batchnorm(learner)
    place_network(learner, device)
    optimizer = build_optimizer(learner, recipe)
    history: list[dict[str, float]] = []

    def correlate() -> Matrix | None:
        if recipe.method != "barlow_twins":
            return None
        assert isinstance(learner.objective, TwoViews)
        embed = nn.Sequential(learner.encoder, learner.objective.project)
        return correlation_of_views(embed, images, recipe.views, _derive_seed(seed, 2), device)

    if state is None:
        before = correlate()
    else:
        learner.encoder.load_state_dict(state["encoder"])
        learner.objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        history, before = list(state["history"]), state["correlation_before"]
        before = None if before is None else before.cpu().numpy()

    def so_far() -> PretrainingEpoch:
        state = {
            # Not a copy: a caller that keeps a state must save it before the next epoch.
            "encoder": learner.encoder.state_dict(),
            "objective": learner.objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
            "correlation_before": None if before is None else torch.from_numpy(before),
        }
        return PretrainingEpoch(history, state, correlate(), before)

    if len(history) >= recipe.epochs:  # the training stopped before its result was stored
        yield so_far()
        return
    fabric = ranks.fabric(device, precision)
    images = move_if_room(images, device, jobs)
    wrapped, wrapped_optimizer = fabric.setup(learner, optimizer)
    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([seed, epoch])
        # Dropout needs different random numbers in each process.
        with loop_parts.training(int(rng.integers(2**63)) ^ ranks.rank, device):
            row = _train_epoch(
                fabric, wrapped, wrapped_optimizer, images, recipe, epoch, rng, after_step, ranks
            )
        ranks.copy_statistics(learner)
        if method.may_collapse:
            stop_if_collapsed(row["embedding_std"], epoch, recipe.method)
        if probe is not None:
            row[f"knn_{probe.loss.metric}"] = knn_quality(encoder, probe, device)
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
    ranks: Ranks,
) -> dict[str, float]:
    learner.train()
    method = METHODS[recipe.method]
    order = torch.from_numpy(rng.permutation(len(images)))
    # With several processes, the losses need equal parts.
    steps = [
        index[: len(index) // ranks.size * ranks.size]
        for index in loop_parts.cut_batches(order, recipe.batch_size)
    ]
    losses: list[torch.Tensor] = []
    embeddings: deque[torch.Tensor] = deque(maxlen=SPREAD_STEPS)
    start = time.perf_counter()
    for step, batch in enumerate(training_batches(images, steps, fabric.device)):
        loop_parts.set_learning_rate(
            optimizer, learning_rate_scale(recipe, epoch + step / len(steps))
        )
        part = ranks.part(len(batch))
        views = [view[part] for view in _make_views(send(batch.images, fabric.device), recipe, rng)]
        targets = method.targets(batch.labels)
        outcome = learner(views, send(targets[part], fabric.device))
        loss = outcome.loss
        if method.learns_labels and ranks.size > 1:  # the mean is over the known labels of the part
            loss = loss * float(known_share(targets[part]) / known_share(targets).clamp(min=1e-9))
        loop_parts.take_step(fabric, learner, optimizer, loss, recipe.clip_gradient_norm)
        losses.append(ranks.mean(loss.detach()))
        embeddings.append(outcome.embedding.detach())
        if loop_parts.is_check_due(step, len(steps), fabric.device):
            loop_parts.stop_unless_finite(losses, epoch, _weights_rate(optimizer))
        if after_step is not None and len(losses) < len(steps):
            after_step(len(losses) / len(steps))
    seconds = time.perf_counter() - start
    spreads = [embedding_std(_gather_embedding(embedding, ranks)) for embedding in embeddings]
    return {
        "epoch": epoch + 1,
        "train_loss": loop_parts.mean_loss(losses, [len(index) for index in steps]),
        "embedding_std": float(np.mean(spreads)),
        "learning_rate": _weights_rate(optimizer),
        "images_per_second": len(images) / seconds,
    }


def _gather_embedding(embedding: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The embedding of a whole batch, from those of all processes."""
    if ranks.size == 1:
        return embedding
    return torch.cat(ranks.gather(embedding.cpu()))


def _make_views(
    images: torch.Tensor, recipe: Pretraining, rng: np.random.Generator
) -> tuple[torch.Tensor, ...]:
    if METHODS[recipe.method].views == 2:
        return make_two_views(images, recipe.views, rng)
    return (make_view(images, recipe.views, 1, rng),)


def _weights_rate(optimizer: torch.optim.Optimizer) -> float:
    rates = loop_parts.learning_rates(optimizer)
    return rates.get("weights", rates["biases"])


def _derive_seed(seed: int, number: int) -> int:
    """Return a seed that differs from those of the encoder and of all epochs."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1


def parameter_groups(model: nn.Module, recipe: Pretraining) -> list[dict[str, Any]]:
    """Split the trainable parameters into weights and one-dimensional ones (biases and norms).

    Each group has `params`, `weight_decay`, its full learning rate `base_lr` for the recipe's batch
    size, and `part`, which is `weights` or `biases`. Empty groups are left out.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trainable if parameter.ndim > 1]
    biases = [parameter for parameter in trainable if parameter.ndim <= 1]
    spared = 0.0 if recipe.optimizer == "lars" else recipe.weight_decay
    scale = recipe.batch_size / PER_IMAGES
    groups = (
        loop_parts.parameter_group(
            "weights", weights, recipe.learning_rate * scale, recipe.weight_decay
        ),
        loop_parts.parameter_group("biases", biases, recipe.bias_learning_rate * scale, spared),
    )
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, recipe: Pretraining) -> torch.optim.Optimizer:
    """Build the optimiser of a recipe.

    LARS (You et al. 2017) is timm's. Only weights take steps relative to their own norm; biases and
    norm parameters take steps of SGD. timm divides by the norm of the gradient plus the decayed
    norm of the weights. The code of Barlow Twins divides by the norm of their sum. At a weight
    decay of 1e-6 these differ in the sixth digit.
    """
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "lars":
        from timm.optim.lars import Lars

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
