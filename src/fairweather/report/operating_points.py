"""Where a target is kept, and whether sensitivity and specificity differ between sites."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.metrics import holm, softmax
from fairweather.metrics.classification import merge_classes
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray
from fairweather.metrics.grouping import Grouping, equal_means_p, share_interval
from fairweather.metrics.metric import find_point
from fairweather.metrics.operating_points import (
    CONFIDENCE,
    choose_threshold,
    count_sought,
    fewest_for_target,
)
from fairweather.report.contents import Contents, ensembles_as_models, index_scores, join_name
from fairweather.report.section import ReportPart, show_tables
from fairweather.report.tables import (
    ABSENT,
    ScoreEntry,
    TableLayout,
    TextTable,
    format_p_value,
)
from fairweather.runs.scores import read_grouping
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.kinds import OF_FINDING
from fairweather.types.measurement import AnyPredictions, Predictions, Score
from fairweather.types.operating_points import (
    POINT_SIGN,
    RATES,
    OperatingPoints,
    Rate,
    TargetRate,
    list_points,
    list_targets,
    parse_point,
)
from fairweather.types.record import CLEAN, MEAN, NATURAL, SLICES, TEST, VAL, slice_label

KEPT, BROKEN, CANNOT_TELL = "kept", "broken", "cannot tell"
SIGNIFICANCE = 0.05
DEFAULT = "0.5"  # the point at which a finding is called unless another is asked for


class ClassColumn(NamedTuple):
    """One class or finding of some images."""

    places: IntArray
    """The images where it is known, among all."""

    probability: FloatArray
    present: BoolArray
    """`probability`, `present`: of these images."""


class NamedTarget(NamedTuple):
    """A target of a class or finding, and the threshold that was chosen for it."""

    name: str
    target: TargetRate
    threshold: float


class TargetRow(NamedTuple):
    """Whether a target is kept on some images."""

    model: str
    title: str
    seed: str
    name: str
    target: str
    threshold: float
    images: str
    """Which images: `clean`, `SHIFT=LEVEL`, `natural/NAME`, or a slice of the clean ones."""

    rate: Score
    """Its n: the images with the finding, or those without it for a specificity."""

    groups: int | None

    @property
    def verdict(self) -> str:
        """Whether the interval lies above the target, below it, or on both sides."""
        point = parse_point(self.target)
        assert isinstance(point, TargetRate)
        if self.rate.low >= point.value:
            return KEPT
        return BROKEN if self.rate.high < point.value else CANNOT_TELL


def read_column(images: AnyPredictions, name: str) -> ClassColumn | None:
    """Take one class or finding, or a grade or more, of the images where it is known.

    None without probabilities.
    """
    if isinstance(images, FindingsPredictions):
        column = images.classes.index(name)
        places = np.flatnonzero(images.known[:, column])
        if not len(places):
            return None
        finding = select_finding(images, column)
        assert finding.logits is not None
        return ClassColumn(places, softmax(finding.logits)[:, 1], finding.labels == 1)
    assert isinstance(images, Predictions)
    if images.logits is None:
        return None
    place = find_point(name, images.classes)
    assert place is not None, "the points are checked"
    of_two, label = images, place.label
    if place.onwards:
        of_two, label = merge_classes(images, place.label), 1
    assert of_two.logits is not None
    probability = softmax(of_two.logits)[:, label]
    return ClassColumn(np.arange(len(images)), probability, of_two.labels == label)


def choose_targets(contents: Contents, model: str, seed: str) -> list[NamedTarget]:
    """Choose the threshold of each target of a model and seed, as scoring does."""
    points = _read_settings(contents, model)
    if not list_targets(points):
        return []
    images = contents.read_cell(model, seed, CLEAN, VAL)
    grouping, chosen = read_grouping(contents.home(model).run, VAL), []
    for name in points:
        own = None if images is None else read_column(images, name)
        for point in map(parse_point, list_points(points, name)):
            if own is None or not isinstance(point, TargetRate):
                continue
            selected = grouping and grouping.select(own.places)
            if count_sought(own.present, point, selected) >= fewest_for_target(point):
                threshold = choose_threshold(own.probability, own.present, point, selected)
                chosen.append(NamedTarget(name, point, threshold))
    return chosen


def measure_rate(
    column: ClassColumn, rate: Rate, threshold: float, grouping: Grouping | None
) -> tuple[Score, int | None] | None:
    """Measure a rate at a threshold, and count its groups; None without such images.

    Groups count alike, as they do where the threshold for a target is chosen.
    """
    sought = column.present == (rate == "sensitivity")
    if not sought.any():
        return None
    right = ((column.probability >= threshold) == column.present)[sought]
    own = grouping and grouping.select(column.places[sought])
    count = None if own is None else own.count
    if count == len(right):
        own = None  # one image of each group: independent
    weights = None if own is None else own.equal_weights
    [low], [high] = share_interval(right, np.zeros(len(right)), 1, own, weights)
    value = float(np.average(right, weights=weights))
    return Score(value, float(low), float(high), len(right)), count


class _ImageSet(NamedTuple):
    """Images of which is asked whether a target is kept."""

    title: str
    cell: str
    part: str
    places: IntArray | None
    """The images of a slice; None for all."""


def _list_image_sets(contents: Contents, model: str) -> list[_ImageSet]:
    run = contents.home(model).run
    sets = [_ImageSet(CLEAN, CLEAN, TEST, None)]
    groups = run.groups()
    for column, values in ({} if groups is None else groups.slices).items():
        sets += [
            _ImageSet(slice_label(column, value), CLEAN, TEST, np.flatnonzero(values == value))
            for value in sorted(set(values))
        ]
    for sweep in contents.sweeps:
        cells = sweep.cells.items()
        sets += [_ImageSet(f"{sweep.name}={level}", cell, TEST, None) for level, cell in cells]
    names = (f"{NATURAL}{name}" for name in run.record.natural)
    return [*sets, *(_ImageSet(name, CLEAN, name, None) for name in names)]


def judge_targets(contents: Contents) -> list[TargetRow]:
    """Judge each target of each model and seed on clean and shifted images, sites and slices."""
    return [
        row
        for model in (contents.titles if contents.runs else ())
        for seed in contents.seeds_of(model)
        for row in _judge_model(contents, model, seed)
    ]


def _judge_model(contents: Contents, model: str, seed: str) -> Iterator[TargetRow]:
    targets = choose_targets(contents, model, seed)
    for images in _list_image_sets(contents, model) if targets else ():
        read = contents.read_cell(model, seed, images.cell, images.part)
        grouping = read_grouping(contents.home(model).run, images.part)
        if read is None:
            continue
        if images.places is not None:
            read, grouping = read.take(images.places), grouping and grouping.select(images.places)
        for name, target, threshold in targets:
            column = read_column(read, name)
            measured = column and measure_rate(column, target.rate, threshold, grouping)
            if measured:
                yield TargetRow(
                    model,
                    contents.titles[model],
                    seed,
                    name,
                    str(target),
                    threshold,
                    images.title,
                    *measured,
                )


def _tabulate_targets(contents: Contents) -> Iterator[TextTable]:
    rows = contents.once(judge_targets)
    if not rows:
        return
    equally = "" if contents.grouping is None else " Groups count equally, as in that choice."
    caption = (
        f"Each threshold was chosen on clean validation images, with {100 * CONFIDENCE:g} % "
        f"confidence that the target is kept there. Verdict: {KEPT} if the 95 % interval lies "
        f"above the target, {BROKEN} if it lies below. The images of a sensitivity (n) are those "
        f"with the finding, and of a specificity those without.{equally} Each line is judged by "
        "itself."
    )
    header = ("Model", "Seed", "Of", "Target", "Images", "Verdict", "Threshold", "Rate (%)", "n")
    body = [
        [
            *(row.title, row.seed, row.name, row.target, row.images, row.verdict),
            f"{row.threshold:.4g}",
            str(ScoreEntry(row.rate, percent=True)),
            f"{row.rate.n:,}",
        ]
        for row in rows
    ]
    columns = ["model", "title", "seed", "class", "target", "threshold", "images"]
    columns += ["value", "low", "high", "n", "groups", "verdict"]
    lines = [(*row[:7], *row.rate, row.groups, row.verdict) for row in rows]
    frame = pd.DataFrame(lines, columns=columns).astype({"groups": "Int64"})
    yield TextTable(
        "operating_points",
        TableLayout(header, words=6),
        body,
        [*describe_targets(contents), caption],
        frame,
        [row.model for row in rows],
    )


def describe_targets(contents: Contents) -> list[str]:
    """Say of each target where it is broken, and where it is kept; the worst first."""
    rows: dict[tuple[str, str, str, str], list[TargetRow]] = {}
    for row in contents.once(judge_targets):
        rows.setdefault((row.model, row.seed, row.name, row.target), []).append(row)
    models = len({(model, seed) for model, seed, *_ in rows})
    said = []
    for own in rows.values():
        first = own[0]
        seed = f", seed {first.seed}" if len(contents.seeds_of(first.model)) > 1 else ""
        subject = f"{first.title}{seed}: " if models > 1 else ""
        subject += f"{first.target} of {first.name} (threshold {first.threshold:.4g})"
        said.append((_count_broken(own), f"{subject} {_describe_verdicts(own)}."))
    return [sentence for _, sentence in sorted(said, key=lambda item: -item[0])]


def _count_broken(rows: Sequence[TargetRow]) -> int:
    return sum(row.verdict == BROKEN for row in rows)


def _describe_verdicts(rows: Sequence[TargetRow]) -> str:
    """Where a target is broken and kept, of some sets of images of which clean is the first.

    >>> score = Score(0.8, 0.7, 0.85, 100)
    >>> row = TargetRow("a", "a", "0", "Mass", "sensitivity=0.9", 0.3, "fog=3", score, None)
    >>> print(_describe_verdicts([row]))
    is broken in 1 of 1 sets of images, worst in fog=3 (80.0 %)
    """
    count, total = _count_broken(rows), len(rows)
    if count:
        worst = min((row for row in rows if row.verdict == BROKEN), key=lambda row: row.rate.value)
        where = f"worst in {worst.images} ({100 * worst.rate.value:.1f} %)"
        return f"is broken in {count} of {total} sets of images, {where}"
    kept = sum(row.verdict == KEPT for row in rows)
    if kept == total:
        return f"is kept in all {total} sets of images" if total > 1 else "is kept"
    if total == 1:
        return "may be kept or broken: the interval includes the target"
    rest = "interval includes" if total - kept == 1 else "intervals include"
    return f"is kept in {kept} of {total} sets of images; the other {rest} the target"


# ---------------------------------------------------------------- sites


class RateRow(NamedTuple):
    """A rate of a class or finding in one slice, and whether it differs between the slices."""

    model: str
    title: str
    name: str
    point: str
    """Where it is called: from a probability on, or for a target."""

    rate: Rate
    slice: str
    score: Score
    """Its n: the images of the slice that the rate is about."""

    groups: int | None
    """Of these images."""

    p: float
    """Of the hypothesis that no slices differ, after Holm's correction; NaN if not tested."""


