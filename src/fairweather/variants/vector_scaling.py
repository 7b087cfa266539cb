"""Vector scaling: a scale and a bias for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.special
from pydantic import Field, FiniteFloat, model_validator

from fairweather.variants.calibration import (
    LEAST_SCALE,
    MOST_BIAS,
    MOST_SCALE,
    Calibration,
    Calibrator,
    check_classes,
    minimise,
)
from fairweather.variants.fitted import Fitted, FloatArray, Logits
from fairweather.variants.temperature import fit_temperature

_Positive = Annotated[FiniteFloat, Field(gt=0)]


class FittedVectorScaling(Calibrator):
    """Logits times a scale of each class, plus a bias of each class.

    Attributes:
        scales: by which the logits of each class are multiplied.
        biases: what is then added to them; their mean is 0, since a common one changes nothing.
    """

    kind: Literal["vector_scaling"] = "vector_scaling"
    scales: tuple[_Positive, ...] = Field(min_length=1)
    biases: tuple[FiniteFloat, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.scales) != len(self.biases):
            raise ValueError("there must be one scale and one bias for each class")
        return self

    def change(self, logits: npt.NDArray[np.floating]) -> Logits:
        rows = check_classes(logits, len(self.scales))
        return (rows * np.array(self.scales) + np.array(self.biases)).astype(np.float32)


@dataclass(frozen=True)
class VectorScaling(Calibration):
    """The logits are multiplied by a scale of each class, and get a bias of each class.

    They make the labels most likely. The negative log-likelihood is convex in both. The search
    begins at the best temperature, so the result is never worse than that. Predicted classes may
    change. Scales are between 1/32 and 32 and biases between ±16, before their mean is subtracted:
    with a class that has no images, or with answers that are all right, the likelihood would grow
    for ever. So a class without images is hardly ever the answer any more.

    Unlike a softmax, it depends on the logits themselves: a number that is added to all logits of
    one image changes the result where scales differ.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.

    >>> logits = np.array([[2.0, 0.0]] * 4 + [[0.0, 2.0]] * 4)
    >>> fitted = VectorScaling().fit_logits(logits, [0, 0, 0, 1, 0, 0, 1, 1])
    >>> scipy.special.softmax(fitted.change(logits[[0, 4]]), axis=1).round(3)
    array([[0.75, 0.25],
           [0.5 , 0.5 ]], dtype=float32)
    """

    kind: ClassVar[str] = "vector_scaling"
    described: ClassVar[str] = "vector scaling"
    fitted: ClassVar[type[Fitted]] = FittedVectorScaling

    def numbers(self, rows: FloatArray, truth: npt.NDArray[np.integer]) -> dict[str, Any]:
        warm = fit_temperature(rows, truth)
        n, classes = rows.shape
        images = np.arange(n)
        # In units in which the scales of logits and biases have gradients of about the same size.
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
        found = minimise(loss, start, [*scales, *[(-MOST_BIAS, MOST_BIAS)] * classes])
        biases = found[classes:] - found[classes:].mean()
        return {
            "scales": tuple((found[:classes] / unit).tolist()),
            "biases": tuple(biases.tolist()),
        }
