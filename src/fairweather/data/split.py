"""Which images train, validate and test: stratified, seeded, and a function of the labels alone."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.data.listing import SPLITS, WHOLE, Listing, Source, check_no_empty_class
from fairweather.errors import InputError


class Purpose(IntEnum):
    """What is drawn: each purpose draws from a random stream of its own."""

    TEST = 0
    VALIDATION = 1
    LABEL_NOISE = 2
    IMBALANCE = 3


def set_apart(
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    fraction: float,
    seed: int,
    purpose: Purpose,
) -> npt.NDArray[np.bool_]:
    """Choose a stratified part of the images: bool `[N]`, True for the chosen ones.

    Of a class with `n` images, `n * fraction` rounded are chosen (a half goes up), but at least one
    and at most `n - 1`, so that every class is on both sides and is within one image of its share.
    The choice depends on nothing but the arguments; no global random state is read or moved.

    Args:
        labels: int64 `[N]`, each in `[0, len(classes))`.
        classes: class names in label order.
        fraction: in (0, 1).
        seed: not negative.
        purpose: with the same seed, test and validation images are drawn independently.

    Raises:
        InputError: a class has fewer than two images.

    >>> set_apart(np.array([0, 0, 0, 0, 1, 1]), ("cat", "dog"), 0.25, 0, Purpose.TEST).sum()
    np.int64(2)
    """
    generator = np.random.default_rng([seed, purpose])
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise InputError(
                f"class {name!r} has too few images to be split: it has {len(members)}, and "
                f"setting {purpose.name.lower()} images apart needs at least 2"
            )
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        chosen[generator.permutation(members)[:count]] = True
    return chosen


class Part(NamedTuple):
    """Some images of a source split, as keys into its listing (int64, ascending)."""

    listing: Listing
    keys: npt.NDArray[np.int64]


def divide(
    source: Source, seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Part]:
    """Assign every listed image to `train`, `val` or `test`, before anything is decoded.

    Dividing the listing rather than the decoded images means that an unreadable file moves no other
    image to another part. The split `all` gives `test_fraction` of its images to `test`. Then,
    where there is no `val`, `validation_fraction` of the training images become it and keep their
    keys. The test images are chosen first: `validation_fraction` does not move them.

    Raises:
        InputError: there are no test images, a class has none or too few images.
    """
    parts: dict[str, Part] = {}
    for name, listing in source.splits.items():
        check_no_empty_class(listing.labels, source.classes, "the data" if name == WHOLE else name)
        parts[name] = Part(listing, np.arange(len(listing.labels)))
    if WHOLE in parts:
        rest, parts["test"] = _cut(
            parts.pop(WHOLE), source.classes, test_fraction, seed, Purpose.TEST
        )
        parts["train"] = rest
    if "test" not in parts:
        raise InputError(
            f"there are images for {' and '.join(parts)} but none for test: images that a model "
            "was trained or chosen on cannot test it; add test images, or name one set to be split"
        )
    if "train" in parts and "val" not in parts and validation_fraction:
        parts["train"], parts["val"] = _cut(
            parts["train"], source.classes, validation_fraction, seed, Purpose.VALIDATION
        )
    return {name: parts[name] for name in SPLITS if name in parts}


def _cut(
    part: Part, classes: tuple[str, ...], fraction: float, seed: int, purpose: Purpose
) -> tuple[Part, Part]:
    labels = part.listing.labels[part.keys]
    chosen = set_apart(labels, classes, fraction, seed, purpose)
    return part._replace(keys=part.keys[~chosen]), part._replace(keys=part.keys[chosen])
