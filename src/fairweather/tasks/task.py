"""Tasks define labels, outputs and units; classification is the only task of the package."""

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
    """The strata of images, that are divided among the splits in proportion."""

    numbers: IntArray
    """int64 `[N]`, the stratum of each image."""

    names: tuple[str, ...]
    """What messages call each; each has images."""


class Unit(NamedTuple):
    """A part of each image that is judged by itself, such as one finding."""

    name: str
    """As in the column `unit` of scores.csv, such as `finding=Effusion`."""

    places: IntArray
    """int64 `[n]`, the images whose label is known."""

    select: Callable[[AnyPredictions], AnyPredictions]
    """Returns the predictions of the unit for these images, from those of all images."""


@dataclass(frozen=True)
class Task:
    """What models predict for each image: one row of `TASKS`."""

    name: str
    """As in record.json."""

    predictions: type[Any]
    """The type of stored predictions, a frozen dataclass like `AnyPredictions`."""

    columns: Callable[[Logits, IntArray], Mapping[str, NDArray[Any]]]
    """Makes its columns from logits `[N, C]` and labels."""

    strata: Callable[[IntArray, tuple[str, ...]], Strata]
    """Divides images by their labels and the names of classes."""

    kinds: tuple[TaskKind, ...]
    """What its predictions and those of its units are; metrics accept one of them."""

    combine: Callable[[Iterable[Logits | None]], Logits]
    """Returns the logits of an ensemble, from those of each member."""

    decision_metric: str
    """The share of right decisions, whose differences are tested."""

    check: Callable[[IntArray, tuple[str, ...]], None] = lambda labels, classes: None
    """Raises `InputError` for labels that are none, given the names of classes; `Images` check
    single ones."""

    units: Callable[[AnyPredictions], tuple[Unit, ...]] = lambda _: ()
    """What is judged by itself, from predictions; empty if that is only the image."""

    most_stored: int = 100
    """With more classes, logits are not stored."""

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