def compare_slices(contents: Contents, column: str) -> list[RateRow]:
    """Compare the rates of each class or finding between the slices of a column, clean images.

    Classes are compared at operating points only. With several seeds, a rate is the mean over
    seeds, each at its own threshold.
    """
    stored = contents.once(_read_slice_scores)
    rows: list[list[RateRow]] = []
    for model, title in contents.titles.items():
        run = contents.home(model).run
        groups = run.groups()
        if groups is None or column not in groups.slices:
            continue
        values, grouping = groups.slices[column], read_grouping(run, TEST)
        for measured in _measure_rates(contents, model):
            if not len(measured.places):
                continue
            there, own = values[measured.places], grouping and grouping.select(measured.places)
            p = math.nan
            present, parts = np.unique(there, return_inverse=True)
            if len(present) > 1:
                p = equal_means_p(measured.right, parts, own, np.random.default_rng(0))
            slices = []
            for value in present:
                inside = np.flatnonzero(there == value)
                name = slice_label(column, value)
                score = stored.get((model, measured.unit, name, measured.metric))
                if score is not None:
                    count = None if own is None else own.select(inside).count
                    row = (model, title, measured.name, measured.point, measured.rate, name)
                    slices.append(RateRow(*row, score._replace(n=len(inside)), count, p))
            rows.append(slices)
    rows = [slices for slices in rows if slices]
    tested = [slices[0].p for slices in rows if not math.isnan(slices[0].p)]
    adjusted = iter(holm(tested).tolist() if tested else [])
    p_values = [next(adjusted) if not math.isnan(slices[0].p) else math.nan for slices in rows]
    return [row._replace(p=p) for slices, p in zip(rows, p_values, strict=True) for row in slices]


