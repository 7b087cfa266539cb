"""Effective robustness of the models of one run, relative to those of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fairweather.comparison.compared import (
    ComparedRun,
    ModelEstimates,
    Resampled,
    SharedShifts,
    are_one_run,
    estimate_model,
)
from fairweather.metrics import Estimate, recipe_estimate, to_score
from fairweather.metrics.across_shifts import effective_robustness
from fairweather.metrics.columns import FloatArray
from fairweather.record import CLEAN, NO_LEVEL, Condition, base_model
from fairweather.report.table_formats import Layout, TextTable
from fairweather.report.tables import signed_entry
from fairweather.scores import read_clusters
from fairweather.types import Score

METRIC = "accuracy"
FEWEST = 3  # reference models with different clean accuracies: a line fits any two
LAYOUT = Layout(("Model", "Shift", "Clean", "Shifted", "Expected", "Effective robustness"), words=2)
UNSHIFTED = Condition(CLEAN, NO_LEVEL)


class Row(NamedTuple):
    """A model's accuracy under a shift, and the accuracy that its clean accuracy predicts.

    Attributes:
        model: of the first side.
        shift: as in scores.csv; the accuracy is the mean over its levels.
        clean, shifted: accuracies, the mean over seeds.
        effective: shifted minus expected, with its interval, which covers seeds if A has several.
    """

    model: str
    shift: str
    clean: float
    shifted: float
    effective: Score

    @property
    def expected(self) -> float:
        """The accuracy that the line through the reference models predicts."""
        return self.shifted - self.effective.value


def effective_table(
    a: ComparedRun,
    b: ComparedRun,
    shared: SharedShifts,
    images: Resampled,
    titles: Mapping[str, str],
    name: str,
) -> TextTable | None:
    """Compare each model of a with the line through all trained models of b.

    None if b has fewer than `FEWEST` models with different clean accuracies; each seed of a model
    counts as one. Variants (NAME+VARIANT) do not count.
    """
    names = [each for each in b.every_model if base_model(each) == each]
    if are_one_run(a, b):
        names = [each for each in names if each not in a.models]
    reference = [
        estimates
        for model in names
        for estimates in _by_seed(estimate_model(b, model, shared, images, [METRIC]), shared.means)
    ]
    if len({estimates[UNSHIFTED].value for estimates in reference}) < FEWEST or not shared.means:
        return None
    rows = [
        row
        for model in a.models
        for row in _rows(
            estimate_model(a, model, shared, images, [METRIC]), reference, shared.means
        )
    ]
    several = any(len(seeds) > 1 for seeds in a.models.values())
    return TextTable(
        f"{name}_effective_robustness",
        LAYOUT,
        _table_body(rows, titles),
        [_caption(b, rows, len(reference), several)],
        _as_frame(rows),
    )


def _as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Write rows as a tidy table; accuracies are fractions."""
    lines = [
        (row.model, row.shift, row.clean, row.shifted, row.expected, *row.effective) for row in rows
    ]
    columns = [*Row._fields[:4], "expected", "effective_robustness", *Score._fields[1:]]
    return pd.DataFrame(lines, columns=columns)


def _table_body(rows: Sequence[Row], titles: Mapping[str, str]) -> list[list[str]]:
    """Write rows as text, in percent, in the order of `LAYOUT`."""
    return [
        [
            row.model,
            titles[row.shift],
            *(f"{100 * share:.1f}" for share in (row.clean, row.shifted, row.expected)),
            signed_entry(row.effective, percent=True),
        ]
        for row in rows
    ]


def _caption(b: ComparedRun, rows: Sequence[Row], models: int, several: bool) -> str:
    """Describe the numbers and their limits; `several`: the models have several seeds."""
    units = "images" if read_clusters(b.run) is None else "clusters of images"
    return (
        f"Effective robustness relative to {models} trained models of {b.run.path.name} (Taori et "
        "al. 2020), in percentage points. It is the accuracy under the shift (mean over its "
        "levels) minus the accuracy that a line predicts from the clean accuracy. The line is "
        "fitted to those models' clean and shifted accuracies on the logit scale. In brackets: "
        f"95 % intervals over {units}{' and over the seeds of the models' if several else ''} "
        f"(n = {rows[0].effective.n:,}). They do not cover the choice of reference models, and "
        "outside the range of these models' clean accuracies the line is a guess."
    )


def _by_seed(
    estimates: ModelEstimates, means: Sequence[Condition]
) -> Iterator[dict[Condition, Estimate]]:
    for seed in estimates.seeds:
        yield {each: estimates.of_seed(seed, each, METRIC) for each in (UNSHIFTED, *means)}


def _rows(
    estimates: ModelEstimates,
    reference: Sequence[dict[Condition, Estimate]],
    means: Sequence[Condition],
) -> Iterator[Row]:
    seeds = list(_by_seed(estimates, means))
    for mean in means:
        found = recipe_estimate([_effective(own, reference, mean) for own in seeds])
        yield Row(
            estimates.model,
            mean.shift,
            estimates.shown(UNSHIFTED, METRIC).value,
            estimates.shown(mean, METRIC).value,
            to_score(found, (-1.0, 1.0)),
        )


def _effective(
    own: dict[Condition, Estimate], reference: Sequence[dict[Condition, Estimate]], mean: Condition
) -> Estimate:
    clean = own[UNSHIFTED]

    def effective(of: Callable[[Estimate], Any]) -> Any:  # noqa: ANN401 - a number, or replicates
        return effective_robustness(
            of(clean),
            of(own[mean]),
            [of(each[UNSHIFTED]) for each in reference],
            [of(each[mean]) for each in reference],
            images=clean.n,
        )

    value, replicates = float(effective(attrgetter("value"))), np.asarray(effective(_shares))
    return Estimate(value, replicates, clean.n, clusters=clean.clusters)


def _shares(estimate: Estimate) -> FloatArray:
    """The replicates of an accuracy; those of clusters may lie a little outside of [0, 1]."""
    return np.clip(estimate.replicates, 0, 1)
