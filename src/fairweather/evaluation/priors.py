"""Class priors: some classes are named, the others share the rest as they do in the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, check_name, unknown_name
from fairweather.types import Images
from fairweather.yamlfile import read_yaml

WORST = "worst"  # the row for the worst of a set of priors has this name


def read_priors(path: Path) -> dict[str, dict[str, float]]:
    """Read a YAML file of priors: under any name, the probabilities of some classes.

    Raises `InputError` if the file is missing or has another form.
    """
    if not path.is_file():
        raise InputError(f"priors: there is no file {path}")
    return check_priors(read_yaml(path), str(path))


def check_priors(raw: object, place: str) -> dict[str, dict[str, float]]:
    """Check the form of priors; raises `InputError` with the right form."""
    form = f"{place} must be like NAME: {{CLASS: 0.9}}"
    if not isinstance(raw, Mapping) or not raw:
        raise InputError(f"{form}, found {raw!r}")
    checked: dict[str, dict[str, float]] = {}
    for name, some in raw.items():
        if not isinstance(some, Mapping) or not some:
            raise InputError(f"{form}, found {some!r} for {name!r}")
        for known, prior in some.items():
            if isinstance(prior, bool) or not isinstance(prior, int | float):
                raise InputError(f"{form}, found {prior!r} for {known!r} in {name!r}")
        if str(name) == WORST:
            raise InputError(
                f"{place}: the name {WORST!r} is reserved for the worst of a set; choose another"
            )
        checked[check_name(str(name), f"{place}: the name")] = {
            str(known): float(prior) for known, prior in some.items()
        }
    return checked


def complete_priors(
    asked: Mapping[str, Mapping[str, float]], images: Images
) -> dict[str, tuple[float, ...]]:
    """Give every class a probability; classes that were not named share the rest.

    They share it in proportion to their numbers of images.

    Args:
        asked: for the name of each set of priors, the probability of each class that it names.
        images: at least one of every class.

    Raises:
        InputError: an unknown class, a number that is not a probability, or probabilities of all
            classes that do not add up to 1.

    >>> import torch
    >>> pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 2])
    >>> images = Images(pixels, labels, torch.arange(4), ("cat", "dog", "fox"))
    >>> complete_priors({"foxes": {"fox": 0.7}}, images)
    {'foxes': (0.2, 0.1, 0.7)}
    """
    return complete_by_labels(asked, images.labels.numpy(), images.classes)


def complete_by_labels(
    asked: Mapping[str, Mapping[str, float]],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
) -> dict[str, tuple[float, ...]]:
    """Do the same as `complete_priors`, where only the labels of the images are known."""
    if not asked:
        return {}
    counts = np.bincount(labels, minlength=len(classes))
    return {name: _complete(name, some, classes, counts) for name, some in asked.items()}


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
        raise InputError(f"the priors {name!r} must be probabilities that add up to at most 1")
    if named.all() and not whole:
        raise InputError(f"the priors {name!r} name every class and add up to {total:g}, not 1")
    rest = np.where(named, 0, counts)
    if rest.any():
        priors += (1 - min(total, 1)) * rest / rest.sum()
    return tuple(float(round(each, 12)) for each in priors)
