"""Supervised training: a generator of epochs; the caller prints, saves and decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fairweather.data.batches import to_input
from fairweather.devices import place_network, send
from fairweather.errors import InputError
from fairweather.processes import keep_freed_memory
from fairweather.training import loop_parts
from fairweather.training.augmentation import (
    TrainingBatch,
    known_share,
    make_batch,
    move_if_room,
    training_batches,
)
from fairweather.training.losses import ONE_CLASS, LabelLoss, Weights
from fairweather.training.ranks import ALONE, Ranks
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.methods import rotate_quarter
from fairweather.types.measurement import Attack, Images, Shift

if TYPE_CHECKING:
    from fairweather.training.fabric import Fabric

# --- The loss

Forward = Callable[[torch.Tensor], torch.Tensor]


def supervised_loss(
    forward: Forward,
    batch: TrainingBatch,
    recipe: Recipe,
    loss: LabelLoss = ONE_CLASS,
    weights: Weights = None,
    known: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of the labels of the first view, plus the consistency loss of AugMix's other views.

    One forward pass has all views, so that batch norm sees them together, as in the published code
    (Hendrycks et al. 2020).

    Args:
        forward: the network: float `[B, 3, H, W]` to logits `[B, C]`.
        batch: the images, or one process's part of them.
        recipe: the settings of the loss.
        loss: how the labels are learned.
        weights: what findings that are there count, float `[L]`; None for 1.
        known: the share of known labels in the batch of all processes; None if this is all of it.

    >>> batch = TrainingBatch((torch.zeros(2, 3, 8, 8),), torch.tensor([0, 1]))
    >>> supervised_loss(lambda images: torch.zeros(len(images), 2), batch, Recipe())
    tensor(0.6931)
    """
    logits = forward(torch.cat(batch.views)) if len(batch.views) > 1 else forward(batch.views[0])
    clean, *others = logits.split(len(batch.targets))
    share = known_share(batch.targets) if known is None else known
    total = loss.compute(clean, batch.targets, recipe, weights, share)
    if others and recipe.augmix:
        total = total + recipe.augmix.consistency * loss.divergence(clean, *others)
    return total


def attack_batch(
    batch: TrainingBatch,
    keys: torch.Tensor,
    model: nn.Module,
    attack: Attack,
    rng: np.random.Generator,
) -> TrainingBatch:
    """Replace the images of a batch by attacked ones (Madry et al. 2018).

    The attack uses the model in evaluation mode, so that it changes no statistics of batch norm. It
    starts from other random points in every batch.
    """
    (images,) = batch.views
    seed = int(rng.integers(2**31))
    return batch._replace(views=(attack(model, images, batch.targets, keys, seed),))


