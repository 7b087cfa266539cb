"""Which images are train, val and test, and fewer, wrong or imbalanced training labels."""

from __future__ import annotations

import math
from dataclasses import replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch

from fairweather.data.sources import UNSPLIT, Listing, Source, check_no_empty_class
from fairweather.errors import InputError
from fairweather.tasks import Strata, find_task
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    BoolArray,
    Images,
    IntArray,
    TextArray,
)
from fairweather.types.options import SPLITS

# ---------------------------------------------------------------- splits and subsets

# Moves of single groups, after which no split is looked for any more.
MAX_MOVES = 2_000


class Purpose(IntEnum):
    """A purpose of random numbers; each has its own random stream."""

    TEST = 0
    VALIDATION = 1
    LABEL_NOISE = 2
    IMBALANCE = 3
    LIMIT = 4


PURPOSES = {"test": Purpose.TEST, "val": Purpose.VALIDATION}


def choose_stratified(
    labels: IntArray, classes: tuple[str, ...], fraction: float, seed: int, purpose: Purpose
) -> BoolArray:
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

    >>> choose_stratified(np.array([0, 0, 0, 0, 1, 1]), ("cat", "dog"), 0.25, 0, Purpose.TEST).sum()
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


def choose_groups(
    labels: IntArray,
    groups: TextArray,
    classes: tuple[str, ...],
    fraction: float,
    seed: int,
    purpose: Purpose,
) -> BoolArray:
    """Choose whole groups of images with about a share of each class: bool `[N]`.

    The groups are looked at in a random order. One is chosen if the counts of the classes come
    closer to the wanted ones by it. Then single groups change sides until both sides have images
    of every class. The choice depends only on the arguments.

    Args:
        labels, classes, fraction, seed, purpose: as in `choose_stratified`.
        groups: `[N]`, equal for images that must stay together.

    Raises:
        InputError: all images of a class are of one group, or no such split is found.

    >>> labels, patients = np.array([0, 0, 1, 1, 0, 1]), np.array(list("aabbcd"), dtype=object)
    >>> choose_groups(labels, patients, ("cat", "dog"), 0.3, 0, Purpose.TEST).tolist()
    [False, False, False, False, True, True]
    """
    _, group_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((group_of.max() + 1, len(classes)), dtype=np.int64)
    np.add.at(counts, (group_of, labels), 1)
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
    for group in order:
        with_it = lacking - counts[group]
        # Rare classes count as much as common ones.
        if (np.square(with_it) / totals).sum() < (np.square(lacking) / totals).sum():
            chosen[group], lacking = True, with_it
    for _ in range(MAX_MOVES):
        lacking_at = [
            (side, label)
            for side in (True, False)
            for label in np.flatnonzero(counts[chosen == side].sum(axis=0) == 0)
        ]
        if not lacking_at:
            return chosen[group_of]
        # A random one of them, so that moves back and forth end.
        side, label = lacking_at[generator.integers(len(lacking_at))]
        others = order[(chosen[order] != side) & (counts[order, label] > 0)]
        remaining = counts[chosen != side].sum(axis=0) - counts[others]
        emptied = (remaining == 0).sum(axis=1)  # classes that the other side would lose
        candidates = others[emptied == emptied.min()]
        chosen[candidates[generator.integers(len(candidates))]] = side
    raise InputError(
        "no way was found to split the images so that those that belong together stay together and "
        f"{purpose.name.lower()} and other images have all classes: classes have images in too few "
        "of the groups"
    )


class Subset(NamedTuple):
    """Some images of a source split, as keys into its listing (int64, ascending)."""

    listing: Listing
    keys: IntArray


def split_source(
    source: Source, seed: int, validation_fraction: float, test_fraction: float
) -> dict[str, Subset]:
    """Assign every listed image to `train`, `val` or `test`, before anything is decoded.

    The listing is split and not the decoded images, so that an unreadable file moves no other image
    to another split. Of the split `all`, `test_fraction` of the images become `test`. Then, if
    there is no `val`, `validation_fraction` of the training images become `val` and keep their
    keys. The test images are chosen first, so they do not depend on `validation_fraction`. With a
    fraction of 1 there is no `train`. If the source also has a `val`, its training images are then
    not used. If the listing says which images belong together, these stay together.

    Raises:
        InputError: a class has none or too few images.
    """
    parts: dict[str, Subset] = {}
    for name, listing in source.splits.items():
        strata = source.strata(listing.labels)
        check_no_empty_class(strata, "the data" if name == UNSPLIT else name)
        parts[name] = Subset(listing, np.arange(len(listing.labels)))
    if UNSPLIT in parts:
        whole = parts.pop(UNSPLIT)
        parts |= _split_off(whole, "train", "test", source, test_fraction, seed)
    if "train" in parts and (validation_fraction == 1 or "val" not in parts):
        train = parts.pop("train")
        parts = _split_off(train, "train", "val", source, validation_fraction, seed) | parts
    return {name: parts[name] for name in SPLITS if name in parts}


