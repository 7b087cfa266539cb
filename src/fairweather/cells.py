"""The loop over cells: a generator of predictions; the caller prints and saves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from fairweather.devices import repeatable_kernels, resolve_device
from fairweather.errors import InputError, unknown_name
from fairweather.metrics import per_image
from fairweather.types import Attack, Cell, Images, Predictions, Shift

# Beyond this many classes, a cell's logits would outweigh everything else in a run folder.
MOST_STORED_CLASSES = 100


def predict(
    model: nn.Module,
    images: Images,
    shift: Shift | Attack | None = None,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
) -> Predictions:
    """Predict every image, shifted before it becomes a float tensor, or attacked after.

    The model is put into evaluation mode and back into the mode that it was in.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
        images: labelled 8-bit images, as many classes as the model has logits.
        shift: None for the images as they are; an attack finds its change with the model and the
            labels, and its images are not rounded.
        batch_size: images in a forward pass.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `fp32` or `bf16` (autocast).
        seed: of stochastic shifts and attacks, one for all models: everyone sees the same weather.

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
        raise InputError("there are no images to predict")
    device = resolve_device(device) if isinstance(device, str) else device
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    was_training = model.training
    model.eval()
    try:
        starts = range(0, len(images), batch_size)
        parts = [images[start : start + batch_size] for start in starts]
        logits = [_logits(model, part, shift, device, precision, seed) for part in parts]
    finally:
        model.train(was_training)
    return from_logits(torch.cat(logits).numpy(), images)


def predict_cells(
    model: nn.Module,
    images: Images,
    cells: Iterable[Cell],
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    seed: int = 0,
) -> Iterator[tuple[Cell, Predictions]]:
    """Predict the images under the shift of each cell, a cell at a time."""
    for cell in cells:
        yield (
            cell,
            predict(
                model,
                images,
                cell.shift,
                batch_size=batch_size,
                device=device,
                precision=precision,
                seed=seed,
            ),
        )


def from_logits(logits: np.ndarray, images: Images) -> Predictions:
    """Make the per-image columns of a cell from float32 logits `[N, classes]`."""
    classes = len(images.classes)
    if logits.shape[1] != classes:
        raise InputError(f"the model has {logits.shape[1]} outputs, the data {classes} classes")
    labels = images.labels.numpy()
    return Predictions(
        keys=images.keys.numpy(),
        labels=labels,
        **per_image(logits, labels)._asdict(),
        logits=logits if classes <= MOST_STORED_CLASSES else None,
        classes=images.classes,
    )


@torch.inference_mode()
def _logits(
    model: nn.Module,
    part: Images,
    shift: Shift | Attack | None,
    device: torch.device,
    precision: str,
    seed: int,
) -> torch.Tensor:
    images = part.images
    if isinstance(shift, Shift):
        images = shift(images, part.keys, seed)  # on the CPU: every device sees the same weather
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
