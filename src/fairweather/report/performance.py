"""What predictions and scores say of a model, and which numbers differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.special  # scipy.stats takes half a second to import

from fairweather.metrics import Estimate, estimate_means, mcnemar_exact, recipe_estimate
from fairweather.metrics.columns import Z95, softmax
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.metric import IntervalKind
from fairweather.metrics.seeds import crossed_mean, stack_seeds
from fairweather.metrics.table import FEWEST
from fairweather.report.contents import Contents, Sweep
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import CLEAN, MEAN, NO_LEVEL

# ---------------------------------------------------------------- right answers, and tests

FloatArray = npt.NDArray[np.float64]
# Random swaps behind a p-value: at least so many, and then more until so many were as far, which
# leaves a p-value an error of 5 %.
SWAPS, ENOUGH_EXTREME = 1_999, 400
# They end with so many, or earlier by the number of images that are swapped, but not before so many
# for each test that is corrected for, so that the smallest p-value stays far below 5 % after it.
MOST_SWAPS, MOST_IMAGES, SWAPS_A_TEST = 99_999, 10**8, 100
# Swaps of images that are drawn at once, and how many of them are in float64 at once: 1 MB, which
# stays in the processor's cache (a third of the time for 300 and for 2,000 images), but no fewer
# than some rows, since all columns are read again each time.
SWAPS_AT_ONCE, CACHED_NUMBERS, FEWEST_ROWS = 2**22, 2**17, 16
# What rounding may take off a sum of many shares; sums that differ do so by far more.
ROUNDING = 1e-9


class PairTests(NamedTuple):
    """What tests of pairs find.

    Attributes:
        p: a p-value a pair, in (0, 1].
        bound: bool, where no swap was as far, so that a larger number of them makes p smaller.
        exact: whether McNemar's test counted all swaps, instead of some at random.
    """

    p: FloatArray
    bound: npt.NDArray[np.bool_]
    exact: bool


class ImageKeys(NamedTuple):
    """What identifies test images: int64 `[n]` each, in the order of the predictions."""

    keys: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def read_image_keys(contents: Contents) -> ImageKeys | None:
    """Read which images all models were tested on, the same ones in the same order.

    Scoring has made sure that all cells of a run are of the same images; so only those of clean
    images are looked at. None where the models were tested on others than each other, or where
    predictions are missing.
    """
    first = None
    for model in contents.titles if contents.runs else ():
        seed = contents.seeds_of(model)[0]
        columns = contents.read_columns(model, seed, CLEAN, ("keys", "labels"))
        first = first or (ImageKeys(*columns) if columns else None)
        if columns is None or first is None or not all(map(np.array_equal, columns, first)):
            return None
    return first


def read_by_seed(contents: Contents, model: str, cell: str, column: str) -> FloatArray | None:
    """Read a column of a cell as `stack_seeds` stacks it, `[n, S]`; None where one is missing."""
    seeds = contents.seeds_of(model)
    by_seed = [contents.read_stream_columns(model, seed, cell, (column,)) for seed in seeds]
    streams = [columns[0] for columns in by_seed if columns is not None]
    return stack_seeds(streams) if streams and len(streams) == len(by_seed) else None


def read_correct(
    contents: Contents, model: str, cells: Mapping[str, float], images: ImageKeys
) -> FloatArray | None:
    """Read how often each image is right over some cells, for each seed of the model: `[n, S]`.

    If a model adapts, a single seed has its streams in their place (`stack_seeds`).

    Args:
        contents: of the run.
        model: its name.
        cells: the ids of the shifts, with their weights in the mean; these sum to 1.
        images: from `read_image_keys`.

    Returns:
        Shares in [0, 1], only 0 and 1 for one cell of a model that does not adapt; None where
        predictions are missing.
    """
    by_seed: list[FloatArray] = []
    for seed in contents.seeds_of(model):
        right: FloatArray = np.zeros((1, len(images.labels)))
        for cell, weight in cells.items():
            read = contents.read_stream_columns(model, seed, cell, ("predicted",))
            if read is None:
                return None
            right = right + (read[0] == images.labels) * weight
        by_seed.append(right)
    return stack_seeds(by_seed)


def find_shared_cells(contents: Contents, models: Iterable[str]) -> dict[str, float]:
    """The shifted cells that all of these models have, with their weights in the mean over shifts.

    The mean is over the levels of each shift and then over shifts, attacks left out.
    """
    names = list(models)
    shared = [
        [
            cell
            for level, cell in sweep.cells.items()
            if all(contents.score("accuracy", name, sweep.name, level) for name in names)
        ]
        for sweep in contents.sweeps
        if not sweep.is_attack
    ]
    kept = [cells for cells in shared if cells]
    return {cell: 1 / (len(kept) * len(cells)) for cells in kept for cell in cells}


def estimate_seed_means(
    columns: Sequence[FloatArray],
    resamples: int,
    grouping: Grouping | None,
    kinds: Iterable[IntervalKind] = repeat("share"),
) -> list[Estimate]:
    """Estimate the mean of each of some columns, `[n, S]`, over images (or groups) and seeds.

    All are estimated on the same resamples, so that they can be compared.
    """
    every = np.concatenate(columns, axis=1)
    of_each = zip(columns, kinds, strict=False)
    intervals = [kind for column, kind in of_each for _ in range(column.shape[1])]
    by_seed = iter(estimate_means(every, intervals, resamples, grouping=grouping))
    return [recipe_estimate(list(islice(by_seed, column.shape[1]))) for column in columns]


def compare_pairs(
    columns: FloatArray,
    pairs: Sequence[tuple[int, int]],
    tests: int,
    generator: np.random.Generator,
) -> PairTests:
    """Test for each pair of columns whether they are equally often right on the same images.

    If two columns differ by chance alone, each image's two numbers could as well have been
    swapped. Where every number is 0 or 1, how many swaps differ at least as much is counted
    exactly: that is McNemar's test. Otherwise (shares over cells or seeds) it is counted among
    random swaps, with the one that was found among them, so that p is never too small by chance of
    their number; the fewer are as far, the more are drawn. It is two-sided, and needs neither bins
    nor a normal distribution.

    Args:
        columns: float `[n, columns]` in [0, 1].
        pairs: numbers of two columns each.
        tests: for how many tests the p-values will be corrected.
        generator: of the random swaps.

    Source: Fisher 1935, The Design of Experiments, section 21, for the swaps; Phipson and Smyth
    2010, Permutation P-values Should Never Be Zero, for counting the one that was found; Besag and
    Clifford 1991, Sequential Monte Carlo p-values, for drawing until enough are as far.

    >>> columns = np.array([[1, 0]] * 6 + [[0, 1]] + [[0, 0]])
    >>> compare_pairs(columns, [(0, 1)], 1, np.random.default_rng(0)).p.tolist()
    [0.125]
    """
    if np.isin(columns, (0, 1)).all():
        p = [mcnemar_exact(columns[:, a] > 0, columns[:, b] > 0).p for a, b in pairs]
        return PairTests(np.array(p), np.zeros(len(pairs), dtype=bool), True)
    unlike = np.asarray(columns[np.ptp(columns, axis=1) > 0], dtype=np.float64)
    most = min(MOST_SWAPS, MOST_IMAGES // max(1, len(unlike)))
    return _compare_by_swaps(unlike, pairs, max(SWAPS, SWAPS_A_TEST * tests, most), generator)


def _compare_by_swaps(
    columns: FloatArray,
    pairs: Sequence[tuple[int, int]],
    most: int,
    generator: np.random.Generator,
) -> PairTests:
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    total = columns.sum(axis=0)
    measured = np.abs(total[first] - total[second]) * (1 - ROUNDING) - ROUNDING
    as_far, drawn = np.zeros((2, len(pairs)))
    left, done = np.arange(len(pairs)), 0
    while len(left) and done < most:
        # No pair is done before a first round, which is as long however many images there are.
        ends = SWAPS if done < SWAPS else most
        count = min(max(1, SWAPS_AT_ONCE // max(1, len(columns))), ends - done)
        bits = generator.integers(256, size=(count, -(-len(columns) // 8)), dtype=np.uint8)
        # The swapped images count with one sign, the others with the other.
        sums = 2 * _sum_swapped(bits, columns) - total
        far = np.abs(sums[:, first[left]] - sums[:, second[left]]) >= measured[left]
        done += count
        as_far[left] += far.sum(axis=0)
        drawn[left] = done
        left = left[as_far[left] < ENOUGH_EXTREME] if done >= SWAPS else left
    return PairTests((1 + as_far) / (1 + drawn), as_far == 0, False)


def _sum_swapped(bits: npt.NDArray[np.uint8], columns: FloatArray) -> FloatArray:
    """Sum each column over the images whose bit is set: `[count, n / 8]` to `[count, columns]`."""
    step = max(FEWEST_ROWS, CACHED_NUMBERS // max(1, len(columns)))
    return np.concatenate(
        [
            np.unpackbits(bits[at : at + step], axis=1, count=len(columns)).astype(np.float64)
            @ columns
            for at in range(0, len(bits), step)
        ]
    )


# ---------------------------------------------------------------- performance

SIGNIFICANCE = 0.05  # of the tests
COVERAGE = "coverage_above_validation_threshold/0.05"
RISK = "risk_above_validation_threshold/0.05"
_COUNT_WORDS = dict(enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine"), 2))


class Performance(NamedTuple):
    """What the scores say of a model on one set of images; None where they say nothing.

    Attributes:
        accuracy: the share of right answers.
        gap: mean confidence − accuracy.
        confidence: its mean.
        seeds: how many trainings these are means over.
        grouped: whether images belong together in groups.
    """

    accuracy: Score
    gap: Score | None = None
    confidence: Score | None = None
    seeds: int = 1
    grouped: bool = False

    @property
    def evidence(self) -> str:
        """What the intervals rest on: the seeds, if there are several, else the images.

        >>> [Performance(Score(0.9, 0.8, 1.0, 99), seeds=seeds).evidence for seeds in (1, 3)]
        ['these images', 'three seeds']
        """
        if self.seeds > 1:
            return f"{_COUNT_WORDS.get(self.seeds, self.seeds)} seeds"
        return "these groups of images" if self.grouped else "these images"


class WorstLevel(NamedTuple):
    """The level of a shift, or of an attack, at which a model's accuracy is lowest.

    Attributes:
        sweep, level: which.
        performance: there.
        mean: accuracy over all levels.
        levels: how many there are.
    """

    sweep: Sweep
    level: str
    performance: Performance
    mean: Score | None
    levels: int

    @property
    def is_flat(self) -> bool:
        """Whether accuracy is the same at each of several levels."""
        lowest = self.performance.accuracy.value
        return self.levels > 1 and self.mean is not None and math.isclose(self.mean.value, lowest)


class WorstLevels(NamedTuple):
    """A model's lowest accuracy under each shift and under each attack."""

    shifts: Sequence[WorstLevel] = ()
    attacks: Sequence[WorstLevel] = ()

    @property
    def main(self) -> Sequence[WorstLevel]:
        """Those under shifts, or under attacks where there is no shift."""
        return self.shifts or self.attacks

    @property
    def focus(self) -> WorstLevel | None:
        """The lowest accuracy of all."""
        return find_lowest(self.main)

    @property
    def searched(self) -> int:
        """Count the sets of images among which the focus is the lowest."""
        return sum(low.levels for low in self.main)

    @property
    def is_flat(self) -> bool:
        """Whether accuracy is the same at each of several levels of all shifts."""
        values = [low.performance.accuracy.value for low in self.main]
        alike = all(low.is_flat or low.levels == 1 for low in self.main)
        return self.searched > 1 and alike and math.isclose(min(values), max(values))


