"""The base of all calibrators, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.optimize
from pydantic import Field

from fairweather.errors import InputError
from fairweather.metrics import per_image
from fairweather.record import Frozen

FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]
# The scales that logits may be multiplied by: those of a temperature between 32 and 1/32.
LEAST_SCALE, MOST_SCALE = 1 / 32, 32.0
# In nats. It changes odds by a factor of nine million, which no number of validation images shows:
# the likelihood may grow for ever, as where a class has no images or all answers are right.
MOST_BIAS = 16.0


class Calibrator(Frozen):
    """Numbers that were fitted, by which logits are changed.

    Attributes:
        images: the number of images that it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of these images in nats.
    """

    images: int = Field(ge=1)
    nll_before: float = Field(ge=0, allow_inf_nan=False)
    nll_after: float = Field(ge=0, allow_inf_nan=False)

    def apply(self, logits: npt.NDArray[np.floating]) -> Logits:
        """Change the logits `[N, classes]` of a model; the results are float32 logits again."""
        raise NotImplementedError


def check_classes(logits: npt.NDArray[np.floating], classes: int) -> FloatArray:
    """Give the logits in float64; raises `InputError` if there are not as many classes."""
    if logits.shape[1] != classes:
        raise InputError(
            f"it was fitted for {classes} classes, but the model has {logits.shape[1]} outputs"
        )
    return np.asarray(logits, dtype=np.float64)


def mean_nll(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats; raises `InputError` for wrong logits or labels."""
    return float(per_image(logits, labels).nll.mean())


def with_one_winner(log_probabilities: FloatArray, logits: FloatArray) -> Logits:
    """Make logits of log-probabilities, with one largest in each row.

    Of the classes that share the largest probability, the one with the largest logit of the model
    wins: its own becomes larger by one step of float32.

    >>> with_one_winner(np.log([[0.25, 0.25, 0.5], [0.4, 0.4, 0.2]]), np.eye(3)[[2, 1]]).argmax(1)
    array([2, 1])
    """
    found = log_probabilities.astype(np.float32)
    tied = found == found.max(axis=1, keepdims=True)
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    winners = np.where(tied[rows], logits[rows], -np.inf).argmax(axis=1)
    found[rows, winners] = np.nextafter(found[rows, winners], np.float32(np.inf))
    return found


def minimise(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    bounds: list[tuple[float, float]],
) -> FloatArray:
    """Find the minimum of a convex loss within bounds, in at most 200 iterations of L-BFGS-B.

    It is never worse than the start.

    Args:
        loss: gives the value and the gradient.
        start: within the bounds.
        bounds: the least and the largest value of each number.
    """
    options = {"maxiter": 200, "ftol": 1e-12, "gtol": 1e-6}
    found = scipy.optimize.minimize(
        loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return np.asarray(found.x if found.fun < loss(start)[0] else start, dtype=np.float64)
