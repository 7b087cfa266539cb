"""What a task says of labels, outputs and units; classification, the only task of the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fairweather.errors import unknown_name
from fairweather.metrics.columns import IntArray, per_image
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import CLASSIFICATION, AnyPredictions, Predictions
from fairweather.types.record import IMAGE

Logits = NDArray[np.float32]


class Strata(NamedTuple):
    """The strata of images, of which each split gets its share.

    Attributes:
        numbers: int64 `[N]`, the stratum of each image.
        names: what messages call each; each has images.
    """

    numbers: IntArray
    names: tuple[str, ...]


class Unit(NamedTuple):
    """What is judged by itself in each image, such as one finding.

    Attributes:
        name: as in the column `unit` of scores.csv, such as `finding=Effusion`.
        places: int64 `[n]`, the images whose label is known.
        select: gives the predictions of the unit for these images, from those of all images.
    """

    name: str
    places: IntArray
    select: Callable[[AnyPredictions], AnyPredictions]


@dataclass(frozen=True)
class Task:
    """What is to be told of each image. One row of `TASKS`.

    Attributes:
        name: as in record.json.
        predictions: the type of what is stored, a frozen dataclass like `AnyPredictions`.
        columns: makes its columns from logits `[N, C]` and labels.
        strata: divides images by their labels and the names of classes.
        kinds: what its predictions and those of its units are; metrics accept one of them.
        combine: gives the logits of an ensemble, from those of each member.
        decision_metric: the share of right decisions, whose differences are tested.
        check: raises `InputError` for labels that are none, given the names of classes; `Images`
            check single ones.
        units: what is judged by itself, from predictions; empty if that is only the image.
        most_stored: with more classes, logits are not stored.
    """

    name: str
    predictions: type[Any]
    columns: Callable[[Logits, IntArray], Mapping[str, NDArray[Any]]]
    strata: Callable[[IntArray, tuple[str, ...]], Strata]
    kinds: tuple[TaskKind, ...]
    combine: Callable[[Iterable[Logits | None]], Logits]
    decision_metric: str
    check: Callable[[IntArray, tuple[str, ...]], None] = lambda labels, classes: None
    units: Callable[[AnyPredictions], tuple[Unit, ...]] = lambda _: ()
    most_stored: int = 100

    def every_unit(self, predictions: AnyPredictions) -> tuple[Unit, ...]:
        """Whole images, and then the units of the task."""
        whole = np.arange(len(predictions), dtype=np.int64)
        return (Unit(IMAGE, whole, lambda predictions: predictions), *self.units(predictions))


# --- Classification ---

# With more classes than this, logits would need more space than everything else in a run folder.
MOST_STORED_CLASSES = 100


def mean_log_probability(logits: Iterable[Logits | None]) -> Logits:
    """Return the logarithm of the mean of the members' probabilities.

    Args:
        logits: float32 `[N, classes]` per member.

    Returns:
        float32 `[N, classes]`.

    Raises `ValueError` if the logits of a member are not stored.

    Source: Lakshminarayanan et al. 2017, section 2.4.

    >>> sure, unsure = np.float32([[9, 0]]), np.float32([[0, 0]])
    >>> np.exp(mean_log_probability([sure, unsure])).round(3).tolist()
    [[0.75, 0.25]]
    """
    logs = []
    for member in logits:
        if member is None:
            raise ValueError("an ensemble needs the logits of every member")
        logs.append(scipy.special.log_softmax(member.astype(np.float64), axis=1))
    together = scipy.special.logsumexp(np.stack(logs), axis=0) - math.log(len(logs))
    return np.asarray(together, dtype=np.float32)


def _classification_columns(logits: Logits, labels: IntArray) -> Mapping[str, NDArray[Any]]:
    return per_image(logits, labels)._asdict()


CLASSIFICATION_TASK = Task(
    name=CLASSIFICATION,
    predictions=Predictions,
    columns=_classification_columns,
    strata=Strata,  # the images of each class
    kinds=(Predictions.kind,),
    combine=mean_log_probability,
    decision_metric="accuracy",
    most_stored=MOST_STORED_CLASSES,
)


# --- The table of tasks ---

TASKS: dict[str, Task] = {CLASSIFICATION_TASK.name: CLASSIFICATION_TASK}


def find_task(name: str) -> Task:
    """Find a task by its name in a data set or in record.json.

    >>> find_task("classification").name
    'classification'
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
