"""From logits to the per-image columns that every metric is computed from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics.weights import FloatArray


class PerImage(NamedTuple):
    """What is kept of each image's logits.

    Attributes:
        predicted: int64 `[n]`, the class with the largest logit (the first of equals).
        confidence: float64 `[n]`, the largest probability.
        top5_correct: bool `[n]`: are fewer than five logits greater than the label's.
        nll: float64 `[n]`, minus the log of the label's probability, in nats.
        brier: float64 `[n]`, squared distance of the probabilities to the one-hot label, in [0, 2].
    """

    predicted: npt.NDArray[np.int64]
    confidence: FloatArray
    top5_correct: npt.NDArray[np.bool_]
    nll: FloatArray
    brier: FloatArray


def softmax(logits: npt.ArrayLike) -> FloatArray:
    """Probabilities of each row of logits, float64 `[n, classes]`; finite for any finite logits.

    >>> softmax([[1000.0, 1000.0]])
    array([[0.5, 0.5]])
    """
    return np.exp(_log_softmax(logits))


def per_image(logits: npt.ArrayLike, labels: npt.ArrayLike) -> PerImage:
    """Reduce logits to the per-image columns, in float64.

    Args:
        logits: float `[n, classes]`, finite.
        labels: int `[n]`, each in `[0, classes)`.

    >>> columns = per_image([[2.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> columns.predicted.tolist(), columns.top5_correct.tolist(), columns.nll.round(3).tolist()
    ([0, 0], [True, True], [0.127, 0.693])
    """
    log_probabilities = _log_softmax(logits)
    scores, truth = np.asarray(logits), np.asarray(labels)
    n, classes = scores.shape
    if truth.shape != (n,) or not np.issubdtype(truth.dtype, np.integer):
        raise InputError(f"labels must be int [{n}], found {truth.dtype} {list(truth.shape)}")
    if not 0 <= truth.min() <= truth.max() < classes:
        raise InputError(
            f"labels go from {truth.min()} to {truth.max()}, but there are {classes} classes"
        )
    probabilities = np.exp(log_probabilities)
    one_hot = np.arange(classes) == truth[:, None]
    return PerImage(
        predicted=scores.argmax(axis=1).astype(np.int64),
        confidence=probabilities.max(axis=1),
        top5_correct=(scores > scores[one_hot][:, None]).sum(axis=1) < 5,
        # `0.0 -`, because `-` would make minus zero of a certain and right prediction.
        nll=0.0 - log_probabilities[one_hot],
        brier=np.square(probabilities - one_hot).sum(axis=1),
    )


def _log_softmax(logits: npt.ArrayLike) -> FloatArray:
    rows = np.asarray(logits, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise InputError(f"logits must be [n, classes] and not empty, found {list(rows.shape)}")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise InputError(f"logits must be finite, but those of {bad} images are not")
    return np.asarray(scipy.special.log_softmax(rows, axis=1))
