"""Which images are train, val and test: stratified, seeded, and a function of the strata alone."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.data.source import SPLITS, WHOLE, Listing, Source, check_no_empty_class
from fairweather.errors import InputError

# Moves of single clusters, after which no split is looked for any more.
MOST_MOVES = 2_000


class Purpose(IntEnum):
    """The purpose of random numbers: each purpose has a random stream of its own."""

    TEST = 0
    VALIDATION = 1
    LABEL_NOISE = 2
    IMBALANCE = 3
    LIMIT = 4


PURPOSES = {"test": Purpose.TEST, "val": Purpose.VALIDATION}


def set_apart(
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    fraction: float,
    seed: int,
    purpose: Purpose,
) -> npt.NDArray[np.bool_]:
    """Choose a stratified share of the images: bool `[N]`, True for the chosen ones.

    Of a class with `n` images, `n * fraction` rounded are chosen (a half is rounded up), but at
    least one and at most `n - 1`. So both sides have images of every class. The choice depends only
    on the arguments; no global random state is read or changed.

    Args:
        labels: int64 `[N]`, each in `[0, len(classes))`.
        classes: class names in label order.
        fraction: in (0, 1).
        seed: not negative.
        purpose: with the same seed, test and validation images are chosen independently.

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
                f"class {name!r} has too few images to be split: it has {len(members)}, and a "
                f"{purpose.name.lower()} split needs at least 2"
            )
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        chosen[generator.permutation(members)[:count]] = True
    return chosen


