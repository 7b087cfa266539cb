"""Calibration by scaling logits: temperature scaling and vector scaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat, model_validator

from fairweather.metrics.columns import FloatArray, LabelArray
from fairweather.tasks import Logits
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.variants.calibration import (
    LEAST_SCALE,
    MOST_BIAS,
    MOST_SCALE,
    Calibration,
    Calibrator,
    LogitDivisor,
    check_class_count,
    mean_nll,
    minimise_convex,
)
from fairweather.variants.findings import FittedFindings
from fairweather.variants.fitted import FittedParameters


class FittedTemperature(LogitDivisor):
    """A fitted temperature."""

    value: Annotated[FiniteFloat, Field(gt=0)]
    """Logits are divided by it; above 1 the model was overconfident."""

    images: int
    """The number of images that it was fitted on."""

    nll_before: float
    nll_after: float
    """`nll_before`, `nll_after`: mean negative log-likelihood of these images in nats."""

    @property
    def note(self) -> str:
        return f"temperature {self.value:.3g}"


@dataclass(frozen=True)
class Temperature(Calibration):
    """The logits are divided by one number."""

    kind: ClassVar[str] = "temperature"
    kind_title: ClassVar[str] = "temperature scaling"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {
        CLASSES: FittedTemperature,
        FINDINGS: FittedFindings[FittedTemperature],
    }

    def fit_logits(self, logits: ArrayLike, labels: ArrayLike) -> FittedTemperature:
        return fit_temperature(logits, labels)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> FittedTemperature:
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
    options = {"xatol": 1e-8}
    least = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options=options)
    value, after = (np.exp(least.x), least.fun) if least.fun < before else (1.0, before)
    return FittedTemperature(
        value=float(value), images=len(rows), nll_before=before, nll_after=float(after)
    )


# --- Vector scaling ---

_Positive = Annotated[FiniteFloat, Field(gt=0)]


class FittedVectorScaling(Calibrator):
    """Logits times a scale of each class, plus a bias of each class."""

    kind: Literal["vector_scaling"] = "vector_scaling"
    scales: tuple[_Positive, ...] = Field(min_length=1)
    """Factors of the logits of each class."""

    biases: tuple[FiniteFloat, ...]
    """Added to the scaled logits; their mean is 0, since a common bias changes nothing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.scales) != len(self.biases):
            raise ValueError("there must be one scale and one bias for each class")
        return self

    def change(self, logits: NDArray[np.floating]) -> Logits:
        rows = check_class_count(logits, len(self.scales))
        return (rows * np.array(self.scales) + np.array(self.biases)).astype(np.float32)


@dataclass(frozen=True)
class VectorScaling(Calibration):
    """The logits are multiplied by a scale of each class, and get a bias of each class.

    They make the labels most likely. The negative log-likelihood is convex in both. The search
    begins at the best temperature, so the result is never worse than that. Predicted classes may
    change. Scales are between 1/32 and 32 and biases between ±16, before their mean is subtracted.
    Without limits, the likelihood would grow for ever for a class without images, or if all answers
    are right. A class without images is then hardly ever predicted.

    Unlike a softmax, it depends on the logits themselves: adding a number to all logits of an image
    changes the result if scales differ.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    >>> logits = np.array([[2.0, 0.0]] * 4 + [[0.0, 2.0]] * 4)
    >>> fitted = VectorScaling().fit_logits(logits, [0, 0, 0, 1, 0, 0, 1, 1])
    >>> scipy.special.softmax(fitted.change(logits[[0, 4]]), axis=1).round(3)
    array([[0.75, 0.25],
           [0.5 , 0.5 ]], dtype=float32)
    """

    kind: ClassVar[str] = "vector_scaling"
    kind_title: ClassVar[str] = "vector scaling"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {
        CLASSES: FittedVectorScaling,
        FINDINGS: FittedFindings[FittedVectorScaling],
    }

    def fit_fields(self, rows: FloatArray, truth: LabelArray) -> dict[str, Any]:
        warm = fit_temperature(rows, truth)
        n, classes = rows.shape
        images = np.arange(n)
        # In units that give scales and biases gradients of about the same size.
        unit = float(rows.std()) or 1.0
        units = rows / unit

        def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
            scaled = units * parameters[:classes] + parameters[classes:]
            log_probabilities = scipy.special.log_softmax(scaled, axis=1)
            excess = np.exp(log_probabilities)
            excess[images, truth] -= 1
            gradient = np.concatenate([(excess * units).sum(axis=0), excess.sum(axis=0)]) / n
            return -float(log_probabilities[images, truth].mean()), gradient

        scales = [(LEAST_SCALE * unit, MOST_SCALE * unit)] * classes
        start = np.concatenate([np.full(classes, unit / warm.value), np.zeros(classes)])
        limits = [*scales, *[(-MOST_BIAS, MOST_BIAS)] * classes]
        scale, bias = np.split(minimise_convex(loss, start, limits), 2)
        biases = bias - bias.mean()
        return {"scales": tuple((scale / unit).tolist()), "biases": tuple(biases.tolist())}
