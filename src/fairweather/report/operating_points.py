"""Where a target is kept: on clean and shifted images, at each site, in each slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.metrics import softmax
from fairweather.metrics.columns import BoolArray, FloatArray, IntArray
from fairweather.metrics.grouping import Grouping, share_interval
from fairweather.metrics.operating_points import (
    CONFIDENCE,
    choose_threshold,
    count_sought,
    fewest_for_target,
)
from fairweather.report.contents import Contents
from fairweather.report.section import ReportPart, show_tables
from fairweather.report.tables import (
    ScoreEntry,
    TableLayout,
    TextTable,
)
from fairweather.runs.scores import read_grouping
from fairweather.tasks.multilabel import FindingsPredictions, select_finding
from fairweather.types.measurement import AnyPredictions, Predictions, Score
from fairweather.types.operating_points import (
    OperatingPoints,
    Rate,
    TargetRate,
    list_points,
    parse_point,
)
from fairweather.types.record import CLEAN, NATURAL, TEST, VAL, slice_label

KEPT, BROKEN, CANNOT_TELL = "kept", "broken", "cannot tell"


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


def read_column(images: AnyPredictions, column: int) -> ClassColumn | None:
    """Take one class or finding of the images where it is known; None without probabilities."""
    if isinstance(images, FindingsPredictions):
        places = np.flatnonzero(images.known[:, column])
        if not len(places):
            return None
        finding = select_finding(images, column)
        assert finding.logits is not None
        return ClassColumn(places, softmax(finding.logits)[:, 1], finding.labels == 1)
    assert isinstance(images, Predictions)
    if images.logits is None:
        return None
    places = np.arange(len(images))
    return ClassColumn(places, softmax(images.logits)[:, column], images.labels == column)


def choose_targets(contents: Contents, model: str, seed: str) -> list[NamedTarget]:
    """Choose the threshold of each target of a model and seed, as scoring does."""
    images = contents.read_cell(model, seed, CLEAN, VAL)
    run = contents.home(model).run
    grouping, points = read_grouping(run, VAL), run.record.settings.operating_points
    chosen = []
    for name, column in _find_columns(contents, points):
        own = None if images is None else read_column(images, column)
        for point in map(parse_point, list_points(points, name)):
            if own is None or not isinstance(point, TargetRate):
                continue
            selected = grouping and grouping.select(own.places)
            if count_sought(own.present, point, selected) >= fewest_for_target(point):
                threshold = choose_threshold(own.probability, own.present, point, selected)
                chosen.append(NamedTarget(name, point, threshold))
    return chosen


def _find_columns(contents: Contents, points: OperatingPoints) -> list[tuple[str, int]]:
    classes = list(contents.classes)
    return [(name, classes.index(name)) for name in points if name in classes]


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
        for model in contents.titles
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
            column = read_column(read, contents.classes.index(name))
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
        subject += f"{first.target} of {first.name}, called from {first.threshold:.4g} on,"
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
    return f"is kept in {kept} of {total} sets of images; the others cannot tell"


TARGETS = ReportPart(show_tables("Where targets are kept"), _tabulate_targets, accepts=None)
