"""Training images with fewer or wrong labels, for one model beside others that have them all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fairweather.data.split import in_proportion
from fairweather.data.training_labels import add_label_noise
from fairweather.types import Images


def fewer_labels(train: Images, fraction: float, seed: int) -> torch.Tensor:
    """Choose a share of the training images, each class in proportion and with at least one image.

    Those of a smaller share are among those of a larger one.

    Args:
        train: with their true labels, of classes that all have images.
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
    """Draw each label anew with a probability, uniformly from all classes.

    Which labels are drawn anew, and what becomes of them, depends on the images of the whole part
    and not on how many of them are used.

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