def find_lowest(lows: Sequence[WorstLevel]) -> WorstLevel | None:
    """Return the level with the lowest accuracy of all, None where there is none."""
    return min(lows, key=lambda low: low.performance.accuracy.value, default=None)


def find_worst_levels(contents: Contents, model: str) -> WorstLevels:
    """Find the level of each shift and of each attack at which a model's accuracy is lowest."""
    lows: dict[str, list[WorstLevel]] = {"shift": [], "attack": []}
    for sweep in contents.sweeps:
        levels = [
            (level, performance)
            for level in sweep.cells
            if (performance := read_performance(contents, model, sweep.name, level))
        ]
        if levels:
            level, worst = min(levels, key=lambda at_level: at_level[1].accuracy.value)
            mean = contents.score("accuracy", model, sweep.name, MEAN)
            lows[sweep.kind].append(WorstLevel(sweep, level, worst, mean, len(levels)))
    return WorstLevels(lows["shift"], lows["attack"])


def read_performance(contents: Contents, model: str, shift: str, level: str) -> Performance | None:
    """Read what the scores say of a model at one level of a shift; None without an accuracy."""
    accuracy, gap, confidence = (
        contents.score(name, model, shift, level)
        for name in ("accuracy", "confidence_gap", "average_confidence")
    )
    if accuracy is None:
        return None
    if gap is not None and confidence is None:  # scores of an earlier version
        confidence = Score(accuracy.value + gap.value, math.nan, math.nan, gap.n)
    seeds, grouped = len(contents.seeds_of(model)), contents.grouping is not None
    return Performance(accuracy, gap, confidence, seeds, grouped)


