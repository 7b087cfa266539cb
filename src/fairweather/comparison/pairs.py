"""Compare two models cell by cell on the same images: differences, intervals, tests, verdicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.comparison.compared import (
    ComparedRun,
    ModelEstimates,
    Resampled,
    SharedShifts,
    are_one_run,
    estimate_model,
    weights_of_means,
)
from fairweather.metrics.clusters import Clusters
from fairweather.metrics.columns import FloatArray
from fairweather.metrics.paired import (
    McNemar,
    SeedSummary,
    holm,
    mcnemar_exact,
    paired_change,
    paired_difference,
)
from fairweather.metrics.recipes import Crossed, cross, cross_difference
from fairweather.metrics.table import shown_metrics
from fairweather.record import IMAGE, MEAN, Condition, base_model
from fairweather.report.sentences import seed_far_out
from fairweather.report.tables import TOO_FEW
from fairweather.types import Score

LEVEL = 0.05  # of the tests, and what the 95 % intervals leave out
# A difference is called real only if a test says so that is corrected for the number of tests. An
# interval cannot be corrected like this: 1,000 resamples give no p-value below 0.002, which Holm's
# correction over the dozens of rows of a usual table would always undo.
REAL, CANNOT_TELL = "real", "cannot tell"
EXCLUDES = "interval excludes 0 (uncorrected)"
# The same network in another program differs by this much: its sums are rounded differently.
ROUNDING = 1e-5


class Pair(NamedTuple):
    """A model of one side and a model of the other."""

    a: str
    b: str

    @property
    def title(self) -> str:
        """The common name of both, or both names."""
        return self.a if self.a == self.b else f"{self.a} / {self.b}"


@dataclass(frozen=True)
class Row:
    """One metric of two models under one shift, and whether they differ.

    Attributes:
        pair: the models.
        shift, level, metric, unit: as in scores.csv.
        a, b: the value of each side, over its seeds.
        difference: b − a, with its 95 % interval; it also covers the seeds of a side with several.
        crossed: only for accuracy, with several seeds or clusters of images: b − a over images and
            seeds, with its variances; the interval is then its interval, unless nothing varies.
        test: McNemar's exact test, for the accuracy in one cell with one seed on each side; None if
            images come in clusters.
        p: for the accuracy in one cell, from that test or from the t-test of `crossed`, after
            Holm's correction over all tests of the comparison; else NaN.
        far_out: of each side with a seed far from the others a sentence, else "".
        same_classes: the models predict the same class for every image, in every cell and seed.
        same_confidences: likewise, with the same confidence and loss.
    """

    pair: Pair
    shift: str
    level: str
    metric: str
    a: SeedSummary
    b: SeedSummary
    difference: Score
    crossed: Crossed | None = None
    test: McNemar | None = None
    p: float = math.nan
    far_out: tuple[str, ...] = ()
    same_classes: bool = False
    same_confidences: bool = False
    unit: str = IMAGE

    @property
    def is_tested(self) -> bool:
        """Say whether it has a p-value: only a share of the images in one cell has."""
        return self.is_cell and bool(self.test or self.crossed)

    @property
    def p_alone(self) -> float:
        """The p-value of its test before the correction; NaN if there is no test."""
        found = self.test or self.crossed
        return found.p if found and self.is_tested else math.nan

    @property
    def is_cell(self) -> bool:
        """Say whether it belongs to one cell, and is not a mean over several."""
        return self.level != MEAN

    @property
    def is_of_recipes(self) -> bool:
        """Say whether both sides have several seeds."""
        return min(self.a.n, self.b.n) > 1

    @property
    def verdict(self) -> str:
        """Say whether the models differ: by the test if there is one, else by the interval."""
        if self.is_tested:
            return REAL if self.p < LEVEL else CANNOT_TELL
        if self.difference.too_few:
            return TOO_FEW
        apart = self.difference.low > ROUNDING or self.difference.high < -ROUNDING
        return EXCLUDES if apart else CANNOT_TELL


class Sides(NamedTuple):
    """Two models whose estimates are compared.

    Attributes:
        pair: the models.
        first, second: their estimates.
        same: whether both are variants of the same trained networks, which are paired by seed.
    """

    pair: Pair
    first: ModelEstimates
    second: ModelEstimates
    same: bool

    def row(self, condition: Condition, metric: str) -> Row:
        """Compare a metric of the two."""
        subtract = paired_change if self.same else paired_difference
        return Row(
            self.pair,
            *condition,
            metric,
            self.first.summary(condition, metric),
            self.second.summary(condition, metric),
            subtract(self.first.shown(condition, metric), self.second.shown(condition, metric)),
            same_classes=self.first.classes == self.second.classes,
            same_confidences=self.first.confidences == self.second.confidences,
        )

    def tested(self, row: Row, right: Sequence[FloatArray], clusters: Clusters | None) -> Row:
        """Test a row about a share of images, `[n, S]` on each side."""
        if row.a.n == row.b.n == 1 and clusters is None:
            test = mcnemar_exact(right[0][:, 0], right[1][:, 0]) if row.is_cell else None
            return replace(row, test=test)
        crossed = _crossed_shares(right, clusters, same=self.same)
        return replace(row, difference=_with_interval(row.difference, crossed), crossed=crossed)


def estimate_sides(
    a: ComparedRun,
    b: ComparedRun,
    pair: Pair,
    shared: SharedShifts,
    images: Resampled,
    metrics: Collection[str],
) -> Sides:
    """Estimate metrics of the two models of a pair."""
    first, second = (
        estimate_model(run, model, shared, images, metrics)
        for run, model in zip((a, b), pair, strict=True)
    )
    same = are_one_run(a, b) and base_model(pair.a) == base_model(pair.b)
    return Sides(pair, first, second, same and first.seeds == second.seeds)


def compare_models(
    a: ComparedRun, b: ComparedRun, pair: Pair, shared: SharedShifts, images: Resampled
) -> Iterator[Row]:
    """Compare two models in every cell, in means over levels, and in the mean over shifts."""
    metrics = shown_metrics(1, images.kind)
    sides = estimate_sides(a, b, pair, shared, images, metrics)
    both = (sides.first, sides.second)
    weights = weights_of_means(shared)
    clean, *levels = shared.conditions
    for condition in (clean, *shared.means, *levels):
        for metric in metrics:
            row = replace(sides.row(condition, metric), unit=images.unit.name)
            if metric == images.decided:
                cells = weights.get(condition, {condition: 1.0})
                right = [_mean_correct(each, cells) for each in both]
                row = sides.tested(row, right, images.clusters)
                if row.crossed:
                    told = (
                        seed_far_out(f"{side} ({of.model})", of.seeds, each, images.clusters)
                        for side, of, each in zip("AB", both, right, strict=True)
                    )
                    row = replace(row, far_out=tuple(told))
            yield row


def _crossed_shares(
    sides: Sequence[FloatArray], clusters: Clusters | None, *, same: bool
) -> Crossed:
    """The second side minus the first, of shares of images `[n, S]`; paired by seed if `same`."""
    first, second = sides
    if same:
        return cross(second - first, clusters)
    return cross_difference(first, second, clusters, (0.0, 1.0))


def _with_interval(difference: Score, crossed: Crossed) -> Score:
    """A difference of shares with the interval of its test, so that both say the same of 0.

    If nothing varies, that interval has no width, and the difference keeps its own.
    """
    if difference.too_few or not crossed.errors:
        return difference
    low, high = crossed.interval
    value = difference.value
    return difference._replace(low=min(max(low, -1.0), value), high=max(min(high, 1.0), value))


def _mean_correct(estimates: ModelEstimates, cells: Mapping[Condition, float]) -> FloatArray:
    """How often each image is classified correctly over some cells, float64 `[n, S]`."""
    shares = [weight * estimates.correct[cell] for cell, weight in cells.items()]
    return np.sum(shares, axis=0, dtype=np.float64)


def correct_for_number(rows: Sequence[Row]) -> list[Row]:
    """Correct the p-values of all tests together by Holm's method."""
    adjusted = iter(holm([row.p_alone for row in rows if row.is_tested]))
    return [replace(row, p=float(next(adjusted))) if row.is_tested else row for row in rows]


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Write rows as a tidy table; missing values are NaN or NA."""
    lines = [
        (
            *(*row.pair, row.shift, row.level, row.unit, row.metric),
            *(row.a.mean, row.b.mean, *row.difference),
            *(row.a.n, row.b.n, row.a.sd, row.b.sd),
            *((row.test.b, row.test.c) if row.test else (pd.NA, pd.NA)),
            *(row.p_alone, row.p, row.verdict),
        )
        for row in rows
    ]
    columns = ["model_a", "model_b", "shift", "level", "unit", "metric", "a", "b"]
    columns += ["difference", "low", "high", "n", "seeds_a", "seeds_b", "sd_a", "sd_b"]
    columns += ["only_a_right", "only_b_right", "p", "p_holm", "verdict"]
    counts = {"only_a_right": "Int64", "only_b_right": "Int64"}
    frame = pd.DataFrame(lines, columns=columns).astype(counts)
    return frame if {*frame["unit"]} - {IMAGE} else frame.drop(columns="unit")
