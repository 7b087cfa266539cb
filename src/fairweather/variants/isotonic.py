"""Isotonic regression of the probability of each class against all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special
from pydantic import Field, FiniteFloat, model_validator

from fairweather.record import Frozen
from fairweather.variants.calibration import (
    Calibration,
    Calibrator,
    check_classes,
    with_one_winner,
)
from fairweather.variants.fitted import Fitted, FloatArray, Logits

_Share = Annotated[float, Field(ge=0, le=1)]


class Steps(Frozen):
    """A function that never falls: linear between points, constant before and after them.

    Attributes:
        at: the places of the points, ascending.
        values: its values there, in [0, 1].
    """

    at: tuple[FiniteFloat, ...] = Field(min_length=1)
    values: tuple[_Share, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.at) != len(self.values):
            raise ValueError("there must be one value for each point")
        if (np.diff(self.at) <= 0).any() or (np.diff(self.values) < 0).any():
            raise ValueError("points must be ascending, and values must not fall")
        return self

    def __call__(self, places: FloatArray) -> FloatArray:
        """Its values at other places."""
        return np.asarray(np.interp(places, self.at, self.values))


def fit_steps(places: npt.ArrayLike, hits: npt.ArrayLike) -> Steps:
    """Fit the shares of hits that never fall and have the least squared error.

    Images at the same place get the same share. Between the places of two shares it is linear, as
    in scikit-learn.

    Args:
        places: float `[n]`, finite.
        hits: bool `[n]`.

    Source: Ayer et al. 1955, An Empirical Distribution Function for Sampling with Incomplete
    Information (pool adjacent violators).

    >>> fit_steps([0.1, 0.2, 0.3, 0.4], [False, True, False, True]).values
    (0.0, 0.5, 0.5, 1.0)
    """
    at, which = np.unique(np.asarray(places, dtype=np.float64), return_inverse=True)
    images = np.bincount(which).astype(np.float64)
    shares = np.bincount(which, weights=np.asarray(hits, dtype=np.float64)) / images
    found = scipy.optimize.isotonic_regression(shares, weights=images)
    # The first and the last place of each block say all: it is constant between them.
    ends = np.union1d(found.blocks[:-1], found.blocks[1:] - 1)
    values = np.clip(found.x[ends], 0, 1)
    return Steps(at=tuple(at[ends].tolist()), values=tuple(values.tolist()))


class FittedIsotonic(Calibrator):
    """For each class, a step function of its probability; then they are divided by their sum.

    Attributes:
        steps: one for each class.
    """

    kind: Literal["isotonic"] = "isotonic"
    steps: tuple[Steps, ...] = Field(min_length=1)

    def change(self, logits: npt.NDArray[np.floating]) -> Logits:
        rows = check_classes(logits, len(self.steps))
        found = self.probabilities(scipy.special.softmax(rows, axis=1))
        return with_one_winner(np.log(found), rows)

    def probabilities(self, probabilities: FloatArray) -> FloatArray:
        """Calibrate probabilities `[N, classes]`; all results are above 0."""
        columns = zip(self.steps, probabilities.T, strict=True)
        found = np.stack([steps(column) for steps, column in columns], axis=1)
        total = found.sum(axis=1, keepdims=True)
        # Where no class is left, each is as likely as the others.
        equal = np.full_like(found, 1 / len(self.steps))
        shares = np.divide(found, total, where=total > 0, out=equal)
        return (self.images * shares + 1 / len(self.steps)) / (self.images + 1)


@dataclass(frozen=True)
class Isotonic(Calibration):
    """The probability of each class goes through a step function; then all are normalised.

    If all are zero, all classes are equally likely. Then, so that no probability is zero and every
    likelihood is finite, they are mixed as if one image more had been seen, which was of all
    classes in equal parts: n of n become (n + 1/classes) / (n + 1). Predicted classes may change.
    Steps make ties: of classes with the same probability, the one that the model thought more
    likely is predicted. A class without images is predicted only where no class is left.

    Source: Zadrozny and Elkan 2002, Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates.

    >>> fitted = Isotonic().fit_logits([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]], [0, 1, 0])
    >>> [steps.values for steps in fitted.steps]
    [(0.0, 1.0, 1.0), (0.0, 0.0, 1.0)]
    """

    kind: ClassVar[str] = "isotonic"
    described: ClassVar[str] = "isotonic regression"
    fitted: ClassVar[type[Fitted]] = FittedIsotonic

    def numbers(self, rows: FloatArray, truth: npt.NDArray[np.integer]) -> dict[str, Any]:
        columns = enumerate(scipy.special.softmax(rows, axis=1).T)
        return {"steps": tuple(fit_steps(column, truth == label) for label, column in columns)}
