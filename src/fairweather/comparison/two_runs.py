"""Two runs on the same images: which of their differences are real, or may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fairweather.comparison import robustness, runs_table, writing
from fairweather.comparison.measured import resample
from fairweather.comparison.pairs import Pair, compare_models, correct_for_number
from fairweather.comparison.published import REFERENCES
from fairweather.comparison.robustness import Table
from fairweather.comparison.sides import (
    Side,
    check_same_data,
    open_side,
    pair_models,
    share_cells,
    split_side,
)
from fairweather.errors import unknown_name
from fairweather.report.formats import Body


@dataclass(frozen=True)
class RunComparison:
    """A run beside another.

    Attributes:
        name: of its files, without the suffix.
        table: one row for each pair of models, shift, level and metric; see `read_run_comparison`.
        body: the table as text, in the order of `runs_table.LAYOUT`.
        caption: what the numbers are.
        notes: what they do not show; last, how many cells differ and in which direction.
        robustness: effective robustness of A's models against B's; None where B has too few.
    """

    name: str
    table: pd.DataFrame
    body: Body
    caption: str
    notes: Sequence[str]
    robustness: Table | None

    def __str__(self) -> str:
        parts = [writing.aligned(runs_table.LAYOUT, self.body), self.caption]
        if self.robustness:
            below = self.robustness.caption
            parts += [writing.aligned(robustness.LAYOUT, self.robustness.body), below]
        return "\n\n".join([*parts, *self.notes])

    def files(self) -> dict[str, str]:
        """Write the tables in Markdown, CSV and LaTeX, by the files' names in a run folder."""
        below = [self.caption, *self.notes]
        files = writing.table_files(self.name, runs_table.LAYOUT, self.body, below, self.table)
        if self.robustness:
            files |= writing.table_files(
                f"{self.name}_effective_robustness",
                robustness.LAYOUT,
                self.robustness.body,
                [self.robustness.caption],
                self.robustness.frame,
            )
        return files


def read_run_comparison(a: str | Path, b: str | Path) -> RunComparison:
    """Compare the models of two runs on the same test images, from their stored predictions.

    Models are paired by name, or the only one of each side with the other; shifted images by the
    id of the shift with all its parameters.

    Args:
        a, b: a run folder, or one model of it as FOLDER:MODEL; two models of one run can be
            compared.

    Returns:
        Its table has one row for each pair of models, shift, level and metric (accuracy,
        rms_calibration_error, negative_log_likelihood): a and b, the means over seeds, with sd_a,
        sd_b (missing for one seed), seeds_a and seeds_b; difference, b − a, with low and high of
        its paired 95 % interval over n images, and seed_low and seed_high of Welch's over seeds;
        for the accuracy in one cell of one seed on each side, only_a_right, only_b_right,
        McNemar's exact p and p_holm, corrected over all cells of the table; and the verdict.
        That is `real` where p_holm says so; for rows without a test `interval excludes 0
        (uncorrected)`, or `within seed noise` where other seeds might undo it; else `no
        difference found`. Accuracies are fractions.

    Raises:
        InputError: no run, an unknown model, models that cannot be paired, a model beside itself,
            or predictions of other images or not those that a run wrote.
    """
    if not Path(split_side(b)[0]).exists():
        raise unknown_name("run folder or reference", b, REFERENCES)
    first, second = open_side(a), open_side(b)
    pairs = [Pair(*names) for names in pair_models(first, second)]
    check_same_data(first, second)
    shared = share_cells(first, second)
    images = resample(first, second)
    rows = correct_for_number(
        [row for pair in pairs for row in compare_models(first, second, pair, shared, images)]
    )
    titles = runs_table.shift_titles(shared)
    return RunComparison(
        name=_file_name(first, second),
        table=runs_table.as_frame(rows),
        body=runs_table.table_body(rows, titles),
        caption=runs_table.caption(rows, first, second, images.resamples),
        notes=runs_table.notes(rows, first, second, shared),
        robustness=robustness.effective_table(first, second, shared, images, titles),
    )


def _file_name(a: Side, b: Side) -> str:
    """Name the files after the other run, and the models where they were asked for by name."""
    asked = [next(iter(a.models))] if a.models != a.everyone else []
    asked += [b.run.path.resolve().name]
    asked += [next(iter(b.models))] if b.models != b.everyone else []
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "_".join(asked))
    # Files of a comparison with published numbers have the names of these.
    return f"compare_{name}_run" if name in REFERENCES else f"compare_{name}"
