"""Temperature scaling: one number, fitted on validation images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special
from pydantic import Field, FiniteFloat

from fairweather.variants.calibration import LEAST_SCALE, MOST_SCALE, Calibration, mean_nll
from fairweather.variants.fitted import Divided, Fitted


class FittedTemperature(Divided):
    """A fitted temperature.

    Attributes:
        value: logits are divided by it; above 1 the model was overconfident.
        images: the number of images that it was fitted on.
        nll_before, nll_after: mean negative log-likelihood of these images in nats.
    """

    value: Annotated[FiniteFloat, Field(gt=0)]
    images: int
    nll_before: float
    nll_after: float

    @property
    def note(self) -> str:
        return f"temperature {self.value:.3g}"


@dataclass(frozen=True)
class Temperature(Calibration):
    """The logits are divided by one number."""

    kind: ClassVar[str] = "temperature"
    described: ClassVar[str] = "temperature scaling"
    fitted: ClassVar[type[Fitted]] = FittedTemperature

    def fit_logits(self, logits: npt.ArrayLike, labels: npt.ArrayLike) -> FittedTemperature:
        return fit_temperature(logits, labels)


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> FittedTemperature:
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
    before = mean_nll(rows, labels)  # checks both
    truth = np.asarray(labels)

    def loss(log_temperature: float) -> float:
        scaled = rows * np.exp(-log_temperature)
        right = np.take_along_axis(scaled, truth[:, None], axis=1)[:, 0]
        return float((scipy.special.logsumexp(scaled, axis=1) - right).mean())

    bounds = (-np.log(MOST_SCALE), -np.log(LEAST_SCALE))
    found = scipy.optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    better = found.fun < before
    return FittedTemperature(
        value=float(np.exp(found.x)) if better else 1.0,
        images=len(rows),
        nll_before=before,
        nll_after=float(found.fun) if better else before,
    )
