"""One decision for all images of a unit, such as a patient: aggregates of logits and of labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from fairweather.errors import InputError, unknown_name
from fairweather.metrics.columns import FloatArray, IntArray
from fairweather.metrics.grouping import Grouping

AUTO = "auto"  # in place of names: all that the labels allow, chosen on validation images
LEAST_LOG = -100.0  # the log of a probability that is 0 up to rounding


class Events(NamedTuple):
    """The logs of the probabilities of events, and of their opposites; float64 `[N, K]` each."""

    log_present: FloatArray
    log_absent: FloatArray

    @staticmethod
    def from_logits(logits: ArrayLike) -> Events:
        """Make them from the logit of each event, `[N, K]`."""
        values = np.asarray(logits, dtype=np.float64)
        return Events(-np.logaddexp(0, -values), -np.logaddexp(0, values))

    @property
    def logits(self) -> FloatArray:
        """The logit of each event."""
        return self.log_present - self.log_absent


@dataclass(frozen=True)
class Aggregate:
    """How the probabilities of several images become one: a row of `AGGREGATES`."""

    description: str
    """The formula in words."""

    combine: Callable[[Events, Grouping], Events]
    """From the events of images to those of groups."""


def _largest(columns: FloatArray, grouping: Grouping) -> FloatArray:
    """The largest number of each group, in each column."""
    order = np.argsort(grouping.numbers, kind="stable")
    return np.asarray(np.maximum.reduceat(columns[order], _starts(grouping), axis=0))


def _starts(grouping: Grouping) -> IntArray:
    """Where each group begins, if images are in the order of their groups."""
    return np.cumsum(grouping.sizes) - grouping.sizes


def _log_sums(logs: FloatArray, grouping: Grouping) -> FloatArray:
    """The logs of the sums over each group, from logs of what is summed."""
    largest = _largest(logs, grouping)
    parts = np.exp(logs - largest[grouping.numbers])
    return np.asarray(largest + np.log(grouping.sums(parts)))


def _mean(events: Events, grouping: Grouping) -> Events:
    log_sizes = np.log(grouping.sizes)[:, None]
    return Events(*(_log_sums(logs, grouping) - log_sizes for logs in events))


def _max(events: Events, grouping: Grouping) -> Events:
    present, absent = events
    return Events(_largest(present, grouping), -_largest(-absent, grouping))


def _noisy_or(events: Events, grouping: Grouping) -> Events:
    log_absent = grouping.sums(events.log_absent)
    with np.errstate(divide="ignore"):
        log_present = np.log(-np.expm1(log_absent))
    # Where all probabilities are too small for the sum, the largest of them is left.
    return Events(np.maximum(log_present, _largest(events.log_present, grouping)), log_absent)


_MAX = Aggregate("the largest probability of its images", _max)
AGGREGATES: dict[str, Aggregate] = {
    "mean": Aggregate("the mean probability of its images", _mean),
    "max": _MAX,
    # At any threshold, an image is called exactly if the largest probability is.
    "any": _MAX,
    "noisy-or": Aggregate("1 minus the product of 1 - p over its images", _noisy_or),
}
MEAN = "mean"  # the only one without an order of the classes


def find_aggregate(name: str) -> Aggregate:
    """Find an aggregate by its name.

    >>> find_aggregate("max").description
    'the largest probability of its images'
    """
    if name not in AGGREGATES:
        raise unknown_name("aggregate", name, [*AGGREGATES, AUTO])
    return AGGREGATES[name]


def aggregate_findings(logits: NDArray[np.floating], grouping: Grouping, name: str) -> FloatArray:
    """Make the logits of groups, such as patients, from those of their images.

    A group with one image has its logits.

    Args:
        logits: `[N, L]`, of each finding.
        grouping: which images belong together.
        name: of `AGGREGATES`.

    Returns:
        float64 `[count, L]`.

    >>> two = Grouping(np.array([0, 0]))
    >>> chances = aggregate_findings(np.log([[0.25], [1.0]]), two, "noisy-or")  # p = 0.2 and 0.5
    >>> scipy.special.expit(chances).round(3).tolist()
    [[0.6]]
    """
    aggregate = find_aggregate(name)
    if (
        aggregate is _MAX
    ):  # exactly the logit of an image, so that it is called at the same threshold
        return _largest(np.asarray(logits, dtype=np.float64), grouping)
    combined = aggregate.combine(Events.from_logits(logits), grouping)
    return _keep_single(combined.logits, logits, grouping)


def aggregate_classes(
    logits: NDArray[np.floating], grouping: Grouping, name: str, *, ordered: bool = False
) -> FloatArray:
    """Make the logits of groups, such as patients, from those of their images.

    Without an order of the classes, only their mean probabilities are defined. With an order, every
    aggregate is taken of the probabilities of each grade or a higher one. So `noisy-or` is the
    distribution of the highest grade of independent images. A group with one image has its logits.

    Args:
        logits: `[N, C]`.
        grouping: which images belong together.
        name: of `AGGREGATES`.
        ordered: whether the classes are in an order, such as grades.

    Returns:
        float64 `[count, C]`, the logs of probabilities.

    Raises `InputError` for an aggregate that needs an order.

    >>> logits, two = np.log([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]]), Grouping(np.array([0, 0]))
    >>> np.exp(aggregate_classes(logits, two, "mean")).round(2).tolist()
    [[0.5, 0.35, 0.15]]
    >>> np.exp(aggregate_classes(logits, two, "max", ordered=True)).round(2).tolist()
    [[0.2, 0.6, 0.2]]
    """
    aggregate = find_aggregate(name)
    logs = scipy.special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1)
    if name == MEAN:
        combined = _mean(Events(logs, logs), grouping).log_present
        return _keep_single(combined, logits, grouping)
    if not ordered:
        raise InputError(
            f"aggregate {name} needs one class to look for, or classes in an order: name the class "
            "with positive (--positive), say that they are ordered (--ordered-classes), or use mean"
        )
    reached = aggregate.combine(_cumulate(logs), grouping)
    return _keep_single(_separate(reached), logits, grouping)


def _cumulate(logs: FloatArray) -> Events:
    """From the logs of the grades' probabilities `[N, C]` to each grade or more, `[N, C - 1]`."""
    below = np.logaddexp.accumulate(logs, axis=1)
    above = np.logaddexp.accumulate(logs[:, ::-1], axis=1)[:, ::-1]
    # Rounding may make a sum of probabilities larger than 1.
    return Events(np.minimum(above[:, 1:], 0), np.minimum(below[:, :-1], 0))


