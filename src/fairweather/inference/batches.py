"""The loop over batches, which applies shifts and attacks and computes predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.devices import is_out_of_memory, repeatable_kernels, resolve_device
from fairweather.errors import InputError, unknown_name
from fairweather.metrics import per_image
from fairweather.types import Attack, Images, Predictions, Shift

# With more classes than this, logits would need more space than everything else in a run folder.
MOST_STORED_CLASSES = 100
T = TypeVar("T")


def predict(
    model: nn.Module,
    images: Images,
    shift: Shift | Attack | None = None,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
    temperature: float = 1.0,
    when_halved: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict all images, clean, under a shift or under an attack.

    Shifts are applied to the 8-bit images, attacks to the float tensors. The model is in evaluation
    mode during the call, and in its previous mode afterwards. When memory runs out, the batch size
    is halved, down to one image.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
        images: labelled 8-bit images with as many classes as the model has logits. They may be
            larger than memory; with more than 100 classes, logits are not stored.
        shift: a shift or an attack; None for clean images. An attack uses the model and the labels,
            and its images are not rounded.
        batch_size: images per forward pass.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `fp32` or `bf16` (autocast).
        seed: seed of random shifts and attacks; use the same for all models.
        temperature: the logits are divided by it; attacks use the model without it.
        when_halved: called with the new batch size when memory has run out.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> images = Images(pixels, labels, torch.arange(4), ("cat", "dog"))
    >>> len(predict(model, images, device="cpu"))
    4
    """
    if precision not in ("fp32", "bf16"):
        raise unknown_name("precision", precision, ["fp32", "bf16"])
    if batch_size < 1:
        raise InputError(f"batch_size must be >= 1, found {batch_size}")
    if len(images) == 0:
        raise InputError("prediction needs at least one image, found none")
    device = resolve_device(device) if isinstance(device, str) else device

    def columns(part: Images) -> Predictions:
        logits = shifted_logits(model, part, shift, device, precision, seed)
        labels, keys = part.labels.numpy(), part.keys.numpy()
        return from_logits((logits / temperature).numpy(), labels, keys, part.classes)

    with _evaluating(model, device):
        return join(list(_by_batches(columns, images, batch_size, when_halved)))


def predict_logits(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    precision: str = "fp32",
) -> npt.NDArray[np.float32]:
    """Predict clean images and return their logits, float32 `[N, classes]`, for any classes.

    Arguments as in `predict`.
    """
    device = resolve_device(device) if isinstance(device, str) else device

    def logits(part: Images) -> np.ndarray:
        return shifted_logits(model, part, None, device, precision, 0).numpy()

    with _evaluating(model, device):
        return np.concatenate(list(_by_batches(logits, images, batch_size, None)))


def from_logits(
    logits: np.ndarray,
    labels: npt.NDArray[np.int64],
    keys: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> Predictions:
    """Make the per-image columns of a cell from float32 logits `[N, classes]`.

    `labels` and `keys` are int64 `[N]`, `classes` the names in label order.
    """
    if logits.shape[1] != len(classes):
        raise InputError(
            f"the model has {logits.shape[1]} outputs, but the data have {len(classes)} classes"
        )
    return Predictions(
        keys=keys,
        labels=labels,
        **per_image(logits, labels)._asdict(),
        logits=logits if len(classes) <= MOST_STORED_CLASSES else None,
        classes=classes,
    )


def join(parts: Sequence[Predictions]) -> Predictions:
    """Join the predictions of a model on consecutive groups of images."""
    return _each_column(np.concatenate, parts)


def select(predictions: Predictions, index: npt.NDArray[np.integer]) -> Predictions:
    """Select the rows with the given indices, int `[M]`, in that order."""
    return _each_column(lambda columns: columns[0][index], [predictions])


def _each_column(
    change: Callable[[list[np.ndarray]], np.ndarray], parts: Sequence[Predictions]
) -> Predictions:
    changed: dict[str, Any] = {}
    for field in fields(Predictions):
        columns = [getattr(part, field.name) for part in parts]
        plain = field.name == "classes" or columns[0] is None
        changed[field.name] = columns[0] if plain else change(columns)
    return Predictions(**changed)


@contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _by_batches(
    columns: Callable[[Images], T],
    images: Images,
    size: int,
    when_halved: Callable[[int], None] | None,
) -> Iterator[T]:
    start = 0
    while start < len(images):
        try:
            part: T | None = columns(images[start : start + size])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            part = None  # go on outside `except`, where the error has freed its tensors
        if part is not None:
            start += size
            yield part
            continue
        if size == 1:
            raise InputError("a single image does not fit into memory: use a smaller model")
        size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if when_halved is not None:
            when_halved(size)


@torch.inference_mode()
def shifted_logits(
    model: nn.Module,
    part: Images,
    shift: Shift | Attack | None,
    device: torch.device,
    precision: str,
    seed: int,
) -> torch.Tensor:
    """Return the logits of one batch, float32 `[B, classes]` on the CPU, shifted or attacked.

    Shifts are applied here: to 8-bit images on the CPU, before they become a float tensor.
    """
    images = part.images
    if isinstance(shift, Shift):
        images = shift(images, part.keys, seed)  # on the CPU: the same images on every device
    images = images.to(device)
    inputs = images.to(memory_format=torch.channels_last).float().div_(255)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    if isinstance(shift, Attack):
        labels, keys = part.labels.to(device), part.keys.to(device)
        inputs = shift(model, inputs, labels, keys, seed)
    with repeatable_kernels(), autocast:
        logits = model(inputs)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise InputError(f"a classifier must return logits [B, classes], found {type(logits)}")
    return logits.float().cpu()
