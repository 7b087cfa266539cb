"""The request for an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from fairweather.errors import InputError, unknown_name
from fairweather.evaluation_options import EvaluationOptions
from fairweather.prediction_files import PredictionsOf
from fairweather.prediction_files.rows import Column
from fairweather.study.exposure import shifts_to_fit_on
from fairweather.types import Attack, Dataset, Shift

SEED = 0  # of a model whose seed nobody names


class ModelName(NamedTuple):
    """What a model is called, and the seed that it was trained with."""

    model: str
    seed: int = SEED


def titles_of(
    asked: str | Mapping[str, str] | tuple[str, ...] | None, names: Iterable[str]
) -> dict[str, str]:
    """The title of each model: the one that was asked for, or its name.

    Raises `InputError` for a title of a model that is not there, and for one title of several.

    >>> titles_of({"plain": "Plain training"}, ["plain", "mixup"])
    {'plain': 'Plain training', 'mixup': 'mixup'}
    """
    own = {name: name for name in names}
    if asked is None:
        return own
    if isinstance(asked, Mapping):
        pairs = dict(asked)
    else:
        texts = (asked,) if isinstance(asked, str) else asked
        parted = [text.partition("=") for text in texts]
        pairs = {name: title for name, _, title in parted}
        if len(own) == 1 == len(texts) and not pairs.keys() <= own.keys():
            return dict.fromkeys(own, texts[0])
        if not all(separator for _, separator, _ in parted):
            raise InputError(
                f"title names one model, and there are {len(own)}: give each its own, as "
                f"{next(iter(own))}=TITLE, or in Python a dict of titles by name"
            )
    for name in pairs:
        if name not in own:
            raise unknown_name("model in title:", name, own)
    titles = {**own, **pairs}
    named: dict[str, str] = {}
    for name, title in titles.items():
        if (first := named.setdefault(title, name)) != name:
            raise InputError(f"title: {first} and {name} are both called {title!r}")
    return titles


@dataclass(frozen=True)
class Request:
    """A model, its data, the shifts and the options; see `evaluate`.

    Attributes:
        more: further models that are measured on the same images.
        names: of all of them, in their order; empty if each has the name that it was opened with.
    """

    model: str | nn.Module
    dataset: str | Dataset
    shifts: tuple[Shift | Attack, ...]
    options: EvaluationOptions
    more: tuple[str | nn.Module, ...] = ()
    names: tuple[ModelName, ...] = ()

    def fit_on_shifts(self) -> tuple[Shift, ...]:
        """The shifts of the validation images that are fitted on; often none.

        Raises `InputError` for one that is tested too, and for what is no shift.
        """
        return shifts_to_fit_on(self.options.fit_on, self.shifts)

    def each(self) -> list[Request]:
        """The same request for each model alone."""
        each = (self.model, *self.more)
        return [replace(self, model=model, more=(), names=()) for model in each]


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
