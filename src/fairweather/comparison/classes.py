"""The sensitivities of two models on clean images, class by class: where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fairweather.comparison.compared import ComparedRun, Resampled, SharedShifts
from fairweather.comparison.pairs import (
    LEVEL,
    REAL,
    Pair,
    Row,
    as_frame,
    correct_for_number,
    estimate_sides,
)
from fairweather.record import CLEAN, NO_LEVEL, Condition
from fairweather.report.table_formats import Layout, TextTable, p_value
from fairweather.report.tables import signed_entry

LAYOUT = Layout(("Model", "Class", "n", "A", "B", "B − A", "p (Holm)", "Verdict"), words=2)
COLUMNS = (
    *("model_a", "model_b", "class", "a", "b", "difference", "low", "high"),
    *("n", "p_holm", "verdict"),
)
UNSHIFTED = Condition(CLEAN, NO_LEVEL)
NO_SHIFTS = SharedShifts((), (), ())
SENSITIVITY = "sensitivity/"


def class_table(
    a: ComparedRun, b: ComparedRun, pairs: Sequence[Pair], images: Resampled, name: str
) -> TextTable | None:
    """Compare the sensitivity of each class that has images; None where logits are not stored.

    The p-values are corrected by Holm's method over all classes and pairs of models. A terminal
    shows the classes that differ.
    """
    rows = correct_for_number([row for pair in pairs for row in _rows(a, b, pair, images)])
    if not rows:
        return None
    apart = [row for row in rows if row.verdict == REAL]
    frame = as_frame(rows)
    frame["class"] = frame["metric"].str.removeprefix(SENSITIVITY)
    return TextTable(
        f"{name}_classes",
        LAYOUT,
        list(map(_line, rows)),
        [_caption(rows, apart, images)],
        frame[list(COLUMNS)],
        shown=list(map(_line, apart)),
    )


def _rows(a: ComparedRun, b: ComparedRun, pair: Pair, images: Resampled) -> Iterator[Row]:
    names = [f"{SENSITIVITY}{name}" for name in a.record.data.classes]
    sides = estimate_sides(a, b, pair, NO_SHIFTS, images, names)
    both, known = (sides.first, sides.second), images.clusters
    for label, name in enumerate(names):
        of_class = images.labels == label
        if of_class.any() and all(each.has(UNSHIFTED, name) for each in both):
            right = [each.correct[UNSHIFTED][of_class].astype(float) for each in both]
            clusters = None if known is None else known.select(np.flatnonzero(of_class))
            yield sides.tested(sides.row(UNSHIFTED, name), right, clusters)


def _line(row: Row) -> list[str]:
    return [
        row.pair.title,
        row.metric.removeprefix(SENSITIVITY),
        f"{row.difference.n:,}",
        f"{100 * row.a.mean:.1f}",
        f"{100 * row.b.mean:.1f}",
        signed_entry(row.difference, percent=True),
        p_value(row.p),
        row.verdict,
    ]


def _caption(rows: Sequence[Row], apart: Sequence[Row], images: Resampled) -> str:
    over = "" if images.clusters is None else ", over clusters"
    few = f"{len(apart)} of {len(rows)}" if apart else f"none of {len(rows)}"
    return (
        f"Sensitivity (%) of each class on clean images, paired: {few} differ, by a test on the "
        f"images of the class{over}, after Holm's correction over these {len(rows)} "
        f"(p < {LEVEL:g}). In brackets: the 95 % interval of B − A{over}. The file of this table "
        "has every class."
    )
