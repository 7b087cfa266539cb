"""Tasks: what models say of each image. Their labels, outputs, units, and what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fairweather.errors import InputError, quote_names, unknown_name
from fairweather.metrics.aggregates import (
    AggregatedLabels,
    aggregate_class_labels,
    aggregate_classes,
    aggregate_finding_labels,
    aggregate_findings,
)
from fairweather.metrics.columns import FloatArray, IntArray, per_image
from fairweather.metrics.costs import finding_costs
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import MOST_CLASSES
from fairweather.types.kinds import FINDING, FINDINGS, OF_FINDING, TaskKind
from fairweather.types.measurement import (
    CLASSIFICATION,
    MULTILABEL,
    STREAM_COLUMNS,
    UNKNOWN,
    AnyPredictions,
    BoolArray,
    Costs,
    Passes,
    Predictions,
)
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
    """What models predict for each image: one row of `TASKS`."""

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


# ---------------------------------------------------------------- one class of each image

MOST_STORED_CLASSES = MOST_CLASSES  # of which logits are stored


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
    logs = [scipy.special.log_softmax(member, axis=1) for member in widen_members(logits)]
    together = scipy.special.logsumexp(np.stack(logs), axis=0) - math.log(len(logs))
    return np.asarray(together, dtype=np.float32)


def _classification_columns(logits: Logits, labels: IntArray) -> Mapping[str, NDArray[Any]]:
    return per_image(logits, labels)._asdict()


CLASSIFICATION_TASK = Task(
    name=CLASSIFICATION,
    predictions=Predictions,
    columns=_classification_columns,
    strata=Strata,  # the images of each class
    name_labels=lambda labels, classes: [classes[label] for label in labels.tolist()],
    kinds=(Predictions.kind,),
    combine=mean_log_probability,
    decision_metric="accuracy",
    rule="accuracy[clean] >= 90%",
    aggregation=AggregationRules(
        logits=lambda logits, grouping, name, ordered: aggregate_classes(
            logits, grouping, name, ordered=ordered
        ),
        labels=lambda labels, grouping, unit, ordered: aggregate_class_labels(
            labels, grouping, unit, ordered=ordered
        ),
        loss=lambda predictions: float(predictions.nll.mean()),
    ),
    least_classes=2,
    most_stored=MOST_STORED_CLASSES,
)


# ---------------------------------------------------------------- several findings of each image


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The probability of each finding, float64, from its logit.

    >>> sigmoid(np.float32([[0, 2]])).round(3)
    array([[0.5  , 0.881]])
    """
    return np.asarray(scipy.special.expit(logits.astype(np.float64)))


@dataclass(frozen=True)
class FindingsPredictions(AnyPredictions):
    """What is stored of each image: its labels, and the logit of each finding."""

    kind: ClassVar[TaskKind] = FINDINGS
    stored: ClassVar[Mapping[str, type[np.generic]]] = {
        "keys": np.int64,
        "labels": np.int64,
        # Only for variants that make sets of findings.
        "set_size": np.int64,
        "covered": np.float64,
        **STREAM_COLUMNS,
    }

    keys: IntArray
    """int64 `[N]`."""

    labels: IntArray
    """int64 `[N, L]`: 1, 0 or `UNKNOWN`."""

    logits: Logits
    """float32 `[N, L]`; the sigmoid of each is the probability of the finding."""

    classes: tuple[str, ...]
    """The names of the findings."""

    set_size: IntArray | None = None
    """int64 `[N]`, the number of findings in each set; None without sets."""

    covered: NDArray[np.float64] | None = None
    """float64 `[N]`, the share of the findings that are there, and known, that is in the set; NaN
    without such a finding, None without sets."""

    stream: IntArray | None = None
    place: IntArray | None = None
    passes: Passes | None = None
    """`stream`, `place`, `passes`: as in `Predictions`."""

    costs: Costs | None = None
    """For each finding, what it costs to miss it, to call it wrongly, and maybe to review it."""

    @property
    def probability(self) -> NDArray[np.float64]:
        """float64 `[N, L]`, the probability of each finding."""
        return sigmoid(self.logits)

    @property
    def known(self) -> BoolArray:
        """bool `[N, L]`: is it known whether the finding is there."""
        return self.labels != UNKNOWN

    @property
    def confidence(self) -> NDArray[np.float64]:
        """float64 `[N]`, the confidence in the least sure of an image's decisions."""
        return np.maximum(self.probability, 1 - self.probability).min(axis=1)

    @property
    def correct(self) -> BoolArray:
        """bool `[N]`: are all known findings decided right, at a probability of 0.5."""
        right = (self.logits >= 0) == (self.labels == 1)
        return np.asarray((right | ~self.known).all(axis=1))


