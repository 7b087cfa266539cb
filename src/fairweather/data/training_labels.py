"""Fewer, wrong or imbalanced training labels; those of test and val are unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from fairweather.data.split import Purpose, in_proportion
from fairweather.types import Images


def add_label_noise(
    labels: npt.NDArray[np.int64], classes: int, probability: float, seed: int
) -> npt.NDArray[np.int64]:
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


def imbalanced(
    labels: npt.NDArray[np.int64], classes: int, ratio: float, seed: int
) -> npt.NDArray[np.bool_]:
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
    >>> np.bincount(labels[imbalanced(labels, 3, 0.25, seed=0)]).tolist()
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


def fewer_labels(train: Images, fraction: float, seed: int) -> torch.Tensor:
    """Choose a share of the training images, each class in proportion and with at least one image.

    The images of a smaller share are among those of a larger one.

    Args:
        train: images with their true labels; every class has at least one.
        fraction: in (0, 1].
        seed: not negative.

    Returns:
        int64 `[M]`, places in `train`, ascending.

    >>> column = torch.arange(100)
    >>> train = Images(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), column % 2, column, ("a", "b"))
    >>> train[fewer_labels(train, 0.1, seed=0)].labels.bincount().tolist()
    [5, 5]
    """
    labels = train.labels.numpy()
    count = max(int(np.floor(len(labels) * fraction + 0.5)), len(np.unique(labels)))
    return torch.from_numpy(np.sort(in_proportion(labels, seed)[:count]))


def with_wrong_labels(train: Images, probability: float, seed: int) -> Images:
    """Replace each label, with a probability, by a random one, uniform over all classes.

    Which labels are replaced, and by what, depends on all images of the split and not on how many
    of them are used.

    >>> column = torch.arange(1000)
    >>> pixels = torch.zeros(1000, 3, 8, 8, dtype=torch.uint8)
    >>> noisy = with_wrong_labels(Images(pixels, column % 2, column, ("a", "b")), 0.2, seed=0)
    >>> float((noisy.labels != column % 2).double().mean())
    0.111
    """
    if probability == 0:
        return train
    noisy = add_label_noise(train.labels.numpy(), len(train.classes), probability, seed)
    return replace(train, labels=torch.from_numpy(noisy))
