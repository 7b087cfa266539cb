"""The row of every name in the column `metric` of scores.csv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fairweather.errors import InputError
from fairweather.metrics.detection import DETECTION_METRICS, OOD_SCORES, DetectionMetric
from fairweather.metrics.findings import find_point_metric
from fairweather.metrics.metric import (
    CLASS_METRICS,
    ClassMetricRow,
    MetricRow,
    find_class_metric_row,
)
from fairweather.metrics.robustness import SHIFT_METRICS
from fairweather.metrics.table import METRICS


def iterate_rows() -> Iterator[MetricRow]:
    """Give the rows of all tables; those of classes are named `KIND/CLASS`."""
    yield from METRICS.values()
    yield from SHIFT_METRICS.values()
    yield from DETECTION_METRICS.values()
    yield from (_score_row(row, name) for row in DETECTION_METRICS.values() for name in OOD_SCORES)
    yield from map(_class_row, CLASS_METRICS.values())


def find_row(name: str) -> MetricRow | None:
    """Find the row of a name in scores.csv; None if unknown.

    A metric of one class has the row of its kind, for all classes. A metric of a finding may be at
    an operating point.

    >>> find_row("accuracy").unit, find_row("ppv/malignant@0.3").name, find_row("acuracy")
    ('%', 'ppv/CLASS', None)
    """
    for table in (METRICS, SHIFT_METRICS, DETECTION_METRICS):
        if name in table:
            return table[name]
    if kind := find_class_metric_row(name):
        return _class_row(kind)
    if point := find_point_metric(name):
        return point
    base, _, score = name.rpartition("/")
    if base in DETECTION_METRICS and score in OOD_SCORES:
        return _score_row(DETECTION_METRICS[base], score)
    return None


def require_row(name: str) -> MetricRow:
    """Do the same for a name that must be known."""
    row = find_row(name)
    if row is None:
        raise InputError(f"scores.csv has the metric {name}, which this version does not know")
    return row


def _class_row(kind: ClassMetricRow) -> MetricRow:
    return replace(kind, name=f"{kind.name}/CLASS", label=f"{kind.label} of a class")


def _score_row(row: DetectionMetric, name: str) -> MetricRow:
    label = f"{row.short_label} of the {OOD_SCORES[name].label} for another data set"
    return replace(row, name=f"{row.name}/{name}", label=label)
