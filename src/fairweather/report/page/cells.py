"""What the page shows of one model under one shift at one level, in few numbers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from fairweather.metrics import reliability_bins
from fairweather.metrics.clusters import Clusters, share_interval, share_interval_so_far
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.selective import (
    RiskCoverage,
    at_or_above,
    coverage_above,
    risk_above,
    risk_coverage_curve,
    share_to_hand_over,
    threshold_at_risk,
)
from fairweather.record import CLEAN, TEST, VAL
from fairweather.report.contents import Contents
from fairweather.report.reliability import worst_conditions

BINS = 10  # of the reliability diagram
BARS = 20  # of the histogram of confidence
POINTS = 60  # of the risk-coverage curve
FINE = 400  # of those whose intervals over clusters are computed
FEWEST = 10  # images of its first point: the risk of fewer images is mostly chance
# Up to so many classes a confusion matrix can be read; beyond, the page lists the worst.
MOST_CLASSES = 40
WORST_CLASSES = 20
CONFUSIONS = 12
MOST_CELLS = 2000  # of all models together; with more, a page has one level of each shift
RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)

FloatArray = npt.NDArray[np.float64]
Ends = tuple[FloatArray, FloatArray]  # of intervals


class Columns(NamedTuple):
    """What is read of a cell, one entry an image: label and prediction `[n]`, confidence `[n]`."""

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: FloatArray

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is the label."""
        return self.labels == self.predicted


class Read(NamedTuple):
    """A cell of a model as it was read.

    Attributes:
        model: its name.
        cell: the id of the shift.
        columns: what was read.
        shown: whether it can be looked at.
    """

    model: str
    cell: str
    columns: Columns
    shown: bool


Row = list[float | None]  # numbers that belong together, rounded; None for what is no number


class CellNumbers(TypedDict):
    """What the charts of a cell draw.

    Attributes:
        n: images.
        bins: of the reliability diagram: which, mean confidence, accuracy, its interval, images.
        bars: images of each bar of the histogram, of right answers and of wrong ones.
        curve: coverage, risk and its interval of each point of the risk-coverage curve.
        hand: share to defer and its interval, for each of `RISKS`.
        kept: for each threshold, the share deferred and the share of wrong answers, with intervals.
        classes: class, images, accuracy and its interval.
        confused: label, prediction and images, one after the other.
    """

    n: int
    bins: list[Row]
    bars: list[list[int]]
    curve: list[Row]
    hand: list[Row]
    kept: list[Row]
    classes: list[Row]
    confused: list[int]


def read_cell(
    contents: Contents, model: str, seed: str, cell: str, part: str = TEST
) -> Columns | None:
    """Read a cell of a model; None where it was not predicted."""
    found = contents.read_columns(model, seed, cell, Columns._fields, part)
    return None if found is None else Columns(*found)


def describe_cell(
    cell: Columns, classes: int, thresholds: Sequence[float], clusters: Clusters | None = None
) -> CellNumbers:
    """Work out what the charts of a cell draw.

    Args:
        cell: what is read of it.
        classes: how many there are.
        thresholds: the confidence that keeps each of `RISKS` on validation images; may be empty.
        clusters: which images belong together; then intervals are about other clusters.
    """
    confidence, correct = cell.confidence, cell.correct
    curve = risk_coverage_curve(confidence, correct)
    risk = _risk_interval(curve, cell, clusters)
    return {
        "n": len(correct),
        "bins": _bins(confidence, correct, clusters),
        "bars": [_counts(confidence[correct]), _counts(confidence[~correct])],
        "curve": _thinned(curve, risk, len(correct)),
        "hand": [
            rounded(score[:3]) for score in share_to_hand_over(confidence, correct, RISKS, clusters)
        ],
        "kept": [_kept(confidence, correct, threshold, clusters) for threshold in thresholds],
        "classes": _by_class(cell, classes, clusters),
        "confused": _confused(cell, classes, all_of_them=classes <= MOST_CLASSES),
    }


def rounded(numbers: Sequence[float] | FloatArray) -> Row:
    """Write numbers with six digits behind the point, and what is no number as None.

    >>> rounded([0.12345678, float("nan"), 1.0])
    [0.123457, None, 1.0]
    """
    return [round(float(each), 6) if np.isfinite(each) else None for each in numbers]


def _risk_interval(curve: RiskCoverage, cell: Columns, clusters: Clusters | None) -> Ends:
    """The 95 % interval of the risk at each point of a risk-coverage curve.

    With clusters, points between `FINE` even ones and those that are drawn have that of the next.
    """
    images = np.round(curve.coverage * len(cell.confidence)).astype(np.int64)
    if clusters is None:
        return clopper_pearson(curve.risk, images)
    order = np.argsort(-cell.confidence, kind="stable")
    even = np.searchsorted(curve.coverage, np.linspace(0, 1, FINE))
    last = len(images) - 1
    at = np.union1d(np.minimum(even, last), _drawn(curve, len(order)))
    low, high = share_interval_so_far(
        ~cell.correct[order], Clusters(clusters.of[order]), images[at]
    )
    following = np.searchsorted(at, np.arange(len(images)))
    return low[following], high[following]


def _bins(
    confidence: FloatArray, correct: npt.NDArray[np.bool_], clusters: Clusters | None
) -> list[Row]:
    """Bins that hold images: which, mean confidence, accuracy, its interval, images."""
    bins = reliability_bins(confidence, correct, bins=BINS, clusters=clusters)
    columns = (bins.confidence, bins.accuracy, bins.accuracy_low, bins.accuracy_high)
    table = np.stack(columns, axis=1)
    return [
        [at, *rounded(table[at]), int(bins.images[at])]
        for at in np.flatnonzero(bins.images).tolist()
    ]


