"""Calibration by curves of probabilities: isotonic regression and top-versus-all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat, model_validator

from fairweather.metrics.columns import BoolArray, FloatArray, LabelArray
from fairweather.tasks import Logits
from fairweather.types.kinds import CLASSES, FINDINGS, TaskKind
from fairweather.types.record import FrozenRecord
from fairweather.variants.calibration import (
    LEAST_SCALE,
    MOST_BIAS,
    MOST_SCALE,
    Calibration,
    Calibrator,
    break_ties,
    check_class_count,
    minimise_convex,
)
from fairweather.variants.findings import FittedFindings
from fairweather.variants.fitted import FittedParameters
from fairweather.variants.variant import FIT_ON, check_choice

_Share = Annotated[float, Field(ge=0, le=1)]


class StepFunction(FrozenRecord):
    """A function that never falls: linear between points, constant before and after them."""

    at: tuple[FiniteFloat, ...] = Field(min_length=1)
    """The places of the points, ascending."""

    values: tuple[_Share, ...]
    """Its values there, in [0, 1]."""

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


def fit_steps(places: ArrayLike, hits: ArrayLike) -> StepFunction:
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
    at, numbers = np.unique(np.asarray(places, dtype=np.float64), return_inverse=True)
    images = np.bincount(numbers).astype(np.float64)
    shares = np.bincount(numbers, weights=np.asarray(hits, dtype=np.float64)) / images
    rising = scipy.optimize.isotonic_regression(shares, weights=images)
    # The first and the last place of each block suffice, since it is constant between them.
    ends = np.union1d(rising.blocks[:-1], rising.blocks[1:] - 1)
    values = np.clip(rising.x[ends], 0, 1)
    return StepFunction(at=tuple(at[ends].tolist()), values=tuple(values.tolist()))


class FittedIsotonic(Calibrator):
    """A step function of each class's probability; the results are divided by their sum."""

    kind: Literal["isotonic"] = "isotonic"
    steps: tuple[StepFunction, ...] = Field(min_length=1)
    """One for each class."""

    def change(self, logits: NDArray[np.floating]) -> Logits:
        rows = check_class_count(logits, len(self.steps))
        return break_ties(np.log(self.probabilities(scipy.special.softmax(rows, axis=1))), rows)

    def probabilities(self, probabilities: FloatArray) -> FloatArray:
        """Calibrate probabilities `[N, classes]`; all results are above 0."""
        columns = zip(self.steps, probabilities.T, strict=True)
        curves = np.stack([steps(column) for steps, column in columns], axis=1)
        total = curves.sum(axis=1, keepdims=True)
        # Where no class is left, each is as likely as the others.
        equal = np.full_like(curves, 1 / len(self.steps))
        shares = np.divide(curves, total, where=total > 0, out=equal)
        return (self.images * shares + 1 / len(self.steps)) / (self.images + 1)


@dataclass(frozen=True)
class Isotonic(Calibration):
    """The probability of each class goes through a step function; then all are normalised.

    If all are zero, all classes are equally likely. Then one more image is counted, which belongs
    to all classes in equal parts: n of n becomes (n + 1/classes) / (n + 1). So no probability is
    zero, and every likelihood is finite. Predicted classes may change. Steps make ties: of classes
    with the same probability, the model's more likely one is predicted. A class without images is
    predicted only where no class is left.

    Source: Zadrozny and Elkan 2002, Transforming Classifier Scores into Accurate Multiclass
    Probability Estimates.

    >>> fitted = Isotonic().fit_logits([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]], [0, 1, 0])
    >>> [steps.values for steps in fitted.steps]
    [(0.0, 1.0, 1.0), (0.0, 0.0, 1.0)]
    """

    kind: ClassVar[str] = "isotonic"
    kind_title: ClassVar[str] = "isotonic regression"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {
        CLASSES: FittedIsotonic,
        FINDINGS: FittedFindings[FittedIsotonic],
    }

    def fit_fields(self, rows: FloatArray, truth: LabelArray) -> dict[str, Any]:
        columns = enumerate(scipy.special.softmax(rows, axis=1).T)
        return {"steps": tuple(fit_steps(column, truth == label) for label, column in columns)}


# --- Top-versus-all ---


class LogisticCurve(FrozenRecord):
    """Log-odds of being right: the slope times the log-odds of the confidence, plus the offset."""

    slope: Annotated[FiniteFloat, Field(gt=0)]
    offset: FiniteFloat