def check_has_test(source: Source, specification: str) -> None:
    """Raise `InputError` unless a source has test images, or is one set that can be split."""
    if source.splits.keys() & {UNSPLIT, "test"}:
        return
    sources = {split: f"{specification.rstrip('/')}/{name}" for split, name in source.parts.items()}
    advice = "use one set without splits"
    if "val" in sources:
        advice = f"use {sources['val']} to evaluate on it"
    elif "train" in sources:
        advice = f"use {sources['train']} to have it split"
    raise InputError(
        f"there are images for {' and '.join(source.splits)} but none for test, and a model cannot "
        f"be tested on images that it was trained or chosen with: add test images, or {advice}"
    )


def limit_subset(part: Subset, source: Source, limit: int, seed: int) -> Subset:
    """Keep at most `limit` images of a split, each class in proportion and with at least one image.

    After the first image of every class, the method of Webster and Sainte-Laguë says of which class
    the next image is. It never removes an image again, so the images of a smaller limit are among
    those of a larger one. They depend only on the labels, the keys and the seed.

    Raises:
        InputError: the limit is smaller than the number of classes.
    """
    if limit >= len(part.keys):
        return part
    strata = source.strata(part.listing.labels[part.keys])
    if strata.needed and limit < len(strata.names):
        raise InputError(
            f"limit must be at least {len(strata.names)}, one image per class, found {limit}"
        )
    keys = np.sort(part.keys[stratified_order(strata.numbers, seed)[:limit]])
    listing = part.listing
    if listing.file_per_image:  # then the other files are not even read for the digest
        listing = listing._replace(files=tuple(listing.files[key] for key in keys))
    return Subset(listing, keys)


