"""What is fitted for a variant: numbers by which the predictions of a network are changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pydantic

from fairweather.errors import InputError
from fairweather.record import Frozen
from fairweather.tasks.classification import TASK
from fairweather.tasks.task import Task
from fairweather.types import P

FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]


class Fitted(Frozen):
    """Numbers that were fitted. They are stored as JSON, and checked when they are read.

    The two methods say what they change: of stored predictions (`apply`), and of what a network
    predicts. Here they change nothing.
    """

    @property
    def note(self) -> str:
        """What was found, in a few words."""
        return ""

    def change(self, logits: npt.NDArray[np.floating]) -> Logits:
        """Change the logits `[N, classes]` of a model; the results are float32 logits again."""
        return np.asarray(logits, dtype=np.float32)

    def columns(
        self, logits: Logits, labels: npt.NDArray[np.int64], task: Task = TASK
    ) -> Mapping[str, Any]:
        """The columns of predictions that follow from changed logits and labels."""
        return task.columns(logits, labels)

    def apply(self, predictions: P, task: Task = TASK) -> P:
        """Change stored logits, and compute all other columns from them again.

        Raises `InputError` for predictions without logits; they are not stored for more than 100
        classes.
        """
        if predictions.logits is None:
            raise InputError("a calibration needs logits, but these predictions have none")
        logits = self.change(predictions.logits)
        columns = self.columns(logits, predictions.labels, task)
        return predictions.with_columns(logits=logits, **columns)

    @classmethod
    def read(cls, content: object, place: str) -> Self:
        """Read one back from its JSON; raises `InputError` for anything else."""
        try:
            return cls.model_validate(content)
        except pydantic.ValidationError:
            raise InputError(f"{place} does not hold what is fitted for this variant") from None


UNCHANGED = Fitted()


class Divided(Fitted):
    """Logits are divided by a number.

    >>> Divided(value=2).change(np.float32([[3, 1]])).tolist()
    [[1.5, 0.5]]
    """

    value: float

    def change(self, logits: npt.NDArray[np.floating]) -> Logits:
        return np.asarray(logits / np.float32(self.value), dtype=np.float32)