class RotationTask(nn.Module):
    """A second head that predicts by how many quarter turns an image was rotated.

    It reads the same features as the head of the classifier. Each image of a batch is used once
    more, rotated by 0 to 3 quarter turns; the paper uses all four turns, at twice the cost.

    Source: Hendrycks et al. 2019, Using Self-Supervised Learning Can Improve Model Robustness and
    Uncertainty, section 3.

    Args:
        head: the classifier's head, a layer with `in_features` that takes float `[B, features]`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        features = getattr(head, "in_features", None)
        if features is None:
            raise InputError(
                "recipe: rotation_prediction needs a classifier whose head is a linear layer, "
                f"found {type(head).__name__}"
            )
        self.linear = nn.Linear(features, 4)
        self._head = [head]  # in a list, as it is no part of this module

    def loss(
        self, forward: Forward, images: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """Cross-entropy of the predicted turns of float images `[B, 3, S, S]`."""
        turns = send(torch.from_numpy(rng.integers(4, size=len(images))), images.device)
        inputs: list[torch.Tensor] = []  # of the classifier's head
        with self._head[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
            forward(rotate_quarter(images, turns))
        return F.cross_entropy(self.linear(inputs[-1].float()), turns)


def check_square_images(images: Images, recipe: Recipe) -> None:
    """Raise `InputError` if a recipe rotates by quarter turns and the images are not square."""
    height, width = images.images.shape[2:]
    if recipe.rotation_prediction and height != width:
        raise InputError(
            f"recipe: rotation_prediction rotates images by 90 degrees and needs square images, "
            f"found {height}x{width}"
        )


# --- The state of a training

State = dict[str, Any]


class MovingAverage(AveragedModel):
    """An exponential moving average of a model, its batch-norm statistics included.

    Each `update_parameters(model)` sets average = d * average + (1 - d) * model. Here d is the
    smaller of `decay` and (1 + step) / (10 + step), so that the average soon forgets the random
    initialisation. Tarvainen & Valpola 2017 raise the decay in steps for the same reason.

    >>> model = nn.Linear(1, 1)
    >>> average = MovingAverage(model, 0.9)
    >>> average.update_parameters(model)
    >>> bool(average.module.weight == model.weight)
    True
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a step towards a model; the method of torch would wait for the device."""
        steps = int(self.n_averaged)
        rate = 1 - min(self.decay, (1 + steps) / (10 + steps))
        for average, current in zip(_tensors(self.module), _tensors(model), strict=True):
            if steps and average.is_floating_point():
                average.lerp_(current, rate)
            else:
                average.copy_(current)
        self.n_averaged += 1


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    return chain(model.parameters(), model.buffers())


class Learner:
    """A model in training, with its optimiser, its average and its second head, if it has them."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        head: nn.Module | None,
        seed: int,
        fabric: Fabric,
        labels: LabelLoss,
        weights: Weights,
    ) -> None:
        """Move the model to the device, with a second head if the recipe asks for one."""
        self.model, self.recipe, self.head = model, recipe, head
        self.labels = labels
        self.weights = None if weights is None else weights.to(fabric.device)
        self.fabric, self.device = fabric, fabric.device
        place_network(model, self.device)
        self.task: RotationTask | None = None
        if recipe.rotation_prediction and head is not None:
            with loop_parts.seeded(seed, self.device):
                self.task = RotationTask(head).to(self.device)
        self.average = MovingAverage(model, recipe.ema_decay) if recipe.ema_decay else None
        self.forward: nn.Module
        self.trainable = [weight for weight in model.parameters() if weight.requires_grad]
        self.probe = False
        self._plain: torch.optim.Optimizer
        self.optimizer: Any = None  # Fabric wraps it in a class without a public name

    def enter(self, phase: loop_parts.Phase, stored: State | None = None) -> None:
        """Begin or continue a phase: each has its own optimiser and trainable parameters."""
        self.probe = phase.probe
        in_head = set(map(id, self.head.parameters())) if self.head is not None else set()
        for weight in self.trainable:
            weight.requires_grad_(not phase.probe or id(weight) in in_head)
        # Again in each phase, because only trained parameters are shared with other processes.
        self.forward = self.fabric.setup_module(self.model)
        self._plain = loop_parts.build_optimizer(
            self.model,
            self.head,
            self.recipe,
            learning_rate=self.recipe.probe_learning_rate if phase.probe else None,
            beside=self.task,
        )
        if stored is not None:
            self._plain.load_state_dict(stored)
        self.optimizer = self.fabric.setup_optimizers(self._plain)

    def load(self, state: State, epochs: int) -> None:
        """Load the state that was stored after this number of epochs."""
        for name, part in (("model", self.model), ("average", self.average), ("task", self.task)):
            if part is not None:
                part.load_state_dict(state[name])
        self.enter(loop_parts.find_phase(self.recipe, epochs - 1), state["optimizer"])

    def state(self) -> State:
        """The state for the next epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._plain.state_dict(),
            **({"average": self.average.state_dict()} if self.average is not None else {}),
            **({"task": self.task.state_dict()} if self.task is not None else {}),
        }

    def train_mode(self) -> None:
        """Set training mode; if only the head is trained, the backbone stays in evaluation mode."""
        if self.probe and self.head is not None:
            self.model.eval()
            self.head.train()
        else:
            self.model.train()

    @property
    def evaluated(self) -> nn.Module:
        """The model whose accuracy is reported and whose weights are stored."""
        return self.model if self.average is None else self.average.module

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """Float32 logits of the evaluated model, computed in the precision of training."""
        with self.fabric.autocast():
            logits: torch.Tensor = self.evaluated(images)
        return logits.float()

    def step(self, loss: torch.Tensor) -> None:
        """Update the weights by one step, and then their average."""
        largest = self.recipe.clip_gradient_norm
        loop_parts.take_step(self.fabric, self.forward, self.optimizer, loss, largest)
        if self.average is not None:
            self.average.update_parameters(self.model)


# --- The loop

MOST_CLEAN_TRAINING_IMAGES = 10_000


class Epoch(NamedTuple):
    """The result of one epoch."""

    history: list[dict[str, float]]
    """The rows of history.csv so far; the last is this epoch's."""

    state: State
    """Everything that training needs to continue. `best` holds the weights that the recipe selects
    so far. `probed` holds the weights at the end of the `probe_epochs`, if other epochs follow
    them."""


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
    ranks: Ranks = ALONE,
    jobs: int = 1,
    loss: LabelLoss = ONE_CLASS,
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
        ranks: the processes that train together; each must call this with the same arguments, and
            gets the same epochs.
        jobs: how many trainings share the memory of the device.
        loss: how the labels are learned: one class of each image, or several findings.

    Raises:
        InputError: there are too few images, the recipe does not fit the labels, or it needs a head
            or an attack that is not given.
        TrainingDivergedError: a loss is not finite; the message has epoch, step and learning rate.
    """
    _check_training(train, recipe, head, attack, ranks)
    loss.check(train, val)
    keep_freed_memory()
    device = device or torch.device("cpu")
    recipe, fabric = loss.complete(recipe), ranks.fabric(device, precision)
    learner = Learner(model, recipe, head, seed, fabric, loss, loss.weigh(recipe, train))
    if not train_shifts:  # shifts need the pixels on the CPU
        train = move_if_room(train, learner.device, jobs)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    probed: dict[str, torch.Tensor] = {}
    if state is not None:
        history, best = list(state["history"]), state["best"]
        probed = state.get("probed", {})
        learner.load(state, len(history))
    for epoch in range(len(history), recipe.epochs):
        phase = loop_parts.find_phase(recipe, epoch)
        if epoch == phase.start:
            learner.enter(phase)
        rng = np.random.default_rng([seed, epoch])
        # Dropout needs different random numbers in each process.
        with loop_parts.training(int(rng.integers(2**63)) ^ ranks.rank, learner.device):
            row = _train_epoch(learner, train, epoch, rng, train_shifts, attack, after_step, ranks)
        row |= _evaluate_epoch(learner, train, val, ranks)
        history = [*history, row]
        weights = learner.evaluated.state_dict()
        if select_epoch(history, recipe) == epoch:
            best = _copy_weights(weights)
        if epoch + 1 == recipe.probe_epochs < recipe.epochs:
            probed = _copy_weights(weights)
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


def _check_training(
    train: Images, recipe: Recipe, head: nn.Module | None, attack: Attack | None, ranks: Ranks
) -> None:
    if len(train) < 2:
        raise InputError(f"training needs at least 2 images, found {len(train)}")
    ranks.check_batches(list(loop_parts.cut_batches(torch.arange(len(train)), recipe.batch_size)))
    if recipe.rotation_prediction and ranks.size > 1:
        # It runs the network twice before a backward pass, which DDP does not support.
        raise InputError(
            f"recipe: rotation_prediction trains in one process, found {ranks.size} processes"
        )
    for name in ("probe_epochs", "rotation_prediction"):
        if getattr(recipe, name) and head is None:
            raise InputError(f"recipe: {name} needs the head of the model")
    if (recipe.adversarial is None) != (attack is None):
        raise InputError("recipe: adversarial and an attack go together: give both or neither")
    check_square_images(train, recipe)


def _copy_weights(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().cpu().clone() for key, tensor in weights.items()}


def _train_epoch(
    learner: Learner,
    train: Images,
    epoch: int,
    rng: np.random.Generator,
    train_shifts: Sequence[Shift],
    attack: Attack | None,
    after_step: Callable[[float], None] | None,
    ranks: Ranks,
) -> dict[str, float]:
    learner.train_mode()
    recipe = learner.recipe
    order = torch.from_numpy(rng.permutation(len(train)))
    steps = list(loop_parts.cut_batches(order, recipe.batch_size))
    losses: list[torch.Tensor] = []
    start = time.perf_counter()
    for step, images in enumerate(training_batches(train, steps, learner.device)):
        loop_parts.set_learning_rate(
            learner.optimizer, loop_parts.learning_rate_scale(recipe, epoch + step / len(steps))
        )
        rate = loop_parts.learning_rates(learner.optimizer)["head"]
        part = ranks.part(len(images))
        batch = make_batch(images, recipe, rng, learner.device, train_shifts)
        known = known_share(batch.targets)
        batch = TrainingBatch(tuple(view[part] for view in batch.views), batch.targets[part])
        if attack is not None:
            keys = send(images.keys[part], learner.device)
            with ranks.agreeing(), loop_parts.report_divergence(epoch, step, rate):
                batch = attack_batch(batch, keys, learner.model, attack, rng)
        loss = supervised_loss(
            learner.forward, batch, recipe, learner.labels, learner.weights, known
        )
        if learner.task is not None:
            turned = learner.task.loss(learner.forward, batch.views[0], rng)
            loss = loss + recipe.rotation_prediction * turned
        loss = ranks.weighted(loss, len(batch.targets), len(images))
        learner.step(loss)
        losses.append(ranks.mean(loss.detach()))
        if loop_parts.is_check_due(step, len(steps), learner.device):
            loop_parts.stop_unless_finite(losses, epoch, rate)
        if after_step is not None and len(losses) < len(steps):
            after_step(len(losses) / len(steps))
    seconds = time.perf_counter() - start
    rates = loop_parts.learning_rates(learner.optimizer)
    return {
        "epoch": epoch + 1,
        "train_loss": loop_parts.mean_loss(losses, [len(index) for index in steps]),
        "learning_rate": rates["head"],
        "backbone_learning_rate": 0.0 if learner.probe else rates.get("backbone", rates["head"]),
        "images_per_second": len(train) / seconds,
        "seconds": seconds,
    }


def _evaluate_epoch(learner: Learner, train: Images, val: Images, ranks: Ranks) -> dict[str, float]:
    for model in (learner.model, learner.evaluated):
        ranks.copy_statistics(model)
    # A fixed, evenly spread subset: no second pass in training mode, no extra randomness.
    stride = -(-len(train) // MOST_CLEAN_TRAINING_IMAGES)
    metric = learner.labels.metric
    _, train_value = _evaluate(learner, train[::stride], ranks)
    val_loss, val_value = _evaluate(learner, val, ranks)
    return {f"train_{metric}": train_value, "val_loss": val_loss, f"val_{metric}": val_value}


@torch.inference_mode()
def _evaluate(learner: Learner, images: Images, ranks: Ranks) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the metric of the labels, of clean, unmixed images."""
    learner.evaluated.eval()
    entropies, outcomes = list[torch.Tensor](), list[torch.Tensor]()
    cut = list(loop_parts.cut_batches(torch.arange(len(images)), 2 * learner.recipe.batch_size))
    for index in cut[ranks.rank :: ranks.size]:
        batch = images[slice(int(index[0]), int(index[-1]) + 1)]
        logits = learner.predict(to_input(send(batch.images, learner.device)))
        labels = send(batch.labels, learner.device)
        entropies.append(learner.labels.entropy(logits, labels, reduction="sum"))
        outcomes.append(learner.labels.outcomes(logits, labels))
    loss = 0.0
    for entropy in entropies:  # only now, as reading waits for the device
        loss += float(entropy)
    losses, parts = zip(*ranks.gather((loss, [rows.cpu() for rows in outcomes])), strict=True)
    mean = sum(losses) / learner.labels.count(images.labels)
    return mean, learner.labels.measure(torch.cat([rows for part in parts for rows in part]))


def select_epoch(history: list[dict[str, float]], recipe: Recipe) -> int:
    """Give the index in the history of the epoch whose weights the recipe selects.

    Epochs that trained only the head do not count if later ones trained the backbone too.

    >>> rows = [{"val_accuracy": 0.5, "val_loss": 1.0}, {"val_accuracy": 0.7, "val_loss": 0.9}]
    >>> select_epoch(rows, Recipe(select="accuracy"))
    1
    """
    last = len(history) - 1
    candidates = range(loop_parts.find_phase(recipe, last).start, len(history))
    if recipe.select == "last":
        return last
    if recipe.select == "nll":
        return min(candidates, key=lambda i: history[i]["val_loss"])
    metric = f"val_{recipe.select}"
    return min(candidates, key=lambda i: (-history[i][metric], history[i]["val_loss"]))
