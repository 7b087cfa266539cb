"""Whether a network that adapts has collapsed, and at which image of its stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from fairweather.metrics.columns import BoolArray, FloatArray, IntArray

# Images of a stream that are looked at together; of a short stream, half of it.
WINDOW, FEWEST = 100, 10
# Collapsed: another class is answered at most a tenth as often as the plain network answers it.
TENTH = 0.1
# The plain network must answer another class on this share of the window, so that the images are of
# several classes. Where the classes come one after the other, its errors alone must not do.
SEVERAL, SEVERAL_SORTED = 0.2, 0.7
# Certain: the mean of 1 - confidence is at most 0.01, and at least five times as large without
# adapting. Entropy is then near 0, and it needs no probabilities of other classes.
CERTAIN, UNCERTAIN = 0.01, 0.05


class Collapse(NamedTuple):
    """Where a stream begins to give one answer, or to be certain of every answer."""

    kind: Literal["one class", "certain"]
    """Certainty alone is no collapse: labels show whether it is wrong (`is_certainty_wrong`)."""

    place: int
    """The place in the stream of the first image of the window, from 0 on."""

    label: int
    """The class that is answered most in the window."""


def find_collapse(
    predicted: IntArray,
    confidence: FloatArray,
    plain: Sequence[IntArray],
    plain_confidence: FloatArray,
    *,
    is_sorted: bool,
) -> Collapse | None:
    """Find the first window of a stream in which a network that adapts has collapsed.

    It gives one class where the plain network gives several on the same images: other classes at
    most a tenth as often. Or it is certain of everything where the plain network is not. Where the
    images come class by class, an adapted network rightly answers one class for long; the plain one
    then does so too, unless it is wrong on most of the images.

    Args:
        predicted: int `[n]`, the classes that are answered, in the order of the stream.
        confidence: float `[n]`, likewise.
        plain: int `[n]` each, what the plain network answers on the same images; also on their
            clean form, if that is known. A class counts as often as any of these answers it.
        plain_confidence: float `[n]`, its confidence on the same images.
        is_sorted: whether images of a class come together in the stream.

    >>> healthy, stuck = np.arange(400) % 10, np.zeros(400, dtype=int)
    >>> sure = np.full(400, 0.8)
    >>> predicted = np.where(np.arange(400) < 250, healthy, stuck)
    >>> find_collapse(predicted, sure, [healthy], sure, is_sorted=False)
    Collapse(kind='one class', place=240, label=0)
    """
    window = choose_window(len(predicted))
    if not is_examined(len(predicted)):
        return None
    signs: list[Collapse] = []
    several = window * (SEVERAL_SORTED if is_sorted else SEVERAL)
    for label in _find_frequent(predicted, window):
        others = _sum_windows(predicted != label, window)
        expected = np.min([_sum_windows(answers != label, window) for answers in plain], axis=0)
        collapsed = (expected >= several) & (others <= TENTH * expected)
        signs += _first("one class", collapsed, int(label))
    doubt, plain_doubt = (
        _sum_windows(1 - sure, window) / window for sure in (confidence, plain_confidence)
    )
    for collapse in _first("certain", (doubt <= CERTAIN) & (plain_doubt >= UNCERTAIN), 0):
        inside = predicted[collapse.place : collapse.place + window]
        signs.append(collapse._replace(label=int(np.bincount(inside).argmax())))
    return min(
        signs, key=lambda collapse: (collapse.kind == "certain", collapse.place), default=None
    )


def choose_window(images: int) -> int:
    """How many images of a stream are looked at together.

    >>> choose_window(400), choose_window(60)
    (100, 30)
    """
    return min(WINDOW, images // 2)


def is_examined(images: int) -> bool:
    """Whether a stream of so many images is long enough to find a collapse in it.

    >>> is_examined(19), is_examined(20)
    (False, True)
    """
    return choose_window(images) >= FEWEST


def is_certainty_wrong(right: FloatArray, plain: FloatArray, confidence: FloatArray) -> bool:
    """Whether a network that became certain is wrong far more often than it says.

    It must also be right less often than the plain network, by more than two standard errors of
    the difference. So a network that is always right may be certain of it.

    Args:
        right: float `[n]`, whether it is right, from the first certain image on.
        plain: float `[n]`, whether the plain network is right on the same images.
        confidence: float `[n]`.

    >>> right, sure = np.ones(100), np.full(100, 0.999)
    >>> is_certainty_wrong(right, right, sure), is_certainty_wrong(1 - right, right, sure)
    (False, True)
    """
    lost = float((plain - right).sum())
    errors, doubt = float((1 - right).mean()), float((1 - confidence).mean())
    is_worse = lost > 2 * float(np.abs(plain - right).sum()) ** 0.5
    return is_worse and errors >= UNCERTAIN and errors >= UNCERTAIN / CERTAIN * doubt


def average_windows(column: FloatArray, window: int) -> FloatArray:
    """The means of each window of so many numbers of `[..., n]`: `[..., n - window + 1]`.

    >>> average_windows(np.array([0.0, 1.0, 1.0]), 2).tolist()
    [0.5, 1.0]
    """
    return _sum_windows(column, window) / window


def _sum_windows(column: FloatArray | BoolArray, window: int) -> FloatArray:
    sums = np.cumsum(column, axis=-1, dtype=np.float64)
    before = np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums[..., :-window]], axis=-1)
    return np.asarray(sums[..., window - 1 :] - before)


def _find_frequent(predicted: IntArray, window: int) -> IntArray:
    """The classes that may fill a window: each is then most of some block of half a window.

    Mixed streams are long, and most of many classes never are.
    """
    half = window // 2
    blocks = np.sort(predicted[: len(predicted) // half * half].reshape(-1, half), axis=1)
    middle = blocks[:, half // 2]
    return np.unique(middle[(blocks == middle[:, None]).sum(axis=1) > half / 2])


def _first(kind: Literal["one class", "certain"], where: BoolArray, label: int) -> list[Collapse]:
    return [Collapse(kind, int(where.argmax()), label)] if where.any() else []
