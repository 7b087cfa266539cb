"""What predictions and scores say of a model, and which numbers differ by more than chance."""

from __future__ import annotations

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
from fairweather.metrics.seeds import crossed_mean
from fairweather.metrics.table import FEWEST
from fairweather.report.contents import Contents, Sweep
from fairweather.types.measurement import Score
from fairweather.types.record import CLEAN, MEAN

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
    """Read a column of a cell, for each seed of the model: `[n, S]`; None where one is missing."""
    by_seed = [
        contents.read_columns(model, seed, cell, (column,)) for seed in contents.seeds_of(model)
    ]
    columns = [columns[0] for columns in by_seed if columns is not None]
    return np.stack(columns, axis=1) if columns and len(columns) == len(by_seed) else None


def read_correct(
    contents: Contents, model: str, cells: Mapping[str, float], images: ImageKeys
) -> FloatArray | None:
    """Read how often each image is right over some cells, for each seed of the model: `[n, S]`.

    Args:
        contents: of the run.
        model: its name.
        cells: the ids of the shifts, with their weights in the mean; these sum to 1.
        images: from `read_image_keys`.

    Returns:
        Shares in [0, 1], only 0 and 1 for one cell; None where predictions are missing.
    """
    right = np.zeros((len(images.labels), len(contents.seeds_of(model))))
    for cell, weight in cells.items():
        predicted = read_by_seed(contents, model, cell, "predicted")
        if predicted is None:
            return None
        right += (predicted == images.labels[:, None]) * weight
    return right


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


def gives_same_answers(contents: Contents, model: str, base: str) -> bool:
    """Say whether a model gives the answers of another to all images, as its scores suggest.

    False where the two have other seeds, other cells, or predictions that are missing.
    """
    seeds = contents.seeds_of(model)
    if not contents.runs or contents.seeds_of(base) != seeds:
        return False
    for cell, (shift, level) in contents.cells.items():
        mine, others = (contents.score("accuracy", name, shift, level) for name in (model, base))
        if mine != others:
            return False
        for seed in seeds if mine else ():
            answers, base_answers = (
                contents.read_columns(name, seed, cell, ("predicted",)) for name in (model, base)
            )
            if (
                answers is None
                or base_answers is None
                or not np.array_equal(answers[0], base_answers[0])
            ):
                return False
    return True


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


class CalibrationSummary(NamedTuple):
    """Mean confidence − accuracy, and the RMS calibration error, of a model on some images."""

    gap: Score
    rms: Score


class Performance(NamedTuple):
    """What the scores say of a model on one set of images; None where they say nothing.

    Attributes:
        accuracy: the share of right answers.
        gap: mean confidence − accuracy.
        rms: the RMS calibration error.
        coverage, risk: above the threshold for 5 % errors on validation images.
        auc: the mean over classes of the area under the ROC curve.
        seeds: how many trainings these are means over.
        grouped: whether images belong together in groups.
    """

    accuracy: Score
    gap: Score | None = None
    rms: Score | None = None
    coverage: Score | None = None
    risk: Score | None = None
    auc: Score | None = None
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

    @property
    def calibration(self) -> CalibrationSummary | None:
        """Gap and calibration error, where both are known."""
        return CalibrationSummary(self.gap, self.rms) if self.gap and self.rms else None


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


def read_performance(
    contents: Contents, model: str, shift: str, level: str, seed: str | None = None
) -> Performance | None:
    """Read what the scores say of a model at one level of a shift; None without an accuracy.

    They are those of the shown seed, unless another one is asked for.
    """
    accuracy = contents.score("accuracy", model, shift, level, seed)
    if accuracy is None:
        return None
    names = ("confidence_gap", "rms_calibration_error", COVERAGE, RISK, "macro_auc")
    gap, rms, coverage, risk, auc = (
        contents.score(name, model, shift, level, seed) for name in names
    )
    seeds = len(contents.seeds_of(model)) if seed is None else 1
    grouped = contents.grouping is not None
    return Performance(accuracy, gap, rms, coverage, risk, auc, seeds, grouped)


