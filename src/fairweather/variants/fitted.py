"""The fit of a variant: numbers that change the predictions of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from fairweather.errors import InputError
from fairweather.metrics.columns import IntArray
from fairweather.tasks import CLASSIFICATION_TASK, Logits, Task
from fairweather.types.measurement import P
from fairweather.types.record import FrozenRecord


class FittedParameters(FrozenRecord):
    """Fitted numbers, stored as JSON and checked when they are read.

    Two methods use them: `apply` changes stored predictions, `change` the logits of a network. Here
    they change nothing.
    """

    @property
    def note(self) -> str:
        """The result of the fit, in a few words."""
        return ""

    def change(self, logits: NDArray[np.floating]) -> Logits:
        """Change the logits `[N, classes]` of a model; the results are float32 logits again."""
        return np.asarray(logits, dtype=np.float32)

    def columns(
        self, logits: Logits, labels: IntArray, task: Task = CLASSIFICATION_TASK
    ) -> Mapping[str, Any]:
        """The columns of predictions that follow from changed logits and labels."""
        return task.columns(logits, labels)

    def apply(self, predictions: P, task: Task = CLASSIFICATION_TASK) -> P:
        """Change stored logits, and compute all other columns from them again.

        Raises `InputError` for predictions without logits; they are not stored for more than 100
        classes.
        """
        if predictions.logits is None:
            raise InputError("a calibration needs logits, which these predictions do not have")
        logits = self.change(predictions.logits)
        columns = self.columns(logits, predictions.labels, task)
        return predictions.with_columns(logits=logits, **columns)

    @classmethod
    def read(cls, content: object, place: str) -> Self:
        """Read it back from its JSON; raises `InputError` for anything else."""
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError:
            raise InputError(f"{place} does not hold what is fitted for this variant") from None


NOTHING_FITTED = FittedParameters()
