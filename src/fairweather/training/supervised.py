"""The supervised loop: a generator of epochs; the caller prints, saves and decides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning_fabric
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fairweather.devices import repeatable_kernels
from fairweather.errors import InputError, TrainingDivergedError
from fairweather.training.augment import apply_geometry, change_weather, draw_geometry, mix
from fairweather.training.optimization import (
    batches,
    build_optimizer,
    learning_rate_scale,
    learning_rates,
    set_learning_rate,
)
from fairweather.training.recipe import Recipe
from fairweather.types import Images, Shift

MOST_CLEAN_TRAINING_IMAGES = 10_000
_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}
State = dict[str, Any]


class Evaluation(NamedTuple):
    """Mean cross-entropy in nats and accuracy of clean, unmixed images."""

    loss: float
    accuracy: float


class Epoch(NamedTuple):
    """What one epoch left behind.

    Attributes:
        history: the rows of history.csv so far, this epoch's last.
        state: everything that training needs to go on from here, and `best`, the weights that the
            recipe selects so far.
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
    weather: Sequence[Shift] = (),
) -> Iterator[Epoch]:
    """Train a classifier, an epoch at a time.

    Everything random is drawn from (seed, epoch), so that training which goes on from a `state`
    ends with the same weights as training that was never interrupted; the caller's random state
    stays as it is.

    Args:
        model: float images in [0, 1] to logits; trained in place.
        train, val: `Images`; val chooses the checkpoint.
        recipe: every knob.
        head: the part that has the full learning rate.
        seed: of order, augmentation and dropout.
        device: where to train; by default the CPU.
        precision: `fp32` or `bf16` (mixed).
        state: an earlier `Epoch.state` to go on from.
        weather: shifts of the training images: each image is left as it is or gets one of them, all
            with the same chance.

    Raises `TrainingDivergedError` with epoch, step and learning rate when a loss is not finite.
    """
    if len(train) < 2:
        raise InputError(f"training needs at least 2 images, found {len(train)}")
    device = device or torch.device("cpu")
    fabric = lightning_fabric.Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=_FABRIC_PRECISION[precision],  # type: ignore[arg-type]
    )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, head, recipe)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, best = list(state["history"]), state["best"]
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    for epoch in range(len(history), recipe.epochs):
        rng = np.random.default_rng([seed, epoch])
        with _seeded(int(rng.integers(2**63)), device):
            row = _train_epoch(
                fabric, wrapped, wrapped_optimizer, train, recipe, epoch, rng, weather
            )
        row |= _evaluate_epoch(fabric, wrapped, train, val, recipe)
        history = [*history, row]
        if selected_epoch(history, recipe) == epoch:
            best = {
                key: tensor.detach().cpu().clone() for key, tensor in model.state_dict().items()
            }
        model_state, optimizer_state = model.state_dict(), optimizer.state_dict()
        yield Epoch(
            history,
            # Live, not copied: whoever keeps a state saves it before asking for the next epoch.
            {"model": model_state, "optimizer": optimizer_state, "history": history, "best": best},
        )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the CPU and the one device that trains, and put both back afterwards."""
    cuda = device.type == "cuda"
    forked = torch.random.fork_rng(devices=[device] if cuda else [])
    with forked, repeatable_kernels(tf32=True):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Turn a batch of 8-bit images into a float tensor in [0, 1], channels last in memory."""
    return images.to(memory_format=torch.channels_last).float().div_(255)


