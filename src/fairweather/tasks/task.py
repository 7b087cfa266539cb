"""What a task says of labels, of what is stored of a model's outputs, and of what is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairweather.record import IMAGE
from fairweather.types import AnyPredictions, Kind

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class Strata(NamedTuple):
    """Groups of images of which each split gets its share.

    Attributes:
        of: int64 `[N]`, the stratum of each image.
        names: what messages call each; each has images.
    """

    of: Labels
    names: tuple[str, ...]


class Unit(NamedTuple):
    """What is judged by itself in each image, such as one finding.

    Attributes:
        name: as in the column `unit` of scores.csv, such as `finding=Effusion`.
        places: int64 `[n]`, the images whose label is known.
        part: gives the predictions of the unit for these images, from those of all images.
    """

    name: str
    places: Labels
    part: Callable[[AnyPredictions], AnyPredictions]


@dataclass(frozen=True)
class Task:
    """What is to be told of each image. One row of `TASKS`.

    Attributes:
        name: as in record.json.
        predictions: the type of what is stored, a frozen dataclass like `AnyPredictions`.
        columns: makes its columns from logits `[N, C]` and labels.
        strata: groups images by their labels and the names of classes.
        kinds: what its predictions and those of its units are; metrics accept one of them.
        together: the logits of an ensemble, from those of each member.
        decided: the metric that is the share of right decisions, whose differences are tested.
        check: raises `InputError` for labels that are none, given the names of classes; `Images`
            check single ones.
        units: what is judged by itself, from predictions; empty if that is only the image.
        most_stored: with more classes, logits are not stored.
    """

    name: str
    predictions: type[Any]
    columns: Callable[[Logits, Labels], Mapping[str, npt.NDArray[Any]]]
    strata: Callable[[Labels, tuple[str, ...]], Strata]
    kinds: tuple[Kind, ...]
    together: Callable[[Iterable[Logits | None]], Logits]
    decided: str
    check: Callable[[Labels, tuple[str, ...]], None] = lambda labels, classes: None
    units: Callable[[AnyPredictions], tuple[Unit, ...]] = lambda _: ()
    most_stored: int = 100

    def every_unit(self, predictions: AnyPredictions) -> tuple[Unit, ...]:
        """Whole images, and then the units of the task."""
        whole = np.arange(len(predictions), dtype=np.int64)
        return (Unit(IMAGE, whole, lambda found: found), *self.units(predictions))
