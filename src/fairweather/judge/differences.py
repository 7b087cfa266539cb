"""Differences between two models: cell by cell, class by class, and in effective robustness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from fairweather.errors import InputError, unknown_name
from fairweather.judge.compared_runs import (
    ComparedRun,
    ModelEstimates,
    ModelPair,
    ResampledImages,
    RunPair,
    SharedShifts,
    estimate_model,
    find_call_metric,
    list_slices,
    mean_weights,
    resample_images,
)
from fairweather.metrics import Estimate, recipe_estimate, to_score
from fairweather.metrics.columns import Ends, FloatArray, IntArray
from fairweather.metrics.findings import find_point_metric
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import Metric, class_metric_names, find_class_metric, list_onwards
from fairweather.metrics.paired import (
    EstimatedDifference,
    McNemar,
    SeedSummary,
    holm,
    mcnemar_exact,
    paired_shares_interval,
    sparse_difference_interval,
)
from fairweather.metrics.robustness import effective_robustness
from fairweather.metrics.seeds import CrossedMean, crossed_difference, crossed_mean
from fairweather.metrics.table import METRICS, shown_metrics
from fairweather.report.sentences import warn_of_far_seed
from fairweather.report.tables import (
    ABSENT,
    TOO_FEW,
    TableLayout,
    TextTable,
    format_difference,
    format_p_value,
    is_percent,
)
from fairweather.runs.scores import fit_unit, read_grouping, read_validation
from fairweather.types.kinds import CLASSES, FINDING
from fairweather.types.measurement import Predictions, Score
from fairweather.types.operating_points import POINT_SIGN, RATES, list_points
from fairweather.types.record import CLEAN, IMAGE, MEAN, NO_LEVEL, ShiftLevel, base_model

SIGNIFICANCE = 0.05  # of the tests; 95 % intervals leave out as much
# A difference is called real only if a test shows it after correction for the number of tests.
REAL, CANNOT_TELL = "real", "cannot tell"
EXCLUDES = "interval excludes 0 (uncorrected)"
# The same network in another program differs by this much: its sums are rounded differently.
ROUNDING = 1e-5


@dataclass(frozen=True)
class ComparisonRow:
    """One metric of two models under one shift, and whether they differ."""

    pair: ModelPair
    """The models."""

    shift: str
    level: str
    metric: str
    a: SeedSummary
    b: SeedSummary
    """`a`, `b`: the value of each side, over its seeds."""

    difference: Score
    """B − a, with its 95 % interval; it also covers the seeds of a side with several."""

    crossed: CrossedMean | None = None
    """Only for accuracy, with several seeds or groups of images: b − a over images and seeds, with
    its variances; the interval is then its interval, unless nothing varies."""

    test: McNemar | None = None
    """McNemar's exact test, for the accuracy in one cell with one seed on each side; None if images
    come in groups."""

    p: float = math.nan
    """In one cell, the p-value of its test after Holm's correction (`adjust_p_values`); NaN without
    a test."""

    far_seeds: tuple[str, ...] = ()
    """For each side a sentence about a seed that is far from the others; "" if there is none."""

    same_classes: bool = False
    """The models predict the same class for every image, in every cell and seed."""

    same_confidences: bool = False
    """Likewise, with the same confidence and loss."""

    unit: str = IMAGE
    """`shift`, `level`, `metric`, `unit`: as in scores.csv."""

    interval_p: float = math.nan
    """Of a metric other than the accuracy, the p-value that agrees with the interval; NaN if there
    is no test (`EstimatedDifference.p`)."""

    @property
    def is_tested(self) -> bool:
        """Say whether it has a p-value, which only single cells have."""
        return self.is_cell and not math.isnan(self._p)

    @property
    def p_alone(self) -> float:
        """The p-value of its test before the correction; NaN if there is no test."""
        return self._p if self.is_tested else math.nan

    @property
    def _p(self) -> float:
        test = self.test or self.crossed
        return test.p if test else self.interval_p

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
            return REAL if self.p < SIGNIFICANCE else CANNOT_TELL
        if self.difference.too_few:
            return TOO_FEW
        apart = self.difference.low > ROUNDING or self.difference.high < -ROUNDING
        return EXCLUDES if apart else CANNOT_TELL


class PairEstimates(NamedTuple):
    """Two models whose estimates are compared."""

    pair: ModelPair
    """The models."""

    first: ModelEstimates
    second: ModelEstimates
    """`first`, `second`: their estimates."""

    same: bool
    """Whether both are variants of the same trained networks, which are paired by seed."""

    def row(self, condition: ShiftLevel, metric: str) -> ComparisonRow:
        """Compare a metric of the two."""
        first, second = (side.shown(condition, metric) for side in (self.first, self.second))
        alike = len(first.of_seeds) == len(second.of_seeds)  # seeds, or streams of a single one
        difference = EstimatedDifference(first, second, same_networks=self.same and alike)
        p = math.nan if condition.level == MEAN else difference.p
        return ComparisonRow(
            self.pair,
            *condition,
            metric,
            self.first.summary(condition, metric),
            self.second.summary(condition, metric),
            difference.score,
            same_classes=self.first.classes == self.second.classes,
            same_confidences=self.first.confidences == self.second.confidences,
            interval_p=1.0 if abs(difference.value) <= ROUNDING and not math.isnan(p) else p,
        )

    def tested(
        self, row: ComparisonRow, right: Sequence[FloatArray], grouping: Grouping | None
    ) -> ComparisonRow:
        """Test a row about a share of images, `[n, S]` on each side."""
        if all(side.shape[1] == 1 for side in right) and grouping is None:
            if row.is_cell:
                test = mcnemar_exact(right[0][:, 0], right[1][:, 0])
                exact = paired_shares_interval(test.b, test.c, len(right[0]))
                return replace(row, test=test, difference=_set_ends(row.difference, exact))
            few = sparse_difference_interval(right[0], right[1])
            return replace(row, difference=_widen(row.difference, few))
        crossed = _cross_shares(right, grouping, same=self.same)
        difference = _set_interval(row.difference, crossed)
        few = sparse_difference_interval(right[0], right[1], grouping)
        return replace(row, difference=_widen(difference, few), crossed=crossed)


def find_metric(name: str, runs: RunPair) -> Metric:
    """Find a metric that runs are compared by: of `METRICS`, of one class, or at a threshold.

    Raises `InputError` if there is none.
    """
    data = runs.a.record.data
    metric = METRICS.get(name) or find_class_metric(name, data.classes)
    if metric is None and FINDING in runs.a.run.task.kinds:
        metric = find_point_metric(name)
    if metric is None:
        known = [*METRICS, *class_metric_names(data.classes, ordered=data.ordered)]
        raise unknown_name("metric", name, known)
    return metric


def check_metrics(runs: RunPair, pairs: Sequence[ModelPair], names: Sequence[str]) -> None:
    """Raise `InputError` for a metric that is unknown, or that no pair of models has."""
    for name in names:
        metric = find_metric(name, runs)
        reasons = [
            _explain_absence(metric, runs.a, pair.a) or _explain_absence(metric, runs.b, pair.b)
            for pair in pairs
        ]
        if all(reasons):
            raise InputError(f"{name} cannot be compared: {reasons[0]}")


def _explain_absence(metric: Metric, compared: ComparedRun, model: str) -> str | None:
    """Say why a model has no such metric of clean images; None if it has, of any unit."""
    run, seed = compared.run, compared.every_model[model][0]
    predictions = compared.read(model, seed, CLEAN)
    validation = read_validation(run, model, seed) if metric.accepts.fitted else None
    reasons = []
    for unit in run.task.every_unit(predictions):
        if len(unit.places):
            fitted = validation and fit_unit(run.task, unit.name, validation, [metric.name])
            part = cast("Predictions", unit.select(predictions))
            reasons.append(metric.accepts.explain_absence(part, fitted))
    return None if None in reasons else reasons[0]


def estimate_pair(
    runs: RunPair,
    pair: ModelPair,
    shared: SharedShifts,
    images: ResampledImages,
    metrics: Collection[str],
) -> PairEstimates:
    """Estimate metrics of the two models of a pair."""
    first, second = (
        estimate_model(run, model, shared, images, metrics)
        for run, model in zip(runs, pair, strict=True)
    )
    same = runs.is_one_run and base_model(pair.a) == base_model(pair.b)
    return PairEstimates(pair, first, second, same and first.seeds == second.seeds)


def compare_models(
    runs: RunPair,
    pair: ModelPair,
    shared: SharedShifts,
    images: ResampledImages,
    also: Sequence[str] = (),
) -> Iterator[ComparisonRow]:
    """Compare two models in every cell, in means over levels, and in the mean over shifts.

    Args:
        runs, pair, shared, images: what is compared.
        also: names of metrics that are compared too; those that `images` lack are ignored.
    """
    asked = list(dict.fromkeys([*shown_metrics(1, images.kind), *also]))
    estimates = estimate_pair(runs, pair, shared, images, asked)
    sides = (estimates.first, estimates.second)
    weights = mean_weights(shared)
    clean, *levels = shared.conditions
    metrics = [
        name
        for name in asked
        if (runs.have_same_costs or not find_metric(name, runs).accepts.costs)
        and all(side.has(clean, name) for side in sides)
    ]
    for condition in (clean, *shared.means, *levels):
        for metric in metrics:
            cells = weights.get(condition, {condition: 1.0})
            row = compare_cell(estimates, condition, cells, metric, images)
            if row.crossed and metric == images.tested_metric:
                sentences = (
                    warn_of_far_seed(
                        f"{name} ({side.model})",
                        side.seeds,
                        mean_correctness(side, cells),
                        images.grouping,
                    )
                    for name, side in zip("AB", sides, strict=True)
                )
                row = replace(row, far_seeds=tuple(sentences))
            yield row


def compare_cell(
    estimates: PairEstimates,
    condition: ShiftLevel,
    cells: Mapping[ShiftLevel, float],
    metric: str,
    images: ResampledImages,
) -> ComparisonRow:
    """Compare one metric in one cell, or in a mean over cells with these weights.

    A share of images, of all or of those that a sensitivity or a specificity is about, has the test
    and the interval of `PairEstimates.tested`.
    """
    row = replace(estimates.row(condition, metric), unit=images.unit.name)
    sides = (estimates.first, estimates.second)
    if metric == images.tested_metric:
        right = [mean_correctness(side, cells) for side in sides]
        return estimates.tested(row, right, images.grouping)
    sought = _find_sought(metric, images)
    if not len(sought) or not all((condition, metric) in side.right_calls for side in sides):
        return row
    right = [side.right_calls[condition, metric][sought] for side in sides]
    grouping = None if images.grouping is None else images.grouping.select(sought)
    return estimates.tested(row, right, grouping)


def _find_sought(metric: str, images: ResampledImages) -> IntArray:
    """The places of the images that a sensitivity or a specificity is about; none of the others."""
    row = find_call_metric(metric, images.classes)
    if row is None or row.kind.name not in RATES:
        return np.empty(0, dtype=np.int64)
    present = row.is_present(images.shared.strata)
    return np.flatnonzero(present == (row.kind.name == "sensitivity"))


def _cross_shares(
    sides: Sequence[FloatArray], grouping: Grouping | None, *, same: bool
) -> CrossedMean:
    """The second side minus the first, of shares of images `[n, S]`.

    If `same`, and both have as many seeds or streams, they are paired by these.
    """
    first, second = sides
    if same and first.shape == second.shape:
        return crossed_mean(second - first, grouping)
    return crossed_difference(first, second, grouping, (0.0, 1.0))


def _set_interval(difference: Score, crossed: CrossedMean) -> Score:
    """A difference of shares with the interval of its test, so that both agree about 0.

    If nothing varies, that interval has no width, and the difference keeps its own.
    """
    return _set_ends(difference, crossed.interval) if crossed.errors else difference


def _set_ends(difference: Score, ends: Ends) -> Score:
    """A difference of shares with these ends, which never leave out the difference itself."""
    if difference.too_few:
        return difference
    (low, high), value = ends, difference.value
    return difference._replace(low=min(max(low, -1.0), value), high=max(min(high, 1.0), value))


def _widen(difference: Score, ends: Ends | None) -> Score:
    """A difference with the outermost of its ends and others, if there are others."""
    if ends is None:
        return difference
    low, high = ends
    return _set_ends(difference, (min(low, difference.low), max(high, difference.high)))


def mean_correctness(estimates: ModelEstimates, cells: Mapping[ShiftLevel, float]) -> FloatArray:
    """How often each image is classified correctly over some cells, float64 `[n, S]`."""
    shares = [weight * estimates.correct[cell] for cell, weight in cells.items()]
    return np.sum(shares, axis=0, dtype=np.float64)


def adjust_p_values(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Correct the p-values of all tests together by Holm's method."""
    adjusted = iter(holm([row.p_alone for row in rows if row.is_tested]))
    return [replace(row, p=float(next(adjusted))) if row.is_tested else row for row in rows]


