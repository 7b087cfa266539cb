"""The supervised loop: a generator of epochs; the caller prints, saves and decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.errors import InputError
from fairweather.group import ALONE, Group
from fairweather.training.batching import Batch, make_batch, near, training_batches
from fairweather.training.learner import Learner, State
from fairweather.training.loop_parts import (
    is_time_to_look,
    mean_loss,
    seeded,
    stop_unless_finite,
    stop_where_outputs_are_not_finite,
    to_input,
)
from fairweather.training.objective import attacked, check_square, supervised_loss
from fairweather.training.optimization import (
    batches,
    learning_rate_scale,
    learning_rates,
    phase_of,
    set_learning_rate,
)
from fairweather.training.recipe import Recipe
from fairweather.types import Attack, Images, Shift

MOST_CLEAN_TRAINING_IMAGES = 10_000


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats and accuracy of clean, unmixed images."""

    loss: float
    accuracy: float


class Epoch(NamedTuple):
    """The result of one epoch.

    Attributes:
        history: the rows of history.csv so far; the last is this epoch's.
        state: everything that training needs to continue. `best` holds the weights that the recipe
            selects so far. `probed` holds the weights at the end of the `probe_epochs`, if other
            epochs follow them.
    """

    history: list[dict[str, float]]
    state: State


def fit(
    model: nn.Module,
    train: Images,
    val: Images,
    recipe: Recipe,
    *,
    head: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    precision: str = "fp32",
    state: State | None = None,
    train_shifts: Sequence[Shift] = (),
    attack: Attack | None = None,
    after_step: Callable[[float], None] | None = None,
    group: Group = ALONE,
) -> Iterator[Epoch]:
    """Train a classifier, one epoch at a time.

    All random numbers depend on (seed, epoch) only. Training that continues from a `state` thus
    ends with the same weights as training without interruption. The caller's random state stays as
    it is.

    Args:
        model: float images in [0, 1] to logits; trained in place.
        train, val: training images, and validation images, which select the checkpoint.
        recipe: all settings.
        head: the part that has the full learning rate; in `probe_epochs` only this is trained.
        seed: random seed of the order, augmentation and dropout.
        device: where to train; by default the CPU.
        precision: `fp32` or `bf16` (mixed).
        state: an earlier `Epoch.state` to continue from.
        train_shifts: each training image is left as it is or gets one of these shifts, all with the
            same probability.
        attack: the attack on the training images, if the recipe has `adversarial`.
        after_step: called after each step but an epoch's last, with the share of the epoch's steps
            that are done.
        group: the processes that train together; each must call this with the same arguments, and
            gets the same epochs.

    Raises:
        InputError: there are too few images, or the recipe needs a head or an attack that is not
            given.
        TrainingDivergedError: a loss is not finite; the message has epoch, step and learning rate.
    """
    _check(train, recipe, head, attack, group)
    device = device or torch.device("cpu")
    learner = Learner.of(model, recipe, head, seed, device, precision, group)
    if not train_shifts:  # these need the pixels on the CPU
        train = near(train, learner.device)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    probed: dict[str, torch.Tensor] = {}
    if state is not None:
        history, best = list(state["history"]), state["best"]
        probed = state.get("probed", {})
        learner.load(state, len(history))
    for epoch in range(len(history), recipe.epochs):
        phase = phase_of(recipe, epoch)
        if epoch == phase.start:
            learner.enter(phase)
        rng = np.random.default_rng([seed, epoch])
        # Dropout has other random numbers in each process.
        with seeded(int(rng.integers(2**63)) ^ group.rank, learner.device):
            row = _train_epoch(learner, train, epoch, rng, train_shifts, attack, after_step, group)
        row |= _evaluate_epoch(learner, train, val, group)
        history = [*history, row]
        weights = learner.evaluated.state_dict()
        if selected_epoch(history, recipe) == epoch:
            best = _copied(weights)
        if epoch + 1 == recipe.probe_epochs < recipe.epochs:
            probed = _copied(weights)
        yield Epoch(
            history,
            # Not a copy: a caller that keeps a state must save it before the next epoch.
            {
                **learner.state(),
                "history": history,
                "best": best,
                **({"probed": probed} if probed else {}),
            },
        )


def _check(
    train: Images, recipe: Recipe, head: nn.Module | None, attack: Attack | None, group: Group
) -> None:
    if len(train) < 2:
        raise InputError(f"training needs at least 2 images, found {len(train)}")
    group.check_batches(list(batches(torch.arange(len(train)), recipe.batch_size)))
    if recipe.rotation_prediction and group.size > 1:
        # It runs the network twice before a backward pass, which DDP does not support.
        raise InputError(
            f"recipe: rotation_prediction trains in one process, found {group.size} processes"
        )
    for name in ("probe_epochs", "rotation_prediction"):
        if getattr(recipe, name) and head is None:
            raise InputError(f"recipe: {name} needs the head of the model")
    if (recipe.adversarial is None) != (attack is None):
        raise InputError("recipe: adversarial and an attack go together: give both or neither")
    check_square(train, recipe)