@dataclass(frozen=True)
class ModelOutcome:
    """What becomes of a model from clean images to its lowest accuracy.

    Attributes:
        title: of the model.
        clean: on clean images.
        worst: its lowest accuracy under each shift and attack.
        chance: the share of the most frequent class; None where it is not known.
        p: of the paired test of equal accuracy on clean images and at the lowest of all, corrected
            for the number of sets that were looked at; None without predictions to pair.
    """

    title: str
    clean: Performance
    worst: WorstLevels
    chance: float | None = None
    p: float | None = None

    @property
    def falls(self) -> bool:
        """Whether the lowest accuracy of all is confirmed to be lower than that on clean images."""
        low = self.worst.focus
        if low is None or low.performance.accuracy.value >= self.clean.accuracy.value:
            return False
        if self.p is None:
            return self._widen(low.performance.accuracy).high < self.clean.accuracy.low
        return self.p < SIGNIFICANCE

    def sign(self, gap: Score) -> int:
        """1 where mean confidence is confirmed to be too high, −1 where too low, else 0."""
        wide = self._widen(gap)
        return int(wide.low > 0) - int(wide.high < 0)

    def _widen(self, score: Score) -> Score:
        return widen_interval(score, max(1, self.worst.searched))


def read_outcome(contents: Contents, model: str) -> ModelOutcome | None:
    """Read what becomes of a model; None where it was not tested on clean images."""
    clean = read_performance(contents, model, CLEAN, NO_LEVEL)
    if clean is None:
        return None
    images = contents.once(read_image_keys) if Predictions.kind in contents.kinds else None
    chance = np.bincount(images.labels).max() / len(images.labels) if images else None
    worst = find_worst_levels(contents, model)
    p = _test_fall(contents, model, worst, images) if images and worst.focus else None
    return ModelOutcome(contents.titles[model], clean, worst, chance, p)


