"""Scores of single images that may tell images of another data set from those of the model's own.

They stand beside the largest softmax probability: `detection_score` says how well each separates
two sets of images. Each is one function and one row of `OOD_SCORES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.columns import FloatArray, blocks, finite_logits, softmax

# The published share of the training images that are stored is down to 1 % (of ImageNet's), with
# a k that is about a thousandth of their number.
NEIGHBOURS = 5
MOST_FEATURES = 5_000
BLOCK = 2**24  # distances that are in memory at once


def max_logit(logits: npt.ArrayLike) -> FloatArray:
    """The largest logit of each image, `[n]`; larger for known images.

    Adding a constant to all logits of an image changes it, though not the probabilities.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Hendrycks et al. 2022, Scaling Out-of-Distribution Detection for Real-World Settings,
    section 3.

    >>> max_logit([[2.0, 0.0], [-1.0, -3.0]])
    array([ 2., -1.])
    """
    return np.asarray(finite_logits(logits).max(axis=1))


def energy(logits: npt.ArrayLike) -> FloatArray:
    """Minus the logarithm of the sum of the exponentials of the logits, `[n]`; smaller if known.

    Adding a constant to all logits of an image subtracts it here, though the probabilities stay. So
    it is a score of logits as the network gives them: of the logarithms of probabilities it is 0.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Liu et al. 2020, Energy-based Out-of-distribution Detection, equation 4, at a
    temperature of 1.

    >>> energy([[0.0, 0.0], [1000.0, 0.0]]).round(3).tolist()
    [-0.693, -1000.0]
    """
    return np.asarray(-scipy.special.logsumexp(finite_logits(logits), axis=1))


def softmax_entropy(logits: npt.ArrayLike) -> FloatArray:
    """Entropy of the probabilities of each image, in nats, `[n]`; smaller for known images.

    It is in [0, ln classes], and adding a constant to all logits of an image does not change it.

    Args:
        logits: float `[n, classes]`, finite.

    Source: Shannon 1948, A Mathematical Theory of Communication, section 6.

    >>> softmax_entropy([[0.0, 0.0], [1000.0, 0.0]]).round(3)
    array([0.693, 0.   ])
    """
    return np.asarray(scipy.special.entr(softmax(logits)).sum(axis=1))


def knn_distance(features: npt.ArrayLike, known: npt.ArrayLike, k: int = NEIGHBOURS) -> FloatArray:
    """Distance of each image to the k-th nearest known image in the space of features, `[n]`.

    Features are divided by their length, so that the distance is in [0, 2], and smaller for known
    images. A feature of length 0 stays 0, at a distance of 1 from all others.

    Args:
        features: float `[n, D]`, finite, what the last layer of the network sees.
        known: float `[m, D]`, the same of known images, at least one.
        k: which neighbour; of fewer known images it is the farthest.

    Source: Sun et al. 2022, Out-of-Distribution Detection with Deep Nearest Neighbors, section 3.

    >>> knn_distance([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], k=2).round(3)
    array([1.414])
    """
    ours, theirs = _directions(features, "features"), _directions(known, "known features")
    if ours.shape[1] != theirs.shape[1]:
        raise InputError(f"features have {ours.shape[1]} numbers, known ones {theirs.shape[1]}")
    if k < 1:
        raise InputError(f"the neighbour must be the first or a later one, found {k}")
    place = min(k, len(theirs)) - 1
    lengths = np.square(theirs).sum(axis=1)
    found = np.empty(len(ours))
    for rows in blocks(len(ours), len(theirs), BLOCK):
        part = ours[rows]
        squares = np.square(part).sum(axis=1)[:, None] + lengths - 2 * part @ theirs.T
        found[rows] = np.partition(squares, place, axis=1)[:, place]
    return np.sqrt(np.maximum(found, 0))


def _directions(features: npt.ArrayLike, name: str) -> FloatArray:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(f"{name} must be [n, D] and not empty, found {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise InputError(f"{name} must be finite, found {bad} images with NaN or infinite numbers")
    largest = np.abs(rows).max(axis=1, keepdims=True)  # so that no square is too large or small
    rows = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


class Seen(NamedTuple):
    """What a network says about some images, and what it says about known ones.

    Attributes:
        logits: float `[n, classes]`.
        features: float `[n, D]`, what its last layer sees; None if that is not linear.
        known: float `[m, D]`, the same of known images; None if there are none.
    """

    logits: npt.ArrayLike
    features: npt.ArrayLike | None = None
    known: npt.ArrayLike | None = None


class OodScore(NamedTuple):
    """A row of `OOD_SCORES`.

    Attributes:
        label: what it is called in tables.
        of: gives the score of each image; None where it needs features and there are none.
        larger_if_known: whether it is larger for known images.
        of_raw_logits: whether it says nothing of logits that are the logarithms of probabilities.
    """

    label: str
    of: Callable[[Seen], FloatArray | None]
    larger_if_known: bool
    of_raw_logits: bool

    def as_confidence(self, score: npt.ArrayLike) -> FloatArray:
        """The score with the sign that makes it larger for known images."""
        values = np.asarray(score, dtype=np.float64)
        return values if self.larger_if_known else -values


def _of_neighbours(seen: Seen) -> FloatArray | None:
    if seen.features is None or seen.known is None:
        return None
    return knn_distance(seen.features, seen.known)


OOD_SCORES: Mapping[str, OodScore] = {
    "max_logit": OodScore("largest logit", lambda seen: max_logit(seen.logits), True, True),
    "energy": OodScore("energy", lambda seen: energy(seen.logits), False, True),
    "entropy": OodScore("entropy", lambda seen: softmax_entropy(seen.logits), False, False),
    "knn": OodScore("k-NN distance", _of_neighbours, False, False),
}


def ood_scores(seen: Seen) -> dict[str, npt.NDArray[np.float32]]:
    """Give each score of `OOD_SCORES` that can be had, float32 `[n]`, by its name.

    >>> list(ood_scores(Seen([[2.0, 0.0]])))
    ['max_logit', 'energy', 'entropy']
    """
    found = {name: score.of(seen) for name, score in OOD_SCORES.items()}
    return {name: each.astype(np.float32) for name, each in found.items() if each is not None}
