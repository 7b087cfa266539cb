"""Passes over all pixels of a split: their mean and standard deviation, and their digest."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import torch

from fairweather.types import Images

CHUNK_BYTES = 2**25  # of pixels that are counted at a time
CHUNK = 1024  # images that are hashed at a time


class Statistics(NamedTuple):
    """Mean and population standard deviation of R, G and B, in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def channel_statistics(images: Images) -> Statistics:
    """Compute the statistics exactly: count integers per channel, and divide once at the end.

    >>> pixels = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    >>> pixels[1, 0] = 255
    >>> column = torch.tensor([0, 1])
    >>> channel_statistics(Images(pixels, column, column, ("a", "b")))
    Statistics(mean=(0.5, 0.0, 0.0), std=(0.5, 0.0, 0.0))
    """
    histogram = torch.zeros(3, 256, dtype=torch.int64)
    # Chunks: the pixels may be a memory map that is larger than memory.
    for chunk in images.images.split(max(CHUNK_BYTES // images.images[:1].nbytes, 1)):
        for channel in range(3):
            histogram[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    red, green, blue = (_moments(counts) for counts in histogram.tolist())
    return Statistics((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))


def _moments(counts: list[int]) -> tuple[float, float]:
    n = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    # n² var = n Σv² − (Σv)², in Python's unbounded integers: no digits are lost.
    return first / n / 255, (n * second - first * first) ** 0.5 / n / 255


def digest(images: Images) -> str:
    """Return the SHA-256 of shape, classes, pixels, labels and keys, as 64 hexadecimal digits.

    >>> zeros = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> column = torch.tensor([0])
    >>> digest(Images(zeros, column, column, ("cat",)))[:8]
    'fb172a84'
    """
    header = {"shape": list(images.images.shape), "classes": images.classes}
    hasher = hashlib.sha256(json.dumps(header).encode())
    # Chunks: the pixels may be a memory map or a view, and are not copied as a whole.
    for chunk in images.images.split(CHUNK):
        hasher.update(chunk.contiguous().numpy())
    for column in (images.labels, images.keys):
        hasher.update(column.numpy().astype("<i8").tobytes())
    return hasher.hexdigest()
