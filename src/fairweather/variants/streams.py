"""In which order a network that adapts sees images: pure functions of labels and seeds.

A stream is the images of a cell in the order in which an adapting network sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import IntArray, LabelArray
from fairweather.variants.variant import SHUFFLED

MOST_SLOTS = 100  # of a Dirichlet order, as in RoTTA's code


def draw_stream(
    labels: LabelArray,
    order: str,
    seed: int | Sequence[int],
    *,
    concentration: float = 0.1,
    imbalance: float = 100.0,
) -> IntArray:
    """Draw a stream: the places of all images, int64 `[n]`, in the order in which they are seen.

    Args:
        labels: int `[n]` of the images; of findings `[n, L]`, which can only be shuffled.
        order: one of `IMAGE_ORDERS`.
        seed: of the order.
        concentration: the parameter of `dirichlet`.
        imbalance: the parameter of `imbalanced`.

    >>> labels = np.array([0, 1, 0, 1])
    >>> labels[draw_stream(labels, "by_class", 0)].tolist()
    [1, 1, 0, 0]
    """
    if order not in IMAGE_ORDERS:
        raise unknown_name("order of images", order, IMAGE_ORDERS)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    if order == SHUFFLED:
        return shuffled
    if labels.ndim > 1:
        raise InputError(f"order {order} needs one class for each image: use {SHUFFLED}")
    parameters = {"dirichlet": concentration, "imbalanced": imbalance}
    return IMAGE_ORDERS[order](shuffled, labels[shuffled], rng, parameters.get(order, 0.0))


def _keep(shuffled: IntArray, labels: LabelArray, rng: np.random.Generator, _: float) -> IntArray:
    return shuffled


def _by_class(
    shuffled: IntArray, labels: LabelArray, rng: np.random.Generator, _: float
) -> IntArray:
    """One class after the other, in a random order of the classes."""
    rank = rng.permutation(int(labels.max()) + 1)
    return shuffled[np.argsort(rank[labels], kind="stable")]


def _dirichlet(
    shuffled: IntArray, labels: LabelArray, rng: np.random.Generator, concentration: float
) -> IntArray:
    """Each class is divided among slots of time in Dirichlet shares; in a slot, class by class.

    Source: Yuan et al. 2023, Robust Test-Time Adaptation in Dynamic Scenarios (RoTTA), with as many
    slots as classes, at most 100.
    """
    classes = np.unique(labels)
    slots: list[list[IntArray]] = [[] for _ in classes[:MOST_SLOTS]]
    for label in classes:
        members = shuffled[labels == label]
        shares = rng.dirichlet(np.full(len(slots), concentration))
        ends = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for slot, chunk in zip(slots, np.split(members, ends), strict=True):
            slot.append(chunk)
    return np.concatenate([slot[at] for slot in slots for at in rng.permutation(len(slot))])


def _imbalanced(
    shuffled: IntArray, labels: LabelArray, rng: np.random.Generator, imbalance: float
) -> IntArray:
    """In each of as many slots of time as classes, one class is more likely than each other one.

    Source: Niu et al. 2023, Towards Stable Test-Time Adaptation in Dynamic Wild World (SAR), online
    imbalanced label shift; here without replacement, so that late slots have what is left.
    """
    slots = np.array_split(np.arange(len(labels)), len(np.unique(labels)))
    left = np.ones(len(labels), dtype=bool)
    drawn = []
    for label, slot in zip(rng.permutation(np.unique(labels)), slots, strict=True):
        weights = left * np.where(labels == label, imbalance, 1.0)
        chosen = rng.choice(len(labels), len(slot), replace=False, p=weights / weights.sum())
        left[chosen] = False
        drawn.append(chosen)
    return shuffled[np.concatenate(drawn)]


Order = Callable[[IntArray, LabelArray, np.random.Generator, float], IntArray]
IMAGE_ORDERS: Mapping[str, Order] = {
    SHUFFLED: _keep,
    "by_class": _by_class,
    "dirichlet": _dirichlet,
    "imbalanced": _imbalanced,
}
