"""The logits of images together with the features that the last layer of a network sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.devices import FP32, Arithmetic, resolve_device
from fairweather.errors import InputError
from fairweather.inference.batches import Fitting, WhenHalved, evaluating, logits_of
from fairweather.inference.last_layer import last_input
from fairweather.types import Images


class Outputs(NamedTuple):
    """What a network says about images.

    Attributes:
        logits: float32 `[N, classes]`.
        features: float32 `[N, D]`, what its last layer sees; None if that is not a linear layer, as
            in a network that ends with a convolution, or in an ONNX graph.
    """

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None


def outputs_of(
    model: nn.Module,
    images: Images,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    arithmetic: Arithmetic = FP32,
    when_halved: WhenHalved | None = None,
    done: Callable[[int], None] | None = None,
) -> Outputs:
    """Predict clean images, and keep the features too; labels are not used.

    Args:
        model: float images `[B, 3, H, W]` in [0, 1] to logits `[B, classes]`.
        images: 8-bit images; they may be larger than memory.
        batch_size: images per forward pass; halved when memory runs out.
        device: `auto`, `cpu`, `cuda`, ...
        arithmetic: how the logits are computed.
        when_halved: called with the new batch size when memory has run out.
        done: called with the number of images done after each batch.

    Raises:
        InputError: there are no images, or the model returns something else than logits.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long()
    >>> found = outputs_of(model, Images(pixels, labels, torch.arange(4), ("cat", "dog")))
    >>> found.logits.shape, found.features.shape
    ((4, 2), (4, 5))
    """
    if len(images) == 0:
        raise InputError("prediction needs at least one image, found none")
    device = resolve_device(device) if isinstance(device, str) else device
    arithmetic.check(device)
    logits: list[npt.NDArray[np.float32]] = []
    features: list[npt.NDArray[np.float32]] = []
    with evaluating(model, device), last_input(model) as seen:

        def compute(part: Images) -> tuple[torch.Tensor, torch.Tensor | None]:
            found = logits_of(model, part, None, device, arithmetic, 0)
            return found, seen()

        count = 0
        for of_logits, of_features in Fitting(batch_size, when_halved).parts(images, compute):
            logits.append(of_logits.numpy())
            if of_features is not None:
                features.append(of_features.float().cpu().numpy())
            count += len(of_logits)
            if done is not None:
                done(count)
    whole = np.concatenate(features) if len(features) == len(logits) else None
    return Outputs(np.concatenate(logits), whole)
