"""Several findings of each image, each of which is there, is not, or is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.special
from numpy.typing import NDArray

from fairweather.errors import InputError, quote_names
from fairweather.metrics.aggregates import aggregate_finding_labels, aggregate_findings
from fairweather.metrics.columns import IntArray, per_image
from fairweather.metrics.costs import finding_costs
from fairweather.tasks.task import AggregationRules, Logits, Strata, Task, Unit, widen_members
from fairweather.types.kinds import FINDING, FINDINGS, OF_FINDING, TaskKind
from fairweather.types.measurement import (
    MULTILABEL,
    STREAM_COLUMNS,
    UNKNOWN,
    AnyPredictions,
    BoolArray,
    Costs,
    Passes,
    Predictions,
)


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
