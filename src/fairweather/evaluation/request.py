"""The request for an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from fairweather.evaluation_options import EvaluationOptions
from fairweather.prediction_files import PredictionsOf
from fairweather.prediction_files.rows import Column
from fairweather.study.exposure import shifts_to_fit_on
from fairweather.types import Attack, Dataset, Shift


@dataclass(frozen=True)
class Request:
    """A model, its data, the shifts and the options; see `evaluate`.

    Attributes:
        more: further models that are measured on the same images.
    """

    model: str | nn.Module
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    options: EvaluationOptions
    more: tuple[str | nn.Module, ...] = ()

    def fit_on_shifts(self) -> tuple[Shift, ...]:
        """The shifts of the validation images that are fitted on; often none.

        Raises `InputError` for one that is tested too, and for what is no shift.
        """
        return shifts_to_fit_on(self.options.fit_on, self.shifts)

    def each(self) -> list[Request]:
        """The same request for each model alone."""
        return [replace(self, model=model, more=()) for model in (self.model, *self.more)]


@dataclass(frozen=True)
class PredictionsRequest:
    """Predictions that were made elsewhere, what they are of, and the options; see `evaluate`.

    Attributes:
        source: `predictions:PATH`, or that they are predictions of this process.
        name: the name for a run folder.
        predictions: of every model, seed and shift.
        dataset: the images that they are of; None if the labels are with the predictions.
        labels: the label of each row, whole numbers or text `[N]`; None if a file or the data set
            has them.
    """

    source: str
    name: str
    predictions: tuple[PredictionsOf, ...]
    dataset: str | Dataset | None
    labels: Column | None
    options: EvaluationOptions