def adjust_within_metrics(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Do the same for each metric alone; the rows keep their order."""
    adjusted = {
        metric: iter(adjust_p_values([row for row in rows if row.metric == metric]))
        for metric in {row.metric for row in rows}
    }
    return [next(adjusted[row.metric]) for row in rows]


def rows_to_frame(rows: Sequence[ComparisonRow]) -> pd.DataFrame:
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


UNSHIFTED = ShiftLevel(CLEAN, NO_LEVEL)
CLASS_LAYOUT = TableLayout(
    ("Model", "Class", "n", "A", "B", "B − A", "p (Holm)", "Verdict"), words=2
)
CLASS_COLUMNS = (
    *("model_a", "model_b", "class", "a", "b", "difference", "low", "high"),
    *("n", "p_holm", "verdict"),
)
SENSITIVITY = "sensitivity/"


def class_table(
    runs: RunPair, pairs: Sequence[ModelPair], images: ResampledImages, name: str
) -> TextTable | None:
    """Compare the sensitivity of each class that has images; None where logits are not stored.

    The p-values are corrected by Holm's method over all classes and pairs of models. A terminal
    shows the classes that differ.
    """
    rows = adjust_p_values([row for pair in pairs for row in _class_rows(runs, pair, images)])
    if not rows:
        return None
    differing = [row for row in rows if row.verdict == REAL]
    frame = rows_to_frame(rows)
    frame["class"] = frame["metric"].str.removeprefix(SENSITIVITY)
    return TextTable(
        f"{name}_classes",
        CLASS_LAYOUT,
        list(map(_class_line, rows)),
        [_class_caption(len(rows), len(differing), images)],
        frame[list(CLASS_COLUMNS)],
        shown=list(map(_class_line, differing)),
    )


def _class_rows(runs: RunPair, pair: ModelPair, images: ResampledImages) -> Iterator[ComparisonRow]:
    data = runs.a.record.data
    onwards = list_onwards(data.classes) if data.ordered and len(data.classes) > 2 else []
    names = [f"{SENSITIVITY}{name}" for name in (*data.classes, *onwards)]
    estimates = estimate_pair(runs, pair, SharedShifts(), images, names)
    sides = (estimates.first, estimates.second)
    for name in names:
        if len(_find_sought(name, images)) and all(side.has(UNSHIFTED, name) for side in sides):
            yield compare_cell(estimates, UNSHIFTED, {UNSHIFTED: 1.0}, name, images)


def _class_line(row: ComparisonRow) -> list[str]:
    return [
        row.pair.title,
        row.metric.removeprefix(SENSITIVITY),
        f"{row.difference.n:,}",
        f"{100 * row.a.mean:.1f}",
        f"{100 * row.b.mean:.1f}",
        format_difference(row.difference, percent=True),
        format_p_value(row.p),
        row.verdict,
    ]


def _class_caption(count: int, differing: int, images: ResampledImages) -> str:
    over = "" if images.grouping is None else ", over groups"
    return (
        f"Sensitivity (%) of each class on clean images, paired: {differing or 'none'} of {count} "
        f"differ, by a test on the images of the class{over}, after Holm's correction over these "
        f"{count} (p < {SIGNIFICANCE:g}). In brackets: the 95 % interval of B − A{over}. The file "
        "of this table has every class."
    )


SLICE_LAYOUT = TableLayout(
    ("Model", "Slice", "n", "Metric", "A", "B", "B − A", "p (Holm)", "Verdict"), words=2
)


def slice_table(
    runs: RunPair, pairs: Sequence[ModelPair], name: str, also: Sequence[str] = ()
) -> TextTable | None:
    """Compare the models in each slice of the clean images; None if neither run knows any.

    The p-values are corrected by Holm's method within each metric, over all slices and pairs of
    models. A terminal shows the differences that are real.

    Args:
        runs, pairs: what is compared.
        name: of the comparison's files.
        also: as in `compare_models`.
    """
    slices = list_slices(runs)
    compared = [
        (slice_, row)
        for slice_ in slices
        for images in resample_images(runs, slice_=slice_)
        for pair in pairs
        for row in compare_models(runs, pair, SharedShifts(), images, also)
    ]
    if not compared:
        return None
    labels, unadjusted = zip(*compared, strict=True)
    rows = adjust_within_metrics(unadjusted)
    body = [_slice_line(row, slice_, runs) for row, slice_ in zip(rows, labels, strict=True)]
    differing = [line for line, row in zip(body, rows, strict=True) if row.verdict == REAL]
    tested = sum(row.is_tested for row in rows)
    caption = (
        f"Slices of the clean images, paired: {len(differing) or 'none'} of {tested} differences "
        "with a p-value are real. The tests are those of the first table, on the images of the "
        f"slice. {_describe_corrections(rows, runs)} (p < {SIGNIFICANCE:g}). The file of this "
        f"table has all {len(slices)} slices."
    )
    frame = rows_to_frame(rows).drop(columns=["shift", "level"])
    frame.insert(2, "slice", labels)
    return TextTable(f"{name}_slices", SLICE_LAYOUT, body, [caption], frame, shown=differing)


def _describe_corrections(rows: Sequence[ComparisonRow], runs: RunPair) -> str:
    """Say over how many tests of each metric Holm's correction is."""
    counts = Counter(find_metric(row.metric, runs).label for row in rows if row.is_tested)
    if not counts:
        return "No slice has enough errors for a test"
    if len({*counts.values()}) == 1:
        tests = _count_tests(next(iter(counts.values())))
        return f"Each metric has a Holm correction of its own, over {tests}"
    listed = ", ".join(f"{label} over {_count_tests(count)}" for label, count in counts.items())
    return f"Each metric has a Holm correction of its own: {listed}"


def _count_tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _slice_line(row: ComparisonRow, slice_: str, runs: RunPair) -> list[str]:
    percent = is_percent(row.metric)
    return [
        row.pair.title,
        slice_,
        f"{row.difference.n:,}",
        metric_label(row, runs),
        format_summary(row.a, percent),
        format_summary(row.b, percent),
        format_difference(row.difference, percent),
        format_p_value(row.p) if row.is_tested else ABSENT,
        row.verdict,
    ]


def metric_label(row: ComparisonRow, runs: RunPair) -> str:
    """The label of a row's metric, with the unit that it is of."""
    label = find_metric(row.metric, runs).label
    return label if row.unit == IMAGE else f"{label} ({row.unit})"


def format_summary(summary: SeedSummary, percent: bool) -> str:
    """Write the mean over the seeds of a side, and the standard deviation of several."""
    scale, digits = (100, 1) if percent else (1, 3)
    mean = f"{scale * summary.mean:.{digits}f}"
    return mean if summary.n == 1 else f"{mean} (sd {scale * summary.sd:.{digits}f})"


POINT_LAYOUT = TableLayout(
    ("Model", "Shift", "Level", "Rate", "n", "A", "B", "B − A", "p (Holm)", "Verdict"), words=4
)


def point_table(
    runs: RunPair,
    sets: Mapping[ModelPair, Sequence[tuple[SharedShifts, ResampledImages]]],
    titles: Mapping[str, str],
    name: str,
) -> TextTable | None:
    """Compare the rates at the operating points that both runs have; None without any.

    Each model and seed is called at its own threshold. The p-values are corrected by Holm's method
    over all cells. A terminal shows the rates that differ.
    """
    rows = adjust_p_values(
        [
            row
            for pair, of_pair in sets.items()
            for shifts, images in of_pair
            for row in _point_rows(runs, pair, shifts, images)
        ]
    )
    if not rows:
        return None
    lines = [_point_line(row, titles) for row in rows]
    differing = [line for line, row in zip(lines, rows, strict=True) if row.verdict == REAL]
    over = "" if next(iter(sets.values()))[0][1].grouping is None else ", over groups"
    caption = (
        f"Rates (%) at operating points, paired: {len(differing) or 'none'} of {len(rows)} differ, "
        "by a test on the images with the finding, or without it, after Holm's correction "
        f"(p < {SIGNIFICANCE:g}). The threshold for a target is that of each model and seed. In "
        f"brackets: the 95 % interval of B − A{over}. The file of this table has every cell."
    )
    frame = rows_to_frame(rows)
    return TextTable(f"{name}_points", POINT_LAYOUT, lines, [caption], frame, shown=differing)


def _point_rows(
    runs: RunPair, pair: ModelPair, shared: SharedShifts, images: ResampledImages
) -> Iterator[ComparisonRow]:
    names = _shared_points(runs, images)
    if not names:
        return
    estimates = estimate_pair(runs, pair, shared, images, names)
    sides = (estimates.first, estimates.second)
    for condition, metric in product(shared.conditions, names):
        is_known = all((condition, metric) in side.right_calls for side in sides)
        if is_known and len(_find_sought(metric, images)):
            yield compare_cell(estimates, condition, {condition: 1.0}, metric, images)


def _shared_points(runs: RunPair, images: ResampledImages) -> list[str]:
    """The names of sensitivity and specificity at the points that both runs have of a unit."""
    first, second = (run.record.settings.operating_points for run in runs)
    if images.kind == FINDING:
        name = images.unit.value
        shared = [text for text in list_points(first, name) if text in list_points(second, name)]
        return [f"{rate}{POINT_SIGN}{text}" for text in shared for rate in RATES]
    if images.kind != CLASSES:
        return []
    return [
        f"{rate}/{name}{POINT_SIGN}{text}"
        for name in first
        for text in list_points(first, name)
        if text in list_points(second, name)
        for rate in RATES
    ]


def _point_line(row: ComparisonRow, titles: Mapping[str, str]) -> list[str]:
    unit = "" if row.unit == IMAGE else f" ({row.unit})"
    return [
        row.pair.title,
        titles[row.shift],
        ABSENT if row.level == NO_LEVEL else row.level,
        f"{row.metric}{unit}",
        f"{row.difference.n:,}",
        f"{100 * row.a.mean:.1f}",
        f"{100 * row.b.mean:.1f}",
        format_difference(row.difference, percent=True),
        format_p_value(row.p) if row.is_tested else ABSENT,
        row.verdict,
    ]


AccuracyByCell = Mapping[ShiftLevel, Estimate]
FEWEST_MODELS = 3  # with different clean accuracies: a line through two fits exactly
ROBUSTNESS_LAYOUT = TableLayout(
    ("Model", "Shift", "Clean", "Shifted", "Expected", "Effective robustness"), words=2
)


class RobustnessRow(NamedTuple):
    """A model's accuracy under a shift, and the accuracy that its clean accuracy predicts."""

    model: str
    """Of the first side."""

    shift: str
    """As in scores.csv; the accuracy is the mean over its levels."""

    clean: float
    shifted: float
    """`clean`, `shifted`: accuracies, the mean over seeds."""

    effective: Score
    """Shifted minus expected, with its interval, which covers seeds if A has several."""

    @property
    def expected(self) -> float:
        """The accuracy that the line through the reference models predicts."""
        return self.shifted - self.effective.value


def robustness_table(
    runs: RunPair,
    shared: SharedShifts,
    images: ResampledImages,
    titles: Mapping[str, str],
    name: str,
) -> TextTable | None:
    """Compare each model of a with the line through all trained models of b.

    None if b has fewer than `FEWEST_MODELS` models with different clean accuracies; each seed of a
    model counts as one. Variants (NAME+VARIANT) do not count.
    """
    rows, references = _robustness_rows(runs, shared, images)
    if not rows:
        return None
    body = [
        [
            row.model,
            titles[row.shift],
            *(f"{100 * share:.1f}" for share in (row.clean, row.shifted, row.expected)),
            format_difference(row.effective, percent=True),
        ]
        for row in rows
    ]
    numbers = [
        (row.model, row.shift, row.clean, row.shifted, row.expected, *row.effective) for row in rows
    ]
    columns = [*RobustnessRow._fields[:4], "expected", "effective_robustness", *Score._fields[1:]]
    units = "images" if read_grouping(runs.b.run) is None else "groups of images"
    if any(len(seeds) > 1 for seeds in runs.a.models.values()):
        units += " and over the seeds of the models"
    caption = (
        f"Effective robustness relative to {references} trained models of {runs.b.run.path.name} "
        "(Taori et al. 2020), in percentage points. It is the accuracy under the shift (mean over "
        "its levels) minus the accuracy that a line predicts from the clean accuracy. The line is "
        "fitted to those models' clean and shifted accuracies on the logit scale. In brackets: "
        f"95 % intervals over {units} (n = {rows[0].effective.n:,}). They do not cover the choice "
        "of reference models, and outside the range of these models' clean accuracies the line is "
        "a guess."
    )
    return TextTable(
        f"{name}_effective_robustness",
        ROBUSTNESS_LAYOUT,
        body,
        [caption],
        pd.DataFrame(numbers, columns=columns),
    )


def _robustness_rows(
    runs: RunPair, shared: SharedShifts, images: ResampledImages
) -> tuple[list[RobustnessRow], int]:
    """The rows of a's models, and how many reference models there are; no rows if too few."""
    a, b = runs

    def by_seed(run: ComparedRun, model: str) -> tuple[ModelEstimates, list[AccuracyByCell]]:
        estimates = estimate_model(run, model, shared, images, ["accuracy"])
        cells = (UNSHIFTED, *shared.means)
        return estimates, [
            {cell: estimates.of_seed(seed, cell, "accuracy") for cell in cells}
            for seed in estimates.seeds
        ]

    trained = [model for model in b.every_model if base_model(model) == model]
    known = a.models if runs.is_one_run else {}
    reference = [seed for model in trained if model not in known for seed in by_seed(b, model)[1]]
    clean = {accuracies[UNSHIFTED].value for accuracies in reference}
    if len(clean) < FEWEST_MODELS or not shared.means:
        return [], 0
    rows = []
    for model in a.models:
        estimates, seeds = by_seed(a, model)
        for mean in shared.means:
            effective = [_effective_robustness(seed, reference, mean) for seed in seeds]
            rows.append(
                RobustnessRow(
                    model,
                    mean.shift,
                    estimates.shown(UNSHIFTED, "accuracy").value,
                    estimates.shown(mean, "accuracy").value,
                    to_score(recipe_estimate(effective), (-1.0, 1.0)),
                )
            )
    return rows, len(reference)


def _effective_robustness(
    accuracies: AccuracyByCell, reference: Sequence[AccuracyByCell], mean: ShiftLevel
) -> Estimate:
    clean = accuracies[UNSHIFTED]

    def effective(get: Callable[[Estimate], Any]) -> Any:  # noqa: ANN401 - a number, or replicates
        return effective_robustness(
            get(clean),
            get(accuracies[mean]),
            [get(model[UNSHIFTED]) for model in reference],
            [get(model[mean]) for model in reference],
            images=clean.n,
        )

    value, replicates = float(effective(attrgetter("value"))), np.asarray(effective(_shares))
    return Estimate(value, replicates, clean.n, groups=clean.groups)


def _shares(estimate: Estimate) -> FloatArray:
    """The replicates of an accuracy; those of groups may lie a little outside of [0, 1]."""
    return np.clip(estimate.replicates, 0, 1)