def _counts(confidence: FloatArray) -> list[int]:
    counts, _ = np.histogram(confidence, bins=BARS, range=(0, 1))
    return [int(count) for count in counts]


def _thinned(curve: RiskCoverage, ends: Ends, images: int) -> list[Row]:
    """Points of a curve at about even coverages, from where a few images are answered to all.

    Each is coverage, risk, and the risk's interval over the images that are answered.
    """
    at = _drawn(curve, images)
    points = np.stack([curve.coverage[at], curve.risk[at], ends[0][at], ends[1][at]], axis=1)
    return [rounded(point) for point in points]


def _drawn(curve: RiskCoverage, images: int) -> npt.NDArray[np.int64]:
    """The points of a curve that are drawn."""
    first = min(FEWEST / images, 1.0)
    at = np.unique(np.searchsorted(curve.coverage, np.linspace(first, 1, POINTS)))
    return at[at < len(curve.coverage)]


def _kept(
    confidence: FloatArray,
    correct: npt.NDArray[np.bool_],
    threshold: float,
    clusters: Clusters | None,
) -> Row:
    """What a threshold defers and how wrong the answers are, each with its interval."""
    answered = at_or_above(confidence, threshold)
    everything = np.zeros(len(confidence), dtype=np.int64)
    over = 1 - float(coverage_above(confidence, threshold))
    risk = float(risk_above(confidence, correct, threshold))
    over_ends = share_interval(~answered, everything, 1, clusters)
    risk_ends = share_interval(~correct, np.where(answered, 0, -1), 1, clusters)
    return rounded([over, *np.ravel(over_ends), risk, *np.ravel(risk_ends)])


def _by_class(cell: Columns, classes: int, clusters: Clusters | None) -> list[Row]:
    """Class, images, accuracy and its interval; of many classes only the least accurate."""
    images = np.bincount(cell.labels, minlength=classes)
    right = np.bincount(cell.labels[cell.correct], minlength=classes)
    present = np.flatnonzero(images)
    accuracy = right[present] / images[present]
    low, high = share_interval(cell.correct, cell.labels, classes, clusters)
    rows = np.stack([present, images[present], accuracy, low[present], high[present]], axis=1)
    if classes > MOST_CLASSES:
        rows = rows[np.argsort(accuracy, kind="stable")[:WORST_CLASSES]]
    return [[int(row[0]), int(row[1]), *rounded(row[2:])] for row in rows]


def _confused(cell: Columns, classes: int, *, all_of_them: bool) -> list[int]:
    """Label, prediction and count of the matrix, one after the other; the most frequent first."""
    pairs, counts = np.unique(cell.labels * classes + cell.predicted, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    if not all_of_them:
        wrong = pairs[order] // classes != pairs[order] % classes
        order = order[wrong][:CONFUSIONS]
    flat = np.stack([pairs[order] // classes, pairs[order] % classes, counts[order]], axis=1)
    return [int(number) for number in flat.ravel()]


def shows_every_level(contents: Contents) -> bool:
    """Say whether every level of every shift can be looked at; of many models that is too much."""
    cells = 1 + sum(len(sweep.cells) for sweep in contents.sweeps)
    several = any(len(sweep.cells) > 1 for sweep in contents.sweeps)
    return not several or cells * len(contents.titles) <= MOST_CELLS


def shown_cells(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Give each model with its cells that can be looked at, clean first.

    If all would be too many, it is the level of each shift with the lowest mean accuracy of all
    models, or the first one that this model has.
    """
    every = [[CLEAN], *(list(sweep.cells.values()) for sweep in contents.sweeps)]
    if shows_every_level(contents):
        yield from (
            (model, [cell for cells in every for cell in cells]) for model in contents.titles
        )
        return
    worst = {condition.cell for condition in worst_conditions(contents)}
    levels = [sorted(cells, key=lambda cell: cell not in worst) for cells in every]
    for model in contents.titles:
        seed = contents.seeds_of(model)[0]
        there = ((cell for cell in cells if contents.has(model, seed, cell)) for cells in levels)
        yield model, [cell for cells in there for cell in itertools.islice(cells, 1)]


def read_cells(contents: Contents, further: Collection[str]) -> Iterator[Read]:
    """Read the cells of every model that can be looked at, and then some further ones.

    With several seeds it is the first: bins of different trainings cannot be averaged.
    """
    for model, shown in shown_cells(contents):
        seed = contents.seeds_of(model)[0]
        for cell in dict.fromkeys([*shown, *further]):
            columns = read_cell(contents, model, seed, cell)
            if columns is not None:
                yield Read(model, cell, columns, shown=cell in shown)


def thresholds_of(contents: Contents) -> dict[str, list[float]]:
    """Give the confidence that keeps each of `RISKS` on validation images, where there are some."""
    found: dict[str, list[float]] = {}
    for model in contents.titles:
        seed = contents.seeds_of(model)[0]
        read = [read_cell(contents, model, seed, cell, VAL) for cell in contents.fitted_on(model)]
        val = [each for each in read if each is not None]
        found[model] = []
        if len(val) == len(read):
            confidence = np.concatenate([each.confidence for each in val])
            correct = np.concatenate([each.correct for each in val])
            found[model] = [threshold_at_risk(confidence, correct, risk=risk) for risk in RISKS]
    return found
