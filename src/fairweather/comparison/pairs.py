"""Two models cell by cell on the same images: differences, intervals, tests, verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fairweather.comparison.compared import (
    COMPARED,
    ComparedRun,
    Resampled,
    SharedShifts,
    estimate_model,
)
from fairweather.metrics.paired import (
    McNemar,
    SeedSummary,
    holm,
    mcnemar_exact,
    paired_difference,
    seed_interval,
)
from fairweather.record import MEAN
from fairweather.report.tables import TOO_FEW
from fairweather.types import Score

LEVEL = 0.05  # of the tests, and what the 95 % intervals leave out
# Real is only what a test says that was corrected for the number of tests. Of an interval that
# cannot be said: from the usual 1,000 resamples no p-value is below 0.002, and Holm's correction
# over the dozens of rows of a usual table would undo every one.
REAL, NOT_FOUND = "real", "no difference found"
EXCLUDES = "interval excludes 0 (uncorrected)"
# Of several seeds on both sides: other images would not undo it, other seeds might.
WITHIN = "within seed noise"
# The same network in another program differs by this much: its sums are rounded otherwise.
ROUNDING = 1e-5


class Pair(NamedTuple):
    """A model of one side beside a model of the other."""

    a: str
    b: str

    @property
    def title(self) -> str:
        """The name that both have, or both names."""
        return self.a if self.a == self.b else f"{self.a} / {self.b}"


@dataclass(frozen=True)
class Row:
    """A number of two models, and whether they differ in it.

    Attributes:
        pair: the models.
        shift, level, metric: in the words of scores.csv.
        a, b: the number of each side, over its seeds.
        difference: b − a, with the 95 % interval of the paired bootstrap.
        test: McNemar's exact test, of the accuracy in one cell of one seed on each side.
        p: its p-value after Holm's correction over all tests of the comparison; else NaN.
        same_answers: the models predict the same class of every image in every cell and seed.
    """

    pair: Pair
    shift: str
    level: str
    metric: str
    a: SeedSummary
    b: SeedSummary
    difference: Score
    test: McNemar | None = None
    p: float = math.nan
    same_answers: bool = False

    @property
    def is_cell(self) -> bool:
        """Say whether it is of one set of images, and not a mean over several."""
        return self.level != MEAN

    @property
    def over_seeds(self) -> tuple[float, float]:
        """The 95 % interval of the difference for other seeds; NaN where a side has only one."""
        return seed_interval(self.a, self.b)

    @property
    def verdict(self) -> str:
        """Say whether the models differ: by the test where there is one, else by the intervals."""
        if self.test is not None:
            return REAL if self.p < LEVEL else NOT_FOUND
        if self.difference.too_few:
            return TOO_FEW
        if not (self.difference.low > ROUNDING or self.difference.high < -ROUNDING):
            return NOT_FOUND
        low, high = self.over_seeds
        return WITHIN if low <= 0 <= high else EXCLUDES


def compare_models(
    a: ComparedRun, b: ComparedRun, pair: Pair, shared: SharedShifts, images: Resampled
) -> Iterator[Row]:
    """Compare two models in every cell, in means over levels, and in the mean over shifts."""
    first, second = (
        estimate_model(run, model, shared, images) for run, model in zip((a, b), pair, strict=True)
    )
    clean, *levels = shared.conditions
    for condition in (clean, *shared.means, *levels):
        for metric in COMPARED:
            row = Row(
                pair,
                *condition,
                metric,
                first.summary(condition, metric),
                second.summary(condition, metric),
                paired_difference(first.shown(condition, metric), second.shown(condition, metric)),
                same_answers=first.answers == second.answers,
            )
            if metric == "accuracy" and row.is_cell and row.a.n == row.b.n == 1:
                test = mcnemar_exact(first.correct[condition], second.correct[condition])
                row = replace(row, test=test)
            yield row


def correct_for_number(rows: Sequence[Row]) -> list[Row]:
    """Put Holm's correction over all tests into the rows that have one."""
    adjusted = iter(holm([row.test.p for row in rows if row.test]))
    return [replace(row, p=float(next(adjusted))) if row.test else row for row in rows]
