"""Harder training labels: wrong ones, and unequal classes; test and val stay as they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fairweather.data.split import Purpose


def add_label_noise(
    labels: npt.NDArray[np.int64], classes: int, probability: float, seed: int
) -> npt.NDArray[np.int64]:
    """Draw each label anew with a probability, uniformly from all classes.

    A label that is drawn anew may come out as it was: of `classes` classes, a share of about
    `probability * (1 - 1 / classes)` ends up wrong. This is the uniform corruption of Hendrycks et
    al. 2019, "Using Pre-Training Can Improve Model Robustness and Uncertainty", section 3.2.

    Args:
        labels: int64 `[N]`, of a whole source split in its order: an image's label does not depend
            on which other images are used.
        classes: their number.
        probability: in [0, 1].
        seed: not negative.

    Returns:
        int64 `[N]`, a new array.

    >>> noisy = add_label_noise(np.zeros(10_000, dtype=np.int64), 10, 0.2, seed=0)
    >>> float((noisy != 0).mean())
    0.1793
    """
    generator = np.random.default_rng([seed, Purpose.LABEL_NOISE])
    drawn_anew = generator.random(len(labels)) < probability
    return np.where(drawn_anew, generator.integers(classes, size=len(labels)), labels)


def imbalanced(
    labels: npt.NDArray[np.int64], classes: int, ratio: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Choose the images of a long-tailed training set: bool `[N]`, True for those that stay.

    Of class `c` in `0 ... classes - 1`, a share of `ratio ** (c / (classes - 1))` stays, rounded
    and at least one image: all of the first class, `ratio` of the last. This is the exponential
    profile of Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", section
    5.1, whose imbalance factor is `1 / ratio`.

    Args:
        labels: int64 `[N]`.
        classes: their number.
        ratio: in (0, 1].
        seed: not negative; another seed keeps other images, and as many.

    >>> labels = np.repeat([0, 1, 2], 100)
    >>> np.bincount(labels[imbalanced(labels, 3, 0.25, seed=0)]).tolist()
    [100, 50, 25]
    """
    generator = np.random.default_rng([seed, Purpose.IMBALANCE])
    stays = np.zeros(len(labels), dtype=np.bool_)
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        share = ratio ** (label / max(classes - 1, 1))
        # Half up, like the split: Python rounds halves to even, so counts would jump about.
        count = max(int(np.floor(len(members) * share + 0.5)), 1)
        stays[generator.permutation(members)[:count]] = True
    return stays
