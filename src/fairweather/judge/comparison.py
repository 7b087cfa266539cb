"""Compare two runs on the same images: which differences are real."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fairweather.errors import unknown_name
from fairweather.judge.atlas import READERS
from fairweather.judge.compared_runs import (
    ResampledImages,
    RunPair,
    SharedShifts,
    check_same_data,
    find_shared_images,
    find_shared_shifts,
    open_compared_run,
    pair_clean_after,
    pair_models,
    resample_images,
    split_run_and_model,
)
from fairweather.judge.differences import (
    CANNOT_TELL,
    EXCLUDES,
    REAL,
    SIGNIFICANCE,
    ComparisonRow,
    adjust_within_metrics,
    check_metrics,
    class_table,
    compare_models,
    find_metric,
    format_summary,
    metric_label,
    point_table,
    robustness_table,
    rows_to_frame,
    slice_table,
)
from fairweather.judge.margin_table import MarginTable, margin_table
from fairweather.judge.margins import compare_margins, read_margins
from fairweather.metrics.intervals import FEW_IMAGES
from fairweather.report.charts import Figure
from fairweather.report.contents import describe_group_count
from fairweather.report.ranking import MCNEMAR, NORMAL_SEEDS, OVER_GROUPS, RECIPES
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW_NOTE,
    TableLayout,
    TextTable,
    format_difference,
    format_p_value,
    is_percent,
    name_table_files,
)
from fairweather.tasks import CLASSIFICATION_TASK
from fairweather.types.measurement import format_255ths
from fairweather.types.record import (
    ALL,
    CLEAN,
    CLEAN_AFTER,
    ENSEMBLE_SUFFIX,
    FIGURES,
    IMAGE,
    MEAN,
    NATURAL,
    NO_LEVEL,
    SUMMARY_LEVELS,
)
from fairweather.types.unit_words import name_all_units, name_units

# Published numbers that a run can be compared with: paper.csv and paper.yaml have those of one
# report, and atlas.yaml says where the tables of many models are.
REFERENCES = ("paper", *READERS)
OVER_SEEDS = (
    ", and over the seeds of each side with several; (sd): the standard deviation over seeds"
)
EQUALLY = ", each image counting alike"
LAYOUT = TableLayout(
    ("Model", "Shift", "Level", "Metric", "A", "B", "B − A", "p (Holm)", "Verdict"), words=4
)


def is_reference(name: str | os.PathLike[str]) -> bool:
    """Say whether a name is that of published numbers, perhaps with the folder of their files.

    >>> is_reference("paper"), is_reference("timm:downloads/timm"), is_reference("runs/mine")
    (True, True, False)
    """
    text = os.fspath(name)
    return text == "paper" or text.partition(":")[0] in READERS


@dataclass(frozen=True)
class Comparison:
    """The comparison of a run with another run, or with published numbers."""

    main: TextTable
    """A row for each number that is compared; the text below says what the numbers are."""

    notes: Sequence[str]
    """What the numbers show and what they do not, in a few sentences each."""

    scope: str = ""
    """Whether the comparison is about recipes or only about trained networks; "" where a note says
    so."""

    robustness: TextTable | None = None
    """Effective robustness of A's models relative to B's; None if B has too few."""

    classes: TextTable | None = None
    """The sensitivity of each class; None where logits are not stored."""

    points: TextTable | None = None
    """Rates at the operating points of both runs; None without any."""

    slices: TextTable | None = None
    """Each slice of the clean images; None if neither run knows any."""

    margins: MarginTable | None = None
    """Verdicts on margins; None where no margin was given."""

    models: TextTable | None = None
    """The published models behind effective robustness; None where none are needed."""

    figures: Sequence[Figure] = ()
    """Drawn beside the tables."""

    @property
    def name(self) -> str:
        """The name of its files, without the suffix."""
        return self.main.name

    @property
    def table(self) -> pd.DataFrame:
        """The numbers of the main table."""
        return self.main.frame

    @property
    def caption(self) -> str:
        """What the numbers of the main table are."""
        return self.main.below[0]

    @property
    def _others(self) -> list[TextTable]:
        every = (self.margins, self.robustness, self.classes, self.points, self.slices, self.models)
        return [table for table in every if table is not None]

    def __str__(self) -> str:
        parts = [self.scope]
        for table in (self.main, *self._others):
            parts += [str(table), *table.below]
        return "\n\n".join(part for part in (*parts, *self.notes) if part)

    def files(self) -> dict[str, str]:
        """Write tables in Markdown, CSV and LaTeX, and charts, by their names in a run folder."""
        below = [part for part in (self.scope, *self.main.below, *self.notes) if part]
        files: dict[str, str] = {}
        for table in (replace(self.main, below=below), *self._others):
            files |= name_table_files(table.name, table.texts())
        drawn = [*self.figures, self.margins.figure if self.margins else None]
        return files | {f"{FIGURES}/{figure.name}.svg": figure.svg for figure in drawn if figure}


def compare_runs(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    metrics: str | Sequence[str] = (),
    margins: str | Sequence[str] = (),
) -> pd.DataFrame:
    """Say which differences between two runs on the same images are real.

    The result is the table of `read_run_comparison`, which describes its columns. With margins, it
    is the table of the margins instead.

    Args:
        a, b: a run folder, or one model of it as FOLDER:MODEL.
        metrics: as in `read_run_comparison`.
        margins: how much worse A may be, such as `accuracy=2` for two percentage points or
            `auc[fog|class=mole]=0.01`.

    Raises:
        InputError: no run, models that cannot be paired, predictions of other images or changed
            ones, a metric that the runs lack, or an unclear margin.
    """
    comparison = read_run_comparison(a, b, metrics=metrics, margins=margins)
    return comparison.margins.frame if comparison.margins else comparison.table


def read_run_comparison(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    metrics: str | Sequence[str] = (),
    margins: str | Sequence[str] = (),
) -> Comparison:
    """Compare the models of two runs on the same test images, from their stored predictions.

    Models are paired by name; if each side has only one, these two. Shifts are paired by their ids
    with all parameters.

    Args:
        a, b: a run folder, or one model of it as FOLDER:MODEL; both may be models of one run.
        metrics: names of other metrics that are compared too, of `METRICS` or of a class, such as
            `brier_score` or `auc/malignant`.
        margins: as in `compare_runs`; their table is `Comparison.margins`.

    Returns:
        The comparison. Its table has one row for each pair of models, shift, level and metric
        (accuracy, rms_calibration_error, negative_log_likelihood). Columns: a and b, the means over
        seeds, with sd_a, sd_b (missing for one seed), seeds_a and seeds_b; difference, b − a, with
        low and high of its 95 % interval over n paired images, and over the seeds of a side with
        several; p and p_holm, only in one cell, the latter corrected over all cells of the metric
        in this table; and verdict. The p-value of the accuracy comes from McNemar's exact test if
        each side has one seed (with only_a_right and only_b_right), else from Student's t over
        seeds and images; `EstimatedDifference` describes the others. The verdict is `real` if
        p_holm says so; for rows without a test it may be `interval excludes 0 (uncorrected)`; else
        it is `cannot tell`. Accuracies are fractions.

    Raises:
        InputError: no run, an unknown model, models that cannot be paired, a model compared with
            itself, predictions that are of other images or not those that a run wrote, or a metric
            that the runs lack.
    """
    if not Path(split_run_and_model(b)[0]).exists():
        raise unknown_name("run folder or reference", os.fspath(b), REFERENCES)
    asked = read_margins(margins, os.fspath(b))
    runs = RunPair(open_compared_run(a), open_compared_run(b))
    pairs = pair_models(runs)
    check_same_data(runs)
    also = [metrics] if isinstance(metrics, str) else metrics
    check_metrics(runs, pairs, also)
    shared = find_shared_shifts(runs)
    images, *units = resample_images(runs)  # whole images, then each unit of a task with units
    same_images, other_images = find_shared_images(runs)
    others = [
        (SharedShifts(images=name), resampled)
        for name in same_images
        for resampled in resample_images(runs, name)
    ]
    afterwards = {pair: pair_clean_after(runs, pair) for pair in pairs}
    compared_sets = {}
    for pair, known in afterwards.items():
        own = shared._replace(after=tuple(cell for cell, is_shared in known.items() if is_shared))
        compared_sets[pair] = [*((own, resampled) for resampled in (images, *units)), *others]
    rows = adjust_within_metrics(
        [
            row
            for pair, sets in compared_sets.items()
            for shifts, resampled in sets
            for row in compare_models(runs, pair, shifts, resampled, also)
        ]
    )
    against_margins = compare_margins(runs, pairs, asked)
    titles = _shift_titles(runs) | {name: name for name in same_images}
    name, body = _file_name(runs), _write_body(rows, titles, runs)
    not_compared = [
        f"{other} is not compared: its images are others, or of another size, in the two runs."
        for other in other_images
    ]
    not_compared += [
        f"{pair.title}: {cell} is not compared, since the two went through other shifts."
        for pair, known in afterwards.items()
        for cell, is_shared in known.items()
        if not is_shared
    ]
    if not runs.have_same_costs:
        not_compared.append(
            "Expected costs are not compared: the runs have different costs of errors."
        )
    caption = name_units(_write_caption(rows, runs, images), runs.a.run.aggregation)
    notes = [*_write_notes(rows, runs, shared, images), *not_compared]
    return Comparison(
        TextTable(name, LAYOUT, body, [caption], rows_to_frame(rows)),
        name_all_units(notes, runs.a.run.aggregation),
        scope=_describe_scope(rows, {run.record.kind for run in runs}),
        robustness=None if units else robustness_table(runs, shared, images, titles, name),
        classes=None if units else class_table(runs, pairs, images, name),
        points=point_table(runs, compared_sets, titles, name),
        slices=slice_table(runs, pairs, name, also),
        margins=margin_table(against_margins, name, (runs.a.name, runs.b.name)),
    )


def _file_name(runs: RunPair) -> str:
    """Name the files after run B, and after the models that were given by name."""
    a, b = runs
    parts = [next(iter(a.models))] if a.models != a.every_model else []
    parts += [b.run.path.resolve().name]
    parts += [next(iter(b.models))] if b.models != b.every_model else []
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", "_".join(parts))
    # The files of a comparison with published numbers have this name.
    return f"compare_{name}_run" if name in REFERENCES else f"compare_{name}"


def _write_body(
    rows: Sequence[ComparisonRow], titles: Mapping[str, str], runs: RunPair
) -> list[list[str]]:
    """Write rows as text, in the order of `LAYOUT`."""
    is_of_one = len({row.unit for row in rows} - {IMAGE}) < 2
    return [
        [
            row.pair.title,
            titles[row.shift],
            _format_level(row.level),
            metric_label(row, runs) if not is_of_one else find_metric(row.metric, runs).label,
            format_summary(row.a, is_percent(row.metric)),
            format_summary(row.b, is_percent(row.metric)),
            format_difference(row.difference, is_percent(row.metric)),
            format_p_value(row.p) if row.is_tested else ABSENT,
            row.verdict,
        ]
        for row in rows
    ]


def _format_level(level: str) -> str:
    """Write a level as text; budgets of attacks are in steps of 8-bit images.

    >>> [_format_level(level) for level in ("0.03137254901960784", "0.8", "worst", "none")]
    ['8/255', '0.8', 'worst', '–']
    """
    if level == NO_LEVEL:
        return ABSENT
    return level if level in SUMMARY_LEVELS else format_255ths(level) or level


def _shift_titles(runs: RunPair) -> dict[str, str]:
    """The title of every shift of the table, by its name."""
    both = [*runs.b.record.sweeps, *runs.a.record.sweeps]
    sweeps = {ALL: "All shifts"} | {sweep.name: sweep.title for sweep in both}
    after = {f"{CLEAN_AFTER}{name}": f"Clean, after: {title}" for name, title in sweeps.items()}
    return {CLEAN: "Clean", **sweeps, **after}


def _write_caption(rows: Sequence[ComparisonRow], runs: RunPair, images: ResampledImages) -> str:
    """Describe the numbers, and when a difference is called real."""
    metrics = {name: find_metric(name, runs) for name in dict.fromkeys(row.metric for row in rows)}
    is_of_classes = images.tested_metric == CLASSIFICATION_TASK.decision_metric
    tested_share = "the accuracy" if is_of_classes else "right decisions"
    shares = [row for row in rows if row.metric == images.tested_metric]
    t_test = RECIPES if images.grouping is None else OVER_GROUPS
    tests = {MCNEMAR if row.test else t_test: None for row in shares if row.is_tested}
    has_seeds = any(max(row.a.n, row.b.n) > 1 for row in rows)
    is_from_t_test = [bool(row.crossed and row.crossed.errors) for row in shares]
    interval_note = ""
    if any(is_from_t_test):
        which = "accuracy" if all(is_from_t_test) else "accuracies that vary over seeds or groups"
        if not is_of_classes:
            which = "right decisions"
        interval_note = f" For {which}, the interval is that of the t-test and uses no resamples."
    if any(row.test for row in rows):
        interval_note += (
            f" With one seed a side, {tested_share} in one cell has the interval of Tango 1998 or "
            "of Bonett and Price 2012, whichever reaches farther."
        )
    if any(is_from_t_test):
        interval_note += (
            f" Where the two differ on fewer than {FEW_IMAGES} images, it reaches at least as far "
            "as that of Tango 1998."
        )
    if has_seeds:
        interval_note += f" {NORMAL_SEEDS}"
    tested = dict.fromkeys(row.metric for row in rows if row.is_tested)
    others = [metrics[name].label for name in tested if name != images.tested_metric]
    cells = sum(row.is_tested for row in shares)
    own_tests = (
        f" Other tests ({', '.join(others)}) agree with their intervals: before the correction, p "
        "is below 5 % where the interval excludes 0. Each metric has a Holm correction of its own. "
        "Nothing is corrected for the number of metrics."
    )
    untested = (
        " Lines without a p-value have only their interval: if nothing differs, about one in "
        f"twenty of them still gets '{EXCLUDES}' by chance."
    )
    return (
        f"A is {runs.a.name}, B is {runs.b.name}, on the same {len(images.keys):,} test images"
        f"{describe_group_count(images.grouping)}{'' if images.grouping is None else EQUALLY}. "
        f"{'; '.join(metric.title for metric in metrics.values())}. Mean: over the levels of a "
        "shift; all shifts: the mean of these means, without attacks. In brackets: the 95 % "
        "interval of B − A over "
        f"{'images' if images.grouping is None else 'groups'}, paired "
        f"({images.resamples:,} resamples, the same for both)"
        f"{OVER_SEEDS if has_seeds else ''}.{interval_note} A difference is called {REAL} only if "
        f"a test in one cell says so after Holm's correction (p < {SIGNIFICANCE:g}). For "
        f"{tested_share}, it is {' or '.join(tests)}, over the {cells} "
        f"{'cell' if cells == 1 else 'cells'} of this table.{own_tests if others else ''}"
        f"{untested if any(not row.is_tested for row in rows) else ''}"
    )


def _describe_scope(rows: Sequence[ComparisonRow], kinds: Collection[str] = ("study",)) -> str:
    """Say whether the rows are about recipes or only about trained networks.

    An ensemble is one model of all seeds and says nothing about a recipe. `kinds` are the kinds of
    both runs.
    """
    if "study" not in kinds and not any(row.is_of_recipes for row in rows):
        return "This is about these networks, on other test images like these."
    ensembles = [row for row in rows if any(model.endswith(ENSEMBLE_SUFFIX) for model in row.pair)]
    others = [row for row in rows if row not in ensembles]
    if others and all(row.is_of_recipes for row in others):
        exception = " Those of ensembles cover only other test images." if ensembles else ""
        return (
            "This is about the recipes: the intervals cover training again with other seeds on the "
            f"same training images, and other test images like these.{exception}"
        )
    if not others:
        return "This is about these ensembles and networks, on other test images like these."
    has_seeds = any(max(row.a.n, row.b.n) > 1 for row in others)
    return (
        f"{'One' if has_seeds else 'Each'} side has only one training, so this is about these "
        "trained networks. A difference between them need not be one between their recipes: train "
        "each recipe with several seeds to find out."
    )


BINS_NOTE = (
    "An RMS calibration error is inflated by the noise of its bins, in both models but not by the "
    "same amount. The interval of a difference is corrected for this noise; the difference is not. "
    "So the difference may be near an end of its interval, or equal to it. With few images that "
    "interval is wide: if it includes 0, the two may still be calibrated differently."
)

AFTER_NOTE = (
    "Clean, after: clean images as a network answers them that has adapted to shifts before. A "
    "network that goes on from no shift to the next one answers them as ever."
)


def _write_notes(
    rows: Sequence[ComparisonRow], runs: RunPair, shared: SharedShifts, images: ResampledImages
) -> list[str]:
    """Say what the numbers do not show; the last notes count the cells that differ."""
    titles = _shift_titles(runs)
    return [
        *_only_in_one(runs, shared),
        *_other_shift_seeds(runs, shared),
        *_other_preparation(runs),
        *_other_images(rows),
        *([AFTER_NOTE] if any(row.shift.startswith(CLEAN_AFTER) for row in rows) else []),
        *([BINS_NOTE] if any(row.metric.startswith("rms_") for row in rows) else []),
        *([TOO_FEW_NOTE] if any(row.difference.too_few for row in rows) else []),
        *_outlying_seeds(rows, titles),
        *_count_differences(rows, runs),
    ]


def _only_in_one(runs: RunPair, shared: SharedShifts) -> Iterator[str]:
    for run, shifts in zip(runs, (shared.only_a, shared.only_b), strict=True):
        if shifts:
            examples = ", ".join(shifts[:3]) + (", ..." if len(shifts) > 3 else "")
            yield (
                f"Only in {run.name}, and not in the means here: {len(shifts)} shifted sets of "
                f"images ({examples})."
            )


def _other_shift_seeds(runs: RunPair, shared: SharedShifts) -> Iterator[str]:
    seeds = [run.record.settings.shift_seed for run in runs]
    if shared.sweeps and seeds[0] != seeds[1]:
        yield (
            f"The runs have different shift seeds ({seeds[0]} and {seeds[1]}): stochastic shifts "
            "have different noise for the same images, and the difference includes that."
        )


def _other_preparation(runs: RunPair) -> Iterator[str]:
    if runs.is_prepared_otherwise:
        sizes = [run.record.data.side for run in runs]
        ours, theirs = (" x ".join(map(str, size or ["?"])) for size in sizes)
        yield (
            "The images are the same by source, keys and labels, but each model has its own "
            f"preprocessing ({ours} and {theirs} pixels). The difference is between the models "
            "with their preprocessing, and a shift that is given in pixels is not the same at "
            "another size."
        )


def _other_images(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    counts = {row.shift: row.difference.n for row in rows if row.shift.startswith(NATURAL)}
    for name, n in counts.items():
        yield (
            f"{name}: other images than the test images, the same {n:,} for A and B; they are in "
            "no mean."
        )


def _outlying_seeds(rows: Sequence[ComparisonRow], titles: Mapping[str, str]) -> list[str]:
    """Name seeds that are far from the others, on clean images and under all shifts."""
    sentences = {
        f"{titles[row.shift]}, {sentence}": None
        for row in rows
        if (row.shift, row.level) in ((CLEAN, NO_LEVEL), (ALL, MEAN))
        for sentence in row.far_seeds
        if sentence
    }
    return list(sentences)


def _count_differences(rows: Sequence[ComparisonRow], runs: RunPair) -> Iterator[str]:
    """Count the cells that differ, of each metric with a test, and lines with only an interval."""
    tested_metric = runs.a.run.task.decision_metric
    is_of_classes = tested_metric == CLASSIFICATION_TASK.decision_metric
    verdicts: dict[str, list[bool]] = {}
    for row in rows:
        if row.is_tested and row.metric != tested_metric:
            verdicts.setdefault(find_metric(row.metric, runs).label, []).append(row.verdict == REAL)
    if any(map(any, verdicts.values())):
        counts = (f"{name} in {sum(real)} of {len(real)}" for name, real in verdicts.items())
        yield f"Cells that differ after Holm's correction within a metric: {', '.join(counts)}."
    other_classes = {row.pair.title for row in rows if not row.same_classes}
    other_confidences = {row.pair.title for row in rows if not row.same_confidences}
    titles = dict.fromkeys(row.pair.title for row in rows if row.pair.title not in other_classes)
    if identical := [title for title in titles if title not in other_confidences]:
        yield f"{', '.join(identical)}: the predictions of both are identical in all cells."
    if equal := [title for title in titles if title in other_confidences]:
        both = "predict the same class for every image in all cells, so their accuracies"
        if not is_of_classes:
            both = "make the same decisions in all cells, so their shares of right decisions"
        yield f"{', '.join(equal)}: both {both} are equal; their probabilities differ."
    # Equal accuracies need no count: the sentences above report them.
    open_rows = [
        row for row in rows if row.metric != tested_metric or row.pair.title in other_classes
    ]
    if cells := [row for row in open_rows if row.is_tested and row.metric == tested_metric]:
        tested = "accuracy" if is_of_classes else "share of right decisions"
        yield f"After Holm's correction, the {tested} differs in {_count_directions(cells)}"
    if untested := [row for row in open_rows if not row.is_tested]:
        excluding_0 = sum(row.verdict == EXCLUDES for row in untested)
        yield (
            f"{excluding_0} of the {len(untested)} lines without a test say '{EXCLUDES}': if "
            "nothing differs, about one in twenty does so by chance."
        )


def _count_directions(cells: Sequence[ComparisonRow]) -> str:
    differing = [row for row in cells if row.verdict in (REAL, EXCLUDES)]
    b_better = sum(row.difference.value > 0 for row in differing)
    undecided = sum(row.verdict == CANNOT_TELL for row in cells)
    pairs = len({row.pair for row in cells})
    units = "images" if all(row.test for row in cells) else "seeds and images"
    of_pairs = f" of {pairs} pairs of models" if pairs > 1 else ""
    sentences = [
        f"{len(differing)} of {len(cells)} {'cell' if len(cells) == 1 else 'cells'}{of_pairs}: B "
        f"is better in {b_better}, A in {len(differing) - b_better}."
    ]
    if undecided:
        sentences.append(
            f"{undecided} {'is' if undecided == 1 else 'are'} open: these {units} cannot tell "
            "which side is better there."
        )
    return " ".join(sentences)