@dataclass(frozen=True)
class FindingPredictions(Predictions):
    """One finding of the images where it is known: a classifier of two classes.

    The classes are `no FINDING` and `FINDING`, and the logits are 0 and that of the finding.
    """

    kind: ClassVar[TaskKind] = FINDING


def select_finding(predictions: FindingsPredictions, column: int) -> FindingPredictions:
    """Take one finding of the images where it is known.

    Its probability of exactly 0.5 says that it is there.

    >>> both = FindingsPredictions(
    ...     np.arange(3), np.array([[1], [UNKNOWN], [0]]), np.float32([[2], [0], [3]]), ("Mass",)
    ... )
    >>> mass = select_finding(both, 0)
    >>> mass.keys.tolist(), mass.correct.tolist(), mass.confidence.round(2).tolist()
    ([0, 2], [True, False], [0.88, 0.95])
    """
    places, name = np.flatnonzero(predictions.known[:, column]), predictions.classes[column]
    labels, logit = predictions.labels[places, column], predictions.logits[places, column]
    logits = np.stack([np.zeros_like(logit), logit], axis=1)
    # Where it is unknown for every image, another one stands in, since none has no columns.
    rows = (logits, labels) if len(places) else (np.zeros((1, 2)), np.zeros(1, dtype=np.int64))
    columns = per_image(*rows)._replace(predicted=(logit >= 0).astype(np.int64))
    return FindingPredictions(
        keys=predictions.keys[places],
        labels=labels,
        logits=logits,
        classes=(f"no {name}", name),
        costs=predictions.costs and finding_costs(*predictions.costs[column]),
        **{name: column[: len(places)] for name, column in columns._asdict().items()},
    )


def _units(predictions: FindingsPredictions) -> tuple[Unit, ...]:
    def unit(column: int, name: str) -> Unit:
        places = np.flatnonzero(predictions.known[:, column])
        present = int((predictions.labels[:, column] == 1).sum())
        why = {0: "no image has it", len(places): "every image has it"}.get(present, "")
        if not len(places):
            why = "it is unknown for every image"

        def select(images: FindingsPredictions) -> FindingPredictions:
            return select_finding(images, column)

        return Unit(f"{OF_FINDING}{name}", places, select, present, why)

    return tuple(unit(*item) for item in enumerate(predictions.classes))


def check_labels(labels: IntArray, classes: tuple[str, ...]) -> None:
    """Raise `InputError` unless labels are `[N, L]` of 0, 1 and `UNKNOWN`.

    >>> check_labels(np.array([[0, 2]]), ("Effusion", "Mass"))
    Traceback (most recent call last):
    fairweather.errors.InputError: the label of Mass must be 0, 1 or -1 (unknown), found 2
    """
    if labels.ndim != 2 or labels.shape[1] != len(classes):
        raise InputError(
            f"labels must have a column for each of {len(classes)} findings, found "
            f"{list(labels.shape)}"
        )
    wrong = ~np.isin(labels, (0, 1, UNKNOWN))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"the label of {classes[column]} must be 0, 1 or {UNKNOWN} (unknown), found "
            f"{labels[row, column]}"
        )
    if len(labels) and (labels == UNKNOWN).all():
        raise InputError("every label of every finding is unknown, so nothing can be measured")


