"""Several models, plain and adapted, predict the same shifted images: each is shifted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from fairweather.devices import FP32, Arithmetic
from fairweather.inference.batches import Reader, WhenHalved, predict_each
from fairweather.inference.batchnorm import join_adapted, predict_adapted_shard
from fairweather.streams import WHOLE, Makers, Shard
from fairweather.types import AnyPredictions, Images, Shift

# Bytes. Plain and adapted models need different batches of the same shifted images, so these are
# kept, if they are not larger than this; else they are made once for each of the two.
MOST_KEPT = 2**29


class Shared(NamedTuple):
    """The predictions of plain and of adapted models, each in the order of its models."""

    plain: list[AnyPredictions]
    adapted: list[AnyPredictions]


def predict_shared(
    readers: Sequence[Reader],
    adapted: Sequence[nn.Module],
    images: Images,
    shift: Shift,
    *,
    batch_size: int,
    adapted_batch_size: int,
    device: torch.device,
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    makers: Makers | None = None,
    when_halved: WhenHalved | None = None,
    shard: Shard = WHOLE,
    scored: bool = False,
    tell: Callable[[float], None] | None = None,
) -> Shared:
    """Predict with plain and adapted models as `predict` and `predict_adapted` do one by one.

    Args:
        readers: models that predict unchanged.
        adapted: models whose batch norm uses the statistics of its batch (`adapt_batchnorm`).
        images, shift, device, arithmetic, seed, makers, when_halved: as in `predict_each`.
        tell: as in `predict_each`, of the models that predict unchanged.
        batch_size, adapted_batch_size: images per forward pass of each kind; the first is halved
            when memory runs out.
        shard: predict only these batches; the predictions of adapted models are then in the order
            of their batches, for `join_adapted`.
        scored: compute the scores of `OOD_SCORES` of adapted models too, as far as these need no
            features: features of other batches are none to compare with.
    """
    whole = shard.of == 1
    keep, changes = None, shift.level is not None
    if whole and changes and readers and adapted and images.images.nbytes <= MOST_KEPT:
        keep = torch.empty_like(images.images)
    plain: list[AnyPredictions] = []
    if readers:
        plain = predict_each(
            readers,
            images,
            shift,
            batches=shard.slices(len(images), adapted_batch_size, batch_size),
            device=device,
            arithmetic=arithmetic,
            seed=seed,
            makers=makers,
            keep=keep,
            when_halved=when_halved,
            tell=tell,
        )
    if not adapted:
        return Shared(plain, [])
    seen = images if keep is None else replace(images, images=keep)
    found = predict_adapted_shard(
        adapted,
        seen,
        shift if keep is None else None,
        shard,
        batch_size=adapted_batch_size,
        device=device,
        arithmetic=arithmetic,
        seed=seed,
        makers=makers,
        scored=scored,
    )
    return Shared(plain, [join_adapted([each]) for each in found] if whole else found)
