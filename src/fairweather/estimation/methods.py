"""The methods that estimate accuracy without labels, fitted on a model's validation predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairweather.metrics import atc_threshold, confidence_gap, softmax
from fairweather.metrics.estimating import agreements
from fairweather.types import Predictions
from fairweather.variants.temperature import fit_temperature

TITLES: Mapping[str, str] = {
    "average_confidence": "average confidence",
    "average_confidence+temperature": "average confidence, tempered",
    "atc": "ATC",
    "atc+temperature": "ATC, tempered",
    "difference_of_confidences": "difference of confidences",
    "seed_agreement": "agreement of the seeds",
}


@dataclass(frozen=True)
class Seen:
    """What a model says of images.

    Attributes:
        predicted: int `[n]`.
        confidence: float `[n]`.
        logits: float32 `[n, classes]`; None where they are not stored.
        others: int `[k, n]`, what the other seeds of the model say; None if there is none.
    """

    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    logits: npt.NDArray[np.float32] | None
    others: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.predicted)

    @staticmethod
    def of(predictions: Predictions, others: npt.NDArray[np.int64] | None = None) -> Seen:
        """What stored predictions say."""
        columns = predictions.predicted, predictions.confidence, predictions.logits
        return Seen(*columns, others)

    @property
    def rows(self) -> npt.NDArray[np.float64]:
        """What two sets of images are compared by: probabilities, else the confidence, `[n, k]`."""
        return self.confidence[:, None] if self.logits is None else softmax(self.logits)


@dataclass(frozen=True)
class Methods:
    """The methods that a run supports, fitted on the validation predictions of the model.

    Attributes:
        names: keys of `TITLES`.
        temperature: fitted; None without logits.
        atc, atc_tempered: thresholds of confidence.
        gap: average confidence minus accuracy.
    """

    names: tuple[str, ...]
    temperature: float | None
    atc: float
    atc_tempered: float
    gap: float

    @staticmethod
    def fit(validation: Predictions | None, *, seeds: bool) -> Methods:
        """Fit them; `seeds` says whether other seeds of the model are asked too."""
        if validation is None:
            needing_none = ("average_confidence", *(("seed_agreement",) if seeds else ()))
            return Methods(needing_none, None, np.nan, np.nan, np.nan)
        confidence, correct = validation.confidence, validation.correct
        atc = atc_threshold(confidence, correct)
        gap = float(confidence_gap(confidence, correct))
        names = ["average_confidence", "atc", "difference_of_confidences"]
        temperature, tempered_atc = None, np.nan
        if validation.logits is not None:
            temperature = fit_temperature(validation.logits, validation.labels).value
            tempered = softmax(validation.logits / temperature).max(axis=1)
            tempered_atc = atc_threshold(tempered, correct)
            names += ["average_confidence+temperature", "atc+temperature"]
        if seeds:
            names.append("seed_agreement")
        ordered = tuple(name for name in TITLES if name in names)
        return Methods(ordered, temperature, atc, tempered_atc, gap)

    def columns(self, seen: Seen) -> npt.NDArray[np.float64]:
        """A number for each image and method, whose mean is the estimate: `[n, methods]`."""
        found = {
            "average_confidence": seen.confidence,
            "atc": (seen.confidence >= self.atc).astype(np.float64),
            "difference_of_confidences": seen.confidence - self.gap,
        }
        if self.temperature is not None and seen.logits is not None:
            tempered = softmax(seen.logits / self.temperature).max(axis=1)
            found["average_confidence+temperature"] = tempered
            found["atc+temperature"] = (tempered >= self.atc_tempered).astype(np.float64)
        if "seed_agreement" in self.names and seen.others is not None:
            found["seed_agreement"] = agreements(seen.predicted, seen.others)
        return np.stack([found[name] for name in self.names], axis=1)
