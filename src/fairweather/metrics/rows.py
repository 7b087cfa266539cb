"""The row of every name in the column `metric` of scores.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fairweather.errors import InputError
from fairweather.metrics.across_shifts import OF_SHIFTS
from fairweather.metrics.class_metrics import CLASS_METRICS, OfClasses, of_classes
from fairweather.metrics.detection import DETECTION, Detection
from fairweather.metrics.metric import MetricRow
from fairweather.metrics.ood_scores import OOD_SCORES
from fairweather.metrics.table import METRICS


def every_row() -> Iterator[MetricRow]:
    """Give the rows of all tables; those of classes are named `KIND/CLASS`."""
    yield from METRICS.values()
    yield from OF_SHIFTS.values()
    yield from DETECTION.values()
    yield from (_of_score(row, name) for row in DETECTION.values() for name in OOD_SCORES)
    yield from map(_of_a_class, CLASS_METRICS.values())


def find_row(name: str) -> MetricRow | None:
    """Find the row of a name in scores.csv, that of all classes for a single one; None if unknown.

    >>> find_row("accuracy").unit, find_row("ppv/malignant@0.3").name, find_row("acuracy")
    ('%', 'ppv/CLASS', None)
    """
    for table in (METRICS, OF_SHIFTS, DETECTION):
        if name in table:
            return table[name]
    if kind := of_classes(name):
        return _of_a_class(kind)
    base, _, score = name.rpartition("/")
    if base in DETECTION and score in OOD_SCORES:
        return _of_score(DETECTION[base], score)
    return None


def row_of(name: str) -> MetricRow:
    """Do the same for a name that must be known."""
    row = find_row(name)
    if row is None:
        raise InputError(f"scores.csv has the metric {name}, which this version does not know")
    return row


def _of_a_class(kind: OfClasses) -> MetricRow:
    return replace(kind, name=f"{kind.name}/CLASS", label=f"{kind.label} of a class")


def _of_score(row: Detection, name: str) -> MetricRow:
    label = f"{row.what} of the {OOD_SCORES[name].label} for another data set"
    return replace(row, name=f"{row.name}/{name}", label=label)