def set_clusters_apart(
    labels: npt.NDArray[np.int64],
    clusters: npt.NDArray[np.object_],
    classes: tuple[str, ...],
    fraction: float,
    seed: int,
    purpose: Purpose,
) -> npt.NDArray[np.bool_]:
    """Choose whole clusters of images with about a share of each class: bool `[N]`.

    The clusters are looked at in a random order. One is chosen if the counts of the classes come
    closer to the wanted ones by it. Then single clusters change sides until both sides have images
    of every class. The choice depends only on the arguments.

    Args:
        labels, classes, fraction, seed, purpose: as in `set_apart`.
        clusters: `[N]`, equal for images that must stay together.

    Raises:
        InputError: all images of a class are of one cluster, or no such split is found.

    >>> labels, patients = np.array([0, 0, 1, 1, 0, 1]), np.array(list("aabbcd"), dtype=object)
    >>> set_clusters_apart(labels, patients, ("cat", "dog"), 0.3, 0, Purpose.TEST).tolist()
    [False, False, False, False, True, True]
    """
    _, of = np.unique(clusters, return_inverse=True)
    counts = np.zeros((of.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(counts, (of, labels), 1)
    totals = counts.sum(axis=0)
    for name, holders in zip(classes, (counts > 0).sum(axis=0), strict=True):
        if holders < 2:
            raise InputError(
                f"all images of class {name!r} belong together, so they cannot be split into "
                f"{purpose.name.lower()} and other images"
            )
    generator = np.random.default_rng([seed, purpose])
    order = generator.permutation(len(counts))
    lacking = fraction * totals
    chosen = np.zeros(len(counts), dtype=np.bool_)
    for cluster in order:
        with_it = lacking - counts[cluster]
        # Rare classes count as much as common ones.
        if (np.square(with_it) / totals).sum() < (np.square(lacking) / totals).sum():
            chosen[cluster], lacking = True, with_it
    for _ in range(MOST_MOVES):
        lacking_at = [
            (side, label)
            for side in (True, False)
            for label in np.flatnonzero(counts[chosen == side].sum(axis=0) == 0)
        ]
        if not lacking_at:
            return chosen[of]
        # A random one of them, so that moves to and fro end.
        side, label = lacking_at[generator.integers(len(lacking_at))]
        others = order[(chosen[order] != side) & (counts[order, label] > 0)]
        left = counts[chosen != side].sum(axis=0) - counts[others]
        emptied = (left == 0).sum(axis=1)  # classes that the other side would lose
        kept = others[emptied == emptied.min()]
        chosen[kept[generator.integers(len(kept))]] = side
    raise InputError(
        "no way was found to split the images so that those that belong together stay together and "
        f"{purpose.name.lower()} and other images have all classes: classes have images in too few "
        "of the groups"
    )


class Part(NamedTuple):
    """Some images of a source split, as keys into its listing (int64, ascending)."""

    listing: Listing
    keys: npt.NDArray[np.int64]


def divide(
    source: Source, seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Part]:
    """Assign every listed image to `train`, `val` or `test`, before anything is decoded.

    The listing is split and not the decoded images, so that an unreadable file moves no other image
    to another split. Of the split `all`, `test_fraction` of the images become `test`. Then, if
    there is no `val`, `validation_fraction` of the training images become `val` and keep their
    keys. The test images are chosen first, so they do not depend on `validation_fraction`. With a
    fraction of 1 there is no `train`. If the source also has a `val`, its training images are not
    used then. If the listing says which images belong together, these stay together.

    Raises:
        InputError: a class has none or too few images.
    """
    parts: dict[str, Part] = {}
    for name, listing in source.splits.items():
        strata = source.strata(listing.labels)
        check_no_empty_class(strata, "the data" if name == WHOLE else name)
        parts[name] = Part(listing, np.arange(len(listing.labels)))
    if WHOLE in parts:
        whole = parts.pop(WHOLE)
        parts |= _cut(whole, "train", "test", source, test_fraction, seed)
    if "train" in parts and (validation_fraction == 1 or "val" not in parts):
        train = parts.pop("train")
        parts = _cut(train, "train", "val", source, validation_fraction, seed) | parts
    return {name: parts[name] for name in SPLITS if name in parts}


def check_tested(source: Source, specification: str) -> None:
    """Raise `InputError` unless a source has test images, or is one set that can be split."""
    if source.splits.keys() & {WHOLE, "test"}:
        return
    own = {split: f"{specification.rstrip('/')}/{name}" for split, name in source.parts.items()}
    advice = "use one set without splits"
    if "val" in own:
        advice = f"use {own['val']} to evaluate on it"
    elif "train" in own:
        advice = f"use {own['train']} to have it split"
    raise InputError(
        f"there are images for {' and '.join(source.splits)} but none for test, and a model cannot "
        f"be tested on images that it was trained or chosen with: add test images, or {advice}"
    )


def limited(part: Part, source: Source, limit: int, seed: int) -> Part:
    """Keep at most `limit` images of a split, each class in proportion and with at least one image.

    After the first image of every class, the method of Webster and Sainte-Laguë says of which class
    the next image is. It never removes an image again, so the images of a smaller limit are among
    those of a larger one. They depend only on the labels, the keys and the seed.

    Raises:
        InputError: the limit is smaller than the number of classes.
    """
    if limit >= len(part.keys):
        return part
    strata, classes = source.strata(part.listing.labels[part.keys])
    if limit < len(classes):
        raise InputError(
            f"limit must be at least {len(classes)}, one image per class, found {limit}"
        )
    keys = np.sort(part.keys[in_proportion(strata, seed)[:limit]])
    listing = part.listing
    if listing.file_per_image:  # then the other files are not even read for the digest
        listing = listing._replace(files=tuple(listing.files[key] for key in keys))
    return Part(listing, keys)


def in_proportion(labels: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Order images so that the first `n` of them are stratified, for every `n` from one per class.

    Args:
        labels: int64 `[N]`, of classes that all have images.
        seed: not negative.

    Returns:
        int64 `[N]`, places in `labels`.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[in_proportion(labels, seed=0)[:3]].tolist())
    [0, 0, 1]
    """
    generator = np.random.default_rng([seed, Purpose.LIMIT])
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(labels)) - before  # among the images of the same class
    due = (place + 0.5) / np.repeat(counts, counts)
    tie = generator.permutation(len(labels))  # random, so that no class always wins a tie
    return by_class[np.lexsort((tie, due, place > 0))]


def _cut(
    part: Part, rest: str, other: str, source: Source, fraction: float, seed: int
) -> dict[str, Part]:
    """Move a fraction of the images to the split `other`; a split without images is left out."""
    if fraction in (0, 1):
        return {other if fraction else rest: part}
    strata, classes = source.strata(part.listing.labels[part.keys])
    clusters = part.listing.clusters
    if clusters is None:
        chosen = set_apart(strata, classes, fraction, seed, PURPOSES[other])
    else:
        chosen = set_clusters_apart(
            strata, clusters[part.keys], classes, fraction, seed, PURPOSES[other]
        )
    return {
        rest: part._replace(keys=part.keys[~chosen]),
        other: part._replace(keys=part.keys[chosen]),
    }