class PairedChange(NamedTuple):
    """From clean images to the lowest accuracy, on the same images; without fields, not known.

    Attributes:
        accuracy, gap: second minus first, of accuracy and of mean confidence − accuracy.
        p: of the test of equal accuracy, corrected for the number of sets that were looked at.
    """

    accuracy: Score | None = None
    gap: Score | None = None
    p: float = 1.0


NO_SHIFTS, UNKNOWN_CHANGE = WorstLevels(), PairedChange()


@dataclass(frozen=True)
class ModelOutcome:
    """What becomes of a model from clean images to its lowest accuracy.

    Attributes:
        title: of the model.
        clean: on clean images.
        worst: its lowest accuracy under each shift and attack.
        change: from clean images to the lowest accuracy of all.
        chance: the share of the most frequent class; None where it is not known.
    """

    title: str
    clean: Performance
    worst: WorstLevels = NO_SHIFTS
    change: PairedChange = UNKNOWN_CHANGE
    chance: float | None = None

    @property
    def there(self) -> Performance | None:
        """Where accuracy is lowest; None where no shift was tested."""
        focus = self.worst.focus
        return focus and focus.performance

    @property
    def worst_performance(self) -> Performance:
        """Where accuracy is lowest, or on clean images."""
        return self.there or self.clean

    @property
    def calibration(self) -> CalibrationSummary | None:
        """Of where accuracy is lowest."""
        return self.there and self.there.calibration

    @property
    def deferring(self) -> Performance | None:
        """Where accuracy is lowest, if it is known what the model defers there."""
        there = self.there
        return there if there and there.coverage and there.risk else None

    @property
    def starts_at_chance(self) -> bool:
        """Whether the model may be no better than the most common answer on clean images."""
        return self.chance is not None and self.clean.accuracy.low <= self.chance

    @property
    def way(self) -> int:
        """−1 where accuracy is found to fall, 1 where it is found to rise, else 0.

        Of one set of images the interval of the difference decides. The lowest of several is lower
        by luck alone: there the test, corrected for their number, must find a loss too.
        """
        if self.there is None:
            return 0
        way = find_direction(self.clean.accuracy, self.there.accuracy, self.change.accuracy)
        tested = self.worst.searched > 1 and self.change.accuracy is not None
        return 0 if way < 0 and tested and self.change.p >= SIGNIFICANCE else way

    @property
    def gap(self) -> Score | None:
        """Mean confidence − accuracy there, its interval widened for all sets searched."""
        gap = self.there and self.there.gap
        return widen_interval(gap, self.worst.searched) if gap else self.clean.gap

    @property
    def side(self) -> int:
        """1 where the model is found overconfident there, −1 where underconfident, else 0."""
        return find_sign(self.gap) if self.gap else 0

    @property
    def gap_way(self) -> int:
        """1 where the gap is found larger there than on clean images, −1 where smaller, else 0."""
        change, clean, gap = self.change.gap, self.clean.gap, self.gap
        if clean is None or gap is None:
            return 0
        return find_direction(clean, gap, change and widen_interval(change, self.worst.searched))


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


def find_direction(first: Score, second: Score, difference: Score | None) -> int:
    """Say whether the second number is larger (1), smaller (−1), or not found to differ (0).

    By the interval of the paired difference where there is one, else by whether theirs overlap.

    >>> near, far = Score(0.9, 0.88, 0.92, 100), Score(0.8, 0.78, 0.82, 100)
    >>> find_direction(near, far, None), find_direction(near, far, Score(-0.1, -0.21, 0.01, 100))
    (-1, 0)
    """
    if difference is None:
        return int(second.low > first.high) - int(second.high < first.low)
    return find_sign(difference)


def find_sign(score: Score) -> int:
    """Say whether a number is above 0 (1), below (−1), or neither is found (0), by its interval.

    >>> find_sign(Score(0.1, 0.05, 0.2, 100)), find_sign(Score(0.1, -0.05, 0.2, 100))
    (1, 0)
    """
    return int(score.low > 0) - int(score.high < 0)


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