def describe_lacks(labels: IntArray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Name the findings that all images have, that none has, and that are never known.

    >>> describe_lacks(np.array([[1, 0, -1], [-1, 0, -1]]), ("Effusion", "Mass", "Edema"))
    ("no image lacks 'Effusion'", "no image has 'Mass'", "no image has a known label of 'Edema'")
    """
    is_present, is_absent = (labels == 1).any(axis=0), (labels == 0).any(axis=0)
    lacks = {
        "no image lacks": is_present & ~is_absent,
        "no image has": is_absent & ~is_present,
        "no image has a known label of": ~is_present & ~is_absent,
    }
    return tuple(
        f"{text} {quote_names([classes[place] for place in np.flatnonzero(lacking)])}"
        for text, lacking in lacks.items()
        if lacking.any()
    )


def rarest_finding(labels: IntArray, classes: tuple[str, ...]) -> Strata:
    """Divide images by the rarest finding that each has, so that every split has rare ones.

    Source: the order of Sechidis et al. 2011, which divides the rarest label first.

    >>> rarest_finding(np.array([[1, 1], [1, 0], [0, 0], [1, 0]]), ("Effusion", "Mass"))
    Strata(numbers=array([2, 1, 0, 1]), names=('none', 'Effusion', 'Mass'), needed=False)
    """
    present = labels == 1
    order = np.argsort(present.sum(axis=0), kind="stable")
    rarest = np.where(present.any(axis=1), order[present[:, order].argmax(axis=1)] + 1, 0)
    places, numbers = np.unique(rarest, return_inverse=True)
    names = tuple(("none", *classes)[place] for place in places)
    return Strata(numbers.astype(np.int64), names, needed=False)


def name_present(labels: IntArray, classes: tuple[str, ...]) -> list[str]:
    """Name the findings that each image has.

    >>> name_present(np.array([[1, 1], [0, UNKNOWN]]), ("Effusion", "Mass"))
    ['Effusion, Mass', 'none']
    """
    names = np.array(classes, dtype=object)
    return [", ".join(names[row]) or "none" for row in labels == 1]


def mean_probability(logits: Iterable[Logits | None]) -> Logits:
    """Return the logit of the mean of the members' probabilities.

    Args:
        logits: float32 `[N, L]` per member.

    Returns:
        float32 `[N, L]`.

    Raises `ValueError` if the logits of a member are not stored.

    >>> sure, unsure = np.float32([[9]]), np.float32([[0]])
    >>> scipy.special.expit(mean_probability([sure, unsure])).round(3).tolist()
    [[0.75]]
    """
    members = np.stack(widen_members(logits))
    present, absent = (
        scipy.special.logsumexp(-np.logaddexp(0, signed), axis=0) for signed in (-members, members)
    )
    return np.asarray(present - absent, dtype=np.float32)


def mean_loss(predictions: FindingsPredictions) -> float:
    """The mean negative log-likelihood, in nats, of the findings that are known.

    >>> one = np.array([0]), np.array([[1, UNKNOWN]]), np.float32([[0, 5]]), ("Effusion", "Mass")
    >>> round(mean_loss(FindingsPredictions(*one)), 3)
    0.693
    """
    signed = np.where(predictions.labels == 1, -1, 1) * predictions.logits.astype(np.float64)
    return float(np.logaddexp(0, signed)[predictions.known].mean())


def _no_columns(logits: Logits, labels: IntArray) -> Mapping[str, NDArray[Any]]:
    return {}  # all is computed from the logits


MULTILABEL_TASK = Task(
    name=MULTILABEL,
    predictions=FindingsPredictions,
    columns=_no_columns,
    strata=rarest_finding,
    name_labels=name_present,
    kinds=(FINDINGS, FINDING),
    combine=mean_probability,
    decision_metric="decision_accuracy",
    rule="auc[clean] >= 0.8",
    noun="findings",
    aggregation=AggregationRules(
        logits=lambda logits, grouping, name, _: aggregate_findings(logits, grouping, name),
        labels=lambda labels, grouping, *_: aggregate_finding_labels(labels, grouping, UNKNOWN),
        loss=mean_loss,
    ),
    check=check_labels,
    remarks=describe_lacks,
    units=_units,
    judged=lambda images: np.flatnonzero(images.known.any(axis=1)),
)


# ---------------------------------------------------------------- all tasks

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION_TASK, MULTILABEL_TASK)}


def find_task(name: str) -> Task:
    """Find a task by its name in a data set or in record.json.

    >>> find_task("classification").name
    'classification'
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
