"""Batch norm with the statistics of the test batch: adaptation without labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fairweather.devices import FP32, Arithmetic
from fairweather.errors import InputError
from fairweather.inference.batches import Known, Reader, join, predict_each
from fairweather.streams import WHOLE, Makers, Shard
from fairweather.types import AnyPredictions, Images, P, Shift

_NORMS = nn.modules.batchnorm._BatchNorm


def adapt_batchnorm(model: nn.Module) -> nn.Module:
    """Copy a model so that its batch norm uses the mean and variance of the current batch.

    The given model is not changed. The copy is transductive: its prediction for an image depends on
    the other images in the batch. So report the batch size with every number.

    Source: Nado et al. 2020, Evaluating Prediction-Time Batch Normalization for Robustness under
    Covariate Shift; Schneider et al. 2020, Improving Robustness against Common Corruptions by
    Covariate Shift Adaptation (with no weight on the training statistics).

    Raises:
        InputError: the model has no batch norm.

    >>> copy = adapt_batchnorm(nn.Sequential(nn.BatchNorm2d(3)).eval())
    >>> copy(torch.rand(4, 3, 8, 8) + 5).mean().abs().item() < 1e-5
    True
    """
    adapted = copy.deepcopy(model)
    norms = [module for module in adapted.modules() if isinstance(module, _NORMS)]
    if not norms:
        raise InputError(f"{type(model).__name__} has no batch norm that could be adapted")
    for norm in norms:
        # Without running statistics, torch and timm use the batch's, in evaluation mode too.
        norm.track_running_stats = False
        norm.running_mean = None
        norm.running_var = None
    return adapted


def even_batches(images: int, batch_size: int) -> int:
    """Return a batch size, at most the given one, without a small batch at the end.

    >>> even_batches(1000, 256)
    250
    """
    return math.ceil(images / math.ceil(images / batch_size))


def predict_adapted(
    adapted: Sequence[nn.Module],
    images: Images,
    shift: Shift | None = None,
    *,
    batch_size: int = 256,
    device: str | torch.device = "auto",
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    makers: Makers | None = None,
) -> list[AnyPredictions]:
    """Predict with each model in shuffled batches of nearly equal size, which are shifted once.

    Images are shuffled with a fixed seed, because a data set sorted by class would give batches of
    one class, with other statistics than the data. The results have the order of the images.
    Arguments as in `predict_each`.

    Raises:
        InputError: there are fewer than two images or the batch size is below two; or memory runs
            out, because smaller batches would change the adapted models.
    """
    found = predict_adapted_shard(
        adapted,
        images,
        shift,
        WHOLE,
        batch_size=batch_size,
        device=device,
        arithmetic=arithmetic,
        seed=seed,
        makers=makers,
    )
    return [join_adapted([predictions]) for predictions in found]


def predict_adapted_shard(
    adapted: Sequence[nn.Module],
    images: Images,
    shift: Shift | None,
    shard: Shard,
    *,
    batch_size: int,
    device: str | torch.device,
    arithmetic: Arithmetic,
    seed: int,
    makers: Makers | None,
    scored: bool = False,
) -> list[AnyPredictions]:
    """Predict one shard of the batches of `predict_adapted`, with the same arguments.

    With `scored`, scores of `OOD_SCORES` are computed too. The results have the order of the
    batches; `join_adapted` joins those of all shards.
    """
    if len(images) < 2 or batch_size < 2:
        raise InputError("batch norm needs at least two images in a batch")
    chunks = np.array_split(_order(len(images)), math.ceil(len(images) / batch_size))
    return predict_each(
        [Reader(model, known=Known() if scored else None) for model in adapted],
        images,
        shift,
        batches=[torch.from_numpy(chunk) for chunk in shard.share(chunks)],
        device=device,
        arithmetic=arithmetic,
        seed=seed,
        makers=makers,
        when_halved=_refuse_smaller,
    )


def join_adapted(shards: Sequence[P]) -> P:
    """Join the predictions of an adapted model on all shards, and bring them in image order."""
    joined = join(shards)
    return joined.take(np.argsort(_order(len(joined))))


def _order(images: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).permutation(images)


def _refuse_smaller(_: int) -> None:
    raise InputError(
        "memory ran out, and smaller batches would change the result of batch-norm adaptation: "
        "choose a smaller batch size"
    )