def _train_epoch(
    fabric: lightning_fabric.Fabric,
    model: nn.Module,
    optimizer: Any,  # noqa: ANN401 - Fabric wraps the optimiser in a class without a public name
    train: Images,
    recipe: Recipe,
    epoch: int,
    rng: np.random.Generator,
    weather: Sequence[Shift],
) -> dict[str, float]:
    model.train()
    order = torch.from_numpy(rng.permutation(len(train)))
    steps = list(batches(order, recipe.batch_size))
    losses: list[torch.Tensor] = []
    start = time.perf_counter()
    for step, index in enumerate(steps):
        set_learning_rate(optimizer, learning_rate_scale(recipe, epoch + step / len(steps)))
        batch = change_weather(train[index], weather, rng) if weather else train[index]
        images, targets = _augmented_batch(batch, recipe, rng, fabric.device)
        loss = F.cross_entropy(model(images), targets, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        fabric.backward(loss)
        if recipe.clip_gradient_norm is not None:
            fabric.clip_gradients(model, optimizer, max_norm=recipe.clip_gradient_norm)
        optimizer.step()
        losses.append(loss.detach())
        # Looking at a loss waits for the device: now and then is enough, and on the last step.
        if fabric.device.type == "cpu" or step % 50 == 49 or step == len(steps) - 1:
            _stop_unless_finite(losses, epoch, learning_rates(optimizer))
    seconds = time.perf_counter() - start
    sizes = torch.tensor([len(index) for index in steps], dtype=torch.float64)
    values = torch.stack(losses).double().cpu()
    rates = learning_rates(optimizer)
    return {
        "epoch": epoch + 1,
        "train_loss": float((values * sizes).sum() / sizes.sum()),
        "learning_rate": rates["head"],
        "backbone_learning_rate": rates.get("backbone", rates["head"]),
        "images_per_second": len(train) / seconds,
    }


def _augmented_batch(
    batch: Images, recipe: Recipe, rng: np.random.Generator, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch.images.to(device), batch.labels.to(device)
    if recipe.horizontal_flip or recipe.vertical_flip or recipe.rotation:
        images = apply_geometry(images, draw_geometry(len(images), recipe, rng))
    if not recipe.mixup:
        return to_input(images), labels
    return mix(to_input(images), labels, len(batch.classes), recipe.mixup, rng)


def _stop_unless_finite(losses: list[torch.Tensor], epoch: int, rates: dict[str, float]) -> None:
    finite = torch.stack(losses[-50:]).isfinite()
    if not finite.all():
        first = len(losses) - len(finite) + int(finite.int().argmin()) + 1
        raise TrainingDivergedError(
            f"the loss is {float(losses[first - 1])} in epoch {epoch + 1}, step {first}, at "
            f"learning rate {rates['head']:g}; try a smaller learning_rate or a clip_gradient_norm"
        )


def _evaluate_epoch(
    fabric: lightning_fabric.Fabric, model: nn.Module, train: Images, val: Images, recipe: Recipe
) -> dict[str, float]:
    # A fixed, evenly spread subset: no second pass in training mode, no extra randomness.
    stride = -(-len(train) // MOST_CLEAN_TRAINING_IMAGES)
    on_train = _evaluate(fabric, model, train[::stride], recipe.batch_size)
    on_val = _evaluate(fabric, model, val, recipe.batch_size)
    return {
        "train_accuracy": on_train.accuracy,
        "val_loss": on_val.loss,
        "val_accuracy": on_val.accuracy,
    }


@torch.inference_mode()
def _evaluate(
    fabric: lightning_fabric.Fabric, model: nn.Module, images: Images, batch_size: int
) -> Evaluation:
    model.eval()
    loss, correct = 0.0, 0
    for index in batches(torch.arange(len(images)), 2 * batch_size):
        batch = images[slice(int(index[0]), int(index[-1]) + 1)]
        logits = model(to_input(batch.images.to(fabric.device))).float()
        labels = batch.labels.to(fabric.device)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
    return Evaluation(loss / len(images), correct / len(images))


def selected_epoch(history: list[dict[str, float]], recipe: Recipe) -> int:
    """Give the place in the history of the epoch whose weights the recipe selects.

    >>> rows = [{"val_accuracy": 0.5, "val_loss": 1.0}, {"val_accuracy": 0.7, "val_loss": 0.9}]
    >>> selected_epoch(rows, Recipe(select="accuracy"))
    1
    """
    if recipe.select == "last":
        return len(history) - 1
    if recipe.select == "nll":
        return min(range(len(history)), key=lambda i: history[i]["val_loss"])
    return min(
        range(len(history)), key=lambda i: (-history[i]["val_accuracy"], history[i]["val_loss"])
    )
