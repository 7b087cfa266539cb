"""Validation beside test, where the test images are known to come from elsewhere."""

from __future__ import annotations

import math

from fairweather.report.contents import Contents
from fairweather.report.tables import (
    TABULATED,
    Entry,
    Row,
    Table,
    describe_metric,
    find_entry,
    interval_note,
)
from fairweather.report.words import CLEAN, NO_LEVEL, VALIDATION
from fairweather.types import Score

STATES = (VALIDATION, CLEAN)


def natural_shift_tables(contents: Contents) -> list[Table]:
    """Build a table a metric: validation, test, and their difference, with a row a model.

    There is none for data whose test images come from where the others come from.
    """
    origin = contents.data["notes"].get("natural_shift")
    return [_table(contents, metric, str(origin)) for metric in TABULATED] if origin else []


def difference(first: Score, second: Score) -> Score:
    """Subtract two numbers of independent images, with a 95 % interval.

    The interval is made of the two intervals by MOVER (Zou and Donner 2008, "Construction of
    confidence limits about effect measures", equation 5), which keeps their asymmetry. `n` is the
    smaller one.

    >>> gap = difference(Score(0.9, 0.87, 0.92, 400), Score(0.8, 0.76, 0.83, 300))
    >>> [round(number, 3) for number in gap]
    [0.1, 0.058, 0.145, 300]
    """
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Score(value, low, high, min(first.n, second.n))


def _table(contents: Contents, metric: str, origin: str) -> Table:
    caption = (
        f"{describe_metric(metric)} on the validation and on the test images. {origin} Validation "
        "images chose the checkpoint, so their number is slightly flattered. In brackets: 95 % "
        f"intervals{interval_note(metric)}; they take images as independent, so where many come "
        "from one patient they are too narrow. Classes may be more or less frequent in one of the "
        "two sets, which is a part of the difference."
    )
    return Table(
        name=f"natural_shift_{metric}",
        caption=caption,
        header=("Model", "Validation", "Test", "Test − validation"),
        keys=("model", VALIDATION, CLEAN, "difference"),
        rows=tuple(
            Row(name, title, title, _entries(contents, metric, name))
            for name, title in contents.titles.items()
        ),
    )


def _entries(contents: Contents, metric: str, model: str) -> tuple[Entry | None, ...]:
    validation, test = (find_entry(contents, metric, model, shift, NO_LEVEL) for shift in STATES)
    if validation is None or test is None:
        return validation, test, None
    gap = difference(test.score, validation.score)
    return validation, test, Entry(gap, test.percent)
