"""Temperature scaling: one number, fitted on validation images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special

from fairweather.errors import InputError
from fairweather.metrics import per_image
from fairweather.tasks.classification import TASK
from fairweather.tasks.task import Task
from fairweather.types import P

Logits = npt.NDArray[np.float32]
Change = Callable[[Logits], Logits]  # of logits `[N, classes]`
# Outside this range the probabilities of all images are 0, 1 or 1 / classes.
COLDEST, HOTTEST = 1 / 32, 32.0


class Temperature(NamedTuple):
    """A fitted temperature.

    Attributes:
        value: logits are divided by it; above 1 the model was overconfident.
        images: the number of images that it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of these images in nats.
    """

    value: float
    images: int
    nll_before: float
    nll_after: float


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Temperature:
    """Fit the temperature that makes the labels most likely, between 1/32 and 32.

    The negative log-likelihood is convex in 1 / temperature, so there is one minimum, and the
    result is never worse than a temperature of 1. The temperature changes only the confidence, not
    the predicted classes.

    Args:
        logits: float `[n, classes]`, finite, of images that the model was not trained on.
        labels: int `[n]`, each in `[0, classes)`.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    >>> fitted = fit_temperature([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]], [0, 1, 1, 1])
    >>> round(fitted.value, 2)  # right three times out of four: 4 / log 3
    3.64
    """
    rows = np.asarray(logits, dtype=np.float64)
    before = per_image(rows, labels).nll.mean()  # checks both
    truth = np.asarray(labels)

    def loss(log_temperature: float) -> float:
        scaled = rows * np.exp(-log_temperature)
        right = np.take_along_axis(scaled, truth[:, None], axis=1)[:, 0]
        return float((scipy.special.logsumexp(scaled, axis=1) - right).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    found = scipy.optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    if found.fun >= before:
        return Temperature(1.0, len(rows), float(before), float(before))
    return Temperature(float(np.exp(found.x)), len(rows), float(before), float(found.fun))


def divide_by(temperature: float) -> Change:
    """Return the function that divides logits by a temperature.

    >>> divide_by(2.0)(np.float32([[3, 1]])).tolist()
    [[1.5, 0.5]]
    """
    return lambda logits: logits / np.float32(temperature)


def recalibrate(predictions: P, change: Change, task: Task = TASK) -> P:
    """Change stored logits, and compute all other columns from them again.

    Raises `InputError` for predictions without logits; they are not stored for more than 100
    classes.
    """
    if predictions.logits is None:
        raise InputError("a calibration needs logits, but these predictions have none")
    logits = change(predictions.logits)
    return predictions.with_columns(logits=logits, **task.columns(logits, predictions.labels))