def _separate(reached: Events) -> FloatArray:
    """From each grade or more `[G, C - 1]` to the logs of the grades' probabilities `[G, C]`.

    A probability is a difference of two; it is taken of their opposites where those are smaller.
    """
    log_one = np.zeros((len(reached.log_present), 1))
    log_zero = np.full_like(log_one, -np.inf)
    above = np.concatenate([log_one, reached.log_present, log_zero], axis=1)
    below = np.concatenate([log_zero, reached.log_absent, log_one], axis=1)
    from_above = above[:, :-1] <= below[:, 1:]
    large = np.where(from_above, above[:, :-1], below[:, 1:])
    small = np.where(from_above, above[:, 1:], below[:, :-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = large + np.log1p(-np.exp(np.minimum(small - large, 0)))
    return np.asarray(np.maximum(np.nan_to_num(logs, nan=LEAST_LOG), LEAST_LOG))


def _keep_single(
    combined: FloatArray, logits: NDArray[np.floating], grouping: Grouping
) -> FloatArray:
    """Put the logits of each group with one image in place of the combined ones."""
    single = grouping.sizes[grouping.numbers] == 1
    result = combined.copy()
    result[grouping.numbers[single]] = logits[single]
    return result


class AggregatedLabels(NamedTuple):
    """The labels of groups, such as patients."""

    labels: IntArray
    """int64 `[count]`, or `[count, L]` of findings."""

    differing: int
    """How many groups have images with different known labels."""


def aggregate_finding_labels(
    labels: IntArray, grouping: Grouping, unknown: int
) -> AggregatedLabels:
    """Say which findings groups, such as patients, have.

    A group has a finding if one of its images has it. It lacks the finding if all of its images
    are known to lack it. Otherwise, it is unknown.

    Args:
        labels: int `[N, L]` of 0, 1 and `unknown`.
        grouping: which images belong together.
        unknown: the label of a finding that is not known.

    >>> labels, pairs = np.array([[1, -1, 0, -1, 0, 1]]).T, Grouping(np.array([0, 0, 1, 1, 2, 2]))
    >>> aggregated = aggregate_finding_labels(labels, pairs, -1)
    >>> aggregated.labels.ravel().tolist(), aggregated.differing
    ([1, -1, 1], 1)
    """
    present, absent, missing = (
        grouping.sums((labels == value).astype(np.float64)) > 0 for value in (1, 0, unknown)
    )
    combined = np.where(present, 1, np.where(missing, unknown, 0))
    differing = (present & absent).any(axis=1)
    return AggregatedLabels(combined.astype(np.int64), int(differing.sum()))


def aggregate_class_labels(
    labels: IntArray, grouping: Grouping, unit: str, *, ordered: bool = False
) -> AggregatedLabels:
    """Find the class of groups, such as patients: the one of their images, or the highest grade.

    Args:
        labels: int `[N]`.
        grouping: which images belong together.
        unit: what a group is, for the message.
        ordered: whether the classes are in an order, such as grades.

    Raises `InputError` if the images of a group differ, and there is no highest class.

    >>> aggregate_class_labels(np.array([0, 2, 1]), Grouping(np.array([0, 0, 1])), "patient",
    ...                        ordered=True)
    AggregatedLabels(labels=array([2, 1]), differing=1)
    """
    column = labels[:, None].astype(np.float64)
    highest, lowest = _largest(column, grouping)[:, 0], -_largest(-column, grouping)[:, 0]
    differing = int((highest != lowest).sum())
    if differing and not ordered:
        raise InputError(
            f"the images of {differing} of {grouping.count} {unit}s differ in their class, and a "
            f"{unit} must have one: name the class to look for with positive (--positive), or say "
            "that the classes are ordered (--ordered-classes), so that the highest counts"
        )
    return AggregatedLabels(highest.astype(np.int64), differing)
