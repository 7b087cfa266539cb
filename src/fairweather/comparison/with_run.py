"""Two runs on the same images: which of their differences are real, or may be."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fairweather.comparison import robustness
from fairweather.comparison.compared import (
    ComparedRun,
    SharedShifts,
    check_same_data,
    open_compared,
    pair_models,
    prepared_otherwise,
    resample,
    share_shifts,
    split_name,
)
from fairweather.comparison.pairs import (
    EXCLUDES,
    LEVEL,
    NOT_FOUND,
    REAL,
    Pair,
    Row,
    compare_models,
    correct_for_number,
)
from fairweather.comparison.published import REFERENCES
from fairweather.errors import unknown_name
from fairweather.metrics.paired import SeedSummary
from fairweather.record import ALL, CLEAN, ENSEMBLE_SUFFIX, MEAN, NO_LEVEL, SUMMARY_LEVELS
from fairweather.report.ranking import MCNEMAR, RECIPES
from fairweather.report.sentences import needed_in_words
from fairweather.report.table_formats import Body, Layout, aligned, signed, table_files
from fairweather.report.tables import (
    ABSENT,
    METRIC,
    TOO_FEW,
    TOO_FEW_NOTE,
    describe_metric,
    is_percent,
)
from fairweather.types import in_255ths

OVER_SEEDS = (
    ", and over the seeds of each side that has several; (sd): the standard deviation of one seed"
)
LAYOUT = Layout(
    ("Model", "Shift", "Level", "Metric", "A", "B", "B − A", "p (Holm)", "Verdict"), words=4
)


@dataclass(frozen=True)
class RunComparison:
    """A run beside another.

    Attributes:
        name: of its files, without the suffix.
        scope: whether it is about recipes or about trained networks alone.
        table: one row for each pair of models, shift, level and metric; see `read_run_comparison`.
        body: the table as text, in the order of `LAYOUT`.
        caption: what the numbers are.
        notes: what they do not show; last, how many cells differ and in which direction.
        robustness: effective robustness of A's models against B's; None where B has too few.
    """

    name: str
    scope: str
    table: pd.DataFrame
    body: Body
    caption: str
    notes: Sequence[str]
    robustness: robustness.Table | None

    def __str__(self) -> str:
        parts = [self.scope, aligned(LAYOUT, self.body), self.caption]
        if self.robustness:
            below = self.robustness.caption
            parts += [aligned(robustness.LAYOUT, self.robustness.body), below]
        return "\n\n".join([*parts, *self.notes])

    def files(self) -> dict[str, str]:
        """Write the tables in Markdown, CSV and LaTeX, by the files' names in a run folder."""
        below = [self.scope, self.caption, *self.notes]
        files = table_files(self.name, LAYOUT, self.body, below, self.table)
        if self.robustness:
            files |= table_files(
                f"{self.name}_effective_robustness",
                robustness.LAYOUT,
                self.robustness.body,
                [self.robustness.caption],
                self.robustness.frame,
            )
        return files