class _MeasuredRate(NamedTuple):
    """Which clean images are called right, of those that a rate is about."""

    name: str
    point: str
    rate: Rate
    unit: str
    metric: str
    """`unit`, `metric`: of its rows in slices.csv."""

    places: IntArray
    right: FloatArray
    """float64 `[n, S]`, for each seed."""


def _measure_rates(contents: Contents, model: str) -> Iterator[_MeasuredRate]:
    seeds, is_of_findings = contents.seeds_of(model), FindingsPredictions.kind in contents.kinds
    cells = [contents.read_cell(model, seed, CLEAN) for seed in seeds]
    for name, points in _read_points(contents, model).items():
        read = [read_column(cell, name) for cell in cells if cell is not None]
        known = [own for own in read if own is not None]
        for (point, thresholds), rate in product(points.items(), RATES):
            if not known or len(known) < len(thresholds):
                continue
            sought = known[0].present == (rate == "sensitivity")
            right = [
                ((own.probability >= threshold) == own.present)[sought]
                for own, threshold in zip(known, thresholds, strict=True)
            ]
            at = f"{rate}{POINT_SIGN}{point}" if point != DEFAULT else rate
            yield _MeasuredRate(
                name,
                point,
                rate,
                f"{OF_FINDING}{name}" if is_of_findings else "",
                at if is_of_findings else f"{rate}/{name}{POINT_SIGN}{point}",
                known[0].places[sought],
                np.stack(right, axis=1).astype(np.float64),
            )