def _copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in weights.items()}


def _train_epoch(
    learner: Learner,
    train: Images,
    epoch: int,
    rng: np.random.Generator,
    train_shifts: Sequence[Shift],
    attack: Attack | None,
    after_step: Callable[[float], None] | None,
    group: Group,
) -> dict[str, float]:
    learner.train_mode()
    recipe = learner.recipe
    order = torch.from_numpy(rng.permutation(len(train)))
    steps = list(batches(order, recipe.batch_size))
    losses: list[torch.Tensor] = []
    start = time.perf_counter()
    for step, images in enumerate(training_batches(train, steps, learner.device)):
        set_learning_rate(learner.optimizer, learning_rate_scale(recipe, epoch + step / len(steps)))
        rate = learning_rates(learner.optimizer)["head"]
        batch = make_batch(images, recipe, rng, learner.device, train_shifts)
        part = group.part(len(images))
        batch = Batch(tuple(view[part] for view in batch.views), batch.targets[part])
        if attack is not None:
            keys = images.keys[part].to(learner.device)
            with group.agreeing(), stop_where_outputs_are_not_finite(epoch, step, rate):
                batch = attacked(batch, keys, learner.model, attack, rng)
        loss = supervised_loss(learner.forward, batch, recipe)
        if learner.task is not None:
            turned = learner.task.loss(learner.forward, batch.views[0], rng)
            loss = loss + recipe.rotation_prediction * turned
        loss = group.weighted(loss, len(batch.targets), len(images))
        learner.step(loss)
        losses.append(group.mean(loss.detach()))
        if is_time_to_look(step, len(steps), learner.device):
            stop_unless_finite(losses, epoch, rate)
        if after_step is not None and len(losses) < len(steps):
            after_step(len(losses) / len(steps))
    seconds = time.perf_counter() - start
    rates = learning_rates(learner.optimizer)
    return {
        "epoch": epoch + 1,
        "train_loss": mean_loss(losses, [len(index) for index in steps]),
        "learning_rate": rates["head"],
        "backbone_learning_rate": 0.0 if learner.probe else rates.get("backbone", rates["head"]),
        "images_per_second": len(train) / seconds,
        "seconds": seconds,
    }


def _evaluate_epoch(learner: Learner, train: Images, val: Images, group: Group) -> dict[str, float]:
    for model in (learner.model, learner.evaluated):
        group.copy_statistics(model)
    # A fixed, evenly spread subset: no second pass in training mode, no extra randomness.
    stride = -(-len(train) // MOST_CLEAN_TRAINING_IMAGES)
    on_train = _evaluate(learner, train[::stride], group)
    on_val = _evaluate(learner, val, group)
    return {
        "train_accuracy": on_train.accuracy,
        "val_loss": on_val.loss,
        "val_accuracy": on_val.accuracy,
    }


@torch.inference_mode()
def _evaluate(learner: Learner, images: Images, group: Group) -> Evaluation:
    learner.evaluated.eval()
    loss, correct = 0.0, 0
    every = list(batches(torch.arange(len(images)), 2 * learner.recipe.batch_size))
    for index in every[group.rank :: group.size]:
        batch = images[slice(int(index[0]), int(index[-1]) + 1)]
        logits = learner.predict(to_input(batch.images.to(learner.device)))
        labels = batch.labels.to(learner.device)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
    losses, hits = zip(*group.gather((loss, correct)), strict=True)
    return Evaluation(sum(losses) / len(images), sum(hits) / len(images))


def selected_epoch(history: list[dict[str, float]], recipe: Recipe) -> int:
    """Give the index in the history of the epoch whose weights the recipe selects.

    Epochs that trained only the head do not count if later ones trained the backbone too.

    >>> rows = [{"val_accuracy": 0.5, "val_loss": 1.0}, {"val_accuracy": 0.7, "val_loss": 0.9}]
    >>> selected_epoch(rows, Recipe(select="accuracy"))
    1
    """
    last = len(history) - 1
    candidates = range(phase_of(recipe, last).start, len(history))
    if recipe.select == "last":
        return last
    if recipe.select == "nll":
        return min(candidates, key=lambda i: history[i]["val_loss"])
    return min(candidates, key=lambda i: (-history[i]["val_accuracy"], history[i]["val_loss"]))