def compare_runs(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> pd.DataFrame:
    """Say which differences between two runs on the same images are real.

    The columns and what they mean are those of `read_run_comparison`, whose table this is.

    Args:
        a, b: a run folder, or one model of it as FOLDER:MODEL.

    Raises:
        InputError: no run, models that cannot be paired, or predictions of other images or not
            those that a run wrote.
    """
    return read_run_comparison(a, b).table


def read_run_comparison(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> RunComparison:
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
        its 95 % interval over n paired images, and over the seeds of a side that has several;
        for the accuracy in one cell p and p_holm, corrected over all cells of the table: of
        McNemar's exact test where each side has one seed (with only_a_right and only_b_right),
        else of Student's t over seeds and images; and the verdict. That is `real` where p_holm
        says so; for rows without a test `interval excludes 0 (uncorrected)`; else `no difference
        found`. Accuracies are fractions.

    Raises:
        InputError: no run, an unknown model, models that cannot be paired, a model beside itself,
            or predictions of other images or not those that a run wrote.
    """
    if not Path(split_name(b)[0]).exists():
        raise unknown_name("run folder or reference", os.fspath(b), REFERENCES)
    first, second = open_compared(a), open_compared(b)
    pairs = [Pair(*names) for names in pair_models(first, second)]
    check_same_data(first, second)
    shared = share_shifts(first, second)
    images = resample(first, second)
    rows = correct_for_number(
        [row for pair in pairs for row in compare_models(first, second, pair, shared, images)]
    )
    titles = shift_titles(shared)
    return RunComparison(
        name=_file_name(first, second),
        scope=scope(rows, {first.record.kind, second.record.kind}),
        table=as_frame(rows),
        body=table_body(rows, titles),
        caption=caption(rows, first, second, images.resamples),
        notes=notes(rows, first, second, shared, titles),
        robustness=robustness.effective_table(first, second, shared, images, titles),
    )


def _file_name(a: ComparedRun, b: ComparedRun) -> str:
    """Name the files after the other run, and the models where they were asked for by name."""
    asked = [next(iter(a.models))] if a.models != a.every_model else []
    asked += [b.run.path.resolve().name]
    asked += [next(iter(b.models))] if b.models != b.every_model else []
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "_".join(asked))
    # Files of a comparison with published numbers have the names of these.
    return f"compare_{name}_run" if name in REFERENCES else f"compare_{name}"


# ---------------------------------------------------------------- the table, and what it shows


def as_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Write rows as a tidy table; what a row does not have is missing."""
    tests = [row.test for row in rows]
    return pd.DataFrame(
        {
            "model_a": [row.pair.a for row in rows],
            "model_b": [row.pair.b for row in rows],
            **{name: [getattr(row, name) for row in rows] for name in ("shift", "level", "metric")},
            "a": [row.a.mean for row in rows],
            "b": [row.b.mean for row in rows],
            "difference": [row.difference.value for row in rows],
            "low": [row.difference.low for row in rows],
            "high": [row.difference.high for row in rows],
            "n": [row.difference.n for row in rows],
            "seeds_a": [row.a.n for row in rows],
            "seeds_b": [row.b.n for row in rows],
            "sd_a": [row.a.sd for row in rows],
            "sd_b": [row.b.sd for row in rows],
            "only_a_right": pd.array([test.b if test else pd.NA for test in tests], "Int64"),
            "only_b_right": pd.array([test.c if test else pd.NA for test in tests], "Int64"),
            "p": [row.p_alone for row in rows],
            "p_holm": [row.p for row in rows],
            "verdict": [row.verdict for row in rows],
        }
    )


def table_body(rows: Sequence[Row], titles: Mapping[str, str]) -> list[list[str]]:
    """Write rows as text, in the order of `LAYOUT`."""
    return [
        [
            row.pair.title,
            titles[row.shift],
            _level(row.level),
            METRIC[row.metric].label,
            _number(row.a, is_percent(row.metric)),
            _number(row.b, is_percent(row.metric)),
            _difference(row),
            _p_value(row),
            row.verdict,
        ]
        for row in rows
    ]


def _level(level: str) -> str:
    """Write a level as text: budgets of attacks in steps of 8-bit images.

    >>> _level("0.03137254901960784"), _level("0.8"), _level("worst"), _level("none")
    ('8/255', '0.8', 'worst', '–')
    """
    if level == NO_LEVEL:
        return ABSENT
    return level if level in SUMMARY_LEVELS else in_255ths(level) or level


def shift_titles(shared: SharedShifts) -> dict[str, str]:
    """Give the title of every shift of the table by its name."""
    sweeps = {sweep.name: sweep.title for sweep in shared.sweeps}
    return {CLEAN: "Clean", ALL: "All shifts", **sweeps}


def caption(rows: Sequence[Row], a: ComparedRun, b: ComparedRun, resamples: int) -> str:
    """Say what the numbers are, when a difference is called real, and when only excluded."""
    metrics = "; ".join(dict.fromkeys(describe_metric(row.metric) for row in rows))
    tested = [row for row in rows if row.is_tested]
    tests = {MCNEMAR if row.test else RECIPES: None for row in tested}
    several = any(max(row.a.n, row.b.n) > 1 for row in rows)
    return (
        f"A is {a.name}, B is {b.name}, on the same {rows[0].difference.n:,} test images. "
        f"{metrics}. Mean: over the levels of a shift; all shifts: the mean of these "
        "means, without attacks. In brackets: the 95 % interval of B − A over images, paired "
        f"({resamples:,} resamples, the same for both)"
        f"{OVER_SEEDS if several else ''}. A difference "
        f"is called {REAL} only where {' or '.join(tests)} of the accuracy in one cell says so "
        f"after Holm's correction over the {len(tested)} cells of this table (p < {LEVEL:g}). "
        f"Lines without a p-value have their interval alone, and '{EXCLUDES}' is said by chance of "
        "about one in twenty in which nothing differs."
    )


def scope(rows: Sequence[Row], kinds: Collection[str] = ("study",)) -> str:
    """Say whether the rows are about recipes or about trained networks alone.

    An ensemble is one model of all seeds, and tells of no recipe; `kinds` are those of the runs.
    """
    if "study" not in kinds:
        return "This is about these trained networks, on other images like these."
    alone = [row for row in rows if any(each.endswith(ENSEMBLE_SUFFIX) for each in row.pair)]
    trained = [row for row in rows if row not in alone]
    if trained and all(row.is_of_recipes for row in trained):
        of_ensembles = " Those of ensembles cover other images alone." if alone else ""
        return (
            "This is about the recipes: the intervals cover training again with other seeds on the "
            f"same training images, and other test images like these.{of_ensembles}"
        )
    if not trained:
        return "This is about these ensembles and networks, on other images like these."
    one = "One training stands for each side"
    if any(max(row.a.n, row.b.n) > 1 for row in trained):
        one = "One training alone stands for a side"
    return (
        f"{one}, so this is about these trained networks, and a difference between them is not yet "
        "one between the recipes that made them: train each with several seeds to learn that."
    )


def notes(
    rows: Sequence[Row],
    a: ComparedRun,
    b: ComparedRun,
    shared: SharedShifts,
    titles: Mapping[str, str],
) -> list[str]:
    """Say what the numbers do not show, and last how many cells differ, and in which direction."""
    return [
        *_left_out(a, b, shared),
        *_other_shift_seeds(a, b, shared),
        *_other_preparation(a, b),
        "An RMS calibration error is inflated by the noise of its bins, in both models but not to "
        "the same amount; the interval of the difference takes it off, so the difference may lie "
        "near an end of it. With few images that interval is wide: that it holds 0 does not say "
        "that the two are calibrated alike.",
        *([TOO_FEW_NOTE] if any(row.difference.too_few for row in rows) else []),
        *_needs(rows, titles),
        *_counts(rows),
    ]


def _number(summary: SeedSummary, percent: bool) -> str:
    scale, digits = (100, 1) if percent else (1, 3)
    mean = f"{scale * summary.mean:.{digits}f}"
    return mean if summary.n == 1 else f"{mean} (sd {scale * summary.sd:.{digits}f})"


def _difference(row: Row) -> str:
    value, low, high = (signed(each, is_percent(row.metric)) for each in row.difference[:3])
    return f"{value} [{TOO_FEW if row.difference.too_few else f'{low}, {high}'}]"


def _p_value(row: Row) -> str:
    if not row.is_tested:
        return ABSENT
    return "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"


def _left_out(a: ComparedRun, b: ComparedRun, shared: SharedShifts) -> Iterator[str]:
    for each, shifts in ((a, shared.only_a), (b, shared.only_b)):
        if shifts:
            few = ", ".join(shifts[:3]) + (", ..." if len(shifts) > 3 else "")
            yield (
                f"Only in {each.name}, and in no mean here: {len(shifts)} shifted sets of images "
                f"({few})."
            )


def _other_shift_seeds(a: ComparedRun, b: ComparedRun, shared: SharedShifts) -> Iterator[str]:
    seeds = [each.record.settings.shift_seed for each in (a, b)]
    if shared.sweeps and seeds[0] != seeds[1]:
        yield (
            f"The runs have other shift seeds ({seeds[0]} and {seeds[1]}): stochastic shifts drew "
            "other noise for the same images, and the difference includes that."
        )


def _other_preparation(a: ComparedRun, b: ComparedRun) -> Iterator[str]:
    if prepared_otherwise(a, b):
        sizes = [each.record.data.side for each in (a, b)]
        ours, theirs = (" x ".join(map(str, size or ["?"])) for size in sizes)
        yield (
            "The same images, by source, keys and labels, were prepared as each model wants them "
            f"({ours} and {theirs} pixels): the difference is of the models with their "
            "preparation, and a shift of so many pixels is another one at another size."
        )


def _needs(rows: Sequence[Row], titles: Mapping[str, str]) -> Iterator[str]:
    """Say what would tell the models of each pair apart, on clean images and under all shifts."""
    tests = sum(row.is_tested for row in rows)
    for row in rows:
        is_summary = (row.shift, row.level) in ((CLEAN, NO_LEVEL), (ALL, MEAN))
        is_open = row.verdict == NOT_FOUND and not row.same_answers
        # Of a recipe with one seed nobody knows how far others would lie from it.
        is_known = row.is_of_recipes or max(row.a.n, row.b.n) == 1
        if row.crossed is None or not (is_summary and is_open and is_known):
            continue
        if words := needed_in_words(row.crossed, tests if row.is_tested else 1):
            yield (
                f"{row.pair.title}, accuracy, {titles[row.shift].lower()}: if they differ as here, "
                f"to find it with a power of 80 % takes {words}."
            )


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    """Count cells of accuracy, tested ones and those that only have an interval apart."""
    same = list(dict.fromkeys(row.pair.title for row in rows if row.same_answers))
    if same:
        yield f"{', '.join(same)}: the predictions of both are identical in all cells."
    open_rows = [row for row in rows if not (row.same_answers and row.metric == "accuracy")]
    if cells := [row for row in open_rows if row.is_tested]:
        yield f"After Holm's correction, the accuracy differs in {_directions(cells)}"
    untested = [row for row in open_rows if not row.is_tested]
    excluding = sum(row.verdict == EXCLUDES for row in untested)
    yield (
        f"'{EXCLUDES}' is said of {excluding} of the {len(untested)} lines without a test: of "
        "those in which nothing differs, about one in twenty is such by chance."
    )


def _directions(cells: Sequence[Row]) -> str:
    differing = [row for row in cells if row.verdict in (REAL, EXCLUDES)]
    b_better = sum(row.difference.value > 0 for row in differing)
    ties = sum(row.verdict == NOT_FOUND for row in cells)
    pairs = len({row.pair for row in cells})
    what = "images" if all(row.test for row in cells) else "seeds and images"
    several = f" of {pairs} pairs of models" if pairs > 1 else ""
    sentences = [
        f"{len(differing)} of {len(cells)} {'cell' if len(cells) == 1 else 'cells'}{several}: B is "
        f"better in {b_better}, A in {len(differing) - b_better}."
    ]
    if ties:
        sentences.append(
            f"{ties} {'is a tie' if ties == 1 else 'are ties'}: these {what} show no difference, "
            "which proves no equality."
        )
    return " ".join(sentences)
