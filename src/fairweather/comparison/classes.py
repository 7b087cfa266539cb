"""The sensitivities of two models on clean images, class by class: where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.comparison.compared import (
    ComparedRun,
    Resampled,
    SharedShifts,
    are_one_run,
    estimate_model,
)
from fairweather.comparison.pairs import (
    CANNOT_TELL,
    LEVEL,
    REAL,
    Pair,
    crossed_shares,
    with_interval,
)
from fairweather.metrics.paired import (
    SeedSummary,
    holm,
    mcnemar_exact,
    paired_change,
    paired_difference,
)
from fairweather.record import CLEAN, NO_LEVEL, Condition, base_model
from fairweather.report.table_formats import Layout, signed
from fairweather.types import Score

LAYOUT = Layout(("Model", "Class", "n", "A", "B", "B − A", "p (Holm)", "Verdict"), words=2)
UNSHIFTED = Condition(CLEAN, NO_LEVEL)
NO_SHIFTS = SharedShifts((), (), ())


@dataclass(frozen=True)
class Row:
    """The sensitivities of two models for one class, and whether they differ.

    Attributes:
        pair: the models.
        name: of the class.
        a, b: the sensitivity of each side, over its seeds.
        difference: b − a, with its 95 % interval; n is the number of images of the class.
        p: of McNemar's exact test on the images of the class or, with several seeds on a side, of
            the t-test over seeds and images; corrected by `class_table`.
    """

    pair: Pair
    name: str
    a: SeedSummary
    b: SeedSummary
    difference: Score
    p: float

    @property
    def differs(self) -> bool:
        """Tell whether the test finds a difference after the correction."""
        return self.p < LEVEL


class Table(NamedTuple):
    """The classes whose sensitivities differ as text, and all classes as numbers.

    Attributes:
        frame: one row for each pair of models and class.
        body: the classes that differ, in the order of `LAYOUT`.
        all_of_body: every class, in the same order.
        caption: what the numbers are, and how many classes differ.
    """

    frame: pd.DataFrame
    body: list[list[str]]
    all_of_body: list[list[str]]
    caption: str


def class_table(
    a: ComparedRun, b: ComparedRun, pairs: Sequence[Pair], images: Resampled
) -> Table | None:
    """Compare the sensitivity of each class that has images; None where logits are not stored.

    The p-values are corrected by Holm's method over all classes and pairs of models.
    """
    rows = [row for pair in pairs for row in _rows(a, b, pair, images)]
    if not rows:
        return None
    adjusted = holm([row.p for row in rows])
    rows = [replace(row, p=float(p)) for row, p in zip(rows, adjusted, strict=True)]
    apart = [row for row in rows if row.differs]
    return Table(
        _as_frame(rows),
        list(map(_line, apart)),
        list(map(_line, rows)),
        _caption(rows, apart, images),
    )


def _rows(a: ComparedRun, b: ComparedRun, pair: Pair, images: Resampled) -> Iterator[Row]:
    classes = a.record.data.classes
    names = {label: f"sensitivity/{name}" for label, name in enumerate(classes)}
    first, second = (
        estimate_model(run, model, NO_SHIFTS, images, list(names.values()))
        for run, model in zip((a, b), pair, strict=True)
    )
    # Variants of the same trained networks are paired seed by seed, as in the main table.
    same = are_one_run(a, b) and base_model(pair.a) == base_model(pair.b)
    same = same and first.seeds == second.seeds
    subtract = paired_change if same else paired_difference
    for label, name in names.items():
        of_class = images.labels == label
        if not of_class.any() or not (first.has(UNSHIFTED, name) and second.has(UNSHIFTED, name)):
            continue
        right = [each.correct[UNSHIFTED][of_class] for each in (first, second)]
        known = images.clusters
        clusters = None if known is None else known.select(np.flatnonzero(of_class))
        difference = subtract(first.shown(UNSHIFTED, name), second.shown(UNSHIFTED, name))
        if len(first.seeds) == len(second.seeds) == 1 and clusters is None:
            p = mcnemar_exact(right[0][:, 0], right[1][:, 0]).p
        else:
            floats = [each.astype(float) for each in right]
            crossed = crossed_shares(floats, clusters, same=same)
            difference, p = with_interval(difference, crossed), crossed.p
        yield Row(
            pair,
            classes[label],
            first.summary(UNSHIFTED, name),
            second.summary(UNSHIFTED, name),
            difference,
            p,
        )


def _as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Write rows as a tidy table; sensitivities are fractions."""
    return pd.DataFrame(
        {
            "model_a": [row.pair.a for row in rows],
            "model_b": [row.pair.b for row in rows],
            "class": [row.name for row in rows],
            "a": [row.a.mean for row in rows],
            "b": [row.b.mean for row in rows],
            "difference": [row.difference.value for row in rows],
            "low": [row.difference.low for row in rows],
            "high": [row.difference.high for row in rows],
            "n": [row.difference.n for row in rows],
            "p_holm": [row.p for row in rows],
            "verdict": [REAL if row.differs else CANNOT_TELL for row in rows],
        }
    )


def _line(row: Row) -> list[str]:
    value, low, high = (signed(number, percent=True) for number in row.difference[:3])
    return [
        row.pair.title,
        row.name,
        f"{row.difference.n:,}",
        f"{100 * row.a.mean:.1f}",
        f"{100 * row.b.mean:.1f}",
        f"{value} [{low}, {high}]",
        "< 0.001" if row.p < 0.001 else f"{row.p:.3f}",
        REAL if row.differs else CANNOT_TELL,
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
