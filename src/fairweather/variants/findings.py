"""Calibration of several findings of an image: each is a classifier of two classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fairweather.errors import InputError, quote_names
from fairweather.metrics.columns import IntArray
from fairweather.tasks import FindingsPredictions, Logits, select_finding
from fairweather.variants.fitted import FittedParameters

# A finding keeps its probabilities with fewer images than these that are known to have it, or not
# to have it: ten for each number that is fitted is the usual rule (Peduzzi et al. 1996, A
# Simulation Study of the Number of Events per Variable in Logistic Regression Analysis).
FEWEST_OF_EACH = 10

F = TypeVar("F", bound=FittedParameters)


class FittedFindings(FittedParameters, Generic[F]):
    """What is fitted for each finding, in the order of the logits."""

    findings: dict[str, F | None]
    """By name; None for a finding that keeps its probabilities."""

    @property
    def note(self) -> str:
        kept = [name for name, fitted in self.findings.items() if fitted is None]
        if not kept:
            return f"fitted for each of {len(self.findings)} findings"
        return (
            f"probabilities of {quote_names(kept)} stay: fewer than {FEWEST_OF_EACH} validation "
            "images have the finding, or lack it"
        )

    def change(self, logits: NDArray[np.floating]) -> Logits:
        if logits.shape[1] != len(self.findings):
            raise InputError(
                f"it was fitted for {len(self.findings)} findings, but the model has "
                f"{logits.shape[1]} outputs"
            )
        changed = [
            column if fitted is None else _change_finding(fitted, column)
            for fitted, column in zip(self.findings.values(), logits.T, strict=True)
        ]
        return np.stack(changed, axis=1).astype(np.float32)


def _change_finding(fitted: FittedParameters, logit: NDArray[np.floating]) -> Logits:
    """Change a finding's logit `[N]`; the logit of its absence is 0."""
    absent, present = fitted.change(np.stack([np.zeros_like(logit), logit], axis=1)).T
    return present - absent


def fit_findings(
    predictions: FindingsPredictions, fit: Callable[[Logits, IntArray], F]
) -> dict[str, F | None]:
    """Fit each finding to the images where it is known; None where too few have it or lack it.

    Args:
        predictions: of validation images.
        fit: fits to logits `[n, 2]` of its absence and presence, and labels `[n]`, 0 or 1.
    """

    def fit_one(column: int) -> F | None:
        finding = select_finding(predictions, column)
        if np.bincount(finding.labels, minlength=2).min() < FEWEST_OF_EACH:
            return None
        assert finding.logits is not None
        return fit(finding.logits, finding.labels)

    return {name: fit_one(column) for column, name in enumerate(predictions.classes)}