def _test_fall(
    contents: Contents, model: str, worst: WorstLevels, images: ImageKeys
) -> float | None:
    """Test whether the same trained networks are as often right clean and at their worst."""
    assert worst.focus is not None
    cells = (CLEAN, worst.focus.sweep.cells[worst.focus.level])
    clean, there = (read_correct(contents, model, {cell: 1.0}, images) for cell in cells)
    if clean is None or there is None:
        return None
    if clean.shape[1] > 1 or contents.grouping is not None:
        p = crossed_mean(there - clean, contents.grouping).p
    else:
        p = mcnemar_exact(clean[:, 0] > 0, there[:, 0] > 0).p
    return min(1.0, p * worst.searched)


def widen_interval(score: Score, searched: int) -> Score:
    """Widen an interval to that of one of several numbers, which all hold theirs in 95 %.

    By Bonferroni's correction: it becomes one of 100 − 5 / `searched` %, as the tails of a normal
    distribution have it on either side. That is near enough for means over many images, and needs
    no more resamples than the interval itself.

    >>> wide = widen_interval(Score(0.1, 0.0, 0.2, 100), 20)
    >>> round(wide.low, 3), round(wide.high, 3)
    (-0.054, 0.254)
    """
    factor = float(scipy.special.ndtri(1 - SIGNIFICANCE / 2 / searched)) / Z95
    value, low, high, n = score
    return Score(value, value - factor * (value - low), value + factor * (high - value), n)


# ---------------------------------------------------------------- class shares

LEAST_DIFFERENCE = 0.01  # a smaller difference is no finding, however many images confirm it


class ClassShare(NamedTuple):
    """A class whose mean probability differs from its share of the images.

    Attributes:
        name: of the class.
        probability: its mean over all images and seeds.
        share: of the images that are of it.
    """

    name: str
    probability: float
    share: float


def find_miscalibrated_class(
    contents: Contents, model: str, cell: str, searched: int
) -> ClassShare | None:
    """Find the class whose mean probability is farthest from its share of the images of a cell.

    The largest probability may be right on average while those of a class are not: of two classes,
    one half too probable is surer where it is wrong and less sure where it is right.

    Args:
        contents: of the run.
        model: its name.
        cell: the id of the shift.
        searched: among how many sets of images this one was chosen.

    Returns:
        None where no class differs by more than `LEAST_DIFFERENCE` and with p below `SIGNIFICANCE`,
        by the t-test of `crossed_mean`, after Bonferroni's correction over classes and sets of
        images; classes of few images are left out. None too without stored probabilities of all.
    """
    seeds = contents.seeds_of(model)
    read = [contents.read_predictions(model, seed, cell) for seed in seeds] if contents.runs else []
    known = [predictions for predictions in read if predictions is not None]
    logits = [predictions.logits for predictions in known if predictions.logits is not None]
    if not logits or len(logits) < len(read) or read[0] is None:
        return None
    labels, names = read[0].labels, read[0].classes
    probabilities = np.stack([softmax(of_seed) for of_seed in logits], axis=2)
    counts = np.bincount(labels, minlength=len(names))
    tests = searched * (len(names) if len(names) > 2 else 1)
    off = []
    for at in np.flatnonzero(np.minimum(counts, len(labels) - counts) >= FEWEST):
        gaps = probabilities[:, at] - (labels == at)[:, None]
        mean_gap = crossed_mean(gaps, contents.grouping)
        if abs(mean_gap.value) > LEAST_DIFFERENCE and mean_gap.p * tests < SIGNIFICANCE:
            share = counts[at] / len(labels)
            # Of two classes, both are as far off, and the rarer one is told.
            off.append((round(abs(mean_gap.value), 9), -share, share + mean_gap.value, at))
    if not off:
        return None
    _, share, probability, at = max(off)
    return ClassShare(names[at], probability, -share)