class FittedTopVersusAll(Calibrator):
    """The confidence in the predicted class as the chance that it is right."""

    kind: Literal["top_versus_all"] = "top_versus_all"
    classes: int = Field(ge=2)
    """The number of classes."""

    curve: StepFunction | LogisticCurve
    """From the confidence to the chance of being right."""

    def change(self, logits: NDArray[np.floating]) -> Logits:
        rows = check_class_count(logits, self.classes)
        logs = scipy.special.log_softmax(rows, axis=1)
        top = rows.argmax(axis=1)[:, None]
        others = logs.copy()
        np.put_along_axis(others, top, -np.inf, axis=1)
        others -= scipy.special.logsumexp(others, axis=1, keepdims=True)
        log_right, log_wrong = self._chances(logs)
        # It is the largest probability only if it is at least 1 / classes.
        least = -np.log(self.classes)
        log_wrong = np.where(log_right < least, np.log1p(-1 / self.classes), log_wrong)
        log_right = np.maximum(log_right, least)
        changed = share_out(others, log_wrong, log_right)
        np.put_along_axis(changed, top, log_right[:, None], axis=1)
        return break_ties(changed, rows)

    def _chances(self, logs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The logarithms of the chances that the predictions are right, and that they are wrong."""
        if isinstance(self.curve, LogisticCurve):
            odds = self.curve.slope * log_odds(logs) + self.curve.offset
            return -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
        right = self.curve(np.exp(logs.max(axis=1)))
        right = (self.images * right + 1 / 2) / (self.images + 1)
        return np.log(right), np.log1p(-right)


@dataclass(frozen=True)
class TopVersusAll(Calibration):
    """The confidence becomes the chance that the prediction is right; the prediction stays.

    `isotonic` fits a step function of the confidence. One more image is counted, half right, so
    that no chance is 0 or 1: n of n becomes (n + 1/2) / (n + 1). `logistic` fits slope and offset
    of the log-odds of the confidence (Platt scaling) by maximum likelihood. The slope is between
    1/32 and 32 and the offset between ±16, since the likelihood would grow for ever if all
    predictions are right, or all wrong.

    The other classes share the rest in the model's proportions, but none gets more than the
    predicted class. The excess goes to the others in their proportions. So the confidence is at
    least 1 / classes, even where the prediction is right less often.

    Source: Le Coz, Herbin and Adjed 2024, Confidence Calibration of Classifiers with Many Classes,
    for the binary problem; the other classes' part is ours.

    >>> logits = np.array([[3.0, 1.0, 0.0]] * 4)
    >>> fitted = TopVersusAll(method="logistic").fit_logits(logits, [0, 0, 1, 2])
    >>> np.exp(fitted.change(logits[:1])).round(3)
    array([[0.5  , 0.366, 0.134]], dtype=float32)
    """

    kind: ClassVar[str] = "top_versus_all"
    kind_title: ClassVar[str] = "top-versus-all"
    fitted_types: ClassVar[Mapping[TaskKind, type[FittedParameters]]] = {
        CLASSES: FittedTopVersusAll
    }
    method: Literal["isotonic", "logistic"] = "isotonic"
    """How this chance is fitted: `isotonic` or `logistic`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.kind, "method", self.method, CURVE_FITS)

    @property
    def own_name(self) -> str:
        by = "" if self.method == "isotonic" else f"-{self.method}"
        return f"{self.kind}{by}{FIT_ON if self.fit_on else ''}"

    @property
    def title(self) -> str:
        return super().title.replace(self.kind_title, f"{self.kind_title} ({self.method})")

    def fit_fields(self, rows: FloatArray, truth: LabelArray) -> dict[str, Any]:
        logs = scipy.special.log_softmax(rows, axis=1)
        right = rows.argmax(axis=1) == truth
        return {"classes": rows.shape[1], "curve": CURVE_FITS[self.method](logs, right)}


def log_odds(logs: FloatArray) -> FloatArray:
    """The log-odds of the largest probability of each row of log-probabilities `[N, classes]`.

    >>> log_odds(np.log([[0.5, 0.5], [0.8, 0.2]])).round(3).tolist()
    [0.0, 1.386]
    """
    others = logs.copy()
    np.put_along_axis(others, logs.argmax(axis=1)[:, None], -np.inf, axis=1)
    return np.asarray(logs.max(axis=1) - scipy.special.logsumexp(others, axis=1))


def share_out(log_shares: FloatArray, log_sum: FloatArray, log_most: FloatArray) -> FloatArray:
    """Divide a sum among the places of each row in given proportions, with a maximum for each
    place.

    The excess of a place goes to the other places, in their proportions.

    Args:
        log_shares: `[N, places]`, logarithms of proportions that sum to 1; −inf gets nothing.
        log_sum, log_most: `[N]`, logarithms; the places that get something have room for the sum.

    >>> shares = np.log([[0.7, 0.2, 0.1]])
    >>> np.exp(share_out(shares, np.log([0.6]), np.log([0.4]))).round(3).tolist()
    [[0.4, 0.133, 0.067]]
    """
    parts = log_shares + log_sum[:, None]
    for row in np.flatnonzero(parts.max(axis=1) > log_most):
        order = np.argsort(-log_shares[row], kind="stable")
        order = order[np.isfinite(log_shares[row, order])]
        shares, most = log_shares[row, order], log_most[row]
        rest = np.logaddexp.accumulate(shares[::-1])[::-1]  # of each place and all smaller ones
        # The rest when the first places have the maximum. It is at most 1/2 here, so the sum is not
        # close to 1 and plain numbers are exact enough. The last place always has room.
        remaining = np.exp(log_sum[row]) - np.arange(len(order)) * np.exp(most)
        factors = np.log(np.maximum(remaining, np.finfo(np.float64).tiny)) - rest
        fits = shares + factors <= most
        fits[-1] = True
        full = int(fits.argmax())
        parts[row, order[:full]] = most
        parts[row, order[full:]] = np.minimum(shares[full:] + factors[full], most)
    return parts


def _fit_step_curve(logs: FloatArray, right: BoolArray) -> StepFunction:
    return fit_steps(np.exp(logs.max(axis=1)), right)


def _fit_logistic_curve(logs: FloatArray, right: BoolArray) -> LogisticCurve:
    odds, sign = log_odds(logs), np.where(right, 1.0, -1.0)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        slope, offset = parameters
        margin = sign * (slope * odds + offset)
        pull = -sign * scipy.special.expit(-margin)
        gradient = np.array([(pull * odds).mean(), pull.mean()])
        return float(np.logaddexp(0, -margin).mean()), gradient

    bounds = [(LEAST_SCALE, MOST_SCALE), (-MOST_BIAS, MOST_BIAS)]
    slope, offset = minimise_convex(loss, np.array([1.0, 0.0]), bounds)
    return LogisticCurve(slope=float(slope), offset=float(offset))


CURVE_FITS = {"isotonic": _fit_step_curve, "logistic": _fit_logistic_curve}
