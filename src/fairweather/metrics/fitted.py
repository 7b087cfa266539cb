"""What is fitted on the clean validation images of a model, to be tried on every other cell."""

from __future__ import annotations

from typing import NamedTuple

from fairweather.errors import InputError
from fairweather.metrics.estimates import atc_threshold
from fairweather.metrics.selective import threshold_at_risk
from fairweather.types import Predictions

# The share of wrong answers that a threshold is chosen to keep.
RISK = 0.05


class Fitted(NamedTuple):
    """Thresholds of one model and seed; see `fit_on`.

    Attributes:
        threshold: the smallest confidence that is answered, so that at most 5 % of the answers on
            the validation images are wrong; infinite where none keeps that.
        atc_threshold: the confidence below which lies as large a share of the validation images as
            is wrong.
    """

    threshold: float
    atc_threshold: float


def fit_on(predictions: Predictions) -> Fitted:
    """Fit on the clean validation predictions of a model and seed.

    Raises `InputError` without predictions.

    >>> import numpy as np
    >>> from fairweather.metrics import per_image
    >>> logits, labels = np.float32([[0, 3], [2, 0], [0, 1]]), np.array([1, 0, 0])
    >>> columns = per_image(logits, labels)
    >>> names = ("cat", "dog")
    >>> fit_on(Predictions(np.arange(3), labels, *columns, logits, names)).threshold.__round__(3)
    0.881
    """
    if not len(predictions):
        raise InputError("there is nothing to fit on: the validation predictions are empty")
    confidence, correct = predictions.confidence, predictions.correct
    return Fitted(
        threshold_at_risk(confidence, correct, risk=RISK), atc_threshold(confidence, correct)
    )
