"""Class priors as people write them: some classes named, the others as they are in the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairweather.errors import InputError, unknown_name
from fairweather.types import Images


def complete_priors(
    asked: Mapping[str, Mapping[str, float]], images: Images
) -> dict[str, tuple[float, ...]]:
    """Give every class a probability; classes that were not named share what is left.

    They share it in the proportions that they have among the images.

    Args:
        asked: by the name of each set of priors, a probability for each class that it names.
        images: with at least one image of every class.

    Raises:
        InputError: an unknown class, a number that is no probability, or probabilities of all
            classes that do not add up to 1.

    >>> import torch
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 2])
    >>> images = Images(pixels, labels, torch.arange(4), ("cat", "dog", "fox"))
    >>> complete_priors({"foxes": {"fox": 0.7}}, images)
    {'foxes': (0.2, 0.1, 0.7)}
    """
    counts = np.bincount(images.labels.numpy(), minlength=len(images.classes))
    return {name: _complete(name, some, images.classes, counts) for name, some in asked.items()}


def _complete(
    name: str, some: Mapping[str, float], classes: tuple[str, ...], counts: np.ndarray
) -> tuple[float, ...]:
    for known in some:
        if known not in classes:
            raise unknown_name(f"class in the priors {name!r}", known, classes)
    named = np.array([each in some for each in classes])
    priors = np.array([some.get(each, 0.0) for each in classes], dtype=np.float64)
    total = priors.sum()
    whole = np.isclose(total, 1)
    if not np.isfinite(priors).all() or (priors < 0).any() or (total > 1 and not whole):
        raise InputError(f"the priors {name!r} must be probabilities, at most 1 together")
    if named.all() and not whole:
        raise InputError(f"the priors {name!r} name every class and add up to {total:g}, not 1")
    rest = np.where(named, 0, counts)
    if rest.any():
        priors += (1 - min(total, 1)) * rest / rest.sum()
    return tuple(float(round(each, 12)) for each in priors)
