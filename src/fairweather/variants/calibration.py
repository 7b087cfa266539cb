"""The base of calibrations, and the formulas that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from fairweather.errors import InputError
from fairweather.metrics import per_image
from fairweather.metrics.columns import FloatArray, LabelArray
from fairweather.metrics.grouping import Grouping
from fairweather.tasks import FindingsPredictions, Logits
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.measurement import AnyPredictions
from fairweather.types.record import fitted_file
from fairweather.variants.findings import fit_findings
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.variant import FIT_ON, FITTED_UNDER_SHIFTS, PostHoc, Variant


class LogitDivisor(FittedParameters):
    """Logits are divided by a number.

    >>> LogitDivisor(value=2).change(np.float32([[3, 1]])).tolist()
    [[1.5, 0.5]]
    """

    value: float

    def change(self, logits: NDArray[np.floating]) -> Logits:
        return np.asarray(logits / np.float32(self.value), dtype=np.float32)


# --- Calibrations ---

# The scales that logits may be multiplied by: those of a temperature between 32 and 1/32. Beyond
# them, the probabilities of all images are 0, 1 or 1 / classes.
LEAST_SCALE, MOST_SCALE = 1 / 32, 32.0
# In nats. It changes odds by a factor of nine million, more than any validation images can show.
# Without a limit, the likelihood may grow for ever, as where all answers are right.
MOST_BIAS = 16.0


@dataclass(frozen=True)
class Calibration(PostHoc):
    """The logits are changed by numbers that are fitted on validation images."""

    fit_on: bool = False
    """Whether these are the images that `fit_on` lists, not clean ones alone."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        super().__post_init__()
        if not isinstance(self.fit_on, bool):
            raise InputError(
                f"variants: fit_on of {self.kind} must be true or false, found {self.fit_on!r}"
            )

    @property
    def own_name(self) -> str:
        return f"{self.kind}{FIT_ON}" if self.fit_on else self.kind

    @property
    def title(self) -> str:
        return f"{super().title} {FITTED_UNDER_SHIFTS}" if self.fit_on else super().title

    def title_of(self, kind: TaskKind) -> str:
        return f"{self.title}, one for each finding" if kind == FINDINGS else self.title

    @property
    def uses_fit_on(self) -> bool:
        return self.fit_on

    def with_fit_on(self) -> Sequence[Variant]:
        return [self, replace(self, fit_on=True)]

    def file(self, model: str, seed: int | str) -> str:
        return fitted_file(model, seed, self.name)

    def fit(self, predictions: AnyPredictions, grouping: Grouping | None) -> FittedParameters:
        if isinstance(predictions, FindingsPredictions):
            fitted = fit_findings(predictions, self.fit_logits)
            return self.fitted_types[FINDINGS].model_validate({"findings": fitted})
        assert predictions.logits is not None
        return self.fit_logits(predictions.logits, predictions.labels)

    def fit_logits(self, logits: ArrayLike, labels: ArrayLike) -> FittedParameters:
        """Fit it.

        Args:
            logits: float `[n, classes]`, finite, of images that the model was not trained on.
            labels: int `[n]`, each in `[0, classes)`.

        Raises:
            InputError: logits or labels have another form.
        """
        rows, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
        before = mean_nll(rows, truth)  # checks both
        effect = {"images": len(rows), "nll_before": before, "nll_after": before}
        fitted = self.fitted_types[CLASSES].model_validate(
            {**effect, **self.fit_fields(rows, truth)}
        )
        return fitted.model_copy(update={"nll_after": mean_nll(fitted.change(rows), truth)})

    def fit_fields(self, rows: FloatArray, truth: LabelArray) -> dict[str, Any]:
        """Fit the fields of a `Calibrator`, besides those of its effect, to logits and labels."""
        raise NotImplementedError


class Calibrator(FittedParameters):
    """Fitted numbers that change logits."""

    images: int = Field(ge=1)
    """The number of images that it was fitted on."""

    nll_before: float = Field(ge=0, allow_inf_nan=False)
    nll_after: float = Field(ge=0, allow_inf_nan=False)
    """`nll_before`, `nll_after`: mean negative log-likelihood of these images in nats."""

    kind: str
    """Of the calibration."""

    @property
    def note(self) -> str:
        return f"{self.kind}: NLL {self.nll_before:.3g}, then {self.nll_after:.3g}"


def check_class_count(logits: NDArray[np.floating], classes: int) -> FloatArray:
    """Return the logits in float64; raises `InputError` for another number of classes."""
    if logits.shape[1] != classes:
        raise InputError(
            f"it was fitted for {classes} classes, but the model has {logits.shape[1]} outputs"
        )
    return np.asarray(logits, dtype=np.float64)


def mean_nll(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood in nats; raises `InputError` for wrong logits or labels."""
    return float(per_image(logits, labels).nll.mean())


def break_ties(log_probabilities: FloatArray, logits: FloatArray) -> Logits:
    """Make logits of log-probabilities, with one largest in each row.

    Of the classes that share the largest probability, the one with the model's largest logit wins:
    it is increased by one step of float32.

    >>> break_ties(np.log([[0.25, 0.25, 0.5], [0.4, 0.4, 0.2]]), np.eye(3)[[2, 1]]).argmax(1)
    array([2, 1])
    """
    untied = log_probabilities.astype(np.float32)
    tied = untied == untied.max(axis=1, keepdims=True)
    rows = np.flatnonzero(tied.sum(axis=1) > 1)
    winners = np.where(tied[rows], logits[rows], -np.inf).argmax(axis=1)
    untied[rows, winners] = np.nextafter(untied[rows, winners], np.float32(np.inf))
    return untied


def minimise_convex(
    loss: Callable[[FloatArray], tuple[float, FloatArray]],
    start: FloatArray,
    bounds: list[tuple[float, float]],
) -> FloatArray:
    """Find the minimum of a convex loss within bounds, in at most 200 iterations of L-BFGS-B.

    It is never worse than the start.

    Args:
        loss: returns the value and the gradient.
        start: within the bounds.
        bounds: the least and the largest value of each number.
    """
    options = {"maxiter": 200, "ftol": 1e-12, "gtol": 1e-6}
    least = scipy.optimize.minimize(
        loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return np.asarray(least.x if least.fun < loss(start)[0] else start, dtype=np.float64)