def stratified_order(labels: IntArray, seed: int) -> IntArray:
    """Order images so that the first `n` of them are stratified, for every `n` from one per class.

    Args:
        labels: int64 `[N]`, of classes that all have images.
        seed: not negative.

    Returns:
        int64 `[N]`, places in `labels`.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> sorted(labels[stratified_order(labels, seed=0)[:3]].tolist())
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


def _split_off(
    part: Subset, rest_name: str, chosen_name: str, source: Source, fraction: float, seed: int
) -> dict[str, Subset]:
    """Move a fraction of the images to `chosen_name`; a split without images is left out."""
    if fraction in (0, 1):
        return {chosen_name if fraction else rest_name: part}
    names = part.listing.group_names
    groups = None if names is None else names[part.keys]
    strata = _join_rare(source.strata(part.listing.labels[part.keys]), groups)
    drawn = (fraction, seed, PURPOSES[chosen_name])
    if groups is None:
        chosen = choose_stratified(strata.numbers, strata.names, *drawn)
    else:
        chosen = choose_groups(strata.numbers, groups, strata.names, *drawn)
    return {
        rest_name: part._replace(keys=part.keys[~chosen]),
        chosen_name: part._replace(keys=part.keys[chosen]),
    }


def _join_rare(strata: Strata, groups: TextArray | None) -> Strata:
    """Join strata of one image or one group, which cannot be divided, with the largest one.

    Classes are left alone, because both sides need each of them.

    >>> _join_rare(Strata(np.array([0, 0, 1]), ("none", "Mass"), needed=False), None)
    Strata(numbers=array([0, 0, 0]), names=('none',), needed=False)
    """
    if strata.needed:
        return strata
    holders = np.arange(len(strata.numbers)) if groups is None else groups.astype(str)
    _, numbered = np.unique(holders, return_inverse=True)
    pairs = np.unique(np.stack([strata.numbers, numbered]), axis=1)
    is_rare = np.bincount(pairs[0], minlength=len(strata.names)) < 2
    largest = np.bincount(strata.numbers).argmax()
    joined = np.where(is_rare[strata.numbers], largest, strata.numbers)
    places, numbers = np.unique(joined, return_inverse=True)
    return strata._replace(
        numbers=numbers.astype(np.int64), names=tuple(strata.names[place] for place in places)
    )


# ---------------------------------------------------------------- training labels


def add_label_noise(labels: IntArray, classes: int, probability: float, seed: int) -> IntArray:
    """Replace each label, with a probability, by a random one, uniform over all classes.

    A random label may be the right one: a share of about `probability * (1 - 1 / classes)` of the
    labels becomes wrong. This is the uniform corruption of Hendrycks et al. 2019, "Using
    Pre-Training Can Improve Model Robustness and Uncertainty", section 3.2.

    Args:
        labels: int64 `[N]`, of a whole split of the source in its order, so that the label of an
            image does not depend on which other images are used.
        classes: the number of classes.
        probability: in [0, 1].
        seed: not negative.

    Returns:
        int64 `[N]`, a new array.

    >>> noisy = add_label_noise(np.zeros(10_000, dtype=np.int64), 10, 0.2, seed=0)
    >>> float((noisy != 0).mean())
    0.1793
    """
    generator = np.random.default_rng([seed, Purpose.LABEL_NOISE])
    replaced = generator.random(len(labels)) < probability
    return np.where(replaced, generator.integers(classes, size=len(labels)), labels)


def choose_imbalanced(labels: IntArray, classes: int, ratio: float, seed: int) -> BoolArray:
    """Choose the images of a long-tailed training set: bool `[N]`, True for the chosen ones.

    Of class `c` in `0 ... classes - 1`, a share of `ratio ** (c / (classes - 1))` is chosen,
    rounded, and at least one image: all of the first class, `ratio` of the last. This is the
    exponential profile of Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of
    Samples", section 5.1. Their imbalance factor is `1 / ratio`.

    Args:
        labels: int64 `[N]`.
        classes: the number of classes.
        ratio: in (0, 1].
        seed: not negative; another seed chooses other images, but as many.

    >>> labels = np.repeat([0, 1, 2], 100)
    >>> np.bincount(labels[choose_imbalanced(labels, 3, 0.25, seed=0)]).tolist()
    [100, 50, 25]
    """
    generator = np.random.default_rng([seed, Purpose.IMBALANCE])
    stays = np.zeros(len(labels), dtype=np.bool_)
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        share = ratio ** (label / max(classes - 1, 1))
        # A half is rounded up, as for the splits; Python would round it to the even number.
        count = max(int(np.floor(len(members) * share + 0.5)), 1)
        stays[generator.permutation(members)[:count]] = True
    return stays


def check_has_classes(labels: IntArray, option: str) -> None:
    """Raise `InputError` for an option about classes, if images have several findings.

    >>> check_has_classes(np.zeros((4, 2)), "imbalance")
    Traceback (most recent call last):
    fairweather.errors.InputError: imbalance is about classes, and these images have several
    findings each: leave it out
    """
    if labels.ndim > 1:
        raise InputError(
            f"{option} is about classes, and these images have several findings each: leave it out"
        )


def choose_labelled(train: Images, fraction: float, seed: int) -> torch.Tensor:
    """Choose a share of the training images, each class in proportion and with at least one image.

    The images of a smaller share are among those of a larger one. Images with several findings are
    chosen by the rarest finding of each.

    Args:
        train: images with their true labels; every class has at least one.
        fraction: in (0, 1].
        seed: not negative.

    Returns:
        int64 `[M]`, places in `train`, ascending.

    >>> column = torch.arange(100)
    >>> train = Images(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), column % 2, column, ("a", "b"))
    >>> train[choose_labelled(train, 0.1, seed=0)].labels.bincount().tolist()
    [5, 5]
    """
    task = find_task(CLASSIFICATION if train.labels.ndim == 1 else MULTILABEL)
    strata, _, needed = task.strata(train.labels.numpy(), train.classes)
    least = len(np.unique(strata)) if needed else 1
    count = max(int(np.floor(len(strata) * fraction + 0.5)), least)
    return torch.from_numpy(np.sort(stratified_order(strata, seed)[:count]))


def corrupt_labels(train: Images, probability: float, seed: int) -> Images:
    """Replace each label, with a probability, by a random one, uniform over all classes.

    Which labels are replaced, and by what, depends on all images of the split and not on how many
    of them are used.

    >>> column = torch.arange(1000)
    >>> pixels = torch.zeros(1000, 3, 8, 8, dtype=torch.uint8)
    >>> noisy = corrupt_labels(Images(pixels, column % 2, column, ("a", "b")), 0.2, seed=0)
    >>> float((noisy.labels != column % 2).double().mean())
    0.111
    """
    if probability == 0:
        return train
    check_has_classes(train.labels.numpy(), "label_noise")
    noisy = add_label_noise(train.labels.numpy(), len(train.classes), probability, seed)
    return replace(train, labels=torch.from_numpy(noisy))
