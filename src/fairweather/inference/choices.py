"""Predictions among some classes only, and of images of which more is known than one label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fairweather.metrics.columns import right_losses, soft_losses
from fairweather.types.measurement import Choices, TruthArray

# Below the lowest logit of an image, in nats: a probability of 0 in 64-bit numbers, and finite.
UNCHOSEN = 1000


def choose_classes(
    logits: npt.NDArray[np.float32], classes: Sequence[str], choices: Choices
) -> tuple[npt.NDArray[np.float32], TruthArray | None]:
    """Let only some classes count: the probabilities of the others become 0.

    Args:
        logits: float32 `[N, classes]`.
        classes: the names in label order.
        choices: the classes that count; those that are none of `classes` are left out.

    Returns:
        The logits, and `choices.truth` with a column for each class.

    >>> logits, _ = choose_classes(np.float32([[3, 1, 0]]), ["a", "b", "c"], Choices(("b", "c")))
    >>> logits.tolist()
    [[-1000.0, 1.0, 0.0]]
    """
    place = {name: number for number, name in enumerate(classes)}
    columns = [place[name] for name in choices.names if name in place]
    unchosen = np.ones(len(classes), dtype=np.bool_)
    unchosen[columns] = False
    masked = np.where(unchosen, logits.min(axis=1, keepdims=True) - np.float32(UNCHOSEN), logits)
    if choices.truth is None:
        return masked, None
    truth: npt.NDArray[Any] = np.zeros(logits.shape, dtype=choices.truth.dtype)
    truth[:, columns] = choices.truth[:, [name in place for name in choices.names]]
    return masked, truth


def judge_by_truth(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    truth: TruthArray | None,
    columns: Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """The columns of images about which more may be known than one label.

    Of several right classes, the one with the largest logit is the label: an answer is right if it
    is any of them. A right answer is stored as the image's own label, which is the same for all
    models.

    Args:
        logits: float32 `[N, classes]`.
        labels: int64 `[N]`.
        truth: `[N, classes]`, as `Choices.truth`.
        columns: makes the columns from logits and labels.
    """
    if truth is None:
        return columns(logits, labels)
    if truth.dtype != np.bool_:
        return {**columns(logits, labels), **soft_losses(logits, truth)._asdict()}
    best = np.where(truth, logits, -np.inf).argmax(axis=1)
    made = columns(logits, best)
    predicted = np.where(made["predicted"] == best, labels, made["predicted"])
    return {**made, "predicted": predicted, **right_losses(logits, truth)._asdict()}
