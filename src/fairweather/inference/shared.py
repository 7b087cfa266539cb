"""Several models, plain and adapted, predict the same shifted images: each is shifted once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from fairweather.devices import FP32, Arithmetic
from fairweather.errors import InputError
from fairweather.inference.batches import Reader, WhenHalved, predict_each
from fairweather.streams import Makers, slices
from fairweather.types import AnyPredictions, Attack, Images, Shift

# Bytes. Plain and adapted models need different batches of the same shifted images, so these are
# kept, if they are not larger than this; else they are made once for each of the two.
MOST_KEPT = 2**29


def predict_shared(
    readers: Sequence[Reader],
    images: Images,
    shift: Shift | Attack,
    *,
    batch_size: int,
    fitting: int | None = None,
    device: torch.device,
    arithmetic: Arithmetic = FP32,
    seed: int = 0,
    makers: Makers | None = None,
    when_halved: WhenHalved | None = None,
    tell: Callable[[float], None] | None = None,
) -> list[AnyPredictions]:
    """Predict with several models, as one by one; models that adapt have batches of their own.

    These see the images in an order that is shuffled by a fixed seed, because a data set sorted by
    class would give batches of one class, with other statistics than the data; and in batches of
    nearly equal size.

    Args:
        readers: the models.
        images, shift, device, arithmetic, seed, makers: as in `predict_each`.
        batch_size: images per forward pass.
        fitting: a smaller number for which the memory is sufficient; models that adapt have
            `batch_size` all the same.
        when_halved, tell: as in `predict_each`, of models that do not adapt.

    Returns:
        The predictions of each model, in the order of the images.

    Raises:
        InputError: a model that adapts has fewer than two images or a batch size below two; or
            memory runs out for it, because smaller batches would change its results.
    """
    plain = [each for each in readers if not each.adapts]
    adapted = [each for each in readers if each.adapts]
    keep, changes = None, shift.level is not None
    if changes and plain and adapted and images.images.nbytes <= MOST_KEPT:
        keep = torch.empty_like(images.images)
    found: dict[bool, Sequence[AnyPredictions]] = {}
    if plain:
        found[False] = predict_each(
            plain,
            images,
            shift,
            batches=slices(len(images), fitting or batch_size),
            device=device,
            arithmetic=arithmetic,
            seed=seed,
            makers=makers,
            keep=keep,
            when_halved=when_halved,
            tell=tell,
        )
    if adapted:
        if len(images) < 2 or batch_size < 2:
            raise InputError("a model that adapts needs at least two images in a batch")
        order = np.random.default_rng(0).permutation(len(images))
        chunks = np.array_split(order, math.ceil(len(images) / batch_size))
        parts = predict_each(
            adapted,
            images if keep is None else replace(images, images=keep),
            shift if keep is None else None,
            batches=[torch.from_numpy(chunk) for chunk in chunks],
            device=device,
            arithmetic=arithmetic,
            seed=seed,
            makers=makers,
            when_halved=_refuse_smaller,
        )
        found[True] = [each.take(np.argsort(order)) for each in parts]
    of_kind = {adapts: iter(each) for adapts, each in found.items()}
    return [next(of_kind[reader.adapts]) for reader in readers]


def _refuse_smaller(_: int) -> None:
    raise InputError(
        "memory ran out, and smaller batches would change the result of a model that adapts: "
        "choose a smaller batch size"
    )
