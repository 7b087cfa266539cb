"""What is asked of the classes of the data: an order, other priors, and operating points.

Of priors, some classes are named; the others share the rest as they do in the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairweather.errors import InputError, check_name, unknown_name
from fairweather.tasks.classification import MOST_STORED_CLASSES
from fairweather.yamlfile import read_yaml

WORST = "worst"  # the row for the worst of a set of priors has this name
Asked = Mapping[str, Mapping[str, float]]  # the probabilities of some classes, by a name for them


@dataclass(frozen=True)
class OfClasses:
    """What is asked of the classes.

    Attributes:
        ordered: whether they are in an order, whatever the data say.
        priors: other probabilities of all classes in label order, by a name for them.
        operating_points: the probability from which on a class is called, by class.
    """

    ordered: bool = False
    priors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    operating_points: Mapping[str, float] = field(default_factory=dict)


def read_priors(asked: Path | Mapping[str, object] | None) -> Asked:
    """Read priors, mostly from a YAML file: under any name, the probabilities of some classes.

    Raises `InputError` if the file is missing or has another form.
    """
    if not isinstance(asked, Path):
        return _checked(asked, "priors") if asked else {}
    if not asked.is_file():
        raise InputError(f"priors: there is no file {asked}")
    return _checked(read_yaml(asked), str(asked))


def check_points(points: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Check operating points, the probability from which on a class is called, by class.

    Raises `InputError` for an unknown class, a number that is no probability, or too many classes
    to have their probabilities stored.

    >>> check_points({"malignant": 0.3}, ["benign", "malignant"])
    {'malignant': 0.3}
    """
    if points and len(classes) > MOST_STORED_CLASSES:
        raise InputError(
            f"operating points need stored probabilities, which runs of more than "
            f"{MOST_STORED_CLASSES} classes do not have, found {len(classes):,} classes"
        )
    for name, threshold in points.items():
        if name not in classes:
            raise unknown_name("class of an operating point", name, classes)
        if not 0 < threshold < 1:
            raise InputError(
                f"the operating point of {name!r} must be a probability between 0 and 1, found "
                f"{threshold:g}"
            )
    return dict(points)


def _checked(raw: object, place: str) -> dict[str, dict[str, float]]:
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
    asked: Asked, labels: npt.NDArray[np.int64], classes: tuple[str, ...]
) -> dict[str, tuple[float, ...]]:
    """Give every class a probability; classes that were not named share the rest.

    They share it in proportion to their numbers of images.

    Args:
        asked: for the name of each set of priors, the probability of each class that it names.
        labels: of the images, at least one of every class.
        classes: their names in label order.

    Raises:
        InputError: an unknown class, a number that is not a probability, or probabilities of all
            classes that do not add up to 1.

    >>> complete_priors({"foxes": {"fox": 0.7}}, np.array([0, 0, 1, 2]), ("cat", "dog", "fox"))
    {'foxes': (0.2, 0.1, 0.7)}
    """
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
