"""What a task defines: labels, outputs, units and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairweather.errors import InputError
from fairweather.metrics.aggregates import AggregatedLabels
from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.metrics.grouping import Grouping
from fairweather.types.kinds import TaskKind
from fairweather.types.measurement import AnyPredictions
from fairweather.types.record import IMAGE

Logits = NDArray[np.float32]


class Strata(NamedTuple):
    """The strata of images, that are divided among the splits in proportion."""

    numbers: IntArray
    """int64 `[N]`, the stratum of each image."""

    names: tuple[str, ...]
    """What messages call each; each has images."""

    needed: bool = True
    """Whether every split must have images of each; otherwise, as many splits as possible."""


class Unit(NamedTuple):
    """A part of each image that is judged by itself, such as one finding."""

    name: str
    """As in the column `unit` of scores.csv, such as `finding=Effusion`."""

    places: IntArray
    """int64 `[n]`, the images whose label is known."""

    select: Callable[[Any], AnyPredictions]
    """Returns the predictions of the unit for these images, from those of all images."""

    weight: int = 1
    """In a weighted mean over units, such as the number of images with the finding."""

    left_out: str = ""
    """Why it is in no mean over units and never the worst; "" if it is in them."""

    @property
    def column(self) -> str:
        """What comes before the sign in its name, such as `finding`."""
        return self.name.partition("=")[0]

    @property
    def value(self) -> str:
        """What comes after the sign in its name, such as `Effusion`."""
        return self.name.partition("=")[2]


class AggregationRules(NamedTuple):
    """How the images of a group, such as a patient, become one."""

    logits: Callable[[Logits, Grouping, str, bool], FloatArray]
    """From the logits of images to those of groups, by the name of an aggregate; the last says
    whether the classes are in an order."""

    labels: Callable[[IntArray, Grouping, str, bool], AggregatedLabels]
    """From the labels of images to those of groups, given what a group is, for messages."""

    loss: Callable[[Any], float]
    """The mean negative log-likelihood of predictions, by which an aggregate is chosen."""


@dataclass(frozen=True)
class Task:
    """What models predict for each image: one row of `tasks.table.TASKS`."""

    name: str
    """As in record.json."""

    predictions: type[Any]
    """The type of stored predictions, a frozen dataclass like `AnyPredictions`."""

    columns: Callable[[Logits, IntArray], Mapping[str, NDArray[Any]]]
    """Makes its columns from logits `[N, C]` and labels."""

    strata: Callable[[IntArray, tuple[str, ...]], Strata]
    """Divides images by their labels and the names of classes."""

    name_labels: Callable[[IntArray, tuple[str, ...]], list[str]]
    """Writes the label of each image as text, given the names of classes."""

    kinds: tuple[TaskKind, ...]
    """What its predictions and those of its units are; metrics accept one of them."""

    combine: Callable[[Iterable[Logits | None]], Logits]
    """Returns the logits of an ensemble, from those of each member."""

    decision_metric: str
    """The share of right decisions, whose differences are tested."""

    rule: str
    """A rule about clean images, as an example."""

    noun: str = "classes"
    """What messages call its classes."""

    check: Callable[[IntArray, tuple[str, ...]], None] = lambda labels, classes: None
    """Raises `InputError` for labels that are none, given the names of classes; `Images` check
    single ones."""

    remarks: Callable[[IntArray, tuple[str, ...]], tuple[str, ...]] = lambda labels, classes: ()
    """Says what labels lack for some numbers, one sentence each; a split may lack it."""

    units: Callable[[Any], tuple[Unit, ...]] = lambda _: ()
    """What is judged by itself, from predictions; empty if that is only the image."""

    judged: Callable[[Any], IntArray] = lambda predictions: np.arange(len(predictions))
    """The places of the images that are judged as a whole, from predictions."""

    aggregation: AggregationRules | None = None
    """How the images of a group become one; None where they cannot."""

    least_classes: int = 1
    """With fewer classes, nothing can be told."""

    most_stored: int | None = None
    """With more classes, logits are not stored; None where all else is computed from them."""

    def stores_logits(self, classes: int) -> bool:
        """Tell whether the logits of so many classes are stored."""
        return self.most_stored is None or classes <= self.most_stored

    @property
    def aggregation_rules(self) -> AggregationRules:
        """How the images of a group become one; raises `InputError` where they cannot."""
        if self.aggregation is None:
            raise InputError(f"the task {self.name} has no aggregates: leave unit out")
        return self.aggregation

    def aggregate(
        self,
        predictions: AnyPredictions,
        grouping: Grouping,
        name: str,
        unit: str,
        *,
        ordered: bool = False,
    ) -> AnyPredictions:
        """Make one row for each group of images, such as those of a patient.

        The keys are the numbers of the groups.

        Args:
            predictions: of images, with logits.
            grouping: which of them belong together.
            name: of `metrics.aggregates.AGGREGATES`.
            unit: what a group is, for messages.
            ordered: whether the classes are in an order.
        """
        rules = self.aggregation_rules
        assert predictions.logits is not None, "the logits of images are stored"
        logits = rules.logits(predictions.logits, grouping, name, ordered).astype(np.float32)
        labels = rules.labels(predictions.labels, grouping, unit, ordered).labels
        rows: AnyPredictions = self.predictions(
            keys=np.arange(grouping.count, dtype=np.int64),
            labels=labels,
            logits=logits,
            classes=predictions.classes,
            **self.columns(logits, labels),
        )
        return rows

    def every_unit(self, predictions: AnyPredictions) -> tuple[Unit, ...]:
        """Whole images, and then the units of the task."""

        def select(images: AnyPredictions) -> AnyPredictions:
            places = self.judged(images)
            return images if len(places) == len(images) else images.take(places)

        return (Unit(IMAGE, self.judged(predictions), select), *self.units(predictions))


def widen_members(logits: Iterable[Logits | None]) -> list[NDArray[np.float64]]:
    """The logits of each member of an ensemble in float64, `[N, C]` each.

    Raises `ValueError` if the logits of a member are not stored.
    """
    members = []
    for member in logits:
        if member is None:
            raise ValueError("an ensemble needs the logits of every member")
        members.append(member.astype(np.float64))
    return members