def _read_points(contents: Contents, model: str) -> dict[str, dict[str, list[float]]]:
    """The thresholds of all seeds, at each point of each class or finding."""
    seeds, points = contents.seeds_of(model), _read_settings(contents, model)
    chosen = [
        {(name, str(target)): threshold for name, target, threshold in targets}
        for targets in (choose_targets(contents, model, seed) for seed in seeds)
    ]
    is_of_findings = FindingsPredictions.kind in contents.kinds
    known: dict[str, dict[str, list[float]]] = {}
    for name in contents.classes if is_of_findings else points:
        thresholds = {DEFAULT: [float(DEFAULT)] * len(seeds)} if is_of_findings else {}
        for text in list_points(points, name):
            point = parse_point(text)
            if isinstance(point, float):
                thresholds[text] = [point] * len(seeds)
            elif all((name, text) in own for own in chosen):
                thresholds[text] = [own[name, text] for own in chosen]
        known[name] = thresholds
    return known


def _read_settings(contents: Contents, model: str) -> OperatingPoints:
    return contents.home(model).run.record.settings.operating_points


def _read_slice_scores(contents: Contents) -> dict[tuple[str, ...], Score]:
    """Scores of clean images by model, unit, slice and metric, of the shown seed."""
    scores: dict[tuple[str, ...], Score] = {}
    for label, run in contents.runs.items():
        if not run.holds(SLICES):
            continue
        rows = ensembles_as_models(run.slice_scores)
        if MEAN in set(rows["seed"]):
            rows = rows[rows["seed"] == MEAN]
        rows = rows[(rows["shift"] == CLEAN) & rows["metric"].str.startswith(RATES)]
        rows = rows if "unit" in rows else rows.assign(unit="")
        indexed = index_scores(rows, ("model", "unit", "slice", "metric"))
        scores |= {(join_name(label, model), *key): own for (model, *key), own in indexed.items()}
    return scores


def compare_all_slices(contents: Contents) -> dict[str, list[RateRow]]:
    """Compare the rates between the slices of each column that was asked for."""
    columns = dict.fromkeys(
        column
        for run in contents.runs.values()
        if (groups := run.groups()) is not None
        for column in groups.slices
    )
    compared = {column: compare_slices(contents, column) for column in columns}
    return {column: rows for column, rows in compared.items() if rows}


def _tabulate_rates(contents: Contents) -> Iterator[TextTable]:
    for column, rows in contents.once(compare_all_slices).items():
        yield _make_rate_table(contents, column, rows)


def _make_rate_table(contents: Contents, column: str, rows: Sequence[RateRow]) -> TextTable:
    models = len({row.model for row in rows})
    differ = dict.fromkeys(
        f"{f'{row.title}, ' if models > 1 else ''}{row.rate} of {row.name} at {row.point}"
        for row in rows
        if row.p < SIGNIFICANCE
    )
    tests = len({row[:5] for row in rows if not math.isnan(row.p)})
    units = "images" if contents.grouping is None else "groups"
    caption = (
        f"Sensitivity and specificity by {column}, on clean images. In brackets: "
        f"{contents.intervals}. The images of a sensitivity (n) are those with the finding, and of "
        f"a specificity those without. The p value is how often {units} that are divided by chance "
        "differ as much between the slices. It has Holm's correction over the "
        f"{tests} {'test' if tests == 1 else 'tests'} of this table."
    )
    said = f"Differs between the slices: {'; '.join(differ)}." if differ else ""
    header = (
        *("Model", "Of", "Called at", "Rate", "Images with"),
        *("Value (%)", "n", "Groups", "p (Holm)"),
    )
    body = [
        [
            *(row.title, row.name, row.point, row.rate, row.slice),
            str(ScoreEntry(row.score, percent=True)),
            f"{row.score.n:,}",
            ABSENT if row.groups is None else f"{row.groups:,}",
            ABSENT if math.isnan(row.p) else format_p_value(row.p),
        ]
        for row in rows
    ]
    names = ["model", "title", "class", "point", "rate", "slice", "value", "low", "high", "n"]
    lines = [(*row[:6], *row.score, row.groups, row.p) for row in rows]
    return TextTable(
        f"rates_{column.replace('*', '_and_')}",
        TableLayout(header, words=5),
        body,
        [*([said] if said else []), caption],
        pd.DataFrame(lines, columns=[*names, "groups", "p_holm"]).astype({"groups": "Int64"}),
        [row.model for row in rows],
    )


TARGETS = ReportPart(show_tables("Where targets are kept"), _tabulate_targets, accepts=None)
RATES_OF_SLICES = ReportPart(
    show_tables("Sensitivity and specificity of slices"), _tabulate_rates, accepts=None
)
